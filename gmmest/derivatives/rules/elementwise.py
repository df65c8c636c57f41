"""Elementwise functions: ``d f(a, b) = f_a da + f_b db``, broadcasting as NumPy does.

A factor that is infinite or NaN meets partials that are zero at points like sqrt(x) at 0, where
nothing depends on x.  ``inf * 0`` must then be 0, not NaN.  Most factors are finite wherever the
value is, so that one look at the value (a fraction of the product's cost) settles it; the others
are looked at themselves, and only where one is not finite are the products masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gmmest.derivatives.dual import DualArray, Level
from gmmest.derivatives.rules.table import RULES, rule

__all__ = ["align", "all_finite", "combine", "elementwise", "passive", "scale_partials"]

Factor = Callable[..., Any]


def align(buffer: Any, ndim: int) -> Any:
    """Put axes of length one behind the partials' axis, so that the shapes broadcast from the right."""
    missing = ndim - (buffer.ndim - 1)
    if missing <= 0:
        return buffer
    return buffer.reshape((buffer.shape[0],) + (1,) * missing + buffer.shape[1:])


def all_finite(x: Any) -> bool:
    """Whether every entry is finite: by the sum of squares, entry by entry only where that overflows."""
    if type(x) is np.float64 or type(x) is float:
        return math.isfinite(x)
    if type(x) is np.ndarray and x.ndim:
        flat = x if x.ndim == 1 else x.ravel()
        return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())
    return math.isfinite(x) if np.ndim(x) == 0 else bool(np.all(np.isfinite(x)))


def elementwise(ufunc: Any, *factors: Factor, tame: bool = False) -> None:
    """Register an elementwise function by its partial derivatives.

    Parameters
    ----------
    ufunc : function of ``len(factors)`` arrays
    *factors : callable
        ``factors[i](*values, result)`` is the derivative with respect to argument i.
    tame : bool
        The factors are finite, and made without warnings, wherever the result is finite.
    """
    if len(factors) == 1:
        RULES[ufunc] = _unary(ufunc, factors[0], tame)
    else:
        RULES[ufunc] = _many(ufunc, factors)


def _unary(ufunc: Any, factor: Factor, tame: bool) -> Callable[..., Any]:
    def apply(level: Level, x: Any) -> Any:
        buffer = x.buffer
        if type(buffer) is not np.ndarray:
            value = buffer[0, ...]
            result = ufunc(value)
            with np.errstate(all="ignore"):
                return combine(level, result, [(x, factor(value, result))])
        out = np.empty(buffer.shape)
        value, result = (buffer[0], out[0]) if buffer.ndim > 1 else (buffer[0, ...], out[0, ...])
        ufunc(value, result)
        if tame and all_finite(result):
            np.multiply(buffer[1:], factor(value, result), out[1:])
        else:
            with np.errstate(all="ignore"):
                scale_partials(buffer[1:], factor(value, result), out[1:])
        return DualArray(out, level)

    return apply


def _many(ufunc: Any, factors: tuple[Factor, ...]) -> Callable[..., Any]:
    def apply(level: Level, *args: Any) -> Any:
        values = [level.value(a) for a in args]
        result = ufunc(*values)
        with np.errstate(all="ignore"):
            terms = [(a, f(*values, result)) for a, f in zip(args, factors, strict=True) if level.owns(a)]
            return combine(level, result, terms)

    return apply


def combine(level: Level, result: Any, terms: list[tuple[Any, Any]]) -> DualArray:
    """The dual number with value ``result`` and partials ``sum(factor * partials of x)``."""
    ndim = np.ndim(result)
    nested = type(result) is DualArray or any(
        type(x.buffer) is not np.ndarray or type(factor) is DualArray for x, factor in terms
    )
    if nested:
        partials = 0.0
        for x, factor in terms:
            partials = partials + _scaled(align(x.buffer[1:], ndim), factor)
        return join(result, np.broadcast_to(partials, (level.size, *np.shape(result))), level)
    out = np.empty((level.size + 1, *np.shape(result)))
    out[0] = result
    for i, (x, factor) in enumerate(terms):
        partials = align(x.buffer[1:], ndim)
        if i == 0:
            scale_partials(partials, factor, out[1:])
        else:
            out[1:] += scale_partials(partials, factor, np.empty_like(out[1:]))
    return DualArray(out, level)


def join(value: Any, partials: Any, level: Level) -> DualArray:
    """A dual number from value and partials of any kind (plain, or duals of an outer level)."""
    return DualArray(
        np.concatenate([value[None] if np.ndim(value) else np.reshape(value, (1,)), partials]), level
    )


