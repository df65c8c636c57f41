"""Ragged primitives that every derivative engine knows.

Rows are cut into consecutive segments by ``offsets``: segment i is the rows
``offsets[i]:offsets[i+1]``.  Segments run along the first axis of ``values``; further axes
ride along.  The functions take part in NumPy's ``__array_function__`` protocol (NEP 18), so
that a model written with them runs unchanged on arrays, on dual numbers and under tracing:
each engine has a rule of its own, keyed by the function object.

Cost: one or a few passes over ``values``, no Python loop over segments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmmest.errors import Complaint, DataError

__all__ = [
    "log_softmax",
    "logsumexp",
    "segment_logsumexp",
    "segment_max",
    "segment_repeat",
    "segment_softmax",
    "segment_sum",
    "softmax",
    "spmatmul",
]

Array = NDArray[Any]
Op = Callable[[Any, Any], Any]


def _engine_aware(function: Op) -> Op:
    """Hand calls with foreign array types to their ``__array_function__``, as NumPy's own functions do."""

    @functools.wraps(function)
    def op(values: Any, offsets: Any) -> Any:
        for argument in (values, offsets):
            if not isinstance(argument, np.ndarray) and hasattr(type(argument), "__array_function__"):
                _check_shapes(op, values, offsets)
                return argument.__array_function__(op, (type(argument),), (values, offsets), {})
        return function(values, offsets)

    return op


def _check_shapes(op: Any, values: Any, offsets: Any) -> None:
    """What :func:`_checked` sees to for plain arrays, as far as it can be known of others."""
    if op is spmatmul:
        if np.ndim(offsets) not in (1, 2) or values.shape[1] != np.shape(offsets)[0]:
            raise _misfit(
                "spmatmul", np.shape(offsets)[0] if np.ndim(offsets) else 0, f"a {values.shape} matrix"
            )
        return
    if isinstance(offsets, (np.ndarray, list, tuple)):
        bounds, rows = np.asarray(offsets), np.shape(values)[0] if np.ndim(values) else -1
        expected = bounds.size - 1 if op is segment_repeat else bounds[-1] if bounds.size else 0
        if bounds.ndim != 1 or rows != expected:
            raise _misfit(op.__name__, rows, f"offsets that ask for {expected}")


@_engine_aware
def segment_sum(values: ArrayLike, offsets: ArrayLike) -> Array:
    """Sum within segments: ``out[i] = sum(values[offsets[i]:offsets[i+1]])``; 0 for an empty one.

    Parameters
    ----------
    values : array (n, ...)
        Rows in segment order.
    offsets : integer array (N + 1,)
        Starts at 0, ends at n, never decreases.

    Returns
    -------
    array (N, ...)
        Law: ``segment_sum(v, o).sum(0) == v.sum(0)`` up to rounding.

    Examples
    --------
    >>> segment_sum(np.array([1.0, 2.0, 4.0]), [0, 2, 3])
    array([3., 4.])
    """
    rows, bounds = _checked(values, offsets)
    return sum_along(rows, bounds, axis=0)


@_engine_aware
def segment_max(values: ArrayLike, offsets: ArrayLike) -> Array:
    """Largest value within segments; ``-inf`` for an empty one.

    The derivative is that of the largest entry (of the first one among equals).

    Parameters
    ----------
    values : array (n, ...)
    offsets : integer array (N + 1,)

    Returns
    -------
    array (N, ...)

    Examples
    --------
    >>> segment_max(np.array([1.0, 2.0, 4.0]), [0, 2, 3])
    array([2., 4.])
    """
    rows, bounds = _checked(values, offsets)
    if rows.dtype.kind != "c":
        return max_along(rows, bounds, axis=0)
    first, filled = first_largest(rows, bounds)  # the winner with its imaginary part: a complex step
    mask = filled.reshape((-1,) + (1,) * (rows.ndim - 1))
    return np.where(mask, np.take_along_axis(rows, first, 0) if rows.shape[0] else -np.inf, -np.inf)


