"""The ragged primitives of gmmest.ops on dual numbers, each with one fused rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from gmmest.derivatives import ops
from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.rules.table import rule

LONG = 2048
"""Rows from which a loop over partials costs less than temporaries of all of them."""


def _plain(x: DualArray) -> bool:
    return type(x.buffer) is np.ndarray


@rule(ops.segment_sum)
def _segment_sum(level: Level, values: Any, offsets: Any) -> Any:
    bounds = np.asarray(offsets)
    if _plain(values):
        return DualArray(ops.sum_along(values.buffer, bounds, axis=1), level)
    return DualArray(np.stack([ops.segment_sum(row, bounds) for row in values.buffer]), level)


@rule(ops.segment_repeat)
def _segment_repeat(level: Level, values: Any, offsets: Any) -> Any:
    return DualArray(np.repeat(values.buffer, np.diff(offsets), axis=1), level)


@rule(ops.segment_max)
def _segment_max(level: Level, values: Any, offsets: Any) -> Any:
    """The first of the largest entries of each segment, gathered: a constant choice."""
    bounds = np.asarray(offsets)
    value = values
    while type(value) is DualArray:  # the choice depends on the innermost value alone
        value = value.buffer[0, ...]
    first, filled = ops.first_largest(value, bounds)
    if not filled.any():
        return level.constant(np.full(first.shape, -np.inf))
    largest = np.take_along_axis(values, first, 0)
    mask = np.reshape(filled, (-1,) + (1,) * (value.ndim - 1))
    return largest if filled.all() else np.where(mask, largest, -np.inf)


@rule(ops.segment_softmax)
def _segment_softmax(level: Level, values: Any, offsets: Any) -> Any:
    """By ds = s (du - sum within the segment of s du)."""
    bounds = np.asarray(offsets)
    if not _plain(values):
        share = ops.segment_softmax(values.buffer[0, ...], bounds)
        rows = [share * (du - _centre(share, du, bounds)) for du in values.buffer[1:]]
        return DualArray(np.stack([share, *rows]), level)
    out = np.empty(values.buffer.shape)
    share = ops.softmax_along(values.buffer[0], bounds, axis=0)
    out[0] = share
    sizes = np.diff(bounds)
    if share.ndim == 1 and share.size >= LONG and sizes.all():
        for du, ds in zip(values.buffer[1:], out[1:], strict=True):  # one partial at a time stays in cache
            np.multiply(du, share, out=ds)
            mean = np.repeat(np.add.reduceat(ds, bounds[:-1]), sizes)
            mean *= share
            ds -= mean
        return DualArray(out, level)
    np.multiply(values.buffer[1:], share, out=out[1:])
    totals = ops.repeat_along(ops.sum_along(out[1:], bounds, axis=1), bounds, axis=1)
    totals *= share
    out[1:] -= totals
    return DualArray(out, level)


def _centre(share: Any, du: Any, bounds: Any) -> Any:
    return ops.segment_repeat(ops.segment_sum(share * du, bounds), bounds)


@rule(ops.segment_logsumexp)
def _segment_logsumexp(level: Level, values: Any, offsets: Any) -> Any:
    """By d log sum exp u = sum of s du."""
    bounds = np.asarray(offsets)
    value = values.buffer[0, ...]
    total = ops.segment_logsumexp(value, bounds)
    share = ops.segment_softmax(value, bounds)
    slopes = [ops.segment_sum(share * du, bounds) for du in values.buffer[1:]]
    return DualArray(np.stack([total, *slopes]), level)


@rule(ops.spmatmul)
def _spmatmul(level: Level, matrix: Any, x: Any) -> Any:
    """Value and partials are columns of one sparse product."""
    if not _plain(x):
        return DualArray(np.stack([ops.spmatmul(matrix, row) for row in x.buffer]), level)
    columns = np.moveaxis(x.buffer, 0, -1)
    product = matrix @ columns.reshape(x.shape[0], -1)
    return DualArray(np.moveaxis(product.reshape((matrix.shape[0], *columns.shape[1:])), -1, 0), level)
