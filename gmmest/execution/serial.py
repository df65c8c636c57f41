"""One thread, block after block; and the order in which sums are folded, whoever made them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

__all__ = ["Executor", "Serial", "cores", "fold", "single_blas_thread"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Applies a function to blocks and returns the results in their order."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """``[function(item) for item in items]``, by whatever means."""


class Serial:
    """The calling thread does it all.

    Examples
    --------
    >>> Serial().map(abs, [-1, 2])
    [1, 2]
    """

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply in order."""
        return [function(item) for item in items]


def cores() -> int:
    """Cores that this process may use, which ``taskset``, SLURM or a container may have made fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fold(parts: Sequence[Any]) -> Any:
    """Sum of parts by pairs: ((a + b) + (c + d)) + e.

    The order depends on the number of parts alone, so that any executor gives the same bits;
    and rounding grows with the logarithm of that number.

    Examples
    --------
    >>> fold([1, 2, 3, 4, 5])
    15
    """
    level = list(parts)
    while len(level) > 1:
        paired = [level[i] + level[i + 1] for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
    return level[0]


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """BLAS with one thread inside: the order of its sums, and so the bits, depend on it."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
