"""What a configuration accepts, what it says about mistakes, and that it comes back from its own text."""

import json
import pickle
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from gmmest import config
from gmmest.errors import ConfigError, FileError
from gmmest.gmm.covariance_options import ESTIMATORS
from gmmest.gmm.kernels import KERNELS

# Time says nothing here, and a busy machine may be slow.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CONFIGS = Path(__file__).parents[2] / "configs"

FULL = """\
data:
  path: ../data/travel_mode.csv
  case: individual
  alternative: mode
  chosen: choice
  on_bad_sets: error
  missing: drop_set
  weight: w
  frequency: n
  cluster: [town, year]
model:
  kind: logit
  utility:
    - constant: air
      name: asc_air
    - column: hinc
      only: [air, 1]
    - columns: [gc, hinc]
      name: both
  instruments:
    add:
      - column: invc
estimation:
  steps: twostep
  weighting: cluster
  centred: true
  cluster: town
  small_sample: true
  initial: instruments
  se: sandwich
  grad: auto
  optimizer: lsq
  executor: serial
  maxiter: 200
  max_steps: 100
  fixed: {}
  tied: {}
  start:
    gc: 0.1
"""

SIMULATED = """\
data:
  simulate:
    sets: 1000
    alternatives: [5, 30]
    features: 20
    moments: 40
    seed: 20180611
model:
  kind: logit
"""

ROWS = "data: {path: a.csv, case: id, chosen: y, alternative: mode}\n"
SMALL = ROWS + "model: {utility: [{column: gc}]}\n"


def read(text: str, *overrides: str) -> config.Config:
    return config.loads(text, folder="/base", name="logit.yaml", overrides=overrides)


def complaints(text: str, *overrides: str) -> list[str]:
    """What is said about a text, each complaint as 'code what | where | next'."""
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    return [f"{c.code} {c.what} | {c.where} | {c.next}" for c in caught.value.complaints]


def refusal(text: str, *overrides: str) -> str:
    """What is said about a text; empty if it is read.  Any other exception than ConfigError gets through."""
    try:
        read(text, *overrides)
    except ConfigError as error:
        return str(error)
    return ""


def only_complaint(text: str, *overrides: str) -> str:
    found = complaints(text, *overrides)
    assert len(found) == 1, found
    return found[0]


# --- what is read --------------------------------------------------------------------------------


def test_every_key_of_a_full_configuration_arrives():
    found = read(FULL)
    assert found.folder == Path("/base")
    assert found.path is None
    assert found.data_path == Path("/base/../data/travel_mode.csv")
    data = found.data
    assert (data.case, data.alternative, data.chosen) == ("individual", "mode", "choice")
    assert (data.on_bad_sets, data.missing, data.simulate) == ("error", "drop_set", None)
    assert found.model.utility == (
        config.TermConfig(constant="air", name="asc_air"),
        config.TermConfig(columns=("hinc",), only=("air", "1")),
        config.TermConfig(columns=("gc", "hinc"), name="both"),
    )
    assert found.model.instruments.features is True
    assert found.model.instruments.terms == (config.TermConfig(columns=("invc",)),)
    estimation = found.estimation
    assert (estimation.steps, estimation.weighting, estimation.initial) == (
        "twostep",
        "cluster",
        "instruments",
    )
    assert (data.weight, data.frequency, data.cluster, data.time) == ("w", "n", ("town", "year"), None)
    assert (estimation.centred, estimation.cluster, estimation.small_sample) == (True, ("town",), True)
    assert (estimation.se, estimation.grad, estimation.optimizer) == ("sandwich", "auto", "lsq")
    assert (estimation.maxiter, dict(estimation.start)) == (200, {"gc": 0.1})


def test_the_simulated_form():
    simulate = read(SIMULATED).data.simulate
    assert simulate is not None
    assert (simulate.sets, simulate.alternatives, simulate.features) == (1000, (5, 30), 20)
    assert (simulate.moments, simulate.seed) == (40, 20180611)
    assert read(SIMULATED).data_path is None
    same = read(SIMULATED.replace("[5, 30]", "30")).data.simulate
    assert same is not None
    assert same.alternatives == (30, 30)


@pytest.mark.parametrize("section", ["", "estimation:\n", "estimation: {}\n", "estimation:\n  # grad: jax\n"])
def test_without_the_section_estimation_has_its_defaults(section):
    assert read(SMALL + section).estimation == config.EstimationConfig()


