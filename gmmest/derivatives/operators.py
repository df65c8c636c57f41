"""Derivatives of plain functions with respect to the arguments that one asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.backends import Backend, as_backend
from gmmest.errors import Complaint, DerivativeError

__all__ = ["value_and_jacobian"]

Array = NDArray[np.float64]


def value_and_jacobian(
    function: Callable[..., Any], *args: Any, wrt: int | str = 0, backend: str | Backend = "auto"
) -> tuple[Array, Array]:
    """Value of ``function(*args)`` and its Jacobian with respect to one argument.

    Parameters
    ----------
    function : callable
        Plain NumPy.
    *args
        The point.  What is not named by ``wrt`` is constant and costs nothing.
    wrt : int or str
        Position or name of the active argument.
    backend : str or Backend
        See :mod:`gmmest.derivatives.backends`.

    Returns
    -------
    value : array
    jacobian : array (*value.shape, *args[wrt].shape)

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
    position = _position(function, args, wrt)
    active = args[position]
    try:
        point = np.array(active, dtype=np.float64)
    except (TypeError, ValueError):
        raise DerivativeError(
            Complaint("E610", f"argument {wrt!r} is {type(active).__name__}; numbers were expected")
        ) from None
    rest = args[:position] + args[position + 1 :]

    def active_first(x: Any, *others: Any) -> Any:
        return function(*others[:position], x, *others[position:])

    target = function if position == 0 else active_first
    return as_backend(backend).prepare(target).value_and_jacobian(point, *rest)


def _position(function: Callable[..., Any], args: tuple[Any, ...], wrt: int | str) -> int:
    if isinstance(wrt, str):
        names = list(inspect.signature(function).parameters)
        if wrt not in names[: len(args)]:
            raise DerivativeError(
                Complaint("E610", f"wrt={wrt!r}; the arguments given are {', '.join(names[: len(args)])}")
            )
        return names.index(wrt)
    if not -len(args) <= wrt < len(args):
        raise DerivativeError(Complaint("E610", f"wrt={wrt}; {len(args)} arguments were given"))
    return wrt % len(args)
