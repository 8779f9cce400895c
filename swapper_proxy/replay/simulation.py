"""Drives a scheduler through a workload in virtual time.

1. Time jumps to the next instant at which something happens or the scheduler wants to be woken.
2. All events of that instant are told in one call; a client whose request is answered and who asks again at once does
   so in the same call.
3. The commands are carried out with the true times of the workload, which the scheduler never sees.  What they cause
   at the same instant (a service of no length) goes to a further decision.

No clock is read: the same workload gives the same result.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from heapq import heappop, heappush
from typing import Protocol

from swapper_proxy.core.commands import Command, Grant, Reject, StartLoad, StartUnload, WakeAt
from swapper_proxy.core.events import Arrived, Event, Finished, Loaded, Tick, Unloaded
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import EXHAUSTIVE, Key, Limits
from swapper_proxy.replay import report
from swapper_proxy.replay.audit import Audit
from swapper_proxy.replay.host import Host
from swapper_proxy.replay.workload import Step, Workload

# So many wake-ups in a row without any event: the scheduler goes round in circles.
IDLE_WAKE_UPS = 10_000

PROGRESS_EVERY = 1000  # answers


class Policy(StrEnum):
    """What is compared.  `fifo` is the exhaustive scheduler that is shown one waiter at a time."""

    FIFO = "fifo"
    EXHAUSTIVE = "exhaustive"
    BOUNDED_WAIT = "bounded-wait"


class Decider(Protocol):
    """The scheduler, as far as the simulation knows it."""

    def handle(self, events: Sequence[Event], now: float) -> list[Command]: ...


def simulate(
    workload: Workload, host: Host, policy: Policy, progress: Callable[[int], object] = lambda answered: None
) -> report.Result:
    """Run a workload under a policy; `progress` is told now and then how many more requests were answered."""
    simulation = Simulation(workload, host, Scheduler(limits(host.limits, policy)), policy is Policy.FIFO, progress)
    simulation.run()
    return report.result(policy, simulation.tallies, simulation.makespan_s, simulation.audit.violations)


def limits(given: Limits, policy: Policy) -> Limits:
    """The limits under a policy."""
    return given if policy is Policy.BOUNDED_WAIT else replace(given, rules=EXHAUSTIVE)


@dataclass(slots=True)
class _Client:
    """A closed loop: the steps, and how many of them were released."""

    steps: Sequence[Step]
    released: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    client: _Client
    step: Step
    released_at: float


class _Line:
    """Arrivals that the scheduler was not shown yet: it sees all at once, or the next when the one before has gone."""

    def __init__(self, one_at_a_time: bool) -> None:
        self._one_at_a_time = one_at_a_time
        self._arrivals: deque[Arrived] = deque()
        self._shown: int | None = None

    @property
    def ready(self) -> bool:
        return bool(self._arrivals) and self._shown is None

    def join(self, arrival: Arrived) -> None:
        self._arrivals.append(arrival)

    def shown(self) -> list[Arrived]:
        """Who is shown now."""
        if not self._one_at_a_time:
            arrivals, self._arrivals = self._arrivals, deque()
            return list(arrivals)
        if not self.ready:
            return []
        self._shown = self._arrivals[0].id
        return [self._arrivals.popleft()]

    def gone(self, request: int) -> None:
        if request == self._shown:
            self._shown = None


class Simulation:
    """One run.  Afterwards read `tallies` (by model), `makespan_s` and `audit.violations`."""

    def __init__(
        self,
        workload: Workload,
        host: Host,
        scheduler: Decider,
        one_at_a_time: bool = False,
        progress: Callable[[int], object] = lambda answered: None,
    ) -> None:
        self.tallies = {name: report.Tally() for name in workload.models}
        self.makespan_s = 0.0
        self.audit = Audit(host)
        self._models, self._host, self._scheduler = workload.models, host, scheduler
        self._keys = {name: Key(name) for name in workload.models}
        self._line = _Line(one_at_a_time)
        self._until = math.inf if workload.until_s is None else workload.until_s
        self._now, self._wake_at = 0.0, math.inf
        self._released = self._answered = 0
        self._requests: dict[int, _Request] = {}  # those not answered yet
        self._agenda: list[tuple[float, int, _Client | Event]] = []  # the number keeps those of one instant in order
        self._entries = 0
        self._progress = progress
        self._arrivals = iter(workload.arrivals)
        self._coming = next(self._arrivals, None)
        for steps in workload.clients:
            self._invite(_Client(steps))

    def run(self) -> None:
        """Until everybody is answered, or nothing happens any more."""
        idle = 0
        while (instant := self._next_instant()) < math.inf and idle < IDLE_WAKE_UPS:
            self._now = instant
            events = self._events()  # 2
            if woken := self._wake_at <= instant:
                self._wake_at = math.inf
            idle = 0 if events else idle + 1
            for command in self._scheduler.handle([*events, Tick()] if woken else events, instant):
                self._carry_out(command)  # 3
        if idle == IDLE_WAKE_UPS:
            self.audit.note(self._now, f"woken {idle} times in a row for nothing")
        self._progress(self._answered % PROGRESS_EVERY)
        self.audit.closed(self._now)

    # 1. Time

    def _next_instant(self) -> float:
        if self._line.ready:
            return self._now
        due = self._agenda[0][0] if self._agenda else math.inf
        if self._coming is not None:
            due = min(due, self._coming.after_s)
        if due == math.inf:
            return max(self._now, self._wake_at) if self._requests else math.inf
        return max(self._now, min(due, self._wake_at))

    def _at(self, time: float, what: _Client | Event) -> None:
        self._entries += 1
        heappush(self._agenda, (time, self._entries, what))

    # 2. What happens

    def _events(self) -> list[Event]:
        """All of this instant."""
        events: list[Event] = []
        self._let_come()
        while self._agenda and self._agenda[0][0] <= self._now:
            what = heappop(self._agenda)[2]
            if isinstance(what, _Client):
                self._release(what)
            else:
                self._happen(what)
                events.append(what)
        events += self._line.shown()
        return events

    def _let_come(self) -> None:
        while self._coming is not None and self._coming.after_s <= min(self._now, self._until):
            self._release(_Client((self._coming,)))
            self._coming = next(self._arrivals, None)

    def _happen(self, event: Event) -> None:
        match event:
            case Finished(request):
                self.audit.finished(self._requests[request].step.model)
                self._answer(request)
            case Loaded(key):
                self.audit.loaded(key.runner)
            case Unloaded(key):
                self.audit.unloaded(key.runner)

    def _release(self, client: _Client) -> None:
        step = client.steps[client.released]
        client.released += 1
        request, self._released = self._released, self._released + 1
        self._requests[request] = _Request(client, step, self._now)
        self.tallies[step.model].requests += 1
        self.audit.arrived(request, step.model)
        profile = self._host.profiles[step.model]
        priority = step.priority or self._host.priorities[step.model]
        self._line.join(Arrived(request, self._keys[step.model], profile, priority=priority))

    def _answer(self, request: int) -> None:
        """The request is over; its client goes on."""
        self.makespan_s = self._now
        self._answered += 1
        if self._answered % PROGRESS_EVERY == 0:
            self._progress(PROGRESS_EVERY)
        self._invite(self._requests.pop(request).client)

    def _invite(self, client: _Client) -> None:
        if client.released < len(client.steps):
            time = self._now + client.steps[client.released].after_s
            if time <= self._until:
                self._at(time, client)

    # 3. What is done

    def _carry_out(self, command: Command) -> None:
        match command:
            case Grant(request):
                self._grant(request)
            case Reject(request):
                self._reject(request)
            case StartLoad(key, generation):
                self._load(key, generation)
            case StartUnload(key, generation):
                self._unload(key, generation)
            case WakeAt(time):
                self._wake_at = math.inf if time is None else time

    def _grant(self, request: int) -> None:
        asked = self._known(request, "granted")
        if asked is None or not self.audit.granted(self._now, request, asked.step.model):
            return
        self._line.gone(request)
        tally = self.tallies[asked.step.model]
        tally.waits.append(self._now - asked.released_at)
        tally.service_s += asked.step.service_s
        self._at(self._now + asked.step.service_s, Finished(request))

    def _reject(self, request: int) -> None:
        asked = self._known(request, "rejected")
        if asked is None or not self.audit.rejected(self._now, request, asked.step.model):
            return
        self._line.gone(request)
        self.tallies[asked.step.model].rejected += 1
        self._answer(request)

    def _known(self, request: int, how: str) -> _Request | None:
        asked = self._requests.get(request)
        if asked is None:
            self.audit.note(self._now, f"request {request} is {how}, but it is answered already or was never made")
        return asked

    def _load(self, key: Key, generation: int) -> None:
        model = self._models[key.runner]
        tally = self.tallies[key.runner]
        tally.loads += 1
        tally.load_time_s += model.load_s
        self.audit.load_started(self._now, key.runner)
        self._at(self._now + model.load_s, Loaded(key, generation))

    def _unload(self, key: Key, generation: int) -> None:
        self.tallies[key.runner].unloads += 1
        self.audit.unload_started(self._now, key.runner)
        self._at(self._now + self._models[key.runner].unload_s, Unloaded(key, generation))
