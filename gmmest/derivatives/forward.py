"""Forward mode with dual numbers: value and Jacobian of a function in one sweep, or a few chunks.

Second derivatives are forward over forward: the derivative of a function that itself opens a
differentiation.  The point may therefore be a dual number of an outer level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives import derived
from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.refusals import refusal_behind
from gmmest.derivatives.rules import elementwise, product, ragged, reduction, shape
from gmmest.errors import Complaint, DerivativeError

__all__ = ["ForwardFunction", "as_numbers", "forward_hessian", "forward_jacobian", "forward_jvp"]

Array = NDArray[np.float64]

RULE_MODULES = (elementwise, product, ragged, reduction, shape)
"""Importing them fills the table of rules."""

BUFFER_BYTES = 64 * 2**20
"""A chunk's buffer of the longest constant's length stays below this; a fixed number, so that chunks
are a function of shapes alone."""


class ForwardFunction:
    """A function prepared for dual numbers; see :class:`gmmest.derivatives.backends.Prepared`.

    Parameters
    ----------
    function : callable
    chunk : int, optional
        Partials carried at once.
    product_rule : bool
        Whether ``D.T @ s`` is one product; off in benchmarks only.
    """

    name = "forward"

    def __init__(
        self, function: Callable[..., Any], chunk: int | None = None, product_rule: bool = True
    ) -> None:
        self.function = function
        self.chunk = chunk
        self.product_rule = product_rule

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and Jacobian, see :func:`forward_jacobian`."""
        return forward_jacobian(
            self.function, x, *constants, chunk=self.chunk, product_rule=self.product_rule
        )

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        """Value and ``v -> v'J``, made from the Jacobian."""
        return derived.value_and_vjp(self, x, constants)

    def value_and_jvp(self, x: Array, tangent: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and ``J t``: one partial."""
        return forward_jvp(self.function, x, tangent, *constants)

    def hessian(self, x: Array, *constants: Any) -> Array:
        """Second derivatives, see :func:`forward_hessian`."""
        return forward_hessian(self.function, x, *constants, chunk=self.chunk)

    def hvp(self, x: Array, tangent: Array, *constants: Any) -> Array:
        """Derivative of the Jacobian along a tangent: two values and two sets of partials."""

        def jacobian(point: Any, *rest: Any) -> Any:
            return forward_jacobian(self.function, point, *rest, chunk=self.chunk)[1]

        return forward_jvp(jacobian, x, tangent, *constants)[1]

    def specialised(self, x: Array, *constants: Any) -> Any:
        """The same for arguments of these shapes: traced once where the function allows it."""
        from gmmest.derivatives.trace import TracedFunction

        return TracedFunction(self, x, constants)


def forward_jacobian(
    function: Callable[..., Any],
    x: Array,
    *constants: Any,
    chunk: int | None = None,
    product_rule: bool = True,
) -> tuple[Array, Array]:
    """Value and Jacobian of ``function(x, *constants)`` with respect to ``x``.

    Parameters
    ----------
    function : callable
        Plain NumPy; returns an array or a number.
    x : array
        Point, of any shape; a dual number where this happens inside another differentiation.
    *constants
        Passed through untouched: what is constant costs nothing.
    chunk : int, optional
        Partials carried at once; by default all of them, fewer when their memory would be large.
    product_rule : bool
        See :class:`ForwardFunction`.

    Returns
    -------
    value : array
    jacobian : array (*value.shape, *x.shape)
        Cost: about one evaluation on buffers of ``chunk + 1`` times the size, per chunk.
    """
    size = x.size
    if size == 1:
        only = _sweep(function, x, _unit_tangents(0, 1, x.shape), constants, product_rule)
        return only[0], only[1].reshape(only[0].shape + x.shape)
    width = size if size == 0 else min(size, chunk or _chunk(size, constants))
    pieces: list[Any] = []
    value: Any = None
    for start in range(0, max(size, 1), max(width, 1)):
        tangents = _unit_tangents(start, min(width, size - start), x.shape)
        value, slopes = _sweep(function, x, tangents, constants, product_rule)
        pieces.append(slopes)
    partials: Any = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    jacobian: Any = np.moveaxis(partials, 0, -1).reshape(value.shape + x.shape)
    if type(jacobian) is not DualArray:
        jacobian = np.ascontiguousarray(jacobian)
    return value, jacobian


def forward_jvp(
    function: Callable[..., Any], x: Array, tangent: Array, *constants: Any
) -> tuple[Array, Array]:
    """Value and directional derivative ``J t``: one sweep with a single partial.

    Returns
    -------
    value : array
    derivative : array (*value.shape)
    """
    value, slopes = _sweep(function, x, tangent[None], constants, True)
    return value, slopes[0, ...]


def forward_hessian(
    function: Callable[..., Any], x: Array, *constants: Any, chunk: int | None = None
) -> Array:
    """Second derivatives by two nested levels, (*value.shape, *x.shape, *x.shape).

    Cost: about one evaluation on buffers of ``(P + 1)^2`` times the size, in chunks of the outer level.
    """
    outer = chunk or max(1, _chunk(x.size * (x.size + 1), constants) // (x.size + 1))

    def jacobian(point: Any, *rest: Any) -> Any:
        return forward_jacobian(function, point, *rest)[1]

    return forward_jacobian(jacobian, x, *constants, chunk=outer)[1]


_ONE = np.ones(1)
_ONE.flags.writeable = False


def _unit_tangents(start: int, width: int, point: tuple[int, ...]) -> Array:
    if width == 1 and not point:
        return _ONE
    tangents = np.zeros((width, *point))
    flat = tangents.reshape(width, -1) if tangents.size else tangents
    flat[np.arange(width), np.arange(start, start + width)] = 1.0
    return tangents


def _is_identity(tangents: Any) -> bool:
    return bool(np.array_equal(tangents, np.eye(len(tangents))))


def _sweep(
    function: Callable[..., Any], x: Any, tangents: Any, constants: tuple[Any, ...], product_rule: bool
) -> tuple[Any, Any]:
    width = tangents.shape[0]
    level = Level(width, product_rule)
    if type(x) is DualArray or type(tangents) is DualArray:
        buffer = np.concatenate([x[None], tangents])
    else:
        buffer = np.empty((width + 1, *x.shape))
        buffer[0] = x
        buffer[1:] = tangents
        if x.ndim == 1 and width == x.size > 1 and _is_identity(tangents):
            level.seed = buffer
    try:
        result = function(DualArray(buffer, level), *constants)
    except (ValueError, TypeError) as error:
        refusal = refusal_behind(error)
        if refusal is None:
            raise
        raise refusal from None
    finally:
        level.open = False
    if type(result) is DualArray and result.level is level:
        return result.buffer[0, ...], result.buffer[1:]
    value = as_numbers(result)
    return value, np.zeros((width, *value.shape))


def as_numbers(result: Any) -> Any:
    """What a function returned, as a float64 array (or as a dual number of an outer differentiation)."""
    if isinstance(result, DualArray):
        return result
    kind = "O" if isinstance(result, (tuple, list, dict)) or result is None else np.asarray(result).dtype.kind
    if kind not in "fiub":
        described = f"{type(result).__name__} of complex numbers" if kind == "c" else type(result).__name__
        raise DerivativeError(
            Complaint(
                "E606",
                f"the function returned a {described}; one array or number was expected",
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
