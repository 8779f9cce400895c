"""Conversations with the scheduler: events in, commands out, the clock is the test's.

`Changed` and `WakeAt` have tests of their own; the others leave them out.
"""

import math

import pytest

from swapper_proxy.core.commands import Answer, Changed, Command, Grant, Held, Reject, StartLoad, StartUnload, WakeAt
from swapper_proxy.core.errors import Failure, Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Event,
    Finished,
    Loaded,
    LoadFailed,
    LoadRequested,
    Observed,
    Shutdown,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.scheduler import Scheduler

RETRY_AFTER_S = 5.0
from swapper_proxy.core.types import Cause, Key, Limits, Profile, Sighting, State

A, B, C = Key("a"), Key("b"), Key("c")
A_LONG = Key("a", (("num_ctx", 8192),))
A_GPU = Key("a", (("num_gpu", 5),))
WIDE = Profile(parallel=8)


class Talk:
    """A scheduler and what it says."""

    def __init__(self, **limits: float | None) -> None:
        self.scheduler = Scheduler(Limits(**limits))
        self.everything: list[Command] = []

    def __call__(self, now: float, *events: Event) -> list[Command]:
        self.everything = self.scheduler.handle(events, now)
        return [command for command in self.everything if not isinstance(command, Changed | Held | WakeAt)]

    @property
    def wake(self) -> list[float | None]:
        return [command.time for command in self.everything if isinstance(command, WakeAt)]

    @property
    def changes(self) -> list[tuple[Key, State, Cause]]:
        return [(c.key, c.state, c.cause) for c in self.everything if isinstance(c, Changed)]

    @property
    def states(self) -> dict[Key, State]:
        return {record.key: record.state for record in self.scheduler.residencies()}


@pytest.fixture
def talk() -> Talk:
    """Room for one, nobody there."""
    return Talk()


@pytest.fixture
def with_a() -> Talk:
    """Room for one, A resident since 1, generation 1; request 1 is answered."""
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    talk(2, Finished(1))
    return talk


@pytest.fixture
def with_a_and_b() -> Talk:
    """Room for two, A and B resident (generations 1 and 2), A used before B, both idle."""
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A), Arrived(2, B))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2))
    talk(3, Finished(1))
    talk(4, Finished(2))
    return talk


# A request's way


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
    assert with_a.changes == [(A, State.ABSENT, Cause.IDLE), (B, State.LOADING, Cause.DEMAND)]
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
    with_a_and_b(5, ConfigChanged(Limits(max_resident=2)), Observed(5, (A, B, C)))
    assert with_a_and_b(6, Arrived(3, Key("d"))) == [StartUnload(A, 3)]
    assert with_a_and_b(7, Unloaded(A, 3)) == [StartUnload(B, 4)]
    assert with_a_and_b(8, Unloaded(B, 4)) == [StartLoad(Key("d"), 5, 3)]


def test_other_options_of_the_same_runner_exclude_each_other() -> None:
    talk = Talk(max_resident=3)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    assert talk(2, Arrived(2, A_LONG)) == []
    assert talk(3, Finished(1)) == [StartUnload(A, 2)]
    assert talk(4, Unloaded(A, 2)) == [StartLoad(A_LONG, 3, 2)]


def test_a_request_that_leaves_num_gpu_open_is_served_by_what_is_there(talk: Talk) -> None:
    talk(0, Arrived(1, A_GPU, WIDE))
    assert talk(1, Loaded(A_GPU, 1), Arrived(2, A, WIDE)) == [Grant(1), Grant(2)]
    assert talk.states == {A_GPU: State.RESIDENT}


def test_num_gpu_asked_for_is_not_served_by_what_left_it_open(with_a: Talk) -> None:
    assert with_a(3, Arrived(2, A_GPU)) == [StartUnload(A, 2)]


