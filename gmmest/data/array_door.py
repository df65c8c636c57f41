"""Arrays of choice sets: shapes, names, offsets and choices, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from gmmest.data.block import taken_rows
from gmmest.data.columns import (
    FloatArray,
    IntArray,
    accept,
    index_ranges,
    quoted,
    refuse_duplicates,
    strict_array,
)
from gmmest.data.drops import SHOWN
from gmmest.data.frame_door import bad_sets
from gmmest.data.immutable import frozen
from gmmest.errors import Complaint, ConfigError, DataError, plural, printable, some

__all__ = ["ArraySets", "Matrices", "read_matrices", "read_sets", "require_one_door", "strict_matrix"]


@dataclass(frozen=True, slots=True)
class Matrices:
    """Features and instruments with their names."""

    features: FloatArray
    instruments: FloatArray
    feature_names: tuple[str, ...]
    instrument_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArraySets:
    """Offsets, and what was chosen; None where it was not given or cannot be used."""

    offsets: IntArray | None
    chosen: FloatArray | None

    @property
    def n_sets(self) -> int | None:
        """Number of choice sets, where it is known."""
        return None if self.offsets is None else self.offsets.size - 1


def require_one_door(chosen: object, instruments: object, moment_differences: object) -> None:
    """Refuse neither or both of what was chosen and moment differences (E102)."""
    if (chosen is None) == (moment_differences is None):
        given = "neither was given" if chosen is None else "both were given"
        what = f"exactly one of chosen and moment_differences is needed; {given}"
        advice = "give chosen where choices were observed, moment_differences where g = D's/N"
        raise ConfigError(Complaint("E102", what, "ChoiceData.from_arrays", advice))
    if instruments is not None and moment_differences is not None:
        what = "instruments and moment_differences are two names of one matrix; give one of them"
        raise ConfigError(Complaint("E102", what, "ChoiceData.from_arrays"))


def read_matrices(
    features: ArrayLike,
    instruments: ArrayLike | None,
    moment_differences: ArrayLike | None,
    feature_names: Sequence[str] | None,
    instrument_names: Sequence[str] | None,
) -> tuple[Matrices | None, list[Complaint]]:
    """X, Z and their names, if they can be used, and what is wrong with them."""
    second, given = "instruments", instruments
    if moment_differences is not None:
        second, given = "moment_differences", moment_differences
    complaints: list[Complaint] = []
    X = accept(strict_matrix(features, "features"), complaints)
    Z = X if given is None else accept(strict_matrix(given, second), complaints)
    if X is not None and Z is not None and X.shape[0] != Z.shape[0]:
        what = f"{second} has {plural(Z.shape[0], 'row')}, features has {X.shape[0]:,}"
        complaints.append(Complaint("E307", what, second, "give one row for each alternative of each set"))
        return None, complaints
    if X is None or Z is None:
        return None, complaints
    columns = accept(_names(feature_names, "x", X.shape[1], "feature_names"), complaints)
    if given is None and instrument_names is None:
        others = columns
    else:
        others = accept(_names(instrument_names, "z", Z.shape[1], "instrument_names"), complaints)
    if columns is None or others is None:
        return None, complaints
    if Z is not X:
        shared = sorted(set(columns) & set(others))
        unlike = [n for n in shared if not np.array_equal(X[:, columns.index(n)], Z[:, others.index(n)])]
        if unlike:
            what = (
                f"names that stand for a feature and for a different instrument: {some(map(quoted, unlike))}"
            )
            complaints.append(Complaint("E314", what, "instrument_names", "give them different names"))
    return Matrices(X, Z, columns, others), complaints


def read_sets(
    offsets: ArrayLike, chosen: ArrayLike | None, n_rows: int | None
) -> tuple[ArraySets, list[Complaint]]:
    """Offsets and choices of so many rows, and what is wrong with them."""
    complaints: list[Complaint] = []
    bounds = accept(_strict_offsets(offsets, n_rows), complaints)
    picked = None if chosen is None else accept(_strict_chosen(chosen, n_rows, bounds), complaints)
    return ArraySets(bounds, picked), complaints


def strict_matrix(value: ArrayLike, name: str) -> FloatArray | Complaint:
    """Convert to an (n, k) matrix of finite float64, or leave float32, with at least one column."""
    matrix = strict_array(value, name, 2, keep=np.float32)
    if not isinstance(matrix, Complaint) and matrix.shape[1] == 0:
        return Complaint("E307", f"{name} has shape {matrix.shape}: no columns", name, "give at least one")
    return matrix


def _names(
    given: Sequence[str] | None, letter: str, width: int, argument: str
) -> tuple[str, ...] | Complaint:
    if given is None:
        return tuple(f"{letter}{j}" for j in range(width))
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        return Complaint("E307", f"{argument} must be a list of text, got {printable(given)}", argument)
    names = tuple(given)
    if len(names) != width:
        what = f"{argument} has {plural(len(names), 'name')} for {plural(width, 'column')}"
        return Complaint("E307", what, argument, "give one name for each column")
    try:
        refuse_duplicates(names, argument)
    except DataError as error:
        return error.complaints[0]
    return names


def _strict_offsets(offsets: ArrayLike, n_rows: int | None) -> IntArray | Complaint:
    """Convert to offsets that start at 0, increase, and end at the rows."""
    array = np.asarray(offsets)
    advice = "set i is rows offsets[i]:offsets[i + 1]; begin with 0 and end with the number of rows"
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.size == 0:
        what = f"offsets must be a list of integers, got dtype {array.dtype} and shape {array.shape}"
        return Complaint("E308", what, "offsets", advice)
    if array.size == 1:
        return Complaint("E306", "there are no choice sets: offsets has one entry", "offsets", advice)
    if array[0] != 0:
        return Complaint("E308", f"offsets must start at 0, found {array[0]}", "offsets[0]", advice)
    falling = np.flatnonzero(array[1:] <= array[:-1])
    if falling.size:
        i = int(falling[0])
        what = f"offsets must increase: offsets[{i}] = {array[i]}, offsets[{i + 1}] = {array[i + 1]}"
        if array[i] == array[i + 1]:
            what += f", so set {i} has no rows"
        return Complaint("E308", what, f"offsets[{i + 1}]", advice)
    if n_rows is not None and array[-1] != n_rows:
        what = f"offsets must end with the number of rows, {n_rows:,}; found {array[-1]}"
        return Complaint("E308", what, f"offsets[{array.size - 1}]", advice)
    return cast(IntArray, frozen(array.astype(np.int64)))


def _strict_chosen(chosen: ArrayLike, n_rows: int | None, offsets: IntArray | None) -> FloatArray | Complaint:
    """Convert to a column of zeros with a one in each set."""
    picked = strict_array(chosen, "chosen", 1)
    if isinstance(picked, Complaint):
        return picked if picked.code == "E307" else replace(picked, code="E303")
    if n_rows is not None and picked.size != n_rows:
        return Complaint(
            "E307", f"chosen has {plural(picked.size, 'row')}, features has {n_rows:,}", "chosen"
        )
    bad = np.flatnonzero((picked != 0.0) & (picked != 1.0))
    if bad.size:
        what = (
            f"chosen must be 0 or 1, found {picked[bad[0]]:g}; {bad.size:,} of {plural(picked.size, 'row')}"
        )
        return Complaint("E303", what, index_ranges("chosen", bad), "write 1 in the chosen row, 0 elsewhere")
    if offsets is None or int(offsets[-1]) != picked.size:
        return picked
    wrong = np.add.reduceat(picked, offsets[:-1]) != 1.0
    if not wrong.any():
        return picked
    rows = taken_rows(offsets, np.flatnonzero(wrong)[:SHOWN])[0]
    ids = np.arange(offsets.size - 1)
    complaint = bad_sets("E302", wrong, picked, offsets, ids, index_ranges("chosen", rows))
    return replace(complaint, next="correct chosen or offsets, or leave these sets out")
