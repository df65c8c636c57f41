r"""Journals: what a long computation has found so far, in a file that survives its end.

A file is a mark, then frames; the first holds what a run must agree with to go on from here, the others one
record each.  Every frame is on the disk before ``append`` returns::

    frame   = b"\xa7rec", index (u32), length of the record (u64), crc32 of the record, crc32 of these, record
    record  = length of the head (u32), head as JSON, arrays as raw float64         (little endian throughout)

The checksums of frames go on from that of the first one: a record of another journal fits nowhere.  A frame
that is not whole and has none after it is a tail that was torn off, and is cut; a bad frame with good ones
after it was whole once and is damage, which is refused.
"""

from __future__ import annotations

import json
import os
import platform
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gmmest.data.on_disk import lock, sync_folder
from gmmest.errors import Complaint, FileError, plural, printable, some

__all__ = ["PACKAGES", "Journal", "Record", "locked", "surroundings", "versions"]

Array = NDArray[np.float64]

MARK = b"gmmest journal 1\n"
FRAME = b"\xa7rec"
_HEAD = struct.Struct("<4sIQII")
_CHECKED = _HEAD.size - 4
"""Bytes of a frame's head that its own checksum covers."""
WIDEST = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True, slots=True)
class Record:
    """A few words and numbers, and arrays, as bytes and back.

    Parameters
    ----------
    head : mapping
        What JSON can say: text, whole numbers, lists.
    arrays : tuple of array
        float64; an array comes back with its bits, its shape and its order in memory (C or Fortran, on which
        the bits of later products depend), any other layout as C.

    Examples
    --------
    >>> record = Record({"what": "value"}, (np.array([1.0, np.nan]),))
    >>> back = Record.from_bytes(record.to_bytes())
    >>> back.head["what"], back.arrays[0].tolist()
    ('value', [1.0, nan])
    """

    head: Mapping[str, Any]
    arrays: tuple[Array, ...] = ()

    def to_bytes(self) -> bytes:
        """Head and arrays, one after the other."""
        layout = [[list(a.shape), _order(a)] for a in self.arrays]
        text = json.dumps({"head": dict(self.head), "arrays": layout}, allow_nan=False).encode("ascii")
        raw = [a.astype("<f8").tobytes(_order(a)) for a in self.arrays]
        return b"".join([struct.pack("<I", len(text)), text, *raw])

    @classmethod
    def from_bytes(cls, content: bytes) -> Record:
        """The inverse of :meth:`to_bytes`; the arrays are new ones and may be written to."""
        (length,) = struct.unpack_from("<I", content)
        start = 4 + length
        read = json.loads(content[4:start])
        arrays = []
        for shape, order in read["arrays"]:
            count = int(np.prod(shape, dtype=np.int64))
            flat = np.frombuffer(content, "<f8", count, start).astype(np.float64)
            arrays.append(flat.reshape(shape, order=order))
            start += 8 * count
        return cls(read["head"], tuple(arrays))


def _order(array: Array) -> Literal["C", "F"]:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


