"""Bounded-wait exhaustive service: what is loaded next and what has to go for it.  Reads the records, changes nothing.

What is resident is served as long as it has anything to do, and a little longer if its client is likely to call again;
but nobody waits for ever:

1. `u` is the key with the earliest due head of those whose deadline has passed: it is loaded by force.  Once something
   was unloaded for it, it stays `u`.
2. Its victims are taken from the residents that are idle past their hold; if these do not do, from all idle ones; if
   these do not do either, from those that are busy, once their gate is closed: they drain.
3. (The scheduler grants.)
4. Without `u`, or beside it if it has to wait for victims: the key with the earliest due head for which the residents
   that are idle past their hold make room.

The head of a queue is due when its patience ends.  Its deadline is later where many keys contend: forced loads must
leave time for work.  Both together bound the wait (ARCHITECTURE.md says by how much).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from swapper_proxy.core import victims
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.estimates import hold_s
from swapper_proxy.core.host import Host
from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import Cause, State


@dataclass(frozen=True, slots=True)
class Plan:
    """Load `wanted` once all `victims` are gone."""

    wanted: Residency
    victims: tuple[Residency, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether none of the victims has anything to finish."""
        return all(not victim.in_flight for victim in self.victims)


# 1. When force is used


def contention_s(host: Host) -> float:
    """Seconds to load and unload every key once that somebody waits for or that is answering."""
    waited = sum(record.speed.swap_s for record in host.queued.values())
    return waited + sum(r.speed.swap_s for r in host.occupants.values() if r.in_flight and not r.waiters)


def deadline(record: Residency, contention: float, kappa: float) -> float:
    """When the head of this queue may force a swap.

    kappa = 3: if every contending key forced its way as soon as it may, loads would take a third of the time.
    """
    return math.inf if record.head is None else max(record.due, record.head.arrived_at + kappa * contention)


def candidates(host: Host, now: float) -> list[Residency]:
    """The absent keys that somebody waits for and that are not in back-off, the earliest due first.

    Before all others comes the one that something was unloaded for: else what had to go, being wanted and due earlier,
    would come straight back.
    """
    waiting = [r for r in host.queued.values() if r.state is State.ABSENT and now >= r.load_backoff.until]
    wanted = host.swap and host.swap.wanted
    return sorted(waiting, key=lambda r: (r is not wanted, r.due, r.head.number if r.head else 0))


def force(host: Host, now: float) -> Plan | None:
    """1. and 2.: the load whose time has come."""
    contention, kappa = contention_s(host), host.limits.rules.kappa
    for wanted in candidates(host, now):
        if now >= deadline(wanted, contention, kappa) or _forced_already(host, wanted):
            going = _forcible(host, wanted, now)
            if going is not None:
                return Plan(wanted, going)
    return None


def _forced_already(host: Host, wanted: Residency) -> bool:
    return host.swap is not None and host.swap.wanted is wanted and host.swap.cause is Cause.DEADLINE


# 2. Victims by force


def _forcible(host: Host, wanted: Residency, now: float) -> tuple[Residency, ...] | None:
    staying = [r for r in host.occupants.values() if r.state is not State.UNLOADING]
    draining = tuple(r for r in staying if r.state is State.DRAINING)
    if (
        host.forced is not None
        and host.forced[0] is wanted
        and victims.makes_room(wanted, draining, staying, host.limits)
    ):
        return draining  # victims stay the victims
    pool = sorted((r for r in staying if _may_be_forced(r, now)), key=lambda r: (_reluctance(r, now), r.last_used))
    for reluctance in range(3):
        willing = [r for r in pool if _reluctance(r, now) <= reluctance]
        found = victims.cheapest(wanted, staying, willing, host.limits)
        if found is not None:
            return found
    return None


def _may_be_forced(record: Residency, now: float) -> bool:
    if record.profile.pinned or now < record.unload_backoff.until:
        return False
    return record.state is State.DRAINING or (record.state is State.RESIDENT and not record.gate_open(now))


def _reluctance(record: Residency, now: float) -> int:
    """0: idle past its hold, or on its way out anyway; 1: idle; 2: busy."""
    if record.idle or (record.state is State.DRAINING and not record.in_flight):
        return 0 if record.past_hold(now) else 1
    return 0 if record.state is State.DRAINING and record.cause is not Cause.DEADLINE else 2


# 4. Victims that are willing


def willing(host: Host, now: float, forced: Plan | None) -> Plan | None:
    """The next load that disturbs nobody; `forced` is the one that waits for its victims, and keeps its room."""
    occupants = [*host.occupants.values(), *([forced.wanted] if forced else ())]
    pool = sorted(
        (r for r in host.occupants.values() if r.evictable(now) and r.past_hold(now)), key=lambda r: r.last_used
    )
    for wanted in candidates(host, now):
        if forced is None or wanted is not forced.wanted:
            going = victims.cheapest(wanted, occupants, pool, host.limits)
            if going is not None:
                return Plan(wanted, going)
    return None


# Holds


def hold_until(host: Host, record: Residency, now: float) -> float:
    """Until when an idle resident is kept although others wait."""
    waiting = sum(len(r.waiters) for r in host.absent_queued())
    since = now if record.idle_since is None else record.idle_since
    return since + hold_s(record.gaps, record.speed.swap_s, waiting, host.limits.rules.theta)


# What can never be


def hopeless(host: Host, record: Residency) -> Rejection | None:
    """Why this key cannot be loaded as long as pins and limits are as they are."""
    alone = victims.cheapest(record, (), (), host.limits)
    if alone is None:
        return Rejection.TOO_LARGE
    pinned = [r for r in host.occupants.values() if r.profile.pinned and r is not record]
    return None if victims.cheapest(record, pinned, (), host.limits) is not None else Rejection.PINNED_OUT


# When to look again


def times(host: Host, now: float) -> Iterator[float]:
    """When this policy may decide otherwise although nothing has happened."""
    contention, kappa = contention_s(host), host.limits.rules.kappa
    waited = False
    for record in host.absent_queued():
        waited = True
        yield deadline(record, contention, kappa)
        yield record.load_backoff.until
    for record in host.occupants.values():
        yield record.unload_backoff.until
        if waited and record.gate_left:
            yield record.gate_until
        if waited and record.hold_until is not None:
            yield record.hold_until
