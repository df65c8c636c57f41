"""The Jacobian of the moments: right entry by entry, and made by the backend that was asked for.

A wrong Jacobian can still lead to the right estimate, so estimates prove nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmmest.data.choice_data import ChoiceData
from gmmest.data.table import Table
from gmmest.derivatives.backends import ForwardDual, as_backend
from gmmest.errors import GmmestError
from gmmest.gmm.compare import compare
from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.moments import Moments
from gmmest.models.logit import Logit
from gmmest.models.moment_function import MomentFunction

ENTRY_RTOL = 1e-12  # of the largest entry of its column: what the issue asks of exact backends
EXACT = ("analytic", "forward", "jax", "jax-forward")
WITHOUT_COMPILING = ("analytic", "forward")  # JAX compiles for each shape: fixed shapes, drawn numbers


def _jacobian(model, data, grad, theta):
    return Moments(model, model.sample(data), grad).value_and_jacobian(theta)[1]


def _vjp(model, data, grad, theta, v):
    return Moments(model, model.sample(data), grad).value_and_vjp(theta)[1](v)


def _assert_columns(found, exact, rtol=ENTRY_RTOL):
    scale = np.max(np.abs(exact), axis=0)
    assert np.all(scale > 0)
    np.testing.assert_array_less(np.abs(found - exact) / scale, rtol)


def _drawn(sizes, seed, door, spread=1.0):
    """Ragged data: ``door`` is Z = X, Z != X, or moment differences."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n = offsets[-1]
    X = rng.normal(size=(n, 2)) * spread
    chosen = np.zeros(n)
    chosen[offsets[:-1] + rng.integers(0, np.asarray(sizes))] = 1.0
    if door == "Z is X":
        return ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets)
    Z = np.column_stack([X[:, ::-1] ** 2, rng.normal(size=n)])
    if door == "Z is not X":
        return ChoiceData.from_arrays(features=X, instruments=Z, chosen=chosen, offsets=offsets)
    D = Z - np.repeat(Z[chosen > 0], np.asarray(sizes), axis=0)
    return ChoiceData.from_arrays(features=X, moment_differences=D, offsets=offsets)


doors = pytest.mark.parametrize("door", ["Z is X", "Z is not X", "differences"])
ragged = st.lists(st.integers(2, 6), min_size=4, max_size=12)
coefficients = st.tuples(*[st.floats(-3, 3, allow_subnormal=False)] * 2).map(np.array)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@doors
@quick
@given(sizes=ragged, theta=coefficients, seed=st.integers(0, 2**32 - 1))
def test_jacobians_on_ragged_data_are_those_of_complex_steps(door, sizes, theta, seed):
    data = _drawn(sizes, seed, door)
    exact = _jacobian(Logit(), data, "complex", theta)
    v = np.linspace(-1.0, 2.0, exact.shape[0])
    for grad in WITHOUT_COMPILING:
        _assert_columns(_jacobian(Logit(), data, grad, theta), exact)
        pulled = _vjp(Logit(), data, grad, theta, v)
        assert np.all(np.abs(pulled - v @ exact) <= ENTRY_RTOL * (np.abs(v) @ np.abs(exact)))


@doors
@pytest.mark.parametrize("grad", EXACT)
def test_every_exact_backend_on_one_ragged_shape(door, grad):
    data = _drawn([2, 5, 3, 3, 7, 2, 4, 6], 12, door)
    moments, exactly = (Moments(Logit(), Logit().sample(data), name) for name in (grad, "complex"))
    for theta in (np.zeros(2), np.array([1.0, -2.0]), np.array([-7.0, 5.0])):
        exact = exactly.value_and_jacobian(theta)[1]
        _assert_columns(moments.value_and_jacobian(theta)[1], exact)
        v = np.linspace(-1.0, 2.0, exact.shape[0])
        pulled = moments.value_and_vjp(theta)[1](v)
        assert np.all(np.abs(pulled - v @ exact) <= ENTRY_RTOL * (np.abs(v) @ np.abs(exact)))


