"""Laws of the readers: no type is guessed, no row is lost, and every refusal names its row."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmest.data.choice_data import ChoiceData
from gmmest.data.readers import file_sha256, read_frame
from gmmest.errors import ConfigError, DataError, FileError, GmmestError


@pytest.fixture(name="write")
def _write(tmp_path):
    def write(content, name="trips.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def read(path, text=("id",), numbers=("price",), flags=()):
    return read_frame(path, text=text, numbers=numbers, flags=flags)


def refusal(call, *args, **kwargs):
    with pytest.raises(GmmestError) as caught:
        call(*args, **kwargs)
    return caught.value


# --- cells ---

GOOD_NUMBERS = {
    "7": 7.0,
    "-7": -7.0,
    "+7.5": 7.5,
    "7.": 7.0,
    ".5": 0.5,
    "-.5": -0.5,
    " 7 ": 7.0,
    "1e3": 1e3,
    "1E-3": 1e-3,
    "+1.5e+3": 1.5e3,
    "007": 7.0,
    "0e400": 0.0,
    "0.1": 0.1,
    "1.7976931348623157e308": 1.7976931348623157e308,
    "5e-324": 5e-324,
    "9007199254740993": 9007199254740992.0,
}

# What readers elsewhere take for a number, for a missing value, or for the type of a whole column.
BAD_NUMBERS = {
    "NA": "leave the cell empty",
    "NaN": "leave the cell empty",
    ".": "leave the cell empty",
    "NA ": "leave the cell empty",
    "1,234.5": "without thousands separators",
    "1e400": "",
    "1e-400": "",
    "TRUE": "write 1 and 0",
    "٣": "convert the column to numbers",
    "0x10": "convert the column to numbers",
    "inf": "infinite",
    "-Infinity": "infinite",
    "1_000": "",
    "1d5": "",
    "1 000": "",
    "\u00a07": "",
    "7\t": "",
    "--7": "",
    "+-7": "",
    "1e": "",
    "e5": "",
    "$7": "",
    "7%": "",
    "12:30": "",
}


@pytest.mark.parametrize(("cell", "value"), GOOD_NUMBERS.items())
def test_plain_numbers_are_read(write, cell, value):
    column = read(write(f'id,price\na,1\nb,"{cell}"\n'))["price"]
    assert column.type == pa.float64()
    assert np.float64(column[1].as_py()).tobytes() == np.float64(value).tobytes()


@pytest.mark.parametrize(("cell", "hint"), BAD_NUMBERS.items())
def test_other_spellings_of_numbers_are_refused(write, cell, hint):
    error = refusal(read, write(f'id,price\na,1\nb,2\nc,"{cell}"\n'))
    assert isinstance(error, DataError)
    assert error.codes == ("E311",)
    assert "price: row 3 holds '" in str(error)
    assert 'where: trips.csv, column "price", row 3' in str(error)
    assert hint in error.complaints[0].next


def test_the_other_readers_do_not_refuse(write):
    """The premise of reading text first: a bad cell silently makes text of the column."""
    path = write('id,price\n1,1\n2,"1,234.5"\n')
    assert not pd.api.types.is_numeric_dtype(pd.read_csv(path)["price"])
    assert pl.read_csv(path)["price"].dtype == pl.String
    assert pa.csv.read_csv(path)["price"].type == pa.string()


def test_many_bad_cells_are_counted_and_listed(write):
    rows = "".join(f"c{k},{'NA' if k % 2 else 'n/a'}\n" for k in range(20))
    text = str(refusal(read, write("id,price\nfirst,1\n" + rows)))
    assert "price: row 2 holds 'n/a', expected a plain number; also 'NA' ..., 20 cells in all" in text
    assert "rows 2-21" in text


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_numbers_survive_the_file(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_text("id,price\n" + "".join(f"a,{value!r}\n" for value in values))
    back = np.array(read(path)["price"], dtype=np.float64)
    assert back.tobytes() == np.array(values).tobytes()


def test_empty_cells_are_missing(write):
    table = read(write('id,price,took\n,1,1\nb,,\n"",2,0\nd,"",1\n'), flags=["took"])
    assert table.to_pydict() == {
        "id": [None, "b", None, "d"],
        "price": [1.0, None, 2.0, None],
        "took": [True, None, False, True],
    }


def test_ids_stay_text(write):
    path = write("id,price\n007,1\n07,2\n7,3\n7.0,4\n9007199254740993,5\n9007199254740992,6\nNA,7\n 7,8\n")
    ids = read(path)["id"].to_pylist()
    assert ids == ["007", "07", "7", "7.0", "9007199254740993", "9007199254740992", "NA", " 7"]
    assert pd.read_csv(write("id\n007\n07\n7\n"))["id"].nunique() == 1  # what is avoided


@pytest.mark.parametrize(
    ("cell", "value"), [("1", True), ("0", False), ("TRUE", True), ("False", False), (" true ", True)]
)
def test_flags(write, cell, value):
    assert read(write(f"id,price,took\na,1,{cell}\n"), flags=["took"])["took"].to_pylist() == [value]


@pytest.mark.parametrize("cell", ["yes", "2", "1.0", "t", "NA", "-1", "٣"])
def test_other_flags_are_refused(write, cell):
    error = refusal(read, write(f"id,price,took\na,1,1\na,1,{cell}\n"), flags=["took"])
    assert error.codes == ("E303",)
    assert f"took: row 2 holds '{cell}', expected 0, 1, true or false" in str(error)


def test_all_columns_complain_together(write):
    path = write("id,price,cost,took\na,NA,1,1\nb,2,x,maybe\n")
    error = refusal(read, path, numbers=["price", "cost"], flags=["took"])
    assert error.codes == ("E311", "E311", "E303")


def test_a_late_change_of_type_is_found(write):
    rows = "".join(f"{k},1\n" for k in range(200_000))
    error = refusal(read, write("id,price\n" + rows + "x,A1\n"))
    assert "row 200,001 holds 'A1'" in str(error)


# --- columns ---


def test_only_the_named_columns_are_read(write):
    path = write("note,price,id\nwhatever,1,a\nNaN,2,b\n")
    assert read(path).to_pydict() == {"id": ["a", "b"], "price": [1.0, 2.0]}
    assert read(path, text=["id", "id"], numbers=[]).column_names == ["id"]


def test_absent_and_repeated_names(write):
    path = write("id,price,mode,mode\na,1,x,y\n")
    error = refusal(read, path, text=["idd"], numbers=["prize"])
    assert error.codes == ("E314", "E315", "E315")
    assert 'column names that occur twice: "mode"' in str(error)
    assert 'no column "prize"; did you mean "price"?' in str(error)
    assert "trips.csv" in str(error)


def test_a_column_has_one_type(write):
    error = refusal(read, write("id,price\na,1\n"), text=["id"], numbers=["id"])
    assert isinstance(error, ConfigError)
    assert 'column "id" is declared both as text and as numbers' in str(error)


# --- files ---


@pytest.mark.parametrize(
    "name", ["http://x.org/a.csv", "https://x/a.parquet", "s3://b/a.csv", "file:///tmp/a.csv"]
)
def test_urls_are_refused(name):
    error = refusal(read, name)
    assert isinstance(error, ConfigError)
    assert error.codes == ("E107",)


@pytest.mark.parametrize("name", ["trips.xlsx", "trips.csv.gz", "trips", "trips.pkl"])
def test_other_kinds_are_refused(write, name):
    error = refusal(read, write("id,price\na,1\n", name))
    assert isinstance(error, FileError)
    assert error.codes == ("E510",)
    assert ".csv and .parquet" in str(error)


def test_absent_files_and_folders(write, tmp_path):
    write("id,price\na,1\n")
    error = refusal(read, tmp_path / "trip.csv")
    assert error.codes == ("E511",)
    assert 'does not exist; did you mean "trips.csv"?' in str(error)
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in str(refusal(read, tmp_path / "folder.csv"))
    assert refusal(file_sha256, tmp_path / "none").codes == ("E511",)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "id,price\n", "id,price", "\r\n"])
def test_empty_files(write, content):
    error = refusal(read, write(content))
    assert error.codes == ("E512",)
    assert "trips.csv holds no rows" in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_files_without_permission(write):
    path = write("id,price\na,1\n")
    path.chmod(0)
    assert refusal(read, path).codes == ("E516",)


NOT_UTF8 = {
    "latin-1 cell": ("id,price\na,1\nKöln,2\n".encode("latin-1"), "row 2"),
    "latin-1 header": ("id,price,größe\na,1,2\n".encode("latin-1"), "in the header"),
    "utf-16": ("id,price\na,1\n".encode("utf-16"), "UTF-16"),
}


@pytest.mark.parametrize(("content", "words"), NOT_UTF8.values(), ids=NOT_UTF8)
def test_other_encodings_are_refused(write, content, words):
    error = refusal(read, write(content))
    assert error.codes == ("E513",)
    assert words in str(error)


MALFORMED = {
    "too few": ("id,price\na,1\nb\nc,3\n", "row 2 has 1 cell, the header has 2: 'b'", "row 2"),
    "too many": (
        "id,price\na,1\nb,1,2\nc,3\nd,4,5\n",
        "row 2 has 3 cells, the header has 2: 'b,1,2'",
        "rows 2 and 4",
    ),
    "after blanks": ("\nid,price\n\na,1\n\nb,1,2\n", "row 2 has 3 cells", "row 2"),
    "open quote": ('id,price\na,1\n"b,2\nc,3\n', "line 3 of the file", "trips.csv"),
    "open quote at the end": ('id,price\na,1\nb,"2', "line 3 of the file", "trips.csv"),
    "two open quotes": ('id,price\n"a,1\nb,2\nc,3\n"d,4\n', "line 2 of the file", "trips.csv"),
    "quoted line end": ('id,note,price\na,"x\ny",1\nb,z,2\n', "line 2 of the file", "trips.csv"),
    "endless cell": ("id,price\na,1\n" + "x" * 5_000_000 + ",2\n", "cannot be parsed", "trips.csv"),
    "endless header": ("x" * 2_000_000, "the first line is longer", "trips.csv"),
    "huge name": ("id,price," + "x" * 200_000 + "\na,1,2\n", "the header cannot be read", "trips.csv"),
}


@pytest.mark.parametrize(("content", "words", "where"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_rows_are_named(write, content, words, where):
    error = refusal(read, write(content))
    assert isinstance(error, FileError)
    assert error.codes == ("E514",)
    assert words in str(error)
    assert where in error.complaints[0].where


def test_an_open_quote_swallows_rows_elsewhere(write):
    """The premise of the rule about quotes: four rows become two without a word."""
    path = write(MALFORMED["two open quotes"][0])
    assert pa.csv.read_csv(path).num_rows == len(pd.read_csv(path)) == 1


def test_quotes_are_read_where_they_close(write):
    path = write('"id","price"\n"a, b","1"\n"say ""hi""",2\n')
    assert read(path).to_pydict() == {"id": ["a, b", 'say "hi"'], "price": [1.0, 2.0]}


