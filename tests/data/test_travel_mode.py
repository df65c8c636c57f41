"""The table that the repository ships is the one that its README describes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from gmmest.data.choice_data import ChoiceData
from gmmest.data.readers import file_sha256, read_frame

FOLDER = Path(__file__).parents[2] / "data"
NUMBERS = ["gc", "ttme", "invc", "invt", "hinc", "psize"]


@pytest.fixture(scope="module", name="data")
def _data():
    table = read_frame(
        FOLDER / "travel_mode.csv", text=["individual", "mode"], numbers=NUMBERS, flags=["choice"]
    )
    return ChoiceData.from_frame(table, case="individual", alternative="mode", chosen="choice")


def test_readme_describes_the_file():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8").partition("## wages.csv")[0]
    assert file_sha256(FOLDER / "travel_mode.csv") in readme
    header = (FOLDER / "travel_mode.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert re.findall(r"^\| `(\w+)` \|", readme, flags=re.MULTILINE) == [
        "individual", "mode", "choice", "gc", "ttme", "invc", "invt", "hinc", "psize"
    ]  # fmt: skip
    assert header == re.findall(r"^\| `(\w+)` \|", readme, flags=re.MULTILINE)


def test_the_command_writes_the_same_bytes(tmp_path):
    make = runpy.run_path(str(FOLDER / "make_travel_mode.py"))
    make["main"](tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (FOLDER / "travel_mode.csv").read_bytes()


def test_shape_of_the_data(data):
    assert (data.n_sets, data.n_rows, data.notes) == (210, 840, ())
    assert data.labels == ("air", "train", "bus", "car")
    assert data.complete(NUMBERS) is data
    taken = {label: int(data.indicator(label) @ data.chosen) for label in data.labels}
    assert taken == {"air": 58, "train": 63, "bus": 30, "car": 59}  # Greene's table of the sample


def test_numbers_are_those_of_statsmodels(data):
    from statsmodels.datasets import modechoice

    frame = modechoice.load_pandas().data
    for name in NUMBERS:
        np.testing.assert_array_equal(data.column(name), frame[name])
    np.testing.assert_array_equal(data.chosen, frame["choice"])
    assert not np.any(data.column("ttme") * data.indicator("car"))  # nobody waits for the car
