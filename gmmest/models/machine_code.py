"""Loops over arrays of doubles as machine code, for the processor that they run on: a few words over LLVM.

A :class:`Program` holds functions.  A :class:`Function` is written by saying, in order, what it does: values have
the operators of numbers (single ones and vectors of some lanes alike), arguments are :class:`Address` or counts,
what changes is a :class:`Variable`, and ``with function.loop(0, n) as i:`` repeats what is said inside::

    program = Program("example")
    double = program.function("double", "count", "doubles")
    n, x = double.arguments
    with double.loop(0, n) as i:
        x.store(x.load(i) * 2.0, i)
    double.end()
    run = program.compile("double")

Nothing is reordered: sums have the order in which they are written, on every processor.  A product and a sum in one
rounding are said as such (``x.times_plus(y, z)``).  Addresses are not checked: whoever writes a function sees to
its limits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

__all__ = ["Address", "Function", "Program", "Value", "Variable"]

DOUBLE, INTEGER, SHORT, BIT, POINTER = (
    ir.DoubleType(),
    ir.IntType(64),
    ir.IntType(32),
    ir.IntType(1),
    ir.PointerType(),
)
KINDS = {"count": INTEGER, "doubles": DOUBLE, "integers": INTEGER}
"""Of arguments: a whole number, the address of doubles, that of whole numbers of eight bytes."""


class Program:
    """Functions that are compiled together.

    Parameters
    ----------
    name : str

    Examples
    --------
    >>> import numpy as np
    >>> program = Program("example")
    >>> half = program.function("half", "count", "doubles")
    >>> n, x = half.arguments
    >>> with half.loop(0, n) as i:
    ...     x.store(x.load(i) * 0.5, i)
    >>> _ = half.end()
    >>> run, numbers = program.compile("half"), np.array([2.0, 6.0])
    >>> run(2, numbers.ctypes.data)
    >>> numbers
    array([1., 3.])
    """

    def __init__(self, name: str) -> None:
        self.module = ir.Module(name)
        self.functions: dict[str, Function] = {}

    def function(self, name: str, *kinds: str) -> Function:
        """A function to be written, with arguments of these kinds: ``count``, ``doubles``, ``integers``."""
        self.functions[name] = Function(self.module, name, kinds)
        return self.functions[name]

    def compile(self, name: str) -> Callable[..., None]:
        """The function of that name as a callable of integers: counts, and addresses of arrays.

        Other threads run during a call.  Cost: a tenth of a second or so.
        """
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
        )
        parsed = llvm.parse_assembly(str(self.module))
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        # loops and vectors are as they were written
        options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(parsed, passes)
        engine = llvm.create_mcjit_compiler(parsed, machine)
        engine.finalize_object()
        kinds = [
            ctypes.c_int64 if kind == "count" else ctypes.c_void_p for kind in self.functions[name].kinds
        ]
        run = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(name))

        def compiled(*arguments: int, _engine: Any = engine) -> None:  # the engine owns the code
            run(*arguments)

        return compiled


class Value:
    """A double, a whole number, a truth, or a vector of them; operators act lane by lane.

    Single numbers beside a vector stand in each of its lanes.
    """

    __slots__ = ("function", "of")

    def __init__(self, function: Function, of: Any) -> None:
        self.function = function
        self.of = of

    def __add__(self, other: Value | float) -> Value:
        return self._with(other, "fadd", "add")

    def __sub__(self, other: Value | float) -> Value:
        return self._with(other, "fsub", "sub")

    def __mul__(self, other: Value | float) -> Value:
        return self._with(other, "fmul", "mul")

    def __truediv__(self, other: Value | float) -> Value:
        return self._with(other, "fdiv", "sdiv")

    def __lshift__(self, places: int) -> Value:
        return self._with(places, "shl", "shl")

    def __and__(self, other: Value) -> Value:
        return self._with(other, "and_", "and_")

    def __lt__(self, other: Value | float) -> Value:
        return self._compared("<", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._compared(">", other)

    def __le__(self, other: Value | float) -> Value:
        return self._compared("<=", other)

    def choose(self, yes: Value | float, no: Value | float) -> Value:
        """One where this holds, the other where it does not."""
        like = yes if isinstance(yes, Value) else no
        assert isinstance(like, Value)  # noqa: S101  one of them is; for the type checker
        a, b = self.function.value(yes, like), self.function.value(no, like)
        left, right = a._alike(b)
        return Value(self.function, self.function.builder.select(self.of, left, right))

    def times_plus(self, factor: Value | float, term: Value | float) -> Value:
        """``self * factor + term`` in one rounding."""
        factor, term = (self.function.value(other, self) for other in (factor, term))
        (left, right), added = self._alike(factor), self._alike(term)[1]
        return self._intrinsic("llvm.fma", left, right, added)

    def sqrt(self) -> Value:
        """The square root."""
        return self._intrinsic("llvm.sqrt", self.of)

    def spread(self, lanes: int) -> Value:
        """A vector with this number in each lane."""
        kind, none = ir.VectorType(self.of.type, lanes), ir.Undefined
        first = self.function.builder.insert_element(ir.Constant(kind, none), self.of, SHORT(0))
        return Value(self.function, first).shuffle(Value(self.function, first), [0] * lanes)

    def shuffle(self, other: Value, lanes: Sequence[int]) -> Value:
        """Lanes of two vectors in a new order; those of the second one are counted on from the first."""
        places = ir.Constant(ir.VectorType(SHORT, len(lanes)), list(lanes))
        return Value(self.function, self.function.builder.shuffle_vector(self.of, other.of, places))

    def lane(self, place: int) -> Value:
        """One number of a vector."""
        return Value(self.function, self.function.builder.extract_element(self.of, SHORT(place)))

    def bits(self) -> Value:
        """Doubles as the whole numbers that have the same bits."""
        return self._as(INTEGER)

    def double(self) -> Value:
        """Whole numbers as the doubles that have the same bits."""
        return self._as(DOUBLE)

    @property
    def kind(self) -> Any:
        """Of one lane."""
        return self.of.type.element if isinstance(self.of.type, ir.VectorType) else self.of.type

    def _as(self, kind: Any) -> Value:
        whole = kind
        if isinstance(self.of.type, ir.VectorType):
            whole = ir.VectorType(kind, self.of.type.count)
        return Value(self.function, self.function.builder.bitcast(self.of, whole))

    def _alike(self, other: Value) -> tuple[Any, Any]:
        """Both as vectors where one of them is."""
        mine, its = (isinstance(value.of.type, ir.VectorType) for value in (self, other))
        if mine and not its:
            return self.of, other.spread(self.of.type.count).of
        if its and not mine:
            return self.spread(other.of.type.count).of, other.of
        return self.of, other.of

    def _with(self, other: Value | float, of_doubles: str, of_integers: str) -> Value:
        left, right = self._alike(self.function.value(other, self))
        name = of_doubles if self.kind == DOUBLE else of_integers
        return Value(self.function, getattr(self.function.builder, name)(left, right))

    def _compared(self, how: str, other: Value | float) -> Value:
        left, right = self._alike(self.function.value(other, self))
        builder = self.function.builder
        compare = builder.fcmp_ordered if self.kind == DOUBLE else builder.icmp_signed
        return Value(self.function, compare(how, left, right))

    def _intrinsic(self, name: str, *values: Any) -> Value:
        kind = values[0].type
        suffix = f"v{kind.count}f64" if isinstance(kind, ir.VectorType) else "f64"
        call = self.function.declared(f"{name}.{suffix}", kind, *(value.type for value in values))
        return Value(self.function, self.function.builder.call(call, values))


class Address:
    """Where doubles or whole numbers lie one after another."""

    __slots__ = ("function", "kind", "pointer")

    def __init__(self, function: Function, pointer: Any, kind: Any) -> None:
        self.function = function
        self.pointer = pointer
        self.kind = kind

    def at(self, index: Value | int) -> Address:
        """The address so many numbers on."""
        place = self.function.value(index, self.function.integer(0)).of
        return Address(
            self.function,
            self.function.builder.gep(self.pointer, [place], source_etype=self.kind),
            self.kind,
        )

    def load(self, index: Value | int = 0, lanes: int = 1) -> Value:
        """The number there, or a vector of those that follow it."""
        kind = self.kind if lanes == 1 else ir.VectorType(self.kind, lanes)
        pointer = self.at(index).pointer
        return Value(self.function, self.function.builder.load(pointer, typ=kind, align=8))

    def load_first(self, n: int, index: Value | int, lanes: int) -> Value:
        """A vector of n numbers, the other lanes zero; what lies beyond them is not read."""
        if n == lanes:
            return self.load(index, lanes)
        kind, bits = ir.VectorType(self.kind, lanes), ir.VectorType(BIT, lanes)
        call = self.function.declared(f"llvm.masked.load.v{lanes}f64.p0", kind, POINTER, SHORT, bits, kind)
        mask = ir.Constant(bits, [int(lane < n) for lane in range(lanes)])
        zeros = ir.Constant(kind, [0.0] * lanes)
        of = self.function.builder.call(call, [self.at(index).pointer, SHORT(8), mask, zeros])
        return Value(self.function, of)

    def store(self, value: Value | float, index: Value | int = 0) -> None:
        """Put a number there, or a vector from there on."""
        like = Value(self.function, ir.Constant(self.kind, 0))
        of = self.function.value(value, like).of
        self.function.builder.store(of, self.at(index).pointer, align=8)

    def prefetch(self, index: Value | int) -> None:
        """Ask for what lies there to be brought near; any address will do, also one of nothing."""
        call = self.function.declared("llvm.prefetch.p0", ir.VoidType(), POINTER, SHORT, SHORT, SHORT)
        read, second_cache, data = SHORT(0), SHORT(2), SHORT(1)
        self.function.builder.call(call, [self.at(index).pointer, read, second_cache, data])


class Variable:
    """A value that changes, kept in a register where there is one."""

    __slots__ = ("function", "kind", "slot")

    def __init__(self, initial: Value) -> None:
        self.function = initial.function
        self.kind = initial.of.type
        with self.function.builder.goto_entry_block():
            self.slot = self.function.builder.alloca(self.kind)
        self.set(initial)

    def get(self) -> Value:
        """As it is."""
        return Value(self.function, self.function.builder.load(self.slot, typ=self.kind))

    def set(self, value: Value) -> None:
        """Change it."""
        self.function.builder.store(value.of, self.slot)


class Function:
    """What a function does, said in order; see :class:`Program`."""

    def __init__(self, module: Any, name: str, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.module = module
        takes = [INTEGER if kind == "count" else POINTER for kind in kinds]
        self.of = ir.Function(module, ir.FunctionType(ir.VoidType(), takes), name)
        self.builder = ir.IRBuilder(self.of.append_basic_block("entry"))

    @property
    def arguments(self) -> list[Any]:
        """Counts as values, the others as addresses."""
        return [
            Value(self, of) if kind == "count" else Address(self, of, KINDS[kind])
            for kind, of in zip(self.kinds, self.of.args, strict=True)
        ]

    def double(self, number: float) -> Value:
        """A constant."""
        return Value(self, DOUBLE(number))

    def integer(self, number: int) -> Value:
        """A constant."""
        return Value(self, INTEGER(number))

    def integers(self, numbers: Sequence[int]) -> Value:
        """A vector of constants."""
        return Value(self, ir.Constant(ir.VectorType(INTEGER, len(numbers)), list(numbers)))

    def value(self, number: Value | float, like: Value) -> Value:
        """A number of Python as a constant of the kind of another value; values as they are."""
        if isinstance(number, Value):
            return number
        return self.double(number) if like.kind == DOUBLE else self.integer(int(number))

    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: int = 1) -> Iterator[Value]:
        """Repeat what is said inside for start, start + step, ... below stop."""
        b, like = self.builder, self.integer(0)
        first, end = self.value(start, like).of, self.value(stop, like).of
        before, head, body, after = b.block, *(b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(INTEGER)
        index.add_incoming(first, before)
        b.cbranch(b.icmp_signed("<", index, end), body, after)
        b.position_at_end(body)
        yield Value(self, index)
        index.add_incoming(b.add(index, INTEGER(step)), b.block)
        b.branch(head)
        b.position_at_end(after)

    @contextmanager
    def loop_while(self, condition: Callable[[], Value]) -> Iterator[None]:
        """Repeat what is said inside while the condition, asked anew each time, holds."""
        b = self.builder
        head, body, after = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        b.cbranch(condition().of, body, after)
        b.position_at_end(body)
        yield
        b.branch(head)
        b.position_at_end(after)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Do what is said inside if the condition holds."""
        with self.builder.if_then(condition.of):
            yield

    def call(self, other: Function, *arguments: Value | Address | int) -> None:
        """Another function of the program."""
        like = self.integer(0)
        given = [a.pointer if isinstance(a, Address) else self.value(a, like).of for a in arguments]
        self.builder.call(other.of, given)

    def declared(self, name: str, result: Any, *kinds: Any) -> Any:
        """One of LLVM's own functions."""
        known = self.module.globals.get(name)
        return known or ir.Function(self.module, ir.FunctionType(result, kinds), name)

    def end(self) -> Function:
        """The function, complete."""
        self.builder.ret_void()
        return self
