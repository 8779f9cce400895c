"""The two sides, with one proxy for all rows."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from swapper_proxy.app import running
from swapper_proxy.config import Server, Settings, Upstream
from tests.differential.sides import Sides
from tests.real.models import MODELS
from tests.real.server import OllamaServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sides(ollama_server: OllamaServer) -> AsyncIterator[Sides]:
    """The real Ollama and the proxy as it ships; what rows made is deleted afterwards."""
    settings = Settings(server=Server(port=0), upstream=Upstream(url=ollama_server.url))
    async with running(settings) as proxy:
        yield Sides(ollama_server.url, proxy.url)
    await asyncio.to_thread(_delete_others, ollama_server)


def _delete_others(server: OllamaServer) -> None:
    listed = [line.split()[0] for line in server.command("list").splitlines()[1:]]
    for name in listed:
        if name.removesuffix(":latest") not in MODELS:
            server.command("rm", name)
