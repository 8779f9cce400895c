"""The proxy as it ships, through `app.running`, in front of the real Ollama or the simulator."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.app import Running, running
from swapper_proxy.config import Model, Server, Settings, Swapper, Upstream
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.real.install import find
from tests.real.server import OllamaServer
from tests.waiting import LIMIT_S, until

__all__ = ["LIMIT_S", "until"]

MODELS = {
    "first": Model(path="ollama:alpha", type="llm", size_gb=1, priority="high"),
    "team/second:v1": Model(path="ollama:beta", type="llm", size_gb=1),
    "gone": Model(path="ollama:never-pulled", type="llm", size_gb=1),
}


@dataclass
class Client:
    """Talks to one base URL."""

    session: aiohttp.ClientSession
    url: str

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        async with self.session.post(self.url + path, json=body, headers=headers) as answer:
            return answer.status, await _content(answer)

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, await _content(answer)

    async def generate(self, model: str, tokens: int = 4, **more: Any) -> tuple[int, Any]:
        body = {"model": model, "prompt": "x", "stream": False, "options": {"num_predict": tokens}, **more}
        return await self.post("/api/generate", body)

    def stream(self, model: str, tokens: int) -> Any:
        body = {"model": model, "prompt": "x", "options": {"num_predict": tokens}}
        return self.session.post(f"{self.url}/api/generate", json=body)

    async def resident(self) -> list[str]:
        status, answer = await self.get("/api/ps")
        while status != 200:  # the real one sometimes answers 500 without a body while a model is being unloaded
            status, answer = await self.get("/api/ps")
        return [entry["name"] for entry in answer["models"]]

    async def status(self) -> Any:
        return (await self.get("/status"))[1]

    async def waiting(self) -> list[Any]:
        """Those who wait, as /queue shows them."""
        return (await self.get("/queue"))[1]["requests"]

    async def state(self, model: str) -> str:
        return (await self.get(f"/models/{model}"))[1]["status"]

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with at least these labels."""
        families = text_string_to_metric_families((await self.get("/metrics"))[1])
        samples = [s for family in families for s in family.samples if s.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())


async def _content(answer: aiohttp.ClientResponse) -> Any:
    return await answer.json() if answer.content_type == "application/json" else await answer.text()


async def waits(proxy: Client, number: int) -> None:
    """Until so many wait in all."""

    async def so_many() -> bool:
        return (await proxy.status())["waiting"] == number

    await until(so_many)


async def is_in(proxy: Client, model: str, *states: str) -> None:
    """Until the model is in one of these states."""

    async def there() -> bool:
        return await proxy.state(model) in states

    await until(there)


async def at_rest(proxy: Client) -> None:
    """Until nobody waits and nothing is in flight: what a client that left must leave behind."""

    async def free() -> bool:
        status = await proxy.status()
        return status["waiting"] == status["in_flight"] == 0

    await until(free)


@asynccontextmanager
async def busy(proxy: Client, model: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """Keep the model answering until the end of the block; then the client leaves."""
    async with proxy.stream(model, 40_000) as stream:
        assert stream.status == 200
        await stream.content.readline()
        yield stream
        stream.close()


def settings(url: str, **swapper: Any) -> Settings:
    """Loads may take as long as they do on a busy machine."""
    server, chosen = Server(port=0, shutdown_grace=1.0), Swapper(**({"model_swap_timeout": 300.0} | swapper))
    return Settings(server=server, upstream=Upstream(url=url), models=MODELS, swapper=chosen)


@pytest.fixture(scope="session")
def roomy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A real Ollama that holds three models at a time."""
    with OllamaServer(find(), tmp_path_factory.mktemp("roomy"), OLLAMA_MAX_LOADED_MODELS="3").holding(
        ["alpha", "beta", "gamma", "embedder"]
    ) as server:
        yield server


@pytest.fixture(scope="session")
def ollama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A real Ollama that holds one model at a time."""
    with OllamaServer(find(), tmp_path_factory.mktemp("ollama"), OLLAMA_MAX_LOADED_MODELS="1").holding() as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
        yield session


@pytest.fixture
async def ollama(session: aiohttp.ClientSession, ollama_server: OllamaServer) -> Client:
    """The real Ollama, directly, with nothing resident."""
    return await _emptied(Client(session, ollama_server.url))


@pytest.fixture
async def roomy(session: aiohttp.ClientSession, roomy_server: OllamaServer) -> Client:
    """The real Ollama that holds three models, directly, with nothing resident."""
    return await _emptied(Client(session, roomy_server.url))


async def _emptied(direct: Client) -> Client:
    async def empty() -> bool:
        for name in await direct.resident():
            path = "/api/embed" if name.startswith("embedder") else "/api/generate"
            await direct.post(path, {"model": name, "keep_alive": 0})
        return not await direct.resident()

    await until(empty)
    return direct


@pytest.fixture
async def proxy(session: aiohttp.ClientSession, ollama: Client) -> AsyncIterator[Client]:
    """The proxy in front of the real Ollama."""
    async with running(settings(ollama.url)) as running_proxy:
        yield Client(session, running_proxy.url)


@asynccontextmanager
async def configured(ollama: Client, models: dict[str, Model], **swapper: Any) -> AsyncIterator[Client]:
    """The proxy in front of the real Ollama, with these models configured."""
    chosen = msgspec.structs.replace(settings(ollama.url, **swapper), models=models)
    async with running(chosen) as proxy:
        yield Client(ollama.session, proxy.url)


@asynccontextmanager
async def simulated(session: aiohttp.ClientSession, *models: SimulatedModel, **swapper: Any) -> AsyncIterator[Client]:
    """The proxy in front of a simulated Ollama."""
    async with serving(Simulator(models)) as url, running(settings(url, **swapper)) as proxy:
        assert isinstance(proxy, Running)
        yield Client(session, proxy.url)
