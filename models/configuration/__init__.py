"""Configurations of training runs: typed sections, shipped files and command-line overrides."""

from models.configuration.config import (
    Config,
    OptimConfig,
    ScheduleConfig,
    describe_options,
    from_dict,
    to_dict,
    to_yaml,
)
from models.configuration.files import load, shipped
from models.configuration.validation import Strict, checked_options, validated

__all__ = [
    "Config",
    "OptimConfig",
    "ScheduleConfig",
    "Strict",
    "checked_options",
    "describe_options",
    "from_dict",
    "load",
    "shipped",
    "to_dict",
    "to_yaml",
    "validated",
]
