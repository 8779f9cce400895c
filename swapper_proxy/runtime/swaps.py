"""Loads and unloads under way.  Whatever becomes of one, the scheduler hears of its end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from swapper_proxy.config.keep_alive import KeepAlive
from swapper_proxy.core.commands import StartLoad, StartUnload
from swapper_proxy.core.errors import Failure
from swapper_proxy.core.events import Event, Loaded, LoadFailed, Unloaded, UnloadFailed
from swapper_proxy.core.types import Cause
from swapper_proxy.runtime.loader import Loader, MadeAnew
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import Observer, UpstreamRefused, UpstreamUnreachable

log = logging.getLogger(__name__)

# Why something is unloaded that another model replaces.
SWAPPING = (Cause.IDLE, Cause.DEADLINE)


class Swaps:
    """Used by the engine alone.  `report` takes the events of the ends, `probe` looks whether Ollama is there.

    `loader` may be replaced: what is under way goes on with the one that it began with.
    """

    def __init__(
        self,
        loader: Loader,
        observer: Observer,
        report: Callable[[Event], None],
        probe: Callable[[], Awaitable[None]],
    ) -> None:
        self.loader = loader
        self._observer = observer
        self._report = report
        self._probe = probe
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping: dict[str, set[asyncio.Future[None]]] = {}  # by runner
        self._replaced = ""  # what was unloaded to make room for the next load

    def load(self, command: StartLoad, model: Model, keep_alive: KeepAlive | None) -> None:
        """Load the model as the request that needs it asks for it."""
        otherwise = LoadFailed(command.key, command.generation)
        self._start(self._load(command, model, keep_alive, otherwise), otherwise)

    def unload(self, command: StartUnload, name: str) -> None:
        """`name` is what people call it."""
        otherwise = UnloadFailed(command.key, command.generation)
        self._start(self._unload(command, name, otherwise), otherwise)

    async def keep(self, runner: str, telling: Awaitable[None]) -> None:
        """Tell Ollama to keep what is in memory.  An unload waits for the end of that: after it, it would be a load."""
        over = asyncio.get_running_loop().create_future()
        self._keeping.setdefault(runner, set()).add(over)
        try:
            await telling
        finally:
            self._keeping[runner].discard(over)
            over.set_result(None)
            if not self._keeping[runner]:
                del self._keeping[runner]

    def abandon(self) -> None:
        """Ollama is away: what it was asked for is not waited for any more."""
        for task in self._tasks:
            task.cancel()

    async def close(self, patience_s: float) -> None:
        """Waits for their ends so long: Ollama fails the next load, too, if one was broken off a moment ago."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)
        self.abandon()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None], otherwise: Event) -> None:
        task = asyncio.get_running_loop().create_task(self._reported(work, otherwise))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reported(self, work: Coroutine[Any, Any, None], otherwise: Event) -> None:
        try:
            await work
        except Exception:
            log.exception("a load or unload ended in an error of the proxy's own")
            self._report(otherwise)

    async def _load(self, command: StartLoad, model: Model, keep_alive: KeepAlive | None, failed: LoadFailed) -> None:
        key, generation, name = command.key, command.generation, model.name
        began = _now()
        replaced, self._replaced = self._replaced, ""
        try:
            await self.loader.load(model, key, keep_alive)
        except MadeAnew:
            self._report(LoadFailed(key, generation, made_anew=True))
        except UpstreamRefused as error:
            self._load_failed(command, name, began, error.failure)
        except TimeoutError:
            self._load_failed(command, name, began, None)
        except UpstreamUnreachable:
            await self._probe()
            self._report(failed)  # ignored if Ollama is down: then the waiters are kept
        else:
            self._report(Loaded(key, generation))
            self._observer.loaded(name, _now() - began, command.expected_s, replaced, command.cause)

    def _load_failed(self, command: StartLoad, name: str, began: float, failure: Failure | None) -> None:
        self._report(LoadFailed(command.key, command.generation, failure))
        self._observer.load_failed(name, _now() - began, failure.status if failure else 504)

    async def _unload(self, command: StartUnload, name: str, failed: UnloadFailed) -> None:
        began = _now()
        try:
            if keeping := self._keeping.get(command.key.runner):
                await asyncio.wait(keeping)
            await self.loader.unload(command.key.runner)
        except (TimeoutError, UpstreamRefused):
            self._report(failed)
        except UpstreamUnreachable:
            await self._probe()
            self._report(failed)
        else:
            self._replaced = name if command.cause in SWAPPING else ""
            self._report(Unloaded(command.key, command.generation))
            self._observer.unloaded(name, _now() - began, command.cause)


def _now() -> float:
    return asyncio.get_running_loop().time()
