"""Linear hypotheses as text: parsed, never evaluated as code."""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmmest.errors import Complaint, ConfigError, not_parameters

__all__ = ["FORM", "linear_expression", "linear_hypotheses", "require_independent", "restrictions"]

Array = NDArray[np.float64]

LONGEST = 2000
SHOWN = 80
FORM = "see wald_test for the form"


def linear_hypotheses(text: str, names: tuple[str, ...]) -> tuple[Array, Array]:
    """``R`` and ``q`` of hypotheses such as ``"gc = ttme, 2*asc_air - 1 = asc_bus"``.

    Parameters
    ----------
    text : str
        Equations separated by commas; without ``=`` an expression is set to zero.  Sums, differences,
        and products and quotients with numbers.  Names that are no Python identifiers
        (``gc:hinc``, ``asc_walk & ride``) go between backticks or double quotes.
    names : tuple of str
        The parameters.

    Returns
    -------
    restriction : array (q, P)
    value : array (q,)

    Raises
    ------
    ConfigError
        Unknown names, anything that is not linear, redundant equations.

    Examples
    --------
    >>> linear_hypotheses("b = 2*a, c = 1", ("a", "b", "c"))
    (array([[-2.,  1.,  0.],
           [ 0.,  0.,  1.]]), array([0., 1.]))
    """
    if len(text) > LONGEST:
        raise _refused(f"a hypothesis of {len(text)} characters", f"at most {LONGEST}")
    plain, quoted = _unquoted(text)
    rows, values = [], []
    for equation in plain.split(","):
        sides = equation.split("=")
        if len(sides) > 2 or not equation.strip():
            raise _refused(f"hypothesis {equation.strip()!r}", "expression = expression")
        total = np.zeros(len(names) + 1)
        with np.errstate(over="ignore", invalid="ignore"):
            for sign, side in zip((1.0, -1.0), sides, strict=False):
                total += sign * _coefficients(side, names, quoted)
        if not np.all(np.isfinite(total)):
            raise _refused(f"hypothesis {_start_of(equation)}", "numbers that are finite")
        rows.append(total[:-1])
        values.append(0.0 - total[-1])
    restriction, value = np.stack(rows), np.array(values)
    require_independent(restriction, f"hypothesis {_start_of(text)}")
    return restriction, value


def linear_expression(text: str, names: tuple[str, ...]) -> Array:
    """Coefficients of the parameters and the constant, (P + 1,), of one expression such as ``"3*a - 1"``.

    Raises
    ------
    ConfigError
        E102, as of :func:`linear_hypotheses`; an equation, several expressions.

    Examples
    --------
    >>> linear_expression('2*"asc_walk & ride" - 1', ("a", "asc_walk & ride"))
    array([ 0.,  2., -1.])
    """
    if len(text) > LONGEST:
        raise _refused(f"an expression of {len(text)} characters", f"at most {LONGEST}")
    plain, quoted = _unquoted(text)
    if "=" in plain or "," in plain:
        raise _refused(f"the expression {_start_of(text)}", "one linear expression of parameters")
    with np.errstate(over="ignore", invalid="ignore"):
        found = _coefficients(plain, names, quoted)
    if not np.all(np.isfinite(found)):
        raise _refused(f"the expression {_start_of(text)}", "numbers that are finite")
    return found


def restrictions(
    hypothesis: str | ArrayLike, value: ArrayLike | None, names: tuple[str, ...]
) -> tuple[Array, Array, str]:
    """R, q and the text of hypotheses in words or as a matrix.

    Parameters
    ----------
    hypothesis : str or array (q, P)
    value : array (q,), optional
        The right-hand side for a matrix R; zero by default.
    names : tuple of str

    Raises
    ------
    ConfigError
        Wrong shapes, values that are not finite, equations that follow from others.

    Examples
    --------
    >>> restrictions([[1.0, -1.0]], None, ("a", "b"))[1:]
    (array([0.]), '')
    """
    if isinstance(hypothesis, str):
        if value is not None:
            raise ConfigError(Complaint("E102", "a hypothesis in words has its value behind the ="))
        return (*linear_hypotheses(hypothesis, names), hypothesis)
    try:
        restriction = np.atleast_2d(np.asarray(hypothesis, dtype=np.float64))
        right = np.zeros(len(restriction)) if value is None else np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(Complaint("E102", "R and its values must be numbers")) from None
    right = np.atleast_1d(right)
    if right.ndim != 1 or restriction.shape != (len(right), len(names)):
        raise ConfigError(
            Complaint("E102", f"R has shape {restriction.shape}, expected (q, {len(names)}) and q values")
        )
    if not (np.all(np.isfinite(restriction)) and np.all(np.isfinite(right))):
        raise ConfigError(Complaint("E102", "R and its values must be finite"))
    require_independent(restriction, "R")
    return restriction, right, ""


