"""Standard errors by name: classical, Windmeijer, robust to misspecification; and a switch without a new fit.

The oracle of those that count what the weight was estimated from is the estimate as a function of the weights of
the observations: every step written out densely, differentiated by the implicit function theorem with JAX, and by
fitting again with a weight a little larger and smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import gmmest as gm
from gmmest.errors import ConfigError, EstimationError
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.weighting import moment_covariance

CLASSICAL = {
    "asc_air": 0.7790551425098134,
    "asc_train": 0.4431268520023843,
    "asc_bus": 0.4502659305281866,
    "gc": 0.004407993078356405,
    "ttme": 0.01043984653137663,
    "hinc_air": 0.01026240699974458,
}
CERTIFIED = 1e-9
"""Relative: certified in sixteen digits, at a polished optimum of condition 1e4."""
IMPLICIT = 1e-8
"""Relative to the largest entry: the same derivative through other sums and solves."""
REFITTED = 1e-6
"""Relative: central differences with a step of 1e-4 of a weight, whose error is its square."""


def x64():
    """JAX in double precision, by the name of its version."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()


# --- a model that is wrong, and its equations written out -------------------------------------------------


def frame_of(n: int = 40, seed: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 5)), columns=["z1", "z2", "z3", "u", "v"])
    frame["x"] = (
        0.5 * (frame["z1"] + 0.6 * frame["z2"] + 0.4 * frame["z3"]) + 0.3 * frame["v"] + 0.2 * frame["u"]
    )
    frame["y"] = np.exp(0.3 + 0.5 * frame["x"]) + 0.5 * frame["u"] * (1 + 0.5 * frame["z1"].abs())
    frame["y"] += 0.5 * frame["z3"]  # an instrument that is not valid
    frame["own"] = np.arange(n)
    frame["g"] = rng.permutation(np.repeat(np.arange(n), 1 + np.arange(n) % 5)[:n])
    frame["h"] = rng.integers(0, 12, n)
    frame["f"] = rng.integers(1, 4, n)
    return frame


COLUMNS = ["y", "x", "z1", "z2", "z3"]
ROLES = {"endogenous": ["x"], "instruments": ["z1", "z2", "z3"]}


def residual_moments(theta, rows):
    e = rows["y"] - np.exp(theta[0] * rows["x"] + theta[1])
    return np.stack([e * rows["z1"], e * rows["z2"], e * rows["z3"], e], axis=1)


MODELS = {
    "linear": gm.LinearIV("y", **ROLES),
    "exponential": gm.ExponentialIV("y", **ROLES),
    "multiplicative": gm.ExponentialIV("y", errors="multiplicative", **ROLES),
    "function": gm.MomentFunction(residual_moments, names=["x", "const"], start=[0.3, 0.3]),
}


def table(frame: pd.DataFrame, **roles: object) -> gm.Table:
    return gm.Table.from_frame(frame, COLUMNS, **roles)


