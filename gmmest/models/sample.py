"""What a model makes of data: the arrays that its moments are computed from, with their names.

This is the wall between names and numbers.  Above it are terms, labels and files; below it are
float64 arrays in blocks.  :class:`MomentModel` is all that the GMM layer asks of a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gmmest.data.observations import UNWEIGHTED, Observations

__all__ = ["MomentModel", "Restriction", "Sample", "Total", "rows_per_block"]

Array = NDArray[np.float64]
Total = Callable[[Callable[[Any], Any]], Any]
"""Folds a function of a block over all blocks."""


class FreeParameters(Protocol):
    """Which parameters are free: ``theta = T phi + t0``."""

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the free ones, F of them."""

    @property
    def transform(self) -> Array:
        """T, (P, F)."""


Restriction = Callable[[tuple[str, ...]], FreeParameters]
"""From the names of all parameters to the free ones among them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Data as one model sees them.

    Parameters
    ----------
    names : tuple of str
        Parameters, P of them.
    moment_names : tuple of str
        Moments, M of them.
    blocks : tuple
        Records of arrays in the order of the data; what the model's functions get.
    counts : tuple of int
        Observations (choice sets, or rows of a table) in each block; with frequencies, their sum.
    n_rows : int
        Rows in all.
    start : array (P,)
        Where to start.
    whole : callable
        Gives the same sample as one block, for engines that compile for a shape.
    notes : tuple of str
        What happened to the data on the way (rows moved, sets dropped).
    fingerprint : str
        SHA-256 of the numbers.
    typical : array (P,), optional
        Magnitudes of the parameters that matter, powers of two: what a step of a finite difference is
        measured in.  By default 1 each, the user's own units.
    observations : Observations
        Weights, frequencies and clusters.
    absorbed : int
        Parameters that were taken out beforehand, effects of groups; small-sample factors count them.
    recombined : array (M, M), optional
        T where the instruments are ``Z T``; see :mod:`.recombination`.
    """

    names: tuple[str, ...]
    moment_names: tuple[str, ...]
    blocks: tuple[Any, ...]
    counts: tuple[int, ...]
    n_rows: int
    start: Array
    whole: Callable[[], Sample]
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    typical: Array | None = None
    observations: Observations = UNWEIGHTED
    absorbed: int = 0
    recombined: Array | None = None

    @property
    def n_obs(self) -> int:
        """Number of observations N, the one that means are divided by; the sum of frequencies, if there are."""
        return sum(self.counts)

    @property
    def entries(self) -> NDArray[np.int64]:
        """Where the blocks begin and end among the entries (choice sets, rows) of ``observations``."""
        ends = np.concatenate(([0], np.cumsum(self.counts)))
        frequency = self.observations.frequency
        if frequency is None:
            return ends
        return np.searchsorted(np.concatenate(([0.0], np.cumsum(frequency))), ends)


@runtime_checkable
class MomentModel(Protocol):
    """What the GMM layer asks of a model.

    Beside these two, a model may have ``moment_sum(theta, block) -> (M,)`` (law: the sum of the
    contributions), hand-written derivatives of it, ``moment_sum_and_jacobian(theta, block)`` and
    ``moment_sum_and_vjp(theta, block)``, ``unadjusted_covariance(theta, n_obs, total) -> (M, M)``
    with ``total`` the fold of a function over the blocks,
    ``instrument_product_sum(block) -> (M, M)`` for the first-step weight and its parts by observation,
    ``instrument_products(block, left, right) -> (n_b, P)``, ``is_likelihood_score(block) -> bool``,
    ``loglike(theta, block) -> float``, and ``check_existence(theta, sample)``, which raises where no finite
    estimate exists; with ``transform=`` T, of free parameters.  Where ``sample`` takes ``restriction=``, what
    it checks of identification is asked of the free parameters alone.  A method that takes parameters has
    them first, as ``theta``: so they can be put in for free ones.
    """

    def sample(self, data: Any) -> Sample:
        """The arrays and names that this model takes from data."""

    def contributions(self, theta: Array, block: Any) -> Array:
        """Contributions g_i of the observations of a block, (n_b, M)."""


def rows_per_block(n_params: int, n_moments: int) -> int:
    """Rows of a block, from the shapes alone: its features and instruments fill about 8 MiB.

    Smaller blocks pay Python's overhead, larger ones leave the cache (measured: tests/benchmarks).
    """
    return max(512, 2**20 // (n_params + n_moments))