class Journal:
    """An append-only file of records, one process at a time.

    Parameters
    ----------
    path : str or Path
        Made if it does not exist, or went no further than its first frame.
    must_agree : mapping of str to str
        What the records depend on: options, hashes of data, :func:`surroundings`.

    Attributes
    ----------
    records : tuple of Record
        Those that were in the file.
    cut : int
        Bytes of a torn tail that were cut off.

    Raises
    ------
    FileError
        E501: no room, or no permission.  E505: not a journal, or a damaged one.  E506: in use.  E507: a link,
        or no plain file.  E509: of a run that does not agree; all that differs is named.

    Notes
    -----
    Law: whatever is cut off a journal's end, the records that are left whole are read, and what is appended
    comes after them.  A changed bit is refused, or makes a tail of the last record.  ``append`` waits for the
    disk: some milliseconds.  Locks are those of the system (POSIX) and end with the process.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "journal"
    >>> with Journal(path, {"seed": "1"}) as journal:
    ...     journal.append(Record({"draw": 1}, (np.array([0.5]),)))
    >>> with Journal(path, {"seed": "1"}) as journal:
    ...     journal.records[0].head, journal.cut
    ({'draw': 1}, 0)
    >>> Journal(path, {"seed": "2"})
    Traceback (most recent call last):
        ...
    gmmest.errors.FileError: E509 this journal is of another run: seed was 1, and is 2 now
    ...
    """

    def __init__(self, path: str | Path, must_agree: Mapping[str, str]) -> None:
        self.path = Path(path)
        self._descriptor = _opened(self.path)
        self._index = self._end = self._salt = 0
        try:
            with _as_refusal("read, lock or write the journal", self.path):
                if not lock(self._descriptor):
                    raise FileError(
                        Complaint("E506", "another process writes to this journal", _shown(self.path), _WAIT)
                    )
                self._begin(must_agree)
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, record: Record) -> None:
        """Write a record; it is on the disk when this returns, or else the journal is as it was.

        Raises
        ------
        FileError
            E501: no room.
        """
        self._end = self._write(_frame(self._index, record.to_bytes(), self._salt), self._end)
        self._index += 1

    def close(self) -> None:
        """Let go of the file and of its lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, must_agree: Mapping[str, str]) -> None:
        """Read what is there and cut its tail, or write the first frame."""
        content = _content(self._descriptor)
        frames = _Frames(content, self.path)
        if frames.first is None:
            first = Record({"must_agree": dict(must_agree)}).to_bytes()
            self._end = self._write(MARK + _frame(0, first, 0), 0)
            sync_folder(self.path.parent)
            self._salt, self._index = zlib.crc32(first), 1
            self.records: tuple[Record, ...] = ()
            self.cut = len(content)
            return
        _require_agreement(Record.from_bytes(frames.first).head["must_agree"], must_agree, self.path)
        self.records = tuple(Record.from_bytes(content) for content in frames.others)
        self._salt, self._index = zlib.crc32(frames.first), 1 + len(frames.others)
        self._end, self.cut = frames.end, len(content) - frames.end
        if self.cut:
            self._write(b"", self._end)

    def _write(self, content: bytes, at: int) -> int:
        """Make these bytes the end of the file, from a place on; where they end."""
        try:
            try:
                os.ftruncate(self._descriptor, at)
                done = 0
                while done < len(content):
                    done += os.pwrite(self._descriptor, content[done:], at + done)
                os.fsync(self._descriptor)
            except BaseException:  # also an interrupt: half a record is of no use
                os.ftruncate(self._descriptor, at)
                raise
        except OSError as error:
            what = f"cannot write to the journal: {error.strerror or error}"
            where = f"{_shown(self.path)}, after {plural(max(self._index - 1, 0), 'record')}"
            advice = "free space, and go on from this journal"
            raise FileError(Complaint("E501", what, where, advice)) from error
        return at + len(content)


class _Frames:
    """The frames of a file: the first, the others, and where they end."""

    def __init__(self, content: bytes, path: Path) -> None:
        if not content.startswith(MARK[: len(content)]):
            raise FileError(
                Complaint("E505", "this file is no journal", _shown(path), "another name, or delete it")
            )
        self.first: bytes | None = None
        self.others: list[bytes] = []
        self.end = len(MARK)
        salt = 0
        while (record := _record_at(content, self.end, len(self), salt)) is not None:
            if self.first is None:
                self.first, salt = record, zlib.crc32(record)
            else:
                self.others.append(record)
            self.end += _HEAD.size + len(record)
        if _goes_on(content, self.end, len(self), None if self.first is None else salt):
            place = f"record {len(self)}" if len(self) else "its beginning"
            what = f"the journal is damaged at {place}: its checksum does not match, and records follow it"
            advice = "copy it from where it came from; or delete it and start again"
            raise FileError(Complaint("E505", what, _shown(path), advice))

    def __len__(self) -> int:
        return (self.first is not None) + len(self.others)


def _frame(index: int, record: bytes, salt: int) -> bytes:
    """A record with its head; salt is the checksum that it goes on from."""
    head = _HEAD.pack(FRAME, index, len(record), zlib.crc32(record, salt), 0)[:_CHECKED]
    return head + struct.pack("<I", zlib.crc32(head, salt)) + record


def _record_at(content: bytes, at: int, index: int | None, salt: int | None) -> bytes | None:
    """The record of the frame at a place, if a whole one is there; any index or any journal's, if None."""
    if len(content) < at + _HEAD.size:
        return None
    mark, found, length, check, own = _HEAD.unpack_from(content, at)
    start = at + _HEAD.size
    if mark != FRAME or (index is not None and found != index) or len(content) < start + length:
        return None
    record = content[start : start + length]
    if salt is None:
        return record
    whole = zlib.crc32(content[at : at + _CHECKED], salt) == own and zlib.crc32(record, salt) == check
    return record if whole else None


