"""The verdict: planted faults are found, whatever the optimiser's flag said."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from gmmest.data.table import Table
from gmmest.derivatives.analytic import with_derivative
from gmmest.errors import Complaint, EstimationError, IdentificationError
from gmmest.gmm.certificate import STEP_LIMIT, Curvature, certify, contradiction, curvature
from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.optimize import OPTIMIZERS, Problem, minimise, polish
from gmmest.models.moment_function import MomentFunction
from gmmest.models.regression import LinearIV

J = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
ERRORS = np.array([0.5, 0.25])
NAMES = ("a", "b")


def _residuals_for(step):
    """Residuals from which Gauss-Newton would take exactly this step."""
    return J @ np.asarray(step)


def test_a_minimum_is_verified():
    orthogonal = np.linalg.svd(J)[0][:, 2]  # residuals that no parameter can lower
    assert np.max(np.abs(J.T @ orthogonal)) < 1e-15
    found = certify(np.array([1.0, 2.0]), orthogonal, J, ERRORS, NAMES, hessian=Curvature(np.eye(2), J.T @ J))
    assert found.verified
    assert (found.rank, found.reasons) == (2, ())
    assert found.remaining_step_se < 1e-14
    assert found.smallest_curvature == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(("steps", "verified"), [(0.99, True), (1.01, False), (1e4, False)])
def test_the_remaining_step_is_measured_in_standard_errors(steps, verified):
    """The limit is 1e-4 standard errors: just below is let pass, just above is not."""
    step = np.array([0.0, steps * STEP_LIMIT * ERRORS[1]])
    found = certify(np.array([1.0, 2.0]), _residuals_for(step), J, ERRORS, NAMES)
    assert found.remaining_step_se == pytest.approx(steps * STEP_LIMIT, rel=1e-12)
    assert found.verified is verified
    if not verified:
        assert "in b" in found.reasons[0]


def test_rank_deficiency_is_found_in_any_unit():
    for factor in (1.0, 1e-9, 1e9):
        deficient = np.column_stack([J[:, 0], factor * J[:, 0]])
        found = certify(np.zeros(2), np.zeros(3), deficient, ERRORS, NAMES)
        assert (found.verified, found.rank) == (False, 1)
        assert found.reasons == ("the Jacobian of the moments has rank 1 for 2 parameters",)
        assert found.remaining_step_se == found.condition == np.inf


def test_bad_units_are_no_rank_deficiency():
    found = certify(np.zeros(2), np.zeros(3), J * [1e-150, 1e150], ERRORS, NAMES)
    assert found.verified
    assert found.condition < 10


def test_nearly_collinear_columns_are_refused_beyond_a_condition_of_1e12():
    for gap, verified in ((1e-10, True), (1e-13, False)):
        close = np.column_stack([J[:, 0], J[:, 0] + gap * J[:, 1]])
        assert certify(np.zeros(2), np.zeros(3), close, ERRORS, NAMES).verified is verified


def test_a_saddle_is_found():
    found = certify(
        np.zeros(2), np.zeros(3), J, ERRORS, NAMES, hessian=Curvature(np.eye(2), np.diag([1.0, -1e-3]))
    )
    assert not found.verified
    assert found.smallest_curvature < 0
    assert "saddle" in found.reasons[0]


def test_moments_of_a_just_identified_model_must_vanish():
    square = J[:2]
    found = certify(np.zeros(2), np.zeros(2), square, ERRORS, NAMES, efficient_value=1e-3)
    assert not found.verified
    assert "do not vanish" in found.reasons[0]
    assert certify(np.zeros(2), np.zeros(2), square, ERRORS, NAMES, efficient_value=1e-20).verified


def test_tiny_standard_errors_leave_a_floor_of_rounding():
    """An estimate known to more digits than a float has: a step of a few ulp is rounding, not distance."""
    point = np.array([1.0, 2.0])
    tiny = np.full(2, 1e-18)
    few_ulp = 10 * np.spacing(point)
    assert certify(point, _residuals_for(few_ulp), J, tiny, NAMES).verified
    assert not certify(point, _residuals_for(1000 * np.spacing(point)), J, tiny, NAMES).verified


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_never_verified(bad):
    with np.errstate(invalid="ignore"):
        broken = J.copy()
        broken[0, 0] = bad
        assert not certify(np.zeros(2), np.zeros(3), broken, ERRORS, NAMES).verified
    step = _residuals_for([1e-3, 1e-3])
    assert not certify(np.zeros(2), step, J, np.array([0.5, np.nan]), NAMES).verified
    unknown = Curvature(np.eye(2), np.full((2, 2), bad))
    assert not certify(np.zeros(2), np.zeros(3), J, ERRORS, NAMES, hessian=unknown).verified
    assert not certify(np.zeros(2), np.zeros(2), J[:2], ERRORS, NAMES, efficient_value=np.nan).verified
    for unknown in ([bad, bad], [0.0, bad]):
        assert not certify(np.zeros(2), np.zeros(3), J, ERRORS, NAMES, step=np.array(unknown)).verified


def test_a_curvature_that_nobody_looked_at_is_no_number():
    assert np.isnan(certify(np.zeros(2), np.zeros(3), J, ERRORS, NAMES).smallest_curvature)
    root = certify(np.zeros(2), np.zeros(2), J[:2], ERRORS, NAMES, efficient_value=0.0)
    assert root.smallest_curvature == 1.0  # the Hessian is J'J there


def test_curvature_is_the_hessian():
    def gradient(x):
        return np.array([3.0 * x[0] ** 2 + x[1], x[0] + np.sin(x[1])])

    found = curvature(gradient, np.array([1.0, 0.5]), np.array([1e-4, 1e-4]))
    np.testing.assert_allclose(found.matrix, [[6.0, 1.0], [1.0, np.cos(0.5)]], rtol=1e-8)


# --- polish -------------------------------------------------------------------------------------------------


def _quadratic_problem(target):
    def both(z):
        return np.array([z[0] ** 2 - target, z[0] - np.sqrt(target)]), np.array([[2 * z[0]], [1.0]])

    def value(z):
        return float(both(z)[0] @ both(z)[0])

    return Problem(lambda z: both(z)[0], both, value, lambda z: (value(z), 2 * both(z)[1].T @ both(z)[0]))


def test_polish_reaches_the_last_digit_and_stays_there():
    problem, seen = _quadratic_problem(2.0), []

    def both(z):
        seen.append(z[0])
        return problem.residuals_and_jacobian(z)

    watched = replace(problem, residuals_and_jacobian=both)
    point = polish(watched, np.array([1.4]))
    assert abs(point[0] - np.sqrt(2.0)) <= 2 * np.spacing(1.0)
    assert 1 < len(seen) < 10
    seen.clear()
    np.testing.assert_array_equal(polish(watched, point), point)
    assert len(set(seen)) <= 2


def test_polish_never_raises_the_criterion():
    problem = _quadratic_problem(2.0)
    for start in (-3.0, 0.01, 1e-8, 50.0):
        point = polish(problem, np.array([start]))
        assert problem.value(point) <= problem.value(np.array([start]))


def test_polish_steps_back_from_moments_that_are_not_finite():
    def both(z):
        if z[0] > 3:
            raise EstimationError(Complaint("E411", "overflow"))
        return np.array([np.exp(z[0]) - 20.0]), np.array([[np.exp(z[0])]])

    point = polish(Problem(lambda z: both(z)[0], both, None, None), np.array([0.5]))
    assert 0.5 < point[0] <= 3.0


@pytest.mark.parametrize("method", ["lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead"])
def test_optimisers_report_where_they_stopped(method):
    outcome = minimise(_quadratic_problem(2.0), np.array([1.0]), method)
    assert outcome.point[0] == pytest.approx(np.sqrt(2.0), rel=1e-4)
    assert outcome.value == pytest.approx(_quadratic_problem(2.0).value(outcome.point), abs=1e-12)
    assert outcome.iterations > 0
    assert outcome.message


@pytest.mark.parametrize("method", OPTIMIZERS)
def test_a_search_leaves_the_filters_of_warnings_alone(method):
    """They are those of the process, and replications of a bootstrap search in several threads at once."""
    plain, before = _quadratic_problem(2.0), list(warnings.filters)
    kept = []

    def looked(function):
        def call(z):
            kept.append(warnings.filters == before)
            return function(z)

        return call

    functions = (plain.residuals, plain.residuals_and_jacobian, plain.value, plain.value_and_gradient)
    minimise(Problem(*map(looked, functions)), np.array([1.0]), method)
    assert len(kept) > 3
    assert all(kept)


def test_a_gradient_that_stays_draws_no_warning():
    """trust-constr learns nothing from a linear criterion, and scipy would say so."""
    line = Problem(
        lambda z: z, lambda z: (z, np.eye(1)), lambda z: float(z[0]), lambda z: (float(z[0]), np.ones(1))
    )
    assert minimise(line, np.array([1.0]), "trust-constr", 5).point[0] < 1.0


# --- whole fits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lsq", "bfgs", "nelder-mead"])
def test_too_few_iterations_are_not_verified_and_the_first_line_says_so(
    travel_data, greene_overidentified, optimizer
):
    result = GMMEstimator(greene_overidentified, travel_data(), maxiter=1, optimizer=optimizer).fit()
    assert not result.verified
    first = str(result.summary()).splitlines()[0].strip()
    assert first.startswith("NOT VERIFIED: the remaining Newton step is")
    assert "standard errors in" in first
    assert result.as_dict()["verified"] is False
    assert result.as_dict()["certificate"]["reasons"]


def test_a_search_lost_far_away_is_not_verified(travel_data, greene):
    result = GMMEstimator(greene, travel_data()).fit([50, -50, 50, 0.1, 0.1, 0.1])
    assert not result.verified
    assert str(result.summary()).splitlines()[0].strip().startswith("NOT VERIFIED")
    assert result.to_json()  # standard errors that do not exist are null there
    assert result.as_dict()["bse"]["gc"] is None


def _table():
    rng = np.random.default_rng(0)
    y = 3.0 + rng.normal(size=50)
    return Table.from_arrays({"y": y, "x": y + rng.normal(size=50)})


def test_a_parameter_that_enters_nothing_is_not_verified():
    def moments(theta, rows):
        return np.stack([rows["y"] - theta[0], (rows["y"] - theta[0]) ** 2 - 1.0], axis=1)

    result = GMMEstimator(MomentFunction(moments, names=["mu", "idle"]), _table()).fit()
    assert not result.verified
    assert (result.certificate.rank, "rank 1 for 2 parameters" in result.verdict()) == (1, True)
    assert result.bse.isna().all()


def test_parameters_known_only_together_are_not_verified():
    def moments(theta, rows):
        e = rows["y"] - theta[0] - theta[1]
        return np.stack([e, e**2 - 1.0], axis=1)

    result = GMMEstimator(MomentFunction(moments, names=["a", "b"]), _table()).fit()
    assert not result.verified
    assert result.certificate.rank == 1


def _square(theta, rows):
    return np.stack([rows["y"] - theta[0] ** 2, rows["x"] - theta[0] ** 2], axis=1)


def test_curvature_is_looked_at_where_a_standard_error_is_zero():
    """``b^2 + (b^2 - 2)^2`` has a maximum at 0, where its Jacobian has full rank; nothing about b varies."""

    def moments(theta, rows):
        same = 0.0 * rows["y"]
        return np.stack([rows["y"] - theta[0], theta[1] + same, theta[1] ** 2 - 2.0 + same], axis=1)

    model = MomentFunction(moments, names=["a", "b"])
    result = GMMEstimator(model, _table(), steps="onestep", centred=True).fit({"b": 0.0})
    assert result.standard_errors[1] == 0.0
    assert result.certificate.smallest_curvature < 0
    assert "saddle" in result.verdict()


@pytest.mark.parametrize("optimizer", ["lsq", "lbfgsb", "bfgs", "trust-constr"])
def test_a_maximum_at_which_every_derivative_vanishes_is_not_verified(optimizer):
    """g = y - theta^2 is flat at theta = 0, where the criterion has a local maximum."""
    result = GMMEstimator(MomentFunction(_square, names=["root"]), _table(), optimizer=optimizer).fit()
    assert result.theta[0] == 0.0
    assert not result.verified


def test_a_local_minimum_of_a_just_identified_model_is_no_root():
    def moments(theta, rows):
        return (rows["y"] + (theta[0] - 1.0) ** 2)[:, None]

    result = GMMEstimator(MomentFunction(moments, names=["a"]), _table()).fit({"a": 3.0})
    assert not result.verified


def test_a_function_without_a_derivative_at_the_start_is_refused_with_the_place():
    def moments(theta, rows):
        return (rows["y"] - np.sqrt(theta[0]))[:, None]

    model = MomentFunction(moments, names=["a"])
    with pytest.raises(EstimationError, match="derivatives of moments m0 are not finite at a = 0") as refused:
        GMMEstimator(model, _table(), grad="jax").fit()
    assert refused.value.codes == ("E411",)
    assert GMMEstimator(model, _table(), grad="jax").fit({"a": 1.0}).verified


def test_moments_that_are_not_finite_at_the_start_are_refused_with_the_place():
    def moments(theta, rows):
        with np.errstate(divide="ignore"):
            return np.stack([rows["y"] - theta[0], rows["x"] - np.log(theta[0])], axis=1)

    model = MomentFunction(moments, names=["a"], moment_names=["mean", "log"])
    with pytest.raises(EstimationError, match="moments log are not finite at a = 0"):
        GMMEstimator(model, _table(), grad="fd").fit()


def test_a_model_that_fits_without_error_has_no_covariance_and_says_so():
    def moments(theta, rows):
        return (rows["x"] * (rows["y"] - theta[0] * rows["x"]))[:, None]

    table = Table.from_arrays({"x": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0]})
    with pytest.raises(IdentificationError, match="zero for every observation") as refused:
        GMMEstimator(MomentFunction(moments, names=["b"]), table).fit()
    assert refused.value.codes == ("E211",)


def _in_units(unit, columns):
    def moments(theta, rows):
        e = np.exp(rows["y"] - theta[0]) - 1.0
        return unit * np.stack([e, rows["x"] * e][:columns], axis=1)

    return MomentFunction(moments, names=["a"])


@pytest.mark.parametrize("unit", [1e-150, 1e-100, 1e-12, 1e12, 1e100])
def test_units_of_the_moments_that_leave_their_squares_leave_a_root(unit):
    fit, same = (GMMEstimator(_in_units(u, 1), _table()).fit() for u in (1.0, unit))
    assert same.verified
    assert np.all(np.abs(same.theta - fit.theta) <= STEP_LIMIT * fit.standard_errors)
    np.testing.assert_allclose(same.standard_errors, fit.standard_errors, rtol=STEP_LIMIT)


@pytest.mark.parametrize("unit", [1e-160, 1e-200])
def test_moments_whose_squares_are_lost_are_refused_as_that(unit):
    with pytest.raises(IdentificationError, match="zero for every observation, or so small") as refused:
        GMMEstimator(_in_units(unit, 1), _table()).fit()
    assert refused.value.codes == ("E211",)
    assert "multiply them by a constant" in str(refused.value)


def test_a_search_that_ends_early_for_small_moments_says_so():
    fit = GMMEstimator(_in_units(1e-100, 2), _table()).fit({"a": 2.0})
    assert "first step: moments vary by" in fit.verdict()
    with pytest.raises(EstimationError, match=r"moments vary by .* multiply them by a constant"):
        GMMEstimator(_in_units(1e-200, 2), _table()).fit({"a": 2.0})


def test_a_moment_written_twice_is_refused_by_name_where_its_weight_is_needed():
    def moments(theta, rows):
        e = rows["y"] - theta[0]
        return np.stack([e, rows["x"] * e, 2.0 * e], axis=1)

    model = MomentFunction(moments, names=["mu"], moment_names=["one", "x", "twice"])
    with pytest.raises(IdentificationError, match="rank 2 of 3") as refused:
        GMMEstimator(model, _table()).fit()
    assert refused.value.codes == ("E211",)
    assert "one" in str(refused.value) or "twice" in str(refused.value)
    assert GMMEstimator(model, _table(), steps="onestep").fit().verified  # as the message advises


def test_a_first_step_that_got_lost_is_named_and_not_the_moments():
    """Far away the contributions are all alike and their covariance looks singular; the search is to blame."""

    def moments(theta, rows):
        return np.stack([rows["y"] - np.exp(theta[0]), rows["x"] - 3 * np.exp(theta[0])], axis=1)

    estimator = GMMEstimator(
        MomentFunction(moments, names=["a"]), _table(), maxiter=1, optimizer="nelder-mead"
    )
    with pytest.raises(EstimationError, match="the first step found no minimum") as refused:
        estimator.fit({"a": 200.0})
    assert refused.value.codes == ("E401",)
    assert estimator.fit().verified


# --- derivatives against what the moments do ----------------------------------------------------------------


def _said(function, slope, room=np.inf):
    """What is said against a function of one number that is zero at zero, where its derivative is held to be this."""
    return contradiction(
        function, np.zeros(1), np.zeros(1), np.array([[slope]]), np.full(1, room, dtype=np.float64)
    )


@pytest.mark.parametrize("error", [1.0, 2.0, 3.0])
def test_moments_that_bend_are_let_pass_while_a_standard_error_means_something(error):
    """One standard error multiplies what is estimated by e^3, or ends at a third of the way to a pole."""
    for bent in (
        lambda z: np.expm1(error * z),
        lambda z: np.sinh(error * z),
        lambda z: 1.0 / (1.0 - error * z) - 1.0,
    ):
        assert _said(bent, error) == ""


@pytest.mark.parametrize("unit", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("factor", [-1.0, 0.5, 0.98, 1.02, 2.0])
def test_a_derivative_that_is_wrong_by_two_percent_is_found_in_any_unit(factor, unit):
    assert "where their derivative says 0.05" in _said(lambda z: z / unit, factor / unit)
    assert _said(lambda z: z / unit, 1.0 / unit) == ""


def test_one_wrong_column_of_twenty_is_found():
    rng = np.random.default_rng(1)
    right = rng.normal(size=(30, 20)) @ np.diag(10.0 ** rng.uniform(-9, 9, 20))
    free = np.full(20, np.inf)
    for j in range(20):
        wrong = right.copy()
        wrong[:, j] *= 2.0
        point = np.zeros(20)
        assert contradiction(lambda z: right @ z, point, np.zeros(30), wrong, free)
    assert contradiction(lambda z: right @ z, point, np.zeros(30), right, free) == ""


def test_the_search_for_contradictions_keeps_to_bounds():
    seen = []

    def linear(z):
        seen.append(z[0])
        return z

    assert _said(linear, 1.0, room=0.01) == ""
    assert np.max(np.abs(seen)) <= 0.01
    assert "apart" in _said(linear, 2.0, room=0.01)
    assert _said(lambda z: z + 1e-13 * np.sign(z), 1.0, room=1e-13) == ""  # rounding, not a jump


def test_rounding_is_no_contradiction():
    """A parameter known to the last digits of a float: steps are a few roundings, and differences all rounding."""
    point = np.array([1.0 + 2**-30])
    for error in (1e-12, 1e-14, 1e-16):
        value = (point**2 - 1.0) / error
        found = contradiction(
            lambda z, e=error: (z**2 - 1.0) / e, point, value, np.array([2.0 / error]) * point[:, None], point
        )
        assert found == ""


def _with_wrong_slope(factor, moments, slope):
    def jacobian(theta, rows):
        return factor * slope(theta, rows)

    return MomentFunction(with_derivative(moments, jacobian=jacobian), names=["mu"])


@pytest.mark.parametrize("steps", ["onestep", "twostep", "iterated"])
@pytest.mark.parametrize("columns", [["y"], ["y", "x"]])
def test_a_derivative_by_hand_that_is_wrong_by_a_factor_is_not_verified(columns, steps):
    """It finds the right estimate, and wrong standard errors: the minimum is that of the right one."""

    def moments(theta, rows):
        return np.stack([rows[name] - theta[0] for name in columns], axis=1)

    def slope(theta, rows):
        return np.full((50, len(columns), 1), -1.0)

    for factor, verified in ((1.0, True), (2.0, False), (0.9, False)):
        model = _with_wrong_slope(factor, moments, slope)
        fit = GMMEstimator(model, _table(), steps=steps).fit()
        assert fit.verified is verified, (factor, fit.verdict())
        assert verified or "where their derivative says" in fit.verdict()


@pytest.mark.parametrize("n", [50, 500, 5000])
@pytest.mark.parametrize("seed", range(4))
def test_moments_that_jump_are_not_verified(n, seed):
    """The derivative of ``y - t + 2 sign(y - t)`` is -1 where it exists, and that of its mean ``-1 - 4 f(t)``."""
    table = Table.from_arrays({"y": np.random.default_rng(seed).normal(size=n)})

    def moments(theta, rows):
        return ((rows["y"] - theta[0]) + 2.0 * np.where(rows["y"] > theta[0], 1.0, -1.0))[:, None]

    assert not GMMEstimator(MomentFunction(moments, names=["m"]), table).fit().verified


@pytest.mark.parametrize(
    "vanishing",
    [lambda t: np.exp(-t), lambda t: 1.0 / (1.0 + t**2), lambda t: (t - 1.0) ** 2],
    ids=["infinity", "infinity, by powers", "double root"],
)
def test_roots_that_no_standard_error_reaches_are_not_verified(vanishing):
    y = np.random.default_rng(2).normal(size=500)
    table = Table.from_arrays({"y": y - y.mean()})
    model = MomentFunction(lambda theta, rows: (rows["y"] + vanishing(theta[0]))[:, None], names=["t"])
    for start in (0.0, 0.5):
        assert not GMMEstimator(model, table).fit({"t": start}).verified


def test_a_just_identified_fit_pays_two_passes_for_it(monkeypatch):
    def moments(theta, rows):
        return (np.exp(rows["y"] - theta[0]) - 1.0)[:, None]

    model = MomentFunction(moments, names=["t"])
    seen = GMMEstimator(model, _table()).fit()
    monkeypatch.setattr("gmmest.gmm.steps.contradiction", lambda *_: "")
    assert seen.verified
    assert seen.work.evaluations == GMMEstimator(model, _table()).fit().work.evaluations + 2


def test_data_without_error_have_no_verified_estimate():
    """No moment varies at the estimate but by rounding: there is nothing to measure a step in."""
    x = np.random.default_rng(0).normal(size=50)
    table = Table.from_arrays({"y": -x, "x": x, "x2": x**2})
    model = LinearIV("y", exogenous=["x"], instruments=["x2"])
    fit = GMMEstimator(model, table, steps="onestep").fit()
    assert np.allclose(fit.theta, [-1.0, 0.0], atol=1e-14)
    assert not fit.verified
    for steps in ("twostep", "cue"):
        with pytest.raises(EstimationError, match="E401 the first step found no minimum"):
            GMMEstimator(model, table, steps=steps).fit()
