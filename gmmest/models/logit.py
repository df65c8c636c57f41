"""The conditional (multinomial) logit on ragged choice sets, as moments.

With utilities ``u = X theta`` and shares ``s = softmax(u)`` within each choice set, the
contribution of choice set i is ``g_i = Z_i'(s_i - y_i)``: instruments times the surprise.
With Z = X this is (minus) the score of the log-likelihood, so that just-identified GMM is
maximum likelihood (McFadden 1974); other instruments give the same parameters other moments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmmest.data.block import Block, block_ranges
from gmmest.data.choice_data import ChoiceData
from gmmest.data.choice_files import ChoiceFiles
from gmmest.data.conversion import Design
from gmmest.data.observations import Observations
from gmmest.derivatives import ops
from gmmest.errors import Complaint, ConfigError
from gmmest.models import score_kernel
from gmmest.models.identification import check_features, check_instruments, demeaned, within_sets
from gmmest.models.sample import MomentSums, Restriction, Sample, Total, rows_per_block
from gmmest.models.separation import check_overlap, proves_overlap
from gmmest.models.shares import share_covariance, share_sums
from gmmest.models.terms import Term, as_terms, design_matrix, used_columns

__all__ = ["Logit"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, init=False)
class Logit:
    """Conditional logit by moments.

    Parameters
    ----------
    utility : sequence of Term or str, optional
        Terms of the utility, a name for a plain column; left out for data made by ``ChoiceData.from_arrays``, whose
        features are the utility's columns already.
    instruments : sequence of Term or str, optional
        Instruments per row; by default the features themselves (maximum likelihood).

    Notes
    -----
    Moments: ``g(theta) = (1/N) sum_i Z_i'(s_i(theta) - y_i)``, i over N choice sets; their
    Jacobian is ``(1/N) sum_i Z_i'(diag(s_i) - s_i s_i')X_i``.  Law: a constant added to a
    feature or an instrument within a choice set changes neither.

    References
    ----------
    McFadden, D. (1974), "Conditional logit analysis of qualitative choice behavior".
    Train, K. (2009), *Discrete Choice Methods with Simulation*, 2nd ed., chapter 3.

    Examples
    --------
    >>> Logit([Term("gc"), Term("hinc", only="air")]).utility[1].name
    'hinc_air'
    """

    utility: tuple[Term, ...]
    instruments: tuple[Term, ...] | None

    def __init__(
        self, utility: Sequence[Term | str] = (), instruments: Sequence[Term | str] | None = None
    ) -> None:
        object.__setattr__(self, "utility", as_terms(utility))
        object.__setattr__(self, "instruments", None if instruments is None else as_terms(instruments))

    def sample(self, data: ChoiceData | ChoiceFiles, restriction: Restriction | None = None) -> Sample:
        """Features and instruments of the data, checked for identification of the free parameters.

        Raises
        ------
        DataError
            Columns or alternatives that are absent, not numeric or have missing values.
        IdentificationError
            Features or instruments that do not vary within choice sets, or are collinear
            there; fewer moments than parameters.
        """
        if not isinstance(data, (ChoiceData, ChoiceFiles)):
            raise ConfigError(
                Complaint(
                    "E102",
                    f"Logit takes ChoiceData, not {type(data).__name__}",
                    next="ChoiceData.from_frame(frame, case=..., alternative=..., chosen=...)",
                )
            )
        names, moment_names, full, notes, seen, fingerprint = self._arrays(data)
        with ThreadPoolExecutor(1) as beside:  # hashing takes as long as the checks, and a core of its own
            content = beside.submit(fingerprint)
            own = 0 if full.instruments is full.features else len(moment_names)
            ranges = block_ranges(full.offsets, rows_per_block(len(names) + own))
            blocks = [full.part(start, stop) for start, stop in ranges]
            if restriction is None:
                checked = instruments = check_features(blocks, names, lambda block: block.promoted().features)
                within = checked.within
            else:
                held = restriction(names)
                check_features(blocks, held.free, lambda block: block.promoted().features @ held.transform)
                within = within_sets(blocks, lambda block: block.promoted().features, len(names))
            if full.instruments is not full.features or restriction is not None:
                n_free = len(names if restriction is None else held.free)
                instruments = check_instruments(blocks, moment_names, n_free)
        changed, digest = instruments.changed, content.result()
        score = changed is not None and all(self.is_likelihood_score(block) for block in blocks)
        if changed is not None:
            differences = changed.apply(full.instruments, lambda part: demeaned(part, full.offsets))
            full, notes = replace(full, instruments=differences), (*notes, *changed.notes)
        product = instruments.within.cross if changed is None and full.weight is None else None
        # coefficients that make utilities differ by about one within a choice set, as powers of two
        typical = np.exp2(-np.round(np.log2(np.where(within.deviation > 0, within.deviation, 1.0))))

        def sample(pieces: Sequence[tuple[int, int]]) -> Sample:
            return Sample(
                names=names,
                moment_names=moment_names,
                blocks=tuple(full.part(start, stop) for start, stop in pieces),
                counts=tuple(seen.count(full.n_sets, start, stop) for start, stop in pieces),
                n_rows=full.n_rows,
                start=np.zeros(len(names)),
                whole=lambda: sample([(0, full.n_sets)]),
                notes=notes,
                fingerprint=digest,
                typical=typical,
                within=within,
                instrument_product=product,
                observations=seen,
                recombined=None if changed is None else changed.transform,
                recombined_score=score,
            )

        return sample(ranges)

    def _arrays(
        self, data: ChoiceData | ChoiceFiles
    ) -> tuple[tuple[str, ...], tuple[str, ...], Block, tuple[str, ...], Observations, Callable[[], str]]:
        if isinstance(data, ChoiceFiles):
            stored = data.store(self._design())
            known = stored.manifest
            names, moments = tuple(known.names), tuple(known.moment_names)
            seen = stored.observations
            return names, moments, stored.block, tuple(known.notes), seen, lambda: known.fingerprint
        columns = used_columns((*self.utility, *(self.instruments or ())))
        fingerprint = partial(data.fingerprint, columns)
        if data.features is not None:
            if self.utility or self.instruments is not None:
                raise ConfigError(
                    Complaint(
                        "E102",
                        "the model has terms, but the data were made from arrays, whose features are complete",
                        next="Logit() with data from ChoiceData.from_arrays, terms with ChoiceData.from_frame",
                    )
                )
            names, moments = data.feature_names, data.instrument_names
            return names, moments, data.block(), data.notes, data.observations, fingerprint
        self._require_terms()
        data = data.complete(columns)
        names, features = design_matrix(self.utility, data)
        if self.instruments is None:
            return names, names, data.block(features, features), data.notes, data.observations, fingerprint
        moment_names, instruments = design_matrix(self.instruments, data)
        block = data.block(features, instruments)
        return names, moment_names, block, data.notes, data.observations, fingerprint

    def _require_terms(self) -> None:
        if not self.utility:
            raise ConfigError(
                Complaint("E102", "the utility has no terms", next="Logit([Term('cost'), ...])")
            )

    def _design(self) -> Design:
        """What is made of choice sets that are read from files, a piece at a time."""
        self._require_terms()
        terms = (*self.utility, *(self.instruments or ()))
        names, moments = (
            tuple(dict.fromkeys(term.name for term in part))
            for part in (self.utility, self.instruments or ())
        )

        def matrices(data: ChoiceData) -> tuple[Array, Array | None]:
            features = design_matrix(self.utility, data)[1]
            return features, None if self.instruments is None else design_matrix(self.instruments, data)[1]

        return Design(
            key=f"logit {self.utility} {self.instruments}",
            columns=used_columns(terms),
            labels=tuple(dict.fromkeys(label for term in terms for label in term.only)),
            names=names,
            moment_names=names if self.instruments is None else moments,
            matrices=matrices,
        )

    def moment_sum(self, theta: Array, block: Block) -> Array:
        """Sum of the contributions of a block, (M,); one pass, no temporary wider than a column."""
        block = block.promoted()
        shares = ops.segment_softmax(block.features @ theta, block.offsets)
        surprise = _weighted(shares - block.chosen, block)
        total: Array = block.instruments.T @ surprise
        return total

    def contributions(self, theta: Array, block: Block) -> Array:
        """``g_i = Z_i'(s_i - y_i)`` of each choice set, (N_b, M)."""
        block = block.promoted()
        shares = ops.segment_softmax(block.features @ theta, block.offsets)
        rows = block.instruments * _weighted(shares - block.chosen, block)[:, None]
        result: Array = ops.segment_sum(rows, block.offsets)
        return result

    def moment_sum_and_jacobian(self, theta: Array, block: Block) -> tuple[Array, Array]:
        """The same with its Jacobian (M, P), written by hand.

        ``sum_i Z_i'(diag(s_i) - s_i s_i')X_i = Z'(s o (X - xbar))`` with ``xbar`` the share-weighted
        mean of the features in each set.
        """
        sums = _sums(theta, block, square=False)
        assert sums.jacobian is not None  # noqa: S101  for the type checker
        return sums.moments, sums.jacobian

    def moment_sums(self, theta: Array, block: Block) -> MomentSums:
        """Moments, Jacobian and squares of the contributions from one visit of the block."""
        return _sums(theta, block, square=True)

    def moment_sum_and_vjp(self, theta: Array, block: Block) -> tuple[Array, Callable[[Array], Array]]:
        """The same with ``v -> v'G``: two matrix-vector products in all, shares kept between them."""
        block = block.promoted()
        shares = ops.segment_softmax(block.features @ theta, block.offsets)

        def vjp(v: Array) -> Array:
            pull = block.instruments @ v
            pull *= shares
            pull -= shares * ops.segment_repeat(ops.segment_sum(pull, block.offsets), block.offsets)
            product: Array = _weighted(pull, block) @ block.features
            return product

        return block.instruments.T @ _weighted(shares - block.chosen, block), vjp

    def unadjusted_covariance(self, theta: Array, n_obs: int, total: Total) -> Array:
        """``(1/N) sum_i Z_i'(diag(s_i) - s_i s_i')Z_i``, (M, M): the covariance that the logit itself implies.

        With weights each term is multiplied by ``w_i^2 f_i``, the variance of ``w_i g_i`` in f_i observations.
        """

        def implied(block: Block) -> Array:
            block = block.promoted()
            shares = ops.segment_softmax(block.features @ theta, block.offsets)
            return share_covariance(shares, block)

        covariance: Array = total(implied) / n_obs
        return covariance

    def instrument_product_sum(self, block: Block) -> Array:
        """``Zd'Zd`` with Zd the instruments demeaned within each choice set, weighted, (M, M)."""
        centred = demeaned(block.promoted().instruments, block.offsets)
        weighted = centred if block.weight is None else centred * block.weight[:, None]
        product: Array = centred.T @ weighted
        return product

    def instrument_products(self, block: Block, left: Array, right: Array) -> Array:
        """``left' Zd_i'Zd_i right`` of each choice set, weighted; left (M, P), right (M,); (N_b, P)."""
        centred = demeaned(block.promoted().instruments, block.offsets)
        rows = (centred @ left) * _weighted(centred @ right, block)[:, None]
        result: Array = ops.segment_sum(rows, block.offsets)
        return result

    def is_likelihood_score(self, block: Block) -> bool:
        """Whether the moments are minus the score of the log-likelihood: choices, and Z = X."""
        return block.instruments is block.features and bool(block.chosen.any())

    def loglike(self, theta: Array, block: Block) -> float | None:
        """``sum_i w_i f_i log s_i(chosen)``; None where choices are not observed (moment differences)."""
        if not block.chosen.any():
            return None
        utility = block.promoted().features @ theta
        rest = ops.segment_logsumexp(utility, block.offsets)
        if block.weight is None:
            return float(block.chosen @ utility - rest.sum())
        return float(block.chosen @ (block.weight * utility) - block.weight[block.offsets[:-1]] @ rest)

    def check_existence(
        self,
        theta: Array,
        sample: Sample,
        transform: Array | None = None,
        sums: MomentSums | None = None,
    ) -> None:
        """Refuse separated data, for which no finite estimate exists (see :func:`.check_overlap`).

        With ``transform`` T the parameters are free ones of ``X T``: only along these may choices be separated.
        With ``sums`` of the moments and of their Jacobian at theta, (P, F), those of a score can prove at once,
        without a pass, that they are not.
        """
        is_score = all(self.is_likelihood_score(block) for block in sample.blocks)
        if is_score and sums is not None and sums.jacobian is not None and sample.within is not None:
            score, curvature = sums.moments, sums.jacobian
            level, reach = sample.within.level, sample.within.reach
            if transform is not None:
                size = np.abs(transform.T)
                score, curvature = transform.T @ score, transform.T @ curvature
                level, reach = size @ level, size @ reach
            mass = sum(_mass(block) for block in sample.blocks)
            if proves_overlap(score, curvature, level, reach, mass):
                return
        check_overlap(theta, sample.blocks, sample.names, transform)


def _sums(theta: Array, block: Block, square: bool) -> MomentSums:
    """Moments, Jacobian and, if they are asked for, squares: in machine code where that pays."""
    block = block.promoted()
    if score_kernel.serves(theta, block):
        return score_kernel.score_sums(theta, block, square)
    return share_sums(ops.segment_softmax(block.features @ theta, block.offsets), block, square)


def _mass(block: Block) -> float:
    """Sum of the weights of the choice sets, or their number."""
    return float(block.n_sets if block.weight is None else block.weight[block.offsets[:-1]].sum())


def _weighted(values: Array, block: Block) -> Array:
    return values if block.weight is None else values * block.weight
