"""Diagnostics: strength of identification, first stages, profiles.  Laws, other programs, simulations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from linearmodels.iv import IV2SLS

import gmmest as gm
from gmmest.derivatives.backends import Jax
from gmmest.gmm.diagnostics import first_stage_statistics, joint_covariance, weakest
from gmmest.gmm.weighting import moment_covariance

EXACT = 1e-8


INSTRUMENTS = ["faminc", "region_NE", "region_South", "region_West"]


def draw(strength: float, n: int, seed: int, instruments: int = 3) -> gm.Table:
    """One endogenous regressor with errors correlated 0.95, first-stage F about ``strength + 1``."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, instruments))
    u, e = rng.normal(size=(2, n))
    v = 0.95 * u + np.sqrt(1 - 0.95**2) * e
    x = z @ np.full(instruments, np.sqrt(strength / n)) + v
    columns = {f"z{k}": z[:, k] for k in range(instruments)}
    return gm.Table.from_arrays({"y": u, "x": x, **columns})


def weak_model(instruments: int = 3) -> gm.LinearIV:
    return gm.LinearIV(
        "y", endogenous=["x"], instruments=[f"z{k}" for k in range(instruments)], constant=False
    )


# --- first stage ------------------------------------------------------------------------------------------------


def test_first_stage_is_that_of_linearmodels(housing):
    endogenous = ["hsngval", "popden"]
    model = gm.LinearIV("rent", exogenous=["pcturban"], endogenous=endogenous, instruments=INSTRUMENTS)
    ours = gm.GMMEstimator(model, housing, steps="onestep").fit().first_stage()
    peer = (
        IV2SLS(housing["rent"], housing[["pcturban", "const"]], housing[endogenous], housing[INSTRUMENTS])
        .fit(cov_type="unadjusted", debiased=True)
        .first_stage.diagnostics
    )
    for column, theirs in (
        ("rsquared", "rsquared"),
        ("partial_rsquared", "partial.rsquared"),
        ("shea_rsquared", "shea.rsquared"),
        ("f", "f.stat"),
    ):
        assert np.allclose(ours[column], peer[theirs].astype(float)[endogenous], rtol=EXACT), column


def test_robust_f_is_the_wald_statistic_of_linearmodels(housing):
    model = gm.LinearIV("rent", exogenous=["pcturban"], endogenous=["hsngval"], instruments=INSTRUMENTS)
    ours = gm.GMMEstimator(model, housing).fit().first_stage()
    peer = IV2SLS(
        housing["rent"], housing[["pcturban", "const"]], housing[["hsngval"]], housing[INSTRUMENTS]
    ).fit(cov_type="robust")
    assert ours.loc["hsngval", "f_robust"] * 4 == pytest.approx(
        float(peer.first_stage.diagnostics.loc["hsngval", "f.stat"]), rel=EXACT
    )


def test_first_stage_laws():
    rng = np.random.default_rng(1)
    z, w = rng.normal(size=(500, 3)), np.column_stack([rng.normal(size=500), np.ones(500)])
    x = z @ [0.2, 0.1, 0.0] + w @ [1.0, 2.0] + rng.normal(size=500)
    three = first_stage_statistics(x[:, None], w, z, True)
    assert three["cragg_donald"] == pytest.approx(three["f"], rel=EXACT)
    assert three["shea_rsquared"] == pytest.approx(three["partial_rsquared"], rel=EXACT)
    one = first_stage_statistics(x[:, None], w, z[:, :1], True)
    assert one["f_effective"] == pytest.approx(one["f_robust"], rel=EXACT)
    mixed = first_stage_statistics(
        3.0 * x[:, None], w, z @ rng.normal(size=(3, 3)) + w @ np.ones((2, 3)), True
    )
    for name, value in three.items():
        assert mixed[name] == pytest.approx(value, rel=EXACT), name
    # with errors that are homoskedastic by construction (every v_i^2 one), all three F are one, but for N - k
    sign = np.where(rng.random(4000) < 0.5, 1.0, -1.0)
    z = np.linalg.qr(np.column_stack([sign, rng.normal(size=(4000, 2))]))[0][:, 1:] * np.sqrt(4000)
    even = first_stage_statistics((z @ [0.05, 0.02] + sign)[:, None], np.zeros((4000, 0)), z, False)
    assert even["f_effective"] == pytest.approx(even["f"] * 4000 / 3998, rel=EXACT)
    assert even["f_robust"] == pytest.approx(even["f"] * 4000 / 3998, rel=EXACT)


