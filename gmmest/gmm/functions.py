"""Functions of the estimate: the delta method, confidence ellipses, sensitivity to moments.

All of it follows from ``theta_hat - theta = Lambda g(theta)`` to first order, with
``Lambda = -(G'WG)^-1 G'W``, and from the covariance V of the estimate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.derivatives.backends import Backend
from gmmest.derivatives.operators import value_and_jacobian
from gmmest.errors import Complaint, ConfigError, EstimationError, printable, require_parameters, some
from gmmest.gmm.coefficients import Coefficients
from gmmest.gmm.inference import require_level, wald_quantile
from gmmest.gmm.units import pseudo_inverse
from gmmest.gmm.weighting import Weight

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DeltaMethod", "Ellipse", "ParametersByName", "delta_method", "ellipse", "sensitivity"]

Array = NDArray[np.float64]

SHOWN = 80
"""Characters of a text that are told."""


class ParametersByName(Mapping[str, Any]):
    """Parameters as a function of one's own may want them: ``b["gc"]``.

    Parameters
    ----------
    theta : array (P,)
        Plain, or whatever an engine follows.
    names : tuple of str

    Examples
    --------
    >>> b = ParametersByName(np.array([2.0, 4.0]), ("gc", "ttme"))
    >>> float(b["gc"] / b["ttme"])
    0.5
    """

    __slots__ = ("_names", "_theta")

    def __init__(self, theta: Any, names: tuple[str, ...]) -> None:
        self._theta = theta
        self._names = names

    def __getitem__(self, name: str) -> Any:
        require_parameters("the function", [name], self._names)
        return self._theta[self._names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, slots=True)
class DeltaMethod:
    """A function of the estimate, with first-order standard errors.

    Parameters
    ----------
    names : tuple of str
        What the q values are called.
    value : array (q,)
        ``f(theta)``.
    jacobian : array (q, P)
        ``F = df/dtheta'``.
    v : array (q, q)
        ``F V F'``.
    degrees : int or None
        Of t, where V rests on clusters; None for the normal.

    Attributes
    ----------
    estimate, bse, z, pvalues : pandas.Series
        Values, standard errors, ratios, and two-sided p-values of ``f = 0``.
    cov : pandas.DataFrame
    """

    names: tuple[str, ...]
    value: Array
    jacobian: Array
    v: Array
    degrees: int | None = None

    def __post_init__(self) -> None:
        freeze(self, "value", "jacobian", "v")

    @property
    def standard_errors(self) -> Array:
        """Square roots of the diagonal of ``F V F'``, (q,)."""
        return self._coefficients.standard_errors

    @property
    def estimate(self) -> pd.Series:
        """Values by name."""
        return self._coefficients.series(self.value, "estimate")

    @property
    def bse(self) -> pd.Series:
        """Standard errors by name."""
        return self._coefficients.series(self.standard_errors, "bse")

    @property
    def z(self) -> pd.Series:
        """Values over standard errors."""
        return self._coefficients.series(self._coefficients.ratios, "z")

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of ``f = 0``."""
        return self._coefficients.series(self._coefficients.p_values, "pvalues")

    @property
    def cov(self) -> pd.DataFrame:
        """``F V F'``."""
        return self._coefficients.covariance()

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Intervals with coverage ``1 - alpha`` to first order."""
        return self._coefficients.intervals(alpha)

    @property
    def _coefficients(self) -> Coefficients:
        return Coefficients(self.names, self.value, self.v, self.degrees)

    def __repr__(self) -> str:
        numbers = zip(self.names, self.value, self.standard_errors, strict=True)
        return f"<DeltaMethod: {', '.join(f'{printable(name)} {f:.6g} ({e:.3g})' for name, f, e in numbers)}>"

    def __str__(self) -> str:
        return self._coefficients.text()


def delta_method(
    function: Callable[[Any], Any],
    theta: Array,
    v: Array,
    parameters: tuple[str, ...],
    *,
    by_name: bool = False,
    names: Sequence[str] | None = None,
    backend: str | Backend = "auto",
    degrees: int | None = None,
) -> DeltaMethod:
    """Covariance ``F V F'`` of ``f(theta)``, with ``F = df/dtheta'`` by the derivative layer.

    Parameters
    ----------
    function : callable
        Of theta (P,) in plain NumPy, one number or a vector (q,); with ``by_name`` of a
        :class:`ParametersByName`.
    theta : array (P,)
    v : array (P, P)
        Covariance of the estimate, division by N included.
    parameters : tuple of str
    by_name : bool
    names : sequence of str, optional
        Of the values; ``f`` or ``f0, f1, ...`` by default.
    backend : str or Backend
        What differentiates ``function``.
    degrees : int, optional
        Of t, where V rests on clusters.

    Returns
    -------
    DeltaMethod

    Raises
    ------
    ConfigError
        E102: a text, or names without ``by_name``; with what to write instead.
    EstimationError
        E431: a value, derivative or variance is not finite, or a derivative is zero in all
        parameters, where a first-order variance of zero would say that nothing is uncertain.

    Notes
    -----
    Law: for ``f = R theta`` it is exact, ``R V R'``; parameters that f does not use play no part, also
    where their variance is unknown.  Cost: one Jacobian of f.

    References
    ----------
    van der Vaart, A. W. (1998), *Asymptotic Statistics*, theorem 3.1.

    Examples
    --------
    >>> ratio = delta_method(lambda b: b["x"] / b["y"], np.array([1.0, 2.0]), np.eye(2), ("x", "y"), by_name=True)
    >>> float(ratio.bse["f"])  # (1/y^2 + x^2/y^4)^(1/2)
    0.5590169943749475
    """
    if not callable(function):
        raise ConfigError(_no_function(function, parameters))

    def of_array(theta: Any) -> Any:
        return function(ParametersByName(theta, parameters) if by_name else theta)

    try:
        value, jacobian = value_and_jacobian(of_array, theta, backend=backend)
    except (IndexError, TypeError):
        if by_name or not _takes_names(function, theta, parameters):
            raise
        what = "the function takes parameters by name, and was given an array"
        raise ConfigError(Complaint("E102", what, next="res.nlcom(function, by_name=True)")) from None
    flat = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if flat.ndim != 1:
        raise ConfigError(
            Complaint("E102", f"the function returned shape {flat.shape}; a number or vector was expected")
        )
    slope = np.asarray(jacobian, dtype=np.float64).reshape(flat.size, theta.size)
    labels = _labels(names, flat.size, np.ndim(value) == 0)
    used = np.any(slope != 0, axis=0)
    covariance = slope[:, used] @ v[np.ix_(used, used)] @ slope[:, used].T
    _require_finite(flat, slope, covariance, labels)
    return DeltaMethod(labels, flat, slope, 0.5 * (covariance + covariance.T), degrees)


def _no_function(given: object, parameters: tuple[str, ...]) -> Complaint:
    if not isinstance(given, str):
        what = f"nlcom got {type(given).__name__}; a function of the parameters was expected"
        return Complaint("E102", what)
    what = f"nlcom got the text {given[:SHOWN]!r}; a function of the parameters was expected"
    by_name = re.sub(r"[^\W\d]\w*", lambda m: f'b["{m[0]}"]' if m[0] in parameters else m[0], given[:SHOWN])
    return Complaint("E102", what, next=f"res.nlcom(lambda b: {printable(by_name)}, by_name=True)")


def _takes_names(function: Callable[[Any], Any], theta: Array, parameters: tuple[str, ...]) -> bool:
    try:
        function(ParametersByName(theta, parameters))
    except Exception:
        return False
    return True


def _labels(names: Sequence[str] | None, size: int, single: bool) -> tuple[str, ...]:
    if names is None:
        return ("f",) if single else tuple(f"f{k}" for k in range(size))
    listed = (names,) if isinstance(names, str) else tuple(names)
    if len(listed) != size or not all(isinstance(name, str) for name in listed):
        raise ConfigError(Complaint("E102", f"names is {names!r} for {size} values; one name a value"))
    return listed


def _require_finite(value: Array, slope: Array, covariance: Array, labels: tuple[str, ...]) -> None:
    complaints = []
    for k, label in enumerate(labels):
        if not np.isfinite(value[k]):
            wrong = f"is {value[k]} at the estimate"
        elif not np.all(np.isfinite(slope[k])):
            wrong = "has a derivative that is not finite at the estimate"
        elif not np.any(slope[k]):
            wrong = "does not move with any parameter at the estimate: the delta method says nothing about it"
        elif not covariance[k, k] > 0:
            wrong = "uses parameters that are held or whose variance is not known"
        else:
            continue
        complaints.append(Complaint("E431", f"function {printable(label)} {wrong}"))
    if complaints:
        raise EstimationError(complaints)


@dataclass(frozen=True, slots=True)
class Ellipse:
    """The set of pairs that a Wald test does not reject.

    Parameters
    ----------
    names : tuple of (str, str)
    centre : array (2,)
    matrix : array (2, 2)
        Covariance V of the pair; the set is ``(x - centre)' V^-1 (x - centre) <= radius^2``.
    radius : float
        Square root of the chi-squared quantile with two degrees of freedom; of 2 F(2, G - 1), where V rests on
        G clusters.
    """

    names: tuple[str, str]
    centre: Array
    matrix: Array
    radius: float

    def __post_init__(self) -> None:
        freeze(self, "centre", "matrix")

    def points(self, n: int = 200) -> Array:
        """Boundary as a closed curve of n points, (n, 2): ``centre + radius C (cos, sin)'``, V = CC'."""
        angle = np.linspace(0.0, 2.0 * np.pi, n)
        scale = np.sqrt(np.diag(self.matrix))
        root = scale[:, None] * np.linalg.cholesky(self.matrix / np.outer(scale, scale))
        circle = np.stack([np.cos(angle), np.sin(angle)])
        curve: Array = self.centre + self.radius * (root @ circle).T
        return curve

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        spread = np.sqrt(np.diag(self.matrix))
        pairs = zip(self.names, self.centre, self.radius * spread, strict=True)
        sides = ", ".join(f"{printable(name)} {middle:.6g} +- {reach:.4g}" for name, middle, reach in pairs)
        correlation = self.matrix[0, 1] / (spread[0] * spread[1])
        return f"Ellipse: {sides}, correlation {correlation:.3f}, radius {self.radius:.4f}"


def ellipse(
    theta: Array,
    v: Array,
    parameters: tuple[str, ...],
    pair: tuple[str, str],
    alpha: float,
    degrees: int | None = None,
) -> Ellipse:
    """Confidence ellipse of two parameters, ``chi2(2)`` quantile at ``1 - alpha``.

    Parameters
    ----------
    theta : array (P,)
    v : array (P, P)
    parameters : tuple of str
    pair : (str, str)
    alpha : float
    degrees : int, optional
        Of F, where V rests on clusters.

    Notes
    -----
    Law: the Wald test of any point of the boundary has p-value alpha.

    Examples
    --------
    >>> e = ellipse(np.zeros(2), np.eye(2), ("a", "b"), ("a", "b"), 0.05)
    >>> round(e.radius, 4)
    2.4477
    """
    level = require_level(alpha)
    index = [position(name, parameters) for name in pair]
    if index[0] == index[1]:
        raise ConfigError(
            Complaint("E102", f"an ellipse of {pair[0]!r} with itself; two parameters expected")
        )
    matrix = v[np.ix_(index, index)]
    scale = np.sqrt(np.diag(matrix))
    correlation = matrix[0, 1] / (scale[0] * scale[1]) if np.all(scale > 0) else np.nan
    if not abs(correlation) < 1.0:
        raise EstimationError(
            Complaint("E431", f"the covariance of {some(pair)} is singular or unknown: there is no ellipse")
        )
    return Ellipse(pair, theta[index], matrix, float(np.sqrt(wald_quantile(level, 2, degrees))))


def sensitivity(jacobian: Array, weight: Weight) -> Array:
    """``Lambda = -(G'WG)^-1 G'W``, (P, M): how estimates move with the moments.

    Parameters
    ----------
    jacobian : array (M, P)
        G at the estimate.
    weight : Weight
        The W that was minimised.

    Returns
    -------
    array (P, M)
        If the true moments are ``a`` instead of zero, estimates are off by ``Lambda a``, to first order.

    Raises
    ------
    EstimationError
        E431: G does not have full rank.

    Notes
    -----
    With ``A = L'G``, ``Lambda = -A^+ L'`` by :func:`.units.pseudo_inverse`.  Laws:
    ``Lambda G = -I``, and ``Lambda S Lambda'/N`` is the sandwich V.  Cost: O(M^2 P).

    References
    ----------
    Andrews, I., M. Gentzkow and J. M. Shapiro (2017), "Measuring the sensitivity of parameter estimates
    to estimation moments", Quarterly Journal of Economics 132, 1553-1592, equation (2).

    Examples
    --------
    >>> sensitivity(np.array([[2.0], [0.0]]), Weight(np.eye(2), "identity"))
    array([[-0.5,  0. ]])
    """
    from scipy.linalg import solve_triangular

    half = pseudo_inverse(weight.whiten(jacobian))
    if np.any(np.isnan(half)):
        raise EstimationError(Complaint("E431", "the Jacobian of the moments does not have full rank"))
    back = solve_triangular(weight.root, half.T, lower=True, trans="T", check_finite=False)  # L A^+'
    return 0.0 - np.transpose(back)


def position(name: str, names: tuple[str, ...]) -> int:
    """Where a parameter stands; an unknown name is refused."""
    require_parameters("the call", [name], names)
    return names.index(name)
