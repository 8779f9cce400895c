"""When the scheduler asks for a look at the clock.  Each time is asked for by what it is good for."""

from swapper_proxy.core.events import Arrived, Cancelled, Finished, Loaded, Observed, Tick, UnloadRequested
from swapper_proxy.core.types import Profile
from tests.core.talk import A, B, C, Talk

BRIEF = Profile(swap_timeout_s=5)


def test_nothing_is_due(with_a: Talk) -> None:
    assert with_a.wake == []
    with_a(3, Arrived(2, A))
    assert with_a.wake == []


def test_a_deadline_is_asked_for(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B))
    assert with_a.wake == [64.0]


def test_only_an_earlier_time_is_asked_for(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B))
    with_a(5, Arrived(4, C))
    assert with_a.wake == []
    with_a(6, Finished(2))
    assert with_a.wake == [36.0]  # a swap may take half a minute


def test_the_later_time_is_asked_for_when_the_earlier_one_has_come(with_a: Talk) -> None:
    with_a(3, Arrived(2, A))
    with_a(4, Arrived(3, B))
    with_a(10, Arrived(4, C))
    with_a(64, Cancelled(3), Tick())
    assert with_a.wake == [70.0]


def test_a_time_is_asked_for_once(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    assert with_a.wake == [33.0]
    with_a(4, Observed(0, ()))
    assert with_a.wake == []


def test_a_clock_that_rings_early_is_asked_again(with_a: Talk) -> None:
    with_a(3, Arrived(2, B, BRIEF))
    assert with_a.wake == [8.0]
    with_a(7.9, Tick())
    assert with_a.wake == [8.0]


def test_a_wake_up_that_is_not_needed_any_more_comes_and_does_nothing(with_a: Talk) -> None:
    with_a(3, Arrived(2, B))
    with_a(4, Cancelled(2))
    assert with_a.wake == []
    assert with_a(33, Tick()) == []
    assert with_a.wake == []


def test_the_end_of_a_gate_is_asked_for(talk: Talk) -> None:
    talk(0, Arrived(1, A), Arrived(2, A))
    talk(100, Loaded(A, 1), Arrived(3, B))
    talk(164, Tick())  # A took 100 s to load, its gate is open for 4 * 101 s; B's patience is over
    assert talk.wake == [324.0]  # arrived at 100, and A and B contend: 2 * (101 + 11)
    talk(324, Tick())
    assert talk.wake == [504.0]


def test_nothing_is_due_after_the_unload_of_a_key_nobody_waits_for(with_a: Talk) -> None:
    with_a(3, UnloadRequested(2, "a"))
    assert with_a.wake == []
