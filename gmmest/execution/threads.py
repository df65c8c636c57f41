"""Threads over blocks: NumPy lets go of the interpreter inside its loops, so that blocks overlap."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from gmmest.errors import Complaint, ConfigError
from gmmest.execution.serial import Executor, Serial

__all__ = ["EXECUTORS", "Threads", "as_executor"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Threads:
    """A pool of threads for each map; results in the order of the blocks, so the bits are those of one thread.

    Parameters
    ----------
    workers : int, optional
        By default one a core.

    Examples
    --------
    >>> Threads(2).map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    workers: int | None = None

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply to all items; the first exception in their order is raised."""
        workers = min(self.workers or os.cpu_count() or 1, len(items))
        if workers < 2:
            return Serial().map(function, items)
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(function, items))


EXECUTORS = ("serial", "threads")


def as_executor(executor: str | Executor) -> Executor:
    """An executor from its name; an executor passes through.

    Examples
    --------
    >>> as_executor("threads")
    Threads(workers=None)
    """
    if not isinstance(executor, str) and hasattr(executor, "map"):
        return executor
    if executor == "serial":
        return Serial()
    if executor == "threads":
        return Threads()
    raise ConfigError(
        Complaint(
            "E102",
            f"executor is {executor!r}; expected one of {', '.join(EXECUTORS)}, or an object with map()",
        )
    )
