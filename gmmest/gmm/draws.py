"""What follows from the draws of a bootstrap: standard errors, intervals, p-values, and their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gmmest.data.immutable import freeze
from gmmest.errors import (
    Complaint,
    ConfigError,
    EstimationError,
    not_among,
    not_whole,
    plural,
    printable,
    some,
)
from gmmest.gmm.inference import quantile, require_level
from gmmest.gmm.json_text import finite, finite_by_name, json_text
from gmmest.gmm.resampling import MULTIPLIERS, Multipliers

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Bootstrap", "BootstrapOptions", "Failure", "Interval", "Kind", "told"]

Array = NDArray[np.float64]
Kind = Literal["pairs", "cluster", "wild"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Interval = Literal["percentile-t", "percentile", "basic", "normal"]
INTERVALS: tuple[Interval, ...] = get_args(Interval)

REASONS = 4
"""Reasons of failure that are told."""


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """What is asked of a bootstrap.

    Parameters
    ----------
    replications : int
    kind : {"pairs", "cluster", "wild"}
    seed : int
    recentre : bool
        Whether the moments of a replication are taken less those of the data at the estimate.
    cluster : str, optional
        Which clusters are drawn, or share a multiplier, where the data name more than one.
    multipliers : {"rademacher", "mammen", "webb"}
        Of the wild score bootstrap.
    path : str or Path, optional
        A file that keeps finished replications.
    resume : bool
        Whether such a file may be there already, to go on from.
    """

    replications: int = 999
    kind: Kind = "pairs"
    seed: int = 0
    recentre: bool = True
    cluster: str | None = None
    multipliers: Multipliers = "rademacher"
    path: str | Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        complaints = [
            *not_among("kind", self.kind, KINDS),
            *not_among("multipliers", self.multipliers, MULTIPLIERS),
            *not_among("recentre", self.recentre, (True, False)),
            *not_among("resume", self.resume, (True, False)),
            *not_whole("replications", self.replications, 2),
            *not_whole("seed", self.seed, 0),
        ]
        if self.multipliers in MULTIPLIERS[1:] and self.kind in KINDS and self.kind != "wild":
            what = f"multipliers has no use with kind {self.kind!r}"
            complaints.append(Complaint("E102", what, next="kind: wild"))
        if self.recentre is False and self.kind == "wild":
            what = "recentre has no use with kind 'wild', which estimates nothing again"
            complaints.append(Complaint("E102", what, next="leave it out"))
        if self.resume is True and self.path is None:
            complaints.append(Complaint("E102", "resume without a file of replications", next="path="))
        if complaints:
            raise ConfigError(complaints)


@dataclass(frozen=True, slots=True)
class Failure:
    """A replication that was left out, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """A bootstrap distribution.

    Parameters
    ----------
    names : tuple of str
        Parameters, P of them.
    options : BootstrapOptions
    theta, errors : array (P,)
        The estimate, and its standard errors by the formula that those of the replications have: that of the fit,
        or for ``wild`` the sandwich of the groups that share a number.
    draws : array (B, P)
        Estimates of the replications that were not left out, by their number.
    draw_errors : array (B, P)
        Their standard errors.
    j, df : float or None, int
        J of the fit.
    j_draws : array (B,) or None
        J of the replications; None where the fit has none, and for ``wild``.
    recentred : bool
        Whether replications have recentred moments; False where the model is just identified.
    failures : tuple of Failure
    notes : tuple of str
    seconds : float
        Of this run; replications that were found in a file took none.
    n_obs : int
        Observations of the data.
    clusters : (str, int) or None
        Name and number of the clusters that are drawn or share a multiplier.
    fit : str
        The verdict of the fit.

    Notes
    -----
    With ``t* = (theta* - theta)/se*`` and q(a) the (B + 1)a-th smallest of B numbers, intervals are

    * ``percentile-t``: ``[theta - q_t*(1 - alpha/2) se, theta - q_t*(alpha/2) se]``, which is second-order
      correct where the others are first-order;
    * ``percentile``: ``[q_theta*(alpha/2), q_theta*(1 - alpha/2)]``;
    * ``basic``: ``[2 theta - q_theta*(1 - alpha/2), 2 theta - q_theta*(alpha/2)]``;
    * ``normal``: theta and the normal quantile times the bootstrap's standard error.

    References
    ----------
    Davison, A. C. and D. V. Hinkley (1997), *Bootstrap Methods and their Application*, chapters 4 and 5.
    """

    names: tuple[str, ...]
    options: BootstrapOptions
    theta: Array
    errors: Array
    draws: Array
    draw_errors: Array
    j: float | None
    df: int
    j_draws: Array | None
    recentred: bool
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    seconds: float
    n_obs: int
    clusters: tuple[str, int] | None = None
    fit: str = ""

    def __post_init__(self) -> None:
        freeze(self, "theta", "errors", "draws", "draw_errors", "j_draws")

    # --- numbers ------------------------------------------------------------------------------------

    @property
    def covariance(self) -> Array:
        """Covariance of the draws, (P, P); zero for parameters that are held."""
        apart = self.draws - self.draws.mean(axis=0)
        product: Array = apart.T @ apart / (len(apart) - 1)
        return product

    @property
    def standard_errors(self) -> Array:
        """Standard deviations of the draws, (P,); nan for parameters that are held."""
        errors: Array = np.std(self.draws, axis=0, ddof=1)
        return np.where(self._held, np.nan, errors)

    @property
    def t_draws(self) -> Array:
        """``(theta* - theta)/se*``, (B, P); nan where a replication ended at a bound."""
        t: Array = (self.draws - self.theta) / self.draw_errors
        return t

    @property
    def _held(self) -> NDArray[np.bool_]:
        return np.isnan(self.errors)

    def interval(self, alpha: float = 0.05, method: Interval = "percentile-t") -> Array:
        """Ends of the intervals, (2, P); nan for parameters that are held.

        Raises
        ------
        ConfigError
            E102: an unknown method; an alpha with no quantile among so few replications.
        """
        if complaints := not_among("method", method, INTERVALS):
            raise ConfigError(complaints)
        require_level(alpha)
        if method == "normal":
            ends = self.theta + np.outer([-1.0, 1.0], quantile(alpha) * self.standard_errors)
        elif method == "percentile-t":
            ends = self.theta - self._quantiles(self.t_draws, alpha)[::-1] * self.errors
        elif method == "basic":
            ends = 2.0 * self.theta - self._quantiles(self.draws, alpha)[::-1]
        else:
            ends = self._quantiles(self.draws, alpha)
        return np.where(self._held, np.nan, ends)

    def _quantiles(self, values: Array, alpha: float) -> Array:
        """Lower and upper quantile of each column, (2, P)."""
        if self._too_few(alpha):
            what = f"{plural(len(values), 'replication')} have no quantile {alpha / 2:g}"
            least = int(np.ceil(2 / alpha)) - 1
            raise ConfigError(
                Complaint("E102", what, next=f"at least {least} replications, or a larger alpha")
            )
        quantiles: Array = np.quantile(values, [alpha / 2, 1 - alpha / 2], axis=0, method="weibull")
        return quantiles

    def _too_few(self, alpha: float) -> bool:
        return (len(self.draws) + 1) * alpha / 2 < 1

    @property
    def p_values(self) -> Array:
        """Two-sided p-values of ``theta = 0``, ``(1 + #{|t*| >= |t|})/(B + 1)``, (P,)."""
        t = np.abs(self.theta / self.errors)
        beyond = np.sum(np.abs(self.t_draws) >= t, axis=0)
        undecided = self._held | np.any(np.isnan(self.t_draws), axis=0)
        return np.where(undecided, np.nan, (1 + beyond) / (len(self.draws) + 1))

    @property
    def j_pvalue(self) -> float:
        """``(1 + #{J* >= J})/(B + 1)``.

        Raises
        ------
        EstimationError
            E440: no J, or J* that do not have its distribution since they were not recentred.
        """
        if self.j is None or self.j_draws is None:
            what = "no J of the replications: just identified, a weight that is not efficient, or kind wild"
            raise EstimationError(Complaint("E440", what))
        if not self.recentred:
            what = "J of replications whose moments are not recentred: in their population the moments do not hold"
            raise EstimationError(Complaint("E440", what, next="recentre=True"))
        return float(1 + np.sum(self.j_draws >= self.j)) / (len(self.j_draws) + 1)

    # --- by name ------------------------------------------------------------------------------------

    @property
    def bse(self) -> pd.Series:
        """Standard errors by name."""
        return self._series(self.standard_errors, "bse")

    @property
    def bias(self) -> pd.Series:
        """Mean of the draws less the estimate, by name."""
        return self._series(self.draws.mean(axis=0) - self.theta, "bias")

    @property
    def pvalues(self) -> pd.Series:
        """:attr:`p_values` by name."""
        return self._series(self.p_values, "pvalues")

    def cov_params(self) -> pd.DataFrame:
        """Covariance of the draws."""
        import pandas as pd

        return pd.DataFrame(self.covariance, index=list(self.names), columns=list(self.names))

    def conf_int(self, alpha: float = 0.05, method: Interval = "percentile-t") -> pd.DataFrame:
        """Intervals with coverage ``1 - alpha`` by name: :meth:`interval`."""
        import pandas as pd

        low, high = self.interval(alpha, method)
        return pd.DataFrame({"lower": low, "upper": high}, index=list(self.names))

    def _series(self, values: Array, name: str) -> pd.Series:
        import pandas as pd

        return pd.Series(values, index=list(self.names), name=name)

    # --- words --------------------------------------------------------------------------------------

    def verdict(self) -> str:
        """One line: how many replications of which kind, and how many were left out."""
        kind = {"pairs": "pairs", "cluster": "clusters drawn whole", "wild": "wild score"}[self.options.kind]
        left = plural(len(self.failures), "replication") if self.failures else "none"
        return f"bootstrap ({kind}): {plural(self.options.replications, 'replication')}, {left} left out"

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of what stands above the table."""
        rows = [("Fit", self.fit)] if self.fit else []
        rows.append(("Observations", f"{self.n_obs:,}"))
        if self.clusters is not None:
            rows.append(("Clusters", f"{self.clusters[1]:,} of {printable(self.clusters[0])}"))
        rows.append(("Seed", str(self.options.seed)))
        if self.options.kind == "wild":
            rows.append(("Multipliers", self.options.multipliers))
        else:
            text = "recentred" if self.recentred else "not recentred"
            rows.append(("Moments", text if self.df else "as many as parameters"))
        if self.j is not None and self.j_draws is not None:
            mean = f"mean of the replications {self.j_draws.mean():.4g}, {self.df} df"
            text = f"{self.j:.4f}, bootstrap p = {self.j_pvalue:.4g}" if self.recentred else f"{self.j:.4f}"
            rows.append(("J test", f"{text}, {mean}"))
        return rows

    def table(
        self, alpha: float = 0.05, method: Interval = "percentile-t"
    ) -> tuple[list[str], list[list[str]]]:
        """Heading and rows of the table, as text; blank where there is no number."""
        none = np.full((2, len(self.names)), np.nan)
        low, high = none if self._too_few(alpha) else self.interval(alpha, method)
        ends = f"[{alpha / 2:g} {method}", f"{1 - alpha / 2:g}]"
        heading = ["", "coef", "bootstrap se", "analytic se", "bias", "P>|t|", *ends]
        bias = self.draws.mean(axis=0) - self.theta
        columns = zip(
            self.names,
            self.theta,
            self.standard_errors,
            self.errors,
            bias,
            self.p_values,
            low,
            high,
            strict=True,
        )
        formats = (".6g", ".4g", ".4g", ".2g", ".3f", ".4g", ".4g")
        rows = [
            [printable(name), *("" if np.isnan(x) else f"{x:{f}}" for x, f in zip(row, formats, strict=True))]
            for name, *row in columns
        ]
        return heading, rows

    def summary(self, alpha: float = 0.05, method: Interval = "percentile-t") -> Any:
        """A ``statsmodels`` summary: ``as_text()``, ``as_latex()``, ``as_html()``, ``as_csv()``."""
        from gmmest.gmm.summary import FitSummary

        return FitSummary(self.verdict(), self.facts(), *self.table(alpha, method), self.all_notes)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Notes, and what became of the replications that were left out."""
        left_out = (f"W440 replications left out: {text}" for text in told(self.failures))
        few = f"{plural(len(self.draws), 'replication')} are too few for 95 % intervals: at least 39"
        return (*self.notes, *((few,) if self._too_few(0.05) else ()), *left_out)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text; the draws too."""
        ends = np.full((2, len(self.names)), np.nan) if self._too_few(0.05) else self.interval()
        return {
            "kind": self.options.kind,
            "fit": self.fit,
            "n_obs": self.n_obs,
            "clusters": {} if self.clusters is None else dict([self.clusters]),
            "replications": self.options.replications,
            "seed": self.options.seed,
            "recentred": self.recentred,
            "multipliers": self.options.multipliers if self.options.kind == "wild" else None,
            "params": finite_by_name(self.names, self.theta),
            "bse": finite_by_name(self.names, self.standard_errors),
            "bse_analytic": finite_by_name(self.names, self.errors),
            "pvalues": finite_by_name(self.names, self.p_values),
            "percentile_t_95": {
                "lower": finite_by_name(self.names, ends[0]),
                "upper": finite_by_name(self.names, ends[1]),
            },
            "j": self.j,
            "j_pvalue": self.j_pvalue if self.j_draws is not None and self.recentred else None,
            "failures": [{"replication": f.index, "reason": f.reason} for f in self.failures],
            "notes": list(self.notes),
            "draws": [[finite(x) for x in row] for row in self.draws],
            "j_draws": None if self.j_draws is None else [finite(x) for x in self.j_draws],
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """The same as JSON."""
        return json_text(self.as_dict())

    def __repr__(self) -> str:
        pairs = zip(self.names, self.theta, self.standard_errors, strict=True)
        return f"<{self.verdict()}; {', '.join(f'{printable(n)} {b:.6g} ({e:.3g})' for n, b, e in pairs)}>"

    def __str__(self) -> str:
        return str(self.summary())


def told(failures: Sequence[Failure]) -> tuple[str, ...]:
    """The commonest reasons, each with the replications that have it."""
    by_reason: dict[str, list[int]] = {}
    for failure in failures:
        by_reason.setdefault(failure.reason, []).append(failure.index)
    listed = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    told = [f"{some(places)} ({printable(reason)})" for reason, places in listed[:REASONS]]
    more = sum(len(places) for _, places in listed[REASONS:])
    return (*told, f"{more} more for other reasons") if more else tuple(told)
