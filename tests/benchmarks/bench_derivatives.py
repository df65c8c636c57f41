"""Every row of the two discussions that gmmest began with, as ratios to one evaluation f.

    python -m pytest tests/benchmarks/bench_derivatives.py --benchmark-json=docs/figures/derivatives.json

1. A logit GMM objective with 1,000 choice sets of 30 alternatives, 20 parameters and 40 moments, where
   automatic differentiation took 25 to 370 evaluations and finite differences 20.
2. The product ``D.T @ s`` with dual numbers, alone.
3. A small function ``rs(d, xs)``, differentiated with respect to the scalar only or to everything.

``f`` is written here, in plain NumPy, with nothing of gmmest in it.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

import gmmest as gm
from gmmest.derivatives.dual import DualArray, Level
from gmmest.gmm.moments import Moments
from gmmest.simulate import simulate_logit

ROUNDS = 60
SMALL_ROUNDS, SMALL_CALLS = 120, 100

# --- the seed's objective -------------------------------------------------------------------------------

DRAWN = simulate_logit(sets=1000, alternatives=30, features=20, moments=40, seed=20180611)
BLOCK = DRAWN.data.block()
X, D, OFFSETS = BLOCK.features, BLOCK.instruments, BLOCK.offsets
STARTS, COUNTS = OFFSETS[:-1], np.diff(OFFSETS)
THETA = DRAWN.theta * 0.9
N = BLOCK.n_sets


def mean_moments(theta, X, D):
    """The reference: shares of ragged choice sets, then ``D's / N``."""
    u = X @ theta
    e = np.exp(u - np.repeat(np.maximum.reduceat(u, STARTS), COUNTS))
    s = e / np.repeat(np.add.reduceat(e, STARTS), COUNTS)
    return D.T @ s / N


def objective(theta, X, D):
    """``g'g``."""
    g = mean_moments(theta, X, D)
    return g @ g


def moments_with_ops(theta, X, D, offsets):
    """The same for every engine: a user's plain NumPy with one ragged primitive."""
    return D.T @ gm.ops.segment_softmax(X @ theta, offsets) / N


def objective_with_ops(theta, X, D, offsets):
    g = moments_with_ops(theta, X, D, offsets)
    return g @ g


def model_moments(grad: str) -> Moments:
    model = gm.Logit()
    return Moments(model, model.sample(DRAWN.data), grad)


def moving(function: Callable[[np.ndarray], object]) -> Callable[[], object]:
    """Call with a theta that moves a little each time, so that nothing can be remembered."""
    turn = iter(range(10**9))
    return lambda: function(THETA * (1.0 + 1e-9 * next(turn)))


def gradient_of(moments: Moments) -> Callable[[], object]:
    def gradient(theta: np.ndarray) -> np.ndarray:
        g, vjp = moments.value_and_vjp(theta)
        return vjp(2.0 * g)

    return moving(gradient)


def prepared(operator, backend) -> Callable[[], object]:
    function = objective_with_ops if operator is gm.value_and_gradient else moments_with_ops
    ready = gm.prepare(operator, function, THETA, X, D, OFFSETS, wrt=0, backend=backend)
    return moving(lambda theta: ready(theta, X, D, OFFSETS))


@pytest.fixture(scope="module")
def seed_times(race):
    differences = gm.prepare(gm.value_and_gradient, objective, THETA, X, D, wrt=0, backend="fd")
    plain = model_moments("analytic")
    analytic = model_moments("analytic")
    contestants = {
        "f": moving(lambda theta: objective(theta, X, D)),
        "model's own evaluation": moving(lambda theta: (g := plain.value(theta)) @ g),
        "one-sided differences": moving(lambda theta: differences(theta, X, D)),
        "forward, chunk 1": prepared(gm.value_and_jacobian, gm.ForwardDual(chunk=1)),
        "forward, chunk 10": prepared(gm.value_and_jacobian, gm.ForwardDual(chunk=10)),
        "forward, chunk 20": prepared(gm.value_and_jacobian, gm.ForwardDual(chunk=20)),
        "forward, default": prepared(gm.value_and_jacobian, gm.ForwardDual()),
        "forward, no product rule": prepared(gm.value_and_jacobian, gm.ForwardDual(product_rule=False)),
        "forward, in the model's blocks": moving(model_moments("forward").value_and_jacobian),
        "JAX reverse gradient": prepared(gm.value_and_gradient, gm.Jax()),
        "JAX forward Jacobian": prepared(gm.value_and_jacobian, gm.Jax(mode="forward")),
        "hand-written gradient": gradient_of(analytic),
        "hand-written Jacobian": moving(model_moments("analytic").value_and_jacobian),
    }
    return contestants, race(contestants, ROUNDS)


SEED_BARS = {
    "f": 1.0,
    "model's own evaluation": 1.2,
    "one-sided differences": None,
    "forward, chunk 1": None,
    "forward, chunk 10": None,
    "forward, chunk 20": None,
    "forward, default": 10.0,
    "forward, no product rule": None,
    "forward, in the model's blocks": 10.0,
    "JAX reverse gradient": 3.0,
    "JAX forward Jacobian": None,
    "hand-written gradient": 2.4,
    "hand-written Jacobian": 9.0,
}


def report(benchmark, group: str, contestant, ratio: float, bar: float | None, seconds: float) -> None:
    """Let pytest-benchmark print and write the row; the ratio is of the interleaved minima."""
    benchmark.group = group
    benchmark.extra_info.update(ratio=round(ratio, 3), bar=bar, seconds=seconds)
    benchmark.pedantic(contestant, rounds=5, iterations=1, warmup_rounds=1)


