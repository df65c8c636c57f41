"""Laws of NonlinearLeastSquares: what must not matter, what must be told, what is refused."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import gmmest as gm
from gmmest.gmm.certificate import certify, curvature, lowest, whitened_directions
from gmmest.gmm.optimize import Problem, minimise, scattered

Array = NDArray[np.float64]

ROUNDING = 1e-12
"""Between two ways to the same numbers that differ by rounding alone, at conditions below 1e2."""
CONVERGED = 1e-9
"""Between estimates found on different paths, with steps below 1e-8 standard errors remaining."""


@pytest.fixture(scope="module")
def table() -> gm.Table:
    """A decaying exponential with noise; the decay is far from zero in standard errors."""
    draw = np.random.default_rng(1)
    x = np.linspace(0.0, 4.0, 60)
    return gm.Table.from_arrays({"x": x, "y": 3.0 * np.exp(-0.7 * x) + 0.1 * draw.standard_normal(60)})


def decay(theta: Any, rows: Any) -> Any:
    return rows["y"] - theta[0] * np.exp(-theta[1] * rows["x"])


def model() -> gm.NonlinearLeastSquares:
    return gm.NonlinearLeastSquares(decay, names=["level", "rate"], start={"level": 1.0, "rate": 1.0})


def test_a_linear_model_is_ordinary_least_squares() -> None:
    """Estimates, standard errors, t and p as statsmodels' OLS gives them."""
    from statsmodels.regression.linear_model import OLS

    draw = np.random.default_rng(2)
    X = np.column_stack([np.ones(40), draw.standard_normal((40, 2))])
    y = X @ [1.0, 2.0, 0.1] + draw.standard_normal(40)
    expected = OLS(y, X).fit()
    linear = gm.NonlinearLeastSquares(lambda b, rows: rows["y"] - rows["X"] @ b, names=["a", "b", "c"])
    result = linear.fit(gm.Table.from_arrays({"y": y, "X": X}))
    assert result.verified
    assert abs(result.certificate.smallest_curvature - 1.0) < CONVERGED  # a quadratic criterion
    np.testing.assert_allclose(result.params, expected.params, rtol=ROUNDING)
    np.testing.assert_allclose(result.bse, expected.bse, rtol=ROUNDING)
    np.testing.assert_allclose(result.tvalues, expected.tvalues, rtol=ROUNDING)
    np.testing.assert_allclose(result.pvalues, expected.pvalues, rtol=1e-10)  # tails amplify rounding of t
    np.testing.assert_allclose(result.cov_params(), expected.cov_params(), rtol=1e-11, atol=1e-17)
    np.testing.assert_allclose(result.conf_int(), expected.conf_int(), rtol=1e-11)
    assert abs(result.rss / expected.ssr - 1.0) < ROUNDING
    assert (result.nobs, result.df_resid) == (40, 37)


def test_units_do_not_matter(table: gm.Table) -> None:
    """Residuals times c leave everything; a parameter in other units has its estimate and error in them."""
    here = model().fit(table)
    scaled = gm.NonlinearLeastSquares(lambda b, rows: 1e9 * decay(b, rows), ["level", "rate"], [1.0, 1.0])
    there = scaled.fit(table)
    np.testing.assert_allclose(there.theta, here.theta, rtol=CONVERGED)
    np.testing.assert_allclose(there.standard_errors, here.standard_errors, rtol=CONVERGED)
    assert abs(there.residual_sd / here.residual_sd / 1e9 - 1.0) < CONVERGED
    unit = np.array([1e-7, 1e5])
    other = gm.NonlinearLeastSquares(lambda b, rows: decay(b * unit, rows), ["level", "rate"], 1.0 / unit)
    found = other.fit(table)
    assert here.verified
    assert there.verified
    assert found.verified
    np.testing.assert_allclose(found.theta * unit, here.theta, rtol=CONVERGED)
    np.testing.assert_allclose(found.standard_errors * unit, here.standard_errors, rtol=CONVERGED)


def test_frames_and_starts_by_name(table: gm.Table) -> None:
    frame = pd.DataFrame(dict(table.columns))
    here = model().fit(table)
    assert np.array_equal(model().fit(frame, start={"rate": 1.0}).theta, here.theta)
    assert np.array_equal(model().fit(table, start=[1.0, 1.0]).theta, here.theta)
    assert here.params.index.tolist() == ["level", "rate"]


def test_a_result_is_immutable(table: gm.Table) -> None:
    result = model().fit(table)
    with pytest.raises(FrozenInstanceError):
        result.theta = np.zeros(2)  # type: ignore[misc]
    for array in (result.theta, result.v, result.residuals):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    taken = result.params
    taken["level"] = 0.0
    assert result.theta[0] != 0.0


