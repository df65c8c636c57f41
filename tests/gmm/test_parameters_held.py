"""Parameters fixed, tied or bounded: laws against the free model, certificates at bounds, refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import gmmest as gm
from gmmest import config
from gmmest.config.build import fit as fit_config
from gmmest.errors import ConfigError, IdentificationError
from gmmest.gmm.compare import compare
from gmmest.gmm.optimize import Outcome
from gmmest.gmm.parameters import Restricted, parameters_of

SAME = 1e-12
"""Relative: the same optimum by the same sums in another order."""
STEPS = ["onestep", "twostep", "iterated", "cue"]
GRADS = ["auto", "analytic", "forward", "jax", "complex"]


@pytest.fixture(scope="module")
def choices() -> gm.ChoiceData:
    rng = np.random.default_rng(1)
    n, j = 400, 3
    frame = pd.DataFrame(rng.normal(size=(n * j, 3)), columns=["x", "w", "z"])
    frame["id"], frame["mode"] = np.repeat(np.arange(n), j), np.tile(["a", "b", "c"], n)
    utility = 0.5 * frame["x"] + frame["w"] - 0.3 * frame["z"] + rng.gumbel(size=n * j)
    frame["y"] = (utility.groupby(frame["id"]).transform("max") == utility).astype(int)
    frame["both"] = frame["x"] + 2.0 * frame["w"]
    return gm.ChoiceData.from_frame(frame, case="id", alternative="mode", chosen="y")


LOGIT = gm.Logit(["x", "w", "z"], instruments=["x", "w", "z"])


# --- fixed and tied ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", GRADS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_tie_is_the_model_with_its_columns_combined(choices, steps, grad):
    if steps == "cue" and grad == "analytic":
        pytest.skip("no derivative of S is written by hand")
    tied = gm.GMMEstimator(LOGIT, choices, tied={"w": "2*x"}, steps=steps, grad=grad).fit()
    combined = gm.Logit(["both", "z"], instruments=["x", "w", "z"])
    other = gm.GMMEstimator(combined, choices, steps=steps).fit()
    assert tied.verified
    assert other.verified
    assert np.allclose(tied.theta[[0, 2]], other.theta, rtol=SAME)
    assert np.allclose(tied.standard_errors[[0, 2]], other.standard_errors, rtol=1e-11)
    assert tied.theta[1] == 2.0 * tied.theta[0]
    assert tied.standard_errors[1] == pytest.approx(2.0 * tied.standard_errors[0], rel=1e-15)
    if steps != "onestep":
        assert tied.j_test().df == other.j_test().df == 1
        assert tied.j_test().stat == pytest.approx(other.j_test().stat, rel=1e-11)


@pytest.mark.parametrize("steps", STEPS)
def test_fixed_at_the_estimate_leaves_the_others(choices, steps):
    """Their first-order conditions hold already, whatever the weight; with M = P also at the same W."""
    free = gm.GMMEstimator(LOGIT, choices, steps=steps).fit()
    held = gm.GMMEstimator(LOGIT, choices, steps=steps, fixed={"w": free.theta[1]}).fit()
    assert held.verified
    assert np.allclose(held.theta, free.theta, rtol=1e-11)
    assert (held.n_params, held.names) == (2, free.names)
    if steps != "onestep":
        assert held.j_test().df == 1


def test_what_is_fixed_has_no_standard_error(choices):
    fit = gm.GMMEstimator(LOGIT, choices, fixed={"w": 1.0}).fit()
    assert np.isnan(fit.bse["w"])
    assert fit.params["w"] == 1.0
    assert np.all(fit.cov_params().loc["w"] == 0.0)
    assert json.loads(fit.to_json())["bse"]["w"] is None
    assert json.loads(fit.to_json())["held"] == {"w": "fixed"}
    rows = {row[0]: row[1:] for row in fit.table()[1]}
    assert rows["w"] == ["1", "fixed", "", "", "", ""]
    assert "3 for 2 free of 3 parameters" in str(fit.summary())


def test_tests_of_what_is_held_are_refused(choices):
    fit = gm.GMMEstimator(LOGIT, choices, fixed={"w": 1.0}).fit()
    assert fit.wald_test("x = 0").df == 1
    for hypothesis in ("w = 1", "w = 0, x = 0"):
        with pytest.raises(ConfigError, match="held"):
            fit.wald_test(hypothesis)
    with pytest.raises(ConfigError, match="follows from the others"):
        fit.lm_test("w = 1")
    assert fit.lm_test("x = 0").df == 1
    assert np.all(fit.sensitivity().loc["w"] == 0.0)


def test_ties_go_through_chains(choices):
    names = ("a", "b", "c", "d")
    chained = parameters_of(names, {"d": 2.0}, {"c": "b + d/2", "b": "1 - 3*a"})
    assert chained.free == ("a",)
    assert chained.theta(np.array([0.5])).tolist() == [0.5, -0.5, 0.5, 2.0]
    assert chained.transform.tolist() == [[1.0], [-3.0], [-3.0], [0.0]]
    tied = gm.GMMEstimator(LOGIT, choices, tied={"z": "w - x", "w": "2*x"}).fit()
    assert tied.theta[2] == pytest.approx(tied.theta[0], rel=1e-15)
    assert tied.verified


def test_linear_regression_with_a_known_coefficient():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(200, 3))
    x = z.sum(axis=1) + rng.normal(size=200)
    frame = pd.DataFrame({"y": 1.0 + 0.5 * x + rng.normal(size=200), "x": x, "v": z[:, 0]})
    frame[["z1", "z2"]] = z[:, 1:]
    model = gm.LinearIV("y", exogenous=["v"], endogenous=["x"], instruments=["z1", "z2"])
    fixed = gm.GMMEstimator(model, frame, fixed={"v": 0.25}).fit()

    def moments(theta, rows):
        e = rows["y"] - 0.25 * rows["v"] - theta[0] * rows["x"] - theta[1]
        return e[:, None] * np.stack([rows["v"], rows["z1"], rows["z2"], np.ones_like(e)], axis=1)

    start = gm.GMMEstimator(model, frame, fixed={"v": 0.25}, steps="iterated").fit()
    other = gm.GMMEstimator(gm.MomentFunction(moments, names=["x", "const"]), frame, steps="iterated").fit()
    assert fixed.verified
    assert np.allclose(start.theta[1:], other.theta, rtol=1e-9)  # iterated: the first weight does not matter


def test_what_is_not_identified_alone_may_be_with_others_held():
    """One moment and two parameters, of which one is known; columns that repeat each other, of which one is."""
    table = gm.Table.from_arrays({"y": np.random.default_rng(3).normal(2.0, 1.0, 200)})
    mean = gm.MomentFunction(
        lambda theta, rows: (rows["y"] - theta[0] * theta[1])[:, None], names=["a", "b"], start=[1.0, 1.0]
    )
    with pytest.raises(IdentificationError, match="E212"):
        gm.GMMEstimator(mean, table).fit()
    fit = gm.GMMEstimator(mean, table, fixed={"b": 2.0}).fit()
    assert fit.verified
    assert fit.j_test() is None
    assert fit.theta[0] == pytest.approx(table.column("y").mean() / 2.0, rel=1e-14)

    rng = np.random.default_rng(5)
    x = rng.normal(size=100)
    frame = pd.DataFrame({"y": x + rng.normal(size=100), "x": x, "same": 2.0 * x, "z": rng.normal(size=100)})
    twice = gm.LinearIV("y", endogenous=["x", "same"], instruments=["x2", "z"])
    frame["x2"] = x + rng.normal(size=100)
    with pytest.raises(IdentificationError, match="E2"):
        gm.GMMEstimator(twice, frame).fit()
    one = gm.GMMEstimator(gm.LinearIV("y", endogenous=["x"], instruments=["x2", "z"]), frame).fit()
    tied = gm.GMMEstimator(twice, frame, fixed={"same": 0.0}).fit()
    assert np.allclose(tied.theta[[0, 2]], one.theta, rtol=1e-11)


def test_what_can_be_fitted_can_be_compared(choices):
    """The same problem: two terms that repeat each other, tied, and a parameter at its bound."""
    terms = gm.Logit(["x", gm.Term("w"), gm.Term("w", name="again")], instruments=["x", "w", "z"])
    upper = 0.7 * gm.GMMEstimator(gm.Logit(["x", "w"]), choices).fit().params["x"]
    held = gm.GMMEstimator(terms, choices, tied={"again": "w"}, bounds={"x": (None, upper)})
    fit, comparison = held.fit(), compare(held, ["fd", "forward", "jax"], rounds=2)
    assert comparison.complaints == ()
    assert comparison.n_params == 2
    assert {row.parameter for each in comparison.rows for row in each.audit} <= {"x", "w"}
    for row in comparison.rows:
        assert np.allclose(row.fit.theta, fit.theta, rtol=1e-9)


def test_repeated_terms_of_a_logit_are_identified_once_tied(choices):
    frame_terms = gm.Logit(["x", gm.Term("w"), gm.Term("w", name="again")], instruments=["x", "w", "z"])
    with pytest.raises(IdentificationError, match="E202"):
        gm.GMMEstimator(frame_terms, choices).fit()
    fit = gm.GMMEstimator(frame_terms, choices, tied={"again": "w"}).fit()
    plain = gm.GMMEstimator(gm.Logit(["x", "w"], instruments=["x", "w", "z"]), choices).fit()
    assert fit.verified
    assert np.allclose(2.0 * fit.theta[1], plain.theta[1], rtol=1e-11)


def test_every_theta_of_a_restricted_model_is_that_of_the_model(choices):
    sample = LOGIT.sample(choices)
    parameters = parameters_of(sample.names, {"w": 0.5}, {"z": "-x"})
    model = Restricted(LOGIT, parameters)
    phi, theta, block = np.array([0.7]), np.array([0.7, 0.5, -0.7]), sample.blocks[0]
    assert np.array_equal(model.contributions(phi, block), LOGIT.contributions(theta, block))
    assert np.array_equal(model.moment_sum(phi, block), LOGIT.moment_sum(theta, block))
    assert model.loglike(phi, block) == LOGIT.loglike(theta, block)
    assert np.array_equal(model.instrument_product_sum(block), LOGIT.instrument_product_sum(block))
    jacobian = LOGIT.moment_sum_and_jacobian(theta, block)[1]
    assert np.array_equal(model.moment_sum_and_jacobian(phi, block)[1], jacobian @ [[1.0], [0.0], [-1.0]])
    v = np.arange(3.0)
    assert np.allclose(model.moment_sum_and_vjp(phi, block)[1](v), v @ jacobian @ [[1.0], [0.0], [-1.0]])
    assert not hasattr(model, "no_such_method")


class Renamed:
    """A logit whose methods call their arguments otherwise."""

    sample, contributions = staticmethod(LOGIT.sample), staticmethod(LOGIT.contributions)
    instrument_product_sum = staticmethod(LOGIT.instrument_product_sum)

    def loglike(self, params, rows):
        return LOGIT.loglike(params, rows)

    def unadjusted_covariance(self, at, count, fold):
        return LOGIT.unadjusted_covariance(at, count, fold)

    def of_no_contract(self, theta):
        return theta


def test_parameters_are_the_first_argument_by_place_not_by_name(choices):
    held = {"fixed": {"w": 0.9}, "weighting": "unadjusted"}
    ours = gm.GMMEstimator(Renamed(), choices, **held).fit()
    logit = gm.GMMEstimator(LOGIT, choices, **held).fit()
    assert ours.loglike == pytest.approx(logit.loglike, rel=SAME)
    assert np.allclose(ours.bse, logit.bse, rtol=SAME, equal_nan=True)
    model, block = (
        Restricted(Renamed(), parameters_of(("x", "w", "z"), {"w": 0.9})),
        ours.context.sample.blocks[0],
    )
    phi, theta = np.array([0.7, -0.3]), np.array([0.7, 0.9, -0.3])
    assert model.loglike(phi, rows=block) == LOGIT.loglike(theta, block)
    assert not hasattr(model, "of_no_contract")  # what is not known to take parameters is not guessed


# --- bounds -----------------------------------------------------------------------------------------------

BOUNDED = ["lsq", "lbfgsb", "trust-constr", "nelder-mead"]


@pytest.mark.parametrize("optimizer", BOUNDED)
@pytest.mark.parametrize("steps", STEPS)
def test_bounds_that_are_not_reached_change_nothing(choices, steps, optimizer):
    free = gm.GMMEstimator(LOGIT, choices, steps=steps).fit()
    bounds = {"w": (-3.0, 3.0), "z": (None, 4.0)}
    fit = gm.GMMEstimator(LOGIT, choices, steps=steps, bounds=bounds, optimizer=optimizer).fit()
    assert fit.verified
    assert np.allclose(fit.theta, free.theta, rtol=SAME)
    assert np.allclose(fit.standard_errors, free.standard_errors, rtol=1e-11)
    assert not [note for note in fit.notes if note.startswith("W402")]


@pytest.mark.parametrize("optimizer", BOUNDED)
@pytest.mark.parametrize("steps", STEPS)
def test_at_an_active_bound_it_is_the_model_fixed_there(choices, steps, optimizer):
    fixed = gm.GMMEstimator(LOGIT, choices, steps=steps, fixed={"w": 0.7}).fit()
    fit = gm.GMMEstimator(LOGIT, choices, steps=steps, bounds={"w": (0.0, 0.7)}, optimizer=optimizer).fit()
    assert fit.verified, fit.verdict()
    assert fit.theta[1] == 0.7
    assert np.isnan(fit.bse["w"])
    assert "W402 w at its upper bound 0.7" in fit.verdict()
    assert {row[0]: row[2] for row in fit.table()[1]}["w"] == "upper bound"
    assert steps == "onestep" or dict(fit.facts())["J test"].endswith(", 1 bound taken as true")
    assert np.allclose(fit.theta, fixed.theta, rtol=1e-9)
    assert np.allclose(fit.standard_errors[[0, 2]], fixed.standard_errors[[0, 2]], rtol=1e-8)


def _spread(shift, names):
    """Two moments ``z^2 - shift - sd^2``: whether sd leaves its bound 0, where no derivative sees it, or stays."""
    z = np.random.default_rng(3).normal(size=(400, 2))
    data = gm.Table.from_arrays({"a": z[:, 0], "b": z[:, 1]})

    def moments(theta, rows):
        away = shift + theta[0] ** 2
        first = rows["a"] ** 2 - away
        second = rows["b"] ** 2 - away if names == ["sd"] else rows["b"] - theta[1]
        return np.stack([first, second], axis=1)

    model = gm.MomentFunction(moments, names=names)
    return gm.GMMEstimator(model, data, bounds={"sd": (0, None)})


@pytest.mark.parametrize("names", [["sd"], ["sd", "mean"]])
def test_a_bound_at_which_every_derivative_vanishes_is_left_where_the_inside_is_lower(names):
    estimator = _spread(0.5, names)
    inside, fit = estimator.fit({"sd": 0.4}), estimator.fit({"sd": 0.0})
    assert fit.verified
    assert inside.theta[0] > 0.6
    assert np.allclose(fit.theta, inside.theta, rtol=SAME)


@pytest.mark.parametrize("names", [["sd"], ["sd", "mean"]])
def test_a_bound_at_which_every_derivative_vanishes_is_kept_where_the_inside_is_higher(names):
    fit = _spread(1.5, names).fit({"sd": 0.0})
    assert fit.verified, fit.verdict()
    assert fit.theta[0] == 0.0
    assert "W402" in fit.verdict()


def test_a_point_inside_a_bound_that_is_lower_is_a_reason_where_the_search_does_not_take_it(monkeypatch):
    start = Outcome(np.zeros(1), 0.0, 0, "stays where it is")
    monkeypatch.setattr("gmmest.gmm.steps.minimise", lambda *_: start)
    fit = _spread(0.5, ["sd"]).fit({"sd": 0.0})
    assert "NOT VERIFIED: the criterion falls from the bound of 'sd' inwards" in fit.verdict()


@pytest.mark.parametrize("beyond", [0.05, 0.3, 1.5])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_bound_that_holds_every_parameter_is_reached_to_the_last_bit(beyond, side):
    """A trust region that stays inside ends a rounding before the bound; the verdict must not suffer from that."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 2))
    x = z @ [1.0, 0.5] + rng.normal(size=300)
    data = gm.Table.from_arrays({"y": 0.5 * x + rng.normal(size=300), "x": x, "a": z[:, 0], "b": z[:, 1]})
    model = gm.LinearIV("y", exogenous=[], endogenous=["x"], instruments=["a", "b"], constant=False)
    bound = gm.GMMEstimator(model, data).fit().theta[0] + side * beyond
    fit = gm.GMMEstimator(model, data, bounds={"x": (bound, None) if side > 0 else (None, bound)}).fit()
    assert fit.verified, fit.verdict()
    assert fit.params["x"] == bound


