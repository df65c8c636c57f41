"""Forward mode with dual numbers: value and Jacobian of a function in one sweep, or a few chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.rules import (  # noqa: F401  importing them fills the table
    elementwise,
    product,
    ragged,
    reduction,
    shape,
)
from gmmest.errors import Complaint, DerivativeError

__all__ = ["as_numbers", "forward_jacobian"]

Array = NDArray[np.float64]

BUFFER_BYTES = 64 * 2**20
"""A chunk's buffer of the longest constant's length stays below this; a fixed number, so that chunks
are a function of shapes alone."""


def forward_jacobian(
    function: Callable[..., Any], x: Array, *constants: Any, chunk: int | None = None
) -> tuple[Array, Array]:
    """Value and Jacobian of ``function(x, *constants)`` with respect to ``x``.

    Parameters
    ----------
    function : callable
        Plain NumPy; returns an array or a number.
    x : array
        Point, of any shape.
    *constants
        Passed through untouched: what is constant costs nothing.
    chunk : int, optional
        Partials carried at once; by default all of them, fewer when their memory would be large.

    Returns
    -------
    value : array
    jacobian : array (*value.shape, *x.shape)
        Cost: about one evaluation on buffers of ``chunk + 1`` times the size, per chunk.
    """
    width = chunk or _chunk(x.size, constants)
    pieces: list[Array] = []
    value: Array | None = None
    for start in range(0, max(x.size, 1), width):
        value, partials = _sweep(function, x, start, min(width, x.size - start), constants)
        pieces.append(partials)
    partials = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    assert value is not None  # noqa: S101  the loop above runs at least once
    jacobian = np.moveaxis(partials, 0, -1).reshape(value.shape + x.shape)
    return value, np.ascontiguousarray(jacobian)


def _sweep(
    function: Callable[..., Any], x: Array, start: int, width: int, constants: tuple[Any, ...]
) -> tuple[Any, Any]:
    level = Level(width)
    buffer = np.zeros((width + 1, x.size))
    buffer[0] = x.ravel()
    buffer[np.arange(1, width + 1), np.arange(start, start + width)] = 1.0
    try:
        result = function(DualArray(buffer.reshape((width + 1, *x.shape)), level), *constants)
    finally:
        level.open = False
    if level.owns(result):
        return result.buffer[0, ...], result.buffer[1:]
    value = as_numbers(result)
    return value, np.zeros((width, *value.shape))


def as_numbers(result: Any) -> Any:
    """What a function returned, as a float64 array (or as a dual number of an outer differentiation)."""
    if isinstance(result, DualArray):
        return result
    if isinstance(result, (tuple, list, dict)) or result is None:
        raise DerivativeError(
            Complaint(
                "E606",
                f"the function returned a {type(result).__name__}; one array or number was expected",
                next="np.stack([...]) or np.concatenate([...]) what it computes",
            )
        )
    return np.asarray(result, dtype=np.float64)


def _chunk(size: int, constants: tuple[Any, ...]) -> int:
    longest = max((np.shape(a)[0] for a in arrays_of(constants) if np.ndim(a)), default=1)
    limit = max(1, BUFFER_BYTES // (8 * max(longest, 1)) - 1)
    return max(1, min(size, limit))


def arrays_of(constants: Any) -> list[Any]:
    """The arrays among constants, looked for in the fields of records and in containers too."""
    found: list[Any] = []
    for item in constants:
        if isinstance(item, np.ndarray):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            found.extend(arrays_of(item))
        elif isinstance(item, dict):
            found.extend(arrays_of(item.values()))
        elif hasattr(item, "__dataclass_fields__"):
            found.extend(arrays_of([getattr(item, name) for name in item.__dataclass_fields__]))
    return found