@pytest.mark.parametrize(
    ("written", "features", "columns"),
    [
        ("features", True, []),
        ("[{column: a}, {column: b}]", False, ["a", "b"]),
        ("{add: [{column: a}]}", True, ["a"]),
    ],
)
def test_the_three_ways_to_name_instruments(written, features, columns):
    text = ROWS + f"model: {{utility: [{{column: gc}}], instruments: {written}}}"
    instruments = read(text).model.instruments
    assert instruments.features is features
    assert [term.columns[0] for term in instruments.terms] == columns


@pytest.mark.parametrize(
    ("label", "kept"), [("air", "air"), ("1", "1"), ("-3", "-3"), ("'007'", "007"), ("no", "no")]
)
def test_labels_are_text_and_whole_numbers_as_text(label, kept):
    text = ROWS + f"model: {{utility: [{{constant: {label}}}, {{column: gc, only: {label}}}]}}"
    constant, column = read(text).model.utility
    assert constant.constant == kept
    assert column.only == (kept,)


@pytest.mark.parametrize("label", ["true", "1.5", "007", "0x1F", "+1"])
def test_labels_that_a_number_would_change_are_to_be_quoted(label):
    for key in ("constant: ", "column: gc, only: ", "column: gc, only: [a, "):
        closing = "]" if "[" in key else ""
        text = ROWS + f"model: {{utility: [{{{key}{label}{closing}}}]}}"
        assert only_complaint(text).endswith(f"| for the text put it into quotes: '{label}'")


# --- the law of coming back ----------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20)


@st.composite
def term_dicts(draw):
    kind = draw(st.sampled_from(["constant", "column", "columns"]))
    term = {kind: draw(st.lists(names, min_size=2, max_size=3) if kind == "columns" else names)}
    if draw(st.booleans()):
        term["name"] = draw(names)
    if kind != "constant" and draw(st.booleans()):
        term["only"] = draw(names | st.lists(names, min_size=1, max_size=3))
    return term


BEYOND_CHOICES = ("maxiter", "start", "starts", "max_steps", "fixed", "tied", "bounds")
BEYOND_CHOICES += ("workers",)
BEYOND_CHOICES += ("weighting", "centred", "kernel", "bandwidth", "cluster", "small_sample")


def covariance_dicts(draw):
    """Options of S, and the columns of the data that they need."""
    weighting = draw(st.sampled_from(ESTIMATORS))
    estimation = {"weighting": weighting, "small_sample": draw(st.booleans())}
    if weighting != "unadjusted":
        estimation["centred"] = draw(st.booleans())
    data = {}
    if weighting == "kernel":
        estimation["kernel"] = draw(st.sampled_from(KERNELS))
        width = st.floats(0, 1e6) | st.integers(0, 9) | st.sampled_from(["newey-west", "andrews"])
        estimation["bandwidth"] = draw(width)
        data["time"] = draw(names)
    if weighting in ("cluster", "twoway"):
        wanted = 2 if weighting == "twoway" else 1
        listed = draw(st.lists(names, min_size=wanted, max_size=3, unique=True))
        data["cluster"] = listed[0] if len(listed) == 1 else listed
        if len(listed) > wanted:
            estimation["cluster"] = listed[1] if wanted == 1 else listed[1:]
    return estimation, data


