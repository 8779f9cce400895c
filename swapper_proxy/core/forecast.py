"""For people: when those who wait are likely to be served, and what they wait for.  No decision depends on it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, inf

from swapper_proxy.core.host import Host
from swapper_proxy.core.policy import Policy
from swapper_proxy.core.residency import Residency, Waiter
from swapper_proxy.core.types import Cause, Key, Priority, State
from swapper_proxy.core.victims import Room, Victims


class Why(StrEnum):
    """What a waiter waits for."""

    BUSY = "busy"  # its model is in memory and answers as many as it may at once
    LOADING = "loading"  # its model is being loaded
    LEAVING = "leaving"  # its model makes room for another one; it comes back
    UNLOADING = "unloading"  # its model is on its way out for another reason; it comes back
    SWAPPING = "swapping"  # another one is being loaded or unloaded
    DRAINING = "draining"  # what has to go for it finishes its answers
    GATE = "gate"  # what is in memory first serves those who were there when it was loaded
    HOLD = "hold"  # what is in memory is idle, but its client is likely to call again at once
    TURN = "turn"  # what is in memory has work, or others are first
    STUCK = "stuck"  # Ollama did not unload what is in memory
    BACKOFF = "backoff"  # its load failed a moment ago
    DOWN = "down"  # Ollama is not reachable
    BLIND = "blind"  # nobody knows what is in memory


@dataclass(frozen=True, slots=True)
class Outlook:
    """One who waits.  `deadline` and `start` are on the clock of `now`; `blocker` is the key that is in the way.

    `start` is infinite while there is no telling.
    """

    waiter: Waiter
    key: Key
    deadline: float
    start: float
    why: Why
    blocker: Key | None


def outlooks(host: Host, now: float) -> Iterator[Outlook]:
    """All who wait, key by key, in the order in which each key serves them."""
    policy = Policy(host, now)
    starts = _starts(host, policy, now)
    rules = host.limits.rules
    for record in host.queued.values():
        why, blocker = _why(host, record, now)
        first = policy.deadline(record)
        patience = record.patience(rules)
        for waiter, start in _in_turn(record, patience, _first_start(record, why, starts[record.key])):
            deadline = max(first, waiter.arrived_at + patience[waiter.priority])
            yield Outlook(waiter, record.key, deadline, start, why, blocker)


def _first_start(record: Residency, why: Why, likely: float) -> float:
    """Return when its queue is served first, if that would be `likely` with nothing in between."""
    if why is Why.BACKOFF:
        return max(likely, record.loadable_at() + record.speed.load_s)
    return inf if why in NO_TELLING else likely


def _in_turn(record: Residency, patience: Mapping[Priority, float], first: float) -> Iterator[tuple[Waiter, float]]:
    """Who waits and when each is likely to be served, the first at `first`; who only wants it loaded then has it."""
    for loader in record.waiters.loaders.values():
        yield loader, first
    left = record.waiters.copy()
    for place in range(len(left)):
        start = first + _place_s(record, place)
        waiter = left.next(patience)
        left.remove(waiter)
        left.had_turn(waiter.client, start)
        yield waiter, start


def wait_s(host: Host, record: Residency, now: float) -> float:
    """Seconds until a request for this key that arrives now would be served."""
    starts = _starts(host, Policy(host, now), now)
    start = starts[record.key] if record.key in starts else max(starts.values(), default=now) + record.speed.swap_s
    return start + _place_s(record, len(record.waiters)) - now


def _place_s(record: Residency, place: int) -> float:
    """How long after the first of its queue somebody at this place is served."""
    return place // record.profile.parallel * record.speed.service_s


def _work_s(record: Residency) -> float:
    """How long it takes to answer all who wait for it."""
    return ceil(len(record.waiters) / record.profile.parallel) * record.speed.service_s


def _starts(host: Host, policy: Policy, now: float) -> dict[Key, float]:
    """When each queue is likely to be served first: one load after the other, the earliest due first."""
    found: dict[Key, float] = {}
    free_at = now  # when nothing is being loaded or unloaded any more
    for record in host.occupants.values():
        if record.state is State.LOADING:
            free_at = found[record.key] = max(now, record.changed_at + record.speed.load_s)
        elif record.state is State.UNLOADING:
            free_at = max(now, record.changed_at + record.speed.unload_s)
        elif record.state is State.RESIDENT:
            found[record.key] = now + record.speed.service_s / record.profile.parallel
    turn = max(free_at, _let_go(host, policy, now))
    room = Room(host.occupants.values(), host.limits)
    for record in sorted(host.queued.values(), key=lambda r: r.due):
        if record.key not in found:
            fits = room.cheapest(record, ()) is not None
            free_at = found[record.key] = (free_at if fits else turn) + record.speed.swap_s
            turn = free_at + _work_s(record)
    return found


def _let_go(host: Host, policy: Policy, now: float) -> float:
    """When what is in memory has finished or is forced out."""
    forced = min((policy.deadline(r) for r in host.absent_queued()), default=now)
    ends = {
        r: max(now, *(granted_at + r.speed.service_s for granted_at in r.in_flight.values()))
        for r in host.occupants.values()
        if r.in_flight
    }
    done = max((end + _work_s(r) for r, end in ends.items()), default=now)
    drained = max(forced, *ends.values()) if ends else forced
    return max(now, min(done, drained))


def _why(host: Host, record: Residency, now: float) -> tuple[Why, Key | None]:
    if host.down_since is not None:
        return Why.DOWN, None
    match record.state:
        case State.RESIDENT:
            return Why.BUSY, record.key
        case State.LOADING:
            return Why.LOADING, record.key
        case State.DRAINING | State.UNLOADING:
            return (Why.LEAVING if record.cause in MAKING_ROOM else Why.UNLOADING), record.key
    if host.blind_since is not None:
        return Why.BLIND, None
    return (Why.BACKOFF, None) if now < record.loadable_at() else _in_the_way(host, record, now)


# As long as it is so, nobody can say when anybody is served.
NO_TELLING = (Why.DOWN, Why.BLIND)
# Why something goes that others need the room of.
MAKING_ROOM = (Cause.IDLE, Cause.DEADLINE, Cause.LIMITS)


def _in_the_way(host: Host, record: Residency, now: float) -> tuple[Why, Key | None]:
    """Return what keeps an absent key out; without a key if it is only the turn of others, who get the room."""
    if swapping := host.find(lambda r: r.in_transition):
        return Why.SWAPPING, swapping.key
    victims = _likely_victims(host, record, now)
    for why, applies in _OBSTACLES.items():
        for victim in victims:
            if applies(victim, now):
                return why, victim.key
    if draining := host.find(lambda r: r.state is State.DRAINING):
        return Why.DRAINING, draining.key
    return Why.TURN, None


def _likely_victims(host: Host, record: Residency, now: float) -> Victims:
    """Return what will probably have to go for this key; none if it has room, or if nothing that may go is enough."""
    room = Room(host.occupants.values(), host.limits)
    movable = (r for r in room.occupants if not r.profile.pinned)
    pool = sorted(movable, key=lambda r: (r.state is not State.DRAINING, not r.idle, r.last_used))
    return room.cheapest(record, pool) or ()


_OBSTACLES: Mapping[Why, Callable[[Residency, float], bool]] = {
    Why.DRAINING: lambda r, _: r.state is State.DRAINING,
    Why.STUCK: lambda r, now: now < r.unload_backoff.until,
    Why.GATE: Residency.gate_open,
    Why.HOLD: lambda r, now: r.idle and not r.past_hold(now),
    Why.TURN: lambda r, _: not r.idle,
}
