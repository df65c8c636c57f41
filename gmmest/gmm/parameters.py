"""Parameters that are fixed, tied or bounded: theta as a linear function of the free ones.

``theta = T phi + t0`` with phi the free parameters, so that ``dg/dphi' = G T``: everything between the data
and the results works on phi alone, and what is fixed costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.errors import Complaint, ConfigError, IdentificationError, not_parameters, printable, some
from gmmest.gmm.hypotheses import FORM, linear_expression
from gmmest.models.identification import too_few_moments
from gmmest.models.sample import (
    OF_BLOCKS,
    OF_PARAMETERS,
    MomentModel,
    MomentSums,
    Sample,
    Start,
    starting_point,
    takes_restriction,
)

__all__ = ["Bounds", "Parameters", "Restricted", "Sampled", "parameters_of", "restricted", "sampled"]

Array = NDArray[np.float64]
Bounds = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Which parameters are free, and what the others are: ``theta = T phi + t0``.

    Parameters
    ----------
    names : tuple of str
        All parameters, P of them.
    free : tuple of str
        The free ones, F of them, in the same order.
    transform : array (P, F)
        T; the row of a free parameter is a unit vector, that of a fixed one is zero.
    constant : array (P,)
        t0.
    lower, upper : array (F,)
        Bounds of the free parameters; infinite where there are none.
    marks : tuple of str
        For each of the P parameters what holds it: ``""``, ``"fixed"``, ``"3*a"``, ``"lower bound"``.

    Notes
    -----
    With V of phi that of theta is ``T V T'``: standard errors of tied parameters by the delta method,
    which is exact for linear ties; those of fixed parameters are zero, and shown blank.

    Examples
    --------
    >>> parameters = parameters_of(("a", "b", "c"), fixed={"c": 2.0}, tied={"b": "3*a - c"})
    >>> parameters.free, parameters.theta(np.array([1.0]))
    (('a',), array([1., 1., 2.]))
    """

    names: tuple[str, ...]
    free: tuple[str, ...]
    transform: Array
    constant: Array
    lower: Array
    upper: Array
    marks: tuple[str, ...]

    def __post_init__(self) -> None:
        freeze(self, "transform", "constant", "lower", "upper")

    @property
    def marked(self) -> dict[str, str]:
        """What holds the parameters that are not free, by name: a value, a bound, a tie."""
        return {name: mark for name, mark in zip(self.names, self.marks, strict=True) if mark}

    @property
    def all_free(self) -> bool:
        """Whether nothing is fixed or tied."""
        return self.free == self.names

    @property
    def bounded(self) -> bool:
        """Whether any parameter has a bound."""
        return bool(np.any(np.isfinite(self.lower)) or np.any(np.isfinite(self.upper)))

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Parameters without a standard error, (P,): no free parameter moves them."""
        still: NDArray[np.bool_] = ~np.any(self.transform != 0, axis=1)
        return still

    def theta(self, phi: Any) -> Any:
        """All parameters from the free ones, (P,); phi may carry derivatives."""
        return phi if self.all_free else self.transform @ phi + self.constant

    def phi(self, theta: Array) -> Array:
        """The free ones among all parameters, (F,); what stands in the place of others is not looked at."""
        return theta[[self.names.index(name) for name in self.free]]

    def covariance(self, v: Array) -> Array:
        """``T V T'``, (P, P)."""
        return v if self.all_free else self.transform @ v @ self.transform.T

    def held(self, active: NDArray[np.bool_], phi: Array) -> Parameters:
        """The same with the free parameters at an active bound fixed there."""
        if not np.any(active):
            return self
        marks = list(self.marks)
        for name, low, value in zip(self.free, self.lower, phi, strict=True):
            if active[self.free.index(name)]:
                marks[self.names.index(name)] = "lower bound" if value == low else "upper bound"
        return Parameters(
            self.names,
            tuple(name for name, at in zip(self.free, active, strict=True) if not at),
            self.transform[:, ~active],
            self.constant + self.transform[:, active] @ phi[active],
            self.lower[~active],
            self.upper[~active],
            tuple(marks),
        )

    def start(self, theta: Array, given: bool) -> Array:
        """Free parameters of a start, inside their bounds.

        A start of the user's own that is out of bounds is refused; the model's moves to the middle, or to a
        distance of one from its only bound.
        """
        phi = self.phi(theta)
        outside = (phi < self.lower) | (phi > self.upper)
        if given and np.any(outside):
            j = int(np.flatnonzero(outside)[0])
            raise ConfigError(
                Complaint(
                    "E102",
                    f"start has {printable(self.free[j])} = {phi[j]:g}, outside its bounds"
                    f" [{self.lower[j]:g}, {self.upper[j]:g}]",
                )
            )
        if given:
            return phi
        low, high = self.lower, self.upper
        both = np.isfinite(low) & np.isfinite(high)
        one = np.where(np.isfinite(low), low + 1.0, high - 1.0)
        with np.errstate(invalid="ignore"):
            middle = np.where(both, 0.5 * (low + high), one)
        return np.where((phi <= low) | (phi >= high), middle, phi)


