"""Others use the same Ollama: another proxy, or clients that ask it directly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from swapper_proxy.app import running
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime import loader
from tests.e2e.conftest import LIMIT_S, Client, busy, is_in, settings, until


@asynccontextmanager
async def impatient(ollama: Client, unload_timeout: float = 2.0) -> AsyncIterator[Client]:
    """A proxy with room for one model that does not wait long for an unload."""
    async with running(settings(ollama.url, unload_timeout=unload_timeout)) as proxy:
        yield Client(ollama.session, proxy.url)


async def test_a_model_that_others_keep_busy_keeps_nobody_waiting(roomy: Client) -> None:
    async with impatient(roomy) as proxy:
        async with busy(roomy, "alpha"):
            await is_in(proxy, "first", "loaded")
            assert (await proxy.generate("beta"))[0] == 200
            await roomy.generate("gamma")
            await is_in(proxy, "gamma:latest", "loaded")  # so there was another look
            assert await proxy.state("first") == "unloaded"
            assert "alpha:latest" in await roomy.resident()

        async def gone() -> bool:
            return "alpha:latest" not in await roomy.resident()

        await until(gone)  # the unload was asked for


async def test_what_others_went_on_using_is_waited_for_once(
    roomy: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with impatient(roomy, unload_timeout=2 * LIMIT_S) as proxy, busy(roomy, "alpha"):
        await is_in(proxy, "first", "loaded")
        monkeypatch.setattr(loader, "IN_USE_S", 1.0)
        assert (await proxy.generate("beta"))[0] == 200
        monkeypatch.setattr(loader, "IN_USE_S", LIMIT_S)  # longer than a client waits for a swap
        for model in ("alpha", "beta"):
            assert (await proxy.generate(model))[0] == 200
        assert caplog.text.count("others use it") == 2


async def test_an_operator_who_unloads_what_others_use_is_answered(roomy: Client) -> None:
    async with impatient(roomy) as proxy, busy(roomy, "alpha"):
        await is_in(proxy, "first", "loaded")
        assert (await proxy.post("/models/first/unload"))[0] == 200
        assert (await proxy.generate("alpha"))[0] == 200  # it is still there


@pytest.mark.parametrize("room", [1, 2])
async def test_two_proxies_take_turns(session: aiohttp.ClientSession, room: int) -> None:
    models = [SimulatedModel(name, load_s=0.01, tokens_per_second=400) for name in ("alpha", "beta")]
    async with (
        serving(Simulator(models, max_loaded=room)) as url,
        impatient(Client(session, url)) as one,
        impatient(Client(session, url)) as other,
    ):
        asking = [proxy.generate(name) for proxy in (one, other) for name in ("alpha", "beta") for _ in range(20)]
        assert {status for status, _ in await asyncio.gather(*asking)} == {200}
