"""Calls that a newcomer writes, refused with the call that was meant."""

from __future__ import annotations

import pytest

import gmmest as gm


@pytest.fixture(scope="module")
def fit(travel_data, greene_overidentified):
    return gm.GMMEstimator(greene_overidentified, travel_data()).fit()


def refused(call) -> str:
    with pytest.raises(gm.ConfigError) as caught:
        call()
    assert caught.value.codes == ("E102",)
    return str(caught.value)


def test_a_function_in_words_is_refused_with_the_function(fit):
    said = refused(lambda: fit.nlcom("ttme/gc"))
    assert said.endswith('next:  res.nlcom(lambda b: b["ttme"]/b["gc"], by_name=True)')
    assert "nlcom got int" in refused(lambda: fit.nlcom(7))


@pytest.mark.parametrize("backend", ["auto", "forward", "jax", "complex", "fd"])
def test_names_without_by_name_are_refused_with_it(fit, backend):
    said = refused(lambda: fit.nlcom(lambda b: b["ttme"] / b["gc"], backend=backend))
    assert said.endswith("next:  res.nlcom(function, by_name=True)")


def test_errors_of_the_function_itself_stay_what_they_are(fit):
    with pytest.raises(IndexError, match="out of bounds"):
        fit.nlcom(lambda b: b[77])


@pytest.mark.parametrize("hypothesis", ["ttme/gc = 5", "ttme*gc = 1", "ttme**2 = 1"])
def test_hypotheses_that_are_not_linear_name_nlcom(fit, hypothesis):
    assert "res.nlcom" in refused(lambda: fit.wald_test(hypothesis))


def test_model_and_data_in_the_wrong_order(travel_data, greene):
    assert "the model comes first" in refused(lambda: gm.GMMEstimator(travel_data(), greene))


@pytest.mark.parametrize("model", [gm.Logit, None, "logit"])
def test_what_is_no_model_is_refused(travel_data, model):
    said = refused(lambda: gm.GMMEstimator(model, travel_data()))
    assert "next" not in said
