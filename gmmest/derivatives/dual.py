"""Dual numbers as one array: a value and K partial derivatives carried through NumPy.

A :class:`DualArray` of shape ``s`` keeps one C-contiguous buffer of shape ``(K+1, *s)``; row 0 is
the value, rows 1..K are the partials.  With the partials in front of the shape

* elementwise rules are vectorised over the rows of the data, NumPy's broadcasting goes on working;
* a linear function of the array, above all ``D.T @ s``, is *one* matrix product for value and
  partials together, and BLAS does it.

Nested derivatives: every differentiation opens a fresh :class:`Level`.  In an operation the
newest level leads, and dual numbers of other levels are constants of it; the buffer of an inner
dual number may itself be an outer dual number, so that the rules need not know of nesting.

References
----------
Griewank, A. and A. Walther (2008), *Evaluating Derivatives*, 2nd ed., SIAM, chapter 3.
Siskind, J. M. and B. A. Pearlmutter (2005), "Perturbation confusion and referential transparency".
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from gmmest.derivatives.location import user_location
from gmmest.derivatives.rules.table import RULES, UFUNC_METHODS
from gmmest.errors import Complaint, DerivativeError

__all__ = ["DualArray", "Level"]

_numbers = itertools.count(1)


class Level:
    """One differentiation under way: its rank among nested ones, its number of partials, and whether it still runs."""

    __slots__ = ("number", "open", "size")

    def __init__(self, size: int) -> None:
        self.number = next(_numbers)
        self.size = size
        self.open = True

    def owns(self, x: object) -> bool:
        """Whether ``x`` is a dual number of this level."""
        return type(x) is DualArray and x.level is self

    def value(self, x: Any) -> Any:
        """``x`` without this level's partials."""
        return x.buffer[0, ...] if self.owns(x) else x

    def constant(self, value: Any) -> DualArray:
        """A dual number of this level whose partials are zero."""
        if isinstance(value, DualArray):
            return DualArray(np.concatenate([value[None], np.zeros((self.size, *value.shape))]), self)
        plain = np.asarray(value, dtype=np.float64)
        buffer = np.zeros((self.size + 1, *plain.shape))
        buffer[0] = plain
        return DualArray(buffer, self)


