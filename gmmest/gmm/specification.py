"""Tests by a second estimate: score (LM), distance, and difference-in-Sargan (C).

All three minimise another criterion with the *same* S, the one whose inverse was the weight of the fit,
and compare.  With one S none of them can be negative; for moments that are linear in theta Wald (with
``V = (G'WG)^-1/N``), LM and distance are the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.errors import Complaint, ConfigError, EstimationError, printable, some
from gmmest.execution.serial import single_blas_thread
from gmmest.gmm.certificate import certify, whitened_directions
from gmmest.gmm.fitted import Context, Estimate
from gmmest.gmm.inference import chi2_sf
from gmmest.gmm.moments import Moments
from gmmest.gmm.optimize import Problem, minimise, polish
from gmmest.gmm.units import column_norms
from gmmest.gmm.weighting import MomentCovariance, Weight, inverse_weight, require_efficient

__all__ = [
    "Minimum",
    "SpecificationTest",
    "c_test",
    "distance_test",
    "lm_test",
    "null_space",
    "restricted_minimum",
]

Array = NDArray[np.float64]

NEGATIVE = 1e-6
"""Differences of two minima are exact to rounding in N Q; one below minus this is a failed search."""


@dataclass(frozen=True, slots=True)
class SpecificationTest:
    """A chi-squared test that took a second estimate.

    Parameters
    ----------
    stat : float
    df : int
    pvalue : float
    hypothesis : str
    theta : array (P,)
        The other estimate: under the restrictions, or without the moments that are tested.
    """

    stat: float
    df: int
    pvalue: float
    hypothesis: str
    theta: Array

    def __post_init__(self) -> None:
        freeze(self, "theta")

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        asked = printable(self.hypothesis) or "R theta = q"
        return f"test of {asked}: chi2({self.df}) = {self.stat:.4f}, p = {self.pvalue:.4g}"


@dataclass(frozen=True, slots=True)
class Subspace:
    """Parameters ``theta = origin + basis phi``.

    Parameters
    ----------
    origin : array (P,)
    basis : array (P, F)
        Columns that span the free directions; F may be zero.
    """

    origin: Array
    basis: Array


@dataclass(frozen=True, slots=True)
class Minimum:
    """A minimum of ``N g'Wg``: theta (P,), the value, and residuals sqrt(N) L'g with Jacobian sqrt(N) L'G."""

    theta: Array
    value: float
    residuals: Array
    jacobian: Array


def lm_test(
    context: Context, estimate: Estimate, restriction: Array, value: Array, hypothesis: str = ""
) -> SpecificationTest:
    """Score test of ``R theta = q`` at the restricted estimate.

    ``LM = N g'W G (G'WG)^-1 G'W g`` at the theta that minimises ``g'Wg`` under ``R theta = q``, with the
    W of the fit: the squared length of the part of ``sqrt(N) L'g`` that lies in the span of ``L'G``.

    Parameters
    ----------
    context : Context
    estimate : Estimate
    restriction : array (q, P)
    value : array (q,)
    hypothesis : str

    Returns
    -------
    SpecificationTest

    Raises
    ------
    EstimationError
        E420: the weight was not the inverse of a covariance of the moments.  E432: no restricted estimate
        was found.

    Notes
    -----
    Laws: never negative, at most N Q at the restricted estimate; the same for any equations that say the
    same.  Cost: one fit with P - q parameters.

    References
    ----------
    Newey, W. K. and K. D. West (1987), "Hypothesis testing with efficient method of moments
    estimation", International Economic Review 28, 777-787.
    """
    weight = shared_weight(estimate, context.sample.moment_names, "a score test")
    with single_blas_thread():
        moments = context.moments()
        found = restricted_minimum(context, moments, estimate, weight, restriction, value)
    q = np.linalg.qr(found.jacobian / column_norms(found.jacobian))[0]
    score = q.T @ found.residuals
    stat = float(score @ score)
    return SpecificationTest(stat, len(value), chi2_sf(stat, len(value)), hypothesis, found.theta)


