"""Matrices brought to a unit of their own before they are factored, so that units of parameters do not matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["column_norms", "pseudo_inverse", "solve_at_unit_diagonal"]

Array = NDArray[np.float64]

DEFICIENT = 1e-14
"""A pivot of columns at unit norm below which they are dependent, to rounding."""


def column_norms(matrix: Array) -> Array:
    """Euclidean norms of the columns, (P,), by which they come to unit norm; 1 for a column of zeros.

    Scaling columns so minimises the condition number, but for a factor of ``sqrt(P)``.

    References
    ----------
    van der Sluis, A. (1969), "Condition numbers and equilibration of matrices", Numerische Mathematik 14, 14-23.

    Examples
    --------
    >>> column_norms(np.array([[3.0, 0.0], [4.0, 0.0]]))
    array([5., 1.])
    """
    norms = np.sqrt(np.sum(np.square(matrix), axis=0))
    return np.where(norms > 0, norms, 1.0)


def pseudo_inverse(matrix: Array) -> Array:
    """``A^+ = R^-1 Q'`` of ``A = QR`` with columns at unit norm, (P, M); nan where A has not full column rank.

    Parameters
    ----------
    matrix : array (M, P)
        A.

    Notes
    -----
    Law: ``A^+ A = I``, and columns of A times c give rows of A^+ over c.  Nothing is squared.  Cost: O(M P^2).

    Examples
    --------
    >>> pseudo_inverse(np.array([[3.0], [4.0]])).round(2)
    array([[0.12, 0.16]])
    """
    scale = column_norms(matrix)
    nothing = np.full(matrix.shape[::-1], np.nan)
    if len(matrix) < len(scale) or not np.all(np.isfinite(matrix)):
        return nothing
    q, r = np.linalg.qr(matrix / scale)
    if scale.size and not np.min(np.abs(np.diag(r))) > DEFICIENT:
        return nothing
    inverse: Array = np.linalg.solve(r, q.T) / scale[:, None]
    return inverse


def solve_at_unit_diagonal(matrix: Array, right: Array) -> Array:
    """``H^-1 b`` for H (P, P), symmetric in its units, and b (P,) or (P, k); nan where H is singular or not finite.

    Law: ``(D H D)^-1 D b = D^-1 H^-1 b`` for a diagonal D.

    Examples
    --------
    >>> solve_at_unit_diagonal(np.array([[4e8, 0.0], [0.0, 1e-8]]), np.array([4e8, 1e-8]))
    array([1., 1.])
    >>> solve_at_unit_diagonal(np.ones((2, 2)), np.ones(2))
    array([nan, nan])
    """
    scale = np.sqrt(np.abs(np.diag(matrix)))
    scale = np.where(scale > 0, scale, 1.0)
    try:
        solved: Array = np.linalg.solve(matrix / np.outer(scale, scale), (right.T / scale).T)
    except np.linalg.LinAlgError:
        return np.full_like(right, np.nan)
    return np.transpose(solved.T / scale)
