"""Who has waited long enough forces a swap: deadlines, draining, gates, and victims that are let off."""

import pytest

from swapper_proxy.core.commands import Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Finished,
    Loaded,
    LoadRequested,
    Observed,
    Shutdown,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
    UpstreamDown,
)
from swapper_proxy.core.types import EXHAUSTIVE, Cause, Key, Limits, Profile, Rules, Sighting, State
from tests.core.talk import A_LONG, HIGH, LOW, WIDE, A, B, C, D, Talk

DRAINS = [(A, State.DRAINING, Cause.DEADLINE)]
LIFTED = [(A, State.RESIDENT, Cause.DEADLINE)]


@pytest.fixture
def forced(with_a: Talk) -> Talk:
    """A answers 2, and drains for 3, which has waited for B since 4; 4 and 5 wait for A."""
    with_a(3, Arrived(2, A, WIDE))
    with_a(4, Arrived(3, B))
    assert with_a(64, Tick()) == []
    assert with_a.changes == DRAINS
    assert with_a(65, Arrived(4, A), Arrived(5, A)) == []
    return with_a


@pytest.fixture
def both_busy() -> Talk:
    """Room for two, A and B resident since 1 and 2 and busy with 1 and 2; A used before B."""
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A), Arrived(2, B))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2), Tick())
    return talk


# Deadlines


def test_a_deadline_drains_unloads_and_loads(forced: Talk) -> None:
    assert forced(70, Finished(2)) == [StartUnload(A, 2)]
    assert forced.changes == [(A, State.UNLOADING, Cause.DEADLINE)]
    assert forced(71, Unloaded(A, 2)) == [StartLoad(B, 3, 3)]
    assert forced.changes == [(A, State.ABSENT, Cause.DEADLINE), (B, State.LOADING, Cause.DEADLINE)]
    assert forced(72, Loaded(B, 3)) == [Grant(3)]


def test_nobody_is_forced_out_before_the_deadline(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, WIDE))
    with_a(4, Arrived(3, B))
    assert with_a(63.9, Tick(), Arrived(4, A, WIDE)) == [Grant(4)]


@pytest.mark.parametrize(("priority", "due"), [(HIGH, 30), (LOW, 244)])
def test_patience_is_that_of_the_priority(with_a: Talk, priority: str, due: float) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B, priority=priority))
    assert with_a.wake == [due]  # high: 15 s, but kappa says 2 * 13 s
    with_a(due, Tick())
    assert with_a.changes == DRAINS


def test_what_loads_quickly_is_waited_for_shortly(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B, Profile(size_gb=1)))
    assert with_a.wake == [39.0]  # ten times 1 s to unload and 2.5 s to load


def test_the_more_keys_contend_the_later_is_force(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, *(Arrived(3 + n, Key(f"k{n}")) for n in range(4)))
    assert with_a.wake == [96.0]  # four keys of 11 s, A of 2 s
    with_a(96, Tick())
    assert with_a.changes == DRAINS


