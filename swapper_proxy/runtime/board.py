"""Everything at one instant, for whoever shows it: the management API and /metrics."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from swapper_proxy.core.forecast import Why
from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import Priority, State
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.ledger import Ledger, Residence, Totals
from swapper_proxy.runtime.model import Model

Status = Literal["loading", "loaded", "draining", "unloading", "unloaded", "error", "missing"]
ParallelSource = Literal["config", "OLLAMA_NUM_PARALLEL", "assumed"]
STATUS: dict[State, Status] = {
    State.ABSENT: "unloaded",
    State.LOADING: "loading",
    State.RESIDENT: "loaded",
    State.DRAINING: "draining",
    State.UNLOADING: "unloading",
}
AT_HAND = (State.LOADING, State.RESIDENT)


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model now.  Times are seconds since the epoch, `size_gb` is None if unknown.

    `holding`: it is idle and kept although others wait, because its client is likely to call again at once.
    """

    name: str
    ollama_name: str
    type: str
    size_gb: float | None
    priority: Priority
    configured: bool
    pinned: bool
    remote: bool
    status: Status
    waiting: int
    gate: int
    in_flight: int
    holding: bool
    totals: Totals
    residence: Residence

    @property
    def loaded(self) -> bool:
        return self.status in ("loaded", "draining")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`active` is the most recently used of the loaded models.

    Requests are counted by (model, endpoint, status), `totals` are by model: those of today and of before.  `waiting`
    and `in_flight` are requests for whatever model.
    """

    active: str | None
    models: tuple[ModelState, ...]
    requests: Mapping[tuple[str, str, int], int]
    remote_requests: Mapping[tuple[str, str, int], int]
    totals: Mapping[str, Totals]
    reachable: bool
    waiting: int = 0
    in_flight: int = 0
    away: str = ""  # that Ollama is not reachable, and why; empty while it is


@dataclass(frozen=True, slots=True)
class Waiting:
    """One who waits.  `since`, `deadline` (of a forced swap) and `start` (a guess) are seconds since the epoch.

    `blocker` is the model that is in the way.
    """

    model: str
    priority: Priority
    since: float
    deadline: float
    start: float
    why: Why
    blocker: str


@dataclass(frozen=True, slots=True)
class Lane:
    """How many requests go to a model at once, and where that number comes from."""

    model: str
    waiting: int
    in_flight: int
    parallel: int
    parallel_source: ParallelSource

    @property
    def doubtful(self) -> bool:
        """Requests for a model in memory wait because of a number that was only assumed."""
        return self.parallel_source == "assumed" and self.waiting > 0 and self.in_flight >= self.parallel


class Board:
    """Reads, changes nothing."""

    def __init__(self, catalog: Catalog, engine: Engine, ledger: Ledger) -> None:
        self._catalog = catalog
        self._engine = engine
        self._ledger = ledger

    def snapshot(self) -> Snapshot:
        records, of = self._engine.residencies(), defaultdict[str, list[Residency]](list)
        for record in records:
            of[record.key.runner].append(record)
        models = tuple(self._state(model, of[model.runner]) for model in self._catalog.models())
        return Snapshot(
            active=self._active(records),
            models=models,
            requests=self._ledger.requests,
            remote_requests=self._ledger.remote_requests,
            totals=self._ledger.by_model,
            reachable=self._engine.reachable,
            waiting=self._engine.waiting,
            in_flight=sum(len(r.in_flight) for r in records),
            away="" if self._engine.reachable else self._engine.ollama.trouble,
        )

    @property
    def trouble(self) -> str:
        """Return what keeps requests from being served, for people; empty if nothing does."""
        if not self._engine.reachable:
            return self._engine.ollama.trouble
        if self._engine.is_blind:
            return "the scheduler failed, and what is in memory is not known yet"
        now = self._engine.now
        for record in self._engine.residencies():
            if record.state is State.LOADING and now - record.changed_at > record.profile.swap_timeout_s:
                return f"a load takes longer than model_swap_timeout: {self._engine.name_of(record.key)}"
        return ""

    @property
    def waiting(self) -> int:
        """All who wait."""
        return self._engine.waiting

    def queue(self) -> tuple[Waiting, ...]:
        """All whose model is known and who wait for it, the likely next first."""
        epoch = time.time() - self._engine.now
        name = self._engine.name_of
        waiting = (
            Waiting(
                model=model,
                priority=outlook.waiter.priority,
                since=epoch + outlook.waiter.arrived_at,
                deadline=epoch + outlook.deadline,
                start=epoch + outlook.start,
                why=outlook.why,
                blocker=name(outlook.blocker) if outlook.blocker else "",
            )
            for model, outlook in self._engine.queue()
        )
        return tuple(sorted(waiting, key=lambda w: w.start))

    def lanes(self) -> tuple[Lane, ...]:
        """Of the models that are wanted or in memory."""
        return tuple(self._lane(r) for r in self._engine.residencies() if r.occupies or r.waiters)

    def _lane(self, record: Residency) -> Lane:
        model = next(iter(self._catalog.serving(record.key.runner)), None)
        return Lane(
            model=self._engine.name_of(record.key),
            waiting=len(record.waiters),
            in_flight=len(record.in_flight),
            parallel=record.profile.parallel,
            parallel_source=self._catalog.treatment.parallel(model)[1] if model else "assumed",
        )

    def model(self, name: str) -> ModelState | None:
        """One model by any of its spellings; None if it is neither configured nor installed."""
        model = self._catalog.meaning(name).model
        if model is None:
            return None
        return self._state(model, [r for r in self._engine.residencies() if r.key.runner == model.runner])

    def is_at_hand(self, name: str) -> bool:
        """Whether the model of this name is in memory or being loaded, and not about to go."""
        model = self._catalog.meaning(name).model
        records = self._engine.residencies()
        return model is not None and any(r.key.runner == model.runner and r.state in AT_HAND for r in records)

    def _active(self, records: tuple[Residency, ...]) -> str | None:
        held = [r for r in records if r.state in (State.RESIDENT, State.DRAINING)]
        latest = max(held, key=lambda r: r.last_used, default=None)
        return self._engine.name_of(latest.key) or None if latest else None

    def _state(self, model: Model, mine: list[Residency]) -> ModelState:
        residence = self._ledger.residence(model.runner)
        return ModelState(
            name=model.name,
            ollama_name=model.ollama_name,
            type=model.type,
            size_gb=self._catalog.size_gb(model),
            priority=model.priority,
            configured=model.configured is not None,
            pinned=self._catalog.is_pinned(model),
            remote=model.remote,
            status=self._status(model, mine, residence),
            waiting=sum(len(r.waiters) for r in mine),
            gate=sum(r.gate_left for r in mine),
            in_flight=sum(len(r.in_flight) for r in mine),
            holding=self._engine.waiting > 0 and any(not r.past_hold(self._engine.now) for r in mine),
            totals=self._ledger.totals(model.name),
            residence=residence,
        )

    def _status(self, model: Model, mine: list[Residency], residence: Residence) -> Status:
        if occupying := next((r for r in mine if r.occupies), None):
            return STATUS[occupying.state]
        if self._engine.reachable and not self._catalog.is_installed(model):
            return "missing"
        return "error" if residence.failed else "unloaded"
