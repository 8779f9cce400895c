"""Pulling and pushing through the proxy, on a registry of the tests' own."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.conftest import Client, at_rest, until
from tests.real.models import Model, Weights
from tests.real.registry import Registry
from tests.real.server import OllamaServer


@pytest.fixture
async def registry(ollama_server: OllamaServer) -> AsyncIterator[Registry]:
    """It has the model `published`, which Ollama has no more."""
    ollama_server.create_model("published", Model(Weights(seed=31)))
    async with Registry() as registry:
        registry.take(ollama_server.models, "published")
        ollama_server.command("rm", "published")
        yield registry


@pytest.fixture
async def pulled(registry: Registry, ollama: Client) -> AsyncIterator[str]:
    """Its name in Ollama, once it is there; gone again afterwards."""
    name = registry.name_of("published").removeprefix("http://")
    yield name
    await ollama.generate("alpha")
    await ollama.session.delete(f"{ollama.url}/api/delete", json={"model": name})


def pull(proxy: Client, registry: Registry) -> Any:
    body = {"model": registry.name_of("published"), "insecure": True}
    return proxy.session.post(f"{proxy.url}/api/pull", json=body)


async def halfway(answer: Any) -> None:
    """Until a line says that some of the weights are there, and not all."""
    async for line in answer.content:
        progress = json.loads(line)
        if 0 < progress.get("completed", 0) < progress.get("total", 0):
            return
    raise AssertionError("the pull ended before it was halfway")


async def test_progress_comes_as_it_is_made_and_the_model_can_be_used(proxy, registry: Registry, pulled: str) -> None:
    assert (await proxy.generate(pulled))[0] == 404
    registry.released.clear()
    async with pull(proxy, registry) as answer:
        await halfway(answer)
        registry.released.set()
        lines = (await answer.text()).splitlines()
    assert json.loads(lines[-1]) == {"status": "success"}
    assert (await proxy.generate(pulled))[0] == 200
    assert (await proxy.post("/models/" + pulled + "/unload"))[0] == 200
    assert pulled in [model["name"] for model in (await proxy.get("/models"))[1]["models"]]


async def test_who_leaves_ends_the_pull(proxy: Client, registry: Registry, pulled: str) -> None:
    registry.released.clear()
    async with pull(proxy, registry) as answer:
        await halfway(answer)
        assert registry.sending == 1
        answer.close()

    async def ended() -> bool:
        return registry.sending == 0

    await until(ended)
    await at_rest(proxy)
    assert (await proxy.generate(pulled))[0] == 404


async def test_others_are_served_during_a_pull(proxy: Client, registry: Registry, pulled: str) -> None:
    registry.released.clear()
    async with pull(proxy, registry) as answer:
        await halfway(answer)
        for model in ("alpha", "beta"):
            assert (await proxy.generate(model))[0] == 200
        registry.released.set()
        assert '"success"' in await answer.text()


async def test_what_a_registry_does_not_have(proxy: Client, registry: Registry) -> None:
    body = {"model": registry.name_of("nothing"), "insecure": True, "stream": False}
    status, answer = await proxy.post("/api/pull", body)
    assert status == 500
    assert "error" in answer


async def test_what_is_pushed_can_be_pulled(proxy: Client, registry: Registry, pulled: str) -> None:
    assert (await proxy.post("/api/copy", {"source": "beta", "destination": pulled}))[0] == 200
    registry.manifests.clear()
    registry.blobs.clear()
    body = {"model": registry.name_of("published"), "insecure": True}
    async with proxy.session.post(f"{proxy.url}/api/push", json=body) as answer:
        lines = (await answer.text()).splitlines()
    assert json.loads(lines[-1]) == {"status": "success"}
    assert set(registry.manifests) == {"published"}
    async with pull(proxy, registry) as answer:
        assert '"success"' in await answer.text()


async def test_a_push_that_fails_says_so(proxy: Client, ollama: Client) -> None:
    body = {"model": "nope", "stream": False}
    direct, through = await ollama.post("/api/push", body), await proxy.post("/api/push", body)
    assert direct == through
    assert "error" in through[1]
