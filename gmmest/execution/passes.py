"""Passes over data that are answered from a journal as far as it goes, and written to it from there on.

A fit asks for one pass after another, each decided by the answers to those before.  With the same answers it
asks the same questions: so a fit that is begun again reads its way to where it stopped, with the same bits,
and what optimisers keep to themselves need not be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.errors import Complaint, EstimationError, FileError, IdentificationError, printable
from gmmest.execution.journal import Journal, Record

__all__ = ["Passes"]

Array = NDArray[np.float64]

LARGEST = 2**20
"""Bytes of an answer that a journal keeps; of larger ones (contributions of all observations) it keeps the
hash, and they are made again."""


class Passes:
    """Answers to passes, kept in a journal in the order in which they were asked for.

    Parameters
    ----------
    journal : Journal

    Attributes
    ----------
    resumed : int
        Passes that were answered from the journal so far.

    Notes
    -----
    The first answer of each kind that comes from the journal is also made again, and must have the same bits:
    that shows a moment function that was changed, which no hash of data or options can.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "journal"
    >>> for _ in range(2):
    ...     with Journal(path, {}) as journal:
    ...         passes = Passes(journal)
    ...         for x in (1.0, 2.0, 3.0):
    ...             answer = passes.answer("square", [np.array(x)], lambda: np.array([x * x]))
    ...         print(answer, passes.resumed)
    [9.] 0
    [9.] 3
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._asked = 0
        self._checked: set[str] = set()
        self.resumed = 0

    def answer(
        self, what: str, arguments: Sequence[Array], compute: Callable[[], Any], counts: bool = True
    ) -> Any:
        """``compute()``, or what it returned when it was asked for at this place before.

        Parameters
        ----------
        what : str
            Kind of the pass.
        arguments : sequence of array
            What it depends on beside the data.
        compute : callable
            Makes the answer: arrays, numbers and None, also in tuples or lists.  Anything else is made again
            each time.  So is an error of estimation, which ``compute`` is expected to raise again.
        counts : bool
            Whether it is a pass of its own; a second half of one is not.

        Raises
        ------
        FileError
            E501: no room.  E509: the journal tells of another pass here, or of other bits.
        """
        key = hashlib.blake2b(
            b"".join(np.asarray(a).tobytes() for a in arguments), digest_size=16
        ).hexdigest()
        place, self._asked = self._asked, self._asked + 1
        if place >= len(self._journal.records):
            return self._made(what, key, compute)
        kept = self._journal.records[place]
        if (kept.head["what"], kept.head["key"]) != (what, key):
            raise self._other(place, f"it is a pass for {printable(kept.head['what'])}, and {what} is wanted")
        self.resumed += counts
        layout = kept.head["layout"]
        if layout == "raised":
            compute()
            raise self._other(place, f"{what} failed then, and does not now")
        if layout == "again" or what not in self._checked:
            self._checked.add(what)
            value = compute()
            made = _record(what, key, value)
            if made.to_bytes() != kept.to_bytes():
                raise self._other(
                    place, f"{what} has other bits now: the model, the data or the machine changed"
                )
            if layout == "again":
                return value
        return _joined(layout, iter(kept.arrays))

    def _made(self, what: str, key: str, compute: Callable[[], Any]) -> Any:
        try:
            value = compute()
        except (EstimationError, IdentificationError):  # others end a fit, these a start of it
            self._journal.append(Record({"what": what, "key": key, "layout": "raised"}))
            raise
        record = _record(what, key, value)
        self._journal.append(record)
        if record.head["layout"] == "again":
            return value
        return _joined(record.head["layout"], iter(Record.from_bytes(record.to_bytes()).arrays))

    def _other(self, place: int, how: str) -> FileError:
        what = f"this journal is of another run: at its evaluation {place + 1} {how}"
        return FileError(
            Complaint(
                "E509",
                what,
                printable(self._journal.path),
                "run with what it was made with, or start again elsewhere",
            )
        )


def _record(what: str, key: str, value: Any) -> Record:
    arrays: list[Array] = []
    layout = _taken_apart(value, arrays)
    head = {"what": what, "key": key}
    if layout is None:
        return Record({**head, "layout": "again", "hash": None})
    if sum(a.nbytes for a in arrays) > LARGEST:
        digest = hashlib.blake2b(digest_size=16)
        for a in arrays:
            digest.update(a.tobytes())
        return Record({**head, "layout": "again", "hash": digest.hexdigest()})
    return Record({**head, "layout": layout}, tuple(arrays))


def _taken_apart(value: Any, arrays: list[Array]) -> Any:
    """How a value is made of the arrays that are put into the list; None if it is made of something else."""
    if value is None:
        return "none"
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        arrays.append(value)
        return "array"
    if isinstance(value, float):  # NumPy's float64 is one
        arrays.append(np.array(value))
        return "number" if isinstance(value, np.float64) else "float"
    if type(value) in (tuple, list):
        parts = [_taken_apart(part, arrays) for part in value]
        return None if None in parts else [type(value).__name__, *parts]
    return None


def _joined(layout: Any, arrays: Iterator[Array]) -> Any:
    """The inverse of :func:`_taken_apart`."""
    if layout == "none":
        return None
    if layout == "array":
        return next(arrays)
    if layout in ("number", "float"):
        number = next(arrays)[()]
        return number if layout == "number" else float(number)
    parts = [_joined(part, arrays) for part in layout[1:]]
    return tuple(parts) if layout[0] == "tuple" else parts
