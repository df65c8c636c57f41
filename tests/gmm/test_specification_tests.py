"""LM, distance and C: identities with one S, orders of approximation, other programs, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from linearmodels.iv import IV2SLS, IVGMM

import gmmest as gm

EXACT = 1e-8
"""Identities of linear algebra, computed by other sums; conditions of the matrices are below 1e4."""


REGIONS = ["region_NE", "region_South", "region_West"]


def rent(endogenous=True):
    part = {"endogenous": ["hsngval"]} if endogenous else {}
    exogenous = ["pcturban"] if endogenous else ["pcturban", "hsngval"]
    return gm.LinearIV("rent", exogenous=exogenous, instruments=["faminc", *REGIONS], **part)


@pytest.mark.parametrize("weighting", ["robust", "unadjusted"])
@pytest.mark.parametrize(
    "hypothesis", ["hsngval = 0.002", "pcturban = 0.3, hsngval = 0.002", "const = 100*pcturban"]
)
def test_linear_moments_make_wald_lm_and_distance_one_number(housing, weighting, hypothesis):
    fit = gm.GMMEstimator(rent(), housing, weighting=weighting, se="minimised_weight").fit()
    wald, lm, distance = (test(hypothesis) for test in (fit.wald_test, fit.lm_test, fit.distance_test))
    assert lm.stat == pytest.approx(wald.stat, rel=EXACT)
    assert distance.stat == pytest.approx(wald.stat, rel=EXACT)
    assert lm.df == distance.df == wald.df
    assert lm.pvalue == pytest.approx(wald.pvalue, rel=1e-6)
    assert np.allclose(lm.theta, distance.theta, rtol=EXACT)


def test_restrictions_hold_at_the_restricted_estimate_which_is_the_projection(housing):
    fit = gm.GMMEstimator(rent(), housing, se="minimised_weight").fit()
    R, q = np.array([[2.0, 0.0, 0.0], [0.0, 1e4, 1.0]]), np.array([0.7, 130.0])
    found = fit.distance_test(R, q)
    assert np.allclose(R @ found.theta, q, rtol=1e-12)
    v = fit.estimate.v
    expected = fit.theta - v @ R.T @ np.linalg.solve(R @ v @ R.T, R @ fit.theta - q)
    assert np.allclose(found.theta, expected, rtol=EXACT)


def test_all_parameters_can_be_restricted(housing):
    fit = gm.GMMEstimator(rent(), housing, se="minimised_weight").fit()
    there = [0.5, 0.002, 115.0]
    assert fit.distance_test(np.eye(3), there).stat == pytest.approx(
        fit.wald_test(np.eye(3), there).stat, rel=EXACT
    )
    assert fit.distance_test(np.eye(3), there).theta == pytest.approx(there, rel=1e-14)


def test_a_true_restriction_of_the_estimate_has_zero_distance(housing):
    fit = gm.GMMEstimator(rent(), housing).fit()
    R = np.array([[1.0, 0.0, 0.0]])
    for test in (fit.lm_test, fit.distance_test):
        found = test(R, fit.theta[:1])
        assert 0.0 <= found.stat < 1e-10
        assert found.pvalue == pytest.approx(1.0, abs=1e-4)


def relative_gaps(fit, *distances):
    """LM and distance statistics less Wald's, over Wald's, at so many standard errors from the estimate."""
    R = np.zeros((1, 6))
    R[0, fit.names.index("gc")] = 1.0
    gaps = []
    for h in distances:
        value = [fit.params["gc"] + h * fit.bse["gc"]]
        wald, lm, distance = (t(R, value).stat for t in (fit.wald_test, fit.lm_test, fit.distance_test))
        assert wald == pytest.approx(h**2, rel=1e-9)
        gaps.append([(lm - wald) / wald, (distance - wald) / wald])
    return np.array(gaps)


def test_nonlinear_moments_agree_to_first_order(travel_data, greene, greene_overidentified):
    """At h standard errors from the estimate, of statistics h^2, the three differ by O(h^3) where moments vanish.

    Where they do not, Wald's V leaves out how G bends, which is of order h^2; what else there is shrinks with h.
    Tenths of h leave a tenth of the gap, halves a half, but for the next order, which is a twentieth here.
    """
    just = gm.GMMEstimator(greene, travel_data(), se="minimised_weight").fit()
    far, near = relative_gaps(just, 0.2, 0.02)
    np.testing.assert_allclose(near / far, 0.1, rtol=0.05)
    assert np.all(np.abs(near) < 0.002)
    over = gm.GMMEstimator(greene_overidentified, travel_data(), se="minimised_weight").fit()
    far, middle, near = relative_gaps(over, 0.2, 0.1, 0.05)
    np.testing.assert_allclose((middle - near) / (far - middle), 0.5, rtol=0.05)
    assert over.lm_test("gc = ttme").df == 1


def test_units_and_ways_of_writing_leave_the_tests(travel_data, greene_overidentified):
    plain = gm.GMMEstimator(greene_overidentified, travel_data()).fit()
    scaled = gm.GMMEstimator(greene_overidentified, travel_data(gc=2.0**20)).fit()
    assert scaled.distance_test(f"{2.0**20}*gc = ttme").stat == pytest.approx(
        plain.distance_test("gc = ttme").stat, rel=1e-6
    )
    one = plain.lm_test("gc = ttme, asc_air = asc_bus").stat
    other = plain.lm_test("3*gc - 3*ttme + asc_air = asc_bus, asc_bus = asc_air").stat
    assert other == pytest.approx(one, rel=EXACT)


def test_a_just_identified_logit_has_the_score_test_of_its_information(travel_data, greene):
    """With S at the estimate: distance is N g'S^-1 g at the restricted minimum of the same."""
    fit = gm.GMMEstimator(greene, travel_data()).fit()
    distance, lm = fit.distance_test("hinc_air = 0"), fit.lm_test("hinc_air = 0")
    assert lm.stat == pytest.approx(distance.stat, rel=EXACT)  # just identified: g lies in the span of G
    assert distance.stat == pytest.approx(fit.wald_test("hinc_air = 0").stat, rel=0.2)


