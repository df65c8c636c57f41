"""Laws of plain tables."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from gmmest.data.table import Rows, Table
from gmmest.errors import DataError, GmmestError

FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
COLUMNS = {"y": [1.0, 2.5, 3.0], "n": [1, 2, 3], "sold": [True, False, True], "city": ["Bonn", "Köln", "Ulm"]}


def refusal(call, *args, **kwargs):
    with pytest.raises(GmmestError) as caught:
        call(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_numbers_are_taken_and_text_is_left_out_audibly(make):
    table = Table.from_frame(make(COLUMNS), source="sales.csv")
    assert table.names == ("y", "n", "sold")
    assert table.ignored == ("city",)
    assert repr(table) == "<Table: 3 rows, columns y, n, sold; not numbers: city>"
    assert all(a.dtype == np.float64 and not a.flags.writeable for a in table.columns.values())
    np.testing.assert_array_equal(table.rows().sold, [1.0, 0.0, 1.0])
    error = refusal(table.column, "city")
    assert error.codes == ("E311",)
    assert "city is not a column of numbers and was left out" in str(error)
    assert 'did you mean "sold"?' in str(refusal(table.column, "solt"))


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_what_is_asked_for_must_be_numbers(make):
    frame = make({**COLUMNS, "x": [1.0, float("inf"), None]})
    error = refusal(Table.from_frame, frame, ["x", "city", "yy", "n"], source="sales.csv")
    assert error.codes == ("E310", "E311", "E315")
    assert "x: 1 missing, first at row 3; 1 infinite, first at row 2" in str(error)
    assert 'sales.csv, column "x", rows 2-3' in str(error)
    assert "city is text, not numbers: row 1 holds 'Bonn'" in str(error)
    assert refusal(Table.from_frame, frame).codes == ("E310",)
    assert Table.from_frame(frame, ["n", "y", "n"]).names == ("n", "y")


def test_nothing_to_take():
    assert "no column of numbers" in str(refusal(Table.from_frame, pa.table({"city": ["Bonn"]})))
    assert "no rows" in str(refusal(Table.from_frame, pa.table({"y": pa.array([], pa.float64())})))
    assert refusal(Table.from_frame, {"y": [1.0]}).codes == ("E102",)
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["y", "y"])
    assert refusal(Table.from_frame, twice).codes == ("E314",)


def test_arrays_of_any_trailing_shape():
    X = np.arange(6.0).reshape(3, 2)
    table = Table.from_arrays({"y": [1, 2, 3], "X": X, "T": np.ones((3, 2, 2), dtype=np.float32)})
    assert [array.shape for array in table.columns.values()] == [(3,), (3, 2), (3, 2, 2)]
    X[0, 0] = 99.0
    assert table.columns["X"][0, 0] == 0.0


BAD = {
    "lengths": ({"y": [1.0, 2.0], "X": np.ones((3, 2))}, ("E307",), "y has 2, X has 3"),
    "scalar": ({"y": 1.0}, ("E307",), "shape ()"),
    "together": ({"y": [np.nan], "c": ["a"], "z": [1j]}, ("E310", "E311", "E311"), "y: 1 missing (NaN)"),
    "masked": ({"y": np.ma.masked_invalid([1.0, np.nan])}, ("E310",), "masked"),
    "empty": ({}, ("E306",), "no columns"),
    "no rows": ({"y": []}, ("E306",), "no rows"),
}


@pytest.mark.parametrize(("columns", "codes", "words"), BAD.values(), ids=BAD)
def test_bad_arrays(columns, codes, words):
    error = refusal(Table.from_arrays, columns)
    assert isinstance(error, DataError)
    assert error.codes == codes
    assert words in str(error)


def table_of(n):
    return Table.from_arrays({"y": np.arange(float(n)), "X": np.arange(2.0 * n).reshape(n, 2)})


def test_rows_are_views():
    table = table_of(5)
    rows = table.rows(1, 4)
    assert rows.n_rows == 3
    assert rows["X"] is rows.X
    assert np.shares_memory(rows.X, table.columns["X"])
    assert not rows.y.flags.writeable
    assert rows.X.flags.c_contiguous
    for start, stop in ((2, 2), (-1, 3), (0, 6)):
        assert refusal(table.rows, start, stop).codes == ("E102",)


def test_an_engine_can_take_rows_apart_and_rebuild_them():
    class Traced:
        """Stands for an array-like of a derivative engine."""

        def __init__(self, array):
            self.shape = array.shape

    rows = table_of(3).rows()
    assert [field.name for field in dataclasses.fields(rows)] == ["columns", "observation_weight"]
    traced = {name: Traced(array) for name, array in rows.columns.items()}
    again = dataclasses.replace(rows, columns=traced)
    assert again.y is traced["y"]
    assert again.n_rows == 3


def test_rows_travel():
    rows = table_of(3).rows()
    for again in (pickle.loads(pickle.dumps(rows)), copy.copy(rows), copy.deepcopy(rows)):
        np.testing.assert_array_equal(again.X, rows.X)


def test_names_that_do_not_exist():
    rows = table_of(3).rows()
    assert not hasattr(rows, "__array__")
    assert getattr(rows, "z", None) is None
    with pytest.raises(AttributeError, match='no column "yy"'):
        _ = rows.yy
    assert refusal(lambda: rows["Y"]).codes == ("E315",)
    hidden = Rows({"columns": np.ones(2), "n_rows": np.zeros(2)})
    np.testing.assert_array_equal(hidden["columns"], np.ones(2))
    assert hidden.n_rows == 2


def test_fingerprints_follow_the_content():
    frame = pa.table({"y": [1.0, 2.0]})
    assert Table.from_frame(frame).fingerprint() == Table.from_arrays({"y": [1, 2]}).fingerprint()
    others = [{"y": [1, 3]}, {"x": [1, 2]}, {"y": [[1], [2]]}]
    prints = {Table.from_arrays(columns).fingerprint() for columns in others}
    assert len(prints | {Table.from_frame(frame).fingerprint()}) == 4
