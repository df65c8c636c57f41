"""The simulated wages are those that their script and README describe."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np

from gmmest.data.readers import file_sha256, read_frame

FOLDER = Path(__file__).parents[2] / "data"


def test_readme_describes_the_file() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8").partition("## wages.csv")[2]
    assert file_sha256(FOLDER / "wages.csv") in readme
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", readme, flags=re.MULTILINE)
    header = (FOLDER / "wages.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header == [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_command_writes_the_same_bytes(tmp_path: Path) -> None:
    make = runpy.run_path(str(FOLDER / "make_wages.py"))
    make["main"](tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (FOLDER / "wages.csv").read_bytes()


def test_least_squares_overstates_the_return_and_instruments_do_not() -> None:
    """The reason why the data were drawn as they were; plain formulas."""
    names = ["lwage", "school", "exper", "distance", "mother"]
    frame = read_frame(FOLDER / "wages.csv", text=["town"], numbers=names)
    y, school, exper, distance, mother = (np.asarray(frame.column(name)) for name in names)
    ones = np.ones_like(y)
    X, Z = np.column_stack([school, exper, ones]), np.column_stack([distance, mother, exper, ones])
    fitted = Z @ np.linalg.lstsq(Z, X, rcond=None)[0]
    least_squares = np.linalg.lstsq(X, y, rcond=None)[0][0]
    two_stage = np.linalg.solve(fitted.T @ X, fitted.T @ y)[0]
    assert least_squares > 0.12 > 0.11 > two_stage > 0.05
