"""The records of a configuration: frozen, strict, and complete in their complaints.

A record is in normal form (``column: gc`` has become ``columns=("gc",)``): the spellings that a file
may use are undone in ``load``, and ``as_dict`` writes them again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import InitErrorDetails, PydanticCustomError

from gmmest.config.model_kinds import (
    InstrumentsConfig,
    LogitConfig,
    ModelConfig,
    MomentFunctionConfig,
    TermConfig,
    kind_of,
    texts,
)
from gmmest.config.record import ByName, Count, Name, Record, Values, printable_text, rule, value_of
from gmmest.data.memory import memory_size
from gmmest.errors import ConfigError, nearest
from gmmest.gmm.corrected import CovarianceName
from gmmest.gmm.covariance_options import ESTIMATORS, Estimator
from gmmest.gmm.draws import KINDS, Kind
from gmmest.gmm.kernels import Kernel
from gmmest.gmm.resampling import Multipliers
from gmmest.gmm.steps import STEPS, StepsName

__all__ = ["BootstrapConfig", "Config", "DataConfig", "EstimationConfig", "SimulateConfig", "usual_kind"]

# "C:/data" has one letter before the colon; a scheme has at least two.
_ADDRESS = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+:[/\\]|(file|data|https?):)", re.IGNORECASE)


def _local(path: str, key: str = "path") -> str:
    if _ADDRESS.match(path):
        advice = "download the file, and name it relative to the configuration's folder"
        what = "data.{key} is an address ({path}); only local files are read"
        raise PydanticCustomError("E107", what, {"key": key, "path": path[:100], "advice": advice})
    return path


LocalPath = Annotated[
    str, Field(min_length=1, max_length=4000), AfterValidator(printable_text), AfterValidator(_local)
]
Folder = Annotated[
    str,
    Field(min_length=1, max_length=4000),
    AfterValidator(printable_text),
    AfterValidator(partial(_local, key="cache")),
]
Alternatives = Annotated[int, Field(ge=2, le=10**9)]


class SimulateConfig(Record):
    """Sizes of a simulated data set; ``alternatives`` are the smallest and the largest set."""

    expected: ClassVar[str] = "a mapping with sets, alternatives, features, moments and seed"

    sets: Count = Field(description="a whole number of at least 1")
    alternatives: tuple[Alternatives, Alternatives] = Field(
        description="a whole number of at least 2, or [low, high] of two"
    )
    features: Count = Field(description="a whole number of at least 1")
    moments: Count = Field(description="a whole number, at least the number of features")
    seed: Annotated[int, Field(ge=0, lt=2**64)] = Field(description="a whole number of at least 0")

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that there are enough moments, and a range that rises."""
        features: Any = raw.get("features")
        moments: Any = raw.get("moments")
        if _whole(features, moments) and 1 <= moments < features:
            what = f"data.simulate.moments is {moments}, fewer than the {features} features: not identified"
            yield rule(("moments",), what, f"set moments to {features} or more")
        ends = raw.get("alternatives")
        if isinstance(ends, tuple) and len(ends) == 2 and _whole(*ends) and 2 <= ends[1] < ends[0]:
            what = f"data.simulate.alternatives falls from {ends[0]} to {ends[1]}"
            yield rule(("alternatives",), what, f"write [{ends[1]}, {ends[0]}]")


def _whole(*values: object) -> bool:
    return all(type(value) is int for value in values)


def _size(words: str) -> str:
    try:
        memory_size(words)
    except ConfigError as error:
        raise PydanticCustomError("E102", "data.{what}", {"what": error.complaints[0].what}) from None
    return words


MemorySize = Annotated[str, Field(min_length=1, max_length=50), AfterValidator(_size)]


