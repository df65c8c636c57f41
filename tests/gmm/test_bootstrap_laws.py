"""The bootstrap: draws are frequencies, bits depend on the seed alone, and distributions are the right ones."""

from __future__ import annotations

import json
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gmmest as gm
from gmmest.execution.serial import Serial
from gmmest.execution.threads import Threads
from gmmest.gmm.resampling import MULTIPLIERS, Refit, distribution, generator, pairs_counts, repeated

FIT = 1e-12
"""Relative: one Newton search, two orders of summation."""
DENSE = 1e-10
"""Relative: dense formulas invert matrices."""

N = 240
COLUMNS = ["y", "x", "z1", "z2", "z3"]
MODEL = gm.LinearIV("y", exogenous=["z1"], endogenous=["x"], instruments=["z2", "z3"])
JUST = gm.LinearIV("y", exogenous=["z1"], endogenous=["x"], instruments=["z2"])


def regression(n: int = N, seed: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 5)), columns=["z1", "z2", "z3", "u", "v"])
    frame["x"] = frame["z2"] + 0.8 * frame["z3"] + frame["v"] + 0.5 * frame["u"]
    frame["firm"] = rng.integers(0, 40, n)
    common = rng.normal(size=40)[frame["firm"]]
    frame["y"] = 1 + 0.5 * frame["x"] - 0.3 * frame["z1"] + frame["u"] + 0.4 * common
    frame["f"] = rng.integers(1, 4, n)
    frame["w"] = rng.uniform(0.5, 2.0, n)
    return frame


FRAME = regression()


def table(frame: pd.DataFrame = FRAME, **roles: object) -> gm.Table:
    return gm.Table.from_frame(frame, COLUMNS, **roles)


def fitted(model=MODEL, data=None, **options) -> gm.GMMResults:
    result = gm.GMMEstimator(model, table() if data is None else data, **options).fit()
    assert result.verified
    return result


def choices(n: int = 120, seed: int = 7) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"case": np.repeat(np.arange(n), 3), "alt": np.tile([0, 1, 2], n)})
    for name in "abc":
        frame[name] = rng.normal(size=3 * n)
    frame["c"] += 0.5 * frame["a"]
    utility = (frame["a"] - frame["b"] + rng.gumbel(size=3 * n)).to_numpy().reshape(n, 3)
    frame["y"] = (utility == utility.max(axis=1, keepdims=True)).ravel().astype(int)
    return frame


def sets(frame: pd.DataFrame) -> gm.ChoiceData:
    return gm.ChoiceData.from_frame(frame, case="case", alternative="alt", chosen="y")


# --- draws are frequencies ------------------------------------------------------------------------------


def counts_of(result: gm.GMMResults, seed: int, index: int) -> np.ndarray:
    return pairs_counts(result.context.sample, generator(seed, index))


def test_a_replication_of_rows_is_the_fit_of_rows_physically_repeated() -> None:
    result = fitted(JUST)
    found = result.bootstrap(9, seed=3)
    for index in range(9):
        counts = counts_of(result, 3, index)
        assert counts.sum() == N
        again = fitted(JUST, table(FRAME.loc[np.repeat(FRAME.index, counts)]))
        np.testing.assert_allclose(found.draws[index], again.theta, rtol=FIT)
        np.testing.assert_allclose(found.draw_errors[index], again.standard_errors, rtol=1e-10)


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        ("onestep", {}),
        ("twostep", {}),
        ("iterated", {}),
        ("cue", {}),
        ("cue", {"centred": True}),
        ("cue", {"small_sample": True}),
        ("cue", {"weighting": "unadjusted"}),
    ],
)
def test_a_replication_of_choice_sets_is_the_fit_of_sets_physically_repeated(steps: str, options) -> None:
    frame = choices()
    model = gm.Logit(["a", "b"], instruments=["a", "b", "c"])
    result = fitted(model, sets(frame), steps=steps, **options)
    found = result.bootstrap(3, seed=1, recentre=False)
    for index in range(3):
        counts = counts_of(result, 1, index)
        pieces = [
            frame[np.repeat(counts > k, 3)].assign(case=lambda piece, k=k: piece["case"] + 10_000 * k)
            for k in range(counts.max())
        ]
        again = fitted(model, sets(pd.concat(pieces, ignore_index=True)), steps=steps, **options)
        np.testing.assert_allclose(found.draws[index], again.theta, rtol=1e-7)
        np.testing.assert_allclose(found.draw_errors[index], again.standard_errors, rtol=1e-6)
        if steps != "onestep":
            np.testing.assert_allclose(found.j_draws[index], again.j_test().stat, rtol=1e-6)


