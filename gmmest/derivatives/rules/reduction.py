"""Sums, means, extrema and products along axes; running sums; NumPy's ``reduceat``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.rules.elementwise import combine
from gmmest.derivatives.rules.shape import shifted
from gmmest.derivatives.rules.table import UFUNC_METHODS, rule


@rule(np.sum)
def _sum(level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return DualArray(np.sum(a.buffer, axis=shifted(axis, a.ndim), keepdims=bool(keepdims)), level)


@rule(np.mean)
def _mean(level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return DualArray(np.mean(a.buffer, axis=shifted(axis, a.ndim), keepdims=bool(keepdims)), level)


@rule(np.var)
def _var(
    level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False
) -> Any:
    deviations = a - np.mean(a, axis=axis, keepdims=True)
    total = np.sum(np.square(deviations), axis=axis, keepdims=keepdims)
    return total / (a.size / max(total.size, 1) - ddof)


@rule(np.std)
def _std(level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, **kw: Any) -> Any:
    return np.sqrt(np.var(a, axis=axis, ddof=ddof, **kw))


@rule(np.cumsum)
def _cumsum(level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    if axis is None:
        return np.cumsum(np.ravel(a), axis=0)
    return DualArray(np.cumsum(a.buffer, axis=shifted(axis, a.ndim)), level)


def _extremum(level: Level, a: Any, axis: Any, keepdims: Any, position: Any) -> Any:
    """The entry at the first extremal position; a constant choice, so that one gather does it."""
    if isinstance(axis, tuple):
        order = [i for i in range(a.ndim) if i not in {x % a.ndim for x in axis}]
        rest = np.transpose(a, (*order, *(x % a.ndim for x in axis)))
        flat = np.reshape(rest, (*(a.shape[i] for i in order), -1))
        result = _extremum(level, flat, -1, False, position)
        return np.expand_dims(result, tuple(x % a.ndim for x in axis)) if keepdims else result
    if axis is None:
        result = _extremum(level, np.ravel(a), 0, False, position)
        return np.reshape(result, (1,) * a.ndim) if keepdims else result
    where = np.expand_dims(position(a, axis), axis)
    rows = np.stack([np.take_along_axis(row, where, axis % a.ndim) for row in a.buffer])
    return DualArray(rows if keepdims else np.squeeze(rows, shifted(axis, a.ndim)), level)


@rule(np.max)
def _max(level: Level, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return _extremum(level, a, axis, keepdims is True, np.argmax)


@rule(np.min)
def _min(level: Level, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return _extremum(level, a, axis, keepdims is True, np.argmin)


@rule(np.prod)
def _prod(level: Level, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    """The product of all others is built from running products of both sides: right also at zeros."""
    if axis is None:
        result = _prod(level, np.ravel(a), 0)
        return np.reshape(result, (1,) * a.ndim) if keepdims is True else result
    x = np.moveaxis(a, axis, -1)
    value = x.buffer[0, ...]
    ones = np.ones((*x.shape[:-1], 1))
    before = np.concatenate([ones, np.cumprod(value[..., :-1], axis=-1)], axis=-1)
    after = np.concatenate([ones, np.cumprod(value[..., :0:-1], axis=-1)], axis=-1)[..., ::-1]
    others = combine(level, value, [(x, before * after)])
    buffer = np.sum(others.buffer, axis=-1)
    buffer[0] = np.prod(value, axis=-1)
    result = DualArray(buffer, level)
    return np.expand_dims(result, axis) if keepdims is True else result


def _reduce(function: Any) -> Any:
    def apply(level: Level, a: Any, axis: Any = 0, dtype: Any = None, keepdims: bool = False, **kw: Any) -> Any:
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
for _ufunc in (np.add, np.subtract, np.multiply, np.divide, np.power, np.maximum, np.minimum):
    UFUNC_METHODS[_ufunc, "outer"] = _outer(_ufunc)


def _logaddexp_reduce(level: Level, a: Any, axis: int = 0, keepdims: bool = False, **kw: Any) -> Any:
    value = a.buffer[0, ...]
    total = np.logaddexp.reduce(value, axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        share = np.where(np.isneginf(total), 0.0, np.exp(value - total))
    weighted = combine(level, value, [(a, share)])
    buffer = np.sum(weighted.buffer, axis=shifted(axis, a.ndim), keepdims=True)
    buffer[0] = total
    return DualArray(buffer if keepdims else np.squeeze(buffer, shifted(axis, a.ndim)), level)


UFUNC_METHODS[np.logaddexp, "reduce"] = _logaddexp_reduce


@rule(np.linalg.norm)
def _norm(level: Level, x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:  # noqa: A002
    if ord not in (None, 2, "fro") or (ord == 2 and axis is None and x.ndim > 1):
        raise TypeError("np.linalg.norm of dual numbers: the Euclidean norm along axes only")
    return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims))


