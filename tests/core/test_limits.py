"""Count, memory, slots; limits that change, and what can never fit."""

from swapper_proxy.core.commands import Answer, Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Finished,
    Loaded,
    LoadRequested,
    Observed,
    Tick,
    Unloaded,
    UnloadRequested,
)
from swapper_proxy.core.types import Cause, Limits, Priority, Profile, Rules, Sighting, State
from tests.core.talk import A_LONG, WIDE, A, B, C, D, Talk

EMBED, PINNED = Profile(slot="embed"), Profile(pinned=True)


def gb(size: float) -> Profile:
    return Profile(size_gb=size)


def test_limits_shrink(with_a_and_b: Talk) -> None:
    assert with_a_and_b(5, ConfigChanged(Limits(max_resident=1))) == [StartUnload(A, 3)]
    assert with_a_and_b.changes[0] == (A, State.DRAINING, Cause.LIMITS)
    assert with_a_and_b(6, Unloaded(A, 3)) == []


def test_what_drains_already_is_part_of_the_shrinking(with_a_and_b: Talk) -> None:
    with_a_and_b(5, Arrived(3, B))
    with_a_and_b(6, UnloadRequested(4, "b"))
    assert with_a_and_b(7, ConfigChanged(Limits(max_resident=1))) == []
    assert with_a_and_b.states == {A: State.RESIDENT, B: State.DRAINING}


def test_a_manual_load_that_takes_back_a_drain_keeps_to_the_limits(with_a_and_b: Talk) -> None:
    with_a_and_b(5, Arrived(3, A))
    with_a_and_b(6, UnloadRequested(4, "a"), ConfigChanged(Limits(max_resident=1)))
    assert with_a_and_b(7, LoadRequested(5, A)) == [Reject(4, Rejection.SUPERSEDED), Answer(5), StartUnload(B, 3)]
    assert with_a_and_b.states == {A: State.RESIDENT, B: State.UNLOADING}


def test_limits_grow(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, B))
    assert with_a(4, ConfigChanged(Limits(max_resident=2))) == [StartLoad(B, 2, 3)]


def test_what_drains_by_force_is_part_of_the_shrinking(with_a_and_b: Talk) -> None:
    with_a_and_b(5, Arrived(3, A), Arrived(4, B))
    with_a_and_b(6, Arrived(5, C))
    with_a_and_b(66, Tick())
    assert with_a_and_b.changes == [(A, State.DRAINING, Cause.DEADLINE)]
    with_a_and_b(67, ConfigChanged(Limits(max_resident=1)), Cancelled(5))
    assert with_a_and_b.states == {A: State.DRAINING, B: State.RESIDENT}
    assert with_a_and_b(68, Finished(3)) == [StartUnload(A, 3)]


def test_the_mode_may_change_to_one_at_a_time_during_a_load() -> None:
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A), Arrived(2, B))
    talk(1, Loaded(A, 1))
    assert talk(2, ConfigChanged(Limits())) == []
    assert talk.states == {A: State.DRAINING, B: State.LOADING}
    assert talk(3, Finished(1)) == []
    assert talk(4, Loaded(B, 2)) == [Grant(2), StartUnload(A, 3)]


def test_the_parallel_limit_may_change(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A), Arrived(4, A))
    assert with_a(4, ConfigChanged(Limits(), (Sighting(A, WIDE), Sighting(B, WIDE)))) == [Grant(3), Grant(4)]


def test_rules_may_change(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B), Tick())
    assert with_a.wake == [64.0]
    with_a(5, ConfigChanged(Limits(rules=Rules(max_wait_s=dict.fromkeys(Priority, 30.0), kappa=2))))
    assert with_a.wake == [34.0]


# Memory


def test_memory_makes_room_for_one_more_or_not() -> None:
    talk = Talk(max_resident=9, memory_gb=10)
    talk(0, Arrived(1, A, gb(4)), Arrived(2, B, gb(4)))
    talk(1, Loaded(A, 1))
    assert talk(2, Loaded(B, 2), Arrived(3, C, gb(2)), Arrived(4, D, gb(3))) == [Grant(2), StartLoad(C, 3, 3)]
    talk(3, Loaded(C, 3))
    assert talk(4, Tick()) == []
    talk(5, Finished(3))
    assert talk(9, Tick()) == []  # not enough
    talk(10, Finished(2))
    assert talk(19, Tick()) == [StartUnload(B, 4)]  # enough alone


def test_a_size_that_was_measured_larger_drains_the_excess() -> None:
    talk = Talk(max_resident=9, memory_gb=10)
    talk(0, Arrived(1, A, gb(4)), Arrived(2, B, gb(4)))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2))
    assert talk(3, Observed(2.5, (Sighting(A, gb(4)), Sighting(B, gb(5))))) == []
    assert talk(4, Finished(1), Finished(2)) == []
    assert talk(5, Observed(4.5, (Sighting(A, gb(4)), Sighting(B, gb(7))))) == [StartUnload(A, 3)]
    assert talk.changes[0] == (A, State.DRAINING, Cause.LIMITS)


