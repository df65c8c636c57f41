"""A fit that goes on from a journal has the bits of one that was never interrupted."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gmmest as gm
from gmmest.execution import journal as journals
from gmmest.execution.journal import MARK, Journal, Record
from gmmest.execution.passes import LARGEST, Passes
from gmmest.gmm import estimator as estimators
from gmmest.gmm.results import GMMResults
from gmmest.simulate import simulate_logit

OPTIMIZERS = ("lsq", "lbfgsb", "bfgs", "trust-constr", "nelder-mead")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of journals: none need survive a power cut, nor look at the machine again."""
    monkeypatch.setattr(journals.os, "fsync", lambda _: None)
    found = journals.surroundings()
    monkeypatch.setattr(estimators, "surroundings", lambda: found)
    monkeypatch.setattr(estimators, "_manifest", lambda *_: {})


@dataclass(frozen=True)
class Growth:
    """``E[z (y - exp(a + b x))] = 0`` with three instruments; counts how often it is asked."""

    calls: list[int] = field(repr=False)

    def __call__(self, theta: Any, rows: Any) -> Any:
        self.calls.append(1)
        gap = rows["y"] - np.exp(theta[0] + theta[1] * rows["x"])
        return np.stack([gap, rows["x"] * gap, rows["z"] * gap], axis=1)


@pytest.fixture
def growth() -> Callable[..., gm.GMMEstimator]:
    rng = np.random.default_rng(5)
    x, z = rng.normal(size=(2, 40))
    y = np.exp(0.5 + 0.3 * x) + 0.2 * rng.normal(size=40)
    table = gm.Table.from_arrays({"x": x, "z": z + 0.3 * x, "y": y})

    def make(function: Any = None, **options: Any) -> gm.GMMEstimator:
        model = gm.MomentFunction(function or Growth([]), names=["a", "b"])
        return gm.GMMEstimator(model, table, **{"grad": "complex", **options})

    return make


def bits(result: GMMResults) -> tuple[object, ...]:
    """All that a result says, but how long it took."""
    return (
        result.theta.tobytes(),
        result.estimate.v.tobytes(),
        result.estimate.jacobian.tobytes(),
        result.estimate.s.matrix.tobytes(),
        result.criterion,
        result.notes,
        result.verdict(),
        result.certificate,
        replace(result.work, seconds=0.0, resumed=0),
    )


def frames(content: bytes) -> Iterator[int]:
    """Where the first frame ends, then each record."""
    at = len(MARK)
    while at < len(content):
        at += 24 + struct.unpack_from("<Q", content, at + 8)[0]
        yield at


def passes_of(content: bytes) -> int:
    """Evaluations that a whole journal tells of; the second half of one is none of its own."""
    ends = list(frames(content))
    kinds = [Record.from_bytes(content[a + 24 : b]).head["what"] for a, b in itertools.pairwise(ends)]
    return sum(not kind.startswith("pullback") for kind in kinds)


def require_same_from_every_cut(estimator: gm.GMMEstimator, folder: Path, cuts: int | None = None) -> None:
    """Cut the journal of a fit after each record (or so many of them) and somewhere in the next one."""
    path = folder / "journal"
    plain = estimator.fit()
    kept = estimator.fit(journal=path)
    content = path.read_bytes()
    ends = list(frames(content))
    assert ends[-1] == len(content)
    assert len(ends) > 10, "there are evaluations to be killed at"
    assert bits(kept) == bits(plain)
    assert kept.work.resumed == 0
    assert passes_of(content) == kept.work.evaluations
    rng = np.random.default_rng(0)
    chosen = ends if cuts is None else [ends[i] for i in np.linspace(0, len(ends) - 1, cuts).astype(int)]
    for end in reversed(chosen):
        torn = int(rng.integers(0, min(200, len(content) - end) + 1))
        path.write_bytes(content[: end + torn])
        again = estimator.fit(journal=path)
        assert bits(again) == bits(plain), end
        assert path.read_bytes() == content
        assert again.work.resumed >= passes_of(content[:end])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed_at_every_evaluation_a_fit_ends_with_the_same_bits(
    growth: Callable[..., gm.GMMEstimator], optimizer: str, tmp_path: Path
) -> None:
    maxiter = None if optimizer == "lsq" else 6
    require_same_from_every_cut(growth(optimizer=optimizer, steps="onestep", maxiter=maxiter), tmp_path)


