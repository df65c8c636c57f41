"""What README and docs say is run, or compared with the code that it is about.

Marks are HTML comments on the line before a block:

* ``<!-- output -->``: what the Python block before it prints;
* ``<!-- output of: gmmest ... -->``: what the command prints, but for what rounding and clocks decide;
* ``<!-- file: NAME -->``: written to a folder, for
* ``<!-- refused: row 4, price = cheap -->``: what ``gmmest fit`` says to the files with one cell changed.
"""

import ast
import contextlib
import csv
import io
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from gmmest_cli import main as command_line
from ruamel.yaml import YAML

from gmmest import config
from gmmest.config import model_kinds, schema
from gmmest.config.load import _TERM_KEYS
from gmmest.config.record import ByName
from gmmest.derivatives.backends import BACKENDS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", ROOT / "data" / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
DOCUMENT_NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

SET_UP_AND_FIT = (
    "python3 -m venv .venv && .venv/bin/pip install -q -c requirements.lock . "
    "&& .venv/bin/gmmest fit configs/logit.yaml"
)
SET_UP_AND_TEST = (
    "python3 -m venv .venv && .venv/bin/pip install -q -c requirements.lock -e '.[test]' "
    "&& .venv/bin/python -m pytest -q -n auto"
)


@dataclass(frozen=True, slots=True)
class Fenced:
    """A fenced block: its language, text, first line, and the mark on the line before it."""

    language: str
    text: str
    line: int
    mark: str


def blocks(path: Path) -> list[Fenced]:
    found: list[Fenced] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    start = language = mark = None
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if start is None:
            before = lines[number - 2].strip() if number > 1 else ""
            comment = re.fullmatch(r"<!-- (.*?) ?-->", before)
            start, language, mark = number, line[3:].strip(), comment[1] if comment else ""
        else:
            text = "\n".join(lines[start : number - 1]) + "\n"
            found.append(Fenced(str(language), text, start + 1, str(mark)))
            start = None
    assert start is None, f"{path.name}: the block of line {start} does not end"
    return found


