"""Sums, means, extrema and products along axes; running sums; NumPy's ``reduceat``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.refusals import refuse_unsupported
from gmmest.derivatives.rules.elementwise import combine
from gmmest.derivatives.rules.shape import shifted
from gmmest.derivatives.rules.table import RULES, UFUNC_METHODS, rule

FEW = 64
ONES = np.ones(FEW)
ONES.flags.writeable = False


@rule(np.sum)
def _sum(
    level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False
) -> Any:
    if axis is None and not keepdims and type(a.buffer) is np.ndarray:
        flat = a.buffer if a.buffer.ndim == 2 else a.buffer.reshape(a.buffer.shape[0], -1)
        if flat.shape[1] <= FEW:  # a product with ones costs half of add.reduce
            return DualArray(flat.dot(ONES[: flat.shape[1]]), level)
        return DualArray(np.add.reduce(flat, 1), level)
    total: Any = np.sum(a.buffer, axis=shifted(axis, a.ndim), keepdims=bool(keepdims))
    return DualArray(total, level)


@rule(np.mean)
def _mean(
    level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False
) -> Any:
    return DualArray(np.mean(a.buffer, axis=shifted(axis, a.ndim), keepdims=bool(keepdims)), level)


@rule(np.var)
def _var(
    level: Level,
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: Any = 0,
    keepdims: Any = False,
) -> Any:
    deviations = a - np.mean(a, axis=axis, keepdims=True)
    total = np.sum(np.square(deviations), axis=axis, keepdims=keepdims)
    return total / (a.size / max(total.size, 1) - ddof)


@rule(np.std)
def _std(
    level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, **kw: Any
) -> Any:
    return np.sqrt(np.var(a, axis=axis, ddof=ddof, **kw))


@rule(np.cumsum)
def _cumsum(level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    if axis is None:
        return np.cumsum(np.ravel(a), axis=0)
    return DualArray(np.cumsum(a.buffer, axis=shifted(axis, a.ndim)), level)


def _one_axis(function: Any, a: Any, axis: Any, keepdims: bool) -> Any:
    """``function(x, axis)`` for an axis that may be None or several: those are merged into the last one."""
    if isinstance(axis, int):
        result = function(a, axis % a.ndim if a.ndim else axis)
        return np.expand_dims(result, axis) if keepdims else result
    gone = tuple(range(a.ndim)) if axis is None else tuple(x % a.ndim for x in axis)
    order = [i for i in range(a.ndim) if i not in gone]
    merged = np.reshape(np.transpose(a, (*order, *gone)), (*(a.shape[i] for i in order), -1))
    result = function(merged, len(order))
    return np.expand_dims(result, gone) if keepdims else result


def _extremum(level: Level, a: Any, axis: Any, keepdims: Any, position: Any) -> Any:
    """The entry at the first extremal position; a constant choice, so that one gather does it."""

    def pick(x: Any, where: int) -> Any:
        index = np.expand_dims(position(x, where), where)
        return np.squeeze(np.take_along_axis(x, index, where), where)

    return _one_axis(pick, a, axis, keepdims)


@rule(np.max, np.amax)
def _max(level: Level, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return _extremum(level, a, axis, keepdims is True, np.argmax)


@rule(np.min, np.amin)
def _min(level: Level, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return _extremum(level, a, axis, keepdims is True, np.argmin)


@rule(np.prod)
def _prod(
    level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False
) -> Any:
    """The product of all others is built from running products of both sides: right also at zeros."""

    def multiply(x: Any, where: int) -> Any:
        x = np.moveaxis(x, where, -1)
        value = x.buffer[0, ...]
        ones = np.ones((*x.shape[:-1], 1))
        before = np.concatenate([ones, np.cumprod(value[..., :-1], axis=-1)], axis=-1)
        after = np.concatenate([ones, np.cumprod(value[..., :0:-1], axis=-1)], axis=-1)[..., ::-1]
        slopes = np.sum(combine(level, value, [(x, before * after)]).buffer, axis=-1)
        return DualArray(np.concatenate([np.prod(value, axis=-1)[None], slopes[1:]]), level)

    return _one_axis(multiply, a, axis, keepdims is True)


@rule(np.cumprod)
def _cumprod(level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    if axis is None:
        a, axis = np.ravel(a), 0
    rows = [a[(slice(None),) * (axis % a.ndim) + (i,)] for i in range(a.shape[axis])]
    for i in range(1, len(rows)):
        rows[i] = rows[i - 1] * rows[i]
    return np.stack(rows, axis=axis) if rows else a.copy()


@rule(np.average)
def _average(level: Level, a: Any, axis: Any = None, weights: Any = None) -> Any:
    if weights is None:
        return np.mean(a, axis=axis)
    if np.ndim(weights) == 1 and np.ndim(a) > 1 and isinstance(axis, int):
        weights = np.reshape(weights, [-1 if i == axis % np.ndim(a) else 1 for i in range(np.ndim(a))])
    weights = weights * np.ones(np.shape(a))
    return np.sum(a * weights, axis=axis) / np.sum(weights, axis=axis)


@rule(np.trapezoid)
def _trapezoid(level: Level, y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    y = np.moveaxis(y, axis, -1)
    step = dx if x is None else np.diff(x if np.ndim(x) == 1 else np.moveaxis(x, axis, -1))
    return np.sum((y[..., 1:] + y[..., :-1]) * step * 0.5, axis=-1)


def _reduce(function: Any) -> Any:
    def apply(
        level: Level, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False
    ) -> Any:
        return function(a, axis=axis, keepdims=keepdims)

    return apply


UFUNC_METHODS[np.add, "reduce"] = _reduce(np.sum)
UFUNC_METHODS[np.multiply, "reduce"] = _reduce(np.prod)
UFUNC_METHODS[np.maximum, "reduce"] = _reduce(np.max)
UFUNC_METHODS[np.minimum, "reduce"] = _reduce(np.min)


def _accumulate(level: Level, a: Any, axis: int = 0, dtype: Any = None) -> Any:
    return np.cumsum(a, axis=axis)


def _reduceat(level: Level, a: Any, indices: Any, axis: int = 0, dtype: Any = None) -> Any:
    return DualArray(np.add.reduceat(a.buffer, indices, axis=shifted(axis, a.ndim)), level)


def _outer(ufunc: Any) -> Any:
    def apply(level: Level, a: Any, b: Any) -> Any:
        left = np.reshape(a, (*np.shape(a), *(1,) * np.ndim(b)))
        return ufunc(left, b)

    return apply


UFUNC_METHODS[np.add, "accumulate"] = _accumulate
UFUNC_METHODS[np.add, "reduceat"] = _reduceat
UFUNC_METHODS.update(
    {(key, "outer"): _outer(key) for key in RULES if isinstance(key, np.ufunc) and key.nin == 2}
)


def _logaddexp_reduce(
    level: Level, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False
) -> Any:
    def reduce(x: Any, where: int) -> Any:
        value = x.buffer[0, ...]
        total = _log_of_sum(value, where)
        share = np.exp(value - np.expand_dims(np.where(np.isneginf(total), 0.0, total), where))
        slopes = np.sum(combine(level, value, [(x, share)]).buffer, axis=where + 1)
        return DualArray(np.concatenate([total[None], slopes[1:]]), level)

    return _one_axis(reduce, a, axis, keepdims)


def _log_of_sum(value: Any, axis: int) -> Any:
    return (
        np.logaddexp.reduce(value, axis=axis)
        if type(value) is DualArray
        else np.asarray(np.logaddexp.reduce(value, axis=axis))
    )


UFUNC_METHODS[np.logaddexp, "reduce"] = _logaddexp_reduce


def _norm_of_vectors(name: str, x: Any, ord: Any, axis: Any, keepdims: bool) -> Any:  # noqa: A002
    """Euclidean, or the sum or an extremum of absolute values, over one axis or several taken as one."""
    if ord == 2:
        return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims))
    if ord == 1:
        return np.sum(np.abs(x), axis=axis, keepdims=keepdims)
    if ord in (np.inf, -np.inf):
        return (np.max if ord > 0 else np.min)(np.abs(x), axis=axis, keepdims=keepdims)
    return refuse_unsupported(f"{name}(ord={ord!r})", "the Euclidean norm has one")


@rule(np.linalg.vector_norm)
def _vector_norm(level: Level, x: Any, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:  # noqa: A002
    return _norm_of_vectors("np.linalg.vector_norm", x, ord, axis, keepdims)


@rule(np.linalg.norm)
def _norm(level: Level, x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:  # noqa: A002
    """Of vectors, and Frobenius; a pair of axes is a matrix, whose other norms are none of its entries."""
    axes = x.ndim if axis is None else np.size(axis)
    if ord is None or (ord == "fro" and axes == 2):
        ord = 2  # noqa: A001
    elif axes != 1:
        refuse_unsupported(f"np.linalg.norm(ord={ord!r}) of matrices", "the Frobenius norm has one")
    return _norm_of_vectors("np.linalg.norm", x, ord, axis, keepdims)
