"""A function in a file that a configuration names: what is run, what is refused, and that nothing stays behind."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import pytest
from gmmest_cli.main import _run

from gmmest import config, with_derivative
from gmmest.config.build import build, fit
from gmmest.config.user_code import load_function
from gmmest.data.table import Table
from gmmest.errors import ConfigError, EstimationError, FileError, GmmestError
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.moment_function import MomentFunction

MEAN = """\
import numpy as np


def mean(theta, rows):
    return (rows["y"] - theta[0])[:, None]
"""

JOB = """\
data: {path: rows.csv}
model: {kind: moment_function, function: "mine:mean", names: [mu], columns: [y]}
"""


def job(folder: Path, code: str = MEAN) -> Path:
    (folder / "mine.py").write_text(code, encoding="utf-8")
    (folder / "rows.csv").write_text("y\n1\n2\n6\n", encoding="utf-8")
    path = folder / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    return path


def refusal(folder: Path, code: str, named: str = "mine:mean") -> GmmestError:
    job(folder, code)
    with pytest.raises(GmmestError) as caught:
        load_function(named, folder)
    return caught.value


def test_the_manifest_names_file_function_and_hash(tmp_path: Path) -> None:
    result = fit(config.load(job(tmp_path)))
    assert result.theta == pytest.approx([3.0])
    sha256 = hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    assert result.manifest["code"] == {"file": "mine.py", "function": "mean", "sha256": sha256}
    assert json.loads(result.to_json())["manifest"]["code"]["sha256"] == sha256


def test_nothing_stays_behind(tmp_path: Path) -> None:
    before, path = set(sys.modules), list(sys.path)
    build(config.load(job(tmp_path)))
    assert set(sys.modules) == before
    assert sys.path == path
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["job.yaml", "mine.py", "rows.csv"]


def test_a_file_named_like_a_module_hides_it_from_nobody(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(MEAN, encoding="utf-8")
    load_function("json:mean", tmp_path)
    assert sys.modules["json"] is json


def test_what_is_run_is_what_the_file_says_now(tmp_path: Path) -> None:
    """No module is remembered, and two folders may have files of one name."""
    settings = config.load(job(tmp_path))
    assert fit(settings).theta == pytest.approx([3.0])
    job(tmp_path, MEAN.replace("theta[0]", "2 * theta[0]"))
    assert fit(settings).theta == pytest.approx([1.5])


def test_classes_and_derivatives_of_the_file_work(tmp_path: Path) -> None:
    """A dataclass looks its module up while the file runs; with_derivative gives the analytic engine."""
    code = """\
from __future__ import annotations
from dataclasses import dataclass
import numpy as np
import gmmest as gm

@dataclass(frozen=True)
class Scale:
    by: float = 1.0

def value(theta, rows):
    return (rows["y"] - Scale().by * theta[0])[:, None]

def slope(theta, rows):
    return np.full((rows.n_rows, 1, 1), -Scale().by)

