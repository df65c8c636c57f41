"""Configurations: YAML in, one frozen record out, every complaint at once with its line.

``tree`` turns text into values that know their line, ``schema`` holds the records and their rules,
``load`` joins the two.  Nothing here builds a model or opens a data file.
"""

from gmmest.config.load import load, loads
from gmmest.config.schema import (
    Config,
    DataConfig,
    EstimationConfig,
    InstrumentsConfig,
    ModelConfig,
    SimulateConfig,
    TermConfig,
)

__all__ = [
    "Config",
    "DataConfig",
    "EstimationConfig",
    "InstrumentsConfig",
    "ModelConfig",
    "SimulateConfig",
    "TermConfig",
    "load",
    "loads",
]
