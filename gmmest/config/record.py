"""What the records of a configuration share: strict types, rules between fields, names and mappings.

pydantic checks the type of every field; what holds *between* fields is said by ``broken_rules``,
and :class:`Record` runs both always, so that a wrong type hides no broken rule and the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

__all__ = ["ByName", "Count", "Name", "Record", "Values", "printable_text", "rule", "value_of"]

Item = TypeVar("Item")

# Names become keys of JSON and YAML (a key of YAML has at most 1,024 characters), labels of tables
# and lines on a terminal: a control character in one can do harm and no good.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def printable_text(text: str) -> str:
    """Refuse control characters."""
    if _CONTROL.search(text):
        raise PydanticCustomError(
            "E102", "control characters are not allowed here, found {text}", {"text": repr(text)}
        )
    return text


Name = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(printable_text)]
# A billion: far beyond any memory, and far below where integers stop fitting into arrays.
Count = Annotated[int, Field(ge=1, le=10**9)]


class Record(BaseModel):
    """A frozen record that knows its own rules.

    Values have the exact type (``"10"`` is no number, ``10.0`` no whole number, ``true`` neither),
    NaN and infinity are refused, and so are fields that do not exist.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    expected: ClassVar[str]
    """What should have stood in the place of this record, in words."""

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Find the rules between fields that ``raw``, of types not yet checked, breaks."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _types_and_rules(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # A record made before has kept its rules.
        if not isinstance(raw, dict):
            return handler(raw)
        errors = list(cls.broken_rules(raw))
        try:
            record = handler(raw)
        except ValidationError as error:
            errors = [*map(_again, error.errors(include_url=False)), *errors]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return record


def _again(error: ErrorDetails) -> InitErrorDetails:
    """Take an error out of one ValidationError, for another; built-in kinds become custom ones."""
    context = {**error.get("ctx", {}), "what": error["msg"]}
    kind = PydanticCustomError(error["type"], "{what}", context)
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"])


def rule(loc: tuple[str, ...], what: str, advice: str) -> InitErrorDetails:
    """Make the error that a rule is broken, E102."""
    kind = PydanticCustomError("E102", "{what}", {"what": what, "advice": advice})
    return InitErrorDetails(type=kind, loc=loc, input=None)


def value_of(section: Any, key: str) -> Any:
    """Get a field of a section that may be a record, a raw mapping or nonsense; None if absent."""
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)


class ByName(Mapping[str, Item]):
    """A mapping that cannot be changed, and (unlike MappingProxyType) can be hashed and pickled."""

    __slots__ = ("_pairs",)

    def __init__(self, values: Mapping[str, Item]) -> None:
        self._pairs = tuple(values.items())

    def __getitem__(self, name: str) -> Item:
        return dict(self._pairs)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def __hash__(self) -> int:
        return hash(frozenset(self._pairs))

    def __repr__(self) -> str:
        return repr(dict(self._pairs))


Values = Annotated[Mapping[Name, float], AfterValidator(ByName)]