class DualArray(NDArrayOperatorsMixin):
    """An array with partial derivatives; made by the ``forward`` backend, not by hand.

    Parameters
    ----------
    buffer : array (K + 1, *shape)
        Value and partials.
    level : Level
        The differentiation that it belongs to.
    """

    __slots__ = ("buffer", "level")
    __array_priority__ = 1000.0

    def __init__(self, buffer: Any, level: Level) -> None:
        self.buffer = buffer
        self.level = level

    # --- NumPy's protocols ------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        rule = RULES.get(ufunc) if method == "__call__" else UFUNC_METHODS.get((ufunc, method))
        if rule is None:
            rule = _late_rule(ufunc) if method == "__call__" else None
        if rule is None:
            name = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
            _unsupported(name)
        if not kwargs.get("where", True) is True:
            _unsupported(f"np.{ufunc.__name__}(where=...)", "use np.where on the result")
        result = rule(_leading_level(inputs), *inputs, **kwargs)
        return result if out is None else _write(out[0], result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        rule = RULES.get(func)
        if rule is None:
            module = getattr(func, "__module__", "") or ""
            name = getattr(func, "__name__", str(func))
            _unsupported(f"{module.replace('numpy', 'np')}.{name}")
        level = _leading_level((*args, *kwargs.values()))
        return rule(level, *args, **kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise DerivativeError(
            Complaint(
                "E602",
                "a number with derivatives was about to become a plain array, and its derivatives to vanish",
                user_location(),
                "np.stack([...]) instead of np.array([...]); np.matmul or @ instead of array.dot(x);"
                " np.zeros_like(x) as the array that is written into",
            )
        )

    # --- shape --------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        shape: tuple[int, ...] = self.buffer.shape[1:]
        return shape

    @property
    def ndim(self) -> int:
        """Number of axes of the value."""
        return int(self.buffer.ndim) - 1

    @property
    def size(self) -> int:
        """Number of entries of the value."""
        return int(np.prod(self.shape))

    @property
    def dtype(self) -> np.dtype[np.float64]:
        """Always float64."""
        return np.dtype(np.float64)

    @property
    def T(self) -> DualArray:
        """The transpose."""
        return self.transpose()

    @property
    def real(self) -> DualArray:
        """The number itself: duals are real."""
        return self

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a number without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    # --- indexing -----------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> DualArray:
        _check_open(self)
        index = index if isinstance(index, tuple) else (index,)
        if len(index) > 1 and any(isinstance(i, (np.ndarray, list)) for i in index):
            # several indices, one of them an array: NumPy may move its axes to the front
            return DualArray(np.stack([row[index] for row in self.buffer]), self.level)
        return DualArray(self.buffer[(slice(None), *index)], self.level)

    def __setitem__(self, index: Any, value: Any) -> None:
        _check_open(self)
        if isinstance(value, DualArray) and value.level.number > self.level.number:
            _refuse_write()
        rows = value.buffer if self.level.owns(value) else itertools.chain([value], itertools.repeat(0.0))
        for target, row in zip(self.buffer, rows, strict=False):
            target[index] = row

    # --- what must not happen silently ------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self.buffer[0])

    def __float__(self) -> float:
        _cannot("float(x)")

    def __int__(self) -> int:
        _cannot("int(x)")

    def __complex__(self) -> complex:
        _cannot("complex(x)")

    def __index__(self) -> int:
        _cannot("x as an index")

    def item(self) -> NoReturn:
        """Refused: a Python number has no derivatives."""
        _cannot("x.item()")

    def tolist(self) -> NoReturn:
        """Refused: a list of Python numbers has no derivatives."""
        _cannot("x.tolist()")

    def __repr__(self) -> str:
        state = "" if self.level.open else ", leaked"
        return f"DualArray(shape={self.shape}, partials={self.level.size}{state})"

    __hash__ = None  # type: ignore[assignment]

    # --- methods that arrays have, by way of the functions ----------------------------------------

    def sum(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.sum``."""
        return np.sum(self, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]

    def mean(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.mean``."""
        return np.mean(self, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]

    def prod(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.prod``."""
        return np.prod(self, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]

    def max(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.max``."""
        return np.max(self, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]

    def min(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.min``."""
        return np.min(self, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]

    def dot(self, other: Any) -> Any:
        """See ``np.dot``."""
        return np.dot(self, other)  # type: ignore[call-overload]

    def cumsum(self, axis: Any = None) -> Any:
        """See ``np.cumsum``."""
        return np.cumsum(self, axis=axis)  # type: ignore[call-overload]

    def clip(self, min: Any = None, max: Any = None) -> Any:  # noqa: A002  NumPy's names
        """See ``np.clip``."""
        return np.clip(self, min, max)  # type: ignore[call-overload]

    def repeat(self, repeats: Any, axis: Any = None) -> Any:
        """See ``np.repeat``."""
        return np.repeat(self, repeats, axis=axis)  # type: ignore[call-overload]

    def take(self, indices: Any, axis: Any = None) -> Any:
        """See ``np.take``."""
        return np.take(self, indices, axis=axis)  # type: ignore[call-overload]

    def reshape(self, *shape: Any) -> DualArray:
        """See ``np.reshape``."""
        wanted = shape[0] if len(shape) == 1 else shape
        result: DualArray = np.reshape(self, wanted)  # type: ignore[call-overload]
        return result

    def transpose(self, *axes: Any) -> DualArray:
        """See ``np.transpose``."""
        wanted = axes[0] if len(axes) == 1 else axes
        result: DualArray = np.transpose(self, wanted or None)  # type: ignore[call-overload]
        return result

    def swapaxes(self, axis1: int, axis2: int) -> DualArray:
        """See ``np.swapaxes``."""
        result: DualArray = np.swapaxes(self, axis1, axis2)  # type: ignore[call-overload]
        return result

    def squeeze(self, axis: Any = None) -> DualArray:
        """See ``np.squeeze``."""
        result: DualArray = np.squeeze(self, axis=axis)  # type: ignore[call-overload]
        return result

    def ravel(self) -> DualArray:
        """See ``np.ravel``."""
        return self.reshape(-1)

    def flatten(self) -> DualArray:
        """As ``ravel``, always a copy."""
        return self.copy().reshape(-1)

    def copy(self) -> DualArray:
        """A copy."""
        return DualArray(self.buffer.copy(), self.level)

    def astype(self, dtype: Any, copy: bool = True) -> DualArray:
        """The number itself for float64; any other type would drop digits or derivatives and is refused."""
        if np.dtype(dtype) != np.float64:
            _cannot(f"x.astype({np.dtype(dtype)})")
        return self.copy() if copy else self

    def argmax(self, axis: Any = None) -> Any:
        """Position of the largest value (a plain integer)."""
        return np.argmax(self, axis=axis)  # type: ignore[call-overload]

    def argmin(self, axis: Any = None) -> Any:
        """Position of the smallest value (a plain integer)."""
        return np.argmin(self, axis=axis)  # type: ignore[call-overload]

    def argsort(self, axis: int = -1) -> Any:
        """Order of the values (plain integers)."""
        return np.argsort(self, axis=axis)  # type: ignore[call-overload]


# --- dispatch ------------------------------------------------------------------------------------------


def _duals(arguments: Any) -> Iterator[DualArray]:
    for argument in arguments:
        if type(argument) is DualArray:
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _duals(argument)


def _leading_level(arguments: Any) -> Level:
    leading: Level | None = None
    for dual in _duals(arguments):
        _check_open(dual)
        if leading is None or dual.level.number > leading.number:
            leading = dual.level
    if leading is None:  # the dual number hides in a container that NumPy looked into
        _cannot("this nesting of containers")
    return leading


def _late_rule(ufunc: Any) -> Any:
    """The rules of scipy.special are loaded when one of its functions first meets a dual number."""
    if "scipy.special" not in sys.modules:
        return None
    from gmmest.derivatives.rules import special  # noqa: F401  registers

    return RULES.get(ufunc)


def _check_open(dual: DualArray) -> None:
    if not dual.level.open:
        raise DerivativeError(
            Complaint(
                "E603",
                "a number with derivatives outlived the differentiation that made it",
                user_location(),
                "do not store intermediate results of the function in a variable outside it; return them instead",
            )
        )


def _write(out: Any, result: Any) -> Any:
    if type(out) is not DualArray:
        _refuse_write()
    out[...] = result
    return out


def _refuse_write() -> NoReturn:
    raise DerivativeError(
        Complaint(
            "E604",
            "a number with derivatives was about to be written into a plain array, which cannot hold them",
            user_location(),
            "write x = x + y instead of x += y; make the array to be filled with np.zeros_like of the argument",
        )
    )


def _cannot(what: str) -> NoReturn:
    raise DerivativeError(
        Complaint(
            "E605",
            f"{what} would drop the derivatives",
            user_location(),
            "keep arrays as arrays (a 0-d array is a scalar); branches on x > 0 and the like are fine",
        )
    )


def _unsupported(name: str, advice: str = "") -> NoReturn:
    known = sorted({f"{key.__name__}" for key in RULES if hasattr(key, "__name__")})
    raise DerivativeError(
        Complaint(
            "E601",
            f"{name} has no rule for dual numbers",
            user_location(),
            (advice + "; " if advice else "")
            + "write it with functions that have one, use gmmest.ops for ragged sums, choose --grad fd,"
            + f" or give the function a derivative of its own; rules exist for: {', '.join(known)}",
        )
    )
