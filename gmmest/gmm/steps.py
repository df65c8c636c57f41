"""One step, two, as many as it takes, or one criterion whose weight moves: minimise, polish, judge.

Everything here works on the free parameters; see :mod:`.parameters`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import Complaint, EstimationError, IdentificationError, printable
from gmmest.gmm.certificate import (
    ROUNDING_ULP,
    SAME_MINIMUM,
    Certificate,
    Curvature,
    certify,
    contradiction,
    curvature,
    falls_inwards,
    lower_inside,
    lowest,
    usable,
    whitened_directions,
    wrong_multipliers,
)
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.cue import ContinuousCriterion
from gmmest.gmm.fitted import STEPS, Estimate, StepsName
from gmmest.gmm.inference import SeName, covariance
from gmmest.gmm.moments import Moments
from gmmest.gmm.objective import Criterion, power_of_two_scale
from gmmest.gmm.optimize import FORESEEN_END, Outcome, Problem, minimise, polish, scattered
from gmmest.gmm.units import solve_at_unit_diagonal
from gmmest.gmm.weighting import MomentCovariance, Weight, initial_weight, inverse_weight, moment_covariance

__all__ = ["STEPS", "Fitted", "Plan", "StepsName", "fit_steps"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
MakeCriterion = Callable[[Array], Criterion | ContinuousCriterion]

CURVATURE_STEP = 0.05
"""Steps, in standard errors, of the differences that give the criterion's curvature."""
LAST_MOVE = 1e-10
"""Standard errors by which the last of iterated steps may still move the estimate: ten digits of what can be
known, far below the 1e-4 of a certificate and above the rounding of a step."""
STEP_RATIO = 16.0
STEPS_DISAGREE = 1e-3
"""How far derivatives by differences may move, relative to the column, when steps are 16 times shorter:
a thousandth shows in the fourth digit of a standard error, the last one printed."""
CUE_STARTS = 5
"""Starts of CUE where nothing is said: the two-step estimate and four around it."""
START_SEED = 0
NEWTON_STEPS = 8
SAME_POINT = 1e-2
"""Standard errors within which two starts have ended at the same point."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fit is asked to do, in terms of free parameters.

    Parameters
    ----------
    steps, weighting, initial, optimizer, maxiter, max_steps
        As in ``GMMEstimator``.
    starts : int or tuple of array (F,) or None
        Number of starts in all, or those beside the first.
    lower, upper : array (F,)
    se : str
        What V of every step is; the search is the same for all names with the default.
    near : bool
        Whether starts are close to a minimum: Gauss-Newton steps come first, and the optimizer only where the
        certificate refuses what they found.
    """

    steps: StepsName
    weighting: CovarianceOptions
    initial: str
    optimizer: str
    maxiter: int | None
    max_steps: int
    starts: int | tuple[Array, ...] | None
    lower: Array
    upper: Array
    near: bool = False
    se: SeName = "sandwich"


@dataclass(frozen=True, slots=True)
class Fitted:
    """Where a step ended, for the free parameters.

    Parameters
    ----------
    estimate : Estimate
        Of the free parameters; rows and columns of V at active bounds are zero.
    certificate : Certificate
    outcome : Outcome
    value : float
        N Q.
    at_bound : array (F,) of bool
    taken : int
        Steps taken.
    starts : int
        Starts tried in the last step.
    notes : tuple of str
    """

    estimate: Estimate
    certificate: Certificate
    outcome: Outcome
    value: float
    at_bound: Mask
    taken: int = 1
    starts: int = 1
    notes: tuple[str, ...] = ()


def fit_steps(
    plan: Plan, moments: Moments, start: Array, moving: Callable[[], Moments] | None = None
) -> Fitted:
    """All the steps of a plan.

    Parameters
    ----------
    plan : Plan
    moments : Moments
    start : array (F,)
    moving : callable, optional
        Makes the moments with S for ``cue``.

    Notes
    -----
    ``iterated`` ends where a step moves no parameter by more than 1e-10 standard errors (rounding let
    pass): theta then minimises Q with the W that it makes itself (Hansen, Heaton and Yaron 1996).
    """
    weight = initial_weight(moments, plan.initial)
    if plan.steps == "cue" and plan.starts is None:
        others: list[Array] = []
    else:
        others = _others(plan, moments, weight, start)
    first = _lowest(plan, moments, _with(moments, weight), start, others)
    if plan.steps == "onestep":
        return first
    just_identified = start.size == len(moments.sample.moment_names)
    if (
        just_identified
        and plan.steps == "twostep"
        and first.certificate.verified
        and not first.at_bound.any()
    ):
        return _with_weight(first, _next_weight(first, moments.sample.moment_names))
    # later steps begin at the estimate before, and elsewhere; a number of starts is that of every step
    others = [start, *others][: len(others) + (not isinstance(plan.starts, int))] if others else []
    second = _next(plan, moments, first, others)
    if plan.steps == "twostep":
        return _with_first(second, first, moments)
    if plan.steps == "iterated":
        return _iterated(plan, moments, first, second, others)
    if moving is None:
        raise AssertionError("cue needs moments with S")  # a caller's mistake
    return _continuous(plan, moments, moving(), second, others)


