"""Each SDK sends a key as it always does, and raises the class that its users catch where the key does not do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import msgspec
import ollama as package
import openai
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import ClientKey, Keys, digest
from tests.clients.conftest import MESSAGES, call
from tests.e2e.conftest import Client, settings

KEYS = {
    "good": ClientKey(key_sha256=digest("sk-good")),
    "other": ClientKey(key_sha256=digest("sk-other"), models=("beta",)),
    "idle": ClientKey(key_sha256=digest("sk-idle"), queued=0),
}


@dataclass(frozen=True)
class Sdk:
    """How to make a client for a base URL and a key, and how to ask with it."""

    connect: Callable[[str, str], Any]
    method: str


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


SDKS = {
    "ollama": Sdk(lambda url, key: package.Client(url, headers=bearer(key)), "chat"),
    "openai": Sdk(
        lambda url, key: openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0), "chat.completions.create"
    ),
    "anthropic": Sdk(lambda url, key: anthropic.Anthropic(base_url=url, api_key=key, max_retries=0), "messages.create"),
    "anthropic, bearer": Sdk(
        lambda url, key: anthropic.Anthropic(base_url=url, api_key=None, auth_token=key, max_retries=0),
        "messages.create",
    ),
}


@asynccontextmanager
async def keyed(direct: Client) -> AsyncIterator[str]:
    chosen = msgspec.structs.replace(settings(direct.url), keys=Keys(clients=KEYS))
    async with running(chosen) as up:
        yield up.url


async def asked(sdk: Sdk, url: str, key: str) -> Any:
    client = sdk.connect(url, key)
    limit = {"max_tokens": 2} if sdk.method != "chat" else {}
    try:
        return await call(client, sdk.method, model="alpha", messages=MESSAGES, **limit)
    finally:
        client.close()


@pytest.mark.parametrize(
    ("key", "status", "of_openai", "of_anthropic", "kind"),
    [
        ("sk-none", 401, openai.AuthenticationError, anthropic.AuthenticationError, "authentication_error"),
        ("sk-other", 403, openai.PermissionDeniedError, anthropic.PermissionDeniedError, "permission_error"),
        ("sk-idle", 429, openai.RateLimitError, anthropic.RateLimitError, "rate_limit_error"),
    ],
)
async def test_the_class_that_is_raised(
    ollama: Client, key: str, status: int, of_openai: type, of_anthropic: type, kind: str
) -> None:
    async with keyed(ollama) as url:
        errors: list[Any] = await asyncio.gather(
            *(asked(sdk, url, key) for sdk in SDKS.values()), return_exceptions=True
        )
    native, by_openai, *by_anthropic = errors
    assert (type(native), native.status_code) == (package.ResponseError, status)
    assert (type(by_openai), by_openai.status_code, by_openai.type) == (of_openai, status, kind)
    for error in by_anthropic:
        assert (type(error), error.status_code, error.type) == (of_anthropic, status, kind)
        assert native.error == by_openai.body["message"] == error.api_message
    for error in (by_openai, *by_anthropic):
        assert ("Retry-After" in error.response.headers) is (status == 429)
        assert error.response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize("name", ["ollama", "openai"])
async def test_a_good_key_is_answered(ollama: Client, name: str) -> None:
    async with keyed(ollama) as url:
        assert await asked(SDKS[name], url, "sk-good")


async def test_an_anthropic_key_is_let_through(ollama: Client) -> None:
    """This Ollama may be too old for the route: then it says so itself."""
    async with keyed(ollama) as url:
        answers = (asked(SDKS[name], url, "sk-good") for name in ("anthropic", "anthropic, bearer"))
        for answer in await asyncio.gather(*answers, return_exceptions=True):
            assert getattr(answer, "status_code", 200) in (200, 404)
