"""The routes, and a server on a free port."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from swapper_proxy.ollama.simulator import native, openai, recent, transfers
from swapper_proxy.ollama.simulator.catalogue import Catalogue, SimulatedModel
from swapper_proxy.ollama.simulator.faults import Faults
from swapper_proxy.ollama.simulator.inference import Inference
from swapper_proxy.ollama.simulator.memory import Memory

MAX_BODY = 1 << 30  # Ollama has no limit; images come as base64 within the JSON
SHUTDOWN_S = 0.1
CATCH_ALL = "/{path}"


class Simulator:
    """A simulated Ollama: `models` in the order of /api/tags, room for `max_loaded` runners at a time.

    `registry` is what /api/pull finds.  `keep_alive_s` is what OLLAMA_KEEP_ALIVE sets.  With `overtaking`, requests for
    a resident model pass the queue of those for others, as in newer versions (a busy model starves the rest); 0.9.3
    lets every request queue.  `faults` says what goes wrong.
    One application per simulator, served in one event loop.
    """

    def __init__(
        self,
        models: Iterable[SimulatedModel],
        *,
        registry: Iterable[SimulatedModel] = (),
        max_loaded: int = 1,
        keep_alive_s: float = 300.0,
        overtaking: bool = True,
        version: str = "0.9.3",
        faults: Faults | None = None,
    ) -> None:
        self._catalogue = Catalogue(models)
        self._faults = faults or Faults()
        self._memory = Memory(max_loaded, keep_alive_s, self._faults, overtaking=overtaking)
        self._inference = Inference(self._catalogue, self._memory)
        self._registry = tuple(registry)
        self._version = version
        self._listing: dict[str, object] = {"models": []}  # that /api/ps told last

    def application(self) -> web.Application:
        """Serve it with `handler_cancellation=True`: a client that leaves must be noticed."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._faults.middleware()])
        app.router.add_get("/", _root)
        app.router.add_get("/api/version", self._answer_version)
        app.router.add_get("/api/ps", self._answer_ps, allow_head=False)
        native.add_routes(app.router, self._catalogue, self._inference)
        transfers.add_routes(app.router, self._catalogue, self._registry)
        openai.add_routes(app.router, self._catalogue, self._inference)
        recent.add_routes(app.router, self._inference)
        app.router.add_route("*", "/{path:.*}", _not_found)  # CATCH_ALL
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, _: web.Application) -> None:
        self._memory.close()

    async def _answer_version(self, _: web.Request) -> web.Response:
        return native.json_answer({"version": self._version})

    async def _answer_ps(self, _: web.Request) -> web.Response:
        if self._faults.listing == "error":
            return native.json_answer({"error": "something is wrong"}, 500)
        if self._faults.listing != "old":
            self._listing = self._memory.listing() if self._faults.listing == "true" else {"models": []}
        return native.json_answer(self._listing)


@asynccontextmanager
async def serving(simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """The simulator's base URL for the length of the block; port 0 takes a free one."""
    runner = web.AppRunner(
        simulator.application(),
        handler_cancellation=True,
        auto_decompress=False,  # Ollama looks at Content-Encoding on few routes only
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        bound = runner.addresses[0][1]
        yield f"http://{host}:{bound}"
    finally:
        await asyncio.shield(runner.cleanup())


async def _root(_: web.Request) -> web.Response:
    return web.Response(text="Ollama is running")


async def _not_found(request: web.Request) -> web.Response:
    known = any(
        resource.canonical != CATCH_ALL and _matches(resource, request.path)
        for resource in request.app.router.resources()
    )
    status, text = (405, "405 method not allowed") if known else (404, "404 page not found")
    return web.Response(status=status, body=text.encode(), headers={"Content-Type": "text/plain"})


def _matches(resource: web.AbstractResource, path: str) -> bool:
    pattern = resource.get_info().get("pattern")
    return resource.canonical == path if pattern is None else pattern.fullmatch(path) is not None
