"""Laws of choice data: what the doors let in, what they refuse and with which words."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmest.data.block import Block, block_ranges
from gmmest.data.choice_data import ChoiceData
from gmmest.data.columns import inexact
from gmmest.errors import ConfigError, DataError

FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
ROLES = {"case": "id", "alternative": "mode", "chosen": "took"}


@pytest.fixture(params=FRAMES, name="make")
def _make(request):
    return FRAMES[request.param]


def trips(n_sets=8, modes=("air", "train", "bus", "car")):
    """Columns of complete choice sets 1, 2, ...; set i chose its alternative i modulo their number."""
    size = len(modes)
    return {
        "id": [i + 1 for i in range(n_sets) for _ in modes],
        "mode": list(modes) * n_sets,
        "took": [int(j == i % size) for i in range(n_sets) for j in range(size)],
        "price": [10.0 * i + j for i in range(n_sets) for j in range(size)],
    }


def changed(columns, name, row, value):
    """The columns with one cell changed; rows count from 1, as in messages."""
    values = list(columns[name])
    assert values[row - 1] != value
    values[row - 1] = value
    return {**columns, name: values}


def refusal(call, *args, **kwargs):
    with pytest.raises((DataError, ConfigError)) as caught:
        call(*args, **kwargs)
    return caught.value


# --- ragged sets, drawn ---


@st.composite
def ragged(draw):
    """Columns of valid sets of 2 to 5 alternatives, with the sizes."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=12))
    picks = [draw(st.integers(0, size - 1)) for size in sizes]
    ids = draw(st.permutations(range(len(sizes))))
    rows = [(ids[i], f"m{j}", int(j == picks[i])) for i, size in enumerate(sizes) for j in range(size)]
    columns = {
        "id": [r[0] for r in rows],
        "mode": [r[1] for r in rows],
        "took": [r[2] for r in rows],
        "price": [float(k) for k in range(len(rows))],
    }
    return columns, sizes


def reordered(columns, order):
    return {name: [values[k] for k in order] for name, values in columns.items()}


@given(ragged(), st.data())
@settings(max_examples=60, deadline=None)
def test_shuffled_rows_are_the_stable_reorder(drawn, data):
    columns, _ = drawn
    order = data.draw(st.permutations(range(len(columns["id"]))))
    shuffled = reordered(columns, order)
    first_seen = list(dict.fromkeys(shuffled["id"]))
    stable = sorted(range(len(order)), key=lambda k: first_seen.index(shuffled["id"][k]))
    got = ChoiceData.from_frame(pa.table(shuffled), **ROLES)
    by_hand = ChoiceData.from_frame(pa.table(reordered(shuffled, stable)), **ROLES)
    assert by_hand.notes == ()
    moved = sum(k != at for at, k in enumerate(stable))
    word = "was" if moved == 1 else "were"
    expected = f"W304 {moved} of {len(order)} rows {word} moved so that every choice set is contiguous"
    assert got.notes == ((expected,) if moved else ())
    np.testing.assert_array_equal(got.offsets, by_hand.offsets)
    np.testing.assert_array_equal(got.chosen, by_hand.chosen)
    np.testing.assert_array_equal(got.column("price"), by_hand.column("price"))
    assert list(got.ids) == first_seen
    for label in got.labels:
        np.testing.assert_array_equal(got.indicator(label), by_hand.indicator(label))


