"""A model is deleted while it is in memory: Ollama keeps the runner, under a name that it no longer knows."""

import asyncio

import pytest

from tests.e2e.conftest import Client, at_rest, busy
from tests.real.models import Model, Weights
from tests.real.server import OllamaServer

NAME = "short-lived"


@pytest.fixture
async def short_lived(ollama_server: OllamaServer) -> str:
    """A model with weights of its own, which the test deletes."""
    await asyncio.to_thread(ollama_server.create_model, NAME, Model(Weights(seed=7)))
    return NAME


async def delete(client: Client, name: str) -> None:
    async with client.session.delete(f"{client.url}/api/delete", json={"model": name}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("through_the_proxy", [True, False])
async def test_the_others_have_their_turn(proxy: Client, ollama: Client, short_lived: str, through_the_proxy) -> None:
    assert (await proxy.generate(short_lived))[0] == 200
    await delete(proxy if through_the_proxy else ollama, short_lived)
    assert await ollama.resident() == [f"{short_lived}:latest"]
    for model in ("alpha", "beta"):
        assert (await proxy.generate(model))[0] == 200
        assert await ollama.resident() == [f"{model}:latest"]
    assert (await proxy.generate(short_lived))[0] == 404


async def test_what_it_is_answering_is_finished(proxy: Client, ollama: Client, short_lived: str) -> None:
    async with busy(proxy, short_lived) as stream, asyncio.TaskGroup() as group:
        await delete(proxy, short_lived)
        waiting = group.create_task(proxy.generate("alpha"))
        for _ in range(100):
            assert await stream.content.readline()
        assert not waiting.done()
        stream.close()
    assert (await waiting)[0] == 200
    await at_rest(proxy)
    assert await ollama.resident() == ["alpha:latest"]
