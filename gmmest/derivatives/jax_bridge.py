"""Plain-NumPy functions under JAX: traced, compiled, differentiated in reverse or forward mode.

While JAX traces, the function sees :class:`TracedArray` objects.  They answer NumPy's protocols
(NEP 13 and 18) with the functions of ``jax.numpy`` of the same name, so that ``np.exp(theta)`` and
``D.T @ s`` mean what they always mean.  Data are arguments of the compiled function, never
constants inside it, and are put on the device once.

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
from typing import Any, Literal, NoReturn

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from jax import errors as jax_errors
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from gmmest.derivatives import ops
from gmmest.derivatives.location import traceback_location, user_location
from gmmest.errors import Complaint, DerivativeError

__all__ = ["JaxFunction", "TracedArray"]

Array = NDArray[np.float64]


def _x64() -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # before jax 0.8

    return enable_x64()


class JaxFunction:
    """A function prepared for JAX; see :class:`gmmest.derivatives.backends.Prepared`.

    Parameters
    ----------
    function : callable
        ``function(x, *constants)`` in plain NumPy, ``gmmest.ops`` or ``jax.numpy``.
    mode : {"reverse", "forward"}
        How Jacobians are made; vector-Jacobian products are always reverse.
    """

    def __init__(self, function: Callable[..., Any], mode: Literal["reverse", "forward"]) -> None:
        self.function = function
        self.mode = mode
        self.compile_seconds = 0.0
        self._programs: list[tuple[_Structure, _Programs]] = []
        self._on_device: dict[int, tuple[Any, Any]] = {}

    @property
    def name(self) -> str:
        """``jax`` or ``jax-forward``."""
        return "jax" if self.mode == "reverse" else "jax-forward"

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and Jacobian of shape ``(*value.shape, *x.shape)``."""
        with _x64():
            programs, leaves = self._prepared(constants)
            value, jacobian = self._run(programs.jacobian, x, leaves)
            return np.array(value), np.array(jacobian)

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        """Value and the function ``v -> v'J``."""
        with _x64():
            programs, leaves = self._prepared(constants)
            value, residuals = self._run(programs.forward, x, leaves)

        def vjp(v: Array) -> Array:
            with _x64():
                return np.array(self._run(programs.backward, residuals, np.asarray(v, dtype=np.float64)))

        return np.array(value), vjp

    def _prepared(self, constants: tuple[Any, ...]) -> tuple[_Programs, list[Any]]:
        arrays: list[Any] = []
        structure = _structure(constants, arrays)
        leaves = [self._device(a) for a in arrays]
        for known, programs in self._programs:
            if known == structure:
                return programs, leaves
        programs = _compile(self.function, structure, self.mode)
        self._programs.append((structure, programs))
        return programs, leaves

    def _device(self, array: Any) -> Any:
        """The device's copy of an array; kept with the array itself, so that its id stays taken."""
        kept = self._on_device.get(id(array))
        if kept is None:
            kept = (array, jax.device_put(_stored(array)))
            self._on_device[id(array)] = kept
        return kept[1]

    def _run(self, program: Any, *arguments: Any) -> Any:
        before = program._cache_size()
        start = time.perf_counter()
        try:
            result = program(*arguments)
        except DerivativeError:
            raise
        except (
            jax_errors.ConcretizationTypeError,
            jax_errors.TracerArrayConversionError,
            jax_errors.TracerIntegerConversionError,
            jax_errors.NonConcreteBooleanIndexError,
        ) as error:
            raise _untraceable(error) from error
        if program._cache_size() > before:
            jax.block_until_ready(result)
            self.compile_seconds += time.perf_counter() - start
        return result


@dataclass(frozen=True, slots=True)
class _Programs:
    jacobian: Any
    forward: Any
    backward: Any


def _compile(function: Callable[..., Any], structure: _Structure, mode: str) -> _Programs:
    def call(x: Any, leaves: list[Any]) -> Any:
        supply = iter(leaves)
        constants = _rebuilt(structure, supply)
        return _unwrapped_result(function(TracedArray(x), *constants))

    transform = jax.jacrev if mode == "reverse" else jax.jacfwd

    def value_and_jacobian(x: Any, leaves: list[Any]) -> Any:
        def twice(point: Any) -> Any:
            value = call(point, leaves)
            return value, value

        jacobian, value = transform(twice, has_aux=True)(x)
        return value, jacobian

    def value_and_residuals(x: Any, leaves: list[Any]) -> Any:
        return jax.vjp(lambda point: call(point, leaves), x)

    return _Programs(
        jax.jit(value_and_jacobian),
        jax.jit(value_and_residuals),
        jax.jit(lambda residuals, v: residuals(v)[0]),
    )


# --- constants: arrays become arguments, everything else stays as it is ------------------------------


