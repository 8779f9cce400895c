"""Whatever happens in whatever order: what the scheduler promises holds, and everybody is answered once."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swapper_proxy.core.commands import Answer, Changed, Command, Grant, Reject, StartLoad, StartUnload, WakeAt
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    Event,
    Finished,
    Loaded,
    LoadFailed,
    LoadRequested,
    Observed,
    Shutdown,
    Tick,
    Unloaded,
    UnloadFailed,
    UnloadRequested,
    UpstreamDown,
    UpstreamUp,
)
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import Cause, Key, Limits, Profile, Sighting, State

KEYS = (
    Key("a"),
    Key("a", (("num_gpu", 5),)),
    Key("a", (("num_ctx", 8192),)),
    Key("a", (("num_ctx", 8192), ("num_gpu", 5))),
    Key("b"),
    Key("b", (("num_batch", 64),)),
    Key("c"),
)
PARALLEL = {"a": 1, "b": 2, "c": 3}
PROFILES = {runner: Profile(parallel, swap_timeout_s=10.0) for runner, parallel in PARALLEL.items()}
RESULTS = {State.LOADING: (Loaded, LoadFailed), State.UNLOADING: (Unloaded, UnloadFailed)}

keys = st.sampled_from(KEYS)
later = st.sampled_from((0.0, 0.25, 1.0, 5.0, 40.0))
more = st.sampled_from((False, False, True))  # whether something else happens in the same instant


class Machine(RuleBasedStateMachine):
    """Clients, an operator and an Ollama around a scheduler and its twin."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.events: list[Event] = []  # of this instant, not told yet
        self.told: list[Event] = []  # what is being answered
        self.last_id = 0
        self.asked: dict[int, Key | None] = {}  # who asked, and for which key; None: an unload
        self.outcomes: Counter[int] = Counter()
        self.cancelled: set[int] = set()
        self.in_flight: dict[int, Key] = {}  # granted, neither finished nor orphaned
        self.orphans: set[int] = set()  # granted by an Ollama that went down
        self.states: dict[Key, State] = {}
        self.adopted: set[Key] = set()
        self.under_way: tuple[State, Key, int] | None = None
        self.generation = 0
        self.wake: float | None = None
        self.down = self.closing = False

    @initialize(
        resident=st.integers(1, 3),
        queue=st.sampled_from((2, 5, 1000)),
        timeout=st.sampled_from((None, None, 20.0)),
    )
    def begin(self, resident: int, queue: int, timeout: float | None) -> None:
        self.limits = Limits(resident, queue, timeout)
        self.scheduler, self.twin = Scheduler(self.limits), Scheduler(self.limits)

    # What happens

    @rule(key=keys, ttl=st.sampled_from((None, None, None, 0.0, 3.0, float("inf"))), more=more)
    def arrive(self, key: Key, ttl: float | None, more: bool) -> None:
        self.happen(Arrived(self.ask(key), key, PROFILES[key.runner], ttl), more)

    @rule(key=keys, more=more)
    def request_load(self, key: Key, more: bool) -> None:
        self.happen(LoadRequested(self.ask(key), key, PROFILES[key.runner]), more)

    @rule(runner=st.sampled_from(sorted(PARALLEL)), more=more)
    def request_unload(self, runner: str, more: bool) -> None:
        self.happen(UnloadRequested(self.ask(None), runner), more)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), more=more)
    def cancel(self, data: st.DataObject, more: bool) -> None:
        self.leave(data.draw(st.sampled_from(sorted(self.asked))), Cancelled, more)

    @precondition(lambda self: self.in_flight or self.orphans)
    @rule(data=st.data(), more=more)
    def finish(self, data: st.DataObject, more: bool) -> None:
        self.leave(data.draw(st.sampled_from(sorted({*self.in_flight, *self.orphans}))), Finished, more)

    @precondition(lambda self: self.under_way)
    @rule(well=st.sampled_from((True, True, False)), more=more)
    def perform(self, well: bool, more: bool) -> None:
        state, key, generation = self.under_way
        self.under_way = None
        self.happen(RESULTS[state][0 if well else 1](key, generation), more)

    @rule(key=keys, kind=st.sampled_from((Loaded, LoadFailed, Unloaded, UnloadFailed)), ago=st.integers(-1, 3))
    def report_something_stale(self, key: Key, kind: type[Loaded], ago: int) -> None:
        generation = self.generation - ago
        if self.under_way is None or self.under_way[2] != generation:
            self.happen(kind(key, generation), more=True)

    @rule(present=st.lists(keys, max_size=3), ago=later, more=more)
    def observe(self, present: list[Key], ago: float, more: bool) -> None:
        self.happen(Observed(self.now - ago, tuple(Sighting(key, PROFILES[key.runner]) for key in present)), more)

    @rule(more=more)
    def go_down(self, more: bool) -> None:
        self.under_way = None
        self.orphans.update(self.in_flight)
        self.in_flight.clear()
        self.down = True
        self.happen(UpstreamDown(), more)

    @precondition(lambda self: self.down)
    @rule(more=more)
    def come_up(self, more: bool) -> None:
        self.down = False
        self.happen(UpstreamUp(), more)

    @precondition(lambda self: len(self.asked) > 15)
    @rule(grace=later)
    def shut_down(self, grace: float) -> None:
        self.closing = True
        self.happen(Shutdown(self.now + grace))

    @rule(later=later)
    def time_passes(self, later: float) -> None:
        self.decide()
        self.now += later
        self.happen(Tick())

    @precondition(lambda self: self.wake is not None)
    @rule()
    def ring(self) -> None:
        self.decide()
        self.now = max(self.now, self.wake or 0.0)
        self.happen(Tick())

    # How it is told, and what is made of the answer

    def ask(self, key: Key | None) -> int:
        self.last_id += 1
        self.asked[self.last_id] = key
        return self.last_id

    def leave(self, id_: int, how: type[Cancelled | Finished], more: bool = False) -> None:
        if how is Cancelled and not self.outcomes[id_]:
            self.cancelled.add(id_)
        self.in_flight.pop(id_, None)
        self.orphans.discard(id_)
        self.happen(how(id_), more)

    def happen(self, event: Event, more: bool = False) -> None:
        self.events.append(event)
        if not more:
            self.decide()

    def decide(self) -> None:
        self.told, self.events = self.events, []
        commands = self.scheduler.handle(self.told, self.now)
        assert commands == self.twin.handle(self.told, self.now)
        for command in commands:
            self.take(command)

    def take(self, command: Command) -> None:
        match command:
            case Grant(id_):
                self.end(id_)
                key = self.asked[id_]
                assert key is not None
                assert any(key.served_by(k) and s is State.RESIDENT for k, s in self.states.items())
                if UpstreamDown() in self.told:
                    self.orphans.add(id_)
                elif id_ not in self.cancelled:
                    self.in_flight[id_] = key
                sharing = [other for other in self.in_flight.values() if other.runner == key.runner]
                assert len(sharing) <= PARALLEL[key.runner]
            case Reject(id_) | Answer(id_):
                self.end(id_)
            case StartLoad(key, generation, for_id):
                assert not self.closing
                assert self.asked[for_id] is not None
                assert not self.outcomes[for_id]
                self.start(State.LOADING, key, generation)
            case StartUnload(key, generation):
                assert key.runner not in {other.runner for other in self.in_flight.values()}
                self.start(State.UNLOADING, key, generation)
            case Changed(key, state, cause):
                self.change(key, state, cause)
            case WakeAt(time):
                assert time > self.now
                self.wake = time

    def end(self, id_: int) -> None:
        assert id_ in self.asked
        assert id_ not in self.cancelled or Cancelled(id_) in self.told  # may be too late by a moment
        self.outcomes[id_] += 1
        assert self.outcomes[id_] == 1

    def start(self, state: State, key: Key, generation: int) -> None:
        assert not self.down
        assert self.under_way is None
        assert self.states[key] is state
        assert generation > self.generation
        self.generation = generation
        self.under_way = (state, key, generation)

    def change(self, key: Key, state: State, cause: Cause) -> None:
        if state is State.ABSENT:
            self.states.pop(key)
            self.adopted.discard(key)
            return
        self.states[key] = state
        if cause is Cause.OBSERVED:
            self.adopted.add(key)
        assert len({k.runner for k in self.states}) == len(self.states)
        assert len(self.states.keys() - self.adopted) <= self.limits.max_resident

    # What holds

    @invariant()
    def the_records_say_what_was_announced(self) -> None:
        records = self.scheduler.residencies()
        assert {record.key: record.state for record in records if record.occupies} == self.states
        assert sum(len(record.waiters) for record in records) == self.scheduler.waiting
        assert self.scheduler.waiting <= self.limits.max_queue + self.manual_loads

    @property
    def manual_loads(self) -> int:
        """They are queued beyond the limit."""
        return sum(len(record.waiters.loaders) for record in self.scheduler.residencies())

    def teardown(self) -> None:
        """Everything ends well: nobody is left."""
        if not hasattr(self, "scheduler"):
            return
        self.decide()
        if self.down:
            self.come_up(more=False)
        rounds = 0
        while self.under_way or self.in_flight or self.orphans or self.scheduler.waiting:
            rounds += 1
            assert rounds < 1000, "it goes round in circles"
            for id_ in (*self.in_flight, *self.orphans):
                self.leave(id_, Finished)
            if self.under_way:
                self.perform(well=True, more=False)
            elif self.scheduler.waiting and not self.in_flight:
                assert self.wake is not None, "somebody waits for nothing"
                self.ring()
        for record in self.scheduler.residencies():
            assert (len(record.waiters), record.in_flight, record.unloaders) == (0, {}, [])
        assert self.scheduler.waiting == 0
        for id_ in self.asked.keys() - self.cancelled:
            assert self.outcomes[id_] == 1, id_


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
