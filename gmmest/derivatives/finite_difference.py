"""Finite differences and complex steps: the functions run as they are, on shifted arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmmest.derivatives import derived
from gmmest.derivatives.forward import as_numbers
from gmmest.errors import Complaint, DerivativeError

__all__ = [
    "ComplexStepFunction",
    "DifferenceFunction",
    "complex_step_jacobian",
    "difference_jacobian",
]

Array = NDArray[np.float64]
Bounds = tuple[ArrayLike, ArrayLike]

EPSILON = float(np.finfo(np.float64).eps)
COMPLEX_STEP = 1e-30
ONE_SIDED, CENTRAL, SECOND = EPSILON**0.5, EPSILON ** (1.0 / 3.0), EPSILON**0.25


class DifferenceFunction:
    """A function prepared for differences; see :class:`gmmest.derivatives.backends.Prepared`."""

    def __init__(
        self,
        function: Callable[..., Any],
        central: bool = False,
        typical: ArrayLike = 1.0,
        bounds: Bounds | None = None,
    ) -> None:
        self.function = function
        self.central = central
        self.typical = typical
        self.bounds = bounds
        self.name = "fd-central" if central else "fd"

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and Jacobian, see :func:`difference_jacobian`."""
        return difference_jacobian(
            self.function, x, *constants, central=self.central, typical=self.typical, bounds=self.bounds
        )

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        """Value and ``v -> v'J``, made from the Jacobian."""
        return derived.value_and_vjp(self, x, constants)

    def hessian(self, x: Array, *constants: Any) -> Array:
        """Central differences of central gradients, both with steps eps^(1/4): error O(eps^(1/2))."""

        def jacobian(point: Array, *rest: Any) -> Array:
            return _jacobian(self.function, point, rest, SECOND, True, self.typical, self.bounds)[1]

        second = _jacobian(jacobian, x, constants, SECOND, True, self.typical, self.bounds)[1]
        swapped = np.reshape(second, (*second.shape[: second.ndim - 2 * x.ndim], x.size, x.size))
        return np.reshape(0.5 * (swapped + np.swapaxes(swapped, -1, -2)), second.shape)


