"""Part e: two workers against one, and what a pass on Dask costs beyond its computing."""

from __future__ import annotations

from pathlib import Path

from gmmest.bench.choices import draw
from gmmest.bench.figures import Figure, at_least, at_most, installed
from gmmest.bench.measure import alone, race, ratios
from gmmest.bench.passes import recut, sample_of, sums
from gmmest.execution.serial import Serial, single_blas_thread
from gmmest.execution.threads import Threads

__all__ = ["executors"]

PART = "e"
SHAPE, TINY = (100_000, 10, 20), (400, 4, 3)
ROUNDS = 15
WORKERS = 2
BLOCKS = 16
SIZES = tuple(2**i for i in range(11, 21))
"""Rows of a block, among which one worker chooses the best."""


def executors(quick: bool, _place: Path) -> list[Figure]:
    """Passes for g, G and S, over the blocks that the model cuts and over others."""
    shape, rounds = (TINY, 3) if quick else (SHAPE, ROUNDS)
    figures: list[Figure] = alone(_threads, shape, rounds, threads=WORKERS)
    return [*figures, *alone(_dask, shape, rounds, threads=WORKERS)]


def _threads(shape: tuple[int, int, int], rounds: int) -> list[Figure]:
    sample = sample_of(draw(*shape))
    one = {f"blocks of {rows:,} rows": sums(recut(sample, rows), Serial()) for rows in SIZES}
    two = {
        "two workers, blocks as cut": sums(sample, Threads(WORKERS)),
        "one worker, blocks as cut": sums(sample, Serial()),
    }
    with single_blas_thread():
        seconds = race({**one, **two}, rounds)
    best = min(one, key=lambda name: sorted(seconds[name])[rounds // 2])
    gain = ratios(seconds[best], seconds["two workers, blocks as cut"])
    return [
        Figure(PART, "two workers, times the best of one", f"one with {best}", "x", gain, bar=at_least(1.4)),
        *(Figure(PART, "seconds of a pass", name, "s", turns) for name, turns in seconds.items()),
    ]


def _dask(shape: tuple[int, int, int], rounds: int) -> list[Figure]:
    what, label = "a pass on Dask, beyond its computing", f"{WORKERS} workers, {BLOCKS} blocks"
    if installed("distributed") is None:
        note = "not installed: pip install 'gmmest[dask]'"
        return [Figure(PART, what, label, "s", (), bar=at_most(0.060), note=note)]
    from gmmest.execution.dask import Dask

    sample = sample_of(draw(*shape))
    sample = recut(sample, -(-sample.n_rows // BLOCKS))
    with single_blas_thread(), Dask(workers=WORKERS).open() as session:
        passes = {"Dask": sums(sample, session), "threads": sums(sample, Threads(WORKERS))}
        seconds = race(passes, rounds)
    beyond = tuple(a - b for a, b in zip(seconds["Dask"], seconds["threads"], strict=True))
    return [
        Figure(PART, what, label, "s", beyond, bar=at_most(0.060)),
        *(Figure(PART, "seconds of a pass", f"{name}, {label}", "s", seconds[name]) for name in passes),
    ]
