"""Keys, in front of the real Ollama: who is let in, how far, and that nobody else gets to see a key."""

import asyncio
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import (
    ClientKey,
    History,
    Keys,
    ManagementKey,
    Model,
    Route,
    Server,
    Swapper,
    Upstream,
    digest,
)
from swapper_proxy.core.errors import ProxyError, Rejection
from swapper_proxy.web.endpoints import ENDPOINTS
from swapper_proxy.web.keys import check_read_only
from tests.e2e.conftest import Client, at_rest, busy, settings, until, waits
from tests.e2e.process import served
from tests.e2e.test_openapi import SERVED, Description
from tests.real.server import OllamaServer, free_port

ANN, BOB, OPERATOR, WATCHER = "sk-ann-1", "sk-bob-2", "sk-operator-3", "sk-watcher-4"
MANAGEMENT = {
    "operator": ManagementKey(key_sha256=digest(OPERATOR)),
    "watcher": ManagementKey(key_sha256=digest(WATCHER), read_only=True),
}
GENERATE = {"model": "alpha", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Keyed(Client):
    """Sends a key, except where it is given another header for it."""

    key: str = ANN

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return await super().post(path, body, **(bearer(self.key) | headers))

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return await super().get(path, **(bearer(self.key) | headers))

    def stream(self, model: str, tokens: int) -> Any:
        body = {"model": model, "prompt": "x", "options": {"num_predict": tokens}}
        return self.session.post(f"{self.url}/api/generate", json=body, headers=bearer(self.key))

    def of(self, key: str) -> "Keyed":
        other = Keyed(self.session, self.url)
        other.key = key
        return other


@asynccontextmanager
async def keyed(
    ollama: Client,
    ann: Mapping[str, Any] | None = None,
    management: Mapping[str, ManagementKey] | None = None,
    **more: Any,
) -> AsyncIterator[Keyed]:
    """The proxy with the keys of Ann, who has these limits, and Bob, who has none."""
    clients = {
        "ann": ClientKey(key_sha256=digest(ANN), **(ann or {})),
        "bob": ClientKey(key_sha256=digest(BOB)),
    }
    keys = Keys(clients=clients, management=dict(management or {}))
    chosen = msgspec.structs.replace(settings(ollama.url), keys=keys, **more)
    async with running(chosen) as proxy:
        yield Keyed(ollama.session, proxy.url)


@asynccontextmanager
async def recorded(ollama: Client) -> AsyncIterator[tuple[Client, bytearray]]:
    """The real Ollama behind something that keeps all that is sent to it."""
    seen, host = bytearray(), ollama.url.removeprefix("http://").split(":")
    pumps = set[asyncio.Task[None]]()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray) -> None:
        try:
            while piece := await source.read(65536):
                kept += piece
                target.write(piece)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(host[0], int(host[1]))
        both = asyncio.gather(pump(reader, forth, seen), pump(back, writer, bytearray()))
        pumps.add(both)  # type: ignore[arg-type]
        await both

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield Client(ollama.session, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), seen
    finally:
        server.close()
        await asyncio.gather(*pumps, return_exceptions=True)


# Who is let in


@pytest.mark.parametrize("headers", [{}, bearer("sk-nobody"), {"x-api-key": ""}, bearer(ANN) | {"x-api-key": ANN}])
async def test_without_a_key_of_its_own_nobody_is_let_in(ollama: Client, headers: dict[str, str]) -> None:
    async with keyed(ollama) as proxy:
        told = {}
        for path, body in (("/api/generate", GENERATE), ("/v1/chat/completions", CHAT), ("/v1/messages", CHAT)):
            async with proxy.session.post(proxy.url + path, json=body, headers=headers) as answer:
                assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
                told[path] = await answer.json()
        message = told["/api/generate"]["error"]
        kind = {"message": message, "type": "authentication_error", "param": None}
        assert told["/v1/chat/completions"]["error"].items() >= kind.items()
        assert told["/v1/messages"]["error"] == {"type": "authentication_error", "message": message}
        for path in ("/", "/api/tags", "/api/version", "/v1/models", "/v1/models/alpha", "/nowhere"):
            async with proxy.session.get(proxy.url + path, headers=headers) as answer:
                assert answer.status == 401
        assert await ollama.resident() == []
        assert await proxy.metric("swapper_key_requests_total") == 0
        assert await proxy.metric("swapper_rejected_requests_total") == 9
        assert (await proxy.get("/queue"))[0] == 200  # no keys for that


