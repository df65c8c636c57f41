"""Iterated and continuously updated GMM, and several starts: certified figures, laws, planted minima."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.sandbox.regression.tests as shipped
from linearmodels.iv import IVGMM, IVGMMCUE, IVLIML
from scipy.optimize import minimize

import gmmest as gm
from gmmest import config
from gmmest.errors import ConfigError, DerivativeError
from gmmest.execution.serial import Serial
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.cue import ContinuousCriterion, second_moments
from gmmest.gmm.moments import Moments
from gmmest.gmm.weighting import moment_covariance

ESTIMATE = 1e-8
"""Relative agreement of estimates with figures of 10 and more digits (ORACLES: 1e-8 in estimates)."""
ERROR = 1e-7
"""The same for standard errors."""
ROUNDING = 1e-12
"""Relative: the same optimum, polished by other arithmetic; condition numbers here are below 1e3."""
SLOPE = 1e-9
"""Relative: a Jacobian of R^-1 g against central differences of fourth order."""
GRADS = ["forward", "jax"]


@pytest.fixture(scope="module")
def griliches() -> pd.DataFrame:
    frame = pd.read_stata(Path(shipped.__file__).parent / "griliches76.dta")
    years = pd.get_dummies(frame["year"].astype(int), prefix="D", dtype=float).drop(columns="D_66")
    return pd.concat([frame.astype(float), years], axis=1)


YEARS = ["D_67", "D_68", "D_69", "D_70", "D_71", "D_73"]
EXOGENOUS = ["expr", "tenure", "rns", "smsa", *YEARS]
WAGE = gm.LinearIV("lw", EXOGENOUS, ["s", "iq"], ["med", "kww", "age", "mrt"])


@pytest.fixture(scope="module")
def demand() -> pd.DataFrame:
    """A linear model with two endogenous regressors, five instruments and heteroskedastic errors."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(300, 5))
    shock = rng.normal(size=300)
    x1 = z @ [0.6, 0.4, 0.0, 0.2, 0.1] + 0.6 * shock + rng.normal(size=300)
    x2 = z @ [0.0, -0.3, 0.7, 0.2, 0.0] - 0.4 * shock + rng.normal(size=300)
    y = 1.0 + 0.5 * x1 - 0.25 * x2 + shock * (1.0 + 0.5 * np.abs(z[:, 0]))
    columns = {f"z{k}": z[:, k] for k in range(5)}
    return pd.DataFrame({"y": y, "x1": x1, "x2": x2, **columns})


def demand_model(instruments=("z0", "z1", "z2", "z3", "z4")) -> gm.LinearIV:
    return gm.LinearIV("y", endogenous=["x1", "x2"], instruments=list(instruments))


# --- iterated ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", ["analytic", *GRADS])
def test_griliches_iterated(griliches, grad):
    fit = gm.GMMEstimator(WAGE, griliches, steps="iterated", grad=grad).fit()
    assert fit.verified
    assert fit.params["s"] == pytest.approx(0.1758773997, rel=ESTIMATE)
    assert fit.bse["s"] == pytest.approx(0.02085563162829, rel=ERROR)
    assert fit.j_test().stat == pytest.approx(11.4131185654, rel=ESTIMATE)
    assert f"iterated ({fit.work.steps} steps)" in str(fit.summary())


def test_the_iterated_estimate_is_a_fixed_point(demand):
    """Its weight is the inverse of S at itself, so that sandwich and efficient standard errors agree."""
    fits = [
        gm.GMMEstimator(demand_model(), demand, steps="iterated", se=se).fit()
        for se in ("sandwich", "efficient", "minimised_weight")
    ]
    assert all(fit.verified for fit in fits)
    for fit in fits[1:]:
        assert np.allclose(fit.standard_errors, fits[0].standard_errors, rtol=1e-9)  # W one step before S
    peer = IVGMM(
        demand["y"], np.ones((300, 1)), demand[["x1", "x2"]], demand[[f"z{k}" for k in range(5)]]
    ).fit(iter_limit=200, tol=1e-12)
    assert np.allclose(
        fits[0].theta, peer.params.to_numpy()[[1, 2, 0]], rtol=1e-6
    )  # where its own tolerance ends


