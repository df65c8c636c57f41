"""Optimisers: callables in, :class:`Outcome` out.  Knows nothing of moments.

An optimiser's own flag is kept but not believed; what counts is decided afterwards from the
derivatives at its answer (see :mod:`.certificate`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import Complaint, ConfigError, EstimationError, not_among
from gmmest.gmm.units import column_norms

__all__ = ["OPTIMIZERS", "Outcome", "Problem", "minimise", "polish", "scattered"]

Array = NDArray[np.float64]

OPTIMIZERS = ("lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead")

FAR = 1e100
"""A criterion that overflowed, as a finite number that line searches can step back from."""

LSQ_LIMIT = 2000
"""Trial points of least squares.  In a curved valley the trust region stays short and creeps: NIST's
Bennett5 takes 1,200 of them, MGH17 about 950, and both then end at the minimum.  A restart from where it
stopped, which forgets the largest columns that the scaling has seen, needs as many."""

FORESEEN_STEPS = 20
FORESEEN_PART = 0.75
FORESEEN_END = 1e-6
"""Length of ``J step``, in whitened residuals standard errors, at which Gauss-Newton steps that were all foreseen
have arrived."""
FORESEEN_LEAST = 1e-6
"""Below this part of the sum of squares the trust region, which then starts near its end, is as quick."""

AWAY = 4.0
"""Units by which scattered starts move a parameter at least: minima nearer than this are one to the data."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A sum of squares to be minimised.

    Parameters
    ----------
    residuals : callable
        ``z -> r``, (M,).
    residuals_and_jacobian : callable
        ``z -> (r, dr/dz')``.
    value : callable
        ``z -> r'r``.
    value_and_gradient : callable
        ``z -> (r'r, its gradient)``.
    lower, upper : array (P,), optional
        Bounds of z; None, or infinite, where there are none.
    joint : bool
        Whether the Jacobian comes with the residuals at little more than their cost: trial points, most of
        which are accepted, then take it along and save an evaluation.
    """

    residuals: Callable[[Array], Array]
    residuals_and_jacobian: Callable[[Array], tuple[Array, Array]]
    value: Callable[[Array], float]
    value_and_gradient: Callable[[Array], tuple[float, Array]]
    lower: Array | None = None
    upper: Array | None = None
    joint: bool = False

    @property
    def bounded(self) -> bool:
        """Whether any bound is finite."""
        return any(ends is not None and bool(np.any(np.isfinite(ends))) for ends in (self.lower, self.upper))

    def ends(self, size: int) -> tuple[Array, Array]:
        """Lower and upper bounds as arrays."""
        low = np.full(size, -np.inf) if self.lower is None else self.lower
        return low, np.full(size, np.inf) if self.upper is None else self.upper


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where an optimiser stopped.

    Parameters
    ----------
    point : array (P,)
    value : float
        Sum of squares there.
    iterations : int
    message : str
        In the optimiser's own words.
    """

    point: Array
    value: float
    iterations: int
    message: str

    def __post_init__(self) -> None:
        point = self.point.view()
        point.flags.writeable = False
        object.__setattr__(self, "point", point)


def minimise(problem: Problem, start: Array, method: str, maxiter: int | None = None) -> Outcome:
    """Run one of the optimisers.

    Parameters
    ----------
    problem : Problem
    start : array (P,)
        Parameters scaled so that unit steps are sensible.
    method : {"lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead"}
    maxiter : int, optional
        Iterations at most (trial points for lsq); by default each method's own limit: 2,000 for lsq, 200
        a parameter for Nelder-Mead, 500 otherwise.

    Raises
    ------
    ConfigError
        An unknown method, or bounds with ``bfgs``, which has none.
    EstimationError
        The criterion is not finite at the start.
    """
    if complaints := not_among("optimizer", method, OPTIMIZERS):
        raise ConfigError(complaints)
    if method == "bfgs" and problem.bounded:
        raise ConfigError(Complaint("E102", "optimizer 'bfgs' knows no bounds", next="optimizer: lbfgsb"))
    own = {"lsq": LSQ_LIMIT, "nelder-mead": 200 * start.size}
    limit = maxiter or own.get(method, 500)
    # moments that are not finite at the start are an error, later a step back
    count = problem.residuals(start).size
    # what overflows is stepped back from; filters of warnings would be those of all threads
    with np.errstate(all="ignore"):
        return (
            _least_squares(problem, start, count, limit)
            if method == "lsq"
            else _scalar(problem, start, method, limit)
        )


def _least_squares(problem: Problem, start: Array, count: int, limit: int) -> Outcome:
    """Foreseen steps, then a trust region on the residuals.

    gtol is absolute and left out, or small units would stop it early.

    A trial point where the residuals are not finite is stepped back from.  One where they are and their
    derivatives are not (the edge of a root's or logarithm's range) has been accepted when that shows, and
    ends the search at the point before it.
    """
    from scipy.optimize import least_squares

    start, ahead, ended = _foreseen(problem, start, min(FORESEEN_STEPS, limit - 1))
    if ended:
        return Outcome(start, problem.value(start), ahead, "Gauss-Newton steps came to their end")
    reached = [start]

    def residuals(z: Array) -> Array:
        if problem.joint:
            try:
                return problem.residuals_and_jacobian(z)[0]
            except EstimationError:
                pass  # perhaps of the derivatives alone
        try:
            return problem.residuals(z)
        except EstimationError:
            return np.full(count, np.sqrt(FAR))

    def jacobian(z: Array) -> Array:
        slope = problem.residuals_and_jacobian(z)[1]
        reached.append(z.copy())
        return slope

    try:
        found = least_squares(
            residuals,
            start,
            jac=jacobian,
            bounds=problem.ends(start.size),
            method="trf",
            x_scale="jac",
            ftol=1e-15,
            xtol=1e-15,
            gtol=None,
            max_nfev=limit - ahead,
        )
    except EstimationError as error:
        if len(reached) == 1:
            raise
        return Outcome(reached[-1], problem.value(reached[-1]), len(reached) - 1, str(error))
    return Outcome(found.x, float(2.0 * found.cost), ahead + int(found.njev), str(found.message))


def _foreseen(problem: Problem, point: Array, most: int) -> tuple[Array, int, bool]:
    """Gauss-Newton steps while each takes off at least three quarters of what the linear model foresees.

    Returns where they led, how many they were, and whether the next would be no longer than
    :data:`FORESEEN_END`: polishing does what is left.

    A trust region would widen after every one of them, but it begins at one standard error where a start is
    zero, and needs a step for each doubling from there.
    """
    low, high = problem.ends(point.size)
    taken = 0
    try:
        residuals, jacobian = problem.residuals_and_jacobian(point)
        while taken < most:
            step = bounded_step(jacobian, residuals, low - point, high - point)
            if np.linalg.norm(jacobian @ step) <= FORESEEN_END:
                return point, taken, True
            foreseen = residuals @ residuals - np.sum(np.square(residuals + jacobian @ step))
            if not foreseen > FORESEEN_LEAST * (residuals @ residuals):
                break
            trial = _moved(point, step, low, high)
            with np.errstate(over="ignore", invalid="ignore"):
                after, slope = problem.residuals_and_jacobian(trial)
                gained = residuals @ residuals - after @ after
            if not (gained >= FORESEEN_PART * foreseen and np.all(np.isfinite(slope))):
                break
            point, residuals, jacobian, taken = trial, after, slope, taken + 1
    except EstimationError:
        pass  # the trust region says what is wrong at the start, or steps back
    return point, taken, False


def _scalar(problem: Problem, start: Array, method: str, limit: int) -> Outcome:
    from scipy.optimize import BFGS, Bounds, minimize

    class Quiet(BFGS):  # type: ignore[misc]
        """Passes over steps along which the gradient stays, as BFGS does, but without a warning."""

        def update(self, delta_x: Array, delta_grad: Array) -> None:
            if np.any(delta_grad != 0):
                super().update(delta_x, delta_grad)

    def value_and_gradient(z: Array) -> tuple[float, Array]:
        try:
            return problem.value_and_gradient(z)
        except EstimationError:
            return FAR, np.zeros_like(z)

    def value(z: Array) -> float:
        try:
            return problem.value(z)
        except EstimationError:
            return FAR

    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "lbfgsb": (
            "L-BFGS-B",
            {"maxiter": limit, "maxfun": 4 * limit, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 20},
        ),
        "bfgs": ("BFGS", {"maxiter": limit, "gtol": 1e-9}),
        "trust-constr": ("trust-constr", {"maxiter": limit, "gtol": 1e-9, "xtol": 1e-12}),
        "nelder-mead": ("Nelder-Mead", {"maxiter": limit, "xatol": 1e-9, "fatol": 1e-12, "adaptive": True}),
    }
    name, options = settings[method]
    bounds = Bounds(*problem.ends(start.size), keep_feasible=True) if problem.bounded else None
    if method == "nelder-mead":
        found = minimize(value, start, method=name, options=options, bounds=bounds)
    else:
        hess = Quiet() if method == "trust-constr" else None
        found = minimize(
            value_and_gradient, start, jac=True, hess=hess, method=name, options=options, bounds=bounds
        )
    return Outcome(
        np.asarray(found.x, dtype=np.float64), float(found.fun), int(found.nit), str(found.message)
    )


def polish(problem: Problem, start: Array, steps: int = 10) -> Array:
    """Gauss-Newton steps from where an optimiser stopped.

    The size of a step is ``|J step|``, the length of the residuals that it would remove: with
    whitened moments, standard errors.  A step is taken if it lowers the sum of squares; near a
    minimum, where that sum is flat to rounding, if the next step is smaller.

    Returns
    -------
    array (P,)
    """
    with np.errstate(over="ignore", invalid="ignore"):  # trial points that overflow are stepped back from
        return _polished(problem, start, steps)


def _polished(problem: Problem, point: Array, steps: int) -> Array:
    low, high = problem.ends(point.size)
    point = np.clip(point, low, high)
    residuals, jacobian = problem.residuals_and_jacobian(point)
    step = bounded_step(jacobian, residuals, low - point, high - point)
    for _ in range(steps):
        size = np.linalg.norm(jacobian @ step)
        rounding = 2.0 * np.spacing(np.max(np.abs(point)))  # of the largest parameter; all are in like units
        if not size > 1e-15 * (1.0 + np.linalg.norm(residuals)) or np.max(np.abs(step)) <= rounding:
            # an optimiser that stays inside the bounds stops a rounding before one
            ends = (step < 0) & (step <= low - point) | (step > 0) & (step >= high - point)
            return np.where(ends, _moved(point, step, low, high), point)
        fraction = 1.0
        while True:
            trial = _moved(point, fraction * step, low, high)
            try:
                after, slope = problem.residuals_and_jacobian(trial)
            except EstimationError:
                after, slope = np.full_like(residuals, np.inf), jacobian
            if np.all(np.isfinite(slope)) and np.all(np.isfinite(after)):
                following = bounded_step(slope, after, low - trial, high - trial)
                change = after @ after - residuals @ residuals
                flat = change <= 1e-9 * (residuals @ residuals)
                if change < -1e-9 * (residuals @ residuals) or (
                    flat and np.linalg.norm(slope @ following) < 0.9 * size
                ):
                    break
            fraction /= 4.0
            if fraction < 0.01:
                return point
        point, residuals, jacobian, step = trial, after, slope, following
    return point


def _moved(point: Array, step: Array, low: Array, high: Array) -> Array:
    """``point + step``, on a bound to the last bit where the step ends there."""
    to = point + step
    at_low, at_high = step <= low - point, step >= high - point
    moved: Array = np.where(at_low, low, np.where(at_high, high, np.clip(to, low, high)))
    return moved


def bounded_step(jacobian: Array, residuals: Array, low: Array, high: Array) -> Array:
    """Gauss-Newton step, ``argmin |J step + r|`` with ``low <= step <= high``.

    Parameters
    ----------
    jacobian : array (M, P)
    residuals : array (M,)
    low, high : array (P,)
        How far each parameter may move down and up; infinite, or 0 at a bound.

    Returns
    -------
    array (P,)
        :func:`least_norm` where that keeps to the bounds; else by active sets (Stark and Parker's BVLS),
        columns at unit norm, with entries that end on a bound exactly there.

    References
    ----------
    Stark, P. B. and R. L. Parker (1995), "Bounded-variable least-squares: an algorithm and applications",
    Computational Statistics 10, 129-141.

    Examples
    --------
    >>> bounded_step(np.eye(2), np.array([1.0, -3.0]), np.array([-0.5, -9.0]), np.full(2, 9.0)).tolist()
    [-0.5, 3.0]
    """
    step = -least_norm(jacobian, residuals)
    if np.all((step >= low) & (step <= high)):
        return step
    from scipy.optimize import lsq_linear

    scale = column_norms(jacobian)
    movable = low < high
    if not np.any(movable) or not np.all(np.isfinite(jacobian)):
        return np.zeros_like(low)
    found = np.zeros_like(low)
    found[movable] = (
        lsq_linear(
            (jacobian / scale)[:, movable],
            -residuals,
            ((low * scale)[movable], (high * scale)[movable]),
            method="bvls",
            tol=1e-15,
        ).x
        / scale[movable]
    )
    exact: Array = np.where(
        found * scale <= low * scale, low, np.where(found * scale >= high * scale, high, found)
    )
    return exact


def least_norm(jacobian: Array, residuals: Array) -> Array:
    """``argmin |J step - r|`` with columns at unit norm; the shortest such step where J is deficient."""
    scale = column_norms(jacobian)
    step: Array = np.linalg.lstsq(jacobian / scale, residuals, rcond=1e-14)[0] / scale
    return step


def scattered(start: Array, unit: Array, count: int, seed: int) -> list[Array]:
    """Further starts around a given one, the same for the same seed.

    Parameters
    ----------
    start : array (P,)
    unit : array (P,)
        Standard errors, or what stands for them.
    count : int
    seed : int

    Returns
    -------
    list of array (P,)
        Two near, two away, and so on.  Near: each parameter multiplied by ``2^u`` with u uniform on (-1, 1), so
        that signs stay and magnitudes go from half to twice; a zero becomes ``u * unit``.  Away: ``start + d``
        and ``start - d`` with d of either sign, between one and two times ``max(|start|, 4 unit)``: of the
        two, one lies at or beyond zero, where a minimum of the other sign would be.

    Examples
    --------
    >>> [point.round(2).tolist() for point in scattered(np.array([8.0, 0.0]), np.ones(2), 4, seed=0)]
    [[9.67, -0.46], [4.23, -0.97], [20.35, 7.09], [-4.35, -7.09]]
    """
    draws = np.random.default_rng(seed).uniform(-1.0, 1.0, (count, start.size))
    near = np.where(start == 0, draws * unit, start * np.exp2(draws))
    away = np.copysign(np.exp2(np.abs(draws)), draws) * np.maximum(np.abs(start), AWAY * unit)
    return [
        near[k] if k % 4 < 2 else start + away[k] if k % 4 == 2 else start - away[k - 1] for k in range(count)
    ]
