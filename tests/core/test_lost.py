"""Requests in flight whose process is gone, as Ollama's list of runners tells; their connections may not tell it."""

from swapper_proxy.core.commands import Grant, StartLoad
from swapper_proxy.core.events import Arrived, Finished, Loaded, Observed, Tick, UpstreamDown, UpstreamUp
from swapper_proxy.core.types import Cause, Profile, Sighting, State
from tests.core.talk import A_LONG, A, B, Talk

LIMIT_S = 30.0  # what a swap may take at most, says the profile; three loads take less
LISTED, NOTHING = (Sighting(A, Profile(parallel=2)),), ()
TWO = Profile(parallel=2)
PINNED = Profile(pinned=True)


def lost(talk: Talk, *ids: int) -> list[bool]:
    return [talk.scheduler.host.is_lost(id_) for id_ in ids]


def test_what_is_not_listed_for_long_is_lost(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, TWO))
    with_a(5, Observed(4, NOTHING), Arrived(3, A, TWO))
    with_a(10, Observed(9, NOTHING))
    with_a(35, Observed(4 + LIMIT_S - 0.1, NOTHING))
    assert lost(with_a, 2, 3) == [False, False]
    with_a(36, Observed(4 + LIMIT_S, NOTHING))
    assert lost(with_a, 2, 3) == [True, False]
    with_a(45, Observed(9 + LIMIT_S, NOTHING))
    assert lost(with_a, 2, 3) == [True, True]
    with_a(46, Finished(2))
    assert lost(with_a, 2, 4) == [False, False]


def test_a_slow_load_takes_longer(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(20, Loaded(A, 1))
    talk(22, Observed(21, NOTHING))
    talk(80, Observed(21 + 59, NOTHING))
    assert lost(talk, 1) == [False]
    talk(82, Observed(21 + 60, NOTHING))
    assert lost(talk, 1) == [True]


def test_a_list_from_before_the_grant_tells_nothing(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, TWO))
    with_a(3.5, Observed(3, NOTHING))
    with_a(40, Observed(3 + LIMIT_S + 1, NOTHING))
    assert lost(with_a, 2) == [False]


def test_what_ollama_loads_again_for_a_request_is_not_lost(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, TWO))
    with_a(5, Observed(4, NOTHING))
    with_a(21, Observed(20, LISTED))
    with_a(36, Observed(35, NOTHING))
    with_a(61, Observed(60, NOTHING))
    assert lost(with_a, 2) == [False]
    with_a(66, Observed(65, NOTHING))
    assert lost(with_a, 2) == [True]


def test_what_is_loaded_again_after_ollama_was_gone_has_nothing_of_what_was_in_flight(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, TWO))
    with_a(4, UpstreamDown())
    assert with_a(6, UpstreamUp(), Observed(5, NOTHING), Arrived(3, A, TWO)) == [StartLoad(A, 2, 3)]
    assert with_a(7, Loaded(A, 2)) == [Grant(3)]
    with_a(9, Observed(8, LISTED))
    with_a(35, Observed(5 + LIMIT_S, LISTED))
    assert lost(with_a, 2, 3) == [True, False]


def test_the_same_with_other_options(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, TWO))
    with_a(4, UpstreamDown())
    with_a(6, UpstreamUp(), Observed(5, NOTHING), Arrived(3, A_LONG, TWO))
    assert with_a(7, Loaded(A_LONG, 2)) == [Grant(3)]
    with_a(35, Observed(5 + LIMIT_S, LISTED))
    assert lost(with_a, 2, 3) == [True, False]


def test_an_ollama_that_was_only_frozen_still_has_it(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, TWO))
    with_a(4, UpstreamDown())
    with_a(6, UpstreamUp(), Observed(5, LISTED), Arrived(3, A, TWO))
    assert with_a.states == {A: State.RESIDENT}
    with_a(90, Observed(89, LISTED))
    assert lost(with_a, 2, 3) == [False, False]


def test_what_no_name_leads_to_may_be_what_is_in_flight(with_a: Talk) -> None:
    with_a(3, Arrived(2, A, TWO))
    for time in range(5, 100, 5):
        with_a(time, Observed(time - 1, NOTHING, complete=False))
    assert lost(with_a, 2) == [False]


def test_a_pin_does_not_hold_what_nobody_has(talk: Talk) -> None:
    talk(0, Arrived(1, A, PINNED))
    talk(1, Loaded(A, 1))
    talk(3, Observed(2, NOTHING), Arrived(2, B))
    talk(33, Observed(2 + LIMIT_S, NOTHING))
    assert lost(talk, 1) == [True]
    talk(33.5, Finished(1))
    assert talk(34, Observed(33.6, NOTHING), Arrived(3, B)) == [StartLoad(B, 2, 3)]
    assert (A, State.ABSENT, Cause.OBSERVED) in talk.changes
    talk(35, Tick())
