"""Sums in machine code: those of NumPy to rounding, from every shape; nothing read beyond the arrays."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmest.data.block import Block
from gmmest.data.choice_data import ChoiceData
from gmmest.derivatives import ops
from gmmest.execution.threads import Threads
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models import score_kernel
from gmmest.models.logit import Logit
from gmmest.models.score_kernel import layout_of, score_sums, serves
from gmmest.models.shares import share_sums

ROUNDING = 1e-13  # of sums of some hundred terms in another order, relative to the largest entry


def drawn(seed, sizes, columns, weighted=False, counted=False, level=0.0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    X = rng.normal(size=(offsets[-1], columns)) + level
    chosen = np.zeros(offsets[-1])
    chosen[offsets[:-1] + rng.integers(0, sizes)] = 1.0
    count = rng.integers(1, 5, size=len(sizes)).astype(float) if counted else None
    mass = rng.uniform(0.1, 3.0, size=len(sizes)) if weighted else None
    if counted:
        mass = count if mass is None else mass * count
    spread = [None if each is None else np.repeat(each, sizes) for each in (mass, count)]
    return Block(X, X, chosen, offsets, *spread), rng.normal(size=columns) * 0.5


def by_numpy(theta, block):
    return share_sums(ops.segment_softmax(block.features @ theta, block.offsets), block, square=True)


def assert_same(ours, theirs, scale=ROUNDING):
    for name in ("moments", "jacobian", "square"):
        one, other = getattr(ours, name), getattr(theirs, name)
        # a sum of moments cancels: what rounds are its terms, whose squares stand on the diagonal of S
        size = np.abs(other).max() if name != "moments" else np.sqrt(np.trace(theirs.square) * theirs.count)
        assert np.allclose(one, other, rtol=0, atol=scale * size), name
    assert ours.count == theirs.count


@pytest.mark.parametrize("columns", [*range(1, 10), 12, 13, 20, 33, score_kernel.WIDEST])
@pytest.mark.parametrize(
    ("weighted", "counted"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_sums_are_those_of_numpy(columns, weighted, counted):
    room = layout_of(columns).rows
    sizes = np.random.default_rng(columns).integers(1, 24, size=3 * room // 8)
    assert sizes.sum() > 3 * room  # the premise: several fillings of the room for rows
    block, theta = drawn(1, sizes, columns, weighted, counted)
    assert_same(score_sums(theta, block, square=True), by_numpy(theta, block))


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, layout_of(5).rows), min_size=1, max_size=60),
    st.booleans(),
)
def test_any_sizes_of_sets(seed, sizes, weighted):
    block, theta = drawn(seed, np.array(sizes), 5, weighted)
    assert_same(score_sums(theta, block, square=True), by_numpy(theta, block))


def test_more_sets_than_there_is_room_for_means():
    columns = 3
    block, theta = drawn(4, np.full(5 * layout_of(columns).rows, 1), columns)
    sums = score_sums(theta, block, square=True)
    assert np.all(sums.moments == 0)  # one alternative carries no information
    assert np.all(sums.jacobian == 0)
    assert np.all(sums.square == 0)
    block, theta = drawn(4, np.full(5 * layout_of(columns).rows, 2), columns)
    assert_same(score_sums(theta, block, square=True), by_numpy(theta, block))


def test_squares_only_where_they_are_asked_for():
    block, theta = drawn(2, np.full(40, 5), 4)
    with_, without = score_sums(theta, block, square=True), score_sums(theta, block, square=False)
    assert without.square is None
    assert np.array_equal(with_.jacobian, without.jacobian)
    assert np.array_equal(with_.moments, without.moments)


def test_the_jacobian_is_symmetric_and_positive():
    block, theta = drawn(3, np.full(60, 4), 7)
    sums = score_sums(theta, block, square=True)
    for matrix in (sums.jacobian, sums.square):
        assert np.array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix)[0] > 0


def test_a_large_constant_within_sets_costs_no_digits_of_the_jacobian():
    low, _ = drawn(5, np.full(50, 6), 3)
    grain = np.round(low.features * 2.0**20) / 2.0**20
    level = np.repeat(np.round(np.random.default_rng(0).normal(size=50) * 2.0**26), 6)
    high = grain + level[:, None]
    assert np.array_equal(high - level[:, None], grain)  # the constants are exact
    slopes = np.array([0.5, -1.0, 0.5])  # utilities do not see them
    small, large = (
        score_sums(slopes, replace(low, features=X, instruments=X), square=False).jacobian
        for X in (grain, high)
    )
    assert np.allclose(small, large, rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [1.0, 30.0, 300.0, 800.0, 1e4, 1e150, 1e300])
def test_utilities_of_any_size(size):
    block, theta = drawn(6, np.full(30, 5), 2)
    ours, theirs = score_sums(theta * size, block, True), by_numpy(theta * size, block)
    assert_same(
        ours, theirs, scale=1e-13 * max(1.0, min(size, 1e3))
    )  # u is rounded before it is exponentiated


def test_shares_are_exact_to_rounding_over_the_range_of_exp():
    rise = np.linspace(0.0, 700.0, 3001)
    X = np.stack([np.zeros_like(rise), -rise], axis=1).reshape(-1, 1)
    one = np.ones(1)
    for a, drop in list(zip(range(0, 6002, 2), rise, strict=True))[::100]:
        block = Block(X[a : a + 2], X[a : a + 2], np.array([1.0, 0.0]), np.array([0, 2]))
        share = np.exp(-drop) / (1.0 + np.exp(-drop))
        moment = score_sums(one, block, square=False).moments[0]
        assert np.isclose(moment, -drop * share, rtol=4e-16 * 4, atol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_not_hidden(bad):
    block, theta = drawn(7, np.full(30, 5), 3)
    theta[1] = bad
    assert not np.isfinite(score_sums(theta, block, square=False).moments).any()


def test_which_blocks_it_serves(monkeypatch):
    monkeypatch.setattr(score_kernel, "WORTH", 60)
    block, theta = drawn(8, np.full(10, 5), 2)
    assert serves(theta, block)
    assert not serves(theta, drawn(8, np.full(5, 5), 2)[0])  # too little
    assert not serves(theta, replace(block, instruments=block.features.copy()))  # other instruments
    assert not serves(theta, replace(block, chosen=np.zeros(50)))  # nothing observed
    single = block.features.astype(np.float32)
    assert not serves(theta, replace(block, features=single, instruments=single))  # promoted first
    columns = np.asfortranarray(block.features)
    assert not serves(theta, replace(block, features=columns, instruments=columns))
    assert not serves(np.zeros(65), drawn(8, np.full(10, 5), score_kernel.WIDEST + 1)[0])
    crowd = layout_of(2).rows
    assert serves(theta, drawn(8, np.array([crowd, 2]), 2)[0])
    assert not serves(theta, drawn(8, np.array([crowd + 1, 2]), 2)[0])


def test_fits_have_the_same_digits_with_it_and_the_same_bits_on_any_number_of_threads(monkeypatch):
    rng = np.random.default_rng(9)
    sizes = rng.integers(2, 9, size=9_000)
    block, theta = drawn(9, sizes, 25)
    u = block.features @ theta + rng.gumbel(size=block.n_rows)
    chosen = np.zeros(block.n_rows)
    chosen[[a + np.argmax(u[a:b]) for a, b in itertools.pairwise(block.offsets)]] = 1.0
    data = ChoiceData.from_arrays(features=block.features, chosen=chosen, offsets=block.offsets)
    sample = Logit().sample(data)
    assert len(sample.blocks) > 1
    assert all(serves(theta, each) for each in sample.blocks)
    fits = [GMMEstimator(Logit(), data, executor=Threads(k)).fit() for k in (1, 2, 3)]
    for fit in fits:
        assert fit.verified
        assert fit.theta.tobytes() == fits[0].theta.tobytes()
        assert np.asarray(fit.cov_params()).tobytes() == np.asarray(fits[0].cov_params()).tobytes()
    monkeypatch.setattr(score_kernel, "WORTH", 2**60)
    plain = GMMEstimator(Logit(), data).fit()
    assert np.allclose(plain.theta, fits[0].theta, rtol=1e-12)
    assert np.allclose(plain.bse, fits[0].bse, rtol=1e-12)


GUARDED = """
import ctypes, mmap
import numpy as np
from gmmest.data.block import Block
from gmmest.models.score_kernel import score_sums

