"""From a file, a text and ``--set`` options to a :class:`Config`, or to all complaints at once.

1. ``tree.read`` gives values with their lines; each ``--set`` replaces or adds one.
2. *Tidying*: unknown keys get their complaint, and the spellings that a file may choose between
   become one.  A misspelt key is then read as its nearest neighbour: so it causes no second
   complaint (that the key it stands for is missing) and hides none (in the section below it).
3. The records judge types and rules; each of their errors is put in plain words and in its place.
"""

from __future__ import annotations

import difflib
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gmmest.config.model_kinds import KINDS, PARTS, InstrumentsConfig
from gmmest.config.record import Record
from gmmest.config.schema import BootstrapConfig, Config, DataConfig, EstimationConfig, SimulateConfig
from gmmest.config.tree import (
    MOST_BYTES,
    Findings,
    Node,
    Option,
    Place,
    override,
    plain_scalar,
    read,
    short,
)
from gmmest.errors import Complaint, FileError, closest, nearest

__all__ = ["load", "loads"]


def load(
    path: str | Path, overrides: Sequence[str | Option] = (), folder: str | Path | None = None
) -> Config:
    """Read the configuration in a YAML file.

    Parameters
    ----------
    path : str or Path
        The file; relative names of input files in it start at its folder.
    overrides : sequence of str or Option
        Settings like ``"estimation.optimizer=bfgs"`` or ``"model.utility.0.column=gc"`` that
        replace or add to those of the file, or take one away, ``"data.time=null"``; the last of equal ones
        counts.
    folder : str or Path, optional
        Where relative names start, if not at the file's folder.

    Returns
    -------
    Config
        Frozen, with defaults filled in.

    Raises
    ------
    FileError
        E511: the file cannot be read.
    ConfigError
        All complaints in the order of the lines: E101 (unknown key, or an option that is none), E102
        (wrong type or value), E103 (not YAML 1.2 in UTF-8), E104 (too large or too deep, aliases),
        E105 (tags), E107 (an address instead of a file).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from gmmest import config
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "small.yaml"
    >>> _ = file.write_text('''
    ... data: {path: travel.csv, case: individual, chosen: choice}
    ... model: {utility: [{column: gc}]}
    ... ''')
    >>> config.load(file, ["estimation.maxiter=50"]).estimation.maxiter
    50
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            # One byte more than allowed tells a file that is too large from one that fits.
            content = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        what = f"cannot read the configuration '{short(file, 200)}': {reason}"
        raise FileError(Complaint("E511", what, "", "check the name and the permissions")) from None
    return _config(
        _decoded(content, file.name),
        file.name,
        file.parent if folder is None else Path(folder),
        file,
        overrides,
        {},
    )


def loads(
    text: str,
    *,
    folder: str | Path,
    name: str = "<text>",
    overrides: Sequence[str | Option] = (),
    options: Mapping[str, str] | None = None,
) -> Config:
    r"""Read the configuration in a YAML text; as :func:`load`, with the folder given.

    ``options`` are options of the command line by the keys that they stand for, where nobody wrote the text:
    advice to give one of these keys names its option.

    Examples
    --------
    >>> from gmmest import config
    >>> settings = config.loads(
    ...     "data: {simulate: {sets: 10, alternatives: [2, 5], features: 2, moments: 3, seed: 1}}\n"
    ...     "model: {kind: logit}",
    ...     folder=".",
    ... )
    >>> settings.data.simulate.alternatives
    (2, 5)
    >>> config.loads("dta: {}", folder=".", name="small.yaml")
    Traceback (most recent call last):
        ...
    gmmest.errors.ConfigError: E101 unknown key 'dta'; did you mean 'data'?
      where: small.yaml, line 1, dta
      next:  the keys of a configuration are data, model, estimation, bootstrap
    E102 model is missing: expected a mapping with kind and the keys of that kind
    ...
    """
    return _config(text, name, Path(folder), None, overrides, options or {})


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) > MOST_BYTES:
            # The cut may have fallen into a character; that the text is too long is the complaint.
            return content.decode("utf-8", "replace")
        place = Place(name, content.count(b"\n", 0, error.start) + 1)
        what = f"byte 0x{content[error.start]:02x} is not UTF-8"
        Findings().stop("E103", what, place, "", "save the file as UTF-8")


def _config(
    text: str,
    name: str,
    folder: Path,
    path: Path | None,
    overrides: Sequence[str | Option],
    options: Mapping[str, str],
) -> Config:
    findings = Findings()
    root = read(text, findings, source=name)
    for rank, assignment in enumerate(overrides, 1):
        root = override(root, assignment, rank, findings)
    if not isinstance(root.value, Mapping):
        what = f"the configuration must be {Config.expected}, found {_found(root)}"
        findings.stop("E103", what, root.place, "", "start from a file in configs/")
    root = _tidy(root, findings)
    try:
        config = Config.model_validate({**_plain(root), "folder": folder, "path": path})
    except ValidationError as error:
        for details in error.errors(include_url=False):
            _explain(details, root, findings, options)
        findings.raise_any()
        raise AssertionError("an error of a record was not explained") from error
    findings.raise_any()
    return config


class _Empty:
    """Stands for a null, which pydantic would accept where a field may be absent."""


def _plain(node: Node) -> Any:
    if isinstance(node.value, Mapping):
        return {key: _plain(below) for key, below in node.value.items() if not below.removed}
    if isinstance(node.value, tuple):
        return tuple(_plain(below) for below in node.value)
    return _Empty() if node.value is None else node.value


# --- tidying -----------------------------------------------------------------------------------

_CERTAIN = 0.9
"""Likeness from which a misspelt key is the known one beside it: max_iter is maxiter, and not max_steps."""

_TERM_KEYS = ("constant", "column", "columns", "only", "name")


def _tidy(root: Node, findings: Findings) -> Node:
    root = _known(root, ("data", "model", "estimation", "bootstrap"), findings)
    root = _mapped(root, "data", lambda node: _data(node, findings))
    root = _mapped(root, "model", lambda node: _model(node, findings))
    root = _mapped(root, "estimation", lambda node: _estimation(node, findings))
    return _mapped(root, "bootstrap", lambda node: _bootstrap(node, findings))


def _mapped(node: Node, key: str, function: Callable[[Node], Node]) -> Node:
    """Replace one entry of the node, if there, by the function of it."""
    if not isinstance(node.value, Mapping) or key not in node.value:
        return node
    return replace(node, value={**node.value, key: function(node.value[key])})


def _known(node: Node, known: Sequence[str], findings: Findings, kind: str = "") -> Node:
    """Keep the known keys only, and take a misspelt one for its neighbour."""
    if not isinstance(node.value, Mapping):
        return node
    entries = {key: below for key, below in node.value.items() if key in known}
    for key, below in node.value.items():
        if key in known:
            continue
        # A key that is not there yet is the likelier meaning, and the only one that can be taken up.
        near = closest(key, known)
        if near not in entries or difflib.SequenceMatcher(None, key.lower()[:100], near).ratio() < _CERTAIN:
            free = closest(key, [other for other in known if other not in entries])
            near = free or near
        else:
            free = ""
        what = f"unknown key '{short(key)}'" + (f"; did you mean '{near}'?" if near else "")
        section = (node.path or "a configuration") + (f" of kind {kind}" if kind else "")
        findings.add("E101", what, below.place, below.path, f"the keys of {section} are {', '.join(known)}")
        if free:
            entries[free] = replace(below, guessed=True)
    return replace(node, value={key: below for key, below in entries.items() if not below.removed})


def _data(node: Node, findings: Findings) -> Node:
    node = _mapped(_known(node, tuple(DataConfig.model_fields), findings), "cluster", _listed)
    return _mapped(node, "simulate", lambda below: _simulate(below, findings))


def _simulate(node: Node, findings: Findings) -> Node:
    node = _known(node, tuple(SimulateConfig.model_fields), findings)
    if isinstance(node.value, Mapping) and "moments" not in node.value:
        features = node.value.get("features", Node(1, node.place, node.path))
        # What is wrong with the number of features is said once.
        node = replace(node, value={**node.value, "moments": replace(features, guessed=True)})
    # A number is the range from itself to itself.
    return _mapped(node, "alternatives", lambda n: replace(n, value=(n, n)) if type(n.value) is int else n)


def _model(node: Node, findings: Findings) -> Node:
    if not isinstance(node.value, Mapping):
        return node
    kind, node = _kind(node, findings)
    node = _known(node, tuple(KINDS[kind].model_fields), findings, kind)
    if kind == "logit":
        node = _mapped(node, "utility", lambda below: _terms(below, findings))
        return _mapped(node, "instruments", lambda below: _instruments(below, findings))
    for key in (*PARTS, "names", "columns", "moment_names"):
        node = _mapped(node, key, _listed)
    return _mapped(node, "start", functools.partial(_items, what="a finite number"))


def _kind(node: Node, findings: Findings) -> tuple[str, Node]:
    """Find the kind of a model; a misspelt one gets its complaint here and is then read as what is meant."""
    entries = dict(node.value) if isinstance(node.value, Mapping) else {}
    keys = sorted({key for record in KINDS.values() for key in record.model_fields})
    key = next((k for k in entries if k not in keys and closest(k, keys) == "kind"), "kind")
    key = "kind" if "kind" in entries else key
    if key not in entries or entries[key].removed:
        return "logit", node
    written = entries[key]
    if isinstance(written.value, str) and written.value in KINDS:
        return written.value, node
    near = closest(written.value, tuple(KINDS)) if isinstance(written.value, str) else ""
    # Where the word is like none, its keys tell what else is worth saying.
    meant = near or max(KINDS, key=lambda kind: len(entries.keys() & KINDS[kind].model_fields.keys()))
    *most, last = KINDS
    what = f"{written.path}: expected {', '.join(most)} or {last}, found {_found(written)}"
    advice = f"did you mean '{near}'?" if near else "give a value, or leave the key out"
    findings.add("E102", what, written.place, written.path, advice if near or written.value is None else "")
    return meant, replace(node, value={**entries, key: replace(written, value=meant)})


def _estimation(node: Node, findings: Findings) -> Node:
    if node.value is None:
        # A section of which every line is commented out: all defaults.
        return replace(node, value={})
    node = _mapped(_known(node, tuple(EstimationConfig.model_fields), findings), "cluster", _listed)
    node = _mapped(node, "starts", _starts)
    for key, what in (
        ("start", "a finite number"),
        ("fixed", "a finite number"),
        ("tied", 'a linear expression of parameters, such as "3*a"'),
        ("bounds", "[lower, upper], with none for no bound"),
    ):
        node = _mapped(node, key, functools.partial(_items, what=what))
    return node


def _bootstrap(node: Node, findings: Findings) -> Node:
    if node.value is None:
        return replace(node, value={})
    return _known(node, tuple(BootstrapConfig.model_fields), findings)


def _listed(node: Node) -> Node:
    """Take one name for a list of one."""
    return replace(node, value=(node,)) if isinstance(node.value, str) else node


def _starts(node: Node) -> Node:
    if not isinstance(node.value, tuple):
        return node
    expected = "a mapping of parameters' names to finite numbers"
    starts = (_items(replace(start, expected=expected), "a finite number") for start in node.value)
    return replace(node, value=tuple(starts))


def _items(node: Node, what: str) -> Node:
    """Say of each entry of a mapping, and of what stands in a list there, what was expected."""
    if not isinstance(node.value, Mapping):
        return node
    return replace(node, value={name: _expecting(n, what) for name, n in node.value.items()})


def _expecting(node: Node, what: str) -> Node:
    parts = node.value
    if isinstance(parts, tuple):
        parts = tuple(replace(part, expected=what) for part in parts)
    return replace(node, value=parts, expected=what)


def _terms(node: Node, findings: Findings) -> Node:
    if not isinstance(node.value, tuple):
        return node
    return replace(node, value=tuple(_term(below, findings) for below in node.value))


def _instruments(node: Node, findings: Findings) -> Node:
    features = replace(node, value=True)
    if node.value == "features":
        return replace(node, value={"features": features})
    if isinstance(node.value, tuple):
        terms = _terms(node, findings)
        return replace(node, value={"features": replace(node, value=False), "terms": terms})
    if isinstance(node.value, Mapping):
        if not node.value:
            what = f"{node.path}: expected {InstrumentsConfig.expected}, found an empty mapping"
            findings.add("E102", what, node.place, node.path)
        node = _known(node, ("add",), findings)
        added = node.value.get("add") if isinstance(node.value, Mapping) else None
        entries = {"features": features} | ({"terms": _terms(added, findings)} if added else {})
        return replace(node, value=entries)
    return node


def _term(node: Node, findings: Findings) -> Node:
    node = _known(node, _TERM_KEYS, findings)
    if not isinstance(node.value, Mapping):
        return node
    entries = dict(node.value)
    kinds = [key for key in ("constant", "column", "columns") if key in entries]
    if len(kinds) > 1:
        what = f"a term has exactly one of constant, column and columns; found {' and '.join(kinds)}"
        findings.add("E102", what, node.place, node.path, "write one term each")
        for key in kinds[1:]:
            del entries[key]
    if "column" in entries:
        expected = "a column's name (for a product write  columns: [NAME, NAME])"
        column = replace(entries.pop("column"), expected=expected)
        entries["columns"] = replace(column, value=(column,))
    elif "columns" in entries:
        columns = entries["columns"]
        if isinstance(columns.value, tuple) and len(columns.value) == 1:
            what = f"{columns.path}: expected {_expected(('model', 'utility', 0, 'columns'))}, found one"
            findings.add("E102", what, columns.place, columns.path, "write  column: NAME")
    if "constant" in entries:
        entries["constant"] = _label(entries["constant"])
    if "only" in entries:
        only = entries["only"]
        labels = only.value if isinstance(only.value, tuple) else (only,)
        entries["only"] = replace(only, value=tuple(_label(label) for label in labels))
    return replace(node, value=entries)


def _label(node: Node) -> Node:
    """Take a whole number as a label, but not 007 or 0x1F: as numbers they would become other labels."""
    if type(node.value) is int and node.written == str(node.value):
        return replace(node, value=node.written)
    return node


# --- explaining --------------------------------------------------------------------------------


def _explain(error: ErrorDetails, root: Node, findings: Findings, options: Mapping[str, str]) -> None:
    """Put one error of a record in plain words and in its place."""
    loc = error["loc"]
    node, found_all = _at(root, [part for part in loc if not _is_tag(part)])
    if loc and loc[-1] == "[key]":
        what = (
            f"{node.path}: '{short(loc[-2])}' is no name: expected 1 to 500 characters, none of them control"
        )
        findings.add("E102", what, node.place, node.path)
        return
    if error["type"] == "too_short" and node.value:
        # pydantic counts the valid items only, and the invalid ones have their complaints.
        return
    if error["type"] == "missing" and not found_all and isinstance(loc[-1], str):
        key = _dotted(node.path, loc[-1])
        place, advice = node.place, f"add a line  {loc[-1]}: ..."
        if key in options:
            place, advice = replace(place, line=0), f"give  {options[key]}"
        findings.add("E102", f"{key} is missing: expected {_expected(loc)}", place, node.path, advice)
        return
    if node.guessed:
        return
    if error["type"].startswith("E1"):
        advice = str(error.get("ctx", {}).get("advice", ""))
        if advice == "delete it" and node.place.rank:
            advice = f"leave out  {node.place.source.partition(' ')[0]}"
        findings.add(error["type"], error["msg"], node.place, node.path, advice)
        return
    expected = node.expected or _expected(loc)
    what = f"{node.path}: expected {expected}, found {_found(node)}"
    findings.add("E102", what, node.place, node.path, _advice(error, node, loc))


_TAGS = ("<word>", "<number>", "<list>", *(f"<{kind}>" for kind in KINDS))


def _is_tag(part: int | str) -> bool:
    """Whether a part of a location is the tag of one of several types, as in schema.Bandwidth."""
    return part in _TAGS


def _at(root: Node, loc: Sequence[int | str]) -> tuple[Node, bool]:
    """Find the node at a location, or else the last one on the way to it (and then False)."""
    node = root
    for part in loc:
        if isinstance(node.value, Mapping) and part in node.value:
            node = node.value[str(part)]
        elif isinstance(node.value, tuple) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return node, False
    return node, True


def _dotted(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _field(loc: tuple[int | str, ...]) -> tuple[type[Record], FieldInfo | None]:
    """Find the record and the field at a location; no field for a record that is an item of a list."""
    record: type[Record] = Config
    field: FieldInfo | None = None
    for part in loc:
        if isinstance(part, int):
            field = None if field is None or _record_in(field.annotation) else field
        elif _is_tag(part) and part[1:-1] in KINDS:
            record, field = KINDS[part[1:-1]], None
        elif part in record.model_fields:
            field = record.model_fields[part]
            record = _record_in(field.annotation) or record
    return record, field


def _expected(loc: tuple[int | str, ...]) -> str:
    """Say what should stand at a location."""
    record, field = _field(loc)
    if field is None:
        return record.expected
    *most, last = _choices(field)
    return field.description or " or ".join(filter(None, (", ".join(most), last)))


def _record_in(annotation: Any) -> type[Record] | None:
    """Find the record that an annotation such as ``tuple[TermConfig, ...]`` is about."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation
    below = (_record_in(argument) for argument in typing.get_args(annotation))
    return next((record for record in below if record), None)