@st.composite
def config_dicts(draw):
    """Valid configurations: the premise is that none of them is refused."""
    estimation = {}
    for key, field in config.EstimationConfig.model_fields.items():
        if key not in BEYOND_CHOICES and draw(st.booleans()):
            estimation[key] = draw(st.sampled_from(field.annotation.__args__))
    if draw(st.booleans()):
        estimation["start"] = draw(st.dictionaries(names, numbers, max_size=3))
        estimation["maxiter"] = draw(st.integers(1, 10**9))
    if estimation.get("executor", "serial") != "serial":
        estimation["workers"] = draw(st.integers(1, 10**9))
    if draw(st.booleans()):
        estimation["starts"] = draw(st.integers(1, 10**9))
        if estimation.get("steps") == "iterated":
            estimation["max_steps"] = draw(st.integers(2, 10**9))
        held = draw(st.lists(names, min_size=3, max_size=3, unique=True))
        ends = draw(st.sampled_from([[0.0, "none"], ["none", 1.5], [-1.0, 2.0]]))
        estimation |= {"fixed": {held[0]: draw(numbers)}, "tied": {held[1]: "3*a"}}
        if estimation.get("optimizer") != "bfgs":
            estimation["bounds"] = {held[2]: ends}
    if draw(st.booleans()):
        estimation["starts"] = draw(
            st.lists(st.dictionaries(names, numbers, max_size=2), min_size=1, max_size=3)
        )
    if draw(st.booleans()):
        low, features = draw(st.integers(2, 40)), draw(st.integers(1, 30))
        ends = draw(st.sampled_from([low, [low, low], [low, low + 7]]))
        sizes = {"sets": draw(st.integers(1, 10**9)), "alternatives": ends, "features": features}
        simulate = {
            **sizes,
            "moments": features + draw(st.integers(0, 5)),
            "seed": draw(st.integers(0, 2**63)),
        }
        return {"data": {"simulate": simulate}, "model": {}, "estimation": estimation}
    data = {
        "path": "rows/" + draw(names),
        "case": draw(names),
        "chosen": draw(names),
        "alternative": draw(names),
    }
    if draw(st.booleans()):
        options, roles = covariance_dicts(draw)
        estimation |= options
        data |= roles
    if draw(st.booleans()):
        data |= {"weight": draw(names), "frequency": draw(names)}
    terms = st.lists(term_dicts(), min_size=1, max_size=4)
    instruments = st.just("features") | terms | st.fixed_dictionaries({"add": terms})
    model = {"utility": draw(terms), "instruments": draw(instruments)}
    return {"data": data, "model": model, "estimation": estimation}


def as_yaml(value: object) -> str:
    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    # In flow style ruamel writes {constant: ?x}, which it cannot read.
    yaml.default_flow_style = False
    yaml.dump(value, stream)
    return stream.getvalue()


@patient
@given(config_dicts())
def test_a_configuration_comes_back_from_its_own_text(written):
    first = read(json.dumps(written))
    for dump in (json.dumps, as_yaml):
        again = read(dump(first.as_dict()))
        assert again == first
        assert again.as_dict() == first.as_dict()
        assert again.sha256 == first.sha256


@patient
@given(config_dicts(), config_dicts())
def test_hashes_are_equal_exactly_for_equal_settings(one, other):
    first, second = read(json.dumps(one)), read(json.dumps(other))
    assert (first.sha256 == second.sha256) == (first.as_dict() == second.as_dict())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("only: air", "only: [air]"),
        ("alternative: mode\n", "alternative: 'mode'   # a comment\n"),
        ("start:\n    gc: 0.1", "start: {gc: 1e-1}"),
        ("  steps: twostep\n", ""),
        ("  kind: logit\n", ""),
    ],
)
def test_spelling_order_and_defaults_do_not_change_the_hash(one, other):
    base = FULL.replace("only: [air, 1]", "only: air")
    assert one in base
    assert read(base).sha256 == read(base.replace(one, other)).sha256
    head, _, estimation = base.partition("estimation:")
    assert read(f"estimation:{estimation}{head}").sha256 == read(base).sha256


def test_folder_and_name_do_not_change_the_hash_and_settings_do(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text(FULL, encoding="utf-8")
    assert config.load(file).sha256 == read(FULL).sha256
    assert config.load(str(file)).path == file
    assert config.load(file, ["estimation.maxiter=7"]).sha256 != read(FULL).sha256


def test_records_are_frozen_hashable_and_can_be_pickled():
    first = read(FULL)
    assert hash(first) == hash(read(FULL))
    assert pickle.loads(pickle.dumps(first)) == first
    with pytest.raises(ValidationError):
        first.estimation.maxiter = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        first.estimation.start["gc"] = 1.0  # type: ignore[index]


def test_records_made_without_a_file_keep_the_rules_too():
    with pytest.raises(ValidationError, match="exactly one of constant, column and columns; found none"):
        config.TermConfig(name="gc")
    with pytest.raises(ValidationError, match="not identified"):
        config.SimulateConfig(sets=1, alternatives=(2, 2), features=3, moments=2, seed=0)
    simulate = config.SimulateConfig(sets=1, alternatives=(2, 2), features=2, moments=2, seed=0)
    with pytest.raises(ValidationError, match="both path and simulate"):
        config.DataConfig(path="a", case="b", chosen="c", simulate=simulate)
    with pytest.raises(ValidationError, match="no instruments"):
        config.InstrumentsConfig(features=False)


# --- unknown keys (FAULTS 34) --------------------------------------------------------------------


def keys_of(text: str) -> list[tuple[int, str]]:
    """Line (from 1) and name of every key but the free names below start."""
    lines = enumerate(text.splitlines(), 1)
    found = [(i, line.lstrip(" -").partition(":")[0]) for i, line in lines]
    return [(i, key) for i, key in found if key != "gc"]


def one_letter_off(word: str) -> set[str]:
    spots = range(len(word) + 1)
    inserted = {word[:i] + "q" + word[i:] for i in spots}
    dropped = {word[:i] + word[i + 1 :] for i in spots[:-1]}
    return inserted | dropped | {word[:i] + "q" + word[i + 1 :] for i in spots[:-1]}


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [(text, line, key) for text in (FULL, SIMULATED) for line, key in keys_of(text)],
)
def test_every_key_with_one_wrong_letter_gets_one_complaint(text, line, key):
    read(text)
    siblings = {"column": {"columns"}, "columns": {"column"}}.get(key, set())
    for wrong in sorted(one_letter_off(key) - siblings - {"", key}):
        lines = text.splitlines()
        lines[line - 1] = lines[line - 1].replace(f"{key}:", f"{wrong}:", 1)
        complaint = only_complaint("\n".join(lines))
        # "columqn" and the like are as far from one as from the other.
        meant = {key} | {other for other in siblings if wrong in one_letter_off(other)}
        assert any(complaint.startswith(f"E101 unknown key '{wrong}'; did you mean '{m}'? |") for m in meant)
        assert f"| logit.yaml, line {line}, " in complaint
        assert f"{wrong} | the keys of " in complaint


