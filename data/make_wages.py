"""Write wages.csv, simulated wages and schooling; see README.md here.

Ability raises wages and schooling alike, so that least squares overstates what a year of school is
worth.  The distance to the next college and the mother's schooling move schooling alone.
"""

from __future__ import annotations

import csv
import random
from math import exp
from pathlib import Path
from statistics import NormalDist

TARGET = Path(__file__).with_name("wages.csv")
COLUMNS = ["person", "town", "wage", "lwage", "school", "exper", "distance", "mother", "weight"]
PEOPLE, TOWNS, SEED = 600, 60, 1995
RETURN = 0.08
"""What a year of school adds to the logarithm of the wage."""


def main(path: Path = TARGET) -> None:
    """Write the table to `path`."""
    # random() alone gives the same numbers in every version of Python
    draw = random.Random(SEED).random  # noqa: S311

    def normal() -> float:
        return NormalDist().inv_cdf(draw() or 0.5)

    towns = [(20.0 * draw(), 0.15 * normal()) for _ in range(TOWNS)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for person in range(1, PEOPLE + 1):
            town = int(TOWNS * draw())
            distance, level = towns[town]
            ability, mother, exper = normal(), 8 + int(9 * draw()), int(31 * draw())
            school = (
                round(9.5 + 0.4 * (mother - 12) - 0.12 * (distance - 10) + 1.2 * ability + 1.5 * normal()) + 3
            )
            lwage = 1.0 + RETURN * school + 0.02 * exper + 0.25 * ability + level + 0.3 * normal()
            weight = round(0.5 + 1.5 * draw(), 2)
            name = f"t{town + 1:02d}"
            row = [person, name, f"{exp(lwage):.3f}", f"{lwage:.4f}", school, exper, f"{distance:.1f}"]
            writer.writerow([*row, mother, f"{weight:.2f}"])


if __name__ == "__main__":
    main()
