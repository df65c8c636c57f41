"""The verdict: whether a point is a minimum of the criterion, judged by derivatives alone.

An optimiser's flag plays no part.  A point is *verified* if the Gauss-Newton step that remains is
below 1e-4 standard errors in every parameter, the whitened Jacobian has full rank and a condition
number below 1e12 (columns at unit norm), and the criterion curves upwards in every direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import printable
from gmmest.gmm.optimize import least_norm

__all__ = ["Certificate", "certify", "curvature"]

Array = NDArray[np.float64]

STEP_LIMIT = 1e-4
CONDITION_LIMIT = 1e12
ROUNDING_ULP = 64
ROOT_LIMIT = 1e-8
"""N Q of a just identified model at its root, in units of the moments' own variance."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Why an estimate may be believed, or not.

    Parameters
    ----------
    remaining_step_se : float
        Largest remaining Gauss-Newton step, in standard errors.
    condition : float
        Condition number of the whitened Jacobian with columns at unit norm.
    rank : int
        Its rank.
    smallest_curvature : float
        Smallest eigenvalue of half the Hessian of N Q in standard-error units: 1 for a quadratic
        criterion, positive at a minimum.
    reasons : tuple of str
        What speaks against the estimate; empty means verified.
    """

    remaining_step_se: float
    condition: float
    rank: int
    smallest_curvature: float
    reasons: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


def certify(
    point: Array,
    residuals: Array,
    jacobian: Array,
    standard_errors: Array,
    names: tuple[str, ...],
    hessian: Array | None = None,
    efficient_value: float | None = None,
) -> Certificate:
    """Judge a point.

    Parameters
    ----------
    point : array (P,)
    residuals : array (M,)
        ``sqrt(N) L'g``.
    jacobian : array (M, P)
        Their Jacobian.
    standard_errors : array (P,)
        The unit in which steps are measured.
    names : tuple of str
    hessian : array (P, P), optional
        Half the Hessian of N Q; by default Gauss-Newton's ``J'J``, exact where the moments vanish.
    efficient_value : float, optional
        ``N g'S^-1 g`` of a just identified model, which must be zero up to rounding.

    Returns
    -------
    Certificate
    """
    norms = np.sqrt(np.sum(np.square(jacobian), axis=0))
    unit = jacobian / np.where(norms > 0, norms, 1.0)
    singular = np.linalg.svd(unit, compute_uv=False) if np.all(np.isfinite(unit)) else np.zeros(1)
    rank = int(np.sum(singular > singular[0] / CONDITION_LIMIT)) if singular[0] > 0 else 0
    condition = float(singular[0] / singular[-1]) if rank == point.size else float("inf")
    reasons = []
    if rank < point.size:
        reasons.append(f"the Jacobian of the moments has rank {rank} for {point.size} parameters")
        return Certificate(float("inf"), condition, rank, 0.0, tuple(reasons))

    step = np.abs(least_norm(jacobian, residuals))
    beyond = np.maximum(step - ROUNDING_ULP * np.spacing(np.abs(point)), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(
            beyond > 0, step / standard_errors, np.where(step > 0, step / standard_errors, 0.0)
        )
        too_long = np.where(beyond > 0, beyond / standard_errors, 0.0)
    worst = int(np.argmax(np.where(np.isnan(too_long), np.inf, too_long)))
    if not too_long[worst] < STEP_LIMIT:
        reasons.append(
            f"the remaining Newton step is {relative[worst]:.1e} standard errors in {printable(names[worst])}"
            f" ({STEP_LIMIT:g} is allowed)"
        )
    smallest = smallest_curvature(jacobian, hessian)
    if not smallest > 0:
        reasons.append("the criterion does not curve upwards in every direction: a saddle or a flat valley")
    if efficient_value is not None and not efficient_value <= ROOT_LIMIT:
        reasons.append(
            f"as many moments as parameters, but they do not vanish (N g'S^-1 g = {efficient_value:.1e})"
        )
    return Certificate(float(np.max(relative)), condition, rank, smallest, tuple(reasons))


def smallest_curvature(jacobian: Array, hessian: Array | None) -> float:
    """Smallest eigenvalue of half the Hessian in the metric of ``J'J``; 1 where no Hessian is given."""
    if hessian is None:
        return 1.0
    triangle: Array = np.linalg.qr(jacobian, mode="r")  # type: ignore[assignment]
    half = np.linalg.solve(triangle.T, 0.5 * (hessian + hessian.T))
    scaled = np.linalg.solve(triangle.T, half.T)
    if not np.all(np.isfinite(scaled)):
        return float("nan")
    return float(np.linalg.eigvalsh(0.5 * (scaled + scaled.T))[0])


def curvature(gradient: Callable[[Array], Array], point: Array, steps: Array) -> Array:
    """Hessian by central differences of an exact gradient; ``steps`` a small part of a standard error each."""
    columns = []
    for i, h in enumerate(steps):
        up, down = point.copy(), point.copy()
        up[i] += h
        down[i] -= h
        columns.append((gradient(up) - gradient(down)) / (up[i] - down[i]))
    return np.stack(columns, axis=1)
