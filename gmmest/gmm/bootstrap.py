"""The bootstrap: the distribution of estimates and J over samples drawn from the data, and what follows from it.

Pairs and cluster bootstraps repeat every step of the estimator on samples drawn with replacement; the wild score
bootstrap moves the estimate along its influence function and repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.backends import as_backend
from gmmest.errors import Complaint, ConfigError, EstimationError, FileError, plural, printable, some
from gmmest.execution.journal import Journal, Record, surroundings
from gmmest.execution.serial import Executor, single_blas_thread
from gmmest.execution.threads import afterwards, opened
from gmmest.gmm.free import FreeFit
from gmmest.gmm.parameters import Parameters
from gmmest.gmm.resampling import MULTIPLIERS, Multipliers, Refit, Replication, WildScore, wild_score
from gmmest.gmm.steps import Plan
from gmmest.gmm.weighting import read_only

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Bootstrap", "BootstrapOptions", "Failure", "Interval", "Kind", "Repeated", "bootstrap"]

Array = NDArray[np.float64]
Kind = Literal["pairs", "cluster", "wild"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Interval = Literal["percentile-t", "percentile", "basic", "normal"]
INTERVALS: tuple[Interval, ...] = get_args(Interval)

MOST_FAILED = 0.05
"""Share of replications that may be left out: the quantiles that intervals are made of lie that far out."""
FEW_GROUPS = 12
"""Up to here 2^G signs are too few different draws for quantiles (Webb 2023)."""
FIRST_BATCH, LARGEST_BATCH, BATCH_SECONDS = 8, 512, 0.5
"""Replications between two records of progress; they change no bit."""
MAX_STEPS = 100
REASONS = 4
"""Reasons of failure that are told."""


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """What is asked of a bootstrap.

    Parameters
    ----------
    replications : int
    kind : {"pairs", "cluster", "wild"}
    seed : int
    recentre : bool
        Whether the moments of a replication are taken less those of the data at the estimate.
    cluster : str, optional
        Which clusters are drawn, or share a multiplier, where the data name more than one.
    multipliers : {"rademacher", "mammen", "webb"}
        Of the wild score bootstrap.
    path : str or Path, optional
        A file that keeps finished replications.
    resume : bool
        Whether such a file may be there already, to go on from.
    """

    replications: int = 999
    kind: Kind = "pairs"
    seed: int = 0
    recentre: bool = True
    cluster: str | None = None
    multipliers: Multipliers = "rademacher"
    path: str | Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        complaints = []
        for option, value, choices in (
            ("kind", self.kind, KINDS),
            ("multipliers", self.multipliers, MULTIPLIERS),
            ("recentre", self.recentre, (True, False)),
            ("resume", self.resume, (True, False)),
        ):
            if value not in choices:
                what = f"{option} is {value!r}; expected one of {some(choices)}"
                complaints.append(Complaint("E102", what))
        for option, number, least in (("replications", self.replications, 2), ("seed", self.seed, 0)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                what = f"{option} is {number!r}; a whole number from {least} was expected"
                complaints.append(Complaint("E102", what))
        if self.resume is True and self.path is None:
            complaints.append(Complaint("E102", "resume without a file of replications", next="path="))
        if complaints:
            raise ConfigError(complaints)


@dataclass(frozen=True, slots=True)
class Repeated:
    """What of the estimator a replication repeats, by the names of ``GMMEstimator``."""

    steps: Any
    initial: str
    se: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """A replication that was left out, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """A bootstrap distribution.

    Parameters
    ----------
    names : tuple of str
        Parameters, P of them.
    options : BootstrapOptions
    theta, errors : array (P,)
        The estimate and the standard errors that go with those of the replications.
    draws : array (B, P)
        Estimates of the replications that were not left out, by their number.
    draw_errors : array (B, P)
        Their standard errors.
    j, df : float or None, int
        J of the fit.
    j_draws : array (B,) or None
        J of the replications; None where the fit has none, and for ``wild``.
    recentred : bool
        Whether replications have recentred moments; False where the model is just identified.
    failures : tuple of Failure
    notes : tuple of str
    seconds : float
        Of this run; replications that were found in a file took none.

    Notes
    -----
    With ``t* = (theta* - theta)/se*`` and q(a) the (B + 1)a-th smallest of B numbers, intervals are

    * ``percentile-t``: ``[theta - q_t*(1 - alpha/2) se, theta - q_t*(alpha/2) se]``, which is second-order
      correct where the others are first-order;
    * ``percentile``: ``[q_theta*(alpha/2), q_theta*(1 - alpha/2)]``;
    * ``basic``: ``[2 theta - q_theta*(1 - alpha/2), 2 theta - q_theta*(alpha/2)]``;
    * ``normal``: theta and the normal quantile times the bootstrap's standard error.

    References
    ----------
    Davison, A. C. and D. V. Hinkley (1997), *Bootstrap Methods and their Application*, chapters 4 and 5.
    """

    names: tuple[str, ...]
    options: BootstrapOptions
    theta: Array
    errors: Array
    draws: Array
    draw_errors: Array
    j: float | None
    df: int
    j_draws: Array | None
    recentred: bool
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    seconds: float

    def __post_init__(self) -> None:
        for name in ("theta", "errors", "draws", "draw_errors"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    # --- numbers ------------------------------------------------------------------------------------

    @property
    def covariance(self) -> Array:
        """Covariance of the draws, (P, P); zero for parameters that are held."""
        apart = self.draws - self.draws.mean(axis=0)
        product: Array = apart.T @ apart / (len(apart) - 1)
        return product

    @property
    def standard_errors(self) -> Array:
        """Standard deviations of the draws, (P,); nan for parameters that are held."""
        errors: Array = np.std(self.draws, axis=0, ddof=1)
        return np.where(self._held, np.nan, errors)

    @property
    def t_draws(self) -> Array:
        """``(theta* - theta)/se*``, (B, P); nan where a replication ended at a bound."""
        t: Array = (self.draws - self.theta) / self.draw_errors
        return t

    @property
    def _held(self) -> NDArray[np.bool_]:
        return np.isnan(self.errors)

    def interval(self, alpha: float = 0.05, method: Interval = "percentile-t") -> Array:
        """Ends of the intervals, (2, P); nan for parameters that are held.

        Raises
        ------
        ConfigError
            E102: an unknown method; an alpha with no quantile among so few replications.
        """
        from scipy.special import ndtri

        if method not in INTERVALS:
            raise ConfigError(
                Complaint("E102", f"method is {method!r}; expected one of {', '.join(INTERVALS)}")
            )
        if not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
            raise ConfigError(Complaint("E102", f"alpha is {alpha!r}; a number between 0 and 1 was expected"))
        if method == "normal":
            ends = self.theta + np.outer([-1.0, 1.0], ndtri(1 - alpha / 2) * self.standard_errors)
        elif method == "percentile-t":
            ends = self.theta - self._quantiles(self.t_draws, alpha)[::-1] * self.errors
        elif method == "basic":
            ends = 2.0 * self.theta - self._quantiles(self.draws, alpha)[::-1]
        else:
            ends = self._quantiles(self.draws, alpha)
        return np.where(self._held, np.nan, ends)

    def _quantiles(self, values: Array, alpha: float) -> Array:
        """Lower and upper quantile of each column, (2, P)."""
        if self._too_few(alpha):
            what = f"{plural(len(values), 'replication')} have no quantile {alpha / 2:g}"
            least = int(np.ceil(2 / alpha)) - 1
            raise ConfigError(
                Complaint("E102", what, next=f"at least {least} replications, or a larger alpha")
            )
        quantiles: Array = np.quantile(values, [alpha / 2, 1 - alpha / 2], axis=0, method="weibull")
        return quantiles

    def _too_few(self, alpha: float) -> bool:
        return (len(self.draws) + 1) * alpha / 2 < 1

    @property
    def p_values(self) -> Array:
        """Two-sided p-values of ``theta = 0``, ``(1 + #{|t*| >= |t|})/(B + 1)``, (P,)."""
        t = np.abs(self.theta / self.errors)
        beyond = np.sum(np.abs(self.t_draws) >= t, axis=0)
        undecided = self._held | np.any(np.isnan(self.t_draws), axis=0)
        return np.where(undecided, np.nan, (1 + beyond) / (len(self.draws) + 1))

    @property
    def j_pvalue(self) -> float:
        """``(1 + #{J* >= J})/(B + 1)``.

        Raises
        ------
        EstimationError
            E440: no J, or J* that do not have its distribution since they were not recentred.
        """
        if self.j is None or self.j_draws is None:
            what = "no J of the replications: just identified, a weight that is not efficient, or kind wild"
            raise EstimationError(Complaint("E440", what))
        if not self.recentred:
            what = "J of replications whose moments are not recentred: in their population the moments do not hold"
            raise EstimationError(Complaint("E440", what, next="recentre=True"))
        return float(1 + np.sum(self.j_draws >= self.j)) / (len(self.j_draws) + 1)

    # --- by name ------------------------------------------------------------------------------------

    @property
    def bse(self) -> pd.Series:
        """Standard errors by name."""
        return self._series(self.standard_errors, "bse")

    @property
    def bias(self) -> pd.Series:
        """Mean of the draws less the estimate, by name."""
        return self._series(self.draws.mean(axis=0) - self.theta, "bias")

    @property
    def pvalues(self) -> pd.Series:
        """:attr:`p_values` by name."""
        return self._series(self.p_values, "pvalues")

    def cov_params(self) -> pd.DataFrame:
        """Covariance of the draws."""
        import pandas as pd

        return pd.DataFrame(self.covariance, index=list(self.names), columns=list(self.names))

    def conf_int(self, alpha: float = 0.05, method: Interval = "percentile-t") -> pd.DataFrame:
        """Intervals with coverage ``1 - alpha`` by name: :meth:`interval`."""
        import pandas as pd

        low, high = self.interval(alpha, method)
        return pd.DataFrame({"lower": low, "upper": high}, index=list(self.names))

    def _series(self, values: Array, name: str) -> pd.Series:
        import pandas as pd

        return pd.Series(values, index=list(self.names), name=name)

    # --- words --------------------------------------------------------------------------------------

    def verdict(self) -> str:
        """One line: how many replications of which kind, and how many were left out."""
        kind = {"pairs": "pairs", "cluster": "clusters drawn whole", "wild": "wild score"}[self.options.kind]
        left = plural(len(self.failures), "replication") if self.failures else "none"
        return f"bootstrap ({kind}): {plural(self.options.replications, 'replication')}, {left} left out"

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of what stands above the table."""
        rows = [("Seed", str(self.options.seed))]
        if self.options.kind == "wild":
            rows.append(("Multipliers", self.options.multipliers))
        else:
            text = "recentred" if self.recentred else "not recentred"
            rows.append(("Moments", text if self.df else "as many as parameters"))
        if self.j is not None and self.j_draws is not None:
            mean = f"mean of the replications {self.j_draws.mean():.4g}, {self.df} df"
            text = f"{self.j:.4f}, bootstrap p = {self.j_pvalue:.4g}" if self.recentred else f"{self.j:.4f}"
            rows.append(("J test", f"{text}, {mean}"))
        return rows

    def table(
        self, alpha: float = 0.05, method: Interval = "percentile-t"
    ) -> tuple[list[str], list[list[str]]]:
        """Heading and rows of the table, as text; blank where there is no number."""
        none = np.full((2, len(self.names)), np.nan)
        low, high = none if self._too_few(alpha) else self.interval(alpha, method)
        ends = f"[{alpha / 2:g} {method}", f"{1 - alpha / 2:g}]"
        heading = ["", "coef", "bootstrap se", "se of the fit", "bias", "P>|t|", *ends]
        bias = self.draws.mean(axis=0) - self.theta
        columns = zip(
            self.names,
            self.theta,
            self.standard_errors,
            self.errors,
            bias,
            self.p_values,
            low,
            high,
            strict=True,
        )
        formats = (".6g", ".4g", ".4g", ".2g", ".3f", ".4g", ".4g")
        rows = [
            [printable(name), *("" if np.isnan(x) else f"{x:{f}}" for x, f in zip(row, formats, strict=True))]
            for name, *row in columns
        ]
        return heading, rows

    def summary(self, alpha: float = 0.05, method: Interval = "percentile-t") -> Any:
        """A ``statsmodels`` summary: ``as_text()``, ``as_latex()``, ``as_html()``, ``as_csv()``."""
        from gmmest.gmm.summary import FitSummary

        return FitSummary(self.verdict(), self.facts(), *self.table(alpha, method), self.all_notes)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Notes, and what became of the replications that were left out."""
        left_out = (f"W440 replications left out: {text}" for text in _told(self.failures))
        few = f"{plural(len(self.draws), 'replication')} are too few for 95 % intervals: at least 39"
        return (*self.notes, *((few,) if self._too_few(0.05) else ()), *left_out)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text; the draws too."""
        ends = np.full((2, len(self.names)), np.nan) if self._too_few(0.05) else self.interval()
        return {
            "kind": self.options.kind,
            "replications": self.options.replications,
            "seed": self.options.seed,
            "recentred": self.recentred,
            "multipliers": self.options.multipliers if self.options.kind == "wild" else None,
            "params": self._numbers(self.theta),
            "bse": self._numbers(self.standard_errors),
            "bse_of_the_fit": self._numbers(self.errors),
            "pvalues": self._numbers(self.p_values),
            "percentile_t_95": {"lower": self._numbers(ends[0]), "upper": self._numbers(ends[1])},
            "j": self.j,
            "j_pvalue": self.j_pvalue if self.j_draws is not None and self.recentred else None,
            "failures": [{"replication": f.index, "reason": f.reason} for f in self.failures],
            "notes": list(self.notes),
            "draws": [_finite(row) for row in self.draws],
            "j_draws": None if self.j_draws is None else _finite(self.j_draws),
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """The same as JSON."""
        text = json.dumps(self.as_dict(), allow_nan=False, ensure_ascii=False)
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)

    def _numbers(self, values: Array) -> dict[str, float | None]:
        return dict(zip(self.names, _finite(values), strict=True))

    def __repr__(self) -> str:
        pairs = zip(self.names, self.theta, self.standard_errors, strict=True)
        return f"<{self.verdict()}; {', '.join(f'{printable(n)} {b:.6g} ({e:.3g})' for n, b, e in pairs)}>"

    def __str__(self) -> str:
        return str(self.summary())


def bootstrap(
    fit: FreeFit,
    parameters: Parameters | None,
    repeat: Repeated,
    options: BootstrapOptions,
    executor: str | Executor | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Bootstrap:
    """Bootstrap distribution of an estimate.

    Parameters
    ----------
    fit : FreeFit
    parameters : Parameters or None
    repeat : Repeated
    options : BootstrapOptions
    executor : str or Executor, optional
        Over what replications are mapped, each in one piece; by default that of the fit.
    watch : callable, optional
        Called with the numbers of replications done and asked for.

    Returns
    -------
    Bootstrap

    Raises
    ------
    ConfigError
        E102: draws that do not go with the S of the fit, blocks that cannot be drawn from.
    EstimationError
        E440: more than 5 % of the replications have no verified estimate.
    FileError
        E508: the file is there and ``resume`` was not said.  Others of :class:`.journal.Journal`.

    Notes
    -----
    *Pairs* draws N observations with replacement: an entry drawn k times has frequency k.  *Cluster* draws as many
    clusters as there are.  Either repeats all steps, the weights among them, from the estimate on, and leaves
    out what it cannot verify.  Where there are more moments than parameters the moments of the data are
    not zero at the estimate, so that those of the replications would not hold in their population: by default
    they are recentred, ``g*(theta) - g(theta_hat)``, in the criterion and in S, without which J* is too
    large and t* not the better approximation that it should be (Hall and Horowitz 1996).

    *Wild* multiplies the score contributions of observations or clusters by independent numbers of mean 0 and
    variance 1, ``theta* - theta = -(G'WG)^-1 G'W (1/N) sum_c eta_c g_c``, at the cost of two passes over an array
    of the size (N, P) (Kline and Santos 2012); for t, not for J.

    Laws: replication b depends on the seed and b alone, so that executors, interruptions and larger numbers
    of replications change no bit of it; counts are frequencies.

    References
    ----------
    Hall, P. and J. L. Horowitz (1996), "Bootstrap critical values for tests based on generalized-method-of-moments
    estimators", Econometrica 64, 891-916.
    Kline, P. and A. Santos (2012), "A score based approach to wild bootstrap inference", Journal of
    Econometric Methods 1, 23-41.
    Cameron, A. C., J. B. Gelbach and D. L. Miller (2008), Review of Economics and Statistics 90, 414-427.
    """
    begin = perf_counter()
    codes, way = _clusters(fit, options)
    overidentified = len(fit.estimate.moments) > fit.estimate.theta.size
    recentred = overidentified and options.recentre and options.kind != "wild"
    with (
        single_blas_thread(),
        opened(afterwards(fit.context.executor if executor is None else executor)) as mapped,
    ):
        one = _replication(fit, parameters, repeat, options, recentred, codes, way)
        done, cut = _all_replications(one, options, _header(fit, repeat, options, way), mapped, watch)
    kept = [each for each in done if not each.failure]
    theta = fit.estimate.theta if fit.parameters is None else fit.parameters.theta(fit.estimate.theta)
    efficient = overidentified and fit.estimate.weight.efficient
    white = fit.estimate.weight.whiten(fit.estimate.moments)
    j_draws = [each.j for each in kept if each.j is not None]
    return Bootstrap(
        names=fit.context.sample.names if fit.parameters is None else fit.parameters.names,
        options=options,
        theta=np.asarray(theta),
        errors=one.errors if isinstance(one, WildScore) else _errors(fit),
        draws=np.stack([each.theta for each in kept]),
        draw_errors=np.stack([each.errors for each in kept]),
        j=fit.estimate.s.n_obs * float(white @ white) if efficient else None,
        df=len(fit.estimate.moments) - fit.estimate.theta.size,
        j_draws=np.array(j_draws) if efficient and options.kind != "wild" else None,
        recentred=recentred,
        failures=tuple(Failure(each.index, each.failure) for each in done if each.failure),
        notes=_notes(fit, options, codes, cut),
        seconds=perf_counter() - begin,
    )


def _clusters(fit: FreeFit, options: BootstrapOptions) -> tuple[NDArray[np.int64] | None, str]:
    """Codes of what is drawn whole, and its name; None for observations."""
    s, known = fit.context.weighting, {way.name: way for way in fit.context.sample.observations.clusters}
    if s.estimator in ("kernel", "twoway"):
        what = (
            f"a bootstrap of a fit with weighting {s.estimator!r}: its draws would not keep that dependence"
        )
        raise ConfigError(Complaint("E102", what, next="weighting: cluster, or res.bse"))
    if fit.context.sample.absorbed and options.kind != "wild":
        what = f"kind {options.kind!r} with absorbed effects: draws would not keep the groups together"
        raise ConfigError(Complaint("E102", what, next="kind: wild"))
    clustered = s.estimator == "cluster"
    if options.kind == "pairs" or (options.kind == "wild" and not clustered and options.cluster is None):
        if clustered or options.cluster is not None:
            what = "kind 'pairs' draws observations one by one, whatever their cluster"
            raise ConfigError(Complaint("E102", what, next="kind: cluster"))
        return None, ""
    own = s.cluster if clustered and s.cluster else tuple(known)
    wanted = (options.cluster,) if options.cluster is not None else own
    if len(wanted) != 1 or wanted[0] not in known or (clustered and wanted[0] not in own):
        given = f"the data name {some(known)}" if known else "the data name none"
        what = f"kind {options.kind!r} takes one cluster column; {given}"
        if options.cluster is not None:
            what += f", and {printable(options.cluster)} was asked for"
        hint = "cluster= one of these names" if known else "cluster= where the data are made"
        raise ConfigError(Complaint("E102", what, next=hint))
    codes = known[wanted[0]].codes
    groups = len(np.unique(codes))
    if groups < 2:
        what = f"one cluster of {printable(wanted[0])}: nothing to draw from"
        raise EstimationError(Complaint("E340", what, next="kind: pairs, or other clusters"))
    return np.unique(codes, return_inverse=True)[1], wanted[0]


def _replication(
    fit: FreeFit,
    parameters: Parameters | None,
    repeat: Repeated,
    options: BootstrapOptions,
    recentred: bool,
    codes: NDArray[np.int64] | None,
    way: str,
) -> Refit | WildScore:
    context, estimate = fit.context, fit.estimate
    held = parameters if fit.parameters is not None else None
    if options.kind == "wild":
        return wild_score(context, estimate, held, codes, options.multipliers, options.seed)
    unbounded = np.full(estimate.theta.size, np.inf)
    plan = Plan(
        repeat.steps,
        context.weighting,
        repeat.initial,
        repeat.se,
        context.optimizer,
        context.maxiter,
        MAX_STEPS,
        1 if repeat.steps == "cue" else None,
        -unbounded if parameters is None else parameters.lower,
        unbounded if parameters is None else parameters.upper,
        near=True,
    )
    centre = estimate.moments if recentred else None
    return Refit(context, plan, estimate.theta, centre, held, codes, way, options.seed)


def _all_replications(
    one: Refit | WildScore,
    options: BootstrapOptions,
    header: dict[str, str],
    executor: Executor,
    watch: Callable[[int, int], None] | None,
) -> tuple[list[Replication], int]:
    """All of them in order, and the bytes of a torn record; those that a journal has are not made again."""
    if options.path is None:
        return _made(one, options, {}, executor, None, watch), 0
    if not options.resume and Path(options.path).exists():
        where = printable(options.path)
        raise FileError(
            Complaint("E508", "replications already there", where, "resume them, or another file")
        )
    with Journal(options.path, header) as journal:
        found = {each.index: each for record in journal.records for each in _read(record)}
        return _made(one, options, found, executor, journal, watch), journal.cut


def _made(
    one: Refit | WildScore,
    options: BootstrapOptions,
    found: dict[int, Replication],
    executor: Executor,
    journal: Journal | None,
    watch: Callable[[int, int], None] | None,
) -> list[Replication]:
    total = options.replications
    waiting = [index for index in range(total) if index not in found]
    batch = FIRST_BATCH
    while True:
        _require_few_failures([found[index] for index in range(total) if index in found], total)
        if watch is not None:
            watch(total - len(waiting), total)
        if not waiting:
            return [found[index] for index in range(total)]
        begin = perf_counter()
        new = executor.map(one, waiting[:batch])
        if journal is not None:
            journal.append(_written(new))
        found.update((each.index, each) for each in new)
        waiting = waiting[batch:]
        if perf_counter() - begin < BATCH_SECONDS:
            batch = min(2 * batch, LARGEST_BATCH)


def _written(batch: Sequence[Replication]) -> Record:
    head = {"replications": [each.index for each in batch], "failures": [each.failure for each in batch]}
    j = np.array([np.nan if each.j is None else each.j for each in batch])
    return Record(
        head, (np.stack([each.theta for each in batch]), np.stack([each.errors for each in batch]), j)
    )


def _read(record: Record) -> list[Replication]:
    theta, errors, j = record.arrays
    rows = zip(record.head["replications"], theta, errors, j.tolist(), record.head["failures"], strict=True)
    return [Replication(index, a, b, None if np.isnan(c) else c, failure) for index, a, b, c, failure in rows]


def _require_few_failures(done: Sequence[Replication], total: int) -> None:
    failures = [Failure(each.index, each.failure) for each in done if each.failure]
    if len(failures) > MOST_FAILED * total:
        what = (
            f"{len(failures)} of the first {plural(len(done), 'replication')} have no verified estimate, more than"
            f" {MOST_FAILED:.0%} of {total:,}: {'; '.join(_told(failures))}"
        )
        raise EstimationError(Complaint("E440", what, next="kind: wild, which estimates nothing again"))


def _told(failures: Sequence[Failure]) -> tuple[str, ...]:
    """The commonest reasons, each with the replications that have it."""
    by_reason: dict[str, list[int]] = {}
    for failure in failures:
        by_reason.setdefault(failure.reason, []).append(failure.index)
    listed = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    told = [f"{some(places)} ({printable(reason)})" for reason, places in listed[:REASONS]]
    more = sum(len(places) for _, places in listed[REASONS:])
    return (*told, f"{more} more for other reasons") if more else tuple(told)


def _header(fit: FreeFit, repeat: Repeated, options: BootstrapOptions, way: str) -> dict[str, str]:
    """What a replication depends on, beside its number: by words where they are short."""
    context, estimate = fit.context, fit.estimate
    arrays = (estimate.theta, estimate.moments, estimate.jacobian, estimate.s.matrix, estimate.weight.root)
    digest = sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()
    return {
        "what": "bootstrap",
        "kind": options.kind,
        "seed": str(options.seed),
        "recentre": str(options.recentre),
        "multipliers": options.multipliers if options.kind == "wild" else "",
        "clusters": way,
        "data": context.sample.fingerprint,
        "estimate": digest,
        "names": json.dumps(context.sample.names),
        "estimator": json.dumps([repeat.steps, repeat.initial, repeat.se, str(context.weighting)]),
        "engine": f"{as_backend(context.grad)}, {context.optimizer}, {context.maxiter}",
        **surroundings(),
    }


def _errors(fit: FreeFit) -> Array:
    """Standard errors of the fit for all parameters; nan where nothing moves one."""
    v, parameters = fit.estimate.v, fit.parameters
    squares = np.diag(v)
    if parameters is not None:
        squares = np.sum((parameters.transform @ v) * parameters.transform, axis=1)
    return np.sqrt(np.where(squares > 0, squares, np.nan))


def _notes(
    fit: FreeFit, options: BootstrapOptions, codes: NDArray[np.int64] | None, cut: int
) -> tuple[str, ...]:
    notes = []
    groups = None if codes is None else int(codes.max()) + 1
    if (
        groups is not None
        and options.kind == "wild"
        and options.multipliers != "webb"
        and groups <= FEW_GROUPS
    ):
        few = f"W441 {groups} clusters have {2**groups:,} different draws of two-point multipliers"
        notes.append(f"{few}: multipliers 'webb' have more")
    if fit.parameters is not None and any(mark.endswith(" bound") for mark in fit.parameters.marks):
        notes.append("W442 parameters at a bound keep that value in every replication")
    if options.kind != "wild" and as_backend(fit.context.grad).whole:
        notes.append(
            "replications take their derivatives from 'auto': samples of new shapes would be compiled"
        )
    if cut:
        notes.append(
            f"{plural(cut, 'byte')} of an unfinished record were cut, and its replications made again"
        )
    return tuple(notes)


def _finite(values: Array) -> list[float | None]:
    return [x if np.isfinite(x) else None for x in values.tolist()]
