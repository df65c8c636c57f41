"""Data that tests of several folders share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from gmmest.data.choice_data import ChoiceData
from gmmest.models.logit import Logit
from gmmest.models.terms import Constant, Term

MODES = {1: "air", 2: "train", 3: "bus", 4: "car"}


@pytest.fixture(scope="session")
def housing() -> pd.DataFrame:
    """Rents and house values in 50 states, with dummies for regions but the first (Stata's hsng)."""
    import linearmodels

    frame = pd.read_csv(Path(linearmodels.__file__).parent / "tests" / "iv" / "results" / "housing.csv")
    regions = pd.get_dummies(frame["region"], prefix="region", dtype=float)
    regions.columns = [name.replace(" ", "_") for name in regions.columns]
    assert len(frame) == 50
    assert regions.shape[1] == 4
    return pd.concat([frame.assign(const=1.0), regions.iloc[:, 1:]], axis=1)


@pytest.fixture(scope="session")
def travel_frame() -> pd.DataFrame:
    """Travel mode as statsmodels ships it, 210 choice sets of 4 (our own CSV and reader play no part)."""
    from statsmodels.datasets import modechoice

    frame = modechoice.load_pandas().data
    frame["mode"] = frame["mode"].astype(int).map(MODES)
    for name in ("individual", "choice"):
        frame[name] = frame[name].astype(int)
    assert frame.shape[0] == 840
    assert frame["choice"].sum() == 210
    return frame


@pytest.fixture(scope="session")
def travel_data(travel_frame: pd.DataFrame) -> Callable[..., ChoiceData]:
    """Make ChoiceData of travel mode, columns multiplied: ``travel_data(gc=1e4)``."""

    def make(**factors: float) -> ChoiceData:
        frame = travel_frame.assign(**{name: travel_frame[name] * by for name, by in factors.items()})
        return ChoiceData.from_frame(frame, case="individual", alternative="mode", chosen="choice")

    return make


@pytest.fixture(scope="session")
def greene() -> Logit:
    """Greene's model of travel mode, just identified."""
    return Logit(_utility())


@pytest.fixture(scope="session")
def greene_overidentified() -> Logit:
    """The same with cost and time in the vehicle as further instruments: 8 moments, 6 parameters."""
    return Logit(_utility(), instruments=[*_utility(), Term("invc"), Term("invt")])


def _utility() -> list[Term]:
    return [
        Constant("air"),
        Constant("train"),
        Constant("bus"),
        Term("gc"),
        Term("ttme"),
        Term("hinc", only="air"),
    ]
