"""Ten thousand loads in a small world with clients, an operator, and an Ollama that fails, under virtual time.

All that happens is drawn from a seed, and everything comes to the scheduler as it does in life: a tick when it asked
for one, results when they are there.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from random import Random

import pytest

from swapper_proxy.core.commands import Answer, Command, Grant, Reject, StartLoad, StartUnload, WakeAt
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
from swapper_proxy.core.types import EXHAUSTIVE, Cause, Limits, Priority, Rules, State
from tests.core.witness import KEYS, PROFILES, Witness

SEEDS, LOADS_EACH = range(25), 400
IMPATIENT = Rules(max_wait_s={"high": 3.0, "medium": 6.0, "low": 20.0}, kappa=1.0, gate_s=5.0, gate_swaps=1.0)
LIMITS = (
    Limits(),
    Limits(2, rules=IMPATIENT),
    Limits(memory_gb=10.0, slots={"embed": 1}, rules=IMPATIENT),
    Limits(3, memory_gb=8.0, max_queue=12, rules=IMPATIENT),
    Limits(2, slots={"embed": 1}, queue_timeout_s=30.0, drain_timeout_s=3.0, rules=IMPATIENT),
    Limits(rules=EXHAUSTIVE),
)
LONGEST_WAIT_S = 3600.0


class LittleWorld:
    """Whoever is around one scheduler."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.limits = LIMITS[seed % len(LIMITS)]
        self.witness = Witness(self.limits, twin=False)
        self.order = count()
        self.agenda: list[tuple[float, int, Callable[[], Event | None]]] = []
        self.arrived_at: dict[int, float] = {}
        self.ended = False

    def at(self, time: float, what: Callable[[], Event | None]) -> None:
        heapq.heappush(self.agenda, (time, next(self.order), what))

    def soon(self, mean: float, what: Callable[[], Event | None]) -> None:
        self.at(self.witness.now + self.random.expovariate(1 / mean), what)

    def run(self, loads: int) -> None:
        for client in range(6):
            self.soon(1, lambda client=client: self.call(client))
        for mean, what in ((40, self.operate), (90, self.configure), (2, self.look), (400, self.crash)):
            self.soon(mean, lambda mean=mean, what=what: self.again(mean, what))
        while self.witness.loads < loads:
            self.step()
        self.end()

    def step(self) -> None:
        """All of the next instant; now and then somebody looks although nothing is due."""
        w, time = self.witness, self.agenda[0][0]
        if w.now < time and self.random.random() < 0.02:
            w.now = (w.now + time) / 2
            self.poke()
        w.now = time
        while self.agenda and self.agenda[0][0] == time:
            event = heapq.heappop(self.agenda)[2]()
            if event is not None:
                w.events.append(event)
        if w.events:
            self.carry_out(w.decide())

    def poke(self) -> None:
        """Between the times that were asked for nothing is done; at most a draining is lifted."""
        commands = self.witness.happen(Tick())
        assert not [c for c in commands if isinstance(c, Reject | Answer | StartLoad | StartUnload)]
        self.carry_out(commands)

    def carry_out(self, commands: list[Command]) -> None:
        w = self.witness
        for command in commands:
            match command:
                case Grant(id_):
                    assert w.now - self.arrived_at[id_] <= LONGEST_WAIT_S
                    self.soon(self.random.choice((0.2, 1.0, 4.0)), lambda id_=id_: self.finish(id_))
                case StartLoad(_, generation):
                    self.soon(3.0, lambda generation=generation: self.report(generation, Loaded, LoadFailed))
                case StartUnload(_, generation):
                    self.soon(0.5, lambda generation=generation: self.report(generation, Unloaded, UnloadFailed))
                case WakeAt(time):
                    self.at(time, lambda time=time: self.ring(time))

    def ring(self, time: float) -> Event | None:
        return Tick() if self.witness.wake == time else None

    def report(self, generation: int, well: type[Event], badly: type[Event]) -> Event | None:
        w = self.witness
        if w.under_way is None or w.under_way[2] != generation:
            return Loaded(self.random.choice(KEYS), generation) if self.random.random() < 0.5 else None
        _, key, _ = w.under_way
        w.under_way = None
        return (badly if self.random.random() < 0.04 else well)(key, generation)

    # Clients

    def call(self, client: int) -> Event | None:
        """One request after the other, often for the same model; sometimes somebody does not wait for the answer."""
        if self.ended:
            return None
        w, random = self.witness, self.random
        key = KEYS[client] if random.random() < 0.3 else random.choice(KEYS)
        id_ = w.ask(key)
        self.arrived_at[id_] = w.now
        self.soon(random.choice((0.3, 2.0, 10.0)), lambda: self.call(client))
        if random.random() < 0.15:
            self.soon(5.0, lambda: w.leave(id_, Cancelled))
        ttl = random.choice((None, None, None, None, 0.0, 5.0, math.inf))
        return Arrived(id_, key, w.profiles[key.runner], ttl, random.choice(tuple(Priority)))

    def finish(self, id_: int) -> Event | None:
        w = self.witness
        return w.leave(id_, Finished) if id_ in w.in_flight or id_ in w.orphans else None

    # Everybody else

    def again(self, mean: float, what: Callable[[], Event]) -> Event | None:
        if self.ended:
            return None
        self.soon(mean, lambda: self.again(mean, what))
        return what()

    def operate(self) -> Event:
        w, key = self.witness, self.random.choice(KEYS)
        if self.random.random() < 0.5:
            return UnloadRequested(w.ask(None), key.runner)
        cause = self.random.choice((Cause.MANUAL, Cause.PRELOAD, Cause.DEFAULT))
        return LoadRequested(w.ask(key), key, w.profiles[key.runner], self.random.choice(tuple(Priority)), cause)

    def configure(self) -> Event:
        """Limits come and go; a model is pinned until the next change."""
        w, random = self.witness, self.random
        profiles = dict(PROFILES)
        runner = random.choice(sorted(profiles))
        size, pinned = random.uniform(0.5, 9), random.random() < 0.3
        profiles[runner] = replace(profiles[runner], pinned=pinned, parallel=random.randint(1, 4), size_gb=size)
        smaller = replace(self.limits, max_resident=random.randint(1, 3), slots=random.choice(({}, {"embed": 1})))
        return w.change_config(random.choice((self.limits, smaller)), profiles)

    def look(self) -> Event:
        """What Ollama lists; now and then one has vanished, or somebody else has loaded one."""
        w, random = self.witness, self.random
        listed = [k for k, state in w.states.items() if state is not State.LOADING and random.random() > 0.02]
        if random.random() < 0.02:
            listed.append(random.choice(KEYS))
        return Observed(w.now - random.uniform(0, 0.2), tuple(map(w.sighting, listed)))

    def crash(self) -> Event:
        self.soon(8.0, self.come_back)
        return self.witness.go_down()

    def come_back(self) -> Event:
        self.witness.down = False
        return UpstreamUp()

    def end(self) -> None:
        """Nobody calls any more; whoever is there is served, then the proxy stops."""
        w = self.witness
        self.ended = True
        limit = w.now + 10 * LONGEST_WAIT_S
        while w.scheduler.waiting or w.in_flight or w.orphans or w.under_way or w.down:
            assert self.agenda, "somebody waits for nothing"
            assert w.now < limit, "somebody waits for ever"
            self.step()
        w.closing = True
        w.happen(Shutdown(w.now + 10))
        w.check_all_over()


@pytest.mark.no_cover  # it would take three times as long, and there is nothing new to cover
@pytest.mark.parametrize("seed", SEEDS)
def test_a_long_run(seed: int) -> None:
    world = LittleWorld(seed)
    world.run(LOADS_EACH)
    assert world.witness.loads >= LOADS_EACH


def test_all_runs_together_are_ten_thousand_loads() -> None:
    assert len(SEEDS) * LOADS_EACH >= 10_000
