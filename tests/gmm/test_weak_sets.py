"""S and K statistics and the sets they make: closed forms, all shapes, laws, coverage under weak identification."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

import gmmest as gm
from gmmest.gmm.weak import level_set

EXACT = 1e-8
"""Boundaries come from Brent's method at 1e-12 of a standard error and the quadratic formula."""


def regression(instruments: int) -> gm.LinearIV:
    names = [f"z{k}" for k in range(instruments)]
    return gm.LinearIV("y", endogenous=["x"], instruments=names, constant=False)


def table(strength: float, seed: int, n: int = 200, instruments: int = 1, invalid: float = 0.0) -> gm.Table:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, instruments))
    u, e = rng.normal(size=(2, n))
    x = z @ np.full(instruments, strength) + 0.8 * u + 0.6 * e
    y = 0.5 * x + u + (invalid * z[:, 0] - invalid * z[:, -1] if instruments > 1 else 0.0)
    return gm.Table.from_arrays({"y": y, "x": x, **{f"z{k}": z[:, k] for k in range(instruments)}})


def quadratic_set(a: float, b: float, c: float) -> list[tuple[float, float]]:
    """``a v^2 + b v + c <= 0``."""
    inside = b * b - 4 * a * c
    if inside < 0:
        return [] if a > 0 else [(-np.inf, np.inf)]
    low, high = sorted(np.roots([a, b, c]).real)
    return [(low, high)] if a > 0 else [(-np.inf, low), (high, np.inf)]


def anderson_rubin(data: gm.Table, weighting: str, instruments: int) -> list[tuple[float, float]]:
    y, x = data.column("y"), data.column("x")
    Z = np.column_stack([data.column(f"z{k}") for k in range(instruments)])
    critical = chi2.ppf(0.95, instruments)
    if weighting == "robust":
        assert instruments == 1
        z = Z[:, 0]

        def form(p, q):
            return (z @ p) * (z @ q) - critical * (z**2 @ (p * q))

    else:
        P = Z @ np.linalg.solve(Z.T @ Z, Z.T)

        def form(p, q):
            return p @ P @ q - critical / len(y) * (p @ q)

    return quadratic_set(form(x, x), -2 * form(x, y), form(y, y))


def with_shape(shape: str, weighting: str, instruments: int) -> gm.Table:
    """A sample whose closed-form set has the shape, by search over seeds: the premise of the test."""
    strength, invalid = {"bounded": (0.8, 0.0), "empty": (0.8, 1.0)}.get(shape, (0.1, 0.0))
    for seed in range(400):
        data = table(strength, seed, instruments=instruments, invalid=invalid)
        found = anderson_rubin(data, weighting, instruments)
        kind = (
            "empty" if not found else "disjoint" if len(found) == 2
            else "bounded" if np.isfinite(found[0][0]) else "unbounded"
        )  # fmt: skip
        if kind == shape:
            return data
    raise AssertionError(f"no sample with a set that is {shape}")


@pytest.mark.parametrize(
    ("shape", "weighting", "instruments"),
    [
        ("bounded", "robust", 1),
        ("disjoint", "robust", 1),
        ("unbounded", "robust", 1),
        ("bounded", "unadjusted", 2),
        ("disjoint", "unadjusted", 2),
        ("unbounded", "unadjusted", 2),
        ("empty", "unadjusted", 2),
    ],
)
def test_s_sets_are_those_of_anderson_and_rubin(shape, weighting, instruments):
    data = with_shape(shape, weighting, instruments)
    fit = gm.GMMEstimator(regression(instruments), data, weighting=weighting).fit()
    found = fit.confidence_set("x")
    expected = anderson_rubin(data, weighting, instruments)
    assert found.shape == shape
    assert np.allclose(np.array(found.intervals).ravel(), np.array(expected).ravel(), rtol=EXACT, atol=EXACT)
    assert found.bounded == (shape in ("bounded", "empty"))
    assert (fit.params["x"] in found) == (shape != "empty")
    assert shape in str(found)


