"""An idle resident is kept a little although others wait, if its client is likely to call again."""

import pytest

from swapper_proxy.core.commands import Answer, Grant, StartLoad, StartUnload
from swapper_proxy.core.estimates import BLIND_HOLD
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    Finished,
    Loaded,
    LoadRequested,
    Observed,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
)
from swapper_proxy.core.types import EXHAUSTIVE, Rules, Sighting, State
from tests.core.talk import A, B, C, Talk


@pytest.fixture
def agent() -> Talk:
    """Room for one, A takes 4 s to load; its client calls again after 0.5 s each time.  A is busy with 9 since 14."""
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(4, Loaded(A, 1), Tick())
    for id_ in range(1, 9):
        talk(4 + id_, Finished(id_))
        talk(4.5 + id_, Arrived(id_ + 1, A))
    return talk


def test_a_client_that_calls_again_soon_is_waited_for(agent: Talk) -> None:
    assert agent(14, Arrived(20, B), Finished(9)) == []
    assert agent.wake == [14.675]  # a quarter more than its gaps, and a moment
    assert agent(14.5, Arrived(10, A)) == [Grant(10)]
    assert agent.holds == [(A, 0.5, True)]


def test_a_client_that_does_not_call_again_is_not_waited_for_longer(agent: Talk) -> None:
    agent(14, Arrived(20, B), Finished(9))
    assert agent(14.6, Tick()) == []
    assert agent(14.675, Tick()) == [StartUnload(A, 2)]
    assert agent.holds == [(A, pytest.approx(0.675), False)]


def test_who_comes_after_the_hold_comes_in_vain(agent: Talk) -> None:
    agent(14, Arrived(20, B), Finished(9))
    assert agent(15, Arrived(10, A)) == [Grant(10)]
    assert agent.holds == [(A, pytest.approx(0.675), False)]  # the hold was over by then


def test_many_who_wait_are_not_kept_waiting(agent: Talk) -> None:
    agent(14, *(Arrived(id_, B) for id_ in range(20, 25)))
    assert agent(14.1, Finished(9)) == [StartUnload(A, 2)]
    assert agent.holds == []


def test_a_hold_counts_from_the_start_of_idleness(agent: Talk) -> None:
    agent(14, Finished(9))
    assert agent(14.4, Arrived(20, B)) == []
    assert agent.wake == [14.675]


def test_a_hold_is_computed_once_in_each_idleness(agent: Talk) -> None:
    agent(14, Finished(9), Arrived(20, B))
    assert agent(14.1, *(Arrived(id_, C) for id_ in range(21, 40))) == []
    assert agent(14.2, *(Cancelled(id_) for id_ in range(20, 40))) == []
    assert agent(14.3, Arrived(40, B)) == []
    assert agent(14.6, Tick()) == []
    assert agent(14.675, Tick()) == [StartUnload(A, 2)]


def test_the_next_idleness_has_a_hold_of_its_own(agent: Talk) -> None:
    agent(14, Finished(9), Arrived(20, B))
    agent(14.5, Arrived(10, A))
    assert agent(15, Finished(10)) == []
    assert agent(15.6, Tick()) == []
    assert agent(15.675, Tick()) == [StartUnload(A, 2)]


def test_nobody_is_held_while_nobody_else_waits(agent: Talk) -> None:
    agent(14, Finished(9))
    agent(20, Arrived(10, A))
    assert agent.holds == []


def test_a_hold_is_never_longer_than_a_swap() -> None:
    talk = Talk(rules=Rules(theta=0.1))
    talk(0, Arrived(1, A))
    talk(4, Loaded(A, 1))
    talk(5, Finished(1), Arrived(2, A))
    talk(5.1, Arrived(20, B), Finished(2), Tick())
    assert talk.wake == [pytest.approx(5.15)]