def test_a_key_that_is_being_unloaded_serves_nobody_else(talk: Talk) -> None:
    talk(0, Arrived(1, A_GPU))
    talk(1, Loaded(A_GPU, 1))
    assert talk(2, Finished(1), Arrived(2, B)) == [StartUnload(A_GPU, 2)]
    talk(3, Cancelled(2), Arrived(3, A))
    assert talk(4, Unloaded(A_GPU, 2)) == [StartLoad(A, 3, 3)]


# Leaving


def test_a_waiter_leaves(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A), Arrived(4, A))
    assert with_a(4, Cancelled(3)) == []
    assert with_a.scheduler.waiting == 1
    assert with_a(5, Finished(2)) == [Grant(4)]


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
    assert with_a(4, Arrived(3, A)) == []
    assert with_a(5, Unloaded(A, 2)) == [StartLoad(B, 3, 2)]
    assert with_a(6, Loaded(B, 3)) == [Grant(2)]
    assert with_a(7, Finished(2)) == [StartUnload(B, 4)]
    assert with_a(8, Unloaded(B, 4)) == [StartLoad(A, 5, 3)]


# Failures and old news


def test_load_failed(talk: Talk) -> None:
    failure = Failure(500, b"no memory", "text/plain")
    talk(0, Arrived(1, A), LoadRequested(2, A), Arrived(3, B))
    assert talk(1, LoadFailed(A, 1, failure)) == [
        Reject(1, Rejection.LOAD_FAILED, 1.0, failure),
        Reject(2, Rejection.LOAD_FAILED, 1.0, failure),
        StartLoad(B, 2, 3),
    ]
    assert talk.changes[0] == (A, State.ABSENT, Cause.FAILED)
    assert talk(1.5, Arrived(4, A)) == [Reject(4, Rejection.BACKING_OFF, 0.5)]


