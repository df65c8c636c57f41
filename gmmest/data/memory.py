"""Sizes of memory: in words, and what this process and this machine have."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gmmest.errors import Complaint, ConfigError, printable

__all__ = ["anonymous_memory", "in_words", "memory_size", "physical_memory"]

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def memory_size(words: str | int) -> int:
    """Bytes of a size in words.

    Parameters
    ----------
    words : str or int
        ``"2GB"`` (10^9 bytes), ``"512 MiB"`` (2^20), or a number of bytes.

    Raises
    ------
    ConfigError
        E102: not a size.

    Examples
    --------
    >>> memory_size("1.5 GB"), memory_size("2GiB")
    (1500000000, 2147483648)
    """
    if type(words) is int and words > 0:
        return words
    parts = re.fullmatch(r"\s*([0-9]+\.?[0-9]*)\s*([A-Za-z]+)\s*", words) if isinstance(words, str) else None
    size = 0
    if parts and parts[2].upper() in UNITS:
        size = int(float(parts[1]) * UNITS[parts[2].upper()])
    if not size:
        what = f"memory={printable(repr(words))}: a size such as 2GB, 500MB or 1GiB was expected"
        raise ConfigError(Complaint("E102", what))
    return size


def in_words(size: float) -> str:
    """A number of bytes as a person says it.

    Examples
    --------
    >>> in_words(1_500_000), in_words(20_000_000_000)
    ('1.5 MB', '20 GB')
    """
    unit = next((name for name in ("TB", "GB", "MB", "KB") if size >= UNITS[name]), "B")
    return f"{size / UNITS[unit]:.3g} {unit}"


def anonymous_memory() -> int:
    """Bytes that this process holds and no file backs; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+([0-9]+) kB", status)
    return 1024 * int(found[1]) if found else 0


def physical_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
