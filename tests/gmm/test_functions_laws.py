"""Functions of the estimate: the delta method, ellipses, sensitivity.  Laws, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, norm

import gmmest as gm

ROUNDING = 1e-9
"""Sums of some ten products of correlated numbers, each with a few roundings."""


@pytest.fixture(scope="module")
def fit(travel_data, greene_overidentified):
    return gm.GMMEstimator(greene_overidentified, travel_data()).fit()


@pytest.mark.parametrize("backend", ["auto", "forward", "jax", "complex"])
def test_a_ratio_has_the_textbook_variance(fit, backend):
    ratio = fit.nlcom(lambda b: b["ttme"] / b["gc"], by_name=True, backend=backend)
    t, c = fit.params["ttme"], fit.params["gc"]
    slope = np.array([1.0 / c, -t / c**2])
    v = fit.cov_params().loc[["ttme", "gc"], ["ttme", "gc"]].to_numpy()
    assert ratio.estimate["f"] == pytest.approx(t / c, rel=1e-14)
    assert ratio.bse["f"] == pytest.approx(np.sqrt(slope @ v @ slope), rel=ROUNDING)
    assert ratio.z["f"] == pytest.approx(ratio.estimate["f"] / ratio.bse["f"])
    assert ratio.pvalues["f"] == pytest.approx(2 * norm.sf(abs(ratio.z["f"])), rel=ROUNDING)
    low, high = ratio.conf_int(0.1).loc["f"]
    assert high - low == pytest.approx(2 * norm.ppf(0.95) * ratio.bse["f"], rel=ROUNDING)


def test_linear_functions_are_exact_and_the_identity_gives_the_table_back(fit):
    R = np.array([[1.0, -1.0, 0, 0, 0, 0], [0, 0, 2.0, 0, 0, 1.0]])
    both = fit.nlcom(lambda theta: R @ theta, names=["gap", "sum"])
    assert np.allclose(both.cov, R @ fit.cov_params() @ R.T, rtol=ROUNDING)
    assert both.names == ("gap", "sum")
    assert (both.value @ np.linalg.solve(both.v, both.value)) == pytest.approx(
        fit.wald_test(R).stat, rel=ROUNDING
    )
    same = fit.nlcom(lambda theta: theta)
    assert np.allclose(same.bse, fit.bse, rtol=1e-14)
    assert same.names[0] == "f0"


def test_a_chain_of_functions_is_the_function_of_the_chain(fit):
    """F_2 (F_1 V F_1') F_2' = (F_2 F_1) V (F_2 F_1)'."""
    from gmmest.gmm.functions import delta_method

    inner = fit.nlcom(lambda b: np.exp(b[:3] / 5.0))
    outer = delta_method(lambda x: np.log(x[0]) + x[1] * x[2], inner.value, inner.v, inner.names)
    whole = fit.nlcom(lambda b: b[0] / 5.0 + np.exp((b[1] + b[2]) / 5.0))
    assert outer.bse["f"] == pytest.approx(whole.bse["f"], rel=ROUNDING)


def test_what_has_no_variance_is_refused(fit):
    for function, words in (
        (lambda b: np.log(b[3]), "is nan at the estimate"),
        (lambda b: 0.0 * b[0] + 3.0, "does not move with any parameter"),
        (lambda b: 1.0 / (b[0] - fit.theta[0]), "is inf at the estimate|is -inf"),
        (lambda b: np.sqrt(abs(b[0] - fit.theta[0])), "not finite|does not move"),
    ):
        with np.errstate(all="ignore"), pytest.raises(gm.EstimationError, match=words) as refused:
            fit.nlcom(function)
        assert refused.value.codes == ("E431",)
    with pytest.raises(gm.ConfigError, match="no parameter 'cg'"):
        fit.nlcom(lambda b: b["cg"], by_name=True)
    with pytest.raises(gm.ConfigError, match="one name a value"):
        fit.nlcom(lambda b: b, names=["a"])
    with pytest.raises(gm.ConfigError, match="a number or vector"):
        fit.nlcom(lambda b: b.reshape(2, 3))


def test_unknown_variances_matter_only_where_they_are_used():
    """A parameter at a bound has no standard error; functions of the others have."""
    from gmmest.gmm.functions import delta_method

    v = np.array([[4.0, np.nan], [np.nan, np.nan]])
    assert delta_method(lambda b: 3.0 * b[0], np.ones(2), v, ("a", "b")).bse["f"] == 6.0
    with pytest.raises(gm.EstimationError, match="held or whose variance is not known"):
        delta_method(lambda b: b[0] + b[1], np.ones(2), v, ("a", "b"))


def test_the_boundary_of_an_ellipse_is_where_wald_is_at_its_level(fit):
    ellipse = fit.confidence_ellipse("gc", "ttme", alpha=0.1)
    points = ellipse.points(17)
    assert points.shape == (17, 2)
    assert np.allclose(points[0], points[-1])
    for gc, ttme in points[:-1]:
        R = np.zeros((2, 6))
        R[0, fit.names.index("gc")] = R[1, fit.names.index("ttme")] = 1.0
        assert fit.wald_test(R, [gc, ttme]).pvalue == pytest.approx(0.1, rel=1e-8)
    assert ellipse.radius**2 == pytest.approx(chi2.ppf(0.9, 2))
    with pytest.raises(gm.ConfigError, match="with itself"):
        fit.confidence_ellipse("gc", "gc")
    with pytest.raises(gm.ConfigError, match="alpha"):
        fit.confidence_ellipse("gc", "ttme", alpha=1.5)


def test_sensitivity_reproduces_the_sandwich_and_inverts_the_jacobian(fit):
    moved = fit.sensitivity()
    e = fit.estimate
    assert moved.shape == (6, 8)
    assert (list(moved.index), list(moved.columns)) == (list(fit.names), list(fit.moment_names))
    identity = moved.to_numpy() @ e.jacobian
    size = np.abs(moved.to_numpy()) @ np.abs(e.jacobian)
    assert np.all(np.abs(identity + np.eye(6)) < 1e-12 * (1.0 + size))
    assert np.allclose(moved @ e.s.matrix @ moved.T.to_numpy() / fit.nobs, e.v, rtol=ROUNDING)


def test_scaled_sensitivity_has_rows_of_length_one_where_moments_are_uncorrelated(fit):
    """With S diagonal, sum_m Lambda_pm^2 S_mm / N = se_p^2."""
    rows = gm.Table.from_arrays(
        {"y": np.array([1.0, -1.0, 1.0, -1.0]), "x": np.array([2.0, 2.0, -2.0, -2.0])}
    )
    model = gm.MomentFunction(
        lambda b, r: np.stack([r["y"] - b[0], r["x"] - b[1], r["x"] * r["y"] - b[0]], axis=1),
        names=["a", "b"],
    )
    small = gm.GMMEstimator(model, rows).fit()
    S = small.estimate.s.matrix
    assert np.allclose(S, np.diag(np.diag(S)), atol=1e-12)
    assert np.allclose(np.square(small.sensitivity(scaled=True)).sum(axis=1), 1.0)


def test_a_moment_that_is_off_moves_estimates_as_sensitivity_says(travel_data, greene_overidentified):
    """Moments shifted by a small constant, with the weight held: theta moves by Lambda times... -shift."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 3))
    y = np.exp(0.2 * x[:, 0]) + x[:, 2]
    table = gm.Table.from_arrays({"y": y, "Z": x})
    shift = 1e-6

    def moments(by):
        def function(theta, rows):
            e = rows["y"] - np.exp(theta[0] * rows["Z"][:, 0] + theta[1])
            return rows["Z"] * e[:, None] + np.stack([by, 0.0, 0.0])

        return function

    def estimate(by):
        model = gm.MomentFunction(moments(by), names=["a", "b"])
        return gm.GMMEstimator(model, table, steps="onestep").fit()

    base = estimate(0.0)
    moved = (estimate(shift).theta - estimate(-shift).theta) / (2 * shift)
    # Lambda is exact up to the criterion's second derivatives, which are multiplied by the moments at the estimate
    size = np.linalg.norm(base.estimate.moments)
    assert np.allclose(moved, base.sensitivity().to_numpy()[:, 0], rtol=10 * size, atol=10 * size)
