"""What `explain` says of a request."""

import json

import msgspec
import pytest

from swapper_proxy.config import Model, Route, Settings, Swapper
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.web.explaining import NotReadable, explain

SETTINGS = Settings(
    models={"chat": Model(path="ollama:llama3"), "embed": Model(path="ollama:nomic", type="embedding")},
    routes={
        "auto": (
            Route(model="embed", is_embedding=True),
            Route(model=("other", "CHAT"), has_tools=True),
            Route(model="chat", longer_than=10),
        )
    },
)
TOOLS = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}


def explained(body: object, path: str | None = None, *resident: str, settings: Settings = SETTINGS) -> list[str]:
    return str(explain(settings, json.dumps(body).encode(), path, resident)).splitlines()


@pytest.mark.parametrize(
    ("body", "where", "model", "why", "request_"),
    [
        (
            TOOLS,
            (),
            "other (in Ollama other)",
            "model is auto; rule 2 of auto: has tools; other is named first, none is in memory",
            "/api/chat, no images, has tools, no embedding, 2 characters",
        ),
        (
            TOOLS,
            ("/v1/messages", "embed", "Llama3:latest"),
            "chat (in Ollama llama3)",
            "model is auto; rule 2 of auto: has tools; CHAT is in memory",
            "/v1/messages, no images, has tools, no embedding, 2 characters",
        ),
        (
            {"metadata": {"use_llm": "Auto"}, "input": ["x"]},
            (),
            "embed (in Ollama nomic)",
            "metadata.use_llm is Auto; rule 1 of auto: is an embedding",
            "/api/embed, no images, no tools, is an embedding, 1 character",
        ),
        (
            {"model": "Chat", "prompt": "hi"},
            (),
            "chat (in Ollama llama3)",
            "model is Chat, as llama3 is called in the configuration",
            "/api/generate, no images, no tools, no embedding, 2 characters",
        ),
        (
            {"model": "llama3"},
            ("/api/chat",),
            "chat (in Ollama llama3)",
            "model is llama3",
            "/api/chat, no images, no tools, no embedding, 0 characters",
        ),
    ],
)
def test_what_is_said(body: dict, where: tuple[str, ...], model: str, why: str, request_: str) -> None:
    assert explained(body, *where) == [model, f"why: {why}", f"request: {request_}"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"model": "auto", "prompt": "hi"}, "no rule of auto takes this request (no images, no tools,"),
        ({"model": "a", "prompt": "hi", "metadata": {"use_llm": 5}}, "metadata.use_llm must be the name of a model"),
        ({"prompt": "hi"}, "the request names no model"),
        ({"model": 5, "prompt": "hi"}, "the request names no model"),
    ],
)
def test_what_the_proxy_would_refuse(body: dict, complaint: str) -> None:
    with pytest.raises(ProxyError) as refused:
        explained(body)
    assert refused.value.message.startswith(complaint)


@pytest.mark.parametrize(
    ("body", "path", "complaint"),
    [
        (b"{", None, "not a JSON object: "),
        (b"[]", None, "not a JSON object: "),
        (b'{"model": "a"}', None, "has no messages, input or prompt to guess its path from; give it with --path"),
        (b'{"model": "a"}', "/api/tags", "no JSON object names a model on /api/tags, but on /api/generate,"),
        (
            b"{}",
            "/v1/audio/transcriptions",
            "no JSON object names a model on /v1/audio/transcriptions, but on /api/generate,",
        ),
    ],
)
def test_what_cannot_be_read(body: bytes, path: str | None, complaint: str) -> None:
    with pytest.raises(NotReadable) as caught:
        explain(SETTINGS, body, path, ())
    assert str(caught.value).startswith(complaint)


def test_what_may_not_be_asked_for() -> None:
    strict = msgspec.structs.replace(SETTINGS, swapper=Swapper(unlisted_models="deny"))
    assert explained({"model": "LLAMA3", "prompt": "x"}, settings=strict)[0] == "chat (in Ollama llama3)"
    with pytest.raises(ProxyError, match=r"^'a' is not one of the models, and unlisted_models is deny$"):
        explained({"model": "a", "prompt": "x"}, settings=strict)
