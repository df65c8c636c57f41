"""What is refused, in whose words: one text for each way in which derivatives could get lost.

Each function raises a :class:`~gmmest.errors.DerivativeError` that names the user's own file and line.

====  =======================================================================
E601  a function, method or option without a rule
E602  a number with derivatives would become a plain array
E603  a number with derivatives outlived its differentiation
E604  a number with derivatives would be written into a plain array
E605  a conversion (``float(x)``) that drops derivatives
====  =======================================================================
"""

from __future__ import annotations

import sys
from typing import NoReturn

from gmmest.derivatives.location import user_location
from gmmest.derivatives.rules.table import RULES
from gmmest.errors import Complaint, DerivativeError

__all__ = [
    "refusal_behind",
    "refuse_dropping",
    "refuse_leaked",
    "refuse_plain_array",
    "refuse_unsupported",
    "refuse_write",
    "unsupported_attribute",
]

_SPECIAL = {"logsumexp", "softmax", "log_softmax"}
"""Functions of scipy.special that convert to plain arrays first, and have a twin in gmmest.ops."""


def refuse_unsupported(name: str, advice: str = "") -> NoReturn:
    """E601: no rule for this function or option."""
    known = ", ".join(sorted({key.__name__ for key in RULES if hasattr(key, "__name__")}))
    raise DerivativeError(
        Complaint(
            "E601",
            f"{name} has no rule for dual numbers",
            user_location(),
            (advice + "; " if advice else "")
            + "write it with functions that have one, use gmmest.ops for ragged sums, choose backend 'fd',"
            " or register a rule: @gmmest.primitive on a function of your own, with def_jvp for its derivative;"
            f" rules exist for: {known}",
        )
    )


def refuse_plain_array(what: str, consequence: str) -> NoReturn:
    """E602: NumPy (or SciPy) asked for a plain array."""
    special = _special_caller()
    advice = (
        f"use gmmest.ops.{special} instead of scipy.special.{special}, which converts to plain arrays"
        if special
        else "np.stack([...]) instead of np.array([...]); np.matmul or @ instead of array.dot(x);"
        " np.zeros_like(x) as the array that is written into; gmmest.ops.spmatmul(A, x) for a sparse matrix;"
        " backend 'jax' for functions of jax.numpy"
    )
    raise DerivativeError(
        Complaint("E602", f"{what} was about to become a plain array, {consequence}", user_location(), advice)
    )


def refuse_leaked() -> NoReturn:
    """E603: used after its differentiation ended."""
    raise DerivativeError(
        Complaint(
            "E603",
            "a number with derivatives outlived the differentiation that made it",
            user_location(),
            "do not store intermediate results of the function in a variable outside it; return them instead",
        )
    )


def refuse_write(what: str) -> NoReturn:
    """E604: written into an array that cannot hold it."""
    raise DerivativeError(
        Complaint(
            "E604",
            f"{what} was about to be written into a plain array, which cannot hold it",
            user_location(),
            "write x = x + y instead of x += y; make the array to be filled with np.zeros_like of the argument",
        )
    )


def refuse_dropping(what: str) -> NoReturn:
    """E605: the derivatives would be dropped."""
    raise DerivativeError(
        Complaint(
            "E605",
            f"{what} would drop the derivatives",
            user_location(),
            "keep arrays as arrays (a 0-d array is a scalar) and use np.exp, not math.exp; write into an array"
            " made by np.zeros_like of the argument, not into a plain one; branches on x > 0 and the like are fine",
        )
    )


class _NoAttributeError(DerivativeError, AttributeError):
    """E601 as ``hasattr`` understands it."""


def refusal_behind(error: BaseException) -> DerivativeError | None:
    """The refusal that NumPy turned into an error of its own ("setting an array element with a sequence")."""
    cause = error.__cause__ or error.__context__
    return cause if isinstance(cause, DerivativeError) else None


def unsupported_attribute(name: str, of_arrays: bool) -> AttributeError:
    """What to raise for ``x.name``: in the house layout where plain arrays have it."""
    if not of_arrays:
        return AttributeError(name)
    return _NoAttributeError(
        Complaint(
            "E601",
            f"the method or attribute .{name} has no rule for numbers with derivatives",
            user_location(),
            f"use the function np.{name} if there is one, or a function that has a rule",
        )
    )


def _special_caller() -> str:
    """Which function of scipy.special is asking, if one is."""
    frame = sys._getframe(2)
    for _ in range(8):
        code = frame.f_code
        if code.co_name in _SPECIAL and "scipy" in code.co_filename:
            return code.co_name
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""
