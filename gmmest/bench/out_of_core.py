"""Part d: passes over choice sets in files of 1, 4 and 16 times the memory limit, against arrays in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from gmmest.bench.choices import Choices, draw
from gmmest.bench.figures import Figure, at_most
from gmmest.bench.measure import Answer, anonymous, companion, ratios
from gmmest.bench.passes import sample_of, sums
from gmmest.execution.serial import Serial, single_blas_thread
from gmmest.models.logit import Logit

__all__ = ["out_of_core"]

PART = "d"
LIMIT = 200 * 10**6
"""Bytes that the process may hold."""
MULTIPLES = (1, 4, 16)
SHAPE, TINY = (125_000, 10, 20), (400, 4, 3)
"""Choice sets, alternatives and features of one file, whose features take about the limit."""
ROUNDS = 5
LOOK = 0.005
"""Seconds between looks at the memory of the process."""


def out_of_core(quick: bool, place: Path) -> list[Figure]:
    """Serial passes for g, G and S; the same data in a store on disk, in the page cache, and in memory."""
    shape = TINY if quick else SHAPE
    for number in range(MULTIPLES[-1]):
        draw(*shape, seed=number).write(place / f"{number:02}.parquet", number * shape[0])
    return [figure for times in MULTIPLES for figure in _compared(times, shape, quick, place)]


def _compared(times: int, shape: tuple[int, int, int], quick: bool, place: Path) -> list[Figure]:
    label = f"{times} x the limit of {LIMIT / 1e6:.0f} MB" if not quick else f"{times} files"
    with (
        companion(_from_files, place, times, shape[2]) as files,
        companion(_in_memory, times, shape) as memory,
        _watched(files("pid")) as most,
    ):
        begin = time.perf_counter()
        rows = files("ready")
        converted = time.perf_counter() - begin
        memory("ready")
        turns = [(files("pass"), memory("pass")) for _ in range(2 if quick else ROUNDS)]
    outside, inside = (tuple(seconds) for seconds in zip(*turns, strict=True))
    held = tuple(each / LIMIT for each in most[-1:])
    return [
        Figure(
            PART,
            "a pass over files, times the same in memory",
            label,
            "x",
            ratios(outside, inside),
            x=float(times),
            bar=at_most(1.2),
        ),
        Figure(PART, "anonymous memory, times the limit", label, "x", held, x=float(times), bar=at_most(1.0)),
        Figure(
            PART, "conversion and opening", label, "s", (converted,), x=float(times), note=f"{rows:,} rows"
        ),
    ]


@contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """The anonymous memory of a process, as its largest values so far; filled when the ``with`` ends."""
    most: list[float] = []
    over = Event()

    def look() -> None:
        largest = -1
        while not over.wait(LOOK):
            largest = max(largest, anonymous(pid) or -1)
        if largest >= 0:
            most.append(float(largest))

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def _from_files(place: Path, times: int, features: int) -> Answer:
    from gmmest.data.choice_files import ChoiceFiles

    def make() -> Any:
        paths = [place / f"{number:02}.parquet" for number in range(times)]
        files = ChoiceFiles(paths, case="set", chosen="chosen", memory=LIMIT, cache=place / f"store-{times}")
        return Logit([f"x{k}" for k in range(features)]).sample(files)

    return _passes(make)


def _in_memory(times: int, shape: tuple[int, int, int]) -> Answer:
    def make() -> Any:
        sets, alternatives, count = shape
        rows = sets * alternatives
        features, chosen = np.empty((times * rows, count)), np.empty(times * rows)
        for number in range(times):
            piece = draw(*shape, seed=number)
            place = slice(number * rows, (number + 1) * rows)
            features[place], chosen[place] = piece.features, piece.chosen
        for values in (features, chosen):
            values.setflags(write=False)
        return sample_of(Choices(features, chosen, alternatives))

    return _passes(make)


def _passes(make: Callable[[], Any]) -> Answer:
    """A process that tells its number, gets ready, and says how long a pass takes."""
    once: list[Callable[[], Any]] = []

    def answer(message: str) -> Any:
        if message == "pid":
            return os.getpid()
        with single_blas_thread():
            if message == "ready":
                sample = make()
                once.append(sums(sample, Serial()))
                once[0]()
                return sample.n_rows
            begin = time.perf_counter()
            once[0]()
            return time.perf_counter() - begin

    return answer
