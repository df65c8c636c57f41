"""Moments and their derivatives as sums over blocks: the one record that everything above sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from gmmest.data.observations import UNWEIGHTED
from gmmest.derivatives.analytic import with_derivative
from gmmest.derivatives.backends import Backend, FiniteDifference, Prepared, as_backend
from gmmest.errors import Complaint, EstimationError, printable, some
from gmmest.execution.passes import Passes
from gmmest.execution.serial import Executor, Serial, fold
from gmmest.models.sample import MomentModel, MomentSums, Part, Sample

__all__ = ["MomentSums", "Moments", "square_of"]

Array = NDArray[np.float64]

KEPT = 3
"""Sums that are kept: where a step began, where it went, and one more."""


class Moments:
    """Mean moments of one model on one sample, with derivatives by one backend.

    Parameters
    ----------
    model : MomentModel
    sample : Sample
    backend : str or Backend
    executor : Executor, optional
    watch : callable, optional
        Called with the number of passes at each one.
    bounds : (lower, upper), optional
        Of theta, each (P,); finite differences take no step beyond them.
    centre : array (M,), optional
        What is taken off every contribution: the moments of another sample, where a bootstrap recentres.
    passes : Passes, optional
        Where answers are kept, and read again.

    Attributes
    ----------
    evaluations : int
        Passes over the data so far, for values or derivatives.
    grad : str
        Name of the engine that makes the derivatives.
    exact : bool
        Whether they are exact to rounding.

    Notes
    -----
    The last few sums are kept with their theta: optimisers ask for value and derivative in separate calls,
    step back to where they were, and S is wanted where the last step ended.
    """

    def __init__(
        self,
        model: MomentModel,
        sample: Sample,
        backend: str | Backend,
        executor: Executor | None = None,
        watch: Callable[[int], None] | None = None,
        bounds: tuple[Array, Array] | None = None,
        centre: Array | None = None,
        passes: Passes | None = None,
    ) -> None:
        chosen = as_backend(backend)
        self.model = model
        self.sample = sample.whole() if chosen.whole else sample
        self.executor = executor or Serial()
        self.evaluations = 0
        self.centre = centre
        self._watch = watch
        self._bounds = bounds
        self._passes = passes
        self._function = moment_sum(model)
        self._backend = chosen
        self._typical = np.ones(len(sample.names)) if sample.typical is None else sample.typical
        self._prepared = self._with_steps(1.0)
        self._kept: dict[bytes, MomentSums] = {}
        self._token = uuid4().hex

    def __reduce__(self) -> tuple[Any, ...]:
        """What workers elsewhere need of functions that refer to these moments: all but the data."""
        lean = replace(
            self.sample,
            blocks=(),
            observations=UNWEIGHTED,
            notes=(),
            whole=_no_data,
            within=None,
            instrument_product=None,
        )
        parts = {
            **self.__dict__,
            "sample": lean,
            "executor": Serial(),
            "_watch": None,
            "_kept": {},
            "_passes": None,
        }
        del parts["_prepared"]  # compiled programs and workspaces are made where they are used
        return _arrived, (self._token, parts)

    @property
    def grad(self) -> str:
        """Name of the engine that makes the derivatives."""
        return self._prepared.name

    @property
    def exact(self) -> bool:
        """Whether the derivatives are exact to rounding."""
        return self._backend.exact

    def value(self, theta: Array) -> Array:
        """Mean moments ``g(theta)``, (M,)."""
        kept = self._kept.get(theta.tobytes())
        if kept is not None:
            return kept.moments
        sums = self._total("moments", (theta,), lambda block: np.asarray(self._function(theta, block)))
        return self._finite(self._centred(sums / self.sample.n_obs), theta)

    def value_and_jacobian(self, theta: Array, square: bool = False) -> tuple[Array, Array]:
        """Mean moments and their Jacobian G, (M,) and (M, P); one pass.

        With `square` a new pass sums the squares of the contributions too, for :meth:`square`: a sixth more.
        """
        means = self._kept.get(theta.tobytes()) or self._means(theta, square)
        self._keep(theta, means)
        return means.moments, _given(means.jacobian)

    def sums(self, theta: Array) -> MomentSums:
        """N g, without the centre, and N G."""
        value, jacobian = self.value_and_jacobian(theta)
        n = self.sample.n_obs
        return MomentSums(n, n * (value if self.centre is None else value + self.centre), n * jacobian)

    def square(self, theta: Array) -> Array:
        """``(1/N) sum_i g_i g_i'/f_i``, (M, M), whatever the centre.

        No pass where :meth:`value_and_jacobian` has it from its own.
        """
        kept = self._kept.get(theta.tobytes())
        if kept is not None and kept.square is not None:
            return kept.square

        def folded() -> Any:
            return fold(self._map(lambda part: _square(self.model, theta, part), self.sample.parts))

        total: Array = self._pass("squares", (theta,), folded) / self.sample.n_obs
        return total

    def _means(self, theta: Array, square: bool) -> MomentSums:
        own = getattr(self.model, "moment_sums", None) if self.grad == "analytic" else None

        def sums(part: Part) -> MomentSums:
            if square and own is not None:
                found: MomentSums = own(theta, part.block)
                return found if found.count == part.count else replace(found, count=part.count)
            value, jacobian = self._prepared.value_and_jacobian(theta, part.block)
            squares = _square(self.model, theta, part) if square else None
            return MomentSums(part.count, value, jacobian, squares)

        def folded() -> tuple[Array, Array | None, Array | None]:
            total = fold(self._map(sums, self.sample.parts))
            return total.moments, total.jacobian, total.square

        n = self.sample.n_obs
        moments, slopes, squares = self._pass("moments and Jacobian", (theta,), folded)
        value, jacobian = self._finite(self._centred(moments / n), theta), slopes / n
        self._finite(np.abs(jacobian).max(axis=1), theta, "derivatives of ")
        return MomentSums(n, value, jacobian, None if squares is None else squares / n)

    def _keep(self, theta: Array, means: MomentSums) -> None:
        self._kept.pop(theta.tobytes(), None)
        self._kept[theta.tobytes()] = means
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]

    def value_and_vjp(self, theta: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Mean moments, and ``v -> v'G`` at theta: two folds, the second with a v that needs all of g."""
        blocks, n = self.sample.blocks, self.sample.n_obs
        elsewhere = getattr(self.executor, "elsewhere", False)
        parts: list[Any] = []

        def first_fold() -> Array:
            if elsewhere:  # what is kept between the folds would have to travel: it is computed twice
                values = self._map(lambda block: self._prepared.value_and_vjp(theta, block)[0], blocks)
            else:
                parts[:] = self._map(lambda block: self._prepared.value_and_vjp(theta, block), blocks)
                values = [part[0] for part in parts]
            total: Array = fold(values)
            return total

        def second_fold(v: Array) -> Array:
            if not elsewhere and not parts:  # the first one was read from a journal
                first_fold()
            pulled = (
                self._map(lambda block: self._prepared.value_and_vjp(theta, block)[1](v), blocks)
                if elsewhere
                else self._map(lambda part: part[1](v), parts)
            )
            total: Array = fold(pulled)
            return total

        sums = self._pass("moments and pullback", (theta,), first_fold)
        value = self._finite(self._centred(sums / n), theta)

        def pull(v: Array) -> Array:
            total: Array = self._pass("pullback", (theta, v), lambda: second_fold(v), counts=False)
            return total / n

        return value, pull

    def jacobian_with_steps(self, theta: Array, factor: float) -> Array:
        """G by steps of another length, (M, P): for engines that are not exact, a check of their own."""
        prepared = self._with_steps(factor)
        total: Array = self._total(
            "Jacobian by other steps",
            (theta, np.array(factor)),
            lambda block: prepared.value_and_jacobian(theta, block)[1],
        )
        return total / self.sample.n_obs

    def _with_steps(self, factor: float) -> Prepared:
        """The prepared function; engines that take steps see parameters in units of what matters.

        Otherwise a step that suits coefficients near one would overshoot those of columns in large
        units, with wrong standard errors and no sign of it.
        """
        if self._backend.exact:
            return self._backend.prepare(self._function)
        unit = factor * self._typical
        backend = self._backend
        if self._bounds is not None and isinstance(backend, FiniteDifference):
            low, high = (tuple((ends / unit).tolist()) for ends in self._bounds)
            backend = replace(backend, bounds=(low, high))
        return _InUnits(backend.prepare(lambda z, block: self._function(unit * z, block)), unit)

    def total(self, function: Callable[[Any], Any]) -> Any:
        """Fold of any other sum over the blocks (covariances, log-likelihoods)."""
        return self._total("a sum", (), function)

    def total_of_parts(self, function: Callable[[Part], Any]) -> Any:
        """Fold of a sum that needs frequencies or clusters beside the blocks."""
        return self._pass("a sum", (), lambda: fold(self._map(function, self.sample.parts)))

    def _total(self, what: str, arguments: tuple[Array, ...], function: Callable[[Any], Any]) -> Any:
        return self._pass(what, arguments, lambda: fold(self._map(function, self.sample.blocks)))

    def _pass(
        self, what: str, arguments: tuple[Array, ...], compute: Callable[[], Any], counts: bool = True
    ) -> Any:
        """The one way by which data are visited: counted, and answered from the journal if that has it."""
        if counts:
            self.evaluations += 1
            if self._watch is not None:
                self._watch(self.evaluations)
        if self._passes is None:
            return compute()
        return self._passes.answer(f"{what} ({len(self.sample.moment_names)})", arguments, compute, counts)

    def _map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Apply to all items, with this thread's handling of floating-point errors: every thread has its own."""
        state = np.geterr()

        def under(item: Any) -> Any:
            with np.errstate(**state):
                return function(item)

        return self.executor.map(under, items)

    def _centred(self, mean: Array) -> Array:
        return mean if self.centre is None else mean - self.centre

    def _finite(self, value: Array, theta: Array, what: str = "") -> Array:
        if np.all(np.isfinite(value)):
            return value
        bad = [self.sample.moment_names[j] for j in np.flatnonzero(~np.isfinite(value))]
        at = ", ".join(
            f"{printable(name)} = {x:.6g}" for name, x in zip(self.sample.names, theta, strict=True)
        )
        raise NotFiniteError(
            Complaint("E411", f"{what}moments {some(bad)} are not finite at {at}", next="start elsewhere")
        )


