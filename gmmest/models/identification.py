"""What must hold before a model is estimated, checked on the arrays of its sample.

Only differences within choice sets matter to a logit: a column must vary within some set, and no
column may be a combination of others within every set.  In a regression no column may be a
combination of others, and the instruments must move the regressors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gmmest.data.block import Block
from gmmest.derivatives import ops
from gmmest.errors import Complaint, IdentificationError, plural, printable
from gmmest.models.recombination import Recombination, recombination

__all__ = ["check_features", "check_instruments", "check_regression"]

Array = NDArray[np.float64]

COLLINEAR = 1e-11
"""A unit column closer than this to the span of the others is called a combination of them."""


def check_features(full: Block, names: tuple[str, ...]) -> Recombination | None:
    """Refuse features that do not vary within choice sets (E203) or are collinear there (E202).

    Returns what to replace if they are the instruments, and near to combinations of each other.
    """
    _raise(
        list(
            _constant_columns(
                full.features,
                full.offsets,
                names,
                "let it act on some alternatives (only), interact it, or drop it",
            )
        )
    )
    factor, scale = _within_factor(full.features, full.offsets)
    complaints = [
        Complaint(
            "E202",
            f"{combination} within every choice set, up to {gap:.0e} of its variation",
            next="drop one of these terms",
        )
        for combination, gap in _combinations(factor, scale, names)
    ]
    _raise(complaints)
    return recombination(factor, scale, names)


def check_instruments(full: Block, moment_names: tuple[str, ...], n_params: int) -> Recombination | None:
    """Refuse too few instruments (E212), and constant (E203) or redundant ones (E211).

    Returns what to replace where they are near to combinations of each other.
    """
    complaints = list(_too_few(len(moment_names), n_params))
    complaints += _constant_columns(
        full.instruments, full.offsets, moment_names, "it makes no moment; drop it"
    )
    _raise(complaints)
    factor, scale = _within_factor(full.instruments, full.offsets)
    _raise(list(_redundant(factor, scale, moment_names, " within every choice set")))
    return recombination(factor, scale, moment_names)


def check_regression(
    X: Array, Z: Array, names: tuple[str, ...], moment_names: tuple[str, ...]
) -> Recombination | None:
    """Refuse regressions that cannot be estimated.

    Too few instruments (E212), collinear regressors (E202), redundant instruments (E211), and
    instruments that leave a combination of the regressors unmoved (E213).  Returns what to replace where
    instruments are near to combinations of each other.
    """
    _raise(list(_too_few(len(moment_names), len(names))))
    factor, scale = _factor(X)
    complaints = [
        Complaint("E202", f"{combination}, up to {gap:.0e} of its size", next="drop one of these regressors")
        for combination, gap in _combinations(factor, scale, names)
    ]
    both, sizes = _factor(np.concatenate([Z, X], axis=1))
    m = len(moment_names)
    complaints += _redundant(both[:m, :m], sizes[:m], moment_names, "")
    _raise(complaints)
    # the regressors' part in the span of the instruments: R12 of the joint decomposition
    projected = both[:m, m:]
    _raise(
        [
            Complaint(
                "E213",
                f"the instruments do not identify the parameters: {combination} as far as they can tell",
                next="add instruments that move these regressors apart",
            )
            for combination, _ in _combinations(projected, sizes[m:], names)
        ]
    )
    return recombination(both[:m, :m], sizes[:m], moment_names)


def _too_few(n_moments: int, n_params: int) -> Iterator[Complaint]:
    if n_moments < n_params:
        yield Complaint(
            "E212",
            f"{plural(n_moments, 'moment')}, {plural(n_params, 'parameter')}: at least as many moments"
            " as parameters were expected",
            next="add instruments or drop terms",
        )


def _redundant(factor: Array, scale: Array, names: tuple[str, ...], place: str) -> Iterator[Complaint]:
    for combination, _ in _combinations(factor, scale, names):
        yield Complaint(
            "E211",
            f"a moment is redundant: {combination}{place}; the J test would count it",
            next="drop one of these instruments",
        )


def _raise(complaints: list[Complaint]) -> None:
    if complaints:
        raise IdentificationError(complaints)


def _constant_columns(
    values: Array, offsets: NDArray[np.int64], names: tuple[str, ...], advice: str
) -> Iterator[Complaint]:
    starts = offsets[:-1]
    for k, name in enumerate(names):
        column = values[:, k]
        if np.array_equal(np.maximum.reduceat(column, starts), np.minimum.reduceat(column, starts)):
            yield Complaint("E203", f"{printable(name)} does not vary inside any choice set", next=advice)


def _within_factor(values: Array, offsets: NDArray[np.int64]) -> tuple[Array, Array]:
    """:func:`_factor` of the columns less their means within each choice set."""
    means = ops.segment_sum(values, offsets) / np.diff(offsets)[:, None]
    return _factor(values - ops.segment_repeat(means, offsets))


def _factor(values: Array) -> tuple[Array, Array]:
    """R of the QR decomposition of the columns at unit norm, and those norms.

    Rows are taken in pieces and R is carried along, so that no square of the columns is formed.
    """
    scale = np.abs(values).max(axis=0)
    scale[scale == 0] = 1.0
    norms = np.sqrt(np.sum(np.square(values / scale), axis=0))
    scale *= np.where(norms > 0, norms, 1.0)
    factor: Array = np.zeros((0, values.shape[1]))
    for start in range(0, values.shape[0], 8192):
        rows: Array = np.concatenate([factor, values[start : start + 8192] / scale])
        factor = np.linalg.qr(rows, mode="r")  # type: ignore[assignment]
    return factor, scale


def _combinations(factor: Array, scale: Array, names: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Columns that are combinations of others, as text, with the distance from being exactly so."""
    from scipy.linalg import qr, solve_triangular

    triangle, order = qr(factor, mode="r", pivoting=True)
    size = min(triangle.shape)
    gaps = np.zeros(len(names))
    gaps[:size] = np.abs(np.diag(triangle)[:size])
    rank = int(np.sum(gaps > COLLINEAR))
    for k in range(rank, len(names)):
        weights = solve_triangular(triangle[:rank, :rank], triangle[:rank, k])
        weights *= scale[order[k]] / scale[order[:rank]]
        size_of = np.abs(weights) * scale[order[:rank]] / scale[order[k]]
        parts = [f"{weights[j]:+.6g} {printable(names[order[j]])}" for j in range(rank) if size_of[j] > 1e-6]
        yield f"{printable(names[order[k]])} = {' '.join(parts).lstrip('+') or '0'}", float(gaps[k])
