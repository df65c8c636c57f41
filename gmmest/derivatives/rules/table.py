"""The table of rules for dual numbers.

A rule has the signature ``rule(level, *args, **kwargs)``: it gets the arguments of the NumPy
call as they were written, finds the dual numbers of ``level`` among them (every other
argument is a constant of this differentiation, also a dual number of another level), and
returns a dual number, or plain values where the function has no derivative to speak of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["RULES", "UFUNC_METHODS", "rule"]

Rule = Callable[..., Any]

RULES: dict[Any, Rule] = {}
"""Function object (NumPy function, ufunc, or a function of ``gmmest.ops``) -> rule."""

UFUNC_METHODS: dict[tuple[Any, str], Rule] = {}
"""(ufunc, method) such as ``(np.add, "reduce")`` -> rule."""


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register a rule for one or several functions.

    Examples
    --------
    >>> @rule(len)  # doctest: +SKIP
    ... def _len(level, x): ...
    """

    def register(function: Rule) -> Rule:
        for key in functions:
            RULES[key] = function
        return function

    return register
