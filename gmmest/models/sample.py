"""What a model makes of data: the arrays that its moments are computed from, with their names.

This is the wall between names and numbers.  Above it are terms, labels and files; below it are
float64 arrays in blocks.  :class:`MomentModel` is all that the GMM layer asks of a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.data.observations import UNWEIGHTED, Observations
from gmmest.errors import Complaint, ConfigError, require_parameters

__all__ = [
    "OF_BLOCKS",
    "OF_PARAMETERS",
    "MomentModel",
    "MomentSums",
    "Part",
    "Restriction",
    "Sample",
    "Start",
    "Total",
    "Within",
    "rows_per_block",
    "starting_point",
    "takes_restriction",
]

Array = NDArray[np.float64]
Total = Callable[[Callable[[Any], Any]], Any]
"""Folds a function of a block over all blocks."""
Start = Mapping[str, float] | Sequence[float] | NDArray[np.float64] | None
"""Parameters to start from, by name or in order."""


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
class MomentSums:
    """Sums over observations; records add.

    Parameters
    ----------
    count : int
        Observations summed over; with frequencies, their sum.
    moments : array (M,)
        ``sum_i g_i(theta)``.
    jacobian : array (M, P) or None
        ``sum_i dg_i/dtheta'``, where it was asked for.
    square : array (M, M) or None
        ``sum_i g_i g_i'/f_i`` with f_i the frequency, where it was asked for: N times the robust S.
    """

    count: int
    moments: Array
    jacobian: Array | None = None
    square: Array | None = None

    def __post_init__(self) -> None:
        freeze(self, "moments", "jacobian", "square")

    def __add__(self, other: MomentSums) -> MomentSums:
        return MomentSums(
            self.count + other.count,
            self.moments + other.moments,
            _both(self.jacobian, other.jacobian),
            _both(self.square, other.square),
        )


def _both(left: Array | None, right: Array | None) -> Array | None:
    return None if left is None or right is None else left + right


@dataclass(frozen=True, slots=True)
class Within:
    """How columns vary within choice sets.

    Parameters
    ----------
    level : array (K,)
        Largest mean of a set, in absolute value.
    reach : array (K,)
        Root of the sum over the rows of their squared distance from the mean of their set; no row is farther.
    cross : array (K, K)
        Sum of the products of these distances.
    n_rows : int
    """

    level: Array
    reach: Array
    cross: Array
    n_rows: int

    @property
    def deviation(self) -> Array:
        """Root of the mean over the rows of the squared distance, (K,)."""
        root: Array = self.reach / np.sqrt(self.n_rows)
        return root


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
    within : Within, optional
        For choices: how features vary within their sets.
    instrument_product : array (M, M), optional
        Sum of what ``instrument_product_sum`` gives for the blocks, where it is at hand.
    observations : Observations
        Weights, frequencies and clusters.
    absorbed : int
        Parameters that were taken out beforehand, effects of groups; small-sample factors count them.
    recombined : array (M, M), optional
        T where the instruments are ``Z T``; see :mod:`.recombination`.
    recombined_score : bool
        Whether these moments are T' times the score of a likelihood.
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
    within: Within | None = None
    instrument_product: Array | None = None
    observations: Observations = UNWEIGHTED
    absorbed: int = 0
    recombined: Array | None = None
    recombined_score: bool = False

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

    @property
    def parts(self) -> list[Part]:
        """The blocks with what is known of their entries beside their rows."""
        ends, seen = self.entries.tolist(), self.observations
        return [
            Part(
                block,
                count,
                begin,
                None if seen.frequency is None else seen.frequency[begin:end],
            )
            for block, count, begin, end in zip(self.blocks, self.counts, ends[:-1], ends[1:], strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Part:
    """A block with its entries' roles.

    Parameters
    ----------
    block
    count : int
        Observations; with frequencies, their sum.
    start : int
        Its first entry among those of the sample.
    frequency : (N_b,) array or None
    """

    block: Any
    count: int
    start: int
    frequency: Array | None = None


OF_PARAMETERS = ("moment_sum", "unadjusted_covariance", "loglike")
"""Optional methods of a model that have all parameters first and return nothing by parameter."""

OF_BLOCKS = ("instrument_product_sum", "instrument_products", "is_likelihood_score")
"""Optional methods of a model that know no parameters."""


@runtime_checkable
class MomentModel(Protocol):
    """What the GMM layer asks of a model.

    Beside these two, a model may have ``moment_sum(theta, block) -> (M,)`` (law: the sum of the
    contributions), hand-written derivatives of it, ``moment_sum_and_jacobian(theta, block)`` and
    ``moment_sum_and_vjp(theta, block)``, ``moment_sums(theta, block) -> MomentSums`` with the squares of the
    contributions from the same visit of the block, ``unadjusted_covariance(theta, n_obs, total) -> (M, M)``
    with ``total`` the fold of a function over the blocks,
    ``instrument_product_sum(block) -> (M, M)`` for the first-step weight and its parts by observation,
    ``instrument_products(block, left, right) -> (n_b, P)``, ``is_likelihood_score(block) -> bool``,
    ``loglike(theta, block) -> float``, and ``check_existence(theta, sample, transform=None, sums=None)``, which
    raises where no finite estimate exists; with T of free parameters, and with the sums of moments and Jacobian
    at theta, where they are at hand.  Where ``sample`` takes ``restriction=``, what
    it checks of identification is asked of the free parameters alone.  Parameters are the first argument of
    every method that takes them, whatever it calls them: so all can be put in for the free ones.  The GMM layer
    asks for these methods and no others.
    """

    def sample(self, data: Any) -> Sample:
        """The arrays and names that this model takes from data."""

    def contributions(self, theta: Array, block: Any) -> Array:
        """Contributions g_i of the observations of a block, (n_b, M)."""


class RestrictedModel(MomentModel, Protocol):
    """A model that asks identification of the free parameters alone."""

    def sample(self, data: Any, restriction: Restriction | None = None) -> Sample:
        """As of any model."""


def takes_restriction(model: MomentModel) -> TypeGuard[RestrictedModel]:
    """Whether the model's ``sample`` takes ``restriction=``."""
    return "restriction" in inspect.signature(model.sample).parameters


