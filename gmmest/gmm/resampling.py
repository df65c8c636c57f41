"""Draws of a bootstrap: what one replication is, by pairs, by clusters, or by multipliers of scores.

A replication is a function of the seed and of its own number alone, so that it does not matter who makes it,
when, and beside which others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.backends import as_backend
from gmmest.errors import Complaint, ConfigError, EstimationError, IdentificationError
from gmmest.execution.serial import Serial
from gmmest.gmm.cue import second_moments
from gmmest.gmm.fitted import Context, Estimate
from gmmest.gmm.functions import sensitivity
from gmmest.gmm.moments import Moments
from gmmest.gmm.parameters import Parameters
from gmmest.gmm.steps import Plan, fit_steps
from gmmest.gmm.weighting import all_contributions
from gmmest.models.sample import Sample

__all__ = ["MULTIPLIERS", "Multipliers", "Refit", "Replication", "WildScore", "repeated", "wild_score"]

Array = NDArray[np.float64]
Places = NDArray[np.int64]
Multipliers = Literal["rademacher", "mammen", "webb"]
MULTIPLIERS: tuple[Multipliers, ...] = get_args(Multipliers)

ROOT5 = 5.0**0.5


@dataclass(frozen=True, slots=True, eq=False)
class Replication:
    """One replication.

    Parameters
    ----------
    index : int
    theta : array (P,)
        The estimate.
    errors : array (P,)
        Its standard errors; nan for parameters that are fixed or at a bound.
    j : float or None
        ``N Q`` at an efficient weight, of moments that are recentred or not.
    failure : str
        Why it is left out; empty if it is not.
    """

    index: int
    theta: Array
    errors: Array
    j: float | None = None
    failure: str = ""


def generator(seed: int, index: int) -> np.random.Generator:
    """The random numbers of one replication: the child of the seed with its number."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))


# --- samples drawn with replacement -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Refit:
    """The fit of a sample drawn with replacement, all steps repeated from the estimate on.

    Parameters
    ----------
    context : Context
        Of the free parameters.
    plan : Plan
    start : array (F,)
        The estimate.
    centre : array (M,) or None
        The moments there, which are taken off those of the replication.
    parameters : Parameters or None
        From free parameters to all.
    codes : array (N,) of int64 or None
        Clusters, drawn whole; None draws observations.
    way : str
        Name of the clusters.
    seed : int
    """

    context: Context
    plan: Plan
    start: Array
    centre: Array | None
    parameters: Parameters | None
    codes: Places | None
    way: str
    seed: int

    def __call__(self, index: int) -> Replication:
        """Replication ``index``; one that has no verified estimate says why."""
        missing = np.full(len(self.start) if self.parameters is None else len(self.parameters.names), np.nan)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            try:
                return self.fit(index, self.drawn(index))
            except (EstimationError, IdentificationError) as error:
                return Replication(index, missing, missing, failure=_first_line(error))
            except np.linalg.LinAlgError as error:
                return Replication(index, missing, missing, failure=str(error))

    def drawn(self, index: int) -> Sample:
        """The sample of replication ``index``."""
        sample, random = self.context.sample, generator(self.seed, index)
        if self.codes is not None:
            return cluster_draw(sample, self.codes, self.way, random)
        counts = pairs_counts(sample, random)
        if self.plan.steps == "cue":  # S as a function of theta counts every entry once
            return taken(sample, np.repeat(np.arange(len(counts)), counts), None)
        return repeated(sample, counts)

    def fit(self, index: int, sample: Sample) -> Replication:
        """The estimate from a sample."""
        plan = self.plan
        finite = np.any(np.isfinite(plan.lower)) or np.any(np.isfinite(plan.upper))
        limits = (plan.lower, plan.upper) if finite else None
        # an engine that compiles for a shape would do so for every draw
        grad = "auto" if as_backend(self.context.grad).whole else self.context.grad
        moments = Moments(self.context.model, sample, grad, Serial(), None, limits, self.centre)

        def with_s() -> Moments:
            return second_moments(moments, self.context.weighting, grad, Serial(), None, limits)

        fitted = fit_steps(plan, moments, self.start, with_s)
        found = fitted.estimate
        v = np.where(np.logical_or.outer(fitted.at_bound, fitted.at_bound), np.nan, found.v)
        theta, errors = found.theta, np.sqrt(np.diag(v))
        if self.parameters is not None:
            transform = self.parameters.transform
            errors = np.sqrt(np.sum((transform @ found.v) * transform, axis=1))
            errors[np.any(transform[:, fitted.at_bound] != 0, axis=1)] = np.nan
            theta = self.parameters.theta(theta)
        errors = np.where(errors > 0, errors, np.nan)
        reasons = fitted.certificate.reasons
        return Replication(
            index,
            np.asarray(theta),
            errors,
            fitted.value if found.weight.efficient and len(found.moments) > self.start.size else None,
            "" if not reasons else f"not verified: {reasons[0]}",
        )