def test_ends_are_where_the_test_is_at_its_level():
    fit = gm.GMMEstimator(regression(3), table(0.4, 1, instruments=3)).fit()
    for alpha in (0.01, 0.1):
        found = fit.confidence_set("x", alpha=alpha)
        for end in np.ravel(found.intervals):
            assert fit.s_test({"x": end}).pvalue == pytest.approx(alpha, rel=1e-7)


def test_sets_shrink_with_the_level_and_move_with_units():
    data = table(0.5, 3, instruments=2)
    fit = gm.GMMEstimator(regression(2), data).fit()
    (low, high), (lower, higher) = (fit.confidence_set("x", alpha=a).intervals[0] for a in (0.1, 0.01))
    assert lower < low < high < higher
    columns = {name: data.column(name) for name in ("y", "x", "z0", "z1")}
    columns["x"] = 1024.0 * columns["x"]
    scaled = gm.GMMEstimator(regression(2), gm.Table.from_arrays(columns)).fit()
    assert np.allclose(
        1024.0 * np.array(scaled.confidence_set("x", alpha=0.1).intervals), [[low, high]], rtol=1e-9
    )


# --- K -------------------------------------------------------------------------------------------------------


def curved(theta, rows):
    e = rows["y"] - np.exp(theta[0] * rows["x"])
    return np.stack([e * rows["x"], e * rows["z"], e], axis=1)


@pytest.fixture(scope="module")
def exponential() -> gm.GMMResults:
    rng = np.random.default_rng(4)
    x, z = rng.normal(size=(2, 500))
    rows = gm.Table.from_arrays(
        {"x": x, "z": x**2 + z, "y": np.exp(0.4 * x) + rng.normal(size=500) * (1 + x**2) / 2}
    )
    return gm.GMMEstimator(gm.MomentFunction(curved, names=["b"]), rows).fit()


def test_k_vanishes_at_the_continuously_updated_estimate(exponential):
    """K is the squared gradient of S in its own metric."""
    around = exponential.theta[0] + np.array([-1.0, 1.0]) * exponential.standard_errors[0]
    cue = minimize_scalar(
        lambda b: exponential.s_test({"b": b}).stat,
        bounds=tuple(around),
        method="bounded",
        options={"xatol": 1e-12},
    ).x
    there = exponential.k_test([cue])
    assert there.stat < 1e-8
    assert exponential.k_test([cue + exponential.standard_errors[0]]).stat == pytest.approx(1.0, abs=0.3)


def test_k_is_a_part_of_s(exponential):
    for b in (0.2, 0.4, 0.6):
        found = exponential.k_test({"b": b})
        assert found.s_stat == pytest.approx(found.stat + found.rest, rel=1e-12)
        assert found.df == 1
        # centred and not: S_c = S_u / (1 - S_u / N)
        s = exponential.s_test({"b": b}).stat
        assert found.s_stat == pytest.approx(s / (1 - s / 500), rel=1e-9)


def test_k_sets_hold_the_wald_interval_where_identification_is_strong(exponential):
    found = exponential.confidence_set("b", statistic="K")
    low, high = exponential.conf_int().loc["b"]
    nearest = min(found.intervals, key=lambda i: abs(i[0] - low))
    assert np.allclose(nearest, (low, high), atol=0.5 * exponential.bse["b"])


def test_just_identified_k_is_s():
    fit = gm.GMMEstimator(regression(1), table(0.5, 9)).fit()
    found = fit.k_test([0.3])
    assert found.stat == pytest.approx(found.s_stat, rel=1e-12)
    assert found.rest == pytest.approx(0.0, abs=1e-10)


