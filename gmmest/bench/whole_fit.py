"""Part a: estimates and robust standard errors of a conditional logit, against programs that others use."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gmmest.bench.choices import Choices, draw
from gmmest.bench.exact import digits, exact
from gmmest.bench.figures import Figure, at_least, at_most, installed
from gmmest.bench.measure import Answer as Ask
from gmmest.bench.measure import companion, forget_peak, peak, ratios, resident
from gmmest.bench.peers import PEERS, THREADS, Answer, Peer, own

__all__ = ["whole_fit"]

PART = "a"
SHAPE, TINY = (100_000, 10, 20), (400, 4, 3)
"""Choice sets, alternatives, features."""
WARM = 2_000
"""Choice sets of the fit that goes before, which imports, loads and compiles what there is: so many that what is made
for large data alone is there too (for gmmest :data:`.score_kernel.WORTH`)."""
ROUNDS = 3
"""Of fits after the first of each program."""
SLOW = 20.0
"""Seconds of a first fit from which on it is repeated once only: what had to be compiled is not its time."""
SAME = (4.0, 3.0)
"""Digits of estimates and of robust standard errors from which on an answer is one to the same question.
Errors from the outer product of the scores, which are others, agree to two digits."""

OURS = Peer("gmmest", own, partial(installed, "gmmest"), "GMMEstimator(Logit(), ...).fit()")


@dataclass(slots=True)
class Runs:
    """What one program did; the first fit at full size, which may compile, apart from the others."""

    peer: Peer
    choices: Choices
    prepared: float = 0.0
    first: float = 0.0
    memory: float | None = None
    again: list[float] = field(default_factory=list)
    digits: tuple[float, float] = (0.0, 0.0)
    failed: str = ""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Of fits that had been compiled, where there are such."""
        return tuple(self.again) or (self.first,)

    @property
    def counts(self) -> bool:
        """Whether it answered the same question."""
        return self.peer.sets is None and all(
            found >= least for found, least in zip(self.digits, SAME, strict=True)
        )


def whole_fit(quick: bool, place: Path) -> list[Figure]:
    """Total times, peak memory and digits; each program in a process of its own, two threads for all."""
    choices = draw(*(TINY if quick else SHAPE))
    choices.save(place)
    with ExitStack() as processes:
        ours, *others = _take_turns(choices, place, processes, 1 if quick else ROUNDS)
    absent = [peer for peer in PEERS if not peer.version()]
    return [*_bars(ours, others), *_rows([ours, *others]), *(_row(peer, "not installed") for peer in absent)]


def _take_turns(choices: Choices, place: Path, processes: ExitStack, rounds: int) -> list[Runs]:
    """Every program prepares, fits once, and then all fit in turn."""
    truths = {}
    programs: list[tuple[Runs, Ask]] = []
    for peer in (OURS, *(peer for peer in PEERS if peer.version())):
        ask = processes.enter_context(companion(_Program, peer.name, place, threads=THREADS))
        given = _given(choices, peer)
        if given.sets not in truths:
            truths[given.sets] = exact(given)
        programs.append((Runs(peer, given), ask))
    for runs, ask in programs:
        try:
            runs.prepared = ask("prepare")
            runs.first, runs.memory, answer = ask("measure")
        except RuntimeError as error:
            if runs.peer is OURS:
                raise
            runs.failed = str(error).strip().splitlines()[-1]
            continue
        truth = truths[runs.choices.sets]
        factor = np.sqrt(runs.choices.sets / (runs.choices.sets - 1))  # of those who correct for the sample
        errors = max(digits(answer.errors, truth[1]), digits(answer.errors, factor * truth[1]))
        runs.digits = (digits(answer.theta, truth[0]), errors)
    for turn in range(rounds):
        for runs, ask in programs:
            if not runs.failed and (turn == 0 or runs.first < SLOW):
                runs.again.append(ask("fit"))
    return [runs for runs, _ in programs]


class _Program:
    """One program in its own process: it is told to prepare, to be measured, to fit."""

    def __init__(self, name: str, place: Path) -> None:
        self.peer = next(peer for peer in (OURS, *PEERS) if peer.name == name)
        self.choices = _given(Choices.load(place), self.peer)

    def __call__(self, message: str) -> Any:
        if message == "prepare":
            warm = self.peer.prepare(self.choices.first(min(WARM, self.choices.sets)))
            warm.fit()
            warm.close()
            begin = time.perf_counter()
            self.ready = self.peer.prepare(self.choices)
            return time.perf_counter() - begin
        if message == "measure":
            gc.collect()
            forget_peak(self.ready.pid)
            before = resident(self.ready.pid)
            seconds, answer = self._timed()
            most = peak(self.ready.pid)
            beyond = None if before is None or most is None else (most - before) / self.choices.nbytes
            return seconds, beyond, answer
        return self._timed()[0]

    def _timed(self) -> tuple[float, Answer]:
        begin = time.perf_counter()
        answer = self.ready.fit()
        return time.perf_counter() - begin, answer


def _given(choices: Choices, peer: Peer) -> Choices:
    return choices if peer.sets is None else choices.first(min(peer.sets, choices.sets))


def _bars(ours: Runs, others: list[Runs]) -> list[Figure]:
    """What was promised."""
    rivals = {runs.peer.name: ratios(runs.seconds, ours.seconds) for runs in others if runs.counts}
    fastest = min(rivals, key=lambda name: median(rivals[name]), default="")
    return [
        Figure(
            PART,
            "fastest program with the same answer, times gmmest",
            fastest or "none installed",
            "x",
            rivals.get(fastest, ()),
            bar=at_least(5),
        ),
        Figure(
            PART,
            "peak memory beyond the data, times the data",
            "gmmest",
            "x",
            () if ours.memory is None else (ours.memory,),
            bar=at_most(0.3),
        ),
        Figure(PART, "digits of the estimates", "gmmest", "digits", ours.digits[:1], bar=at_least(10)),
        Figure(PART, "digits of the standard errors", "gmmest", "digits", ours.digits[1:]),
    ]


def _rows(programs: list[Runs]) -> Iterator[Figure]:
    """What each program did."""
    ours = programs[0]
    for runs in programs:
        peer, choices = runs.peer, runs.choices
        if runs.failed:
            yield _row(peer, f"failed: {runs.failed}")
            continue
        size = f"{choices.sets:,} x {choices.alternatives} x {choices.features.shape[1]}"
        yield Figure(PART, "whole fit", peer.name, "s", runs.seconds, note=f"{size}; {_called(peer)}")
        yield Figure(PART, "its first call", peer.name, "s", (runs.first,))
        if peer is OURS:
            continue
        if choices.sets == ours.choices.sets:
            relative = ratios(runs.seconds, ours.seconds)
            note = "" if runs.counts else "not the same answer: see its digits"
            yield Figure(PART, "whole fit, times gmmest", peer.name, "x", relative, note=note)
        yield Figure(PART, "bringing the arrays into its form", peer.name, "s", (runs.prepared,))
        if runs.memory is not None:
            yield Figure(PART, "peak memory beyond the data, times the data", peer.name, "x", (runs.memory,))
        yield Figure(PART, "digits of the estimates", peer.name, "digits", runs.digits[:1])
        yield Figure(PART, "digits of the standard errors", peer.name, "digits", runs.digits[1:])


def _row(peer: Peer, why: str) -> Figure:
    return Figure(PART, "whole fit", peer.name, "s", (), note=why)


def _called(peer: Peer) -> str:
    return f"{peer.version() or ''} {peer.call}".strip()