def _with(moments: Moments, weight: Weight) -> MakeCriterion:
    return lambda scale: Criterion(moments, weight, scale)


def _next(plan: Plan, moments: Moments, before: Fitted, others: Sequence[Array]) -> Fitted:
    """The step after another, with the weight that it leads to."""
    weight = _next_weight(before, moments.sample.moment_names)
    after = _lowest(plan, moments, _with(moments, weight), before.estimate.theta, others)
    return replace(after, taken=before.taken + 1)


def _with_weight(found: Fitted, weight: Weight) -> Fitted:
    """A root of the moments, whatever weight led there, as the second step would find it again."""
    g = found.estimate.moments
    estimate = replace(found.estimate, weight=weight)
    value = float(estimate.s.n_obs * np.sum(np.square(weight.whiten(g))))
    return replace(found, estimate=estimate, value=value, taken=found.taken + 1)


def _with_first(second: Fitted, first: Fitted, moments: Moments) -> Fitted:
    """What speaks against the first step speaks against the second, whose weight it made."""
    just_identified = len(moments.sample.names) == len(moments.sample.moment_names)
    if first.certificate.verified or (just_identified and not np.any(second.at_bound)):
        return second  # a root is a root, whatever weight led there
    reasons = tuple(f"first step: {reason}" for reason in first.certificate.reasons)
    return replace(
        second, certificate=replace(second.certificate, reasons=(*second.certificate.reasons, *reasons))
    )


def _iterated(plan: Plan, moments: Moments, before: Fitted, after: Fitted, others: Sequence[Array]) -> Fitted:
    """Steps until theta stays where it is; what the steps on the way were worth does not matter then."""
    while (moved := _movement(before, after)) > LAST_MOVE and after.taken < plan.max_steps:
        before, after = after, _next(plan, moments, after, others)
    if moved <= LAST_MOVE:
        return after
    reason = (
        f"{after.taken} steps, and the last one still moved the estimate by {moved:.1e} standard errors"
        f" ({LAST_MOVE:g} is allowed)"
    )
    return replace(
        after, certificate=replace(after.certificate, reasons=(*after.certificate.reasons, reason))
    )


def _movement(before: Fitted, after: Fitted) -> float:
    """Largest change of a parameter in standard errors; nan, where there are none, counts as far."""
    theta = after.estimate.theta
    change = np.abs(theta - before.estimate.theta)
    change = np.where(change <= ROUNDING_ULP * np.spacing(np.abs(theta)), 0.0, change)
    errors = np.sqrt(np.diag(after.estimate.v))
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.where(change > 0, change / errors, 0.0)
    return float(np.max(np.where(np.isnan(moved), np.inf, moved)))


def _continuous(
    plan: Plan, moments: Moments, moving: Moments, two_step: Fitted, others: Sequence[Array]
) -> Fitted:
    """CUE from the two-step estimate and from other starts."""
    theta, names = two_step.estimate.theta, moments.sample.moment_names

    def make(scale: Array) -> ContinuousCriterion:
        return ContinuousCriterion(moving, names, two_step.estimate.s, scale)

    if plan.starts is None or isinstance(plan.starts, int):
        errors = np.sqrt(np.diag(two_step.estimate.v))
        unit = np.where(usable(errors), errors, 1.0)
        count = (CUE_STARTS if plan.starts is None else plan.starts) - 1
        others = _inside(plan, scattered(theta, unit, count, START_SEED))
    found = _lowest(plan, moments, make, theta, others)
    return replace(found, taken=two_step.taken + 1)


def _next_weight(first: Fitted, names: tuple[str, ...]) -> Weight:
    try:
        return inverse_weight(first.estimate.s, names)
    except IdentificationError:
        if first.certificate.verified:
            raise
        # moments look redundant where the search got lost: that is not what is wrong
        raise EstimationError(
            Complaint(
                "E401",
                f"the first step found no minimum, and its moments make no weight: {first.certificate.reasons[0]}",
                next="start elsewhere, or choose another optimizer",
            )
        ) from None


