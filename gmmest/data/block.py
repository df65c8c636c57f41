"""Blocks: ranges of whole choice sets, as views of the full arrays, for the kernels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from gmmest.data.columns import FloatArray, IntArray
from gmmest.data.immutable import frozen
from gmmest.data.observations import Observations
from gmmest.errors import Complaint, ConfigError

__all__ = ["Block", "block_ranges", "taken_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A range of whole choice sets, as views of the full arrays.

    Parameters
    ----------
    features : (n, P) float64 or float32
        X; C-contiguous, aligned, read-only.
    instruments : (n, M) float64 or float32
        Z, or the moment differences D where nothing is observed.
    chosen : (n,) float64
        1.0 in the chosen row of every set, 0.0 elsewhere; all zero where nothing is observed, so
        that ``Z'(s - y)`` is ``D's``.
    offsets : (N + 1,) int64
        Set ``i`` is rows ``offsets[i]:offsets[i + 1]`` of the block; starts at 0.
    weight : (n,) float64, optional
        What the contribution of a row's choice set is multiplied by, sampling weight times frequency;
        None stands for ones.
    frequency : (n,) float64, optional
        How often the row's choice set occurred; None stands for ones.
    """

    features: FloatArray
    instruments: FloatArray
    chosen: FloatArray
    offsets: IntArray
    weight: FloatArray | None = None
    frequency: FloatArray | None = None

    @property
    def n_sets(self) -> int:
        """Number of choice sets, N."""
        return len(self.offsets) - 1

    @property
    def n_rows(self) -> int:
        """Number of rows, n."""
        return len(self.features)

    @property
    def n_obs(self) -> int:
        """Observations that the sets stand for: their number, or the sum of their frequencies."""
        return self.n_sets if self.frequency is None else int(self.frequency[self.offsets[:-1]].sum())

    def promoted(self) -> Block:
        """The block with features and instruments in float64, as kernels take them; itself where they are.

        Numbers of four bytes stay so in memory, and a copy of eight lives for one visit of one block.  What is
        computed is what arrays converted beforehand give, to the last bit.
        """
        if self.features.dtype == np.float64 == self.instruments.dtype:
            return self
        features = self.features.astype(np.float64)
        same = self.instruments is self.features
        return replace(
            self, features=features, instruments=features if same else self.instruments.astype(np.float64)
        )

    def part(self, start: int, stop: int) -> Block:
        """Choice sets ``start:stop`` as views; only the offsets are new.

        Raises
        ------
        ConfigError
            E102: not ``0 <= start < stop <= n_sets``.

        Examples
        --------
        >>> from gmmest.data.choice_data import ChoiceData
        >>> data = ChoiceData.from_arrays(features=np.eye(4), chosen=[1, 0, 0, 1], offsets=[0, 2, 4])
        >>> data.block().part(1, 2).offsets
        array([0, 2])
        """
        if not 0 <= start < stop <= self.n_sets:
            what = f"no choice sets {start}:{stop} among {self.n_sets:,}"
            raise ConfigError(Complaint("E102", what))
        bounds = self.offsets[start : stop + 1]
        rows = slice(int(bounds[0]), int(bounds[-1]))
        features = self.features[rows]
        # Instruments that are the features stay so: it saves a second matrix product.
        instruments = features if self.instruments is self.features else self.instruments[rows]
        return Block(
            features,
            instruments,
            self.chosen[rows],
            frozen(bounds - bounds[0]),
            None if self.weight is None else self.weight[rows],
            None if self.frequency is None else self.frequency[rows],
        )

    def entries_at(self, sets: IntArray, seen: Observations) -> Block:
        """Choice sets by their places, in that order, each as often as it is named; copies.

        Parameters
        ----------
        sets : (k,) int64
        seen : Observations
            Their weights and frequencies, which take the place of the block's own.

        Examples
        --------
        >>> from gmmest.data.choice_data import ChoiceData
        >>> data = ChoiceData.from_arrays(features=np.eye(4), chosen=[1, 0, 0, 1], offsets=[0, 2, 4])
        >>> data.block().entries_at(np.array([1, 1]), Observations()).chosen
        array([0., 1., 0., 1.])
        """
        rows, offsets = taken_rows(self.offsets, sets)
        sizes = np.diff(offsets)
        features = self.features[rows]
        mass, frequency = seen.mass, seen.frequency
        return Block(
            features,
            features if self.instruments is self.features else self.instruments[rows],
            self.chosen[rows],
            frozen(offsets),
            None if mass is None else np.repeat(mass, sizes),
            None if frequency is None else np.repeat(frequency, sizes),
        )

    @property
    def squared_weight(self) -> FloatArray | None:
        """``w^2 f`` of each row, (n,): what the variance of a contribution is multiplied by; None for ones."""
        if self.weight is None or self.frequency is None:
            return None if self.weight is None else self.weight * self.weight
        return self.weight * (self.weight / self.frequency)


def taken_rows(offsets: IntArray, sets: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of some sets by their places, in that order, and the offsets of what they make.

    Parameters
    ----------
    offsets : (N + 1,) int64
    sets : (k,) int64
        Each as often as it is named.

    Examples
    --------
    >>> rows, offsets = taken_rows(np.array([0, 2, 3, 6]), np.array([2, 0]))
    >>> rows.tolist(), offsets.tolist()
    ([3, 4, 5, 0, 1], [0, 3, 5])
    """
    sizes = np.diff(offsets)[sets]
    bounds = np.concatenate(([0], np.cumsum(sizes)))
    return np.repeat(offsets[sets] - bounds[:-1], sizes) + np.arange(bounds[-1]), bounds


def block_ranges(offsets: IntArray, rows_per_block: int) -> list[tuple[int, int]]:
    """Ranges of whole choice sets with nearly equal numbers of rows.

    With ``k = ceil(n / rows_per_block)``, cut ``j`` is the set boundary nearest to row ``j n / k``;
    cuts that coincide are one.  A function of its two arguments alone, in integers, so that every
    machine and every number of workers cuts alike.

    Parameters
    ----------
    offsets : (N + 1,) int64
        Strictly increasing, from 0 to the number of rows n.
    rows_per_block : int
        Rows aimed at, at least 1.  A block has at most one largest set more or less than ``n / k``.

    Returns
    -------
    list of (start, stop)
        Ranges of sets: together all N sets in order, none empty.

    Raises
    ------
    ConfigError
        E102: ``rows_per_block`` below 1.

    Examples
    --------
    >>> block_ranges(np.array([0, 4, 8, 12, 16]), rows_per_block=8)
    [(0, 2), (2, 4)]
    """
    if rows_per_block < 1:
        raise ConfigError(Complaint("E102", f"rows_per_block={rows_per_block}: expected at least 1"))
    n_sets, n_rows = offsets.shape[0] - 1, int(offsets[-1])
    n_blocks = -(-n_rows // rows_per_block)
    aims = np.array([j * n_rows // n_blocks for j in range(1, n_blocks)], dtype=np.int64)
    above = np.searchsorted(offsets, aims)
    below = np.maximum(above - 1, 0)
    nearest = np.where(aims - offsets[below] < offsets[above] - aims, below, above)
    cuts = np.unique(np.concatenate(([0], nearest, [n_sets]))).tolist()
    return list(itertools.pairwise(cuts))