def scale_partials(partials: Any, factor: Any, out: Any) -> Any:
    """``out = partials * factor`` with 0 where the partial is 0, whatever the factor."""
    if all_finite(factor):
        return np.multiply(partials, factor, out)
    with np.errstate(invalid="ignore"):
        np.multiply(partials, factor, out=out)
    out[np.broadcast_to(partials == 0.0, out.shape)] = 0.0
    return out


def _scaled(partials: Any, factor: Any) -> Any:
    """The same for nested duals: the factor is made harmless where every partial, of any order, is zero."""
    plain = _innermost(factor)
    if all_finite(plain):
        return partials * factor
    idle = _idle(partials)
    return np.where(idle, 0.0, np.where(idle, 0.0, factor) * partials)


def _innermost(x: Any) -> Any:
    while type(x) is DualArray:
        x = x.buffer
    return np.asarray(x)


def _idle(partials: Any) -> Any:
    """Where a partial and all its own partials are zero."""
    if type(partials) is not DualArray:
        return partials == 0.0
    idle = _idle(partials.buffer[0, ...])
    for row in partials.buffer[1:]:
        idle = idle & _idle(row)
    return idle


def passive(*functions: Any) -> None:
    """Register functions whose result has no derivative (comparisons, signs, positions, shapes)."""
    for function in functions:

        def apply(level: Level, *args: Any, _function: Any = function, **kwargs: Any) -> Any:
            return _function(*(level.value(a) for a in args), **kwargs)

        RULES[function] = apply


# --- sums and products: the whole buffer at once where one side is constant ------------------------------


@rule(np.add)
def _add(level: Level, a: Any, b: Any) -> Any:
    return _sum_of(level, a, b, np.add)


@rule(np.subtract)
def _subtract(level: Level, a: Any, b: Any) -> Any:
    return _sum_of(level, a, b, np.subtract)


def _sum_of(level: Level, a: Any, b: Any, ufunc: Any) -> Any:
    own_a = type(a) is DualArray and a.level is level
    own_b = type(b) is DualArray and b.level is level
    if own_a and own_b:
        ndim = max(a.ndim, b.ndim)
        return DualArray(ufunc(align(a.buffer, ndim), align(b.buffer, ndim)), level)
    if own_b and b.buffer.ndim == 1 and type(b.buffer) is np.ndarray and type(a) is np.ndarray and a.ndim:
        out = np.empty((level.size + 1, *a.shape))  # an array and a number: no temporaries
        ufunc(a, b.buffer[0], out[0])
        slopes = b.buffer[1:].reshape((-1,) + (1,) * a.ndim)
        if ufunc is np.subtract:
            np.negative(slopes, out[1:])
        else:
            out[1:] = slopes
        return DualArray(out, level)
    x = a if own_a else b
    value = ufunc(a.buffer[0, ...], b) if own_a else ufunc(a, b.buffer[0, ...])
    negative = own_b and ufunc is np.subtract
    if type(value) is DualArray or type(x.buffer) is not np.ndarray:
        return combine(level, value, [(x, -1.0 if negative else 1.0)])
    out = np.empty((level.size + 1, *value.shape))
    out[0] = value
    partials = align(x.buffer[1:], value.ndim)
    if negative:
        np.negative(partials, out[1:])
    else:
        out[1:] = partials
    return DualArray(out, level)


def _spread(buffer: Any, constant: Any) -> Any:
    """The buffer with axes that broadcast against a constant."""
    return buffer if type(constant) is float or type(constant) is int else align(buffer, np.ndim(constant))


@rule(np.multiply)
def _multiply(level: Level, a: Any, b: Any) -> Any:
    if type(a) is not DualArray or a.level is not level:
        return DualArray(_spread(b.buffer, a) * a, level)
    if type(b) is not DualArray or b.level is not level:
        return DualArray(_spread(a.buffer, b) * b, level)
    if a is b:
        return RULES[np.square](level, a)
    if a.buffer.ndim < b.buffer.ndim:
        a, b = b, a
    ndim, value_a, value_b = a.buffer.ndim - 1, a.buffer[0, ...], b.buffer[0, ...]
    if type(a.buffer) is np.ndarray and type(b.buffer) is np.ndarray:
        out = a.buffer * (value_b if value_b.ndim else value_b.item())  # the value comes with it
        if all_finite(out[0]):  # then so are the factors
            if out.ndim > 1 and b.buffer.shape == (2,):  # an array and a number with one partial
                slopes = out[1]
                slopes += value_a * b.buffer[1].item()
                return DualArray(out, level)
            rest = align(b.buffer[1:], ndim) * value_a
            if out.shape[1:] != rest.shape[1:]:
                out = np.broadcast_to(out, (level.size + 1, *rest.shape[1:])).copy()
            slopes = out[1:]
            slopes += rest
            return DualArray(out, level)
    return combine(level, value_a * value_b, [(a, value_b), (b, value_a)])


