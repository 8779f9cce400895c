"""What is asked without a model: the root, the version, lists, /api/show, copy and delete, unknown paths."""

import re
from datetime import datetime

import pytest

from tests.contract.asking import Ask
from tests.real.models import MODELS

JSON = "application/json; charset=utf-8"
DETAILS = ["parent_model", "format", "family", "families", "parameter_size", "quantization_level"]


async def test_root(ask: Ask) -> None:
    answer = await ask.get("/")
    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    assert answer.text == "Ollama is running"


async def test_version(ask: Ask) -> None:
    answer = await ask.get("/api/version")
    assert (answer.status, answer.content_type) == (200, JSON)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", answer.json["version"])


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_heads(ask: Ask, path: str) -> None:
    answer = await ask.send("HEAD", path)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.content_type == (await ask.get(path)).content_type


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nope"), ("POST", "/api/nope"), ("GET", "/API/tags"), ("GET", "/v1"), ("POST", "/x/y")],
)
async def test_unknown_paths(ask: Ask, method: str, path: str) -> None:
    answer = await ask.send(method, path)
    assert (answer.status, answer.content_type, answer.text) == (404, "text/plain", "404 page not found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/api/chat"), ("GET", "/api/chat"), ("POST", "/"), ("POST", "/api/tags"), ("OPTIONS", "/api/tags")],
)
async def test_wrong_methods(ask: Ask, method: str, path: str) -> None:
    answer = await ask.send(method, path)
    assert (answer.status, answer.content_type, answer.text) == (405, "text/plain", "405 method not allowed")


async def test_ps_has_no_head(ask: Ask) -> None:
    assert (await ask.send("HEAD", "/api/ps")).status == 405


async def test_tags(ask: Ask) -> None:
    answer = await ask.get("/api/tags")
    assert (answer.status, answer.content_type) == (200, JSON)
    models = {entry["name"]: entry for entry in answer.json["models"]}
    assert set(models) >= {f"{name}:latest" for name in MODELS}
    for entry in models.values():
        assert list(entry) == ["name", "model", "modified_at", "size", "digest", "details"]
        assert list(entry["details"]) == DETAILS
        assert entry["model"] == entry["name"]
        assert entry["size"] > 0
        assert re.fullmatch("[0-9a-f]{64}", entry["digest"])
        assert datetime.fromisoformat(entry["modified_at"]).tzinfo is not None


async def test_ps(ask: Ask) -> None:
    empty = await ask.get("/api/ps")
    assert (empty.status, empty.content_type, empty.text) == (200, JSON, '{"models":[]}')
    await ask.generate("alpha")
    (entry,) = await ask.residents()
    assert list(entry) == ["name", "model", "size", "digest", "details", "expires_at", "size_vram"]
    assert (entry["name"], entry["model"]) == ("alpha:latest", "alpha:latest")
    assert list(entry["details"]) == DETAILS
    assert datetime.fromisoformat(entry["expires_at"]).tzinfo is not None


def from_line(modelfile: str) -> str:
    """What the weights are known by."""
    (line,) = (line for line in modelfile.splitlines() if line.startswith("FROM "))
    return line.removeprefix("FROM ")


