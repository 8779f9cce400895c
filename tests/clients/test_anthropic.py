"""The package `anthropic`, blocking and asynchronous, on a simulated Ollama: the real one of the tests is too old."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import pytest

from swapper_proxy.ollama.simulator import SimulatedModel
from tests.clients.conftest import MESSAGES, call, counts, loading
from tests.e2e.conftest import Client, at_rest, simulated

ASKED = {"messages": MESSAGES, "max_tokens": 5}
CREATE = "messages.create"


@pytest.fixture
async def proxy(session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    models = [SimulatedModel(name, load_s=0.05, tokens_per_second=1000) for name in ("alpha", "beta")]
    async with simulated(session, *models, unload_settle=0) as proxy:  # it says that it uses GPU memory
        yield proxy


@pytest.fixture(params=[anthropic.Anthropic, anthropic.AsyncAnthropic], ids=lambda kind: kind.__name__)
async def client(request: pytest.FixtureRequest, proxy: Client) -> AsyncIterator[Any]:
    """Through the proxy, told not to try again by itself."""
    client = request.param(base_url=proxy.url, api_key="none", max_retries=0)
    yield client
    await call(client, "close")


async def test_messages_with_two_models(client: Any, proxy: Client) -> None:
    async with loading(proxy, 3):
        for model in ("alpha", "team/second:v1", "first"):
            answer = await call(client, CREATE, model=model, **ASKED)
            assert (answer.role, answer.stop_reason, answer.usage.output_tokens) == ("assistant", "max_tokens", 5)
            assert answer.content[0].text
    assert await counts(proxy) == {"first": 2, "team/second:v1": 1}
    assert await proxy.metric("swapper_generated_tokens_total") == 15


async def test_streams(client: Any, proxy: Client) -> None:
    for model in ("alpha", "beta"):
        events = await call(client, CREATE, model=model, stream=True, **ASKED)
        kinds = [event.type for event in events]
        assert kinds[:2] == ["message_start", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert set(kinds[2:-3]) == {"content_block_delta"}
        assert events[-2].usage.output_tokens == 5
    assert await counts(proxy) == {"first": 1, "team/second:v1": 1}


async def test_the_streaming_helper(proxy: Client) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=proxy.url, api_key="none") as client,
        client.messages.stream(model="alpha", **ASKED) as stream,
    ):
        text = "".join([part async for part in stream.text_stream])
        assert (await stream.get_final_message()).content[0].text == text
        assert text


async def test_two_models_at_once(client: Any, proxy: Client) -> None:
    asked = [call(client, CREATE, model=model, **ASKED) for model in ("alpha", "beta") * 2]
    answers = await asyncio.gather(*asked)
    assert [(answer.model, answer.usage.output_tokens) for answer in answers] == [("alpha", 5), ("beta", 5)] * 2
    assert await counts(proxy) == {"first": 2, "team/second:v1": 2}


async def test_leaving_a_stream_stops_the_answer(proxy: Client) -> None:
    async with anthropic.AsyncAnthropic(base_url=proxy.url, api_key="none") as client:
        stream = await client.messages.create(model="alpha", messages=MESSAGES, max_tokens=100_000, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await at_rest(proxy)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"model": "nope", **ASKED}, anthropic.NotFoundError),
        ({"model": "nope", "stream": True, **ASKED}, anthropic.NotFoundError),
        ({"model": "alpha", "messages": [], "max_tokens": 5}, anthropic.BadRequestError),
        ({"model": "alpha", "messages": MESSAGES, "max_tokens": 0}, anthropic.BadRequestError),
    ],
)
async def test_what_ollama_refuses(client: Any, proxy: Client, asked, error) -> None:
    with pytest.raises(error) as refused:
        await call(client, CREATE, **asked)
    assert refused.value.type == {404: "not_found_error", 400: "invalid_request_error"}[refused.value.status_code]
    assert await proxy.metric("swapper_rejected_requests_total") == 0
