"""Weights, counts and clusters of observations: one entry for each choice set, or for each row of a table.

A sampling weight w says how many units of the population an observation speaks for; a frequency f
says how often the observation occurred.  Both multiply the contribution, ``m_i = w_i f_i``, so that the estimate
is the same; only a frequency multiplies the number of observations, so standard errors differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmmest.data.columns import FloatArray, IntArray, accept, quoted, shown, strict_array
from gmmest.data.immutable import read_only
from gmmest.errors import Complaint, plural, printable, some

__all__ = [
    "UNWEIGHTED",
    "Clusters",
    "Names",
    "Observations",
    "as_names",
    "read_observations",
    "strict_weights",
]

Names: TypeAlias = "str | Sequence[str] | None"
Kind = Literal["weight", "frequency"]

SHOWN = 5
LARGEST_COUNT = 2.0**53


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """One way of putting observations into groups.

    Parameters
    ----------
    name : str
    codes : (N,) int64
        From 0; the group of each observation.
    labels : (G,) array, optional
        The ids that codes stand for, where they are kept.
    """

    name: str
    codes: IntArray
    labels: NDArray[Any] | None = None

    def ids(self, codes: IntArray) -> NDArray[Any]:
        """What to call groups."""
        return codes if self.labels is None else self.labels[codes]


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """What is known of N observations beside their rows; all of it optional, None stands for ones.

    Parameters
    ----------
    weight : (N,) float64, optional
        Sampling weights, positive.
    frequency : (N,) float64, optional
        Counts: positive whole numbers.
    clusters : tuple of Clusters

    Examples
    --------
    >>> Observations(frequency=np.array([2.0, 1.0])).count(2)
    3
    """

    weight: FloatArray | None = None
    frequency: FloatArray | None = None
    clusters: tuple[Clusters, ...] = ()

    @property
    def mass(self) -> FloatArray | None:
        """``w f``, what a contribution is multiplied by, (N,); None for ones."""
        if self.weight is None or self.frequency is None:
            return self.frequency if self.weight is None else self.weight
        return read_only(self.weight * self.frequency)

    def count(self, n: int, start: int = 0, stop: int | None = None) -> int:
        """Number of observations that entries ``start:stop`` of n stand for: the sum of the frequencies."""
        if self.frequency is None:
            return len(range(n)[start:stop])
        return int(self.frequency[start:stop].sum())

    def take(self, index: NDArray[Any]) -> Observations:
        """Entries in another order, or some of them."""
        return replace(
            self,
            weight=None if self.weight is None else read_only(self.weight[index]),
            frequency=None if self.frequency is None else read_only(self.frequency[index]),
            clusters=tuple(replace(c, codes=read_only(c.codes[index])) for c in self.clusters),
        )

    def zero(self) -> NDArray[np.bool_] | None:
        """Which entries have weight or count zero; None if none has."""
        mass = self.mass
        return None if mass is None or np.all(mass > 0) else np.asarray(mass == 0)

    def parts(self) -> list[tuple[str, NDArray[Any]]]:
        """Arrays that are part of the data's content, for fingerprints."""
        given = [("weight", self.weight), ("frequency", self.frequency)]
        clusters = [(f"cluster {c.name}", c.codes) for c in self.clusters]
        return [(name, array) for name, array in given if array is not None] + clusters


UNWEIGHTED = Observations()
"""Observations of which nothing is known but their rows."""


def as_names(names: Names) -> tuple[str, ...]:
    """Names of columns from one name, several or none."""
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def strict_weights(
    values: FloatArray,
    kind: Kind,
    name: str,
    where: Callable[[NDArray[np.bool_]], str],
    ids: NDArray[Any],
    whole: bool = True,
) -> FloatArray | Complaint:
    """Sampling weights or counts, one an observation; NaN, negative and broken counts are refused (E330).

    Parameters
    ----------
    values : (N,) float64
    kind : {"weight", "frequency"}
    name : str
        For messages.
    where : callable
        From the observations that are meant, (N,), to their place in words.
    ids : (N,) array
        What to call the observations.
    whole : bool
        Whether these are all observations; of a part all weights may be zero.
    """
    faults = [
        (~np.isfinite(values), "missing or infinite", "give every observation a weight; 0 leaves it out"),
        (values < 0, "negative", "a weight is at least 0; 0 leaves an observation out"),
    ]
    if kind == "frequency":
        counts = (values == np.floor(values)) & (values < LARGEST_COUNT)
        faults.append((~counts & np.isfinite(values), "not whole numbers", "for sampling weights:  weight="))
    for bad, what, advice in faults:
        if bad.any():
            listed = some([f"{printable(ids[i])} ({values[i]:g})" for i in np.flatnonzero(bad)[:SHOWN]])
            more = " ..." if bad.sum() > SHOWN else ""
            text = f"{kind} {quoted(name)} has values that are {what}: {listed}{more}"
            return Complaint("E330", f"{text}; {bad.sum():,} of {bad.size:,}", where(bad), advice)
    if whole and not values.any():
        return Complaint(
            "E330", f"{kind} {quoted(name)} is zero everywhere", where(np.zeros(values.size, np.bool_))
        )
    return read_only(values)