# --- C ----------------------------------------------------------------------------------------------------


def test_c_is_that_of_linearmodels(housing):
    """The regressor under test is exogenous in ours; linearmodels starts from the model where it is not."""
    ours = gm.GMMEstimator(rent(endogenous=False), housing).fit().c_test(["hsngval"])
    exogenous, instruments = housing[["pcturban", "const"]], housing[["faminc", *REGIONS]]
    peer = IVGMM(housing["rent"], exogenous, housing[["hsngval"]], instruments).fit().c_stat("hsngval")
    assert ours.stat == pytest.approx(peer.stat, rel=1e-7)
    assert ours.df == 1
    assert ours.pvalue == pytest.approx(peer.pval, rel=1e-6)


def test_c_with_classical_covariance_is_durbin(housing):
    """J with sigma^2 of OLS less J of 2SLS with the same sigma^2: Durbin's statistic."""
    fit = gm.GMMEstimator(rent(endogenous=False), housing, weighting="unadjusted").fit()
    exogenous, instruments = housing[["pcturban", "const"]], housing[["faminc", *REGIONS]]
    peer = IV2SLS(housing["rent"], exogenous, housing[["hsngval"]], instruments).fit(cov_type="unadjusted")
    assert fit.c_test("hsngval").theta == pytest.approx(
        peer.params[["pcturban", "hsngval", "const"]].to_numpy(), rel=EXACT
    )
    # the first step is 2SLS with all instruments, hsngval among them: OLS, whose sigma^2 Durbin's test uses
    assert fit.c_test("hsngval").stat == pytest.approx(peer.durbin("hsngval").stat, rel=1e-7)


