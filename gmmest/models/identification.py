"""What must hold before a model is estimated, checked on the arrays of its sample.

Only differences within choice sets matter to a logit: a column must vary within some set, and no
column may be a combination of others within every set.  In a regression no column may be a
combination of others, and the instruments must move the regressors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.data.block import Block, block_ranges
from gmmest.derivatives import ops
from gmmest.errors import Complaint, IdentificationError, plural, printable
from gmmest.models.recombination import NEAR, Recombination, recombination
from gmmest.models.sample import Within

__all__ = [
    "check_columns",
    "check_features",
    "check_instruments",
    "check_regression",
    "demeaned",
    "too_few_moments",
    "triangle_of",
    "within_sets",
]

Array = NDArray[np.float64]
Columns = Callable[[Block], Array]
Complaints = Sequence[Complaint]

COLLINEAR = 1e-11
"""A unit column closer than this to the span of the others is called a combination of them."""

DOUBTFUL = NEAR**2
"""Eigenvalue of the correlations of columns above which none is nearer than :data:`NEAR` to a combination of
others; rounding of sums of squares is far below it."""
SMALL = 1e-12
"""Columns that vary by less than this part of their size are looked at again for whether they vary at all."""
LARGE = 1e100
"""Columns beyond this, or below its inverse, are divided by a power of two before they are squared."""
PIECE = 2**17
"""Numbers in a piece that stays in a core's own cache."""
QR_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Checked:
    """How columns vary within choice sets, and what to replace if they are the instruments.

    Parameters
    ----------
    within : Within
    changed : Recombination or None
    """

    within: Within
    changed: Recombination | None = None


def check_features(blocks: Sequence[Block], names: tuple[str, ...], columns: Columns) -> Checked:
    """Refuse features that do not vary within choice sets (E203) or are collinear there (E202).

    Parameters
    ----------
    blocks : sequence of Block
    names : tuple of str
    columns : callable
        The columns of a block that are meant, (n, K).

    Returns
    -------
    Checked
        With what to replace if they are the instruments, and near to combinations of each other.
    """
    advice = "let it act on some alternatives (only), interact it, or drop it"
    within, near = _decomposed(blocks, names, columns, advice)
    if near is None:
        return Checked(within)
    complaints = [
        Complaint(
            "E202",
            f"{combination.text} within every choice set, up to {combination.gap:.0e} of its variation",
            next=_which_to_drop(combination),
        )
        for combination in _combinations(near.factor, near.scale, names)
    ]
    _raise(complaints)
    return Checked(within, recombination(near.factor, near.scale, names))


def check_instruments(blocks: Sequence[Block], moment_names: tuple[str, ...], n_params: int) -> Checked:
    """Refuse too few instruments (E212), and constant (E203) or redundant ones (E211).

    Returns what to replace where they are near to combinations of each other.
    """
    few = too_few_moments(len(moment_names), n_params)
    advice = "it makes no moment; drop it"
    within, near = _decomposed(blocks, moment_names, lambda block: block.promoted().instruments, advice, few)
    if near is None:
        return Checked(within)
    _raise(list(_redundant(near.factor, near.scale, moment_names, " within every choice set")))
    return Checked(within, recombination(near.factor, near.scale, moment_names))


@dataclass(frozen=True, slots=True)
class _Triangle:
    """R of columns at unit norm, and their norms."""

    factor: Array
    scale: Array


def _decomposed(
    blocks: Sequence[Block], names: tuple[str, ...], columns: Columns, advice: str, before: Complaints = ()
) -> tuple[Within, _Triangle | None]:
    """How columns vary within sets, and where one may be near a combination of others there, their triangle.

    One pass makes their sums of squares and products.  These square the distance to a combination, so where an
    eigenvalue of the correlations comes below :data:`DOUBTFUL` a second pass decomposes the columns themselves.
    """
    scan = _scan(blocks, columns, len(names))
    size = np.sqrt(np.diag(scan.cross))
    still = np.flatnonzero(size <= SMALL * np.maximum(scan.level, size))
    flat = [names[k] for k in still if all(_flat(columns(b)[:, k], b.offsets) for b in blocks)]
    what = "does not vary inside any choice set"
    _raise([*before, *(Complaint("E203", f"{printable(name)} {what}", next=advice) for name in flat)])
    within = _within(scan, blocks)
    if np.all(size > 0) and np.linalg.eigvalsh(scan.cross / np.outer(size, size))[0] > DOUBTFUL:
        return within, None
    factor, scale = _unit_columns(triangle_of(demeaned(columns(b) / scan.unit, b.offsets) for b in blocks))
    return within, _Triangle(factor, scale * scan.unit)


