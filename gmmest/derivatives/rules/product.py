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
from gmmest.derivatives.refusals import refuse_unsupported
from gmmest.derivatives.rules.elementwise import align
from gmmest.derivatives.rules.table import RULES, rule

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
        return DualArray(_buffer_by_constant(level, a, _array(b)), level)
    return DualArray(_constant_by_buffer(level, _array(a), b), level)


def _array(x: Any) -> Any:
    return x if type(x) is np.ndarray or isinstance(x, DualArray) else np.asarray(x)


def _buffer_by_constant(level: Level, a: DualArray, c: Any) -> Any:
    buffer = a.buffer
    if a.ndim == 1:
        if c.ndim == 2 and _plain(buffer, c):
            return blocked_product(buffer, c) if level.product else unblocked_product(buffer, c)
        if c.ndim > 2:
            rows = np.reshape(buffer, (buffer.shape[0],) + (1,) * (c.ndim - 1) + a.shape)
            return np.matmul(rows, c)[..., 0, :]
        return np.matmul(buffer, c)
    if c.ndim == 2 and _plain(buffer, c):  # all rows of all partials in one product
        return (buffer.reshape(-1, a.shape[-1]) @ c).reshape((*buffer.shape[:-1], c.shape[-1]))
    return np.matmul(align(buffer, c.ndim), c)


def _constant_by_buffer(level: Level, c: Any, b: DualArray) -> Any:
    buffer = b.buffer
    if b.ndim > 1:
        return np.matmul(c, align(buffer, c.ndim))
    if c.ndim == 1:
        return np.matmul(buffer, c)
    if c.ndim == 2 and _plain(buffer, c):
        if buffer is level.seed:
            return _product_with_seed(c, buffer[0])
        return blocked_product(buffer, c.T) if level.product else unblocked_product(buffer, c.T)
    columns = np.reshape(buffer, (buffer.shape[0],) + (1,) * (c.ndim - 2) + (buffer.shape[1], 1))
    return np.matmul(c, columns)[..., 0]