def distance_test(
    context: Context, estimate: Estimate, restriction: Array, value: Array, hypothesis: str = ""
) -> SpecificationTest:
    """Distance (D, likelihood-ratio-type) test of ``R theta = q``.

    ``D = N (Q(restricted) - Q(unrestricted))``, both minimised with the W of the fit.

    Parameters
    ----------
    context : Context
    estimate : Estimate
    restriction : array (q, P)
    value : array (q,)
    hypothesis : str

    Returns
    -------
    SpecificationTest

    Raises
    ------
    EstimationError
        E420: the weight was not the inverse of a covariance of the moments.  E432: an estimate was not
        found, or the restricted one is lower than the fit, which then is no global minimum.

    Notes
    -----
    Laws: never negative; does not depend on how the restrictions or the parameters are written.  Cost:
    one fit with P - q parameters, and some passes.

    References
    ----------
    Newey and West (1987), as in :func:`lm_test`; Hall, A. R. (2005), *Generalized Method of Moments*,
    section 5.3.
    """
    weight = shared_weight(estimate, context.sample.moment_names, "a distance test")
    with single_blas_thread():
        moments = context.moments()
        found = restricted_minimum(context, moments, estimate, weight, restriction, value)
        free = _free(context, moments, estimate, weight)
    stat = _difference(found.value, free.value, "under the restrictions")
    return SpecificationTest(stat, len(value), chi2_sf(stat, len(value)), hypothesis, found.theta)


def c_test(context: Context, estimate: Estimate, tested: Sequence[str]) -> SpecificationTest:
    """C (difference-in-Sargan, GMM distance) test that some of the moments hold, given that the others do.

    ``C = J - J_1``: J of all moments at ``W = S^-1``, less J of the moments that are not tested at the inverse of their
    block of the same S, each at its own minimum; chi-squared with as many degrees of freedom as moments
    are tested.

    Parameters
    ----------
    context : Context
    estimate : Estimate
    tested : sequence of str
        Names of the moments.

    Returns
    -------
    SpecificationTest
        Its theta is the estimate without the moments that are tested.

    Raises
    ------
    ConfigError
        Names that are unknown or repeated, or too few moments left.
    EstimationError
        E420: a weight that was not the inverse of a covariance of the moments.  E432: the moments left do
        not identify the parameters, or a minimum was not found.

    Notes
    -----
    Laws: never negative, since ``g'S^-1 g >= g_1'S_11^-1 g_1`` for every theta; C = J where the moments
    left are as many as the parameters.  Cost: one fit.

    References
    ----------
    Eichenbaum, M., L. P. Hansen and K. J. Singleton (1988), Quarterly Journal of Economics 103, appendix C;
    Hayashi, F. (2000), *Econometrics*, proposition 3.7.
    """
    names = context.sample.moment_names
    listed = (tested,) if isinstance(tested, str) else tuple(tested)
    unknown = [name for name in listed if name not in names]
    if unknown or not listed or len(set(listed)) < len(listed):
        what = f"there is no moment {unknown[0]!r}" if unknown else f"moments is {list(listed)!r}"
        raise ConfigError(Complaint("E102", f"{what}; expected some of {some(names, 20)}, each once"))
    keep = np.array([j for j, name in enumerate(names) if name not in listed], dtype=np.intp)
    if len(keep) < len(context.sample.names):
        raise ConfigError(
            Complaint(
                "E102",
                f"without these {len(keep)} moments are left for {len(context.sample.names)} parameters",
                next="test fewer moments: those that are left must identify the parameters",
            )
        )
    weight = shared_weight(estimate, names, "a C test")
    s = weight.root @ weight.root.T
    block = MomentCovariance(s[np.ix_(keep, keep)], estimate.s.estimator, estimate.s.n_obs)
    left = tuple(names[j] for j in keep)
    with single_blas_thread():
        moments = context.moments()
        free = _free(context, moments, estimate, weight)
        part = _minimum(
            context, moments, inverse_weight(block, left), _everything(estimate, weight), keep, "without them"
        )
    stat = _difference(free.value, part.value, "with all moments")
    hypothesis = f"E {some(listed)} = 0"
    return SpecificationTest(stat, len(listed), chi2_sf(stat, len(listed)), hypothesis, part.theta)


def shared_weight(estimate: Estimate, names: tuple[str, ...], what: str) -> Weight:
    """The W = S^-1 that a test shares with the fit.

    For a just identified model, where the weight plays no part in the estimate, S at the estimate; else
    the W that was minimised, which must be the inverse of an S.
    """
    if len(names) == estimate.theta.size:
        return inverse_weight(estimate.s, names)
    require_efficient(estimate.weight, what, "steps: twostep, or a Wald test")
    return estimate.weight


