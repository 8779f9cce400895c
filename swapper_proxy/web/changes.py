"""Requests that change which models there are.  A model that is in memory leaves it before its name does.

Ollama itself keeps a deleted or re-created model in memory until its time is over, and nothing can unload it any more:
its name is gone, or means other weights.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from swapper_proxy.core.errors import Rejected, Rejection
from swapper_proxy.core.names import canonical
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.web.body import Ambiguous, Fields, Malformed, WrongType

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
    async def around(self, path: str, body: bytes) -> AsyncIterator[None]:
        """Raises ProxyError if a pinned model is to be deleted."""
        with contextlib.suppress(Malformed, Ambiguous, WrongType):  # Ollama says so itself
            await self._make_way(path, Fields.read(body))
        try:
            yield
        finally:
            self._catalog.forget()
        await self._look()

    async def _make_way(self, path: str, fields: Fields) -> None:
        """Unload what the request would leave in memory without a name.

        A re-created model that is pinned stays until Ollama itself lets it go: the pin is that of the new one then.
        """
        if path == "/api/pull":  # mostly there is nothing new
            return
        name = fields.get("destination", str, "") if path == "/api/copy" else _name(fields)
        model = await self._catalog.find(canonical(name))
        if model is None or model.remote or not self._engine.holds(model.runner):
            return
        if model.runner == await self._weights(path, fields):
            return
        if await self._catalog.name_for(model.runner, besides=canonical(name)):
            return
        try:
            await self._engine.unload(model)
        except Rejected as rejected:
            if path == "/api/delete" and rejected.reason is Rejection.PINNED:
                raise

    async def _weights(self, path: str, fields: Fields) -> str | None:
        """What the name will stand for, as far as the request tells."""
        if path == "/api/delete" or fields.get("adapters", dict[str, str], {}) or fields.get("quantize", str, ""):
            return None
        source = fields.get("source" if path == "/api/copy" else "from", str, "")
        if source:
            model = await self._catalog.find(canonical(source))
            return model.runner if model else None
        return " ".join(digest.replace(":", "-") for digest in fields.get("files", dict[str, str], {}).values())


def _name(fields: Fields) -> str:
    name: str = fields.get("model", str, "") or fields.get("name", str, "")
    return name
