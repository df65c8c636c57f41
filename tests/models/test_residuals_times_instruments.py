"""MomentFunction with instruments: the function multiplied out by hand, the regressions, and other programs."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import gmmest as gm
from gmmest.errors import ConfigError, DataError, EstimationError, IdentificationError
from gmmest.testing import check_model

ENGINES = ("forward", "jax", "jax-forward", "complex", "fd-central")
SAME = 1e-10  # two ways to the same root, both polished to rounding


def columns(seed=2, n=400):
    rng = np.random.default_rng(seed)
    z, w = rng.normal(size=(2, n))
    x = 0.7 * z + 0.2 * w + rng.normal(size=n)
    y = np.round(np.exp(0.3 + 0.2 * x + 0.3 * rng.normal(size=n)), 3)
    return {"y": y, "x": x, "z": z, "w": w, "v": 0.5 * x + rng.normal(size=n)}


def table(**roles):
    return gm.Table.from_arrays(columns(), **roles)


def roles():
    rng = np.random.default_rng(3)
    return {
        "weight": rng.uniform(0.5, 2.0, 400),
        "frequency": rng.integers(1, 4, 400).astype(float),
        "cluster": rng.integers(0, 40, 400),
    }


def linear(theta, rows):
    return rows["y"] - theta[0] * rows["x"] - theta[1]


def additive(theta, rows):
    return rows["y"] - np.exp(theta[0] * rows["x"] + theta[1])


def multiplicative(theta, rows):
    return rows["y"] * np.exp(-theta[0] * rows["x"] - theta[1]) - 1.0


def two_equations(theta, rows):
    return np.stack([linear(theta[:2], rows), rows["v"] - theta[2] * rows["x"] - theta[3]], axis=1)


def instrumented(residual, names=("x", "const"), **more):
    return gm.MomentFunction(residual, names=names, instruments=["z", "w"], **more)


SYSTEM = functools.partial(instrumented, two_equations, names=("a", "b", "c", "d"))


# --- the function multiplied out by hand ------------------------------------------------------------------


def by_hand(residual):
    def moments(theta, rows):
        z = np.stack([rows["z"], rows["w"], np.ones(rows["z"].shape[0])], axis=1)
        e = residual(theta, rows)
        if e.ndim == 1:
            return z * e[:, None]
        return np.concatenate([z * e[:, r, None] for r in range(e.shape[1])], axis=1)

    return moments


@pytest.mark.parametrize("given", [{}, roles()], ids=["plain", "weights"])
@pytest.mark.parametrize(
    ("residual", "theta"),
    [(multiplicative, [0.2, 0.3]), (two_equations, [0.4, 1.0, 0.5, 0.1])],
    ids=["one equation", "two equations"],
)
def test_contributions_are_those_of_the_product_to_the_last_bit(residual, theta, given):
    names = [f"p{i}" for i in range(len(theta))]
    ours = gm.MomentFunction(residual, names=names, instruments=["z", "w"])
    theirs = gm.MomentFunction(by_hand(residual), names=names)
    data = table(**given)
    for mine, block in zip(ours.sample(data).blocks, theirs.sample(data).blocks, strict=True):
        product = ours.contributions(np.array(theta), mine)
        assert product.tobytes() == theirs.contributions(np.array(theta), block).tobytes()


@pytest.mark.parametrize("given", [{}, roles()], ids=["plain", "weights"])
@pytest.mark.parametrize("grad", ["forward", "jax", "fd-central"])
def test_fits_are_those_of_the_product(given, grad):
    """With the identity first: a product multiplied out by hand knows no instruments."""
    options = {"initial": "identity", "grad": grad}
    ours = gm.GMMEstimator(instrumented(multiplicative), table(**given), **options).fit()
    theirs = gm.GMMEstimator(
        gm.MomentFunction(by_hand(multiplicative), names=["x", "const"]), table(**given), **options
    ).fit()
    assert ours.verified
    np.testing.assert_allclose(ours.theta, theirs.theta, rtol=SAME)
    np.testing.assert_allclose(ours.bse, theirs.bse, rtol=1e-6 if grad == "fd-central" else SAME)
    assert ours.j_test().stat == pytest.approx(theirs.j_test().stat, rel=1e-8)


@pytest.mark.parametrize(
    ("model", "theta"),
    [(instrumented(additive), [0.2, 0.3]), (SYSTEM(), [0.4, 1.0, 0.5, 0.1])],
    ids=["one equation", "two equations"],
)
@pytest.mark.parametrize("given", [{}, roles()], ids=["plain", "weights"])
def test_every_engine_and_every_partition_agree(model, theta, given):
    check_model(model, table(**given), np.array(theta), backends=ENGINES)


def slopes(theta, rows):
    return -np.stack([rows["x"], np.ones(rows["x"].shape[0])], axis=1)


def slopes_of_two(theta, rows):
    own, none = slopes(theta, rows), np.zeros((rows["x"].shape[0], 2))
    return np.stack([np.hstack([own, none]), np.hstack([none, own])], axis=1)


@pytest.mark.parametrize(
    ("residual", "jacobian", "names"),
    [(linear, slopes, ["a", "b"]), (two_equations, slopes_of_two, ["a", "b", "c", "d"])],
    ids=["one equation", "two equations"],
)
@pytest.mark.parametrize("given", [{}, roles()], ids=["plain", "weights"])
def test_a_jacobian_of_the_residuals_is_used(residual, jacobian, names, given):
    model = instrumented(gm.with_derivative(residual, jacobian=jacobian), names=names)
    theta = np.linspace(0.1, 0.4, len(names))
    check_model(model, table(**given), theta, backends=("analytic", "forward"))
    fitted = gm.GMMEstimator(model, table(**given)).fit()
    assert fitted.settings.grad == "analytic"
    plain = gm.GMMEstimator(instrumented(residual, names=names), table(**given), grad="jax").fit()
    np.testing.assert_allclose(fitted.theta, plain.theta, rtol=SAME)


# --- the regressions --------------------------------------------------------------------------------------

REGRESSIONS = [
    (linear, gm.LinearIV("y", endogenous=["x"], instruments=["z", "w"])),
    (additive, gm.ExponentialIV("y", endogenous=["x"], instruments=["z", "w"])),
    (
        multiplicative,
        gm.ExponentialIV("y", endogenous=["x"], instruments=["z", "w"], errors="multiplicative"),
    ),
]
OPTIONS = [
    {},
    {"steps": "onestep"},
    {"steps": "iterated", "centred": True},
    {"steps": "cue"},
    {"weighting": "cluster", "small_sample": True},
    {"weighting": "kernel", "bandwidth": 3.0},
    {"se": "windmeijer"},
    {"se": "misspecification", "steps": "onestep"},
    {"fixed": {"x": 0.25}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("residual", "regression"), REGRESSIONS, ids=["linear", "additive", "multiplicative"]
)
def test_a_residual_of_a_regression_is_that_regression(residual, regression, options):
    given = {"cluster": roles()["cluster"]}
    if options.get("weighting") == "kernel" or options.get("steps") == "cue":
        given = {}
    elif not options:
        given = roles()
    start = {"x": 0.2, "const": 0.3}
    ours = gm.GMMEstimator(instrumented(residual), table(**given), **options).fit(start=start)
    theirs = gm.GMMEstimator(regression, table(**given), **options).fit(start=start)
    assert ours.verified, ours.verdict()
    assert ours.names == theirs.names
    assert ours.moment_names == theirs.moment_names
    np.testing.assert_allclose(ours.theta, theirs.theta, rtol=SAME)
    np.testing.assert_allclose(ours.bse, theirs.bse, rtol=1e-8)
    if options.get("steps") != "onestep":
        assert ours.j_test().stat == pytest.approx(theirs.j_test().stat, rel=1e-7)


def test_equations_with_parameters_of_their_own_are_fits_of_their_own():
    """Where the weight is block diagonal: one step with the instruments' weight."""
    system = gm.GMMEstimator(SYSTEM(), table(), steps="onestep").fit()
    for k, y in enumerate(("y", "v")):
        alone = gm.GMMEstimator(
            gm.LinearIV(y, endogenous=["x"], instruments=["z", "w"]), table(), steps="onestep"
        ).fit()
        np.testing.assert_allclose(system.theta[2 * k : 2 * k + 2], alone.theta, rtol=SAME)
        np.testing.assert_allclose(system.bse[2 * k : 2 * k + 2], alone.bse, rtol=1e-8)


