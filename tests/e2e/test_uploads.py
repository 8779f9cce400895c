"""Uploads: passed on as they come, in whatever way a client sends them, and with nothing left of those that break."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Client, at_rest, until
from tests.e2e.process import memory_mib, served
from tests.e2e.recording import connected
from tests.real.server import OllamaServer

MIB = 1 << 20
ZEROS = bytes(MIB)
GIB_OF_ZEROS = "sha256:49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14"
MOST_MIB = 16
BLOB = b"expected"
CHAT = b'{"model": "alpha", "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 4}}'


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def path_of(server: OllamaServer, digest: str) -> Path:
    return server.models / "blobs" / digest.replace(":", "-")


async def status_of(client: Client, digest: str) -> int:
    async with client.session.head(f"{client.url}/api/blobs/{digest}") as answer:
        return answer.status


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


# In constant memory


async def test_a_gigabyte_takes_no_memory(session, ollama: Client, ollama_server: OllamaServer, tmp_path: Path) -> None:
    taken: list[float] = []

    async def gigabyte() -> AsyncIterator[bytes]:
        for number in range(1024):
            if number % 64 == 0:
                taken.append(memory_mib(process))
            yield ZEROS

    async with served(session, ollama.url, tmp_path) as (proxy, process):
        async with session.post(f"{proxy.url}/api/blobs/{digest_of(ZEROS)}", data=ZEROS) as answer:
            assert answer.status == 201  # everything that an upload needs is imported
        before = memory_mib(process)
        headers = {"Content-Length": str(1024 * MIB)}
        async with session.post(f"{proxy.url}/api/blobs/{GIB_OF_ZEROS}", data=gigabyte(), headers=headers) as answer:
            assert answer.status == 201
        path_of(ollama_server, GIB_OF_ZEROS).unlink()
        assert len(taken) == 16
        assert max(*taken, memory_mib(process)) - before < MOST_MIB


# In every way that clients send


async def test_a_blob_is_checked_and_kept(proxy: Client, ollama: Client) -> None:
    body = b"kept" * MIB
    digest = digest_of(body)
    assert await status_of(proxy, digest) == 404
    async with proxy.session.post(f"{proxy.url}/api/blobs/{digest}", data=pieces(body, MIB)) as answer:
        assert answer.status == 201
    assert await status_of(proxy, digest) == await status_of(ollama, digest) == 200
    async with proxy.session.post(f"{proxy.url}/api/blobs/{digest_of(b'other')}", data=pieces(body, MIB)) as answer:
        assert answer.status == 400
    assert await status_of(proxy, digest_of(b"other")) == 404


async def test_single_bytes_in_chunks(proxy: Client) -> None:
    body = bytes(range(256)) * 4
    async with proxy.session.post(f"{proxy.url}/api/blobs/{digest_of(body)}", data=pieces(body, 1)) as answer:
        assert answer.status == 201
    async with proxy.session.post(f"{proxy.url}/api/chat", data=pieces(CHAT, 1)) as answer:
        lines = (await answer.text()).splitlines()
    assert answer.status == 200
    assert '"done":true' in lines[-1]


class Wire:
    """A connection on which a request is written by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def post(self, path: str, *headers: str) -> None:
        lines = (f"POST {path} HTTP/1.1", "Host: localhost", *headers, "", "")
        await self.send("\r\n".join(lines).encode())


@contextlib.asynccontextmanager
async def wire(proxy: Client) -> AsyncIterator[Wire]:
    async with connected(proxy.url) as streams:
        yield Wire(*streams)


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (f"/api/blobs/{digest_of(BLOB)}", BLOB, b"HTTP/1.1 201"),
        ("/api/chat", CHAT, b"HTTP/1.1 200"),
        ("/api/show", b'{"model": "alpha"}', b"HTTP/1.1 200"),
    ],
    ids=["blobs", "chat", "show"],
)
async def test_a_client_that_waits_for_leave_to_send(proxy: Client, path: str, body: bytes, answer: bytes) -> None:
    async with wire(proxy) as client:
        await client.post(path, f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.head()).startswith(answer)


async def test_a_body_in_single_bytes(proxy: Client) -> None:
    async with wire(proxy) as client:
        await client.post("/api/chat", f"Content-Length: {len(CHAT)}", "Connection: close")
        await client.send(*(CHAT[at : at + 1] for at in range(len(CHAT))))
        assert (await client.head()).startswith(b"HTTP/1.1 200")


# That break


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("leaves", ["closes", "resets", "says that this was all"])
async def test_an_upload_that_breaks_leaves_nothing(proxy, ollama_server, framing: str, leaves: str) -> None:
    digest = digest_of(BLOB + framing.encode() + leaves.encode())

    async def arriving() -> bool:
        return bool(parts(ollama_server))

    async def gone() -> bool:
        return not parts(ollama_server)

    async with wire(proxy) as client:
        await client.post(f"/api/blobs/{digest}", framing)
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        await client.send(chunk if "chunked" in framing else bytes(65536))
        await until(arriving)
        if leaves == "resets":
            client.writer.transport.abort()
        elif leaves == "closes":
            client.writer.close()
        else:
            client.writer.write_eof()
            assert not (await client.reader.read()).startswith(b"HTTP/1.1 2")
    await until(gone)
    await at_rest(proxy)
    assert await status_of(proxy, digest) == 404
    assert (await proxy.generate("alpha"))[0] == 200


def parts(server: OllamaServer) -> list[Path]:
    """Uploads under way: Ollama writes them into a file of their own until the digest is known to be right."""
    return [path for path in (server.models / "blobs").iterdir() if len(path.name) != len("sha256-") + 64]
