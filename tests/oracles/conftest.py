"""Data of the oracles, read from the packages that ship them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyblp
import pytest
import statsmodels.sandbox.regression.tests as shipped

STATSMODELS = Path(shipped.__file__).parent


@pytest.fixture(scope="session")
def griliches() -> pd.DataFrame:
    """Wages of young men in 1966-73, with dummies for the years (Griliches 1976)."""
    frame = pd.read_stata(STATSMODELS / "griliches76.dta")
    years = pd.get_dummies(frame["year"].astype(int), prefix="D", dtype=float).drop(columns="D_66")
    frame = pd.concat([frame.astype(float), years], axis=1)
    assert len(frame) == 758
    assert list(years) == ["D_67", "D_68", "D_69", "D_70", "D_71", "D_73"]
    return frame


@pytest.fixture(scope="session")
def visits() -> pd.DataFrame:
    """Visits to doctors (Cameron and Trivedi), filtered as in statsmodels' own tests."""
    frame = pd.read_csv(STATSMODELS / "racd10data_with_transformed.csv")
    frame = frame[~((frame["private"] == 1) & (frame["medicaid"] == 1)) & (frame["docvis"] <= 70)]
    assert len(frame) == 3629
    return frame


@pytest.fixture(scope="session")
def cereal() -> pd.DataFrame:
    """Nevo's cereals, with ``y`` the logarithm of a share over that of the outside good."""
    frame = pd.read_csv(pyblp.data.NEVO_PRODUCTS_LOCATION)
    outside = 1.0 - frame.groupby("market_ids")["shares"].transform("sum")
    assert len(frame) == 2256
    assert frame["product_ids"].nunique() == 24
    assert outside.min() > 0
    return frame.assign(y=np.log(frame["shares"]) - np.log(outside))
