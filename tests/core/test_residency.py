"""The record of one key: queue, idleness, what may be forgotten."""

import pytest

from swapper_proxy.core.residency import Queue, Residency, Waiter
from swapper_proxy.core.types import Cause, Key, Priority, Profile, State


def test_a_queue_has_a_lane_for_each_priority_and_one_for_loads() -> None:
    queue = Queue()
    waiters = [Waiter(n, n, n, priority) for n, priority in enumerate((*Priority, *Priority))]
    load = Waiter(9, 9, 9, cause=Cause.MANUAL)
    for waiter in (*waiters, load):
        queue.add(waiter)
    assert len(queue) == 7
    assert list(queue) == [load, *(waiters[n] for n in (0, 3, 1, 4, 2, 5))]
    assert list(queue.firsts()) == [*waiters[:3], load]
    assert queue.find(4) is waiters[4]
    assert queue.find(9) is load
    assert queue.find(10) is None
    queue.remove(waiters[0])
    assert list(queue.firsts()) == [waiters[3], *waiters[1:3], load]


def test_idleness_is_from_the_last_end_to_the_next_arrival() -> None:
    record = Residency(Key("a"), state=State.RESIDENT)
    record.begin_idleness(5)
    record.begin_idleness(6)
    record.end_idleness(8)
    record.end_idleness(9)
    assert list(record.gaps) == [3]


def test_a_busy_resident_is_not_idle() -> None:
    record = Residency(Key("a"), state=State.RESIDENT, in_flight={1: 0})
    record.begin_idleness(5)
    assert record.idle_since is None
    assert not record.idle
    assert not record.evictable(5)


@pytest.mark.parametrize(
    ("more", "expires_at"),
    [({}, None), ({"ttl_s": 3}, 5), ({"ttl_s": 3, "in_flight": {1: 0}}, None), ({"ttl_s": 0}, 2)],
)
def test_when_a_resident_expires(more: dict[str, object], expires_at: float | None) -> None:
    record = Residency(Key("a"), state=State.RESIDENT, last_used=2, **more)
    assert record.expires_at == expires_at
    record.profile = Profile(pinned=True)
    assert record.expires_at is None


def test_what_is_only_experience_may_be_forgotten() -> None:
    record = Residency(Key("a"))
    assert record.forgettable(0)
    record.in_flight[1] = 0
    assert not record.forgettable(0)
    record.in_flight.clear()
    record.load_backoffs.failed(None, 0)
    assert not record.forgettable(60)
    assert record.forgettable(61)
