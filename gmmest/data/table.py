"""Plain tables: named numeric columns for moment functions that are not choice models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from gmmest.data.columns import (
    Arrow,
    FloatArray,
    IntArray,
    absent,
    accept,
    as_float64,
    did_you_mean,
    is_numeric,
    not_finite,
    open_frame,
    place,
    quoted,
    read_column,
    strict_array,
)
from gmmest.data.content import content_hash
from gmmest.data.immutable import read_only
from gmmest.data.observations import UNWEIGHTED, Names, Observations, read_observations
from gmmest.data.set_roles import RoleColumns, SetRows, read_set_roles
from gmmest.errors import Complaint, ConfigError, DataError, plural, printable, some

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw

__all__ = ["Rows", "Table"]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A range of rows, as a moment function sees it: ``rows["y"]`` or ``rows.y``.

    Its fields are a mapping of arrays and the rows' weights, and nothing is checked here, so that a
    derivative engine can take it apart and rebuild it with array-likes of its own.

    Parameters
    ----------
    columns : mapping of str to (n, ...) array
        A column named like an attribute of this class is reached as ``rows["columns"]``.
    observation_weight : (n,) array, optional
        What a row's contribution is multiplied by, sampling weight times frequency; None for ones.
        Models do it; a moment function need not look at it.

    Examples
    --------
    >>> rows = Rows({"y": np.array([1.0, 2.0]), "X": np.eye(2)})
    >>> rows.n_rows, rows.y
    (2, array([1., 2.]))
    """

    columns: Mapping[str, Any]
    observation_weight: Any = None

    def entries_at(self, places: IntArray, seen: Observations) -> Rows:
        """Rows by their places, in that order, with the weights of ``seen`` instead of their own."""
        return Rows({name: array[places] for name, array in self.columns.items()}, seen.mass)

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
        if name in ("columns", "observation_weight") or name.startswith("__"):
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
    observations : Observations
        Weights, frequencies and clusters of the rows, where they were given.
    notes : tuple of str
        What was done to the rows: ordered by time, dropped for a weight of zero.
    """

    columns: Mapping[str, FloatArray]
    ignored: tuple[str, ...] = ()
    source: str = ""
    observations: Observations = UNWEIGHTED
    notes: tuple[str, ...] = ()

    @classmethod
    def from_frame(
        cls,
        frame: object,
        columns: Sequence[str] | None = None,
        source: str = "",
        *,
        weight: str | None = None,
        frequency: str | None = None,
        cluster: Names = None,
        time: str | None = None,
    ) -> Table:
        """Take columns of a frame.

        Parameters
        ----------
        frame : pandas.DataFrame, polars.DataFrame, pyarrow.Table or any eager frame that narwhals reads
        columns : sequence of str, optional
            By default all columns of numbers and booleans; the others are then left out and listed in
            ``ignored``.
        source : str
            File name for messages.
        weight, frequency : str, optional
            Columns with sampling weights and with counts.  Both multiply the moments; only a frequency
            counts as so many observations.  Rows with 0 are dropped, with a note.
        cluster : str or sequence of str, optional
            Columns with the ids of groups (integers or text).
        time : str, optional
            Column by which rows are ordered (numbers or dates), stably, for covariances with lags.

        Raises
        ------
        ConfigError
            E102: not a frame.
        DataError
            All at once: E306 no rows or no columns, E310 missing or infinite values, E311 not numbers,
            E312 ids that are floats, E314 equal column names, E315 absent columns, E330 weights that are
            negative or missing.

        Examples
        --------
        >>> import pyarrow as pa
        >>> table = Table.from_frame(pa.table({"y": [1, 2], "city": ["Bonn", "Köln"]}))
        >>> table
        <Table: 2 rows, columns y; not numbers: city>
        """
        opened = open_frame(frame, source)
        found = _numbers(opened, columns, source)
        complaints = [column for column in found.values() if isinstance(column, Complaint)]
        taken = {name: column for name, column in found.items() if not isinstance(column, Complaint)}
        if not complaints and (len(opened) == 0 or not taken):
            what = "the table has no rows" if len(opened) == 0 else "the table has no column of numbers"
            complaints.append(Complaint("E306", what, place(source)))
        if len(opened) == 0:
            raise DataError(complaints)
        asked = RoleColumns(weight, frequency, cluster, time)
        roles, of_roles = read_set_roles(opened, source, asked, _single_rows(len(opened)), unit="row")
        if complaints or of_roles:
            raise DataError([*complaints, *of_roles])
        ignored = () if columns is not None else tuple(name for name in opened.columns if name not in taken)
        table = cls(taken, ignored, source, roles.observations)
        if roles.order is not None:
            table = replace(table._take(roles.order), notes=(roles.note,))
        return table._without_weight_zero()

    @classmethod
    def from_arrays(
        cls,
        columns: Mapping[str, ArrayLike],
        *,
        weight: ArrayLike | None = None,
        frequency: ArrayLike | None = None,
        cluster: ArrayLike | Mapping[str, ArrayLike] | None = None,
    ) -> Table:
        """Take arrays of equal first dimension.

        Parameters
        ----------
        columns : mapping of str to (n, ...) array
            Read-only C-contiguous float64 arrays are shared, all others copied.
        weight, frequency : (n,) array, optional
            Sampling weights and counts of the rows; see :meth:`from_frame`.
        cluster : (n,) array of integers or text, or mapping of such, optional
            The group of each row; a mapping names several ways of grouping.

        Raises
        ------
        DataError
            All at once: E306 no rows or no columns, E307 shapes, E310 missing or infinite values, E311
            not real numbers, E312 ids that are floats, E330 weights that are negative or missing.

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
        n = next(iter(lengths.values()), None)
        observations, of_rows = read_observations(weight, frequency, cluster, n)
        if complaints or of_rows:
            raise DataError([*complaints, *of_rows])
        return cls(taken, observations=observations)._without_weight_zero()

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
        mass = self.observations.mass
        return Rows(
            {name: array[start:stop] for name, array in self.columns.items()},
            None if mass is None else mass[start:stop],
        )

    def _take(self, places: Any) -> Table:
        """Rows by their places, in that order."""
        taken = {name: read_only(np.ascontiguousarray(a[places])) for name, a in self.columns.items()}
        return replace(self, columns=taken, observations=self.observations.take(places))

    def _without_weight_zero(self) -> Table:
        zero = self.observations.zero()
        if zero is None:
            return self
        count, rows = int(zero.sum()), plural(self.n_rows, "row")
        note = f"W330 dropped {count:,} of {rows} with weight or frequency zero; {self.n_rows - count:,} are used"
        return replace(self._take(np.flatnonzero(~zero)), notes=(*self.notes, note))

    def fingerprint(self) -> str:
        """Return the sha256 of names, shapes and numbers, 64 hexadecimal digits."""
        return content_hash([*self.columns.items(), *self.observations.parts()])


