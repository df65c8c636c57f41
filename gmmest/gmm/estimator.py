"""The estimator: steps, weights and verdict in order; everything numerical lies in the modules below."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from gmmest.data.observations import Names, as_names
from gmmest.derivatives.backends import Backend, as_backend
from gmmest.errors import Complaint, ConfigError, EstimationError, IdentificationError, printable, some
from gmmest.execution.serial import Executor, single_blas_thread
from gmmest.execution.threads import as_executor
from gmmest.gmm.certificate import Certificate, certify, curvature, whitened_directions
from gmmest.gmm.fitted import Context, Estimate
from gmmest.gmm.inference import SE_NAMES, SeName, covariance
from gmmest.gmm.kernels import Bandwidth, Kernel
from gmmest.gmm.moments import Moments
from gmmest.gmm.objective import Criterion, power_of_two_scale
from gmmest.gmm.optimize import OPTIMIZERS, Outcome, Problem, minimise, polish
from gmmest.gmm.results import GMMResults, Settings, Work
from gmmest.gmm.weighting import (
    CovarianceOptions,
    Estimator,
    Weight,
    first_weight,
    identity_weight,
    inverse_weight,
    moment_covariance,
)
from gmmest.models.sample import MomentModel, Sample

__all__ = ["GMMEstimator", "starting_point"]

Array = NDArray[np.float64]
Start = Mapping[str, float] | Sequence[float] | NDArray[np.float64] | None

CURVATURE_STEP = 0.05
"""Steps, in standard errors, of the differences that give the criterion's curvature."""


STEP_RATIO = 16.0
DIFFERENCE_LIMIT = 1e-3
"""How far derivatives by differences may move, relative to the column, when steps are 16 times shorter:
a thousandth shows in the fourth digit of a standard error, the last one printed."""