libc, page = ctypes.CDLL(None), mmap.PAGESIZE

def at_the_end(values):
    pages = -(-values.nbytes // page)
    area = mmap.mmap(-1, (pages + 1) * page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert libc.mprotect(ctypes.c_void_p(begin + pages * page), page, 0) == 0  # neither read nor written
    copy = np.frombuffer(area, values.dtype, values.size, pages * page - values.nbytes).reshape(values.shape)
    copy[...] = values
    return copy

for columns in (1, 3, 4, 5, 20):
    for last in (1, 2, 5, 8):
        rng = np.random.default_rng(last)
        sizes = np.array([*rng.integers(1, 9, size=70), last])
        offsets = at_the_end(np.concatenate([[0], np.cumsum(sizes)]))
        X = at_the_end(rng.normal(size=(offsets[-1], columns)))
        chosen = np.zeros(len(X))
        chosen[offsets[:-1]] = 1.0
        block = Block(X, X, at_the_end(chosen), offsets)
        sums = score_sums(at_the_end(np.full(columns, 0.3)), block, square=True)
        assert np.isfinite(sums.square).all()
print("read within", {})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected as Linux does it")
@pytest.mark.parametrize("stray", [False, True])
def test_nothing_beyond_the_arrays_is_read(stray):
    """Their last number is the last of a page, and the next page may not be touched."""
    ending = "\nat_the_end(np.zeros(4)).ctypes.data\nctypes.string_at(begin_of_guard := X.ctypes.data + X.nbytes, 1)"
    code = GUARDED + (ending if stray else "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "read within" in done.stdout, done.stderr
    assert (done.returncode != 0) == stray  # the premise: what strays is killed
