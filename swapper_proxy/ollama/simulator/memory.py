"""What is resident, and who waits for it: Ollama's scheduler as seen from outside.

1. A request for a resident model with fitting runner options takes it at once, past the queue (`overtaking`).
2. A request for a model that is loading waits for the end of that load.
3. Every other request queues, first in first out; its head evicts what it must (idle first, then the shortest
   keep_alive, waiting for answers in flight) and starts its load, which the rest of the queue need not wait for.
4. A load belongs to the request that caused it.  When that client leaves, or the load fails, it is over, and who
   waited for it gets a runner that is not there.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from swapper_proxy.ollama.simulator.catalogue import SimulatedModel, stamp
from swapper_proxy.ollama.simulator.faults import Faults
from swapper_proxy.ollama.simulator.options import RunnerOptions
from swapper_proxy.ollama.simulator.requests import RefusalError

UNLOAD_S = 0.003  # from the decision until /api/ps no longer shows it: milliseconds in the real one
TIMER_LIMIT_S = 1e6  # eleven days: more is no timer at all
BROKEN = "llama runner process has terminated: exit status 2"
FOREVER = timedelta(days=365 * 292)  # what Ollama's longest duration comes to


class Runner:
    """Weights in memory, or on their way there or out."""

    def __init__(self, model: SimulatedModel, options: RunnerOptions, keep_alive_s: float) -> None:
        self.model = model  # the first name it was asked for: the one that /api/ps shows
        self.options = options
        self.keep_alive_s = keep_alive_s
        self.in_flight = 0
        self.settled = asyncio.Event()  # the load is over, well or not
        self.gone = asyncio.Event()
        self.evicted = False  # somebody waits for its place: it goes when idle, whatever keep_alive it gets meanwhile
        self.leaving = False
        self.aborted = False
        self.timer: asyncio.TimerHandle | None = None
        self.expires_at = _after(keep_alive_s)

    def serves(self, model: SimulatedModel, options: RunnerOptions) -> bool:
        return not self.leaving and self.model.blob == model.blob and self.options.serves(options)

    def refresh(self) -> None:
        self.expires_at = _after(self.keep_alive_s)


class Memory:
    """Room for `max_loaded` runners."""

    def __init__(self, max_loaded: int, keep_alive_s: float, faults: Faults, *, overtaking: bool) -> None:
        self._max_loaded = max_loaded
        self._keep_alive_s = keep_alive_s
        self._faults = faults
        self._overtaking = overtaking
        self._runners: dict[str, Runner] = {}
        self._turn = asyncio.Lock()  # fair, so the queue is first in first out

    @asynccontextmanager
    async def use(
        self, model: SimulatedModel, options: RunnerOptions, keep_alive_s: float | None
    ) -> AsyncIterator[Runner]:
        """The model in memory for the length of the block; keep_alive_s None leaves what it has."""
        runner = await self._acquire(model, options, keep_alive_s)
        try:
            yield runner
        finally:
            self._release(runner)

    async def expire(self, model: SimulatedModel) -> None:
        """Unload as soon as nothing is in flight; returns at once, but not before the end of a load."""
        runner = self._runners.get(model.blob)
        if runner is not None:
            await runner.settled.wait()
            self._expire(runner)

    def listing(self) -> dict[str, object]:
        """The body of /api/ps: loading models included."""
        return {"models": [_entry(runner) for runner in self._runners.values()]}

    def close(self) -> None:
        for runner in self._runners.values():
            _stop_timer(runner)
        self._runners.clear()

    async def _acquire(self, model: SimulatedModel, options: RunnerOptions, keep_alive_s: float | None) -> Runner:
        runner = self._runners.get(model.blob)
        if self._overtaking and runner is not None and not runner.leaving:  # 1 and 2
            await runner.settled.wait()
            if runner.aborted or runner.serves(model, options):
                return self._take(runner, keep_alive_s)
        async with self._turn:  # 3
            runner = await self._make_room(model, options)
            if runner is not None:
                return self._take(runner, keep_alive_s)
            runner = Runner(model, options, self._keep_alive_s if keep_alive_s is None else keep_alive_s)
            self._runners[model.blob] = runner
            runner.in_flight = 1
        await self._load(runner)
        return runner

    async def _make_room(self, model: SimulatedModel, options: RunnerOptions) -> Runner | None:
        """Evict until there is room; or a fitting runner, if one has come up while this one waited."""
        while True:
            resident = self._runners.get(model.blob)
            if resident is None and len(self._runners) < self._max_loaded:
                return None
            if resident is not None and await self._fits(resident, model, options):
                return resident
            victim = resident or await self._victim()
            if victim is not None:
                victim.evicted = True
                self._expire(victim)
                await victim.gone.wait()

    async def _fits(self, runner: Runner, model: SimulatedModel, options: RunnerOptions) -> bool:
        waited = not runner.settled.is_set()
        await runner.settled.wait()
        return runner.serves(model, options) or (waited and runner.aborted)

    async def _victim(self) -> Runner | None:
        for runner in list(self._runners.values()):
            await runner.settled.wait()
        order = sorted(self._runners.values(), key=lambda r: (r.in_flight > 0, r.keep_alive_s, r.model.blob))
        return order[0] if order else None

    async def _load(self, runner: Runner) -> None:
        try:
            await asyncio.sleep(runner.model.load_s + self._faults.load_s)
            await self._faults.passing("stalled")
            if runner.model.broken or self._faults.fails():
                raise RefusalError(500, BROKEN)
        except (asyncio.CancelledError, RefusalError):  # 4
            runner.aborted = True
            runner.in_flight -= 1
            self._unload(runner)
            raise
        finally:
            runner.settled.set()

    def _take(self, runner: Runner, keep_alive_s: float | None) -> Runner:
        runner.in_flight += 1
        _stop_timer(runner)
        if keep_alive_s is not None:
            runner.keep_alive_s = keep_alive_s
        return runner

    def _release(self, runner: Runner) -> None:
        runner.in_flight -= 1
        if runner.in_flight or runner.leaving:
            return
        runner.refresh()
        if runner.keep_alive_s <= 0 or runner.evicted:
            self._unload(runner)
        elif runner.keep_alive_s < TIMER_LIMIT_S:
            runner.timer = asyncio.get_running_loop().call_later(runner.keep_alive_s, self._expire, runner)

    def _expire(self, runner: Runner) -> None:
        _stop_timer(runner)
        runner.keep_alive_s = 0.0
        if not self._faults.kept:
            runner.refresh()
        if not runner.in_flight:
            self._unload(runner)

    def _unload(self, runner: Runner) -> None:
        if not runner.leaving:
            runner.leaving = True
            asyncio.get_running_loop().call_later(UNLOAD_S, self._forget, runner)

    def _forget(self, runner: Runner) -> None:
        if self._runners.get(runner.model.blob) is runner:
            if self._faults.kept:
                asyncio.get_running_loop().call_later(UNLOAD_S, self._forget, runner)
                return
            del self._runners[runner.model.blob]
        runner.gone.set()


def _stop_timer(runner: Runner) -> None:
    if runner.timer is not None:
        runner.timer.cancel()
        runner.timer = None


def _after(seconds: float) -> str:
    length = FOREVER if math.isinf(seconds) else min(timedelta(seconds=min(seconds, 1e9)), FOREVER)
    return stamp(datetime.now(UTC) + length)


def _entry(runner: Runner) -> dict[str, object]:
    model = runner.model
    return {
        "name": model.full_name,
        "model": model.full_name,
        "size": model.size,
        "digest": model.digest,
        "details": model.details(),
        "expires_at": runner.expires_at,
        "size_vram": model.size,
    }
