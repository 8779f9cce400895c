"""What happened, for the management API and /metrics: residency times per runner, requests per model."""

import time
from collections import Counter
from dataclasses import dataclass

from swapper_proxy.core.commands import Changed
from swapper_proxy.core.types import Cause, State

HELD = (State.RESIDENT, State.DRAINING, State.UNLOADING)


@dataclass(slots=True)
class Residence:
    """When a runner was in memory.  Times are seconds since the epoch; `total_s` is of residencies that are over."""

    loaded_at: float | None = None
    unloaded_at: float | None = None
    total_s: float = 0.0
    held: bool = False
    failed: bool = False  # the last load did

    def uptime_s(self, now: float) -> float:
        """How long the present residency has lasted; 0 if there is none."""
        return now - self.loaded_at if self.held and self.loaded_at is not None else 0.0


class Ledger:
    """Written by the engine (residency) and the proxy (requests), read by whoever shows it."""

    def __init__(self) -> None:
        self._residences: dict[str, Residence] = {}
        self.requests: Counter[tuple[str, str, int]] = Counter()  # (model, endpoint, HTTP status)
        self._per_model: Counter[str] = Counter()

    def changed(self, change: Changed) -> None:
        """A runner changed its state."""
        residence = self._residences.setdefault(change.key.runner, Residence())
        now, holds = time.time(), change.state in HELD
        if holds and not residence.held:
            residence.loaded_at, residence.unloaded_at, residence.failed = now, None, False
        elif residence.held and not holds:
            residence.total_s += residence.uptime_s(now)
            residence.unloaded_at = now
        residence.held = holds
        residence.failed = change.state is State.ABSENT and change.cause is Cause.FAILED

    def count(self, model: str, endpoint: str, status: int) -> None:
        """An inference request was handed to Ollama, which answered with this status (502: it broke off before)."""
        self.requests[model, endpoint, status] += 1
        self._per_model[model] += 1

    def request_count(self, model: str) -> int:
        return self._per_model[model]

    def residence(self, runner: str) -> Residence:
        return self._residences.get(runner) or Residence()
