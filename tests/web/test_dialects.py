"""Every error that the proxy gives by itself, on every route, in the shape that the clients of the route expect."""

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from swapper_proxy.core.errors import Failure, ProxyError, Rejected, Rejection
from swapper_proxy.web.dialects import Dialect, dialect_of, rendered
from swapper_proxy.web.endpoints import ENDPOINTS

ERRORS = [
    *(Rejected(reason, retry_after_s=2.1) for reason in Rejection),
    *(ProxyError(status, f"code_{status}", f"text {status}") for status in (400, 401, 403, 404, 408, 409, 413, 415)),
    ProxyError(429, "rate_limited", "later", 0.2),
    ProxyError(502, "upstream_unreachable", "Ollama is not reachable"),
]
INVALID, SERVER = "invalid_request_error", "api_error"
OPENAI = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
ANTHROPIC = {**OPENAI, 413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}


def kind(types: dict[int, str], status: int) -> str:
    return types.get(status, INVALID if status < 500 else SERVER)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def respond(*given: Any) -> Answer:
    status, headers, body = rendered(*given)
    return Answer(status, {name.decode(): value.decode() for name, value in headers}, body)


def content(answer: Answer) -> dict:
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    return json.loads(answer.body)


def by_status(error: ProxyError) -> str:
    return f"{error.status}-{error.code}"


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("error", ERRORS, ids=by_status)
def test_shapes(path: str, error: ProxyError) -> None:
    answer = respond(error, dialect_of(path), "req_1")
    assert answer.status == error.status
    if path == "/v1/messages":
        told = {"type": kind(ANTHROPIC, error.status), "message": error.message}
        assert content(answer) == {"type": "error", "error": told, "request_id": "req_1"}
        assert answer.headers["request-id"] == "req_1"
    elif path.startswith("/v1/"):
        told = {"message": error.message, "type": kind(OPENAI, error.status), "param": None, "code": error.code}
        assert content(answer) == {"error": told}
    else:
        assert content(answer) == {"error": error.message}


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("error", ERRORS, ids=by_status)
def test_when_to_come_back(path: str, error: ProxyError) -> None:
    """Client libraries try a 5xx again, after the time they are told, unless they are told not to."""
    headers = respond(error, dialect_of(path)).headers
    expected = {None: None, 0.2: "1", 2.1: "3"}[error.retry_after_s]
    assert headers.get("Retry-After") == expected
    assert headers.get("x-should-retry") == ("false" if error.status == 507 and path.startswith("/v1/") else None)


FAILURE = Failure(500, b'{"error":"llama runner process has terminated"}', "application/json; charset=utf-8")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_ollama_said_of_a_failed_load(path: str) -> None:
    answer = respond(Rejected(Rejection.LOAD_FAILED, 5.0, FAILURE), dialect_of(path))
    assert (answer.status, answer.headers["Retry-After"]) == (500, "5")
    told = content(answer)["error"]
    if path.startswith("/v1/"):
        assert (told["message"], told["type"]) == ("llama runner process has terminated", SERVER)
    else:
        assert answer.body == FAILURE.body
        assert answer.headers["Content-Type"] == FAILURE.content_type


@pytest.mark.parametrize("body", [b"no JSON", b"[]"])
def test_what_ollama_said_without_saying_it_properly(body: bytes) -> None:
    answer = respond(Rejected(Rejection.LOAD_FAILED, failure=Failure(500, body, "text/plain")), Dialect.OPENAI)
    assert content(answer)["error"]["message"] == body.decode()


def test_a_request_id_of_its_own() -> None:
    answers = [respond(ProxyError(404, "model_not_found", "no"), Dialect.ANTHROPIC) for _ in range(2)]
    first, second = (content(answer)["request_id"] for answer in answers)
    assert re.fullmatch("req_[0-9a-f]{24}", first)
    assert first != second


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages/count_tokens", Dialect.ANTHROPIC),
        ("/v1/models", Dialect.OPENAI),
        ("/api/tags", Dialect.OLLAMA),
        ("/", Dialect.OLLAMA),
    ],
)
def test_routes_that_do_not_swap(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect
