"""Files larger than memory: cuts change no bit, damage is seen, nothing half-made is used."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

import gmmest as gm
from gmmest.data.choice_columns import ChoiceColumns
from gmmest.data.choice_data import ChoiceData
from gmmest.data.choice_files import ChoiceFiles
from gmmest.data.conversion import _room, convert
from gmmest.data.readers import read_frame
from gmmest.data.source_files import State, find_files, parquet_rows
from gmmest.data.store import PAGE, Manifest, StoreWriter, open_store, read_manifest
from gmmest.data.streams import cell_types
from gmmest.errors import DataError, FileError, GmmestError
from gmmest.models.logit import Logit
from gmmest.models.terms import Constant, Term

ROLES = {"case": "id", "alternative": "mode", "chosen": "took"}
MODEL = Logit(["cost", Term("time", only="bus"), Constant("bus")])
INSTRUMENTED = Logit(
    ["cost", Constant("bus")], instruments=["cost", Constant("bus"), "time", Term("cost", "time")]
)


def rows(sets: int = 24, seed: int = 1, **extra: object) -> pa.Table:
    """Choice sets of two to four alternatives; some columns constant within sets."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 5, sets)
    ids = np.repeat(np.arange(sets) + 100, sizes)
    mode = np.concatenate([np.array(["car", "bus", "air", "rail"])[rng.permutation(4)[:k]] for k in sizes])
    took = np.concatenate([np.arange(k) == rng.integers(k) for k in sizes])
    n = int(sizes.sum())
    return pa.table(
        {
            "id": ids,
            "mode": mode,
            "took": took.astype(np.int64),
            "cost": rng.normal(size=n).round(3),
            "time": rng.normal(size=n).round(3),
            "w": np.repeat(rng.uniform(0.5, 2.0, sets).round(3), sizes),
            "f": np.repeat(rng.integers(1, 4, sets), sizes),
            "town": np.repeat(
                np.array(["Bonn", "Köln", "Ulm", "Trier", "Hof"])[rng.integers(5, size=sets)], sizes
            ),
            "day": np.repeat(np.arange(sets), sizes),
        }
    )