def test_an_earlier_due_is_first_among_those_whose_deadline_has_passed(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B, priority=LOW), Arrived(4, C))
    with_a(200, Tick())
    assert with_a(201, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(202, Unloaded(A, 2)) == [StartLoad(C, 3, 4)]


def test_plain_exhaustive_service_forces_nobody() -> None:
    talk = Talk(rules=EXHAUSTIVE)
    talk(0, Arrived(1, A, WIDE))
    talk(1, Loaded(A, 1), Arrived(2, B))
    assert talk(9999, Tick(), Arrived(3, A, WIDE)) == [Grant(3)]
    assert talk(10000, Finished(1), Finished(3)) == [StartUnload(A, 2)]


def test_a_swap_that_was_measured_shortens_the_patience_of_those_who_wait_already(talk: Talk) -> None:
    talk(0, Arrived(1, A), Arrived(2, A_LONG))
    talk(0.5, Loaded(A, 1), Tick())
    assert talk.wake == [15.5]  # ten times 1.5 s instead of 60 s, from the turn of the others who want these weights
    talk(15.5, Tick())
    assert talk.changes == DRAINS


# Draining


def test_a_draining_key_grants_nothing_and_its_queue_is_a_candidate(forced: Talk) -> None:
    assert forced(66, Tick()) == []
    assert forced(70, Finished(2)) == [StartUnload(A, 2)]
    assert forced(70.5, Arrived(6, A)) == []
    forced(71, Unloaded(A, 2))
    forced(72, Loaded(B, 3))
    forced(84.9, Tick())
    assert forced.changes == []
    forced(85, Tick())  # 4 came at 65
    assert forced.states == {B: State.DRAINING}
    assert forced(93, Finished(3)) == [StartUnload(B, 4)]
    assert forced(94, Unloaded(B, 4)) == [StartLoad(A, 5, 4)]
    assert forced(95, Loaded(A, 5)) == [Grant(4)]


def test_the_draining_is_lifted_when_all_who_wait_for_it_leave(forced: Talk) -> None:
    assert forced(66, Cancelled(3)) == []
    assert forced.changes == LIFTED
    assert forced(70, Finished(2)) == [Grant(4)]
    assert forced.states == {A: State.RESIDENT}


def test_draining_goes_on_while_somebody_else_waits_for_the_same(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B), Arrived(4, B))
    with_a(64, Tick())
    assert with_a(65, Cancelled(3)) == []
    assert with_a(66, Finished(2)) == [StartUnload(A, 2)]


def test_idle_victims_go_at_once(with_a_and_b: Talk) -> None:
    assert with_a_and_b(5, Arrived(3, A), Arrived(4, B)) == [Grant(3), Grant(4)]
    with_a_and_b(6, Arrived(5, C))
    with_a_and_b(66, Tick())
    assert with_a_and_b.states == {A: State.DRAINING, B: State.RESIDENT}
    assert with_a_and_b(67, Finished(3)) == [StartUnload(A, 3)]


def test_victims_drain_while_another_load_runs(both_busy: Talk) -> None:
    both_busy(3, ConfigChanged(Limits(max_resident=2, rules=Rules(kappa=0))), Arrived(3, C), Finished(2))
    assert both_busy(4.2, Tick()) == [StartUnload(B, 3)]
    assert both_busy(5, Unloaded(B, 3)) == [StartLoad(C, 4, 3)]
    both_busy(6, Arrived(4, D, priority=HIGH), Arrived(5, A))
    both_busy(21, Tick())
    assert both_busy.states == {A: State.DRAINING, C: State.LOADING}
    assert both_busy(22, Finished(1)) == []
    assert both_busy(23, Loaded(C, 4)) == [Grant(3), StartUnload(A, 5)]


def test_a_victim_stays_the_victim_when_another_becomes_idle(both_busy: Talk) -> None:
    both_busy(3, Arrived(3, C))
    both_busy(64, Tick())
    assert both_busy.states == {A: State.DRAINING, B: State.RESIDENT}
    assert both_busy(65, Finished(2)) == []
    assert both_busy(90, Tick()) == []
    assert both_busy(91, Finished(1)) == [StartUnload(A, 3)]


def test_another_victim_is_chosen_when_the_set_does_not_suffice_any_more(both_busy: Talk) -> None:
    both_busy(3, Arrived(3, C))
    both_busy(64, Tick())
    both_busy(65, ConfigChanged(Limits(max_resident=2), (Sighting(A, Profile(pinned=True)),)))
    assert both_busy.states == {A: State.RESIDENT, B: State.DRAINING}