# --- several starts ---------------------------------------------------------------------------------------


def _others(plan: Plan, moments: Moments, weight: Weight, start: Array) -> list[Array]:
    """Starts beside the first."""
    if plan.starts is None:
        return []
    if not isinstance(plan.starts, int):
        return list(plan.starts)
    _, jacobian = moments.value_and_jacobian(start)
    unit = power_of_two_scale(np.sqrt(moments.sample.n_obs) * weight.whiten(jacobian))
    return _inside(plan, scattered(start, unit, plan.starts - 1, START_SEED))


def _inside(plan: Plan, points: Sequence[Array]) -> list[Array]:
    return [np.clip(point, plan.lower, plan.upper) for point in points]


def _lowest(
    plan: Plan, moments: Moments, make: MakeCriterion, start: Array, others: Sequence[Array]
) -> Fitted:
    """The lowest minimum that several starts lead to, and a note of the others (W403)."""
    first = _fit_once(plan, moments, make, start)
    if not others:
        return first
    fits: list[Fitted | None] = [first]
    for point in others:
        try:
            fits.append(_fit_once(plan, moments, make, point))
        except (EstimationError, IdentificationError):  # a start of no use is no error of the first one
            fits.append(None)
    verified = [fit is not None and fit.certificate.verified for fit in fits]
    values = np.array([np.inf if fit is None else fit.value for fit in fits])
    if len(moments.sample.moment_names) == start.size and not np.any(first.at_bound):
        values = np.where(verified, 0.0, values)  # roots are equal, whatever rounding leaves
    # CUE may be lower on the way to infinity than at its minimum: that is told, and is no estimate
    index, note = lowest(np.where(verified, values, np.inf) if any(verified) else values, verified, "N Q")
    best = fits[index]
    assert best is not None  # noqa: S101  the first start is never None, and its value is finite
    notes = (note, *_elsewhere(best, [fit for fit in fits if fit is not None]), *_below(best, values))
    return replace(best, starts=len(fits), notes=notes)


def _below(best: Fitted, values: Array) -> tuple[str, ...]:
    """A note where a start stopped below the best minimum, and at none."""
    lower = values[values < best.value * (1.0 - SAME_MINIMUM)]
    if not best.certificate.verified or not lower.size:
        return ()
    return (
        f"W403 the criterion is lower elsewhere: {lower.size} starts stopped at no minimum, the lowest at N Q ="
        f" {np.min(lower):.6g}; a better minimum may exist, or none on the way to infinity",
    )


def _elsewhere(best: Fitted, fits: Sequence[Fitted]) -> tuple[str, ...]:
    """A note where other starts ended as low at another point: the minimum is not unique."""
    errors = np.sqrt(np.diag(best.estimate.v))
    apart = 0
    for fit in fits:
        gap = np.abs(fit.estimate.theta - best.estimate.theta)
        with np.errstate(divide="ignore", invalid="ignore"):
            far = bool(np.any(np.where(gap > 0, gap / errors, 0.0) > SAME_POINT))
        same = fit.value <= best.value * (1.0 + SAME_MINIMUM) or fit.estimate.moments.size == gap.size
        apart += bool(fit.certificate.verified and same and far)
    if not apart:
        return ()
    return (f"W403 the minimum is not unique: {apart} starts ended as low at another point",)


# --- one minimisation -------------------------------------------------------------------------------------


def _fit_once(plan: Plan, moments: Moments, make: MakeCriterion, start: Array) -> Fitted:
    """Optimise with one criterion, polish, and judge."""
    _, jacobian = make(np.ones_like(start)).residuals_and_jacobian(start)
    scale = power_of_two_scale(jacobian)
    criterion = make(scale)
    problem = Problem(
        criterion.residuals,
        criterion.residuals_and_jacobian,
        criterion.value,
        criterion.value_and_gradient,
        plan.lower / scale,
        plan.upper / scale,
        joint=moments.grad == "analytic",
    )
    if plan.near:
        near = _ended(plan, moments, criterion, problem, Outcome(start / scale, np.nan, 0, "started near"))
        if near.certificate.verified:
            return near
    outcome = minimise(problem, start / scale, plan.optimizer, plan.maxiter)
    return _ended(plan, moments, criterion, problem, outcome)