def test_the_first_weight_is_in_what_misspecification_knows_of_two_equations():
    """Influence functions of stacked fits are those of each: the products of the first weight, equation by equation."""
    system = gm.GMMEstimator(SYSTEM(), table(), steps="onestep", se="misspecification").fit()
    alone = gm.GMMEstimator(
        gm.LinearIV("v", endogenous=["x"], instruments=["z", "w"]),
        table(),
        steps="onestep",
        se="misspecification",
    ).fit()
    np.testing.assert_allclose(system.bse[2:], alone.bse, rtol=1e-8)


def test_bootstraps_draw_what_they_draw_of_the_regression():
    draws = [
        gm.GMMEstimator(model, table(cluster=roles()["cluster"]), weighting="cluster")
        .fit()
        .bootstrap(8, "cluster", seed=1, executor="serial")
        .draws
        for model in (instrumented(linear), REGRESSIONS[0][1])
    ]
    np.testing.assert_allclose(draws[0], draws[1], rtol=1e-7)


# --- other programs ---------------------------------------------------------------------------------------


def test_two_steps_are_those_of_linearmodels():
    iv = pytest.importorskip("linearmodels.iv")
    own = columns()
    ones = np.ones(400)
    theirs = iv.IVGMM(own["y"], ones, own["x"], np.column_stack([own["z"], own["w"]])).fit(
        iter_limit=2, cov_type="robust"
    )
    ours = gm.GMMEstimator(instrumented(linear), table()).fit()
    np.testing.assert_allclose(ours.theta, np.asarray(theirs.params)[::-1], rtol=1e-9)
    np.testing.assert_allclose(ours.bse, np.asarray(theirs.std_errors)[::-1], rtol=1e-7)
    assert ours.j_test().stat == pytest.approx(theirs.j_stat.stat, rel=1e-7)