@pytest.mark.parametrize(
    ("steps", "options", "cuts"),
    [
        ("twostep", {}, None),
        ("twostep", {"starts": 3}, 12),
        ("iterated", {"optimizer": "bfgs"}, 8),
        ("cue", {"starts": 2}, 8),
        ("cue", {"optimizer": "lbfgsb", "starts": 2}, 8),
        ("twostep", {"grad": "fd", "bounds": {"a": (0.6, 2.0)}}, 12),
        ("twostep", {"grad": "forward", "weighting": "kernel", "fixed": {"b": 0.3}}, 12),
        ("twostep", {"grad": "jax", "centred": True}, 3),
    ],
)
def test_and_so_it_does_with_any_steps_starts_engines_and_weights(
    growth: Callable[..., gm.GMMEstimator],
    steps: str,
    options: dict[str, Any],
    cuts: int | None,
    tmp_path: Path,
) -> None:
    require_same_from_every_cut(growth(steps=steps, **options), tmp_path, cuts)


@pytest.mark.parametrize("weighting", ["robust", "unadjusted"])
@pytest.mark.parametrize("grad", ["auto", "forward"])
def test_a_logit_goes_on_from_a_journal(weighting: str, grad: str, tmp_path: Path) -> None:
    data = simulate_logit(sets=60, alternatives=(2, 4), features=2, moments=3, seed=3).data
    estimator = gm.GMMEstimator(gm.Logit(), data, weighting=weighting, grad=grad, optimizer="lbfgsb")
    require_same_from_every_cut(estimator, tmp_path, cuts=8)


def test_a_start_that_fails_fails_again_from_the_journal(tmp_path: Path) -> None:
    """One of two starts is where moments are not finite: the fit reports the other."""
    table = gm.Table.from_arrays({"y": np.array([1.0, 2.0, 6.0, 3.0])})
    model = gm.MomentFunction(
        lambda theta, rows: np.log(theta[0]) - np.log(rows["y"])[:, None], names=["m"], start=[2.0]
    )
    with np.errstate(invalid="ignore"):
        estimator = gm.GMMEstimator(model, table, starts=[[-1.0]], steps="onestep")
        assert estimator.fit().work.starts == 2
        path = tmp_path / "journal"
        plain = estimator.fit(journal=path)
        again = estimator.fit(journal=path)
    assert bits(again) == bits(plain)
    assert again.work.resumed == again.work.evaluations


def test_what_is_in_the_journal_is_not_computed_again_but_once_for_each_kind(
    growth: Callable[..., gm.GMMEstimator], tmp_path: Path
) -> None:
    function = Growth([])
    estimator = growth(function, steps="iterated")
    estimator.fit(journal=tmp_path / "journal")
    first = len(function.calls)
    result = estimator.fit(journal=tmp_path / "journal")
    assert result.work.resumed == result.work.evaluations > 50
    assert len(function.calls) - first < first / 5


