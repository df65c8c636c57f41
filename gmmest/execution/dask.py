"""Dask workers over blocks: one task a worker and pass, numbers in files, results in block order.

The driver sends each worker the function and the messages of its blocks (see :mod:`.spill`), and gets back
the list of results; it alone folds them, so that the bits depend neither on how many workers there are nor on
which of them survive.  Tasks are tied to their workers: blocks stay where their pages are, nothing is
stolen, and a task whose worker is gone is given to others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from gmmest.errors import (
    Complaint,
    ConfigError,
    ExecutionError,
    FileError,
    not_whole,
    plural,
    printable,
    some,
)
from gmmest.execution.journal import versions
from gmmest.execution.serial import cores, single_blas_thread
from gmmest.execution.spill import Message, Spill, forget, loaded
from gmmest.execution.threads import Threads

__all__ = ["Dask", "DaskSession"]

Folder = str | os.PathLike[str] | None

POLL = 0.25
"""Seconds between looks at which workers are still there."""
TRIES = 4
"""Workers that one block may outlive before it is taken to be what kills them."""
PATIENCE = 60.0
"""Seconds to wait for a worker: a process starts in a few, a node of a cluster in tens."""
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""What a worker process runs first: Ctrl-C reaches all processes of a terminal, and the driver ends the others."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": 1,
    "MKL_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
    "MALLOC_MMAP_THRESHOLD_": 2**25,
    "MALLOC_TRIM_THRESHOLD_": 2**28,
}
"""Of worker processes: BLAS with one thread, and memory that is kept from one temporary array to the next.
Dask's own default gives each back to the system; fetching them anew took longer than computing a block."""
LARGE = 2**20
"""Bytes from which an array that a function reads is written to a file; parameters stay in the message."""


