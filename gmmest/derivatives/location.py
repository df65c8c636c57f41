"""Where in the user's own code something went wrong."""

from __future__ import annotations

import os
import sys
from types import FrameType, TracebackType

__all__ = ["traceback_location", "user_location"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(f"{os.sep}{place}{os.sep}" for place in ("site-packages", "dist-packages"))


def user_location() -> str:
    """File, line and function of the nearest caller outside gmmest and the installed libraries."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_user_code(frame.f_code.co_filename):
            return _described(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


def traceback_location(traceback: TracebackType | None) -> str:
    """The same for an exception's traceback: its innermost place in the user's code."""
    place = ""
    while traceback is not None:
        if _is_user_code(traceback.tb_frame.f_code.co_filename):
            place = _described(traceback.tb_frame, traceback.tb_lineno)
        traceback = traceback.tb_next
    return place


def _is_user_code(filename: str) -> bool:
    if filename.startswith((_OURS, "<__array_function__")):
        return False
    return not any(place in filename for place in _LIBRARIES)


def _described(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
