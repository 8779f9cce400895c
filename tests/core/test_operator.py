"""Manual loads and unloads, and pins."""

from swapper_proxy.core.commands import Answer, Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    Finished,
    Loaded,
    LoadFailed,
    LoadRequested,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
)
from swapper_proxy.core.types import Cause, State
from tests.core.talk import A, B, C, Talk


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
