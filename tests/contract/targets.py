"""What the contract is checked against: each kind of target is a way to bring up a base URL."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Server, Settings, Upstream
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.real.server import OllamaServer

SHORT = {"num_predict": 16, "num_thread": 1}


@dataclass(frozen=True)
class Target:
    """Where the tests talk to, and what stands there."""

    url: str
    kind: str


def simulated_models() -> list[SimulatedModel]:
    """The models of `tests.real.models`, with much the same delays."""

    def model(name: str, **given: object) -> SimulatedModel:
        settings = {"load_s": 0.05, "tokens_per_second": 1000, "parameters": SHORT, **given}
        return SimulatedModel(name, size=240_000, **settings)

    return [
        model("alpha"),
        model("beta"),
        model("gamma"),
        model("alpha-kind", weights="alpha", system="be kind"),
        model("alpha-512", weights="alpha", parameters={**SHORT, "num_ctx": 512}),
        model("embedder", embedding_only=True, parameters={}),
        model("slow", load_s=0.6),
    ]


@asynccontextmanager
async def real(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    server: OllamaServer = request.getfixturevalue("ollama_server")
    yield server.url


@asynccontextmanager
async def simulated(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with serving(Simulator(simulated_models(), overtaking=False)) as url:
        yield url


@asynccontextmanager
async def proxied(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The proxy in front of the real one, as it ships."""
    server: OllamaServer = request.getfixturevalue("ollama_server")
    settings = Settings(server=Server(port=0), upstream=Upstream(url=server.url))
    async with running(settings) as proxy:
        yield proxy.url


TARGETS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[str]]] = {
    "real": real,
    "simulated": simulated,
    "proxied": proxied,
}
