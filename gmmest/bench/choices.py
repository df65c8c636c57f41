"""The choice sets that programs are timed on: drawn once, kept in files that every process reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Choices", "draw"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """Choice sets of equal size, as arrays that nobody may write to.

    Parameters
    ----------
    features : (n, K) array
        Row by row; the alternatives of a set follow each other.
    chosen : (n,) array
        1.0 in the chosen row of each set.
    alternatives : int
        Rows of a set, J.
    """

    features: Array
    chosen: Array
    alternatives: int

    @property
    def sets(self) -> int:
        """Number of choice sets."""
        return len(self.features) // self.alternatives

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where sets begin, and n."""
        return np.arange(self.sets + 1, dtype=np.int64) * self.alternatives

    @property
    def names(self) -> list[str]:
        """Of the features."""
        return [f"x{k}" for k in range(self.features.shape[1])]

    @property
    def nbytes(self) -> int:
        """Bytes of features and choices."""
        return self.features.nbytes + self.chosen.nbytes

    def first(self, sets: int) -> Choices:
        """The first sets, as views."""
        rows = sets * self.alternatives
        return Choices(self.features[:rows], self.chosen[:rows], self.alternatives)

    def save(self, folder: Path) -> None:
        """Into a folder, from which :meth:`load` reads."""
        np.save(folder / "features.npy", self.features)
        np.save(folder / "chosen.npy", self.chosen.reshape(self.sets, self.alternatives))

    def write(self, path: Path, first: int = 0) -> None:
        """As a Parquet file with columns set, chosen, x0, x1, ...; sets are numbered from `first`."""
        import pyarrow as pa
        from pyarrow import parquet

        columns = {name: pa.array(column) for name, column in zip(self.names, self.features.T, strict=True)}
        columns["chosen"] = pa.array(self.chosen.astype(np.int8))
        columns["set"] = pa.array(first + np.repeat(np.arange(self.sets), self.alternatives))
        parquet.write_table(pa.table(columns), path, compression="none", row_group_size=100_000)

    @staticmethod
    def load(folder: Path) -> Choices:
        """From a folder into memory."""
        features, chosen = np.load(folder / "features.npy"), np.load(folder / "chosen.npy")
        return _frozen(features, chosen.reshape(-1), chosen.shape[1])


def draw(sets: int, alternatives: int, features: int, seed: int = 20261122) -> Choices:
    """Standard normal features, coefficients of length about one, Gumbel errors.

    Examples
    --------
    >>> drawn = draw(5, 3, 2)
    >>> drawn.features.shape, drawn.chosen.sum()
    ((15, 2), np.float64(5.0))
    """
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=features) / np.sqrt(features)
    X = rng.normal(size=(sets * alternatives, features))
    utility = (X @ theta + rng.gumbel(size=len(X))).reshape(sets, alternatives)
    chosen = np.zeros_like(utility)
    chosen[np.arange(sets), utility.argmax(axis=1)] = 1.0
    return _frozen(X, chosen.reshape(-1), alternatives)


def _frozen(features: Array, chosen: Array, alternatives: int) -> Choices:
    features.setflags(write=False)
    chosen.setflags(write=False)
    return Choices(features, chosen, alternatives)
