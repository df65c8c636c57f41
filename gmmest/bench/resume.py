"""Part g: a fit that was killed goes on from its journal and ends with the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from gmmest.bench.choices import Choices, draw
from gmmest.bench.figures import Bar, Figure, at_most
from gmmest.bench.measure import alone
from gmmest.data.choice_data import ChoiceData
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.logit import Logit

__all__ = ["resume"]

PART = "g"
SHAPE, TINY = (2_000, 5, 4), (200, 4, 2)


def resume(quick: bool, place: Path) -> list[Figure]:
    """The process is killed at each of its evaluations in turn; two-step GMM with more moments than parameters."""
    what, bar = "resumed fits with other bits", at_most(0)
    if not hasattr(os, "fork"):
        return [Figure(PART, what, "SIGKILL", "", (), bar=bar, note="this system has no fork")]
    draw(*(TINY if quick else SHAPE)).save(place)
    return [alone(_killed_and_resumed, quick, place, what, bar)]


def _killed_and_resumed(quick: bool, place: Path, what: str, bar: Bar) -> Figure:
    choices = Choices.load(place)
    whole, evaluations = _fit(choices, place / "journal")
    kills = range(1, evaluations + 1, max(1, evaluations // 3) if quick else 1)
    different = [kill for kill in kills if _after(kill, choices, place / f"journal-{kill}") != whole]
    note = f"other bits after evaluation {', '.join(map(str, different))}" if different else ""
    label = f"SIGKILL at {len(kills)} of {evaluations} evaluations"
    return Figure(PART, what, label, "", (float(len(different)),), bar=bar, note=note)


def _after(kill: int, choices: Choices, journal: Path) -> bytes:
    """Bits of a fit that goes on where a child was killed."""
    child = os.fork()
    if child == 0:
        try:
            _fit(choices, journal, kill)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError(f"the fit was not killed at evaluation {kill}")
    return _fit(choices, journal)[0]


def _fit(choices: Choices, journal: Path, kill: int | None = None) -> tuple[bytes, int]:
    """Bits of a fit, and how often it passed over the data."""
    data = ChoiceData.from_arrays(
        features=choices.features,
        chosen=choices.chosen,
        offsets=choices.offsets,
        instruments=np.concatenate([choices.features, choices.features**2], axis=1),
    )

    def watch(evaluation: int) -> None:
        if evaluation == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    result = GMMEstimator(Logit(), data, executor="serial").fit(watch=watch, journal=journal)
    return result.theta.tobytes() + np.asarray(result.cov_params()).tobytes(), result.work.evaluations
