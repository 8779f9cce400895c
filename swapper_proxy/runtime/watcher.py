"""Follows what happens behind the proxy's back: /api/ps every second while anything is going on, else every five."""

import asyncio
import logging
from typing import Self

from swapper_proxy.core.types import Sighting
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.ports import Control, Running, UpstreamRefused, UpstreamUnreachable

log = logging.getLogger(__name__)

BUSY_S = 1.0
QUIET_S = 5.0
FIRST_LOOK_S = 2.0  # that the start waits for
CATALOG_S = 5.0


class Watcher:
    """A background task; `async with` it."""

    def __init__(self, control: Control, catalog: Catalog, engine: Engine) -> None:
        self._control = control
        self._catalog = catalog
        self._engine = engine
        self._catalog_due = 0.0
        self._looked = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()
        except TimeoutError:  # it is silent: clients are to hear that from the proxy
            self._engine.upstream(False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # a bug here must not blind the proxy for the rest of its life
                log.exception("looking at Ollama failed")
            self._looked.set()
            await asyncio.sleep(BUSY_S if self._engine.busy or not self._engine.reachable else QUIET_S)

    async def look(self) -> None:
        """One look at Ollama; the engine is told."""
        asked_at = self._loop.time()
        try:
            running = await self._control.running()
            if asked_at >= self._catalog_due or not (self._catalog.current and self._engine.reachable):
                await self._catalog.refresh()
                self._catalog_due = asked_at + CATALOG_S
            seen = [sighting for entry in running if (sighting := await self._sighting(entry))]
        except (UpstreamUnreachable, UpstreamRefused) as error:
            log.debug("watching: %s", error)
            await self._engine.probe()
            return
        self._engine.upstream(True)
        self._engine.observed(asked_at, tuple(seen))

    async def _sighting(self, entry: Running) -> Sighting | None:
        """What the scheduler is told of a runner that /api/ps shows: its key as far as can be known.

        Of one that no name leads to, or that was left to others, it hears nothing: as soon as it answers nobody, it is
        as good as gone.
        """
        model = await self._catalog.find_running(entry)
        if model is None:
            return None
        if self._catalog.is_left_to_others(model.runner, entry) and not self._engine.holds(model.runner):
            return None
        self._catalog.measured(model, entry.size)
        key = self._catalog.own_key(model)
        return Sighting(key, self._catalog.profile(model, key))
