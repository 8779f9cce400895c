"""Which key is loaded next, and what has to go for it.  Pure functions of the scheduler's records.

The policy is exhaustive service:

1. candidates are the absent keys that somebody waits for and that are not in back-off, the oldest waiter first
   (a manual load before requests);
2. room for a candidate is made by the keys of the same runner, then by the least recently used of those that may go,
   as many as the limit asks for;
3. only an idle resident nobody waits for may go; the first candidate for which that suffices is taken.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import Limits, State


@dataclass(frozen=True, slots=True)
class Plan:
    """Load `wanted` once all `victims` are gone."""

    wanted: Residency
    victims: tuple[Residency, ...]


def next_load(records: Iterable[Residency], limits: Limits, now: float) -> Plan | None:
    """The load to work towards now, or None if there is none or nothing may go for it."""
    records = tuple(records)
    occupants = [record for record in records if record.occupies]
    for wanted in _candidates(records, now):  # 1
        victims = _victims(wanted, occupants, limits, now)  # 2
        if all(victim.evictable(now) for victim in victims):  # 3
            return Plan(wanted, victims)
    return None


def excess(records: Iterable[Residency], limits: Limits) -> list[Residency]:
    """The residents that have to go because of the limit alone, least recently used first."""
    staying = [record for record in records if record.state in (State.LOADING, State.RESIDENT)]
    residents = sorted((r for r in staying if r.state is State.RESIDENT), key=lambda r: r.last_used)
    return residents[: max(0, len(staying) - limits.max_resident)]


def _candidates(records: tuple[Residency, ...], now: float) -> list[Residency]:
    waiting = (r for r in records if r.state is State.ABSENT and r.waiters and now >= r.load_backoff.until)
    return sorted(waiting, key=lambda r: (not r.manual, r.head.arrived_at))


def _victims(wanted: Residency, occupants: list[Residency], limits: Limits, now: float) -> tuple[Residency, ...]:
    siblings = [r for r in occupants if r.key.runner == wanted.key.runner]
    others = sorted(
        (r for r in occupants if r.key.runner != wanted.key.runner), key=lambda r: (not r.evictable(now), r.last_used)
    )
    excess = len(others) + 1 - limits.max_resident
    return (*siblings, *others[: max(0, excess)])
