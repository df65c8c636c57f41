"""The structure of a frame of choice sets: which rows belong together, and which one was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
from gmmest.errors import Complaint, DataError, plural, printable

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw

__all__ = [
    "bad_sets",
    "contiguous",
    "moved_note",
    "no_sets",
    "read_structure",
    "repeated_alternatives",
    "rows_of",
    "some_unchosen",
]


def read_structure(
    frame: nw.DataFrame[Any], case: str, alternative: str | None, chosen: str, source: str
) -> tuple[Coded, Coded | None, FloatArray]:
    """Ids of the sets, alternatives and choices, row by row; all complaints about them together."""
    roles = {"case": case, "chosen": chosen}
    if alternative is not None:
        roles["alternative"] = alternative
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
        complaints += repeated_alternatives(
            coded["case"].codes, coded["case"].values, coded["alternative"], source, roles["alternative"]
        )
    if complaints or picked is None:
        raise DataError(complaints)
    return coded["case"], coded.get("alternative"), picked


def contiguous(sets: Coded) -> tuple[IntArray, IntArray]:
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


def rows_of(sets: IntArray, offsets: IntArray) -> IntArray:
    """List the rows of some sets."""
    return np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in sets])


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


def repeated_alternatives(
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
