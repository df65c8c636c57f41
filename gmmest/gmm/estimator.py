"""The estimator: steps, weights and verdict in order; everything numerical lies in the modules below."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gmmest.data.choice_files import ChoiceFiles
from gmmest.data.observations import Names, as_names
from gmmest.derivatives.backends import Backend, as_backend
from gmmest.errors import Complaint, ConfigError, not_among, not_whole, printable, some
from gmmest.execution.journal import Journal, surroundings, versions
from gmmest.execution.passes import Passes
from gmmest.execution.serial import Executor, cores, single_blas_thread
from gmmest.execution.threads import as_executor, at_once, opened
from gmmest.gmm.corrected import COVARIANCES, CovarianceName
from gmmest.gmm.covariance_options import CovarianceOptions, Estimator
from gmmest.gmm.cue import second_moments
from gmmest.gmm.fitted import MAX_STEPS, STEPS, Context, Estimate, Settings, StepsName, Work
from gmmest.gmm.kernels import Bandwidth, Kernel
from gmmest.gmm.moments import Moments
from gmmest.gmm.optimize import OPTIMIZERS
from gmmest.gmm.parameters import Bounds, Parameters, Sampled, sampled
from gmmest.gmm.results import GMMResults
from gmmest.gmm.room import require_fit_room
from gmmest.gmm.steps import CURVATURE_STEP, Fitted, Plan, fit_steps
from gmmest.models.sample import MomentModel, Sample, Start

__all__ = ["CURVATURE_STEP", "GMMEstimator"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GMMEstimator:
    """Generalized method of moments for one model on one data set.

    Parameters
    ----------
    model : MomentModel
        ``Logit``, ``MomentFunction``, or any object with ``sample`` and ``contributions``.
    data
        What the model takes: ``ChoiceData``, ``Table``, a data frame.
    steps : {"twostep", "onestep", "iterated", "cue"}
        ``onestep`` minimises with the first weight; ``twostep`` goes on with ``W = S^-1`` there;
        ``iterated`` goes on until theta stays where it is; ``cue`` minimises ``g'S(theta)^-1 g`` from the
        two-step estimate and other starts, see :class:`.cue.ContinuousCriterion`.
    weighting : {"robust", "unadjusted", "cluster", "twoway", "kernel"}
        The estimator of S, for the weight of the second step and for standard errors; its formulas stand
        in :class:`.weighting.MomentCovariance`.
    initial : {"instruments", "identity"}
        The first weight: ``(Zd'Zd/N)^-1`` with the instruments demeaned within choice sets, or I.  A
        model without instruments takes I in either case.
    se : {"sandwich", "efficient", "minimised_weight", "classical", "windmeijer", "misspecification"}
        The covariance of the estimate, see :func:`.corrected.named_covariance`; the search and its verdict use
        the first one always.
    grad : str or Backend
        Derivative backend, see :mod:`gmmest.derivatives.backends`.
    optimizer : {"lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead"}
    maxiter : int, optional
        Iterations at most, for each step and start.
    executor : str or Executor
        How blocks are mapped: ``"threads"`` (one a core), ``"serial"``, ``"dask"`` (processes, see
        :class:`.Dask`), a ``distributed.Client``, or an object with ``map``.  The bits of the results do not
        depend on it.

    centred : bool
        Whether S is that of contributions less their mean.
    kernel : {"bartlett", "parzen", "qs"}
    bandwidth : float, "newey-west" or "andrews"
        For ``weighting="kernel"``, see :mod:`.kernels`; observations are in the order of the data.
    cluster : str or sequence of str, optional
        Which of the data's clusters, where they name more than are needed.
    starts : int or sequence of starts, optional
        So many starts of every step, the given one (later the estimate before) and others scattered around
        it with a fixed seed (see :func:`.optimize.scattered`); or the others themselves, to which later steps
        add the given one.  The lowest minimum found is returned, and
        its verdict says where the other starts ended, with W403 if that was elsewhere.  By default one,
        and for ``cue`` five around the two-step estimate.
    max_steps : int
        Steps at most of ``iterated``; with others nothing but the default is taken.
    fixed : mapping of str to float, optional
        Parameters that keep a value.
    tied : mapping of str to str, optional
        Parameters that are linear in others, ``{"b": "3*a"}``; see :func:`.parameters.parameters_of`.
    bounds : mapping of str to (lower, upper), optional
        Bounds of free parameters, None or an infinity for none.  A parameter that ends at a bound counts as
        fixed there, and the verdict names it (W402).
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
    steps: StepsName = "twostep"
    weighting: Estimator = "robust"
    initial: Literal["instruments", "identity"] = "instruments"
    se: CovarianceName = "sandwich"
    grad: str | Backend = "auto"
    optimizer: str = "lsq"
    maxiter: int | None = None
    executor: str | Executor = "threads"
    centred: bool = False
    kernel: Kernel = "bartlett"
    bandwidth: Bandwidth = "newey-west"
    cluster: Names = None
    small_sample: bool = False
    starts: int | Sequence[Start] | None = None
    max_steps: int = MAX_STEPS
    fixed: Mapping[str, float] | None = None
    tied: Mapping[str, str] | None = None
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        complaints = [
            complaint
            for option, value, choices in (
                ("steps", self.steps, STEPS),
                ("initial", self.initial, ("instruments", "identity")),
                ("se", self.se, COVARIANCES),
                ("optimizer", self.optimizer, OPTIMIZERS),
            )
            for complaint in not_among(option, value, choices)
        ]
        complaints += _no_model(self.model, self.data)
        complaints += self.covariance_options.complaints()
        listed = isinstance(self.starts, (Sequence, np.ndarray)) and not isinstance(self.starts, str)
        whole: tuple[tuple[str, Any, int], ...] = (
            ("maxiter", 1 if self.maxiter is None else self.maxiter, 1),
            ("max_steps", self.max_steps, 2),
            ("starts", 1 if self.starts is None or listed else self.starts, 1),
        )
        for option, number, least in whole:
            complaints += not_whole(option, number, least)
        if self.max_steps != MAX_STEPS and self.steps != "iterated":
            what = f"max_steps has no use with steps {self.steps!r}"
            complaints.append(Complaint("E102", what, next="steps: iterated"))
        if self.bounds and self.optimizer == "bfgs":
            complaints.append(
                Complaint("E102", "optimizer 'bfgs' knows no bounds", next="optimizer: lsq or lbfgsb")
            )
        held: tuple[tuple[str, Any], ...] = (
            ("fixed", self.fixed),
            ("tied", self.tied),
            ("bounds", self.bounds),
        )
        for option, given in held:
            if given is not None and not isinstance(given, Mapping):
                complaints.append(Complaint("E102", f"{option} is {given!r}; a mapping by name was expected"))
        for check in (lambda: as_backend(self.grad), lambda: as_executor(self.executor)):
            try:
                check()
            except ConfigError as error:
                complaints.extend(error.complaints)
        if complaints:
            raise ConfigError(complaints)

    def fit(
        self,
        start: Start = None,
        watch: Callable[[int], None] | None = None,
        journal: str | Path | None = None,
    ) -> GMMResults:
        """Estimate.

        Parameters
        ----------
        start : mapping or sequence of float, optional
            Where to start, by name (the rest from the model's own start) or all in order.
        watch : callable, optional
            Called with the number of passes over the data at each one; for progress lines.
        journal : str or Path, optional
            A file that keeps the answer of every pass.  Where it exists, the fit goes on from it and ends with
            the bits that it would have had; it must be of the same model, data, options and versions.

        Returns
        -------
        GMMResults

        Raises
        ------
        DataError, IdentificationError
            The data cannot be used, or cannot identify the parameters.
        EstimationError
            The moments are not finite at the start.  E434: the fit would hold more than the limit on memory that
            came with data in files.
        FileError
            E501, E505, E506, E507, E509: the journal, see :class:`.journal.Journal`.
        """
        begin = time.perf_counter()
        with single_blas_thread(), opened(self.executor) as executor:
            problem = self.sampled()
            whole, parameters, limits = problem.whole, problem.parameters, problem.limits
            context, threads = self._context(whole), at_once(self.executor)
            require_fit_room(context, self.covariance_options, self.steps, self.se, threads)
            first = problem.start(start)
            moving: list[Moments] = []
            with _kept(journal, lambda: self._must_agree(whole, first)) as passes:
                moments = Moments(
                    problem.model, problem.sample, self.grad, executor, watch, limits, passes=passes
                )

                def with_s() -> Moments:
                    passed = None if watch is None else lambda n: watch(n + moments.evaluations)
                    moving.append(
                        second_moments(
                            moments,
                            self.covariance_options,
                            self.grad,
                            executor,
                            passed,
                            limits,
                            passes=passes,
                        )
                    )
                    return moving[0]

                fitted = fit_steps(self._plan(problem), moments, first, with_s)
            loglike = _loglike(moments, fitted.estimate.theta)
        parameters = parameters.held(fitted.at_bound, fitted.estimate.theta)
        results = GMMResults(
            names=whole.names,
            moment_names=whole.moment_names,
            estimate=_expanded(fitted, parameters),
            certificate=fitted.certificate,
            settings=self._settings(moments.grad),
            work=Work(
                sum(each.evaluations for each in (moments, *moving)),
                time.perf_counter() - begin,
                fitted.taken,
                fitted.starts,
                0 if passes is None else passes.resumed,
            ),
            n_obs=whole.n_obs,
            n_rows=whole.n_rows,
            loglike=loglike,
            notes=(
                *whole.notes,
                *fitted.estimate.s.notes,
                *_at_bounds(parameters),
                *fitted.notes,
                *getattr(executor, "notes", ()),
            ),
            manifest=_manifest(whole, _named(self.executor)),
            context=context,
            parameters=parameters,
        )
        return results if self.se == "sandwich" else results.with_cov(self.se)

    def sampled(self) -> Sampled:
        """What is estimated: the model's sample of the data, and both for the free parameters."""
        return sampled(self.model, self.data, self.fixed, self.tied, self.bounds)

    def _plan(self, problem: Sampled) -> Plan:
        starts: int | tuple[Array, ...] | None
        if self.starts is None or isinstance(self.starts, (int, np.integer)):
            starts = None if self.starts is None else int(self.starts)
        else:
            starts = tuple(problem.start(start) for start in self.starts)
        return Plan(
            self.steps,
            self.covariance_options,
            self.initial,
            self.optimizer,
            self.maxiter,
            self.max_steps,
            starts,
            problem.parameters.lower,
            problem.parameters.upper,
        )

    def _must_agree(self, sample: Sample, start: Array) -> dict[str, str]:
        """What the bits of a fit depend on; the executor is not among them."""
        left_out = ("model", "data", "executor")
        options = {f.name: _text(getattr(self, f.name)) for f in fields(self) if f.name not in left_out}
        model: Any = self.model
        terms = fields(model) if is_dataclass(model) else ()
        return {
            "kind": "fit",
            **options,
            "model": type(model).__name__,
            **{f"model.{f.name}": _text(getattr(model, f.name)) for f in terms},
            "parameters": some(sample.names, len(sample.names)),
            "moments": some(sample.moment_names, len(sample.moment_names)),
            "observations": f"{sample.n_obs} in {sample.n_rows} rows and {len(sample.blocks)} blocks",
            "data": sample.fingerprint,
            "start": _text(start),
            **surroundings(),
        }

    def __repr__(self) -> str:
        given = ((f.name, getattr(self, f.name), f.default) for f in fields(self)[2:])
        options = "".join(f", {name}={value!r}" for name, value, usual in given if not _same(value, usual))
        return f"<GMMEstimator: {type(self.model).__name__} of {type(self.data).__name__}{options}>"

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
            self.data.memory if isinstance(self.data, ChoiceFiles) else None,
        )

    def _settings(self, grad: str) -> Settings:
        return Settings(
            type(self.model).__name__,
            self.steps,
            self.initial,
            "sandwich",
            grad,
            self.optimizer,
            self.max_steps,
        )


