"""Derivatives of plain functions with respect to the arguments that one asks for.

Every operator has the signature ``op(f, *args, wrt=0, backend="auto", constants=None)``:

* ``wrt`` is the position or the name of the active argument, or several of them; a dict with the
  same keys comes back then.  What is not in ``wrt`` is constant and costs nothing.
* ``backend`` is a name or one of :mod:`gmmest.derivatives.backends`.
* ``constants`` are keyword arguments of ``f``, passed through.

=======================  =================================================================
``value_and_jacobian``   f and J, of shape ``(*f.shape, *x.shape)``
``value_and_gradient``   f, a number, and its gradient, of the shape of x
``derivative``           df/dx for one number x, of the shape of f
``jvp``                  ``J t``, one tangent t: the price of about two evaluations
``vjp``                  ``v'J``, one cotangent v
``hessian``              second derivatives, ``(*f.shape, *x.shape, *x.shape)``
``hvp``                  ``H t``, the derivative of J along t
=======================  =================================================================

One-off calls trace, compile and allocate each time; :func:`.prepare` does so once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives import derived
from gmmest.derivatives.arguments import Binding, Wrt, bind, is_traced
from gmmest.derivatives.backends import Backend, as_backend
from gmmest.errors import Complaint, DerivativeError

__all__ = [
    "derivative",
    "gradient",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "value_and_gradient",
    "value_and_jacobian",
    "vjp",
]

Array = NDArray[np.float64]
Function = Callable[..., Any]
Constants = Mapping[str, Any] | None


def value_and_jacobian(
    f: Function, *args: Any, wrt: Wrt = 0, backend: str | Backend = "auto", constants: Constants = None
) -> tuple[Any, Any]:
    """Value of ``f(*args)`` and its Jacobian.

    Parameters
    ----------
    f : callable
        Plain NumPy; returns one array or number.
    *args
        The point.  What is not named by ``wrt`` is constant and costs nothing.
    wrt : int, str, or several
        Position or name of the active argument.
    backend : str or Backend
        See :mod:`gmmest.derivatives.backends`.
    constants : mapping, optional
        Keyword arguments of ``f``.

    Returns
    -------
    value : array
    jacobian : array (*value.shape, *args[wrt].shape), or a dict of such
        Cost: see the table of backends; ``auto`` is one evaluation on (P+1)-fold arrays.

    Raises
    ------
    DerivativeError
        An argument that is not there or not numeric, or a function that cannot be followed.

    Examples
    --------
    The projection residual of a vector d, with respect to the scalar alone:

    >>> x = np.arange(-10.0, 11.0)
    >>> def rs(d, xs):
    ...     d0 = np.exp(-1.5 * (x - xs) ** 2)
    ...     return d - (d @ d0) / (d0 @ d0) * d0
    >>> value, slope = value_and_jacobian(rs, np.sin(x), 0.3, wrt=1, backend="forward")
    >>> value.shape, slope.shape
    ((21,), (21,))
    """
    result: tuple[Any, Any] = _run(_value_and_jacobian, f, args, wrt, backend, constants)
    return result


def jacobian(
    f: Function, *args: Any, wrt: Wrt = 0, backend: str | Backend = "auto", constants: Constants = None
) -> Any:
    """Jacobian alone; see :func:`value_and_jacobian`.

    Examples
    --------
    >>> jacobian(lambda a, b: a * b, np.array([1.0, 2.0]), 3.0, wrt=("a", "b"))["b"]
    array([1., 2.])
    """
    return _run(_jacobian, f, args, wrt, backend, constants)


def value_and_gradient(
    f: Function, *args: Any, wrt: Wrt = 0, backend: str | Backend = "auto", constants: Constants = None
) -> tuple[Any, Any]:
    """Value and gradient of a function that returns one number.

    With ``auto``: the hand-written derivative if there is one; else forward dual numbers for fewer
    than 256 parameters, and JAX in reverse mode from there on (see :class:`.backends.Auto`).

    Returns
    -------
    value : float
    gradient : array of the shape of the active argument, or a dict of such

    Raises
    ------
    DerivativeError
        E611: the function returned more than one number.

    Examples
    --------
    >>> value, slope = value_and_gradient(lambda b: b @ b, np.array([1.0, 2.0]))
    >>> float(value), slope
    (5.0, array([2., 4.]))
    """
    result: tuple[Any, Any] = _run(_value_and_gradient, f, args, wrt, backend, constants)
    return result


def gradient(
    f: Function, *args: Any, wrt: Wrt = 0, backend: str | Backend = "auto", constants: Constants = None
) -> Any:
    """Gradient alone; see :func:`value_and_gradient`.

    Examples
    --------
    >>> gradient(lambda b: np.sum(b**3), [1, 2])
    array([ 3., 12.])
    """
    return _run(_gradient, f, args, wrt, backend, constants)


def derivative(
    f: Function, *args: Any, wrt: Wrt = 0, backend: str | Backend = "auto", constants: Constants = None
) -> Any:
    """Derivative with respect to one number, of the shape of the value.

    Raises
    ------
    DerivativeError
        E612: the active argument is not one number.

    Examples
    --------
    >>> float(derivative(np.sin, 0.0))
    1.0
    """
    return _run(_derivative, f, args, wrt, backend, constants)


def jvp(
    f: Function,
    *args: Any,
    tangent: Any,
    wrt: Wrt = 0,
    backend: str | Backend = "auto",
    constants: Constants = None,
) -> Any:
    """Directional derivative ``J t``, of the shape of the value.

    Parameters
    ----------
    f, args, wrt, backend, constants
        See :func:`value_and_jacobian`.
    tangent : array of the shape of the active argument, or a dict of such

    Examples
    --------
    >>> jvp(np.square, np.array([1.0, 2.0]), tangent=[1.0, 0.5])
    array([2., 2.])
    """
    return _run(_jvp, f, args, wrt, backend, constants, tangent)


def vjp(
    f: Function,
    *args: Any,
    cotangent: Any,
    wrt: Wrt = 0,
    backend: str | Backend = "auto",
    constants: Constants = None,
) -> Any:
    """Vector-Jacobian product ``v'J``, of the shape of the active argument.

    Parameters
    ----------
    f, args, wrt, backend, constants
        See :func:`value_and_jacobian`.
    cotangent : array of the shape of the value

    Examples
    --------
    >>> vjp(np.square, np.array([1.0, 2.0]), cotangent=[1.0, 1.0])
    array([2., 4.])
    """
    return _run(_vjp, f, args, wrt, backend, constants, cotangent)


def hvp(
    f: Function,
    *args: Any,
    tangent: Any,
    wrt: Wrt = 0,
    backend: str | Backend = "auto",
    constants: Constants = None,
) -> Any:
    """Hessian times a tangent, ``H t``, of the shape ``(*value.shape, *x.shape)``.

    Examples
    --------
    >>> hvp(lambda b: np.sum(b**3), np.array([1.0, 2.0]), tangent=[1.0, 0.0])
    array([6., 0.])
    """
    return _run(_hvp, f, args, wrt, backend, constants, tangent)


def hessian(
    f: Function, *args: Any, wrt: Wrt = 0, backend: str | Backend = "auto", constants: Constants = None
) -> Any:
    """Second derivatives, ``(*value.shape, *x.shape, *x.shape)``.

    Forward over forward with dual numbers, natively with JAX, differences of gradients otherwise.
    With several active arguments: a dict of dicts, ``H[a][b]``.

    Examples
    --------
    >>> hessian(lambda b: b[0] * b[1] ** 2, np.array([1.0, 2.0]))
    array([[0., 4.],
           [4., 2.]])
    """
    return _run(_hessian, f, args, wrt, backend, constants)


# --- one verb of an engine each: what prepared functions call, too ----------------------------------------


def _run(
    core: Any,
    f: Function,
    args: tuple[Any, ...],
    wrt: Wrt,
    backend: str | Backend,
    constants: Constants,
    extra: Any = None,
) -> Any:
    binding, point = bind(f, args, wrt, constants)
    engine = engine_for(f, binding, args, backend)
    return core(engine, binding, point, binding.rest(args), extra)


def engine_for(f: Function, binding: Binding, args: tuple[Any, ...], backend: str | Backend) -> Any:
    """The prepared function of the backend; inside a function that JAX traces, JAX itself."""
    target = binding.target(f)
    traced = any(map(is_traced, args)) or (
        binding.keywords and any(map(is_traced, binding.keywords.values()))
    )
    if traced:
        from gmmest.derivatives.jax_bridge import InnerFunction

        return InnerFunction(target)
    return as_backend(backend).prepare(target)


def _value_and_jacobian(
    engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any
) -> tuple[Any, Any]:
    value, slopes = engine.value_and_jacobian(x, *rest)
    return _number(value), _number(binding.split(slopes, value.ndim))


def _jacobian(engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any) -> Any:
    return _value_and_jacobian(engine, binding, x, rest, extra)[1]


def _value_and_gradient(
    engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any
) -> tuple[Any, Any]:
    fused = getattr(engine, "value_and_gradient", None)
    if fused is not None:
        value, slopes = fused(x, *rest)
    else:
        value, pull = engine.value_and_vjp(x, *rest)
        slopes = pull(np.ones(np.shape(value)))
    if np.ndim(value):
        raise DerivativeError(
            Complaint(
                "E611",
                f"a gradient was asked for, but the function returned an array of shape {np.shape(value)}",
                next="use jacobian, or return one number",
            )
        )
    return _number(value), _number(binding.split(slopes, 0))


def _gradient(engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any) -> Any:
    return _value_and_gradient(engine, binding, x, rest, extra)[1]


def _derivative(engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any) -> Any:
    if not binding.single or np.ndim(x):
        shape = binding.shapes if not binding.single else np.shape(x)
        raise DerivativeError(
            Complaint(
                "E612", f"derivative takes one active number; shape {shape} was given", next="use jacobian"
            )
        )
    return _jacobian(engine, binding, x, rest, extra)


def _jvp(engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any) -> Any:
    return _number(derived.value_and_jvp(engine, x, binding.tangent(extra), rest)[1])


def _vjp(engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any) -> Any:
    value, pull = engine.value_and_vjp(x, *rest)
    if np.shape(extra) != np.shape(value):
        raise DerivativeError(
            Complaint("E613", f"cotangent has shape {np.shape(extra)}; the value has shape {np.shape(value)}")
        )
    cotangent = extra if hasattr(type(extra), "__array_function__") else np.asarray(extra, dtype=np.float64)
    return _number(binding.split(pull(cotangent), 0))


def _hvp(engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any) -> Any:
    product = derived.hvp(engine, x, binding.tangent(extra), rest)
    return _number(binding.split(product, product.ndim - x.ndim))


def _hessian(engine: Any, binding: Binding, x: Any, rest: tuple[Any, ...], extra: Any) -> Any:
    second = derived.hessian(engine, x, rest)
    if binding.single:
        return _number(second)
    leading = second.ndim - 2
    rows = binding.split(second, leading)
    return {
        key: binding.split(row, leading + len(shape))
        for (key, row), shape in zip(rows.items(), binding.shapes, strict=True)
    }


def _number(result: Any) -> Any:
    """0-d arrays as numbers."""
    if isinstance(result, dict):
        return {key: _number(part) for key, part in result.items()}
    return result[()] if type(result) is np.ndarray and not result.ndim else result


CORES: Mapping[Any, Any] = {
    value_and_jacobian: _value_and_jacobian,
    jacobian: _jacobian,
    value_and_gradient: _value_and_gradient,
    gradient: _gradient,
    derivative: _derivative,
    jvp: _jvp,
    vjp: _vjp,
    hvp: _hvp,
    hessian: _hessian,
}
"""What each operator does with an engine; :func:`.prepare` looks it up."""
