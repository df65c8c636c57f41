"""A trace made into a straight line of NumPy calls, bound to arrays that are allocated once.

An active array of shape s has one buffer ``b`` of shape (K+1, *s), of which ``v`` is the value and
``t`` the partials.  A step is a function with its arrays bound, ``multiply(v3, v3, v4)``; a call of
the program copies the arguments in, runs down the steps, and copies the result out.

* Numbers live in a list of Python floats, since one operation on floats costs a tenth of one on
  NumPy's; their partials too where there is one, in an array of K where there are more.
* What is linear with a constant is done to the buffer as a whole.
* Partials that depend on no input (those of ``x - c``) are computed when the workspace is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gmmest.derivatives.trace import Node, NotStraight

__all__ = ["Program"]

_RISKY = frozenset([np.divide, np.log, np.sqrt, np.log1p, np.reciprocal])
"""Their partials may warn where the value would not: the program is silent then."""

_FLOAT64 = np.dtype(np.float64)
_ONE, _HALF = np.array(1.0), np.array(0.5)

_OF_NUMBERS: dict[Any, tuple[Callable[..., float], Callable[[float, float], float]]] = {
    np.exp: (math.exp, lambda x, y: y),
    np.log: (math.log, lambda x, y: 1.0 / x),
    np.sqrt: (math.sqrt, lambda x, y: 0.5 / y),
    np.sin: (math.sin, lambda x, y: math.cos(x)),
    np.cos: (math.cos, lambda x, y: -math.sin(x)),
    np.tanh: (math.tanh, lambda x, y: 1.0 - y * y),
    np.expm1: (math.expm1, lambda x, y: y + 1.0),
    np.log1p: (math.log1p, lambda x, y: 1.0 / (1.0 + x)),
    np.square: (lambda x: x * x, lambda x, y: 2.0 * x),
    np.reciprocal: (lambda x: 1.0 / x, lambda x, y: -y * y),
    np.negative: (lambda x: -x, lambda x, y: -1.0),
}
"""Value of a function of one number, and its slope from argument x and value y."""

_OF_ARRAYS: dict[Any, tuple[tuple[Any, ...], ...]] = {
    np.exp: ((np.multiply, "t", "y", "u"),),
    np.log: ((np.divide, "t", "x", "u"),),
    np.sqrt: ((np.divide, "t", "y", "u"), (np.multiply, "u", _HALF, "u")),
    np.sin: ((np.cos, "x", "s"), (np.multiply, "t", "s", "u")),
    np.cos: ((np.sin, "x", "s"), (np.multiply, "t", "s", "u"), (np.negative, "u", "u")),
    np.tanh: ((np.multiply, "y", "y", "s"), (np.subtract, _ONE, "s", "s"), (np.multiply, "t", "s", "u")),
    np.expm1: ((np.add, "y", _ONE, "s"), (np.multiply, "t", "s", "u")),
    np.log1p: ((np.add, "x", _ONE, "s"), (np.divide, "t", "s", "u")),
    np.square: ((np.multiply, "t", "x", "u"), (np.add, "u", "u", "u")),
    np.reciprocal: ((np.multiply, "y", "y", "s"), (np.multiply, "t", "s", "u"), (np.negative, "u", "u")),
}
"""Steps to the partials u of a function y of one array x with partials t; s is scratch."""


class Program:
    """The steps, with a workspace of their own: one for each thread.

    Parameters
    ----------
    nodes : list of Node
    result : Node
    shape : tuple of int
        Of the active argument.
    position : int
        Of the active argument among all.
    value : bool
        Whether a call returns value and Jacobian, or the Jacobian alone.

    Notes
    -----
    A call returns results in arrays of their own; or None for arguments of other shapes, and where
    a result is not finite: then some factor was not, and eager dual numbers know which products to
    leave out.
    """

    def __init__(
        self, nodes: list[Node], result: Node, shape: tuple[int, ...], position: int, value: bool
    ) -> None:
        self.k = int(np.prod(shape))
        self.shape = shape
        self.numbers: list[Any] = [0.0] * (2 * len(nodes))  # value of node n at 2n, its partial at 2n + 1
        self.v: dict[int, Any] = {}
        self.t: dict[int, Any] = {}
        self.b: dict[int, Any] = {}
        self.steps: list[Callable[[], Any]] = []
        self.listing: list[str] = []
        self.still: set[int] = set()  # nodes whose partials are the same at every call
        self.risky = any(n.function in _RISKY and n.shape for n in nodes)
        inputs = [n for n in nodes if n.op == "input"]
        self.order = [*inputs[1 : position + 1], inputs[0], *inputs[position + 1 :]]
        for node in nodes:
            getattr(self, f"_{node.op}")(node)
        self.inputs = [(2 * n.number, n.shape, self.v.get(n.number)) for n in self.order]
        self.finish = self._finish(result, value)

    def __call__(self, *args: Any) -> Any:
        """Copy in, run, copy out."""
        numbers = self.numbers
        for (slot, shape, array), argument in zip(self.inputs, args, strict=True):
            if array is None:
                numbers[slot] = argument if argument.__class__ is float else _number(argument)
            elif argument.shape != shape or argument.dtype is not _FLOAT64:
                return None
            else:
                array[...] = argument
        if self.risky:
            with np.errstate(all="ignore"):
                for step in self.steps:
                    step()
        else:
            for step in self.steps:
                step()
        return self.finish()

    # --- building blocks --------------------------------------------------------------------------------

    def do(self, function: Any, *operands: Any) -> None:
        """Add a step; an operand is an array, or the place of a number."""
        self.listing.append(f"{function.__name__}({', '.join(map(_shown, operands))})")
        self.steps.append(self._bound(function, operands))

    def _bound(self, function: Any, operands: tuple[Any, ...]) -> Callable[[], Any]:
        places = [i for i, o in enumerate(operands) if type(o) is int]
        numbers = self.numbers
        if not places:
            return partial(function, *operands)
        place = operands[places[0]]
        if places == [0] and len(operands) == 3:
            _, b, c = operands
            return lambda: function(numbers[place], b, c)
        if places == [1] and len(operands) == 3:
            a, _, c = operands
            return lambda: function(a, numbers[place], c)
        return lambda: function(*(numbers[o] if type(o) is int else o for o in operands))

    def let(self, place: int, what: str, step: Callable[[], None]) -> None:
        """Add a step on numbers."""
        self.listing.append(f"x{place} = {what}")
        self.steps.append(step)

    def allocate(self, node: Node) -> None:
        """Workspace of an array; of an active one value, partials and both together."""
        n = node.number
        if node.active:
            self._adopt(n, np.zeros((self.k + 1, *node.shape)))
        else:
            self.v[n] = np.zeros(node.shape)

    def _adopt(self, n: int, buffer: Any) -> None:
        self.b[n], self.v[n] = buffer, buffer[0]
        self.t[n] = buffer[1] if self.k == 1 else buffer[1:]

    def value(self, node: Node) -> Any:
        """Array of a value, or the place of a number."""
        return self.v[node.number] if node.shape else 2 * node.number

    def partials(self, node: Node, ndim: int) -> Any:
        """Partials, with axes of length one so that they broadcast against ``ndim`` axes."""
        if self.k == 1:
            return self.t[node.number] if node.shape else 2 * node.number + 1
        t = self.t[node.number]
        return t.reshape(self.k, *(1,) * (ndim - len(node.shape)), *node.shape)

    # --- one method for each kind of node ---------------------------------------------------------------

    def _input(self, node: Node) -> None:
        n = node.number
        if node.shape:
            self.allocate(node)
        if node.active:
            self.still.add(n)
            if node.shape:
                self.b[n][1:].reshape(self.k, self.k)[...] = np.eye(self.k)
            else:
                self.numbers[2 * n + 1] = 1.0

    def _literal(self, node: Node) -> None:
        if node.shape:
            self.v[node.number] = node.value
        else:
            self.numbers[2 * node.number] = float(node.value)

    def _view(self, node: Node) -> None:
        n, x = node.number, node.operands[0]
        whole = self.b[x.number] if x.active else self.v[x.number]
        part = node.function(whole)
        if not np.shares_memory(part, whole):
            raise NotStraight("a view that is a copy")
        if not node.shape:
            self._unpack(node, lambda: part)
        elif x.active:  # it shares the workspace of its source: nothing to do at the call
            self._adopt(n, part)
            if x.number in self.still:
                self.still.add(n)
        else:
            self.v[n] = part

    def _unpack(self, node: Node, entries: Callable[[], Any]) -> None:
        """A number, and its partials, from an array of K + 1."""
        place, numbers, k = 2 * node.number, self.numbers, self.k
        if node.active and k > 1:
            partials = self.t[node.number] = np.zeros(k)

            def step() -> None:
                rows = entries()
                numbers[place] = float(rows[0])
                partials[...] = rows[1:]

        elif node.active:

            def step() -> None:
                numbers[place : place + 2] = entries().tolist()

        else:

            def step() -> None:
                numbers[place] = float(entries())

        self.let(place, "entries of an array", step)

    def _sum(self, node: Node) -> None:
        x = node.operands[0]
        if node.shape:
            self.allocate(node)
            source, out = (self.b, self.b) if node.active else (self.v, self.v)
            axis = (node.axis or 0) + node.active
            self.steps.append(partial(np.add.reduce, source[x.number], axis, None, out[node.number]))
            self.listing.append(f"add.reduce(array{source[x.number].shape}, {axis})")
        else:  # a sum is a product with ones, which costs half of add.reduce
            whole = self.b[x.number] if x.active else self.v[x.number]
            flat = whole.reshape(self.k + 1, -1) if x.active else whole.reshape(-1)
            if flat.size and not np.shares_memory(flat, whole):
                raise NotStraight("a sum over a view")
            self._unpack(node, partial(flat.dot, np.ones(flat.shape[-1])))

    def _product(self, node: Node) -> None:
        a, b = node.operands
        if node.shape:
            self._matrix_product(node, a, b)
        elif not (a.active and b.active):
            dual, other = (a, b) if a.active else (b, a)
            left = self.b[dual.number] if dual.active else self.v[dual.number]
            self._unpack(node, partial(left.dot, self.v[other.number]))
        else:
            self._dual_product(node, a, b)

    def _dual_product(self, node: Node, a: Node, b: Node) -> None:
        va, vb = self.v[a.number], self.v[b.number]
        ta, tb = self.t[a.number], self.t[b.number]
        rows = np.zeros(self.k + 1)

        def entries() -> Any:
            rows[0] = va.dot(vb)
            rows[1:] = ta.dot(vb) + tb.dot(va)
            return rows

        self._unpack(node, entries)

    def _matrix_product(self, node: Node, a: Node, b: Node) -> None:
        n = node.number
        vector, matrix = (a, b) if len(a.shape) == 1 else (b, a)
        if matrix.active:
            raise NotStraight("a product of an active matrix")
        self.allocate(node)
        right = self.v[matrix.number] if vector is a else self.v[matrix.number].T
        left, out = (
            (self.b[vector.number], self.b[n]) if vector.active else (self.v[vector.number], self.v[n])
        )
        self.do(np.dot, left, right, out)

    def _elementwise(self, node: Node) -> None:
        if not node.shape:
            self._number(node) if len(node.operands) == 1 else self._two_numbers(node)
            return
        self.allocate(node)
        if not node.active:
            self.do(node.function, *map(self.value, node.operands), self.v[node.number])
        elif len(node.operands) == 1:
            self._of_one_array(node)
        elif node.function is np.multiply:
            self._multiply(node)
        elif node.function is np.divide:
            self._divide(node)
        else:
            self._add(node)

    def _number(self, node: Node) -> None:
        x, y, numbers = 2 * node.operands[0].number, 2 * node.number, self.numbers
        function, slope = _OF_NUMBERS[node.function]

        def value() -> None:
            numbers[y] = function(numbers[x])

        self.let(y, f"{node.function.__name__}(x{x})", value)
        if node.active:
            self._partial(node, lambda tx, _: slope(numbers[x], numbers[y]) * tx)

    def _two_numbers(self, node: Node) -> None:
        (a, b), y, numbers, f = node.operands, 2 * node.number, self.numbers, node.function
        i, j = 2 * a.number, 2 * b.number
        operate = {np.add: _plus, np.subtract: _minus, np.multiply: _times, np.divide: _over}[f]

        def value() -> None:
            numbers[y] = operate(numbers[i], numbers[j])

        self.let(y, f"{f.__name__}(x{i}, x{j})", value)
        if node.active:
            rule: dict[Any, Callable[[Any, Any], Any]] = {
                np.add: _plus,
                np.subtract: _minus,
                np.multiply: lambda ta, tb: ta * numbers[j] + numbers[i] * tb,
                np.divide: lambda ta, tb: (ta - numbers[y] * tb) / numbers[j],
            }
            self._partial(node, rule[f])

    def _partial(self, node: Node, rule: Callable[[Any, Any], Any]) -> None:
        """Partials of a number from those of the numbers that it is made of (zero for constants)."""
        numbers, place = self.numbers, 2 * node.number + 1
        if self.k == 1:
            i, j = (2 * o.number + 1 for o in (node.operands * 2)[:2])  # a constant's partial stays 0

            def step() -> None:
                numbers[place] = rule(numbers[i], numbers[j])

        else:
            out = self.t[node.number] = np.zeros(self.k)
            ta, tb = (self.t.get(o.number, 0.0) for o in (node.operands * 2)[:2])

            def step() -> None:
                out[...] = rule(ta, tb)

        self.let(place, "its partials", step)

    def _of_one_array(self, node: Node) -> None:
        n, i = node.number, node.operands[0].number
        if node.function is np.negative:
            self.do(np.negative, self.b[i], self.b[n])
            return
        names = {"x": self.v[i], "y": self.v[n], "t": self.t[i], "u": self.t[n], "s": np.zeros(node.shape)}
        if node.function is np.square:  # a product costs less than a square
            self.do(np.multiply, self.v[i], self.v[i], self.v[n])
        else:
            self.do(node.function, self.v[i], self.v[n])
        for function, *operands in _OF_ARRAYS[node.function]:
            self.do(function, *(names[o] if isinstance(o, str) else o for o in operands))

    def _add(self, node: Node) -> None:
        n, (a, b), ndim = node.number, node.operands, len(node.shape)
        self.do(node.function, self.value(a), self.value(b), self.v[n])
        zero = np.zeros(())
        ta, tb = (self.partials(o, ndim) if o.active else zero for o in (a, b))
        step = self._bound(node.function, (ta, tb, self.t[n]))
        if all(o.number in self.still for o in (a, b) if o.active):
            step()
            self.still.add(n)
        elif not b.active and a.shape == node.shape:
            self.do(np.copyto, self.t[n], ta)
        elif not a.active and node.function is np.subtract and b.shape == node.shape:
            self.do(np.negative, tb, self.t[n])
        else:
            self.do(node.function, ta, tb, self.t[n])

    def _multiply(self, node: Node) -> None:
        n, (a, b), ndim = node.number, node.operands, len(node.shape)
        v, t = self.v[n], self.t[n]
        if a.active and b.active:
            self.do(np.multiply, self.value(a), self.value(b), v)
            self.do(np.multiply, self.partials(a, ndim), self.value(b), t)
            if a is b:
                self.do(np.add, t, t, t)
                return
            scratch = np.zeros(t.shape)
            self.do(np.multiply, self.partials(b, ndim), self.value(a), scratch)
            self.do(np.add, t, scratch, t)
            return
        x, c = (a, b) if a.active else (b, a)
        if x.number in self.still and c.op == "literal":
            self._bound(np.multiply, (self.partials(x, ndim), self.value(c), t))()
            self.do(np.multiply, self.value(x), self.value(c), v)
            self.still.add(n)
        elif x.shape == node.shape:
            self.do(np.multiply, self.b[x.number], self.value(c), self.b[n])
        else:
            self.do(np.multiply, self.value(x), self.value(c), v)
            self.do(np.multiply, self.partials(x, ndim), self.value(c), t)

    def _divide(self, node: Node) -> None:
        n, (a, b), ndim = node.number, node.operands, len(node.shape)
        v, t = self.v[n], self.t[n]
        if not b.active and a.shape == node.shape:
            self.do(np.divide, self.b[a.number], self.value(b), self.b[n])
            return
        self.do(np.divide, self.value(a), self.value(b), v)
        if not b.active:
            self.do(np.divide, self.partials(a, ndim), self.value(b), t)
            return
        self.do(np.multiply, self.partials(b, ndim), v, t)
        if a.active:
            self.do(np.subtract, self.partials(a, ndim), t, t)
        else:
            self.do(np.negative, t, t)
        self.do(np.divide, t, self.value(b), t)

    # --- the end ------------------------------------------------------------------------------------------

    def _finish(self, result: Node, value: bool) -> Callable[[], Any]:
        """Results in arrays of their own, and the check that every factor was finite."""
        n, shape, whole = result.number, self.shape, result.shape + self.shape
        numbers, inf = self.numbers, math.inf
        if result.shape:
            buffer = self.b[n]

            def finish() -> Any:
                rows = buffer.copy(order="C")
                flat = rows.reshape(-1)
                if not flat.dot(flat) < inf:
                    return None
                if shape:
                    slopes = np.moveaxis(rows[1:], 0, -1).reshape(whole).copy()
                else:
                    slopes = rows[1] if value else rows[1].copy()
                return (rows[0], slopes) if value else slopes

        else:
            partials = self.t.get(n)

            def finish() -> Any:
                number = numbers[2 * n]
                rows = np.array(numbers[2 * n + 1]) if partials is None else partials.copy()
                if not (math.isfinite(number) and np.isfinite(rows).all()):
                    return None
                slopes = rows.reshape(shape) if shape else rows[()]
                return (np.float64(number), slopes) if value else slopes

        return finish


def _plus(a: Any, b: Any) -> Any:
    return a + b


def _minus(a: Any, b: Any) -> Any:
    return a - b


def _times(a: Any, b: Any) -> Any:
    return a * b


def _over(a: Any, b: Any) -> Any:
    return a / b


def _shown(operand: Any) -> str:
    return f"x{operand}" if isinstance(operand, int) else f"array{np.shape(operand)}"


def _number(argument: Any) -> float:
    if isinstance(argument, bool) or np.ndim(argument):
        raise TypeError("a number was expected")
    return float(argument)
