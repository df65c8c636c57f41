"""A fit in terms of its free parameters, for tests that estimate again.

Where parameters are fixed, tied or at a bound, ``theta = T phi + t0``; hypotheses ``R theta = q`` are then
``R T phi = q - R t0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import Complaint, ConfigError, printable
from gmmest.gmm.fitted import Context, Estimate, present
from gmmest.gmm.hypotheses import require_independent
from gmmest.gmm.parameters import Parameters, restricted
from gmmest.gmm.specification import SpecificationTest

__all__ = ["FreeFit", "free_fit"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FreeFit:
    """Context and estimate of the free parameters phi.

    Parameters
    ----------
    context : Context
        Model and sample as functions of phi.
    estimate : Estimate
        phi, and its covariance; moments, G, S and W are the fit's.
    parameters : Parameters or None
        None where all are free.
    """

    context: Context
    estimate: Estimate
    parameters: Parameters | None

    def restriction(self, matrix: Array, value: Array, text: str) -> tuple[Array, Array, str]:
        """``R T`` and ``q - R t0``; equations about held parameters alone are refused."""
        if self.parameters is None:
            return matrix, value, text
        free = matrix @ self.parameters.transform
        require_independent(free, "the hypothesis, for the parameters that are free")
        return free, value - matrix @ self.parameters.constant, text

    def require_free(self, name: str) -> str:
        """The name, refused with what holds it if it is not free."""
        if self.parameters is not None and name in self.parameters.names and name not in self.parameters.free:
            mark = self.parameters.marks[self.parameters.names.index(name)]
            raise ConfigError(
                Complaint(
                    "E102", f"{printable(name)} is not free: {printable(mark)}; a free parameter was expected"
                )
            )
        return name

    def values(self, given: Mapping[str, float]) -> Mapping[str, float]:
        """Values by name, none of them of a held parameter."""
        for name in given:
            self.require_free(name)
        return given

    def covariance(self, v: Array) -> Array:
        """V of all parameters from that of the free ones."""
        return v if self.parameters is None else self.parameters.covariance(v)

    def whole(self, test: SpecificationTest) -> SpecificationTest:
        """A test with its theta for all parameters."""
        return test if self.parameters is None else replace(test, theta=self.parameters.theta(test.theta))


def free_fit(context: Context | None, estimate: Estimate, parameters: Parameters | None) -> FreeFit:
    """The fit of the free parameters.

    Parameters
    ----------
    context : Context or None
    estimate : Estimate
        theta (P,) and V (P, P) of all parameters, G (M, F) of the free ones.
    parameters : Parameters or None

    Returns
    -------
    FreeFit

    Raises
    ------
    EstimationError
        E430: there is no context.
    """
    context = present(context)
    if parameters is None or parameters.all_free:
        return FreeFit(context, estimate, None)
    model, sample = restricted(context.model, context.sample, parameters)
    index = [parameters.names.index(name) for name in parameters.free]
    part = replace(estimate, theta=parameters.phi(estimate.theta), v=estimate.v[np.ix_(index, index)])
    return FreeFit(replace(context, model=model, sample=sample), part, parameters)
