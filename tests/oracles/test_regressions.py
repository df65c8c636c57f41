"""Linear and exponential regressions with instruments against certified numbers and other programs.

Griliches (1976) and the doctor visits of Cameron and Trivedi come with statsmodels, the housing data of
Stata's manual with linearmodels.  The figures are exact optima (the first-order condition holds to rounding).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from linearmodels.iv import IV2SLS, IVGMM

import gmmest as gm

ESTIMATE = 1e-8
"""Relative agreement of estimates with figures of 13 to 15 digits."""
ERROR = 1e-7
"""Relative agreement of standard errors with figures of ten digits and more."""
PRINTED = 1e-7
"""The figures of doctor visits are Stata's, where it stopped: they hold to seven digits.  Newton's method in
80-bit arithmetic, below, gives ours."""
GRADS = ["analytic", "forward", "jax"]


# --- Griliches --------------------------------------------------------------------------------------------


WAGE = gm.LinearIV(
    "lw",
    exogenous=["expr", "tenure", "rns", "smsa", "D_67", "D_68", "D_69", "D_70", "D_71", "D_73"],
    endogenous=["s", "iq"],
    instruments=["med", "kww", "age", "mrt"],
)


@pytest.mark.parametrize("grad", GRADS)
def test_griliches_one_step(griliches, grad):
    fit = gm.GMMEstimator(WAGE, griliches, steps="onestep", grad=grad).fit()
    assert fit.verified
    assert (len(fit.names), len(fit.moment_names)) == (13, 15)
    certified = {"s": 0.1724253119448, "iq": -0.00909883104783, "const": 4.0335098954259}
    errors = {"s": 0.02073946970972, "iq": 0.00488623921543, "const": 0.33503289261392}
    assert fit.params[list(certified)].to_dict() == pytest.approx(certified, rel=ESTIMATE)
    assert fit.bse[list(errors)].to_dict() == pytest.approx(errors, rel=ERROR)


def test_griliches_one_step_is_two_stage_least_squares_of_linearmodels(griliches):
    frame = griliches.assign(const=1.0)
    exogenous = [*WAGE.columns.exogenous, "const"]
    peer = IV2SLS(
        frame["lw"], frame[exogenous], frame[["s", "iq"]], frame[list(WAGE.columns.instruments)]
    ).fit(cov_type="robust")
    ours = gm.GMMEstimator(WAGE, griliches, steps="onestep").fit()
    names = list(ours.names)
    assert np.allclose(ours.params[names], peer.params[names], rtol=1e-8)
    assert np.allclose(ours.bse[names], peer.std_errors[names], rtol=1e-9)


@pytest.mark.parametrize("grad", GRADS)
def test_griliches_two_steps(griliches, grad):
    fit = gm.GMMEstimator(WAGE, griliches, grad=grad).fit()
    assert fit.verified
    certified = {"s": 0.17579576802018, "iq": -0.00928615655842, "const": 4.0039243732137}
    assert fit.params[list(certified)].to_dict() == pytest.approx(certified, rel=ESTIMATE)
    assert fit.bse["s"] == pytest.approx(0.02085135579518, rel=ERROR)
    test = fit.j_test()
    assert (test.stat, test.df) == (pytest.approx(11.60148137515076, rel=ESTIMATE), 2)


@pytest.mark.parametrize("grad", GRADS)
def test_griliches_with_the_weight_that_was_minimised(griliches, grad):
    fit = gm.GMMEstimator(WAGE, griliches, se="minimised_weight", grad=grad).fit()
    assert fit.bse["s"] == pytest.approx(0.02067662557145, rel=ERROR)


# --- housing -------------------------------------------------------------------------------------------------


def rent(frame: pd.DataFrame) -> gm.LinearIV:
    regions = [name for name in frame.columns if name.startswith("region_")]
    return gm.LinearIV(
        "rent", exogenous=["pcturban"], endogenous=["hsngval"], instruments=["faminc", *regions]
    )


@pytest.mark.parametrize("grad", GRADS)
def test_two_stage_least_squares_is_gmm_with_unadjusted_weights(housing, grad):
    fit = gm.GMMEstimator(rent(housing), housing, weighting="unadjusted", grad=grad).fit()
    certified = {"hsngval": 0.00223983298, "pcturban": 0.08151596819, "const": 120.70651454}
    assert fit.verified
    assert fit.params.to_dict() == pytest.approx(certified, rel=1e-8)  # the digits that are certified
    assert fit.j_test().stat == pytest.approx(11.287665072, rel=1e-9)


@pytest.mark.parametrize("grad", GRADS)
def test_robust_two_step(housing, grad):
    fit = gm.GMMEstimator(rent(housing), housing, grad=grad).fit()
    certified = {"hsngval": 0.00146432787, "pcturban": 0.76154815601, "const": 112.12271295}
    assert fit.verified
    assert fit.params.to_dict() == pytest.approx(certified, rel=1e-8)
    assert fit.j_test().stat == pytest.approx(6.8364006463, rel=1e-9)


def test_linearmodels_agrees_on_everything(housing):
    model = rent(housing)
    exogenous = housing[["pcturban"]].assign(const=1.0)
    instruments = housing[list(model.columns.instruments)]
    peer = IVGMM(housing["rent"], exogenous, housing[["hsngval"]], instruments, weight_type="robust").fit()
    ours = gm.GMMEstimator(model, housing).fit()
    names = list(ours.names)
    assert np.allclose(ours.params[names], peer.params[names], rtol=1e-9)
    assert np.allclose(ours.cov_params().loc[names, names], peer.cov.loc[names, names], rtol=1e-8)
    assert ours.j_test().stat == pytest.approx(peer.j_stat.stat, rel=1e-9)

    classical = IV2SLS(housing["rent"], exogenous, housing[["hsngval"]], instruments).fit(
        cov_type="unadjusted"
    )
    ours = gm.GMMEstimator(model, housing, weighting="unadjusted").fit()
    assert np.allclose(ours.params[names], classical.params[names], rtol=1e-9)
    assert np.allclose(ours.bse[names], classical.std_errors[names], rtol=1e-8)


# --- doctor visits ------------------------------------------------------------------------------------------------


def counts(errors: str) -> gm.ExponentialIV:
    return gm.ExponentialIV(
        "docvis",
        exogenous=["aget", "aget2", "educyr", "actlim", "totchr"],
        endogenous=["private", "medicaid"],
        instruments=["income", "ssiratio"],
        errors=errors,
    )


@pytest.mark.parametrize("grad", GRADS)
def test_doctor_visits_with_additive_errors(visits, grad):
    fit = gm.GMMEstimator(counts("additive"), visits, grad=grad).fit()
    certified = {"private": 0.62093805844748, "medicaid": 0.68895699568302, "const": 0.34763567088735}
    errors = {"private": 0.35860052573857, "medicaid": 0.43817618784254, "const": 0.31615794015526}
    assert fit.verified
    assert fit.params[list(certified)].to_dict() == pytest.approx(certified, rel=PRINTED)
    assert fit.bse[list(errors)].to_dict() == pytest.approx(errors, rel=PRINTED)


def test_doctor_visits_in_eighty_bits(visits):
    """Newton's method on the same moments in long double: a second program with three digits more."""
    columns = counts("additive").columns
    ones = np.ones((len(visits), 1))
    exogenous = list(columns.exogenous)
    X = np.hstack([visits[[*exogenous, *columns.endogenous]], ones]).astype(np.longdouble)
    Z = np.hstack([visits[[*exogenous, *columns.instruments]], ones]).astype(np.longdouble)
    y = visits["docvis"].to_numpy().astype(np.longdouble)
    b = np.zeros(X.shape[1], dtype=np.longdouble)
    b[-1] = np.log(y.mean())
    for _ in range(60):
        mean = np.exp(X @ b)
        slope = (Z.T @ (mean[:, None] * X)).astype(np.float64)
        step = np.linalg.solve(slope, (Z.T @ (y - mean)).astype(np.float64))
        b = b + step
    assert np.abs(step).max() < 1e-16
    fit = gm.GMMEstimator(counts("additive"), visits).fit()
    assert fit.names == (*exogenous, *columns.endogenous, "const")
    assert np.allclose(fit.theta, b.astype(np.float64), rtol=1e-12)


