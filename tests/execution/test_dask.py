"""Dask workers give the bits of one thread, also after some of them died; nothing is left behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

import gmmest as gm
from gmmest.config.build import build
from gmmest.data.block import Block
from gmmest.execution import dask as subject
from gmmest.execution.dask import Dask, DaskSession
from gmmest.execution.journal import PACKAGES
from gmmest.execution.spill import LINE, SMALL, Piece, Spill, forget, loaded
from gmmest.execution.threads import Threads, afterwards, as_executor, opened
from gmmest.simulate import simulate_logit

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

ROOT = Path(__file__).parents[2]
BLOCKS = 5


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskSession]:
    """Two processes for the whole file; tests that kill some wait for the next ones."""
    with Dask(workers=2, folder=tmp_path_factory.mktemp("blocks")).open() as session:
        yield session


@dataclass(frozen=True)
class Cut:
    """A model whose data come in several blocks."""

    model: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def sample(self, data: Any) -> Any:
        sample = self.model.sample(data)
        whole = sample.whole().blocks[0]
        n = sample.n_obs
        edges = [j * n // BLOCKS for j in range(BLOCKS + 1)]
        pieces = list(itertools.pairwise(edges))
        return replace(
            sample,
            blocks=tuple(_part(whole, a, b) for a, b in pieces),
            counts=tuple(b - a for a, b in pieces),
        )


def _part(whole: Any, start: int, stop: int) -> Any:
    if isinstance(whole, Block):
        return whole.part(start, stop)
    columns = {name: column[start:stop] for name, column in whole.columns.items()}
    weight = whole.observation_weight
    return replace(whole, columns=columns, observation_weight=None if weight is None else weight[start:stop])


@pytest.fixture(scope="module")
def choices() -> gm.ChoiceData:
    return simulate_logit(sets=3000, alternatives=(2, 9), features=2, moments=3, seed=3).data


@pytest.fixture(scope="module")
def table() -> gm.Table:
    rng = np.random.default_rng(5)
    n = 4000
    z, u = rng.normal(size=(n, 2)), rng.normal(size=n)
    x = z.sum(axis=1) + 0.5 * u + rng.normal(size=n)
    groups = rng.integers(0, 90, n)
    return gm.Table.from_arrays(
        {"y": 1.0 + 0.5 * x + u, "x": x, "z1": z[:, 0], "z2": z[:, 1]},
        weight=rng.uniform(0.5, 2.0, n),
        cluster={"village": groups},
    )


def iv_moments(theta: Any, rows: Any) -> Any:
    e = rows.y - theta[0] - theta[1] * rows.x
    return np.stack([e, e * rows.z1, e * rows.z2, np.exp(-0.1 * rows.z1**2) * e], axis=1)


def same_bits(one: gm.GMMResults, other: gm.GMMResults) -> bool:
    def bits(result: gm.GMMResults) -> list[bytes]:
        kept = result.estimate
        arrays = (kept.theta, kept.v, kept.moments, kept.jacobian, kept.s.matrix)
        return [array.tobytes() for array in arrays]

    return bits(one) == bits(other) and (one.criterion, one.loglike) == (other.criterion, other.loglike)


FITS = {
    "logit": ("choices", gm.Logit(), {}),
    "logit forward": ("choices", gm.Logit(), {"grad": "forward", "steps": "onestep"}),
    "logit jax": ("choices", gm.Logit(), {"grad": "jax", "steps": "onestep"}),
    "logit by gradients": ("choices", gm.Logit(), {"optimizer": "lbfgsb", "steps": "onestep"}),
    "logit with a parameter fixed": ("choices", gm.Logit(), {"fixed": {"x1": 0.1}, "steps": "onestep"}),
    "logit by differences": ("choices", gm.Logit(), {"grad": "fd", "steps": "onestep"}),
    "logit unadjusted": ("choices", gm.Logit(), {"weighting": "unadjusted"}),
    "own moments with weights": ("table", gm.MomentFunction(iv_moments, ["a", "b"]), {}),
    "own moments in clusters": ("table", gm.MomentFunction(iv_moments, ["a", "b"]), {"weighting": "cluster"}),
    "own moments cue": ("table", gm.MomentFunction(iv_moments, ["a", "b"]), {"steps": "cue", "starts": 1}),
}


@pytest.mark.parametrize("case", FITS)
def test_workers_give_the_bits_of_one_thread(
    workers: DaskSession, case: str, request: pytest.FixtureRequest
) -> None:
    fixture, model, options = FITS[case]
    data = request.getfixturevalue(fixture)
    assert len(Cut(model).sample(data).blocks) == BLOCKS
    alone, shared = (
        gm.GMMEstimator(Cut(model), data, executor=executor, **options).fit()
        for executor in ("serial", workers)
    )
    assert alone.verified
    assert same_bits(alone, shared)


def test_regressions_in_their_own_blocks_too(
    workers: DaskSession, table: gm.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmmest.models.regression.rows_per_block", lambda columns: 700)
    model = gm.LinearIV("y", endogenous=["x"], instruments=["z1", "z2"])
    assert len(model.sample(table).blocks) == 6
    alone, shared = (gm.GMMEstimator(model, table, executor=e).fit() for e in ("serial", workers))
    assert same_bits(alone, shared)


# --- what a worker gets -----------------------------------------------------------------------------------


def test_a_block_arrives_as_it_was(tmp_path: Path, choices: gm.ChoiceData) -> None:
    block = gm.Logit().sample(choices).whole().blocks[0].part(7, 2000)
    assert block.features.nbytes > SMALL
    shared = replace(block, instruments=block.features)
    spill = Spill(tmp_path)
    for given in (block, shared):
        found = loaded(spill.message(given))
        assert (found.instruments is found.features) == (given.instruments is given.features)
        assert found.weight is None
        for name in ("features", "instruments", "chosen", "offsets"):
            before, after = getattr(given, name), getattr(found, name)
            assert np.array_equal(before, after)
            assert after.dtype == before.dtype
            assert after.flags.c_contiguous
            assert after.flags.aligned
            assert not after.flags.writeable
            assert after.ctypes.data % LINE == before.ctypes.data % LINE
    forget()


def test_arrays_are_written_once_and_small_ones_not_at_all(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    large, small = np.arange(SMALL, dtype=np.float64), np.arange(4.0)
    messages = [spill.message({"large": large, "small": small, "turn": turn}) for turn in range(3)]
    assert len(list(tmp_path.iterdir())) == 1
    assert all(len(message.header) < 400 for message in messages)
    assert [isinstance(array, Piece) for array in messages[2].arrays] == [True, False]
    assert loaded(messages[2])["turn"] == 2
    assert np.array_equal(loaded(messages[2])["small"], small)


def test_what_is_mapped_from_a_file_is_not_written_again(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).normal(size=(3000, 4))
    (tmp_path / "store").mkdir()
    numbers.tofile(tmp_path / "store" / "X")
    (tmp_path / "spilled").mkdir()
    mapped = np.memmap(tmp_path / "store" / "X", np.float64, "r", offset=320, shape=(2990, 4))
    spill = Spill(tmp_path / "spilled")
    for block in (np.asarray(mapped), np.asarray(mapped)[100:900], np.asarray(mapped[50:])[100:900]):
        message = spill.message({"X": block})
        assert np.array_equal(loaded(message)["X"], block)
        (piece,) = message.arrays
        assert isinstance(piece, Piece)
        assert Path(piece.path).name == "X"
    assert list((tmp_path / "spilled").iterdir()) == []
    writable = np.asarray(np.memmap(tmp_path / "store" / "X", np.float64, "r+", shape=(3000, 4)))
    assert np.array_equal(loaded(spill.message(writable)), numbers)
    assert len(list((tmp_path / "spilled").iterdir())) == 1, "what may change is written as it is"
    forget()


@pytest.mark.parametrize(
    ("damage", "why"), [("shorten", "it is shorter than what was written"), ("remove", "No such file")]
)
def test_blocks_that_cannot_be_read_are_named(tmp_path: Path, damage: str, why: str) -> None:
    message = Spill(tmp_path).message(np.arange(SMALL, dtype=np.float64))
    (path,) = tmp_path.iterdir()
    if damage == "remove":
        path.unlink()
    else:
        os.truncate(path, 5000)
    with pytest.raises(gm.FileError, match=rf"^E518 a worker cannot read its blocks: {why}") as raised:
        loaded(message)
    assert str(path) in str(raised.value)
    assert "a folder that all workers see" in str(raised.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(gm.FileError, match=r"^E501 blocks for the workers cannot be written: No such file"):
        Spill(tmp_path / "gone").message(np.arange(SMALL, dtype=np.float64))
    with (
        pytest.raises(gm.FileError, match=r"^E501 no folder for the workers' blocks can be made: No such"),
        subject._folder(tmp_path / "gone"),
    ):
        pass


def test_no_data_travel_with_the_function(tmp_path: Path, choices: gm.ChoiceData) -> None:
    from gmmest.gmm.moments import Moments

    sample = Cut(gm.Logit()).sample(choices)
    moments = Moments(gm.Logit(), sample, "forward")
    theta = np.zeros(2)
    message = Spill(tmp_path).message(lambda block: moments._prepared.value_and_jacobian(theta, block))
    assert sum(block.features.nbytes for block in sample.blocks) > 200_000
    assert len(message.header) < 8_000
    assert sum(len(array) for array in message.arrays) <= 3 * theta.nbytes


def test_arrays_that_a_function_reads_are_written_once(workers: DaskSession) -> None:
    table = np.arange(2.0**18)
    with workers.open() as session:
        for power in (1, 2):
            found = session.map(lambda item: float(table[item] ** power), [3, 5])  # noqa: B023
            assert found == [3.0**power, 5.0**power]
        (path,) = session._folder.iterdir()
        assert table.nbytes <= path.stat().st_size < table.nbytes + 2 * LINE


# --- order, exceptions, refusals --------------------------------------------------------------------------


def test_results_come_in_block_order_from_both_workers(workers: DaskSession) -> None:
    found = workers.map(lambda item: (item, os.getpid()), list(range(9)))
    assert [item for item, _ in found] == list(range(9))
    pids = [pid for _, pid in found]
    assert pids == sorted(pids, key=pids.index), "each worker has one run of blocks"
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert workers.map(abs, []) == []


def test_blas_has_one_thread_on_a_worker(workers: DaskSession) -> None:
    def threads(item: int) -> set[int]:
        from threadpoolctl import threadpool_info

        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    assert workers.map(threads, [0, 1]) == [{1}, {1}]


def test_worker_processes_keep_memory_and_ignore_the_keyboard(workers: DaskSession) -> None:
    def seen(item: int) -> list[object]:
        kept = [os.environ[name] for name in ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")]
        return [*kept, signal.getsignal(signal.SIGINT) == signal.SIG_IGN]

    assert workers.map(seen, [0, 1]) == [[str(2**28), "1", True]] * 2


def test_the_first_exception_in_block_order_is_raised(workers: DaskSession) -> None:
    def fail(item: int) -> int:
        if item in (1, 3):
            raise ArithmeticError(str(item))
        return item

    with pytest.raises(ArithmeticError) as raised:
        workers.map(fail, list(range(4)))
    assert raised.value.args == ("1",)
    assert "in fail" in raised.value.__notes__[0]


def test_complaints_arrive_as_records(workers: DaskSession) -> None:
    def refuse(item: int) -> int:
        raise gm.DataError([gm.Complaint("E302", "one"), gm.Complaint("E303", "two", next="mend")])

    with pytest.raises(gm.DataError) as raised:
        workers.map(refuse, [0])
    assert raised.value.codes == ("E302", "E303")
    assert raised.value.complaints[1].next == "mend"


def test_what_cannot_be_sent_is_refused(workers: DaskSession, capfd: pytest.CaptureFixture[str]) -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(
        gm.ExecutionError, match=r"^E703 the moments cannot be sent to workers: TypeError: .*lock"
    ):
        workers.map(lambda item: lock, [0])
    with pytest.raises(gm.ExecutionError, match=r"^E703 a worker cannot send what it found: .*lock"):
        workers.map(lambda item: threading.Lock(), [0])
    assert "Traceback" not in capfd.readouterr().err


def test_a_module_that_workers_lack_is_named(workers: DaskSession, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("moments_of_mine")
    exec("def moment(item): return item", module.__dict__)
    monkeypatch.setitem(sys.modules, "moments_of_mine", module)
    with pytest.raises(gm.ExecutionError, match=r"^E703 a worker cannot load the moments: .*moments_of_mine"):
        workers.map(module.moment, [0])


@pytest.mark.parametrize("package", ["python", *PACKAGES])
def test_other_versions_are_refused(
    workers: DaskSession, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    other = {**subject._versions(), package: "1.0"}
    monkeypatch.setattr(subject, "_versions", lambda: other)
    with pytest.raises(
        gm.ExecutionError,
        match=rf"^E706 a worker has other versions than the driver: {package} .*, expected 1\.0",
    ):
        workers.map(abs, [0])


# --- workers that die -------------------------------------------------------------------------------------


def test_a_fit_survives_workers_that_are_killed(
    workers: DaskSession, table: gm.Table, tmp_path: Path
) -> None:
    """Two are killed while they compute, at different passes; the first that meets a mark dies of it."""
    marks = tmp_path / "marks"
    marks.mkdir()

    def deadly(theta: Any, rows: Any) -> Any:
        for mark in marks.iterdir():
            try:
                mark.unlink()
            except FileNotFoundError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return iv_moments(theta, rows)

    def kill(evaluations: int) -> None:
        if evaluations in (3, 9):
            (marks / str(evaluations)).touch()

    alone = gm.GMMEstimator(Cut(gm.MomentFunction(iv_moments, ["a", "b"])), table).fit()
    assert alone.work.evaluations > 9
    model = Cut(gm.MomentFunction(deadly, ["a", "b"]))
    survived = gm.GMMEstimator(model, table, executor=workers).fit(watch=kill)
    assert same_bits(alone, survived)
    assert survived.notes[-1] == "W510 2 workers lost; their blocks were computed again by others"


def test_a_block_that_no_worker_outlives_is_an_error(
    workers: DaskSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(item: int) -> int:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    monkeypatch.setattr(subject, "TRIES", 1)
    with pytest.raises(
        gm.ExecutionError, match=r"^E705 workers died 1 times in a row while they .* blocks (0, )?1\n"
    ):
        workers.map(deadly, [0, 1])


# --- whose cluster it is ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty() -> Iterator[Client]:
    """A client of one's own whose cluster has no workers."""
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_no_worker_is_waited_for_a_while_and_then_an_error(empty: Client) -> None:
    with pytest.raises(gm.ExecutionError, match=r"^E704 no worker is left, and none came in 0\.3 s"):
        Dask(client=empty, patience=0.3).map(abs, [1])


