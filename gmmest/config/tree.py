"""YAML text as a tree of values that remember where they were written.

A configuration is text that somebody may have sent.  So nothing is ever constructed from it but
None, bool, int, float, str, lists and mappings: ruamel.yaml (pure Python, safe) cuts the text into
*events*, and this module folds the events.  What YAML could do beyond that is refused while the
events pass by, before there is anything to construct:

* anchors and aliases (306 bytes of them can stand for 9**9 values), tags (which can name Python
  objects), more than ``MOST_BYTES`` bytes, ``MOST_DEPTH`` levels or ``MOST_VALUES`` values;
* a key that is given twice (most readers keep the last one, silently).

Plain scalars are resolved by the core schema of YAML 1.2 alone, written out in ``plain_scalar``:
ruamel's own resolver also makes dates of ``2018-06-11`` and numbers of ``1_000``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from gmmest.errors import Complaint, ConfigError, printable

__all__ = ["Findings", "Node", "Option", "Place", "override", "plain_scalar", "read", "short"]

MOST_BYTES = 1_000_000
MOST_DEPTH = 50
MOST_VALUES = 100_000
MOST_COMPLAINTS = 100

Scalar = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a line of a text, or an option of the command line.

    Parameters
    ----------
    source : str
        Name of the text, or the option as it was typed.
    line : int
        Counted from 1; 0 for an option.
    rank : int
        0 for the text, 1, 2, ... for the options in the order given; complaints are sorted by it.
    """

    source: str
    line: int = 0
    rank: int = 0

    def order(self) -> tuple[int, int]:
        """Rank, then line: the order of reading."""
        return self.rank, self.line

    def at(self, path: str) -> str:
        """Say the place, such as ``"logit.yaml, line 7, model.utility[1]"``."""
        if not self.line:
            return self.source
        return f"{self.source}, line {self.line}" + (f", {path}" if path else "")


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One value, its place, and its path such as ``model.utility[1].column``.

    Parameters
    ----------
    value : scalar, tuple of Node, or dict of str to Node
        The value.
    place : Place
        For a value in a mapping, the place of its key.
    path : str
        Keys and indices from the root, for people.
    written : str
        A scalar as it stands in the text.
    guessed : bool
        Whether the key was misspelt and is read as its nearest neighbour: then the key has its
        complaint, and the value gets none.
    expected : str
        What should have stood here, where the schema's own words do not fit what was written.
    removed : bool
        Whether an option takes the key away: whether there may be such a key is judged, and then it is gone.
    """

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    place: Place
    path: str = ""
    written: str = ""
    guessed: bool = False
    expected: str = ""
    removed: bool = False


class Findings:
    """Collects complaints about one configuration; raises them together, in the order of the lines."""

    def __init__(self) -> None:
        self._found: list[tuple[Place, Complaint]] = []

    def add(self, code: str, what: str, place: Place, path: str = "", advice: str = "") -> None:
        """Note one complaint; after a hundred the reading ends."""
        complaint = Complaint(code, what, place.at(path), advice)
        # A scalar that stands for both ends of a range is judged twice, but is one mistake.
        if (place, complaint) not in self._found:
            self._found.append((place, complaint))
        if len(self._found) > MOST_COMPLAINTS:
            what = f"more than {MOST_COMPLAINTS} complaints: the rest is not read"
            last = Complaint("E104", what, "", "is this the file that you meant?")
            self._found[-1] = (max((at for at, _ in self._found), key=Place.order), last)
            self.raise_any()

    def raise_any(self) -> None:
        """Raise what was found, if anything was."""
        if self._found:
            self._found.sort(key=lambda item: item[0].order())
            raise ConfigError(complaint for _, complaint in self._found)

    def stop(self, code: str, what: str, place: Place, path: str = "", advice: str = "") -> NoReturn:
        """Note one complaint after which reading makes no sense, and raise."""
        self.add(code, what, place, path, advice)
        self.raise_any()
        raise AssertionError("unreachable: there is at least the complaint just added")


def short(text: object, most: int = 60) -> str:
    """Printable text of at most ``most`` characters."""
    shown = printable(text if not isinstance(text, str) else text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 3] + "..."


# --- scalars -----------------------------------------------------------------------------------

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
# Python refuses to convert more than 4,300 digits, and float overflows at 309: longer is no number.
_MOST_DIGITS = 300


def plain_scalar(text: str) -> Scalar:
    """Resolve an unquoted scalar by the core schema of YAML 1.2.

    Examples
    --------
    >>> [plain_scalar(text) for text in ("1e-8", "no", "010", "12:30", "2018-06-11", "1_000")]
    [1e-08, 'no', 10, '12:30', '2018-06-11', '1_000']
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MOST_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text, 0) if text[1:2] in ("o", "x") else int(text, 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INFINITE.fullmatch(text):
        return float(f"{infinite[1]}inf")
    return text


# --- events to nodes ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been met."""

    place: Place
    path: str
    is_mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    key: str | None = None
    key_place: Place = field(default_factory=lambda: Place(""))

    def child(self, place: Place) -> tuple[Place, str]:
        """Place and path of the next value."""
        if not self.is_mapping:
            return place, f"{self.path}[{len(self.items)}]"
        if self.key is None:
            return place, self.path
        key = short(self.key)
        return self.key_place, f"{self.path}.{key}" if self.path else key

    def closed(self) -> Node:
        value = self.entries if self.is_mapping else tuple(self.items)
        return Node(value, self.place, self.path)


class _Fold:
    """Folds events into one tree; the stack is a list, so depth costs no recursion."""

    def __init__(self, source: str, findings: Findings, rank: int, path: str, flow_only: bool) -> None:
        self.source, self.findings, self.rank, self.path = source, findings, rank, path
        self.flow_only = flow_only
        self.stack: list[_Open] = []
        self.root: Node | None = None
        self.count = self.documents = 0
        self.unsafe = False

    def place(self, event: Any) -> Place:
        return Place(self.source, 0 if self.rank else event.start_mark.line + 1, self.rank)

    def take(self, event: Any) -> None:
        """Take in one event."""
        if isinstance(event, DocumentStartEvent):
            self._document(event)
        elif isinstance(event, AliasEvent):
            self._unsafe(event, "E104", f"alias *{short(event.anchor)}", "write the value out again")
            self._value(Node(None, self.place(event)), event)
        elif isinstance(event, ScalarEvent):
            self._check(event)
            self._value(self._scalar(event), event)
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self._check(event)
            self._open(event)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            closed = self.stack.pop().closed()
            if self.stack:
                self._attach(closed)
            else:
                self.root = closed

    def _document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            self.findings.stop(
                "E103",
                "a second document begins here",
                self.place(event),
                "",
                "keep one, delete the line ---",
            )
        if event.tags:
            self._unsafe(event, "E105", "directive %TAG", "delete it")
        if event.version and tuple(event.version) != (1, 2):
            advice = "delete the line; the text is read as YAML 1.2"
            self.findings.add("E103", "directive %YAML: not version 1.2", self.place(event), "", advice)

    def _check(self, event: Any) -> None:
        self.count += 1
        if self.count > MOST_VALUES:
            self.findings.stop("E104", f"more than {MOST_VALUES:,} values", self.place(event))
        if event.anchor is not None:
            self._unsafe(
                event, "E104", f"anchor &{short(event.anchor)}", "write the value out where it is needed"
            )
        if event.tag is not None:
            advice = "delete the tag; put text that looks like a number into quotes"
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self._unsafe(event, "E105", f"tag {short(tag)}", advice)

    def _unsafe(self, event: Any, code: str, what: str, advice: str) -> None:
        self.unsafe = True
        self.findings.add(code, f"{what}: not allowed in a configuration", self.place(event), "", advice)

    def _scalar(self, event: Any) -> Node:
        place, path = self._next(event)
        text = _joined(event.value)
        if text is None:
            what = f"text holds half of a surrogate pair: {short(event.value)}"
            self.findings.stop("E103", what, place, path, "write the character itself")
        plain = event.style is None and event.implicit[0]
        return Node(plain_scalar(text) if plain else text, place, path, written=text)

    def _open(self, event: Any) -> None:
        place, path = self._next(event)
        is_mapping = isinstance(event, MappingStartEvent)
        if self.stack and self.stack[-1].is_mapping and self.stack[-1].key is None:
            what = "a key must be text, found a list or a mapping"
            self.findings.stop("E103", what, place, self.stack[-1].path, "put the key into quotes")
        if len(self.stack) >= MOST_DEPTH:
            self.findings.stop("E104", f"more than {MOST_DEPTH} levels of nesting", place)
        if self.flow_only and not event.flow_style:
            what = "the value must be one value, [a list] or {a mapping}, on one line"
            self.findings.stop("E101", what, place, "", "put text with : or - in it into quotes")
        self.stack.append(_Open(place, path, is_mapping))

    def _next(self, event: Any) -> tuple[Place, str]:
        if not self.stack:
            return self.place(event), self.path
        return self.stack[-1].child(self.place(event))

    def _value(self, node: Node, event: Any) -> None:
        if not self.stack:
            self.root = node
        elif self.stack[-1].is_mapping and self.stack[-1].key is None:
            # Keys are text as written: a parameter may be called 1, no or null.
            self.stack[-1].key, self.stack[-1].key_place = node.written, self.place(event)
        else:
            self._attach(node)

    def _attach(self, node: Node) -> None:
        parent = self.stack[-1]
        if not parent.is_mapping:
            parent.items.append(node)
            return
        key, parent.key = parent.key or "", None
        if (first := parent.entries.get(key)) is None:
            parent.entries[key] = node
            return
        first_line = f", first on line {first.place.line}" if first.place.line else ""
        what = f"key '{short(key)}' is given twice{first_line}"
        self.findings.add("E103", what, node.place, node.path, "keep one of the two")


def read(
    text: str, findings: Findings, *, source: str, rank: int = 0, path: str = "", flow_only: bool = False
) -> Node:
    """Read a YAML text as a tree.

    Parameters
    ----------
    text : str
        At most a million bytes in UTF-8.
    findings : Findings
        Takes the complaints that reading can survive (keys given twice); the others are raised.
    source, rank : str and int
        See :class:`Place`.
    path : str
        Path of the root.
    flow_only : bool
        Refuse block lists and mappings (for a value typed on the command line).

    Raises
    ------
    ConfigError
        E103 (not YAML 1.2), E104 (size, depth, anchors, aliases), E105 (tags).
    """
    whole = Place(source, 0 if rank else 1, rank)
    if len(text) > MOST_BYTES or len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        findings.stop("E104", f"the text is longer than {MOST_BYTES:,} bytes", whole)
    fold = _Fold(source, findings, rank, path, flow_only)
    for event in _events(text, findings, whole):
        fold.take(event)
    if fold.unsafe:
        findings.raise_any()
    return fold.root or Node(None, whole, path)


def _events(text: str, findings: Findings, whole: Place) -> Iterator[Any]:
    events = YAML(typ="safe", pure=True).parse(text)
    while True:
        try:
            event = next(events)
        except StopIteration:
            return
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            what = f"character U+{error.character:04X} is not allowed in YAML"
            findings.stop("E103", what, whole if whole.rank else replace(whole, line=line), "", "delete it")
        except YAMLError as error:
            mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
            place = whole if whole.rank or mark is None else replace(whole, line=mark.line + 1)
            findings.stop("E103", f"not YAML: {_problem(error)}", place, "", _cure(error))
        except (ValueError, OverflowError):
            # ruamel hands the number of an escape such as "\UFFFFFFFF" to chr() unchecked.
            findings.stop("E103", "not YAML: an escape such as \\U... names no character", whole)
        yield event


def _problem(error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError):
        return short(error, 200)
    return short(", ".join(part for part in (error.context, error.problem) if part), 200)


def _cure(error: YAMLError) -> str:
    problem = str(getattr(error, "problem", ""))
    if "\\t" in problem:
        return "indent with spaces, not with tabs"
    if "mapping values are not allowed" in problem:
        return "check the indentation; put text with ': ' in it into quotes"
    return "check indentation, quotes and brackets on this line and the one before"


def _joined(text: str) -> str | None:
    r"""JSON writes a character beyond U+FFFF as two escapes ``\ud83d\ude00``; None if one is alone."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None


# --- options of the command line ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """An option of the command line that stands for one setting.

    Parameters
    ----------
    assignment : str
        Such as ``"data.memory=2GB"``.
    typed : str
        As a person types it, ``"--memory 2GB"``: so it is named in messages.
    """

    assignment: str
    typed: str


def override(root: Node, given: str | Option, rank: int, findings: Findings) -> Node:
    """Make a new tree in which ``a.b.0.c=value`` holds.

    The value is read under the rules of :func:`read`; it may be ``[a, list]`` or ``{a: mapping}``.
    A key that is not there is added, so that the schema judges it like a key of the file; ``null`` takes a
    key away.
    """
    assignment = given.assignment if isinstance(given, Option) else given
    typed = given.typed if isinstance(given, Option) else f"--set {assignment}"
    place = Place(short(typed, 106), 0, rank)
    name, equals, text = assignment.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys) or len(keys) > MOST_DEPTH:
        what = f"--set wants SECTION.KEY=VALUE, found '{short(assignment)}'"
        findings.add("E101", what, place, "", "write for example  --set estimation.optimizer=bfgs")
        return root
    try:
        value = read(text, findings, source=place.source, rank=rank, path=".".join(keys), flow_only=True)
    except ConfigError:
        # The findings have it; what is wrong with the file and the other options is to be said too.
        return root
    removed = value.value is None and value.written != ""
    return _placed(root, keys, replace(value, place=place, removed=removed), findings)


def _placed(node: Node, keys: list[str], value: Node, findings: Findings) -> Node:
    if not keys:
        return value
    (key, *rest), place = keys, value.place
    if isinstance(node.value, tuple):
        if not (key.isascii() and key.isdigit() and len(key) < 9 and int(key) < len(node.value)):
            what = f"{node.path} has no item '{short(key)}'; it has {len(node.value)}, counted from 0"
            findings.add("E101", what, place)
            return node
        items = list(node.value)
        items[int(key)] = _placed(items[int(key)], rest, value, findings)
        return replace(node, value=tuple(items))
    if isinstance(node.value, Mapping) or node.value is None:
        entries: dict[str, Node] = dict(node.value or {})
        path = f"{node.path}.{key}" if node.path else key
        if not rest and value.removed and key in entries:
            del entries[key]
            return replace(node, value=entries)
        below = entries.get(key, Node(None, place, path, removed=value.removed))
        return replace(node, value={**entries, key: _placed(below, rest, value, findings)})
    findings.add("E101", f"{node.path} is one value; it has no '{short(key)}' below it", place)
    return node
