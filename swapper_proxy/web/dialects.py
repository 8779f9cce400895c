"""The proxy's own errors in the shape that the clients of a route expect."""

from collections.abc import Callable
from enum import Enum
from math import ceil

import msgspec
from aiohttp import web

from swapper_proxy.core.errors import ProxyError, Rejected

# OpenAI and Anthropic name their error types by what the status means.
_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error", 413: "invalid_request_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _ollama(error: ProxyError) -> object:
    return {"error": error.message}


def _openai(error: ProxyError) -> object:
    kind = _OPENAI_TYPES.get(error.status, "api_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


def _anthropic(error: ProxyError) -> object:
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _management(error: ProxyError) -> object:
    return {"status": "error", "error": {"code": error.code, "message": error.message}}


class Dialect(Enum):
    """How an error is written; `render` gives the JSON body."""

    OLLAMA = (_ollama,)
    OPENAI = (_openai,)
    ANTHROPIC = (_anthropic,)
    MANAGEMENT = (_management,)

    def __init__(self, render: Callable[[ProxyError], object]) -> None:
        self.render = render


def dialect_of(path: str) -> Dialect:
    """The dialect of a path that is handed on to Ollama."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI if path.startswith("/v1/") else Dialect.OLLAMA


def respond(error: ProxyError, dialect: Dialect) -> web.Response:
    """The whole answer.  What Ollama said about a failed load is passed on as it said it."""
    headers = {"Retry-After": str(max(1, ceil(error.retry_after_s)))} if error.retry_after_s is not None else {}
    if isinstance(error, Rejected) and error.failure is not None and dialect is Dialect.OLLAMA:
        headers["Content-Type"] = error.failure.content_type
        return web.Response(status=error.failure.status, body=error.failure.body, headers=headers)
    if isinstance(error, Rejected) and error.failure is not None:
        error = ProxyError(error.failure.status, error.code, _text(error.failure.body))
    body = msgspec.json.encode(dialect.render(error))
    return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)


def _text(body: bytes) -> str:
    """What Ollama's `{"error": "..."}` says."""
    try:
        return str(msgspec.json.decode(body, type=dict[str, object]).get("error", ""))
    except msgspec.MsgspecError:
        return body.decode(errors="replace")
