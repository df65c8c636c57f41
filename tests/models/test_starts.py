"""Where to start is said in the same way wherever it is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import gmmest as gm

NAMES = ("a", "b")
TABLE = gm.Table.from_arrays({"x": np.arange(6.0), "y": np.array([1.0, 1.5, 1.8, 2.7, 3.5, 4.0])})


def moments(theta, rows):
    e = rows["y"] - theta[0] - theta[1] * rows["x"]
    return np.stack([e, e * rows["x"]], axis=1)


def residuals(theta, rows):
    return rows["y"] - theta[0] - theta[1] * rows["x"]


FIT = gm.GMMEstimator(gm.MomentFunction(moments, NAMES), TABLE).fit()
DOORS = {
    "moment function": lambda start: gm.MomentFunction(moments, NAMES, start=start).start,
    "least squares": lambda start: gm.NonlinearLeastSquares(residuals, NAMES, start=start).start,
    "sample": lambda start: gm.MomentFunction(moments, NAMES, start=start).sample(TABLE).start,
    "fit": lambda start: gm.GMMEstimator(gm.MomentFunction(moments, NAMES), TABLE).fit(start),
    "fit of least squares": lambda start: gm.NonlinearLeastSquares(residuals, NAMES).fit(TABLE, start),
    "check of derivatives": lambda start: FIT.check_derivatives(start=start),
}
doors = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


@pytest.mark.parametrize("door", list(DOORS.values())[:3], ids=list(DOORS)[:3])
@pytest.mark.parametrize(
    "start",
    [
        {"b": 2.0, "a": 1.0},
        pd.Series({"b": 2.0, "a": 1.0}),
        [1.0, 2.0],
        np.array([1.0, 2.0]),
        pd.Series({"b": 2}),
    ],
    ids=["mapping", "labels", "list", "array", "some"],
)
def test_a_start_is_read_by_its_names(door, start):
    assert tuple(door(start)) == ((0.0, 2.0) if len(start) == 1 else (1.0, 2.0))


@doors
@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"bb": 1.0}, "start: there is no parameter 'bb'; expected a, b\n  next:  did you mean 'b'?"),
        (pd.Series({"zzz": 1.0}), "start: there is no parameter 'zzz'"),
        ({"a": "much"}, "start has 'much'; numbers were expected"),
        (["much", 1.0], "numbers were expected"),
        ([1.0], "2 values were expected"),
        ({"a": np.nan}, "not finite"),
    ],
    ids=["unknown", "unknown label", "text", "texts", "too few", "not a number"],
)
def test_a_start_that_cannot_be_is_refused_everywhere(door, start, said):
    with pytest.raises(gm.ConfigError) as refused:
        door(start)
    assert refused.value.codes == ("E102",)
    assert said in str(refused.value)
