"""Who is turned away because it takes too long, or because the proxy stops."""

from swapper_proxy.core.commands import Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    Finished,
    Loaded,
    LoadRequested,
    Observed,
    Shutdown,
    Tick,
    Unloaded,
    UnloadFailed,
)
from swapper_proxy.core.types import Profile, Sighting
from tests.core.talk import A, B, C, Talk


def test_the_queue_is_full() -> None:
    talk = Talk(max_queue=2)
    assert talk(0, Arrived(1, A), Arrived(2, B), Arrived(3, C)) == [
        Reject(3, Rejection.QUEUE_FULL),
        StartLoad(A, 1, 1),
    ]
    assert talk(1, Cancelled(2), Arrived(4, C)) == []


def test_queue_timeout() -> None:
    talk = Talk(queue_timeout_s=10)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1), Tick())
    assert talk(2, Arrived(2, B)) == []
    assert talk.wake == [12.0]
    assert talk(12, Tick()) == [Reject(2, Rejection.QUEUE_TIMEOUT)]
    assert talk.wake == []
    assert talk(13, Finished(1)) == []


def test_swap_timeout_counts_unload_and_load_and_the_load_goes_on(with_a: Talk) -> None:
    brief = Profile(swap_timeout_s=5)
    with_a(3, Arrived(2, B, brief))
    assert with_a.wake == [8.0]
    with_a(6, Unloaded(A, 2))
    with_a(7, Arrived(3, B, brief))
    assert with_a(8, Tick()) == [Reject(2, Rejection.SWAP_TIMEOUT)]
    assert with_a.wake == [12.0]
    assert with_a(9, Loaded(B, 3)) == [Grant(3)]


def test_waiting_for_a_turn_is_no_swap(with_a: Talk) -> None:
    brief = Profile(swap_timeout_s=5)
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B, brief))
    assert with_a(50, Finished(2)) == [StartUnload(A, 2)]
    assert with_a(54.9, Tick()) == []
    assert with_a.wake == [55.0]
    assert with_a(55, Tick()) == [Reject(3, Rejection.SWAP_TIMEOUT)]


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


def test_shutdown(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A), Arrived(4, A), Arrived(5, B))
    assert with_a(4, Shutdown(10)) == [Reject(5, Rejection.SHUTTING_DOWN)]
    assert with_a.wake == [10.0]
    assert with_a(5, Finished(2)) == [Grant(3)]
    assert with_a(6, Arrived(6, A), Arrived(7, C), LoadRequested(8, A)) == [
        Reject(8, Rejection.SHUTTING_DOWN),
        Reject(7, Rejection.SHUTTING_DOWN),
    ]
    assert with_a(10, Tick()) == [Reject(id_, Rejection.SHUTTING_DOWN) for id_ in (4, 6)]
    assert with_a(11, Finished(3)) == []


def test_shutdown_during_a_load(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    assert talk(1, Shutdown(10)) == [Reject(1, Rejection.SHUTTING_DOWN)]
    assert talk(2, Loaded(A, 1), Arrived(2, A)) == [Grant(2)]
