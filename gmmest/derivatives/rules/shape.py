"""Functions that only move, select or copy entries: applied to the whole buffer, axes shifted by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.refusals import refuse_unsupported, refuse_write
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
        refuse_unsupported(f"np.reshape(order={order!r})", "transpose first")
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
def _atleast_1d(level: Level, *arrays: Any) -> Any:
    raised = tuple(a if np.ndim(a) else np.reshape(a, 1) for a in arrays)
    return raised[0] if len(raised) == 1 else raised


@rule(np.atleast_2d)
def _atleast_2d(level: Level, *arrays: Any) -> Any:
    raised = tuple(a if np.ndim(a) >= 2 else np.reshape(a, (1, -1)) for a in arrays)
    return raised[0] if len(raised) == 1 else raised


@rule(np.broadcast_arrays)
def _broadcast_arrays(level: Level, *arrays: Any, **kwargs: Any) -> Any:
    shape = np.broadcast_shapes(*(np.shape(a) for a in arrays))
    return tuple(np.broadcast_to(a, shape) for a in arrays)


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


@rule(np.tril)
def _tril(level: Level, m: Any, k: int = 0) -> Any:
    return np.where(np.tri(m.shape[-2], m.shape[-1], k, dtype=bool), m, 0.0)


@rule(np.triu)
def _triu(level: Level, m: Any, k: int = 0) -> Any:
    return np.where(np.tri(m.shape[-2], m.shape[-1], k - 1, dtype=bool), 0.0, m)


@rule(np.pad)
def _pad(level: Level, array: Any, pad_width: Any, mode: Any = "constant", constant_values: Any = 0.0) -> Any:
    """Borders copied from inside are copied in every partial; constant ones have no derivative."""
    if mode not in ("constant", "edge", "reflect", "symmetric", "wrap"):
        refuse_unsupported(
            f"np.pad(mode={mode!r})", "pad with a constant, or with mode 'edge', 'reflect' or 'wrap'"
        )
    widths = [tuple(map(int, pair)) for pair in np.broadcast_to(pad_width, (array.ndim, 2))]
    if mode != "constant":
        return DualArray(_padded(array.buffer, widths, mode), level)
    inside = tuple(slice(w[0], w[0] + n) for w, n in zip(widths, array.shape, strict=True))
    border = np.pad(np.zeros(array.shape), widths, constant_values=constant_values)
    out = level.constant(border + 0.0 * level.value(array).sum() if not _plain(array) else border)
    out[inside] = array
    return out


def _plain(x: DualArray) -> bool:
    return type(x.buffer) is np.ndarray


def _padded(buffer: Any, widths: Any, mode: Any) -> Any:
    if type(buffer) is np.ndarray:
        return np.pad(buffer, [(0, 0), *widths], mode)
    return np.stack([np.pad(row, widths, mode) for row in buffer])


@rule(np.take_along_axis)
def _take_along_axis(level: Level, arr: Any, indices: Any, axis: Any = -1) -> Any:
    if axis is None:
        arr, axis = np.ravel(arr), 0
    where = axis % arr.ndim
    return DualArray(np.stack([np.take_along_axis(row, indices, where) for row in arr.buffer]), level)


@rule(np.sort)
def _sort(level: Level, a: Any, axis: Any = -1, kind: Any = None) -> Any:
    if axis is None:
        a, axis = np.ravel(a), 0
    return np.take_along_axis(a, np.argsort(a, axis=axis, kind="stable"), axis)


@rule(np.delete)
def _delete(level: Level, arr: Any, obj: Any, axis: Any = None) -> Any:
    if axis is None:
        arr, axis = np.ravel(arr), 0
    keep = np.delete(np.arange(arr.shape[axis]), obj)
    return np.take(arr, keep, axis=axis)


@rule(np.copyto)
def _copyto(level: Level, dst: Any, src: Any) -> None:
    if type(dst) is not DualArray:
        refuse_write("a number with derivatives")
    dst[...] = src


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


@rule(np.dstack)
def _dstack(level: Level, tup: Any) -> Any:
    parts = [np.atleast_2d(p) for p in _lift(level, tup)]
    return np.concatenate([p if p.ndim > 2 else np.expand_dims(p, 2) for p in parts], axis=2)


@rule(np.append)
def _append(level: Level, arr: Any, values: Any, axis: Any = None) -> Any:
    return np.concatenate([arr, values], axis=axis)


@rule(np.split, np.array_split)
def _split(level: Level, ary: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    parts = np.array_split(ary.buffer, indices_or_sections, axis=shifted(axis, ary.ndim))
    return [DualArray(part, level) for part in parts]


@rule(np.where)
def _where(level: Level, condition: Any, *choices: Any) -> Any:
    if not choices:
        return np.nonzero(level.value(condition))
    x, y = _lift(level, choices)
    ndim = max(np.ndim(condition), x.ndim, y.ndim)
    return DualArray(np.where(level.value(condition), align(x.buffer, ndim), align(y.buffer, ndim)), level)


@rule(np.select)
def _select(level: Level, condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    result = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        result = np.where(condition, choice, result)
    return result


@rule(np.clip)
def _clip(level: Level, a: Any, a_min: Any = None, a_max: Any = None, **kwargs: Any) -> Any:
    low = kwargs.pop("min", a_min)
    high = kwargs.pop("max", a_max)
    if kwargs:
        refuse_unsupported(f"np.clip({next(iter(kwargs))}=...)")
    if low is not None:
        a = np.where(np.less(a, low), low, a)
    return a if high is None else np.where(np.greater(a, high), high, a)


# --- new arrays like an old one, to be written into: duals, unless another type of entry is asked for ---------


@rule(np.zeros_like, np.empty_like)
def _zeros_like(
    level: Level, a: Any, dtype: Any = None, order: Any = "K", subok: bool = True, shape: Any = None
) -> Any:
    return _new(level, a, 0.0, dtype, shape)


@rule(np.ones_like)
def _ones_like(
    level: Level, a: Any, dtype: Any = None, order: Any = "K", subok: bool = True, shape: Any = None
) -> Any:
    return _new(level, a, 1.0, dtype, shape)


@rule(np.full_like)
def _full_like(level: Level, a: Any, fill_value: Any, dtype: Any = None, shape: Any = None) -> Any:
    out = _new(level, a, 0.0, dtype, shape)
    out[...] = fill_value
    return out


def _new(level: Level, a: Any, entry: float, dtype: Any, shape: Any) -> Any:
    wanted = np.shape(a) if shape is None else shape
    if dtype is not None and np.dtype(dtype) != np.float64:
        return np.full(wanted, entry, dtype=dtype)
    value = level.value(a)
    if type(value) is DualArray:  # filled by an outer level's numbers later
        return level.constant(np.full_like(value, entry, shape=wanted))
    return level.constant(np.full(wanted, entry))
