"""Tests and confidence sets that hold whether or not the parameters are identified.

``S(theta0) = N g'S(theta0)^-1 g`` asks whether the moments vanish at theta0, and its distribution does not
involve G; Kleibergen's K looks at the part of g that lies along a Jacobian made independent of g.  Sets are
inverted tests: they may be empty (no value is compatible with the moments), disjoint, or unbounded (the data do
not bound the parameter), which an estimate with a standard error cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.errors import (
    Complaint,
    ConfigError,
    EstimationError,
    GmmestError,
    not_among,
    printable,
    require_parameters,
    some,
)
from gmmest.execution.serial import single_blas_thread
from gmmest.gmm.diagnostics import joint_covariance
from gmmest.gmm.fitted import Context, Estimate
from gmmest.gmm.functions import position
from gmmest.gmm.inference import chi2_sf, require_level
from gmmest.gmm.moments import Moments
from gmmest.gmm.units import column_norms
from gmmest.gmm.weighting import MomentCovariance, inverse_weight

__all__ = ["ConfidenceSet", "KTest", "STest", "confidence_set", "k_test", "level_set", "s_test"]

Array = NDArray[np.float64]
Statistic = Literal["S", "K"]
Nuisance = Literal["projection", "strong"]

REACH = 1e6
"""How far from the estimate sets are searched, in standard errors; an interval that goes on there is called
unbounded."""
NEAR = 1e-2
GRID = 80
"""Points of the first grid on either side, from a hundredth of a standard error to REACH in equal ratios of
1.26."""

RUNGS, FEWEST_RUNGS = 14, 6
"""Points on either side along the axes of other parameters, over all axes and at least on each; for one parameter in
ratios of about two."""
NEAREST, FAR_OFF = 0.5, 1e4
"""The first and the last of them, in standard errors; the last in multiples of the distance of what is given, where
moments that are linear have their limit."""
DIPS = 3
"""Places from which a local search begins, beside the one that is expected, where other parameters are several."""
FLAT = 1e-7
"""What a function rises beside a turn, relative to 1 and itself, if something may hide there."""
BEYOND = 1e50
"""A residual where moments cannot be had."""


@dataclass(frozen=True, slots=True)
class STest:
    """Stock and Wright's S test.

    Parameters
    ----------
    stat : float
        ``N g'S^-1 g`` at theta, S there too.
    df : int
    pvalue : float
    theta : array (P,)
        The point: the values tested, and the least favourable ones of the other parameters.
    """

    stat: float
    df: int
    pvalue: float
    theta: Array

    def __post_init__(self) -> None:
        freeze(self, "theta")

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"S: chi2({self.df}) = {self.stat:.4f}, p = {self.pvalue:.4g}"


@dataclass(frozen=True, slots=True)
class KTest:
    """Kleibergen's K test of all or some parameters.

    Parameters
    ----------
    stat : float
        Chi-squared with as many degrees of freedom as parameters were given values.
    df : int
    pvalue : float
    s_stat, rest : float
        S with the same, centred, covariance, and what K leaves of it, ``S = K + rest``; rest is chi-squared with M - P
        degrees of freedom, independent of K: a large one says that K is small at a point where the moments do not
        hold.
    theta : array (P,)
        The point: the values tested, and the others where S is least.
    """

    stat: float
    df: int
    pvalue: float
    s_stat: float
    rest: float
    theta: Array

    def __post_init__(self) -> None:
        freeze(self, "theta")

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"K: chi2({self.df}) = {self.stat:.4f}, p = {self.pvalue:.4g}"


@dataclass(frozen=True, slots=True)
class ConfidenceSet:
    """All values of one parameter that a test does not reject.

    Parameters
    ----------
    name : str
    intervals : tuple of (float, float)
        In order; ends may be infinite.
    alpha : float
    statistic : str
    df : int
    critical : float
        The chi-squared quantile.
    searched : (float, float)
        The region in which boundaries were looked for.
    """

    name: str
    intervals: tuple[tuple[float, float], ...]
    alpha: float
    statistic: str
    df: int
    critical: float
    searched: tuple[float, float]

    @property
    def shape(self) -> Literal["empty", "bounded", "disjoint", "unbounded"]:
        """``empty``; ``bounded``, one interval with two ends; ``unbounded``, one without; ``disjoint``, several."""
        if not self.intervals:
            return "empty"
        if len(self.intervals) > 1:
            return "disjoint"
        return "bounded" if self.bounded else "unbounded"

    @property
    def bounded(self) -> bool:
        """Whether all ends are finite."""
        return bool(np.all(np.isfinite(np.array(self.intervals))))

    def __contains__(self, value: float) -> bool:
        return any(low <= value <= high for low, high in self.intervals)

    def __str__(self) -> str:
        pieces = " and ".join(f"[{low:.6g}, {high:.6g}]" for low, high in self.intervals) or "no value"
        level = f"{100 * (1 - self.alpha):g} %"
        return f"{printable(self.name)}: {pieces} ({self.shape}; {level}, {self.statistic}, {self.df} df)"


def s_test(
    context: Context, estimate: Estimate, values: Mapping[str, float], nuisance: Nuisance = "projection"
) -> STest:
    """S test that some or all parameters have given values.

    Parameters
    ----------
    context : Context
    estimate : Estimate
        Where the search over the other parameters starts.
    values : mapping
        By name.
    nuisance : {"projection", "strong"}
        Other parameters are set where S is least.  ``projection`` compares with the quantiles of all M moments:
        conservative, and right however weakly they are identified.  ``strong`` takes off one degree of
        freedom for each, which is right where these are well identified once the values are given.

    Returns
    -------
    STest

    Notes
    -----
    S is the criterion of the continuously updated estimator.  Law: for linear moments with
    ``weighting="unadjusted"``, ``N e'P_Z e / e'e``, the statistic of Anderson and Rubin but for its
    degrees of freedom.  The S matrix is the fit's own, with its clusters or kernel.
    Cost: one pass; with other parameters, a search.

    References
    ----------
    Stock, J. H. and J. H. Wright (2000), "GMM with weak identification", Econometrica 68, 1055-1096,
    theorems 2 and 3.
    """
    names = context.sample.names
    _require_among("nuisance", nuisance, ("projection", "strong"))
    theta, free = _given_values(estimate, names, values)
    with single_blas_thread():
        stat, found = _concentrated(context, context.moments(), estimate, theta, free)
    df = len(context.sample.moment_names) - (int(np.sum(free)) if nuisance == "strong" else 0)
    return STest(stat, df, chi2_sf(stat, df), found)


def k_test(
    context: Context,
    estimate: Estimate,
    values: Mapping[str, float] | Sequence[float] | Array,
    nuisance: Nuisance = "projection",
) -> KTest:
    """Kleibergen's K test that all or some parameters have given values.

    ``K = N g'S^-1 D (D'S^-1 D)^-1 D'S^-1 g`` with ``D_p = G_p - C_p S^-1 g``, C_p the covariance of the
    derivatives of the contributions with the contributions, all at the values, centred.  Where parameters are left,
    they are put where S is least (their continuously updated estimate given the values), and D is the part of the
    columns of those tested that the columns of the others do not span, in the metric of S^-1.

    Parameters
    ----------
    context : Context
    estimate : Estimate
        Where the search over the other parameters starts.
    values : mapping or sequence
        By name, or of every parameter in order.
    nuisance : {"projection", "strong"}
        ``strong``, that the others are well identified once the values are given, is needed where there are
        others: K has no projection, since it is zero at every stationary point of S.

    Returns
    -------
    KTest

    Raises
    ------
    EstimationError
        E433: other parameters without ``nuisance="strong"``; see also :func:`.diagnostics.joint_covariance`.

    Notes
    -----
    Laws: zero at the continuously updated estimate; ``S = K + rest``; equal to S where the model is just
    identified and all parameters have values.  K is zero at other stationary points of that criterion too, maxima
    among them.  D has to have full rank.

    References
    ----------
    Kleibergen, F. (2005), "Testing parameters in GMM without assuming that they are identified",
    Econometrica 73, 1103-1123, equations (16) to (21), and section 3.2 for some of the parameters.
    """
    _require_among("nuisance", nuisance, ("projection", "strong"))
    names = context.sample.names
    if isinstance(values, Mapping):
        theta, free = _given_values(estimate, names, values)
    else:
        theta, free = _all_values(names, values), np.zeros(len(names), dtype=bool)
    if np.any(free):
        _require_strong([name for name, left in zip(names, free, strict=True) if left], nuisance)
        with single_blas_thread():
            _, theta = _concentrated(context, context.moments(), estimate, theta, free)
    return _k_at(context, theta, free)


def _require_strong(others: Sequence[str], nuisance: Nuisance) -> None:
    if others and nuisance != "strong":
        raise EstimationError(
            Complaint(
                "E433",
                f"K with {some(others)} left open: it is zero at every stationary point of S, and has no projection",
                next="nuisance: strong, where these are well identified; values of all parameters; or statistic S",
            )
        )


def _k_at(context: Context, theta: Array, free: NDArray[np.bool_]) -> KTest:
    """K of the parameters that are not free, at theta, with the columns of D of the free ones projected out."""
    joint = joint_covariance(context, theta)
    weight = inverse_weight(MomentCovariance(joint.gg, "robust", joint.n_obs), context.sample.moment_names)
    g = weight.whiten(joint.g)
    removed = np.einsum("mpn,n->mp", joint.Gg, weight.apply(joint.g))
    d = weight.whiten(joint.G - removed)
    d = np.concatenate([d[:, free], d[:, ~free]], axis=1)
    along = np.square(
        np.linalg.qr(d / column_norms(d))[0].T @ g
    )  # free columns first: the rest is orthogonal to them
    others = int(np.sum(free))
    df, stat = theta.size - others, joint.n_obs * float(np.sum(along[others:]))
    s_stat = joint.n_obs * float(g @ g)
    rest = max(s_stat - joint.n_obs * float(np.sum(along)), 0.0)
    return KTest(stat, df, chi2_sf(stat, df), s_stat, rest, theta)


def confidence_set(
    context: Context,
    estimate: Estimate,
    name: str,
    alpha: float = 0.05,
    statistic: Statistic = "S",
    nuisance: Nuisance = "projection",
) -> ConfidenceSet:
    """Values of one parameter that the S or K test does not reject, as a set.

    Parameters
    ----------
    context : Context
    estimate : Estimate
    name : str
    alpha : float
    statistic : {"S", "K"}
    nuisance : {"projection", "strong"}
        See :func:`s_test`; ``strong`` is needed for K where there are other parameters.

    Returns
    -------
    ConfidenceSet

    Raises
    ------
    EstimationError
        E433: K with other parameters, without ``nuisance="strong"``.

    Notes
    -----
    :func:`level_set` on a grid that reaches a million standard errors from the estimate on either side, or as far
    as the moments are finite.  Law: for one regressor and one instrument S is the ratio of two quadratic
    functions, and the set is what the quadratic formula says.  K jumps where another minimum over the other
    parameters becomes the lowest; an end may lie there.  Cost: 200 to 700 evaluations of the
    statistic; with other parameters each of them is a search among 100 to 250 values of S, two passes each.
    """
    names = context.sample.names
    k, level = position(name, names), require_level(alpha)
    _require_among("statistic", statistic, ("S", "K"))
    _require_among("nuisance", nuisance, ("projection", "strong"))
    if statistic == "K":
        _require_strong([other for other in names if other != name], nuisance)
    from scipy.special import chdtri

    others = len(names) - 1
    m = len(context.sample.moment_names)
    df = 1 if statistic == "K" else m - (others if nuisance == "strong" else 0)
    critical = float(chdtri(df, level))
    with single_blas_thread():
        function = _profile(context, estimate, k, statistic)
        unit = float(_unit(estimate)[k])
        intervals, searched = level_set(lambda v: function(v) - critical, float(estimate.theta[k]), unit)
    return ConfidenceSet(name, intervals, level, statistic, df, critical, searched)


def level_set(
    function: Callable[[float], float], centre: float, unit: float
) -> tuple[tuple[tuple[float, float], ...], tuple[float, float]]:
    """Where a function is at most zero, as intervals, and the region that was searched.

    Parameters
    ----------
    function : callable
        Of one number, the same whenever it is asked.  A refusal (``GmmestError``) ends the region, or between
        points of the grid counts as above zero.
    centre, unit : float
        The grid is ``centre`` and ``centre +- unit r`` with r from 0.01 to 1e6 in equal ratios.

    Returns
    -------
    intervals : tuple of (float, float)
        Infinite where the set goes on at an end of the region.
    searched : (float, float)

    Notes
    -----
    Signs on the grid, then wherever the function turns between grid points its extremum is looked for, so that
    pieces and holes narrower than the grid are found where the function dips towards them; boundaries by
    Brent's method, to 1e-12.

    Examples
    --------
    >>> intervals, _ = level_set(lambda v: (v - 1.0) * (v - 3.0), 0.0, 1.0)
    >>> [(round(low, 9), round(high, 9)) for low, high in intervals]
    [(1.0, 3.0)]
    >>> level_set(lambda v: 1.0 - v * v, 0.0, 1.0)[0][0]
    (-inf, -1.0)
    >>> level_set(lambda v: 1.0 + v * v, 0.0, 1.0)[0]
    ()
    """
    from scipy.optimize import brentq

    grid = _on_grid(function, centre, unit)
    known = dict(grid)

    def value(v: float) -> float:
        """The function, refusals between points of the grid as a value that is not in the set; kept by point."""
        if v not in known:
            try:
                found = function(v)
            except GmmestError:
                found = np.nan
            known[v] = found if np.isfinite(found) else BEYOND
        return known[v]

    points = sorted({*grid, *_extrema(value, sorted(grid))})
    inside = [value(v) <= 0 for v in points]
    edges = [
        a if value(a) == 0 else b if value(b) == 0 else brentq(value, a, b, xtol=1e-12 * unit, rtol=1e-13)
        for a, b, one, two in zip(points, points[1:], inside, inside[1:], strict=False)
        if one != two
    ]
    ends = [*([-np.inf] if inside[0] else []), *edges, *([np.inf] if inside[-1] else [])]
    intervals = tuple((float(low), float(high)) for low, high in zip(ends[::2], ends[1::2], strict=True))
    return intervals, (points[0], points[-1])


def _on_grid(function: Callable[[float], float], centre: float, unit: float) -> dict[float, float]:
    """The function from the centre outwards, as far as it can be evaluated."""
    known = {centre: function(centre)}
    for sign in (1.0, -1.0):
        for r in np.geomspace(NEAR, REACH, GRID):
            point = centre + sign * unit * float(r)
            try:
                value = function(point)
            except GmmestError:
                break
            if not np.isfinite(value):
                break
            known[point] = value
    return known


def _extrema(value: Callable[[float], float], points: Sequence[float]) -> list[float]:
    """Minima above zero and maxima below it between grid points, where a piece or a hole may hide."""
    from scipy.optimize import minimize_scalar

    found = []
    for a, b, c in zip(points, points[1:], points[2:], strict=False):
        for sign in (1.0, -1.0):
            one, middle, other = (sign * value(v) for v in (a, b, c))
            level = FLAT * (1.0 + middle)  # where the function is level, its turns are those of rounding
            if middle > 0 and middle <= min(one, other) and middle < max(one, other) - level:
                extremum = minimize_scalar(
                    lambda v, s=sign: s * value(float(v)),
                    bounds=(a, c),
                    method="bounded",
                    options={"xatol": 1e-9 * (c - a)},
                )
                found.append(float(extremum.x))
    return found


def _profile(context: Context, estimate: Estimate, k: int, statistic: Statistic) -> Callable[[float], float]:
    """``v -> min S`` over the other parameters, or K there; a function of v alone, whatever was asked before."""
    moments = context.moments()
    free = np.ones(estimate.theta.size, dtype=bool)
    free[k] = False

    def value(v: float) -> float:
        theta = np.array(estimate.theta)
        theta[k] = v
        stat, where = _concentrated(context, moments, estimate, theta, free)
        return stat if statistic == "S" else _k_at(context, where, free).stat

    return value


def _concentrated(
    context: Context, moments: Moments, estimate: Estimate, theta: Array, free: NDArray[np.bool_]
) -> tuple[float, Array]:
    """S minimised over the free parameters, and where; the others are those of theta.

    S has several minima, and for linear moments one may lie beyond infinity: far above zero S is what it is
    far below.  The search begins where the estimate's covariance puts the free parameters given the others,
    and wherever S dips on lines through that point (:func:`_dips`); what it says of theta does not depend on what
    was asked before.
    """
    from scipy.optimize import least_squares

    names, root_n = context.sample.moment_names, float(np.sqrt(context.sample.n_obs))

    def residuals(point: Array) -> Array:
        g = moments.value(point)
        return root_n * inverse_weight(context.covariance(moments, point), names).whiten(g)

    if not np.any(free):
        r = residuals(theta)
        return float(r @ r), theta
    unit = _unit(estimate)[free]
    middle, axes = _given(estimate, theta, free, unit)

    def at(z: Array) -> Array:
        point = theta.copy()
        point[free] = middle + axes @ z
        return point

    def careful(z: Array) -> Array:
        try:
            return residuals(at(z))
        except GmmestError:
            return np.full(len(names), BEYOND)

    def stat(z: Array) -> float:
        r = careful(z)
        return float(r @ r)

    dips = _dips(stat, unit.size, _distance(estimate, theta, free))
    if unit.size > 1:
        away = [z for _, z in dips if np.any(np.abs(z) > NEAREST)]
        starts = [np.zeros(unit.size), *away[:DIPS]]
        found = [least_squares(careful, z, x_scale="jac", ftol=1e-12, xtol=1e-10, gtol=None) for z in starts]
        dips = sorted(((2.0 * float(f.cost), f.x) for f in found), key=lambda dip: dip[0])
    if not dips or not dips[0][0] < BEYOND:
        residuals(at(np.zeros(unit.size)))  # says what is wrong
        raise EstimationError(Complaint("E411", "moments are not finite wherever the S test looked for them"))
    return dips[0][0], at(dips[0][1])


def _given(estimate: Estimate, theta: Array, free: NDArray[np.bool_], unit: Array) -> tuple[Array, Array]:
    """Where the free parameters are expected given the others, (F,), and a root of their covariance, (F, F).

    By the normal law with the covariance V of the estimate: ``V_fk V_kk^-1`` is the regression on the others.
    Where V says nothing, the estimate and its units.
    """
    v, held = estimate.v, ~free
    size = np.sqrt(np.abs(np.diag(v)))
    if not (np.all(np.isfinite(v)) and np.all(size > 0)):
        return estimate.theta[free], np.diag(unit)
    r = v / np.outer(size, size)
    try:
        slope = np.linalg.solve(r[np.ix_(held, held)], r[np.ix_(held, free)]).T
        root = np.linalg.cholesky(r[np.ix_(free, free)] - slope @ r[np.ix_(held, free)])
    except np.linalg.LinAlgError:
        return estimate.theta[free], np.diag(unit)
    moved = slope @ ((theta - estimate.theta)[held] / size[held])
    return estimate.theta[free] + size[free] * moved, size[free][:, None] * root


def _distance(estimate: Estimate, theta: Array, free: NDArray[np.bool_]) -> float:
    """How far the values that are given lie from the estimate, in standard errors, one at least."""
    return max(1.0, float(np.max((np.abs(theta - estimate.theta) / _unit(estimate))[~free])))


def _dips(function: Callable[[Array], float], size: int, distance: float) -> list[tuple[float, Array]]:
    """Where a function of z dips on the axes through zero, with its values, the lowest first.

    It is looked at in zero and on either side of it, in equal ratios up to ``FAR_OFF`` and, where given values are
    far, that many times their distance: moments that are linear in theta depend on ratios of parameters there.
    Each dip is followed by Brent's method to a millionth of the bracket, where S is within 1e-12 of its own variation
    there; one at an end is the limit.
    """
    from scipy.optimize import minimize_scalar

    rungs = np.geomspace(NEAREST, FAR_OFF * distance, max(RUNGS // size, FEWEST_RUNGS))
    line = np.concatenate([-rungs[::-1], [0.0], rungs])
    found: list[tuple[float, Array]] = []
    for axis in np.eye(size):
        values = np.array([function(t * axis) for t in line])
        left, right = np.append(np.inf, values[:-1]), np.append(values[1:], np.inf)
        for k in np.flatnonzero((values <= left) & (values <= right) & (values < BEYOND)):
            value, where = float(values[k]), float(line[k])
            if 0 < k < len(line) - 1:
                low, high = line[k - 1], line[k + 1]
                dip = minimize_scalar(
                    lambda t, axis=axis: function(t * axis),
                    bounds=(low, high),
                    method="bounded",
                    options={"xatol": 1e-6 * (high - low)},
                )
                value, where = min((value, where), (float(dip.fun), float(dip.x)))
            found.append((value, where * axis))
    return sorted(found, key=lambda dip: dip[0])


def _unit(estimate: Estimate) -> Array:
    """Standard errors; where there are none, the size of the estimate or one."""
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(np.diag(estimate.v))
    size = np.abs(estimate.theta)
    return np.where(np.isfinite(errors) & (errors > 0), errors, np.where(size > 0, size, 1.0))


def _given_values(
    estimate: Estimate, names: tuple[str, ...], values: Mapping[str, float]
) -> tuple[Array, NDArray[np.bool_]]:
    """Theta with the values put in, and which parameters were given none."""
    require_parameters("values", values, names)
    theta, free = np.array(estimate.theta), np.ones(len(names), dtype=bool)
    for name, value in values.items():
        theta[names.index(name)] = _finite(value, name)
        free[names.index(name)] = False
    if np.all(free):
        raise ConfigError(Complaint("E102", "no parameter was given a value; expected one or more, by name"))
    return theta, free


def _all_values(names: tuple[str, ...], values: Sequence[float] | Array) -> Array:
    if len(values) != len(names):
        raise ConfigError(Complaint("E102", f"{len(values)} values were given for {len(names)} parameters"))
    return np.array([_finite(value, name) for name, value in zip(names, values, strict=True)])


def _finite(value: float, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ConfigError(Complaint("E102", f"{printable(name)} is {value!r}; a finite number was expected"))
    return number


def _require_among(option: str, value: str, choices: tuple[str, ...]) -> None:
    if complaints := not_among(option, value, choices):
        raise ConfigError(complaints)
