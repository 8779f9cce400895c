"""What the scheduler costs: CPU time per event with many waiting requests over many models.

    python -m benchmarks.core [--events N] [--models M]

Closed-loop clients in virtual time keep the number of waiting requests as it is; only `handle` is measured.  Every
request, grant's end, load and unload is an event.  Targets: at most 50 us per event with 1,000 waiting over 50 models,
and no more with 10,000 than with 1,000.
"""

import argparse
import heapq
import math
import time
from collections.abc import Callable
from itertools import count
from random import Random

from swapper_proxy.core.commands import Command, Grant, StartLoad, StartUnload, WakeAt
from swapper_proxy.core.events import Arrived, Event, Finished, Loaded, Tick, Unloaded
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import Key, Limits, Priority, Profile

MODES = {
    "single-active": Limits(max_queue=10**6),
    "multi-active, 24 GB": Limits(max_resident=10**6, memory_gb=24.0, max_queue=10**6),
}
LOAD_S, UNLOAD_S = 5.0, 0.5


class World:
    """Clients and an Ollama around a scheduler."""

    def __init__(self, limits: Limits, models: int, waiting: int) -> None:
        self.scheduler = Scheduler(limits)
        self.random = Random(1)
        self.profiles = {Key(f"m{i}"): Profile(4, 1e9, self.random.uniform(4, 12)) for i in range(models)}
        self.agenda: list[tuple[float, int, Event]] = []
        self.numbers = count()
        self.wake_at = math.inf
        self.ids = self.events = 0
        self.cpu_s = 0.0
        for _ in range(waiting):
            self.arrive(0.0)

    def arrive(self, now: float) -> None:
        self.ids += 1
        key = self.random.choice(list(self.profiles))
        priority = self.random.choice(list(Priority))
        self.later(now, Arrived(self.ids, key, self.profiles[key], priority=priority))

    def later(self, at: float, event: Event) -> None:
        heapq.heappush(self.agenda, (at, next(self.numbers), event))

    def run(self, events: int) -> None:
        self.events, self.cpu_s = 0, 0.0
        while self.events < events:
            now, event = self.next()
            began = time.thread_time()
            commands = self.scheduler.handle((event,), now)
            self.cpu_s += time.thread_time() - began
            self.events += 1
            for command in commands:
                self.carry_out(command, now)
            if isinstance(event, Finished):
                self.arrive(now)

    def next(self) -> tuple[float, Event]:
        """What happens next, or the wake-up asked for last."""
        if not self.agenda or self.wake_at < self.agenda[0][0]:
            now, self.wake_at = self.wake_at, math.inf
            return now, Tick()
        now, _, event = heapq.heappop(self.agenda)
        return now, event

    def carry_out(self, command: Command, now: float) -> None:
        match command:
            case Grant(id_):
                self.later(now + self.random.uniform(0.5, 2), Finished(id_))
            case StartLoad(key, generation):
                self.later(now + LOAD_S, Loaded(key, generation))
            case StartUnload(key, generation):
                self.later(now + UNLOAD_S, Unloaded(key, generation))
            case WakeAt(at):
                self.wake_at = at


def main(show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000, metavar="N")
    parser.add_argument("--models", type=int, default=50, metavar="M")
    options = parser.parse_args()
    for mode, limits in MODES.items():
        for waiting in (100, 1_000, 10_000):
            world = World(limits, options.models, waiting)
            world.run(waiting)  # everybody has arrived
            world.run(options.events)
            us = world.cpu_s / world.events * 1e6
            show(f"{mode}: {waiting:6,} waiting over {options.models} models: {us:5.1f} us of CPU per event")


if __name__ == "__main__":
    main()
