"""The 27 NIST StRD sets for nonlinear regression: their files read, their models written once in plain NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmmest.data.table import Table
from gmmest.gmm.least_squares import LeastSquaresResults, NonlinearLeastSquares

DATA = Path(__file__).parent / "data"

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NistSet:
    """One file: data, both starts, and what NIST certifies to eleven digits."""

    name: str
    table: Table
    starts: tuple[Array, Array]
    params: Array
    bse: Array
    rss: float
    residual_sd: float
    dof: int

    @property
    def parameters(self) -> tuple[str, ...]:
        """``b1, b2, ...``."""
        return tuple(f"b{i + 1}" for i in range(self.params.size))

    def residuals(self, theta: Any, rows: Any) -> Any:
        """``y - f(x, b)``; for Nelson ``log y - f(x, b)``, as NIST defines the model."""
        if self.name == "Nelson":
            return np.log(rows["y"]) - (theta[0] - theta[1] * rows["x1"] * np.exp(-theta[2] * rows["x2"]))
        return rows["y"] - FUNCTIONS[self.name](theta, rows["x"])


def read(name: str) -> NistSet:
    """Read one of NIST's files."""
    text = (DATA / f"{name}.dat").read_text(encoding="ascii")
    rows = re.findall(r"(?m)^\s*b\d+ =" + r"\s+(\S+)" * 4, text)
    start1, start2, params, bse = np.array(rows, dtype=np.float64).T

    def number(label: str) -> float:
        found = re.search(rf"{label}:\s+(\S+)", text)
        assert found is not None, (name, label)
        return float(found[1])

    heading, _, body = text[text.rindex("\nData:") + 1 :].partition("\n")
    columns = heading.removeprefix("Data:").split()
    values = np.array([line.split() for line in body.splitlines() if line.strip()], dtype=np.float64)
    found = NistSet(
        name=name,
        table=Table.from_arrays(dict(zip(columns, values.T, strict=True))),
        starts=(start1, start2),
        params=params,
        bse=bse,
        rss=number("Residual Sum of Squares"),
        residual_sd=number("Residual Standard Deviation"),
        dof=values.shape[0] - params.size,  # the file of Rat43 says 9, but its residual SD is that of 11
    )
    assert values.shape[0] == number("Number of Observations")
    assert abs(found.residual_sd / np.sqrt(found.rss / found.dof) - 1.0) < 1e-9, name
    return found


def bumps(b: Any, x: Any) -> Any:
    """An exponential and two bumps, for Gauss1 to Gauss3."""
    return (
        b[0] * np.exp(-b[1] * x)
        + b[2] * np.exp(-((x - b[3]) ** 2) / b[4] ** 2)
        + b[5] * np.exp(-((x - b[6]) ** 2) / b[7] ** 2)
    )


def cycles(b: Any, x: Any) -> Any:
    """A yearly cycle and two of unknown length."""
    wave = 2.0 * np.pi * x
    return (
        b[0]
        + b[1] * np.cos(wave / 12.0)
        + b[2] * np.sin(wave / 12.0)
        + b[4] * np.cos(wave / b[3])
        + b[5] * np.sin(wave / b[3])
        + b[7] * np.cos(wave / b[6])
        + b[8] * np.sin(wave / b[6])
    )


