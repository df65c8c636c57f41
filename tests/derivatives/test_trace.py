"""Straight-line programs: the same numbers as eager duals, or no program at all."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gmmest as gm

D = np.round(np.random.default_rng(3).standard_normal((5, 3)), 3)
C = np.linspace(0.3, 1.1, 5)

STEPS = {
    "sin": lambda y, x, c: np.sin(y),
    "cos": lambda y, x, c: np.cos(y),
    "exp": lambda y, x, c: np.exp(0.1 * y),
    "tanh": lambda y, x, c: np.tanh(y),
    "square": lambda y, x, c: y**2,
    "cube": lambda y, x, c: 0.1 * y**3,
    "minus": lambda y, x, c: -y + c,
    "from": lambda y, x, c: c - y,
    "times constant": lambda y, x, c: y * c,
    "times itself": lambda y, x, c: y * y,
    "with x": lambda y, x, c: y * np.sum(x) + x[0],
    "over": lambda y, x, c: y / (3.0 + c * c),
    "under": lambda y, x, c: c / (4.0 + y * y),
    "log": lambda y, x, c: np.log(2.0 + y * y),
    "log1p": lambda y, x, c: np.log1p(y * y) + np.expm1(0.1 * y),
    "sqrt": lambda y, x, c: np.sqrt(1.0 + y * y),
    "reciprocal": lambda y, x, c: np.reciprocal(2.0 + y * y),
    "project": lambda y, x, c: y - (y @ c) / (c @ c) * c,
    "shares": lambda y, x, c: y / np.sum(1.0 + y * y),
    "mean": lambda y, x, c: y - y.mean() + np.mean(c),
    "reverse": lambda y, x, c: y[::-1] * 2.0,
    "norm": lambda y, x, c: y / np.sqrt(1.0 + y @ y),
    "matrix": lambda y, x, c: D @ (D.T @ y) * 0.1,
    "table": lambda y, x, c: (y[:, None] * D).sum(axis=1),
    "difference": lambda y, x, c: y - np.sum(y * c) * c,
}


@settings(max_examples=120, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5),
    k=st.integers(1, 3),
    total=st.booleans(),
)
def test_programs_give_what_eager_duals_give(names: list[str], k: int, total: bool) -> None:
    def f(x: Any, c: Any) -> Any:
        y = c * x[0] + (D[:, :k] @ x if k > 1 else x[0] * 0.5)
        for name in names:
            y = STEPS[name](y, x, c)
        return np.sum(y) if total else y

    example, x, c = np.full(k, 0.1), np.linspace(-0.4, 0.7, k), C[::-1].copy()
    prepared = gm.prepare(gm.value_and_jacobian, f, example, C, backend="forward")
    assert prepared.source
    for found, expected in zip(
        prepared(x, c), gm.value_and_jacobian(f, x, c, backend="forward"), strict=True
    ):
        assert np.shape(found) == np.shape(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, c: x * 2.0 if x > 0 else x,
        lambda x, c: x * c if c[0] > 0 else x - c,
        lambda x, c: np.where(c > 0, x, c),
        lambda x, c: x * float(c[0]),
        lambda x, c: np.maximum(x, c),
        lambda x, c: sum(x * v for v in c),
        lambda x, c: c * 2.0,
    ],
)
def test_what_depends_on_values_is_not_written_down(f: Any) -> None:
    prepared = gm.prepare(gm.jacobian, f, 0.5, C, backend="forward")
    assert prepared.source == ""
    for x, c in ((0.5, C), (-0.5, -C), (2.0, C - 0.5)):
        np.testing.assert_array_equal(prepared(x, c), gm.jacobian(f, x, c, backend="forward"))


def test_where_a_factor_is_infinite_eager_duals_take_over() -> None:
    f = lambda x, c: np.sqrt(x * c) + x  # noqa: E731
    prepared = gm.prepare(gm.jacobian, f, 2.0, C, backend="forward")
    assert prepared.source
    with_zero = np.array([0.0, 1.0, 4.0, 9.0, 16.0])
    np.testing.assert_allclose(prepared(1.0, with_zero), [1.0, 1.5, 2.0, 2.5, 3.0])
    scalar = gm.prepare(gm.derivative, lambda x: 1.0 / x + np.log(x), 2.0, backend="forward")
    with np.errstate(all="ignore"):
        expected = gm.derivative(lambda x: 1.0 / x + np.log(x), 0.0, backend="forward")
        np.testing.assert_array_equal(scalar(0.0), expected)


def test_results_share_no_memory_with_the_workspace_or_the_arguments() -> None:
    prepared = gm.prepare(gm.value_and_jacobian, lambda x, c: (x * c)[1:], 0.5, C, backend="forward")
    value, slope = prepared(0.5, C)
    kept = value.copy(), slope.copy()
    value[:] = slope[:] = 99.0
    again = prepared(0.5, C)
    for a, b in zip(again, kept, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.shares_memory(again[1], C)


def test_a_changed_captured_array_that_is_used_as_it_is_is_seen() -> None:
    captured = np.ones(3)
    prepared = gm.prepare(gm.jacobian, lambda x: x * captured, 2.0, backend="forward")
    captured *= 5.0
    np.testing.assert_array_equal(prepared(2.0), [5, 5, 5])


NAMES = re.compile(
    r"[a-z]{1,5}\d+(_\d+)?|[su]_[a-z]+\d*[a-z]*|make|run|np|inf|number|float|float64|one|half|r|q|None|errstate"
)
"""What an emitted program may be made of: numbered arrays, and functions of NumPy and math."""


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6), k=st.integers(1, 3))
def test_a_program_holds_no_text_of_the_user(names: list[str], k: int) -> None:
    """The emitter runs what it wrote: templates with numbers, no names, strings or imports of the function's."""

    def f(__import__: Any, eval: Any) -> Any:  # noqa: A002  names that would do harm, were they copied
        y = eval * __import__[0] + (D[:, :k] @ __import__ if k > 1 else __import__[0] * 0.5)
        for name in names:
            y = STEPS[name](y, __import__, eval)
        return y

    source = gm.prepare(gm.value_and_jacobian, f, np.full(k, 0.1), C, backend="forward").source
    assert source
    functions = {f.__name__ for f in vars(math).values() if callable(f)} | {n for n in dir(np) if n[0] != "_"}
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, (ast.Import, ast.ImportFrom, ast.Lambda, ast.ClassDef, ast.Global))
        if isinstance(node, ast.Name):
            assert NAMES.fullmatch(node.id) or node.id in functions or node.id in ("np_sin", "np_cos"), (
                node.id
            )
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
        if isinstance(node, ast.Constant):
            assert (
                node.value is None
                or node.value is Ellipsis
                or isinstance(node.value, (int, float))
                or (node.value in ("C", "ignore"))
            )
