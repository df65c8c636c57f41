"""The score of a logit, its derivative and its squares from one reading of the features, in machine code.

Where Z = X and choices are observed, these are all that a fit needs, and :func:`score_sums` makes them four times
faster than :func:`.share_sums` does: a choice set stays in the processor's first caches until all is done with it.
How is said in :mod:`.score_program`, which is loaded, and compiled for a number of features, when it is first
wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from gmmest.data.block import Block
from gmmest.data.immutable import frozen
from gmmest.models.sample import MomentSums

__all__ = ["WIDE", "Layout", "layout_of", "score_sums", "serves"]

Array = NDArray[np.float64]

WORTH = 2**18
"""Features of a block, in numbers, for which compiling pays: the blocks of data in several blocks have more."""
WIDEST = 64
"""Columns beyond which a matrix product of NumPy is as good."""
WIDE = 8
"""Numbers in a vector, as in a line of a cache."""
CHUNK, ROOM = 1280, 9216
"""Features of the rows that are worked on together, 10 KB of a first cache of 32, and numbers of the centred rows that
are held until they are multiplied, 72 KB of a second one (measured: gmmest bench --part b)."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where things lie for so many features; see :func:`layout_of`.

    Parameters
    ----------
    features : int
        K.
    stride : int
        Numbers from one row to the next, whole vectors.
    chunk : int
        Rows that are worked on together, if a set has no more.
    rows : int
        Centred rows that are held, as many as a set may have.
    places : tuple of int
        Where the results (g, G, S) and the room for rows begin, in numbers; at last the end.
    entries : (K, K) int64
        Which number of G, or S, is which entry of the symmetric matrix: one of the upper triangle.
    """

    features: int
    stride: int
    chunk: int
    rows: int
    places: tuple[int, ...]
    entries: NDArray[np.int64]


@lru_cache(maxsize=2 * WIDEST)
def layout_of(features: int) -> Layout:
    """The layout for so many features.

    Examples
    --------
    >>> layout = layout_of(6)
    >>> layout.stride, layout.chunk, layout.rows, layout.places[:4]
    (8, 213, 512, (0, 8, 72, 136))
    """
    stride = -(-features // WIDE) * WIDE
    chunk = max(32, min(256, CHUNK // features))
    rows = min(512, ROOM // stride)
    long, held = rows + WIDE, rows * stride
    sizes = (stride, stride * stride, stride * stride, *[long] * 4, held, held, long)  # see score_program
    one, other = np.indices((features, features))
    entries = stride * np.minimum(one, other) + np.maximum(one, other)
    return Layout(
        features, stride, chunk, rows, tuple(itertools.accumulate(sizes, initial=0)), frozen(entries)
    )


def serves(theta: object, block: Block) -> bool:
    """Whether the kernel makes the sums of this block: a score, and enough of it.

    It is decided by the shape of the block alone, so that workers and files change nothing.
    """
    features = block.features
    return (
        block.instruments is features
        and type(theta) is np.ndarray
        and features.size >= WORTH
        and features.shape[1] <= WIDEST
        and features.dtype == np.float64
        and features.flags.c_contiguous
        and int(np.diff(block.offsets).max()) <= layout_of(features.shape[1]).rows
        and bool(block.chosen[: block.offsets[1]].any())  # chosen in the first set, then in all
    )


def score_sums(theta: Array, block: Block, square: bool) -> MomentSums:
    """Sums of ``w_i g_i``, of their derivatives, and of ``w_i^2 g_i g_i'/f_i`` if they are asked for; Z = X.

    Parameters
    ----------
    theta : (K,)
    block : Block
        One that the kernel :func:`serves`, whatever its size.
    square : bool

    Notes
    -----
    Law: :func:`.share_sums` with the shares at theta, to rounding.  Each thread has room of its own.

    Examples
    --------
    >>> from gmmest.data.choice_data import ChoiceData
    >>> data = ChoiceData.from_arrays(features=[[0.0], [1.0]], chosen=[0, 1], offsets=[0, 2])
    >>> sums = score_sums(np.zeros(1), data.block(), square=True)
    >>> sums.moments, sums.jacobian, sums.square
    (array([-0.5]), array([[0.25]]), array([[0.25]]))
    """
    layout, begins = layout_of(block.features.shape[1]), block.offsets[:-1]
    mass = np.ones(block.n_sets) if block.weight is None else block.weight[begins]
    length = mass if block.frequency is None else mass / np.sqrt(block.frequency[begins])
    given = (np.ascontiguousarray(theta, dtype=np.float64), block.offsets, block.features, block.chosen)
    *places, size = layout.places
    room = np.empty(size + WIDE)  # as one array: many would cost more than the sums of a small block
    room = room[-room.ctypes.data // room.itemsize % WIDE :]  # from where a line of a cache begins
    results = room[: places[3]]
    results[:] = 0.0
    inputs = [array.ctypes.data for array in (*given, mass, length)]
    outputs = [room.ctypes.data + place * room.itemsize for place in places]
    _compiled(layout)(block.n_sets, int(square), *inputs, *outputs)
    moments, *sums = (results[a:b] for a, b in itertools.pairwise(places[:4]))
    jacobian, squares = (each[layout.entries] for each in sums)
    count, first = block.n_obs, moments[: layout.features].copy()  # and the room can go
    return MomentSums(count, first, jacobian, squares if square else None)


COMPILING = Lock()


def _compiled(layout: Layout) -> Callable[..., None]:
    with COMPILING:  # or threads would do the same work at the same time
        return _program(layout)


@lru_cache(maxsize=16)
def _program(layout: Layout) -> Callable[..., None]:
    from gmmest.models import score_program  # LLVM is large, and small data need none of it

    return score_program.compiled(layout)
