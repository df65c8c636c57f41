"""Whether a choice model has a finite estimate at all.

Where some combination of the features predicts the choices without error, the likelihood grows for
ever along it, and an optimiser stops at some large number that means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.data.block import Block
from gmmest.derivatives import ops
from gmmest.errors import Complaint, IdentificationError, printable, some
from gmmest.models.identification import triangle_of

__all__ = ["check_overlap", "proves_overlap"]

Array = NDArray[np.float64]

_PASSES = 60
_CERTAIN = 0.9
_LINEAR_PROGRAM = 1_000_000
"""Numbers in a linear program that is still quick; it decides where Newton steps came to no end."""
_FULL_RANK = 1e-12
"""Along a direction that separates, curvature falls with every step; below this it is rounding."""
_ROUNDING = 16.0 * np.finfo(np.float64).eps
"""Of a share and of the sums that it goes into."""


def proves_overlap(score: Array, curvature: Array, level: Array, reach: Array, mass: float) -> bool:
    """Whether the score and curvature of the likelihood at one point prove that its maximum exists.

    Parameters
    ----------
    score : array (P,)
        ``r = sum_j s_j x_j``, with ``x_j`` the features of an unchosen row less those of its chosen one: the sum
        of the moments, where these are the score.
    curvature : array (P, P)
        Sum of their Jacobians.
    level, reach : array (P,)
        Largest mean of a choice set, and a distance from it that no row exceeds; see :class:`.sample.Within`.
    mass : float
        Number of choice sets, or the sum of their weights.

    Notes
    -----
    The proof of :func:`check_overlap` asks for ``|x_j'H^-1 r| < 1`` with ``H = sum_j s_j x_j x_j'``.  H is the
    curvature plus squares, and ``|x_jk| <= 2 reach_k = d_k``.  With ``D = diag(d)`` and l the smallest
    eigenvalue of ``D^-1 curvature D^-1`` therefore ``|x_j'H^-1 r| <= P^(1/2) |D^-1 r| / l``.  No row is looked
    at.  Near the maximum r is rounding and the bound is far below one; where choices are separated it cannot
    fall below one, since no proof exists.  There r is made of shares below rounding, which ``s - y`` has lost
    for chosen rows: an error of ``eps |x|`` in each set is added to r.

    Examples
    --------
    >>> one = np.ones(1)
    >>> proves_overlap(1e-9 * one, np.array([[5.0]]), one, one, 30.0)
    True
    """
    farthest = 2.0 * reach
    if not (np.all(farthest > 0) and np.all(np.isfinite(curvature))):
        return False
    extent = np.linalg.eigvalsh(curvature / np.outer(farthest, farthest))
    if not extent[0] > _FULL_RANK * extent[-1]:
        return False
    lost = _ROUNDING * mass * (level + reach)
    bound = np.sqrt(reach.size) * np.linalg.norm((np.abs(score) + lost) / farthest) / extent[0]
    return bool(bound < _CERTAIN)


def check_overlap(
    theta: Array, blocks: Sequence[Block], names: tuple[str, ...], transform: Array | None = None
) -> None:
    """Refuse choices that some combination of the features predicts without error (E201).

    Let ``x_j`` be the features of an unchosen row minus those of its chosen one.  By Stiemke's
    lemma either there are weights w > 0 with ``sum_j w_j x_j = 0``, or there is a direction d
    with ``x_j'd <= 0`` for all j, not all zero: the likelihood then grows along d for ever.
    At the maximum of the likelihood the shares are such weights.  Near it ``r = sum_j s_j x_j`` is
    small, and ``w_j = s_j (1 - x_j'H^-1 r)`` with ``H = sum_j s_j x_j x_j'`` solves the equation
    exactly; it is positive if every ``|x_j'H^-1 r| < 1``.  That is a proof (rows whose share is
    too small for a float change nothing as long as the others give H full rank), and costs two
    passes.  From another point Newton steps on the likelihood lead there; on separated data they
    never do, and their direction is d.

    Parameters
    ----------
    theta : array (P,)
        Where to start; at the maximum one round is enough.
    blocks : sequence of Block
        All choice sets; nothing is checked where choices are not observed.  Passes go block by block.
    names : tuple of str
    transform : array, optional
        T of free parameters: the features are ``X T``.

    References
    ----------
    Albert, A. and J. A. Anderson (1984), "On the existence of maximum likelihood estimates in
    logistic regression models", Biometrika 71, 1-10.
    """
    if not any(block.chosen.any() for block in blocks):
        return
    raw = _Differences(blocks, transform, np.ones(theta.size))
    largest = np.max([np.abs(rows).max(axis=0, initial=0.0) for rows in raw], axis=0)
    differences = _Differences(blocks, transform, np.where(largest > 0, largest, 1.0))
    # orthonormal columns: what is left of bad conditioning comes from the shares alone
    triangle = triangle_of(differences)
    direction = np.zeros_like(theta)
    for start in (theta, np.zeros_like(theta)):  # from zero, where the theta of another criterion led astray
        found = _climb(differences, triangle, triangle @ (differences.unit * start))
        if found is None:
            return
        direction = found
    moved: Array = np.asarray(np.linalg.solve(triangle, direction), dtype=np.float64)
    few = theta.size * sum(block.n_rows - block.n_sets for block in blocks) <= _LINEAR_PROGRAM
    if few and not _separates(differences, moved):
        exact = _separating_direction(np.concatenate(list(differences)))
        if exact is not None and not exact.any():
            return  # the maximum exists, too far out for Newton steps to have come near
        moved = moved if exact is None else exact
    _refuse_separated(differences, moved, names, few)


@dataclass(frozen=True, slots=True)
class _Differences:
    """Unchosen rows less their chosen one, in units of the largest entries; block by block."""

    blocks: Sequence[Block]
    transform: Array | None
    unit: Array

    def of(self, block: Block) -> Array:
        X = block.promoted().features
        X = X if self.transform is None else X @ self.transform
        chosen = np.flatnonzero(block.chosen)
        rest = np.delete(X, chosen, axis=0)
        rest -= np.repeat(X[chosen], np.diff(block.offsets) - 1, axis=0)
        rest /= self.unit
        return rest

    def __iter__(self) -> Iterator[Array]:
        return map(self.of, self.blocks)


def _unchosen(block: Block) -> NDArray[np.int64]:
    """Offsets of the sets among unchosen rows alone."""
    ends: NDArray[np.int64] = block.offsets - np.arange(block.n_sets + 1)
    return ends


def _climb(differences: _Differences, triangle: Array, point: Array) -> Array | None:
    """Newton steps on the likelihood: None when overlap is proved, else the direction of the last step.

    Columns are those of ``differences R^-1``, which are orthonormal.
    """
    from scipy.linalg import solve_triangular

    def orthonormal(rows: Array) -> Array:
        basis: Array = solve_triangular(triangle, rows.T, trans="T").T
        return basis

    size = point.size
    step = np.zeros_like(point)
    for _ in range(_PASSES):
        residual, curvature, squares = np.zeros(size), np.zeros((size, size)), np.zeros((size, size))
        for block, rows in zip(differences.blocks, differences, strict=True):
            basis, unchosen = orthonormal(rows), block.chosen == 0
            utility = np.zeros(block.n_rows)
            utility[unchosen] = basis @ point
            shares = ops.segment_softmax(utility, block.offsets)[unchosen]
            means = ops.weighted_sum(shares, basis, _unchosen(block))
            residual += means.sum(axis=0)
            curvature += basis.T @ (basis * shares[:, None])
            squares += means.T @ means
        extent = np.linalg.eigvalsh(curvature)
        proof = np.full(size, np.inf)
        if extent[0] > _FULL_RANK * extent[-1]:
            proof = np.linalg.solve(curvature, residual)
        following = -np.linalg.pinv(curvature - squares, rcond=1e-14, hermitian=True) @ residual
        both = np.column_stack([np.where(np.isfinite(proof), proof, 0.0), following])
        tilt, change = np.max([np.abs(orthonormal(rows) @ both).max(axis=0) for rows in differences], axis=0)
        if np.all(np.isfinite(proof)) and tilt < _CERTAIN:
            return None
        if not 0.0 < change < np.inf:
            break
        step = following
        point = point + step * min(1.0, 5.0 / change)
    return step


def _separates(differences: _Differences, direction: Array) -> bool:
    """Whether utilities of unchosen rows only fall along a direction."""
    ends = [(np.max(along), np.max(np.abs(along))) for along in (rows @ direction for rows in differences)]
    highest, farthest = np.max(ends, axis=0)
    return bool(highest <= 1e-6 * farthest)


def _refuse_separated(differences: _Differences, direction: Array, names: tuple[str, ...], few: bool) -> None:
    """Say which terms, as few as will do, predict how many choices."""
    lowest = np.min([rows.min(axis=0) for rows in differences], axis=0)
    ranges = np.max([rows.max(axis=0) for rows in differences], axis=0) - lowest
    n_sets = sum(block.n_sets for block in differences.blocks)
    if not _separates(differences, direction):
        largest = np.abs(direction * ranges)
        growing = [name for name, w in zip(names, largest, strict=True) if w > 1e-3 * np.max(largest)]
        what = f"no finite estimate was found to exist; the likelihood still grows along {some(growing)}"
    else:
        if few:
            direction = _fewest(np.concatenate(list(differences)), direction)
        farthest = max(float(np.max(np.abs(rows @ direction))) for rows in differences)
        predicted = falling = n_rows = 0
        for block, rows in zip(differences.blocks, differences, strict=True):
            falls = rows @ direction < -1e-9 * farthest
            predicted += int(np.logical_and.reduceat(falls, _unchosen(block)[:-1]).sum())
            falling, n_rows = falling + int(falls.sum()), n_rows + falls.size
        involved = [name for name, x in zip(names, direction, strict=True) if x != 0.0]
        who = printable(involved[0]) if len(involved) == 1 else f"a combination of {some(involved)}"
        part = f"predicts {predicted} of {n_sets} choices without error"
        if predicted == 0:  # quasi-separation can lie in single alternatives that are never chosen
            part = f"rules out {falling} of {n_rows} rows that were not chosen"
        what = f"no finite estimate exists: {who} {part}"
    advice = "drop or combine these terms; estimates for them do not exist"
    raise IdentificationError(Complaint("E201", what, next=advice))


def _fewest(scaled: Array, direction: Array) -> Array:
    """A separating direction with no term that it can do without; as many rows as possible fall along it."""
    kept = list(range(scaled.shape[1]))
    for k in np.argsort(np.abs(direction * np.ptp(scaled, axis=0))):
        without = [j for j in kept if j != k]
        if not without:
            break
        found = _separating_direction(scaled[:, without])
        if found is not None and found.any():
            kept = without
    result = np.zeros(scaled.shape[1])
    result[kept] = _strictest(scaled[:, kept])
    return result if result.any() else direction


def _separating_direction(scaled: Array) -> Array | None:
    """The direction along which utilities fall most, by a linear program; zero if there is none."""
    from scipy.optimize import linprog

    found = linprog(scaled.sum(axis=0), A_ub=scaled, b_ub=np.zeros(len(scaled)), bounds=(-1.0, 1.0))
    if not found.success:
        return None
    direction: Array = np.asarray(found.x) if found.fun < -1e-7 * len(scaled) else np.zeros(scaled.shape[1])
    return direction


def _strictest(scaled: Array) -> Array:
    """Among separating directions, one along which the most rows fall by a little."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, eye_array, hstack

    n, k = scaled.shape
    little = 1e-4
    found = linprog(
        np.concatenate([np.zeros(k), -np.ones(n)]),
        A_ub=hstack([csr_array(scaled), eye_array(n)]),
        b_ub=np.zeros(n),
        bounds=[(-1.0, 1.0)] * k + [(0.0, little)] * n,
    )
    direction: Array = np.asarray(found.x[:k]) if found.success else np.zeros(k)
    return direction
