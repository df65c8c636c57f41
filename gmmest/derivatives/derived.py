"""Verbs that an engine may lack, made from those that every engine has.

A prepared function has ``value_and_jacobian`` and ``value_and_vjp``.  It may also have
``value_and_jvp(x, t, *rest)``, ``hessian(x, *rest)`` and ``hvp(x, t, *rest)``; where it has not,
products are made from the Jacobian and second derivatives from central differences of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["hessian", "hvp", "value_and_jvp", "value_and_vjp"]


def value_and_vjp(engine: Any, x: Any, rest: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    """Value and ``v -> v'J``, made from the Jacobian: for engines that have no shorter way."""
    value, jacobian = engine.value_and_jacobian(x, *rest)
    return value, lambda v: np.tensordot(v, jacobian, np.ndim(v))


def value_and_jvp(engine: Any, x: Any, tangent: Any, rest: tuple[Any, ...]) -> tuple[Any, Any]:
    """Value and ``J t``."""
    own = getattr(engine, "value_and_jvp", None)
    if own is not None:
        value, product = own(x, tangent, *rest)
        return value, product
    value, jacobian = engine.value_and_jacobian(x, *rest)
    return value, np.tensordot(jacobian, tangent, np.ndim(tangent))


def hessian(engine: Any, x: Any, rest: tuple[Any, ...]) -> Any:
    """Second derivatives ``(*value.shape, *x.shape, *x.shape)``, symmetric up to the engine's error."""
    own = getattr(engine, "hessian", None)
    if own is not None:
        return own(x, *rest)
    from gmmest.derivatives.finite_difference import difference_jacobian

    return difference_jacobian(
        lambda point, *others: engine.value_and_jacobian(point, *others)[1], x, *rest, central=True
    )[1]


def hvp(engine: Any, x: Any, tangent: Any, rest: tuple[Any, ...]) -> Any:
    """Derivative of the Jacobian along a tangent, ``(*value.shape, *x.shape)``."""
    own = getattr(engine, "hvp", None)
    if own is not None:
        return own(x, tangent, *rest)
    return np.tensordot(hessian(engine, x, rest), tangent, np.ndim(tangent))
