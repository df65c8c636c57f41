"""Which alternative each row of choice sets is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmmest.data.columns import FloatArray, IntArray, did_you_mean, place, quoted, shown
from gmmest.data.immutable import read_only
from gmmest.errors import Complaint, DataError, some

__all__ = ["Alternatives", "alike_note", "part_name", "unknown_label"]


@dataclass(frozen=True, slots=True, eq=False)
class Alternatives:
    """The alternative of each row, as codes and what they stand for.

    Parameters
    ----------
    codes : (n,) int64
        Index into `labels`.
    labels : tuple of str
    """

    codes: IntArray
    labels: tuple[str, ...]

    def indicator(self, label: str, source: str) -> FloatArray:
        """1.0 in the rows of one alternative, 0.0 elsewhere, (n,); E316 if there is no such one."""
        if label not in self.labels:
            raise DataError(unknown_label(label, self.labels, source))
        return read_only((self.codes == self.labels.index(label)).astype(np.float64))

    def take(self, rows: IntArray) -> Alternatives:
        """Rows by their places, in that order; labels that none of them has are gone."""
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return Alternatives(read_only(codes.astype(np.int64)), tuple(self.labels[code] for code in used))

    def appearing(self) -> Alternatives:
        """The same with labels in order of first appearance, whatever rows that were dropped held."""
        n = len(self.codes)
        first = np.full(len(self.labels), n)
        first[self.codes[::-1]] = np.arange(n)[::-1]  # of equal places the last one stays
        order = np.argsort(first, kind="stable")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(order.size)
        occurring = order[: np.count_nonzero(first < n)]
        return Alternatives(ranks[self.codes], tuple(self.labels[i] for i in occurring))


def part_name(labels: Sequence[str]) -> str:
    """What codes of these labels are called in hashes."""
    return f"alternative {json.dumps(list(labels))}"


def alike_note(labels: Sequence[str]) -> tuple[str, ...]:
    """Say which labels differ only in blanks or capitals; nothing if none do.

    Examples
    --------
    >>> alike_note(["bus", "car", "bus "])
    ("W316 alternatives whose labels differ only in blanks or capitals: 'bus' and 'bus '; each is one of its own",)
    """
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(" ".join(label.split()).casefold(), []).append(label)
    alike = [" and ".join(map(shown, group)) for group in groups.values() if len(group) > 1]
    if not alike:
        return ()
    listed = some(alike)
    return (
        f"W316 alternatives whose labels differ only in blanks or capitals: {listed}; each is one of its own",
    )


def unknown_label(label: str, labels: Sequence[str], source: str) -> Complaint:
    """E316: no such alternative."""
    what = f"no alternative {quoted(label)}{did_you_mean(str(label), labels)}"
    return Complaint("E316", what, place(source, rows=f"the alternatives are {some(labels, 20)}"))