def test_too_few_steps_are_not_verified(demand):
    fit = gm.GMMEstimator(demand_model(), demand, steps="iterated", max_steps=3).fit()
    assert not fit.verified
    assert fit.work.steps == 3
    assert "3 steps, and the last one still moved the estimate by" in fit.verdict()


def test_a_just_identified_model_is_iterated_in_two_steps(demand):
    model = demand_model(("z0", "z2"))
    fit = gm.GMMEstimator(model, demand, steps="iterated").fit()
    one = gm.GMMEstimator(model, demand, steps="onestep").fit()
    assert (fit.verified, fit.work.steps <= 3) == (True, True)
    assert np.allclose(fit.theta, one.theta, rtol=ROUNDING)


# --- CUE: derivatives -------------------------------------------------------------------------------------


def criterion(model, data, options, grad, theta):
    sample = model.sample(data)
    moments = Moments(model, sample, grad)
    second = second_moments(moments, options, grad, Serial())
    s = moment_covariance(moments, theta, options)
    return ContinuousCriterion(second, sample.moment_names, s, np.ones(len(theta)))


@pytest.mark.parametrize("weighting", ["robust", "unadjusted"])
@pytest.mark.parametrize("grad", [*GRADS, "complex"])
def test_residuals_and_gradient_are_exact_with_ds(demand, weighting, grad):
    theta = np.array([0.3, -0.1, 0.8])
    found = criterion(demand_model(), demand, CovarianceOptions(weighting), grad, theta)
    residuals, jacobian = found.residuals_and_jacobian(theta)
    value, gradient = found.value_and_gradient(theta)
    assert value == pytest.approx(residuals @ residuals, rel=1e-13)
    assert np.allclose(gradient, 2.0 * jacobian.T @ residuals, rtol=1e-11)
    h = 1e-3
    for k, step in enumerate(h * np.eye(3)):
        near = found.residuals(theta + step) - found.residuals(theta - step)
        far = found.residuals(theta + 2 * step) - found.residuals(theta - 2 * step)
        column = (8.0 * near - far) / (12.0 * h)
        assert np.allclose(column, jacobian[:, k], rtol=SLOPE, atol=SLOPE * np.abs(jacobian[:, k]).max())


def test_the_gradient_is_the_weighted_sum_of_slopes(demand):
    """``dQ = (2/N) sum_i (1 - g_i'w) w'dg_i`` with ``w = S^-1 g``, written out for a linear model."""
    theta = np.array([0.3, -0.1, 0.8])
    y, x, z = dense(demand)
    g = z * (y - x @ theta)[:, None]
    w = np.linalg.solve(g.T @ g / 300, g.mean(axis=0))
    slope = -2.0 * ((1.0 - g @ w) * (z @ w)) @ x  # N dQ
    found = criterion(demand_model(), demand, CovarianceOptions(), "forward", theta)
    _, ours = found.value_and_gradient(theta)
    assert np.allclose(ours, slope, rtol=1e-11)


def dense(frame):
    ones = np.ones(len(frame))
    z = np.column_stack([frame[[f"z{k}" for k in range(5)]], ones])
    return frame["y"].to_numpy(), np.column_stack([frame[["x1", "x2"]], ones]), z


# --- CUE: figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", GRADS)
def test_with_unadjusted_s_it_is_liml_on_the_housing_data(housing, grad):
    regions = [name for name in housing.columns if name.startswith("region_")]
    model = gm.LinearIV("rent", ["pcturban"], ["hsngval"], ["faminc", *regions])
    fit = gm.GMMEstimator(model, housing, steps="cue", weighting="unadjusted", grad=grad).fit()
    certified = {"hsngval": 0.002668623181124, "pcturban": -0.1827390683872, "const": 117.6086950986}
    assert fit.verified
    assert fit.params[list(certified)].to_dict() == pytest.approx(certified, rel=ESTIMATE)


