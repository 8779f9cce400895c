"""The owner of residency: feeds the scheduler and carries out its commands.  Nothing else loads or unloads.

All of it happens in one event loop: events of one turn of the loop are collected and decided upon together.
"""

import asyncio
import itertools
import logging
import math
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

from swapper_proxy.config import Swapper
from swapper_proxy.config.keep_alive import KeepAlive
from swapper_proxy.core import forecast
from swapper_proxy.core.commands import (
    Answer,
    Changed,
    Command,
    Grant,
    Held,
    Reject,
    Reloaded,
    StartLoad,
    StartUnload,
    WakeAt,
)
from swapper_proxy.core.errors import Rejected, Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Event,
    Finished,
    LoadRequested,
    Observed,
    Shutdown,
    Tick,
    UnloadRequested,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.forecast import Outlook
from swapper_proxy.core.residency import Residency
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import Cause, Key, Limits, Priority, Sighting, State
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.loader import Loader
from swapper_proxy.runtime.model import Demand, Model
from swapper_proxy.runtime.names import RunnerNames
from swapper_proxy.runtime.ports import Control, Observer
from swapper_proxy.runtime.reachability import Reachability
from swapper_proxy.runtime.swaps import Swaps

T = TypeVar("T")

log = logging.getLogger(__name__)

RETRY_S = 1.0  # when there may be another proxy, or room in the queue; nobody can tell
MOST_LOGGED = 4000  # characters of the events and of the state that made the scheduler fail
# Refusals of requests that waited, or found too many waiting: while Ollama is away, that is why.
WAITED = (Rejection.QUEUE_FULL, Rejection.QUEUE_TIMEOUT, Rejection.SWAP_TIMEOUT, Rejection.DRAIN_TIMEOUT)

Notice = Callable[[], None]


@dataclass(slots=True)
class Ticket:
    """One who waits for an answer of the scheduler."""

    future: asyncio.Future[None]
    model: Model
    keep_alive: int | float | str | None = None


