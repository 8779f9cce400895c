"""Sizes that are only foreseen: room is made for them, and nobody is refused by them."""

from swapper_proxy.core.commands import Answer, Grant, Reject, StartLoad, StartUnload
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import Arrived, ConfigChanged, Finished, Loaded, LoadRequested, Observed, Tick, Unloaded
from swapper_proxy.core.types import Limits, Profile, Sighting, State
from tests.core.talk import A_GPU, A_LONG, WIDE, A, B, C, Talk

SMALL = Profile(size_gb=1.0)
FORESEEN = Profile(size_gb=44.0, least_gb=1.0)
TOO_MUCH = Profile(size_gb=30.0)


def roomy() -> Talk:
    return Talk(max_resident=9, memory_gb=10)


def test_more_than_the_budget_is_loaded_alone() -> None:
    talk = roomy()
    talk(0, Arrived(1, B, SMALL))
    talk(1, Loaded(B, 1), Arrived(2, A_LONG, FORESEEN))
    assert talk(2, Finished(1)) == []
    assert talk(20, Tick()) == [StartUnload(B, 2)]
    assert talk(21, Unloaded(B, 2)) == [StartLoad(A_LONG, 3, 2)]
    assert talk(22, Loaded(A_LONG, 3)) == [Grant(2)]
    assert talk(23, Finished(2), ConfigChanged(Limits(9, memory_gb=10.0))) == []  # it was not measured yet
    assert talk.states == {A_LONG: State.RESIDENT}


def test_two_whose_sizes_are_foreseen_are_not_in_memory_together() -> None:
    talk = roomy()
    talk(0, Arrived(1, A_LONG, FORESEEN), Arrived(2, B, FORESEEN))
    assert talk(1, Loaded(A_LONG, 1)) == [Grant(1)]
    talk(2, Finished(1))
    assert talk(20, Tick()) == [StartUnload(A_LONG, 2)]
    assert talk(21, Unloaded(A_LONG, 2)) == [StartLoad(B, 3, 2)]


def test_beside_a_pinned_one_it_takes_what_that_leaves() -> None:
    talk = roomy()
    talk(0, LoadRequested(1, B, Profile(size_gb=4.0, pinned=True)))
    talk(1, Loaded(B, 1))
    assert talk(2, Arrived(2, A_LONG, FORESEEN)) == [StartLoad(A_LONG, 2, 2)]


def test_a_pinned_one_whose_size_is_only_foreseen_refuses_nobody() -> None:
    talk = roomy()
    talk(0, LoadRequested(1, B, Profile(size_gb=44.0, least_gb=1.0, pinned=True)))
    talk(1, Loaded(B, 1))
    assert talk(2, Arrived(2, A, SMALL)) == []
    assert talk(3, Observed(2.5, (Sighting(B, Profile(size_gb=2.0, pinned=True), 2.0),))) == [StartLoad(A, 2, 2)]


def test_what_was_measured_too_large_goes_and_is_refused_alone() -> None:
    talk = roomy()
    talk(0, Arrived(1, A_LONG, FORESEEN))
    talk(1, Loaded(A_LONG, 1), Arrived(2, A_LONG, FORESEEN), Arrived(3, A, SMALL))
    assert talk(2, Observed(1.5, (Sighting(A_LONG, TOO_MUCH, 30.0),))) == []
    assert talk.states == {A_LONG: State.DRAINING}
    assert talk(3, Finished(1)) == [StartUnload(A_LONG, 2)]
    assert talk(4, Unloaded(A_LONG, 2)) == [Reject(2, Rejection.TOO_LARGE), StartLoad(A, 3, 3)]
    assert talk(5, Loaded(A, 3), Arrived(4, A_LONG, TOO_MUCH)) == [Reject(4, Rejection.TOO_LARGE), Grant(3)]


def test_what_somebody_else_loaded_too_large_goes_and_nobody_is_refused() -> None:
    """Its options are only guessed: the key that they are taken for may be much smaller."""
    talk = roomy()
    talk(1, Observed(0.5, (Sighting(A, SMALL, 30.0),)))
    assert talk(2, Observed(1.5, (Sighting(A, SMALL, 30.0),))) == []
    assert talk(3, Observed(2.5, (Sighting(A, SMALL, 31.0),))) == [StartUnload(A, 1)]
    assert talk(4, Arrived(1, A, SMALL)) == []
    assert talk(5, Unloaded(A, 1)) == [StartLoad(A, 2, 1)]


def test_the_size_of_what_was_there_before_says_nothing_of_what_is_there_now() -> None:
    talk = roomy()
    talk(0, Arrived(1, A, SMALL))
    talk(1, Loaded(A, 1))
    talk(2, Observed(0.5, (Sighting(A, SMALL, 30.0),)), Observed(1.5, (Sighting(A_LONG, TOO_MUCH, 30.0),)))
    assert talk.states == {A: State.RESIDENT}
    assert talk.scheduler.host.records[A].size_gb == 1.0


def test_a_request_that_is_served_by_another_key_leaves_its_size() -> None:
    talk = roomy()
    talk(0, Arrived(1, A_GPU, Profile(8, size_gb=6.0)))
    talk(1, Loaded(A_GPU, 1))
    talk(2, Arrived(2, A, WIDE))
    assert talk.scheduler.host.records[A_GPU].size_gb == 6.0
    assert talk.scheduler.admit(Arrived(3, A, WIDE), 3)


def test_a_manual_load_is_not_refused_by_what_is_only_foreseen() -> None:
    talk = roomy()
    assert talk(0, LoadRequested(1, C, FORESEEN)) == [StartLoad(C, 1, 1)]
    assert talk(1, Loaded(C, 1)) == [Answer(1)]
