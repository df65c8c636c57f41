"""Covariance of the estimate and tests, from G, S, W and N alone.

With A = L'G whitened, ``(G'WG)^-1 G'W = A^+ L'`` (the pseudo-inverse by QR), so that no matrix is
inverted and conditions are not squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import Complaint, ConfigError, printable
from gmmest.gmm.units import pseudo_inverse
from gmmest.gmm.weighting import MomentCovariance, Weight, inverse_weight

__all__ = [
    "SE_NAMES",
    "JTest",
    "WaldTest",
    "chi2_sf",
    "covariance",
    "j_test",
    "quantile",
    "require_level",
    "two_sided_p",
    "wald",
    "wald_quantile",
    "wald_sf",
]

Array = NDArray[np.float64]
SeName = Literal["sandwich", "efficient", "minimised_weight"]
SE_NAMES: tuple[SeName, ...] = ("sandwich", "efficient", "minimised_weight")


def covariance(
    jacobian: Array, weight: Weight, s: MomentCovariance, kind: SeName, moment_names: tuple[str, ...]
) -> Array:
    """Covariance matrix V of the estimate, (P, P).

    Parameters
    ----------
    jacobian : array (M, P)
        G at the estimate.
    weight : Weight
        The W that was minimised.
    s : MomentCovariance
        S at the estimate.
    kind : {"sandwich", "efficient", "minimised_weight"}
        ``(G'WG)^-1 G'WSWG (G'WG)^-1 / N``, ``(G'S^-1G)^-1 / N``, or ``(G'WG)^-1 / N``.
    moment_names : tuple of str
        For the message if S is singular where its inverse is needed.

    Notes
    -----
    Law: the first two agree where W = S^-1, and wherever the model is just identified.

    References
    ----------
    Hansen, L. P. (1982), "Large sample properties of generalized method of moments estimators",
    Econometrica 50, theorem 3.1.
    """
    used = inverse_weight(s, moment_names) if kind == "efficient" else weight
    half = pseudo_inverse(used.whiten(jacobian))  # nan where it is deficient: the certificate says why
    if kind == "sandwich":
        meat = weight.whiten(weight.whiten(s.matrix).T)  # L'SL
        v = half @ meat @ half.T / s.n_obs
    else:
        v = half @ half.T / s.n_obs
    result: Array = 0.5 * (v + v.T)
    return result


@dataclass(frozen=True, slots=True)
class JTest:
    """Hansen's test that all moments hold.

    Parameters
    ----------
    stat : float
        ``N g'Wg`` at the W that was minimised.
    df : int
        Moments less parameters.
    pvalue : float
    """

    stat: float
    df: int
    pvalue: float

    def __str__(self) -> str:
        return f"J = {self.stat:.4f}, {self.df} df, p = {self.pvalue:.4g}"


def j_test(value: float, n_moments: int, n_params: int) -> JTest | None:
    """The J test, or None for a just identified model, where J is zero by construction."""
    df = n_moments - n_params
    return None if df == 0 else JTest(value, df, chi2_sf(value, df))


@dataclass(frozen=True, slots=True)
class WaldTest:
    """A Wald test of linear hypotheses ``R theta = q``.

    Parameters
    ----------
    stat : float
        ``(R theta - q)'(R V R')^-1 (R theta - q)``, chi-squared with ``df`` degrees of freedom.
    df : int
    pvalue : float
    hypothesis : str
    degrees : int or None
        Where V rests on clusters: the p-value is that of ``stat/df`` in F(df, degrees).
    """

    stat: float
    df: int
    pvalue: float
    hypothesis: str = ""
    degrees: int | None = None

    def __str__(self) -> str:
        if self.degrees is None:
            number = f"chi2({self.df}) = {self.stat:.4f}"
        else:
            number = f"F({self.df}, {self.degrees}) = {self.stat / self.df:.4f}"
        return f"Wald test of {printable(self.hypothesis) or 'R theta = q'}: {number}, p = {self.pvalue:.4g}"


def wald(
    theta: Array,
    v: Array,
    restriction: Array,
    value: Array,
    hypothesis: str = "",
    degrees: int | None = None,
) -> WaldTest:
    """Wald test from estimate, covariance, R and q; ``degrees`` as for :func:`two_sided_p`.

    Law: of one parameter being zero it has the p-value of its t statistic.
    """
    size = np.max(np.abs(restriction), axis=1)
    restriction = restriction / size[:, None]
    gap = restriction @ theta - value / size
    middle = restriction @ v @ restriction.T
    scale = np.sqrt(np.diag(middle))
    stat = float(gap / scale @ np.linalg.solve(middle / np.outer(scale, scale), gap / scale))
    return WaldTest(stat, len(value), wald_sf(stat, len(value), degrees), hypothesis, degrees)


def chi2_sf(stat: float, df: int) -> float:
    """Upper tail of the chi-squared distribution."""
    from scipy.special import chdtrc

    return float(chdtrc(df, max(stat, 0.0)))


def wald_sf(stat: float, df: int, degrees: int | None = None) -> float:
    """Upper tail of chi-squared(df), or of df F(df, degrees)."""
    if degrees is None:
        return chi2_sf(stat, df)
    from scipy.special import fdtrc

    return float(fdtrc(df, degrees, max(stat, 0.0) / df))


def two_sided_p(z: Array, degrees: int | None = None) -> Array:
    """Two-sided p-values of standard normal statistics, or of t statistics with so many degrees of freedom.

    Notes
    -----
    A covariance that rests on G clusters has t with ``G - 1`` degrees of freedom: exact where cluster sums are
    normal and alike, and the normal for many clusters.  Stata's ``gmm`` takes the normal for any number; its
    ``regress``, and fixest, take t(G - 1).

    References
    ----------
    Donald, S. G. and K. Lang (2007), Review of Economics and Statistics 89, 221-233.
    Cameron, A. C. and D. L. Miller (2015), Journal of Human Resources 50, 317-372, section VI.

    Examples
    --------
    >>> two_sided_p(np.array([2.0])).round(4), two_sided_p(np.array([2.0]), 7).round(4)
    (array([0.0455]), array([0.0856]))
    """
    from scipy.special import ndtr, stdtr

    p: Array = 2.0 * (ndtr(-np.abs(z)) if degrees is None else stdtr(degrees, -np.abs(z)))
    return p


def quantile(alpha: float, degrees: int | None = None) -> float:
    """How many standard errors an interval with coverage ``1 - alpha`` reaches: the inverse of `two_sided_p`.

    Examples
    --------
    >>> round(quantile(0.05), 4), round(quantile(0.05, 7), 4)
    (1.96, 2.3646)
    """
    from scipy.special import ndtri, stdtrit

    upper = 1.0 - alpha / 2.0
    return float(ndtri(upper) if degrees is None else stdtrit(degrees, upper))


def wald_quantile(alpha: float, df: int, degrees: int | None = None) -> float:
    """The statistic whose :func:`wald_sf` is alpha."""
    from scipy.special import chdtri, fdtri

    return float(chdtri(df, alpha) if degrees is None else df * fdtri(df, degrees, 1.0 - alpha))


def require_level(alpha: float) -> float:
    """Alpha as a float; anything but a number between 0 and 1 is refused."""
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
        raise ConfigError(Complaint("E102", f"alpha is {alpha!r}; a number between 0 and 1 was expected"))
    return float(alpha)
