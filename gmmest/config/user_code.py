"""A function that a configuration names: one Python file beside it, read once, hashed, and run.

A configuration may come from somebody else, so that code is found in one place only: a file in the
configuration's own folder, not reached through a link that leads out of it.  The bytes that are run are the
bytes that are hashed.  Nothing stays behind: no entry among the loaded modules, no compiled file.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from gmmest.data.columns import did_you_mean
from gmmest.derivatives.location import traceback_location
from gmmest.errors import Complaint, ConfigError, FileError, printable, some

__all__ = ["UserFunction", "load_function"]


@dataclass(frozen=True, slots=True)
class UserFunction:
    """A function of a file.

    Parameters
    ----------
    file, name : str
        Such as ``moments.py`` and ``my_moments``.
    sha256 : str
        Hash of the bytes that were run, 64 hexadecimal digits.
    function : callable
    """

    file: str
    name: str
    sha256: str
    function: Callable[..., Any]


def load_function(named: str, folder: Path) -> UserFunction:
    """Run a file and take a function out of it.

    Parameters
    ----------
    named : str
        ``FILE:FUNCTION``, two identifiers: ``moments:my_moments`` is ``my_moments`` of ``moments.py``.
    folder : Path
        The configuration's.

    Raises
    ------
    FileError
        E511: there is no such file.  E516: it cannot be read.
    ConfigError
        E108: the file is a link that leads elsewhere.  E109: it fails when it is run.  E110: it has no such
        function, or not one of (theta, rows).

    Notes
    -----
    The file sees the packages that are installed, and no other file of its folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "mine.py").write_text("def square(theta, rows): return theta**2")
    ...     found = load_function("mine:square", Path(folder))
    >>> found.file, found.function(3.0, None), len(found.sha256)
    ('mine.py', 9.0, 64)
    """
    stem, _, name = named.partition(":")
    path = _beside(folder, f"{stem}.py")
    try:
        content = path.read_bytes()
    except OSError as error:
        what = f"{printable(path)} cannot be read: {error.strerror or error}"
        raise FileError(Complaint("E516", what, "model.function", "check the permissions")) from error
    function = _function(_run(content, path, stem), name, path)
    return UserFunction(path.name, name, hashlib.sha256(content).hexdigest(), function)


def _beside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        near = ""
        if folder.is_dir():
            near = did_you_mean(name, [entry.name for entry in folder.iterdir() if entry.suffix == ".py"])
        where = f"looked in {printable(folder.absolute())}"
        advice = "model.function names a Python file beside the configuration"
        raise FileError(Complaint("E511", f"{name} does not exist{near}", where, advice))
    if path.resolve().parent != folder.resolve():
        what = f"{name} is a link to {printable(path.resolve())}; only files beside the configuration are run"
        raise ConfigError(Complaint("E108", what, "model.function", "copy the file into the folder"))
    return path


def _run(content: bytes, path: Path, stem: str) -> ModuleType:
    # No import statement can say a name with a colon, so it hides no module and is hidden by none.
    # Decorators such as dataclass look their module up while the file runs.
    module = ModuleType(f"gmmest:{stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)  # noqa: S102  the configuration names it
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        place = f"{path}, line {line}" if line else traceback_location(error.__traceback__) or str(path)
        what = f"{path.name} fails when it is run: {type(error).__name__}: {printable(error)}"
        alone = isinstance(error, ImportError)
        advice = "the file sees installed packages, and no other file of its folder" if alone else ""
        raise ConfigError(Complaint("E109", what, printable(place), advice)) from error
    finally:
        del sys.modules[module.__name__]
    return module


def _function(module: ModuleType, name: str, path: Path) -> Callable[..., Any]:
    found: Any = vars(module).get(name)
    if found is None:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = f"{path.name} has no function {name}{did_you_mean(name, own)}"
        said = f"it has {some(own)}" if own else "it has none"
        raise ConfigError(Complaint("E110", what, "model.function", said))
    if not callable(found):
        what = f"{name} of {path.name} is no function: {printable(repr(found))[:100]}"
        raise ConfigError(Complaint("E110", what, "model.function", f"def {name}(theta, rows): ..."))
    try:
        signature = inspect.signature(found)
    except ValueError:  # built-in functions have none
        return cast("Callable[..., Any]", found)
    try:
        signature.bind(None, None)
    except TypeError as error:
        what = f"{name} of {path.name} takes {signature}; (theta, rows) was expected: {error}"
        raise ConfigError(
            Complaint("E110", what, "model.function", f"def {name}(theta, rows): ...")
        ) from None
    return cast("Callable[..., Any]", found)
