"""What has gone wrong in programs of this kind, in the worst order and in one instant; on the real Ollama: tests/e2e.

What is tested elsewhere already: a result of an older load (`test_upstream`: a load that Ollama took with it; and in
`test_properties`, in any order), an arrival for what is being unloaded (`test_requests`), an unload asked for as the
load ends (`test_corners`), a shutdown that lifts what drains (`test_corners`), a pin in mid-swap (`test_operator`),
limits in mid-swap (`test_limits`).
"""

from collections.abc import Callable, Sequence

import pytest

from swapper_proxy.core.commands import Command, Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    ConfigChanged,
    Event,
    Finished,
    Loaded,
    LoadFailed,
    Observed,
    Shutdown,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.types import Key, Limits, Profile, Rules, Sighting, State
from tests.core.talk import HIGH, WIDE, A, B, C, Talk

IMPATIENT = Rules(kappa=0.0, patience_swaps=0.1)  # whoever waits may force a swap after 2 s at most


def both(*events: Event) -> "pytest.MarkDecorator":
    """Events of one instant, in either order."""
    return pytest.mark.parametrize("instant", [events, events[::-1]])


# Evicted before its own request


@both(Loaded(B, 3), Arrived(9, A, priority=HIGH), Tick())
def test_a_model_is_not_evicted_before_the_request_it_was_loaded_for(instant: Sequence[Event]) -> None:
    """Three are long overdue when B is there, and one more comes for A."""
    talk = Talk(rules=IMPATIENT)
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    talk(2, Arrived(2, B))
    talk(3, Finished(1))
    assert talk(4, Tick()) == [StartUnload(A, 2)]
    talk(5, Unloaded(A, 2), Arrived(3, A), Arrived(4, C), Arrived(5, A, priority=HIGH))
    assert talk(500, *instant) == [Grant(2)]
    assert talk(501, Tick()) == []
    assert talk.states == {B: State.DRAINING}
    assert talk(502, Finished(2)) == [StartUnload(B, 4)]


# A waiter is lost


@both(Loaded(A, 1), Arrived(2, A, WIDE))
def test_who_comes_as_the_load_ends_is_served(talk: Talk, instant: Sequence[Event]) -> None:
    talk(0, Arrived(1, A, WIDE))
    assert talk(1, *instant) == [Grant(1), Grant(2)]


@both(Cancelled(1), Arrived(2, A))
def test_who_comes_as_the_last_one_leaves_is_served(talk: Talk, instant: Sequence[Event]) -> None:
    talk(0, Arrived(1, A))
    talk(1, *instant)
    assert talk(2, Loaded(A, 1)) == [Grant(2)]


@both(LoadFailed(A, 1), Arrived(2, A))
def test_who_comes_as_the_load_fails_is_answered(talk: Talk, instant: Sequence[Event]) -> None:
    talk(0, Arrived(1, A))
    assert {type(command) for command in talk(1, *instant)} == {Reject}
    assert talk.scheduler.waiting == 0


@both(Finished(1), Arrived(3, A))
def test_who_comes_as_the_model_becomes_idle_is_served(talk: Talk, instant: Sequence[Event]) -> None:
    """Another model is waited for and would be loaded in this very instant."""
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1), Arrived(2, B))
    assert talk(2, *instant) == [Grant(3)]
    assert talk(3, Finished(3), Tick()) == []  # a hold
    assert talk(4, Tick()) == [StartUnload(A, 2)]


def test_who_comes_as_the_model_is_forced_out_waits_until_it_comes_back(talk: Talk) -> None:
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    talk(2, Arrived(2, B))
    talk.scheduler.host.records[A].hold(2, 1e9)
    assert talk(3, Finished(1)) == []
    assert talk(62, Arrived(3, A)) == [StartUnload(A, 2)]
    assert talk(63, Unloaded(A, 2)) == [StartLoad(B, 3, 2)]
    assert talk(64, Loaded(B, 3)) == [Grant(2)]
    talk(65, Finished(2))
    assert talk(66, Tick()) == [StartUnload(B, 4)]
    assert talk(67, Unloaded(B, 4)) == [StartLoad(A, 5, 3)]
    assert talk(68, Loaded(A, 5)) == [Grant(3)]


# A model is killed while it answers


@pytest.mark.parametrize(
    "wish",
    [
        UnloadRequested(9, "a"),
        ConfigChanged(Limits(max_resident=1, rules=IMPATIENT)),
        ConfigChanged(Limits(2, memory_gb=1.0, rules=IMPATIENT), (Sighting(A, Profile(size_gb=5)),)),
        Arrived(9, C, priority=HIGH),
        Observed(400.0, ()),
        Tick(),
    ],
)
def test_nothing_is_unloaded_while_it_answers(wish: Event) -> None:
    talk = Talk(max_resident=2, rules=IMPATIENT)
    talk(0, Arrived(1, A, ttl_s=0.0), Arrived(2, B))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2), Tick())
    said: list[Command] = talk(400, wish)
    for now in (401, 500, 5000):
        said += talk(now, Tick())
    assert [command for command in said if isinstance(command, StartUnload)] == []
    assert A in talk.states
    ended = talk(5001, Finished(1), Finished(2))
    assert len([command for command in ended if isinstance(command, StartUnload)]) == 1


# A stale result