def test_first_stage_of_other_models_is_refused(travel_data, greene):
    with pytest.raises(gm.EstimationError, match="E433 first-stage"):
        gm.GMMEstimator(greene, travel_data()).fit().first_stage()


def test_what_needs_no_more_than_s_works_with_any_s(housing):
    model = gm.LinearIV("rent", exogenous=["pcturban"], endogenous=["hsngval"], instruments=INSTRUMENTS)
    weighted = gm.Table.from_frame(housing.drop(columns=["state", "region"]), weight="pop")
    clustered = gm.Table.from_frame(
        housing.drop(columns=["state", "region"]).assign(group=np.arange(50) // 2), cluster="group"
    )
    fits = [
        gm.GMMEstimator(model, weighted).fit(),
        gm.GMMEstimator(model, clustered, weighting="cluster").fit(),
    ]
    for fit in fits:
        assert fit.c_test(["faminc"]).stat <= fit.j_test().stat + 1e-9
        assert fit.distance_test("pcturban = 0").stat == pytest.approx(
            fit.lm_test("pcturban = 0").stat, rel=1e-7
        )
        assert fit.s_test({"hsngval": fit.params["hsngval"]}).stat >= 0.0
        at = fit.k_test(fit.theta)
        assert at.s_stat == pytest.approx(at.stat + at.rest, rel=1e-10)
        assert fit.diagnostics().strength > 0
    with pytest.raises(
        gm.EstimationError, match="E433 first-stage statistics are there for observations of equal"
    ):
        fits[0].first_stage()


def test_first_stage_f_of_clusters_is_the_wald_statistic(housing):
    group = np.arange(50) // 5
    model = gm.LinearIV("rent", exogenous=["pcturban"], endogenous=["hsngval"], instruments=INSTRUMENTS)
    table = gm.Table.from_frame(
        housing.drop(columns=["state", "region"]).assign(group=group), cluster="group"
    )
    fit = gm.GMMEstimator(model, table, weighting="cluster", steps="onestep").fit()
    rows = fit.context.sample.whole().blocks[0]
    names = fit.context.model.columns
    x = rows.X[:, [names.names.index("hsngval")]]
    w = np.delete(rows.X, names.names.index("hsngval"), axis=1)
    z = rows.Z[:, [names.moment_names.index(name) for name in INSTRUMENTS]]
    regressors = np.column_stack([z, w])
    b = np.linalg.lstsq(regressors, x, rcond=None)[0]
    scores = regressors * (x - regressors @ b)
    sums = np.array([scores[group == c].sum(axis=0) for c in range(10)])
    bread = np.linalg.inv(regressors.T @ regressors)
    v = bread @ sums.T @ sums @ bread
    wald = float(b[:4, 0] @ np.linalg.solve(v[:4, :4], b[:4, 0]))
    ours = fit.first_stage().loc["hsngval"]
    assert ours["f_robust"] * 4 == pytest.approx(wald, rel=EXACT)
    robust = gm.GMMEstimator(model, table).fit().first_stage().loc["hsngval"]
    assert ours["f"] == robust["f"]
    assert ours["f_robust"] != robust["f_robust"]


# --- strength ---------------------------------------------------------------------------------------------------


def test_joint_covariance_is_that_of_the_rows():
    table = draw(50.0, 400, 2)
    fit = gm.GMMEstimator(weak_model(), table).fit()
    joint = joint_covariance(fit.context, fit.theta)
    rows = fit.context.sample.whole().blocks[0]
    g = rows.Z * (rows.y - rows.X @ fit.theta)[:, None]
    G = -rows.Z[:, :, None] * rows.X[:, None, :]
    assert np.allclose(joint.g, g.mean(axis=0), atol=1e-15)
    assert np.allclose(joint.G, fit.estimate.jacobian, rtol=1e-12)
    flat = np.concatenate([g, G.reshape(400, -1)], axis=1)
    cov = np.cov(flat.T, bias=True)
    assert np.allclose(joint.gg, cov[:3, :3], rtol=1e-10)
    assert np.allclose(joint.Gg.reshape(3, 3), cov[3:, :3], rtol=1e-9, atol=1e-14)
    assert np.allclose(joint.GG.reshape(3, 3), cov[3:, 3:], rtol=1e-10)


@pytest.mark.parametrize("weighting", ["cluster", "twoway", "kernel", "robust"])
def test_joint_covariance_is_that_of_s_with_all_its_options(weighting):
    """gg is the S of the fit, centred, whatever its estimator; so is the rest by the same sums over pairs."""
    plain = draw(50.0, 400, 2)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 60, 400), rng.integers(0, 50, 400)
    roles = {"weight": rng.uniform(0.5, 2.0, 400)} if weighting == "robust" else {"cluster": {"a": a, "b": b}}
    table = gm.Table.from_arrays({name: plain.column(name) for name in ("y", "x", "z0", "z1", "z2")}, **roles)
    chosen = {"cluster": {"cluster": "a"}, "kernel": {"kernel": "parzen"}}.get(weighting, {})
    fit = gm.GMMEstimator(weak_model(), table, weighting=weighting, small_sample=True, **chosen).fit()
    joint = joint_covariance(fit.context, fit.theta)
    s = fit.with_cov(centred=True).estimate.s
    assert np.allclose(joint.gg, s.matrix, rtol=1e-10)
    assert np.allclose(joint.G, fit.estimate.jacobian, rtol=1e-12)
    # the derivatives are contributions too: those of y = -x at zero
    columns = {name: table.column(name) for name in ("x", "z0", "z1", "z2")}
    moved = weak_model().sample(gm.Table.from_arrays({"y": -table.column("x"), **columns}, **roles))
    options = fit.context.weighting
    options = replace(options, centred=True, bandwidth=fit.estimate.s.bandwidth or options.bandwidth)
    of_g = moment_covariance(replace(fit.context, sample=moved).moments(), np.zeros(1), options)
    assert np.allclose(joint.GG[:, 0, :, 0], of_g.matrix, rtol=1e-10)


