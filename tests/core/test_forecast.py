"""What is said to those who wait: until when at most, when probably, and why."""

from math import inf

import pytest

from swapper_proxy.core import forecast
from swapper_proxy.core.commands import Reject
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Finished,
    Loaded,
    LoadFailed,
    LoadRequested,
    Observed,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
    UpstreamDown,
)
from swapper_proxy.core.forecast import Outlook, Why
from swapper_proxy.core.types import Key, Priority, Profile, Sighting, State
from tests.core.talk import A_LONG, WIDE, A, B, C, D, Talk


def outlook(talk: Talk, id_: int, now: float) -> Outlook:
    return next(o for o in forecast.outlooks(talk.scheduler.host, now) if o.waiter.id == id_)


def why(talk: Talk, id_: int, now: float) -> tuple[Why, Key | None]:
    found = outlook(talk, id_, now)
    return found.why, found.blocker


@pytest.fixture
def busy() -> Talk:
    """A is resident since 10 (a load takes 10 s, an answer 4 s), answers request 2 since 14, and 3 waits for it."""
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(10, Loaded(A, 1))
    talk(14, Finished(1), Arrived(2, A), Arrived(3, A))
    return talk


def test_nobody_waits(busy: Talk) -> None:
    assert list(forecast.outlooks(Talk().scheduler.host, 0)) == []


def test_a_busy_model(busy: Talk) -> None:
    found = outlook(busy, 3, 15)
    assert (found.why, found.blocker, found.start) == (Why.BUSY, A, 19.0)


def test_the_queue_of_a_key_is_in_order_of_due(busy: Talk) -> None:
    busy(15, Arrived(4, A), Arrived(5, A, priority=Priority.HIGH))
    order = [o.waiter.id for o in forecast.outlooks(busy.scheduler.host, 15)]
    assert order == [5, 3, 4]
    assert [outlook(busy, id_, 15).start for id_ in order] == [19.0, 23.0, 27.0]


def test_a_turn_comes_when_the_resident_has_finished_or_is_forced_out(busy: Talk) -> None:
    busy(15, Arrived(4, B))
    found = outlook(busy, 4, 15)
    assert (found.why, found.blocker) == (Why.TURN, A)
    assert found.deadline == 15 + 60
    assert found.start == 14 + 2 * 4 + 11  # two answers from 14 on, then a swap


def test_the_next_key_stands_behind_the_first(busy: Talk) -> None:
    busy(15, Arrived(4, B), Arrived(5, C))
    assert outlook(busy, 5, 15).start == outlook(busy, 4, 15).start + 5 + 11


def test_a_key_that_is_being_loaded() -> None:
    talk = Talk()
    talk(0, Arrived(1, A), Arrived(2, B))
    assert why(talk, 1, 1) == (Why.LOADING, A)
    assert outlook(talk, 1, 1).start == 10.0
    assert why(talk, 2, 1) == (Why.SWAPPING, A)


def test_a_load_that_takes_longer_than_expected_is_over_at_any_moment() -> None:
    talk = Talk()
    talk(0, Arrived(1, A))
    assert outlook(talk, 1, 25).start == 25


def test_a_key_that_is_on_its_way_out(busy: Talk) -> None:
    busy(15, UnloadRequested(9, "a"))
    assert why(busy, 3, 15) == (Why.UNLOADING, A)
    busy(16, Finished(2))
    assert why(busy, 3, 16) == (Why.UNLOADING, A)


def test_the_end_of_an_unload_comes_before_the_load(busy: Talk) -> None:
    busy(15, UnloadRequested(9, "a"), Arrived(4, B))
    busy(16, Finished(2))
    assert outlook(busy, 4, 16).start > 17


def test_the_gate(busy: Talk) -> None:
    talk = Talk()
    talk(0, *(Arrived(n, A) for n in range(1, 5)))
    talk(10, Loaded(A, 1), Arrived(9, B))
    assert why(talk, 9, 11) == (Why.GATE, A)


def test_draining(busy: Talk) -> None:
    busy(15, Arrived(4, B, priority=Priority.HIGH))
    assert why(busy, 4, 90) == (Why.TURN, A)
    busy(90, Finished(2), Arrived(5, A))
    assert why(busy, 4, 90)[0] in (Why.DRAINING, Why.SWAPPING)


def test_a_hold() -> None:
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(10, Loaded(A, 1))
    talk(11, Finished(1), Arrived(2, B))
    assert why(talk, 2, 11.1) == (Why.HOLD, A)


def test_a_pinned_model_is_not_in_the_way_as_it_never_goes() -> None:
    talk = Talk(max_resident=2)
    pinned = Profile(pinned=True)
    talk(0, Arrived(1, A))
    talk(10, Loaded(A, 1))
    talk(11, Arrived(2, C, pinned))
    talk(21, Loaded(C, 2), Arrived(3, C, pinned))
    talk(22, Arrived(4, B))
    assert why(talk, 4, 90) == (Why.TURN, A)  # C has work, too, and was used last


def test_a_model_whose_room_is_of_no_use_is_not_in_the_way() -> None:
    """It drains, and the other one is what has to go."""
    talk = Talk(slots={"embed": 1})
    embedder = Profile(slot="embed")
    talk(0, Arrived(1, A))
    talk(10, Loaded(A, 1), Arrived(2, C, embedder))
    talk(20, Loaded(C, 2))
    talk(21, UnloadRequested(9, "c"), Arrived(3, B))
    assert talk.states == {A: State.RESIDENT, C: State.DRAINING}
    assert why(talk, 3, 90) == (Why.TURN, A)


