"""Files: CSV and Parquet as Arrow tables, with ids as text and numbers read strictly.

A CSV file has no types.  Guessing them merges the ids ``007``, ``07`` and ``7`` and turns one
``1,234.5`` into a whole column of text, so the caller declares the type of every column that is
read, and a cell that does not fit is refused with its row.  Parquet files declare their types.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gmmest.data.columns import (
    PLAIN_NUMBER,
    Arrow,
    BoolArray,
    absent,
    accept,
    did_you_mean,
    in_file,
    number_hint,
    place,
    quoted,
    refuse_duplicates,
    row_ranges,
    shown,
)
from gmmest.errors import Complaint, ConfigError, DataError, FileError, plural, printable, some

__all__ = [
    "KINDS",
    "ArrowTable",
    "csv_header",
    "csv_width",
    "decoded",
    "empty",
    "file_sha256",
    "local_file",
    "malformed",
    "opened_csv",
    "parquet_errors",
    "plain_type",
    "read_frame",
    "refuse_names",
    "system_errors",
    "typed",
    "with_whole_ids",
]

ArrowTable: TypeAlias = Any  # a pyarrow.Table; pyarrow publishes no types

KINDS = (".csv", ".parquet")
LONGEST_HEADER = 1 << 20  # bytes
CHUNK = 1 << 24  # bytes in memory while a file is scanned


def read_frame(
    path: str | os.PathLike[str],
    *,
    text: Sequence[str],
    numbers: Sequence[str],
    flags: Sequence[str] = (),
    times: Sequence[str] = (),
) -> ArrowTable:
    r"""Read the named columns of a CSV or Parquet file, and no others.

    Parameters
    ----------
    path : str or path
        A local file ending in ``.csv`` or ``.parquet``.
    text : sequence of str
        Columns of ids and labels.  In CSV they stay text as written: ``007`` and ``7`` differ.
    numbers : sequence of str
        Columns of numbers.  In CSV a cell is an ASCII decimal number, ``-1234.5`` or ``1.2e-3``, that
        float64 holds; spaces around it are ignored.  Nothing else is: no ``NA``, ``inf``, ``1,234.5``.
    flags : sequence of str
        Columns of choices.  In CSV ``0``, ``1``, ``true`` or ``false`` in any letter case.
    times : sequence of str
        Columns that order rows.  In CSV all cells are dates ``2024-02-29``, or all are numbers as above.

    Returns
    -------
    pyarrow.Table
        The columns in the order text, numbers, flags, times: from CSV as string, float64, bool, and
        date32 or float64, from Parquet as declared there, dictionaries decoded.  Empty cells are null.
        Row 1 of messages is the first row after the header; blank lines are not counted.

    Raises
    ------
    ConfigError
        E102: a column declared with two types.  E107: a URL.
    DataError
        All at once: E303 cells that are no flags, E311 cells that are no numbers, E314 header names
        that occur twice, E315 absent columns.
    FileError
        E502: a Parquet page fails its checksum.  E503: Parquet that cannot be decoded.  E510: another
        kind of file.  E511: no such file.  E512: no rows.  E513: not UTF-8.  E514: malformed CSV rows.
        E515: another delimiter than the comma.  E516: the system refuses to read it.

    Notes
    -----
    A quoted cell may not run over a line end: one forgotten quotation mark would swallow rows
    without a trace.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "trips.csv")
    ...     _ = path.write_text("id,price,took\n007,1.5,1\n7,,0\n")
    ...     read_frame(path, text=["id"], numbers=["price"], flags=["took"]).to_pydict()
    {'id': ['007', '7'], 'price': [1.5, None], 'took': [True, False]}
    """
    local, kind = local_file(path)
    roles = {"text": text, "numbers": numbers, "flags": flags, "times": times}
    columns = _declared_once(roles, local.name)
    with system_errors(local):
        if local.stat().st_size == 0:
            raise empty(local, "the file has no bytes")
        if kind == ".parquet":
            return _read_parquet(local, columns)
        table = _read_csv(local, columns)
    return typed(table, numbers, flags, times, local.name)


def _declared_once(roles: Mapping[str, Sequence[str]], source: str) -> list[str]:
    """The columns of all roles; E102 if one has two."""
    columns = list(dict.fromkeys(name for names in roles.values() for name in names))
    known = {role: set(names) for role, names in roles.items()}
    for name in columns:
        declared = [role for role, names in known.items() if name in names]
        if len(declared) > 1:
            what = f"column {quoted(name)} is declared both as {' and as '.join(declared)}"
            raise ConfigError(Complaint("E102", what, place(source), "declare it once"))
    return columns


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's bytes, 64 hexadecimal digits.

    Raises
    ------
    FileError
        E511: no such file.  E516: the system refuses to read it.
    """
    with system_errors(Path(path)), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the file ----------------------------------------------------------------------------------


