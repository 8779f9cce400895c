"""Everything at one instant, for whoever shows it: the management API and /metrics."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import State
from swapper_proxy.runtime.catalog import Catalog, Model
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.ledger import Ledger, Residence

STATUS = {
    State.ABSENT: "unloaded",
    State.LOADING: "loading",
    State.RESIDENT: "loaded",
    State.DRAINING: "draining",
    State.UNLOADING: "unloading",
}


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model now.  Times are seconds since the epoch, `size_gb` is None if unknown."""

    name: str
    ollama_name: str
    type: str
    size_gb: float | None
    priority: str
    configured: bool
    status: str
    waiting: int
    in_flight: int
    request_count: int
    residence: Residence

    @property
    def loaded(self) -> bool:
        return self.status in ("loaded", "draining")

    def uptime_s(self, now: float) -> float:
        return self.residence.uptime_s(now)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`active` is the most recently used of the loaded models; `requests` counts (model, endpoint, status)."""

    active: str | None
    models: tuple[ModelState, ...]
    requests: Mapping[tuple[str, str, int], int]
    reachable: bool


class Board:
    """Reads, changes nothing."""

    def __init__(self, catalog: Catalog, engine: Engine, ledger: Ledger) -> None:
        self._catalog = catalog
        self._engine = engine
        self._ledger = ledger

    def snapshot(self) -> Snapshot:
        records = self._engine.residencies()
        models = tuple(self._state(model, records) for model in self._catalog.models())
        return Snapshot(self._active(records), models, self._ledger.requests, self._engine.reachable)

    def model(self, name: str) -> ModelState | None:
        """One model by any of its spellings; None if it is neither configured nor installed."""
        model = self._catalog.by_name(name)
        return None if model is None else self._state(model, self._engine.residencies())

    def _active(self, records: tuple[Residency, ...]) -> str | None:
        held = [r for r in records if r.state in (State.RESIDENT, State.DRAINING)]
        latest = max(held, key=lambda r: r.last_used, default=None)
        return self._engine.name_of(latest.key) or None if latest else None

    def _state(self, model: Model, records: tuple[Residency, ...]) -> ModelState:
        mine = [r for r in records if r.key.runner == model.runner]
        configured = model.configured
        residence = self._ledger.residence(model.runner)
        return ModelState(
            name=model.name,
            ollama_name=model.ollama_name,
            type=configured.type if configured else "embedding" if model.embedding_only else "llm",
            size_gb=model.size_gb,
            priority=configured.priority if configured else "medium",
            configured=configured is not None,
            status=self._status(model, mine, residence),
            waiting=sum(len(r.waiters) for r in mine),
            in_flight=sum(len(r.in_flight) for r in mine),
            request_count=self._ledger.request_count(model.name),
            residence=residence,
        )

    def _status(self, model: Model, mine: list[Residency], residence: Residence) -> str:
        if occupying := next((r for r in mine if r.occupies), None):
            return STATUS[occupying.state]
        if self._engine.reachable and not self._catalog.is_installed(model):
            return "missing"
        return "error" if residence.failed else "unloaded"


def uptime_total_s(residence: Residence) -> float:
    """All residencies of a runner together, the present one included."""
    return residence.total_s + residence.uptime_s(time.time())
