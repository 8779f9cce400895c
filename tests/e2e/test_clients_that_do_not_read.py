"""A client that takes nothing of its answer for `server.write_timeout` is closed; one that is only slow is not."""

import asyncio
import contextlib
import json
import socket
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Server
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, at_rest, settings, until

MODELS = [SimulatedModel("fast", load_s=0, tokens_per_second=0), SimulatedModel("other", load_s=0)]
WRITE_TIMEOUT_S = 10.0
pytestmark = pytest.mark.usefixtures("own_time")


@pytest.fixture
async def strict(session: aiohttp.ClientSession):
    async with serving(Simulator(MODELS)) as url:
        chosen = msgspec.structs.replace(settings(url), server=Server(port=0, write_timeout=WRITE_TIMEOUT_S))
        async with running(chosen) as proxy:
            yield Client(session, proxy.url)


async def asking(proxy: Client, tokens: int) -> socket.socket:
    """A connection with little room for what comes, on which a stream was asked for."""
    address = urlsplit(proxy.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (address.hostname, address.port))
    body = json.dumps({"model": "fast", "prompt": "x", "options": {"num_predict": tokens}}).encode()
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    await loop.sock_sendall(connection, head.encode() + body)
    return connection


async def in_flight(proxy: Client, number: int) -> None:
    async def so_many() -> bool:
        return (await proxy.status())["in_flight"] == number

    await until(so_many)


async def test_one_that_does_not_read(strict: Client, caplog: pytest.LogCaptureFixture) -> None:
    with await asking(strict, 20_000_000) as connection:
        await in_flight(strict, 1)
        other = asyncio.create_task(strict.generate("other"))
        await at_rest(strict)
        assert (await other)[0] == 200  # who waited for its model to be free
        loop, tail = asyncio.get_running_loop(), b""
        with contextlib.suppress(ConnectionResetError):
            while piece := await loop.sock_recv(connection, 65536):
                tail = (tail + piece)[-5:]
        assert tail != b"0\r\n\r\n"  # never a clean end
    assert "does not read" in caplog.text
    assert (await strict.generate("fast"))[0] == 200


async def test_one_that_reads_slowly(strict: Client) -> None:
    tokens = 20_000  # some two megabytes
    loop = asyncio.get_running_loop()
    with await asking(strict, tokens) as connection:
        began, received = loop.time(), b""
        while b'"done":true' not in received:
            piece = await loop.sock_recv(connection, 65536)
            assert piece
            received = received[-1000:] + piece
            if loop.time() - began < 4 * WRITE_TIMEOUT_S:  # longer than it may take nothing
                await asyncio.sleep(WRITE_TIMEOUT_S / 10)
    await at_rest(strict)
