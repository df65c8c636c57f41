"""Part b: one pass for g, G and S against reading the features once, and against what the processor can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from gmmest.bench.choices import draw
from gmmest.bench.figures import Bar, Figure, at_most
from gmmest.bench.measure import alone, race, ratios
from gmmest.bench.passes import sample_of, sums
from gmmest.execution.serial import Serial, single_blas_thread

__all__ = ["one_pass"]

PART = "b"
SHAPES, TINY = ((100_000, 10, 20), (100_000, 10, 5), (50_000, 10, 40)), ((400, 4, 3),)
"""Choice sets, alternatives, features; the bar is that of the first.  None fits into a cache."""
ROUNDS = 15
SQUARE = 1500
"""Rows of the matrices whose product shows the peak."""


def one_pass(quick: bool, _place: Path) -> list[Figure]:
    """One thread on one core, features in memory."""
    figures: list[Figure] = []
    for shape in TINY if quick else SHAPES:
        figures += alone(_measured, shape, quick, None if figures else at_most(4))
    return figures


def _measured(shape: tuple[int, int, int], quick: bool, bar: Bar | None) -> list[Figure]:
    choices = draw(*shape)
    (rows, k), sample = choices.features.shape, sample_of(choices)
    square = np.random.default_rng(1).normal(size=(200 if quick else SQUARE,) * 2)
    with single_blas_thread():
        seconds = race(
            {
                **_readings(choices.features.reshape(-1)),
                "g": sums(sample, Serial(), jacobian=False),
                "g and G": sums(sample, Serial(), square=False),
                "g, G and S": sums(sample, Serial()),
                "product": lambda: square @ square,
            },
            3 if quick else ROUNDS,
        )
    reading = min((seconds[name] for name in READINGS), key=median)
    label, operations = f"{rows:,} x {k}", work(rows, choices.sets, k)
    figures = [
        Figure(PART, "a pass, times reading the features once", f"{what}, {label}", "x", ratio, bar=held)
        for what, held in (("g, G and S", bar), ("g and G", None), ("g", None))
        for ratio in (ratios(seconds[what], reading),)
    ]
    peak = tuple(2e-9 * len(square) ** 3 / turn for turn in seconds["product"])
    speed = tuple(1e-9 * operations / turn for turn in seconds["g, G and S"])
    roofs = [
        Figure(PART, "memory bandwidth", "features read once", "GB/s", _rates(choices.features, reading)),
        Figure(PART, "peak of one thread", "matrix product", "GFLOP/s", peak),
    ]
    floor = tuple(1e-9 * operations / (a * b) for a, b in zip(peak, reading, strict=True))
    what = "its operations at the speed of a matrix product, times reading the features once"
    return [
        *figures,
        Figure(PART, what, label, "x", floor),
        *(roofs if bar else ()),
        Figure(PART, "roofline", label, "GFLOP/s", speed, x=operations / choices.features.nbytes),
        Figure(PART, "share of the peak", label, "", ratios(speed, peak)),
    ]


READINGS = ("dot", "sum", "maximum")


def _readings(values: NDArray[np.float64]) -> dict[str, Callable[[], object]]:
    """Ways to read all numbers once; the fastest is the limit."""
    return {"dot": lambda: values @ values, "sum": lambda: np.sum(values), "maximum": lambda: np.max(values)}


def _rates(values: NDArray[np.float64], seconds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(1e-9 * values.nbytes / turn for turn in seconds)


def work(rows: int, sets: int, k: int) -> int:
    """Operations that g, G and S need: what the roofline counts.

    A row: 2K for its utility, about 20 for an exponential, 2K for the mean, 2K for centring and weighting,
    K(K + 1) for one triangle of G; a set: 2K for g, K(K + 1) for one triangle of S.
    """
    return rows * (k * (k + 1) + 6 * k + 20) + sets * (k * (k + 1) + 2 * k)
