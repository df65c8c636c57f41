"""Finite differences and complex steps: the functions run as they are, on shifted arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.forward import as_numbers

__all__ = ["complex_step_jacobian", "difference_jacobian"]

Array = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
COMPLEX_STEP = 1e-30


def difference_jacobian(
    function: Callable[..., Any], x: Array, *constants: Any, central: bool, typical: float = 1.0
) -> tuple[Array, Array]:
    """Value and Jacobian by differences.

    One-sided: ``(f(x + h e) - f(x)) / h`` with ``h = eps^(1/2) max(|x|, typical)``, error O(h);
    central: ``(f(x + h e) - f(x - h e)) / 2h`` with ``h = eps^(1/3) max(|x|, typical)``, error
    O(h^2).  Steps are made exactly representable, and point away from zero.

    Parameters
    ----------
    function : callable
    x : array
    *constants
    central : bool
    typical : float
        Magnitude below which a parameter counts as small.

    Returns
    -------
    value : array
    jacobian : array (*value.shape, *x.shape)
        Cost: ``x.size`` evaluations one-sided, twice that central, and one for the value.
    """
    value = as_numbers(function(x, *constants))
    relative = EPSILON ** (1.0 / 3.0 if central else 0.5)
    columns = []
    for i in range(x.size):
        step = relative * max(abs(x.flat[i]), typical) * (1.0 if x.flat[i] >= 0 else -1.0)
        up = x.copy()
        up.flat[i] += step
        if central:
            down = x.copy()
            down.flat[i] -= step
            rise = as_numbers(function(up, *constants)) - as_numbers(function(down, *constants))
            columns.append(rise / (up.flat[i] - down.flat[i]))
        else:
            columns.append((as_numbers(function(up, *constants)) - value) / (up.flat[i] - x.flat[i]))
    return value, _stacked(columns, value, x)


def complex_step_jacobian(function: Callable[..., Any], x: Array, *constants: Any) -> tuple[Array, Array]:
    """Value and Jacobian by ``Im f(x + ih e) / h`` with h = 1e-30: exact to rounding, no subtraction.

    The function must be analytic and written so that complex numbers pass through it (no
    ``abs``, no comparison that they enter).

    Returns
    -------
    value : array
    jacobian : array (*value.shape, *x.shape)
        Cost: ``x.size`` complex evaluations and one real one.

    References
    ----------
    Squire, W. and G. Trapp (1998), "Using complex variables to estimate derivatives of real
    functions", SIAM Review 40, 110-112.
    """
    value = as_numbers(function(x, *constants))
    columns = []
    for i in range(x.size):
        shifted = x.astype(np.complex128)
        shifted.flat[i] += 1j * COMPLEX_STEP
        columns.append(np.imag(function(shifted, *constants)) / COMPLEX_STEP)
    return value, _stacked(columns, value, x)


def _stacked(columns: list[Any], value: Array, x: Array) -> Array:
    if not columns:
        return np.zeros(value.shape + x.shape)
    return np.ascontiguousarray(np.stack(columns, axis=-1).reshape(value.shape + x.shape))