def test_two_equations_are_a_system_of_linearmodels():
    system = pytest.importorskip("linearmodels.system")
    own = columns()
    exog, z = np.ones((400, 1)), np.column_stack([own["z"], own["w"]])
    equations = {
        name: {"dependent": own[y][:, None], "exog": exog, "endog": own["x"][:, None], "instruments": z}
        for name, y in (("first", "y"), ("second", "v"))
    }
    theirs = system.IVSystemGMM(equations, weight_type="robust").fit(iter_limit=2, cov_type="robust")
    ours = gm.GMMEstimator(SYSTEM(), table()).fit()
    np.testing.assert_allclose(ours.theta, np.asarray(theirs.params)[[1, 0, 3, 2]], rtol=1e-8)
    assert ours.j_test().stat == pytest.approx(theirs.j_stat.stat, rel=1e-6)


def test_two_steps_are_those_of_statsmodels():
    """Not centred: there the mean that is taken off is one number for all moments."""
    gmm = pytest.importorskip("statsmodels.sandbox.regression.gmm")
    own = columns()
    ones = np.ones(400)

    def fitted(params, exog):
        return np.exp(exog @ params)

    Z = np.column_stack([own["z"], own["w"], ones])
    X = np.column_stack([own["x"], ones])
    theirs = gmm.NonlinearIVGMM(own["y"], X, Z, fitted).fit(
        np.array([0.2, 0.3]),
        maxiter=2,
        inv_weights=np.asarray(Z.T @ Z / 400),
        optim_method="bfgs",
        optim_args={"disp": 0, "gtol": 1e-10},
        wargs={"centered": False},
    )
    ours = gm.GMMEstimator(instrumented(additive), table()).fit(start={"x": 0.2, "const": 0.3})
    np.testing.assert_allclose(ours.theta, theirs.params, rtol=1e-6)
    assert ours.j_test().stat == pytest.approx(theirs.jtest()[0], rel=1e-6)


# --- names and refusals -----------------------------------------------------------------------------------


def test_moments_are_named_by_instruments_and_equations():
    data = table()
    assert instrumented(linear).sample(data).moment_names == ("z", "w", "const")
    assert instrumented(linear, constant=False).sample(data).moment_names == ("z", "w")
    assert SYSTEM().sample(data).moment_names == (
        "residual0*z",
        "residual0*w",
        "residual0*const",
        "residual1*z",
        "residual1*w",
        "residual1*const",
    )
    named = instrumented(linear, moment_names=["one", "two", "three"])
    assert named.sample(data).moment_names == ("one", "two", "three")


def refusal(error, make):
    with pytest.raises(error) as refused:
        make()
    return str(refused.value)


SHAPES = [
    (
        lambda theta, rows: np.outer(rows["x"], np.ones((2, 2))).reshape(-1, 2, 2),
        "shape (2, 2, 2) for 2 rows",
    ),
    (lambda theta, rows: np.sum(rows["x"]), "shape () for 2 rows"),
    (lambda theta, rows: rows["x"][:1], "shape (1,) for 2 rows"),
    (lambda theta, rows: [rows["x"]], "list for 2 rows"),
    (lambda theta, rows: rows["x"] > np.inf, ""),
    (lambda theta, rows: 1j * rows["x"], "complex128 of shape (2,) for 2 rows"),
    (lambda theta, rows: None, "NoneType for 2 rows"),
]


@pytest.mark.parametrize(("residual", "returned"), [case for case in SHAPES if case[1]])
def test_residuals_of_another_shape_are_refused_by_the_name_of_their_function(residual, returned):
    said = refusal(EstimationError, lambda: instrumented(residual).sample(table()))
    assert said.startswith(
        f"E410 the residual function <lambda> returned {returned}; (rows) or (rows, equations)"
    )


