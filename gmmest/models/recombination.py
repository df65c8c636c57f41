"""Instruments that nearly repeat each other, replaced by what they differ in.

Instruments Z and ``Z T``, T regular, span the same moments: every efficient estimate, every estimate with the
first weight ``(Z'Z/N)^-1``, and every just-identified one is the same, with its standard errors and J.  But
the covariance of the moments squares how near a column is to the others: at a distance of 1e-5 its inverse
keeps six digits, below 3e-7 none.  A column that is nearer than :data:`NEAR` is therefore taken less its
projection on the others, so that contributions are formed from the difference itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import printable

__all__ = ["NEAR", "Recombination", "recombination"]

Array = NDArray[np.float64]

NEAR = 1e-4
"""Distance of a unit column from the span of the others, below which their covariance would lose more than
half of its digits."""


@dataclass(frozen=True, slots=True, eq=False)
class Recombination:
    """Instruments ``Z T`` in place of Z.

    Parameters
    ----------
    transform : array (M, M)
        T: the identity but for the columns of ``near``.
    near : tuple of (str, float)
        Moments that are replaced, with the distance of their columns from the others at unit norm.
    """

    transform: Array
    near: tuple[tuple[str, float], ...]
    columns: NDArray[np.int64]

    @property
    def notes(self) -> tuple[str, ...]:
        """``W211``: what was replaced."""
        return tuple(
            f"W211 {printable(name)} differs from a combination of the others by {gap:.0e} of its size: its"
            " moment is that of the difference"
            for name, gap in self.near
        )

    def apply(self, values: Array, centre: Callable[[Array], Array] | None = None) -> Array:
        """``Z T``, (n, M), a copy; ``centre`` takes off from what was replaced what never counts."""
        replaced = values @ self.transform[:, self.columns]
        result: Array = np.array(values, order="C")
        result[:, self.columns] = replaced if centre is None else centre(replaced)
        return result


def recombination(triangle: Array, scale: Array, names: tuple[str, ...]) -> Recombination | None:
    """T from R of the QR decomposition of the columns of Z at unit norm; None where none is near the others.

    Parameters
    ----------
    triangle : array (M, M)
        R.
    scale : array (M,)
        Norms of the columns before they were made one.
    names : tuple of str

    Notes
    -----
    A decomposition with pivoting, ``R P = Q U``, puts columns in the order of their distance from those
    before.  Column k with ``|U_kk| < NEAR`` becomes its residual on all before it, coefficients
    ``U_1^-1 u_k`` with U_1 the leading block.  O(M^3).

    Law: columns of ``Z T`` that are replaced are orthogonal to all others.
    """
    from scipy.linalg import qr, solve_triangular

    upper, order = qr(triangle, mode="r", pivoting=True)
    gaps = np.abs(np.diag(upper))
    first = int(np.sum(gaps >= NEAR))
    if first == len(names):
        return None
    transform = np.eye(len(names))
    for k in range(first, len(names)):
        before = order[:k]
        weights = solve_triangular(upper[:k, :k], upper[:k, k])
        transform[before, order[k]] = -weights * (scale[order[k]] / scale[before])
    near = tuple((names[order[k]], float(gaps[k])) for k in range(first, len(names)))
    return Recombination(transform, near, order[first:])