@pytest.mark.parametrize("grad", EXACT)
@pytest.mark.parametrize("overidentified", [False, True])
def test_travel_mode_at_start_and_estimate(travel_data, greene, greene_overidentified, grad, overidentified):
    model = greene_overidentified if overidentified else greene
    estimate = GMMEstimator(model, travel_data()).fit().theta
    sample = model.sample(travel_data())
    moments, exactly = (Moments(model, sample, name) for name in (grad, "complex"))
    for theta in (np.zeros(6), estimate):
        _assert_columns(moments.value_and_jacobian(theta)[1], exactly.value_and_jacobian(theta)[1])


@pytest.mark.parametrize(("grad", "rtol"), [("fd", 1e-6), ("fd-central", 1e-9)])
@pytest.mark.parametrize("factor", [1.0, 1e6, 1e-6])
def test_differences_have_the_digits_of_their_steps_in_any_unit(travel_data, greene, grad, rtol, factor):
    data = travel_data(gc=factor, ttme=1.0 / factor)
    unit = np.array([1.0, 1.0, 1.0, factor, 1.0 / factor, 1.0])
    theta = np.array([5.2, 3.9, 3.2, -0.0155, -0.0961, 0.0133]) / unit
    exact = _jacobian(greene, data, "complex", theta)
    _assert_columns(_jacobian(greene, data, grad, theta), exact, rtol)


@pytest.mark.parametrize("chunk", [1, 2, 4, 6])
def test_the_chunk_of_partials_changes_nothing_but_rounding(travel_data, greene, chunk):
    theta = np.array([1.0, 0.5, 0.2, -0.01, -0.05, 0.01])
    exact = _jacobian(greene, travel_data(), "complex", theta)
    _assert_columns(_jacobian(greene, travel_data(), ForwardDual(chunk=chunk), theta), exact)


# --- the backend that was asked for is the one at work -------------------------------------------------------


@dataclass
class Watched:
    """A backend of one's own: another one, counted, and wrong by a factor if it is told to be."""

    inner: str = "forward"
    lie: float = 0.0
    calls: list[str] = field(default_factory=list)
    name: ClassVar[str] = "watched"
    exact: ClassVar[bool] = True
    whole: ClassVar[bool] = False

    def prepare(self, function):
        return _WatchedFunction(self, as_backend(self.inner).prepare(function))


@dataclass
class _WatchedFunction:
    watch: Watched
    prepared: object
    name: ClassVar[str] = "watched"

    def value_and_jacobian(self, x, *constants):
        self.watch.calls.append("jacobian")
        value, jacobian = self.prepared.value_and_jacobian(x, *constants)
        jacobian = np.array(jacobian)
        jacobian[0, 0] *= 1.0 + self.watch.lie
        return value, jacobian

    def value_and_vjp(self, x, *constants):
        self.watch.calls.append("vjp")
        return self.prepared.value_and_vjp(x, *constants)


@pytest.mark.parametrize("optimizer", ["lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead"])
def test_derivatives_come_from_the_backend_that_was_given(travel_data, greene, optimizer):
    watch = Watched()
    result = GMMEstimator(greene, travel_data(), grad=watch, optimizer=optimizer).fit()
    assert result.settings.grad == "watched"
    assert "watched" in str(result.summary())
    assert watch.calls.count("jacobian") >= 2  # polish and certificate, at the least
    by_vjp = optimizer in ("lbfgsb", "bfgs", "trust-constr")
    assert (watch.calls.count("vjp") > 5) == by_vjp