def within_sets(blocks: Sequence[Block], columns: Columns, count: int) -> Within:
    """How columns vary within choice sets, one pass and no complaint."""
    return _within(_scan(blocks, columns, count), blocks)


def _within(scan: _Scan, blocks: Sequence[Block]) -> Within:
    cross = scan.cross * np.outer(scan.unit, scan.unit)
    return Within(
        scan.level * scan.unit, np.sqrt(np.diag(scan.cross)) * scan.unit, cross, sum(b.n_rows for b in blocks)
    )


@dataclass(frozen=True, slots=True)
class _Scan:
    """Largest means of sets, and squares and products of the distances from them; in units."""

    unit: Array
    level: Array
    cross: Array


def _scan(blocks: Sequence[Block], columns: Columns, count: int) -> _Scan:
    """One pass; two more where squares are out of range."""
    scan = _scanned(blocks, columns, np.ones(count))
    squares = np.diag(scan.cross)
    if np.all((squares > 1 / LARGE) & (squares < LARGE)):
        return scan
    centred = (demeaned(columns(block), block.offsets) for block in blocks)
    largest = np.max([np.abs(rows).max(axis=0) for rows in centred], axis=0)
    return _scanned(blocks, columns, np.exp2(np.round(np.log2(np.where(largest > 0, largest, 1.0)))))


