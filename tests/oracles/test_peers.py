"""Other people's programs as a check: statsmodels' conditional logit, linearmodels' IV-GMM, statsmodels' GLM."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gmmest.data.choice_data import ChoiceData
from gmmest.data.table import Table
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.logit import Logit
from gmmest.models.moment_function import MomentFunction

ENGINES = ("forward", "jax", "jax-forward", "complex", "fd-central", "fd")
PEER_LOGIT_RTOL = (
    1e-6  # statsmodels' conditional logit stops at a gradient of 1e-5 and recurses in a plain loop
)
PEER_RTOL = 1e-9  # linear algebra on both sides, of condition numbers below 1e3
ERROR_RTOL = {"fd": 2e-6, "fd-central": 1e-8}  # what steps of eps^(1/2), eps^(1/3) leave


def test_ragged_logit_agrees_with_statsmodels_conditional_logit():
    from statsmodels.discrete.conditional_models import ConditionalLogit

    rng = np.random.default_rng(5)
    sizes = rng.integers(2, 7, size=300)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    X = rng.normal(size=(offsets[-1], 3))
    utility = X @ np.array([1.0, -0.5, 0.3]) + rng.gumbel(size=offsets[-1])
    chosen = np.zeros(offsets[-1])
    for start, stop in itertools.pairwise(offsets):
        chosen[start + np.argmax(utility[start:stop])] = 1.0
    assert len(set(sizes)) == 5
    data = ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets)
    ours = GMMEstimator(Logit(), data, weighting="unadjusted").fit()
    theirs = ConditionalLogit(chosen, X, groups=np.repeat(np.arange(300), sizes)).fit(
        disp=False, method="newton", tol=1e-12
    )
    assert ours.verified, ours.verdict()
    np.testing.assert_allclose(ours.theta, theirs.params, rtol=PEER_LOGIT_RTOL)
    np.testing.assert_allclose(ours.standard_errors, theirs.bse, rtol=PEER_LOGIT_RTOL)
    assert ours.loglike == pytest.approx(theirs.llf, rel=PEER_LOGIT_RTOL)


# --- moments of one's own --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iv_arrays():
    rng = np.random.default_rng(11)
    n = 600
    z = rng.normal(size=(n, 3))
    w = rng.normal(size=n)
    noise = rng.normal(size=n)
    x = z @ np.array([0.8, 0.5, 0.3]) + 0.4 * w + 0.7 * noise + rng.normal(size=n)
    y = 1.0 + 2.0 * x - 1.0 * w + noise * np.exp(0.3 * z[:, 0])  # endogenous and heteroskedastic
    return y, x, w, z


def iv_moments(theta, rows):
    error = rows["y"] - theta[0] - theta[1] * rows["w"] - theta[2] * rows["x"]
    instruments = np.stack(
        [np.ones_like(rows["w"]), rows["w"], rows["z"][:, 0], rows["z"][:, 1], rows["z"][:, 2]], axis=1
    )
    return instruments * error[:, None]


@pytest.mark.parametrize("grad", ENGINES)
def test_linear_iv_as_a_moment_function_agrees_with_linearmodels(iv_arrays, grad):
    from linearmodels.iv import IVGMM

    y, x, w, z = iv_arrays
    exog = np.column_stack([np.ones_like(w), w])
    theirs = IVGMM(y, exog, x[:, None], z).fit(initial_weight=np.eye(5), iter_limit=2, cov_type="robust")
    table = Table.from_arrays({"y": y, "x": x, "w": w, "z": z})
    ours = GMMEstimator(MomentFunction(iv_moments, names=["const", "w", "x"]), table, grad=grad).fit()
    assert ours.verified, ours.verdict()
    np.testing.assert_allclose(ours.theta, theirs.params, rtol=PEER_RTOL)
    np.testing.assert_allclose(ours.estimate.v, theirs.cov, rtol=ERROR_RTOL.get(grad, PEER_RTOL))
    test = ours.j_test()
    assert (test.stat, test.df) == (pytest.approx(theirs.j_stat.stat, rel=PEER_RTOL), theirs.j_stat.df)
    assert test.pvalue == pytest.approx(theirs.j_stat.pval, rel=1e-8)


def test_just_identified_iv_is_two_stage_least_squares_of_linearmodels(iv_arrays):
    from linearmodels.iv import IVGMM

    y, x, w, z = iv_arrays
    exog = np.column_stack([np.ones_like(w), w])
    theirs = IVGMM(y, exog, x[:, None], z[:, :1]).fit(cov_type="robust")
    table = Table.from_arrays({"y": y, "x": x, "w": w, "z": z})

    def moments(theta, rows):
        error = rows["y"] - theta[0] - theta[1] * rows["w"] - theta[2] * rows["x"]
        return np.stack([error, error * rows["w"], error * rows["z"][:, 0]], axis=1)

    ours = GMMEstimator(MomentFunction(moments, names=["const", "w", "x"]), table).fit()
    np.testing.assert_allclose(ours.theta, theirs.params, rtol=PEER_RTOL)
    np.testing.assert_allclose(ours.estimate.v, theirs.cov, rtol=PEER_RTOL)


@pytest.mark.parametrize("grad", ENGINES)
def test_mean_and_variance_in_closed_form(grad):
    rng = np.random.default_rng(3)
    y = 4.0 + 1.5 * rng.normal(size=500)

    def moments(theta, rows):
        e = rows["y"] - theta[0]
        return np.stack([e, e**2 - theta[1]], axis=1)

    model = MomentFunction(moments, names=["mu", "sigma2"], start={"sigma2": 1.0})
    result = GMMEstimator(model, Table.from_arrays({"y": y}), grad=grad).fit()
    e = y - y.mean()
    rows = np.column_stack([e, e**2 - e @ e / 500])
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta, [y.mean(), y.var()], rtol=PEER_RTOL)
    # G = -I at the root, so V = S / N
    np.testing.assert_allclose(
        result.estimate.v, rows.T @ rows / 500**2, rtol=ERROR_RTOL.get(grad, PEER_RTOL)
    )


@pytest.mark.parametrize("grad", ENGINES)
def test_exponential_regression_agrees_with_statsmodels_poisson(grad):
    import statsmodels.api as sm

    rng = np.random.default_rng(8)
    X = np.column_stack([np.ones(800), rng.normal(size=(800, 2))])
    y = rng.poisson(np.exp(X @ np.array([0.4, 0.5, -0.3]))).astype(float)

    def moments(theta, rows):
        surprise = rows["y"] - np.exp(rows["X"] @ theta)
        return rows["X"] * surprise[:, None]

    model = MomentFunction(moments, names=["const", "a", "b"])
    ours = GMMEstimator(model, Table.from_arrays({"y": y, "X": X}), grad=grad).fit()
    theirs = sm.GLM(y, X, family=sm.families.Poisson()).fit(tol=1e-14, cov_type="HC0")
    assert ours.verified, ours.verdict()
    np.testing.assert_allclose(ours.theta, theirs.params, rtol=PEER_RTOL)
    np.testing.assert_allclose(ours.standard_errors, theirs.bse, rtol=ERROR_RTOL.get(grad, PEER_RTOL))
