"""A scheduler that takes the place of one that failed: what the other one granted is still in flight."""

from swapper_proxy.core.commands import Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    Finished,
    Loaded,
    Observed,
    Tick,
    Unloaded,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import Cause, Sighting, State
from tests.core.talk import A_LONG, WIDE, A, B, Talk


def successor(talk: Talk, *over: int, **limits: object) -> Talk:
    """What goes on in the place of this one from 10 on, before anybody has looked at what is in memory."""
    after = Talk(**limits)
    after.scheduler = Scheduler(after.scheduler.host.limits, talk.scheduler.generation, blind_since=10.0)
    assert after(10, *talk.scheduler.host.handed_over(over)) == []
    return after


def answering() -> Talk:
    """A answers 1 and 2, while 3 waits for B."""
    talk = Talk()
    talk(0, Arrived(1, A, WIDE), Arrived(2, A, WIDE))
    assert talk(1, Loaded(A, 1)) == [Grant(1), Grant(2)]
    talk(2, Arrived(3, B))
    return talk


def test_what_is_in_flight_keeps_its_model() -> None:
    after = successor(answering())
    assert after.changes == [(A, State.RESIDENT, Cause.OBSERVED)]
    assert after(11, Observed(10.5, (Sighting(A),)), Arrived(4, B)) == []
    assert after(1000, Finished(1)) == []
    assert after(1001, Finished(2)) == [StartUnload(A, 2)]
    assert after(1002, Unloaded(A, 2)) == [StartLoad(B, 3, 4)]


def test_what_is_over_is_not_handed_over() -> None:
    after = successor(answering(), 1)
    assert after(11, Observed(10.5, (Sighting(A),)), Arrived(4, B)) == []
    after(12, Cancelled(2))
    assert after(1000, Tick()) == [StartUnload(A, 2)]
    assert answering().scheduler.host.handed_over((1, 2)) == []


def test_nothing_is_loaded_before_the_first_look() -> None:
    after = successor(
        answering(),
    )
    assert after(11, Arrived(4, A, WIDE), Arrived(5, B)) == [Grant(4)]
    assert after(12, Finished(1), Finished(2), Finished(4)) == []
    assert after(13, Observed(12.5, ())) == [StartLoad(B, 2, 5)]


def test_an_older_look_does_not_count() -> None:
    after = successor(answering())
    assert after(11, Arrived(5, B)) == []
    assert after(12, Finished(1), Finished(2), Observed(9, ())) == []
    assert after(13, Observed(12.5, ())) == [StartLoad(B, 2, 5)]


def test_without_a_look_nobody_waits_for_ever() -> None:
    after = successor(answering(), upstream_grace_s=5.0)
    assert after(11, Arrived(5, B)) == []
    assert after.wake == [16]
    assert after(16, Tick()) == [Reject(5, Rejection.SCHEDULER_FAULT)]


def test_an_ollama_that_is_away_has_nothing_in_memory() -> None:
    after = successor(answering())
    after(11, UpstreamDown())
    assert after.changes == [(A, State.ABSENT, Cause.UPSTREAM)]
    assert after(12, Arrived(4, A, WIDE)) == []
    assert after(13, UpstreamUp(), Finished(1), Finished(2)) == []
    assert after(14, Observed(13.5, ())) == [StartLoad(A, 2, 4)]


def test_what_was_sent_to_an_ollama_that_went_is_in_flight_without_a_place_in_memory() -> None:
    talk = Talk()
    talk(0, Arrived(1, A, WIDE))
    talk(1, Loaded(A, 1))
    talk(3, UpstreamDown())
    assert talk(4, UpstreamUp(), Arrived(2, A_LONG, WIDE)) == [StartLoad(A_LONG, 2, 2)]
    assert talk(5, Loaded(A_LONG, 2)) == [Grant(2)]
    after = successor(talk)
    assert after.states == {A_LONG: State.RESIDENT}
    assert after(12, Finished(1), Finished(2)) == []
    assert after(13, Observed(12.5, (Sighting(A_LONG),)), Arrived(3, A_LONG, WIDE)) == [Grant(3)]


def test_options_that_were_guessed_stay_so() -> None:
    talk = Talk()
    talk(1, Observed(1, (Sighting(A),)))
    talk(2, Arrived(1, A))
    (record,) = successor(talk).scheduler.residencies()
    assert record.guessed


def test_a_result_of_the_old_one_does_not_count() -> None:
    talk = Talk()
    talk(0, Arrived(1, A))
    after = successor(talk)
    after(11, Observed(10.5, ()))
    assert after(12, Arrived(2, A)) == [StartLoad(A, 2, 2)]
    assert after(13, Loaded(A, 1)) == []
    assert after(14, Loaded(A, 2)) == [Grant(2)]


def test_a_record_tells_what_it_is_about() -> None:
    (record, _) = answering().scheduler.residencies()
    assert repr(record) == "<a resident, 0 wait, 2 in flight>"
