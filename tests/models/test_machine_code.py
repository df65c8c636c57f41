"""A few words over LLVM: what each says is what NumPy computes."""

from __future__ import annotations

import numpy as np
import pytest

from gmmest.models.machine_code import Program, Variable


def compiled(write, *kinds):
    program = Program("test")
    function = program.function("test", *kinds)
    write(function, *function.arguments)
    function.end()
    run = program.compile("test")
    return lambda *given: run(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in given))


@pytest.mark.parametrize(
    ("say", "computes"),
    [
        (lambda x, y: x + y, lambda x, y: x + y),
        (lambda x, y: x - y, lambda x, y: x - y),
        (lambda x, y: x * y, lambda x, y: x * y),
        (lambda x, y: x / y, lambda x, y: x / y),
        (lambda x, y: x * 0.5 + 2, lambda x, _: x * 0.5 + 2),
        (lambda x, y: (x > y).choose(x, y), np.maximum),
        (lambda x, y: (x < 1.0).choose(7.0, y), lambda x, y: np.where(x < 1.0, 7.0, y)),
        (lambda x, y: (x * x).sqrt() + y, lambda x, y: np.abs(x) + y),
        (lambda x, y: x.bits().double() + y, lambda x, y: x + y),
    ],
)
@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_operators_act_on_each_lane(say, computes, lanes):
    rng = np.random.default_rng(lanes)
    x, y, out = rng.normal(size=24) * 2, rng.normal(size=24), np.empty(24)

    def write(f, n, a, b, c):
        with f.loop(0, n, lanes) as i:
            c.store(say(a.load(i, lanes), b.load(i, lanes)), i)

    compiled(write, "count", "doubles", "doubles", "doubles")(24, x, y, out)
    assert np.array_equal(out, computes(x, y))


def test_a_product_and_a_sum_are_rounded_once():
    x = 1.0 + 2.0**-30
    numbers, out = np.array([x, x, -1.0 - 2.0**-29]), np.zeros(1)
    assert x * x + numbers[2] == 0.0  # twice: the last bit is lost

    def write(f, a, c):
        c.store(a.load(0).times_plus(a.load(1), a.load(2)))

    compiled(write, "doubles", "doubles")(numbers, out)
    assert out[0] == 2.0**-60


def test_shuffles_take_lanes_of_both():
    out = np.zeros(4)

    def write(f, a, c):
        c.store(a.load(0, 4).shuffle(a.load(4, 4), (0, 5, 2, 7)))

    compiled(write, "doubles", "doubles")(np.arange(8.0), out)
    assert out.tolist() == [0.0, 5.0, 2.0, 7.0]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_first_lanes_alone(n):
    out = np.full(4, np.nan)

    def write(f, a, c):
        c.store(a.load_first(n, 0, 4))

    compiled(write, "doubles", "doubles")(np.array([1.0, 2.0, 3.0, 4.0]), out)
    assert out.tolist() == [1.0, 2.0, 3.0, 4.0][:n] + [0.0] * (4 - n)


def test_loops_variables_and_conditions():
    offsets, out = np.array([0, 3, 3, 7]), np.zeros(3)

    def write(f, n, at, c):
        with f.loop(0, n) as i:
            total, j = Variable(f.double(0.0)), Variable(at.load(i))
            with f.loop_while(lambda: j.get() < at.load(i + 1)):
                total.set(total.get() + 1.0)
                j.set(j.get() + 1)
            c.store(total.get(), i)
            with f.when(total.get() > 3.5):
                c.store(-1.0, i)

    compiled(write, "count", "integers", "doubles")(3, offsets, out)
    assert out.tolist() == [3.0, 0.0, -1.0]


def test_one_function_calls_another():
    program = Program("test")
    twice = program.function("twice", "doubles", "count")
    x, at = twice.arguments
    x.store(x.load(at) * 2.0, at)
    twice.end()
    both = program.function("both", "doubles")
    (y,) = both.arguments
    both.call(twice, y, 0)
    both.call(twice, y.at(1), both.integer(1))
    both.end()
    numbers = np.array([1.0, 2.0, 3.0])
    program.compile("both")(numbers.ctypes.data)
    assert numbers.tolist() == [2.0, 2.0, 6.0]
