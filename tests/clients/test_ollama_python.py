"""The package `ollama`, blocking and asynchronous."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import ollama as package
import pytest

from swapper_proxy.config import Model
from tests.clients.conftest import MESSAGES, call, counts, loading
from tests.e2e.conftest import Client, at_rest, configured

KINDS = (package.Client, package.AsyncClient)

# Ollama says that a model knows tools if its template speaks of them.
TEMPLATE = """{{ range .Tools }}{{ . }}{{ end }}{{ range .Messages }}{{ .Content }}
{{- range .ToolCalls }}{{ .Function.Name }}{{ .Function.Arguments }}{{ end }}{{ end }}"""


@asynccontextmanager
async def connected(kind: Callable[..., Any], url: str) -> AsyncIterator[Any]:
    client = kind(host=url)
    try:
        yield client
    finally:
        await call(client, "close")


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
async def client(request: pytest.FixtureRequest, proxy: Client) -> AsyncIterator[Any]:
    """Through the proxy."""
    async with connected(request.param, proxy.url) as client:
        yield client


async def test_chat_and_generate_with_two_models(client: Any, proxy: Client) -> None:
    async with loading(proxy, 3):
        for model in ("alpha", "beta", "alpha"):
            answer = await call(client, "chat", model=model, messages=MESSAGES, options={"num_predict": 5})
            assert (answer.model, answer.done_reason, answer.eval_count) == (model, "length", 5)
            assert answer.message.role == "assistant"
            answer = await call(client, "generate", model=model, prompt="x")
            assert (answer.model, answer.done_reason, answer.eval_count) == (model, "length", 16)
            assert [m.model for m in (await call(client, "ps")).models] == [f"{model}:latest"]
    assert await counts(proxy) == {"first": 4, "team/second:v1": 2}


@pytest.mark.parametrize("method", ["chat", "generate"])
async def test_streams(client: Any, proxy: Client, method: str) -> None:
    asked = {"messages": MESSAGES} if method == "chat" else {"prompt": "x"}
    asked["options"] = {"seed": 1}  # of random bytes it may take many to make a character, and so a part
    for model in ("alpha", "team/second:v1"):
        parts = await call(client, method, model=model, stream=True, **asked)
        assert len(parts) > 2
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        assert parts[-1].eval_count == 16
    assert await counts(proxy) == {"first": 1, "team/second:v1": 1}


async def test_embeddings_between_two_answers(client: Any, proxy: Client) -> None:
    async with loading(proxy, 3):
        await call(client, "generate", model="alpha", prompt="x")
        many = await call(client, "embed", model="embedder", input=["one", "two"])
        one = await call(client, "embeddings", model="embedder", prompt="one")
        await call(client, "generate", model="alpha", prompt="x")
    assert [len(vector) for vector in (*many.embeddings, one.embedding)] == [64] * 3
    assert many.embeddings[0] != many.embeddings[1]
    assert await counts(proxy) == {"first": 2, "embedder:latest": 2}


async def test_a_tool_is_called(client: Any, proxy: Client, made: list[str]) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    await call(client, "create", model=made[0], from_="alpha", template=TEMPLATE)
    assert (await call(client, "show", model=made[0])).capabilities == ["completion", "tools"]
    plain = await call(client, "chat", model=made[0], messages=MESSAGES)
    asked = {"model": made[0], "tools": [add], "options": {"num_predict": 400}}
    answer = await call(client, "chat", messages=MESSAGES, format=CALL, **asked)
    (wanted,) = answer.message.tool_calls
    assert (wanted.function.name, wanted.function.arguments) == ("add", {"a": 1, "b": 2})
    assert answer.prompt_eval_count > plain.prompt_eval_count + 50  # the description of the tool reached the model
    result = {"role": "tool", "content": str(add(**wanted.function.arguments)), "tool_name": "add"}
    after = await call(client, "chat", messages=[*MESSAGES, answer.message, result], **asked)
    assert after.prompt_eval_count > answer.prompt_eval_count
    assert await counts(proxy) == {f"{made[0]}:latest": 3}


# A grammar makes a model of random weights write a call.
CALL = {
    "type": "object",
    "properties": {
        "name": {"const": "add"},
        "arguments": {
            "type": "object",
            "properties": {"a": {"const": 1}, "b": {"const": 2}},
            "required": ["a", "b"],
        },
    },
    "required": ["name", "arguments"],
}


async def test_the_models_are_managed(client: Any, proxy: Client, ollama: Client, made: list[str]) -> None:
    assert (await call(client, "create", model=made[0], from_="beta", system="be brief")).status == "success"
    progress = await call(client, "create", model=made[0], from_="alpha", system="be brief", stream=True)
    assert progress[-1].status == "success"
    await call(client, "copy", source=made[0], destination=made[1])
    listed = {model.model for model in (await call(client, "list")).models}
    assert listed == {model["name"] for model in (await ollama.get("/api/tags"))[1]["models"]}
    assert {f"{name}:latest" for name in made} <= listed
    assert "SYSTEM be brief" in (await call(client, "show", model=made[1])).modelfile
    assert (await call(client, "generate", model=made[1], prompt="x")).eval_count == 16
    assert await counts(proxy) == {f"{made[1]}:latest": 1}
    await call(client, "generate", model=made[1], keep_alive=0)
    assert (await call(client, "ps")).models == []
    for name in made:
        assert (await call(client, "delete", model=name)).status == "success"
    assert (await call(client, "list")).models[0].model not in made


async def test_a_blob_is_uploaded(client: Any, ollama: Client, tmp_path: Path) -> None:
    content = b"some weights" * 100_000
    blob = tmp_path / "blob"
    blob.write_bytes(content)
    digest = await call(client, "create_blob", path=blob)
    assert digest == f"sha256:{sha256(content).hexdigest()}"
    async with ollama.session.head(f"{ollama.url}/api/blobs/{digest}") as answer:
        assert answer.status == 200


async def test_pictures_go_through(client: Any, ollama: Client) -> None:
    """These models cannot see: Ollama leaves the picture out, of this size too."""
    message = {**MESSAGES[0], "images": [base64.b64encode(bytes(4_000_000)).decode()]}
    async with connected(type(client), ollama.url) as direct:
        expected = await call(direct, "chat", model="alpha", messages=[message])
    answer = await call(client, "chat", model="alpha", messages=[message])
    assert answer.prompt_eval_count == expected.prompt_eval_count


TOOL = {"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}
REFUSED = [
    ("generate", {"model": "nope", "prompt": "x"}, 404),
    ("chat", {"model": "nope", "messages": MESSAGES}, 404),
    ("chat", {"model": "nope", "messages": MESSAGES, "stream": True}, 404),
    ("embed", {"model": "nope", "input": "x"}, 404),
    ("embeddings", {"model": "nope", "prompt": "x"}, 404),
    ("show", {"model": "nope"}, 404),
    ("delete", {"model": "nope"}, 404),
    ("copy", {"source": "nope", "destination": "other"}, 404),
    ("create", {"model": "other", "from_": "127.0.0.1:9/library/nope"}, 500),
    ("pull", {"model": "127.0.0.1:9/library/nope"}, 500),
    ("pull", {"model": "127.0.0.1:9/library/nope", "stream": True}, -1),  # in the stream, where there is no status
    ("chat", {"model": "embedder", "messages": MESSAGES}, 400),
    ("chat", {"model": "alpha", "messages": MESSAGES, "think": True}, 400),
    ("chat", {"model": "alpha", "messages": MESSAGES, "tools": [TOOL]}, 400),
    ("generate", {"model": "alpha", "prompt": "x", "keep_alive": "nonsense"}, 400),
    ("generate", {"model": "alpha", "prompt": "x", "options": {"num_ctx": "512"}}, 500),
]


@pytest.mark.parametrize(("method", "asked", "status"), REFUSED)
async def test_what_ollama_refuses(client: Any, proxy: Client, ollama: Client, method, asked, status) -> None:
    with pytest.raises(package.ResponseError) as refused:
        await call(client, method, **asked)
    async with connected(type(client), ollama.url) as direct:
        with pytest.raises(package.ResponseError) as expected:
            await call(direct, method, **asked)
    assert (refused.value.status_code, refused.value.error) == (status, expected.value.error)
    assert expected.value.status_code == status
    assert await proxy.metric("swapper_load_seconds_count") == 0


async def test_two_models_at_once(client: Any, proxy: Client) -> None:
    asked = [call(client, "chat", model=model, messages=MESSAGES) for model in ("alpha", "beta") * 2]
    answers = await asyncio.gather(*asked)
    assert [(answer.model, answer.eval_count) for answer in answers] == [("alpha", 16), ("beta", 16)] * 2
    assert await counts(proxy) == {"first": 2, "team/second:v1": 2}


async def test_leaving_a_stream_stops_the_answer(proxy: Client) -> None:
    async with connected(package.AsyncClient, proxy.url) as client:
        stream = await client.generate("alpha", "x", stream=True, options={"num_predict": 20000})
        await anext(stream)
        await stream.aclose()
        await at_rest(proxy)
        assert (await client.generate("beta", "x")).eval_count == 16


async def test_a_pinned_model_is_not_stopped(ollama: Client) -> None:
    chosen = {"alpha": Model(path="ollama:alpha", pinned=True)}
    async with configured(ollama, chosen) as proxy, connected(package.Client, proxy.url) as client:
        await call(client, "generate", model="alpha", prompt="x")
        with pytest.raises(package.ResponseError, match="pinned") as refused:
            await call(client, "generate", model="alpha", keep_alive=0)
        assert refused.value.status_code == 409
        assert [m.model for m in (await call(client, "ps")).models] == ["alpha:latest"]
