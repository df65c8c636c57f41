"""What must fail loudly, in the user's words: text, file and line, and what to do instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import special
from scipy.sparse import csr_array

import gmmest as gm

X = np.array([1.0, 2.0, 3.0])


def message(f: Any, *args: Any, backend: Any = "forward", **options: Any) -> str:
    with pytest.raises(gm.DerivativeError) as caught:
        gm.jacobian(f, *(args or (X,)), backend=backend, **options)
    return str(caught.value)


def test_unsupported_functions_say_what_is_supported_and_how_to_add_a_rule() -> None:
    text = message(lambda x: np.linalg.eigh(np.outer(x, x))[0])
    assert text.startswith("E601 np.linalg.eigh has no rule for dual numbers")
    assert __file__ in text
    assert "@gmmest.primitive" in text
    assert "def_jvp" in text
    assert "logaddexp" in text


@pytest.mark.parametrize(
    ("f", "text"),
    [
        (lambda x: np.sum(x, where=x > 1), "np.sum(where=...)"),
        (lambda x: np.exp(x, where=x > 1), "np.exp(where=...)"),
        (lambda x: np.sum(x, initial=2.0), "np.sum(initial=...)"),
        (lambda x: np.sum(x, dtype=np.float32), "np.sum(dtype=float32)"),
        (lambda x: np.reshape(x, (3, 1), order="F"), "np.reshape(order='F')"),
        (lambda x: np.pad(x, 1, mode="mean"), "np.pad(mode='mean')"),
        (lambda x: np.linalg.norm(np.outer(x, x), 2), "np.linalg.norm(ord=2)"),
        (lambda x: np.concatenate([x, x], casting="unsafe"), "np.concatenate(casting=...)"),
        (lambda x: np.maximum.reduceat(x, [0, 1]), "np.maximum.reduceat"),
        (lambda x: np.spacing(x), "np.spacing"),
        (lambda x: np.unique(x), "np.unique"),
        (lambda x: x.partition(1), ".partition"),
        (lambda x: special.jv(1, x), "scipy.special.jv"),
    ],
)
def test_half_supported_calls_are_refused_by_name(f: Any, text: str) -> None:
    found = message(f)
    assert found.startswith("E601 ")
    assert text in found
    assert __file__ in found


@pytest.mark.parametrize("backend", ["forward", "jax"])
@pytest.mark.parametrize(
    ("f", "advice"),
    [
        (lambda x: np.ones((2, 3)).dot(x), "np.matmul or @"),
        (lambda x: np.array([x.sum(), 1.0]), "np.stack"),
        (lambda x: csr_array(np.eye(3)) @ x, "gmmest.ops.spmatmul"),
        (special.logsumexp, "gmmest.ops.logsumexp instead of scipy.special.logsumexp"),
        (special.softmax, "gmmest.ops.softmax"),
        (special.log_softmax, "gmmest.ops.log_softmax"),
    ],
)
def test_conversions_to_plain_arrays_are_refused(f: Any, advice: str, backend: str) -> None:
    text = message(f, backend=backend)
    assert text.startswith("E602 ")
    assert advice in text


@pytest.mark.parametrize("backend", ["forward", "jax"])
def test_writing_into_a_plain_array_is_refused(backend: str) -> None:
    def fill(x: Any) -> Any:
        out = np.zeros(3)
        out[0] = x[0]
        return out

    def add(x: Any) -> Any:
        out = np.zeros(3)
        out += x
        return out

    assert "np.zeros_like" in message(fill, backend=backend) or backend == "jax"
    assert message(fill, backend=backend)[:4] in ("E605", "E608")
    text = message(add, backend=backend)
    assert text.startswith("E604 ")
    assert "np.zeros_like" in text


@pytest.mark.parametrize(
    ("f", "what"),
    [
        (lambda x: float(x[0]), "float(x)"),
        (lambda x: int(x[0]), "int(x)"),
        (lambda x: math.exp(x[0]), "float(x)"),
        (lambda x: x[0].item(), "x.item()"),
        (lambda x: x.tolist(), "x.tolist()"),
        (lambda x: x.astype(np.float32), "x.astype(float32)"),
    ],
)
def test_conversions_to_python_numbers_are_refused(f: Any, what: str) -> None:
    text = message(f)
    assert text.startswith(f"E605 {what} would drop the derivatives")
    assert __file__ in text


def test_leaked_duals_raise() -> None:
    kept = []
    gm.jacobian(lambda x: kept.append(x) or x, X, backend="forward")
    (leaked,) = kept
    for use in (
        lambda: leaked + 1.0, lambda: np.exp(leaked), lambda: leaked[0], lambda: leaked.sum(), lambda: 1.0 * leaked,
        lambda: bool(leaked[0]), lambda: leaked.copy(), lambda: np.stack([leaked, leaked]),
    ):  # fmt: skip
        with pytest.raises(gm.DerivativeError, match=r"E603 .*outlived") as caught:
            use()
        assert __file__ in str(caught.value)
    assert "leaked" in repr(leaked)


def test_results_that_are_not_arrays_are_refused() -> None:
    for backend in ("forward", "fd", "complex", "jax"):
        text = message(lambda x: (x, x), backend=backend)
        assert text.startswith("E606 the function returned a tuple")


def test_arguments_that_cannot_be_active() -> None:
    assert "E610 wrt='b'; the arguments given are a" in message(lambda a: a, wrt="b")
    assert "E610 wrt=3; 1 arguments were given" in message(lambda a: a, wrt=3)
    assert "E610 wrt=(0, 'a')" in message(lambda a: a, wrt=(0, "a"))
    assert "E610 argument 0 is str" in message(lambda a: a, "abc")
    assert "E610 argument 0 is NoneType" in message(lambda a: a, None)
    assert "real numbers were expected" in message(lambda a: a, 1j * X)


def test_operators_say_what_they_take() -> None:
    with pytest.raises(gm.DerivativeError, match=r"E611 .* shape \(3,\)"):
        gm.gradient(lambda x: x, X)
    with pytest.raises(gm.DerivativeError, match="E612 derivative takes one active number"):
        gm.derivative(lambda x: x, X)
    with pytest.raises(gm.DerivativeError, match=r"E613 tangent has shape \(2,\); \(3,\) was expected"):
        gm.jvp(lambda x: x, X, tangent=np.ones(2))
    with pytest.raises(
        gm.DerivativeError, match=r"E613 the tangent must be a dict with the keys \['a', 'b'\]"
    ):
        gm.jvp(lambda a, b: a * b, X, X, wrt=("a", "b"), tangent=X)
    with pytest.raises(gm.DerivativeError, match=r"E613 cotangent has shape \(2,\)"):
        gm.vjp(lambda x: x, X, cotangent=np.ones(2))
    with pytest.raises(gm.DerivativeError, match=r"E615 .* is not an operator"):
        gm.prepare(np.sin, lambda x: x, X)


def test_jax_refuses_branches_on_the_active_argument_and_says_where() -> None:
    text = message(lambda x: x if x[0] > 0 else -x, backend="jax")
    assert text.startswith(
        "E608 JAX cannot trace this function: a branch depends on the value of the active argument"
    )
    assert __file__ in text
    assert "backend 'forward', which follows branches" in text
    assert message(lambda x: x[x > 1], backend="jax").startswith("E608 ")
    assert "np.where" in message(lambda x: np.ones(3) * float(x[0]), backend="jax")


def test_offsets_that_do_not_fit_the_rows() -> None:
    for backend in ("forward", "fd", "complex", "jax"):
        with pytest.raises(gm.DataError, match="E320"):
            gm.jacobian(lambda u: gm.ops.segment_sum(u, [0, 2]), X, backend=backend)


def test_every_numpy_ufunc_has_a_rule_or_is_refused_on_purpose() -> None:
    from gmmest.derivatives.rules.table import RULES

    ufuncs = {u for u in vars(np).values() if isinstance(u, np.ufunc) and any("d" in t for t in u.types)}
    refused = {np.frexp, np.nextafter, np.spacing}
    assert {u.__name__ for u in ufuncs - set(RULES)} == {u.__name__ for u in refused}
