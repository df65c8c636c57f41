"""Runs that are killed, interrupted, out of room or out of place; and the same bits when they go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gmmest_cli.main import _run

ROOT = Path(__file__).parents[2]
OVERIDENTIFIED = ROOT / "configs" / "overidentified.yaml"
VERIFIED, BAD_INPUT, ENVIRONMENT, INTERRUPTED, TERMINATED = 0, 2, 4, 130, 143
FILES = ["config.json", "journal", "manifest.json", "result.json", "summary.txt"]

SLOW = """
data: {simulate: {sets: 4000, alternatives: [4, 8], features: 6, moments: 9, seed: 5}}
model: {kind: logit}
estimation: {optimizer: bfgs, starts: 2}
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = _run(list(map(str, arguments)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def answer(folder: Path) -> dict[str, Any]:
    """What a run found, without how long it took."""
    found = json.loads((folder / "result.json").read_text())
    del found["seconds"]
    return found  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that takes some seconds, with its uninterrupted run beside it."""
    folder = tmp_path_factory.mktemp("slow")
    config = folder / "slow.yaml"
    config.write_text(SLOW)
    assert _run(["fit", str(config), "--out", str(folder / "whole"), "--json"]) == VERIFIED
    return config


@pytest.fixture(scope="module")
def travel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the travel mode that is done."""
    folder = tmp_path_factory.mktemp("travel") / "run"
    assert _run(["fit", str(OVERIDENTIFIED), "--out", str(folder)]) == VERIFIED
    return folder


def started(config: Path, folder: Path, evaluations: int = 20) -> subprocess.Popen[str]:
    """A process that is somewhere in the middle of its fit."""
    command = [sys.executable, "-m", "gmmest_cli", "fit", str(config), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = folder / "journal"
    patience = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\xa7rec") <= evaluations:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.005)
    return process


# --- killed ------------------------------------------------------------------------------------------


def test_after_sigkill_a_run_goes_on_to_the_same_bits_and_no_second_one_joins_it(
    slow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with started(slow, folder) as process:
        for arguments in (["--resume", folder], [slow, "--out", folder, "--force"]):
            code, _, err = run(capsys, "fit", *arguments)
            assert code == BAD_INPUT
            assert f"E506 process {process.pid} on " in err
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "journal", "lock", "manifest.json"]
    with (folder / "journal").open("ab") as torn:
        torn.write(b"\xa7rec torn")

    code, out, err = run(capsys, "fit", slow, "--out", folder)
    assert (code, out) == (BAD_INPUT, "")
    assert err.startswith(
        "the lock of a process that is gone was taken over\n"
        "E508 config.json, manifest.json, journal already there\n"
    )
    assert f"next:  gmmest fit --resume {folder}, another --out folder, or --force" in err

    code, _, err = run(capsys, "fit", "--resume", folder)
    assert code == VERIFIED
    told = re.fullmatch(r"resumed: ([\d,]+) evaluations from the journal, ([\d,]+) made now\n", err)
    assert told, err
    assert all(len(count) > 1 for count in told.groups()), "killed in the middle"
    assert sum(int(count.replace(",", "")) for count in told.groups()) == answer(folder)["evaluations"]
    assert answer(folder) == answer(slow.parent / "whole")
    assert (folder / "journal").read_bytes() == (slow.parent / "whole" / "journal").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == FILES


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)], ids=["INT", "TERM"]
)
def test_a_signal_tells_where_the_run_stood_and_how_it_goes_on(
    slow: Path, tmp_path: Path, number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a run"
    with started(slow, folder, 15) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    told = re.fullmatch(
        rf"interrupted at evaluation ([\d,]+); resume with: gmmest fit --resume '{folder}'\n", err
    )
    assert told, err
    stopped = int(told[1].replace(",", ""))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "journal", "manifest.json"]

    done, _, err = run(capsys, "fit", "--resume", folder)
    assert done == VERIFIED
    resumed = int(re.match(r"resumed: (\d+) evaluations", err)[1])  # type: ignore[index]
    assert stopped - 1 <= resumed <= stopped  # the one that was being made may have been written
    assert answer(folder) == answer(slow.parent / "whole")


