"""The routes, and a server on a free port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from swapper_proxy.ollama.simulator import openai, requests
from swapper_proxy.ollama.simulator.catalogue import Catalogue, SimulatedModel, is_valid
from swapper_proxy.ollama.simulator.dialects import JSON, ChatLines, GenerateLines, encode
from swapper_proxy.ollama.simulator.inference import Inference
from swapper_proxy.ollama.simulator.memory import Memory
from swapper_proxy.ollama.simulator.requests import RefusalError, Shape

MAX_BODY = 1 << 30  # Ollama has no limit; images come as base64 within the JSON
SHUTDOWN_S = 0.1

Asked = Mapping[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Simulator:
    """A simulated Ollama: `models` in the order of /api/tags, room for `max_loaded` runners at a time.

    `keep_alive_s` is what OLLAMA_KEEP_ALIVE sets.  With `overtaking`, requests for a resident model pass the queue of
    those for others, as in newer versions (a busy model starves the rest); 0.9.3 lets every request queue.
    One application per simulator, served in one event loop.
    """

    def __init__(
        self,
        models: Iterable[SimulatedModel],
        *,
        max_loaded: int = 1,
        keep_alive_s: float = 300.0,
        overtaking: bool = True,
        version: str = "0.9.3",
    ) -> None:
        self._catalogue = Catalogue(models)
        self._memory = Memory(max_loaded, keep_alive_s, overtaking=overtaking)
        self._inference = Inference(self._catalogue, self._memory)
        self._version = version

    def application(self) -> web.Application:
        """Serve it with `handler_cancellation=True`: a client that leaves must be noticed."""
        app = web.Application(client_max_size=MAX_BODY)
        self._add_native(app.router)
        openai.add_routes(app.router, self._catalogue, self._inference)
        app.router.add_route("*", "/{path:.*}", _not_found)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, _: web.Application) -> None:
        self._memory.close()

    def _add_native(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", _root)
        router.add_get("/api/version", self._answer_version)
        router.add_get("/api/tags", self._answer_tags)
        router.add_get("/api/ps", self._answer_ps, allow_head=False)
        router.add_post("/api/generate", _asking(requests.GENERATE, self._generate))
        router.add_post("/api/chat", _asking(requests.CHAT, self._chat))
        router.add_post("/api/embed", _asking(requests.EMBED, self._embed))
        router.add_post("/api/embeddings", _asking(requests.EMBEDDINGS, self._embeddings))
        router.add_post("/api/show", _asking(requests.SHOW, self._show))
        router.add_post("/api/copy", _asking(requests.COPY, self._copy))
        router.add_delete("/api/delete", _asking(requests.DELETE, self._delete))

    async def _answer_version(self, _: web.Request) -> web.Response:
        return _json({"version": self._version})

    async def _answer_tags(self, _: web.Request) -> web.Response:
        return _json(self._catalogue.tags())

    async def _answer_ps(self, _: web.Request) -> web.Response:
        return _json(self._memory.listing())

    async def _generate(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        return await self._inference.generate(request, asked, GenerateLines(asked.get("model", "")))

    async def _chat(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        return await self._inference.chat(request, asked, ChatLines(asked.get("model", "")))

    async def _embed(self, _: web.Request, asked: Asked) -> web.Response:
        return _json(await self._inference.embed(asked))

    async def _embeddings(self, _: web.Request, asked: Asked) -> web.Response:
        return _json(await self._inference.embeddings(asked))

    async def _show(self, _: web.Request, asked: Asked) -> web.Response:
        name = asked.get("model") or asked.get("name") or ""
        if not name:
            raise RefusalError(400, "model is required")
        if not is_valid(name):
            raise RefusalError(500, "invalid model path")
        return _json(self._catalogue.show(self._existing(name)))

    async def _delete(self, _: web.Request, asked: Asked) -> web.Response:
        name = asked.get("model") or asked.get("name") or ""
        if not is_valid(name):
            raise RefusalError(400, f'name "{name}" is invalid')
        self._catalogue.delete(self._existing(name))
        return web.Response()

    async def _copy(self, _: web.Request, asked: Asked) -> web.Response:
        for role in ("source", "destination"):
            if not is_valid(asked.get(role, "")):
                raise RefusalError(400, f'{role} "{asked.get(role, "")}" is invalid')
        source = self._catalogue.find(asked["source"])
        if source is None:
            raise RefusalError(404, f'model "{asked["source"]}" not found')
        self._catalogue.copy(source, asked["destination"])
        return web.Response()

    def _existing(self, name: str) -> SimulatedModel:
        model = self._catalogue.find(name)
        if model is None:
            raise RefusalError(404, f"model '{name}' not found")
        return model


@asynccontextmanager
async def serving(simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """The simulator's base URL for the length of the block; port 0 takes a free one."""
    runner = web.AppRunner(
        simulator.application(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        bound = runner.addresses[0][1]
        yield f"http://{host}:{bound}"
    finally:
        await asyncio.shield(runner.cleanup())


def _asking(shape: Shape, act: Callable[[web.Request, Asked], Awaitable[web.StreamResponse]]) -> Handler:
    """A handler that reads its body as `shape`, and answers what is refused as Ollama does."""

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await act(request, requests.read(await request.read(), shape))
        except RefusalError as refused:
            return _json({"error": refused.message}, refused.status)

    return handler


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, headers={"Content-Type": JSON})


async def _root(_: web.Request) -> web.Response:
    return web.Response(text="Ollama is running")


async def _not_found(request: web.Request) -> web.Response:
    known = any(
        resource.canonical != "/{path:.*}" and _matches(resource, request.path)
        for resource in request.app.router.resources()
    )
    status, text = (405, "405 method not allowed") if known else (404, "404 page not found")
    return web.Response(status=status, body=text.encode(), headers={"Content-Type": "text/plain"})


def _matches(resource: web.AbstractResource, path: str) -> bool:
    return isinstance(resource, web.PlainResource) and resource.canonical == path
