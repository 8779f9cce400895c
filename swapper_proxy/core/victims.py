"""What has to go so that a key fits: the limits that must hold, and the cheapest set that makes room.

Limits: runners without a slot (`max_resident`), runners of a type that has one (`slots`), gigabytes of all of them
(`memory_gb`), and one key of a runner at most.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import Cause, Limits, State

# Sums of sizes like 4.1 GB are not exact.
TOLERANCE_GB = 1e-6

SIZE_GB: Callable[[Residency], float] = attrgetter("size_gb")
SURE_GB: Callable[[Residency], float] = attrgetter("sure_gb")

Victims = tuple[Residency, ...]


class Room:
    """What the occupants leave free under the limits.

    Room is made for what a key is likely to take; if that is more than all that pinned residents leave, for all of
    that: then it is loaded alone, and measured.  `sure`: only what is certain counts.
    """

    def __init__(self, occupants: Iterable[Residency], limits: Limits, *, sure: bool = False) -> None:
        self.occupants = tuple(occupants)
        self._limits = limits
        self._runners = {record.key.runner for record in self.occupants}
        self._taken = Counter(slot_of(record, limits) for record in self.occupants)
        self._size_gb = SURE_GB if sure else SIZE_GB
        self._free_gb = math.inf
        if limits.memory_gb is not None:
            self._free_gb = limits.memory_gb - sum(map(self._size_gb, self.occupants))

    def _needed_gb(self, wanted: Residency) -> float:
        most_gb = (self._limits.memory_gb or math.inf) - sum(r.size_gb for r in self.occupants if r.profile.pinned)
        return min(self._size_gb(wanted), max(wanted.sure_gb, most_gb))

    @property
    def full(self) -> bool:
        """Whether every slot is taken, so that nothing at all fits beside the occupants."""
        return all(self._taken[slot] >= most_of(slot, self._limits) for slot in ("", *self._limits.slots))

    def small_enough(self, records: Iterable[Residency], pool: Iterable[Residency]) -> list[Residency]:
        """Those for which there is memory once all of `pool` are gone: a first, quick sieve for many."""
        free_gb = self._free_gb + sum(map(self._size_gb, pool)) + TOLERANCE_GB
        return [
            record
            for record in records
            if (record.profile.size_gb or 0.0) <= free_gb
            or (record.profile.least_gb is not None and self._needed_gb(record) <= free_gb)
        ]

    def cheapest(self, wanted: Residency, pool: Sequence[Residency]) -> Victims | None:
        """The fewest of `pool` (in order of preference) that make room for `wanted` beside the other occupants.

        Of equally small sets the one whose members come first.  None: all of them together would not do.
        """
        slot = slot_of(wanted, self._limits)
        runners = self._taken[slot] + 1 - most_of(slot, self._limits)
        sure = wanted.profile.least_gb is None  # usually: not to be asked twice for each of many
        gb = ((wanted.profile.size_gb or 0.0) if sure else self._needed_gb(wanted)) - self._free_gb
        siblings: Victims = ()
        if wanted.key.runner in self._runners:
            siblings = tuple(r for r in self.occupants if r.key.runner == wanted.key.runner)
            if any(sibling not in pool for sibling in siblings):
                return None
            runners -= sum(slot_of(sibling, self._limits) == slot for sibling in siblings)
            gb -= sum(map(self._size_gb, siblings))
        if runners <= 0 and gb <= TOLERANCE_GB:
            return siblings
        if len(siblings) == len(pool):
            return None
        chosen = _fewest([r for r in pool if r not in siblings], slot, runners, gb, self._limits)
        return None if chosen is None else (*siblings, *chosen)


def _fewest(pool: Sequence[Residency], slot: str, runners: int, gb: float, limits: Limits) -> list[Residency] | None:
    """The smallest set that frees so many runners of the slot and so many GB; the first in the order of the pool."""

    def enough(records: Sequence[Residency], most: int, runners: int, gb: float) -> bool:
        """Whether so many of these can do: the largest of the slot as far as it needs them, then the largest."""
        largest = sorted(records, key=lambda r: -r.size_gb)
        needed = max(0, runners)
        own = [r for r in largest if slot_of(r, limits) == slot][:needed]
        if len(own) < needed or most < needed:
            return False
        others = [r for r in largest if r not in own][: most - needed]
        return sum(r.size_gb for r in (*own, *others)) >= gb - TOLERANCE_GB

    size = next((n for n in range(len(pool) + 1) if enough(pool, n, runners, gb)), None)
    if size is None:
        return None
    chosen: list[Residency] = []
    for place, record in enumerate(pool, 1):
        runners_left, gb_left = runners - (slot_of(record, limits) == slot), gb - record.size_gb
        if len(chosen) < size and enough(pool[place:], size - len(chosen) - 1, runners_left, gb_left):
            chosen.append(record)
            runners, gb = runners_left, gb_left
    return chosen


def excess(occupants: Iterable[Residency], limits: Limits) -> list[Residency]:
    """The residents that have to go because of the limits alone, least recently used first.

    What nobody has seen in memory yet counts as much as is certain.  Those that are being loaded count, and go once
    they are there.
    """
    staying = [r for r in occupants if r.state in (State.LOADING, State.RESIDENT) or _forced(r)]
    free = sorted(
        (r for r in staying if r.state is not State.LOADING and not r.profile.pinned), key=attrgetter("last_used")
    )
    chosen: list[Residency] = []
    for slot in dict.fromkeys(slot_of(r, limits) for r in staying):
        count = sum(slot_of(r, limits) == slot for r in staying)
        here = [r for r in free if slot_of(r, limits) == slot]
        chosen += here[: max(0, count - most_of(slot, limits))]
    over = sum(r.sure_gb for r in staying if r not in chosen) - (limits.memory_gb or math.inf)
    for record in free:
        if over > TOLERANCE_GB and record not in chosen:
            chosen.append(record)
            over -= record.sure_gb
    return chosen


def slot_of(record: Residency, limits: Limits) -> str:
    """The slot that this runner takes up; the empty one is that of all types without their own."""
    return record.profile.slot if record.profile.slot in limits.slots else ""


def most_of(slot: str, limits: Limits) -> int:
    """How many runners fit into the slot."""
    return limits.slots.get(slot, limits.max_resident)


def _forced(record: Residency) -> bool:
    """It drains for somebody who may leave, and would then stay."""
    return record.state is State.DRAINING and record.cause is Cause.DEADLINE
