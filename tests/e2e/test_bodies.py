"""Encoded request bodies: decoded to see the model, within the limits, and sent on as they are meant."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Server
from swapper_proxy.runtime.decoding import MOST_PARTS, zstd
from tests.e2e.conftest import Client, settings

GENERATE = {"model": "alpha", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


def plain(value: object) -> bytes:
    return json.dumps(value).encode()


async def in_chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def post(client: Client, path: str, data: bytes | AsyncIterator[bytes], encoding: str) -> tuple[int, object]:
    headers = {"Content-Encoding": encoding}
    async with client.session.post(client.url + path, data=data, headers=headers) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions"])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "zstd", "identity"])
async def test_decoded(proxy: Client, path: str, encoding: str) -> None:
    body = plain(GENERATE if path == "/api/generate" else CHAT)
    data = {"zstd": zstd.compress, "identity": bytes}.get(encoding, gzip.compress)(body)
    status, answer = await post(proxy, path, data, encoding)
    assert (status, answer["model"]) == (200, "alpha")
    assert (await proxy.get("/metrics/first"))[1]["request_count"] == 1


async def test_in_several_parts(proxy: Client) -> None:
    body = plain(GENERATE)
    for compress, encoding in ((gzip.compress, "gzip"), (zstd.compress, "zstd")):
        assert (await post(proxy, "/api/generate", compress(body[:9]) + compress(body[9:]), encoding))[0] == 200


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "nonsense"])
async def test_what_cannot_be_decoded(proxy: Client, encoding: str) -> None:
    message = "a request body may be encoded with zstd or gzip, nothing else"
    assert await post(proxy, "/api/chat", b"x", encoding) == (415, {"error": message})
    status, answer = await post(proxy, "/v1/chat/completions", b"x", encoding)
    assert (status, answer["error"]["code"]) == (415, "content_encoding")


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(plain(GENERATE), mtime=0)[:-1], "gzip"),
        (gzip.compress(plain(GENERATE), mtime=0) + b"more", "gzip"),
        (zlib.compress(plain(GENERATE)), "gzip"),
        (b"no zstd", "zstd"),
        (zstd.compress(plain(GENERATE))[:-1], "zstd"),
    ],
)
async def test_broken_ones(proxy: Client, ollama: Client, data: bytes, encoding: str) -> None:
    status, answer = await post(proxy, "/api/generate", data, encoding)
    assert status == 400
    assert "encoded" in answer["error"] or "decoded" in answer["error"]
    assert await ollama.resident() == []


@pytest.mark.parametrize(("compress", "encoding"), [(gzip.compress, "gzip"), (zstd.compress, "zstd")])
async def test_parts_without_end(proxy: Client, compress, encoding: str) -> None:
    parts = compress(b" ") * (MOST_PARTS - 1)
    assert (await post(proxy, "/api/generate", parts + compress(plain(GENERATE)), encoding))[0] == 200
    message = f"the encoded request body has more than {MOST_PARTS} parts"
    assert await post(proxy, "/api/generate", parts * 2, encoding) == (400, {"error": message})


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
async def test_a_small_body_that_unfolds_is_too_large(session: aiohttp.ClientSession, ollama: Client, compress) -> None:
    small = msgspec.structs.replace(settings(ollama.url), server=Server(port=0, max_body_bytes=100_000))
    data = compress(plain(GENERATE | {"system": " " * 10_000_000}))
    async with running(small) as up:
        proxy = Client(session, up.url)
        status, answer = await post(proxy, "/api/generate", data, compress.__module__.rpartition(".")[2].strip("_"))
        assert (status, answer) == (413, {"error": "the request body is larger than 100000 bytes"})
        assert (await proxy.generate("alpha"))[0] == 200  # and nothing of it is held any more


async def test_nothing_is_held_after_bodies_that_were_refused(session: aiohttp.ClientSession, ollama: Client) -> None:
    server = Server(port=0, max_body_bytes=3000, max_buffered_bytes=4000)
    async with running(msgspec.structs.replace(settings(ollama.url), server=server)) as up:
        proxy = Client(session, up.url)
        for _ in range(4):
            assert (await post(proxy, "/api/generate", b"x" * 2000, "gzip"))[0] == 400
            assert (await post(proxy, "/api/generate", gzip.compress(b" " * 5000), "gzip"))[0] == 413
            assert (await post(proxy, "/api/generate", in_chunks(b" " * 5000), "identity"))[0] == 413
        assert (await proxy.generate("alpha", system="x" * 2000))[0] == 200