def _scanned(blocks: Sequence[Block], columns: Columns, unit: Array) -> _Scan:
    level, cross = np.zeros(unit.size), np.zeros((unit.size, unit.size))
    plain = bool(np.all(unit == 1.0))
    for block in blocks:
        values, sizes = columns(block), np.diff(block.offsets)
        means = ops.weighted_sum(np.repeat(1.0 / sizes, sizes), values, block.offsets)
        means = means if plain else means / unit
        level = np.maximum(level, np.abs(means).max(axis=0))
        for start, stop in block_ranges(block.offsets, max(64, PIECE // unit.size)):
            centred = np.repeat(means[start:stop], sizes[start:stop], axis=0)
            rows = values[int(block.offsets[start]) : int(block.offsets[stop])]
            np.subtract(rows if plain else rows / unit, centred, out=centred)
            with np.errstate(over="ignore", invalid="ignore"):  # squares out of range: done again in units
                cross += centred.T @ centred
    return _Scan(unit, level, cross)


def _flat(column: Array, offsets: NDArray[np.int64]) -> bool:
    """Whether a column is constant within each choice set, to the last bit."""
    starts = offsets[:-1]
    return np.array_equal(np.maximum.reduceat(column, starts), np.minimum.reduceat(column, starts))


def demeaned(values: Array, offsets: NDArray[np.int64]) -> Array:
    """Rows of (n, K) values minus their mean within each segment."""
    means = ops.segment_sum(values, offsets) / np.diff(offsets)[:, None]
    rows: Array = values - ops.segment_repeat(means, offsets)
    return rows


def check_regression(
    X: Array, Z: Array, names: tuple[str, ...], moment_names: tuple[str, ...]
) -> Recombination | None:
    """Refuse regressions that cannot be estimated.

    Too few instruments (E212), collinear regressors (E202), redundant instruments (E211), and
    instruments that leave a combination of the regressors unmoved (E213).  Returns what to replace where
    instruments are near to combinations of each other.
    """
    _raise(too_few_moments(len(moment_names), len(names)))
    factor, scale = _factor(X)
    complaints = [
        Complaint(
            "E202",
            f"{combination.text}, up to {combination.gap:.0e} of its size",
            next="drop one of these regressors",
        )
        for combination in _combinations(factor, scale, names)
    ]
    both, sizes = _factor(np.concatenate([Z, X], axis=1))
    m = len(moment_names)
    complaints += _redundant(both[:m, :m], sizes[:m], moment_names, "")
    _raise(complaints)
    # the regressors' part in the span of the instruments: R12 of the joint decomposition
    projected = both[:m, m:]
    _raise(
        [
            Complaint(
                "E213",
                f"the instruments do not identify the parameters: {combination.text} as far as they can tell",
                next="add instruments that move these regressors apart",
            )
            for combination in _combinations(projected, sizes[m:], names)
        ]
    )
    return recombination(both[:m, :m], sizes[:m], moment_names)


def check_columns(Z: Array, names: tuple[str, ...]) -> Recombination | None:
    """Refuse instruments (n, K) that are zero or combinations of others (E211).

    Returns what to replace where they are near to combinations of each other.
    """
    factor, scale = _factor(Z)
    _raise(list(_redundant(factor, scale, names, "")))
    return recombination(factor, scale, names)


def too_few_moments(
    n_moments: int, n_params: int, advice: str = "add instruments or drop terms", noun: str = "parameter"
) -> list[Complaint]:
    """E212 if there are fewer moments than parameters."""
    if n_moments >= n_params:
        return []
    what = f"{plural(n_moments, 'moment')}, {plural(n_params, noun)}"
    return [Complaint("E212", f"{what}: at least as many moments as {noun}s were expected", next=advice)]


def _redundant(factor: Array, scale: Array, names: tuple[str, ...], place: str) -> Iterator[Complaint]:
    for combination in _combinations(factor, scale, names):
        yield Complaint(
            "E211",
            f"a moment is redundant: {combination.text}{place}; the J test would count it",
            next="drop one of these instruments",
        )


def _raise(complaints: list[Complaint]) -> None:
    if complaints:
        raise IdentificationError(complaints)


def triangle_of(pieces: Iterable[Array]) -> Array:
    """R of the QR decomposition of rows that come in pieces, (K, K) or smaller.

    R is carried along, so that no square of the columns is formed and nothing larger than a piece is held.
    """
    factor: Array | None = None
    for piece in pieces:
        factor = np.zeros((0, piece.shape[1])) if factor is None else factor
        for start in range(0, piece.shape[0], QR_ROWS):
            rows: Array = np.concatenate([factor, piece[start : start + QR_ROWS]])
            factor = np.linalg.qr(rows, mode="r")  # type: ignore[assignment]
    assert factor is not None  # noqa: S101  a sample has a block
    return factor


def _factor(values: Array) -> tuple[Array, Array]:
    """R of columns at unit norm, and those norms."""
    scale = np.abs(values).max(axis=0)
    scale[scale == 0] = 1.0
    pieces = (values[start : start + QR_ROWS] / scale for start in range(0, values.shape[0], QR_ROWS))
    factor, norms = _unit_columns(triangle_of(pieces))
    return factor, scale * norms


def _unit_columns(triangle: Array) -> tuple[Array, Array]:
    """R with columns at unit norm, and the norms that they had; 1 for a column of zeros."""
    norms = np.sqrt(np.sum(np.square(triangle), axis=0))
    norms = np.where(norms > 0, norms, 1.0)
    return triangle / norms, norms


@dataclass(frozen=True, slots=True)
class _Combination:
    """A column that is a combination of others: in words, the distance from being exactly so, all that it names."""

    text: str
    gap: float
    names: tuple[str, ...]


def _which_to_drop(combination: _Combination) -> str:
    if len(combination.names) > 1 and all(name.startswith("asc_") for name in combination.names):
        return "leave one alternative without a constant: it is what the others are compared with"
    return "drop one of these terms"


def _sum(parts: Sequence[tuple[str, float]]) -> str:
    """A sum as one writes it.

    Examples
    --------
    >>> _sum([("a", -1.0), ("b", 2.5), ("c", -1.0)])
    '-a + 2.5 b - c'
    """
    words = []
    for name, weight in parts:
        size = f"{abs(weight):.6g}"
        words.append(("-" if weight < 0 else "+", name if size == "1" else f"{size} {name}"))
    text = " ".join(f"{sign} {word}" for sign, word in words)
    return text.removeprefix("+ ") if text.startswith("+") else text.replace("- ", "-", 1)


def _combinations(factor: Array, scale: Array, names: tuple[str, ...]) -> Iterator[_Combination]:
    """Columns that are combinations of others."""
    from scipy.linalg import qr, solve_triangular

    triangle, order = qr(factor, mode="r", pivoting=True)
    size = min(triangle.shape)
    gaps = np.zeros(len(names))
    gaps[:size] = np.abs(np.diag(triangle)[:size])
    rank = int(np.sum(gaps > COLLINEAR))
    for k in range(rank, len(names)):
        weights = solve_triangular(triangle[:rank, :rank], triangle[:rank, k])
        weights *= scale[order[k]] / scale[order[:rank]]
        size_of = np.abs(weights) * scale[order[:rank]] / scale[order[k]]
        parts = [(printable(names[order[j]]), float(weights[j])) for j in range(rank) if size_of[j] > 1e-6]
        text = f"{printable(names[order[k]])} = {_sum(parts) or '0'}"
        yield _Combination(text, float(gaps[k]), (names[order[k]], *(name for name, _ in parts)))
