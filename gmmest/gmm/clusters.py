"""Clusters of entries, as the covariance of their contributions wants them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.data.observations import Clusters, Observations
from gmmest.errors import Complaint, ConfigError, EstimationError, printable, some
from gmmest.gmm.covariance_options import CovarianceOptions

__all__ = ["Grouping", "intersection", "ways_of_clustering"]


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Entries in the order of their clusters: cluster c is ``order[offsets[c]:offsets[c + 1]]``."""

    name: str
    order: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Clusters that have entries, G."""
        return len(self.offsets) - 1

    @property
    def codes(self) -> NDArray[np.int64]:
        """The cluster of each entry, from 0."""
        codes = np.empty_like(self.order)
        codes[self.order] = np.repeat(np.arange(self.count), np.diff(self.offsets))
        return codes


def _grouping(name: str, codes: NDArray[np.int64]) -> Grouping:
    _, counts = np.unique(codes, return_counts=True)
    return Grouping(name, np.argsort(codes, kind="stable"), np.concatenate(([0], np.cumsum(counts))))


def intersection(a: Grouping, b: Grouping) -> Grouping:
    """Entries together that share both clusters."""
    return _grouping("", a.codes * b.count + b.codes)


def ways_of_clustering(options: CovarianceOptions, seen: Observations) -> tuple[Grouping, ...]:
    """The one or two ways of grouping that are meant; none for other estimators.

    Raises
    ------
    ConfigError
        E102: the data do not name as many as are needed.
    EstimationError
        E340: one cluster.
    """
    if options.estimator not in ("cluster", "twoway"):
        return ()
    ways = tuple(_grouping(way.name, way.codes) for way in _chosen_clusters(options, seen))
    for way in ways:
        if way.count < 2:
            what = f"one cluster of {printable(way.name)}: no covariance can be estimated from it"
            raise EstimationError(Complaint("E340", what, next="weighting: robust, or other clusters"))
    return ways


def _chosen_clusters(options: CovarianceOptions, seen: Observations) -> tuple[Clusters, ...]:
    """The one or two ways of grouping that are meant."""
    known = {way.name: way for way in seen.clusters}
    wanted = options.cluster or tuple(known)
    absent = [name for name in wanted if name not in known]
    need = 1 if options.estimator == "cluster" else 2
    count = f"{need} cluster column{'s' if need > 1 else ''}"
    if not absent and len(wanted) == need and len(set(wanted)) == need:
        return tuple(known[name] for name in wanted)
    given = f"the data name {some(known)}" if known else "the data name none"
    chosen = f", and {some(options.cluster)} was asked for" if options.cluster else ""
    raise ConfigError(
        Complaint(
            "E102",
            f"weighting {options.estimator!r} takes {count}; {given}{chosen}",
            next="cluster= where the data are made" if not known else "cluster= one of these names",
        )
    )
