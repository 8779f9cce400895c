"""What the tests of all clients share: the proxy before the real Ollama, what it counted, and calls of any client."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any

import pytest

from tests.e2e import conftest as e2e
from tests.e2e.conftest import Client
from tests.real.install import find
from tests.real.server import OllamaServer

session, ollama, proxy = e2e.session, e2e.ollama, e2e.proxy  # fixtures

MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture(scope="session")
def ollama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A real Ollama that holds one model at a time."""
    with OllamaServer(find(), tmp_path_factory.mktemp("clients"), OLLAMA_MAX_LOADED_MODELS="1").holding(
        ("alpha", "beta", "gamma", "alpha-kind", "embedder")
    ) as server:
        yield server


async def call(client: Any, method: str, **arguments: Any) -> Any:
    """What this method answers, a stream as a list.  Blocking clients run in a thread: the proxy needs the loop."""
    bound = attrgetter(method)(client)
    if not type(client).__name__.startswith("Async"):
        return await asyncio.to_thread(lambda: _listed(bound(**arguments), arguments))
    answer = await bound(**arguments)
    return [part async for part in answer] if arguments.get("stream") else answer


def _listed(answer: Any, arguments: dict[str, Any]) -> Any:
    return list(answer) if arguments.get("stream") else answer


async def counts(proxy: Client) -> dict[str, int]:
    """How many requests each model was given, without those that were given none."""
    metrics = (await proxy.get("/metrics?format=json"))[1]["metrics"]
    return {entry["model_name"]: entry["request_count"] for entry in metrics if entry["request_count"]}


@asynccontextmanager
async def loading(proxy: Client, number: int) -> AsyncIterator[None]:
    """The proxy loads a model so many times in the block."""
    before = await proxy.metric("swapper_load_seconds_count")
    yield
    assert await proxy.metric("swapper_load_seconds_count") - before == number


@pytest.fixture
async def made(ollama: Client) -> AsyncIterator[list[str]]:
    """Names of models that the test adds; they are gone afterwards, as others compare the lists."""
    names = ["made", "made-copy"]
    yield names
    for name in names:
        await ollama.post("/api/generate", {"model": name, "keep_alive": 0})  # nameless it could not be unloaded
        async with ollama.session.delete(f"{ollama.url}/api/delete", json={"model": name}) as answer:
            assert answer.status in (200, 404)
