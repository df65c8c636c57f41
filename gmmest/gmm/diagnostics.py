"""Diagnostics beside a fit: how well the moments identify the parameters, and where.

The Jacobian G is an average over observations, known up to its own sampling error.  Parameters are weakly
identified where some direction b moves the mean moments, ``G b``, by no more than that error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.derivatives.backends import Analytic, as_backend, for_many_rows
from gmmest.derivatives.operators import value_and_jacobian
from gmmest.errors import Complaint, ConfigError, EstimationError, GmmestError, plural, printable
from gmmest.execution.serial import single_blas_thread
from gmmest.gmm.coefficients import aligned
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.fitted import Context, Estimate
from gmmest.gmm.functions import position
from gmmest.gmm.inference import chi2_sf
from gmmest.gmm.specification import restricted_minimum
from gmmest.gmm.units import column_norms, pseudo_inverse
from gmmest.gmm.weighting import MomentCovariance, contribution_covariance, inverse_weight
from gmmest.models.regression import LinearIV

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Diagnostics",
    "JointCovariance",
    "diagnose",
    "first_stage",
    "joint_covariance",
    "profile",
    "weakest",
    "weakness",
]

Array = NDArray[np.float64]

WEAK = 10.0
"""Below this strength W213 is said.  Staiger and Stock (1997) ask for a first-stage F of ten, at which two-stage
least squares keeps about a tenth of the bias of least squares; the strength is that F where the model is
linear with one endogenous regressor, and its counterpart elsewhere, for which ten is a rule of thumb."""
NAMED = 0.3
"""Parameters that make at least this part of the largest entry of a direction, in units of what they move,
are named."""

STARTS = 4
"""Directions from which the weakest is searched; from those along which G is long it is rarely found."""
LITTLE = (400, 20_000_000)
"""Entries of G, and derivatives of contributions, up to which a summary looks for weak identification: a fraction
of a second."""


NOT_ASSESSED = "identification strength not assessed"
NEGATIVE = 1e-10
"""Eigenvalue of a correlation matrix that still counts as zero: rounding of sums of squares."""


@dataclass(frozen=True, slots=True)
class JointCovariance:
    """Means and centred covariance of contributions c_i and their derivatives, by the estimator of S of the fit.

    Parameters
    ----------
    g : array (M,)
    G : array (M, P)
    gg : array (M, M)
        S centred: ``(1/N) sum_i (g_i - g)(g_i - g)'`` where it is robust.
    Gg : array (M, P, M)
        ``(1/N) sum_i (G_i - G) (g_i - g)'``, or its sum over pairs in a cluster or near in time.
    GG : array (M, P, M, P)
        ``(1/N) sum_i (G_i - G)(G_i - G)'``, or the like.
    n_obs : int
    """

    g: Array
    G: Array
    gg: Array
    Gg: Array
    GG: Array
    n_obs: int


def joint_covariance(context: Context, theta: Array) -> JointCovariance:
    """Covariance of contributions with their derivatives, one pass.

    Parameters
    ----------
    context : Context
    theta : array (P,)

    Returns
    -------
    JointCovariance

    Raises
    ------
    EstimationError
        E433: clusters that are too few, or two ways of clustering whose difference is no covariance.

    Notes
    -----
    With S ``unadjusted``, which says nothing of derivatives, ``robust`` stands in; lags have the bandwidth of the
    contributions.  Law: gg is S with ``centred=True``.
    Cost: derivatives of every contribution, N M P numbers in memory, by the fit's engine, and
    O(N M^2 P^2).
    """
    sample, n = context.sample, context.sample.n_obs
    m, p = len(sample.moment_names), len(sample.names)
    backend = "auto" if as_backend(context.grad) == Analytic() else for_many_rows(context.grad)

    def derivatives(block: Any) -> Array:
        value, slope = value_and_jacobian(context.model.contributions, theta, block, backend=backend)
        return np.concatenate([np.asarray(value), np.asarray(slope).reshape(len(value), m * p)], axis=1)

    with single_blas_thread():
        rows = np.concatenate([derivatives(block) for block in sample.blocks])
        mean, square = np.sum(rows, axis=0) / n, _covariance_of(rows, m, context)
    return JointCovariance(
        mean[:m],
        mean[m:].reshape(m, p),
        square[:m, :m],
        square[m:, :m].reshape(m, p, m),
        square[m:, m:].reshape(m, p, m, p),
        n,
    )


def _covariance_of(rows: Array, m: int, context: Context) -> Array:
    """Centred covariance of rows whose first m columns are the contributions, with the options of S."""
    options, sample = replace(context.weighting, centred=True), context.sample
    if options.estimator == "unadjusted":
        options = replace(options, estimator="robust")

    def s(columns: Array, options: CovarianceOptions) -> MomentCovariance:
        n_params = len(sample.names) + sample.absorbed
        return contribution_covariance(columns, options, sample.observations, sample.n_obs, n_params)

    if options.estimator == "kernel":
        width = s(rows[:, :m], options).bandwidth
        options = options if width is None else replace(options, bandwidth=width)
    found = s(rows, options)
    reason = ""
    if found.degrees is not None and found.degrees < m:
        reason = f"{found.degrees + 1} clusters for {m} moments"
    elif found.estimator == "twoway":
        size = np.sqrt(np.abs(np.diag(found.matrix)))
        size = np.where(size > 0, size, 1.0)
        if not np.linalg.eigvalsh(found.matrix / np.outer(size, size))[0] >= -NEGATIVE:
            reason = "two ways of clustering, whose difference has negative eigenvalues"
    if reason:
        what = f"{reason}: no covariance of moments with their derivatives"
        raise EstimationError(Complaint("E433", what, next="weighting: robust"))
    return found.matrix


@dataclass(frozen=True, slots=True)
class Weakest:
    """The direction along which the moments say least.

    Parameters
    ----------
    statistic : float
        ``min_b N (Gb)' C_b^-1 (Gb)``, chi-squared with M - P + 1 degrees of freedom if G b = 0 for some b.
    df : int
    direction : array (P,)
        b, scaled so that its largest entry, in units of what parameters move, is one.
    """

    statistic: float
    df: int
    direction: Array

    @property
    def strength(self) -> float:
        """Statistic over degrees of freedom: the first-stage F of a linear model with one endogenous regressor."""
        return self.statistic / self.df


def weakest(joint: JointCovariance) -> Weakest:
    """Test that G has deficient rank, and the direction in which it is closest to that.

    ``min_b N (Gb)' C_b^-1 (Gb)`` with ``C_b = (1/N) sum_i (G_i b - Gb)(G_i b - Gb)'``.

    Parameters
    ----------
    joint : JointCovariance

    Returns
    -------
    Weakest

    Notes
    -----
    Laws: units of parameters and linear combinations of moments change nothing.  A direction along which
    derivatives do not vary between observations is known without error and counts as infinitely strong.
    Method: BFGS with the exact gradient ``2N (G'u - K b)``, ``u = C_b^-1 G b``, ``K_pq = u'C_pq u``, from the
    singular directions along which the scaled G is shortest, :data:`STARTS` at most.

    References
    ----------
    Cragg, J. G. and S. G. Donald (1997), "Inferring the rank of a matrix", Journal of Econometrics 76,
    223-250.
    """
    from scipy.optimize import minimize

    m, p = joint.G.shape
    noise = np.sqrt(np.einsum("mpmp->mp", joint.GG))
    row = np.maximum(noise, np.abs(joint.G)).max(axis=1)
    row = np.where(row > 0, row, 1.0)
    column = np.maximum(noise, np.abs(joint.G) / np.sqrt(joint.n_obs))
    unit = np.max(column / row[:, None], axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    G = joint.G / row[:, None] / unit
    C = joint.GG / row[:, None, None, None] / unit[:, None, None] / row[:, None] / unit
    floor = np.finfo(np.float64).eps * 1e3

    def value(b: Array) -> tuple[float, Array]:
        b_norm = float(np.linalg.norm(b))
        d = b / b_norm
        h = G @ d
        middle = np.einsum("p,mpnq,q->mn", d, C, d)
        # noise of rounding size, relative to the largest, keeps the system solvable
        middle = middle + floor * np.eye(m)
        u = np.linalg.solve(middle, h)
        K = np.einsum("m,mpnq,n->pq", u, C, u)
        slope = 2.0 * (G.T @ u - K @ d)
        return float(h @ u), (slope - d * (d @ slope)) / b_norm

    starts = np.linalg.svd(G)[2]
    found = [
        minimize(value, b, jac=True, method="BFGS", options={"gtol": 1e-10}) for b in starts[::-1][:STARTS]
    ]
    best = min(found, key=lambda f: float(f.fun))
    direction = best.x / best.x[int(np.argmax(np.abs(best.x)))]
    return Weakest(joint.n_obs * float(best.fun), m - p + 1, direction / unit)


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What speaks for and against a fit's standard errors.

    Parameters
    ----------
    moment_condition : float
        Condition number of S at unit diagonal.
    condition : float
        Condition number of ``S^-1/2 G`` with columns at unit length.
    rank : int
    strength : float
        :func:`weakest` over its degrees of freedom; below 10 identification is called weak.  nan where the
        covariance of the derivatives cannot be had.
    pvalue : float
        Of the hypothesis that G has deficient rank; nan likewise.
    flat : tuple of (str, float)
        The weakest direction: parameters and how far they move together, largest first.  Without a covariance of
        the derivatives, the direction that moves ``S^-1/2 G`` least, columns at unit length.
    notes : tuple of str
        ``W213`` where identification is weak; why its strength was not assessed.
    """

    moment_condition: float
    condition: float
    rank: int
    strength: float
    pvalue: float
    flat: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"<Diagnostics: strength {self.strength:.4g}, rank {self.rank}, condition {self.condition:.3g}>"
        )

    def __str__(self) -> str:
        known = not np.isnan(self.strength)
        moved = ", ".join(f"{printable(name)} {move:+.3g}" for name, move in self.flat)
        lines = [
            f"Strength of identification: {self.strength:.4g} ({WEAK:g} is wanted), p = {self.pvalue:.3g}"
            if known
            else "Strength of identification: not known",
            f"Least is said of: {moved}",
            f"Jacobian: rank {self.rank}, condition {self.condition:.3g}",
            f"S: condition {self.moment_condition:.3g}",
        ]
        return "\n".join([*lines, *self.notes])


