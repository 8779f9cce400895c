"""Requests that change which models there are.  A model that is in memory leaves it before its name does.

Ollama itself keeps a deleted or re-created model in memory until its time is over, and nothing can unload it any more:
its name is gone, or means other weights.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from swapper_proxy.core.errors import Rejected, Rejection
from swapper_proxy.core.names import canonical, is_plausible
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.model import Model
from swapper_proxy.web.body import Fields, Name, WrongType, named

CHANGES = {
    ("POST", "/api/pull"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
}


class Changes:
    """Around such a request: `async with`."""

    def __init__(self, engine: Engine, catalog: Catalog, look: Callable[[], Awaitable[None]]) -> None:
        self._engine = engine
        self._catalog = catalog
        self._look = look  # at what Ollama has, and has in memory

    @contextlib.asynccontextmanager
    async def around(self, path: str, fields: Fields) -> AsyncIterator[None]:
        """Raises ProxyError if a pinned model is to be deleted, or a field can be read in two ways."""
        leaving = None
        with contextlib.suppress(WrongType):  # Ollama says so itself
            if path == "/api/delete" and self._catalog.is_pinned_name(named(fields)):
                raise Rejected(Rejection.PINNED)
            leaving = await self._leaving(path, fields)
        with self._catalog.changing(leaving.runner) if leaving else contextlib.nullcontext():
            if leaving:
                await self._unload(leaving)
            try:
                yield
            finally:
                self._catalog.forget()
            await self._look()

    async def _unload(self, model: Model) -> None:
        """A re-created model that is pinned stays until Ollama lets it go: the pin is that of the new one then."""
        with contextlib.suppress(Rejected):
            await self._engine.unload(model)

    async def _leaving(self, path: str, fields: Fields) -> Model | None:
        """The model in memory that would stay there without a name."""
        name = fields.get("destination", Name, "") if path == "/api/copy" else named(fields)
        if not name or not is_plausible(name):
            return None
        model = await self._catalog.find(canonical(name))
        if model is None or model.remote or not self._engine.holds(model.runner):
            return None
        if path != "/api/delete" and await self._weights(path, fields) in (model.runner, ""):
            return None
        return None if await self._catalog.name_for(model.runner, besides=canonical(name)) else model

    async def _weights(self, path: str, fields: Fields) -> str | None:
        """What the name will stand for; None: something new, empty: nothing, since Ollama will refuse it."""
        made = bool(fields.get("adapters", dict[str, str], {}) or fields.get("quantize", str, ""))
        source = fields.get("source" if path == "/api/copy" else "from", Name, "")
        if source and is_plausible(source):
            model = await self._catalog.find(canonical(source))
            if model is None:
                return "" if path == "/api/copy" else None  # for a create Ollama pulls it
            return None if made else model.runner
        files = fields.get("files", dict[str, str], {}).values()
        return None if files and made else " ".join(digest.replace(":", "-") for digest in files)