@dataclass(frozen=True)
class Program:
    """One estimator as equations in theta and the weights p of units, in jax.numpy."""

    name: str
    steps: str
    centred: bool
    codes: np.ndarray
    frame: pd.DataFrame

    def contributions(self, theta):
        x, y = (jnp.asarray(self.frame[c].to_numpy()) for c in ("x", "y"))
        index = theta[0] * x + theta[1]
        e = {
            "linear": y - index,
            "exponential": y - jnp.exp(index),
            "multiplicative": y * jnp.exp(-index) - 1.0,
            "function": y - jnp.exp(index),
        }[self.name]
        return self.instruments() * e[:, None]

    def instruments(self):
        return jnp.asarray(self.frame[["z1", "z2", "z3"]].assign(one=1.0).to_numpy())

    def first_weight(self, p):
        z = self.instruments()
        return jnp.eye(4) if self.name == "function" else jnp.linalg.inv(z.T @ (z * p[self.codes][:, None]))

    def weight(self, theta, p):
        rows = self.contributions(theta)
        if self.centred:
            rows = rows - p[self.codes] @ rows / p[self.codes].sum()
        sums = jnp.zeros((self.codes.max() + 1, 4)).at[self.codes].add(rows)
        return jnp.linalg.inv(sums.T @ (sums * p[:, None]) / p.sum())

    def first_order(self, weight, theta, p):
        """``G'Wg``."""

        def g(t):
            return p[self.codes] @ self.contributions(t) / p[self.codes].sum()

        return jax.jacfwd(g)(theta).T @ weight @ g(theta)

    def equations(self, both, p):
        """What the estimate solves: theta alone, or both steps one after the other."""
        if self.steps == "onestep":
            return self.first_order(self.first_weight(p), both, p)
        if self.steps == "iterated":
            return self.first_order(self.weight(both, p), both, p)
        one, two = both[:2], both[2:]
        return jnp.concatenate(
            [
                self.first_order(self.first_weight(p), one, p),
                self.first_order(self.weight(one, p), two, p),
            ]
        )

    def influence(self, start: np.ndarray) -> np.ndarray:
        """Derivative of the estimate with respect to p at one, (units, 2), by the implicit function theorem.

        For some units it is held against the estimate with p a little larger and smaller.
        """
        ones = np.ones(self.codes.max() + 1)
        with x64():
            all_at_once = jax.jit(
                lambda point, p: (self.equations(point, p), jax.jacfwd(self.equations, (0, 1))(point, p))
            )
            _, (slope, by_p) = all_at_once(start, ones)
            influence = -np.linalg.solve(slope, by_p)[-2:].T

            def solve(p):
                point = start
                for _ in range(6):  # the slope at p = 1 is off by 1e-4, and so is what each round leaves
                    point = point - np.linalg.solve(slope, all_at_once(point, p)[0])
                return point

            np.testing.assert_allclose(solve(ones), start, rtol=1e-7)  # the premise: these are our equations
            for unit in (0, 3, 7):
                step = 1e-4 * np.eye(len(ones))[unit]
                refitted = (solve(ones + step) - solve(ones - step))[-2:] / 2e-4
                np.testing.assert_allclose(influence[unit], refitted, atol=REFITTED * np.abs(refitted).max())
        return influence


WEIGHTS = {
    "robust": {},
    "centred": {"centred": True},
    "cluster": {"weighting": "cluster", "cluster": "g", "small_sample": True},
    "centred cluster": {"weighting": "cluster", "cluster": "g", "centred": True},
}
CASES = [
    *(
        (name, steps, "robust")
        for name in ("linear", "exponential")
        for steps in ("onestep", "twostep", "iterated")
    ),
    ("function", "twostep", "robust"),
    ("multiplicative", "iterated", "robust"),
    ("exponential", "onestep", "cluster"),
    ("exponential", "twostep", "centred"),
    ("exponential", "twostep", "centred cluster"),
    ("exponential", "iterated", "cluster"),
]


@pytest.mark.parametrize(("name", "steps", "kind"), CASES)
def test_misspecification_is_the_infinitesimal_jackknife(name, steps, kind):
    frame = frame_of()
    options = WEIGHTS[kind]
    data = table(frame, cluster=["g", "h"])
    fit = gm.GMMEstimator(MODELS[name], data, steps=steps, se="misspecification", **options).fit()
    assert fit.verified
    start = fit.theta
    if steps == "twostep":
        one = gm.GMMEstimator(MODELS[name], data, steps="onestep").fit()
        start = np.concatenate([one.theta, fit.theta])
    codes = frame["g" if "cluster" in kind else "own"].to_numpy()
    influence = Program(name, steps, "centred" in kind, codes, frame).influence(np.array(start))
    found = fit.cov_params().to_numpy()
    expected = fit.estimate.s.factor * influence.T @ influence
    np.testing.assert_allclose(found, expected, atol=IMPLICIT * np.abs(expected).max(), rtol=0)
    plain = fit.with_cov("sandwich").cov_params().to_numpy()
    assert not np.allclose(plain, found, rtol=0.02)  # the premise: the model is wrong enough to matter