def test_a_replication_takes_no_more_steps_than_the_fit_may() -> None:
    taken = fitted(steps="iterated").work.steps
    assert fitted(steps="iterated", max_steps=2 * taken).bootstrap(8, seed=1).failures == ()
    with pytest.raises(gm.EstimationError, match=f"{taken} steps, and the last one still moved") as caught:
        fitted(steps="iterated", max_steps=taken).bootstrap(8, seed=1)
    assert caught.value.codes == ("E440",)


def test_an_entry_with_frequency_stands_for_so_many_observations() -> None:
    data = table(FRAME.assign(y=FRAME["y"].round(1)), frequency="f")
    sample = JUST.sample(data)
    counts = np.mean([pairs_counts(sample, generator(0, b)) for b in range(400)], axis=0)
    assert pairs_counts(sample, generator(0, 0)).sum() == sample.n_obs == FRAME["f"].sum()
    deviations = (counts - FRAME["f"]) / np.sqrt(FRAME["f"] / 400)
    assert abs(deviations.mean()) < 4 / np.sqrt(N)
    assert deviations.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * N))


def test_blocks_change_no_replication() -> None:
    class Cut(gm.LinearIV):
        def sample(self, data, restriction=None):
            whole = super().sample(data, restriction)
            block = whole.blocks[0]
            seen = whole.observations
            pieces = [np.arange(a, b) for a, b in ((0, 50), (50, 51), (51, N))]
            return replace(
                whole,
                blocks=tuple(block.entries_at(p, seen.take(p)) for p in pieces),
                counts=tuple(seen.count(N, p[0], p[-1] + 1) for p in pieces),
            )

    cut = Cut("y", exogenous=["z1"], endogenous=["x"], instruments=["z2", "z3"])
    for roles in ({}, {"weight": "w"}, {"frequency": "f"}):
        one = fitted(MODEL, table(**roles)).bootstrap(4, seed=2)
        many = fitted(cut, table(**roles)).bootstrap(4, seed=2)
        np.testing.assert_allclose(one.draws, many.draws, rtol=1e-9)
        np.testing.assert_allclose(one.draw_errors, many.draw_errors, rtol=1e-9)


# --- an independent oracle --------------------------------------------------------------------------------


def dense_two_step(X, Z, y, counts, theta0, centre):
    """Two-step GMM of rows with counts, moments less ``centre``, in plain dense algebra."""
    n = counts.sum()
    A, b = Z.T @ (counts[:, None] * X) / n, Z.T @ (counts * y) / n - centre
    W = np.linalg.inv(Z.T @ (counts[:, None] * Z) / n)
    for _ in range(2):
        theta = np.linalg.solve(A.T @ W @ A, A.T @ W @ b)
        g = Z * (y - X @ theta)[:, None] - centre
        S = g.T @ (counts[:, None] * g) / n
        used, W = W, np.linalg.inv(S)
    bread = np.linalg.inv(A.T @ used @ A) @ A.T @ used
    gap = b - A @ theta
    return theta, np.sqrt(np.diag(bread @ S @ bread.T) / n), n * gap @ used @ gap


@pytest.mark.parametrize("recentre", [True, False])
def test_pairs_agree_with_dense_formulas_for_the_same_counts(recentre: bool) -> None:
    result = fitted()
    found = result.bootstrap(20, seed=8, recentre=recentre)
    one = np.ones(N)
    X = np.column_stack([FRAME["z1"], FRAME["x"], one])
    Z = np.column_stack([FRAME["z1"], FRAME["z2"], FRAME["z3"], one])
    y = FRAME["y"].to_numpy()
    centre = Z.T @ (y - X @ result.theta) / N if recentre else np.zeros(4)
    for index in range(20):
        counts = counts_of(result, 8, index)
        theta, errors, j = dense_two_step(X, Z, y, counts, result.theta, centre)
        np.testing.assert_allclose(found.draws[index], theta, rtol=DENSE)
        np.testing.assert_allclose(found.draw_errors[index], errors, rtol=DENSE)
        np.testing.assert_allclose(found.j_draws[index], j, rtol=DENSE, atol=DENSE)