def diagnose(context: Context, estimate: Estimate) -> Diagnostics:
    """Conditions of S and G, and the strength of identification.

    Parameters
    ----------
    context : Context
    estimate : Estimate

    Returns
    -------
    Diagnostics

    Notes
    -----
    Cost: see :func:`joint_covariance`.

    References
    ----------
    Staiger, D. and J. H. Stock (1997), Econometrica 65, 557-586; Cragg and Donald (1997).
    """
    names = context.sample.names
    spread = np.sqrt(np.diag(estimate.s.matrix))
    moment_condition = float(np.linalg.cond(estimate.s.matrix / np.outer(spread, spread)))
    white = inverse_weight(estimate.s, context.sample.moment_names).whiten(estimate.jacobian)
    length = column_norms(white)
    _, singular, axes = np.linalg.svd(white / length)
    found = _strength(context, estimate.theta, axes[-1] / length)
    share = np.abs(found.direction) * length
    order = [int(k) for k in np.argsort(-share) if share[k] >= NAMED * share.max()]
    flat = tuple((names[k], float(found.direction[k] / found.direction[order[0]])) for k in order)
    notes: tuple[str, ...] = () if not found.reason else (f"{NOT_ASSESSED}: {found.reason}",)
    if found.strength < WEAK:
        moved = " ".join(f"{move:+.3g} {printable(name)}" for name, move in flat).lstrip("+")
        notes = (
            f"W213 weak identification along {moved}: strength {found.strength:.2g}, {WEAK:g} is wanted (the"
            " first-stage F of Staiger and Stock); intervals may cover too little: see res.confidence_set",
        )
    return Diagnostics(
        moment_condition,
        float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf"),
        int(np.sum(singular > singular[0] * 1e-12)),
        found.strength,
        found.pvalue,
        flat,
        notes,
    )