@pytest.mark.parametrize("grad", ["analytic", "jax", "complex", "fd-central"])
def test_every_engine_has_the_same_corrections(grad):
    data = table(frame_of(200))
    base, fit = (
        gm.GMMEstimator(MODELS["exponential"], data, grad=engine).fit() for engine in ("forward", grad)
    )
    near = {"fd-central": 1e-3, "complex": 1e-5}.get(
        grad, 1e-9
    )  # second derivatives by differences of first ones
    for kind in ("windmeijer", "misspecification"):
        np.testing.assert_allclose(fit.with_cov(kind).bse, base.with_cov(kind).bse, rtol=near)


def test_standard_errors_of_a_weight_by_observations_can_be_clustered():
    """Influences of observations are summed within clusters; clusters of one observation change nothing."""
    frame = frame_of(200)
    data = table(frame, cluster=["own", "g"])
    fit = gm.GMMEstimator(MODELS["exponential"], data, se="misspecification").fit()
    own, grouped = (fit.with_cov(weighting="cluster", cluster=name) for name in ("own", "g"))
    np.testing.assert_allclose(own.cov_params(), fit.cov_params(), rtol=1e-10)
    assert np.all(np.abs(grouped.bse / fit.bse - 1.0) > 1e-3)


@pytest.mark.parametrize("kind", ["windmeijer", "misspecification"])
@pytest.mark.parametrize(
    "options", [{}, {"centred": True}, {"weighting": "cluster", "cluster": "g", "centred": True}]
)
def test_frequencies_are_repeated_rows(kind, options):
    frame = frame_of(80)
    long = frame.loc[frame.index.repeat(frame["f"])]
    fits = [
        gm.GMMEstimator(MODELS["exponential"], data, se=kind, **options).fit()
        for data in (table(frame, frequency="f", cluster="g"), table(long, cluster="g"))
    ]
    np.testing.assert_allclose(fits[0].cov_params(), fits[1].cov_params(), rtol=1e-8)


@pytest.mark.parametrize("name", ["linear", "exponential"])
def test_just_identified_models_have_nothing_to_correct(name):
    model = type(MODELS[name])("y", endogenous=["x"], instruments=["z1"])
    for steps in ("twostep", "iterated"):
        fit = gm.GMMEstimator(model, table(frame_of(300)), steps=steps).fit()
        for kind, plain in (("windmeijer", "minimised_weight"), ("misspecification", "sandwich")):
            np.testing.assert_allclose(fit.with_cov(kind).bse, fit.with_cov(plain).bse, rtol=1e-7)


def test_where_j_rejects_the_corrections_are_large(travel_data, greene_overidentified, greene):
    fit = gm.GMMEstimator(greene_overidentified, travel_data()).fit()
    assert fit.j_test().pvalue < 1e-6  # the premise
    assert np.all(fit.with_cov("windmeijer").bse > 1.2 * fit.bse)
    assert np.all(fit.with_cov("misspecification").bse > 1.2 * fit.bse)
    exact = gm.GMMEstimator(greene, travel_data()).fit()
    np.testing.assert_allclose(exact.with_cov("misspecification").bse, exact.bse, rtol=1e-9)


