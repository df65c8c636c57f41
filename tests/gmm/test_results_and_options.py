"""What a fit hands back, in every format; and options that are refused, all together."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from gmmest.data.choice_data import ChoiceData
from gmmest.data.table import Table
from gmmest.errors import ConfigError, EstimationError
from gmmest.gmm.certificate import certify
from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.fitted import Context
from gmmest.gmm.optimize import Outcome
from gmmest.models.logit import Logit
from gmmest.models.regression import ExponentialIV, LinearIV

EXACT = 1e-14  # the same arithmetic, written once more
TAIL = 1e-9  # normal tails by another routine


@pytest.fixture(scope="module")
def fitted(travel_data, greene_overidentified):
    return GMMEstimator(greene_overidentified, travel_data()).fit()


def test_pandas_by_name(fitted):
    names = list(fitted.names)
    for series in (fitted.params, fitted.bse, fitted.tvalues, fitted.pvalues):
        assert isinstance(series, pd.Series)
        assert list(series.index) == names
    np.testing.assert_array_equal(fitted.params, fitted.theta)
    np.testing.assert_allclose(fitted.bse, np.sqrt(np.diag(fitted.cov_params())), rtol=EXACT)
    np.testing.assert_allclose(fitted.tvalues, fitted.params / fitted.bse, rtol=EXACT)
    np.testing.assert_allclose(fitted.pvalues, 2 * norm.sf(np.abs(fitted.tvalues)), rtol=TAIL)
    assert list(fitted.cov_params().index) == list(fitted.cov_params().columns) == names
    np.testing.assert_array_equal(fitted.cov_params(), fitted.cov_params().T)
    assert fitted.nobs == fitted.n_obs == 210


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.5])
def test_confidence_intervals_are_normal_quantiles(fitted, alpha):
    interval = fitted.conf_int(alpha)
    reach = norm.ppf(1 - alpha / 2) * fitted.bse
    np.testing.assert_allclose(interval["lower"], fitted.params - reach, rtol=TAIL)
    np.testing.assert_allclose(interval["upper"], fitted.params + reach, rtol=TAIL)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, np.nan, "0.05", None])
def test_levels_that_are_none_are_refused(fitted, alpha):
    with pytest.raises(ConfigError, match="alpha is"):
        fitted.conf_int(alpha)


def test_json_goes_out_and_comes_back_with_every_digit(fitted):
    back = json.loads(fitted.to_json())
    assert back == fitted.as_dict()
    assert list(back["params"].values()) == fitted.theta.tolist()
    assert list(back["bse"].values()) == fitted.standard_errors.tolist()
    assert back["pvalues"] == dict(fitted.pvalues)
    assert back["conf_int_95"] == fitted.conf_int().to_dict()
    assert back["cov_params"] == fitted.cov_params().to_numpy().tolist()
    assert back["moments"] == list(fitted.moment_names)
    assert (back["degrees"], back["clusters"], back["weights"], back["frequencies"]) == (None, {}, None, None)
    assert back["criterion"] == fitted.criterion
    assert back["j_test"] == dataclasses.asdict(fitted.j_test())
    assert back["verified"] is True
    for key in ("n_obs", "n_moments", "n_rows", "grad", "optimizer", "evaluations", "seconds", "loglike"):
        assert back[key] is not None
    assert set(back["certificate"]) >= {"remaining_step_se", "condition", "rank", "reasons"}
    assert set(back["manifest"]) == {"versions", "data_sha256", "config_sha256", "threads"}


def test_json_names_clusters_weights_and_frequencies():
    rng = np.random.default_rng(8)
    frame = pd.DataFrame(
        {"y": rng.normal(size=60), "g": np.arange(60) % 12, "w": rng.uniform(1, 2, 60), "f": 3}
    )
    rows = Table.from_frame(frame, weight="w", frequency="f", cluster="g")
    result = GMMEstimator(LinearIV("y"), rows, weighting="cluster").fit()
    read = json.loads(result.to_json())
    assert read["clusters"] == {"g": 12}
    assert read["degrees"] == 11
    expected = {"sum": frame["w"].sum(), "smallest": frame["w"].min(), "largest": frame["w"].max()}
    assert read["weights"] == pytest.approx(expected)
    assert read["frequencies"] == {"sum": 180.0, "smallest": 3.0, "largest": 3.0}
    assert read["conf_int_95"]["upper"]["const"] == result.conf_int()["upper"]["const"]


def test_every_key_of_the_json_is_documented(fitted):
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    table = page.split("## The result as JSON")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"(?m)^\| (.*?) \|", table)))) == set(
        fitted.as_dict()
    )


def test_the_estimator_is_named_by_what_was_minimised(travel_data, greene_overidentified, fitted):
    """Another S for the standard errors has a place of its own, and changes nothing else."""

    def said(result):
        facts, numbers = dict(result.facts()), result.as_dict()
        return (
            facts["Estimator"],
            facts.get("S at the estimate"),
            numbers["weighting"],
            numbers["se_weighting"],
        )

    robust, unadjusted = "robust (not centred)", "unadjusted (not centred)"
    assert said(fitted) == (f"GMM, twostep, weighting {robust}", None, "robust", "robust")
    other = fitted.with_cov(weighting="unadjusted")
    assert said(other) == (f"GMM, twostep, weighting {robust}", unadjusted, "robust", "unadjusted")
    assert said(other.with_cov(weighting="robust")) == said(fitted)
    one = GMMEstimator(greene_overidentified, travel_data(), steps="onestep").fit()
    assert said(one) == ("GMM, onestep, weighting instruments", robust, "instruments", "robust")


def test_results_cannot_be_changed(fitted):
    before = fitted.to_json()
    for array in (
        fitted.theta,
        fitted.estimate.theta,
        fitted.estimate.moments,
        fitted.estimate.jacobian,
        fitted.estimate.v,
        fitted.estimate.s.matrix,
        fitted.estimate.weight.root,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
    for record, name in ((fitted, "n_obs"), (fitted.estimate, "theta"), (fitted.certificate, "rank")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, None)
    params, v = fitted.params, fitted.cov_params()
    params.iloc[0] = 99.0  # what is handed out is the taker's own
    v.iloc[0, 0] = 99.0
    fitted.as_dict()["manifest"]["versions"]["python"] = "0"
    fitted.as_dict()["params"]["gc"] = 99.0
    assert fitted.to_json() == before


def _arrays(record):
    """Arrays of a record and of the records in it; data are not of its making."""
    if isinstance(record, np.ndarray):
        yield record
    elif isinstance(record, tuple):
        for each in record:
            yield from _arrays(each)
    elif dataclasses.is_dataclass(record) and not isinstance(record, Context):
        for each in dataclasses.fields(record):
            yield from _arrays(getattr(record, each.name))


def test_arrays_of_a_record_refuse_writes(fitted):
    records = (
        fitted,
        fitted.bootstrap(4),
        fitted.profile("gc", (-0.5, 0.5)),
        fitted.nlcom(lambda b: b[:2] / b[3]),
        fitted.confidence_ellipse("gc", "ttme"),
        fitted.lm_test("gc = ttme"),
        fitted.explain_difference("stata"),
        Outcome(np.zeros(2), 0.0, 1, ""),
    )
    for record in records:
        arrays = list(_arrays(record))
        assert arrays
        assert not any(array.flags.writeable for array in arrays), record


def test_sums_that_are_kept_cannot_be_spoilt(fitted):
    """What is handed out is what the next call answers with."""
    moments = fitted.context.moments()
    value, jacobian = moments.value_and_jacobian(fitted.theta, square=True)
    for array in (value, jacobian, moments.value(fitted.theta), moments.square(fitted.theta)):
        with pytest.raises(ValueError, match="read-only"):
            array += 1.0


def test_the_users_start_is_not_written_to(travel_data, greene):
    start = np.zeros(6)
    GMMEstimator(greene, travel_data()).fit(start)
    np.testing.assert_array_equal(start, np.zeros(6))
    start[0] = 1.0  # and can still be


def test_a_start_by_name_from_another_fit_goes_by_name(travel_data, greene):
    first = GMMEstimator(greene, travel_data()).fit()
    backwards = first.params.iloc[::-1]
    again = GMMEstimator(greene, travel_data()).fit(backwards)
    in_order = GMMEstimator(greene, travel_data()).fit(first.theta)
    np.testing.assert_array_equal(again.theta, in_order.theta)


# --- J ------------------------------------------------------------------------------------------------------


def test_j_is_refused_for_a_one_step_fit(travel_data, greene_overidentified):
    one = GMMEstimator(greene_overidentified, travel_data(), steps="onestep").fit()
    with pytest.raises(EstimationError) as refused:
        one.j_test()
    assert refused.value.codes == ("E420",)
    text = str(refused.value)
    assert "J has no meaning here: the weight was 'instruments'" in text
    assert "steps: twostep" in text
    assert one.as_dict()["j_test"] is None
    assert "the weight was not efficient" in str(one.summary())


def test_a_just_identified_model_has_no_j(travel_data, greene):
    for steps in ("onestep", "twostep"):
        result = GMMEstimator(greene, travel_data(), steps=steps).fit()
        assert result.j_test() is None
        assert result.as_dict()["j_test"] is None


# --- text ---------------------------------------------------------------------------------------------------


def test_every_format_begins_with_the_verdict_and_holds_every_estimate(fitted):
    summary = fitted.summary()
    for made in (summary.as_text(), summary.as_latex(), summary.as_html(), summary.as_csv(), str(summary)):
        assert "verified" in made
        assert "NOT" not in made
        for estimate in fitted.theta:
            assert f"{estimate:.6g}" in made
    assert summary.as_text().splitlines()[0].strip().startswith("verified: remaining Newton step")
    assert summary.as_latex().splitlines()[0].startswith("verified")
    assert summary.as_csv().startswith('"verified')
    assert "J test" in str(fitted)
    assert summary._repr_html_() == summary.as_html()


def test_the_table_has_the_level_that_was_asked_for(fitted):
    assert "[0.05" in fitted.summary(alpha=0.1).as_text()
    assert "0.95]" in fitted.summary(alpha=0.1).as_text()


EVIL = [
    "<img src=x onerror=alert(1)>",
    "</td><script>alert(1)</script>",
    "\\input{/etc/passwd}",
    "$x_1^2$ & 50%#~{}",
    '=HYPERLINK("http://x")',
    "+cmd|' /C calc'!A0",
    "@SUM(1)",
    "-2+3",
    "a\x1b[2Jb",
    "\u202eevil",
    'a,b\n"c"',
    "%s %d {0} \x00",
    "\ud800",
    "tab\there",
]


@pytest.fixture(scope="module")
def evil():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, len(EVIL)))
    offsets = np.arange(0, 2001, 4)
    u = X @ np.full(len(EVIL), 0.3) + rng.gumbel(size=2000)
    chosen = np.zeros(2000)
    for a, b in itertools.pairwise(offsets):
        chosen[a + np.argmax(u[a:b])] = 1.0
    data = ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets, feature_names=EVIL)
    result = GMMEstimator(Logit(), data).fit()
    assert list(result.names) == EVIL
    return result


class Tags(HTMLParser):
    """The tags of a page and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add((tag, *(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text.append(data)


def _visible(name):
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def test_names_do_nothing_in_html(evil):
    page = Tags(evil.summary().as_html())
    assert page.tags <= {("table", "class"), ("caption",), ("tr",), ("td",), ("th",), ("br",)}
    for name in EVIL:
        assert _visible(name) in "".join(page.text)
    assert html.escape("<img") in evil.summary()._repr_html_()


def test_names_do_nothing_in_latex(evil):
    made = evil.summary().as_latex()
    ours = {r"\begin", r"\end", r"\toprule", r"\midrule", r"\bottomrule", r"\textbf"}
    letters = {
        rf"\text{word}" for word in ("backslash", "less", "greater", "bar", "asciicircum", "asciitilde")
    }
    import re

    assert set(re.findall(r"\\[a-zA-Z]+", made)) <= ours | letters
    for line in made.splitlines():
        plain = line.replace(r"\\", "")
        assert not re.search(r"(?<!\\)[$#^~%]", plain), line
        assert plain.count("{") == plain.count("}")
    rows = [line for line in made.splitlines() if line.startswith(r"\textbf")]
    assert len(rows) == len(EVIL)
    assert all(len(re.findall(r"(?<!\\)&", row)) == 6 for row in rows)


def test_names_do_nothing_in_csv(evil):
    rows = list(csv.reader(io.StringIO(evil.summary().as_csv())))
    heading = next(i for i, row in enumerate(rows) if "std err" in row)
    table = rows[heading + 1 : heading + 1 + len(EVIL)]
    for row, name in zip(table, EVIL, strict=True):
        assert len(row) == 7
        assert row[0].lstrip("'") == _visible(name)
        assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert all(np.isfinite(float(cell)) for cell in row[1:])  # numbers stay numbers, signs and all


def test_names_do_nothing_on_a_terminal(evil):
    for made in (str(evil.summary()), evil.to_json(), evil.verdict(), *itertools.chain(*evil.table()[1])):
        assert all(line.isprintable() for line in made.split("\n"))
    assert list(json.loads(evil.to_json())["params"]) == EVIL
    evil.to_json().encode("utf-8")


def test_a_verdict_about_a_hostile_name_is_printable():
    found = certify(np.zeros(1), np.array([1.0]), np.eye(1), np.ones(1), ("\x1b[2J\u202e",))
    assert not found.verified
    assert all(reason.isprintable() for reason in found.reasons)


# --- options ------------------------------------------------------------------------------------------------


def test_all_complaints_about_options_come_together(travel_data, greene):
    with pytest.raises(ConfigError) as refused:
        GMMEstimator(
            greene,
            travel_data(),
            steps="two-step",
            weighting="hac",
            initial="eye",
            se="robust",
            grad="forwrd",
            optimizer="newton",
            maxiter=0,
            executor="dusk",
        )
    assert refused.value.codes == ("E102",) * 8
    text = str(refused.value)
    for wrong in ("two-step", "hac", "eye", "robust", "forwrd", "newton", "maxiter is 0", "dask"):
        assert wrong in text
    for right in ("did you mean 'twostep'", "did you mean 'forward'", "nelder-mead", "minimised_weight"):
        assert right in text


@pytest.mark.parametrize(
    ("ask", "meant"),
    [
        (lambda fit: fit.with_cov("sandwhich"), "sandwich"),
        (lambda fit: ExponentialIV("y", exogenous=["x"], errors="aditive"), "additive"),
        (lambda fit: fit.wald_test("gv = 0"), "gc"),
    ],
    ids=["se", "errors", "hypothesis"],
)
def test_what_is_nearly_a_word_is_advised(fitted, ask, meant):
    with pytest.raises(ConfigError, match=rf"did you mean '{meant}'\?"):
        ask(fitted)


@pytest.mark.parametrize("maxiter", [0, -1, 1.5, 10.0, "10", "many", True, np.nan, np.inf, [1]])
def test_iterations_are_whole_numbers(travel_data, greene, maxiter):
    with pytest.raises(ConfigError, match="maxiter is"):
        GMMEstimator(greene, travel_data(), maxiter=maxiter)


@pytest.mark.parametrize("maxiter", [1, np.int64(3), None])
def test_whole_numbers_of_any_kind_are_taken(travel_data, greene, maxiter):
    assert GMMEstimator(greene, travel_data(), maxiter=maxiter).maxiter == maxiter


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"tme": 1.0}, "did you mean 'ttme'"),
        ({"gc": "much"}, "numbers were expected"),
        ({"gc": None}, "not finite"),
        ({"gc": [1.0, 2.0]}, "one number was expected"),
        ({"gc": 1j}, "numbers were expected"),
        ([1.0, 2.0], "6 values were expected"),
        (np.zeros((6, 1)), "6 values were expected"),
        ([0, 0, 0, 0, 0, np.inf], "not finite"),
        ("gc", "numbers were expected"),
    ],
)
def test_starts_that_are_none_are_refused(travel_data, greene, start, message):
    with pytest.raises(ConfigError, match=message) as refused:
        GMMEstimator(greene, travel_data()).fit(start)
    assert refused.value.codes == ("E102",)


def test_watch_sees_every_pass(travel_data, greene):
    seen = []
    result = GMMEstimator(greene, travel_data()).fit(watch=seen.append)
    assert seen == list(range(1, len(seen) + 1))
    assert result.work.evaluations == len(seen) > 0