@dataclass(frozen=True, slots=True)
class _Strength:
    """Strength, its p-value and the weakest direction; nan, and another direction, where there is a reason."""

    strength: float
    pvalue: float
    direction: Array
    reason: str = ""


def _strength(context: Context, theta: Array, otherwise: Array) -> _Strength:
    try:
        found = weakest(joint_covariance(context, theta))
    except GmmestError as error:
        return _Strength(np.nan, np.nan, otherwise, error.complaints[0].what)
    except np.linalg.LinAlgError:
        return _Strength(np.nan, np.nan, otherwise, "the derivatives have no covariance that can be inverted")
    if not np.isfinite(found.strength):
        return _Strength(np.nan, np.nan, otherwise, "derivatives of contributions are not finite")
    return _Strength(found.strength, chi2_sf(found.statistic, found.df), found.direction)


def weakness(context: Context, estimate: Estimate) -> tuple[str, ...]:
    """The notes of :func:`diagnose` where they cost little, for a summary.

    Parameters
    ----------
    context : Context
    estimate : Estimate

    Returns
    -------
    tuple of str
        ``W213``, or why the strength could not be assessed.  Larger problems than :data:`LITTLE` are left to those
        who ask for diagnostics.
    """
    size = estimate.jacobian.size
    if size > LITTLE[0] or size * context.sample.n_obs > LITTLE[1]:
        return ()
    try:
        return diagnose(context, estimate).notes
    except GmmestError as error:
        return (f"{NOT_ASSESSED}: {error.complaints[0].what}",)
    except np.linalg.LinAlgError:
        return (f"{NOT_ASSESSED}: S or the Jacobian of the moments is not finite",)