def test_threads_may_go_on_from_what_one_thread_began(
    growth: Callable[..., gm.GMMEstimator], tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    plain = growth(executor="serial").fit(journal=path)
    content = path.read_bytes()
    ends = list(frames(content))
    path.write_bytes(content[: ends[len(ends) // 2]])
    assert bits(growth(executor="threads").fit(journal=path)) == bits(plain)


# --- other runs ---------------------------------------------------------------------------------------


def test_a_journal_of_another_fit_is_refused_with_what_differs(
    growth: Callable[..., gm.GMMEstimator], tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    growth().fit(journal=path)
    for options, said in (
        ({"optimizer": "bfgs"}, "optimizer was 'lsq', and is 'bfgs' now"),
        (
            {"maxiter": 7, "se": "efficient"},
            "se was 'sandwich', and is 'efficient' now, maxiter was None, and is",
        ),
        ({"fixed": {"a": 0.5}}, "fixed was None, and is {'a': 0.5} now"),
        ({"starts": [[0.5, 0.25]]}, r"starts was None, and is \[\[0.5, 0.25\]\] now"),
    ):
        with pytest.raises(gm.FileError, match=f"E509 this journal is of another run: {said}"):
            growth(**options).fit(journal=path)
    with pytest.raises(gm.FileError, match=r"E509 .*: start was \[0.0, 0.0\], and is \[0.5, 0.0\] now"):
        growth().fit(start={"a": 0.5}, journal=path)


def test_a_journal_of_other_data_is_refused(growth: Callable[..., gm.GMMEstimator], tmp_path: Path) -> None:
    path = tmp_path / "journal"
    estimator = growth()
    estimator.fit(journal=path)
    rows = estimator.data.rows(0, 40)
    columns = {name: np.array(rows[name]) for name in ("x", "z", "y")}
    columns["y"][7] = np.nextafter(columns["y"][7], 9.0)
    other = replace(estimator, data=gm.Table.from_arrays(columns))
    with pytest.raises(gm.FileError, match=r"E509 this journal is of another run: data was [0-9a-f]+"):
        other.fit(journal=path)


def test_a_journal_of_another_machine_is_refused(
    growth: Callable[..., gm.GMMEstimator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    growth().fit(journal=path)
    here = estimators.surroundings()
    monkeypatch.setattr(estimators, "surroundings", lambda: {**here, "numpy": "9.0", "processor": "abacus"})
    with pytest.raises(gm.FileError, match=f"numpy was {np.__version__}, and is 9.0 now, processor was"):
        growth().fit(journal=path)


def test_another_function_of_the_same_name_is_refused_by_its_code(
    growth: Callable[..., gm.GMMEstimator], tmp_path: Path
) -> None:
    def named(power: int) -> Callable[..., Any]:
        source = f"""
def mine(theta, rows):
    scale = lambda gap: gap * {power}
    gap = scale(rows["y"] - theta[0] - theta[1] * rows["x"])
    return np.stack([gap, rows["x"] * gap, rows["z"] * gap], axis=1) if "a" in {{"a", "b"}} else None
"""
        space: dict[str, Any] = {"np": np}
        exec(source, space)
        return space["mine"]  # type: ignore[no-any-return]

    path = tmp_path / "journal"
    plain = growth(named(1)).fit(journal=path)
    assert growth(named(1)).fit(journal=path).work.resumed == plain.work.evaluations
    with pytest.raises(
        gm.FileError, match=r"E509 .*: model.function was mine \w{12}, and is mine \w{12} now"
    ):
        growth(named(2)).fit(journal=path)


def test_a_moment_function_that_was_changed_is_found_by_its_bits(
    growth: Callable[..., gm.GMMEstimator], tmp_path: Path
) -> None:
    """Neither its name nor anything else that can be compared tells the two apart."""

    class Changed(Growth):
        def __call__(self, theta: Any, rows: Any) -> Any:
            return Growth.__call__(self, theta, rows) * (1.0 + 2**-50)

    Changed.__qualname__ = Growth.__qualname__
    path = tmp_path / "journal"
    growth().fit(journal=path)
    with pytest.raises(gm.FileError, match=r"E509 .* has other bits now: the model, the data or the machine"):
        growth(Changed([])).fit(journal=path)


def test_a_path_that_parts_from_the_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def walk(*points: float) -> list[float]:
        with Journal(path, {}) as journal:
            passes = Passes(journal)
            return [passes.answer("square", [np.array(x)], lambda x=x: x * x) for x in points]

    assert walk(1.0, 2.0) == [1.0, 4.0]
    assert walk(1.0, 2.0, 3.0) == [1.0, 4.0, 9.0]
    with pytest.raises(
        gm.FileError, match=r"E509 .* at its evaluation 2 it is a pass for square, and square"
    ):
        walk(1.0, 2.5)


# --- answers ------------------------------------------------------------------------------------------


def test_answers_come_back_as_they_were_made(tmp_path: Path) -> None:
    answers = (
        np.arange(6.0).reshape(2, 3).T,
        np.float64(0.1),
        0.1,
        (np.array([np.inf, -0.0]), None),
        [np.zeros((0, 3)), [np.ones(1)]],
    )
    for _ in range(2):
        with Journal(tmp_path / "journal", {}) as journal:
            passes = Passes(journal)
            for number, answer in enumerate(answers):
                back = passes.answer(f"kind {number % 2}", [], lambda answer=answer: answer)
                assert repr(back) == repr(answer)
                assert type(back) is type(answer)
    assert passes.resumed == len(answers)


def test_large_answers_and_other_objects_are_made_again_and_compared(tmp_path: Path) -> None:
    large = np.zeros(LARGEST // 8 + 1)
    answers: list[Any] = [large, {"any": "thing"}, large, large]
    calls: list[int] = []

    def walk(answers: list[Any]) -> None:
        with Journal(tmp_path / "journal", {}) as journal:
            passes = Passes(journal)
            for answer in answers:
                assert passes.answer("rows", [], lambda a=answer: calls.append(1) or a) is answer

    walk(answers)
    assert (tmp_path / "journal").stat().st_size < 2000
    walk(answers)
    assert len(calls) == 8
    with pytest.raises(gm.FileError, match=r"E509 .* at its evaluation 4 rows has other bits now"):
        walk([*answers[:3], large + 1.0])
