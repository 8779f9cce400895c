"""What is refused, with which status and text, and that nothing is loaded for it."""

import json
from typing import Any

import pytest

from tests.contract.asking import Ask

MESSAGE = [{"role": "user", "content": "x"}]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
EMPTY = "missing request body"

NATIVE = {
    "/api/generate": "GenerateRequest",
    "/api/chat": "ChatRequest",
    "/api/embed": "EmbedRequest",
    "/api/embeddings": "EmbeddingRequest",
    "/api/show": "ShowRequest",
}
OPENAI = {
    "/v1/chat/completions": "ChatCompletionRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/embeddings": "EmbedRequest",
}


def native(text: str) -> str:
    return json.dumps({"error": text}, separators=(",", ":"), ensure_ascii=False)


def unread(text: str) -> str:
    """An OpenAI path that could not make sense of the body."""
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": None}
    return json.dumps({"error": error}, separators=(",", ":"))


def failed(text: str) -> str:
    """An OpenAI path that handed the request on."""
    error = {"message": text, "type": "api_error", "param": None, "code": None}
    return json.dumps({"error": error}, separators=(",", ":")) + "\n"


async def refuses(ask: Ask, path: str, body: Any, status: int, text: str) -> None:
    answer = await ask.post(path, body)
    assert (answer.status, answer.text) == (status, text)
    charset = "" if text.endswith("\n") else "; charset=utf-8"
    assert answer.content_type == f"application/json{charset}"
    assert await ask.names() == []


