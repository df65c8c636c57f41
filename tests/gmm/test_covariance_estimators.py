"""S by clusters, two ways of clustering and lags: laws, other programs, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from linearmodels.iv import IV2SLS, IVGMM
from linearmodels.iv.covariance import kernel_optimal_bandwidth
from statsmodels.stats import sandwich_covariance as sw

import gmmest as gm
from gmmest.execution.threads import Threads
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.kernels import (
    KERNELS,
    andrews_bandwidth,
    kernel_weights,
    long_run_covariance,
    newey_west_bandwidth,
)
from gmmest.gmm.moments import Moments
from gmmest.gmm.weighting import moment_covariance

SUMS = 1e-13
"""Relative: the same sums in another order, or by Fourier transforms."""
PEER = 1e-9
"""Relative: other programs invert matrices."""

N = 300
NAMES = ["y", "x", "z1", "z2", "z3"]
MODEL = gm.LinearIV("y", exogenous=["z1"], endogenous=["x"], instruments=["z2", "z3"])


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    frame = pd.DataFrame({"firm": rng.integers(0, 60, N), "year": rng.integers(0, 55, N)})
    noise = pd.DataFrame(rng.normal(size=(N, 5)), columns=["z1", "z2", "z3", "u", "v"])
    for j in range(1, N):  # correlated in time
        noise.iloc[j] += 0.5 * noise.iloc[j - 1]
    firm, year = rng.normal(size=60), rng.normal(size=55)
    frame = pd.concat([frame, noise], axis=1)
    frame["e"] = frame["u"] + 0.7 * firm[frame["firm"]] + 0.7 * year[frame["year"]]
    frame["x"] = frame["z2"] + 0.5 * frame["z3"] + frame["v"] + 0.5 * frame["u"]
    frame["y"] = 1 + 0.5 * frame["x"] - 0.3 * frame["z1"] + frame["e"]
    return frame


def table(frame: pd.DataFrame, **roles: object) -> gm.Table:
    return gm.Table.from_frame(frame, NAMES, **roles)


def moments_of(frame: pd.DataFrame, executor=None, **roles: object) -> Moments:
    return Moments(MODEL, MODEL.sample(table(frame, **roles)), "auto", executor)


def rows_of(moments: Moments, theta) -> np.ndarray:
    return np.concatenate([MODEL.contributions(theta, block) for block in moments.sample.blocks])


THETA = np.array([0.1, 0.4, 0.9])


def s_of(moments: Moments, *options, **more) -> np.ndarray:
    return moment_covariance(moments, THETA, CovarianceOptions(*options, **more)).matrix


# --- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["robust", "cluster", "twoway", "kernel"])
def test_centring(frame, estimator):
    """Centred S is S of centred contributions; for robust S less gg'."""
    moments = moments_of(frame, cluster=["firm", "year"][: 2 if estimator == "twoway" else 1])
    rows, g = rows_of(moments, THETA), moments.value(THETA)
    centred = s_of(moments, estimator, True, bandwidth=3)
    np.testing.assert_allclose(rows.mean(axis=0), g, rtol=1e-12)
    if estimator == "robust":
        np.testing.assert_allclose(centred, s_of(moments) - np.outer(g, g), rtol=1e-12)
        # J_c = J_u/(1 - J_u/N), at any point: Sherman and Morrison
        j_u, j_c = (N * g @ np.linalg.solve(s, g) for s in (s_of(moments), centred))
        assert j_c == pytest.approx(j_u / (1 - j_u / N), rel=1e-11)
    if estimator == "cluster":
        sums = pd.DataFrame(rows - g).groupby(frame["firm"].to_numpy()).sum().to_numpy()
        np.testing.assert_allclose(centred, sums.T @ sums / N, rtol=1e-12, atol=1e-14)


def test_clusters_of_one_and_no_lag_are_robust(frame):
    single = moments_of(frame.assign(own=np.arange(N)[::-1]), cluster="own")
    np.testing.assert_allclose(s_of(single, "cluster"), s_of(single), rtol=SUMS, atol=1e-15)
    for kernel in KERNELS:
        np.testing.assert_array_equal(
            s_of(single, "kernel", kernel=kernel, bandwidth=0), s_of(single, "robust")
        )


