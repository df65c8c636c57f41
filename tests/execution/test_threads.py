"""Any number of threads gives the bits of one."""

from __future__ import annotations

import itertools
import os
import threading
import time

import numpy as np
import pytest

import gmmest as gm
from gmmest.execution.serial import cores
from gmmest.execution.threads import Threads, as_executor
from gmmest.simulate import simulate_logit


@pytest.fixture(scope="module")
def drawn() -> gm.ChoiceData:
    data = simulate_logit(sets=6000, alternatives=(2, 9), features=4, moments=7, seed=3).data
    blocks = gm.Logit().sample(data).blocks
    assert len(blocks) == 1, "blocks of this size hold the whole sample: the test cuts them itself"
    return data


class Cut:
    """A logit in many small blocks, so that threads have something to share out."""

    def __init__(self) -> None:
        self.logit = gm.Logit()

    def __getattr__(self, name: str) -> object:
        return getattr(self.logit, name)

    def sample(self, data: gm.ChoiceData) -> object:
        from dataclasses import replace

        sample = self.logit.sample(data)
        whole = sample.blocks[0]
        edges = [*range(0, whole.n_sets, 500), whole.n_sets]
        pieces = list(itertools.pairwise(edges))
        assert len(pieces) == 12
        return replace(
            sample,
            blocks=tuple(whole.part(a, b) for a, b in pieces),
            counts=tuple(b - a for a, b in pieces),
        )


def test_there_are_no_more_threads_than_cores_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("the system does not tell which cores are ours")
    assert cores() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    monkeypatch.setattr("gmmest.execution.threads.Thread", None)  # one core starts no thread
    assert Threads().map(abs, [-1, 2, -3]) == [1, 2, 3]


@pytest.mark.parametrize("grad", ["analytic", "forward"])
def test_any_number_of_threads_gives_the_same_bits(drawn: gm.ChoiceData, grad: str) -> None:
    fits = [
        gm.GMMEstimator(Cut(), drawn, grad=grad, executor=executor).fit()
        for executor in ("serial", Threads(1), Threads(2), Threads(4), "threads")
    ]
    first = fits[0]
    assert first.verified
    for other in fits[1:]:
        assert other.theta.tobytes() == first.theta.tobytes()
        assert other.estimate.v.tobytes() == first.estimate.v.tobytes()
        assert other.criterion == first.criterion


def test_results_come_in_the_order_of_the_blocks() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0.0)
        return item

    assert Threads(4).map(slow_first, list(range(8))) == list(range(8))


def test_an_exception_in_a_thread_is_raised() -> None:
    def fail(item: int) -> int:
        raise ArithmeticError(str(item))

    with pytest.raises(ArithmeticError, match=r"^0$"):
        Threads(2).map(fail, [0, 1, 2])


def test_the_first_exception_in_the_order_of_the_blocks_is_raised_and_little_is_begun_after_it() -> None:
    begun = []

    def fail(item: int) -> int:
        begun.append(item)
        time.sleep(0.05 if item == 0 else 0.01)
        if item < 2:
            raise ArithmeticError(str(item))
        return item

    with pytest.raises(ArithmeticError, match=r"^0$"):  # though that of 1 came earlier
        Threads(2).map(fail, list(range(1000)))
    assert begun == [0, 1]


def test_an_interruption_while_others_are_waited_for_ends_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, joined = [], []

    class Interrupted(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            joined.append(self)
            if len(joined) == 1:
                raise KeyboardInterrupt
            super().join(timeout)

    def slow(item: int) -> int:
        begun.append(item)
        time.sleep(0.0 if threading.current_thread() is threading.main_thread() else 0.05)
        return item

    monkeypatch.setattr("gmmest.execution.threads.Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Threads(2).map(slow, list(range(4)))
    assert len(joined) == 2
    assert not any(thread.is_alive() for thread in joined)


def test_an_unknown_executor_is_refused_with_the_choices() -> None:
    with pytest.raises(
        gm.ConfigError, match=r"^E102 executor is .thread.; expected one of serial, threads, "
    ):
        as_executor("thread")
    with pytest.raises(gm.ConfigError, match="'thread'"):
        gm.GMMEstimator(gm.Logit(), None, executor="thread")


def test_blas_threads_do_not_change_the_bits(drawn: gm.ChoiceData) -> None:
    from threadpoolctl import threadpool_limits

    thetas = []
    for limit in (1, 2):
        with threadpool_limits(limit):
            thetas.append(gm.GMMEstimator(gm.Logit(), drawn).fit().theta)
    assert np.array_equal(*thetas)


@pytest.mark.parametrize("workers", [0, -3, True, 2.0, "2"])
def test_a_number_of_threads_that_is_none_is_refused(workers: object) -> None:
    with pytest.raises(gm.ConfigError, match=r"E102 workers is .*; a whole number from 1 was expected"):
        Threads(workers)  # type: ignore[arg-type]
