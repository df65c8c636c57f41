"""Covariances of the estimate by name, and those that count what the weight was estimated from.

The estimate solves ``F = G'Wg = 0`` with W the inverse of an S at an earlier theta_1, or the first weight.
Write ``lambda = Wg``, ``A = WG`` and ``H = G'WG``, and ``S_j`` for the derivative of S with respect to parameter
j at theta_1.  As ``dW = -W dS W``,

    dF = K dtheta - B dtheta_1 + sum_i (G_i'lambda + A'g_i - A'omega_i lambda) dp_i / N,

where ``K = H + sum_m lambda_m d2g_m/dtheta dtheta'``, column j of B is ``A'S_j lambda``, p_i is the weight of
observation i, one as a rule, and omega_i what it adds to N S.  Everything below follows from this line.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives import operators
from gmmest.derivatives.backends import Analytic, Auto, Backend, Jax, as_backend, for_many_rows
from gmmest.errors import Complaint, ConfigError
from gmmest.gmm.clusters import ways_of_clustering
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.cue import second_moments
from gmmest.gmm.fitted import Context, Estimate
from gmmest.gmm.inference import SE_NAMES, covariance
from gmmest.gmm.moments import Moments, moment_sum
from gmmest.gmm.units import solve_at_unit_diagonal
from gmmest.gmm.weighting import (
    MomentCovariance,
    Weight,
    all_contributions,
    contribution_covariance,
    initial_weight,
    moment_covariance,
)

__all__ = ["COVARIANCES", "COVARIANCE_TEXT", "CovarianceName", "named_covariance", "with_covariance"]

Array = NDArray[np.float64]
CovarianceName = Literal[
    "sandwich", "efficient", "minimised_weight", "classical", "windmeijer", "misspecification"
]
COVARIANCES: tuple[CovarianceName, ...] = get_args(CovarianceName)

COVARIANCE_TEXT: dict[str, str] = {
    "sandwich": "sandwich, S at the estimate (as Stata gmm, linearmodels)",
    "efficient": "efficient, S at the estimate",
    "minimised_weight": "from the weight that was minimised",
    "classical": "classical, from the inverse Hessian of the log-likelihood",
    "windmeijer": "Windmeijer's correction for a weight that was estimated",
    "misspecification": "robust to misspecification (Hall and Inoue, Hansen and Lee)",
}
"""In words, for summaries."""

AT_ITS_WEIGHT = 1e-6
"""Standard errors between an iterated estimate and the one that made its weight, to count as one point."""


def with_covariance(
    context: Context,
    estimate: Estimate,
    kind: CovarianceName,
    options: CovarianceOptions,
    steps: str,
    initial: str,
) -> Estimate:
    """The estimate with V by name, and with another S where other options are asked for.

    theta, g, G and W stay as they are.  Parameters and errors are those of :func:`named_covariance`; options
    that are those of the estimate's own S leave it.
    """
    moments = context.moments()
    if options != estimate.s.options:
        estimate = replace(estimate, s=moment_covariance(moments, estimate.theta, options))
    return replace(
        estimate, v=named_covariance(kind, moments, estimate, steps, initial, as_backend(context.grad))
    )


def named_covariance(
    kind: CovarianceName,
    moments: Moments,
    estimate: Estimate,
    steps: str,
    initial: str,
    backend: Backend,
) -> Array:
    """Covariance V of the estimate, (P, P).

    Parameters
    ----------
    kind : {"sandwich", "efficient", "minimised_weight", "classical", "windmeijer", "misspecification"}
        * the first three: :func:`.inference.covariance`, the third where W is the inverse of an S, as for J;
        * ``classical``: ``G^-1/N``, the inverse Hessian of the log-likelihood, where the moments are its score;
        * ``windmeijer``: with ``D = H^-1 B``, ``V_2 = H^-1/N`` and V_1 the sandwich of the first step,
          ``V_2 + D V_2 + V_2 D' + D V_1 D'`` after two steps, and ``(I - D)^-1 V_2 (I - D')^-1`` where
          iterated steps ended;
        * ``misspecification``: ``(1/N) S(psi)``, S by the estimator of the estimate's own S, of
          ``psi_i = -K^-1 (G_i'lambda + A'g_i - A'omega_i lambda - B psi_1i)``, where psi_1 is the psi of the
          first step, and psi itself in an iterated fit.
    moments : Moments
    estimate : Estimate
    steps : {"onestep", "twostep", "iterated", "cue"}
    initial : {"instruments", "identity"}
        The first weight.
    backend : Backend
        Of the derivatives of S, and of the second derivatives of the moments.

    Raises
    ------
    ConfigError
        E102: the formula has no meaning for the fit, with the reason.

    Notes
    -----
    Laws: ``classical`` is the sandwich with ``unadjusted`` S.  Where the model is just identified lambda is
    zero, so that ``windmeijer`` is ``minimised_weight`` and ``misspecification`` is ``sandwich``.  psi_i is the
    derivative of the estimate with respect to the weight of observation i, the infinitesimal jackknife, and
    needs no ``E g = 0``.

    Cost: one Jacobian of (g, S) at theta_1; for ``misspecification`` also a Jacobian of ``g_i'lambda`` for
    each step, N P numbers, and one Hessian of ``g'lambda``.

    References
    ----------
    Windmeijer, F. (2005), "A finite sample correction for the variance of linear efficient two-step GMM
    estimators", Journal of Econometrics 126, 25-51, section 2.
    Hall, A. R. and A. Inoue (2003), "The large sample behaviour of the generalized method of moments estimator
    in misspecified models", Journal of Econometrics 114, 361-394, theorems 1 and 2.
    Hansen, B. E. and S. Lee (2021), "Inference for iterated GMM under misspecification", Econometrica 89,
    1419-1447.
    """
    names = moments.sample.moment_names
    if kind == "minimised_weight" and not estimate.weight.efficient:
        _refuse(
            kind,
            f"the weight was {estimate.weight.source!r}, not the inverse of a covariance of the moments",
            "steps: twostep, or se: sandwich",
        )
    for simple in SE_NAMES:
        if kind == simple:
            return covariance(estimate.jacobian, estimate.weight, estimate.s, simple, names)
    if estimate.theta.size == 0:
        return np.zeros((0, 0))
    if kind == "classical":
        return _classical(moments, estimate)
    engine = Auto() if backend == Analytic() else backend
    if kind == "windmeijer":
        return _windmeijer(moments, estimate, steps, initial, engine)
    return _misspecification(moments, estimate, steps, initial, engine)


def _refuse(kind: str, reason: str, advice: str = "se: sandwich") -> NoReturn:
    raise ConfigError(Complaint("E102", f"se {kind!r} has no meaning here: {reason}", next=advice))


# --- the inverse Hessian ----------------------------------------------------------------------------------


def _classical(moments: Moments, estimate: Estimate) -> Array:
    """``T (G T)^-1 T'/N``: moments are T' times the score, T not the identity where instruments are recombined.

    ``G T = T'HT`` then has the condition of what is estimated, and G its root only.
    """
    sample, own = moments.sample, getattr(moments.model, "is_likelihood_score", None)
    square = len(sample.moment_names) == estimate.theta.size
    score = sample.recombined_score or (own is not None and all(own(block) for block in sample.blocks))
    if not square or not score:
        _refuse(
            "classical", "the moments are not the score of a likelihood, as those of a Logit with Z = X are"
        )
    if moments.sample.observations.weight is not None:
        _refuse("classical", "with sampling weights the likelihood is not that of the data")
    t = np.eye(estimate.theta.size) if sample.recombined is None else sample.recombined
    hessian = _symmetric(estimate.jacobian @ t)
    inverse = solve_at_unit_diagonal(hessian, np.eye(len(hessian)))
    return _symmetric(t @ inverse @ t.T / sample.n_obs)


# --- what the weight was estimated from -------------------------------------------------------------------


def _windmeijer(moments: Moments, estimate: Estimate, steps: str, initial: str, backend: Backend) -> Array:
    if steps not in ("twostep", "iterated"):
        _refuse("windmeijer", f"it corrects for the weight of two or iterated steps, and steps is {steps!r}")
    made = _weight_s("windmeijer", estimate, steps)
    n = moments.sample.n_obs
    A, lam = estimate.weight.apply(estimate.jacobian), estimate.weight.apply(estimate.moments)
    H = estimate.jacobian.T @ A
    v_2 = solve_at_unit_diagonal(H, np.eye(len(H))) / n
    D = solve_at_unit_diagonal(H, _sensitivity(moments, made, A, lam, backend))
    if steps == "iterated":
        still = np.eye(len(H)) - D
        return _symmetric(np.linalg.solve(still, np.linalg.solve(still, v_2).T))
    weight = initial_weight(moments, initial)
    _, jacobian = moments.value_and_jacobian(_at(made))
    v_1 = covariance(jacobian, weight, made, "sandwich", moments.sample.moment_names)
    return _symmetric(v_2 + D @ v_2 + v_2 @ D.T + D @ v_1 @ D.T)


def _misspecification(
    moments: Moments, estimate: Estimate, steps: str, initial: str, backend: Backend
) -> Array:
    if steps not in ("onestep", "twostep", "iterated"):
        _refuse("misspecification", f"it is for one, two or iterated steps, and steps is {steps!r}")
    options, sample = estimate.s.options, moments.sample
    if options.estimator == "unadjusted":
        _refuse(
            "misspecification",
            "weighting 'unadjusted' is the covariance of a model that is right",
            "weighting: robust",
        )
    if steps == "onestep":
        psi = _influence(moments, estimate.theta, estimate.weight, backend)
    else:
        made = _weight_s("misspecification", estimate, steps)
        _require_sums(made, options, moments)
        first = None if steps == "iterated" else initial_weight(moments, initial)
        psi = _influence(moments, estimate.theta, estimate.weight, backend, first)
    if estimate.s.bandwidth is not None:
        options = replace(options, bandwidth=estimate.s.bandwidth)  # of the moments, as for a sandwich
    n_params = len(sample.names) + sample.absorbed
    s = contribution_covariance(psi, options, sample.observations, sample.n_obs, n_params)
    return _symmetric(s.matrix / sample.n_obs)


def _influence(
    moments: Moments, theta: Array, weight: Weight, backend: Backend, first: Weight | None = None
) -> Array:
    """Influence psi of every entry, (N, P): what its weight moves theta by, times N.

    ``first`` is the weight of the first of two steps; without one theta made its own weight, if an S made it.
    """
    value, jacobian = moments.value_and_jacobian(theta)
    lam, A = weight.apply(value), weight.apply(jacobian)
    scores = _slopes_along(moments, theta, lam, backend) + all_contributions(moments, theta) @ A
    K = jacobian.T @ A + _curvature(moments, theta, lam, backend)
    if weight.s is None:
        if weight.source == "instruments":
            scores = scores - _instrument_products(moments, A, lam)
    else:
        scores = scores - _weight_products(moments, weight.s, A, lam)
        B = _sensitivity(moments, weight.s, A, lam, backend)
        if first is None:
            K = K - B
        else:
            scores = scores - _influence(moments, _at(weight.s), first, backend) @ B.T
    psi: Array = -solve_at_unit_diagonal(K, scores.T).T
    return psi


def _weight_s(kind: str, estimate: Estimate, steps: str) -> MomentCovariance:
    """The S whose inverse was minimised; of an iterated fit, one that theta itself makes."""
    made = estimate.weight.s
    if made is None or made.theta is None:
        _refuse(kind, "the weight that was minimised is not the inverse of an S")
    if made.theta.size != estimate.theta.size:
        _refuse(kind, "a parameter ended at its bound, where the estimate is no smooth function of the data")
    if steps == "iterated":
        errors = np.sqrt(np.diag(estimate.v))
        moved = np.abs(made.theta - estimate.theta)
        if not np.all(moved <= AT_ITS_WEIGHT * errors):
            _refuse(
                kind,
                "the iterated steps have not ended: theta does not make its own weight",
                "max_steps: more",
            )
    return made


def _at(s: MomentCovariance) -> Array:
    if s.theta is None:
        raise AssertionError("an S that made a weight knows its theta")
    return s.theta


def _require_sums(made: MomentCovariance, options: CovarianceOptions, moments: Moments) -> None:
    """Refuse a weight whose S is no mean over what is independent in V."""
    weighted = made.options
    if weighted.estimator == "robust":
        return
    if weighted.estimator == "cluster":
        ways = [ways_of_clustering(each, moments.sample.observations) for each in (weighted, options)]
        if [way.name for way in ways[0]] == [way.name for way in ways[1]]:
            return
        reason = "the clusters of the weight are not those of the standard errors"
    elif weighted.estimator == "unadjusted":
        reason = "its weight, with weighting 'unadjusted', is that of a model that is right"
    else:
        reason = (
            f"its weight, with weighting {weighted.estimator!r}, is no mean over independent units: it converges"
            " more slowly, or has no influence function"
        )
    _refuse("misspecification", reason, "weighting: robust or cluster")


# --- pieces of dF -----------------------------------------------------------------------------------------


def _sensitivity(moments: Moments, s: MomentCovariance, A: Array, lam: Array, backend: Backend) -> Array:
    """B, (P, P): column j is ``A'S_j lambda``, S_j by the chosen engine at the theta of s."""
    options = s.options if s.bandwidth is None else replace(s.options, bandwidth=s.bandwidth)
    second = second_moments(moments, options, backend, moments.executor)
    m = len(lam)
    _, slopes = second.value_and_jacobian(_at(s))
    B: Array = np.einsum("ma,mnj,n->aj", A, slopes[m:].reshape(m, m, -1), lam)
    return B


def _slopes_along(moments: Moments, theta: Array, lam: Array, backend: Backend) -> Array:
    """``G_i'lambda`` of every entry, (N, P)."""
    contributions, unit, engine = moments.model.contributions, _unit(moments), for_many_rows(backend)

    def along(z: Any, block: Any) -> Any:
        return contributions(unit * z, block) @ lam

    pieces = moments.total(
        lambda block: [operators.jacobian(along, theta / unit, block, backend=engine) / unit]
    )
    slopes: Array = np.concatenate(pieces)
    return slopes


def _curvature(moments: Moments, theta: Array, lam: Array, backend: Backend) -> Array:
    """``sum_m lambda_m d2g_m/dtheta dtheta'``, (P, P)."""
    total, unit = moment_sum(moments.model), _unit(moments)
    engine = backend if backend == Jax() or not backend.exact else "forward"

    def along(z: Any, block: Any) -> Any:
        return total(unit * z, block) @ lam

    found: Array = moments.total(lambda block: operators.hessian(along, theta / unit, block, backend=engine))
    return _symmetric(found / np.outer(unit, unit) / moments.sample.n_obs)


def _unit(moments: Moments) -> Array:
    """Powers of two in which a step of a finite difference is measured."""
    typical = moments.sample.typical
    return np.ones(len(moments.sample.names)) if typical is None else typical


def _weight_products(moments: Moments, s: MomentCovariance, A: Array, lam: Array) -> Array:
    """``A'omega_i lambda`` of every entry, (N, P), omega_i what it adds to N S.

    With ``e_i = c_i - f_i g`` if S is centred, and c_i if not, N S is the sum of ``e_c e_c'/f`` over clusters c,
    or entries.  Centred sums over clusters of unequal size move with the mean too:
    ``- e_c m' - m e_c'``, with m the mean of f_c e_c.
    """
    seen, n = moments.sample.observations, moments.sample.n_obs
    rows = all_contributions(moments, _at(s))
    counts = np.ones(len(rows)) if seen.frequency is None else seen.frequency
    if s.options.centred:
        rows = rows - np.outer(counts, np.sum(rows, axis=0) / n)
    left, right = rows @ A, rows @ lam
    ways = ways_of_clustering(s.options, seen)
    if not ways:
        return s.factor * left * (right / counts)[:, None]
    codes, count = ways[0].codes, ways[0].count
    products = left * np.bincount(codes, right, count)[codes, None]
    if s.options.centred:
        size = np.bincount(codes, counts, count)[codes]
        products = products - left * (size @ right / n) - np.outer(right, size @ left / n)
    return s.factor * products


def _instrument_products(moments: Moments, A: Array, lam: Array) -> Array:
    """``A'omega_i lambda`` of every entry, (N, P), omega_i what it adds to the matrix of the first weight."""
    own = getattr(moments.model, "instrument_products", None)
    if own is None:
        _refuse(
            "misspecification",
            f"{type(moments.model).__name__} does not say what each observation adds to its first weight",
            "initial: identity",
        )
    products: Array = np.concatenate(moments.total(lambda block: [own(block, A, lam)]))
    return products


def _symmetric(matrix: Array) -> Array:
    result: Array = 0.5 * (matrix + matrix.T)
    return result
