"""Other programs for the conditional logit, each called as its documentation says.

``prepare`` brings the arrays into the form that the program takes, which is timed separately; what it
returns fits and gives estimates and standard errors.  Robust standard errors wherever they are offered.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import rmtree, which
from tempfile import mkdtemp
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from gmmest.bench.choices import Choices
from gmmest.bench.figures import installed
from gmmest.data.choice_data import ChoiceData
from gmmest.execution.threads import Threads
from gmmest.gmm.estimator import GMMEstimator
from gmmest.models.logit import Logit

__all__ = ["PEERS", "THREADS", "Answer", "Peer", "Ready", "own"]

Array = NDArray[np.float64]

THREADS = 2
"""Of every program."""
CLOGIT = Path(__file__).with_name("clogit.R")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Estimates and their standard errors, both (K,)."""

    theta: Array
    errors: Array


@dataclass(frozen=True, slots=True)
class Ready:
    """A fit; the process that does it, another one where the program is not of Python; and how that ends."""

    fit: Callable[[], Answer]
    pid: int = field(default_factory=os.getpid)
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that others use for this.

    Parameters
    ----------
    name : str
    prepare : callable
        From choices to a fit.
    version : callable
        Its version, None where it is not installed.
    call : str
        What is called, for the report.
    sets : int or None
        Most choice sets that it is given; None for no limit.
    """

    name: str
    prepare: Callable[[Choices], Ready]
    version: Callable[[], str | None]
    call: str
    sets: int | None = None


def own(choices: Choices) -> Ready:
    """gmmest: everything from the arrays on is timed."""

    def fit() -> Answer:
        data = ChoiceData.from_arrays(
            features=choices.features, chosen=choices.chosen, offsets=choices.offsets
        )
        result = GMMEstimator(Logit(), data, executor=Threads(THREADS)).fit()
        return Answer(result.theta, np.sqrt(np.diag(np.asarray(result.cov_params()))))

    return Ready(fit)


def xlogit(choices: Choices, *, num_hess: bool = True) -> Ready:
    """``MultinomialLogit.fit`` on arrays in long format, as in its quick start."""
    from xlogit import MultinomialLogit

    names = choices.names
    alternatives = np.tile(np.arange(choices.alternatives), choices.sets)
    ids = np.repeat(np.arange(choices.sets), choices.alternatives)

    def fit() -> Answer:
        model = MultinomialLogit()
        model.fit(
            X=choices.features,
            y=choices.chosen,
            varnames=names,
            ids=ids,
            alts=alternatives,
            robust=True,
            num_hess=num_hess,
            verbose=0,
        )
        return Answer(model.coeff_, model.stderr)

    return Ready(fit)


def xlogit_bhhh(choices: Choices) -> Ready:
    """The same with the outer product of gradients for the Hessian, its quick way."""
    return xlogit(choices, num_hess=False)


def larch(choices: Choices) -> Ready:
    """``Dataset.construct.from_idca``, a linear utility, ``maximize_loglike``, robust covariance."""
    import larch as lx
    import pandas as pd

    names = choices.names
    index = pd.MultiIndex.from_product(
        [np.arange(choices.sets), np.arange(1, choices.alternatives + 1)], names=["caseid", "altid"]
    )
    frame = pd.DataFrame(choices.features, columns=names, index=index)
    frame["chosen"] = choices.chosen
    dataset = lx.Dataset.construct.from_idca(frame)

    def fit() -> Answer:
        # the engine that larch takes by itself where JAX is not installed
        model = lx.Model(dataset, compute_engine="numba")
        model.utility_ca = sum(lx.PX(name) for name in names)
        model.choice_ca_var = "chosen"
        model.maximize_loglike(quiet=True)
        model.set_cap(1e3)  # with no bound at all, larch 6.0.46 finds no covariance to make robust
        model.calculate_parameter_covariance(robust=True)
        found = model.parameters.sel(param_name=names)
        return Answer(found["value"].to_numpy(), found["robust_std_err"].to_numpy())

    return Ready(fit)


def lcl(choices: Choices) -> Ready:
    """``ConditionalLogit().fit`` on a polars frame, without panels: Huber and White's errors."""
    import polars as pl
    from lcl import ConditionalLogit, InferenceOptions, Options

    names = choices.names
    frame = pl.DataFrame(dict(zip(names, choices.features.T, strict=True))).with_columns(
        alternative=pl.Series(np.tile(np.arange(choices.alternatives), choices.sets)),
        case=pl.Series(np.repeat(np.arange(choices.sets), choices.alternatives)),
        chosen=pl.Series(choices.chosen == 1.0),
    )

    def fit() -> Answer:
        result = ConditionalLogit().fit(
            frame,
            alts_col="alternative",
            cases_col="case",
            choice_col="chosen",
            case_varnames=names,
            options=Options(inference=InferenceOptions(covariance="robust")),
        )
        return Answer(np.asarray(result.coeff_), np.asarray(result.stderr))

    return Ready(fit)


