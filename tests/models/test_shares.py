"""Sums over choice sets from one visit of a block, against dense formulas set by set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from gmmest.data.block import Block
from gmmest.data.choice_data import ChoiceData
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models import identification, logit, shares
from gmmest.models.logit import Logit
from gmmest.models.separation import proves_overlap
from gmmest.models.shares import share_covariance, share_sums
from gmmest.simulate import simulate_logit

DENSE = 1e-12  # sums of a few hundred terms in another order


def _draw(seed, sets=40, columns=3, instruments=None, weighted=False, counted=False, observed=True):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1 if not observed else 2, 7, size=sets)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    X = rng.normal(size=(offsets[-1], columns)) + 10.0
    Z = X if instruments is None else rng.normal(size=(offsets[-1], instruments))
    chosen = np.zeros(offsets[-1])
    if observed:
        chosen[offsets[:-1] + rng.integers(0, sizes)] = 1.0
    count = rng.integers(1, 5, size=sets).astype(float) if counted else None
    weight = rng.uniform(0.1, 3.0, size=sets) if weighted else None
    mass = (
        None
        if weight is None and count is None
        else (1.0 if weight is None else weight) * (1.0 if count is None else count)
    )
    spread = [None if a is None else np.repeat(a, sizes) for a in (mass, count)]
    return Block(X, Z, chosen, offsets, *spread), rng.normal(size=columns) * 0.3


def _by_hand(block, theta):
    """Moments, Jacobian, squares and implied covariance, set by set."""
    m, p = block.instruments.shape[1], block.features.shape[1]
    g, G, S, implied = np.zeros(m), np.zeros((m, p)), np.zeros((m, m)), np.zeros((m, m))
    for a, b in itertools.pairwise(block.offsets):
        X, Z = block.features[a:b], block.instruments[a:b]
        u = X @ theta
        s = np.exp(u - u.max())
        s /= s.sum()
        w = 1.0 if block.weight is None else block.weight[a]
        f = 1.0 if block.frequency is None else block.frequency[a]
        one, middle = w * Z.T @ (s - block.chosen[a:b]), np.diag(s) - np.outer(s, s)
        g += one
        G += w * Z.T @ middle @ X
        S += np.outer(one, one) / f
        implied += w**2 / f * Z.T @ middle @ Z
    return g, G, S, implied


def _scores(sets, features, seed):
    """Drawn choices whose instruments are the features themselves."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 7, size=sets)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    X = rng.normal(size=(offsets[-1], features))
    utility = X @ np.linspace(-1.0, 1.0, features) + rng.gumbel(size=offsets[-1])
    chosen = np.zeros(offsets[-1])
    chosen[[a + np.argmax(utility[a:b]) for a, b in itertools.pairwise(offsets)]] = 1.0
    return ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets)


@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("instruments", [None, 4])
def test_sums_are_those_made_set_by_set(monkeypatch, observed, weighted, counted, instruments):
    block, theta = _draw(3, instruments=instruments, weighted=weighted, counted=counted, observed=observed)
    monkeypatch.setattr(shares, "PIECE", 64 * 7)
    share = logit.ops.segment_softmax(block.features @ theta, block.offsets)
    sums, implied = share_sums(share, block, square=True), share_covariance(share, block)
    g, G, S, other = _by_hand(block, theta)
    for ours, theirs in ((sums.moments, g), (sums.jacobian, G), (sums.square, S), (implied, other)):
        assert np.allclose(ours, theirs, rtol=DENSE, atol=DENSE * np.abs(theirs).max())
    assert sums.count == (block.frequency[block.offsets[:-1]].sum() if counted else block.n_sets)
    assert share_sums(share, block, square=False).square is None
    rows = Logit().contributions(theta, block)
    assert np.allclose(rows.sum(axis=0), sums.moments, rtol=0, atol=DENSE * np.abs(rows).sum())


def test_a_large_constant_within_sets_costs_no_digits_of_the_jacobian():
    block, theta = _draw(5)
    level = np.repeat(np.random.default_rng(0).normal(size=block.n_sets) * 2.0**26, np.diff(block.offsets))
    # the constant is a multiple of the last bit of the column, so that the sum is exact
    grain = np.round(block.features * 2.0**20) / 2.0**20
    level = np.round(level)
    low, high = (Block(X, X, block.chosen, block.offsets) for X in (grain, grain + level[:, None]))
    assert np.array_equal(high.features - level[:, None], grain)
    share = logit.ops.segment_softmax(grain @ theta, block.offsets)
    small, large = (share_sums(share, each, square=False).jacobian for each in (low, high))
    assert np.allclose(small, large, rtol=1e-7, atol=0)
    naive = high.features.T @ (share[:, None] * high.features)
    means = np.add.reduceat(share[:, None] * high.features, block.offsets[:-1])
    assert not np.allclose(naive - means.T @ means, small, rtol=1e-3, atol=0)  # the premise


def test_the_jacobian_of_a_score_is_symmetric_to_the_last_bit_and_positive():
    block, theta = _draw(7, columns=5)
    share = logit.ops.segment_softmax(block.features @ theta, block.offsets)
    jacobian = share_sums(share, block, square=False).jacobian
    assert np.array_equal(jacobian, jacobian.T)
    assert np.linalg.eigvalsh(jacobian)[0] > 0


