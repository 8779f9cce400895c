"""Retries: only what a kept connection lost before a byte of its answer, and only once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swapper_proxy.ollama.client import OllamaClient
from swapper_proxy.runtime.ports import UpstreamUnreachable

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def upstream(answers: list[bytes | None]) -> AsyncIterator[tuple[OllamaClient, list[bytes]]]:
    """A server that gives these answers one after the other; None closes the connection instead."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked.append(head + await reader.readexactly(4))
                answer = answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with OllamaClient(f"http://127.0.0.1:{port}") as client:
        yield client, asked
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