@dataclass(frozen=True, slots=True)
class GMMEstimator:
    """Generalized method of moments for one model on one data set.

    Parameters
    ----------
    model : MomentModel
        ``Logit``, ``MomentFunction``, or any object with ``sample`` and ``contributions``.
    data
        What the model takes: ``ChoiceData``, ``Table``, a data frame.
    steps : {"twostep", "onestep"}
        ``onestep`` minimises with the first weight; ``twostep`` goes on with ``W = S^-1`` there.
    weighting : {"robust", "unadjusted", "cluster", "twoway", "kernel"}
        The estimator of S, for the weight of the second step and for standard errors; its formulas stand
        in :class:`.weighting.MomentCovariance`.
    initial : {"instruments", "identity"}
        The first weight: ``(Zd'Zd/N)^-1`` with the instruments demeaned within choice sets, or I.  A
        model without instruments takes I in either case.
    se : {"sandwich", "efficient", "minimised_weight"}
        The covariance of the estimate, see :func:`.inference.covariance`.
    grad : str or Backend
        Derivative backend, see :mod:`gmmest.derivatives.backends`.
    optimizer : {"lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead"}
    maxiter : int, optional
        Iterations at most, for each step.
    executor : str or Executor
        How blocks are mapped: ``"serial"``, ``"threads"`` (one a core), or an object with ``map``.  The
        bits of the results do not depend on it.

    centred : bool
        Whether S is that of contributions less their mean.
    kernel : {"bartlett", "parzen", "qs"}
    bandwidth : float, "newey-west" or "andrews"
        For ``weighting="kernel"``, see :mod:`.kernels`; observations are in the order of the data.
    cluster : str or sequence of str, optional
        Which of the data's clusters, where they name more than are needed.
    small_sample : bool
        Whether S is multiplied by ``N/(N - P)``, for clusters by ``G/(G - 1) (N - 1)/(N - P)``.

    Notes
    -----
    Minimises ``Q(theta) = g'Wg`` with ``g`` the mean of the contributions.  After the optimiser come
    Gauss-Newton steps, then a certificate that does not rely on the optimiser's flag.

    References
    ----------
    Hansen, L. P. (1982), Econometrica 50, 1029-1054.

    Examples
    --------
    >>> import numpy as np
    >>> from gmmest.models.moment_function import MomentFunction
    >>> from gmmest.data.table import Table
    >>> model = MomentFunction(lambda theta, rows: (rows["y"] - theta[0])[:, None], names=["mu"])
    >>> result = GMMEstimator(model, Table.from_arrays({"y": np.array([1.0, 2.0, 6.0])})).fit()
    >>> result.theta.round(12), result.verified
    (array([3.]), True)
    """

    model: MomentModel
    data: Any
    steps: Literal["twostep", "onestep"] = "twostep"
    weighting: Estimator = "robust"
    initial: Literal["instruments", "identity"] = "instruments"
    se: SeName = "sandwich"
    grad: str | Backend = "auto"
    optimizer: str = "lsq"
    maxiter: int | None = None
    executor: str | Executor = "serial"
    centred: bool = False
    kernel: Kernel = "bartlett"
    bandwidth: Bandwidth = "newey-west"
    cluster: Names = None
    small_sample: bool = False

    def __post_init__(self) -> None:
        complaints = [
            complaint
            for option, value, choices in (
                ("steps", self.steps, ("twostep", "onestep")),
                ("initial", self.initial, ("instruments", "identity")),
                ("se", self.se, SE_NAMES),
                ("optimizer", self.optimizer, OPTIMIZERS),
            )
            for complaint in _not_among(option, value, choices)
        ]
        complaints += self.covariance_options.complaints()
        if self.maxiter is not None and (
            isinstance(self.maxiter, bool)
            or not isinstance(self.maxiter, (int, np.integer))
            or self.maxiter < 1
        ):
            complaints.append(
                Complaint("E102", f"maxiter is {self.maxiter!r}; a whole number from 1 was expected")
            )
        for check in (lambda: as_backend(self.grad), lambda: as_executor(self.executor)):
            try:
                check()
            except ConfigError as error:
                complaints.extend(error.complaints)
        if complaints:
            raise ConfigError(complaints)

    def fit(self, start: Start = None, watch: Callable[[int], None] | None = None) -> GMMResults:
        """Estimate.

        Parameters
        ----------
        start : mapping or sequence of float, optional
            Where to start, by name (the rest from the model's own start) or all in order.
        watch : callable, optional
            Called with the number of passes over the data after each one; for progress lines.

        Returns
        -------
        GMMResults

        Raises
        ------
        DataError, IdentificationError
            The data cannot be used, or cannot identify the parameters.
        EstimationError
            The moments are not finite at the start.
        """
        begin = time.perf_counter()
        with single_blas_thread():
            sample = self.model.sample(self.data)
            moments = Moments(self.model, sample, self.grad, as_executor(self.executor), watch)
            fitted = _fit_steps(self, moments, starting_point(start, moments.sample))
            loglike = _loglike(moments, fitted.estimate.theta)
        return GMMResults(
            names=sample.names,
            moment_names=sample.moment_names,
            estimate=fitted.estimate,
            certificate=fitted.certificate,
            settings=self._settings(moments.grad),
            work=Work(
                moments.evaluations,
                fitted.outcome.iterations,
                time.perf_counter() - begin,
                fitted.outcome.message,
            ),
            n_obs=sample.n_obs,
            n_rows=sample.n_rows,
            loglike=loglike,
            notes=(*sample.notes, *fitted.estimate.s.notes),
            manifest=_manifest(sample, _named(self.executor)),
            context=self._context(sample),
        )

    @property
    def covariance_options(self) -> CovarianceOptions:
        """The estimator of S with its options, as one record."""
        return CovarianceOptions(
            self.weighting,
            self.centred,
            self.kernel,
            self.bandwidth,
            as_names(self.cluster),
            self.small_sample,
        )

    def _context(self, sample: Sample) -> Context:
        return Context(
            self.model,
            sample,
            self.covariance_options,
            self.grad,
            self.executor,
            self.optimizer,
            self.maxiter,
        )

    def _settings(self, grad: str) -> Settings:
        return Settings(
            type(self.model).__name__, self.steps, self.weighting, self.initial, self.se, grad, self.optimizer
        )


