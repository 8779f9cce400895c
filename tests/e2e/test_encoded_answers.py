"""A front before Ollama that compresses all answers, although it is asked not to: clients do not notice it."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from swapper_proxy.app import running
from swapper_proxy.config import ClientKey, Keys, Route, Server, Upstream, digest
from swapper_proxy.ollama.simulator import Answers, Faults, Simulator, serving
from swapper_proxy.runtime.decoding import zstd
from tests.e2e.conftest import Client, settings
from tests.e2e.faulty import MESSAGES, TWO, text_of
from tests.e2e.test_broken_answers import broken_off

ANN = "sk-ann-1"
KEY = {"Authorization": f"Bearer {ANN}"}
Encode = Callable[[bytes, bool], bytes]


def gzipping() -> Encode:
    deflate = zlib.compressobj(wbits=31)
    return lambda data, last: deflate.compress(data) + deflate.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def zstding() -> Encode:
    frame = zstd.ZstdCompressor()
    return lambda data, last: frame.compress(data, frame.FLUSH_FRAME if last else frame.FLUSH_BLOCK)


ENCODINGS = {"gzip": gzipping, "zstd": zstding, "br": gzipping}
known = pytest.mark.parametrize("encoding", ["gzip", "zstd"])


@asynccontextmanager
async def fronted(
    session: aiohttp.ClientSession, encoding: str, keys: Keys | None = None
) -> AsyncIterator[tuple[Client, Faults]]:
    """The proxy before a front that encodes whatever the simulator behind it answers, piece by piece."""
    faults = Faults()
    async with serving(Simulator(TWO, faults=faults)) as simulator:

        async def encoded(request: web.BaseRequest) -> web.StreamResponse:
            body, url = await request.read(), simulator + request.raw_path
            async with session.request(request.method, url, data=body) as answer:
                headers = {"Content-Type": answer.headers.get("Content-Type", ""), "Content-Encoding": encoding}
                response = web.StreamResponse(status=answer.status, headers=headers)
                await response.prepare(request)
                encode = ENCODINGS[encoding]()
                try:
                    async for piece in answer.content.iter_any():
                        await response.write(encode(piece, False))
                except aiohttp.ClientPayloadError:
                    assert request.transport is not None
                    request.transport.close()
                    return response
                await response.write(encode(b"", True))
                return response

        runner = web.ServerRunner(web.Server(encoded))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        chosen = msgspec.structs.replace(
            settings(f"http://127.0.0.1:{runner.addresses[0][1]}", unload_settle=0.0, expose_aliases=True),
            routes={"auto": (Route(model="first"),)},
            keys=keys or Keys(),
        )
        async with running(chosen) as proxy:
            yield Client(session, proxy.url), faults
        await runner.cleanup()


async def asked(client: Client, path: str, body: Any = None, **headers: str) -> bytes:
    """The body as it comes, which is not encoded."""
    plain = {"Accept-Encoding": "identity", **headers}
    async with client.session.request("POST" if body else "GET", client.url + path, json=body, headers=plain) as answer:
        assert answer.status == 200
        assert "Content-Encoding" not in answer.headers
        return await answer.read()


def names(path: str, content: bytes) -> set[str]:
    entries = json.loads(content)
    return {entry["name"] for entry in entries["models"]} if "models" in entries else {e["id"] for e in entries["data"]}


@known
@pytest.mark.parametrize("path", ["/api/tags", "/v1/models"])
async def test_aliases_and_routes_are_listed(session, encoding: str, path: str) -> None:
    async with fronted(session, encoding) as (proxy, _):
        listed = names(path, await asked(proxy, path))
        assert {"first", "team/second:v1", "auto"} <= listed


@known
@pytest.mark.parametrize("path", ["/api/tags", "/v1/models", "/api/ps"])
async def test_a_key_for_some_models_is_told_of_these(session, encoding: str, path: str) -> None:
    keys = Keys(clients={"ann": ClientKey(key_sha256=digest(ANN), models=("alpha",))})
    async with fronted(session, encoding, keys) as (proxy, _):
        body = {"model": "alpha", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
        await asked(proxy, "/api/generate", body, **KEY)
        listed = names(path, await asked(proxy, path, **KEY))
        assert listed & {"alpha:latest", "beta:latest", "team/second:v1"} == {"alpha:latest"}


@known
@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_are_counted(session, encoding: str, stream: bool) -> None:
    async with fronted(session, encoding) as (proxy, _):
        body = {"model": "alpha", "prompt": "x", "stream": stream, "options": {"num_predict": 7}}
        last = json.loads((await asked(proxy, "/api/generate", body)).splitlines()[-1])
        assert last["done"]
        counted = await proxy.metric("swapper_generated_tokens_total", model="first")
        assert counted == last["eval_count"] == 7


@known
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("answers", [Answers.CLOSED_INSIDE, Answers.RESET_INSIDE])
async def test_what_breaks_off_is_plain_to_its_end(session, encoding: str, path: str, answers: Answers) -> None:
    async with fronted(session, encoding) as (proxy, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.answers = answers
        body = {"model": "alpha", "messages": MESSAGES, "stream": True, "max_tokens": 4}
        async with session.post(proxy.url + path, json=body) as answer:
            assert "Content-Encoding" not in answer.headers
            content = await broken_off(answer)
        assert content.startswith(b"{" if path == "/api/chat" else b"data: {")
        assert content.isascii()
        assert (b'{"error":"Ollama broke off: ' in content) is (path == "/api/chat")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages", "/api/tags"])
async def test_what_cannot_be_decoded_is_refused_in_the_dialect(session, path: str) -> None:
    async with fronted(session, "br") as (proxy, _):
        body = {"model": "alpha", "messages": MESSAGES, "max_tokens": 4}
        status, answer = await (proxy.get(path) if path == "/api/tags" else proxy.post(path, body))
        assert status == 502
        assert "the answer has the Content-Encoding 'br', which was not asked for" in text_of(path, answer)
        assert (await proxy.get("/ready"))[0] == 503


async def test_a_bomb_is_refused(session) -> None:
    bomb = zlib.compressobj(9, wbits=31)
    content = bomb.compress(bytes(1 << 28)) + bomb.flush()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(content)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(head + content)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    chosen = settings(url, expose_aliases=True)
    chosen = msgspec.structs.replace(chosen, server=Server(port=0), upstream=Upstream(url=url, grace=0.1))
    async with running(chosen) as running_proxy:
        status, answer = await Client(session, running_proxy.url).get("/api/tags")
        assert (status, list(answer)) == (502, ["error"])
    server.close()
