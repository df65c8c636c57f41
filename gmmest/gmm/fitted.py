"""What a fit leaves behind: the arrays at the estimate, and what they were made from.

Tests, functions of the estimate and diagnostics take these two records; they know no results and no
estimator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.backends import Backend
from gmmest.execution.serial import Executor
from gmmest.execution.threads import afterwards
from gmmest.gmm.moments import Moments
from gmmest.gmm.weighting import CovarianceOptions, MomentCovariance, Weight, moment_covariance, read_only
from gmmest.models.sample import MomentModel, Sample

__all__ = ["Context", "Estimate"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Arrays at the estimate: theta (P,), g (M,), G (M, P), the W minimised, S there, and V (P, P)."""

    theta: Array
    moments: Array
    jacobian: Array
    weight: Weight
    s: MomentCovariance
    v: Array

    def __post_init__(self) -> None:
        for name in ("theta", "moments", "jacobian", "v"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Context:
    """What an estimate was made from: enough to evaluate its moments and their covariance elsewhere.

    Parameters
    ----------
    model : MomentModel
    sample : Sample
        The data as the model saw them; not copied.
    weighting : CovarianceOptions
        The estimator of S.
    grad : str or Backend
    executor : str or Executor
    optimizer : str
    maxiter : int, optional
    """

    model: MomentModel
    sample: Sample
    weighting: CovarianceOptions
    grad: str | Backend
    executor: str | Executor
    optimizer: str
    maxiter: int | None

    def moments(self) -> Moments:
        """Moments with derivatives, as the fit had them; on threads where its workers are gone."""
        return Moments(self.model, self.sample, self.grad, afterwards(self.executor))

    def covariance(self, moments: Moments, theta: Array) -> MomentCovariance:
        """S at theta, by the fit's own estimator; one pass."""
        return moment_covariance(moments, theta, self.weighting)