def test_a_start_at_the_wrong_bound_is_left(choices):
    fit = gm.GMMEstimator(LOGIT, choices, bounds={"w": (0.0, 5.0)}).fit(start={"w": 0.0})
    free = gm.GMMEstimator(LOGIT, choices).fit()
    assert np.allclose(fit.theta, free.theta, rtol=SAME)


def test_moments_are_never_asked_for_beyond_a_bound():
    y = np.random.default_rng(8).exponential(0.5, 300)
    seen = []

    def moments(theta, rows):
        value = theta[0] if isinstance(theta, np.ndarray) else 0.0
        seen.append(float(value))
        e = rows["y"] - theta[0]
        return np.stack([e, rows["y"] ** 2 - 2.0 * theta[0] ** 2 + 3.0], axis=1)

    model = gm.MomentFunction(moments, names=["mean"])
    for optimizer in BOUNDED:
        seen.clear()
        fit = gm.GMMEstimator(
            model,
            gm.Table.from_arrays({"y": y}),
            bounds={"mean": (0.2, 0.4)},
            optimizer=optimizer,
            grad="fd",
        ).fit()
        assert 0.2 <= fit.theta[0] <= 0.4
        model_start = 0.0  # the model is called once at its own start to count its moments
        inside = [value for value in seen if value != model_start]
        assert min(inside) >= 0.2
        assert max(inside) <= 0.4


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fixed": {"q": 1.0}}, "fixed: there is no parameter 'q'"),
        ({"fixed": {"w": float("nan")}}, "a finite number was expected"),
        ({"fixed": {"w": "1"}}, "a finite number was expected"),
        ({"fixed": {"w": 1.0}, "tied": {"w": "x"}}, "w is both fixed and tied"),
        ({"tied": {"w": "x", "x": "w"}}, "lead in a circle: w, x"),
        ({"tied": {"w": "2*w"}}, "lead in a circle: w"),
        ({"tied": {"w": "x*z"}}, "tied w: "),
        ({"tied": {"w": "__import__('os')"}}, "tied w: "),
        ({"tied": {"w": "x = 2"}}, "one linear expression"),
        ({"tied": {"w": "x, z"}}, "one linear expression"),
        ({"tied": {"w": 3.0}}, "one linear expression"),
        ({"tied": {"w": "3"}}, "tied w: "),
        ({"tied": {"w": "y"}}, "tied w: "),
        ({"bounds": {"w": (1.0, 0.0)}}, "lower < upper"),
        ({"bounds": {"w": (1.0, 1.0)}}, "equal bounds is fixed"),
        ({"bounds": {"w": 3.0}}, "lower < upper"),
        ({"bounds": {"w": (0.0, float("nan"))}}, "lower < upper"),
        ({"bounds": {"w": (0.0, 1.0)}, "fixed": {"w": 0.5}}, "w has bounds, but is fixed"),
        ({"bounds": {"w": (0.0, 1.0)}, "tied": {"w": "x"}}, "w has bounds, but is tied"),
        ({"bounds": {"w": (0.0, 1.0)}, "optimizer": "bfgs"}, "knows no bounds"),
        ({"fixed": {"x": 1.0, "w": 1.0, "z": 1.0}}, "no parameter is free"),
        ({"fixed": 3}, "a mapping by name was expected"),
    ],
)
def test_what_has_no_meaning_is_refused(choices, options, said):
    with pytest.raises(ConfigError, match="E102") as caught:
        gm.GMMEstimator(LOGIT, choices, **options).fit()
    assert said in str(caught.value)


