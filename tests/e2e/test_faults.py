"""Ollama goes away and comes back; bodies that are too large or no bodies at all."""

import io
import json

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Server, Swapper, Upstream
from tests.e2e.conftest import Client, settings, until
from tests.real.install import find
from tests.real.models import Model, Weights
from tests.real.server import OllamaServer


@pytest.fixture
def mortal(tmp_path):
    """A real Ollama of its own, to be killed."""
    server = OllamaServer(find(), tmp_path, OLLAMA_MAX_LOADED_MODELS="1")
    server.start()
    try:
        server.create(["alpha", "beta"])
        yield server
    finally:
        server.stop()


async def test_ollama_killed_in_mid_stream_and_back(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    quick = msgspec.structs.replace(settings(mortal.url), upstream=Upstream(url=mortal.url, grace=0.5))
    async with running(quick) as up:
        proxy = Client(session, up.url)
        async with proxy.stream("alpha", 20000) as stream:
            await stream.content.readline()
            mortal.kill()
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream.read()
        status, answer = await proxy.generate("beta")
        assert status in (502, 503)
        assert "Ollama is not reachable" in answer["error"]

        async def degraded() -> bool:
            return (await proxy.get("/health"))[1]["status"] == "degraded"

        await until(degraded)
        assert (await proxy.get("/health"))[0] == 200
        assert (await proxy.get("/ready"))[0] == 503
        assert (await proxy.get("/api/tags"))[0] == 502
        mortal.start()

        async def works() -> bool:
            return (await proxy.generate("beta"))[0] == 200

        assert await works()
        assert (await proxy.status())["in_flight"] == 0


async def test_a_body_over_the_limit(session: aiohttp.ClientSession, ollama: Client) -> None:
    small = msgspec.structs.replace(settings(ollama.url), server=Server(port=0, max_body_bytes=1000))
    async with running(small) as up:
        proxy = Client(session, up.url)
        status, answer = await proxy.post("/api/generate", {"model": "alpha", "prompt": "x" * 1000})
        assert (status, answer) == (413, {"error": "the request body is larger than 1000 bytes"})
        status, answer = await proxy.post("/v1/chat/completions", {"model": "alpha", "user": "x" * 1000})
        assert (status, answer["error"]["code"]) == (413, "body_too_large")
        status, answer = await proxy.post("/v1/messages", {"model": "alpha", "user": "x" * 1000})
        assert (status, answer["type"], answer["error"]["type"]) == (413, "error", "request_too_large")


async def test_a_large_body_goes_through(proxy: Client) -> None:
    body = io.BytesIO(json.dumps({"model": "alpha", "prompt": "", "images": ["A" * 4_000_000]}).encode())
    async with proxy.session.post(f"{proxy.url}/api/generate", data=body) as answer:
        assert answer.status == 200


async def test_unlisted_models_may_be_denied(session: aiohttp.ClientSession, ollama: Client) -> None:
    closed = msgspec.structs.replace(settings(ollama.url), swapper=Swapper(unlisted_models="deny"))
    async with running(closed) as up:
        proxy = Client(session, up.url)
        assert await proxy.generate("gamma") == (404, {"error": "model 'gamma' not found"})
        assert (await proxy.generate("alpha"))[0] == 200


async def test_routes_that_do_not_swap_are_passed_on(proxy: Client, ollama: Client) -> None:
    for path in ("/api/version", "/v1/models/alpha", "/nope", "/api/nope", "/"):
        assert await proxy.get(path) == await ollama.get(path)
    show = {"model": "alpha"}
    assert (await proxy.post("/api/show", show))[1].keys() == (await ollama.post("/api/show", show))[1].keys()
    digest = "sha256:" + "0" * 64
    async with proxy.session.post(f"{proxy.url}/api/blobs/{digest}", data=io.BytesIO(b"x" * 3_000_000)) as answer:
        assert answer.status == 400  # Ollama's own check of the digest: the upload reached it


async def test_a_load_that_fails_is_answered_as_ollama_answers_and_others_go_on(session, mortal) -> None:
    mortal.create_model("broken", Model(Weights(seed=6, broken=True)))
    ollama = Client(session, mortal.url)
    async with running(settings(mortal.url)) as up:
        proxy = Client(session, up.url)
        direct, through = await ollama.generate("broken"), await proxy.generate("broken")
        assert direct[0] == through[0] == 500
        assert through[1].keys() == {"error"}
        status, answer = await proxy.generate("broken")
        assert (status, answer) == (
            503,
            {"error": "the model could not be loaded a moment ago, please try again later"},
        )
        assert (await proxy.get("/models/broken"))[1]["status"] == "error"
        assert (await proxy.generate("beta"))[0] == 200
        assert 'swapper_load_failures_total{model="broken:latest"} 1.0' in (await proxy.get("/metrics"))[1]
