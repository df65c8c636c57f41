"""Rules of one's own: functions whose derivative is given, on every engine; roots of equations.

A :class:`Primitive` runs as it is where nothing is differentiated, and under finite differences.
Elsewhere its rule is asked:

==============  ============================================================================
dual numbers    the rule once for each partial, on plain arrays (on dual numbers if nested)
complex step    value at the real parts, rule along the imaginary parts
JAX             function and rule are traced; what cannot be traced is called back from
                compiled code, its Jacobian put together from the rule
==============  ============================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gmmest.derivatives import operators
from gmmest.derivatives.arguments import is_traced
from gmmest.derivatives.dual import DualArray, Level, leading_level
from gmmest.derivatives.rules.elementwise import join
from gmmest.errors import Complaint, DerivativeError

__all__ = ["Primitive", "implicit_root", "primitive"]


class Primitive:
    """A function with a rule for its derivative; made by :func:`primitive`."""

    def __init__(self, function: Callable[..., Any], shape: Callable[..., Any] | None = None) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.shape = shape
        self.jvp: Callable[..., Any] | None = None
        self.vjp: Callable[..., Any] | None = None
        self.rows: Callable[..., Any] | None = None

    def def_jvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Give the tangent rule ``rule(value, args, tangents)``; returns it, so that it decorates.

        ``value`` is the function's result, ``args`` its arguments, ``tangents`` one array for each
        argument (zeros where it is constant; None where it is not numeric).  The rule returns the
        tangent of the value, ``sum_i (df/dargs_i) tangents_i``, of the value's shape.  For second
        derivatives it must be plain NumPy itself.
        """
        self.jvp = rule
        return rule

    def def_vjp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Give the cotangent rule ``rule(value, args, cotangent)``; returns it, so that it decorates.

        The rule returns a tuple with, for each argument, ``cotangent' (df/dargs_i)`` of the
        argument's shape, or None.  Alone it is enough; beside ``def_jvp`` it is used where there
        are fewer outputs than inputs.
        """
        self.vjp = rule
        return rule

    def __call__(self, *args: Any) -> Any:
        """The function's value, and its derivative where one is being made."""
        if any(is_traced(a) for a in args):
            from gmmest.derivatives.jax_primitive import call_traced

            return call_traced(self, args)
        if any(isinstance(a, DualArray) for a in args):
            return self._dual(leading_level(args), *args)
        if any(np.iscomplexobj(a) for a in args if isinstance(a, (np.ndarray, complex, np.generic))):
            return self._complex(args)
        return self.function(*args)

    def tangent(self, value: Any, args: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        """Tangent of the value, by the rule that there is."""
        if self.jvp is not None:
            return self.jvp(value, args, tangents)
        if self.vjp is None:
            raise DerivativeError(
                Complaint(
                    "E609",
                    f"the primitive {self.__name__} has no rule for its derivative",
                    next=f"give it one: @{self.__name__}.def_jvp on a function rule(value, args, tangents)",
                )
            )
        slopes = []
        for unit in np.eye(int(np.size(value))):
            pulls = self.vjp(value, args, unit.reshape(np.shape(value)))
            slopes.append(
                sum(np.sum(p * t) for p, t in zip(pulls, tangents, strict=True) if not _absent(p, t))
            )
        return np.reshape(np.stack(slopes), np.shape(value)) if slopes else np.zeros(np.shape(value))

    def _dual(self, level: Level, *args: Any) -> Any:
        values = tuple(level.value(a) for a in args)
        value = self(*values)
        value = value if isinstance(value, DualArray) else np.asarray(value, dtype=np.float64)
        active = [level.owns(a) for a in args]
        if self.rows is not None:
            parts = tuple(a.buffer[1:] if own else None for a, own in zip(args, active, strict=True))
            return join(value, self.rows(value, values, parts, level.size), level)
        zeros = [None if own else _zero(v) for own, v in zip(active, values, strict=True)]
        tangents = []
        for k in range(1, level.size + 1):
            along = tuple(
                a.buffer[k, ...] if own else z for a, own, z in zip(args, active, zeros, strict=True)
            )
            tangents.append(self._checked(self.tangent(value, values, along), value))
        return join(value, np.stack(tangents), level)

    def _complex(self, args: tuple[Any, ...]) -> Any:
        parts = [(np.real(a), np.imag(a)) if _numeric(a) else (a, None) for a in args]
        values = tuple(real for real, _ in parts)
        value = np.asarray(self.function(*values), dtype=np.float64)
        # steps are tiny: the rule sees tangents of ordinary size, so that a solver's tolerance does no harm
        size = max((float(np.max(np.abs(i), initial=0.0)) for _, i in parts if i is not None), default=0.0)
        scale = size or 1.0
        along = tuple(None if i is None else i / scale for _, i in parts)
        return value + 1j * scale * self._checked(self.tangent(value, values, along), value)

    def _checked(self, tangent: Any, value: Any) -> Any:
        if np.shape(tangent) != np.shape(value):
            raise DerivativeError(
                Complaint(
                    "E609",
                    f"the rule of {self.__name__} returned a tangent of shape {np.shape(tangent)};"
                    f" {np.shape(value)}, the shape of the value, was expected",
                )
            )
        return tangent

    __name__: str


def primitive(function: Callable[..., Any] | None = None, *, shape: Callable[..., Any] | None = None) -> Any:
    """Make a function whose derivative is a rule of one's own, for every engine.

    Parameters
    ----------
    function : callable
        Of positional arguments, to one array or number; NumPy, SciPy, compiled code, a solver.
    shape : callable, optional
        ``shape(*shapes of the arguments)`` of the result.  Only JAX asks, and only where it cannot
        trace the function; by default the shape of the first argument.

    Returns
    -------
    Primitive
        Call it like the function; give the rule with ``def_jvp`` or ``def_vjp``.

    Raises
    ------
    DerivativeError
        E609, when it is differentiated: no rule, or one that returns another shape.

    References
    ----------
    Griewank, A. and A. Walther (2008), *Evaluating Derivatives*, section 13.3 (library functions).

    Examples
    --------
    >>> from gmmest.derivatives.operators import jacobian
    >>> @primitive
    ... def cube(x):
    ...     return x * x * x
    >>> @cube.def_jvp
    ... def _(value, args, tangents):
    ...     return 3 * args[0] ** 2 * tangents[0]
    >>> jacobian(lambda x: 2 * cube(x), np.array([1.0, 2.0]))
    array([[ 6.,  0.],
           [ 0., 24.]])
    """
    if function is None:
        return lambda f: Primitive(f, shape)
    return Primitive(function, shape)


def implicit_root(residual: Callable[..., Any], solver: Callable[..., Any]) -> Primitive:
    """The root x of ``residual(x, *args) = 0`` as a differentiable function of ``args``.

    By the implicit function theorem ``dx = -(dF/dx)^-1 (dF/dargs) dargs`` at the root: the solver
    is not differentiated, only asked for the root, so that it may be anything: a contraction, a
    Newton solve, a call of scipy.optimize.

    Parameters
    ----------
    residual : callable
        ``F(x, *args)`` in plain NumPy, of the shape of x.
    solver : callable
        ``solver(*args)`` returns x, to rounding: the derivative is that of the exact root, and an
        error of size e in x makes one of order e in the derivative.

    Returns
    -------
    Primitive
        ``root(*args) -> x``.  Cost of K partials: the solver once, the Jacobian of F with respect to
        x, one sweep with K partials for its derivative with respect to args, one factorisation.

    Raises
    ------
    DerivativeError
        E609: the Jacobian of the residual is singular at the root.

    References
    ----------
    Krantz, S. and H. Parks (2013), *The Implicit Function Theorem*, theorem 3.3.1.

    Examples
    --------
    >>> from gmmest.derivatives.operators import derivative
    >>> def solve(a):
    ...     x = np.ones_like(a)
    ...     for _ in range(60):
    ...         x = 0.5 * (x + a / x)
    ...     return x
    >>> root = implicit_root(lambda x, a: x * x - a, solve)
    >>> float(derivative(root, 4.0))
    0.25
    """
    root = Primitive(solver)
    root.__name__ = getattr(solver, "__name__", "solver")

    def tangent(value: Any, args: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        active = tuple(i + 1 for i, t in enumerate(tangents) if t is not None)
        along = {i: tangents[i - 1] for i in active}
        engine = "forward"
        right = operators.jvp(residual, value, *args, wrt=active, tangent=along, backend=engine)
        return _solved(operators.jacobian(residual, value, *args, wrt=0, backend=engine), right[None], value)[
            0
        ]

    def rows(value: Any, args: tuple[Any, ...], partials: tuple[Any, ...], count: int) -> Any:
        level = Level(count)  # all partials of the arguments go through the residual in one sweep
        duals = [a if p is None else join(a, p, level) for a, p in zip(args, partials, strict=True)]
        try:
            right = residual(value, *duals)
        finally:
            level.open = False
        slopes = right.buffer[1:] if level.owns(right) else np.zeros((count, *np.shape(value)))
        return _solved(operators.jacobian(residual, value, *args, wrt=0, backend="forward"), slopes, value)

    root.jvp, root.rows = tangent, rows
    return root


def _solved(slope: Any, right: Any, value: Any) -> Any:
    """``-slope^-1 right`` for every row of right; x may have any shape."""
    size = int(np.size(value)) if not isinstance(value, DualArray) else value.size
    flat = np.transpose(np.reshape(right, (right.shape[0], size)))
    try:
        columns = np.linalg.solve(np.reshape(slope, (size, size)), flat)
    except np.linalg.LinAlgError:
        raise DerivativeError(
            Complaint(
                "E609",
                "the Jacobian of the residual is singular at the root: the implicit function theorem does not hold",
                next="look at the residual there: a double root, or equations that depend on each other",
            )
        ) from None
    return np.reshape(-np.transpose(columns), right.shape)


def _numeric(a: Any) -> bool:
    return isinstance(a, (np.ndarray, float, int, complex, np.number)) and np.asarray(a).dtype.kind in "fciu"


def _zero(a: Any) -> Any:
    return np.zeros(np.shape(a)) if isinstance(a, DualArray) or _numeric(a) else None


def _absent(pull: Any, tangent: Any) -> bool:
    return pull is None or tangent is None
