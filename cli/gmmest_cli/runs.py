"""The folder of a run: begun, interrupted, resumed, finished.

::

    config.json     the settings, defaults filled in
    manifest.json   where the configuration lay, since relative paths start there; versions
    journal         every evaluation
    result.json     when the fit is done
    summary.txt
    lock            while a process is at work
"""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gmmest.errors import Complaint, FileError, printable, some

if TYPE_CHECKING:
    from gmmest.config import Config
    from gmmest.config.tree import Option

__all__ = [
    "Interrupted",
    "Run",
    "Terminated",
    "begun",
    "drawn",
    "home_of",
    "resumed",
    "settings_of",
    "stoppable",
    "terminable",
    "told",
]

SETTINGS, MANIFEST, JOURNAL, RESULTS = (
    "config.json",
    "manifest.json",
    "journal",
    ("result.json", "summary.txt"),
)

MAY_CHANGE = ("estimation.executor", "estimation.workers", "data.memory", "data.cache")
"""Settings that change no bit: a run may go on with others.  Those of a bootstrap are no part of a fit."""


@dataclass(frozen=True, slots=True)
class Run:
    """A folder of which this process has the lock."""

    folder: Path

    @property
    def journal(self) -> Path:
        """Where evaluations are kept."""
        return self.folder / JOURNAL

    @property
    def resume(self) -> str:
        """The command that goes on with it."""
        return f"gmmest fit --resume {shlex.quote(printable(self.folder))}"

    def finish(self, texts: Mapping[str, str]) -> None:
        """Write the results that are not there yet: those that are can only be the same, unless they are empty."""
        from gmmest.report.export import write_run

        missing = {name: text for name, text in texts.items() if not _has_text(self.folder / name)}
        write_run(self.folder, missing, force=True)


def _has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@contextmanager
def begun(folder: Path, settings: Config, force: bool) -> Iterator[Run]:
    """A new run in a folder.

    Raises
    ------
    FileError
        E501, E506, E507; E508: there is a run already.
    """
    from gmmest.execution.journal import locked, surroundings
    from gmmest.report.export import write_run

    _make(folder)
    run = Run(folder)
    manifest = {
        "config_folder": str(settings.folder.absolute()),
        "config_file": None if settings.path is None else settings.path.name,
        "config_sha256": settings.sha256,
        "code_sha256": _code_hash(settings),
        "versions": surroundings(),
    }
    with locked(folder) as taken_over:
        _tell(taken_over)
        names = (SETTINGS, MANIFEST, JOURNAL, *RESULTS)
        links = [name for name in names if (folder / name).is_symlink()]
        if links:
            what = f"{some(links)}: plain files were expected here"
            raise FileError(Complaint("E507", what, printable(folder), "another --out folder"))
        taken = [name for name in names if (folder / name).exists()]
        if taken and not force:
            what = f"{some(taken)} already there"
            advice = f"{run.resume}, another --out folder, or --force"
            raise FileError(Complaint("E508", what, printable(folder), advice))
        write_run(folder, {SETTINGS: _json(settings.as_dict()), MANIFEST: _json(manifest)}, force)
        for name in (
            *reversed(RESULTS),
            JOURNAL,
        ):  # results first: those of another journal must not outlive it
            (folder / name).unlink(missing_ok=True)
        yield run


@contextmanager
def resumed(folder: Path) -> Iterator[Run]:
    """A run that was begun before."""
    from gmmest.execution.journal import locked

    _settled(folder)
    with locked(folder) as taken_over:
        _tell(taken_over)
        if not (folder / JOURNAL).exists():
            click.echo("there is no journal in this folder: the fit begins anew", err=True)
        yield Run(folder)


@contextmanager
def drawn(folder: Path) -> Iterator[Path]:
    """Where a folder, made if need be, keeps the replications of a bootstrap; this process alone works there.

    Raises
    ------
    FileError
        E501, E506, E507.
    """
    from gmmest.execution.journal import locked

    _make(folder)
    with locked(folder) as taken_over:
        _tell(taken_over)
        yield folder / "draws.journal"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot make the folder: {error.strerror or error}"
        raise FileError(Complaint("E501", what, printable(folder), "another --out")) from error


def _tell(taken_over: bool) -> None:
    if taken_over:
        click.echo("the lock of a process that is gone was taken over", err=True)


