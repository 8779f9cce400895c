"""Settings: YAML file < environment < command line.  Every check of them is here.

A setting that is unknown, of a wrong type or out of range, or that contradicts another, raises ConfigError.  Its
text has a line for each, which names where it came from, the key path and what was expected.
"""

from swapper_proxy.config.checks import warnings
from swapper_proxy.config.keys import digest, hashed, hidden
from swapper_proxy.config.loading import ENVIRONMENT, load
from swapper_proxy.config.settings import (
    ClientKey,
    ConfigError,
    HeaderSource,
    History,
    Keys,
    Logging,
    ManagementKey,
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
from swapper_proxy.config.shown import shown
from swapper_proxy.config.upstream import trust

__all__ = [
    "ENVIRONMENT",
    "ClientKey",
    "ConfigError",
    "HeaderSource",
    "History",
    "Keys",
    "Logging",
    "ManagementKey",
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
    "digest",
    "hashed",
    "hidden",
    "load",
    "shown",
    "trust",
    "warnings",
]
