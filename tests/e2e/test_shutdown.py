"""SIGTERM to a proxy of its own in front of the real Ollama: what becomes of those who wait and are answered."""

import asyncio
import contextlib
import sqlite3
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import yaml

from swapper_proxy.app import running
from swapper_proxy.config import Server, Upstream
from swapper_proxy.storage.excerpt import Excerpt
from tests.e2e.conftest import LIMIT_S, Client, is_in, settings, until, waits
from tests.e2e.process import started
from tests.e2e.test_keep_alive import is_about
from tests.real.server import OllamaServer, free_port

Start = Callable[..., AbstractAsyncContextManager[tuple[Client, Process]]]


@pytest.fixture
def start(session: aiohttp.ClientSession, ollama: Client, tmp_path: Path) -> Start:
    @contextlib.asynccontextmanager
    async def start(grace: float = 60.0, **swapper: Any) -> AsyncIterator[tuple[Client, Process]]:
        file = tmp_path / "swapper.yaml"
        sections = {"server": {"shutdown_grace": grace}, "swapper": swapper, "history": {"path": str(tmp_path / "h")}}
        file.write_text(yaml.safe_dump(sections))
        async with started(session, ollama.url, tmp_path, "--config", str(file)) as both:
            yield both

    return start


async def ends(process: Process) -> int:
    async with asyncio.timeout(LIMIT_S):
        return await process.wait()


async def takes_nobody(proxy: Client) -> None:
    """Until it listens no more."""

    async def refused() -> bool:
        try:
            async with aiohttp.ClientSession() as anew:
                await Client(anew, proxy.url).status()
        except aiohttp.ClientConnectionError:
            return True
        return False

    await until(refused)


async def test_streams_end_and_nobody_comes_in(start: Start, ollama: Client, ollama_server: OllamaServer) -> None:
    async with start() as (proxy, process), proxy.stream("alpha", 2000) as stream:
        await stream.content.readany()
        with ollama_server.held():
            process.terminate()
            await takes_nobody(proxy)
        assert b'"done":true' in await stream.read()
        assert await ends(process) == 0
    await is_about(ollama, 5)


async def test_who_waits_for_what_is_there_is_served_and_who_needs_a_load_is_not(
    start: Start, ollama_server: OllamaServer
) -> None:
    async with start(parallel=1) as (proxy, process), proxy.stream("alpha", 2000) as stream:
        await stream.content.readany()
        with ollama_server.held():
            same = asyncio.create_task(proxy.generate("alpha"))
            other = asyncio.create_task(
                proxy.session.post(f"{proxy.url}/api/generate", json={"model": "beta", "prompt": "x"})
            )
            await waits(proxy, 2)
            process.terminate()
            async with await other as refused:
                assert (refused.status, int(refused.headers["Retry-After"]) >= 1) == (503, True)
                assert "shutting down" in (await refused.json())["error"]
        assert b'"done":true' in await stream.read()
        assert (await same)[0] == 200
        assert await ends(process) == 0


@pytest.mark.parametrize("grace", [0.5, 0.0])
async def test_what_takes_longer_than_the_grace_is_cut(start: Start, tmp_path: Path, grace: float) -> None:
    async with start(grace=grace) as (proxy, process), proxy.stream("alpha", 20_000) as stream:
        await stream.content.readany()
        process.terminate()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
        assert await ends(process) == 0
    with Excerpt(tmp_path / "h") as kept:
        (cut,) = kept.requests
    assert (cut.status, cut.usage.generated_tokens > 0) == (503, True)  # its client did not leave


async def test_who_has_no_answer_yet_when_the_grace_is_over_is_told(start: Start, tmp_path: Path) -> None:
    async with start(grace=0.5) as (proxy, process):
        body = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20_000}
        asking = asyncio.create_task(proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body))

        async def is_answering() -> bool:
            return bool((await proxy.status())["in_flight"])

        await until(is_answering)
        process.terminate()
        async with await asking as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert (await refused.json())["error"]["code"] == "shutting_down"
        assert await ends(process) == 0
    with closing(sqlite3.connect(tmp_path / "h")) as db:  # Ollama had it: it is no refusal in the usage
        assert db.execute("SELECT code, status, sent FROM problems").fetchall() == [("shutting_down", 503, 1)]
        assert db.execute("SELECT status FROM requests").fetchall() == [(503,)]


async def test_the_rest_of_a_body_is_read(start: Start) -> None:
    told = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"model": "alpha", "prompt": "x", "stream": false,'
        await told.wait()
        yield b'"options": {"num_predict": 1}}'

    async with start() as (proxy, process):
        assert (await proxy.generate("alpha"))[0] == 200
        asking = asyncio.create_task(proxy.session.post(f"{proxy.url}/api/generate", data=body()))
        for _ in range(20):  # its head is there before these
            await proxy.status()
        process.terminate()
        await takes_nobody(proxy)
        told.set()
        async with await asking as answer:
            assert (answer.status, (await answer.json())["done"]) == (200, True)
        assert await ends(process) == 0


async def test_in_mid_load(start: Start, ollama: Client) -> None:
    """Ollama would fail the next load if this one were broken off."""
    async with start() as (proxy, process):
        asking = asyncio.create_task(proxy.generate("slow"))
        await is_in(proxy, "slow:latest", "loading")
        process.terminate()
        assert (await asking)[0] == 503
        assert await ends(process) == 0
    assert await ollama.resident() == ["slow:latest"]
    assert (await ollama.generate("slow"))[0] == 200


async def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    async with start(grace=3600) as (proxy, process), proxy.stream("alpha", 20_000) as stream:
        await stream.content.readany()
        process.terminate()
        await takes_nobody(proxy)
        process.terminate()
        assert await ends(process) == 1


async def test_what_happened_is_kept(start: Start, tmp_path: Path) -> None:
    async with start() as (proxy, process):
        for _ in range(3):
            assert (await proxy.generate("alpha"))[0] == 200
        process.terminate()
        assert await ends(process) == 0
    with Excerpt(tmp_path / "h") as kept:
        assert (len(kept.requests), len(kept.swaps)) == (3, 1)


async def test_a_list_of_events_ends_well(start: Start) -> None:
    async with start(grace=3600) as (proxy, process), proxy.session.get(f"{proxy.url}/events") as events:
        await events.content.readany()
        process.terminate()
        await events.content.read()
        assert await ends(process) == 0


async def test_who_waits_for_an_ollama_that_is_away_is_told(session: aiohttp.ClientSession) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    server, upstream = Server(port=0, shutdown_grace=LIMIT_S), Upstream(url=away, grace=3600)
    async with running(msgspec.structs.replace(settings(away), server=server, upstream=upstream)) as proxy:
        body = {"model": "never-seen", "prompt": "x"}
        asking = asyncio.create_task(session.post(f"{proxy.url}/api/generate", json=body))
        client = Client(session, proxy.url)
        for _ in range(20):  # it is let in before these
            await client.status()
    async with await asking as refused:
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert "shutting down" in (await refused.json())["error"]
