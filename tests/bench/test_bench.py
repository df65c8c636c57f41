"""The benchmark's own laws: what it measures with, what it reports, and what its page says.  No time is asserted."""

import importlib.util
import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gmmest_cli import main as command_line

from gmmest.bench import peers, suite
from gmmest.bench.choices import Choices, draw
from gmmest.bench.exact import digits, exact
from gmmest.bench.figures import Figure, Machine, Report, at_least, at_most
from gmmest.bench.measure import THREADS, alone, companion, forget_peak, peak, race, resident
from gmmest.bench.one_pass import one_pass
from gmmest.errors import ConfigError

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell memory")


# --- what it measures with ----------------------------------------------------------------------


def test_contestants_take_turns():
    calls: list[str] = []
    seconds = race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4, "a first turn that does not count, then rounds"
    assert {name: len(turns) for name, turns in seconds.items()} == {"a": 3, "b": 3}


def test_what_is_measured_alone_has_its_own_process_threads_and_cores():
    before = dict(os.environ)
    assert alone(os.getpid) != os.getpid()
    assert [alone(os.getenv, name, threads=2) for name in THREADS[:2]] == ["2", "2"]
    if hasattr(os, "sched_getaffinity"):
        assert len(alone(os.sched_getaffinity, 0, threads=1)) == 1
    assert dict(os.environ) == before


def test_a_companion_answers_until_it_is_left():
    with companion(partial, max, 40) as ask:
        assert [ask(1), ask(42)] == [40, 42]


def test_errors_of_measured_processes_are_told_with_their_place():
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in raw_decode.*Expecting value"):
        alone(json.loads, "not json")
    with pytest.raises(RuntimeError, match="ended before it answered"):
        alone(os._exit, 1)


@LINUX
def test_the_peak_counts_from_when_it_was_forgotten():
    me = os.getpid()
    forget_peak(me)
    before = resident(me)
    large = np.ones(10_000_000)
    del large
    most = peak(me)
    assert before is not None
    assert most is not None
    assert most - before > 70e6
    forget_peak(me)
    assert peak(me) < most


def test_choices_come_back_from_files(tmp_path):
    drawn = draw(20, 3, 2)
    drawn.save(tmp_path)
    back = Choices.load(tmp_path)
    assert back.alternatives == 3
    assert back.features.tobytes() == drawn.features.tobytes()
    assert back.chosen.tobytes() == drawn.chosen.tobytes()
    assert not back.features.flags.writeable


# --- digits ---------------------------------------------------------------------------------------


def test_at_the_exact_optimum_scores_sum_to_nothing():
    choices = draw(3_000, 5, 4)  # more than one piece
    theta, _ = exact(choices)
    X = choices.features.astype(np.longdouble)
    e = np.exp(X @ theta).reshape(-1, 5)
    shares = (e / e.sum(axis=1, keepdims=True)).reshape(-1)
    score = X.T @ (shares - choices.chosen)
    information = X.T @ (X * shares[:, None])  # larger than the information, by no order of magnitude
    assert np.abs(np.linalg.solve(information.astype(float), score.astype(float))).max() < 1e-15


def test_exact_and_gmmest_agree_in_estimates_and_robust_errors():
    choices = draw(500, 4, 3)
    theta, errors = exact(choices)
    found = peers.own(choices).fit()
    assert digits(found.theta, theta) > 13
    assert digits(found.errors, errors) > 12


def test_statsmodels_finds_the_exact_optimum_to_its_tolerance():
    choices = draw(200, 3, 2)
    theta, errors = exact(choices)
    found = peers.statsmodels(choices).fit()
    assert digits(found.theta, theta) > 3
    assert digits(found.errors, errors) > 0.5, "its errors are not the robust ones"


@pytest.mark.skipif(peers.version_of_clogit() is None, reason="R or its package survival is not installed")
def test_clogit_finds_the_exact_optimum_and_robust_errors_in_a_process_of_its_own():
    choices = draw(300, 4, 3)
    ready = peers.clogit(choices)
    try:
        assert ready.pid != os.getpid()
        found = ready.fit()
    finally:
        ready.close()
    theta, errors = exact(choices)
    assert digits(found.theta, theta) > 6
    assert digits(found.errors, errors) > 5