@rule(np.divide)
def _divide(level: Level, a: Any, b: Any) -> Any:
    """d(a/b) = (da - (a/b) db) / b; a finite ratio has a denominator that is not zero."""
    if not level.owns(b):
        return _scaled_down(level, a, b)
    value_a, value_b = level.value(a), b.buffer[0, ...]
    ratio = value_a / value_b
    if type(ratio) is np.float64 and math.isfinite(ratio) and level.owns(a):  # two numbers
        both = (a.buffer - ratio * b.buffer) / value_b
        both[0] = ratio
        return DualArray(both, level)
    if type(ratio) is DualArray or not all_finite(ratio):
        with np.errstate(all="ignore"):
            inverse = 1.0 / value_b
            terms = [(b, -ratio * inverse)]
            if level.owns(a):
                terms.append((a, inverse))
            return combine(level, ratio, terms)
    out = np.empty((level.size + 1, *ratio.shape))
    out[0] = ratio
    rest = np.multiply(align(b.buffer[1:], ratio.ndim), ratio, out[1:])
    if level.owns(a):
        np.subtract(align(a.buffer[1:], ratio.ndim), rest, rest)
    else:
        np.negative(rest, rest)
    rest /= value_b
    return DualArray(out, level)


def _scaled_down(level: Level, a: Any, b: Any) -> Any:
    buffer = align(a.buffer, np.ndim(b))
    if type(buffer) is not np.ndarray or type(b) is DualArray or np.all(b):
        return DualArray(buffer / b, level)
    ratio = a.buffer[0, ...] / b
    with np.errstate(all="ignore"):
        return combine(level, ratio, [(a, np.divide(1.0, b))])


@rule(np.positive, np.conjugate, np.real, np.real_if_close)
def _same(level: Level, x: Any) -> Any:
    return x.copy()


@rule(np.negative)
def _negative(level: Level, x: Any) -> Any:
    return DualArray(-x.buffer, level)


@rule(np.power, np.float_power)
def _power(level: Level, a: Any, b: Any) -> Any:
    if type(b) is int or type(b) is float:
        if b == 2:
            return RULES[np.square](level, a)
        if b == 0.5:
            return RULES[np.sqrt](level, a)
        if b == 1:
            return a.copy()
    value_a, value_b = level.value(a), level.value(b)
    result = np.power(value_a, value_b)
    terms = []
    with np.errstate(all="ignore"):
        if level.owns(a):
            slope = value_b * value_a ** (value_b - 1.0)
            terms.append((a, np.where(value_b == 0, 0.0, slope)))
        if level.owns(b):
            terms.append(
                (b, np.where(result == 0, 0.0, result * np.log(np.where(result == 0, 1.0, value_a))))
            )
        return combine(level, result, terms)


# --- one argument ---------------------------------------------------------------------------------------

_LN2, _LN10 = np.log(2.0), np.log(10.0)

_square_of_any = _unary(np.square, lambda x, y: 2.0 * x, tame=True)


@rule(np.square)
def _square(level: Level, x: Any) -> Any:
    """One product gives the value and half the partials."""
    buffer = x.buffer
    if type(buffer) is np.ndarray:
        out = buffer * buffer[0]
        if all_finite(out[0]):
            rest = out[1:]
            rest += rest
            return DualArray(out, level)
    return _square_of_any(level, x)


elementwise(np.exp, lambda x, y: y, tame=True)
elementwise(np.exp2, lambda x, y: y * _LN2, tame=True)
elementwise(np.expm1, lambda x, y: y + 1.0, tame=True)
elementwise(np.log, lambda x, y: 1.0 / x, tame=True)
elementwise(np.log2, lambda x, y: 1.0 / (x * _LN2), tame=True)
elementwise(np.log10, lambda x, y: 1.0 / (x * _LN10), tame=True)
elementwise(np.log1p, lambda x, y: 1.0 / (1.0 + x), tame=True)
elementwise(np.sqrt, lambda x, y: 0.5 / y)
elementwise(np.cbrt, lambda x, y: 1.0 / (3.0 * y * y))
elementwise(np.reciprocal, lambda x, y: -y * y)
elementwise(np.sin, lambda x, y: np.cos(x), tame=True)
elementwise(np.cos, lambda x, y: -np.sin(x), tame=True)
elementwise(np.tan, lambda x, y: 1.0 + y * y, tame=True)
elementwise(np.arcsin, lambda x, y: 1.0 / np.sqrt((1.0 - x) * (1.0 + x)))
elementwise(np.arccos, lambda x, y: -1.0 / np.sqrt((1.0 - x) * (1.0 + x)))
elementwise(np.arctan, lambda x, y: 1.0 / (1.0 + x * x), tame=True)
elementwise(np.sinh, lambda x, y: np.cosh(x), tame=True)
elementwise(np.cosh, lambda x, y: np.sinh(x), tame=True)
elementwise(np.tanh, lambda x, y: 1.0 - y * y, tame=True)
elementwise(np.arcsinh, lambda x, y: 1.0 / np.hypot(x, 1.0), tame=True)
elementwise(np.arccosh, lambda x, y: 1.0 / np.sqrt((x - 1.0) * (x + 1.0)))
elementwise(np.arctanh, lambda x, y: 1.0 / ((1.0 - x) * (1.0 + x)))
elementwise(np.absolute, lambda x, y: np.sign(x), tame=True)
elementwise(np.fabs, lambda x, y: np.sign(x), tame=True)
elementwise(np.deg2rad, lambda x, y: np.pi / 180.0, tame=True)
elementwise(np.radians, lambda x, y: np.pi / 180.0, tame=True)
elementwise(np.rad2deg, lambda x, y: 180.0 / np.pi, tame=True)
elementwise(np.degrees, lambda x, y: 180.0 / np.pi, tame=True)

