"""Every scenario on every backend: exact ones to rounding, differences to what they can do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gmmest as gm
from gmmest.testing import SCENARIOS, Scenario, check_derivative, check_rule, scenario

CASES = [pytest.param(s, e, id=f"{s.name}-{e}") for s in SCENARIOS for e in s.engines() if e != "forward"]


@pytest.mark.parametrize("case", SCENARIOS, ids=lambda s: s.name)
def test_forward_agrees_with_differences(case: Scenario) -> None:
    against = ("fd-central",) if case.smooth else ("jax",)
    check_derivative(case.function, *case.args, wrt=case.wrt, backend="forward", against=against)


@pytest.mark.parametrize(("case", "engine"), CASES)
def test_exact_engines_agree_to_rounding(case: Scenario, engine: str) -> None:
    check_derivative(case.function, *case.args, wrt=case.wrt, backend=engine, against=("forward",))


@pytest.mark.parametrize("case", [s for s in SCENARIOS if s.smooth], ids=lambda s: s.name)
def test_chunks_of_one_change_nothing(case: Scenario) -> None:
    whole = gm.jacobian(case.function, *case.args, wrt=case.wrt, backend="forward")
    single = gm.jacobian(case.function, *case.args, wrt=case.wrt, backend=gm.ForwardDual(chunk=1))
    for key in whole if isinstance(whole, dict) else [None]:
        a, b = (whole, single) if key is None else (whole[key], single[key])
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-13)


SMALL = [s for s in SCENARIOS if s.smooth and sum(np.size(a) for a in s.args if np.ndim(a)) <= 40]


@pytest.mark.parametrize("case", SMALL, ids=lambda s: s.name)
def test_nested_duals_agree_with_differences_of_gradients(case: Scenario) -> None:
    if np.asarray(case.function(*case.args)).size:
        check_rule(case.function, *case.args, wrt=case.wrt, second=True)


def test_the_moment_function_agrees_on_all_engines() -> None:
    case = scenario("moments: branch, softmax, solve")
    exact = gm.jacobian(case.function, *case.args, backend="forward")
    for backend, tolerance in (
        ("complex", 1e-10),
        ("jax", 1e-10),
        ("jax-forward", 1e-10),
        ("fd-central", 1e-6),
    ):
        np.testing.assert_allclose(
            gm.jacobian(case.function, *case.args, backend=backend), exact, rtol=tolerance, atol=tolerance
        )


# --- shapes that nobody thought of ------------------------------------------------------------------------

floats = st.floats(-2.0, 2.0, allow_nan=False).map(lambda v: round(v, 3))


@settings(max_examples=60, deadline=None)
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0), data=st.data()
)
def test_broadcasting_of_any_two_shapes(shapes: hnp.BroadcastableShapes, data: st.DataObject) -> None:
    a, b = (data.draw(hnp.arrays(np.float64, shape, elements=floats)) for shape in shapes.input_shapes)

    def f(x, y):  # type: ignore[no-untyped-def]
        return (x + y) * y / (5.0 + x * y) - np.where(x > y, x * x, y - x)

    by_duals = gm.jacobian(f, a, b, wrt=(0, 1), backend="forward")
    by_steps = gm.jacobian(f, a, b, wrt=(0, 1), backend="complex") if not np.any(a == b) else by_duals
    for key in (0, 1):
        assert by_duals[key].shape == (*shapes.result_shape, *(a, b)[key].shape)
    gaps = _where_different(a, b)
    if gaps:
        for key in (0, 1):
            np.testing.assert_allclose(by_duals[key], by_steps[key], rtol=1e-12, atol=1e-12)


def _where_different(a: np.ndarray, b: np.ndarray) -> bool:
    # complex numbers are compared by real part first: the sides of where agree unless there are ties
    return not np.any(np.equal(*np.broadcast_arrays(a, b)))


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(
        np.float64, hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4), elements=floats
    ),
    data=st.data(),
)
def test_reductions_and_indexing_of_any_shape(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.one_of(st.none(), st.integers(-x.ndim, x.ndim - 1)))
    index = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True))

    def f(v):  # type: ignore[no-untyped-def]
        return np.sum(v * v, axis=axis, keepdims=True) + np.mean(v, axis=axis, keepdims=True) * v

    for g in (f, lambda v: v[index] * 2.0, lambda v: np.cumsum(v, axis=axis)):
        np.testing.assert_allclose(
            gm.jacobian(g, x, backend="forward"), gm.jacobian(g, x, backend="complex"), rtol=1e-12, atol=1e-12
        )


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    columns=st.integers(0, 2),
    seed=st.integers(0, 9),
)
def test_ragged_primitives_with_empty_segments_and_trailing_axes(
    counts: list[int], columns: int, seed: int
) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    shape = (int(offsets[-1]), columns + 1) if columns else (int(offsets[-1]),)
    u = np.random.default_rng(seed).standard_normal(shape)
    for op in (gm.ops.segment_sum, gm.ops.segment_softmax, gm.ops.segment_max, gm.ops.segment_logsumexp):
        value, slope = gm.value_and_jacobian(op, u, offsets, backend="forward")
        # sums of either sign may cancel to next to nothing
        np.testing.assert_allclose(value, op(u, offsets), rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(
            slope, gm.jacobian(op, u, offsets, backend="complex"), rtol=1e-12, atol=1e-13
        )


@settings(max_examples=40, deadline=None)
@given(
    left=st.integers(1, 3),
    right=st.integers(1, 3),
    side=st.integers(1, 3),
    batch=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_matmul_of_any_dimensions(left: int, right: int, side: int, batch: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    a = random.standard_normal((batch, 2, side)[3 - left :])
    b = random.standard_normal((batch, side, 2)[3 - right :] if right > 1 else (side,))
    for wrt in (0, 1, (0, 1)):
        check_derivative(np.matmul, a, b, wrt=wrt, backend="forward", against=("complex",))
