"""The shapes of answers: lines, events, objects, vectors."""

import json
import math

import pytest

from tests.contract.asking import Ask

MESSAGE = [{"role": "user", "content": "x"}]
COSTS = ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"]
FEW = {"num_predict": 20}
JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"


class TestNative:
    async def test_generate_streams_by_default(self, ask: Ask) -> None:
        answer = await ask.generate("alpha", prompt="x", options=FEW)
        assert (answer.status, answer.content_type) == (200, NDJSON)
        assert answer.headers["Transfer-Encoding"] == "chunked"
        *tokens, last = answer.lines
        assert tokens
        for line in tokens:
            assert list(line) == ["model", "created_at", "response", "done"]
            assert (line["model"], line["done"]) == ("alpha", False)
        assert list(last) == ["model", "created_at", "response", "done", "done_reason", "context", *COSTS]
        assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 20)

    async def test_chat_streams_by_default(self, ask: Ask) -> None:
        answer = await ask.post("/api/chat", {"model": "alpha", "messages": MESSAGE, "options": FEW})
        assert (answer.status, answer.content_type) == (200, NDJSON)
        *tokens, last = answer.lines
        assert tokens
        for line in tokens:
            assert list(line) == ["model", "created_at", "message", "done"]
            assert line["message"]["role"] == "assistant"
        assert list(last) == ["model", "created_at", "message", "done_reason", "done", *COSTS]
        assert (last["message"], last["eval_count"]) == ({"role": "assistant", "content": ""}, 20)

    async def test_generate_in_one_piece(self, ask: Ask) -> None:
        answer = await ask.generate("alpha", prompt="x", stream=False, options=FEW)
        assert (answer.status, answer.content_type) == (200, JSON)
        assert "Content-Length" in answer.headers
        assert list(answer.json) == ["model", "created_at", "response", "done", "done_reason", "context", *COSTS]

    async def test_chat_in_one_piece(self, ask: Ask) -> None:
        body = {"model": "alpha", "messages": MESSAGE, "stream": False, "options": FEW}
        answer = await ask.post("/api/chat", body)
        assert (answer.status, answer.content_type) == (200, JSON)
        assert list(answer.json) == ["model", "created_at", "message", "done_reason", "done", *COSTS]

    async def test_the_modelfile_limits_the_answer(self, ask: Ask) -> None:
        answer = await ask.generate("alpha", prompt="x", stream=False)
        assert (answer.json["done_reason"], answer.json["eval_count"]) == ("length", 16)

    @pytest.mark.direct
    async def test_the_costs_are_nanoseconds_that_include_the_load(self, ask: Ask) -> None:
        costs = (await ask.generate("alpha", prompt="x", stream=False)).json
        assert costs["total_duration"] >= costs["load_duration"] + costs["eval_duration"]
        assert costs["load_duration"] > 40e6

    @pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
    async def test_a_load_is_no_stream(self, ask: Ask, path: str) -> None:
        answer = await ask.post(path, {"model": "alpha", "stream": True})
        assert answer.content_type == JSON
        assert "Content-Length" in answer.headers


class TestVectors:
    async def test_embed_one(self, ask: Ask) -> None:
        answer = await ask.post("/api/embed", {"model": "embedder", "input": "a"})
        assert (answer.status, answer.content_type) == (200, JSON)
        assert list(answer.json) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
        (vector,) = answer.json["embeddings"]
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-3)

    async def test_embed_many(self, ask: Ask) -> None:
        answer = await ask.post("/api/embed", {"model": "embedder", "input": ["a", "b", "a"]})
        first, second, third = answer.json["embeddings"]
        assert first == third != second

    async def test_a_chat_model_embeds_too(self, ask: Ask) -> None:
        answer = await ask.post("/api/embed", {"model": "alpha", "input": "a"})
        assert len(answer.json["embeddings"]) == 1

    async def test_embeddings(self, ask: Ask) -> None:
        answer = await ask.post("/api/embeddings", {"model": "embedder", "prompt": "a"})
        assert list(answer.json) == ["embedding"]
        assert all(isinstance(number, float) for number in answer.json["embedding"])

    async def test_openai(self, ask: Ask) -> None:
        answer = await ask.post("/v1/embeddings", {"model": "embedder", "input": ["a", "b"]})
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert list(answer.json) == ["object", "data", "model", "usage"]
        assert [list(entry) for entry in answer.json["data"]] == [["object", "embedding", "index"]] * 2
        assert list(answer.json["usage"]) == ["prompt_tokens", "total_tokens"]

    async def test_openai_embeds_an_empty_text(self, ask: Ask) -> None:
        answer = await ask.post("/v1/embeddings", {"model": "embedder", "input": ""})
        assert len(answer.json["data"]) == 1


