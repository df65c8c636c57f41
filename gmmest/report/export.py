"""The files of a run, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gmmest.data.on_disk import beside, remedy
from gmmest.errors import Complaint, FileError, some

__all__ = ["write_run"]


def write_run(folder: Path, files: Mapping[str, str], force: bool = False) -> None:
    """Write text files into a folder, each through a temporary name, a sync and a rename.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    files : mapping of str to str
        Plain file names (no folders) and their text.
    force : bool
        Whether files that are there may be replaced.

    Raises
    ------
    FileError
        E507 a name that leaves the folder or a link in its place; E508 files that are there
        already; E501 no room, or no permission.  What was there before is still there then.
    """
    crooked = [name for name in files if Path(name).name != name or name in ("", ".", "..")]
    targets = {name: folder / name for name in files}
    crooked += [name for name, target in targets.items() if target.is_symlink()]
    if crooked:
        raise FileError(
            Complaint("E507", f"{some(crooked)}: plain file names inside the run folder were expected")
        )
    taken = [name for name, target in targets.items() if target.exists()]
    if taken and not force:
        raise FileError(
            Complaint("E508", f"{some(taken)} already there", f"{folder}", "another --out folder, or --force")
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write(targets[name], text)
    except OSError as error:
        raise FileError(
            Complaint(
                "E501",
                f"cannot write: {error.strerror or error}",
                f"{folder}",
                remedy(error, "another --out, or other permissions"),
            )
        ) from error


def _write(target: Path, text: str) -> None:
    temporary = beside(target)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
