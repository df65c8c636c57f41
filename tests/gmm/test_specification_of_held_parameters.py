"""Tests and diagnostics where parameters are fixed, tied or at a bound: as for the model written without them."""

from __future__ import annotations

import numpy as np
import pytest

import gmmest as gm

SAME = 1e-7


@pytest.fixture(scope="module")
def table() -> gm.Table:
    rng = np.random.default_rng(11)
    z = rng.normal(size=(600, 4))
    x = np.column_stack([z[:, 0] + 0.5 * z[:, 1], z[:, 2] - 0.4 * z[:, 3]]) + 0.5 * rng.normal(size=(600, 2))
    e = rng.normal(size=600) * (1 + 0.3 * z[:, 0] ** 2)
    y = 1.0 * x[:, 0] + 0.5 * x[:, 1] + 2.0 + e
    columns = {"y": y, "y2": y - 2.0, "a": x[:, 0], "b": x[:, 1], "sum": x[:, 0] + 0.5 * x[:, 1]}
    return gm.Table.from_arrays(columns | {f"z{k}": z[:, k] for k in range(4)})


INSTRUMENTS = [f"z{k}" for k in range(4)]


def model(y="y"):
    def moments(theta, rows):
        e = rows[y] - theta[0] * rows["a"] - theta[1] * rows["b"] - (theta[2] if y == "y" else 0.0)
        return np.stack([e * rows[z] for z in INSTRUMENTS] + [e], axis=1)

    return gm.MomentFunction(moments, names=["a", "b", "const"] if y == "y" else ["a", "b"])


@pytest.fixture(scope="module")
def pair(table):
    """The constant fixed at two, and two taken off y."""
    return gm.GMMEstimator(model(), table, fixed={"const": 2.0}).fit(), gm.GMMEstimator(
        model("y2"), table
    ).fit()


def test_fixed_is_left_out(pair):
    held, plain = pair
    assert np.allclose(held.theta, [*plain.theta, 2.0], rtol=SAME)
    for hypothesis in ("a = 1", "a = 2*b, b = 0.4"):
        for test in ("lm_test", "distance_test", "wald_test"):
            ours, theirs = getattr(held, test)(hypothesis), getattr(plain, test)(hypothesis)
            assert ours.stat == pytest.approx(theirs.stat, rel=SAME)
            assert ours.df == theirs.df
    assert held.distance_test("a + const = 3").stat == pytest.approx(
        plain.distance_test("a = 1").stat, rel=SAME
    )
    assert held.distance_test("a = 1").theta[[0, 2]].tolist() == pytest.approx([1.0, 2.0])
    assert held.c_test(["m0"]).stat == pytest.approx(plain.c_test(["m0"]).stat, rel=SAME)
    assert held.s_test({"a": 0.9}).stat == pytest.approx(plain.s_test({"a": 0.9}).stat, rel=SAME)
    assert held.k_test({"a": 0.9, "b": 0.5}).stat == pytest.approx(plain.k_test([0.9, 0.5]).stat, rel=SAME)
    assert held.diagnostics().strength == pytest.approx(plain.diagnostics().strength, rel=1e-4)
    assert np.allclose(held.profile("a", [1.0]).change, plain.profile("a", [1.0]).change, rtol=1e-5)
    assert np.allclose(held.sensitivity().loc[["a", "b"]], plain.sensitivity(), rtol=1e-6, atol=1e-9)
    assert np.all(held.sensitivity().loc["const"] == 0.0)
    ratio = held.nlcom(lambda b: b["a"] / b["b"], by_name=True)
    assert ratio.bse["f"] == pytest.approx(plain.nlcom(lambda b: b[0] / b[1]).bse["f"], rel=SAME)
    assert np.allclose(
        held.explain_difference("linearmodels").printed[0].errors,
        plain.explain_difference("linearmodels").printed[0].errors,
        rtol=SAME,
    )
    assert "W213" not in str(held.summary())


def test_a_set_with_all_others_held_is_that_of_one_parameter(table):
    def one(theta, rows):
        e = rows["y"] - 2.0 - theta[0] * rows["a"] - 0.5 * rows["b"]
        return np.stack([e * rows[z] for z in INSTRUMENTS] + [e], axis=1)

    held = gm.GMMEstimator(model(), table, fixed={"b": 0.5, "const": 2.0}).fit()
    alone = gm.GMMEstimator(gm.MomentFunction(one, names=["a"]), table).fit()
    found = held.confidence_set("a")
    assert found.shape == "bounded"
    assert np.allclose(found.intervals, alone.confidence_set("a").intervals, rtol=1e-9)


def test_what_is_held_cannot_be_tested(pair):
    held, _ = pair
    with pytest.raises(gm.ConfigError, match="follows from the others"):
        held.lm_test("const = 1")
    with pytest.raises(gm.ConfigError, match="const is not free: fixed"):
        held.s_test({"const": 1.0})
    with pytest.raises(gm.ConfigError, match="const is not free"):
        held.confidence_set("const")
    with pytest.raises(gm.EstimationError, match="E431 function f uses parameters that are held"):
        held.nlcom(lambda b: 2.0 * b["const"], by_name=True)


def test_ties_carry_over(table):
    tied = gm.GMMEstimator(model(), table, tied={"b": "0.5*a"}).fit()
    free = gm.GMMEstimator(model(), table).fit()
    assert tied.distance_test("b = 0.4").stat == pytest.approx(tied.distance_test("a = 0.8").stat, rel=SAME)
    assert tied.distance_test("b = 0.4").theta[:2].tolist() == pytest.approx([0.8, 0.4])
    assert np.allclose(tied.sensitivity().loc["b"], 0.5 * tied.sensitivity().loc["a"])
    assert free.j_test().df + 1 == tied.j_test().df


@pytest.mark.parametrize("steps", ["iterated", "cue"])
def test_other_steps_have_the_same_tests(table, steps):
    fit = gm.GMMEstimator(model(), table, steps=steps, se="efficient").fit()
    wald, lm, distance = (t("a = 1") for t in (fit.wald_test, fit.lm_test, fit.distance_test))
    assert lm.stat == pytest.approx(distance.stat, rel=1e-6)  # linear moments, one W
    assert distance.stat == pytest.approx(wald.stat, rel=0.05)
    assert 0.0 <= fit.c_test(["m0"]).stat <= fit.j_test().stat + 1e-6
    if steps == "cue":
        assert fit.k_test(fit.theta).stat < 1e-6  # the first-order condition of CUE
        assert fit.s_test({"a": fit.params["a"]}).stat == pytest.approx(fit.j_test().stat, rel=1e-6)
