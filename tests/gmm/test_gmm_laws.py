"""Laws of the estimator: what may not change an estimate, and what must change it in a known way."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from gmmest.data.choice_data import ChoiceData
from gmmest.data.table import Table
from gmmest.errors import ConfigError
from gmmest.execution.threads import Threads
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.moments import Moments, MomentSums, NotFiniteError
from gmmest.gmm.weighting import (
    first_weight,
    identity_weight,
    inverse_weight,
    moment_covariance,
)
from gmmest.models.logit import Logit
from gmmest.models.moment_function import MomentFunction
from gmmest.simulate import simulate_logit

ROUNDING = 1e-12  # sums in another order, through a well-conditioned minimum (condition below 1e3)
V_ROUNDING = 1e-11  # the same through a product of inverses
DENSE = 1e-12  # one formula written twice, sums in another order


@pytest.fixture(scope="module")
def drawn() -> ChoiceData:
    """800 ragged sets, 3 features, 5 instruments, observed choices."""
    rng = np.random.default_rng(20)
    sizes = rng.integers(2, 7, size=800)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n = offsets[-1]
    X = rng.normal(size=(n, 3))
    Z = np.column_stack([X, 0.5 * X[:, :2] + rng.normal(size=(n, 2))])
    u = X @ np.array([0.8, -0.5, 0.3]) + rng.gumbel(size=n)
    chosen = np.zeros(n)
    for a, b in itertools.pairwise(offsets):
        chosen[a + np.argmax(u[a:b])] = 1.0
    return _data(X, Z, chosen, offsets)


def _data(X, Z, chosen, offsets) -> ChoiceData:
    return ChoiceData.from_arrays(features=X, instruments=Z, chosen=chosen, offsets=offsets)


def _features_only(data: ChoiceData) -> ChoiceData:
    return ChoiceData.from_arrays(features=data.features, chosen=data.chosen, offsets=data.offsets)


def _take(data: ChoiceData, sets) -> ChoiceData:
    """The same sets in another order, or some of them twice."""
    rows = np.concatenate([np.arange(data.offsets[i], data.offsets[i + 1]) for i in sets])
    offsets = np.concatenate([[0], np.cumsum(np.diff(data.offsets)[list(sets)])])
    return _data(data.features[rows], data.instruments[rows], data.chosen[rows], offsets)


class InBlocks:
    """The same model on the same sample, cut into blocks of a given number of sets."""

    def __init__(self, sets: int) -> None:
        self.logit, self.sets = Logit(), sets

    def __getattr__(self, name: str) -> object:
        return getattr(self.logit, name)

    def sample(self, data: ChoiceData):
        sample = self.logit.sample(data)
        whole = sample.whole().blocks[0]
        pieces = list(itertools.pairwise([*range(0, whole.n_sets, self.sets), whole.n_sets]))
        return replace(
            sample,
            blocks=tuple(whole.part(a, b) for a, b in pieces),
            counts=tuple(b - a for a, b in pieces),
        )


@pytest.fixture(scope="module")
def fitted(drawn):
    result = GMMEstimator(Logit(), drawn).fit()
    assert result.verified, result.verdict()
    assert result.j_test().df == 2
    return result


def _same(one, other, rtol=ROUNDING, v_rtol=V_ROUNDING):
    np.testing.assert_allclose(one.theta, other.theta, rtol=rtol)
    np.testing.assert_allclose(
        one.estimate.v, other.estimate.v, rtol=v_rtol, atol=v_rtol * other.estimate.v.max()
    )


@pytest.mark.parametrize("sets", [1, 7, 100, 799])
def test_the_partition_into_blocks_changes_nothing_but_rounding(drawn, fitted, sets):
    model = InBlocks(sets)
    assert len(model.sample(drawn).blocks) == -(-800 // sets)
    cut = GMMEstimator(model, drawn).fit()
    assert cut.verified, cut.verdict()
    _same(cut, fitted)
    assert cut.loglike == pytest.approx(fitted.loglike, rel=ROUNDING)


def test_the_order_of_the_choice_sets_changes_nothing_but_rounding(drawn, fitted):
    shuffled = GMMEstimator(Logit(), _take(drawn, np.random.default_rng(1).permutation(800))).fit()
    assert shuffled.verified
    _same(shuffled, fitted)


def test_the_order_of_rows_within_sets_changes_nothing_but_rounding(drawn, fitted):
    rng = np.random.default_rng(2)
    rows = np.concatenate([a + rng.permutation(b - a) for a, b in itertools.pairwise(drawn.offsets)])
    mixed = _data(drawn.features[rows], drawn.instruments[rows], drawn.chosen[rows], drawn.offsets)
    _same(GMMEstimator(Logit(), mixed).fit(), fitted)


@pytest.mark.parametrize("just_identified", [True, False])
def test_data_written_twice_leave_theta_and_halve_v(drawn, just_identified):
    data = _take(drawn, range(800))
    twice = _take(drawn, [*range(800), *range(800)])
    if just_identified:
        data, twice = _features_only(data), _features_only(twice)
    once, doubled = GMMEstimator(Logit(), data).fit(), GMMEstimator(Logit(), twice).fit()
    assert (doubled.n_obs, doubled.n_rows) == (1600, 2 * once.n_rows)
    np.testing.assert_allclose(doubled.theta, once.theta, rtol=ROUNDING)
    np.testing.assert_allclose(2.0 * doubled.estimate.v, once.estimate.v, rtol=V_ROUNDING, atol=1e-15)
    if not just_identified:
        assert doubled.j_test().stat == pytest.approx(2.0 * once.j_test().stat, rel=1e-10)


@pytest.mark.parametrize("optimizer", ["lsq", "lbfgsb", "bfgs", "trust-constr"])
@pytest.mark.parametrize("powers", [(1, -3, 8), (-30, 20, 60)])
def test_columns_times_powers_of_two_divide_theta_by_them_to_the_bit(drawn, optimizer, powers):
    factors = np.exp2(np.array(powers, dtype=float))
    Z = drawn.instruments * np.array([*factors, 4.0, 0.25])
    scaled = _data(drawn.features * factors, Z, drawn.chosen, drawn.offsets)
    plain = GMMEstimator(Logit(), drawn, optimizer=optimizer).fit()
    other = GMMEstimator(Logit(), scaled, optimizer=optimizer).fit()
    np.testing.assert_array_equal(other.theta * factors, plain.theta)
    np.testing.assert_array_equal(other.standard_errors * factors, plain.standard_errors)
    assert other.criterion == plain.criterion
    assert other.certificate == plain.certificate


@pytest.mark.parametrize("factor", [3.7, 1e-8, 1e8, 1e-150, 1e150])
def test_columns_times_any_number_divide_theta_by_it(drawn, fitted, factor):
    X, Z = drawn.features.copy(), drawn.instruments.copy()
    X[:, 1] *= factor
    Z[:, 3] *= factor
    result = GMMEstimator(
        Logit(), _data(X, np.column_stack([X, Z[:, 3:]]), drawn.chosen, drawn.offsets)
    ).fit()
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta * [1.0, factor, 1.0], fitted.theta, rtol=ROUNDING)
    np.testing.assert_allclose(
        result.standard_errors * [1.0, factor, 1.0], fitted.standard_errors, rtol=V_ROUNDING
    )


def test_a_constant_added_inside_a_choice_set_changes_nothing(drawn, fitted):
    rng = np.random.default_rng(3)
    sizes = np.diff(drawn.offsets)
    X = drawn.features + np.repeat(rng.normal(size=(800, 3)), sizes, axis=0)
    Z = drawn.instruments + np.repeat(rng.normal(size=(800, 5)), sizes, axis=0)
    moved = GMMEstimator(Logit(), _data(X, Z, drawn.chosen, drawn.offsets)).fit()
    assert moved.verified
    _same(moved, fitted, rtol=1e-11, v_rtol=1e-10)  # the constants cost a digit of the differences


def test_both_doors_are_one_model(drawn, fitted):
    chosen_rows = drawn.instruments[drawn.chosen > 0]
    D = drawn.instruments - np.repeat(chosen_rows, np.diff(drawn.offsets), axis=0)
    by_differences = ChoiceData.from_arrays(
        features=drawn.features, moment_differences=D, offsets=drawn.offsets
    )
    other = GMMEstimator(Logit(), by_differences).fit()
    _same(other, fitted)
    assert other.loglike is None
    _same(
        GMMEstimator(Logit(), by_differences, weighting="unadjusted").fit(),
        GMMEstimator(Logit(), drawn, weighting="unadjusted").fit(),
    )


def test_recombined_instruments_leave_the_efficient_estimate(drawn, fitted):
    A = np.random.default_rng(4).normal(size=(5, 5))
    assert np.linalg.cond(A) < 50
    mixed = _data(drawn.features, drawn.instruments @ A, drawn.chosen, drawn.offsets)
    other = GMMEstimator(Logit(), mixed).fit()
    _same(other, fitted, rtol=1e-10, v_rtol=1e-9)  # condition of A, squared in S
    assert other.j_test().stat == pytest.approx(fitted.j_test().stat, rel=1e-9)
    from_identity = GMMEstimator(Logit(), mixed, initial="identity").fit()
    assert np.max(np.abs(from_identity.theta / fitted.theta - 1.0)) > 1e-6, "the premise: I is not invariant"


@pytest.mark.parametrize("se", ["sandwich", "efficient"])
@pytest.mark.parametrize("initial", ["instruments", "identity"])
@pytest.mark.parametrize("steps", ["onestep", "twostep"])
def test_just_identified_no_weight_matters(drawn, steps, initial, se):
    data = _features_only(drawn)
    reference = GMMEstimator(Logit(), data).fit()
    other = GMMEstimator(Logit(), data, steps=steps, initial=initial, se=se).fit()
    assert other.verified, other.verdict()
    _same(other, reference)
    assert other.j_test() is None
    # the criterion is a squared rounding error: moments of size 1, 64 ulp each
    assert other.criterion < (64 * np.finfo(float).eps) ** 2 * 100


def test_minimised_weight_errors_meet_the_sandwich_when_s_is_the_one_minimised(drawn, fitted):
    minimised = GMMEstimator(Logit(), drawn, se="minimised_weight").fit()
    np.testing.assert_array_equal(minimised.theta, fitted.theta)
    assert np.max(np.abs(minimised.standard_errors / fitted.standard_errors - 1.0)) > 1e-8
    # at convergence of the iteration W = S^-1 at the same theta: start the last step there again and again
    from gmmest.gmm.inference import covariance

    moments = Moments(Logit(), Logit().sample(drawn), "analytic")
    names = moments.sample.moment_names
    s = moment_covariance(moments, fitted.theta, CovarianceOptions())
    weight = inverse_weight(s, names)
    _, G = moments.value_and_jacobian(fitted.theta)
    three = [covariance(G, weight, s, kind, names) for kind in ("sandwich", "efficient", "minimised_weight")]
    np.testing.assert_allclose(three[0], three[1], rtol=1e-11)
    np.testing.assert_allclose(three[1], three[2], rtol=1e-13)


@pytest.mark.parametrize("grad", ["forward", "jax", "jax-forward", "complex", "fd-central"])
def test_backends_agree(drawn, fitted, grad):
    other = GMMEstimator(Logit(), drawn, grad=grad).fit()
    assert other.verified, other.verdict()
    rtol, v_rtol = (1e-6, 1e-6) if grad == "fd-central" else (1e-11, 1e-10)
    _same(other, fitted, rtol, v_rtol)


def test_two_fits_give_the_same_bits(drawn, fitted):
    again = GMMEstimator(Logit(), drawn).fit()
    for name in ("theta", "moments", "jacobian", "v"):
        assert getattr(again.estimate, name).tobytes() == getattr(fitted.estimate, name).tobytes()
    assert again.estimate.weight.root.tobytes() == fitted.estimate.weight.root.tobytes()
    assert again.certificate == fitted.certificate


def test_where_the_search_starts_changes_nothing_but_rounding(drawn, fitted):
    other = GMMEstimator(Logit(), drawn).fit({"x1": -1.0, "x2": 2.0})
    _same(
        other, fitted, rtol=1e-9, v_rtol=1e-9
    )  # Gauss-Newton stops where steps are rounding of the criterion


# --- sums, weights, dense formulas -----------------------------------------------------------------------


def test_moment_sums_add():
    a = MomentSums(2, np.array([1.0, 2.0]), np.eye(2))
    b = MomentSums(3, np.array([10.0, 20.0]), np.ones((2, 2)))
    both = a + b
    assert both.count == 5
    np.testing.assert_array_equal(both.moments, [11.0, 22.0])
    np.testing.assert_array_equal(both.jacobian, [[2.0, 1.0], [1.0, 2.0]])
    assert (a + MomentSums(1, np.zeros(2))).jacobian is None
    np.testing.assert_array_equal(a.moments, [1.0, 2.0])  # adding writes into neither


def _dense(data: ChoiceData, theta):
    """Contributions, Jacobian and both covariances, set by set."""
    g, G, implied, centred = [], 0.0, 0.0, 0.0
    for a, b in itertools.pairwise(data.offsets):
        X, Z, y = data.features[a:b], data.instruments[a:b], data.chosen[a:b]
        s = np.exp(X @ theta)
        s /= s.sum()
        spread = np.diag(s) - np.outer(s, s)
        g.append(Z.T @ (s - y))
        G = G + Z.T @ spread @ X
        implied = implied + Z.T @ spread @ Z
        Zd = Z - Z.mean(axis=0)
        centred = centred + Zd.T @ Zd
    n = len(g)
    g = np.array(g)
    return g.mean(axis=0), G / n, g.T @ g / n, implied / n, centred / n


@pytest.mark.parametrize("sets", [50, 800])
def test_moments_covariances_and_weights_are_the_dense_formulas(drawn, sets):
    theta = np.array([0.5, -0.2, 0.1])
    g, G, robust, implied, centred = _dense(drawn, theta)
    model = InBlocks(sets)
    moments = Moments(model, model.sample(drawn), "auto")
    close = {"rtol": DENSE, "atol": 1e-14}
    np.testing.assert_allclose(moments.value(theta), g, **close)
    value, jacobian = moments.value_and_jacobian(theta)
    np.testing.assert_allclose(value, g, **close)
    np.testing.assert_allclose(jacobian, G, **close)
    value, vjp = moments.value_and_vjp(theta)
    np.testing.assert_allclose(value, g, **close)
    v = np.array([1.0, -2.0, 0.5, 3.0, 0.1])
    np.testing.assert_allclose(vjp(v), v @ G, **close)
    s = moment_covariance(moments, theta, CovarianceOptions())
    np.testing.assert_allclose(s.matrix, robust, **close)
    assert (s.n_obs, s.estimator) == (800, "robust")
    np.testing.assert_allclose(
        moment_covariance(moments, theta, CovarianceOptions("unadjusted")).matrix, implied, **close
    )
    vector = np.arange(5.0)
    for weight, inverse in (
        (first_weight(moments), centred),
        (inverse_weight(s, moments.sample.moment_names), robust),
        (identity_weight(moments.sample), np.eye(5)),
    ):
        np.testing.assert_allclose(weight.apply(vector), np.linalg.solve(inverse, vector), rtol=1e-11)
        white = weight.whiten(vector)
        assert white @ white == pytest.approx(vector @ np.linalg.solve(inverse, vector), rel=1e-12)


def test_the_sandwich_is_the_textbook_formula(drawn, fitted):
    g, G, S, _, _ = _dense(drawn, fitted.theta)
    W = np.linalg.inv(fitted.estimate.weight.root @ fitted.estimate.weight.root.T)
    bread = np.linalg.inv(G.T @ W @ G)
    np.testing.assert_allclose(fitted.estimate.v, bread @ G.T @ W @ S @ W @ G @ bread / 800, rtol=1e-11)
    assert fitted.criterion == pytest.approx(g @ W @ g, rel=1e-10)
    assert fitted.j_test().stat == pytest.approx(800 * (g @ W @ g), rel=1e-10)
    # the first-order condition, in units of its terms
    assert np.max(np.abs(G.T @ W @ g)) < 1e-10 * np.max(np.abs(G.T @ W) @ np.abs(g))


# --- J ------------------------------------------------------------------------------------------------------


def test_j_has_the_distribution_that_its_p_value_claims():
    draws, df = 80, 2
    stats, pvalues = [], []
    for seed in range(draws):
        data = simulate_logit(sets=400, alternatives=(2, 5), features=2, moments=4, seed=seed).data
        result = GMMEstimator(Logit(), data).fit()
        assert result.verified, (seed, result.verdict())
        stats.append(result.j_test().stat)
        pvalues.append(result.j_test().pvalue)
    assert result.j_test().df == df
    # chi-squared with 2 df: mean 2, variance 4; four standard errors of the mean of the draws
    assert abs(np.mean(stats) - df) < 4 * np.sqrt(2 * df / draws)
    # Kolmogorov's distance from the uniform: 1.95 / sqrt(n) is the one-in-a-thousand point
    ordered = np.sort(pvalues)
    distance = np.max(np.abs(ordered - (np.arange(draws) + 0.5) / draws)) + 0.5 / draws
    assert distance < 1.95 / np.sqrt(draws)


def test_estimates_of_simulated_choices_scatter_as_the_standard_errors_claim():
    z = []
    for seed in range(60):
        drawn = simulate_logit(sets=400, alternatives=(2, 5), features=2, moments=4, seed=1000 + seed)
        result = GMMEstimator(Logit(), drawn.data).fit()
        z.append((result.theta - drawn.theta) / result.standard_errors)
    z = np.array(z)
    assert np.all(np.abs(z.mean(axis=0)) < 4 / np.sqrt(60))  # means zero, four standard errors
    assert np.all(np.abs(np.mean(z**2, axis=0) - 1.0) < 4 * np.sqrt(2 / 60))  # and variance one


def test_a_feature_left_out_of_the_utility_is_found_by_its_instrument():
    drawn = simulate_logit(sets=2000, alternatives=3, features=3, moments=4, seed=8)
    assert abs(drawn.theta[2]) > 0.3, "the premise: what is left out matters"
    short = ChoiceData.from_arrays(
        features=drawn.data.features[:, :2],
        moment_differences=drawn.data.instruments,
        offsets=drawn.data.offsets,
    )
    result = GMMEstimator(Logit(), short).fit()
    assert result.verified
    assert (result.j_test().df, result.j_test().pvalue < 1e-6) == (2, True)


def test_moments_of_ones_own_have_no_unadjusted_covariance():
    from gmmest.data.table import Table

    model = MomentFunction(lambda theta, rows: (rows["y"] - theta[0])[:, None], names=["mu"])
    table = Table.from_arrays({"y": [1.0, 2.0, 4.0]})
    with pytest.raises(ConfigError, match="unadjusted") as refused:
        GMMEstimator(model, table, weighting="unadjusted").fit()
    assert refused.value.codes == ("E102",)
    assert "MomentFunction" in str(refused.value)
    assert "weighting: robust" in str(refused.value)


def test_floating_point_errors_are_handled_on_threads_as_where_they_were_asked_for():
    """Every thread has a handling of its own; a search steps back from what overflows, without a warning."""
    table = Table.from_arrays({"y": np.arange(4.0)})
    model = MomentFunction(lambda theta, rows: (rows["y"] - np.exp(theta[0]))[:, None], names=["a"])
    sample = model.sample(table)
    halves = replace(sample, blocks=(table.rows(0, 2), table.rows(2, 4)), counts=(2, 2))
    moments = Moments(model, halves, "forward", Threads(2))
    with np.errstate(over="ignore"), pytest.raises(NotFiniteError):
        moments.value(np.array([1e3]))
    with np.errstate(over="raise"), pytest.raises(ConfigError, match="E111") as raised:
        moments.value(np.array([1e3]))
    assert isinstance(raised.value.__cause__, FloatingPointError)
