"""explain_difference: what is claimed of a program that is installed is what the program does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.sandbox.regression.tests as shipped
from linearmodels.iv import IV2SLS, IVGMM
from statsmodels.sandbox.regression.gmm import LinearIVGMM

import gmmest as gm
from gmmest.gmm.explain import PROGRAMS

INSTRUMENTS = ["faminc", "region_NE", "region_South", "region_West"]
TESTED = 1e-7
"""statsmodels minimises by BFGS with differences, to seven digits or more."""


RENT = gm.LinearIV("rent", exogenous=["pcturban"], endogenous=["hsngval"], instruments=INSTRUMENTS)


@pytest.fixture(scope="module")
def fit(housing):
    return gm.GMMEstimator(RENT, housing).fit()


def statsmodels_fit(housing, **options):
    X = housing[["pcturban", "hsngval", "const"]].to_numpy(float)
    Z = housing[["pcturban", *INSTRUMENTS, "const"]].to_numpy(float)
    return LinearIVGMM(housing["rent"].to_numpy(float), X, Z).fit(optim_args={"disp": 0}, **options)


# --- statsmodels ------------------------------------------------------------------------------------------


def test_statsmodels_prints_what_is_said(housing, fit):
    said = fit.explain_difference("statsmodels")
    efficient, sandwich = (p.errors for p in said.printed)
    plain = statsmodels_fit(housing, maxiter=2, wargs={"centered": False})
    assert np.allclose(plain.params, fit.theta, rtol=TESTED)
    assert np.allclose(plain.bse, efficient, rtol=TESTED)
    assert plain.jtest()[0] == pytest.approx(fit.j_test().stat, rel=TESTED)
    other = statsmodels_fit(housing, maxiter=2, wargs={"centered": False}, has_optimal_weights=False)
    assert np.allclose(other.bse, sandwich, rtol=TESTED)
    assert {p.evidence for p in said.printed} == {"tested"}


def test_statsmodels_by_default_iterates_and_centres(housing, fit):
    """Its defaults are iterated (ten at most) and centred: both change the numbers."""
    default = statsmodels_fit(housing)
    assert not np.allclose(default.params, fit.theta, rtol=1e-2)
    same = statsmodels_fit(housing, maxiter=10, wargs={"centered": True})
    assert np.allclose(default.params, same.params, rtol=1e-12)
    # what is taken off every contribution is one number, the mean of all moments: by hand, from the first step
    one = gm.GMMEstimator(RENT, housing, steps="onestep").fit()
    g = one.estimate.moments
    rows = one.context.sample.whole().blocks[0]
    u = rows.Z * (rows.y - rows.X @ one.theta)[:, None] - g.mean()
    S = u.T @ u / 50
    assert not np.allclose(S, one.estimate.s.matrix - np.outer(g, g), rtol=1e-3)
    X = housing[["pcturban", "hsngval", "const"]].to_numpy(float)
    Z = housing[["pcturban", *INSTRUMENTS, "const"]].to_numpy(float)
    assert np.array_equal(Z, rows.Z)
    A = Z.T @ X
    by_hand = np.linalg.solve(A.T @ np.linalg.solve(S, A), A.T @ np.linalg.solve(S, Z.T @ housing["rent"]))
    assert np.allclose(statsmodels_fit(housing, maxiter=2).params, by_hand, rtol=1e-6)


# --- linearmodels -----------------------------------------------------------------------------------------


def test_linearmodels_prints_what_is_said(housing, fit):
    parts = (housing["rent"], housing[["pcturban", "const"]], housing[["hsngval"]], housing[INSTRUMENTS])
    said = fit.explain_difference("linearmodels")
    assert said.differences == ()
    order = list(fit.names)
    for printed, debiased in zip(said.printed, (False, True), strict=True):
        peer = IVGMM(*parts).fit(debiased=debiased)
        assert np.allclose(printed.errors, peer.std_errors[order], rtol=1e-8)
    one = gm.GMMEstimator(RENT, housing, steps="onestep").fit().explain_difference("linearmodels")
    for printed, debiased in zip(one.printed, (False, True), strict=True):
        peer = IV2SLS(*parts).fit(cov_type="robust", debiased=debiased)
        assert np.allclose(printed.errors, peer.std_errors[order], rtol=1e-8)


# --- Stata, by its printed numbers ------------------------------------------------------------------------


def test_stata_printed_what_is_said():
    frame = pd.read_stata(Path(shipped.__file__).parent / "griliches76.dta")
    years = pd.get_dummies(frame["year"].astype(int), prefix="D", dtype=float).drop(columns="D_66")
    frame = pd.concat([frame.astype(float), years], axis=1)
    model = gm.LinearIV(
        "lw",
        exogenous=["expr", "tenure", "rns", "smsa", *years],
        endogenous=["s", "iq"],
        instruments=["med", "kww", "age", "mrt"],
    )
    said = gm.GMMEstimator(model, frame).fit().explain_difference("stata")
    assert said.differences == ()
    errors = said.standard_errors.loc["s"]
    assert errors["gmm, twostep winitial(unadjusted)"] == pytest.approx(0.02085135579518, rel=1e-6)
    assert errors["ivreg2, gmm2s robust"] == pytest.approx(0.02067662557145, rel=1e-6)
    one = gm.GMMEstimator(model, frame, steps="onestep").fit().explain_difference("stata")
    assert one.standard_errors.loc["s"].tolist() == [pytest.approx(0.02073946970972, rel=1e-6)]


# --- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_every_claim_says_what_it_rests_on(fit, program):
    said = fit.explain_difference(program)
    text = str(said)
    evidence = {"stata": "printed", "r": "documentation", "pyblp": "documentation"}.get(program, "tested")
    assert {claim.evidence for claim in said.claims} == {evidence}
    assert text.count(f"[{evidence}]") == len(said.claims) + len(said.printed)
    for claim in said.differences:
        assert f"to agree: {claim.remedy}" in text
    assert list(said.standard_errors.index) == list(fit.names)


def test_differences_follow_the_options(housing):
    other = gm.GMMEstimator(RENT, housing, se="efficient", weighting="unadjusted", initial="identity").fit()
    said = other.explain_difference("stata")
    assert [claim.topic for claim in said.differences] == ["weighting", "initial", "se"]
    assert said.printed == ()
    assert "its estimate or its S would be another one" in str(said)


def test_standard_errors_of_another_s_do_not_change_what_the_estimate_is(housing, fit):
    """What is minimised is compared; what is printed would rest on an S that the program does not take."""
    other = fit.with_cov(weighting="unadjusted").explain_difference("stata")
    assert other.differences == ()
    assert other.printed == ()
    centred = gm.GMMEstimator(RENT, housing, centred=True).fit().with_cov(centred=False)
    assert [claim.topic for claim in centred.explain_difference("stata").differences] == ["centred"]
    assert fit.with_cov(small_sample=True).explain_difference("linearmodels").printed == ()


def test_unknown_programs_are_refused(fit):
    with pytest.raises(gm.ConfigError, match="program is 'strata'; expected one of stata"):
        fit.explain_difference("strata")