def test_somebody_who_is_due_earlier_takes_the_turn(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B))
    with_a(64, Tick())
    with_a(65, Cancelled(3), Arrived(4, C, priority=HIGH))
    assert with_a.changes == LIFTED
    with_a(66, Arrived(5, B))
    with_a(113, Tick())
    assert with_a.changes == DRAINS
    assert with_a(114, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(115, Unloaded(A, 2)) == [StartLoad(C, 3, 4)]


def test_idle_victims_past_their_hold_are_preferred_to_busy_ones(both_busy: Talk) -> None:
    both_busy(3, Arrived(3, C, priority=LOW))
    both_busy(100, Finished(2))
    assert both_busy(101.3, Tick()) == [StartUnload(B, 3)]


def test_an_idle_victim_goes_before_its_hold_is_over_by_force() -> None:
    talk = Talk(rules=Rules(patience_swaps=1, kappa=0))
    talk(0, Arrived(1, A))
    talk(20, Loaded(A, 1))  # a hold of 2.1 s when one waits
    talk(21, Arrived(2, B))  # due at 32
    assert talk(31, Finished(1)) == []
    assert talk(32, Tick()) == [StartUnload(A, 2)]
    assert talk.changes == [*DRAINS, (A, State.UNLOADING, Cause.DEADLINE)]
    assert talk.holds == [(A, 1.0, False)]


def test_room_that_the_forced_load_does_not_need_is_used(with_a: Talk) -> None:
    small = Profile(slot="embed")
    with_a(3, ConfigChanged(Limits(slots={"embed": 1})), Arrived(2, A))
    with_a(4, Arrived(3, B))
    assert with_a(64, Tick()) == []
    assert with_a(65, Arrived(4, C, small)) == [StartLoad(C, 2, 4)]
    assert with_a(66, Loaded(C, 2)) == [Grant(4)]
    assert with_a(67, Finished(2)) == [StartUnload(A, 3)]


def test_room_that_the_forced_load_needs_is_kept_for_it() -> None:
    talk = Talk(max_resident=3, memory_gb=10)
    big, small = Profile(size_gb=6), Profile(size_gb=4)
    talk(0, Arrived(1, A, big))
    talk(1, Loaded(A, 1))
    talk(2, Arrived(2, B, big))
    talk(62, Tick())
    assert talk.changes == DRAINS
    assert talk(63, Arrived(3, C, Profile(size_gb=5)), Arrived(4, D, small)) == []
    assert talk(64, Finished(1)) == [StartUnload(A, 2)]
    assert talk(65, Unloaded(A, 2)) == [StartLoad(B, 3, 2)]
    assert talk(66, Loaded(B, 3)) == [Grant(2), StartLoad(D, 4, 4)]


def test_two_victims_drain_and_go_one_after_the_other() -> None:
    talk = Talk(max_resident=2, memory_gb=10)
    talk(0, Arrived(1, A, Profile(size_gb=4)), Arrived(2, B, Profile(size_gb=4)))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2), Arrived(3, C, Profile(size_gb=10)))
    talk(62, Tick())
    assert talk.states == {A: State.DRAINING, B: State.DRAINING}
    assert talk(63, Finished(2)) == []
    assert talk(64, Finished(1)) == [StartUnload(A, 3)]
    assert talk(65, Unloaded(A, 3)) == [StartUnload(B, 4)]
    assert talk(66, Unloaded(B, 4)) == [StartLoad(C, 5, 3)]


