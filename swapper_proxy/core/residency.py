"""The scheduler's record of one key: its state, who waits for it, what it is answering, what is known of it."""

import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from swapper_proxy.core.backoff import Backoff, LoadBackoffs
from swapper_proxy.core.estimates import Speed
from swapper_proxy.core.types import Cause, Key, Priority, Profile, Rules, State

IN_MEMORY = (State.RESIDENT, State.DRAINING)
IN_TRANSITION = (State.LOADING, State.UNLOADING)
# Gaps remembered per key: enough for a client's habit, few enough to follow when it changes.
GAPS = 32
# A runner that Ollama has not listed for so many loads is not just being loaded again.
LOADS_UNLISTED = 3.0


@dataclass(frozen=True, slots=True)
class Waiter:
    """One who waits for a key, `number` counting all who ever waited.

    With a `cause` it is a load that somebody asked for: a waiter without service, answered and never in flight.
    `client` is who takes turns with the others that wait.  `variant` is which model over these weights it wants.
    """

    id: int
    number: int
    arrived_at: float
    priority: Priority = Priority.MEDIUM
    ttl_s: float | None = None
    cause: Cause | None = None
    client: str = ""
    variant: str = ""


Party = tuple[str, str]  # a client's name, or the runner that those without a name want
Lane = OrderedDict[int, Waiter]  # those of one priority, in order of arrival


class Line:
    """What one client waits for with one priority, and `since` when: that it came, or had its last turn.

    `turn_at` is when it had its last turn through another key.
    """

    __slots__ = ("lane", "since", "turn_at")

    def __init__(self, since: float) -> None:
        self.since = since
        self.turn_at = -math.inf
        self.lane: Lane = OrderedDict()


class Queue:
    """Who waits for one key.

    Each priority has the same patience for all, so the first that is due is the oldest of one of them, and the client
    whose turn is next is the first of one of them.  Adding, removing, looking at the first and giving a turn take the
    same time however many wait.
    """

    __slots__ = ("_lanes", "_length", "_lines", "loaders")

    def __init__(self) -> None:
        self._lanes: dict[Priority, Lane] = {priority: OrderedDict() for priority in Priority}
        self._lines: dict[Priority, OrderedDict[str, Line]] = {priority: OrderedDict() for priority in Priority}
        self._length = 0
        self.loaders: dict[int, Waiter] = {}

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiter]:
        """By priority, in order of arrival."""
        for lane in (self.loaders, *self._lanes.values()):
            yield from lane.values()

    def add(self, waiter: Waiter) -> None:
        self._length += 1
        if waiter.cause is not None:
            self.loaders[waiter.id] = waiter
            return
        self._lanes[waiter.priority][waiter.id] = waiter
        lines = self._lines[waiter.priority]
        if (line := lines.get(waiter.client)) is None:
            line = lines[waiter.client] = Line(waiter.arrived_at)
        line.lane[waiter.id] = waiter

    def remove(self, waiter: Waiter) -> None:
        self._length -= 1
        if waiter.cause is not None:
            del self.loaders[waiter.id]
            return
        del self._lanes[waiter.priority][waiter.id]
        lines = self._lines[waiter.priority]
        lane = lines[waiter.client].lane
        del lane[waiter.id]
        if not lane:
            del lines[waiter.client]

    def next(self, patience: Mapping[Priority, float]) -> Waiter:
        """Who is served next; somebody must wait for service.

        The clients take turns: a turn counts as having come then, and next is the one that is due first.  Of its own
        requests it is given the first that is due.
        """
        firsts = [(p, *next(iter(lines.items()))) for p, lines in self._lines.items() if lines]
        _, client, _ = min(firsts, key=lambda first: (first[2].since + patience[first[0]], first[2].since))
        own = [next(iter(line.lane.values())) for lines in self._lines.values() if (line := lines.get(client))]
        return min(own, key=lambda waiter: (waiter.arrived_at + patience[waiter.priority], waiter.number))

    def had_turn(self, client: str, now: float) -> None:
        """What else this client waits for stands behind all others of the same priority."""
        for lines in self._lines.values():
            if line := lines.get(client):
                line.since = now
                lines.move_to_end(client)

    def had_turn_elsewhere(self, client: str, priority: Priority, now: float) -> bool:
        """Another key was loaded for this client: what it waits for here counts as having come now.

        Return True if it waits here with this priority.
        """
        line = self._lines[priority].get(client)
        if line is not None:
            line.turn_at = now
        return line is not None

    def copy(self) -> "Queue":
        """The same, but for those who want no service: to see who would be next."""
        copy = Queue()
        for priority, lines in self._lines.items():
            for client, line in lines.items():
                for waiter in line.lane.values():
                    copy.add(waiter)
                copy._lines[priority][client].since = line.since
        return copy

    def find(self, id_: int) -> Waiter | None:
        for lane in (*self._lanes.values(), self.loaders):
            if waiter := lane.get(id_):
                return waiter
        return None

    def fronts(self) -> Iterator[tuple[Waiter, float]]:
        """The oldest of each client and priority and since when it counts as waiting; all who want no service."""
        for lines in self._lines.values():
            for line in lines.values():
                first = next(iter(line.lane.values()))
                yield first, max(first.arrived_at, line.turn_at)
        for loader in self.loaders.values():
            yield loader, loader.arrived_at

    def firsts(self) -> Iterator[Waiter]:
        """The oldest of each priority, and those who want no service."""
        for lane in self._lanes.values():
            if lane:
                yield next(iter(lane.values()))
        yield from self.loaders.values()


