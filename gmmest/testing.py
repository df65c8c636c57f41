"""Checks for gmmest and for those who extend it: rules, derivatives, models, executors, and the scenarios of the suite.

========================  ==========================================================================
``check_rule``            a rule for dual numbers, or a primitive, against central differences
``check_derivative``      a backend, or a function's derivative on several backends, against each other
``check_model``           any model: moment_sum = sum of contributions, blocks add up, backends agree
``check_executor``        what computes the blocks: their order, exceptions, the bits of one thread
``SCENARIOS``             functions in plain NumPy that every backend must differentiate
========================  ==========================================================================

Each check raises ``AssertionError`` with what disagrees and by how much, and returns nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.derivatives import operators, ops
from gmmest.derivatives.arguments import Wrt
from gmmest.derivatives.backends import Backend, as_backend
from gmmest.errors import Complaint, EstimationError
from gmmest.execution.serial import Executor, Serial, fold
from gmmest.models.sample import OF_PARAMETERS, Sample

__all__ = [
    "SCENARIOS",
    "Scenario",
    "check_derivative",
    "check_executor",
    "check_model",
    "check_rule",
    "scenario",
]

Array = NDArray[np.float64]

EXACT_TOLERANCE = 1e-10
"""Between exact engines: rounding of some hundred operations, with a margin."""

DIFFERENCE_TOLERANCE = 1e-6
"""Between exact engines and central differences, whose error is about eps^(2/3) = 4e-11 times the third derivative."""


def check_rule(
    function: Callable[..., Any],
    *args: Any,
    wrt: Wrt = 0,
    seed: int = 0,
    tolerance: float = DIFFERENCE_TOLERANCE,
    second: bool = False,
) -> None:
    """Check the rules that a function uses: random tangents and cotangents against central differences.

    Laws: ``J t`` by dual numbers is the central difference along t; ``v'(J t) = (v'J)t``; where
    ``second`` is asked for, ``H t`` is the central difference of the Jacobian along t.

    Parameters
    ----------
    function : callable
        Plain NumPy, or a :func:`gmmest.primitive`.
    *args
        A point where the function is smooth.
    wrt : int, str, or several
    seed : int
        Of the random tangent and cotangent.
    tolerance : float
        Relative to the largest entry.
    second : bool
        Also check the rule on nested dual numbers.

    Raises
    ------
    AssertionError
        With both results.

    Examples
    --------
    >>> check_rule(np.tanh, np.array([0.3, -2.0]), second=True)
    """
    random = np.random.default_rng(seed)
    keys: Any = tuple(wrt) if isinstance(wrt, (tuple, list)) else wrt
    slopes = operators.jacobian(function, *args, wrt=keys, backend="forward")
    value = np.asarray(function(*args), dtype=np.float64)
    pieces = slopes if isinstance(slopes, dict) else {keys: slopes}
    tangents = {k: random.standard_normal(np.shape(j)[value.ndim :]) for k, j in pieces.items()}
    tangent = tangents if isinstance(slopes, dict) else tangents[keys]
    by_duals = operators.jvp(function, *args, wrt=keys, tangent=tangent, backend="forward")
    differences = operators.jvp(function, *args, wrt=keys, tangent=tangent, backend="fd-central")
    name = getattr(function, "__name__", repr(function))
    _agree(by_duals, differences, tolerance, f"{name}: J t by dual numbers and by central differences")
    cotangent = random.standard_normal(value.shape)
    pulled = operators.vjp(function, *args, wrt=keys, cotangent=cotangent, backend="forward")
    pulls = pulled if isinstance(pulled, dict) else {keys: pulled}
    paired = sum(float(np.sum(pulls[k] * t)) for k, t in tangents.items())
    _agree(paired, float(np.sum(cotangent * by_duals)), EXACT_TOLERANCE, f"{name}: (v'J)t and v'(J t)")
    if second:
        nested = operators.hvp(function, *args, wrt=keys, tangent=tangent, backend="forward")
        rough = operators.hvp(function, *args, wrt=keys, tangent=tangent, backend="fd-central")
        _agree(nested, rough, 1e-5, f"{name}: H t by nested dual numbers and by differences")


def check_derivative(
    function: Callable[..., Any],
    *args: Any,
    wrt: Wrt = 0,
    backend: str | Backend = "auto",
    against: Iterable[str | Backend] = ("forward", "fd-central"),
    tolerance: float | None = None,
) -> None:
    """Check one backend's Jacobian (a hand-written one, say) against others, entry by entry.

    Parameters
    ----------
    function : callable
    *args
    wrt : int, str, or several
    backend : str or Backend
        The one in question; ``auto`` takes the hand-written derivative where there is one.
    against : iterable of str or Backend
    tolerance : float, optional
        Relative to the largest entry; by default 1e-10 between exact backends, 1e-6 for differences.

    Examples
    --------
    >>> from gmmest.derivatives.analytic import with_derivative
    >>> wrong = with_derivative(lambda x: x**2, jacobian=lambda x: np.diag(x))
    >>> check_derivative(wrong, np.array([1.0, 2.0]))
    Traceback (most recent call last):
    ...
    AssertionError: auto and forward disagree by 0.5 (tolerance 1e-10), most at entry (1, 1): 2 and 4
    """
    mine = as_backend(backend)
    value, slopes = operators.value_and_jacobian(function, *args, wrt=wrt, backend=mine)
    for other in map(as_backend, against):
        theirs, expected = operators.value_and_jacobian(function, *args, wrt=wrt, backend=other)
        both = mine.exact and other.exact
        limit = tolerance or (EXACT_TOLERANCE if both else DIFFERENCE_TOLERANCE)
        names = f"{mine.name} and {other.name}"
        _agree(value, theirs, limit, names)
        for key, part in slopes.items() if isinstance(slopes, dict) else [("", slopes)]:
            label = f"{names}, argument {key!r}" if key != "" else names
            _agree(part, expected[key] if key != "" else expected, limit, label)


def check_model(
    model: Any,
    data: Any,
    theta: Any = None,
    backends: Iterable[str | Backend] = ("forward", "complex", "jax"),
    tolerance: float = 1e-8,
) -> None:
    """Check the laws of a moment model (see :class:`gmmest.models.sample.MomentModel`).

    The sums over blocks do not depend on the blocks; ``moment_sum`` is the sum of the
    contributions, ``moment_sums`` has the sum of their squares; hand-written derivatives agree with dual
    numbers, ``moment_sum_and_vjp`` too; the backends agree with each other, and with central differences to
    1e-6.  With the first parameter fixed the sample has the same moments, and every method that takes
    parameters, as its first argument, gives what it gives with all of them.

    Parameters
    ----------
    model : MomentModel
        Anything with ``sample(data)`` and ``contributions(theta, block)``.
    data : ChoiceData, Table, or what the model takes
    theta : array, optional
        Point; by default the start plus small fixed steps, so that nothing is special there.
    backends : iterable of str or Backend
        Those that cannot follow the model raise.
    tolerance : float
        Relative, between exact engines.

    Examples
    --------
    >>> from gmmest.data.table import Table
    >>> from gmmest.models.moment_function import MomentFunction
    >>> model = MomentFunction(lambda t, rows: (rows["y"] - t[0])[:, None], names=["mu"])
    >>> check_model(model, Table.from_arrays({"y": np.array([1.0, 2.0, 6.0])}))
    """
    from gmmest.gmm.moments import moment_sum

    sample = model.sample(data)
    point = np.asarray(sample.start + 0.1 * np.cos(np.arange(len(sample.names))) if theta is None else theta)
    total = moment_sum(model)
    by_blocks = [np.asarray(model.contributions(point, block)) for block in sample.blocks]
    places = sample.entries
    for contributions, count in zip(by_blocks, np.diff(places), strict=True):
        if contributions.shape != (count, len(sample.moment_names)):
            raise AssertionError(
                f"contributions have shape {contributions.shape}; ({count}, {len(sample.moment_names)}) was expected"
            )
    for block, contributions in zip(sample.blocks, by_blocks, strict=True):
        _agree(
            total(point, block),
            contributions.sum(axis=0),
            tolerance,
            "moment_sum and the sum of contributions",
        )
    whole = sample.whole().blocks[0]
    summed = sum(c.sum(axis=0) for c in by_blocks)
    _agree(total(point, whole), summed, tolerance, "the sum over one block and over several")
    reference = operators.jacobian(total, point, whole, backend="fd-central")
    for backend in ("auto", *backends):
        engine = as_backend(backend)
        value, slopes = operators.value_and_jacobian(total, point, whole, backend=engine)
        _agree(value, summed, tolerance, f"moments by {engine.name} and as they are")
        _agree(
            slopes, reference, DIFFERENCE_TOLERANCE, f"Jacobian by {engine.name} and by central differences"
        )
        if engine.exact:
            exact = operators.jacobian(total, point, whole, backend="forward")
            _agree(slopes, exact, tolerance, f"Jacobian by {engine.name} and by forward")
    _check_products(model, sample, point, tolerance)
    if len(sample.names) > 1:
        _check_held(model, data, sample, point, tolerance)


def _check_products(model: Any, sample: Sample, point: Array, tolerance: float) -> None:
    """What a model makes of a block beside the sum and the Jacobian: the pullback, and all in one visit."""
    from gmmest.gmm.moments import moment_sum, square_of

    total, cotangent = moment_sum(model), np.cos(np.arange(len(sample.moment_names)))
    pullback, sums = (getattr(model, name, None) for name in ("moment_sum_and_vjp", "moment_sums"))
    for part in sample.parts:
        value, slopes = operators.value_and_jacobian(total, point, part.block, backend="forward")
        if pullback is not None:
            found, pull = pullback(point, part.block)
            _agree(found, value, tolerance, "moment_sum_and_vjp and the sum of contributions")
            _agree(pull(cotangent), cotangent @ slopes, tolerance, "moment_sum_and_vjp and v'J by forward")
        if sums is not None:
            own = sums(point, part.block)
            square = square_of(np.asarray(model.contributions(point, part.block)), part.frequency)
            _agree(own.moments, value, tolerance, "moment_sums and the sum of contributions")
            _agree(own.square, square, tolerance, "moment_sums and the squares of contributions")
            if own.jacobian is not None:
                _agree(own.jacobian, slopes, tolerance, "Jacobian of moment_sums and by forward")


def _check_held(model: Any, data: Any, sample: Sample, point: Array, tolerance: float) -> None:
    """The model of all parameters but the first, which is fixed."""
    from gmmest.gmm.parameters import sampled

    held = sampled(model, data, {sample.names[0]: float(point[0])}, None, None)
    if (held.whole.names, held.whole.moment_names) != (sample.names, sample.moment_names):
        raise AssertionError("sample with restriction= has other parameters or moments than without")
    blocks = sample.blocks

    def every(function: Callable[[Any], Any]) -> Any:
        return fold([function(block) for block in blocks])

    def at(who: Any, theta: Array) -> dict[str, Any]:
        made = {"contributions": np.concatenate([who.contributions(theta, block) for block in blocks])}
        for name in OF_PARAMETERS:
            own = getattr(who, name, None)
            if own is not None and name == "unadjusted_covariance":
                made[name] = own(theta, sample.n_obs, every)
            elif own is not None:
                made[name] = np.array([own(theta, block) for block in blocks], dtype=np.float64)
        return made

    free = at(held.model, point[1:])
    for name, expected in at(model, point).items():
        _agree(free[name], expected, tolerance, f"{name} with a parameter fixed and with all")


def check_executor(executor: Any) -> None:
    """Check the laws of an executor (see :class:`gmmest.execution.serial.Executor`).

    Results come in the order of the blocks, however many there are; an exception of the function comes
    through as it is, the first in the order of the blocks, and leaves the executor usable; a fit has the bits
    of :class:`~gmmest.execution.serial.Serial`.

    Parameters
    ----------
    executor : Executor, str or distributed.Client
        What ``GMMEstimator(executor=...)`` takes; workers are opened and closed.

    Examples
    --------
    >>> from gmmest.execution.threads import Threads
    >>> check_executor(Threads(2))
    >>> class Backwards:
    ...     def map(self, function, items):
    ...         return [function(item) for item in reversed(items)]
    >>> check_executor(Backwards())
    Traceback (most recent call last):
    ...
    AssertionError: results of 2 blocks are not in their order: [1.0, 0.0]
    """
    from gmmest.execution.threads import opened

    with opened(executor) as session:
        _check_order(session)
        _check_exceptions(session)
        _check_order(session)
        _check_bits(session)


def _check_order(session: Executor) -> None:
    for count in (0, 1, 2, 17):
        found = session.map(lambda block: float(block.sum()), [np.array([float(i)]) for i in range(count)])
        if list(found) != [float(i) for i in range(count)]:
            raise AssertionError(f"results of {count} blocks are not in their order: {found}")


def _check_exceptions(session: Executor) -> None:
    def refuse(block: Array) -> float:
        if block[0] >= 2.0:
            raise EstimationError(Complaint("E411", f"block {block[0]:g}"))
        return float(block[0])

    try:
        session.map(refuse, [np.array([float(i)]) for i in range(6)])
    except EstimationError as error:
        if str(error) != "E411 block 2":
            raise AssertionError(f"another exception than that of the first block came: {error}") from error
    except Exception as error:
        raise AssertionError(f"an EstimationError came as {type(error).__name__}: {error}") from error
    else:
        raise AssertionError("an exception of the function did not come through")


def _check_bits(session: Executor) -> None:
    from gmmest.data.table import Table
    from gmmest.gmm.estimator import GMMEstimator

    random = np.random.default_rng(0)
    x, z = random.normal(size=(2, 500))
    data = Table.from_arrays({"y": np.exp(0.3 + 0.5 * x + 0.2 * random.normal(size=500)), "x": x, "z": z})
    alone, here = (GMMEstimator(_InBlocks(), data, executor=each).fit() for each in (Serial(), session))
    for name in ("moments", "theta", "jacobian", "v"):
        ours, theirs = getattr(alone.estimate, name), getattr(here.estimate, name)
        if ours.tobytes() != theirs.tobytes():
            raise AssertionError(
                f"{name} of a fit: {theirs.tolist()} are not the bits of Serial, {ours.tolist()}"
            )


@dataclass(frozen=True, slots=True)
class _InBlocks:
    """Three moments and two parameters of a table in eleven blocks of different lengths."""

    def sample(self, data: Any) -> Sample:
        def sample(edges: tuple[int, ...]) -> Sample:
            return Sample(
                names=("a", "b"),
                moment_names=("const", "x", "z"),
                blocks=tuple(data.rows(i, j) for i, j in itertools.pairwise(edges)),
                counts=tuple(j - i for i, j in itertools.pairwise(edges)),
                n_rows=data.n_rows,
                start=np.zeros(2),
                whole=lambda: sample((0, data.n_rows)),
            )

        return sample(tuple(k * (k + 1) * data.n_rows // 132 for k in range(12)))

    def contributions(self, theta: Any, block: Any) -> Any:
        e = block["y"] - np.exp(theta[0] + theta[1] * block["x"])
        return np.stack([e, e * block["x"], e * block["z"]], axis=1)


def _agree(found: Any, expected: Any, tolerance: float, what: str) -> None:
    if isinstance(found, dict):
        for key in found:
            _agree(found[key], expected[key], tolerance, f"{what}, {key!r}")
        return
    a, b = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if a.shape != b.shape:
        raise AssertionError(f"{what} have different shapes: {a.shape} and {b.shape}")
    if not a.size:
        return
    scale = max(1.0, float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0)))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b)) / scale
    worst = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape)
    if not gap[worst] <= tolerance:
        place = tuple(map(int, worst))
        raise AssertionError(
            f"{what} disagree by {gap[worst]:.2g} (tolerance {tolerance:.2g}),"
            f" most at entry {place}: {a[worst]:.10g} and {b[worst]:.10g}"
        )


# --- scenarios: what numerical users write ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scenario:
    """A function and a point at which every backend must give the same derivatives.

    Parameters
    ----------
    name : str
    function : callable
    args : tuple
    wrt : int, str or tuple
    analytic : bool
        Whether complex numbers pass through it, so that complex steps are right.
    jax : bool
        Whether JAX can follow it.
    smooth : bool
        Whether differences are right at the point.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    wrt: Any = 0
    analytic: bool = True
    jax: bool = True
    smooth: bool = True

    def engines(self) -> tuple[str, ...]:
        """The exact backends that can do it."""
        return (
            "forward",
            *(("complex",) if self.analytic else ()),
            *(("jax", "jax-forward") if self.jax else ()),
        )


