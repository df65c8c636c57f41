"""Functions that jax.numpy lacks or spells otherwise: ragged primitives, views, a few arguments."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmmest.derivatives import ops
from gmmest.derivatives.jax_array import FUNCTIONS, TracedArray, _origins, bare, wrapped

__all__ = ["register"]


def register() -> None:
    """Fill the table; called once, when the bridge is imported."""
    for function, twin in (
        (ops.segment_sum, _segment_sum),
        (ops.segment_max, _segment_max),
        (ops.segment_softmax, _segment_softmax),
        (ops.segment_logsumexp, _segment_logsumexp),
        (ops.spmatmul, _spmatmul),
        (np.linalg.cholesky, _cholesky),
        (np.take_along_axis, _take_along_axis),
    ):
        FUNCTIONS[function] = _plain(twin)
    FUNCTIONS[ops.segment_repeat] = _segment_repeat
    FUNCTIONS[np.repeat] = _listed(jnp.repeat)
    FUNCTIONS[np.take] = _listed(jnp.take)
    FUNCTIONS[np.reshape] = lambda a, shape, **_: a.reshape(shape)
    FUNCTIONS[np.ravel] = lambda a, **_: a.ravel()
    FUNCTIONS[np.transpose] = lambda a, axes=None: a.transpose(axes)
    FUNCTIONS[np.swapaxes] = lambda a, axis1, axis2: a.swapaxes(axis1, axis2)
    FUNCTIONS[np.squeeze] = lambda a, axis=None: a.squeeze(axis)
    FUNCTIONS[np.copyto] = lambda dst, src: dst.__setitem__(Ellipsis, src)
    for function in (np.zeros_like, np.empty_like, np.ones_like, np.full_like):
        FUNCTIONS[function] = _new_like(getattr(jnp, function.__name__))


def _plain(twin: Any) -> Any:
    """A function of JAX arrays as a function of traced ones."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapped(twin(*map(bare, args), **bare(kwargs)), _origins((args, tuple(kwargs.values()))))

    return call


def _listed(twin: Any) -> Any:
    """The same where the second argument may be a list, which NumPy takes for an array."""

    def call(a: Any, second: Any, *args: Any, **kwargs: Any) -> Any:
        second = np.asarray(second) if isinstance(second, (list, tuple)) else second
        return wrapped(twin(bare(a), bare(second), *bare(args), **bare(kwargs)), _origins((a, second)))

    return call


def _new_like(twin: Any) -> Any:
    def call(a: Any, *args: Any, **kwargs: Any) -> Any:
        given = {k: v for k, v in bare(kwargs).items() if k in ("dtype", "shape", "fill_value")}
        return TracedArray(twin(bare(a), *bare(args), **given), _origins((args, tuple(kwargs.values()))))

    return call


# --- ragged primitives -----------------------------------------------------------------------------------


def _segments(values: Any, offsets: Any) -> Any:
    """The segment number of every row."""
    n = values.shape[0]
    return jnp.repeat(jnp.arange(offsets.shape[0] - 1), jnp.diff(offsets), total_repeat_length=n)


def _segment_sum(values: Any, offsets: Any) -> Any:
    offsets = jnp.asarray(offsets)
    count = offsets.shape[0] - 1
    return jax.ops.segment_sum(values, _segments(values, offsets), count, indices_are_sorted=True)


def _segment_max(values: Any, offsets: Any) -> Any:
    """The first of the largest entries, gathered: among equals JAX's own would share the derivative."""
    offsets = jnp.asarray(offsets)
    segments, count, n = _segments(values, offsets), offsets.shape[0] - 1, values.shape[0]
    fixed = jax.lax.stop_gradient(values)
    largest = jax.ops.segment_max(fixed, segments, count, indices_are_sorted=True)
    places = jnp.arange(n).reshape((-1,) + (1,) * (values.ndim - 1))
    rows = jnp.where((fixed == largest[segments]) | jnp.isnan(fixed), places, n - 1)
    first = jnp.clip(jax.ops.segment_min(rows, segments, count, indices_are_sorted=True), 0, max(n - 1, 0))
    filled = (jnp.diff(offsets) > 0).reshape((-1,) + (1,) * (values.ndim - 1))
    return jnp.where(filled, jnp.take_along_axis(values, first, axis=0), -jnp.inf)


def _segment_softmax(values: Any, offsets: Any) -> Any:
    offsets = jnp.asarray(offsets)
    segments = _segments(values, offsets)
    count = offsets.shape[0] - 1
    largest = jax.ops.segment_max(jax.lax.stop_gradient(values), segments, count, indices_are_sorted=True)
    weights = jnp.exp(values - largest[segments])
    return weights / jax.ops.segment_sum(weights, segments, count, indices_are_sorted=True)[segments]


def _segment_logsumexp(values: Any, offsets: Any) -> Any:
    offsets = jnp.asarray(offsets)
    segments = _segments(values, offsets)
    count = offsets.shape[0] - 1
    largest = jax.ops.segment_max(jax.lax.stop_gradient(values), segments, count, indices_are_sorted=True)
    shift = jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = jax.ops.segment_sum(jnp.exp(values - shift[segments]), segments, count, indices_are_sorted=True)
    empty = total == 0.0  # log(0) would put NaN into derivatives that are zero
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + shift)


def _segment_repeat(values: Any, offsets: Any) -> Any:
    """The number of rows must be known while tracing: it is the last offset, which leaves carry along."""
    rows = offsets.last if isinstance(offsets, TracedArray) else int(np.asarray(offsets)[-1])
    if rows is None:
        rows = int(offsets[-1])
    counts = jnp.diff(jnp.asarray(bare(offsets)))
    repeated = jnp.repeat(bare(values), counts, axis=0, total_repeat_length=rows)
    return TracedArray(repeated, _origins((values, offsets)))


def _spmatmul(matrix: Any, x: Any) -> Any:
    entries = matrix.tocoo()
    rows, columns = entries.coords if hasattr(entries, "coords") else (entries.row, entries.col)
    data = jnp.asarray(entries.data).reshape((-1,) + (1,) * (jnp.ndim(x) - 1))
    return jax.ops.segment_sum(data * jnp.asarray(x)[columns], rows, matrix.shape[0])


def _cholesky(a: Any, /, *, upper: bool = False) -> Any:
    """As in LAPACK one triangle of the matrix is looked at; JAX would take the mean of both."""
    if upper:
        return jnp.swapaxes(_cholesky(jnp.swapaxes(a, -1, -2)), -1, -2)
    lower = jnp.tril(a)
    return jnp.linalg.cholesky(lower + jnp.swapaxes(jnp.tril(lower, -1), -1, -2))


def _take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
    return jnp.take_along_axis(arr, jnp.asarray(indices), axis=axis)
