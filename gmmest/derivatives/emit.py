"""A trace written down as Python: NumPy calls with ``out=`` for arrays, plain arithmetic for numbers.

An active array of shape s has one buffer ``b`` of shape (K+1, *s), of which ``v`` is the value
and ``t`` the partials; numbers are Python floats ``v`` and (for K = 1) ``t``, since one operation on
floats costs a tenth of one on NumPy's.  What is linear with a constant is done to the buffer as
a whole.  Partials that depend on no input (those of ``x - c``) are computed when the workspace is
made, not at each call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gmmest.derivatives.trace import Node, NotStraight

__all__ = ["emit"]

_RISKY = frozenset([np.divide, np.log, np.sqrt, np.log1p, np.reciprocal])
"""Their partials may warn where the value would not have been asked for: the program is silent then."""

_SCALAR = {
    np.exp: ("exp({a})", "{y}"), np.log: ("log({a})", "1.0 / {a}"), np.sqrt: ("sqrt({a})", "0.5 / {y}"),
    np.sin: ("sin({a})", "cos({a})"), np.cos: ("cos({a})", "-sin({a})"), np.tanh: ("tanh({a})", "(1.0 - {y} * {y})"),
    np.expm1: ("expm1({a})", "({y} + 1.0)"), np.log1p: ("log1p({a})", "1.0 / (1.0 + {a})"),
    np.square: ("{a} * {a}", "2.0 * {a}"), np.reciprocal: ("1.0 / {a}", "-{y} * {y}"), np.negative: ("-{a}", "-1.0"),
}  # fmt: skip
"""Value and slope of functions of one number."""

_ARRAY: dict[Any, tuple[str, ...]] = {
    np.exp: ("multiply({t}, {y}, {u})",),
    np.log: ("divide({t}, {x}, {u})",),
    np.sqrt: ("divide({t}, {y}, {u})", "multiply({u}, half, {u})"),
    np.sin: ("np_cos({x}, {s})", "multiply({t}, {s}, {u})"),
    np.cos: ("np_sin({x}, {s})", "multiply({t}, {s}, {u})", "negative({u}, {u})"),
    np.tanh: ("multiply({y}, {y}, {s})", "subtract(one, {s}, {s})", "multiply({t}, {s}, {u})"),
    np.expm1: ("add({y}, one, {s})", "multiply({t}, {s}, {u})"),
    np.log1p: ("add({x}, one, {s})", "divide({t}, {s}, {u})"),
    np.square: ("multiply({t}, {x}, {u})", "add({u}, {u}, {u})"),
    np.reciprocal: ("multiply({y}, {y}, {s})", "multiply({t}, {s}, {u})", "negative({u}, {u})"),
}
"""Partials u of functions y of one array x with partials t; s is scratch."""


def emit(
    nodes: list[Node], result: Node, shape: tuple[int, ...], position: int = 0, value: bool = True
) -> tuple[str, Callable[[], Any]]:
    """Source of the program, and a function that makes it with a workspace of its own.

    The program takes the arguments with the active one at ``position`` and returns value and
    Jacobian (or the Jacobian alone) in arrays of their own.  It returns None for arguments of other
    shapes, and where a result is not finite: then some factor was not, and eager dual numbers know
    which products to leave out.
    """
    writer = _Writer(int(np.prod(shape)), shape)
    for node in nodes:
        writer.write(node)
    writer.finish(result, value)
    inputs = [n for n in nodes if n.op == "input"]
    source = writer.source([*inputs[1 : position + 1], inputs[0], *inputs[position + 1 :]])
    scope = dict(writer.scope)
    exec(compile(source, "<gmmest trace>", "exec"), scope)  # noqa: S102  our own lines, no text of the user's
    return source, scope["make"]


class _Writer:
    """Lines of the program: made once (``setup``), and at each call (``body``)."""

    def __init__(self, partials: int, shape: tuple[int, ...]) -> None:
        self.k = partials
        self.shape = shape
        self.setup: list[str] = []
        self.body: list[str] = []
        self.still: set[int] = set()  # nodes whose partials are the same at every call
        self.risky = False
        self.scope: dict[str, Any] = {
            "np": np, "inf": math.inf, "number": _number, "float64": np.dtype(np.float64),
            "one": np.array(1.0), "half": np.array(0.5),
            "np_sin": np.sin, "np_cos": np.cos, "errstate": np.errstate,
            **{f.__name__: f for f in (np.add, np.subtract, np.multiply, np.divide, np.negative, np.copyto, np.dot)},
            **{name: getattr(math, name) for name in ("exp", "log", "sqrt", "sin", "cos", "tanh", "expm1", "log1p")},
        }  # fmt: skip

    def write(self, node: Node) -> None:
        getattr(self, f"_{node.op}")(node)

    # --- names ------------------------------------------------------------------------------------------------

    def allocate(self, node: Node) -> None:
        """Workspace of an array; of an active one value, partials and both together."""
        n = node.number
        if not node.active:
            self.setup.append(f"v{n} = np.empty({node.shape})")
            return
        self.setup.append(
            f"b{n} = np.empty({(self.k + 1, *node.shape)}); v{n} = b{n}[0]; t{n} = {self._rest(f'b{n}')}"
        )

    def _rest(self, buffer: str) -> str:
        return f"{buffer}[1]" if self.k == 1 else f"{buffer}[1:]"

    def partials(self, node: Node, ndim: int) -> str:
        """Partials, with axes of length one so that they broadcast against ``ndim`` axes."""
        n, missing = node.number, ndim - len(node.shape)
        if self.k == 1 or missing == 0:
            return f"t{n}"
        if node.shape:
            self.setup.append(f"t{n}_{ndim} = t{n}.reshape({(self.k, *(1,) * missing, *node.shape)})")
            return f"t{n}_{ndim}"
        return f"np.reshape(t{n}, {(self.k, *(1,) * missing)})"

    # --- one method for each kind of node -------------------------------------------------------------------------

    def _input(self, node: Node) -> None:
        n = node.number
        if not node.shape:
            self.body.append(f"v{n} = a{n} if a{n}.__class__ is float else number(a{n})")
            if node.active:
                self.setup.append(f"t{n} = 1.0")
                self.still.add(n)
            return
        self.body.append(f"if a{n}.shape != {node.shape} or a{n}.dtype is not float64: return None")
        if node.active:
            self.allocate(node)
            self.setup.append(f"np.reshape(b{n}[1:], {(self.k, self.k)})[...] = np.eye({self.k})")
            self.body.append(f"copyto(v{n}, a{n})")
            self.still.add(n)
        else:
            self.body.append(f"v{n} = a{n}")

    def _literal(self, node: Node) -> None:
        value = node.value if isinstance(node.value, np.ndarray) and node.shape else float(node.value)
        self.scope[f"v{node.number}"] = value

    def _view(self, node: Node) -> None:
        n, source = node.number, node.operands[0]
        self.scope[f"view{n}"] = node.function
        if not source.active:
            tail = f"view{n}(v{source.number})"
            self.body.append(f"v{n} = {tail if node.shape else f'float({tail})'}")
        elif node.shape:  # it shares the workspace of its source: nothing to do at the call
            self.setup.append(
                f"b{n} = view{n}(b{source.number}); v{n} = b{n}[0]; t{n} = {self._rest(f'b{n}')}"
            )
            self.setup.append(f"assert np.shares_memory(b{n}, b{source.number})")
            if source.number in self.still:
                self.still.add(n)
        else:
            self._unpack(n, f"view{n}(b{source.number})")

    def _unpack(self, n: int, entries: str) -> None:
        """Value and partials of a number from an array of K + 1."""
        if self.k == 1:
            self.body.append(f"v{n}, t{n} = {entries}.tolist()")
        else:
            self.body.append(f"t{n} = {entries}; v{n} = float(t{n}[0]); t{n} = t{n}[1:].copy()")

    def _sum(self, node: Node) -> None:
        n, x = node.number, node.operands[0]
        size = int(np.prod(x.shape))
        if not node.active:
            axis = "" if node.axis is None else f"axis={node.axis}"
            total = f"v{x.number}.sum({axis})"
            self.body.append(f"v{n} = {total if node.shape else f'float({total})'}")
        elif node.shape:
            self.allocate(node)
            self.body.append(f"add.reduce(b{x.number}, {(node.axis or 0) + 1}, None, b{n})")
        else:  # a sum is a product with ones, which costs half of add.reduce
            self.setup.append(f"f{n} = b{x.number}.reshape({(self.k + 1, size)}); ones{n} = np.ones({size})")
            flat = f"f{n}.dot(ones{n})"
            self.setup.append(f"assert np.shares_memory(f{n}, b{x.number}) or not f{n}.size")
            self._unpack(n, flat)

    def _product(self, node: Node) -> None:
        n, (a, b) = node.number, node.operands
        i, j = a.number, b.number
        if node.shape:
            self._matrix_product(node, a, b)
        elif not node.active:
            self.body.append(f"v{n} = float(v{i}.dot(v{j}))")
        elif not (a.active and b.active):
            dual, other = (i, j) if a.active else (j, i)
            self._unpack(n, f"b{dual}.dot(v{other})")
        else:
            both = f"2.0 * t{i}.dot(v{i})" if i == j else f"t{i}.dot(v{j}) + t{j}.dot(v{i})"
            self.body.append(
                f"v{n} = float(v{i}.dot(v{j})); t{n} = {f'float({both})' if self.k == 1 else both}"
            )

    def _matrix_product(self, node: Node, a: Node, b: Node) -> None:
        n, i, j = node.number, a.number, b.number
        if a.active and b.active:
            raise NotStraight("a product of an active matrix")
        self.allocate(node)
        if not node.active:
            self.body.append(f"dot(v{i}, v{j}, v{n})")
        elif a.active and len(a.shape) == 1:
            self.body.append(f"dot(b{i}, v{j}, b{n})")
        elif b.active and len(b.shape) == 1:
            self.body.append(f"dot(b{j}, v{i}.T, b{n})")
        else:
            raise NotStraight("a product of an active matrix")

    def _elementwise(self, node: Node) -> None:
        if node.function in _RISKY and node.shape:
            self.risky = True
        if not node.shape:
            self._number(node)
            return
        self.allocate(node)
        if not node.active:
            values = ", ".join(f"v{o.number}" for o in node.operands)
            self.scope[node.function.__name__] = node.function
            self.call(node.function, values, f"v{node.number}")
        elif len(node.operands) == 1:
            self._of_one_array(node)
        else:
            {np.add: self._add, np.subtract: self._add, np.multiply: self._multiply, np.divide: self._divide}[
                node.function
            ](node)

    def call(self, function: Any, inputs: str, out: str) -> None:
        name = f"u_{function.__name__}"
        self.scope[name] = function
        self.body.append(f"{name}({inputs}, {out})")

    def _number(self, node: Node) -> None:
        n, f = node.number, node.function
        names = [f"v{o.number}" for o in node.operands]
        if len(names) == 1:
            value, slope = (text.format(a=names[0], y=f"v{n}") for text in _SCALAR[f])
            self.body.append(f"v{n} = {value}")
            if node.active:
                self.body.append(f"t{n} = {slope} * t{node.operands[0].number}")
            return
        a, b = node.operands
        x, y = names
        sign = {np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/"}[f]
        self.body.append(f"v{n} = {x} {sign} {y}")
        ta, tb = (f"t{o.number}" if o.active else "" for o in (a, b))
        if not node.active:
            return
        if f in (np.add, np.subtract):
            right = f" {sign} {tb}" if tb else ""
            self.body.append(f"t{n} = {ta}{right}" if ta else f"t{n} = {sign}{tb}")
        elif f is np.multiply:
            terms = [f"{ta} * {y}"] * bool(ta) + [f"{tb} * {x}"] * bool(tb)
            self.body.append(f"t{n} = {' + '.join(terms)}")
        else:
            right = f"({ta or '0.0'} - v{n} * {tb})" if tb else ta
            self.body.append(f"t{n} = {right} / {y}")

    def _of_one_array(self, node: Node) -> None:
        n, x = node.number, node.operands[0]
        i = x.number
        if node.function is np.negative:
            self.body.append(f"negative(b{i}, b{n})")
            return
        if node.function is np.square:
            self.body.append(f"multiply(v{i}, v{i}, v{n})")
        else:
            self.call(node.function, f"v{i}", f"v{n}")
        lines = _ARRAY[node.function]
        if any("{s}" in line for line in lines):
            self.setup.append(f"s{n} = np.empty({node.shape})")
        self.body += [line.format(t=f"t{i}", x=f"v{i}", y=f"v{n}", u=f"t{n}", s=f"s{n}") for line in lines]

    def _add(self, node: Node) -> None:
        n, (a, b) = node.number, node.operands
        name, ndim = node.function.__name__, len(node.shape)
        self.body.append(f"{name}(v{a.number}, v{b.number}, v{n})")
        active = [o for o in (a, b) if o.active]
        target = self.setup if all(o.number in self.still for o in active) else self.body
        ta, tb = (self.partials(o, ndim) if o.active else "" for o in (a, b))
        if ta and tb:
            target.append(f"{name}({ta}, {tb}, t{n})")
        elif tb and name == "subtract":
            target.append(
                f"negative({tb}, t{n})" if b.shape == node.shape else f"copyto(t{n}, np.negative({tb}))"
            )
        else:
            target.append(f"copyto(t{n}, {ta or tb})")
        if target is self.setup:
            self.still.add(n)

    def _multiply(self, node: Node) -> None:
        n, (a, b) = node.number, node.operands
        if a.active and b.active:
            self._both(node)
            return
        x, c = (a, b) if a.active else (b, a)
        i, j, ndim = x.number, c.number, len(node.shape)
        if i in self.still and c.op == "literal":
            self.body.append(f"multiply(v{i}, v{j}, v{n})")
            self.setup.append(f"multiply({self.partials(x, ndim)}, v{j}, t{n})")
            self.still.add(n)
        elif x.shape == node.shape:
            self.body.append(f"multiply(b{i}, v{j}, b{n})")
        else:
            self.body += [f"multiply(v{i}, v{j}, v{n})", f"multiply({self.partials(x, ndim)}, v{j}, t{n})"]

    def _both(self, node: Node) -> None:
        n, (a, b) = node.number, node.operands
        i, j, ndim = a.number, b.number, len(node.shape)
        self.body.append(f"multiply(v{i}, v{j}, v{n})")
        if i == j:
            self.body += [f"multiply(t{i}, v{i}, t{n})", f"add(t{n}, t{n}, t{n})"]
            return
        self.setup.append(f"s{n} = np.empty_like(t{n})")
        self.body += [
            f"multiply({self.partials(a, ndim)}, v{j}, t{n})",
            f"multiply({self.partials(b, ndim)}, v{i}, s{n})",
            f"add(t{n}, s{n}, t{n})",
        ]

    def _divide(self, node: Node) -> None:
        n, (a, b) = node.number, node.operands
        i, j, ndim = a.number, b.number, len(node.shape)
        if not b.active:
            if a.shape == node.shape:
                self.body.append(f"divide(b{i}, v{j}, b{n})")
            else:
                self.body += [f"divide(v{i}, v{j}, v{n})", f"divide({self.partials(a, ndim)}, v{j}, t{n})"]
            return
        self.body += [f"divide(v{i}, v{j}, v{n})", f"multiply({self.partials(b, ndim)}, v{n}, t{n})"]
        self.body.append(
            f"subtract({self.partials(a, ndim)}, t{n}, t{n})" if a.active else f"negative(t{n}, t{n})"
        )
        self.body.append(f"divide(t{n}, v{j}, t{n})")

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self, result: Node, value: bool) -> None:
        """Results in arrays of their own, and the check that every factor was finite."""
        n, whole = result.number, result.shape + self.shape
        if result.shape:
            self.body.append(f"r = b{n}.copy(order='C'); q = r.reshape(-1)")
            self.body.append("if not q.dot(q) < inf: return None")
            if self.shape == ():
                slopes = "r[1]" if value else "r[1].copy()"
            else:
                slopes = f"np.moveaxis(r[1:], 0, -1).reshape({whole}).copy()"
            first = "r[0], "
        elif self.k == 1:
            self.body.append(f"if not v{n} * v{n} + t{n} * t{n} < inf: return None")
            slopes = f"np.full({self.shape}, t{n})" if self.shape else f"np.float64(t{n})"
            first = f"np.float64(v{n}), "
        else:
            self.body.append(f"r = np.array(t{n}); q = r.dot(r)")
            self.body.append(f"if not q + v{n} * v{n} < inf: return None")
            slopes, first = f"r.reshape({self.shape})", f"np.float64(v{n}), "
        self.body.append(f"return {first if value else ''}{slopes}")

    def source(self, inputs: list[Node]) -> str:
        """The whole text."""
        # partials of the tail of setup may need values that only a call knows: none do, see ``still``
        names = ", ".join(f"a{node.number}" for node in inputs)
        lines = ["def make():", *(f"    {line}" for line in self.setup), f"    def run({names}):"]
        if self.risky:
            lines.append("        with errstate(all='ignore'):")
        indent = "            " if self.risky else "        "
        return "\n".join([*lines, *(indent + line for line in self.body), "    return run", ""])


def _number(argument: Any) -> float:
    if isinstance(argument, bool) or np.ndim(argument):
        raise TypeError("a number was expected")
    return float(argument)
