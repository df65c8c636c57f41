"""What a benchmark reports: figures with their repetitions and bars, and the machine they were taken on."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

__all__ = ["Bar", "Figure", "Machine", "Report", "at_least", "at_most"]

PACKAGES = ("gmmest", "numpy", "scipy", "jax", "pandas", "polars", "distributed")
"""Whose versions go beside the figures; the peers tell their own."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach.

    Examples
    --------
    >>> at_most(4.0).held(3.5), str(at_least(5.0))
    (True, 'at least 5')
    """

    limit: float
    least: bool

    def held(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.limit if self.least else value <= self.limit

    def __str__(self) -> str:
        return f"at {'least' if self.least else 'most'} {self.limit:g}"


def at_least(limit: float) -> Bar:
    """The bar of a figure that should be large."""
    return Bar(limit, True)


def at_most(limit: float) -> Bar:
    """The bar of a figure that should be small."""
    return Bar(limit, False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured.

    Parameters
    ----------
    part : str
        Letter of the part of the benchmark.
    what : str
        The question; figures with the same question are bars or points of one plot.
    label : str
        Who or what it is about.
    unit : str
    repetitions : tuple of float
        Everything that was measured; none where it could not be.  The value is their median.
    x : float, optional
        Place on the horizontal axis.
    bar : Bar, optional
    note : str

    Examples
    --------
    >>> figure = Figure("b", "one pass", "g, G and S", "x", (3.0, 3.2, 9.0), bar=at_most(4.0))
    >>> figure.value, figure.held
    (3.2, True)
    """

    part: str
    what: str
    label: str
    unit: str
    repetitions: tuple[float, ...]
    x: float | None = None
    bar: Bar | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """Median of the repetitions, not a number if there are none."""
        return median(self.repetitions) if self.repetitions else math.nan

    @property
    def held(self) -> bool | None:
        """Whether the bar was reached; None without a bar, and where nothing could be measured."""
        return None if self.bar is None or not self.repetitions else self.bar.held(self.value)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        several = bool(self.repetitions)
        return {
            **asdict(self),
            "repetitions": list(self.repetitions),
            "median": self.value if several else None,
            "low": min(self.repetitions) if several else None,
            "high": max(self.repetitions) if several else None,
            "held": self.held,
        }

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Figure:
        """The inverse of :meth:`as_json`."""
        bar = entry["bar"]
        return Figure(
            entry["part"],
            entry["what"],
            entry["label"],
            entry["unit"],
            tuple(entry["repetitions"]),
            entry["x"],
            None if bar is None else Bar(bar["limit"], bar["least"]),
            entry["note"],
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """Where figures were taken.

    Parameters
    ----------
    cpu : str
    cores : int
    system : str
    python : str
    load : float
        Processes that wanted a core in the minute before: figures of a busy machine deserve no trust.
    date : str
    packages : tuple of str
        Names and versions.
    """

    cpu: str
    cores: int
    system: str
    python: str
    load: float
    date: str
    packages: tuple[str, ...]

    @staticmethod
    def here() -> Machine:
        """The one that we are on, now."""
        return Machine(
            cpu=_cpu(),
            cores=os.cpu_count() or 1,
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else math.nan,
            date=time.strftime("%Y-%m-%d"),
            packages=tuple(f"{name} {found}" for name in PACKAGES if (found := installed(name))),
        )


def installed(package: str) -> str | None:
    """Version of an installed distribution, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a run.

    Parameters
    ----------
    machine : Machine
    quick : bool
        Whether sizes were tiny: the figures then say nothing about speed.
    seconds : float
    figures : sequence of Figure
    """

    machine: Machine
    quick: bool
    seconds: float
    figures: Sequence[Figure]

    @property
    def missed(self) -> list[Figure]:
        """Figures that did not reach their bars."""
        return [figure for figure in self.figures if figure.held is False]

    def to_json(self) -> str:
        """For a file; :meth:`from_json` reads it."""
        whole = {
            "machine": asdict(self.machine),
            "quick": self.quick,
            "seconds": round(self.seconds, 1),
            "bars_missed": len(self.missed),
            "figures": [figure.as_json() for figure in self.figures],
        }
        return json.dumps(whole, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Report:
        """The inverse of :meth:`to_json`."""
        whole = json.loads(text)
        machine = {**whole["machine"], "packages": tuple(whole["machine"]["packages"])}
        figures = tuple(map(Figure.from_json, whole["figures"]))
        return Report(Machine(**machine), whole["quick"], whole["seconds"], figures)
