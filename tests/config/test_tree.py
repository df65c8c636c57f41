"""YAML as text that somebody may have sent: what it says, and what it may not do (FAULTS 36 to 38)."""

import random
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmmest import config
from gmmest.config.tree import MOST_BYTES, Findings, Node, plain_scalar, read
from gmmest.errors import ConfigError

# Time says nothing here, and a busy machine may be slow.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SMALL = "data: {path: a.csv, case: id, chosen: y}\nmodel: {utility: [{column: gc}]}\n"
# Refusing a megabyte may take as long as cutting it into tokens does in pure Python, with room for a
# busy machine; the recursion or the doubling that these tests are about would take minutes or more.
SECONDS = 60


def complaints(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.loads(text, folder=".", name="a.yaml")
    return [f"{c.code} {c.what} | {c.where}" for c in caught.value.complaints]


def refusal(text: str) -> str:
    """What is said about a text; empty if it is read.  Any other exception than ConfigError gets through."""
    try:
        config.loads(text, folder=".")
    except ConfigError as error:
        return str(error)
    return ""


def value_of(text: str) -> object:
    findings = Findings()
    root = read(f"key: {text}\n", findings, source="a.yaml")
    findings.raise_any()
    assert isinstance(root.value, dict)
    return root.value["key"].value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-8", 1e-8),
        ("1E5", 1e5),
        ("1e+22", 1e22),
        (".5", 0.5),
        ("5.", 5.0),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("12:30", "12:30"),
        ("190:20:30", "190:20:30"),
        ("2018-06-11", "2018-06-11"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("true", True),
        ("False", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", float("inf")),
        ("-.Inf", float("-inf")),
        ("inf", "inf"),
        ("NaN", "NaN"),
        ("=", "="),
        ("<<", "<<"),
        ("'1e-8'", "1e-8"),
        ('"no"', "no"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_table_of_yaml_traps(written, value):
    found = value_of(written)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_one():
    found = value_of(".nan")
    assert found != found


@patient
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**298), 10**298))
def test_numbers_come_back_exactly(number):
    assert plain_scalar(repr(number)) == number
    assert type(plain_scalar(repr(number))) is type(number)


def test_a_key_given_twice_names_both_lines_and_hides_nothing():
    text = "data:\n  path: a.csv\n  case: id\n  chosen: y\n  path: b.csv\nmodel: {utility: [{column: gc}]}\nspeed: 1\n"
    assert complaints(text) == [
        "E103 key 'path' is given twice, first on line 2 | a.yaml, line 5, data.path",
        "E101 unknown key 'speed' | a.yaml, line 7, speed",
    ]


def test_a_key_and_the_same_in_quotes_are_given_twice():
    assert complaints(SMALL + "estimation: {start: {1: 2, '1': 3}}") == [
        "E103 key '1' is given twice, first on line 3 | a.yaml, line 3, estimation.start.1"
    ]


def bomb(depth: int = 9) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return "\n".join(lines)


def test_anchors_and_aliases_are_refused_before_they_are_followed():
    assert len(bomb()) < 500
    started = time.perf_counter()
    found = complaints(bomb())
    assert time.perf_counter() - started < SECONDS
    assert found[0] == "E104 anchor &a0: not allowed in a configuration | a.yaml, line 1"
    assert {c[:4] for c in found} == {"E104"}


@pytest.mark.parametrize("text", ["a: &a [*a]", "&a a: 1", "*a", "a: {<<: *b}", "&a {a: 1}", "&a [1]"])
def test_single_anchors_and_aliases(text):
    assert {c[:4] for c in complaints(text)} == {"E104"}


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch planted']",
        "a: !!python/name:os.system",
        "a: !!python/object/new:os.system [touch planted]",
        "a: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch planted']",
        "a: !custom x",
        "a: !!str 1",
        "a: !!int '1'",
        "a: !!binary aGk=",
        "a: !!set {b}",
        "!!map {a: 1}",
        "!!int a: 1",
        "a: !!timestamp 2018-06-11",
        "a: ! x",
        "%TAG ! tag:yaml.org,2002:python/\n--- \na: 1",
    ],
)
def test_tags_are_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = complaints(text)
    assert [c[:4] for c in found] == ["E105"]
    assert not Path("planted").exists()


