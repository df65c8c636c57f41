"""The covariance S of the contributions, and weights made from it.

There is one S: the object that gives the weight of the next step is the one that inference uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.data.observations import Observations
from gmmest.derivatives import ops
from gmmest.errors import Complaint, ConfigError, EstimationError, IdentificationError, printable, some
from gmmest.gmm.clusters import Grouping, intersection, ways_of_clustering
from gmmest.gmm.covariance_options import ESTIMATORS, CovarianceOptions, Estimator
from gmmest.gmm.kernels import choose_bandwidth, sum_over_lags
from gmmest.gmm.moments import Moments, square_of
from gmmest.models.sample import Part, Sample

__all__ = [
    "MomentCovariance",
    "Weight",
    "all_contributions",
    "contribution_covariance",
    "first_weight",
    "identity_weight",
    "initial_weight",
    "inverse_weight",
    "less",
    "moment_covariance",
    "require_efficient",
    "small_sample_factor",
    "sum_of_pairs",
]

Array = NDArray[np.float64]
SMALLEST = float(np.sqrt(np.finfo(np.float64).tiny))
"""Moments, in root mean square, whose squares still have all their digits."""
SINGULAR = 1e-13
"""Smallest pivot of a correlation matrix that still counts: below it a moment repeats others to the
last digits of double precision."""

FEW_CLUSTERS = 50
"""Below this many clusters tests reject too often (Cameron, Gelbach and Miller 2008)."""


@dataclass(frozen=True, slots=True)
class MomentCovariance:
    """Covariance of the contributions at one theta.

    Parameters
    ----------
    matrix : array (M, M)
        S.  With ``c_i = w_i f_i g_i`` the contribution of entry i (sampling weight w, frequency f, both
        one by default), less ``f_i g`` where it is centred, and N the sum of the frequencies:

        * ``robust``: ``(1/N) sum_i c_i c_i'/f_i``;
        * ``unadjusted``: what the model implies, for choices ``(1/N) sum_i Z_i'(diag(s_i) - s_i s_i')Z_i``;
        * ``cluster``: ``(1/N) sum_c d_c d_c'`` with ``d_c`` the sum of the ``c_i`` in cluster c;
        * ``twoway``: ``S_a + S_b - S_ab``, clusters a, clusters b, and their intersections;
        * ``kernel``: ``(1/N) sum_t sum_s k(t - s) c_t c_s'``.
    estimator : {"robust", "unadjusted", "cluster", "twoway", "kernel"}
    n_obs : int
        N.
    options : CovarianceOptions
    factor : float
        What the matrix was multiplied by for small samples; 1 by default.
    clusters : tuple of (str, int)
        Names and numbers of clusters.
    bandwidth : float or None
        The one used.
    theta : array (P,) or None
        Where the contributions were taken.
    """

    matrix: Array
    estimator: Estimator
    n_obs: int
    options: CovarianceOptions = field(default_factory=CovarianceOptions)
    factor: float = 1.0
    clusters: tuple[tuple[str, int], ...] = ()
    bandwidth: float | None = None
    theta: Array | None = None

    def __post_init__(self) -> None:
        freeze(self, "matrix", "theta")

    @property
    def degrees(self) -> int | None:
        """Degrees of freedom of t statistics: G - 1, of the way with fewer clusters; None for the normal."""
        return min(count for _, count in self.clusters) - 1 if self.clusters else None

    @property
    def text(self) -> str:
        """How it was made, for the summary."""
        details = [f"{count:,} of {printable(name)}" for name, count in self.clusters]
        if self.bandwidth is not None:
            details.append(f"{self.options.kernel}, bandwidth {self.bandwidth:.6g}")
        details.append("centred" if self.options.centred else "not centred")
        if self.options.small_sample:
            details.append(f"small-sample factor {self.factor:.6g}")
        return f"{self.estimator} ({', '.join(details)})"

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings: few clusters, and a difference of S's that is not one itself."""
        few = [
            f"{count} clusters of {printable(name)}" for name, count in self.clusters if count < FEW_CLUSTERS
        ]
        found = [f"W340 {' and '.join(few)}: Wald tests and intervals are unreliable"] if few else []
        if self.estimator == "twoway" and smallest_correlation(self.matrix) < -SINGULAR * len(self.matrix):
            found.append(
                "W341 S of two ways of clustering is not positive definite: some combinations of the"
                " estimates have a variance below zero"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight matrix W by the lower-triangular factor R of its inverse, ``W = (R R')^-1``.

    Parameters
    ----------
    root : array (M, M)
        R.  With ``L = R^-T``, ``W = L L'`` and ``L'a = R^-1 a``.
    source : str
        What it is the inverse of: ``"identity"``, ``"instruments"``, or the estimator of an S.
    s : MomentCovariance or None
        That S, where it is one.
    """

    root: Array
    source: str
    s: MomentCovariance | None = None

    def __post_init__(self) -> None:
        freeze(self, "root")

    @property
    def efficient(self) -> bool:
        """Whether W is the inverse of a covariance of the moments, as J needs it to be."""
        return self.source in ESTIMATORS

    @property
    def text(self) -> str:
        """What it is the inverse of, for the summary."""
        return self.source if self.s is None else self.s.text

    def whiten(self, a: Array) -> Array:
        """``L'a`` for a vector (M,) or a matrix (M, k): then ``|L'g|^2 = g'Wg``."""
        from scipy.linalg import solve_triangular

        result: Array = solve_triangular(self.root, a, lower=True, check_finite=False)
        return result

    def apply(self, a: Array) -> Array:
        """``W a``."""
        from scipy.linalg import solve_triangular

        result: Array = solve_triangular(self.root, self.whiten(a), lower=True, trans="T", check_finite=False)
        return result


def require_efficient(weight: Weight, what: str, advice: str) -> None:
    """Refuse (E420) what has no meaning unless W is the inverse of a covariance of the moments."""
    if not weight.efficient:
        raise EstimationError(
            Complaint(
                "E420",
                f"{what} has no meaning here: the weight was {weight.source!r}, not the inverse of a covariance of"
                " the moments",
                next=advice,
            )
        )


def moment_covariance(moments: Moments, theta: Array, options: CovarianceOptions) -> MomentCovariance:
    """S at theta; one pass.

    Parameters
    ----------
    moments : Moments
    theta : array (P,)
    options : CovarianceOptions

    Returns
    -------
    MomentCovariance
        With the formulas in its documentation.

    Raises
    ------
    ConfigError
        ``unadjusted`` for a model that implies no covariance of its moments, or centred; clusters that the
        data do not have; lags of observations with frequencies.
    EstimationError
        E340: one cluster.  E421: no automatic bandwidth.

    Notes
    -----
    Laws: frequencies give what repeated rows give; centred S is S less gg' for ``robust``; clusters of one
    observation each, and bandwidth 0, give ``robust``.  Clusters may straddle blocks: sums
    within the clusters of a block are added in the order of the blocks, G M numbers in memory for G clusters.
    For lags the contributions of all blocks are put together: N M numbers.

    References
    ----------
    Newey, W. K. and K. D. West (1987), Econometrica 55, 703-708.
    Cameron, A. C., J. B. Gelbach and D. L. Miller (2011), Journal of Business and Economic Statistics 29,
    238-249.
    """
    complaints = options.complaints()
    if complaints:
        raise ConfigError(complaints)
    model, n, seen = moments.model, moments.sample.n_obs, moments.sample.observations
    n_params = len(moments.sample.names) + moments.sample.absorbed
    if options.estimator == "unadjusted":
        implied = getattr(model, "unadjusted_covariance", None)
        if implied is None:
            raise ConfigError(
                Complaint(
                    "E102",
                    f"weighting 'unadjusted' has no meaning for {type(model).__name__}: moments alone imply"
                    " no covariance",
                    next="weighting: robust",
                )
            )
        factor = small_sample_factor(options, n, n_params)
        s = factor * implied(theta, n, moments.total)
        return MomentCovariance(s, "unadjusted", n, options, factor, theta=theta)
    if options.estimator == "kernel":
        rows = all_contributions(moments, theta)
        return replace(contribution_covariance(rows, options, seen, n, n_params), theta=theta)
    mean = moments.centre
    if options.centred:
        mean = moments.value(theta) if mean is None else mean + moments.value(theta)
    if options.estimator == "robust" and mean is None:
        factor = small_sample_factor(options, n, n_params)
        return MomentCovariance(factor * moments.square(theta), "robust", n, options, factor, theta=theta)

    def contributions(part: Part) -> Array:
        rows = np.asarray(model.contributions(theta, part.block))
        return rows if mean is None else less(rows, mean, part.frequency)

    if options.estimator == "robust":
        factor = small_sample_factor(options, n, n_params)
        s = moments.total_of_parts(lambda part: square_of(contributions(part), part.frequency)) / n
        return MomentCovariance(factor * s, "robust", n, options, factor, theta=theta)
    return replace(_clustered(moments, contributions, options, n_params), theta=theta)


def contribution_covariance(
    rows: Array, options: CovarianceOptions, seen: Observations, n: int, n_params: int
) -> MomentCovariance:
    """S of any contributions, by every estimator that needs no more than these.

    Parameters
    ----------
    rows : array (N, M)
        ``c_i`` of every entry, in the order of the data.
    options : CovarianceOptions
    seen : Observations
    n : int
        N, the sum of the frequencies.
    n_params : int
        P of the small-sample factor.
    """
    width, used = None, options
    if options.estimator == "kernel":
        if seen.frequency is not None:
            what = "weighting 'kernel' has no meaning with frequencies: repeated observations have no order in time"
            raise ConfigError(Complaint("E102", what, next="one row for each observation"))
        width = choose_bandwidth(_centred(rows, options, seen, n), options.kernel, options.bandwidth)
        used = replace(options, bandwidth=width)
    s = sum_of_pairs(rows, used, seen, n, n_params) / n
    ways = ways_of_clustering(options, seen)
    factor = small_sample_factor(options, n, n_params, ways[0] if ways else None)
    counts = tuple((way.name, way.count) for way in ways)
    return MomentCovariance(s, options.estimator, n, options, factor, counts, width)


def _clustered(
    moments: Moments, contributions: Callable[[Part], Array], options: CovarianceOptions, n_params: int
) -> MomentCovariance:
    """S by clusters that may straddle blocks: sums within the clusters of a block, added in block order."""
    n, ways = moments.sample.n_obs, ways_of_clustering(options, moments.sample.observations)
    parts = _parts(ways)
    groups = [way.codes for way in parts]

    def sums(part: Part) -> list[list[_Grouped]]:
        rows = contributions(part)
        return [[_grouped(rows, codes[part.start : part.start + len(rows)]) for codes in groups]]

    blocks = moments.total_of_parts(sums)
    totals = []
    for place, way in enumerate(parts):
        total = np.zeros((way.count, blocks[0][place].sums.shape[1]))
        for block in blocks:
            total[block[place].codes] += block[place].sums
        totals.append(total)
    s = _sum_over_clusters(parts, totals, options, n, n_params) / n
    factor = small_sample_factor(options, n, n_params, ways[0])
    counts = tuple((way.name, way.count) for way in ways)
    return MomentCovariance(s, options.estimator, n, options, factor, counts)


@dataclass(frozen=True, slots=True)
class _Grouped:
    """Sums of the contributions of a block within the clusters that it has part of."""

    codes: NDArray[np.int64]
    sums: Array


def _grouped(rows: Array, codes: NDArray[np.int64]) -> _Grouped:
    present, places = np.unique(codes, return_inverse=True)
    sums = np.zeros((present.size, rows.shape[1]))
    np.add.at(sums, places, rows)
    return _Grouped(present, sums)


def sum_of_pairs(rows: Any, options: CovarianceOptions, seen: Observations, n: int, n_params: int) -> Any:
    """``N S = sum_i sum_j k_ij c_i c_j'``, (M, M); rows may carry derivatives, a bandwidth is a number.

    Parameters as for :func:`contribution_covariance`.  k is 1 within a cluster, ``k(t - s)`` for a kernel, and
    ``1/f_i`` on the diagonal alone where neither is given.
    """
    rows = _centred(rows, options, seen, n)
    factor = small_sample_factor(options, n, n_params)
    if options.estimator == "robust":
        return factor * (rows.T @ (rows if seen.frequency is None else rows / seen.frequency[:, None]))
    if options.estimator == "kernel":
        return factor * sum_over_lags(rows, options.kernel, float(options.bandwidth))
    parts = _parts(ways_of_clustering(options, seen))
    totals = [ops.segment_sum(rows[way.order], way.offsets) for way in parts]
    return _sum_over_clusters(parts, totals, options, n, n_params)


def _parts(ways: tuple[Grouping, ...]) -> tuple[Grouping, ...]:
    """One way of clustering, or two and their intersection."""
    return ways if len(ways) == 1 else (*ways, intersection(*ways))


def _sum_over_clusters(
    parts: tuple[Grouping, ...], totals: list[Any], options: CovarianceOptions, n: int, n_params: int
) -> Any:
    """``N S = sum_c d_c d_c'``, with two ways ``N (S_a + S_b - S_ab)``, from the sums d within each part."""
    squares = [
        small_sample_factor(options, n, n_params, way) * (total.T @ total)
        for way, total in zip(parts, totals, strict=True)
    ]
    return squares[0] if len(parts) == 1 else squares[0] + squares[1] - squares[2]


def small_sample_factor(
    options: CovarianceOptions, n: int, n_params: int, way: Grouping | None = None
) -> float:
    """``N/(N - P)``, with clusters ``G/(G - 1) (N - 1)/(N - P)``; 1 where it was not asked for."""
    if not options.small_sample or n <= n_params:
        return 1.0
    if way is None:
        return n / (n - n_params)
    return (n - 1) / (n - n_params) * (way.count / (way.count - 1) if way.count > 1 else 1.0)


def _centred(rows: Any, options: CovarianceOptions, seen: Observations, n: int) -> Any:
    if not options.centred:
        return rows
    return less(rows, np.sum(rows, axis=0) / n, seen.frequency)


def less(rows: Any, mean: Any, frequency: Array | None) -> Any:
    """``c_i - f_i mean``."""
    return rows - (mean if frequency is None else frequency[:, None] * mean)


def all_contributions(moments: Moments, theta: Array) -> Array:
    """Contributions of all blocks in their order, (N, M)."""
    pieces = moments.total(lambda block: [np.asarray(moments.model.contributions(theta, block))])
    rows: Array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return (
        rows if moments.centre is None else less(rows, moments.centre, moments.sample.observations.frequency)
    )


def identity_weight(sample: Sample) -> Weight:
    """``W = I`` in the user's units: for moments ``T'g`` in place of g, ``(T'T)^-1``."""
    t = sample.recombined
    root: Array = np.eye(len(sample.moment_names)) if t is None else np.transpose(np.linalg.qr(t)[1])
    return Weight(root, "identity")


def initial_weight(moments: Moments, initial: str) -> Weight:
    """The weight of the first step, ``"instruments"`` or ``"identity"``."""
    return first_weight(moments) if initial == "instruments" else identity_weight(moments.sample)


def first_weight(moments: Moments) -> Weight:
    """``W = (Zd'Zd/N)^-1`` with the instruments demeaned within choice sets; the identity without instruments."""
    product = getattr(moments.model, "instrument_product_sum", None)
    names = moments.sample.moment_names
    if product is None:
        return identity_weight(moments.sample)
    known = moments.sample.instrument_product
    total = moments.total(product) if known is None else known
    return Weight(_root(total / moments.sample.n_obs, names), "instruments")


def inverse_weight(covariance: MomentCovariance, names: tuple[str, ...]) -> Weight:
    """``W = S^-1``.

    Raises
    ------
    IdentificationError
        E211: moments that are zero or repeat others.  E214: S of clusters that has no inverse.
    """
    ways = covariance.clusters
    if ways:
        _require_definite(covariance, len(names))
    return Weight(_root(covariance.matrix, names), covariance.estimator, covariance)


def _require_definite(covariance: MomentCovariance, m: int) -> None:
    """Refuse an S of clusters without an inverse: too few clusters, or a difference that is not positive."""
    counts = " and ".join(f"{count} clusters of {printable(name)}" for name, count in covariance.clusters)
    most = sum(count for _, count in covariance.clusters) - int(covariance.options.centred)
    if covariance.estimator == "cluster" and most < m:
        what = f"S of {counts} has at most rank {most} for {m} moments, and no inverse"
    else:
        smallest = smallest_correlation(covariance.matrix)
        if covariance.estimator == "cluster" or smallest > SINGULAR * m:
            return
        what = f"S of {counts} is not positive definite (smallest eigenvalue {smallest:.2g} in correlations)"
    raise IdentificationError(
        Complaint(
            "E214", what, next="steps: onestep, whose weight needs no S, or weighting: robust or cluster"
        )
    )


def smallest_correlation(s: Array) -> float:
    """Smallest eigenvalue of S with its diagonal, where that is positive, at one."""
    diagonal = np.diag(s)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    return float(np.linalg.eigvalsh(s / np.outer(scale, scale))[0])


def _root(matrix: Array, names: tuple[str, ...]) -> Array:
    """Cholesky factor, taken at unit diagonal; a singular matrix is refused with the moments named."""
    from scipy.linalg.lapack import dpstrf

    scale = np.sqrt(np.diag(matrix))
    if not np.all(scale > SMALLEST):
        flat = [names[j] for j in np.flatnonzero(~(scale > SMALLEST))]
        raise IdentificationError(
            Complaint(
                "E211",
                f"moments {some(flat)} are zero for every observation, or so small (below {SMALLEST:.0e}) that their"
                " squares are lost",
                next="drop these instruments, or multiply them by a constant; where the model fits without error,"
                " moments have no covariance",
            )
        )
    correlation = matrix / np.outer(scale, scale)
    _, order, rank, _ = dpstrf(correlation, tol=SINGULAR, lower=1)
    if rank < len(names):
        redundant = [names[j - 1] for j in order[rank:]]
        raise IdentificationError(
            Complaint(
                "E211",
                f"moments {some(redundant)} are combinations of the others: their covariance has rank"
                f" {rank} of {len(names)}, and J would be wrong",
                next=f"drop {printable(redundant[0])}, or use weighting: unadjusted or steps: onestep",
            )
        )
    root: Array = scale[:, None] * np.linalg.cholesky(correlation)
    return root