def parameters_of(
    names: tuple[str, ...],
    fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
) -> Parameters:
    """Read what a user says about parameters.

    Parameters
    ----------
    names : tuple of str
        All parameters.
    fixed : mapping of str to float, optional
    tied : mapping of str to str, optional
        Linear expressions such as ``"3*a"`` or ``"1 - a - b"``, parsed as hypotheses are, never evaluated as
        code; they may name other tied and fixed parameters.
    bounds : mapping of str to (lower, upper), optional
        None or an infinity for no bound.

    Raises
    ------
    ConfigError
        E102, all complaints together: unknown names, a parameter that is both fixed and tied, ties in a
        circle or not linear, bounds in the wrong order or on a parameter that is not free; nothing free.

    Examples
    --------
    >>> parameters_of(("a", "b", "c"), tied={"a": "b", "b": "2*a"})
    Traceback (most recent call last):
        ...
    gmmest.errors.ConfigError: E102 tied parameters lead in a circle: a, b
      next:  leave one of them free
    """
    fixed, tied, bounds = fixed or {}, tied or {}, bounds or {}
    complaints = [
        complaint
        for option, given in (("fixed", fixed), ("tied", tied), ("bounds", bounds))
        for complaint in not_parameters(option, given, names)
    ]
    for name in fixed:
        if name in tied:
            complaints.append(Complaint("E102", f"{printable(name)} is both fixed and tied"))
        if not _is_number(fixed[name]):
            complaints.append(
                Complaint("E102", f"fixed {printable(name)} is {fixed[name]!r}; a finite number was expected")
            )
    complaints.extend(_crooked_bounds(fixed, tied, bounds))
    ties: dict[str, Array] = {}
    for name in tied:
        try:
            ties[name] = _tie(name, tied[name], names)
        except ConfigError as error:
            complaints.extend(error.complaints)
    if complaints:
        raise ConfigError(complaints)
    free = tuple(name for name in names if name not in fixed and name not in tied)
    if not free:
        raise ConfigError(Complaint("E102", "no parameter is free: all are fixed or tied"))
    rows = _substituted(names, free, fixed, ties)
    ends = [[_end(end) for end in bounds.get(name, (None, None))] for name in free]
    return Parameters(
        names,
        free,
        rows[:, :-1],
        rows[:, -1],
        np.array([-np.inf if low is None else low for low, _ in ends]),
        np.array([np.inf if high is None else high for _, high in ends]),
        tuple("fixed" if name in fixed else tied.get(name, "") for name in names),
    )


def _substituted(
    names: tuple[str, ...], free: tuple[str, ...], fixed: Mapping[str, float], ties: dict[str, Array]
) -> Array:
    """T and t0 side by side, (P, F + 1): ties that name tied parameters are followed to the end."""
    known: dict[str, Array] = {}
    for j, name in enumerate(free):
        known[name] = np.eye(len(free) + 1)[j]
    for name, value in fixed.items():
        known[name] = np.append(np.zeros(len(free)), float(value))
    waiting = dict(ties)
    while waiting:
        ready = [
            name
            for name, row in waiting.items()
            if all(other in known for other, factor in zip(names, row, strict=False) if factor)
        ]
        if not ready:
            raise ConfigError(
                Complaint(
                    "E102",
                    f"tied parameters lead in a circle: {some(waiting, 20)}",
                    next="leave one of them free",
                )
            )
        for name in ready:
            row = waiting.pop(name)
            total = np.append(np.zeros(len(free)), row[-1])
            for other, factor in zip(names, row, strict=False):
                if factor:
                    total = total + factor * known[other]
            known[name] = total
    return np.stack([known[name] for name in names])


