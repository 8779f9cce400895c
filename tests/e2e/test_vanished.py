"""Hosts and clients that vanish without a word: their packets are lost, and nobody is told.

What takes half a minute takes a few seconds here; how long it really takes stands in tests/test_peers.py.
"""

import asyncio
import contextlib
import io
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Server, Upstream
from swapper_proxy.ollama import client, connection, pool
from swapper_proxy.ollama.simulator import Answers, Faults, SimulatedModel, Simulator, serving
from swapper_proxy.runtime import sockets
from swapper_proxy.web import server
from tests.e2e.conftest import Client, at_rest, is_in, settings, until, waits
from tests.e2e.faulty import is_served
from tests.e2e.network import Host, Network, network
from tests.real.install import find
from tests.real.server import OllamaServer

LIMIT_S = 60.0  # which only a hang reaches
VANISHED_S = 6.0
ENDLESS = 1_000_000
BLOB = "/api/blobs/sha256:" + "0" * 64
PIECE = bytes(64 * 1024)
MODELS = [SimulatedModel(name, size=1, load_s=0.01, tokens_per_second=200) for name in ("alpha", "beta")]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who vanishes is noticed soon; that Ollama does not answer the proxy's own questions is not what notices it."""
    monkeypatch.setattr(sockets, "IDLE_S", 3)
    monkeypatch.setattr(sockets, "INTERVAL_S", 1)
    monkeypatch.setattr(sockets, "PROBES", 3)
    monkeypatch.setattr(connection, "VANISHED_S", VANISHED_S)
    monkeypatch.setattr(server, "VANISHED_S", VANISHED_S)
    monkeypatch.setattr(server, "PEER_LOOK_S", 0.5)
    monkeypatch.setattr(client, "ASK_TIMEOUT_S", 10 * LIMIT_S)


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as net:
        yield net


@contextlib.asynccontextmanager
async def simulated_on(host: Host, faults: Faults, room: int = 2) -> AsyncIterator[str]:
    with host.inside():
        serving_there = serving(Simulator(MODELS, max_loaded=room, faults=faults), host=host.address, port=11434)
        url = await serving_there.__aenter__()
    try:
        yield url
    finally:
        for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
            if transport.get_extra_info("sockname")[0] == host.address:
                transport.abort()  # what it has written will never be taken
        await serving_there.__aexit__(None, None, None)


@contextlib.asynccontextmanager
async def proxied(
    session: aiohttp.ClientSession, url: str, *, limits: Any = None, **swapper: Any
) -> AsyncIterator[Client]:
    """The proxy, which all hosts reach; two models fit."""
    swapper = {"mode": "multi-active", "max_concurrent_models": 2, "parallel": 4, "unload_settle": 0.0} | swapper
    chosen = msgspec.structs.replace(
        settings(url, **swapper),
        server=Server(host="0.0.0.0", port=0, shutdown_grace=0.0),
        upstream=Upstream(url=url, connect_timeout=1.0, **({"grace": 0.5} | (limits or {}))),
        models={},
    )
    async with running(chosen) as proxy:
        yield Client(session, proxy.url.replace("0.0.0.0", "127.0.0.1"))


async def broken_off(stream: aiohttp.ClientResponse) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await stream.read()


async def refused(answer: Any) -> None:
    status, said = await answer
    assert status in (502, 503, 504), said
    assert "Ollama" in said["error"] or "load" in said["error"]


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield PIECE
        await asyncio.sleep(0)


async def uploaded(proxy: Client) -> None:
    """An upload that goes on for ever, to a host that vanishes."""
    with contextlib.suppress(aiohttp.ClientError):
        async with proxy.session.post(proxy.url + BLOB, data=endless()) as answer:
            assert answer.status == 502


async def in_flight(proxy: Client, number: int) -> None:
    async def so_many() -> bool:
        return bool((await proxy.status())["in_flight"] == number)

    await until(so_many)


async def loaded(proxy: Client, *models: str) -> None:
    for model in models:
        assert (await proxy.generate(model))[0] == 200


# Ollama's host


async def test_a_host_vanishes_in_each_phase(session: aiohttp.ClientSession, net: Network) -> None:
    """In mid-stream, before the first byte, in an upload, in a load, and before a request on a kept connection."""
    host, faults = net.host(), Faults()
    async with simulated_on(host, faults) as url, proxied(session, url) as proxy:
        await loaded(proxy, "alpha")
        async with proxy.stream("alpha", ENDLESS) as stream:
            await stream.content.readline()
            faults.answers, faults.stalled = Answers.SILENT, True
            phases = [
                asyncio.create_task(phase)
                for phase in (refused(proxy.generate("alpha")), uploaded(proxy), refused(proxy.generate("beta")))
            ]
            await in_flight(proxy, 2)
            await is_in(proxy, "beta", "loading")
            host.cut()
            late = refused(proxy.generate("alpha"))
            async with asyncio.timeout(LIMIT_S):
                await asyncio.gather(broken_off(stream), late, *phases)
        await at_rest(proxy)
        faults.answers, faults.stalled = Answers.WHOLE, False
        host.mend()
        await is_served(proxy)


async def test_a_host_is_back_without_knowing_of_any_connection(session: aiohttp.ClientSession, net: Network) -> None:
    """What hung on the old one ends, its slots are free, and in single-active another model gets its turn."""
    host, faults = net.host(), Faults()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(simulated_on(host, faults, room=1))
        proxy = await stack.enter_async_context(proxied(session, url, mode="single-active", max_concurrent_models=None))
        await loaded(proxy, "alpha")
        streams = [await stack.enter_async_context(proxy.stream("alpha", ENDLESS)) for _ in range(4)]
        behind = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)
        net.restart(host)
        await stack.enter_async_context(simulated_on(host, faults, room=1))
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*map(broken_off, streams))
            assert (await behind)[0] in (200, 502)
            await is_served(proxy)


