"""Separated choices are refused, and only they: a linear program decides who is right.

Data are separated if some direction d has ``(x_j - x_chosen)'d <= 0`` for every unchosen row, not zero
for all: then the likelihood grows along d for ever and no estimate exists (Albert and Anderson 1984).
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from gmmest.data.choice_data import ChoiceData
from gmmest.errors import IdentificationError
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.logit import Logit

CLEAR = 1e-6  # a linear program on unit rows: what is nearer to zero than this is for neither side


def _chosen(utility, offsets):
    chosen = np.zeros(offsets[-1])
    for a, b in itertools.pairwise(offsets):
        chosen[a + np.argmax(utility[a:b])] = 1.0
    return chosen


def _data(X, chosen, offsets, names=None):
    return ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets, feature_names=names)


def _differences(X, chosen, offsets):
    own = np.repeat(X[chosen > 0], np.diff(offsets), axis=0)
    return (X - own)[chosen == 0]


def _linear_program(rows):
    """Most that utilities of unchosen rows can fall in a box, none rising: zero unless separated."""
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-300)
    found = linprog(rows.sum(axis=0), A_ub=rows, b_ub=np.zeros(len(rows)), bounds=(-1.0, 1.0), method="highs")
    assert found.status == 0
    return -found.fun


def _refusal(data):
    with pytest.raises(IdentificationError) as refused:
        GMMEstimator(Logit(), data).fit()
    assert refused.value.codes == ("E201",), str(refused.value)
    return str(refused.value)


# --- against the linear program -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    sizes=st.lists(st.integers(2, 4), min_size=4, max_size=25),
    columns=st.integers(1, 3),
    kind=st.sampled_from(["normal", "whole", "units"]),
    noise=st.sampled_from([0.02, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_verdict_is_that_of_a_linear_program(sizes, columns, kind, noise, seed):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    X = rng.normal(size=(offsets[-1], columns))
    if kind == "whole":
        X = rng.integers(-2, 3, size=X.shape).astype(float)
    theta = rng.normal(size=columns)
    chosen = _chosen(X @ theta + noise * rng.gumbel(size=len(X)), offsets)
    rows = _differences(X, chosen, offsets)
    assume(np.linalg.matrix_rank(rows) == columns)
    assume(np.linalg.cond(rows) < 1e6)
    fall = _linear_program(rows)
    assume(fall == 0 or fall > CLEAR)
    separated = fall > CLEAR
    event("separated" if separated else "overlap")
    if kind == "units":
        X = X * 10.0 ** rng.integers(-6, 7, size=columns)
    model = Logit()
    sample = model.sample(_data(X, chosen, offsets))
    for start in (np.zeros(columns), theta * 5 / np.abs(X).max(axis=0)):
        try:
            model.check_existence(start, sample)
            refused = ""
        except IdentificationError as error:
            refused = str(error)
        assert bool(refused) == separated
        if separated:
            assert refused.startswith("E201 no finite estimate exists")


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), noise=st.sampled_from([0.02, 0.5]))
def test_whole_fits_agree_with_the_linear_program(seed, noise):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(2, 4, size=20))])
    X = rng.normal(size=(offsets[-1], 2))
    chosen = _chosen(X @ np.array([1.0, -1.0]) + noise * rng.gumbel(size=len(X)), offsets)
    fall = _linear_program(_differences(X, chosen, offsets))
    assume(fall == 0 or fall > CLEAR)
    if fall > CLEAR:
        assert "no finite estimate exists" in _refusal(_data(X, chosen, offsets))
    else:
        result = GMMEstimator(Logit(), _data(X, chosen, offsets)).fit()
        assert result.verified, result.verdict()


# --- planted ------------------------------------------------------------------------------------------------


def _noisy(seed, sets, columns=3):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(2, 6, size=sets))])
    X = rng.normal(size=(offsets[-1], columns))
    chosen = _chosen(0.5 * X.sum(axis=1) + rng.gumbel(size=len(X)), offsets)
    return rng, X, chosen, offsets


def _blames_only_southern(text):
    assert text.startswith("E201 no finite estimate exists")
    assert "southern" in text
    assert not any(name in text for name in ("alpha", "beta", "gamma"))


def test_complete_separation_counts_every_choice():
    _, X, _, offsets = _noisy(0, 40, columns=2)
    chosen = _chosen(X @ np.array([1.0, 2.0]), offsets)  # no noise: x'theta decides
    text = _refusal(_data(X, chosen, offsets, ["cost", "time"]))
    assert "cost, time" in text
    assert "predicts 40 of 40 choices without error" in text
    assert "drop or combine these terms" in text


@pytest.mark.parametrize("sets", [60, 3000])
def test_quasi_complete_separation_by_a_dummy_is_named(sets):
    """A dummy that no chosen row has: its coefficient runs away, all others are well determined."""
    rng, X, chosen, offsets = _noisy(1, sets)
    dummy = ((rng.uniform(size=len(X)) < 0.05) & (chosen == 0)).astype(float)
    assert dummy.any()
    text = _refusal(
        _data(np.column_stack([X, dummy]), chosen, offsets, ["alpha", "beta", "gamma", "southern"])
    )
    _blames_only_southern(text)


@pytest.mark.parametrize("planted", [1, 5])
def test_a_few_separating_rows_in_much_data_are_found(planted):
    """Some rows among twelve thousand carry the dummy, and none of them is chosen."""
    rng, X, chosen, offsets = _noisy(2, 3000)
    dummy = np.zeros(len(X))
    dummy[rng.choice(np.flatnonzero(chosen == 0), planted, replace=False)] = 1.0
    text = _refusal(
        _data(np.column_stack([X, dummy]), chosen, offsets, ["alpha", "beta", "gamma", "southern"])
    )
    _blames_only_southern(text)


@pytest.mark.parametrize("grad", ["analytic", "forward", "complex", "fd-central"])
@pytest.mark.parametrize("optimizer", ["lsq", "bfgs"])
def test_no_backend_and_no_optimiser_hides_it(grad, optimizer):
    _, X, _, offsets = _noisy(3, 40, columns=2)
    data = _data(X, _chosen(X @ np.array([1.0, 2.0]), offsets), offsets)
    with pytest.raises(IdentificationError, match="E201"):
        GMMEstimator(Logit(), data, grad=grad, optimizer=optimizer).fit()


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_hide_it_neither(scale):
    _, X, _, offsets = _noisy(4, 40, columns=2)
    chosen = _chosen(X @ np.array([1.0, 2.0]), offsets)
    assert "predicts 40 of 40" in _refusal(_data(X * [scale, 1.0], chosen, offsets))


# --- clean, but hard ----------------------------------------------------------------------------------------


def test_one_row_against_the_rule_is_enough_for_an_estimate():
    """x decides in all sets but one: the coefficient is large, and it exists."""
    rng = np.random.default_rng(5)
    offsets = np.arange(0, 401, 2)
    X = np.sign(rng.normal(size=(400, 1))) + 0.0
    X[1::2] = -X[::2]
    chosen = _chosen(X[:, 0], offsets)
    chosen[[0, 1]] = chosen[[1, 0]]
    result = GMMEstimator(Logit(), _data(X, chosen, offsets)).fit()
    assert result.verified, result.verdict()
    assert result.theta[0] == pytest.approx(0.5 * np.log(199.0), rel=1e-12)  # 199 to 1, in closed form


@pytest.mark.parametrize("size", [3.0, 8.0, 15.0])
def test_large_coefficients_are_no_separation(size):
    rng = np.random.default_rng(6)
    offsets = np.arange(0, 6001, 3)
    X = rng.normal(size=(6000, 2))
    chosen = _chosen(size * X @ np.array([1.0, -0.7]) + rng.gumbel(size=6000), offsets)
    result = GMMEstimator(Logit(), _data(X, chosen, offsets)).fit()
    assert result.verified, result.verdict()
    assert abs(result.theta[0] - size) < 5 * result.bse.iloc[0]


def test_a_rare_alternative_is_no_separation():
    """One choice in 3,000 of an alternative with a constant: enough."""
    rng = np.random.default_rng(7)
    offsets = np.arange(0, 9001, 3)
    X = np.column_stack([rng.normal(size=9000), np.tile([1.0, 0.0, 0.0], 3000)])
    utility = X[:, 0] + rng.gumbel(size=9000)
    utility[::3] = -np.inf
    chosen = _chosen(utility, offsets)
    chosen[0:3] = [1.0, 0.0, 0.0]
    result = GMMEstimator(Logit(), _data(X, chosen, offsets)).fit()
    assert result.verified, result.verdict()
    assert result.theta[1] < -5


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_columns_in_odd_units_are_no_separation(factor):
    _, X, chosen, offsets = _noisy(8, 300)
    result = GMMEstimator(Logit(), _data(X * [factor, 1.0, 1.0 / factor], chosen, offsets)).fit()
    assert result.verified, result.verdict()


def test_a_start_far_away_is_no_separation():
    _, X, chosen, offsets = _noisy(9, 300)
    model = Logit()
    sample = model.sample(_data(X, chosen, offsets))
    for start in ([50.0, -50.0, 50.0], [1e6, 0.0, 0.0], [-1e3] * 3):
        model.check_existence(np.array(start), sample)


def test_moment_differences_observe_no_choices_and_are_not_judged():
    rng = np.random.default_rng(10)
    X = rng.normal(size=(30, 1))
    data = ChoiceData.from_arrays(
        features=X, moment_differences=rng.normal(size=(30, 2)), offsets=np.arange(0, 31, 3)
    )
    model = Logit()
    model.check_existence(np.zeros(1), model.sample(data))
