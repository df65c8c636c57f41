"""Columns that say something of a whole choice set: weight, frequency, cluster and time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.columns import (
    BoolArray,
    Coded,
    FloatArray,
    IntArray,
    absent,
    as_float64,
    code_ids,
    in_file,
    place,
    read_column,
    read_numbers,
    row_ranges,
)
from gmmest.data.immutable import read_only
from gmmest.data.observations import (
    Clusters,
    Kind,
    Names,
    Observations,
    as_names,
    not_constant,
    strict_weights,
    varying,
)
from gmmest.errors import Complaint, plural, printable

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw

__all__ = ["RoleColumns", "Roles", "SetRows", "read_set_roles", "read_time", "time_order"]


@dataclass(frozen=True, slots=True)
class RoleColumns:
    """Names of such columns."""

    weight: str | None = None
    frequency: str | None = None
    cluster: Names = None
    time: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SetRows:
    """Rows of a frame as sets: set i is the rows ``order[offsets[i]:offsets[i + 1]]``, and is called ``ids[i]``."""

    order: IntArray
    offsets: IntArray
    ids: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Roles:
    """Observations, and the order that time gives them (None if they lie in it) with a note on it."""

    observations: Observations
    order: IntArray | None = None
    note: str = ""

    def order_of(self, keep: BoolArray) -> IntArray | None:
        """The order of those observations that are kept, as places among them."""
        if self.order is None:
            return None
        renumbered = np.cumsum(keep) - 1
        places: IntArray = renumbered[self.order[keep[self.order]]]
        return places


def read_set_roles(
    frame: nw.DataFrame[Any],
    source: str,
    columns: RoleColumns,
    sets: SetRows,
    whole: bool = True,
    unit: str = "choice set",
) -> tuple[Roles, list[Complaint]]:
    """Read columns that are constant within observations, and say what is wrong with them.

    Parameters
    ----------
    frame : narwhals.DataFrame
    source : str
    columns : RoleColumns
    sets : SetRows
        The rows of each observation, and what to call it.
    whole : bool
        Whether these are all observations; of a part all weights may be zero.
    unit : str
        What an observation is called in notes.

    Returns
    -------
    Roles
        Those that can be used.
    list of Complaint
    """
    complaints: list[Complaint] = []
    found: dict[Kind, FloatArray] = {}
    weights: tuple[tuple[Kind, str | None], ...] = (
        ("weight", columns.weight),
        ("frequency", columns.frequency),
    )
    for kind, name in weights:
        if name is None:
            continue
        of_rows = read_numbers(frame, name, source, sets.order, kind)
        values = of_rows
        if not isinstance(of_rows, Complaint):
            values = _of_sets("E330", kind, name, of_rows, source, sets)
            if not isinstance(values, Complaint):
                where = partial(_place_of, of_rows, name, source, sets)
                values = strict_weights(values, kind, name, where, sets.ids, whole)
        if isinstance(values, Complaint):
            complaints.append(values)
        else:
            found[kind] = values
    clusters = []
    for name in as_names(columns.cluster):
        codes = _codes(frame, name, source)
        if isinstance(codes, Coded):
            of_sets = _of_sets("E331", "cluster", name, codes.codes[sets.order], source, sets, codes.values)
            if isinstance(of_sets, Complaint):
                complaints.append(of_sets)
            else:
                clusters.append(Clusters(name, read_only(of_sets.astype(np.int64)), codes.values))
        else:
            complaints += codes
    observations = Observations(found.get("weight"), found.get("frequency"), tuple(clusters))
    if columns.time is None:
        return Roles(observations), complaints
    moments = read_time(frame, columns.time, source, sets.order)
    if not isinstance(moments, Complaint):
        moments = _of_sets("E331", "time", columns.time, moments, source, sets)
    if isinstance(moments, Complaint):
        return Roles(observations), [*complaints, moments]
    return Roles(observations, *time_order(moments, columns.time, unit)), complaints


def _place_of(values: FloatArray, name: str, source: str, sets: SetRows, bad: BoolArray) -> str:
    """File, column and rows of sets with a fault; where values are missing only these rows."""
    rows = np.repeat(bad, np.diff(sets.offsets))
    if not rows.any():
        return place(source, name)
    missing = rows & ~np.isfinite(values)
    found = sets.order[missing if missing.any() else rows]
    return place(source, name, row_ranges(in_file(source, found)))


def read_time(frame: nw.DataFrame[Any], name: str, source: str, order: IntArray) -> Any:
    """A column of numbers or dates as sortable numbers, (n,) float64 or int64; or a complaint."""
    import pyarrow as pa

    if name not in frame.columns:
        return absent(name, frame.columns, source, "time")
    column = read_column(frame, name, source)
    if not isinstance(column, Complaint) and pa.types.is_temporal(column.type):
        if column.null_count:
            what = f"time {printable(name)}: {plural(column.null_count, 'value')} missing"
            return Complaint("E310", what, place(source, name), "give every observation a time")
        wide = pa.types.is_date32(column.type) or pa.types.is_time32(column.type)
        numbers = column.cast(pa.int32()).cast(pa.int64()) if wide else column.cast(pa.int64())
        return numbers.to_numpy(zero_copy_only=False)[order]
    values = column if isinstance(column, Complaint) else as_float64(column, name, source, order)
    if not isinstance(values, Complaint) and not np.all(np.isfinite(values)):
        what = f"time {printable(name)} is missing or infinite in {plural(int((~np.isfinite(values)).sum()), 'row')}"
        return Complaint("E310", what, place(source, name), "give every observation a time")
    return values


def time_order(values: NDArray[Any], name: str, unit: str) -> tuple[IntArray | None, str]:
    """The stable order by time, None if it is the one there is, with a note."""
    if np.all(values[1:] >= values[:-1]):
        return None, ""
    order = np.argsort(values, kind="stable")
    moved = int(np.count_nonzero(order != np.arange(order.size)))
    return (
        order,
        f"W305 {moved:,} of {plural(order.size, unit)} were moved into the order of {printable(name)}",
    )


def _codes(frame: nw.DataFrame[Any], name: str, source: str) -> Coded | tuple[Complaint, ...]:
    if name not in frame.columns:
        return (absent(name, frame.columns, source, "cluster"),)
    column = read_column(frame, name, source)
    if isinstance(column, Complaint):
        return (replace(column, code="E312", next="convert the column to text"),)
    return code_ids(column, name, source)


def _of_sets(
    code: str,
    role: str,
    name: str,
    values: Any,
    source: str,
    sets: SetRows,
    labels: NDArray[Any] | None = None,
) -> Any:
    """The value of each set, refused where it differs inside one."""
    differing = varying(values, sets.offsets)
    if differing.size:
        shown = values if labels is None else labels[values]
        complaint = not_constant(code, role, name, differing, shown, sets.offsets, sets.ids)
        return replace(complaint, where=place(source, name))
    return np.minimum.reduceat(values, sets.offsets[:-1])  # NaN wherever a row of the set has one
