"""From ``f(*args)`` and ``wrt`` to a function of one active array, and back.

Engines know one form only: ``target(x, *rest)`` with x active.  :func:`bind` makes it: the active
arguments are laid end to end in x where there are several, everything else becomes ``rest``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.analytic import DifferentiableFunction
from gmmest.derivatives.dual import DualArray
from gmmest.errors import Complaint, DerivativeError

__all__ = ["Binding", "Wrt", "bind", "is_traced"]

Array = NDArray[np.float64]
Wrt = int | str | tuple[int | str, ...] | list[int | str]


class Binding(NamedTuple):  # a tuple is made in a third of the time of a frozen record
    """Which arguments of a function are active, and where they lie in x.

    Parameters
    ----------
    positions : tuple of int
        The active arguments.
    keys : tuple
        How the caller named them.
    shapes : tuple of tuple of int
    single : bool
        Whether ``wrt`` was one argument, not a sequence of them: no dict comes back then.
    keywords : dict
        Constants passed by keyword.
    """

    positions: tuple[int, ...]
    keys: tuple[int | str, ...]
    shapes: tuple[tuple[int, ...], ...]
    single: bool
    keywords: Mapping[str, Any]

    def target(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``target(x, *rest)``; the function itself where it has that form already."""
        if self.single and self.positions == (0,):
            if not self.keywords:
                return function
            if isinstance(function, DifferentiableFunction):
                return _with_keywords(function)
        if self.single and not self.keywords:
            place = self.positions[0]
            return lambda x, *rest: function(*rest[:place], x, *rest[place:])
        return lambda x, *rest: self._call(function, x, rest)

    def point(self, args: tuple[Any, ...]) -> Any:
        """The active arguments as one float64 array."""
        parts = [_numbers(args[i], key) for i, key in zip(self.positions, self.keys, strict=True)]
        return parts[0] if self.single else np.concatenate([np.reshape(p, -1) for p in parts])

    def rest(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What stays constant; keywords come last, as one dict."""
        if self.single:
            place = self.positions[0]
            others = args[:place] + args[place + 1 :]
        else:
            others = tuple(a for i, a in enumerate(args) if i not in self.positions)
        return (*others, dict(self.keywords)) if self.keywords else others

    def split(self, result: Any, leading: int) -> Any:
        """Derivatives with respect to x as they were asked for: an array, or a dict of arrays.

        The axes of x come after ``leading`` others; x is one axis where there are several arguments.
        """
        if self.single:
            return result
        before, after = result.shape[:leading], result.shape[leading + 1 :]
        place = (slice(None),) * leading
        return {
            key: np.reshape(result[(*place, slice(*piece))], (*before, *shape, *after))
            for key, shape, piece in zip(self.keys, self.shapes, self.pieces(), strict=True)
        }

    def pieces(self) -> list[tuple[int, int]]:
        """Where each active argument lies in x."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        return [
            (int(end) - int(np.prod(shape)), int(end)) for end, shape in zip(ends, self.shapes, strict=True)
        ]

    def tangent(self, tangent: Any) -> Any:
        """A tangent, given as the active arguments are: an array, or a dict of arrays."""
        if self.single:
            return _shaped(tangent, self.shapes[0], "tangent")
        if not isinstance(tangent, Mapping) or set(tangent) != set(self.keys):
            raise DerivativeError(
                Complaint(
                    "E613", f"the tangent must be a dict with the keys {list(self.keys)}, as wrt names them"
                )
            )
        parts = [
            _shaped(tangent[k], s, f"tangent[{k!r}]") for k, s in zip(self.keys, self.shapes, strict=True)
        ]
        return np.concatenate([np.reshape(p, -1) for p in parts])

    def _call(self, function: Callable[..., Any], x: Any, rest: tuple[Any, ...]) -> Any:
        keywords = rest[-1] if self.keywords else {}
        others = iter(rest[:-1] if self.keywords else rest)
        if self.single:
            active = {self.positions[0]: x}
        else:
            active = {
                i: np.reshape(x[a:b], shape)
                for i, shape, (a, b) in zip(self.positions, self.shapes, self.pieces(), strict=True)
            }
        count = len(active) + len(rest) - bool(self.keywords)
        return function(*(active[i] if i in active else next(others) for i in range(count)), **keywords)