@_engine_aware
def segment_repeat(values: ArrayLike, offsets: ArrayLike) -> Array:
    """Give every row of a segment the segment's value; the transpose of :func:`segment_sum`.

    Parameters
    ----------
    values : array (N, ...)
        One entry a segment.
    offsets : integer array (N + 1,)

    Returns
    -------
    array (n, ...)

    Examples
    --------
    >>> segment_repeat(np.array([3.0, 4.0]), [0, 2, 3])
    array([3., 3., 4.])
    """
    entries, bounds = np.asarray(values), np.asarray(offsets)
    if entries.shape[0] != bounds.size - 1:
        raise _misfit("segment_repeat", entries.shape[0], f"{bounds.size - 1} segments")
    return repeat_along(entries, bounds, axis=0)


@_engine_aware
def segment_softmax(values: ArrayLike, offsets: ArrayLike) -> Array:
    """Logit shares: ``exp(u_j) / sum_k exp(u_k)`` within each segment.

    The largest value of a segment is subtracted first, so that no exponential overflows:
    shares of a segment sum to one within 4 ulp for every finite ``values``.

    Parameters
    ----------
    values : array (n, ...)
        Utilities.
    offsets : integer array (N + 1,)

    Returns
    -------
    array (n, ...)
        Law: a constant added within a segment changes nothing.

    Examples
    --------
    >>> segment_softmax(np.array([0.0, 0.0, 7.0]), [0, 2, 3])
    array([0.5, 0.5, 1. ])
    """
    rows, bounds = _checked(values, offsets)
    return softmax_along(rows, bounds, axis=0)


@_engine_aware
def segment_logsumexp(values: ArrayLike, offsets: ArrayLike) -> Array:
    """``log(sum(exp(u)))`` within segments without overflow; ``-inf`` for an empty one.

    Parameters
    ----------
    values : array (n, ...)
    offsets : integer array (N + 1,)

    Returns
    -------
    array (N, ...)

    Examples
    --------
    >>> np.round(segment_logsumexp(np.array([1000.0, 1000.0]), [0, 2]), 6)
    array([1000.693147])
    """
    rows, bounds = _checked(values, offsets)
    largest = max_along(rows, bounds, axis=0)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(sum_along(np.exp(rows - repeat_along(shift, bounds, 0)), bounds, 0)) + shift


@_engine_aware
def spmatmul(matrix: Any, x: ArrayLike) -> Array:
    """Product of a constant ``scipy.sparse`` matrix and an array: ``matrix @ x`` on every engine.

    ``matrix @ x`` itself is decided by SciPy, which turns x into a plain array and so loses
    derivatives; engines refuse it.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix (m, n)
    x : array (n,) or (n, k)

    Returns
    -------
    array (m,) or (m, k)
        Cost: one sparse product; K partials are K more columns of it.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> spmatmul(csr_array([[0.0, 2.0]]), np.array([1.0, 3.0]))
    array([6.])
    """
    product: Array = matrix @ np.asarray(x)
    return product


