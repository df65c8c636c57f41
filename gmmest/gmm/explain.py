"""Why another program prints other numbers: its defaults beside the options of a fit.

What is claimed of a program says on what it rests: ``tested`` against the program itself, as these pages' tests
do; ``printed`` numbers of the program that the tests reproduce; or its ``documentation`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.errors import ConfigError, not_among, printable
from gmmest.gmm.fitted import Estimate
from gmmest.gmm.inference import SeName, covariance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PROGRAMS", "Choices", "Claim", "Explanation", "Printed", "explain_difference"]

Array = NDArray[np.float64]
Evidence = Literal["tested", "printed", "documentation"]


@dataclass(frozen=True, slots=True)
class Choices:
    """What decides about numbers in a fit of ours: words as in its options."""

    steps: str
    weighting: str
    centred: bool
    initial: str
    se: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One choice that programs make differently.

    Parameters
    ----------
    topic : str
    theirs : str
        The program's default.
    value : str
        The same in the words of our options; empty where we have none.
    remedy : str
        What makes the numbers agree.
    evidence : {"tested", "printed", "documentation"}
    """

    topic: str
    theirs: str
    value: str
    remedy: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Printed:
    """Standard errors that the program prints at our estimate.

    Parameters
    ----------
    call : str
        How it is asked for them.
    errors : array (P,)
    evidence : {"tested", "printed", "documentation"}
    """

    call: str
    errors: Array
    evidence: Evidence

    def __post_init__(self) -> None:
        freeze(self, "errors")


def _claims(rows: tuple[tuple[str, str, str, str, Evidence], ...]) -> tuple[Claim, ...]:
    return tuple(Claim(*row) for row in rows)


TWO = "two steps"
PROGRAMS: dict[str, tuple[str, tuple[Claim, ...]]] = {
    "stata": (
        "Stata's gmm",
        _claims(
            (
                ("steps", TWO, "twostep", "steps='twostep'; there: onestep, igmm", "printed"),
                ("weighting", "robust", "robust", "weighting='robust'; there: wmatrix(...)", "printed"),
                ("centred", "no", "False", "not centred; there: the option center", "printed"),
                (
                    "initial",
                    "(Z'Z/N)^-1",
                    "instruments",
                    "initial='instruments'; there: winitial(...)",
                    "printed",
                ),
                (
                    "se",
                    "sandwich with S at the estimate",
                    "sandwich",
                    "se='sandwich'; ivreg2, gmm2s robust: se='minimised_weight'",
                    "printed",
                ),
                ("small samples", "no factor", "", "nothing: neither has one by default", "printed"),
            )
        ),
    ),
    "r": (
        "R's gmm",
        _claims(
            (
                ("steps", TWO, "twostep", "steps='twostep'; there: type='iterative', 'cue'", "documentation"),
                (
                    "weighting",
                    "HAC: quadratic spectral kernel, Andrews bandwidth, in the order of the rows",
                    "kernel",
                    "there: vcov='MDS' for observations without an order; here: weighting='robust'",
                    "documentation",
                ),
                ("centred", "yes", "True", "there: centeredVcov=FALSE", "documentation"),
                (
                    "initial",
                    "identity for functions; two-stage least squares for formulas",
                    "identity",
                    "initial='identity' for functions, initial='instruments' for formulas",
                    "documentation",
                ),
                ("se", "(G'S^-1 G)^-1/N at the estimate", "efficient", "se='efficient'", "documentation"),
                ("small samples", "no factor", "", "nothing: neither has one by default", "documentation"),
            )
        ),
    ),
    "pyblp": (
        "pyblp",
        _claims(
            (
                ("steps", TWO, "twostep", "steps='twostep'; there: method='1s'", "documentation"),
                (
                    "weighting",
                    "robust",
                    "robust",
                    "weighting='robust'; there: W_type, se_type",
                    "documentation",
                ),
                ("centred", "yes", "True", "there: center_moments=False", "documentation"),
                ("initial", "(Z'Z/N)^-1", "instruments", "initial='instruments'", "documentation"),
                ("se", "sandwich with S at the estimate", "sandwich", "se='sandwich'", "documentation"),
                (
                    "objective",
                    "N g'Wg",
                    "",
                    "res.nobs * res.criterion; there: scale_objective=False",
                    "documentation",
                ),
            )
        ),
    ),
    "statsmodels": (
        "statsmodels' sandbox GMM",
        _claims(
            (
                (
                    "steps",
                    "iterated, at most ten times",
                    "iterated",
                    "there: fit(maxiter=2); here: steps='twostep'",
                    "tested",
                ),
                ("weighting", "robust", "robust", "weighting='robust'", "tested"),
                (
                    "centred",
                    "by one number for all moments, their mean together",
                    "centred, as nothing else does",
                    "there: fit(wargs={'centered': False})",
                    "tested",
                ),
                (
                    "initial",
                    "(Z'Z/N)^-1 in its IV classes, the identity for other moments",
                    "instruments",
                    "initial='instruments'",
                    "tested",
                ),
                (
                    "se",
                    "(G'S^-1 G)^-1/N at the estimate",
                    "efficient",
                    "se='efficient'; there: has_optimal_weights=False for se='sandwich'",
                    "tested",
                ),
                ("small samples", "no factor", "", "nothing: neither has one by default", "tested"),
            )
        ),
    ),
    "linearmodels": (
        "linearmodels' IVGMM",
        _claims(
            (
                ("steps", TWO, "twostep", "steps='twostep'; there: fit(iter_limit=...)", "tested"),
                ("weighting", "robust", "robust", "weighting='robust'; there: weight_type", "tested"),
                ("centred", "no", "False", "not centred; there: center=True", "tested"),
                ("initial", "(Z'Z/N)^-1", "instruments", "initial='instruments'", "tested"),
                (
                    "se",
                    "sandwich with S at the estimate",
                    "sandwich",
                    "se='sandwich'",
                    "tested",
                ),
                (
                    "small samples",
                    "no factor",
                    "",
                    "nothing; there: debiased=True multiplies V by N/(N - P)",
                    "tested",
                ),
            )
        ),
    ),
}
"""By name, what a program is called and the choices that it makes by default."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A program's defaults beside the options of a fit.

    Parameters
    ----------
    program : str
    names : tuple of str
        The parameters.
    ours : Choices
    claims : tuple of Claim
    printed : tuple of Printed
        Standard errors that the program prints at this estimate, where our arrays tell; empty where its
        estimate or its S would be another one.
    """

    program: str
    names: tuple[str, ...]
    ours: Choices
    claims: tuple[Claim, ...]
    printed: tuple[Printed, ...]

    @property
    def differences(self) -> tuple[Claim, ...]:
        """Claims in which the fit chose otherwise than the program does by default."""
        return tuple(c for c in self.claims if c.value and str(getattr(self.ours, c.topic)) != c.value)

    @property
    def standard_errors(self) -> pd.DataFrame:
        """What the program prints, a column for each way of asking."""
        import pandas as pd

        return pd.DataFrame({p.call: np.array(p.errors) for p in self.printed}, index=list(self.names))

    def __str__(self) -> str:
        lines = [f"{self.program} by default, beside this fit"]
        different = self.differences
        for claim in self.claims:
            mine = str(getattr(self.ours, claim.topic)) if claim.value else ""
            mark = "differs" if claim in different else "same" if claim.value else ""
            lines.append(
                f"  {claim.topic}: {claim.theirs}"
                + (f"; here {mine} ({mark})" if mine else "")
                + f" [{claim.evidence}]"
            )
            if claim in different or not claim.value:
                lines.append(f"    to agree: {claim.remedy}")
        for printed in self.printed:
            pairs = zip(self.names, printed.errors, strict=True)
            values = ", ".join(f"{printable(name)} {error:.8g}" for name, error in pairs)
            lines.append(f"  standard errors of {printed.call}: {values} [{printed.evidence}]")
        if not self.printed:
            lines.append("  its estimate or its S would be another one: no standard errors are computed")
        return "\n".join(lines)