def test_digits_are_those_of_the_worst_entry():
    truth = np.array([1.0, -2.0, 4.0])
    assert digits(truth, truth) == 16
    assert digits(truth * [1, 1, 1 + 1e-5], truth) == pytest.approx(5)


# --- figures and reports ----------------------------------------------------------------------------


def figure(values: tuple[float, ...], **others) -> Figure:
    return Figure("b", "a question", "gmmest", "x", values, **others)


@pytest.mark.parametrize(
    ("values", "bar", "held"),
    [
        ((3.0, 4.0, 90.0), at_most(4), True),
        ((4.1,), at_most(4), False),
        ((5.0,), at_least(5), True),
        ((4.9,), at_least(5), False),
        ((), at_least(5), None),
        ((1.0,), None, None),
    ],
)
def test_a_bar_is_held_by_the_median(values, bar, held):
    assert figure(values, bar=bar).held is held


def report(*figures: Figure) -> Report:
    return Report(Machine.here(), True, 1.0, figures)


def test_a_report_comes_back_from_json():
    first = report(
        figure((1.0, 2.0), x=3.0, bar=at_most(4), note="said"), figure(()), figure((9.0,), bar=at_least(10))
    )
    again = Report.from_json(first.to_json())
    assert again == first
    entries = json.loads(first.to_json())["figures"]
    assert (entries[0]["median"], entries[0]["low"], entries[0]["high"]) == (1.5, 1.0, 2.0)
    assert entries[1]["median"] is None
    assert [entry["held"] for entry in entries] == [True, None, False]
    assert json.loads(first.to_json())["bars_missed"] == 1


def test_unknown_parts_are_refused():
    with pytest.raises(ConfigError, match=r"E102 no part z of the benchmark; expected some of a, b, c"):
        suite.run(["b", "z"])


# --- the command ---------------------------------------------------------------------------------------


def test_a_quick_run_writes_its_figures_with_bars(tmp_path, capfd):
    path = tmp_path / "run.json"
    code = command_line._run(["bench", "--quick", "--part", "b", "--out", str(path)])
    out, err = capfd.readouterr()
    found = Report.from_json(path.read_text(encoding="utf-8"))
    assert found.quick
    assert code == (3 if found.missed else 0)
    barred = [each for each in found.figures if each.bar is not None]
    assert [(each.what, each.bar) for each in barred] == [
        ("a pass, times reading the features once", at_most(4))
    ]
    assert all(each.repetitions for each in found.figures)
    assert "sizes were tiny" in out
    assert "at most 4" in out
    assert err == "b: one pass against memory and arithmetic\n"


@pytest.mark.parametrize(("value", "code"), [(4.0, 0), (4.5, 3)])
def test_a_missed_bar_is_exit_code_3(monkeypatch, capfd, value, code):
    part = suite.Part("b", "a question", lambda quick, place: [figure((value,), bar=at_most(4))])
    monkeypatch.setattr(suite, "PARTS", (part,))
    assert command_line._run(["bench"]) == code
    out, _ = capfd.readouterr()
    assert ("missed: a question: 4.5, at most 4" in out) == (code == 3)


def test_a_bar_that_could_not_be_measured_is_said(monkeypatch, capfd):
    part = suite.Part(
        "b", "a question", lambda quick, place: [figure((), bar=at_least(5), note="not installed")]
    )
    monkeypatch.setattr(suite, "PARTS", (part,))
    assert command_line._run(["bench"]) == 0
    out, _ = capfd.readouterr()
    assert "not measured" in out
    assert "note: gmmest: not installed" in out


