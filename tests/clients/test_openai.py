"""The package `openai`, blocking and asynchronous, on /v1."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from swapper_proxy.config import Model
from tests.clients.conftest import MESSAGES, call, counts, loading
from tests.e2e.conftest import Client, at_rest, busy, configured, until, waits

CHAT = "chat.completions.create"


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=lambda kind: kind.__name__)
async def client(request: pytest.FixtureRequest, proxy: Client) -> AsyncIterator[Any]:
    """Through the proxy, told not to try again by itself."""
    client = request.param(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0)
    yield client
    await call(client, "close")


async def test_chat_with_two_models(client: Any, proxy: Client) -> None:
    async with loading(proxy, 3):
        for model in ("alpha", "beta", "alpha"):
            answer = await call(client, CHAT, model=model, messages=MESSAGES, max_tokens=5)
            (choice,) = answer.choices
            assert (answer.model, choice.finish_reason, choice.message.role) == (model, "length", "assistant")
            assert (answer.usage.completion_tokens, answer.usage.prompt_tokens > 5) == (5, True)
    assert await counts(proxy) == {"first": 2, "team/second:v1": 1}
    assert await proxy.metric("swapper_generated_tokens_total") == 15


async def test_completions_with_two_models(client: Any, proxy: Client) -> None:
    for model in ("alpha", "team/second:v1"):
        answer = await call(client, "completions.create", model=model, prompt="x", max_tokens=3)
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 3)
        parts = await call(client, "completions.create", model=model, prompt="x", max_tokens=3, stream=True)
        assert parts[-1].choices[0].finish_reason == "length"
    assert await counts(proxy) == {"first": 2, "team/second:v1": 2}


async def test_streams(client: Any, proxy: Client) -> None:
    for model in ("alpha", "beta"):
        asked = {"model": model, "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
        *parts, last = await call(client, CHAT, **asked)
        assert [part.choices[0].finish_reason for part in parts] == [None] * (len(parts) - 1) + ["length"]
        assert (last.choices, last.usage.completion_tokens) == ([], 16)
    assert await counts(proxy) == {"first": 1, "team/second:v1": 1}
    assert await proxy.metric("swapper_generated_tokens_total") == 32


async def test_embeddings_between_two_answers(client: Any, proxy: Client) -> None:
    async with loading(proxy, 3):
        await call(client, CHAT, model="alpha", messages=MESSAGES, max_tokens=2)
        answer = await call(client, "embeddings.create", model="embedder", input=["one", "two"])
        await call(client, CHAT, model="alpha", messages=MESSAGES, max_tokens=2)
    assert [(len(entry.embedding), entry.index) for entry in answer.data] == [(64, 0), (64, 1)]
    assert await counts(proxy) == {"first": 2, "embedder:latest": 1}


async def test_models(client: Any, ollama: Client) -> None:
    listed = await call(client, "models.list")
    assert {m.id for m in listed.data} == {m["name"] for m in (await ollama.get("/api/tags"))[1]["models"]}
    assert (await call(client, "models.retrieve", model="beta")).id == "beta"


async def test_two_models_at_once(client: Any, proxy: Client) -> None:
    asked = [call(client, CHAT, model=model, messages=MESSAGES) for model in ("alpha", "beta") * 2]
    answers = await asyncio.gather(*asked)
    assert [(answer.model, answer.usage.completion_tokens) for answer in answers] == [("alpha", 16), ("beta", 16)] * 2
    assert await counts(proxy) == {"first": 2, "team/second:v1": 2}


REFUSED = [
    (CHAT, {"model": "nope", "messages": MESSAGES}, openai.NotFoundError),
    (CHAT, {"model": "nope", "messages": MESSAGES, "stream": True}, openai.NotFoundError),
    ("completions.create", {"model": "nope", "prompt": "x"}, openai.NotFoundError),
    ("embeddings.create", {"model": "nope", "input": "x"}, openai.NotFoundError),
    ("models.retrieve", {"model": "nope"}, openai.NotFoundError),
    (CHAT, {"model": "alpha", "messages": []}, openai.BadRequestError),
    (CHAT, {"model": "embedder", "messages": MESSAGES}, openai.BadRequestError),
    ("embeddings.create", {"model": "embedder", "input": []}, openai.BadRequestError),
]


@pytest.mark.parametrize(("method", "asked", "error"), REFUSED)
async def test_what_ollama_refuses(client: Any, proxy: Client, ollama: Client, method, asked, error) -> None:
    with pytest.raises(error) as refused:
        await call(client, method, **asked)
    direct = client.with_options(base_url=f"{ollama.url}/v1")
    with pytest.raises(error) as expected:
        await call(direct, method, **asked)
    assert refused.value.body == expected.value.body
    assert await proxy.metric("swapper_load_seconds_count") == 0


async def test_the_time_in_the_queue_can_be_read(client: Any) -> None:
    raw = await call(client, "chat.completions.with_raw_response.create", model="alpha", messages=MESSAGES)
    assert 0 < float(raw.headers["X-Swapper-Queue-Seconds"]) < 60
    assert raw.parse().usage.completion_tokens == 16


async def test_leaving_a_stream_stops_the_answer(proxy: Client) -> None:
    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(model="alpha", messages=MESSAGES, stream=True, max_tokens=20000)
        await anext(aiter(stream))
        await stream.close()
        await at_rest(proxy)


async def test_it_comes_back_when_it_was_told_to(ollama: Client, caplog: pytest.LogCaptureFixture) -> None:
    """`max_retries` of the client, and the proxy's Retry-After: left to itself it waits for fractions of a second."""
    caplog.set_level("INFO", "openai")
    models = {name: Model(path=f"ollama:{name}") for name in ("alpha", "beta")}
    async with (
        configured(ollama, models, max_queue=1) as proxy,
        openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=5) as client,
    ):
        for name in ("beta", "alpha"):
            await proxy.generate(name)  # so that the proxy knows how long they load
        async with asyncio.TaskGroup() as group, busy(proxy, "alpha"):
            waiting = group.create_task(proxy.generate("beta"))
            await waits(proxy, 1)
            asking = group.create_task(client.chat.completions.create(model="beta", messages=MESSAGES, max_tokens=2))
            await rejected(proxy)
        assert (await waiting)[0] == 200
        assert (await asking).usage.completion_tokens == 2
        assert await counts(proxy) == {"alpha": 2, "beta": 3}
    assert re.search(r"Retrying request.* in [1-9]\d*\.0+ seconds", caplog.text)


async def rejected(proxy: Client) -> None:
    """Until somebody was turned away because of a full queue."""

    async def somebody() -> bool:
        return await proxy.metric("swapper_rejected_requests_total", reason="queue_full") >= 1

    await until(somebody)