def _ended(
    plan: Plan,
    moments: Moments,
    criterion: Criterion | ContinuousCriterion,
    problem: Problem,
    outcome: Outcome,
) -> Fitted:
    """Polish what an optimizer found, go on from bounds that do not hold it, and judge."""
    squared = _with_squares(problem, criterion, plan.weighting)
    z = polish(squared, outcome.point)
    for _ in range(z.size):
        released = lower_inside(problem, z)
        if released is None:
            break
        outcome = minimise(problem, released[1], plan.optimizer, plan.maxiter)
        z = polish(squared, outcome.point)
    if isinstance(criterion, ContinuousCriterion):
        z = _newton(problem, z)
    scale = criterion.scale
    theta = scale * z
    check = getattr(moments.model, "check_existence", None)
    if check is not None:
        check(theta, moments.sample, sums=moments.sums(theta))
    estimate, at_bound = _estimate(plan, moments, criterion.weight_at(theta), theta)
    certificate = _judge(problem, z, scale, estimate, moments, isinstance(criterion, ContinuousCriterion))
    return Fitted(estimate, certificate, outcome, problem.value(z), at_bound)


def _with_squares(
    problem: Problem, criterion: Criterion | ContinuousCriterion, weighting: CovarianceOptions
) -> Problem:
    """The same problem, whose last steps sum the squares that S is made of in the same pass."""
    if isinstance(criterion, ContinuousCriterion) or criterion.moments.centre is not None:
        return problem
    if weighting.estimator != "robust" or weighting.centred:
        return problem
    last = replace(criterion, square=True)
    return replace(problem, residuals_and_jacobian=last.residuals_and_jacobian)


def _estimate(plan: Plan, moments: Moments, weight: Weight, theta: Array) -> tuple[Estimate, Mask]:
    """Arrays at the estimate; a parameter at its bound counts as fixed there."""
    at_bound = (theta <= plan.lower) | (theta >= plan.upper)
    value, jacobian = moments.value_and_jacobian(theta)
    s = moment_covariance(moments, theta, plan.weighting)
    names = moments.sample.moment_names
    if not np.any(at_bound):
        v = covariance(jacobian, weight, s, plan.se, names)
    else:
        v = np.zeros((theta.size, theta.size))
        inside = np.ix_(~at_bound, ~at_bound)
        if not np.all(at_bound):
            v[inside] = covariance(jacobian[:, ~at_bound], weight, s, plan.se, names)
    return Estimate(theta, value, jacobian, weight, s, v), at_bound


def _judge(
    problem: Problem, z: Array, scale: Array, estimate: Estimate, moments: Moments, newton: bool
) -> Certificate:
    residuals, jacobian = problem.residuals_and_jacobian(z)
    low, high = problem.ends(z.size)
    inside = (z > low) & (z < high)
    names = moments.sample.names
    wrong = wrong_multipliers(residuals, jacobian, z <= low, z >= high, names)
    released = lower_inside(problem, z)
    if released is not None:
        wrong = (*wrong, falls_inwards(names[released[0]]))
    if not np.any(inside):
        return Certificate(0.0, 1.0, 0, np.nan, wrong)
    jacobian = jacobian[:, inside]
    with np.errstate(invalid="ignore"):  # a variance below zero has no root, and the certificate says so
        errors = np.sqrt(np.diag(estimate.v)[inside]) / scale[inside]
    hessian = root = step = None
    if residuals.size == z.size and np.all(inside):
        at_root = _whitened(estimate.moments, estimate.s, moments.sample.moment_names)
        root = float(estimate.s.n_obs * (at_root @ at_root))
    elif np.any(usable(errors)):
        hessian = _hessian(problem, z, inside, _standard_directions(jacobian, errors))
        if newton:
            step = solve_at_unit_diagonal(hessian.matrix, jacobian.T @ residuals)
    free = tuple(name for name, moves in zip(names, inside, strict=True) if moves)
    certificate = certify(z[inside], residuals, jacobian, errors, free, hessian, root, step)
    doubts = () if moments.exact else _doubtful_differences(moments, estimate)
    certificate = replace(certificate, reasons=(*certificate.reasons, *wrong, *doubts))
    if not certificate.verified:
        return replace(certificate, reasons=(*_unlike_one(estimate), *certificate.reasons))
    room = np.minimum(z - low, high - z)[inside] * scale[inside]
    unsaid = _contradiction(moments, estimate, inside, room)
    return replace(certificate, reasons=(unsaid,)) if unsaid else certificate


def _unlike_one(estimate: Estimate) -> tuple[str, ...]:
    """Why a search ended too early: its limits are in standard errors, and W = I leaves them in any unit."""
    spread = float(np.sqrt(max(0.0, np.max(np.diag(estimate.s.matrix)))))
    if estimate.weight.source != "identity" or spread >= FORESEEN_END:
        return ()
    return (f"moments vary by {spread:.0e}, too little for weight 'identity': multiply them by a constant",)