def write(folder: Path, parts: list[pa.Table], kind: str = "parquet", group: int = 10**6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(parts):
        if kind == "parquet":
            pq.write_table(part, folder / f"part-{i}.parquet", row_group_size=group, write_page_checksum=True)
        else:
            pa_csv.write_csv(part, folder / f"part-{i}.csv")
    return folder


def settle(path: Path) -> None:
    """Let files look as if they had lain there: their stamps are trusted only after a while."""
    assert path.exists()


def stored_bytes(store: Path) -> dict[str, str]:
    """Hashes of all files of a store, the manifest without what names the source."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in store.glob("*.bin")}
    manifest = json.loads((store / "manifest.json").read_bytes())
    for key in ("key", "sources", "sha256"):
        del manifest[key]
    return {**found, "manifest": json.dumps(manifest)}


def converted(files: ChoiceFiles, model: Logit, target: Path, rows_per_piece: int | None = None) -> Path:
    """A store made with pieces of so many rows."""
    design = model._design()
    found = find_files(files.paths)
    manifest = Manifest("", list(design.names), list(design.moment_names), [], [], "", [])
    shutil.rmtree(target, ignore_errors=True)
    convert(
        found,
        cell_types(files.columns, design.columns),
        files.columns,
        design,
        manifest,
        target,
        memory=10**9,
        n_rows=parquet_rows(found),
        rows_per_piece=rows_per_piece,
    )
    return target


def same_sample(files: ChoiceFiles, data: ChoiceData, model: Logit) -> None:
    stored, memory = model.sample(files), model.sample(data)
    for name in ("names", "moment_names", "counts", "n_rows", "notes", "fingerprint"):
        assert getattr(stored, name) == getattr(memory, name), name
    assert np.array_equal(stored.typical, memory.typical)
    for one, other in zip(stored.blocks, memory.blocks, strict=True):
        for name in ("features", "instruments", "chosen", "offsets", "weight", "frequency"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for (name, one), (other_name, other) in zip(
        stored.observations.parts(), memory.observations.parts(), strict=True
    ):
        assert name == other_name
        assert np.array_equal(one, other)


EVERYTHING = {"weight": "w", "frequency": "f", "cluster": ["town", "day"], "time": "day"}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_cut_at_any_row_changes_no_bit_of_the_store(tmp_path: Path, kind: str) -> None:
    table = rows(8)
    target = tmp_path / "store"
    stores = set()
    for cut in range(table.num_rows + 1):
        parts = [table.slice(0, cut), table.slice(cut)]
        folder = write(tmp_path / f"at{cut}", [part for part in parts if part.num_rows], kind, 1 + cut % 5)
        files = ChoiceFiles(folder, **ROLES, **EVERYTHING)
        stores.add(json.dumps(stored_bytes(converted(files, INSTRUMENTED, target, 1 + cut % 7))))
    assert len(stores) == 1
    # every row a file of its own
    single = write(tmp_path / "single", [table.slice(i, 1) for i in range(table.num_rows)], kind)
    files = ChoiceFiles(single, **ROLES, **EVERYTHING)
    assert json.dumps(stored_bytes(converted(files, INSTRUMENTED, target))) in stores
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("model", [MODEL, INSTRUMENTED], ids=["own", "instruments"])
@pytest.mark.parametrize("roles", [{}, EVERYTHING], ids=["plain", "weights-clusters-time"])
def test_a_sample_from_files_is_that_of_the_rows_in_memory(tmp_path: Path, model: Logit, roles: dict) -> None:
    table = rows(60)
    folder = write(tmp_path / "data", [table.slice(0, 41), table.slice(41)], group=7)
    same_sample(ChoiceFiles(folder, **ROLES, **roles), ChoiceData.from_frame(table, **ROLES, **roles), model)


@pytest.mark.parametrize("rows_per_piece", [1, 5, None])
def test_what_is_dropped_is_counted_in_all_as_in_memory(tmp_path: Path, rows_per_piece: int | None) -> None:
    table = rows(40).to_pandas()
    starts = table.groupby("id").head(1).index
    table.loc[starts[3:9], "took"] = 1  # some sets get a second choice
    table.loc[table["id"] == 111, "took"] = 0
    table.loc[starts[12], "cost"] = np.nan
    table.loc[starts[15], ["cost", "time"]] = np.nan
    table.loc[table["id"].isin([100, 120]), "w"] = 0.0
    table = table.drop(table.index[(table["id"] == 125) & (table["took"] == 0)])
    options = {"on_bad_sets": "drop", "missing": "drop_set", "weight": "w", "cluster": "town"}
    frame = pa.Table.from_pandas(table, preserve_index=False)
    data = ChoiceData.from_frame(frame, **ROLES, **options)
    memory = MODEL.sample(data)
    assert {note[:4] for note in memory.notes} == {"W301", "W302", "W310", "W330"}
    files = ChoiceFiles(write(tmp_path / "data", [frame.slice(0, 50), frame.slice(50)]), **ROLES, **options)
    same_sample(files, data, MODEL)
    store = open_store(converted(files, MODEL, tmp_path / "store", rows_per_piece))
    assert tuple(store.manifest.notes) == memory.notes
    assert store.manifest.fingerprint == memory.fingerprint


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (MODEL, {}),
        (INSTRUMENTED, {"weighting": "robust"}),
        (INSTRUMENTED, {"weighting": "cluster", "cluster": "town"}),
    ],
    ids=["own", "instruments", "clusters"],
)
def test_a_fit_from_the_store_has_the_bits_of_the_one_in_memory(
    tmp_path: Path, kind: str, model: Logit, options: dict
) -> None:
    table = rows(200)
    roles = {**ROLES, "weight": "w", "cluster": "town"}
    folder = write(tmp_path / "data", [table.slice(0, 301), table.slice(301)], kind)
    stored = gm.GMMEstimator(model, ChoiceFiles(folder, **roles), **options).fit()
    memory = gm.GMMEstimator(model, ChoiceData.from_frame(table, **roles), **options).fit()
    assert stored.params.equals(memory.params)
    assert stored.cov_params().equals(memory.cov_params())
    assert stored.criterion == memory.criterion
    if len(INSTRUMENTED.utility) != len(model.instruments or INSTRUMENTED.utility):
        assert stored.j_test().stat == memory.j_test().stat
    assert stored.manifest["data_sha256"] == memory.manifest["data_sha256"]


def test_csv_ids_stay_as_written_and_rows_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,mode,took,cost\n007,bus,1,1.5\n007,car,0,2\n7,bus,0,3\n")
    (tmp_path / "b.csv").write_text("id,mode,took,cost\n7,car,1,1\n07,bus,1,0.5\n07,car,0,1.5\n")
    files = ChoiceFiles([tmp_path / "b.csv", tmp_path / "a.csv"], **ROLES)
    store = files.store(Logit(["cost"])._design())
    assert store.block.offsets.tolist() == [0, 2, 4, 6]
    assert store.block.features.ravel().tolist() == [1.5, 2, 3, 1, 0.5, 1.5]


def test_complaints_name_the_file_and_its_row(tmp_path: Path) -> None:
    table = rows(30).to_pandas()
    table.loc[70, "cost"] = np.inf
    table.loc[33, "took"] = 2
    frame = pa.Table.from_pandas(table, preserve_index=False)
    folder = write(tmp_path / "data", [frame.slice(0, 30), frame.slice(30)], group=11)
    with pytest.raises(DataError) as caught:
        ChoiceFiles(folder, **ROLES).store(MODEL._design())
    assert sorted(caught.value.codes) == ["E303", "E310"] or caught.value.codes == ("E303",)
    assert 'part-1.parquet, column "took", row 4' in str(caught.value)
    files = ChoiceFiles(folder, **ROLES)
    with pytest.raises(DataError) as caught:
        converted(files, MODEL, tmp_path / "store", 6)
    assert caught.value.codes == ("E303", "E310")
    assert "found 2 at row 4; " in str(caught.value)
    assert 'part-1.parquet, column "cost", row 41' in str(caught.value)
    assert not list((tmp_path).glob("store*")) + list(tmp_path.glob(".store*"))


def test_a_set_across_two_files_is_named_by_both(tmp_path: Path) -> None:
    table = rows(6).to_pandas()
    second = np.flatnonzero(table["id"] == 101)
    table.loc[second, "took"] = 0
    frame = pa.Table.from_pandas(table, preserve_index=False)
    cut = int(second[1])
    folder = write(tmp_path / "data", [frame.slice(0, cut), frame.slice(cut)])
    with pytest.raises(DataError, match="E302") as caught:
        ChoiceFiles(folder, **ROLES).store(MODEL._design())
    rows_text = f"rows {second[0] + 1}-{second[-1] + 1}"
    assert f'part-0.parquet and on in part-1.parquet, column "took", {rows_text}' in str(caught.value)


def test_many_complaints_of_one_kind_are_counted(tmp_path: Path) -> None:
    table = rows(40).to_pandas()
    table["took"] = 0
    folder = write(tmp_path / "data", [pa.Table.from_pandas(table, preserve_index=False)])
    with pytest.raises(DataError) as caught:
        converted(ChoiceFiles(folder, **ROLES), MODEL, tmp_path / "store", 5)
    assert caught.value.codes == ("E302",) * 6
    assert "more complaints of this kind" in caught.value.complaints[-1].what


def test_bad_cells_of_csv_are_counted_from_the_head_of_their_file(tmp_path: Path) -> None:
    lines = ["id,mode,took,cost"] + [f"{i // 2},{'bc'[i % 2]},{i % 2},{i}" for i in range(40)]
    lines[8] = "3,c,1,abc"
    lines[31] = "15,b,0,1;5"
    (tmp_path / "trips.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        converted(ChoiceFiles(tmp_path / "trips.csv", **ROLES), Logit(["cost"]), tmp_path / "store", 4)
    assert caught.value.codes == ("E311", "E311")
    assert "row 8 holds 'abc'" in str(caught.value)
    assert "row 31 holds '1;5'" in str(caught.value)
    with pytest.raises(DataError, match="row 8 holds 'abc'"):
        read_frame(tmp_path / "trips.csv", text=["id"], numbers=["cost"])


# --- what is seen of all sets only ---


@pytest.mark.parametrize("rows_per_piece", [2, None])
def test_an_id_that_comes_again_is_refused_with_both_places(
    tmp_path: Path, rows_per_piece: int | None
) -> None:
    table = rows(10)
    first = table.slice(0, 5)
    folder = write(tmp_path / "data", [table, first], "csv")
    with pytest.raises(DataError, match="E304") as caught:
        converted(ChoiceFiles(folder, **ROLES), MODEL, tmp_path / "store", rows_per_piece)
    found = table["id"].to_pylist()
    stop = found.index(101)
    assert f"100 in part-0.csv rows 1-{stop} and again in part-1.csv rows 1-{stop}" in str(caught.value)
    assert caught.value.codes == ("E304",)


@pytest.mark.parametrize("rows_per_piece", [1, 2, 1000])
def test_rows_that_lie_apart_are_no_sets_without_a_choice(tmp_path: Path, rows_per_piece: int) -> None:
    table = rows(10)
    last = np.roll(np.arange(table.num_rows), 1)
    folder = write(tmp_path / "data", [table.take(pa.array(last))], "csv")
    with pytest.raises(DataError, match="E304") as caught:
        converted(ChoiceFiles(folder, **ROLES), MODEL, tmp_path / "store", rows_per_piece)
    assert caught.value.codes == ("E304",)
    assert "leave out --memory" in caught.value.complaints[0].next


def test_ids_that_come_again_are_found_with_any_memory(tmp_path: Path) -> None:
    from gmmest.data.set_keys import appearance, keys_of, repeats

    rng = np.random.default_rng(3)
    for ids in (rng.integers(0, 5_000, 3_000), 64 * rng.integers(0, 5_000, 3_000)):
        for column in (pa.array(ids), pa.array(ids.astype(str), pa.large_string())):
            path = tmp_path / "keys.bin"
            path.write_bytes(keys_of(column).tobytes())
            _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
            order = np.argsort(np.argsort(first))
            again = np.setdiff1d(np.arange(ids.size), first)
            for memory in (10**9, 50_000, 5_000):
                found = repeats(path, memory, 7)
                assert found.count == again.size
                assert np.array_equal(found.again, again[:7])
                assert all(ids[a] == ids[b] and b < a for a, b in zip(found.again, found.before, strict=True))
                assert np.array_equal(appearance(path, memory, tmp_path), order[inverse])


def test_times_that_go_back_are_refused(tmp_path: Path) -> None:
    table = rows(10)
    files = ChoiceFiles(write(tmp_path / "data", [table.slice(0, 9), table.slice(9)]), **ROLES, time="day")
    files.store(MODEL._design())
    frame = table.to_pandas()
    frame.loc[frame["id"] == 105, "day"] = 2
    row = int(np.flatnonzero(frame["id"] == 105)[0]) + 1
    backwards = pa.Table.from_pandas(frame, preserve_index=False)
    for pieces in (2, None):
        files = ChoiceFiles(write(tmp_path / f"back{pieces}", [backwards]), **ROLES, time="day")
        with pytest.raises(DataError, match=rf"E304 day goes back(.|\n)*row {row}\n"):
            converted(files, MODEL, tmp_path / "store", pieces)


def test_an_alternative_may_be_absent_from_a_piece_but_not_from_all(tmp_path: Path) -> None:
    table = rows(12)
    with pytest.raises(DataError, match='E316 no alternative "bike"') as caught:
        converted(
            ChoiceFiles(write(tmp_path / "data", [table]), **ROLES),
            Logit(["cost", Constant("bike")]),
            tmp_path / "store",
            3,
        )
    assert len(caught.value.codes) == 1


def test_nothing_left_says_what_was_dropped(tmp_path: Path) -> None:
    table = rows(12).to_pandas().assign(took=0)
    frame = pa.Table.from_pandas(table, preserve_index=False)
    files = ChoiceFiles(write(tmp_path / "data", [frame]), **ROLES, on_bad_sets="drop")
    with pytest.raises(DataError, match=r"E306 no choice set is left: W302 dropped .*; 12 of 12 sets"):
        converted(files, MODEL, tmp_path / "store", 3)


# --- which files ---


def test_files_are_taken_in_the_order_of_the_numbers_in_their_names(tmp_path: Path) -> None:
    for name in (
        "part-10.parquet",
        "part-9.parquet",
        "part-1.parquet",
        "_SUCCESS",
        ".hidden.parquet",
        "read.me",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in find_files(tmp_path)] == [
        "part-1.parquet",
        "part-9.parquet",
        "part-10.parquet",
    ]


def test_files_that_do_not_agree_are_refused_by_name(tmp_path: Path) -> None:
    table = rows(6)
    whole = table.set_column(3, "cost", pa.array(range(table.num_rows)))
    folder = write(tmp_path / "types", [table, whole])
    with pytest.raises(
        DataError, match=r'E517 part-1.parquet holds "cost" as int64, part-0.parquet as double'
    ):
        ChoiceFiles(folder, **ROLES).store(MODEL._design())
    folder = write(tmp_path / "names", [table, table.drop(["time"])])
    with pytest.raises(DataError, match=r'E315 no column "time"(.|\n)*part-1.parquet'):
        ChoiceFiles(folder, **ROLES).store(MODEL._design())
    write(tmp_path / "both", [table])
    write(tmp_path / "both", [table], "csv")
    with pytest.raises(FileError, match="E517 CSV and Parquet"):
        ChoiceFiles(tmp_path / "both", **ROLES).store(MODEL._design())
    (tmp_path / "types" / "year=2020").mkdir()
    with pytest.raises(FileError, match="E517 1 folder inside"):
        find_files(tmp_path / "types")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileError, match="E512"):
        find_files(tmp_path / "none")
    with pytest.raises(FileError, match="E517 a file named twice"):
        find_files([folder / "part-0.parquet"] * 2)


@pytest.mark.parametrize("column", ["id", "mode", "town"])
@pytest.mark.parametrize(
    ("ids", "code"),
    [
        (pa.array([[1], [2]]), "E312"),
        (pa.array([{"a": 1}, {"a": 2}]), "E312"),
        (pa.array([1.0, 2.0]), "E312"),
        (pa.array([True, False]), "E312"),
        (pa.nulls(2), "E310"),
    ],
    ids=["lists", "structs", "floats", "booleans", "nothing"],
)
def test_what_is_no_id_is_refused_by_its_type_as_in_memory(
    tmp_path: Path, column: str, ids: pa.Array, code: str
) -> None:
    table = rows(10)
    some = ids.take(pa.array(np.arange(table.num_rows) % 2))
    table = table.set_column(table.schema.get_field_index(column), column, some)
    roles = {**ROLES, "cluster": "town"}
    files = ChoiceFiles(write(tmp_path / "data", [table]), **roles)
    with pytest.raises(DataError, match=f"^{code} {column}"):
        files.store(MODEL._design())
    with pytest.raises(DataError, match=f"{code} {column}"):
        MODEL.sample(ChoiceData.from_frame(table, **roles))


def test_text_that_is_kept_as_views_is_text(tmp_path: Path) -> None:
    table = rows(30)
    text = table["id"].cast(pa.string())
    table = table.set_column(0, "id", text)
    views = table.set_column(0, "id", text.cast(pa.string_view()))
    views = views.set_column(1, "mode", views["mode"].cast(pa.string_view()))
    files = ChoiceFiles(write(tmp_path / "data", [views.slice(0, 31), table.slice(31)]), **ROLES)
    same_sample(files, ChoiceData.from_frame(table, **ROLES), MODEL)


def convert_ids_and_choices(path: Path, store: Path, memory: int) -> None:
    """The conversion of a file of two columns under a limit on memory that the door would not let through."""
    columns = ChoiceFiles(path, case="id", chosen="took").columns
    design = replace(MODEL._design(), columns=(), labels=())
    manifest = Manifest("", [], [], [], [], "", [])
    convert([path], cell_types(columns, ()), columns, design, manifest, store, memory=memory)


def test_a_row_group_larger_than_memory_is_refused_unread(tmp_path: Path) -> None:
    # One value, coded once: a few kilobytes in the file are 160 MB in memory.
    n = 10_000_000
    path = tmp_path / "bomb.parquet"
    with pq.ParquetWriter(path, pa.schema({"id": pa.int64(), "took": pa.int64()})) as writer:
        writer.write_table(
            pa.table({"id": np.zeros(n, np.int64), "took": np.zeros(n, np.int64)}), row_group_size=n
        )
    assert path.stat().st_size < 200_000
    with pytest.raises(FileError, match=r"E504 bomb.parquet: row group 1 of 1 takes 160 MB decoded"):
        convert_ids_and_choices(path, tmp_path / "store", memory=150_000_000)


def test_all_row_groups_are_looked_at_before_any_is_read(tmp_path: Path) -> None:
    table = pa.table({"id": np.repeat(np.arange(30_000), 2), "took": np.tile([0, 1], 30_000)})
    for i in range(3):
        pq.write_table(table, tmp_path / f"part-{i}.parquet", row_group_size=1000 if i == 0 else 60_000)
    columns = ChoiceFiles(tmp_path, case="id", chosen="took").columns
    design = replace(MODEL._design(), columns=(), labels=())
    found, seen = find_files(tmp_path), []
    with pytest.raises(FileError) as refused:
        convert(
            found,
            cell_types(columns, ()),
            columns,
            design,
            Manifest("", [], [], [], [], "", []),
            tmp_path / "cache" / "store",
            memory=500_000,
            progress=lambda done, total: seen.append(done),
        )
    assert [c.what.partition(":")[0] for c in refused.value.complaints] == [
        "part-1.parquet",
        "part-2.parquet",
    ]
    assert not seen
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("roles", [{}, {"weight": "w"}, EVERYTHING], ids=["plain", "weight", "everything"])
def test_the_room_that_is_asked_for_is_what_a_conversion_takes(tmp_path: Path, roles: dict) -> None:
    n = 40_000
    two = {"id": np.arange(n) // 2, "mode": np.tile(["bus", "car"], n // 2), "took": np.tile([0, 1], n // 2)}
    ones = {name: np.ones(n) for name in ("w", "f", "cost", "time")} | {"town": two["id"], "day": two["id"]}
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({**two, **ones}), path)
    files, most = ChoiceFiles(path, **ROLES, **roles), []
    design = Logit([Term("cost", only="bus"), "time"])._design()

    def measure() -> None:
        most.append(sum(file.stat().st_size for file in tmp_path.glob("cache/.*/made/*")))

    arguments = (
        cell_types(files.columns, design.columns),
        files.columns,
        design,
        Manifest("", *[[]] * 4, "", []),
    )
    convert([path], *arguments, tmp_path / "cache" / "store", memory=10**9, n_rows=n, confirm=measure)
    stored = sum(file.stat().st_size for file in (tmp_path / "cache" / "store").iterdir())
    assert max(most[0], stored) <= _room(n, files.columns, design) < 1.5 * max(most[0], stored)


def test_long_texts_behind_short_codes_are_refused(tmp_path: Path) -> None:
    table = pa.table(
        {"id": pa.array(["x" * 1_000_000] * 26).dictionary_encode(), "took": np.zeros(26, np.int64)}
    )
    pq.write_table(table, tmp_path / "bomb.parquet")
    with pytest.raises(FileError, match=r"E504 bomb.parquet holds 26 MB of text in 26 rows"):
        convert_ids_and_choices(tmp_path / "bomb.parquet", tmp_path / "store", memory=20_000_000)


def test_a_choice_set_without_end_is_refused(tmp_path: Path) -> None:
    n = 300_000
    path = tmp_path / "one.parquet"
    pq.write_table(pa.table({"id": np.zeros(n, np.int64), "took": np.zeros(n, np.int64)}), path)
    with pytest.raises(FileError, match="E504 the choice set 0 has more than"):
        convert_ids_and_choices(path, tmp_path / "store", memory=6_000_000)


def test_a_flipped_bit_of_a_checksummed_parquet_file_is_refused(tmp_path: Path) -> None:
    table = rows(400)
    folder = write(tmp_path / "data", [table])
    path = folder / "part-0.parquet"
    clean = path.read_bytes()
    draw = random.Random(5)
    start = pq.read_metadata(path).row_group(0).column(3).data_page_offset
    for _ in range(10):
        bit = draw.randrange(8 * (start + 40), 8 * (start + 2000))
        damaged = bytearray(clean)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"E50[23] part-0.parquet"):
            ChoiceFiles(folder, **ROLES).store(MODEL._design())


def test_columns_by_name_and_as_a_record_are_the_same_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [rows(20)])
    for cluster in ("town", ["town"], ("town", "shop"), None):
        record = ChoiceColumns(**ROLES, cluster=cluster)
        assert ChoiceFiles.of_columns(folder, record) == ChoiceFiles(folder, **ROLES, cluster=cluster)


# --- the store ---


def test_a_store_is_used_again_until_files_terms_or_options_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "data", [rows(20)])
    calls: list[int] = []

    def counted(*arguments: object, **options: object) -> None:
        calls.append(1)
        convert(*arguments, **options)

    monkeypatch.setattr("gmmest.data.choice_files.convert", counted)

    def files(**options: object) -> ChoiceFiles:
        return ChoiceFiles(folder, **ROLES, **options)

    first = files().store(MODEL._design())
    assert len(calls) == 1
    assert first.folder.parent == tmp_path / ".gmmest-cache"
    assert files().store(MODEL._design()).folder == first.folder
    assert len(calls) == 1
    other = files().store(INSTRUMENTED._design())
    assert len(calls) == 2
    assert other.folder != first.folder
    files(on_bad_sets="drop").store(MODEL._design())
    assert len(calls) == 3
    # Another content of the same size and time of writing.
    path = folder / "part-0.parquet"
    times = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    files().store(MODEL._design())
    assert len(calls) == 3
    write(folder, [rows(20, seed=2)])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = files().store(MODEL._design())
    assert len(calls) == 4
    assert not first.folder.exists()
    assert changed.folder.exists()
    assert other.folder.exists()


def test_files_that_nobody_wrote_since_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gmmest.data.source_files as found

    monkeypatch.setattr(found, "SETTLED", 0.0)
    folder = write(tmp_path / "data", [rows(20)])
    made = ChoiceFiles(folder, **ROLES).store(MODEL._design())
    assert read_manifest(made.folder).sources[0].stamp
    monkeypatch.setattr(found, "file_sha256", None)
    assert ChoiceFiles(folder, **ROLES).store(MODEL._design()).folder == made.folder


@pytest.mark.parametrize("settled", [0.0, 3600.0], ids=["old", "young"])
@pytest.mark.parametrize("again", [rows(900, seed=2), rows(900, seed=1)], ids=["other rows", "same rows"])
def test_files_rewritten_while_they_are_read_make_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: float, again: pa.Table
) -> None:
    monkeypatch.setattr("gmmest.data.source_files.SETTLED", settled)
    path = tmp_path / "d.csv"
    pa_csv.write_csv(rows(900), path)

    def rewrite(done: int, total: int | None) -> None:
        pa_csv.write_csv(again, path)

    files = ChoiceFiles(path, **ROLES, progress=rewrite)
    with pytest.raises(FileError, match=r"E516 d.csv was changed while it was read"):
        files.store(MODEL._design())
    assert not list((tmp_path / ".gmmest-cache").iterdir())


def test_a_rewriting_that_does_not_show_in_the_times_of_a_young_file_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.csv"
    pa_csv.write_csv(rows(900), path)
    coarse = State("a file system that counts whole seconds", settled=False)
    monkeypatch.setattr("gmmest.data.choice_files.state", lambda path: coarse)
    monkeypatch.setattr("gmmest.data.source_files.state", lambda path: coarse)

    def rewrite(done: int, total: int | None) -> None:
        path.write_bytes(path.read_bytes().replace(b"bus", b"air"))

    with pytest.raises(FileError, match=r"E516 d.csv was changed while it was read"):
        ChoiceFiles(path, **ROLES, progress=rewrite).store(MODEL._design())
    assert not list((tmp_path / ".gmmest-cache").iterdir())


def test_a_folder_without_a_manifest_is_no_store_and_makes_room_for_one(tmp_path: Path) -> None:
    files = ChoiceFiles(write(tmp_path / "data", [rows(20)]), **ROLES)
    made = files.store(MODEL._design()).folder
    before = stored_bytes(made)
    (made / "manifest.json").unlink()
    (made / "features.bin").write_bytes(b"half of it")
    assert files.store(MODEL._design()).folder == made
    assert stored_bytes(made) == before
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_any_flipped_bit_of_a_store_is_seen_and_named(tmp_path: Path) -> None:
    files = ChoiceFiles(write(tmp_path / "data", [rows(300)]), **ROLES, **EVERYTHING)
    store = files.store(INSTRUMENTED._design()).folder
    paths = sorted(store.iterdir())
    assert len(paths) == 11
    draw = random.Random(7)
    for _ in range(30):
        path = draw.choice(paths)
        clean = path.read_bytes()
        bit = draw.randrange(8 * len(clean))
        damaged = bytearray(clean)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=f"E502 {path.name} of the store") as caught:
            files.store(INSTRUMENTED._design())
        assert "delete this folder" in str(caught.value)
        path.write_bytes(clean)
    files.store(INSTRUMENTED._design())
    paths[0].write_bytes(paths[0].read_bytes()[:-8])
    with pytest.raises(FileError, match="were written"):
        open_store(store, verify=False)
    paths[0].unlink()
    with pytest.raises(FileError, match=f"E502 {paths[0].name} of the store is not there"):
        open_store(store)


def test_the_damaged_page_is_named_with_its_rows(tmp_path: Path) -> None:
    n = 3 * PAGE // 8
    table = pa.table(
        {"id": np.arange(n) // 2, "took": np.arange(n) % 2, "cost": np.random.default_rng(1).normal(size=n)}
    )
    pq.write_table(table, tmp_path / "long.parquet")
    files = ChoiceFiles(tmp_path / "long.parquet", case="id", chosen="took")
    store = files.store(Logit(["cost"])._design()).folder
    with open(store / "features.bin", "r+b") as file:
        file.seek(PAGE + 17)
        byte = file.read(1)
        file.seek(PAGE + 17)
        file.write(bytes([byte[0] ^ 64]))
    with pytest.raises(
        FileError, match=r"E502 features.bin of the store: page 2 .* rows 524,289-1,048,576 are"
    ):
        files.store(Logit(["cost"])._design())
    assert open_store(store, verify=False).block.n_rows == n


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


FIT = """
    import sys
    import resource
    from gmmest.data.choice_files import ChoiceFiles
    from gmmest.errors import FileError
    from gmmest.models.logit import Logit
    folder, limit, die = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    def progress(done, total):
        if die and done > die:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
    files = ChoiceFiles(folder, case="id", alternative="mode", chosen="took", progress=progress)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        files.store(Logit(["cost"])._design())
    except FileError as error:
        print(error)
    """


@pytest.mark.parametrize("limit", [100, 12_000, 23_000])
def test_a_full_disk_leaves_no_half_store_and_the_old_one_intact(tmp_path: Path, limit: int) -> None:
    folder = write(tmp_path / "data", [rows(1000)])
    old = ChoiceFiles(folder, **ROLES).store(MODEL._design()).folder
    before = stored_bytes(old)
    done = run(FIT, folder, limit, 0)
    assert "E501 cannot write the store of converted data: File too large; it takes about" in done.stdout, (
        done.stderr
    )
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert stored_bytes(old) == before


def test_a_conversion_that_was_killed_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "data",
        [
            rows(50, seed=k).set_column(0, "id", pa.array(np.asarray(rows(50, seed=k)["id"]) + 1000 * k))
            for k in range(3)
        ],
    )
    assert run(FIT, folder, 0, 150).returncode == -9
    left = list((tmp_path / ".gmmest-cache").iterdir())
    assert len(left) == 1
    assert left[0].name.endswith(".tmp")
    store = ChoiceFiles(folder, **ROLES).store(Logit(["cost"])._design())
    assert [path.name for path in store.folder.parent.iterdir()] == [store.folder.name]
    assert store.block.n_rows == sum(pq.read_metadata(path).num_rows for path in folder.iterdir())


def test_conversions_of_equal_process_number_leave_each_other_alone(tmp_path: Path) -> None:
    # As in containers, or on hosts that share a folder; here it is one process.
    manifest = Manifest("", [], [], [], [], "", [])
    target = tmp_path / "cache" / "store"
    with StoreWriter(target) as first:
        first.append("chosen", np.ones(3))
        with StoreWriter(target) as second:
            second.append("chosen", np.ones(3))
            assert first.scratch != second.scratch
            assert first.path("chosen").is_file()
            second.finish(manifest)
        first.finish(manifest)
    assert [path.name for path in target.parent.iterdir()] == ["store"]
    assert sorted(path.name for path in target.iterdir()) == ["chosen.bin", "manifest.json"]


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [rows(20)])
    (tmp_path / "taken").touch()
    with pytest.raises(
        FileError, match=r"E501 cannot write the store(.|\n)*next:  name another folder for it with  cache"
    ):
        ChoiceFiles(folder, **ROLES, cache=tmp_path / "taken").store(MODEL._design())


def test_memory_that_the_process_exceeds_already_is_refused() -> None:
    with pytest.raises(GmmestError, match="E102 memory='many': a size such as 2GB"):
        ChoiceFiles("x", **ROLES, memory="many")
    with pytest.raises(GmmestError, match="E102 memory=1 MB: this process and the libraries it loads hold"):
        ChoiceFiles("x", **ROLES, memory="1MB")._room()


MEASURE = """
    import sys, threading, time
    import numpy, narwhals, pyarrow.parquet, pyarrow.csv, pyarrow.compute
    from gmmest.data.choice_files import ChoiceFiles
    from gmmest.data.memory import anonymous_memory
    from gmmest.models.logit import Logit
    base = anonymous_memory()
    peak, going = [0], [True]
    def watch():
        while going:
            peak[0] = max(peak[0], anonymous_memory())
            time.sleep(0.002)
    thread = threading.Thread(target=watch); thread.start()
    limit = base + 150 * 10**6
    names = [f"x{k}" for k in range(5)]
    files = ChoiceFiles(sys.argv[1], case="id", chosen="took", memory=limit)
    store = files.store(Logit(names)._design())
    going.clear(); thread.join()
    print(peak[0] - base, store.block.n_rows)
    """


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_anonymous_memory_stays_under_the_limit(tmp_path: Path, kind: str) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell what a process holds")
    # Long ids, coded in the file: 600 MB where they are written out, and few rows.
    n, parts = (50_000, 20) if kind == "parquet" else (50_000, 4)
    cost = np.random.default_rng(1).choice(np.linspace(0, 1, 200).round(4), (5, n))
    for i in range(parts):
        ids = np.char.add("x" * (560 if kind == "parquet" else 8), (np.arange(n) // 5 + i * n).astype(str))
        columns = {"id": ids.tolist(), "took": (np.arange(n) % 5 == 0).astype(int)}
        table = pa.table({**columns, **{f"x{k}": column for k, column in enumerate(cost)}})
        write_one = pq.write_table if kind == "parquet" else pa_csv.write_csv
        write_one(table, tmp_path / f"part-{i}.{kind}")
    assert kind == "csv" or parts * n * (560 + 6 * 8) > 4 * 150 * 10**6
    done = run(MEASURE, tmp_path)
    assert not done.stderr
    peak, read = map(int, done.stdout.split())
    assert read == parts * n
    assert peak < 150 * 10**6


def test_workers_map_the_store_itself(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from gmmest.execution.spill import Piece, Spill

    folder = write(tmp_path / "data", [rows(600)])
    sample = INSTRUMENTED.sample(ChoiceFiles(folder, **ROLES))
    (tmp_path / "spilled").mkdir()
    message = Spill(tmp_path / "spilled").message(sample.blocks[0])
    stored = {Path(array.path).name for array in message.arrays if isinstance(array, Piece)}
    assert stored >= {"features.bin", "instruments.bin", "chosen.bin"}
    assert sum(path.stat().st_size for path in (tmp_path / "spilled").iterdir()) < 8 * 1000


def test_labels_that_differ_only_in_blanks_or_capitals_are_noted(tmp_path: Path) -> None:
    table = rows(30)
    mode = table["mode"].to_pylist()
    first = {label: mode.index(label) for label in ("bus", "car")}
    mode[first["bus"]], mode[first["car"]] = "bus ", "Car"
    table = table.set_column(1, "mode", pa.array(mode))
    note = "W316 alternatives whose labels differ only in blanks or capitals: "
    (found,) = ChoiceData.from_frame(table, **ROLES).notes
    assert found.startswith(note)
    assert "'bus '" in found
    assert "'Car'" in found
    folder = write(tmp_path / "data", [table])
    stored = converted(ChoiceFiles(folder, **ROLES), MODEL, tmp_path / "store", 7)
    assert read_manifest(stored).notes == [found]
    assert ChoiceData.from_frame(rows(30), **ROLES).notes == ()