def test_a_logit_that_is_wrong_by_its_jackknife():
    """Shares, their first weight and its derivative in p, written out for choice sets of two rows."""
    rng = np.random.default_rng(9)
    n = 60
    X, Z = rng.normal(size=(n, 2, 1)), rng.normal(size=(n, 2, 3))
    Z[:, :, :1] = X
    utility = 0.8 * X[:, :, 0] + 1.2 * Z[:, :, 1]  # an instrument that is a feature left out
    second = rng.random(n) < 1.0 / (1.0 + np.exp(utility[:, 0] - utility[:, 1]))
    chosen = np.stack([~second, second], axis=1).astype(float)
    data = gm.ChoiceData.from_arrays(
        features=X.reshape(-1, 1),
        instruments=Z.reshape(-1, 3),
        chosen=chosen.ravel(),
        offsets=np.arange(n + 1) * 2,
    )
    fit = gm.GMMEstimator(gm.Logit(), data, steps="onestep", se="misspecification").fit()
    dx, dz = X[:, 1, 0] - X[:, 0, 0], Z[:, 1] - Z[:, 0]

    def first_order(theta, p):
        s = 1.0 / (1.0 + np.exp(-dx * theta))
        g, slope = (p * (s - chosen[:, 1])) @ dz, (p * s * (1.0 - s) * dx) @ dz
        return slope @ np.linalg.inv(dz.T @ (dz * p[:, None])) @ g

    theta, ones, h = fit.theta[0], np.ones(n), 1e-30j
    influence = np.array([first_order(theta, ones + h * unit).imag for unit in np.eye(n)])
    influence = -influence / first_order(theta + h, ones).imag
    assert fit.cov_params().iloc[0, 0] == pytest.approx(influence @ influence, rel=IMPLICIT)
    assert abs(fit.bse.iloc[0] / fit.with_cov("sandwich").bse.iloc[0] - 1.0) > 0.01


# --- Windmeijer -------------------------------------------------------------------------------------------

EVERY_S = {
    "robust": {},
    "centred": {"centred": True},
    "cluster": {"weighting": "cluster", "cluster": "g"},
    "twoway": {"weighting": "twoway", "cluster": ["g", "h"], "small_sample": True},
    "kernel": {"weighting": "kernel", "kernel": "parzen"},
    "unadjusted": {"weighting": "unadjusted"},
}


def test_windmeijer_by_the_formula_of_the_paper():
    """Windmeijer (2005), (2.4) and the corrected variance that follows it, linear and robust, in plain matrices."""
    frame = frame_of(90)
    one = gm.GMMEstimator(MODELS["linear"], table(frame), steps="onestep").fit()
    two = gm.GMMEstimator(MODELS["linear"], table(frame), se="windmeijer").fit()
    X = frame[["x"]].assign(one=1.0).to_numpy()
    Z = frame[["z1", "z2", "z3"]].assign(one=1.0).to_numpy()
    u1, u2 = (frame["y"].to_numpy() - X @ fit.theta for fit in (one, two))
    W = np.linalg.inv(Z.T @ (Z * u1[:, None] ** 2))
    V2 = np.linalg.inv(X.T @ Z @ W @ Z.T @ X)
    D = np.stack(
        [-V2 @ X.T @ Z @ W @ (Z.T @ (Z * (-2.0 * X[:, j] * u1)[:, None])) @ W @ Z.T @ u2 for j in range(2)],
        axis=1,
    )
    expected = V2 + D @ V2 + V2 @ D.T + D @ one.cov_params().to_numpy() @ D.T
    # our G is -Z'X/N, so that the sign of D is that of the paper's -dW^-1/dtheta times -1
    np.testing.assert_allclose(two.cov_params(), expected, rtol=1e-9)


@pytest.mark.parametrize("name", EVERY_S)
@pytest.mark.parametrize("steps", ["twostep", "iterated"])
def test_windmeijer_with_every_s(name, steps):
    """S_j by differences of ``moment_covariance``, H and B in plain matrices."""
    model = MODELS["linear" if name == "unadjusted" else "exponential"]
    data = table(frame_of(150), cluster=["g", "h"])
    fit = gm.GMMEstimator(model, data, steps=steps, se="windmeijer", **EVERY_S[name]).fit()
    assert fit.verified
    one = gm.GMMEstimator(model, data, steps="onestep").fit()
    moments, n = fit.context.moments(), fit.n_obs
    options = fit.estimate.s.options
    there = one.theta if steps == "twostep" else fit.theta
    S = moment_covariance(moments, there, options)
    if S.bandwidth is not None:
        options = CovarianceOptions("kernel", kernel="parzen", bandwidth=S.bandwidth)
    g, G = moments.value_and_jacobian(fit.theta)
    W = np.linalg.inv(S.matrix)
    H, h = G.T @ W @ G, 1e-4
    slopes = [
        (
            8.0 * (s_at(moments, there + step, options) - s_at(moments, there - step, options))
            - s_at(moments, there + 2 * step, options)
            + s_at(moments, there - 2 * step, options)
        )
        / (12.0 * h)
        for step in h * np.eye(2)
    ]
    D = np.stack([np.linalg.solve(H, G.T @ W @ slope @ W @ g) for slope in slopes], axis=1)
    V2 = np.linalg.inv(H) / n
    if steps == "twostep":
        _, G1 = moments.value_and_jacobian(there)
        bread = np.linalg.solve(G1.T @ one.estimate.weight.apply(G1), one.estimate.weight.apply(G1).T)
        expected = V2 + D @ V2 + V2 @ D.T + D @ (bread @ S.matrix @ bread.T / n) @ D.T
    else:
        still = np.linalg.inv(np.eye(2) - D)
        expected = still @ V2 @ still.T
    np.testing.assert_allclose(fit.cov_params(), expected, rtol=1e-7)
    if name != "unadjusted":  # the scale of S plays no part, so that there is next to nothing to correct
        assert not np.allclose(expected, V2, rtol=1e-3)


