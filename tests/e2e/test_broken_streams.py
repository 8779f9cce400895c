"""Answers that Ollama breaks off: never a clean end, and before the first byte an error that the client can read."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Upstream
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, settings, until
from tests.real.install import find
from tests.real.server import OllamaServer

LONG = 20_000  # tokens: nobody waits for the end
MESSAGES = [{"role": "user", "content": "x"}]
OLDER: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "x", "options": {"num_predict": LONG}},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": LONG}},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": LONG},
    "/v1/completions": {"prompt": "x", "max_tokens": LONG},
}
ROUTES: dict[str, dict[str, Any]] = {
    **OLDER,
    "/v1/responses": {"input": "x", "max_output_tokens": LONG},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": LONG},
}
ENDS = (b"[DONE]", b"message_stop", b"response.completed", b'"done":true')


@contextlib.asynccontextmanager
async def proxied(session: aiohttp.ClientSession, url: str) -> AsyncIterator[Client]:
    """The proxy before an Ollama that is about to go away."""
    quick = msgspec.structs.replace(settings(url), upstream=Upstream(url=url, grace=0.5))
    async with running(quick) as proxy:
        yield Client(session, proxy.url)


class Connection:
    """One request on a connection of its own, to see how it ends: a client library may lose what came just before."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def asking(cls, url: str, path: str, body: bytes) -> "AsyncIterator[Connection]":
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def head(self) -> bytes:
        """Once the body has begun, too."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        self._begun = await self._reader.readuntil(b"\n")
        return head.lower()

    async def content(self) -> bytes:
        """Of all chunks until the connection is closed: there must be no last one, which would end the answer."""
        raw, content = self._begun + await self._reader.read(), b""
        while raw:
            size, _, raw = raw.partition(b"\r\n")
            assert int(size, 16) > 0
            content, raw = content + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
        return content


def asking(proxy: Client, path: str) -> contextlib.AbstractAsyncContextManager[Connection]:
    return Connection.asking(proxy.url, path, json.dumps({"model": "alpha", "stream": True, **ROUTES[path]}).encode())


def is_broken_off(path: str, body: bytes) -> None:
    assert not any(end in body for end in ENDS)
    if path.startswith("/api/"):
        *_, last = [json.loads(line) for line in body.splitlines()]
        assert "Ollama broke off" in last["error"]
    else:
        assert b"broke off" not in body  # an event that no client knows would be worse than the end


@pytest.mark.parametrize("path", ROUTES)
async def test_in_mid_stream(session: aiohttp.ClientSession, path: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ollama = await stack.enter_async_context(contextlib.AsyncExitStack())
        model = SimulatedModel("alpha", load_s=0.0, tokens_per_second=200)
        url = await ollama.enter_async_context(serving(Simulator([model])))
        proxy = await stack.enter_async_context(proxied(session, url))
        answer = await stack.enter_async_context(asking(proxy, path))
        head = await answer.head()
        assert head.startswith(b"http/1.1 200 ")
        assert b"\r\ntransfer-encoding: chunked\r\n" in head
        await ollama.aclose()
        is_broken_off(path, await answer.content())
        assert (await proxy.status())["in_flight"] == 0
        assert await proxy.metric("swapper_model_requests_total", status="502") == 1  # not the 200 that it began with
        assert await proxy.metric("swapper_model_requests_total") == 1
        assert await proxy.metric("swapper_generated_tokens_total") > 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ROUTES)
async def test_before_the_first_byte(session: aiohttp.ClientSession, path: str, stream: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ollama = await stack.enter_async_context(contextlib.AsyncExitStack())
        model = SimulatedModel("alpha", load_s=0.0, tokens_per_second=0.001)
        url = await ollama.enter_async_context(serving(Simulator([model])))
        proxy = await stack.enter_async_context(proxied(session, url))

        async def ask() -> tuple[int, str, Any]:
            body = {"model": "alpha", "stream": stream, **ROUTES[path]}
            async with session.post(proxy.url + path, json=body) as answer:
                return answer.status, answer.content_type, await answer.json()

        asked = asyncio.create_task(ask())

        async def in_flight() -> bool:
            return (await proxy.status())["in_flight"] == 1

        await until(in_flight)
        await ollama.aclose()
        status, content_type, answer = await asked
        assert (status, content_type) == (502, "application/json")
        assert "Ollama is not reachable" in text_of(path, answer)


def text_of(path: str, answer: Any) -> str:
    if path.startswith("/api/"):
        return answer["error"]
    assert answer["error"]["type"] == "api_error"
    assert ("request_id" in answer) is (path == "/v1/messages")
    return answer["error"]["message"]


async def test_the_real_one_killed_in_mid_stream(session: aiohttp.ClientSession, tmp_path) -> None:
    """One answer in each of its dialects at once."""
    mortal = OllamaServer(find(), tmp_path, OLLAMA_MAX_LOADED_MODELS="1", OLLAMA_NUM_PARALLEL="4")
    mortal.start()
    try:
        mortal.create(["alpha"])
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(proxied(session, mortal.url))
            answers = {path: await stack.enter_async_context(asking(proxy, path)) for path in OLDER}
            for answer in answers.values():
                await answer.head()
            mortal.kill()
            for path, answer in answers.items():
                is_broken_off(path, await answer.content())
    finally:
        mortal.stop()


@pytest.fixture
async def short_answers() -> AsyncIterator[str]:
    """An upstream that promises 100 bytes, sends a few, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            request = await reader.readuntil(b"\r\n\r\n")
            if b"GET /api/version" not in request:  # that one tells whether Ollama is there
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"a"')
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_answer_in_one_piece_that_is_not_whole(session: aiohttp.ClientSession, short_answers: str) -> None:
    async with proxied(session, short_answers) as proxy:
        async with session.get(f"{proxy.url}/v1/models") as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, "100")
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        status, told = await proxy.get("/api/version")
        assert (status, "Ollama is not reachable" in told["error"]) == (502, True)
