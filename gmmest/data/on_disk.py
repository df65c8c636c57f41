"""Files and folders that several processes may see: names of one's own, locks, names that last."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

__all__ = ["beside", "lock", "sync_folder"]


def beside(path: Path) -> Path:
    """A hidden name beside a path that no other process has, for what takes its place by a rename.

    Chance and no number of a process: in containers, and on hosts that share a folder, these are the same.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


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