def prose(path: Path) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what relative paths in the documents mean; what they write stays there."""
    for name in ("data", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_spaces_at_ends(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


# --- Python ------------------------------------------------------------------------------------


def has_python(path: Path) -> bool:
    return any(block.language == "python" for block in blocks(path))


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if has_python(p)], ids=lambda p: p.relative_to(ROOT))
@pytest.mark.usefixtures("folder")
def test_python_blocks_run_and_print_what_is_written(path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(path):
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
            stream = io.StringIO()
            with contextlib.redirect_stdout(stream):
                exec(code, namespace)
            printed = stream.getvalue()
        elif block.mark == "output":
            assert without_spaces_at_ends(block.text) == without_spaces_at_ends(printed), block.line


# --- commands ----------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line._run(list(arguments))
    return code, out.getvalue(), err.getvalue()


def steady(text: str) -> list[str]:
    """Lines without seconds, passes and numbers that are zero but for rounding."""
    text = re.sub(r"\d+ passes, [\d.]+ s", "... passes, ... s", text)
    text = re.sub(r"\d(\.\d+)?e-(0[89]|[1-9]\d)", "...", text)
    return [re.sub(r"\s+", " ", line).strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize(
    "block", [b for b in blocks(README) if b.mark.startswith("output of: ")], ids=lambda b: b.mark
)
@pytest.mark.usefixtures("folder")
def test_commands_print_what_is_written(block: Fenced) -> None:
    program, *arguments = shlex.split(block.mark.removeprefix("output of: "))
    assert program == "gmmest"
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert steady(out) == steady(block.text)


def commands(path: Path) -> list[str]:
    """Command lines of gmmest in blocks and between backticks."""
    lines = []
    for block in blocks(path):
        if block.language == "sh":
            lines += block.text.replace(".venv/bin/gmmest", "gmmest").split("&&")
        if block.language == "console":
            lines += [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    lines += re.findall(r"`(gmmest [^`]+)`", prose(path))
    return [line.strip() for line in lines if line.strip().startswith("gmmest ")]


ALL_COMMANDS = sorted({line for path in DOCUMENTS for line in commands(path)})


@pytest.mark.parametrize("line", ALL_COMMANDS)
def test_commands_exist_with_these_options(line: str) -> None:
    _, *words = shlex.split(line)
    if words[0].startswith("-"):
        return
    command = command_line.cli.commands[words[0]]
    options = {
        name: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }
    overrides, files = [], []
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-"):
            files.append(word)
            continue
        option = options[word]
        value = "" if option.is_flag else next(rest)
        if isinstance(option.type, click.Choice) and not value.isupper():
            assert value in option.type.choices
        if word == "--set" and not value.isupper():
            overrides.append(value)
    for name in files:
        if name.startswith("configs/"):
            config.load(ROOT / name, overrides)


def test_two_set_up_commands_and_no_third() -> None:
    listed = [block.text.strip() for block in blocks(README) if block.language.startswith("sh")]
    assert listed == [SET_UP_AND_FIT, SET_UP_AND_TEST]


# --- the reader's own CSV ----------------------------------------------------------------------


def own_files(target: Path) -> list[list[str]]:
    """Write the files of the README; the rows of its table."""
    marked = {block.mark.removeprefix("file: "): block for block in blocks(README) if "file: " in block.mark}
    for name, block in marked.items():
        (target / name).write_text(block.text, encoding="utf-8")
    return list(csv.reader(marked["trips.csv"].text.splitlines()))


REFUSALS = [block for block in blocks(README) if block.mark.startswith("refused: ")]


@pytest.mark.parametrize("block", REFUSALS, ids=lambda block: block.mark)
def test_bad_rows_are_refused_in_these_words(block: Fenced, tmp_path: Path) -> None:
    rows = own_files(tmp_path)
    row, column, cell = re.fullmatch(r"refused: row (\d+), (\w+) = ?(.*)", block.mark).groups()
    rows[int(row)][rows[0].index(column)] = cell
    with (tmp_path / "trips.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    code, out, err = run("fit", str(tmp_path / "trips.yaml"))
    assert (code, out) == (2, "")
    assert without_spaces_at_ends(err) == without_spaces_at_ends(block.text)


def test_the_readers_own_files_are_sound(tmp_path: Path) -> None:
    own_files(tmp_path)
    settings = config.load(tmp_path / "trips.yaml")
    from gmmest.config.build import build_data

    assert build_data(settings).n_sets == 2


# --- configurations ----------------------------------------------------------------------------


def yaml_blocks() -> list[tuple[str, Fenced]]:
    found = [
        (name, block) for name, path in zip(DOCUMENT_NAMES, DOCUMENTS, strict=True) for block in blocks(path)
    ]
    return [(name, block) for name, block in found if block.language == "yaml"]


@pytest.mark.parametrize(("name", "block"), yaml_blocks(), ids=lambda item: getattr(item, "line", item))
def test_yaml_blocks_are_configurations(name: str, block: Fenced) -> None:
    keys = YAML(typ="safe", pure=True).load(block.text)
    if isinstance(keys, dict) and {"data", "model"} <= set(keys):
        loaded = config.loads(block.text, folder=ROOT / "configs", name=name)
        assert loaded.data.path or loaded.data.simulate


def table_rows(path: Path, first: str) -> list[list[str]]:
    """Cells of the table rows whose first cell is code that matches."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("| `") and re.fullmatch(first, cells[0].strip("`")):
            rows.append([cells[0].strip("`"), *cells[1:]])
    return rows


CONFIGURATION = ROOT / "docs" / "configuration.md"
SECTIONS = {
    "data": (schema.DataConfig, tuple(schema.DataConfig.model_fields)),
    "data.simulate": (schema.SimulateConfig, tuple(schema.SimulateConfig.model_fields)),
    "model.utility[]": (model_kinds.TermConfig, _TERM_KEYS),
    "estimation": (schema.EstimationConfig, tuple(schema.EstimationConfig.model_fields)),
    "bootstrap": (schema.BootstrapConfig, tuple(schema.BootstrapConfig.model_fields)),
    # keys of models are documented below the heading of their kind
    **{f"{kind} model": (record, tuple(record.model_fields)) for kind, record in model_kinds.KINDS.items()},
}


def documented_keys() -> dict[str, list[str]]:
    """Default and meaning of each key, as it is written; a kind stands before a key of models."""
    found: dict[str, list[str]] = {}
    kind = ""
    for line in CONFIGURATION.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            kind = heading if heading in model_kinds.KINDS else ""
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if re.fullmatch(r"`[a-z_]+\.[a-z.\[\]_]+`", cells[0]) and line.startswith("|"):
            key = cells[0].strip("`")
            of_kind = f"{kind} " if kind and "[]" not in key else ""
            assert of_kind + key not in found, key
            found[of_kind + key] = cells[1:]
    return found