def first_stage(context: Context) -> pd.DataFrame:
    """First-stage statistics of a linear regression, a row for each endogenous regressor.

    With x, Z the regressor and the excluded instruments less their projections on the exogenous
    regressors, ``x = Z pi + v``, q instruments, k regressors in the first stage:

    ``rsquared``, ``partial_rsquared``
        Of x on all instruments, uncentred-total only without a constant; of x on Z.  With absorbed effects
        within groups, and k counts the effects.
    ``shea_rsquared``
        Shea's: the part of x that neither the other endogenous regressors nor the exogenous ones explain.
    ``f``, ``f_robust``
        ``(x'P_Z x / q) / (v'v / (N - k))``; Wald statistic over q with Omega: HC0, or by the clusters or lags
        of S.
    ``f_effective``
        ``N pi'pi / tr(Omega)`` with Z at ``Z'Z/N = I`` and Omega the covariance of ``z_i v_i``; for one
        endogenous regressor, else nan.
    ``cragg_donald``
        Smallest eigenvalue of ``Sigma_vv^-1/2 X'P_Z X Sigma_vv^-1/2 / q``, one for all regressors.

    Parameters
    ----------
    context : Context

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    EstimationError
        E433: the model is no ``LinearIV`` with endogenous regressors, or observations carry weights.

    Notes
    -----
    Laws: with one endogenous regressor ``cragg_donald`` is ``f``; with one instrument too ``f_effective`` is
    ``f_robust``.  Projections by QR.

    References
    ----------
    Shea, J. (1997), Review of Economics and Statistics 79, 348-352; Cragg, J. G. and S. G. Donald (1993),
    Econometric Theory 9, 222-240; Montiel Olea, J. L. and C. Pflueger (2013), Journal of Business and
    Economic Statistics 31, 358-369.
    """
    import pandas as pd

    model = context.model
    if not isinstance(model, LinearIV) or not model.columns.endogenous:
        raise EstimationError(
            Complaint("E433", "first-stage statistics are those of a LinearIV with endogenous regressors")
        )
    seen, options = context.sample.observations, replace(context.weighting, centred=False, small_sample=False)
    if seen.weight is not None or seen.frequency is not None:
        what = "first-stage statistics are there for observations of equal weight"
        raise EstimationError(Complaint("E433", what, next="a table without weights"))
    if options.estimator == "unadjusted":
        options = replace(options, estimator="robust")

    def covariance_of(scores: Array) -> Array:
        return contribution_covariance(scores, options, seen, len(scores), 0).matrix

    rows, columns = context.sample.whole().blocks[0], model.columns
    inside = [columns.names.index(name) for name in columns.endogenous]
    excluded = [columns.moment_names.index(name) for name in columns.instruments]
    exogenous = np.delete(rows.X, inside, axis=1)
    with single_blas_thread():
        table = first_stage_statistics(
            rows.X[:, inside],
            exogenous,
            rows.Z[:, excluded],
            columns.constant,
            context.sample.absorbed,
            covariance_of,
        )
    return pd.DataFrame(table, index=list(columns.endogenous))