@dataclass(frozen=True, slots=True)
class _Structure:
    """The shape of nested constants: how to put arrays back into records, mappings and sequences."""

    kind: Any
    keys: tuple[Any, ...]
    parts: tuple[Any, ...]


_LEAF = _Structure("array", (), ())
_TALL_LEAF = _Structure("tall", (), ())


def _is_tall(array: Any) -> bool:
    return array.ndim == 2 and array.shape[0] > array.shape[1]


def _stored(array: Any) -> Any:
    return np.ascontiguousarray(array.T) if _is_tall(array) else array


def _structure(item: Any, arrays: list[Any]) -> _Structure:
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
    return _Structure("static", (), (item,))


def _rebuilt(structure: _Structure, leaves: Iterator[Any]) -> Any:
    kind = structure.kind
    if kind == "array":
        return TracedArray(next(leaves))
    if kind == "offsets":
        return TracedArray(next(leaves), last=structure.keys[0])
    if kind == "tall":
        return TracedArray(next(leaves).T)
    if kind == "static":
        return structure.parts[0]
    parts = [_rebuilt(part, leaves) for part in structure.parts]
    if kind is dict:
        return dict(zip(structure.keys, parts, strict=True))
    if kind in (tuple, list):
        return kind(parts)
    record = object.__new__(kind)  # a record of other array-likes: its own checks are for arrays
    for name, part in zip(structure.keys, parts, strict=True):
        object.__setattr__(record, name, part)
    return record


# --- the array that the function sees ------------------------------------------------------------------


