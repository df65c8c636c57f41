"""From files to a store, in one pass and bounded memory.

Pieces of whole choice sets go through the door that data in memory go through, and through the model's terms, one
after another; what asks for all of them (ids that come again, labels, counts of what was dropped) is
kept as sums and as keys in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gmmest.data.alternatives import alike_note, part_name, unknown_label
from gmmest.data.block import Block
from gmmest.data.choice_columns import ChoiceColumns
from gmmest.data.choice_data import ChoiceData
from gmmest.data.columns import FloatArray, IntArray, in_file, is_text, open_frame, row_ranges
from gmmest.data.content import GrowingHash, joined_hash
from gmmest.data.drops import Drop, NoSetsLeftError, added
from gmmest.data.frame_door import no_sets
from gmmest.data.observations import as_names
from gmmest.data.readers import empty
from gmmest.data.set_keys import Repeats, all_differ, appearance, keys_of, repeats
from gmmest.data.set_roles import read_time
from gmmest.data.store import Manifest, StoreWriter
from gmmest.data.streams import CellTypes, FilePiece, pieces, refuse_large_groups, run_starts, whole_sets
from gmmest.errors import Complaint, DataError, plural, printable

__all__ = ["Design", "Progress", "convert"]
Progress: TypeAlias = Callable[[int, "int | None"], None]

IN_MEMORY = "leave out --memory and data.cache, or in Python take ChoiceData"
SHOWN = 5  # complaints of one kind, and ids in one, before the rest is counted
LARGEST_PIECE = 1 << 14  # rows; larger ones are no faster
SHARE = 40
"""One byte in so many is for the numbers of a piece: the others for text, columns, features, what allocators keep."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """What a model makes of a piece of the data.

    Parameters
    ----------
    key : str
        Says all that `matrices` depends on.
    columns, labels : tuple of str
        Columns and alternatives that are used.
    names, moment_names : tuple of str
    matrices : callable
        From choice sets to X (n, P) and Z (n, M), None where Z is X.
    """

    key: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    moment_names: tuple[str, ...]
    matrices: Callable[[ChoiceData], tuple[FloatArray, FloatArray | None]]


def convert(
    files: Sequence[Path],
    types: CellTypes,
    columns: ChoiceColumns,
    design: Design,
    manifest: Manifest,
    target: Path,
    *,
    memory: int,
    n_rows: int | None = None,
    progress: Progress | None = None,
    confirm: Callable[[], None] | None = None,
    rows_per_piece: int | None = None,
) -> None:
    """Make the store of a design.

    Parameters
    ----------
    files : sequence of Path
    types : CellTypes
    columns : ChoiceColumns
    design : Design
    manifest : Manifest
        Without what is known only in the end: notes, clusters, fingerprint, arrays.
    target : Path
        The store to be.
    memory : int
        Bytes that may be used.
    n_rows : int, optional
        Rows in all, where known.
    progress : callable, optional
    confirm : callable, optional
        Called when all has been read, before the store gets its name; if it raises there is no store.
    rows_per_piece : int, optional
        By default as many as memory allows; changes nothing but speed.

    Raises
    ------
    DataError, FileError
        See :meth:`.ChoiceFiles.store`.
    """
    width = 8 * (3 * len(types.numbers) + 8 * len(types.text) + 2 * _numbers_in_row(design) + 8)
    rows = rows_per_piece or max(1, min(LARGEST_PIECE, memory // (SHARE * width)))
    most = memory // (4 * width)
    refuse_large_groups(files, types.columns, memory)
    needed = None if n_rows is None else _room(n_rows, columns, design)
    with StoreWriter(target, needed) as writer:
        whole = _Whole(writer, columns, design, str(files[0].name) if len(files) == 1 else _together(files))
        done = 0

        def read(path: Path) -> Iterator[FilePiece]:
            for piece in pieces(path, types, rows, memory, whole.refuse_cells):
                whole.require_one_schema(piece)
                yield piece

        for piece in whole_sets(files, read, columns.case, most):
            whole.take(piece)
            done += piece.table.num_rows
            if progress is not None:
                progress(done, n_rows)
        if confirm is not None:
            confirm()
        whole.refuse(files, rows, most, memory)
        writer.finish(whole.described(manifest, memory))


def _room(n_rows: int, columns: ChoiceColumns, design: Design) -> int:
    """Bytes of the store while it is made, if sets have two rows: more rows in a set take less."""
    weights = sum(name is not None for name in (columns.weight, columns.frequency))
    in_row = _numbers_in_row(design) + 1 + (weights > 0) + (columns.frequency is not None)
    # offsets, keys of ids; of each cluster the keys, the codes, and what finds these
    in_set = 1 + 2 + weights + 5 * len(as_names(columns.cluster))
    return 8 * (n_rows * in_row + n_rows // 2 * in_set)


def _numbers_in_row(design: Design) -> int:
    same = design.moment_names is design.names
    return len(design.names) + (0 if same else len(design.moment_names))


def _together(files: Sequence[Path]) -> str:
    return f"{files[0].name} ... {files[-1].name} ({len(files)} files)"


class _Whole:
    """What is known of all choice sets so far; arrays go to the store."""

    def __init__(self, writer: StoreWriter, columns: ChoiceColumns, design: Design, source: str) -> None:
        self._writer, self._columns, self._design, self._source = writer, columns, design, source
        self._clusters = as_names(columns.cluster)
        self._complaints: dict[str, list[Complaint]] = {}
        self._unreadable = False
        self._n_sets = 0
        self._drops: list[Drop] = []
        self._labels: dict[str, int] = {}
        self._end = 0
        self._hashes: dict[str, GrowingHash] = {}
        self._last_time: Any = None
        self._schema: Any = None

    def refuse_cells(self, error: DataError) -> None:
        """Note that some rows could not be read; sets that miss them are not looked at."""
        self._complain(error)
        self._unreadable = True

    def require_one_schema(self, piece: FilePiece) -> None:
        """Refuse times that are dates here and numbers there (E311)."""
        self._schema = self._schema or piece.table.schema
        for name, kind in zip(piece.table.schema.names, piece.table.schema.types, strict=True):
            before = self._schema.field(name).type
            if kind != before:
                what = f"{printable(name)} is {kind} from {piece.source}, row {piece.source.first + 1:,} on"
                raise DataError(
                    Complaint("E311", f"{what}, and {before} before", next="give the column one type")
                )

    def take(self, piece: FilePiece) -> None:
        """Check some choice sets and put them into the store."""
        starts = run_starts(piece.table, self._columns.case)
        if self._unreadable or not self._ids_differ(piece, starts):
            return
        self._n_sets += starts.size
        kept = np.zeros(starts.size, dtype=np.uint8)
        try:
            data = ChoiceData.from_part(piece.table, self._columns, piece.source)
            self._check_time(piece, starts)
            data = data.complete(self._design.columns).with_labels(self._design.labels)
            features, instruments = self._design.matrices(data)
            block = data.block(features, instruments)
        except NoSetsLeftError as error:
            self._drops += error.drops
        except DataError as error:
            self._complain(error)
            return
        else:
            self._drops += data.drops
            kept[np.searchsorted(starts, data.first_rows)] = 1
            self._put(data, block)
        for i, name in enumerate(self._clusters):
            self._writer.append(f"keys_cluster{i}", keys_of(_at(piece, name, starts)))
        if self._clusters:
            self._writer.append("kept", kept)

    def _ids_differ(self, piece: FilePiece, starts: IntArray) -> bool:
        """Put the keys of the ids to the others; ids that come again within the piece are found with those."""
        import pyarrow as pa

        ids = _at(piece, self._columns.case, starts)
        if ids.null_count or not (pa.types.is_large_string(ids.type) or pa.types.is_integer(ids.type)):
            return True  # the door of the data refuses them
        keys = keys_of(ids)
        self._writer.append("keys", keys)
        return all_differ(keys)

    def _check_time(self, piece: FilePiece, starts: IntArray) -> None:
        """Refuse times that go back (E304)."""
        name = self._columns.time
        if name is None:
            return
        values = read_time(open_frame(piece.table), name, piece.source, starts)
        before = values[:1] if self._last_time is None else self._last_time
        back = np.flatnonzero(np.diff(values, prepend=before) < 0)
        self._last_time = values[-1:]
        if back.size:
            row = row_ranges(in_file(piece.source, starts[back[:1]]))
            what = f"{printable(name)} goes back; data in files are read once, in their order"
            advice = f"sort the rows by {printable(name)}; data that fit into memory are sorted: {IN_MEMORY}"
            raise DataError(Complaint("E304", what, f"{piece.source}, {row}", advice))

    def _put(self, data: ChoiceData, block: Block) -> None:
        design, offsets = self._design, block.offsets
        self._append("offsets", offsets if self._end == 0 else offsets[1:] + self._end)
        self._end += int(offsets[-1])
        self._append("chosen", block.chosen)
        if data.alternatives is not None:
            appearing = data.alternatives.appearing()
            known = [self._labels.setdefault(label, len(self._labels)) for label in appearing.labels]
            self._hash("alternative", np.array(known, dtype=np.int64)[appearing.codes])
        self._writer.append("features", block.features)
        if block.instruments is not block.features:
            self._writer.append("instruments", block.instruments)
        for name in design.columns:
            self._hash(f"column {name}", data.column(name))
        for name, values in (
            ("weight", data.observations.weight),
            ("frequency", data.observations.frequency),
        ):
            if values is not None:
                self._append(name, values)
        for name, values in (("row_mass", block.weight), ("row_frequency", block.frequency)):
            if values is not None:
                self._writer.append(name, values)

    def _append(self, name: str, values: NDArray[Any]) -> None:
        self._writer.append(name, values)
        self._hash(name, values)

    def _hash(self, name: str, values: NDArray[Any]) -> None:
        self._hashes.setdefault(name, GrowingHash()).add(values)

    # --- when all has been seen ---

    def refuse(self, files: Sequence[Path], rows: int, most: int, memory: int) -> None:
        """Raise what is wrong with the data, if anything is."""
        if not self._unreadable and not self._complaints and self._n_sets == 0 and not self._has_keys():
            raise empty(
                files[0], "there is a header and nothing below it" if len(files) == 1 else "nor do others"
            )
        if self._has_keys() and not self._unreadable:
            found = repeats(self._writer.path("keys"), memory // 8, SHOWN)
            if found.count:
                # Sets whose rows lie apart were judged in parts, of which most have no chosen row.
                self._complaints.pop("E302", None)
                self._complain(DataError(_again(files, self._columns.case, found, rows, most, memory)))
            self._writer.drop("keys")
        if not self._complaints and self._end == 0:
            raise no_sets(self._source, self._notes())
        if not self._complaints:
            unknown = [label for label in self._design.labels if label not in self._labels]
            for label in unknown:
                self._complain(DataError(unknown_label(label, list(self._labels), self._source)))
        if self._complaints:
            raise DataError([c for listed in self._complaints.values() for c in _first_few(listed)])

    def described(self, manifest: Manifest, memory: int) -> Manifest:
        """The manifest with what is known in the end, and the codes of clusters put to the arrays."""
        for i, name in enumerate(self._clusters):
            codes = appearance(self._writer.path(f"keys_cluster{i}"), memory // 8, self._writer.scratch)
            kept = np.memmap(self._writer.path("kept"), np.uint8, "r")
            for start in range(0, len(codes), LARGEST_PIECE):
                part = slice(start, start + LARGEST_PIECE)
                of_kept = np.asarray(codes[part])[kept[part] == 1]
                self._writer.append(f"cluster{i}", of_kept)
                self._hash(f"cluster {name}", of_kept)
            self._writer.drop(f"keys_cluster{i}")
        if self._clusters:
            self._writer.drop("kept")
        return replace(
            manifest,
            notes=list(self._notes()),
            clusters=list(self._clusters),
            fingerprint=self._fingerprint(),
        )

    def _fingerprint(self) -> str:
        """That of :meth:`.ChoiceData.fingerprint`."""
        names = ["offsets", "chosen", "alternative", *(f"column {name}" for name in self._design.columns)]
        names += ["weight", "frequency", *(f"cluster {name}" for name in self._clusters)]
        written = {"alternative": part_name(tuple(self._labels))}
        return joined_hash(
            self._hashes[name].line(written.get(name, name)) for name in names if name in self._hashes
        )

    def _notes(self) -> tuple[str, ...]:
        drops = added(self._drops, self._n_sets)
        return (*alike_note(list(self._labels)), *(str(drop) for drop in drops))

    def _has_keys(self) -> bool:
        return self._writer.has("keys")

    def _complain(self, error: DataError) -> None:
        for complaint in error.complaints:
            listed = self._complaints.setdefault(complaint.code, [])
            if complaint.what not in [other.what for other in listed[: SHOWN + 1]]:
                listed.append(complaint)


def _first_few(complaints: list[Complaint]) -> list[Complaint]:
    """Complaints of one kind; of many the first, and how many there are."""
    if len(complaints) <= SHOWN:
        return complaints
    rest = plural(len(complaints) - SHOWN, "more complaint")
    return [*complaints[:SHOWN], Complaint(complaints[0].code, f"{rest} of this kind about later rows")]


def _at(piece: FilePiece, name: str, rows: IntArray) -> Any:
    """Some rows of a column, as one array; text as large strings."""
    import pyarrow as pa

    column = piece.table[name].take(pa.array(rows)).combine_chunks()
    return column.cast(pa.large_string()) if is_text(column) else column


def _again(files: Sequence[Path], case: str, found: Repeats, rows: int, most: int, memory: int) -> Complaint:
    """E304: ids that come again, which are looked up by reading the column once more."""
    wanted = np.unique(np.concatenate([found.before, found.again]))
    places: dict[int, tuple[str, str]] = {}
    cells = CellTypes((case,), (), ())
    seen = 0
    for piece in whole_sets(files, lambda path: pieces(path, cells, rows, memory), case, most):
        starts = np.append(run_starts(piece.table, case), piece.table.num_rows)
        for i in wanted[(wanted >= seen) & (wanted < seen + starts.size - 1)]:
            first, stop = starts[i - seen], starts[i - seen + 1]
            where = row_ranges(in_file(piece.source, np.arange(first, stop)))
            places[int(i)] = (printable(piece.table[case][int(first)]), f"{printable(piece.source)} {where}")
        seen += starts.size - 1
        if seen > wanted[-1]:
            break
    listed = [
        f"{places[int(again)][0]} in {places[int(before)][1]} and again in {places[int(again)][1]}"
        for before, again in zip(found.before, found.again, strict=True)
    ]
    more = f" ... ({found.count:,} in all)" if found.count > len(listed) else ""
    what = f"ids of choice sets that come again after others: {'; '.join(listed)}{more}"
    advice = f"sort the rows by {printable(case)}, or give sets different ids"
    return Complaint("E304", what, next=f"{advice}; data that fit into memory are sorted: {IN_MEMORY}")
