"""What was dropped, as counts that add: the drops of parts of the data make those of the whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gmmest.errors import DataError, plural, printable

__all__ = ["SHOWN", "Drop", "NoSetsLeftError", "unchosen"]

SHOWN = 5  # ids that a message lists before it counts the rest


@dataclass(frozen=True, slots=True)
class Drop:
    """Choice sets that were dropped for one reason.

    Parameters
    ----------
    code : {"W301", "W302", "W310", "W330"}
        A single alternative, not one choice, missing values, weight zero.
    count, of : int
        How many, of how many that were there.
    listed : tuple of str
        The first of them in words, for W302.
    gaps : tuple of (str, int)
        Missing values by column, for W310.

    Examples
    --------
    >>> print(Drop("W330", 1, 10) + Drop("W330", 2, 20))
    W330 dropped 3 of 30 choice sets with weight or frequency zero; 27 are used
    """

    code: str
    count: int
    of: int
    listed: tuple[str, ...] = ()
    gaps: tuple[tuple[str, int], ...] = ()

    def __add__(self, other: Drop) -> Drop:
        gaps = dict(self.gaps)
        for name, count in other.gaps:
            gaps[name] = gaps.get(name, 0) + count
        listed = (*self.listed, *other.listed)[:SHOWN]
        return Drop(self.code, self.count + other.count, self.of + other.of, listed, tuple(gaps.items()))

    def __str__(self) -> str:
        if self.code == "W301":
            verb = "carries" if self.count == 1 else "carry"
            return (
                f"W301 {plural(self.count, 'choice set')} with one alternative {verb} no information; dropped"
            )
        if self.code == "W302":
            return f"W302 dropped {unchosen(self.listed, self.count, self.of)}"
        dropped = f"{self.code} dropped {self.count:,} of {plural(self.of, 'choice set')} with"
        if self.code == "W330":
            return f"{dropped} weight or frequency zero; {self.of - self.count:,} are used"
        counts = ", ".join(f"{printable(name)} ({count:,})" for name, count in self.gaps if count)
        return f"{dropped} missing values: {counts}"


STAGES = ("W302", "W330", "W301", "W310")
"""The order in which sets are dropped."""


def added(drops: Iterable[Drop], n_sets: int) -> tuple[Drop, ...]:
    """Drops of parts as those of the whole: one of each code, in the order of the stages.

    Parameters
    ----------
    drops : iterable of Drop
        In the order of the parts; a part from which nothing was dropped has none.
    n_sets : int
        Choice sets that there were in all.
    """
    sums: dict[str, Drop] = {}
    for drop in drops:
        sums[drop.code] = sums[drop.code] + drop if drop.code in sums else drop
    whole = []
    for code in STAGES:
        if code in sums:
            whole.append(replace(sums[code], of=n_sets))
            n_sets -= sums[code].count
    return tuple(whole)


def unchosen(listed: tuple[str, ...], count: int, of: int) -> str:
    """Say which sets are without exactly one chosen row."""
    more = " ..." if count > len(listed) else ""
    what = f"choice sets without exactly one chosen row: {', '.join(listed)}{more}"
    return f"{what}; {count:,} of {plural(of, 'set')}"


class NoSetsLeftError(DataError):
    """E306 with what was dropped; of a part of the data this is no fault."""

    drops: tuple[Drop, ...] = ()
