"""What the proxy itself refuses: each SDK raises the class that its users catch, and can read when to come back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic
import msgspec
import ollama as package
import openai
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Model, Server, Upstream
from tests.clients.conftest import MESSAGES, call
from tests.e2e.conftest import Client, busy, settings, waits

MODELS = {
    "alpha": Model(path="ollama:alpha", size_gb=1),
    "beta": Model(path="ollama:beta", size_gb=1),
    "large": Model(path="ollama:gamma", size_gb=9),
}


@dataclass(frozen=True)
class Sdk:
    """How to make a client for a base URL with further headers, and how to ask with it."""

    connect: Callable[[str, Mapping[str, str]], Any]
    method: str


SDKS = {
    "ollama": Sdk(lambda url, headers: package.Client(url, headers=headers), "chat"),
    "openai": Sdk(
        lambda url, headers: openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, default_headers=headers
        ),
        "chat.completions.create",
    ),
    "anthropic": Sdk(
        lambda url, headers: anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, default_headers=headers),
        "messages.create",
    ),
}


@dataclass(frozen=True)
class Refusal:
    """One kind of refusal, what provokes it, and the classes for it."""

    status: int
    openai: type[Exception]
    anthropic: type[Exception]
    type: str = "api_error"  # as Anthropic names it
    retry: bool = False
    model: str = "beta"
    prompt: str = "x"
    headers: Mapping[str, str] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    swapper: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    waiting: int | None = None  # so many others, for beta, while alpha answers; None: it does not


REFUSALS = {
    "priority": Refusal(
        400,
        openai.BadRequestError,
        anthropic.BadRequestError,
        "invalid_request_error",
        headers={"X-Swapper-Priority": "urgent"},
    ),
    "origin": Refusal(
        403,
        openai.PermissionDeniedError,
        anthropic.PermissionDeniedError,
        "permission_error",
        headers={"Origin": "https://example.com"},
    ),
    "unlisted": Refusal(
        404,
        openai.NotFoundError,
        anthropic.NotFoundError,
        "not_found_error",
        model="alpha-kind",
        swapper={"unlisted_models": "deny"},
    ),
    "large body": Refusal(
        413,
        openai.APIStatusError,
        anthropic.RequestTooLargeError,
        "request_too_large",
        prompt="x" * 1000,
        server={"max_body_bytes": 1000},
    ),
    "unreachable": Refusal(
        502,
        openai.InternalServerError,
        anthropic.InternalServerError,
        url="http://127.0.0.1:1",  # where nobody listens
    ),
    "full queue": Refusal(
        503,
        openai.InternalServerError,
        anthropic.ServiceUnavailableError,
        "overloaded_error",
        retry=True,
        swapper={"max_queue": 1},
        waiting=1,
    ),
    "late": Refusal(
        504,
        openai.InternalServerError,
        anthropic.InternalServerError,
        retry=True,
        swapper={"queue_timeout": 2},
        waiting=0,
        type="timeout_error",
    ),
    "large model": Refusal(
        507,
        openai.InternalServerError,
        anthropic.InternalServerError,
        model="large",
        swapper={"mode": "multi-active", "memory_budget_gb": 2},
    ),
}


@asynccontextmanager
async def refusing(direct: Client, refusal: Refusal) -> AsyncIterator[Client]:
    """A proxy that is about to refuse."""
    chosen = msgspec.structs.replace(
        settings(direct.url, **refusal.swapper),
        server=Server(port=0, **refusal.server),
        upstream=Upstream(url=refusal.url or direct.url, grace=0.1),
        models=MODELS,
    )
    async with running(chosen) as up:
        proxy = Client(direct.session, up.url)
        if refusal.waiting is None:
            yield proxy
            return
        async with asyncio.TaskGroup() as group, busy(proxy, "alpha"):
            for _ in range(refusal.waiting):
                group.create_task(proxy.generate("beta"))
            await waits(proxy, refusal.waiting)
            yield proxy


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_the_class_that_is_raised(ollama: Client, refusal: Refusal) -> None:
    async with refusing(ollama, refusal) as proxy:
        errors = await asyncio.gather(*(error_of(sdk, proxy.url, refusal) for sdk in SDKS.values()))
    native, of_openai, of_anthropic = errors
    assert (type(native), native.status_code) == (package.ResponseError, refusal.status)
    assert (type(of_openai), of_openai.status_code) == (refusal.openai, refusal.status)
    assert isinstance(of_anthropic, refusal.anthropic)
    assert (of_anthropic.status_code, of_anthropic.type) == (refusal.status, refusal.type)
    assert native.error == of_openai.body["message"] == of_anthropic.api_message
    for error in (of_openai, of_anthropic):
        assert ("Retry-After" in error.response.headers) is refusal.retry


async def error_of(sdk: Sdk, url: str, refusal: Refusal) -> Any:
    client = sdk.connect(url, refusal.headers)
    limit = {"max_tokens": 2} if sdk.method != "chat" else {}
    messages = [{**MESSAGES[0], "content": refusal.prompt}]
    try:
        with pytest.raises(Exception) as raised:
            await call(client, sdk.method, model=refusal.model, messages=messages, **limit)
        return raised.value
    finally:
        client.close()
