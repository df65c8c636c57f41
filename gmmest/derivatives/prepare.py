"""Prepared operators: traced, compiled and allocated once, strict about what they get."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from gmmest.derivatives.arguments import Wrt, bind
from gmmest.derivatives.backends import Backend
from gmmest.derivatives.operators import (
    CORES,
    derivative,
    engine_for,
    hvp,
    jacobian,
    jvp,
    value_and_jacobian,
    vjp,
)
from gmmest.errors import Complaint, DerivativeError

__all__ = ["PreparedOperator", "prepare"]


def prepare(
    op: Callable[..., Any],
    f: Callable[..., Any],
    *args: Any,
    wrt: Wrt = 0,
    backend: str | Backend = "auto",
    constants: Mapping[str, Any] | None = None,
    tangent: Any = None,
    cotangent: Any = None,
) -> PreparedOperator:
    """Make an operator ready for many calls with arguments of the same shapes and types.

    Parameters
    ----------
    op : function
        One of the operators: ``gmmest.value_and_jacobian``, ``gmmest.gradient`` ...
    f : callable
    *args
        Example arguments; the prepared operator is called once with them, so that everything is
        traced, compiled and allocated when this returns.
    wrt, backend, constants
        As for the operators; all fixed from here on.
    tangent, cotangent
        An example, for the operators that take one.

    Returns
    -------
    PreparedOperator
        Call it with ``*args`` (and ``tangent=`` or ``cotangent=``).  Safe to share among threads.

    Raises
    ------
    DerivativeError
        E615: ``op`` is not an operator.  Later: E616 for an argument that differs in shape or type.

    Notes
    -----
    What ``f`` reads besides its arguments (globals, closures) counts as fixed from here on: a
    prepared function may or may not see later changes of it.

    Examples
    --------
    >>> from gmmest.derivatives.operators import gradient
    >>> slope = prepare(gradient, lambda b, c: c * (b @ b), np.ones(2), 3.0, backend="forward")
    >>> slope(np.array([1.0, 2.0]), 2.0), slope.evaluations
    (array([4., 8.]), 1)
    """
    core = CORES.get(op)
    if core is None:
        known = ", ".join(key.__name__ for key in CORES)
        raise DerivativeError(
            Complaint("E615", f"{op!r} is not an operator", next=f"expected one of {known}")
        )
    return PreparedOperator(op, core, f, args, wrt, backend, constants, cotangent if op is vjp else tangent)


class PreparedOperator:
    """An operator bound to a function and to shapes; made by :func:`prepare`.

    Attributes
    ----------
    evaluations : int
        Calls so far, the one while preparing not counted.
    build_seconds : float
        Time spent on tracing, compiling and allocating.
    engine : str
        Name of the engine that makes the derivatives.
    """

    def __init__(
        self,
        op: Callable[..., Any],
        core: Any,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        wrt: Wrt,
        backend: str | Backend,
        constants: Mapping[str, Any] | None,
        extra: Any,
    ) -> None:
        start = time.perf_counter()
        self.op = op
        self._extra_name = "cotangent" if op is vjp else "tangent" if op in (jvp, hvp) else ""
        self._core = core
        self._binding, point = bind(f, args, wrt, constants)
        rest = self._binding.rest(args)
        prepared = engine_for(f, self._binding, args, backend)
        specialised = getattr(prepared, "specialised", None)
        self._engine = specialised(point, *rest) if specialised else prepared
        active = self._binding.positions
        self._specs = tuple(_spec(a, _name(f, i), i in active) for i, a in enumerate(args))
        self._quick = self._quick_path()
        self.evaluations = 0
        self._core(self._engine, self._binding, point, rest, extra)
        self.build_seconds = time.perf_counter() - start

    @property
    def engine(self) -> str:
        """Name of the engine that makes the derivatives."""
        return str(self._engine.name)

    @property
    def source(self) -> str:
        """The straight-line program, where the function was traced; else empty."""
        return str(getattr(self._engine, "source", ""))

    def __call__(self, *args: Any, tangent: Any = None, cotangent: Any = None) -> Any:
        """What the operator gives at these arguments."""
        self.evaluations += 1
        if self._quick is not None:
            result = self._quick(*args)
            if result is not None:
                return result
        if len(args) != len(self._specs):
            raise _misfit(f"{len(args)} arguments were given; {len(self._specs)} were prepared for")
        for spec, argument in zip(self._specs, args, strict=True):
            spec.check(argument)
        binding = self._binding
        extra = cotangent if self._extra_name == "cotangent" else tangent
        return self._core(self._engine, binding, binding.point(args), binding.rest(args), extra)

    def __repr__(self) -> str:
        return f"<{self.op.__name__} by {self.engine}, {self.evaluations} evaluations>"

    def _quick_path(self) -> Any:
        """The traced program itself, for Jacobians with respect to one argument: no packing in between."""
        quick = getattr(self._engine, "quick", None)
        if quick is None or not self._binding.single or self._binding.keywords:
            return None
        position = self._binding.positions[0]
        if self.op is value_and_jacobian:
            return quick(position, True)
        if self.op is jacobian or (self.op is derivative and not self._binding.shapes[0]):
            return quick(position, False)
        return None


class _Array:
    """Shape and type of an array argument."""

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, example: Any, name: str) -> None:
        self.name, self.shape, self.dtype = name, example.shape, example.dtype

    def check(self, argument: Any) -> None:
        try:
            if argument.shape == self.shape and argument.dtype == self.dtype:
                return
            found = f"has shape {argument.shape} and type {argument.dtype}"
        except AttributeError:
            found = f"is {type(argument).__name__}"
        raise _misfit(
            f"argument {self.name} {found}; shape {self.shape} and type {self.dtype} were prepared for"
        )


class _Number:
    """A Python number: any other number will do; an active one may also be a 0-d array."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, argument: Any) -> None:
        if type(argument) is float or type(argument) is int or isinstance(argument, np.number):
            return
        if isinstance(argument, np.ndarray) and not argument.ndim and argument.dtype == np.float64:
            return
        raise _misfit(f"argument {self.name} is {_described(argument)}; a number was prepared for")


