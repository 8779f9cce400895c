"""The scheduler: a pure state machine that decides which key is resident and who may be sent to Ollama.

`handle(events, now)` takes all events of one instant and returns the commands of one decision:

1. every event changes the records (`_on_*`);
2. whoever waited longer than a limit allows is turned away;
3. every resident that is not draining grants its queue, in order of arrival, up to its parallel limit;
4. unless a load or unload is under way: a drained key is unloaded; else the policy's next load is worked towards,
   one unload or the load itself; else a key whose time to live is over is unloaded;
5. the earliest time at which something is due is asked for as a wake-up.

Held at all times: each id is granted, answered or rejected exactly once; nothing is unloaded with work in flight; at
most one load or unload is under way; at most one key of a runner occupies memory.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from swapper_proxy.core import policy
from swapper_proxy.core.commands import Answer, Changed, Command, Grant, Reject, StartLoad, StartUnload, WakeAt
from swapper_proxy.core.errors import Failure, Rejection
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
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.residency import Residency, Waiter
from swapper_proxy.core.types import Cause, Key, Limits, State

# What those are told who are turned away while the length of their wait cannot be known.
RETRY_AFTER_S = 5.0


class Scheduler:
    """One Ollama host.  Not to be shared between threads; the caller owns the clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._records: dict[Key, Residency] = {}
        self._holder: dict[int, Residency] = {}  # where each id waits or is in flight
        self._waiting = 0
        self._generation = 0
        self._swap: tuple[Residency, float] | None = None  # the key being swapped in, and since when
        self._changed_at = -math.inf
        self._down_since: float | None = None
        self._closing_until: float | None = None
        self._wake_at: float | None = None
        self._out: list[Command] = []

    @property
    def waiting(self) -> int:
        """How many wait in all queues."""
        return self._waiting

    def residencies(self) -> tuple[Residency, ...]:
        """The records, for reading."""
        return tuple(self._records.values())

    def handle(self, events: Sequence[Event], now: float) -> list[Command]:
        """Take the events of one instant; the commands are in the order in which they are to be carried out."""
        self._out = []
        for event in events:
            self._HANDLERS[type(event)](self, event, now)  # 1
        self._end_swap()
        self._reject_overdue(now)  # 2
        for record in self._records.values():
            self._grant(record, now)  # 3
        if self._down_since is None:
            self._decide(now)  # 4
        self._forget(now)
        self._wake(now)  # 5
        return self._out

    # 1. Events

    def _on_arrived(self, event: Arrived, now: float) -> None:
        record = self._record(event.key)
        record.profile = event.profile
        if self._waiting >= self.limits.max_queue:
            self._out.append(Reject(event.id, Rejection.QUEUE_FULL, RETRY_AFTER_S))
        elif now < record.load_backoff.until and not record.occupies:
            self._out.append(Reject(event.id, Rejection.BACKING_OFF, record.load_backoff.until - now))
        else:
            self._enqueue(record, Waiter(event.id, now, ttl_s=event.ttl_s))

    def _on_load_requested(self, event: LoadRequested, now: float) -> None:
        record = self._record(event.key)
        record.profile = event.profile
        if self._closing_until is not None:
            self._out.append(Reject(event.id, Rejection.SHUTTING_DOWN))
            return
        record.load_backoff.clear()  # the operator may try again at once
        if record.state is not State.UNLOADING:  # a load in between wins
            self._end_unloaders(record, Rejection.SUPERSEDED)
        if record.state is State.DRAINING:
            record.last_used = now
            self._change(record, State.RESIDENT, Cause.MANUAL, now)
            self._drain_excess(now)
        self._enqueue(record, Waiter(event.id, now, manual=True))

    def _on_unload_requested(self, event: UnloadRequested, now: float) -> None:
        record = self._occupant(event.runner)
        if record is None:
            self._out.append(Answer(event.id))
            return
        record.unloaders.append(event.id)
        self._holder[event.id] = record
        if record.state is State.RESIDENT:
            self._change(record, State.DRAINING, Cause.MANUAL, now)

    def _on_cancelled(self, event: Cancelled, now: float) -> None:
        record = self._holder.pop(event.id, None)
        if record is None:
            return
        if record.waiters.pop(event.id, None):
            self._waiting -= 1
        elif event.id in record.in_flight:
            self._finish(record, event.id, now)
        else:  # the unload goes on without its asker
            record.unloaders.remove(event.id)

    def _on_finished(self, event: Finished, now: float) -> None:
        if record := self._holder.pop(event.id, None):
            self._finish(record, event.id, now)

    def _on_loaded(self, event: Loaded, now: float) -> None:
        record = self._current(event.key, event.generation, State.LOADING)
        if record is None:
            return
        record.load_backoff.clear()
        record.last_used = now
        record.ttl_s = None
        self._swap = None
        self._change(record, State.RESIDENT, Cause.DEMAND, now)
        if record.unloaders:  # asked for during the load: at least one grant per load, then drain
            self._grant(record, now)
            self._change(record, State.DRAINING, Cause.MANUAL, now)

    def _on_load_failed(self, event: LoadFailed, now: float) -> None:
        record = self._current(event.key, event.generation, State.LOADING)
        if record is None:
            return
        record.load_backoff.failed(now)
        self._swap = None
        retry = record.load_backoff.until - now
        for waiter in list(record.waiters.values()):
            self._reject(record, waiter, Rejection.LOAD_FAILED, retry, event.failure)
        self._become_absent(record, Cause.FAILED, now)

    def _on_unloaded(self, event: Unloaded, now: float) -> None:
        if record := self._current(event.key, event.generation, State.UNLOADING):
            self._become_absent(record, record.cause, now)

    def _on_unload_failed(self, event: UnloadFailed, now: float) -> None:
        record = self._current(event.key, event.generation, State.UNLOADING)
        if record is None:
            return
        record.unload_backoff.failed(now)
        self._end_unloaders(record, Rejection.UNLOAD_FAILED)
        self._change(record, State.RESIDENT, Cause.FAILED, now)

    def _on_observed(self, event: Observed, now: float) -> None:
        present = {key.runner for key in event.present}
        newest = self._changed_at < event.asked_at and self._down_since is None
        for record in self._records.values():
            settled = record.state in (State.RESIDENT, State.DRAINING) and record.changed_at < event.asked_at
            if settled and not record.in_flight and record.key.runner not in present:
                self._become_absent(record, Cause.OBSERVED, now)
        if newest:
            for key in event.present:
                self._adopt(key, now)

    def _adopt(self, key: Key, now: float) -> None:
        """Somebody else had it loaded: a resident like any other."""
        if self._occupant(key.runner) is None:
            record = self._record(key)
            record.last_used = now
            record.ttl_s = None
            self._change(record, State.RESIDENT, Cause.OBSERVED, now)

    def _on_upstream_down(self, event: UpstreamDown, now: float) -> None:
        if self._down_since is not None:
            return
        self._down_since = self._changed_at = now
        self._swap = None
        for record in self._records.values():
            if record.occupies:
                self._become_absent(record, Cause.UPSTREAM, now)

    def _on_upstream_up(self, event: UpstreamUp, now: float) -> None:
        self._down_since = None

    def _on_config_changed(self, event: ConfigChanged, now: float) -> None:
        self.limits = event.limits
        self._drain_excess(now)

    def _on_shutdown(self, event: Shutdown, now: float) -> None:
        self._closing_until = event.until

    def _on_tick(self, event: Tick, now: float) -> None:
        self._wake_at = None  # a clock may ring a little early: ask again

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
        Tick: _on_tick,
    }

    # 2. Limits on waiting

    def _reject_overdue(self, now: float) -> None:
        for record in self._records.values():
            while record.waiters and (overdue := self._overdue(record, now)):
                self._reject(record, record.head, overdue, RETRY_AFTER_S)

    def _overdue(self, record: Residency, now: float) -> Rejection | None:
        """Why the head of this queue may not wait any longer."""
        return next((reason for due, reason in self._due_times(record) if now >= due), None)

    def _due_times(self, record: Residency) -> Iterator[tuple[float, Rejection]]:
        """When the head of this queue will be turned away, and why."""
        arrived = record.head.arrived_at
        if self._closing_until is not None:
            granting = record.state is State.RESIDENT
            yield (self._closing_until if granting else -math.inf), Rejection.SHUTTING_DOWN
        if self._down_since is not None:
            yield max(arrived, self._down_since) + self.limits.upstream_grace_s, Rejection.UPSTREAM_DOWN
        if self._swap is not None and self._swap[0] is record:
            yield max(arrived, self._swap[1]) + record.profile.swap_timeout_s, Rejection.SWAP_TIMEOUT
        if self.limits.queue_timeout_s is not None:
            yield arrived + self.limits.queue_timeout_s, Rejection.QUEUE_TIMEOUT

    # 3. Grants

    def _grant(self, record: Residency, now: float) -> None:
        if record.state is not State.RESIDENT:
            return
        for waiter in [w for w in record.waiters.values() if w.manual]:
            self._dequeue(record, waiter)
            record.last_used = now
            del self._holder[waiter.id]
            self._out.append(Answer(waiter.id))
        while record.waiters and len(record.in_flight) < record.profile.parallel:
            waiter = self._dequeue(record, record.head)
            record.last_used = now
            record.in_flight.add(waiter.id)
            if waiter.ttl_s is not None:
                record.ttl_s = waiter.ttl_s if math.isfinite(waiter.ttl_s) else None
            self._out.append(Grant(waiter.id))

    # 4. One load or unload at a time

    def _decide(self, now: float) -> None:
        if any(record.in_transition for record in self._records.values()):
            return
        if drained := self._find(lambda r: r.state is State.DRAINING and not r.in_flight):
            self._start_unload(drained, drained.cause, now)
        elif self._closing_until is None and (plan := policy.next_load(self._records.values(), self.limits, now)):
            self._work_towards(plan, now)
        elif expired := self._find(lambda r: r.evictable(now) and r.expires_at is not None and now >= r.expires_at):
            self._start_unload(expired, Cause.TTL, now)

    def _work_towards(self, plan: policy.Plan, now: float) -> None:
        if self._swap is None or self._swap[0] is not plan.wanted:
            self._swap = (plan.wanted, now)
        if plan.victims:
            self._start_unload(plan.victims[0], Cause.DEMAND, now)
        else:
            self._start_load(plan.wanted, now)

    def _end_swap(self) -> None:
        """A swap is over when its key is there otherwise, or nobody waits for it before its load began."""
        if self._swap is None or (wanted := self._swap[0]).state is State.LOADING:
            return
        if wanted.occupies or not wanted.waiters:
            self._swap = None

    def _drain_excess(self, now: float) -> None:
        for record in policy.excess(self._records.values(), self.limits):
            self._change(record, State.DRAINING, Cause.MANUAL, now)

    def _start_load(self, record: Residency, now: float) -> None:
        self._generation += 1
        record.generation = self._generation
        cause = Cause.MANUAL if record.manual else Cause.DEMAND
        self._change(record, State.LOADING, cause, now)
        self._out.append(StartLoad(record.key, record.generation, record.head.id))

    def _start_unload(self, record: Residency, cause: Cause, now: float) -> None:
        self._generation += 1
        record.generation = self._generation
        self._change(record, State.UNLOADING, cause, now)
        self._out.append(StartUnload(record.key, record.generation))

    # 5. Time

    def _wake(self, now: float) -> None:
        times = [t for record in self._records.values() for t in self._times(record) if t > now]
        wake_at = min(times, default=None)
        if wake_at != self._wake_at:
            self._wake_at = wake_at
            self._out.append(WakeAt(wake_at))

    def _times(self, record: Residency) -> Iterator[float]:
        if record.waiters:
            yield from (due for due, _ in self._due_times(record))
            yield record.load_backoff.until
        if record.expires_at is not None:
            yield record.expires_at
        yield record.unload_backoff.until

    # Records

    def _record(self, key: Key) -> Residency:
        """The record that a request for this key belongs to: its own, or the loaded runner that serves it as it is."""
        occupant = self._occupant(key.runner)
        if occupant is not None and key.served_by(occupant.key) and occupant.state is not State.UNLOADING:
            return occupant
        return self._records.setdefault(key, Residency(key))

    def _occupant(self, runner: str) -> Residency | None:
        return self._find(lambda r: r.occupies and r.key.runner == runner)

    def _current(self, key: Key, generation: int, state: State) -> Residency | None:
        """The record a result belongs to; None if the result is of an older generation."""
        record = self._records.get(key)
        return record if record and record.generation == generation and record.state is state else None

    def _find(self, wanted: Callable[[Residency], bool]) -> Residency | None:
        return next((record for record in self._records.values() if wanted(record)), None)

    def _change(self, record: Residency, state: State, cause: Cause, now: float) -> None:
        record.state, record.cause, record.changed_at = state, cause, now
        self._changed_at = now
        self._out.append(Changed(record.key, state, cause))

    def _become_absent(self, record: Residency, cause: Cause, now: float) -> None:
        record.generation = 0  # whatever is still under way for it belongs to the past
        record.unload_backoff.clear()
        self._change(record, State.ABSENT, cause, now)
        self._end_unloaders(record)

    def _end_unloaders(self, record: Residency, reason: Rejection | None = None) -> None:
        for unloader in record.unloaders:
            del self._holder[unloader]
            self._out.append(Answer(unloader) if reason is None else Reject(unloader, reason))
        record.unloaders = []

    def _enqueue(self, record: Residency, waiter: Waiter) -> None:
        record.waiters[waiter.id] = waiter
        self._holder[waiter.id] = record
        self._waiting += 1

    def _dequeue(self, record: Residency, waiter: Waiter) -> Waiter:
        self._waiting -= 1
        return record.waiters.pop(waiter.id)

    def _finish(self, record: Residency, request: int, now: float) -> None:
        record.in_flight.remove(request)
        record.last_used = now

    def _reject(
        self, record: Residency, waiter: Waiter, reason: Rejection, retry_s: float, failure: Failure | None = None
    ) -> None:
        self._dequeue(record, waiter)
        del self._holder[waiter.id]
        self._out.append(Reject(waiter.id, reason, retry_s, failure))

    def _forget(self, now: float) -> None:
        for record in [r for r in self._records.values() if r.forgettable(now)]:
            del self._records[record.key]