def test_without_a_folder_a_signal_is_told_too(slow: Path) -> None:
    endless = ["--set", "estimation.starts=100000"]
    command = [sys.executable, "-m", "gmmest_cli", "fit", str(slow), *endless]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(2.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert re.match(
        r"interrupted (at evaluation [\d,]+|before the first evaluation); nothing was kept", err
    ), err


SIZES = ["--alternatives", "3", "--features", "2", "--seed", "1"]


def until(process: subprocess.Popen[str], path: Path, pattern: str) -> None:
    patience = time.monotonic() + 60
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)], ids=["INT", "TERM"]
)
@pytest.mark.parametrize(
    ("arguments", "sign", "left", "advice"),
    [
        (
            ["simulate", "--out", "drawn", *SIZES, "--sets", "50000000"],
            ".drawn.*/made/data",
            [],
            "nothing was kept",
        ),
        (
            ["bootstrap", "job.yaml", "--replications", "10000000", "--out", "drawn"],
            "drawn/draws.journal",
            ["drawn", "drawn/draws.journal"],
            "the same command with --resume goes on",
        ),
    ],
    ids=["simulate", "bootstrap"],
)
def test_a_signal_ends_every_command_with_a_word_and_without_locks_or_scratch(
    tmp_path: Path, number: int, code: int, arguments: list[str], sign: str, left: list[str], advice: str
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(SLOW.replace("4000", "400").partition("estimation")[0])
    command = [sys.executable, "-m", "gmmest_cli", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        until(process, tmp_path, sign)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", f"interrupted; {advice}\n")
    job.unlink()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == left


def test_what_a_killed_simulation_left_is_removed_by_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["simulate", "--out", str(tmp_path / "drawn"), *SIZES, "--sets"]
    with subprocess.Popen([sys.executable, "-m", "gmmest_cli", *arguments, "50000000"]) as process:
        until(process, tmp_path, ".drawn.*/made/data")
        (tmp_path / ".drawn.other.tmp").mkdir()  # not ours
        assert run(capsys, *arguments, "50")[0] == 0
        assert len(list(tmp_path.glob(".drawn.*"))) == 2, "that of a process at work stays"
        process.kill()
    assert run(capsys, *arguments, "50", "--force")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".drawn.other.tmp", "drawn"]


# --- no room -----------------------------------------------------------------------------------------


def test_without_room_for_the_journal_the_fit_says_so_and_goes_on_when_there_is(
    travel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = f"{sys.executable} -m gmmest_cli fit {OVERIDENTIFIED} --out {folder}"
    full = subprocess.run(
        ["bash", "-c", f"ulimit -f 16; exec {command}"], capture_output=True, text=True, check=False
    )
    assert (full.returncode, full.stdout) == (ENVIRONMENT, ""), full.stderr
    told = re.fullmatch(
        r"E501 cannot write to the journal: File too large\n"
        rf"  where: {folder}/journal, after (\d+) records\n"
        rf"  next:  free space, then  gmmest fit --resume {folder}\n",
        full.stderr,
    )
    assert told, full.stderr
    assert int(told[1]) > 10
    assert run(capsys, "fit", "--resume", folder)[0] == VERIFIED
    assert answer(folder) == answer(travel)


# --- finished, or never begun ------------------------------------------------------------------------------


def test_a_finished_run_prints_its_result_again_and_changes_no_file(
    travel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(p.name for p in travel.iterdir()) == FILES
    before = {p.name: p.read_bytes() for p in travel.iterdir()}
    code, out, err = run(capsys, "fit", "--resume", travel, "--json")
    assert code == VERIFIED
    printed = json.loads(out)
    seconds = printed.pop("seconds")
    assert seconds > 0
    assert printed == answer(travel)
    assert err == f"resumed: {printed['evaluations']} evaluations from the journal, 0 made now\n"
    assert {p.name: p.read_bytes() for p in travel.iterdir()} == before


def test_a_run_killed_before_its_first_evaluation_begins_anew(
    travel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "manifest.json"):
        shutil.copy(travel / name, folder)
    code, _, err = run(capsys, "fit", "--resume", folder)
    assert code == VERIFIED
    assert err.startswith("there is no journal in this folder: the fit begins anew\nresumed: 0 evaluations")
    assert answer(folder) == answer(travel)


def test_force_begins_anew_and_leaves_no_result_of_the_run_before(
    travel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(travel, folder)
    steps = ["--set", "estimation.steps=onestep"]
    assert run(capsys, "fit", OVERIDENTIFIED, "--out", folder, "--force", *steps)[0] == VERIFIED
    assert sorted(p.name for p in folder.iterdir()) == FILES
    assert answer(folder)["steps"] == "onestep"
    assert json.loads((folder / "config.json").read_text())["estimation"]["steps"] == "onestep"


def test_nothing_to_resume_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        code, out, err = run(capsys, "fit", "--resume", folder)
        assert (code, out) == (BAD_INPUT, "")
        assert f"E511 {folder} is no folder of a run: config.json is missing" in err


# --- other settings, other data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--grad", "fd"],
            'E509 the run in this folder has other settings: estimation.grad was "auto", and is "fd"',
        ),
        (["--set", "estimation.maxiter=9"], "estimation.maxiter was not there, and is 9 now"),
        ([str(ROOT / "configs" / "logit.yaml")], "has other settings: model.instruments"),
        (["--out", "elsewhere"], "--resume goes on in the folder of the run"),
        (["--force"], "--resume goes on in the folder of the run"),
    ],
)
def test_options_that_contradict_the_run_are_refused(
    travel: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "fit", "--resume", travel, *arguments)
    assert (code, out) == (BAD_INPUT, "")
    assert said in err


def test_options_that_repeat_the_run_or_say_who_computes_are_accepted(
    travel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [OVERIDENTIFIED, "--grad", "auto", "--set", "estimation.executor=threads"]
    assert run(capsys, "fit", "--resume", travel, *arguments)[0] == VERIFIED


def copied(tmp_path: Path) -> Path:
    """The travel mode and its configuration in a folder of their own, and a run beside them."""
    for name in ("data", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    folder = tmp_path / "run"
    assert _run(["fit", str(tmp_path / "configs" / "overidentified.yaml"), "--out", str(folder)]) == VERIFIED
    return folder


def test_a_journal_of_other_data_or_of_settings_that_were_edited_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(tmp_path)
    settings = folder / "config.json"
    text = settings.read_text()
    settings.write_text(text.replace('"robust"', '"unadjusted"'))
    code, _, err = run(capsys, "fit", "--resume", folder)
    assert code == BAD_INPUT
    assert "E509 this journal is of another run: weighting was 'robust', and is 'unadjusted' now" in err
    settings.write_text(text)

    rows = tmp_path / "data" / "travel_mode.csv"
    lines = rows.read_text().splitlines()
    cells = lines[5].split(",")
    column = lines[0].split(",").index("gc")
    cells[column] = str(int(cells[column]) + 1)
    rows.write_text("\n".join([*lines[:5], ",".join(cells), *lines[6:]]) + "\n")
    code, _, err = run(capsys, "fit", "--resume", folder)
    assert code == BAD_INPUT
    assert re.search("E509 this journal is of another run: data was [0-9a-f]+", err)


def test_code_that_was_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even where it makes no difference: what it calls elsewhere cannot be known."""
    (tmp_path / "rows.csv").write_text("y\n1.0\n2.0\n6.0\n")
    code = tmp_path / "mine.py"
    code.write_text("def mean(theta, rows):\n    return (rows['y'] - theta[0])[:, None]\n")
    config = tmp_path / "job.yaml"
    config.write_text(
        "data: {path: rows.csv}\n"
        "model: {kind: moment_function, function: 'mine:mean', names: [mu], columns: [y]}\n"
    )
    folder = tmp_path / "run"
    assert run(capsys, "fit", config, "--out", folder)[0] == VERIFIED
    status, _, err = run(capsys, "fit", "--resume", folder)
    assert status == VERIFIED
    assert err.startswith("executes mine.py:mean, named by model.function\nresumed: ")
    code.write_text(code.read_text() + "\n")
    status, _, err = run(capsys, "fit", "--resume", folder)
    assert status == BAD_INPUT
    assert "E509 the run in this folder has other settings: mine.py:mean has changed" in err


def test_a_run_that_was_moved_finds_its_data_by_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "before").mkdir()
    copied(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    folder = tmp_path / "after" / "run"
    code, _, err = run(capsys, "fit", "--resume", folder)
    assert code == BAD_INPUT
    assert "E511" in err
    config = tmp_path / "after" / "configs" / "overidentified.yaml"
    assert run(capsys, "fit", config, "--resume", folder)[0] == VERIFIED


def test_a_damaged_journal_is_refused(
    travel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(travel, folder)
    content = bytearray((folder / "journal").read_bytes())
    content[len(content) // 2] ^= 4
    (folder / "journal").write_bytes(content)
    code, _, err = run(capsys, "fit", "--resume", folder)
    assert code == BAD_INPUT
    assert "E505 the journal is damaged at record" in err


@pytest.mark.parametrize("name", ["journal", "config.json", "lock"])
def test_links_in_the_folder_are_not_followed(
    travel: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(travel, folder)
    victim = tmp_path / "victim"
    victim.write_bytes((folder / name).read_bytes() if name != "lock" else b"mine")
    before = victim.read_bytes()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim)
    for arguments in (["--resume", folder], [OVERIDENTIFIED, "--out", folder, "--force"]):
        code, _, err = run(capsys, "fit", *arguments)
        assert code == BAD_INPUT
        assert "E507" in err
    assert victim.read_bytes() == before
    assert os.path.islink(folder / name)


def test_an_empty_result_is_written_again_and_a_lost_journal_is_told(
    travel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(travel, folder)
    (folder / "result.json").write_bytes(b"")
    code, _, err = run(capsys, "fit", "--resume", folder)
    assert (code, answer(folder)) == (VERIFIED, answer(travel))
    assert "begins anew" not in err
    (folder / "journal").unlink()
    code, _, err = run(capsys, "fit", "--resume", folder)
    assert code == VERIFIED
    assert err.startswith("there is no journal in this folder: the fit begins anew\nresumed: 0 evaluations")
    assert answer(folder) == answer(travel)


def test_the_settings_of_a_run_are_a_configuration_of_the_command(
    travel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "fit", travel / "config.json", "--json")
    assert code == VERIFIED
    assert json.loads(out)["params"] == answer(travel)["params"]
    copied = tmp_path / "config.json"
    copied.write_text((travel / "config.json").read_text())
    assert run(capsys, "fit", copied)[0] == BAD_INPUT  # there is nothing to say where its paths start
