"""The score of a logit, its derivative and its squares from one reading of the features, in machine code.

Where Z = X and choices are observed, these are all that a fit needs, and :func:`score_sums` makes them four times
faster than :func:`.share_sums` does: a choice set stays in the processor's first cache until all is done with it.
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

__all__ = ["LANES", "SIDE", "Layout", "layout_of", "score_sums", "serves"]

Array = NDArray[np.float64]

WORTH = 2**18
"""Features of a block, in numbers, for which compiling pays: the blocks of data in several blocks have more."""
WIDEST = 64
"""Columns beyond which a matrix product of NumPy is as good."""
LANES, SIDE = 8, 4
"""Rows in a vector, and rows and columns of a tile: 16 sums of 8 lanes, of the 32 vectors that a processor holds."""
ROOM = 3200
"""Numbers of the rows that are held transposed: 25 KB of a first cache of 32."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where things lie for so many features; see :func:`layout_of`.

    Parameters
    ----------
    features : int
        K.
    padded : int
        Features filled up to whole tiles.
    width : int
        Rows that are held transposed: a multiple of two vectors.
    length : int
        Numbers from one transposed feature to the next: not a power of two, which caches map to one place.
    pieces : tuple of (int, int)
        First feature of each piece of a row, and how many it has.
    tiles : tuple of (int, int)
        First row and first column of each tile of the upper triangle.
    entries : (K, K) int64
        Which of the tiles' sums is which entry of the symmetric matrix.
    places : tuple of int
        Where the results (g, then G and S tile by tile) and the room for rows begin, in numbers; at last the end.
    """

    features: int
    padded: int
    width: int
    length: int
    pieces: tuple[tuple[int, int], ...]
    tiles: tuple[tuple[int, int], ...]
    entries: NDArray[np.int64]
    places: tuple[int, ...]


@lru_cache(maxsize=2 * WIDEST)
def layout_of(features: int) -> Layout:
    """The layout for so many features.

    Examples
    --------
    >>> layout = layout_of(6)
    >>> layout.padded, layout.width, layout.pieces, layout.tiles
    (8, 400, ((0, 4), (4, 2)), ((0, 0), (0, 4), (4, 4)))
    """
    firsts = range(0, features, SIDE)
    padded, tiles = len(firsts) * SIDE, tuple((a, b) for a in firsts for b in firsts if a <= b)
    width = min(512, max(64, ROOM // padded // (2 * LANES) * (2 * LANES)))
    length = width + LANES
    which = np.zeros((padded, padded), dtype=np.int64)
    for tile, (a, b) in enumerate(tiles):
        which[a : a + SIDE, b : b + SIDE] = SIDE**2 * tile + np.arange(SIDE**2).reshape(SIDE, SIDE)
    upper = np.triu(which[:features, :features])
    sums, wide = len(tiles) * SIDE**2 * LANES, length * padded
    results = (padded + LANES - padded % LANES, sums, sums)  # g, G, S
    room = (
        *[length] * 3,
        wide,
        length,
        wide,
        wide,
        *[length] * 4,
    )  # u, h, scales, means, lengths, columns, places
    return Layout(
        features,
        padded,
        width,
        length,
        tuple((k, min(SIDE, features - k)) for k in firsts),
        tiles,
        frozen(upper + np.triu(upper, 1).T),
        tuple(itertools.accumulate((*results, *room), initial=0)),
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
        and int(np.diff(block.offsets).max()) <= layout_of(features.shape[1]).width
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
    room = np.empty(size + LANES)  # as one array: many would cost more than the sums of a small block
    room = room[-room.ctypes.data // room.itemsize % LANES :]  # from where a line of a cache begins
    results = room[: places[3]]
    results[:] = 0.0
    inputs = [array.ctypes.data for array in (*given, mass, length)]
    outputs = [room.ctypes.data + place * room.itemsize for place in places]
    _compiled(layout)(block.n_sets, int(square), *inputs, *outputs)
    moments, *sums = (results[a:b] for a, b in itertools.pairwise(places[:4]))
    jacobian, squares = (each.reshape(-1, LANES).sum(axis=1)[layout.entries] for each in sums)
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