def _goes_on(content: bytes, at: int, index: int, salt: int | None) -> bool:
    """Whether a frame that was written later stands anywhere behind a place."""
    while (at := content.find(FRAME, at + 1)) >= 0:
        if _record_at(content, at, None, salt) is not None:
            return bool(_HEAD.unpack_from(content, at)[1] > index)
    return False


def _require_agreement(kept: Mapping[str, str], given: Mapping[str, str], path: Path) -> None:
    differing = [
        f"{name} was {_value(kept, name)}, and is {_value(given, name)} now"
        for name in dict.fromkeys((*kept, *given))
        if kept.get(name) != given.get(name)
    ]
    if differing:
        raise FileError(
            Complaint(
                "E509",
                f"this journal is of another run: {some(differing)}",
                _shown(path),
                "run with what it was made with, or start again elsewhere",
            )
        )


def _value(of: Mapping[str, str], name: str) -> str:
    text = of.get(name, "not there")
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


# --- files and locks --------------------------------------------------------------------------------------

_WAIT = "wait for it, or choose another folder"


def _opened(path: Path, reading: str = "the journal") -> int:
    """A descriptor of a plain file, made if there is none; links are not followed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if path.is_symlink() or path.is_dir():
            raise FileError(Complaint("E507", "a plain file was expected here", _shown(path))) from error
        what = f"cannot open {reading}: {error.strerror or error}"
        raise FileError(
            Complaint("E501", what, _shown(path), "another folder, or its permissions")
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(Complaint("E507", "a plain file was expected here", _shown(path)))
    return descriptor


def _content(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        return stream.read()


@contextmanager
def _as_refusal(what: str, path: Path) -> Iterator[None]:
    """What the system refuses (no locks on this file system, a disk that fails), as E501."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        reason = f"cannot {what}: {error.strerror or error}"
        advice = "free space, or another folder on a disk of this machine"
        raise FileError(Complaint("E501", reason, _shown(path), advice)) from error


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """A folder for one process: a file ``lock`` that names it, gone again at the end.

    Parameters
    ----------
    folder : Path
        Exists.

    Yields
    ------
    bool
        Whether the lock of a process that did not end by itself was taken over.

    Raises
    ------
    FileError
        E506: a process is at work there; its number is named.  E501, E507: as for a journal.
    """
    path = folder / "lock"
    while True:
        descriptor = _opened(path, "the lock of the folder")
        try:
            with _as_refusal("read or take the lock of the folder", path):
                before = _content(descriptor).decode("utf-8", "replace")
                free = lock(descriptor)
                same = _same_file(descriptor, path)
            process, _, host = before.strip().partition(" on ")
            if not free or (host and host != platform.node()):
                what = f"process {printable(process or '?')} on {printable(host or '?')} is at work in this folder"
                advice = f"{_WAIT}; if it is gone, delete the file {path.name}"
                raise FileError(Complaint("E506", what, _shown(folder), advice))
        except BaseException:
            os.close(descriptor)
            raise
        if same:
            break
        os.close(descriptor)  # its owner has just deleted it
    try:
        with _as_refusal("write the lock of the folder", path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} on {platform.node()}\n".encode(), 0)
        yield bool(before)
    finally:
        try:
            with _as_refusal("delete the lock of the folder", path):
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _shown(path: Path) -> str:
    return printable(path)


# --- what bits depend on ----------------------------------------------------------------------------------


PACKAGES = ("gmmest", "numpy", "scipy", "jax", "llvmlite")
"""Those whose versions decide the bits of a result."""


def versions() -> dict[str, str]:
    """Versions of Python and of :data:`PACKAGES`, by name."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def surroundings() -> dict[str, str]:
    """What the last bits of a computation depend on beside its input: versions, BLAS, the processor's kind.

    Examples
    --------
    >>> sorted(surroundings())
    ['blas', 'gmmest', 'jax', 'llvmlite', 'numpy', 'processor', 'python', 'scipy']
    """
    import scipy.linalg  # noqa: F401  its BLAS counts as well
    from threadpoolctl import threadpool_info

    blas = {
        f"{each['internal_api']} {each['version']} {each.get('architecture', '')}".strip()
        for each in threadpool_info()
        if each["user_api"] == "blas"
    }
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {
        **versions(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "blas": ", ".join(sorted(blas)),
        "processor": " ".join([platform.machine(), *simd.get("baseline", []), *simd.get("found", [])]),
    }