class DataConfig(Record):
    """Where the rows come from: exactly one of ``path`` and ``simulate``."""

    expected: ClassVar[str] = "a mapping with path, or with simulate"

    path: LocalPath | None = Field(default=None, description="the name of a data file or a folder of them")
    case: Name | None = Field(default=None, description="the name of the column with the choice set's id")
    alternative: Name | None = Field(default=None, description="the name of the column with the alternative")
    chosen: Name | None = Field(default=None, description="the name of the column that is 1 where chosen")
    on_bad_sets: Literal["error", "drop"] = "error"
    missing: Literal["error", "drop_set"] = "error"
    weight: Name | None = Field(default=None, description="the name of the column with sampling weights")
    frequency: Name | None = Field(default=None, description="the name of the column with counts")
    cluster: tuple[Name, ...] = Field(
        default=(), description="the name of a column with ids of groups, or a list of names"
    )
    time: Name | None = Field(default=None, description="the name of the column that orders the observations")
    memory: MemorySize | None = Field(default=None, description="a size such as 2GB")
    cache: Folder | None = Field(default=None, description="the name of a folder")
    simulate: SimulateConfig | None = Field(default=None, description=SimulateConfig.expected)

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that there is one source, with what belongs to it."""
        if "path" in raw and "simulate" in raw:
            what = "data has both path and simulate; exactly one of them is wanted"
            yield rule(("simulate",), what, "delete one of the two")
        elif "simulate" in raw:
            for key in raw:
                if key != "simulate":
                    yield rule((key,), f"data.{key} has no meaning with data.simulate", "delete it")
        elif "path" not in raw:
            what = "data has neither path nor simulate; exactly one of them is wanted"
            yield rule((), what, "add a line  path: FILE")


Initial = Literal["instruments", "identity"]
Grad = Literal["auto", "fd", "fd-central", "complex", "forward", "jax", "jax-forward", "analytic"]
Optimizer = Literal["lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead"]
ExecutorName = Literal["serial", "threads", "dask"]


Ends = tuple[float | Literal["none"], float | Literal["none"]]

# Which of two types a value should have is told by what it is, so that it is judged by one of them
# and gets one complaint.  Tags stand in the location of an error: no name of a user looks like them.
Bandwidth = Annotated[
    Annotated[Literal["newey-west", "andrews"], Tag("<word>")]
    | Annotated[float, Field(ge=0), Tag("<number>")],
    Discriminator(lambda value: "<word>" if isinstance(value, str) else "<number>"),
]
Starts = Annotated[
    Annotated[tuple[Values, ...], Field(min_length=1), Tag("<list>")] | Annotated[Count, Tag("<number>")],
    Discriminator(lambda value: "<list>" if isinstance(value, tuple) else "<number>"),
]


USERS: Mapping[str, tuple[Estimator, ...]] = {
    "kernel": ("kernel",),
    "bandwidth": ("kernel",),
    "cluster": ("cluster", "twoway"),
}
"""The options of one estimator of S, with the estimators that use them."""


class EstimationConfig(Record):
    """How the parameters are found; parameters without a ``start`` take the model's own."""

    expected: ClassVar[str] = "a mapping with settings of the estimation"

    steps: StepsName = "twostep"
    weighting: Estimator = "robust"
    centred: bool = Field(default=False, description="true or false")
    kernel: Kernel = "bartlett"
    bandwidth: Bandwidth = Field(
        default="newey-west", description="a number of at least 0, newey-west or andrews"
    )
    cluster: tuple[Name, ...] = Field(
        default=(), description="the name of one of data.cluster, or a list of names"
    )
    small_sample: bool = Field(default=False, description="true or false")
    initial: Initial = "instruments"
    se: CovarianceName = "sandwich"
    grad: Grad = "auto"
    optimizer: Optimizer = "lsq"
    executor: ExecutorName = "threads"
    workers: Count | None = Field(default=None, description="a whole number of at least 1")
    maxiter: Count | None = Field(default=None, description="a whole number of at least 1")
    start: Values = Field(default=ByName({}), description="a mapping of parameters' names to finite numbers")
    starts: Starts | None = Field(
        default=None,
        description="a whole number of at least 1, or a list of mappings of parameters' names to numbers",
    )
    max_steps: Annotated[int, Field(ge=2, le=10**9)] = Field(
        default=100, description="a whole number of at least 2"
    )
    fixed: Values = Field(default=ByName({}), description="a mapping of parameters' names to finite numbers")
    tied: Annotated[Mapping[Name, Name], AfterValidator(ByName)] = Field(
        default=ByName({}), description="a mapping of parameters' names to linear expressions"
    )
    bounds: Annotated[Mapping[Name, Ends], AfterValidator(ByName)] = Field(
        default=ByName({}), description="a mapping of parameters' names to [lower, upper]"
    )

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that every option acts, that each parameter is held in one way, and what knows bounds."""
        weighting = raw.get("weighting", "robust")
        if weighting in ESTIMATORS:
            for key, users in USERS.items():
                if raw.get(key, ()) != () and weighting not in users:
                    what = f"estimation.{key} has no use with weighting {weighting}"
                    yield rule((key,), what, f"write  weighting: {' or '.join(users)},  or delete {key}")
            if weighting == "unadjusted" and raw.get("centred") is True:
                what = "centred has no meaning with weighting unadjusted: what a model implies has mean zero"
                yield rule(("centred",), what, "write  weighting: robust,  or delete centred")
        steps = raw.get("steps", "twostep")
        most = cls.model_fields["max_steps"].default
        if raw.get("max_steps", most) != most and steps in STEPS and steps != "iterated":
            what = f"estimation.max_steps has no use with steps {steps}"
            yield rule(("max_steps",), what, "write  steps: iterated,  or delete max_steps")
        held = {key: raw.get(key) for key in ("fixed", "tied", "bounds")}
        seen: dict[str, str] = {}
        for key, names in held.items():
            for name in names if isinstance(names, Mapping) else ():
                if name in seen:
                    what = f"estimation.{key} names {name!r}, and so does estimation.{seen[name]}"
                    yield rule((key, name), what, "a parameter is fixed, tied or bounded")
                seen[name] = key
        executor = raw.get("executor", cls.model_fields["executor"].default)
        if raw.get("workers") is not None and executor == "serial":
            what = "estimation.workers has no use with executor serial"
            yield rule(("workers",), what, "write  executor: threads or dask,  or delete workers")
        if held["bounds"] and raw.get("optimizer") == "bfgs":
            yield rule(("optimizer",), "the optimizer bfgs knows no bounds", "write lsq or lbfgsb")


class BootstrapConfig(Record):
    """The bootstrap that ``gmmest bootstrap`` makes of the fit."""

    expected: ClassVar[str] = "a mapping with replications, kind, seed and other settings of the bootstrap"

    replications: Annotated[int, Field(ge=2, le=10**9)] = Field(
        default=999, description="a whole number of at least 2"
    )
    kind: Kind | None = Field(default=None, description="pairs, cluster or wild")
    seed: Annotated[int, Field(ge=0, lt=2**64)] = Field(default=0, description="a whole number of at least 0")
    cluster: Name | None = Field(default=None, description="the name of one of data.cluster")
    multipliers: Multipliers = "rademacher"
    recentre: bool = Field(default=True, description="true or false")

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that every option acts."""
        kind = raw.get("kind", "pairs")
        for key, users in DRAWN_BY.items():
            default = cls.model_fields[key].default
            depends = "kind" not in raw and key == "cluster"  # then the weighting says which kind it is
            if kind in KINDS and kind not in users and not depends and raw.get(key, default) != default:
                what = f"bootstrap.{key} has no use with kind {kind}"
                yield rule((key,), what, f"write  kind: {' or '.join(users)},  or delete {key}")