class _Record:
    """Anything else: of the same type, its arrays of the same shapes."""

    __slots__ = ("kind", "name", "parts")

    def __init__(self, example: Any, name: str) -> None:
        self.name, self.kind = name, type(example)
        self.parts = [_spec(part, f"{name}{place}", False) for place, part in _parts(example)]

    def check(self, argument: Any) -> None:
        if type(argument) is not self.kind:
            raise _misfit(
                f"argument {self.name} is {_described(argument)}; {self.kind.__name__} was prepared for"
            )
        parts = _parts(argument)
        if len(parts) != len(self.parts):
            raise _misfit(f"argument {self.name} has {len(parts)} parts; {len(self.parts)} were prepared for")
        for spec, (_, part) in zip(self.parts, parts, strict=True):
            spec.check(part)


def _spec(example: Any, name: str, active: bool) -> Any:
    if isinstance(example, (np.ndarray, np.generic)) and example.ndim:
        return _Array(example, name)
    if isinstance(example, (float, int, np.number)) and not isinstance(example, bool):
        return _Number(name)
    if isinstance(example, np.ndarray):
        return _Number(name) if example.dtype == np.float64 else _Array(example, name)
    if active:
        return _Array(np.asarray(example), name) if np.ndim(example) else _Number(name)
    return _Record(example, name)


def _parts(item: Any) -> list[tuple[str, Any]]:
    if isinstance(item, (list, tuple)):
        return [(f"[{i}]", part) for i, part in enumerate(item)]
    if isinstance(item, dict):
        return [(f"[{key!r}]", part) for key, part in item.items()]
    if is_dataclass(item) and not isinstance(item, type):
        return [(f".{field.name}", getattr(item, field.name)) for field in fields(item)]
    return []


def _name(f: Callable[..., Any], i: int) -> str:
    code = getattr(getattr(f, "function", f), "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    return f"{i} ({names[i]!r})" if i < len(names) else str(i)


def _described(argument: Any) -> str:
    shape = getattr(argument, "shape", None)
    return f"{type(argument).__name__}" + (f" of shape {shape}" if shape is not None else "")


def _misfit(what: str) -> DerivativeError:
    return DerivativeError(Complaint("E616", what, next="prepare again for other shapes or types"))