def test_without_experience_a_part_of_a_swap_is_shared_by_those_who_wait() -> None:
    talk = Talk(rules=Rules())
    talk(0, Arrived(1, A))
    talk(4, Loaded(A, 1), Tick())
    talk(5, Arrived(20, B), Arrived(21, C), Finished(1))
    assert talk.wake == [pytest.approx(5 + BLIND_HOLD * 5 / 2)]


def test_exhaustive_service_holds_nobody() -> None:
    talk = Talk(rules=EXHAUSTIVE)
    talk(0, Arrived(1, A), Arrived(2, B))
    talk(4, Loaded(A, 1))
    assert talk(5, Finished(1)) == [StartUnload(A, 2)]
    assert talk.holds == []


def test_another_that_is_past_its_hold_goes_first() -> None:
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A), Arrived(2, B))
    talk(1, Loaded(A, 1))
    talk(5, Loaded(B, 2), Finished(1))
    talk(6, Finished(2))
    assert talk(6.1, Arrived(3, C)) == [StartUnload(A, 3)]
    talk(7, Unloaded(A, 3), UnloadFailed(A, 3))
    assert talk.states == {B: State.RESIDENT, C: State.LOADING}


def test_an_idle_resident_that_is_held_still_answers_manual_loads(agent: Talk) -> None:
    agent(14, Arrived(20, B), Finished(9))
    assert agent(14.1, LoadRequested(10, A)) == [Answer(10)]
    assert agent(14.675, Tick()) == [StartUnload(A, 2)]


def test_a_manual_unload_ends_a_hold(agent: Talk) -> None:
    agent(14, Arrived(20, B), Finished(9))
    assert agent(14.1, UnloadRequested(10, "a")) == [StartUnload(A, 2)]
    assert agent.holds == [(A, pytest.approx(0.1), False)]


def test_a_hold_does_not_prolong_the_time_to_live() -> None:
    talk = Talk()
    talk(0, Arrived(1, A, ttl_s=0.1))
    talk(4, Loaded(A, 1), Tick())
    assert talk(5, Finished(1), Arrived(2, B)) == []
    assert talk.wake == [5.1]
    assert talk(5.1, Tick()) == [StartUnload(A, 2)]
    assert talk.holds == [(A, pytest.approx(0.1), False)]


def test_a_stranger_is_held_as_one_without_experience(talk: Talk) -> None:
    talk(1, Observed(1, (Sighting(A),)))
    assert talk(1.01, Arrived(1, B)) == []
    assert talk.wake == [pytest.approx(1 + BLIND_HOLD * 11)]
    assert talk(2.2, Tick()) == [StartUnload(A, 1)]
    assert talk(3, Unloaded(A, 1)) == [StartLoad(B, 2, 1)]


def test_the_gap_is_learned_even_if_the_key_was_gone_meanwhile(agent: Talk) -> None:
    agent(14, Finished(9), Observed(13.9, ()))
    assert agent.states == {}
    agent(14.5, Arrived(10, A))
    (record,) = agent.scheduler.residencies()
    assert list(record.gaps) == [0.5] * 9


def test_only_the_latest_gaps_count(agent: Talk) -> None:
    agent(14, Finished(9))
    for id_ in range(10, 50):
        agent(id_ + 5, Arrived(id_, A))
        agent(id_ + 5, Finished(id_))
    (record,) = agent.scheduler.residencies()
    assert list(record.gaps) == [1.0] * 32


def test_a_hold_counts_only_while_others_wait(agent: Talk) -> None:
    agent(14, Finished(9))
    agent(14.2, Arrived(20, B))
    agent(14.5, Arrived(10, A))
    assert agent.holds == [(A, pytest.approx(0.3), True)]


def test_nothing_is_held_where_there_is_room() -> None:
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    talk(2, Finished(1))
    assert talk(2.01, Arrived(2, B)) == [StartLoad(B, 2, 2)]
    talk(2.02, Arrived(3, A))
    assert talk.holds == []