def _contradiction(moments: Moments, estimate: Estimate, inside: Mask, room: Array) -> str:
    """What the moments do near the estimate that G does not say, in the metric of S, or of W if S has no inverse."""
    root_n, names = np.sqrt(estimate.s.n_obs), moments.sample.moment_names

    def whitened(a: Array) -> Array:
        try:
            white = _whitened(a, estimate.s, names)
        except IdentificationError:
            white = estimate.weight.whiten(a)
        scaled: Array = root_n * white
        return scaled

    def residuals(x: Array) -> Array:
        theta = estimate.theta.copy()
        theta[inside] = x
        return whitened(moments.value(theta))

    jacobian = whitened(estimate.jacobian[:, inside])
    with np.errstate(over="ignore", invalid="ignore"):  # standard errors may be too long to go
        return contradiction(residuals, estimate.theta[inside], whitened(estimate.moments), jacobian, room)


def _whitened(a: Array, s: MomentCovariance, names: tuple[str, ...]) -> Array:
    """``L'a`` with LL' the inverse of S; where clusters are too few for one, a in the moments' own standard errors.

    Only moments without a variance are left to be refused then, by E214: what it advises is another S, since
    another number of steps needs this one as well.
    """
    try:
        return inverse_weight(s, names).whiten(a)
    except IdentificationError as error:
        diagonal, complaint = np.diag(s.matrix), error.complaints[0]
        if complaint.code != "E214":
            raise
        if not np.all(diagonal > 0):
            other = replace(complaint, next="weighting: robust or cluster, or other clusters")
            raise IdentificationError(other) from None
        scaled: Array = np.transpose(a.T / np.sqrt(diagonal))
        return scaled


def _hessian(problem: Problem, z: Array, inside: Mask, directions: Array) -> Curvature:
    """Half the Hessian of N Q for the parameters that are inside their bounds, by differences of gradients."""
    low, high = problem.ends(z.size)
    room = np.minimum(z - low, high - z)[inside]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.min(np.where(directions != 0, room[:, None] / np.abs(directions), np.inf), axis=0)
    steps = directions * np.minimum(CURVATURE_STEP, reach)

    def half_gradient(x: Array) -> Array:
        point = z.copy()
        point[inside] = x
        slope: Array = 0.5 * problem.value_and_gradient(point)[1][inside]
        return slope

    return curvature(half_gradient, z[inside], steps)


def _newton(problem: Problem, z: Array) -> Array:
    """Newton steps on the parameters inside their bounds, while each is shorter than the one before.

    Gauss-Newton leaves out how S bends; where residuals are large it ends linearly, Newton at once.
    """
    low, high = problem.ends(z.size)
    before = np.inf
    for _ in range(NEWTON_STEPS):
        inside = (z > low) & (z < high)
        if not np.any(inside):
            return z
        try:
            residuals, jacobian = problem.residuals_and_jacobian(z)
            slope = jacobian[:, inside].T @ residuals
            bent = _hessian(problem, z, inside, whitened_directions(jacobian[:, inside]))
            step = -solve_at_unit_diagonal(bent.matrix, slope)
        except EstimationError:
            return z
        length = float(np.linalg.norm(jacobian[:, inside] @ step))
        trial = z.copy()
        trial[inside] += step
        if not length < 0.5 * before or length > 1.0 or np.any((trial < low) | (trial > high)):
            return z
        z, before = trial, length
    return z


def _standard_directions(jacobian: Array, errors: Array) -> Array:
    """Directions as columns that move all parameters together, none by more than its standard error if it has one.

    With W = S^-1 each of :func:`.whitened_directions` is one standard error long; other weights have
    residuals in other units, which the smallest ratio of the two makes good.
    """
    directions = whitened_directions(jacobian)
    lengths = np.sqrt(np.sum(np.square(directions), axis=1))
    known = usable(errors)
    scaled: Array = directions * np.min(errors[known] / lengths[known])
    return scaled


def _doubtful_differences(moments: Moments, estimate: Estimate) -> tuple[str, ...]:
    """Columns of a Jacobian by differences that change with the steps: standard errors would be wrong."""
    other = moments.jacobian_with_steps(estimate.theta, 1.0 / STEP_RATIO)
    size = np.max(np.abs(estimate.jacobian), axis=0)
    gap = np.max(np.abs(other - estimate.jacobian), axis=0)
    doubtful = [
        f"differences with shorter steps give other derivatives in {printable(name)}: rescale, or use exact ones"
        for name, g, s in zip(moments.sample.names, gap, size, strict=True)
        if not g <= STEPS_DISAGREE * s
    ]
    return tuple(doubtful[:1])
