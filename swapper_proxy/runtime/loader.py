"""Makes Ollama load and unload a runner, and waits until it has."""

import asyncio
import contextlib
import logging

from swapper_proxy.config import Swapper
from swapper_proxy.config.keep_alive import KeepAlive
from swapper_proxy.core.names import canonical
from swapper_proxy.core.types import Key
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import Control, Running, UpstreamRefused, UpstreamUnreachable

log = logging.getLogger(__name__)

# How often /api/ps is asked whether an unloaded runner is gone: at first often, because it takes milliseconds.
ABSENCE_POLL_FIRST_S = 0.01
ABSENCE_POLL_MOST_S = 0.25
# Ollama unloads an idle runner within two seconds.  One that stays longer is answering requests of others.  It is not
# waited for so long again while it has not been idle since.
IN_USE_S, STILL_IN_USE_S = 5.0, 0.5


class MadeAnew(Exception):
    """The name that was to be loaded means other weights by now."""


class Loader:
    """Used by the engine alone, one load or unload at a time."""

    def __init__(self, control: Control, catalog: Catalog, swapper: Swapper) -> None:
        self._control = control
        self._catalog = catalog
        self._swapper = swapper

    async def load(self, model: Model, key: Key, keep_alive: KeepAlive | None) -> None:
        """Returns when it is loaded.

        Raises MadeAnew before anything is done, UpstreamRefused, UpstreamUnreachable, or TimeoutError if it takes
        longer than `load_stall_timeout`: then the connection has been closed, which makes Ollama give the load up, and
        the runner is gone again.
        """
        if self._catalog.is_changing(key.runner):
            raise MadeAnew
        spec = self._catalog.load_spec(model, dict(key.options), keep_alive)
        self._catalog.forget()
        found = await self._catalog.find(canonical(spec.name))
        if found is not None and found.runner != key.runner:
            raise MadeAnew
        try:
            async with asyncio.timeout(self._swapper.load_stall_timeout):
                await self._control.load(spec)
        except TimeoutError:
            with contextlib.suppress(UpstreamUnreachable, UpstreamRefused, TimeoutError):
                await self._gone(key.runner)
            raise
        if self._swapper.memory_budget_gb is not None:
            await self._measure(key)

    async def _measure(self, key: Key) -> None:
        """Note how much memory it takes, before another model can replace it: what is too large is loaded only once."""
        with contextlib.suppress(UpstreamUnreachable, UpstreamRefused):  # then the next look tells
            for entry in await self._running(key.runner):
                self._catalog.measured(key, entry.size)

    async def unload(self, runner: str) -> None:
        """Returns when it is gone and its GPU memory has come back, or no name leads to it any more.

        Returns, too, when Ollama lets it go as soon as others do not use it any more: they may do so for ever.
        Raises UpstreamRefused, UpstreamUnreachable, or TimeoutError if it stays.
        """
        async with asyncio.timeout(self._swapper.unload_timeout):
            self._catalog.forget()
            running = await self._running(runner)
            if running and (name := await self._catalog.name_for(runner)):
                await self._control.unload(name)
                if not await self._leaves(runner, running[0]):
                    return
        if any(entry.size_vram for entry in running):
            await asyncio.sleep(self._swapper.unload_settle)

    async def _leaves(self, runner: str, before: Running) -> bool:
        """Wait until the runner is gone; False if Ollama only keeps it for others.

        Then Ollama has changed its `expires_at`: the unload was understood.  Raises TimeoutError.
        """
        patience_s = STILL_IN_USE_S if self._catalog.is_left_to_others(runner, before) else IN_USE_S
        with contextlib.suppress(TimeoutError, UpstreamRefused):
            async with asyncio.timeout(min(patience_s, self._swapper.unload_timeout / 2)):
                await self._gone(runner)
                return True
        with contextlib.suppress(UpstreamRefused):
            for entry in await self._running(runner):
                if entry.expires_at != before.expires_at:
                    log.warning("%s stays in memory: others use it", entry.name)
                    self._catalog.leave_to_others(runner, entry)
                    return False
        await self._gone(runner)
        return True

    async def _gone(self, runner: str) -> None:
        """Wait until /api/ps no longer shows the runner.  Raises TimeoutError."""
        pause = ABSENCE_POLL_FIRST_S
        async with asyncio.timeout(self._swapper.unload_timeout):
            while True:
                with contextlib.suppress(UpstreamRefused):  # in the middle of an unload Ollama sometimes answers 500
                    if not await self._running(runner):
                        return
                await asyncio.sleep(pause)
                pause = min(2 * pause, ABSENCE_POLL_MOST_S)

    async def _running(self, runner: str) -> list[Running]:
        """What /api/ps shows of this runner."""
        found = []
        entries, _ = await self._control.running()
        for entry in entries:
            model = await self._catalog.find_running(entry)
            if model is not None and model.runner == runner:
                found.append(entry)
        return found
