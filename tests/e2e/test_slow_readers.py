"""A client that hardly reads a fast stream: memory stays bounded, and the others are served as ever."""

import asyncio
from pathlib import Path

import aiohttp

from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, at_rest
from tests.e2e.process import memory_mib, served

MOST_MIB = 8
ENDLESS = {"model": "fast", "prompt": "x", "options": {"num_predict": 20_000_000}}


async def kilobytes(stream: aiohttp.ClientResponse, number: int) -> None:
    for _ in range(number):
        await stream.content.readexactly(1024)


async def test_slow_readers(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    models = [SimulatedModel("fast", load_s=0, tokens_per_second=0), SimulatedModel("other", load_s=0)]
    async with serving(Simulator(models)) as url, served(session, url, tmp_path) as (proxy, process):
        assert (await proxy.generate("fast"))[0] == 200
        before = memory_mib(process)
        connector = aiohttp.TCPConnector()
        async with aiohttp.ClientSession(connector=connector, read_bufsize=1024) as reluctant:
            slow = Client(reluctant, proxy.url)
            streams = [await reluctant.post(f"{slow.url}/api/generate", json=ENDLESS) for _ in range(3)]
            for _ in range(20):
                await asyncio.gather(*(kilobytes(stream, 1) for stream in streams))
                for status, answer in await asyncio.gather(*(proxy.generate("fast", 200) for _ in range(5))):
                    assert (status, answer["eval_count"]) == (200, 200)
                assert memory_mib(process) - before < MOST_MIB
            for stream in streams:
                stream.close()
        await at_rest(proxy)