@pytest.mark.parametrize("weighting", ["robust", "cluster"])
def test_clusters_and_weights_do_not_hide_weak_instruments(weighting):
    plain = draw(1.0, 300, 1)
    columns = {name: plain.column(name) for name in ("y", "x", "z0", "z1", "z2")}
    roles = (
        {"weight": np.linspace(0.5, 2.0, 300)} if weighting == "robust" else {"cluster": np.arange(300) // 4}
    )
    fit = gm.GMMEstimator(weak_model(), gm.Table.from_arrays(columns, **roles), weighting=weighting).fit()
    assert "W213 weak identification along 1 x: strength" in str(fit.summary())


def test_clusters_of_one_are_robust_in_every_diagnostic():
    plain = draw(20.0, 200, 5)
    columns = {name: plain.column(name) for name in ("y", "x", "z0", "z1", "z2")}
    fits = [
        gm.GMMEstimator(
            weak_model(), gm.Table.from_arrays(columns, cluster=np.arange(200)), weighting=w
        ).fit()
        for w in ("robust", "cluster")
    ]
    assert fits[0].diagnostics().strength == pytest.approx(fits[1].diagnostics().strength, rel=1e-8)
    assert fits[0].k_test([0.3]).stat == pytest.approx(fits[1].k_test([0.3]).stat, rel=1e-10)
    assert np.allclose(fits[0].first_stage(), fits[1].first_stage(), rtol=1e-10)


def test_a_strength_that_cannot_be_had_is_said_to_be_missing():
    """Two ways of clustering may have no covariance of moments and derivatives; the rest needs none."""
    for seed in range(50):
        plain = draw(50.0, 60, seed)
        columns = {name: plain.column(name) for name in ("y", "x", "z0", "z1", "z2")}
        rng = np.random.default_rng(seed)
        ways = {"a": rng.integers(0, 6, 60), "b": rng.integers(0, 5, 60)}
        fit = gm.GMMEstimator(
            weak_model(), gm.Table.from_arrays(columns, cluster=ways), weighting="cluster", cluster="a"
        ).fit()
        try:
            fit = fit.with_cov(weighting="twoway", cluster=["a", "b"])
            found = fit.diagnostics()
        except gm.IdentificationError:  # S itself is not positive definite
            continue
        if np.isnan(found.strength):
            break
    assert np.isnan(found.pvalue)
    assert found.rank == 1
    assert found.moment_condition > 1
    assert found.flat == (("x", 1.0),)
    assert found.notes[0].startswith("identification strength not assessed: two ways of clustering")
    assert "identification strength not assessed" in str(fit.summary())


def test_jax_sweeps_once_a_parameter_and_not_once_a_row(monkeypatch):
    """A row of the Jacobian is one contribution: in reverse there would be N M sweeps."""
    fit = gm.GMMEstimator(weak_model(), draw(50.0, 300, 0), grad="jax").fit()
    modes, prepare = [], Jax.prepare

    def noted(self, function):
        modes.append(self.mode)
        return prepare(self, function)

    monkeypatch.setattr(Jax, "prepare", noted)
    by_hand = gm.GMMEstimator(weak_model(), draw(50.0, 300, 0)).fit()
    assert fit.diagnostics().strength == pytest.approx(by_hand.diagnostics().strength, rel=1e-9)
    assert modes == ["forward"]


def test_with_one_parameter_the_strength_is_the_wald_statistic_of_the_jacobian():
    fit = gm.GMMEstimator(weak_model(), draw(30.0, 500, 3)).fit()
    joint = joint_covariance(fit.context, fit.theta)
    G = joint.G[:, 0]
    expected = 500 * G @ np.linalg.solve(joint.GG[:, 0, :, 0], G)
    assert weakest(joint).statistic == pytest.approx(expected, rel=1e-6)
    assert weakest(joint).df == 3


def test_strength_does_not_depend_on_units_and_names_the_direction(travel_data, greene_overidentified):
    plain = gm.GMMEstimator(greene_overidentified, travel_data()).fit().diagnostics()
    scaled = gm.GMMEstimator(greene_overidentified, travel_data(gc=1e4, ttme=1e-3)).fit().diagnostics()
    assert plain.strength > 10
    assert plain.notes == ()
    assert scaled.strength == pytest.approx(plain.strength, rel=1e-4)
    assert plain.rank == 6
    assert plain.flat[0][1] == 1.0


def test_the_flat_direction_is_the_planted_one():
    """b + c is well identified, b - c by a trace of noise alone."""
    rng = np.random.default_rng(8)
    n = 2000
    z = rng.normal(size=(n, 3))
    common = z[:, 0] + rng.normal(size=n)
    noise = rng.normal(size=(2, n))
    table = gm.Table.from_arrays(
        {"y": 2 * common + rng.normal(size=n), "b": common + noise[0], "c": common + noise[1],
         "d": z[:, 1] + rng.normal(size=n), "z0": z[:, 0], "z1": z[:, 1], "z2": z[:, 2], "z3": rng.normal(size=n)}
    )  # fmt: skip
    model = gm.LinearIV("y", endogenous=["b", "c", "d"], instruments=["z0", "z1", "z2", "z3"], constant=False)
    found = gm.GMMEstimator(model, table).fit().diagnostics()
    assert {name for name, _ in found.flat} == {"b", "c"}
    assert found.flat[1][1] == pytest.approx(-1.0, abs=0.2)
    assert found.notes[0].startswith("W213 weak identification along ")
    assert found.strength < 10


def test_weak_instruments_are_announced_and_cover_too_little():
    """Row 7 of the catalogue of faults: coverage fails, and the warning comes."""
    covered = warned = 0
    replications = 60
    for seed in range(replications):
        fit = gm.GMMEstimator(weak_model(), draw(3.0, 300, seed)).fit()
        low, high = fit.conf_int().loc["x"]
        covered += low <= 0.0 <= high
        warned += bool(fit.diagnostics().notes)
    assert warned >= 0.95 * replications
    assert covered <= 0.80 * replications


def test_the_summary_says_so_when_it_matters(travel_data, greene):
    weak = gm.GMMEstimator(weak_model(), draw(1.0, 300, 1)).fit()
    assert "W213 weak identification along 1 x: strength" in str(weak.summary())
    assert "W213" not in str(gm.GMMEstimator(greene, travel_data()).fit().summary())


# --- profiles ------------------------------------------------------------------------------------------------------


def test_a_linear_profile_is_quadratic(housing):
    model = gm.LinearIV("rent", exogenous=["pcturban"], endogenous=["hsngval"], instruments=INSTRUMENTS)
    fit = gm.GMMEstimator(model, housing, se="minimised_weight").fit()
    found = fit.profile("hsngval")
    assert np.allclose(found.change, found.quadratic, rtol=1e-6)
    assert np.allclose(found.quadratic, np.square(found.steps), rtol=1e-8)
    assert list(found.frame.columns) == ["steps", "values", "change", "quadratic"]


def test_a_nonlinear_profile_touches_its_quadratic_at_the_estimate(travel_data, greene):
    """Where the moments vanish at the estimate; elsewhere their second derivatives count too."""
    fit = gm.GMMEstimator(greene, travel_data()).fit()
    found = fit.profile("ttme", [-2.0, 0.05, 2.0])
    assert found.change[1] == pytest.approx(found.quadratic[1], rel=0.05)
    assert np.all(found.change > 0)
    with pytest.raises(gm.ConfigError, match="no parameter 'x'"):
        fit.profile("x")
