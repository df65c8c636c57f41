"""Plain-NumPy functions under JAX: traced, compiled, differentiated in reverse or forward mode.

While JAX traces, the function sees arrays of :mod:`.jax_array`; a function written in ``jax.numpy``
gets JAX's own arrays instead.  Data are arguments of the compiled function, never constants
inside it.  Large ones that nobody can write into (``array.flags.writeable`` is false, as of all
arrays in blocks) are put on the device once; others are copied at every call.

Two facts of XLA's CPU code shape this module.  ``D.T @ s`` with a tall D is two to three times
faster when D is stored transposed, so tall constants that the function only ever transposes, as
its trace shows, travel transposed.  Compilation takes tenths of a second per shape, so a prepared
function keeps its compiled programs; their time is counted in :attr:`JaxFunction.compile_seconds`.

64-bit floats are switched on by a local context, never as a setting of the user's program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from numpy.typing import NDArray

from gmmest.derivatives import jax_functions
from gmmest.derivatives.jax_array import VALUE_DEPENDENT, NeedsConcrete, TracedArray, bare
from gmmest.derivatives.location import traceback_location
from gmmest.derivatives.refusals import refusal_behind
from gmmest.errors import Complaint, DerivativeError

__all__ = ["InnerFunction", "JaxFunction"]

Array = NDArray[np.float64]

jax_functions.register()

MOST_ROWS = 2**31 - 1
SMALL = 4096
"""Entries up to which a constant is handed over afresh at every call."""

KEPT = 64
"""Large constants whose copies on the device are kept."""


def _x64() -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax import experimental  # before jax 0.8

    return experimental.enable_x64()  # type: ignore[attr-defined]


class JaxFunction:
    """A function prepared for JAX; see :class:`gmmest.derivatives.backends.Prepared`.

    Parameters
    ----------
    function : callable
        ``function(x, *constants)`` in plain NumPy with ``gmmest.ops``, or in ``jax.numpy``.
    mode : {"reverse", "forward"}
        How Jacobians are made; vector-Jacobian products are always reverse.

    Attributes
    ----------
    compile_seconds : float
        Time spent on tracing and compiling so far.
    """

    def __init__(self, function: Callable[..., Any], mode: Literal["reverse", "forward"]) -> None:
        self.function = function
        self.mode = mode
        self.compile_seconds = 0.0
        self._raw = False  # whether the function is written in jax.numpy
        self._first: Exception | None = None
        self._concrete: frozenset[int] = frozenset()
        self._programs: list[tuple[Any, _Programs]] = []
        self._segments: dict[int, Any] = {}
        self._on_device: dict[tuple[int, bool], tuple[Any, Any]] = {}

    @property
    def name(self) -> str:
        """``jax`` or ``jax-forward``."""
        return "jax" if self.mode == "reverse" else "jax-forward"

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and Jacobian of shape ``(*value.shape, *x.shape)``."""
        value, jacobian = self._evaluated("jacobian", x, constants)[0]
        return np.array(value), np.array(jacobian)

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        """Value and the function ``v -> v'J``."""
        (value, residuals), programs = self._evaluated("forward", x, constants)

        def vjp(v: Array) -> Array:
            with _x64():
                return np.array(self._run(programs.backward, residuals, np.asarray(v, dtype=np.float64)))

        return np.array(value), vjp

    def value_and_gradient(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Of a function that returns one number, in one program: a quarter less than value and pullback."""
        return self.value_and_jacobian(x, *constants)

    def value_and_jvp(self, x: Array, tangent: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and ``J t``."""
        value, product = self._evaluated("jvp", x, constants, tangent)[0]
        return np.array(value), np.array(product)

    def hessian(self, x: Array, *constants: Any) -> Array:
        """Second derivatives, forward over reverse."""
        return np.array(self._evaluated("hessian", x, constants)[0])

    def hvp(self, x: Array, tangent: Array, *constants: Any) -> Array:
        """Derivative of the Jacobian along a tangent."""
        return np.array(self._evaluated("hvp", x, constants, tangent)[0])

    def _evaluated(self, verb: str, x: Any, constants: tuple[Any, ...], *more: Any) -> tuple[Any, _Programs]:
        """Run one of the programs; trace again where the function asks for constants by value."""
        with _x64():
            while True:
                arrays: list[Any] = []
                structure = _structure(constants, arrays, self._segments)
                try:
                    programs, leaves = self._prepared(structure, arrays, x)
                    return self._run(getattr(programs, verb), x, leaves, *more), programs
                except NeedsConcrete as request:
                    self._concrete |= request.origins
                except (TypeError, ValueError, *VALUE_DEPENDENT) as error:
                    self._other_way(error, arrays)

    def _other_way(self, error: Exception, arrays: list[Any]) -> None:
        """A function that could not be traced with our arrays may be one of jax.numpy, which wants JAX's."""
        everything = frozenset(range(len(arrays)))
        refusal = error if isinstance(error, DerivativeError) else refusal_behind(error)
        if refusal is not None:
            raise refusal from None
        if self._raw and isinstance(error, VALUE_DEPENDENT) and not self._concrete >= everything:
            self._concrete |= everything
            return
        if not self._raw and _touches_jax(error):
            self._raw, self._first = True, error
            return
        if self._raw and self._first is not None and not any(key[0] for key, _ in self._programs[:1]):
            self._raw, error = False, self._first  # neither way: the first complaint is about NumPy
        raise (
            _untraceable(error) if isinstance(error, VALUE_DEPENDENT) or _touches_jax(error) else error
        ) from error

    def _prepared(self, structure: _Structure, arrays: list[Any], x: Any) -> tuple[_Programs, list[Any]]:
        fixed = {i: arrays[i] for i in sorted(self._concrete) if i < len(arrays)}
        shapes = (np.shape(x), *(a.shape for a in arrays))
        key = (self._raw, structure, shapes, tuple((i, np.asarray(a).tobytes()) for i, a in fixed.items()))
        programs = next((known[1] for known in self._programs if known[0] == key), None)
        if programs is None:
            start = time.perf_counter()
            programs = _compile(self.function, structure, fixed, self._raw, self.mode, x, arrays)
            self.compile_seconds += time.perf_counter() - start
            self._programs = [*self._programs, (key, programs)]
        turned = programs.turned
        return programs, [self._device(a, i in turned) for i, a in enumerate(arrays) if i not in fixed]

    def _device(self, array: Any, turned: bool) -> Any:
        """The device's copy of an array; kept if nobody can write into the array, else made anew."""
        if array.size <= SMALL or not _unchanging(array):
            return _stored(array, turned)
        kept = self._on_device.get((id(array), turned))
        if kept is None:
            kept = (
                array,
                jax.device_put(_stored(array, turned)),
            )  # with the array, so that its id stays taken
            self._on_device[id(array), turned] = kept
            if len(self._on_device) > KEPT:
                self._on_device.pop(next(iter(self._on_device)))
        return kept[1]

    def _run(self, program: Any, *arguments: Any) -> Any:
        before = program._cache_size()
        start = time.perf_counter()
        result = program(*arguments)
        if program._cache_size() > before:
            jax.block_until_ready(result)  # type: ignore[no-untyped-call]
            self.compile_seconds += time.perf_counter() - start
        return result


class InnerFunction:
    """Derivatives inside a function that JAX is tracing: JAX's own transformations, nothing compiled."""

    name = "jax"

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def value_and_jacobian(self, x: Any, *constants: Any) -> tuple[Any, Any]:
        """Value and Jacobian, forward."""
        call, point = self._bound(x, constants)
        return TracedArray(call(point)), TracedArray(jax.jacfwd(call)(point))

    def value_and_vjp(self, x: Any, *constants: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Value and ``v -> v'J``."""
        call, point = self._bound(x, constants)
        value, pull = jax.vjp(call, point)
        return TracedArray(value), lambda v: TracedArray(pull(jnp.asarray(bare(v)))[0])

    def value_and_jvp(self, x: Any, tangent: Any, *constants: Any) -> tuple[Any, Any]:
        """Value and ``J t``."""
        call, point = self._bound(x, constants)
        value, product = jax.jvp(call, (point,), (jnp.asarray(bare(tangent)),))
        return TracedArray(value), TracedArray(product)

    def hessian(self, x: Any, *constants: Any) -> Any:
        """Second derivatives."""
        call, point = self._bound(x, constants)
        return TracedArray(jax.hessian(call)(point))

    def _bound(self, x: Any, constants: tuple[Any, ...]) -> tuple[Callable[[Any], Any], Any]:
        return lambda p: _one_array(self.function(TracedArray(p), *constants)), jnp.asarray(bare(x))


@dataclass(frozen=True, slots=True)
class _Programs:
    turned: frozenset[int]
    jacobian: Any
    forward: Any
    backward: Any
    jvp: Any
    hessian: Any
    hvp: Any


def _compile(
    function: Callable[..., Any],
    structure: _Structure,
    fixed: dict[int, Any],
    raw: bool,
    mode: str,
    x: Any,
    arrays: list[Any],
) -> _Programs:
    def traced(point: Any, leaves: list[Any]) -> Any:
        constants = _rebuilt(structure, _Supply(leaves, fixed, raw))
        return _one_array(function(point if raw else TracedArray(point), *constants))

    numbers = [i for i in range(len(arrays)) if i not in fixed]
    program = jax.make_jaxpr(traced)(x, [arrays[i] for i in numbers])
    used = _always_transposed(program.jaxpr, first=1)
    turned = frozenset(i for i, only in zip(numbers, used, strict=True) if only and _is_tall(arrays[i]))
    run = jaxpr_as_fun(program)

    def call(point: Any, leaves: list[Any]) -> Any:
        natural = [leaf.T if i in turned else leaf for i, leaf in zip(numbers, leaves, strict=True)]
        return run(point, *natural)[0]

    transform = jax.jacrev if mode == "reverse" else jax.jacfwd

    def value_and_jacobian(x: Any, leaves: list[Any]) -> Any:
        def twice(point: Any) -> Any:
            value = call(point, leaves)
            return value, value

        jacobian, value = transform(twice, has_aux=True)(x)
        return value, jacobian

    def along(x: Any, leaves: list[Any], tangent: Any) -> Any:
        return jax.jvp(lambda point: call(point, leaves), (x,), (tangent,))

    def jacobian_along(x: Any, leaves: list[Any], tangent: Any) -> Any:
        return jax.jvp(jax.jacrev(lambda point: call(point, leaves)), (x,), (tangent,))[1]

    return _Programs(
        turned=turned,
        jacobian=jax.jit(value_and_jacobian),
        forward=jax.jit(lambda x, leaves: jax.vjp(lambda point: call(point, leaves), x)),
        backward=jax.jit(lambda residuals, v: residuals(v)[0]),
        jvp=jax.jit(along),
        hessian=jax.jit(lambda x, leaves: jax.hessian(lambda point: call(point, leaves))(x)),
        hvp=jax.jit(jacobian_along),
    )


def _one_array(result: Any) -> Any:
    if isinstance(result, (tuple, list, dict)) or result is None:
        raise DerivativeError(
            Complaint(
                "E606",
                f"the function returned a {type(result).__name__}; one array or number was expected",
                next="np.stack([...]) or np.concatenate([...]) what it computes",
            )
        )
    return jnp.asarray(bare(result), dtype=jnp.float64)


# --- constants: arrays and floats become arguments, everything else stays as it is ---------------------


@dataclass(frozen=True, slots=True)
class _Structure:
    """The shape of nested constants: how to put arrays back into records, mappings and sequences."""

    kind: Any
    keys: tuple[Any, ...]
    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Static:
    """Something else: equal to itself, or to an equal thing of the same type."""

    item: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static) or type(self.item) is not type(other.item):
            return False
        if self.item is other.item:
            return True
        simple = isinstance(self.item, (str, bytes, int, float, complex, type(None), range, slice))
        return simple and bool(self.item == other.item)

    __hash__ = None  # type: ignore[assignment]


class _Supply:
    """Leaves in order: traced ones, and concrete ones as they are."""

    def __init__(self, leaves: list[Any], fixed: dict[int, Any], raw: bool) -> None:
        self.traced: Iterator[Any] = iter(leaves)
        self.fixed, self.raw, self.number = fixed, raw, -1

    def next(self, last: int | None = None) -> Any:
        self.number += 1
        if self.number in self.fixed:
            array = self.fixed[self.number]
            return array if array.ndim else array[()]
        leaf = next(self.traced)
        return leaf if self.raw else TracedArray(leaf, frozenset([self.number]), last)


_LEAF = _Structure("array", (), ())


def _is_tall(array: Any) -> bool:
    return bool(array.ndim == 2 and array.shape[0] > array.shape[1])


def _stored(array: Any, turned: bool) -> Any:
    return np.ascontiguousarray(array.T) if turned else array


def _unchanging(array: Any) -> bool:
    """Whether neither the array nor any array that it is a view of can be written into."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return True


def _always_transposed(program: Any, first: int) -> list[bool]:
    """For each input from ``first`` on, whether the traced program only ever transposes it."""
    inputs = {id(variable): position for position, variable in enumerate(program.invars)}
    uses: list[list[bool]] = [[] for _ in program.invars]
    for equation in program.eqns:
        for variable in equation.invars:
            if id(variable) in inputs:
                transposed = equation.primitive.name == "transpose" and len(variable.aval.shape) == 2
                uses[inputs[id(variable)]].append(transposed)
    for variable in program.outvars:
        if id(variable) in inputs:
            uses[inputs[id(variable)]].append(False)
    return [bool(use) and all(use) for use in uses[first:]]


def _structure(item: Any, arrays: list[Any], segments: dict[int, Any]) -> _Structure:
    if isinstance(item, (float, np.generic)) and not isinstance(item, (str, bytes)):
        item = np.asarray(item)
    if isinstance(item, np.ndarray) and item.dtype.kind in "fiub":
        arrays.append(item)
        if item.ndim == 1 and item.dtype.kind in "iu" and item.size:
            arrays.append(_segment_numbers(item, segments))
            return _Structure("offsets", (int(item[-1]),), ())
        return _LEAF
    if isinstance(item, (tuple, list)):
        return _Structure(type(item), (), tuple(_structure(part, arrays, segments) for part in item))
    if isinstance(item, dict):
        return _Structure(
            dict, tuple(item), tuple(_structure(part, arrays, segments) for part in item.values())
        )
    fields = getattr(item, "__dataclass_fields__", None)
    if fields is not None and not isinstance(item, type):
        parts = tuple(_structure(getattr(item, name), arrays, segments) for name in fields)
        return _Structure(type(item), tuple(fields), parts)
    return _Structure("static", (), (_Static(item),))


def _segment_numbers(offsets: Any, known: dict[int, Any]) -> Any:
    """The segment of every row, where integers are offsets; made here, it costs XLA's program a third less."""
    kept = known.get(id(offsets))
    if kept is not None:
        return kept[1]
    sizes = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] > MOST_ROWS or (sizes < 0).any():
        return np.zeros(0, dtype=np.int32)
    numbers = np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)
    if _unchanging(offsets) and len(known) < KEPT:
        numbers.flags.writeable = False
        known[id(offsets)] = (offsets, numbers)
    return numbers


