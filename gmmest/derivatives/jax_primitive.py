"""Primitives under JAX: custom rules, and calls back to Python for what cannot be traced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmmest.derivatives.jax_array import VALUE_DEPENDENT, NeedsConcrete, TracedArray, _origins, bare
from gmmest.errors import DerivativeError

__all__ = ["call_traced"]

_CANNOT = (DerivativeError, NeedsConcrete, TypeError, ValueError, AttributeError, *VALUE_DEPENDENT)
"""How a function says that it cannot be traced."""


def call_traced(primitive: Any, args: tuple[Any, ...]) -> TracedArray:
    """The primitive's value, with its rule attached as ``jax.custom_jvp``."""
    numeric = [i for i, a in enumerate(args) if _is_numeric(a)]
    arrays = [jnp.asarray(bare(args[i])) for i in numeric]
    shape = _shape(primitive, args)  # outside: a view must not be read within another trace

    def whole(parts: Any, wrap: bool) -> tuple[Any, ...]:
        given = list(args)
        for i, part in zip(numeric, parts, strict=True):
            given[i] = TracedArray(part) if wrap else np.asarray(part)
        return tuple(given)

    @jax.custom_jvp
    def value(*parts: Any) -> Any:
        try:
            result = bare(primitive.function(*whole(parts, True)))
            return jnp.asarray(result, dtype=jnp.float64)
        except _CANNOT:
            spec = jax.ShapeDtypeStruct(shape, np.float64)  # type: ignore[no-untyped-call]
            return jax.pure_callback(
                lambda *real: np.asarray(primitive.function(*whole(real, False)), np.float64).reshape(shape),
                spec,
                *parts,
                vmap_method="sequential",
            )

    @value.defjvp
    def _rule(parts: Any, along: Any) -> Any:
        result = value(*parts)
        floats = [jnp.issubdtype(p.dtype, jnp.floating) for p in parts]
        along = [t if own else jnp.zeros(p.shape) for p, t, own in zip(parts, along, floats, strict=True)]
        try:
            tangents: list[Any] = [None] * len(args)
            for i, t in zip(numeric, along, strict=True):
                tangents[i] = TracedArray(t)
            tangent = bare(primitive.tangent(TracedArray(result), whole(parts, True), tuple(tangents)))
            return result, jnp.asarray(tangent, dtype=jnp.float64)
        except _CANNOT:
            return result, _by_jacobian(primitive, whole, numeric, result, parts, along, floats)

    return TracedArray(value(*arrays), _origins(args))


def _by_jacobian(
    primitive: Any, whole: Any, numeric: list[int], result: Any, parts: Any, along: Any, floats: list[bool]
) -> Any:
    """The rule called back for every unit tangent; the product stays in JAX, which can transpose it."""

    def jacobians(host_value: Any, *real: Any) -> tuple[Any, ...]:
        args = whole(real, False)
        made = []
        for place, own in zip(numeric, floats, strict=True):
            shape = np.shape(args[place])
            columns = []
            for unit in np.eye(int(np.prod(shape))) if own else ():
                tangents = [np.zeros(np.shape(a)) if i in numeric else None for i, a in enumerate(args)]
                tangents[place] = unit.reshape(shape)
                columns.append(primitive.tangent(np.asarray(host_value), args, tuple(tangents)))
            full = np.stack(columns, axis=-1) if columns else np.zeros((*np.shape(host_value), 0))
            made.append(full.reshape(np.shape(host_value) + (shape if own else (0,))))
        return tuple(made)

    specs = tuple(
        jax.ShapeDtypeStruct(result.shape + (p.shape if own else (0,)), np.float64)  # type: ignore[no-untyped-call]
        for p, own in zip(parts, floats, strict=True)
    )
    slopes = jax.pure_callback(jacobians, specs, result, *parts, vmap_method="sequential")
    total = jnp.zeros(result.shape)
    for slope, t, own in zip(slopes, along, floats, strict=True):
        if own:
            total = total + jnp.tensordot(slope, t, axes=t.ndim)
    return total


def _is_numeric(a: Any) -> bool:
    if isinstance(a, TracedArray):
        return True
    return isinstance(a, (np.ndarray, float, int, np.number)) and not isinstance(a, bool)


def _shape(primitive: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    shapes = [np.shape(bare(a)) if _is_numeric(a) else () for a in args]
    found = primitive.shape(*shapes) if primitive.shape is not None else shapes[0]
    return tuple(int(n) for n in np.atleast_1d(found)) if not isinstance(found, tuple) else found
