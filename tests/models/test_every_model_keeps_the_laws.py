"""gmmest.testing.check_model on each model of ours: sums, partitions, and derivatives of every engine."""

from __future__ import annotations

import numpy as np
import pytest

import gmmest as gm
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


def test_a_model_that_breaks_a_law_is_found():
    class Wrong:
        def __init__(self) -> None:
            self.right = gm.LinearIV("y", endogenous=["x"], instruments=["z", "w"])

        def sample(self, data):
            return self.right.sample(data)

        def contributions(self, theta, block):
            return self.right.contributions(theta, block)

        def moment_sum(self, theta, block):
            return 1.001 * self.right.moment_sum(theta, block)

    with pytest.raises(AssertionError):
        check_model(Wrong(), table(), np.array([0.4, 1.0]))
