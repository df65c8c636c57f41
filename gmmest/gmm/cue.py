"""Continuously updated GMM: ``Q(theta) = g'S(theta)^-1 g``, S moving with theta.

With ``S = R R'`` the residuals are ``r = sqrt(N) R^-1 g``.  Their derivatives need those of S as well as
those of g, so one function of a block returns the sums of both, ``(sum_i g_i, sum_i g_i g_i')``, and the
chosen engine differentiates it like any other moments:

* ``d(R^-1 g) = R^-1 dg - Phi(R^-1 dS R'^-1) R^-1 g``, Phi the lower triangle with its diagonal halved,
  since ``dR = R Phi(R^-1 dS R'^-1)``;
* ``dQ = 2 w'dg - w'dS w`` with ``w = S^-1 g``; for the uncentred S this is
  ``(2/N) sum_i (1 - g_i'w) w'dg_i``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.observations import Observations
from gmmest.derivatives.backends import Analytic, Backend, as_backend, for_many_rows
from gmmest.errors import Complaint, ConfigError, DerivativeError, IdentificationError
from gmmest.execution.passes import Passes
from gmmest.execution.serial import Executor
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.moments import Moments, NotFiniteError, moment_sum
from gmmest.gmm.weighting import (
    MomentCovariance,
    Weight,
    inverse_weight,
    less,
    small_sample_factor,
    sum_of_pairs,
)
from gmmest.models.sample import MomentModel, Sample

__all__ = ["ContinuousCriterion", "SecondMoments", "second_moments"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SecondMoments:
    """A model whose moments are those of another one, followed by the entries of N S.

    Parameters
    ----------
    model : MomentModel
    options : CovarianceOptions
        ``robust`` (not centred, without frequencies) is summed block by block; any other S needs all data in
        one block.
    seen : Observations
    n_obs : int
        N.
    n_params : int
        P, of the small-sample factor.
    centre : array (M,), optional
        What is taken off every contribution, see :class:`.moments.Moments`.
    """

    model: MomentModel
    options: CovarianceOptions
    seen: Observations
    n_obs: int
    n_params: int
    centre: Array | None = None

    def sample(self, data: Any) -> Sample:
        """The model's own sample."""
        return self.model.sample(data)

    def contributions(self, theta: Any, block: Any) -> Any:
        """The model's own contributions, (n_b, M)."""
        return self.model.contributions(theta, block)

    def moment_sum(self, theta: Any, block: Any) -> Any:
        """``(sum_i g_i, N S)``, (M + M^2,)."""
        n, p = self.n_obs, self.n_params
        if self.options.estimator == "unadjusted":
            implied = self.model.unadjusted_covariance(  # type: ignore[attr-defined]
                theta, n, lambda function: function(block)
            )
            scaled = n * small_sample_factor(self.options, n, p) * np.ravel(implied)
            total = moment_sum(self.model)(theta, block)
            return np.concatenate([total if self.centre is None else total - n * self.centre, scaled])
        rows = self.model.contributions(theta, block)
        if self.centre is not None:
            rows = less(rows, self.centre, self.seen.frequency)
        pairs = sum_of_pairs(rows, self.options, self.seen, n, p)
        return np.concatenate([np.sum(rows, axis=0), np.ravel(pairs)])


def second_moments(
    moments: Moments,
    options: CovarianceOptions,
    backend: str | Backend,
    executor: Executor,
    watch: Callable[[int], None] | None = None,
    bounds: tuple[Array, Array] | None = None,
    passes: Passes | None = None,
) -> Moments:
    """Moments and S as one record with derivatives by one engine.

    JAX goes forward through the Jacobian, which is tall, and in reverse through a gradient.

    Raises
    ------
    ConfigError
        E102: an S without a derivative: a bandwidth that is chosen anew at every theta, or lags without end.
    DerivativeError
        E607: derivatives by hand.
    """
    _require_smooth(options)
    chosen = as_backend(backend)
    if chosen == Analytic():
        raise DerivativeError(
            Complaint(
                "E607",
                "grad 'analytic' was asked for, but what is written by hand is the derivative of the moments, not"
                " that of S, which moves with theta in steps 'cue'",
                next="grad: auto, forward or jax",
            )
        )
    seen = moments.sample.observations
    by_blocks = options.estimator == "robust" and not options.centred and seen.frequency is None
    sample = moments.sample if by_blocks else moments.sample.whole()
    n_params = len(sample.names) + sample.absorbed
    model = SecondMoments(moments.model, options, seen, sample.n_obs, n_params, moments.centre)
    entries = tuple(f"S of {a} and {b}" for a in sample.moment_names for b in sample.moment_names)
    named = _with_names(sample, (*sample.moment_names, *entries))
    return Moments(model, named, for_many_rows(chosen), executor, watch, bounds, passes=passes)


