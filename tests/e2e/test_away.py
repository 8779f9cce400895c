"""Ollama cannot be used: the log, /health, /status, the console and each refusal say why, and what to do."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Model, Upstream
from swapper_proxy.ollama.simulator import Faults, Simulator, serving
from swapper_proxy.runtime import watcher
from tests.e2e.conftest import Client, is_in, settings, until, waits
from tests.e2e.faulty import MESSAGES, TWO, text_of
from tests.e2e.fronts import fronted, listening, raw, self_signed
from tests.real.server import free_port

PATHS = ("/api/chat", "/v1/chat/completions", "/v1/messages")
HTTP = b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b"


def http(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return HTTP % (status.encode(), lines.encode(), len(body), body)


# What answers, and what the proxy says of it; URL is its address.
ANSWERS = {
    "301": (
        http("301 Moved", Location="https://ollama.example/api/version"),
        "it redirects (status 301) to https://ollama.example/api/version; "
        "set upstream.url (OLLAMA_BASE_URL) to https://ollama.example",
    ),
    "login": (
        http("302 Found", Location="https://ann:secret@sso.example/login?token=secret#x"),
        "the upstream at URL answers, but is not an Ollama server: it redirects (status 302) to "
        "https://sso.example/login, as a page to log in would; correct upstream.url (OLLAMA_BASE_URL)",
    ),
    "nowhere": (
        http("307 X"),
        "the upstream at URL answers, but is not an Ollama server: it redirects (status 307) to nowhere; "
        "correct upstream.url (OLLAMA_BASE_URL)",
    ),
    "401": (
        http("401 X", WWW_Authenticate='Bearer realm="x"'),
        "it asks for authentication (Bearer, status 401); set upstream.headers: {Authorization: {env: VARIABLE}}, "
        "where the variable holds Bearer and the token",
    ),
    "401 without a method": (
        http("401 X"),
        "it asks for authentication (no method is named, status 401); set what it asks for in upstream.headers",
    ),
    "403": (http("403 X"), "it forbids the question (status 403); check upstream.headers; an Ollama that listens on"),
    "404": (
        http("404 X", b"404 page not found"),
        "the upstream at URL answers, but is not an Ollama server: it does not know /api/version (status 404); "
        "correct upstream.url (OLLAMA_BASE_URL)",
    ),
    "502": (http("502 Bad Gateway"), "what stands in front of it answers 502; check whether that reaches Ollama"),
    "500": (http("500 X"), "it answers 500 to /api/version"),
    "a page": (
        http("200 OK", b"<html>"),
        "the upstream at URL answers, but is not an Ollama server: its answer to /api",
    ),
    "TLS, of nginx": (
        http("400 Bad Request", b"The plain HTTP request was sent to HTTPS port"),
        "it expects TLS; write https:// instead of http:// in upstream.url (OLLAMA_BASE_URL)",
    ),
    "TLS, of others": (
        b"\x15\x03\x01\x00\x02\x02\x16",
        "it expects TLS; write https:// instead of http:// in upstream.url (OLLAMA_BASE_URL)",
    ),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", "what answers is no HTTP/1.1: "),
    "nothing": (
        b"",
        "the connection was closed, and nothing was answered; "
        "if TLS is spoken there, write https:// instead of http:// in upstream.url (OLLAMA_BASE_URL)",
    ),
    "br": (
        http("200 OK", b'{"version": "0.9.3"}', Content_Encoding="br"),
        "the answer has the Content-Encoding 'br', which was not asked for and is not known; "
        "turn compression off in what stands in front of Ollama",
    ),
}


@asynccontextmanager
async def before(session: aiohttp.ClientSession, url: str, **limits: Any) -> AsyncIterator[Client]:
    upstream = Upstream(url=url, **({"grace": 0.05} | limits))
    async with running(msgspec.structs.replace(settings(url), upstream=upstream)) as up:
        yield Client(session, up.url)


async def all_that_is_told(proxy: Client, caplog: pytest.LogCaptureFixture) -> set[str]:
    """All that log, health, status, history and refusals in all dialects say of an Ollama that is away."""
    told = {record.message for record in caplog.records if record.levelno >= logging.ERROR}
    for path in ("/health", "/status"):
        answer = (await proxy.get(path))[1]
        assert answer["status"] == "degraded"
        told.add(answer["reason"])
    for path in PATHS:
        status, answer = await proxy.post(path, {"model": "alpha", "max_tokens": 1, "messages": MESSAGES})
        assert status == 502
        told.add(text_of(path, answer))
    status, answer = await proxy.post("/models/first/load")
    assert status == 502
    told.add(answer["error"]["message"])
    return told


@pytest.mark.parametrize("name", ANSWERS)
async def test_each_says_why(session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, name: str) -> None:
    answer, why = ANSWERS[name]
    async with raw(answer) as url, before(session, url) as proxy:
        told = await all_that_is_told(proxy, caplog)
        assert len(told) == 1, told
        assert told.pop().startswith(
            f"Ollama is not reachable: {why.replace('URL ', f'{url} ', why.startswith('the'))}"
        )
        assert "secret" not in caplog.text


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


async def test_nothing_listens(session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with before(session, url) as proxy:
        (told,) = await all_that_is_told(proxy, caplog)
        assert told == (
            f"Ollama is not reachable: nothing listens at {url[7:]} (connection refused); start Ollama there, or "
            "correct upstream.url (OLLAMA_BASE_URL); in a container localhost is the container itself"
        )


async def test_no_such_name(session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    for host, why in (
        ("no-such-host.invalid", "the name 'no-such-host.invalid' cannot be found (DNS: "),
        ("a" * 64, f"{'a' * 64!r} is no name of a host; correct upstream.url"),
    ):
        caplog.clear()
        async with before(session, f"http://{host}") as proxy:
            (told,) = await all_that_is_told(proxy, caplog)
            assert told.startswith(f"Ollama is not reachable: {why}")


async def test_a_proxy_of_the_environment_is_not_used(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with before(session, "http://no-such-host.invalid") as proxy:
        assert (await proxy.status())["reason"].endswith("; http_proxy is set, but is not used on the way to Ollama")
    async with serving(Simulator(TWO)) as url, before(session, url) as proxy:
        assert (await proxy.generate("alpha"))[0] == 200


async def test_tls_that_is_not_trusted(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    own, other = self_signed(tmp_path), self_signed(tmp_path, "other.example")
    cases: list[tuple[ssl.SSLContext, dict[str, Any], str]] = [
        (own.server, {}, "is not trusted: self-signed certificate; name the file of its CA in upstream.ca_file"),
        (other.server, {"ca_file": str(other.ca)}, "; use a name of the certificate in upstream.url"),
    ]
    for server, limits, why in cases:
        caplog.clear()
        async with fronted(session, "", server) as front, before(session, front.url, **limits) as proxy:
            (told,) = await all_that_is_told(proxy, caplog)
            assert told.startswith(f"Ollama is not reachable: the certificate of {front.url[8:]} is not trusted: ")
            assert why in told
            assert front.asked == []


async def test_tls_where_none_is_spoken(session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    for answer, why in (
        (http("400 Bad Request"), "does not speak TLS; write http:// instead of https:// in upstream.url"),
        (b"", "ended the TLS handshake; if it does not speak TLS, write http:// in upstream.url"),
    ):
        caplog.clear()
        async with raw(answer) as url, before(session, url.replace("http:", "https:")) as proxy:
            (told,) = await all_that_is_told(proxy, caplog)
            assert told == f"Ollama is not reachable: {url[7:]} {why} (OLLAMA_BASE_URL)"


async def test_the_reason_is_that_of_now(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another reason in the same absence is told, each once; when Ollama is back none is left."""
    monkeypatch.setattr(watcher, "BUSY_S", 0.02)
    port = free_port()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(before(session, f"http://127.0.0.1:{port}", grace=60.0))

        async def says(reason: str) -> None:
            async def so() -> bool:
                return reason in (await proxy.status()).get("reason", "")

            await until(so)

        await says("connection refused")
        asking = asyncio.create_task(proxy.generate("alpha"))
        await waits(proxy, 1)
        async with AsyncExitStack() as other:
            server = await asyncio.start_server(_no_http, "127.0.0.1", port)
            other.callback(server.close)
            await says("what answers is no HTTP/1.1")
        await says("connection refused")
        still = [record.message for record in caplog.records if "still not reachable" in record.message]
        assert len(still) == 1
        assert "what answers is no HTTP/1.1" in still[0]
        await stack.enter_async_context(serving(Simulator(TWO), port=port))
        assert (await asking)[0] == 200
        assert (await proxy.status())["reason"] is None