def explain_difference(
    program: str, ours: Choices, estimate: Estimate, names: tuple[str, ...], moment_names: tuple[str, ...]
) -> Explanation:
    """What another program does by default, and what it would print at this estimate.

    Parameters
    ----------
    program : {"stata", "r", "pyblp", "statsmodels", "linearmodels"}
    ours : Choices
    estimate : Estimate
    names, moment_names : tuple of str

    Returns
    -------
    Explanation

    Raises
    ------
    ConfigError
        An unknown program.

    Notes
    -----
    Standard errors are computed where the program, asked as the text says, minimises the same criterion:
    a robust S that is not centred, after one or two steps; and where the S of V is such a one, without a factor.
    """
    if complaints := not_among("program", program, PROGRAMS):
        raise ConfigError(complaints)
    title, claims = PROGRAMS[program]
    printed: tuple[Printed, ...] = ()
    options = [s.options for s in (estimate.weight.s, estimate.s) if s is not None]
    plain = all(o.estimator == "robust" and not o.centred and not o.small_sample for o in options)
    if plain and ours.steps in ("onestep", "twostep"):
        printed = _printed(program, ours, estimate, moment_names)
    return Explanation(title, names, ours, claims, printed)


def _printed(
    program: str, ours: Choices, estimate: Estimate, moment_names: tuple[str, ...]
) -> tuple[Printed, ...]:
    def errors(kind: SeName) -> Array:
        v = covariance(estimate.jacobian, estimate.weight, estimate.s, kind, moment_names)
        root: Array = np.sqrt(np.diag(v))
        return root

    n, p = estimate.s.n_obs, estimate.jacobian.shape[1]
    two = ours.steps == "twostep"
    if program == "stata":
        first = Printed(f"gmm, {ours.steps} winitial(unadjusted)", errors("sandwich"), "printed")
        return (
            (first, Printed("ivreg2, gmm2s robust", errors("minimised_weight"), "printed"))
            if two
            else (first,)
        )
    if program == "linearmodels":
        call = "IVGMM.fit()" if two else "IV2SLS.fit(cov_type='robust')"
        factor = float(np.sqrt(n / (n - p))) if n > p else np.nan
        return (
            Printed(call, errors("sandwich"), "tested"),
            Printed(
                call.replace(")", ", debiased=True)").replace("(, ", "("),
                factor * errors("sandwich"),
                "tested",
            ),
        )
    if program == "statsmodels" and two:
        asked = "fit(maxiter=2, wargs={'centered': False}"
        return (
            Printed(f"{asked})", errors("efficient"), "tested"),
            Printed(f"{asked}, has_optimal_weights=False)", errors("sandwich"), "tested"),
        )
    if program == "pyblp":
        call = f"solve(method='{'2s' if two else '1s'}', center_moments=False)"
        return (Printed(call, errors("sandwich"), "documentation"),)
    if program == "r" and two:
        call = "gmm(..., vcov='MDS', centeredVcov=FALSE)"
        return (Printed(call, errors("efficient"), "documentation"),)
    return ()
