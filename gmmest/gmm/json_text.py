"""Results as JSON: numbers with all their digits, null for what is not finite, text that moves no cursor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["finite", "finite_by_name", "json_text"]

Array = NDArray[np.float64]


def finite(value: float) -> float | None:
    """The number, or None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def finite_by_name(names: tuple[str, ...], values: Array) -> dict[str, float | None]:
    """Numbers by name, None where they are not finite."""
    return {name: finite(value) for name, value in zip(names, values, strict=True)}


def json_text(record: Mapping[str, Any], indent: int | None = None) -> str:
    r"""JSON in which what is not printable is escaped; it stands inside texts only.

    Examples
    --------
    >>> print(json_text({"Köln\x9b": finite(float("nan"))}))
    {"Köln\u009b": null}
    """
    text = json.dumps(record, indent=indent, allow_nan=False, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
