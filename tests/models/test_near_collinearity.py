"""Columns that nearly repeat each other: exact and 1e-13 refused with the gap, 1e-9 estimated, and right.

The reference is the same model with the near column replaced by the difference itself, drawn first: of
``d = 2a - 3b + gap e`` the coefficient is that of e over gap, and those of a and b move with it.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

import gmmest as gm
from gmmest.gmm.certificate import curvature, smallest_curvature, whitened_directions
from gmmest.models.identification import check_regression
from gmmest.models.recombination import recombination

GAPS = [1e-5, 1e-7, 1e-9]
ROUNDING = 1e-13
"""Of columns of size one over the gap between them, with condition numbers below a hundred: what the doubles
that hold the data can tell of the difference, in standard errors and relative to them."""


def near(columns: np.ndarray, gap: float) -> np.ndarray:
    return 2.0 * columns[:, 0] - 3.0 * columns[:, 1] + gap * 3.0 * columns[:, -1]


def choices(seed: int = 0, sets: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features a, b, c, e; chosen; offsets; a level of each set."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(2, 6, size=sets))])
    columns = rng.normal(size=(offsets[-1], 4))
    utility = columns @ np.full(4, 0.4) + rng.gumbel(size=offsets[-1])
    chosen = np.zeros(offsets[-1])
    for start, stop in itertools.pairwise(offsets):
        chosen[start + np.argmax(utility[start:stop])] = 1.0
    return columns, chosen, offsets, np.repeat(rng.normal(size=sets), np.diff(offsets))


def same(fit, reference, gap: float, last: str = "d") -> None:
    """Estimates in standard errors, and standard errors; the near column's in units of the difference."""
    assert fit.verified, fit.verdict()
    unit = fit.bse / reference.bse.to_numpy()
    tolerance = ROUNDING / gap
    assert unit[last] == pytest.approx(1.0 / (3.0 * gap), rel=tolerance)
    others = [name for name in fit.names if name not in ("a", "b", last)]
    assert np.allclose(unit[others], 1.0, rtol=tolerance)
    place = list(fit.names).index(last)
    found = np.array([fit.theta[place] * 3.0 * gap, *fit.params[others]])
    wanted = [reference.theta[place], *reference.theta[[fit.names.index(name) for name in others]]]
    errors = [reference.bse.iloc[place], *fit.bse[others]]
    assert np.all(np.abs(found - wanted) <= 100 * tolerance * np.array(errors))


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("grad", ["analytic", "forward", "jax", "complex"])
def test_a_logit_by_its_score(gap, grad):
    columns, chosen, offsets, level = choices()
    X = np.column_stack([columns[:, :3], near(columns, gap) + level])
    data = gm.ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets, feature_names=list("abcd"))
    plain = gm.ChoiceData.from_arrays(features=columns, chosen=chosen, offsets=offsets)
    for weighting in ("robust", "unadjusted"):
        fit = gm.GMMEstimator(gm.Logit(), data, grad=grad, weighting=weighting).fit()
        same(fit, gm.GMMEstimator(gm.Logit(), plain, weighting=weighting).fit(), gap)
    (note,) = (note for note in fit.notes if note.startswith("W211"))
    said = float(note.split("others by ")[1].split(" of")[0])
    assert 0.5 * gap < said < 2.0 * gap  # of a column at unit norm
    assert "W211" in str(fit.summary())


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("grad", ["analytic", "jax"])
def test_the_moments_of_a_score_stay_one(gap, grad):
    """Classical errors are the inverse Hessian of the log-likelihood in either case; and only of a score."""
    columns, chosen, offsets, level = choices()
    X = np.column_stack([columns[:, :3], near(columns, gap) + level])
    names = list("abcd")

    def fit(features, **more):
        data = gm.ChoiceData.from_arrays(features=features, chosen=chosen, offsets=offsets, **more)
        return gm.GMMEstimator(gm.Logit(), data, grad=grad, se="classical").fit()

    ours = fit(X, feature_names=names)
    assert ours.context.sample.recombined is not None
    same(ours, fit(columns), gap)
    implied = ours.with_cov("sandwich", weighting="unadjusted")
    np.testing.assert_allclose(ours.bse, implied.bse, rtol=ROUNDING / gap)
    with pytest.raises(gm.ConfigError, match="not the score of a likelihood"):
        fit(columns, instruments=X)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("steps", ["onestep", "twostep", "iterated"])
def test_instruments_of_a_logit(gap, steps):
    """Overidentified: the near column is an instrument, and moments are as many as before."""
    columns, chosen, offsets, level = choices()
    Z = np.column_stack([columns[:, :3], near(columns, gap) + level])

    def fit(instruments):
        data = gm.ChoiceData.from_arrays(
            features=columns[:, :2], instruments=instruments, chosen=chosen, offsets=offsets
        )
        return gm.GMMEstimator(gm.Logit(), data, steps=steps).fit()

    ours, reference = fit(Z), fit(columns)
    assert ours.verified, ours.verdict()
    tolerance = ROUNDING / gap
    assert np.all(np.abs(ours.theta - reference.theta) <= 10 * tolerance * reference.bse)
    assert np.allclose(ours.bse, reference.bse, rtol=tolerance)
    if steps != "onestep":
        assert ours.j_test().df == reference.j_test().df == 2
        assert ours.j_test().stat == pytest.approx(reference.j_test().stat, rel=100 * tolerance)


