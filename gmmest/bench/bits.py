"""Part f: the same bits, whoever computes: one thread, two, four, processes of Dask, blocks on disk."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gmmest.bench.choices import Choices, draw
from gmmest.bench.figures import Figure, at_most, installed
from gmmest.bench.measure import alone
from gmmest.data.choice_data import ChoiceData
from gmmest.execution.serial import Executor, Serial
from gmmest.execution.threads import Threads
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.logit import Logit

__all__ = ["bits"]

PART = "f"
SHAPE, TINY = (50_000, 10, 10), (400, 4, 3)
KILLED_AT = 3
"""The evaluation at which a worker of Dask dies."""


def bits(quick: bool, place: Path) -> list[Figure]:
    """Whole fits, each in a process of its own: estimates and covariance, byte by byte."""
    choices = draw(*(TINY if quick else SHAPE))
    choices.save(place)
    choices.write(place / "choices.parquet")
    ways = (
        WAYS if installed("distributed") else {name: way for name, way in WAYS.items() if "Dask" not in name}
    )
    found = {name: alone(fit, place, threads=threads) for name, (fit, threads) in ways.items()}
    first = next(iter(found.values()))
    different = [name for name, digest in found.items() if digest != first]
    note = ", ".join(found) + (f"; other bits: {', '.join(different)}" if different else "")
    count = float(len(set(found.values())))
    return [
        Figure(PART, "different answers", f"among {len(found)} ways", "", (count,), bar=at_most(1), note=note)
    ]


def _serial(place: Path) -> str:
    return _digest(_arrays(place), Serial())


def _one_thread(place: Path) -> str:
    return _digest(_arrays(place), Threads(1))


def _two_threads(place: Path) -> str:
    return _digest(_arrays(place), Threads(2))


def _four_threads(place: Path) -> str:
    return _digest(_arrays(place), Threads(4))


def _files(place: Path) -> str:
    from gmmest.data.choice_files import ChoiceFiles

    path = place / "choices.parquet"
    files = ChoiceFiles(path, case="set", chosen="chosen", cache=place / "store")
    return _digest(files, Threads(2), terms=Choices.load(place).names)


def _dask(place: Path) -> str:
    from gmmest.execution.dask import Dask

    return _digest(_arrays(place), Dask(workers=2))


def _dask_and_a_death(place: Path) -> str:
    from distributed import Client

    from gmmest.execution.dask import Dask

    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:

        def watch(evaluation: int) -> None:
            if evaluation == KILLED_AT:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        return _digest(_arrays(place), Dask(client=client), watch)


WAYS: dict[str, tuple[Callable[[Path], str], int]] = {
    "serial": (_serial, 1),
    "1 thread": (_one_thread, 1),
    "2 threads": (_two_threads, 2),
    "4 threads": (_four_threads, 2),
    "files": (_files, 2),
    "Dask with 2 workers": (_dask, 2),
    "Dask with a worker killed": (_dask_and_a_death, 2),
}
"""Fits and their threads."""


def _arrays(place: Path) -> Any:
    choices = Choices.load(place)
    return ChoiceData.from_arrays(features=choices.features, chosen=choices.chosen, offsets=choices.offsets)


def _digest(
    data: Any, executor: Executor, watch: Callable[[int], None] | None = None, terms: Sequence[str] = ()
) -> str:
    result = GMMEstimator(Logit(terms), data, executor=executor).fit(watch=watch)
    numbers = (result.theta, np.asarray(result.cov_params()))
    return hashlib.sha256(b"".join(values.tobytes() for values in numbers)).hexdigest()
