"""Ids of all choice sets as fixed-width keys in a file: which come twice, and groups as codes.

A key has 128 bits: an integer itself, or the BLAKE2 hash of a text, so that different ids have different keys.
Keys are examined a part at a time, a part being those of one remainder, in as many parts as memory asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmmest.data.columns import Arrow, IntArray, is_text

__all__ = ["Repeats", "all_differ", "appearance", "keys_of", "repeats"]

Keys = NDArray[np.uint64]  # (k, 2)

PIECE = 1 << 20  # keys looked at together
NEEDED = 100  # bytes of memory for each key of a part: key, place, and what sorting takes


@dataclass(frozen=True, slots=True)
class Repeats:
    """Keys that come more than once: how many places in all, and the first few with the place before each."""

    count: int
    again: IntArray
    before: IntArray


def keys_of(ids: Arrow) -> Keys:
    """Keys of a column of integers or text without holes.

    Examples
    --------
    >>> import pyarrow as pa
    >>> keys_of(pa.array([7, -1]))
    array([[                   7,                    0],
           [18446744073709551615,                    0]], dtype=uint64)
    """
    if not is_text(ids):
        numbers = ids.to_numpy(zero_copy_only=False)
        keys = np.zeros((len(ids), 2), dtype=np.uint64)
        keys[:, 0] = numbers.astype(np.int64 if numbers.dtype.kind == "i" else np.uint64).view(np.uint64)
        return keys
    coded = ids.dictionary_encode()
    digests = [
        hashlib.blake2b(text.encode(), digest_size=16).digest() for text in coded.dictionary.to_pylist()
    ]
    different = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2).astype(np.uint64)
    return np.asarray(different[coded.indices.to_numpy(zero_copy_only=False)])


def all_differ(keys: Keys) -> bool:
    """Whether no key comes twice."""
    return bool(_grouped(keys)[1].all())


def repeats(path: Path, memory: int, most: int) -> Repeats:
    """Keys of a file that occur more than once.

    Parameters
    ----------
    path : Path
        (N, 2) uint64.
    memory : int
        Bytes that may be used.
    most : int
        Places to return.

    Notes
    -----
    Cost: N log N, and the file is read ``100 N / memory`` times.
    """
    count, again, before = 0, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for keys, places in _parts(path, memory):
        order, first = _grouped(keys)
        later = np.flatnonzero(~first)
        count += later.size
        # Stable sorting leaves equal keys in the order of their places.
        again = np.concatenate([again, places[order[later]]])
        before = np.concatenate([before, places[order[later - 1]]])
        earliest = np.argsort(again)[:most]
        again, before = again[earliest], before[earliest]
    return Repeats(count, again, before)


def appearance(path: Path, memory: int, scratch: Path) -> NDArray[np.int64]:
    """Number the different keys of a file in the order in which they appear.

    Parameters
    ----------
    path : Path
        (N, 2) uint64.
    memory : int
        Bytes that may be used.
    scratch : Path
        A folder for the answer and what leads to it.

    Returns
    -------
    (N,) int64, in a file
        From 0.
    """
    n = path.stat().st_size // 16
    first = _zeros(scratch / f"{path.stem}.first", n)
    codes = _zeros(scratch / f"{path.stem}.codes", n)
    for keys, places in _parts(path, memory):
        order, begins = _grouped(keys)
        heads = np.flatnonzero(begins)
        sizes = np.diff(np.append(heads, order.size))
        first[places[order]] = np.repeat(places[order[heads]], sizes)
    known = 0
    for start in range(0, n, PIECE):  # a key seen before lies in front, where codes are written already
        places = np.arange(start, min(start + PIECE, n))
        new = first[places] == places
        codes[places[new]] = known + np.arange(int(new.sum()))
        codes[places] = codes[first[places]]
        known += int(new.sum())
    return codes


def _zeros(path: Path, n: int) -> NDArray[np.int64]:
    """An array in a file that has its room: writing into a hole on a full disk would end the process."""
    with open(path, "wb") as file:
        for start in range(0, n, PIECE):
            file.write(bytes(8 * (min(start + PIECE, n) - start)))
    return np.memmap(path, np.int64, "r+", shape=(n,))


def _parts(path: Path, memory: int) -> Iterator[tuple[Keys, IntArray]]:
    """Keys of one remainder after another, with their places."""
    n = path.stat().st_size // 16
    if n == 0:
        return
    keys = np.memmap(path, np.uint64, "r", shape=(n, 2))
    n_parts = -(-n * NEEDED // max(memory, NEEDED))
    for part in range(n_parts):
        chosen, places = [], []
        for start in range(0, n, PIECE):
            piece = np.asarray(keys[start : start + PIECE])
            # Multiplication by an odd number spreads ids that are multiples of something.
            mixed = (piece[:, 0] ^ piece[:, 1]) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
            here = np.flatnonzero(mixed % np.uint64(n_parts) == part)
            chosen.append(piece[here])
            places.append(here + start)
        yield np.concatenate(chosen), np.concatenate(places)


def _grouped(keys: Keys) -> tuple[IntArray, NDArray[np.bool_]]:
    """A stable order that puts equal keys together, and which of them in it is the first."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    return order, first
