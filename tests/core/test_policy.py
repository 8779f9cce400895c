"""When force is used, and by whom: the arithmetic behind the conversations."""

from dataclasses import replace

import pytest

from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.host import Host
from swapper_proxy.core.policy import Plan, Policy
from swapper_proxy.core.refusals import hopeless
from swapper_proxy.core.residency import Residency, Waiter
from swapper_proxy.core.shortage import Shortage
from swapper_proxy.core.types import Cause, Key, Limits, Priority, Profile, Rules, State
from tests.core.talk import RULES

WELL = pytest.approx


class World:
    """A host and what is in it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.host = Host(replace(limits or Limits(), rules=RULES))

    def wants(self, name: str, *arrivals: float, priority: Priority = Priority.MEDIUM) -> Residency:
        record = self.host.record(Key(name), Profile(), 0)
        for at in arrivals:
            self.host.enqueue(record, Waiter(self.host.numbers, self.host.numbers, at, priority))
        return record

    def holds(self, name: str, *in_flight: int, last_used: float = 0, pinned: bool = False) -> Residency:
        record = self.host.record(Key(name), Profile(pinned=pinned), 0)
        self.host.change(record, State.RESIDENT, Cause.IDLE, 0)
        record.last_used = last_used
        record.in_flight.update(dict.fromkeys(in_flight, 0.0))
        return record


def names(plan: Plan | None) -> tuple[str, list[str]] | None:
    return plan and (plan.wanted.key.runner, [victim.key.runner for victim in plan.victims])


def test_a_deadline_is_the_end_of_patience_or_later_where_many_contend() -> None:
    world = World()
    record = world.wants("a", 5)
    assert Policy(world.host, 5).deadline(record) == 65
    world.wants("b", 6, 7)
    world.wants("c", 6)
    assert Policy(world.host, 5).deadline(record) == 5 + 2 * 33


def test_what_answers_contends_once_and_what_is_idle_does_not() -> None:
    world = World()
    record = world.wants("a", 5, priority=Priority.HIGH)
    world.holds("idle")
    assert Policy(world.host, 5).deadline(record) == 5 + 2 * 11
    world.holds("busy", 1)
    assert Policy(world.host, 5).deadline(record) == 5 + 2 * 22
    world.wants("busy", 6)
    assert Policy(world.host, 5).deadline(record) == 5 + 2 * 22


def test_patience_is_that_of_the_priority_and_shorter_for_all_where_swaps_are_quick() -> None:
    record, rules = World().wants("a"), Rules()
    patience = list(record.patience(rules).values())
    assert patience == [15, 60, 240]
    record.speed.loaded(0.3)
    record.speed.unloaded(0.1)
    patience = list(record.patience(rules).values())
    assert patience == [WELL(1), WELL(4), WELL(16)]  # ten swaps for the medium one


def test_the_due_of_a_queue_is_the_earliest_of_all_priorities() -> None:
    world = World()
    record = world.wants("a", 1, priority=Priority.LOW)
    assert (record.head and record.head.arrived_at, record.due) == (1, 241)
    world.wants("a", 40, priority=Priority.HIGH)
    assert (record.head and record.head.arrived_at, record.due) == (40, 55)
    world.wants("a", 41, priority=Priority.HIGH)
    assert record.due == 55


def test_the_earliest_due_that_is_not_in_back_off_is_next() -> None:
    world = World(Limits(max_resident=2))
    world.wants("late", 5)
    world.wants("early", 1)
    world.wants("failed", 0).load_backoffs.failed(None, 9.5)
    world.holds("there")
    world.wants("there", 0)
    assert names(Policy(world.host, 10).willing(None)) == ("early", [])
    assert names(Policy(world.host, 10.5).willing(None)) == ("failed", [])


def test_force_waits_for_the_deadline() -> None:
    world = World()
    world.holds("a", 1)
    world.wants("b", 0)
    assert Policy(world.host, 59.9).force() is None
    assert names(Policy(world.host, 60).force()) == ("b", ["a"])


def test_force_helps_the_first_that_can_be_helped() -> None:
    world = World(Limits(max_resident=2))
    world.holds("a", 1, pinned=True)
    world.holds("b", 1)
    other = world.host.record(Key("a", (("num_ctx", 1),)), Profile(), 0)
    world.host.enqueue(other, Waiter(90, 90, 0))
    world.wants("c", 1)
    assert names(Policy(world.host, 100).force()) == ("c", ["b"])


def test_force_prefers_the_idle_to_the_busy_and_those_past_their_hold_to_those_that_are_held() -> None:
    world = World(Limits(max_resident=3))
    busy, held, idle = world.holds("busy", 1), world.holds("held"), world.holds("idle", last_used=50)
    held.hold_until = 101
    world.wants("w", 0)
    assert names(Policy(world.host, 100).force()) == ("w", ["idle"])
    idle.in_flight[2] = 0
    assert names(Policy(world.host, 100).force()) == ("w", ["held"])
    held.in_flight[3] = 0
    assert names(Policy(world.host, 100).force()) == ("w", ["busy"])
    busy.gate_left, busy.gate_until = 1, 200
    assert names(Policy(world.host, 100).force()) == ("w", ["held"])


def test_what_is_drained_for_another_reason_is_on_its_way_and_taken_first() -> None:
    world = World(Limits(max_resident=2))
    world.holds("busy", 1)
    leaving = world.holds("leaving", 2, last_used=50)
    world.host.change(leaving, State.DRAINING, Cause.MANUAL, 60)
    world.wants("w", 0)
    assert names(Policy(world.host, 100).force()) == ("w", ["leaving"])


def test_force_leaves_alone_what_did_not_go_a_moment_ago() -> None:
    world = World()
    world.holds("a", 1).unload_backoff.failed(99.5)
    world.wants("b", 0)
    assert Policy(world.host, 100).force() is None
    assert names(Policy(world.host, 100.5).force()) == ("b", ["a"])


def test_a_plan_is_ready_when_its_victims_have_nothing_to_finish() -> None:
    world = World()
    a, b = world.holds("a", 1), world.wants("b", 0)
    assert not Plan(b, (a,)).ready
    a.in_flight.clear()
    assert Plan(b, (a,)).ready
    assert Plan(b).ready


def test_willing_are_the_idle_that_nobody_wants_past_their_hold() -> None:
    world = World()
    record = world.holds("a")
    world.wants("b", 0)
    assert names(Policy(world.host, 10).willing(None)) == ("b", ["a"])
    record.hold_until = 11
    assert Policy(world.host, 10).willing(None) is None
    assert names(Policy(world.host, 11).willing(None)) == ("b", ["a"])
    world.wants("a", 5)
    assert Policy(world.host, 11).willing(None) is None


def test_the_pinned_are_not_willing() -> None:
    world = World()
    world.holds("a", pinned=True)
    world.wants("b", 0)
    assert Policy(world.host, 10).willing(None) is None


def test_the_least_recently_used_is_willing_first() -> None:
    world = World(Limits(max_resident=2))
    world.holds("a", last_used=5)
    world.holds("b", last_used=4)
    world.wants("c", 0)
    assert names(Policy(world.host, 10).willing(None)) == ("c", ["b"])


def test_what_can_never_be() -> None:
    world = World(Limits(max_resident=1, memory_gb=10))
    record = world.host.record(Key("w"), Profile(size_gb=11), 0)
    assert told(hopeless(world.host, record)) == (
        Rejection.TOO_LARGE,
        "w takes 11 GB, and memory_budget_gb is 10; raise it",
    )
    record.profile = Profile(size_gb=10)
    assert hopeless(world.host, record) is None
    world.holds("a", pinned=True)
    assert told(hopeless(world.host, record)) == (
        Rejection.PINNED_OUT,
        "there is no room for w: a is pinned, and at most 1 model (mode, max_concurrent_models) may be in memory at a "
        "time; lift a pin or allow more",
    )


SLOTS = Limits(max_resident=2, memory_gb=24, slots={"embedding": 2})


@pytest.mark.parametrize(
    ("wanted", "pinned", "text"),
    [
        (
            (Key("e"), Profile(size_gb=0.6, slot="embedding")),
            [(Key("a"), Profile(size_gb=12)), (Key("b"), Profile(size_gb=11.5))],
            "there is no room for e, which takes 0.6 GB: a (12 GB), b (11.5 GB) are pinned, and memory_budget_gb is "
            "24; lift a pin or raise the budget",
        ),
        (
            (Key("e", (("num_ctx", 8192),)), Profile(size_gb=13)),
            [(Key("a"), Profile(size_gb=12))],
            "there is no room for e, which takes 13 GB with num_ctx 8192: a (12 GB) is pinned, and memory_budget_gb is "
            "24; lift a pin or raise the budget",
        ),
        (
            (Key("e"), Profile(slot="embedding")),
            [(Key(name), Profile(slot="embedding")) for name in "ab"],
            "there is no room for e: a, b are pinned, and at most 2 models of type embedding (swapper.slots.embedding) "
            "may be in memory at a time; lift a pin or allow more",
        ),
        (
            (Key("a", (("num_ctx", 8192), ("num_gpu", 5))), Profile()),
            [(Key("a"), Profile())],
            "a is pinned with its own options, and cannot be loaded with num_ctx 8192, num_gpu 5 beside that; ask for "
            "it as it is pinned, or lift the pin",
        ),
        (
            (Key("a", (("num_ctx", 65536),)), Profile(size_gb=25)),
            [],
            "a takes 25 GB with num_ctx 65536, and memory_budget_gb is 24; raise it, or ask for a smaller num_ctx",
        ),
    ],
)
def test_it_is_told_why_there_is_no_room(
    wanted: tuple[Key, Profile], pinned: list[tuple[Key, Profile]], text: str
) -> None:
    host = Host(SLOTS)
    for key, profile in pinned:
        host.change(host.record(key, replace(profile, pinned=True), 0), State.RESIDENT, Cause.LIMITS, 0)
    assert told(hopeless(host, host.record(*wanted, 0)))[1] == text


def told(shortage: Shortage | None) -> tuple[Rejection, str]:
    assert shortage is not None
    return shortage.reason, shortage.text(shortage.key.runner, lambda key: key.runner)
