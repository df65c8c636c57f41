"""What loads when, how fast it starts, and what may not occur in the code.

The direction of imports is checked by import-linter (see ``[tool.importlinter]`` in pyproject.toml).
"""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gmmest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("gmmest/**/*.py"), *ROOT.glob("cli/**/*.py")])

HEAVY = (
    "scipy.optimize",
    "pandas",
    "jax",
    "jaxlib",
    "llvmlite",
    "statsmodels",
    "pyarrow",
    "dask",
    "distributed",
    "matplotlib",
)
HELP = "from gmmest_cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"

HELP_SECONDS = 0.25
"""``gmmest --help`` beyond a bare interpreter: a command that answers at once."""
IMPORT_SECONDS = 0.1
"""``import gmmest`` beyond ``import numpy``."""
RUNS, ROUNDS = 5, 6
"""A busy machine makes runs slower, never faster: the fastest run counts, and a round that fails is repeated."""

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__"}
EMITTER = ROOT / "gmmest" / "derivatives" / "emit.py"
USER_CODE = ROOT / "gmmest" / "config" / "user_code.py"


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])}
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def heavy_after(code: str) -> list[str]:
    listing = f"\nimport json, sys\nprint()\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))\n"
    loaded = json.loads(python(code + listing).splitlines()[-1])
    assert isinstance(loaded, list)
    return loaded


@pytest.mark.parametrize("code", ["import gmmest", HELP], ids=["import gmmest", "gmmest --help"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert heavy_after(code) == []


def test_the_probe_sees_what_is_loaded() -> None:
    assert "pandas" in heavy_after("import pandas")


def test_public_names_load_neither_jax_nor_frames() -> None:
    code = "import gmmest\nfor name in gmmest.__all__:\n    getattr(gmmest, name)"
    assert set(heavy_after(code)) <= {"scipy.optimize"}


@pytest.mark.parametrize("name", gmmest.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(gmmest, name) is not None
    assert name in dir(gmmest)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'GMMEstimater'"):
        _ = gmmest.GMMEstimater


def seconds(code: str) -> float:
    begin = time.perf_counter()
    python(code)
    return time.perf_counter() - begin


def excess(code: str, baseline: str) -> float:
    """Fastest run of one less the fastest of the other, the two taking turns."""
    pairs = [(seconds(code), seconds(baseline)) for _ in range(RUNS)]
    return min(slow for slow, _ in pairs) - min(bare for _, bare in pairs)


@pytest.mark.parametrize(
    ("code", "baseline", "budget"),
    [(HELP, "pass", HELP_SECONDS), ("import gmmest", "import numpy", IMPORT_SECONDS)],
    ids=["gmmest --help", "import gmmest"],
)
def test_start_up_is_within_its_budget(code: str, baseline: str, budget: float) -> None:
    seconds(code)  # writes the bytecode
    best = float("inf")
    for _ in range(ROUNDS):
        best = min(best, excess(code, baseline))
        if best < budget:
            return
    pytest.fail(f"{best:.3f} s, {budget} s are allowed")


def violations(source: str) -> list[str]:
    """Ways in which a text could become code, or bytes objects."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [n.name for n in names if n.name.split(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in FORBIDDEN_MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                found.append(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="yaml"), attr="load")):
                found.append("yaml.load")
            case ast.keyword(arg="allow_pickle", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                found.append("allow_pickle")
            case ast.keyword(arg="typ", value=ast.Constant(value="unsafe")):
                found.append("YAML(typ='unsafe')")
            case ast.Attribute(attr=attribute) if attribute.startswith(("unsafe_load", "full_load")):
                found.append(attribute)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_no_code_and_no_pickles_from_files(path: Path) -> None:
    """Two exceptions.

    One writes its program itself, from templates: tests/derivatives/test_trace.py reads it.  The other runs
    the file of a moment function that a configuration names: tests/config/test_user_code.py says which.
    """
    allowed = ["exec"] if path in (EMITTER, USER_CODE) else []
    assert violations(path.read_text(encoding="utf-8")) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "exec(text)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "yaml.load(f)",
        "yaml.unsafe_load(f)",
        "YAML(typ='unsafe')",
    ],
)
def test_the_gate_sees_each_of_them(source: str) -> None:
    assert len(violations(source)) == 1