class TestShow:
    async def test_says_what_it_is(self, ask: Ask) -> None:
        answer = await ask.post("/api/show", {"model": "alpha-512"})
        assert (answer.status, answer.content_type) == (200, JSON)
        shown = answer.json
        assert {"modelfile", "parameters", "template", "details", "model_info", "capabilities"} <= set(shown)
        parameters = [line.split() for line in shown["parameters"].splitlines()]
        assert sorted(parameters) == [["num_ctx", "512"], ["num_predict", "16"], ["num_thread", "1"]]  # in any order
        assert "\nPARAMETER num_ctx 512\n" in shown["modelfile"]
        assert list(shown["details"]) == DETAILS
        assert shown["capabilities"] == ["completion"]

    async def test_an_embedder(self, ask: Ask) -> None:
        shown = (await ask.post("/api/show", {"model": "embedder"})).json
        assert shown["capabilities"] == ["embedding"]
        assert "parameters" not in shown

    async def test_the_system_prompt(self, ask: Ask) -> None:
        shown = (await ask.post("/api/show", {"model": "alpha-kind"})).json
        assert shown["system"] == "be kind"
        assert "\nSYSTEM be kind\n" in shown["modelfile"]

    async def test_the_from_line_is_the_identity_of_the_weights(self, ask: Ask) -> None:
        lines = {
            name: from_line((await ask.post("/api/show", {"model": name})).json["modelfile"])
            for name in ("alpha", "alpha-kind", "alpha-512", "beta")
        }
        assert re.search("/blobs/sha256-[0-9a-f]{64}$", lines["alpha"])
        assert lines["alpha"] == lines["alpha-kind"] == lines["alpha-512"] != lines["beta"]

    @pytest.mark.parametrize(
        "body", [{"name": "alpha"}, {"model": "", "name": "alpha"}, {"model": "alpha", "name": "x"}]
    )
    async def test_the_old_key(self, ask: Ask, body: dict) -> None:
        assert (await ask.post("/api/show", body)).status == 200

    async def test_loads_nothing(self, ask: Ask) -> None:
        await ask.post("/api/show", {"model": "alpha"})
        assert await ask.names() == []


class TestOpenAIModels:
    async def test_all(self, ask: Ask) -> None:
        answer = await ask.get("/v1/models")
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert answer.json["object"] == "list"
        assert {entry["id"] for entry in answer.json["data"]} >= {f"{name}:latest" for name in MODELS}
        assert all(list(entry) == ["id", "object", "created", "owned_by"] for entry in answer.json["data"])

    async def test_one(self, ask: Ask) -> None:
        answer = await ask.get("/v1/models/alpha")
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert (answer.json["id"], answer.json["object"]) == ("alpha", "model")

    async def test_none(self, ask: Ask) -> None:
        answer = await ask.get("/v1/models/nope")
        text = '{"error":{"message":"model \'nope\' not found","type":"api_error","param":null,"code":null}}\n'
        assert (answer.status, answer.text) == (404, text)


class TestCopyAndDelete:
    async def test_a_copy_shares_the_runner_and_is_deleted(self, ask: Ask) -> None:
        copied = await ask.post("/api/copy", {"source": "alpha", "destination": "copy"})
        assert (copied.status, copied.body) == (200, b"")
        await ask.generate("copy")
        await ask.generate("alpha")
        assert await ask.names() == ["copy:latest"]
        await ask.unload_all()
        deleted = await ask.send("DELETE", "/api/delete", {"model": "copy"})
        assert (deleted.status, deleted.body) == (200, b"")
        assert (await ask.generate("copy")).status == 404

    @pytest.mark.parametrize(
        ("body", "status", "error"),
        [
            (None, 400, "missing request body"),
            ({}, 400, 'source "" is invalid'),
            ({"source": "alpha"}, 400, 'destination "" is invalid'),
            ({"source": "alpha", "destination": "a b"}, 400, 'destination "a b" is invalid'),
            ({"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ],
    )
    async def test_refused_copies(self, ask: Ask, body: dict | None, status: int, error: str) -> None:
        answer = await ask.post("/api/copy", body)
        assert (answer.status, answer.json) == (status, {"error": error})

    @pytest.mark.parametrize(
        ("body", "status", "error"),
        [
            (None, 400, "missing request body"),
            ({}, 400, 'name "" is invalid'),
            ({"model": "a b"}, 400, 'name "a b" is invalid'),
            ({"model": "nope"}, 404, "model 'nope' not found"),
            ({"name": "nope"}, 404, "model 'nope' not found"),
        ],
    )
    async def test_refused_deletions(self, ask: Ask, body: dict | None, status: int, error: str) -> None:
        answer = await ask.send("DELETE", "/api/delete", body)
        assert (answer.status, answer.json) == (status, {"error": error})
