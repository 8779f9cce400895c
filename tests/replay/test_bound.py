"""How long a load can be put off, whatever else is wanted: the bound that ARCHITECTURE.md states."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapper_proxy.core.commands import Command, StartLoad, StartUnload
from swapper_proxy.core.estimates import LOAD_UNKNOWN_S, UNLOAD_S
from swapper_proxy.core.events import Arrived, Event, Loaded, Unloaded
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import Key, Limits, Priority, Rules
from swapper_proxy.replay import host
from swapper_proxy.replay.simulation import Policy, Simulation, simulate
from swapper_proxy.replay.workload import Model, Step, Workload

RULES = Rules()


Party = tuple[str, Priority]
ClientOf = Callable[[Arrived], str]


def nobody(event: Arrived) -> str:
    return ""


def other_for_z(event: Arrived) -> str:
    return "other" if event.key.runner == "z" else "one"


def of_three(event: Arrived) -> str:
    return str(event.id % 3)


def key_of(name: str) -> Key:
    """Two letters are weights and an option: "ax" and "ay" are variants of one model."""
    return Key(name[0], tuple(("num_ctx", ord(letter)) for letter in name[1:]))


def name_of(key: Key) -> str:
    return key.runner + "".join(chr(int(value)) for _, value in key.options)


class Watched:
    """A scheduler, and by how much each load began later than the bound allows for any who waited for it.

    `client_of` names the client of each request.
    """

    def __init__(self, workload: Workload, limits: Limits, client_of: ClientOf) -> None:
        self.scheduler = Scheduler(limits)
        self.client_of = client_of
        slowest: dict[str, float] = {}  # variants have the times of their weights
        for name, m in workload.models.items():
            swap_s = max(m.load_s, LOAD_UNKNOWN_S) + max(m.unload_s, UNLOAD_S)
            slowest[name[0]] = max(slowest.get(name[0], 0.0), swap_s)
        self.swap_s = {key_of(name): slowest[name[0]] for name in workload.models}
        self.longest_s = max(step.service_s for client in workload.clients for step in client)
        self.arrived: dict[int, tuple[float, Arrived]] = {}
        self.left_at: dict[Key, float] = {}
        self.parties: dict[Party, float] = {}  # with the slowest swap that each has waited for
        self.turns: dict[Party, list[tuple[float, Key]]] = {}
        self.late: list[float] = []

    def handle(self, events: Sequence[Event], now: float) -> list[Command]:
        told = [self.told(event, now) for event in events]
        loaded = [event.key for event in told if isinstance(event, Loaded)]
        heads = [(key, self.scheduler.host.records[key].head) for key in loaded]
        commands = self.scheduler.handle(told, now)
        for command in commands:
            if isinstance(command, StartLoad):
                waiters = self.scheduler.host.records[command.key].waiters
                self.late += [now - self.bound(*self.arrived[waiter.id]) for waiter in waiters]
                heads.append((command.key, self.scheduler.host.records[command.key].head))
        for key, head in heads:
            if head is not None:
                self.turns.setdefault(self.party(self.arrived[head.id][1]), []).append((now, key))
        return [replace(c, key=Key(name_of(c.key))) if isinstance(c, Changing) else c for c in commands]

    def told(self, event: Event, now: float) -> Event:
        """The same event of the variant that the name of the model means."""
        if isinstance(event, Arrived | Loaded | Unloaded):
            event = replace(event, key=key_of(event.key.runner))
        if isinstance(event, Arrived):
            event.client = self.client_of(event)
            self.arrived[event.id] = now, event
            self.parties[self.party(event)] = max(self.parties.get(self.party(event), 0.0), self.swap_s[event.key])
        elif isinstance(event, Unloaded):
            self.left_at[event.key] = now
        return event

    def party(self, event: Arrived) -> Party:
        return f"client {event.client}" if event.client else event.key.runner, event.priority

    def bound(self, at: float, event: Arrived) -> float:
        """deadline + for every other party: swap, gate, one longest service + what is in memory at the deadline.

        A key that had to leave although others waited has had its turn: its next one counts from then.  What a party
        waits for besides counts from its last turn.
        """
        own, party = self.swap_s[event.key], self.party(event)
        since = max([at, *(time for time, key in self.turns.get(party, ()) if key != event.key)])
        quickness = RULES.patience_swaps * own / RULES.max_wait_s[Priority.MEDIUM]
        longest = RULES.max_wait_s[event.priority]
        fair = min(RULES.kappa * sum(self.parties.values()), RULES.fair_waits * longest)
        deadline = max(since + max(longest * min(1.0, quickness), fair), self.left_at.get(event.key, 0.0))
        others = [swap for other, swap in self.parties.items() if other != party]
        turns = sum(s + gate_s(s) + self.longest_s for s in others)
        slowest = max(self.parties.values())
        return deadline + turns + gate_s(slowest) + slowest + self.longest_s


Changing = StartLoad | StartUnload


def gate_s(swap_s: float) -> float:
    return max(RULES.gate_s, RULES.gate_swaps * swap_s)


def lateness(workload: Workload, client_of: ClientOf = nobody) -> float:
    """By how many seconds the worst load came too late; negative: in time."""
    box = host.of(workload)
    watched = Watched(workload, box.limits, client_of)
    simulation = Simulation(workload, box, watched, one_at_a_time=False)
    simulation.run()
    assert not simulation.audit.violations
    return max(watched.late)


def queue(model: str, number: int, at: float, service_s: float, priority: Priority) -> list[list[Step]]:
    step = Step(model=model, service_s=service_s, after_s=at, priority=priority)
    return [[step] for _ in range(number)]


NAMES = ("a", "ax", "ay", "b", "bx", "c", "d")

queues = st.lists(
    st.builds(
        queue,
        st.sampled_from(NAMES),
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
@given(queues, st.fixed_dictionaries(dict.fromkeys(NAMES, models)), st.sampled_from((nobody, other_for_z, of_three)))
def test_no_load_is_put_off_beyond_the_bound(
    queues: list[list[list[Step]]], models: dict[str, Model], client_of: ClientOf
) -> None:
    steps = [client for queue in queues for client in queue]
    assert lateness(Workload(models=models, clients=steps, mode="single-active"), client_of) <= 0


@pytest.mark.parametrize("client_of", [nobody, other_for_z])
@pytest.mark.parametrize("names", [[f"a{chr(120 + i)}" for i in range(64)], [chr(200 + i) for i in range(64)]])
def test_what_one_client_wants_besides_puts_nobody_off(names: list[str], client_of: ClientOf) -> None:
    """64 variants of one model, or 64 models; the last request is of another model."""
    models = dict.fromkeys([*names, "z"], Model(load_s=10.0, unload_s=1.0))
    waiting = [steps for name in names for steps in queue(name, 1, 0.0, 5.0, Priority.MEDIUM)]
    waiting += queue("z", 1, 1.0, 5.0, Priority.MEDIUM)
    assert lateness(Workload(models=models, clients=waiting, mode="single-active"), client_of) <= 0


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
