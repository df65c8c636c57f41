"""The derivative backends: frozen options, each with one verb, ``prepare``.

``backend.prepare(function)`` returns a :class:`Prepared` function whose methods give value and
Jacobian, and value and vector-Jacobian product, with respect to the first argument; whatever
follows it is constant.  What is compiled or kept lives and dies with the prepared function.

================ ==================================================== ======================
name             backend                                              Jacobian (M, P) costs
================ ==================================================== ======================
``fd``           ``FiniteDifference()``                               P evaluations
``fd-central``   ``FiniteDifference(central=True)``                   2P evaluations
``complex``      ``ComplexStep()``                                    P complex evaluations
``forward``      ``ForwardDual()``                                    one on (P+1)-fold arrays
``jax``          ``Jax()``                                            M reverse sweeps
``jax-forward``  ``Jax(mode="forward")``                              P forward sweeps
``analytic``     ``Analytic()``                                       as written by hand
``auto``         ``Auto()``                                           analytic, else forward
================ ==================================================== ======================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.analytic import DifferentiableFunction
from gmmest.derivatives.forward import ForwardFunction
from gmmest.errors import Complaint, ConfigError, DerivativeError, nearest

__all__ = [
    "BACKENDS",
    "Analytic",
    "Auto",
    "Backend",
    "ComplexStep",
    "FiniteDifference",
    "ForwardDual",
    "Jax",
    "Prepared",
    "as_backend",
    "for_many_rows",
]

Array = NDArray[np.float64]
Function = Callable[..., Any]


class Prepared(Protocol):
    """A function with its derivatives; what ``prepare`` returns."""

    @property
    def name(self) -> str:
        """Name of the engine that makes the derivatives."""

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """``f(x)`` and its Jacobian, of shape ``(*f(x).shape, *x.shape)``."""

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        """``f(x)`` and the function ``v -> v'J``, of the shape of ``x``."""


class Backend(Protocol):
    """A way to make derivatives."""

    @property
    def name(self) -> str:
        """The name that a configuration uses."""

    @property
    def exact(self) -> bool:
        """Whether its derivatives are exact to rounding."""

    @property
    def whole(self) -> bool:
        """Whether it compiles for a shape and so wants the data in one block."""

    def prepare(self, function: Function) -> Prepared:
        """Bind to a function of which the first argument is active."""


@dataclass(frozen=True, slots=True)
class FiniteDifference:
    """Differences, one-sided or central (see :func:`.finite_difference.difference_jacobian`).

    Parameters
    ----------
    central : bool
        Two evaluations a parameter, about ten correct digits instead of seven.
    typical : float or tuple of float
        Magnitude below which a parameter counts as small when its step is chosen; one for all, or
        one for each parameter.
    bounds : (lower, upper), optional
        Each a number or a tuple with one number a parameter; no evaluation lies outside.
    """

    central: bool = False
    typical: float | tuple[float, ...] = 1.0
    bounds: tuple[float | tuple[float, ...], float | tuple[float, ...]] | None = None
    exact: ClassVar[bool] = False
    whole: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """``fd`` or ``fd-central``."""
        return "fd-central" if self.central else "fd"

    def prepare(self, function: Function) -> Prepared:
        """Bind to a function."""
        from gmmest.derivatives.finite_difference import DifferenceFunction

        return DifferenceFunction(function, self.central, self.typical, self.bounds)


@dataclass(frozen=True, slots=True)
class ComplexStep:
    """Complex steps: exact for analytic functions (see :func:`.finite_difference.complex_step_jacobian`)."""

    name: ClassVar[str] = "complex"
    exact: ClassVar[bool] = True
    whole: ClassVar[bool] = False

    def prepare(self, function: Function) -> Prepared:
        """Bind to a function."""
        from gmmest.derivatives.finite_difference import ComplexStepFunction

        return ComplexStepFunction(function)


@dataclass(frozen=True, slots=True)
class ForwardDual:
    """Forward mode with dual numbers in plain NumPy (see :class:`.dual.DualArray`).

    Parameters
    ----------
    chunk : int, optional
        Partials carried at once; by default all, fewer when memory asks for it.
    product_rule : bool
        Whether ``D.T @ s`` is one matrix product for value and partials.  Off, it is worked out
        entry by entry: for the benchmark that shows what the rule is worth.
    """

    chunk: int | None = None
    product_rule: bool = True
    name: ClassVar[str] = "forward"
    exact: ClassVar[bool] = True
    whole: ClassVar[bool] = False

    def prepare(self, function: Function) -> Prepared:
        """Bind to a function."""
        return ForwardFunction(function, self.chunk, self.product_rule)


