"""More connections at once than the usual limit of open files allows."""

import asyncio
from pathlib import Path

import aiohttp

from swapper_proxy.ollama.simulator import Simulator, serving
from tests.e2e.process import served
from tests.waiting import LIMIT_S

CONNECTIONS = 200
FEW_FILES = ("sh", "-c", 'ulimit -Sn 64 && exec "$@"', "sh")


async def test_connections_beyond_the_usual_limit_of_open_files(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with serving(Simulator([])) as url, served(session, url, tmp_path, before=FEW_FILES) as (proxy, _):
        host, port = proxy.url.removeprefix("http://").split(":")
        async with asyncio.timeout(LIMIT_S):
            opened = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS)]
            for reader, writer in opened:
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()