def test_with_unadjusted_s_it_is_liml_of_linearmodels(demand):
    instruments = demand[[f"z{k}" for k in range(5)]]
    peer = IVLIML(demand["y"], np.ones((300, 1)), demand[["x1", "x2"]], instruments).fit()
    fit = gm.GMMEstimator(demand_model(), demand, steps="cue", weighting="unadjusted").fit()
    assert fit.verified
    assert np.allclose(fit.theta, peer.params.to_numpy()[[1, 2, 0]], rtol=1e-9)


def test_griliches_is_at_the_true_minimum(griliches):
    """statsmodels reports J 3.705 where its criterion is 37.03.

    An independent dense criterion has the value we report at our estimate, and searches from twenty points
    as far as five standard errors away find nothing lower, and the same point where they end as low.
    """
    fit = gm.GMMEstimator(WAGE, griliches, steps="cue").fit()
    assert fit.verified
    ones = griliches.assign(const=1.0)
    y = ones["lw"].to_numpy()
    x = ones[list(fit.names)].to_numpy()
    z = ones[list(fit.moment_names)].to_numpy()

    def value(theta):
        g = z * (y - x @ theta)[:, None]
        mean = g.mean(axis=0)
        return len(y) * mean @ np.linalg.solve(g.T @ g / len(y), mean)

    assert value(fit.theta) == pytest.approx(fit.j_test().stat, rel=1e-9)
    assert fit.j_test().stat < 11.4131185654  # the iterated estimate has this J, under its own S
    root = np.linalg.cholesky(fit.estimate.v)
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(20):
        start = rng.uniform(-5.0, 5.0, len(fit.theta)) / np.sqrt(len(fit.theta))
        found = minimize(lambda u: value(fit.theta + root @ u), start, method="BFGS")
        ends.append((found.fun, np.max(np.abs(found.x))))
    assert min(low for low, _ in ends) > fit.j_test().stat - 1e-9
    as_low = [far for low, far in ends if low < fit.j_test().stat + 1e-6]
    assert len(as_low) > 10
    assert max(as_low) < 0.01  # standard errors; BFGS by differences ends this far


def test_linearmodels_agrees_on_cue(demand):
    instruments = demand[[f"z{k}" for k in range(5)]]
    peer = IVGMMCUE(demand["y"], np.ones((300, 1)), demand[["x1", "x2"]], instruments).fit()
    fit = gm.GMMEstimator(demand_model(), demand, steps="cue").fit()
    assert np.allclose(fit.theta, peer.params.to_numpy()[[1, 2, 0]], rtol=1e-4)  # where its BFGS stops
    assert fit.j_test().stat <= peer.j_stat.stat + 1e-9


# --- CUE: laws --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lsq", "lbfgsb", "bfgs", "trust-constr"])
def test_every_optimiser_ends_at_the_same_point(demand, optimizer):
    fit = gm.GMMEstimator(demand_model(), demand, steps="cue", optimizer=optimizer).fit()
    best = gm.GMMEstimator(demand_model(), demand, steps="cue").fit()
    assert fit.verified
    assert np.allclose(fit.theta, best.theta, rtol=1e-10)


def test_just_identified_cue_is_any_other(demand):
    model = demand_model(("z0", "z2"))
    cue = gm.GMMEstimator(model, demand, steps="cue").fit()
    one = gm.GMMEstimator(model, demand, steps="onestep").fit()
    assert cue.verified
    assert cue.j_test() is None
    assert np.allclose(cue.theta, one.theta, rtol=ROUNDING)
    assert np.allclose(cue.standard_errors, one.standard_errors, rtol=1e-11)