def s_at(moments, theta, options):
    return moment_covariance(moments, theta, options).matrix


# --- classical --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", ["analytic", "forward", "jax"])
def test_travel_mode_classical(travel_data, greene, grad):
    fit = gm.GMMEstimator(greene, travel_data(), grad=grad, se="classical").fit()
    assert fit.bse.to_dict() == pytest.approx(CLASSICAL, rel=CERTIFIED)
    implied = gm.GMMEstimator(greene, travel_data(), grad=grad, weighting="unadjusted").fit()
    np.testing.assert_allclose(fit.bse, implied.bse, rtol=1e-10)
    assert "inverse Hessian of the log-likelihood" in str(fit.summary())


def test_classical_errors_of_counts_are_those_of_repeated_sets(travel_frame, greene):
    counted = travel_frame.assign(f=1.0 + travel_frame["individual"] % 2)
    twice = travel_frame[travel_frame["individual"] % 2 == 1]
    again = twice.assign(individual=twice["individual"] + 1000)
    roles = {"case": "individual", "alternative": "mode", "chosen": "choice"}
    fits = [
        gm.GMMEstimator(greene, data, se="classical").fit()
        for data in (
            gm.ChoiceData.from_frame(counted, frequency="f", **roles),
            gm.ChoiceData.from_frame(pd.concat([travel_frame, again]), **roles),
        )
    ]
    np.testing.assert_allclose(fits[0].bse, fits[1].bse, rtol=1e-9)


def test_classical_is_refused_where_moments_are_no_score(
    travel_data, travel_frame, greene, greene_overidentified
):
    for model, options in ((greene_overidentified, {}), (greene, {"tied": {"gc": "ttme"}})):
        with pytest.raises(ConfigError, match="not the score of a likelihood"):
            gm.GMMEstimator(model, travel_data(), se="classical", **options).fit()
    weighted = gm.ChoiceData.from_frame(
        travel_frame.assign(w=1.5), case="individual", alternative="mode", chosen="choice", weight="w"
    )
    with pytest.raises(ConfigError, match="sampling weights"):
        gm.GMMEstimator(greene, weighted, se="classical").fit()


@pytest.mark.parametrize("initial", ["instruments", "identity"])
def test_a_weight_that_is_no_inverse_covariance_gives_no_standard_errors(initial):
    """``(G'WG)^-1/N`` of a first step does not change with the units of y; standard errors do."""
    frame = frame_of(120)

    def fit(k=1.0, **options):
        data = table(frame.assign(y=k * frame["y"]))
        return gm.GMMEstimator(MODELS["linear"], data, initial=initial, **options).fit()

    refusal = f"E102 se 'minimised_weight' has no meaning here: the weight was '{initial}'"
    with pytest.raises(ConfigError, match=refusal):
        fit(steps="onestep", se="minimised_weight")
    with pytest.raises(ConfigError, match=refusal):
        fit(steps="onestep").with_cov("minimised_weight")
    plain, larger = (fit(k, se="minimised_weight").bse for k in (1.0, 1024.0))
    assert np.allclose(larger, 1024.0 * plain, rtol=1e-8)


