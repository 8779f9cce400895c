"""Somebody who tells a scheduler what happens, does what it wants, and checks that it keeps its promises."""

from collections import Counter

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
    UnloadRequested,
    UpstreamDown,
)
from swapper_proxy.core.host import Host
from swapper_proxy.core.residency import Residency
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import Cause, Key, Limits, Profile, Sighting, State
from tests.core.telling import check_what_is_told

KEYS = (
    Key("a"),
    Key("a", (("num_gpu", 5),)),
    Key("a", (("num_ctx", 8192),)),
    Key("a", (("num_ctx", 8192), ("num_gpu", 5))),
    Key("b"),
    Key("b", (("num_batch", 64),)),
    Key("c"),
    Key("d"),
    Key("e"),
)
PROFILES = {
    "a": Profile(parallel=1, swap_timeout_s=10.0, size_gb=4.0),
    "b": Profile(parallel=2, swap_timeout_s=10.0, size_gb=2.0, max_queue=3),
    "c": Profile(parallel=3, swap_timeout_s=10.0, size_gb=6.0),
    "d": Profile(parallel=1, swap_timeout_s=60.0),
    "e": Profile(parallel=4, swap_timeout_s=10.0, size_gb=1.0, slot="embed"),
}
TOLERANCE_GB = 1e-6
VARIANTS = ("", "mine", "yours")  # models over the same weights


def acts(commands: list[Command]) -> list[Command]:
    """All but wake-ups: one too many does no harm."""
    return [command for command in commands if not isinstance(command, WakeAt)]


class Restless(Host):
    """Thinks about everything every time, and must say the same as one that knows when there is nothing to decide."""

    calm = False  # type: ignore[assignment]


class InOrderOfDue(Restless):
    """Knows nothing of clients, and must say the same as long as there is but one.

    Who is due first in a queue is served first, whatever else was loaded for its client meanwhile.
    """

    def grant(self, record: Residency, now: float) -> None:
        if record.state is not State.RESIDENT:
            return
        self.answer_loaders(record, now)
        patience = record.patience(self.limits.rules)
        while record.waiters and len(record.in_flight) < record.profile.parallel:
            first = min(record.waiters, key=lambda w: (w.arrived_at + patience[w.priority], w.number))
            self.dequeue(record, first)
            record.grant(first.id, first.ttl_s, now)
            self.out.append(Grant(first.id))