def test_recombined_instruments_leave_it(demand):
    mixed = demand.copy()
    mix = np.array([[2.0, 1, 0, 0, 0], [0, 1, 0, 0, 3], [0, 0, -1, 0, 1], [0, 0, 0, 5, 0], [1, 0, 0, 0, 1]])
    columns = [f"z{k}" for k in range(5)]
    mixed[columns] = demand[columns].to_numpy() @ mix
    fit, other = (gm.GMMEstimator(demand_model(), frame, steps="cue").fit() for frame in (demand, mixed))
    assert np.allclose(fit.theta, other.theta, rtol=1e-11)
    assert fit.j_test().stat == pytest.approx(other.j_test().stat, rel=1e-11)


def test_rescaled_moments_leave_it():
    table = gm.Table.from_arrays({"y": np.random.default_rng(5).gamma(2.0, 1.5, 400)})

    def moments(theta, rows):
        e = rows["y"] - theta[0] * theta[1]
        square = e * e - theta[0] * theta[1] ** 2
        return np.stack([e, square, e * square - 2.0 * theta[0] * theta[1] ** 3], axis=1)

    def rescaled(theta, rows):
        return moments(theta, rows) * np.array([1e3, 1e-4, 7.0])

    fits = [
        gm.GMMEstimator(
            gm.MomentFunction(function, names=["shape", "scale"], start=[2.0, 1.0]), table, steps="cue"
        ).fit()
        for function in (moments, rescaled)
    ]
    assert all(fit.verified for fit in fits)
    assert np.allclose(fits[0].theta, fits[1].theta, rtol=1e-10)
    assert fits[0].j_test().stat == pytest.approx(fits[1].j_test().stat, rel=1e-10)


@pytest.mark.parametrize("weighting", ["robust", "unadjusted"])
@pytest.mark.parametrize("grad", ["auto", "jax"])
def test_a_logit_with_instruments(travel_data, greene_overidentified, weighting, grad):
    fit = gm.GMMEstimator(
        greene_overidentified, travel_data(), steps="cue", weighting=weighting, grad=grad
    ).fit()
    again = gm.GMMEstimator(greene_overidentified, travel_data(), steps="iterated", weighting=weighting).fit()
    assert fit.verified
    assert again.verified
    assert fit.j_test().stat < again.j_test().stat  # the criterion of CUE there is the J of iterated GMM


# --- CUE: every S -----------------------------------------------------------------------------------------

EVERY_S = {
    "centred": CovarianceOptions(centred=True),
    "small sample": CovarianceOptions(small_sample=True),
    "cluster": CovarianceOptions("cluster", cluster=("g",)),
    "centred cluster": CovarianceOptions("cluster", cluster=("g",), centred=True, small_sample=True),
    "twoway": CovarianceOptions("twoway", cluster=("g", "h")),
    "bartlett": CovarianceOptions("kernel", bandwidth=3),
    "parzen": CovarianceOptions("kernel", kernel="parzen", bandwidth=4.5, centred=True),
    "unadjusted, small sample": CovarianceOptions("unadjusted", small_sample=True),
}
COLUMNS = ["y", "x1", "x2", "z0", "z1", "z2", "z3", "z4"]
SAME_S = 1e-10


def table(frame, **roles):
    rng = np.random.default_rng(8)
    extra = {
        "g": rng.integers(0, 60, len(frame)),
        "h": rng.integers(0, 50, len(frame)),
        "own": np.arange(len(frame)),
        "f": rng.integers(1, 4, len(frame)),
    }
    return gm.Table.from_frame(frame.assign(**extra), COLUMNS, **roles)


def options_of(s: CovarianceOptions) -> dict[str, object]:
    return {
        "weighting": s.estimator,
        "centred": s.centred,
        "kernel": s.kernel,
        "bandwidth": s.bandwidth,
        "cluster": s.cluster,
        "small_sample": s.small_sample,
    }


def require_same_s(found, s):
    """Both are the same sums, in another order."""
    weight = found.weight_at(s.theta)
    gap = weight.whiten(weight.whiten(s.matrix).T) - np.eye(len(s.matrix))
    assert np.max(np.abs(gap)) <= SAME_S


