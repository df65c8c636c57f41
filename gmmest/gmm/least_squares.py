"""Nonlinear least squares: residuals of one's own, fitted as residuals and judged by the same certificate.

The moments of least squares are the scores ``J'r``; fitted as moments, the condition number of J would be
squared and every saddle would be a root.  Fitted as residuals, neither happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.data.table import Table
from gmmest.derivatives.backends import Backend, as_backend, for_many_rows
from gmmest.errors import (
    Complaint,
    ConfigError,
    EstimationError,
    IdentificationError,
    not_among,
    not_whole,
    printable,
    some,
)
from gmmest.execution.serial import single_blas_thread
from gmmest.gmm.certificate import Certificate, certify, curvature, lowest, whitened_directions
from gmmest.gmm.coefficients import Coefficients
from gmmest.gmm.estimator import CURVATURE_STEP
from gmmest.gmm.fitted import Work
from gmmest.gmm.objective import power_of_two_scale
from gmmest.gmm.optimize import OPTIMIZERS, Problem, minimise, polish, scattered
from gmmest.models.sample import Start, starting_point

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LeastSquaresResults", "NonlinearLeastSquares"]

Array = NDArray[np.float64]
Function = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True, init=False)
class NonlinearLeastSquares:
    """Minimise ``r(theta)'r(theta)`` with residuals ``r = y - f(x, theta)``.

    Parameters
    ----------
    function : callable
        ``function(theta, rows) -> (n,)`` residuals, in plain NumPy and ``gmmest.ops``; ``rows["y"]`` is a
        column.
    names : sequence of str
        Parameters, P of them.
    start : mapping or sequence of float, optional
        Where to start, by name or in the order of ``names``; zero where nothing is said.

    Notes
    -----
    Standard errors are the square roots of ``s^2 (J'J)^-1``, with ``s^2 = r'r / (n - P)`` and J the
    Jacobian of the residuals (n, P) at the estimate, by QR with columns at unit norm.

    Law: the residuals multiplied by a constant leave the estimate and its standard errors; parameters
    multiplied by constants multiply theirs.

    References
    ----------
    Bates, D. M. and Watts, D. G. (1988), Nonlinear Regression Analysis and Its Applications, Wiley,
    sections 2.1-2.3.  NIST/ITL, Statistical Reference Datasets, nonlinear regression.

    Examples
    --------
    NIST's DanWood, ``y = b1 x^b2``:

    >>> table = Table.from_arrays(
    ...     {
    ...         "x": np.array([1.309, 1.471, 1.490, 1.565, 1.611, 1.680]),
    ...         "y": np.array([2.138, 3.421, 3.597, 4.340, 4.882, 5.660]),
    ...     }
    ... )
    >>> model = NonlinearLeastSquares(
    ...     lambda b, rows: rows["y"] - b[0] * rows["x"] ** b[1], names=["b1", "b2"], start=[1.0, 5.0]
    ... )
    >>> result = model.fit(table)
    >>> result.theta.round(8).tolist(), result.standard_errors.round(8).tolist(), result.verified
    ([0.76886226, 3.86040559], [0.01828197, 0.05172661], True)
    """

    function: Function
    names: tuple[str, ...]
    start: tuple[float, ...]

    def __init__(self, function: Function, names: Sequence[str], start: Start = None) -> None:
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "names", tuple(names))
        if len(set(self.names)) < len(self.names) or not self.names:
            raise ConfigError(
                Complaint("E102", f"names are {some(self.names)}; different ones were expected")
            )
        object.__setattr__(
            self, "start", tuple(starting_point(start, self.names, np.zeros(len(self.names))).tolist())
        )

    def fit(
        self,
        table: Any,
        start: Start = None,
        grad: str | Backend = "auto",
        optimizer: str = "lsq",
        starts: int | Sequence[Start] | None = None,
        maxiter: int | None = None,
        seed: int = 0,
    ) -> LeastSquaresResults:
        """Estimate.

        Parameters
        ----------
        table : Table or data frame
        start : mapping or sequence of float, optional
            By name (the rest from the model's own start) or all in order.
        grad : str or Backend
            Derivative backend, see :mod:`gmmest.derivatives.backends`.
        optimizer : {"lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead"}
        starts : int or sequence of starts, optional
            So many starts in all, the given one and others scattered around it (see
            :func:`.optimize.scattered`); or the others themselves.  The lowest minimum found is returned,
            and its verdict says where the other starts ended, with W403 if that was elsewhere.
        maxiter : int, optional
            Iterations at most, for each start.
        seed : int
            Of the scatter.

        Returns
        -------
        LeastSquaresResults

        Raises
        ------
        ConfigError
            E102: options or starts.
        IdentificationError
            E212: no more rows than parameters.
        EstimationError
            E410: the function returned another shape than (n,).  E411: residuals or their derivatives are
            not finite at the start.
        """
        backend = _checked(grad, optimizer, starts, maxiter, seed)
        begin = time.perf_counter()
        given = starting_point(start, self.names, np.array(self.start))
        rows = _rows(table, len(self.names))
        with single_blas_thread(), np.errstate(all="ignore"):
            residuals = _Residuals(self.function, self.names, rows, backend, given)
            points = [given, *self._others(starts, given, residuals, seed)]
            fits = [_fit_once(residuals, point, optimizer, maxiter, i == 0) for i, point in enumerate(points)]
        index, note = lowest(
            np.array([fit.rss for fit in fits]), [fit.certificate.verified for fit in fits], "residual SS"
        )
        best = fits[index]
        return LeastSquaresResults(
            names=self.names,
            theta=best.theta,
            v=best.v,
            residuals=best.residuals,
            certificate=best.certificate,
            optimizer=optimizer,
            grad=residuals.prepared.name,
            work=Work(residuals.evaluations, time.perf_counter() - begin),
            notes=(note,) if len(fits) > 1 else (),
        )

    def _others(
        self, starts: int | Sequence[Start] | None, given: Array, residuals: _Residuals, seed: int
    ) -> list[Array]:
        if starts is None:
            return []
        if not isinstance(starts, (int, np.integer)):
            return [starting_point(other, self.names, given) for other in starts]
        value, jacobian = residuals.value_and_jacobian(given)
        size = np.sqrt(np.mean(np.square(value)))
        unit = power_of_two_scale(jacobian / (size if size > 0 else 1.0))
        return scattered(given, unit, int(starts) - 1, seed)


# --- residuals as the optimisers want them --------------------------------------------------------------


class _Residuals:
    """The residuals of all rows with their Jacobian, by one backend; the last Jacobian is kept.

    Engines that take steps see parameters in units of their magnitude at the start, powers of two.
    """

    def __init__(
        self, function: Function, names: tuple[str, ...], rows: Any, backend: Backend, start: Array
    ) -> None:
        self.function, self.names, self.rows = function, names, rows
        usable = ~backend.exact & (start != 0) & np.isfinite(start)
        self.unit = np.exp2(np.floor(np.log2(np.where(usable, np.abs(start), 1.0))))
        self.prepared = for_many_rows(backend).prepare(
            function if backend.exact else lambda z, rows: function(self.unit * z, rows)
        )
        self.evaluations = 0
        self._kept: tuple[bytes, Array, Array] | None = None

    def value(self, theta: Array) -> Array:
        """``r``, (n,)."""
        if self._kept is not None and self._kept[0] == theta.tobytes():
            return self._kept[1]
        self.evaluations += 1
        return self._usable(np.asarray(self.function(theta, self.rows)), theta)

    def value_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
        """``r`` and ``dr/dtheta'``, (n,) and (n, P)."""
        key = theta.tobytes()
        if self._kept is None or self._kept[0] != key:
            self.evaluations += 1
            value, jacobian = self.prepared.value_and_jacobian(theta / self.unit, self.rows)
            value = self._usable(value, theta)
            jacobian = jacobian / self.unit
            self._usable(np.max(np.abs(jacobian), axis=1), theta, "derivatives of ")
            self._kept = (key, value, jacobian)
        return self._kept[1], self._kept[2]

    def problem(self, scale: Array, size: float) -> Problem:
        """As a sum of squares of ``r / size`` in ``z = theta / scale``."""

        def residuals(z: Array) -> Array:
            return self.value(scale * z) / size

        def residuals_and_jacobian(z: Array) -> tuple[Array, Array]:
            value, jacobian = self.value_and_jacobian(scale * z)
            return value / size, jacobian * scale / size

        def value(z: Array) -> float:
            r = residuals(z)
            return float(r @ r)

        def value_and_gradient(z: Array) -> tuple[float, Array]:
            r, jacobian = residuals_and_jacobian(z)
            return float(r @ r), 2.0 * (jacobian.T @ r)

        return Problem(residuals, residuals_and_jacobian, value, value_and_gradient)

    def _usable(self, value: Array, theta: Array, what: str = "") -> Array:
        n = self.rows.n_rows
        if value.shape != (n,) or value.dtype != np.float64:
            raise EstimationError(
                Complaint(
                    "E410",
                    f"the residual function returned {value.dtype} of shape {value.shape} for {n} rows;"
                    f" real numbers of shape ({n},) were expected",
                    next='rows["y"] - f(rows["x"], theta)',
                )
            )
        if np.all(np.isfinite(value)):
            return value
        bad = np.flatnonzero(~np.isfinite(value))
        at = ", ".join(f"{printable(name)} = {x:.6g}" for name, x in zip(self.names, theta, strict=True))
        raise EstimationError(
            Complaint(
                "E411",
                f"{what}residuals of rows {some(bad)} are not finite at {at}",
                next="start elsewhere",
            )
        )


@dataclass(frozen=True, slots=True)
class _Fit:
    theta: Array
    v: Array
    residuals: Array
    rss: float
    certificate: Certificate


def _fit_once(residuals: _Residuals, start: Array, optimizer: str, maxiter: int | None, first: bool) -> _Fit:
    """Optimise from one start, polish, and judge; starts after the first may be useless."""
    try:
        value, jacobian = residuals.value_and_jacobian(start)
    except EstimationError as error:
        if first or error.codes != ("E411",):
            raise
        nothing = np.full((start.size,) * 2, np.nan)
        refused = Certificate(np.inf, np.inf, 0, np.nan, (str(error),))
        return _Fit(start, nothing, np.full(residuals.rows.n_rows, np.nan), np.inf, refused)
    scale = power_of_two_scale(jacobian)
    problem = residuals.problem(scale, _root_mean_square(value, value.size))
    outcome = minimise(problem, start / scale, optimizer, maxiter)
    z = polish(problem, outcome.point)
    value, _ = residuals.value_and_jacobian(scale * z)
    s = _root_mean_square(value, value.size - z.size)
    certificate, directions = _judge(residuals.problem(scale, s), z, residuals.names)
    half = scale[:, None] * directions
    return _Fit(
        scale * z,
        half @ half.T,
        value,
        float(value @ value),
        certificate,
    )


def _judge(problem: Problem, z: Array, names: tuple[str, ...]) -> tuple[Certificate, Array]:
    """The certificate of residuals in units of s, and ``R^-1``, whose square is their ``(J'J)^-1``.

    The curvature is that of the whole Hessian ``J'J + sum_i r_i H_i``.
    """
    value, jacobian = problem.residuals_and_jacobian(z)
    directions = whitened_directions(jacobian)
    errors = np.sqrt(np.sum(np.square(directions), axis=1))
    hessian = None
    if np.all(np.isfinite(directions)):
        hessian = curvature(lambda x: 0.5 * problem.value_and_gradient(x)[1], z, CURVATURE_STEP * directions)
    return certify(z, value, jacobian, errors, names, hessian), directions


def _root_mean_square(value: Array, count: int) -> float:
    """``(r'r / count)^(1/2)``, one for an exact fit."""
    return float(np.sqrt(value @ value / count)) or 1.0


def _rows(table: Any, n_params: int) -> Any:
    """All rows, more of them than parameters."""
    table = table if isinstance(table, Table) else Table.from_frame(table)
    if table.observations.mass is not None:
        what = "least squares with weights or frequencies: residuals are taken as they are"
        raise ConfigError(Complaint("E102", what, next="multiply the residuals by the roots of the weights"))
    rows = table.rows()
    if rows.n_rows <= n_params:
        raise IdentificationError(
            Complaint(
                "E212",
                f"{rows.n_rows} rows, {n_params} parameters: more rows than parameters were expected",
                next="the variance of the residuals is estimated from the rows that are left over",
            )
        )
    return rows


def _checked(grad: str | Backend, optimizer: str, starts: Any, maxiter: int | None, seed: int) -> Backend:
    """The backend, and all complaints about options together."""
    complaints = not_among("optimizer", optimizer, OPTIMIZERS)
    for option, value, least in (("maxiter", maxiter, 1), ("starts", starts, 1), ("seed", seed, 0)):
        if value is None or (option == "starts" and isinstance(value, (Sequence, np.ndarray))):
            continue
        complaints += not_whole(option, value, least)
    try:
        backend = as_backend(grad)
    except ConfigError as error:
        complaints.extend(error.complaints)
    if complaints:
        raise ConfigError(complaints)
    return backend


# --- results --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeastSquaresResults:
    """What ``NonlinearLeastSquares.fit`` returns.

    Attributes
    ----------
    params, bse, tvalues, pvalues : pandas.Series
        Estimates, standard errors, their ratios and two-sided p-values from Student's t with n - P
        degrees of freedom, by name.
    theta : array (P,)
        The estimates as an array.
    v : array (P, P)
        ``s^2 (J'J)^-1``.
    residuals : array (n,)
    certificate : Certificate
    verified : bool
    notes : tuple of str
        Where other starts ended.
    """

    names: tuple[str, ...]
    theta: Array
    v: Array
    residuals: Array
    certificate: Certificate
    optimizer: str
    grad: str
    work: Work
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        freeze(self, "theta", "v", "residuals")

    # --- arrays and numbers -------------------------------------------------------------------------

    @property
    def standard_errors(self) -> Array:
        """Square roots of the diagonal of V, (P,)."""
        return self._coefficients.standard_errors

    @property
    def rss(self) -> float:
        """Residual sum of squares ``r'r``."""
        return float(self.residuals @ self.residuals)

    @property
    def residual_sd(self) -> float:
        """``s = (r'r / (n - P))^(1/2)``."""
        return float(np.sqrt(self.rss / self.df_resid))

    @property
    def nobs(self) -> int:
        """Number of rows n."""
        return self.residuals.size

    @property
    def df_resid(self) -> int:
        """Degrees of freedom n - P."""
        return self.nobs - len(self.names)

    @property
    def verified(self) -> bool:
        """Whether the certificate found nothing against the estimate."""
        return self.certificate.verified

    # --- by name ------------------------------------------------------------------------------------

    @property
    def params(self) -> pd.Series:
        """Estimates by name."""
        return self._coefficients.series(self.theta, "params")

    @property
    def bse(self) -> pd.Series:
        """Standard errors by name."""
        return self._coefficients.series(self.standard_errors, "bse")

    @property
    def tvalues(self) -> pd.Series:
        """Estimates over standard errors."""
        return self._coefficients.series(self._coefficients.ratios, "tvalues")

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values from Student's t with n - P degrees of freedom."""
        return self._coefficients.series(self._coefficients.p_values, "pvalues")

    def cov_params(self) -> pd.DataFrame:
        """Covariance matrix of the estimates."""
        return self._coefficients.covariance()

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Confidence intervals with coverage ``1 - alpha``: estimate and t quantile times standard error."""
        return self._coefficients.intervals(alpha)

    @property
    def _coefficients(self) -> Coefficients:
        return Coefficients(self.names, self.theta, self.v, self.df_resid)

    # --- words --------------------------------------------------------------------------------------

    def verdict(self) -> str:
        """One line: verified, or not and why; and where other starts ended."""
        return "; ".join([self.certificate.verdict(len(self.names)), *self.notes])

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of what stands above the table of estimates."""
        return [
            ("Estimator", "nonlinear least squares"),
            ("Observations", f"{self.nobs:,}"),
            ("Residual SS", f"{self.rss:.6g}"),
            ("Residual SD", f"{self.residual_sd:.6g}, {self.df_resid:,} df"),
            ("Standard errors", "s^2 (J'J)^-1"),
            ("Derivatives", self.grad),
            ("Optimizer", f"{self.optimizer}, {self.work.evaluations} passes, {self.work.seconds:.2f} s"),
        ]

    def table(self, alpha: float = 0.05) -> tuple[list[str], list[list[str]]]:
        """Heading and rows of the table of estimates, as text."""
        return self._coefficients.table(alpha)

    def summary(self, alpha: float = 0.05) -> Any:
        """``as_text()``, ``as_latex()``, ``as_html()``, ``as_csv()``; the first line is the verdict."""
        from gmmest.gmm.summary import FitSummary

        return FitSummary(self.verdict(), self.facts(), *self.table(alpha), self.notes)

    def __repr__(self) -> str:
        pairs = zip(self.names, self.theta, self.standard_errors, strict=True)
        estimates = ", ".join(f"{printable(name)} {b:.6g} ({e:.3g})" for name, b, e in pairs)
        return f"<LeastSquaresResults: {self.verdict()}; {estimates}>"

    def __str__(self) -> str:
        return str(self.summary())