@dataclass(frozen=True, slots=True)
class Dask:
    """Worker processes of Dask; the bits of the results are those of one thread.

    Parameters
    ----------
    workers : int, optional
        Without a client: processes of one thread each on this machine, reached by loopback alone; by default one
        a core.
    client : distributed.Client, optional
        A cluster of one's own.  It is not closed, and its workers are taken as they come and go.
    folder : path, optional
        Where the blocks of data in memory are written for the workers, into a folder that is removed at the
        end; all workers must see it under the same name.  By default the folder for temporary files.
    patience : float
        Seconds to wait for a worker when none is left.

    Notes
    -----
    A fit opens the workers and closes them; ``with Dask(workers=2).open() as executor`` keeps them for several
    fits.  Blocks and functions travel as pickles between processes that trust each other.

    Cost of a pass beside the computing: a few round trips to the scheduler, some 10 ms, and the reading
    of the blocks from the page cache at the first pass.

    Raises
    ------
    ConfigError
        E102: fewer workers than one, workers beside a client, an asynchronous client.
    ExecutionError
        E701: the extra ``dask`` is not installed.  E702: its processes do not start.

    Examples
    --------
    >>> Dask(workers=2).workers
    2
    """

    workers: int | None = None
    client: Any = None
    folder: Folder = None
    patience: float = PATIENCE
    closed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if find_spec("distributed") is None:
            what = "executor 'dask' needs the package distributed, which is not installed"
            raise ExecutionError(Complaint("E701", what, next="pip install 'gmmest[dask]'"))
        complaints = [] if self.workers is None else not_whole("workers", self.workers, 1)
        if self.workers is not None and self.client is not None:
            what = "workers is given beside a client, which has its own"
            complaints.append(Complaint("E102", what, next="scale the client's cluster"))
        if getattr(self.client, "asynchronous", False):
            what = "the client is asynchronous, and a fit waits for its workers"
            complaints.append(Complaint("E102", what, next="Client(..., asynchronous=False)"))
        if complaints:
            raise ConfigError(complaints)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Apply to all items with workers opened for this alone."""
        with self.open() as session:
            return session.map(function, items)

    @contextmanager
    def open(self) -> Iterator[DaskSession]:
        """Workers that stay up until the end of the ``with``."""
        with ExitStack() as closing:
            client = self.client
            if client is None:
                client = closing.enter_context(_local_client(self.workers or cores()))
            yield closing.enter_context(_session(client, self.folder, self.patience))


@contextmanager
def _session(client: Any, parent: Folder, patience: float) -> Iterator[DaskSession]:
    with _folder(parent) as folder:
        session = DaskSession(client, folder, patience)
        try:
            yield session
        finally:
            session.close()


@contextmanager
def _local_client(workers: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    with ExitStack() as closing:
        try:
            with dask.config.set(
                {
                    "distributed.scheduler.work-stealing": False,
                    "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
                }
            ):
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    # what workers hold is mapped files, which would count against a limit and pause them
                    memory_limit=0,
                    preload=[DEAF],
                    silence_logs=logging.ERROR,
                )
        except RuntimeError as error:
            raise ExecutionError(
                Complaint(
                    "E702",
                    f"the workers did not start: {printable(error)}",
                    next="in a script, start fits under  if __name__ == '__main__':  (workers import the script)",
                )
            ) from error
        closing.enter_context(cluster)
        yield closing.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def _folder(parent: Folder) -> Iterator[Path]:
    try:
        made = TemporaryDirectory(prefix="gmmest-", dir=parent)
    except OSError as error:
        what = f"no folder for the workers' blocks can be made: {error.strerror or error}"
        raise FileError(Complaint("E501", what, printable(parent), "Dask(folder=...)")) from error
    with made as name:
        yield Path(name).resolve()


# --- the driver's side ------------------------------------------------------------------------------------


class DaskSession:
    """An executor whose workers are up; made by :meth:`Dask.open`.

    Attributes
    ----------
    elsewhere : bool
        True: functions and results are sent, so that a result must not be a function that holds data.
    lost : int
        Workers that went away so far.
    closed : bool
    """

    elsewhere = True

    def __init__(self, client: Any, folder: Path, patience: float = PATIENCE) -> None:
        self._client = client
        self._folder = folder
        self._spill = Spill(folder)
        self._patience = patience
        self._seen: set[str] = set()
        self.lost = 0
        self.closed = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a result should say of how it was computed."""
        if not self.lost:
            return ()
        return (f"W510 {plural(self.lost, 'worker')} lost; their blocks were computed again by others",)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Apply to all items; the first exception in their order is raised.

        Raises
        ------
        ExecutionError
            E703: a function that cannot be sent, or that the workers cannot load.  E704: no worker was left, or
            no scheduler.  E705: a block that no worker outlives.  E706: workers with other versions.
        FileError
            E501, E518: blocks that cannot be written, or read by a worker.
        """
        packed = self._packed(function)
        messages = [self._spill.message(item) for item in items]
        results: list[Any] = [None] * len(items)
        waiting = list(range(len(items)))
        for _ in range(TRIES):
            if not waiting:
                return results
            waiting = self._pass(packed, messages, waiting, results)
        if not waiting:
            return results
        raise ExecutionError(
            Complaint(
                "E705",
                f"workers died {TRIES} times in a row while they computed blocks {some(waiting)}",
                next="give workers more memory; look into their logs for what killed them",
            )
        )

    @contextmanager
    def open(self) -> Iterator[DaskSession]:
        """The same workers for one fit; what it wrote for them goes with it."""
        with _session(self._client, self._folder, self._patience) as session:
            yield session

    def close(self) -> None:
        """Let workers that go on living forget the blocks."""
        self.closed = True
        try:
            self._client.run(forget, on_error="ignore")
        except (OSError, RuntimeError):  # the cluster is gone, and its memory with it
            return

    def _pass(
        self, packed: Message, messages: Sequence[Message], waiting: Sequence[int], results: list[Any]
    ) -> list[int]:
        """One task a worker; puts results into their places and returns the blocks that are still to do."""
        workers = self._workers()
        shares = _shares(waiting, len(workers))
        versions = _versions()
        futures = [
            self._client.submit(
                _work,
                Task(packed, tuple(messages[i] for i in share), versions),
                workers=[address],
                allow_other_workers=False,
                pure=False,
            )
            for address, share in zip(workers, shares, strict=False)
        ]
        answers = self._answers(futures, workers[: len(shares)])
        undone: list[int] = []
        for share, answer in zip(shares, answers, strict=True):
            if answer is None:
                undone.extend(share)
                continue
            if answer.error is not None:
                raise answer.error
            for i, result in zip(share, answer.results, strict=True):
                results[i] = result
        return undone

    def _packed(self, function: Callable[[Any], Any]) -> Message:
        """The function as a message; arrays that it reads from outside are written once, like blocks."""
        log = logging.getLogger("distributed.protocol.pickle")
        quiet, log.disabled = log.disabled, True  # the reason is in the error
        try:
            return self._spill.message(function, LARGE)
        except FileError:
            raise
        except Exception as error:  # pickling calls what it meets
            raise ExecutionError(
                Complaint(
                    "E703",
                    f"the moments cannot be sent to workers: {type(error).__name__}: {printable(error)}",
                    next="let the moment function read its arguments and plain values only, or executor: threads",
                )
            ) from error
        finally:
            log.disabled = quiet

    def _workers(self) -> list[str]:
        """Addresses of the workers that are up, at least one."""
        deadline = time.monotonic() + self._patience
        while True:
            here = self._here()
            self.lost += len(self._seen - here)
            self._seen = here
            if here:
                return sorted(here)
            if time.monotonic() > deadline:
                what = f"no worker is left, and none came in {self._patience:g} s"
                raise ExecutionError(
                    Complaint("E704", what, next="look into the workers' logs for what ended them")
                )
            time.sleep(POLL)

    def _here(self) -> set[str]:
        try:
            return set(self._client.nthreads())
        except (OSError, RuntimeError) as error:
            what = f"the scheduler cannot be reached: {type(error).__name__}: {printable(error)}"
            raise ExecutionError(Complaint("E704", what, next="look into its logs; fit again")) from error

    def _answers(self, futures: Sequence[Any], workers: Sequence[str]) -> list[TaskResult | None]:
        """What the tasks came to; None where the worker went away before its results were here."""
        try:
            return [_unpacked(data) for data in self._gathered(futures, workers)]
        except _losses():
            return [self._answer(future, address) for future, address in zip(futures, workers, strict=True)]

    def _gathered(self, futures: Sequence[Any], workers: Sequence[str]) -> list[bytes]:
        """All results by one request, given up when a worker is gone: its task would wait for ever."""

        async def gather() -> list[bytes]:
            found: list[bytes] = await self._client.gather(list(futures), asynchronous=True)
            return found

        pending = asyncio.run_coroutine_threadsafe(gather(), self._client.loop.asyncio_loop)
        while True:
            try:
                return pending.result(POLL)
            except TimeoutError:
                if not set(workers) <= self._here():
                    raise
            except KeyboardInterrupt:
                self._client.cancel(list(futures))
                raise

    def _answer(self, future: Any, address: str) -> TaskResult | None:
        """The same for one task."""
        while True:
            try:
                return _unpacked(future.result(timeout=POLL))
            except _losses() as error:
                if isinstance(error, TimeoutError) and address in self._here():
                    continue
                future.cancel()
                return None


def _shares(blocks: Sequence[int], workers: int) -> list[list[int]]:
    """Blocks in runs of nearly equal length, one for each worker that gets any.

    Examples
    --------
    >>> _shares([3, 4, 5, 8, 9], 2)
    [[3, 4], [5, 8, 9]]
    >>> _shares([3], 2)
    [[3]]
    """
    count = min(workers, len(blocks))
    return [list(blocks[j * len(blocks) // count : (j + 1) * len(blocks) // count]) for j in range(count)]


def _losses() -> tuple[type[BaseException], ...]:
    """What a future says when its worker is gone, or seems to be."""
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    return TimeoutError, CancelledError, KilledWorker


def _unpacked(data: bytes) -> TaskResult:
    from distributed.protocol.pickle import loads

    answer: TaskResult = loads(data)
    return answer


# --- the workers' side ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """A pickled function, the blocks of one worker, and the versions of the driver."""

    function: Message
    blocks: tuple[Message, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Results in the order of the blocks, or the first exception among them."""

    results: list[Any]
    error: Exception | None