@pytest.mark.parametrize("path", NATIVE)
class TestUnreadableNativeBodies:
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (None, EMPTY),
            ("  \n", EMPTY),
            ("{", "unexpected EOF"),
            ('{"model":"alpha"', "unexpected EOF"),
            ('{"model":"al', "unexpected EOF"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ('{"model":"alpha",}', "invalid character '}' looking for beginning of object key string"),
            ("{model:1}", "invalid character 'm' looking for beginning of object key string"),
            ("{'a':1}", r"invalid character '\'' looking for beginning of object key string"),
            ('{"model":"alpha" "x"}', "invalid character '\"' after object key:value pair"),
            ('{"a" 1}', "invalid character '1' after object key"),
            ('{"a":[1 2]}', "invalid character '2' after array element"),
            ('{"a":NaN}', "invalid character 'N' looking for beginning of value"),
            ('{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        ],
    )
    async def test_not_json(self, ask: Ask, path: str, body: str | None, text: str) -> None:
        await refuses(ask, path, body, 400, native(text))

    @pytest.mark.parametrize(("body", "kind"), [("[]", "array"), ('"x"', "string"), ("1", "number"), ("true", "bool")])
    async def test_not_an_object(self, ask: Ask, path: str, body: str, kind: str) -> None:
        await refuses(
            ask, path, body, 400, native(f"json: cannot unmarshal {kind} into Go value of type api.{NATIVE[path]}")
        )

    async def test_a_wrong_type(self, ask: Ask, path: str) -> None:
        place = f"Go struct field {NATIVE[path]}.model of type string"
        await refuses(ask, path, {"model": 1}, 400, native(f"json: cannot unmarshal number into {place}"))


@pytest.mark.parametrize("path", OPENAI)
class TestUnreadableOpenAIBodies:
    @pytest.mark.parametrize(("body", "text"), [(None, "EOF"), ("{", "unexpected EOF")])
    async def test_not_json(self, ask: Ask, path: str, body: str | None, text: str) -> None:
        await refuses(ask, path, body, 400, unread(text))

    async def test_not_an_object(self, ask: Ask, path: str) -> None:
        text = f"json: cannot unmarshal array into Go value of type openai.{OPENAI[path]}"
        await refuses(ask, path, "[]", 400, unread(text))

    async def test_a_wrong_type(self, ask: Ask, path: str) -> None:
        place = f"Go struct field {OPENAI[path]}.model of type string"
        await refuses(ask, path, {"model": 1}, 400, unread(f"json: cannot unmarshal number into {place}"))


@pytest.mark.parametrize(
    ("path", "field", "value", "place"),
    [
        ("/api/generate", "stream", "x", "string into Go struct field GenerateRequest.stream of type bool"),
        ("/api/generate", "prompt", 1, "number into Go struct field GenerateRequest.prompt of type string"),
        ("/api/generate", "context", "x", "string into Go struct field GenerateRequest.context of type []int"),
        (
            "/api/chat",
            "options",
            [],
            "array into Go struct field ChatRequest.options of type map[string]interface {}",
        ),
        ("/api/chat", "messages", {}, "object into Go struct field ChatRequest.messages of type []api.Message"),
        ("/api/chat", "messages", [1], "number into Go struct field ChatRequest.messages of type api.Alias"),
        (
            "/api/chat",
            "messages",
            [{"role": 1}],
            "number into Go struct field ChatRequest.messages.role of type string",
        ),
        ("/api/chat", "tools", 1, "number into Go struct field ChatRequest.tools of type api.Tools"),
        ("/api/embeddings", "prompt", 1, "number into Go struct field EmbeddingRequest.prompt of type string"),
    ],
)
async def test_wrong_types(ask: Ask, path: str, field: str, value: Any, place: str) -> None:
    body = {"model": "alpha", field: value}
    await refuses(ask, path, body, 400, native(f"json: cannot unmarshal {place}"))


@pytest.mark.parametrize(
    ("path", "more", "text"),
    [
        (
            "/v1/chat/completions",
            {"messages": MESSAGE, "max_tokens": "1"},
            "json: cannot unmarshal string into Go struct field ChatCompletionRequest.max_tokens of type int",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": 1}]},
            "json: cannot unmarshal number into Go struct field Message.messages.role of type string",
        ),
        ("/v1/chat/completions", {}, "[] is too short - 'messages'"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": 1}]},
            "invalid message content type: float64",
        ),
        ("/v1/embeddings", {}, "invalid input"),
        ("/v1/embeddings", {"input": []}, "invalid input"),
    ],
)
async def test_openai_bodies_without_sense(ask: Ask, path: str, more: dict, text: str) -> None:
    await refuses(ask, path, {"model": "alpha", **more}, 400, unread(text))


UNKNOWN = "model 'nope' not found"
TRY_PULLING = 'model "nope" not found, try pulling it first'


@pytest.mark.parametrize(
    ("path", "more", "status", "text"),
    [
        ("/api/generate", {"prompt": "x"}, 404, native(UNKNOWN)),
        ("/api/generate", {"keep_alive": 0}, 404, native(UNKNOWN)),
        ("/api/generate", {"options": {"num_ctx": "x"}}, 404, native(UNKNOWN)),
        ("/api/chat", {"messages": MESSAGE}, 404, native(TRY_PULLING)),
        ("/api/chat", {"keep_alive": 0}, 404, native(UNKNOWN)),
        ("/api/embed", {"input": "x"}, 404, native(TRY_PULLING)),
        ("/api/embed", {"input": 1}, 400, native("invalid input type")),
        ("/api/embeddings", {"prompt": "x"}, 404, native(TRY_PULLING)),
        ("/api/show", {}, 404, native(UNKNOWN)),
        ("/v1/chat/completions", {"messages": MESSAGE}, 404, failed(TRY_PULLING)),
        ("/v1/chat/completions", {"messages": MESSAGE, "stream": True}, 404, failed(TRY_PULLING)),
        ("/v1/completions", {"prompt": "x"}, 404, failed(UNKNOWN)),
        ("/v1/embeddings", {"input": "x"}, 404, failed(TRY_PULLING)),
    ],
)
async def test_an_unknown_model(ask: Ask, path: str, more: dict, status: int, text: str) -> None:
    await refuses(ask, path, {"model": "nope", **more}, status, text)


@pytest.mark.parametrize("body", ["null", "{}", '{"model":""}', '{"model":null}'])
@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/api/generate", 404, native("model '' not found")),
        ("/api/chat", 400, native("model is required")),
        ("/api/embed", 404, native('model "" not found, try pulling it first')),
        ("/api/embeddings", 400, native("model is required")),
        ("/api/show", 400, native("model is required")),
        ("/v1/completions", 404, failed("model '' not found")),
        ("/v1/embeddings", 400, unread("invalid input")),
    ],
)
async def test_no_model(ask: Ask, path: str, body: str, status: int, text: str) -> None:
    await refuses(ask, path, body, status, text)


