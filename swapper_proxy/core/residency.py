"""The scheduler's record of one key: its state, who waits for it, what it is answering, what is known of it."""

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from swapper_proxy.core.estimates import Speed
from swapper_proxy.core.types import Cause, Key, Priority, Profile, Rules, State

# After a failure Ollama is left alone for 1 s, then 2 s, 4 s ... up to a minute.
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0
IN_MEMORY = (State.RESIDENT, State.DRAINING)
IN_TRANSITION = (State.LOADING, State.UNLOADING)
# Gaps remembered per key: enough for a client's habit, few enough to follow when it changes.
GAPS = 32


@dataclass(frozen=True, slots=True)
class Waiter:
    """One who waits for a key, `number` counting all who ever waited.

    With a `cause` it is a load that somebody asked for: a waiter without service, answered and never in flight.
    """

    id: int
    number: int
    arrived_at: float
    priority: Priority = Priority.MEDIUM
    ttl_s: float | None = None
    cause: Cause | None = None


class Queue:
    """Who waits for one key.

    Each priority has the same patience for all, so the first that is due is the oldest of one of them.  Adding,
    removing and looking at the first take the same time however many wait.
    """

    __slots__ = ("_lanes", "_length", "loaders")

    def __init__(self) -> None:
        self._lanes: dict[Priority, OrderedDict[int, Waiter]] = {priority: OrderedDict() for priority in Priority}
        self._length = 0
        self.loaders: dict[int, Waiter] = {}

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiter]:
        """By priority, in order of arrival."""
        for lane in (self.loaders, *self._lanes.values()):
            yield from lane.values()

    def add(self, waiter: Waiter) -> None:
        self._lane(waiter)[waiter.id] = waiter
        self._length += 1

    def remove(self, waiter: Waiter) -> None:
        del self._lane(waiter)[waiter.id]
        self._length -= 1

    def find(self, id_: int) -> Waiter | None:
        for lane in (*self._lanes.values(), self.loaders):
            if waiter := lane.get(id_):
                return waiter
        return None

    def firsts(self) -> Iterator[Waiter]:
        """The oldest of each priority, and those who want no service."""
        for lane in self._lanes.values():
            if lane:
                yield next(iter(lane.values()))
        yield from self.loaders.values()

    def _lane(self, waiter: Waiter) -> dict[int, Waiter]:
        return self._lanes[waiter.priority] if waiter.cause is None else self.loaders


@dataclass(slots=True)
class Backoff:
    """How long to leave Ollama alone after something failed."""

    failures: int = 0
    until: float = 0.0

    def failed(self, now: float) -> None:
        if self.forgotten(now):
            self.failures = 0
        self.until = now + min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(self.failures, 6))
        self.failures += 1

    def clear(self) -> None:
        self.failures, self.until = 0, 0.0

    def forgotten(self, now: float) -> bool:
        """Whether so much time has passed that the next failure counts as a first one."""
        return now >= self.until + BACKOFF_MOST_S or not self.failures