def test_back_off_doubles_and_a_success_clears_it(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    assert talk(2, Arrived(2, A)) == [StartLoad(A, 2, 2)]
    assert talk(3, LoadFailed(A, 2)) == [Reject(2, Rejection.LOAD_FAILED, 2.0)]
    assert talk(5, Arrived(3, A)) == [StartLoad(A, 3, 3)]
    talk(6, Loaded(A, 3))
    talk(7, Finished(3), Observed(7, ()))
    assert talk(8, Arrived(4, A)) == [StartLoad(A, 4, 4)]
    assert talk(9, LoadFailed(A, 4)) == [Reject(4, Rejection.LOAD_FAILED, 1.0)]


def test_the_operator_may_try_again_at_once(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    assert talk(1.1, LoadRequested(2, A)) == [StartLoad(A, 2, 2)]


def test_those_who_came_while_it_was_there_otherwise_wait_for_the_end_of_back_off(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    talk(1.1, Observed(1.05, (A,)))
    assert talk(1.2, Arrived(2, B)) == [StartUnload(A, 2)]
    assert talk(1.3, Arrived(3, A), Cancelled(2), Unloaded(A, 2)) == []
    assert talk.wake == [2.0]
    assert talk(2, Tick()) == [StartLoad(A, 3, 3)]


def test_a_failure_long_ago_is_forgotten(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    assert talk.states == {A: State.ABSENT}
    talk(62, Tick())
    assert talk.states == {}


def test_unload_failed(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    assert with_a(4, UnloadFailed(A, 2)) == []
    assert with_a.changes == [(A, State.RESIDENT, Cause.FAILED)]
    assert with_a.wake == [5.0]
    assert with_a(4.5, Arrived(3, A)) == [Grant(3)]
    assert with_a(4.6, Finished(3)) == []
    assert with_a(5, Tick()) == [StartUnload(A, 3)]
    assert with_a(6, UnloadFailed(A, 3)) == []
    assert with_a.wake == [8.0]
    assert with_a(8, Tick()) == [StartUnload(A, 4)]


def test_another_goes_while_one_does_not(with_a_and_b: Talk) -> None:
    assert with_a_and_b(5, Arrived(3, C)) == [StartUnload(A, 3)]
    assert with_a_and_b(6, UnloadFailed(A, 3)) == [StartUnload(B, 4)]


def test_results_of_another_generation_are_ignored(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    assert with_a(4, Unloaded(A, 1), UnloadFailed(A, 1), Loaded(A, 2), Unloaded(C, 2)) == []
    with_a(5, Unloaded(A, 2))
    assert with_a(6, Loaded(B, 2), LoadFailed(B, 2), Unloaded(B, 3)) == []
    assert with_a(7, Loaded(B, 3)) == [Grant(2)]
    assert with_a(8, Loaded(B, 3), LoadFailed(B, 3)) == []


# Limits on waiting


def test_the_queue_is_full() -> None:
    talk = Talk(max_queue=2)
    assert talk(0, Arrived(1, A), Arrived(2, B), Arrived(3, C)) == [
        Reject(3, Rejection.QUEUE_FULL, RETRY_AFTER_S),
        StartLoad(A, 1, 1),
    ]
    assert talk(1, Cancelled(2), Arrived(4, C)) == []


def test_queue_timeout() -> None:
    talk = Talk(queue_timeout_s=10)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    assert talk(2, Arrived(2, B)) == []
    assert talk.wake == [12.0]
    assert talk(12, Tick()) == [Reject(2, Rejection.QUEUE_TIMEOUT, RETRY_AFTER_S)]
    assert talk.wake == []
    assert talk(13, Finished(1)) == []


def test_swap_timeout_counts_unload_and_load_and_the_load_goes_on(with_a: Talk) -> None:
    brief = Profile(swap_timeout_s=5)
    with_a(3, Arrived(2, B, brief))
    assert with_a.wake == [8.0]
    with_a(6, Unloaded(A, 2))
    with_a(7, Arrived(3, B, brief))
    assert with_a(8, Tick()) == [Reject(2, Rejection.SWAP_TIMEOUT, RETRY_AFTER_S)]
    assert with_a.wake == [12.0]
    assert with_a(9, Loaded(B, 3)) == [Grant(3)]


def test_waiting_for_a_turn_is_no_swap(with_a: Talk) -> None:
    brief = Profile(swap_timeout_s=5)
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B, brief))
    assert with_a(50, Finished(2)) == [StartUnload(A, 2)]
    assert with_a.wake == [55.0]


def test_a_swap_that_nobody_wants_any_more_is_over(with_a: Talk) -> None:
    brief = Profile(swap_timeout_s=5)
    with_a(3, Arrived(2, B, brief))
    with_a(4, UnloadFailed(A, 2), Cancelled(2), Arrived(3, A))
    assert with_a(6, Arrived(4, B, brief)) == []
    assert with_a(12, Tick()) == []
    assert with_a(13, Finished(3)) == [StartUnload(A, 3)]
    assert with_a.wake == [18.0]


def test_a_swap_is_over_when_its_key_turns_up_otherwise(with_a: Talk) -> None:
    brief = Profile(swap_timeout_s=5)
    with_a(3, Arrived(2, B, brief), Arrived(3, B, brief))
    assert with_a(4, Observed(3.5, (Sighting(A), Sighting(B)))) == [Grant(2)]
    assert with_a(9, Tick()) == []
    assert with_a(10, Finished(2)) == [Grant(3)]


# The operator


def test_a_manual_load(talk: Talk) -> None:
    assert talk(0, LoadRequested(1, A)) == [StartLoad(A, 1, 1)]
    assert talk.changes == [(A, State.LOADING, Cause.MANUAL)]
    assert talk(1, Loaded(A, 1)) == [Answer(1)]
    assert talk(2, LoadRequested(2, A)) == [Answer(2)]
    assert talk(3, Arrived(3, B)) == [StartUnload(A, 2)]


def test_a_manual_load_is_before_requests(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, B), Arrived(4, C), LoadRequested(5, C))
    assert with_a(4, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(5, Unloaded(A, 2)) == [StartLoad(C, 3, 4)]
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


# Time to live


def test_time_to_live(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=10))
    talk(1, Loaded(A, 1))
    assert talk(5, Finished(1)) == []
    assert talk.wake == [15.0]
    assert talk(15, Tick()) == [StartUnload(A, 2)]
    assert talk.changes == [(A, State.UNLOADING, Cause.TTL)]


def test_an_arrival_cancels_the_time_to_live_and_leaves_its_length(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=10))
    talk(1, Loaded(A, 1))
    talk(5, Finished(1))
    talk(14, Arrived(2, A))
    assert talk.wake == [None]
    assert talk(16, Tick()) == []
    talk(20, Finished(2))
    assert talk.wake == [30.0]


def test_infinity_ends_the_time_to_live(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=10), Arrived(2, A, ttl_s=math.inf))
    talk(1, Loaded(A, 1))
    talk(2, Finished(1))
    assert talk(3, Finished(2)) == []
    assert talk.wake == []


def test_nothing_to_live_unloads_at_once_unless_somebody_waits(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=0), Arrived(2, A, ttl_s=0))
    talk(1, Loaded(A, 1))
    assert talk(2, Finished(1)) == [Grant(2)]
    assert talk(3, Finished(2)) == [StartUnload(A, 2)]