def test_a_misspelt_section_hides_nothing_below_it():
    text = FULL.replace("estimation:", "estimaton:").replace("maxiter: 200", "maxiter: many")
    assert [c.partition(" |")[0] for c in complaints(text)] == [
        "E101 unknown key 'estimaton'; did you mean 'estimation'?",
        "E102 estimaton.maxiter: expected a whole number of at least 1, found the text 'many'",
    ]


def test_a_key_like_none_gets_no_suggestion_but_the_list():
    assert only_complaint(SMALL + "estimation: {tolerance: 1e-8}") == (
        "E101 unknown key 'tolerance' | logit.yaml, line 3, estimation.tolerance"
        " | the keys of estimation are steps, weighting, centred, kernel, bandwidth, cluster,"
        " small_sample, initial, se, grad, optimizer, executor, workers, maxiter, start, starts, max_steps,"
        " fixed, tied, bounds"
    )


def test_a_key_beside_its_misspelling_is_not_read_twice():
    text = SMALL + "estimation:\n  maxiter: 5\n  max_iter: nonsense\n"
    assert only_complaint(text).startswith(
        "E101 unknown key 'max_iter'; did you mean 'maxiter'? | logit.yaml, line 5"
    )


# --- wrong types and values (FAULTS 35) ----------------------------------------------------------

WHOLE = "expected a whole number of at least 1, found"
RANGE = "expected a whole number of at least 2, or [low, high] of two, found"
LABELS = "expected the label of an alternative, or a list of labels, found"
CASE = "expected the name of the column with the choice set's id"
PRODUCT = "expected a list of two or more columns' names (for one column write  column: NAME), found"
SINGLE = "expected a column's name (for a product write  columns: [NAME, NAME]), found"
OPTIMIZERS = "expected lsq, lbfgsb, bfgs, trust-constr or nelder-mead, found"
ONE_KIND = "a term has exactly one of constant, column and columns; found"