def test_two_ways_that_are_one(frame):
    moments = moments_of(frame.assign(again=frame["firm"] + 5), cluster=["firm", "again"])
    np.testing.assert_allclose(
        s_of(moments, "twoway"), s_of(moments, "cluster", cluster=("firm",)), rtol=SUMS, atol=1e-14
    )


@pytest.mark.parametrize("estimator", ["cluster", "twoway", "kernel"])
def test_blocks_and_executors_change_nothing(frame, estimator, monkeypatch):
    ways = ["firm", "year"][: 2 if estimator == "twoway" else 1]
    whole = s_of(moments_of(frame, cluster=ways), estimator, bandwidth=7)
    monkeypatch.setattr("gmmest.models.regression.rows_per_block", lambda *_: 17)
    serial = moments_of(frame, cluster=ways)
    assert len(serial.sample.blocks) > 15
    straddling = s_of(serial, estimator, bandwidth=7)
    np.testing.assert_allclose(straddling, whole, rtol=1e-12, atol=1e-14)
    for workers in (2, 4):
        again = s_of(moments_of(frame, Threads(workers), cluster=ways), estimator, bandwidth=7)
        assert np.array_equal(again, straddling)


def test_order_of_clusters_is_nothing(frame):
    names = {k: f"firm {(7 * k) % 60}" for k in range(60)}
    renamed = frame.assign(firm=frame["firm"].map(names))
    a, b = (s_of(moments_of(f, cluster="firm"), "cluster") for f in (frame, renamed))
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", [1, 3.5, 12])
def test_lags_by_their_definition(kernel, bandwidth):
    rows = np.random.default_rng(0).normal(size=(40, 3))
    k = kernel_weights(kernel, bandwidth, 40)
    direct = rows.T @ rows
    for j in range(1, 40):
        gamma = rows[j:].T @ rows[:-j]
        direct += k[j] * (gamma + gamma.T)
    found = long_run_covariance(rows, kernel, bandwidth)
    np.testing.assert_allclose(found, direct / 40, rtol=1e-12, atol=1e-14)
    assert np.linalg.eigvalsh(found)[0] > -1e-14


def test_time_is_what_orders(frame):
    moved = frame.assign(t=np.arange(N)).sample(frac=1.0, random_state=1)
    given = s_of(moments_of(frame), "kernel", bandwidth=4)
    ordered = s_of(moments_of(moved, time="t"), "kernel", bandwidth=4)
    np.testing.assert_array_equal(given, ordered)
    assert np.max(np.abs(s_of(moments_of(moved), "kernel", bandwidth=4) / given - 1)) > 0.01


def test_the_series_of_the_spectral_kernel_meets_its_formula():
    """Both sides of z = 0.1, where one gives way to the other; 3/z^2 costs the formula two to three digits."""
    below, above = (kernel_weights("qs", 1.2 * np.pi / z, 2)[1] for z in (0.1 - 1e-9, 0.1 + 1e-9))
    assert below - above == pytest.approx(2e-9 * 0.1 / 5, abs=2e-13)


# --- other programs ---------------------------------------------------------------------------------


def linearmodels_gmm(frame: pd.DataFrame, weights: dict, fit: dict) -> object:
    exog = sm.add_constant(frame[["z1"]], prepend=False)
    return IVGMM(frame["y"], exog, frame[["x"]], frame[["z2", "z3"]], **weights).fit(iter_limit=2, **fit)


@pytest.mark.parametrize("centred", [False, True])
def test_clustered_gmm_is_linearmodels(frame, centred):
    clusters = frame["firm"]
    theirs = linearmodels_gmm(
        frame,
        {"weight_type": "clustered", "clusters": clusters, "center": centred},
        {"cov_type": "clustered", "clusters": clusters, "center": centred},
    )
    ours = gm.GMMEstimator(MODEL, table(frame, cluster="firm"), weighting="cluster", centred=centred).fit()
    assert ours.verified
    np.testing.assert_allclose(ours.params, theirs.params[["z1", "x", "const"]], rtol=PEER)
    np.testing.assert_allclose(ours.bse, theirs.std_errors[["z1", "x", "const"]], rtol=PEER)
    assert ours.j_test().stat == pytest.approx(theirs.j_stat.stat, rel=PEER)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", [4, "newey-west"])