def cubics(b: Any, x: Any) -> Any:
    """Cubic over cubic."""
    above = b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3
    return above / (1.0 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def decays(b: Any, x: Any) -> Any:
    """Three exponentials, for Lanczos1 to Lanczos3."""
    return b[0] * np.exp(-b[1] * x) + b[2] * np.exp(-b[3] * x) + b[4] * np.exp(-b[5] * x)


def decay_over_line(b: Any, x: Any) -> Any:
    """For Chwirut1 and Chwirut2."""
    return np.exp(-b[0] * x) / (b[1] + b[2] * x)


def saturation(b: Any, x: Any) -> Any:
    """For Misra1a and BoxBOD."""
    return b[0] * (1.0 - np.exp(-b[1] * x))


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1.0 / b[2]),
    "BoxBOD": saturation,
    "Chwirut1": decay_over_line,
    "Chwirut2": decay_over_line,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": cycles,
    "Eckerle4": lambda b, x: b[0] / b[1] * np.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss1": bumps,
    "Gauss2": bumps,
    "Gauss3": bumps,
    "Hahn1": cubics,
    "Kirby2": lambda b, x: (b[0] + b[1] * x + b[2] * x**2) / (1.0 + b[3] * x + b[4] * x**2),
    "Lanczos1": decays,
    "Lanczos2": decays,
    "Lanczos3": decays,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * np.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * np.exp(-x * b[3]) + b[2] * np.exp(-x * b[4]),
    "Misra1a": saturation,
    "Misra1b": lambda b, x: b[0] * (1.0 - (1.0 + b[1] * x / 2.0) ** -2.0),
    "Misra1c": lambda b, x: b[0] * (1.0 - (1.0 + 2.0 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1.0 + b[1] * x),
    "Rat42": lambda b, x: b[0] / (1.0 + np.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1.0 + np.exp(b[1] - b[2] * x)) ** (1.0 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - np.arctan(b[2] / (x - b[3])) / np.pi,
    "Thurber": cubics,
}

EXCHANGEABLE = {
    "ENSO": ((3, 4, 5), (6, 7, 8)),
    "Gauss": ((2, 3, 4), (5, 6, 7)),
    "Lanczos": ((0, 1), (2, 3), (4, 5)),
    "MGH17": ((1, 3), (2, 4)),
}
"""Terms of one form: an answer with two of them exchanged is the same answer."""

MOST_DIGITS = 11.0
"""As many as NIST certifies."""


def digits(found: Array, certified: Array) -> float:
    """Correct digits of the worst entry, ``-log10 |found - certified| / |certified|``; none if not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        each = -np.log10(np.abs(found - certified) / np.abs(certified))
    return float(np.min(np.where(np.isnan(each), -np.inf, np.minimum(each, MOST_DIGITS))))


def orders(name: str, count: int) -> Iterator[list[int]]:
    """The orders of the parameters that mean the same answer."""
    terms = next((value for key, value in EXCHANGEABLE.items() if name.startswith(key)), ())
    for exchanged in permutations(terms):
        order = list(range(count))
        for term, other in zip(terms, exchanged, strict=True):
            for i, j in zip(term, other, strict=True):
                order[i] = j
        yield order


@dataclass(frozen=True, slots=True)
class Run:
    """One fit of one set, with its digits."""

    name: str
    start: int
    result: LeastSquaresResults
    params_digits: float
    bse_digits: float

    def __str__(self) -> str:
        return f"{self.name} from start {self.start + 1}: {self.params_digits:.1f} digits, {self.result.verdict()}"


@cache
def read_once(name: str) -> NistSet:
    """The same, read once."""
    return read(name)


@cache
def run(name: str, start: int, optimizer: str = "lsq", grad: str = "auto", maxiter: int | None = None) -> Run:
    """Fit a set from one of NIST's starts."""
    nist = read_once(name)
    model = NonlinearLeastSquares(nist.residuals, nist.parameters)
    result = model.fit(nist.table, nist.starts[start], grad=grad, optimizer=optimizer, maxiter=maxiter)
    best = max(orders(name, nist.params.size), key=lambda order: digits(result.theta[order], nist.params))
    return Run(
        name,
        start,
        result,
        digits(result.theta[best], nist.params),
        digits(result.standard_errors[best], nist.bse),
    )


@pytest.fixture(scope="session")
def nist() -> Callable[[str], NistSet]:
    """``nist("Misra1a")``: one of the sets."""
    return read_once


@pytest.fixture(scope="session")
def fitted() -> Callable[..., Run]:
    """``fitted("Misra1a", 0, optimizer="bfgs")``: fitted from NIST's start 1; each fit is made once."""
    return run