WRONG = [
    ("maxiter: 200", 'maxiter: "10"', f"{WHOLE} the text '10'", "write 10 without quotes"),
    ("maxiter: 200", "maxiter: 10.0", f"{WHOLE} the number 10.0", "write 10"),
    ("maxiter: 200", "maxiter: 1e2", f"{WHOLE} the number 1e2", "write 100"),
    ("maxiter: 200", "maxiter: true", f"{WHOLE} the yes-or-no value true", ""),
    ("maxiter: 200", "maxiter: 0", f"{WHOLE} the number 0", ""),
    ("maxiter: 200", "maxiter: .nan", f"{WHOLE} the number .nan", ""),
    ("maxiter: 200", "maxiter: [3]", f"{WHOLE} a list", ""),
    ("maxiter: 200", "maxiter:", f"{WHOLE} nothing", "give a value, or leave the key out"),
    ("gc: 0.1", "gc: .nan", "expected a finite number, found the number .nan", ""),
    ("gc: 0.1", "gc: -.inf", "expected a finite number, found the number -.inf", ""),
    ("gc: 0.1", "gc: 1e999", "expected a finite number, found the number 1e999", ""),
    ("gc: 0.1", "gc: '0.1'", "expected a finite number, found the text '0.1'", "write 0.1 without quotes"),
    ("gc: 0.1", "gc: true", "expected a finite number, found the yes-or-no value true", ""),
    ("optimizer: lsq", "optimizer: BFGS", f"{OPTIMIZERS} the text 'BFGS'", "did you mean 'bfgs'?"),
    ("steps: twostep", "steps: 2", "expected twostep, onestep, iterated or cue, found the number 2", ""),
    (
        "kind: logit",
        "kind: logti",
        "expected logit, linear_iv, exponential_iv or moment_function, found the text 'logti'",
        "did you mean 'logit'?",
    ),
    ("case: individual", "case: 1", f"{CASE}, found the number 1", "for the text put it into quotes: '1'"),
    ("case: individual", "case: ''", f"{CASE}, found the text ''", ""),
    ("only: [air, 1]", "only: []", f"{LABELS} an empty list", ""),
    ("only: [air, 1]", "only: {a: b}", f"{LABELS} a mapping", ""),
    ("column: hinc", "column: [gc, hinc]", f"{SINGLE} a list", ""),
    ("columns: [gc, hinc]", "columns: gc", f"{PRODUCT} the text 'gc'", ""),
    ("columns: [gc, hinc]", "columns: [gc]", f"{PRODUCT} one", "write  column: NAME"),
    ("columns: [gc, hinc]", "columns: []", f"{PRODUCT} an empty list", ""),
    (
        "- column: invc",
        "- 5",
        "expected a term: a mapping with constant, column or columns, found the number 5",
        "",
    ),
    ("- column: invc", "5", "expected a list of at least one term, found the number 5", ""),
]


@pytest.mark.parametrize(("right", "wrong", "what", "advice"), WRONG, ids=[row[1] for row in WRONG])
def test_every_wrong_value_gets_one_complaint_in_plain_words(right, wrong, what, advice):
    assert FULL.count(right) == 1
    line = FULL[: FULL.index(right)].count("\n") + 1
    complaint = only_complaint(FULL.replace(right, wrong))
    assert complaint.startswith("E102 ")
    assert f": {what} | logit.yaml, line " in complaint
    # The value of "add:" stands on the line below its key, and the key's line is the one to look at.
    assert f"line {line}, " in complaint or wrong == "5"
    assert complaint.endswith(f"| {advice}")
    assert "pydantic" not in complaint
    assert "input" not in complaint.lower()


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        (
            "data: {}\nmodel: {utility: [{column: x}]}",
            "data has neither path nor simulate; exactly one of them is wanted",
            1,
        ),
        (
            SMALL.replace(
                "{path", "{simulate: {sets: 1, alternatives: 2, features: 1, moments: 1, seed: 1}, path"
            ),
            "data has both path and simulate; exactly one of them is wanted",
            1,
        ),
        (SMALL.replace("case: id, ", ""), f"data.case is missing: {CASE}", 1),
        (
            SMALL.replace("chosen: y, ", ""),
            "data.chosen is missing: expected the name of the column that is 1 where chosen",
            1,
        ),
        (
            SIMULATED + "  utility: [{column: x}]",
            "model.utility has no meaning with data.simulate: its columns have no names",
            10,
        ),
        (
            SIMULATED + "  instruments: features",
            "model.instruments has no meaning with data.simulate: its columns have no names",
            10,
        ),
        (SIMULATED.replace("model:", "  case: id\nmodel:"), "data.case has no meaning with data.simulate", 8),
        (
            SIMULATED.replace("moments: 40", "moments: 19"),
            "data.simulate.moments is 19, fewer than the 20 features: not identified",
            6,
        ),
        (SIMULATED.replace("[5, 30]", "[30, 5]"), "data.simulate.alternatives falls from 30 to 5", 4),
        (
            SIMULATED.replace("    seed: 20180611\n", ""),
            "data.simulate.seed is missing: expected a whole number of at least 0",
            2,
        ),
        (ROWS + "model: {kind: logit}", "model.utility is missing: expected a list of terms", 2),
        (ROWS, "model is missing: expected a mapping with kind and the keys of that kind", 1),
        (ROWS + "model: {utility: [{name: x}]}", f"{ONE_KIND} none", 2),
        (ROWS + "model: {utility: [{constant: x, column: y}]}", f"{ONE_KIND} constant and column", 2),
        (
            ROWS + "model: {utility: [{constant: x, only: y}]}",
            "a constant belongs to one alternative already; only has no meaning",
            2,
        ),
        (
            FULL.replace("  alternative: mode\n", ""),
            "data.alternative is missing: expected the column in which constant of model.utility[0] finds its label",
            1,
        ),
    ],
)
def test_rules_between_keys(text, what, line):
    complaint = only_complaint(text)
    assert complaint.startswith(f"E102 {what} | logit.yaml, line {line}")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("30.0", f"{RANGE} the number 30.0"),
        ("1", f"{RANGE} the number 1"),
        ("[2]", f"{RANGE} a list"),
        ("[2, 3, 4]", f"{RANGE} a list"),
        ("[2, x]", f"{RANGE} the text 'x'"),
        ("many", f"{RANGE} the text 'many'"),
    ],
)
def test_sizes_of_simulated_sets(value, what):
    assert what in only_complaint(SIMULATED.replace("[5, 30]", value))


