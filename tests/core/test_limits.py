"""Count, memory, slots; limits that change, and what can never fit."""

from swapper_proxy.core.commands import Answer, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import Arrived, ConfigChanged, LoadRequested, Unloaded, UnloadRequested
from swapper_proxy.core.types import Cause, Limits, State
from tests.core.talk import A, B, Talk


def test_limits_shrink(with_a_and_b: Talk) -> None:
    assert with_a_and_b(5, ConfigChanged(Limits(max_resident=1))) == [StartUnload(A, 3)]
    assert with_a_and_b.changes[0] == (A, State.DRAINING, Cause.LIMITS)
    assert with_a_and_b(6, Unloaded(A, 3)) == []


def test_what_drains_already_is_part_of_the_shrinking(with_a_and_b: Talk) -> None:
    with_a_and_b(5, Arrived(3, B))
    with_a_and_b(6, UnloadRequested(4, "b"))
    assert with_a_and_b(7, ConfigChanged(Limits(max_resident=1))) == []
    assert with_a_and_b.states == {A: State.RESIDENT, B: State.DRAINING}


def test_a_manual_load_that_takes_back_a_drain_keeps_to_the_limits(with_a_and_b: Talk) -> None:
    with_a_and_b(5, Arrived(3, A))
    with_a_and_b(6, UnloadRequested(4, "a"), ConfigChanged(Limits(max_resident=1)))
    assert with_a_and_b(7, LoadRequested(5, A)) == [Reject(4, Rejection.SUPERSEDED), Answer(5), StartUnload(B, 3)]
    assert with_a_and_b.states == {A: State.RESIDENT, B: State.UNLOADING}


def test_limits_grow(with_a: Talk) -> None:
    with_a(3, Arrived(2, A), Arrived(3, B))
    assert with_a(4, ConfigChanged(Limits(max_resident=2))) == [StartLoad(B, 2, 3)]
