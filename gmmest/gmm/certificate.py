"""The verdict: whether a point is a minimum of the criterion, judged by derivatives, and these by values nearby.

An optimiser's flag plays no part.  A point is *verified* if the Gauss-Newton step that remains is
below 1e-4 standard errors in every parameter, each of which has one, the whitened Jacobian has full rank
and a condition number below 1e12 (columns at unit norm), the criterion curves upwards in every direction,
and the moments near the point do what their derivative says.
A minimum is local; whether other starts end lower is told by :func:`lowest`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import EstimationError, printable
from gmmest.gmm.optimize import Problem, least_norm
from gmmest.gmm.units import column_norms

__all__ = [
    "Certificate",
    "certify",
    "contradiction",
    "curvature",
    "falls_inwards",
    "lower_inside",
    "lowest",
    "usable",
    "whitened_directions",
    "wrong_multipliers",
]

Array = NDArray[np.float64]

STEP_LIMIT = 1e-4
CONDITION_LIMIT = 1e12
ROUNDING_ULP = 64
ROUNDING_LIMIT = 1e-8
"""The floor of rounding hides no error above this, relative to the parameter: eight digits are right."""
SAME_MINIMUM = 1e-6
"""Relative difference of two criteria from which two starts have ended at different minima."""
ROOT_LIMIT = 1e-8
"""N Q of a just identified model at its root, in units of the moments' own variance."""


PROBE_STEPS = (0.2, 0.05)
"""How far from the estimate, in standard errors, its derivative is held against what the moments do: the first
step has many observations pass a jump, the second leaves room for moments that bend."""
LEAST_PROBE = 1e-6
"""Standard errors from a bound below which there is no room for a step that is more than rounding."""
SLOPE_LIMIT = 0.01
"""Part of a change that its derivative may leave out beside what bending explains: standard errors right to 1 %."""
BEND_LIMIT = 0.25
"""Part of a change that bending may make: five times more over a standard error, which then says little."""
FALL = 32.0
"""How many times smaller, at most, the second step may find what the first found.  Steps are 4 times shorter:
what bends falls to a quarter or a sixteenth; what jumps, to nothing where no observation lies so near."""
PROBE_DIRECTIONS = 64
INWARD_STEPS = (0.05, 0.05 / 64, 0.05 / 4096)
"""How far to look inside from a bound, in standard errors; in units of the parameter where it moves nothing there."""
FLAT = 1e-9
"""Relative fall of a criterion, a sum of many, that is no rounding."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Why an estimate may be believed, or not.

    Parameters
    ----------
    remaining_step_se : float
        Largest remaining Gauss-Newton step, in standard errors.
    condition : float
        Condition number of the whitened Jacobian with columns at unit norm.
    rank : int
        Its rank.
    smallest_curvature : float
        Smallest eigenvalue of half the Hessian of N Q in standard-error units: 1 for a quadratic
        criterion, positive at a minimum; nan where it was not computed.
    reasons : tuple of str
        What speaks against the estimate; empty means verified.
    """

    remaining_step_se: float
    condition: float
    rank: int
    smallest_curvature: float
    reasons: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    def verdict(self, n_params: int) -> str:
        """One line: verified, or not and why; `n_params` is how many parameters were free."""
        if not self.verified:
            return "NOT VERIFIED: " + "; ".join(self.reasons)
        return (
            f"verified: remaining Newton step {self.remaining_step_se:.0e} standard errors,"
            f" condition {self.condition:.1e}, rank {self.rank} of {n_params}"
        )


