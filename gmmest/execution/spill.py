"""Blocks as messages: their large arrays go to files once, and what is sent names places in these files.

A block is taken apart as pickling takes it apart (protocol 5, PEP 574): what is small travels in the message,
and each large buffer is written to a file when it is first seen.  Whoever loads the message maps the file, so
that nothing is read twice.  Thus any record of arrays can be sent; arrays that are one stay one; and what is
mapped from a file for reading (``np.memmap``) is sent as its place there.  Files hold numbers only.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import Complaint, FileError, printable

__all__ = ["Message", "Piece", "Spill", "forget", "loaded"]

SMALL = 4096
"""Bytes up to which an array travels in the message: a page, the least that can be mapped."""
LINE = 64
"""Bytes of a cache line, and of the widest vector registers."""
MAPPED_FILES = 16384
"""Files that a process keeps mapped; Linux allows four times as many."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start:start + size`` of a file."""

    path: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Message:
    """A block without its arrays, and these: small ones as they are, large ones by their place in a file."""

    header: bytes
    arrays: tuple[Piece | bytes, ...]


class Spill:
    """Writes the large arrays of what it is given to files of one folder, each array once.

    Parameters
    ----------
    folder : path
        Exists; removed by whoever made it.

    Notes
    -----
    An array lies in its file at the same place within a cache line as in memory: a kernel whose sums depend
    on alignment gives the same bits on both.  What was written is kept alive here, so that one address keeps
    standing for one array.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._written: dict[tuple[int, int], tuple[Bytes, Piece]] = {}
        self._files = 0

    def message(self, item: Any, small: int = SMALL) -> Message:
        """What to send for an item; its arrays of more than ``small`` bytes are on disk when this returns.

        Raises
        ------
        FileError
            E501: no room in the folder, or no permission.
        """
        from distributed.protocol.pickle import dumps

        buffers: list[Any] = []
        header = dumps(item, buffer_callback=buffers.append)
        flat = [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers]
        large = [array for array in flat if array.nbytes > small and _place(array) not in self._written]
        for array in large:
            piece = _already(array)
            if piece is not None:
                self._written[_place(array)] = (array, piece)
        self._write([array for array in large if _place(array) not in self._written])
        return Message(
            header,
            tuple(
                self._written[_place(array)][1] if array.nbytes > small else array.tobytes() for array in flat
            ),
        )

    def _write(self, arrays: Sequence[Bytes]) -> None:
        if not arrays:
            return
        path = self._folder / f"{self._files:06d}.bin"
        self._files += 1
        end = 0
        try:
            with path.open("xb") as file:
                for array in arrays:
                    start = -(-end // LINE) * LINE + array.ctypes.data % LINE
                    file.seek(start)
                    file.write(array.data)
                    self._written[_place(array)] = (array, Piece(str(path), start, array.nbytes))
                    end = start + array.nbytes
        except OSError as error:
            what = f"blocks for the workers cannot be written: {error.strerror or error}"
            hint = "Dask(folder=...) with more room, or TMPDIR"
            raise FileError(Complaint("E501", what, printable(path), hint)) from error


def _place(array: Bytes) -> tuple[int, int]:
    return array.ctypes.data, array.nbytes


def _already(array: Bytes) -> Piece | None:
    """Where a file holds these bytes, if they are mapped from one for reading."""
    view: Any = array.base
    owner = view.obj if isinstance(view, memoryview) else view
    while isinstance(owner, np.ndarray) and isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not isinstance(owner, np.memmap) or owner.mode != "r" or owner.filename is None:
        return None
    start = owner.offset + array.ctypes.data - owner.ctypes.data
    return Piece(str(owner.filename), start, array.nbytes)


def loaded(message: Message) -> Any:
    """The item of a message, its large arrays read-only views of mapped files.

    Raises
    ------
    FileError
        E518: a file that is not there, or is shorter than what was written.
    """
    from distributed.protocol.pickle import loads

    buffers = [_view(array) if isinstance(array, Piece) else array for array in message.arrays]
    return loads(message.header, buffers=buffers)


def _view(piece: Piece) -> memoryview:
    view = memoryview(_mapped(piece.path))[piece.start : piece.start + piece.size]
    if len(view) != piece.size:
        raise _unreadable(piece.path, "it is shorter than what was written")
    return view


@lru_cache(maxsize=MAPPED_FILES)
def _mapped(path: str) -> mmap.mmap:
    """A file mapped once in each process: pages that were touched stay mapped from pass to pass."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(getattr(error, "strerror", None) or error)) from error


def _unreadable(path: str, why: str) -> FileError:
    return FileError(
        Complaint(
            "E518",
            f"a worker cannot read its blocks: {why}",
            printable(path),
            "Dask(client, folder=...) with a folder that all workers see under the same name",
        )
    )


def forget() -> None:
    """Let go of the files that this process has mapped; the room of removed ones becomes free."""
    _mapped.cache_clear()