def statsmodels(choices: Choices) -> Ready:
    """``ConditionalLogit(endog, exog, groups).fit()``."""
    from statsmodels.discrete.conditional_models import ConditionalLogit

    groups = np.repeat(np.arange(choices.sets), choices.alternatives)

    def fit() -> Answer:
        result: Any = ConditionalLogit(choices.chosen, choices.features, groups=groups).fit(disp=False)
        return Answer(np.asarray(result.params), np.asarray(result.bse))

    return Ready(fit)


def clogit(choices: Choices) -> Ready:
    """R's ``survival::clogit(chosen ~ X + strata(set) + cluster(set), method = "breslow")``, in a process of R."""
    folder = Path(mkdtemp(prefix="gmmest-"))
    np.ascontiguousarray(choices.features.T).tofile(folder / "features.f64")
    choices.chosen.tofile(folder / "chosen.f64")
    size = (*choices.features.shape, choices.alternatives)
    r = subprocess.Popen(  # noqa: S603  paths and numbers of ours
        ["Rscript", str(CLOGIT), str(folder), *map(str, size)],  # noqa: S607  the user's own R
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    asked, answers = cast("tuple[IO[str], IO[str]]", (r.stdin, r.stdout))
    if answers.readline().strip() != "ready":
        raise RuntimeError("R ended before it had read the data")
    rmtree(folder)

    def fit() -> Answer:
        print("fit", file=asked, flush=True)
        theta, errors = (np.array(answers.readline().split(), dtype=float) for _ in range(2))
        return Answer(theta, errors)

    return Ready(fit, r.pid, r.communicate)


def version_of_clogit() -> str | None:
    """Of R's package, with that of R."""
    if which("Rscript") is None:
        return None
    code = 'cat(as.character(packageVersion("survival")), "in R", as.character(getRversion()))'
    found = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True)  # noqa: S603, S607
    return found.stdout if found.returncode == 0 else None


PEERS = (
    Peer("xlogit", xlogit, partial(installed, "xlogit"), "MultinomialLogit.fit(robust=True)"),
    Peer(
        "xlogit, no Hessian",
        xlogit_bhhh,
        partial(installed, "xlogit"),
        "MultinomialLogit.fit(robust=True, num_hess=False): errors are those of the outer product",
    ),
    Peer(
        "larch",
        larch,
        partial(installed, "larch"),
        "Model.maximize_loglike, calculate_parameter_covariance(robust=True), numba",
    ),
    Peer("lcl-choice", lcl, partial(installed, "lcl-choice"), 'ConditionalLogit().fit, covariance="robust"'),
    Peer(
        "statsmodels",
        statsmodels,
        partial(installed, "statsmodels"),
        "ConditionalLogit.fit: it offers no robust errors; of fewer sets, since it takes minutes",
        sets=5_000,
    ),
    Peer("clogit", clogit, version_of_clogit, "survival::clogit(... + strata(set) + cluster(set))"),
)
"""All of them, in the order of the tables."""
