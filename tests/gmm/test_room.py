"""What a fit takes beside its data is no more than what is said beforehand, and a limit on memory is kept."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import gmmest as gm
from gmmest.simulate import simulate_files

SETS = 60_000
COLUMNS = {"case": "set", "alternative": "alternative", "chosen": "chosen", "cluster": "set", "time": "set"}
FEATURES = ["x0", "x1", "x2", "x3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("room") / "drawn"
    simulate_files(made, sets=SETS, alternatives=2, features=4, moments=6, seed=1)
    return made / "data"


def files(folder: Path, memory: str | None) -> gm.ChoiceFiles:
    return gm.ChoiceFiles(folder, **COLUMNS, memory=memory)


MODEL = gm.Logit(FEATURES, instruments=[*FEATURES, "z0", "z1"])


def test_what_would_pass_the_limit_is_refused_before_it_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = files(folder, "4GB")
    free = 52 * 10**6
    monkeypatch.setattr("gmmest.gmm.room.anonymous_memory", lambda: 4 * 10**9 - free)
    fit = gm.GMMEstimator(MODEL, data, executor="serial").fit()
    for options in ({"weighting": "kernel"}, {"weighting": "cluster"}, {"steps": "cue", "centred": True}):
        with pytest.raises(gm.EstimationError, match=r"E434 .* memory is limited to 4 GB") as refused:
            gm.GMMEstimator(MODEL, data, executor="serial", **options).fit()
        assert "or weighting: robust" in str(refused.value)
    with pytest.raises(gm.EstimationError, match="E434 weighting 'kernel'"):
        fit.with_cov(weighting="kernel")
    for kind in ("pairs", "cluster"):
        with pytest.raises(gm.EstimationError, match=f"E434 a bootstrap of kind '{kind}'"):
            fit.bootstrap(2, kind)
    fit.with_cov("efficient")
    # without a limit nothing is refused
    assert gm.GMMEstimator(MODEL, files(folder, None), weighting="cluster", executor="serial").fit().verified


def test_the_size_that_a_refusal_names_is_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmmest.gmm.room.anonymous_memory", lambda: 4 * 10**9)
    with pytest.raises(gm.EstimationError, match="E434") as refused:
        gm.GMMEstimator(MODEL, files(folder, "4GB"), weighting="cluster").fit()
    size = str(refused.value).split("memory: ")[1].split(",")[0]
    assert gm.GMMEstimator(MODEL, files(folder, size), weighting="cluster").fit().verified


MEASURE = """
    import gc, sys, threading, time
    import jax, pandas, pyarrow.parquet, scipy.fft, scipy.linalg, scipy.optimize
    import gmmest as gm
    from gmmest.data.memory import anonymous_memory
    from gmmest.gmm.room import draws_room, fit_room
    files = gm.ChoiceFiles(sys.argv[1], case="set", alternative="alternative", chosen="chosen", cluster="set",
        time="set")
    features = ["x0", "x1", "x2", "x3"]
    model = gm.Logit(features, instruments=[*features, "z0", "z1"])
    def peak(work):
        gc.collect()
        base, most, going = anonymous_memory(), [0], [True]
        def watch():
            while going:
                most[0] = max(most[0], anonymous_memory())
                time.sleep(0.001)
        thread = threading.Thread(target=watch); thread.start()
        work()
        going.clear(); thread.join()
        return most[0] - base
    plain = gm.GMMEstimator(model, files, executor="serial").fit()
    for options in ({"weighting": "kernel"}, {"weighting": "cluster"}, {"se": "misspecification"},
        {"se": "windmeijer", "weighting": "kernel", "bandwidth": 3}, {"se": "windmeijer"}, {"grad": "jax"}):
        made = gm.GMMEstimator(model, files, executor="serial", **options)
        said = fit_room(plain.context.sample, made.covariance_options, made.steps, made.se, made.grad, 1)
        print(said, peak(made.fit), options)
    for kind in ("pairs", "wild"):
        said = draws_room(plain.context.sample, plain.context.weighting, kind, "twostep", 2)
        print(said, peak(lambda: plain.bootstrap(4, kind, executor=gm.Threads(2))), kind)
    """


def test_what_is_said_is_no_less_than_what_is_taken(folder: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell what a process holds")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert not done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    for line in lines:
        said, taken, what = line.split(" ", 2)
        assert int(taken) <= int(said), f"{what}: {taken} bytes, {said} said"
