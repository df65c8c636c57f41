"""Derivative engines against each other, entry by entry: a wrong Jacobian can still find the right estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives.backends import Backend, ComplexStep, as_backend
from gmmest.errors import Complaint, DerivativeError, printable
from gmmest.gmm.moments import Moments
from gmmest.models.sample import MomentModel, Sample

__all__ = ["Audit", "AuditRow", "audit", "audited", "exact_reference"]

Array = NDArray[np.float64]

EXACT_LIMIT = 1e-8
DIFFERENCE_LIMIT = 1e-5
"""Largest differences of Jacobians that are let pass, relative to the column's largest entry."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One engine at one point.

    Parameters
    ----------
    grad : str
        The engine.
    place : str
        Which point: ``start`` or ``estimate``.
    error : float
        Largest difference from the reference, relative to the largest entry of its column.
    moment, parameter : str
        Where it is.
    limit : float
        What is let pass: 1e-8 for exact engines, 1e-5 for differences.
    """

    grad: str
    place: str
    error: float
    moment: str
    parameter: str
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its limit."""
        return bool(self.error <= self.limit)

    def __str__(self) -> str:
        return (
            f"{self.grad} at the {self.place}: {self.error:.1e} in moment {printable(self.moment)},"
            f" parameter {printable(self.parameter)} ({self.limit:g} is allowed)"
        )


@dataclass(frozen=True, slots=True)
class Audit:
    """All rows, and the engine that they are held against."""

    rows: tuple[AuditRow, ...]
    reference: str

    @property
    def passed(self) -> bool:
        """Whether every engine agrees with the reference."""
        return all(row.passed for row in self.rows)

    def require_agreement(self) -> None:
        """Refuse engines that disagree with the reference (E617)."""
        failed = "; ".join(str(row) for row in self.rows if not row.passed)
        if failed:
            what = f"derivatives disagree with {self.reference!r}: {failed}"
            raise DerivativeError(Complaint("E617", what, next="trust the fits of the engines that agree"))

    def __str__(self) -> str:
        head = f"derivatives {'agree' if self.passed else 'DISAGREE'} with {self.reference!r}"
        return "\n".join([head, *(f"  {row}" for row in self.rows)])


def audit(
    model: MomentModel, sample: Sample, grads: Sequence[str | Backend], points: Mapping[str, Array]
) -> Audit:
    """Compare Jacobians of engines with an exact reference at given points.

    Parameters
    ----------
    model : MomentModel
    sample : Sample
    grads : sequence of str or Backend
    points : mapping of str to array (P,)
        Where, by name.

    Returns
    -------
    Audit
        Cost: one Jacobian for each engine and point, and one of the reference.
    """
    reference = exact_reference(model, sample, next(iter(points.values())))
    exact = Moments(model, sample, reference)
    truth = {place: exact.value_and_jacobian(theta)[1] for place, theta in points.items()}
    rows = [
        row
        for grad in dict.fromkeys(grads)
        for row in audited(Moments(model, sample, grad), as_backend(grad), points, truth)
    ]
    return Audit(tuple(rows), reference)


def audited(
    moments: Moments, backend: Backend, points: Mapping[str, Array], truth: Mapping[str, Array]
) -> list[AuditRow]:
    """One engine's rows against Jacobians that are known."""
    limit = EXACT_LIMIT if backend.exact else DIFFERENCE_LIMIT
    rows = []
    for place, theta in points.items():
        exact = truth[place]
        size = np.max(np.abs(exact), axis=0)
        gap = np.abs(moments.value_and_jacobian(theta)[1] - exact) / np.where(size > 0, size, 1.0)
        m, p = np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), gap.shape)
        names = moments.sample.moment_names[m], moments.sample.names[p]
        rows.append(AuditRow(backend.name, place, float(gap[m, p]), *names, limit))
    return rows


def exact_reference(model: MomentModel, sample: Sample, theta: Array) -> str:
    """Complex steps share no code with the other engines; where they cannot go, dual numbers.

    A function that takes absolute values or drops imaginary parts goes through complex steps without
    complaint and wrong; it is found out by the dual numbers.
    """
    try:
        _, by_steps = Moments(model, sample, ComplexStep()).value_and_jacobian(theta)
        _, by_duals = Moments(model, sample, "forward").value_and_jacobian(theta)
    except (DerivativeError, TypeError, ValueError):
        return "forward"
    size = np.maximum(np.max(np.abs(by_duals), axis=0), np.finfo(float).tiny)
    return "complex" if np.all(np.abs(by_steps - by_duals) <= EXACT_LIMIT * size) else "forward"