@pytest.mark.parametrize("depth", [51, 5000, 400_000])
@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_refused_without_recursion(depth, opening):
    started = time.perf_counter()
    found = complaints(opening * min(depth, MOST_BYTES // len(opening)))
    assert time.perf_counter() - started < SECONDS
    assert len(found) == 1
    # A mapping or list as a key is refused for that, before its depth is.
    assert found[0].startswith(
        "E104 more than 50 levels of nesting" if opening != "? " else "E103 a key must be text"
    )


def test_fifty_levels_are_read_and_one_more_is_not():
    def levels(n: int) -> Node:
        return read("[" * n + "]" * n, Findings(), source="a.yaml")

    node = levels(50)
    for _ in range(49):
        assert isinstance(node.value, tuple)
        (node,) = node.value
    assert node.value == ()
    with pytest.raises(ConfigError, match="E104 more than 50 levels"):
        levels(51)


def test_size(tmp_path):
    text = SMALL + "#" * (MOST_BYTES - len(SMALL))
    assert config.loads(text, folder=".").data.case == "id"
    assert complaints(text + "#") == ["E104 the text is longer than 1,000,000 bytes | a.yaml, line 1"]
    assert complaints("é" * (MOST_BYTES // 2 + 1))[0].startswith("E104 ")
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(10 * 2**30)
    with pytest.raises(ConfigError, match="E104 the text is longer"):
        config.load(file)
    file.write_text("é" * MOST_BYTES, encoding="utf-8")
    with pytest.raises(ConfigError, match="E104 the text is longer"):
        config.load(file)


def test_many_small_values():
    assert complaints("a: [" + "1," * 200_000 + "]") == ["E104 more than 100,000 values | a.yaml, line 1"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "data: {}\nmodel: [1, 2\n",
            "E103 not YAML: while parsing a flow sequence, expected ',' or ']', but got",
        ),
        ("data:\n\tcase: x", "E103 not YAML: while scanning for the next token, found character '\\t'"),
        ("data: a: b", "E103 not YAML: mapping values are not allowed here | a.yaml, line 1"),
        ('a: "x\n', "E103 not YAML: while scanning a quoted scalar"),
        ("a: 1\nb: \x00", "E103 character U+0000 is not allowed in YAML | a.yaml, line 2"),
        ("a: \ud800", "E103 character U+D800 is not allowed in YAML | a.yaml, line 1"),
        ('a: "\\ud800"', "E103 text holds half of a surrogate pair: \\ud800 | a.yaml, line 1, a"),
        ('a: "\\UFFFFFFFF"', "E103 not YAML: an escape such as \\U... names no character"),
        ("a: 1\n---\nb: 2", "E103 a second document begins here | a.yaml, line 2"),
        ("? [a]\n: b", "E103 a key must be text, found a list or a mapping | a.yaml, line 1"),
        ("", "E103 the configuration must be a mapping with data, model and estimation, found nothing"),
        (
            "# only a comment",
            "E103 the configuration must be a mapping with data, model and estimation, found nothing",
        ),
        ("- a", "E103 the configuration must be a mapping with data, model and estimation, found a list"),
        (
            "some words",
            "E103 the configuration must be a mapping with data, model and estimation, found the text",
        ),
        (
            "42",
            "E103 the configuration must be a mapping with data, model and estimation, found the number 42",
        ),
    ],
)
def test_what_is_no_configuration_at_all(text, complaint):
    (found,) = complaints(text)
    assert found.startswith(complaint)


def test_an_old_version_of_yaml_is_not_asked_for_in_vain():
    (found,) = complaints("%YAML 1.1\n---\n" + SMALL)
    assert found.startswith("E103 directive %YAML: not version 1.2 | a.yaml, line ")
    assert config.loads("%YAML 1.2\n---\n" + SMALL, folder=".").data.case == "id"


def test_utf8_only(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"# one line\ndata: {path: caf\xe9.csv}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert str(caught.value) == (
        "E103 byte 0xe9 is not UTF-8\n  where: a.yaml, line 2\n  next:  save the file as UTF-8"
    )
    file.write_text(SMALL, encoding="utf-16")
    with pytest.raises(ConfigError, match="E103 byte 0xff is not UTF-8"):
        config.load(file)
    file.write_text(SMALL, encoding="utf-8-sig")
    assert config.load(file).data.case == "id"
    file.write_bytes(SMALL.replace("\n", "\r\n").encode())
    assert config.load(file).data.case == "id"


PIECES = [
    *"[]{},:-?|>&*!%@`~#'\"\\ \n\t\r",
    "- ",
    ": ",
    "data",
    "&a",
    "*a",
    "!!int",
    "\\x",
    "\\u12",
    "\\UFFFFFFFF",
    "|2",
]
PIECES += [
    "%YAML 1.1",
    "%TAG ! x",
    "---",
    "...",
    "<<",
    "\x85",
    "\u2028",
    "\ufeff",
    "\0",
    "\ud800",
    "\U0001f600",
    "1e9",
]


@patient
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_heap_of_yaml_is_refused(pieces):
    assert refusal("".join(pieces)).startswith("E1")


def test_any_damage_to_a_file_is_read_or_refused():
    text = (Path(__file__).parents[2] / "configs" / "logit.yaml").read_text(encoding="utf-8")
    rows = [line.partition("#")[0].rstrip() for line in text.splitlines()]
    text = "\n".join(row for row in rows if row)
    assert refusal(text) == ""
    generator = random.Random(20180611)
    refused = 0
    for _ in range(500):
        place = generator.randrange(len(text))
        damaged = text[:place] + generator.choice(PIECES) + text[place + generator.randrange(3) :]
        refused += refusal(damaged).startswith("E1")
    assert 250 < refused < 500


@patient
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content):
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(content)
        file.flush()
        with pytest.raises(ConfigError):
            config.load(file.name)