def test_an_expired_key_that_does_not_go_is_left_alone_for_a_while(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=0))
    talk(1, Loaded(A, 1))
    assert talk(2, Finished(1)) == [StartUnload(A, 2)]
    assert talk(3, UnloadFailed(A, 2)) == []
    assert talk.wake == [4.0]
    assert talk(4, Tick()) == [StartUnload(A, 3)]


# What Ollama lists


def test_a_resident_that_is_gone_is_absent(with_a: Talk) -> None:
    assert with_a(3, Observed(2.5, ())) == []
    assert with_a.changes == [(A, State.ABSENT, Cause.OBSERVED)]
    assert with_a(4, Arrived(2, A)) == [StartLoad(A, 2, 2)]


def test_a_draining_key_that_is_gone_answers_its_unload(with_a: Talk) -> None:
    with_a(3, Arrived(2, B, WIDE))
    with_a(4, Unloaded(A, 2))
    with_a(5, Loaded(B, 3))
    with_a(6, UnloadRequested(3, "b"))
    assert with_a(8, Finished(2), Observed(7, ())) == [Answer(3)]


def test_a_resident_that_answers_is_not_gone(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    assert with_a(5, Observed(4, ())) == []
    assert with_a.states == {A: State.RESIDENT}


def test_a_snapshot_from_before_the_last_change_is_ignored(with_a: Talk) -> None:
    assert with_a(3, Observed(1, (Sighting(B),))) == []
    assert with_a.states == {A: State.RESIDENT}


def test_presence_does_not_end_a_load_and_absence_does_not_either(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    assert talk(2, Observed(1, (Sighting(A),))) == []
    assert talk(3, Observed(2, ())) == []
    assert talk.states == {A: State.LOADING}


def test_a_stranger_is_a_resident_like_any_other(talk: Talk) -> None:
    assert talk(1, Observed(1, (Sighting(A), Sighting(A_LONG)))) == []
    assert talk.changes == [(A, State.RESIDENT, Cause.OBSERVED)]
    assert talk(2, Arrived(1, A)) == [Grant(1)]
    assert talk(3, Arrived(2, B)) == []
    assert talk(4, Finished(1)) == [StartUnload(A, 1)]


# Ollama comes and goes


def test_ollama_is_down_for_a_moment(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A))
    assert with_a(4, UpstreamDown()) == []
    assert with_a.changes == [(A, State.ABSENT, Cause.UPSTREAM)]
    assert with_a.wake == [14.0]
    assert with_a(5, Finished(2), UpstreamDown()) == []
    assert with_a(6, Arrived(4, B)) == []
    assert with_a(7, UpstreamUp()) == [StartLoad(A, 2, 3)]


def test_ollama_is_down_for_long() -> None:
    talk = Talk(upstream_grace_s=3)
    talk(0, UpstreamDown())
    talk(1, Arrived(1, A))
    assert talk.wake == [4.0]
    assert talk(4, Tick()) == [Reject(1, Rejection.UPSTREAM_DOWN, RETRY_AFTER_S)]
    assert talk(5, UpstreamUp(), Arrived(2, A)) == [StartLoad(A, 1, 2)]


def test_a_load_that_ollama_took_with_it_is_no_failure(talk: Talk) -> None:
    talk(0, Arrived(1, A), LoadRequested(2, A), UnloadRequested(3, "a"))
    assert talk(1, UpstreamDown()) == []
    assert talk(2, LoadFailed(A, 1), Loaded(A, 1)) == []
    assert talk(3, UpstreamUp()) == [StartLoad(A, 2, 1)]
    assert talk(4, Loaded(A, 1)) == []
    assert talk(5, Loaded(A, 2)) == [Answer(2), Grant(1)]


def test_a_snapshot_from_before_ollama_went_down_is_ignored(talk: Talk) -> None:
    talk(2, UpstreamDown())
    talk(3, Observed(2.5, (Sighting(B),)), UpstreamUp())
    talk(4, Observed(1, (Sighting(A),)))
    assert talk.states == {}


def test_what_was_in_flight_before_keeps_its_key_until_it_is_over(talk: Talk) -> None:
    talk(0, Arrived(1, A, WIDE))
    talk(1, Loaded(A, 1))
    talk(2, Arrived(9, B), UpstreamDown())
    talk(3, Cancelled(9), UpstreamUp(), Arrived(2, A, WIDE))
    assert talk(4, Loaded(A, 2)) == [Grant(2)]
    assert talk(5, Finished(2), Arrived(3, B)) == []
    assert talk(6, Finished(1)) == [StartUnload(A, 3)]


# Limits change


def test_limits_shrink(with_a_and_b: Talk) -> None:
    assert with_a_and_b(5, ConfigChanged(Limits(max_resident=1))) == [StartUnload(A, 3)]
    assert with_a_and_b.changes[0] == (A, State.DRAINING, Cause.MANUAL)
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


# The end


def test_shutdown(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A), Arrived(4, A), Arrived(5, B))
    assert with_a(4, Shutdown(10)) == [Reject(5, Rejection.SHUTTING_DOWN, RETRY_AFTER_S)]
    assert with_a.wake == [10.0]
    assert with_a(5, Finished(2)) == [Grant(3)]
    assert with_a(6, Arrived(6, A), Arrived(7, C), LoadRequested(8, A)) == [
        Reject(8, Rejection.SHUTTING_DOWN),
        Reject(7, Rejection.SHUTTING_DOWN, RETRY_AFTER_S),
    ]
    assert with_a(10, Tick()) == [Reject(id_, Rejection.SHUTTING_DOWN, RETRY_AFTER_S) for id_ in (4, 6)]
    assert with_a(11, Finished(3)) == []


def test_shutdown_during_a_load(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    assert talk(1, Shutdown(10)) == [Reject(1, Rejection.SHUTTING_DOWN, RETRY_AFTER_S)]
    assert talk(2, Loaded(A, 1), Arrived(2, A)) == [Grant(2)]


# Wake-ups


def test_a_wake_up_is_asked_for_once(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    assert with_a.wake == [33.0]
    with_a(4, Observed(0, ()))
    assert with_a.wake == []


def test_a_clock_that_rings_early_is_asked_again(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    with_a(32.9, Tick())
    assert with_a.wake == [33.0]


def test_a_wake_up_is_taken_back(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    with_a(4, Cancelled(2))
    assert with_a.wake == [None]
