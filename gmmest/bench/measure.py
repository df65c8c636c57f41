"""How things are measured: contestants take turns, each in a process of its own where threads or memory count."""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["alone", "anonymous", "companion", "forget_peak", "peak", "race", "ratios", "resident"]

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)

Answer = Callable[[Any], Any]


def race(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, ...]]:
    """Seconds of each contestant in each round; all have a turn in every round.

    A neighbour who takes the processor for a while then slows all of them, and ratios within a round stay.
    Nothing is collected meanwhile, and a first turn of each, for caches and workspaces, does not count.

    Examples
    --------
    >>> seconds = race({"a": lambda: None, "b": lambda: None}, rounds=3)
    >>> len(seconds["a"]), len(seconds["b"])
    (3, 3)
    """
    for contestant in contestants.values():
        contestant()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, contestant in contestants.items():
                begin = time.perf_counter()
                contestant()
                seconds[name].append(time.perf_counter() - begin)
    finally:
        gc.enable()
    return {name: tuple(turns) for name, turns in seconds.items()}


def ratios(above: tuple[float, ...], below: tuple[float, ...]) -> tuple[float, ...]:
    """Round by round.

    Examples
    --------
    >>> ratios((4.0, 9.0), (2.0, 3.0))
    (2.0, 3.0)
    """
    return tuple(a / b for a, b in zip(above, below, strict=False))


def alone(function: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """What a function returns in a fresh process that has so many cores and threads."""
    with companion(_called, function, *arguments, threads=threads) as ask:
        return ask(None)


def _called(function: Callable[..., Any], *arguments: Any) -> Answer:
    return lambda _message: function(*arguments)


@contextmanager
def companion(make: Callable[..., Answer], *arguments: Any, threads: int = 1) -> Iterator[Answer]:
    """A fresh process that answers: ``make(*arguments)`` there takes messages; what it prints is dropped.

    Raises
    ------
    RuntimeError
        With the process's own traceback, where an answer or the making of it failed.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answering, args=(there, threads, make, arguments), daemon=False)
    with _environment({name: str(threads) for name in THREADS}):
        process.start()
    there.close()
    try:
        yield lambda message: _reply(here, message)
    finally:
        here.close()
        process.join(timeout=10)
        if process.is_alive():
            process.terminate()
            process.join()


def _answering(connection: Connection, threads: int, make: Callable[..., Answer], arguments: Any) -> None:
    if hasattr(os, "sched_setaffinity"):  # what no variable limits, JAX's threads, follows the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    answer: Answer | None = None
    with suppress(EOFError):
        while True:
            message = connection.recv()
            try:
                answer = answer or make(*arguments)
                connection.send((True, answer(message)))
            except BaseException:  # to be told, whatever it is
                connection.send((False, traceback.format_exc()))


def _reply(connection: Connection, message: Any) -> Any:
    connection.send(message)
    try:
        good, reply = connection.recv()
    except EOFError:
        raise RuntimeError("the measured process ended before it answered") from None
    if not good:
        raise RuntimeError(reply)
    return reply


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def resident(pid: int) -> int | None:
    """Bytes of a process that are in memory; None where the system does not tell."""
    return _status(pid, "VmRSS")


def anonymous(pid: int) -> int | None:
    """The same without pages of files."""
    return _status(pid, "RssAnon")


def peak(pid: int) -> int | None:
    """The most bytes that were in memory since :func:`forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Begin to look for the peak anew (Linux)."""
    if sys.platform == "linux":
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _status(pid: int, name: str) -> int | None:
    if sys.platform != "linux":
        return None
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
