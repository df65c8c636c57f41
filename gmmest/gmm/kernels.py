"""Covariance of contributions that are correlated in time: kernels, their bandwidths, and the sum over lags.

With ``h_t`` the contributions in time order the long-run covariance is

    S = Gamma_0 + sum_j k_j (Gamma_j + Gamma_j'),    Gamma_j = (1/N) sum_t h_t h_{t-j}',

which is ``H'KH/N`` with K the symmetric Toeplitz matrix of the kernel's weights ``k_0 = 1, k_1, ...``.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import Complaint, ConfigError, EstimationError

__all__ = [
    "BANDWIDTHS",
    "KERNELS",
    "Bandwidth",
    "Kernel",
    "andrews_bandwidth",
    "kernel_weights",
    "long_run_covariance",
    "newey_west_bandwidth",
    "sum_over_lags",
]

Array = NDArray[np.float64]
Kernel = Literal["bartlett", "parzen", "qs"]
Bandwidth = float | Literal["newey-west", "andrews"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
BANDWIDTHS = ("newey-west", "andrews")

RULES = {"bartlett": (1, 1.1447, 2 / 9), "parzen": (2, 2.6614, 4 / 25), "qs": (2, 1.3221, 2 / 25)}
"""Characteristic exponent, constant of the optimal bandwidth, and growth of the pilot lags (Andrews 1991,
table I and (6.2); Newey and West 1994, tables I and II)."""

LARGEST_ROOT = 0.97
"""Autoregressions of the plug-in rule are cut here, as Andrews and Monahan (1992) do: beyond it the rule's
bandwidth grows without limit."""


def kernel_weights(kernel: Kernel, bandwidth: float, n: int) -> Array:
    """Weights ``k_0, ..., k_{n-1}`` of the lags of a series of length n.

    Parameters
    ----------
    kernel : {"bartlett", "parzen", "qs"}
        With ``x = j/(m + 1)``: Bartlett ``1 - x``; Parzen ``1 - 6x^2 + 6x^3`` up to 1/2, then
        ``2(1 - x)^3``; both zero from x = 1.  Quadratic spectral, with ``z = 6 pi j/(5m)``:
        ``3(sin(z)/z - cos(z))/z^2``.
    bandwidth : float
        m, at least 0.  For Bartlett and Parzen a whole number m is the number of lags that count; 0 is
        no lag for every kernel.
    n : int

    Returns
    -------
    (n,) array

    Notes
    -----
    Law: every one of these kernels makes S positive semidefinite.  Stata calls m + 1 the bandwidth of
    the first two; linearmodels and statsmodels call m so.

    References
    ----------
    Newey, W. K. and K. D. West (1987), Econometrica 55, 703-708.
    Andrews, D. W. K. (1991), Econometrica 59, 817-858, (2.7).

    Examples
    --------
    >>> kernel_weights("bartlett", 3, 5)
    array([1.  , 0.75, 0.5 , 0.25, 0.  ])
    """
    lags = np.arange(n, dtype=np.float64)
    if kernel == "qs":
        weights = np.where(lags == 0, 1.0, 0.0)
        if bandwidth > 0:
            z = 1.2 * np.pi * lags[1:] / bandwidth
            # by the series where sin(z)/z - cos(z) would lose its digits
            series = 1.0 - z**2 / 10.0 + z**4 / 280.0 - z**6 / 15120.0
            with np.errstate(over="ignore", invalid="ignore"):
                weights[1:] = np.where(z < 0.1, series, 3.0 / z**2 * (np.sin(z) / z - np.cos(z)))
        return weights
    x = np.minimum(lags / (bandwidth + 1.0), 1.0)
    if kernel == "bartlett":
        return 1.0 - x
    inner: Array = 1.0 - 6.0 * x**2 * (1.0 - x)
    return np.where(x <= 0.5, inner, 2.0 * (1.0 - x) ** 3)


def long_run_covariance(rows: Array, kernel: Kernel, bandwidth: float) -> Array:
    """``H'KH/N`` from contributions in time order, (M, M).

    Parameters
    ----------
    rows : (N, M) array
        H; centred beforehand where that is wanted.
    kernel : {"bartlett", "parzen", "qs"}
    bandwidth : float

    Notes
    -----
    KH by fast Fourier transforms: N log N operations whatever the bandwidth, rounding of the order of
    1e-16 times the norm.  Law: bandwidth 0 gives ``H'H/N``.

    Examples
    --------
    >>> rows = np.array([[1.0], [2.0], [4.0]])
    >>> float(long_run_covariance(rows, "bartlett", 1)[0, 0].round(12))  # (1 + 4 + 16 + 2 + 8)/3
    10.333333333333
    """
    from scipy.linalg import matmul_toeplitz

    weights = kernel_weights(kernel, bandwidth, len(rows))
    if not weights[1:].any():
        product: Array = rows.T @ rows / len(rows)
        return product
    smooth = matmul_toeplitz(weights, rows)
    product = rows.T @ smooth / len(rows)
    symmetric: Array = 0.5 * (product + product.T)
    return symmetric


def sum_over_lags(rows: Any, kernel: Kernel, bandwidth: float) -> Any:
    """``H'KH``, (M, M); rows that carry derivatives go lag by lag, as many as have a weight.

    Complex steps too: a Fourier transform would mix their parts, which differ by many powers of ten.

    Examples
    --------
    >>> float(sum_over_lags(np.array([[1.0], [2.0], [4.0]]), "bartlett", 1)[0, 0].round(12))
    31.0
    """
    n = rows.shape[0]
    if isinstance(rows, np.ndarray) and rows.dtype.kind == "f":
        return n * long_run_covariance(rows, kernel, bandwidth)
    weights = kernel_weights(kernel, bandwidth, n)
    total = rows.T @ rows
    for lag in np.flatnonzero(weights[1:]) + 1:
        product = rows[lag:].T @ rows[:-lag]
        total = total + weights[lag] * (product + product.T)
    return total


def choose_bandwidth(rows: Array, kernel: Kernel, bandwidth: Bandwidth) -> float:
    """The bandwidth as a number, by its rule where it has a name."""
    if bandwidth == "newey-west":
        return newey_west_bandwidth(rows, kernel)
    if bandwidth == "andrews":
        return andrews_bandwidth(rows, kernel)
    if not isinstance(bandwidth, (int, float, np.integer, np.floating)) or not 0 <= bandwidth < np.inf:
        raise ConfigError(
            Complaint(
                "E102",
                f"bandwidth is {bandwidth!r}; a number from 0, 'newey-west' or 'andrews' was expected",
            )
        )
    return float(bandwidth)


def newey_west_bandwidth(rows: Array, kernel: Kernel) -> float:
    """The nonparametric rule: ``ceil(c ((s_q/s_0)^2 N)^(1/(2q+1)))``, at most N - 1.

    Parameters
    ----------
    rows : (N, M) array
        Contributions in time order; each moment is divided by its standard deviation and the sum of the
        moments is the series of the rule, so that units do not matter.
    kernel : {"bartlett", "parzen", "qs"}

    Notes
    -----
    ``s_0 = sigma_0 + 2 sum_j sigma_j`` and ``s_q = 2 sum_j j^q sigma_j`` with the autocovariances of the
    series up to lag ``ceil(4 (N/100)^a)``.  The same rule, and the same numbers, as linearmodels.

    References
    ----------
    Newey, W. K. and K. D. West (1994), Review of Economic Studies 61, 631-653, section 3.

    Examples
    --------
    >>> rows = np.cos(np.arange(200.0))[:, None]
    >>> newey_west_bandwidth(rows, "bartlett")
    23.0
    """
    q, constant, growth = RULES[kernel]
    n = len(rows)
    pilot = int(np.ceil(4.0 * (n / 100.0) ** growth))
    series = np.sum(_standardised(rows), axis=1)
    if pilot >= n - 1 or not np.isfinite(series).all():
        raise _no_rule(n)
    sigma = np.array([series[j:] @ series[: n - j] / n for j in range(pilot + 1)])
    lags = np.arange(1, pilot + 1)
    s_0 = sigma[0] + 2.0 * sigma[1:].sum()
    s_q = 2.0 * np.sum(sigma[1:] * lags**q)
    if s_0 == 0:
        raise _no_rule(n)
    width = constant * ((s_q / s_0) ** 2) ** (1 / (2 * q + 1)) * n ** (1 / (2 * q + 1))
    return float(min(np.ceil(width), n - 1))


def andrews_bandwidth(rows: Array, kernel: Kernel) -> float:
    """The plug-in rule with a first-order autoregression for each moment.

    Parameters
    ----------
    rows : (N, M) array
        Contributions in time order; each moment is divided by its standard deviation and all have equal
        weight, so that units do not matter.
    kernel : {"bartlett", "parzen", "qs"}

    Notes
    -----
    ``s = c (alpha(q) N)^(1/(2q+1))`` with, sums over moments,
    ``alpha(1) = sum 4 r^2 v^2/((1-r)^6 (1+r)^2) / sum v^2/(1-r)^4`` and
    ``alpha(2) = sum 4 r^2 v^2/(1-r)^8 / sum v^2/(1-r)^4``; r the autoregression, cut at 0.97, v the
    variance of its residuals.  The bandwidth is s for the quadratic spectral kernel and s - 1, at least 0,
    for the others, whose weights are functions of ``j/(m + 1)``.

    References
    ----------
    Andrews, D. W. K. (1991), Econometrica 59, 817-858, (6.2) and (6.4).

    Examples
    --------
    >>> rows = np.cos(np.arange(200.0))[:, None]
    >>> round(andrews_bandwidth(rows, "qs"), 3)
    7.321
    """
    q, constant, _ = RULES[kernel]
    n = len(rows)
    series = _standardised(rows)
    if n < 4 or not np.isfinite(series).all():
        raise _no_rule(n)
    series = series - series.mean(axis=0)
    before, after = series[:-1], series[1:]
    r = np.clip(np.sum(before * after, axis=0) / np.sum(before * before, axis=0), -LARGEST_ROOT, LARGEST_ROOT)
    v = np.mean(np.square(after - r * before), axis=0)
    below = np.sum(v**2 / (1 - r) ** 4)
    above = 4 * r**2 * v**2 / ((1 - r) ** 6 * (1 + r) ** 2 if q == 1 else (1 - r) ** 8)
    scale = constant * (np.sum(above) / below * n) ** (1 / (2 * q + 1))
    return float(scale if kernel == "qs" else max(scale - 1.0, 0.0))


def _standardised(rows: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled: Array = rows / np.std(rows, axis=0)
    return scaled


def _no_rule(n: int) -> EstimationError:
    return EstimationError(
        Complaint(
            "E421",
            f"no automatic bandwidth for {n} observations: too few, or a moment that does not vary",
            next="give the bandwidth as a number",
        )
    )
