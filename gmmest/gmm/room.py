"""Memory that a fit takes beside the data: what a limit on memory is compared with before the fit begins.

Data in files are mapped, and blocks are visited one after the other; but some covariances and draws hold numbers
of all observations.  The figures are upper ends of what was measured with N of 2e5 to 5e6 sets, P of 2 and 4, M of
2 to 8 (anonymous memory of the process, its peak less what it held before); tests/gmm/test_room.py measures again.
"""

from __future__ import annotations

from collections.abc import Callable

from gmmest.data.memory import anonymous_memory, in_words
from gmmest.derivatives.backends import Backend, as_backend
from gmmest.errors import Complaint, EstimationError
from gmmest.gmm.covariance_options import CovarianceOptions
from gmmest.gmm.fitted import Context
from gmmest.models.sample import Sample

__all__ = ["draws_room", "fit_room", "require_draws_room", "require_fit_room"]

NUMBER = 8
OWN = 32 * 10**6
"""Bytes of modules that a fit loads, and of what allocators keep."""
IN_A_THREAD = 16 * 10**6
"""Bytes that one thread takes for a block of 8 MiB."""
CORRECTED = ("windmeijer", "misspecification")
"""Standard errors that ask for derivatives of S."""


def fit_room(
    sample: Sample, options: CovarianceOptions, steps: str, se: str, grad: str | Backend, threads: int
) -> int:
    """Bytes that a fit takes.

    Parameters
    ----------
    sample : Sample
    options : CovarianceOptions
        The estimator of S.
    steps, se, grad
        As in ``GMMEstimator``.
    threads : int
        Blocks that this process works on at the same time.
    """
    in_a_thread, held = _fit(sample, options, steps, se, grad)
    return OWN + min(threads, len(sample.blocks)) * in_a_thread + held


def _fit(
    sample: Sample, options: CovarianceOptions, steps: str, se: str, grad: str | Backend
) -> tuple[int, int]:
    """Bytes of each thread, and beside threads."""
    n, n_rows, p, m = _shape(sample)
    in_a_thread, held = IN_A_THREAD, covariance_room(sample, options)
    if steps == "cue" or se in CORRECTED:  # derivatives of S
        in_a_thread += (1 << 23) * (p + 1)
        if options.estimator != "robust" or options.centred or sample.observations.frequency is not None:
            held += 3 * NUMBER * n_rows * m * (p + 1)  # of all observations as one block
    if se == "misspecification":
        held += 6 * NUMBER * n * m * (p + 1)
    if as_backend(grad).whole:
        held += 8 * NUMBER * n_rows * (p + m)
    return in_a_thread, held


def covariance_room(sample: Sample, options: CovarianceOptions) -> int:
    """Bytes that S takes: contributions of all observations for lags, sums of all clusters."""
    n, _, _, m = _shape(sample)
    if options.estimator == "kernel":
        return NUMBER * n * (16 * m + 40)  # with their Fourier transforms, of a length with large primes
    if options.estimator not in ("cluster", "twoway"):
        return 0
    ways = [way for way in sample.observations.clusters if not options.cluster or way.name in options.cluster]
    groups = [int(way.codes.max()) + 1 for way in ways] + [n] * (options.estimator == "twoway")
    # each block has sums of its own for the clusters that it has part of
    return sum(NUMBER * (7 * n + m * (g + min(n, g * len(sample.blocks)))) for g in groups)


def draws_room(sample: Sample, options: CovarianceOptions, kind: str, steps: str, at_once: int) -> int:
    """Bytes that a bootstrap takes.

    Parameters
    ----------
    sample : Sample
    options : CovarianceOptions
    kind : {"pairs", "cluster", "wild"}
    steps : str
    at_once : int
        Replications that this process makes at the same time; but for ``wild``, each has rows of its own.
    """
    n, n_rows, p, m = _shape(sample)
    if kind == "wild":
        return OWN + at_once * IN_A_THREAD + NUMBER * n * (3 * p + m + 8)
    width = p if sample.names == sample.moment_names else p + m
    rows = NUMBER * (n_rows * (width + 4) + 6 * n)
    return OWN + at_once * (rows + sum(_fit(sample, options, steps, "sandwich", "auto")))


def require_fit_room(context: Context, options: CovarianceOptions, steps: str, se: str, threads: int) -> None:
    """Refuse a fit, or a covariance of one, that would hold more than the limit on memory (E434)."""
    plain = options.estimator == "robust" and steps != "cue" and se not in CORRECTED
    _require(
        context.memory,
        lambda: fit_room(context.sample, options, steps, se, context.grad, threads),
        f"weighting {options.estimator!r} with steps {steps!r} and se {se!r}",
        "fewer workers" if plain else "weighting: robust, steps: twostep and se: sandwich",
    )


def require_draws_room(context: Context, kind: str, steps: str, at_once: int) -> None:
    """Refuse a bootstrap that would hold more than the limit on memory (E434)."""
    _require(
        context.memory,
        lambda: draws_room(context.sample, context.weighting, kind, steps, at_once),
        f"a bootstrap of kind {kind!r}",
        "kind: wild" if kind != "wild" else "fewer workers",
    )


def _require(limit: int | None, room: Callable[[], int], what: str, instead: str) -> None:
    if limit is None:
        return
    held, more = anonymous_memory(), room()
    if held + more > limit:
        said = f"{what} may hold {in_words(more)} beside the {in_words(held)} that this process holds already"
        advice = f"memory: {-(-(held + more) // 10**6)}MB, or {instead}"
        raise EstimationError(
            Complaint("E434", f"{said}; memory is limited to {in_words(limit)}", next=advice)
        )


def _shape(sample: Sample) -> tuple[int, int, int, int]:
    """Choice sets, rows, parameters, moments."""
    return int(sample.entries[-1]), sample.n_rows, len(sample.names), len(sample.moment_names)
