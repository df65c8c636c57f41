"""Functions that carry a derivative written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives import derived
from gmmest.errors import Complaint, DerivativeError

__all__ = ["DifferentiableFunction", "with_derivative"]

Array = NDArray[np.float64]
Pullback = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class DifferentiableFunction:
    """A function with value-and-derivative functions beside it; call it like the function.

    Made by :func:`with_derivative`; the ``analytic`` backend uses it.
    """

    function: Callable[..., Any]
    jacobian: Callable[..., tuple[Array, Array]] | None = None
    pullback: Callable[..., tuple[Array, Pullback]] | None = None
    name: ClassVar[str] = "analytic"

    def __call__(self, x: Any, *constants: Any, **keywords: Any) -> Any:
        """The function's value."""
        return self.function(x, *constants, **keywords)

    @property
    def has_jacobian(self) -> bool:
        """Whether the Jacobian was written by hand."""
        return self.jacobian is not None

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        """Value and Jacobian."""
        if self.jacobian is None:
            raise DerivativeError(Complaint("E607", "no Jacobian was written by hand for this function"))
        return self.jacobian(x, *constants)

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Pullback]:
        """Value and ``v -> v'J``; from the Jacobian where no pullback was written."""
        if self.pullback is not None:
            return self.pullback(x, *constants)
        return derived.value_and_vjp(self, x, constants)

    def hessian(self, x: Array, *constants: Any) -> Array:
        """Second derivatives of the function itself, by nested dual numbers: nothing is written by hand for them."""
        from gmmest.derivatives.forward import forward_hessian

        return forward_hessian(self.function, x, *constants)


def with_derivative(
    function: Callable[..., Any],
    *,
    jacobian: Callable[..., Array] | None = None,
    vjp: Callable[..., Array] | None = None,
    value_and_jacobian: Callable[..., tuple[Array, Array]] | None = None,
    value_and_vjp: Callable[..., tuple[Array, Pullback]] | None = None,
) -> DifferentiableFunction:
    """Put a derivative of one's own beside a function.

    Parameters
    ----------
    function : callable
        ``function(x, *constants)``; the derivative is with respect to ``x``.
    jacobian : callable, optional
        ``jacobian(x, *constants)`` of shape ``(*f(x).shape, *x.shape)``.
    vjp : callable, optional
        ``vjp(x, v, *constants)``, the vector-Jacobian product ``v'J`` of the shape of ``x``.
    value_and_jacobian, value_and_vjp : callable, optional
        Forms that share work between value and derivative; the latter returns the value and
        the function ``v -> v'J``.

    Returns
    -------
    DifferentiableFunction

    Examples
    --------
    >>> import numpy as np
    >>> square = with_derivative(lambda x: x**2, jacobian=lambda x: np.diag(2 * x))
    >>> square.value_and_jacobian(np.array([1.0, 3.0]))[1]
    array([[2., 0.],
           [0., 6.]])
    """
    if value_and_jacobian is None and jacobian is not None:
        derivative = jacobian

        def value_and_jacobian(x: Array, *constants: Any, **keywords: Any) -> tuple[Array, Array]:
            return np.asarray(function(x, *constants, **keywords)), np.asarray(
                derivative(x, *constants, **keywords)
            )

    if value_and_vjp is None and vjp is not None:
        product = vjp

        def value_and_vjp(x: Array, *constants: Any, **keywords: Any) -> tuple[Array, Pullback]:
            value = np.asarray(function(x, *constants, **keywords))
            return value, lambda v: np.asarray(product(x, v, *constants, **keywords))

    return DifferentiableFunction(function, value_and_jacobian, value_and_vjp)
