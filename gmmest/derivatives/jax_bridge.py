"""Plain-NumPy functions under JAX: traced, compiled, differentiated in reverse or forward mode.

While JAX traces, the function sees arrays of :mod:`.jax_array`; a function written in ``jax.numpy``
gets JAX's own arrays instead.  Data are arguments of the compiled function, never constants
inside it, and large ones are put on the device once: they must not be written into afterwards.

Two facts of XLA's CPU code shape this module.  A product with a tall matrix is two to three times
faster when the matrix is stored transposed, so tall constants travel transposed and are turned
back inside the traced function.  Compilation takes tenths of a second per shape, so a prepared
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
from numpy.typing import NDArray

from gmmest.derivatives import jax_functions
from gmmest.derivatives.jax_array import VALUE_DEPENDENT, NeedsConcrete, TracedArray, bare
from gmmest.derivatives.location import traceback_location
from gmmest.derivatives.refusals import refusal_behind
from gmmest.errors import Complaint, DerivativeError

__all__ = ["InnerFunction", "JaxFunction"]

Array = NDArray[np.float64]

jax_functions.register()

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
        self._on_device: dict[int, tuple[Any, Any, Any]] = {}

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
                structure = _structure(constants, arrays)
                programs, leaves = self._prepared(structure, arrays)
                try:
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

    def _prepared(self, structure: _Structure, arrays: list[Any]) -> tuple[_Programs, list[Any]]:
        fixed = {i: arrays[i] for i in sorted(self._concrete) if i < len(arrays)}
        key = (self._raw, structure, tuple((i, np.asarray(a).tobytes()) for i, a in fixed.items()))
        leaves = [self._device(a) for i, a in enumerate(arrays) if i not in fixed]
        for known, programs in self._programs:
            if known == key:
                return programs, leaves
        programs = _compile(self.function, structure, fixed, self._raw, self.mode)
        self._programs = [*self._programs, (key, programs)]
        return programs, leaves

    def _device(self, array: Any) -> Any:
        """The device's copy of an array; kept with the array itself, so that its id stays taken."""
        if array.size <= SMALL:
            return _stored(array)
        sample = array.ravel()[:: max(1, array.size // 64)].tobytes() if array.flags.c_contiguous else b""
        kept = self._on_device.get(id(array))
        if kept is None or kept[2] != sample:  # the sample notices most writes into the array
            kept = (array, jax.device_put(_stored(array)), sample)
            self._on_device[id(array)] = kept
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
    jacobian: Any
    forward: Any
    backward: Any
    jvp: Any
    hessian: Any
    hvp: Any


def _compile(
    function: Callable[..., Any], structure: _Structure, fixed: dict[int, Any], raw: bool, mode: str
) -> _Programs:
    def call(x: Any, leaves: list[Any]) -> Any:
        constants = _rebuilt(structure, _Supply(leaves, fixed, raw))
        return _one_array(function(x if raw else TracedArray(x), *constants))

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

    def next(self, tall: bool = False, last: int | None = None) -> Any:
        self.number += 1
        if self.number in self.fixed:
            array = self.fixed[self.number]
            return array if array.ndim else array[()]
        leaf = next(self.traced)
        leaf = leaf.T if tall else leaf
        return leaf if self.raw else TracedArray(leaf, frozenset([self.number]), last)


_LEAF = _Structure("array", (), ())
_TALL_LEAF = _Structure("tall", (), ())


def _is_tall(array: Any) -> bool:
    return bool(array.ndim == 2 and array.shape[0] > array.shape[1])


def _stored(array: Any) -> Any:
    return np.ascontiguousarray(array.T) if _is_tall(array) else array


def _structure(item: Any, arrays: list[Any]) -> _Structure:
    if isinstance(item, (float, np.generic)) and not isinstance(item, (str, bytes)):
        item = np.asarray(item)
    if isinstance(item, np.ndarray) and item.dtype.kind in "fiub":
        arrays.append(item)
        if item.ndim == 1 and item.dtype.kind in "iu" and item.size:
            return _Structure("offsets", (int(item[-1]),), ())
        return _TALL_LEAF if _is_tall(item) else _LEAF
    if isinstance(item, (tuple, list)):
        return _Structure(type(item), (), tuple(_structure(part, arrays) for part in item))
    if isinstance(item, dict):
        return _Structure(dict, tuple(item), tuple(_structure(part, arrays) for part in item.values()))
    fields = getattr(item, "__dataclass_fields__", None)
    if fields is not None and not isinstance(item, type):
        parts = tuple(_structure(getattr(item, name), arrays) for name in fields)
        return _Structure(type(item), tuple(fields), parts)
    return _Structure("static", (), (_Static(item),))


def _rebuilt(structure: _Structure, supply: _Supply) -> Any:
    kind = structure.kind
    if kind == "array":
        return supply.next()
    if kind == "offsets":
        return supply.next(last=structure.keys[0])
    if kind == "tall":
        return supply.next(tall=True)
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