def read_observations(
    weight: ArrayLike | None,
    frequency: ArrayLike | None,
    cluster: ArrayLike | Mapping[str, ArrayLike] | None,
    n: int | None,
) -> tuple[Observations, list[Complaint]]:
    """Weights, counts and clusters of n observations from arrays; those that can be used, and what is wrong."""
    complaints: list[Complaint] = []
    weights = None if weight is None else accept(_weight_array(weight, "weight", n), complaints)
    counts = None if frequency is None else accept(_weight_array(frequency, "frequency", n), complaints)
    clusters, of_clusters = _cluster_arrays(cluster, n)
    return Observations(weights, counts, clusters), [*complaints, *of_clusters]


def _weight_array(value: ArrayLike, kind: Kind, n: int | None) -> FloatArray | Complaint:
    """Weights of an array, (N,), one for each of n observations."""
    try:
        array: Any = np.ma.filled(np.ma.asarray(value).astype(np.float64), np.nan)
    except (TypeError, ValueError):
        array = strict_array(value, kind, 1)
    if isinstance(array, Complaint):
        return array
    if array.ndim != 1 or (n is not None and array.size != n):
        expected = "one value for each observation" + ("" if n is None else f", ({n},)")
        return Complaint("E307", f"{kind} has shape {array.shape}; expected {expected}", kind)
    return strict_weights(array, kind, kind, lambda _: kind, np.arange(array.size))


def _cluster_arrays(
    value: ArrayLike | Mapping[str, ArrayLike] | None, n: int | None
) -> tuple[tuple[Clusters, ...], list[Complaint]]:
    """Clusters from arrays (N,) of whole numbers or text: one, or several by name."""
    if value is None:
        return (), []
    given = dict(value) if isinstance(value, Mapping) else {"cluster": value}
    found: list[Clusters] = []
    complaints: list[Complaint] = []
    for name, ids in given.items():
        array = np.asarray(ids)
        if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.ravel()):
            array = array.astype(str)
        if array.ndim != 1 or (n is not None and array.size != n):
            what = f"{printable(name)} has shape {array.shape}; one id for each observation was expected"
            complaints.append(Complaint("E307", what, name))
        elif array.dtype.kind not in "iubUS":
            what = f"{printable(name)} holds {array.dtype}; ids must be integers or text"
            complaints.append(Complaint("E312", what, name, "make integers or text of it"))
        else:
            labels, codes = np.unique(array, return_inverse=True)
            found.append(Clusters(name, read_only(codes.astype(np.int64)), read_only(labels)))
    return tuple(found), complaints


def varying(values: NDArray[Any], offsets: IntArray) -> IntArray:
    """Choice sets in which a column is not constant; NaN counts as a value of its own."""
    starts = offsets[:-1]
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return np.flatnonzero((low != high) & ~(np.isnan(low) & np.isnan(high)))


def not_constant(
    code: str,
    role: str,
    name: str,
    sets: IntArray,
    values: NDArray[Any],
    offsets: IntArray,
    ids: NDArray[Any],
) -> Complaint:
    """The complaint that a column differs within choice sets."""
    listed = []
    for i in sets[:SHOWN]:
        seen = values[offsets[i] : offsets[i + 1]]
        listed.append(f"{printable(ids[i])} ({some(dict.fromkeys(map(shown_number, seen)))})")
    more = " ..." if sets.size > SHOWN else ""
    what = f"{role} {quoted(name)} differs within choice sets: {', '.join(listed)}{more}"
    counted = f"{what}; {sets.size:,} of {plural(len(ids), 'set')}"
    return Complaint(code, counted, "", "give all rows of a choice set one value")


def shown_number(value: object) -> str:
    """A value in a message."""
    return f"{value:g}" if isinstance(value, (float, np.floating)) else shown(value)
