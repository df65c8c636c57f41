"""The kinds of model that a configuration can describe, one record each.

Which record a mapping is judged by is told by its ``kind`` alone, so that a mistake gets one
complaint and not one for each kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import InitErrorDetails, PydanticCustomError

from gmmest.config.record import ByName, Name, Record, Values, rule, value_of
from gmmest.errors import nearest

__all__ = [
    "KINDS",
    "ExponentialIVConfig",
    "InstrumentsConfig",
    "LinearIVConfig",
    "LogitConfig",
    "ModelConfig",
    "MomentFunctionConfig",
    "TermConfig",
    "kind_of",
    "texts",
]


class TermConfig(Record):
    """One term of a utility: a constant, or a product of columns, perhaps for some alternatives only."""

    expected: ClassVar[str] = "a term: a mapping with constant, column or columns"

    constant: Name | None = Field(default=None, description="the label of an alternative")
    columns: tuple[Name, ...] = Field(
        default=(),
        min_length=1,
        description="a list of two or more columns' names (for one column write  column: NAME)",
    )
    only: tuple[Name, ...] = Field(
        default=(), min_length=1, description="the label of an alternative, or a list of labels"
    )
    name: Name | None = Field(default=None, description="a name for the parameter")

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that the term is of exactly one kind."""
        if "constant" in raw and "columns" in raw:
            yield rule((), "a term has exactly one of constant, column and columns", "write two terms")
        elif "constant" in raw and "only" in raw:
            what = "a constant belongs to one alternative already; only has no meaning"
            yield rule(("only",), what, "delete it")
        elif "constant" not in raw and "columns" not in raw:
            what = "a term has exactly one of constant, column and columns; found none"
            yield rule((), what, "write for example  - column: NAME")


