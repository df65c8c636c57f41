"""Hypotheses in words: parsed into R and q, and never run."""

from __future__ import annotations

import string
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmest.data.table import Table
from gmmest.errors import ConfigError
from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.hypotheses import linear_hypotheses
from gmmest.gmm.parameters import parameters_of
from gmmest.models.moment_function import MomentFunction

NAMES = ("a", "b", "gc:hinc", "asc_air")
PARSED = 1e-12  # a few roundings of sums and products


@pytest.mark.parametrize(
    ("text", "restriction", "value"),
    [
        ("a = b", [[1, -1, 0, 0]], [0]),
        ("a", [[1, 0, 0, 0]], [0]),
        ("a - 1", [[1, 0, 0, 0]], [1]),
        ("2*a + 3 = b - 1", [[2, -1, 0, 0]], [-4]),
        ("-(a + b)/4 = 0.5", [[-0.25, -0.25, 0, 0]], [0.5]),
        ("a*2*3 = 1e-3", [[6, 0, 0, 0]], [1e-3]),
        ("`gc:hinc` = `a`", [[-1, 0, 1, 0]], [0]),
        ("a = 0, b = 2*asc_air", [[1, 0, 0, 0], [0, 1, 0, -2]], [0, 0]),
        (" a =\t1 ", [[1, 0, 0, 0]], [1]),
        ("1 = a", [[-1, 0, 0, 0]], [-1]),
        ("1e-200*a = 1e-200", [[1e-200, 0, 0, 0]], [1e-200]),
        ("a = 0, 1e-30*b = 0", [[1, 0, 0, 0], [0, 1e-30, 0, 0]], [0, 0]),
    ],
)
def test_text_becomes_r_and_q(text, restriction, value):
    R, q = linear_hypotheses(text, NAMES)
    np.testing.assert_allclose(R, restriction, rtol=PARSED)
    np.testing.assert_allclose(q, value, rtol=PARSED)
    assert not np.any(np.signbit(q) & (q == 0)), "no minus zero"


numbers = st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-6)


@settings(deadline=None, max_examples=150)
@given(
    left=st.lists(numbers, min_size=4, max_size=4),
    right=st.lists(numbers, min_size=4, max_size=4),
    constants=st.tuples(numbers, numbers),
)
def test_any_linear_equation_comes_back(left, right, constants):
    def side(weights, constant):
        terms = [f"({w!r})*`{name}`" for w, name in zip(weights, NAMES, strict=True)]
        return " + ".join([*terms, f"({constant!r})"])

    row = np.array(left) - np.array(right)
    text = f"{side(left, constants[0])} = {side(right, constants[1])}"
    if not row.any():
        with pytest.raises(ConfigError, match="follows from the others"):
            linear_hypotheses(text, NAMES)
        return
    R, q = linear_hypotheses(text, NAMES)
    np.testing.assert_allclose(R[0], row, rtol=PARSED, atol=1e-9)
    np.testing.assert_allclose(q[0], constants[1] - constants[0], rtol=PARSED, atol=1e-9)


HOSTILE = [
    "__import__('os').system('touch /tmp/never')",
    "exec('x')", "a.__class__", "a[0]", "(lambda: 1)()", "[x for x in (1,)]", "{1: 2}", "f'{a}'", "a if a else b",
    "a := 1", "(y := a)", "a and b", "not a", "a < b", "a ** 2", "a ** b", "a*b", "a/b", "1/a", "a % 2", "a // 2",
    "a @ b", "~a", "a | b", "'a'", "b'a'", "None", "True", "...", "1j", "yield a", "await a", "*a", "**a", "a b",
    "a = b = 0", "a == b", "a >= 1", "a,", ",", "", " ", "=", "a =", "= = =", "a = nan", "a = inf", "a = 1e999",
    "a*1e308*10 = 1", "1e200*1e200*a = 0", "a/0 = 1", "a/(1 - 1) = 1", "0 = 0", "1 = 2", "0*a = 1", "a - a = 0",
    "a = 0, a = 1", "a = b, b = a", "a = 0, b = 0, a + b = 0", "`nobody` = 1", "`a = 1", "a` = 1", "_quoted_0_ = 1",
    "A = 1", "a\x00 = 1", "a = 1\nimport os", "\ud800", "a\u202e = 1", "9" * 400 + "*a = 1", "0x" + "f" * 400,
    "(" * 500 + "a" + ")" * 500, "-" * 1900 + "a", "+".join(["a"] * 990) + "=" + "+".join(["b"] * 5),
    "a" * 1999, "a" * 2001, "'\\d' = a", "1is a", "import os", "a; b", "a = 1 # fine \n b", "\\", "a\\\n= 1", "{**a}",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_refused_or_read_and_runs_nothing(text):
    ran = []

    def watch(event, _):
        if event in ("exec", "os.system", "open", "import", "subprocess.Popen"):
            ran.append(event)

    linear_hypotheses("a = 1", NAMES)  # what is loaded on first use is loaded now
    Watch.target = watch
    try:
        message, parsed = "", linear_hypotheses(text, NAMES)
    except ConfigError as refused:
        message, parsed = str(refused), None
    finally:
        Watch.target = None
    assert ran == []
    if parsed is None:
        assert message.startswith("E102 ")
        assert message.count("\nE") == 0
        assert "see wald_test for the form" in message
        assert len(message) < 400
        assert message.replace("\n", "").isprintable()
    else:
        R, q = parsed
        assert np.all(np.isfinite(R))
        assert np.all(np.isfinite(q))
        assert R.any(axis=1).all()


class Watch:
    """Audit hooks cannot be taken off again: one hook, with a target that can."""

    target = None
    installed = False


@pytest.fixture(autouse=True, scope="module")
def _audit():
    if not Watch.installed:
        sys.addaudithook(lambda event, args: Watch.target(event, args) if Watch.target else None)
        Watch.installed = True


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet=string.printable + "`éμ\u202e\x1b", max_size=40))
def test_any_text_is_refused_in_our_own_words_or_linear(text):
    try:
        R, q = linear_hypotheses(text, ("a", "b"))
    except ConfigError:
        return
    assert np.all(np.isfinite(R))
    assert np.all(np.isfinite(q))