@pytest.mark.parametrize("stale", [Loaded, LoadFailed, Unloaded, UnloadFailed])
@pytest.mark.parametrize("generation", [0, 1, 2])
def test_a_result_of_an_older_load_changes_nothing(stale: Callable[[Key, int], Event], generation: int) -> None:
    """A was loaded (1), and was being unloaded (2) when Ollama went away; now it is being loaded again (3)."""
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    talk(2, Finished(1))
    assert talk(3, UnloadRequested(8, "a")) == [StartUnload(A, 2)]
    talk(4, UpstreamDown())
    assert talk(5, UpstreamUp(), Arrived(2, A)) == [StartLoad(A, 3, 2)]
    assert talk(6, stale(A, generation)) == []
    assert talk.states == {A: State.LOADING}
    assert talk(7, Loaded(A, 3)) == [Grant(2)]


# An unload against a new arrival


@both(Unloaded(A, 2), Arrived(2, A))
def test_who_comes_as_the_unload_ends_is_not_sent_to_what_is_gone(with_a: Talk, instant: Sequence[Event]) -> None:
    with_a(3, UnloadRequested(8, "a"))
    told = with_a(4, *instant)
    assert [command for command in told if isinstance(command, Grant | StartLoad)] == [StartLoad(A, 3, 2)]
    assert with_a(5, Loaded(A, 3)) == [Grant(2)]


@both(UnloadFailed(A, 2), Arrived(2, A))
def test_who_comes_as_the_unload_fails_is_served_by_what_is_still_there(with_a: Talk, instant: Sequence[Event]) -> None:
    with_a(3, UnloadRequested(8, "a"))
    told = with_a(4, *instant)
    assert [command for command in told if not isinstance(command, Reject)] == [Grant(2)]


# A time to live against a request


@both(Tick(), Arrived(2, A))
def test_a_request_as_the_time_to_live_ends_is_served(talk: Talk, instant: Sequence[Event]) -> None:
    talk(0, Arrived(1, A, ttl_s=10))
    talk(1, Loaded(A, 1))
    talk(5, Finished(1))
    assert talk.wake == [15.0]
    assert talk(15, *instant) == [Grant(2)]


def test_a_request_a_moment_after_the_time_to_live_waits_for_a_new_load(talk: Talk) -> None:
    talk(0, Arrived(1, A, ttl_s=10))
    talk(1, Loaded(A, 1))
    talk(5, Finished(1))
    assert talk(15, Tick()) == [StartUnload(A, 2)]
    assert talk(15, Arrived(2, A)) == []
    assert talk(16, Unloaded(A, 2)) == [StartLoad(A, 3, 2)]
    assert talk(17, Loaded(A, 3)) == [Grant(2)]


# A new configuration against a swap


@pytest.mark.parametrize("stage", range(4))
def test_a_new_configuration_in_mid_swap_loses_nobody_and_begins_nothing_anew(with_a: Talk, stage: int) -> None:
    """While A drains, is unloaded, B is loaded, and after that.  One who was there before waits for A."""
    reload = ConfigChanged(Limits(max_queue=5), (Sighting(A, WIDE), Sighting(B, WIDE)))
    with_a(3, Arrived(2, A), Arrived(5, A))
    with_a(4, Arrived(3, B), Arrived(4, B))
    said: list[Command] = []
    for number, event in enumerate((Tick(), Finished(2), Unloaded(A, 2), Loaded(B, 3))):
        said += with_a(70 + number, event)
        if number == stage:
            said += with_a(70.5 + number, reload)
    assert said == [StartUnload(A, 2), StartLoad(B, 3, 3), Grant(3), Grant(4)]
    assert with_a(80, Finished(3), Finished(4)) == [StartUnload(B, 4)]
    assert with_a(91, Unloaded(B, 4)) == [StartLoad(A, 5, 5)]
    assert with_a(92, Loaded(A, 5)) == [Grant(5)]


@pytest.mark.parametrize("grown", [False, True])
def test_a_new_configuration_as_the_victim_drains_lets_it_off_if_there_is_room(with_a: Talk, grown: bool) -> None:
    with_a(3, Arrived(2, A), Arrived(3, A))
    with_a(4, Arrived(4, B))
    with_a(70, Tick())
    assert with_a.states == {A: State.DRAINING}
    told = with_a(71, ConfigChanged(Limits(max_resident=2 if grown else 1)))
    assert told == ([StartLoad(B, 2, 4)] if grown else [])
    assert with_a.states[A] is (State.RESIDENT if grown else State.DRAINING)
    assert with_a(72, Finished(2)) == ([Grant(3)] if grown else [StartUnload(A, 2)])


# A shutdown against a load


@both(Unloaded(A, 2), Shutdown(100))
def test_a_shutdown_in_mid_swap_loads_nothing_and_answers_who_waits(with_a: Talk, instant: Sequence[Event]) -> None:
    assert with_a(3, Arrived(2, B)) == [StartUnload(A, 2)]
    assert with_a(4, *instant) == [Reject(2, Rejection.SHUTTING_DOWN)]
    assert with_a(101, Tick()) == []


@both(Loaded(A, 1), Shutdown(100))
def test_who_is_loaded_for_as_the_end_begins_is_served(talk: Talk, instant: Sequence[Event]) -> None:
    """What is in memory by then is used within the grace."""
    talk(0, Arrived(1, A), Arrived(2, A))
    assert talk(1, *instant) == [Grant(1)]
    assert talk(2, Finished(1)) == [Grant(2)]


@both(LoadFailed(A, 1), Shutdown(100))
def test_a_load_that_fails_as_the_end_begins_is_answered_once(talk: Talk, instant: Sequence[Event]) -> None:
    talk(0, Arrived(1, A))
    assert talk(1, *instant) == [Reject(1, Rejection.LOAD_FAILED, 1.0)]
    assert talk(200, Tick()) == []
