"""gmmest: generalized method of moments with gradients that are exact and fast.

Names load when they are first used (PEP 562), so that ``import gmmest`` costs little more than NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "ops": "gmmest.derivatives.ops",
    "derivative": "gmmest.derivatives.operators",
    "gradient": "gmmest.derivatives.operators",
    "hessian": "gmmest.derivatives.operators",
    "hvp": "gmmest.derivatives.operators",
    "jacobian": "gmmest.derivatives.operators",
    "jvp": "gmmest.derivatives.operators",
    "implicit_root": "gmmest.derivatives.primitive",
    "prepare": "gmmest.derivatives.prepare",
    "primitive": "gmmest.derivatives.primitive",
    "value_and_gradient": "gmmest.derivatives.operators",
    "value_and_jacobian": "gmmest.derivatives.operators",
    "vjp": "gmmest.derivatives.operators",
    "with_derivative": "gmmest.derivatives.analytic",
    "Analytic": "gmmest.derivatives.backends",
    "Auto": "gmmest.derivatives.backends",
    "ComplexStep": "gmmest.derivatives.backends",
    "FiniteDifference": "gmmest.derivatives.backends",
    "ForwardDual": "gmmest.derivatives.backends",
    "Jax": "gmmest.derivatives.backends",
    "ChoiceData": "gmmest.data.choice_data",
    "ChoiceFiles": "gmmest.data.choice_files",
    "Table": "gmmest.data.table",
    "Constant": "gmmest.models.terms",
    "Term": "gmmest.models.terms",
    "Logit": "gmmest.models.logit",
    "MomentFunction": "gmmest.models.moment_function",
    "ExponentialIV": "gmmest.models.regression",
    "LinearIV": "gmmest.models.regression",
    "Dask": "gmmest.execution.dask",
    "Threads": "gmmest.execution.threads",
    "GMMEstimator": "gmmest.gmm.estimator",
    "GMMResults": "gmmest.gmm.results",
    "NonlinearLeastSquares": "gmmest.gmm.least_squares",
    "Complaint": "gmmest.errors",
    "ConfigError": "gmmest.errors",
    "DataError": "gmmest.errors",
    "DerivativeError": "gmmest.errors",
    "EstimationError": "gmmest.errors",
    "ExecutionError": "gmmest.errors",
    "FileError": "gmmest.errors",
    "GmmestError": "gmmest.errors",
    "IdentificationError": "gmmest.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from gmmest.data.choice_data import ChoiceData
    from gmmest.data.choice_files import ChoiceFiles
    from gmmest.data.table import Table
    from gmmest.derivatives import ops
    from gmmest.derivatives.analytic import with_derivative
    from gmmest.derivatives.backends import Analytic, Auto, ComplexStep, FiniteDifference, ForwardDual, Jax
    from gmmest.derivatives.operators import (
        derivative,
        gradient,
        hessian,
        hvp,
        jacobian,
        jvp,
        value_and_gradient,
        value_and_jacobian,
        vjp,
    )
    from gmmest.derivatives.prepare import prepare
    from gmmest.derivatives.primitive import implicit_root, primitive
    from gmmest.errors import (
        Complaint,
        ConfigError,
        DataError,
        DerivativeError,
        EstimationError,
        ExecutionError,
        FileError,
        GmmestError,
        IdentificationError,
    )
    from gmmest.gmm.estimator import GMMEstimator
    from gmmest.gmm.least_squares import NonlinearLeastSquares
    from gmmest.gmm.results import GMMResults
    from gmmest.models.logit import Logit
    from gmmest.models.moment_function import MomentFunction
    from gmmest.models.regression import ExponentialIV, LinearIV
    from gmmest.models.terms import Constant, Term

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gmmest")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gmmest' has no attribute {name!r}")
    module = import_module(home)
    value = module if home.endswith(f".{name}") and name == "ops" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
