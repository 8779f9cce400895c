"""What Ollama lists, and Ollama coming and going."""

import pytest

from swapper_proxy.core.commands import Answer, Grant, Reject, Reloaded, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Finished,
    Loaded,
    LoadFailed,
    LoadRequested,
    Observed,
    Tick,
    Unloaded,
    UnloadRequested,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.types import Cause, Limits, Sighting, State
from tests.core.talk import A_LONG, WIDE, A, B, Talk


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
    assert talk(4, Finished(1)) == []
    assert talk(5.3, Tick()) == [StartUnload(A, 1)]


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
    assert talk(4, Tick()) == [Reject(1, Rejection.UPSTREAM_DOWN)]
    assert talk(5, UpstreamUp(), Arrived(2, A)) == [StartLoad(A, 1, 2)]


def test_a_load_that_ollama_took_with_it_is_no_failure(talk: Talk) -> None:
    talk(0, Arrived(1, A), LoadRequested(2, A), UnloadRequested(3, "a"))
    assert talk(1, UpstreamDown()) == []
    assert talk(2, LoadFailed(A, 1), Loaded(A, 1)) == []
    assert talk(3, UpstreamUp()) == [StartLoad(A, 2, 2)]
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
    assert talk(6, Finished(1)) == []
    assert talk(7, Tick()) == [StartUnload(A, 3)]


def test_an_unload_is_not_ended_by_what_ollama_lists(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    assert with_a(5, Observed(4, ())) == []
    assert with_a.states == {A: State.UNLOADING}


def test_who_waits_for_a_stranger_is_granted_at_once(talk: Talk) -> None:
    talk(0, LoadRequested(1, B))
    talk(0.5, Arrived(2, A))
    assert talk(1, ConfigChanged(Limits(2)), Loaded(B, 1)) == [Answer(1), StartLoad(A, 2, 2)]
    assert talk(2, LoadFailed(A, 2), Observed(2, ())) == [Reject(2, Rejection.LOAD_FAILED, 1.0)]


def test_those_who_wait_while_ollama_is_down_are_turned_away_one_by_one(talk: Talk) -> None:
    talk(0, UpstreamDown(), Arrived(1, A))
    talk(5, Arrived(2, A), LoadRequested(3, B))
    assert talk(10, Tick()) == [Reject(1, Rejection.UPSTREAM_DOWN)]
    assert talk(15, Tick()) == [Reject(2, Rejection.UPSTREAM_DOWN), Reject(3, Rejection.UPSTREAM_DOWN)]


def test_a_manual_unload_while_ollama_is_down_is_done(with_a: Talk) -> None:
    with_a(3, UpstreamDown())
    assert with_a(4, UnloadRequested(2, "a")) == [Answer(2)]


def test_there_is_no_back_off_from_ollama_being_down(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, UpstreamDown(), LoadFailed(A, 1))
    assert talk(2, UpstreamUp(), Arrived(2, A)) == [StartLoad(A, 2, 1)]


def test_an_ollama_that_comes_back_may_load_what_failed_before(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    assert talk(1.25, UpstreamDown(), Arrived(2, A)) == []
    assert talk(1.5, UpstreamUp()) == [StartLoad(A, 2, 2)]
    assert talk(2, LoadFailed(A, 2)) == [Reject(2, Rejection.LOAD_FAILED, 1.0)]


def test_who_waits_for_a_load_that_ollama_does_not_survive_is_told_in_time(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    for time in range(1, 30):
        talk(time, UpstreamDown())
        assert talk(time + 0.5, UpstreamUp()) == [StartLoad(A, time + 1, 1)]
    assert talk(30, Tick()) == [Reject(1, Rejection.SWAP_TIMEOUT)]


# Reloads behind the scheduler's back


def test_a_long_load_in_an_answer_is_a_reload_and_is_measured(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A_LONG))
    with_a(5, Finished(2, load_s=0.5))
    assert with_a.everything[0] == Reloaded(A, 0.5, guessed=False)
    (record, _) = with_a.scheduler.residencies()
    assert record.speed.load_s == pytest.approx(0.85)


def test_a_quick_reload_of_what_was_never_measured_counts(talk: Talk) -> None:
    talk(1, Observed(1, (Sighting(A),)))
    talk(2, Arrived(1, A))
    talk(3, Finished(1, load_s=0.25))
    assert talk.everything[0] == Reloaded(A, 0.25, guessed=True)


def test_a_reload_that_several_answers_tell_of_is_one(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, WIDE), Arrived(3, A, WIDE))
    with_a(3.5, Arrived(4, A, WIDE))
    told = []
    for id_ in (2, 3, 4):
        with_a(5 + id_, Finished(id_, load_s=1.5))
        told += [command for command in with_a.everything if isinstance(command, Reloaded)]
    assert told == [Reloaded(A, 1.5, guessed=False)]
    with_a(10, Arrived(5, A, WIDE))
    with_a(12, Finished(5, load_s=1.5))
    assert with_a.everything[0] == Reloaded(A, 1.5, guessed=False)


def test_a_reload_of_a_stranger_says_that_its_options_were_guessed(talk: Talk) -> None:
    talk(1, Observed(1, (Sighting(A),)))
    talk(2, Arrived(1, A))
    talk(10, Finished(1, load_s=6))
    assert talk.everything[0] == Reloaded(A, 6, guessed=True)


def test_a_moment_to_look_things_up_is_no_reload(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(5, Finished(2, load_s=0.09))
    assert with_a.everything == []


def test_no_load_took_longer_than_its_request(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(5, Finished(2, load_s=1000))
    assert with_a.everything[0] == Reloaded(A, 2, guessed=False)