def test_json_goes_where_a_program_reads_it(monkeypatch, capfd):
    part = suite.Part("b", "a question", lambda quick, place: [figure((1.0,))])
    monkeypatch.setattr(suite, "PARTS", (part,))
    assert command_line._run(["bench", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["figures"][0]["median"] == 1.0


def test_a_file_that_cannot_be_written_is_said_before_hours_of_measuring(monkeypatch, capfd, tmp_path):
    def measured(quick, place):
        raise AssertionError("measured before the file was tried")

    monkeypatch.setattr(suite, "PARTS", (suite.Part("b", "a question", measured),))
    (tmp_path / "file").write_text("")
    assert command_line._run(["bench", "--out", str(tmp_path / "file" / "run.json")]) == 4
    assert "E501" in capfd.readouterr().err


# --- the page ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speed():
    spec = importlib.util.spec_from_file_location("make_speed", ROOT / "docs" / "make_speed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures_of_all_parts() -> list[Figure]:
    """What parts report, with figures that nobody measured."""
    return [
        Figure(
            "a",
            "fastest program with the same answer, times gmmest",
            "lcl-choice",
            "x",
            (6.25,),
            bar=at_least(5),
        ),
        Figure("a", "whole fit", "gmmest", "s", (1.125, 1.25), note="100 x 10 x 20"),
        Figure("a", "digits of the estimates", "gmmest", "digits", (15.5,), bar=at_least(10)),
        Figure("a", "whole fit", "lcl-choice", "s", (7.75,)),
        Figure("a", "whole fit", "larch", "s", (), note="not installed"),
        *one_pass(True, Path()),
        *(
            Figure("c", f"seconds of a pass by {axis}", f"{x}", "s", (2.0 * x,), x=float(x))
            for axis in ("rows", "alternatives", "features", "moments")
            for x in (10, 100)
        ),
        Figure(
            "c", "cost of a row, dearest over cheapest", "10 to 100 rows", "x", (1.375,), bar=at_most(1.25)
        ),
        Figure(
            "d", "a pass over files, times the same in memory", "4 x", "x", (1.0625,), x=4.0, bar=at_most(1.2)
        ),
        Figure("d", "anonymous memory, times the limit", "4 x", "x", (0.75,), x=4.0, bar=at_most(1)),
        Figure("d", "conversion and opening", "4 x", "s", (12.5,), x=4.0, note="50 rows"),
        Figure("e", "seconds of a pass", "two workers, blocks as cut", "s", (0.0375,)),
        Figure("f", "different answers", "among 2 ways", "", (1.0,), bar=at_most(1), note="one, two"),
        Figure("g", "resumed fits with other bits", "60 of 60 evaluations", "", (0.0,), bar=at_most(0)),
    ]


def test_the_page_has_every_bar_and_says_which_were_missed(speed):
    figures = figures_of_all_parts()
    page = speed.page(report(*figures))
    for each in figures:
        if each.bar is not None:
            assert f"{each.what}: {each.label} | {speed.short(each.value)} |" in page
    assert "Missed: " in page
    assert "cost of a row, dearest over cheapest" in page.split("Missed: ")[1].splitlines()[0]
    for value in ("6.25", "7.75", "15.5", "1.06", "0.75", "12.5", "37.5", "not installed"):
        assert value in page
    assert "{" not in page


def test_a_page_of_one_part_has_that_part_alone(speed):
    page = speed.page(report(*(each for each in figures_of_all_parts() if each.part == "f")))
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## The bars", "## Bits"]
    assert "All bars were held." in page


def test_programs_that_did_something_else_are_marked(speed):
    figures = [
        Figure("a", "whole fit", "gmmest", "s", (1.0,), note="100 x 10 x 20; as called"),
        Figure("a", "whole fit", "one", "s", (2.0,), note="100 x 10 x 20; as called"),
        Figure(
            "a", "whole fit, times gmmest", "one", "x", (2.0,), note="not the same answer: see its digits"
        ),
        Figure("a", "whole fit", "other", "s", (2.0,), note="5 x 10 x 20; as called"),
    ]
    rows = speed.measured(figures, "whole fit")
    assert [speed.named(figures, row) for row in rows] == ["gmmest", "one *", "other (5 x 10 x 20)"]


def test_slopes_are_those_of_logarithms(speed):
    points = [Figure("c", "", "", "s", (3.0 * x**1.5,), x=x) for x in (1.0, 10.0, 100.0)]
    assert speed.slope(points) == pytest.approx(1.5)


def test_plots_are_drawn_for_what_there_is(speed, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "speed.json").write_text(report(*figures_of_all_parts()).to_json())
    speed.main(tmp_path)
    drawn = sorted(path.name for path in (tmp_path / "figures").glob("*.svg"))
    assert drawn == ["speed_growth.svg", "speed_peers.svg", "speed_roofline.svg"]
    assert (tmp_path / "speed.md").exists()


def test_the_page_in_the_documents_is_that_of_its_figures(speed):
    path = ROOT / "docs" / "figures" / "speed.json"
    if not path.exists():
        pytest.skip("no run is published")
    assert (ROOT / "docs" / "speed.md").read_text(encoding="utf-8") == speed.page(
        Report.from_json(path.read_text(encoding="utf-8"))
    )