def test_a_start_out_of_bounds_is_refused(choices):
    with pytest.raises(ConfigError, match=r"start has w = 2, outside its bounds \[0, 1\]"):
        gm.GMMEstimator(LOGIT, choices, bounds={"w": (0, 1)}).fit(start={"w": 2.0})


# --- from a configuration ---------------------------------------------------------------------------------

SIMULATED = """
data: {simulate: {sets: 300, alternatives: 3, features: 3, moments: 5, seed: 2}}
model: {kind: logit}
estimation: {steps: cue}
"""


def test_all_of_it_from_a_configuration():
    names = fit_config(config.loads(SIMULATED, folder=".")).names
    held = [
        f"estimation.fixed={{{names[0]}: 0.5}}",
        f'estimation.tied={{{names[1]}: "2*{names[2]} - 1"}}',
        f"estimation.bounds={{{names[2]}: [-9, none]}}",
        "estimation.starts=3",
    ]
    fit = fit_config(config.loads(SIMULATED, folder=".", overrides=held))
    assert fit.verified
    assert fit.params[names[0]] == 0.5
    assert fit.params[names[1]] == 2.0 * fit.params[names[2]] - 1.0
    assert (fit.work.starts, fit.n_params, fit.settings.steps) == (3, 1, "cue")
    with pytest.raises(ConfigError, match="knows no bounds"):
        config.loads(SIMULATED, folder=".", overrides=["estimation.optimizer=bfgs", *held])