_RANDOM = np.random.default_rng(20260101)
_V = np.round(_RANDOM.standard_normal(6), 3)
_P = np.round(_RANDOM.uniform(0.2, 0.9, 6), 3)
_M = np.round(_RANDOM.standard_normal((3, 4)), 3)
_D = np.round(_RANDOM.standard_normal((6, 4)), 3)
_T = np.round(_RANDOM.standard_normal((2, 3, 4)), 3)
_SQUARE = np.round(_RANDOM.standard_normal((3, 3)), 3) + 3.0 * np.eye(3)
_OFFSETS = np.array([0, 2, 2, 5, 6])
_FULL_OFFSETS = np.array([0, 2, 5, 6])


def scenario(name: str) -> Scenario:
    """The scenario of a name.

    Examples
    --------
    >>> scenario("softmax").function.__name__
    'softmax'
    """
    return next(s for s in SCENARIOS if s.name == name)


def _moments(theta: Any, rows: Any, offsets: Any, scale: float) -> Any:
    """Moments of one's own: a branch on a constant, a segment softmax, a solve."""
    utility = rows @ theta
    if scale > 1.0:
        utility = utility / scale
    shares = ops.segment_softmax(utility, offsets)
    weights = np.linalg.solve(rows.T @ rows, rows.T @ shares)
    return rows.T @ (shares - 0.3) + weights * theta[0]