def settings_of(folder: Path, overrides: Sequence[str | Option], config: str | None) -> Config:
    """The configuration of a run that was begun before.

    Parameters
    ----------
    folder : Path
    overrides : sequence of str or Option
        As for ``--set``; none may change more than who computes.
    config : str or None
        The file that it was begun with, if named; where it lies is where its relative paths start.

    Raises
    ------
    FileError
        E509: the settings are others, which are named.  E511: this is no folder of a run.
    """
    from gmmest import config as configuration

    text, manifest = _settled(folder)
    kept = configuration.loads(text, folder=manifest["config_folder"], name=f"{folder / SETTINGS}")
    given = (
        configuration.loads(text, folder=kept.folder, name=kept.folder.name, overrides=overrides)
        if config is None
        else configuration.load(config, overrides, home_of(config))
    )
    before, now = dict(_flat(kept.as_dict())), dict(_flat(given.as_dict()))
    differing = [
        f"{name} was {before.get(name, 'not there')}, and is {now.get(name, 'not there')} now"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
        and name not in MAY_CHANGE
        and name.partition(".")[0] != "bootstrap"
    ]
    if _code_hash(given) != manifest.get("code_sha256"):
        differing.append(f"{given.executes or kept.executes} has changed")
    if differing:
        raise FileError(
            Complaint(
                "E509",
                f"the run in this folder has other settings: {some(differing)}",
                printable(folder),
                "resume without them, or begin another run with --out",
            )
        )
    return given


def home_of(config: str) -> Path | None:
    """Where relative paths of the settings in a folder of a run start; None for any other file."""
    path = Path(config)
    if path.name != SETTINGS or not (path.parent / MANIFEST).is_file():
        return None
    try:
        return Path(json.loads((path.parent / MANIFEST).read_text(encoding="utf-8"))["config_folder"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _code_hash(settings: Config) -> str | None:
    """Hash of the file whose function a fit runs; None without one, or where it is not found."""
    if settings.executes is None:
        return None
    try:
        content = (settings.folder / settings.executes.partition(":")[0]).read_bytes()
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest()


def _settled(folder: Path) -> tuple[str, dict[str, Any]]:
    """Text of the settings, and the manifest."""
    texts = []
    for name in (SETTINGS, MANIFEST):
        path = folder / name
        if path.is_symlink():
            raise FileError(Complaint("E507", "a plain file was expected here", printable(path)))
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            what = f"{printable(folder)} is no folder of a run: {name} is missing, or cannot be read"
            raise FileError(
                Complaint("E511", what, next="gmmest fit CONFIG --out FOLDER begins one")
            ) from None
    try:
        manifest = json.loads(texts[1])
        if not isinstance(manifest["config_folder"], str):
            raise TypeError
    except (ValueError, TypeError, KeyError):
        what = f"{MANIFEST} does not say where the configuration lay"
        raise FileError(Complaint("E511", what, printable(folder), "begin the run again")) from None
    return texts[0], manifest


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their dotted names."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _flat(below, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(value)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


# --- interruption -------------------------------------------------------------------------------------------


class Interrupted(Exception):  # noqa: N818  it is no error
    """A fit was stopped from outside; ``code`` is what a shell calls that."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: nothing may take it for an error and go on."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` inside, so that locks and unfinished folders are removed on the way out."""

    def terminate(_signal: int, _frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # which alone may say what signals do
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _code_of(stop: BaseException) -> int:
    return 130 if isinstance(stop, KeyboardInterrupt) else 143


@contextmanager
def told(advice: str) -> Iterator[None]:
    """SIGINT and, inside :func:`terminable`, SIGTERM end what is inside with a message of what to do."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        raise Interrupted(f"interrupted; {advice}", _code_of(stop)) from None


@contextmanager
def stoppable(run: Run | None, at: Callable[[], int]) -> Iterator[None]:
    """SIGINT and, inside :func:`terminable`, SIGTERM end what is inside with a message of where it stood.

    Parameters
    ----------
    run : Run or None
    at : callable
        Number of the evaluation that is being made.

    Raises
    ------
    Interrupted
        130 for SIGINT, 143 for SIGTERM.
    FileError
        E501 with the command that goes on when there is room.
    """
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        where = f"at evaluation {at():,}" if at() else "before the first evaluation"
        advice = "nothing was kept, as there is no --out" if run is None else f"resume with: {run.resume}"
        raise Interrupted(f"interrupted {where}; {advice}", _code_of(stop)) from None
    except FileError as error:
        if run is None or error.codes != ("E501",):
            raise
        full = error.complaints[0]
        raise FileError(
            Complaint(full.code, full.what, full.where, f"free space, then  {run.resume}")
        ) from error