@dataclass(frozen=True, slots=True)
class _Fitted:
    estimate: Estimate
    certificate: Certificate
    outcome: Outcome


def _fit_steps(options: GMMEstimator, moments: Moments, theta: Array) -> _Fitted:
    weight = (
        first_weight(moments)
        if options.initial == "instruments"
        else identity_weight(len(moments.sample.moment_names))
    )
    fitted = _fit_once(options, moments, weight, theta)
    if options.steps == "onestep":
        return fitted
    first = fitted.certificate
    weight = _next_weight(fitted, moments.sample.moment_names)
    fitted = _fit_once(options, moments, weight, fitted.estimate.theta)
    just_identified = len(moments.sample.names) == len(moments.sample.moment_names)
    if first.verified or just_identified:  # a root is a root, whatever weight led there
        return fitted
    reasons = tuple(f"first step: {reason}" for reason in first.reasons)
    return replace(
        fitted, certificate=replace(fitted.certificate, reasons=(*fitted.certificate.reasons, *reasons))
    )


def _next_weight(first: _Fitted, names: tuple[str, ...]) -> Weight:
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


def _fit_once(options: GMMEstimator, moments: Moments, weight: Weight, start: Array) -> _Fitted:
    """Optimise with one weight, polish, and judge."""
    _, jacobian = moments.value_and_jacobian(start)
    scale = power_of_two_scale(np.sqrt(moments.sample.n_obs) * weight.whiten(jacobian))
    criterion = Criterion(moments, weight, scale)
    problem = Problem(
        criterion.residuals, criterion.residuals_and_jacobian, criterion.value, criterion.value_and_gradient
    )
    outcome = minimise(problem, start / scale, options.optimizer, options.maxiter)
    z, _ = polish(problem, outcome.point)
    theta = scale * z
    check = getattr(moments.model, "check_existence", None)
    if check is not None:
        check(theta, moments.sample)
    value, jacobian = moments.value_and_jacobian(theta)
    s = moment_covariance(moments, theta, options.covariance_options)
    names = moments.sample.moment_names
    v = covariance(jacobian, weight, s, options.se, names)
    estimate = Estimate(theta, value, jacobian, weight, s, v)
    return _Fitted(estimate, _judge(criterion, z, estimate, moments), outcome)


def _judge(criterion: Criterion, z: Array, estimate: Estimate, moments: Moments) -> Certificate:
    residuals, jacobian = criterion.residuals_and_jacobian(z)
    errors = np.sqrt(np.diag(estimate.v)) / criterion.scale
    just_identified = residuals.size == z.size
    hessian = root = None
    if just_identified:
        at_root = _standardised_moments(estimate, moments.sample.moment_names)
        root = float(estimate.s.n_obs * (at_root @ at_root))
    elif np.all(np.isfinite(errors)) and np.all(errors > 0):
        steps = CURVATURE_STEP * _standard_directions(jacobian, errors)
        hessian = curvature(lambda x: 0.5 * criterion.value_and_gradient(x)[1], z, steps)
    certificate = certify(z, residuals, jacobian, errors, moments.sample.names, hessian, root)
    doubts = () if moments.exact else _doubtful_differences(moments, estimate)
    return replace(certificate, reasons=(*certificate.reasons, *doubts))


def _standardised_moments(estimate: Estimate, names: tuple[str, ...]) -> Array:
    """``L'g`` with LL' the inverse of S; where clusters are too few for one, g in its own standard errors."""
    try:
        return inverse_weight(estimate.s, names).whiten(estimate.moments)
    except IdentificationError as error:
        diagonal = np.diag(estimate.s.matrix)
        if error.complaints[0].code != "E214" or not np.all(diagonal > 0):
            raise
        scaled: Array = estimate.moments / np.sqrt(diagonal)
        return scaled