class Engine:
    """One Ollama host.  Start it with `async with`; closing waits for loads and unloads until the grace is over."""

    def __init__(
        self, control: Control, catalog: Catalog, ledger: Ledger, observer: Observer, swapper: Swapper, limits: Limits
    ) -> None:
        self._control = control
        self._catalog = catalog
        self._ledger = ledger
        self._observer = observer
        self._scheduler = Scheduler(limits)
        self._tickets: dict[int, Ticket] = {}
        self._ids = itertools.count(1)
        self._events: list[Event] = []
        self._wake: asyncio.TimerHandle | None = None
        self.ollama = Reachability(control)
        self._swaps = Swaps(Loader(control, catalog, swapper), observer, self.submit, self.probe)
        self._names = RunnerNames(catalog)
        self._granted: dict[int, str] = {}  # the name of the model that each request in flight asked for
        self._draining: dict[Key, float] = {}  # since when
        self._heard_at: dict[str, float] = {}  # when a runner last answered anybody
        self._grace_ends = 0.0
        self._failed_at = -math.inf  # when the scheduler failed last
        self._sighted = asyncio.Event()  # unless /api/ps was not read since
        self._sighted.set()
        self.look_wanted = asyncio.Event()  # what is in memory is not known: look at once
        self.idle_since: float | None = None  # since when nobody waits and nothing is answered; the loop's clock

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._wake is not None:
            self._wake.cancel()
        await self._swaps.close(max(0.0, self._grace_ends - self._loop.time()))
        await self.ollama.close()

    # For requests

    def admit(self, demand: Demand) -> int:
        """The id to finish with, if the model is there and nothing is to be decided first; else 0."""
        model = demand.model
        if self._events or self._catalog.is_changing(model.runner):
            return 0
        event, now = self._arrival(demand, model), self._loop.time()
        try:
            if not self._scheduler.admit(event, now):
                return 0
        except Exception:
            self._perform(self._start_over([Cancelled(event.id)], now))
            return 0
        self.idle_since = None
        self._granted[event.id] = model.name
        self._observer.waited(model.name, 0.0)
        return event.id

    async def acquire(self, demand: Demand) -> int:
        """Wait until the model is resident and has room; the id to finish with.  Raises Rejected."""
        return await self._as_it_is(demand.model, lambda model: self._acquire(demand, model))

    async def _as_it_is(self, model: Model, ask: Callable[[Model], Awaitable[T]]) -> T:
        """Ask for a model; if it is made anew meanwhile, for the new one once that is there."""
        while True:
            if self._catalog.is_changing(model.runner):
                model = await self._catalog.changed(model)
            try:
                return await ask(model)
            except Rejected as rejected:
                if rejected.reason is not Rejection.MADE_ANEW:
                    raise
                model = await self._catalog.changed(model)

    async def _acquire(self, demand: Demand, model: Model) -> int:
        event = self._arrival(demand, model)
        began = self._loop.time()
        await self._answered(event, Ticket(self._loop.create_future(), model, demand.keep_alive))
        self._granted[event.id] = model.name
        self._observer.waited(model.name, self._loop.time() - began)
        return event.id

    def _arrival(self, demand: Demand, model: Model) -> Arrived:
        key = model.key(demand.options)
        profile = self._catalog.profile(model, key)
        return Arrived(next(self._ids), key, profile, demand.ttl_s, demand.priority, demand.client, model.variant)

    async def load(self, model: Model, priority: Priority = Priority.HIGH, cause: Cause = Cause.MANUAL) -> None:
        """Make the model resident.  Raises Rejected."""
        await self._as_it_is(model, lambda model: self._load_it(model, priority, cause))

    async def _load_it(self, model: Model, priority: Priority, cause: Cause) -> None:
        key = self._catalog.own_key(model)
        if cause is Cause.MANUAL:
            self._catalog.measure_again(key)
        profile, ttl_s = self._catalog.profile(model, key), self._catalog.ttl_s(model)
        event = LoadRequested(next(self._ids), key, profile, priority, cause, ttl_s, model.variant)
        await self._answered(event, Ticket(self._loop.create_future(), model))

    async def unload(self, model: Model) -> None:
        """Drain and unload what serves the model.  Raises Rejected."""
        try:
            async with asyncio.timeout(self._scheduler.host.limits.upstream_grace_s):
                await self._sighted.wait()
        except TimeoutError:
            raise Rejected(Rejection.SCHEDULER_FAULT, RETRY_S) from None
        event = UnloadRequested(next(self._ids), model.runner)
        await self._answered(event, Ticket(self._loop.create_future(), model))

    def heard(self, model: Model, answered: bool, since: float) -> None:
        """A request that was granted then was answered, or Ollama fell silent before the end of its answer.

        If nobody was answered by the same model since, it does not answer any more: it is to go when all that it was
        sent is over, and is loaded anew.  Ollama forgets a place of a runner for good when a client leaves in a bad
        moment (ollama/ollama#17131).
        """
        if answered:
            self._heard_at[model.runner] = self.now
        elif self._heard_at.get(model.runner, -math.inf) < since:
            self.submit(UnloadRequested(next(self._ids), model.runner, silent=True))

    def is_lost(self, id_: int) -> bool:
        """Return True if the process that a granted request was sent to is gone, as Ollama's list of runners tells."""
        return self._scheduler.host.is_lost(id_)

    async def keep(self, model: Model, keep_alive: KeepAlive) -> bool:
        """Have Ollama keep the model so long, if it is in memory; False if it is on its way in or out.

        Raises UpstreamRefused, UpstreamUnreachable.
        """
        occupant = self._scheduler.host.occupant(model.runner)
        if occupant is None:
            return True
        if occupant.in_transition:
            return False
        spec = self._catalog.treatment.load_spec(model, dict(occupant.key.options), keep_alive)
        await self._swaps.keep(model.runner, self._control.load(spec))
        return True

    async def back(self, within_s: float) -> bool:
        """Whether Ollama, which is away, is there again within that time.  Raises Rejected.

        For requests whose model cannot be known before: they have no place in the queue, but count as if they had.
        """
        await self.probe()
        refusal = None
        if not self.reachable and self.waiting >= self._scheduler.host.limits.max_queue:
            refusal = Rejection.QUEUE_FULL
        elif not await self.ollama.is_back(within_s) and self.ollama.closing.is_set():
            refusal = Rejection.SHUTTING_DOWN
        if refusal is not None:
            self._observer.rejected(refusal.code)
            raise Rejected(refusal, RETRY_S, message=self._with_trouble(refusal))
        return self.reachable

    async def _answered(self, event: Arrived | LoadRequested | UnloadRequested, ticket: Ticket) -> None:
        if not self.reachable:
            await self.probe()  # it may be back since the watcher last looked
        self._tickets[event.id] = ticket
        self.submit(event)
        try:
            await ticket.future
        except BaseException:
            self.submit(Cancelled(event.id))  # also right when granted in this very moment: the slot is given back
            raise
        finally:
            del self._tickets[event.id]

    # Events in

    def submit(self, event: Event) -> None:
        """Tell the scheduler, together with all else of this turn of the loop."""
        if not self._events:
            self._loop.call_soon(self._decide)
        self._events.append(event)

    def finish(self, event: Finished) -> None:
        """At once, unless it is to be decided upon together with something else."""
        self._granted.pop(event.id, None)
        if self._events or not self._scheduler.calm:
            self.submit(event)
        else:
            self._events.append(event)
            self._decide()

    def observed(self, asked_at: float, present: tuple[Sighting, ...], *, complete: bool) -> None:
        """Ollama was asked then, and listed these runners; `complete` as in Observed."""
        self.submit(Observed(asked_at, present, complete))
        self._follow_names()
        if asked_at > self._failed_at:
            self._sighted.set()

    def upstream(self, reachable: bool, why: str = "") -> None:
        """Ollama went down, or came back.  A load is left: one that was only frozen would go on beside the next."""
        if self.ollama.turned(reachable, why):
            self._observer.upstream(reachable, self.ollama.why)
            self.submit(UpstreamUp() if reachable else UpstreamDown())
            if reachable:
                self._catalog.forget()  # it may be another one that comes back
            else:
                self._swaps.abandon()

    def configure(self, swapper: Swapper, limits: Limits) -> None:
        """Other settings hold from now on; the catalog knows them already."""
        self._swaps.loader = Loader(self._control, self._catalog, swapper)
        self._follow_names()
        self.treat_afresh(limits)

    def treat_afresh(self, limits: Limits | None = None) -> None:
        """What is wanted of the models has changed; new limits if there are any."""
        known = ((r.key, self._catalog.serving(r.key.runner)) for r in self.residencies())
        profiles = [Sighting(key, self._catalog.profile(serving[0], key)) for key, serving in known if serving]
        self.submit(ConfigChanged(limits or self._scheduler.host.limits, tuple(profiles)))

    def shutdown(self, grace_s: float) -> None:
        self._grace_ends = self._loop.time() + grace_s
        self.ollama.closing.set()
        self.submit(Shutdown(self._grace_ends))

    def _decide(self) -> None:
        events, self._events = self._events, []
        now = self._loop.time()
        try:
            commands = self._scheduler.handle(events, now)
        except Exception:
            commands = self._start_over(events, now)
        self._perform(commands)
        if self._scheduler.host.at_rest:
            self.idle_since = now if self.idle_since is None else self.idle_since
        else:
            self.idle_since = None

    def _start_over(self, events: Sequence[Event], now: float) -> list[Command]:
        """Put another scheduler in the place of one that failed at these events.

        Every request that waits gets a 500.  What was granted stays in flight, so that its model is not unloaded.
        Nothing is loaded or unloaded before the next look at what is in memory.
        """
        old = self._scheduler
        records = [record for record in old.residencies() if record.occupies or record.waiters]
        told = repr(events)[:MOST_LOGGED], repr(records)[:MOST_LOGGED]
        log.error("the scheduler failed and starts over, after %s with %s", *told, exc_info=sys.exception())
        waiting = [id_ for id_, ticket in self._tickets.items() if not ticket.future.done()]
        for id_ in waiting:
            self._observer.rejected(Rejection.SCHEDULER_FAULT.code)
            self._settle(id_, Rejected(Rejection.SCHEDULER_FAULT, RETRY_S))
        self._swaps.abandon()
        self._observer.scheduler_fault()
        over = {*waiting, *(event.id for event in events if isinstance(event, Finished | Cancelled))}
        limits = [event.limits for event in events if isinstance(event, ConfigChanged)] or [old.host.limits]
        self._scheduler = Scheduler(limits[-1], old.generation, blind_since=now)
        if now - self._failed_at > RETRY_S:  # else the next look in turn is soon enough
            self.look_wanted.set()
        self._failed_at = now
        self._sighted.clear()
        first: list[Event] = [*old.host.handed_over(over)]
        first += [UpstreamDown()] * (not self.reachable)
        first += [Shutdown(self._grace_ends)] * self.ollama.closing.is_set()
        gone: list[Command] = [Changed(r.key, State.ABSENT, Cause.OBSERVED) for r in old.residencies() if r.occupies]
        try:
            return gone + self._scheduler.handle(first, now)
        except Exception:
            log.exception("the scheduler failed again, at %s", repr(first)[:MOST_LOGGED])
            return gone

    # Commands out

    def _perform(self, commands: Iterable[Command]) -> None:
        """Carry out all commands, and only then tell what happened: nobody who is told can keep one from that."""
        notices: list[Notice] = []
        for command in commands:
            try:
                self._carry_out(command, notices)
            except Exception:
                log.exception("%s could not be carried out", command)
                self._loop.call_later(RETRY_S, self._give_up)
        for notice in notices:
            try:
                notice()
            except Exception:
                log.exception("what happened could not be told")

    def _give_up(self) -> None:
        """What the scheduler believes is no longer so."""
        self._perform(self._start_over((), self._loop.time()))

    def _carry_out(self, command: Command, notices: list[Notice]) -> None:
        match command:
            case Grant(id) | Answer(id):
                self._settle(id, None)
            case Reject(id, reason):
                if reason is not Rejection.MADE_ANEW and id in self._tickets:  # else it is asked for again, or nobody's
                    notices.append(partial(self._observer.rejected, reason.code))
                self._settle(id, self._refusal(command))
            case StartLoad(key, _, for_id):
                ticket = self._tickets[for_id]
                self._names.tell(key, ticket.model.name)
                notices += self._changed(Changed(key, State.LOADING, command.cause))
                self._swaps.load(command, ticket.model, ticket.keep_alive)
            case StartUnload(key):
                self._swaps.unload(command, self.name_of(key))
            case Changed(state=State.LOADING):
                pass  # the StartLoad that follows tells under which name
            case Changed():
                notices += self._changed(command)
            case Held(key, seconds, paid):
                notices.append(partial(self._observer.held, self.name_of(key), seconds, paid))
            case Reloaded(key, seconds, guessed):
                cause = "options" if guessed else "gone"
                notices.append(partial(self._observer.reloaded, self.name_of(key), seconds, cause))
            case WakeAt(time):
                self._set_wake(time)

    def _refusal(self, command: Reject) -> Rejected:
        """Return it with what is known beside: why there never is room, or why Ollama is away."""
        ticket = self._tickets.get(command.id)
        if command.shortage is not None and ticket is not None:
            message = command.shortage.text(ticket.model.name, self.name_of)
        else:
            message = self._with_trouble(command.reason)
        return Rejected(command.reason, command.retry_after_s, command.failure, message)

    def _with_trouble(self, reason: Rejection) -> str:
        if reason is Rejection.UPSTREAM_DOWN:
            return self.ollama.trouble
        away = reason in WAITED and not self.reachable
        return f"{reason.message}; {self.ollama.trouble}" if away else reason.message

    def _changed(self, change: Changed) -> Iterator[Notice]:
        """Keep what is known of the resident, and say what is to be told of the change."""
        name = self.name_of(change.key)
        self._names.tell(change.key, name)
        yield partial(self._ledger.changed, change)
        yield partial(self._observer.changed, name, change.state, change.cause)
        began = self._draining.pop(change.key, None)
        if change.state is State.DRAINING:
            self._draining[change.key] = self._loop.time()
        elif change.state is State.UNLOADING and began is not None:
            yield partial(self._observer.drained, name, self._loop.time() - began)
        elif change.state is State.ABSENT:
            self._names.forget(change.key)
            self._heard_at.pop(change.key.runner, None)

    def _follow_names(self) -> None:
        """A name may mean something else by now: what was told of under it is so under another one."""
        for key, before, name in self._names.renamed():
            record = self._scheduler.host.records.get(key)
            self._names.tell(key, name)
            if record is not None and record.occupies:
                self._observer.changed(before, State.ABSENT, Cause.RENAMED)
                self._observer.changed(name, record.state, Cause.RENAMED)

    def _settle(self, id_: int, error: Rejected | None) -> None:
        ticket = self._tickets.get(id_)
        if ticket is None or ticket.future.done():
            return  # its client left in this very turn; its Cancelled is on the way
        if error is None:
            ticket.future.set_result(None)
        else:
            ticket.future.set_exception(error)

    def _set_wake(self, time: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self._loop.call_at(time, self.submit, Tick())

    async def probe(self) -> None:
        """Ask Ollama whether it is there, and tell the scheduler."""
        self.upstream(await self.ollama.ask())

    # For reading

    @property
    def reachable(self) -> bool:
        return self.ollama.up.is_set()

    def name_of(self, key: Key) -> str:
        """What people call a resident: the name it was loaded for, else any model that it serves."""
        return self._names.of(key)

    def asked_for(self, id_: int) -> str:
        """Return the name of the model that a request asks for which waits or is in flight; empty if it is over."""
        ticket = self._tickets.get(id_)
        return self._granted.get(id_, "") or (ticket.model.name if ticket else "")

    @property
    def now(self) -> float:
        """The scheduler's clock."""
        return self._loop.time()

    def queue(self) -> list[tuple[str, Outlook]]:
        """All who wait, with the name of the model that each asked for; times are on the loop's clock."""
        outlooks = forecast.outlooks(self._scheduler.host, self._loop.time())
        return [(self._tickets[o.waiter.id].model.name, o) for o in outlooks if o.waiter.id in self._tickets]

    @property
    def is_blind(self) -> bool:
        """Return True after a fault of the scheduler, until it was looked at what is in memory."""
        return not self._sighted.is_set()

    def is_resident(self, model: Model) -> bool:
        """Whether it is in memory as the config wants it, or on its way in or out."""
        occupant = self._scheduler.host.occupant(model.runner)
        return occupant is not None and self._catalog.own_key(model).served_by(occupant.key)

    def holds(self, runner: str) -> bool:
        """Return True if it is in memory, or on its way in or out, or if nobody knows."""
        return self.is_blind or self.occupant(runner) is not None

    def occupant(self, runner: str) -> Residency | None:
        """The record of what this runner holds in memory, or is about to; for reading."""
        return self._scheduler.host.occupant(runner)

    def residencies(self) -> tuple[Residency, ...]:
        return self._scheduler.residencies()

    @property
    def waiting(self) -> int:
        """Everybody who waits: for a turn, or for Ollama to tell what model is meant."""
        return self._scheduler.waiting + self.ollama.waiting

    @property
    def busy(self) -> bool:
        """Whether anything is resident, waited for, or on its way."""
        return any(r.occupies or r.waiters for r in self.residencies())
