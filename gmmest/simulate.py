"""Choices drawn from a planted logit: for tests, benchmarks and configurations without a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.data.choice_data import ChoiceData
from gmmest.derivatives import ops
from gmmest.errors import Complaint, ConfigError

__all__ = ["SimulatedLogit", "simulate_logit"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SimulatedLogit:
    """Simulated choice sets and the parameters that made them.

    Parameters
    ----------
    data : ChoiceData
        Features X and moment differences D, the instruments minus their chosen row.
    theta : array (P,)
        The planted parameters.
    """

    data: ChoiceData
    theta: Array


def simulate_logit(
    *, sets: int, alternatives: int | tuple[int, int], features: int, moments: int, seed: int
) -> SimulatedLogit:
    """Draw features, instruments and choices of a conditional logit.

    Features are standard normal.  The first ``features`` instruments are the features, the others
    are exogenous mixtures of a feature and noise.  In each set the alternative with the largest
    ``x'theta`` plus a Gumbel draw is chosen, so that shares are logit, and the moments
    ``(1/N) sum_i D_i's_i`` have mean zero at the planted theta, which has length about one.

    Parameters
    ----------
    sets : int
        Choice sets N.
    alternatives : int or (int, int)
        Rows in each set; a pair draws a number for each set between them.
    features, moments : int
        P and M, M at least P.
    seed : int
        Same seed, same data, whatever was drawn before.

    Returns
    -------
    SimulatedLogit

    Examples
    --------
    >>> drawn = simulate_logit(sets=5, alternatives=(2, 4), features=2, moments=3, seed=1)
    >>> drawn.data.n_sets, drawn.theta.shape
    (5, (2,))
    """
    if moments < features:
        raise ConfigError(
            Complaint("E102", f"{moments} moments for {features} features; at least as many expected")
        )
    rng = np.random.default_rng(seed)
    low, high = (alternatives, alternatives) if isinstance(alternatives, int) else alternatives
    offsets = np.concatenate([[0], np.cumsum(rng.integers(low, high + 1, size=sets))])
    n = int(offsets[-1])
    theta = rng.normal(size=features) / np.sqrt(features)
    X = rng.normal(size=(n, features))
    extra = moments - features
    mixed = 0.5 * X[:, np.arange(extra) % features] + rng.normal(size=(n, extra))
    Z = np.concatenate([X, mixed], axis=1)
    chosen = _first_of_largest(X @ theta + rng.gumbel(size=n), offsets)
    differences = Z - np.repeat(Z[chosen], np.diff(offsets), axis=0)
    return SimulatedLogit(
        ChoiceData.from_arrays(features=X, moment_differences=differences, offsets=offsets), theta
    )


def _first_of_largest(values: Array, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    largest = ops.segment_repeat(ops.segment_max(values, offsets), offsets)
    hits = np.flatnonzero(values == largest)
    first: NDArray[np.int64] = hits[np.searchsorted(hits, offsets[:-1])]
    return first
