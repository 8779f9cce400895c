"""What Ollama says may be wrong, absurd or too much: it concerns the one thing that it is about, and nothing else."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.config import ClientKey, History, Keys, Swapper, digest
from swapper_proxy.runtime import ports, watcher
from tests.e2e.conftest import Client, is_in, until
from tests.e2e.lying import lying

COUNTS = ("load_duration", "prompt_eval_count", "eval_count", "eval_duration")
NUMBERS = ["9" * 900, "9" * 19, "1e30", "-5", "1.5", "null", '"x"']
ODD: list[Any] = [None, 5, {}, {"name": 5}, {"name": "a\nb", "model": "a"}, {"name": "odd", "size": "x", "digest": 5}]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("BUSY_S", "QUIET_S", "CATALOG_S"):
        monkeypatch.setattr(watcher, pause, 0.05)


# Numbers


def saying(number: str, stream: bool) -> web.Response:
    figures = ",".join(f'"{name}":{number}' for name in COUNTS)
    line = '{"model":"alpha","response":"x","done":false}\n' if stream else ""
    kind = "application/x-ndjson" if stream else "application/json"
    return web.Response(text=f'{line}{{"model":"alpha","response":"","done":true,{figures}}}\n', content_type=kind)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:20])
async def test_no_number_of_an_answer_breaks_anything(
    session: aiohttp.ClientSession, tmp_path: Path, number: str, stream: bool
) -> None:
    history = History(path=str(tmp_path / "history.sqlite"))
    async with lying(session, history=history) as (proxy, _, lies):
        lies["/api/generate"] = lambda asked, _: saying(number, stream) if asked.get("prompt") else None
        body = {"model": "alpha", "prompt": "x", "stream": stream}
        for _ in range(2):
            async with session.post(f"{proxy.url}/api/generate", json=body) as answer:
                assert (answer.status, await answer.text()) == (200, saying(number, stream).text)
        status, text = await proxy.get("/metrics")
        assert (status, len(list(text_string_to_metric_families(text))) > 20) == (200, True)
        assert await proxy.metric("swapper_model_requests_total", model="first", status="200") == 2
        assert await proxy.metric("swapper_generated_tokens_total") == 0
        assert await proxy.metric("swapper_upstream_reloads_total") == 0
        assert (await proxy.get("/models/first"))[1]["request_count"] == 2

        async def kept() -> bool:
            return len((await proxy.get("/history/requests"))[1]["requests"]) == 2

        await until(kept)
        assert (await proxy.get("/history/usage"))[1]["usage"][0]["generated_tokens"] == 0


# Lists, and what is shown of a model


async def follows(proxy: Client, direct: Client) -> None:
    """The proxy sees what is loaded behind its back, serves, and unloads."""
    for one, other in (("beta", "alpha"), ("alpha", "beta")):
        assert (await direct.generate(one))[0] == 200
        await is_in(proxy, one, "loaded")
        await is_in(proxy, other, "unloaded")
        assert (await proxy.generate(other))[0] == 200
        await is_in(proxy, one, "unloaded")


def among_odd_ones(_: Any, truth: Any) -> Any:
    return {"models": [*ODD, *truth["models"], *ODD]}


def with_odd_fields(_: Any, truth: Any) -> Any:
    odd = {"size": 10**900, "size_vram": "x", "digest": None, "modified_at": 5, "remote_host": 5, "details": "x"}
    return {"models": [entry | odd for entry in truth["models"]]}


@pytest.mark.parametrize("lie", [among_odd_ones, with_odd_fields])
@pytest.mark.parametrize("path", ["/api/ps", "/api/tags"])
async def test_odd_entries_of_lists(session: aiohttp.ClientSession, path: str, lie: Any) -> None:
    async with lying(session) as (proxy, direct, lies):
        lies[path] = lie
        await follows(proxy, direct)
        models = (await proxy.get("/models"))[1]["models"]
        assert all(model["size_gb"] is None or model["size_gb"] < 10 for model in models)
        assert (await proxy.get("/metrics"))[0] == 200
        assert (await proxy.get("/health"))[1]["status"] == "healthy"


NESTED = '{"model_info":{"general.architecture":"x","x.attention.head_count":' + "[" * 600 + "]" * 600 + "}}"
SHOWN: dict[str, Any] = {
    "an error": web.Response,
    "no JSON": lambda: web.Response(text="<html>"),
    "too much": lambda: web.Response(body=b" " * (17 << 20)),
    "no object": lambda: web.json_response([1]),
    "nested deeply": lambda: web.Response(text=NESTED, content_type="application/json"),
    "odd fields": lambda: web.json_response({"parameters": 5, "capabilities": "x", "modelfile": {}, "modified_at": 1}),
}


@pytest.mark.parametrize("kind", SHOWN)
async def test_one_model_that_cannot_be_shown(session: aiohttp.ClientSession, kind: str, caplog) -> None:
    def show(asked: Any, _: Any) -> Any:
        if not asked["model"].startswith("alpha"):
            return None
        return web.Response(status=500) if kind == "an error" else SHOWN[kind]()

    async with lying(session, {"/api/show": show}) as (proxy, direct, lies):
        assert (await direct.generate("alpha"))[0] == 200
        await follows(proxy, direct)
        assert (await proxy.get("/health"))[1]["status"] == "healthy"
        warned = [r for r in caplog.records if "does not show it" in r.getMessage()]
        assert len(warned) == (kind not in ("odd fields", "nested deeply"))
        del lies["/api/show"]
        await follows(proxy, direct)


async def test_a_list_of_models_that_is_refused_hides_nothing_in_memory(session: aiohttp.ClientSession, caplog):
    async with lying(session) as (proxy, direct, lies):
        await follows(proxy, direct)
        lies["/api/tags"] = lambda *_: web.json_response({"error": "x"}, status=500)
        await follows(proxy, direct)

        async def told() -> bool:
            return "its models cannot be seen" in caplog.text

        await until(told)
        await follows(proxy, direct)
        assert caplog.text.count("cannot be seen") == 1


async def test_what_is_no_list_is_told_of_once(session: aiohttp.ClientSession, caplog) -> None:
    asked = 0

    def no_list(*_: Any) -> Any:
        nonlocal asked
        asked += 1
        return {"models": "x"}

    async with lying(session) as (proxy, direct, lies):
        assert (await proxy.generate("alpha"))[0] == 200
        lies["/api/ps"] = no_list

        async def often() -> bool:
            return asked > 10

        await until(often)
        assert caplog.text.count("cannot be seen") == 1
        assert (await proxy.generate("alpha"))[0] == 200
        del lies["/api/ps"]
        await follows(proxy, direct)


async def test_names_are_offered_among_odd_entries(session: aiohttp.ClientSession) -> None:
    """To a key that may not use all models, too: what cannot be read is not shown to it."""
    keys = Keys(clients={"ann": ClientKey(key_sha256=digest("sk-ann"), models=("first",))})
    for settings in ({}, {"keys": keys}):
        async with lying(session, swapper=Swapper(expose_aliases=True), **settings) as (proxy, _, lies):
            lies["/api/tags"] = among_odd_ones
            lies["/v1/models"] = lambda _, truth: {"data": [*ODD, *truth["data"], {"id": 5}, "x"]}
            for path, key, field in (("/api/tags", "models", "name"), ("/v1/models", "data", "id")):
                status, answer = await proxy.get(path, Authorization="Bearer sk-ann")
                assert status == 200
                names = [entry.get(field) for entry in answer[key] if isinstance(entry, dict)]
                assert "first" in names
                assert ("beta:latest" in names) is not bool(settings)
                assert (len(answer[key]) > 4) is not bool(settings)


async def test_a_list_that_is_too_long_to_be_edited(session: aiohttp.ClientSession, monkeypatch) -> None:
    async with lying(session, swapper=Swapper(expose_aliases=True)) as (proxy, direct, lies):
        lies["/v1/models"] = lambda *_: web.Response(body=b" " * (ports.MOST_WHOLE_BYTES + 1))
        status, answer = await proxy.get("/v1/models")
        assert (status, answer["error"]["code"]) == (502, "upstream_unreachable")
        assert "is longer than" in answer["error"]["message"]
        await follows(proxy, direct)


# Loads


@pytest.mark.parametrize("status", [499, 520, 599])
async def test_a_load_that_fails_with_any_status(session: aiohttp.ClientSession, status: int) -> None:
    async with lying(session) as (proxy, _, lies):
        lies["/api/generate"] = lambda *_: web.json_response({"error": "x"}, status=status)
        assert await proxy.generate("alpha") == (status, {"error": "x"})
        answer = await proxy.post("/v1/chat/completions", {"model": "beta", "messages": [{"role": "user"}]})
        assert (answer[0], answer[1]["error"]["message"]) == (status, "x")


@pytest.mark.parametrize("status", [204, 302, 600])
async def test_what_is_no_answer_to_a_load(session: aiohttp.ClientSession, status: int) -> None:
    async with lying(session) as (proxy, _, lies):
        lies["/api/generate"] = lambda *_: web.Response(status=status)
        assert (await proxy.generate("alpha"))[0] == 503
        del lies["/api/generate"]
        assert (await proxy.generate("beta"))[0] == 200


async def test_an_error_without_end(session: aiohttp.ClientSession) -> None:
    async with lying(session) as (proxy, _, lies):
        lies["/api/generate"] = lambda *_: web.Response(status=500, body=b'{"error":' + b"[" * 50_000)
        status, answer = await proxy.post("/v1/chat/completions", {"model": "beta", "messages": [{"role": "user"}]})
        assert (status, answer["error"]["code"]) == (500, "load_failed")
        assert len(answer["error"]["message"]) > 50_000
        lies["/api/generate"] = lambda *_: web.json_response({"error": "x" * 70_000}, status=500)
        assert (await proxy.generate("alpha"))[0] == 503