@pytest.mark.parametrize("value", ["[]", "{}", "{add: []}", "{add: 3}", "none", "3", "", "[gc]"])
def test_nonsense_for_instruments_gets_one_complaint(value):
    text = ROWS + f"model:\n  utility: [{{column: gc}}]\n  instruments: {value}\n"
    assert "line 4, model.instruments" in only_complaint(text)


def test_control_characters_in_names_are_refused_and_not_printed():
    complaint = only_complaint(SMALL.replace("case: id", r'case: "\e[2Jid"'))
    assert complaint.startswith(
        "E102 control characters are not allowed here, found '\\x1b[2Jid' | logit.yaml, line 1"
    )


def test_long_values_are_abbreviated():
    assert len(only_complaint(SMALL + f"estimation: {{grad: {'x' * 5000}}}")) < 400
    assert "at most 500 characters" in only_complaint(SMALL.replace("case: id", f"case: {'x' * 501}"))


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/a.csv",
        "HTTP://a/b",
        "s3://bucket/rows.parquet",
        "file:///etc/passwd",
        "file:rows.csv",
        "data:text/csv;base64,YQ==",
    ],
)
def test_addresses_are_refused(address):
    text = SMALL.replace("a.csv", f"'{address}'")
    assert only_complaint(text) == (
        f"E107 data.path is an address ({address}); only local files are read | logit.yaml, line 1, data.path"
        " | download the file, and name it relative to the configuration's folder"
    )


@pytest.mark.parametrize(
    "path", ["../a.csv", "/data/a.csv", "C:/data/a.csv", "a:b.csv", "folder/httpdata.csv"]
)
def test_local_files_anywhere_are_accepted(path):
    assert read(SMALL.replace("a.csv", f"'{path}'")).data_path == Path("/base") / path


# --- all at once ---------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_in_the_order_of_the_lines():
    text = """\
data:
  path: https://example.org/rows.csv
  case: 1
  chosn: choice
  missing: eror
  case: individual
model:
  kind: logti
  utility:
    - constant: air
    - column: hinc
      only: true
    - columns: gc
    - colunm: [gc, ttme]
    - constant: air
      column: gc
    - 5
  instruments: {ad: [{columm: gc}]}
estimation:
  maxiter: 10.0
  start: {gc: "0.1", ttme: .nan, hinc: 1}
"""
    overrides = ["estimation.optimiser=bfgs", "estimation.steps=threestep", "grad"]
    found = complaints(text, *overrides)
    shown = [(c[:4], c.split(" | ")[1].removeprefix("logit.yaml, ")) for c in found]
    assert shown == [
        ("E102", "line 1, data"),
        ("E107", "line 2, data.path"),
        ("E102", "line 3, data.case"),
        ("E101", "line 4, data.chosn"),
        ("E102", "line 5, data.missing"),
        ("E103", "line 6, data.case"),
        ("E102", "line 8, model.kind"),
        ("E102", "line 12, model.utility[1].only"),
        ("E102", "line 13, model.utility[2].columns"),
        ("E101", "line 14, model.utility[3].colunm"),
        ("E102", "line 15, model.utility[4]"),
        ("E102", "line 17, model.utility[5]"),
        ("E101", "line 18, model.instruments.ad"),
        ("E101", "line 18, model.instruments.ad[0].columm"),
        ("E102", "line 20, estimation.maxiter"),
        ("E102", "line 21, estimation.start.gc"),
        ("E102", "line 21, estimation.start.ttme"),
        ("E101", "--set estimation.optimiser=bfgs"),
        ("E102", "--set estimation.steps=threestep"),
        ("E101", "--set grad"),
    ]