DRAWN_BY: Mapping[str, tuple[Kind, ...]] = {
    "cluster": ("cluster", "wild"),
    "multipliers": ("wild",),
    "recentre": ("pairs", "cluster"),
}
"""The options of some kinds of bootstrap, with the kinds that use them."""


class Config(Record):
    """A complete configuration.

    Parameters
    ----------
    data : DataConfig
    model : LogitConfig, LinearIVConfig, ExponentialIVConfig or MomentFunctionConfig
    estimation : EstimationConfig
        The settings, defaults filled in.
    bootstrap : BootstrapConfig or None
    folder : Path
        Where relative names of input files start.
    path : Path or None
        The file that was read, if one was.

    Examples
    --------
    >>> from gmmest import config
    >>> text = '''
    ... data: {path: travel.csv, case: individual, chosen: choice}
    ... model: {utility: [{column: gc}, {columns: [gc, hinc], name: gc_income}]}
    ... '''
    >>> settings = config.loads(text, folder="/surveys")
    >>> settings.data_path.as_posix()
    '/surveys/travel.csv'
    >>> settings.model.utility[1].columns
    ('gc', 'hinc')
    >>> settings.estimation.optimizer
    'lsq'
    """

    expected: ClassVar[str] = "a mapping with data, model and estimation"

    data: DataConfig = Field(description=DataConfig.expected)
    model: ModelConfig = Field(description="a mapping with kind and the keys of that kind")
    estimation: EstimationConfig = Field(default=EstimationConfig(), description=EstimationConfig.expected)
    bootstrap: BootstrapConfig | None = Field(default=None, description=BootstrapConfig.expected)
    folder: Path = Path()
    path: Path | None = None

    @property
    def data_path(self) -> Path | None:
        """The data file, seen from the working directory; None for simulated data."""
        return None if self.data.path is None else self.folder / self.data.path

    @property
    def executes(self) -> str | None:
        """The function of a Python file that a fit of this configuration runs; None if there is none."""
        if not isinstance(self.model, MomentFunctionConfig):
            return None
        file, _, function = self.model.function.partition(":")
        return f"{file}.py:{function}"

    @property
    def sha256(self) -> str:
        """Hash of the settings: equal for equal settings, however and wherever they were written."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Write the settings as dicts, lists and scalars, which as JSON or YAML ``loads`` can read."""
        return cast("dict[str, Any]", _written(self))

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that the model and the weighting fit their data."""
        data, model = raw.get("data"), raw.get("model")
        estimation, bootstrap = raw.get("estimation"), raw.get("bootstrap")
        yield from _broken_roles(data, estimation, bootstrap)
        if bootstrap is not None:
            yield from _broken_draws(data, estimation, bootstrap)
        if data is None or model is None:
            return
        if kind_of(model) == "logit":
            yield from _broken_choices(data, model)
            return
        for key in _keys(data):
            if key in CHOICES_ONLY:
                what = f"data.{key} has no meaning with model.kind {kind_of(model)}"
                yield rule(("data", key), what, "delete it")


CHOICES_ONLY = ("case", "alternative", "chosen", "on_bad_sets", "missing", "memory", "cache", "simulate")
"""Keys of data that are about choice sets."""


def _keys(section: Any) -> list[str]:
    """Keys that were given in a section that may be a record, a raw mapping or nonsense."""
    given = section if isinstance(section, Mapping) else getattr(section, "model_fields_set", ())
    return [str(key) for key in given]


def _broken_choices(data: Any, model: Any) -> Iterator[InitErrorDetails]:
    """Check that choices have what makes them choices, and a model that can be made of them."""
    simulate, path = value_of(data, "simulate"), value_of(data, "path")
    if simulate is not None and path is None and isinstance(model, Mapping):
        for key in ("utility", "instruments"):
            if key in model:
                what = f"model.{key} has no meaning with data.simulate: its columns have no names"
                yield rule(("model", key), what, "delete it")
    if path is None or simulate is not None:
        return
    for key in ("case", "chosen"):
        if key not in _keys(data):
            what = f"data.{key} is missing: expected {DataConfig.model_fields[key].description}"
            yield rule(("data",), what, f"add a line  {key}: COLUMN")
    if isinstance(model, Mapping) and "utility" not in model:
        yield rule(("model",), "model.utility is missing: expected a list of terms", "add a line  utility:")
    if value_of(data, "alternative") is None and (user := _user_of_labels(model)):
        what = f"data.alternative is missing: expected the column in which {user} finds its label"
        yield rule(("data",), what, "add a line  alternative: COLUMN")


def _broken_roles(data: Any, estimation: Any, bootstrap: Any) -> Iterator[InitErrorDetails]:
    """Check that clusters and time are there where they are used, and used where they are there."""
    weighting, named = value_of(estimation, "weighting") or "robust", value_of(data, "cluster") or ()
    if data is None or weighting not in ESTIMATORS or not isinstance(named, tuple):
        return
    if value_of(data, "time") is not None and weighting != "kernel":
        what = f"data.time has no use with weighting {weighting}: it orders observations for their lags"
        yield rule(("data", "time"), what, "write  estimation.weighting: kernel,  or delete time")
    if weighting not in ("cluster", "twoway"):
        kind = value_of(bootstrap, "kind")
        if named and kind != "cluster" and not (kind == "wild" and value_of(bootstrap, "cluster")):
            what = f"data.cluster has no use with weighting {weighting}"
            advice = "write  estimation.weighting: cluster,  or  bootstrap.kind: cluster,  or delete cluster"
            yield rule(("data", "cluster"), what, advice)
        return
    if not named:
        simulated = value_of(data, "simulate") is not None
        what = f"weighting {weighting} needs data.cluster" + (
            ", and simulated choices have none" if simulated else ": expected the column with ids of groups"
        )
        where = ("estimation",) if simulated else ("data",)
        yield rule(where, what, "" if simulated else "add a line  cluster: COLUMN")
        return
    chosen = value_of(estimation, "cluster") or named
    if not isinstance(chosen, tuple):
        return
    for name in chosen:
        if isinstance(name, str) and name not in named:
            what = f"estimation.cluster names {name[:100]!r}, and data.cluster does not"
            yield rule(("estimation", "cluster"), what, nearest(name, texts(named)))
    wanted = 2 if weighting == "twoway" else 1
    if len(chosen) != wanted:
        what = (
            f"weighting {weighting} takes {('one cluster', 'two clusters')[wanted - 1]}, found {len(chosen)}"
        )
        section = "estimation" if value_of(estimation, "cluster") else "data"
        advice = f"name {'it' if wanted == 1 else 'them'} in  estimation.cluster"
        yield rule((section, "cluster"), what, advice if len(chosen) > wanted else "name another column")


def usual_kind(weighting: str) -> Kind:
    """The kind of a bootstrap where nothing is said: it keeps the dependence that S allows for."""
    return "cluster" if weighting == "cluster" else "pairs"


def _broken_draws(data: Any, estimation: Any, bootstrap: Any) -> Iterator[InitErrorDetails]:
    """Check that draws keep the dependence that S allows for, and that there is one column of clusters to draw."""
    weighting = value_of(estimation, "weighting") or "robust"
    kind = value_of(bootstrap, "kind") or usual_kind(weighting)
    if weighting not in ESTIMATORS or kind not in KINDS:
        return
    if weighting in ("kernel", "twoway"):
        what = f"no bootstrap keeps the dependence of weighting {weighting}"
        advice = "write  estimation.weighting: cluster or robust,  or delete bootstrap"
        yield rule(("estimation", "weighting"), what, advice)
        return
    if weighting == "cluster" and kind == "pairs":
        what = "bootstrap.kind pairs draws observations one by one, and weighting is cluster"
        yield rule(("bootstrap",), what, "write  kind: cluster")
        return
    named, chosen = value_of(data, "cluster") or (), value_of(bootstrap, "cluster")
    if chosen is not None and not value_of(bootstrap, "kind") and kind == "pairs":
        what = "bootstrap.cluster has no use with kind pairs"
        yield rule(("bootstrap", "cluster"), what, "write  kind: cluster or wild,  or delete cluster")
    if kind == "pairs" or data is None or not isinstance(named, tuple) or not isinstance(chosen, str | None):
        return
    own = (value_of(estimation, "cluster") or named) if weighting == "cluster" else named
    if chosen is not None and isinstance(own, tuple) and chosen not in own:
        section = "data" if own == named else "estimation"
        what = f"bootstrap.cluster names {chosen[:100]!r}, and {section}.cluster does not"
        yield rule(("bootstrap", "cluster"), what, nearest(chosen, texts(own)))
    elif chosen is None and kind == "cluster" and weighting != "cluster" and len(named) != 1:
        what = f"bootstrap.kind cluster takes one of data.cluster, found {len(named)}"
        advice = "name it in  bootstrap.cluster" if named else "add a line  cluster: COLUMN  to data"
        yield rule(("bootstrap",), what, advice)


def _user_of_labels(model: Any) -> str:
    """Find the first term that names alternatives; empty if none does."""
    instruments = value_of(value_of(model, "instruments"), "terms")
    for path, terms in (("model.utility", value_of(model, "utility")), ("model.instruments", instruments)):
        for i, term in enumerate(terms if isinstance(terms, tuple) else ()):
            for key in ("constant", "only"):
                if value_of(term, key):
                    return f"{key} of {path}[{i}]"
    return ""


def _written(value: Any) -> Any:
    """Say a record as a file would: the inverse of the reading in ``load``."""
    if isinstance(value, SimulateConfig):
        low, high = value.alternatives
        return {**dict(value), "alternatives": low if low == high else [low, high]}
    if isinstance(value, TermConfig) and len(value.columns) == 1:
        return {"column": value.columns[0], **_given(value, leave_out=("columns",))}
    if isinstance(value, InstrumentsConfig):
        terms = [_written(term) for term in value.terms]
        if not value.features:
            return terms
        return {"add": terms} if terms else "features"
    if isinstance(value, DataConfig) and value.simulate is not None:
        return {"simulate": _written(value.simulate)}
    if isinstance(value, Config) and not isinstance(value.model, LogitConfig):
        data = {key: item for key, item in _written(value.data).items() if key not in CHOICES_ONLY}
        written = {"data": data, "model": _written(value.model), "estimation": _written(value.estimation)}
        return written if value.bootstrap is None else {**written, "bootstrap": _written(value.bootstrap)}
    if isinstance(value, EstimationConfig):
        unused = [key for key, users in USERS.items() if value.weighting not in users]
        return _given(value, leave_out=tuple(unused))
    if isinstance(value, LogitConfig) and not value.utility:
        return {"kind": value.kind}
    if isinstance(value, Record):
        return _given(value, leave_out=("folder", "path") if isinstance(value, Config) else ())
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    return {key: _written(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _given(record: Record, leave_out: tuple[str, ...]) -> dict[str, Any]:
    fields = ((key, value) for key, value in record if key not in leave_out)
    return {key: _written(value) for key, value in fields if value is not None and value != ()}
