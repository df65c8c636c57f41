"""Arrays of a sample in a folder: written once, checked page by page when opened, mapped into memory.

The folder holds one file for each array, numbers little-endian and contiguous, and ``manifest.json``: names,
shapes, the source files with their hashes, a CRC-32 of every 4 MiB of every file, and a hash of itself.
It comes into being whole, by a rename, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmmest.data.block import Block
from gmmest.data.memory import in_words
from gmmest.data.observations import Clusters, Observations
from gmmest.data.on_disk import beside, remedy, sync_folder, workplace
from gmmest.data.source_files import SourceFile
from gmmest.errors import Complaint, FileError, printable

__all__ = ["FORMAT", "Manifest", "Store", "StoreWriter", "open_store", "read_manifest", "remove", "restamp"]

FORMAT = 1
"""Changes when what is in a store does; stores of another format are not looked at."""

PAGE = 1 << 22  # bytes under one checksum
MANIFEST = "manifest.json"
ADVICE = "delete this folder; the data are converted again by the next fit"


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A file of the store: name, type, shape, and the CRC-32 of each page."""

    name: str
    dtype: str
    shape: list[int]
    pages: list[int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store holds.

    Parameters
    ----------
    key : str
        Hash of the design: format, roles of columns, terms, options.
    names, moment_names, notes : list of str
    clusters : list of str
        Names of the ways of grouping.
    fingerprint : str
        That of the same data in memory.
    sources : list of SourceFile
    arrays : list of StoredArray
    """

    key: str
    names: list[str]
    moment_names: list[str]
    notes: list[str]
    clusters: list[str]
    fingerprint: str
    sources: list[SourceFile]
    arrays: list[StoredArray] = field(default_factory=list)

    def text(self) -> str:
        """The file: one JSON object whose last entry is the SHA-256 of what stands before it."""
        body = json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"))[:-1]
        return f'{body},"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"}}\n'


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """An opened store; its arrays are mapped, read-only and shared by whoever opens them.

    Attributes
    ----------
    folder : Path
    manifest : Manifest
    block : Block
        All choice sets.
    observations : Observations
    """

    folder: Path
    manifest: Manifest
    block: Block
    observations: Observations


# --- writing -----------------------------------------------------------------------------------


class StoreWriter:
    """A store in the making, in a folder of its own beside the place where it will stand.

    Parameters
    ----------
    folder : Path
        The store to be; left as it is until :meth:`finish`.
    needed : int, optional
        Bytes it will take, as far as known.

    Raises
    ------
    FileError
        E501: no room (how much is needed is said), no permission.  Nothing is left behind then.
    """

    def __init__(self, folder: Path, needed: int | None = None) -> None:
        self.folder = folder
        self.scratch = folder  # until there is another
        self._ending = contextlib.ExitStack()
        self._needed = needed
        self._growing: dict[str, _Growing] = {}

    def __enter__(self) -> Self:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.scratch = self._ending.enter_context(workplace(self.folder, ".*.tmp"))
            free = shutil.disk_usage(self.scratch).free
        except OSError as error:
            self._ending.close()
            raise self._refusal(error) from error
        if self._needed is not None and free < self._needed:
            self._ending.close()
            raise self._refusal(OSError(0, f"{in_words(free)} are free"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for growing in self._growing.values():
            with contextlib.suppress(OSError):  # what is in its buffer has no room either
                growing.file.close()
        self._ending.close()
        if isinstance(error, OSError) and not isinstance(error, FileError):
            raise self._refusal(error) from error

    def append(self, name: str, piece: NDArray[Any]) -> None:
        """Put rows at the end of an array."""
        if name not in self._growing:
            self._growing[name] = _Growing(self.scratch / f"{name}.bin", piece)
        self._growing[name].append(piece)

    def has(self, name: str) -> bool:
        """Whether anything was put into an array."""
        return name in self._growing

    def path(self, name: str) -> Path:
        """The file of an array, all of it written."""
        self._growing[name].file.flush()
        return self._growing[name].file_path

    def drop(self, name: str) -> None:
        """Take an array out that only the conversion needed."""
        growing = self._growing.pop(name)
        growing.file.close()
        growing.file_path.unlink()

    def finish(self, manifest: Manifest) -> None:
        """Sync everything, write the manifest, and let the folder take its place."""
        arrays = []
        for name, growing in self._growing.items():
            growing.close()
            arrays.append(StoredArray(name, growing.dtype.str, growing.shape, growing.pages))
        kept = {f"{name}.bin" for name in self._growing}
        for path in self.scratch.iterdir():
            if path.name not in kept:
                path.unlink()
        _write_synced(self.scratch / MANIFEST, replace(manifest, arrays=arrays).text())
        sync_folder(self.scratch)
        if self.folder.is_dir() and not (self.folder / MANIFEST).is_file():
            remove(self.folder)  # no store, whatever it was
        try:
            self.scratch.rename(self.folder)
        except OSError:
            # Another process has made the same store in the meantime; content decides the name.
            if not (self.folder / MANIFEST).is_file():
                raise
        sync_folder(self.folder.parent)

    def _refusal(self, error: OSError) -> FileError:
        room = "" if self._needed is None else f"; it takes about {in_words(self._needed)}"
        what = f"cannot write the store of converted data: {error.strerror or error}{room}"
        advice = remedy(error, "name another folder for it with  cache")
        return FileError(Complaint("E501", what, printable(self.folder.parent), advice))


class _Growing:
    """An array on its way to a file, with the checksum of every page."""

    def __init__(self, path: Path, piece: NDArray[Any]) -> None:
        self.file_path = path
        self.file = open(path, "wb")  # noqa: SIM115  closed by whoever owns the store
        self.dtype = piece.dtype.newbyteorder("<")
        self.shape = [0, *piece.shape[1:]]
        self.pages: list[int] = []
        self._crc, self._filled = 0, 0

    def append(self, piece: NDArray[Any]) -> None:
        little = np.ascontiguousarray(piece, dtype=self.dtype)
        if not little.size:
            return
        data = little.data.cast("B")
        self.file.write(data)
        self.shape[0] += len(little)
        while len(data):
            part = data[: PAGE - self._filled]
            self._crc, self._filled = zlib.crc32(part, self._crc), self._filled + len(part)
            data = data[len(part) :]
            if self._filled == PAGE:
                self._end_page()

    def close(self) -> None:
        if self._filled:
            self._end_page()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _end_page(self) -> None:
        self.pages.append(self._crc)
        self._crc, self._filled = 0, 0


def restamp(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a store that stays as it is, where that is allowed."""
    temporary = beside(folder / MANIFEST)
    try:
        _write_synced(temporary, manifest.text())
        os.replace(temporary, folder / MANIFEST)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Delete a store, where that is allowed; its name goes first, so that nobody finds half of one."""
    with contextlib.suppress(OSError), workplace(folder) as away:
        folder.rename(away / folder.name)


def _write_synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


# --- reading -----------------------------------------------------------------------------------


def open_store(folder: Path, verify: bool = True) -> Store:
    """Open a store: compare every page with its checksum in one pass, then map the arrays.

    Parameters
    ----------
    folder : Path
    verify : bool
        Whether pages are compared; sizes and the manifest always are.

    Raises
    ------
    FileError
        E502: the manifest, a page (named, with its rows) or the size of a file is not what was written, or a file
        is not there.
        E516: the system refuses to read it.
    """
    manifest = read_manifest(folder)
    arrays: dict[str, NDArray[Any]] = {}
    complaints: list[Complaint] = []
    for stored in manifest.arrays:
        path = folder / f"{stored.name}.bin"
        try:
            damage = _damage(path, stored, verify)
            if damage:
                complaints.append(Complaint("E502", damage, printable(folder), ADVICE))
                continue
            arrays[stored.name] = np.asarray(np.memmap(path, stored.dtype, "r", shape=tuple(stored.shape)))
        except FileNotFoundError:
            missing = f"{path.name} of the store is not there"
            complaints.append(Complaint("E502", missing, printable(folder), ADVICE))
        except OSError as error:
            what = f"{stored.name}.bin of the store cannot be read: {error.strerror or error}"
            raise FileError(Complaint("E516", what, printable(folder), ADVICE)) from error
    if complaints:
        raise FileError(complaints)
    features = arrays["features"]
    block = Block(
        features,
        arrays.get("instruments", features),
        arrays["chosen"],
        arrays["offsets"],
        arrays.get("row_mass"),
        arrays.get("row_frequency"),
    )
    clusters = tuple(Clusters(name, arrays[f"cluster{i}"]) for i, name in enumerate(manifest.clusters))
    return Store(
        folder, manifest, block, Observations(arrays.get("weight"), arrays.get("frequency"), clusters)
    )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store, after its own hash was compared.

    Raises
    ------
    FileError
        E502: not what was written.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
        content = json.loads(raw)
        content.pop("sha256")
        if content.pop("format") != FORMAT:
            raise ValueError
        content["sources"] = [SourceFile(**source) for source in content["sources"]]
        content["arrays"] = [StoredArray(**array) for array in content["arrays"]]
        manifest = Manifest(**content)
        if manifest.text().encode("ascii") != raw:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{MANIFEST} of the store does not match its own hash"
        raise FileError(Complaint("E502", what, printable(folder), ADVICE)) from error
    return manifest


def _damage(path: Path, stored: StoredArray, verify: bool) -> str:
    """What is wrong with a file of the store, in words; nothing if it is as it was written."""
    width = np.dtype(stored.dtype).itemsize * int(np.prod(stored.shape[1:], dtype=np.int64))
    size = path.stat().st_size
    if size != width * stored.shape[0]:
        return f"{path.name} of the store has {size:,} bytes, {width * stored.shape[0]:,} were written"
    if not verify:
        return ""
    bad: list[int] = []
    page = bytearray(PAGE)
    view = memoryview(page)
    with open(path, "rb", buffering=0) as file:
        for number, expected in enumerate(stored.pages):
            filled = 0
            while filled < PAGE and (read := file.readinto(view[filled:])):
                filled += read
            if zlib.crc32(view[:filled]) != expected:
                bad.append(number)
    if not bad:
        return ""
    first, last = bad[0] * PAGE // width, min(-(-(bad[0] + 1) * PAGE // width), stored.shape[0])
    entries = "rows" if stored.name in ("features", "instruments", "chosen") else "entries"
    more = f"; {len(bad):,} of {len(stored.pages):,} pages are damaged" if len(bad) > 1 else ""
    return (
        f"{path.name} of the store: page {bad[0] + 1:,} does not match its checksum, {entries}"
        f" {first + 1:,}-{last:,} are damaged{more}"
    )
