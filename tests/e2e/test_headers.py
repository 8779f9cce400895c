"""The proxy's own headers: priorities asked for, time in the queue told."""

import asyncio
import re

import aiohttp
import pytest

from swapper_proxy.config import Model
from swapper_proxy.ollama.simulator import SimulatedModel
from tests.e2e.conftest import Client, configured, simulated

GENERATE = {"model": "alpha", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


async def headers(client: Client, path: str, body: object) -> tuple[int, "aiohttp.typedefs.CIMultiDictProxy[str]"]:
    async with client.session.post(client.url + path, json=body) as answer:
        return answer.status, answer.headers


def queue_seconds(answered: "aiohttp.typedefs.CIMultiDictProxy[str]") -> float:
    """Both headers, which must agree."""
    seconds = answered["X-Swapper-Queue-Seconds"]
    assert re.fullmatch(r"\d+\.\d{3}", seconds)
    timing = re.fullmatch(r"queue;dur=(\d+\.\d)", answered["Server-Timing"])
    assert timing is not None
    assert float(timing[1]) / 1000 == pytest.approx(float(seconds), abs=0.001)
    return float(seconds)


async def test_the_time_in_the_queue(proxy: Client) -> None:
    status, first = await headers(proxy, "/api/generate", GENERATE)
    assert (status, queue_seconds(first) > 0.02) == (200, True)  # the load
    for path, body in (("/api/generate", GENERATE), ("/v1/chat/completions", CHAT)):
        status, again = await headers(proxy, path, body)
        assert (status, queue_seconds(again) < queue_seconds(first)) == (200, True)
    for path, body in (("/api/show", {"model": "alpha"}), ("/api/generate", {"model": "nope", "prompt": "x"})):
        assert "X-Swapper-Queue-Seconds" not in (await headers(proxy, path, body))[1]


async def test_also_on_a_refusal_after_waiting(session: aiohttp.ClientSession) -> None:
    model = SimulatedModel("alpha", size=1, load_s=0.6, tokens_per_second=0)
    async with simulated(session, model, model_swap_timeout=0.2) as proxy:
        status, answered = await headers(proxy, "/v1/chat/completions", CHAT)
        assert status == 504
        assert queue_seconds(answered) > 0.15


@pytest.mark.parametrize("asked", ["high", "Medium", "LOW"])
async def test_priorities(proxy: Client, asked: str) -> None:
    headers = {"X-Swapper-Priority": asked}
    assert (await proxy.post("/api/generate", GENERATE, **headers))[0] == 200


async def test_a_priority_that_is_none(proxy: Client, ollama: Client) -> None:
    headers, message = {"X-Swapper-Priority": "urgent"}, "X-Swapper-Priority: expected high, medium or low"
    assert await proxy.post("/api/generate", GENERATE, **headers) == (400, {"error": message})
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_priority"}
    assert await proxy.post("/v1/chat/completions", CHAT, **headers) == (400, {"error": error})
    anthropic = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    status, answer = await proxy.post("/v1/messages", CHAT, **headers)
    assert (status, answer) == (400, anthropic | {"request_id": answer["request_id"]})
    assert await ollama.resident() == []


async def test_a_header_that_has_no_say_is_not_read(ollama: Client) -> None:
    async with configured(ollama, {"a": Model(path="ollama:alpha")}, priority_header="ignore") as proxy:
        headers = {"X-Swapper-Priority": "urgent"}
        answers = await asyncio.gather(*(proxy.post("/api/generate", GENERATE, **headers) for _ in range(2)))
        assert [status for status, _ in answers] == [200, 200]