def dense_subset_k(fit: gm.GMMResults, value: float) -> tuple[float, float]:
    """K of x with x2 where S is least, each formula written out, by inverses; and that x2."""
    rows = fit.context.sample.whole().blocks[0]
    Z, y, X, n = rows.Z, rows.y, rows.X, len(rows.y)

    def centred(b):
        c = Z * (y - X @ b)[:, None]
        return c.mean(axis=0), c - c.mean(axis=0)

    def s(b2):
        g, c = centred(np.array([value, b2]))
        return g @ np.linalg.solve(c.T @ c, g)

    line = np.linspace(-20.0, 20.0, 4001)
    k = int(np.argmin([s(b) for b in line]))
    b2 = minimize_scalar(s, bounds=(line[k - 1], line[k + 1]), method="bounded", options={"xatol": 1e-11}).x
    g, c = centred(np.array([value, b2]))
    inverse = np.linalg.inv(c.T @ c / n)
    D = []
    for p in range(2):
        q = -Z * X[:, [p]]
        D.append(q.mean(axis=0) - (q - q.mean(axis=0)).T @ c / n @ inverse @ g)
    D = np.column_stack(D)
    slope = D.T @ inverse @ g
    return float(n * slope @ np.linalg.inv(D.T @ inverse @ D) @ slope), float(b2)


def weak_and_strong(seed: int, weak: float = 0.08, n: int = 250) -> gm.GMMResults:
    """x with instruments that say little, x2 with one that says much; truth 0.5 and 0.3."""
    rng = np.random.default_rng(seed)
    z, v = rng.normal(size=(n, 4)), rng.normal(size=(n, 2))
    x, x2 = z @ [weak, weak, weak, 0.0] + v[:, 0], z[:, 3] + v[:, 1]
    y = 0.5 * x + 0.3 * x2 + (0.8 * v[:, 0] + 0.3 * v[:, 1] + 0.5 * rng.normal(size=n)) * (1 + 0.3 * z[:, 1])
    columns = {"y": y, "x": x, "x2": x2, **{f"z{k}": z[:, k] for k in range(4)}}
    names = ["z0", "z1", "z2", "z3"]
    model = gm.LinearIV("y", endogenous=["x", "x2"], instruments=names, constant=False)
    return gm.GMMEstimator(model, gm.Table.from_arrays(columns), steps="onestep").fit()


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.0])
def test_k_of_some_parameters_is_kleibergens(value):
    fit = weak_and_strong(1)
    found = fit.k_test({"x": value}, nuisance="strong")
    stat, x2 = dense_subset_k(fit, value)
    assert found.theta == pytest.approx([value, x2], rel=1e-6)
    assert found.stat == pytest.approx(stat, rel=1e-6)
    assert found.df == 1
    assert found.s_stat == pytest.approx(found.stat + found.rest, rel=1e-6)  # the score of x2 is zero there
    whole = fit.k_test(found.theta)
    assert (whole.df, whole.stat) == (2, pytest.approx(found.stat, rel=1e-6))


def test_k_sets_of_one_parameter_among_others_end_where_the_test_begins_to_reject():
    """At its level, or where another minimum over x2 becomes the lowest and K jumps."""
    fit = weak_and_strong(2, weak=0.5)
    found = fit.confidence_set("x", statistic="K", nuisance="strong")
    assert (found.df, found.shape) == (1, "disjoint")
    for low, high in found.intervals:
        for end, inwards in ((low, 1.0), (high, -1.0)):
            inside, outside = (
                fit.k_test({"x": end + step}, nuisance="strong").pvalue
                for step in (1e-6 * inwards, -1e-6 * inwards)
            )
            assert outside < 0.05 < inside
    assert any(low <= fit.params["x"] <= high for low, high in found.intervals)


def test_k_of_some_parameters_has_its_size_however_weak_they_are():
    """120 draws at 5 %: 6 expected, standard deviation 2.4; a Wald test rejects far more often."""
    k = wald = 0
    for seed in range(120):
        fit = weak_and_strong(seed, weak=0.05)
        k += fit.k_test({"x": 0.5}, nuisance="strong").pvalue < 0.05
        wald += fit.wald_test("x = 0.5").pvalue < 0.05
    assert k <= 14
    assert wald >= 24


# --- other parameters ---------------------------------------------------------------------------------------------