def pairs_counts(sample: Sample, random: np.random.Generator) -> Places:
    """How often each entry is drawn when N observations are, all equally likely, (n,).

    An entry with frequency f stands for f observations.
    """
    frequency = sample.observations.frequency
    n = int(sample.entries[-1])
    if frequency is None:
        return np.bincount(random.integers(0, n, n), minlength=n)
    return random.multinomial(sample.n_obs, frequency / frequency.sum())


def repeated(sample: Sample, counts: Places) -> Sample:
    """The sample in which entry i occurs ``counts[i]`` times, whatever its frequency was.

    Parameters
    ----------
    sample : Sample
    counts : (n,) array of int
        Entries with 0 are left out.

    Notes
    -----
    Law: the counts are frequencies; estimate, S and J are those of rows physically repeated.
    """
    places = np.flatnonzero(counts)
    return taken(sample, places, counts[places].astype(np.float64))


def cluster_draw(sample: Sample, codes: Places, way: str, random: np.random.Generator) -> Sample:
    """As many clusters as there are, each equally likely, with all their observations.

    A cluster that is drawn twice is two clusters: its copies get codes of their own.
    """
    groups = int(codes.max()) + 1
    counts = np.bincount(random.integers(0, groups, groups), minlength=groups)
    times = counts[codes]
    places = np.repeat(np.arange(len(codes)), times)
    first = np.concatenate(([0], np.cumsum(times)[:-1]))
    copy = np.arange(len(places)) - np.repeat(first, times)
    own = (np.cumsum(counts) - counts)[codes[places]] + copy
    frequency = sample.observations.frequency
    drawn = taken(sample, places, None if frequency is None else frequency[places])
    seen = drawn.observations
    clusters = tuple(replace(c, codes=own, labels=None) if c.name == way else c for c in seen.clusters)
    return replace(drawn, observations=replace(seen, clusters=clusters))


def taken(sample: Sample, places: Places, frequency: Array | None) -> Sample:
    """Entries by their places, which must not fall, with these frequencies."""
    seen = replace(sample.observations.take(places), frequency=frequency)
    ends = sample.entries
    cuts = np.searchsorted(places, ends)
    blocks, counts = [], []
    for block, begin, a, b in zip(sample.blocks, ends[:-1], cuts[:-1], cuts[1:], strict=True):
        if a < b:
            part = seen.take(np.arange(a, b))
            blocks.append(_entries(block)(places[a:b] - begin, part))
            counts.append(part.count(int(b - a)))
    return replace(
        sample,
        blocks=tuple(blocks),
        counts=tuple(counts),
        whole=lambda: taken(sample.whole(), places, frequency),
        fingerprint="",
        instrument_product=None,
        observations=seen,
    )


def _entries(block: Any) -> Any:
    own = getattr(block, "entries_at", None)
    if own is None:
        what = f"observations cannot be drawn from blocks of type {type(block).__name__}"
        advice = "give them a method entries_at(places, observations); or kind: wild, which draws none"
        raise ConfigError(Complaint("E102", what, next=advice))
    return own


def _first_line(error: EstimationError | IdentificationError) -> str:
    complaint = error.complaints[0]
    return f"{complaint.code} {complaint.what}"


