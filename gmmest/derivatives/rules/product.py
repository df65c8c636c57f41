"""Products of arrays: value and partials in one matrix product.

With D (n, M) constant and s a vector of n dual numbers, ``D.T @ s`` is the product of the buffer
(K+1, n) with D: one call of BLAS where a product entry by entry would need K+1 of them, or none.
The sum over n runs in row blocks, so that each block's operands stay in cache and OpenBLAS can
use its small-matrix kernels: (K+1) * rows * M of at most a million.  Blocks depend on shapes only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.rules.table import rule

__all__ = ["blocked_product"]

SMALL_PRODUCT = 1_000_000
"""Multiplications of one block; measured on OpenBLAS 0.3, see tests/benchmarks."""


def blocked_product(left: Any, right: Any) -> Any:
    """``left @ right`` for (k, n) and (n, m) with n long: summed over blocks of the inner index."""
    k, n = left.shape
    m = right.shape[1]
    rows = max(64, SMALL_PRODUCT // max(1, k * m))
    if n <= rows:
        return left @ right
    out = np.zeros((k, m))
    piece = np.empty((k, m))
    for start in range(0, n, rows):
        stop = start + rows
        out += np.matmul(left[:, start:stop], right[start:stop], out=piece[:, :])
    return out


def _plain(*arrays: Any) -> bool:
    return all(type(a) is np.ndarray for a in arrays)


@rule(np.matmul)
def _matmul(level: Level, a: Any, b: Any) -> Any:
    if level.owns(a) and level.owns(b):
        return _dual_by_dual(level, a, b)
    if level.owns(a):
        buffer, c = a.buffer, b if isinstance(b, DualArray) else np.asarray(b)
        if a.ndim == 1 and c.ndim == 2 and _plain(buffer):
            return DualArray(blocked_product(buffer, c), level)
        if a.ndim == 1 and c.ndim > 2:
            return DualArray(np.matmul(buffer[:, None, None, :], c)[..., 0, :], level)
        return DualArray(np.matmul(buffer, c), level)
    buffer, c = b.buffer, a if isinstance(a, DualArray) else np.asarray(a)
    if b.ndim > 1:
        extra = max(0, c.ndim - b.ndim)
        shape = (buffer.shape[0],) + (1,) * extra + buffer.shape[1:]
        return DualArray(np.matmul(c, buffer.reshape(shape)), level)
    if c.ndim == 1:
        return DualArray(np.matmul(buffer, c), level)
    if c.ndim == 2 and _plain(buffer):
        return DualArray(blocked_product(buffer, c.T), level)
    columns = np.reshape(buffer, (buffer.shape[0],) + (1,) * (c.ndim - 2) + (buffer.shape[1], 1))
    return DualArray(np.matmul(c, columns)[..., 0], level)


def _dual_by_dual(level: Level, a: Any, b: Any) -> Any:
    """d(ab) = da b + a db; the first term carries the value with it."""
    with_b = _matmul(level, a, b.buffer[0, ...]).buffer
    with_a = _matmul(level, a.buffer[0, ...], b).buffer
    return DualArray(np.concatenate([with_b[:1], with_b[1:] + with_a[1:]]), level)


@rule(np.dot)
def _dot(level: Level, a: Any, b: Any) -> Any:
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return np.multiply(a, b)
    if np.ndim(a) <= 2 and np.ndim(b) <= 2:
        return np.matmul(a, b)
    return np.tensordot(a, b, axes=([-1], [-2 if np.ndim(b) > 1 else 0]))


@rule(np.vdot)
def _vdot(level: Level, a: Any, b: Any) -> Any:
    return np.matmul(np.ravel(a), np.ravel(b))


@rule(np.inner)
def _inner(level: Level, a: Any, b: Any) -> Any:
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return np.multiply(a, b)
    return np.tensordot(a, b, axes=([-1], [-1]))


@rule(np.outer)
def _outer(level: Level, a: Any, b: Any) -> Any:
    return np.multiply(np.reshape(a, (-1, 1)), np.reshape(b, (1, -1)))


@rule(np.tensordot)
def _tensordot(level: Level, a: Any, b: Any, axes: Any = 2) -> Any:
    if isinstance(axes, int):
        left = list(range(np.ndim(a) - axes, np.ndim(a)))
        right = list(range(axes))
    else:
        left, right = ([x] if isinstance(x, int) else list(x) for x in axes)
    left, right = [i % np.ndim(a) for i in left], [i % np.ndim(b) for i in right]
    keep_a = [i for i in range(np.ndim(a)) if i not in left]
    keep_b = [i for i in range(np.ndim(b)) if i not in right]
    inner = int(np.prod([np.shape(a)[i] for i in left]))
    rows = np.reshape(np.transpose(a, keep_a + left), (-1, inner))
    columns = np.reshape(np.transpose(b, right + keep_b), (inner, -1))
    shape = [np.shape(a)[i] for i in keep_a] + [np.shape(b)[i] for i in keep_b]
    return np.reshape(np.matmul(rows, columns), tuple(shape))


@rule(np.einsum)
def _einsum(level: Level, subscripts: Any, *operands: Any, **kwargs: Any) -> Any:
    """One einsum for each active operand, its buffer's first axis an extra index of the output."""
    if not isinstance(subscripts, str) or "." in subscripts:
        raise TypeError("np.einsum of dual numbers takes subscripts as text, without ellipsis")
    inputs, _, output = subscripts.replace(" ", "").partition("->")
    letters = inputs.split(",")
    if "->" not in subscripts:
        flat = "".join(letters)
        output = "".join(sorted({c for c in flat if flat.count(c) == 1}))
    extra = next(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in subscripts)
    values = [level.value(o) for o in operands]
    total: Any = None
    for i, operand in enumerate(operands):
        if not level.owns(operand):
            continue
        terms = [*letters[:i], extra + letters[i], *letters[i + 1 :]]
        arrays = [*values[:i], operand.buffer, *values[i + 1 :]]
        part = np.einsum(",".join(terms) + "->" + extra + output, *arrays, optimize=True)
        total = part if total is None else np.concatenate([part[:1], total[1:] + part[1:]])
    return DualArray(total, level)


