"""What records print: lines that a person reads, with the numbers that the record has."""

from __future__ import annotations

import numpy as np
import pytest

import gmmest as gm

LONGEST = 120


@pytest.fixture(scope="module")
def fit(travel_data, greene_overidentified):
    return gm.GMMEstimator(greene_overidentified, travel_data()).fit()


RECORDS = {
    "nlcom": lambda r: r.nlcom(lambda b: b["ttme"] / b["gc"], by_name=True, names="ratio"),
    "j": lambda r: r.j_test(),
    "wald": lambda r: r.wald_test("gc = ttme"),
    "matrix": lambda r: r.wald_test(np.eye(6)[:2]),
    "lm": lambda r: r.lm_test("gc = ttme"),
    "distance": lambda r: r.distance_test("gc = ttme"),
    "c": lambda r: r.c_test(["invc"]),
    "ellipse": lambda r: r.confidence_ellipse("gc", "ttme"),
    "diagnostics": lambda r: r.diagnostics(),
    "profile": lambda r: r.profile("gc", (-1.0, 1.0)),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_print_in_lines_without_arrays(fit, name):
    record = RECORDS[name](fit)
    lines = str(record).splitlines()
    assert "array(" not in str(record) + repr(record)
    assert "\n" not in repr(record)
    assert max(map(len, [*lines, repr(record)])) <= LONGEST
    assert lines == [line.rstrip() for line in lines]


def test_the_delta_method_prints_its_standard_error(fit):
    ratio = RECORDS["nlcom"](fit)
    heading, row = str(ratio).splitlines()
    assert heading.split()[:3] == ["coef", "std", "err"]
    name, value, error = row.split()[:3]
    assert (name, float(value)) == ("ratio", pytest.approx(ratio.estimate["ratio"], rel=1e-5))
    assert float(error) == pytest.approx(ratio.bse["ratio"], rel=1e-3)


def test_tests_print_statistic_and_p_value(fit):
    for name in ("wald", "lm", "distance", "c", "j"):
        test = RECORDS[name](fit)
        assert f" = {test.stat:.4f}, " in str(test)
        assert str(test).endswith(f"p = {test.pvalue:.4g}")
    assert "gc = ttme" in str(RECORDS["wald"](fit))
    assert "R theta = q" in str(RECORDS["matrix"](fit))


def test_weights_frequencies_and_ties_are_in_the_summary():
    rng = np.random.default_rng(3)
    x = rng.normal(size=80)
    columns = {"y": x + rng.normal(size=80), "x": x}
    rows = gm.Table.from_arrays(columns, weight=np.linspace(0.5, 1.5, 80), frequency=np.full(80, 2))
    model = gm.LinearIV("y", exogenous=["x"])
    plain, tied = (gm.GMMEstimator(model, rows, tied=tied).fit() for tied in (None, {"const": "2*x"}))
    facts = dict(plain.facts())
    assert facts["Weights"] == "sampling weights, sum 80, 0.5 to 1.5"
    assert facts["Frequencies"] == "160 observations in 80 rows"
    assert "tied to" not in str(plain)
    heading, body = tied.table()
    assert heading[-1] == "tied to"
    assert [row[-1] for row in body] == ["", "2*x"]
    for text in (str(plain), str(tied)):
        assert not any(line.endswith(" ") for line in text.splitlines())


def test_least_squares_are_named_by_verdict_and_estimates():
    x = np.arange(6.0)
    rows = gm.Table.from_arrays({"x": x, "y": 2.0 * x + np.cos(5 * x)})
    found = gm.NonlinearLeastSquares(lambda b, rows: rows["y"] - b[0] * rows["x"], names=["slope"]).fit(rows)
    assert repr(found).startswith(f"<LeastSquaresResults: {found.verdict()}; slope {found.theta[0]:.6g} (")
    assert "array(" not in repr(found)


def test_an_estimator_names_what_is_not_the_default(travel_data, greene):
    plain = gm.GMMEstimator(greene, travel_data())
    assert repr(plain) == "<GMMEstimator: Logit of ChoiceData>"
    changed = gm.GMMEstimator(
        greene, travel_data(), steps="iterated", fixed={"gc": 0.0}, starts=(np.zeros(6),)
    )
    assert repr(changed).startswith("<GMMEstimator: Logit of ChoiceData, steps='iterated', ")
    assert "fixed={'gc': 0.0}" in repr(changed)
    assert "weighting" not in repr(changed)