def _choices(field: FieldInfo | None) -> tuple[str, ...]:
    return _words(field.annotation if field else None) or ("",)


def _words(annotation: Any) -> tuple[str, ...]:
    """Words that an annotation allows."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return arguments
    return tuple(word for argument in arguments for word in _words(argument))


def _found(node: Node) -> str:
    value = node.value
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{short(value)}'"
    return (
        f"the yes-or-no value {node.written}"
        if isinstance(value, bool)
        else f"the number {short(node.written)}"
    )


def _advice(error: ErrorDetails, node: Node, loc: tuple[int | str, ...]) -> str:
    kind, value = error["type"], node.value
    if value is None:
        return "give a value, or leave the key out"
    if kind == "string_too_long":
        return f"at most {error['ctx']['max_length']} characters"
    if kind == "literal_error" and isinstance(value, str):
        if "bandwidth" in loc and isinstance(plain_scalar(value), (int, float)):
            return f"write {value} without quotes"
        return nearest(value, _choices(_field(loc)[1]))
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return f"for the text put it into quotes: '{short(node.written)}'"
    if kind == "bool_type" and isinstance(value, str):
        return "write true or false, without quotes"
    if kind in ("int_type", "float_type") and isinstance(value, str):
        return f"write {value} without quotes" if isinstance(plain_scalar(value), (int, float)) else ""
    if kind == "int_type" and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"write {int(value)}"
    return ""
