"""``gmmest bootstrap``: tables, files, and going on after an end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gmmest_cli.main import _run

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

    more = (LOGIT, "--replications", "20", "--seed", "1", "--out", str(folder), "--resume", "--json")
    code, out, _ = run(capsys, *more)
    assert code == 0
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
        (("--kind", "cluster", "--replications", "5"), "one cluster column"),
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
