"""Plain tables: named numeric columns for moment functions that are not choice models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gmmest.data.columns import (
    Arrow,
    FloatArray,
    absent,
    accept,
    as_float64,
    content_hash,
    did_you_mean,
    is_numeric,
    not_finite,
    open_frame,
    place,
    quoted,
    read_column,
    read_only,
    strict_array,
)
from gmmest.errors import Complaint, ConfigError, DataError, plural, printable, some

__all__ = ["Rows", "Table"]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A range of rows, as a moment function sees it: ``rows["y"]`` or ``rows.y``.

    Its one field is a mapping of arrays, and nothing is checked here, so that a derivative engine
    can take it apart and rebuild it with array-likes of its own.

    Parameters
    ----------
    columns : mapping of str to (n, ...) array
        A column named like an attribute of this class is reached as ``rows["columns"]``.

    Examples
    --------
    >>> rows = Rows({"y": np.array([1.0, 2.0]), "X": np.eye(2)})
    >>> rows.n_rows, rows.y
    (2, array([1., 2.]))
    """

    columns: Mapping[str, Any]

    @property
    def n_rows(self) -> int:
        """Number of rows, n."""
        return int(next(iter(self.columns.values())).shape[0])

    def __getitem__(self, name: str) -> Any:
        try:
            return self.columns[name]
        except KeyError:
            raise DataError(absent(name, list(self.columns), "")) from None

    def __getattr__(self, name: str) -> Any:
        # Asked for only what is no attribute.  The field itself is missing while a copy or an
        # unpickled object is being filled, and must not be looked up in itself.
        if name == "columns" or name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.columns[name]
        except KeyError:
            hint = did_you_mean(name, self.columns)
            raise AttributeError(f"no column {quoted(name)}{hint}") from None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Table:
    """Named numeric columns of equal length; made by :meth:`from_frame` or :meth:`from_arrays`.

    Attributes
    ----------
    columns : mapping of str to (n, ...) float64
        C-contiguous, read-only, finite.
    ignored : tuple of str
        Columns of the frame that are not numbers and were not asked for.
    source : str
        File name for messages.
    """

    columns: Mapping[str, FloatArray]
    ignored: tuple[str, ...] = ()
    source: str = ""

    @classmethod
    def from_frame(cls, frame: object, columns: Sequence[str] | None = None, source: str = "") -> Table:
        """Take columns of a frame.

        Parameters
        ----------
        frame : pandas.DataFrame, polars.DataFrame, pyarrow.Table or any eager frame that narwhals reads
        columns : sequence of str, optional
            By default all columns of numbers and booleans; the others are then left out and listed in
            ``ignored``.
        source : str
            File name for messages.

        Raises
        ------
        ConfigError
            E102: not a frame.
        DataError
            All at once: E306 no rows or no columns, E310 missing or infinite values, E311 not numbers,
            E314 equal column names, E315 absent columns.

        Examples
        --------
        >>> import pyarrow as pa
        >>> table = Table.from_frame(pa.table({"y": [1, 2], "city": ["Bonn", "Köln"]}))
        >>> table
        <Table: 2 rows, columns y; not numbers: city>
        """
        opened = open_frame(frame, source)
        complaints: list[Complaint] = []
        taken: dict[str, FloatArray] = {}
        ignored: list[str] = []
        for name in opened.columns if columns is None else dict.fromkeys(columns):
            if name not in opened.columns:
                complaints.append(absent(name, opened.columns, source))
                continue
            column = read_column(opened, name, source)
            if columns is None and (isinstance(column, Complaint) or not is_numeric(column)):
                ignored.append(name)
                continue
            values = accept(_strict_column(column, name, source), complaints)
            if values is not None:
                taken[name] = values
        if not complaints and (len(opened) == 0 or not taken):
            what = "the table has no rows" if len(opened) == 0 else "the table has no column of numbers"
            complaints.append(Complaint("E306", what, place(source)))
        if complaints:
            raise DataError(complaints)
        return cls(taken, tuple(ignored), source)

    @classmethod
    def from_arrays(cls, columns: Mapping[str, ArrayLike]) -> Table:
        """Take arrays of equal first dimension.

        Parameters
        ----------
        columns : mapping of str to (n, ...) array
            Read-only C-contiguous float64 arrays are shared, all others copied.

        Raises
        ------
        DataError
            All at once: E306 no rows or no columns, E307 shapes, E310 missing or infinite values, E311
            not real numbers.

        Examples
        --------
        >>> Table.from_arrays({"y": [1.0, 2.0], "X": np.eye(2)})
        <Table: 2 rows, columns y, X>
        """
        complaints: list[Complaint] = []
        taken: dict[str, FloatArray] = {}
        for name, value in columns.items():
            array = accept(strict_array(value, name), complaints)
            if array is not None:
                taken[name] = array
        lengths = {name: len(array) for name, array in taken.items()}
        if len(set(lengths.values())) > 1:
            counts = some((f"{name} has {length:,}" for name, length in lengths.items()), 12)
            what = f"columns must have equally many rows: {counts}"
            complaints.append(Complaint("E307", what, next="give one row for each observation"))
        if not columns or 0 in lengths.values():
            what = "the table has no rows" if columns else "the table has no columns"
            complaints.append(Complaint("E306", what))
        if complaints:
            raise DataError(complaints)
        return cls(taken)

    @property
    def n_rows(self) -> int:
        """Number of rows, n."""
        return len(next(iter(self.columns.values())))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.columns)

    def __repr__(self) -> str:
        others = f"; not numbers: {some(self.ignored)}" if self.ignored else ""
        return f"<Table: {plural(self.n_rows, 'row')}, columns {some(self.columns, 12)}{others}>"

    def column(self, name: str) -> FloatArray:
        """Return a column.

        Parameters
        ----------
        name : str

        Returns
        -------
        (n, ...) float64

        Raises
        ------
        DataError
            E311: it is not numbers and was left out.  E315: absent.
        """
        if name in self.ignored:
            what = f"{printable(name)} is not a column of numbers and was left out of the table"
            raise DataError(Complaint("E311", what, place(self.source, name), "make numbers of it first"))
        if name not in self.columns:
            raise DataError(absent(name, self.names, self.source))
        return self.columns[name]

    def rows(self, start: int = 0, stop: int | None = None) -> Rows:
        """Rows ``start:stop`` as views.

        Parameters
        ----------
        start, stop : int
            By default all rows.

        Raises
        ------
        ConfigError
            E102: not ``0 <= start < stop <= n_rows``.

        Examples
        --------
        >>> Table.from_arrays({"y": [1.0, 2.0, 3.0]}).rows(1, 3).y
        array([2., 3.])
        """
        stop = self.n_rows if stop is None else stop
        if not 0 <= start < stop <= self.n_rows:
            raise ConfigError(Complaint("E102", f"no rows {start}:{stop} among {self.n_rows:,}"))
        return Rows({name: array[start:stop] for name, array in self.columns.items()})

    def blocks(self, rows_per_block: int) -> Iterator[Rows]:
        """All rows in order, in blocks of nearly equal size."""
        if rows_per_block < 1:
            raise ConfigError(Complaint("E102", f"rows_per_block={rows_per_block}: expected at least 1"))
        count = -(-self.n_rows // rows_per_block)
        cuts = [j * self.n_rows // count for j in range(count + 1)]
        return (self.rows(cuts[j], cuts[j + 1]) for j in range(count))

    def fingerprint(self) -> str:
        """Return the sha256 of names, shapes and numbers, 64 hexadecimal digits."""
        return content_hash(list(self.columns.items()))


def _strict_column(column: Arrow | Complaint, name: str, source: str) -> FloatArray | Complaint:
    if isinstance(column, Complaint):
        return column
    rows = np.arange(len(column), dtype=np.int64)
    values = as_float64(column, name, source, rows)
    if isinstance(values, Complaint):
        return values
    return not_finite(values, name, source, rows) or read_only(np.ascontiguousarray(values))
