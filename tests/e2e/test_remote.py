"""Models that run elsewhere: never swapped, counted apart, and shown nothing of the client's credentials."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from swapper_proxy.app import running
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator
from tests.e2e.conftest import Client, settings

SECRETS = {"Authorization": "Bearer secret", "X-Api-Key": "secret", "Api-Key": "secret", "Cookie": "session=secret"}


@asynccontextmanager
async def recording(*models: SimulatedModel) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A simulated Ollama that remembers what it was asked."""
    asked: list[web.Request] = []

    @web.middleware
    async def record(request: web.Request, handler) -> web.StreamResponse:
        asked.append(request)
        return await handler(request)

    application = Simulator(models).application()
    application.middlewares.append(record)
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/v1/chat/completions"])
async def test_no_swap_no_credentials(session: aiohttp.ClientSession, path: str) -> None:
    local = SimulatedModel("alpha", load_s=0, tokens_per_second=0)
    cloud = SimulatedModel("big:cloud", load_s=0, tokens_per_second=0, remote_host="https://elsewhere.example")
    async with recording(local, cloud) as (url, asked), running(settings(url)) as up:
        proxy = Client(session, up.url)
        body = {"model": "big:cloud", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "stream": False}
        assert (await proxy.post(path, body, **SECRETS))[0] == 200
        (seen,) = [request for request in asked if request.path == path]
        assert "secret" not in str(seen.headers)
        assert await proxy.metric("swapper_swaps_total") == 0
        assert await proxy.metric("swapper_remote_requests_total", model="big:cloud", status="200") == 1
        assert await proxy.metric("swapper_model_requests_total") == 0
        assert (await proxy.get("/models/big:cloud"))[1]["remote"] is True
        assert (await proxy.post(path, body | {"temperature": "1", "stream": "no"}, **SECRETS))[0] == 400
        assert (await proxy.post("/api/show", {"model": "big:cloud"}, **SECRETS))[0] == 200
        assert (await proxy.get("/v1/models/big:cloud", **SECRETS))[0] == 200
        assert "secret" not in str([request.headers for request in asked])
        assert (await proxy.post(path, body | {"model": "alpha"}, **SECRETS))[0] == 200
        assert asked[-1].headers["Authorization"] == "Bearer secret"  # no keys are configured: it is Ollama's


async def test_a_name_does_not_make_a_model_remote(proxy: Client, ollama: Client) -> None:
    assert (await proxy.post("/api/copy", {"source": "alpha", "destination": "mine:7b-cloud"}))[0] == 200
    try:
        assert (await proxy.generate("mine:7b-cloud"))[0] == 200
        assert await proxy.state("mine:7b-cloud") == "loaded"
        assert await proxy.metric("swapper_remote_requests_total") == 0
    finally:
        await ollama.post("/api/generate", {"model": "mine:7b-cloud", "keep_alive": 0})
        await ollama.session.delete(f"{ollama.url}/api/delete", json={"model": "mine:7b-cloud"})


async def test_names_that_ollama_does_not_list_make_no_labels(proxy: Client, ollama: Client) -> None:
    for number in range(3):
        body = {"model": f"made-up-{number}:cloud", "prompt": "x"}
        assert await proxy.post("/api/generate", body) == await ollama.post("/api/generate", body)
    assert await proxy.metric("swapper_remote_requests_total", model="other", status="404") == 3
    assert "made-up" not in (await proxy.get("/metrics"))[1]
