"""Settings: YAML file < environment < command line.  Every check of them is here.

A setting that is unknown, of a wrong type or out of range, or that contradicts another, raises ConfigError with one
line that names where it came from, the key path and what was expected.
"""

from swapper_proxy.config.checks import warnings
from swapper_proxy.config.loading import ENVIRONMENT, load
from swapper_proxy.config.settings import (
    ConfigError,
    History,
    Logging,
    MaxWait,
    Metrics,
    Model,
    Route,
    RunnerOptions,
    Section,
    Server,
    Settings,
    Swapper,
    Upstream,
)

__all__ = [
    "ENVIRONMENT",
    "ConfigError",
    "History",
    "Logging",
    "MaxWait",
    "Metrics",
    "Model",
    "Route",
    "RunnerOptions",
    "Section",
    "Server",
    "Settings",
    "Swapper",
    "Upstream",
    "load",
    "warnings",
]