def _product_with_seed(c: Any, x: Any) -> Any:
    """``c @ x`` where the partials of x are the identity: those of the product are c itself, transposed.

    Copied in blocks of rows that stay in cache, at half the price of multiplying by the identity.
    """
    n, k = c.shape
    out = np.empty((k + 1, n))
    np.dot(c, x, out[0]) if c.dtype == np.float64 else np.copyto(out[0], c @ x)
    rows = max(64, SMALL_PRODUCT // (32 * k))
    for start in range(0, n, rows):
        out[1:, start : start + rows] = c[start : start + rows].T
    return out


def unblocked_product(left: Any, right: Any) -> Any:
    """``left @ right`` entry by entry, without BLAS: what dual numbers cost without the rule above."""
    return np.stack([np.einsum("n,nm->m", row, right) for row in left])


def _dual_by_dual(level: Level, a: Any, b: Any) -> Any:
    """d(ab) = da b + a db; the first term carries the value with it."""
    with_b = _matmul(level, a, b.buffer[0, ...]).buffer
    with_a = _matmul(level, a.buffer[0, ...], b).buffer
    if _plain(with_b, with_a):
        with_b[1:] += with_a[1:]
        return DualArray(with_b, level)
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


@rule(np.vecdot)
def _vecdot(level: Level, a: Any, b: Any) -> Any:
    return np.sum(np.multiply(a, b), axis=-1)


@rule(np.kron)
def _kron(level: Level, a: Any, b: Any) -> Any:
    ndim = max(np.ndim(a), np.ndim(b))
    left = (1,) * (ndim - np.ndim(a)) + np.shape(a)
    right = (1,) * (ndim - np.ndim(b)) + np.shape(b)
    spread = np.reshape(a, [n for m in left for n in (m, 1)]) * np.reshape(
        b, [n for m in right for n in (1, m)]
    )
    return np.reshape(spread, tuple(m * n for m, n in zip(left, right, strict=True)))


@rule(np.convolve)
def _convolve(level: Level, a: Any, v: Any, mode: str = "full") -> Any:
    """A product with the matrix of all shifts of the constant (or of the second) argument."""
    if mode != "full":
        refuse_unsupported(f"np.convolve(mode={mode!r})", "slice the full convolution")
    rows, width = np.shape(a)[0], np.shape(a)[0] + np.shape(v)[0] - 1
    total: Any = 0.0
    for shift in range(np.shape(v)[0]):
        total = total + np.pad(np.multiply(a, v[shift]), (shift, width - rows - shift))
    return total


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
def _einsum(level: Level, subscripts: Any, *operands: Any, optimize: Any = True) -> Any:
    """One einsum for each active operand, its buffer's first axis an extra index of the output."""
    if not isinstance(subscripts, str):
        refuse_unsupported("np.einsum with lists of subscripts", "give the subscripts as text")
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    letters = inputs.split(",")
    if not arrow:
        flat = inputs.replace(",", "").replace(".", "")
        output = "..." * ("..." in inputs) + "".join(sorted({c for c in flat if flat.count(c) == 1}))
    extra = next(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in subscripts)
    values = [level.value(o) for o in operands]
    total: Any = None
    for i, operand in enumerate(operands):
        if not level.owns(operand):
            continue
        terms = [*letters[:i], extra + letters[i], *letters[i + 1 :]]
        arrays = [*values[:i], operand.buffer, *values[i + 1 :]]
        part = np.einsum(",".join(terms) + "->" + extra + output, *arrays, optimize=optimize)
        total = part if total is None else np.concatenate([part[:1], total[1:] + part[1:]])
    return DualArray(total, level)


# --- linear systems ------------------------------------------------------------------------------------------


@rule(np.linalg.solve)
def _solve(level: Level, a: Any, b: Any) -> Any:
    """A x = b gives A dx = db - dA x; one factorisation serves all partials."""
    if np.ndim(b) == 1:
        return np.linalg.solve(a, np.reshape(b, (-1, 1)))[..., 0]
    value_a = level.value(a)
    x = np.linalg.solve(value_a, level.value(b))
    right: Any = np.zeros((level.size, *np.shape(x)))
    if level.owns(b):
        right = right + align(b.buffer[1:], np.ndim(x))
    if level.owns(a):
        right = right - np.matmul(align(a.buffer[1:], np.ndim(x)), x)
    columns = np.moveaxis(right, 0, -1)  # partials become further right-hand sides
    flat = np.reshape(columns, (*np.shape(x)[:-1], np.shape(x)[-1] * level.size))
    dx = np.moveaxis(np.reshape(np.linalg.solve(value_a, flat), np.shape(columns)), -1, 0)
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
    rows = np.concatenate([np.reshape(logdet, (1, *np.shape(logdet))), slopes])
    return type(np.linalg.slogdet(np.eye(1)))(sign, DualArray(rows, level))


@rule(np.linalg.det)
def _det(level: Level, a: Any) -> Any:
    sign, logdet = np.linalg.slogdet(a)
    return sign * np.exp(logdet)


@rule(np.linalg.cholesky)
def _cholesky(level: Level, a: Any, /, *, upper: bool = False) -> Any:
    """By dL = L Phi(L^-1 dA L^-T), Phi the lower triangle with the diagonal halved (Murray 2016).

    As in LAPACK only one triangle of A is looked at, so that derivatives with respect to the
    entries of the other are zero.
    """
    if upper:
        return np.swapaxes(np.linalg.cholesky(np.swapaxes(a, -1, -2)), -1, -2)
    lower = np.tril(a.buffer)
    symmetric = lower + np.swapaxes(np.tril(lower, -1), -1, -2)
    factor = np.linalg.cholesky(symmetric[0, ...])
    half = np.linalg.solve(factor, symmetric[1:])
    inner = np.linalg.solve(factor, np.swapaxes(half, -1, -2))
    n = np.shape(factor)[-1]
    mask = np.tril(np.ones((n, n))) - 0.5 * np.eye(n)
    return DualArray(np.concatenate([factor[None], np.matmul(factor, inner * mask)]), level)


# --- the same functions under the names of the array API ---------------------------------------------------------

for _name, _twin in (
    ("outer", np.outer),
    ("matmul", np.matmul),
    ("vecdot", np.vecdot),
    ("tensordot", np.tensordot),
):
    RULES[getattr(np.linalg, _name)] = RULES[_twin]
RULES[np.linalg.trace] = lambda level, x, offset=0: np.trace(x, offset, -2, -1)
RULES[np.linalg.diagonal] = lambda level, x, offset=0: np.diagonal(x, offset, -2, -1)
RULES[np.linalg.matrix_transpose] = RULES[np.matrix_transpose] = lambda level, x: np.swapaxes(x, -1, -2)
if hasattr(np, "matvec"):  # NumPy 2.2
    RULES[np.matvec] = lambda level, a, x: np.matmul(a, np.expand_dims(x, -1))[..., 0]
    RULES[np.vecmat] = lambda level, x, a: np.matmul(np.expand_dims(x, -2), a)[..., 0, :]