def _standard_directions(jacobian: Array, errors: Array) -> Array:
    """Directions as columns that move all parameters together, none by more than its standard error.

    With W = S^-1 each of :func:`.whitened_directions` is one standard error long; other weights have
    residuals in other units, which the smallest ratio of the two makes good.
    """
    directions = whitened_directions(jacobian)
    lengths = np.sqrt(np.sum(np.square(directions), axis=1))
    scaled: Array = directions * np.min(errors / lengths)
    return scaled


def _doubtful_differences(moments: Moments, estimate: Estimate) -> tuple[str, ...]:
    """Columns of a Jacobian by differences that change with the steps: standard errors would be wrong."""
    other = moments.jacobian_with_steps(estimate.theta, 1.0 / STEP_RATIO)
    size = np.max(np.abs(estimate.jacobian), axis=0)
    gap = np.max(np.abs(other - estimate.jacobian), axis=0)
    doubtful = [
        f"differences with shorter steps give other derivatives in {printable(name)}: rescale, or use exact ones"
        for name, g, s in zip(moments.sample.names, gap, size, strict=True)
        if not g <= DIFFERENCE_LIMIT * s
    ]
    return tuple(doubtful[:1])


def starting_point(start: Start, sample: Sample) -> Array:
    """The sample's own start, with the values given put in."""
    theta = np.array(sample.start, dtype=np.float64)
    if start is None:
        return theta
    if hasattr(start, "keys"):  # a mapping, or a pandas Series such as the params of another fit
        named = dict(cast(Mapping[str, float], start).items())
        unknown = [name for name in named if name not in sample.names]
        if unknown:
            near = get_close_matches(str(unknown[0]), sample.names, 1)
            raise ConfigError(
                Complaint(
                    "E102",
                    f"start names {unknown[0]!r}; expected parameters are {some(sample.names, 20)}",
                    next=f"did you mean {near[0]!r}?" if near else "",
                )
            )
        for name, value in named.items():
            theta[sample.names.index(name)] = _real(value, ())
    else:
        theta = _real(start, theta.shape)
    if not np.all(np.isfinite(theta)):
        raise ConfigError(Complaint("E102", "start has values that are not finite"))
    return theta


def _real(value: object, shape: tuple[int, ...]) -> Array:
    try:
        given = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(Complaint("E102", f"start has {value!r}; numbers were expected")) from None
    if given.shape != shape:
        expected = f"{shape[0]} values were expected, one a parameter" if shape else "one number was expected"
        raise ConfigError(Complaint("E102", f"start has shape {given.shape}; {expected}"))
    return given


def _not_among(option: str, value: object, choices: Sequence[str]) -> list[Complaint]:
    if value in choices:
        return []
    near = get_close_matches(str(value), choices, 1)
    hint = f"did you mean {near[0]!r}?" if near else ""
    return [Complaint("E102", f"{option} is {value!r}; expected one of {', '.join(choices)}", next=hint)]


def _loglike(moments: Moments, theta: Array) -> float | None:
    loglike = getattr(moments.model, "loglike", None)
    if loglike is None:
        return None
    parts = [loglike(theta, block) for block in moments.sample.blocks]
    return None if any(part is None for part in parts) else float(np.sum(parts))


def _named(executor: str | Executor) -> str:
    return executor if isinstance(executor, str) else type(executor).__name__


def _manifest(sample: Sample, executor: str) -> dict[str, Any]:
    packages = ("gmmest", "numpy", "scipy", "jax")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "data_sha256": sample.fingerprint,
        "config_sha256": None,
        "threads": {"executor": executor, "blas": 1, "cores": os.cpu_count()},
    }