# --- two arguments; a tie of maximum or minimum shares the derivative equally, as JAX does ----------------


def _wins(x: Any, other: Any) -> Any:
    return np.where(x > other, 1.0, np.where(x == other, 0.5, 0.0))


elementwise(np.maximum, lambda a, b, y: _wins(a, b), lambda a, b, y: _wins(b, a))
elementwise(np.fmax, lambda a, b, y: _wins(a, b), lambda a, b, y: _wins(b, a))
elementwise(np.minimum, lambda a, b, y: _wins(b, a), lambda a, b, y: _wins(a, b))
elementwise(np.fmin, lambda a, b, y: _wins(b, a), lambda a, b, y: _wins(a, b))
elementwise(np.arctan2, lambda a, b, y: b / (a * a + b * b), lambda a, b, y: -a / (a * a + b * b))
elementwise(np.hypot, lambda a, b, y: a / y, lambda a, b, y: b / y)
elementwise(np.logaddexp, lambda a, b, y: np.exp(a - y), lambda a, b, y: np.exp(b - y))
elementwise(np.logaddexp2, lambda a, b, y: np.exp2(a - y), lambda a, b, y: np.exp2(b - y))
elementwise(
    np.copysign,
    lambda a, b, y: np.where(np.signbit(a) == np.signbit(b), 1.0, -1.0),
    lambda a, b, y: 0.0 * y,
)
elementwise(np.remainder, lambda a, b, y: np.ones(np.shape(y)), lambda a, b, y: -np.floor(a / b))
elementwise(np.fmod, lambda a, b, y: np.ones(np.shape(y)), lambda a, b, y: -np.trunc(a / b))
elementwise(np.sinc, lambda x, y: np.where(x == 0, 0.0, (np.cos(np.pi * x) - y) / np.where(x == 0, 1.0, x)))


@rule(np.divmod)
def _divmod(level: Level, a: Any, b: Any) -> Any:
    return np.floor_divide(a, b), np.remainder(a, b)


@rule(np.modf)
def _modf(level: Level, x: Any) -> Any:
    whole = np.trunc(x)
    return x - whole, whole


@rule(np.ldexp)
def _ldexp(level: Level, x: Any, exponent: Any) -> Any:
    return x * np.exp2(exponent)


@rule(np.round)
def _round(level: Level, a: Any, decimals: int = 0) -> Any:
    return np.round(level.value(a), decimals)


@rule(np.imag)
def _imag(level: Level, val: Any) -> Any:
    return np.zeros(val.shape)


@rule(np.nan_to_num)
def _nan_to_num(level: Level, x: Any, copy: bool = True, nan: float = 0.0) -> Any:
    return np.where(np.isfinite(x), x, np.nan_to_num(level.value(x), nan=nan))


passive(
    np.sign, np.floor, np.ceil, np.rint, np.trunc, np.floor_divide, np.heaviside, np.signbit,
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal,
    np.isfinite, np.isnan, np.isinf, np.logical_and, np.logical_or, np.logical_xor, np.logical_not,
    np.shape, np.ndim, np.size, np.iscomplexobj, np.isrealobj, np.any, np.all, np.nonzero,
    np.count_nonzero, np.argmax, np.argmin, np.argsort, np.searchsorted, np.allclose, np.isclose,
    np.array_equal, np.result_type, np.iscomplex, np.isreal, np.isneginf, np.isposinf, np.digitize,
    np.argwhere, np.flatnonzero, np.may_share_memory, np.shares_memory,
)  # fmt: skip