class TestOpenAI:
    async def test_chat_does_not_stream_by_default(self, ask: Ask) -> None:
        answer = await ask.post("/v1/chat/completions", {"model": "alpha", "messages": MESSAGE, "max_tokens": 2})
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert list(answer.json) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
        (choice,) = answer.json["choices"]
        assert list(choice) == ["index", "message", "finish_reason"]
        assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "length")
        usage = answer.json["usage"]
        assert usage["completion_tokens"] == 2
        assert usage["total_tokens"] == usage["prompt_tokens"] + 2

    async def test_completions_do_not_stream_by_default(self, ask: Ask) -> None:
        answer = await ask.post("/v1/completions", {"model": "alpha", "prompt": "x", "max_tokens": 2})
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert (answer.json["object"], answer.json["usage"]["completion_tokens"]) == ("text_completion", 2)
        assert list(answer.json["choices"][0]) == ["text", "index", "finish_reason"]

    async def test_a_chat_stream_ends_with_done(self, ask: Ask) -> None:
        body = {"model": "alpha", "messages": MESSAGE, "max_tokens": 8, "stream": True}
        answer = await ask.post("/v1/chat/completions", body)
        assert (answer.status, answer.content_type) == (200, EVENTS)
        *chunks, done = answer.events
        assert done == "[DONE]"
        for chunk in map(json.loads, chunks):
            assert list(chunk) == ["id", "object", "created", "model", "system_fingerprint", "choices"]
            assert chunk["object"] == "chat.completion.chunk"
            assert chunk["choices"][0]["delta"]["role"] == "assistant"
        reasons = [json.loads(chunk)["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons == [None] * (len(chunks) - 1) + ["length"]

    @pytest.mark.parametrize(
        ("path", "more"), [("/v1/chat/completions", {"messages": MESSAGE}), ("/v1/completions", {"prompt": "x"})]
    )
    async def test_the_usage_comes_last_when_asked_for(self, ask: Ask, path: str, more: dict) -> None:
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        answer = await ask.post(path, {"model": "alpha", "max_tokens": 2, **asked, **more})
        *_, usage, done = answer.events
        assert done == "[DONE]"
        assert json.loads(usage)["choices"] == []
        assert json.loads(usage)["usage"]["completion_tokens"] == 2

    async def test_a_completion_stream(self, ask: Ask) -> None:
        answer = await ask.post("/v1/completions", {"model": "alpha", "prompt": "x", "max_tokens": 2, "stream": True})
        *chunks, done = answer.events
        assert (answer.content_type, done) == (EVENTS, "[DONE]")
        for chunk in map(json.loads, chunks):
            assert list(chunk) == ["id", "object", "created", "choices", "model", "system_fingerprint"]

    async def test_a_load_as_a_stream(self, ask: Ask) -> None:
        answer = await ask.post("/v1/completions", {"model": "alpha", "stream": True})
        chunk, done = answer.events
        assert (answer.content_type, done) == (EVENTS, "[DONE]")
        assert json.loads(chunk)["choices"] == [{"text": "", "index": 0, "finish_reason": "load"}]