# --- linear systems ------------------------------------------------------------------------------------------


@rule(np.linalg.solve)
def _solve(level: Level, a: Any, b: Any) -> Any:
    """A x = b gives A dx = db - dA x; the matrix is factorised once for value and partials."""
    value_a, value_b = level.value(a), level.value(b)
    x = np.linalg.solve(value_a, value_b)
    vector = np.ndim(value_b) == 1
    right = np.zeros((level.size, *np.shape(x)))
    if level.owns(b):
        right = right + b.buffer[1:]
    if level.owns(a):
        right = right - np.matmul(a.buffer[1:], x)
    if vector:
        dx = np.moveaxis(np.linalg.solve(value_a, np.moveaxis(right, 0, -1)), -1, 0)
    else:
        dx = np.linalg.solve(value_a, right)
    return DualArray(np.concatenate([x[None], dx]), level)


@rule(np.linalg.inv)
def _inv(level: Level, a: Any) -> Any:
    inverse = np.linalg.inv(a.buffer[0, ...])
    partials = -np.matmul(np.matmul(inverse, a.buffer[1:]), inverse)
    return DualArray(np.concatenate([inverse[None], partials]), level)


@rule(np.linalg.slogdet)
def _slogdet(level: Level, a: Any) -> Any:
    value = a.buffer[0, ...]
    sign, logdet = np.linalg.slogdet(value)
    slopes = np.trace(np.linalg.solve(value, a.buffer[1:]), axis1=-2, axis2=-1)
    return sign, DualArray(np.concatenate([np.reshape(logdet, (1, *np.shape(logdet))), slopes]), level)


@rule(np.linalg.det)
def _det(level: Level, a: Any) -> Any:
    sign, logdet = np.linalg.slogdet(a)
    return sign * np.exp(logdet)


@rule(np.linalg.cholesky)
def _cholesky(level: Level, a: Any, /, *, upper: bool = False) -> Any:
    """dL = L Phi(L^-1 dA L^-T), Phi the lower triangle with the diagonal halved (Murray 2016)."""
    if upper:
        raise TypeError("np.linalg.cholesky of dual numbers gives the lower factor")
    symmetric = (a.buffer + np.swapaxes(a.buffer, -1, -2)) * 0.5
    factor = np.linalg.cholesky(symmetric[0, ...])
    half = np.linalg.solve(factor, symmetric[1:])
    inner = np.linalg.solve(factor, np.swapaxes(half, -1, -2))
    n = np.shape(factor)[-1]
    mask = np.tril(np.ones((n, n))) - 0.5 * np.eye(n)
    return DualArray(np.concatenate([factor[None], np.matmul(factor, inner * mask)]), level)