def test_kernel_gmm_is_linearmodels(frame, kernel, bandwidth):
    number = None if bandwidth == "newey-west" else bandwidth
    options = {"kernel": kernel, "bandwidth": number}
    optimal = {"optimal_bw": True} if number is None else {}
    theirs = linearmodels_gmm(
        frame,
        {"weight_type": "kernel", **options, **optimal},
        {"cov_type": "kernel", **options, **optimal},
    )
    ours = gm.GMMEstimator(MODEL, table(frame), weighting="kernel", kernel=kernel, bandwidth=bandwidth).fit()
    assert ours.verified
    np.testing.assert_allclose(ours.params, theirs.params[["z1", "x", "const"]], rtol=PEER)
    assert ours.j_test().stat == pytest.approx(theirs.j_stat.stat, rel=PEER)
    if number is not None:  # linearmodels chooses that of the covariance by a series of its own
        np.testing.assert_allclose(ours.bse, theirs.std_errors[["z1", "x", "const"]], rtol=PEER)


@pytest.mark.parametrize("kernel", KERNELS)
def test_newey_west_bandwidth_is_linearmodels(kernel):
    series = np.random.default_rng(5).normal(size=250).cumsum() * 0.1
    assert newey_west_bandwidth(series[:, None], kernel) == kernel_optimal_bandwidth(
        series / series.std(), kernel
    )


def test_bartlett_is_statsmodels_s_hac(frame):
    moments = moments_of(frame)
    theirs = sw.S_hac_simple(rows_of(moments, THETA), nlags=6) / N
    np.testing.assert_allclose(s_of(moments, "kernel", bandwidth=6), theirs, rtol=1e-12)


def test_clusters_are_statsmodels(frame):
    rows = rows_of(moments_of(frame), THETA)
    theirs = sw.S_crosssection(rows, frame["firm"].to_numpy()) / N
    np.testing.assert_allclose(s_of(moments_of(frame, cluster="firm"), "cluster"), theirs, rtol=1e-12)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("ways", [["firm"], ["firm", "year"]])
def test_least_squares_with_clusters_is_statsmodels(frame, corrected, ways):
    """With the factor: G/(G - 1) (N - 1)/(N - P), for two ways each part its own."""
    model = gm.LinearIV("y", exogenous=["x", "z1"])
    weighting = "cluster" if len(ways) == 1 else "twoway"
    options = {"weighting": weighting, "small_sample": corrected}
    ours = gm.GMMEstimator(model, table(frame, cluster=ways), steps="onestep", **options).fit()
    X = sm.add_constant(frame[["x", "z1"]], prepend=False)
    groups = frame[ways[0]] if len(ways) == 1 else frame[ways].to_numpy()
    theirs = sm.OLS(frame["y"], X).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": corrected, "df_correction": True}
    )
    np.testing.assert_allclose(ours.bse, theirs.bse, rtol=PEER)
    assert ("small-sample factor" in str(ours.summary())) == corrected


def test_robust_small_sample_is_hc1(frame):
    ours = gm.GMMEstimator(gm.LinearIV("y", exogenous=["x"]), table(frame), small_sample=True).fit()
    theirs = sm.OLS(frame["y"], sm.add_constant(frame[["x"]], prepend=False)).fit(cov_type="HC1")
    np.testing.assert_allclose(ours.bse, theirs.bse, rtol=PEER)


def test_two_way_2sls_is_linearmodels(frame):
    exog = sm.add_constant(frame[["z1"]], prepend=False)
    theirs = IV2SLS(frame["y"], exog, frame[["x"]], frame[["z2", "z3"]]).fit(
        cov_type="clustered", clusters=frame[["firm", "year"]], debiased=False
    )
    data = table(frame, cluster=["firm", "year"])
    ours = gm.GMMEstimator(MODEL, data, steps="onestep", weighting="twoway").fit()
    np.testing.assert_allclose(ours.bse, theirs.std_errors[["z1", "x", "const"]], rtol=PEER)


