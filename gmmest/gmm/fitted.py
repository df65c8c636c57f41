"""What a fit leaves behind: the arrays at the estimate, what they were made from, and how.

Tests, functions of the estimate and diagnostics take the first two records; they know no results and no
estimator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.derivatives.backends import Backend
from gmmest.errors import Complaint, EstimationError
from gmmest.execution.serial import Executor
from gmmest.execution.threads import afterwards
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.moments import Moments
from gmmest.gmm.weighting import MomentCovariance, Weight, moment_covariance
from gmmest.models.sample import MomentModel, Sample

__all__ = ["MAX_STEPS", "STEPS", "Context", "Estimate", "Settings", "StepsName", "Work", "present"]

Array = NDArray[np.float64]
StepsName = Literal["twostep", "onestep", "iterated", "cue"]
STEPS: tuple[StepsName, ...] = get_args(StepsName)

MAX_STEPS = 100
"""Steps at most of an iterated fit, where nothing is said."""


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
        freeze(self, "theta", "moments", "jacobian", "v")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the estimate was made; ``grad`` is the engine that made the derivatives."""

    model: str
    steps: StepsName
    initial: str
    se: str
    grad: str
    optimizer: str
    max_steps: int = MAX_STEPS


@dataclass(frozen=True, slots=True)
class Work:
    """What it took: passes over the data, and seconds.

    Then the steps taken, the starts of each, and how many of the passes came from a journal.
    """

    evaluations: int
    seconds: float
    steps: int = 1
    starts: int = 1
    resumed: int = 0


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
    memory : int, optional
        Bytes that the process may hold in all.
    """

    model: MomentModel
    sample: Sample
    weighting: CovarianceOptions
    grad: str | Backend
    executor: str | Executor
    optimizer: str
    maxiter: int | None
    memory: int | None = None

    def moments(self) -> Moments:
        """Moments with derivatives, as the fit had them; on threads where its workers are gone."""
        return Moments(self.model, self.sample, self.grad, afterwards(self.executor))

    def covariance(self, moments: Moments, theta: Array) -> MomentCovariance:
        """S at theta, by the fit's own estimator; one pass."""
        return moment_covariance(moments, theta, self.weighting)


def present(context: Context | None) -> Context:
    """The context of results that must have one (E430)."""
    if context is None:
        raise EstimationError(
            Complaint("E430", "these results have lost their model and data", next="fit again")
        )
    return context