def first_stage_statistics(
    endogenous: Array,
    exogenous: Array,
    excluded: Array,
    constant: bool,
    absorbed: int = 0,
    covariance_of: Callable[[Array], Array] = lambda scores: scores.T @ scores / len(scores),
) -> dict[str, Array]:
    """The statistics of :func:`first_stage` from arrays (N, e), (N, k1), (N, q), less absorbed effects.

    ``covariance_of`` makes Omega, (q, q), from ``z_i v_i``, (N, q).
    """
    n, q = excluded.shape
    k = q + exogenous.shape[1] + absorbed
    basis = np.linalg.qr(exogenous)[0]
    x = endogenous - basis @ (basis.T @ endogenous)
    z = excluded - basis @ (basis.T @ excluded)
    z = np.linalg.qr(z)[0] * np.sqrt(n)
    pi = z.T @ x / n
    fitted = z @ pi
    v = x - fitted
    explained, left = np.sum(np.square(fitted), axis=0), np.sum(np.square(v), axis=0)
    total = np.sum(np.square(endogenous - (endogenous.mean(axis=0) if constant else 0.0)), axis=0)
    omega = [covariance_of(z * v[:, [j]]) for j in range(x.shape[1])]
    robust = np.array([n * p @ np.linalg.solve(o, p) / q for p, o in zip(pi.T, omega, strict=True)])
    one = x.shape[1] == 1
    effective = n * (pi[:, 0] @ pi[:, 0]) / np.trace(omega[0]) if one else np.nan
    scale = np.sqrt(left)
    noise = v.T @ v / np.outer(scale, scale) / (n - k)
    signal = fitted.T @ fitted / np.outer(scale, scale) / q
    root = np.linalg.cholesky(noise)
    half = np.linalg.solve(root, np.linalg.solve(root, signal).T)
    # the diagonal of (x'x)^-1, by rows of x^+
    known, told = (np.sum(np.square(pseudo_inverse(a)), axis=1) for a in (x, fitted))
    shea = known / told if q >= len(pi.T) else np.nan
    return {
        "rsquared": 1.0 - left / total,
        "partial_rsquared": explained / (explained + left),
        "shea_rsquared": np.broadcast_to(shea, left.shape),
        "f": (explained / q) / (left / (n - k)),
        "f_robust": robust,
        "f_effective": np.full(len(left), effective),
        "cragg_donald": np.full(len(left), np.linalg.eigvalsh(0.5 * (half + half.T))[0]),
    }


@dataclass(frozen=True, slots=True)
class Profile:
    """The criterion, minimised over the others, as one parameter moves.

    Parameters
    ----------
    name : str
    steps : array (k,)
        In standard errors from the estimate.
    values : array (k,)
        Of the parameter.
    change : array (k,)
        ``N (Q - Q(estimate))``, re-minimised over the other parameters with the W of the fit.
    quadratic : array (k,)
        What the curvature ``G'WG`` at the estimate predicts.
    """

    name: str
    steps: Array
    values: Array
    change: Array
    quadratic: Array

    def __post_init__(self) -> None:
        freeze(self, "steps", "values", "change", "quadratic")

    @property
    def frame(self) -> pd.DataFrame:
        """As a table."""
        import pandas as pd

        columns = ("steps", "values", "change", "quadratic")
        return pd.DataFrame({column: np.array(getattr(self, column)) for column in columns})

    def __repr__(self) -> str:
        return f"<Profile: {printable(self.name)} at {plural(len(self.values), 'value')}>"

    def __str__(self) -> str:
        numbers = zip(self.steps, self.values, self.change, self.quadratic, strict=True)
        rows = [[f"{b:.6g}", f"{step:+.3g}", f"{q:.4f}", f"{c:.4f}"] for step, b, c, q in numbers]
        return aligned([[printable(self.name), "std errs", "quadratic", "N (Q - Q0)"], *rows])


def profile(context: Context, estimate: Estimate, name: str, steps: Sequence[float] | Array) -> Profile:
    """Profile of the criterion against the quadratic that standard errors rest on.

    Parameters
    ----------
    context : Context
    estimate : Estimate
    name : str
        The parameter.
    steps : sequence of float
        Where, in standard errors from the estimate.

    Returns
    -------
    Profile

    Raises
    ------
    EstimationError
        E432: no minimum was found at some point.

    Notes
    -----
    Law: for moments linear in theta the two columns are equal.  Cost: one fit a point.
    """
    k = position(name, context.sample.names)
    error = float(np.sqrt(estimate.v[k, k]))
    grid = np.array(steps, dtype=np.float64)
    if grid.ndim != 1 or not np.all(np.isfinite(grid)) or not error > 0:
        raise ConfigError(
            Complaint("E102", "steps must be finite numbers, and the parameter have a standard error")
        )
    values = estimate.theta[k] + error * grid
    unit = np.zeros((1, estimate.theta.size))
    unit[0, k] = 1.0
    white = np.sqrt(context.sample.n_obs) * estimate.weight.whiten(estimate.jacobian)
    others = np.delete(white, k, axis=1)
    basis = np.linalg.qr(others / column_norms(others))[0]
    own = white[:, k] - basis @ (basis.T @ white[:, k])
    with single_blas_thread():
        moments = context.moments()
        r = estimate.weight.whiten(estimate.moments)
        least = context.sample.n_obs * float(r @ r)
        change = [
            restricted_minimum(context, moments, estimate, estimate.weight, unit, np.array([value])).value
            - least
            for value in values
        ]
    return Profile(name, grid, values, np.array(change), float(own @ own) * np.square(error * grid))