def require_independent(restriction: Array, what: str) -> None:
    """Refuse equations of which one follows from the others, whatever their units."""
    size = np.abs(restriction).max(axis=1, initial=0.0, keepdims=True)
    if (
        not len(restriction)
        or not np.all(size > 0)
        or np.linalg.matrix_rank(restriction / size) < len(restriction)
    ):
        raise _refused(f"{what}: its equations", "equations of which none follows from the others")


def _start_of(text: str) -> str:
    return repr(text.strip() if len(text) <= SHOWN else text.strip()[:SHOWN] + " ...")


def _unquoted(text: str) -> tuple[str, dict[str, str]]:
    quoted: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        key = f"_quoted_{len(quoted)}_"
        quoted[key] = match.group(1) if match.group(2) is None else match.group(2)
        return key

    return re.sub(r"""`([^`]*)`|"([^"]*)\"""", replace, text), quoted


def _coefficients(side: str, names: tuple[str, ...], quoted: dict[str, str]) -> Array:
    try:
        return _linear(_parsed(side, quoted), names, quoted)
    except RecursionError:
        expected = "a sum that is less deeply nested"
        raise _refused(f"the expression {_start_of(_requoted(side, quoted))}", expected) from None


def _requoted(text: str, quoted: dict[str, str]) -> str:
    for key, name in quoted.items():
        text = text.replace(key, f'"{name}"')
    return text


def _parsed(side: str, quoted: dict[str, str]) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # the text is not the user's program
            return ast.parse(side.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        hint = "names with spaces or signs in them go between double quotes or backticks; "
        expected = "a sum of parameters and numbers"
        raise _refused(f"the expression {_start_of(_requoted(side, quoted))}", expected, hint) from None


def _linear(node: ast.expr, names: tuple[str, ...], quoted: dict[str, str]) -> Array:
    """Coefficients of the parameters, and the constant in the last place."""
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, (int, float))
        and not isinstance(node.value, bool)
    ):
        try:
            return np.append(np.zeros(len(names)), float(node.value))
        except OverflowError:
            raise _refused("a number of hundreds of digits", "numbers that are finite") from None
    if isinstance(node, ast.Name):
        return _unit(quoted.get(node.id, node.id), names)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _linear(node.operand, names, quoted)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left, right = _linear(node.left, names, quoted), _linear(node.right, names, quoted)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult) and not (left[:-1].any() and right[:-1].any()):
            product: Array = left * right[-1] if left[:-1].any() else right * left[-1]
            return product
        if isinstance(node.op, ast.Div) and not right[:-1].any() and right[-1] != 0:
            quotient: Array = left / right[-1]
            return quotient
    part = _requoted(ast.unparse(node), quoted)
    hint = "for ratios, products and other functions of parameters: res.nlcom; "
    raise _refused(f"the part {_start_of(part)}", "sums of parameters times numbers", hint)


def _unit(name: str, names: tuple[str, ...]) -> Array:
    for complaint in not_parameters("the expression", [name], names):
        hints = [complaint.next] if complaint.next else []
        if any(name in known and not known.isidentifier() for known in names):
            hints.append("names with spaces or signs in them go between double quotes or backticks;")
        raise ConfigError(replace(complaint, next=" ".join([*hints, FORM])))
    row = np.zeros(len(names) + 1)
    row[names.index(name)] = 1.0
    return row


def _refused(what: str, expected: str, hint: str = "") -> ConfigError:
    return ConfigError(Complaint("E102", f"{what} cannot be used; expected {expected}", next=hint + FORM))
