"""Terms of a utility: from columns and alternatives to the columns of a feature matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.data.choice_data import ChoiceData
from gmmest.data.immutable import frozen
from gmmest.errors import Complaint, ConfigError, DataError, GmmestError, some

__all__ = ["Constant", "Term", "as_terms", "design_matrix", "used_columns"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, init=False)
class Term:
    """One term of a utility: a product of columns, for all alternatives or only for some.

    Parameters
    ----------
    *columns : str
        Columns to multiply; one is the usual case.
    only : str, int or sequence of such, optional
        The alternatives in whose utility the term stands; all by default.
    name : str, optional
        Name of its parameter.  By default the columns joined by ``:`` and, with ``only``, the
        alternatives joined by ``_``: ``hinc_air``.  Terms of equal name share one parameter.

    Examples
    --------
    >>> Term("hinc", only="air").name
    'hinc_air'
    >>> Term("gc", "hinc").name
    'gc:hinc'
    """

    columns: tuple[str, ...]
    only: tuple[str, ...]
    name: str

    def __init__(
        self, *columns: str, only: str | int | Sequence[str | int] | None = None, name: str | None = None
    ) -> None:
        alternatives = _labels(only)
        wrong = [repr(column) for column in columns if not isinstance(column, str) or not column]
        if wrong:
            raise ConfigError(Complaint("E102", f"a term's columns are names, not {', '.join(wrong)}"))
        if not columns and not alternatives:
            raise ConfigError(
                Complaint("E102", "a term needs a column, or an alternative to be the constant of")
            )
        stem = ":".join(columns) if columns else "asc"
        object.__setattr__(self, "columns", tuple(columns))
        object.__setattr__(self, "only", alternatives)
        object.__setattr__(self, "name", name or "_".join([stem, *alternatives]))


def as_terms(terms: Sequence[Term | str]) -> tuple[Term, ...]:
    """Terms of a list that may name plain columns as text.

    Examples
    --------
    >>> [term.name for term in as_terms(["gc", Constant("air")])]
    ['gc', 'asc_air']
    """
    given = (terms,) if isinstance(terms, (str, Term)) else tuple(terms)
    wrong = [repr(term) for term in given if not isinstance(term, (str, Term))]
    if wrong:
        raise ConfigError(
            Complaint("E102", f"terms are Term, Constant or the name of a column, not {some(wrong)}")
        )
    return tuple(Term(term) if isinstance(term, str) else term for term in given)


def _labels(only: str | int | Sequence[str | int] | None) -> tuple[str, ...]:
    """Labels as text: whole numbers in a column of alternatives are labels too."""
    if only is None:
        return ()
    given = (only,) if isinstance(only, (str, int, float)) else tuple(only)
    wrong = [repr(label) for label in given if isinstance(label, bool) or not isinstance(label, (str, int))]
    if wrong:
        raise ConfigError(
            Complaint("E102", f"labels of alternatives are text or whole numbers, not {some(wrong)}")
        )
    return tuple(str(label) for label in given)


def Constant(alternative: str | int | Sequence[str | int], name: str | None = None) -> Term:
    """The constant of an alternative (or one shared by several): 1 in its rows, 0 elsewhere.

    Parameters
    ----------
    alternative : str, int or sequence of such
    name : str, optional
        By default ``asc_`` and the alternative.

    Examples
    --------
    >>> Constant("air").name
    'asc_air'
    """
    return Term(only=alternative, name=name)


def used_columns(terms: Iterable[Term]) -> tuple[str, ...]:
    """The columns that terms need, each once, in order of first use."""
    return tuple(dict.fromkeys(column for term in terms for column in term.columns))


def design_matrix(terms: Sequence[Term], data: ChoiceData) -> tuple[tuple[str, ...], Array]:
    """The matrix whose column k is the sum of the terms that share the k-th name.

    Parameters
    ----------
    terms : sequence of Term
    data : ChoiceData
        With columns that were checked (``data.complete``).

    Returns
    -------
    names : tuple of str
        In order of first appearance.
    matrix : array (n, K)
        C-contiguous.
    """
    names = tuple(dict.fromkeys(term.name for term in terms))
    position = {name: k for k, name in enumerate(names)}
    matrix = np.zeros((data.n_rows, len(names)))
    complaints: list[Complaint] = []
    for term in terms:
        try:
            matrix[:, position[term.name]] += _term_values(term, data)
        except GmmestError as error:
            complaints.extend(c for c in error.complaints if c not in complaints)
    if complaints:
        raise DataError(complaints)
    return names, frozen(matrix)


def _term_values(term: Term, data: ChoiceData) -> Array:
    values = np.ones(data.n_rows)
    for column in term.columns:
        values *= data.column(column)
    if term.only:
        inside = np.zeros(data.n_rows)
        for alternative in dict.fromkeys(term.only):
            inside += data.indicator(alternative)
        values = np.where(inside > 0, values, 0.0)
    return values
