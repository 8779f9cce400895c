"""What is in memory without anybody asking: the models loaded at start, and the default model after a while."""

import asyncio
import logging
from typing import Self

from swapper_proxy.config import Settings
from swapper_proxy.core.errors import Rejected
from swapper_proxy.core.types import Cause, Priority
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.ports import UpstreamRefused, UpstreamUnreachable

log = logging.getLogger(__name__)


class Standby:
    """A background task; `async with` it.  Its loads wait like everybody's, with the lowest priority."""

    def __init__(self, settings: Settings, catalog: Catalog, engine: Engine) -> None:
        self._swapper = settings.swapper
        wanted = [name for name, model in settings.models.items() if model.preload or model.pinned]
        default = settings.swapper.default_model
        self._at_start = wanted if default is None or default in wanted else [*wanted, default]
        self._catalog = catalog
        self._engine = engine

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._load_at_start())
            tasks.create_task(self._bring_back_the_default())

    async def _load_at_start(self) -> None:
        """Of Ollama: it may start after the proxy, and again later."""
        while True:
            await self._engine.up.wait()
            for name in self._at_start:
                await self._load(name, Cause.PRELOAD)
            await self._engine.down.wait()

    async def _bring_back_the_default(self) -> None:
        default, after = self._swapper.default_model, self._swapper.default_after
        while default is not None and after is not None:
            await asyncio.sleep(after - self._idle_s)
            if self._idle_s >= after:
                await self._load(default, Cause.DEFAULT)
                await asyncio.sleep(after)  # whether it worked or not

    @property
    def _idle_s(self) -> float:
        """How long nobody has wanted anything."""
        since = self._engine.idle_since
        return 0.0 if since is None else self._engine.now - since

    async def _load(self, name: str, cause: Cause) -> None:
        try:
            if model := await self._catalog.resolve(name):
                if not self._engine.is_resident(model):
                    await self._engine.load(model, Priority.LOW, cause)
                return
            why = "Ollama does not have it"
        except (UpstreamUnreachable, UpstreamRefused, Rejected) as error:
            why = str(error)
        log.warning("cannot be loaded: %s", why, extra={"model": name, "cause": cause})