@dataclass(frozen=True, slots=True)
class _InUnits:
    """A prepared function of ``theta / unit`` as one of theta; exact where units are powers of two."""

    prepared: Prepared
    unit: Array

    @property
    def name(self) -> str:
        return self.prepared.name

    def value_and_jacobian(self, x: Array, *constants: Any) -> tuple[Array, Array]:
        value, jacobian = self.prepared.value_and_jacobian(x / self.unit, *constants)
        return value, jacobian / self.unit

    def value_and_vjp(self, x: Array, *constants: Any) -> tuple[Array, Callable[[Array], Array]]:
        value, vjp = self.prepared.value_and_vjp(x / self.unit, *constants)
        return value, lambda v: vjp(v) / self.unit


def _arrived(token: str, parts: dict[str, Any]) -> Moments:
    """Moments on a worker, made ready when they come first and kept: engines compile once for a fit."""
    place = _place(token)
    if not place:
        moments = object.__new__(Moments)
        moments.__dict__.update(parts)
        moments._prepared = moments._with_steps(1.0)
        place.append(moments)
    return place[0]


@lru_cache(maxsize=8)
def _place(token: str) -> list[Moments]:
    """Where the moments of a token are kept."""
    return []


def _no_data() -> Sample:
    raise AssertionError("the data are where the fit is")