# --- switching --------------------------------------------------------------------------------------------

NAMES = ["sandwich", "efficient", "minimised_weight", "windmeijer", "misspecification"]


def same(a: gm.GMMResults, b: gm.GMMResults) -> None:
    """Every number and text but the clock is the same to the last bit.

    The certificate is of the fit: its remaining step is in standard errors of the fit's own S.
    """
    for name in ("theta", "moments", "jacobian", "v"):
        assert np.array_equal(getattr(a.estimate, name), getattr(b.estimate, name)), name
    assert np.array_equal(a.estimate.s.matrix, b.estimate.s.matrix)
    assert np.array_equal(a.estimate.weight.root, b.estimate.weight.root)
    assert (a.settings, a.notes, a.verified, a.degrees) == (b.settings, b.notes, b.verified, b.degrees)
    assert a.context.weighting == b.context.weighting
    assert a.facts()[:-1] == b.facts()[:-1]
    assert a.table() == b.table()


@pytest.mark.parametrize("steps", ["onestep", "twostep", "iterated", "cue"])
def test_a_switch_is_a_fit_with_that_name(steps):
    data = table(frame_of(120))
    allowed = [
        name
        for name in NAMES
        if not (name == "windmeijer" and steps in ("onestep", "cue"))
        and not (name == "minimised_weight" and steps == "onestep")
        and not (name == "misspecification" and steps == "cue")
    ]
    fits = {name: gm.GMMEstimator(MODELS["linear"], data, steps=steps, se=name).fit() for name in allowed}
    for a, b in combinations(allowed, 2):
        same(fits[a].with_cov(b), fits[b])
        same(fits[b].with_cov(a), fits[a])
        assert fits[a].verdict() == fits[b].verdict()


@pytest.mark.parametrize("se", ["sandwich", "efficient", "misspecification"])
def test_after_one_step_a_switch_of_s_is_a_fit_with_that_s(se):
    data = table(frame_of(120), cluster=["g", "h"])
    every = [
        {},
        {"centred": True},
        {"small_sample": True},
        {"weighting": "cluster", "cluster": "g"},
        {"weighting": "twoway", "cluster": ["g", "h"]},
        {"weighting": "kernel", "bandwidth": 3, "kernel": "parzen"},
    ]
    base = gm.GMMEstimator(MODELS["exponential"], data, steps="onestep").fit()
    for s in every:
        same(
            base.with_cov(se, **s),
            gm.GMMEstimator(MODELS["exponential"], data, steps="onestep", se=se, **s).fit(),
        )
        back = base.with_cov(se, **s).with_cov(
            "sandwich", weighting="robust", centred=False, small_sample=False
        )
        assert np.array_equal(back.cov_params(), base.cov_params())
    assert base.settings.se == "sandwich"  # the one before is as it was


def test_a_switch_keeps_estimate_weight_and_j():
    fit = gm.GMMEstimator(MODELS["exponential"], table(frame_of(120), cluster="g")).fit()
    other = fit.with_cov(weighting="cluster", small_sample=True)
    assert np.array_equal(other.theta, fit.theta)
    assert other.j_test() == fit.j_test()
    assert np.all(other.bse != fit.bse)
    assert other.estimate.s.estimator == "cluster"


@pytest.mark.parametrize(
    "held", [{"fixed": {"const": 0.3}}, {"tied": {"const": "2*x - 0.5"}}, {"bounds": {"x": (0, 9)}}]
)
@pytest.mark.parametrize("se", ["efficient", "windmeijer", "misspecification"])
def test_parameters_that_are_held_play_no_part(held, se):
    data = table(frame_of(120), cluster="g")
    fits = {
        name: gm.GMMEstimator(MODELS["exponential"], data, se=name, **held).fit() for name in ("sandwich", se)
    }
    same(fits["sandwich"].with_cov(se), fits[se])
    grouped = fits["sandwich"].with_cov(weighting="cluster")
    assert np.array_equal(np.isnan(grouped.bse), np.isnan(fits["sandwich"].bse))
    if "fixed" in held:
        model = gm.MomentFunction(
            lambda theta, rows: residual_moments([theta[0], 0.3], rows), names=["x"], start=[0.3]
        )
        whole = gm.MomentFunction(residual_moments, names=["x", "const"], start=[0.3, 0.3])
        alone = gm.GMMEstimator(model, data, se=se).fit()
        fixed = gm.GMMEstimator(whole, data, se=se, **held).fit()
        assert fixed.bse["x"] == pytest.approx(alone.bse["x"], rel=1e-9)


