"""The files that one data set lies in: found, compared with each other, and known again."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gmmest.data.columns import not_ids, place, quoted
from gmmest.data.memory import physical_memory
from gmmest.data.readers import (
    KINDS,
    csv_header,
    file_sha256,
    local_file,
    parquet_errors,
    plain_type,
    refuse_names,
    system_errors,
)
from gmmest.errors import Complaint, DataError, FileError, plural, printable, some

__all__ = [
    "Paths",
    "SourceFile",
    "State",
    "check_files",
    "find_files",
    "fits_into_memory",
    "hashed",
    "parquet_rows",
    "refuse_changed",
    "state",
]

Paths: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"

SETTLED = 2.0
"""Seconds after which a change of a file shows in its times on every file system."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was when it was read.

    Parameters
    ----------
    name : str
        As seen from the folder of the store.
    size : int
        Bytes.
    sha256 : str
        Of its content.
    stamp : str
        Device, inode and times; a file with this stamp has not been written since.  Empty where the file
        was so young that it may have been.
    """

    name: str
    size: int
    sha256: str
    stamp: str


def find_files(paths: Paths) -> tuple[Path, ...]:
    """Files in the order of their names, numbers in names by value: ``part-2`` before ``part-10``.

    Parameters
    ----------
    paths : path, or sequence of paths
        A file, a folder of which all ``.csv`` or all ``.parquet`` files are meant, or files.

    Raises
    ------
    ConfigError
        E107: a URL.
    FileError
        E510: another kind of file.  E511: no such file.  E512: a folder without any.  E517: files of both
        kinds, folders in the folder, or a file twice.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    folder = Path(given[0]) if len(given) == 1 and Path(given[0]).is_dir() else None
    found = [local_file(path)[0] for path in given] if folder is None else _inside(folder)
    found.sort(key=lambda path: (_natural(path.name), str(path)))
    if not found:
        where = "" if folder is None else printable(folder)
        raise FileError(
            Complaint("E512", "no .csv and no .parquet file", where, "name the folder that holds them")
        )
    kinds = {path.suffix.lower() for path in found}
    twice = [path.name for path, following in itertools.pairwise(found) if path == following]
    if len(kinds) > 1 or twice:
        what = f"a file named twice: {some(twice)}" if twice else "CSV and Parquet files side by side"
        raise FileError(
            Complaint("E517", what, printable(found[0].parent), "name the files of one kind, once")
        )
    return tuple(found)


def _inside(folder: Path) -> list[Path]:
    """Data files of a folder; hidden ones and those that begin with _ are other programs' own."""
    with system_errors(folder):
        entries = [path for path in folder.iterdir() if not path.name.startswith((".", "_"))]
    folders = [path.name for path in entries if path.is_dir()]
    if folders:
        what = f"{plural(len(folders), 'folder')} inside the folder of data: {some(sorted(folders))}"
        advice = "put all files into one folder; names such as year=2020 become no columns"
        raise FileError(Complaint("E517", what, printable(folder), advice))
    return [path for path in entries if path.suffix.lower() in KINDS]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def check_files(files: Sequence[Path], columns: list[str], ids: Sequence[str]) -> None:
    """Refuse files in which a column is absent (E314, E315) or has another type than in the first (E517).

    Of ``ids`` the types are refused that are none of ids (E312), or hold nothing (E310).
    """
    complaints: list[Complaint] = []
    first: dict[str, Any] = {}
    for path in files:
        try:
            types = _types(path, columns)
        except DataError as error:
            complaints += error.complaints
            continue
        if not first:
            first = types
            complaints += _not_ids({name: types[name] for name in ids if name in types}, path.name)
        for name, kind in types.items():
            if kind != first[name]:
                what = f"{printable(path.name)} holds {quoted(name)} as {kind}"
                what += f", {printable(files[0].name)} as {first[name]}"
                complaints.append(Complaint("E517", what, next="write all files with one schema"))
    if complaints:
        raise DataError(complaints)


def _not_ids(types: dict[str, Any], source: str) -> list[Complaint]:
    import pyarrow as pa

    complaints: list[Complaint] = []
    for name, kind in types.items():
        if pa.types.is_null(kind):
            what = f"{printable(name)}: all missing, as the type of the column says"
            complaints.append(Complaint("E310", what, place(source, name), "fill in the ids"))
        else:
            complaints += not_ids(kind, name, source)
    return complaints


def _types(path: Path, columns: list[str]) -> dict[str, Any]:
    """Types of columns, written out.  CSV has none."""
    import pyarrow.parquet as pq

    with system_errors(path):
        if path.suffix.lower() == ".csv":
            refuse_names(csv_header(path), columns, path.name)
            return {}
        with parquet_errors(path), pq.ParquetFile(path) as file:
            schema = file.schema_arrow
    refuse_names(schema.names, columns, path.name)
    return {name: plain_type(schema.field(name).type) for name in columns}


def parquet_rows(files: Sequence[Path]) -> int | None:
    """Rows in all; None for CSV, which does not tell."""
    import pyarrow.parquet as pq

    if files[0].suffix.lower() == ".csv":
        return None
    total = 0
    for path in files:
        with system_errors(path), parquet_errors(path):
            total += pq.read_metadata(path).num_rows
    return total


def fits_into_memory(path: Path, columns: Sequence[str]) -> bool:
    """Whether a file, decoded, fills at most half of the machine's memory; a folder is not asked.

    What is no file is left to its reader, who says so.
    """
    import pyarrow.parquet as pq

    memory = physical_memory()
    if path.is_dir():
        return False
    if memory is None or not path.is_file():
        return True
    size = path.stat().st_size
    if path.suffix.lower() == ".parquet":
        with contextlib.suppress(Exception):  # a damaged file: its reader says so
            size = 8 * (len(columns) + 4) * pq.read_metadata(path).num_rows
    return size <= memory // 2


@dataclass(frozen=True, slots=True)
class State:
    """What the system says of a file.

    Parameters
    ----------
    text : str
        Device, inode, size and times.  The system sets the second time at every change, whatever a program
        says of the first.
    settled : bool
        Whether the file was old enough that any later change shows in its times.
    """

    text: str
    settled: bool

    @property
    def stamp(self) -> str:
        """The text, where it may be trusted later."""
        return self.text if self.settled else ""


def state(path: Path) -> State:
    """The state of a file now."""
    with system_errors(path):
        found = path.stat()
    text = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
    return State(text, time.time() - found.st_ctime >= SETTLED)


def hashed(path: Path, cache: Path, before: State) -> SourceFile:
    """A file with the hash of its content; one pass over it, begun when it was in this state."""
    name = Path(os.path.relpath(path.absolute(), cache.absolute())).as_posix()
    return SourceFile(name, path.stat().st_size, file_sha256(path), before.stamp)


def refuse_changed(files: Sequence[Path], sources: Sequence[SourceFile], before: Sequence[State]) -> None:
    """Refuse files that were written since they were hashed (E516).

    A change soon after another may not show in the times: files that were young then are hashed once more.
    """
    for path, source, then in zip(files, sources, before, strict=True):
        if state(path).text != then.text or (not then.settled and file_sha256(path) != source.sha256):
            what = f"{printable(path.name)} was changed while it was read"
            raise FileError(Complaint("E516", what, next="let the writing end, then fit again"))
