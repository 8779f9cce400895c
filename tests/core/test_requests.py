"""From arrival to the end of the answer."""

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
    Tick,
    Unloaded,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.host import REMEMBERED
from swapper_proxy.core.types import Cause, Key, Limits, Profile, Sighting, State
from tests.core.talk import A_GPU, A_LONG, HIGH, LOW, WIDE, A, B, C, D, Talk


def test_load_grant_finish(talk: Talk) -> None:
    assert talk(0, Arrived(1, A)) == [StartLoad(A, 1, 1)]
    assert talk.changes == [(A, State.LOADING, Cause.IDLE)]
    assert talk.scheduler.waiting == 1
    assert talk(1, Loaded(A, 1)) == [Grant(1)]
    assert talk.changes == [(A, State.RESIDENT, Cause.IDLE)]
    assert talk.scheduler.waiting == 0
    assert talk(2, Finished(1)) == []
    assert talk(3, Arrived(2, A)) == [Grant(2)]


def test_grants_are_in_order_of_arrival_up_to_the_parallel_limit(talk: Talk) -> None:
    two = Profile(parallel=2)
    talk(0, Arrived(1, A, two), Arrived(2, A, two), Arrived(3, A, two), Arrived(4, A, two))
    assert talk(1, Loaded(A, 1)) == [Grant(1), Grant(2)]
    assert talk(2, Finished(2)) == [Grant(3)]
    assert talk(3, Finished(1), Finished(3)) == [Grant(4)]


def test_a_swap_is_an_unload_a_decision_and_a_load(with_a: Talk) -> None:
    assert with_a(3, Arrived(2, B)) == [StartUnload(A, 2)]
    assert with_a.changes == [(A, State.UNLOADING, Cause.IDLE)]
    assert with_a(4, Unloaded(A, 2)) == [StartLoad(B, 3, 2)]
    assert with_a.changes == [(A, State.ABSENT, Cause.IDLE), (B, State.LOADING, Cause.IDLE)]
    assert with_a(5, Loaded(B, 3)) == [Grant(2)]
    assert with_a.states == {B: State.RESIDENT}


def test_nothing_is_unloaded_while_it_answers(with_a: Talk) -> None:
    assert with_a(3, Arrived(2, A)) == [Grant(2)]
    assert with_a(4, Arrived(3, B)) == []
    assert with_a(5, Finished(2)) == [StartUnload(A, 2)]


def test_what_is_resident_is_served_while_it_has_anything(with_a: Talk) -> None:
    assert with_a(3, Arrived(2, A), Arrived(3, B), Arrived(4, A)) == [Grant(2)]
    assert with_a(5, Finished(2)) == [Grant(4)]
    assert with_a(6, Finished(4)) == [StartUnload(A, 2)]


def test_one_transition_at_a_time() -> None:
    talk = Talk(max_resident=2)
    assert talk(0, Arrived(1, A), Arrived(2, B)) == [StartLoad(A, 1, 1)]
    assert talk(1, Tick()) == []
    assert talk(2, Loaded(A, 1)) == [Grant(1), StartLoad(B, 2, 2)]


def test_two_victims_go_one_after_the_other(with_a_and_b: Talk) -> None:
    sizes = tuple(Sighting(key, Profile(size_gb=4)) for key in (A, B))
    with_a_and_b(5, ConfigChanged(Limits(max_resident=2, memory_gb=10), sizes))
    assert with_a_and_b(6, Arrived(3, D, Profile(size_gb=10))) == [StartUnload(A, 3)]
    assert with_a_and_b(7, Unloaded(A, 3)) == [StartUnload(B, 4)]
    assert with_a_and_b(8, Unloaded(B, 4)) == [StartLoad(D, 5, 3)]


def test_other_options_of_the_same_runner_exclude_each_other() -> None:
    talk = Talk(max_resident=3)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    assert talk(2, Arrived(2, A_LONG)) == []
    talk(3, Finished(1))
    assert talk(4, Tick()) == [StartUnload(A, 2)]
    assert talk(5, Unloaded(A, 2)) == [StartLoad(A_LONG, 3, 2)]