@given(ragged())
@settings(max_examples=30, deadline=None)
def test_every_frame_gives_the_same_content(drawn):
    columns, sizes = drawn
    made = [ChoiceData.from_frame(make(columns), **ROLES) for make in FRAMES.values()]
    assert len({data.fingerprint(["price"]) for data in made}) == 1
    assert made[0].n_sets == len(sizes)
    np.testing.assert_array_equal(np.diff(made[0].offsets), sizes)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_block_ranges_partition_the_sets(sizes, rows_per_block):
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    ranges = block_ranges(offsets, rows_per_block)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(sizes)
    assert all(stop == after for (_, stop), (after, _) in pairwise(ranges))
    assert all(start < stop for start, stop in ranges)
    aim = offsets[-1] / -(-offsets[-1] // rows_per_block)
    rows = np.array([offsets[stop] - offsets[start] for start, stop in ranges])
    if len(ranges) == -(-offsets[-1] // rows_per_block):  # no cuts coincided
        assert np.all(np.abs(rows - aim) <= max(sizes))


@given(ragged(), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_parts_put_together_are_the_whole(drawn, rows_per_block):
    columns, sizes = drawn
    n = len(columns["id"])
    X = np.arange(2.0 * n).reshape(n, 2)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    data = ChoiceData.from_arrays(features=X, instruments=X**2, chosen=columns["took"], offsets=offsets)
    whole = data.block()
    parts = [whole.part(*ends) for ends in block_ranges(data.offsets, rows_per_block)]
    for name in ("features", "instruments", "chosen"):
        np.testing.assert_array_equal(np.concatenate([getattr(b, name) for b in parts]), getattr(whole, name))
        assert all(np.shares_memory(getattr(b, name), getattr(whole, name)) for b in parts)
    assert [size for b in parts for size in np.diff(b.offsets)] == list(sizes)
    for b in parts:
        assert b.offsets[0] == 0
        assert b.offsets[-1] == b.n_rows == len(b.features)
        for array in (b.features, b.instruments, b.chosen):
            assert array.flags.c_contiguous
            assert array.flags.aligned
            assert not array.flags.writeable


def test_a_part_keeps_the_identity_of_instruments_and_features():
    data = ChoiceData.from_arrays(features=np.ones((4, 1)), chosen=[1, 0, 0, 1], offsets=[0, 2, 4])
    part = data.block().part(0, 1)
    assert part.instruments is part.features
    assert refusal(data.block().part, 1, 1).codes == ("E102",)
    assert refusal(data.block().part, 0, 3).codes == ("E102",)


def test_block_ranges_refuses_no_rows():
    assert "rows_per_block=0" in str(refusal(block_ranges, np.array([0, 2]), 0))


# --- the frame door ---


def test_a_clean_frame_passes_without_a_note(make):
    data = ChoiceData.from_frame(make(trips()), **ROLES)
    assert repr(data) == "<ChoiceData: 8 choice sets, 32 rows, alternatives air, train, bus, car>"
    assert data.notes == ()
    assert data.labels == ("air", "train", "bus", "car")
    assert list(data.ids) == list(range(1, 9))
    np.testing.assert_array_equal(data.indicator("bus"), np.tile([0.0, 0.0, 1.0, 0.0], 8))
    for array in (data.chosen, data.offsets, data.ids, data.column("price"), data.indicator("car")):
        assert not array.flags.writeable


def test_bad_sets_message_is_the_template(make):
    columns = trips(210)
    for row in range(17, 21):
        columns = columns if columns["took"][row - 1] == 0 else changed(columns, "took", row, 0)
    columns = changed(columns, "took", 33 + columns["took"][32:36].index(0), 1)
    assert sum(columns["took"][16:20]) == 0
    assert sum(columns["took"][32:36]) == 2
    error = refusal(ChoiceData.from_frame, make(columns), **ROLES, source="travel_mode.csv")
    assert str(error) == (
        "E302 choice sets without exactly one chosen row: 5 (none chosen), 9 (2 chosen); 2 of 210 sets\n"
        '  where: travel_mode.csv, column "took", rows 17-20 and 33-36\n'
        "  next:  fix the column, or drop such sets with  on_bad_sets: drop"
    )
    data = ChoiceData.from_frame(make(columns), **ROLES, on_bad_sets="drop")
    assert data.n_sets == 208
    assert 5 not in data.ids
    assert 9 not in data.ids
    assert data.notes == (
        "W302 dropped choice sets without exactly one chosen row: "
        "5 (none chosen), 9 (2 chosen); 2 of 210 sets",
    )


def test_rows_in_messages_are_those_of_the_input_after_a_reorder():
    columns = trips(4)
    last_first = reordered(columns, [*range(1, 16), 0])  # the first row of set 1 becomes row 16
    broken = changed(last_first, "took", 16, 0)
    error = refusal(ChoiceData.from_frame, pa.table(broken), **ROLES)
    assert "1 (none chosen); 1 of 4 sets" in str(error)
    assert "rows 1-3 and 16" in str(error)
    with_hole = {**last_first, "price": [*last_first["price"][:15], None]}
    data = ChoiceData.from_frame(pa.table(with_hole), **ROLES)
    assert "price: 1 missing, first at row 16 (set 1)" in str(refusal(data.column, "price"))


def test_many_bad_sets_are_counted_and_five_are_named():
    columns = trips(9)
    columns["took"] = [0] * 36
    text = str(refusal(ChoiceData.from_frame, pa.table(columns), **ROLES))
    assert "1 (none chosen), 2 (none chosen), 3 (none chosen), 4 (none chosen), 5 (none chosen) ...;" in text
    assert "9 of 9 sets" in text


def test_all_structural_complaints_come_together():
    columns = changed(changed(changed(trips(), "id", 3, None), "mode", 9, None), "took", 5, 2)
    error = refusal(ChoiceData.from_frame, pl.DataFrame(columns, strict=False), **ROLES)
    assert error.codes == ("E310", "E303", "E310")
    assert "id: 1 missing, first at row 3" in str(error)
    assert "mode: 1 missing, first at row 9" in str(error)
    both = changed(changed(trips(), "took", 1, 0), "mode", 6, "air")
    assert refusal(ChoiceData.from_frame, pl.DataFrame(both), **ROLES).codes == ("E302", "E305")
    worse = changed(changed(trips(), "took", 1, 7), "mode", 6, "air")
    assert refusal(ChoiceData.from_frame, pl.DataFrame(worse), **ROLES).codes == ("E303", "E305")


def test_an_alternative_twice_in_a_set(make):
    error = refusal(ChoiceData.from_frame, make(changed(trips(), "mode", 22, "bus")), **ROLES, source="t.csv")
    assert error.codes == ("E305",)
    assert "an alternative more than once in a choice set: bus in set 6" in str(error)
    assert 't.csv, column "mode", rows 22-23' in str(error)


def test_absent_columns_have_a_suggestion(make):
    error = refusal(ChoiceData.from_frame, make(trips()), case="idd", alternative="moda", chosen="zzz")
    assert error.codes == ("E315", "E315", "E315")
    assert 'no column "idd" (named as case); did you mean "id"?' in str(error)
    assert 'no column "moda" (named as alternative); did you mean "mode"?' in str(error)
    assert 'no column "zzz" (named as chosen)\n' in str(error)
    assert "its columns are id, mode, took, price" in str(error)


def test_duplicate_column_names():
    frame = pd.DataFrame(trips())
    twice = pd.concat([frame, frame[["price"]]], axis=1)
    assert list(twice.columns).count("price") == 2
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["price", "price"])
    for broken in (twice, table):
        error = refusal(ChoiceData.from_frame, broken, **ROLES)
        assert error.codes == ("E314",)
        assert 'column names that occur twice: "price"' in str(error)


def test_integer_column_names_of_pandas_do_no_harm():
    frame = pd.DataFrame({**trips(), 0: 1.0})
    assert ChoiceData.from_frame(frame, **ROLES).n_sets == 8
    assert refusal(ChoiceData.from_frame, frame, case="ids", chosen="took").codes == ("E315",)


@pytest.mark.parametrize("not_a_frame", [{"id": [1]}, np.eye(2), "trips.csv", pl.LazyFrame({"id": [1]})])
def test_what_is_no_frame_is_refused(not_a_frame):
    error = refusal(ChoiceData.from_frame, not_a_frame, **ROLES)
    assert error.codes == ("E102",)
    assert type(not_a_frame).__name__ in str(error)


def test_options_are_words():
    error = refusal(ChoiceData.from_frame, pa.table(trips()), **ROLES, on_bad_sets="dropp")
    assert str(error) == 'E102 on_bad_sets=\'dropp\': expected "error" or "drop"; did you mean "drop"?'
    error = refusal(ChoiceData.from_frame, pa.table(trips()), **ROLES, missing="drop")
    assert 'expected "error" or "drop_set"' in str(error)


def test_a_frame_changed_afterwards_changes_nothing():
    of_pandas, of_polars = pd.DataFrame(trips()), pl.DataFrame(trips())
    made = [ChoiceData.from_frame(frame, **ROLES) for frame in (of_pandas, of_polars)]
    before = [data.fingerprint(["price"]) for data in made]
    of_pandas.loc[1, "price"] = 1e6
    of_polars[1, "price"] = 1e6
    assert of_pandas["price"][1] == of_polars["price"][1] == 1e6
    assert [data.fingerprint(["price"]) for data in made] == before


# --- ids ---

BIG, NEXT = 9007199254740993, 9007199254740992


def test_ids_that_became_floats_are_refused():
    ids = [BIG, BIG, NEXT, NEXT, None]
    frame = pd.DataFrame({"id": ids, "took": [1, 0, 0, 1, 0]})
    assert frame["id"].dtype == np.float64  # pandas did this,
    assert frame["id"].nunique() == 1  # and two ids are one
    error = refusal(ChoiceData.from_frame, frame, case="id", chosen="took")
    assert error.codes == ("E312", "E310")
    assert "id holds floats (double); ids must be integers or text" in str(error)
    assert "id: 1 missing, first at row 5" in str(error)


@pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]", "object"])
def test_large_integer_ids_stay_apart(dtype):
    frame = pd.DataFrame({"id": pd.array([BIG, BIG, NEXT, NEXT], dtype=dtype), "took": [1, 0, 0, 1]})
    data = ChoiceData.from_frame(frame, case="id", chosen="took")
    assert list(data.ids) == [BIG, NEXT]
    with_hole = pd.DataFrame({"id": pd.array([BIG, BIG, None, NEXT], dtype=dtype), "took": [1, 0, 0, 1]})
    assert refusal(ChoiceData.from_frame, with_hole, case="id", chosen="took").codes == ("E310",)


def test_text_ids_that_look_like_one_number_stay_apart(make):
    frame = make({"id": ["007", "007", "07", "07", "7", "7"], "took": [1, 0, 0, 1, 1, 0]})
    assert list(ChoiceData.from_frame(frame, case="id", chosen="took").ids) == ["007", "07", "7"]


def test_other_kinds_of_ids():
    columns = {"id": ["a", "a", "b", "b"], "took": [True, False, False, True]}
    assert list(
        ChoiceData.from_frame(pd.DataFrame(columns).astype({"id": "category"}), case="id", chosen="took").ids
    ) == ["a", "b"]
    category = pl.DataFrame(columns, schema_overrides={"id": pl.Categorical})
    assert list(ChoiceData.from_frame(category, case="id", chosen="took").ids) == ["a", "b"]
    mixed = pd.DataFrame({**columns, "id": pd.Series([1, 1, "b", "b"], dtype=object)})
    error = refusal(ChoiceData.from_frame, mixed, case="id", chosen="took")
    assert error.codes == ("E312",)
    assert "id mixes types: row 3 holds 'b'" in str(error)
    blank = pd.DataFrame({**columns, "id": ["a", "a", "", "b"]})
    assert refusal(ChoiceData.from_frame, blank, case="id", chosen="took").codes == ("E310",)
    dates = pl.DataFrame({**columns, "id": pl.Series([1, 1, 2, 2]).cast(pl.Date)})
    assert "id holds date32[day]; ids must be integers or text" in str(
        refusal(ChoiceData.from_frame, dates, case="id", chosen="took")
    )
    assert refusal(
        ChoiceData.from_frame, pl.DataFrame({**columns, "id": [1.0, 1.0, 2.0, 2.0]}), case="id", chosen="took"
    ).codes == ("E312",)
    alternatives = pl.DataFrame({**columns, "mode": [1.0, 2.0, 1.0, 2.0]})
    assert refusal(ChoiceData.from_frame, alternatives, **ROLES).codes == ("E312",)


def test_integer_alternatives_are_labelled_by_their_digits():
    data = ChoiceData.from_frame(pa.table({**trips(2), "mode": [3, 1, 2, 4] * 2}), **ROLES)
    assert data.labels == ("3", "1", "2", "4")
    assert 'no alternative "5"' in str(refusal(data.indicator, 5))


# --- chosen ---

GOOD_CHOSEN = {
    "bool": [True, False, False, True],
    "int": [1, 0, 0, 1],
    "float": [1.0, 0.0, -0.0, 1.0],
}
BAD_CHOSEN = {
    "yes": (["yes", "no", "no", "yes"], "found text 'yes' at row 1"),
    "text one": (["1", "0", "0", "1"], "found text '1' at row 1"),
    "two": ([1, 0, 0, 2], "found 2 at row 4; 1 of 4 rows"),
    "share": ([0.25, 0.75, 0.0, 1.0], "found 0.25 at row 1; 2 of 4 rows"),
    "nan": ([1.0, 0.0, float("nan"), 1.0], "found a missing value at row 3"),
    "inf": ([1.0, 0.0, 0.0, float("inf")], "found inf at row 4"),
    "null": ([True, False, None, True], "found a missing value at row 3"),
    "negative": ([1, 0, 0, -1], "found -1 at row 4"),
}


@pytest.mark.parametrize("values", GOOD_CHOSEN.values(), ids=GOOD_CHOSEN)
def test_chosen_is_zero_or_one(make, values):
    data = ChoiceData.from_frame(make({"id": [1, 1, 2, 2], "took": values}), case="id", chosen="took")
    assert data.chosen.tobytes() == np.array([1.0, 0.0, 0.0, 1.0]).tobytes()


@pytest.mark.parametrize(("values", "words"), BAD_CHOSEN.values(), ids=BAD_CHOSEN)
def test_chosen_that_is_neither_is_refused(make, values, words):
    frame = make({"id": [1, 1, 2, 2], "took": values})
    error = refusal(
        ChoiceData.from_frame, frame, case="id", chosen="took", on_bad_sets="drop", missing="drop_set"
    )
    assert error.codes == ("E303",)
    assert "took must be 0 or 1" in str(error)
    assert words in str(error)


# --- columns ---


@pytest.mark.parametrize("hole", [None, float("nan")])
def test_missing_values_are_named(make, hole):
    columns = trips()
    columns["price"] = [hole if k in (16, 20, 29) else p for k, p in enumerate(columns["price"])]
    data = ChoiceData.from_frame(make(columns), **ROLES, source="trips.csv")
    for call in (lambda: data.complete(["price"]), lambda: data.column("price")):
        assert str(refusal(call)) == (
            "E310 price: 3 missing, first at row 17 (set 5)\n"
            '  where: trips.csv, column "price", rows 17, 21 and 30\n'
            "  next:  fill or remove these cells, or drop the choice sets that miss a value with  "
            "missing: drop_set"
        )


def test_missing_sets_are_dropped_whole_if_asked(make):
    columns = trips()
    columns["price"] = [None if k in (16, 17, 29) else p for k, p in enumerate(columns["price"])]
    columns["time"] = [None if k == 0 else 1.0 for k in range(32)]
    data = ChoiceData.from_frame(make(columns), **ROLES, missing="drop_set")
    left = data.complete(["price"])
    assert left.notes == ("W310 dropped 2 of 8 choice sets with missing values: price (3)",)
    assert list(left.ids) == [1, 2, 3, 4, 6, 7]
    assert left.n_rows == left.chosen.size == 24
    assert left.complete(["price"]) is left
    assert data.n_sets == 8
    assert data.fingerprint(["price"]) == left.fingerprint(["price"])
    again = left.complete(["price", "time"])
    assert again.notes[1:] == ("W310 dropped 1 of 6 choice sets with missing values: time (1)",)
    without = {name: [v for k, v in enumerate(vs) if k // 4 not in (0, 4, 7)] for name, vs in columns.items()}
    assert again.fingerprint(["price"]) == ChoiceData.from_frame(make(without), **ROLES).fingerprint(
        ["price"]
    )


def test_infinite_values_are_never_dropped(make):
    columns = changed(changed(trips(), "price", 3, float("inf")), "price", 9, float("nan"))
    data = ChoiceData.from_frame(make(columns), **ROLES, missing="drop_set")
    error = refusal(data.complete, ["price"])
    assert "price: 1 missing, first at row 9 (set 3); 1 infinite, first at row 3 (set 1)" in str(error)
    assert "correct the infinite values" in str(error)


def test_all_columns_are_checked_together():
    columns = {**trips(), "cost": ["1,234.5"] + ["7"] * 31, "time": [None] + [1.0] * 31}
    data = ChoiceData.from_frame(pa.table(columns), **ROLES)
    error = refusal(data.complete, ["pirce", "cost", "time", "price"])
    assert error.codes == ("E315", "E311", "E310")
    assert 'no column "pirce"; did you mean "price"?' in str(error)
    assert "cost is text, not numbers: row 1 holds '1,234.5'" in str(error)
    assert "without thousands separators" in str(error)


def test_nothing_is_left():
    columns = {**trips(2), "price": [None] * 8}
    data = ChoiceData.from_frame(pl.DataFrame(columns), **ROLES, missing="drop_set")
    error = refusal(data.complete, ["price"])
    assert error.codes == ("E306",)
    assert "no choice set is left: W310 dropped 2 of 2 choice sets with missing values: price (8)" in str(
        error
    )
    nobody = pl.DataFrame({**trips(2), "took": [0] * 8})
    assert refusal(ChoiceData.from_frame, nobody, **ROLES, on_bad_sets="drop").codes == ("E306",)
    assert refusal(ChoiceData.from_frame, nobody.clear(), **ROLES).codes == ("E306",)


NUMERIC = {
    "float64": np.array([1.5, 2.0, 0.0, -3.0]),
    "float32": np.array([1.5, 2.0, 0.0, -3.0], dtype=np.float32),
    "int8": np.array([1, 2, 0, -3], dtype=np.int8),
    "uint64": np.array([1, 2, 0, 2**63], dtype=np.uint64),
    "least": np.array([1, 2, 0, -(2**63)], dtype=np.int64),
    "bool": np.array([True, False, False, True]),
}


@pytest.mark.parametrize("values", NUMERIC.values(), ids=NUMERIC)
def test_numeric_dtypes_become_float64(make, values):
    data = ChoiceData.from_frame(
        make({"id": [1, 1, 2, 2], "y": [1, 0, 0, 1], "x": values}), case="id", chosen="y"
    )
    column = data.column("x")
    assert column.dtype == np.float64
    assert [int(2 * a) for a in column] == [
        int(2 * v) if values.dtype.kind == "f" else 2 * int(v) for v in values
    ]


def test_nullable_and_decimal_columns():
    base = {"id": [1, 1, 2, 2], "y": [1, 0, 0, 1]}
    nullable = pd.DataFrame(
        {
            **base,
            "x": pd.array([1, 2, None, 4], dtype="Int64"),
            "b": pd.array([True, None, False, True], dtype="boolean"),
        }
    )
    data = ChoiceData.from_frame(nullable, case="id", chosen="y", missing="drop_set")
    np.testing.assert_array_equal(data.complete(["x"]).column("x"), [1.0, 2.0])
    assert "b: 1 missing, first at row 2 (set 1)" in str(refusal(data.column, "b"))
    decimal = pl.DataFrame({**base, "x": pl.Series(["1.25", "2", "3", "4"]).cast(pl.Decimal(10, 2))})
    np.testing.assert_array_equal(
        ChoiceData.from_frame(decimal, case="id", chosen="y").column("x"), [1.25, 2.0, 3.0, 4.0]
    )


NOT_NUMBERS = {
    "text": (pl.Series(["1", "2", "3", "x4"]), "row 4 holds 'x4'"),
    "digits": (pl.Series(["1", "2", "3", "4"]), "row 1 holds '1'"),
    "category": (pl.Series(["1", "2", "3", "4"], dtype=pl.Categorical), "row 1 holds '1'"),
    "date": (pl.Series([1, 2, 3, 4]).cast(pl.Date), "x is date32[day], not numbers: row 1 holds 1970-01-02"),
    "beyond": (pl.Series([1, 2, 3, 2**53 + 1]), "row 4 holds 9007199254740993, which float64 cannot hold"),
    "list": (pl.Series([[1], [2], [3], [4]]), "not numbers"),
    "int128": (pl.Series([1, 2, 3, 4], dtype=pl.Int128), "cannot be read exactly"),
}


@pytest.mark.parametrize(("series", "words"), NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_what_is_no_number_is_refused(series, words):
    frame = pl.DataFrame({"id": [1, 1, 2, 2], "y": [1, 0, 0, 1], "x": series})
    error = refusal(ChoiceData.from_frame(frame, case="id", chosen="y").complete, ["x"])
    assert error.codes == ("E311",)
    assert words in str(error)


def test_a_late_change_of_type_is_named():
    frame = pd.DataFrame(
        {"id": [1, 1, 2, 2], "y": [1, 0, 0, 1], "x": pd.Series([1, 2, 3, "A1"], dtype=object)}
    )
    data = ChoiceData.from_frame(frame, case="id", chosen="y")
    assert "x mixes types: row 4 holds 'A1'" in str(refusal(data.column, "x"))


def test_unknown_alternatives_have_a_suggestion():
    data = ChoiceData.from_frame(pa.table(trips()), **ROLES, source="trips.csv")
    error = refusal(data.indicator, "trian")
    assert error.codes == ("E316",)
    assert 'no alternative "trian"; did you mean "train"?' in str(error)
    assert "the alternatives are air, train, bus, car" in str(error)
    unnamed = ChoiceData.from_frame(pa.table(trips()), case="id", chosen="took")
    assert unnamed.labels == ()
    assert "the data name no column of alternatives" in str(refusal(unnamed.indicator, "air"))


ODD_COLUMNS = {
    "string views": pa.table({"x": pa.array(["a", "a", "b", "b"], pa.string_view())}),
    "run ends": pa.table({"x": pc.run_end_encode(pa.array([7, 7, 8, 8]))}),
    "chunks": pa.concat_tables([pa.table({"x": [7, 7]}), pa.table({"x": [8, 8]})]),
    "objects": pd.DataFrame({"x": pd.Series([np.int64(7), 7, 8, 8], dtype=object)}),
}


@pytest.mark.parametrize("frame", ODD_COLUMNS.values(), ids=ODD_COLUMNS)
def test_ids_of_every_storage(frame):
    took = [True, False, False, True]
    frame = frame.assign(y=took) if isinstance(frame, pd.DataFrame) else frame.append_column("y", [took])
    data = ChoiceData.from_frame(frame, case="x", chosen="y")
    assert [str(i) for i in data.ids] in (["a", "b"], ["7", "8"])


@pytest.mark.parametrize("value", [2**70, 1j, object()])
def test_columns_of_objects_are_refused_if_they_are_no_numbers(value):
    cells = pd.Series([value, 1.5, 3, 4], dtype=object)
    frame = pd.DataFrame({"id": [1, 1, 2, 2], "y": [1, 0, 0, 1], "x": cells})
    assert refusal(ChoiceData.from_frame(frame, case="id", chosen="y").column, "x").codes == ("E311",)
    assert refusal(ChoiceData.from_frame, frame, case="x", chosen="y").codes == ("E312",)
    assert refusal(ChoiceData.from_frame, frame, case="id", chosen="x").codes == ("E303",)


@given(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1), st.integers(0, 63).map(lambda k: -(2**k)), st.just(2**62 + 512)
    )
)
@settings(max_examples=200, deadline=None)
def test_inexact_is_what_a_round_trip_loses(value):
    assert inexact(np.array([value, 2**60], dtype=np.int64))[0] == (int(float(value)) != value)


# --- sets with one alternative ---


def test_single_alternatives_change_nothing_but_the_note(make):
    columns = trips()
    lone = {
        name: [*values[:8], extra, *values[8:]]
        for (name, values), extra in zip(columns.items(), (99, "ship", 1, 5.0), strict=True)
    }
    data = ChoiceData.from_frame(make(lone), **ROLES)
    assert data.notes == ("W301 1 choice set with one alternative carries no information; dropped",)
    assert data.labels == ("air", "train", "bus", "car")
    assert data.fingerprint(["price"]) == ChoiceData.from_frame(make(columns), **ROLES).fingerprint(["price"])
    unchosen = changed(lone, "took", 9, 0)
    assert "99 (none chosen)" in str(refusal(ChoiceData.from_frame, make(unchosen), **ROLES))


def test_single_alternatives_in_arrays():
    X = np.arange(12.0).reshape(6, 2)
    data = ChoiceData.from_arrays(features=X, chosen=[1, 0, 1, 0, 1, 1], offsets=[0, 2, 3, 5, 6])
    assert data.notes == ("W301 2 choice sets with one alternative carry no information; dropped",)
    np.testing.assert_array_equal(data.features, X[[0, 1, 3, 4]])
    assert data.instruments is data.features
    assert list(data.ids) == [0, 2]
    again = ChoiceData.from_arrays(features=X[[0, 1, 3, 4]], chosen=[1, 0, 0, 1], offsets=[0, 2, 4])
    assert data.fingerprint() == again.fingerprint()


def test_single_alternatives_of_moment_differences_stay_where_they_count():
    D = np.array([[1.0], [0.0], [0.0], [3.0]])
    data = ChoiceData.from_arrays(features=np.ones((4, 1)), moment_differences=D, offsets=[0, 2, 3, 4])
    assert not data.has_choices
    np.testing.assert_array_equal(data.offsets, [0, 2, 3])
    np.testing.assert_array_equal(data.instruments, D[[0, 1, 3]])
    np.testing.assert_array_equal(data.chosen, 0.0)


# --- the array door ---


def arrays(**changes):
    """Arguments of four rows in two sets."""
    good = {"features": np.arange(8.0).reshape(4, 2), "chosen": np.array([1, 0, 0, 1]), "offsets": [0, 2, 4]}
    return {**good, **changes}


def test_names_of_arrays():
    data = ChoiceData.from_arrays(**arrays(instruments=np.ones((4, 3))))
    assert data.feature_names == ("x0", "x1")
    assert data.instrument_names == ("z0", "z1", "z2")
    np.testing.assert_array_equal(data.column("x1"), [1.0, 3.0, 5.0, 7.0])
    np.testing.assert_array_equal(data.column("z2"), np.ones(4))
    assert data.complete(["x0"]) is data
    assert 'no column "x7"' in str(refusal(data.complete, ["x7"]))
    own = ChoiceData.from_arrays(**arrays(feature_names=["gc", "ttme"]))
    assert own.instrument_names == ("gc", "ttme")


def test_one_name_for_two_columns_is_refused():
    X = arrays()["features"]
    shared = arrays(instruments=np.column_stack([X, X[:, 0] ** 2]), feature_names=["a", "b"])
    data = ChoiceData.from_arrays(**shared, instrument_names=["a", "b", "a2"])
    assert data.instrument_names == ("a", "b", "a2")
    error = refusal(ChoiceData.from_arrays, **shared, instrument_names=["a", "q", "b"])
    assert error.codes == ("E314",)
    assert 'for a feature and for a different instrument: "b"' in str(error)
    assert refusal(ChoiceData.from_arrays, **arrays(feature_names=["a", "a"])).codes == ("E314",)
    assert refusal(ChoiceData.from_arrays, **arrays(feature_names=["a"])).codes == ("E307",)
    assert refusal(ChoiceData.from_arrays, **arrays(feature_names="ab")).codes == ("E307",)


def test_exactly_one_door_of_arrays():
    D = np.ones((4, 1))
    X, offsets = arrays()["features"], [0, 2, 4]
    assert "neither was given" in str(refusal(ChoiceData.from_arrays, features=X, offsets=offsets))
    assert "both were given" in str(refusal(ChoiceData.from_arrays, **arrays(moment_differences=D)))
    both = {"features": X, "offsets": offsets, "instruments": D, "moment_differences": D}
    assert "two names of one matrix" in str(refusal(ChoiceData.from_arrays, **both))


BAD_ARRAYS = {
    "text": ({"features": np.array([["a"], ["b"], ["c"], ["d"]])}, "E311", "found dtype <U1"),
    "object": ({"features": np.ones((4, 1), dtype=object)}, "E311", "found dtype object"),
    "complex": ({"features": np.ones((4, 1), dtype=complex)}, "E311", "found dtype complex128"),
    "beyond": ({"features": np.full((4, 1), 2**53 + 1)}, "E311", "beyond 2**53"),
    "nan": (
        {"features": np.array([[1.0], [np.nan], [1.0], [1.0]])},
        "E310",
        "1 missing (NaN), first at features[1, 0]",
    ),
    "inf": (
        {"features": np.array([[1.0], [1.0], [np.inf], [1.0]])},
        "E310",
        "1 infinite, first at features[2, 0]",
    ),
    "longdouble": ({"features": np.full((4, 1), np.longdouble("1e400"))}, "E310", "4 infinite"),
    "masked": ({"features": np.ma.masked_equal(np.arange(4.0).reshape(4, 1), 2.0)}, "E310", "1 value masked"),
    "vector": ({"features": np.ones(4)}, "E307", "shape (4,), expected (rows, columns)"),
    "ragged": ({"features": [[1.0], [1.0, 2.0]]}, "E307", "is not an array"),
    "no columns": ({"features": np.ones((4, 0))}, "E307", "no columns"),
    "rows of instruments": (
        {"instruments": np.ones((3, 1))},
        "E307",
        "instruments has 3 rows, features has 4",
    ),
    "rows of chosen": ({"chosen": [1, 0]}, "E307", "chosen has 2 rows, features has 4"),
    "share": ({"chosen": [0.5, 0.5, 0, 1]}, "E303", "found 0.5; 2 of 4 rows"),
    "chosen text": ({"chosen": ["1", "0", "0", "1"]}, "E303", "real numbers"),
    "chosen nan": ({"chosen": [1, 0, np.nan, 1]}, "E303", "chosen[2]"),
    "two": ({"chosen": [1, 1, 0, 1]}, "E302", "0 (2 chosen); 1 of 2 sets\n  where: chosen[0:2]"),
    "float offsets": ({"offsets": [0.0, 2.0, 4.0]}, "E308", "dtype float64"),
    "late start": ({"offsets": [1, 2, 4]}, "E308", "must start at 0, found 1"),
    "short": ({"offsets": [0, 2]}, "E308", "number of rows, 4; found 2"),
    "empty set": ({"offsets": [0, 2, 2, 4]}, "E308", "offsets[1] = 2, offsets[2] = 2, so set 1 has no rows"),
    "falling": ({"offsets": [0, 3, 2, 4]}, "E308", "offsets[1] = 3, offsets[2] = 2"),
    "no offsets": ({"offsets": [0]}, "E306", "no choice sets"),
}


@pytest.mark.parametrize(("changes", "code", "words"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays(changes, code, words):
    error = refusal(ChoiceData.from_arrays, **arrays(**changes))
    assert error.codes == (code,)
    assert words in str(error)


def test_complaints_about_arrays_come_together():
    error = refusal(
        ChoiceData.from_arrays,
        features=np.full((4, 1), np.nan),
        instruments=np.ones(4),
        chosen=["a"] * 4,
        offsets=[0, 4, 2],
    )
    assert error.codes == ("E310", "E307", "E308", "E303")


@pytest.mark.parametrize("dtype", [np.float16, ">f4", np.int32, np.bool_, ">f8", np.longdouble])
def test_other_real_dtypes_are_converted(dtype):
    X = np.array([[0, 1], [1, 0], [1, 1], [0, 0]], dtype=dtype)
    data = ChoiceData.from_arrays(**arrays(features=X))
    assert data.features.dtype == np.float64
    np.testing.assert_array_equal(data.features, X.astype(np.float64))


def test_writable_arrays_are_copied_and_read_only_ones_shared():
    X = arrays()["features"]
    data = ChoiceData.from_arrays(**arrays(features=X))
    assert X.flags.writeable
    X[0, 0] = 99.0
    assert data.features[0, 0] == 0.0
    X.flags.writeable = False
    assert np.shares_memory(ChoiceData.from_arrays(**arrays(features=X)).features, X)
    slanted = np.asfortranarray(X)
    assert ChoiceData.from_arrays(**arrays(features=slanted)).features.flags.c_contiguous


def test_bool_and_integer_choices_are_one_content():
    doors = [np.array([1, 0, 0, 1]), np.array([True, False, False, True]), [1.0, 0.0, 0.0, 1.0]]
    assert len({ChoiceData.from_arrays(**arrays(chosen=y)).fingerprint() for y in doors}) == 1


# --- blocks of features that a model makes ---


def test_blocks_take_features_made_elsewhere():
    data = ChoiceData.from_frame(pa.table(trips()), **ROLES)
    assert data.features is None
    X = np.ascontiguousarray(np.column_stack([data.column("price"), data.indicator("air")]))
    block = data.block(X)
    assert isinstance(block, Block)
    assert np.shares_memory(block.features, X)
    assert block.instruments is block.features
    assert X.flags.writeable
    other = data.block(X, X[:, :1] ** 2)
    assert other.instruments.shape == (32, 1)
    assert "32" in str(refusal(data.block, X[:8]))
    overflowed = np.concatenate([[[np.inf]], np.ones((31, 1))])
    assert "1 infinite, first at features[0, 0]" in str(refusal(data.block, overflowed))
    assert refusal(data.block).codes == ("E102",)


def test_moment_differences_stay_with_new_features():
    D = np.arange(4.0).reshape(4, 1)
    data = ChoiceData.from_arrays(features=np.ones((4, 1)), moment_differences=D, offsets=[0, 2, 4])
    np.testing.assert_array_equal(data.block(np.ones((4, 5))).instruments, D)


# --- fingerprints, records, imports ---


def test_fingerprints_follow_the_content_and_nothing_else():
    columns = trips()
    first = ChoiceData.from_frame(pa.table(columns), **ROLES)
    renamed = {**columns, "id": [f"case {i}" for i in columns["id"]]}
    assert first.fingerprint(["price"]) == ChoiceData.from_frame(
        pa.table(renamed), **ROLES, source="x"
    ).fingerprint(["price"])
    assert first.fingerprint() != first.fingerprint(["price"])
    for name, row, value in (("price", 3, -1.0), ("mode", 3, "ship")):
        other = ChoiceData.from_frame(pa.table(changed(columns, name, row, value)), **ROLES)
        assert other.fingerprint(["price"]) != first.fingerprint(["price"])


def test_records_are_frozen_and_travel():
    data = ChoiceData.from_arrays(**arrays())
    with pytest.raises(FrozenInstanceError):
        data.chosen = data.chosen
    with pytest.raises(ValueError, match="read-only"):
        data.features[0, 0] = 1.0
    assert pickle.loads(pickle.dumps(data)).fingerprint() == data.fingerprint()
    part = pickle.loads(pickle.dumps(data.block().part(1, 2)))
    np.testing.assert_array_equal(part.features, data.features[2:])


def test_the_import_is_light():
    heavy = "{'narwhals', 'pyarrow', 'pandas', 'polars', 'scipy', 'jax', 'statsmodels'}"
    doors = "gmmest.data.choice_data, gmmest.data.table, gmmest.data.readers"
    code = f"import sys, {doors}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_million_shuffled_rows_come_together_again():
    n_sets, size = 250_000, 4
    rng = np.random.default_rng(1)
    picks = rng.integers(0, size, n_sets)
    table = pa.table(
        {
            "id": np.repeat(np.arange(n_sets), size),
            "mode": pa.array(np.tile(["air", "train", "bus", "car"], n_sets)),
            "took": np.eye(size, dtype=np.int8)[picks].ravel(),
            "price": rng.normal(size=n_sets * size),
        }
    ).take(rng.permutation(n_sets * size))
    data = ChoiceData.from_frame(table, **ROLES).complete(["price"])
    assert data.n_sets == n_sets
    assert np.array_equal(np.diff(data.offsets), np.full(n_sets, size))
    assert np.isclose(data.column("price").sum(), np.sum(table["price"].to_numpy()), rtol=1e-12)
    assert np.array_equal(np.add.reduceat(data.chosen, data.offsets[:-1]), np.ones(n_sets))