# --- proofs that an estimate exists -------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**6), st.integers(4, 14), st.integers(1, 2), st.floats(0.0, 3.0))
def test_the_bound_from_ranges_never_proves_what_a_linear_program_denies(seed, sets, columns, size):
    block, direction = _draw(seed, sets=sets, columns=columns)
    theta = size * direction
    share = logit.ops.segment_softmax(block.features @ theta, block.offsets)
    sums = share_sums(share, block, square=False)
    means = np.add.reduceat(block.features, block.offsets[:-1]) / np.diff(block.offsets)[:, None]
    spread = np.abs(block.features - np.repeat(means, np.diff(block.offsets), axis=0)).max(
        axis=0
    )  # the tightest
    if proves_overlap(sums.moments, sums.jacobian, np.abs(means).max(axis=0), spread, sets):
        own = np.repeat(block.features[block.chosen > 0], np.diff(block.offsets), axis=0)
        rows = (block.features - own)[block.chosen == 0]
        found = linprog(rows.sum(axis=0), A_ub=rows, b_ub=np.zeros(len(rows)), bounds=(-1.0, 1.0))
        assert found.status == 0
        assert found.fun > -1e-7


def test_at_the_maximum_the_bound_proves_it_and_no_pass_is_made(monkeypatch):
    data = _scores(sets=500, features=3, seed=4)

    def never(*_):
        raise AssertionError("a pass for what was proved")

    monkeypatch.setattr(logit, "check_overlap", never)
    assert GMMEstimator(Logit(), data).fit().verified


def test_separated_choices_are_not_proved_to_overlap_however_far_the_parameters_go():
    X = np.linspace(-1.0, 1.0, 40)[:, None]
    block = Block(X, X, np.tile([0.0, 1.0], 20), np.arange(0, 41, 2))
    one = np.ones(1)
    for far in (0.0, 1.0, 30.0, 300.0, 700.0, 1e3, 1e4):
        share = logit.ops.segment_softmax(X @ np.array([far]), block.offsets)
        sums = share_sums(share, block, square=False)
        assert not proves_overlap(sums.moments, sums.jacobian, one, 0.03 * one, 20.0)


# --- passes and blocks --------------------------------------------------------------------------------------


def test_a_just_identified_logit_takes_a_handful_of_passes():
    data = _scores(sets=2_000, features=4, seed=2)
    twostep = GMMEstimator(Logit(), data).fit()
    onestep = GMMEstimator(Logit(), data, steps="onestep").fit()
    assert twostep.verified
    assert twostep.work.evaluations == onestep.work.evaluations <= 14
    assert np.array_equal(twostep.theta, onestep.theta)


@pytest.mark.parametrize("columns", [1, 3])
def test_checks_find_the_same_whatever_the_blocks(monkeypatch, columns):
    drawn = simulate_logit(sets=900, alternatives=(2, 6), features=columns, moments=columns + 1, seed=8)
    one = Logit().sample(drawn.data)
    monkeypatch.setattr(logit, "rows_per_block", lambda *_: 100)
    monkeypatch.setattr(identification, "PIECE", 64 * 8)
    many = Logit().sample(drawn.data)
    assert len(many.blocks) > 10 > len(one.blocks)
    assert np.allclose(one.within.cross, many.within.cross, rtol=DENSE)
    assert np.array_equal(one.typical, many.typical)


def test_collinear_columns_are_named_across_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 3))
    X[:, 2] = 2.0 * X[:, 0] - X[:, 1]
    data = ChoiceData.from_arrays(
        features=X,
        chosen=np.tile([1, 0, 0], 200),
        offsets=np.arange(0, 601, 3),
        feature_names=["a", "b", "c"],
    )
    monkeypatch.setattr(logit, "rows_per_block", lambda *_: 60)
    with pytest.raises(identification.IdentificationError, match=r"within every choice set") as refused:
        Logit().sample(data)
    assert refused.value.codes == ("E202",)


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_columns_of_any_size_are_measured(size):
    base = _scores(sets=200, features=2, seed=9)
    block = base.block()
    data = ChoiceData.from_arrays(
        features=np.asarray(block.features) * [1.0, size], chosen=block.chosen, offsets=block.offsets
    )
    plain, scaled = Logit().sample(base), Logit().sample(data)
    assert np.allclose(scaled.within.reach, plain.within.reach * [1.0, size], rtol=1e-12)
    fit = GMMEstimator(Logit(), data).fit()
    assert fit.verified
    assert np.isclose(fit.theta[1] * size, GMMEstimator(Logit(), base).fit().theta[1], rtol=1e-12)


# --- numbers of four bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", ["analytic", "forward", "jax"])
@pytest.mark.parametrize("weighting", ["robust", "unadjusted"])
def test_features_in_float32_stay_so_and_give_the_bits_of_their_float64_values(grad, weighting):
    block = _scores(sets=300, features=3, seed=6).block()
    small = np.asarray(block.features, dtype=np.float32)
    extra = np.asarray(np.random.default_rng(1).normal(size=(len(small), 4)), dtype=np.float32)
    for Z in (None, np.column_stack([small, extra])):
        fits = []
        for kind in (np.float32, np.float64):
            given = None if Z is None else Z.astype(kind)
            data = ChoiceData.from_arrays(
                features=small.astype(kind),
                instruments=given,
                chosen=block.chosen,
                offsets=block.offsets,
                instrument_names=None if Z is None else [f"z{j}" for j in range(7)],
            )
            assert data.features.dtype == kind
            fits.append(GMMEstimator(Logit(), data, grad=grad, weighting=weighting).fit())
        assert fits[0].verified
        if grad == "jax":  # compiled another way for each type: the last bits differ
            assert np.allclose(fits[0].theta, fits[1].theta, rtol=1e-11)
            continue
        assert np.array_equal(fits[0].theta, fits[1].theta)
        assert np.array_equal(fits[0].cov_params(), fits[1].cov_params())
        assert fits[0].loglike == fits[1].loglike
