"""The operators: what comes back, for which arguments, from which engine."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import gmmest as gm
from gmmest.derivatives.backends import REVERSE_FROM

BACKENDS = ["auto", "forward", "jax", "jax-forward", "complex", "fd", "fd-central"]
X = np.arange(-10.0, 11.0)


def rs(d, xs):  # type: ignore[no-untyped-def]
    d0 = np.exp(-1.5 * (X - xs) ** 2)
    return d - np.sum(d * d0) / np.sum(d0 * d0) * d0


def near(backend: str) -> float:
    return {"fd": 1e-5, "fd-central": 1e-6}.get(backend, 1e-12)


def energy(a, b, c=1.0):  # type: ignore[no-untyped-def]
    return c * np.sum(np.exp(a) * b[:, None])


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_arguments_come_back_under_the_names_they_were_given(backend: str) -> None:
    a, b = np.array([0.1, -0.3, 0.2]), np.array([1.0, 2.0])
    slopes = gm.gradient(energy, a, b, wrt=("a", 1), backend=backend, constants={"c": 2.0})
    assert list(slopes) == ["a", 1]
    np.testing.assert_allclose(slopes["a"], 2.0 * np.exp(a) * 3.0, rtol=near(backend))
    np.testing.assert_allclose(slopes[1], np.full(2, 2.0 * np.exp(a).sum()), rtol=near(backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivatives(backend: str) -> None:
    def f(x, y):  # type: ignore[no-untyped-def]
        return x[0] ** 3 * y[0] + x[1] * y[0] ** 2

    x, y = np.array([1.5, 2.0]), np.array([0.7])
    rough = 1e-5 if backend.startswith("fd") else 1e-7 if backend == "complex" else 1e-12
    expected = np.array([[6 * 1.5 * 0.7, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(gm.hessian(f, x, y, backend=backend), expected, atol=rough)
    blocks = gm.hessian(f, x, y, wrt=("x", "y"), backend=backend)
    np.testing.assert_allclose(blocks["x"]["y"], [[3 * 1.5**2], [1.4]], atol=rough)
    np.testing.assert_allclose(blocks["y"]["x"], [[3 * 1.5**2, 1.4]], atol=rough)
    np.testing.assert_allclose(
        gm.hvp(f, x, y, tangent=[2.0, 1.0], backend=backend), expected @ [2, 1], atol=2 * rough
    )


def test_the_hessian_of_a_vector_has_the_values_axes_first() -> None:
    second = gm.hessian(lambda x: np.stack([x[0] * x[1], x[1] ** 2]), np.array([2.0, 3.0]))
    np.testing.assert_allclose(second, [[[0, 1], [1, 0]], [[0, 0], [0, 2]]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_products_with_tangents_and_cotangents(backend: str) -> None:
    d = np.sin(X)
    slope = gm.jacobian(rs, d, 0.3, backend="forward")
    t, v = np.cos(X), np.linspace(0, 1, 21)
    np.testing.assert_allclose(gm.jvp(rs, d, 0.3, tangent=t, backend=backend), slope @ t, atol=near(backend))
    np.testing.assert_allclose(
        gm.vjp(rs, d, 0.3, cotangent=v, backend=backend), v @ slope, atol=10 * near(backend)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_seed_with_respect_to_the_scalar_alone(backend: str) -> None:
    d = np.sin(X)
    slope = gm.derivative(rs, d, 0.3, wrt="xs", backend=backend)
    both = gm.jacobian(rs, d, 0.3, wrt=("d", "xs"), backend=backend)
    assert slope.shape == (21,)
    assert both["d"].shape == (21, 21)
    np.testing.assert_allclose(slope, both["xs"], rtol=1e-12, atol=1e-12)


def test_what_is_not_active_stays_a_plain_array() -> None:
    def f(a, b):  # type: ignore[no-untyped-def]
        assert type(b) is np.ndarray
        return a * b.sum()

    gm.jacobian(f, 2.0, np.ones(3), backend="forward")


def test_numbers_come_back_as_numbers() -> None:
    value, slope = gm.value_and_gradient(lambda x: x**2, 3)
    assert (float(value), float(slope)) == (9.0, 6.0)
    assert isinstance(slope, float)


def test_auto_takes_the_hand_written_derivative_only_for_the_argument_it_is_for() -> None:
    calls = []

    def by_hand(x, k):  # type: ignore[no-untyped-def]
        calls.append(1)
        return np.diag(2.0 * k * x)

    f = gm.with_derivative(lambda x, k: k * x**2, jacobian=by_hand)
    np.testing.assert_array_equal(gm.jacobian(f, np.ones(2), 3.0), 6.0 * np.eye(2))
    np.testing.assert_array_equal(gm.jacobian(f, np.ones(2), constants={"k": 3.0}), 6.0 * np.eye(2))
    assert len(calls) == 2
    np.testing.assert_array_equal(gm.jacobian(f, np.ones(2), 3.0, wrt=1), np.ones(2))
    assert len(calls) == 2
    np.testing.assert_allclose(gm.hessian(f, np.ones(2), 3.0)[0], [[6, 0], [0, 0]])


def test_auto_goes_over_to_reverse_for_many_parameters_and_back_where_jax_cannot_follow() -> None:
    n = REVERSE_FROM
    seen = []

    def f(x):  # type: ignore[no-untyped-def]
        seen.append(type(x).__name__)
        return np.sum(np.sin(x))

    point = np.linspace(0, 1, n)
    np.testing.assert_allclose(gm.gradient(f, point), np.cos(point), rtol=1e-12)
    assert seen == ["TracedArray"]
    np.testing.assert_allclose(
        gm.gradient(lambda x: np.sum(np.sin(x)) if x[1] > 0 else 0.0, point), np.cos(point), rtol=1e-12
    )


# --- nesting -----------------------------------------------------------------------------------------------


def test_perturbations_are_not_confused() -> None:
    # Siskind and Pearlmutter 2005: d/dx (x * d/dy (x + y)) at 1 is 1; confusion gives 2
    def outer(x):  # type: ignore[no-untyped-def]
        return x * gm.derivative(lambda y: x + y, 1.0, backend="forward")

    assert gm.derivative(outer, 1.0, backend="forward") == 1.0
    third = gm.derivative(
        lambda a: gm.derivative(lambda b: gm.derivative(lambda c: (a * b * c) ** 2, b), a), 2.0
    )
    assert third == pytest.approx(2 * 7 * 2.0**6 * 0 + _third(2.0))


def _third(a: float) -> float:
    # d/da [ d/db ( d/dc (abc)^2 at c = b ) at b = a ] = d/da [ d/db 2 a^2 b^3 at b = a ] = d/da 6 a^4
    return 24.0 * a**3


@pytest.mark.parametrize("backend", ["forward", "jax"])
def test_a_gradient_inside_a_function_is_differentiated(backend: str) -> None:
    def f(x):  # type: ignore[no-untyped-def]
        inner = gm.gradient(lambda y: np.sum(y**3) * x[0], x * 1.0)
        return np.sum(inner)

    # sum_i 3 x_i^2 x_0
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(gm.gradient(f, x, backend=backend), [3 * 5 + 6.0, 12.0])


def test_third_derivatives_of_elementary_functions() -> None:
    for f, expected in (
        (np.sin, -np.cos(0.4)),
        (np.exp, np.exp(0.4)),
        (np.log, 2 / 0.4**3),
        (np.sqrt, 0.375 * 0.4**-2.5),
    ):
        third = gm.derivative(lambda a, f=f: gm.derivative(lambda b: gm.derivative(f, b), a), 0.4)
        assert third == pytest.approx(expected, rel=1e-12)


# --- prepared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", [gm.value_and_jacobian, gm.jacobian, gm.derivative])
def test_prepared_operators_give_what_the_operators_give(op, backend: str) -> None:  # type: ignore[no-untyped-def]
    prepared = gm.prepare(op, rs, np.sin(X), 0.3, wrt=1, backend=backend)
    for shift in (0.0, 0.5):
        found, expected = prepared(np.cos(X), shift), op(rs, np.cos(X), shift, wrt=1, backend=backend)
        for a, b in zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]:
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
            assert np.shape(a) == np.shape(b)
    assert prepared.evaluations == 2
    assert prepared.build_seconds > 0


def test_prepared_operators_say_which_argument_differs() -> None:
    prepared = gm.prepare(gm.jacobian, rs, np.sin(X), 0.3, wrt="d", backend="forward")
    for args, text in (
        (
            (np.zeros(3), 0.3),
            "E616 argument 0 ('d') has shape (3,) and type float64; shape (21,) and type float64",
        ),
        ((np.zeros(21, dtype=int), 0.3), "argument 0 ('d') has shape (21,) and type int64"),
        ((np.zeros(21), np.ones(2)), "argument 1 ('xs') is ndarray of shape (2,); a number was prepared for"),
        ((np.zeros(21), None), "argument 1 ('xs') is NoneType"),
        ((np.zeros(21),), "1 arguments were given; 2 were prepared for"),
    ):
        with pytest.raises(gm.DerivativeError) as caught:
            prepared(*args)
        assert text in str(caught.value)
        assert "next:  prepare again" in str(caught.value)


def test_prepared_results_do_not_change_later() -> None:
    prepared = gm.prepare(gm.value_and_jacobian, rs, np.sin(X), 0.3, wrt=1, backend="forward")
    first = [part.copy() for part in prepared(np.cos(X), 0.1)]
    kept = prepared(np.cos(X), 0.1)
    prepared(np.sin(X), 2.0)
    for a, b in zip(first, kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_prepared_operators_may_be_shared_among_threads() -> None:
    prepared = gm.prepare(gm.jacobian, rs, np.sin(X), 0.3, wrt=1, backend="forward")
    expected = {k: prepared(np.cos(X), 0.01 * k) for k in range(4)}
    wrong = []

    def work(k: int) -> None:
        results = [prepared(np.cos(X), 0.01 * k) for _ in range(300)]
        wrong.extend(k for found in results if not np.array_equal(found, expected[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_branch_on_a_value_is_followed_after_preparing() -> None:
    def f(x, k):  # type: ignore[no-untyped-def]
        return x**2 if k > 0 else (x**3 if x[0] > 0 else -x)

    prepared = gm.prepare(gm.jacobian, f, np.ones(2), 1.0, backend="forward")
    for x, k in ((np.ones(2), 1.0), (np.ones(2), -1.0), (-np.ones(2), -1.0)):
        np.testing.assert_array_equal(prepared(x, k), gm.jacobian(f, x, k, backend="forward"))
