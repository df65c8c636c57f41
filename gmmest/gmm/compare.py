"""Derivative backends side by side: what each costs, how exact it is, and what estimates it leads to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.backends import as_backend
from gmmest.execution.serial import single_blas_thread
from gmmest.gmm.audit import AuditRow, audited, exact_reference
from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.moments import Moments
from gmmest.gmm.parameters import Parameters
from gmmest.gmm.results import GMMResults
from gmmest.gmm.weighting import Weight
from gmmest.models.sample import Start

__all__ = ["BackendRow", "Comparison", "comparable", "compare"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BackendRow:
    """One backend's measurements.

    Parameters
    ----------
    name : str
        As asked for.
    value_ms : float
        One evaluation of the criterion ``g'Wg`` in plain NumPy, measured in the same rounds.
    gradient_ms, jacobian_ms : float
        Criterion and gradient; moments and Jacobian.
    audit : tuple of AuditRow
        Differences of the Jacobian from the reference, at the start and at the estimate.
    first_call_s : float
        The first call, which traces and compiles where there is something to compile.
    fit : GMMResults
    digits : float
        Digits in which the estimates agree with the reference's.
    """

    name: str
    value_ms: float
    gradient_ms: float
    jacobian_ms: float
    audit: tuple[AuditRow, ...]
    first_call_s: float
    fit: GMMResults
    digits: float

    @property
    def error(self) -> float:
        """Largest difference of the Jacobian from the reference, relative to the column's largest entry."""
        return max(row.error for row in self.audit)

    @property
    def gradient_ratio(self) -> float:
        """Criterion and gradient in evaluations of the criterion."""
        return self.gradient_ms / self.value_ms

    @property
    def jacobian_ratio(self) -> float:
        """Moments and Jacobian in evaluations of the criterion."""
        return self.jacobian_ms / self.value_ms


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows, and the backend that served as the exact reference; ``n_params`` counts the free ones."""

    rows: tuple[BackendRow, ...]
    reference: str
    n_obs: int
    n_rows: int
    n_moments: int
    n_params: int

    @property
    def complaints(self) -> tuple[str, ...]:
        """Exact backends that disagree with the reference, differences that are too far off, fits not verified."""
        found = []
        for row in self.rows:
            found += [f"differs from {self.reference!r}: {part}" for part in row.audit if not part.passed]
            if not row.fit.verified:
                found.append(f"{row.name}: {row.fit.verdict()}")
        return tuple(found)


def comparable(estimator: GMMEstimator) -> tuple[str, ...]:
    """Backends to compare where none is named; ``analytic`` has no derivative of an S that moves."""
    by_hand = getattr(estimator.model, "moment_sum_and_jacobian", None) is not None
    return ("fd", "forward", "jax", *(("analytic",) if by_hand and estimator.steps != "cue" else ()))


def compare(
    estimator: GMMEstimator, grads: Sequence[str], rounds: int = 15, start: Start = None
) -> Comparison:
    """Measure backends against each other on one estimation problem.

    Times are minima over rounds in which the backends take turns, on one thread; every round moves
    theta a little, so that nothing can be remembered.

    Parameters
    ----------
    estimator : GMMEstimator
        Its own ``grad`` plays no part.
    grads : sequence of str
        Names of backends.
    rounds : int
    start : mapping or sequence of float, optional
        As in :meth:`.GMMEstimator.fit`.

    Returns
    -------
    Comparison
    """
    problem = estimator.sampled()
    model, sample, limits = problem.model, problem.sample, problem.limits
    with single_blas_thread():
        first = problem.start(start)
        reference = exact_reference(model, sample, first)
        fit = replace(estimator, grad=reference).fit(start)
        # derivatives are easy at the estimate of a just identified model: look at the start as well
        points = {"start": first, "estimate": problem.parameters.phi(fit.theta)}
        exact = Moments(model, sample, reference)
        truth = {place: exact.value_and_jacobian(theta)[1] for place, theta in points.items()}
        candidates = {}
        for name in dict.fromkeys(grads):
            moments = Moments(model, sample, as_backend(name), bounds=limits)
            begin = time.perf_counter()
            rows_of = audited(moments, as_backend(name), points, truth)
            moments.value_and_vjp(first)[1](np.ones(len(sample.moment_names)))
            candidates[name] = (moments, tuple(rows_of), time.perf_counter() - begin)
        plain = Moments(model, sample, "auto")
        trials = [_nearby(points["estimate"], turn, problem.parameters) for turn in range(rounds)]
        times = _times(plain, {name: c[0] for name, c in candidates.items()}, fit.estimate.weight, trials)
        rows = []
        for name, (_, audit_rows, first_call) in candidates.items():
            own = replace(estimator, grad=name).fit(start)
            value, gradient, jacobian = times[name]
            rows.append(
                BackendRow(name, value, gradient, jacobian, audit_rows, first_call, own, _digits(own, fit))
            )
    return Comparison(
        tuple(rows), reference, sample.n_obs, sample.n_rows, len(sample.moment_names), len(sample.names)
    )


def _nearby(phi: Array, turn: int, parameters: Parameters) -> Array:
    """A little further from zero at every turn, or nearer to it where a bound is in the way."""
    step = 1e-7 * (turn + 1) * phi
    outside = (phi + step < parameters.lower) | (phi + step > parameters.upper)
    return np.where(outside, phi - step, phi + step)


def _times(
    plain: Moments, candidates: dict[str, Moments], weight: Weight, trials: Sequence[Array]
) -> dict[str, tuple[float, float, float]]:
    best = {name: [np.inf, np.inf, np.inf] for name in candidates}
    for theta in trials:

        def value(theta: Array = theta) -> None:
            white = weight.whiten(plain.value(theta))
            _ = white @ white

        for name, moments in candidates.items():

            def gradient(theta: Array = theta, moments: Moments = moments) -> None:
                g, vjp = moments.value_and_vjp(theta)
                vjp(2.0 * weight.apply(g))

            def jacobian(theta: Array = theta, moments: Moments = moments) -> None:
                moments.value_and_jacobian(theta)

            for k, measured in enumerate((value, gradient, jacobian)):
                best[name][k] = min(best[name][k], 1e3 * _seconds(measured))
    value_ms = min(row[0] for row in best.values())
    return {name: (value_ms, row[1], row[2]) for name, row in best.items()}


def _seconds(function: Callable[[], None]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _digits(fit: GMMResults, reference: GMMResults) -> float:
    gap = np.abs(fit.theta - reference.theta) / np.maximum(np.abs(reference.theta), np.finfo(float).tiny)
    return float(min(16.0, -np.log10(max(np.max(gap), 1e-16))))
