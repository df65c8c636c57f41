"""The bootstrap: the distribution of estimates and of J over samples drawn from the data.

Pairs and cluster bootstraps repeat every step of the estimator on samples drawn with replacement; the wild score
bootstrap moves the estimate along its influence function and repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.backends import as_backend
from gmmest.errors import Complaint, ConfigError, EstimationError, FileError, plural, printable, some
from gmmest.execution.journal import Journal, Record, surroundings
from gmmest.execution.serial import Executor, single_blas_thread
from gmmest.execution.threads import afterwards, opened
from gmmest.gmm.draws import Bootstrap, BootstrapOptions, Failure, told
from gmmest.gmm.fitted import Settings
from gmmest.gmm.free import FreeFit
from gmmest.gmm.inference import SE_NAMES, SeName
from gmmest.gmm.parameters import Parameters
from gmmest.gmm.resampling import Refit, Replication, WildScore, wild_score
from gmmest.gmm.steps import Plan

__all__ = ["bootstrap"]

Array = NDArray[np.float64]

MOST_FAILED = 0.05
"""Share of replications that may be left out: the quantiles that intervals are made of lie that far out."""
FEW_GROUPS = 12
"""Up to here 2^G signs are too few different draws for quantiles (Webb 2023)."""
FIRST_BATCH, LARGEST_BATCH, BATCH_SECONDS = 8, 512, 0.5
"""Replications between two records of progress; they change no bit."""


def bootstrap(
    fit: FreeFit,
    parameters: Parameters | None,
    settings: Settings,
    options: BootstrapOptions,
    executor: str | Executor | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Bootstrap:
    """Bootstrap distribution of an estimate.

    Parameters
    ----------
    fit : FreeFit
    parameters : Parameters or None
    settings : Settings
        Of the fit: steps, first weight and V, which every replication has too.
    options : BootstrapOptions
    executor : str or Executor, optional
        Over what replications are mapped, each in one piece; by default that of the fit, or threads if that
        had workers, which are gone with it.
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
        opened(afterwards(fit.context.executor) if executor is None else executor) as mapped,
    ):
        one = _replication(fit, parameters, settings, options, recentred, codes, way)
        done, cut = _all_replications(one, options, _header(fit, settings, options, way), mapped, watch)
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
        n_obs=fit.context.sample.n_obs,
        clusters=None if codes is None else (way, int(codes.max()) + 1),
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
    settings: Settings,
    options: BootstrapOptions,
    recentred: bool,
    codes: NDArray[np.int64] | None,
    way: str,
) -> Refit | WildScore:
    context, estimate = fit.context, fit.estimate
    held = parameters if fit.parameters is not None else None
    se = _repeatable_se(settings, fit)
    if options.kind == "wild":
        return wild_score(context, estimate, held, codes, options.multipliers, options.seed)
    unbounded = np.full(estimate.theta.size, np.inf)
    plan = Plan(
        settings.steps,
        context.weighting,
        settings.initial,
        context.optimizer,
        context.maxiter,
        settings.max_steps,
        1 if settings.steps == "cue" else None,
        -unbounded if parameters is None else parameters.lower,
        unbounded if parameters is None else parameters.upper,
        near=True,
        se=se,
    )
    centre = estimate.moments if recentred else None
    return Refit(context, plan, estimate.theta, centre, held, codes, way, options.seed)


def _repeatable_se(settings: Settings, fit: FreeFit) -> SeName:
    """The name of V; one that no replication has is refused: t statistics of the two would not be comparable."""
    complaints = []
    se = next((name for name in SE_NAMES if name == settings.se), None)
    if se is None:
        what = f"a bootstrap of a fit with se {settings.se!r}: replications have {some(SE_NAMES)}"
        complaints.append(Complaint("E102", what, next="res.with_cov('sandwich').bootstrap(...)"))
    made = fit.estimate.weight.s
    if made is not None and made.options != fit.context.weighting:
        what = (
            f"a bootstrap of a fit whose weight is from S {made.options.text} and whose standard errors are from S"
            f" {fit.context.weighting.text}: a replication makes both from one"
        )
        complaints.append(Complaint("E102", what, next="fit with that weighting"))
    if se is None or complaints:
        raise ConfigError(complaints)
    return se


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
            Complaint(
                "E508",
                "replications already there",
                where,
                "--resume, or another --out folder; in Python resume=True, or another path",
            )
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
            f" {MOST_FAILED:.0%} of {total:,}: {'; '.join(told(failures))}"
        )
        raise EstimationError(Complaint("E440", what, next="kind: wild, which estimates nothing again"))


def _header(fit: FreeFit, settings: Settings, options: BootstrapOptions, way: str) -> dict[str, str]:
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
        "estimator": json.dumps(
            [settings.steps, settings.max_steps, settings.initial, settings.se, str(context.weighting)]
        ),
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
