"""Functions that jax.numpy lacks or spells otherwise: ragged primitives, views, a few arguments."""

from __future__ import annotations

from functools import partial
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
        (ops.spmatmul, _spmatmul),
        (np.linalg.cholesky, _cholesky),
        (np.take_along_axis, _take_along_axis),
    ):
        FUNCTIONS[function] = _plain(twin)
    for function, kernel in (
        (ops.segment_sum, _segment_sum),
        (ops.segment_max, _segment_max),
        (ops.segment_softmax, _segment_softmax),
        (ops.segment_logsumexp, _segment_logsumexp),
    ):
        FUNCTIONS[function] = _ragged(kernel)
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


def _ragged(twin: Any) -> Any:
    """A function of values, segment numbers, and how many segments, as one of values and offsets."""

    def call(values: Any, offsets: Any) -> Any:
        rows, bounds = jnp.asarray(bare(values)), jnp.asarray(bare(offsets))
        segments = getattr(offsets, "segments", None)
        if segments is None:
            numbers = jnp.arange(bounds.shape[0] - 1, dtype=jnp.int32)
            segments = jnp.repeat(numbers, jnp.diff(bounds), total_repeat_length=rows.shape[0])
        return wrapped(twin(rows, segments, bounds.shape[0] - 1), _origins((values, offsets)))

    return call


def _sums(values: Any, segments: Any, count: int) -> Any:
    return jax.ops.segment_sum(values, segments, count, indices_are_sorted=True, mode="promise_in_bounds")


def _largest(values: Any, segments: Any, count: int) -> Any:
    fixed = jax.lax.stop_gradient(values)
    return jax.ops.segment_max(fixed, segments, count, indices_are_sorted=True, mode="promise_in_bounds")


def _spread(values: Any, segments: Any) -> Any:
    """One entry a segment to all its rows; the numbers are in bounds by construction."""
    return values.at[segments].get(indices_are_sorted=True, mode="promise_in_bounds")


def _segment_sum(values: Any, segments: Any, count: int) -> Any:
    return _sums(values, segments, count)


def _segment_max(values: Any, segments: Any, count: int) -> Any:
    """The first of the largest entries, gathered: among equals JAX's own would share the derivative."""
    n = values.shape[0]
    largest = _largest(values, segments, count)
    fixed = jax.lax.stop_gradient(values)
    places = jnp.arange(n).reshape((-1,) + (1,) * (values.ndim - 1))
    rows = jnp.where((fixed == largest[segments]) | jnp.isnan(fixed), places, n)
    first = jax.ops.segment_min(rows, segments, count, indices_are_sorted=True)
    filled = first < n
    return jnp.where(filled, jnp.take_along_axis(values, jnp.clip(first, 0, max(n - 1, 0)), axis=0), -jnp.inf)


def _segment_softmax(values: Any, segments: Any, count: int) -> Any:
    return _shares(values, segments, count)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _shares(values: Any, segments: Any, count: int) -> Any:
    weights = jnp.exp(values - _spread(_largest(values, segments, count), segments))
    return weights / _spread(_sums(weights, segments, count), segments)


@_shares.defjvp
def _shares_jvp(count: int, primals: Any, tangents: Any) -> Any:
    """``ds = s (du - sum within the segment of s du)``: one sum where the chain rule would take three."""
    values, segments = primals
    shares = _shares(values, segments, count)
    moved = shares * tangents[0]
    return shares, moved - shares * _spread(_sums(moved, segments, count), segments)


def _segment_logsumexp(values: Any, segments: Any, count: int) -> Any:
    largest = _largest(values, segments, count)
    shift = jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = _sums(jnp.exp(values - _spread(shift, segments)), segments, count)
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
