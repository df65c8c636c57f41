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

from gmmest.derivatives.refusals import (
    refuse_dropping,
    refuse_leaked,
    refuse_plain_array,
    refuse_unsupported,
    refuse_write,
    unsupported_attribute,
)
from gmmest.derivatives.rules.table import RULES, UFUNC_METHODS

__all__ = ["DualArray", "Level", "leading_level"]

_numbers = itertools.count(1)


class Level:
    """One differentiation under way: its rank among nested ones, its number of partials, and whether it still runs."""

    __slots__ = ("number", "open", "product", "seed", "size")

    def __init__(self, size: int, product: bool = True) -> None:
        self.number = next(_numbers)
        self.size = size
        self.product = product  # whether D.T @ s is one product; switched off by a benchmark only
        self.seed: Any = None  # the buffer of the active vector, while its partials are the identity
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
        rule = RULES.get(ufunc) if method == "__call__" else UFUNC_METHODS.get((ufunc, method))
        if rule is None:
            rule = _late_rule(ufunc, method)
        if not kwargs:
            plain = len(inputs) == 1 or type(inputs[0]) is np.ndarray or type(inputs[1]) is np.ndarray
            if not plain:
                return rule(leading_level(inputs), *inputs)
            if not self.level.open:
                refuse_leaked()
            return rule(self.level, *inputs)
        out = kwargs.pop("out", None)
        if kwargs.pop("where", True) is not True:
            refuse_unsupported(f"np.{ufunc.__name__}(where=...)", "use np.where on the result")
        _check_dtype(ufunc, kwargs)
        # the target stands among the operands: it may belong to an older level than the result
        result = _with_options(rule, ufunc, method, leading_level(inputs), inputs, kwargs)
        return result if out is None else _write(out[0], result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        rule = RULES.get(func)
        if rule is None:
            refuse_unsupported(_name(func))
        if not kwargs:
            if len(args) == 1 and args[0] is self:
                if not self.level.open:
                    refuse_leaked()
                return rule(self.level, self)
            return rule(leading_level(args), *args)
        out = kwargs.pop("out", None)
        _check_dtype(func, kwargs)
        result = _with_options(rule, func, "__call__", leading_level((*args, *kwargs.values())), args, kwargs)
        return result if out is None else _write(out, result)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        refuse_plain_array("a number with derivatives", "and its derivatives to vanish")

    # --- arithmetic: straight to the rules, which saves a small function the way through NumPy -------

    def __add__(self, other: Any) -> Any:
        return _operate(np.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _operate(np.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _operate(np.subtract, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _operate(np.subtract, other, self)

    def __mul__(self, other: Any) -> Any:
        return _operate(np.multiply, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _operate(np.multiply, other, self)

    def __truediv__(self, other: Any) -> Any:
        return _operate(np.divide, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _operate(np.divide, other, self)

    def __pow__(self, other: Any) -> Any:
        return _operate(np.power, self, other)

    def __matmul__(self, other: Any) -> Any:
        return _operate(np.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _operate(np.matmul, other, self)

    # ``x += y`` writes into an array, but gives a number a new value: another name for it keeps the old

    def __iadd__(self, other: Any) -> Any:
        return _update(np.add, self, other)

    def __isub__(self, other: Any) -> Any:
        return _update(np.subtract, self, other)

    def __imul__(self, other: Any) -> Any:
        return _update(np.multiply, self, other)

    def __itruediv__(self, other: Any) -> Any:
        return _update(np.divide, self, other)

    def __ipow__(self, other: Any) -> Any:
        return _update(np.power, self, other)

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
        flipped: DualArray = self.transpose()
        return flipped

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
        entries = self.buffer[(slice(None), *index)]
        if entries.ndim == 1 and Ellipsis not in index:
            entries = entries.copy()  # x[0] is a number, not a view: it stays when x[0] is written later
        return DualArray(entries, self.level)

    def __setitem__(self, index: Any, value: Any) -> None:
        _check_open(self)
        if isinstance(value, DualArray):
            _check_open(value)
            if value.level.number > self.level.number:
                refuse_write("a number with derivatives")
        elif isinstance(value, (list, tuple)):
            value = np.stack(value) if any(isinstance(v, DualArray) for v in value) else value
        self.level.seed = None  # whatever is written into, the vector or a view of it, may be it no longer
        rows = value.buffer if self.level.owns(value) else itertools.chain([value], itertools.repeat(0.0))
        for target, row in zip(self.buffer, rows, strict=False):
            target[index] = row

    # --- what must not happen silently ------------------------------------------------------------

    def __bool__(self) -> bool:
        _check_open(self)
        return bool(self.buffer[0, ...])

    def __getattr__(self, name: str) -> NoReturn:
        raise unsupported_attribute(name, hasattr(np.ndarray, name) and not name.startswith("_"))

    def __float__(self) -> float:
        refuse_dropping("float(x)")

    def __int__(self) -> int:
        refuse_dropping("int(x)")

    def __complex__(self) -> complex:
        refuse_dropping("complex(x)")

    def __index__(self) -> int:
        refuse_dropping("x as an index")

    def item(self) -> NoReturn:
        """Refused: a Python number has no derivatives."""
        refuse_dropping("x.item()")

    def tolist(self) -> NoReturn:
        """Refused: a list of Python numbers has no derivatives."""
        refuse_dropping("x.tolist()")

    def __repr__(self) -> str:
        state = "" if self.level.open else ", leaked"
        return f"DualArray(shape={self.shape}, partials={self.level.size}{state})"

    __hash__ = None  # type: ignore[assignment]

    # --- methods that arrays have, by way of the functions ----------------------------------------

    def sum(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.sum``."""
        return _call(np.sum, self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.mean``."""
        return _call(np.mean, self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.prod``."""
        return _call(np.prod, self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.max``."""
        return _call(np.max, self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """See ``np.min``."""
        return _call(np.min, self, axis=axis, keepdims=keepdims)

    def std(self, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
        """See ``np.std``."""
        return _call(np.std, self, axis=axis, ddof=ddof, keepdims=keepdims)

    def var(self, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
        """See ``np.var``."""
        return _call(np.var, self, axis=axis, ddof=ddof, keepdims=keepdims)

    def dot(self, other: Any) -> Any:
        """See ``np.dot``."""
        return _call(np.dot, self, other)

    def cumsum(self, axis: Any = None) -> Any:
        """See ``np.cumsum``."""
        return _call(np.cumsum, self, axis=axis)

    def clip(self, min: Any = None, max: Any = None) -> Any:  # noqa: A002  NumPy's names
        """See ``np.clip``."""
        return _call(np.clip, self, min, max)

    def repeat(self, repeats: Any, axis: Any = None) -> Any:
        """See ``np.repeat``."""
        return _call(np.repeat, self, repeats, axis=axis)

    def take(self, indices: Any, axis: Any = None) -> Any:
        """See ``np.take``."""
        return _call(np.take, self, indices, axis=axis)

    def trace(self, offset: int = 0) -> Any:
        """See ``np.trace``."""
        return _call(np.trace, self, offset)

    def diagonal(self, offset: int = 0) -> Any:
        """See ``np.diagonal``."""
        return _call(np.diagonal, self, offset)

    def reshape(self, *shape: Any) -> Any:
        """See ``np.reshape``."""
        return _call(np.reshape, self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Any:
        """See ``np.transpose``."""
        return _call(np.transpose, self, (axes[0] if len(axes) == 1 else axes) or None)

    def swapaxes(self, axis1: int, axis2: int) -> Any:
        """See ``np.swapaxes``."""
        return _call(np.swapaxes, self, axis1, axis2)

    def squeeze(self, axis: Any = None) -> Any:
        """See ``np.squeeze``."""
        return _call(np.squeeze, self, axis=axis)

    def ravel(self) -> Any:
        """See ``np.ravel``."""
        return _call(np.reshape, self, -1)

    def flatten(self) -> Any:
        """As ``ravel``, always a copy."""
        return self.copy().ravel()

    def copy(self) -> DualArray:
        """Copy that shares no memory."""
        _check_open(self)
        return DualArray(self.buffer.copy(), self.level)

    def conj(self) -> DualArray:
        """The number itself: duals are real."""
        return self

    def fill(self, value: Any) -> None:
        """Write one value everywhere."""
        self[...] = value

    def astype(self, dtype: Any, copy: bool = True) -> DualArray:
        """The number itself for float64; any other type would drop digits or derivatives and is refused."""
        if np.dtype(dtype) != np.float64:
            refuse_dropping(f"x.astype({np.dtype(dtype)})")
        return self.copy() if copy else self

    def argmax(self, axis: Any = None) -> Any:
        """Position of the largest value (a plain integer)."""
        return _call(np.argmax, self, axis=axis)

    def argmin(self, axis: Any = None) -> Any:
        """Position of the smallest value (a plain integer)."""
        return _call(np.argmin, self, axis=axis)

    def argsort(self, axis: int = -1) -> Any:
        """Order of the values (plain integers)."""
        return _call(np.argsort, self, axis=axis)

    def any(self, axis: Any = None) -> Any:
        """See ``np.any``."""
        return _call(np.any, self, axis=axis)

    def all(self, axis: Any = None) -> Any:
        """See ``np.all``."""
        return _call(np.all, self, axis=axis)


# --- dispatch ------------------------------------------------------------------------------------------


_PLAIN = frozenset([np.ndarray, float, int, np.float64, np.int64, bool])


def _operate(ufunc: Any, a: Any, b: Any) -> Any:
    """``ufunc(a, b)`` of which at least one is a dual number."""
    if type(a) is DualArray:
        level = a.level
        if type(b) is DualArray:
            if b.level is not level:
                return ufunc(a, b)
        elif type(b) not in _PLAIN:
            return ufunc(a, b)
    elif type(a) in _PLAIN:
        level = b.level
    else:
        return ufunc(a, b)
    if not level.open:
        refuse_leaked()
    return RULES[ufunc](level, a, b)


def _update(ufunc: Any, target: DualArray, other: Any) -> Any:
    if target.buffer.ndim == 1:
        return _operate(ufunc, target, other)
    return ufunc(target, other, out=(target,))


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _duals(arguments: Any) -> Iterator[DualArray]:
    for argument in arguments:
        if type(argument) is DualArray:
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _duals(argument)


def leading_level(arguments: Any) -> Level:
    """The innermost open differentiation that any of the arguments belongs to."""
    leading: Level | None = None
    for argument in arguments:
        if type(argument) is DualArray:
            _check_open(argument)
            if leading is None or argument.level.number > leading.number:
                leading = argument.level
        elif type(argument) is list or type(argument) is tuple:
            for dual in _duals(argument):
                _check_open(dual)
                if leading is None or dual.level.number > leading.number:
                    leading = dual.level
    if leading is None:  # the dual number hides in a container that NumPy looked into, or is only the target
        refuse_dropping("this nesting of containers")
    return leading


def _late_rule(ufunc: Any, method: str) -> Any:
    """The rules of scipy.special are loaded when one of its functions first meets a dual number."""
    if method == "__call__" and "scipy.special" in sys.modules:
        from gmmest.derivatives.rules import special  # noqa: F401  registers

        rule = RULES.get(ufunc)
        if rule is not None:
            return rule
    prefix = "np" if getattr(np, ufunc.__name__, None) is ufunc else "scipy.special"
    return refuse_unsupported(f"{prefix}.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}"))


def _with_options(rule: Any, function: Any, method: str, level: Level, args: Any, kwargs: Any) -> Any:
    try:
        return rule(level, *args, **kwargs)
    except TypeError as error:
        option = str(error).partition("unexpected keyword argument ")[2].partition(".")[0].strip("'")
        if not option:
            raise
        name = _name(function) + ("" if method == "__call__" else f".{method}")
        refuse_unsupported(f"{name}({option}=...)", f"leave {option}= out")


def _name(function: Any) -> str:
    module = "np" if isinstance(function, np.ufunc) else (getattr(function, "__module__", "") or "")
    return f"{module.replace('numpy', 'np')}.{getattr(function, '__name__', function)}"


_ANY_DTYPE = frozenset([np.zeros_like, np.empty_like, np.ones_like, np.full_like])


def _check_dtype(function: Any, kwargs: Any) -> None:
    if function in _ANY_DTYPE:
        return
    dtype = kwargs.pop("dtype", None)
    if dtype is not None and np.dtype(dtype) != np.float64:
        refuse_unsupported(f"{_name(function)}(dtype={np.dtype(dtype)})", "dual numbers are float64")


def _check_open(dual: DualArray) -> None:
    level = dual.level
    if not level.open:
        refuse_leaked()


def _write(out: Any, result: Any) -> Any:
    if type(out) is not DualArray:
        refuse_write("a number with derivatives")
    out[...] = result
    return out
