"""Blocks are mapped in order, sums folded by pairs, and BLAS is given its threads back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmest.execution.serial import Serial, fold, single_blas_thread


class Trace:
    """A sum that remembers its brackets."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __add__(self, other: Trace) -> Trace:
        return Trace(f"({self.text}{other.text})")


@pytest.mark.parametrize(
    ("letters", "brackets"),
    [
        ("a", "a"),
        ("ab", "(ab)"),
        ("abc", "((ab)c)"),
        ("abcd", "((ab)(cd))"),
        ("abcde", "(((ab)(cd))e)"),
        ("abcdefg", "(((ab)(cd))((ef)g))"),
    ],
)
def test_fold_adds_by_pairs_in_order(letters, brackets):
    assert fold([Trace(letter) for letter in letters]).text == brackets


@given(st.integers(1, 300))
def test_fold_uses_every_part_once_in_order_and_stays_shallow(count):
    text = fold([Trace(f"{i} ") for i in range(count)]).text
    assert text.replace("(", "").replace(")", "").split() == [str(i) for i in range(count)]
    depth, deepest = 0, 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        deepest = max(deepest, depth)
    assert deepest == (math.ceil(math.log2(count)) if count > 1 else 0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_fold_is_a_sum_to_rounding(values):
    size = sum(abs(v) for v in values)
    assert abs(fold(values) - math.fsum(values)) <= 10 * np.finfo(float).eps * size  # log2(200) roundings


def test_fold_leaves_its_parts_alone():
    parts = [np.ones(3), np.ones(3), np.ones(3)]
    fold(parts)
    assert len(parts) == 3
    for part in parts:
        np.testing.assert_array_equal(part, np.ones(3))


def test_serial_maps_in_order_one_after_another():
    seen = []

    def square(x):
        seen.append(x)
        return x * x

    assert Serial().map(square, [3, 1, 2]) == [9, 1, 4]
    assert seen == [3, 1, 2]
    assert Serial().map(square, []) == []


def test_serial_lets_an_exception_through_at_once():
    def fail(x):
        if x == 1:
            raise KeyError("here")
        return x

    with pytest.raises(KeyError, match="here"):
        Serial().map(fail, [0, 1, 2])


def _blas_threads():
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_has_one_thread_inside_and_its_own_number_after():
    before = _blas_threads()
    assert before, "the premise: NumPy's BLAS is seen"
    with single_blas_thread():
        assert set(_blas_threads()) == {1}
        with single_blas_thread():
            assert set(_blas_threads()) == {1}
        assert set(_blas_threads()) == {1}
    assert _blas_threads() == before


def test_blas_has_its_threads_back_after_an_exception():
    before = _blas_threads()
    with pytest.raises(ZeroDivisionError), single_blas_thread():
        raise ZeroDivisionError
    assert _blas_threads() == before


def test_a_fit_changes_no_setting_of_numpy_or_blas(travel_data, greene):
    import jax

    from gmmest.gmm.estimator import GMMEstimator

    before = (_blas_threads(), np.geterr(), jax.config.jax_enable_x64)
    GMMEstimator(greene, travel_data(), grad="jax").fit()
    assert (_blas_threads(), np.geterr(), jax.config.jax_enable_x64) == before
