"""Bounded-wait exhaustive service: what is loaded next and what has to go for it.  Reads the records, changes nothing.

What is resident is served as long as it has anything to do, and a little longer if its client is likely to call again;
but nobody waits for ever:

1. `u` is the key with the earliest due head of those whose deadline has passed, but those that were in memory since
   stand behind those that were due before they left: it is loaded by force.  Once something was unloaded for it, it
   stays `u`.
2. Its victims are taken from the residents that are idle past their hold; if these do not do, from all idle ones; if
   these do not do either, from those that are busy, once their gate is closed: they drain.  Until there are enough
   whose gate is closed, `u` waits, and nobody else is helped by force.
3. (The scheduler grants.)
4. Without `u`, or beside it if it has to wait for victims: the key with the earliest due head for which the residents
   that are idle past their hold make room.

The head of a queue is due when its patience ends.  Its deadline is later where many keys contend: forced loads must
leave time for work.  Both together bound the wait (ARCHITECTURE.md says by how much).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from swapper_proxy.core.estimates import hold_s
from swapper_proxy.core.host import Host
from swapper_proxy.core.residency import Party, Residency
from swapper_proxy.core.types import Cause, State
from swapper_proxy.core.victims import Room, Victims


@dataclass(frozen=True, slots=True)
class Plan:
    """Load `wanted` once all `victims` are gone; None: once gates have closed, so that victims can be found."""

    wanted: Residency
    victims: Victims | None = ()

    @property
    def ready(self) -> bool:
        """Whether there are victims, or none are needed, and none of them has anything to finish."""
        return self.victims is not None and all(not victim.in_flight for victim in self.victims)


class Policy:
    """What is right at one instant: made for one decision, from the queues as they are before it."""

    def __init__(self, host: Host, now: float) -> None:
        self._host = host
        self._now = now
        self._occupants = host.occupants.values()
        self._absent = [r for r in host.queued.values() if r.state is State.ABSENT]
        self._fair_s = host.limits.rules.kappa * self._contention_s()

    def _contention_s(self) -> float:
        """Seconds to load and unload once what each party waits for next, and what else is answering."""
        nexts: dict[Party, Residency] = {}
        for record in self._host.queued.values():
            if (other := nexts.get(record.party)) is None or record.due < other.due:
                nexts[record.party] = record
        waited = sum([r.speed.swap_s for r in nexts.values()])
        if not (answering := [r for r in self._occupants if r.in_flight]):
            return waited
        counted = {r.key.runner for r in nexts.values()}
        return waited + sum([r.speed.swap_s for r in answering if r.key.runner not in counted])

    def deadline(self, record: Residency) -> float:
        """When the head of this queue may force a swap.

        kappa = 3: if every party forced its way as soon as it may, loads would take a third of the time.
        """
        fair_s = self._fair_s
        fair = record.arrived_at + (fair_s if fair_s < record.most_s else record.most_s)
        return fair if fair > record.due else record.due

    # 1. When force is used

    def force(self) -> Plan | None:
        """1. and 2.: the load whose time has come, if anything can be made to go for it."""
        pool = sorted((r for r in self._occupants if self._may_be_forced(r)), key=attrgetter("last_used"))
        if not pool or not self._absent:
            return None
        room = Room((r for r in self._occupants if r.state is not State.UNLOADING), self._host.limits)
        now, deadline, forced = self._now, self.deadline, self._forced_already()
        overdue = [r for r in self._candidates() if now >= deadline(r) or r is forced]
        for wanted in self._in_order(overdue, _turn):
            going = self._forcible(wanted, room, pool)
            if going is not None or self._possible_later(wanted, room):
                return Plan(wanted, going)
        return None

    def _possible_later(self, wanted: Residency, room: Room) -> bool:
        """Whether there are victims once gates have closed and loads are done.

        Then nobody else is helped by force before: a large key would never find all the small ones past their gates.
        """
        later = [r for r in room.occupants if not r.profile.pinned and self._now >= r.unload_backoff.until]
        return room.cheapest(wanted, later) is not None

    def _candidates(self) -> list[Residency]:
        now = self._now
        return [r for r in self._absent if now >= r.loadable_at()]

    def _in_order(self, records: list[Residency], turn: Callable[[Residency], float]) -> list[Residency]:
        """The earliest turn first, but before all others the one that something was unloaded for.

        Else what had to go, being wanted and due earlier, would come straight back.
        """
        wanted = self._host.swap and self._host.swap.wanted
        return sorted(records, key=lambda r: (r is not wanted, turn(r), r.arrived_at))

    def _forced_already(self) -> Residency | None:
        swap = self._host.swap
        return swap.wanted if swap is not None and swap.cause is Cause.DEADLINE else None

    # 2. Victims by force

    def _forcible(self, wanted: Residency, room: Room, pool: list[Residency]) -> Victims | None:
        if room.cheapest(wanted, ()) is not None:
            return ()  # limits have grown, or something else has gone: nobody need go any more
        draining = tuple(r for r in room.occupants if r.state is State.DRAINING)
        if self._host.forced is not None and self._host.forced[0] is wanted:
            staying = Room((r for r in room.occupants if r not in draining), self._host.limits)
            if staying.cheapest(wanted, ()) is not None:
                return draining  # victims stay the victims
        reluctance = {record: self._reluctance(record) for record in pool}
        for most in range(3):
            able = sorted((r for r in pool if reluctance[r] <= most), key=reluctance.__getitem__)
            found = room.cheapest(wanted, able)
            if found is not None:
                return found
        return None

    def _may_be_forced(self, record: Residency) -> bool:
        if record.profile.pinned or self._now < record.unload_backoff.until:
            return False
        return record.state is State.DRAINING or (record.state is State.RESIDENT and not record.gate_open(self._now))

    def _reluctance(self, record: Residency) -> int:
        """0: idle past its hold, or on its way out anyway; 1: idle; 2: busy."""
        if record.idle or (record.state is State.DRAINING and not record.in_flight):
            return 0 if record.past_hold(self._now) else 1
        return 0 if record.state is State.DRAINING and record.cause is not Cause.DEADLINE else 2

    # 4. Victims that are willing

    def willing(self, forced: Plan | None) -> Plan | None:
        """The next load that disturbs nobody; `forced` is the one that waits for its victims, and keeps its room."""
        if not self._absent:
            return None
        now = self._now
        pool = sorted(
            (r for r in self._occupants if r.evictable(now) and r.past_hold(now)), key=attrgetter("last_used")
        )
        room = Room((*self._occupants, *([forced.wanted] if forced else ())), self._host.limits)
        if not pool and room.full:
            return None
        able = room.small_enough(self._candidates(), pool)
        for wanted in self._in_order(able, attrgetter("due")):
            if forced is None or wanted is not forced.wanted:
                going = room.cheapest(wanted, pool)
                if going is not None:
                    return Plan(wanted, going)
        return None

    # Holds

    @cached_property
    def crowded(self) -> bool:
        """Whether somebody waits for a key for which there is no room."""
        room = Room(self._occupants, self._host.limits)
        return any(room.cheapest(record, ()) is None for record in self._absent)

    def hold_until(self, record: Residency) -> float:
        """Until when an idle resident is kept although others wait."""
        waiting = sum(len(r.waiters) for r in self._absent)
        since = self._now if record.idle_since is None else record.idle_since
        return since + hold_s(record.gaps, record.speed.swap_s, waiting, self._host.limits.rules.theta)

    # When to look again

    def times(self) -> Iterator[float]:
        """When this policy may decide otherwise although nothing has happened."""
        if self._absent:
            now, deadline = self._now, self.deadline
            yield min([at for r in self._absent if (at := deadline(r)) > now], default=math.inf)
            yield min([at for r in self._absent if (at := r.loadable_at()) > now], default=math.inf)
        for record in self._occupants:
            yield record.unload_backoff.until
            if self._absent and record.gate_left:
                yield record.gate_until
            if self._absent and record.hold_until is not None:
                yield record.hold_until


def _turn(record: Residency) -> float:
    """Who had to leave although others waited gets the next turn behind all who were due by then.

    Else two keys with long queues would take turns until both are empty, and a third one would wait for all of it.
    """
    return max(record.due, record.left_at)