def test_c_is_hausman_with_one_sigma(housing):
    fit = gm.GMMEstimator(rent(endogenous=False), housing, weighting="unadjusted").fit()
    c = fit.c_test(["hsngval"])
    consistent = gm.GMMEstimator(rent(), housing, weighting="unadjusted", se="minimised_weight").fit()
    efficient = gm.GMMEstimator(
        rent(endogenous=False), housing, weighting="unadjusted", se="minimised_weight"
    ).fit()
    one_sigma = consistent.estimate.weight.root @ consistent.estimate.weight.root.T
    keep = [j for j, name in enumerate(fit.moment_names) if name != "hsngval"]
    S = (fit.estimate.weight.root @ fit.estimate.weight.root.T)[np.ix_(keep, keep)]
    factor = S[0, 0] / one_sigma[0, 0]
    assert np.allclose(S, factor * one_sigma, rtol=1e-9)
    k = fit.names.index("hsngval")
    difference = consistent.params["hsngval"] - efficient.theta[k]
    variance = factor * consistent.bse["hsngval"] ** 2 - efficient.standard_errors[k] ** 2
    assert c.stat == pytest.approx(difference**2 / variance, rel=1e-6)


def test_c_of_all_that_is_more_than_identifies_is_j(housing):
    fit = gm.GMMEstimator(rent(), housing).fit()
    assert fit.c_test(REGIONS).stat == pytest.approx(fit.j_test().stat, rel=EXACT)
    assert fit.c_test(REGIONS).df == fit.j_test().df


def test_c_is_never_negative_and_grows_with_the_moments_tested(housing, travel_data, greene_overidentified):
    fit = gm.GMMEstimator(rent(), housing).fit()
    for name in ("faminc", *REGIONS):
        assert 0.0 <= fit.c_test([name]).stat <= fit.j_test().stat + 1e-9
    assert fit.c_test(REGIONS[:1]).stat <= fit.c_test(REGIONS[:2]).stat + 1e-9
    choice = gm.GMMEstimator(greene_overidentified, travel_data()).fit()
    assert choice.c_test(["invc"]).stat <= choice.j_test().stat
    assert choice.c_test(["invc", "invt"]).stat == pytest.approx(choice.j_test().stat, rel=1e-6)


# --- refusals -----------------------------------------------------------------------------------------------


def test_one_step_fits_have_no_such_tests(housing):
    fit = gm.GMMEstimator(rent(), housing, steps="onestep").fit()
    for call in (
        lambda: fit.lm_test("pcturban = 0"),
        lambda: fit.distance_test("pcturban = 0"),
        lambda: fit.c_test(["faminc"]),
    ):
        with pytest.raises(gm.EstimationError, match="has no meaning here") as refused:
            call()
        assert refused.value.codes == ("E420",)


def test_moments_under_test_are_named_and_leave_enough(housing):
    fit = gm.GMMEstimator(rent(), housing).fit()
    with pytest.raises(gm.ConfigError, match="there is no moment 'famine'"):
        fit.c_test(["famine"])
    with pytest.raises(gm.ConfigError, match="2 moments are left for 3 parameters"):
        fit.c_test(["faminc", *REGIONS])
    with pytest.raises(gm.ConfigError, match="each once"):
        fit.c_test(["faminc", "faminc"])
    with pytest.raises(gm.ConfigError, match="each once"):
        fit.c_test([])


def test_moments_left_that_do_not_identify_are_refused():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 300))
    table = gm.Table.from_arrays({"x": x, "y": y})
    model = gm.MomentFunction(
        lambda b, r: np.stack(
            [r["x"] - b[0], r["y"] - b[1], r["x"] * r["y"] - b[0] * b[1], r["x"] ** 3 - b[0]], axis=1
        ),
        names=["mx", "my"],
        moment_names=["x", "y", "xy", "x3"],
    )
    fit = gm.GMMEstimator(model, table, se="efficient").fit()
    with pytest.raises(gm.EstimationError, match=r"no minimum was found without them|full rank") as refused:
        fit.c_test(["y", "xy"])
    assert refused.value.codes == ("E432",)


def test_results_without_their_data_say_so(housing):
    from dataclasses import replace

    fit = replace(gm.GMMEstimator(rent(), housing).fit(), context=None)
    with pytest.raises(gm.EstimationError, match="E430"):
        fit.lm_test("pcturban = 0")
