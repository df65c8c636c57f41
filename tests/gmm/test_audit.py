"""Engines against each other: a Jacobian that is wrong in one entry is found, and named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

import gmmest as gm
from gmmest.gmm.audit import DIFFERENCE_LIMIT, EXACT_LIMIT, audit
from gmmest.gmm.compare import compare


@dataclass(frozen=True)
class Lying:
    """The analytic Jacobian, off by a part in a million of its column in one entry."""

    name: ClassVar[str] = "lying"
    exact: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    moment: int = 5
    parameter: int = 3
    by: float = 1e-6

    def prepare(self, function):
        honest = gm.Analytic().prepare(function)
        lie = self

        class Prepared:
            name = "lying"
            value_and_vjp = staticmethod(honest.value_and_vjp)

            @staticmethod
            def value_and_jacobian(x, *constants):
                value, jacobian = honest.value_and_jacobian(x, *constants)
                jacobian = jacobian.copy()
                jacobian[lie.moment, lie.parameter] += lie.by * np.abs(jacobian[:, lie.parameter]).max()
                return value, jacobian

        return Prepared()


@pytest.fixture(scope="module")
def over(travel_data, greene):
    model = gm.Logit(greene.utility, instruments=[*greene.utility, gm.Term("invc"), gm.Term("invt")])
    return gm.GMMEstimator(model, travel_data())


@pytest.fixture(scope="module")
def fit(over):
    fit = over.fit()
    assert fit.verified
    return fit


def test_honest_engines_agree_at_start_and_estimate(fit):
    outcome = fit.check_derivatives(
        "analytic", "forward", "jax", "jax-forward", "complex", "fd", "fd-central"
    )
    assert outcome.passed
    assert outcome.reference == "complex"
    assert {row.place for row in outcome.rows} == {"start", "estimate"}
    assert len(outcome.rows) == 14
    for row in outcome.rows:
        assert row.limit == (DIFFERENCE_LIMIT if row.grad.startswith("fd") else EXACT_LIMIT)
        assert (row.error > 1e-12) == row.grad.startswith("fd"), row
    assert str(outcome).startswith("derivatives agree with 'complex'")


def test_the_default_engines_are_that_of_the_fit_and_two_more(fit):
    assert [row.grad for row in fit.check_derivatives().rows[::2]] == ["analytic", "forward", "jax"]


def test_a_lie_is_found_where_it_is(over, fit):
    outcome = audit(over.model, over.model.sample(over.data), [Lying()], {"estimate": fit.theta})
    (row,) = outcome.rows
    assert not outcome.passed
    assert (row.moment, row.parameter) == (fit.moment_names[5], fit.names[3])
    assert row.error == pytest.approx(1e-6, rel=1e-3)


def test_a_fit_with_a_lying_engine_does_not_pass_its_check(over):
    fit = replace(over, grad=Lying(by=1e-5)).fit()
    with pytest.raises(gm.DerivativeError) as refused:
        fit.check_derivatives(Lying(by=1e-5), "forward")
    text = str(refused.value)
    assert text.startswith(
        "E617 derivatives disagree with 'complex': lying at the start: 1.0e-05 in moment hinc_air,"
    )
    assert "parameter gc (1e-08 is allowed)" in text
    assert "forward" not in text.split("next:")[0]


def test_a_function_that_complex_steps_cannot_follow_is_held_against_dual_numbers():
    def absolute(theta, rows):
        return (np.abs(rows["y"] - theta[0]) - theta[1])[:, None] * np.stack(
            [rows["y"] ** 0, rows["y"]], axis=1
        )

    table = gm.Table.from_arrays({"y": np.array([1.0, 2.0, 4.0, 7.0, 11.0])})
    model = gm.MomentFunction(absolute, names=["a", "b"], start={"a": 3.0, "b": 1.0})
    outcome = audit(model, model.sample(table), ["jax", "fd"], {"start": np.array([3.0, 1.0])})
    assert outcome.reference == "forward"
    assert outcome.passed


def test_compare_names_the_entry_that_differs(over):
    outcome = compare(over, ["forward"], rounds=1)
    assert outcome.complaints == ()
    row = outcome.rows[0]
    bad = replace(row.audit[0], error=1e-3)
    spoilt = replace(outcome, rows=(replace(row, audit=(bad,)),))
    assert len(spoilt.complaints) == 1
    assert f"moment {bad.moment}, parameter {bad.parameter} (1e-08 is allowed)" in spoilt.complaints[0]