def _same(value: object, usual: object) -> bool:
    if usual is None and isinstance(value, Mapping):
        return not value
    return value is usual or (
        type(value) is type(usual) and not isinstance(value, np.ndarray) and value == usual
    )


def _no_model(model: object, data: object) -> list[Complaint]:
    """E102 if the first argument is no model; advice if the second one is."""

    def is_model(given: object) -> bool:
        methods = (getattr(given, name, None) for name in ("sample", "contributions"))
        return not isinstance(given, type) and all(map(callable, methods))

    if is_model(model):
        return []
    given = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
    what = f"model is {given}; a model such as Logit(...) or LinearIV(...) was expected"
    order = "GMMEstimator(model, data): the model comes first"
    return [Complaint("E102", what, next=order if is_model(data) else "")]


@contextmanager
def _kept(journal: str | Path | None, must_agree: Callable[[], dict[str, str]]) -> Iterator[Passes | None]:
    if journal is None:
        yield None
        return
    with Journal(journal, must_agree()) as opened:
        yield Passes(opened)


def _text(value: object) -> str:
    """An option as text, the same in another process."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, FunctionType):
        return f"{value.__qualname__} {_digest(value.__code__)}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value.tolist() if isinstance(value, np.ndarray) else value))


def _digest(code: CodeType) -> str:
    """Hash of what a function does, not of what those that it calls do."""
    parts = [_digest(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
    text = repr((code.co_code.hex(), code.co_names, code.co_varnames, parts))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _expanded(fitted: Fitted, parameters: Parameters) -> Estimate:
    """The estimate for all parameters; G keeps a column for each free one that is not at a bound."""
    found = fitted.estimate
    if parameters.all_free:
        return found
    inside = ~fitted.at_bound
    theta = parameters.theta(found.theta[inside])
    v = parameters.covariance(found.v[np.ix_(inside, inside)])
    return Estimate(theta, found.moments, found.jacobian[:, inside], found.weight, found.s, v)


def _at_bounds(parameters: Parameters) -> tuple[str, ...]:
    """A note of the parameters that ended at a bound."""
    held = [
        f"{printable(name)} at its {mark} {value:g}"
        for name, mark, value in zip(parameters.names, parameters.marks, parameters.constant, strict=True)
        if mark in ("lower bound", "upper bound")
    ]
    if not held:
        return ()
    return (f"W402 {', '.join(held)}: counted as fixed there, without a standard error",)


def _loglike(moments: Moments, theta: Array) -> float | None:
    loglike = getattr(moments.model, "loglike", None)
    if loglike is None:
        return None
    parts = moments.executor.map(lambda block: loglike(theta, block), moments.sample.blocks)
    return None if any(part is None for part in parts) else float(np.sum(parts))


def _named(executor: str | Executor) -> str:
    return executor if isinstance(executor, str) else type(executor).__name__


def _manifest(sample: Sample, executor: str) -> dict[str, Any]:
    return {
        "versions": versions(),
        "data_sha256": sample.fingerprint,
        "config_sha256": None,
        "threads": {"executor": executor, "blas": 1, "cores": cores()},
    }
