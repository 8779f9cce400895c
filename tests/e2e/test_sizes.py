"""A request with a large context, on the real Ollama: what it takes is foreseen, and it locks nobody out."""

from collections.abc import Iterator

import aiohttp
import pytest

from swapper_proxy.config import Model
from swapper_proxy.runtime import watcher
from tests.e2e.conftest import Client, configured, until
from tests.real import models as real
from tests.real.install import find
from tests.real.server import OllamaServer

BUDGET_GB = 0.4
LARGE = {"num_ctx": 32768, "num_predict": 2}  # 722 MB for two requests at once
SMALL = {"num_ctx": 2048, "num_predict": 2}  # 46 MB
TOO_LARGE = (
    "alpha takes 0.72 GB with num_ctx 32768, and memory_budget_gb is 0.4; raise it, or ask for a smaller num_ctx"
)


@pytest.fixture(scope="module")
def long_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A real Ollama with models that were trained for a long context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real, "CONTEXT", 1_000_000)
        patch.setattr("tests.real.server.MODELS", {name: real.MODELS[name] for name in ("alpha", "beta", "gamma")})
        folder = tmp_path_factory.mktemp("long")
        server = OllamaServer(find(), folder, OLLAMA_MAX_LOADED_MODELS="3", OLLAMA_NUM_PARALLEL="2")
        with server.holding(("alpha", "beta", "gamma")):
            yield server


@pytest.fixture
async def ollama(session: aiohttp.ClientSession, long_server: OllamaServer) -> Client:
    return Client(session, long_server.url)


def proxy_of(ollama: Client):
    chosen = {name: Model(path=f"ollama:{name}") for name in ("alpha", "beta", "gamma")}
    return configured(ollama, chosen, mode="multi-active", memory_budget_gb=BUDGET_GB, parallel=2)


async def ask(proxy: Client, model: str, options: dict[str, int] | None = None) -> tuple[int, object]:
    body = {"model": model, "prompt": "x", "stream": False, "options": options or {"num_predict": 2}}
    return await proxy.post("/api/generate", body)


async def sizes(ollama: Client) -> dict[str, int]:
    status, answer = await ollama.get("/api/ps")
    return {m["name"].split(":")[0]: m["size"] for m in answer["models"]} if status == 200 else {}


async def is_empty(ollama: Client) -> None:
    """Until nothing is in memory."""

    async def empty() -> bool:
        return not await sizes(ollama)

    await until(empty)


async def test_a_large_context_locks_nobody_out(ollama: Client) -> None:
    async with proxy_of(ollama) as proxy:
        assert (await ask(proxy, "alpha"))[0] == 200
        assert (await ask(proxy, "alpha", LARGE))[0] == 200
        await is_empty(ollama)  # once it was measured
        status, answer = await ask(proxy, "alpha", LARGE)
        assert (status, answer) == (507, {"error": TOO_LARGE})
        assert (await ask(proxy, "alpha"))[0] == 200
        assert (await ask(proxy, "alpha", SMALL))[0] == 200
        assert (await proxy.post("/models/alpha/load"))[0] == 200
        assert (await ask(proxy, "beta"))[0] == 200


async def test_what_is_replaced_at_once_is_measured_all_the_same(
    ollama: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks between its load and its unload, and it does not come in again."""
    for name in ("alpha", "beta"):
        await ollama.post("/api/generate", {"model": name, "keep_alive": 0})
    await is_empty(ollama)
    monkeypatch.setattr(watcher, "BUSY_S", 3600.0)
    monkeypatch.setattr(watcher, "QUIET_S", 3600.0)
    async with proxy_of(ollama) as proxy:
        assert (await ask(proxy, "alpha", LARGE))[0] == 200
        assert (await ask(proxy, "beta"))[0] == 200
        assert await ask(proxy, "alpha", LARGE) == (507, {"error": TOO_LARGE})


async def test_room_is_made_for_a_large_context_before_it_is_loaded(ollama: Client) -> None:
    async with proxy_of(ollama) as proxy:
        for name in ("gamma", "beta"):
            assert (await ask(proxy, name))[0] == 200
        for name in ("alpha", "beta"):
            assert (await ask(proxy, name, {"num_ctx": 12000, "num_predict": 2}))[0] == 200  # 265 MB each
            there = await sizes(ollama)
            assert name in there
            assert sum(there.values()) <= BUDGET_GB * 1e9