def _filled(x: Any) -> Any:
    out = np.zeros_like(x)
    out[1:] = x[:-1] ** 2
    out[0] = x[2]
    out[2:4] += x[0]
    return out * x


def _positive_log(x: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, np.log(np.where(x > 0, x, 1.0)), 0.0) + x


def _branch(x: Any) -> Any:
    return np.sin(x) if np.sum(x) > 0 else np.cos(x)


def _loop(x: Any) -> Any:
    total = x
    for _ in range(3):
        total = total * np.cos(x) + 1.0
    return total


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("identity", lambda x: x, (_V,)),
    Scenario("constant", lambda x: np.ones(3), (_V,)),
    Scenario("scalar in and out", lambda x: np.exp(x) * x**3, (0.7,)),
    Scenario("scalar to vector", lambda x, c: c * x / (1.0 + x**2), (0.7, _V)),
    Scenario("integer input", lambda x: x**2 / 3, (np.arange(4),)),
    Scenario("empty input", lambda x: x * 2.0, (np.zeros(0),)),
    Scenario("empty sum", lambda x: np.sum(x[:0]) + x[0], (_V,)),
    Scenario("matrix in and out", lambda x: np.tanh(x) * x[:1], (_M,)),
    Scenario("non-contiguous", lambda x: x[::-1].T * 2.0 + np.exp(x.T), (np.asfortranarray(_M),)),
    Scenario("strided constant", lambda x, c: c[::2] @ x, (_M[:2, 0], np.repeat(_M[:, :2], 2, axis=0))),
    Scenario("arithmetic", lambda x: (x + 1.0) * (2.0 - x) / (3.0 + x * x) - x**3 + 2.0**x - (-x), (_V,)),
    Scenario("power of arrays", lambda x, y: x**y, (_P, _V), wrt=(0, 1)),
    Scenario(
        "two by two broadcast", lambda x, y: x[:, None] * y + x[:, None] / (2.0 + y**2), (_V, _P), wrt=(0, 1)
    ),
    Scenario("second argument by name", lambda a, b: a - (a @ b) / (b @ b) * b, (_V, _P), wrt="b"),
    Scenario("exponentials", lambda x: np.exp(x) + np.expm1(x) * np.exp2(x), (_V,)),
    Scenario(
        "logarithms", lambda x: np.log(x) + np.log2(x) * np.log10(x) + np.log1p(x), (_P,), analytic=False
    ),
    Scenario("log", lambda x: np.log(x) * np.log1p(x), (_P,)),
    Scenario("roots", lambda x: np.sqrt(x) + np.reciprocal(x) + np.square(x), (_P,)),
    Scenario("cube root", lambda x: np.cbrt(x), (_P,), analytic=False),
    Scenario("trigonometry", lambda x: np.sin(x) * np.cos(x) + np.tan(0.5 * x) + np.arctan(x), (_V,)),
    Scenario("inverse trigonometry", lambda x: np.arcsin(x) + np.arccos(x) * np.arctanh(x), (_P,)),
    Scenario("hyperbolic", lambda x: np.sinh(x) * np.cosh(x) + np.tanh(x) + np.arcsinh(x), (_V,)),
    Scenario("arccosh", lambda x: np.arccosh(x + 1.5), (_P,)),
    Scenario("absolute values", lambda x: np.abs(x) + np.fabs(x) * np.sign(x), (_V,), analytic=False),
    Scenario(
        "extrema of two",
        lambda x, y: np.maximum(x, y) * np.minimum(x, 0.1),
        (_V, _P),
        wrt=(0, 1),
        analytic=False,
    ),
    Scenario("tie of a maximum", lambda x: np.maximum(x, x), (_V,), analytic=False),
    Scenario(
        "arctan2 and hypot",
        lambda x, y: np.arctan2(x, y) * np.hypot(x, y),
        (_V, _P),
        wrt=(0, 1),
        analytic=False,
    ),
    Scenario("logaddexp", lambda x, y: np.logaddexp(x, y), (_V, _P), wrt=(0, 1), analytic=False),
    Scenario("remainders", lambda x: np.fmod(x, 0.3) + np.mod(x, 0.7), (_V,), analytic=False),
    Scenario("degrees", lambda x: np.deg2rad(x) + np.rad2deg(x), (_V,), analytic=False),
    Scenario("clip", lambda x: np.clip(x, -0.5, 0.5) + x.clip(0.0, None), (_V,), analytic=False),
    Scenario("where", lambda x: np.where(x > 0, np.exp(x), x**2), (_V,)),
    Scenario("where-log at zero", _positive_log, (np.array([0.0, -1.0, 2.0]),), analytic=False, smooth=False),
    Scenario(
        "select", lambda x: np.select([x > 0.5, x > 0], [x**2, x**3], default=1.0), (_V,), analytic=False
    ),
    Scenario(
        "sums", lambda x: x.sum() * np.sum(x, axis=0) + np.sum(x, axis=(0, 1), keepdims=True)[0, 0], (_M,)
    ),
    Scenario("sum along the last axis", lambda x: np.sum(x, axis=-1, keepdims=True) * x, (_T,)),
    Scenario("means", lambda x: np.mean(x, axis=1) * x.mean(), (_M,)),
    Scenario("variances", lambda x: np.var(x, axis=0, ddof=1) + np.std(x, axis=0), (_M,), analytic=False),
    Scenario("product", lambda x: np.prod(x, axis=0) * np.prod(x), (_M,)),
    Scenario("product with a zero", lambda x: np.prod(x), (np.array([2.0, 0.0, 3.0]),)),
    Scenario("product with two zeros", lambda x: np.prod(x), (np.array([2.0, 0.0, 0.0]),)),
    Scenario("maxima", lambda x: np.max(x, axis=1) * np.min(x) + x.max(axis=0)[0], (_M,), analytic=False),
    Scenario(
        "maximum over two axes", lambda x: np.max(x, axis=(0, 2), keepdims=True) * 2.0, (_T,), analytic=False
    ),
    Scenario("norms", lambda x: np.linalg.norm(x) + np.linalg.norm(x, axis=0), (_M,), analytic=False),
    Scenario("running sums", lambda x: np.cumsum(x) * x.cumsum(axis=0)[-1], (_V,)),
    Scenario("running product", lambda x: np.cumprod(x), (np.array([2.0, 0.0, 3.0]),)),
    Scenario("logaddexp.reduce", lambda x: np.logaddexp.reduce(x, axis=1), (_M,), analytic=False),
    Scenario("add.reduceat", lambda x: np.add.reduceat(x, [0, 2, 3]), (_V,), jax=False),
    Scenario("multiply.outer", lambda x, y: np.multiply.outer(x, y), (_V, _P), wrt=(0, 1)),
    Scenario("indexing", lambda x: x[1:5:2] * x[-1] + x[[0, 3]] * x[np.array([1, 1])], (_V,)),
    Scenario("index arrays", lambda x: x[[0, 2], [1, 3]] * x[0, ..., None][0], (_M,)),
    Scenario("array and slice", lambda x: x[:, [0, 2]] * x[1:2, 0] + x[[2, 1, 0], :2], (_M,)),
    Scenario("array index in front of a slice", lambda x: x[0, :, [0, 2, 2]] * 2.0, (_T,)),
    Scenario("boolean mask", lambda x, m: x[m] * 2.0, (_V, _V > 0)),
    Scenario("assignment", _filled, (_V,), analytic=True),
    Scenario("in-place arithmetic", lambda x: _in_place(x), (_V,)),
    Scenario("reshape", lambda x: x.reshape(2, 6).T.ravel() * x.flatten()[::-1], (_M,)),
    Scenario(
        "transpose", lambda x: np.transpose(x, (2, 0, 1)) * np.swapaxes(x, 0, 2).transpose(0, 2, 1), (_T,)
    ),
    Scenario("move axes", lambda x: np.moveaxis(x, 0, -1) * np.expand_dims(x[0], (0, 3))[0] ** 2, (_T,)),
    Scenario("join", lambda x: np.concatenate([x, np.stack([x[0], x[0] ** 2])], axis=0), (_M,)),
    Scenario("stacks", lambda x: np.hstack([x, np.ones(2)]) @ np.append(x, x[:2]), (_V,)),
    Scenario("column_stack", lambda x: np.column_stack([x, x**2, np.ones(6)]), (_V,)),
    Scenario("vstack", lambda x: np.vstack([x, 2.0 * x, np.ones(6)]), (_V,)),
    Scenario("repeat and tile", lambda x: np.repeat(x, 2) * np.tile(x, 2), (_V,)),
    Scenario("repeat by counts", lambda x: np.repeat(x, [1, 0, 2, 1, 1, 3]), (_V,)),
    Scenario("take", lambda x: np.take(x, [0, 2, 2], axis=1) * x.take([1]), (_M,)),
    Scenario("take_along_axis", lambda x, i: np.take_along_axis(x, i, axis=1), (_M, np.argsort(_M, axis=1))),
    Scenario("sort", lambda x: np.sort(x) * np.arange(6.0), (_V,), analytic=False),
    Scenario("pad", lambda x: np.pad(x, ((1, 0), (0, 2))) * 2.0, (_M,)),
    Scenario("pad with the edge", lambda x: np.pad(x, 2, mode="edge"), (_V,)),
    Scenario("pad with ones", lambda x: np.pad(x, (1, 2), constant_values=1.0) ** 2, (_V,)),
    Scenario("roll, flip and diff", lambda x: np.roll(x, 1)[1:] * np.flip(x)[1:] + np.diff(x), (_V,)),
    Scenario(
        "diagonals", lambda x: np.diag(np.diag(x)) + np.trace(x) * np.tril(x) + np.triu(x, 1), (_SQUARE,)
    ),
    Scenario("broadcast_to", lambda x: np.broadcast_to(x, (2, 6)) * np.ones((2, 6)), (_V,)),
    Scenario("split", lambda x: np.split(x, 2)[0] * np.split(x, 3)[1][0], (_V,)),
    Scenario("matrix times vector", lambda x, D: D.T @ x, (_V, _D)),
    Scenario("vector times matrix", lambda x, D: x @ D, (_V, _D)),
    Scenario("vector times stack", lambda x, A: x @ A, (_M[:, 0], _T)),
    Scenario("stack times vector", lambda x, A: A @ x, (_M[0], _T)),
    Scenario("matrix times matrix", lambda x, D: x @ D.T + (D @ x.T).T, (_M, _D)),
    Scenario("matrix times stack", lambda x, A: np.matmul(x, np.swapaxes(A, 1, 2)), (_M, _T)),
    Scenario("product of duals", lambda x: x @ x.T + x @ np.exp(x).T, (_M,)),
    Scenario("vectors of duals", lambda x, y: (x @ y) * np.dot(x, x), (_V, _P), wrt=(0, 1)),
    Scenario("quadratic form", lambda b, W: b @ W @ b, (_V[:3], _SQUARE)),
    Scenario("matrix is active", lambda D, b: D.T @ b, (_D, _V)),
    Scenario("outer, inner, vdot", lambda x, y: np.outer(x, y) * np.inner(x, y), (_V, _P), wrt=(0, 1)),
    Scenario("tensordot", lambda x, A: np.tensordot(A, x, axes=([1, 2], [0, 1])), (_M, _T)),
    Scenario("einsum", lambda x, A: np.einsum("ij,kij->k", x, A) + np.einsum("ij,ij", x, x), (_M, _T)),
    Scenario("einsum with ellipsis", lambda x, A: np.einsum("...ij,jk->...ik", A, x), (_M.T.copy(), _T)),
    Scenario(
        "einsum with active ellipsis", lambda A, x: np.einsum("...ij,jk->...k", A, x), (_T, _D.T.copy())
    ),
    Scenario("solve", lambda A, b: np.linalg.solve(A, b), (_SQUARE, _V[:3]), wrt=(0, 1)),
    Scenario("solve for a matrix", lambda A, b: np.linalg.solve(A, b), (_SQUARE, _M), wrt=(0, 1)),
    Scenario(
        "solve stacks", lambda A, b: np.linalg.solve(A, b), (np.stack([_SQUARE, 2 * _SQUARE]), _M), wrt=(0, 1)
    ),
    Scenario(
        "solve stacks for a vector", lambda A, b: np.linalg.solve(A, b), (np.stack([_SQUARE] * 2), _V[:3])
    ),
    Scenario("inverse", lambda A: np.linalg.inv(A) + np.linalg.det(A), (_SQUARE,)),
    Scenario("inverses", lambda A: np.linalg.inv(np.stack([A, 2 * A])), (_SQUARE,)),
    Scenario("cholesky", lambda A: np.linalg.cholesky(A @ A.T), (_SQUARE,), analytic=False),
    Scenario(
        "cholesky of raw entries", lambda A: np.linalg.cholesky(A), (_SQUARE @ _SQUARE.T,), analytic=False
    ),
    Scenario("slogdet", lambda A: np.linalg.slogdet(A)[1] * 2.0, (_SQUARE,), analytic=False),
    Scenario("segment sum", lambda u: ops.segment_sum(u, _OFFSETS) ** 2, (_V,)),
    Scenario("segment sum of rows", lambda u: ops.segment_sum(u * u, _OFFSETS), (_D,)),
    Scenario("segment max", lambda u: ops.segment_max(u, _FULL_OFFSETS) ** 2, (_V,)),
    Scenario("segment max of rows", lambda u: ops.segment_max(u, _FULL_OFFSETS) * 2.0, (_D,)),
    Scenario("segment max with an empty one", lambda u: np.exp(ops.segment_max(u, _OFFSETS)), (_D,)),
    Scenario("segment repeat", lambda u: ops.segment_repeat(u[:4], _OFFSETS) * u, (_V,)),
    Scenario("segment softmax", lambda u: ops.segment_softmax(u, _OFFSETS), (_V,)),
    Scenario("segment softmax of rows", lambda u: ops.segment_softmax(u, _OFFSETS), (_D,)),
    Scenario("segment logsumexp", lambda u: ops.segment_logsumexp(u, _FULL_OFFSETS), (_V,)),
    Scenario("segment logsumexp of rows", lambda u: np.exp(ops.segment_logsumexp(u, _OFFSETS)), (_D,)),
    Scenario("logsumexp", lambda x: ops.logsumexp(x, axis=1) + ops.logsumexp(x), (_M,), analytic=False),
    Scenario("softmax", ops.softmax, (_V,), analytic=False),
    Scenario("a loop", _loop, (_V,)),
    Scenario("a branch on the active argument", _branch, (_V,), jax=False, analytic=False),
    Scenario("a dict of constants", lambda b, rows: rows["x"] @ b * rows["k"], (_V[:4], {"x": _D, "k": 2.0})),
    Scenario("moments: branch, softmax, solve", _moments, (_V[:4], _D, _FULL_OFFSETS, 2.0)),
)
"""What every backend must differentiate, each at a point where the derivative exists."""


def _in_place(x: Any) -> Any:
    y = x * 1.0
    y += x
    y *= x
    y -= 1.0
    y /= 2.0 + x * x
    y **= 2
    return y
