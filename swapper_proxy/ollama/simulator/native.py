"""The /api routes that answer from the models at hand."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from swapper_proxy.ollama.simulator import requests
from swapper_proxy.ollama.simulator.catalogue import Catalogue, SimulatedModel, is_valid
from swapper_proxy.ollama.simulator.dialects import JSON, ChatLines, GenerateLines, encode
from swapper_proxy.ollama.simulator.inference import Inference
from swapper_proxy.ollama.simulator.requests import RefusalError, Shape

Asked = Mapping[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Act = Callable[[web.Request, Asked], Awaitable[web.StreamResponse]]


def add_routes(router: web.UrlDispatcher, catalogue: Catalogue, inference: Inference) -> None:
    """Lists, inference, copy and delete."""
    routes = _Routes(catalogue, inference)
    router.add_get("/api/tags", routes.tags)
    router.add_post("/api/generate", asking(requests.GENERATE, routes.generate))
    router.add_post("/api/chat", asking(requests.CHAT, routes.chat))
    router.add_post("/api/embed", asking(requests.EMBED, routes.embed))
    router.add_post("/api/embeddings", asking(requests.EMBEDDINGS, routes.embeddings))
    router.add_post("/api/show", asking(requests.SHOW, routes.show))
    router.add_post("/api/copy", asking(requests.COPY, routes.copy))
    router.add_delete("/api/delete", asking(requests.DELETE, routes.delete))


def asking(shape: Shape, act: Act) -> Handler:
    """A handler that reads its body as `shape`, and answers what is refused as Ollama does."""

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await act(request, requests.read(await request.read(), shape))
        except RefusalError as refused:
            return json_answer({"error": refused.message}, refused.status)

    return handler


def json_answer(value: object, status: int = 200) -> web.Response:
    """As Ollama's router writes it."""
    return web.Response(body=encode(value), status=status, headers={"Content-Type": JSON})


class _Routes:
    def __init__(self, catalogue: Catalogue, inference: Inference) -> None:
        self._catalogue = catalogue
        self._inference = inference

    async def tags(self, _: web.Request) -> web.Response:
        return json_answer(self._catalogue.tags())

    async def generate(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        name = asked.get("model", "")
        return await self._inference.generate(request, asked, GenerateLines(name, self._remote(name)))

    async def chat(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        name = asked.get("model", "")
        return await self._inference.chat(request, asked, ChatLines(name, self._remote(name)))

    async def embed(self, _: web.Request, asked: Asked) -> web.Response:
        return json_answer(await self._inference.embed(asked))

    async def embeddings(self, _: web.Request, asked: Asked) -> web.Response:
        return json_answer(await self._inference.embeddings(asked))

    async def show(self, _: web.Request, asked: Asked) -> web.Response:
        name = asked.get("model") or asked.get("name") or ""
        if not name:
            raise RefusalError(400, "model is required")
        if not is_valid(name):
            raise RefusalError(500, "invalid model path")
        return json_answer(self._catalogue.show(self._existing(name)))

    async def delete(self, _: web.Request, asked: Asked) -> web.Response:
        name = asked.get("model") or asked.get("name") or ""
        if not is_valid(name):
            raise RefusalError(400, f'name "{name}" is invalid')
        self._catalogue.delete(self._existing(name))
        return web.Response()

    async def copy(self, _: web.Request, asked: Asked) -> web.Response:
        for role in ("source", "destination"):
            if not is_valid(asked.get(role, "")):
                raise RefusalError(400, f'{role} "{asked.get(role, "")}" is invalid')
        source = self._catalogue.find(asked["source"])
        if source is None:
            raise RefusalError(404, f'model "{asked["source"]}" not found')
        self._catalogue.add(source.named(asked["destination"]))
        return web.Response()

    def _remote(self, name: str) -> dict[str, str]:
        model = self._catalogue.find(name)
        return model.remote if model else {}

    def _existing(self, name: str) -> SimulatedModel:
        model = self._catalogue.find(name)
        if model is None:
            raise RefusalError(404, f"model '{name}' not found")
        return model
