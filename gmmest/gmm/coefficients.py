"""Numbers that were estimated, by name: what every kind of result says from its values and their covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import printable
from gmmest.gmm.inference import quantile, require_level, two_sided_p

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Coefficients", "aligned"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Estimates and their covariance V.

    Parameters
    ----------
    names : tuple of str
    value : array (P,)
    v : array (P, P)
    degrees : int or None
        Of Student's t; None for the normal.
    blank : array (P,) of bool, optional
        Those that have no standard error.

    Examples
    --------
    >>> b = Coefficients(("x", "const"), np.array([2.0, 1.0]), np.diag([0.25, 1.0]))
    >>> b.ratios, b.p_values.round(4)
    (array([4., 1.]), array([1.000e-04, 3.173e-01]))
    >>> b.table()[1][0]
    ['x', '2', '0.5', '4.000', '0.000', '1.02', '2.98']
    """

    names: tuple[str, ...]
    value: Array
    v: Array
    degrees: int | None = None
    blank: NDArray[np.bool_] | None = None

    @property
    def standard_errors(self) -> Array:
        """Square roots of the diagonal of V, (P,); nan where blank."""
        errors: Array = np.sqrt(np.diag(self.v))
        return errors if self.blank is None else np.where(self.blank, np.nan, errors)

    @property
    def ratios(self) -> Array:
        """Values over standard errors, (P,)."""
        return self.value / self.standard_errors

    @property
    def p_values(self) -> Array:
        """Two-sided p-values of zero, (P,)."""
        return two_sided_p(self.ratios, self.degrees)

    def interval(self, alpha: float) -> tuple[Array, Array]:
        """Lower and upper ends, (P,) each: value and quantile times standard error."""
        reach = quantile(require_level(alpha), self.degrees) * self.standard_errors
        return self.value - reach, self.value + reach

    def series(self, values: Array, name: str) -> pd.Series:
        """A copy of (P,) numbers, by name."""
        import pandas as pd

        return pd.Series(values.copy(), index=list(self.names), name=name)

    def covariance(self) -> pd.DataFrame:
        """A copy of V, by name."""
        import pandas as pd

        return pd.DataFrame(self.v.copy(), index=list(self.names), columns=list(self.names))

    def intervals(self, alpha: float) -> pd.DataFrame:
        """:meth:`interval` by name: columns ``lower`` and ``upper``."""
        import pandas as pd

        low, high = self.interval(alpha)
        return pd.DataFrame({"lower": low, "upper": high}, index=list(self.names))

    def text(self, alpha: float = 0.05) -> str:
        """The table of estimates as aligned lines.

        Examples
        --------
        >>> print(Coefficients(("ratio",), np.array([2.0]), np.array([[0.25]])).text())
               coef  std err      z  P>|z|  [0.025  0.975]
        ratio     2      0.5  4.000  0.000    1.02    2.98
        """
        heading, rows = self.table(alpha)
        return aligned([heading, *rows])

    def table(
        self, alpha: float = 0.05, marks: Sequence[str] | None = None
    ) -> tuple[list[str], list[list[str]]]:
        """Heading and rows of the table of estimates, as text.

        Parameters
        ----------
        alpha : float
        marks : sequence of str, optional
            What holds each parameter, empty where nothing does; stands in place of a standard error that is nan,
            and in a last column where there is one (a tie).
        """
        low, high = self.interval(alpha)
        letter = "z" if self.degrees is None else "t"
        heading = ["", "coef", "std err", letter, f"P>|{letter}|", f"[{alpha / 2:g}", f"{1 - alpha / 2:g}]"]
        held = marks or [""] * len(self.names)
        errors = self.standard_errors
        columns = zip(
            self.names, held, self.value, errors, self.ratios, self.p_values, low, high, strict=True
        )
        rows = [
            [printable(name), f"{b:.6g}", printable(mark), "", "", "", ""]
            if mark and np.isnan(e)
            else [printable(name), f"{b:.6g}", f"{e:.4g}", f"{t:.3f}", f"{p:.3f}", f"{lo:.4g}", f"{hi:.4g}"]
            for name, mark, b, e, t, p, lo, hi in columns
        ]
        ties = [
            printable(mark) if mark and not np.isnan(e) else "" for mark, e in zip(held, errors, strict=True)
        ]
        if not any(ties):
            return heading, rows
        return [*heading, "tied to"], [[*row, tie] for row, tie in zip(rows, ties, strict=True)]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells as lines of a terminal, two blanks apart: the first column to the left, others to the right.

    Examples
    --------
    >>> print(aligned([["", "steps"], ["a", "1"], ["const", "12"]]))
           steps
    a          1
    const     12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)
