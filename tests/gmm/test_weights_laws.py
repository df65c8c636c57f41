"""Weights and frequencies: both give the same estimate, a frequency is so many rows, a weight is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

import gmmest as gm
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.moments import Moments
from gmmest.gmm.weighting import moment_covariance
from gmmest.testing import check_model

SUMS = 1e-13
"""Relative: two orders of summation of some hundred terms."""
FIT = 1e-9
"""Relative: where two searches stop (remaining steps below 1e-9 standard errors), not sums alone."""

N = 60
UTILITY = [gm.Term("a"), gm.Term("b")]
INSTRUMENTS = [*UTILITY, gm.Term("c")]


def choices() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    case = np.repeat(np.arange(N), 3)
    frame = pd.DataFrame({"case": case, "alt": np.tile([0, 1, 2], N)})
    for name in "abc":
        frame[name] = rng.normal(size=3 * N)
    frame["c"] += 0.5 * frame["a"]
    utility = (frame["a"] - frame["b"] + rng.gumbel(size=3 * N)).to_numpy().reshape(N, 3)
    frame["y"] = (utility == utility.max(axis=1, keepdims=True)).ravel().astype(int)
    frame["f"] = np.repeat(rng.integers(1, 4, size=N), 3)
    frame["w"] = np.repeat(rng.uniform(0.5, 2.0, size=N), 3)
    frame["g"] = np.repeat(rng.integers(0, 12, size=N), 3)
    return frame


def repeated(frame: pd.DataFrame, ids: str = "case") -> pd.DataFrame:
    """Every choice set (or row) as often as its frequency says."""
    pieces = []
    for k in range(int(frame["f"].max())):
        piece = frame[frame["f"] > k].copy()
        piece[ids] = piece[ids].astype(str) + f"-{k}"
        pieces.append(piece)
    return pd.concat(pieces, ignore_index=True)


def sets(frame: pd.DataFrame, **roles: object) -> gm.ChoiceData:
    return gm.ChoiceData.from_frame(frame, case="case", alternative="alt", chosen="y", **roles)


def regression_frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(80, 4)), columns=["x", "z1", "z2", "e"])
    frame["x"] += frame["z1"] + 0.5 * frame["z2"] + 0.5 * frame["e"]
    frame["y"] = np.exp(0.3 + 0.2 * frame["x"]) + 0.3 * frame["e"]
    frame["f"] = rng.integers(1, 4, size=80)
    frame["w"] = rng.uniform(0.5, 2.0, size=80)
    frame["id"] = np.arange(80)
    frame["g"] = rng.integers(0, 10, size=80)
    return frame


def residual_moments(theta, rows):
    e = rows["y"] - theta[0] - theta[1] * rows["x"]
    return np.stack([e, e * rows["z1"], e * rows["z2"]], axis=1)


def own_jacobian(theta, rows):
    z = np.stack([np.ones_like(rows["x"]), rows["z1"], rows["z2"]], axis=1)
    x = np.stack([np.ones_like(rows["x"]), rows["x"]], axis=1)
    return -z[:, :, None] * x[:, None, :]


FUNCTION = gm.with_derivative(residual_moments, jacobian=own_jacobian)
MODELS = {
    "logit": (gm.Logit(UTILITY, INSTRUMENTS), choices, sets),
    "linear": (gm.LinearIV("y", endogenous=["x"], instruments=["z1", "z2"]), regression_frame, None),
    "additive": (gm.ExponentialIV("y", endogenous=["x"], instruments=["z1", "z2"]), regression_frame, None),
    "multiplicative": (
        gm.ExponentialIV("y", endogenous=["x"], instruments=["z1", "z2"], errors="multiplicative"),
        regression_frame,
        None,
    ),
    "function": (gm.MomentFunction(FUNCTION, names=["a", "b"]), regression_frame, None),
}


def problem(name: str, *, repeat: bool = False, **roles: object):
    model, make, door = MODELS[name]
    frame = repeated(make(), "case" if door else "id") if repeat else make()
    if door:
        return model, door(frame, **roles)
    return model, gm.Table.from_frame(frame, ["y", "x", "z1", "z2"], **roles)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("roles", [{"weight": "w"}, {"frequency": "f"}, {"weight": "w", "frequency": "f"}])
def test_the_laws_of_a_model_hold_with_weights(name, roles):
    check_model(*problem(name, **roles))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weighting", ["robust", "unadjusted", "cluster"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("extra", [{}, {"weight": "w"}])
def test_s_of_frequencies_is_s_of_repeated_rows(name, weighting, centred, extra):
    if weighting == "unadjusted" and (centred or name not in ("logit", "linear")):
        pytest.skip("no such S")
    roles = {**extra, **({"cluster": "g"} if weighting == "cluster" else {})}
    covariances = []
    for model, data in (problem(name, frequency="f", **roles), problem(name, repeat=True, **roles)):
        moments = Moments(model, model.sample(data), "auto")
        options = CovarianceOptions(weighting, centred)
        theta = np.array([0.3, -0.2])
        covariances.append((moment_covariance(moments, theta, options), moments.value_and_jacobian(theta)))
    (counted, (g, G)), (rows, (h, H)) = covariances
    assert counted.n_obs == rows.n_obs
    for a, b in ((counted.matrix, rows.matrix), (g, h), (G, H)):
        np.testing.assert_allclose(a, b, rtol=SUMS, atol=SUMS * np.abs(b).max())


@pytest.mark.parametrize("name", MODELS)
def test_a_frequency_is_so_many_rows_and_a_weight_is_not(name):
    fits = {}
    for key, roles in {"f": {"frequency": "f"}, "w": {"weight": "f"}, "rows": {"repeat": True}}.items():
        model, data = problem(name, **roles)
        fits[key] = gm.GMMEstimator(model, data, steps="onestep").fit()
        assert fits[key].verified
    np.testing.assert_allclose(fits["f"].theta, fits["rows"].theta, rtol=FIT)
    np.testing.assert_allclose(fits["f"].standard_errors, fits["rows"].standard_errors, rtol=FIT)
    np.testing.assert_allclose(fits["w"].theta, fits["rows"].theta, rtol=1e-6)
    assert np.all(np.abs(fits["w"].standard_errors / fits["rows"].standard_errors - 1) > 0.01)
    assert fits["f"].nobs == fits["rows"].nobs > fits["w"].nobs


def test_the_scale_of_sampling_weights_changes_nothing():
    frame = choices()
    frame["w8"] = 8.0 * frame["w"]  # a power of two: the same bits
    one, eight = (
        gm.GMMEstimator(gm.Logit(UTILITY, INSTRUMENTS), sets(frame, weight=name)).fit()
        for name in ("w", "w8")
    )
    np.testing.assert_allclose(one.theta, eight.theta, rtol=FIT)
    np.testing.assert_allclose(one.standard_errors, eight.standard_errors, rtol=FIT)
    assert one.j_test().stat == pytest.approx(eight.j_test().stat, rel=1e-8)


def test_weights_that_are_one_change_no_bit_of_the_estimate():
    frame = choices().assign(one=1.0)
    plain = gm.GMMEstimator(gm.Logit(UTILITY), sets(frame)).fit()
    for kind in ("weight", "frequency"):
        ones = gm.GMMEstimator(gm.Logit(UTILITY), sets(frame, **{kind: "one"})).fit()
        assert np.array_equal(ones.theta, plain.theta)
        np.testing.assert_allclose(ones.standard_errors, plain.standard_errors, rtol=SUMS)
        assert ones.loglike == pytest.approx(plain.loglike, rel=SUMS)


def test_weighted_logit_in_blocks_is_weighted_logit_at_once(monkeypatch):
    model, data = problem("logit", weight="w", frequency="f")
    theta = np.array([0.3, -0.2])
    whole = moment_covariance(Moments(model, model.sample(data), "auto"), theta, CovarianceOptions())
    monkeypatch.setattr("gmmest.models.logit.rows_per_block", lambda *_: 20)
    sample = model.sample(data)
    assert len(sample.blocks) > 5
    assert sample.n_obs == whole.n_obs
    parts = moment_covariance(Moments(model, sample, "auto"), theta, CovarianceOptions())
    np.testing.assert_allclose(parts.matrix, whole.matrix, rtol=SUMS)
    check_model(model, data)


def test_poisson_with_frequencies_and_weights_as_statsmodels():
    frame = regression_frame()
    frame["y"] = np.floor(frame["y"].clip(lower=0))
    model = gm.ExponentialIV("y", exogenous=["x"])
    X = sm.add_constant(frame[["x"]], prepend=False)
    columns = ["y", "x"]
    counted = gm.GMMEstimator(model, gm.Table.from_frame(frame, columns, frequency="f")).fit()
    theirs = sm.GLM(frame["y"], X, family=sm.families.Poisson(), freq_weights=frame["f"].to_numpy()).fit(
        tol=1e-14, cov_type="HC0"
    )
    np.testing.assert_allclose(counted.theta, theirs.params, rtol=1e-9)
    long = repeated(frame, "id")
    robust = sm.GLM(long["y"], sm.add_constant(long[["x"]], prepend=False), family=sm.families.Poisson()).fit(
        tol=1e-14, cov_type="HC0"
    )
    np.testing.assert_allclose(counted.standard_errors, robust.bse, rtol=1e-8)
