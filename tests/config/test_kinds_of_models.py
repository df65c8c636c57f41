"""Kinds of models in a configuration: each fits what Python fits, comes back from its text, and is judged as itself."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gmmest as gm
from gmmest import config
from gmmest.config.build import bootstrap, build, fit
from gmmest.config.model_kinds import KINDS
from gmmest.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
WAGES = ROOT / "data" / "wages.csv"

LINEAR = """\
data:
  path: wages.csv
model:
  kind: linear_iv
  dependent: lwage
  exogenous: [exper]
  endogenous: [school]
  instruments: [distance, mother]
  constant: true
"""

EXPONENTIAL = """\
data:
  path: wages.csv
model:
  kind: exponential_iv
  dependent: wage
  exogenous: [exper]
  endogenous: [school]
  instruments: [distance, mother]
  errors: additive
  constant: true
"""

FUNCTION = """\
data:
  path: wages.csv
model:
  kind: moment_function
  function: moments:wage_and_spread
  names: [const, school, exper, sigma]
  columns: [lwage, school, exper, distance, mother]
  moment_names: [mean, exper, distance, mother, spread]
  start:
    sigma: 1.0
"""

RESIDUALS = """\
data:
  path: wages.csv
model:
  kind: moment_function
  function: moments:wage_residual
  names: [school, exper, const]
  columns: [wage, school, exper]
  instruments: [exper, distance, mother]
  constant: true
