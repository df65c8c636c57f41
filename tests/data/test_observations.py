"""Weights, frequencies, clusters and time at the doors: taken as they are, or refused with the observation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import gmmest as gm
from gmmest.errors import DataError


def frame(**columns: object) -> pd.DataFrame:
    plain = {"id": [7, 7, 8, 8, 9, 9], "y": [1, 0, 0, 1, 1, 0], "x": [0.1, 0.4, 0.2, 0.9, 0.3, 0.5]}
    return pd.DataFrame({**plain, **columns})


def sets(data: pd.DataFrame, **roles: object) -> gm.ChoiceData:
    return gm.ChoiceData.from_frame(data, case="id", chosen="y", **roles)


@pytest.mark.parametrize("kind", ["weight", "frequency"])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2, 2, -1, -1, 3, 3], "negative: 8"),
        ([2, 2, np.nan, np.nan, 3, 3], "missing or infinite: 8"),
        ([2, 2, np.nan, 1, 3, 3], "missing or infinite: 8"),
        ([2, 2, np.inf, np.inf, 3, 3], "missing or infinite: 8"),
        ([2, 2, 1, 1.5, 3, 3], "differs within choice sets: 8"),
        ([0, 0, 0, 0, 0, 0], "zero everywhere"),
    ],
)
def test_weights_that_are_refused_name_the_choice_set(kind, values, words):
    with pytest.raises(DataError, match=words) as refused:
        sets(frame(w=np.array(values, dtype=float)), **{kind: "w"})
    assert refused.value.codes == ("E330",)


def test_a_frequency_is_a_whole_number_and_a_weight_need_not_be():
    broken = frame(w=[1.5, 1.5, 1, 1, 1, 1])
    with pytest.raises(DataError, match="not whole numbers: 7"):
        sets(broken, frequency="w")
    assert sets(broken, weight="w").observations.weight.tolist() == [1.5, 1, 1]


def test_weight_zero_drops_the_set_with_a_note():
    data = sets(frame(w=[1, 1, 0, 0, 2, 2]), weight="w")
    assert data.ids.tolist() == [7, 9]
    assert data.notes == ("W330 dropped 1 of 3 choice sets with weight or frequency zero; 2 are used",)
    arrays = gm.ChoiceData.from_arrays(
        features=frame()[["x"]], chosen=frame()["y"], offsets=[0, 2, 4, 6], weight=[1, 0, 2]
    )
    assert arrays.ids.tolist() == [0, 2]
    table = gm.Table.from_arrays({"y": [1.0, 2.0, 3.0]}, frequency=[2, 0, 1])
    assert table.columns["y"].tolist() == [1.0, 3.0]
    assert table.notes[0].startswith("W330")


def test_a_set_is_in_one_cluster():
    with pytest.raises(DataError, match=r"differs within choice sets: 8 \('a', 'b'\)") as refused:
        sets(frame(c=["a", "a", "a", "b", "b", "b"]), cluster="c")
    assert refused.value.codes == ("E331",)
    data = sets(frame(c=["a", "a", "b", "b", "a", "a"]), cluster="c")
    assert data.observations.clusters[0].codes.tolist() == [0, 1, 0]


def test_clusters_are_ids():
    with pytest.raises(DataError) as refused:
        sets(frame(c=[1.0, 1, 2, 2, 3, 3]), cluster="c")
    assert refused.value.codes == ("E312",)
    with pytest.raises(DataError):
        gm.Table.from_arrays({"y": [1.0, 2.0]}, cluster=[0.5, 1.0])


def test_time_orders_sets_and_rows_stably_with_a_note():
    data = sets(frame(t=[3, 3, 1, 1, 2, 2]), time="t")
    assert data.ids.tolist() == [8, 9, 7]
    assert data.column("x").tolist() == [0.2, 0.9, 0.3, 0.5, 0.1, 0.4]
    assert data.notes == ("W305 3 of 3 choice sets were moved into the order of t",)
    dates = pd.to_datetime(["2020-01-03", "2020-01-01", "2020-01-02"])
    table = gm.Table.from_frame(pd.DataFrame({"y": [3.0, 1.0, 2.0], "day": dates}), ["y"], time="day")
    assert table.columns["y"].tolist() == [1.0, 2.0, 3.0]
    assert table.notes == ("W305 3 of 3 rows were moved into the order of day",)


def test_time_after_dropped_sets():
    data = frame(t=[3, 3, 1, 1, 2, 2])
    data.loc[2:3, "y"] = 0
    kept = sets(data, time="t", on_bad_sets="drop")
    assert kept.ids.tolist() == [9, 7]


def test_weights_follow_their_sets_and_are_part_of_the_fingerprint():
    shuffled = frame(w=[1, 1, 2, 2, 3, 3]).iloc[[4, 0, 2, 5, 1, 3]]
    data = sets(shuffled, weight="w")
    assert dict(zip(data.ids.tolist(), data.observations.weight.tolist(), strict=True)) == {7: 1, 8: 2, 9: 3}
    assert data.fingerprint(["x"]) != sets(shuffled).fingerprint(["x"])


def test_least_squares_refuses_weights():
    table = gm.Table.from_arrays({"y": [1.0, 2.0, 4.0]}, weight=[1, 2, 1])
    with pytest.raises(gm.ConfigError, match="weights"):
        gm.NonlinearLeastSquares(lambda t, rows: rows["y"] - t[0], names=["mu"]).fit(table, start=[1.0])
