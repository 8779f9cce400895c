"""Models chosen by `metadata.use_llm` and by routes, on the real Ollama: who answers, what is loaded, what is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Model, Route
from tests.e2e.conftest import Client, is_in, settings

MODELS = {
    "first": Model(path="ollama:alpha"),
    "team/second:v1": Model(path="ollama:beta"),
    "embed": Model(path="ollama:embedder", type="embedding"),
    "gone": Model(path="ollama:never-pulled"),
}
ROUTES = {
    "auto": (
        Route(model="embed", is_embedding=True),
        Route(model="team/second:v1", has_images=True),
        Route(model="gamma", has_tools=True),
        Route(model="team/second:v1", longer_than=500),
        Route(model=("first", "gamma", "slow")),
    ),
    "lost": (Route(model="gone", longer_than=500), Route(model="gone", has_tools=True)),
}
FEW = {"num_predict": 2}
LONG = "word " * 101


def chat(model: str | None = None, content: object = "x", **more: Any) -> dict:
    """In a form that Ollama's own and OpenAI's chat both take."""
    named = {} if model is None else {"model": model}
    return {
        **named,
        "messages": [{"role": "user", "content": content}],
        "stream": False,
        "max_tokens": 2,
        "options": FEW,
        **more,
    }


def generate(model: str, prompt: str = "x", **more: Any) -> dict:
    return {"model": model, "prompt": prompt, "stream": False, "options": FEW, **more}


@pytest.fixture
async def routed(ollama: Client) -> AsyncIterator[Client]:
    async with proxy_with(ollama) as proxy:
        yield proxy


@asynccontextmanager
async def proxy_with(ollama: Client, **swapper: Any) -> AsyncIterator[Client]:
    chosen = msgspec.structs.replace(settings(ollama.url, **swapper), models=MODELS, routes=ROUTES)
    async with running(chosen) as proxy:
        yield Client(ollama.session, proxy.url)


async def ask(proxy: Client, path: str, body: dict) -> tuple[int, Any, str | None]:
    """Status, answer, and the model that the proxy says it chose."""
    async with proxy.session.post(proxy.url + path, json=body) as answer:
        return answer.status, await answer.json(), answer.headers.get("X-Swapper-Model")


async def loads(proxy: Client) -> float:
    return await proxy.metric("swapper_load_seconds_count")


async def counted(proxy: Client, model: str) -> float:
    return await proxy.metric("swapper_model_requests_total", model=model)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("model", ["first", None])
async def test_use_llm_goes_before_the_model(routed: Client, ollama: Client, path: str, model: str | None) -> None:
    metadata = {"use_llm": "TEAM/second:v1", "swapper_service": "http://localhost:8890"}
    status, answer, chosen = await ask(routed, path, chat(model, metadata=metadata))
    assert (status, answer["model"], chosen) == (200, "beta", "team/second:v1")
    assert await ollama.resident() == ["beta:latest"]
    assert (await loads(routed), await counted(routed, "team/second:v1"), await counted(routed, "first")) == (1, 1, 0)


async def test_two_models_in_turn_by_use_llm(routed: Client, ollama: Client) -> None:
    for name, ollama_name in (("first", "alpha"), ("beta", "beta"), ("Gamma:latest", "gamma")):
        status, answer, _ = await ask(routed, "/api/generate", generate("first", metadata={"use_llm": name}))
        assert (status, answer["model"].removesuffix(":latest")) == (200, ollama_name)
        assert await ollama.resident() == [f"{ollama_name}:latest"]


async def test_without_a_wish_nothing_is_chosen(routed: Client) -> None:
    body = chat("first", metadata={"swapper_service": "http://localhost:8890", "use_llm": None})
    status, answer, chosen = await ask(routed, "/api/chat", body)
    assert (status, answer["model"], chosen) == (200, "alpha", None)


@pytest.mark.parametrize(
    ("path", "body", "model", "resident"),
    [
        ("/api/generate", generate("auto"), "first", "alpha"),
        ("/api/generate", generate("AUTO:latest", LONG), "team/second:v1", "beta"),
        ("/api/chat", chat("auto", LONG), "team/second:v1", "beta"),
        ("/v1/chat/completions", chat("auto", [{"type": "text", "text": LONG}]), "team/second:v1", "beta"),
        ("/v1/completions", {"model": "auto", "prompt": LONG, "max_tokens": 2}, "team/second:v1", "beta"),
        ("/v1/chat/completions", chat(metadata={"use_llm": "auto"}), "first", "alpha"),
        ("/api/embed", {"model": "auto", "input": [LONG, "x"]}, "embed", "embedder"),
        ("/api/embeddings", {"model": "auto", "prompt": "x"}, "embed", "embedder"),
        ("/v1/embeddings", {"model": "auto", "input": "x"}, "embed", "embedder"),
    ],
)
async def test_by_what_is_asked(
    routed: Client, ollama: Client, path: str, body: dict, model: str, resident: str
) -> None:
    status, answer, chosen = await ask(routed, path, body)
    assert (status, chosen) == (200, model)
    assert answer.get("model", resident) == resident
    assert await ollama.resident() == [f"{resident}:latest"]
    assert await counted(routed, model) == await loads(routed) == 1


@pytest.mark.parametrize(
    ("path", "body", "model", "says"),
    [
        ("/api/chat", chat("auto", tools=[{"type": "function"}]), "gamma:latest", "gamma"),
        ("/v1/chat/completions", chat("auto", tools=[{"type": "function"}]), "gamma:latest", "gamma"),
        ("/api/chat", chat("lost", tools=[{"type": "function"}]), "gone", "never-pulled"),
        ("/api/generate", generate("lost", LONG), "gone", "never-pulled"),
    ],
)
async def test_what_the_chosen_model_cannot_do_ollama_says(
    routed: Client, ollama: Client, path: str, body: dict, model: str, says: str
) -> None:
    status, answer, chosen = await ask(routed, path, body)
    assert (status in (400, 404), chosen) == (True, model)
    assert says in str(answer["error"])
    assert await ollama.resident() == []


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_images(routed: Client, path: str) -> None:
    picture = {"images": ["iVBORw0KGgo="]}
    body = chat("auto") if path == "/api/chat" else generate("auto", **picture)
    if path == "/api/chat":
        body["messages"][0] |= picture
    status, answer, chosen = await ask(routed, path, body)
    assert (status, answer["model"], chosen) == (200, "beta", "team/second:v1")
    assert (await counted(routed, "team/second:v1"), await counted(routed, "first")) == (1, 0)


async def test_among_equals_the_resident_one_is_preferred(routed: Client, ollama: Client) -> None:
    await routed.generate("gamma")
    for _ in range(2):
        status, answer, chosen = await ask(routed, "/api/generate", generate("auto"))
        assert (status, answer["model"], chosen) == (200, "gamma:latest", "gamma:latest")
    assert await loads(routed) == 1
    await routed.generate("beta")  # no equal
    assert (await ask(routed, "/api/generate", generate("auto")))[2] == "first"
    assert await ollama.resident() == ["alpha:latest"]


async def test_a_model_that_is_being_loaded_is_as_good_as_resident(routed: Client) -> None:
    assert (await routed.post("/models/slow/load?wait=false"))[0] == 202
    await is_in(routed, "slow", "loading")
    status, _, chosen = await ask(routed, "/api/generate", generate("auto"))
    assert (status, chosen, await loads(routed)) == (200, "slow:latest", 1)


async def test_load_and_stop_by_a_route(routed: Client, ollama: Client) -> None:
    status, answer, chosen = await ask(routed, "/api/generate", {"model": "auto"})
    assert (status, answer["done_reason"], chosen) == (200, "load", "first")
    status, answer, chosen = await ask(routed, "/api/generate", {"model": "auto", "keep_alive": 0})
    assert (status, answer["done_reason"], chosen) == (200, "unload", "first")
    assert await ollama.resident() == []


async def test_a_stream_tells_the_model_in_its_head(routed: Client) -> None:
    async with routed.stream("auto", 300) as stream:
        assert stream.headers["X-Swapper-Model"] == "first"


DIALECTS = [
    ("/api/chat", lambda message, code: {"error": message}),
    (
        "/v1/chat/completions",
        lambda message, code: {
            "error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        },
    ),
    (
        "/v1/messages",
        lambda message, code: {"type": "error", "error": {"type": "invalid_request_error", "message": message}},
    ),
]


async def refused(routed: Client, path: str, body: dict) -> tuple:
    """The same as `ask`, without the id that Anthropic's errors have."""
    status, answer, chosen = await ask(routed, path, body)
    return status, {name: value for name, value in answer.items() if name != "request_id"}, chosen


