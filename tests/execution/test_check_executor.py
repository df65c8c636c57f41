"""The check for executors of one's own: ours pass it, and each law that is broken is found."""

from __future__ import annotations

import numpy as np
import pytest

from gmmest.execution.dask import Dask
from gmmest.execution.serial import Serial
from gmmest.execution.threads import Threads
from gmmest.testing import check_executor


@pytest.mark.parametrize(
    "executor",
    ["serial", "threads", Serial(), Threads(1), Threads(3)],
    ids=["serial", "threads", "Serial()", "Threads(1)", "Threads(3)"],
)
def test_executors_in_this_process_pass(executor):
    check_executor(executor)


def test_workers_elsewhere_pass():
    check_executor(Dask(workers=2))


class Sorted:
    def map(self, function, items):
        return sorted((function(item) for item in items), reverse=True)


class Silent:
    def map(self, function, items):
        results = []
        for item in items:
            try:
                results.append(function(item))
            except ValueError:
                results.append(None)
        return results


class Wrapping:
    def map(self, function, items):
        try:
            return [function(item) for item in items]
        except Exception as error:
            raise RuntimeError("a worker failed") from error


class LastFirst:
    def map(self, function, items):
        return [function(item) for item in reversed(items)][::-1]


class Single:
    """Results that went by way of single precision."""

    def map(self, function, items):
        return [rounded(function(item)) for item in items]


def rounded(result):
    if isinstance(result, np.ndarray):
        return result.astype(np.float32).astype(np.float64)
    return result


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        (Sorted, "not in their order"),
        (Silent, "did not come through"),
        (Wrapping, "an EstimationError came as RuntimeError: a worker failed"),
        (LastFirst, "another exception than that of the first block came: E411 block 5"),
        (Single, "are not the bits of Serial"),
    ],
)
def test_an_executor_that_breaks_a_law_is_found(executor, said):
    with pytest.raises(AssertionError, match=said):
        check_executor(executor())
