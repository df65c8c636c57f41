"""The commands as a person or a script meets them: output, exit codes, messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gmmest_cli import show
from gmmest_cli.main import GRADS, _run

from gmmest.derivatives.backends import BACKENDS

ROOT = Path(__file__).parents[2]
LOGIT = str(ROOT / "configs" / "logit.yaml")
OVERIDENTIFIED = str(ROOT / "configs" / "overidentified.yaml")
VERIFIED, BAD_INPUT, NOT_VERIFIED = 0, 2, 3

GREENE = {
    "asc_air": 5.207443298666677,
    "asc_train": 3.869042701532174,
    "asc_bus": 3.163194211867219,
    "gc": -0.01550152531610885,
    "ttme": -0.09612479610477755,
    "hinc_air": 0.01328702625060322,
}
ROBUST = {
    "asc_air": 0.978815810049758,
    "asc_train": 0.5174582750421762,
    "asc_bus": 0.5462579597509118,
    "gc": 0.004947554972965785,
    "ttme": 0.01506020287701885,
    "hinc_air": 0.009273404858713087,
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = _run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def travel_mode(folder: Path, **edits: str) -> Path:
    """The travel-mode job in a folder of its own, with pieces of text replaced in data and configuration."""
    data = (ROOT / "data" / "travel_mode.csv").read_text()
    config = Path(LOGIT).read_text().replace("../data/travel_mode.csv", "rows.csv")
    for old, new in edits.items():
        before, after = old.replace("__", " "), new
        if before in config:
            config = config.replace(before, after)
    (folder / "rows.csv").write_text(data)
    path = folder / "job.yaml"
    path.write_text(config)
    return path


def edit_rows(folder: Path, row: int, column: str, value: str) -> None:
    """Put a value into one data row (from 1) of rows.csv."""
    lines = (folder / "rows.csv").read_text().splitlines()
    header = lines[0].split(",")
    cells = lines[row].split(",")
    cells[header.index(column)] = value
    lines[row] = ",".join(cells)
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")


# --- fit -------------------------------------------------------------------------------------------


def test_fit_prints_greenes_table_with_the_verdict_first(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "fit", LOGIT)
    assert code == VERIFIED
    assert err == ""
    assert out.startswith("verified: remaining Newton step ")
    for name, value in GREENE.items():
        assert re.search(rf"{name}\s+{value:.6g}\s", out), name


@pytest.mark.parametrize("grad", ["forward", "jax", "jax-forward", "analytic", "complex", "auto"])
def test_json_has_the_certified_digits(capsys: pytest.CaptureFixture[str], grad: str) -> None:
    code, out, _ = run(capsys, "fit", LOGIT, "--json", "--grad", grad)
    assert code == VERIFIED
    answer = json.loads(out)
    assert answer["params"] == pytest.approx(GREENE, rel=1e-12)
    assert answer["bse"] == pytest.approx(ROBUST, rel=1e-10)
    assert answer["loglike"] == pytest.approx(-199.1283687159816, rel=1e-12)
    assert answer["grad"] == ("analytic" if grad == "auto" else grad)


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", OVERIDENTIFIED, "--json")
    answer = json.loads(out)
    assert code == VERIFIED
    promised = {
        "params",
        "bse",
        "criterion",
        "j_test",
        "n_obs",
        "n_moments",
        "n_rows",
        "verified",
        "certificate",
    }
    promised |= {"grad", "optimizer", "evaluations", "seconds", "loglike", "manifest"}
    assert promised <= set(answer)
    assert set(answer["j_test"]) == {"stat", "df", "pvalue"}
    assert answer["j_test"]["df"] == answer["n_moments"] - len(answer["params"]) == 2
    assert {"remaining_step_se", "condition", "rank", "reasons"} <= set(answer["certificate"])
    assert (answer["n_obs"], answer["n_rows"]) == (210, 840)
    assert set(answer["manifest"]) == {"versions", "data_sha256", "config_sha256", "threads"}
    assert all(len(answer["manifest"][key]) == 64 for key in ("data_sha256", "config_sha256"))


def test_a_just_identified_fit_has_no_j_test(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "fit", LOGIT, "--json")
    assert json.loads(out)["j_test"] is None


def test_set_overrides_one_setting(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", LOGIT, "--json", "--set", "estimation.optimizer=bfgs")
    assert code == VERIFIED
    assert json.loads(out)["optimizer"] == "bfgs"


def test_set_takes_weights_clusters_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    linear = str(ROOT / "configs" / "linear_iv.yaml")
    errors = []
    for overrides in (
        [],
        ["estimation.small_sample=true"],
        ["data.cluster=[]", "estimation.weighting=robust"],
        ["data.cluster=[town, mother]", "estimation.weighting=twoway"],
        ["data.cluster=[]", "estimation.weighting=kernel", "data.time=exper", "estimation.bandwidth=2"],
        ["data.frequency=school"],
    ):
        options = [text for override in overrides for text in ("--set", override)]
        code, out, _ = run(capsys, "fit", linear, "--json", *options)
        assert code == VERIFIED
        errors.append(json.loads(out)["bse"]["school"])
    assert len(set(errors)) == len(errors)


def test_clusters_without_a_column_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "fit", LOGIT, "--set", "estimation.weighting=cluster")
    assert (code, out) == (BAD_INPUT, "")
    assert "E102 weighting cluster needs data.cluster: expected the column with ids of groups" in err
    arguments = ["--set", "data.cluster=hinc", "--set", "estimation.weighting=cluster"]
    assert run(capsys, "fit", LOGIT, *arguments)[0] == VERIFIED


def test_the_command_offers_exactly_the_backends_that_have_a_name() -> None:
    assert set(GRADS) == set(BACKENDS)


def test_a_fit_that_is_cut_short_says_so_first_and_exits_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", "estimation.optimizer=nelder-mead", "--set", "estimation.maxiter=1"]
    code, out, _ = run(capsys, "fit", OVERIDENTIFIED, *arguments, "--set", "estimation.start={ttme: -3.0}")
    assert code == NOT_VERIFIED
    assert out.startswith("NOT VERIFIED: ")


# --- bad input: one clear message each, exit code 2 ----------------------------------------------------


def test_a_typo_in_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = travel_mode(tmp_path, optimizer="optimiser")
    code, out, err = run(capsys, "fit", str(job))
    assert (code, out) == (BAD_INPUT, "")
    assert err.count("E1") == 1
    line = 1 + next(i for i, text in enumerate(job.read_text().splitlines()) if "optimiser:" in text)
    assert f"line {line}" in err
    assert "optimizer" in err


def test_text_in_a_column_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = travel_mode(tmp_path)
    edit_rows(tmp_path, 7, "gc", "1,234.5".replace(",", ";"))
    code, out, err = run(capsys, "fit", str(job))
    assert (code, out) == (BAD_INPUT, "")
    assert err.count("E311") == 1
    assert "gc" in err
    assert "row 7" in err
    assert "1;234.5" in err
    assert "rows.csv" in err


def test_a_choice_set_with_two_chosen_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = travel_mode(tmp_path)
    edit_rows(tmp_path, 1, "choice", "1")
    code, out, err = run(capsys, "fit", str(job))
    assert (code, out) == (BAD_INPUT, "")
    assert err.count("E302") == 1
    assert "1 (2 chosen)" in err
    assert "rows 1-4" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "absent.yaml"], "absent.yaml"),
        (["fit", LOGIT, "--grad", "fwd"], "'fwd' is not one of"),
        (["fit"], "Missing argument 'CONFIG'"),
        (["fit", LOGIT, "--set", "estimation.grad=fwd"], "forward"),
        (["nonsense"], "No such command"),
    ],
)
def test_bad_calls_exit_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (BAD_INPUT, "")
    assert said in err


def test_an_income_that_does_not_vary_within_sets_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = travel_mode(tmp_path)
    job.write_text(job.read_text().replace("      only: air", "      name: income"))
    code, _, err = run(capsys, "fit", str(job))
    assert code == BAD_INPUT
    assert "E203 income does not vary inside any choice set" in err


# --- the run folder --------------------------------------------------------------------------------------


def test_out_writes_the_run_and_never_overwrites_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "first"
    code, out, _ = run(capsys, "fit", LOGIT, "--out", str(folder))
    assert code == VERIFIED
    files = ["config.json", "journal", "manifest.json", "result.json", "summary.txt"]
    assert sorted(p.name for p in folder.iterdir()) == files
    kept = json.loads((folder / "result.json").read_text())
    assert kept["params"] == pytest.approx(GREENE, rel=1e-12)
    assert out.startswith("verified")
    assert (folder / "summary.txt").read_text() == out

    code, _, err = run(capsys, "fit", LOGIT, "--out", str(folder), "--set", "estimation.optimizer=bfgs")
    assert code == BAD_INPUT
    assert "E508" in err
    assert json.loads((folder / "result.json").read_text())["optimizer"] == kept["optimizer"]
    assert run(capsys, "fit", LOGIT, "--out", str(folder), "--force")[0] == VERIFIED


def test_trying_whether_a_file_can_be_written_leaves_none_and_changes_none(tmp_path: Path) -> None:
    show.check_file(str(tmp_path / "new" / "run.json"))
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "run.json").write_text("mine")
    show.check_file(str(tmp_path / "run.json"))
    assert (tmp_path / "run.json").read_text() == "mine"


def test_a_link_in_the_place_of_an_output_is_not_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").symlink_to(victim)
    code, _, err = run(capsys, "fit", LOGIT, "--out", str(folder), "--force")
    assert code == BAD_INPUT
    assert "E507" in err
    assert victim.read_text() == "mine"


def test_no_room_for_the_result_leaves_the_old_one_and_exits_with_4(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "gmmest_cli", "fit", LOGIT, "--out", str(folder)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == VERIFIED
    before = (folder / "result.json").read_text()
    limited = f"ulimit -f 0; exec {' '.join(command)} --force"
    full = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert full.returncode == 4, full.stderr
    assert "E501" in full.stderr
    assert (folder / "result.json").read_text() == before
    assert len(list(folder.iterdir())) == 5


# --- compare -----------------------------------------------------------------------------------------------


def test_compare_prints_a_row_for_each_backend(capsys: pytest.CaptureFixture[str]) -> None:
    grads = ["fd", "fd-central", "forward", "jax", "analytic"]
    options = [text for name in grads for text in ("--grad", name)]
    code, out, _ = run(capsys, "compare", OVERIDENTIFIED, *options, "--rounds", "2")
    assert code == VERIFIED
    for name in grads:
        assert re.search(rf"^ {name}\s+[\d.]+ ", out, re.MULTILINE), name


def test_compare_measures_errors_and_digits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "compare", OVERIDENTIFIED, "--grad", "fd", "--grad", "forward", "--rounds", "2", "--json"
    )
    answer = json.loads(out)
    by_name = {row["grad"]: row for row in answer["backends"]}
    assert code == VERIFIED
    assert answer["reference"] == "complex"
    assert by_name["forward"]["max_relative_error"] < 1e-12
    assert 1e-12 < by_name["fd"]["max_relative_error"] < 1e-5
    assert by_name["forward"]["digits"] > 10 > by_name["fd"]["digits"]


def test_compare_leaves_out_analytic_where_nothing_is_written_by_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moments = str(ROOT / "configs" / "moments.yaml")
    code, out, err = run(capsys, "compare", moments, "--rounds", "1", "--json")
    answer = json.loads(out)
    assert code == VERIFIED
    assert [row["grad"] for row in answer["backends"]] == ["fd", "forward", "jax"]
    assert err == "executes moments.py:wage_and_spread, named by model.function\n"
    code, out, err = run(capsys, "compare", moments, "--rounds", "1", "--grad", "analytic")
    assert (code, out) == (BAD_INPUT, "")
    assert "E607 grad 'analytic' was asked for" in err


def test_compare_takes_regressions_with_weights_and_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    linear = str(ROOT / "configs" / "linear_iv.yaml")
    code, out, _ = run(
        capsys, "compare", linear, "--rounds", "1", "--grad", "forward", "--grad", "analytic", "--json"
    )
    assert code == VERIFIED
    assert all(row["verified"] and row["digits"] > 10 for row in json.loads(out)["backends"])


def test_compare_starts_where_the_configuration_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Another way to the minimum takes another number of passes."""
    passes = []
    for start in ("{}", "{gc: 0.2}"):
        arguments = ["--grad", "forward", "--rounds", "1", "--json", "--set", f"estimation.start={start}"]
        arguments += ["--set", "estimation.optimizer=lbfgsb"]
        code, out, _ = run(capsys, "compare", OVERIDENTIFIED, *arguments)
        assert code == VERIFIED
        passes.append(json.loads(out)["backends"][0]["evaluations"])
    assert passes[1] != passes[0]