def test_a_size_that_was_measured_smaller_makes_room() -> None:
    talk = Talk(max_resident=9, memory_gb=10)
    talk(0, Arrived(1, A, gb(8)))
    assert talk(1, Loaded(A, 1), Arrived(2, B, gb(4))) == [Grant(1)]
    assert talk(2, Observed(1.5, (Sighting(A, gb(6)),))) == [StartLoad(B, 2, 2)]


def test_a_smaller_budget_drains_the_least_recently_used() -> None:
    talk = Talk(max_resident=9)
    talk(0, Arrived(1, A, gb(4)), Arrived(2, B, gb(4)))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2))
    talk(3, ConfigChanged(Limits(9, memory_gb=5)))
    assert talk.states == {A: State.DRAINING, B: State.RESIDENT}


# Slots


def test_a_slot_is_beside_the_others() -> None:
    talk = Talk(slots={"embed": 1})
    assert talk(0, Arrived(1, A), Arrived(2, B, EMBED), Arrived(3, C, EMBED)) == [StartLoad(A, 1, 1)]
    assert talk(1, Loaded(A, 1)) == [Grant(1), StartLoad(B, 2, 2)]
    assert talk(2, Loaded(B, 2)) == [Grant(2)]
    talk(3, Finished(2))
    assert talk(4, Tick()) == [StartUnload(B, 3)]


def test_a_type_without_a_slot_of_its_own_is_one_of_the_others(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    assert with_a(4, Arrived(3, B, EMBED)) == []
    assert with_a(5, ConfigChanged(Limits(slots={"embed": 1}))) == [StartLoad(B, 2, 3)]


def test_a_slot_that_is_taken_away_drains_the_excess(talk: Talk) -> None:
    talk(0, ConfigChanged(Limits(slots={"embed": 1})), Arrived(1, A), Arrived(2, B, EMBED))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2))
    talk(3, ConfigChanged(Limits()))
    assert talk.states == {A: State.DRAINING, B: State.RESIDENT}


# What can never fit


def test_what_is_larger_than_the_budget_is_refused_on_arrival() -> None:
    talk = Talk(memory_gb=10)
    assert talk(0, Arrived(1, A, gb(11))) == [Reject(1, Rejection.TOO_LARGE)]
    assert talk(0, LoadRequested(2, A, gb(11))) == [Reject(2, Rejection.TOO_LARGE)]
    assert talk.scheduler.waiting == 0


def test_what_is_in_memory_is_served_however_large_it_is() -> None:
    talk = Talk(memory_gb=10)
    talk(1, Observed(1, (Sighting(A, gb(11)),)))
    assert talk(2, Arrived(1, A, gb(11))) == [Grant(1)]


def test_where_pins_leave_no_room_others_are_refused() -> None:
    talk = Talk()
    talk(0, Arrived(1, A, PINNED))
    assert talk(1, Arrived(2, B)) == [Reject(2, Rejection.PINNED_OUT)]
    talk(2, Loaded(A, 1))
    assert talk(3, Arrived(3, B), LoadRequested(4, B)) == [
        Reject(3, Rejection.PINNED_OUT),
        Reject(4, Rejection.PINNED_OUT),
    ]
    assert talk(4, Arrived(5, A_LONG)) == [Reject(5, Rejection.PINNED_OUT)]


def test_who_waits_is_told_when_a_pinned_load_takes_the_room(talk: Talk) -> None:
    assert talk(0, Arrived(1, B, priority=Priority.LOW), LoadRequested(2, A, PINNED)) == [
        StartLoad(A, 1, 2),
        Reject(1, Rejection.PINNED_OUT),
    ]


def test_who_waits_is_told_when_a_pin_takes_the_room(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, B), Arrived(4, B))
    assert with_a(4, ConfigChanged(Limits(), (Sighting(A, PINNED),))) == [
        Reject(3, Rejection.PINNED_OUT),
        Reject(4, Rejection.PINNED_OUT),
    ]


def test_who_waits_is_told_when_the_budget_shrinks(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, B, gb(11)), Arrived(4, C, gb(9)))
    assert with_a(4, ConfigChanged(Limits(memory_gb=10))) == [Reject(3, Rejection.TOO_LARGE)]
    assert with_a.scheduler.waiting == 1


def test_a_pin_that_leaves_room_disturbs_nobody(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, B))
    limits = Limits(max_resident=2)
    assert with_a(4, ConfigChanged(limits, (Sighting(A, PINNED),))) == [StartLoad(B, 2, 3)]