@pytest.mark.parametrize("headers", [bearer(ANN), {"x-api-key": ANN}, {"authorization": f"bearer {ANN}"}])
async def test_a_key_opens_all_routes_and_ollama_never_sees_it(ollama: Client, headers: dict[str, str]) -> None:
    async with recorded(ollama) as (upstream, seen), keyed(upstream) as proxy:
        bare = Client(proxy.session, proxy.url)
        for path, body in (
            ("/api/generate", GENERATE),
            ("/api/chat", {**CHAT, "model": "nobody"}),
            ("/v1/chat/completions", CHAT),
            ("/api/show", {"model": "first"}),
            ("/api/push", {"model": "nobody/x", "insecure": True}),
            ("/api/copy", {"source": "nobody", "destination": "x"}),
            ("/api/nowhere", {}),
        ):
            assert (await bare.post(path, body, **headers))[0] != 401
        for path in ("/", "/api/tags", "/api/ps", "/v1/models", "/v1/models/first"):
            assert (await bare.get(path, **headers))[0] == 200
        assert b"POST /api/push" in seen
        assert b"/v1/models/alpha" in seen
        assert ANN.encode() not in seen
        assert b"authorization" not in seen.lower()
        assert b"x-api-key" not in seen.lower()


async def test_without_keys_the_headers_are_ollamas(ollama: Client) -> None:
    """As it was, and also where only the management needs a key."""
    async with recorded(ollama) as (upstream, seen):
        chosen = msgspec.structs.replace(settings(upstream.url), keys=Keys(management=MANAGEMENT))
        async with running(chosen) as up:
            proxy = Client(ollama.session, up.url)
            assert (await proxy.post("/api/generate", GENERATE, **bearer("sk-of-ollama")))[0] == 200
    assert b"Authorization: Bearer sk-of-ollama\r\n" in seen