def test_an_open_quote_is_found_beyond_the_first_chunk(write, monkeypatch):
    monkeypatch.setattr("gmmest.data.readers.CHUNK", 16)
    rows = [f'"r{k}",{k}' for k in range(40)]
    assert read(write("id,price\n" + "\n".join(rows))).num_rows == 40
    rows[30] = '"r30,30'
    assert "line 32 of the file" in str(refusal(read, write("id,price\n" + "\n".join(rows))))


@pytest.mark.parametrize(
    ("content", "word"), [("id;price\na;1,5\n", "semicolons"), ("id\tprice\na\t1\n", "tabs")]
)
def test_other_delimiters_are_refused(write, content, word):
    error = refusal(read, write(content))
    assert error.codes == ("E515",)
    assert f"the header has {word} and no comma" in str(error)
    assert "save the file with commas" in str(error)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks(write, end, mark):
    path = write(mark + end.join(["id,price", "a,1", "", "b,2", ""]))
    assert read(path).to_pydict() == {"id": ["a", "b"], "price": [1.0, 2.0]}


def test_one_column(write):
    path = write("price\n1\n\n2\n")
    assert read(path, text=[]).to_pydict() == {"price": [1.0, None, 2.0]}


def test_names_with_control_characters_are_shown_harmlessly(write):
    text = str(refusal(read, write("id,pr\x1b[2Jice\na,1\n")))
    assert "\x1b" not in text
    assert "pr\\x1b[2Jice" in text