def test_every_key_is_documented_with_its_default() -> None:
    documented = {key: cells[0].strip("`") for key, cells in documented_keys().items()}
    expected = {}
    for section, (record, keys) in SECTIONS.items():
        for key in keys:
            field = record.model_fields.get(key)
            default = None if field is None or field.is_required() else field.get_default()
            missing = {(): None, model_kinds.InstrumentsConfig(): "features", ByName({}): None}
            default = missing.get(default, default)
            expected[f"{section}.{key}"] = "none" if default is None else str(default)
    assert documented == expected


def test_every_choice_is_documented() -> None:
    text = {key: " ".join(cells[1:]) for key, cells in documented_keys().items()}
    for section, (record, _) in SECTIONS.items():
        for key, field in record.model_fields.items():
            for choice in filter(lambda each: isinstance(each, str), get_args(field.annotation)):
                assert f"`{choice}`" in text[f"{section}.{key}"], (section, key, choice)


def test_the_commented_configuration_states_the_defaults() -> None:
    given = config.load(ROOT / "configs" / "logit.yaml").estimation
    assert given == schema.EstimationConfig()


# --- backends ----------------------------------------------------------------------------------


def test_the_table_of_backends_is_complete() -> None:
    named = [row[0] for row in table_rows(README, r"[a-z-]+") if row[0] in BACKENDS]
    assert sorted(named) == sorted(BACKENDS)
    assert sorted(command_line.GRADS) == sorted(BACKENDS)
    assert sorted(get_args(schema.Grad)) == sorted(BACKENDS)


# --- error codes -------------------------------------------------------------------------------


def codes_of(source: str) -> set[str]:
    """Codes at the beginning of texts (but docstrings) of a module."""
    tree = ast.parse(source)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
    ]
    return {match[0] for text in texts if (match := re.match(r"[EW]\d{3}\b", text))}


def test_the_table_of_codes_is_that_of_the_code() -> None:
    sources = [*ROOT.glob("gmmest/**/*.py"), *ROOT.glob("cli/**/*.py")]
    used = set().union(*(codes_of(path.read_text(encoding="utf-8")) for path in sources))
    rows = table_rows(ROOT / "docs" / "errors.md", r"[EW]\d{3}")
    listed = [row[0] for row in rows]
    assert listed == sorted(listed, key=lambda code: (code[0] == "W", code))
    assert set(listed) == used
    assert len(listed) == len(set(listed))


# --- the map of the house ----------------------------------------------------------------------


def test_the_map_names_every_module() -> None:
    """One line a module in docs/contributing.md; packages' __init__ files are their folder's line."""
    text = next(block.text for block in blocks(ROOT / "docs" / "contributing.md") if block.mark == "map")
    named, parents = set(), []
    for line in text.splitlines():
        match = re.match(r"( *)([\w/.]+)(  .*)?$", line)
        assert match, line
        parents[len(match[1]) // 2 :] = [match[2].rstrip("/")]
        if not match[2].endswith("/"):
            named.add("/".join(parents))
    sources = [*ROOT.glob("gmmest/**/*.py"), *ROOT.glob("cli/**/*.py")]
    modules = {str(path.relative_to(ROOT)) for path in sources if path.name != "__init__.py"}
    assert sorted(modules - named) == [], "add a line for each to docs/contributing.md"


# --- links and paths ---------------------------------------------------------------------------


def slugs(path: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", prose(path))
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"[ -]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("path", DOCUMENTS, ids=DOCUMENT_NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not heading or heading in slugs(file), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=DOCUMENT_NAMES)
def test_no_machine_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|opt|mnt|srv)/\S*|\b[A-Z]:\\", text)


def test_every_page_is_in_the_navigation() -> None:
    settings = YAML(typ="safe", pure=True).load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(item: Any) -> list[str]:
        if isinstance(item, str):
            return [item]
        return [page for part in (item.values() if isinstance(item, dict) else item) for page in pages(part)]

    assert sorted(pages(settings["nav"])) == sorted(
        str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")
    )
