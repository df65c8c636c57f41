"""What a function of the user's own raised, as a complaint with its place; the exception stays its cause."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import numpy as np

from gmmest.derivatives.dual import DualArray
from gmmest.derivatives.location import traceback_location
from gmmest.derivatives.refusals import refusal_behind
from gmmest.errors import Complaint, ConfigError, GmmestError, plural, printable

__all__ = ["called"]

_Handling = Literal["ignore", "warn", "raise", "call", "print", "log"]


def called(function: Callable[..., Any], kind: str, theta: Any, rows: Any) -> Any:
    """``function(theta, rows)``.

    Parameters
    ----------
    function : callable
    kind : str
        What to call it, such as ``"moment function"``.
    theta : array (P,)
        Parameters, which may carry derivatives.
    rows
        Its other argument.

    Raises
    ------
    ConfigError
        E111, from what the function raised.  Refusals of our own pass as they are, and so does all that is
        raised while JAX traces: it is asked to go another way then.

    Examples
    --------
    >>> called(lambda theta, rows: theta[1], "moment function", np.zeros(1), None)
    Traceback (most recent call last):
        ...
    gmmest.errors.ConfigError: E111 names has 1 parameter; the moment function <lambda> reads theta[1]
    ...
    """
    try:
        # What is not finite is complained of by name (E411), or stepped back from: it is not warned of before.
        with np.errstate(over=_unwarned("over"), invalid=_unwarned("invalid"), divide=_unwarned("divide")):
            return function(theta, rows)
    except (GmmestError, MemoryError):
        raise
    except Exception as error:
        if not isinstance(theta, (np.ndarray, DualArray)) or refusal_behind(error) is not None:
            raise
        inner = getattr(function, "__self__", function)
        inner = getattr(inner, "function", inner)
        name = f"the {kind} {printable(getattr(inner, '__name__', type(inner).__name__))}"
        raise ConfigError(_complaint(error, name, theta)) from error


def _unwarned(what: Literal["over", "invalid", "divide"]) -> _Handling:
    """How such an error is handled here, but for a warning."""
    how: _Handling = np.geterr()[what]
    return "ignore" if how == "warn" else how


def _complaint(error: Exception, name: str, theta: Any) -> Complaint:
    place = printable(traceback_location(error.__traceback__))
    read = _subscript_of(theta, error.__traceback__) if isinstance(error, IndexError) else ""
    if read:
        what = f"names has {plural(theta.shape[0], 'parameter')}; {name} reads {printable(read)}"
        return Complaint("E111", what, place, "give every parameter a name; theta is counted from 0")
    what = f"{name} raised {type(error).__name__}"
    text = printable(error)
    return Complaint("E111", f"{what}: {text}" if text else what, place, "mend the line that is named")


def _subscript_of(theta: Any, traceback: TracebackType | None) -> str:
    """The text of the expression that failed, if it is a subscript of theta, such as ``theta[1]``."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    line, last, start, stop = list(code.co_positions())[traceback.tb_lasti // 2]
    if line is None or line != last:
        return ""
    text = linecache.getline(code.co_filename, line).encode()[start:stop].decode(errors="replace")
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return ""
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return ""
    return text if traceback.tb_frame.f_locals.get(node.value.id) is theta else ""
