"""How models come: made of others, uploaded as blobs.  (Nothing can be pulled where there is no registry.)"""

from hashlib import sha256
from typing import Any

import pytest

from tests.contract.asking import Answer, Ask

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"


def statuses(answer: Answer) -> list[str]:
    """Of each line, without the digests; a layer may be there already."""
    found = (line["status"].partition(" sha256:")[0] for line in answer.lines)
    return [status.removeprefix("using existing ").removeprefix("creating new ") for status in found]


async def shown(ask: Ask, name: str) -> dict[str, Any]:
    return (await ask.post("/api/show", {"model": name})).json


class TestCreate:
    async def test_from_another(self, ask: Ask) -> None:
        given = {"parameters": {"num_ctx": 512}, "system": "be kind"}
        answer = await ask.post("/api/create", {"model": "made", "from": "alpha", **given})
        try:
            assert (answer.status, answer.content_type) == (200, NDJSON)
            assert statuses(answer) == ["layer", "layer", "layer", "writing manifest", "success"]
            made = await shown(ask, "made")
            assert made["system"] == "be kind"
            parameters = sorted(made["parameters"].split())  # they come in any order
            assert parameters == ["1", "16", "512", "num_ctx", "num_predict", "num_thread"]
            assert made["details"]["parent_model"] == "alpha:latest"
            answer = await ask.generate("made", prompt="x", options={"num_predict": 2}, stream=False)
            assert (answer.json["done_reason"], answer.json["eval_count"]) == ("length", 2)
        finally:
            await ask.unload_all()
            await ask.send("DELETE", "/api/delete", {"model": "made"})

    async def test_by_the_old_key_and_in_one_piece(self, ask: Ask) -> None:
        answer = await ask.post("/api/create", {"name": "made", "from": "alpha-kind", "stream": False})
        try:
            assert (answer.status, answer.content_type) == (200, "application/json")
            assert answer.text == '{"status":"success"}'
            assert (await shown(ask, "made"))["system"] == "be kind"
        finally:
            await ask.send("DELETE", "/api/delete", {"model": "made"})

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            (None, "missing request body"),
            ({"from": "alpha"}, "invalid model name"),
            ({"model": "a b", "from": "alpha"}, "invalid model name"),
            (
                {"model": 1},
                "json: cannot unmarshal number into Go struct field CreateRequest.model of type string",
            ),
        ],
    )
    async def test_refused(self, ask: Ask, body: dict | None, error: str) -> None:
        answer = await ask.post("/api/create", body)
        assert (answer.status, answer.content_type, answer.json) == (400, JSON, {"error": error})

    @pytest.mark.parametrize(
        ("more", "error"),
        [({}, "neither 'from' or 'files' was specified"), ({"from": "a b"}, "invalid model name")],
    )
    async def test_refused_on_the_way(self, ask: Ask, more: dict, error: str) -> None:
        answer = await ask.post("/api/create", {"model": "made", **more})
        assert (answer.status, answer.content_type, answer.lines) == (200, NDJSON, [{"error": error, "status": 400}])
        answer = await ask.post("/api/create", {"model": "made", "stream": False, **more})
        assert (answer.status, answer.content_type, answer.json) == (400, "application/json", {"error": error})


class TestBlobs:
    async def test_once_it_is_there(self, ask: Ask, request: pytest.FixtureRequest) -> None:
        content = request.node.name.encode()  # another one on each target
        digest = sha256(content).hexdigest()
        path = f"/api/blobs/sha256:{digest}"
        assert (await ask.send("HEAD", path)).status == 404
        wrong = await ask.post(path, content + b"!")
        got = sha256(content + b"!").hexdigest()
        assert wrong.status == 400
        assert wrong.json == {"error": f'digest mismatch, expected "sha256:{digest}", got "sha256:{got}"'}
        assert (await ask.send("HEAD", path)).status == 404
        assert [(await ask.post(path, content)).status for _ in range(2)] == [201, 200]
        assert (await ask.send("HEAD", path)).status == 200
        assert (await ask.send("HEAD", path.replace(":", "-"))).status == 200
        made = await ask.post("/api/create", {"model": "made", "files": {"a.gguf": f"sha256:{digest}"}})
        assert made.lines == [
            {"status": "parsing GGUF"},
            {"error": "supplied file was not in GGUF format", "status": 400},
        ]

    @pytest.mark.parametrize("digest", ["nonsense", "sha256:12", "sha512:" + "0" * 64])
    async def test_no_digest(self, ask: Ask, digest: str) -> None:
        answer = await ask.post(f"/api/blobs/{digest}", b"x")
        assert (answer.status, answer.content_type, answer.json) == (400, JSON, {"error": "invalid digest format"})
        assert (await ask.send("HEAD", f"/api/blobs/{digest}")).status == 400

    async def test_is_not_to_be_had(self, ask: Ask) -> None:
        answer = await ask.get("/api/blobs/sha256:" + "0" * 64)
        assert (answer.status, answer.text) == (405, "405 method not allowed")


class TestPullAndPush:
    @pytest.mark.parametrize(
        ("path", "body", "error"),
        [
            ("/api/pull", None, "missing request body"),
            ("/api/pull", {}, "invalid model name"),
            ("/api/pull", {"model": "a b"}, "invalid model name"),
            ("/api/push", {}, "model is required"),
        ],
    )
    async def test_refused(self, ask: Ask, path: str, body: dict | None, error: str) -> None:
        answer = await ask.post(path, body)
        assert (answer.status, answer.content_type, answer.json) == (400, JSON, {"error": error})

    @pytest.mark.parametrize(
        ("path", "told"),
        [("/api/pull", ["pulling manifest"]), ("/api/push", ["retrieving manifest", "couldn't retrieve manifest"])],
    )
    async def test_what_is_not_there(self, ask: Ask, path: str, told: list[str]) -> None:
        answer = await ask.post(path, {"model": "nope"})
        assert (answer.status, answer.content_type) == (200, NDJSON)
        *before, last = answer.lines
        assert [line["status"] for line in before] == told
        assert list(last) == ["error"]
        answer = await ask.post(path, {"model": "nope", "stream": False})
        assert (answer.status, list(answer.json)) == (500, ["error"])
