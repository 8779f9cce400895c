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
from swapper_proxy.core.types import Cause, Profile, Sighting, State
from tests.core.talk import HIGH, LOW, A, B, C, Talk


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


def test_the_queue_of_one_model_is_full(with_a: Talk) -> None:
    narrow = Profile(max_queue=1)
    with_a(3, Arrived(2, A, narrow))
    assert with_a(4, Arrived(3, A, narrow), Arrived(4, A, narrow), Arrived(5, B)) == [Reject(4, Rejection.QUEUE_FULL)]
    assert with_a.scheduler.waiting == 2


def test_who_is_turned_away_hears_when_to_come_back() -> None:
    talk = Talk(max_queue=1)
    talk(0, Arrived(1, A), Arrived(2, A))
    (reject,) = [command for command in talk.everything if isinstance(command, Reject)]
    assert reject.retry_after_s is not None


def test_queue_timeout_is_for_all_queues_and_each_waiter_by_itself() -> None:
    talk = Talk(queue_timeout_s=10)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1), Arrived(2, A), Arrived(3, B))
    talk(2, Arrived(4, B), LoadRequested(5, C))
    assert talk(11, Tick()) == [Reject(2, Rejection.QUEUE_TIMEOUT), Reject(3, Rejection.QUEUE_TIMEOUT)]
    assert talk(12, Tick()) == [Reject(4, Rejection.QUEUE_TIMEOUT), Reject(5, Rejection.QUEUE_TIMEOUT)]
    assert talk.scheduler.waiting == 0


def test_patience_turns_nobody_away(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B))
    assert with_a(9999, Tick()) == []
    assert with_a.scheduler.waiting == 1


def test_swap_timeout_keeps_what_was_loaded_in_vain(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    assert talk(30, Tick()) == [Reject(1, Rejection.SWAP_TIMEOUT)]
    assert talk(31, Loaded(A, 1)) == []
    assert talk(32, Arrived(2, A)) == [Grant(2)]


def test_drain_timeout_is_off_by_default(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B))
    with_a(64, Tick())
    assert with_a.states == {A: State.DRAINING}
    assert with_a.wake == []


def test_drain_timeout_turns_away_who_forced_and_cuts_nothing() -> None:
    talk = Talk(drain_timeout_s=20)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1), Tick())
    talk(4, Arrived(3, B))
    talk(64, Tick(), Arrived(4, A))
    assert talk.states == {A: State.DRAINING}
    assert talk.wake == [84.0]
    talk(80, Arrived(5, B))
    assert talk(84, Tick()) == [Reject(3, Rejection.DRAIN_TIMEOUT), Reject(5, Rejection.DRAIN_TIMEOUT)]
    assert talk.changes == [(A, State.RESIDENT, Cause.DEADLINE)]
    assert talk(85, Finished(1)) == [Grant(4)]


def test_drain_timeout_counts_from_the_draining_of_each() -> None:
    talk = Talk(drain_timeout_s=20)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    talk(4, Arrived(3, B), Arrived(4, C))
    talk(64, Tick())
    talk(70, Cancelled(3), Tick())
    assert talk.wake == [90.0]
    assert talk(84, Tick()) == []
    assert talk(90, Tick()) == [Reject(4, Rejection.DRAIN_TIMEOUT)]


def test_the_grace_of_a_shutdown_ends_for_all_who_wait(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A, priority=LOW), Arrived(4, A, priority=HIGH))
    assert with_a(4, Shutdown(10), LoadRequested(5, B)) == [Reject(5, Rejection.SHUTTING_DOWN)]
    assert with_a(10, Tick()) == [Reject(2, Rejection.SHUTTING_DOWN), Reject(3, Rejection.SHUTTING_DOWN)]


def test_a_time_to_live_ends_during_a_shutdown(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=5))
    talk(1, Loaded(A, 1))
    talk(2, Finished(1), Shutdown(10))
    assert talk(7, Tick()) == [StartUnload(A, 2)]