def _tie(name: str, text: object, names: tuple[str, ...]) -> Array:
    """Coefficients of the parameters and the constant, (P + 1,)."""
    if not isinstance(text, str):
        raise ConfigError(
            Complaint(
                "E102",
                f"tied {printable(name)} is {text!r}; one linear expression of parameters, as text, was expected",
                next='for example "3*a" or "1 - a"',
            )
        )
    try:
        found = linear_expression(text, names)
    except ConfigError as error:
        refused = error.complaints[0]
        advice = f'{refused.next.removesuffix(FORM)}for example "3*a" or "1 - a"'
        raise ConfigError(Complaint("E102", f"tied {printable(name)}: {refused.what}", next=advice)) from None
    if not np.any(found[:-1]):
        what = f"tied {printable(name)}: no parameter stands in {text!r}"
        raise ConfigError(Complaint("E102", what, next="a constant is said with fixed"))
    return found


def _crooked_bounds(fixed: Mapping[str, float], tied: Mapping[str, str], bounds: Bounds) -> list[Complaint]:
    complaints = []
    for name, ends in bounds.items():
        if name in fixed or name in tied:
            what = "fixed" if name in fixed else "tied"
            complaints.append(
                Complaint(
                    "E102",
                    f"{printable(name)} has bounds, but is {what}",
                    next="bounds belong to free parameters",
                )
            )
            continue
        pair = list(ends) if isinstance(ends, (tuple, list, np.ndarray)) else []
        right = len(pair) == 2 and all(end is None or _is_number(end, infinite=True) for end in pair)
        low, high = (_end(end) for end in pair) if right else (1.0, 0.0)
        if low is not None and high is not None and not low < high:
            complaints.append(
                Complaint(
                    "E102",
                    f"bounds of {printable(name)} are {ends!r}; (lower, upper) with lower < upper was expected,"
                    " None for no bound",
                    next="a parameter between equal bounds is fixed",
                )
            )
    return complaints


def _end(end: object) -> float | None:
    return None if end is None else float(end)  # type: ignore[arg-type]


