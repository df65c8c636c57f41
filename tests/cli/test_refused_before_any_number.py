"""What cannot be estimated is refused by name, and no number is printed: on the command line and from Python.

One survey, one planted fault at a time; without a fault it is fitted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gmmest_cli.main import _run

import gmmest as gm

PEOPLE, MODES = 120, ("bus", "car", "walk")
BAD_INPUT = 2


def survey() -> pd.DataFrame:
    """A choice among three modes, by cost and time, for each of 120 people."""
    rng = np.random.default_rng(4)
    rows = PEOPLE * len(MODES)
    frame = pd.DataFrame(
        {
            "person": np.repeat(np.arange(1, PEOPLE + 1), len(MODES)),
            "mode": list(MODES) * PEOPLE,
            "cost": np.round(rng.uniform(1, 9, size=rows), 2),
            "time": np.round(rng.uniform(5, 50, size=rows), 1),
            "income": np.repeat(np.round(rng.uniform(20, 90, size=PEOPLE), 1), len(MODES)),
        }
    )
    utility = -0.4 * frame["cost"] - 0.05 * frame["time"] + rng.gumbel(size=rows)
    return chosen_by(frame, utility)


def chosen_by(frame: pd.DataFrame, utility: pd.Series) -> pd.DataFrame:
    best = utility.groupby(frame["person"]).transform("max")
    chosen = frame.assign(choice=(utility == best).astype(int))
    assert chosen["choice"].sum() == PEOPLE
    return chosen


@dataclass(frozen=True)
class Fault:
    """A survey with a fault, the columns of the model, and what the refusal says."""

    frame: pd.DataFrame
    code: str
    said: tuple[str, ...]
    utility: tuple[str, ...] = ("cost", "time")
    instruments: tuple[str, ...] = field(default=())


def faults() -> dict[str, Fault]:
    clean = survey()
    never = (clean["choice"] == 0) & (np.arange(len(clean)) % 5 == 0)
    assert 10 < never.sum() < 100
    best = -clean["cost"] - 0.1 * clean["time"]
    return {
        "duplicated instruments": Fault(
            clean.assign(fare=clean["cost"]),
            "E211",
            ("a moment is redundant", "cost", "fare", "drop one of these instruments"),
            instruments=("cost", "time", "fare"),
        ),
        "instruments that repeat each other in other units": Fault(
            clean.assign(dear=2.5 * clean["cost"] - clean["time"]),
            "E211",
            ("a moment is redundant", "cost", "time", "dear"),
            instruments=("cost", "time", "dear"),
        ),
        "under-identification": Fault(
            clean, "E212", ("1 moment, 2 parameters",), utility=("cost", "time"), instruments=("time",)
        ),
        "collinear features": Fault(
            clean.assign(total=clean["cost"] + 0.5 * clean["time"] + clean["income"]),
            "E202",
            ("cost", "time", "total", "within every choice set"),
            utility=("cost", "time", "total"),
        ),
        "a constant within sets": Fault(
            clean,
            "E203",
            ("income does not vary inside any choice set",),
            utility=("cost", "time", "income"),
        ),
        "complete separation": Fault(
            chosen_by(clean, best),
            "E201",
            ("no finite estimate exists", "cost, time", "predicts 120 of 120 choices without error"),
        ),
        "quasi-separation": Fault(
            clean.assign(transfer=never.astype(int)),
            "E201",
            ("no finite estimate exists", "transfer"),
            utility=("cost", "time", "transfer"),
        ),
    }


FAULTS = faults()
every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


def job(folder: Path, fault: Fault) -> Path:
    """A configuration and its data in a folder; JSON is YAML."""
    fault.frame.to_csv(folder / "survey.csv", index=False)
    model: dict[str, object] = {"kind": "logit", "utility": [{"column": name} for name in fault.utility]}
    if fault.instruments:
        model["instruments"] = [{"column": name} for name in fault.instruments]
    data = {"path": "survey.csv", "case": "person", "alternative": "mode", "chosen": "choice"}
    path = folder / "job.yaml"
    path.write_text(json.dumps({"data": data, "model": model}))
    return path


@every_fault
@pytest.mark.parametrize(
    "options", [(), ("--json",), ("--out", "run"), ("--set", "estimation.steps=onestep")]
)
def test_the_command_exits_with_2_and_prints_nothing(fault, options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = _run(["fit", str(job(tmp_path, fault)), *options])
    printed = capsys.readouterr()
    assert code == BAD_INPUT
    assert printed.out == ""
    assert fault.code in printed.err
    for words in fault.said:
        assert words in " ".join(printed.err.split())
    assert not (tmp_path / "run" / "result.json").exists()


@every_fault
@pytest.mark.parametrize("grad", ["auto", "forward", "jax", "fd"])
def test_python_raises_and_prints_nothing(fault, grad, capsys):
    data = gm.ChoiceData.from_frame(
        fault.frame,
        case="person",
        alternative="mode",
        chosen="choice",
    )
    model = gm.Logit(fault.utility, instruments=fault.instruments or None)
    with pytest.raises(gm.IdentificationError) as refused:
        gm.GMMEstimator(model, data, grad=grad).fit()
    assert set(refused.value.codes) == {fault.code}
    for words in fault.said:
        assert words in str(refused.value)
    assert capsys.readouterr() == ("", "")


def test_without_a_fault_the_survey_is_fitted(tmp_path, capsys):
    clean = Fault(survey(), "", ())
    assert _run(["fit", str(job(tmp_path, clean)), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["params"]) == ["cost", "time"]
