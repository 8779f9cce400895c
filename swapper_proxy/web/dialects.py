"""The proxy's own errors in the shape that the clients of a route expect."""

import secrets
from collections.abc import Callable
from enum import Enum
from math import ceil

import msgspec

from swapper_proxy.core.errors import ProxyError, Rejected
from swapper_proxy.runtime.ports import Header

# The kinds of errors by what the status means, as Ollama names them where it does; the rest as the two of them do.
_BOTH_TYPES = {
    **dict.fromkeys((400, 405, 408, 409, 413, 415), "invalid_request_error"),
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {**_BOTH_TYPES, 413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}
_SERVERS_FAULT = "api_error"
HOPELESS = (507, 508)  # their client libraries try again after any 5xx that does not say otherwise


def _ollama(error: ProxyError, _: str) -> object:
    return {"error": error.message}


def _openai(error: ProxyError, _: str) -> object:
    kind = _BOTH_TYPES.get(error.status, _SERVERS_FAULT)
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


def _anthropic(error: ProxyError, request_id: str) -> object:
    kind = _ANTHROPIC_TYPES.get(error.status, _SERVERS_FAULT)
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def _management(error: ProxyError, _: str) -> object:
    return {"status": "error", "error": {"code": error.code, "message": error.message}}


class Dialect(Enum):
    """How an error is written; `render` gives the JSON body, from the error and the request id."""

    OLLAMA = (_ollama,)
    OPENAI = (_openai,)
    ANTHROPIC = (_anthropic,)
    MANAGEMENT = (_management,)

    def __init__(self, render: Callable[[ProxyError, str], object]) -> None:
        self.render = render


def dialect_of(path: str) -> Dialect:
    """The dialect of a path that is handed on to Ollama."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI if path.startswith("/v1/") else Dialect.OLLAMA


def rendered(error: ProxyError, dialect: Dialect, request_id: str = "") -> tuple[int, list[Header], bytes]:
    """Status, headers and body.  What Ollama said about a failed load is passed on as it said it.

    `request_id` is a new one if it is not given.
    """
    request_id = request_id or f"req_{secrets.token_hex(12)}"
    headers = _headers(error, dialect, request_id)
    if isinstance(error, Rejected) and error.failure is not None:
        if dialect is Dialect.OLLAMA:
            kind = error.failure.content_type.encode("latin-1")
            return error.failure.status, [(b"Content-Type", kind), *headers], error.failure.body
        error = ProxyError(error.failure.status, error.code, _text(error.failure.body))
    body = msgspec.json.encode(dialect.render(error, request_id))
    return error.status, [(b"Content-Type", b"application/json"), *headers], body


def _headers(error: ProxyError, dialect: Dialect, request_id: str) -> list[Header]:
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"Retry-After", b"%d" % max(1, ceil(error.retry_after_s))))
    if error.status == 401:
        headers.append((b"WWW-Authenticate", b"Bearer"))
    if error.status in HOPELESS and dialect in (Dialect.OPENAI, Dialect.ANTHROPIC):
        headers.append((b"x-should-retry", b"false"))
    if dialect is Dialect.ANTHROPIC:
        headers.append((b"request-id", request_id.encode()))
    return headers


def message(error: ProxyError) -> str:
    """What Ollama said about a failed load, else what the proxy says."""
    failure = error.failure if isinstance(error, Rejected) else None
    return _text(failure.body) if failure else error.message


def _text(body: bytes) -> str:
    """What Ollama's `{"error": "..."}` says."""
    try:
        return str(msgspec.json.decode(body, type=dict[str, object]).get("error", ""))
    except (msgspec.MsgspecError, RecursionError):
        return body.decode(errors="replace")
