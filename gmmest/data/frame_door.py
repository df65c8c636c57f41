"""The structure of a frame of choice sets: which rows belong together, and which one was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.alternatives import Alternatives
from gmmest.data.block import taken_rows
from gmmest.data.choice_columns import ChoiceColumns
from gmmest.data.columns import (
    BoolArray,
    Coded,
    FloatArray,
    IntArray,
    absent,
    accept,
    code_ids,
    in_file,
    place,
    read_column,
    row_ranges,
    zero_one,
)
from gmmest.data.drops import SHOWN, Drop, NoSetsLeftError, unchosen
from gmmest.data.immutable import read_only
from gmmest.data.set_roles import SetRows
from gmmest.errors import Complaint, DataError, plural, printable

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw

__all__ = ["Structure", "bad_sets", "moved_note", "no_sets", "read_structure", "some_unchosen"]


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """The choice sets of a frame.

    Parameters
    ----------
    sets : SetRows
    chosen : (n,) float64
        1.0 in chosen rows; in the order of the sets, as are `alternatives`.
    bad : (N,) bool
        Sets in which not exactly one row is chosen.
    alternatives : Alternatives, or None
    """

    sets: SetRows
    chosen: FloatArray
    bad: BoolArray
    alternatives: Alternatives | None


def read_structure(
    frame: nw.DataFrame[Any], columns: ChoiceColumns, source: str
) -> tuple[Structure, list[Complaint]]:
    """The choice sets of a frame, and what is wrong with them: E302 (if that is an error) and E305.

    Raises
    ------
    DataError
        All at once: columns that are absent, or that cannot be read as ids and choices.
    """
    roles = {"case": columns.case, "chosen": columns.chosen}
    if columns.alternative is not None:
        roles["alternative"] = columns.alternative
    complaints = [
        absent(name, frame.columns, source, role) for role, name in roles.items() if name not in frame.columns
    ]
    if complaints:
        raise DataError(complaints)
    if len(frame) == 0:
        raise no_sets(source, ("the table has no rows",))
    coded: dict[str, Coded] = {}
    picked: FloatArray | None = None
    for role, name in roles.items():
        column = read_column(frame, name, source)
        if isinstance(column, Complaint):
            if role == "chosen":
                complaints.append(replace(column, code="E303", next="write 1 and 0 in the whole column"))
            else:
                complaints.append(replace(column, code="E312", next="convert the column to text"))
        elif role == "chosen":
            picked = accept(zero_one(column, name, source), complaints)
        else:
            ids = code_ids(column, name, source)
            if isinstance(ids, Coded):
                coded[role] = ids
            else:
                complaints += ids
    if "case" in coded and "alternative" in coded and complaints:
        complaints += _repeated_alternatives(
            coded["case"].codes, coded["case"].values, coded["alternative"], source, roles["alternative"]
        )
    if complaints or picked is None:
        raise DataError(complaints)
    return _arranged(coded["case"], coded.get("alternative"), picked, columns, source)


def _arranged(
    sets: Coded, alternatives: Coded | None, picked: FloatArray, columns: ChoiceColumns, source: str
) -> tuple[Structure, list[Complaint]]:
    """Rows put together into sets, and complaints about sets."""
    order, offsets = _contiguous(sets)
    chosen = picked[order]
    bad = np.add.reduceat(chosen, offsets[:-1]) != 1.0
    complaints: list[Complaint] = []
    if bad.any() and columns.on_bad_sets == "error":
        rows = order[taken_rows(offsets, np.flatnonzero(bad)[:SHOWN])[0]]
        where = place(source, columns.chosen, row_ranges(in_file(source, rows)))
        complaints.append(bad_sets("E302", bad, chosen, offsets, sets.values, where))
    named = None
    if alternatives is not None:
        name = columns.alternative or ""
        complaints += _repeated_alternatives(sets.codes, sets.values, alternatives, source, name)
        labels = tuple(str(label) for label in alternatives.values)
        named = Alternatives(read_only(alternatives.codes[order]), labels)
    return Structure(SetRows(order, offsets, sets.values), chosen, bad, named), complaints


def _contiguous(sets: Coded) -> tuple[IntArray, IntArray]:
    """Find the stable order that makes every set one range, and the offsets of the ranges."""
    codes = sets.codes
    sizes = np.bincount(codes, minlength=sets.values.size)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    lie_together = bool(np.all(codes[1:] >= codes[:-1]))
    order = np.arange(codes.size) if lie_together else np.argsort(codes, kind="stable")
    return order.astype(np.int64, copy=False), offsets


def moved_note(order: IntArray) -> tuple[str, ...]:
    """Say how many rows were moved; nothing if none was."""
    moved = int(np.count_nonzero(order != np.arange(order.size)))
    if not moved:
        return ()
    were = "was" if moved == 1 else "were"
    return (
        f"W304 {moved:,} of {plural(order.size, 'row')} {were} moved so that every choice set is contiguous",
    )


def bad_sets(
    code: str, bad: BoolArray, chosen: FloatArray, offsets: IntArray, ids: NDArray[Any], where: str
) -> Complaint:
    """Complain about the sets without exactly one chosen row."""
    what = unchosen(some_unchosen(bad, chosen, offsets, ids), int(bad.sum()), bad.size)
    return Complaint(code, what, where, "fix the column, or drop such sets with  on_bad_sets: drop")


def some_unchosen(
    bad: BoolArray, chosen: FloatArray, offsets: IntArray, ids: NDArray[Any]
) -> tuple[str, ...]:
    """List the first sets without exactly one chosen row."""
    listed: list[str] = []
    for i in np.flatnonzero(bad)[:SHOWN]:
        count = int(chosen[offsets[i] : offsets[i + 1]].sum())
        listed.append(f"{printable(ids[i])} ({count or 'none'} chosen)")
    return tuple(listed)


def _repeated_alternatives(
    set_codes: IntArray, ids: NDArray[Any], alternatives: Coded, source: str, column: str
) -> list[Complaint]:
    """E305: an alternative that stands twice in one set."""
    # One integer for each pair; at most (rows)**2 < 2**63, because neither count exceeds the rows.
    pairs = set_codes * alternatives.values.size + alternatives.codes
    ordered = np.sort(pairs)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if twice.size == 0:
        return []
    listed = [
        f"{printable(alternatives.values[pair % alternatives.values.size])} "
        f"in set {printable(ids[pair // alternatives.values.size])}"
        for pair in twice[:SHOWN]
    ]
    more = f" ... ({twice.size:,} in all)" if twice.size > SHOWN else ""
    what = f"an alternative more than once in a choice set: {', '.join(listed)}{more}"
    rows = row_ranges(in_file(source, np.flatnonzero(np.isin(pairs, twice[:SHOWN]))))
    advice = "remove the repeated rows, or correct the ids if they are two choice sets"
    return [Complaint("E305", what, place(source, column, rows), advice)]


def no_sets(source: str, reasons: Sequence[str], drops: tuple[Drop, ...] = ()) -> NoSetsLeftError:
    """E306: nothing is left, and why."""
    what = "no choice set is left"
    error = NoSetsLeftError(
        Complaint("E306", f"{what}: {'; '.join(reasons)}", place(source), "check the data")
    )
    error.drops = drops
    return error
