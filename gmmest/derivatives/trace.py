"""Trace once: a small function's forward derivative as straight-line NumPy into arrays allocated once.

:func:`trace` runs the function on symbols, for the active argument and the constants alike, and
notes what is computed (:class:`Node`); :mod:`.emit` writes it down as Python source.  Nothing is
assumed: a comparison, a branch, a conversion, a write, a function outside the short list below,
or an argument that is not a number or a float array ends the trace, and the prepared function
goes on with eager dual numbers, which follow whatever the function does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from gmmest.derivatives import derived

__all__ = ["LARGEST", "Node", "NotStraight", "TracedFunction", "trace"]

Array = NDArray[np.float64]

LARGEST = 20_000
"""Entries of the longest buffer: beyond, Python's overhead no longer matters and chunks do."""

ELEMENTWISE = frozenset(
    (
        np.add,
        np.subtract,
        np.multiply,
        np.divide,
        np.negative,
        np.square,
        np.exp,
        np.log,
        np.sqrt,
        np.sin,
        np.cos,
        np.tanh,
        np.expm1,
        np.log1p,
        np.reciprocal,
    )
)
PRODUCTS = frozenset([np.matmul, np.dot, np.vdot])


class NotStraight(Exception):  # noqa: N818  a verdict, not an error
    """The function cannot be written down as a straight line."""


@dataclass(slots=True)
class Node:
    """One value of the trace.

    Parameters
    ----------
    op : str
        ``input``, ``literal``, ``elementwise``, ``product``, ``sum``, ``view``.
    function : object
        The ufunc; of a view, what makes it from an array.
    operands : list of Node
    shape : tuple of int
    active : bool
        Whether it depends on the active argument.
    number : int
        Place in the trace.
    value : object
        Of a literal, the array or number itself.
    axis : int or None
        Of a sum.
    """

    op: str
    function: Any
    operands: list[Node]
    shape: tuple[int, ...]
    active: bool
    number: int
    value: Any = None
    axis: int | None = None