def _given(jacobian: Array | None) -> Array:
    if jacobian is None:
        raise AssertionError("sums are kept with their Jacobian")
    return jacobian


def _square(model: MomentModel, theta: Array, part: Part) -> Array:
    """``sum_i g_i g_i'/f_i`` of a block, (M, M)."""
    return square_of(np.asarray(model.contributions(theta, part.block)), part.frequency)


def square_of(rows: Array, frequency: Array | None) -> Array:
    """``sum_i c_i c_i'/f_i`` of contributions c and frequencies f, (M, M)."""
    rows = rows if frequency is None else rows / np.sqrt(frequency)[:, None]
    product: Array = np.dot(rows.T, rows)  # which lets other threads run, as @ does not here
    return product


class NotFiniteError(EstimationError):
    """Moments overflowed at a trial point; optimisers step back from it."""


def moment_sum(model: MomentModel) -> Callable[..., Any]:
    """The model's sum of moments over a block, with its hand-written derivatives where it has them."""
    own = getattr(model, "moment_sum", None)
    if own is None:

        def own(theta: Any, block: Any) -> Any:
            return np.sum(model.contributions(theta, block), axis=0)

        own.__qualname__ = f"the moments of {type(model).__name__}"

    jacobian = getattr(model, "moment_sum_and_jacobian", None)
    vjp = getattr(model, "moment_sum_and_vjp", None)
    if jacobian is None and vjp is None:
        return own
    return with_derivative(own, value_and_jacobian=jacobian, value_and_vjp=vjp)
