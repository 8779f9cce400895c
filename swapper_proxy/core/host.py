"""Everything the scheduler knows of one Ollama host, and every way in which it changes.

Each change adds the commands that tell of it to `out`.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from swapper_proxy.core.commands import Answer, Changed, Command, Grant, Held, Reject
from swapper_proxy.core.errors import Failure, Rejection
from swapper_proxy.core.estimates import Speed
from swapper_proxy.core.events import Observed, TakenOver
from swapper_proxy.core.residency import LOADS_UNLISTED, Residency, Waiter
from swapper_proxy.core.shortage import Shortage
from swapper_proxy.core.types import Cause, Key, Limits, Profile, Sighting, State

# Keys that are absent and wanted by nobody are remembered for their experience, the latest so many: clients can make
# up keys without end (any num_ctx is another).
REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Swap:
    """`wanted` is being swapped in, for this cause, since the first unload (or the load) for it began."""

    wanted: Residency
    since: float
    cause: Cause


class Host:
    """The records, with those that somebody waits for (`queued`) and those that take up memory (`occupants`) apart.

    `swap` is the key that room is being made for, `forced` the load that drains its victims and since when;
    `down_since` is None while Ollama is there, `blind_since` while it is known what is in memory, `closing_until` until
    the end.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.records: dict[Key, Residency] = {}
        self.queued: dict[Key, Residency] = {}
        self.occupants: dict[str, Residency] = {}  # by runner
        self.waiting = 0
        self.swap: Swap | None = None
        self.forced: tuple[Residency, float] | None = None
        self.down_since: float | None = None
        self.blind_since: float | None = None
        self.closing_until: float | None = None
        self._speeds: dict[str, Speed] = {}
        self.holder: dict[int, Residency] = {}  # where each id waits or is in flight
        self.touched: dict[Residency, None] = {}  # what may have somebody to grant now, in order
        self.changed_at = -math.inf
        self.listed_at = -math.inf  # when Ollama was asked for its latest list of runners
        self.unsettled = False  # pins, sizes or limits have changed: who waits may wait for what can never be
        self.shrunk = False  # more may be in memory than the limits allow
        self.out: list[Command] = []
        self.numbers = 0  # of all who ever waited

    def handed_over(self, over: Collection[int]) -> list[TakenOver]:
        """Return what is in flight, but for what is `over`: for a scheduler that takes this one's place."""
        granted = ((r, {i: at for i, at in r.in_flight.items() if i not in over}) for r in self.records.values())
        return [TakenOver(r.key, ids, r.profile, r.occupies, r.guessed) for r, ids in granted if ids]

    def take_over(self, event: TakenOver, now: float) -> None:
        """Go on with what another scheduler has granted."""
        record = self.records.get(event.key) or self._new(event.key, now)
        self.treat(record, event.profile, now)
        record.in_flight, record.guessed = dict(event.granted_at), event.guessed
        self.holder |= dict.fromkeys(record.in_flight, record)
        if event.is_resident:
            record.last_used = now
            self.change(record, State.RESIDENT, Cause.OBSERVED, now)

    # Records

    def record(self, key: Key, profile: Profile, now: float) -> Residency:
        """The record that a request for this key belongs to: its own, or the loaded runner that serves it as it is."""
        occupant = self.occupant(key.runner)
        serves = occupant is not None and key.served_by(occupant.key) and occupant.state is not State.UNLOADING
        record = occupant if occupant is not None and serves else self.records.get(key) or self._new(key, now)
        if record.key == key:  # the size of another key says nothing of this one
            self.treat(record, profile, now)
        return record

    def current(self, key: Key, generation: int, state: State) -> Residency | None:
        """The record that a result belongs to; None if the result is of an older generation."""
        record = self.records.get(key)
        return record if record and record.generation == generation and record.state is state else None

    def treat(self, record: Residency, profile: Profile, now: float) -> None:
        """This is how it is to be treated from now on: a pin keeps it, whatever was wanted of it before."""
        if profile is record.profile or profile == record.profile:
            return
        before, record.profile = record.profile, profile
        if profile.size_gb != before.size_gb:
            record.speed.sized(profile.size_gb)
            self.learned(record.key.runner)
        self.unsettled |= _room(before) != _room(profile)
        if profile.pinned and not before.pinned and record.state is not State.UNLOADING:
            self.end_unloaders(record, Rejection.PINNED)
            self.stay(record, Cause.LIMITS, now)

    def stay(self, record: Residency, cause: Cause, now: float) -> None:
        """It need not go after all; then something else may have to."""
        if record.state is State.DRAINING:
            self.change(record, State.RESIDENT, cause, now)
            self.shrunk = True

    def _new(self, key: Key, now: float) -> Residency:
        if len(self.records) >= REMEMBERED:
            self._forget(now)
        record = self.records[key] = Residency(key, self._speeds.setdefault(key.runner, Speed()))
        return record

    def _forget(self, now: float) -> None:
        """The records of longest ago that nothing depends on."""
        for record in [r for r in self.records.values() if r.forgettable(now)][: REMEMBERED // 4]:
            del self.records[record.key]

    def occupant(self, runner: str) -> Residency | None:
        """The key of this runner that is in memory; Ollama holds one at most."""
        return self.occupants.get(runner)

    def find(self, wanted: Callable[[Residency], bool]) -> Residency | None:
        """The first occupant of this kind."""
        return next((record for record in self.occupants.values() if wanted(record)), None)

    def follow_list(self, observed: Observed) -> set[str]:
        """Note which requests in flight are on a runner that Ollama does not list; return the runners that it does."""
        present = {sighting.key.runner for sighting in observed.present}
        self.listed_at = observed.asked_at
        for record in self.records.values():
            if record.in_flight or record.unlisted:
                listed = record.key.runner in present or not observed.complete
                record.follow_list(observed.asked_at, is_listed=listed)
        return present

    def is_lost(self, request: int) -> bool:
        """Return True if the process that had this request is gone: Ollama has not listed its runner for too long."""
        record = self.holder.get(request)
        if record is None or (since := record.unlisted.get(request)) is None:
            return False
        return self.listed_at - since >= max(record.profile.swap_timeout_s, LOADS_UNLISTED * record.speed.load_s)

    @property
    def at_rest(self) -> bool:
        """Whether nobody waits and nothing is being answered, loaded or unloaded."""
        for record in self.occupants.values():
            if record.in_flight or record.in_transition:
                return False
        return not self.waiting

    @property
    def is_cut_off(self) -> bool:
        """Return True if nothing can be loaded or unloaded: Ollama is away, or nobody knows what is in memory."""
        return self.down_since is not None or self.blind_since is not None

    @property
    def in_transition(self) -> bool:
        """Whether a load or an unload is under way."""
        return any(record.in_transition for record in self.occupants.values())

    def expiries(self) -> Iterator[float]:
        """When the times to live of idle occupants are over."""
        return (at for record in self.occupants.values() if (at := record.expires_at) is not None)

    @property
    def calm(self) -> bool:
        """Whether there is nothing to decide: requests are granted by what they ask for, and nothing else is due."""
        if self.swap or self.forced or self.shrunk or self.unsettled:
            return False
        if self.is_cut_off or self.closing_until is not None:
            return False
        if self.waiting and self.limits.queue_timeout_s is not None:
            return False
        for record in (*self.occupants.values(), *self.queued.values()):
            if record.state is not State.RESIDENT or (record.ttl_s is not None and record.idle):
                return False
        return True

    def change(self, record: Residency, state: State, cause: Cause, now: float) -> None:
        record.state, record.cause, record.changed_at = state, cause, now
        self.changed_at = now
        self.touched[record] = None
        if record.occupies:
            self.occupants[record.key.runner] = record
        else:
            self.occupants.pop(record.key.runner, None)
        self.out.append(Changed(record.key, state, cause, record.loading_as))

    def adopt(self, sighting: Sighting, now: float) -> None:
        """Somebody else had it loaded: a resident like any other."""
        record = self.record(sighting.key, sighting.profile, now)
        record.last_used = now
        record.ttl_s = record.idle_since = None
        record.seen_gb, record.guessed = sighting.size_gb, True
        self.change(record, State.RESIDENT, Cause.OBSERVED, now)
        record.begin_idleness(now)
        self.unsettled |= record.profile.pinned

    def see(self, record: Residency, sighting: Sighting, settled: bool, now: float) -> None:
        """Ollama lists it: its size is known better once it is in memory, and others may have to go for it."""
        size_gb, sure_gb = record.size_gb, record.sure_gb
        self.treat(record, sighting.profile, now)
        if settled and sighting.size_gb is not None:
            record.seen_gb = sighting.size_gb
        self.shrunk |= record.sure_gb > sure_gb
        self.unsettled |= record.size_gb != size_gb

    def become_absent(self, record: Residency, cause: Cause, now: float) -> None:
        record.seen_gb, record.guessed = None, False
        record.generation = 0  # whatever is still under way for it belongs to the past
        if record.state is not State.LOADING:
            record.left_at = now
        record.gate_left = 0
        record.hold_until = None
        record.unload_backoff.clear()
        self.unsettled |= bool(record.waiters)
        self.change(record, State.ABSENT, cause, now)
        self.end_unloaders(record)

    def end_unloaders(self, record: Residency, reason: Rejection | None = None) -> None:
        """Those who asked for an unload are answered: it is done, or why it is not."""
        for unloader in record.unloaders:
            del self.holder[unloader]
            self.out.append(Answer(unloader) if reason is None else Reject(unloader, reason))
        record.unloaders = []

    def report_hold(self, record: Residency, now: float, *, paid: bool) -> None:
        if record.hold_until is not None and record.held_since < min(now, record.hold_until):
            self.out.append(Held(record.key, min(now, record.hold_until) - record.held_since, paid))

    def end_swap(self) -> None:
        """A swap is over when its key is there otherwise, or nobody waits for it before its load began."""
        if self.swap is None or (wanted := self.swap.wanted).state is State.LOADING:
            return
        if wanted.occupies or not wanted.waiters:
            self.swap = None

    # Queues

    def enqueue(self, record: Residency, waiter: Waiter) -> None:
        self.numbers += 1
        self.waiting += 1
        self.holder[waiter.id] = record
        self.touched[record] = None
        record.waiters.add(waiter)
        self.queued[record.key] = record
        record.look_at_newcomer(waiter, self.limits.rules)

    def dequeue(self, record: Residency, waiter: Waiter) -> None:
        record.waiters.remove(waiter)
        self.waiting -= 1
        if record.is_in_gate(waiter):
            record.gate_left -= 1
        if not record.waiters:
            del self.queued[record.key]
        if record.head is waiter or not record.waiters:
            record.look_at_head(self.limits.rules)

    def had_turn(self, record: Residency, now: float) -> None:
        """This key is loaded for the party of its head: whatever else that waits for counts as having come now."""
        head = record.head
        if head is None:
            return
        for other in self.queued.values():
            same_party = head.client or other.key.runner == record.key.runner
            if not same_party or other is record:
                continue
            if other.waiters.had_turn_elsewhere(head.client, head.priority, now):
                other.look_at_head(self.limits.rules)

    def reject(
        self,
        record: Residency,
        waiter: Waiter,
        reason: Rejection,
        retry_s: float | None = None,
        failure: Failure | None = None,
        shortage: Shortage | None = None,
    ) -> None:
        self.dequeue(record, waiter)
        del self.holder[waiter.id]
        self.out.append(Reject(waiter.id, reason, retry_s, failure, shortage))

    def answer_loaders(self, record: Residency, now: float) -> None:
        """The key is resident: those who wanted no more than that have it."""
        for waiter in list(record.waiters.loaders.values()):
            self.dequeue(record, waiter)
            record.last_used = now
            record.live_for(waiter.ttl_s)
            del self.holder[waiter.id]
            self.out.append(Answer(waiter.id))
        record.begin_idleness(now)

    def serve(self, now: float) -> None:
        """Grant wherever somebody may be to be granted since the last time."""
        touched, self.touched = self.touched, {}
        for record in touched:
            self.grant(record, now)

    def grant(self, record: Residency, now: float) -> None:
        """Serve the queue of a resident, its clients in turn, up to its parallel limit."""
        if record.state is not State.RESIDENT:
            return
        self.answer_loaders(record, now)
        while record.waiters and len(record.in_flight) < record.profile.parallel:
            waiter = record.waiters.next(record.patience(self.limits.rules))
            self.dequeue(record, waiter)
            record.waiters.had_turn(waiter.client, now)
            record.grant(waiter.id, waiter.ttl_s, now)
            self.out.append(Grant(waiter.id))

    def finish(self, record: Residency, request: int, now: float) -> None:
        record.speed.served(now - record.in_flight.pop(request))
        record.last_used = now
        record.begin_idleness(now)
        if record.waiters:
            self.touched[record] = None

    def absent_queued(self) -> Iterator[Residency]:
        """The keys that somebody waits for and that are not in memory."""
        return (record for record in self.queued.values() if record.state is State.ABSENT)

    def was_loaded(self, runner: str, now: float) -> None:
        """A load of this runner has ended, with whatever options; its speed is known better."""
        self.learned(runner)
        for record in self.records.values():
            if record.key.runner == runner:
                record.loaded_at = now

    def learned(self, runner: str) -> None:
        """A runner's speed has changed, and with it the patience of those who wait for it."""
        for record in self.queued.values():
            if record.key.runner == runner:
                record.look_at_head(self.limits.rules)


def _room(profile: Profile) -> tuple[object, ...]:
    """What decides whether others find room beside it, and it beside them."""
    return profile.pinned, profile.size_gb, profile.least_gb, profile.slot
