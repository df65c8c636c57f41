"""Files read a piece at a time, in bounded memory, and regrouped so that no choice set is divided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gmmest.data.choice_columns import ChoiceColumns
from gmmest.data.columns import BoolArray, IntArray, Source, in_file
from gmmest.data.memory import in_words
from gmmest.data.observations import as_names
from gmmest.data.readers import (
    ArrowTable,
    csv_width,
    decoded,
    malformed,
    opened_csv,
    parquet_errors,
    plain_type,
    system_errors,
    typed,
    with_whole_ids,
)
from gmmest.errors import Complaint, DataError, FileError, plural, printable

__all__ = [
    "CellTypes",
    "FilePiece",
    "cell_types",
    "pieces",
    "refuse_large_groups",
    "run_starts",
    "types_of",
    "whole_sets",
]

SMALLEST_BLOCK, LARGEST_BLOCK = 1 << 16, 1 << 24  # bytes of a CSV file that are parsed together
SHOWN = 5  # files in one refusal, before the rest is counted
TEXT_SHARE = 64  # of the limit, what the text of a piece takes at most: it is copied on its way to codes


@dataclass(frozen=True, slots=True)
class CellTypes:
    """What the cells of the columns that are read must be; see :func:`.read_frame`."""

    text: tuple[str, ...]
    numbers: tuple[str, ...]
    flags: tuple[str, ...]
    times: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()  # numbers that are ids too

    @property
    def columns(self) -> list[str]:
        """All columns, each once."""
        return list(dict.fromkeys([*self.text, *self.numbers, *self.flags, *self.times]))


def cell_types(columns: ChoiceColumns, numbers: Sequence[str]) -> CellTypes:
    """What the columns of choice data hold, and the numbers that a model uses."""
    return types_of(
        [name for name in (columns.case, columns.alternative) if name],
        numbers,
        [columns.chosen],
        weights=[columns.weight, columns.frequency],
        clusters=as_names(columns.cluster),
        time=columns.time,
    )


def types_of(
    ids: Sequence[str],
    numbers: Sequence[str],
    flags: Sequence[str],
    *,
    weights: Sequence[str | None],
    clusters: Sequence[str],
    time: str | None,
) -> CellTypes:
    """What columns hold; one may be a number of the model and a cluster or the time."""
    # A year may be a cluster and the time at once.
    shared = time if time in clusters else None
    numeric = tuple(dict.fromkeys(name for name in (*numbers, *weights, shared) if name))
    return CellTypes(
        text=tuple(dict.fromkeys([*ids, *(name for name in clusters if name not in numeric)])),
        numbers=numeric,
        flags=tuple(flags),
        times=(time,) if time and time not in numeric else (),
        whole=tuple(name for name in clusters if name in numeric),
    )


@dataclass(frozen=True, slots=True, eq=False)
class FilePiece:
    """Consecutive rows, and where they stand: a name for messages that knows the first of them."""

    table: ArrowTable
    source: Source

    def part(self, start: int, stop: int | None = None) -> FilePiece:
        """Rows ``start:stop``."""
        stop = self.table.num_rows if stop is None else stop
        return FilePiece(
            self.table.slice(start, stop - start), Source(self.source, in_file(self.source, start))
        )

    def before(self, other: FilePiece) -> FilePiece:
        """These rows and those of the other, which follow; across files rows are counted on."""
        import pyarrow as pa

        mine, others = str(self.source), str(other.source)
        known = mine == others or mine.endswith(f" and on in {others}")
        name = mine if known else f"{mine} and on in {others}"
        return FilePiece(pa.concat_tables([self.table, other.table]), Source(name, self.source.first))


def pieces(
    path: Path,
    types: CellTypes,
    rows: int,
    limit: int,
    refuse: Callable[[DataError], None] | None = None,
) -> Iterator[FilePiece]:
    """The columns of one file, at most so many rows at a time.

    Parameters
    ----------
    path : Path
    types : CellTypes
    rows : int
    limit : int
        Bytes of memory that a piece of text may take.
    refuse : callable, optional
        Gets what is wrong with cells; the pieces that hold them are left out.  By default it is raised.

    Raises
    ------
    DataError, FileError
        Those of :func:`.read_frame`; E504: cells, larger than the limit.
    """
    csv = path.suffix.lower() == ".csv"
    columns, done = types.columns, 0
    batches = _csv_batches(path, columns, limit) if csv else _parquet_batches(path, columns, rows, limit)
    with system_errors(path):
        for batch in batches:
            for start in range(0, batch.num_rows, rows):
                table = batch.slice(start, rows)
                source = Source(path.name, done)
                done += table.num_rows
                try:
                    if csv:
                        table = typed(table, types.numbers, types.flags, types.times, source)
                except DataError as error:
                    if refuse is None:
                        raise
                    refuse(error)
                    continue
                yield FilePiece(with_whole_ids(table, types.whole), source)


def _csv_batches(path: Path, columns: list[str], limit: int) -> Iterator[ArrowTable]:
    import pyarrow as pa

    width = csv_width(path, columns)
    block = min(max(limit // 64, SMALLEST_BLOCK), LARGEST_BLOCK)
    try:
        with opened_csv(path, columns, width, block_size=block) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch]).select(columns)
    except pa.ArrowInvalid as error:
        if "straddling" in str(error):
            what = f"{printable(path.name)} has a line longer than {block:,} bytes"
            advice = "check that this is a CSV file, or give more memory"
            raise FileError(Complaint("E504", what, printable(path), advice)) from error
        raise malformed(path, columns, width, str(error)) from error


def _parquet_batches(path: Path, columns: list[str], rows: int, limit: int) -> Iterator[ArrowTable]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with parquet_errors(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        text = [name for name in columns if _is_texts(schema.field(name).type)]
    with (
        parquet_errors(path),
        pq.ParquetFile(
            path,
            page_checksum_verification=True,
            pre_buffer=False,
            buffer_size=1 << 20,
            # A short code may stand for a long text, so text stays coded until its size is known.
            read_dictionary=text,
        ) as file,
    ):
        for batch in file.iter_batches(rows, columns=columns):
            table = pa.Table.from_batches([batch]).select(columns)
            size = sum(_text_size(table[name]) for name in text)
            n_parts = -(-size * TEXT_SHARE // limit) or 1
            if n_parts > table.num_rows:
                what = f"{printable(path.name)} holds {in_words(size)} of text in {plural(table.num_rows, 'row')}"
                advice = "shorten the ids, or give more with  memory"
                raise FileError(Complaint("E504", what, printable(path), advice))
            step = -(-table.num_rows // n_parts)
            for start in range(0, table.num_rows, step):
                yield decoded(table.slice(start, step))


def _is_texts(kind: Any) -> bool:
    import pyarrow as pa

    kind = plain_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def refuse_large_groups(files: Sequence[Path], columns: list[str], limit: int) -> None:
    """Refuse row groups of Parquet files by what the files say of them, before any is read (E504).

    Parameters
    ----------
    files : sequence of Path
    columns : list of str
    limit : int
        Bytes of memory that the decoded columns of a row group may take.
    """
    import pyarrow.parquet as pq

    complaints = []
    for path in files:
        if path.suffix.lower() == ".csv":
            continue
        with system_errors(path), parquet_errors(path), pq.ParquetFile(path) as file:
            large = _largest_group(file.metadata, file.schema_arrow, columns)
            rows = file.metadata.row_group(large.number).num_rows if large.size > limit else 0
            count = file.metadata.num_row_groups
        if large.size > limit:
            what = (
                f"{printable(path.name)}: row group {large.number + 1} of {count} takes"
                f" {in_words(large.size)} decoded ({plural(rows, 'row')}); {in_words(limit)} are free for it"
            )
            advice = "write the file with smaller row groups, or give more with  memory"
            complaints.append(Complaint("E504", what, printable(path), advice))
    if complaints:
        rest = len(complaints) - SHOWN
        more = [Complaint("E504", f"{plural(rest, 'more file')} with such row groups")] if rest > 0 else []
        raise FileError([*complaints[:SHOWN], *more])


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group, by its number, and the bytes of some of its columns when decoded."""

    number: int
    size: int


