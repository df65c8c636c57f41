"""What is said while it goes on: in logs now and then, and rates of the work that is meant."""

from __future__ import annotations

import pytest
from gmmest_cli import show


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, for the test to set."""
    now = [0.0]
    monkeypatch.setattr(show.time, "perf_counter", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress() as watch:
        for passes in range(1, 1001):
            clock[0] += 1.0
            watch.passed(passes)
    said = capsys.readouterr().err.splitlines()
    assert [int(line.split()[1]) for line in said] == [30, 90, 210, 450, 930]
    assert said[0] == "fitting: 30 passes over the data, 30 s"


def test_draws_are_told_in_a_log(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with show.replications() as watch:
        watch(0, 2000)
        clock[0] = 31.0
        watch(1024, 2000)
        clock[0] = 32.0
        watch(1025, 2000)
    assert capsys.readouterr().err == "replications: 1,024 of 2,000\n"


def test_what_came_before_the_conversion_does_not_count_in_its_rate(clock: list[float]) -> None:
    said: list[str] = []
    watch = show.Watch(said.append)
    clock[0] = 600.0  # hashing
    for k in range(1, 11):
        watch.converted(1000 * k, 100_000)
        clock[0] += 1.0
    assert said[-1] == "converting: 10,000 of 100,000 rows, 1,000 rows/s, 90 s left"
