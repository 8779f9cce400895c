"""Retries: only what a kept connection lost before a byte of its answer, and only once.  Answers that are none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swapper_proxy.ollama.client import MOST_OWN_BYTES, OllamaClient
from swapper_proxy.runtime.ports import UpstreamRefused, UpstreamUnreachable

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def upstream(
    answers: list[bytes | None], asked_bytes: int = 4
) -> AsyncIterator[tuple[OllamaClient, list[bytes]]]:
    """A server that gives these answers one after the other; None closes the connection instead."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked.append(head + await reader.readexactly(asked_bytes))
                answer = answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with OllamaClient(f"http://127.0.0.1:{port}") as client:
            yield client, asked
    finally:
        server.close()
        await server.wait_closed()


async def post(client: OllamaClient) -> bytes:
    answer = await client.send("POST", "/api/generate", [(b"Content-Length", b"4")], (b"body",))
    return await answer.rest()


async def test_a_kept_connection_that_was_closed_is_tried_once_more_on_a_fresh_one() -> None:
    async with upstream([ANSWER, None, ANSWER]) as (client, asked):
        assert await post(client) == b"ok"
        assert await post(client) == b"ok"
        assert len(asked) == 3


async def test_a_fresh_connection_that_breaks_is_not_tried_again() -> None:
    async with upstream([None, ANSWER]) as (client, asked):
        with pytest.raises(UpstreamUnreachable):
            await post(client)
        assert len(asked) == 1


async def test_nothing_is_tried_a_third_time() -> None:
    async with upstream([ANSWER, None, None, ANSWER]) as (client, asked):
        assert await post(client) == b"ok"
        with pytest.raises(UpstreamUnreachable):
            await post(client)
        assert len(asked) == 3


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def listed(*answers: bytes | None) -> list[str]:
    async with upstream(list(answers), asked_bytes=0) as (client, _):
        return [entry.name for entry in await client.running()]


async def test_what_is_no_answer_to_a_question_comes_from_no_ollama() -> None:
    for status in (99, 204, 206, 302, 600, 999):
        with pytest.raises(UpstreamUnreachable):
            await listed(answer(status, b""))
    for body in (b"{}", b"[" * 100_000, b"\xff"):
        with pytest.raises(UpstreamUnreachable, match="is no Ollama"):
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
    async with upstream([odd, odd, answer(200, b'{"models":[]}'), odd], asked_bytes=0) as (client, _):
        for _ in range(4):
            await client.running()
    assert [r.getMessage() for r in caplog.records] == 2 * [
        "/api/ps: 1 entries cannot be read; these models are ignored"
    ]