def rows_per_block(n_columns: int) -> int:
    """Rows of a block, from the number of its columns alone: features, and instruments where these are others.

    They fill about 8 MiB.  Smaller blocks pay Python's overhead, larger ones leave the cache (measured:
    tests/benchmarks).
    """
    return max(512, 2**20 // n_columns)


def starting_point(start: Start, names: tuple[str, ...], otherwise: Array) -> Array:
    """Values by name, the rest as said otherwise, or all in order, (P,).

    Examples
    --------
    >>> starting_point({"b": 2.0}, ("a", "b"), np.zeros(2))
    array([0., 2.])
    """
    theta = np.array(otherwise, dtype=np.float64)
    if start is None:
        return theta
    if hasattr(start, "keys"):  # a mapping, or a pandas Series such as the params of another fit
        named = dict(cast(Mapping[str, float], start).items())
        require_parameters("start", named, names)
        for name, value in named.items():
            theta[names.index(name)] = _real(value, ())
    else:
        theta = _real(start, theta.shape)
    if not np.all(np.isfinite(theta)):
        raise ConfigError(Complaint("E102", "start has values that are not finite"))
    return theta


def _real(value: object, shape: tuple[int, ...]) -> Array:
    try:
        given = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(Complaint("E102", f"start has {value!r}; numbers were expected")) from None
    if given.shape != shape:
        expected = f"{shape[0]} values were expected, one a parameter" if shape else "one number was expected"
        raise ConfigError(Complaint("E102", f"start has shape {given.shape}; {expected}"))
    return given
