"""Terms of a utility: names, products, alternatives, shared parameters; complaints all together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gmmest.data.choice_data import ChoiceData
from gmmest.errors import ConfigError, DataError
from gmmest.models.logit import Logit
from gmmest.models.terms import Constant, Term, design_matrix, used_columns


@pytest.fixture(scope="module")
def data() -> ChoiceData:
    frame = pd.DataFrame(
        {
            "who": [1, 1, 1, 2, 2, 3, 3, 3],
            "mode": ["air", "bus", "car", "bus", "car", "air", "bus", "car"],
            "took": [1, 0, 0, 1, 0, 0, 0, 1],
            "cost": [9.0, 3.0, 5.0, 2.0, 6.0, 8.0, 1.0, 4.0],
            "hinc": [30.0, 30.0, 30.0, 20.0, 20.0, 10.0, 10.0, 10.0],
            "text": list("abcdefgh"),
            "gaps": [1.0, np.nan, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0],
        }
    )
    return ChoiceData.from_frame(frame, case="who", alternative="mode", chosen="took")


AIR = np.array([1.0, 0, 0, 0, 0, 1, 0, 0])
BUS = np.array([0, 1.0, 0, 1, 0, 0, 1, 0])
COST = np.array([9.0, 3, 5, 2, 6, 8, 1, 4])
HINC = np.array([30.0, 30, 30, 20, 20, 10, 10, 10])


@pytest.mark.parametrize(
    ("term", "name"),
    [
        (Term("gc"), "gc"),
        (Term("hinc", only="air"), "hinc_air"),
        (Term("hinc", only=["air", "bus"]), "hinc_air_bus"),
        (Term("gc", "hinc"), "gc:hinc"),
        (Term("gc", "hinc", only="air"), "gc:hinc_air"),
        (Constant("air"), "asc_air"),
        (Constant(["air", "bus"]), "asc_air_bus"),
        (Constant("air", name="A"), "A"),
        (Term("cost", name="b_cost"), "b_cost"),
    ],
)
def test_names(term, name):
    assert term.name == name


def test_a_term_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="a term needs a column") as refused:
        Term()
    assert refused.value.codes == ("E102",)


@pytest.mark.parametrize(
    ("term", "column"),
    [
        (Term("cost"), COST),
        (Term("cost", "hinc"), COST * HINC),
        (Term("cost", "cost"), COST**2),
        (Term("hinc", only="air"), HINC * AIR),
        (Term("hinc", only=["air", "bus"]), HINC * (AIR + BUS)),
        (Term("hinc", only=["air", "air"]), HINC * AIR),
        (Constant("bus"), BUS),
        (Constant(["air", "bus"]), AIR + BUS),
    ],
)
def test_columns(data, term, column):
    names, matrix = design_matrix([term], data)
    assert names == (term.name,)
    np.testing.assert_array_equal(matrix[:, 0], column)
    assert matrix.flags.c_contiguous


def test_terms_of_one_name_share_a_parameter(data):
    terms = [Term("cost", only="air", name="b"), Constant("bus"), Term("hinc", only="bus", name="b")]
    names, matrix = design_matrix(terms, data)
    assert names == ("b", "asc_bus")
    np.testing.assert_array_equal(matrix, np.column_stack([COST * AIR + HINC * BUS, BUS]))


def test_columns_are_listed_once_in_order_of_use():
    terms = [Term("b", "a"), Constant("x"), Term("a"), Term("c", "b")]
    assert used_columns(terms) == ("b", "a", "c")


def test_all_that_is_wrong_with_terms_is_said_together(data):
    terms = [Term("cots"), Term("text"), Term("cost", only="train"), Constant("plane"), Term("cots", "hinc")]
    with pytest.raises(DataError) as refused:
        design_matrix(terms, data)
    assert refused.value.codes == ("E315", "E311", "E316", "E316")
    text = str(refused.value)
    for part in ("cots", "cost", "text", "train", "plane"):
        assert part in text


def test_logit_reports_missing_values_of_used_columns_only(data):
    assert Logit([Term("cost")]).sample(data).n_obs == 3
    with pytest.raises(DataError, match="gaps") as refused:
        Logit([Term("cost"), Term("gaps")]).sample(data)
    assert refused.value.codes == ("E310",)


def test_logit_without_terms_is_refused(data):
    with pytest.raises(ConfigError, match="the utility has no terms"):
        Logit().sample(data)


def test_terms_beside_arrays_are_refused():
    arrays = ChoiceData.from_arrays(features=np.eye(4), chosen=[1, 0, 0, 1], offsets=[0, 2, 4])
    for model in (Logit([Term("x0")]), Logit(instruments=[Term("x0")])):
        with pytest.raises(ConfigError, match="made from arrays"):
            model.sample(arrays)


def test_instruments_are_terms_too(data):
    model = Logit([Term("cost")], instruments=[Term("cost"), Constant("bus")])
    sample = model.sample(data)
    assert (sample.names, sample.moment_names) == (("cost",), ("cost", "asc_bus"))
    np.testing.assert_array_equal(sample.blocks[0].instruments, np.column_stack([COST, BUS]))
    assert Logit([Term("cost")]).sample(data).blocks[0].instruments is not None


def test_features_are_their_own_instruments_without_a_copy(data):
    block = Logit([Term("cost"), Constant("bus")]).sample(data).blocks[0]
    assert block.instruments is block.features


def test_models_are_immutable():
    model = Logit([Term("cost")])
    with pytest.raises(AttributeError):
        model.utility = ()
    with pytest.raises(AttributeError):
        model.utility[0].name = "x"
    assert Logit([Term("cost")]) == model
