"""What becomes of the columns that a regression names."""

from __future__ import annotations

import numpy as np
import pytest

import gmmest as gm
from gmmest.models import regression


def columns(seed: int = 3, n: int = 200) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    z, w, const = random.normal(size=(3, n))
    x = z + 0.5 * w + random.normal(size=n)
    y = np.exp(0.2 * x - 0.3 * const + 0.1 * random.normal(size=n))
    return {"y": y, "x": x, "z": z, "w": w, "const": const}


MODELS = [gm.LinearIV, gm.ExponentialIV]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("part", ["exogenous", "endogenous", "instruments"])
def test_a_column_may_have_any_name_const_too(model, part):
    table = columns()
    renamed = {("k" if name == "const" else name): column for name, column in table.items()}

    def fit(data, name):
        given = {"exogenous": ["x"], "instruments": ["z", "w"]}
        given[part] = [*given.get(part, []), name]
        return gm.GMMEstimator(model("y", **given, constant=False), gm.Table.from_arrays(data)).fit()

    as_const, as_k = fit(table, "const"), fit(renamed, "k")
    np.testing.assert_array_equal(as_const.theta, as_k.theta)
    np.testing.assert_array_equal(as_const.bse, as_k.bse)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "parts",
    [
        {"exogenous": ["const"]},
        {"endogenous": ["const"], "instruments": ["z"]},
        {"exogenous": ["x"], "instruments": ["const"]},
    ],
    ids=["exogenous", "endogenous", "instrument"],
)
def test_a_column_called_like_the_added_constant_is_refused(model, parts):
    with pytest.raises(gm.ConfigError, match="const: each column plays one part"):
        gm.GMMEstimator(model("y", **parts), gm.Table.from_arrays(columns())).fit()


def test_a_start_of_its_own_costs_no_second_look_at_the_data(monkeypatch):
    seen = []
    check = regression.check_regression
    monkeypatch.setattr(regression, "check_regression", lambda *given: seen.append(1) or check(*given))
    table = columns()
    sample = gm.ExponentialIV("y", exogenous=["x"], instruments=["z"]).sample(gm.Table.from_arrays(table))
    assert seen == [1]
    for each in (sample, sample.whole(), sample.whole().whole()):
        np.testing.assert_allclose(each.start, [0.0, np.log(table["y"].mean())], rtol=1e-14)
