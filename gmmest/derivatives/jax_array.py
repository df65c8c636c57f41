"""The array that a plain-NumPy function sees while JAX traces it.

:class:`TracedArray` answers NumPy's protocols (NEP 13 and 18) with the functions of ``jax.numpy`` of
the same name.  Two things of NumPy that JAX has not are kept:

* *Writing.*  JAX arrays never change, so a traced array holds the current one; a slice or a
  transpose remembers where it comes from, reads there and writes there.
* *Branches.*  Every traced array knows which arguments it was made of.  A branch on constants asks
  for these constants to be concrete (the function is traced again, once for each of their
  values); a branch on the active argument has no derivative program and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from jax import errors as jax_errors
from numpy.lib.mixins import NDArrayOperatorsMixin

from gmmest.derivatives.location import user_location
from gmmest.derivatives.refusals import refuse_plain_array, refuse_write, unsupported_attribute
from gmmest.errors import Complaint, DerivativeError

__all__ = ["ACTIVE", "FUNCTIONS", "UFUNCS", "NeedsConcrete", "TracedArray", "bare", "wrapped"]

ACTIVE = -1
"""The origin of the active argument; constants have the numbers of their leaves."""

UFUNCS: dict[str, Any] = {"log_expit": jax.nn.log_sigmoid}
FUNCTIONS: dict[Any, Any] = {}
"""What jax.numpy lacks or spells otherwise; filled by :mod:`.jax_functions`."""

VALUE_DEPENDENT = (
    jax_errors.ConcretizationTypeError,
    jax_errors.TracerArrayConversionError,
    jax_errors.TracerIntegerConversionError,
    jax_errors.NonConcreteBooleanIndexError,
)


class NeedsConcrete(Exception):  # noqa: N818  not an error: a request to trace again
    """Tracing goes on only if these constants are known by value."""

    def __init__(self, origins: frozenset[int]) -> None:
        self.origins = origins
        super().__init__("constants must be concrete")


class TracedArray(NDArrayOperatorsMixin):
    """A JAX array that plays the part of a NumPy array while a function is traced.

    Parameters
    ----------
    value : jax.Array or tracer
    origins : frozenset of int
        Numbers of the constants that it was made of, and :data:`ACTIVE`.
    last : int, optional
        Last entry of a constant vector of integers: how many rows offsets span.

    Attributes
    ----------
    segments : jax.Array or None
        For such offsets, the segment number of every row.
    """

    __slots__ = ("_parent", "_put", "_read", "_value", "frozen", "last", "origins", "segments")
    __array_priority__ = 1000.0

    def __init__(
        self, value: Any, origins: frozenset[int] = frozenset([ACTIVE]), last: int | None = None
    ) -> None:
        self._value = value
        self._parent: TracedArray | None = None
        self._read: Callable[[Any], Any] | None = None
        self._put: Callable[[Any, Any], Any] | None = None
        self.origins = origins
        self.last = last
        self.segments: Any = None
        self.frozen = False

    # --- reading and writing, through views -----------------------------------------------------------

    @property
    def value(self) -> Any:
        """The JAX array; of a view: what its place in the whole holds now."""
        if self._parent is None:
            return self._value
        return self._read(self._parent.value)  # type: ignore[misc]

    def _view(self, read: Callable[[Any], Any], put: Callable[[Any, Any], Any]) -> TracedArray:
        view = TracedArray(None, self.origins)
        view._parent, view._read, view._put = self, read, put
        view.frozen = self.frozen
        return view

    def _write(self, value: Any, origins: frozenset[int]) -> None:
        if self.frozen:
            raise DerivativeError(
                Complaint(
                    "E604",
                    "an array was written into that NumPy may share with another one, which JAX cannot keep in step",
                    user_location(),
                    "write into a copy: x = x.copy()",
                )
            )
        self.origins = self.origins | origins
        self.last = self.segments = None  # what was known of the entries no longer holds
        if self._parent is None:
            self._value = jnp.asarray(value, dtype=self._value.dtype)
        else:
            self._parent._write(self._put(self._parent.value, value), origins)  # type: ignore[misc]

    def __getitem__(self, index: Any) -> TracedArray:
        parts = index if isinstance(index, tuple) else (index,)
        plain = tuple(np.asarray(p) if isinstance(p, list) else bare(p) for p in parts)
        origins = self.origins | _origins(parts)
        result = _guarded(lambda: self.value[plain], origins)
        basic = all(p is None or p is Ellipsis or isinstance(p, (int, slice, np.integer)) for p in plain)
        if not basic or (result.ndim == 0 and Ellipsis not in plain):
            return TracedArray(result, origins)
        return self._view(lambda whole: whole[plain], lambda whole, new: whole.at[plain].set(new))

    def __setitem__(self, index: Any, item: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        plain = tuple(np.asarray(p) if isinstance(p, list) else bare(p) for p in parts)
        origins = _origins((parts, item))
        item = jnp.stack(bare(item)) if isinstance(item, (list, tuple)) else bare(item)
        self._write(_guarded(lambda: self.value.at[plain].set(item), origins), origins)

    def reshape(self, *shape: Any) -> TracedArray:
        """See ``np.reshape``."""
        wanted = bare(shape[0] if len(shape) == 1 else shape)
        return self._view(lambda v: v.reshape(wanted), lambda v, new: new.reshape(v.shape))

    def transpose(self, *axes: Any) -> TracedArray:
        """See ``np.transpose``."""
        order = axes[0] if len(axes) == 1 else axes
        order = tuple(int(a) % self.ndim for a in order) if order else tuple(range(self.ndim))[::-1]
        back = tuple(int(i) for i in np.argsort(order))
        return self._view(lambda v: v.transpose(order), lambda v, new: jnp.transpose(new, back))

    def swapaxes(self, axis1: int, axis2: int) -> TracedArray:
        """See ``np.swapaxes``."""
        return self._view(lambda v: v.swapaxes(axis1, axis2), lambda v, new: jnp.swapaxes(new, axis1, axis2))

    def squeeze(self, axis: Any = None) -> TracedArray:
        """See ``np.squeeze``."""
        return self.reshape(jnp.squeeze(self.value, axis).shape)

    def ravel(self) -> TracedArray:
        """See ``np.ravel``."""
        return self.reshape((-1,))

    @property
    def T(self) -> TracedArray:
        """The transpose."""
        return self.transpose()

    def copy(self) -> TracedArray:
        """Copy that is nobody's view."""
        return TracedArray(self.value, self.origins, self.last)

    def flatten(self) -> TracedArray:
        """As ``ravel``, always a copy."""
        return TracedArray(self.value.ravel(), self.origins)

    def fill(self, item: Any) -> None:
        """Write one value everywhere."""
        self[...] = item

    # --- NumPy's protocols ------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        name = ufunc.__name__
        twin = UFUNCS.get(name) or getattr(jnp, name, None) or getattr(jsp, name, None)
        if twin is not None and method != "__call__":
            twin = getattr(twin, method, None)
        if twin is None or kwargs.pop("where", True) is not True:
            _unsupported(f"np.{name}" + ("" if method == "__call__" else f".{method}"))
        origins = _origins(inputs)
        result = _guarded(lambda: twin(*map(bare, inputs), **bare(kwargs)), origins)
        return wrapped(result, origins) if out is None else _assigned(out[0], result, origins)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        own = FUNCTIONS.get(func)
        origins = _origins((args, tuple(kwargs.values())))
        if own is not None:
            return _guarded(lambda: own(*args, **kwargs), origins)
        path = (getattr(func, "__module__", "") or "").split(".")[1:]
        owner: Any = jnp
        for name in path:
            owner = getattr(owner, name, None)
        twin = getattr(owner, getattr(func, "__name__", ""), None)
        if twin is None:
            _unsupported(f"{func.__module__}.{func.__name__}".replace("numpy", "np"))
        out = kwargs.get("out")
        given = {key: bare(value) for key, value in kwargs.items() if key not in ("out", "subok")}
        result = _guarded(lambda: twin(*map(bare, args), **given), origins)
        if out is not None:
            return _assigned(out, result, origins)
        result = wrapped(result, origins)
        for part in result if isinstance(result, tuple) else (result,):
            if func in _MAYBE_VIEWS and isinstance(part, TracedArray):
                part.frozen = True
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        refuse_plain_array("a number traced by JAX", "which JAX cannot follow")

    # --- what NumPy arrays have ------------------------------------------------------------------------------

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
    def real(self) -> TracedArray:
        """The number itself."""
        return self

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self._concrete("a branch"))

    def __float__(self) -> float:
        return float(self._concrete("float(x)"))

    def __int__(self) -> int:
        return int(self._concrete("int(x)"))

    def __index__(self) -> int:
        return int(self._concrete("an index or a shape"))

    def item(self) -> Any:
        """As a Python number: only of constants."""
        return self._concrete("x.item()")

    def tolist(self) -> Any:
        """As a list: only of constants."""
        return self._concrete("x.tolist()")

    def _concrete(self, what: str) -> Any:
        value = self.value
        if not isinstance(value, jax.core.Tracer):
            return np.asarray(value)[()]
        return _ask(self.origins, what)

    def __repr__(self) -> str:
        return f"TracedArray({self.value!r})"

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            raise unsupported_attribute(name, hasattr(np.ndarray, name) and not name.startswith("_"))
        function = getattr(np, name)
        return lambda *args, **kwargs: function(self, *args, **kwargs)

    def astype(self, dtype: Any, copy: bool = True) -> TracedArray:
        """See ``np.ndarray.astype``."""
        return TracedArray(self.value.astype(dtype), self.origins)


