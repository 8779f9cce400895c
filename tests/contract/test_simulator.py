"""What the simulator does as newer versions do, and the real one of these tests does not."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.contract.asking import Ask

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


def events(text: str) -> list[tuple[str, dict]]:
    found = []
    for event in filter(None, text.split("\n\n")):
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


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


async def test_messages(simulated: Ask) -> None:
    body = {"model": "able", "max_tokens": 3, "messages": MESSAGE}
    answer = await simulated.post("/v1/messages", body)
    assert answer.json["content"][0]["type"] == "text"
    assert (answer.json["stop_reason"], answer.json["usage"]["output_tokens"]) == ("max_tokens", 3)


async def test_messages_as_a_stream(simulated: Ask) -> None:
    body = {"model": "able", "max_tokens": 2, "messages": MESSAGE, "stream": True}
    answer = await simulated.post("/v1/messages", body)
    assert answer.content_type == "text/event-stream"
    found = events(answer.text)
    assert all(name == data["type"] for name, data in found)
    assert [name for name, _ in found] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_messages_for_an_unknown_model(simulated: Ask) -> None:
    answer = await simulated.post("/v1/messages", {"model": "nope", "max_tokens": 2, "messages": MESSAGE})
    assert (answer.status, answer.json["error"]["type"]) == (404, "not_found_error")


async def test_responses(simulated: Ask) -> None:
    answer = await simulated.post("/v1/responses", {"model": "able", "input": "x", "max_output_tokens": 3})
    assert answer.json["output"][0]["content"][0]["type"] == "output_text"
    assert answer.json["usage"]["output_tokens"] == 3


async def test_responses_as_a_stream(simulated: Ask) -> None:
    answer = await simulated.post("/v1/responses", {"model": "able", "input": "x", "stream": True})
    found = events(answer.text)
    deltas = "".join(data["delta"] for name, data in found if name == "response.output_text.delta")
    assert (found[0][0], found[-1][0]) == ("response.created", "response.completed")
    assert found[-1][1]["response"]["output"][0]["content"][0]["text"] == deltas


async def test_closes_promptly_with_streams_open(session: aiohttp.ClientSession) -> None:
    async with contextlib.AsyncExitStack() as streams:
        async with serving(Simulator(MODELS)) as url:
            stream = await streams.enter_async_context(Ask(session, url).streaming("other", 1_000_000))
            left = time.monotonic()
        assert time.monotonic() - left < 5
        with pytest.raises(aiohttp.ClientError):
            await stream.read()
