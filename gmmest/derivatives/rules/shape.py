"""Functions that only move, select or copy entries: applied to the whole buffer, axes shifted by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.rules.elementwise import align
from gmmest.derivatives.rules.table import rule

__all__ = ["shifted"]


def shifted(axis: Any, ndim: int) -> Any:
    """An axis (or axes) of the value as an axis of the buffer; ``None`` means all of them."""
    if axis is None:
        return tuple(range(1, ndim + 1))
    if isinstance(axis, (tuple, list)):
        return tuple(shifted(a, ndim) for a in axis)
    if not -ndim <= axis < ndim:
        raise np.exceptions.AxisError(axis, ndim)
    return axis % ndim + 1


def _flat(x: DualArray) -> Any:
    return x.buffer.reshape(x.buffer.shape[0], -1)


@rule(np.reshape)
def _reshape(level: Level, a: Any, /, shape: Any = None, order: Any = "C", **kwargs: Any) -> Any:
    if order != "C":
        raise ValueError("np.reshape of dual numbers keeps C order")
    wanted = shape if isinstance(shape, tuple) else tuple(shape) if isinstance(shape, list) else (shape,)
    return DualArray(a.buffer.reshape((a.buffer.shape[0], *wanted)), level)


@rule(np.ravel)
def _ravel(level: Level, a: Any, order: Any = "C") -> Any:
    return np.reshape(a, -1, order=order)


@rule(np.transpose)
def _transpose(level: Level, a: Any, axes: Any = None) -> Any:
    order = tuple(range(a.ndim))[::-1] if axes is None else tuple(axes)
    return DualArray(a.buffer.transpose((0, *shifted(order, a.ndim))), level)


@rule(np.swapaxes)
def _swapaxes(level: Level, a: Any, axis1: int, axis2: int) -> Any:
    return DualArray(np.swapaxes(a.buffer, shifted(axis1, a.ndim), shifted(axis2, a.ndim)), level)


@rule(np.moveaxis)
def _moveaxis(level: Level, a: Any, source: Any, destination: Any) -> Any:
    return DualArray(np.moveaxis(a.buffer, shifted(source, a.ndim), shifted(destination, a.ndim)), level)


@rule(np.squeeze)
def _squeeze(level: Level, a: Any, axis: Any = None) -> Any:
    if axis is None:
        axis = tuple(i for i, length in enumerate(a.shape) if length == 1)
    return DualArray(np.squeeze(a.buffer, axis=shifted(axis, a.ndim)), level)


@rule(np.expand_dims)
def _expand_dims(level: Level, a: Any, axis: Any) -> Any:
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    return DualArray(np.expand_dims(a.buffer, shifted(axes, a.ndim + len(axes))), level)


@rule(np.atleast_1d)
def _atleast_1d(level: Level, a: Any) -> Any:
    return a if a.ndim else np.reshape(a, 1)


@rule(np.atleast_2d)
def _atleast_2d(level: Level, a: Any) -> Any:
    return a if a.ndim >= 2 else np.reshape(a, (1, -1))


@rule(np.broadcast_to)
def _broadcast_to(level: Level, a: Any, shape: Any, **kwargs: Any) -> Any:
    wanted = (shape,) if np.ndim(shape) == 0 else tuple(shape)
    return DualArray(np.broadcast_to(align(a.buffer, len(wanted)), (level.size + 1, *wanted)), level)


@rule(np.copy)
def _copy(level: Level, a: Any, **kwargs: Any) -> Any:
    return a.copy()


@rule(np.repeat)
def _repeat(level: Level, a: Any, repeats: Any, axis: Any = None) -> Any:
    if axis is None:
        return DualArray(np.repeat(_flat(a), repeats, axis=1), level)
    return DualArray(np.repeat(a.buffer, repeats, axis=shifted(axis, a.ndim)), level)


@rule(np.tile)
def _tile(level: Level, a: Any, reps: Any) -> Any:
    counts = (reps,) if np.ndim(reps) == 0 else tuple(reps)
    buffer = align(a.buffer, len(counts))
    counts = (1,) * (buffer.ndim - 1 - len(counts)) + counts
    return DualArray(np.tile(buffer, (1, *counts)), level)


@rule(np.take)
def _take(level: Level, a: Any, indices: Any, axis: Any = None, **kwargs: Any) -> Any:
    if axis is None:
        return DualArray(np.take(_flat(a), indices, axis=1, **kwargs), level)
    return DualArray(np.take(a.buffer, indices, axis=shifted(axis, a.ndim), **kwargs), level)


@rule(np.flip)
def _flip(level: Level, m: Any, axis: Any = None) -> Any:
    return DualArray(np.flip(m.buffer, shifted(axis, m.ndim)), level)


@rule(np.roll)
def _roll(level: Level, a: Any, shift: Any, axis: Any = None) -> Any:
    if axis is None:
        return np.reshape(DualArray(np.roll(_flat(a), shift, axis=1), level), a.shape)
    return DualArray(np.roll(a.buffer, shift, axis=shifted(axis, a.ndim)), level)


@rule(np.diff)
def _diff(level: Level, a: Any, n: int = 1, axis: int = -1) -> Any:
    return DualArray(np.diff(a.buffer, n, axis=shifted(axis, a.ndim)), level)


@rule(np.diagonal)
def _diagonal(level: Level, a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return DualArray(np.diagonal(a.buffer, offset, shifted(axis1, a.ndim), shifted(axis2, a.ndim)), level)


@rule(np.diag)
def _diag(level: Level, v: Any, k: int = 0) -> Any:
    if v.ndim == 2:
        return np.diagonal(v, k)
    return DualArray(np.stack([np.diag(row, k) for row in v.buffer]), level)


@rule(np.trace)
def _trace(level: Level, a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return np.sum(np.diagonal(a, offset, axis1, axis2), axis=-1)


@rule(np.tril, np.triu)
def _refuse_triangles(level: Level, m: Any, k: int = 0) -> Any:
    raise TypeError("np.tril and np.triu of dual numbers: multiply by np.tril(np.ones(shape)) instead")


@rule(np.pad)
def _pad(level: Level, array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Any:
    if mode != "constant" or kwargs.get("constant_values", 0) != 0:
        raise TypeError("np.pad of dual numbers pads with zeros")
    widths = np.broadcast_to(pad_width, (array.ndim, 2))
    return DualArray(np.pad(array.buffer, [(0, 0), *map(tuple, widths)]), level)


# --- several arrays into one ------------------------------------------------------------------------------


def _lift(level: Level, arrays: Any) -> list[Any]:
    return [a if level.owns(a) else level.constant(a) for a in arrays]


@rule(np.concatenate)
def _concatenate(level: Level, arrays: Any, axis: Any = 0) -> Any:
    parts = _lift(level, arrays)
    if axis is None:
        return DualArray(np.concatenate([_flat(p) for p in parts], axis=1), level)
    where = shifted(axis, parts[0].ndim)
    return DualArray(np.concatenate([p.buffer for p in parts], axis=where), level)


@rule(np.stack)
def _stack(level: Level, arrays: Any, axis: int = 0) -> Any:
    parts = _lift(level, arrays)
    return DualArray(np.stack([p.buffer for p in parts], axis=shifted(axis, parts[0].ndim + 1)), level)


@rule(np.hstack)
def _hstack(level: Level, tup: Any) -> Any:
    parts = [np.atleast_1d(p) for p in _lift(level, tup)]
    return np.concatenate(parts, axis=0 if parts[0].ndim == 1 else 1)


@rule(np.vstack)
def _vstack(level: Level, tup: Any) -> Any:
    return np.concatenate([np.atleast_2d(p) for p in _lift(level, tup)], axis=0)


@rule(np.column_stack)
def _column_stack(level: Level, tup: Any) -> Any:
    columns = [np.reshape(p, (-1, 1)) if p.ndim < 2 else p for p in _lift(level, tup)]
    return np.concatenate(columns, axis=1)


@rule(np.append)
def _append(level: Level, arr: Any, values: Any, axis: Any = None) -> Any:
    return np.concatenate([arr, values], axis=axis)


@rule(np.split, np.array_split)
def _split(level: Level, ary: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    parts = np.array_split(ary.buffer, indices_or_sections, axis=shifted(axis, ary.ndim))
    return [DualArray(part, level) for part in parts]


@rule(np.where)
def _where(level: Level, condition: Any, x: Any, y: Any) -> Any:
    x, y = _lift(level, (x, y))
    ndim = max(np.ndim(condition), x.ndim, y.ndim)
    return DualArray(np.where(level.value(condition), align(x.buffer, ndim), align(y.buffer, ndim)), level)


@rule(np.clip)
def _clip(level: Level, a: Any, a_min: Any = None, a_max: Any = None, **kwargs: Any) -> Any:
    low, high = kwargs.get("min", a_min), kwargs.get("max", a_max)
    if low is not None:
        a = np.where(np.less(a, low), low, a)
    return a if high is None else np.where(np.greater(a, high), high, a)


# --- new arrays like an old one, to be written into --------------------------------------------------------


@rule(np.zeros_like, np.empty_like)
def _zeros_like(level: Level, a: Any, dtype: Any = None, shape: Any = None, **kwargs: Any) -> Any:
    return level.constant(np.zeros_like(level.value(a), shape=shape))


@rule(np.ones_like)
def _ones_like(level: Level, a: Any, dtype: Any = None, shape: Any = None, **kwargs: Any) -> Any:
    return level.constant(np.ones_like(level.value(a), shape=shape))


@rule(np.full_like)
def _full_like(level: Level, a: Any, fill_value: Any, dtype: Any = None, **kwargs: Any) -> Any:
    out = np.zeros_like(a if level.owns(a) else level.constant(a))
    out[...] = fill_value
    return out
