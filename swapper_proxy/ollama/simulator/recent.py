"""The /v1 routes of newer versions: responses, messages, recordings, pictures."""

import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from swapper_proxy.ollama.simulator import requests
from swapper_proxy.ollama.simulator.dialects import JSON, encode
from swapper_proxy.ollama.simulator.events import MessageEvents, ResponseEvents
from swapper_proxy.ollama.simulator.inference import Inference
from swapper_proxy.ollama.simulator.openai import asking, common, json_line
from swapper_proxy.ollama.simulator.requests import RefusalError

Asked = Mapping[str, Any]


def add_routes(router: web.UrlDispatcher, inference: Inference) -> None:
    """Everything on /v1 that 0.9.3 does not have."""
    routes = _Routes(inference)
    painting = asking(requests.PICTURE, _from_picture, routes.paint, _openai_error)
    editing = asking(requests.PICTURE_EDIT, _from_edit, routes.paint, _openai_error)
    router.add_post("/v1/responses", asking(requests.RESPONSES, _from_responses, routes.respond, _openai_error))
    router.add_post("/v1/messages", asking(requests.MESSAGES, _from_messages, routes.message, _anthropic_error))
    router.add_post("/v1/audio/transcriptions", routes.transcribe)
    router.add_post("/v1/images/generations", painting)
    router.add_post("/v1/images/edits", editing)


class _Routes:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def respond(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return await self._inference.chat(request, asked, ResponseEvents(asked["model"], asked["asked"]))

    async def message(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return await self._inference.chat(request, asked, MessageEvents(asked["model"]))

    async def paint(self, _: web.Request, asked: dict[str, Any]) -> web.Response:
        picture = await self._inference.illustrate(asked)
        if picture is None:  # its text is not turned into anything
            return web.Response(headers={"Content-Type": "application/x-ndjson"})
        return json_line({"created": int(time.time()), "data": [{"b64_json": picture}]})

    async def transcribe(self, request: web.Request) -> web.Response:
        unread = True
        try:
            model, answer_format = await _recording(request)
            unread = False
            text = await self._inference.transcribe(model)
        except RefusalError as refused:
            return _openai_error(refused, unread)
        if answer_format == "text":
            return web.Response(body=text.encode(), headers={"Content-Type": "text/plain"})
        return json_line({"text": text})


async def _recording(request: web.Request) -> tuple[str, str]:
    """The model and the response_format of a form with a file.  Raises RefusalError (400)."""
    if request.content_type != "multipart/form-data":
        problem = "request Content-Type isn't multipart/form-data"
        raise RefusalError(400, f"failed to parse multipart form: {problem}")
    try:
        form = await request.post()
    except ValueError as error:
        raise RefusalError(400, f"failed to parse multipart form: {error}") from None
    model = request.query.get("model") or _value(form, "model")
    file = next((part for part in form.getall("file", []) if isinstance(part, web.FileField)), None)
    if not model:
        raise RefusalError(400, "model is required")
    if file is None:
        raise RefusalError(400, "file is required: http: no such file")
    if not file.file.read(1):
        raise RefusalError(400, "audio file is empty")
    return model, _value(form, "response_format")


def _value(form: Any, name: str) -> str:
    return next((part for part in form.getall(name, []) if isinstance(part, str)), "")


_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


def _openai_error(refused: RefusalError, unread: bool) -> web.Response:
    kind = _TYPES.get(refused.status, "api_error")
    return _error({"error": {"message": refused.message, "type": kind, "param": None, "code": None}}, refused, unread)


def _anthropic_error(refused: RefusalError, unread: bool) -> web.Response:
    kind = {**_TYPES, 503: "overloaded_error"}.get(refused.status, "api_error")
    request_id = f"req_{time.time_ns():024x}"
    error = {"type": kind, "message": refused.message}
    return _error({"type": "error", "error": error, "request_id": request_id}, refused, unread)


def _error(value: object, refused: RefusalError, unread: bool) -> web.Response:
    if unread:
        return web.Response(body=encode(value), status=refused.status, headers={"Content-Type": JSON})
    return json_line(value, refused.status)


def _from_responses(asked: Asked) -> dict[str, Any]:
    given = asked.get("input", [])
    if not isinstance(given, str | list):
        raise RefusalError(400, "input must be a string or array")
    messages = [{"role": "user", "content": given}] if isinstance(given, str) and given else given or []
    return {**common(asked, "max_output_tokens"), "messages": messages, "tools": asked.get("tools"), "asked": asked}


def _from_messages(asked: Asked) -> dict[str, Any]:
    if not asked.get("model"):
        raise RefusalError(400, "model is required")
    if asked.get("max_tokens", 0) <= 0:
        raise RefusalError(400, "max_tokens is required and must be positive")
    if not asked.get("messages"):
        raise RefusalError(400, "messages is required")
    return {**common(asked, "max_tokens"), "messages": asked["messages"]}


def _from_picture(asked: Asked) -> dict[str, Any]:
    return _required(asked, "prompt", "model")


def _from_edit(asked: Asked) -> dict[str, Any]:
    return _required(asked, "prompt", "model", "image")


def _required(asked: Asked, *names: str) -> dict[str, Any]:
    for name in names:
        if not asked.get(name):
            raise RefusalError(400, f"{name} is required")
    return {"model": asked["model"]}
