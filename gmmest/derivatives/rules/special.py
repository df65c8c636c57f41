"""scipy.special on dual numbers; loaded when one of its functions first meets them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from gmmest.derivatives.rules.elementwise import elementwise

_ROOT_PI = np.sqrt(np.pi)
_ROOT_2PI = np.sqrt(2.0 * np.pi)


def _density(x: Any) -> Any:
    return np.exp(-0.5 * x * x) / _ROOT_2PI


elementwise(special.expit, lambda x, y: y * special.expit(-x))
elementwise(special.logit, lambda x, y: 1.0 / (x * (1.0 - x)))
elementwise(special.log_expit, lambda x, y: special.expit(-x))
elementwise(special.erf, lambda x, y: 2.0 / _ROOT_PI * np.exp(-x * x))
elementwise(special.erfc, lambda x, y: -2.0 / _ROOT_PI * np.exp(-x * x))
elementwise(special.erfinv, lambda x, y: 0.5 * _ROOT_PI * np.exp(y * y))
elementwise(special.ndtr, lambda x, y: _density(x))
elementwise(special.log_ndtr, lambda x, y: np.exp(-0.5 * x * x - y) / _ROOT_2PI)
elementwise(special.ndtri, lambda x, y: _ROOT_2PI * np.exp(0.5 * y * y))
elementwise(special.gammaln, lambda x, y: special.digamma(x))
elementwise(special.gamma, lambda x, y: y * special.digamma(x))
elementwise(special.digamma, lambda x, y: special.polygamma(1, x))
elementwise(special.xlogy, lambda a, b, y: np.log(b), lambda a, b, y: a / b)
elementwise(special.xlog1py, lambda a, b, y: np.log1p(b), lambda a, b, y: a / (1.0 + b))
