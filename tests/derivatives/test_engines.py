"""What only one engine does: differences at bounds, JAX's traces, primitives."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest

import gmmest as gm
from gmmest.derivatives.finite_difference import difference_jacobian
from gmmest.derivatives.jax_bridge import JaxFunction
from gmmest.testing import check_derivative, check_rule

X = np.array([1.0, 2.0, 3.0])

# --- differences -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_no_evaluation_lies_outside_the_bounds(central: bool, at: float) -> None:
    seen = []

    def f(x: Any) -> Any:
        seen.append(float(x[0]))
        return np.exp(x)

    backend = gm.FiniteDifference(central=central, bounds=(0.0, 1.0))
    slope = gm.jacobian(f, np.array([at]), backend=backend)
    assert 0.0 <= min(seen) <= max(seen) <= 1.0
    assert slope[0, 0] == pytest.approx(np.exp(at), rel=1e-8 if central else 1e-6)


def test_bounds_that_leave_no_room() -> None:
    for bounds, text in (((1.0, 1.0), "too close together"), ((2.0, 3.0), "outside its bounds")):
        with pytest.raises(gm.DerivativeError, match=f"E614 parameter 0 .*{text}"):
            gm.jacobian(np.exp, np.array([1.0]), backend=gm.FiniteDifference(bounds=bounds))


def test_typical_sizes_one_for_each_parameter() -> None:
    steps = []

    def f(x: Any) -> Any:
        steps.append(x.copy())
        return x

    gm.jacobian(f, np.zeros(2), backend=gm.FiniteDifference(typical=(1e-3, 1e3)))
    assert steps[1][0] == pytest.approx(1e-3 * 2.0**-26)
    assert steps[2][1] == pytest.approx(1e3 * 2.0**-26)


def test_differences_of_an_array_argument() -> None:
    value, slope = difference_jacobian(lambda m: m @ m.T, X.reshape(1, 3), central=True)
    assert value.shape == (1, 1)
    np.testing.assert_allclose(slope, 2 * X.reshape(1, 1, 1, 3), rtol=1e-9)


# --- JAX -------------------------------------------------------------------------------------------------------------


def test_functions_of_jax_numpy_work() -> None:
    import jax.numpy as jnp

    f = lambda x, c: jnp.exp(x) * x.at[0].set(2.0) * c  # noqa: E731
    np.testing.assert_allclose(
        gm.jacobian(f, X, 2.0, backend="jax"),
        np.diag(2 * np.exp(X) * np.array([2.0, 3.0, 4.0])),
    )
    branchy = lambda x, k: jnp.sum(x**2) if k > 0 else jnp.sum(x**3)  # noqa: E731
    np.testing.assert_allclose(gm.gradient(branchy, X, -1.0, backend="jax"), 3 * X**2)


def test_numpy_and_jax_numpy_in_one_function_are_refused() -> None:
    import jax.numpy as jnp

    with pytest.raises(gm.DerivativeError, match="E608") as caught:
        gm.jacobian(lambda x: np.sin(x) * jnp.cos(x), X, backend="jax")
    assert "not both in one function" in str(caught.value)


def test_a_branch_on_a_constant_is_traced_once_for_each_side() -> None:
    runs = []

    def f(x: Any, k: Any, other: Any) -> Any:
        runs.append(type(k).__name__)
        return np.sum(x**2 * other) if k > 0 else np.sum(x**3 * other)

    prepared = gm.prepare(gm.gradient, f, X, 1.0, 1.0, backend="jax")
    np.testing.assert_allclose(prepared(X, 1.0, 2.0), 4 * X)
    np.testing.assert_allclose(prepared(X, -1.0, 2.0), 6 * X**2)
    np.testing.assert_allclose(prepared(X, 1.0, 3.0), 6 * X)
    assert runs == ["TracedArray", "float64", "float64"]  # k is concrete, the other constant stays traced


def test_compile_time_is_counted_and_spent_once() -> None:
    f = JaxFunction(lambda x, D: D.T @ np.exp(x), "reverse")
    D = np.ones((6000, 3))
    D.flags.writeable = False
    f.value_and_jacobian(np.ones(6000) * 0.1, D)
    spent = f.compile_seconds
    assert spent > 0
    f.value_and_jacobian(np.ones(6000) * 0.2, D)
    assert f.compile_seconds == spent


def test_data_written_into_between_calls_are_seen() -> None:
    f = JaxFunction(lambda x, D: D.T @ x, "reverse")
    D, x = np.ones((6000, 3)), np.ones(6000)
    assert f.value_and_jacobian(x, D)[0][0] == 6000.0
    D *= 2.0
    assert f.value_and_jacobian(x, D)[0][0] == 12000.0


def test_sixty_four_bits_are_a_local_matter() -> None:
    import jax.numpy as jnp

    gm.gradient(lambda x: np.sum(x**2), X, backend="jax")
    assert jnp.ones(2).dtype == np.float32


def test_the_layer_loads_without_scipy_and_jax() -> None:
    code = (
        "import sys, numpy, gmmest as gm; gm.value_and_jacobian(lambda x: numpy.exp(x), numpy.ones(2));"
        "print(sorted(m for m in ('scipy', 'jax', 'pandas') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- rules of one's own ---------------------------------------------------------------------------------------------

ENGINES = ["forward", "complex", "jax", "jax-forward", "fd-central"]


@gm.primitive
def opaque(x, k):  # type: ignore[no-untyped-def]
    return np.array([float(v) ** 3 * float(k) for v in x])


@opaque.def_jvp
def _(value, args, tangents):  # type: ignore[no-untyped-def]
    (x, k), (dx, dk) = args, tangents
    return 3 * x**2 * k * dx + x**3 * dk


@pytest.mark.parametrize("engine", ENGINES)
def test_a_function_that_cannot_be_traced_by_its_rule(engine: str) -> None:
    slopes = gm.jacobian(lambda x, k: opaque(np.sin(x), k) * x, X, 2.0, wrt=("x", "k"), backend=engine)
    s, c = np.sin(X), np.cos(X)
    np.testing.assert_allclose(slopes["x"], np.diag(6 * s**2 * c * X + 2 * s**3), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(slopes["k"], s**3 * X, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cotangent_rule_alone_is_enough(engine: str) -> None:
    energy = gm.primitive(lambda x: np.array(float(np.sum(x**2))), shape=lambda shape: ())
    energy.def_vjp(lambda value, args, cotangent: (2 * args[0] * cotangent,))
    np.testing.assert_allclose(
        gm.gradient(lambda x: energy(x) * x[0], X, backend=engine), 2 * X * X[0] + [14, 0, 0], rtol=1e-8
    )


def test_primitives_are_checked() -> None:
    check_rule(opaque, X, 2.0, wrt=(0, 1))
    wrong = gm.primitive(np.exp)
    wrong.def_jvp(lambda value, args, tangents: 2 * value * tangents[0])
    with pytest.raises(AssertionError, match="J t by dual numbers and by central differences disagree"):
        check_rule(wrong, X)
    bare = gm.primitive(np.exp)
    with pytest.raises(gm.DerivativeError, match="E609 the primitive exp has no rule"):
        gm.jacobian(bare, X)
    bare.def_jvp(lambda value, args, tangents: np.ones(7))
    with pytest.raises(gm.DerivativeError, match=r"E609 the rule of exp returned a tangent of shape \(7,\)"):
        gm.jacobian(bare, X)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_primitive_made_within_a_function_is_not_kept(engine: str) -> None:
    made: list[weakref.ref[Any]] = []

    def f(x: Any) -> Any:
        root = gm.implicit_root(lambda y, a: y * y - a, np.sqrt)
        made.append(weakref.ref(root))
        return root(x)

    np.testing.assert_allclose(gm.jacobian(f, X, backend=engine), np.diag(0.5 / np.sqrt(X)), rtol=1e-8)
    gc.collect()
    assert made
    assert all(kept() is None for kept in made)


A = np.array([[1.0, 0.2, 0.1], [0.3, 1.0, 0.2], [0.1, 0.1, 1.0]])


def _contraction(theta, A):  # type: ignore[no-untyped-def]
    y = np.zeros(3)
    for _ in range(200):
        y = np.tanh(0.3 * A @ y + theta)
    return y


def _newton(theta, A):  # type: ignore[no-untyped-def]
    y = np.zeros(3)
    for _ in range(30):
        shares = np.tanh(0.3 * A @ y + theta)
        slope = np.eye(3) - (1 - shares**2)[:, None] * 0.3 * A
        y = y - np.linalg.solve(slope, y - shares)
        if np.max(np.abs(y - shares)) < 1e-15:  # a branch on values: no engine need follow it
            break
    return y


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("solver", [_contraction, _newton])
def test_roots_are_differentiated_by_the_implicit_function_theorem(solver: Any, engine: str) -> None:
    root = gm.implicit_root(lambda y, theta, A: y - np.tanh(0.3 * A @ y + theta), solver)
    theta = np.array([0.1, 0.2, -0.3])
    y = _contraction(theta, A)
    d = 1 - y**2
    expected = np.linalg.solve(np.eye(3) - d[:, None] * 0.3 * A, np.diag(d))
    slope = gm.jacobian(root, theta, A, backend=engine)
    np.testing.assert_allclose(slope, expected, atol=1e-8)
    second = gm.hessian(lambda t: np.sum(root(t, A) ** 2), theta, backend=engine)
    exact = gm.hessian(lambda t: np.sum(_contraction_plain(t) ** 2), theta, backend="forward")
    np.testing.assert_allclose(
        second, exact, atol=1e-5 if engine.startswith("fd") else 1e-6 if engine == "complex" else 1e-10
    )


def _contraction_plain(theta: Any) -> Any:
    y = theta * 0.0
    for _ in range(60):
        y = np.tanh(0.3 * A @ y + theta)
    return y


def test_a_singular_root_is_refused() -> None:
    root = gm.implicit_root(lambda y, a: (y - a) ** 2, lambda a: a * 1.0)
    with pytest.raises(gm.DerivativeError, match="E609 the Jacobian of the residual is singular"):
        gm.jacobian(root, X)


def test_check_derivative_names_both_and_the_entry() -> None:
    wrong = gm.with_derivative(lambda x: x**2, jacobian=lambda x: np.diag(x))
    with pytest.raises(AssertionError, match=r"auto and forward disagree by .* entry \(2, 2\): 3 and 6"):
        check_derivative(wrong, X)


def test_what_is_written_into_a_constant_is_seen_at_the_next_call() -> None:
    """An array on the device is kept only if nobody can write into it: not a single entry may go stale."""
    D = np.random.default_rng(5).normal(size=(6000, 3))
    f = JaxFunction(lambda x, D: D.T @ np.exp(D @ x), "reverse")
    before = f.value_and_jacobian(X[:3], D)[1]
    D[4321, 1] += 5.0
    after = f.value_and_jacobian(X[:3], D)[1]
    assert not np.allclose(after, before)
    fresh = JaxFunction(lambda x, D: D.T @ np.exp(D @ x), "reverse").value_and_jacobian(X[:3], D.copy())[1]
    np.testing.assert_array_equal(after, fresh)


def test_offsets_that_are_written_into_while_tracing_are_the_new_ones() -> None:
    offsets = np.array([0, 2, 5])

    def moved(x: Any, bounds: Any) -> Any:
        bounds = bounds.copy()
        bounds[1] = 4
        return gm.ops.segment_softmax(x, bounds)

    x = np.linspace(-1.0, 1.0, 5)
    by_jax = gm.value_and_jacobian(moved, x, offsets, backend="jax")
    by_duals = gm.value_and_jacobian(moved, x, offsets, backend="forward")
    for found, expected in zip(by_jax, by_duals, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