def roomy() -> Talk:
    """10 GB.  D (1 GB) is busy, A (6 GB) has a gate until 80, and C (8 GB) may force its way from 77 on."""
    talk = Talk(max_resident=4, memory_gb=10)
    talk(0, Arrived(1, D, Profile(size_gb=1)))
    talk(10, Loaded(D, 1), *(Arrived(n, A, Profile(size_gb=6)) for n in range(2, 6)))
    talk(11, Arrived(6, C, Profile(size_gb=8), priority=Priority.HIGH))
    talk(20, Loaded(A, 2))
    return talk


def test_room_that_is_kept_for_another_model() -> None:
    talk = roomy()
    talk(78, Arrived(7, B, Profile(size_gb=3)))
    assert talk.states == {D: State.RESIDENT, A: State.RESIDENT}
    assert why(talk, 6, 78) == (Why.GATE, A)
    assert why(talk, 7, 78) == (Why.TURN, None)


def test_room_that_another_model_is_made_more_of() -> None:
    talk = roomy()
    talk(81, Arrived(7, B, Profile(size_gb=3)))
    assert talk.states == {D: State.RESIDENT, A: State.DRAINING}
    assert why(talk, 7, 81) == (Why.DRAINING, A)


def test_the_same_weights_with_other_options_are_in_the_way() -> None:
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A))
    talk(10, Loaded(A, 1), Arrived(2, C))
    talk(20, Loaded(C, 2))
    talk(21, UnloadRequested(9, "c"), Arrived(3, A_LONG))
    assert why(talk, 3, 90) == (Why.TURN, A)


def test_a_model_that_ollama_does_not_unload() -> None:
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(10, Loaded(A, 1))
    talk(11, Finished(1))
    talk(20, Arrived(2, B))
    talk(21, UnloadFailed(A, 2))
    assert why(talk, 2, 21.5) == (Why.STUCK, A)


def test_a_model_that_makes_room_and_one_that_is_told_to_go() -> None:
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(10, Loaded(A, 1), Arrived(2, B, priority=Priority.HIGH))
    talk(90, Arrived(3, A))
    assert talk.states == {A: State.DRAINING}
    assert why(talk, 3, 90) == (Why.LEAVING, A)


def test_nobody_knows_what_is_in_memory() -> None:
    talk = Talk()
    talk.scheduler.host.blind_since = 0.0
    talk(1, Arrived(1, A))
    assert (why(talk, 1, 1), outlook(talk, 1, 1).start) == ((Why.BLIND, None), inf)


def test_a_load_that_failed_is_not_tried_before_the_back_off_is_over() -> None:
    talk = Talk()
    for number, at in enumerate((0, 2, 5, 10), 1):
        talk(at, Arrived(number, A))
        talk(at + 1, LoadFailed(A, number))
    talk(11.1, Observed(11.1, (Sighting(A),)))  # somebody else has loaded it
    talk(11.2, Arrived(5, A), Arrived(6, A))
    talk(11.3, UnloadRequested(9, "a"), Finished(5))
    talk(11.4, Unloaded(A, 5))
    found = outlook(talk, 6, 11.4)
    assert (found.why, found.start) == (Why.BACKOFF, 11 + 8 + 10)


def test_back_off() -> None:
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(1, LoadFailed(A, 1))
    talk(1.5, LoadRequested(2, A))  # the operator need not wait
    talk(2, LoadFailed(A, 2))
    record = talk.scheduler.host.records[A]
    assert forecast.wait_s(talk.scheduler.host, record, 2) == record.speed.swap_s


def test_ollama_is_away() -> None:
    talk = Talk()
    talk(0, UpstreamDown(), Arrived(1, A))
    assert (why(talk, 1, 1), outlook(talk, 1, 1).start) == ((Why.DOWN, None), inf)


def test_who_is_turned_away_is_told_when_to_come_back(busy: Talk) -> None:
    """One answer is being given and one waits: the next would be served after both."""
    busy.scheduler.host.limits = Talk(max_queue=1).scheduler.host.limits
    busy(15, Arrived(4, A))
    assert busy.everything == [Reject(4, Rejection.QUEUE_FULL, 8.0)]


def test_a_key_that_nobody_waits_for_yet_stands_behind_all(busy: Talk) -> None:
    busy.scheduler.host.limits = Talk(max_queue=1).scheduler.host.limits
    busy(15, Arrived(4, B))
    assert busy.everything == [Reject(4, Rejection.QUEUE_FULL, 4 + 11)]


def test_the_end_of_an_unload_of_somebody_else() -> None:
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(10, Loaded(A, 1))
    talk(11, Finished(1))
    talk(12, UnloadRequested(2, "a"), Arrived(3, B))
    assert why(talk, 3, 12.5) == (Why.SWAPPING, A)
    assert outlook(talk, 3, 12.5).start == 13 + 11
    talk(13, Unloaded(A, 2))
    assert why(talk, 3, 13.5) == (Why.LOADING, B)


def test_what_is_being_answered_is_waited_for_to_its_end() -> None:
    talk = Talk()
    talk(0, Arrived(1, A, WIDE))
    talk(10, Loaded(A, 1), Arrived(2, B))
    assert outlook(talk, 2, 11).start == 10 + 5 + 11  # an answer is guessed to last 5 s
