"""Which estimator of the covariance S of the contributions is meant, with all that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from gmmest.errors import Complaint, ConfigError, not_among
from gmmest.gmm.kernels import BANDWIDTHS, KERNELS, Bandwidth, Kernel

__all__ = ["ESTIMATORS", "CovarianceOptions", "Estimator"]

Estimator = Literal["robust", "unadjusted", "cluster", "twoway", "kernel"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


@dataclass(frozen=True, slots=True)
class CovarianceOptions:
    """Which estimator of S, with all that it needs.

    Parameters
    ----------
    estimator : {"robust", "unadjusted", "cluster", "twoway", "kernel"}
    centred : bool
        Whether the mean contribution is taken off first.
    kernel : {"bartlett", "parzen", "qs"}
    bandwidth : float, "newey-west" or "andrews"
    cluster : tuple of str
        Names of the clusters among those of the data; all of them by default.
    small_sample : bool
        Whether S is multiplied by ``N/(N - P)``, and for clusters by ``G/(G - 1) (N - 1)/(N - P)``; P counts
        absorbed effects.

    Examples
    --------
    >>> CovarianceOptions("kernel", bandwidth=4).text
    'kernel (not centred)'
    """

    estimator: Estimator = "robust"
    centred: bool = False
    kernel: Kernel = "bartlett"
    bandwidth: Bandwidth = "newey-west"
    cluster: tuple[str, ...] = ()
    small_sample: bool = False

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.estimator} ({'centred' if self.centred else 'not centred'})"

    def changed(
        self,
        estimator: Estimator | None,
        centred: bool | None,
        kernel: Kernel | None,
        bandwidth: Bandwidth | None,
        cluster: tuple[str, ...] | None,
        small_sample: bool | None,
    ) -> CovarianceOptions:
        """These options with those that are given put in; one that would play no part is refused (E102)."""
        options = CovarianceOptions(
            self.estimator if estimator is None else estimator,
            self.centred if centred is None else centred,
            self.kernel if kernel is None else kernel,
            self.bandwidth if bandwidth is None else bandwidth,
            self.cluster if cluster is None else cluster,
            self.small_sample if small_sample is None else small_sample,
        )
        complaints = options.complaints()
        parts: tuple[tuple[str, object, tuple[str, ...]], ...] = (
            ("kernel", kernel, ("kernel",)),
            ("bandwidth", bandwidth, ("kernel",)),
            ("cluster", cluster, ("cluster", "twoway")),
        )
        for name, given, needs in parts:
            if given is not None and options.estimator not in needs:
                what = f"{name} plays no part with weighting {options.estimator!r}"
                complaints.append(Complaint("E102", what, next=f"weighting: {' or '.join(needs)}"))
        if complaints:
            raise ConfigError(complaints)
        return options

    def complaints(self) -> list[Complaint]:
        """What is wrong with the options, without a look at data."""
        found = [
            *not_among("weighting", self.estimator, ESTIMATORS),
            *not_among("kernel", self.kernel, KERNELS),
        ]
        b = self.bandwidth
        number = isinstance(b, (int, float, np.integer, np.floating)) and not isinstance(b, bool)
        if (number and not 0 <= float(b) < np.inf) or (not number and b not in BANDWIDTHS):
            what = f"bandwidth is {b!r}; expected a number from 0, {' or '.join(BANDWIDTHS)}"
            found.append(Complaint("E102", what))
        flags: tuple[tuple[str, object], ...] = (
            ("centred", self.centred),
            ("small_sample", self.small_sample),
        )
        for name, flag in flags:
            if not isinstance(flag, (bool, np.bool_)):
                found.append(Complaint("E102", f"{name} is {flag!r}; True or False was expected"))
        if self.centred is True and self.estimator == "unadjusted":
            what = "centred has no meaning with weighting 'unadjusted': what a model implies has mean zero"
            found.append(Complaint("E102", what, next="weighting: robust"))
        return found
