"""The older /v1 routes: turned into native requests, which never carry options or a keep_alive of the client's."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from swapper_proxy.ollama.simulator import compression, requests
from swapper_proxy.ollama.simulator.catalogue import Catalogue
from swapper_proxy.ollama.simulator.dialects import (
    JSON,
    PLAIN_JSON,
    ChatChunks,
    CompletionChunks,
    encode,
)
from swapper_proxy.ollama.simulator.inference import Inference
from swapper_proxy.ollama.simulator.requests import RefusalError, Shape

Asked = Mapping[str, Any]
Convert = Callable[[Asked], dict[str, Any]]
Act = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Error = Callable[[RefusalError, bool], web.Response]


def add_routes(router: web.UrlDispatcher, catalogue: Catalogue, inference: Inference) -> None:
    """Models, chat, completions, embeddings."""
    routes = _Routes(catalogue, inference)
    router.add_get("/v1/models", routes.models, allow_head=False)
    router.add_get("/v1/models/{model:.+}", routes.model, allow_head=False)
    router.add_post("/v1/chat/completions", asking(requests.OPENAI_CHAT, _from_chat, routes.chat))
    router.add_post("/v1/completions", asking(requests.OPENAI_COMPLETION, _from_completion, routes.complete))
    router.add_post("/v1/embeddings", asking(requests.OPENAI_EMBED, _from_embed, routes.embed))


class _Routes:
    def __init__(self, catalogue: Catalogue, inference: Inference) -> None:
        self._catalogue = catalogue
        self._inference = inference

    async def models(self, _: web.Request) -> web.Response:
        data = [self._catalogue.openai(model.full_name) for model in self._catalogue]
        return json_line({"object": "list", "data": data})

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if self._catalogue.find(name) is None:
            return _openai_error(RefusalError(404, f"model '{name}' not found"), False)
        return json_line(self._catalogue.openai(name))

    async def chat(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return await self._inference.chat(request, asked, ChatChunks(asked["model"], usage=asked["usage"]))

    async def complete(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return await self._inference.generate(request, asked, CompletionChunks(asked["model"], usage=asked["usage"]))

    async def embed(self, _: web.Request, asked: dict[str, Any]) -> web.Response:
        answer = await self._inference.embed(asked)
        data = [
            {"object": "embedding", "embedding": vector, "index": index}
            for index, vector in enumerate(answer["embeddings"])
        ]
        count = answer.get("prompt_eval_count", 0)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return json_line({"object": "list", "data": data, "model": asked["model"], "usage": usage})


def _openai_error(refused: RefusalError, unread: bool) -> web.Response:
    kind = "invalid_request_error" if unread else "api_error"
    body = {"error": {"message": refused.message, "type": kind, "param": None, "code": None}}
    if unread:
        return web.Response(body=encode(body), status=refused.status, headers={"Content-Type": JSON})
    return json_line(body, refused.status)


def json_line(value: object, status: int = 200) -> web.Response:
    """As Go's encoder writes it."""
    return web.Response(body=encode(value) + b"\n", status=status, headers={"Content-Type": PLAIN_JSON})


def asking(shape: Shape, convert: Convert, act: Act, error: Error = _openai_error) -> Handler:
    """A handler that reads its body as `shape` and converts it; `error` tells what is refused, and if it was read."""

    async def handler(request: web.Request) -> web.StreamResponse:
        unread = True
        try:
            body = await compression.read(request)
        except RefusalError as refused:
            return web.Response(body=encode({"error": refused.message}), status=400, headers={"Content-Type": JSON})
        try:
            asked = convert(requests.read(body, shape))
            unread = False
            return await act(request, asked)
        except RefusalError as refused:
            return error(refused, unread)

    return handler


def common(asked: Asked, limit: str) -> dict[str, Any]:
    """What all requests for text have; `limit` is the field that limits the answer."""
    usage = (asked.get("stream_options") or {}).get("include_usage")
    return {
        "model": asked.get("model", ""),
        "stream": asked.get("stream", False),
        "usage": bool(usage),
        "options": {"num_predict": asked[limit]} if limit in asked else {},
    }


def _from_chat(asked: Asked) -> dict[str, Any]:
    messages = asked.get("messages") or []
    if not messages:
        raise RefusalError(400, "[] is too short - 'messages'")
    for message in messages:
        _check_content(message)
    return {**common(asked, "max_tokens"), "messages": messages, "tools": asked.get("tools")}


_GO_NAMES = {bool: "bool", int: "float64", float: "float64", dict: "map[string]interface {}", type(None): "<nil>"}


def _check_content(message: Asked) -> None:
    content = message.get("content")
    if not isinstance(content, str | list) and not message.get("tool_calls"):
        go_name = next(name for kind, name in _GO_NAMES.items() if isinstance(content, kind))
        raise RefusalError(400, f"invalid message content type: {go_name}")


def _from_completion(asked: Asked) -> dict[str, Any]:
    texts = {key: asked.get(key, "") for key in ("prompt", "suffix")}
    return {**common(asked, "max_tokens"), **texts}


def _from_embed(asked: Asked) -> dict[str, Any]:
    given = asked.get("input")
    if given is None or given == []:
        raise RefusalError(400, "invalid input")
    return {"model": asked.get("model", ""), "input": [""] if given == "" else given}
