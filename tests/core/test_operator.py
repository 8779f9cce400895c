"""Manual loads and unloads, and pins."""

from swapper_proxy.core.commands import Answer, Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Finished,
    Loaded,
    LoadFailed,
    LoadRequested,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
)
from swapper_proxy.core.types import Cause, Limits, Profile, Sighting, State
from tests.core.talk import LOW, A, B, C, Talk

PINNED = Profile(pinned=True)


def test_a_manual_load(talk: Talk) -> None:
    assert talk(0, LoadRequested(1, A)) == [StartLoad(A, 1, 1)]
    assert talk.changes == [(A, State.LOADING, Cause.MANUAL)]
    assert talk(1, Loaded(A, 1)) == [Answer(1)]
    assert talk(2, LoadRequested(2, A)) == [Answer(2)]
    assert talk(3, Arrived(3, B)) == [StartUnload(A, 2)]


def test_a_manual_load_is_before_requests(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, B), Arrived(4, C), LoadRequested(5, C))
    assert with_a(4, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(5, Unloaded(A, 2)) == [StartLoad(C, 3, 5)]
    assert with_a(6, Loaded(C, 3)) == [Answer(5), Grant(4)]


def test_a_manual_load_of_a_busy_resident_is_answered_at_once(with_a: Talk) -> None:
    assert with_a(3, Arrived(2, A), Arrived(3, A)) == [Grant(2)]
    assert with_a(4, LoadRequested(4, A)) == [Answer(4)]


def test_a_manual_load_given_up(talk: Talk) -> None:
    talk(0, LoadRequested(1, A))
    talk(1, Cancelled(1))
    assert talk(2, Loaded(A, 1)) == []


def test_a_manual_unload(with_a: Talk) -> None:
    assert with_a(3, UnloadRequested(2, "a")) == [StartUnload(A, 2)]
    assert with_a.changes == [(A, State.DRAINING, Cause.MANUAL), (A, State.UNLOADING, Cause.MANUAL)]
    assert with_a(4, UnloadRequested(3, "a")) == []
    assert with_a(5, Unloaded(A, 2)) == [Answer(2), Answer(3)]
    assert with_a(6, UnloadRequested(4, "a")) == [Answer(4)]


def test_one_that_does_not_answer_goes_although_it_is_pinned(talk: Talk) -> None:
    talk(0, Arrived(1, A, PINNED))
    talk(1, Loaded(A, 1))
    assert talk(2, Arrived(2, A, PINNED)) == []
    assert talk(3, UnloadRequested(3, "a", silent=True), Finished(1)) == [StartUnload(A, 2)]
    assert talk(4, Unloaded(A, 2)) == [Answer(3), StartLoad(A, 3, 2)]


def test_nor_does_it_stay_for_another_change_of_its_profile(talk: Talk) -> None:
    talk(0, Arrived(1, A, PINNED))
    talk(1, Loaded(A, 1))
    assert talk(2, UnloadRequested(2, "a", silent=True)) == []
    assert talk(3, Arrived(3, A, Profile(pinned=True, max_queue=5))) == []
    assert talk(4, Finished(1)) == [StartUnload(A, 2)]


def test_a_manual_unload_drains_and_its_queue_loads_it_again(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A))
    assert with_a(4, UnloadRequested(4, "a")) == []
    assert with_a(5, Arrived(5, A)) == []
    assert with_a(6, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(7, Unloaded(A, 2)) == [Answer(4), StartLoad(A, 3, 3)]


def test_a_manual_unload_given_up_goes_on(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, UnloadRequested(3, "a"))
    assert with_a(5, Cancelled(3)) == []
    assert with_a(6, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(7, Unloaded(A, 2)) == []


def test_a_manual_unload_that_fails(with_a: Talk) -> None:
    with_a(3, UnloadRequested(2, "a"))
    assert with_a(4, UnloadFailed(A, 2)) == [Reject(2, Rejection.UNLOAD_FAILED)]
    assert with_a(9, Tick()) == []


def test_a_manual_load_in_between_wins(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, UnloadRequested(3, "a"))
    assert with_a(5, LoadRequested(4, A)) == [Reject(3, Rejection.SUPERSEDED), Answer(4)]
    assert with_a.changes == [(A, State.RESIDENT, Cause.MANUAL)]
    assert with_a(6, Finished(2)) == []


def test_a_manual_load_during_the_unload_waits_for_it(with_a: Talk) -> None:
    with_a(3, UnloadRequested(2, "a"))
    assert with_a(4, LoadRequested(3, A)) == []
    assert with_a(5, Unloaded(A, 2)) == [Answer(2), StartLoad(A, 3, 3)]


def test_a_manual_unload_during_the_load_comes_after_a_grant(talk: Talk) -> None:
    talk(0, Arrived(1, A), Arrived(2, A))
    assert talk(1, UnloadRequested(3, "a")) == []
    assert talk(2, Loaded(A, 1)) == [Grant(1)]
    assert talk.states == {A: State.DRAINING}
    assert talk(3, Finished(1)) == [StartUnload(A, 2)]


def test_a_manual_unload_during_a_load_that_fails(talk: Talk) -> None:
    talk(0, LoadRequested(1, A))
    talk(1, UnloadRequested(2, "a"))
    assert talk(2, LoadFailed(A, 1)) == [Reject(1, Rejection.LOAD_FAILED, 1.0), Answer(2)]


def test_a_manual_load_takes_back_an_unload_asked_for_during_the_load(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, UnloadRequested(2, "a"))
    assert talk(2, LoadRequested(3, A)) == [Reject(2, Rejection.SUPERSEDED)]
    assert talk(3, Loaded(A, 1)) == [Answer(3), Grant(1)]
    assert talk.states == {A: State.RESIDENT}


def test_a_manual_load_is_patient_as_one_of_high_priority(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, LoadRequested(3, B), Tick())
    assert with_a.wake == [30.0]
    with_a(30, Tick())
    assert with_a.states == {A: State.DRAINING}
    assert with_a(31, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(32, Unloaded(A, 2)) == [StartLoad(B, 3, 3)]
    assert with_a.changes[1] == (B, State.LOADING, Cause.MANUAL)


def test_a_manual_load_waits_beyond_the_limit_of_the_queue() -> None:
    talk = Talk(max_queue=1)
    talk(0, Arrived(1, A))
    assert talk(0, LoadRequested(2, A), LoadRequested(3, B)) == []
    assert talk.scheduler.waiting == 3


def test_a_load_says_why_it_was_asked_for(talk: Talk) -> None:
    talk(0, LoadRequested(1, A, cause=Cause.PRELOAD), Arrived(2, A))
    assert talk.changes == [(A, State.LOADING, Cause.PRELOAD)]
    talk(1, Loaded(A, 1))
    assert talk.changes == [(A, State.RESIDENT, Cause.PRELOAD)]
    talk(2, Finished(2))
    talk(3, LoadRequested(3, B, priority=LOW, cause=Cause.DEFAULT))
    talk(4, Unloaded(A, 2))
    assert talk.changes[1] == (B, State.LOADING, Cause.DEFAULT)


def test_those_who_want_a_load_only_are_no_part_of_the_gate(talk: Talk) -> None:
    talk(0, LoadRequested(1, A), LoadRequested(2, A))
    assert talk(1, Loaded(A, 1)) == [Answer(1), Answer(2)]
    (record,) = talk.scheduler.residencies()
    assert not record.gate_open(1)


def test_one_of_two_manual_loads_is_given_up(talk: Talk) -> None:
    talk(0, LoadRequested(1, A), LoadRequested(2, A))
    assert talk(1, Cancelled(1)) == []
    assert talk(2, Loaded(A, 1)) == [Answer(2)]


# Pins


def test_a_pinned_model_is_not_unloaded_by_hand(with_a: Talk) -> None:
    with_a(3, ConfigChanged(Limits(), (Sighting(A, PINNED),)))
    assert with_a(4, UnloadRequested(2, "a")) == [Reject(2, Rejection.PINNED)]
    assert with_a.states == {A: State.RESIDENT}


def test_a_pinned_model_is_never_evicted_nor_forced_out(with_a_and_b: Talk) -> None:
    with_a_and_b(5, ConfigChanged(Limits(max_resident=2), (Sighting(A, PINNED),)), Arrived(3, B))
    with_a_and_b(6, Arrived(4, C))
    with_a_and_b(66, Tick())
    assert with_a_and_b.states == {A: State.RESIDENT, B: State.DRAINING}


def test_a_pinned_model_outlives_its_time(talk: Talk) -> None:
    talk(0, Arrived(1, A, PINNED, ttl_s=5))
    talk(1, Loaded(A, 1))
    assert talk(2, Finished(1)) == []
    assert talk(9, Tick()) == []


def test_a_pin_lifts_a_manual_draining(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A))
    with_a(4, UnloadRequested(4, "a"))
    assert with_a(5, ConfigChanged(Limits(), (Sighting(A, PINNED),))) == [Reject(4, Rejection.PINNED)]
    assert with_a.changes == [(A, State.RESIDENT, Cause.LIMITS)]
    assert with_a(6, Finished(2)) == [Grant(3)]


def test_a_pin_lifts_a_draining_by_force(with_a_and_b: Talk) -> None:
    with_a_and_b(5, Arrived(3, A), Arrived(4, B))
    with_a_and_b(6, Arrived(5, C))
    with_a_and_b(66, Tick())
    with_a_and_b(67, ConfigChanged(Limits(max_resident=2), (Sighting(A, PINNED),)))
    assert with_a_and_b.states == {A: State.RESIDENT, B: State.DRAINING}


def test_a_pin_during_the_unload_comes_too_late(with_a: Talk) -> None:
    with_a(3, UnloadRequested(2, "a"))
    assert with_a(4, ConfigChanged(Limits(), (Sighting(A, PINNED),))) == []
    assert with_a(5, Unloaded(A, 2)) == [Answer(2)]