def bind(
    function: Callable[..., Any], args: tuple[Any, ...], wrt: Wrt, constants: Mapping[str, Any] | None
) -> tuple[Binding, Any]:
    """Find the active arguments; return where they are, and x itself.

    Raises
    ------
    DerivativeError
        E610: an argument that is not there, named twice, or not numeric.
    """
    if type(wrt) is int and 0 <= wrt < len(args):  # the usual case, in which overhead counts
        point = _numbers(args[wrt], wrt)
        return Binding((wrt,), (wrt,), (point.shape,), True, dict(constants) if constants else {}), point
    single = not isinstance(wrt, (tuple, list))
    keys: tuple[Any, ...] = (wrt,) if single else tuple(wrt)  # type: ignore[arg-type]
    positions = tuple(_position(function, args, key) for key in keys)
    if not keys or len(set(positions)) < len(keys):
        raise DerivativeError(
            Complaint("E610", f"wrt={wrt!r}; one or several different arguments were expected")
        )
    if single:
        point = _numbers(args[positions[0]], keys[0])
        return Binding(positions, keys, (point.shape,), True, dict(constants or {})), point
    parts = [_numbers(args[i], key) for i, key in zip(positions, keys, strict=True)]
    shapes = tuple(part.shape for part in parts)
    joined = np.concatenate([np.reshape(part, -1) for part in parts])
    return Binding(positions, keys, shapes, False, dict(constants or {})), joined


def is_traced(x: Any) -> bool:
    """Whether JAX is tracing this array (without importing JAX to find out)."""
    return type(x) is not np.ndarray and type(x).__name__ == "TracedArray"


def _position(function: Callable[..., Any], args: tuple[Any, ...], key: Any) -> int:
    if isinstance(key, str):
        plain = function.function if isinstance(function, DifferentiableFunction) else function
        try:
            names = list(inspect.signature(plain).parameters)[: len(args)]
        except (TypeError, ValueError):
            names = []
        if key not in names:
            raise DerivativeError(
                Complaint(
                    "E610", f"wrt={key!r}; the arguments given are {', '.join(names) or 'without names'}"
                )
            )
        return names.index(key)
    if isinstance(key, bool) or not isinstance(key, (int, np.integer)):
        raise DerivativeError(
            Complaint("E610", f"wrt={key!r}; a position or the name of an argument was expected")
        )
    if not -len(args) <= key < len(args):
        raise DerivativeError(Complaint("E610", f"wrt={key}; {len(args)} arguments were given"))
    return int(key) % len(args)


def _numbers(active: Any, key: Any) -> Any:
    if type(active) is float:
        return np.array(active)
    if isinstance(active, DualArray) or is_traced(active):
        return active
    try:
        plain = np.asarray(active)
    except (TypeError, ValueError):
        plain = np.asarray(None)
    if plain.dtype.kind not in "fiub":
        raise DerivativeError(
            Complaint(
                "E610",
                f"argument {key!r} is {type(active).__name__} of {plain.dtype}; real numbers were expected",
                next="inside a function under complex step, ask for derivatives with another backend outside"
                if plain.dtype.kind == "c"
                else "",
            )
        )
    return np.array(plain, dtype=np.float64)


def _shaped(tangent: Any, shape: tuple[int, ...], name: str) -> Any:
    values = _numbers(tangent, name)
    if values.shape != shape:
        raise DerivativeError(Complaint("E613", f"{name} has shape {values.shape}; {shape} was expected"))
    return values


def _with_keywords(function: DifferentiableFunction) -> DifferentiableFunction:
    """The same, its keywords taken from the last argument."""

    def spread(call: Any) -> Any:
        return None if call is None else lambda x, *rest: call(x, *rest[:-1], **rest[-1])

    return DifferentiableFunction(
        spread(function.function), spread(function.jacobian), spread(function.pullback)
    )
