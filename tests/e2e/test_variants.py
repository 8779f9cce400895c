"""Models over the same weights: what is wrong with one of them does not lock out the others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.conftest import Client, at_rest, busy, waits
from tests.e2e.test_changed_models import copy, create, delete

NO_LIST = {"stop": "<end>"}  # Ollama takes it and cannot load the model
A_LIST = {"stop": ["<end>"]}  # /api/show prints both alike


@pytest.fixture
async def mine(ollama: Client) -> AsyncIterator[Client]:
    """Ollama, with a model over the weights of gamma that cannot be loaded; the test may delete it."""
    await create(ollama, "mine", "gamma", parameters=NO_LIST)
    yield ollama
    await ollama.post("/api/generate", {"model": "gamma", "keep_alive": 0})  # what has no name stays in memory
    await delete(ollama, "mine")


async def both_behind_beta(proxy: Client) -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
    """Ask for the bad one, then for the good one, while neither can be loaded."""
    bad = asyncio.create_task(proxy.generate("mine"))
    await waits(proxy, 1)
    good = asyncio.create_task(proxy.generate("gamma"))
    await waits(proxy, 2)
    return bad, good


async def test_the_others_are_loaded_all_the_same(proxy: Client, mine: Client) -> None:
    async with busy(proxy, "beta"):
        bad, good = await both_behind_beta(proxy)
    assert await bad == (500, {"error": 'option "stop" must be of type array'})
    assert (await good)[0] == 200
    assert await mine.resident() == ["gamma:latest"]
    await at_rest(proxy)


async def test_back_off_is_of_the_bad_one_alone_and_ends_when_it_is_mended(proxy: Client, mine: Client) -> None:
    assert (await proxy.generate("mine"))[0] == 500
    status, answer = await proxy.generate("gamma")
    assert (status, answer["done"]) == (200, True)
    assert (await proxy.generate("beta"))[0] == 200
    await create(proxy, "mine", "gamma", parameters=A_LIST)
    assert (await proxy.generate("mine"))[0] == 200


async def test_one_that_is_deleted_while_it_is_waited_for(proxy: Client, mine: Client) -> None:
    await create(mine, "mine", "gamma", parameters=A_LIST)
    await copy(mine, "mine", "twin")
    try:
        async with busy(proxy, "beta"):
            gone, good = await both_behind_beta(proxy)
            twin = asyncio.create_task(proxy.generate("twin"))
            await waits(proxy, 3)
            await delete(mine, "mine")
        status, answer = await gone
        assert (status, answer["error"]) == (404, "model 'mine:latest' not found")
        assert [(await task)[0] for task in (good, twin)] == [200, 200]
        assert (await proxy.generate("mine"))[0] == 404
    finally:
        await delete(mine, "twin")