def test_nothing_endogenous_is_poisson_with_robust_errors(visits):
    """Additive moments of exogenous regressors are the score of Poisson pseudo-maximum likelihood."""
    import statsmodels.api as sm

    names = ["aget", "educyr", "totchr"]
    ours = gm.GMMEstimator(gm.ExponentialIV("docvis", exogenous=names), visits).fit()
    peer = sm.Poisson(visits["docvis"], sm.add_constant(visits[names])).fit(
        disp=0, cov_type="HC0", method="newton", tol=1e-14
    )
    assert ours.verified
    assert np.allclose(ours.params[[*names, "const"]], peer.params[[*names, "const"]], rtol=1e-8)
    assert np.allclose(ours.bse[[*names, "const"]], peer.bse[[*names, "const"]], rtol=1e-6)


@pytest.mark.parametrize("errors", ["additive", "multiplicative"])
def test_every_engine_has_the_derivative_written_by_hand(visits, errors):
    model, sample = counts(errors), counts(errors).sample(visits)
    theta = np.linspace(-0.1, 0.2, len(sample.names))
    block = sample.whole().blocks[0]
    exact = gm.jacobian(lambda b: model.moment_sum(b, block), theta, backend="complex")
    by_hand = model.moment_sum_and_jacobian(theta, block)[1]
    size = np.abs(exact).max(axis=0)
    assert np.all(np.abs(by_hand - exact) <= 1e-12 * size)
    v = np.linspace(-1.0, 1.0, len(sample.moment_names))
    pulled = model.moment_sum_and_vjp(theta, block)[1](v)
    assert np.all(np.abs(pulled - v @ exact) <= 1e-11 * np.abs(v) @ np.abs(exact))
    for engine in ("forward", "jax"):
        found = gm.jacobian(lambda b: model.moment_sum(b, block), theta, backend=engine)
        assert np.all(np.abs(found - exact) <= 1e-12 * size)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_identified_is_refused_by_name(housing):
    doubled = housing.assign(twice=2.0 * housing["pcturban"])
    with pytest.raises(
        gm.IdentificationError, match=r"E202 (twice|pcturban) = [+-]?[\d.]+ (twice|pcturban), up to"
    ):
        gm.GMMEstimator(gm.LinearIV("rent", exogenous=["pcturban", "twice"]), doubled).fit()
    model = gm.LinearIV("rent", endogenous=["hsngval"], instruments=["pcturban", "twice"])
    with pytest.raises(gm.IdentificationError, match="E211 a moment is redundant"):
        gm.GMMEstimator(model, doubled).fit()
    with pytest.raises(gm.IdentificationError, match="E212 1 moment, 2 parameters"):
        gm.GMMEstimator(gm.LinearIV("rent", endogenous=["hsngval"]), housing).fit()


def test_instruments_that_move_nothing_are_refused():
    """An instrument that is orthogonal to the regressor leaves its coefficient free."""
    z = np.tile([1.0, -1.0, 1.0, -1.0], 10)
    x = np.tile([1.0, 1.0, -1.0, -1.0], 10)
    assert z @ x == 0.0
    table = gm.Table.from_arrays({"y": x + 0.1 * z, "x": x, "z": z})
    with pytest.raises(
        gm.IdentificationError, match="E213 the instruments do not identify the parameters: x = 0"
    ):
        gm.GMMEstimator(gm.LinearIV("y", endogenous=["x"], instruments=["z"]), table).fit()


def test_a_column_plays_one_part(housing):
    with pytest.raises(gm.ConfigError, match="E102 pcturban: each column plays one part"):
        gm.GMMEstimator(gm.LinearIV("rent", exogenous=["pcturban", "pcturban"]), housing).fit()
    with pytest.raises(gm.ConfigError, match="E102 rent: each column plays one part"):
        gm.GMMEstimator(gm.LinearIV("rent", exogenous=["rent"]), housing).fit()
    with pytest.raises(gm.ConfigError, match="expected one of additive, multiplicative"):
        gm.ExponentialIV("y", errors="both")