@pytest.mark.parametrize("steps", ["twostep", "cue"])
def test_a_cluster_drawn_twice_is_two_clusters(steps: str) -> None:
    frame = FRAME.assign(year=np.arange(N) % 7)
    options = {"weighting": "cluster", "cluster": "firm", "steps": steps}
    result = fitted(MODEL, table(frame, cluster=["firm", "year"]), **options)
    found = result.bootstrap(6, "cluster", seed=4)
    assert found.clusters == ("firm", result.as_dict()["clusters"]["firm"])
    plain = result.bootstrap(6, "cluster", seed=4, recentre=False)
    codes = result.context.sample.observations.clusters[0].codes
    groups = codes.max() + 1
    for index in range(6):
        drawn = generator(4, index).integers(0, groups, groups)
        assert len(set(drawn)) < groups
        physical = pd.concat([frame[codes == c].assign(firm=k) for k, c in enumerate(drawn)])
        again = fitted(MODEL, table(physical, cluster="firm"), weighting="cluster", steps=steps)
        np.testing.assert_allclose(plain.draws[index], again.theta, rtol=1e-9)
        np.testing.assert_allclose(plain.draw_errors[index], again.standard_errors, rtol=1e-9)
    assert not np.allclose(plain.draws, found.draws, rtol=1e-9)


# --- bits -------------------------------------------------------------------------------------------------


def same(a, b) -> bool:
    arrays = ("draws", "draw_errors", "j_draws")
    return all(
        np.array_equal(x, y, equal_nan=True)
        for x, y in ((getattr(a, n), getattr(b, n)) for n in arrays)
        if x is not None
    )


@pytest.mark.parametrize("kind", ["pairs", "cluster", "wild"])
def test_executors_and_interruptions_change_no_bit(kind: str, tmp_path: Path) -> None:
    result = fitted(MODEL, table(cluster="firm"))
    once = result.bootstrap(24, kind, seed=6)
    assert same(once, result.bootstrap(24, kind, seed=6, executor=Threads(3)))
    assert not np.array_equal(once.draws, result.bootstrap(24, kind, seed=7).draws)

    path = tmp_path / "replications"
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        result.bootstrap(24, kind, seed=6, path=path, watch=stop)
    assert 0 < seen[-1] < 24
    whole = path.read_bytes()
    for lost in (0, 1, 100):  # bytes that a crash takes from the end
        path.write_bytes(whole[: len(whole) - lost])
        went_on = result.bootstrap(24, kind, seed=6, path=path, resume=True, executor=Threads(2))
        assert same(once, went_on)
        assert (lost > 0) == any("were cut" in note for note in went_on.notes)