def test_a_misspelt_parameter_is_recognised():
    with pytest.raises(ConfigError, match="did you mean 'asc_air'"):
        linear_hypotheses("asc_aire = 0", NAMES)


def test_names_with_control_characters_do_not_reach_the_message_raw():
    with pytest.raises(ConfigError) as refused:
        linear_hypotheses("c = 0", ("a\x1b[2J", "\u202eb"))
    assert str(refused.value).replace("\n", "").isprintable()


# --- the test itself ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def means():
    rng = np.random.default_rng(0)
    table = Table.from_arrays({"x": 1.0 + rng.normal(size=200), "y": 1.2 + 2.0 * rng.normal(size=200)})

    def moments(theta, rows):
        return np.stack([rows["x"] - theta[0], rows["y"] - theta[1]], axis=1)

    return GMMEstimator(MomentFunction(moments, names=["mx", "my"]), table).fit()


def test_wald_is_the_textbook_quadratic_form(means):
    R, q = np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([0.1, 2.0])
    gap = R @ means.theta - q
    expected = gap @ np.linalg.solve(R @ means.estimate.v @ R.T, gap)
    by_matrix, by_words = means.wald_test(R, q), means.wald_test("mx - my = 0.1, mx + my = 2")
    assert by_matrix.stat == pytest.approx(expected, rel=1e-12)
    assert by_words.stat == pytest.approx(expected, rel=1e-12)
    assert (by_words.df, by_words.hypothesis) == (2, "mx - my = 0.1, mx + my = 2")
    from scipy.stats import chi2

    assert by_words.pvalue == pytest.approx(chi2.sf(expected, 2), rel=1e-12)


def test_one_restriction_is_the_square_of_z(means):
    assert means.wald_test("mx = 0").stat == pytest.approx(means.tvalues["mx"] ** 2, rel=1e-12)
    assert means.wald_test("mx = 0").pvalue == pytest.approx(means.pvalues["mx"], rel=1e-9)


@pytest.mark.parametrize("unit", [1e-200, 1e-8, 3.0, 1e8, 1e150])
def test_the_unit_of_an_equation_does_not_matter(means, unit):
    plain = means.wald_test([[1.0, -1.0]], [0.1])
    assert means.wald_test([[unit, -unit]], [0.1 * unit]).stat == pytest.approx(plain.stat, rel=1e-12)


@pytest.mark.parametrize(
    ("R", "q"),
    [
        ([[0.0, 0.0]], None),
        ([[1.0, 2.0], [2.0, 4.0]], None),
        ([[1.0]], None),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([[np.nan, 1.0]], None),
        ([[1.0, 1.0]], [np.inf]),
        ([["x", "y"]], None),
        (np.ones((1, 1, 2)), None),
        (np.ones((0, 2)), None),
        ("mx = 1", [0.0]),
    ],
)
def test_restrictions_that_say_nothing_are_refused(means, R, q):
    with pytest.raises(ConfigError) as refused:
        means.wald_test(R, q)
    assert refused.value.codes == ("E102",)


def test_names_with_spaces_and_signs_go_between_quotes():
    names = ("a", "asc_walk & ride", "w, x=1")
    for quote in ('"', "`"):
        text = f"{quote}asc_walk & ride{quote} = 2*a, 3*{quote}w, x=1{quote} = 1"
        restriction, value = linear_hypotheses(text, names)
        assert restriction.tolist() == [[-2.0, 1.0, 0.0], [0.0, 0.0, 3.0]]
        assert value.tolist() == [0.0, 1.0]
        tied = parameters_of(names, tied={"a": f"{quote}asc_walk & ride{quote} - 2"})
        assert tied.transform[0].tolist() == [1.0, 0.0]
        assert tied.constant[0] == -2.0
    with pytest.raises(ConfigError, match="names with spaces or signs in them go between double quotes"):
        linear_hypotheses("asc_walk & ride = a", names)


def test_a_tie_is_no_hypothesis_and_all_that_is_wrong_with_parameters_is_said_together():
    with pytest.raises(ConfigError) as caught:
        parameters_of(("w", "p"), fixed={"pp": 1.0}, tied={"w": "p*p"}, bounds={"p": (2.0, 1.0)})
    said = str(caught.value)
    assert caught.value.codes == ("E102",) * 3
    assert "fixed: there is no parameter 'pp'; expected w, p" in said
    assert "tied w: the part 'p * p' cannot be used" in said
    assert "hypothesis" not in said
    assert "wald_test" not in said
