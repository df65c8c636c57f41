"""Threads over blocks: NumPy lets go of the interpreter inside its loops, so that blocks overlap."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from gmmest.errors import Complaint, ConfigError, not_whole
from gmmest.execution.serial import Executor, Serial, cores

__all__ = ["EXECUTORS", "Threads", "afterwards", "as_executor", "at_once", "opened"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads that take the next block as they are free; results in the order of the blocks, as on one thread.

    Parameters
    ----------
    workers : int, optional
        At least 1; by default one a core.

    Raises
    ------
    ConfigError
        E102: fewer workers than one.

    Examples
    --------
    >>> Threads(2).map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        complaints = [] if self.workers is None else not_whole("workers", self.workers, 1)
        if complaints:
            raise ConfigError(complaints)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply to all items; the first exception in their order is raised."""
        workers = min(self.workers or cores(), len(items))
        if workers < 2:
            return Serial().map(function, items)
        results: list[Any] = [None] * len(items)
        failures: dict[int, BaseException] = {}
        places = itertools.count()  # one for all threads: items are begun in their order

        def work() -> None:
            for place in places:
                if place >= len(items) or failures:
                    return
                try:
                    results[place] = function(items[place])
                except BaseException as failure:  # it is the caller's, whichever thread met it
                    failures[place] = failure

        others = [Thread(target=work, daemon=True) for _ in range(workers - 1)]
        for other in others:
            other.start()
        try:
            work()
            for other in others:
                other.join()
        except BaseException as interruption:  # while the others were waited for: they begin nothing more
            failures[-1] = interruption
            for other in others:
                other.join()
        if failures:
            raise failures[min(failures)]
        return results


EXECUTORS = ("serial", "threads", "dask")


def as_executor(executor: Any) -> Executor:
    """An executor from its name or from a ``distributed.Client``; an executor passes through.

    Examples
    --------
    >>> as_executor("threads")
    Threads(workers=None)
    """
    if executor == "dask" or _is_client(executor):
        from gmmest.execution.dask import Dask

        return Dask() if executor == "dask" else Dask(client=executor)
    if not isinstance(executor, str) and hasattr(executor, "map"):
        return executor  # type: ignore[no-any-return]
    if executor == "serial":
        return Serial()
    if executor == "threads":
        return Threads()
    raise ConfigError(
        Complaint(
            "E102",
            f"executor is {executor!r}; expected one of {', '.join(EXECUTORS)}, a distributed.Client, or an object"
            " with map()",
        )
    )


def _is_client(executor: Any) -> bool:
    """Whether this is a client of Dask, without loading Dask; its own ``map`` gives futures."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(executor, distributed.Client)


@contextmanager
def opened(executor: Any) -> Iterator[Executor]:
    """The executor with its workers up for one fit; those that were up before stay so."""
    ready = as_executor(executor)
    if not hasattr(ready, "open"):
        yield ready
        return
    with ready.open() as session:
        yield session


def afterwards(executor: Any) -> Executor:
    """What maps when a fit is over: the executor if it is up, else threads in place of workers that are gone."""
    ready = as_executor(executor)
    return Threads() if getattr(ready, "closed", False) else ready


def at_once(executor: Any) -> int:
    """Items that this process works on at the same time; those of other processes do not count.

    Examples
    --------
    >>> at_once("serial"), at_once(Threads(3))
    (1, 3)
    """
    ready = as_executor(executor)
    return (ready.workers or cores()) if isinstance(ready, Threads) else 1