# --- multipliers of the scores ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class WildScore:
    """The estimate moved by its influence function, the contribution of each group times a random number.

    ``theta* - theta = (1/N) sum_k eta_k psi_k``, and its variance again from the ``eta_k psi_k`` less their mean.

    Parameters
    ----------
    theta : array (P,)
    influence : array (K, P)
        psi, summed over each group: ``-(G'WG)^-1 G'W g_k``.
    size : array (K,)
        Observations in each group.
    times : array (K,) or None
        How often each group occurs, with numbers of its own; None for once.
    n_obs : int
        N.
    multipliers : {"rademacher", "mammen", "webb"}
    seed : int
    """

    theta: Array
    influence: Array
    size: Array
    times: Array | None
    n_obs: int
    multipliers: Multipliers
    seed: int

    @property
    def errors(self) -> Array:
        """Sandwich standard errors, ``(sum_k psi_k^2)^(1/2) / N``, (P,); nan where nothing moves."""
        squares = self._times @ np.square(self.influence)
        return np.sqrt(np.where(squares > 0, squares, np.nan)) / self.n_obs

    @property
    def _times(self) -> Array:
        return np.ones(len(self.size)) if self.times is None else self.times

    def __call__(self, index: int) -> Replication:
        """Replication ``index``; two passes over the influence function."""
        first, second = self._sums(generator(self.seed, index))
        move = first @ self.influence / self.n_obs
        squares = second @ np.square(self.influence)
        cross = (first * self.size) @ self.influence
        squares = squares - 2.0 * move * cross + np.square(move) * (self._times @ np.square(self.size))
        errors = np.sqrt(np.where(squares > 0, squares, np.nan)) / self.n_obs
        return Replication(index, self.theta + move, errors)

    def _sums(self, random: np.random.Generator) -> tuple[Array, Array]:
        """Sums of the numbers of each group, and of their squares, (K,) each."""
        values, chances = distribution(self.multipliers)
        if self.times is None:
            eta = values[random.choice(len(values), size=len(self.size), p=chances)]
            return eta, eta * eta
        counts: Array = random.multinomial(self.times.astype(np.int64), chances).astype(np.float64)
        return counts @ values, counts @ np.square(values)


def distribution(multipliers: Multipliers) -> tuple[Array, Array]:
    """Values and probabilities; mean 0, variance 1.

    Examples
    --------
    >>> values, chances = distribution("rademacher")
    >>> values.tolist(), chances.tolist()
    ([-1.0, 1.0], [0.5, 0.5])
    """
    if multipliers == "rademacher":
        return np.array([-1.0, 1.0]), np.full(2, 0.5)
    if multipliers == "mammen":  # third moment 1 (Mammen 1993)
        return np.array([1 - ROOT5, 1 + ROOT5]) / 2, np.array([ROOT5 + 1, ROOT5 - 1]) / (2 * ROOT5)
    values = np.sqrt([0.5, 1.0, 1.5])  # more values where clusters are few (Webb 2023)
    return np.concatenate([-values[::-1], values]), np.full(6, 1 / 6)


def wild_score(
    context: Context,
    estimate: Estimate,
    parameters: Parameters | None,
    codes: Places | None,
    multipliers: Multipliers,
    seed: int,
) -> WildScore:
    """The influence function at the estimate, summed over groups; one pass.

    References
    ----------
    Kline, P. and A. Santos (2012), "A score based approach to wild bootstrap inference", Journal of
    Econometric Methods 1, 23-41.
    """
    moments = context.moments()
    seen, n = moments.sample.observations, moments.sample.n_obs
    rows = all_contributions(moments, estimate.theta)
    moved = sensitivity(estimate.jacobian, estimate.weight)
    theta = estimate.theta
    if parameters is not None:
        moved, theta = parameters.transform @ moved, parameters.theta(theta)
    influence = rows @ moved.T
    size: Array = np.ones(len(rows)) if seen.frequency is None else seen.frequency
    times = None
    if codes is not None:
        groups = int(codes.max()) + 1
        sums = np.zeros((groups, influence.shape[1]))
        np.add.at(sums, codes, influence)
        influence, size = sums, np.bincount(codes, weights=size, minlength=groups).astype(np.float64)
    elif seen.frequency is not None:
        influence, times, size = influence / seen.frequency[:, None], seen.frequency, np.ones(len(rows))
    return WildScore(theta, influence, size, times, n, multipliers, seed)