async def _no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1000)
    writer.write(b"hello\r\n")
    writer.close()


async def test_who_waits_for_a_turn_is_told_that_ollama_is_away(session: aiohttp.ClientSession) -> None:
    """The limit that ends the wait is not what is wrong."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    chosen = msgspec.structs.replace(
        settings(url, queue_timeout=0.2, max_queue=1), upstream=Upstream(url=url, grace=60)
    )
    async with AsyncExitStack() as stack:
        async with serving(Simulator(TWO), port=port):
            proxy = Client(session, (await stack.enter_async_context(running(chosen))).url)
            assert (await proxy.generate("alpha"))[0] == 200
        status, answer = await proxy.generate("alpha")
        while status == 502:  # the first to find that it is away
            status, answer = await proxy.generate("alpha")
        why = f"Ollama is not reachable: nothing listens at 127.0.0.1:{port}"
        assert status == 504
        assert answer["error"].startswith(f"the model did not get its turn within queue_timeout; {why}")
        waiting = [asyncio.create_task(proxy.generate(model)) for model in ("alpha", "beta", "alpha")]
        full = [answer["error"] for status, answer in await asyncio.gather(*waiting) if status == 503]
        assert full
        assert all(text.startswith(f"the queue is full, please try again later; {why}") for text in full)


async def test_a_load_at_the_start_that_ollama_s_end_ends(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why, too."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    pinned = {"first": Model(path="ollama:alpha", pinned=True)}
    chosen = msgspec.structs.replace(settings(url), models=pinned, upstream=Upstream(url=url, grace=0.05))
    async with AsyncExitStack() as stack, AsyncExitStack() as ollama:
        await ollama.enter_async_context(serving(Simulator(TWO, faults=Faults(stalled=True)), port=port))
        proxy = Client(session, (await stack.enter_async_context(running(chosen))).url)
        await is_in(proxy, "first", "loading")
        await ollama.aclose()

        async def told() -> bool:
            return "cannot be loaded" in caplog.text

        await until(told)
    (message,) = (record.message for record in caplog.records if "cannot be loaded" in record.message)
    assert message.startswith(f"cannot be loaded: Ollama is not reachable: nothing listens at 127.0.0.1:{port}")


async def test_ollama_s_own_401_is_passed_on(session: aiohttp.ClientSession) -> None:
    """It names no method: a model that runs elsewhere wants its user to sign in."""

    async def answer(request: Any) -> Any:
        if request.path == "/api/version":
            return aiohttp.web.json_response({"version": "0.9.3"})
        if request.path == "/api/tags":
            return aiohttp.web.json_response({"models": []})
        return aiohttp.web.json_response({"error": "unauthorized"}, status=401)

    async with listening(answer) as url, before(session, url) as proxy:
        assert await proxy.post("/api/me") == (401, {"error": "unauthorized"})
