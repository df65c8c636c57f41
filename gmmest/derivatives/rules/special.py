"""scipy.special on dual numbers; loaded when one of its functions first meets them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from gmmest.derivatives.dual import Level
from gmmest.derivatives.refusals import refuse_unsupported
from gmmest.derivatives.rules.elementwise import combine, elementwise
from gmmest.derivatives.rules.table import rule

_hurwitz = getattr(special._ufuncs, "_zeta", special.zeta)  # the ufunc behind special.zeta(s, x)
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
elementwise(special.digamma, lambda x, y: _hurwitz(2.0, x))
elementwise(special.xlogy, lambda a, b, y: np.log(b), lambda a, b, y: a / b)
elementwise(special.xlog1py, lambda a, b, y: np.log1p(b), lambda a, b, y: a / (1.0 + b))
elementwise(special.loggamma, lambda x, y: special.digamma(x))
elementwise(special.rgamma, lambda x, y: -y * special.digamma(x))
elementwise(special.erfcx, lambda x, y: 2.0 * x * y - 2.0 / _ROOT_PI)
elementwise(special.erfcinv, lambda x, y: -0.5 * _ROOT_PI * np.exp(y * y))
elementwise(special.expm1, lambda x, y: y + 1.0)
elementwise(special.log1p, lambda x, y: 1.0 / (1.0 + x))
elementwise(special.exp2, lambda x, y: y * np.log(2.0))
elementwise(special.exp10, lambda x, y: y * np.log(10.0))
elementwise(special.cbrt, lambda x, y: 1.0 / (3.0 * y * y))
elementwise(special.entr, lambda x, y: -np.log(x) - 1.0)
elementwise(special.rel_entr, lambda a, b, y: np.log(a / b) + 1.0, lambda a, b, y: -a / b)
elementwise(
    special.betaln,
    lambda a, b, y: special.digamma(a) - special.digamma(a + b),
    lambda a, b, y: special.digamma(b) - special.digamma(a + b),
)
elementwise(special.j0, lambda x, y: -special.j1(x))


@rule(_hurwitz)
def _zeta(level: Level, order: Any, x: Any) -> Any:
    """Hurwitz: d zeta(s, x)/dx = -s zeta(s + 1, x); polygamma(m, x) is a multiple of zeta(m + 1, x)."""
    if level.owns(order):
        refuse_unsupported("scipy.special.zeta with an active order")
    value = x.buffer[0, ...]
    return combine(level, _hurwitz(order, value), [(x, -order * _hurwitz(order + 1.0, value))])