@pytest.mark.parametrize(("path", "error"), DIALECTS)
async def test_no_rule_takes_it(routed: Client, ollama: Client, path: str, error) -> None:
    message = "no rule of lost takes this request (no images, no tools, no embedding, 1 character)"
    assert await refused(routed, path, chat("lost")) == (400, error(message, "no_route"), None)
    assert await ollama.resident() == []


@pytest.mark.parametrize(("path", "error"), DIALECTS)
async def test_a_wish_that_is_no_name(routed: Client, ollama: Client, path: str, error) -> None:
    wish = chat("first", metadata={"use_llm": ["beta"]})
    expected = error("metadata.use_llm must be the name of a model", "invalid_use_llm")
    assert await refused(routed, path, wish) == (400, expected, None)
    assert await ollama.resident() == []


async def test_an_unknown_wish_is_an_unknown_model(routed: Client, ollama: Client) -> None:
    status, answer, chosen = await ask(routed, "/api/generate", generate("first", metadata={"use_llm": "nope"}))
    assert (status, answer, chosen) == (404, {"error": "model 'nope' not found"}, "nope")
    split = generate("first", metadata={"use_llm": "a\r\nX-Evil: 1:cloud"})
    assert (await ask(routed, "/api/generate", split))[2] is None
    assert await ollama.resident() == []


async def test_only_listed_models(ollama: Client) -> None:
    async with proxy_with(ollama, unlisted_models="deny") as proxy:
        assert (await ask(proxy, "/api/generate", generate("auto")))[0] == 200
        wish = generate("first", metadata={"use_llm": "gamma"})
        assert await ask(proxy, "/api/generate", wish) == (404, {"error": "model 'gamma' not found"}, "gamma")