async def test_a_key_is_shown_nowhere(ollama: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    history = History(path=str(tmp_path / "history.sqlite"))
    async with keyed(ollama, {"per_minute": 3}, MANAGEMENT, history=history) as proxy:
        operator, told = proxy.of(OPERATOR), []
        async with proxy.session.get(proxy.url + "/events", headers=bearer(WATCHER)) as events:
            told.append(await proxy.post("/api/generate", GENERATE))
            told.append(await proxy.post("/api/generate", {**GENERATE, "options": {"num_predict": "x"}}))
            told.append(await proxy.post("/v1/chat/completions", {**CHAT, "model": "nobody"}))
            told.append(await proxy.post("/api/generate", GENERATE))
            told.append(await proxy.of("sk-nobody").post("/api/generate", GENERATE))
            told.append(await operator.post("/api/generate", GENERATE))
            told.append(await proxy.get("/status"))
            assert [status for status, _ in told] == [200, 500, 404, 429, 401, 401, 401]
            await until(lambda: has_kept(operator))
            for page in ("config", "status", "models", "queue", "metrics", "openapi.json", "history/requests"):
                status, answer = await operator.get(f"/{page}")
                assert status == 200
                told.append(answer)
            while b"rate_limited" not in (happened := await events.content.readuntil(b"\n\n")):
                told.append(happened)
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"first" in kept
    shown = f"{told}{caplog.text}{[vars(record) for record in caplog.records]}{kept!r}"
    assert "ann" in {getattr(record, "key", "") for record in caplog.records}
    for key in (ANN, OPERATOR, WATCHER, "sk-nobody"):
        assert key not in shown
        assert digest(key) not in shown


async def has_kept(proxy: Client) -> bool:
    return len((await proxy.get("/history/requests"))[1]["requests"]) >= 1


@pytest.mark.parametrize("header", ["Authorization: Bearer KEY\0", "x-api-key KEY", "x-api-key: \r\n KEY", "KEY"])
async def test_nor_a_key_in_a_request_that_is_none(
    ollama: Client, caplog: pytest.LogCaptureFixture, header: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with keyed(ollama) as proxy:
        host, port = proxy.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /api/tags HTTP/1.1\r\nHost: x\r\n{header.replace('KEY', ANN)}\r\n\r\n".encode())
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert line.split()[1] == b"400"
    assert ANN not in f"{caplog.text}{[vars(record) for record in caplog.records]}"


async def test_a_refused_request_is_logged_with_the_name_of_its_key(
    ollama: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with keyed(ollama, {"models": ("beta",)}) as proxy:
        await proxy.post("/api/generate", GENERATE)
        await proxy.of("sk-nobody").post("/api/generate", GENERATE)
    refused = [r for r in caplog.records if r.message == "refused"]
    assert [(vars(r)["key"], vars(r)["address"], vars(r)["code"]) for r in refused] == [
        ("ann", "127.0.0.1", "model_not_allowed"),
        ("", "127.0.0.1", "invalid_api_key"),
    ]


async def test_requests_are_counted_by_key(ollama: Client) -> None:
    async with keyed(ollama, {"models": ("alpha",)}) as proxy:
        for key, model in ((ANN, "alpha"), (ANN, "beta"), (BOB, "alpha"), (BOB, "nobody")):
            await proxy.of(key).generate(model)
        name = "swapper_key_requests_total"
        for key, status in (("ann", 200), ("ann", 403), ("bob", 200), ("bob", 404)):
            assert await proxy.metric(name, key=key, status=str(status)) == 1
        assert await proxy.metric(name) == 4


async def test_pages_of_other_origins_ask_for_leave_without_a_key(ollama: Client) -> None:
    server = Server(port=0, cors_origins=("https://app.example.com",))
    async with keyed(ollama, management=MANAGEMENT, server=server) as proxy:
        origin = {"Origin": "https://app.example.com"}
        for path in ("/api/chat", "/models"):
            asked = origin | {"Access-Control-Request-Headers": "authorization"}
            async with proxy.session.options(proxy.url + path, headers=asked) as answer:
                assert (answer.status, answer.headers["Access-Control-Allow-Headers"]) == (204, "authorization")
            async with proxy.session.get(proxy.url + path, headers=origin) as answer:
                told = answer.headers["Access-Control-Allow-Origin"]
                assert (answer.status, told) == (401, "https://app.example.com")


# Which models

ALIASES = {"mine": ("alpha",), "any of mine": ("alp*",), "as configured": ("first",)}


@pytest.mark.parametrize("models", ALIASES.values(), ids=ALIASES)
async def test_some_models_only_however_they_are_called(ollama: Client, models: tuple[str, ...]) -> None:
    routes = {"auto": (Route(model="gamma", has_tools=True), Route(model="alpha")), "theirs": (Route(model="beta"),)}
    async with keyed(ollama, {"models": models}, routes=routes) as proxy:
        for name in ("alpha", "ALPHA:latest", "library/alpha", "registry.ollama.ai/library/alpha", "first", "auto"):
            assert (await proxy.generate(name))[0] == 200
        assert (await proxy.post("/v1/chat/completions", {**CHAT, "metadata": {"use_llm": "first"}}))[0] == 200
        tools = [{"type": "function", "function": {"name": "x", "description": "x"}}]
        for path, body in (
            *(("/api/generate", {**GENERATE, "model": name}) for name in ("beta", "Beta:latest", "team/second:v1")),
            ("/api/generate", {**GENERATE, "model": "theirs"}),
            ("/api/generate", {**GENERATE, "metadata": {"use_llm": "beta"}}),
            ("/api/generate", {**GENERATE, "Model": "beta"}),
            ("/api/generate", {**GENERATE, "model": "nobody"}),
            ("/api/generate", {"prompt": "x"}),
            ("/api/generate", {"model": "beta", "prompt": 5}),
            ("/api/generate", {"model": "beta", "keep_alive": 0}),
            ("/api/generate", "beta"),
            ("/api/chat", {**CHAT, "model": "auto", "tools": tools}),
            ("/api/embed", {"model": "embedder", "input": "x"}),
            ("/api/embeddings", {"model": "embedder", "prompt": "x"}),
            ("/v1/chat/completions", {**CHAT, "model": "beta"}),
            ("/v1/completions", {"model": "beta", "prompt": "x"}),
            ("/v1/embeddings", {"model": "embedder", "input": "x"}),
            ("/v1/messages", {**CHAT, "model": "beta"}),
            ("/v1/responses", {"model": "beta", "input": "x"}),
        ):
            assert (await proxy.post(path, body))[0] == 403, (path, body)
        assert await ollama.resident() == ["alpha:latest"]


async def test_what_is_asked_about_other_models_is_refused_too(ollama: Client) -> None:
    async with keyed(ollama, {"models": ("alpha", "mine/*")}) as proxy:
        for name in ("alpha", "first", "library/alpha:latest"):
            assert (await proxy.post("/api/show", {"model": name}))[0] == 200
        assert (await proxy.get("/v1/models/first"))[0] == 200
        for path, body in (
            ("/api/show", {"model": "beta"}),
            ("/api/show", {"name": "beta"}),
            ("/api/show", {"model": "team/second:v1"}),
            ("/api/show", "beta"),
            ("/api/copy", {"source": "beta", "destination": "mine/b"}),
            ("/api/copy", {"source": "alpha", "destination": "gamma"}),
            ("/api/copy", {"source": "first", "destination": "mine/b"}),
            ("/api/pull", {"model": "gamma"}),
            ("/api/push", {"name": "gamma"}),
            ("/api/create", {"model": "mine/b", "from": "beta"}),
            ("/api/create", {"model": "mine/b", "modelfile": "FROM beta"}),
            ("/api/create", {"model": "beta", "from": "alpha"}),
            ("/api/pull", {}),
            ("/api/anything", {"model": "alpha"}),
        ):
            assert (await proxy.post(path, body))[0] == 403, (path, body)
        async with proxy.session.delete(proxy.url + "/api/delete", json={"model": "beta"}, headers=bearer(ANN)) as told:
            assert told.status == 403
        assert (await proxy.post("/api/pull", "x"))[0] == 400
        for path in ("/v1/models/beta", "/v1/models/team/second:v1", "/api/nowhere"):
            assert (await proxy.get(path))[0] == 403
        assert "mine/b" not in str(await ollama.get("/api/tags"))


async def test_a_name_of_the_settings_means_another_model_to_ollama(ollama: Client) -> None:
    """Where the proxy does not put Ollama's name in its place."""
    async with keyed(ollama, {"models": ("first",)}) as proxy:
        assert (await proxy.post("/api/show", {"model": "first"}))[0] == 200
        assert (await proxy.post("/api/push", {"model": "first"}))[0] == 403
        assert (await proxy.post("/api/copy", {"source": "alpha", "destination": "first"}))[0] == 403


async def test_lists_show_what_may_be_used(ollama: Client) -> None:
    async with keyed(ollama, {"models": ("alpha", "beta")}) as proxy:
        await proxy.of(BOB).generate("gamma")
        everything = [model["name"] for model in (await proxy.of(BOB).get("/api/tags"))[1]["models"]]
        assert {"alpha:latest", "beta:latest", "gamma:latest"} < set(everything)
        listed = [model["name"] for model in (await proxy.get("/api/tags"))[1]["models"]]
        assert sorted(listed) == ["alpha:latest", "beta:latest"]
        listed = [model["id"] for model in (await proxy.get("/v1/models"))[1]["data"]]
        assert sorted(listed) == ["alpha:latest", "beta:latest"]
        assert await proxy.of(BOB).resident() == ["gamma:latest"]
        assert await proxy.resident() == []


async def test_models_of_ones_own_can_be_made(ollama: Client) -> None:
    async with keyed(ollama, {"models": ("alpha", "mine/*")}) as proxy:
        try:
            assert (await proxy.post("/api/copy", {"source": "alpha", "destination": "mine/a"}))[0] == 200
            assert (await proxy.generate("mine/a"))[0] == 200
        finally:
            await proxy.post("/api/generate", {"model": "mine/a", "keep_alive": 0})
            async with ollama.session.delete(
                proxy.url + "/api/delete", json={"model": "mine/a"}, headers=bearer(ANN)
            ) as answer:
                assert answer.status == 200


# How much


async def test_too_many_waiting(ollama: Client) -> None:
    async with keyed(ollama, {"concurrent": 9, "queued": 1}) as proxy, busy(proxy, "alpha"):
        waiter = asyncio.ensure_future(proxy.generate("beta"))
        await waits(proxy, 1)
        for model in ("beta", "gamma"):
            body = {**CHAT, "model": model}
            async with proxy.session.post(proxy.url + "/v1/chat/completions", json=body, headers=bearer(ANN)) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
                assert (await answer.json())["error"] == {
                    "message": "too many requests of this key wait (limit 1)",
                    "type": "rate_limit_error",
                    "param": None,
                    "code": "too_many_queued",
                }
        other = asyncio.ensure_future(proxy.of(BOB).generate("beta"))
        await waits(proxy, 2)
        for each in (waiter, other):
            each.cancel()
        await asyncio.gather(waiter, other, return_exceptions=True)


async def test_who_may_not_wait_is_served_from_memory(ollama: Client) -> None:
    async with keyed(ollama, {"concurrent": 1, "queued": 0}) as proxy:
        assert (await proxy.generate("alpha"))[0] == 429  # it would wait for the load
        await proxy.of(BOB).generate("alpha")
        for _ in range(3):
            assert (await proxy.generate("alpha"))[0] == 200


async def test_too_many_at_once(ollama: Client) -> None:
    async with keyed(ollama, {"concurrent": 1}) as proxy, busy(proxy, "alpha"):
        async with proxy.session.post(proxy.url + "/api/chat", json=CHAT, headers=bearer(ANN)) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            assert await answer.json() == {"error": "too many requests of this key at once (limit 1)"}
        assert (await proxy.get("/api/tags"))[0] == 429
        assert (await proxy.of(BOB).generate("alpha"))[0] == 200


async def test_who_waits_for_an_ollama_that_is_away_waits_too(ollama: Client) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    away, upstream = Client(ollama.session, url), Upstream(url=url, grace=3600)
    async with keyed(away, {"queued": 1}, upstream=upstream, swapper=Swapper(max_queue=2)) as proxy:
        asking = [asyncio.ensure_future(proxy.generate("new"))]
        await waits(proxy, 1)
        assert (await proxy.generate("new"))[1]["error"] == "too many requests of this key wait (limit 1)"
        asking.append(asyncio.ensure_future(proxy.of(BOB).generate("new")))
        await waits(proxy, 2)
        assert (await proxy.get("/queue"))[1]["waiting"] == 2
        status, answer = await proxy.of(BOB).generate("newer")
        told = "the queue is full, please try again later; Ollama is not reachable: nothing listens at "
        assert (status, answer["error"].startswith(told)) == (503, True)
        assert await proxy.metric("swapper_rejected_requests_total", reason="queue_full") == 1
        for each in asking:
            each.cancel()
        await at_rest(proxy)


async def test_who_leaves_makes_room(ollama: Client) -> None:
    async with keyed(ollama, {"concurrent": 2, "queued": 1}) as proxy:
        for _ in range(3):
            async with busy(proxy, "alpha"):
                waiter = asyncio.ensure_future(proxy.generate("beta"))
                await waits(proxy, 1)
                waiter.cancel()
                await asyncio.gather(waiter, return_exceptions=True)
            await at_rest(proxy)
        assert (await proxy.generate("beta"))[0] == 200


async def test_one_clients_many_requests_do_not_stand_before_anothers_first(ollama: Client) -> None:
    async with keyed(ollama, swapper=Swapper(parallel=1)) as proxy:
        order: list[str] = []

        async def ask(name: str, key: str) -> None:
            assert (await proxy.of(key).generate("alpha", 1))[0] == 200
            order.append(name)

        asking = []
        async with busy(proxy.of(BOB), "alpha"):
            for name, key in (*(("ann", ANN) for _ in range(6)), ("bob", BOB)):
                asking.append(asyncio.ensure_future(ask(name, key)))
                await waits(proxy, len(asking))
        await asyncio.gather(*asking)
        assert order.index("bob") <= 1


async def test_requests_in_a_minute(ollama: Client) -> None:
    async with keyed(ollama, {"per_minute": 2}) as proxy:
        assert [(await proxy.get("/api/version"))[0] for _ in range(3)] == [200, 200, 429]
        async with proxy.session.post(proxy.url + "/v1/messages", json=CHAT, headers={"x-api-key": ANN}) as answer:
            assert answer.status == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 30
            assert (await answer.json())["error"]["type"] == "rate_limit_error"
        assert (await proxy.of(BOB).get("/api/version"))[0] == 200


@pytest.mark.parametrize(
    ("highest", "asked", "priority"),
    [("low", "high", "low"), ("medium", "", "medium"), ("high", "", "high"), ("medium", "low", "low")],
)
async def test_no_higher_priority(ollama: Client, highest: str, asked: str, priority: str) -> None:
    """The model's own is high."""
    headers = {"X-Swapper-Priority": asked} if asked else {}
    async with keyed(ollama, {"max_priority": highest}) as proxy, busy(proxy, "beta"):
        waiter = asyncio.ensure_future(proxy.post("/api/generate", {**GENERATE, "model": "first"}, **headers))
        await waits(proxy, 1)
        assert [request["priority"] for request in await proxy.waiting()] == [priority]
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)


# The management

PAGES = ("status", "queue", "models", "models/first", "metrics", "metrics/first", "config", "openapi.json", "events")


@pytest.mark.parametrize("headers", [{}, bearer(ANN), bearer("sk-nobody"), bearer(OPERATOR) | {"x-api-key": OPERATOR}])
async def test_the_management_needs_its_own_key(ollama: Client, headers: dict[str, str]) -> None:
    async with keyed(ollama, management=MANAGEMENT) as proxy:
        calls = [("GET", page) for page in (*PAGES, "history/requests", "history/usage")]
        calls += [("POST", f"models/first/{action}") for action in ("load", "unload", "pin", "unpin")]
        for method, path in (*calls, ("HEAD", "metrics"), ("DELETE", "config"), ("POST", "events")):
            async with proxy.session.request(method, f"{proxy.url}/{path}", headers=headers) as answer:
                assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
                if method != "HEAD":
                    assert (await answer.json())["status"] == "error"
        for path in ("health", "ready", "ui", "ui/", "ui/app.js"):
            async with proxy.session.get(f"{proxy.url}/{path}", headers=headers) as answer:
                assert answer.status == 200
        async with proxy.session.get(f"{proxy.url}/health", headers=headers) as answer:
            assert await answer.json() == {"status": "healthy"}
        assert await ollama.resident() == []


async def test_a_key_that_only_reads(ollama: Client) -> None:
    async with keyed(ollama, management=MANAGEMENT) as proxy:
        operator, watcher = proxy.of(OPERATOR), proxy.of(WATCHER)
        for known in (operator, watcher):
            told = {"status": "healthy", "service": "swapper-service", "active_model": None, "mode": "single-active"}
            assert await known.get("/health") == (200, told)
        for page in PAGES[:-1]:
            assert (await watcher.get(f"/{page}"))[0] == 200
        for action in ("load", "unload", "pin", "unpin"):
            status, answer = await watcher.post(f"/models/first/{action}")
            assert (status, answer["error"]["code"]) == (403, "read_only")
        assert await ollama.resident() == []
        assert (await operator.post("/models/first/load"))[0] == 200
        assert (await watcher.post("/api/generate", GENERATE))[0] == 401
        shown = (await watcher.get("/config"))[1]["keys"]
        assert shown["clients"].keys() == {"ann", "bob"}
        assert {key["key_sha256"] for kind in shown.values() for key in kind.values()} == {None}


async def test_what_the_description_says_of_keys(ollama: Client) -> None:
    async with keyed(ollama, management=MANAGEMENT) as proxy:
        served = (await proxy.of(WATCHER).get("/openapi.json"))[1]
        description = Description(served)
        schemes = served["components"]["securitySchemes"]
        assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}
        assert schemes["api_key"] == {"type": "apiKey", "in": "header", "name": "x-api-key"}
        for method, path in sorted(SERVED):
            operation, url = served["paths"][path][method.lower()], proxy.url + path.format(name="first")
            async with proxy.session.request(method, url) as answer:
                assert answer.status == (401 if "security" in operation else 200), path
                description.check((method, path), answer.status, "application/json", await answer.json())
            if method == "POST":
                async with proxy.session.request(method, url, headers={"x-api-key": WATCHER}) as answer:
                    assert answer.status == 403
                    description.check((method, path), 403, "application/json", await answer.json())


# Models that stay as they are


async def test_read_only(ollama: Client) -> None:
    chosen = msgspec.structs.replace(settings(ollama.url), server=Server(port=0, read_only=True))
    async with recorded(ollama) as (upstream, seen):
        chosen = msgspec.structs.replace(chosen, upstream=Upstream(url=upstream.url))
        async with running(chosen) as up:
            proxy = Client(ollama.session, up.url)
            for name in ("pull", "push", "create", "copy", "blobs/sha256:0"):
                message = "models are not changed here (read_only)"
                assert await proxy.post(f"/api/{name}", {"model": "alpha"}) == (403, {"error": message})
            for method, path in (("DELETE", "delete"), ("HEAD", "blobs/sha256:0"), ("POST", "pul%6c")):
                url = aiohttp.client.URL(f"{proxy.url}/api/{path}", encoded=True)
                async with proxy.session.request(method, url, json={"model": "alpha"}) as answer:
                    assert answer.status == 403
            assert (await proxy.post("/api/show", {"model": "alpha"}))[0] == 200
            assert (await proxy.get("/api/tags"))[0] == 200
            assert (await proxy.generate("alpha"))[0] == 200
        assert b"delete" not in seen
        assert b"blobs" not in seen


def test_read_only_knows_all_routes_of_ollama(ollama_server: OllamaServer) -> None:
    """As it tells them in its log: each one asks or is refused."""
    routes = re.findall(r"\[GIN-debug\] (\w+) +(/\S*) +-->", ollama_server.log.read_text())
    changing = {(m, p) for m, p in routes if m not in ("GET", "HEAD") and p not in (*ENDPOINTS, "/api/show")}
    assert ("POST", "/api/pull") in changing
    for _, path in changing:
        with pytest.raises(ProxyError, match="models are not changed here"):
            check_read_only(path)


# Proxies in front


async def test_what_a_proxy_in_front_says(ollama: Client, caplog: pytest.LogCaptureFixture) -> None:
    told = {"X-Forwarded-For": "192.0.2.1, 198.51.100.7", "X-Forwarded-Host": "llm.local", "X-Forwarded-Proto": "https"}
    told |= {"X-Real-IP": "192.0.2.1", "Forwarded": "for=192.0.2.1"}
    wrong = {"X-Swapper-Priority": "urgent"}
    page = {"Origin": "https://llm.local"}
    addresses = []
    for trusted, status in ((("127.0.0.0/8",), 200), (("192.0.2.0/24",), 403), ((), 403)):
        async with recorded(ollama) as (upstream, seen):
            server = Server(port=0, trusted_proxies=trusted)
            async with running(msgspec.structs.replace(settings(upstream.url), server=server)) as up:
                proxy = Client(ollama.session, up.url)
                assert (await proxy.post("/api/generate", GENERATE, **told))[0] == 200
                assert (await proxy.get("/api/tags", **told))[0] == 200
                rebound = await proxy.post("/models/first/unload", **{"X-Forwarded-Host": "evil.example.com"})
                assert rebound[0] == (403 if status == 200 else 200)
                assert (await proxy.post("/api/generate", GENERATE, **wrong, **told))[0] == 400
                assert (await proxy.get("/api/tags", **page, **told))[0] == status
            addresses.append(vars(caplog.records[-1])["address"])
            assert b"orwarded" not in seen
            assert b"192.0.2.1" not in seen
    assert addresses == ["198.51.100.7", "127.0.0.1", "127.0.0.1"]


# The command line


async def command(*arguments: str, **environ: str) -> tuple[int, str]:
    """Exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "swapper_proxy", *arguments),
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    return process.returncode or 0, told.decode()


async def test_what_may_surprise_is_logged_at_the_start(ollama: Client, tmp_path: Path) -> None:
    file = tmp_path / "swapper.yaml"
    file.write_text(f"history: off\nkeys: {{clients: {{ann: {{key: {ANN}}}}}}}\n")
    async with served(ollama.session, ollama.url, tmp_path, "--config", str(file)):
        log = (tmp_path / "serve.log").read_text()
    assert "WARNING keys.management: there are none" in log
    assert ANN not in log


async def test_the_command_line_sends_a_key(ollama: Client, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{OPERATOR}\n")
    async with keyed(ollama, management=MANAGEMENT) as proxy:
        url = ("--url", proxy.url)
        results = await asyncio.gather(
            command("status", *url),
            command("status", *url, SWAPPER_KEY="sk-nobody"),
            command("status", *url, SWAPPER_KEY=WATCHER),
            command("queue", *url, "--key-file", str(file), SWAPPER_KEY="sk-nobody"),
            command("load", "first", *url, SWAPPER_KEY=WATCHER),
        )
    assert [code for code, _ in results] == [1, 1, 0, 0, 1]
    assert results[0][1].startswith("swapper-proxy: a key is needed")
    assert results[1][1] == "swapper-proxy: nobody has this key\n"
    assert results[4][1] == "swapper-proxy: this key changes nothing\n"


async def test_who_may_use_some_models_only_is_not_told_what_others_are_pinned(ollama: Client) -> None:
    models = {name: Model(path=f"ollama:{name}") for name in ("alpha", "beta")}
    async with keyed(ollama, {"models": ("beta",)}, models=models) as ann:
        assert (await ann.post("/models/alpha/pin"))[0] == 200
        asked = {**GENERATE, "model": "beta"}
        assert await ann.post("/api/generate", asked) == (507, {"error": Rejection.PINNED_OUT.message})
        status, answer = await ann.of(BOB).post("/api/generate", asked)
        assert (status, "alpha is pinned" in answer["error"]) == (507, True)