def _numbers(
    frame: nw.DataFrame[Any], wanted: Sequence[str] | None, source: str
) -> dict[str, FloatArray | Complaint]:
    """The columns that are wanted, by name; where nothing is said, all that are numbers."""
    found: dict[str, FloatArray | Complaint] = {}
    for name in frame.columns if wanted is None else dict.fromkeys(wanted):
        if name not in frame.columns:
            found[name] = absent(name, frame.columns, source)
            continue
        column = read_column(frame, name, source)
        if wanted is not None or (not isinstance(column, Complaint) and is_numeric(column)):
            found[name] = _strict_column(column, name, source)
    return found


def _single_rows(n: int) -> SetRows:
    """Every row an observation of its own, with its number as a name."""
    rows = np.arange(n, dtype=np.int64)
    # Names in words are for messages; those of many rows would take more memory than the rows.
    names = np.array([f"row {i}" for i in range(1, n + 1)]) if n < 10**5 else rows + 1
    return SetRows(rows, np.arange(n + 1, dtype=np.int64), names)


def _strict_column(column: Arrow | Complaint, name: str, source: str) -> FloatArray | Complaint:
    if isinstance(column, Complaint):
        return column
    rows = np.arange(len(column), dtype=np.int64)
    values = as_float64(column, name, source, rows)
    if isinstance(values, Complaint):
        return values
    return not_finite(values, name, source, rows) or read_only(np.ascontiguousarray(values))
