"""The criterion ``Q(theta) = g'Wg`` for optimisers: as residuals ``L'g`` and as a scalar.

Optimisers see scaled parameters z with ``theta = scale * z`` and ``sqrt(N) L'g``, whose sum of squares
is N Q; powers of two make the scaling exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.gmm.moments import Moments
from gmmest.gmm.units import column_norms
from gmmest.gmm.weighting import Weight

__all__ = ["Criterion", "power_of_two_scale"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One step's criterion.

    Parameters
    ----------
    moments : Moments
    weight : Weight
    scale : array (P,)
        Powers of two.
    square : bool
        Whether passes for the Jacobian sum the squares of the contributions too: near a minimum, where S is
        wanted next.
    """

    moments: Moments
    weight: Weight
    scale: Array
    square: bool = False

    @property
    def root_n(self) -> float:
        """``sqrt(N)``."""
        return float(np.sqrt(self.moments.sample.n_obs))

    def residuals(self, z: Array) -> Array:
        """``sqrt(N) L'g``, (M,)."""
        return self.root_n * self.weight.whiten(self.moments.value(self.scale * z))

    def residuals_and_jacobian(self, z: Array) -> tuple[Array, Array]:
        """The same with its Jacobian with respect to z, (M, P)."""
        value, jacobian = self.moments.value_and_jacobian(self.scale * z, self.square)
        return self.root_n * self.weight.whiten(value), self.root_n * self.weight.whiten(
            jacobian
        ) * self.scale

    def value(self, z: Array) -> float:
        """``N Q``."""
        residuals = self.residuals(z)
        return float(residuals @ residuals)

    def value_and_gradient(self, z: Array) -> tuple[float, Array]:
        """``N Q`` and its gradient ``2 N G'Wg`` with respect to z."""
        value, vjp = self.moments.value_and_vjp(self.scale * z)
        n = self.moments.sample.n_obs
        pulled = vjp(self.weight.apply(value))
        white = self.weight.whiten(value)
        return n * float(white @ white), 2.0 * n * self.scale * pulled

    def weight_at(self, theta: Array) -> Weight:
        """W, the same everywhere."""
        return self.weight


def power_of_two_scale(jacobian: Array) -> Array:
    """Powers of two that bring the columns of a Jacobian to a norm between 1 and 2.

    Examples
    --------
    >>> power_of_two_scale(np.array([[3.0, 0.001]]))
    array([5.000e-01, 1.024e+03])
    """
    norms = column_norms(jacobian)
    scale: Array = np.exp2(-np.floor(np.log2(np.where(np.isfinite(norms), norms, 1.0))))
    return scale