def logsumexp(values: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """``log(sum(exp(values)))`` along axes without overflow, on every engine.

    ``scipy.special.logsumexp`` converts its argument to a plain array and cannot be differentiated.

    Parameters
    ----------
    values : array
    axis : int or tuple of int, optional
        All axes where nothing is said.
    keepdims : bool

    Returns
    -------
    array
        ``-inf`` where every value is.

    Examples
    --------
    >>> float(np.round(logsumexp(np.array([1000.0, 1000.0])), 6))
    1000.693147
    """
    largest = np.max(values, axis=axis, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        result = np.log(np.sum(np.exp(values - shift), axis=axis, keepdims=True)) + shift
    if keepdims:
        return result
    return np.squeeze(result, axis=tuple(range(np.ndim(values))) if axis is None else axis)


def log_softmax(values: Any, axis: Any = None) -> Any:
    """``log(softmax(values))`` along axes; see :func:`logsumexp`.

    Examples
    --------
    >>> np.exp(log_softmax(np.array([0.0, 0.0])))
    array([0.5, 0.5])
    """
    return values - logsumexp(values, axis, keepdims=True)


def softmax(values: Any, axis: Any = None) -> Any:
    """``exp(values) / sum(exp(values))`` along axes without overflow, on every engine.

    Examples
    --------
    >>> softmax(np.array([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    largest = np.max(values, axis=axis, keepdims=True)
    weights = np.exp(values - np.where(np.isfinite(largest), largest, 0.0))
    return weights / np.sum(weights, axis=axis, keepdims=True)


# --- the same along any axis: a dual number's buffer has its partials in front of the rows ---------


def sum_along(values: Array, offsets: Array, axis: int) -> Array:
    """Segment sums along ``axis``."""
    if values.ndim == 2 and axis == 0 and values.dtype == np.float64:
        return weighted_sum(np.ones(values.shape[0]), values, offsets)
    return _reduce_along(np.add, 0.0, values, offsets, axis)


def max_along(values: Array, offsets: Array, axis: int) -> Array:
    """Segment maxima along ``axis``; complex numbers are ordered by their real part alone."""
    return _reduce_along(np.maximum, -np.inf, values.real, offsets, axis)


def first_largest(values: Array, offsets: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Row of the first largest entry of each segment, (N, ...), and which segments have rows at all, (N,)."""
    n = values.shape[0]
    hits = (values.real == repeat_along(max_along(values, offsets, 0), offsets, 0)) | np.isnan(values)
    rows = np.where(hits, np.arange(n).reshape((-1,) + (1,) * (values.ndim - 1)), n)
    first = _reduce_along(np.minimum, 0, rows, offsets, 0)
    return first, np.diff(offsets) > 0


def repeat_along(values: Array, offsets: Array, axis: int) -> Array:
    """Repeat entries along ``axis``."""
    return np.repeat(values, np.diff(offsets), axis=axis)


def softmax_along(values: Array, offsets: Array, axis: int) -> Array:
    """Shares within segments along ``axis``."""
    shares = values - repeat_along(max_along(values, offsets, axis), offsets, axis)
    np.exp(shares, out=shares)
    shares /= repeat_along(_reduce_along(np.add, 0.0, shares, offsets, axis), offsets, axis)
    return shares


def weighted_sum(weights: Array, values: Array, offsets: Array) -> Array:
    """``out[i] = sum over the rows j of segment i of weights[j] * values[j]`` for (n, k) values.

    A sparse product reads ``values`` once and makes no temporary of its size; ``np.add.reduceat``
    along the first axis takes four times as long.
    """
    from scipy.sparse import csr_array

    n = values.shape[0]
    indicator = csr_array((weights, np.arange(n), offsets), shape=(offsets.size - 1, n))
    product: Array = indicator @ values
    return product


def _reduce_along(ufunc: np.ufunc, empty: float, values: Array, offsets: Array, axis: int) -> Array:
    starts = offsets[:-1]
    filled = offsets[1:] > starts
    if filled.all() and starts.size:
        reduced: Array = ufunc.reduceat(values, starts, axis=axis)
        return reduced
    # reduceat answers an empty segment with the next row: leave such segments out
    shape = list(values.shape)
    shape[axis] = starts.size
    out = np.full(shape, empty, dtype=values.dtype)
    if filled.any():
        place = (slice(None),) * axis + (filled,)
        out[place] = ufunc.reduceat(values, starts[filled], axis=axis)
    return out


def _checked(values: ArrayLike, offsets: ArrayLike) -> tuple[Array, Array]:
    rows, bounds = np.asarray(values), np.asarray(offsets)
    if rows.dtype.kind not in "fc":
        rows = rows.astype(np.float64)
    if rows.ndim == 0 or bounds.ndim != 1 or bounds.size == 0 or bounds[-1] != rows.shape[0]:
        last = bounds.ravel()[-1] if bounds.size else "nothing"
        raise _misfit("a ragged primitive", rows.shape[0] if rows.ndim else 0, f"offsets that end at {last}")
    return rows, bounds


def _misfit(what: str, rows: int, other: str) -> DataError:
    return DataError(
        Complaint(
            "E320", f"{what} got {rows} rows and {other}", next="offsets start at 0 and end at the rows"
        )
    )
