"""Routes of newer versions than the real one of these tests, on the simulator: what Ollama's sources say of them."""

import base64
import json
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import aiohttp
import pytest

from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.contract.asking import Answer, Ask

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FAST = {"load_s": 0.0, "tokens_per_second": 0.0}
MESSAGE = [{"role": "user", "content": "x"}]
MODELS = [
    SimulatedModel("able", **FAST, capabilities=("tools", "thinking", "insert")),
    SimulatedModel("ear", **FAST, capabilities=("audio",)),
    SimulatedModel("painter", **FAST, capabilities=("image",)),
    SimulatedModel("embedder", **FAST, embedding_only=True),
    SimulatedModel("far", **FAST, remote_host="https://ollama.com:443", remote_model="far:120b"),
]
EVENTS = "text/event-stream"


@pytest.fixture
async def recent(session: aiohttp.ClientSession) -> AsyncIterator[Ask]:
    registry = [SimulatedModel("new", size=1000, **FAST)]
    async with serving(Simulator(MODELS, registry=registry)) as url:
        yield Ask(session, url)


def events(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for event in filter(None, answer.text.split("\n\n")):
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


class TestMessages:
    async def test_whole(self, recent: Ask) -> None:
        answer = await recent.post("/v1/messages", {"model": "able", "max_tokens": 3, "messages": MESSAGE})
        assert (answer.status, answer.content_type, answer.text[-1]) == (200, "application/json", "\n")
        assert list(answer.json) == ["id", "type", "role", "model", "content", "stop_reason", "usage"]
        assert answer.json["id"].startswith("msg_")
        assert [list(block) for block in answer.json["content"]] == [["type", "text"]]
        assert (answer.json["stop_reason"], answer.json["usage"]["output_tokens"]) == ("max_tokens", 3)

    async def test_stream(self, recent: Ask) -> None:
        body = {"model": "able", "max_tokens": 2, "messages": MESSAGE, "stream": True}
        answer = await recent.post("/v1/messages", body)
        assert (answer.content_type, answer.headers["Cache-Control"]) == (EVENTS, "no-cache")
        found = events(answer)
        assert all(name == data["type"] for name, data in found)
        delta = "content_block_delta"
        middle = ["content_block_start", delta, delta, "content_block_stop"]
        assert [name for name, _ in found] == ["message_start", *middle, "message_delta", "message_stop"]
        begun, ended = found[0][1]["message"], found[-2][1]
        assert list(begun) == ["id", "type", "role", "model", "content", "usage"]
        assert (begun["content"], begun["usage"]["output_tokens"]) == ([], 0)
        assert found[1][1]["content_block"] == {"type": "text", "text": ""}
        assert (ended["delta"], ended["usage"]["output_tokens"]) == ({"stop_reason": "max_tokens"}, 2)

    @pytest.mark.parametrize(
        ("body", "status", "kind", "text"),
        [
            ("", 400, "invalid_request_error", "EOF"),
            ({}, 400, "invalid_request_error", "model is required"),
            ({"model": "able"}, 400, "invalid_request_error", "max_tokens is required and must be positive"),
            ({"model": "able", "max_tokens": 1}, 400, "invalid_request_error", "messages is required"),
            (
                {"model": "nope", "max_tokens": 1, "messages": MESSAGE, "stream": True},
                404,
                "not_found_error",
                'model "nope" not found, try pulling it first',
            ),
            (
                {"model": "embedder", "max_tokens": 1, "messages": MESSAGE},
                400,
                "invalid_request_error",
                '"embedder" does not support chat',
            ),
        ],
    )
    async def test_refused(self, recent: Ask, body: Any, status: int, kind: str, text: str) -> None:
        answer = await recent.post("/v1/messages", body)
        assert answer.status == status
        assert list(answer.json) == ["type", "error", "request_id"]
        assert (answer.json["type"], answer.json["error"]) == ("error", {"type": kind, "message": text})
        assert answer.json["request_id"].startswith("req_")

    async def test_tokens_are_not_counted(self, recent: Ask) -> None:
        assert (await recent.post("/v1/messages/count_tokens", {"model": "able"})).status == 404


class TestResponses:
    async def test_whole(self, recent: Ask) -> None:
        body = {"model": "able", "input": "x", "max_output_tokens": 3, "instructions": "be kind", "top_p": 0.5}
        answer = await recent.post("/v1/responses", body)
        assert (answer.status, answer.content_type, answer.text[-1]) == (200, "application/json", "\n")
        found = answer.json
        assert list(found)[:7] == [
            "id",
            "object",
            "created_at",
            "completed_at",
            "status",
            "incomplete_details",
            "model",
        ]
        assert (found["status"], found["incomplete_details"], found["store"]) == ("completed", None, False)
        assert (found["instructions"], found["top_p"], found["temperature"]) == ("be kind", 0.5, 1)
        (item,) = found["output"]
        assert list(item) == ["id", "type", "status", "role", "content"]
        assert list(item["content"][0]) == ["type", "text", "annotations", "logprobs"]
        usage = found["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + 3
        assert (usage["input_tokens_details"], usage["output_tokens_details"]) == (
            {"cached_tokens": 0},
            {"reasoning_tokens": 0},
        )

    async def test_stream(self, recent: Ask) -> None:
        answer = await recent.post(
            "/v1/responses", {"model": "able", "input": MESSAGE, "stream": True, "max_output_tokens": 2}
        )
        assert (answer.content_type, answer.headers["Cache-Control"]) == (EVENTS, "no-cache")
        found = events(answer)
        assert [name for name, _ in found] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [data["sequence_number"] for _, data in found] == list(range(10))
        assert all(name == data["type"] and list(data) == sorted(data) for name, data in found)
        begun, ended = found[0][1]["response"], found[-1][1]["response"]
        assert (begun["status"], begun["output"], begun["usage"]) == ("in_progress", [], None)
        assert begun.keys() == ended.keys()
        text = "".join(data["delta"] for name, data in found if name.endswith("delta"))
        assert ended["output"][0]["content"][0]["text"] == text != ""

    @pytest.mark.parametrize("stream", [False, True])
    async def test_nothing_asked_is_a_load(self, recent: Ask, stream: bool) -> None:
        answer = await recent.post("/v1/responses", {"model": "able", "stream": stream})
        assert await recent.names() == ["able:latest"]
        if stream:
            names = [name for name, _ in events(answer)]
            assert names == ["response.created", "response.in_progress", "response.completed"]
        else:
            assert answer.json["output"][0]["content"][0]["text"] == ""

    @pytest.mark.parametrize(
        ("body", "status", "kind"),
        [
            ("", 400, "invalid_request_error"),
            ({"model": "able", "input": 1}, 400, "invalid_request_error"),
            ({"model": "nope", "input": "x"}, 404, "not_found_error"),
        ],
    )
    async def test_refused(self, recent: Ask, body: Any, status: int, kind: str) -> None:
        answer = await recent.post("/v1/responses", body)
        assert (answer.status, answer.json["error"]["type"]) == (status, kind)
        assert list(answer.json["error"]) == ["message", "type", "param", "code"]


async def transcribe(recent: Ask, **fields: Any) -> Answer:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value, filename="a.wav" if isinstance(value, bytes) else None)
    return await recent.post("/v1/audio/transcriptions", form)


class TestRecordings:
    async def test_json(self, recent: Ask) -> None:
        answer = await transcribe(recent, file=b"RIFF", model="ear", language="en")
        assert (answer.status, answer.content_type, list(answer.json)) == (200, "application/json", ["text"])
        assert answer.json["text"].startswith("Once upon")
        assert await recent.names() == ["ear:latest"]

    async def test_text(self, recent: Ask) -> None:
        answer = await transcribe(recent, model="ear", file=b"RIFF", response_format="text")
        assert (answer.status, answer.content_type) == (200, "text/plain")
        assert answer.text.startswith("Once upon")

    @pytest.mark.parametrize(
        ("fields", "status", "kind", "text"),
        [
            ({"file": b"RIFF"}, 400, "invalid_request_error", "model is required"),
            ({"model": "ear"}, 400, "invalid_request_error", "file is required: http: no such file"),
            ({"model": "ear", "file": b""}, 400, "invalid_request_error", "audio file is empty"),
            (
                {"model": "nope", "file": b"RIFF"},
                404,
                "not_found_error",
                'model "nope" not found, try pulling it first',
            ),
            (
                {"model": "embedder", "file": b"RIFF"},
                400,
                "invalid_request_error",
                '"embedder" does not support chat',
            ),
            (
                {"model": "able", "file": b"RIFF"},
                500,
                "api_error",
                "this model is missing data required for image input",
            ),
        ],
    )
    async def test_refused(self, recent: Ask, fields: dict, status: int, kind: str, text: str) -> None:
        answer = await transcribe(recent, **fields)
        told = {"message": text, "type": kind, "param": None, "code": None}
        assert (answer.status, answer.json) == (status, {"error": told})

    async def test_no_form(self, recent: Ask) -> None:
        answer = await recent.post("/v1/audio/transcriptions", {"model": "ear"})
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


class TestPictures:
    @pytest.mark.parametrize(
        ("path", "more"), [("/v1/images/generations", {}), ("/v1/images/edits", {"image": "iVBORw0KGgo="})]
    )
    async def test_painted(self, recent: Ask, path: str, more: dict) -> None:
        answer = await recent.post(path, {"model": "painter", "prompt": "x", **more})
        assert (answer.status, list(answer.json)) == (200, ["created", "data"])
        (picture,) = answer.json["data"]
        assert base64.b64decode(picture["b64_json"]).startswith(b"\x89PNG")
        assert await recent.names() == ["painter:latest"]

    async def test_a_model_that_writes_paints_nothing(self, recent: Ask) -> None:
        answer = await recent.post("/v1/images/generations", {"model": "able", "prompt": "x"})
        assert (answer.status, answer.body) == (200, b"")

    @pytest.mark.parametrize(
        ("path", "body", "status", "text"),
        [
            ("/v1/images/generations", {"model": "painter"}, 400, "prompt is required"),
            ("/v1/images/generations", {"prompt": "x"}, 400, "model is required"),
            ("/v1/images/generations", {"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
            ("/v1/images/edits", {"model": "painter", "prompt": "x"}, 400, "image is required"),
        ],
    )
    async def test_refused(self, recent: Ask, path: str, body: dict, status: int, text: str) -> None:
        answer = await recent.post(path, body)
        assert (answer.status, answer.json["error"]["message"]) == (status, text)

    async def test_a_painter_does_not_chat(self, recent: Ask) -> None:
        answer = await recent.post("/api/chat", {"model": "painter", "messages": MESSAGE})
        assert (answer.status, answer.json) == (400, {"error": '"painter" does not support chat'})
        assert (await recent.post("/api/show", {"model": "painter"})).json["capabilities"] == ["image"]


class TestCompressed:
    async def ask(self, recent: Ask, body: bytes, path: str = "/v1/responses") -> Answer:
        return await recent.post(path, body, **{"Content-Encoding": "zstd"})

    @pytest.mark.parametrize("path", ["/v1/responses", "/v1/completions"])
    async def test_read(self, recent: Ask, path: str) -> None:
        body = zstd.compress(json.dumps({"model": "able", "input": "x", "prompt": "x"}).encode())
        assert (await self.ask(recent, body, path)).status == 200
        assert await recent.names() == ["able:latest"]

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (b"nonsense", "invalid input: magic number mismatch"),
            (zstd.compress(b"x" * 100)[:-4], "unexpected EOF"),
            (zstd.compress(bytes(21 << 20)), "http: request body too large"),
        ],
    )
    async def test_refused(self, recent: Ask, body: bytes, text: str) -> None:
        answer = await self.ask(recent, body)
        assert (answer.status, answer.json) == (400, {"error": text})

    async def test_on_native_routes_it_is_no_json(self, recent: Ask) -> None:
        answer = await self.ask(recent, zstd.compress(b'{"model":"able"}'), "/api/generate")
        assert answer.status == 400


class TestRemote:
    async def test_lists_tell_where_it_is(self, recent: Ask) -> None:
        tags = {entry["name"]: entry for entry in (await recent.get("/api/tags")).json["models"]}
        where = {"remote_model": "far:120b", "remote_host": "https://ollama.com:443"}
        assert where.items() <= tags["far:latest"].items()
        assert not where.keys() & tags["able:latest"].keys()
        assert where.items() <= (await recent.post("/api/show", {"model": "far"})).json.items()

    async def test_answers_without_memory(self, recent: Ask) -> None:
        await recent.generate("able")
        answer = await recent.generate("far", prompt="x", stream=False)
        assert list(answer.json)[:4] == ["model", "remote_model", "remote_host", "created_at"]
        answer = await recent.post("/v1/chat/completions", {"model": "far", "messages": MESSAGE})
        assert answer.json["choices"][0]["message"]["content"]
        assert await recent.names() == ["able:latest"]


class TestPull:
    async def test_progress(self, recent: Ask) -> None:
        assert (await recent.generate("new")).status == 404
        lines = (await recent.post("/api/pull", {"model": "new"})).lines
        assert (lines[0], lines[-1]) == ({"status": "pulling manifest"}, {"status": "success"})
        progress = [line for line in lines if "completed" in line]
        assert progress[0].keys() == {"status", "digest", "total", "completed"}
        assert (progress[0]["completed"], progress[-1]["completed"]) == (0, 1000)
        assert (await recent.generate("new")).status == 200

    async def test_in_one_piece(self, recent: Ask) -> None:
        answer = await recent.post("/api/pull", {"model": "new", "stream": False})
        assert (answer.content_type, answer.json) == ("application/json", {"status": "success"})

    async def test_push(self, recent: Ask) -> None:
        lines = (await recent.post("/api/push", {"model": "able"})).lines
        assert [line["status"] for line in lines] == ["retrieving manifest", "pushing manifest", "success"]
        assert (await recent.post("/api/push", {"model": "nope", "stream": False})).status == 500


async def test_a_load_that_fails(session: aiohttp.ClientSession) -> None:
    async with serving(Simulator([SimulatedModel("broken", **FAST, broken=True), *MODELS])) as url:
        recent = Ask(session, url)
        for _ in range(2):
            answer = await recent.generate("broken", prompt="x")
            assert (answer.status, list(answer.json)) == (500, ["error"])
        assert (await recent.post("/v1/responses", {"model": "broken", "input": "x"})).status == 500
        assert (await recent.generate("able")).status == 200
        assert await recent.names() == ["able:latest"]


async def test_a_model_of_an_uploaded_file(recent: Ask) -> None:
    digest = f"sha256:{sha256(b'GGUF...').hexdigest()}"
    assert (await recent.post(f"/api/blobs/{digest}", b"GGUF...")).status == 201
    made = await recent.post("/api/create", {"model": "made", "files": {"a.gguf": digest}})
    assert made.lines[-1] == {"status": "success"}
    assert (await recent.generate("made")).status == 200
    missing = await recent.post("/api/create", {"model": "x", "files": {"a.gguf": "sha256:" + "0" * 64}})
    assert "no such file" in missing.lines[-1]["error"]