@dataclass(slots=True, eq=False)
class Residency:
    """One key.  Times are the scheduler's `now`; `generation` tells the current load or unload from older ones.

    `head` is the first of the queue, `arrived_at` when it came, `due` when its patience ends.  `gate` is the number up
    to which those waited who were there when the load finished, `gate_left` how many of them still do.  `idle_since` is
    when the last request ended after which nobody waited, `hold_until` how long that idle resident is kept because
    others have waited since `held_since`.
    """

    key: Key
    speed: Speed = field(default_factory=Speed)
    profile: Profile = Profile()
    state: State = State.ABSENT
    generation: int = 0
    changed_at: float = 0.0
    cause: Cause = Cause.IDLE
    last_used: float = 0.0
    left_at: float = -math.inf  # when it was in memory last
    reloaded_at: float = -math.inf  # when Ollama had loaded it behind the scheduler's back
    ttl_s: float | None = None
    waiters: Queue = field(default_factory=Queue)
    head: Waiter | None = None
    due: float = math.inf
    arrived_at: float = math.inf
    in_flight: dict[int, float] = field(default_factory=dict)  # request -> when it was granted
    unloaders: list[int] = field(default_factory=list)  # manual unloads to answer
    gate: int = 0
    gate_left: int = 0
    gate_until: float = 0.0
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS))
    idle_since: float | None = None
    held_since: float = 0.0
    hold_until: float | None = None
    load_backoff: Backoff = field(default_factory=Backoff)
    unload_backoff: Backoff = field(default_factory=Backoff)

    @property
    def occupies(self) -> bool:
        """Whether it takes up room in Ollama, or will in a moment."""
        return self.state is not State.ABSENT

    @property
    def in_transition(self) -> bool:
        """Whether it is being loaded or unloaded."""
        return self.state in IN_TRANSITION

    @property
    def idle(self) -> bool:
        return self.state is State.RESIDENT and not self.in_flight and not self.waiters

    @property
    def size_gb(self) -> float:
        """Room in memory; what is unknown is taken for nothing."""
        return self.profile.size_gb or 0.0

    @property
    def expires_at(self) -> float | None:
        """When its time to live is over, if it has one and is idle."""
        if self.ttl_s is None or self.profile.pinned or not self.idle:
            return None
        return self.last_used + self.ttl_s

    def evictable(self, now: float) -> bool:
        """Whether it is idle and may be unloaded, for whatever reason."""
        return self.idle and not self.profile.pinned and now >= self.unload_backoff.until

    def has_room_for(self, key: Key, profile: Profile) -> bool:
        """Whether such a request can be served before anybody else, and changes nothing but that."""
        return (
            self.head is None
            and len(self.in_flight) < self.profile.parallel
            and self.hold_until is None
            and (profile is self.profile or profile == self.profile)
            and key.served_by(self.key)
        )

    def past_hold(self, now: float) -> bool:
        return self.hold_until is None or now >= self.hold_until

    def begin_idleness(self, now: float) -> None:
        """If it is there and has nothing to do any more."""
        if self.in_flight or self.waiters or self.idle_since is not None:
            return
        if self.state in IN_MEMORY:
            self.idle_since = now

    def end_idleness(self, now: float) -> None:
        """A request arrived: how long that took is worth knowing."""
        if self.idle_since is not None:
            self.gaps.append(now - self.idle_since)
        self.idle_since = self.hold_until = None

    def grant(self, request: int, ttl_s: float | None, now: float) -> None:
        """Serve this request."""
        self.last_used = self.in_flight[request] = now
        self.live_for(ttl_s)

    def live_for(self, ttl_s: float | None) -> None:
        """A new idle time to live; None leaves it as it is, infinity ends it."""
        if ttl_s is not None:
            self.ttl_s = ttl_s if math.isfinite(ttl_s) else None

    def hold(self, now: float, until: float) -> None:
        """Others wait from now on; until when is it kept all the same?"""
        self.held_since, self.hold_until = now, until

    def open_gate(self, number: int, now: float, rules: Rules) -> None:
        """Those who wait now, up to this number, are served before it may be forced out."""
        self.gate, self.gate_left = number, len(self.waiters) - len(self.waiters.loaders)
        self.gate_until = now + max(rules.gate_s, rules.gate_swaps * self.speed.swap_s)

    def gate_open(self, now: float) -> bool:
        """Whether those who were there when it was loaded are still to be served before it may be forced out."""
        return self.gate_left > 0 and now < self.gate_until

    def patience_s(self, waiter: Waiter, rules: Rules) -> float:
        """Seconds; where swaps are quick, all priorities are less patient: a minute for a load of 0.3 s is absurd."""
        longest = rules.max_wait_s[waiter.priority]
        quickness = rules.patience_swaps * self.speed.swap_s / rules.max_wait_s[Priority.MEDIUM]
        return longest * quickness if quickness < 1.0 else longest

    def look_at_head(self, rules: Rules) -> None:
        """After any change of the queue or of the speed."""
        self.head, self.due, self.arrived_at = None, math.inf, math.inf
        if not self.waiters:
            return
        for waiter in self.waiters.firsts():
            due = waiter.arrived_at + self.patience_s(waiter, rules)
            if self.head is None or (due, waiter.number) < (self.due, self.head.number):
                self.head, self.due, self.arrived_at = waiter, due, waiter.arrived_at

    @property
    def oldest(self) -> Waiter:
        """Who has waited longest; the queue must not be empty."""
        return min(self.waiters.firsts(), key=lambda waiter: waiter.number)

    def forgettable(self, now: float) -> bool:
        """Whether nothing but experience is lost when this record is."""
        busy = self.occupies or self.waiters or self.in_flight
        return not busy and self.load_backoff.forgotten(now)
