"""What has to go so that a key fits: the limits that must hold, and the cheapest set that makes room.

Limits: runners without a slot (`max_resident`), runners of a type that has one (`slots`), gigabytes of all of them
(`memory_gb`), and one key of a runner at most.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import Cause, Limits, State

# Sums of sizes like 4.1 GB are not exact.
TOLERANCE_GB = 1e-6


@dataclass(frozen=True, slots=True)
class Need:
    """What a set of victims has to free: so many runners of one slot, and so many GB in all."""

    slot: str
    runners: int
    gb: float
    limits: Limits

    def met_by(self, victims: Sequence[Residency], most: int) -> bool:
        """Whether `most` of these can be enough: the largest of the slot as far as it needs them, then the largest."""
        largest = sorted(victims, key=lambda r: -r.size_gb)
        needed = max(0, self.runners)
        own = [r for r in largest if slot_of(r, self.limits) == self.slot][:needed]
        if len(own) < needed or most < needed:
            return False
        others = [r for r in largest if r not in own][: most - needed]
        return sum(r.size_gb for r in (*own, *others)) >= self.gb - TOLERANCE_GB

    def without(self, victim: Residency) -> "Need":
        """What is left to free when this one goes."""
        same = slot_of(victim, self.limits) == self.slot
        return replace(self, runners=self.runners - same, gb=self.gb - victim.size_gb)


def cheapest(
    wanted: Residency, occupants: Iterable[Residency], pool: Sequence[Residency], limits: Limits
) -> tuple[Residency, ...] | None:
    """The fewest of `pool` (in order of preference) that make room for `wanted` beside the other occupants.

    Of equally small sets the one whose members come first.  None: all of them together would not do.
    """
    others = [r for r in occupants if r.key.runner != wanted.key.runner]
    siblings = tuple(r for r in occupants if r.key.runner == wanted.key.runner)
    if any(sibling not in pool for sibling in siblings):
        return None
    pool = [r for r in pool if r not in siblings]
    need = _need(wanted, others, limits)
    size = next((n for n in range(len(pool) + 1) if need.met_by(pool, n)), None)
    return None if size is None else (*siblings, *_first(pool, size, need))


def _first(pool: Sequence[Residency], size: int, need: Need) -> list[Residency]:
    """The set of this size that comes first in the order of the pool."""
    chosen: list[Residency] = []
    for place, record in enumerate(pool, 1):
        left = size - len(chosen) - 1
        if left >= 0 and need.without(record).met_by(pool[place:], left):
            chosen.append(record)
            need = need.without(record)
    return chosen


def makes_room(wanted: Residency, victims: Sequence[Residency], occupants: Iterable[Residency], limits: Limits) -> bool:
    """Whether `wanted` fits once these are gone."""
    staying = [r for r in occupants if r not in victims]
    return cheapest(wanted, staying, (), limits) is not None


def excess(occupants: Iterable[Residency], limits: Limits) -> list[Residency]:
    """The residents that have to go because of the limits alone, least recently used first."""
    staying = [r for r in occupants if r.state in (State.LOADING, State.RESIDENT) or _forced(r)]
    free = sorted((r for r in staying if r.state is not State.LOADING and not r.profile.pinned), key=_last_used)
    chosen: list[Residency] = []
    for slot in dict.fromkeys(slot_of(r, limits) for r in staying):
        count = sum(slot_of(r, limits) == slot for r in staying)
        here = [r for r in free if slot_of(r, limits) == slot]
        chosen += here[: max(0, count - _room(slot, limits))]
    over = sum(r.size_gb for r in staying if r not in chosen) - (limits.memory_gb or math.inf)
    for record in free:
        if over > TOLERANCE_GB and record not in chosen:
            chosen.append(record)
            over -= record.size_gb
    return chosen


def _forced(record: Residency) -> bool:
    """It drains for somebody who may leave, and would then stay."""
    return record.state is State.DRAINING and record.cause is Cause.DEADLINE


def _last_used(record: Residency) -> float:
    return record.last_used


def slot_of(record: Residency, limits: Limits) -> str:
    """The slot that this runner takes up; the empty one is that of all types without their own."""
    return record.profile.slot if record.profile.slot in limits.slots else ""


def _room(slot: str, limits: Limits) -> int:
    return limits.slots.get(slot, limits.max_resident)


def _need(wanted: Residency, others: Sequence[Residency], limits: Limits) -> Need:
    slot = slot_of(wanted, limits)
    count = sum(slot_of(r, limits) == slot for r in others) + 1
    gb = sum(r.size_gb for r in others) + wanted.size_gb
    over = 0.0 if limits.memory_gb is None else gb - limits.memory_gb
    return Need(slot, count - _room(slot, limits), over, limits)