class Symbol(NDArrayOperatorsMixin):
    """What the function sees while it is traced."""

    __slots__ = ("node", "nodes")
    __array_priority__ = 1000.0

    def __init__(self, node: Node, nodes: list[Node]) -> None:
        self.node = node
        self.nodes = nodes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, known while tracing."""
        return self.node.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.node.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.node.shape))

    @property
    def dtype(self) -> Any:
        """Always float64."""
        return np.dtype(np.float64)

    @property
    def T(self) -> Any:
        """The transpose."""
        return self._view(lambda a: a.T if a.ndim == self.ndim else a.transpose(0, *range(self.ndim, 0, -1)))

    def __len__(self) -> int:
        return self.node.shape[0]

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if not all(p is None or p is Ellipsis or isinstance(p, (int, slice)) for p in parts):
            raise NotStraight("an index array")
        return self._view(lambda a: a[parts] if a.ndim == self.ndim else a[(slice(None), *parts)])

    def reshape(self, *shape: Any) -> Any:
        """See ``np.reshape``."""
        wanted = shape[0] if len(shape) == 1 else shape
        wanted = np.zeros(self.shape).reshape(wanted).shape
        return self._view(
            lambda a: a.reshape(wanted) if a.ndim == self.ndim else a.reshape(a.shape[0], *wanted)
        )

    def _view(self, make: Callable[[Any], Any]) -> Any:
        shape = make(np.zeros(self.shape)).shape
        if self.ndim == 0:
            raise NotStraight("a view of a number")
        return self._record("view", make, [self], shape)

    def sum(self, axis: Any = None) -> Any:
        """See ``np.sum``."""
        if self.ndim == 0 or not (axis is None or isinstance(axis, int)):
            raise NotStraight("a sum over several axes")
        axis = None if self.ndim == 1 else axis
        shape = () if axis is None else np.zeros(self.shape).sum(axis=axis).shape
        if axis is not None:
            axis %= self.ndim
        return self._record("sum", np.add, [self], shape, axis)

    def mean(self, axis: Any = None) -> Any:
        """See ``np.mean``."""
        return self.sum(axis) / (self.size if axis is None else self.shape[axis])

    def dot(self, other: Any) -> Any:
        """See ``np.dot``."""
        return np.matmul(self, other)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if kwargs or method != "__call__":
            raise NotStraight(f"{ufunc.__name__}.{method} with options")
        if ufunc is np.power and isinstance(inputs[1], (int, float)):
            return self._power(inputs[1])
        if ufunc is np.matmul:
            return self._product(*inputs)
        if ufunc is np.positive:
            return self
        if ufunc not in ELEMENTWISE:
            raise NotStraight(ufunc.__name__)
        shape = np.broadcast_shapes(*(np.shape(x) if not isinstance(x, Symbol) else x.shape for x in inputs))
        return self._record("elementwise", ufunc, list(inputs), shape)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.sum and not set(kwargs) - {"axis"}:
            return args[0].sum(*args[1:2], **kwargs)
        if func is np.mean and not set(kwargs) - {"axis"}:
            return args[0].mean(*args[1:2], **kwargs)
        if func in PRODUCTS and not kwargs:
            return self._product(*args)
        raise NotStraight(getattr(func, "__name__", "a function"))

    def _power(self, exponent: float) -> Any:
        if exponent == 2:
            return np.square(self)
        if exponent == 1:
            return self
        if exponent == 0.5:
            return np.sqrt(self)
        if exponent == 3:
            return np.square(self) * self
        raise NotStraight("power")

    def _product(self, a: Any, b: Any) -> Any:
        shapes = [x.shape if isinstance(x, Symbol) else np.shape(x) for x in (a, b)]
        if shapes[0] != shapes[1] and len(shapes[0]) + len(shapes[1]) != 3:
            raise NotStraight("a product of matrices")
        if max(map(len, shapes)) > 2 or min(map(len, shapes)) != 1:
            raise NotStraight("a product of matrices")
        shape = np.matmul(np.zeros(shapes[0]), np.zeros(shapes[1])).shape
        return self._record("product", np.matmul, [a, b], shape)

    def _record(
        self, op: str, function: Any, inputs: list[Any], shape: Any, axis: int | None = None
    ) -> Symbol:
        operands = [x.node if isinstance(x, Symbol) else _literal(x, self.nodes) for x in inputs]
        active = any(o.active for o in operands)
        node = Node(op, function, operands, tuple(shape), active, len(self.nodes), axis=axis)
        self.nodes.append(node)
        return Symbol(node, self.nodes)

    def _end(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotStraight("a value was asked for")

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __iter__ = _end
    __setitem__ = __array__ = __iadd__ = __isub__ = __imul__ = __itruediv__ = _end
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _end
    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotStraight(name)


def trace(function: Callable[..., Any], x: Array, constants: tuple[Any, ...]) -> tuple[list[Node], Node]:
    """Nodes of ``function(x, *constants)`` in the order of computation, and the one that is returned.

    The first nodes are the inputs.

    Raises
    ------
    NotStraight
        A straight line would not be the same function.
    """
    nodes: list[Node] = []
    symbols = [Symbol(_input(x, True, nodes), nodes)]
    symbols += [Symbol(_input(c, False, nodes), nodes) for c in constants]
    try:
        result = function(*symbols)
    except NotStraight:
        raise
    except Exception as error:  # whatever it is, eager evaluation will meet it again and report it
        raise NotStraight(str(error)) from error
    if not isinstance(result, Symbol) or not result.node.active or result.node.op == "input":
        raise NotStraight("the result does not depend on the active argument")
    return nodes, result.node


def _input(argument: Any, active: bool, nodes: list[Node]) -> Node:
    if isinstance(argument, bool) or not isinstance(argument, (np.ndarray, float, int, np.floating)):
        raise NotStraight(f"an argument of type {type(argument).__name__}")
    if isinstance(argument, np.ndarray) and argument.dtype != np.float64:
        raise NotStraight(f"an argument of {argument.dtype}")
    node = Node("input", None, [], np.shape(argument), active, len(nodes))
    nodes.append(node)
    return node


def _literal(value: Any, nodes: list[Node]) -> Node:
    plain = isinstance(value, (float, int, np.floating, np.integer)) and not isinstance(value, bool)
    if not plain and not (isinstance(value, np.ndarray) and value.dtype == np.float64):
        raise NotStraight(f"a constant of type {type(value).__name__}")
    node = Node("literal", None, [], np.shape(value), False, len(nodes), value=value)
    nodes.append(node)
    return node


class TracedFunction:
    """A forward function for arguments of given shapes; straight-line where it can be.

    Parameters
    ----------
    eager : ForwardFunction
        What to fall back to.
    x : array
        Example of the active argument.
    constants : tuple
        Examples of the others.

    Attributes
    ----------
    source : str
        The program; empty where the function could not be traced.
    """

    def __init__(self, eager: Any, x: Array, constants: tuple[Any, ...]) -> None:
        self.eager = eager
        self.name = eager.name
        self.source = ""
        self._make: Any = None
        self._run: Any = None
        self._trace: Any = None
        with suppress(NotStraight):
            self._build(x, constants)

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and Jacobian: by the program, or eagerly where it stops (an infinite factor)."""
        result = self._run(x, *constants) if self._run is not None else None
        if result is None:
            return self.eager.value_and_jacobian(x, *constants)  # type: ignore[no-any-return]
        return np.asarray(result[0]), np.asarray(result[1])

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        """Value and ``v -> v'J``, made from the Jacobian."""
        return derived.value_and_vjp(self, x, constants)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.eager, name)

    def quick(self, position: int, value: bool) -> Callable[..., Any] | None:
        """The program as a function of the caller's own arguments; it returns None where it stops.

        Parameters
        ----------
        position : int
            Of the active argument.
        value : bool
            Whether the value is returned, too.
        """
        if self._make is None:
            return None
        from gmmest.derivatives.emit import emit

        nodes, result, shape = self._trace
        return _shared(emit(nodes, result, shape, position, value)[1])

    def _build(self, x: Array, constants: tuple[Any, ...]) -> None:
        from gmmest.derivatives.emit import emit

        if self.eager.chunk is not None or type(x) is not np.ndarray:
            raise NotStraight("chunks")
        nodes, result = trace(self.eager.function, x, constants)
        if max(int(np.prod(n.shape)) for n in nodes) * (x.size + 1) > LARGEST:
            raise NotStraight("long arrays")
        self._trace = nodes, result, x.shape
        source, make = emit(nodes, result, x.shape)
        run = _shared(make)
        found, expected = run(x, *constants), self.eager.value_and_jacobian(x, *constants)
        scale = max(float(np.max(np.abs(part), initial=0.0)) for part in expected)
        if found is not None and not all(_close(f, e, scale) for f, e in zip(found, expected, strict=True)):
            raise NotStraight("the function does not repeat itself")
        self.source, self._make, self._run = source, make, run


def _shared(make: Callable[[], Any]) -> Callable[..., Any]:
    """A program with one workspace a thread, that stops with None."""
    threads = threading.local()

    def run(*args: Any) -> Any:
        try:
            program = threads.program
        except AttributeError:
            program = threads.program = make()
        try:
            return program(*args)
        except (ArithmeticError, ValueError, TypeError, AttributeError):
            return None  # Python's numbers raise where NumPy has inf; arguments may be of another kind

    return run


def _close(found: Any, expected: Any, scale: float) -> bool:
    """Equal up to rounding of numbers of the size ``scale``, from which a derivative may cancel to nothing."""
    return np.shape(found) == np.shape(expected) and np.allclose(
        found, expected, rtol=1e-9, atol=1e-12 * scale
    )
