"""gmmest.testing.check_model on each model of ours: sums, partitions, and derivatives of every engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import gmmest as gm
from gmmest.models.sample import MomentSums
from gmmest.simulate import simulate_logit
from gmmest.testing import check_model

ENGINES = ("analytic", "forward", "jax", "jax-forward", "complex", "fd-central")


def table() -> gm.Table:
    rng = np.random.default_rng(2)
    z, w = rng.normal(size=(2, 400))
    x = 0.7 * z + 0.2 * w + rng.normal(size=400)
    y = np.round(np.exp(0.3 + 0.2 * x + 0.3 * rng.normal(size=400)), 3)
    return gm.Table.from_arrays({"y": y, "x": x, "z": z, "w": w})


@pytest.mark.parametrize(
    ("model", "theta"),
    [
        (gm.LinearIV("y", endogenous=["x"], instruments=["z", "w"]), [0.4, 1.0]),
        (gm.ExponentialIV("y", endogenous=["x"], instruments=["z", "w"]), [0.2, 0.3]),
        (
            gm.ExponentialIV("y", endogenous=["x"], instruments=["z", "w"], errors="multiplicative"),
            [0.2, 0.3],
        ),
    ],
    ids=["linear", "exponential, additive", "exponential, multiplicative"],
)
def test_regressions(model, theta):
    check_model(model, table(), np.array(theta), backends=ENGINES)


@pytest.mark.parametrize("ragged", [(3, 3), (2, 7)], ids=["balanced", "ragged"])
def test_logit_by_moment_differences(ragged):
    drawn = simulate_logit(sets=300, alternatives=ragged, features=3, moments=5, seed=1)
    check_model(gm.Logit(), drawn.data, 0.8 * drawn.theta, backends=ENGINES)


def test_logit_of_choices(travel_data, greene):
    theta = np.array([1.0, 0.5, 0.4, -0.01, -0.03, 0.01])
    check_model(greene, travel_data(), theta, backends=ENGINES)


def test_a_moment_function():
    def moments(theta, rows):
        e = rows["y"] - np.exp(theta[0] + theta[1] * rows["x"])
        return np.stack([e, e * rows["z"], e * rows["w"]], axis=1)

    model = gm.MomentFunction(moments, names=["a", "b"])
    check_model(model, table(), np.array([0.3, 0.2]), backends=ENGINES[1:])


class Right:
    """A regression, to be broken in one place."""

    def __init__(self) -> None:
        self.right = gm.LinearIV("y", endogenous=["x"], instruments=["z", "w"])

    def sample(self, data):
        return self.right.sample(data)

    def contributions(self, theta, block):
        return self.right.contributions(theta, block)


class WrongSum(Right):
    def moment_sum(self, theta, block):
        return 1.001 * self.right.moment_sum(theta, block)


class WrongPullback(Right):
    def moment_sum_and_vjp(self, theta, block):
        value, pull = self.right.moment_sum_and_vjp(theta, block)
        return value, lambda v: 1.001 * pull(v)


class WrongSquares(Right):
    def moment_sums(self, theta, block):
        value, jacobian = self.right.moment_sum_and_jacobian(theta, block)
        rows = self.right.contributions(theta, block)
        return MomentSums(len(rows), value, jacobian, 1.001 * rows.T @ rows)


class WrongSlopes(WrongSquares):
    def moment_sums(self, theta, block):
        value, jacobian = self.right.moment_sum_and_jacobian(theta, block)
        rows = self.right.contributions(theta, block)
        return MomentSums(len(rows), value, 1.001 * jacobian, rows.T @ rows)


class WrongNames(Right):
    def sample(self, data, restriction=None):
        sample = self.right.sample(data)
        return sample if restriction is None else replace(sample, moment_names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (WrongSum, "moment_sum and the sum of contributions"),
        (WrongPullback, "moment_sum_and_vjp and v'J"),
        (WrongSquares, "moment_sums and the squares"),
        (WrongSlopes, "Jacobian of moment_sums"),
        (WrongNames, "sample with restriction="),
    ],
)
def test_a_model_that_breaks_a_law_is_found(model, said):
    check_model(Right(), table(), np.array([0.4, 1.0]))
    with pytest.raises(AssertionError, match=said):
        check_model(model(), table(), np.array([0.4, 1.0]))


def test_parameters_come_first():
    class Swapped(Right):
        def loglike(self, block, theta):
            return float(np.sum(self.right.contributions(theta, block)))

    with pytest.raises(AttributeError):
        check_model(Swapped(), table(), np.array([0.4, 1.0]))
