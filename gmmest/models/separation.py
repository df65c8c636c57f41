"""Whether a choice model has a finite estimate at all.

Where some combination of the features predicts the choices without error, the likelihood grows for
ever along it, and an optimiser stops at some large number that means nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmmest.data.block import Block
from gmmest.derivatives import ops
from gmmest.errors import Complaint, IdentificationError, printable, some

__all__ = ["check_overlap"]

Array = NDArray[np.float64]

_PASSES = 60
_CERTAIN = 0.9
_LINEAR_PROGRAM = 1_000_000
"""Numbers in a linear program that is still quick; it decides where Newton steps came to no end."""
_FULL_RANK = 1e-12
"""Along a direction that separates, curvature falls with every step; below this it is rounding."""


def check_overlap(theta: Array, full: Block, names: tuple[str, ...]) -> None:
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
    full : Block
        All choice sets; nothing is checked where choices are not observed.
    names : tuple of str

    References
    ----------
    Albert, A. and J. A. Anderson (1984), "On the existence of maximum likelihood estimates in
    logistic regression models", Biometrika 71, 1-10.
    """
    if not full.chosen.any():
        return
    chosen = full.features[full.chosen > 0]
    differences = (full.features - ops.segment_repeat(chosen, full.offsets))[full.chosen == 0]
    scale = np.abs(differences).max(axis=0)
    # orthonormal columns: what is left of bad conditioning comes from the shares alone
    basis, triangle = np.linalg.qr(differences / scale)
    direction = np.zeros_like(theta)
    for start in (theta, np.zeros_like(theta)):  # from zero, where the theta of another criterion led astray
        found = _climb(full, basis, triangle @ (scale * start))
        if found is None:
            return
        direction = found
    moved = np.linalg.solve(triangle, direction)
    scaled = differences / scale
    if not _separates(scaled, moved) and scaled.size <= _LINEAR_PROGRAM:
        exact = _separating_direction(scaled)
        if exact is not None and not exact.any():
            return  # the maximum exists, too far out for Newton steps to have come near
        moved = moved if exact is None else exact
    _refuse_separated(full, scaled, moved, names)


def _climb(full: Block, basis: Array, point: Array) -> Array | None:
    """Newton steps on the likelihood: None when overlap is proved, else the direction of the last step."""
    unchosen = full.chosen == 0
    step = np.zeros_like(point)
    for _ in range(_PASSES):
        utility = np.zeros(full.n_rows)
        utility[unchosen] = basis @ point
        shares = ops.segment_softmax(utility, full.offsets)[unchosen]
        weighted = basis * shares[:, None]
        residual = weighted.sum(axis=0)
        curvature = weighted.T @ basis
        extent = np.linalg.eigvalsh(curvature)
        if extent[0] > _FULL_RANK * extent[-1]:
            tilt = np.abs(basis @ np.linalg.solve(curvature, residual))
            if np.max(tilt) < _CERTAIN:
                return None
        spread = np.zeros((full.n_rows, point.size))
        spread[unchosen] = weighted
        means = ops.segment_sum(spread, full.offsets)
        following = -np.linalg.pinv(curvature - means.T @ means, rcond=1e-14, hermitian=True) @ residual
        change = np.max(np.abs(basis @ following))
        if not 0.0 < change < np.inf:
            break
        step = following
        point = point + step * min(1.0, 5.0 / change)
    return step


def _separates(scaled: Array, direction: Array) -> bool:
    """Whether utilities of unchosen rows only fall along a direction."""
    along = scaled @ direction
    return bool(np.all(along <= 1e-6 * np.max(np.abs(along))))


def _refuse_separated(full: Block, scaled: Array, direction: Array, names: tuple[str, ...]) -> None:
    """Say which terms, as few as will do, predict how many choices."""
    if not _separates(scaled, direction):
        largest = np.abs(direction * np.ptp(scaled, axis=0))
        growing = [name for name, w in zip(names, largest, strict=True) if w > 1e-3 * np.max(largest)]
        what = f"no finite estimate was found to exist; the likelihood still grows along {some(growing)}"
    else:
        if scaled.size <= _LINEAR_PROGRAM:
            direction = _fewest(scaled, direction)
        falls = scaled @ direction < -1e-9 * np.max(np.abs(scaled @ direction))
        unchosen = np.flatnonzero(full.chosen == 0)
        sets = np.searchsorted(full.offsets, unchosen, side="right") - 1
        predicted = full.n_sets - np.unique(sets[~falls]).size
        involved = [name for name, x in zip(names, direction, strict=True) if x != 0.0]
        who = printable(involved[0]) if len(involved) == 1 else f"a combination of {some(involved)}"
        part = f"predicts {predicted} of {full.n_sets} choices without error"
        if predicted == 0:  # quasi-separation can lie in single alternatives that are never chosen
            part = f"rules out {int(falls.sum())} of {falls.size} rows that were not chosen"
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
