"""Small workloads worked out by hand, and schedulers that misbehave."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapper_proxy.config import Model as Configured
from swapper_proxy.config import Settings, Swapper
from swapper_proxy.core.commands import Command, Grant, Reject, StartLoad, StartUnload, WakeAt
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import Arrived, Event, Finished, Loaded, Tick, Unloaded
from swapper_proxy.core.types import EXHAUSTIVE, Key, Limits, Priority
from swapper_proxy.replay import host, report
from swapper_proxy.replay.simulation import Policy, Simulation, limits, simulate
from swapper_proxy.replay.workload import Model, Step, Workload

A, B = Key("a"), Key("b")


def asks(model: str, service_s: float = 1.0, after_s: float = 0.0, priority: Priority | None = None) -> Step:
    return Step(model=model, service_s=service_s, after_s=after_s, priority=priority)


def work(*clients: Sequence[Step], **said: object) -> Workload:
    models = {"a": Model(load_s=10.0, unload_s=1.0, size_gb=4.0), "b": Model(load_s=5.0, unload_s=0.5, size_gb=4.0)}
    return Workload(**{"models": models, "clients": clients, **said})  # type: ignore[arg-type]


def run(workload: Workload, policy: Policy = Policy.EXHAUSTIVE) -> report.Result:
    result = simulate(workload, host.of(workload), policy)
    assert result.violations == []
    return result


class Scripted:
    """Says what it was told to say, one list of commands for each call, and remembers what it heard."""

    def __init__(self, *script: Sequence[Command]) -> None:
        self.script, self.heard = list(script), list[tuple[float, list[Event]]]()

    def handle(self, events: Sequence[Event], now: float) -> list[Command]:
        self.heard.append((now, list(events)))
        return list(self.script.pop(0)) if self.script else []


def violations(workload: Workload, *script: Sequence[Command], limits: Limits | None = None) -> list[str]:
    box = host.of(workload)
    simulation = Simulation(workload, replace(box, limits=limits or box.limits), Scripted(*script))
    simulation.run()
    return simulation.audit.violations


# Worked out by hand


def test_one_model() -> None:
    """Loaded at 10; the first runs until 12, the second (released at 3) until 13."""
    result = run(work([asks("a", 2.0)], [asks("a", 1.0, after_s=3.0)]))
    assert (result.loads, result.unloads, result.load_time_s, result.makespan_s) == (1, 0, 10.0, 13.0)
    assert result.wait_s == report.Waits(9.5, 9.0, 10.0, 10.0, 10.0)
    assert result.throughput_per_min == pytest.approx(120 / 13)


def test_a_swap() -> None:
    """a until 12, unloaded at 13, b loaded at 18 and served until 19."""
    result = run(work([asks("a", 2.0)], [asks("b", 1.0, after_s=3.0)]))
    assert (result.loads, result.unloads, result.load_time_s, result.makespan_s) == (2, 1, 15.0, 19.0)
    assert result.per_model["b"] == report.ModelResult(1, 0, 1, 5.0, 1.0, report.summary([15.0]))


def test_a_client_is_a_closed_loop() -> None:
    """Answered at 12; the next is released at 16 and waits for nothing."""
    result = run(work([asks("a", 2.0), asks("a", 3.0, after_s=4.0)]))
    assert (result.makespan_s, result.per_model["a"].service_s, result.wait_s.mean) == (19.0, 5.0, 5.0)


def test_nothing_is_released_after_the_end() -> None:
    steps = [asks("a", 2.0), asks("a", 3.0, after_s=4.0), asks("a", 1.0)]
    assert run(work(steps, until_s=16.0)).requests == 2
    assert run(work(steps, until_s=15.9)).requests == 1
    assert run(work(steps, until_s=0.0)).requests == 1


def test_parallel_requests() -> None:
    models = {"a": Model(load_s=10.0, parallel=2)}
    result = run(work(*[[asks("a", 4.0)]] * 3, models=models))
    assert (result.makespan_s, result.wait_s.max) == (18.0, 14.0)


def test_the_line_is_strict_under_fifo() -> None:
    """a, b, a: exhaustive serves both of a (11, 12), then b (17.5); in the line b comes first and a is loaded twice."""
    workload = work([asks("a")], [asks("b", after_s=0.1)], [asks("a", after_s=0.2)])
    exhaustive, fifo = run(workload), run(workload, Policy.FIFO)
    assert (exhaustive.loads, exhaustive.makespan_s) == (2, 12.0 + 1.0 + 5.0 + 1.0)
    assert (fifo.loads, fifo.makespan_s) == (3, 11.0 + 1.0 + 5.0 + 1.0 + 0.5 + 10.0 + 1.0)
    assert fifo.wait_s.max == pytest.approx(28.5 - 0.2)


def test_the_line_fills_what_is_parallel() -> None:
    models = {"a": Model(load_s=10.0, parallel=2), "b": Model(load_s=5.0)}
    clients = [[asks("a", 4.0)], [asks("a", 4.0)], [asks("b", 1.0)], [asks("a", 1.0)]]
    result = run(work(*clients, models=models), Policy.FIFO)
    assert (result.loads, result.makespan_s) == (3, 14.0 + 5.0 + 1.0 + 10.0 + 1.0)


def test_two_models_side_by_side() -> None:
    clients = [[asks("a")], [asks("b")]]
    assert run(work(*clients, mode="multi-active", max_concurrent_models=2)).unloads == 0
    assert run(work(*clients, mode="multi-active")).unloads == 1


def test_nobody_asks() -> None:
    assert run(work()).wait_s == report.Waits(0.0, 0.0, 0.0, 0.0, 0.0)
    assert run(work([], [])).throughput_per_min == 0.0


def test_who_is_rejected_goes_on() -> None:
    workload = work([asks("a", 5.0)], [asks("a"), asks("a", after_s=20.0)])
    box = replace(host.of(workload), limits=Limits(max_queue=1))
    result = simulate(workload, box, Policy.EXHAUSTIVE)
    assert (result.requests, result.rejected, result.per_model["a"].rejected) == (3, 1, 1)
    assert (result.makespan_s, result.violations) == (21.0, [])


def test_percentiles_are_nearest_rank() -> None:
    assert report.summary(range(1, 11)) == report.Waits(5.5, 5, 10, 10, 10)
    assert report.summary(range(1, 201)) == report.Waits(100.5, 100, 190, 198, 200)


# What the scheduler is told, and when


def test_the_scheduler_hears_all_of_an_instant_at_once() -> None:
    scheduler = Scripted(
        [StartLoad(A, 1, 0), WakeAt(10.0)], [Grant(0)], [Grant(1)], [StartUnload(A, 2), WakeAt(12.0)], [WakeAt(None)]
    )
    workload = work([asks("a", 0.0), asks("a", 0.5, priority=Priority.HIGH)], [asks("b", after_s=12.0)])
    Simulation(workload, host.of(workload), scheduler).run()
    profile = host.of(workload).profiles["a"]
    assert scheduler.heard == [
        (0.0, [Arrived(0, A, profile)]),
        (10.0, [Loaded(A, 1), Tick()]),
        (10.0, [Finished(0), Arrived(1, A, profile, priority=Priority.HIGH)]),
        (10.5, [Finished(1)]),
        (11.5, [Unloaded(A, 2)]),
        (12.0, [Arrived(2, B, profile)]),
    ]


def test_the_progress_adds_up() -> None:
    told: list[int] = []
    workload = work([asks("a", 0.1)] * 2500)
    simulate(workload, host.of(workload), Policy.EXHAUSTIVE, told.append)
    assert told == [1000, 1000, 500]


# Violations


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([[Grant(0)]], "0.000 s: request 0 is granted while a is absent"),
        ([[StartLoad(A, 1, 0), Grant(0)]], "0.000 s: request 0 is granted while a is loading"),
        ([[StartLoad(A, 1, 0)], [Grant(0), Grant(0)]], "10.000 s: request 0 for a is granted twice"),
        (
            [[StartLoad(A, 1, 0)], [Grant(0)], [Grant(0)]],
            "11.000 s: request 0 is granted, but it is answered already or was never made",
        ),
        ([[StartLoad(A, 1, 0)], [Grant(7)]], "10.000 s: request 7 is granted, but"),
        ([[StartLoad(A, 1, 0)], [Grant(0), Reject(0, Rejection.QUEUE_FULL)]], "a is rejected after it was granted"),
        ([[Reject(7, Rejection.QUEUE_FULL)]], "request 7 is rejected, but"),
        ([[StartLoad(A, 1, 0)], [Grant(0), Grant(1)]], "10.000 s: 2 requests in flight for a, at most 1"),
        ([[StartLoad(A, 1, 0)], [Grant(0), StartUnload(A, 2)]], "10.000 s: unload of a with 1 requests in flight"),
        ([[StartUnload(A, 1)]], "0.000 s: unload of a, which is absent"),
        ([[StartLoad(A, 1, 0)], [StartLoad(A, 2, 0)]], "10.000 s: load of a, which is resident"),
        ([[StartLoad(A, 1, 0), StartLoad(B, 2, 2)]], "load of b while another load or unload is under way"),
        ([[StartLoad(A, 1, 0)], [StartUnload(A, 2), StartLoad(B, 3, 2)]], "load of b while another"),
        ([[StartLoad(A, 1, 0)], [StartLoad(B, 2, 2)]], "10.000 s: load of b: 2 models, at most 1"),
        ([[StartLoad(A, 1, 0)], [StartUnload(A, 2)]], "10.000 s: a was loaded without any grant, and 2 who waited"),
        ([[StartLoad(A, 1, 0)]], "a was loaded without any grant"),
        ([[Reject(2, Rejection.QUEUE_FULL), StartLoad(B, 1, 0)]], "0.000 s: load of b, for which nobody waits"),
        ([[]], "0.000 s: request 1 for a is lost: never granted nor rejected"),
    ],
)
def test_misbehaviour_is_noticed(script: list[list[Command]], said: str) -> None:
    found = violations(work([asks("a")], [asks("a")], [asks("b")]), *script)
    assert [violation for violation in found if said in violation] != [], found


def test_a_load_is_in_order_if_all_who_waited_left() -> None:
    script = [[StartLoad(A, 1, 0)], [Reject(0, Rejection.QUEUE_TIMEOUT), StartUnload(A, 2)]]
    assert violations(work([asks("a")]), *script) == []
    assert len(violations(work([asks("a")], [asks("a")]), *script)) == 2


def test_memory_and_slots() -> None:
    workload = work([asks("a")], [asks("b")])
    loads = [[StartLoad(A, 1, 0)], [Grant(0), StartLoad(B, 2, 1)], [], [Grant(1)]]
    assert violations(workload, *loads, limits=Limits(max_resident=2)) == []
    found = violations(workload, *loads, limits=Limits(max_resident=2, memory_gb=7.5))
    assert found == ["10.000 s: load of b: 8 GB, at most 7.5"]
    found = violations(workload, *loads, limits=Limits(max_resident=0, slots={"": 1}))
    assert found == ["10.000 s: load of b: 2 models of type , at most 1"]


def test_a_scheduler_that_goes_round_in_circles_ends() -> None:
    class Restless(Scripted):
        def handle(self, events: Sequence[Event], now: float) -> list[Command]:
            return [WakeAt(now)]

    workload = work([asks("a")])
    simulation = Simulation(workload, host.of(workload), Restless())
    simulation.run()
    assert simulation.audit.violations[0] == "0.000 s: woken 10000 times in a row for nothing"


def test_not_every_violation_is_described() -> None:
    found = violations(work(*[[asks("a")]] * 150))
    assert (len(found), found[-1]) == (101, "and 50 more")


# The host


def test_the_workload_wins_over_the_configuration() -> None:
    configured = Settings(
        swapper=Swapper(mode="multi-active", max_concurrent_models=3, max_queue=7, parallel=2),
        models={"a": Configured(path="ollama:a", type="embedding", size_gb=1.0, priority="high", parallel=5)},
    )
    silent = work(models={"a": Model(load_s=1.0), "b": Model(load_s=1.0)})
    box = host.of(silent, configured)
    assert (box.limits.max_resident, box.limits.max_queue) == (3, 7)
    assert (box.profiles["a"].parallel, box.profiles["a"].size_gb, box.profiles["a"].slot) == (5, 1.0, "embedding")
    assert (box.priorities, box.profiles["b"].parallel) == ({"a": Priority.HIGH, "b": Priority.MEDIUM}, 2)
    model = Model(load_s=1.0, size_gb=2.0, priority=Priority.LOW, parallel=1)
    box = host.of(work(models={"a": model}, mode="single-active"), configured)
    assert (box.limits.max_resident, box.profiles["a"].size_gb, box.profiles["a"].parallel) == (1, 2.0, 1)
    assert box.priorities == {"a": Priority.LOW}


def test_pins_and_queues_of_the_configuration_hold_in_the_replay() -> None:
    configured = Settings(models={"a": Configured(path="ollama:a", pinned=True, max_queue=2)})
    models = {"a": Model(load_s=1.0), "b": Model(load_s=1.0)}
    clients = [[Step(model="a", service_s=1.0)], [Step(model="b", service_s=1.0, after_s=5.0)]]
    work_ = Workload(models=models, clients=clients, mode="single-active")
    box = host.of(work_, configured)
    assert (box.profiles["a"].pinned, box.profiles["a"].max_queue) == (True, 2)
    assert simulate(work_, box, Policy.BOUNDED_WAIT).per_model["b"].rejected == 1


def test_a_budget_may_be_the_only_limit() -> None:
    assert host.of(work(mode="multi-active", memory_budget_gb=10.0)).limits.max_resident == host.UNLIMITED
    both = host.of(work(mode="multi-active", memory_budget_gb=10.0, max_concurrent_models=2)).limits
    assert (both.max_resident, both.memory_gb) == (2, 10.0)


def test_the_limits_of_a_policy() -> None:
    given = Limits(max_queue=5)
    assert limits(given, Policy.BOUNDED_WAIT) == given
    assert limits(given, Policy.FIFO) == limits(given, Policy.EXHAUSTIVE) == replace(given, rules=EXHAUSTIVE)


@pytest.mark.parametrize("policy", Policy)
def test_a_budget_is_kept(policy: Policy) -> None:
    models = {"a": Model(load_s=10.0, size_gb=4.0), "b": Model(load_s=5.0, size_gb=4.0)}
    models["huge"] = Model(load_s=1.0, size_gb=9.0)
    clients = [[asks("a")], [asks("b")], [asks("huge"), asks("b", after_s=100.0)]]
    workload = work(*clients, models=models, mode="multi-active", memory_budget_gb=7.0)
    result = simulate(workload, host.of(workload), policy)
    assert (result.requests, result.rejected, result.loads, result.violations) == (4, 1, 2, [])


# Whatever the workload

times = st.sampled_from((0.0, 0.1, 1.0, 7.0, 60.0))
models = st.builds(
    Model, load_s=times, unload_s=times, size_gb=st.sampled_from((None, 1.0, 5.0)), parallel=st.integers(1, 3)
)
steps = st.builds(
    Step,
    model=st.sampled_from("abc"),
    service_s=times,
    after_s=times,
    priority=st.sampled_from((None, *Priority)),
)
workloads = st.builds(
    Workload,
    models=st.fixed_dictionaries(dict.fromkeys("abc", models)),
    clients=st.lists(st.lists(steps, max_size=6), max_size=6),
    mode=st.sampled_from(("single-active", "multi-active")),
    max_concurrent_models=st.sampled_from((None, 2)),
)


@given(workloads, st.sampled_from(Policy))
def test_everybody_is_answered_and_nothing_is_violated(workload: Workload, policy: Policy) -> None:
    result = simulate(workload, host.of(workload), policy)
    assert (result.requests, result.rejected, result.violations) == (workload.requests, 0, [])
    assert result == simulate(workload, host.of(workload), policy)
