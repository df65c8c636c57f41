"""Choice sets in files that may be larger than memory: a description, and the store that is made from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from gmmest.data.choice_columns import ChoiceColumns
from gmmest.data.conversion import Design, Progress, convert
from gmmest.data.memory import anonymous_memory, in_words, memory_size
from gmmest.data.observations import Names
from gmmest.data.source_files import (
    Paths,
    SourceFile,
    State,
    check_files,
    find_files,
    hashed,
    parquet_rows,
    refuse_changed,
    state,
)
from gmmest.data.store import FORMAT, Manifest, Store, open_store, read_manifest, remove, restamp
from gmmest.data.streams import cell_types
from gmmest.errors import Complaint, ConfigError, FileError

__all__ = ["ChoiceFiles"]

USUAL = 10**9
"""Bytes that a conversion takes where no limit is given."""

LIBRARIES = 64 * 10**6
"""Bytes that come with what is loaded when files are read first."""

ROOM = 64 * 10**6
"""Bytes that a conversion wants for itself; with less it would go row by row."""


@dataclass(frozen=True, slots=True, init=False)
class ChoiceFiles:
    r"""Choice sets in CSV or Parquet files; no data are read until a model asks for them.

    A model converts the files once into a store, a folder of arrays that are mapped into memory, and uses
    the store again as long as files, columns and terms are the same.  Estimates have the same bits as
    those from :class:`.ChoiceData`.

    Parameters
    ----------
    paths : path, or sequence of paths
        A ``.csv`` or ``.parquet`` file, a folder of them, or several files of one schema.  They are read in
        the order of their names, numbers by value.  Rows of a choice set lie together; a set may
        begin in one file and end in the next.
    case, chosen, alternative, on_bad_sets, missing, weight, frequency, cluster, time
        As in :meth:`.ChoiceData.from_frame`.  In CSV ids are text, as written.
    memory : str or int, optional
        What this process may hold in all, ``"2GB"`` or bytes; by default 1 GB more than it holds while files are
        converted, and as much as a fit needs.
    cache : path, optional
        Folder of stores; by default ``.gmmest-cache`` beside the data.
    verify : bool
        Whether every page of the store is compared with its checksum when it is opened.
    progress : callable, optional
        Called with the rows converted and the rows in all, None where that is not known; and with the rows
        of the store, twice, when it is opened.

    Raises
    ------
    ConfigError
        E102: not a size of memory, an option that is none of its words.
    FileError
        When files are looked for: E510, E511, E512, E517.

    Notes
    -----
    Law: where the files are cut changes no bit of the store.  What :class:`.ChoiceData` mends by sorting is refused
    here (E304): ids that come again later, times that go back.

    Cost: one pass to hash the files, one to convert them, one over the store at each opening.  Memory: pieces of
    the files, as ``memory`` allows, and 8 bytes for each choice set.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from gmmest.models.logit import Logit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = "1,bus,1,2.0\n1,car,0,3.0\n2,bus,0,1.5\n2,car,1,1.0\n3,bus,1,2.5\n3,car,0,2.0\n"
    ...     _ = pathlib.Path(folder, "trips.csv").write_text(f"id,mode,took,cost\n{rows}")
    ...     files = ChoiceFiles(pathlib.Path(folder, "trips.csv"), case="id", alternative="mode", chosen="took")
    ...     sample = Logit(["cost"]).sample(files)
    >>> sample.n_rows, sample.n_obs
    (6, 3)
    """

    paths: Paths
    columns: ChoiceColumns
    memory: int | None
    cache: Path | None
    verify: bool
    progress: Progress | None

    def __init__(
        self,
        paths: Paths,
        *,
        case: str,
        chosen: str,
        alternative: str | None = None,
        on_bad_sets: Literal["error", "drop"] = "error",
        missing: Literal["error", "drop_set"] = "error",
        weight: str | None = None,
        frequency: str | None = None,
        cluster: Names = None,
        time: str | None = None,
        memory: str | int | None = None,
        cache: str | Path | None = None,
        verify: bool = True,
        progress: Progress | None = None,
    ) -> None:
        roles = (weight, frequency, cluster, time)
        columns = ChoiceColumns(case, chosen, alternative, on_bad_sets, missing, *roles)
        self._fill(paths, columns, memory, cache, verify, progress)

    @classmethod
    def of_columns(
        cls,
        paths: Paths,
        columns: ChoiceColumns,
        *,
        memory: str | int | None = None,
        cache: str | Path | None = None,
        progress: Progress | None = None,
    ) -> ChoiceFiles:
        """The same, where columns and options are a record already."""
        files = object.__new__(cls)
        files._fill(paths, columns, memory, cache, True, progress)
        return files

    def _fill(
        self,
        paths: Paths,
        columns: ChoiceColumns,
        memory: str | int | None,
        cache: str | Path | None,
        verify: bool,
        progress: Progress | None,
    ) -> None:
        values = {
            "paths": paths if isinstance(paths, (str, os.PathLike)) else tuple(paths),
            "columns": columns,
            "memory": None if memory is None else memory_size(memory),
            "cache": None if cache is None else Path(cache),
            "verify": verify,
            "progress": progress,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def store(self, design: Design) -> Store:
        """The store of a design: found, or made now.

        Raises
        ------
        DataError
            What is wrong with the rows, of all pieces together; E304: an id that comes again, a time that goes back.
        FileError
            E501: no room for the store (how much it takes is said).  E502: a damaged page of the store or of
            a Parquet file.  E504: row groups, lines or choice sets that do not fit into memory; and what files
            are refused for.  E517: files that do not agree.
        """
        memory = self._room()
        files = find_files(self.paths)
        types = cell_types(self.columns, design.columns)
        check_files(files, types.columns, types.text)
        folder = self._folder(files[0])
        key = self._key(design)
        before = [state(path) for path in files]
        known = _unchanged(folder, key, before)
        if known is not None:
            return self._opened(known)
        sources = [hashed(path, folder, then) for path, then in zip(files, before, strict=True)]
        content = hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest()
        target = folder / f"{key[:16]}-{content[:16]}"
        if (target / "manifest.json").exists():
            manifest = read_manifest(target)
            restamp(target, replace(manifest, sources=sources))
            return self._opened(target)
        manifest = Manifest(key, list(design.names), list(design.moment_names), [], [], "", sources)
        convert(
            files,
            types,
            self.columns,
            design,
            manifest,
            target,
            memory=memory,
            n_rows=parquet_rows(files),
            progress=self.progress,
            confirm=lambda: refuse_changed(files, sources, before),
        )
        _forget_older(folder, key, target, sources)
        return self._opened(target)

    def _opened(self, folder: Path) -> Store:
        store = open_store(folder, self.verify)
        if self.progress is not None:
            self.progress(store.block.n_rows, store.block.n_rows)
        return store

    def _folder(self, first: Path) -> Path:
        if self.cache is not None:
            return self.cache
        paths = self.paths
        beside = Path(paths) if isinstance(paths, (str, os.PathLike)) and Path(paths).is_dir() else first
        return beside.absolute().parent / ".gmmest-cache"

    def _key(self, design: Design) -> str:
        """Hash of all that decides what is in the store, but for the content of the files."""
        said = {"format": FORMAT, "design": design.key, **asdict(self.columns)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _room(self) -> int:
        if self.memory is None:
            return USUAL
        held = anonymous_memory() + (0 if "pandas" in sys.modules else LIBRARIES)  # pyarrow loads it
        if self.memory - held < ROOM:
            what = f"memory={in_words(self.memory)}: this process and the libraries it loads hold {in_words(held)}"
            advice = f"give at least {in_words(held + ROOM)}"
            raise ConfigError(Complaint("E102", what, next=advice))
        return self.memory - held


def _unchanged(folder: Path, key: str, states: list[State]) -> Path | None:
    """The store of files in these states, if none was written since it was made; contents are not read."""
    stamps = [each.stamp for each in states]
    if not all(stamps):
        return None
    for found in sorted(folder.glob(f"{key[:16]}-*")):
        # A damaged manifest is complained of when the content of the files has named its store.
        with contextlib.suppress(FileError):
            manifest = read_manifest(found)
            if manifest.key == key and [source.stamp for source in manifest.sources] == stamps:
                return found
    return None


def _forget_older(folder: Path, key: str, target: Path, sources: list[SourceFile]) -> None:
    """Delete stores of this design and of files of these names with other content."""
    names = [source.name for source in sources]
    for found in folder.glob(f"{key[:16]}-*"):
        with contextlib.suppress(FileError):
            if found != target and [source.name for source in read_manifest(found).sources] == names:
                remove(found)