def _largest_group(metadata: Any, schema: Any, columns: list[str]) -> _Group:
    places = {metadata.schema.column(j).path: j for j in range(metadata.num_columns)}
    largest = _Group(0, 0)
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        size = 0
        for name in columns:
            # Coded columns are small in the file and wide in memory: a row is at least one value wide.
            kind = schema.field(name).type
            width = kind.bit_width / 8 if _fixed(kind) else 8
            inside = group.column(places[name]).total_uncompressed_size if name in places else 0
            size += max(int(width * group.num_rows), inside)
        if size > largest.size:
            largest = _Group(g, size)
    return largest


def _fixed(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _text_size(column: Any) -> int:
    """Bytes of a coded column of text, written out."""
    import pyarrow.compute as pc

    return sum(
        pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in column.chunks
    )


# --- whole choice sets -------------------------------------------------------------------------


def run_starts(table: ArrowTable, column: str) -> IntArray:
    """Rows in which a column differs from the row before, the first row among them."""
    if table.num_rows == 0:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate(([True], _changes(table[column]))))


def _changes(column: Any) -> BoolArray:
    """Whether each value differs from the one before; a missing one differs from all."""
    import pyarrow.compute as pc

    differs = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
    return np.array(pc.fill_null(differs, True), dtype=np.bool_)


def whole_sets(
    files: Sequence[Path], read: Callable[[Path], Iterator[FilePiece]], case: str, most: int
) -> Iterator[FilePiece]:
    """Regroup pieces of files so that consecutive rows of one id are never divided.

    Parameters
    ----------
    files : sequence of Path
    read : callable
        The pieces of a file, none empty.
    case : str
        The column of ids.
    most : int
        Rows of one id that fit into memory.

    Yields
    ------
    FilePiece
        Of one file; or of several, if they all have one id.

    Raises
    ------
    FileError
        E504: more rows of one id than fit.
    """
    unfinished: FilePiece | None = None
    for path in files:
        for found in read(path):
            piece = found
            if unfinished is not None:
                starts = run_starts(piece.table, case)
                same = unfinished.table[case][-1].as_py() == piece.table[case][0].as_py()
                rest = (int(starts[1]) if starts.size > 1 else piece.table.num_rows) if same else 0
                if rest:
                    unfinished = unfinished.before(piece.part(0, rest))
                if unfinished.table.num_rows > most:
                    raise _endless(unfinished, case, most)
                if rest == piece.table.num_rows:
                    continue
                if unfinished.source == piece.source:
                    piece = unfinished.before(piece.part(rest))
                else:
                    yield unfinished
                    piece = piece.part(rest)
            last = int(run_starts(piece.table, case)[-1])
            if last:
                yield piece.part(0, last)
            unfinished = piece.part(last)
    if unfinished is not None:
        yield unfinished


def _endless(rows: FilePiece, case: str, most: int) -> FileError:
    what = f"the choice set {printable(rows.table[case][0])} has more than {most:,} rows, more than fit into memory"
    return FileError(
        Complaint("E504", what, printable(rows.source), "check the column of ids, or give more with  memory")
    )
