"""Effects of groups taken out of a linear regression: every column less its mean within the group.

By the theorem of Frisch, Waugh and Lovell the coefficients of ``y = X b + D a + e``, D the dummies of the
groups among the exogenous regressors, are those of ``Q y = Q X b + Q e`` with the instruments ``Q Z``,
``Q = I - D (D'D)^-1 D'``; no dummy is ever made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.columns import absent, code_ids, open_frame, read_column
from gmmest.data.table import Table
from gmmest.errors import Complaint, DataError, IdentificationError, plural, printable, some
from gmmest.models.identification import COLLINEAR

__all__ = ["Grouped", "grouped"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """A table whose rows belong to groups of one kind.

    Parameters
    ----------
    table : Table
        The columns that are used.
    name : str
        What the groups are called.
    codes : (n,) int64
        The group of each row, 0 to G - 1.
    labels : (G,) array
        Their ids.
    """

    table: Table
    name: str
    codes: NDArray[np.int64]
    labels: NDArray[Any]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each group, (G,)."""
        return np.bincount(self.codes, minlength=len(self.labels))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was absorbed; groups of one row, whose effect explains that row without error (``W306``)."""
        said = f"effects of {plural(len(self.labels), 'group')} of {printable(self.name)} are absorbed"
        alone = self.labels[self.sizes == 1]
        if not len(alone):
            return (said,)
        what = f"{plural(len(alone), 'group')} of {printable(self.name)} with one row each: {some(alone)}"
        return (
            said,
            f"W306 {what}; their effects explain these rows without error, and they count in N",
        )

    def fingerprint(self) -> str:
        """SHA-256 of the numbers and of the groups."""
        columns = {**self.table.columns, f"groups of {self.name}": self.codes.astype(np.float64)}
        return replace(self.table, columns=columns).fingerprint()

    def within(self, values: Array, mass: Array | None) -> Array:
        """Columns (n, k) less their means within groups, weighted by mass (n,).

        Twice, because the first mean of a column that is large against its variation is rounded to the size
        of the column, and the second to that of the variation.  O(n k).
        """
        total = np.bincount(self.codes, weights=mass, minlength=len(self.labels))
        centred = np.array(values, dtype=np.float64, order="C")
        for column in (centred[:, k] for k in range(centred.shape[1])):
            for _ in range(2):
                weighted = column if mass is None else mass * column
                column -= (np.bincount(self.codes, weights=weighted) / total)[self.codes]
        return centred

    def require_variation(self, values: Array, centred: Array, names: Iterable[str]) -> None:
        """Refuse columns that the effects explain, E203: no more than rounding of them is left."""
        found = list(self._without_variation(values, centred, names))
        if found:
            raise IdentificationError(found)

    def _without_variation(self, values: Array, centred: Array, names: Iterable[str]) -> Iterator[Complaint]:
        size, left = np.abs(values).max(axis=0), np.abs(centred).max(axis=0)
        for name, before, after in zip(names, size, left, strict=True):
            if after <= COLLINEAR * before:
                what = f"{printable(name)} does not vary inside any group of {printable(self.name)}"
                yield Complaint("E203", what, next="the absorbed effects contain it; drop it")


def grouped(data: Any, used: tuple[str, ...], name: str) -> Grouped:
    """The columns of a frame or table with the groups of one more column.

    Parameters
    ----------
    data : frame or Table
        In a frame the groups are integers or text; in a table a cluster of that name, or a column of whole
        numbers.
    used : tuple of str
    name : str

    Raises
    ------
    DataError
        All at once: what :meth:`.Table.from_frame` refuses, and of the groups E310 missing ids, E312 ids that
        are no whole numbers, E315 an absent column.
    """
    if isinstance(data, Table):
        way = next((way for way in data.observations.clusters if way.name == name), None)
        ids = _whole_numbers(data.column(name), name) if way is None else way.codes
        found, codes = np.unique(ids, return_inverse=True)
        return Grouped(data, name, codes, found if way is None else way.ids(found))
    complaints: list[Complaint] = []
    frame = open_frame(data)
    column = read_column(frame, name, "") if name in frame.columns else absent(name, frame.columns, "")
    coded = column if isinstance(column, Complaint) else code_ids(column, name, "")
    if isinstance(coded, Complaint):
        complaints.append(coded)
    elif isinstance(coded, tuple):
        complaints += coded
    try:
        table = Table.from_frame(data, used)
    except DataError as error:
        raise DataError([*complaints, *error.complaints]) from None
    if isinstance(coded, (Complaint, tuple)):
        raise DataError(complaints)
    return Grouped(table, name, coded.codes, coded.values)


def _whole_numbers(values: Array, name: str) -> NDArray[np.int64]:
    if values.ndim != 1 or not np.array_equal(values, np.floor(values)) or np.abs(values).max() > 2.0**53:
        what = f"{printable(name)} is no column of whole numbers; groups are integers or text"
        raise DataError(Complaint("E312", what, next="cluster= for text, where the table is made"))
    return values.astype(np.int64)