@pytest.mark.parametrize("name", [name for name, s in EVERY_S.items() if s.estimator != "kernel"])
@pytest.mark.parametrize("recentred", [False, True])
def test_s_that_moves_is_that_of_inference_with_frequencies_and_recentred(demand, name, recentred):
    theta, s = np.array([0.3, -0.1, 0.8]), EVERY_S[name]
    model, data = demand_model(), table(demand, cluster=["g", "h"], frequency="f")
    centre = np.linspace(-0.2, 0.3, 6) if recentred else None
    moments = Moments(model, model.sample(data), "auto", centre=centre)
    second = second_moments(moments, s, "forward", Serial())
    expected = moment_covariance(moments, theta, s)
    found = ContinuousCriterion(second, moments.sample.moment_names, expected, np.ones(3))
    require_same_s(found, expected)
    np.testing.assert_allclose(second.value(theta)[:6], moments.value(theta), rtol=SAME_S)


@pytest.mark.parametrize("grad", ["forward", "complex", "jax"])
@pytest.mark.parametrize("name", EVERY_S)
def test_every_s_that_moves_is_the_s_of_inference_and_its_slope_is_exact(demand, name, grad):
    theta, s = np.array([0.3, -0.1, 0.8]), EVERY_S[name]
    data = table(demand, cluster=["g", "h"])
    found = criterion(demand_model(), data, s, grad, theta)
    require_same_s(
        found, moment_covariance(Moments(demand_model(), demand_model().sample(data), "auto"), theta, s)
    )
    _, jacobian = found.residuals_and_jacobian(theta)
    h = 1e-3
    for k, step in enumerate(h * np.eye(3)):
        near = found.residuals(theta + step) - found.residuals(theta - step)
        far = found.residuals(theta + 2 * step) - found.residuals(theta - 2 * step)
        column = (8.0 * near - far) / (12.0 * h)
        assert np.allclose(column, jacobian[:, k], rtol=SLOPE, atol=SLOPE * np.abs(jacobian).max())


@pytest.mark.parametrize("name", ["centred cluster", "twoway", "bartlett"])
def test_cue_is_at_the_minimum_of_its_own_criterion(demand, name):
    """g'S(theta)^-1 g with S by ``moment_covariance``, which carries no derivative, searched by simplex."""
    data = table(demand, cluster=["g", "h"])
    fit = gm.GMMEstimator(demand_model(), data, steps="cue", **options_of(EVERY_S[name])).fit()
    assert fit.verified
    moments = fit.context.moments()

    def value(theta):
        g = moments.value(theta)
        return 300 * g @ np.linalg.solve(moment_covariance(moments, theta, EVERY_S[name]).matrix, g)

    errors = fit.standard_errors
    found = minimize(
        lambda u: value(fit.theta + errors * u),
        0.3 * np.ones(3),
        method="Nelder-Mead",
        options={"maxiter": 400, "fatol": 1e-11, "xatol": 1e-7},
    )
    assert value(fit.theta) == pytest.approx(fit.j_test().stat, rel=1e-10)
    assert found.fun == pytest.approx(fit.j_test().stat, rel=1e-9)
    assert np.max(np.abs(found.x)) < 1e-4


@pytest.mark.parametrize("frequency", [None, "f"])
@pytest.mark.parametrize("steps", ["iterated", "cue"])
def test_centring_leaves_the_estimate_and_moves_j(demand, steps, frequency):
    """``S_c = S - gg'``, so that ``J_c = J/(1 - J/N)``, a growing function of J."""
    data = table(demand, frequency=frequency)
    plain, centred = (
        gm.GMMEstimator(demand_model(), data, steps=steps, centred=flag).fit() for flag in (False, True)
    )
    assert (plain.verified, centred.verified) == (True, True)
    np.testing.assert_allclose(centred.theta, plain.theta, rtol=1e-10)
    j = plain.j_test().stat
    assert centred.j_test().stat == pytest.approx(j / (1.0 - j / plain.n_obs), rel=1e-10)