class Witness:
    """One scheduler, and usually two twins that are told the same and say the same.

    One of them admits at once whom it can, the other one is restless, and with one client serves in order of due.
    """

    def __init__(self, limits: Limits, *, twin: bool = True, one_client: bool = False) -> None:
        self.now = 0.0
        self.limits = limits
        self.profiles = dict(PROFILES)
        self.scheduler = Scheduler(limits)
        self.twin = Scheduler(limits) if twin else None
        self.restless = Scheduler(limits)
        self.restless.host = InOrderOfDue(limits) if one_client else Restless(limits)
        self.events: list[Event] = []  # of this instant, not told yet
        self.told: list[Event] = []  # what is being answered
        self.last_id = 0
        self.asked: dict[int, Key | None] = {}  # who asked, and for which key; None: an unload
        self.variants: dict[int, str] = {}  # of those who asked for a key
        self.loading_as = ""
        self.failed: set[tuple[str, str]] = set()  # runner and variant: all variants if Ollama did not say why
        self.outcomes: Counter[int] = Counter()
        self.cancelled: set[int] = set()
        self.in_flight: dict[int, Key] = {}  # granted, neither finished nor orphaned
        self.orphans: dict[int, Key] = {}  # granted by an Ollama that went down
        self.states: dict[Key, State] = {}
        self.silent: set[str] = set()  # runners that go although they may be pinned, until they went
        self.excused: set[Key] = set()  # what somebody else loaded, and what was there when limits or sizes changed
        self.owed: dict[Key, set[int]] = {}  # who waited at the end of a load that has served nobody yet
        self.under_way: tuple[State, Key, int] | None = None
        self.generation = 0
        self.wake: float | None = None
        self.down = self.closing = False
        self.loads = 0

    # What happens

    def ask(self, key: Key | None, variant: str = "") -> int:
        self.last_id += 1
        self.asked[self.last_id] = key
        self.variants[self.last_id] = variant
        return self.last_id

    def note_failed(self) -> None:
        for event in self.told:
            if isinstance(event, LoadFailed) and event.generation == self.generation:
                variants = (self.loading_as,) if event.failure else VARIANTS
                self.failed |= {(event.key.runner, variant) for variant in variants}

    def sighting(self, key: Key) -> Sighting:
        return Sighting(key, self.profiles[key.runner])

    def change_config(self, limits: Limits, profiles: dict[str, Profile]) -> ConfigChanged:
        self.limits, self.profiles = limits, profiles
        return ConfigChanged(limits, tuple(map(self.sighting, KEYS)))

    def leave(self, id_: int, how: type[Cancelled | Finished]) -> Event:
        if how is Cancelled and not self.outcomes[id_]:
            self.cancelled.add(id_)
        self.in_flight.pop(id_, None)
        self.orphans.pop(id_, None)
        self.settle(id_)
        return how(id_)

    def go_down(self) -> Event:
        self.under_way = None
        self.orphans |= self.in_flight
        self.in_flight.clear()
        self.down = True
        return UpstreamDown()

    def happen(self, event: Event, more: bool = False) -> list[Command]:
        """With `more`, something else happens in the same instant."""
        self.events.append(event)
        return [] if more else self.decide()

    def decide(self) -> list[Command]:
        self.told, self.events = self.events, []
        if any(isinstance(event, ConfigChanged) for event in self.told):
            self.excused |= self.states.keys()
        self.silent |= {event.runner for event in self.told if isinstance(event, UnloadRequested) and event.silent}
        self.owe()
        self.note_failed()
        commands = self.scheduler.handle(self.told, self.now)
        if self.twin is not None:
            assert acts(commands) == acts(self.told_at_once(self.twin))
            assert acts(commands) == acts(self.restless.handle(self.told, self.now))
        for command in commands:
            self.take(command)
        self.check()
        if self.twin is not None:  # in a long run, to foresee all of a long queue at each step would take for ever
            check_what_is_told(self.scheduler.host, self.now)
        return commands

    def told_at_once(self, twin: Scheduler) -> list[Command]:
        match self.told:
            case [Arrived() as event] if twin.admit(event, self.now):
                return [Grant(event.id)]
        return twin.handle(self.told, self.now)

    def owe(self) -> None:
        """At least one of those who wait at the end of a load is to be served.

        Not so if whatever shrinks or empties the host happens in the same instant, or old answers use up the runner.
        """
        if not all(isinstance(event, Loaded | Finished) for event in self.told):
            return
        loaded = {event.key for event in self.told if isinstance(event, Loaded) and event.generation == self.generation}
        for record in self.scheduler.residencies() if loaded else ():
            busy = any(key.runner == record.key.runner for key in self.orphans.values())
            if record.key in loaded and record.state is State.LOADING and record.waiters and not busy:
                self.owed[record.key] = {waiter.id for waiter in record.waiters}

    def settle(self, id_: int) -> None:
        """This one is not to be served any more."""
        for key, ids in list(self.owed.items()):
            ids.discard(id_)
            if not ids:
                del self.owed[key]

    # What the scheduler wants

    def take(self, command: Command) -> None:
        match command:
            case Grant(id_):
                self.end(id_)
                self.take_grant(id_)
            case Reject(id_, reason, _, failure):
                self.end(id_)
                self.settle(id_)
                self.check_blame(id_, reason, failure)
            case Answer(id_):
                self.end(id_)
                self.serve(id_)
            case StartLoad(key, generation, for_id):
                assert not self.closing
                assert self.asked[for_id] is not None
                assert not self.outcomes[for_id]
                self.loading_as = self.variants[for_id]
                self.loads += 1
                self.start(State.LOADING, key, generation)
                self.check_room_for(key)
            case StartUnload(key, generation):
                assert key.runner not in {other.runner for other in self.in_flight.values()}
                assert not self.profiles[key.runner].pinned or key.runner in self.silent
                assert key not in self.owed, "a load for nothing"
                self.start(State.UNLOADING, key, generation)
            case Changed(key, state, cause):
                self.change(key, state, cause)
            case WakeAt(time):
                assert time > self.now
                self.wake = time

    def check_blame(self, id_: int, reason: Rejection, failure: Failure | None) -> None:
        """Nobody is turned away for what is wrong with another variant."""
        if reason in (Rejection.LOAD_FAILED, Rejection.BACKING_OFF):
            key = self.asked[id_]
            assert key is not None
            assert (key.runner, self.variants[id_]) in self.failed
        if failure is not None:
            assert self.variants[id_] == self.loading_as

    def take_grant(self, id_: int) -> None:
        key = self.asked[id_]
        assert key is not None
        assert any(key.served_by(k) and s is State.RESIDENT for k, s in self.states.items())
        self.serve(id_)
        if any(isinstance(event, UpstreamDown) for event in self.told):
            self.orphans[id_] = key
        elif id_ not in self.cancelled:
            self.in_flight[id_] = key
        sharing = [other for other in self.in_flight.values() if other.runner == key.runner]
        assert len(sharing) <= self.profiles[key.runner].parallel

    def serve(self, id_: int) -> None:
        self.owed = {key: ids for key, ids in self.owed.items() if id_ not in ids}

    def end(self, id_: int) -> None:
        assert id_ in self.asked
        assert id_ not in self.cancelled or Cancelled(id_) in self.told  # may be too late by a moment
        self.outcomes[id_] += 1
        assert self.outcomes[id_] == 1

    def start(self, state: State, key: Key, generation: int) -> None:
        assert not self.down
        assert self.under_way is None
        assert self.states[key] is state
        assert generation > self.generation
        self.generation = generation
        self.under_way = (state, key, generation)

    def change(self, key: Key, state: State, cause: Cause) -> None:
        assert self.states.get(key) is not state or state is State.DRAINING
        if state is State.ABSENT:
            self.states.pop(key)
            self.silent.discard(key.runner)
            self.excused.discard(key)
            self.owed.pop(key, None)
            return
        self.states[key] = state
        if cause is Cause.OBSERVED:
            self.excused.add(key)
        assert len({k.runner for k in self.states}) == len(self.states)

    # What holds

    def slot(self, key: Key) -> str:
        slot = self.profiles[key.runner].slot
        return slot if slot in self.limits.slots else ""

    def check_limits(self, keys: set[Key], slots: set[str]) -> None:
        count = Counter(map(self.slot, keys))
        assert all(count[slot] <= self.limits.slots.get(slot, self.limits.max_resident) for slot in slots)
        gb = sum(self.profiles[key.runner].size_gb or 0.0 for key in keys)
        assert self.limits.memory_gb is None or gb <= self.limits.memory_gb + TOLERANCE_GB

    def check_room_for(self, key: Key) -> None:
        """It fits beside all that is there, whoever loaded that."""
        self.check_limits(set(self.states), {self.slot(key)})

    def check(self) -> None:
        records = self.scheduler.residencies()
        assert {record.key: record.state for record in records if record.occupies} == self.states
        assert sum(len(record.waiters) for record in records) == self.scheduler.waiting
        requests = {record.key: len(record.waiters) - len(record.waiters.loaders) for record in records}
        assert sum(requests.values()) <= self.limits.max_queue  # manual loads are queued beyond the limit
        for key, number in requests.items():
            assert number <= (self.profiles[key.runner].max_queue or number)
        own = self.states.keys() - self.excused
        self.check_limits(own, {"", *self.limits.slots})
        leaving = {key.runner for key, state in self.states.items() if state is State.DRAINING}
        assert not any(self.profiles[runner].pinned for runner in leaving - self.silent)

    def check_all_over(self) -> None:
        """Nobody is left, and nothing of them."""
        for record in self.scheduler.residencies():
            assert (len(record.waiters), record.in_flight, record.unloaders) == (0, {}, [])
        assert self.scheduler.waiting == 0
        assert self.scheduler.host.holder == {}
        assert self.scheduler.host.queued == {}
        assert self.scheduler.host.swap is None
        assert self.scheduler.host.forced is None
        for id_ in self.asked.keys() - self.cancelled:
            assert self.outcomes[id_] == 1, id_