def outcomes(seed: int = 1, n: int = 300) -> tuple[np.ndarray, pd.DataFrame]:
    """Columns a, b, c, e and a table of them with an endogenous x, its instruments and two outcomes."""
    rng = np.random.default_rng(seed)
    columns, z = rng.normal(size=(n, 4)), rng.normal(size=(n, 2))
    noise = rng.normal(size=n)
    x = z.sum(axis=1) + 0.5 * noise + rng.normal(size=n)
    index = 0.3 * columns.sum(axis=1) + 0.2 * x
    frame = pd.DataFrame(columns, columns=list("abce"))
    return columns, frame.assign(x=x, z0=z[:, 0], z1=z[:, 1], y=index + noise, n=rng.poisson(np.exp(index)))


MODELS = {
    "linear, just identified": lambda last: gm.LinearIV("y", ["a", "b", "c", last], ["x"], ["z0"]),
    "linear, overidentified": lambda last: gm.LinearIV("y", ["a", "b", "c", last], ["x"], ["z0", "z1"]),
    "exponential": lambda last: gm.ExponentialIV("n", ["a", "b", "c", last], ["x"], ["z0"]),
}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("grad", ["analytic", "forward", "jax"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_regressions(model, gap, grad):
    columns, frame = outcomes()
    frame["d"] = near(columns, gap)
    fit = gm.GMMEstimator(model("d"), frame, grad=grad).fit()
    reference = gm.GMMEstimator(model("e"), frame).fit()
    same(fit, reference, gap)
    if fit.j_test() is not None:
        assert fit.j_test().stat == pytest.approx(reference.j_test().stat, rel=100 * ROUNDING / gap)
    assert any(note.startswith("W211") for note in fit.notes)


@pytest.mark.parametrize("gap", [0.0, 1e-13])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_exact_and_nearly_exact_repetition_is_refused_with_the_gap(model, gap):
    columns, frame = outcomes()
    with pytest.raises(gm.IdentificationError) as refused:
        model("d").sample(frame.assign(d=near(columns, gap)))
    assert "E202" in refused.value.codes
    said = float(str(refused.value).split("up to ")[1].split(" of")[0])
    assert said < 1e-12


@pytest.mark.parametrize("grad", ["fd", "fd-central"])
@pytest.mark.parametrize(("gap", "seen"), [(1e-2, True), (1e-5, False), (1e-9, False)])
def test_differences_are_right_or_not_verified(grad, gap, seen):
    """Their error over the gap: far below one at 1e-2, and as large as what is looked for from 1e-5 on."""
    columns, chosen, offsets, _ = choices()
    X = np.column_stack([columns[:, :3], near(columns, gap)])
    data = gm.ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets)
    fit = gm.GMMEstimator(gm.Logit(), data, grad=grad).fit()
    exact = gm.GMMEstimator(gm.Logit(), data).fit()
    assert exact.verified
    assert fit.verified == seen
    assert np.allclose(fit.bse, exact.bse, rtol=1e-3) == seen


@pytest.mark.parametrize("steps", ["onestep", "twostep"])
def test_the_identity_stays_that_of_the_users_moments(steps):
    """The first weight ``initial="identity"`` is in the user's units, before anything is replaced."""
    _, frame = outcomes()
    frame["z2"] = frame["z0"] - frame["z1"] + 1e-3 * frame["e"]
    frame["z3"] = frame["z0"] - frame["z1"] + 1e-5 * frame["e"]
    Z = np.column_stack([frame[["z0", "z1", "z3"]], np.ones(len(frame))])
    X = np.column_stack([frame["x"], np.ones(len(frame))])
    G, g = Z.T @ X, Z.T @ frame["y"]
    model = gm.LinearIV("y", [], ["x"], ["z0", "z1", "z3"])
    fit = gm.GMMEstimator(model, frame, steps=steps, initial="identity").fit()
    assert any(note.startswith("W211") for note in fit.notes)
    if steps == "onestep":
        assert np.allclose(fit.theta, np.linalg.lstsq(G, g, rcond=None)[0], rtol=1e-10)
    else:
        first = gm.GMMEstimator(model, frame).fit()
        assert np.all(np.abs(fit.theta - first.theta) < first.bse)  # another first step, near it


def test_columns_that_are_far_apart_are_the_ones_given():
    columns, chosen, offsets, _ = choices()
    X = np.column_stack([columns[:, :3], near(columns, 1e-3)])
    sample = gm.Logit().sample(gm.ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets))
    assert sample.recombined is None
    assert all(block.instruments is block.features for block in sample.blocks)
    assert not any(note.startswith("W211") for note in sample.notes)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_what_is_replaced_is_orthogonal_to_all_others(scale):
    columns, frame = outcomes()
    Z = np.column_stack([columns[:, :3], near(columns, 1e-6), columns[:, 2] + 1e-8 * frame["x"]])
    Z = Z * [1.0, scale, 1.0, 1.0, scale]
    changed = check_regression(Z[:, :1], Z, ("a",), tuple("abcde"))
    assert changed is not None
    assert len(changed.near) == 2
    replaced = changed.apply(Z)
    assert np.array_equal(np.delete(replaced, changed.columns, axis=1), np.delete(Z, changed.columns, axis=1))
    unit = replaced / np.linalg.norm(replaced, axis=0)
    products = np.abs(unit.T @ unit - np.eye(5))
    assert products[changed.columns].max() < 1e-6
    assert recombination(np.eye(3), np.ones(3), tuple("abc")) is None


def test_curvature_is_right_however_near_columns_are():
    """Half the Hessian is 1.5 J'J, which is 1.5 in the metric of J'J; the gradient is rounded."""
    rng = np.random.default_rng(3)
    J = rng.normal(size=(20, 3))
    for gap in (1.0, 1e-5, 1e-9):
        J[:, 2] = J[:, 0] - J[:, 1] + gap * rng.normal(size=20)
        D = whitened_directions(J)
        found = smallest_curvature(J, curvature(lambda z, J=J: 1.5 * J.T @ (J @ z), np.ones(3), 0.05 * D))
        assert found == pytest.approx(1.5, rel=1e-4)
