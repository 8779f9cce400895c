"""The scheduler: a pure state machine that decides which key is resident and who may be sent to Ollama.

`handle(events, now)` takes all events of one instant and returns the commands of one decision:

1. every event changes the records (`_on_*`);
2. whoever waited longer than a limit allows is turned away;
3. if somebody's deadline has passed, the victims of that load drain; who drains for nothing any more does so no longer;
4. every resident that is not draining grants its queue, its clients in turn, up to its parallel limit; who was let in
   to be served at once and is not is turned away; what the limits do not allow any more drains;
5. unless a load or unload is under way: a key drained on request is unloaded; else the forced load is worked towards
   once its victims are done, one unload or the load itself; else a load that disturbs nobody; else a key whose time
   to live is over is unloaded;
6. the earliest time at which something is due is asked for as a wake-up.
While nobody asks for anything but what is resident, only 1 and 4 are done, and `admit` does without these, too.

Held at all times: each id is granted, answered or rejected exactly once; nothing is unloaded with work in flight; at
most one load or unload is under way; at most one key of a runner occupies memory.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from swapper_proxy.core import refusals, victims
from swapper_proxy.core.commands import Answer, Command, Reject, Reloaded, StartLoad, StartUnload, WakeAt
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Event,
    Finished,
    Loaded,
    LoadFailed,
    LoadRequested,
    Observed,
    Shutdown,
    TakenOver,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.host import Host, Swap
from swapper_proxy.core.policy import Plan, Policy
from swapper_proxy.core.residency import Residency, Waiter
from swapper_proxy.core.shortage import Shortage
from swapper_proxy.core.types import Cause, Limits, State


class Scheduler:
    """One Ollama host.  Not to be shared between threads; the caller owns the clock."""

    def __init__(self, limits: Limits, generation: int = 0, blind_since: float | None = None) -> None:
        """In the place of one that failed: `generation` was its last one, and nobody knows what is in memory."""
        self.host = Host(limits)
        self.host.blind_since = blind_since
        self.generation = generation
        self._wake_at = math.inf
        self.calm = False  # whether the host was when the last events had been handled

    def handle(self, events: Sequence[Event], now: float) -> list[Command]:
        """Take the events of one instant; the commands are in the order in which they are to be carried out."""
        self.host.out = []
        for event in events:
            self._HANDLERS[type(event)](self, event, now)  # 1
        self.host.end_swap()
        if self.host.calm:
            self.host.serve(now)
            self._reject_surplus(events, now)
        self.calm = self.host.calm
        if not self.calm:
            self._decide(events, now)
            self.calm = self.host.calm
        return self.host.out

    def _decide(self, events: Sequence[Event], now: float) -> None:
        """2 to 6."""
        self._reject_hopeless()
        self._reject_overdue(now)  # 2
        policy = Policy(self.host, now)
        forced = self._force(policy, now)  # 3
        self.host.serve(now)  # 4
        self._reject_surplus(events, now)
        self._drain_excess(now)
        if not self.host.is_cut_off and not self.host.in_transition:
            self._act(policy, forced, now)  # 5
        self._wake(policy, now)  # 6

    def admit(self, event: Arrived, now: float) -> bool:
        """Grant at once what `handle` would grant by itself and without more ado; else False, and nothing is done."""
        record = self.host.occupant(event.key.runner)
        if not self.calm or record is None or not record.has_room_for(event.key, event.profile):
            return False
        record.end_idleness(now)
        record.grant(event.id, event.ttl_s, now)
        self.host.holder[event.id] = record
        return True

    @property
    def waiting(self) -> int:
        """How many wait in all queues."""
        return self.host.waiting

    def residencies(self) -> tuple[Residency, ...]:
        """The records, for reading."""
        return tuple(self.host.records.values())

    # 1. Events

    def _on_arrived(self, event: Arrived, now: float) -> None:
        record = self.host.record(event.key, event.profile, now)
        refusal = refusals.on_arrival(self.host, record, event.variant, now)
        if isinstance(refusal, Shortage):
            self.host.out.append(Reject(event.id, refusal.reason, shortage=refusal))
        elif refusal is not None:
            retry_s = refusals.retry_after_s(self.host, record, refusal, now, event.variant)
            self.host.out.append(Reject(event.id, refusal, retry_s))
        else:
            self.host.report_hold(record, now, paid=not record.past_hold(now))
            record.end_idleness(now)
            number, client, variant = self.host.numbers, event.client, event.variant
            waiter = Waiter(event.id, number, now, event.priority, event.ttl_s, client=client, variant=variant)
            self.host.enqueue(record, waiter)

    def _on_load_requested(self, event: LoadRequested, now: float) -> None:
        record = self.host.record(event.key, event.profile, now)
        if self.host.closing_until is not None:
            self.host.out.append(Reject(event.id, Rejection.SHUTTING_DOWN))
            return
        if not record.occupies and (shortage := refusals.hopeless(self.host, record)):
            self.host.out.append(Reject(event.id, shortage.reason, shortage=shortage))
            return
        record.load_backoffs.clear(event.variant, now)  # the operator may try again at once
        if record.state is not State.UNLOADING:  # a load in between wins
            self.host.end_unloaders(record, Rejection.SUPERSEDED)
        if record.cause is not Cause.DEADLINE:
            record.last_used = now
            self.host.stay(record, Cause.MANUAL, now)
        number, variant = self.host.numbers, event.variant
        waiter = Waiter(event.id, number, now, event.priority, event.ttl_s, event.cause, variant=variant)
        self.host.enqueue(record, waiter)

    def _on_unload_requested(self, event: UnloadRequested, now: float) -> None:
        record = self.host.occupant(event.runner)
        if record is None:
            self.host.out.append(Answer(event.id))
        elif record.profile.pinned and not event.silent:
            self.host.out.append(Reject(event.id, Rejection.PINNED))
        else:
            record.unloaders.append(event.id)
            self.host.holder[event.id] = record
            self.host.grant(record, now)  # if it was loaded in this very instant, that was not for nothing
            if record.state in (State.RESIDENT, State.DRAINING):
                self.host.change(record, State.DRAINING, Cause.MANUAL, now)

    def _on_cancelled(self, event: Cancelled, now: float) -> None:
        record = self.host.holder.pop(event.id, None)
        if record is None:
            return
        if waiter := record.waiters.find(event.id):
            self.host.dequeue(record, waiter)
            record.begin_idleness(now)
        elif event.id in record.in_flight:
            self.host.finish(record, event.id, now)
        else:  # the unload goes on without its asker
            record.unloaders.remove(event.id)

    def _on_finished(self, event: Finished, now: float) -> None:
        record = self.host.holder.pop(event.id, None)
        if record is None:
            return
        granted_at = record.in_flight[event.id]
        self.host.finish(record, event.id, now)
        load_s = min(event.load_s, now - granted_at)  # what is longer cannot be true
        if record.speed.is_load(load_s) and granted_at >= record.reloaded_at:  # many may report the same load
            record.reloaded_at = granted_at + load_s
            record.speed.loaded(load_s)
            self.host.learned(record.key.runner)
            self.host.out.append(Reloaded(record.key, load_s, record.cause is Cause.OBSERVED))

    def _on_loaded(self, event: Loaded, now: float) -> None:
        record = self.host.current(event.key, event.generation, State.LOADING)
        if record is None:
            return
        record.load_backoffs.clear(record.loading_as, now)
        record.speed.loaded(now - record.changed_at)
        self.host.was_loaded(record.key.runner, now)
        record.last_used = now
        record.ttl_s = None
        self.host.swap = None
        self.host.had_turn(record, now)
        record.open_gate(self.host.numbers, now, self.host.limits.rules)
        self.host.change(record, State.RESIDENT, record.cause, now)
        record.idle_since = None
        self.host.answer_loaders(record, now)
        if record.unloaders:  # asked for during the load: at least one grant per load, then drain
            self.host.grant(record, now)
            self.host.change(record, State.DRAINING, Cause.MANUAL, now)

    def _on_load_failed(self, event: LoadFailed, now: float) -> None:
        record = self.host.current(event.key, event.generation, State.LOADING)
        if record is None:
            return
        self.host.swap = None
        variant = record.loading_as if event.failure or event.made_anew else None
        record.loading_as = variant or ""
        if event.made_anew:
            reason, retry_s = Rejection.MADE_ANEW, None
        else:
            reason, retry_s = Rejection.LOAD_FAILED, record.load_backoffs.failed(variant, now)
        for waiter in [w for w in record.waiters if variant is None or w.variant == variant]:
            self.host.reject(record, waiter, reason, retry_s, event.failure)
        self.host.become_absent(record, Cause.FAILED, now)

    def _on_unloaded(self, event: Unloaded, now: float) -> None:
        if record := self.host.current(event.key, event.generation, State.UNLOADING):
            record.speed.unloaded(now - record.changed_at)
            self.host.become_absent(record, record.cause, now)

    def _on_unload_failed(self, event: UnloadFailed, now: float) -> None:
        record = self.host.current(event.key, event.generation, State.UNLOADING)
        if record is None:
            return
        record.unload_backoff.failed(now)
        self.host.end_unloaders(record, Rejection.UNLOAD_FAILED)
        self.host.change(record, State.RESIDENT, Cause.FAILED, now)

    def _on_observed(self, event: Observed, now: float) -> None:
        present = self.host.follow_list(event)
        if self.host.blind_since is not None and self.host.blind_since < event.asked_at:
            self.host.blind_since = None
        newest = self.host.changed_at < event.asked_at and not self.host.is_cut_off
        for record in list(self.host.occupants.values()):
            if record.has_settled(event.asked_at) and not record.in_flight and record.key.runner not in present:
                self.host.become_absent(record, Cause.OBSERVED, now)
        for sighting in event.present:
            if occupant := self.host.occupant(sighting.key.runner):
                if occupant.key == sighting.key:
                    self.host.see(occupant, sighting, occupant.has_settled(event.asked_at), now)
            elif newest:
                self.host.adopt(sighting, now)

    def _on_upstream_down(self, event: UpstreamDown, now: float) -> None:
        if self.host.down_since is not None:
            return
        self.host.down_since = self.host.changed_at = now
        for record in self.host.records.values():
            record.load_backoffs.clear_all()  # what this one could not do, the one that comes back may
            if record.occupies:
                self.host.become_absent(record, Cause.UPSTREAM, now)

    def _on_upstream_up(self, event: UpstreamUp, now: float) -> None:
        self.host.down_since = None

    def _on_config_changed(self, event: ConfigChanged, now: float) -> None:
        self.host.limits = event.limits
        self.host.unsettled = self.host.shrunk = True
        for sighting in event.profiles:
            if record := self.host.records.get(sighting.key):
                self.host.treat(record, sighting.profile, now)
        for record in self.host.queued.values():
            record.look_at_head(event.limits.rules)
        self.host.touched |= dict.fromkeys(self.host.occupants.values())

    def _on_shutdown(self, event: Shutdown, now: float) -> None:
        self.host.closing_until = event.until
        self._lift((), now)

    def _on_taken_over(self, event: TakenOver, now: float) -> None:
        self.host.take_over(event, now)

    def _on_tick(self, event: Tick, now: float) -> None:
        self._wake_at = math.inf  # a clock may ring a little early: ask again

    _HANDLERS: ClassVar[Mapping[type, Callable[..., None]]] = {
        Arrived: _on_arrived,
        Cancelled: _on_cancelled,
        Finished: _on_finished,
        Loaded: _on_loaded,
        LoadFailed: _on_load_failed,
        Unloaded: _on_unloaded,
        UnloadFailed: _on_unload_failed,
        Observed: _on_observed,
        LoadRequested: _on_load_requested,
        UnloadRequested: _on_unload_requested,
        UpstreamDown: _on_upstream_down,
        UpstreamUp: _on_upstream_up,
        ConfigChanged: _on_config_changed,
        Shutdown: _on_shutdown,
        TakenOver: _on_taken_over,
        Tick: _on_tick,
    }

    # 2. Limits on waiting

    def _reject_overdue(self, now: float) -> None:
        for record in refusals.limited(self.host):
            while record.waiters and (reason := refusals.overdue(self.host, record, now)):
                retry_s = refusals.retry_after_s(self.host, record, reason, now)
                self.host.reject(record, record.oldest, reason, retry_s)
            record.begin_idleness(now)

    def _reject_surplus(self, events: Sequence[Event], now: float) -> None:
        """Who was let in to be served at once, and is not, because something else happened in the same instant."""
        if not self.host.waiting:
            return
        for id_ in [event.id for event in reversed(events) if isinstance(event, Arrived)]:
            record = self.host.holder.get(id_)
            waiter = record.waiters.find(id_) if record else None
            if record and waiter and refusals.too_many(self.host, record):
                retry_s = refusals.retry_after_s(self.host, record, Rejection.QUEUE_FULL, now)
                self.host.reject(record, waiter, Rejection.QUEUE_FULL, retry_s)

    def _reject_hopeless(self) -> None:
        """When pins, limits or sizes have changed, who can never be served is told at once."""
        if not self.host.unsettled:
            return
        self.host.unsettled = False
        for record in list(self.host.absent_queued()):
            if shortage := refusals.hopeless(self.host, record):
                for waiter in list(record.waiters):
                    self.host.reject(record, waiter, shortage.reason, shortage=shortage)

    # 3. Force

    def _force(self, policy: Policy, now: float) -> Plan | None:
        """The load whose time has come: its victims drain, and only they."""
        host = self.host
        for record in host.occupants.values():
            if record.hold_until is None and record.evictable(now) and policy.crowded:
                record.hold(now, policy.hold_until(record))
        stopped = host.is_cut_off or host.closing_until is not None
        plan = None if stopped else policy.force()
        going = (plan.victims if plan else None) or ()
        self._lift(going, now)
        for record in going:
            if record.state is State.RESIDENT:
                self.host.change(record, State.DRAINING, Cause.DEADLINE, now)
        if plan is None or plan.victims is None:
            host.forced = None
        elif host.forced is None or host.forced[0] is not plan.wanted:
            host.forced = plan.wanted, now
        return plan

    def _lift(self, going: Sequence[Residency], now: float) -> None:
        """Who drained for a forced load and is not among these stays."""
        for record in self.host.occupants.values():
            if record.state is State.DRAINING and record.cause is Cause.DEADLINE and record not in going:
                self.host.change(record, State.RESIDENT, Cause.DEADLINE, now)

    # 5. One load or unload at a time

    def _act(self, policy: Policy, forced: Plan | None, now: float) -> None:
        drained = self.host.find(
            lambda r: r.state is State.DRAINING and r.cause is not Cause.DEADLINE and not r.in_flight
        )
        if drained:
            self._start_unload(drained, drained.cause, now)
        elif forced and forced.ready:
            self._work_towards(forced, Cause.DEADLINE, now)
        elif self.host.closing_until is None and (plan := policy.willing(forced)):
            self._work_towards(plan, Cause.IDLE, now)
        elif expired := self.host.find(lambda r: r.evictable(now) and r.expires_at is not None and now >= r.expires_at):
            self._start_unload(expired, Cause.TTL, now)

    def _work_towards(self, plan: Plan, cause: Cause, now: float) -> None:
        if self.host.swap is None or self.host.swap.wanted is not plan.wanted:
            self.host.swap = Swap(plan.wanted, now, cause)
        if plan.victims:
            self._start_unload(plan.victims[0], cause, now)
        else:
            self._start_load(plan.wanted, self.host.swap.cause, now)

    def _drain_excess(self, now: float) -> None:
        """What the limits do not allow any more goes; tried again if Ollama does not let it go."""
        if not self.host.shrunk:
            return
        surplus = victims.excess(self.host.occupants.values(), self.host.limits)
        self.host.shrunk = bool(surplus) or self.host.in_transition
        for record in surplus:
            if now >= record.unload_backoff.until:
                self.host.change(record, State.DRAINING, Cause.LIMITS, now)

    def _start_load(self, record: Residency, cause: Cause, now: float) -> None:
        self.generation += 1
        record.generation = self.generation
        asked = next(iter(record.waiters.loaders.values()), None)
        self.host.change(record, State.LOADING, asked.cause if asked and asked.cause else cause, now)
        first = record.first_loadable(now)
        record.loading_as = first.variant
        self.host.had_turn(record, now)
        self.host.out.append(StartLoad(record.key, record.generation, first.id, record.speed.load_s, record.cause))
        if record.profile.pinned:
            self.host.unsettled = True
            self._reject_hopeless()

    def _start_unload(self, record: Residency, cause: Cause, now: float) -> None:
        self.generation += 1
        record.generation = self.generation
        self.host.report_hold(record, now, paid=False)
        self.host.change(record, State.UNLOADING, cause, now)
        self.host.out.append(StartUnload(record.key, record.generation, cause))

    # 6. Time

    def _wake(self, policy: Policy, now: float) -> None:
        """A wake-up that comes too early does no harm: only an earlier one is asked for."""
        times = (*policy.times(), *refusals.times(self.host), *self.host.expiries())
        wake_at = min((time for time in times if time > now), default=math.inf)
        if wake_at < self._wake_at:
            self._wake_at = wake_at
            self.host.out.append(WakeAt(wake_at))