class TracedArray(NDArrayOperatorsMixin):
    """A JAX array that plays the part of a NumPy array while a function is traced."""

    __slots__ = ("_shared", "last", "value")
    __array_priority__ = 1000.0

    def __init__(self, value: Any, shared: bool = False, last: int | None = None) -> None:
        self.value = value
        self.last = last  # last entry of a constant vector of integers: how many rows offsets span
        self._shared = shared

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        twin = _UFUNCS.get(ufunc.__name__) or getattr(jnp, ufunc.__name__, None) or getattr(jsp, ufunc.__name__, None)
        if twin is not None and method != "__call__":
            twin = getattr(twin, method, None)
        if twin is None or kwargs.get("where", True) is not True:
            _unsupported(f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}"))
        result = TracedArray(twin(*map(_bare, inputs), **_bare(kwargs)))
        return result if out is None else _assigned(out[0], result.value)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is ops.segment_repeat:
            return _segment_repeat(*args)
        twin = _FUNCTIONS.get(func)
        if twin is None:
            path = (getattr(func, "__module__", "") or "").split(".")[1:]
            owner: Any = jnp
            for name in path:
                owner = getattr(owner, name, None)
            twin = getattr(owner, getattr(func, "__name__", ""), None)
        if twin is None:
            _unsupported(f"{func.__module__}.{func.__name__}".replace("numpy", "np"))
        given = {key: _bare(value) for key, value in kwargs.items() if not (key == "out" and value is None)}
        return _wrapped(twin(*map(_bare, args), **given))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise DerivativeError(
            Complaint(
                "E602",
                "a traced number was about to become a plain array, which JAX cannot follow",
                user_location(),
                "np.stack([...]) instead of np.array([...]); np.matmul or @ instead of array.dot(x);"
                " np.zeros_like(x) as the array that is written into",
            )
        )

    def __jax_array__(self) -> Any:
        return self.value

    @property
    def shape(self) -> Any:
        """Shape."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.value.ndim)

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(self.value.size)

    @property
    def dtype(self) -> Any:
        """Type of the entries."""
        return self.value.dtype

    @property
    def T(self) -> TracedArray:
        """The transpose."""
        return self._view(self.value.T)

    @property
    def real(self) -> TracedArray:
        """The number itself."""
        return self

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> TracedArray:
        return self._view(self.value[_bare(index)])

    def __setitem__(self, index: Any, item: Any) -> None:
        self._check_alone()
        self.value = self.value.at[_bare(index)].set(_bare(item))

    def _view(self, value: Any) -> TracedArray:
        """In NumPy this would share memory with us; JAX arrays do not, so neither may be written into."""
        self._shared = True
        return TracedArray(value, shared=True)

    def _check_alone(self) -> None:
        if self._shared:
            raise DerivativeError(
                Complaint(
                    "E604",
                    "an array was written into that has views (slices, transposes), which JAX cannot keep in step",
                    user_location(),
                    "write into the array before slicing it, or make a new array",
                )
            )

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __index__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return f"TracedArray({self.value!r})"

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.value, name) if name in _METHODS else None
        if method is None:
            raise AttributeError(f"arrays traced by JAX have no {name!r} here; use the function np.{name}")
        viewing = name in _VIEWS

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*map(_bare, args), **_bare(kwargs))
            return self._view(result) if viewing else _wrapped(result)

        return call


_VIEWS = frozenset(["reshape", "ravel", "transpose", "swapaxes", "squeeze"])
_METHODS = _VIEWS | frozenset(
    ["sum", "mean", "prod", "max", "min", "dot", "cumsum", "clip", "repeat", "take", "flatten", "copy", "astype"]
    + ["argmax", "argmin", "argsort", "std", "var", "any", "all", "trace", "diagonal"]
)


def _bare(item: Any) -> Any:
    if isinstance(item, TracedArray):
        return item.value
    if isinstance(item, (list, tuple)):
        return type(item)(map(_bare, item))
    if isinstance(item, dict):
        return {key: _bare(part) for key, part in item.items()}
    return item


def _wrapped(result: Any) -> Any:
    if isinstance(result, jax.Array):
        return TracedArray(result)
    if isinstance(result, (list, tuple)):
        return tuple(map(_wrapped, result))
    return result


def _unwrapped_result(result: Any) -> Any:
    if isinstance(result, (tuple, list, dict)) or result is None:
        raise DerivativeError(
            Complaint(
                "E606",
                f"the function returned a {type(result).__name__}; one array or number was expected",
                next="np.stack([...]) or np.concatenate([...]) what it computes",
            )
        )
    return jnp.asarray(_bare(result), dtype=jnp.float64)


def _assigned(out: Any, value: Any) -> Any:
    if not isinstance(out, TracedArray):
        raise DerivativeError(
            Complaint(
                "E604",
                "a traced number was about to be written into a plain array, which cannot hold it",
                user_location(),
                "write x = x + y instead of x += y; make the array to be filled with np.zeros_like of the argument",
            )
        )
    out._check_alone()
    out.value = value
    return out


# --- functions that jax.numpy lacks or spells otherwise -----------------------------------------------------


def _segments(values: Any, offsets: Any) -> Any:
    """The segment number of every row."""
    n = values.shape[0]
    return jnp.repeat(jnp.arange(offsets.shape[0] - 1), jnp.diff(offsets), total_repeat_length=n)


def _segment_sum(values: Any, offsets: Any) -> Any:
    offsets = jnp.asarray(offsets)
    count = offsets.shape[0] - 1
    return jax.ops.segment_sum(values, _segments(values, offsets), count, indices_are_sorted=True)


def _segment_max(values: Any, offsets: Any) -> Any:
    offsets = jnp.asarray(offsets)
    count = offsets.shape[0] - 1
    return jax.ops.segment_max(values, _segments(values, offsets), count, indices_are_sorted=True)


def _segment_softmax(values: Any, offsets: Any) -> Any:
    offsets = jnp.asarray(offsets)
    segments = _segments(values, offsets)
    count = offsets.shape[0] - 1
    largest = jax.ops.segment_max(jax.lax.stop_gradient(values), segments, count, indices_are_sorted=True)
    weights = jnp.exp(values - largest[segments])
    return weights / jax.ops.segment_sum(weights, segments, count, indices_are_sorted=True)[segments]


def _segment_logsumexp(values: Any, offsets: Any) -> Any:
    offsets = jnp.asarray(offsets)
    segments = _segments(values, offsets)
    count = offsets.shape[0] - 1
    largest = jax.ops.segment_max(jax.lax.stop_gradient(values), segments, count, indices_are_sorted=True)
    shift = jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = jax.ops.segment_sum(jnp.exp(values - shift[segments]), segments, count, indices_are_sorted=True)
    return jnp.log(total) + shift


_UFUNCS: dict[str, Any] = {"log_expit": jax.nn.log_sigmoid}
_FUNCTIONS: dict[Any, Any] = {
    ops.segment_sum: _segment_sum,
    ops.segment_max: _segment_max,
    ops.segment_softmax: _segment_softmax,
    ops.segment_logsumexp: _segment_logsumexp,
}


def _segment_repeat(values: Any, offsets: Any) -> Any:
    """The number of rows must be known while tracing: it is the last offset, which leaves carry along."""
    rows = offsets.last if isinstance(offsets, TracedArray) else int(np.asarray(offsets)[-1])
    if rows is None:
        _unsupported("segment_repeat with computed offsets")
    counts = jnp.diff(jnp.asarray(_bare(offsets)))
    return TracedArray(jnp.repeat(_bare(values), counts, axis=0, total_repeat_length=rows))


# --- errors -----------------------------------------------------------------------------------------------------


def _unsupported(name: str) -> NoReturn:
    raise DerivativeError(
        Complaint(
            "E601",
            f"{name} has no counterpart in jax.numpy",
            user_location(),
            "write it with functions that have one, use gmmest.ops for ragged sums, or choose --grad forward",
        )
    )


def _untraceable(error: Exception) -> DerivativeError:
    return DerivativeError(
        Complaint(
            "E608",
            "JAX cannot trace this function: a branch, an index or a shape depends on values",
            traceback_location(error.__traceback__),
            "np.where(condition, a, b) instead of if; or choose --grad forward, which follows branches",
        )
    )
