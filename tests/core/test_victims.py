"""What goes to make room: the cheapest set against all sets, and what is too much."""

from collections.abc import Iterable, Sequence
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import Cause, Key, Limits, Profile, State
from swapper_proxy.core.victims import Room, excess, slot_of

ONE, TWO = Limits(), Limits(max_resident=2)
SLOTS = Limits(max_resident=1, slots={"embed": 2}, memory_gb=20)
LONG = (("num_ctx", 8192),)


def resident(name: str, gb: float | None = None, slot: str = "", last_used: float = 0, **more: object) -> Residency:
    profile = Profile(size_gb=gb, slot=slot, pinned=bool(more.pop("pinned", False)))
    return Residency(Key(name), profile=profile, last_used=last_used, **{"state": State.RESIDENT, **more})


def wanted(name: str = "w", gb: float | None = None, slot: str = "") -> Residency:
    return resident(name, gb, slot, state=State.ABSENT)


def names(records: Iterable[Residency] | None) -> list[str] | None:
    return None if records is None else [record.key.runner for record in records]


def going(new: Residency, occupants: Sequence[Residency], limits: Limits) -> list[str] | None:
    return names(Room(occupants, limits).cheapest(new, occupants))


def test_there_is_room() -> None:
    assert going(wanted(), [], ONE) == []
    assert going(wanted(), [resident("a")], TWO) == []


def test_the_first_in_order_goes() -> None:
    assert going(wanted(), [resident("a"), resident("b")], TWO) == ["a"]


def test_as_many_go_as_the_count_asks_for() -> None:
    assert going(wanted(), [resident("a"), resident("b")], ONE) == ["a", "b"]


def test_the_pool_is_not_enough() -> None:
    a, b = resident("a"), resident("b")
    assert Room([a, b], ONE).cheapest(wanted(), [a]) is None


def test_another_key_of_the_runner_goes_even_where_there_is_room() -> None:
    sibling = Residency(Key("w", LONG), state=State.RESIDENT)
    assert going(wanted(), [resident("a"), sibling], Limits(max_resident=3)) == ["w"]
    assert Room([sibling], Limits(max_resident=3)).cheapest(wanted(), []) is None


def test_another_key_of_the_runner_makes_room() -> None:
    sibling = Residency(Key("w", LONG), state=State.RESIDENT, profile=Profile(size_gb=8))
    assert going(wanted("w", 8), [resident("a", 2), sibling], Limits(max_resident=2, memory_gb=10)) == ["w"]


def test_one_large_one_goes_rather_than_two_small_ones() -> None:
    small = [resident("a", 2), resident("b", 2), resident("c", 6)]
    assert going(wanted("w", 4), small, Limits(max_resident=9, memory_gb=10)) == ["c"]


def test_each_type_with_a_slot_counts_for_itself() -> None:
    occupants = [resident("a"), resident("e", slot="embed"), resident("f", slot="embed")]
    assert going(wanted(slot="embed"), occupants, SLOTS) == ["e"]
    assert going(wanted(), occupants, SLOTS) == ["a"]
    assert going(wanted(slot="other"), occupants, SLOTS) == ["a"]


def test_memory_is_for_all_slots_together() -> None:
    occupants = [resident("a", 10), resident("e", 10, slot="embed")]
    assert going(wanted("w", 5, slot="embed"), occupants, SLOTS) == ["a"]


def test_sums_that_are_not_exact_are_exact_enough() -> None:
    third = 0.1 + 0.2
    assert going(wanted("w", 0.1), [resident("a", third)], Limits(max_resident=9, memory_gb=0.4)) == []


def test_a_size_that_is_not_known_takes_no_room() -> None:
    assert going(wanted(), [resident("a", 10)], Limits(max_resident=9, memory_gb=10)) == []


def test_what_is_too_large_for_the_budget_never_fits() -> None:
    assert going(wanted("w", 11), [resident("a", 5)], Limits(max_resident=9, memory_gb=10)) is None


def test_a_slot_for_none_has_room_for_none() -> None:
    assert going(wanted(slot="x"), [], Limits(slots={"x": 0})) is None


def test_a_host_is_full_when_every_slot_is_taken() -> None:
    assert Room([resident("a")], ONE).full
    assert not Room([resident("a")], SLOTS).full
    assert not Room([resident("a")], TWO).full


