"""Part c: how the cost of a pass grows with rows, alternatives, features and moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gmmest.bench.choices import draw
from gmmest.bench.figures import Figure, at_most
from gmmest.bench.measure import alone, race
from gmmest.bench.passes import sample_of, sums
from gmmest.execution.serial import Serial, single_blas_thread

__all__ = ["growth"]

PART = "c"
ROUNDS = 7
K, J = 10, 10
"""Features and alternatives where they do not grow."""
ROWS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
ALTERNATIVES = (2, 5, 10, 30, 100)
FEATURES = (5, 10, 20, 40)
MOMENTS = (10, 20, 40, 80)
FIXED = 300_000
"""Rows where others grow."""

Shape = tuple[int, int, int, int]
"""Rows, alternatives, features, moments."""


def growth(quick: bool, _place: Path) -> list[Figure]:
    """One thread; the sizes of one curve take turns."""
    small = 100 if quick else 1  # a hundredth of the rows
    n = FIXED // small
    curves: dict[str, list[tuple[int, Shape]]] = {
        "rows": [(rows // small, (rows // small, J, K, K)) for rows in ROWS],
        "alternatives": [(j, (n, j, K, K)) for j in ALTERNATIVES],
        "features": [(k, (n, J, k, k)) for k in FEATURES],
        "moments": [(m, (n, J, K, m)) for m in MOMENTS],
    }
    figures: list[Figure] = []
    for what, points in curves.items():
        seconds = alone(_curve, [shape for _, shape in points], 3 if quick else ROUNDS)
        figures += [
            Figure(PART, f"seconds of a pass by {what}", f"{x:,}", "s", turns, x=float(x))
            for (x, _), turns in zip(points, seconds, strict=True)
        ]
        if what == "rows":
            figures.append(_per_row([x for x, _ in points], seconds))
    return figures


def _per_row(rows: Sequence[int], seconds: Sequence[tuple[float, ...]]) -> Figure:
    costs = [median(turns) / n for n, turns in zip(rows, seconds, strict=True)]
    label = f"{rows[0]:,} to {rows[-1]:,} rows"
    note = ", ".join(f"{1e9 * cost:.1f} ns at {n:,}" for n, cost in zip(rows, costs, strict=True))
    dearest = max(costs) / min(costs)
    return Figure(
        PART, "cost of a row, dearest over cheapest", label, "x", (dearest,), bar=at_most(1.25), note=note
    )


def _curve(shapes: Sequence[Shape], rounds: int) -> list[tuple[float, ...]]:
    with single_blas_thread():
        return list(race({str(shape): _pass(*shape) for shape in shapes}, rounds).values())


def _pass(rows: int, alternatives: int, features: int, moments: int) -> Callable[[], Any]:
    choices = draw(rows // alternatives, alternatives, features)
    if moments == features:
        return sums(sample_of(choices), Serial())
    X, extra = choices.features, moments - features
    mixed = 0.5 * X[:, np.arange(extra) % features] + np.random.default_rng(1).normal(size=(len(X), extra))
    instruments = np.concatenate([X, mixed], axis=1)
    instruments.setflags(write=False)
    return sums(sample_of(choices, instruments), Serial())
