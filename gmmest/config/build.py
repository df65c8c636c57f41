"""From a configuration's names to objects: here, and only here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gmmest.config.schema import Config, TermConfig
from gmmest.data.choice_data import ChoiceData
from gmmest.data.readers import read_frame
from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.results import GMMResults
from gmmest.models.logit import Logit
from gmmest.models.terms import Constant, Term, used_columns
from gmmest.simulate import simulate_logit

__all__ = ["build", "build_data", "build_model", "fit"]


def fit(config: Config, watch: Callable[[int], None] | None = None) -> GMMResults:
    """Fit what a configuration describes; the result's manifest names its hash."""
    result = build(config).fit(start=config.estimation.start or None, watch=watch)
    return replace(result, manifest={**result.manifest, "config_sha256": config.sha256})


def build(config: Config) -> GMMEstimator:
    """Estimator of a configuration, its data read."""
    settings = config.estimation
    return GMMEstimator(
        build_model(config),
        build_data(config),
        steps=settings.steps,
        weighting=settings.weighting,
        initial=settings.initial,
        se=settings.se,
        grad=settings.grad,
        optimizer=settings.optimizer,
        maxiter=settings.maxiter,
        executor=settings.executor,
        centred=settings.centred,
        kernel=settings.kernel,
        bandwidth=settings.bandwidth,
        cluster=settings.cluster or None,
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


def build_model(config: Config) -> Logit:
    """Model with its terms."""
    utility = _terms(config.model.utility)
    given = config.model.instruments
    if given.features and not given.terms:
        return Logit(utility)
    return Logit(utility, instruments=[*(utility if given.features else ()), *_terms(given.terms)])


def build_data(config: Config) -> ChoiceData:
    """Rows of the file, or drawn ones; of a file only the columns that the model uses are read."""
    source = config.data
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
    model = build_model(config)
    text = [case] if source.alternative is None else [case, source.alternative]
    frame = _frame(config, text, used_columns((*model.utility, *(model.instruments or ()))), [chosen])
    return ChoiceData.from_frame(
        frame,
        case=case,
        chosen=chosen,
        alternative=source.alternative,
        on_bad_sets=source.on_bad_sets,
        missing=source.missing,
        weight=source.weight,
        frequency=source.frequency,
        cluster=source.cluster or None,
        time=source.time,
        source=path.name,
    )


def _frame(config: Config, text: Sequence[str], numbers: Sequence[str], flags: Sequence[str] = ()) -> Any:
    """The columns that are used, of the file; a column may be a number of the model and an id or a time."""
    source, path = config.data, config.data_path
    assert path is not None  # noqa: S101  the schema wants one of path and simulate
    # A year may be a cluster and the time at once.
    shared = source.time if source.time in source.cluster else None
    numbers = [*numbers, *(name for name in (source.weight, source.frequency, shared) if name)]
    clusters = [name for name in source.cluster if name not in numbers]
    times = [source.time] if source.time and source.time not in numbers else []
    frame = read_frame(path, text=[*text, *clusters], numbers=numbers, flags=flags, times=times)
    return _with_whole_ids(frame, [name for name in source.cluster if name in numbers])


def _with_whole_ids(frame: Any, names: Sequence[str]) -> Any:
    """Columns of numbers that are ids too, as integers where all of them are whole."""
    import pyarrow as pa

    for name in names:
        with contextlib.suppress(pa.ArrowInvalid):  # else the data's own complaint follows
            whole = frame.column(name).cast(pa.int64())
            frame = frame.set_column(frame.schema.get_field_index(name), name, whole)
    return frame


def _terms(terms: Sequence[TermConfig]) -> list[Term]:
    return [
        Term(*term.columns, only=term.only or None, name=term.name)
        if term.constant is None
        else Constant(term.constant, name=term.name)
        for term in terms
    ]
