"""Hashes of arrays, of those in memory and of those that come in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GrowingHash", "content_hash", "joined_hash"]


def content_hash(parts: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """Return the sha256 of named arrays: names, types, shapes and the sha256 of bytes (little-endian), in order.

    Examples
    --------
    >>> growing = GrowingHash()
    >>> growing.add(np.arange(2.0)), growing.add(np.arange(2.0, 5.0))
    (None, None)
    >>> joined_hash([growing.line("x")]) == content_hash([("x", np.arange(5.0))])
    True
    """
    lines = []
    for name, array in parts:
        digest = GrowingHash()
        digest.add(array)
        lines.append(digest.line(name))
    return joined_hash(lines)


class GrowingHash:
    """Hash of an array that comes in pieces along its first axis."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._rows, self._kind = 0, ""

    def add(self, piece: NDArray[Any]) -> None:
        """Take the next piece in."""
        little = np.ascontiguousarray(piece, dtype=piece.dtype.newbyteorder("<"))
        self._kind = f"{little.dtype.str} {little.shape[1:]}"
        self._rows += len(little)
        if little.size:
            self._digest.update(little.data.cast("B"))

    def line(self, name: str) -> str:
        """Name, type, shape and hash."""
        return f"{name!r} {self._kind} {self._rows} {self._digest.hexdigest()}\n"


def joined_hash(lines: Iterable[str]) -> str:
    """Return the sha256 of lines of :class:`GrowingHash`."""
    return hashlib.sha256("".join(lines).encode()).hexdigest()
