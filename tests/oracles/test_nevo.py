"""Plain logit demand on Nevo's cereal data, which pyblp ships: product effects absorbed, twenty instruments."""

from __future__ import annotations

import contextlib
import io

import pyblp
import pytest

import gmmest as gm

GRADS = ("analytic", "forward", "jax")
ESTIMATE = 1e-8
ERROR = 1e-7
PRICE = -30.097755182675186
ROBUST = 1.0186590217800662
UNADJUSTED = 0.9953613200996553
N_TIMES_Q = 189.94317768325
INSTRUMENTS = [f"demand_instruments{i}" for i in range(20)]
DEMAND = gm.LinearIV("y", endogenous=["prices"], instruments=INSTRUMENTS, absorb="product_ids")


@pytest.mark.parametrize("grad", GRADS)
def test_one_step_with_product_effects_absorbed(cereal, grad):
    fit = gm.GMMEstimator(DEMAND, cereal, steps="onestep", grad=grad).fit()
    assert fit.verified
    assert fit.names == ("prices",)
    assert fit.n_obs == 2256
    assert fit.params["prices"] == pytest.approx(PRICE, rel=ESTIMATE)
    assert fit.bse["prices"] == pytest.approx(ROBUST, rel=ERROR)
    assert fit.n_obs * fit.criterion == pytest.approx(N_TIMES_Q, rel=ESTIMATE)
    assert "effects of 24 groups of product_ids are absorbed" in str(fit.summary())


@pytest.mark.parametrize("grad", GRADS)
def test_its_unadjusted_standard_error(cereal, grad):
    fit = gm.GMMEstimator(DEMAND, cereal, steps="onestep", weighting="unadjusted", grad=grad).fit()
    assert fit.params["prices"] == pytest.approx(PRICE, rel=ESTIMATE)
    assert fit.bse["prices"] == pytest.approx(UNADJUSTED, rel=ERROR)


@pytest.mark.parametrize("grad", GRADS)
def test_instruments_alone_demeaned_give_another_standard_error(cereal, grad):
    """The trap: the estimate is the same, but the residuals keep the effects of products."""
    means = cereal.groupby("product_ids")[INSTRUMENTS].transform("mean")
    frame = cereal.assign(**{name: cereal[name] - means[name] for name in INSTRUMENTS})
    model = gm.LinearIV("y", endogenous=["prices"], instruments=INSTRUMENTS, constant=False)
    fit = gm.GMMEstimator(model, frame, steps="onestep", grad=grad).fit()
    assert fit.params["prices"] == pytest.approx(PRICE, rel=ESTIMATE)
    assert fit.bse["prices"] == pytest.approx(1.566, abs=5e-4)  # as many digits as are known


def test_pyblp_agrees(cereal):
    with contextlib.redirect_stdout(io.StringIO()):
        problem = pyblp.Problem(pyblp.Formulation("0 + prices", absorb="C(product_ids)"), cereal)
        peer = problem.solve(method="1s")
    fit = gm.GMMEstimator(DEMAND, cereal, steps="onestep").fit()
    assert fit.params["prices"] == pytest.approx(peer.beta.item(), rel=1e-10)
    assert fit.bse["prices"] == pytest.approx(peer.beta_se.item(), rel=1e-9)
    assert fit.n_obs * fit.criterion == pytest.approx(peer.objective.item(), rel=1e-10)