_METHODS = frozenset(
    (
        "sum",
        "mean",
        "prod",
        "max",
        "min",
        "dot",
        "cumsum",
        "cumprod",
        "clip",
        "repeat",
        "take",
        "argmax",
        "argmin",
        "argsort",
        "std",
        "var",
        "any",
        "all",
        "trace",
        "diagonal",
        "round",
        "nonzero",
    )
)
_MAYBE_VIEWS = frozenset(
    (
        np.moveaxis,
        np.expand_dims,
        np.split,
        np.array_split,
        np.flip,
        np.diagonal,
        np.diag,
        np.broadcast_to,
        np.atleast_1d,
        np.atleast_2d,
        np.rollaxis,
        np.broadcast_arrays,
        np.matrix_transpose,
    )
)
"""Functions whose result shares memory in NumPy: it must not be written into here."""


def bare(item: Any) -> Any:
    """Without the wrapper, inside containers too."""
    if isinstance(item, TracedArray):
        return item.value
    if isinstance(item, (list, tuple)):
        parts = [bare(part) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
    if isinstance(item, dict):
        return {key: bare(part) for key, part in item.items()}
    return item


def wrapped(result: Any, origins: frozenset[int]) -> Any:
    """What a function of jax.numpy returned, as the traced function expects it."""
    if isinstance(result, jax.Array):
        return TracedArray(result, origins)
    if isinstance(result, (list, tuple)):
        parts = [wrapped(part, origins) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return result


def _origins(item: Any) -> frozenset[int]:
    if isinstance(item, TracedArray):
        return item.origins
    if isinstance(item, (list, tuple)):
        return frozenset().union(*map(_origins, item))
    return frozenset()


def _guarded(call: Callable[[], Any], origins: frozenset[int]) -> Any:
    try:
        return call()
    except VALUE_DEPENDENT:  # a mask, counts: known by value they do no harm, if they are constants
        constants = origins - {ACTIVE}
        return _ask(constants or origins, "an index or a shape")


def _ask(origins: frozenset[int], what: str) -> NoReturn:
    if ACTIVE not in origins and origins:
        raise NeedsConcrete(origins)
    raise DerivativeError(
        Complaint(
            "E608",
            f"JAX cannot trace this function: {what} depends on the value of the active argument",
            user_location(),
            "np.where(condition, a, b) instead of if; or choose backend 'forward', which follows branches",
        )
    )


def _assigned(out: Any, value: Any, origins: frozenset[int]) -> Any:
    if not isinstance(out, TracedArray):
        refuse_write("a number traced by JAX")
    if not out.ndim:  # a number gets a new value, it is not written into
        return TracedArray(value, origins | out.origins)
    out._write(jnp.broadcast_to(value, out.shape), origins)
    return out


def _unsupported(name: str) -> NoReturn:
    raise DerivativeError(
        Complaint(
            "E601",
            f"{name} has no counterpart in jax.numpy",
            user_location(),
            "write it with functions that have one, use gmmest.ops for ragged sums, choose backend 'forward',"
            " or make a rule of your own with @gmmest.primitive",
        )
    )
