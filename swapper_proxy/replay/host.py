"""What the scheduler is told of a workload: the limits of the host and the profile of each model.

A key of the workload wins; what it leaves out is taken from the configuration; without one the queue is unlimited and
the defaults hold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from msgspec import UNSET

from swapper_proxy.config import Settings
from swapper_proxy.core.types import Limits, Priority, Profile
from swapper_proxy.replay.workload import Model, Workload

UNLIMITED = 10**9


@dataclass(frozen=True, slots=True)
class Host:
    """The limits, and how each model (by name) is to be treated."""

    limits: Limits
    profiles: Mapping[str, Profile]
    priorities: Mapping[str, Priority]


def of(workload: Workload, settings: Settings | None = None) -> Host:
    """The host of a workload."""
    return Host(
        limits=_limits(workload, settings),
        profiles={name: _profile(name, model, settings) for name, model in workload.models.items()},
        priorities={name: _priority(name, model, settings) for name, model in workload.models.items()},
    )


def _limits(workload: Workload, settings: Settings | None) -> Limits:
    limits = settings.limits if settings else Limits(max_queue=UNLIMITED)
    if workload.memory_budget_gb is not UNSET:
        limits = replace(limits, memory_gb=workload.memory_budget_gb)
    return replace(limits, max_resident=_max_resident(workload, settings, limits))


def _max_resident(workload: Workload, settings: Settings | None, limits: Limits) -> int:
    """With several models active and no number said, a memory budget is the only limit."""
    configured = settings.swapper.mode if settings else "single-active"
    if (workload.mode or configured) == "single-active":
        return 1
    if workload.max_concurrent_models is not None:
        return workload.max_concurrent_models
    if configured == "multi-active" and workload.memory_budget_gb is UNSET:
        return limits.max_resident
    return UNLIMITED if limits.memory_gb is not None else 1


def _profile(name: str, model: Model, settings: Settings | None) -> Profile:
    configured = settings.models.get(name) if settings else None
    parallel = model.parallel or (configured and configured.parallel) or (settings and settings.swapper.parallel)
    size_gb = model.size_gb if model.size_gb is not None else (configured.size_gb if configured else None)
    return Profile(
        parallel=parallel or 1,
        swap_timeout_s=math.inf,
        size_gb=size_gb,
        slot=configured.type if configured else "",
        pinned=configured is not None and configured.pinned,
        max_queue=configured.max_queue if configured else None,
    )


def _priority(name: str, model: Model, settings: Settings | None) -> Priority:
    configured = settings.models.get(name) if settings else None
    return model.priority or Priority(configured.priority if configured else Priority.MEDIUM)
