"""From a configuration's names to objects: here, and only here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmmest.config.model_kinds import (
    ExponentialIVConfig,
    LinearIVConfig,
    LogitConfig,
    MomentFunctionConfig,
    TermConfig,
)
from gmmest.config.schema import BootstrapConfig, Config, EstimationConfig, usual_kind
from gmmest.config.user_code import UserFunction, load_function
from gmmest.data.choice_columns import ChoiceColumns
from gmmest.data.choice_data import ChoiceData
from gmmest.data.choice_files import ChoiceFiles
from gmmest.data.columns import unusable_columns
from gmmest.data.conversion import Progress
from gmmest.data.readers import read_frame, with_whole_ids
from gmmest.data.source_files import fits_into_memory
from gmmest.data.streams import types_of
from gmmest.data.table import Table
from gmmest.errors import Complaint, DataError, FileError, printable
from gmmest.execution.dask import Dask
from gmmest.execution.serial import Executor
from gmmest.execution.threads import Threads
from gmmest.gmm.draws import Bootstrap
from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.results import GMMResults
from gmmest.models.logit import Logit
from gmmest.models.moment_function import MomentFunction
from gmmest.models.regression import ExponentialIV, LinearIV
from gmmest.models.terms import Constant, Term, used_columns
from gmmest.simulate import simulate_logit

__all__ = ["bootstrap", "build", "build_data", "fit"]

Model = Logit | LinearIV | ExponentialIV | MomentFunction


def fit(
    config: Config,
    watch: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    journal: Path | None = None,
) -> GMMResults:
    """Fit what a configuration describes; the manifest has its hash, and that of the code that it names."""
    code = _code(config)
    result = _estimator(config, code, progress).fit(
        start=config.estimation.start or None, watch=watch, journal=journal
    )
    manifest = {**result.manifest, "config_sha256": config.sha256}
    if code is not None:
        manifest["code"] = {"file": code.file, "function": code.name, "sha256": code.sha256}
    return replace(result, manifest=manifest)


def bootstrap(
    config: Config,
    result: GMMResults,
    path: Path | None = None,
    resume: bool = False,
    watch: Callable[[int, int], None] | None = None,
) -> Bootstrap:
    """Bootstrap a fit of the configuration as its section says, over its executor."""
    given = config.bootstrap or BootstrapConfig()
    executor = _executor(config.estimation)
    kind = given.kind or usual_kind(config.estimation.weighting)
    return result.bootstrap(
        **{**dict(given), "kind": kind}, path=path, resume=resume, executor=executor, watch=watch
    )


def build(config: Config) -> GMMEstimator:
    """Estimator of a configuration, its data read, and the file of its moment function run."""
    return _estimator(config, _code(config))


def _code(config: Config) -> UserFunction | None:
    """The function of a file beside the configuration, if one is named; the file is run."""
    if not isinstance(config.model, MomentFunctionConfig):
        return None
    return load_function(config.model.function, config.folder)


def _estimator(config: Config, code: UserFunction | None, progress: Progress | None = None) -> GMMEstimator:
    settings = config.estimation
    return GMMEstimator(
        _model(config, code),
        build_data(config, progress),
        steps=settings.steps,
        weighting=settings.weighting,
        initial=settings.initial,
        se=settings.se,
        grad=settings.grad,
        optimizer=settings.optimizer,
        maxiter=settings.maxiter,
        executor=_executor(settings),
        centred=settings.centred,
        kernel=settings.kernel,
        bandwidth=settings.bandwidth,
        cluster=_clusters(config),
        small_sample=settings.small_sample,
        starts=settings.starts,
        max_steps=settings.max_steps,
        fixed=settings.fixed,
        tied=settings.tied,
        bounds={
            name: tuple(None if end == "none" else end for end in ends)
            for name, ends in settings.bounds.items()
        },
    )


def _executor(settings: EstimationConfig) -> str | Executor:
    if settings.workers is None:
        return settings.executor
    return Dask(settings.workers) if settings.executor == "dask" else Threads(settings.workers)


def _model(config: Config, code: UserFunction | None) -> Model:
    given = config.model
    if isinstance(given, LogitConfig):
        return _logit(given)
    if isinstance(given, LinearIVConfig):
        return LinearIV(
            given.dependent,
            given.exogenous,
            given.endogenous,
            given.instruments,
            constant=given.constant,
            absorb=given.absorb,
        )
    if isinstance(given, ExponentialIVConfig):
        return ExponentialIV(
            given.dependent,
            given.exogenous,
            given.endogenous,
            given.instruments,
            errors=given.errors,
            constant=given.constant,
        )
    assert code is not None  # noqa: S101  this kind has a function
    return MomentFunction(
        code.function,
        given.names,
        given.moment_names or None,
        given.start,
        given.instruments or None,
        given.constant,
    )


def _logit(given: LogitConfig) -> Logit:
    utility = _terms(given.utility)
    if given.instruments.features and not given.instruments.terms:
        return Logit(utility)
    features = utility if given.instruments.features else []
    return Logit(utility, instruments=[*features, *_terms(given.instruments.terms)])


def _absorbed(config: Config) -> list[str]:
    """Groups whose effects are absorbed; a table keeps ids as clusters."""
    absorb = config.model.absorb if isinstance(config.model, LinearIVConfig) else None
    return [] if absorb is None or absorb in config.data.cluster else [absorb]


def _clusters(config: Config) -> tuple[str, ...] | None:
    """The clusters of S; all that the data have by default, but not the groups that are absorbed."""
    return config.estimation.cluster or (config.data.cluster if _absorbed(config) else None) or None


def build_data(config: Config, progress: Progress | None = None) -> ChoiceData | ChoiceFiles | Table:
    """Rows of the file, or drawn ones; of a file only the columns that the model uses are read.

    Choices of a folder, with a limit on memory, or that would fill half of the machine's memory, stay in their
    files; ``progress`` is told of their conversion.
    """
    source, given = config.data, config.model
    if not isinstance(given, LogitConfig):
        return Table.from_frame(
            _frame(config, _absorbed(config), given.numbers),
            list(dict.fromkeys(given.numbers)),
            source="" if config.data_path is None else config.data_path.name,
            weight=source.weight,
            frequency=source.frequency,
            cluster=[*source.cluster, *_absorbed(config)] or None,
            time=source.time,
        )
    if source.simulate is not None:
        sizes = source.simulate
        return simulate_logit(
            sets=sizes.sets,
            alternatives=sizes.alternatives,
            features=sizes.features,
            moments=sizes.moments,
            seed=sizes.seed,
        ).data
    path, case, chosen = config.data_path, source.case, source.chosen
    assert path is not None  # noqa: S101  the schema wants one of path and simulate
    assert case is not None  # noqa: S101  and these two with path
    assert chosen is not None  # noqa: S101
    model = _logit(given)
    columns = used_columns((*model.utility, *(model.instruments or ())))
    roles = ChoiceColumns(
        case,
        chosen,
        source.alternative,
        source.on_bad_sets,
        source.missing,
        source.weight,
        source.frequency,
        source.cluster,
        source.time,
    )
    if source.memory or source.cache or not fits_into_memory(path, columns):
        cache = None if source.cache is None else config.folder / source.cache
        return ChoiceFiles.of_columns(path, roles, memory=source.memory, cache=cache, progress=progress)
    text = [case] if source.alternative is None else [case, source.alternative]
    frame = _frame(config, text, columns, [chosen])
    try:
        return ChoiceData.from_part(frame, roles, path.name, whole=True)
    except DataError as error:
        # The sets cannot be made, and so the model will not look at its columns.
        gaps = unusable_columns(frame, columns, path.name, case, droppable=source.missing == "drop_set")
        raise DataError([*error.complaints, *gaps]) from None


def _frame(config: Config, text: Sequence[str], numbers: Sequence[str], flags: Sequence[str] = ()) -> Any:
    """The columns that are used, of the file; a column may be a number of the model and an id or a time."""
    source, path = config.data, config.data_path
    assert path is not None  # noqa: S101  the schema wants one of path and simulate
    if path.is_dir():
        what = f"{printable(path)} is a folder; a model of kind {config.model.kind} reads one file"
        raise FileError(Complaint("E510", what, next="put the rows into one file; only logit reads folders"))
    types = types_of(
        text,
        numbers,
        flags,
        weights=[source.weight, source.frequency],
        clusters=source.cluster,
        time=source.time,
    )
    frame = read_frame(path, text=types.text, numbers=types.numbers, flags=types.flags, times=types.times)
    return with_whole_ids(frame, types.whole)


def _terms(terms: Sequence[TermConfig]) -> list[Term]:
    return [
        Term(*term.columns, only=term.only or None, name=term.name)
        if term.constant is None
        else Constant(term.constant, name=term.name)
        for term in terms
    ]
