r"""The summary of a fit in statsmodels' tables, with every text made safe for the format it goes to.

Names come from files.  statsmodels puts them raw into HTML and all but raw into LaTeX and CSV, where
``<img onerror=...>``, ``\input{...}`` and ``=HYPERLINK(...)`` do things.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence
from typing import Any

from statsmodels.iolib.summary import Summary, summary_return
from statsmodels.iolib.table import SimpleTable
from statsmodels.iolib.tableformatting import fmt_params

from gmmest.errors import printable

__all__ = ["FitSummary"]

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula (OWASP)."""


class FitSummary(Summary):  # type: ignore[misc]
    """``as_text()``, ``as_latex()``, ``as_html()``, ``as_csv()`` of one fit; each begins with the verdict.

    Parameters
    ----------
    verdict : str
    facts : sequence of (str, str)
        Label and text.
    heading : sequence of str
        Of the table of estimates; the first is that of the names.
    rows : sequence of sequence of str
        Name and numbers.
    notes : sequence of str
    """

    def __init__(
        self,
        verdict: str,
        facts: Sequence[tuple[str, str]],
        heading: Sequence[str],
        rows: Sequence[Sequence[str]],
        notes: Sequence[str],
    ) -> None:
        super().__init__()
        self._verdict = printable(verdict)
        self._facts = [(printable(label), printable(text)) for label, text in facts]
        self._heading = [printable(cell) for cell in heading]
        self._rows = [[printable(cell) for cell in row] for row in rows]
        self._notes = [printable(note) for note in notes]
        self.tables = self._made(str)
        self.add_extra_txt(self._notes)

    def as_text(self) -> str:
        """Return the tables as text; no line ends in blanks."""
        return "\n".join(line.rstrip() for line in super().as_text().splitlines())

    def as_html(self) -> str:
        """Return the tables as HTML, names escaped."""
        notes = "".join(f"<br/>{html.escape(note)}" for note in self._notes)
        return f"{summary_return(self._made(html.escape), return_fmt='html')}{notes}"

    def as_latex(self) -> str:
        """Return the tables as LaTeX, names escaped; the verdict stands in front as text."""
        notes = "".join(f"\n\n{_latex(note)}" for note in self._notes)
        tables = summary_return(self._made(_latex, title=False), return_fmt="latex")
        return f"{_latex(self._verdict)}\n\n{tables}{notes}"

    def as_csv(self) -> str:
        """Return rows with commas; texts that a spreadsheet would run get an apostrophe in front."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([_plain(self._verdict)])
        writer.writerows([_plain(label), _plain(text)] for label, text in self._facts)
        writer.writerow(self._heading)
        writer.writerows(map(_plain, row) for row in self._rows)
        writer.writerows([_plain(note)] for note in self._notes)
        return stream.getvalue()

    def _made(self, safe: Callable[[str], str], title: bool = True) -> list[Any]:
        half = (len(self._facts) + 1) // 2
        left, right = self._facts[:half], [*self._facts[half:], ("", "")][:half]
        pairs = [[safe(cell) for cell in (*a, *b)] for a, b in zip(left, right, strict=True)]
        raw: dict[str, Any] = {"replacements": {}}  # cells are escaped already
        top = SimpleTable(
            pairs,
            title=safe(self._verdict) if title else None,
            txt_fmt={"data_aligns": "llll", "colsep": "  ", "table_dec_above": "="},
            ltx_fmt=raw,
        )
        estimates = SimpleTable(
            [[safe(cell) for cell in row[1:]] for row in self._rows],
            [safe(cell) for cell in self._heading[1:]],
            [safe(row[0]) for row in self._rows],
            txt_fmt=fmt_params,
            ltx_fmt=raw,
        )
        return [top, estimates]


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _plain(text: str) -> str:
    if not text.startswith(FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