def test_those_that_are_small_enough() -> None:
    some = [wanted("w", 5), wanted("x", 11), wanted("y")]
    room = Room([resident("a", 10), small := resident("b", 1)], SLOTS)
    assert names(room.small_enough(some, [])) == ["w", "y"]
    assert names(room.small_enough([*some, wanted("z", 10)], [small])) == ["w", "y", "z"]


# Against all subsets

sizes = st.sampled_from((None, 1.0, 2.0, 3.0, 5.0, 8.0))
slots = st.sampled_from(("", "embed", "vision"))
records = st.lists(st.tuples(sizes, slots, st.booleans()), max_size=7)
some_limits = st.builds(
    Limits,
    max_resident=st.integers(1, 4),
    memory_gb=st.sampled_from((None, 4.0, 8.0, 12.0)),
    slots=st.dictionaries(st.sampled_from(("embed", "vision")), st.integers(1, 2)),
)


def fits(new: Residency, staying: Sequence[Residency], limits: Limits) -> bool:
    slot = slot_of(new, limits)
    count = 1 + sum(slot_of(record, limits) == slot for record in staying)
    gb = new.size_gb + sum(record.size_gb for record in staying)
    room = limits.slots.get(slot, limits.max_resident)
    same = any(record.key.runner == new.key.runner for record in staying)
    return count <= room and (limits.memory_gb is None or gb <= limits.memory_gb + 1e-6) and not same


@given(records, sizes, slots, st.sampled_from(("w", "0", "1")), some_limits)
def test_the_cheapest_set_is_the_first_of_the_smallest(
    there: list[tuple[float | None, str, bool]], gb: float | None, slot: str, name: str, limits: Limits
) -> None:
    occupants = [resident(str(n), size, kind) for n, (size, kind, _) in enumerate(there)]
    pool = [record for record, (_, _, willing) in zip(occupants, there, strict=True) if willing]
    new = Residency(Key(name, LONG), profile=Profile(size_gb=gb, slot=slot))
    siblings = [record for record in occupants if record.key.runner == name]
    best = next(
        (
            list(found)
            for size in range(len(pool) + 1)
            for found in combinations([*siblings, *(r for r in pool if r not in siblings)], size)
            if set(map(id, siblings)) <= set(map(id, pool))
            and fits(new, [r for r in occupants if r not in found], limits)
        ),
        None,
    )
    assert names(Room(occupants, limits).cheapest(new, pool)) == names(best)


# What is too much


def test_nothing_is_too_much() -> None:
    assert excess([], ONE) == []
    assert excess([resident("a"), resident("b")], TWO) == []


def test_the_least_recently_used_is_too_much() -> None:
    there = [resident("a", last_used=3), resident("b", last_used=1), resident("c", last_used=2)]
    assert names(excess(there, ONE)) == ["b", "c"]


def test_what_is_going_anyway_is_not_too_much() -> None:
    leaving = [resident("b", state=State.DRAINING, cause=Cause.MANUAL), resident("c", state=State.UNLOADING)]
    assert excess([resident("a"), *leaving], ONE) == []


def test_what_drains_for_somebody_who_may_leave_counts() -> None:
    there = [resident("a", last_used=1), resident("b", state=State.DRAINING, cause=Cause.DEADLINE)]
    assert names(excess(there, ONE)) == ["b"]


def test_a_load_under_way_counts_and_stays() -> None:
    assert names(excess([resident("a", last_used=9), resident("b", state=State.LOADING)], ONE)) == ["a"]


def test_a_pinned_one_counts_and_stays() -> None:
    assert names(excess([resident("a", pinned=True), resident("b", last_used=9)], ONE)) == ["b"]


def test_each_slot_has_its_own_excess() -> None:
    there = [resident("a"), resident("e", slot="embed"), resident("f", slot="embed", last_used=1), resident("b")]
    assert names(excess(there, Limits(max_resident=2, slots={"embed": 1}))) == ["e"]


def test_too_many_gigabytes_go_the_least_recently_used_first() -> None:
    there = [resident("a", 4, last_used=3), resident("b", 4, last_used=1), resident("c", 4, last_used=2)]
    assert names(excess(there, Limits(max_resident=9, memory_gb=10))) == ["b"]
    assert names(excess(there, Limits(max_resident=9, memory_gb=4))) == ["b", "c"]
    assert names(excess(there, Limits(max_resident=2, memory_gb=8))) == ["b"]


def test_gigabytes_count_after_the_count() -> None:
    there = [resident("a", 4, last_used=3), resident("b", 1, last_used=1), resident("c", 4, last_used=2)]
    assert names(excess(there, Limits(max_resident=2, memory_gb=5))) == ["b", "c"]