def test_the_layout_of_the_message():
    with pytest.raises(ConfigError) as caught:
        read(SMALL + "estimation:\n  max_iter: 5\n  grad: forwards\n")
    assert str(caught.value) == (
        "E101 unknown key 'max_iter'; did you mean 'maxiter'?\n"
        "  where: logit.yaml, line 4, estimation.max_iter\n"
        "  next:  the keys of estimation are steps, weighting, centred, kernel, bandwidth, cluster,"
        " small_sample, initial, se, grad, optimizer, executor, workers, maxiter, start, starts, max_steps, fixed,"
        " tied, bounds\n"
        "E102 estimation.grad: expected auto, fd, fd-central, complex, forward, jax, jax-forward or analytic,"
        " found the text 'forwards'\n"
        "  where: logit.yaml, line 5, estimation.grad\n"
        "  next:  did you mean 'forward'?"
    )


def test_after_a_hundred_complaints_the_reading_ends():
    found = complaints(SMALL + "".join(f"k{i}: 1\n" for i in range(5000)))
    assert len(found) == 101
    assert (
        found[-1]
        == "E104 more than 100 complaints: the rest is not read |  | is this the file that you meant?"
    )


# --- options of the command line -----------------------------------------------------------------


def test_overrides_replace_and_add_and_the_last_one_counts():
    found = read(
        FULL,
        "estimation.optimizer=bfgs",
        "estimation.maxiter=5",
        "estimation.maxiter = 6",
        "model.utility.1.column=ttme",
        "model.utility.1.only=[bus, 2]",
        "estimation.start.ttme=-1e-2",
        "data.case='1'",
    )
    assert found.estimation.optimizer == "bfgs"
    assert found.estimation.maxiter == 6
    assert found.model.utility[1] == config.TermConfig(columns=("ttme",), only=("bus", "2"))
    assert dict(found.estimation.start) == {"gc": 0.1, "ttme": -0.01}
    assert found.data.case == "1"
    assert read(SMALL, "estimation.grad=jax").estimation.grad == "jax"
    assert read(SMALL, "estimation.start={log(x).1: 3}").estimation.start["log(x).1"] == 3


def test_an_override_equals_the_same_words_in_the_file():
    assert read(FULL, "estimation.grad=jax") == read(FULL.replace("grad: auto", "grad: jax"))
    assert read(FULL, "estimation.grad=jax").sha256 == read(FULL.replace("grad: auto", "grad: jax")).sha256


def test_an_override_of_null_takes_a_key_away():
    text = SMALL + "estimation: {start: {gc: -0.01, ttme: 0.1}, maxiter: 7}\n"
    taken = read(text, "estimation.maxiter=null", "estimation.start.gc=null")
    assert taken == read(SMALL + "estimation: {start: {ttme: 0.1}}\n")
    for nothing in ("estimation.maxiter=~", "bootstrap=null", "bootstrap.kind=null", "data.time=Null"):
        assert read(SMALL, nothing) == read(SMALL)
    assert read(SMALL, "model.kind=null").model.kind == "logit"


def test_a_key_that_is_taken_away_must_be_one_and_one_that_is_needed_is_missed():
    assert only_complaint(SMALL, "data.tme=null").startswith("E101 unknown key 'tme'; did you mean 'time'?")
    assert only_complaint(SMALL, "data.case=null").startswith("E102 data.case is missing")
    assert "found nothing" in only_complaint(SMALL, "estimation.maxiter=")
    assert "found nothing" in only_complaint(SMALL, "model.utility.0=null")


