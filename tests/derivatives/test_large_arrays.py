"""What is done otherwise for long arrays gives what is done for short ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gmmest as gm
from gmmest.derivatives.rules.ragged import LONG

RNG = np.random.default_rng(11)
SIZES = RNG.integers(1, 9, size=900)
OFFSETS = np.concatenate([[0], np.cumsum(SIZES)])
N = int(OFFSETS[-1])
X = RNG.normal(size=(N, 4))
D = RNG.normal(size=(N, 6))
THETA = np.array([0.3, -0.2, 0.5, 0.1])


def moments(theta: Any, X: Any, D: Any, offsets: Any) -> Any:
    return D.T @ gm.ops.segment_softmax(X @ theta, offsets)


def test_the_sample_is_long() -> None:
    assert N >= LONG


@pytest.mark.parametrize("chunk", [None, 1, 3, 4])
def test_shares_of_long_arrays(chunk: int | None) -> None:
    """Chunks of all parameters start from the identity, smaller ones do not; complex steps share nothing."""
    exact = gm.jacobian(moments, THETA, X, D, OFFSETS, backend="complex")
    found = gm.jacobian(moments, THETA, X, D, OFFSETS, backend=gm.ForwardDual(chunk=chunk))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


def test_empty_segments_among_long_arrays() -> None:
    offsets = np.sort(np.concatenate([OFFSETS, OFFSETS[5:300:7]]))
    assert (np.diff(offsets) == 0).any()
    with_empty = gm.jacobian(moments, THETA, X, D, offsets, backend="forward")
    without = gm.jacobian(moments, THETA, X, D, OFFSETS, backend="forward")
    np.testing.assert_allclose(with_empty, without, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.__setitem__(0, 2.0 * t[1]),
        lambda t: t[1:3].__setitem__(0, t[3] ** 2),
        lambda t: t.__iadd__(t[::-1].copy()),
        lambda t: t[:2].__imul__(3.0),
    ],
    ids=["an entry", "an entry of a view", "all", "a view"],
)
def test_parameters_that_were_written_into_are_no_identity_any_more(change: Any) -> None:
    def f(theta: Any) -> Any:
        change(theta)
        return X @ theta

    def g(theta: Any) -> Any:
        copied = theta.copy()
        change(copied)
        return X @ (1.0 * copied)

    exact = gm.jacobian(g, THETA, backend="complex")
    assert not np.allclose(exact, X)
    np.testing.assert_allclose(gm.jacobian(f, THETA, backend="forward"), exact, rtol=1e-12, atol=1e-12)


def test_other_directions_are_no_identity() -> None:
    """A directional derivative has one partial; a Hessian has dual numbers in its partials."""
    t = np.array([1.0, -2.0, 0.5, 0.0])
    np.testing.assert_allclose(
        gm.jvp(lambda b: X @ b, THETA, tangent=t, backend="forward"), X @ t, rtol=1e-12
    )
    second = gm.hessian(lambda b: np.sum((X @ b) ** 2), THETA, backend="forward")
    np.testing.assert_allclose(second, 2.0 * X.T @ X, rtol=1e-11)
    one = gm.jacobian(lambda b: X[:, :1] @ b, np.array([2.0]), backend="forward")
    np.testing.assert_array_equal(one, X[:, :1])