def test_cue_with_clusters_of_one_is_robust(demand):
    data = table(demand, cluster="own")
    robust, cluster = (
        gm.GMMEstimator(demand_model(), data, steps="cue", weighting=name).fit()
        for name in ("robust", "cluster")
    )
    np.testing.assert_allclose(cluster.theta, robust.theta, rtol=ROUNDING)
    np.testing.assert_allclose(cluster.cov_params(), robust.cov_params(), rtol=1e-10, atol=1e-14)
    assert cluster.j_test().stat == pytest.approx(robust.j_test().stat, rel=ROUNDING)


@pytest.mark.parametrize("options", [{}, {"centred": True}, {"small_sample": True}])
def test_cue_with_frequencies_is_cue_of_repeated_rows(demand, options):
    rng = np.random.default_rng(8)
    counts = rng.integers(1, 4, len(demand))
    weighted = gm.Table.from_frame(demand.assign(f=counts), COLUMNS, frequency="f")
    fits = [
        gm.GMMEstimator(demand_model(), data, steps="cue", **options).fit()
        for data in (weighted, gm.Table.from_frame(demand.loc[demand.index.repeat(counts)], COLUMNS))
    ]
    np.testing.assert_allclose(fits[0].theta, fits[1].theta, rtol=1e-10)
    np.testing.assert_allclose(fits[0].standard_errors, fits[1].standard_errors, rtol=1e-9)
    assert fits[0].j_test().stat == pytest.approx(fits[1].j_test().stat, rel=1e-10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "bandwidth 'newey-west' is chosen anew at every theta, and jumps"),
        ({"bandwidth": "andrews"}, "bandwidth 'andrews' is chosen anew"),
        ({"bandwidth": 3, "kernel": "qs"}, "kernel 'qs' gives every lag a weight"),
    ],
)
def test_an_s_without_a_derivative_is_refused(demand, options, words):
    with pytest.raises(ConfigError, match=words):
        gm.GMMEstimator(demand_model(), demand, steps="cue", weighting="kernel", **options).fit()


def test_derivatives_by_hand_do_not_reach_s(demand):
    with pytest.raises(
        DerivativeError, match=r"E607 grad 'analytic' .* not that of S, which moves"
    ) as refused:
        gm.GMMEstimator(demand_model(), demand, steps="cue", grad="analytic").fit()
    assert "next:  grad: auto, forward or jax" in str(refused.value)


# --- several minima ---------------------------------------------------------------------------------------


def planted() -> gm.Table:
    """Moments (theta - 1)(theta - 3) and (theta - 3)/20, each with noise of mean zero exactly."""
    rng = np.random.default_rng(11)
    noise = rng.normal(size=(1000, 2))
    noise -= noise.mean(axis=0)
    return gm.Table.from_arrays({"a": noise[:, 0], "b": noise[:, 1]})


def two_minima(theta, rows):
    t = theta[0]
    return np.stack([(t - 1.0) * (t - 3.0) + rows["a"], 0.05 * (t - 3.0) + rows["b"]], axis=1)


@pytest.mark.parametrize("steps", ["onestep", "twostep", "iterated", "cue"])
def test_several_minima_are_reported(steps):
    model = gm.MomentFunction(two_minima, names=["t"], start=[1.0])
    lost = gm.GMMEstimator(model, planted(), steps=steps, starts=1).fit()
    assert lost.theta[0] == pytest.approx(1.0, abs=0.1)  # the premise: one start ends at the worse minimum
    fit = gm.GMMEstimator(model, planted(), steps=steps, starts=[{"t": 2.9}]).fit()
    assert fit.verified
    assert fit.theta[0] == pytest.approx(3.0, abs=1e-6)
    assert "W403 several minima" in fit.verdict()
    assert f"{fit.work.starts} starts" in str(fit.summary())


def test_cue_tells_of_a_minimum_elsewhere_by_default():
    model = gm.MomentFunction(two_minima, names=["t"], start=[3.2])
    fit = gm.GMMEstimator(model, planted(), steps="cue").fit()
    assert fit.theta[0] == pytest.approx(3.0, abs=1e-6)
    assert fit.work.starts == 5
    assert "W403 several minima" in fit.verdict()