def certify(
    point: Array,
    residuals: Array,
    jacobian: Array,
    standard_errors: Array,
    names: tuple[str, ...],
    hessian: Curvature | None = None,
    efficient_value: float | None = None,
    step: Array | None = None,
) -> Certificate:
    """Judge a point.

    Parameters
    ----------
    point : array (P,)
    residuals : array (M,)
        ``sqrt(N) L'g``.
    jacobian : array (M, P)
        Their Jacobian.
    standard_errors : array (P,)
        The unit in which steps are measured.
    names : tuple of str
    hessian : Curvature, optional
        Half the Hessian of N Q; without it curvature is not judged, and known only where the moments vanish:
        there it is ``J'J``.
    efficient_value : float, optional
        ``N g'S^-1 g`` of a just identified model, which must be zero up to rounding.
    step : array (P,), optional
        The Newton step that remains; by default Gauss-Newton's.

    Returns
    -------
    Certificate
    """
    unit = jacobian / column_norms(jacobian)
    singular = np.linalg.svd(unit, compute_uv=False) if np.all(np.isfinite(unit)) else np.zeros(1)
    rank = int(np.sum(singular > singular[0] / CONDITION_LIMIT)) if singular[0] > 0 else 0
    condition = float(singular[0] / singular[-1]) if rank == point.size else float("inf")
    reasons = []
    if rank < point.size:
        reasons.append(f"the Jacobian of the moments has rank {rank} for {point.size} parameters")
        return Certificate(float("inf"), condition, rank, 0.0, tuple(reasons))

    step = np.abs(least_norm(jacobian, residuals) if step is None else step)
    beyond = np.maximum(step - rounding_floor(point, jacobian), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(step == 0, 0.0, step / standard_errors)
        too_long = np.where(beyond == 0, 0.0, beyond / standard_errors)  # nan where the step is nan
    worst = int(np.argmax(np.where(np.isnan(too_long), np.inf, too_long)))
    if not too_long[worst] < STEP_LIMIT:
        reasons.append(
            f"the remaining Newton step is {relative[worst]:.1e} standard errors in {printable(names[worst])}"
            f" ({STEP_LIMIT:g} is allowed)"
        )
    if not np.all(usable(standard_errors)):
        worst = int(np.argmin(usable(standard_errors)))
        reasons.append(f"{printable(names[worst])} has no standard error ({standard_errors[worst]:.3g})")
    root = efficient_value is not None and efficient_value <= ROOT_LIMIT
    smallest = 1.0 if root else float("nan")
    if hessian is not None:
        smallest = smallest_curvature(jacobian, hessian)
        if not smallest > 0:
            reasons.append(
                "the criterion does not curve upwards in every direction: a saddle or a flat valley"
            )
    if efficient_value is not None and not root:
        reasons.append(
            f"as many moments as parameters, but they do not vanish (N g'S^-1 g = {efficient_value:.1e})"
        )
    return Certificate(float(np.max(relative)), condition, rank, smallest, tuple(reasons))


def usable(errors: Array) -> NDArray[np.bool_]:
    """Which standard errors are a length: not nan, as from an S that is not definite, and not zero."""
    lengths: NDArray[np.bool_] = np.isfinite(errors) & (errors > 0)
    return lengths


def rounding_floor(point: Array, jacobian: Array) -> Array:
    """The Gauss-Newton step that rounding alone can leave, (P,).

    Residual i is computed, at best, as the exact one at parameters that are each off by one rounding,
    which differ from row to row: an error of ``e_i = eps sum_j |J_ij z_j|``.  Independent errors of that
    size make a step with entries ``(sum_i (J^+_ki e_i)^2)^(1/2)``.  It matters where residuals are
    close to rounding themselves, such as NIST's Lanczos1: residuals of 1e-13 in data of size 2.  At
    least 64 units in the last place are let pass, at most :data:`ROUNDING_LIMIT` of a parameter.
    """
    errors = np.finfo(np.float64).eps * (np.abs(jacobian) @ np.abs(point))
    scale = column_norms(jacobian)
    steps = np.linalg.pinv(jacobian / scale, rcond=1e-14) / scale[:, None] * errors
    carried = np.minimum(np.sqrt(np.sum(np.square(steps), axis=1)), ROUNDING_LIMIT * np.abs(point))
    floor: Array = np.maximum(ROUNDING_ULP * np.spacing(np.abs(point)), carried)
    return floor


@dataclass(frozen=True, slots=True)
class Curvature:
    """A Hessian H by what it does to some directions.

    Parameters
    ----------
    moves : array (P, P)
        D, the directions as columns.
    changes : array (P, P)
        ``H D``, what the gradient changes along them.
    """

    moves: Array
    changes: Array

    @property
    def matrix(self) -> Array:
        """``H``; nan where D has no inverse (steps below rounding)."""
        try:
            solved: Array = np.transpose(np.linalg.solve(self.moves.T, self.changes.T))
            return solved
        except np.linalg.LinAlgError:
            return np.full(self.moves.shape, np.nan)


def smallest_curvature(jacobian: Array, hessian: Curvature) -> float:
    """Smallest eigenvalue of half the Hessian in the metric of ``J'J``.

    It is that of ``D'HD`` in the metric of ``(JD)'JD``.  With D the whitened directions JD is orthogonal
    however nearly the columns of J repeat each other, and neither matrix is divided by anything small.
    """
    if not np.all(np.isfinite(hessian.changes)) or not np.all(np.isfinite(hessian.moves)):
        return float("nan")
    reduced, moved = hessian.moves.T @ hessian.changes, jacobian @ hessian.moves
    triangle: Array = np.linalg.qr(moved, mode="r")  # type: ignore[assignment]
    if not np.all(np.diag(triangle)):  # data without error: no parameter has a direction to move in
        return float("nan")
    half = np.linalg.solve(triangle.T, 0.5 * (reduced + reduced.T))
    scaled = np.linalg.solve(triangle.T, half.T)
    if not np.all(np.isfinite(scaled)):
        return float("nan")
    return float(np.linalg.eigvalsh(0.5 * (scaled + scaled.T))[0])


def whitened_directions(jacobian: Array) -> Array:
    """``R^-1`` with ``J = QR``: directions, as columns, along each of which the residuals move by one.

    Their length is one standard error of what they move, parameters together, if the residuals are
    whitened; ``R^-1 R^-T = (J'J)^-1``.  Columns are brought to unit norm first; nan where J is deficient.
    """
    scale = column_norms(jacobian)
    shape = (jacobian.shape[1],) * 2
    if not np.all(np.isfinite(jacobian)) or len(jacobian) < shape[0]:
        return np.full(shape, np.nan)
    triangle: Array = np.linalg.qr(jacobian / scale, mode="r")  # type: ignore[assignment]
    try:
        inverse: Array = np.linalg.solve(triangle, np.eye(shape[0])) / scale[:, None]
    except np.linalg.LinAlgError:
        return np.full(shape, np.nan)
    return inverse


def curvature(gradient: Callable[[Array], Array], point: Array, steps: Array) -> Curvature:
    """Hessian by central differences of an exact gradient.

    Parameters
    ----------
    gradient : callable
        ``z -> (P,)``.
    point : array (P,)
    steps : array (P,) or (P, P)
        A small part of a standard error for each parameter alone; or directions as columns, a small
        part of :func:`whitened_directions`.  The latter is needed where estimates are strongly
        correlated: to move one alone by a part of its standard error is then to move the residuals by
        many, into another region.

    Returns
    -------
    Curvature
        The steps as they were rounded, and the differences of the gradient; nan where the gradient is not
        finite at one of the points.
    """
    moves, differences = [], []
    for step in np.diag(steps) if steps.ndim == 1 else steps.T:
        up, down = point + step, point - step
        try:
            differences.append(gradient(up) - gradient(down))
        except EstimationError:
            unknown = np.full((point.size,) * 2, np.nan)
            return Curvature(unknown, unknown)
        moves.append(up - down)
    return Curvature(np.stack(moves, axis=1), np.stack(differences, axis=1))


def contradiction(
    residuals: Callable[[Array], Array], point: Array, value: Array, jacobian: Array, room: Array
) -> str:
    """What the residuals do near a point that their derivative there does not say; empty if nothing.

    With d one standard error long and ``+`` and ``-`` the residuals at ``point +- h d``, their derivative must say
    what they do, ``|(+ - -) - 2 h J d| <= (1 % + 2 b^2) |2 h J d|``, but for b, the part that bending makes:
    ``b = |(+ + -) - 2 r| / |2 h J d| <= 1/4``.  For smooth residuals the first is of the order of b^2; a wrong
    derivative stays, and jumps change with h otherwise than what is smooth.  Where h = 0.2 finds a difference,
    h = 0.05 decides.  Standard errors rest on J over the length of a standard error: at a double root, or
    where a criterion falls towards infinity, they are so long that the residuals bend away.

    Parameters
    ----------
    residuals : callable
        ``theta -> sqrt(N) L'g``, (M,), with LL' the inverse of S.
    point : array (P,)
    value : array (M,)
        Residuals there.
    jacobian : array (M, P)
        What is held to be their Jacobian there.
    room : array (P,)
        How far each parameter may move; nothing is said where that is next to nothing.

    Returns
    -------
    str
        A reason against the point.  Cost: two evaluations of the residuals, four where the first differ.

    Examples
    --------
    >>> def cubic(z):
    ...     return z**3 - 8.0
    >>> contradiction(cubic, np.array([2.0]), np.zeros(1), np.array([[12.0]]), np.array([np.inf]))
    ''
    >>> contradiction(cubic, np.array([2.0]), np.zeros(1), np.array([[24.0]]), np.array([np.inf]))
    '0.05 standard errors from the estimate the moments change by 0.025 where their derivative says 0.05 (0.025 apart)'
    """
    direction = _telling(whitened_directions(jacobian))
    with np.errstate(divide="ignore"):
        reach = float(np.min(np.where(direction != 0, room / np.abs(direction), np.inf)))
    if reach < LEAST_PROBE:
        return ""
    rounding = ROUNDING_ULP * np.finfo(np.float64).eps * (np.abs(jacobian) @ np.abs(point))
    before, found = 0.0, ""
    for part in PROBE_STEPS:
        up, down = point + min(part, reach) * direction, point - min(part, reach) * direction
        try:
            above, below = residuals(up) - value, residuals(down) - value
        except EstimationError:
            found = f"{part:g} standard errors from the estimate the moments are not finite"
            continue
        said = jacobian @ (up - down)
        length = float(np.linalg.norm(said))
        slope = _part(above - below - said, rounding, length)
        bend = _part(above + below, rounding, length)
        if slope <= SLOPE_LIMIT + 2.0 * bend**2 and bend <= BEND_LIMIT:
            return "" if max(slope, bend) >= before / FALL else found
        before = min(max(slope, bend), 1.0)
        seen, says = max((above, jacobian @ (up - point)), (below, jacobian @ (down - point)), key=_gap)
        found = (
            f"{part:g} standard errors from the estimate the moments change by {np.linalg.norm(seen):.2g} where"
            f" their derivative says {np.linalg.norm(says):.2g} ({_gap((seen, says)):.2g} apart)"
        )
        if bend > slope:
            found += ": they bend too soon for standard errors of this length to mean much"
    return found


def _part(gap: Array, rounding: Array, whole: float) -> float:
    """Length of what is more than rounding, as a part of the whole."""
    beyond = float(np.linalg.norm(np.maximum(np.abs(gap) - rounding, 0.0)))
    if beyond == 0.0:
        return 0.0
    return beyond / whole if whole > 0.0 else np.inf


def _gap(change: tuple[Array, Array]) -> float:
    return float(np.linalg.norm(change[0] - change[1]))


def _telling(directions: Array) -> Array:
    """Of 64 fixed combinations of directions that which moves every parameter by most of its standard error.

    A wrong column of the Jacobian shows only if its parameter moves.
    """
    drawn = np.random.default_rng(0).standard_normal((len(directions), PROBE_DIRECTIONS))
    moves = directions @ (drawn / column_norms(drawn))
    errors = column_norms(directions.T)
    telling: Array = moves[:, np.argmax(np.min(np.abs(moves) / errors[:, None], axis=0))]
    return telling


def wrong_multipliers(
    residuals: Array,
    jacobian: Array,
    at_lower: NDArray[np.bool_],
    at_upper: NDArray[np.bool_],
    names: tuple[str, ...],
) -> tuple[str, ...]:
    """Parameters at a bound from which the criterion falls towards the inside.

    The multiplier of parameter j is ``J_j'r``, half the derivative of ``r'r``: positive where a lower bound
    holds it, negative at an upper one (Kuhn and Tucker).  In units of ``|J_j|``, in which a step of one is
    one standard error of j alone, it may be wrong by no more than a remaining step; what is as small is left
    to :func:`lower_inside`.

    Parameters
    ----------
    residuals : array (M,)
    jacobian : array (M, P)
    at_lower, at_upper : array (P,) of bool
    names : tuple of str

    Returns
    -------
    tuple of str
        Reasons against the point.

    Examples
    --------
    >>> free = np.array([False])
    >>> wrong_multipliers(np.array([-1.0]), np.array([[2.0]]), ~free, free, ("a",))
    ("the criterion falls from the bound of 'a' inwards",)
    """
    multiplier = (jacobian.T @ residuals) / column_norms(jacobian)
    wrong = (at_lower & ~(multiplier >= -STEP_LIMIT)) | (at_upper & ~(multiplier <= STEP_LIMIT))
    return tuple(falls_inwards(name) for name, bad in zip(names, wrong, strict=True) if bad)


def falls_inwards(name: str) -> str:
    """The reason against a parameter at a bound that does not hold it."""
    return f"the criterion falls from the bound of {printable(name)!r} inwards"


def lower_inside(problem: Problem, point: Array) -> tuple[int, Array] | None:
    """A parameter that no derivative holds at its bound, and a point inside that is lower; None if there is none.

    Where its multiplier is zero (to the remaining step that is let pass), or it moves no residual at all, as
    b^2 at b = 0, derivatives at the bound cannot tell a minimum from a maximum; values inside can.

    Parameters
    ----------
    problem : Problem
    point : array (P,)
        With entries on bounds.

    Examples
    --------
    >>> def residuals(z):
    ...     return np.array([z[0] ** 2 - 1.0])
    >>> def value(z):
    ...     return float(residuals(z)[0] ** 2)
    >>> problem = Problem(residuals, lambda z: (residuals(z), 2 * z[:, None]), value, None, np.zeros(1))
    >>> lower_inside(problem, np.zeros(1))
    (0, array([0.05]))
    """
    low, high = problem.ends(point.size)
    at_bound = ((point <= low) | (point >= high)) & (low < high)
    if not np.any(at_bound):
        return None
    residuals, jacobian = problem.residuals_and_jacobian(point)
    unit = 1.0 / column_norms(jacobian)
    undecided = at_bound & (np.abs(jacobian.T @ residuals) * unit <= STEP_LIMIT)
    limit = (1.0 - FLAT) * float(residuals @ residuals)
    for j in np.flatnonzero(undecided):
        for part in INWARD_STEPS:
            step = min(part * unit[j], high[j] - low[j])
            inside = point.copy()
            inside[j] += step if point[j] <= low[j] else -step
            try:
                if problem.value(inside) < limit:
                    return int(j), inside
            except EstimationError:  # too far; the next is nearer
                continue
    return None


def lowest(values: Array, verified: Sequence[bool], what: str) -> tuple[int, str]:
    """Which of several starts ended lowest, and a note of where the others did.

    Parameters
    ----------
    values : array (K,)
        The criterion where each start ended, the given one first; inf for one that could not be used.
    verified : sequence of bool
    what : str
        Name of the criterion.

    Returns
    -------
    index : int
        The first verified one among those at the lowest value found, else the lowest.
    note : str
        With code W403 if they ended at more than one minimum.

    Examples
    --------
    >>> lowest(np.array([5.0, 4.0, 4.0]), [True, True, False], "criterion")[0]
    1
    >>> lowest(np.array([4.0, 5.0]), [True, True], "criterion")[1]
    'W403 several minima: of 2 starts 1 ended at the lowest criterion found, 4, 1 at worse minima, up to 5 (+25 %)'
    """
    best = float(np.min(values))
    same = values <= best + SAME_MINIMUM * abs(best)
    index = next((i for i in range(len(values)) if same[i] and verified[i]), int(np.argmin(values)))
    worse = ~same & np.asarray(verified)
    counted = [f"{np.sum(same)} ended at the lowest {what} found, {best:.6g}"]
    if np.any(worse):
        top = float(np.max(values[worse]))
        percent = f" (+{100.0 * (top / best - 1.0):.3g} %)" if best > 0 else ""
        counted.append(f"{np.sum(worse)} at worse minima, up to {top:.6g}{percent}")
    if (lost := int(np.sum(~same & ~worse))) > 0:
        counted.append(f"{lost} at no minimum")
    note = f"of {len(values)} starts {', '.join(counted)}"
    if not np.any(worse):
        return index, note
    if worse[0]:
        note += "; the first start ended at a worse one: a better one exists than it leads to"
    return index, f"W403 several minima: {note}"