def _require_smooth(options: CovarianceOptions) -> None:
    """Refuse an S that has no derivative, or one of N terms."""
    if options.estimator != "kernel":
        return
    reason = ""
    if isinstance(options.bandwidth, str):
        reason = f"bandwidth {options.bandwidth!r} is chosen anew at every theta, and jumps"
    elif options.kernel == "qs" and options.bandwidth > 0:
        reason = "kernel 'qs' gives every lag a weight, as many terms as there are observations"
    if reason:
        raise ConfigError(
            Complaint(
                "E102",
                f"the derivative of S was asked for (steps 'cue', or standard errors that need it): {reason}",
                next="bandwidth: a number, with kernel: bartlett or parzen",
            )
        )


def _with_names(sample: Sample, names: tuple[str, ...]) -> Sample:
    return replace(sample, moment_names=names, whole=lambda: _with_names(sample.whole(), names))


@dataclass(frozen=True, slots=True)
class ContinuousCriterion:
    """``N Q(theta) = N g'S(theta)^-1 g`` for optimisers, in scaled parameters ``theta = scale * z``.

    Parameters
    ----------
    moments : Moments
        Of :func:`second_moments`.
    names : tuple of str
        Moments, M of them.
    like : MomentCovariance
        S somewhere, for its options.
    scale : array (P,)
        Powers of two.

    Notes
    -----
    Laws: recombined moments ``A g`` leave Q; with ``unadjusted`` and a linear model the minimum is
    limited-information maximum likelihood; centring a robust S changes Q to ``Q / (1 - Q)`` and not its
    minimum; clusters of one observation each give what ``robust`` gives.
    Q is not convex, flattens far away, and may have several minima.

    Cost of residuals with Jacobian: P times a pass that makes the products of the contributions,
    ``N M^2``; of a gradient in reverse mode, a few of them.

    References
    ----------
    Hansen, L. P., J. Heaton and A. Yaron (1996), "Finite-sample properties of some alternative GMM
    estimators", Journal of Business & Economic Statistics 14, 262-280.
    Newey, W. K. and R. J. Smith (2004), "Higher order properties of GMM and generalized empirical
    likelihood estimators", Econometrica 72, 219-255.
    Anderson, T. W. and H. Rubin (1949), "Estimation of the parameters of a single equation in a complete
    system of stochastic equations", Annals of Mathematical Statistics 20, 46-63.
    """

    moments: Moments
    names: tuple[str, ...]
    like: MomentCovariance
    scale: Array

    @property
    def n_obs(self) -> int:
        """N."""
        return self.moments.sample.n_obs

    def weight_at(self, theta: Array) -> Weight:
        """``S(theta)^-1``."""
        weight = self._split(self.moments.value(theta))[1]
        return weight if weight.s is None else replace(weight, s=replace(weight.s, theta=theta))

    def residuals(self, z: Array) -> Array:
        """``sqrt(N) R^-1 g``, (M,)."""
        g, weight = self._split(self.moments.value(self.scale * z))
        whitened: Array = np.sqrt(self.n_obs) * weight.whiten(g)
        return whitened

    def residuals_and_jacobian(self, z: Array) -> tuple[Array, Array]:
        """The same with its Jacobian with respect to z, (M, P)."""
        value, slopes = self.moments.value_and_jacobian(self.scale * z)
        m, p = len(self.names), slopes.shape[1]
        g, weight = self._split(value)
        white = weight.whiten(g)
        once = weight.whiten(slopes[m:].reshape(m, m * p)).reshape(m, m, p)
        twice = weight.whiten(once.transpose(1, 0, 2).reshape(m, m * p)).reshape(m, m, p)
        lower = np.tril(np.ones((m, m)), -1) + 0.5 * np.eye(m)
        turned = np.einsum("kl,klp,l->kp", lower, twice, white)
        root_n = np.sqrt(self.n_obs)
        return root_n * white, root_n * (weight.whiten(slopes[:m]) - turned) * self.scale

    def value(self, z: Array) -> float:
        """``N Q``."""
        residuals = self.residuals(z)
        return float(residuals @ residuals)

    def value_and_gradient(self, z: Array) -> tuple[float, Array]:
        """``N Q`` and ``N (2 w'dg - w'dS w)`` with respect to z."""
        value, pull = self.moments.value_and_vjp(self.scale * z)
        g, weight = self._split(value)
        w = weight.apply(g)
        slope = pull(np.concatenate([2.0 * w, -np.outer(w, w).ravel()]))
        return self.n_obs * float(g @ w), self.n_obs * self.scale * slope

    def _split(self, value: Array) -> tuple[Array, Weight]:
        m = len(self.names)
        s = value[m:].reshape(m, m)
        covariance = replace(self.like, matrix=0.5 * (s + s.T), theta=None)
        try:
            return value[:m], inverse_weight(covariance, self.names)
        except IdentificationError as error:
            what = error.complaints[0].what
            raise NotFiniteError(Complaint("E411", what, next="start elsewhere")) from None
