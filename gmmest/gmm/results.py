"""Results of a fit: immutable, with the names that an econometrician's hands know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmmest.data.observations import Names, as_names
from gmmest.derivatives.backends import Backend
from gmmest.errors import Complaint, ConfigError, EstimationError, not_among, plural, printable
from gmmest.execution.serial import Executor, single_blas_thread
from gmmest.execution.threads import afterwards, at_once
from gmmest.gmm.audit import Audit, audit
from gmmest.gmm.bootstrap import bootstrap
from gmmest.gmm.certificate import Certificate
from gmmest.gmm.coefficients import Coefficients
from gmmest.gmm.corrected import COVARIANCE_TEXT, COVARIANCES, CovarianceName, with_covariance
from gmmest.gmm.covariance_options import Estimator
from gmmest.gmm.diagnostics import Diagnostics, Profile, diagnose, first_stage, profile, weakness
from gmmest.gmm.draws import Bootstrap, BootstrapOptions, Kind
from gmmest.gmm.explain import Choices, Explanation, explain_difference
from gmmest.gmm.fitted import Context, Estimate, Settings, Work, present
from gmmest.gmm.free import FreeFit, free_fit
from gmmest.gmm.functions import DeltaMethod, Ellipse, delta_method, ellipse, sensitivity
from gmmest.gmm.hypotheses import require_independent, restrictions
from gmmest.gmm.inference import JTest, WaldTest, j_test, wald
from gmmest.gmm.json_text import finite, finite_by_name, json_text
from gmmest.gmm.kernels import Bandwidth, Kernel
from gmmest.gmm.parameters import Parameters
from gmmest.gmm.resampling import Multipliers
from gmmest.gmm.room import require_draws_room, require_fit_room
from gmmest.gmm.specification import SpecificationTest, c_test, distance_test, lm_test
from gmmest.gmm.weak import ConfidenceSet, KTest, Nuisance, Statistic, STest, confidence_set, k_test, s_test
from gmmest.gmm.weighting import require_efficient
from gmmest.models.sample import Start, starting_point

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GMMResults"]

Array = NDArray[np.float64]

PROFILE_STEPS = (-3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class GMMResults:
    """What ``GMMEstimator.fit`` returns.

    Attributes
    ----------
    params, bse, tvalues, pvalues : pandas.Series
        Estimates, standard errors, their ratios and two-sided normal p-values, by name.
    theta : array (P,)
        The estimates as an array.
    certificate : Certificate
    verified : bool
    criterion : float
        ``g'Wg`` with the W that was minimised, no N in it.
    loglike : float or None
        Log-likelihood where the model has one.
    context : Context or None
        Model, sample and options, for tests that need the moments elsewhere.
    parameters : Parameters or None
        Which parameters were free; V of the others is zero, or follows from their ties.
    n_params : int
        Number of free parameters that are not at a bound.
    """

    names: tuple[str, ...]
    moment_names: tuple[str, ...]
    estimate: Estimate
    certificate: Certificate
    settings: Settings
    work: Work
    n_obs: int
    n_rows: int
    loglike: float | None
    notes: tuple[str, ...]
    manifest: Mapping[str, Any]
    context: Context | None = field(default=None, repr=False, compare=False)
    parameters: Parameters | None = None

    # --- arrays -----------------------------------------------------------------------------------

    @property
    def theta(self) -> Array:
        """The estimates, (P,)."""
        return self.estimate.theta

    @property
    def standard_errors(self) -> Array:
        """Square roots of the diagonal of V, (P,); nan for parameters that are fixed or at a bound."""
        return self._coefficients.standard_errors

    @property
    def n_params(self) -> int:
        """Number of free parameters, those that ended at a bound not counted."""
        return len(self.names) if self.parameters is None else len(self.parameters.free)

    @property
    def criterion(self) -> float:
        """``Q = g'Wg`` at the estimate."""
        white = self.estimate.weight.whiten(self.estimate.moments)
        return float(white @ white)

    @property
    def degrees(self) -> int | None:
        """Degrees of freedom of t statistics: clusters less one where V rests on clusters, None for the normal."""
        return None if self.settings.se == "classical" else self.estimate.s.degrees

    @property
    def verified(self) -> bool:
        """Whether the certificate found nothing against the estimate."""
        return self.certificate.verified

    @property
    def nobs(self) -> int:
        """Number of observations: choice sets, or rows of a table."""
        return self.n_obs

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
        """Two-sided p-values from the standard normal; with G clusters, from t(G - 1)."""
        return self._coefficients.series(self._coefficients.p_values, "pvalues")

    def cov_params(self) -> pd.DataFrame:
        """Covariance matrix of the estimates."""
        return self._coefficients.covariance()

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Confidence intervals with coverage ``1 - alpha``: estimate and quantile times standard error.

        The quantile is that of ``pvalues``.
        """
        return self._coefficients.intervals(alpha)

    @property
    def _coefficients(self) -> Coefficients:
        blank = None if self.parameters is None else self.parameters.blank
        return Coefficients(self.names, self.theta, self.estimate.v, self.degrees, blank)

    # --- other standard errors ----------------------------------------------------------------------

    def with_cov(
        self,
        se: CovarianceName | None = None,
        *,
        weighting: Estimator | None = None,
        centred: bool | None = None,
        kernel: Kernel | None = None,
        bandwidth: Bandwidth | None = None,
        cluster: Names = None,
        small_sample: bool | None = None,
    ) -> GMMResults:
        """The same estimate with other standard errors; nothing is fitted again.

        Parameters
        ----------
        se : str, optional
            One of those of ``GMMEstimator``, see :func:`.corrected.named_covariance`.  What is not given stays
            as it was.
        weighting, centred, kernel, bandwidth, cluster, small_sample
            The estimator of S in V, as in ``GMMEstimator``; weight and J stay those that were minimised.

        Returns
        -------
        GMMResults

        Raises
        ------
        ConfigError
            E102: an option that is not known, or has no meaning for the fit, with the reason.
        EstimationError
            E430: results that have lost their model and data.

        Notes
        -----
        Laws: ``fit(se=a).with_cov(b)`` is ``fit(se=b)``, to the last bit; so is ``with_cov(weighting=b)`` after
        one step, where S is no part of the weight.

        Examples
        --------
        >>> import gmmest as gm
        >>> rows = gm.Table.from_arrays({"y": [1.0, 2.0, 6.0, 3.0], "x": [1.0, 2.0, 3.0, 5.0]})
        >>> fit = gm.GMMEstimator(gm.LinearIV("y", exogenous=["x"]), rows).fit()
        >>> fit.with_cov(weighting="unadjusted").bse.round(4).to_dict()
        {'x': 0.5642, 'const': 1.7618}
        """
        kind = cast(CovarianceName, self.settings.se if se is None else se)
        if complaints := not_among("se", kind, COVARIANCES):
            raise ConfigError(complaints)
        options = self.estimate.s.options.changed(
            estimator=weighting,
            centred=centred,
            kernel=kernel,
            bandwidth=bandwidth,
            cluster=None if cluster is None else as_names(cluster),
            small_sample=small_sample,
        )
        fit = self._of_free()
        require_fit_room(fit.context, options, self.settings.steps, kind, at_once(fit.context.executor))
        with single_blas_thread():
            steps, initial = self.settings.steps, self.settings.initial
            found = with_covariance(fit.context, fit.estimate, kind, options, steps, initial)
        before = 0 if self.context is None else len(self.context.sample.notes)
        after = before + len(self.estimate.s.notes)
        return replace(
            self,
            estimate=replace(self.estimate, s=found.s, v=fit.covariance(found.v)),
            settings=replace(self.settings, se=kind),
            notes=(*self.notes[:before], *found.s.notes, *self.notes[after:]),
            context=None if self.context is None else replace(self.context, weighting=options),
        )

    # --- tests --------------------------------------------------------------------------------------

    def j_test(self) -> JTest | None:
        """Hansen's J at the W that was minimised; None for a just identified model.

        Raises
        ------
        EstimationError
            The W was not the inverse of a covariance of the moments (a one-step fit), so that N Q
            has no chi-squared distribution.
        """
        if len(self.moment_names) > self.n_params:
            require_efficient(self.estimate.weight, "J", "steps: twostep")
        return j_test(self.n_obs * self.criterion, len(self.moment_names), self.n_params)

    def wald_test(self, hypothesis: str | ArrayLike, value: ArrayLike | None = None) -> WaldTest:
        """Wald test of linear hypotheses.

        Parameters
        ----------
        hypothesis : str or array (q, P)
            ``"gc = ttme"``, ``"asc_air = 0, asc_bus = 2*asc_train"``, or the matrix R.
        value : array (q,), optional
            The right-hand side for a matrix R; zero by default.

        Returns
        -------
        WaldTest
        """
        restriction, right, text = restrictions(hypothesis, value, self.names)
        if self.parameters is not None and self.parameters.marked:
            require_independent(restriction @ self.parameters.transform, "hypothesis on what is held")
        return wald(self.theta, self.estimate.v, restriction, right, text, self.degrees)

    def lm_test(self, hypothesis: str | ArrayLike, value: ArrayLike | None = None) -> SpecificationTest:
        """Score test of linear hypotheses, at the estimate that they restrict; written as for ``wald_test``.

        With the weight of the fit, see :func:`.specification.lm_test`; refused (E420) where that was not the
        inverse of a covariance of the moments.
        """
        fit = self._of_free()
        asked = fit.restriction(*restrictions(hypothesis, value, self.names))
        return fit.whole(lm_test(fit.context, fit.estimate, *asked))

    def distance_test(self, hypothesis: str | ArrayLike, value: ArrayLike | None = None) -> SpecificationTest:
        """Distance test ``N (Q(restricted) - Q)`` of linear hypotheses, written as for ``wald_test``.

        With the weight of the fit, see :func:`.specification.distance_test`; refused (E420) where that was
        not the inverse of a covariance of the moments.
        """
        fit = self._of_free()
        asked = fit.restriction(*restrictions(hypothesis, value, self.names))
        return fit.whole(distance_test(fit.context, fit.estimate, *asked))

    def c_test(self, moments: Sequence[str]) -> SpecificationTest:
        """C (difference-in-Sargan) test of some of the moments, given the others: :func:`.specification.c_test`.

        Parameters
        ----------
        moments : sequence of str
            The moments under test, by name.
        """
        fit = self._of_free()
        return fit.whole(c_test(fit.context, fit.estimate, moments))

    def s_test(self, values: Mapping[str, float], nuisance: Nuisance = "projection") -> STest:
        """Stock and Wright's S test that some or all parameters have given values, by name.

        Holds however weakly parameters are identified; others are set where S is least: :func:`.weak.s_test`.
        """
        fit = self._of_free()
        return s_test(fit.context, fit.estimate, fit.values(values), nuisance)

    def k_test(
        self, values: Mapping[str, float] | Sequence[float], nuisance: Nuisance = "projection"
    ) -> KTest:
        """Kleibergen's K test that all or, with ``nuisance="strong"``, some parameters have given values.

        By name, or all in order: :func:`.weak.k_test`.
        """
        fit = self._of_free()
        given = fit.values(values) if isinstance(values, Mapping) else values
        return k_test(fit.context, fit.estimate, given, nuisance)

    def confidence_set(
        self, name: str, alpha: float = 0.05, statistic: Statistic = "S", nuisance: Nuisance = "projection"
    ) -> ConfidenceSet:
        """Values of a parameter that the S (or K) test does not reject: :func:`.weak.confidence_set`.

        Holds however weakly the parameter is identified, and so may be empty, disjoint or unbounded.
        """
        fit = self._of_free()
        return confidence_set(fit.context, fit.estimate, fit.require_free(name), alpha, statistic, nuisance)

    def bootstrap(
        self,
        replications: int = 999,
        kind: Kind = "pairs",
        *,
        seed: int = 0,
        recentre: bool = True,
        cluster: str | None = None,
        multipliers: Multipliers = "rademacher",
        path: str | Path | None = None,
        resume: bool = False,
        executor: str | Executor | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Bootstrap:
        """Bootstrap distribution of the estimates and of J: :func:`.bootstrap.bootstrap`.

        With ``path`` finished replications are kept in a file, and ``resume`` goes on from it; ``executor`` maps
        replications (by default that of the fit, or threads in place of workers that are gone), and
        ``watch(done, total)`` sees them being done.  Refused (E440) for a fit that is not verified.
        """
        options = BootstrapOptions(replications, kind, seed, recentre, cluster, multipliers, path, resume)
        if not self.verified:
            what = f"a bootstrap would repeat an estimate that is not one: {self.verdict()}"
            raise EstimationError(Complaint("E440", what, next="a fit that is verified"))
        context = present(self.context)
        mapping = afterwards(context.executor) if executor is None else executor
        require_draws_room(context, kind, self.settings.steps, at_once(mapping))
        found = bootstrap(self._of_free(), self.parameters, self.settings, options, executor, watch)
        return replace(found, fit=self.verdict())

    def explain_difference(self, program: str) -> Explanation:
        """What ``"stata"``, ``"r"``, ``"pyblp"``, ``"statsmodels"`` or ``"linearmodels"`` would print, and why.

        Its defaults beside the options of this fit, what makes the numbers agree, and its standard errors
        where our arrays tell; each says on what it rests: :func:`.explain.explain_difference`.
        """
        own = self.settings
        options = (self.estimate.weight.s or self.estimate.s).options  # after one step S is that of V alone
        ours = Choices(own.steps, options.estimator, bool(options.centred), own.initial, own.se)
        free = self.names if self.parameters is None else self.parameters.free
        return explain_difference(program, ours, self.estimate, free, self.moment_names)

    # --- diagnostics --------------------------------------------------------------------------------

    def diagnostics(self) -> Diagnostics:
        """Condition of S, rank and condition of the Jacobian, strength of identification and where it is least.

        One pass for the derivatives of every contribution: :func:`.diagnostics.diagnose`.
        """
        fit = self._of_free()
        return diagnose(fit.context, fit.estimate)

    def first_stage(self) -> pd.DataFrame:
        """First-stage statistics of a ``LinearIV``, by endogenous regressor: :func:`.diagnostics.first_stage`."""
        return first_stage(self._of_free().context)

    def profile(self, name: str, steps: Sequence[float] = PROFILE_STEPS) -> Profile:
        """The criterion, minimised over the other parameters, against its quadratic approximation.

        Parameters
        ----------
        name : str
        steps : sequence of float
            Where, in standard errors from the estimate.
        """
        fit = self._of_free()
        return profile(fit.context, fit.estimate, fit.require_free(name), steps)

    def _of_free(self) -> FreeFit:
        return free_fit(self.context, self.estimate, self.parameters)

    def check_derivatives(self, *grads: str, start: Start = None) -> Audit:
        """Hold derivative engines against each other at the start and at the estimate.

        Parameters
        ----------
        *grads : str
            Engines; by default the one that made the fit, ``forward`` and ``jax``.
        start : mapping or sequence of float, optional
            Another point than the model's own start, as in :meth:`.GMMEstimator.fit`.

        Returns
        -------
        Audit
            One row an engine and point: its largest difference from complex steps (or dual numbers where
            those cannot go), and the moment and parameter where it is.

        Raises
        ------
        DerivativeError
            E617: an exact engine differs by more than 1e-8, or one by differences by more than 1e-5, of
            a column; the message names the moment and the parameter.
        """
        context = present(self.context)
        first = starting_point(start, self.names, context.sample.start)
        points = {"start": first, "estimate": np.asarray(self.theta)}
        engines = grads or tuple(dict.fromkeys((self.settings.grad, "forward", "jax")))
        outcome = audit(context.model, context.sample, engines, points)
        outcome.require_agreement()
        return outcome

    # --- functions of the estimate ------------------------------------------------------------------

    def nlcom(
        self,
        function: Callable[[Any], Any],
        *,
        by_name: bool = False,
        names: Sequence[str] | None = None,
        backend: str | Backend = "auto",
    ) -> DeltaMethod:
        """Function of the parameters with standard errors by the delta method and exact derivatives.

        Parameters
        ----------
        function : callable
            Of theta (P,), one number or a vector, in plain NumPy; with ``by_name=True`` of parameters by
            name: ``res.nlcom(lambda b: b["ttme"] / b["gc"], by_name=True)``.
        by_name : bool
        names : sequence of str, optional
            What its values are called.
        backend : str or Backend
            What differentiates it.

        Returns
        -------
        DeltaMethod
            ``estimate``, ``bse``, ``cov``, ``z``, ``pvalues``, ``conf_int()``.
        """
        return delta_method(
            function,
            self.theta,
            self.estimate.v,
            self.names,
            by_name=by_name,
            names=names,
            backend=backend,
            degrees=self.degrees,
        )

    def confidence_ellipse(self, first: str, second: str, alpha: float = 0.05) -> Ellipse:
        """Pairs of two parameters that a Wald test does not reject; ``points(n)`` is the boundary."""
        return ellipse(self.theta, self.estimate.v, self.names, (first, second), alpha, self.degrees)

    def sensitivity(self, scaled: bool = False) -> pd.DataFrame:
        """How estimates move with the moments, by parameter and moment: :func:`.functions.sensitivity`.

        Parameters
        ----------
        scaled : bool
            In standard errors of the parameter for one standard deviation of the mean moment,
            ``Lambda_pm (S_mm/N)^(1/2) / se_p``.
        """
        import pandas as pd

        moved = sensitivity(self.estimate.jacobian, self.estimate.weight)
        if self.parameters is not None and not self.parameters.all_free:
            moved = self.parameters.transform @ moved
        if scaled:
            s = self.estimate.s
            moved = moved * np.sqrt(np.diag(s.matrix) / s.n_obs) / self.standard_errors[:, None]
        return pd.DataFrame(moved, index=list(self.names), columns=list(self.moment_names))

    # --- words --------------------------------------------------------------------------------------

    def verdict(self) -> str:
        """One line: verified, or not and why."""
        told = (note for note in self.notes if note.startswith(("W402", "W403")))
        return "; ".join([self.certificate.verdict(self.n_params), *told])

    def _estimator_text(self) -> str:
        steps: str = self.settings.steps
        if steps == "iterated":
            steps += f" ({self.work.steps} steps)"
        starts = f", {self.work.starts} starts" if self.work.starts > 1 else ""
        return f"GMM, {steps}{starts}, weighting {self.estimate.weight.text}"

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of what stands above the table of estimates."""
        held = "" if self.n_params == len(self.names) else f" free of {len(self.names)}"
        rows = [
            ("Model", self.settings.model),
            ("Estimator", self._estimator_text()),
            ("Observations", f"{self.n_obs:,}"),
            ("Rows", f"{self.n_rows:,}"),
            *self._mass_facts(),
            ("Moments", f"{len(self.moment_names)} for {self.n_params}{held} parameters"),
            ("Criterion g'Wg", f"{self.criterion:.6g}"),
        ]
        if self.loglike is not None:
            rows.append(("Log-likelihood", f"{self.loglike:.6f}"))
        rows.append(("J test", self._j_text()))
        rows.append(("Standard errors", COVARIANCE_TEXT[self.settings.se]))
        if self.estimate.s.text != self.estimate.weight.text:
            rows.append(("S at the estimate", self.estimate.s.text))
        if self.degrees is not None:
            rows.append(("Quantiles", f"t({self.degrees}), clusters less one (Stata gmm: normal)"))
        rows.append(("Derivatives", self.settings.grad))
        work = f"{self.work.evaluations} passes, {self.work.seconds:.2f} s"
        return [*rows, ("Optimizer", f"{self.settings.optimizer}, {work}")]

    def _mass_facts(self) -> list[tuple[str, str]]:
        seen = None if self.context is None else self.context.sample.observations
        weights = None if seen is None else _weights(seen.weight)
        rows = []
        if weights is not None:
            reach = f"{weights['smallest']:.6g} to {weights['largest']:.6g}"
            rows.append(("Weights", f"sampling weights, sum {weights['sum']:.6g}, {reach}"))
        if seen is not None and seen.frequency is not None:
            what = "row" if seen.frequency.size == self.n_rows else "choice set"
            rows.append(
                ("Frequencies", f"{self.n_obs:,} observations in {plural(seen.frequency.size, what)}")
            )
        return rows

    def _j_text(self) -> str:
        try:
            test = self.j_test()
        except EstimationError:
            return "none: the weight was not efficient"
        if test is None:
            return "none: just identified"
        marks = () if self.parameters is None else self.parameters.marks
        bounds = sum(mark in ("lower bound", "upper bound") for mark in marks)
        told = f", {bounds} bound{'s' if bounds > 1 else ''} taken as true" if bounds else ""
        return f"{str(test).removeprefix('J = ')}{told}"

    def table(self, alpha: float = 0.05) -> tuple[list[str], list[list[str]]]:
        """Heading and rows of the table of estimates, as text."""
        return self._coefficients.table(alpha, None if self.parameters is None else self.parameters.marks)

    def summary(self, alpha: float = 0.05) -> Any:
        """A ``statsmodels`` summary: ``as_text()``, ``as_latex()``, ``as_html()``, ``as_csv()``.

        The first line says whether the fit is verified.
        """
        from gmmest.gmm.summary import FitSummary

        notes = self.notes
        if self.verified and self.context is not None:
            fit = self._of_free()
            notes = (*notes, *weakness(fit.context, fit.estimate))
        return FitSummary(self.verdict(), self.facts(), *self.table(alpha), notes)

    def as_dict(self) -> dict[str, Any]:
        """The result as plain numbers and text, as ``to_json`` writes it."""
        test = self.j_test() if self.estimate.weight.efficient else None
        low, high = self._coefficients.interval(0.05)
        seen = None if self.context is None else self.context.sample.observations
        return {
            "params": finite_by_name(self.names, self.theta),
            "bse": finite_by_name(self.names, self.standard_errors),
            "pvalues": finite_by_name(self.names, self._coefficients.p_values),
            "conf_int_95": {
                "lower": finite_by_name(self.names, low),
                "upper": finite_by_name(self.names, high),
            },
            "degrees": self.degrees,
            "cov_params": [[finite(x) for x in row] for row in self.estimate.v],
            "moments": list(self.moment_names),
            "criterion": self.criterion,
            "j_test": None if test is None else {"stat": test.stat, "df": test.df, "pvalue": test.pvalue},
            "n_obs": self.n_obs,
            "n_moments": len(self.moment_names),
            "n_rows": self.n_rows,
            "clusters": {}
            if seen is None
            else {way.name: len(np.unique(way.codes)) for way in seen.clusters},
            "weights": None if seen is None else _weights(seen.weight),
            "frequencies": None if seen is None else _weights(seen.frequency),
            "verified": self.verified,
            "certificate": {
                "remaining_step_se": finite(self.certificate.remaining_step_se),
                "condition": finite(self.certificate.condition),
                "rank": self.certificate.rank,
                "smallest_curvature": finite(self.certificate.smallest_curvature),
                "reasons": list(self.certificate.reasons),
            },
            "grad": self.settings.grad,
            "optimizer": self.settings.optimizer,
            "steps": self.settings.steps,
            "steps_taken": self.work.steps,
            "starts": self.work.starts,
            "held": {} if self.parameters is None else self.parameters.marked,
            "weighting": self.estimate.weight.source,
            "se": self.settings.se,
            "se_weighting": self.estimate.s.estimator,
            "evaluations": self.work.evaluations,
            "seconds": self.work.seconds,
            "loglike": None if self.loglike is None else finite(self.loglike),
            "notes": list(self.notes),
            "manifest": deepcopy(dict(self.manifest)),
        }

    def to_json(self) -> str:
        """The result as JSON; numbers have all their digits, what is not finite is null."""
        return json_text(self.as_dict(), indent=2)

    def __repr__(self) -> str:
        pairs = zip(self.names, self.theta, self.standard_errors, strict=True)
        estimates = ", ".join(f"{printable(name)} {b:.6g} ({e:.3g})" for name, b, e in pairs)
        return f"<GMMResults: {self.verdict()}; {estimates}>"

    def __str__(self) -> str:
        return str(self.summary())


def _weights(given: Array | None) -> dict[str, float] | None:
    """What is told of weights or frequencies; None where there are none."""
    if given is None:
        return None
    return {"sum": float(given.sum()), "smallest": float(given.min()), "largest": float(given.max())}
