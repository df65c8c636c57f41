"""Passes over choices as a fit makes them: the sample, the moments over it, and sums at a theta that moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.bench.choices import Choices
from gmmest.data.block import block_ranges
from gmmest.data.choice_data import ChoiceData
from gmmest.execution.serial import Executor
from gmmest.gmm.moments import Moments
from gmmest.models.logit import Logit
from gmmest.models.sample import Sample

__all__ = ["recut", "sample_of", "sums"]

Array = NDArray[np.float64]


def sample_of(choices: Choices, instruments: Array | None = None) -> Sample:
    """The data as the model sees them, cut as it cuts them."""
    data = ChoiceData.from_arrays(
        features=choices.features, chosen=choices.chosen, offsets=choices.offsets, instruments=instruments
    )
    return Logit().sample(data)


def recut(sample: Sample, rows: int) -> Sample:
    """The same sample in blocks of about so many rows."""
    whole = sample.whole().blocks[0]
    pieces = block_ranges(whole.offsets, rows)
    blocks = tuple(whole.part(start, stop) for start, stop in pieces)
    return replace(sample, blocks=blocks, counts=tuple(block.n_sets for block in blocks))


def sums(
    sample: Sample, executor: Executor, *, jacobian: bool = True, square: bool = True
) -> Callable[[], Any]:
    """A pass for g, with G and S unless they are declined, at another theta each time.

    The caller keeps BLAS at one thread.
    """
    moments = Moments(Logit(), sample, "analytic", executor)
    turn = 0

    def once() -> Any:
        nonlocal turn
        turn += 1
        theta = np.full(len(sample.names), 0.1 + 1e-9 * turn)  # what is known at one theta is kept
        if not jacobian:
            return moments.value(theta)
        found = moments.value_and_jacobian(theta, square)
        return (*found, moments.square(theta)) if square else found

    return once