def local_file(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Path and kind of a file that is there and is one of ours."""
    given = os.fspath(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", given):
        what = f"{printable(given)} is a URL; only local files are read"
        raise ConfigError(Complaint("E107", what, next="download the file and name its path"))
    local = Path(given)
    kind = local.suffix.lower()
    if kind not in KINDS:
        what = f"{printable(local.name)}: only .csv and .parquet files are read"
        raise FileError(Complaint("E510", what, printable(given), "write the table as one of these"))
    if not local.is_file():
        state = (
            "is a folder" if local.is_dir() else "is no plain file" if local.exists() else "does not exist"
        )
        near = ""
        if local.parent.is_dir() and not local.exists():
            near = did_you_mean(local.name, [entry.name for entry in local.parent.iterdir()])
        what = f"{printable(given)} {state}{near}"
        raise FileError(Complaint("E511", what, f"looked in {printable(local.parent.absolute())}"))
    return local, kind


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Give the system's refusals (permissions, a file that vanishes) the layout of the family."""
    try:
        yield
    except FileError:
        raise
    except FileNotFoundError as error:
        raise FileError(Complaint("E511", f"{printable(path)} does not exist")) from error
    except OSError as error:
        what = f"{printable(path)} cannot be read: {error.strerror or error}"
        raise FileError(Complaint("E516", what, next="check the permissions and the disk")) from error


def empty(path: Path, why: str) -> FileError:
    """E512: a file without rows."""
    return FileError(Complaint("E512", f"{printable(path.name)} holds no rows: {why}", printable(path)))


def refuse_names(header: Sequence[str], columns: Sequence[str], source: str) -> None:
    """Refuse names that occur twice (E314) and names that do not occur (E315), together."""
    complaints: list[Complaint] = []
    try:
        refuse_duplicates(header, source)
    except DataError as error:
        complaints += error.complaints
    complaints += [absent(name, header, source) for name in columns if name not in header]
    if complaints:
        raise DataError(complaints)


# --- Parquet -----------------------------------------------------------------------------------


def _read_parquet(path: Path, columns: list[str]) -> ArrowTable:
    import pyarrow.parquet as pq

    # One file, not a data set: a folder named year=2020 would become a column there.
    with parquet_errors(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        refuse_names(file.schema_arrow.names, columns, path.name)
        if file.metadata.num_rows == 0:
            raise empty(path, "the table has none")
        table = file.read(columns=columns)
    return decoded(table.select(columns))


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Give pyarrow's refusals of a Parquet file the layout of the family."""
    import pyarrow as pa

    try:
        yield
    except (PermissionError, FileError):
        raise
    except (pa.ArrowException, OSError) as error:
        reason = printable(str(error).splitlines()[0] if str(error) else error)
        if "CRC" in reason or "checksum" in reason:
            what = f"{printable(path.name)}: a page does not match its checksum, its numbers are damaged"
            advice = "copy the file from its source again"
            raise FileError(Complaint("E502", what, printable(path), advice)) from error
        what = f"{printable(path.name)} is truncated or not a Parquet file: {reason}"
        raise FileError(Complaint("E503", what, printable(path), "copy or write the file again")) from error


def decoded(table: ArrowTable) -> ArrowTable:
    """Write out columns that Parquet keeps as codes of a dictionary, and text that it keeps as views."""
    for i, field in enumerate(table.schema):
        if plain_type(field.type) != field.type:
            table = table.set_column(i, field.name, table.column(i).cast(plain_type(field.type)))
    return table


def plain_type(kind: Any) -> Any:
    """The Arrow type of a column that is written out: what a dictionary encodes, and text that is no view."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_string_view(kind) else kind  # Arrow takes no rows of views


# --- CSV ---------------------------------------------------------------------------------------


def _read_csv(path: Path, columns: list[str]) -> ArrowTable:
    """Read the named columns as text; nothing is converted here."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    width = csv_width(path, columns)
    try:
        table = arrow_csv.read_csv(path, **_csv_options(columns, width)).select(columns)
    except pa.ArrowInvalid as error:
        raise malformed(path, columns, width, str(error)) from error
    if table.num_rows == 0:
        raise empty(path, "there is a header and nothing below it")
    return table


def csv_width(path: Path, columns: list[str]) -> int:
    """Number of columns of a CSV file whose header names the columns and whose quotation marks close."""
    header = csv_header(path)
    line = _line_with_open_quote(path)
    if line:
        what = f"a quotation mark opens a cell that does not end on its line, line {line:,} of the file"
        advice = "close it, or write the table as Parquet if a cell must hold a line end"
        raise FileError(Complaint("E514", what, place(path.name), advice))
    refuse_names(header, columns, path.name)
    return len(header)


def opened_csv(
    path: Path,
    columns: list[str],
    width: int,
    on_invalid: Callable[[Any], str] | None = None,
    block_size: int | None = None,
) -> Any:
    """A reader of pyarrow that gives the columns as text, a batch at a time."""
    import pyarrow.csv as arrow_csv

    return arrow_csv.open_csv(path, **_csv_options(columns, width, on_invalid, block_size))


def _csv_options(
    columns: list[str],
    width: int,
    on_invalid: Callable[[Any], str] | None = None,
    block_size: int | None = None,
) -> dict[str, Any]:
    """Options of pyarrow for reading columns as text, a missing cell as null, and nothing else."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    return {
        # Rows are numbered only where they are parsed one after the other.
        "read_options": arrow_csv.ReadOptions(use_threads=on_invalid is None, block_size=block_size),
        "parse_options": arrow_csv.ParseOptions(
            invalid_row_handler=on_invalid,
            # In a file of one column a blank line is an empty cell.
            ignore_empty_lines=width > 1,
        ),
        "convert_options": arrow_csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    }


def csv_header(path: Path) -> list[str]:
    """Read the names in the first line that is not blank."""
    with open(path, "rb") as file:
        start = file.read(LONGEST_HEADER)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _not_utf8(path, "it begins like UTF-16")
    lines = re.split(rb"[\r\n]+", start.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n"), maxsplit=1)
    if not lines[0]:
        raise empty(path, "all its lines are blank")
    if len(lines) == 1 and len(start) == LONGEST_HEADER:
        what = f"{printable(path.name)}: the first line is longer than {LONGEST_HEADER:,} bytes"
        raise FileError(Complaint("E514", what, printable(path), "check that this is a CSV file"))
    if len(lines) == 1:
        raise empty(path, "there is one line, the header")
    try:
        line = lines[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, "in the header") from error
    for delimiter, word in ((";", "semicolons"), ("\t", "tabs")):
        if "," not in line and delimiter in line:
            what = (
                f"{printable(path.name)}: the header has {word} and no comma; cells must be divided by commas"
            )
            advice = "save the file with commas, and numbers with . as decimal mark"
            raise FileError(Complaint("E515", what, f"header {shown(line)}", advice))
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        what = f"{printable(path.name)}: the header cannot be read: {error}"
        raise FileError(Complaint("E514", what, printable(path), "check that this is a CSV file")) from error


def _line_with_open_quote(path: Path) -> int:
    """Find the first line with an odd number of quotation marks; 0 if there is none."""
    quotes = lines = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            if quotes % 2 or b'"' in chunk:
                raw = np.frombuffer(chunk, dtype=np.uint8)
                ends = np.flatnonzero((raw == ord("\n")) | (raw == ord("\r")))
                before = quotes + np.searchsorted(np.flatnonzero(raw == ord('"')), ends)
                odd = np.flatnonzero(before % 2)
                if odd.size:
                    return lines + chunk.count(b"\n", 0, int(ends[odd[0]])) + 1
                quotes += chunk.count(b'"')
            lines += chunk.count(b"\n")
    return lines + 1 if quotes % 2 else 0


def _not_utf8(path: Path, why: str) -> FileError:
    what = f"{printable(path.name)} is not UTF-8: {why}"
    return FileError(Complaint("E513", what, printable(path), "save the file as UTF-8"))


def malformed(path: Path, columns: list[str], width: int, reason: str) -> FileError:
    """Say which rows are malformed, by parsing once more, row after row, in bounded memory."""
    import pyarrow as pa

    found: list[Any] = []

    def collect(row: Any) -> str:
        found.append(row)
        return "skip"

    try:
        for _ in opened_csv(path, columns, width, collect):
            pass
    except pa.ArrowInvalid as error:
        reason = str(error)
    if not found and "UTF8" in reason:
        row = re.search(r"Row #(\d+)", reason)
        return _not_utf8(path, f"in row {int(row[1]) - 1:,}" if row else "in a column that is read")
    if not found:
        what = f"{printable(path.name)} cannot be parsed: {printable(reason)}"
        return FileError(Complaint("E514", what, printable(path), "check that this is a CSV file"))
    first = found[0]
    cells = plural(first.actual_columns, "cell")
    what = (
        f"row {first.number - 1:,} has {cells}, the header has {first.expected_columns}: {shown(first.text)}"
    )
    rows = row_ranges(np.array([row.number - 2 for row in found]))
    advice = "quote cells that hold a comma, and give every row the same number of cells"
    return FileError(Complaint("E514", what, place(path.name, rows=rows), advice))


# --- cells -------------------------------------------------------------------------------------


def typed(
    table: ArrowTable, numbers: Sequence[str], flags: Sequence[str], times: Sequence[str], source: str
) -> ArrowTable:
    """Convert the declared columns of a table of text, or raise all complaints."""
    complaints: list[Complaint] = []
    for names, parse in ((numbers, _parse_numbers), (flags, _parse_flags), (times, _parse_times)):
        for name in dict.fromkeys(names):
            column = accept(parse(table[name], name, source), complaints)
            if column is not None:
                table = table.set_column(table.schema.get_field_index(name), name, column)
    if complaints:
        raise DataError(complaints)
    return table


def with_whole_ids(frame: ArrowTable, names: Sequence[str]) -> ArrowTable:
    """Columns of numbers that are ids too, as integers where all of them are whole."""
    import pyarrow as pa

    for name in names:
        with suppress(pa.ArrowInvalid):  # else the data's own complaint follows
            whole = frame.column(name).cast(pa.int64())
            frame = frame.set_column(frame.schema.get_field_index(name), name, whole)
    return frame


def _parse_numbers(cells: Arrow, name: str, source: str) -> Arrow | Complaint:
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = pc.match_substring_regex(cells, PLAIN_NUMBER)
    if not pc.all(plain, min_count=0).as_py():
        return _bad_cells("E311", ~_mask(plain, True), cells, name, source, "a plain number")
    bare = pc.ascii_ltrim(pc.ascii_trim(cells, " "), "+")
    values = pc.cast(bare, pa.float64())
    # Arrow gives inf for 1e400 and 0 for 1e-400.  A zero is right if its digits before the exponent are.
    too_large = _mask(pc.is_inf(values), False)
    zeros = _mask(pc.equal(values, 0.0), False)
    if zeros.any():
        zeros[zeros] = _mask(pc.match_substring_regex(cells.filter(pa.array(zeros)), "^[^eE]*[1-9]"), False)
    outside = too_large | zeros
    if outside.any():
        return _bad_cells("E311", outside, cells, name, source, "a number that float64 holds")
    return values


def _parse_times(cells: Arrow, name: str, source: str) -> Arrow | Complaint:
    import pyarrow as pa
    import pyarrow.compute as pc

    like_dates = pc.match_substring_regex(cells, r"^\d{4}-\d{2}-\d{2}$")
    if not _mask(like_dates, False).any():
        return _parse_numbers(cells, name, source)
    if not pc.all(like_dates).as_py():
        return _bad_cells("E311", ~_mask(like_dates, True), cells, name, source, "a date such as 2024-02-29")
    # Arrow counts the 30th of February on into March.
    dates = pc.strptime(cells, format="%Y-%m-%d", unit="s", error_is_null=True)
    same = _mask(pc.equal(pc.strftime(dates, format="%Y-%m-%d"), cells), False) | _mask(
        pc.is_null(cells), True
    )
    if not same.all():
        return _bad_cells("E311", ~same, cells, name, source, "a day of the calendar")
    return pc.cast(dates, pa.date32())


def _parse_flags(cells: Arrow, name: str, source: str) -> Arrow | Complaint:
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pc.ascii_lower(pc.ascii_trim(cells, " "))
    yes = pc.is_in(words, pa.array(["1", "true"]))
    known = pc.is_in(words, pa.array(["0", "1", "false", "true", None]))
    if not pc.all(known).as_py():
        return _bad_cells("E303", ~_mask(known, True), cells, name, source, "0, 1, true or false")
    return pc.if_else(pc.is_null(cells), pa.scalar(None, pa.bool_()), yes)


def _mask(mask: Arrow, null: bool) -> BoolArray:
    import pyarrow.compute as pc

    filled = pc.fill_null(mask, null)
    return np.array(filled, dtype=np.bool_)


def _bad_cells(
    code: str,
    bad: BoolArray,
    cells: Arrow,
    name: str,
    source: str,
    expected: str,
) -> Complaint:
    rows = np.flatnonzero(bad)
    values = [cells[int(row)].as_py() for row in rows[:5]]
    what = f"{printable(name)}: row {in_file(source, rows[0]) + 1:,} holds {shown(values[0])}, expected {expected}"
    if rows.size > 1:
        more = " ..." if rows.size > len(values) else ""
        others = [word for word in dict.fromkeys(map(shown, values)) if word != shown(values[0])]
        also = f"also {some(others)}{more}, " if others else ""
        what += f"; {also}{plural(rows.size, 'cell')} in all"
    advice = number_hint(values[0]) if code == "E311" else "write 1 for the chosen row and 0 for the others"
    return Complaint(code, what, place(source, name, row_ranges(in_file(source, rows))), advice)