def test_another_key_of_the_same_runner_is_forced_out_too(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A_LONG))
    assert with_a.wake == [23.0]
    assert with_a(23, Tick(), Arrived(4, A)) == []
    assert with_a.changes == DRAINS
    assert with_a(24, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(25, Unloaded(A, 2)) == [StartLoad(A_LONG, 3, 3)]


def test_a_forced_unload_that_fails_is_tried_again_after_a_while(forced: Talk) -> None:
    forced(70, Finished(2))
    assert forced(71, UnloadFailed(A, 2)) == [Grant(4)]
    assert forced.wake == [72.0]
    assert forced(72, Tick()) == []
    assert forced.changes == DRAINS
    assert forced(73, Finished(4)) == [StartUnload(A, 3)]


def test_a_manual_unload_of_a_draining_key_keeps_it_draining(forced: Talk) -> None:
    forced(66, UnloadRequested(6, "a"))
    forced(67, Cancelled(3))
    assert forced.states == {A: State.DRAINING}
    assert forced(68, Finished(2)) == [StartUnload(A, 2)]


def test_a_manual_load_of_a_key_that_is_forced_out_waits_for_it_to_come_back(forced: Talk) -> None:
    assert forced(66, LoadRequested(6, A)) == []
    assert forced(70, Finished(2)) == [StartUnload(A, 2)]


def test_nobody_drains_by_force_at_the_end(forced: Talk) -> None:
    assert forced(66, Cancelled(4), Cancelled(5), Shutdown(100)) == [Reject(3, Rejection.SHUTTING_DOWN)]
    assert forced.changes == LIFTED
    assert forced(67, Arrived(6, A, WIDE)) == [Grant(6)]


def test_nobody_is_forced_while_ollama_is_down(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B), UpstreamDown())
    with_a(13, Tick())
    assert with_a.states == {}


def test_a_victim_that_vanishes_makes_room(forced: Talk) -> None:
    assert forced(66, Finished(2), Observed(65.5, ())) == [StartLoad(B, 2, 3)]


# Gates


def test_those_who_were_there_at_the_end_of_the_load_are_served_before_it_is_forced_out(talk: Talk) -> None:
    talk(0, Arrived(1, A), Arrived(2, A), Arrived(3, A), Arrived(4, B))
    assert talk(20, Loaded(A, 1)) == [Grant(1)]
    talk(64, Tick())  # the deadline of B: 2 * (21 + 11); the gate ends at 20 + 4 * 21
    assert talk.changes == []
    assert talk(80, Finished(1), Arrived(5, A)) == [Grant(2)]
    assert talk(90, Finished(2)) == [Grant(3)]
    assert talk(90, Tick()) == []
    assert talk.states == {A: State.DRAINING}
    assert talk(100, Finished(3)) == [StartUnload(A, 2)]


def test_a_gate_ends_with_time(talk: Talk) -> None:
    talk(0, Arrived(1, A), Arrived(2, A), Arrived(3, B))
    assert talk(5, Loaded(A, 1)) == [Grant(1)]
    assert talk(64.9, Tick()) == []
    assert talk.changes == []
    assert talk(65, Tick()) == []  # a minute, 4 * 6 s are less
    assert talk.changes == DRAINS
    assert talk(66, Finished(1)) == [StartUnload(A, 2)]


def test_who_leaves_is_out_of_the_gate(talk: Talk) -> None:
    talk(0, Arrived(1, A), Arrived(2, A), LoadRequested(3, A), Arrived(4, B))
    talk(5, Loaded(A, 1))
    talk(61, Tick())
    assert talk.changes == []
    talk(62, Cancelled(2))
    assert talk.changes == DRAINS


def test_who_comes_after_the_load_is_not_behind_the_gate(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A), Arrived(4, B))
    with_a(63, Tick())
    assert with_a.changes == DRAINS


def test_an_open_gate_keeps_one_and_another_goes() -> None:
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A), Arrived(2, B), Arrived(3, B), Arrived(4, C))
    talk(1, Loaded(A, 1))
    talk(55, Loaded(B, 2), Arrived(5, A))
    assert talk.states == {A: State.RESIDENT, B: State.RESIDENT}
    talk(140, Tick())
    assert talk.states == {A: State.DRAINING, B: State.RESIDENT}


def test_there_is_a_grant_for_each_load_however_late_others_are() -> None:
    talk = Talk(rules=Rules(kappa=0))
    talk(0, Arrived(1, A), Arrived(2, B, priority=HIGH))
    assert talk(61, Loaded(B, 1)) == [Grant(2)]
    assert talk.states == {B: State.RESIDENT}
    talk(61, Tick())
    assert talk.states == {B: State.DRAINING}
