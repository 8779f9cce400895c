"""Names that only the config knows: listed where clients look for models, understood wherever one is asked for."""

import json
import logging
from typing import Any

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Route, Server
from tests.e2e.conftest import MODELS as CONFIGURED
from tests.e2e.conftest import Client, configured, settings


@pytest.fixture
async def exposing(ollama: Client):
    async with configured(ollama, CONFIGURED, expose_aliases=True) as proxy:
        yield proxy


def listed(entries: list[dict]) -> list[str]:
    """In an order of their own: Ollama's is by chance where models were made in the same second."""
    return sorted(map(str, entries))


def without(entry: dict, *fields: str) -> dict:
    return {name: value for name, value in entry.items() if name not in fields}


async def test_tags_list_them_beside_ollamas_own(exposing: Client, ollama: Client) -> None:
    direct = (await ollama.get("/api/tags"))[1]["models"]
    through = (await exposing.get("/api/tags"))[1]["models"]
    assert listed(through[: len(direct)]) == listed(direct)
    added = {entry["name"]: entry for entry in through[len(direct) :]}
    assert list(added) == ["first", "team/second:v1"]  # what Ollama does not have is not offered
    alpha = next(entry for entry in direct if entry["name"] == "alpha:latest")
    assert without(added["first"], "name", "model") == without(alpha, "name", "model")
    assert added["first"]["model"] == "first"


async def test_v1_models_lists_them_too(exposing: Client, ollama: Client) -> None:
    direct = (await ollama.get("/v1/models"))[1]["data"]
    through = (await exposing.get("/v1/models"))[1]
    assert through["object"] == "list"
    assert listed(through["data"][: len(direct)]) == listed(direct)
    assert [entry["id"] for entry in through["data"][len(direct) :]] == ["first", "team/second:v1"]
    beta = next(entry for entry in direct if entry["id"] == "beta:latest")
    assert without(through["data"][-1], "id") == without(beta, "id")


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models"])
async def test_nothing_is_listed_unless_asked_for(proxy: Client, ollama: Client, path: str) -> None:
    key = {"/api/tags": "models", "/v1/models": "data"}[path]
    through, direct = (await proxy.get(path))[1], (await ollama.get(path))[1]
    assert listed(through[key]) == listed(direct[key])


async def shown(by: Client, **asked: str) -> dict[str, Any]:
    """What /api/show says, without the order of the parameters, which is random."""
    status, answer = await by.post("/api/show", asked)
    assert status == 200
    return answer | {text: sorted(answer[text].splitlines()) for text in ("modelfile", "parameters")}


@pytest.mark.parametrize("field", ["model", "name", "MODEL"])
@pytest.mark.parametrize("name", ["first", "First:latest"])
async def test_show(proxy: Client, ollama: Client, field: str, name: str) -> None:
    assert await shown(proxy, **{field: name}) == await shown(ollama, model="alpha")


@pytest.mark.parametrize(("name", "path"), [("first", "first"), ("team/second:v1", "team%2Fsecond:v1")])
async def test_one_of_v1(proxy: Client, ollama: Client, name: str, path: str) -> None:
    ollama_name = CONFIGURED[name].ollama_name
    direct, through = await ollama.get(f"/v1/models/{ollama_name}"), await proxy.get(f"/v1/models/{path}")
    assert direct[0] == through[0] == 200
    assert through[1] == direct[1] | {"id": name}


async def test_a_name_without_a_model_is_answered_as_ollama_does(exposing: Client, ollama: Client) -> None:
    missing = {"error": "model 'never-pulled' not found"}
    assert await exposing.post("/api/show", {"model": "gone"}) == (404, missing)
    assert (await exposing.get("/v1/models/gone"))[0] == (await ollama.get("/v1/models/never-pulled"))[0] == 404


async def test_a_name_of_the_config_whose_model_is_missing(proxy: Client) -> None:
    """Only the proxy knows what is to be pulled."""
    cure = "not found: Ollama does not have it; get it with: ollama pull never-pulled"
    assert await proxy.generate("gone") == (404, {"error": f"model 'gone' {cure}"})
    chat = {"model": "gone", "messages": [{"role": "user", "content": "x"}]}
    assert await proxy.post("/api/chat", chat) == (404, {"error": f'model "gone" {cure}'})
    status, answer = await proxy.post("/v1/chat/completions", chat)
    assert (status, answer["error"]["message"]) == (404, f'model "gone" {cure}')
    assert await proxy.generate("never-pulled") == (404, {"error": "model 'never-pulled' not found"})


@pytest.fixture
async def routing(ollama: Client):
    chosen = settings(ollama.url, expose_aliases=True)
    rules = (Route(model="embedder", is_embedding=True), Route(model=("gone", "first", "team/second:v1")))
    async with running(msgspec.structs.replace(chosen, routes={"auto": rules})) as up:
        yield Client(ollama.session, up.url)


async def test_virtual_models_are_offered_as_what_any_request_gets(routing: Client, ollama: Client) -> None:
    tags = {entry["name"]: entry for entry in (await routing.get("/api/tags"))[1]["models"]}
    assert tags["auto"]["digest"] == tags["alpha:latest"]["digest"]  # the first of the last rule that there is
    assert "auto" in [entry["id"] for entry in (await routing.get("/v1/models"))[1]["data"]]
    auto, alpha = await shown(routing, model="Auto"), await shown(ollama, model="alpha")
    assert without(auto, "capabilities") == without(alpha, "capabilities")
    assert auto["capabilities"] == ["completion", "embedding"]  # whatever any of its models can do


async def test_lists_while_ollama_is_away(session: aiohttp.ClientSession, unused_tcp_port: int) -> None:
    away = settings(f"http://127.0.0.1:{unused_tcp_port}", expose_aliases=True)
    async with running(away) as up:
        status, answer = await Client(session, up.url).get("/api/tags")
        assert (status, "Ollama is not reachable" in answer["error"]) == (502, True)


@pytest.mark.parametrize(
    "name", ["evil\nlevel=info fake", "\x1b[31mred", "nul\0", "x" * 5000, "line\u2028break", "\ud800"]
)
async def test_odd_names_reach_neither_log_nor_labels(
    ollama: Client, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="swapper_proxy")
    small = msgspec.structs.replace(settings(ollama.url), server=Server(port=0, max_body_bytes=20_000))
    async with running(small) as up:
        proxy = Client(ollama.session, up.url)
        for path in ("/api/generate", "/v1/chat/completions", "/api/embed"):
            body = {"model": name, "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}
            assert await proxy.post(path, body) == await ollama.post(path, body)
        metrics = (await proxy.get("/metrics"))[1]
    logged = " ".join(str(record.__dict__) for record in caplog.records if record.name.startswith("swapper_proxy"))
    for text in (name, json.dumps(name)[1:-1], repr(name)[1:-1]):
        assert text not in metrics
        assert text not in logged