# --- interruption ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_exits_with_130() -> None:
    command = [sys.executable, "-m", "gmmest_cli", "compare", str(ROOT / "configs" / "seed.yaml")]
    with subprocess.Popen(
        [*command, "--rounds", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(3.0)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err


# --- data in files ---


def test_a_limit_on_memory_changes_nothing_but_where_the_rows_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job = str(travel_mode(tmp_path))
    _, loaded, _ = run(capsys, "fit", job, "--json")
    code, streamed, _ = run(capsys, "fit", job, "--memory", "8GB", "--json")
    assert code == VERIFIED
    assert len(list((tmp_path / ".gmmest-cache").iterdir())) == 1
    for key in ("params", "bse", "notes"):
        assert json.loads(streamed)[key] == json.loads(loaded)[key]
    code, _, errors = run(capsys, "fit", job, "--memory", "some", "--json")
    assert (code, errors.split("\n")[0]) == (
        BAD_INPUT,
        "E102 data.memory='some': a size such as 2GB, 500MB or 1GiB was expected",
    )
    code, _, errors = run(capsys, "fit", job, "--memory", "1MB")
    assert code == BAD_INPUT
    assert "E102 memory=1 MB: this process and the libraries it loads hold" in errors


def test_a_folder_of_parts_is_one_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = travel_mode(tmp_path)
    _, whole, _ = run(capsys, "fit", str(job), "--json")
    head, *lines = (tmp_path / "rows.csv").read_text().splitlines(keepends=True)
    (tmp_path / "rows").mkdir()
    for part, (start, stop) in enumerate([(0, 101), (101, 599), (599, None)]):
        (tmp_path / "rows" / f"part-{part}.csv").write_text(head + "".join(lines[start:stop]))
    job.write_text(job.read_text().replace("rows.csv", "rows"))
    code, parts, _ = run(capsys, "fit", str(job), "--set", "data.cache=stores", "--json")
    assert code == VERIFIED
    assert len(list((tmp_path / "stores").iterdir())) == 1
    assert json.loads(parts)["params"] == json.loads(whole)["params"]


# --- options are named as they were typed ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", LOGIT, "--memory", "lots"), "where: --memory lots\n"),
        (
            ("fit", str(ROOT / "configs" / "linear_iv.yaml"), "--memory", "2GB"),
            "where: --memory 2GB\n  next:  leave out  --memory\n",
        ),
        (("fit", LOGIT, "--workers", "2", "--executor", "serial"), "where: --workers 2\n"),
        (("bootstrap", LOGIT, "--multipliers", "webb"), "where: --multipliers webb\n"),
        (("bootstrap", LOGIT, "--kind", "wild", "--no-recentre"), "where: --no-recentre\n"),
        (("simulate", "--out", "x", "--sets", "ten"), "where: --sets ten\n"),
        (
            ("simulate", "--out", "x", "--sets", "10"),
            "where: gmmest simulate\n  next:  give  --alternatives\n",
        ),
    ],
)
def test_messages_name_the_option_that_was_typed(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == BAD_INPUT
    assert said in err
    assert "--set " not in err
    assert "simulate.moments" not in err


def test_a_number_of_features_that_is_none_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--sets", "9", "--alternatives", "3", "--seed", "1", "--features", "two")
    code, _, err = run(capsys, "simulate", "--out", "x", *sizes)
    assert (code, err.count("E102")) == (BAD_INPUT, 1)


def test_set_takes_the_use_of_time_away(capsys: pytest.CaptureFixture[str]) -> None:
    linear = str(ROOT / "configs" / "linear_iv.yaml")
    kernel = ("data.cluster=null", "estimation.weighting=kernel", "data.time=exper")
    robust = (*kernel, "estimation.weighting=robust", "data.time=null", "data.weight=null")
    code, out, _ = run(capsys, "fit", linear, "--json", *(text for key in robust for text in ("--set", key)))
    assert code == VERIFIED
    assert "W305" not in out


def test_missing_weights_and_columns_are_said_together_with_their_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = "1,bus,1,2,,1\n1,car,0,3,5,1\n2,bus,0,,5,\n2,car,1,2.5,5,\n3,bus,1,2.5,5,2\n3,car,0,2,4,2\n"
    (tmp_path / "w.csv").write_text(f"id,mode,took,price,income,w\n{cells}")
    path = tmp_path / "w.yaml"
    path.write_text(
        "data: {path: w.csv, case: id, alternative: mode, chosen: took, weight: w}\n"
        "model: {utility: [{column: price}, {column: income}]}\n"
    )
    code, _, err = run(capsys, "fit", str(path))
    assert code == BAD_INPUT
    assert re.findall("^E[0-9]+", err, re.MULTILINE) == ["E330", "E310", "E310"]
    assert 'where: w.csv, column "w", rows 3-4\n' in err
    assert "E310 price: 1 missing, first at row 3 (set 2)\n" in err
    assert "E310 income: 1 missing, first at row 1 (set 1)\n" in err
    assert "missing: drop_set" in err
    code, _, err = run(capsys, "fit", str(path), "--set", "data.missing=drop_set")
    assert re.findall("^E[0-9]+", err, re.MULTILINE) == ["E330"]


def test_the_help_of_bench_says_what_its_letters_are(capsys: pytest.CaptureFixture[str]) -> None:
    from gmmest.bench.suite import PARTS

    _, out, _ = run(capsys, "bench", "--help")
    for part in PARTS:
        assert f"  {part.letter}  {part.question}\n" in out