@lru_cache(maxsize=1)
def _versions() -> Mapping[str, str]:
    return versions()


def _work(task: Task) -> bytes:
    """What a worker does: load, compute with as many threads as it has, pickle.

    Results are pickled here with their arrays inside, so that the driver gets arrays of its own, aligned.
    """
    from distributed import get_worker
    from distributed.protocol.pickle import dumps

    try:
        function = _function(task)
        threads = Threads(get_worker().state.nthreads)
        with single_blas_thread():
            answer = TaskResult(threads.map(lambda block: function(loaded(block)), task.blocks), None)
    except Exception as error:  # whatever a moment function raises is the driver's to judge
        error.add_note(f"on a worker:\n{traceback.format_exc()}")
        answer = TaskResult([], error)
    try:
        return dumps(answer)  # type: ignore[no-any-return]
    except Exception as error:
        raised = f" from {type(answer.error).__name__}: {answer.error}" if answer.error else ""
        what = f"a worker cannot send what it found{raised}: {type(error).__name__}: {printable(error)}"
        return dumps(TaskResult([], ExecutionError(Complaint("E703", what))))  # type: ignore[no-any-return]


def _function(task: Task) -> Callable[[Any], Any]:
    here, expected = _versions(), task.versions
    differing = [
        f"{name} {here.get(name)}, expected {expected.get(name)}"
        for name in dict.fromkeys((*here, *expected))
        if here.get(name) != expected.get(name)
    ]
    if differing:
        what = f"a worker has other versions than the driver: {some(differing)}"
        advice = "install the same packages everywhere: other versions give other bits"
        raise ExecutionError(Complaint("E706", what, next=advice))
    try:
        function: Callable[[Any], Any] = loaded(task.function)
    except FileError:
        raise
    except Exception as error:
        raise ExecutionError(
            Complaint(
                "E703",
                f"a worker cannot load the moments: {type(error).__name__}: {printable(error)}",
                next="install the module that defines them on the workers, or client.upload_file(...)",
            )
        ) from error
    return function
