"""What happens when two things meet: pins, limits, drains and queues that change while something is under way."""

from swapper_proxy.core.commands import Answer, Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Finished,
    Loaded,
    Observed,
    Shutdown,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
)
from swapper_proxy.core.types import Limits, Profile, Sighting, State
from tests.core.talk import A_LONG, A, B, Talk

PINNED = Profile(pinned=True)
LARGE = Profile(size_gb=8)


def small(gb: float) -> Limits:
    return Limits(memory_gb=gb)


# Pins


def test_a_pin_during_the_load_takes_back_the_unload(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(0.5, UnloadRequested(2, "a"))
    assert talk(1, ConfigChanged(Limits(), (Sighting(A, PINNED),))) == [Reject(2, Rejection.PINNED)]
    assert talk(2, Loaded(A, 1)) == [Grant(1)]
    assert talk(3, Finished(1)) == []
    assert talk.states == {A: State.RESIDENT}


def test_a_pin_that_is_seen_while_it_drains_takes_back_the_unload(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, UnloadRequested(3, "a"))
    assert with_a(6, Observed(5, (Sighting(A, PINNED),))) == [Reject(3, Rejection.PINNED)]
    assert with_a(7, Finished(2)) == []


def test_a_pin_that_comes_with_a_request_takes_back_the_unload(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, UnloadRequested(3, "a"))
    assert with_a(6, Arrived(4, A, PINNED)) == [Reject(3, Rejection.PINNED)]
    assert with_a(7, Finished(2)) == [Grant(4)]


def test_those_whom_a_pin_shuts_out_are_told(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, B))
    assert with_a(6, Observed(5, (Sighting(A, PINNED),))) == [Reject(3, Rejection.PINNED_OUT)]


def test_those_whom_a_stranger_that_is_pinned_shuts_out_are_told(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1), Arrived(2, B))
    talk(2, Finished(1))
    told = talk(3, Observed(2.9, (Sighting(B, PINNED),)))
    assert told == [Grant(2)]
    assert talk(4, Arrived(3, A)) == [Reject(3, Rejection.PINNED_OUT)]


# Limits


def test_a_queue_that_comes_back_to_a_budget_too_small_for_it_is_told() -> None:
    talk = Talk(memory_gb=10)
    talk(0, Arrived(1, A, LARGE))
    talk(1, Loaded(A, 1))
    talk(2, Arrived(2, A, LARGE))
    assert talk(3, ConfigChanged(small(5))) == []
    assert talk(4, Finished(1)) == [StartUnload(A, 2)]
    assert talk(5, Unloaded(A, 2)) == [Reject(2, Rejection.TOO_LARGE)]


def test_a_queue_behind_an_unload_is_told_when_it_is_over(with_a: Talk) -> None:
    with_a(3, UnloadRequested(2, "a"))
    with_a(4, Arrived(3, A, LARGE))
    with_a(4.5, ConfigChanged(small(5)))
    assert with_a(5, Unloaded(A, 2)) == [Answer(2), Reject(3, Rejection.TOO_LARGE)]


def test_what_has_no_known_size_fits_into_a_budget_that_is_used_up() -> None:
    talk = Talk(max_resident=3, memory_gb=8)
    talk(0, Arrived(1, A, LARGE))
    talk(1, Loaded(A, 1))
    assert talk(2, Arrived(2, B)) == [StartLoad(B, 2, 2)]


def test_a_surplus_that_does_not_go_is_tried_again(with_a_and_b: Talk) -> None:
    assert with_a_and_b(5, ConfigChanged(Limits())) == [StartUnload(A, 3)]
    assert with_a_and_b(6, UnloadFailed(A, 3)) == []
    assert with_a_and_b(6.5, Tick()) == []
    assert with_a_and_b(7, Tick()) == [StartUnload(A, 4)]


def test_a_load_that_a_smaller_budget_overtakes_is_used_once_and_goes() -> None:
    talk = Talk(memory_gb=10)
    talk(0, Arrived(1, A, LARGE))
    assert talk(1, ConfigChanged(small(5))) == []
    assert talk(2, Loaded(A, 1)) == [Grant(1)]
    assert talk(3, Finished(1)) == [StartUnload(A, 2)]


# One instant


def test_an_unload_asked_for_as_the_load_ends_comes_after_a_grant(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    assert talk(1, Loaded(A, 1), UnloadRequested(2, "a")) == [Grant(1)]
    assert talk(2, Finished(1)) == [StartUnload(A, 2)]


def test_the_end_lifts_what_drains_for_others(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B))
    with_a(64, Tick())
    with_a(65, Arrived(4, A))
    assert with_a.states == {A: State.DRAINING}
    assert with_a(66, Shutdown(100)) == [Reject(3, Rejection.SHUTTING_DOWN)]
    assert with_a(67, Finished(2)) == [Grant(4)]


# Idleness


def test_the_hold_of_a_load_that_nobody_waits_for_begins_when_it_is_loaded(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, Cancelled(1))
    talk(20, Loaded(A, 1))
    assert talk(20.1, Arrived(2, B)) == []
    assert talk.scheduler.host.records[A].hold_until > 20.1


def test_the_hold_of_what_somebody_else_loaded_begins_when_it_is_seen(with_a: Talk) -> None:
    with_a(50, Observed(49, ()))
    with_a(100, Observed(99, (Sighting(A),)))
    assert with_a.scheduler.host.records[A].idle_since == 100


def test_a_key_with_other_options_than_the_pinned_one_does_not_become_pinned_when_it_is_seen(talk: Talk) -> None:
    talk(0, Arrived(1, A_LONG))
    talk(1, Loaded(A_LONG, 1))
    talk(2, Finished(1))
    talk(3, Observed(2.5, (Sighting(A, PINNED),)))
    assert talk(10, Arrived(2, A, PINNED)) == [StartUnload(A_LONG, 2)]