def test_the_summary_begins_with_the_verdict(table: gm.Table) -> None:
    result = model().fit(table)
    text = result.summary().as_text()
    assert result.verdict().startswith("verified: remaining Newton step")
    assert result.verdict() in text.splitlines()[0]
    for part in ("nonlinear least squares", "level", "rate", "P>|t|", "58 df"):
        assert part in text
    assert str(result) == text


def test_an_exact_fit_is_verified() -> None:
    """Residuals of rounding alone have no scale; the estimate is right to rounding and is believed."""
    x = np.linspace(0.0, 4.0, 30)
    exact = gm.Table.from_arrays({"x": x, "y": 3.0 * np.exp(-0.7 * x)})
    result = model().fit(exact)
    np.testing.assert_allclose(result.theta, [3.0, 0.7], rtol=ROUNDING)
    assert result.verified, result.verdict()


def test_a_parameter_without_effect_is_told(table: gm.Table) -> None:
    idle = gm.NonlinearLeastSquares(
        lambda b, rows: decay(b, rows), ["level", "rate", "idle"], [1.0, 1.0, 1.0]
    )
    result = idle.fit(table)
    assert not result.verified
    assert "rank 2 for 3 parameters" in result.verdict()
    assert np.all(np.isnan(result.standard_errors))


def test_a_saddle_is_told() -> None:
    """f = b^2 x at b = 0 is a stationary point, and the derivative of the residuals vanishes there."""
    x = np.linspace(1.0, 2.0, 20)
    square = gm.NonlinearLeastSquares(lambda b, rows: rows["y"] - b[0] ** 2 * rows["x"], ["b"], [0.0])
    result = square.fit(gm.Table.from_arrays({"x": x, "y": 2.0 * x + 0.1 * np.sin(9.0 * x)}))
    assert not result.verified


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "newton"}, "optimizer"),
        ({"grad": "magic"}, "grad"),
        ({"maxiter": 0}, "maxiter"),
        ({"starts": 0}, "starts"),
        ({"starts": True}, "starts"),
        ({"seed": -1}, "seed"),
        ({"start": {"slope": 1.0}}, "slope"),
        ({"start": [1.0]}, "start"),
        ({"starts": [[1.0, 2.0, 3.0]]}, "start"),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str, table: gm.Table) -> None:
    with pytest.raises(gm.ConfigError, match=said) as caught:
        model().fit(table, **options)
    assert caught.value.codes == ("E102",)


def test_all_complaints_come_together(table: gm.Table) -> None:
    with pytest.raises(gm.ConfigError) as caught:
        model().fit(table, grad="magic", optimizer="newton", maxiter=0, starts=-1)
    assert len(caught.value.complaints) == 4


def test_names_are_checked() -> None:
    for names in ([], ["a", "a"]):
        with pytest.raises(gm.ConfigError, match="names"):
            gm.NonlinearLeastSquares(decay, names)


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (lambda b, rows: (rows["y"] - b[0])[:, None], "E410"),
        (lambda b, rows: np.sum(rows["y"] - b[0] * b[1]), "E410"),
        (lambda b, rows: rows["y"] - np.log(b[0] - 5.0) * b[1], "E411"),
    ],
)
def test_residuals_are_checked(function: Callable[..., Any], code: str, table: gm.Table) -> None:
    with pytest.raises(gm.EstimationError) as caught:
        gm.NonlinearLeastSquares(function, ["a", "b"], [1.0, 1.0]).fit(table)
    assert caught.value.codes == (code,)


def test_as_many_rows_as_parameters_are_refused(table: gm.Table) -> None:
    few = gm.Table.from_arrays({"x": [1.0, 2.0], "y": [1.0, 0.5]})
    with pytest.raises(gm.IdentificationError) as caught:
        model().fit(few)
    assert caught.value.codes == ("E212",)


def test_starts_that_are_not_finite_are_counted(table: gm.Table) -> None:
    """Only the given start must be usable."""
    result = model().fit(table, starts=[{"rate": -1e6}])
    assert result.verified
    assert "of 2 starts 1 ended at the lowest" in result.verdict()
    assert "1 at no minimum" in result.verdict()
    with pytest.raises(gm.EstimationError):
        model().fit(table, start={"rate": -1e6})


# --- the pieces ---------------------------------------------------------------------------------------------