def with_constant(seed: int) -> tuple[gm.LinearIV, gm.Table]:
    data = table(0.5, seed, instruments=2)
    return gm.LinearIV("y", endogenous=["x"], instruments=["z0", "z1"]), data


def test_linear_nuisance_is_partialled_out():
    """With unadjusted S the least S over a constant is Anderson and Rubin's of the demeaned columns."""
    model, data = with_constant(2)
    fit = gm.GMMEstimator(model, data, weighting="unadjusted").fit()
    found = fit.confidence_set("x", nuisance="strong")
    demeaned = {name: data.column(name) - data.column(name).mean() for name in ("y", "x", "z0", "z1")}
    expected = anderson_rubin(gm.Table.from_arrays(demeaned), "unadjusted", 2)
    assert found.df == 2
    assert np.allclose(found.intervals, expected, rtol=1e-5)
    wider = fit.confidence_set("x")
    assert wider.df == 3
    assert wider.intervals[0][0] < found.intervals[0][0]
    assert wider.intervals[0][1] > found.intervals[0][1]


def test_more_values_are_harder_to_meet():
    model, data = with_constant(5)
    fit = gm.GMMEstimator(model, data).fit()
    both, one = fit.s_test({"x": 0.4, "const": 0.3}), fit.s_test({"x": 0.4})
    assert one.stat <= both.stat + 1e-9
    assert one.theta[fit.names.index("x")] == 0.4
    assert fit.s_test({"x": 0.4, "const": one.theta[fit.names.index("const")]}).stat == pytest.approx(
        one.stat, rel=1e-9
    )


def two_endogenous(seed: int) -> tuple[gm.GMMResults, Callable[[float, float], float]]:
    """x weakly identified, x2 well: S over x has several minima, and is lowest beyond infinity for some x2."""
    rng = np.random.default_rng(seed)
    n = 150
    z, v = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    X = z @ np.array([[0.12, 0.5], [0.1, -0.4], [0.0, 0.3]]) + v
    y = X @ [0.5, 0.3] + v @ [0.8, 0.3] + 0.7 * rng.normal(size=n) * (1 + 0.5 * np.abs(z[:, 0]))
    columns = {"y": y, "x": X[:, 0], "x2": X[:, 1], **{f"z{k}": z[:, k] for k in range(3)}}
    model = gm.LinearIV("y", endogenous=["x", "x2"], instruments=["z0", "z1", "z2"], constant=False)

    def s(b: float, b2: float) -> float:
        c = z * (y - b * X[:, 0] - b2 * X[:, 1])[:, None]
        g = c.mean(axis=0)
        return float(n * g @ np.linalg.solve(c.T @ c / n, g))

    return gm.GMMEstimator(model, gm.Table.from_arrays(columns)).fit(), s


EVERYWHERE = np.concatenate(
    [-np.geomspace(5, 1e5, 50)[::-1], np.linspace(-5, 5, 201), np.geomspace(5, 1e5, 50)]
)


@pytest.mark.parametrize("seed", [31, 32, 3])
def test_a_projection_is_below_every_point_that_it_projects(seed):
    fit, s = two_endogenous(seed)
    for value in np.linspace(-3.0, 3.0, 7):
        found = fit.s_test({"x2": value})
        assert found.stat == pytest.approx(s(*found.theta), rel=1e-9)
        assert found.stat <= min(s(b, value) for b in EVERYWHERE) * (1 + 1e-9)


@pytest.mark.parametrize("nuisance", ["projection", "strong"])
def test_sets_hold_every_value_that_some_point_defends(nuisance):
    """Seeds whose sets once left out such values, or ended in brentq's ValueError."""
    critical = chi2.ppf(0.95, 3 if nuisance == "projection" else 2)
    for seed in (31, 32):
        fit, s = two_endogenous(seed)
        found = fit.confidence_set("x2", nuisance=nuisance)
        for value in np.linspace(-3.0, 3.0, 25):
            if min(s(b, value) for b in EVERYWHERE) <= critical:
                assert value in found


