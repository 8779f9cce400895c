"""Everything at one instant, for whoever shows it: the management API and /metrics."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from swapper_proxy.core.forecast import Outlook, Why
from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import Priority, State
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.ledger import Ledger, Residence, Totals
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.shown import STATUS, TOLD, Facts, Ollama, Status, counts

ParallelSource = Literal["config", "OLLAMA_NUM_PARALLEL", "assumed"]
AT_HAND = (State.LOADING, State.RESIDENT)


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model now.  Times are seconds since the epoch, `size_gb` is None if unknown.

    Several models may be names of the same weights: `known_as` is the name that these are told of under.  `facts` and
    `residence` are those of the weights; `waiting`, `gate` and `in_flight` count the requests that asked for this name.
    `work` tells of these for people.
    """

    name: str
    known_as: str
    ollama_name: str
    type: str
    size_gb: float | None
    priority: Priority
    configured: bool
    facts: Facts
    waiting: int
    gate: int
    in_flight: int
    work: str
    totals: Totals
    residence: Residence

    @property
    def status(self) -> Status:
        return self.facts.status

    @property
    def loaded(self) -> bool:
        return self.status in ("loaded", "draining")


@dataclass(frozen=True, slots=True)
class Resident:
    """What takes up room in memory once, whatever it is called: `names` are all the models that are served by it.

    `type` is that of the model it was loaded as; `size_gb` is what the scheduler counts it for, None if unknown.
    """

    model: str
    names: tuple[str, ...]
    type: str
    size_gb: float | None
    status: Status


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`active` is the most recently used of the loaded models; `trouble` is empty if nothing is wrong.

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
    residents: tuple[Resident, ...] = ()
    trouble: str = ""
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """One who waits.  `since`, `deadline` (of a forced swap) and `start` (a guess) are seconds since the epoch.

    `start` is None while there is no telling, `forces_at` unless a swap may be forced for it from then on.  `blocker`
    is the model that is in the way, `reason` is `why` in words.
    """

    model: str
    priority: Priority
    since: float
    deadline: float
    start: float | None
    forces_at: float | None
    why: Why
    reason: str
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


@dataclass(frozen=True, slots=True)
class Work:
    """How many requests wait, pass the gate and are answered, by the name of the model that they asked for."""

    waiting: Counter[str] = field(default_factory=Counter)
    gate: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)


