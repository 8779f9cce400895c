"""What the simulator does as newer versions do, and the real one of these tests does not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.contract.asking import Ask
from tests.waiting import LIMIT_S

MESSAGE = [{"role": "user", "content": "x"}]
FAST = {"load_s": 0.0, "tokens_per_second": 0.0}
MODELS = [
    SimulatedModel("able", **FAST, capabilities=("tools", "thinking", "insert")),
    SimulatedModel("other", load_s=0.0, tokens_per_second=1000),
    SimulatedModel("third", **FAST),
]


@pytest.fixture(params=[1])
async def simulated(request: pytest.FixtureRequest, session: aiohttp.ClientSession) -> AsyncIterator[Ask]:
    async with serving(Simulator(MODELS, max_loaded=request.param)) as url:
        yield Ask(session, url)


async def test_a_request_for_the_resident_model_overtakes_the_queue(simulated: Ask) -> None:
    async with simulated.streaming("other", 20_000):
        load = asyncio.create_task(simulated.generate("able"))
        await simulated.round_trips()
        assert (await simulated.generate("other")).json["done_reason"] == "load"
        assert await simulated.names() == ["other:latest"]
        assert not load.done()
    assert (await load).json["done_reason"] == "load"


@pytest.mark.parametrize("simulated", [2], indirect=True)
async def test_idle_ones_are_evicted_first(simulated: Ask) -> None:
    async with simulated.streaming("other", 20_000):
        await simulated.generate("able")
        assert await simulated.names() == ["other:latest", "able:latest"]
        await simulated.generate("third")
        assert await simulated.names() == ["other:latest", "third:latest"]


@pytest.mark.parametrize("more", [{"think": True}, {"tools": [{}]}])
async def test_capabilities(simulated: Ask, more: dict) -> None:
    answer = await simulated.post("/api/chat", {"model": "able", "messages": MESSAGE, "stream": False, **more})
    assert answer.status == 200


async def test_deterministic_text(simulated: Ask) -> None:
    texts = [(await simulated.generate("able", prompt="x", stream=False)).json["response"] for _ in range(2)]
    assert texts[0] == texts[1] != ""


async def test_closes_promptly_with_streams_open(session: aiohttp.ClientSession) -> None:
    async with contextlib.AsyncExitStack() as streams:
        async with asyncio.timeout(LIMIT_S), serving(Simulator(MODELS)) as url:
            stream = await streams.enter_async_context(Ask(session, url).streaming("other", 1_000_000))  # 1000 seconds
        with pytest.raises(aiohttp.ClientError):
            await stream.read()