@dataclass(slots=True, eq=False, repr=False)
class Residency:
    """One key.  Times are the scheduler's `now`; `generation` tells the current load or unload from older ones.

    `head` is who is due first, whose turn in this queue it may not be; `arrived_at` is since when it counts as waiting
    (when it came, or when another key was loaded for its party), `due` when its patience ends.  `party` is who takes
    turns with the others across keys: the head's client, or all without a name who want these weights.
    `gate` is the number up to which those waited who were there when the load finished, `gate_left` how many of them
    still do.  `idle_since` is when the last request ended after which nobody waited, `hold_until` how long that idle
    resident is kept because others have waited since `held_since`.
    """

    key: Key
    speed: Speed = field(default_factory=Speed)
    profile: Profile = Profile()
    seen_gb: float | None = None  # room that Ollama says it takes, since it was loaded
    guessed: bool = False  # somebody else loaded it, with options that can only be guessed
    state: State = State.ABSENT
    generation: int = 0
    changed_at: float = 0.0
    cause: Cause = Cause.IDLE
    last_used: float = 0.0
    left_at: float = -math.inf  # when it was in memory last
    loaded_at: float = -math.inf  # when a load of its runner for the scheduler ended
    reloaded_at: float = -math.inf  # when Ollama had loaded it behind the scheduler's back
    ttl_s: float | None = None
    waiters: Queue = field(default_factory=Queue)
    head: Waiter | None = None
    due: float = math.inf
    arrived_at: float = math.inf
    party: Party = ("", "")
    most_s: float = math.inf  # the longest fair share of its head
    in_flight: dict[int, float] = field(default_factory=dict)  # request -> when it was granted
    unlisted: dict[int, float] = field(default_factory=dict)  # request in flight -> since when Ollama lists no runner
    unloaders: list[int] = field(default_factory=list)  # manual unloads to answer
    gate: int = 0
    gate_left: int = 0
    gate_until: float = 0.0
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS))
    idle_since: float | None = None
    held_since: float = 0.0
    hold_until: float | None = None
    loading_as: str = ""  # the variant that the last load was for; once it failed for all of them, none
    load_backoffs: LoadBackoffs = field(default_factory=LoadBackoffs)
    unload_backoff: Backoff = field(default_factory=Backoff)

    def __repr__(self) -> str:
        """Return what matters in a log line."""
        options = "".join(f" {name}={value}" for name, value in self.key.options)
        return f"<{self.key.runner}{options} {self.state}, {len(self.waiters)} wait, {len(self.in_flight)} in flight>"

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
        """Room in memory that it takes or is likely to take; what is unknown is taken for nothing."""
        return self.seen_gb if self.seen_gb is not None else self.profile.size_gb or 0.0

    @property
    def sure_gb(self) -> float:
        """Room in memory that it takes for sure."""
        if self.seen_gb is not None or self.profile.least_gb is None:
            return self.size_gb
        return self.profile.least_gb

    def has_settled(self, since: float) -> bool:
        """Return True if it was in memory all the time since then."""
        return self.state in IN_MEMORY and self.changed_at < since

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
            and (profile is self.profile or profile == self.profile or key != self.key)
            and key.served_by(self.key)
        )

    def follow_list(self, asked_at: float, *, is_listed: bool) -> None:
        """Note the requests in flight whose runner Ollama does not list, though it was asked after their grant.

        A runner that is listed again may be the same, which Ollama had to load again; unless it was loaded for the
        scheduler meanwhile (`loaded_at`), because it was not there.
        """
        if is_listed:
            unlisted = self.unlisted.items()
            self.unlisted = {id_: at for id_, at in unlisted if id_ in self.in_flight and at < self.loaded_at}
        else:
            granted = self.in_flight.items()
            self.unlisted = {id_: self.unlisted.get(id_, asked_at) for id_, at in granted if at < asked_at}

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

    def is_in_gate(self, waiter: Waiter) -> bool:
        """Return True if this one was there when the key was loaded."""
        return waiter.number < self.gate and waiter.cause is None

    def gate_open(self, now: float) -> bool:
        """Whether those who were there when it was loaded are still to be served before it may be forced out."""
        return self.gate_left > 0 and now < self.gate_until

    def patience(self, rules: Rules) -> dict[Priority, float]:
        """Seconds; where swaps are quick, all priorities are less patient: a minute for a load of 0.3 s is absurd."""
        quickness = rules.patience_swaps * self.speed.swap_s / rules.max_wait_s[Priority.MEDIUM]
        longest = rules.max_wait_s.items()
        return {priority: s * quickness if quickness < 1.0 else s for priority, s in longest}

    def look_at_head(self, rules: Rules) -> None:
        """Find the head anew: it has left, the party of one of its clients had a turn, or the speed has changed."""
        self.head, self.due, self.arrived_at = None, math.inf, math.inf
        if not self.waiters:
            return
        patience = self.patience(rules)
        for waiter, since in self.waiters.fronts():
            self._stand(waiter, since, since + patience[waiter.priority], rules)

    def look_at_newcomer(self, waiter: Waiter, rules: Rules) -> None:
        """Somebody has joined the queue."""
        self._stand(waiter, waiter.arrived_at, waiter.arrived_at + self.patience(rules)[waiter.priority], rules)

    def _stand(self, waiter: Waiter, since: float, due: float, rules: Rules) -> None:
        """Make this one the head if it is due before the present one."""
        if self.head is None or (due, waiter.number) < (self.due, self.head.number):
            self.head, self.due, self.arrived_at = waiter, due, since
            self.most_s = rules.fair_waits * rules.max_wait_s[waiter.priority]
            self.party = (waiter.client, "" if waiter.client else self.key.runner)

    @property
    def oldest(self) -> Waiter:
        """Who has waited longest; the queue must not be empty."""
        return min(self.waiters.firsts(), key=lambda waiter: waiter.number)

    def loadable_at(self) -> float:
        """Return when one of those who wait may have it loaded; somebody must wait."""
        return self.load_backoffs.earliest(waiter.variant for waiter in self.waiters)

    def first_loadable(self, now: float) -> Waiter:
        """Return the head, or who has waited longest of those who may have it loaded; there must be one."""
        head = self.head or self.oldest
        if now >= self.load_backoffs.until(head.variant):
            return head
        able = (waiter for waiter in self.waiters if now >= self.load_backoffs.until(waiter.variant))
        return min(able, key=lambda waiter: waiter.number)

    def forgettable(self, now: float) -> bool:
        """Whether nothing but experience is lost when this record is."""
        busy = self.occupies or self.waiters or self.in_flight
        return not busy and self.load_backoffs.forgotten(now)
