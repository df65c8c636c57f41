"""Choices drawn into files: the same for the same arguments, whole or not there, and fitted by their own job."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from gmmest_cli.main import _run

import gmmest as gm
from gmmest import simulate
from gmmest.errors import ConfigError, FileError
from gmmest.simulate import simulate_files

SIZES = {"sets": 500, "alternatives": (2, 5), "features": 2, "moments": 3, "seed": 11}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and files of a size that a test has several of."""
    monkeypatch.setattr(simulate, "PIECE", 1000)
    monkeypatch.setattr(simulate, "FILE", 3000)


@pytest.mark.usefixtures("small")
def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first = simulate_files(tmp_path / "a", **SIZES)
    assert np.array_equal(first, simulate_files(tmp_path / "b", **SIZES))
    names = sorted(path.name for path in (tmp_path / "a" / "data").iterdir())
    assert len(names) > 1
    for name in names:
        assert (tmp_path / "a" / "data" / name).read_bytes() == (tmp_path / "b" / "data" / name).read_bytes()
    assert not np.array_equal(first, simulate_files(tmp_path / "c", **{**SIZES, "seed": 12}))
    assert json.loads((tmp_path / "a" / "simulated.json").read_text())["theta"] == first.tolist()


@pytest.mark.usefixtures("small")
def test_a_shorter_draw_is_the_head_of_a_longer_one_however_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate_files(tmp_path / "long", **SIZES)
    monkeypatch.setattr(simulate, "FILE", 10**6)
    simulate_files(tmp_path / "short", **{**SIZES, "sets": 217})
    assert len(list((tmp_path / "short" / "data").iterdir())) == 1
    short = pq.read_table(tmp_path / "short" / "data")
    assert pq.read_table(tmp_path / "long" / "data").slice(0, short.num_rows).equals(short)
    assert short["set"][-1].as_py() == 216


def test_the_job_beside_the_files_finds_what_was_planted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "drawn")
    sizes = ["--sets", "4000", "--alternatives", "[2, 6]", "--features", "3", "--moments", "5", "--seed", "2"]
    assert _run(["simulate", "--out", out, *sizes]) == 0
    assert "4,000 choice sets" in capsys.readouterr().out
    assert _run(["fit", str(tmp_path / "drawn" / "job.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    theta = json.loads((tmp_path / "drawn" / "simulated.json").read_text())["theta"]
    assert found["n_obs"] == 4000
    assert found["n_moments"] == 5
    for k, planted in enumerate(theta):
        assert abs(found["params"][f"x{k}"] - planted) < 4 * found["bse"][f"x{k}"]


def test_sizes_come_from_a_configuration_and_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "seed.yaml"
    job.write_text(
        "data: {simulate: {sets: 50, alternatives: 3, features: 2, moments: 2, seed: 1}}\nmodel: {kind: logit}\n"
    )
    assert _run(["simulate", str(job), "--out", str(tmp_path / "drawn"), "--sets", "70"]) == 0
    assert pq.read_table(tmp_path / "drawn" / "data").num_rows == 210
    capsys.readouterr()
    assert _run(["simulate", "--out", str(tmp_path / "other"), "--sets", "70"]) == 2
    assert "E102 data.simulate.features is missing" in capsys.readouterr().err
    assert _run(["simulate", str(job), "--out", str(tmp_path / "other"), "--moments", "1"]) == 2
    assert "fewer than the 2 features" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_was_not_drawn_here_is_never_replaced(tmp_path: Path) -> None:
    simulate_files(tmp_path / "drawn", **SIZES)
    with pytest.raises(FileError, match="E508 drawn is there already"):
        simulate_files(tmp_path / "drawn", **SIZES)
    simulate_files(tmp_path / "drawn", **{**SIZES, "sets": 5}, force=True)
    assert len(np.unique(pq.read_table(tmp_path / "drawn" / "data")["set"])) == 5
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    with pytest.raises(FileError, match="E508 home is there already, and is no folder of simulated choices"):
        simulate_files(tmp_path / "home", **SIZES, force=True)
    with pytest.raises(ConfigError, match="E102 1 moments for 2 features"):
        simulate_files(tmp_path / "none", **{**SIZES, "moments": 1})
    with pytest.raises(FileError, match=r"E501 cannot write: .* are free; the files take about"):
        simulate_files(tmp_path / "none", **{**SIZES, "sets": 10**14})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "home"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from gmmest.errors import FileError
        from gmmest.simulate import simulate_files
        import pyarrow.parquet
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            simulate_files(sys.argv[1], sets=5000, alternatives=3, features=2, moments=2, seed=1)
        except FileError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "drawn")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.startswith("E501 cannot write: "), done.stderr
    assert "the files take about 300 KB" in done.stdout
    assert not list(tmp_path.iterdir())


def test_every_page_has_a_checksum_that_is_looked_at(tmp_path: Path) -> None:
    simulate_files(tmp_path / "drawn", **SIZES)
    path = tmp_path / "drawn" / "data" / "part-00000.parquet"
    column = pq.read_metadata(path).row_group(0).column(3)
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(damaged)
    files = gm.ChoiceFiles(tmp_path / "drawn" / "data", case="set", chosen="chosen")
    with pytest.raises(FileError, match=r"E502 part-00000.parquet: a page does not match its checksum"):
        gm.Logit(["x0", "x1"]).sample(files)