mean = gm.with_derivative(value, jacobian=slope)
"""
    settings = config.load(job(tmp_path, code), ["estimation.grad=analytic"])
    assert fit(settings).theta == pytest.approx([3.0])
    model = build(settings).model
    assert isinstance(model, MomentFunction)
    assert model.moment_sum_and_jacobian is not None


# --- refusals ------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    error = refusal(tmp_path, MEAN, "mien:mean")
    assert isinstance(error, FileError)
    assert error.codes == ("E511",)
    assert str(error).startswith('E511 mien.py does not exist; did you mean "mine.py"?')


@pytest.mark.parametrize("package", ["os", "numpy"])
def test_installed_modules_are_not_found(tmp_path: Path, package: str) -> None:
    assert refusal(tmp_path, MEAN, f"{package}:mean").codes == ("E511",)


def test_a_folder_of_that_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    assert refusal(tmp_path, MEAN, "folder:mean").codes == ("E511",)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "elsewhere.py").write_text(f"open({str(ran)!r}, 'w')\n" + MEAN, encoding="utf-8")
    inside = tmp_path / "job"
    inside.mkdir()
    (inside / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    error = refusal(inside, MEAN, "linked:mean")
    assert isinstance(error, ConfigError)
    assert error.codes == ("E108",)
    assert "linked.py is a link to" in str(error)
    assert not ran.exists()
    (inside / "near.py").symlink_to(inside / "mine.py")
    assert load_function("near:mean", inside).file == "near.py"


@pytest.mark.parametrize(
    ("code", "what", "line"),
    [
        ("def mean(theta, rows:\n    return 1\n", "SyntaxError", 1),
        ("x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero", 2),
        ("import sys\n\nsys.exit(0)\n", "SystemExit: 0", 3),
        (
            "import absent_from_everywhere\n",
            "ModuleNotFoundError: No module named 'absent_from_everywhere'",
            1,
        ),
    ],
)
def test_a_file_that_fails(tmp_path: Path, code: str, what: str, line: int) -> None:
    error = refusal(tmp_path, code)
    assert error.codes == ("E109",)
    assert error.complaints[0].what.startswith(f"mine.py fails when it is run: {what}")
    assert f"mine.py, line {line}" in error.complaints[0].where
    assert not any(name.startswith("gmmest:") for name in sys.modules)


def test_the_file_sees_no_other_file_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("", encoding="utf-8")
    error = refusal(tmp_path, "import beside_it\n")
    assert error.codes == ("E109",)
    assert error.complaints[0].next == "the file sees installed packages, and no other file of its folder"


@pytest.mark.parametrize(
    ("code", "what", "advice"),
    [
        (MEAN.replace("mean", "maen"), 'mine.py has no function mean; did you mean "maen"?', "it has maen"),
        ("x = 1\n", "mine.py has no function mean", "it has none"),
        ("mean = 3.5\n", "mean of mine.py is no function: 3.5", "def mean(theta, rows): ..."),
        (
            "def mean(theta): ...\n",
            "mean of mine.py takes (theta); (theta, rows)",
            "def mean(theta, rows): ...",
        ),
    ],
)
def test_a_function_that_is_none(tmp_path: Path, code: str, what: str, advice: str) -> None:
    error = refusal(tmp_path, code)
    assert error.codes == ("E110",)
    assert error.complaints[0].what.startswith(what)
    assert error.complaints[0].next.startswith(advice)


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_says_what_it_executes_before_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(job(tmp_path, "import sys\nprint('running', file=sys.stderr)\n" + MEAN))
    assert _run(["fit", path, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "executes mine.py:mean, named by model.function\nrunning\n"
    assert json.loads(out)["params"]["mu"] == pytest.approx(3.0)
    assert _run(["compare", path, "--rounds", "1", "--grad", "fd", "--grad", "forward"]) == 0
    assert capsys.readouterr().err == "executes mine.py:mean, named by model.function\nrunning\n"


def test_a_configuration_with_a_mistake_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(job(tmp_path, "raise AssertionError('ran')\n"))
    assert _run(["fit", path, "--set", "estimation.maxiter=0"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("E102"), "executes" in err) == ("", 1, False)


def test_the_users_line_is_named_when_the_function_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(job(tmp_path, MEAN.replace('rows["y"]', 'rows["z"]')))
    assert _run(["fit", path]) == 2
    assert "E315" in capsys.readouterr().err


# --- a function that fails when it is called ------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "(rows['y'] - missing)[:, None]",
            "the moment function mean raised NameError: name 'missing' is not ",
        ),
        ("(rows['y'] - theta[1])[:, None]", "names has 1 parameter; the moment function mean reads theta[1]"),
        ("(rows['y'] - rows['y'][7])[:, None]", "the moment function mean raised IndexError: index 7 is out"),
    ],
)
def test_what_the_function_raises_has_a_code_and_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, said: str
) -> None:
    path = job(tmp_path, f"def mean(theta, rows):\n    return {body}\n")
    assert _run(["fit", str(path)]) == 2
    err = capsys.readouterr().err
    assert f"E111 {said}" in err
    assert f"where: {tmp_path / 'mine.py'}, line 2, in mean" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("grad", ["forward", "jax", "complex", "fd"])
def test_in_python_the_exception_is_the_cause(grad: str) -> None:
    def broken(theta: Any, rows: Any) -> Any:
        return rows["y"] / missing  # type: ignore[name-defined]  # noqa: F821

    table = Table.from_arrays({"y": [1.0, 2.0]})
    with pytest.raises(ConfigError) as caught:
        GMMEstimator(MomentFunction(broken, names=["mu"]), table, grad=grad).fit()
    assert caught.value.codes == ("E111",)
    cause = caught.value.__cause__
    assert isinstance(cause, NameError)
    frames = [frame.f_code.co_name for frame, _ in walk_tb(cause.__traceback__)]
    assert frames[-1] == "broken"  # where a debugger stops


def test_a_function_that_fails_later_says_so_on_every_engine() -> None:
    def moody(theta: Any, rows: Any) -> Any:
        if theta[0] > 0.5:
            raise ValueError("too large")
        return (rows["y"] - theta[0])[:, None]

    table = Table.from_arrays({"y": [1.0, 2.0]})
    for grad in ("forward", "complex", "fd"):
        with pytest.raises(ConfigError, match="E111 the moment function moody raised ValueError: too large"):
            GMMEstimator(MomentFunction(moody, names=["mu"]), table, grad=grad).fit()


def test_a_derivative_by_hand_that_fails_is_named() -> None:
    def slope(theta: Any, rows: Any) -> Any:
        return np.zeros((2, 1, 1)) / [][0]

    function = with_derivative(lambda theta, rows: (rows["y"] - theta[0])[:, None], jacobian=slope)
    table = Table.from_arrays({"y": [1.0, 2.0]})
    with pytest.raises(ConfigError, match=r"E111 the derivative of the moment function .* raised IndexError"):
        GMMEstimator(MomentFunction(function, names=["mu"]), table).fit()


def test_moments_that_are_not_finite_are_said_once_and_not_warned_of(
    recwarn: pytest.WarningsRecorder,
) -> None:
    def overflowing(theta: Any, rows: Any) -> Any:
        return (rows["y"] - np.exp(1000.0 * rows["y"] + theta[0]) * np.log(theta[0]))[:, None]

    table = Table.from_arrays({"y": [1.0, 2.0]})
    for grad in ("auto", "forward", "complex"):
        with pytest.raises(EstimationError, match="E411"):
            GMMEstimator(MomentFunction(overflowing, names=["mu"]), table, grad=grad).fit()
    assert not [str(each.message) for each in recwarn if each.category is RuntimeWarning]
