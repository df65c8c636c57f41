"""Dual numbers behave as arrays: writing, views, NaN-safety; and what peers got wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special
from scipy.sparse import csr_array

import gmmest as gm
from gmmest.testing import check_rule

X = np.array([0.5, 2.0, 3.0])
ENGINES = ["forward", "jax", "complex"]


@pytest.mark.parametrize("engine", ENGINES)
def test_views_share_memory_and_numbers_do_not(engine: str) -> None:
    def f(x: Any) -> Any:
        y = x * 1.0
        first, tail = y[0], y[1:]
        column = y.reshape(3, 1)
        tail[...] = x[0] ** 2  # seen through y and column
        y[0] = 7.0  # not seen by the number taken out before
        column[2, 0] *= 3.0
        return first * y

    expected = np.array([[7.0, 0, 0], [3 * 0.25, 0, 0], [9 * 0.25, 0, 0]])
    np.testing.assert_allclose(gm.jacobian(f, X, backend=engine), expected, rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_are_not_changed_in_place(engine: str) -> None:
    def f(x: Any) -> Any:
        total = np.sum(x)
        before = total
        total += x[0]
        return np.stack([before, total])

    np.testing.assert_array_equal(gm.jacobian(f, X, backend=engine), [[1, 1, 1], [2, 1, 1]])


def test_writing_into_the_argument_does_not_reach_the_caller() -> None:
    def f(x: Any) -> Any:
        x *= 2.0
        return x

    for engine in ("forward", "fd", "complex", "jax"):
        point = X.copy()
        np.testing.assert_allclose(gm.jacobian(f, point, backend=engine), 2 * np.eye(3), rtol=1e-6)
        np.testing.assert_array_equal(point, X)


def test_the_untaken_side_of_where_does_no_harm() -> None:
    def f(x: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(x > 0, np.log(x), 0.0) + np.where(x > 1, 1.0 / (x - 1.0), x)

    slope = gm.jacobian(f, np.array([0.0, -1.0, 2.0]), backend="forward")
    np.testing.assert_array_equal(np.diag(slope), [1.0, 1.0, 0.5 - 1.0])
    second = gm.hessian(lambda x: np.sum(f(x)), np.array([0.0, -1.0, 2.0]), backend="forward")
    np.testing.assert_allclose(np.diag(second), [0.0, 0.0, -0.25 + 2.0])


def test_nothing_times_infinity_is_nothing() -> None:
    # sqrt has an infinite slope at 0, where nothing moves
    np.testing.assert_array_equal(
        gm.jacobian(lambda x: np.sqrt(x * np.array([0.0, 1.0])), np.array([4.0, 4.0])), [[0, 0], [0, 0.25]]
    )
    assert gm.gradient(lambda x: np.linalg.norm(x * 0.0), X).tolist() == [0, 0, 0]
    assert gm.derivative(lambda x: x**2.0, 0.0) == 0.0
    assert gm.derivative(lambda x: x**1, 0.0) == 1.0
    assert gm.derivative(lambda x: 0.0**x, 2.0) == 0.0
    assert gm.derivative(lambda x: x**0, 0.0) == 0.0


@pytest.mark.parametrize("norm", [np.linalg.norm, np.linalg.vector_norm])
@pytest.mark.parametrize("axis", [None, 0, -1, (1,), (0, 1), (2, 0), (-1, 1)], ids=str)
@pytest.mark.parametrize("ord", [None, "fro", "nuc", 0, 1, -1, 2, -2, 3, np.inf, -np.inf], ids=str)
def test_a_norm_is_the_one_asked_for_or_refused(norm: Any, axis: Any, ord: Any) -> None:  # noqa: A002
    point = np.random.default_rng(4).normal(size=(2, 3, 4))

    def f(x: Any) -> Any:
        return norm(x, ord=ord, axis=axis, keepdims=True)

    try:
        expected = f(point)
    except (ValueError, TypeError):
        return  # no norm to NumPy either
    refusal = ""
    try:
        check_rule(f, point)
    except gm.DerivativeError as refused:
        refusal = str(refused)
    if refusal:
        assert f"np.linalg.{norm.__name__}(ord={ord!r})" in refusal
        assert norm is np.linalg.vector_norm or ord not in (None, "fro")
    else:
        found = gm.value_and_jacobian(f, point, backend="forward")[0]
        np.testing.assert_allclose(found, expected, rtol=1e-14)  # sums of 24 squares in another order


def test_a_warning_of_the_function_stays_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        gm.jacobian(np.log, np.array([0.0, 1.0]), backend="forward")


SPECIAL = [
    "expit", "logit", "log_expit", "erf", "erfc", "erfinv", "ndtr", "log_ndtr", "ndtri", "gammaln", "gamma",
    "digamma", "loggamma", "rgamma", "erfcx", "erfcinv", "expm1", "log1p", "exp2", "exp10", "cbrt", "entr", "j0",
]  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_functions_of_scipy_special(name: str) -> None:
    check_rule(getattr(special, name), np.array([0.3, 0.45, 0.8]), second=name != "j0")


@pytest.mark.parametrize("name", ["xlogy", "xlog1py", "betaln", "rel_entr"])
def test_functions_of_scipy_special_with_two_arguments(name: str) -> None:
    check_rule(getattr(special, name), np.array([0.3, 1.2]), np.array([0.8, 0.5]), wrt=(0, 1), second=True)


def test_sums_of_exponentials_on_every_engine() -> None:
    for mine, theirs in ((gm.ops.logsumexp, special.logsumexp), (gm.ops.softmax, special.softmax)):
        for axis in (None, 0, 1):
            x = np.array([[1.0, -800.0, 2.0], [900.0, 899.0, -np.inf]])
            np.testing.assert_allclose(mine(x, axis=axis), theirs(x, axis=axis), rtol=1e-14)


@pytest.mark.parametrize("engine", ["forward", "complex", "jax", "jax-forward"])
@pytest.mark.parametrize("columns", [0, 2])
def test_sparse_matrices_by_spmatmul(engine: str, columns: int) -> None:
    dense = np.array([[1.0, 0, 2], [0, 0, 3]])
    x = X if not columns else np.stack([X, X**2], axis=1)
    slope = gm.jacobian(lambda x, A: gm.ops.spmatmul(A, x * x), x, csr_array(dense), backend=engine)
    expected = gm.jacobian(lambda x: dense @ (x * x), x, backend="forward")
    np.testing.assert_allclose(slope, expected, rtol=1e-13)


def test_the_product_rule_can_be_switched_off() -> None:
    D = np.random.default_rng(0).standard_normal((50, 3))
    f = lambda x: D.T @ np.exp(x)  # noqa: E731
    x = np.linspace(-1, 1, 50)
    with_rule = gm.jacobian(f, x, backend="forward")
    without = gm.jacobian(f, x, backend=gm.ForwardDual(product_rule=False))
    np.testing.assert_allclose(with_rule, without, rtol=1e-13)


# --- defects of peers ------------------------------------------------------------------------------------------


def test_ragged_sums_by_reduceat() -> None:  # fail in autograd, dualpy, advect
    check_rule(lambda x: np.add.reduceat(x * x, [0, 2]), X, second=True)


def test_nested_derivatives() -> None:  # wrong in dualpy
    second = gm.derivative(lambda x: gm.derivative(lambda y: y**4, x), 2.0)
    assert second == 48.0


def test_central_differences_keep_their_digits() -> None:  # step eps^(1/2) loses four digits in optimagic
    slope = gm.derivative(np.exp, 1.0, backend="fd-central")
    assert abs(slope / np.e - 1.0) < 1e-9
