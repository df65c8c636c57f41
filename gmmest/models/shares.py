"""Sums over choice sets that a logit needs, from one visit of a block: moments, Jacobian, squares.

With shares s in a set, ``xbar = sum_j s_j x_j`` and ``A = sqrt(s) o (X - xbar)``,

    g_i = Z_i'(s_i - y_i),    G_i = Z_i'(diag(s_i) - s_i s_i')X_i = Z_i'(s_i o (X_i - xbar_i)),

which is ``A_i'A_i`` where Z = X, and then ``g_i = xbar_i`` less the chosen row.  Rows are centred before they are
multiplied: the difference of two products would lose the digits of columns that are large against their
variation within sets.  Where Z = X one triangle of ``A'A`` is computed, and it is positive semidefinite as it stands.

Products are written ``np.dot``: other threads run during it, which they do not during ``@`` where the result is
small (measured, NumPy 2.4).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmmest.data.block import Block, block_ranges
from gmmest.derivatives import ops
from gmmest.models.sample import MomentSums

__all__ = ["share_covariance", "share_sums"]

Array = NDArray[np.float64]

PIECE = 2**18
"""Numbers in a piece of features and instruments: what is made of it stays in a core's own cache, and calls are
few."""


def share_sums(shares: Array, block: Block, square: bool) -> MomentSums:
    """Sums of ``w_i g_i``, of their derivatives ``w_i G_i``, and of ``w_i^2 g_i g_i'/f_i`` if they are asked for.

    Parameters
    ----------
    shares : (n,) array
        May carry derivatives where no squares are asked for.
    block : Block
    square : bool

    Notes
    -----
    Cost for n rows, N sets: ``n(P + M)`` numbers read once from memory and about three times more from a core's
    cache; ``nP^2`` multiplications where Z = X, ``2nMP`` otherwise, ``NM^2`` for the squares.

    Examples
    --------
    >>> from gmmest.data.choice_data import ChoiceData
    >>> data = ChoiceData.from_arrays(features=[[0.0], [1.0]], chosen=[0, 1], offsets=[0, 2])
    >>> sums = share_sums(np.array([0.5, 0.5]), data.block(), square=True)
    >>> sums.moments, sums.jacobian, sums.square
    (array([-0.5]), array([[0.25]]), array([[0.25]]))
    """
    same = block.instruments is block.features
    surprise = shares - block.chosen
    weights = shares if block.weight is None else shares * block.weight
    surprise = surprise if block.weight is None else surprise * block.weight
    if type(shares) is not np.ndarray:  # shares that carry derivatives, which a sparse product cannot
        means = ops.segment_sum(block.features * shares[:, None], block.offsets)
        centred = (block.features - ops.segment_repeat(means, block.offsets)) * weights[:, None]
        return MomentSums(block.n_obs, block.instruments.T @ surprise, block.instruments.T @ centred)
    means = ops.weighted_sum(shares, block.features, block.offsets)
    jacobian = _cross(weights, means, block.features, block.instruments, block.offsets)
    moments = np.dot(block.instruments.T, surprise)
    if not square:
        return MomentSums(block.n_obs, moments, jacobian)
    if same and bool(block.chosen.any()):
        each = means - block.features[np.flatnonzero(block.chosen)]
        each = each if block.weight is None else each * block.weight[block.offsets[:-1], None]
    else:
        each = ops.weighted_sum(surprise, block.instruments, block.offsets)
    if block.frequency is not None:
        each /= np.sqrt(block.frequency[block.offsets[:-1], None])
    return MomentSums(block.n_obs, moments, jacobian, np.dot(each.T, each))


def share_covariance(shares: Array, block: Block) -> Array:
    """``sum_i w_i^2 f_i Z_i'(diag(s_i) - s_i s_i')Z_i``, (M, M): what the logit implies for its contributions."""
    Z, squared = block.instruments, block.squared_weight
    weights = shares if squared is None else shares * squared
    if type(shares) is not np.ndarray:
        means = ops.segment_sum(Z * shares[:, None], block.offsets)
        product: Array = Z.T @ ((Z - ops.segment_repeat(means, block.offsets)) * weights[:, None])
        return product
    means = ops.weighted_sum(shares, Z, block.offsets)
    return _cross(weights, means, Z, Z, block.offsets)


def _cross(weights: Array, means: Array, X: Array, Z: Array, offsets: NDArray[np.int64]) -> Array:
    """``Z'(w o (X - xbar))``, in pieces; by one triangle where Z is X."""
    total, sizes = np.zeros((Z.shape[1], X.shape[1])), np.diff(offsets)
    roots = np.sqrt(weights) if Z is X else weights
    for start, stop in block_ranges(offsets, max(64, PIECE // (X.shape[1] + Z.shape[1]))):
        rows = slice(int(offsets[start]), int(offsets[stop]))
        centred = np.repeat(means[start:stop], sizes[start:stop], axis=0)
        np.subtract(X[rows], centred, out=centred)
        centred *= roots[rows, None]
        total += np.dot(centred.T if Z is X else Z[rows].T, centred)
    return total