def _rebuilt(structure: _Structure, supply: _Supply) -> Any:
    kind = structure.kind
    if kind == "array":
        return supply.next()
    if kind == "offsets":
        offsets, segments = supply.next(last=structure.keys[0]), supply.next()
        if isinstance(offsets, TracedArray) and segments.shape[0] == structure.keys[0]:
            offsets.segments = bare(segments)
        return offsets
    if kind == "static":
        return structure.parts[0].item
    parts = [_rebuilt(part, supply) for part in structure.parts]
    if kind is dict:
        return dict(zip(structure.keys, parts, strict=True))
    if hasattr(kind, "_fields"):
        return kind(*parts)
    if issubclass(kind, (tuple, list)):
        return kind(parts)
    record = object.__new__(kind)  # a record of other array-likes: its own checks are for arrays
    for name, part in zip(structure.keys, parts, strict=True):
        object.__setattr__(record, name, part)
    return record


# --- errors -----------------------------------------------------------------------------------------------------


def _touches_jax(error: Exception) -> bool:
    """Whether JAX itself refused something that the function handed to it."""
    trace = error.__traceback__
    innermost = ""
    while trace is not None:
        innermost = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return innermost.partition(".")[0] in ("jax", "jaxlib") or "JAX" in str(error)


def _untraceable(error: Exception) -> DerivativeError:
    dependent = isinstance(error, VALUE_DEPENDENT)
    reason = "a branch, an index or a shape depends on values" if dependent else str(error).splitlines()[0]
    return DerivativeError(
        Complaint(
            "E608",
            f"JAX cannot trace this function: {reason}",
            traceback_location(error.__traceback__),
            "np.where (or jnp.where) instead of if; NumPy or jax.numpy, not both in one function;"
            " or choose backend 'forward', which follows branches",
        )
    )