def test_a_request_that_leaves_num_gpu_open_is_served_by_what_is_there(talk: Talk) -> None:
    talk(0, Arrived(1, A_GPU, WIDE))
    assert talk(1, Loaded(A_GPU, 1), Arrived(2, A, WIDE)) == [Grant(1), Grant(2)]
    assert talk.states == {A_GPU: State.RESIDENT}


def test_num_gpu_asked_for_is_not_served_by_what_left_it_open(with_a: Talk) -> None:
    assert with_a(3, Arrived(2, A_GPU)) == [StartUnload(A, 2)]


def test_a_key_that_is_being_unloaded_serves_nobody_else(talk: Talk) -> None:
    talk(0, Arrived(1, A_GPU))
    talk(1, Loaded(A_GPU, 1))
    talk(2, Finished(1))
    assert talk(3, Arrived(2, B)) == [StartUnload(A_GPU, 2)]
    talk(4, Cancelled(2), Arrived(3, A))
    assert talk(5, Unloaded(A_GPU, 2)) == [StartLoad(A, 3, 3)]


def test_a_waiter_leaves(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A), Arrived(4, A))
    assert with_a(4, Cancelled(3)) == []
    assert with_a.scheduler.waiting == 1
    assert with_a(5, Finished(2)) == [Grant(4)]


def test_one_in_the_middle_of_the_queue_leaves(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A), Arrived(4, A), Arrived(5, A))
    with_a(4, Cancelled(4))
    assert with_a(5, Finished(2)) == [Grant(3)]
    assert with_a(6, Finished(3)) == [Grant(5)]


def test_a_request_in_flight_leaves(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A))
    assert with_a(4, Cancelled(2)) == [Grant(3)]
    assert with_a(5, Finished(2), Cancelled(2), Cancelled(77)) == []