def test_poisson_with_clusters_is_statsmodels(frame):
    counts = frame.assign(y=np.random.default_rng(2).poisson(np.exp(0.2 + 0.1 * frame["x"])))
    ours = gm.GMMEstimator(
        gm.ExponentialIV("y", exogenous=["x"]), table(counts, cluster="firm"), weighting="cluster"
    ).fit()
    X = sm.add_constant(counts[["x"]], prepend=False)
    theirs = sm.GLM(counts["y"], X, family=sm.families.Poisson()).fit(
        cov_type="cluster", cov_kwds={"groups": counts["firm"], "use_correction": False}, tol=1e-14
    )
    np.testing.assert_allclose(ours.bse, theirs.bse, rtol=PEER)


def test_conditional_logit_with_clusters_of_choice_sets():
    """The sandwich of clustered scores; statsmodels' conditional logit gives scores and Hessian."""
    rng = np.random.default_rng(4)
    n = 150
    frame = pd.DataFrame({"id": np.repeat(np.arange(n), 4), "who": np.repeat(np.arange(n) % 60, 4)})
    frame[["a", "b"]] = rng.normal(size=(4 * n, 2))
    u = (frame["a"] - 0.5 * frame["b"] + rng.gumbel(size=4 * n)).to_numpy().reshape(n, 4)
    frame["y"] = (u == u.max(axis=1, keepdims=True)).ravel().astype(int)
    data = gm.ChoiceData.from_frame(frame, case="id", chosen="y", cluster="who")
    ours = gm.GMMEstimator(gm.Logit(["a", "b"]), data, weighting="cluster").fit()
    theirs = sm.ConditionalLogit(frame["y"], frame[["a", "b"]], groups=frame["id"])
    scores = np.zeros((n, 2))
    for i, (_, rows) in enumerate(frame.groupby("id")):
        one = sm.ConditionalLogit(rows["y"], rows[["a", "b"]], groups=rows["id"])
        scores[i] = one.score(ours.theta)
    bread = np.linalg.inv(-theirs.hessian(ours.theta))
    meat = sw.S_crosssection(scores, np.arange(n) % 60)
    np.testing.assert_allclose(
        ours.cov_params(), bread @ meat @ bread, rtol=1e-6
    )  # its Hessian by differences


def test_andrews_bandwidth_by_hand():
    rng = np.random.default_rng(9)
    x = np.zeros(400)
    for t in range(1, 400):
        x[t] = 0.5 * x[t - 1] + rng.normal()
    x -= x.mean()
    fit = sm.OLS(x[1:], x[:-1]).fit()
    r = fit.params[0]
    alpha = {1: 4 * r**2 / ((1 - r) ** 2 * (1 + r) ** 2), 2: 4 * r**2 / (1 - r) ** 4}
    expected = {
        "bartlett": 1.1447 * (alpha[1] * 400) ** (1 / 3) - 1,
        "parzen": 2.6614 * (alpha[2] * 400) ** (1 / 5) - 1,
        "qs": 1.3221 * (alpha[2] * 400) ** (1 / 5),
    }
    for kernel, width in expected.items():
        assert andrews_bandwidth(x[:, None], kernel) == pytest.approx(width, rel=1e-12)
        assert andrews_bandwidth(1e6 * x[:, None], kernel) == pytest.approx(width, rel=1e-9)


# --- refusals ------------------------------------------------------------------------------------


def test_one_cluster_is_an_error_and_few_a_warning(frame):
    with pytest.raises(gm.EstimationError, match="one cluster of all") as refused:
        s_of(moments_of(frame.assign(all=1), cluster="all"), "cluster")
    assert refused.value.codes == ("E340",)
    model = gm.LinearIV("y", exogenous=["x"])
    eight = table(frame.assign(g=np.arange(N) % 8), cluster="g")
    fit = gm.GMMEstimator(model, eight, weighting="cluster").fit()
    assert fit.notes == ("W340 8 clusters of g: Wald tests and intervals are unreliable",)
    assert "W340" in str(fit.summary())
    many = gm.GMMEstimator(model, table(frame, cluster="firm"), weighting="cluster").fit()
    assert many.notes == ()


