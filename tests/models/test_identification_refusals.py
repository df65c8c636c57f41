"""What a logit must refuse before it is estimated: columns that do not vary, that repeat each other, too few."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmest.data.choice_data import ChoiceData
from gmmest.errors import IdentificationError
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.logit import Logit
from gmmest.models.moment_function import MomentFunction


def _draw(seed=0, sets=150, columns=3):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6, size=sets)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    X = rng.normal(size=(offsets[-1], columns))
    u = X @ np.full(columns, 0.4) + rng.gumbel(size=offsets[-1])
    chosen = np.zeros(offsets[-1])
    for a, b in itertools.pairwise(offsets):
        chosen[a + np.argmax(u[a:b])] = 1.0
    return rng, X, chosen, offsets


def _data(X, chosen, offsets, names=None, **more):
    return ChoiceData.from_arrays(features=X, chosen=chosen, offsets=offsets, feature_names=names, **more)


def _refused(data):
    with pytest.raises(IdentificationError) as refused:
        Logit().sample(data)
    return refused.value


# --- E202 ---------------------------------------------------------------------------------------------------


def _with_combination(gap, factors=(1.0, 1.0, 1.0, 1.0)):
    """d = 2a - 3b + a constant in each set + gap * noise of the size of the column."""
    rng, X, chosen, offsets = _draw()
    level = np.repeat(rng.normal(size=150), np.diff(offsets))
    combination = 2.0 * X[:, 0] - 3.0 * X[:, 1] + level
    noise = rng.normal(size=len(X)) * np.std(combination)
    X = np.column_stack([X, combination + gap * noise]) * factors
    return _data(X, chosen, offsets, ["a", "b", "c", "d"])


def test_an_exact_combination_is_refused_with_its_weights():
    refused = _refused(_with_combination(0.0))
    assert refused.codes == ("E202",)
    text = str(refused)
    assert "within every choice set, up to" in text
    assert "drop one of these terms" in text
    assert "c" not in text.split("within")[0].split()  # the column that takes no part is not blamed
    for name in ("a", "b", "d"):
        assert name in text


def test_a_gap_of_1e_9_is_accepted():
    assert Logit().sample(_with_combination(1e-9)).names == ("a", "b", "c", "d")


def test_a_gap_of_1e_6_is_estimated_with_the_standard_error_it_deserves():
    result = GMMEstimator(Logit(), _with_combination(1e-6)).fit()
    assert result.verified, result.verdict()
    assert result.bse["d"] > 1e4 * result.bse["c"]


def test_a_gap_of_1e_13_is_refused():
    assert _refused(_with_combination(1e-13)).codes == ("E202",)


@pytest.mark.parametrize("factors", [(1e-8, 1.0, 1.0, 1e8), (1e8, 1e-8, 1.0, 1.0), (1e150, 1.0, 1.0, 1e-150)])
@pytest.mark.parametrize(("gap", "refused"), [(0.0, True), (1e-13, True), (1e-9, False)])
def test_units_change_no_verdict_on_collinearity(factors, gap, refused):
    data = _with_combination(gap, factors)
    if refused:
        assert _refused(data).codes == ("E202",)
    else:
        Logit().sample(data)


def test_constants_of_all_alternatives_are_one_too_many(travel_data):
    from gmmest.models.terms import Constant, Term

    model = Logit([*(Constant(mode) for mode in ("air", "train", "bus", "car")), Term("gc")])
    with pytest.raises(IdentificationError, match="within every choice set") as refused:
        model.sample(travel_data())
    assert refused.value.codes == ("E202",)
    assert "gc" not in str(refused.value).split("within")[0]


def test_sums_are_written_as_people_do_and_constants_are_told_from_others():
    _, X, chosen, offsets = _draw()
    ones = np.zeros((len(X), 3))
    ones[offsets[:-1], 0] = ones[offsets[:-1] + 1, 1] = 1.0
    ones[:, 2] = 1.0 - ones[:, 0] - ones[:, 1]
    refused = _refused(_data(ones, chosen, offsets, ["asc_walk", "asc_car", "asc_metro"]))
    (complaint,) = refused.complaints
    left, right = complaint.what.partition(" within")[0].split(" = ")
    others = sorted({"asc_walk", "asc_car", "asc_metro"} - {left})
    assert right in (f"-{others[0]} - {others[1]}", f"-{others[1]} - {others[0]}")
    assert complaint.next.startswith("leave one alternative without a constant")
    refused = _refused(_data(np.column_stack([X, X[:, 0]]), chosen, offsets, list("abcd")))
    assert str(refused).startswith(("E202 a = d within", "E202 d = a within"))
    assert refused.complaints[0].next == "drop one of these terms"


def test_every_superfluous_column_is_named():
    _, X, chosen, offsets = _draw()
    refused = _refused(
        _data(np.column_stack([X, X[:, 0], X[:, 1] + X[:, 2]]), chosen, offsets, list("abcde"))
    )
    assert refused.codes == ("E202", "E202")


@settings(deadline=None, max_examples=40)
@given(
    weights=st.lists(st.floats(0.01, 100) | st.floats(-100, -0.01), min_size=3, max_size=3),
    power=st.integers(-40, 40),
)
def test_any_combination_is_found_and_spelt_right(weights, power):
    _, X, chosen, offsets = _draw()
    X = np.column_stack([X, (X @ weights) * 2.0**power])
    refused = _refused(_data(X, chosen, offsets, ["a", "b", "c", "d"]))
    assert refused.codes == ("E202",)
    left, right = str(refused).removeprefix("E202 ").split(" within")[0].split(" = ")
    columns = dict(zip(["a", "b", "c", "d"], X.T, strict=True))
    terms = re.findall(r"([-+]?) ?(?:([\d.]+(?:e[+-]\d+)?) )?([abcd])", right)
    said = sum((-1.0 if sign == "-" else 1.0) * float(w or 1) * columns[name] for sign, w, name in terms)
    np.testing.assert_allclose(said, columns[left], rtol=1e-4, atol=1e-4 * np.abs(columns[left]).max())


# --- E203 ---------------------------------------------------------------------------------------------------


def test_columns_that_vary_in_no_set_are_refused_all_at_once():
    _, X, chosen, offsets = _draw()
    sizes = np.diff(offsets)
    income = np.repeat(np.linspace(1.0, 9.0, 150), sizes)
    refused = _refused(
        _data(
            np.column_stack([X, income, np.ones(len(X))]), chosen, offsets, ["a", "b", "c", "income", "one"]
        )
    )
    assert refused.codes == ("E203", "E203")
    assert "income does not vary inside any choice set" in str(refused)
    assert "one does not vary" in str(refused)
    assert "interact it" in str(refused)


def test_a_column_that_varies_in_one_set_is_accepted():
    _, X, chosen, offsets = _draw()
    income = np.repeat(np.linspace(1.0, 9.0, 150), np.diff(offsets))
    income[0] += 1.0
    columns = np.column_stack([X, income])
    assert len(Logit().sample(_data(columns, chosen, offsets)).names) == columns.shape[1]


# --- E211, E212 ----------------------------------------------------------------------------------------------


def _with_instruments(extra):
    _, X, chosen, offsets = _draw()
    Z = np.column_stack([X, extra(X)])
    names = [f"z{j}" for j in range(Z.shape[1])]
    return _data(X, chosen, offsets, ["a", "b", "c"], instruments=Z, instrument_names=names)


@pytest.mark.parametrize(
    "extra", [lambda X: X[:, 0], lambda X: 3 * X[:, 1] - X[:, 2], lambda X: X[:, 0] * (1 + 1e-14)]
)
def test_redundant_instruments_are_refused(extra):
    refused = _refused(_with_instruments(extra))
    assert refused.codes == ("E211",)
    text = str(refused)
    assert "a moment is redundant" in text
    assert "the J test would count it" in text
    assert "drop one of these instruments" in text


def test_an_instrument_that_is_constant_in_every_set_is_refused():
    _, X, chosen, offsets = _draw()
    level = np.repeat(np.arange(150.0), np.diff(offsets))
    data = _data(X, chosen, offsets, instruments=np.column_stack([X, level]))
    refused = _refused(data)
    assert refused.codes == ("E203",)
    assert "it makes no moment; drop it" in str(refused)


def test_fewer_moments_than_parameters_are_refused():
    _, X, chosen, offsets = _draw()
    refused = _refused(_data(X, chosen, offsets, instruments=X[:, :2] ** 2))
    assert refused.codes == ("E212",)
    assert "2 moments, 3 parameters: at least as many moments as parameters were expected" in str(refused)


def test_fewer_moments_than_parameters_are_refused_for_moments_of_ones_own():
    from gmmest.data.table import Table

    model = MomentFunction(lambda theta, rows: (rows["y"] - theta[0])[:, None], names=["a", "b"])
    with pytest.raises(IdentificationError) as refused:
        model.sample(Table.from_arrays({"y": [1.0, 2.0]}))
    assert refused.value.codes == ("E212",)
    assert "1 moment" in str(refused.value)


def test_names_in_refusals_are_printable():
    _, X, chosen, offsets = _draw()
    X = np.column_stack([X, X[:, 0]])
    refused = _refused(_data(X, chosen, offsets, ["\x1b[2Ja", "b", "c", "\u202ed"]))
    assert str(refused).replace("\n", "").isprintable()


# --- sets with a single alternative --------------------------------------------------------------------------


@pytest.mark.parametrize("grad", ["analytic", "forward", "complex"])
def test_sets_with_one_alternative_change_no_bit(grad):
    rng, X, chosen, offsets = _draw()
    plain = GMMEstimator(Logit(), _data(X, chosen, offsets), grad=grad).fit()
    pieces, picked, sizes = [], [], []
    for i, (a, b) in enumerate(itertools.pairwise(offsets)):
        if i % 10 == 0:
            pieces.append(rng.normal(size=(1, 3)) * 100)
            picked.append([1.0])
            sizes.append(1)
        pieces.append(X[a:b])
        picked.append(chosen[a:b])
        sizes.append(b - a)
    padded = _data(np.concatenate(pieces), np.concatenate(picked), np.concatenate([[0], np.cumsum(sizes)]))
    result = GMMEstimator(Logit(), padded, grad=grad).fit()
    assert result.theta.tobytes() == plain.theta.tobytes()
    assert result.estimate.v.tobytes() == plain.estimate.v.tobytes()
    assert result.n_obs == 150
    assert any(
        "W301 15 choice sets with one alternative carry no information" in note for note in result.notes
    )
    assert "W301" in str(result.summary())