"""

TEXTS = {"linear_iv": LINEAR, "exponential_iv": EXPONENTIAL, "moment_function": FUNCTION}

CLUSTERED = ["data.cluster=town", "estimation.weighting=cluster"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wages")
    (path / "wages.csv").write_bytes(WAGES.read_bytes())
    (path / "moments.py").write_bytes((ROOT / "configs" / "moments.py").read_bytes())
    frame = pyarrow.csv.read_csv(WAGES)
    pyarrow.parquet.write_table(frame, path / "wages.parquet")
    return path


def wages() -> Any:
    return pyarrow.csv.read_csv(WAGES)


def linear(**roles: Any) -> tuple[Any, Any]:
    columns = ["lwage", "exper", "school", "distance", "mother"]
    return gm.LinearIV("lwage", ["exper"], ["school"], ["distance", "mother"]), gm.Table.from_frame(
        wages(), columns, **roles
    )


def exponential(errors: Any = "additive", **roles: Any) -> tuple[Any, Any]:
    columns = ["wage", "exper", "school", "distance", "mother"]
    model = gm.ExponentialIV("wage", ["exper"], ["school"], ["distance", "mother"], errors=errors)
    return model, gm.Table.from_frame(wages(), columns, **roles)


def moments(**roles: Any) -> tuple[Any, Any]:
    scope: dict[str, Any] = {}
    exec((ROOT / "configs" / "moments.py").read_text(encoding="utf-8"), scope)
    model = gm.MomentFunction(
        scope["wage_and_spread"],
        names=["const", "school", "exper", "sigma"],
        moment_names=["mean", "exper", "distance", "mother", "spread"],
        start={"sigma": 1.0},
    )
    return model, gm.Table.from_frame(wages(), ["lwage", "school", "exper", "distance", "mother"], **roles)


def residuals(**options: Any) -> tuple[Any, Any]:
    scope: dict[str, Any] = {}
    exec((ROOT / "configs" / "moments.py").read_text(encoding="utf-8"), scope)
    instruments = ["exper", "distance", "mother"]
    model = gm.MomentFunction(
        scope["wage_residual"], names=["school", "exper", "const"], instruments=instruments, **options
    )
    return model, gm.Table.from_frame(wages(), ["wage", "school", "exper", "distance", "mother"])


KERNEL = {"weighting": "kernel", "kernel": "parzen", "bandwidth": 2.5}
KERNEL_SET = [f"estimation.{key}={value}" for key, value in KERNEL.items()]

CASES: list[tuple[str, list[str], tuple[Any, Any], dict[str, Any]]] = [
    (LINEAR, [], linear(), {}),
    (LINEAR, ["data.weight=weight"], linear(weight="weight"), {}),
    (LINEAR, ["data.frequency=exper"], linear(frequency="exper"), {}),
    (LINEAR, CLUSTERED, linear(cluster="town"), {"weighting": "cluster"}),
    (
        LINEAR,
        ["data.cluster=[town, mother]", "estimation.weighting=twoway"],
        linear(cluster=["town", "mother"]),
        {"weighting": "twoway"},
    ),
    (LINEAR, [*KERNEL_SET, "data.time=person"], linear(time="person"), KERNEL),
    (LINEAR, ["estimation.weighting=unadjusted"], linear(), {"weighting": "unadjusted"}),
    (LINEAR, ["estimation.steps=onestep", "estimation.se=sandwich"], linear(), {"steps": "onestep"}),
    (
        LINEAR,
        ["estimation.steps=cue", "estimation.weighting=unadjusted"],
        linear(),
        {"steps": "cue", "weighting": "unadjusted"},
    ),
    (LINEAR, ["estimation.fixed={school: 0.08}"], linear(), {"fixed": {"school": 0.08}}),
    (LINEAR, ["estimation.tied={exper: 0.25*school}"], linear(), {"tied": {"exper": "0.25*school"}}),
    (EXPONENTIAL, [], exponential(), {}),
    (
        EXPONENTIAL,
        ["model.errors=multiplicative", *CLUSTERED],
        exponential("multiplicative", cluster="town"),
        {"weighting": "cluster"},
    ),
    (
        EXPONENTIAL,
        ["estimation.bounds={school: [0, 0.05]}", "estimation.small_sample=true"],
        exponential(),
        {"bounds": {"school": (0, 0.05)}, "small_sample": True},
    ),
    (RESIDUALS, [], residuals(), {}),
    (
        RESIDUALS,
        ["model.constant=false", "estimation.fixed={const: 0.5}"],
        residuals(constant=False),
        {"fixed": {"const": 0.5}},
    ),
    (FUNCTION, [], moments(), {}),
    (
        FUNCTION,
        [*CLUSTERED, "data.weight=weight", "estimation.grad=jax"],
        moments(cluster="town", weight="weight"),
        {"weighting": "cluster", "grad": "jax"},
    ),
    (
        FUNCTION,
        ["estimation.steps=iterated", "estimation.centred=true"],
        moments(),
        {"steps": "iterated", "centred": True},
    ),
]


@pytest.mark.parametrize(
    ("text", "overrides", "python", "options"),
    CASES,
    ids=[" ".join([config.loads(case[0], folder=".").model.kind, *case[1]]) for case in CASES],
)
def test_a_configuration_fits_what_python_fits_to_the_last_bit(
    folder: Path, text: str, overrides: list[str], python: tuple[Any, Any], options: dict[str, Any]
) -> None:
    ours = fit(config.loads(text, folder=folder, overrides=overrides))
    theirs = gm.GMMEstimator(*python, **options).fit()
    assert ours.names == theirs.names
    assert ours.moment_names == theirs.moment_names
    assert ours.theta.tobytes() == theirs.theta.tobytes()
    assert ours.estimate.v.tobytes() == theirs.estimate.v.tobytes()
    assert ours.manifest["data_sha256"] == theirs.manifest["data_sha256"]
    assert ours.verified


def test_parquet_gives_what_csv_gives(folder: Path) -> None:
    overrides = ["data.weight=weight", *CLUSTERED]
    csv = fit(config.loads(LINEAR, folder=folder, overrides=overrides))
    parquet = fit(config.loads(LINEAR, folder=folder, overrides=[*overrides, "data.path=wages.parquet"]))
    assert csv.theta.tobytes() == parquet.theta.tobytes()
    assert csv.manifest["data_sha256"] == parquet.manifest["data_sha256"]


def test_effects_of_towns_are_absorbed(folder: Path) -> None:
    """Groups are text ids of the file, and no clusters of S unless they are named there."""
    text = LINEAR.replace("  constant: true\n", "  absorb: town\n").replace("[distance, mother]", "[mother]")
    python = gm.LinearIV("lwage", ["exper"], ["school"], ["mother"], absorb="town")
    ours, theirs = fit(config.loads(text, folder=folder)), gm.GMMEstimator(python, wages()).fit()
    assert ours.theta.tobytes() == theirs.theta.tobytes()
    assert ours.estimate.v.tobytes() == theirs.estimate.v.tobytes()
    by_mother = ["data.cluster=mother", "estimation.weighting=cluster"]
    ours = fit(config.loads(text, folder=folder, overrides=by_mother))
    table = gm.Table.from_frame(wages(), ["lwage", "exper", "school", "mother"], cluster=["town", "mother"])
    theirs = gm.GMMEstimator(python, table, weighting="cluster", cluster="mother").fit()
    assert ours.estimate.v.tobytes() == theirs.estimate.v.tobytes()
    by_town = fit(config.loads(text, folder=folder, overrides=CLUSTERED))
    theirs = gm.GMMEstimator(python, table, weighting="cluster", cluster="town").fit()
    assert by_town.estimate.v.tobytes() == theirs.estimate.v.tobytes()


def test_every_argument_of_a_model_can_be_said() -> None:
    for kind, model in (
        ("linear_iv", gm.LinearIV),
        ("exponential_iv", gm.ExponentialIV),
        ("moment_function", gm.MomentFunction),
        ("logit", gm.Logit),
    ):
        beyond = {"kind"} | ({"columns"} if kind == "moment_function" else set())
        assert set(KINDS[kind].model_fields) - beyond == set(signature(model).parameters), kind


# --- coming back, and being misspelt -----------------------------------------------------------------


@pytest.mark.parametrize("text", [*TEXTS.values(), RESIDUALS], ids=[*TEXTS, "residuals"])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.weight=w", *CLUSTERED],
        KERNEL_SET,
        ["estimation.starts=[{const: 1}]"],
        ["bootstrap={kind: wild, multipliers: webb, replications: 99}"],
        ["data.cluster=town", "bootstrap.kind=cluster", "bootstrap.seed=7"],
    ],
    ids=" ".join,
)
def test_a_configuration_comes_back_from_its_own_text(text: str, overrides: list[str]) -> None:
    first = config.loads(text, folder="/base", overrides=overrides)
    again = config.loads(json.dumps(first.as_dict()), folder="/base")
    assert again == first
    assert again.sha256 == first.sha256
    assert f"  kind: {first.as_dict()['model']['kind']}\n" in text
    assert hash(again) == hash(first)


def one_letter_off(word: str) -> set[str]:
    spots = range(len(word))
    return {word[:i] + "q" + word[i + 1 :] for i in spots} | {word[:i] + word[i + 1 :] for i in spots}


KEYS = [
    (text, kind, key)
    for kind, text in (*TEXTS.items(), ("moment_function", RESIDUALS))
    for key in KINDS[kind].model_fields
    if f"  {key}:" in text
]


@pytest.mark.parametrize(("text", "kind", "key"), KEYS, ids=[f"{kind} {key}" for _, kind, key in KEYS])
def test_every_key_with_one_wrong_letter_gets_one_complaint(text: str, kind: str, key: str) -> None:
    lines = text.splitlines()
    line = next(i for i, row in enumerate(lines) if row.startswith(f"  {key}:"))
    for wrong in sorted(one_letter_off(key) - {key}):
        edited = list(lines)
        edited[line] = edited[line].replace(key, wrong, 1)
        found = said("\n".join(edited))
        assert len(found) == 1, found
        assert found[0].startswith(
            f"E101 unknown key '{wrong}'; did you mean '{key}'? | text, line {line + 1}, model."
        )
        assert f"| the keys of model of kind {kind} are kind, " in found[0]


def said(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.loads(text, folder=".", name="text", overrides=overrides)
    return [f"{c.code} {c.what} | {c.where} | {c.next}" for c in caught.value.complaints]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
keys = st.sampled_from(["kind", "dependent", "names", "start", "utility", "instruments", "school"]) | st.text(
    max_size=3
)
nested = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(TEXTS)), st.sampled_from(["data", "model", "estimation"]), st.data())
def test_any_value_in_the_place_of_another_is_read_or_refused_in_plain_words(
    kind: str, section: str, data: st.DataObject
) -> None:
    written = config.loads(TEXTS[kind], folder=".").as_dict()
    choices = sorted({*written[section], *(KINDS[kind].model_fields if section == "model" else ())})
    written[section][data.draw(st.sampled_from(choices))] = data.draw(nested)
    said = refusal(json.dumps(written))
    assert "Input should" not in said
    assert "_Empty" not in said
    assert "<" not in said.replace("<text>", "") or "<" in json.dumps(written)


def refusal(text: str) -> str:
    """What is said about a text; empty if it is read."""
    try:
        config.loads(text, folder=".")
    except ConfigError as error:
        return str(error)
    return ""


def test_a_name_like_a_tag_of_ours_is_a_name() -> None:
    found = said(LINEAR, "estimation.start={<x>: many}")
    assert len(found) == 1
    assert found[0].startswith("E102 estimation.start.<x>: expected a finite number, found the text 'many' |")


# --- refusals ------------------------------------------------------------------------------------------

KIND = "E102 model.kind: expected logit, linear_iv, exponential_iv or moment_function, found"
ELSEWHERE = [
    "moments",
    "moments.py:f",
    "../moments:f",
    "/tmp/moments:f",
    "a/moments:f",
    "os.path:join",
    "m:f:g",
    ":f",
    "m:",
]

REFUSED = [
    (
        LINEAR,
        "model.kind=linear_vi",
        f"{KIND} the text 'linear_vi' | --set model.kind=linear_vi | did you mean 'linear_iv'?",
    ),
    (
        LINEAR,
        "model.kind=ols",
        f"{KIND} the text 'ols' |",
    ),
    (LINEAR, "model.kind=", f"{KIND} nothing"),
    (LINEAR, "model.errors=additive", "E101 unknown key 'errors' |"),
    (LINEAR, "data.case=person", "E102 data.case has no meaning with model.kind linear_iv |"),
    (FUNCTION, "data.missing=error", "E102 data.missing has no meaning with model.kind moment_function |"),
    (
        LINEAR,
        "model.dependent=[lwage]",
        "E102 model.dependent: expected the name of the column that is explained, found a list |",
    ),
    (
        LINEAR,
        "model.exogenous=3",
        "E102 model.exogenous: expected a column's name, or a list of names, found the number 3 |",
    ),
    (
        LINEAR,
        "model.exogenous=[exper, 3]",
        "E102 model.exogenous[1]: expected a column's name, or a list of names,"
        " found the number 3 | --set model.exogenous=[exper, 3] | for the text put it into quotes: '3'",
    ),
    (
        LINEAR,
        "model.instruments=[distance, school]",
        "E102 model.instruments names 'school', which is in model.endogenous too |",
    ),
    (
        LINEAR,
        "model.exogenous=[exper, exper]",
        "E102 model.exogenous names 'exper', which is twice in model.exogenous |",
    ),
    (
        LINEAR,
        "model.endogenous=lwage",
        "E102 model.endogenous names 'lwage', which is in model.dependent too |",
    ),
    (
        LINEAR,
        "model.absorb=town",
        "E102 a constant beside absorbed effects: the effects of all groups contain it |",
    ),
    (LINEAR, "model.constant=yes", "E102 model.constant: expected true or false, found the text 'yes' |"),
    (
        EXPONENTIAL,
        "model.errors=additve",
        "E102 model.errors: expected additive or multiplicative,"
        " found the text 'additve' | --set model.errors=additve | did you mean 'additive'?",
    ),
    (
        FUNCTION,
        "model.start={sigmma: 1}",
        "E102 model.start names 'sigmma', which is not in model.names"
        " | --set model.start={sigmma: 1} | did you mean 'sigma'?",
    ),
    (FUNCTION, "model.names=[const, school, exper, sigma, const]", "E102 model.names names 'const' twice |"),
    (
        FUNCTION,
        "model.names=[]",
        "E102 model.names: expected a list of the parameters' names, found an empty list |",
    ),
    (
        FUNCTION,
        "model.start.sigma=one",
        "E102 model.start.sigma: expected a finite number, found the text 'one' |",
    ),
    (
        FUNCTION,
        "model.constant=true",
        "E102 model.constant has no use without model.instruments, of which it is one |",
    ),
    (
        RESIDUALS,
        "model.instruments=[mother, const]",
        "E102 model.instruments names 'const', which model.constant adds |",
    ),
    (RESIDUALS, "model.instruments=[mother, mother]", "E102 model.instruments names 'mother' twice |"),
    (
        RESIDUALS,
        "model.instruments=[]",
        "E102 model.instruments: expected a column's name, or a list of at least one name, found an empty list |",
    ),
    (
        FUNCTION,
        "model.function=3",
        "E102 model.function: expected FILE:FUNCTION, such as moments:my_moments, found the number 3 |",
    ),
    *(
        (
            FUNCTION,
            f"model.function='{name}'",
            f"E102 model.function is '{name}'; expected FILE:FUNCTION, such as",
        )
        for name in ELSEWHERE
    ),
]


@pytest.mark.parametrize(("text", "override", "complaint"), REFUSED, ids=[row[1] for row in REFUSED])
def test_a_mistake_gets_one_complaint_in_these_words(text: str, override: str, complaint: str) -> None:
    found = said(text, override)
    assert len(found) == 1, found
    assert found[0].startswith(complaint)


def test_a_regression_needs_its_parts() -> None:
    found = said("data: {path: a.csv}\nmodel: {kind: linear_iv, constant: false}\n")
    assert [line.partition(" |")[0] for line in found] == [
        "E102 model.dependent is missing: expected the name of the column that is explained",
        "E102 the regression has no regressors",
    ]


def test_simulated_choices_are_for_logit() -> None:
    text = LINEAR.replace(
        "  path: wages.csv", "  simulate: {sets: 9, alternatives: 2, features: 1, moments: 2, seed: 1}"
    )
    found = said(text)
    assert [line.partition(" |")[0] for line in found] == [
        "E102 data.simulate has no meaning with model.kind linear_iv"
    ]


def test_a_word_in_a_column_of_numbers_is_named(folder: Path) -> None:
    settings = config.loads(LINEAR, folder=folder, overrides=["model.exogenous=[exper, town]"])
    with pytest.raises(DataError, match=r"E311 town: row 1 holds 't\d\d', expected a plain number"):
        build(settings)


@pytest.mark.parametrize("name", ["linear_iv", "moments", "residuals"])
def test_the_configurations_that_come_along_fit(name: str) -> None:
    result = fit(config.load(ROOT / "configs" / f"{name}.yaml"))
    assert result.verified
    # what the data were drawn with
    assert abs(result.params["school"] - 0.08) < 2 * result.bse["school"]


# --- the bootstrap --------------------------------------------------------------------------------------

NO_DRAWS = [
    (["bootstrap=3"], "bootstrap: expected a mapping with replications, kind, seed"),
    (
        ["bootstrap.kind=clusters"],
        "bootstrap.kind: expected pairs, cluster or wild, found the text 'clusters'",
    ),
    (
        ["bootstrap.replications=1"],
        "bootstrap.replications: expected a whole number of at least 2, found the",
    ),
    (["bootstrap.seed=-1"], "bootstrap.seed: expected a whole number of at least 0, found the number -1"),
    (["bootstrap.multipliers=webb"], "bootstrap.multipliers has no use with kind pairs"),
    (["bootstrap={kind: wild, recentre: false}"], "bootstrap.recentre has no use with kind wild"),
    (
        ["bootstrap={kind: pairs, cluster: town}", "data.cluster=town", "estimation.weighting=cluster"],
        "bootstrap.cluster has no use",
    ),
    (["bootstrap.kind=cluster"], "bootstrap.kind cluster takes one of data.cluster, found 0"),
    (
        ["bootstrap.kind=cluster", "data.cluster=[a, b]"],
        "bootstrap.kind cluster takes one of data.cluster, found 2",
    ),
    (
        ["bootstrap={kind: cluster, cluster: twn}", "data.cluster=town"],
        "bootstrap.cluster names 'twn', and data.cluster does not",
    ),
    (
        [
            "bootstrap={kind: cluster, cluster: b}",
            "data.cluster=[a, b]",
            "estimation={weighting: cluster, cluster: a}",
        ],
        "bootstrap.cluster names 'b', and estimation.cluster does not",
    ),
    (
        [*CLUSTERED, "bootstrap={kind: pairs}"],
        "bootstrap.kind pairs draws observations one by one, and weighting is cluster",
    ),
    (
        ["estimation.weighting=kernel", "bootstrap={}"],
        "no bootstrap keeps the dependence of weighting kernel",
    ),
    (
        ["bootstrap={cluster: town}", "data.cluster=town"],
        "bootstrap.cluster has no use with kind pairs",
    ),
    (["bootstrap={kind: wild}", "data.cluster=town"], "data.cluster has no use with weighting robust"),
]


@pytest.mark.parametrize(("overrides", "complaint"), NO_DRAWS, ids=[" ".join(row[0]) for row in NO_DRAWS])
def test_draws_that_cannot_be_made_are_refused(overrides: list[str], complaint: str) -> None:
    found = said(LINEAR, *overrides)
    assert found[0].startswith(f"E102 {complaint}")
    assert len(found) == 1 + ("bootstrap.cluster has no use" in complaint), found


@pytest.mark.parametrize("key", config.BootstrapConfig.model_fields)
def test_every_key_of_the_bootstrap_with_one_wrong_letter_gets_one_complaint(key: str) -> None:
    for wrong in sorted(one_letter_off(key) - {key}):
        found = said(f"{LINEAR}bootstrap:\n  {wrong}: nonsense\n")
        assert len(found) == 1, found
        assert found[0].startswith(f"E101 unknown key '{wrong}'; did you mean '{key}'?")


def test_a_section_without_keys_has_its_defaults() -> None:
    assert config.loads(LINEAR, folder=".").bootstrap is None
    for section in ("bootstrap:", "bootstrap: {}", "bootstrap:\n  # kind: wild"):
        assert config.loads(f"{LINEAR}{section}\n", folder=".").bootstrap == config.BootstrapConfig()


@pytest.mark.parametrize("text", [LINEAR, EXPONENTIAL])
def test_models_of_one_file_say_that_a_folder_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "d").mkdir()
    given = config.loads(text, folder=tmp_path, name="a.yaml", overrides=["data.path=d"])
    with pytest.raises(gm.FileError, match=r"E510 .*d is a folder; a model of kind (\w+_iv) reads one file"):
        build(given)


def test_the_usual_bootstrap_keeps_the_dependence_that_the_weighting_allows_for(folder: Path) -> None:
    for overrides, kind in (([], "pairs"), (CLUSTERED, "cluster")):
        settings = config.loads(LINEAR, folder=folder, overrides=[*overrides, "bootstrap.replications=3"])
        drawn = bootstrap(settings, fit(settings))
        assert drawn.options.kind == kind