def test_hash_of_a_file(write):
    path = write("id,price\na,1\n")
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


# --- Parquet ---


@pytest.fixture(name="parquet")
def _parquet(tmp_path):
    path = tmp_path / "year=2020" / "trips.parquet"
    path.parent.mkdir()
    table = pa.table(
        {
            "id": pa.array([9007199254740993, 9007199254740992, None]),
            "mode": pa.array(["air", "bus", "air"]).dictionary_encode(),
            "price": pa.array([1, 2, 3], type=pa.int32()),
            "other": ["x"] * 3,
        }
    )
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    return path


def test_parquet_keeps_its_types(parquet):
    table = read(parquet, text=["id", "mode"], numbers=["price"])
    assert table.column_names == ["id", "mode", "price"]
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "int32"]
    assert table["id"].to_pylist() == [9007199254740993, 9007199254740992, None]
    assert table["mode"].to_pylist() == ["air", "bus", "air"]


def test_parquet_names(parquet):
    error = refusal(read, parquet, text=["year", "idd"])
    assert error.codes == ("E315", "E315")
    assert 'did you mean "id"?' in str(error)


def test_damaged_parquet(parquet, tmp_path):
    good = parquet.read_bytes()
    path = tmp_path / "trips.parquet"
    for content in (
        good[: len(good) // 2],
        b"PAR1" + b"\0" * 100,
        good[:-20] + bytes(20),
        b"id,price\n1,2\n",
    ):
        path.write_bytes(content)
        error = refusal(read, path)
        assert error.codes == ("E503",)
        assert str(path) in str(error)
    path.write_bytes(b"")
    assert refusal(read, path).codes == ("E512",)
    pq.write_table(pq.read_table(parquet, partitioning=None).slice(0, 0), path)
    assert refusal(read, path).codes == ("E512",)


def test_a_flipped_bit_is_caught_by_the_checksum(tmp_path):
    path = tmp_path / "trips.parquet"
    values = np.random.default_rng(0).normal(size=1000)
    table = pa.table({"id": np.arange(1000), "price": values})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    at = content.find(values[500].tobytes())
    assert at > 0
    content[at] ^= 1
    path.write_bytes(content)
    assert pq.read_table(path)["price"][500].as_py() != values[500]  # unverified it is a silent wrong number
    error = refusal(read, path)
    assert error.codes == ("E502",)
    assert "checksum" in str(error)


# --- the way on ---


def test_a_file_and_a_frame_become_the_same_data(write):
    path = write("id,mode,took,price\n2,a,1,1.5\n2,b,0,2\n1,a,0,3\n1,b,TRUE,-4e1\n")
    table = read(path, text=["id", "mode"], flags=["took"])
    roles = {"case": "id", "alternative": "mode", "chosen": "took"}
    data = ChoiceData.from_frame(table, **roles, source=path.name)
    frame = pd.DataFrame(
        {"id": [2, 2, 1, 1], "mode": list("abab"), "took": [1, 0, 0, 1], "price": [1.5, 2.0, 3.0, -40.0]}
    )
    assert data.fingerprint(["price"]) == ChoiceData.from_frame(frame, **roles).fingerprint(["price"])
    assert list(data.ids) == ["2", "1"]


# --- columns that order rows ---------------------------------------------------------------------------


def times(tmp_path, *cells):
    path = tmp_path / "series.csv"
    path.write_text("t,y\n" + "".join(f"{cell},1\n" for cell in cells), encoding="utf-8")
    return read_frame(path, text=[], numbers=["y"], times=["t"]).column("t")


def test_times_are_dates_or_numbers(tmp_path):
    dates = times(tmp_path, "2024-02-29", "1999-12-31")
    assert str(dates.type) == "date32[day]"
    assert [str(day) for day in dates.to_pylist()] == ["2024-02-29", "1999-12-31"]
    assert times(tmp_path, "3", "-1.5", "").to_pylist() == [3.0, -1.5, None]
    assert times(tmp_path, "2024-02-29", "").to_pylist()[1] is None


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        (("2024-02-29", "3"), "t: row 2 holds '3', expected a date such as 2024-02-29"),
        (("2024-02-29", "2023-02-29"), "t: row 2 holds '2023-02-29', expected a day of the calendar"),
        (("2024-13-01",), "t: row 1 holds '2024-13-01', expected a day of the calendar"),
        (("29.2.2024",), "t: row 1 holds '29.2.2024', expected a plain number"),
    ],
)
def test_what_is_neither_is_refused(tmp_path, cells, what):
    with pytest.raises(DataError) as caught:
        times(tmp_path, *cells)
    assert caught.value.codes == ("E311",)
    assert caught.value.complaints[0].what.startswith(what)


def test_what_is_no_plain_file_is_said_to_be_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ff.csv")
    with pytest.raises(FileError, match=r"E511 .*ff.csv is no plain file\n  where: looked in"):
        read_frame(tmp_path / "ff.csv", text=["id"], numbers=[])
