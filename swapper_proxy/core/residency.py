"""The scheduler's record of one key: its state, who waits for it, what it is answering."""

from dataclasses import dataclass, field

from swapper_proxy.core.types import Cause, Key, Profile, State

# After a failure Ollama is left alone for 1 s, then 2 s, 4 s ... up to a minute.
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0


@dataclass(frozen=True, slots=True)
class Waiter:
    """One who waits for a key.  A manual load is a waiter without service: answered, never in flight."""

    id: int
    arrived_at: float
    manual: bool = False
    ttl_s: float | None = None


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


@dataclass(slots=True)
class Residency:
    """One key.  Times are the scheduler's `now`; `generation` tells the current load or unload from older ones."""

    key: Key
    profile: Profile = Profile()
    state: State = State.ABSENT
    generation: int = 0
    changed_at: float = 0.0
    cause: Cause = Cause.DEMAND
    last_used: float = 0.0
    ttl_s: float | None = None
    waiters: dict[int, Waiter] = field(default_factory=dict)  # in order of arrival
    in_flight: set[int] = field(default_factory=set)
    unloaders: list[int] = field(default_factory=list)  # manual unloads to answer
    load_backoff: Backoff = field(default_factory=Backoff)
    unload_backoff: Backoff = field(default_factory=Backoff)

    @property
    def occupies(self) -> bool:
        """Whether it takes up room in Ollama, or will in a moment."""
        return self.state is not State.ABSENT

    @property
    def in_transition(self) -> bool:
        return self.state in (State.LOADING, State.UNLOADING)

    @property
    def idle(self) -> bool:
        return self.state is State.RESIDENT and not self.in_flight and not self.waiters

    @property
    def head(self) -> Waiter:
        """The first in its queue, which must not be empty."""
        return next(iter(self.waiters.values()))

    @property
    def manual(self) -> bool:
        """Whether the operator is among those who wait."""
        return any(waiter.manual for waiter in self.waiters.values())

    def evictable(self, now: float) -> bool:
        """Whether it may be unloaded, for whatever reason."""
        return self.idle and now >= self.unload_backoff.until

    @property
    def expires_at(self) -> float | None:
        """When its time to live is over, if it has one and is idle."""
        if self.ttl_s is None or not self.idle:
            return None
        return self.last_used + self.ttl_s

    def forgettable(self, now: float) -> bool:
        """Whether nothing is lost when this record is."""
        busy = self.occupies or self.waiters or self.in_flight
        return not busy and self.load_backoff.forgotten(now)
