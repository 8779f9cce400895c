"""Whatever happens in whatever order: what the scheduler promises holds, and everybody is answered once."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from swapper_proxy.core.errors import Failure
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
    UpstreamUp,
)
from swapper_proxy.core.types import EXHAUSTIVE, Cause, Key, Limits, Priority, Rules, State
from tests.core.witness import KEYS, PROFILES, VARIANTS, Witness

REFUSED = Failure(500, b"bad parameter", "text/plain")
RESULTS = {State.LOADING: (Loaded, LoadFailed), State.UNLOADING: (Unloaded, UnloadFailed)}
IMPATIENT = Rules(max_wait_s=dict.fromkeys(Priority, 2.0), kappa=0.0, gate_s=3.0, gate_swaps=0.1)

keys = st.sampled_from(KEYS)
variants = st.sampled_from(VARIANTS)
runners = st.sampled_from(sorted(PROFILES))
later = st.sampled_from((0.0, 0.25, 1.0, 5.0, 40.0))
more = st.sampled_from((False, False, True))  # whether something else happens in the same instant
residents = st.integers(1, 3)
memories = st.sampled_from((None, None, 4.5, 8.0))
slots = st.sampled_from(({}, {}, {"embed": 1}))


class Machine(RuleBasedStateMachine):
    """Clients, an operator and an Ollama around a scheduler and its twin."""

    @initialize(
        resident=residents,
        memory=memories,
        slots=slots,
        queue=st.sampled_from((2, 5, 1000)),
        timeout=st.sampled_from((None, None, 20.0)),
        drain=st.sampled_from((None, None, 4.0)),
        rules=st.sampled_from((Rules(), IMPATIENT, IMPATIENT, EXHAUSTIVE)),
        clients=st.sampled_from((("",), ("", "one", "two"))),
    )
    def begin(
        self,
        resident: int,
        memory: float | None,
        slots: dict[str, int],
        queue: int,
        timeout: float | None,
        drain: float | None,
        rules: Rules,
        clients: tuple[str, ...],
    ) -> None:
        self.clients = clients
        self.witness = Witness(
            Limits(resident, queue, timeout, memory_gb=memory, slots=slots, drain_timeout_s=drain, rules=rules),
            one_client=len(clients) == 1,
        )

    # What happens

    @rule(
        key=keys,
        ttl=st.sampled_from((None, None, None, 0.0, 3.0, float("inf"))),
        priority=st.sampled_from(Priority),
        client=st.integers(0, 2),
        variant=variants,
        more=more,
    )
    def arrive(self, key: Key, ttl: float | None, priority: Priority, client: int, variant: str, more: bool) -> None:
        w, name = self.witness, self.clients[client % len(self.clients)]
        w.happen(Arrived(w.ask(key, variant), key, w.profiles[key.runner], ttl, priority, name, variant), more)

    @rule(key=keys, cause=st.sampled_from((Cause.MANUAL, Cause.PRELOAD, Cause.DEFAULT)), variant=variants, more=more)
    def request_load(self, key: Key, cause: Cause, variant: str, more: bool) -> None:
        w = self.witness
        priority = Priority.HIGH if cause is Cause.MANUAL else Priority.LOW
        w.happen(
            LoadRequested(w.ask(key, variant), key, w.profiles[key.runner], priority, cause, variant=variant), more
        )

    @rule(runner=runners, silent=st.booleans(), more=more)
    def request_unload(self, runner: str, silent: bool, more: bool) -> None:
        self.witness.happen(UnloadRequested(self.witness.ask(None), runner, silent), more)

    @precondition(lambda self: self.witness.asked)
    @rule(data=st.data(), more=more)
    def cancel(self, data: st.DataObject, more: bool) -> None:
        self.leave(data.draw(st.sampled_from(sorted(self.witness.asked))), Cancelled, more)

    @precondition(lambda self: self.answering)
    @rule(data=st.data(), more=more)
    def finish(self, data: st.DataObject, more: bool) -> None:
        self.leave(data.draw(st.sampled_from(self.answering)), Finished, more)

    @precondition(lambda self: self.witness.under_way)
    @rule(well=st.sampled_from((True, True, False)), failure=st.sampled_from((None, REFUSED)), more=more)
    def perform(self, well: bool, failure: Failure | None, more: bool) -> None:
        state, key, generation = self.witness.under_way
        self.witness.under_way = None
        result = RESULTS[state][0 if well else 1](key, generation)
        self.witness.happen(replace(result, failure=failure) if isinstance(result, LoadFailed) else result, more)

    @rule(key=keys, kind=st.sampled_from((Loaded, LoadFailed, Unloaded, UnloadFailed)), ago=st.integers(-1, 3))
    def report_something_stale(self, key: Key, kind: type[Event], ago: int) -> None:
        w = self.witness
        if w.under_way is None or w.under_way[2] != w.generation - ago:
            w.happen(kind(key, w.generation - ago), more=True)

    @rule(present=st.lists(keys, max_size=3), ago=later, more=more)
    def observe(self, present: list[Key], ago: float, more: bool) -> None:
        w = self.witness
        w.happen(Observed(w.now - ago, tuple(map(w.sighting, present))), more)

    @rule(resident=residents, memory=memories, slots=slots, more=more)
    def change_limits(self, resident: int, memory: float | None, slots: dict[str, int], more: bool) -> None:
        w = self.witness
        limits = replace(w.limits, max_resident=resident, memory_gb=memory, slots=slots)
        w.happen(w.change_config(limits, w.profiles), more)

    @rule(runner=runners, pinned=st.booleans(), parallel=st.integers(1, 3), size=memories, more=more)
    def change_profile(self, runner: str, pinned: bool, parallel: int, size: float | None, more: bool) -> None:
        w = self.witness
        profile = replace(w.profiles[runner], pinned=pinned, parallel=parallel, size_gb=size)
        w.happen(w.change_config(w.limits, {**w.profiles, runner: profile}), more)

    @rule(more=more)
    def go_down(self, more: bool) -> None:
        self.witness.happen(self.witness.go_down(), more)

    @precondition(lambda self: self.witness.down)
    @rule(more=more)
    def come_up(self, more: bool) -> None:
        self.witness.down = False
        self.witness.happen(UpstreamUp(), more)

    @precondition(lambda self: len(self.witness.asked) > 15)
    @rule(grace=later)
    def shut_down(self, grace: float) -> None:
        self.witness.closing = True
        self.witness.happen(Shutdown(self.witness.now + grace))

    @rule(later=later)
    def time_passes(self, later: float) -> None:
        self.witness.decide()
        self.witness.now += later
        self.witness.happen(Tick())

    @precondition(lambda self: self.witness.wake is not None)
    @rule()
    def ring(self) -> None:
        self.witness.decide()
        self.witness.now = max(self.witness.now, self.witness.wake or 0.0)
        self.witness.wake = None
        self.witness.happen(Tick())

    @property
    def answering(self) -> list[int]:
        return sorted({*self.witness.in_flight, *self.witness.orphans})

    def leave(self, id_: int, how: type[Cancelled | Finished], more: bool = False) -> None:
        self.witness.happen(self.witness.leave(id_, how), more)

    def teardown(self) -> None:
        """Everything ends well: nobody is left."""
        if not hasattr(self, "witness"):
            return
        w = self.witness
        w.decide()
        if w.down:
            self.come_up(more=False)
        rounds = 0
        while w.under_way or self.answering or w.scheduler.waiting:
            rounds += 1
            assert rounds < 1000, "it goes round in circles"
            for id_ in self.answering:
                self.leave(id_, Finished)
            if w.under_way:
                self.perform(well=True, failure=None, more=False)
            elif w.scheduler.waiting and not w.in_flight:
                assert w.wake is not None, "somebody waits for nothing"
                self.ring()
        w.check_all_over()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40)
