"""Arrays that cannot be written to, for records that are passed around."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["freeze", "frozen", "read_only"]


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view; the array itself, which may be another's, keeps its flags."""
    view = array.view()
    view.flags.writeable = False
    return view


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array of our own read-only, so that nobody holds a way to write into it.

    An engine may then keep what it made of the array (a copy on a device).
    """
    array.flags.writeable = False
    return array


def freeze(record: object, *names: str) -> None:
    """Put read-only views in place of the arrays of a frozen dataclass, in its ``__post_init__``; None stays."""
    for name in names:
        array = getattr(record, name)
        if array is not None:
            object.__setattr__(record, name, read_only(array))