def _is_number(value: object, infinite: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return bool(np.isfinite(value)) or (infinite and not np.isnan(value))


# --- a model of the free parameters -----------------------------------------------------------------------


def restricted(model: MomentModel, sample: Sample, parameters: Parameters) -> tuple[MomentModel, Sample]:
    """Model and sample as functions of the free parameters; themselves where all are free.

    Raises
    ------
    IdentificationError
        E212: fewer moments than free parameters.
    """
    advice = "add instruments or moments, or fix parameters"
    if few := too_few_moments(len(sample.moment_names), len(parameters.free), advice, "free parameter"):
        raise IdentificationError(few)
    if parameters.all_free:
        return model, sample
    return Restricted(model, parameters), _free_sample(sample, parameters)


def _free_sample(sample: Sample, parameters: Parameters) -> Sample:
    return replace(
        sample,
        names=parameters.free,
        start=parameters.phi(sample.start),
        typical=None if sample.typical is None else parameters.phi(sample.typical),
        whole=lambda: _free_sample(sample.whole(), parameters),
    )


@dataclass(frozen=True, slots=True)
class Restricted:
    """A model as a function of its free parameters, ``g(T phi + t0)``.

    Hand-written derivatives go on by the chain rule, ``dg/dphi' = G T`` and ``v'G T``.  Methods of
    :data:`.sample.OF_PARAMETERS` get ``T phi + t0``, those of :data:`.sample.OF_BLOCKS` are the model's own;
    others there are none.
    """

    model: MomentModel
    parameters: Parameters

    def sample(self, data: Any) -> Sample:
        """The model's sample, for the free parameters."""
        return _free_sample(self.model.sample(data), self.parameters)

    def contributions(self, theta: Any, block: Any) -> Any:
        """Contributions at the free parameters, (n_b, M)."""
        return self.model.contributions(self.parameters.theta(theta), block)

    @property
    def moment_sum_and_jacobian(self) -> Callable[[Array, Any], tuple[Array, Array]] | None:
        """Sum of the moments and G T, where the model has a hand-written G."""
        own = getattr(self.model, "moment_sum_and_jacobian", None)
        if own is None:
            return None

        def chained(phi: Array, block: Any) -> tuple[Array, Array]:
            value, jacobian = own(self.parameters.theta(phi), block)
            return value, jacobian @ self.parameters.transform

        return chained

    @property
    def moment_sums(self) -> Callable[[Array, Any], MomentSums] | None:
        """The model's sums with G T for G, where it makes them from one visit of a block."""
        own = getattr(self.model, "moment_sums", None)
        if own is None:
            return None

        def chained(phi: Array, block: Any) -> MomentSums:
            sums: MomentSums = own(self.parameters.theta(phi), block)
            if sums.jacobian is None:
                return sums
            return replace(sums, jacobian=sums.jacobian @ self.parameters.transform)

        return chained

    @property
    def moment_sum_and_vjp(self) -> Callable[[Array, Any], tuple[Array, Callable[[Array], Array]]] | None:
        """Sum of the moments and ``v -> v'G T``, where the model has a hand-written pullback."""
        own = getattr(self.model, "moment_sum_and_vjp", None)
        if own is None:
            return None

        def chained(phi: Array, block: Any) -> tuple[Array, Callable[[Array], Array]]:
            value, pull = own(self.parameters.theta(phi), block)
            return value, lambda v: pull(v) @ self.parameters.transform

        return chained

    @property
    def check_existence(self) -> Callable[..., None] | None:
        """Whether a finite estimate of the free parameters exists; directions are theirs alone."""
        own = getattr(self.model, "check_existence", None)
        if own is None:
            return None

        def check(
            phi: Array, sample: Sample, transform: Array | None = None, sums: MomentSums | None = None
        ) -> None:
            own(phi, sample, self.parameters.transform if transform is None else transform, sums)

        return check

    def __getattr__(self, name: str) -> Any:
        if name not in (*OF_PARAMETERS, *OF_BLOCKS):
            raise AttributeError(name)
        own = getattr(self.model, name)
        if own is None or name in OF_BLOCKS:
            return own

        def at_all_parameters(phi: Any, *rest: Any, **named: Any) -> Any:
            return own(self.parameters.theta(phi), *rest, **named)

        return at_all_parameters


@dataclass(frozen=True, slots=True)
class Sampled:
    """What is estimated on data.

    Parameters
    ----------
    whole : Sample
        As the model makes it, for all parameters.
    parameters : Parameters
    model : MomentModel
        As a function of the free parameters.
    sample : Sample
        For the free parameters.
    """

    whole: Sample
    parameters: Parameters
    model: MomentModel
    sample: Sample

    @property
    def limits(self) -> tuple[Array, Array] | None:
        """Bounds of the free parameters, where there are any."""
        return (self.parameters.lower, self.parameters.upper) if self.parameters.bounded else None

    def start(self, start: Start) -> Array:
        """Free parameters of a start, (F,), see :meth:`Parameters.start`."""
        theta = starting_point(start, self.whole.names, self.whole.start)
        return self.parameters.start(theta, given=start is not None)


def sampled(
    model: MomentModel,
    data: Any,
    fixed: Mapping[str, float] | None,
    tied: Mapping[str, str] | None,
    bounds: Bounds | None,
) -> Sampled:
    """The model's sample, and both for the free parameters, of which identification is asked where a model can."""
    if (fixed or tied) and takes_restriction(model):
        whole = model.sample(data, restriction=lambda names: parameters_of(names, fixed, tied, bounds))
    else:
        whole = model.sample(data)
    parameters = parameters_of(whole.names, fixed, tied, bounds)
    return Sampled(whole, parameters, *restricted(model, whole, parameters))
