"""Effects of groups absorbed by a linear regression: what dummies of the groups would give, without them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gmmest as gm

EXACT = 1e-10
"""Absorbing and dummies differ by rounding alone; with a dozen dummies conditions stay below 1e3."""
FIRMS = 9


def panel(seed: int = 0, n: int = 240) -> pd.DataFrame:
    """Firms of unequal size with effects that are correlated with the regressor."""
    rng = np.random.default_rng(seed)
    firm = np.minimum(rng.geometric(0.25, size=n) - 1, FIRMS - 1)
    firm[:FIRMS] = np.arange(FIRMS)
    effect = 3.0 * rng.normal(size=FIRMS)
    z = rng.normal(size=(n, 3)) + 0.5 * effect[firm][:, None]
    noise = rng.normal(size=n) * np.exp(0.3 * z[:, 0])
    w = rng.normal(size=n) + effect[firm]
    x = z @ [0.8, 0.5, 0.3] + 0.6 * noise + rng.normal(size=n)
    frame = pd.DataFrame({"y": 2.0 * x - w + effect[firm] + noise, "x": x, "w": w})
    frame[["z0", "z1", "z2"]] = z
    frame["firm"] = [f"firm {'cabdegfhi'[i]}" for i in firm]
    frame["weight"] = rng.uniform(0.5, 2.0, size=n)
    frame["count"] = rng.integers(1, 4, size=n)
    assert frame["firm"].nunique() == FIRMS
    return frame


def with_dummies(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    dummies = pd.get_dummies(frame["firm"], dtype=float)
    return pd.concat([frame, dummies], axis=1), list(dummies)


def both(instruments: list[str], weights: dict[str, str] | None = None, **options: object):
    """A fit with effects absorbed, and one with all their dummies."""
    wide, dummies = with_dummies(panel())
    numbers = ["y", "x", "w", "z0", "z1", "z2", *dummies]
    table = gm.Table.from_frame(wide, numbers, cluster="firm", **(weights or {}))
    absorbed = gm.LinearIV("y", ["w"], ["x"], instruments, absorb="firm")
    spelt = gm.LinearIV("y", ["w", *dummies], ["x"], instruments, constant=False)
    return (
        gm.GMMEstimator(absorbed, table, **options).fit(),
        gm.GMMEstimator(spelt, table, **options).fit(),
    )


def agree(ours, dummies, errors: bool = True) -> None:
    assert ours.verified
    assert dummies.verified
    names = ["w", "x"]
    assert list(ours.names) == names
    assert np.allclose(ours.params, dummies.params[names], rtol=EXACT, atol=0)
    if errors:
        v = dummies.cov_params().loc[names, names]
        assert np.allclose(ours.cov_params(), v, rtol=EXACT, atol=EXACT * np.diag(v).min())


@pytest.mark.parametrize("weighting", ["robust", "unadjusted", "cluster"])
@pytest.mark.parametrize("small_sample", [False, True])
def test_one_step_is_that_of_dummies(weighting, small_sample):
    """Degrees of freedom too: small samples count the effects as parameters."""
    ours, dummies = both(["z0", "z1", "z2"], steps="onestep", weighting=weighting, small_sample=small_sample)
    agree(ours, dummies)
    assert ours.criterion == pytest.approx(dummies.criterion, rel=1e-9)
    assert ours.estimate.s.factor == pytest.approx(dummies.estimate.s.factor, rel=1e-15)


@pytest.mark.parametrize("grad", ["analytic", "forward", "jax", "complex"])
def test_a_just_identified_fit_is_that_of_dummies(grad):
    agree(*both(["z0"], grad=grad))


@pytest.mark.parametrize(
    "weights", [{"weight": "weight"}, {"frequency": "count"}, {"weight": "weight", "frequency": "count"}]
)
def test_weighted_means_are_taken_off_weighted_data(weights):
    agree(*both(["z0", "z1", "z2"], weights, steps="onestep", small_sample=True))


def test_two_steps_have_the_estimate_and_the_j_of_dummies():
    ours, dummies = both(["z0", "z1", "z2"], se="minimised_weight")
    agree(ours, dummies)
    assert ours.j_test().df == dummies.j_test().df == 2
    assert ours.j_test().stat == pytest.approx(dummies.j_test().stat, rel=1e-9)
    assert ours.j_test().stat > 0.1  # the moments do not vanish, so that the sandwich would differ
    ours, dummies = both(["z0", "z1", "z2"])
    agree(ours, dummies, errors=False)
    assert not np.allclose(ours.bse, dummies.bse[["w", "x"]], rtol=1e-6)


def test_two_steps_with_unadjusted_weights_are_those_of_dummies():
    agree(*both(["z0", "z1", "z2"], weighting="unadjusted"))


def test_linearmodels_absorbs_the_same_effects():
    from linearmodels.iv.absorbing import AbsorbingLS

    frame = panel()
    ours = gm.GMMEstimator(gm.LinearIV("y", ["w", "x"], absorb="firm"), frame).fit()
    effects = frame[["firm"]].astype("category")
    peer = AbsorbingLS(frame["y"], frame[["w", "x"]], absorb=effects).fit(cov_type="robust")
    assert np.allclose(ours.params, peer.params[["w", "x"]], rtol=1e-9)
    assert np.allclose(ours.bse, peer.std_errors[["w", "x"]], rtol=1e-8)


@settings(deadline=None, max_examples=30)
@given(level=st.floats(-1e9, 1e9), power=st.integers(-30, 30), seed=st.integers(0, 99))
def test_a_constant_in_each_group_changes_nothing(level, power, seed):
    """Digits that the added constant swallows are lost before we see them; no others are."""
    frame, rng = panel(seed), np.random.default_rng(seed)
    unit = 2.0**power
    shift = dict(zip(sorted(set(frame["firm"])), level * rng.normal(size=FIRMS), strict=True))
    moved = frame.assign(
        x=unit * (frame["x"] + frame["firm"].map(shift)), z0=frame["z0"] - frame["firm"].map(shift)
    )
    model = gm.LinearIV("y", ["w"], ["x"], ["z0"], absorb="firm")
    one = gm.GMMEstimator(model, frame).fit()
    two = gm.GMMEstimator(model, moved).fit()
    assert two.verified
    lost = 1e-14 * (1.0 + abs(level)) + 1e-11
    assert np.allclose(two.theta * [1.0, unit], one.theta, rtol=100 * lost)
    assert np.allclose(two.bse * [1.0, unit], one.bse, rtol=100 * lost)


def test_groups_may_be_text_whole_numbers_or_clusters_in_any_order():
    frame = panel()
    frame["number"] = frame["firm"].astype("category").cat.codes.astype(int) * 7 + 3
    columns = ["y", "x", "w", "z0", "number"]
    fits = [
        gm.GMMEstimator(gm.LinearIV("y", ["w"], ["x"], ["z0"], absorb=by), data).fit()
        for by, data in [
            ("firm", frame),
            ("number", frame),
            ("number", gm.Table.from_frame(frame, columns)),
            ("firm", gm.Table.from_frame(frame, columns, cluster="firm")),
        ]
    ]
    for other in fits[1:]:
        assert other.theta.tobytes() == fits[0].theta.tobytes()
        assert other.estimate.v.tobytes() == fits[0].estimate.v.tobytes()
    assert len({fit.context.sample.fingerprint for fit in fits}) > 1
    shuffled = frame.sample(frac=1.0, random_state=1)
    again = gm.GMMEstimator(gm.LinearIV("y", ["w"], ["x"], ["z0"], absorb="firm"), shuffled).fit()
    assert np.allclose(again.theta, fits[0].theta, rtol=EXACT)


def test_other_groups_of_the_same_rows_have_another_fingerprint():
    frame = panel()
    model = gm.LinearIV("y", ["w"], ["x"], ["z0"], absorb="firm")
    other = frame.assign(firm=frame["firm"].to_numpy()[::-1].copy())
    assert model.sample(frame).fingerprint != model.sample(other).fingerprint


def test_first_stage_statistics_count_the_effects():
    ours, dummies = both(["z0", "z1"], steps="onestep")
    mine, theirs = ours.first_stage(), dummies.first_stage()
    same = ["partial_rsquared", "shea_rsquared", "f", "f_robust", "f_effective", "cragg_donald"]
    assert np.allclose(mine[same], theirs[same], rtol=1e-9)


def test_groups_of_one_row_are_named_and_say_nothing():
    frame = panel()
    alone = frame.iloc[[0, 1]].assign(firm=["solo\x1b", "unique"], y=[1e3, -1e3])
    model = gm.LinearIV("y", ["w"], ["x"], ["z0"], absorb="firm")
    with_them = gm.GMMEstimator(model, pd.concat([frame, alone], ignore_index=True)).fit()
    without = gm.GMMEstimator(model, frame).fit()
    assert np.allclose(with_them.theta, without.theta, rtol=EXACT)
    assert np.allclose(with_them.bse, without.bse, rtol=EXACT)  # N cancels
    assert with_them.notes[:2] == (
        "effects of 11 groups of firm are absorbed",
        "W306 2 groups of firm with one row each: solo\\x1b, unique; their effects explain these rows"
        " without error, and they count in N",
    )
    assert not any(note.startswith("W306") for note in without.notes)


def test_groups_of_a_table_are_named_by_the_ids_of_the_reader():
    """By text or numbers, from a frame or from arrays, and after rows were dropped or moved."""
    frame = panel()
    alone = frame.iloc[[0, 1, 2]].assign(firm=["solo", "unique", "dropped"], y=[1e3, -1e3, 0.0])
    data = pd.concat([alone, frame], ignore_index=True)
    data["number"] = data["firm"].astype("category").cat.codes.astype(int) * 7 + 30_001
    data["w8"] = np.where(data["firm"] == "dropped", 0.0, 1.0)
    data["t"] = np.arange(len(data))[::-1]
    columns = ["y", "x", "w", "z0"]
    wanted = {name: list(data.loc[:1, name].astype(str)) for name in ("firm", "number")}
    for name in ("firm", "number"):
        tables = [
            gm.Table.from_frame(data, columns, cluster=name, weight="w8", time="t"),
            gm.Table.from_arrays(
                {c: data[c] for c in columns}, cluster={name: data[name]}, weight=data["w8"]
            ),
        ]
        for table in tables:
            notes = gm.LinearIV("y", ["w"], ["x"], ["z0"], absorb=name).sample(table).notes
            (note,) = (note for note in notes if note.startswith("W306"))
            named = note.partition("each: ")[2].partition(";")[0].split(", ")
            assert sorted(named) == sorted(wanted[name])


def test_what_the_effects_explain_is_refused_by_name():
    frame = panel()
    size = frame["firm"].map(frame["firm"].value_counts() / 7.0)
    frame = frame.assign(size=size, level=0.1 + 2.0 * size)
    model = gm.LinearIV("y", ["w", "size"], ["x"], ["z0", "level"], absorb="firm")
    with pytest.raises(gm.IdentificationError) as refused:
        model.sample(frame)
    assert refused.value.codes == ("E203", "E203")
    assert "E203 size does not vary inside any group of firm" in str(refused.value)
    assert "level does not vary" in str(refused.value)
    assert "the absorbed effects contain it; drop it" in str(refused.value)


def test_columns_that_are_combinations_within_groups_are_refused():
    frame = panel()
    frame["v"] = frame["w"] + frame["firm"].map(frame["firm"].value_counts())
    with pytest.raises(gm.IdentificationError, match=r"E202 (v|w) = (v|w), up to"):
        gm.LinearIV("y", ["w", "v", "x"], absorb="firm").sample(frame)


def test_bad_groups_are_refused_with_all_else():
    frame = panel().assign(half=0.5, text="a")
    frame.loc[3, "w"] = np.nan
    frame["hole"] = [None, *frame["firm"][1:]]
    model = gm.LinearIV("y", ["w", "x"], absorb="hole")
    with pytest.raises(gm.DataError) as refused:
        model.sample(frame)
    assert refused.value.codes == ("E310", "E310")
    with pytest.raises(gm.DataError, match="E315"):
        gm.LinearIV("y", ["x"], absorb="firma").sample(frame)
    with pytest.raises(gm.DataError, match="E312 half holds floats"):
        gm.LinearIV("y", ["x"], absorb="half").sample(frame)
    table = gm.Table.from_frame(frame, ["y", "x", "half"])
    with pytest.raises(gm.DataError, match="E312 half is no column of whole numbers"):
        gm.LinearIV("y", ["x"], absorb="half").sample(table)


def test_a_constant_or_a_second_part_beside_effects_is_refused():
    assert gm.LinearIV("y", ["x"]).columns.names == ("x", "const")
    assert gm.LinearIV("y", ["x"], absorb="firm").columns.names == ("x",)
    with pytest.raises(gm.ConfigError, match="E102 constant=True beside absorb='firm'"):
        gm.LinearIV("y", ["x"], constant=True, absorb="firm")
    with pytest.raises(gm.ConfigError, match="the name of one column was expected"):
        gm.LinearIV("y", ["x"], absorb=["firm", "year"])
    with pytest.raises(gm.ConfigError, match="E102 x: each column plays one part"):
        gm.LinearIV("y", ["x"], absorb="x").sample(panel())