@dataclass(frozen=True, slots=True)
class Jax:
    """JAX on the same plain-NumPy function (see :mod:`.jax_bridge`).

    Parameters
    ----------
    mode : {"reverse", "forward"}
        Reverse mode suits a scalar of many parameters, forward mode a Jacobian with many rows.
    """

    mode: Literal["reverse", "forward"] = "reverse"
    exact: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """``jax`` or ``jax-forward``."""
        return "jax" if self.mode == "reverse" else "jax-forward"

    def prepare(self, function: Function) -> Prepared:
        """Bind to a function; it is traced and compiled at the first call of each shape."""
        from gmmest.derivatives.jax_bridge import JaxFunction

        return JaxFunction(function, self.mode)


@dataclass(frozen=True, slots=True)
class Analytic:
    """The derivative that was written by hand, refused where there is none."""

    name: ClassVar[str] = "analytic"
    exact: ClassVar[bool] = True
    whole: ClassVar[bool] = False

    def prepare(self, function: Function) -> Prepared:
        """The function itself, if it knows its derivative."""
        if isinstance(function, DifferentiableFunction) and function.has_jacobian:
            return function
        name = getattr(function, "__qualname__", repr(function))
        raise DerivativeError(
            Complaint(
                "E607",
                f"grad 'analytic' was asked for, but {name} has no derivative written by hand",
                next="give it one with gmmest.with_derivative(f, jacobian=...), or choose 'forward' or 'jax'",
            )
        )


@dataclass(frozen=True, slots=True)
class Auto:
    """The hand-written derivative if there is one, else forward dual numbers; reverse mode for long gradients.

    Gradients and vector-Jacobian products of a function of :data:`REVERSE_FROM` parameters or more
    come from JAX in reverse mode, where JAX can follow the function.  Forward duals cost P/4 to P/2
    evaluations there, against 2 to 4 in reverse and half a second to compile.
    """

    name: ClassVar[str] = "auto"
    exact: ClassVar[bool] = True
    whole: ClassVar[bool] = False

    def prepare(self, function: Function) -> Prepared:
        """Bind to a function."""
        if isinstance(function, DifferentiableFunction) and function.has_jacobian:
            return function
        return AutoFunction(function)


REVERSE_FROM = 256
"""Parameters from which reverse mode is worth its compilation: forward takes about 100 evaluations there."""


class AutoFunction:
    """A function without a derivative of its own: see :class:`Auto`."""

    def __init__(self, function: Function, forward: Any = None) -> None:
        self.function = function
        plain = function.function if isinstance(function, DifferentiableFunction) else function
        self.forward: Any = forward or ForwardDual().prepare(plain)
        self.name = self.forward.name
        self._reverse: Any = None
        self._refused = False

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and Jacobian by forward duals."""
        return self.forward.value_and_jacobian(x, *constants)  # type: ignore[no-any-return]

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        """Value and ``v -> v'J``: hand-written, forward, or reverse."""
        if isinstance(self.function, DifferentiableFunction) and self.function.pullback is not None:
            return self.function.value_and_vjp(x, *constants)
        if x.size >= REVERSE_FROM and type(x) is np.ndarray and not self._refused:
            try:
                self._reverse = self._reverse or Jax().prepare(self.function)
                return self._reverse.value_and_vjp(x, *constants)  # type: ignore[no-any-return]
            except (DerivativeError, ImportError):  # a branch on values: forward follows it
                self._refused = True
        return self.forward.value_and_vjp(x, *constants)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "value_and_gradient":  # which engine, value_and_vjp decides
            raise AttributeError(name)
        return getattr(self.forward, name)

    def specialised(self, x: Array, *constants: Any) -> AutoFunction:
        """The same for arguments of these shapes."""
        return AutoFunction(self.function, self.forward.specialised(x, *constants))


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Auto(),
        Analytic(),
        ForwardDual(),
        Jax(),
        Jax(mode="forward"),
        ComplexStep(),
        FiniteDifference(),
        FiniteDifference(central=True),
    )
}
"""The backends that have a name, under it."""


def for_many_rows(backend: str | Backend) -> Backend:
    """The same engine for a Jacobian with more rows than columns: JAX goes forward, a sweep a column.

    Examples
    --------
    >>> for_many_rows("jax")
    Jax(mode='forward')
    """
    chosen = as_backend(backend)
    return Jax(mode="forward") if chosen == Jax() else chosen


def as_backend(backend: str | Backend) -> Backend:
    """A backend from its name; a backend passes through.

    Examples
    --------
    >>> as_backend("fd-central")
    FiniteDifference(central=True, typical=1.0, bounds=None)
    """
    if not isinstance(backend, str):
        if hasattr(backend, "prepare"):
            return backend
        raise ConfigError(
            Complaint("E102", f"grad is {backend!r}; a name or a backend with prepare() was expected")
        )
    if backend in BACKENDS:
        return BACKENDS[backend]
    what = f"grad {backend!r} is not known; expected one of {', '.join(BACKENDS)}"
    raise ConfigError(Complaint("E102", what, next=nearest(backend, BACKENDS)))