def test_least_squares_survives_derivatives_that_are_not_finite() -> None:
    """At the edge of a root's range residuals are finite and their derivatives are not."""

    def residuals(z: Array) -> Array:
        return np.array([z[0] - 2.0, 1.0])

    def both(z: Array) -> tuple[Array, Array]:
        if z[0] > 1.5:
            raise gm.EstimationError(gm.Complaint("E411", "derivatives are not finite"))
        return residuals(z), np.array([[1.0], [0.0]])

    def value(z: Array) -> float:
        return float(residuals(z) @ residuals(z))

    def gradient(z: Array) -> tuple[float, Array]:
        r, jacobian = both(z)
        return float(r @ r), 2.0 * jacobian.T @ r

    problem = Problem(residuals, both, value, gradient)
    outcome = minimise(problem, np.array([1.0]), "lsq")
    assert outcome.point[0] <= 1.5
    assert outcome.value == value(outcome.point)
    with pytest.raises(gm.EstimationError):
        minimise(problem, np.array([1.6]), "lsq")


def test_curvature_along_directions_is_the_hessian() -> None:
    """A quadratic's gradient is linear and its differences exact; every basis of steps gives one Hessian."""
    draw = np.random.default_rng(3)
    J = draw.standard_normal((9, 4))
    A = J.T @ J
    basis = whitened_directions(J)
    np.testing.assert_allclose(basis @ basis.T, np.linalg.inv(A), rtol=1e-10)
    np.testing.assert_allclose(J @ basis @ (J @ basis).T @ J, J, atol=1e-12)  # J basis is orthonormal
    for steps in (np.full(4, 1e-3), 1e-3 * basis):
        np.testing.assert_allclose(
            curvature(lambda z: A @ z, np.ones(4), steps).matrix, A, rtol=1e-9, atol=1e-9
        )


def test_curvature_needs_joint_steps_where_estimates_are_correlated() -> None:
    """A valley along z1 = z2 that bends: one parameter moved by a part of its standard error leaves it."""
    tight = 1e-4

    def gradient(z: Array) -> Array:
        # half of ((z1 - z2)^2 / tight^2 + z1^2), and a wall that is felt outside the valley only
        gap = (z[0] - z[1]) / tight
        slope = (gap - 1e-4 * gap**3) / tight
        return np.array([slope + z[0], -slope])

    J = np.array([[1.0 / tight, -1.0 / tight], [1.0, 0.0]])
    basis = whitened_directions(J)
    errors = np.sqrt(np.sum(basis**2, axis=1))
    alone = curvature(gradient, np.zeros(2), 0.05 * errors)
    joint = curvature(gradient, np.zeros(2), 0.05 * basis)
    r, names = np.zeros(2), ("a", "b")
    assert not certify(np.zeros(2), r, J, errors, names, alone).verified
    assert certify(np.zeros(2), r, J, errors, names, joint).verified


def test_the_floor_of_rounding_hides_no_digit_of_eight() -> None:
    """A step of 1e-7 of a parameter is never called rounding, however badly conditioned the Jacobian is."""
    J = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-9], [1.0, 1.0 - 1e-9]])
    point = np.array([1.0, 1.0])
    tiny = np.full(2, 1e-20)
    assert not certify(point, J @ (1e-7 * point), J, tiny, ("a", "b")).verified
    assert certify(point, np.zeros(3), J, tiny, ("a", "b")).verified


def test_scattered_starts_go_near_and_to_the_other_side_of_zero_and_repeat() -> None:
    start, unit = np.array([4.0, -1e-6, 0.0]), np.array([1.0, 1e-9, 8.0])
    points = np.array(scattered(start, unit, 52, seed=7))
    assert np.array_equal(points, scattered(start, unit, 52, seed=7))
    near, away = (points[np.arange(52) // 2 % 2 == half] for half in (0, 1))
    assert np.all((near[:, :2] / start[:2] >= 0.5) & (near[:, :2] / start[:2] <= 2.0))
    assert np.all(np.abs(near[:, 2]) <= 8.0)
    assert np.allclose(away[::2] + away[1::2], 2.0 * start, rtol=1e-12)
    assert np.all(np.min(away.reshape(-1, 2, 3)[:, :, :2] / start[:2], axis=1) <= 0.0)
    assert np.all((np.abs(away[:, 2]) >= 32.0) & (np.abs(away[:, 2]) <= 64.0))


def test_lowest_prefers_a_verified_one_among_equals() -> None:
    index, note = lowest(np.array([2.0, 1.0, 1.0 + 1e-9, np.inf]), [True, False, True, False], "criterion")
    assert index == 2
    assert note.startswith("W403 several minima: of 4 starts 2 ended at the lowest criterion found, 1,")
    assert "1 at no minimum" in note
    assert "a better one exists" in note