async def test_a_frozen_ollama_has_not_vanished(
    session: aiohttp.ClientSession, net: Network, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel still answers: a stream and an upload go on as soon as it does, though others vanish meanwhile."""
    monkeypatch.setattr(pool, "LOOK_S", 0.2)
    host, other, port = net.host(), net.host(), 11434
    ollama = OllamaServer(find(), tmp_path, OLLAMA_HOST=f"0.0.0.0:{port}")
    ollama.url = f"http://{host.address}:{port}"
    with host.inside():
        ollama.start()
    try:
        with host.inside():
            ollama.create(["alpha"])
        async with simulated_on(other, Faults()) as url, proxied(session, url) as vanishing:
            await loaded(vanishing, "alpha")
            async with proxied(session, ollama.url) as proxy:
                await loaded(proxy, "alpha")
                async with (
                    proxy.stream("alpha", 2000) as stream,
                    vanishing.stream("alpha", ENDLESS) as lost,
                ):
                    await stream.content.readline()
                    ollama.freeze()
                    upload = asyncio.create_task(proxy.session.post(proxy.url + BLOB, data=io.BytesIO(PIECE * 256)))
                    asking = asyncio.create_task(proxy.generate("alpha"))
                    other.cut()
                    async with asyncio.timeout(LIMIT_S):
                        await asyncio.gather(broken_off(lost), uploaded(vanishing))
                    assert not upload.done()
                    assert not asking.done()
                    ollama.thaw()
                    assert json.loads((await stream.read()).splitlines()[-1])["done"] is True
                    assert (await asking)[0] == 200
                    async with await upload as answer:
                        assert answer.status == 400  # Ollama's own check of the digest
    finally:
        ollama.stop()


# A front that hides it


@contextlib.asynccontextmanager
async def front(target: dict[str, int]) -> AsyncIterator[str]:
    """A TCP load balancer that keeps the connections of clients open when what is behind it is gone."""
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        inside, out = await asyncio.open_connection("127.0.0.1", target["port"])
        writers.append(out)
        back = asyncio.create_task(copy(inside, writer))
        await copy(reader, out)
        await back

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for writer in writers:
            writer.close()


async def test_another_process_behind_a_front(session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its list of runners tells that what the old one held is gone: what hung on that ends, and its slots are free."""
    monkeypatch.setattr(connection, "GONE_S", 1.0)
    monkeypatch.setattr(pool, "LOOK_S", 0.2)
    target: dict[str, int] = {}
    async with contextlib.AsyncExitStack() as stack:
        first = contextlib.AsyncExitStack()
        target["port"] = int((await first.enter_async_context(serving(Simulator(MODELS)))).rpartition(":")[2])
        url = await stack.enter_async_context(front(target))
        limited = proxied(session, url, model_swap_timeout=1.0, mode="single-active", max_concurrent_models=None)
        proxy = await stack.enter_async_context(limited)
        await loaded(proxy, "alpha")
        streams = [await stack.enter_async_context(proxy.stream("alpha", ENDLESS)) for _ in range(4)]
        for stream in streams:
            await stream.content.readline()
        await first.aclose()
        target["port"] = int((await stack.enter_async_context(serving(Simulator(MODELS)))).rpartition(":")[2])
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*map(broken_off, streams))
            await is_served(proxy)


# Clients


async def asking(host: Host, proxy: Client, method: str, path: str, body: Any = None, more: int = 0) -> socket.socket:
    """A connection of a client on that host, on which something was asked; `more` bytes of a body never come."""
    with host.inside():
        sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content) + more}\r\n\r\n"
    await loop.sock_connect(sock, (host.gateway, int(proxy.url.rpartition(":")[2])))
    await loop.sock_sendall(sock, head.encode() + content)
    return sock


def prompt(model: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "prompt": "x", "options": {"num_predict": tokens}}


async def test_clients_vanish_in_each_phase(session: aiohttp.ClientSession, net: Network) -> None:
    """In mid-stream, in an upload, in the stream of events and while they wait; one that only does not read stays."""
    host, gone, slow = net.host(), net.host(), net.host()
    faults = Faults()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(simulated_on(host, faults, room=1))
        proxy = await stack.enter_async_context(proxied(session, url, mode="single-active", max_concurrent_models=None))
        await loaded(proxy, "alpha")
        with await asking(slow, proxy, "POST", "/api/generate", prompt("alpha", 1500)) as reluctant:
            await in_flight(proxy, 1)
            vanishing = [await asking(gone, proxy, "POST", "/api/generate", prompt("alpha", ENDLESS)) for _ in range(3)]
            await in_flight(proxy, 4)
            vanishing += [await asking(gone, proxy, "POST", "/api/generate", prompt("beta", 4)) for _ in range(3)]
            await waits(proxy, 3)
            vanishing.append(await asking(gone, proxy, "GET", "/events"))
            vanishing.append(await asking(gone, proxy, "POST", BLOB, more=1000))
            gone.cut()
            async with asyncio.timeout(LIMIT_S):
                await waits(proxy, 0)
                await in_flight(proxy, 1)
            await loaded(proxy, "alpha")
            assert await proxy.metric("swapper_swaps_total") == 1  # none for those who were gone
            received, loop = b"", asyncio.get_running_loop()
            while b'"done":true' not in received:
                piece = await loop.sock_recv(reluctant, 65536)
                assert piece, "it was cut off though it is there"
                received = received[-1000:] + piece
        await at_rest(proxy)
        for sock in vanishing:
            sock.close()
