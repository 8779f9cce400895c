"""LangChain and LlamaIndex, on top of the package `ollama`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from llama_index.core.llms import ChatMessage
from llama_index.llms.ollama import Ollama as LlamaIndex
from ollama import ResponseError

from swapper_proxy.config import Model, RunnerOptions
from tests.clients.conftest import call, counts, loading
from tests.e2e.conftest import Client, configured

QUESTION = "Why is the sky blue?"
BOTH = {"first": 1, "team/second:v1": 1}
Open = Callable[..., Any]


@pytest.fixture
async def opened(proxy: Client) -> AsyncIterator[Open]:
    """Makes a model of a framework; its connections are closed afterwards, for which the frameworks have no method."""
    models: list[Any] = []

    def make(kind: type, model: str, url: str = proxy.url, **given: Any) -> Any:
        models.append(kind(model=model, base_url=url, **given))
        return models[-1]

    yield make
    clients = [client for model in models for client in (model._client, model._async_client)]
    for client in filter(None, clients):
        await call(client, "close")


@pytest.mark.parametrize("method", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("kind", [ChatOllama, OllamaLLM])
async def test_langchain(opened: Open, proxy: Client, kind: type, method: str) -> None:
    async with loading(proxy, 2):
        for name in ("alpha", "beta"):
            answer = await asked(getattr(opened(kind, name), method), QUESTION)
            if kind is ChatOllama:
                assert answer.usage_metadata["output_tokens"] == 16
                assert answer.response_metadata["model"] == name
            else:
                assert isinstance(answer, str)
    assert await counts(proxy) == BOTH
    assert await proxy.metric("swapper_generated_tokens_total") == 32


async def asked(method: Callable[..., Any], *arguments: Any) -> Any:
    """What it answers; the parts of a stream are summed up.  Blocking methods run in a thread."""
    if method.__name__ == "ainvoke":
        return await method(*arguments)
    if method.__name__ == "astream":
        return added([part async for part in method(*arguments)])
    if method.__name__ == "stream":
        return added(await asyncio.to_thread(lambda: list(method(*arguments))))
    return await asyncio.to_thread(method, *arguments)


def added(parts: list[Any]) -> Any:
    assert len(parts) > 1
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


async def test_langchain_looks_for_its_model_and_embeds(opened: Open, proxy: Client) -> None:
    chat = await asyncio.to_thread(opened, ChatOllama, "alpha", validate_model_on_init=True)
    embedder = opened(OllamaEmbeddings, "embedder")
    async with loading(proxy, 3):
        await chat.ainvoke(QUESTION)
        vectors = await asyncio.to_thread(embedder.embed_documents, ["one", "two"])
        vectors.append(await embedder.aembed_query("one"))
        await chat.ainvoke(QUESTION)
    assert [len(vector) for vector in vectors] == [64] * 3
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-3)
    assert await counts(proxy) == {"first": 2, "embedder:latest": 2}


async def test_llama_index(opened: Open, proxy: Client) -> None:
    message = [ChatMessage(role="user", content=QUESTION)]
    async with loading(proxy, 2):
        for name in ("alpha", "beta"):
            model = opened(LlamaIndex, name)
            whole = (await asyncio.to_thread(model.complete, QUESTION)).raw
            chat = (await asyncio.to_thread(model.chat, message)).raw
            parts = [part.raw async for part in await model.astream_chat(message)]
            blocking = [part.raw for part in await asyncio.to_thread(lambda m: list(m.stream_chat(message)), model)]
            for answer in (whole, chat, parts[-1], blocking[-1]):
                assert (answer["model"], answer["done_reason"], answer["eval_count"]) == (name, "length", 16)
    assert await counts(proxy) == {"first": 4, "team/second:v1": 4}


@pytest.mark.parametrize("kind", [ChatOllama, OllamaLLM, LlamaIndex])
async def test_two_models_at_once(opened: Open, proxy: Client, kind: type) -> None:
    def ask(name: str) -> Any:
        model = opened(kind, name)
        return asyncio.to_thread(model.complete if kind is LlamaIndex else model.invoke, QUESTION)

    await asyncio.gather(ask("alpha"), ask("beta"))
    assert await counts(proxy) == BOTH
    assert await proxy.metric("swapper_generated_tokens_total") == 32


@pytest.mark.parametrize("policy", ["pass", "strip"])
async def test_two_frameworks_share_a_model(opened: Open, ollama: Client, policy: str) -> None:
    """LlamaIndex sets a context length: that is a swap, unless `runner_options` removes it."""
    chosen = {"alpha": Model(path="ollama:alpha", runner_options=RunnerOptions(policy=policy))}
    async with configured(ollama, chosen) as proxy:
        chain = opened(ChatOllama, "alpha", proxy.url)
        index = opened(LlamaIndex, "alpha", proxy.url, context_window=512)
        async with loading(proxy, {"pass": 3, "strip": 1}[policy]):
            await chain.ainvoke(QUESTION)
            await index.acomplete(QUESTION)
            await chain.ainvoke(QUESTION)
        assert await counts(proxy) == {"alpha": 3}
        assert await proxy.metric("swapper_upstream_reloads_total") == 0


async def test_an_unknown_model(opened: Open, proxy: Client) -> None:
    for kind, ask in ((ChatOllama, "invoke"), (OllamaLLM, "invoke"), (LlamaIndex, "complete")):
        with pytest.raises(ResponseError, match="not found") as refused:
            await asyncio.to_thread(getattr(opened(kind, "nope"), ask), QUESTION)
        assert refused.value.status_code == 404
    assert await proxy.metric("swapper_load_seconds_count") == 0
