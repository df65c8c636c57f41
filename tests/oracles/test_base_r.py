"""Scripts in base R, without a package, and the numbers that they print, kept beside them in ``r/``.

R is optional: where ``Rscript`` is absent the stored numbers alone are held against ours.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gmmest as gm

HERE = Path(__file__).parent / "r"
SCRIPTS = sorted(path.stem for path in HERE.glob("*.R") if path.stem != "gmm")
GRADS = ("forward", "jax")
ESTIMATE = 1e-8
"""What the oracles want of estimates, and of J."""
ERROR = 1e-7
"""What they want of standard errors."""
AGAIN = 1e-10
"""R with another BLAS; conditions are below 1e6 where units are taken out."""


@pytest.fixture
def frames(travel_frame, griliches, housing, visits, cereal) -> dict[str, pd.DataFrame]:
    return {
        "travel_mode": travel_frame,
        "griliches": griliches,
        "housing": housing,
        "doctor_visits": visits,
        "nevo": cereal,
    }


def numbers(text: str) -> dict[str, float]:
    """Lines ``name,value`` after a heading."""
    heading, *lines = text.splitlines()
    assert heading == "name,value"
    pairs = (line.rsplit(",", 1) for line in lines)
    return {name: float(value) for name, value in pairs}


def stored(script: str) -> dict[str, float]:
    return numbers((HERE / f"{script}_output.csv").read_text())


def of(label: str, script: str) -> pd.Series:
    """The numbers of one label, by parameter."""
    found = {
        name.removeprefix(f"{label} "): value
        for name, value in stored(script).items()
        if name.startswith(f"{label} ")
    }
    assert found
    return pd.Series(found)


def agrees(ours: pd.Series, theirs: pd.Series, tolerance: float) -> None:
    assert set(ours.index) == set(theirs.index)
    np.testing.assert_allclose(ours[theirs.index], theirs, rtol=tolerance)


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed, and it is optional")
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_script_prints_what_is_stored(script, frames, tmp_path):
    data = tmp_path / f"{script}.csv"
    frames[script].to_csv(data, index=False, float_format="%.17g")
    command = ["Rscript", "--vanilla", str(HERE / f"{script}.R"), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed, kept = numbers(done.stdout), stored(script)
    assert list(printed) == list(kept)
    assert printed == pytest.approx(kept, rel=AGAIN)


@pytest.mark.parametrize("grad", GRADS)
def test_travel_mode(travel_data, greene, grad):
    robust = gm.GMMEstimator(greene, travel_data(), grad=grad).fit()
    agrees(robust.params, of("b", "travel_mode"), ESTIMATE)
    agrees(robust.bse, of("robust", "travel_mode"), ERROR)
    classical = gm.GMMEstimator(greene, travel_data(), weighting="unadjusted", grad=grad).fit()
    agrees(classical.bse, of("classical", "travel_mode"), ERROR)
    assert robust.loglike == pytest.approx(of("loglike", "travel_mode")["estimate"], rel=1e-12)


@pytest.mark.parametrize("grad", GRADS)
@pytest.mark.parametrize("steps", ["onestep", "twostep", "iterated"])
def test_griliches(griliches, steps, grad):
    exogenous = ["expr", "tenure", "rns", "smsa", "D_67", "D_68", "D_69", "D_70", "D_71", "D_73"]
    model = gm.LinearIV("lw", exogenous, ["s", "iq"], ["med", "kww", "age", "mrt"])
    fit = gm.GMMEstimator(model, griliches, steps=steps, grad=grad).fit()
    assert fit.verified
    agrees(fit.params, of(f"{steps} b", "griliches"), ESTIMATE)
    agrees(fit.bse, of(f"{steps} se", "griliches"), ERROR)
    if steps != "onestep":
        assert fit.j_test().stat == pytest.approx(of(f"{steps} J", "griliches")["stat"], rel=ESTIMATE)
    if steps == "twostep":
        least = gm.GMMEstimator(model, griliches, se="minimised_weight", grad=grad).fit()
        agrees(least.bse, of("twostep minimised", "griliches"), ERROR)


@pytest.mark.parametrize("grad", GRADS)
@pytest.mark.parametrize("weighting", ["unadjusted", "robust"])
def test_housing(housing, weighting, grad):
    regions = [name for name in housing.columns if name.startswith("region_")]
    model = gm.LinearIV("rent", ["pcturban"], ["hsngval"], ["faminc", *regions])
    fit = gm.GMMEstimator(model, housing, weighting=weighting, grad=grad).fit()
    agrees(fit.params, of(f"{weighting} b", "housing"), ESTIMATE)
    agrees(fit.bse, of(f"{weighting} se", "housing"), ERROR)
    assert fit.j_test().stat == pytest.approx(of(f"{weighting} J", "housing")["stat"], rel=ESTIMATE)
    if weighting == "unadjusted":
        continuous = gm.GMMEstimator(model, housing, steps="cue", weighting=weighting, grad=grad).fit()
        agrees(continuous.params, of("liml b", "housing"), ESTIMATE)


@pytest.mark.parametrize("grad", GRADS)
def test_doctor_visits(visits, grad):
    exogenous = ["aget", "aget2", "educyr", "actlim", "totchr"]
    model = gm.ExponentialIV("docvis", exogenous, ["private", "medicaid"], ["income", "ssiratio"])
    fit = gm.GMMEstimator(model, visits, grad=grad).fit()
    agrees(fit.params, of("b", "doctor_visits"), ESTIMATE)
    agrees(fit.bse, of("se", "doctor_visits"), ERROR)


@pytest.mark.parametrize("grad", GRADS)
def test_nevo(cereal, grad):
    instruments = [f"demand_instruments{i}" for i in range(20)]
    model = gm.LinearIV("y", endogenous=["prices"], instruments=instruments, absorb="product_ids")
    for weighting in ("robust", "unadjusted"):
        fit = gm.GMMEstimator(model, cereal, steps="onestep", weighting=weighting, grad=grad).fit()
        agrees(fit.params, of("b", "nevo"), ESTIMATE)
        agrees(fit.bse, of(weighting, "nevo"), ERROR)
        assert fit.n_obs * fit.criterion == pytest.approx(of("NQ", "nevo")["stat"], rel=ESTIMATE)
