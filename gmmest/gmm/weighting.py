"""The covariance S of the contributions, and weights made from it.

There is one S: the object that gives the weight of the next step is the one that inference uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import Complaint, ConfigError, IdentificationError, printable, some
from gmmest.gmm.moments import Moments

__all__ = [
    "MomentCovariance",
    "Weight",
    "first_weight",
    "identity_weight",
    "inverse_weight",
    "moment_covariance",
]

Array = NDArray[np.float64]
Estimator = Literal["robust", "unadjusted"]

SINGULAR = 1e-13
"""Smallest pivot of a correlation matrix that still counts: below it a moment repeats others to the
last digits of double precision."""


@dataclass(frozen=True, slots=True)
class MomentCovariance:
    """Covariance of the contributions at one theta.

    Parameters
    ----------
    matrix : array (M, M)
        S.  ``robust``: ``(1/N) sum_i g_i g_i'``, not centred.  ``unadjusted``: what the model
        implies, for choices ``(1/N) sum_i Z_i'(diag(s_i) - s_i s_i')Z_i``.
    estimator : {"robust", "unadjusted"}
    n_obs : int
        N.
    """

    matrix: Array
    estimator: Estimator
    n_obs: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", read_only(self.matrix))


def read_only(array: Array) -> Array:
    """The same numbers in an array that cannot be written to; the one given stays as it is."""
    view = array.view()
    view.setflags(write=False)
    return view


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight matrix W by the lower-triangular factor R of its inverse, ``W = (R R')^-1``.

    Parameters
    ----------
    root : array (M, M)
        R.  With ``L = R^-T``, ``W = L L'`` and ``L'a = R^-1 a``.
    source : str
        What it is the inverse of: ``"identity"``, ``"instruments"``, or the estimator of an S.
    """

    root: Array
    source: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", read_only(self.root))

    @property
    def efficient(self) -> bool:
        """Whether W is the inverse of a covariance of the moments, as J needs it to be."""
        return self.source in ("robust", "unadjusted")

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


def moment_covariance(moments: Moments, theta: Array, estimator: Estimator) -> MomentCovariance:
    """S at theta; one pass.

    Parameters
    ----------
    moments : Moments
    theta : array (P,)
    estimator : {"robust", "unadjusted"}

    Raises
    ------
    ConfigError
        ``unadjusted`` for a model that implies no covariance of its moments.
    """
    model, n = moments.model, moments.sample.n_obs
    if estimator == "unadjusted":
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
        return MomentCovariance(implied(theta, n, moments.total), "unadjusted", n)

    def squares(block: object) -> Array:
        rows = np.asarray(model.contributions(theta, block))
        product: Array = rows.T @ rows
        return product

    return MomentCovariance(moments.total(squares) / n, "robust", n)


def identity_weight(n_moments: int) -> Weight:
    """``W = I`` in the user's units."""
    return Weight(np.eye(n_moments), "identity")


def first_weight(moments: Moments) -> Weight:
    """``W = (Zd'Zd/N)^-1`` with the instruments demeaned within choice sets; the identity without instruments."""
    product = getattr(moments.model, "instrument_product_sum", None)
    names = moments.sample.moment_names
    if product is None:
        return identity_weight(len(names))
    return Weight(_root(moments.total(product) / moments.sample.n_obs, names), "instruments")


def inverse_weight(covariance: MomentCovariance, names: tuple[str, ...]) -> Weight:
    """``W = S^-1``."""
    return Weight(_root(covariance.matrix, names), covariance.estimator)


def _root(matrix: Array, names: tuple[str, ...]) -> Array:
    """Cholesky factor, taken at unit diagonal; a singular matrix is refused with the moments named."""
    from scipy.linalg.lapack import dpstrf

    scale = np.sqrt(np.diag(matrix))
    if not np.all(scale > 0):
        flat = [names[j] for j in np.flatnonzero(~(scale > 0))]
        raise IdentificationError(
            Complaint(
                "E211",
                f"moments {some(flat)} are zero for every observation",
                next="drop these instruments; where the model fits without error, moments have no covariance",
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