def test_fewer_clusters_than_moments_make_no_weight(frame):
    two = frame.assign(g=np.arange(N) % 2)
    with pytest.raises(gm.IdentificationError, match="at most rank 2 for 4 moments") as refused:
        gm.GMMEstimator(MODEL, table(two, cluster="g"), weighting="cluster").fit()
    assert refused.value.codes == ("E214",)
    model = gm.LinearIV("y", exogenous=["x", "z1"])
    just = gm.GMMEstimator(model, table(two, cluster="g"), steps="onestep", weighting="cluster")
    assert just.fit().verified  # needs no weight


@pytest.mark.parametrize(
    ("roles", "options", "words"),
    [
        ({}, {"weighting": "cluster"}, "the data name none"),
        ({"cluster": "firm"}, {"weighting": "twoway"}, "takes 2 cluster columns"),
        ({"cluster": ["firm", "year"]}, {"weighting": "cluster"}, "takes 1 cluster column"),
        ({"cluster": "firm"}, {"weighting": "cluster", "cluster": "frim"}, "frim"),
        ({"frequency": "one"}, {"weighting": "kernel"}, "frequencies"),
        ({}, {"weighting": "kernel", "bandwidth": -1}, "bandwidth is -1"),
        ({}, {"weighting": "kernel", "bandwidth": True}, "bandwidth is True"),
        ({}, {"weighting": "kernel", "bandwidth": "andrew"}, "bandwidth is 'andrew'"),
        ({}, {"weighting": "kernel", "kernel": "parzan"}, "did you mean 'parzen'"),
        ({}, {"weighting": "unadjusted", "centred": True}, "has no meaning"),
        ({}, {"weighting": "clusters"}, "did you mean 'cluster'"),
    ],
)
def test_options_that_are_refused(frame, roles, options, words):
    with pytest.raises(gm.ConfigError, match=words):
        gm.GMMEstimator(MODEL, table(frame.assign(one=1), **roles), **options).fit()


def test_no_automatic_bandwidth_for_three_rows():
    for rule in (newey_west_bandwidth, andrews_bandwidth):
        with pytest.raises(gm.EstimationError) as refused:
            rule(np.arange(3.0)[:, None], "bartlett")
        assert refused.value.codes == ("E421",)


def _two_ways(seed):
    """Forty rows in four by four clusters, of a regression on nothing: S is indefinite for many seeds."""
    rng = np.random.default_rng(seed)
    x, a, b, y = rng.normal(size=40), rng.integers(0, 4, 40), rng.integers(0, 4, 40), rng.normal(size=40)
    data = gm.Table.from_arrays({"y": y, "x": x}, cluster={"a": a, "b": b})
    return gm.GMMEstimator(gm.LinearIV("y", exogenous=["x"]), data, weighting="twoway", steps="onestep")


def test_a_variance_below_zero_is_a_reason_against_the_estimate():
    fit = _two_ways(13).fit()
    assert np.diag(fit.estimate.v)[0] < 0
    assert "NOT VERIFIED: x has no standard error (nan)" in fit.verdict()


def test_an_indefinite_s_is_noted():
    fit = _two_ways(2).fit()
    assert np.linalg.eigvalsh(fit.estimate.s.matrix)[0] < 0 < np.diag(fit.estimate.v).min()
    assert fit.verified
    assert "W341" in str(fit.summary())
    assert [note[:4] for note in _two_ways(0).fit().notes] == ["W340"]


def test_one_step_is_not_advised_where_it_was_taken():
    refused = []
    for seed in range(8):
        try:
            _two_ways(seed).fit()
        except gm.IdentificationError as error:
            refused.append(error)
    assert refused
    assert {error.codes for error in refused} == {("E214",)}
    assert not any("onestep" in str(error) for error in refused)