def test_a_hand_written_derivative_takes_no_part_where_another_backend_was_asked_for(
    travel_data, greene, monkeypatch
):
    def never(*_):
        raise AssertionError("the hand-written derivative was used")

    monkeypatch.setattr(Logit, "moment_sum_and_jacobian", never)
    monkeypatch.setattr(Logit, "moment_sum_and_vjp", never)
    for grad in ("forward", "jax", "jax-forward", "complex", "fd", "fd-central"):
        assert GMMEstimator(greene, travel_data(), grad=grad).fit().settings.grad == grad
    with pytest.raises(AssertionError, match="hand-written"):
        GMMEstimator(greene, travel_data(), grad="analytic").fit()


def test_a_jacobian_wrong_by_a_thousandth_finds_the_estimate_and_fails_the_comparison(travel_data, greene):
    honest = GMMEstimator(greene, travel_data()).fit()
    liar = Watched(lie=1e-3)
    found = GMMEstimator(greene, travel_data(), grad=liar).fit()
    np.testing.assert_allclose(found.theta, honest.theta, rtol=1e-9)  # which is why estimates prove nothing
    exact = _jacobian(greene, travel_data(), "complex", honest.theta)
    with pytest.raises(AssertionError):
        _assert_columns(_jacobian(greene, travel_data(), liar, honest.theta), exact)


def test_compare_names_a_hand_written_jacobian_that_is_wrong(travel_data, greene, monkeypatch):
    right = Logit.moment_sum_and_jacobian

    def wrong(self, theta, block):
        value, jacobian = right(self, theta, block)
        jacobian = jacobian.copy()
        jacobian[0, 0] *= 1.001
        return value, jacobian

    clean = compare(GMMEstimator(greene, travel_data()), ["analytic", "forward", "fd"], rounds=1)
    assert clean.complaints == ()
    monkeypatch.setattr(Logit, "moment_sum_and_jacobian", wrong)
    caught = compare(GMMEstimator(greene, travel_data()), ["analytic", "forward"], rounds=1)
    assert len(caught.complaints) == 2  # at the start and at the estimate
    for complaint, point in zip(caught.complaints, ("start", "estimate"), strict=True):
        assert complaint.startswith(f"differs from 'complex': analytic at the {point}")
        assert "moment asc_air, parameter asc_air" in complaint


def test_auto_is_hand_written_where_there_is_one_and_dual_numbers_elsewhere(travel_data, greene):
    table = Table.from_arrays({"y": [1.0, 2.0, 4.0]})
    own = MomentFunction(lambda theta, rows: (rows["y"] - theta[0])[:, None], names=["mu"])
    assert GMMEstimator(greene, travel_data()).fit().settings.grad == "analytic"
    assert GMMEstimator(own, table).fit().settings.grad == "forward"
    with pytest.raises(GmmestError, match="no derivative written by hand"):
        GMMEstimator(own, table, grad="analytic").fit()


# --- differences are doubted -----------------------------------------------------------------------------


@pytest.mark.parametrize("grad", ["fd", "fd-central"])
def test_standard_errors_by_differences_in_hopeless_units_are_not_verified(grad):
    """A column in units of 1e-5 makes the default step a tenth of what the exponential can take."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=400)
    y = rng.poisson(np.exp(0.3 + 0.5 * x)).astype(float)

    def moments(theta, rows):
        surprise = rows["y"] - np.exp(theta[0] + rows["x"] * theta[1])
        return np.stack([surprise, surprise * rows["x"]], axis=1)

    model = MomentFunction(moments, names=["const", "slope"])
    plain = Table.from_arrays({"y": y, "x": x})
    large = Table.from_arrays({"y": y, "x": x * 1e6})
    assert GMMEstimator(model, plain, grad=grad).fit().verified
    exact = GMMEstimator(model, plain, grad="forward").fit()
    found = GMMEstimator(model, large, grad=grad, steps="onestep", initial="identity").fit()
    gap = np.abs(found.standard_errors * [1.0, 1e6] / exact.standard_errors - 1.0)
    assert np.max(gap) > 1e-3, "the premise: the standard errors are wrong"
    assert not found.verified
    assert any("differences with shorter steps" in reason for reason in found.certificate.reasons)