class InstrumentsConfig(Record):
    """The instruments: the model's own features (if ``features``), then ``terms``."""

    expected: ClassVar[str] = "features, a list of terms, or {add: [terms]}"

    features: bool = True
    terms: tuple[TermConfig, ...] = Field(default=(), min_length=1, description="a list of at least one term")

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that there is an instrument."""
        if raw.get("features") is False and "terms" not in raw:
            yield rule((), "there are no instruments: neither features nor terms", "name some terms")


class LogitConfig(Record):
    """What explains the choices, and which instruments judge it."""

    expected: ClassVar[str] = "a mapping with kind, utility and instruments"

    kind: Literal["logit"] = "logit"
    utility: tuple[TermConfig, ...] = Field(
        default=(), min_length=1, description="a list of at least one term"
    )
    instruments: InstrumentsConfig = Field(
        default=InstrumentsConfig(), description=InstrumentsConfig.expected
    )


class LinearIVConfig(Record):
    """Which columns are the outcome, the regressors and the instruments of a linear regression."""

    expected: ClassVar[str] = "a mapping with kind, dependent, exogenous, endogenous and instruments"

    kind: Literal["linear_iv"] = "linear_iv"
    dependent: Name = Field(description="the name of the column that is explained")
    exogenous: tuple[Name, ...] = Field(default=(), description="a column's name, or a list of names")
    endogenous: tuple[Name, ...] = Field(default=(), description="a column's name, or a list of names")
    instruments: tuple[Name, ...] = Field(default=(), description="a column's name, or a list of names")
    constant: bool | None = Field(default=None, description="true or false")
    absorb: Name | None = Field(default=None, description="the name of the column with the groups")

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that each column plays one part, and that there is something to estimate."""
        yield from _broken_parts(raw)
        if raw.get("absorb") is not None and raw.get("constant") is True:
            what = "a constant beside absorbed effects: the effects of all groups contain it"
            yield rule(("constant",), what, "delete it")

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns of numbers."""
        return (self.dependent, *self.exogenous, *self.endogenous, *self.instruments)


class ExponentialIVConfig(Record):
    """The same for an exponential mean."""

    expected: ClassVar[str] = "a mapping with kind, dependent, exogenous, endogenous, instruments and errors"

    kind: Literal["exponential_iv"] = "exponential_iv"
    dependent: Name = Field(description="the name of the column that is explained")
    exogenous: tuple[Name, ...] = Field(default=(), description="a column's name, or a list of names")
    endogenous: tuple[Name, ...] = Field(default=(), description="a column's name, or a list of names")
    instruments: tuple[Name, ...] = Field(default=(), description="a column's name, or a list of names")
    errors: Literal["additive", "multiplicative"] = "additive"
    constant: bool = Field(default=True, description="true or false")

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that each column plays one part, and that there is something to estimate."""
        yield from _broken_parts(raw)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns of numbers."""
        return (self.dependent, *self.exogenous, *self.endogenous, *self.instruments)


PARTS = ("exogenous", "endogenous", "instruments")


def _broken_parts(raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """Rules of a regression."""
    seen = {raw["dependent"]: "dependent"} if isinstance(raw.get("dependent"), str) else {}
    for key in PARTS:
        names = raw.get(key)
        for name in names if isinstance(names, tuple) else ():
            if isinstance(name, str) and name in seen:
                twice = f"twice in model.{key}" if seen[name] == key else f"in model.{seen[name]} too"
                what = f"model.{key} names {name[:100]!r}, which is {twice}"
                yield rule((key,), what, "each column plays one part; exogenous ones are instruments already")
            elif isinstance(name, str):
                seen[name] = key
    without_constant = raw.get("constant") is False or raw.get("absorb") is not None
    if without_constant and not raw.get("exogenous") and not raw.get("endogenous"):
        yield rule((), "the regression has no regressors", "name some in exogenous or endogenous")


def _function_of_a_file(named: str) -> str:
    parts = named.split(":")
    if len(parts) != 2 or not all(part.isidentifier() for part in parts):
        shown = named[:100].encode("unicode_escape").decode("ascii")
        what = "model.function is '{shown}'; expected FILE:FUNCTION, such as moments:my_moments"
        advice = "my_moments of moments.py, a file beside the configuration: no folder, no package"
        raise PydanticCustomError("E102", what, {"shown": shown, "advice": advice})
    return named


class MomentFunctionConfig(Record):
    """A moment function in a Python file beside the configuration."""

    expected: ClassVar[str] = "a mapping with kind, function, names and columns"

    kind: Literal["moment_function"] = "moment_function"
    function: Annotated[str, Field(max_length=500), AfterValidator(_function_of_a_file)] = Field(
        description="FILE:FUNCTION, such as moments:my_moments"
    )
    names: tuple[Name, ...] = Field(min_length=1, description="a list of the parameters' names")
    columns: tuple[Name, ...] = Field(
        min_length=1, description="a list of the names of the columns that the function uses"
    )
    moment_names: tuple[Name, ...] = Field(default=(), description="a list of the moments' names")
    start: Values = Field(default=ByName({}), description="a mapping of parameters' names to finite numbers")
    instruments: tuple[Name, ...] = Field(
        default=(), min_length=1, description="a column's name, or a list of at least one name"
    )
    constant: bool | None = Field(default=None, description="true or false")

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns of numbers: those of the function, then the instruments that are not among them."""
        return tuple(dict.fromkeys((*self.columns, *self.instruments)))

    @classmethod
    def broken_rules(cls, raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Check that names are different, that the start is one of parameters, and the constant an instrument."""
        if raw.get("constant") is not None and "instruments" not in raw:
            what = "model.constant has no use without model.instruments, of which it is one"
            yield rule(("constant",), what, "name instruments, or delete constant")
        elif raw.get("constant") is not False and "const" in texts(raw.get("instruments")):
            what = "model.instruments names 'const', which model.constant adds"
            yield rule(("instruments",), what, "delete it, or write  constant: false  if it is a column")
        for key in ("names", "moment_names", "instruments"):
            listed = texts(raw.get(key))
            for name in sorted({name for name in listed if listed.count(name) > 1}):
                yield rule((key,), f"model.{key} names {name[:100]!r} twice", "give each a name of its own")
        names, start = raw.get("names"), raw.get("start")
        if not names or not isinstance(names, tuple) or not isinstance(start, Mapping):
            return
        for name in start:
            if name not in names:
                what = f"model.start names {str(name)[:100]!r}, which is not in model.names"
                yield rule(("start", str(name)), what, nearest(name, texts(names)))


def texts(names: Any) -> list[str]:
    """Those of a list that are texts; none where it is no list."""
    return [name for name in names if isinstance(name, str)] if isinstance(names, tuple) else []


KINDS: dict[str, type[Record]] = {
    "logit": LogitConfig,
    "linear_iv": LinearIVConfig,
    "exponential_iv": ExponentialIVConfig,
    "moment_function": MomentFunctionConfig,
}


def kind_of(model: Any) -> str:
    """The kind of a model that may be a record, a raw mapping or nonsense."""
    kind = value_of(model, "kind")
    return kind if isinstance(kind, str) and kind in KINDS else "logit"


# Tags stand in the location of an error: no name of a user looks like them.
ModelConfig = Annotated[
    Annotated[LogitConfig, Tag("<logit>")]
    | Annotated[LinearIVConfig, Tag("<linear_iv>")]
    | Annotated[ExponentialIVConfig, Tag("<exponential_iv>")]
    | Annotated[MomentFunctionConfig, Tag("<moment_function>")],
    Discriminator(lambda model: f"<{kind_of(model)}>"),
]
