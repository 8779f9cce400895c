"""Makes Ollama load and unload a runner, and waits until it has."""

import asyncio
import contextlib

from swapper_proxy.config import Swapper
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.ports import Control, LoadSpec, Running, UpstreamRefused, UpstreamUnreachable

# How often /api/ps is asked whether an unloaded runner is gone: at first often, because it takes milliseconds.
ABSENCE_POLL_FIRST_S = 0.01
ABSENCE_POLL_MOST_S = 0.25


class Loader:
    """Used by the engine alone, one load or unload at a time."""

    def __init__(self, control: Control, catalog: Catalog, swapper: Swapper) -> None:
        self._control = control
        self._catalog = catalog
        self._swapper = swapper

    async def load(self, spec: LoadSpec, runner: str) -> None:
        """Returns when it is loaded.

        Raises UpstreamRefused, UpstreamUnreachable, or TimeoutError if it takes longer than `load_stall_timeout`: then
        the connection has been closed, which makes Ollama give the load up, and the runner is gone again.
        """
        try:
            async with asyncio.timeout(self._swapper.load_stall_timeout):
                await self._control.load(spec)
        except TimeoutError:
            with contextlib.suppress(UpstreamUnreachable, UpstreamRefused, TimeoutError):
                await self._gone(runner)
            raise

    async def unload(self, runner: str) -> None:
        """Returns when it is gone and its GPU memory has come back.

        Raises UpstreamRefused, UpstreamUnreachable, or TimeoutError if it stays.
        """
        async with asyncio.timeout(self._swapper.unload_timeout):
            running = await self._running(runner)
            for entry in running:
                await self._tell_to_go(entry.name)
            if running:
                await self._gone(runner)
        if any(entry.size_vram for entry in running):
            await asyncio.sleep(self._swapper.unload_settle)

    async def _tell_to_go(self, name: str) -> None:
        try:
            await self._control.unload(name)
        except UpstreamRefused:
            self._catalog.forget()  # perhaps it was deleted: the next try sees that there is nothing to unload
            raise

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
        for entry in await self._control.running():
            model = await self._catalog.find_running(entry.name)
            if model is not None and model.runner == runner:
                found.append(entry)
        return found