@pytest.mark.parametrize("grad", ["forward", "jax", "fd", "analytic"])
def test_a_shape_that_is_right_for_two_rows_only_is_refused(grad):
    def sideways(theta, rows):
        return np.stack([linear(theta, rows), rows["v"] - theta[0]])

    given = sideways if grad != "analytic" else gm.with_derivative(sideways, jacobian=slopes)
    said = refusal(EstimationError, lambda: gm.GMMEstimator(instrumented(given), table(), grad=grad).fit())
    assert said.startswith("E410 the residual function sideways returned shape (2, 400) for 400 rows;")


def test_moments_of_another_shape_are_refused_too():
    def sideways(theta, rows):
        return np.stack([linear(theta, rows), rows["v"] - theta[0]])

    model = gm.MomentFunction(sideways, names=["x", "const"])
    said = refusal(EstimationError, lambda: gm.GMMEstimator(model, table()).fit())
    assert said.startswith(
        "E410 the moment function sideways returned shape (2, 400) for 400 rows; (rows, moments) was expected"
    )
    flat = gm.MomentFunction(linear, names=["x", "const"])
    assert "moment function linear returned shape (2,)" in refusal(
        EstimationError, lambda: flat.sample(table())
    )


def test_a_jacobian_of_another_shape_is_refused():
    wrong = gm.with_derivative(linear, jacobian=lambda theta, rows: slopes(theta, rows).T)
    said = refusal(EstimationError, lambda: gm.GMMEstimator(instrumented(wrong), table()).fit())
    assert said.startswith(
        "E410 the residual function linear returned a Jacobian of shape (2, 400) for 400 rows"
    )


def test_instruments_that_repeat_each_other_are_refused():
    own = columns()
    data = gm.Table.from_arrays(
        {**own, "twice": 2.0 * own["z"] - 1.0, "flat": np.full(400, 3.0), "zero": 0.0 * own["z"]}
    )

    def model(*instruments):
        return gm.MomentFunction(linear, names=["x", "const"], instruments=instruments)

    for wrong, named in (
        (("z", "w", "twice"), "twice"),
        (("z", "w", "flat"), "flat"),
        (("z", "zero"), "zero = 0"),
    ):
        said = refusal(IdentificationError, lambda wrong=wrong: model(*wrong).sample(data))
        assert said.startswith("E211 a moment is redundant: ")
        assert named in said
    nearly = {**own, "near": own["z"] + 1e-7 * own["w"] ** 2}
    data = gm.Table.from_arrays(nearly)
    sample = model("z", "w", "near").sample(data)
    assert any(note.startswith("W211 ") for note in sample.notes)
    regression = gm.LinearIV("y", endogenous=["x"], instruments=["z", "w", "near"])
    ours, theirs = (gm.GMMEstimator(each, data).fit() for each in (model("z", "w", "near"), regression))
    np.testing.assert_allclose(ours.theta, theirs.theta, rtol=1e-8)
    two = gm.MomentFunction(two_equations, names=list("abcd"), instruments=["z", "w", "near"])
    assert two.sample(data).recombined.shape == (8, 8)
    assert gm.GMMEstimator(two, data).fit().verified


def test_too_few_instruments_are_refused():
    model = gm.MomentFunction(linear, names=["x", "const"], instruments=["z"], constant=False)
    assert refusal(IdentificationError, lambda: model.sample(table())).startswith(
        "E212 1 moment, 2 parameters"
    )


OPTIONS_REFUSED = [
    ({"instruments": "z"}, "E102 instruments is 'z'; a list of names was expected"),
    ({"instruments": [1]}, "E102 instruments is [1]; a list of names was expected"),
    ({"instruments": []}, "E102 instruments is empty"),
    ({"instruments": ["z", "z"]}, "E102 instruments name z twice"),
    ({"instruments": ["z", "const"]}, "E102 instruments name const twice"),
    ({"constant": True}, "E102 constant without instruments"),
    ({"constant": False}, "E102 constant without instruments"),
]


@pytest.mark.parametrize(("options", "said"), OPTIONS_REFUSED, ids=[case[1] for case in OPTIONS_REFUSED])
def test_options_that_do_not_fit_are_refused(options, said):
    assert refusal(ConfigError, lambda: gm.MomentFunction(linear, names=["a"], **options)).startswith(said)


def test_instruments_are_single_columns_of_the_table():
    data = gm.Table.from_arrays({**columns(), "w": np.ones((400, 2))})
    assert "w has shape (400, 2); an instrument is one column" in refusal(
        DataError, lambda: instrumented(linear).sample(data)
    )
    absent = gm.MomentFunction(linear, names=["a", "b"], instruments=["zz"])
    assert refusal(DataError, lambda: absent.sample(table())).startswith("E315 ")