def test_an_override_cures_the_file():
    assert read(FULL.replace("grad: auto", "grad: autoo"), "estimation.grad=auto") == read(FULL)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("estimation.optimiser=bfgs", "E101 unknown key 'optimiser'; did you mean 'optimizer'?"),
        ("estimaton.grad=jax", "E101 unknown key 'estimaton'; did you mean 'estimation'?"),
        ("speed.limit=3", "E101 unknown key 'speed'"),
        (
            "estimation.maxiter=ten",
            "E102 estimation.maxiter: expected a whole number of at least 1, found the text 'ten'",
        ),
        (
            "estimation.maxiter=",
            "E102 estimation.maxiter: expected a whole number of at least 1, found nothing",
        ),
        ("estimation.grad", "E101 --set wants SECTION.KEY=VALUE, found 'estimation.grad'"),
        ("=3", "E101 --set wants SECTION.KEY=VALUE, found '=3'"),
        ("estimation..grad=fd", "E101 --set wants SECTION.KEY=VALUE, found 'estimation..grad=fd'"),
        ("a" + ".a" * 5000 + "=1", "E101 --set wants SECTION.KEY=VALUE, found 'a.a.a.a."),
        ("model.utility.3.column=x", "E101 model.utility has no item '3'; it has 3, counted from 0"),
        ("model.utility.-1.column=x", "E101 model.utility has no item '-1'; it has 3, counted from 0"),
        ("model.utility.x.column=x", "E101 model.utility has no item 'x'; it has 3, counted from 0"),
        ("data.case.x=1", "E101 data.case is one value; it has no 'x' below it"),
        ("data.case=a: b", "E101 the value must be one value, [a list] or {a mapping}, on one line"),
        ("data.case=- a", "E101 the value must be one value, [a list] or {a mapping}, on one line"),
        ("data.case=[a", "E103 not YAML: while parsing a flow sequence"),
        ("data.case=&a b", "E104 anchor &a: not allowed in a configuration"),
        ("data.case=*a", "E104 alias *a: not allowed in a configuration"),
        ("data.case=!!str b", "E105 tag !!str: not allowed in a configuration"),
        ("estimation.start={gc: 1, gc: 2}", "E103 key 'gc' is given twice | "),
        ("data.path=http://a/b", "E107 data.path is an address (http://a/b)"),
        ("estimation.start=" + "[" * 60, "E104 more than 50 levels of nesting"),
    ],
)
def test_complaints_about_options_name_the_option(option, complaint):
    found = only_complaint(FULL, option)
    assert found.startswith(complaint)
    assert f" | --set {option[:40]}" in found


# --- files ---------------------------------------------------------------------------------------


def test_an_absent_file_and_a_folder(tmp_path):
    for path, reason in (
        (tmp_path / "absent.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(FileError) as caught:
            config.load(path)
        assert caught.value.codes == ("E511",)
        assert reason in str(caught.value)
        assert "absent.yaml" in str(caught.value) or path == tmp_path


def test_paths_are_relative_to_the_folder_of_the_file(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL, encoding="utf-8")
    assert config.load(file).data_path == tmp_path / "a.csv"


@pytest.mark.parametrize("name", ["logit", "overidentified", "seed"])
def test_the_configurations_that_come_along_are_read(name):
    found = config.load(CONFIGS / f"{name}.yaml")
    if name == "seed":
        assert found.data.simulate is not None
        return
    terms = found.model.utility
    assert [term.constant for term in terms[:3]] == ["air", "train", "bus"]
    assert [term.columns for term in terms[3:]] == [("gc",), ("ttme",), ("hinc",)]
    assert terms[5].only == ("air",)
    extra = [term.columns for term in found.model.instruments.terms]
    assert extra == ([("invc",), ("invt",)] if name == "overidentified" else [])


def test_the_package_alone_loads_neither_pydantic_nor_ruamel():
    code = "import sys, gmmest; sys.exit(any(name.partition('.')[0] in ('pydantic', 'ruamel') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- anything at all -----------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.sampled_from(
    [
        "data",
        "model",
        "estimation",
        "path",
        "case",
        "chosen",
        "simulate",
        "sets",
        "alternatives",
        "features",
        "utility",
        "instruments",
        "add",
        "constant",
        "column",
        "columns",
        "only",
        "start",
        "maxiter",
        "grad",
    ]
)
nested = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=4),
    max_leaves=20,
)


@patient
@given(st.text())
def test_any_text_is_read_or_refused(text):
    assert refusal(text).startswith(("", "E1"))


@patient
@given(st.fixed_dictionaries({}, optional={"data": nested, "model": nested, "estimation": nested}) | nested)
def test_any_value_is_read_or_refused_in_plain_words(value):
    said = refusal(json.dumps(value))
    assert "Input should" not in said
    assert "_Empty" not in said


@patient
@given(config_dicts(), st.data())
def test_a_valid_configuration_with_one_value_replaced_is_read_or_refused(written, data):
    section = data.draw(st.sampled_from(sorted(key for key in written if written[key])))
    key = data.draw(st.sampled_from(sorted(written[section])))
    written[section][key] = data.draw(nested)
    said = refusal(json.dumps(written))
    assert "Input should" not in said
    assert "_Empty" not in said


@patient
@given(st.text(max_size=40))
def test_any_option_is_taken_or_refused(option):
    assert refusal(SMALL, option, f"estimation.start={option}", f"data.{option}").startswith("E1")