def test_a_scheduler_that_is_gone_is_an_error(tmp_path: Path) -> None:
    class Gone:
        def nthreads(self) -> dict[str, int]:
            raise OSError("Timed out trying to connect")

    with pytest.raises(gm.ExecutionError, match=r"^E704 the scheduler cannot be reached: OSError: Timed out"):
        DaskSession(Gone(), tmp_path).map(abs, [1])


def test_a_client_passes_as_executor_and_stays_open(empty: Client, workers: DaskSession) -> None:
    executor = as_executor(empty)
    assert executor == Dask(client=empty)
    with opened(executor) as session:
        assert session is not executor
    assert empty.status == "running"
    assert Dask(client=workers._client).map(abs, [-2]) == [2]
    assert workers.map(abs, [-3]) == [3]


def test_nothing_is_left_behind_after_an_exception(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    ours: list[psutil.Process] = []

    def use(session: DaskSession) -> None:
        started = set(psutil.Process().children(recursive=True)) - before
        ours.extend(process for process in started if "spawn_main" in "".join(process.cmdline()))
        assert len(ours) == 1
        assert session.map(np.sum, [np.ones(SMALL)]) == [float(SMALL)]
        assert len(list(tmp_path.rglob("*.bin"))) == 1
        for process in [psutil.Process(), *ours]:
            addresses = {connection.laddr.ip for connection in process.net_connections("inet")}
            assert addresses == {"127.0.0.1"}, "loopback alone"
        raise ArithmeticError

    with pytest.raises(ArithmeticError), opened(Dask(workers=1, folder=tmp_path)) as session:
        use(session)
    assert list(tmp_path.iterdir()) == []
    assert psutil.wait_procs(ours, timeout=10)[1] == []
    assert session.closed
    assert afterwards(session) == Threads()
    assert afterwards("dask") == Threads()


def test_work_stealing_stays_as_it_was_for_others() -> None:
    import dask

    dask.config.refresh()
    before = dask.config.get("distributed.scheduler.work-stealing")
    with subject._local_client(1) as client:
        assert client.run_on_scheduler(_stealing) is False
        assert dask.config.get("distributed.scheduler.work-stealing") == before


def _stealing(dask_scheduler: Any) -> bool:
    return "stealing" in dask_scheduler.extensions and dask_scheduler.extensions["stealing"].scheduler is None


def test_the_command_line_starts_workers(capsys: pytest.CaptureFixture[str]) -> None:
    from gmmest_cli.main import main

    found = []
    for options in ((), ("--executor", "dask", "--workers", "1")):
        with pytest.raises(SystemExit) as ended:
            main(["fit", str(ROOT / "configs" / "logit.yaml"), "--json", *options])
        assert ended.value.code == 0
        found.append(json.loads(capsys.readouterr().out))
    alone, shared = found
    assert shared["manifest"]["threads"]["executor"] == "Dask"
    assert shared["params"] == alone["params"]
    assert shared["bse"] == alone["bse"]


def test_workers_without_a_use_are_refused() -> None:
    from gmmest import config

    with pytest.raises(gm.ConfigError, match=r"^E102 estimation.workers has no use with executor serial\n.*"):
        config.load(ROOT / "configs" / "logit.yaml", ["estimation.executor=serial", "estimation.workers=2"])
    settings = config.load(ROOT / "configs" / "logit.yaml", ["estimation.workers=2"])
    assert build(settings).executor == Threads(2)
    sizes = "{sets: 20, alternatives: 3, features: 2, moments: 2, seed: 1}"
    simulated = f"data: {{simulate: {sizes}}}\nmodel: {{kind: logit}}\nestimation: {{workers: 2}}"
    unsaid = config.loads(simulated, folder=ROOT, name="no executor named")
    assert build(unsaid).executor == Threads(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "^E102 workers is 0; a whole number from 1 was expected$"),
        ({"workers": True}, "^E102 workers is True;"),
        ({"workers": 2, "client": object()}, "^E102 workers is given beside a client, which has its own"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(gm.ConfigError, match=message):
        Dask(**options)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    with pytest.raises(
        gm.ExecutionError, match=r"^E701 executor 'dask' needs .*\n  next:  pip install 'gmmest\[dask\]'"
    ):
        gm.GMMEstimator(gm.Logit(), None, executor="dask")


def test_replications_of_a_bootstrap_travel_to_workers(workers: DaskSession, choices: gm.ChoiceData) -> None:
    fit = gm.GMMEstimator(gm.Logit(), choices).fit()
    here, there = (fit.bootstrap(4, seed=1, executor=executor) for executor in ("serial", workers))
    assert here.draws.tobytes() == there.draws.tobytes()