def null_space(restriction: Array, value: Array, theta: Array, v: Array) -> Subspace:
    """All theta with ``R theta = q``, as ``t0 + T phi``.

    Parameters
    ----------
    restriction : array (q, P)
    value : array (q,)
    theta : array (P,)
        A point near which to start.
    v : array (P, P)
        Its covariance: the metric.

    Returns
    -------
    Subspace
        ``t0 = theta - VR'(RVR')^-1 (R theta - q)``, the nearest point in the metric of V, and T with
        ``RT = 0`` and ``T'V^-1 T = I``, so that a unit of phi is a standard error.

    Notes
    -----
    With ``V = CC'`` and ``C'R' = QB`` (complete QR), ``T = C Q_2``.

    Examples
    --------
    >>> space = null_space(np.array([[1.0, 1.0]]), np.array([1.0]), np.zeros(2), np.eye(2))
    >>> space.origin, np.abs(space.basis).round(4).ravel()
    (array([0.5, 0.5]), array([0.7071, 0.7071]))
    """
    from scipy.linalg import solve_triangular

    scale = np.sqrt(np.diag(v))
    root = scale[:, None] * np.linalg.cholesky(v / np.outer(scale, scale))
    size = np.abs(restriction).max(axis=1, keepdims=True)
    count = len(restriction)
    q, b = np.linalg.qr((restriction / size @ root).T, mode="complete")
    gap = (restriction @ theta - value) / size[:, 0]
    nearest = theta - root @ (q[:, :count] @ solve_triangular(b[:count], gap, trans="T"))
    return Subspace(nearest, root @ q[:, count:])


def restricted_minimum(
    context: Context, moments: Moments, estimate: Estimate, weight: Weight, restriction: Array, value: Array
) -> Minimum:
    """Where ``g'Wg`` is least among all theta with ``R theta = q``, certified; E432 if it is not found."""
    white = np.sqrt(context.sample.n_obs) * weight.whiten(estimate.jacobian)
    root = whitened_directions(white)
    if not np.all(np.isfinite(root)):
        raise EstimationError(Complaint("E432", "the Jacobian of the moments does not have full rank"))
    space = null_space(restriction, value, estimate.theta, root @ root.T)
    return _minimum(context, moments, weight, space, None, "under the restrictions")


def _free(context: Context, moments: Moments, estimate: Estimate, weight: Weight) -> Minimum:
    """The fit's own minimum; another only where W moved with theta during the fit (CUE)."""
    return _minimum(context, moments, weight, _everything(estimate, weight), None, "with this weight")


def _everything(estimate: Estimate, weight: Weight) -> Subspace:
    root = whitened_directions(np.sqrt(estimate.s.n_obs) * weight.whiten(estimate.jacobian))
    if not np.all(np.isfinite(root)):
        raise EstimationError(Complaint("E432", "the Jacobian of the moments does not have full rank"))
    return Subspace(estimate.theta, root)


def _minimum(
    context: Context,
    moments: Moments,
    weight: Weight,
    space: Subspace,
    keep: NDArray[np.intp] | None,
    where: str,
) -> Minimum:
    """Minimise over a subspace with some of the moments, and certify."""
    root_n = float(np.sqrt(context.sample.n_obs))
    rows = slice(None) if keep is None else keep

    def theta(phi: Array) -> Array:
        point: Array = space.origin + space.basis @ phi
        return point

    def residuals(phi: Array) -> Array:
        return root_n * weight.whiten(moments.value(theta(phi))[rows])

    def both(phi: Array) -> tuple[Array, Array]:
        value, jacobian = moments.value_and_jacobian(theta(phi))
        return root_n * weight.whiten(value[rows]), root_n * weight.whiten(jacobian[rows])

    def along(phi: Array) -> tuple[Array, Array]:
        value, jacobian = both(phi)
        return value, jacobian @ space.basis

    def squares(phi: Array) -> float:
        r = residuals(phi)
        return float(r @ r)

    def gradient(phi: Array) -> tuple[float, Array]:
        r, slope = along(phi)
        return float(r @ r), 2.0 * slope.T @ r

    phi = np.zeros(space.basis.shape[1])
    if phi.size:
        problem = Problem(residuals, along, squares, gradient)
        phi = polish(problem, minimise(problem, phi, "lsq", context.maxiter).point)
        r, slope = along(phi)
        errors = np.sqrt(np.sum(np.square(whitened_directions(slope)), axis=1))
        labels = tuple(f"direction {k + 1}" for k in range(phi.size))
        judged = certify(phi, r, slope, errors, labels)
        if not judged.verified:
            raise EstimationError(
                Complaint("E432", f"no minimum was found {where}: {'; '.join(judged.reasons)}")
            )
    final, jacobian = both(phi)
    return Minimum(theta(phi), float(final @ final), final, jacobian)


def _difference(larger: float, smaller: float, where: str) -> float:
    stat = larger - smaller
    if not stat >= -NEGATIVE * (1.0 + abs(smaller)):
        raise EstimationError(
            Complaint(
                "E432",
                f"the criterion {where} ended at N Q = {larger:.6g}, below {smaller:.6g}, which it cannot be"
                " lower than: the other estimate is no global minimum",
                next="start the fit elsewhere, from the lower estimate",
            )
        )
    return max(stat, 0.0)
