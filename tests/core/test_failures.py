"""Loads and unloads that fail, and results that come too late."""

from swapper_proxy.core.commands import Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Failure, Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    Finished,
    Loaded,
    LoadFailed,
    LoadRequested,
    Observed,
    Tick,
    Unloaded,
    UnloadFailed,
)
from swapper_proxy.core.types import Cause, Rules, Sighting, State
from tests.core.talk import A_LONG, A, B, C, Talk


def test_load_failed(talk: Talk) -> None:
    failure = Failure(500, b"no memory", "text/plain")
    talk(0, Arrived(1, A), LoadRequested(2, A), Arrived(3, B))
    assert talk(1, LoadFailed(A, 1, failure)) == [
        Reject(2, Rejection.LOAD_FAILED, 1.0, failure),
        Reject(1, Rejection.LOAD_FAILED, 1.0, failure),
        StartLoad(B, 2, 3),
    ]
    assert talk.changes[0] == (A, State.ABSENT, Cause.FAILED)
    assert talk(1.5, Arrived(4, A)) == [Reject(4, Rejection.BACKING_OFF, 0.5)]


def test_what_is_made_anew_is_no_failure(talk: Talk) -> None:
    talk(0, Arrived(1, A), LoadRequested(2, A))
    assert talk(1, LoadFailed(A, 1, made_anew=True)) == [
        Reject(2, Rejection.MADE_ANEW),
        Reject(1, Rejection.MADE_ANEW),
    ]
    assert talk(1, Arrived(3, A)) == [StartLoad(A, 2, 3)]


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


MINE = "mine"  # a model over the weights of the others, with parameters of which Ollama makes nothing
BAD = Failure(500, b"bad parameter", "text/plain")


def test_a_variant_that_cannot_be_loaded_does_not_lock_out_the_others(talk: Talk) -> None:
    assert talk(0, Arrived(1, A, variant=MINE), Arrived(2, A), Arrived(3, A, variant=MINE)) == [StartLoad(A, 1, 1)]
    assert talk(1, LoadFailed(A, 1, BAD)) == [
        Reject(1, Rejection.LOAD_FAILED, 1.0, BAD),
        Reject(3, Rejection.LOAD_FAILED, 1.0, BAD),
        StartLoad(A, 2, 2),
    ]
    assert talk(1.5, Arrived(4, A, variant=MINE)) == []  # it is on its way in all the same
    assert talk(2, Loaded(A, 2)) == [Grant(2)]
    assert talk(3, Finished(2)) == [Grant(4)]


def test_a_variant_in_back_off_is_turned_away_and_the_others_are_loaded(talk: Talk) -> None:
    talk(0, Arrived(1, A, variant=MINE))
    talk(1, LoadFailed(A, 1, BAD))
    assert talk(1.25, Arrived(2, A, variant=MINE)) == [Reject(2, Rejection.BACKING_OFF, 0.75)]
    assert talk(1.5, Arrived(3, A)) == [StartLoad(A, 2, 3)]


def test_a_load_for_one_variant_that_ended_without_an_answer_is_tried_for_no_other(talk: Talk) -> None:
    talk(0, Arrived(1, A, variant=MINE), Arrived(2, A))
    assert talk(300, LoadFailed(A, 1)) == [
        Reject(1, Rejection.LOAD_FAILED, 1.0),
        Reject(2, Rejection.LOAD_FAILED, 1.0),
    ]
    assert talk(300.5, Arrived(3, A, variant="another")) == [Reject(3, Rejection.BACKING_OFF, 0.5)]


def test_a_variant_that_is_made_anew_is_asked_for_again_and_the_others_wait_on(talk: Talk) -> None:
    talk(0, Arrived(1, A, variant=MINE), Arrived(2, A))
    assert talk(1, LoadFailed(A, 1, made_anew=True)) == [Reject(1, Rejection.MADE_ANEW), StartLoad(A, 2, 2)]
    assert talk(1.1, Arrived(3, A, variant=MINE), Cancelled(2), LoadFailed(A, 2, BAD)) == [StartLoad(A, 3, 3)]


def test_who_waits_beside_a_failed_load_keeps_its_turn() -> None:
    talk = Talk(rules=Rules(theta=0))
    talk(0, Arrived(1, B))
    talk(1, Loaded(B, 1))
    talk(2, Arrived(2, A, variant=MINE), Arrived(3, A), Arrived(4, C))
    talk(3, Finished(1))
    assert talk(4, Unloaded(B, 2)) == [StartLoad(A, 3, 2)]
    assert talk(5, LoadFailed(A, 3, BAD)) == [Reject(2, Rejection.LOAD_FAILED, 1.0, BAD), StartLoad(A, 4, 3)]


def test_who_waits_in_back_off_is_not_loaded_for(talk: Talk) -> None:
    talk(0, Arrived(1, A, variant=MINE))
    talk(1, LoadFailed(A, 1, BAD))
    assert talk(1.25, Arrived(2, A)) == [StartLoad(A, 2, 2)]
    talk(1.3, Arrived(3, A, variant=MINE), Arrived(4, A, variant="another"))
    assert talk(1.5, LoadFailed(A, 2, BAD)) == [Reject(2, Rejection.LOAD_FAILED, 1.0, BAD), StartLoad(A, 3, 4)]
    assert talk(1.6, LoadFailed(A, 3, BAD)) == [Reject(4, Rejection.LOAD_FAILED, 1.0, BAD)]
    assert talk.wake == [2.0]
    assert talk(2, Tick()) == [StartLoad(A, 4, 3)]


def test_the_operator_may_try_again_at_once(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    assert talk(1.1, LoadRequested(2, A)) == [StartLoad(A, 2, 2)]


def test_those_who_came_while_it_was_there_otherwise_wait_for_the_end_of_back_off() -> None:
    talk = Talk(rules=Rules(theta=0))
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    talk(1.01, Observed(1.005, (Sighting(A),)))
    assert talk(1.5, LoadRequested(2, B)) == [StartUnload(A, 2)]
    assert talk(1.6, Arrived(3, A), Cancelled(2), Unloaded(A, 2)) == []
    assert talk.wake == [2.0]
    assert talk(2, Tick()) == [StartLoad(A, 3, 3)]


def test_a_failure_long_ago_is_forgotten(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    assert talk(62, Arrived(2, A)) == [StartLoad(A, 2, 2)]
    assert talk(63, LoadFailed(A, 2)) == [Reject(2, Rejection.LOAD_FAILED, 1.0)]


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


def test_arrivals_during_back_off_are_turned_away_and_other_keys_go_on(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    assert talk(1.25, Arrived(2, A), Arrived(3, B)) == [Reject(2, Rejection.BACKING_OFF, 0.75), StartLoad(B, 2, 3)]


def test_a_failed_load_is_over_even_if_nobody_waits_any_more(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    assert talk(1, Cancelled(1), LoadFailed(A, 1)) == []
    assert talk.states == {}


def test_a_failed_load_of_one_key_leaves_the_other_key_of_the_runner_alone(talk: Talk) -> None:
    talk(0, Arrived(1, A), Arrived(2, A_LONG))
    assert talk(1, LoadFailed(A, 1)) == [Reject(1, Rejection.LOAD_FAILED, 1.0), StartLoad(A_LONG, 2, 2)]


def test_who_waits_for_a_key_that_does_not_go_waits_on(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    with_a(4, UnloadFailed(A, 2))
    assert with_a.scheduler.waiting == 1
    assert with_a(4.5, Arrived(3, A)) == [Grant(3)]
