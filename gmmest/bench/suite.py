"""The parts of the benchmark, and a run of some of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gmmest.bench.bits import bits
from gmmest.bench.executors import executors
from gmmest.bench.figures import Figure, Machine, Report
from gmmest.bench.growth import growth
from gmmest.bench.one_pass import one_pass
from gmmest.bench.out_of_core import out_of_core
from gmmest.bench.resume import resume
from gmmest.bench.whole_fit import whole_fit
from gmmest.errors import Complaint, ConfigError

__all__ = ["PARTS", "Part", "run"]


@dataclass(frozen=True, slots=True)
class Part:
    """One question: its letter, its words, and what measures; the measure gets a folder of its own."""

    letter: str
    question: str
    measure: Callable[[bool, Path], list[Figure]]


PARTS = (
    Part("a", "a whole fit against other programs", whole_fit),
    Part("b", "one pass against memory and arithmetic", one_pass),
    Part("c", "growth with rows, alternatives, features and moments", growth),
    Part("d", "files larger than memory", out_of_core),
    Part("e", "two workers, and Dask", executors),
    Part("f", "the same bits from all", bits),
    Part("g", "a fit that was killed, resumed", resume),
)


def run(letters: Sequence[str], quick: bool = False, say: Callable[[str], None] | None = None) -> Report:
    """Measure some parts, in the order of :data:`PARTS`.

    Parameters
    ----------
    letters : sequence of str
        Of the parts; all if there are none.
    quick : bool
        Tiny sizes, to see that everything runs: no figure is to be believed.
    say : callable, optional
        Called with each part's question as it begins.

    Raises
    ------
    ConfigError
        E102: a letter that no part has.
    """
    known = [part.letter for part in PARTS]
    strange = [letter for letter in letters if letter not in known]
    if strange:
        what = f"no part {', '.join(strange)} of the benchmark; expected some of {', '.join(known)}"
        raise ConfigError(Complaint("E102", what))
    machine, begin = Machine.here(), time.perf_counter()
    figures: list[Figure] = []
    for part in PARTS:
        if not letters or part.letter in letters:
            if say is not None:
                say(f"{part.letter}: {part.question}")
            with TemporaryDirectory(prefix="gmmest-bench-") as place:
                figures += part.measure(quick, Path(place))
    return Report(machine, quick, time.perf_counter() - begin, tuple(figures))
