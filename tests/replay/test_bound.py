"""How long a load can be put off, whatever else is wanted: the bound that ARCHITECTURE.md states."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from swapper_proxy.core.commands import Command, StartLoad
from swapper_proxy.core.estimates import LOAD_UNKNOWN_S, UNLOAD_S
from swapper_proxy.core.events import Arrived, Event, Unloaded
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import Limits, Priority, Rules
from swapper_proxy.replay import host
from swapper_proxy.replay.simulation import Policy, Simulation, simulate
from swapper_proxy.replay.workload import Model, Step, Workload

RULES = Rules()


class Watched:
    """A scheduler, and by how much each load began later than the bound allows for any who waited for it.

    Every so many requests are of as many clients.
    """

    def __init__(self, workload: Workload, limits: Limits, clients: int) -> None:
        self.scheduler = Scheduler(limits)
        self.clients = clients
        self.swap_s = {
            name: max(m.load_s, LOAD_UNKNOWN_S) + max(m.unload_s, UNLOAD_S) for name, m in workload.models.items()
        }
        self.longest_s = max(step.service_s for client in workload.clients for step in client)
        self.arrived: dict[int, tuple[float, Arrived]] = {}
        self.left_at: dict[str, float] = {}
        self.late: list[float] = []

    def handle(self, events: Sequence[Event], now: float) -> list[Command]:
        for event in events:
            if isinstance(event, Arrived):
                event.client = str(event.id % self.clients)
                self.arrived[event.id] = now, event
        self.left_at |= {event.key.runner: now for event in events if isinstance(event, Unloaded)}
        commands = self.scheduler.handle(events, now)
        for command in commands:
            if isinstance(command, StartLoad):
                waiters = self.scheduler.host.records[command.key].waiters
                self.late += [now - self.bound(*self.arrived[waiter.id]) for waiter in waiters]
        return commands

    def bound(self, at: float, event: Arrived) -> float:
        """deadline + for every other key: swap, gate, one longest service + an unload + one longest service.

        A key that had to leave although others waited has had its turn: its next one counts from then.
        """
        own = self.swap_s[event.key.runner]
        quickness = RULES.patience_swaps * own / RULES.max_wait_s[Priority.MEDIUM]
        patience = RULES.max_wait_s[event.priority] * min(1.0, quickness)
        deadline = at + max(patience, RULES.kappa * sum(self.swap_s.values()))
        deadline = max(deadline, self.left_at.get(event.key.runner, 0.0))
        others = [swap for name, swap in self.swap_s.items() if name != event.key.runner]
        turns = sum(s + max(RULES.gate_s, RULES.gate_swaps * s) + self.longest_s for s in others)
        return deadline + turns + max(self.swap_s.values()) + self.longest_s


def lateness(workload: Workload, clients: int = 1) -> float:
    """By how many seconds the worst load came too late; negative: in time."""
    box = host.of(workload)
    watched = Watched(workload, box.limits, clients)
    simulation = Simulation(workload, box, watched, one_at_a_time=False)
    simulation.run()
    assert not simulation.audit.violations
    return max(watched.late)


def queue(model: str, number: int, at: float, service_s: float, priority: Priority) -> list[list[Step]]:
    step = Step(model=model, service_s=service_s, after_s=at, priority=priority)
    return [[step] for _ in range(number)]


queues = st.lists(
    st.builds(
        queue,
        st.sampled_from("abcd"),
        st.sampled_from((1, 1, 3, 30)),
        st.sampled_from((0.0, 1.0, 20.0, 100.0, 400.0)),
        st.sampled_from((0.1, 5.0, 20.0)),
        st.sampled_from(list(Priority)),
    ),
    min_size=1,
    max_size=12,
)
models = st.builds(
    Model,
    load_s=st.sampled_from((0.3, 5.0, 40.0)),
    unload_s=st.sampled_from((0.0, 1.0)),
    parallel=st.sampled_from((1, 4)),
)


@settings(max_examples=150)
@given(queues, st.fixed_dictionaries(dict.fromkeys("abcd", models)), st.sampled_from((1, 3)))
def test_no_load_is_put_off_beyond_the_bound(
    queues: list[list[list[Step]]], models: dict[str, Model], names: int
) -> None:
    clients = [client for queue in queues for client in queue]
    assert lateness(Workload(models=models, clients=clients, mode="single-active"), names) <= 0


def test_two_long_queues_do_not_take_turns_before_a_third() -> None:
    """Both are due long before the third, and stay so until they are empty, after forty minutes."""
    models = dict.fromkeys("abc", Model(load_s=10.0, unload_s=1.0))
    waiting = [
        *queue("a", 200, 0.0, 5.0, Priority.MEDIUM),
        *queue("b", 200, 0.0, 5.0, Priority.MEDIUM),
        *queue("c", 1, 1.0, 5.0, Priority.LOW),
    ]
    assert lateness(Workload(models=models, clients=waiting, mode="single-active")) <= 0


def test_a_large_model_finds_room_among_small_ones_that_are_never_idle() -> None:
    """Three of ten small ones fit at once, the large one only alone: it waits for the gates of those three."""
    models = {name: Model(load_s=10.0, unload_s=1.0, size_gb=8.0) for name in "abcdefghij"}
    models["large"] = Model(load_s=10.0, unload_s=1.0, size_gb=24.0)
    busy = [[Step(model=name, service_s=5.0)] * 60 for name in "abcdefghij" for _ in range(20)]
    large = [Step(model="large", service_s=5.0, after_s=100.0)]
    work = Workload(models=models, clients=[*busy, large], mode="multi-active", memory_budget_gb=24.0, until_s=3600.0)
    result = simulate(work, host.of(work), Policy.BOUNDED_WAIT)
    assert not result.violations
    assert result.per_model["large"].wait_s.max <= 600