def test_all_leave_during_the_unload(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    assert with_a(4, Cancelled(2)) == []
    assert with_a(5, Unloaded(A, 2)) == []
    assert with_a.states == {}


def test_all_leave_during_the_load(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    assert talk(1, Cancelled(1)) == []
    assert talk(2, Loaded(A, 1)) == []
    assert talk(3, Arrived(2, A)) == [Grant(2)]


def test_an_arrival_during_the_unload_is_not_granted_by_the_old_residency(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    assert with_a(4, Arrived(3, A, priority=LOW), Arrived(4, A, priority=LOW)) == []
    assert with_a(5, Unloaded(A, 2)) == [StartLoad(B, 3, 2)]
    assert with_a(6, Loaded(B, 3)) == [Grant(2)]
    assert with_a(7, Finished(2)) == []
    assert with_a(8, Tick()) == [StartUnload(B, 4)]
    assert with_a(9, Unloaded(B, 4)) == [StartLoad(A, 5, 3)]


def test_the_queue_is_in_order_of_due(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, A, priority=LOW), Arrived(4, A), Arrived(5, A, priority=HIGH), Arrived(6, A))
    assert [with_a(5 + n, Finished(id_))[0] for n, id_ in enumerate((2, 5, 4, 6))] == [
        Grant(5),
        Grant(4),
        Grant(6),
        Grant(3),
    ]


def test_the_key_whose_head_is_due_first_is_loaded_first(talk: Talk) -> None:
    assert talk(0, Arrived(1, A, priority=LOW), Arrived(2, B), Arrived(3, C, priority=HIGH)) == [StartLoad(C, 1, 3)]
    talk(1, Loaded(C, 1))
    talk(2, Finished(3))
    assert talk(3, Tick()) == [StartUnload(C, 2)]
    assert talk(4, Unloaded(C, 2)) == [StartLoad(B, 3, 2)]


def test_of_two_that_are_due_together_the_first_to_come_is_first(talk: Talk) -> None:
    assert talk(0, Arrived(1, B), Arrived(2, A)) == [StartLoad(B, 1, 1)]


def test_what_something_was_unloaded_for_is_loaded_whoever_is_due_earlier(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    with_a(4, Arrived(3, C, priority=HIGH))
    assert with_a(5, Unloaded(A, 2)) == [StartLoad(B, 3, 2)]


def test_the_decision_is_taken_afresh_when_nobody_wants_it_any_more(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    with_a(4, Arrived(3, C), Arrived(4, D, priority=HIGH), Cancelled(2))
    assert with_a(5, Unloaded(A, 2)) == [StartLoad(D, 3, 4)]


def test_a_load_that_nobody_waits_for_any_more_leaves_an_idle_resident_with_a_hold(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, Cancelled(1), Loaded(A, 1), Tick())
    assert talk(1.05, Arrived(2, B)) == []
    assert talk(1.2, Tick()) == [StartUnload(A, 2)]


def test_the_load_is_asked_for_as_the_head_of_the_queue_asks(talk: Talk) -> None:
    talk(0, UpstreamDown(), Arrived(1, A), Arrived(2, A, priority=HIGH))
    assert talk(1, UpstreamUp()) == [StartLoad(A, 1, 2)]


def test_how_long_a_load_should_take_is_said(talk: Talk) -> None:
    sized = Profile(size_gb=4)
    (load,) = talk(0, Arrived(1, A, sized))
    assert load.expected_s == 4
    talk(1, Loaded(A, 1))
    talk(2, Finished(1), Observed(2, ()))
    (load,) = talk(3, Arrived(2, A, sized))
    assert load.expected_s == 1


def test_keys_that_nobody_wants_any_more_are_forgotten_the_oldest_first() -> None:
    talk = Talk(upstream_grace_s=9999)
    talk(0, UpstreamDown())
    for number in range(REMEMBERED):
        talk(number, Arrived(number, Key(str(number))))
        if number != 1:
            talk(number, Cancelled(number))
    assert len(talk.scheduler.residencies()) == REMEMBERED
    talk(1000, Arrived(1000, A))
    left = [record.key.runner for record in talk.scheduler.residencies()]
    assert left == ["1", *(str(number) for number in range(REMEMBERED // 4 + 1, REMEMBERED)), "a"]


def test_who_would_be_served_at_once_is_not_refused_because_others_wait() -> None:
    talk = Talk(max_queue=1)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    assert talk(2, Arrived(2, B)) == []
    assert talk(3, Finished(1), Arrived(3, A)) == [Grant(3)]
    assert talk(4, Arrived(4, A)) == [Reject(4, Rejection.QUEUE_FULL)]


def test_all_who_come_in_one_instant_and_would_be_served_at_once_are() -> None:
    talk = Talk(max_queue=1)
    talk(0, LoadRequested(1, A, WIDE))
    talk(1, Loaded(A, 1))
    assert talk(2, *(Arrived(n, A, WIDE) for n in range(2, 6))) == [Grant(n) for n in range(2, 6)]


@pytest.mark.parametrize("load_too", [False, True])
def test_who_would_have_been_served_at_once_but_is_not_stands_in_no_full_queue(load_too: bool) -> None:
    """A is gone in the very instant in which three come for it: one may wait.  Loads asked for are no requests."""
    talk = Talk(max_queue=1)
    talk(0, LoadRequested(1, A, WIDE))
    talk(1, Loaded(A, 1))
    more = (LoadRequested(9, B),) if load_too else ()
    told = talk(3, *(Arrived(n, A, WIDE) for n in (2, 3, 4)), *more, Observed(2.5, ()))
    assert [c for c in told if isinstance(c, Reject)] == [Reject(n, Rejection.QUEUE_FULL) for n in (4, 3)]
    assert talk.scheduler.waiting == 1 + load_too


def test_who_would_have_been_served_at_once_but_is_not_stands_in_no_full_queue_of_its_key(talk: Talk) -> None:
    narrow = Profile(parallel=8, max_queue=1)
    talk(0, LoadRequested(1, A, narrow))
    talk(1, Loaded(A, 1))
    told = talk(3, Arrived(2, A, narrow), Arrived(3, A, narrow), Observed(2.5, ()))
    assert told == [Reject(3, Rejection.QUEUE_FULL), StartLoad(A, 2, 2)]