def test_at_an_active_bound_what_is_corrected_is_refused_and_the_rest_switched():
    data = table(frame_of(120), cluster="g")
    fit = gm.GMMEstimator(MODELS["exponential"], data, bounds={"x": (None, 0.2)}).fit()
    assert "x at its upper bound" in fit.verdict()  # the premise
    direct = gm.GMMEstimator(MODELS["exponential"], data, se="efficient", bounds={"x": (None, 0.2)}).fit()
    same(fit.with_cov("efficient"), direct)
    for kind in ("windmeijer", "misspecification"):
        with pytest.raises(ConfigError, match="a parameter ended at its bound"):
            fit.with_cov(kind)


@pytest.mark.parametrize(
    ("options", "switch", "words"),
    [
        (
            {"steps": "onestep"},
            {"se": "windmeijer"},
            "se 'windmeijer' has no meaning here: .* steps is 'onestep'",
        ),
        ({"steps": "cue"}, {"se": "windmeijer"}, "steps is 'cue'"),
        ({"steps": "cue"}, {"se": "misspecification"}, "steps is 'cue'"),
        ({"steps": "iterated", "max_steps": 2}, {"se": "windmeijer"}, "the iterated steps have not ended"),
        (
            {"weighting": "kernel"},
            {"se": "misspecification"},
            "weighting 'kernel', is no mean over independent",
        ),
        ({"weighting": "twoway"}, {"se": "misspecification"}, "weighting 'twoway', is no mean"),
        (
            {"weighting": "cluster", "cluster": "g"},
            {"se": "misspecification", "weighting": "robust"},
            "the clusters of the weight are not those",
        ),
        ({}, {"se": "misspecification", "weighting": "unadjusted"}, "a model that is right"),
        (
            {"weighting": "kernel", "kernel": "qs", "bandwidth": 3},
            {"se": "windmeijer"},
            "kernel 'qs' gives every lag a weight",
        ),
        ({}, {"se": "bootstrapped"}, "se is 'bootstrapped'"),
        ({}, {"se": "classical"}, "not the score"),
        ({}, {"weighting": "clsuter"}, "did you mean 'cluster'"),
        ({}, {"cluster": "g"}, "cluster plays no part with weighting 'robust'"),
        ({}, {"kernel": "parzen", "bandwidth": 3}, "bandwidth plays no part with weighting 'robust'"),
        ({}, {"weighting": "cluster", "cluster": "frim"}, "frim"),
    ],
)
def test_what_has_no_meaning_is_refused_with_the_reason(options, switch, words):
    model = MODELS["linear"]
    fit = gm.GMMEstimator(model, table(frame_of(120), cluster=["g", "h"]), **options).fit()
    with pytest.raises(ConfigError, match=words):
        fit.with_cov(**switch)


def test_a_first_weight_of_unknown_parts_is_refused():
    @dataclass(frozen=True)
    class Bare:
        inner: gm.LinearIV

        def sample(self, data):
            return self.inner.sample(data)

        def contributions(self, theta, block):
            return self.inner.contributions(theta, block)

        def instrument_product_sum(self, block):
            return self.inner.instrument_product_sum(block)

    fit = gm.GMMEstimator(Bare(MODELS["linear"]), table(frame_of(120))).fit()
    with pytest.raises(ConfigError, match="Bare does not say what each observation adds to its first weight"):
        fit.with_cov("misspecification")
    assert np.all(fit.with_cov("windmeijer").bse > 0)


