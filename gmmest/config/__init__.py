"""Configurations: YAML in, one frozen record out, every complaint at once with its line.

``tree`` turns text into values that know their line, ``schema`` and ``model_kinds`` hold the records and
their rules, ``load`` joins the two.  Nothing here builds a model or opens a data file.
"""

from gmmest.config.load import load, loads
from gmmest.config.model_kinds import (
    ExponentialIVConfig,
    InstrumentsConfig,
    LinearIVConfig,
    LogitConfig,
    MomentFunctionConfig,
    TermConfig,
)
from gmmest.config.schema import BootstrapConfig, Config, DataConfig, EstimationConfig, SimulateConfig

__all__ = [
    "BootstrapConfig",
    "Config",
    "DataConfig",
    "EstimationConfig",
    "ExponentialIVConfig",
    "InstrumentsConfig",
    "LinearIVConfig",
    "LogitConfig",
    "MomentFunctionConfig",
    "SimulateConfig",
    "TermConfig",
    "load",
    "loads",
]
