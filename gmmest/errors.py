"""The exceptions of gmmest: one family, one layout, stable codes.

Every refusal answers four questions in this order: what is wrong, where, what was
expected (part of *what*), and what to do next.  A boundary (a configuration, a table,
a model meeting its data) collects all its complaints and raises them together.

The family::

    GmmestError
    |-- ConfigError           E1xx  a configuration or an option cannot be used
    |-- IdentificationError   E2xx  the data cannot identify the parameters
    |-- DataError             E3xx  rows, columns or arrays break a rule
    |-- EstimationError       E4xx  an estimate or a test has no meaning
    |-- FileError             E5xx  a file cannot be read or written
    |-- DerivativeError       E6xx  a function cannot be differentiated as asked
    `-- ExecutionError        E7xx  the processes that compute fail
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

__all__ = [
    "Complaint",
    "ConfigError",
    "DataError",
    "DerivativeError",
    "EstimationError",
    "ExecutionError",
    "FileError",
    "GmmestError",
    "IdentificationError",
    "closest",
    "nearest",
    "not_among",
    "not_parameters",
    "not_whole",
    "plural",
    "printable",
    "require_parameters",
    "some",
]


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong.

    Parameters
    ----------
    code : str
        Stable code such as ``"E302"``; a letter and three digits.
    what : str
        What is wrong (name and value) and what was expected.
    where : str
        File, column, rows, ids; empty when the place is obvious.
    next : str
        What to do about it; empty when nothing can be advised.

    Examples
    --------
    >>> print(Complaint("E303", "chosen must be 0 or 1, found 2", "column 'choice', row 7", "fix row 7"))
    E303 chosen must be 0 or 1, found 2
      where: column 'choice', row 7
      next:  fix row 7
    """

    code: str
    what: str
    where: str = ""
    next: str = ""

    def __str__(self) -> str:
        lines = [f"{self.code} {self.what}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.next:
            lines.append(f"  next:  {self.next}")
        return "\n".join(lines)


class GmmestError(Exception):
    """Root of the family; carries one or more :class:`Complaint` records.

    Parameters
    ----------
    complaints : Complaint or iterable of Complaint
        At least one.

    Examples
    --------
    >>> error = DataError([Complaint("E310", "price: 3 missing"), Complaint("E311", "cost is text")])
    >>> error.codes
    ('E310', 'E311')
    """

    def __init__(self, complaints: Complaint | Iterable[Complaint]) -> None:
        listed = (complaints,) if isinstance(complaints, Complaint) else tuple(complaints)
        if not listed:
            raise ValueError("a GmmestError needs at least one complaint")
        self.complaints = listed
        super().__init__("\n".join(str(complaint) for complaint in listed))

    def __reduce__(self) -> tuple[Any, ...]:
        # raised on a worker, the records come back, and not their text alone
        return type(self), (self.complaints,), self.__dict__

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the complaints, in order."""
        return tuple(complaint.code for complaint in self.complaints)


class ConfigError(GmmestError, ValueError):
    """A configuration, an option or an argument cannot be used (E1xx)."""


class IdentificationError(GmmestError, ValueError):
    """The data and the moments cannot identify the parameters (E2xx)."""


class DataError(GmmestError, ValueError):
    """Rows, columns or arrays break a rule (E3xx)."""


class EstimationError(GmmestError, ValueError):
    """An estimate, a standard error or a test has no meaning here (E4xx)."""


class FileError(GmmestError, OSError):
    """A file cannot be read or written (E5xx)."""


class DerivativeError(GmmestError, TypeError):
    """A function cannot be differentiated as asked (E6xx)."""


class ExecutionError(GmmestError, RuntimeError):
    """The processes that compute fail, or cannot be given what they need (E7xx)."""


def printable(text: object) -> str:
    r"""Text with control and direction-changing characters made visible.

    Names come from files; printed raw they can move a terminal's cursor or reverse a line.

    Examples
    --------
    >>> printable("price\x1b[2J")
    'price\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def some(items: Iterable[object], most: int = 5) -> str:
    """The first few of many, and how many there are in all.

    Examples
    --------
    >>> some([3, 5, 8])
    '3, 5, 8'
    >>> some(range(100))
    '0, 1, 2, 3, 4 ... (100 in all)'
    """
    listed = [printable(item) for item in items]
    if len(listed) <= most:
        return ", ".join(listed)
    return f"{', '.join(listed[:most])} ... ({len(listed)} in all)"


def plural(count: int, noun: str) -> str:
    """A count with its noun: ``plural(1, "row")`` is ``"1 row"``, ``plural(2, "row")`` is ``"2 rows"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def closest(word: str, known: Iterable[str]) -> str:
    """The known word most like this one, upper and lower case alike; empty if none is.

    Examples
    --------
    >>> closest("Prise", ["cost", "price"]), closest("gx", ["hinc", "gc"]), closest("sigma", ["price"])
    ('price', 'gc', '')
    """
    from difflib import get_close_matches

    folded = word.lower()[:100]
    words = {other.lower(): other for other in reversed(list(known))}
    found = get_close_matches(folded, words, 1)
    if found:
        return words[found[0]]
    # one wrong letter in a word of two or three is below any useful cutoff
    short = (other for other in reversed(words) if 1 < len(other) == len(folded))
    return next((words[k] for k in short if sum(map(str.__ne__, k, folded)) == 1), "")


def nearest(name: object, known: Iterable[str]) -> str:
    """Advice where a name is nearly a known one: ``did you mean 'price'?``, or nothing."""
    near = closest(str(name), known)
    return f"did you mean {near!r}?" if near else ""


def not_among(option: str, value: object, choices: Iterable[object]) -> list[Complaint]:
    """E102 if an option is none of its words.

    Examples
    --------
    >>> print(not_among("kernel", "parsen", ["bartlett", "parzen"])[0])
    E102 kernel is 'parsen'; expected one of bartlett, parzen
      next:  did you mean 'parzen'?
    """
    listed = list(choices)
    if value in listed:
        return []
    words = [str(choice) for choice in listed]
    what = f"{option} is {value!r}; expected one of {', '.join(words)}"
    return [Complaint("E102", what, next=nearest(value, words))]


def not_parameters(option: str, given: Iterable[object], names: Sequence[str]) -> list[Complaint]:
    """E102 for each name that no parameter has.

    Examples
    --------
    >>> print(not_parameters("fixed", ["prise", "cost"], ["price", "cost"])[0])
    E102 fixed: there is no parameter 'prise'; expected price, cost
      next:  did you mean 'price'?
    """
    return [
        Complaint(
            "E102",
            f"{option}: there is no parameter {_shortened(name)}; expected {some(names, 20)}",
            next=nearest(name, names),
        )
        for name in given
        if name not in names
    ]


def require_parameters(option: str, given: Iterable[object], names: Sequence[str]) -> None:
    """Refuse names that no parameter has, see :func:`not_parameters`."""
    if complaints := not_parameters(option, given, names):
        raise ConfigError(complaints)


def _shortened(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:100]} ..."


def not_whole(option: str, value: Any, least: int) -> list[Complaint]:
    """E102 if an option is no whole number, or less than the least."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        return [Complaint("E102", f"{option} is {value!r}; a whole number from {least} was expected")]
    return []
