"""How coverage and size are measured: seeded replications of a planted logit, counted and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binomtest, chi2, norm

from gmmest.gmm.estimator import GMMEstimator
from gmmest.gmm.results import GMMResults
from gmmest.models.logit import Logit
from gmmest.simulate import simulate_logit

REJECTED = 1e-3
"""A right procedure is called wrong once in a thousand parameters; seeds are fixed, so it either is or is not."""
LEVEL = 0.95
PARAMETERS, MOMENTS = 3, 6
ALTERNATIVES = (3, 5)


@dataclass(frozen=True, slots=True)
class Study:
    """Counts over replications.

    Parameters
    ----------
    replications, sets : int
    covered : tuple of int
        Nominal 95 % intervals that hold the planted value, for each parameter.
    squares : float
        Sum of ``(theta - planted)'V^-1(theta - planted)`` over replications, chi-squared with as many degrees of
        freedom as there are replications and parameters.  It sees what is wrong with V long before coverage
        does: standard errors x 0.9 multiply it by 1.23.
    j_rejected : int
        J tests with p below 0.05.
    unverified : int
    """

    replications: int
    sets: int
    covered: tuple[int, ...]
    squares: float
    j_rejected: int
    unverified: int

    @property
    def coverage_pvalues(self) -> tuple[float, ...]:
        """Exact binomial p-values of 95 % coverage, two-sided."""
        return tuple(binomtest(k, self.replications, LEVEL).pvalue for k in self.covered)

    @property
    def degrees(self) -> int:
        """Degrees of freedom of ``squares``."""
        return self.replications * len(self.covered)

    @property
    def spread_pvalue(self) -> float:
        """p-value of V being the covariance of the estimates, two-sided."""
        below = chi2.cdf(self.squares, self.degrees)
        return float(2.0 * min(below, chi2.sf(self.squares, self.degrees)))

    @property
    def j_pvalue(self) -> float:
        """Exact binomial p-value of a size of 5 %."""
        return float(binomtest(self.j_rejected, self.replications, 1.0 - LEVEL).pvalue)

    @property
    def passes(self) -> bool:
        """Whether neither 95 % coverage of a parameter nor V is rejected."""
        return min(*self.coverage_pvalues, self.spread_pvalue) >= REJECTED

    def __str__(self) -> str:
        shares = ", ".join(f"{100 * k / self.replications:.2f} %" for k in self.covered)
        ps = ", ".join(f"{p:.3g}" for p in self.coverage_pvalues)
        return (
            f"N = {self.sets}, {self.replications} replications: coverage {shares} (p = {ps}); squares over"
            f" degrees of freedom {self.squares / self.degrees:.3f} (p = {self.spread_pvalue:.3g}); J rejects"
            f" {100 * self.j_rejected / self.replications:.2f} % (p = {self.j_pvalue:.3g});"
            f" unverified {self.unverified}"
        )


Fault = Callable[[GMMResults], float]
"""What a fault multiplies standard errors by."""
FAULTS: dict[str, Fault] = {
    "none": lambda fit: 1.0,
    "rows counted for sets": lambda fit: float(np.sqrt(fit.n_obs / fit.n_rows)),
    "standard errors x 0.9": lambda fit: 0.9,
}


def run(replications: int, sets: int, first_seed: int = 0, moments: int = MOMENTS) -> dict[str, Study]:
    """Fit every replication once; judge right standard errors and those with each planted fault."""
    reach = float(norm.ppf(0.5 + LEVEL / 2.0))
    covered = {name: np.zeros(PARAMETERS, dtype=int) for name in FAULTS}
    squares = dict.fromkeys(FAULTS, 0.0)
    rejected = unverified = 0
    for seed in range(first_seed, first_seed + replications):
        drawn = simulate_logit(
            sets=sets, alternatives=ALTERNATIVES, features=PARAMETERS, moments=moments, seed=seed
        )
        fit = GMMEstimator(Logit(), drawn.data).fit()
        unverified += not fit.verified
        gap = fit.theta - drawn.theta
        white = np.linalg.solve(np.linalg.cholesky(fit.estimate.v), gap)
        for name, fault in FAULTS.items():
            covered[name] += np.abs(gap) <= reach * fault(fit) * fit.standard_errors
            squares[name] += float(white @ white) / fault(fit) ** 2
        test = fit.j_test()
        assert test is not None
        rejected += test.pvalue < 1.0 - LEVEL
    return {
        name: Study(
            replications, sets, tuple(int(k) for k in counts), squares[name], int(rejected), unverified
        )
        for name, counts in covered.items()
    }


@pytest.fixture(scope="session")
def study() -> Callable[..., dict[str, Study]]:
    """``study(replications, sets)``: right and faulty procedures by name."""
    return run