def test_an_executor_that_is_given_is_the_one_that_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of the fit are gone with it, and threads map in their place; workers that are asked for are opened."""
    opened_for: list[int] = []

    class Workers:
        closed = True

        def open(self):
            opened_for.append(1)
            return nullcontext(Serial())

        def map(self, function, items):
            raise AssertionError("not opened")

    result = fitted()
    assert same(result.bootstrap(6, seed=2), result.bootstrap(6, seed=2, executor=Workers()))
    assert opened_for == [1]
    by_workers = fitted(executor=Workers())
    assert opened_for == [1, 1]
    assert same(result.bootstrap(6, seed=2), by_workers.bootstrap(6, seed=2))
    assert opened_for == [1, 1]


def test_more_replications_begin_with_those_that_are_there(tmp_path: Path) -> None:
    result, path = fitted(), tmp_path / "replications"
    few = result.bootstrap(10, seed=1, path=path)
    calls: list[int] = []
    many = result.bootstrap(30, seed=1, path=path, resume=True, watch=lambda done, total: calls.append(done))
    assert calls[0] == 10
    np.testing.assert_array_equal(many.draws[:10], few.draws)
    again = result.bootstrap(10, seed=1, path=path, resume=True)
    np.testing.assert_array_equal(again.draws, few.draws)


def test_the_file_of_another_bootstrap_is_refused(tmp_path: Path) -> None:
    result, path = fitted(), tmp_path / "replications"
    result.bootstrap(4, seed=1, path=path)
    with pytest.raises(gm.FileError) as caught:
        result.bootstrap(4, seed=1, path=path)
    assert caught.value.codes == ("E508",)
    other_data = fitted(MODEL, table(FRAME.assign(y=FRAME["y"] + 0.1)))
    others = [
        (result, {"seed": 2}),
        (result, {"seed": 1, "recentre": False}),
        (fitted(steps="onestep"), {"seed": 1}),
        (replace(result, settings=replace(result.settings, max_steps=50)), {"seed": 1}),
        (other_data, {"seed": 1}),
        (fitted(se="efficient"), {"seed": 1}),
    ]
    for other, options in others:
        with pytest.raises(gm.FileError, match="another run") as caught:
            other.bootstrap(4, path=path, resume=True, **options)
        assert caught.value.codes == ("E509",)


def test_replications_of_one_sample_may_be_made_by_many_threads_at_once() -> None:
    result = fitted()
    expected = result.bootstrap(12, seed=9)
    found: list = []
    threads = [threading.Thread(target=lambda: found.append(result.bootstrap(12, seed=9))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(same(expected, each) for each in found)


# --- distributions ----------------------------------------------------------------------------------------


B = 250
WELL = regression(600, seed=12)


@pytest.mark.parametrize(
    ("kind", "weighting"),
    [
        ("pairs", "robust"),
        ("cluster", "cluster"),
        ("wild", "robust"),
        ("wild", "cluster"),
    ],
)
def test_standard_errors_are_those_of_the_sandwich(kind: str, weighting: str) -> None:
    # the standard deviation of B normal draws has a relative standard error of (2B)^(-1/2); the bootstrap of 40
    # clusters, or of ratios, differs from the sandwich in higher order as well
    higher = 0.02 if weighting == "robust" else 0.08
    result = fitted(MODEL, table(WELL, cluster="firm"), weighting=weighting)
    found = result.bootstrap(B, kind, seed=2)
    ratio = found.standard_errors / result.standard_errors
    np.testing.assert_allclose(ratio, 1.0, atol=4 / np.sqrt(2 * B) + higher)
    centre = (found.draws.mean(axis=0) - result.theta) / result.standard_errors
    np.testing.assert_allclose(centre, 0.0, atol=4 / np.sqrt(B) + 0.1)


def test_j_of_recentred_replications_is_chi_squared_and_otherwise_too_large() -> None:
    frame = WELL.assign(y=WELL["y"] + 0.3 * WELL["z3"])  # moments that do not hold in this sample
    result = fitted(MODEL, table(frame))
    assert result.j_test().stat > 4
    df = result.j_test().df
    right = result.bootstrap(B, seed=3)
    wrong = result.bootstrap(B, seed=3, recentre=False)
    assert right.recentred
    assert not wrong.recentred
    error = np.sqrt(2 * df / B)
    assert abs(right.j_draws.mean() - df) < 4 * error + 0.1
    assert wrong.j_draws.mean() > df + 10 * error
    share = (1 + np.sum(right.j_draws >= right.j)) / (B + 1)
    assert right.j_pvalue == share
    assert right.j == pytest.approx(result.j_test().stat)
    with pytest.raises(gm.EstimationError, match="not recentred") as caught:
        _ = wrong.j_pvalue
    assert caught.value.codes == ("E440",)


def test_recentring_changes_nothing_where_moments_are_as_many_as_parameters() -> None:
    result = fitted(JUST)
    assert same(result.bootstrap(10, seed=1), result.bootstrap(10, seed=1, recentre=False))
    assert result.bootstrap(10, seed=1).j_draws is None


@pytest.mark.parametrize("roles", [{}, {"weight": "w"}, {"frequency": "f"}])
def test_wild_scores_have_the_sandwich_as_their_variance(roles: dict[str, str]) -> None:
    result = fitted(MODEL, table(**roles))
    found = result.bootstrap(B, "wild", seed=2)
    np.testing.assert_allclose(found.errors, result.standard_errors, rtol=1e-10)
    ratio = found.standard_errors / result.standard_errors
    np.testing.assert_allclose(ratio, 1.0, atol=4 / np.sqrt(2 * B))


def test_wild_scores_of_clusters_of_one_observation_are_those_of_observations() -> None:
    single = FRAME.assign(own=np.arange(N))
    apart = fitted(MODEL, table(single, cluster="own")).bootstrap(50, "wild", seed=1)
    together = fitted(MODEL, table(single, cluster="own")).bootstrap(50, "wild", seed=1, cluster="own")
    assert same(apart, together)


def test_wild_scores_agree_with_dense_formulas() -> None:
    result = fitted(MODEL, table(cluster="firm"), weighting="cluster")
    found = result.bootstrap(5, "wild", seed=3)
    one = np.ones(N)
    X = np.column_stack([FRAME["z1"], FRAME["x"], one])
    Z = np.column_stack([FRAME["z1"], FRAME["z2"], FRAME["z3"], one])
    g = Z * (FRAME["y"] - X @ result.theta).to_numpy()[:, None]
    G, W = -Z.T @ X / N, np.linalg.inv(result.estimate.weight.root @ result.estimate.weight.root.T)
    bread = -np.linalg.inv(G.T @ W @ G) @ G.T @ W
    codes = result.context.sample.observations.clusters[0].codes
    groups = codes.max() + 1
    for index in range(5):
        values, chances = distribution("rademacher")
        eta = values[generator(3, index).choice(2, size=groups, p=chances)]
        moved = eta[codes, None] * g
        star = moved.mean(axis=0)
        sums = np.stack([(moved - star)[codes == c].sum(axis=0) for c in range(groups)])
        v = bread @ (sums.T @ sums / N) @ bread.T / N
        np.testing.assert_allclose(found.draws[index] - result.theta, bread @ star, rtol=1e-8)
        np.testing.assert_allclose(found.draw_errors[index], np.sqrt(np.diag(v)), rtol=1e-8)


@pytest.mark.parametrize("multipliers", MULTIPLIERS)
def test_multipliers_have_mean_zero_and_variance_one(multipliers: str) -> None:
    values, chances = distribution(multipliers)
    assert chances.sum() == pytest.approx(1.0, abs=1e-15)
    assert values @ chances == pytest.approx(0.0, abs=1e-15)
    assert values**2 @ chances == pytest.approx(1.0, abs=1e-15)
    third = {"rademacher": 0.0, "mammen": 1.0, "webb": 0.0}[multipliers]
    assert values**3 @ chances == pytest.approx(third, abs=1e-14)


# --- what follows from draws ------------------------------------------------------------------------------


def test_intervals_are_order_statistics() -> None:
    result = fitted(JUST)
    found = result.bootstrap(39, seed=5)
    ordered = np.sort(found.draws, axis=0)
    np.testing.assert_allclose(found.interval(0.05, "percentile"), ordered[[0, 38]], rtol=1e-12)
    np.testing.assert_allclose(found.interval(0.05, "basic"), 2 * result.theta - ordered[[38, 0]], rtol=1e-12)
    t = np.sort((found.draws - result.theta) / found.draw_errors, axis=0)
    np.testing.assert_allclose(
        found.interval(0.05), result.theta - t[[38, 0]] * result.standard_errors, rtol=1e-12
    )
    normal = found.interval(0.05, "normal")
    np.testing.assert_allclose(normal.mean(axis=0), result.theta, rtol=1e-12)
    assert list(found.conf_int().columns) == ["lower", "upper"]
    with pytest.raises(gm.ConfigError, match="39 replications have no quantile"):
        found.interval(0.01)
    with pytest.raises(gm.ConfigError, match="method is 'bca'"):
        found.interval(0.05, "bca")


def test_too_few_replications_leave_intervals_blank_and_say_so() -> None:
    found = fitted(JUST).bootstrap(10, seed=5)
    assert [row[-2:] for row in found.table()[1]] == [["", ""]] * 3
    assert "10 replications are too few" in str(found.summary())
    assert json.loads(found.to_json())["percentile_t_95"]["lower"]["x"] is None


def test_p_values_count_replications_that_are_as_far_out() -> None:
    result = fitted(JUST)
    found = result.bootstrap(99, "wild", seed=5)
    t = np.abs(result.theta / result.standard_errors)
    expected = [(1 + np.sum(np.abs(found.t_draws[:, k]) >= t[k])) / 100 for k in range(3)]
    np.testing.assert_allclose(found.pvalues, expected, rtol=1e-12)


def test_fixed_and_tied_parameters_keep_what_holds_them() -> None:
    result = fitted(MODEL, fixed={"z1": -0.3}, tied={"const": "2*x"})
    for kind in ("pairs", "wild"):
        found = result.bootstrap(39, kind, seed=1)
        k = {name: found.names.index(name) for name in found.names}
        assert np.all(found.draws[:, k["z1"]] == -0.3)
        assert np.isnan(found.bse["z1"])
        assert np.isnan(found.conf_int().loc["z1"]).all()
        np.testing.assert_allclose(found.draws[:, k["const"]], 2 * found.draws[:, k["x"]], rtol=1e-14)
        np.testing.assert_allclose(
            found.draw_errors[:, k["const"]], 2 * found.draw_errors[:, k["x"]], rtol=1e-9
        )
        np.testing.assert_allclose(found.errors, result.standard_errors, rtol=1e-9)


def test_a_parameter_at_a_bound_stays_there_and_is_named() -> None:
    result = fitted(MODEL, bounds={"x": (0.9, None)}, optimizer="lbfgsb")
    assert result.params["x"] == 0.9
    found = result.bootstrap(10, seed=1)
    assert np.all(found.draws[:, found.names.index("x")] == 0.9)
    assert np.isnan(found.bse["x"])
    assert any(note.startswith("W442") for note in found.notes)


def test_every_engine_gives_the_same_replications() -> None:
    expected = fitted().bootstrap(2, seed=1)
    for grad in ("forward", "complex", "fd-central", "jax"):
        found = fitted(grad=grad).bootstrap(2, seed=1)
        np.testing.assert_allclose(found.draws, expected.draws, rtol=1e-6)
        np.testing.assert_allclose(found.draw_errors, expected.draw_errors, rtol=1e-5)
        assert (grad == "jax") == any("derivatives" in note for note in found.notes)


def test_any_moment_function_can_be_drawn_from() -> None:
    model = gm.MomentFunction(lambda theta, rows: (rows["y"] - theta[0])[:, None], names=["mu"])
    data = gm.Table.from_frame(FRAME, ["y"], weight="w")
    found = gm.GMMEstimator(model, data).fit().bootstrap(5, seed=2)
    sample = model.sample(data)
    for index in range(5):
        mass = pairs_counts(sample, generator(2, index)) * FRAME["w"]
        np.testing.assert_allclose(found.draws[index, 0], np.average(FRAME["y"], weights=mass), rtol=1e-12)


def test_the_record_says_what_it_is() -> None:
    found = fitted().bootstrap(45, seed=11)
    text = str(found.summary())
    for piece in ("bootstrap (pairs): 45 replications, none left out", "recentred", "percentile-t", "J test"):
        assert piece in text
    read = json.loads(found.to_json())
    assert found.facts()[0] == ("Fit", fitted().verdict())
    assert (read["n_obs"], read["clusters"], read["fit"]) == (fitted().n_obs, {}, fitted().verdict())
    assert read["seed"] == 11
    assert read["draws"] == found.draws.tolist()
    assert read["bse"] == dict(found.bse)
    assert read["j_pvalue"] == found.j_pvalue
    np.testing.assert_allclose(found.cov_params().to_numpy(), np.cov(found.draws.T), rtol=1e-10)
    for array in (found.draws, found.draw_errors):
        assert not array.flags.writeable


# --- what is left out and what is refused -----------------------------------------------------------------


def test_replications_without_an_estimate_are_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Refit.fit

    def sometimes(self, index, sample):
        if index in (5, 17):
            raise gm.EstimationError(gm.Complaint("E411", "moments m0 are not finite"))
        return own(self, index, sample)

    monkeypatch.setattr(Refit, "fit", sometimes)
    result = fitted()
    found = result.bootstrap(60, seed=1)
    assert [failure.index for failure in found.failures] == [5, 17]
    assert len(found.draws) == 58
    assert "2 replications left out" in found.verdict()
    assert any("W440" in note and "5, 17" in note and "not finite" in note for note in found.all_notes)
    with pytest.raises(gm.EstimationError, match="2 of the first") as caught:
        result.bootstrap(30, seed=1)
    assert caught.value.codes == ("E440",)


def test_separated_replications_are_failures() -> None:
    result = fitted(gm.Logit(["a", "b"]), sets(choices(10, seed=2)))
    found = result.bootstrap(60, seed=1)
    assert found.failures
    assert all(failure.reason.startswith("E201") for failure in found.failures)
    assert np.all(np.abs(found.draws) < 1e3)


def test_a_fit_that_is_not_verified_is_not_repeated() -> None:
    result = fitted()
    spoilt = replace(result, certificate=replace(result.certificate, reasons=("spoilt",)))
    with pytest.raises(gm.EstimationError, match="NOT VERIFIED: spoilt") as caught:
        spoilt.bootstrap(10)
    assert caught.value.codes == ("E440",)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"replications": 1}, "replications is 1"),
        ({"kind": "block"}, "kind is 'block'; expected one of pairs, cluster, wild"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"multipliers": "normal"}, "multipliers is 'normal'"),
        ({"multipliers": "webb"}, "multipliers has no use with kind 'pairs'"),
        ({"kind": "wild", "recentre": False}, "recentre has no use with kind 'wild'"),
        ({"recentre": "no"}, "recentre is 'no'"),
        ({"resume": True}, "resume without a file"),
        ({"kind": "cluster"}, "one cluster column; the data name none"),
        ({"kind": "wild", "cluster": "firm"}, "the data name none, and firm was asked for"),
        ({"cluster": "firm"}, "draws observations one by one"),
        ({"executor": "cloud"}, "executor is 'cloud'"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(gm.ConfigError) as caught:
        fitted().bootstrap(**options)
    assert caught.value.codes == ("E102",)
    assert text in str(caught.value)


def test_draws_that_would_break_the_dependence_of_the_fit_are_refused() -> None:
    clustered = fitted(MODEL, table(cluster="firm"), weighting="cluster")
    with pytest.raises(gm.ConfigError, match="draws observations one by one"):
        clustered.bootstrap(10, "pairs")
    lagged = fitted(MODEL, weighting="kernel", bandwidth=2)
    for kind in ("pairs", "wild"):
        with pytest.raises(gm.ConfigError, match="would not keep that dependence"):
            lagged.bootstrap(10, kind)
    absorbed = gm.GMMEstimator(
        gm.LinearIV("y", exogenous=["z1"], endogenous=["x"], instruments=["z2", "z3"], absorb="firm"),
        FRAME[[*COLUMNS, "firm"]],
    ).fit()
    with pytest.raises(gm.ConfigError, match="absorbed effects"):
        absorbed.bootstrap(10)
    assert len(absorbed.bootstrap(10, "wild").draws) == 10


def test_blocks_that_cannot_be_drawn_from_are_refused_by_name() -> None:
    class Opaque:
        def __init__(self, block):
            self.block = block

    class Odd(gm.LinearIV):
        def sample(self, data, restriction=None):
            whole = super().sample(data, restriction)
            return replace(whole, blocks=tuple(Opaque(block) for block in whole.blocks))

        def contributions(self, theta, block):
            return super().contributions(theta, block.block)

        moment_sum = moment_sum_and_jacobian = moment_sum_and_vjp = None
        instrument_product_sum = None

    odd = Odd("y", exogenous=["z1"], endogenous=["x"], instruments=["z2"])
    result = fitted(odd, grad="forward")
    with pytest.raises(gm.ConfigError, match="blocks of type Opaque"):
        result.bootstrap(10)
    assert len(result.bootstrap(10, "wild").draws) == 10


def test_few_clusters_and_two_point_multipliers_are_noted() -> None:
    few = FRAME.assign(firm=FRAME["firm"] % 6)
    result = gm.GMMEstimator(JUST, table(few, cluster="firm"), weighting="cluster").fit()
    assert any("W441" in note for note in result.bootstrap(19, "wild").notes)
    assert not result.bootstrap(19, "wild", multipliers="webb").notes


def test_counts_take_the_place_of_frequencies() -> None:
    sample = JUST.sample(table(frequency="f"))
    counts = np.zeros(N, dtype=np.int64)
    counts[[3, 70, 71]] = [2, 1, 5]
    drawn = repeated(sample, counts)
    assert drawn.n_obs == 8
    np.testing.assert_array_equal(drawn.observations.frequency, [2.0, 1.0, 5.0])
    np.testing.assert_array_equal(drawn.blocks[0].weight, [2.0, 1.0, 5.0])
    np.testing.assert_array_equal(drawn.blocks[0].y, FRAME["y"].to_numpy()[[3, 70, 71]])
