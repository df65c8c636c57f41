"""How the benchmarks measure: contestants take turns on one core, and the fastest turn of each counts.

Ratios of such minima repeat to a few per cent on a busy machine, where times do not.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from threadpoolctl import threadpool_limits

Race = Callable[..., dict[str, float]]


@pytest.fixture(scope="session", autouse=True)
def one_core() -> Iterator[None]:
    """One core and one BLAS thread for the whole run."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if before is not None:
        os.sched_setaffinity(0, {min(before)})
    with threadpool_limits(1):
        yield
    if before is not None:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def race() -> Race:
    """Seconds a call of each contestant's fastest turn; a turn of functions of microseconds has many calls."""

    def run(contestants: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, float]:
        for contestant in contestants.values():  # caches, compilation, workspaces
            contestant()
            contestant()
        best = dict.fromkeys(contestants, float("inf"))
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                for name, contestant in contestants.items():
                    contestant()  # its data into the caches, from which the one before has pushed them
                    begin = time.perf_counter()
                    for _ in range(calls):
                        contestant()
                    best[name] = min(best[name], (time.perf_counter() - begin) / calls)
        finally:
            gc.enable()
        return best

    return run
