"""Weights, clusters, time and the estimators of S from a configuration: what they mean, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.csv
import pytest

import gmmest as gm
from gmmest import config
from gmmest.config import schema
from gmmest.config.build import build, fit
from gmmest.derivatives.backends import BACKENDS
from gmmest.errors import ConfigError, DataError
from gmmest.execution.threads import EXECUTORS
from gmmest.gmm.corrected import COVARIANCES
from gmmest.gmm.covariance_options import ESTIMATORS
from gmmest.gmm.kernels import KERNELS
from gmmest.gmm.optimize import OPTIMIZERS
from gmmest.gmm.steps import STEPS

TRAVELLERS = 210
MODES = 4

CHOICES = """\
data:
  path: rows.csv
  case: individual
  alternative: mode
  chosen: choice
model:
  utility: [{constant: air}, {column: gc}, {column: ttme}]
  instruments: {add: [{column: invc}]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The travel mode data with columns of weights, counts, groups and times, constant within travellers."""
    source = Path(__file__).parents[2] / "data" / "travel_mode.csv"
    header, *lines = source.read_text(encoding="utf-8").splitlines()
    assert len(lines) == TRAVELLERS * MODES
    rng = np.random.default_rng(7)
    columns = {
        "w": rng.uniform(0.5, 2.0, TRAVELLERS).round(3),
        "n": rng.integers(1, 4, TRAVELLERS),
        "town": [f"town{k}" for k in rng.integers(0, 30, TRAVELLERS)],
        "year": rng.integers(1990, 2010, TRAVELLERS),
        "hour": rng.permutation(TRAVELLERS),
        "day": np.datetime64("2024-01-01") + rng.permutation(TRAVELLERS),
    }
    out = [",".join([header, *columns])]
    for i, line in enumerate(lines):
        out.append(",".join([line, *(str(values[i // MODES]) for values in columns.values())]))
    path = tmp_path_factory.mktemp("data")
    (path / "rows.csv").write_text("\n".join(out) + "\n", encoding="utf-8")
    return path


def from_configuration(folder: Path, *overrides: str) -> gm.GMMResults:
    return fit(config.loads(CHOICES, folder=folder, overrides=overrides))


def from_python(
    folder: Path, roles: dict[str, Any], options: dict[str, Any], start: Any = None
) -> gm.GMMResults:
    frame = pyarrow.csv.read_csv(folder / "rows.csv")
    data = gm.ChoiceData.from_frame(
        frame, case="individual", alternative="mode", chosen="choice", source="rows.csv", **roles
    )
    utility = [gm.Constant("air"), gm.Term("gc"), gm.Term("ttme")]
    model = gm.Logit(utility, instruments=[*utility, gm.Term("invc")])
    return gm.GMMEstimator(model, data, **options).fit(start=start)


CASES: list[tuple[list[str], dict[str, Any], dict[str, Any]]] = [
    (["data.weight=w"], {"weight": "w"}, {}),
    (["data.frequency=n"], {"frequency": "n"}, {}),
    (["data.weight=w", "data.frequency=n"], {"weight": "w", "frequency": "n"}, {}),
    (["estimation.centred=true"], {}, {"centred": True}),
    (["estimation.small_sample=true"], {}, {"small_sample": True}),
    (["data.cluster=town", "estimation.weighting=cluster"], {"cluster": "town"}, {"weighting": "cluster"}),
    (
        [
            "data.cluster=year",
            "estimation.weighting=cluster",
            "data.weight=w",
            "estimation.small_sample=true",
        ],
        {"cluster": "year", "weight": "w"},
        {"weighting": "cluster", "small_sample": True},
    ),
    (
        ["data.cluster=[town, year]", "estimation.weighting=cluster", "estimation.cluster=year"],
        {"cluster": ["town", "year"]},
        {"weighting": "cluster", "cluster": "year"},
    ),
    (
        ["data.cluster=[town, year]", "estimation.weighting=twoway"],
        {"cluster": ["town", "year"]},
        {"weighting": "twoway"},
    ),
    (["data.time=hour", "estimation.weighting=kernel"], {"time": "hour"}, {"weighting": "kernel"}),
    (
        [
            "data.time=day",
            "estimation.weighting=kernel",
            "estimation.kernel=qs",
            "estimation.bandwidth=andrews",
        ],
        {"time": "day"},
        {"weighting": "kernel", "kernel": "qs", "bandwidth": "andrews"},
    ),
    (
        ["estimation.weighting=kernel", "estimation.kernel=parzen", "estimation.bandwidth=3"],
        {},
        {"weighting": "kernel", "kernel": "parzen", "bandwidth": 3},
    ),
    (["estimation.starts=3"], {}, {"starts": 3}),
    (
        ["estimation.starts=[{gc: -0.1}, {ttme: -0.5, gc: 0}]"],
        {},
        {"starts": [{"gc": -0.1}, {"ttme": -0.5, "gc": 0.0}]},
    ),
    (["estimation.steps=iterated", "estimation.centred=true"], {}, {"steps": "iterated", "centred": True}),
    (["estimation.steps=cue", "data.weight=w"], {"weight": "w"}, {"steps": "cue"}),
]


@pytest.mark.parametrize(("overrides", "roles", "options"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_a_configuration_fits_what_python_fits_to_the_last_bit(
    folder: Path, overrides: list[str], roles: dict[str, Any], options: dict[str, Any]
) -> None:
    ours, theirs = from_configuration(folder, *overrides), from_python(folder, roles, options)
    assert ours.theta.tobytes() == theirs.theta.tobytes()
    assert ours.estimate.v.tobytes() == theirs.estimate.v.tobytes()
    assert ours.estimate.s.options == theirs.estimate.s.options
    assert ours.manifest["data_sha256"] == theirs.manifest["data_sha256"]
    assert ours.notes == theirs.notes
    assert ours.verified


def test_each_of_these_options_acts(folder: Path) -> None:
    """No two of them give the same standard errors, but for starts, which find the same minimum."""
    found = [from_configuration(folder, *case[0]) for case in CASES if "starts" not in case[0][0]]
    for one, other in itertools.combinations([from_configuration(folder), *found], 2):
        assert not np.allclose(one.standard_errors, other.standard_errors, rtol=1e-6)


def test_names_of_options_are_those_of_the_estimator() -> None:
    """Each has one source; a configuration can say all of them and nothing else."""
    fields = schema.EstimationConfig.model_fields
    for key, words in (
        ("steps", STEPS),
        ("weighting", ESTIMATORS),
        ("kernel", KERNELS),
        ("se", COVARIANCES),
        ("grad", tuple(BACKENDS)),
        ("optimizer", OPTIMIZERS),
        ("executor", EXECUTORS),
    ):
        assert sorted(get_args(fields[key].annotation)) == sorted(words), key
    options = set(gm.GMMEstimator.__dataclass_fields__) - {"model", "data"}
    assert set(fields) - {"start", "workers"} == options


def test_every_role_of_a_column_can_be_said() -> None:
    from inspect import signature

    roles = {"weight", "frequency", "cluster", "time"}
    for door in (gm.ChoiceData.from_frame, gm.Table.from_frame):
        assert roles <= set(signature(door).parameters)
    assert roles <= set(schema.DataConfig.model_fields)


def test_a_year_may_be_a_cluster_and_a_number_of_the_model(folder: Path) -> None:
    """In CSV ids are text and numbers are not: a column that is both becomes whole numbers."""
    text = CHOICES.replace("{column: ttme}", "{columns: [ttme, year]}")
    cluster = ["data.cluster=year", "estimation.weighting=cluster"]
    both = build(config.loads(text, folder=folder, overrides=cluster)).data.observations.clusters
    alone = build(config.loads(CHOICES, folder=folder, overrides=cluster)).data.observations.clusters
    assert [c.name for c in both] == ["year"]
    # the same groups, whatever their codes
    assert len(np.unique(both[0].codes)) == len(np.unique(alone[0].codes))
    assert len(np.unique(both[0].codes + 1000 * alone[0].codes)) == len(np.unique(alone[0].codes))


def test_a_number_that_is_not_whole_is_no_cluster(folder: Path) -> None:
    text = CHOICES.replace("{column: ttme}", "{columns: [ttme, w]}")
    settings = config.loads(text, folder=folder, overrides=["data.cluster=w", "estimation.weighting=cluster"])
    with pytest.raises(DataError, match="E312"):
        build(settings)


# --- what is refused -------------------------------------------------------------------------------


def said(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.loads(CHOICES, folder=".", overrides=overrides)
    return [f"{c.code} {c.what} | {c.next}" for c in caught.value.complaints]


REFUSED = [
    (
        ["estimation.kernel=qs"],
        "E102 estimation.kernel has no use with weighting robust | write  weighting: kernel,  or delete kernel",
    ),
    (
        ["estimation.bandwidth=4", "estimation.weighting=unadjusted"],
        "E102 estimation.bandwidth has no use with weighting unadjusted"
        " | write  weighting: kernel,  or delete bandwidth",
    ),
    (
        ["estimation.cluster=town"],
        "E102 estimation.cluster has no use with weighting robust"
        " | write  weighting: cluster or twoway,  or delete cluster",
    ),
    (
        ["estimation.weighting=cluster"],
        "E102 weighting cluster needs data.cluster: expected the column with ids of groups"
        " | add a line  cluster: COLUMN",
    ),
    (
        ["data.cluster=town", "estimation.weighting=twoway"],
        "E102 weighting twoway takes two clusters, found 1 | name another column",
    ),
    (
        ["data.cluster=[town, year]", "estimation.weighting=cluster"],
        "E102 weighting cluster takes one cluster, found 2 | name it in  estimation.cluster",
    ),
    (
        ["data.cluster=[town, year]", "estimation.weighting=cluster", "estimation.cluster=twon"],
        "E102 estimation.cluster names 'twon', and data.cluster does not | did you mean 'town'?",
    ),
    (
        ["data.cluster=town"],
        "E102 data.cluster has no use with weighting robust"
        " | write  estimation.weighting: cluster,  or  bootstrap.kind: cluster,  or delete cluster",
    ),
    (
        ["data.time=hour"],
        "E102 data.time has no use with weighting robust: it orders observations for their lags"
        " | write  estimation.weighting: kernel,  or delete time",
    ),
    (
        ["estimation.centred=true", "estimation.weighting=unadjusted"],
        "E102 centred has no meaning with weighting unadjusted: what a model implies has mean zero"
        " | write  weighting: robust,  or delete centred",
    ),
    (
        ["estimation.centred=yes"],
        "E102 estimation.centred: expected true or false, found the text 'yes' | write true or false, without quotes",
    ),
    (
        ["estimation.weighting=kernal"],
        "E102 estimation.weighting: expected robust, unadjusted, cluster, twoway or kernel, found the text 'kernal'"
        " | did you mean 'kernel'?",
    ),
    (
        ["estimation.weighting=kernel", "estimation.bandwidth=neweywest"],
        "E102 estimation.bandwidth: expected a number of at least 0, newey-west or andrews,"
        " found the text 'neweywest' | did you mean 'newey-west'?",
    ),
    (
        ["estimation.weighting=kernel", "estimation.bandwidth='4'"],
        "E102 estimation.bandwidth: expected a number of at least 0, newey-west or andrews,"
        " found the text '4' | write 4 without quotes",
    ),
    (
        ["estimation.weighting=kernel", "estimation.bandwidth=-1"],
        "E102 estimation.bandwidth: expected a number of at least 0, newey-west or andrews, found the number -1 | ",
    ),
    (
        ["estimation.starts=[]"],
        "E102 estimation.starts: expected a whole number of at least 1, or a list of mappings of parameters'"
        " names to numbers, found an empty list | ",
    ),
    (
        ["estimation.starts=[{gc: 1}, 3]"],
        "E102 estimation.starts[1]: expected a mapping of parameters' names to finite numbers, found the number 3 | ",
    ),
    (
        ["estimation.starts=[{gc: many}]"],
        "E102 estimation.starts[0].gc: expected a finite number, found the text 'many' | ",
    ),
    (
        ["data.weight=3"],
        "E102 data.weight: expected the name of the column with sampling weights, found the number 3"
        " | for the text put it into quotes: '3'",
    ),
    (["data.frequncy=n"], "E101 unknown key 'frequncy'; did you mean 'frequency'? | "),
    (["estimation.small_smple=true"], "E101 unknown key 'small_smple'; did you mean 'small_sample'? | "),
]


@pytest.mark.parametrize(("overrides", "complaint"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_an_option_that_cannot_act_is_refused_in_these_words(overrides: list[str], complaint: str) -> None:
    found = said(*overrides)
    assert len(found) == 1, found
    assert found[0].startswith(complaint)


@pytest.mark.parametrize("role", ["weight: w", "frequency: n", "cluster: town", "time: hour"])
def test_simulated_choices_have_no_columns(role: str) -> None:
    key = role.partition(":")[0]
    text = (
        "data: {simulate: {sets: 9, alternatives: 2, features: 1, moments: 2, seed: 1}, "
        f"{role}}}\nmodel: {{kind: logit}}\nestimation: {{weighting: kernel}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        config.loads(text, folder=".")
    assert f"data.{key} has no meaning with data.simulate" in str(caught.value)


def test_a_column_that_is_absent_is_named_with_its_role(folder: Path) -> None:
    settings = config.loads(CHOICES, folder=folder, overrides=["data.weight=wieght"])
    with pytest.raises(DataError, match=r"E315.*wieght"):
        build(settings)


def test_a_key_that_was_written_and_is_the_default_changes_no_hash() -> None:
    kernel = ["estimation.weighting=kernel"]
    plain = config.loads(CHOICES, folder=".", overrides=kernel)
    for key in ("estimation.kernel=bartlett", "estimation.bandwidth=newey-west", "estimation.centred=false"):
        assert config.loads(CHOICES, folder=".", overrides=[*kernel, key]).sha256 == plain.sha256
    assert (
        config.loads(CHOICES, folder=".", overrides=[*kernel, "estimation.bandwidth=4"]).sha256
        != plain.sha256
    )
    lists = [
        config.loads(CHOICES, folder=".", overrides=["estimation.weighting=cluster", f"data.cluster={town}"])
        for town in ("town", "[town]")
    ]
    assert lists[0] == lists[1]


IN_TIME = CHOICES.replace("  chosen: choice\n", "  chosen: choice\n  time: day\n") + (
    "estimation:\n  weighting: kernel\n  kernel: qs\n  bandwidth: 3\n  starts: [{gc: 0}]\n  centred: false\n"
)


@pytest.mark.parametrize("key", ["time", "weighting", "kernel", "bandwidth", "centred"])
def test_every_key_with_one_wrong_letter_is_refused_with_the_right_one(key: str) -> None:
    """It is read as the key that is meant, so that no rule that needs it adds a second complaint."""
    config.loads(IN_TIME, folder=".")
    for i in range(len(key)):
        for wrong in (key[:i] + "q" + key[i + 1 :], key[:i] + key[i + 1 :]):
            with pytest.raises(ConfigError) as caught:
                config.loads(IN_TIME.replace(f"  {key}:", f"  {wrong}:"), folder=".")
            assert [c.code for c in caught.value.complaints] == ["E101"], wrong
            assert f"unknown key '{wrong}'; did you mean '{key}'?" in str(caught.value)