@pytest.mark.parametrize("name", SEED_BARS)
def bench_seed_objective(benchmark, seed_times, name):
    contestants, best = seed_times
    ratio = best[name] / best["f"]
    report(
        benchmark, "logit GMM, 30,000 x 20, 40 moments", contestants[name], ratio, SEED_BARS[name], best[name]
    )
    assert SEED_BARS[name] is None or ratio <= SEED_BARS[name], f"{ratio:.2f} f"


def bench_forward_against_differences(seed_times):
    _, best = seed_times
    ratio = best["forward, default"] / best["one-sided differences"]
    assert ratio <= 0.55, f"{ratio:.2f} of one-sided differences"


def bench_memory_of_a_dual_evaluation():
    """(K+1) times the memory of f, plus 20 per cent."""

    def peak(function: Callable[[], object]) -> int:
        function()
        tracemalloc.start()
        try:
            function()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    plain = peak(lambda: objective(THETA, X, D))
    backend = gm.ForwardDual(chunk=THETA.size)
    duals = peak(lambda: gm.value_and_jacobian(moments_with_ops, THETA, X, D, OFFSETS, backend=backend))
    assert duals <= 1.2 * (THETA.size + 1) * plain, f"{duals / plain:.1f} times f's {plain} bytes"


# --- the product alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "moments", "partials", "bar"), [(30_000, 40, 20, 6.0), (100_000, 30, 10, 3.5)]
)
def bench_product_rule(benchmark, race, rows, moments, partials, bar):
    """``D.T @ s`` on dual numbers: one blocked product against one without BLAS."""
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(rows, moments))
    buffer = rng.normal(size=(partials + 1, rows))
    with_rule = DualArray(buffer, Level(partials))
    without = DualArray(buffer, Level(partials, product=False))
    contestants = {
        "one product": lambda: matrix.T @ with_rule,
        "no BLAS": lambda: matrix.T @ without,
        "values only": lambda: matrix.T @ buffer[0],
    }
    assert np.allclose((matrix.T @ with_rule).buffer, (matrix.T @ without).buffer, rtol=1e-9, atol=1e-9)
    best = race(contestants, 30)
    gain = best["no BLAS"] / best["one product"]
    benchmark.extra_info.update(gain=round(gain, 2), bar=bar, **{name: best[name] for name in best})
    benchmark.group = "D.T @ s on dual numbers"
    benchmark.pedantic(contestants["one product"], rounds=5, warmup_rounds=1)
    assert gain >= bar, f"{gain:.1f} times"


# --- a small function, some of its arguments -----------------------------------------------------------------

GRID = np.arange(-10.0, 11.0)
SIGNAL = np.sin(GRID) + 0.1 * GRID


def rs(d, xs):
    """What is left of d after its projection on a bump at xs."""
    d0 = np.exp(-1.5 * (GRID - xs) ** 2)
    return d - np.sum(d * d0) / np.sum(d0 * d0) * d0


def rs_scalar(d, xs):
    t = rs(d, xs)
    return np.sum(t * t)


@pytest.fixture(scope="module")
def small_times(race):
    xs = 0.3
    forward, differences = gm.ForwardDual(), gm.FiniteDifference()
    contestants: dict[str, Callable[[], object]] = {"f": lambda: rs(SIGNAL, xs)}
    for label, function, operator in (
        ("rs", rs, gm.value_and_jacobian),
        ("scalar form", rs_scalar, gm.value_and_gradient),
    ):
        for which, wrt in (("the scalar only", 1), ("all arguments", (0, 1))):
            for engine, backend in (
                ("forward", forward),
                ("differences", differences),
                ("jax-forward", gm.Jax("forward")),
                ("jax", gm.Jax()),
            ):
                ready = gm.prepare(operator, function, SIGNAL, xs, wrt=wrt, backend=backend)
                contestants[f"{label}, {which}: {engine}, prepared"] = lambda ready=ready: ready(SIGNAL, xs)
        contestants[f"{label}, the scalar only: forward, unprepared"] = (
            lambda operator=operator, function=function: operator(
                function, SIGNAL, xs, wrt=1, backend=forward
            )
        )
    contestants["rs, the scalar only: differences by hand"] = lambda: (
        (rs(SIGNAL, xs + 1e-6) - rs(SIGNAL, xs)) / 1e-6
    )
    contestants["scalar form: f"] = lambda: rs_scalar(SIGNAL, xs)
    return contestants, race(contestants, SMALL_ROUNDS, SMALL_CALLS)


SMALL_BARS = {
    "rs, the scalar only: forward, prepared": 1.6,
    "rs, the scalar only: forward, unprepared": 5.5,
}


def bench_small_function(benchmark, small_times):
    contestants, best = small_times
    rows = {name: {"seconds": t, "ratio": round(t / best["f"], 3)} for name, t in best.items()}
    benchmark.group = "rs, 21 elements"
    benchmark.extra_info["rows"] = rows
    benchmark.pedantic(contestants["rs, the scalar only: forward, prepared"], rounds=50, iterations=20)
    for name, bar in SMALL_BARS.items():
        assert rows[name]["ratio"] <= bar, f"{name}: {rows[name]['ratio']} f"
    assert (
        best["rs, the scalar only: forward, prepared"] < best["rs, the scalar only: differences by hand"]
    ), "slower than a difference"
