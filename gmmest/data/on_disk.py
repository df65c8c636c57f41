"""Files and folders that several processes may see: names of one's own, locks, names that last."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["beside", "lock", "remedy", "sync_folder", "workplace"]

LOCK, MADE = "lock", "made"
"""In a workplace: what its process holds, and what will be renamed."""


def beside(path: Path) -> Path:
    """A hidden name beside a path that no other process has, for what takes its place by a rename.

    Chance and no number of a process: in containers, and on hosts that share a folder, these are the same.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def remedy(error: OSError, other: str) -> str:
    """What to do where nothing can be written: free space where there is none, and otherwise the other thing alone."""
    full = error.errno in (0, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # 0 of our own: too little is free
    return f"free space, or {other}" if full else other


def lock(descriptor: int) -> bool:
    """Whether the system gave us the lock of this file; it takes it back when the process ends, however.

    Raises
    ------
    OSError
        This system, or this file system, has no locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOTSUP, "this system has no locks of files") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def workplace(target: Path, abandoned: str | None = None) -> Iterator[Path]:
    """A folder that may become the target by a rename, in a hidden one beside it that is gone at the end.

    Parameters
    ----------
    target : Path
        Its folder exists.
    abandoned : str, optional
        Pattern of names beside the target: workplaces whose process is gone, on whichever machine it ran, are
        deleted first.

    Raises
    ------
    OSError
    """
    for path in () if abandoned is None else target.parent.glob(abandoned):
        _forget_abandoned(path)
    own, held = beside(target), -1
    try:
        own.mkdir()
        held = os.open(own / LOCK, os.O_RDWR | os.O_CREAT)
        with contextlib.suppress(OSError):  # without locks nobody deletes what is abandoned
            lock(held)
        (own / MADE).mkdir()  # after the lock, see _forget_abandoned
        yield own / MADE
    finally:
        if held >= 0:
            os.close(held)
        shutil.rmtree(own, ignore_errors=True)


def _forget_abandoned(path: Path) -> None:
    # What is made comes after the lock: a folder without it may be one that is about to take its lock.
    if not (path / MADE).is_dir():
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path / LOCK, os.O_RDWR)
        try:
            if lock(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a new file is there after a loss of power only when its name is.

    Raises
    ------
    OSError
        The disk failed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except (IsADirectoryError, PermissionError):
        return  # systems that open no folders keep names by themselves
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL):  # file systems that sync no folders
            raise
    finally:
        os.close(descriptor)
