"""Write travel_mode.csv from the copy of the data that statsmodels ships; see README.md here."""

from __future__ import annotations

import csv
from pathlib import Path

from statsmodels.datasets import modechoice

TARGET = Path(__file__).with_name("travel_mode.csv")
COLUMNS = ["individual", "mode", "choice", "gc", "ttme", "invc", "invt", "hinc", "psize"]
MODES = {1: "air", 2: "train", 3: "bus", 4: "car"}


def main(path: Path = TARGET) -> None:
    """Write the table to `path`."""
    frame = modechoice.load_pandas().data[COLUMNS]
    if frame.shape != (840, 9) or not (frame == frame.round()).all(axis=None):
        raise SystemExit("statsmodels' modechoice is not the table of 840 rows of integers that it was")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for individual, mode, *others in frame.astype(int).itertuples(index=False):
            writer.writerow([individual, MODES[mode], *others])


if __name__ == "__main__":
    main()
