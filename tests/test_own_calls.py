"""The proxy's own calls: answers that are none, have no end, or hold odd entries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swapper_proxy.ollama.client import MOST_OWN_BYTES, OllamaClient
from swapper_proxy.runtime.ports import UpstreamRefused, UpstreamUnreachable


@asynccontextmanager
async def upstream(answers: list[bytes]) -> AsyncIterator[OllamaClient]:
    """A server that gives these answers one after the other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answers.pop(0))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with OllamaClient(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.close()
        await server.wait_closed()


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def listed(*answers: bytes) -> list[str]:
    async with upstream(list(answers)) as client:
        return [entry.name for entry in await client.running()]


async def test_what_is_no_answer_to_a_question_comes_from_no_ollama() -> None:
    for status in (99, 204, 206, 302, 600, 999):
        with pytest.raises(UpstreamUnreachable):
            await listed(answer(status, b""))
    for body in (b"{}", b"[" * 100_000, b"\xff"):
        with pytest.raises(UpstreamUnreachable, match="is not an Ollama server"):
            await listed(answer(200, body))
    for status in (400, 404, 500, 520):
        with pytest.raises(UpstreamRefused):
            await listed(answer(status, b""))


async def test_what_is_read_as_a_whole_has_an_end() -> None:
    entry = b'{"name":"a","more":"%b"}' % (b"x" * MOST_OWN_BYTES)
    with pytest.raises(UpstreamUnreachable, match="its answer is longer than 16777216 bytes"):
        await listed(answer(200, b'{"models":[%b]}' % entry))
    assert await listed(answer(200, b'{"models":[%b]}' % entry.replace(b"x" * 1024, b""))) == ["a"]


async def test_entries_that_are_left_out_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    odd = answer(200, b'{"models":[{"name":"a"},{"size":5}]}')
    async with upstream([odd, odd, answer(200, b'{"models":[]}'), odd]) as client:
        for _ in range(4):
            await client.running()
    assert [r.getMessage() for r in caplog.records] == 2 * [
        "/api/ps: 1 entries cannot be read; these models are ignored"
    ]