@pytest.mark.parametrize("name", ["a b", " alpha", "alpha ", "alpha:", "/alpha", "a/b/c/d/e"])
@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/api/generate", 404, "model '{}' not found"),
        ("/api/chat", 400, "model is required"),
        ("/api/embed", 404, 'model "{}" not found, try pulling it first'),
        ("/api/embeddings", 400, "model is required"),
        ("/api/show", 500, "invalid model path"),
    ],
)
async def test_no_name_at_all(ask: Ask, path: str, name: str, status: int, text: str) -> None:
    await refuses(ask, path, {"model": name}, status, native(text.format(name)))


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize(
    ("keep_alive", "text"),
    [
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
        ("-1", 'time: missing unit in duration "-1"'),
        ("300", 'time: missing unit in duration "300"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("5M", 'time: unknown unit "M" in duration "5M"'),
        ("x", 'time: invalid duration "x"'),
        (" 5m", 'time: invalid duration " 5m"'),
        ("", 'time: invalid duration ""'),
    ],
)
async def test_keep_alive(ask: Ask, path: str, keep_alive: object, text: str) -> None:
    await refuses(ask, path, {"model": "alpha", "keep_alive": keep_alive}, 400, native(text))


@pytest.mark.parametrize("body", ['{"model":1,"keep_alive":true}', '{"keep_alive":true,"model":"nope","stream":1}'])
async def test_keep_alive_is_reported_before_all_else(ask: Ask, body: str) -> None:
    await refuses(ask, "/api/generate", body, 400, native("Unsupported type: 'bool'"))


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_ctx": "512"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"num_gpu": "x"}, 'option "num_gpu" must be of type integer'),
        ({"temperature": "x"}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
async def test_options(ask: Ask, path: str, options: dict[str, Any], text: str) -> None:
    await refuses(ask, path, {"model": "alpha", "options": options}, 500, native(text))


THE_MODEL = "registry.ollama.ai/library/alpha:latest"


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/api/generate", {"model": "embedder"}, native('"embedder" does not support generate')),
        ("/api/generate", {"model": "embedder", "prompt": "x"}, native('"embedder" does not support generate')),
        ("/api/chat", {"model": "embedder"}, native('"embedder" does not support chat')),
        (
            "/api/chat",
            {"model": "embedder", "messages": MESSAGE, "think": True, "options": {"num_ctx": "x"}},
            native('"embedder" does not support chat'),
        ),
        ("/v1/completions", {"model": "embedder"}, failed('"embedder" does not support generate')),
        (
            "/v1/chat/completions",
            {"model": "embedder", "messages": MESSAGE},
            failed('"embedder" does not support chat'),
        ),
        ("/api/chat", {"model": "alpha", "tools": TOOLS}, native(f"{THE_MODEL} does not support tools")),
        ("/api/chat", {"model": "alpha", "think": True}, native(f"{THE_MODEL} does not support thinking")),
        (
            "/api/chat",
            {"model": "alpha", "tools": TOOLS, "think": True, "messages": MESSAGE},
            native(f"{THE_MODEL} does not support tools\nthinking"),
        ),
        ("/api/generate", {"model": "alpha", "think": True}, native(f"{THE_MODEL} does not support thinking")),
        ("/api/generate", {"model": "alpha", "suffix": "y"}, native(f"{THE_MODEL} does not support insert")),
        (
            "/v1/chat/completions",
            {"model": "alpha", "messages": MESSAGE, "tools": TOOLS},
            failed(f"{THE_MODEL} does not support tools"),
        ),
        (
            "/api/generate",
            {"model": "alpha", "raw": True, "system": "x"},
            native("raw mode does not support template, system, or context"),
        ),
    ],
)
async def test_capabilities(ask: Ask, path: str, body: dict, text: str) -> None:
    await refuses(ask, path, body, 400, text)


@pytest.mark.parametrize("more", [{"tools": []}, {"think": False}])
async def test_what_asks_for_no_capability(ask: Ask, more: dict) -> None:
    assert (await ask.post("/api/chat", {"model": "alpha", **more})).status == 200