def test_results_without_their_data_cannot_switch():
    from dataclasses import replace

    fit = gm.GMMEstimator(MODELS["linear"], table(frame_of(120))).fit()
    with pytest.raises(EstimationError, match="E430"):
        replace(fit, context=None).with_cov("efficient")


def test_a_bootstrap_repeats_what_a_replication_has():
    fit = gm.GMMEstimator(MODELS["linear"], table(frame_of(120), cluster="g")).fit()
    with pytest.raises(ConfigError, match="a bootstrap of a fit with se 'windmeijer': replications have"):
        fit.with_cov("windmeijer").bootstrap(10)
    with pytest.raises(ConfigError, match="a replication makes both from one"):
        fit.with_cov(weighting="cluster").bootstrap(10, kind="cluster")


# --- few clusters -----------------------------------------------------------------------------------------


def test_with_clusters_statistics_are_t_and_f_with_clusters_less_one():
    frame = frame_of(120)
    frame["g"] = frame["own"] % 8
    data = table(frame, cluster=["g", "h"])
    fit = gm.GMMEstimator(MODELS["linear"], data, steps="onestep", weighting="cluster", cluster="g").fit()
    assert fit.degrees == 7
    np.testing.assert_allclose(fit.pvalues, 2.0 * stats.t.sf(np.abs(fit.tvalues), 7), rtol=1e-10)
    reach = stats.t.ppf(0.975, 7) * fit.bse
    np.testing.assert_allclose(fit.conf_int()["upper"], fit.params + reach, rtol=1e-9)
    joint = fit.wald_test("x = 0, const = 0")
    assert joint.pvalue == pytest.approx(stats.f.sf(joint.stat / 2, 2, 7), rel=1e-10)
    assert fit.wald_test("x = 0").pvalue == pytest.approx(fit.pvalues["x"], rel=1e-9)
    ratio = fit.nlcom(lambda b: b["x"], by_name=True)
    np.testing.assert_allclose(ratio.conf_int().to_numpy()[0], fit.conf_int().loc["x"], rtol=1e-12)
    assert ratio.pvalues.iloc[0] == pytest.approx(fit.pvalues["x"], rel=1e-12)
    ring = fit.confidence_ellipse("x", "const", alpha=0.1)
    for point in ring.points(5):
        there = fit.wald_test(f"x = {float(point[0])!r}, const = {float(point[1])!r}")
        assert there.pvalue == pytest.approx(0.1, rel=1e-8)
    text = str(fit.summary())
    assert "t(7), clusters less one (Stata gmm: normal)" in text
    assert "P>|t|" in text
    assert "W340 8 clusters of g" in text
    both = fit.with_cov(weighting="twoway", cluster=["h", "g"])
    assert both.degrees == 7  # of the way with fewer
    plain = fit.with_cov(weighting="robust")
    assert plain.degrees is None
    assert "P>|z|" in str(plain.summary())
    assert "W340" not in str(plain.summary())
    np.testing.assert_allclose(plain.pvalues, 2.0 * stats.norm.sf(np.abs(plain.tvalues)), rtol=1e-10)


def test_a_mean_over_equal_clusters_is_the_t_test_of_their_means():
    """Student's test, which is exact for normal means: interval and p-value, with the factor of small samples."""
    y = np.random.default_rng(6).normal(0.4, 1.0, size=(8, 5))
    data = gm.Table.from_arrays({"y": y.ravel()}, cluster=np.repeat(np.arange(8), 5))
    model = gm.MomentFunction(lambda theta, rows: (rows["y"] - theta[0])[:, None], names=["mean"])
    fit = gm.GMMEstimator(model, data, steps="onestep", weighting="cluster", small_sample=True).fit()
    student = stats.ttest_1samp(y.mean(axis=1), 0.0)
    assert fit.tvalues.iloc[0] == pytest.approx(student.statistic, rel=1e-12)
    assert fit.pvalues.iloc[0] == pytest.approx(student.pvalue, rel=1e-10)
    np.testing.assert_allclose(fit.conf_int().to_numpy()[0], student.confidence_interval(), rtol=1e-10)
