"""``gmmest bootstrap``: tables, files, and going on after an end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gmmest_cli.main import _run

from gmmest import config
from gmmest.config.build import fit
from gmmest.execution.journal import locked

ROOT = Path(__file__).parents[2]
LOGIT = str(ROOT / "configs" / "logit.yaml")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = _run(["bootstrap", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_table_with_its_seed_and_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, LOGIT, "--replications", "60", "--kind", "wild", "--seed", "3")
    assert (code, err) == (0, "")
    assert "bootstrap (wild score): 60 replications, none left out" in out
    for piece in ("Seed", "rademacher", "percentile-t", "hinc_air"):
        assert piece in out


def test_a_folder_goes_on_to_the_same_bits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "folder"
    assert run(capsys, LOGIT, "--replications", "20", "--seed", "1", "--out", str(whole))[0] == 0
    assert run(capsys, LOGIT, "--replications", "7", "--seed", "1", "--out", str(folder))[0] == 0

    code, _, err = run(capsys, LOGIT, "--replications", "20", "--seed", "1", "--out", str(folder))
    assert code == 2
    assert "E508" in err
    assert "next:  --resume, or another --out" in err

    more = (LOGIT, "--replications", "20", "--seed", "1", "--out", str(folder), "--resume", "--json")
    code, out, err = run(capsys, *more)
    assert code == 0
    assert err == "resumed: 7 replications from the journal, 13 made now\n"
    results = [json.loads((each / "bootstrap.json").read_text()) for each in (whole, folder)]
    results.append(json.loads(out))
    for read in results:
        read.pop("seconds")
    assert results[0] == results[1] == results[2]
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["bootstrap.json", "bootstrap.txt", "draws.journal"]

    code, _, err = run(capsys, LOGIT, "--seed", "2", "--out", str(folder), "--resume")
    assert code == 2
    assert "seed was 1, and is 2 now" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--resume",), "--out FOLDER"),
        (
            ("--kind", "cluster", "--replications", "5"),
            "bootstrap.kind cluster takes one of data.cluster, found 0",
        ),
        (("--kind", "block"), "block"),
    ],
)
def test_what_cannot_be_done_is_said(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    code, out, err = run(capsys, LOGIT, *arguments)
    assert (code, out) == (2, "")
    assert text in err


def test_an_estimate_that_is_not_verified_is_not_bootstrapped(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "configs" / "overidentified.yaml")
    options = ("estimation.optimizer=nelder-mead", "estimation.maxiter=1")
    code, out, err = run(capsys, config, "--set", options[0], "--set", options[1])
    assert (code, out) == (3, "")
    assert "NOT VERIFIED" in err


# --- the section of the configuration ------------------------------------------------------------------------


@pytest.fixture
def clustered(tmp_path: Path) -> Path:
    """A fit with robust S whose clusters are there for the bootstrap alone."""
    path = tmp_path / "clustered.yaml"
    path.write_text(
        f"data: {{path: '{ROOT / 'data' / 'wages.csv'}', cluster: town}}\n"
        "model: {kind: linear_iv, dependent: lwage, exogenous: exper, endogenous: school,"
        " instruments: [distance, mother]}\n"
        "bootstrap: {replications: 12, kind: cluster, seed: 4}\n",
        encoding="utf-8",
    )
    return path


def test_the_section_and_the_options_say_what_python_says(
    capsys: pytest.CaptureFixture[str], clustered: Path
) -> None:
    result = fit(config.load(clustered))
    assert result.estimate.s.estimator == "robust"
    for options, python in (
        ((), result.bootstrap(12, "cluster", seed=4)),
        (("--seed", "5", "--no-recentre"), result.bootstrap(12, "cluster", seed=5, recentre=False)),
        (("--kind", "wild", "--cluster", "town"), result.bootstrap(12, "wild", seed=4, cluster="town")),
        (("--set", "bootstrap.replications=20"), result.bootstrap(20, "cluster", seed=4)),
    ):
        code, out, err = run(capsys, str(clustered), *options, "--json")
        assert (code, err) == (0, "")
        ours, theirs = json.loads(out), json.loads(python.to_json())
        for record in (ours, theirs):
            record.pop("seconds")
        assert ours == theirs
    assert not np.allclose(
        result.bootstrap(12, "pairs", seed=4).draws, result.bootstrap(12, "cluster", seed=4).draws
    )


def test_clusters_may_be_there_for_the_option_alone(
    capsys: pytest.CaptureFixture[str], clustered: Path
) -> None:
    text = clustered.read_text(encoding="utf-8")
    clustered.write_text(text.partition("bootstrap:")[0], encoding="utf-8")
    assert run(capsys, str(clustered), "--kind", "cluster", "--replications", "5")[0] == 0
    code, _, err = run(capsys, str(clustered), "--replications", "5")
    assert code == 2
    assert "data.cluster has no use with weighting robust" in err


@pytest.mark.parametrize(
    "command", [["fit"], ["compare", "--rounds", "1", "--grad", "forward"]], ids=lambda c: c[0]
)
def test_other_commands_say_that_they_leave_it_aside(
    capsys: pytest.CaptureFixture[str], clustered: Path, command: list[str]
) -> None:
    assert _run([*command, str(clustered)]) == 0
    said = "the section bootstrap is for  gmmest bootstrap,  and plays no part here\n"
    assert capsys.readouterr().err == said


def test_one_process_at_a_time_works_in_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with locked(folder):
        code, out, err = run(capsys, LOGIT, "--replications", "5", "--out", str(folder))
    assert (code, out) == (2, "")
    assert "E506 " in err
    assert list(folder.iterdir()) == []
    assert run(capsys, LOGIT, "--replications", "5", "--out", str(folder))[0] == 0
    assert "lock" not in {path.name for path in folder.iterdir()}


def test_who_computes_is_said_as_for_a_fit_and_changes_no_bit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = []
    in_files = ("--memory", "4GB", "--set", f"data.cache={tmp_path}")
    for options in ((), ("--executor", "serial"), ("--workers", "2"), in_files):
        code, out, err = run(capsys, LOGIT, "--replications", "5", *options, "--json")
        assert (code, err) == (0, "")
        found.append(json.loads(out))
        found[-1].pop("seconds")
    assert found[1:] == found[:1] * 3
    assert list(tmp_path.glob("*/features.bin"))


@pytest.mark.parametrize("command", ["fit", "bootstrap", "simulate"])
def test_an_empty_name_is_not_the_current_folder(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert _run([command, LOGIT, "--out", ""]) == 2
    assert "the name of a folder was expected, and it is empty" in capsys.readouterr().err
