"""How long an idle resident lives."""

import math

from swapper_proxy.core.commands import Answer, Grant, StartUnload
from swapper_proxy.core.events import Arrived, Finished, Loaded, LoadRequested, Observed, Tick, UnloadFailed
from swapper_proxy.core.types import Cause, State
from tests.core.talk import A, Talk


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


def test_nothing_to_live_is_no_unload_while_others_wait_for_that_key(talk: Talk) -> None:
    talk(0, Arrived(1, A), Arrived(2, A), Arrived(3, A, ttl_s=0))
    talk(1, Loaded(A, 1))
    assert talk(2, Finished(1), Arrived(4, A)) == [Grant(2)]
    assert talk(3, Finished(2)) == [Grant(3)]
    assert talk(4, Finished(3)) == [Grant(4)]
    assert talk(5, Finished(4)) == [StartUnload(A, 2)]


def test_a_time_to_live_ends_only_when_idle(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=5), Arrived(2, A))
    talk(1, Loaded(A, 1))
    talk(3, Finished(1))
    assert talk(50, Tick()) == []
    assert talk(51, Finished(2)) == []
    assert talk(56, Tick()) == [StartUnload(A, 2)]


def test_a_new_load_has_no_time_to_live(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=5))
    talk(1, Loaded(A, 1))
    talk(2, Finished(1), Observed(2, ()))
    talk(3, LoadRequested(2, A))
    talk(4, Loaded(A, 2))
    assert talk(50, Tick()) == []


def test_a_manual_load_has_the_time_to_live_that_it_says(talk: Talk) -> None:
    talk(0, LoadRequested(1, A, ttl_s=3))
    assert talk(1, Loaded(A, 1)) == [Answer(1)]
    assert talk(4, Tick()) == [StartUnload(A, 2)]


def test_a_manual_load_of_what_is_there_wakes_when_its_time_to_live_is_over(with_a: Talk) -> None:
    assert with_a(3, LoadRequested(2, A, ttl_s=3)) == [Answer(2)]
    assert with_a.wake == [6]
