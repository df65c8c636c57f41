"""Travel mode against 60-digit Newton: every backend, every optimiser, every unit of measurement."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import root

from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.logit import Logit

NAMES = ("asc_air", "asc_train", "asc_bus", "gc", "ttme", "hinc_air")
ESTIMATE = np.array(
    [
        5.207443298666677,
        3.869042701532174,
        3.163194211867219,
        -0.01550152531610885,
        -0.09612479610477755,
        0.01328702625060322,
    ]
)
CLASSICAL = np.array(
    [
        0.7790551425098134,
        0.4431268520023843,
        0.4502659305281866,
        0.004407993078356405,
        0.01043984653137663,
        0.01026240699974458,
    ]
)
ROBUST = np.array(
    [
        0.978815810049758,
        0.5174582750421762,
        0.5462579597509118,
        0.004947554972965785,
        0.01506020287701885,
        0.009273404858713087,
    ]
)
LOGLIKE = -199.1283687159816
LOGLIKE_AT_ZERO = -291.121816  # as many digits as were printed

ESTIMATE_RTOL = 1e-12  # twelve digits, as the oracle wants
ERROR_RTOL = 1e-10  # ten digits: standard errors
CENTRAL_RTOL = 1e-7  # seven digits, estimates and standard errors, from central differences
ONE_SIDED_ERROR_RTOL = 2e-6  # one-sided steps of sqrt(eps) leave half the digits, less the conditioning
OPTIMIZER_RTOL = 1e-8  # eight digits from every optimiser

EXACT = ("auto", "analytic", "forward", "jax", "jax-forward", "complex")
UNITS = {
    "as shipped": {},
    "up and down": {"gc": 1e4, "ttme": 1e-4, "hinc": 1e4},
    "down and up": {"gc": 1e-4, "ttme": 1e4, "hinc": 1e-4},
    "all up": {"gc": 1e4, "ttme": 1e4, "hinc": 1e4},
    "all down": {"gc": 1e-4, "ttme": 1e-4, "hinc": 1e-4},
}
units = pytest.mark.parametrize("factors", UNITS.values(), ids=UNITS.keys())


def _unit(factors: dict[str, float]) -> np.ndarray:
    return np.array([1.0, 1.0, 1.0, *(factors.get(name, 1.0) for name in ("gc", "ttme", "hinc"))])


@units
@pytest.mark.parametrize("grad", EXACT)
def test_exact_backends_reach_the_certified_numbers_in_any_unit(travel_data, greene, grad, factors):
    result = GMMEstimator(greene, travel_data(**factors), grad=grad).fit()
    unit = _unit(factors)
    assert result.names == NAMES
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta * unit, ESTIMATE, rtol=ESTIMATE_RTOL)
    np.testing.assert_allclose(result.standard_errors * unit, ROBUST, rtol=ERROR_RTOL)
    assert result.loglike == pytest.approx(LOGLIKE, rel=ESTIMATE_RTOL)
    assert result.settings.grad == ("analytic" if grad == "auto" else grad)


@units
def test_central_differences_reach_seven_digits_in_any_unit(travel_data, greene, factors):
    result = GMMEstimator(greene, travel_data(**factors), grad="fd-central").fit()
    unit = _unit(factors)
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta * unit, ESTIMATE, rtol=CENTRAL_RTOL)
    np.testing.assert_allclose(result.standard_errors * unit, ROBUST, rtol=CENTRAL_RTOL)


@units
def test_one_sided_differences_find_the_estimate_and_half_the_digits_of_the_errors(
    travel_data, greene, factors
):
    result = GMMEstimator(greene, travel_data(**factors), grad="fd").fit()
    unit = _unit(factors)
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta * unit, ESTIMATE, rtol=CENTRAL_RTOL)
    np.testing.assert_allclose(result.standard_errors * unit, ROBUST, rtol=ONE_SIDED_ERROR_RTOL)


@units
@pytest.mark.parametrize("optimizer", ["lsq", "lbfgsb", "bfgs", "trust-constr"])
def test_optimizers_with_derivatives_reach_the_same_minimum_in_any_unit(
    travel_data, greene, optimizer, factors
):
    result = GMMEstimator(greene, travel_data(**factors), optimizer=optimizer).fit()
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta * _unit(factors), ESTIMATE, rtol=OPTIMIZER_RTOL)
    np.testing.assert_allclose(result.standard_errors * _unit(factors), ROBUST, rtol=OPTIMIZER_RTOL)


@units
def test_nelder_mead_agrees_or_says_that_it_is_not_verified(travel_data, greene, factors):
    result = GMMEstimator(greene, travel_data(**factors), optimizer="nelder-mead").fit()
    if result.verified:
        np.testing.assert_allclose(result.theta * _unit(factors), ESTIMATE, rtol=OPTIMIZER_RTOL)
    else:
        assert result.verdict().startswith("NOT VERIFIED")
        assert result.certificate.reasons


@pytest.mark.parametrize("grad", EXACT)
@pytest.mark.parametrize("se", ["sandwich", "efficient"])
def test_unadjusted_s_gives_the_classical_standard_errors(travel_data, greene, grad, se):
    result = GMMEstimator(greene, travel_data(), weighting="unadjusted", se=se, grad=grad).fit()
    np.testing.assert_allclose(result.theta, ESTIMATE, rtol=ESTIMATE_RTOL)
    np.testing.assert_allclose(result.standard_errors, CLASSICAL, rtol=ERROR_RTOL)


@pytest.mark.parametrize("steps", ["onestep", "twostep"])
@pytest.mark.parametrize("initial", ["instruments", "identity"])
def test_no_weight_moves_a_just_identified_estimate(travel_data, greene, steps, initial):
    result = GMMEstimator(greene, travel_data(), steps=steps, initial=initial).fit()
    assert result.verified, result.verdict()
    assert result.j_test() is None
    np.testing.assert_allclose(result.theta, ESTIMATE, rtol=ESTIMATE_RTOL)
    np.testing.assert_allclose(result.standard_errors, ROBUST, rtol=ERROR_RTOL)


def test_log_likelihood_at_zero(travel_data, greene):
    sample = greene.sample(travel_data())
    at_zero = sum(greene.loglike(np.zeros(6), block) for block in sample.blocks)
    assert at_zero == pytest.approx(LOGLIKE_AT_ZERO, abs=5e-7)
    assert at_zero == pytest.approx(-210 * np.log(4.0), rel=1e-14)


# --- two-step GMM, overidentified, against a second program -------------------------------------------------
#
# Dense and per person, on the frame itself; the minimum is found as a root of the first-order condition
# G'Wg = 0, whose own Jacobian is made by complex steps.  Nothing of gmmest takes part.


class _Dense:
    def __init__(self, frame):
        dummy = {mode: (frame["mode"] == mode).to_numpy(float) for mode in ("air", "train", "bus")}
        columns = [dummy["air"], dummy["train"], dummy["bus"], frame["gc"], frame["ttme"]]
        columns.append(frame["hinc"] * dummy["air"])
        self.x = np.column_stack(columns).reshape(210, 4, 6)
        self.z = np.concatenate([self.x, frame[["invc", "invt"]].to_numpy(float).reshape(210, 4, 2)], axis=2)
        self.y = frame["choice"].to_numpy(float).reshape(210, 4)

    def shares(self, theta):
        u = self.x @ theta
        e = np.exp(u - u.real.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def contributions(self, theta):
        return np.einsum("njm,nj->nm", self.z, self.shares(theta) - self.y)

    def jacobian(self, theta):
        s = self.shares(theta)
        spread = np.einsum("nj,jk->njk", s, np.eye(4)) - np.einsum("nj,nk->njk", s, s)
        return np.einsum("njm,njk,nkp->mp", self.z, spread, self.x) / 210

    def minimum(self, weight, start):
        scale = np.array([1.0, 1.0, 1.0, 0.01, 0.01, 0.01])

        def condition(v):
            theta = scale * v
            return scale * (self.jacobian(theta).T @ weight @ self.contributions(theta).mean(axis=0))

        def slope(v):
            steps = v + 1e-30j * np.eye(6)
            return np.stack([condition(row).imag / 1e-30 for row in steps], axis=1)

        v = root(condition, start / scale, jac=slope, method="hybr", tol=1e-14).x
        for _ in range(3):  # what hybr leaves, Newton removes
            v = v - np.linalg.solve(slope(v), condition(v))
        assert np.all(np.linalg.eigvalsh(slope(v)) > 0)  # a minimum, not only a stationary point
        return scale * v


@pytest.fixture(scope="module")
def second_program(travel_frame):
    dense = _Dense(travel_frame)
    assert dense.y.sum(axis=1).min() == dense.y.sum(axis=1).max() == 1.0
    centred = dense.z - dense.z.mean(axis=1, keepdims=True)
    first = np.linalg.inv(np.einsum("njm,njk->mk", centred, centred) / 210)
    one = dense.minimum(first, ESTIMATE)
    g = dense.contributions(one)
    weight = np.linalg.inv(g.T @ g / 210)
    two = dense.minimum(weight, one)
    g, G = dense.contributions(two), dense.jacobian(two)
    s = g.T @ g / 210
    bread = np.linalg.inv(G.T @ weight @ G)
    return {
        "onestep": one,
        "twostep": two,
        "sandwich": bread @ G.T @ weight @ s @ weight @ G @ bread / 210,
        "efficient": np.linalg.inv(G.T @ np.linalg.inv(s) @ G) / 210,
        "minimised_weight": bread / 210,
        "j": 210 * g.mean(axis=0) @ weight @ g.mean(axis=0),
    }


SECOND_RTOL = 1e-8  # the second program inverts matrices of condition 1e8 (raw units)


@pytest.mark.parametrize(
    ("se", "grad"),
    [
        *itertools.product(["sandwich", "efficient", "minimised_weight"], ["analytic", "forward", "complex"]),
        ("sandwich", "jax"),
        ("sandwich", "jax-forward"),
    ],
)
def test_two_step_agrees_with_a_dense_second_program(
    travel_data, greene_overidentified, second_program, se, grad
):
    result = GMMEstimator(greene_overidentified, travel_data(), grad=grad, se=se).fit()
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta, second_program["twostep"], rtol=SECOND_RTOL)
    np.testing.assert_allclose(result.estimate.v, second_program[se], rtol=SECOND_RTOL)
    test = result.j_test()
    assert (test.stat, test.df) == (pytest.approx(second_program["j"], rel=SECOND_RTOL), 2)


@pytest.mark.parametrize("optimizer", ["lsq", "lbfgsb", "bfgs", "trust-constr"])
def test_every_optimizer_finds_the_overidentified_minimum(
    travel_data, greene_overidentified, second_program, optimizer
):
    result = GMMEstimator(greene_overidentified, travel_data(), optimizer=optimizer).fit()
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta, second_program["twostep"], rtol=OPTIMIZER_RTOL)


def test_one_step_agrees_with_a_dense_second_program(travel_data, greene_overidentified, second_program):
    result = GMMEstimator(greene_overidentified, travel_data(), steps="onestep").fit()
    np.testing.assert_allclose(result.theta, second_program["onestep"], rtol=SECOND_RTOL)


def test_nelder_mead_overidentified_agrees_or_says_so(travel_data, greene_overidentified, second_program):
    result = GMMEstimator(greene_overidentified, travel_data(), optimizer="nelder-mead").fit()
    if result.verified:
        np.testing.assert_allclose(result.theta, second_program["twostep"], rtol=OPTIMIZER_RTOL)
    else:
        assert str(result.summary()).splitlines()[0].strip().startswith("NOT VERIFIED")


def test_a_model_without_instruments_of_its_own_uses_its_features(travel_data, greene):
    given = GMMEstimator(Logit(greene.utility, instruments=greene.utility), travel_data()).fit()
    np.testing.assert_allclose(given.theta, ESTIMATE, rtol=ESTIMATE_RTOL)
    np.testing.assert_allclose(given.standard_errors, ROBUST, rtol=ERROR_RTOL)