def test_several_nuisance_parameters_are_searched_too():
    fit, _ = two_endogenous(31)
    data = fit.context.sample.whole().blocks[0]
    columns = {
        "y": data.y,
        "x": data.X[:, 0],
        "x2": data.X[:, 1],
        **{f"z{k}": data.Z[:, k] for k in range(3)},
    }
    model = gm.LinearIV("y", endogenous=["x", "x2"], instruments=["z0", "z1", "z2"])
    fit = gm.GMMEstimator(model, gm.Table.from_arrays(columns)).fit()
    found = fit.s_test({"x2": 0.84515826})
    assert all(
        found.stat <= fit.s_test({"x2": 0.84515826, "x": b}).stat + 1e-8
        for b in np.concatenate([np.linspace(-5, 5, 41), [-100.0, 100.0]])
    )


def test_s_at_its_true_value_has_its_size_however_weak_the_instruments():
    critical, rejected = chi2.ppf(0.95, 3), 0
    for seed in range(200):
        data = table(0.0, seed, n=300, instruments=3)
        fit = gm.GMMEstimator(regression(3), data, steps="onestep").fit()
        rejected += fit.s_test({"x": 0.5}).stat > critical
    # 200 draws at 5 %: 10 expected, standard deviation 3.1; five of them allowed
    assert rejected <= 25


# --- sets of functions ----------------------------------------------------------------------------------------------


def test_pieces_narrower_than_the_grid_are_found():
    intervals, _ = level_set(lambda v: (v - 5.0) ** 2 - 1e-6, 0.0, 1.0)
    assert np.allclose(intervals, [(4.999, 5.001)], rtol=1e-9)
    holes, _ = level_set(lambda v: 1e-6 - (v + 7.0) ** 2, 0.0, 1.0)
    assert holes[0][0] == -np.inf
    assert np.allclose([holes[0][1], holes[1][0]], [-7.001, -6.999], rtol=1e-9)


def test_a_function_that_ends_is_searched_as_far_as_it_goes():
    def half(v):
        if v > 10.0:
            raise gm.EstimationError(gm.Complaint("E411", "overflow"))
        return v * v - 4.0

    intervals, searched = level_set(half, 0.0, 1.0)
    assert np.allclose(intervals, [(-2.0, 2.0)])
    assert 5.0 < searched[1] <= 10.0


# --- refusals -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_asked_is_refused():
    model, data = with_constant(1)
    fit = gm.GMMEstimator(model, data).fit()
    with pytest.raises(gm.EstimationError, match="E433 K with const left open"):
        fit.confidence_set("x", statistic="K")
    with pytest.raises(gm.EstimationError, match="E433 K with const left open"):
        fit.k_test({"x": 0.5})
    with pytest.raises(gm.ConfigError, match="no parameter 'w'"):
        fit.s_test({"w": 1.0})
    with pytest.raises(gm.ConfigError, match="no parameter was given"):
        fit.s_test({})
    with pytest.raises(gm.ConfigError, match="finite number"):
        fit.s_test({"x": np.nan})
    with pytest.raises(gm.ConfigError, match="1 values were given for 2"):
        fit.k_test([1.0])
    with pytest.raises(gm.ConfigError, match="statistic is 'LR'"):
        fit.confidence_set("x", statistic="LR")
    with pytest.raises(gm.ConfigError, match="alpha"):
        fit.confidence_set("x", alpha=0.0)


def test_what_cannot_be_evaluated_between_grid_points_is_no_part_of_a_set():
    """A gap below the spacing of the grid: the end stays where the function says, and nothing is raised."""

    def broken(v):
        if 4.0 < v < 4.001:
            raise gm.EstimationError(gm.Complaint("E411", "overflow"))
        return np.nan if 4.001 <= v < 4.002 else v - 4.0

    intervals, _ = level_set(broken, 0.0, 1.0)
    assert len(intervals) == 1
    assert intervals[0] == pytest.approx((-np.inf, 4.0), abs=1e-9)