def two_signs() -> tuple[gm.Table, Callable[[float], gm.MomentFunction]]:
    """Means of two columns near two are the square of t, and the second says that t is positive."""
    z = np.random.default_rng(3).normal(size=(400, 2)) + 2.0

    def moments(theta, rows):
        e = rows["z"] - theta[0] ** 2
        return np.stack([e[:, 0], e[:, 1] + 0.15 * (theta[0] - 1.4)], axis=1)

    table = gm.Table.from_arrays({"z": z})
    return table, lambda start: gm.MomentFunction(moments, names=["t"], start=[start])


@pytest.mark.parametrize("options", [{"steps": "cue"}, {"steps": "cue", "starts": 5}, {"starts": 5}])
def test_a_lower_minimum_of_the_other_sign_is_found(options):
    table, model = two_signs()
    lost = gm.GMMEstimator(model(-1.0), table, starts=1).fit()
    assert lost.verified  # the premise: a minimum, and not the lowest
    assert lost.theta[0] < -1.0
    for start in (-1.0, 1.0):
        fit = gm.GMMEstimator(model(start), table, **options).fit()
        assert fit.verified
        assert fit.theta[0] > 1.0
        assert fit.n_obs * fit.criterion < 0.1 * lost.n_obs * lost.criterion
        assert "W403 several minima: of 5 starts" in fit.verdict()
        assert fit.work.starts == 5


def test_a_valley_on_the_way_to_infinity_is_no_estimate(travel_data, greene_overidentified):
    """Where all shares go to zero or one the criterion of CUE falls below its minimum, and has none."""
    far = [17.5, 14.1, 10.8, 0.027, 0.084, -0.081]
    one, two = (
        gm.GMMEstimator(greene_overidentified, travel_data(), steps="cue", starts=starts).fit()
        for starts in (1, [far])
    )
    assert two.verified
    assert np.allclose(two.theta, one.theta, rtol=1e-6)
    assert "W403 the criterion is lower elsewhere: 1 starts stopped at no minimum" in two.verdict()


def test_minima_as_low_at_two_points_are_reported():
    """The sign of a parameter that enters squared is not identified."""
    table = gm.Table.from_arrays({"y": np.random.default_rng(2).normal(4.0, 1.0, 500)})

    def moments(theta, rows):
        e = rows["y"] - theta[0] ** 2
        return np.stack([e, e * e - 1.0], axis=1)

    model = gm.MomentFunction(moments, names=["root"], start=[1.5])
    fit = gm.GMMEstimator(model, table, starts=[[-1.5]]).fit()
    assert "W403 the minimum is not unique: 1 starts ended as low at another point" in fit.verdict()


@pytest.mark.parametrize("starts", [0, 1.5, True, "three"])
def test_a_number_of_starts_that_is_none_is_refused(demand, starts):
    with pytest.raises(ConfigError, match="starts is"):
        gm.GMMEstimator(demand_model(), demand, starts=starts)


@pytest.mark.parametrize("steps", ["onestep", "twostep", "cue"])
def test_a_limit_of_steps_that_are_not_iterated_is_refused(steps):
    model = gm.LinearIV("y", exogenous=["x"])
    with pytest.raises(gm.ConfigError, match=f"max_steps has no use with steps '{steps}'"):
        gm.GMMEstimator(model, None, steps=steps, max_steps=7)
    assert gm.GMMEstimator(model, None, steps=steps, max_steps=100).max_steps == 100
    text = "data: {path: a.csv}\nmodel: {kind: linear_iv, dependent: y, exogenous: x}\n"
    with pytest.raises(gm.ConfigError, match=f"max_steps has no use with steps {steps}"):
        config.loads(text, folder=".", overrides=[f"estimation.steps={steps}", "estimation.max_steps=7"])
    config.loads(text, folder=".", overrides=["estimation.steps=iterated", "estimation.max_steps=7"])
