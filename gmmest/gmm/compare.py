"""Derivative backends side by side: what each costs, how exact it is, and what estimates it leads to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.backends import ComplexStep, as_backend
from gmmest.errors import DerivativeError
from gmmest.execution.serial import single_blas_thread
from gmmest.gmm.estimator import GMMEstimator, starting_point
from gmmest.gmm.moments import Moments
from gmmest.gmm.results import GMMResults

__all__ = ["BackendRow", "Comparison", "compare"]

Array = NDArray[np.float64]

EXACT_LIMIT = 1e-8
DIFFERENCE_LIMIT = 1e-5
"""Largest differences of Jacobians that are let pass, relative to the column."""


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
    error : float
        Largest difference of the Jacobian from the reference, relative to the column's largest
        entry, at the start and at the estimate.
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
    error: float
    first_call_s: float
    fit: GMMResults
    digits: float

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
    """All rows, and the backend that served as the exact reference."""

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
            limit = EXACT_LIMIT if as_backend(row.name).exact else DIFFERENCE_LIMIT
            if not row.error <= limit:
                found.append(
                    f"{row.name} differs from {self.reference} by {row.error:.1e} of a column; {limit:g} is allowed"
                )
            if not row.fit.verified:
                found.append(f"{row.name}: {row.fit.verdict()}")
        return tuple(found)


def compare(estimator: GMMEstimator, grads: Sequence[str], rounds: int = 15) -> Comparison:
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

    Returns
    -------
    Comparison
    """
    sample = estimator.model.sample(estimator.data)
    with single_blas_thread():
        reference, fit = _reference(estimator)
        exact = Moments(estimator.model, sample, reference)
        start = starting_point(None, sample)
        # derivatives are easy at the estimate of a just identified model: look at the start as well
        points = (start, fit.theta)
        truth = [exact.value_and_jacobian(point)[1] for point in points]
        candidates = {}
        for name in dict.fromkeys(grads):
            moments = Moments(estimator.model, sample, as_backend(name))
            begin = time.perf_counter()
            found = [moments.value_and_jacobian(point)[1] for point in points]
            moments.value_and_vjp(start)[1](np.ones(len(sample.moment_names)))
            candidates[name] = (moments, _error(found, truth), time.perf_counter() - begin)
        plain = Moments(estimator.model, sample, "auto")
        times = _times(plain, {name: c[0] for name, c in candidates.items()}, fit, rounds)
        rows = []
        for name, (_, error, first) in candidates.items():
            own = replace(estimator, grad=name).fit()
            value, gradient, jacobian = times[name]
            rows.append(BackendRow(name, value, gradient, jacobian, error, first, own, _digits(own, fit)))
    return Comparison(
        tuple(rows), reference, sample.n_obs, sample.n_rows, len(sample.moment_names), len(sample.names)
    )


def _reference(estimator: GMMEstimator) -> tuple[str, GMMResults]:
    """Complex steps share no code with the other engines; where they cannot go, dual numbers."""
    sample = estimator.model.sample(estimator.data)
    point = starting_point(None, sample)
    try:
        _, by_steps = Moments(estimator.model, sample, ComplexStep()).value_and_jacobian(point)
        _, by_duals = Moments(estimator.model, sample, "forward").value_and_jacobian(point)
        name = "complex" if _error([by_steps], [by_duals]) < 1e-8 else "forward"
    except (DerivativeError, TypeError, ValueError):
        name = "forward"
    return name, replace(estimator, grad=name).fit()


def _times(
    plain: Moments, candidates: dict[str, Moments], fit: GMMResults, rounds: int
) -> dict[str, tuple[float, float, float]]:
    weight = fit.estimate.weight
    best = {name: [np.inf, np.inf, np.inf] for name in candidates}
    for turn in range(rounds):
        theta = fit.theta * (1.0 + 1e-7 * (turn + 1))

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


def _error(found: Sequence[Array], truth: Sequence[Array]) -> float:
    worst = 0.0
    for ours, exact in zip(found, truth, strict=True):
        size = np.max(np.abs(exact), axis=0)
        worst = max(worst, float(np.max(np.abs(ours - exact) / np.where(size > 0, size, 1.0))))
    return worst


def _digits(fit: GMMResults, reference: GMMResults) -> float:
    gap = np.abs(fit.theta - reference.theta) / np.maximum(np.abs(reference.theta), np.finfo(float).tiny)
    return float(min(16.0, -np.log10(max(np.max(gap), 1e-16))))
