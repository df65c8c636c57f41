"""The exact optimum of a conditional logit and its robust standard errors, with nothing of gmmest in it.

Newton's iteration; at the end gradients in extended precision and their sums over sets in the same, so
that rounding is that of the last step alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.bench.choices import Choices

__all__ = ["digits", "exact"]

Array = NDArray[np.float64]
Long = NDArray[np.longdouble]

PIECE = 2000
"""Choice sets at once."""
EXACT = 16.0
"""Digits that a float64 can agree in."""


def exact(choices: Choices) -> tuple[Array, Array]:
    """Estimates and robust (HC0) standard errors, (K,) each.

    Notes
    -----
    With scores ``g_i = sum_j s_ij x_ij - x_i,chosen`` and information H the step is ``H^-1 sum_i g_i``, H in
    float64 and the sum in extended precision: the fixed point is that of the sum.  The covariance is
    ``H^-1 (sum_i g_i g_i') H^-1``.

    Examples
    --------
    >>> from gmmest.bench.choices import draw
    >>> theta, errors = exact(draw(50, 3, 2))
    >>> theta.shape, errors.shape
    ((2,), (2,))
    """
    theta = np.zeros(choices.features.shape[1], dtype=np.longdouble)
    for _ in range(50):
        score, _, information = _sums(choices, theta, np.float64)
        step = np.linalg.solve(information, score)
        theta = theta - step
        if np.abs(step).max() < 1e-9 * np.abs(theta).max():
            break
    for _ in range(2):
        score, squares, _ = _sums(choices, theta, np.longdouble, squares=True)
        theta = theta - np.linalg.solve(information, score.astype(np.float64))
    _, _, information = _sums(choices, theta, np.float64)
    half = np.linalg.solve(information, np.linalg.cholesky(squares.astype(np.float64)))
    return theta.astype(np.float64), np.sqrt(np.sum(half * half, axis=1))


def _sums(
    choices: Choices, theta: Long, precision: type[np.floating[Any]], squares: bool = False
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]], Array]:
    """Score, the scores' squares if asked for, and in float64 the information."""
    k, j = choices.features.shape[1], choices.alternatives
    score: Any = np.zeros(k, precision)
    square: Any = np.zeros((k, k), precision)
    information: Array = np.zeros((k, k))
    beta: Any = theta.astype(precision)
    for start in range(0, choices.sets, PIECE):
        rows = slice(start * j, min(start + PIECE, choices.sets) * j)
        X: Any = choices.features[rows].astype(precision)
        u = (X @ beta).reshape(-1, j)
        s = np.exp(u - u.max(axis=1, keepdims=True))
        s /= s.sum(axis=1, keepdims=True)
        each = np.einsum("nj,njk->nk", s - choices.chosen[rows].reshape(-1, j), X.reshape(-1, j, k))
        score += each.sum(axis=0)
        if squares:
            square += each.T @ each
        if precision is np.float64:
            mean = np.einsum("nj,njk->nk", s, X.reshape(-1, j, k))
            information += X.T @ (X * s.reshape(-1, 1)) - mean.T @ mean
    return score, square, information


def digits(value: Array, truth: Array) -> float:
    """``-log10 |value - truth|/|truth|``, of the worst entry.

    Examples
    --------
    >>> round(digits(np.array([1.001, 2.0]), np.array([1.0, 2.0])), 6)
    3.0
    """
    error = np.abs(np.asarray(value) - truth) / np.abs(truth)
    return float(-np.log10(np.maximum(error, 10.0**-EXACT).max()))
