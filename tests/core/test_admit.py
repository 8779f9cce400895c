"""Requests for what is there are let in at once, and nobody can tell the difference."""

import itertools
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapper_proxy.core.commands import Grant
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    Event,
    Finished,
    Loaded,
    Shutdown,
    UnloadRequested,
    UpstreamDown,
)
from swapper_proxy.core.types import Key, Profile
from tests.core.talk import A_GPU, A_LONG, WIDE, A, B, Talk

PROFILES = {A: Profile(parallel=1), B: Profile(parallel=2)}


def admitted(talk: Talk, event: Arrived, now: float = 3) -> bool:
    return talk.scheduler.admit(event, now)


def test_who_is_let_in_is_in_flight(with_a: Talk) -> None:
    assert admitted(with_a, Arrived(2, A))
    assert not admitted(with_a, Arrived(3, A))  # that was all the room
    assert with_a(4, Arrived(3, A)) == []
    assert with_a(5, Finished(2)) == [Grant(3)]


def test_what_serves_the_key_as_it_is_will_do() -> None:
    talk = Talk()
    talk(0, Arrived(1, A_GPU, WIDE))
    talk(1, Loaded(A_GPU, 1))
    assert admitted(talk, Arrived(2, A, replace(WIDE)))
    assert not admitted(talk, Arrived(3, A_LONG, WIDE))


def test_the_time_to_live_that_a_request_sets_holds(with_a: Talk) -> None:
    assert admitted(with_a, Arrived(2, A, ttl_s=5.0))
    with_a(4, Finished(2))
    assert with_a.wake == [9.0]


def test_a_time_to_live_keeps_nobody_out_before_it_runs() -> None:
    talk = Talk()
    talk(0, Arrived(1, A, WIDE, ttl_s=5.0))
    talk(1, Loaded(A, 1))
    assert admitted(talk, Arrived(2, A, WIDE))
    talk(4, Finished(1), Finished(2))
    assert not admitted(talk, Arrived(3, A, WIDE), 5)


def test_a_limit_on_waiting_keeps_nobody_out_before_somebody_waits() -> None:
    talk = Talk(max_resident=2, queue_timeout_s=10.0)
    talk(0, Arrived(1, A), Arrived(2, B, WIDE))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2))
    assert admitted(talk, Arrived(3, B, WIDE))
    talk(3, Arrived(4, A))
    assert not admitted(talk, Arrived(5, B, WIDE))


@pytest.mark.parametrize(
    "event",
    [Arrived(2, A_LONG), Arrived(2, B), Arrived(2, A, WIDE), Arrived(2, Key("nowhere"))],
    ids=["another key", "another runner", "treated otherwise from now on", "unknown"],
)
def test_what_takes_a_decision_is_left_alone(with_a: Talk, event: Arrived) -> None:
    before = with_a.scheduler.residencies()
    assert not admitted(with_a, event)
    assert with_a.scheduler.residencies() == before


@pytest.mark.parametrize("event", [Arrived(2, B), UpstreamDown(), Shutdown(9), UnloadRequested(2, "a")])
def test_nobody_is_let_in_while_something_else_goes_on(with_a: Talk, event: Event) -> None:
    with_a(3, event)
    assert not admitted(with_a, Arrived(3, A))


def test_a_hold_that_pays_is_told_of(with_a: Talk) -> None:
    with_a(2, Arrived(2, B))
    with_a(2.05, Cancelled(2))
    assert not admitted(with_a, Arrived(3, A), 2.07)
    assert with_a(2.07, Arrived(3, A)) == [Grant(3)]
    assert [(key, paid) for key, _, paid in with_a.holds] == [(A, True)]


@given(st.lists(st.lists(st.sampled_from((A, B, None)), min_size=1, max_size=4), max_size=12))
def test_one_by_one_or_together_the_same_are_served(instants: list[list[Key | None]]) -> None:
    """What happens in each instant: somebody wants a key, or (None) the request served first is over."""
    together, apart = with_both(), with_both()
    ids, in_flight = itertools.count(10), deque[int]()
    for now, happens in enumerate(instants, 5):
        events: list[Event] = []
        for key in happens:
            if key is not None:
                events.append(Arrived(next(ids), key, PROFILES[key]))
            elif in_flight:
                events.append(Finished(in_flight.popleft()))
        served = [command.id for command in together(now, *events)]
        assert sorted(served) == sorted(id_ for event in events for id_ in at_once(apart, event, now))
        in_flight.extend(served)


def with_both() -> Talk:
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A, PROFILES[A]), Arrived(2, B, PROFILES[B]))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2))
    talk(3, Finished(1), Finished(2))
    return talk


def at_once(talk: Talk, event: Event, now: float) -> list[int]:
    """Who is served because of this alone."""
    if isinstance(event, Arrived) and talk.scheduler.admit(event, now):
        return [event.id]
    return [command.id for command in talk(now, event)]