class ComplexStepFunction:
    """A function prepared for complex steps; see :class:`gmmest.derivatives.backends.Prepared`."""

    name = "complex"

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and Jacobian, see :func:`complex_step_jacobian`."""
        return complex_step_jacobian(self.function, x, *constants)

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        """Value and ``v -> v'J``, made from the Jacobian."""
        return derived.value_and_vjp(self, x, constants)

    def value_and_jvp(self, x: Array, tangent: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and ``J t`` from one complex evaluation."""
        value = as_numbers(self.function(x.copy(), *constants))
        return value, _imaginary(self.function, x + 1j * COMPLEX_STEP * tangent, constants)


def difference_jacobian(
    function: Callable[..., Any],
    x: Array,
    *constants: Any,
    central: bool,
    typical: ArrayLike = 1.0,
    bounds: Bounds | None = None,
) -> tuple[Array, Array]:
    """Value and Jacobian by differences.

    One-sided: ``(f(x + h e) - f(x)) / h`` with ``h = eps^(1/2) max(|x|, typical)``, error O(h);
    central: ``(f(x + h e) - f(x - h e)) / 2h`` with ``h = eps^(1/3) max(|x|, typical)``, error
    O(h^2).  Steps are made exactly representable, and point away from zero.  Where a step would
    leave the bounds the other side is taken; a central difference at a bound uses the three points
    ``x, x + h, x + 2h`` on the inner side, which keeps the error O(h^2).

    Parameters
    ----------
    function : callable
    x : array
    *constants
    central : bool
    typical : float or array of the shape of x
        Magnitude below which a parameter counts as small.
    bounds : (lower, upper), optional
        Each a number or an array of the shape of x; no evaluation lies outside.

    Returns
    -------
    value : array
    jacobian : array (*value.shape, *x.shape)
        Cost: ``x.size`` evaluations one-sided, twice that central, and one for the value.

    Raises
    ------
    DerivativeError
        E614: a point outside its bounds, or bounds too close together for a step.

    References
    ----------
    Gill, P., W. Murray and M. Wright (1981), *Practical Optimization*, section 8.6.

    Examples
    --------
    >>> value, slope = difference_jacobian(np.log, np.array([0.5]), central=True, bounds=(0.0, 0.5))
    >>> bool(abs(slope[0, 0] - 2.0) < 1e-8)
    True
    """
    relative = CENTRAL if central else ONE_SIDED
    return _jacobian(function, x, constants, relative, central, typical, bounds)


def complex_step_jacobian(function: Callable[..., Any], x: Array, *constants: Any) -> tuple[Array, Array]:
    """Value and Jacobian by ``Im f(x + ih e) / h`` with h = 1e-30: exact to rounding, no subtraction.

    The function must be analytic and written so that complex numbers pass through it (no
    ``abs``, no comparison that they enter, no function that conjugates).

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
    value = as_numbers(function(x.copy(), *constants))
    columns = []
    for i in range(x.size):
        shifted = x.astype(np.complex128)
        shifted.flat[i] += 1j * COMPLEX_STEP
        columns.append(_imaginary(function, shifted, constants))
    return value, _stacked(columns, value, x)


def _jacobian(
    function: Callable[..., Any],
    x: Array,
    constants: tuple[Any, ...],
    relative: float,
    central: bool,
    typical: ArrayLike,
    bounds: Bounds | None,
) -> tuple[Array, Array]:
    value = as_numbers(function(x.copy(), *constants))
    sizes = relative * np.maximum(np.abs(x), np.broadcast_to(typical, x.shape))
    low, high = (np.broadcast_to(b, x.shape) for b in (bounds or (-np.inf, np.inf)))
    columns = []
    for i in range(x.size):
        at, steps = x.flat[i], _steps(x.flat[i], sizes.flat[i], low.flat[i], high.flat[i], central, i)
        values = []
        for step in steps:
            shifted = x.copy()
            shifted.flat[i] = at + step
            values.append(as_numbers(function(shifted, *constants)))
        columns.append(_quotient(value, values, [(at + step) - at for step in steps]))
    return value, _stacked(columns, value, x)


def _steps(at: float, size: float, low: float, high: float, central: bool, i: int) -> tuple[float, ...]:
    """Where to evaluate: one step; or two, on both sides or, near a bound, on the inner one."""
    if not low <= at <= high:
        raise DerivativeError(
            Complaint("E614", f"parameter {i} is {at:.6g}, outside its bounds [{low:.6g}, {high:.6g}]")
        )
    outward = size if at >= 0 else -size
    if central and low <= at - size and at + size <= high:
        return size, -size
    count = 2 if central else 1
    for step in (outward, -outward):
        if low <= at + count * step <= high:
            return (step, 2.0 * step) if central else (step,)
    raise DerivativeError(
        Complaint(
            "E614",
            f"parameter {i} has bounds [{low:.6g}, {high:.6g}], too close together for a difference step of {size:.2g}",
            next="fix the parameter, choose a smaller typical size, or an exact backend",
        )
    )


def _quotient(value: Array, values: list[Array], steps: list[float]) -> Array:
    if len(steps) == 1:
        return (values[0] - value) / steps[0]
    h, k = steps
    if h * k < 0:
        quotient: Array = (values[0] - values[1]) / (h - k)
        return quotient
    # the derivative at 0 of the parabola through (0, f), (h, f_h), (k, f_k)
    return ((values[0] - value) * (k / h) - (values[1] - value) * (h / k)) / (k - h)


def _imaginary(function: Callable[..., Any], point: Any, constants: tuple[Any, ...]) -> Any:
    result = function(point, *constants)
    if isinstance(result, (tuple, list, dict)) or result is None:
        as_numbers(result)
    return np.imag(np.asarray(result)) / COMPLEX_STEP


def _stacked(columns: list[Any], value: Array, x: Array) -> Array:
    if not columns:
        return np.zeros(value.shape + x.shape)
    stacked: Array = np.stack(columns, axis=-1).reshape(value.shape + x.shape)
    return stacked