class Board:
    """Reads, changes nothing."""

    def __init__(self, catalog: Catalog, engine: Engine, ledger: Ledger) -> None:
        self._catalog = catalog
        self._engine = engine
        self._ledger = ledger
        self._started_at = time.time()

    def snapshot(self) -> Snapshot:
        records = self._engine.residencies()
        of, known = self._by_runner(records), self._catalog.models()
        work, names = self._work(records), self._names(known)
        return Snapshot(
            active=self._active(records),
            models=tuple(self._state(model, of[model.runner], names[model.runner], work) for model in known),
            requests=self._ledger.requests,
            remote_requests=self._ledger.remote_requests,
            totals=self._ledger.by_model,
            reachable=self._engine.reachable,
            waiting=self._engine.waiting,
            in_flight=sum(len(r.in_flight) for r in records),
            residents=tuple(self._residents(records, names)),
            trouble=self.trouble,
            started_at=self._started_at,
        )

    def _by_runner(self, records: Iterable[Residency]) -> Mapping[str, list[Residency]]:
        of = defaultdict[str, list[Residency]](list)
        for record in records:
            of[record.key.runner].append(record)
        return of

    def _names(self, known: Iterable[Model]) -> Mapping[str, list[str]]:
        """Return the names of each runner that Ollama has."""
        names = defaultdict[str, list[str]](list)
        for model in known:
            if self._catalog.is_installed(model):
                names[model.runner].append(model.name)
        return names

    def _residents(self, records: Iterable[Residency], names: Mapping[str, list[str]]) -> Iterator[Resident]:
        for record in records:
            if record.occupies:
                size_gb, kind = record.size_gb or None, record.profile.slot
                name = self._engine.name_of(record.key)
                others = (other for other in names[record.key.runner] if other != name)
                yield Resident(name, (name, *others), kind, size_gb, STATUS[record.state])

    def _work(self, records: Iterable[Residency]) -> Work:
        work = Work()
        for record in records:
            for waiter in record.waiters:
                name = self._asked_for(waiter.id, record)
                work.waiting[name] += 1
                work.gate[name] += record.gate_left > 0 and record.is_in_gate(waiter)
            for request in record.in_flight:
                work.in_flight[self._asked_for(request, record)] += 1
        return work

    def _asked_for(self, request: int, record: Residency) -> str:
        """Return the name that a request counts for: what it asked for may be known under another one by now."""
        name = self._engine.asked_for(request)
        model = self._catalog.meaning(name).model if name else None
        return model.name if model and model.runner == record.key.runner else self._engine.name_of(record.key)

    @property
    def trouble(self) -> str:
        """Return what keeps requests from being served, for people; empty if nothing does."""
        if self._engine.ollama.closing.is_set():
            return "the proxy is shutting down"
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
        waiting = [self._waiting(model, outlook, epoch) for model, outlook in self._engine.queue()]
        return tuple(sorted(waiting, key=lambda w: w.since if w.start is None else w.start))

    def _waiting(self, model: str, outlook: Outlook, epoch: float) -> Waiting:
        blocker = self._engine.name_of(outlook.blocker) if outlook.blocker else ""
        deadline, told = epoch + outlook.deadline, TOLD[outlook.why]
        return Waiting(
            model=model,
            priority=outlook.waiter.priority,
            since=epoch + outlook.waiter.arrived_at,
            deadline=deadline,
            start=epoch + outlook.start if math.isfinite(outlook.start) else None,
            forces_at=deadline if told.forces else None,
            why=outlook.why,
            reason=told.reason(blocker),
            blocker=blocker,
        )

    def lanes(self) -> tuple[Lane, ...]:
        """Return those of the models that are wanted or in memory."""
        return tuple(self._lane(r) for r in self._engine.residencies() if r.occupies or r.waiters)

    def _lane(self, record: Residency) -> Lane:
        """Return that of one runner with its options: what nobody has loaded is called as its first request does."""
        first = record.head if not record.occupies else None
        name = self._asked_for(first.id, record) if first else self._engine.name_of(record.key)
        model = self._catalog.meaning(name).model
        return Lane(
            model=name,
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
        mine = self._by_runner(r for r in self._engine.residencies() if r.key.runner == model.runner)[model.runner]
        names = self._names(self._catalog.models())[model.runner]
        return self._state(model, mine, names, self._work(mine))

    def is_at_hand(self, name: str) -> bool:
        """Whether the model of this name is in memory or being loaded, and not about to go."""
        model = self._catalog.meaning(name).model
        records = self._engine.residencies()
        return model is not None and any(r.key.runner == model.runner and r.state in AT_HAND for r in records)

    def _active(self, records: tuple[Residency, ...]) -> str | None:
        held = [r for r in records if r.state in (State.RESIDENT, State.DRAINING)]
        latest = max(held, key=lambda r: r.last_used, default=None)
        return self._engine.name_of(latest.key) or None if latest else None

    def _state(self, model: Model, mine: list[Residency], names: list[str], work: Work) -> ModelState:
        """`mine` are the records of its runner, and `names` the names of that which Ollama has.

        A name that Ollama does not have any more leads to a runner only if that has no other.
        """
        residence = self._ledger.residence(model.runner)
        known_as = names[0] if model.name in names else model.name
        occupant = next((r for r in mine if r.occupies), None) if model.name in names or not names else None
        if occupant is not None:
            known_as = self._engine.name_of(occupant.key) or known_as
        facts = self._facts(model, occupant, residence)
        waiting, in_flight = work.waiting[model.name], work.in_flight[model.name]
        return ModelState(
            name=model.name,
            known_as=known_as,
            ollama_name=model.ollama_name,
            type=model.type,
            size_gb=self._catalog.size_gb(model),
            priority=model.priority,
            configured=model.configured is not None,
            facts=facts,
            waiting=waiting,
            gate=work.gate[model.name],
            in_flight=in_flight,
            work=counts(facts.state, in_flight, waiting),
            totals=self._ledger.totals(model.name),
            residence=residence,
        )

    def _facts(self, model: Model, occupant: Residency | None, residence: Residence) -> Facts:
        return Facts(
            state=occupant.state if occupant else State.ABSENT,
            ollama=self._ollama,
            busy=occupant is not None and bool(occupant.in_flight),
            held=occupant is not None and self._engine.waiting > 0 and not occupant.past_hold(self._engine.now),
            as_wanted=occupant is not None and self._catalog.own_key(model).served_by(occupant.key),
            installed=self._catalog.is_installed(model) if self._catalog.looked else None,
            failed=residence.has_failed(model.variant),
            remote=model.remote,
            pinned=self._catalog.is_pinned(model),
        )

    @property
    def _ollama(self) -> Ollama:
        if self._engine.ollama.closing.is_set():
            return Ollama.CLOSING
        if not self._engine.reachable:
            return Ollama.DOWN
        return Ollama.BLIND if self._engine.is_blind else Ollama.UP
