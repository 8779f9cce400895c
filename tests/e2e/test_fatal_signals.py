"""A real Ollama killed and frozen at the worst moments, restarted with other models, replaced by something else."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import msgspec
import pytest

from swapper_proxy import config
from swapper_proxy.app import running
from swapper_proxy.config import Upstream
from swapper_proxy.ollama import client, pool
from tests.e2e.conftest import Client, at_rest, is_in, settings, until, waits
from tests.e2e.faulty import MESSAGES, healthy, is_served, text_of
from tests.real.install import find
from tests.real.models import Model, Weights
from tests.real.server import OllamaServer

PATHS = ("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/messages")
SLOWER = Model(Weights(seed=8, layers=40, feed_forward=2048))  # slow enough to be caught while it is loaded
PATIENT, HASTY = {"grace": 60.0}, {"grace": 0.5}


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes ten seconds takes two."""
    monkeypatch.setattr(client, "ASK_TIMEOUT_S", 2.0)
    monkeypatch.setattr(pool, "LOOK_S", 0.05)


@pytest.fixture
def mortal(tmp_path) -> Iterator[OllamaServer]:
    server = OllamaServer(find(), tmp_path, OLLAMA_MAX_LOADED_MODELS="1")
    server.start()
    try:
        server.create(["alpha", "beta"])
        server.create_model("slow", SLOWER)
        yield server
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def before(
    session: aiohttp.ClientSession, url: str, limits: Any, models: Any = None, **swapper: Any
) -> AsyncIterator[Client]:
    """The proxy; `limits` are those of `upstream`."""
    swapper = {"model_swap_timeout": 300.0} | swapper  # loads are slow on a busy machine
    chosen = msgspec.structs.replace(settings(url, **swapper), upstream=Upstream(url=url, **limits))
    chosen = msgspec.structs.replace(chosen, models=models or chosen.models)
    async with running(chosen) as proxy:
        yield Client(session, proxy.url)


async def degraded(proxy: Client) -> None:
    async def is_so() -> bool:
        return not await healthy(proxy)

    await until(is_so)


async def in_flight(proxy: Client, number: int) -> None:
    async def so_many() -> bool:
        return bool((await proxy.status())["in_flight"] == number)

    await until(so_many)


async def start(server: OllamaServer) -> None:
    await asyncio.to_thread(server.start)


async def refused_in_all_dialects(proxy: Client) -> None:
    async def ask(path: str) -> tuple[int, str]:
        body = {"model": "beta", "prompt": "x", "messages": MESSAGES, "max_tokens": 4, "stream": False}
        status, answer = await proxy.post(path, body)
        return status, text_of(path, answer)

    for status, text in await asyncio.gather(*map(ask, PATHS)):
        assert status == 502
        assert text.startswith("Ollama is not reachable")


# Killed


async def test_killed_in_mid_load_and_back(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    """Those who wait are kept, and are served by the next one."""
    async with before(session, mortal.url, PATIENT) as proxy:
        loading = [asyncio.create_task(proxy.generate("slow")) for _ in range(3)]
        await is_in(proxy, "slow", "loading")
        behind = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 4)
        mortal.kill()
        await degraded(proxy)
        await start(mortal)
        assert [status for status, _ in await asyncio.gather(*loading, behind)] == [200] * 4
        await is_served(proxy)
        assert await proxy.metric("swapper_load_failures_total") == 0


async def test_killed_in_mid_load_for_longer(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    async with before(session, mortal.url, HASTY) as proxy:
        loading = asyncio.create_task(proxy.generate("slow"))
        await is_in(proxy, "slow", "loading")
        mortal.kill()
        status, answer = await loading
        assert (status, answer["error"].startswith("Ollama is not reachable: nothing listens at ")) == (502, True)
        await refused_in_all_dialects(proxy)
        await at_rest(proxy)
        await start(mortal)
        await is_served(proxy)


async def test_killed_in_mid_stream_with_others_waiting(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    async with before(session, mortal.url, PATIENT) as proxy, proxy.stream("alpha", 20000) as stream:
        await stream.content.readline()
        behind = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)
        mortal.kill()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
        await start(mortal)
        assert (await behind)[0] == 200
        await is_served(proxy)


async def test_killed_in_mid_unload(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    async with before(session, mortal.url, PATIENT) as proxy:
        assert (await proxy.generate("alpha"))[0] == 200
        mortal.freeze()  # so that the unload takes long enough
        asking = asyncio.create_task(proxy.generate("beta"))
        await is_in(proxy, "first", "unloading", "unloaded")
        mortal.kill()
        await degraded(proxy)
        await start(mortal)
        assert (await asking)[0] == 200
        await is_served(proxy)


# Frozen


async def test_frozen_in_mid_load(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    async with before(session, mortal.url, HASTY) as proxy:
        asking = asyncio.create_task(proxy.generate("slow"))
        await is_in(proxy, "slow", "loading")
        mortal.freeze()
        status, answer = await asking
        assert (status, answer["error"].startswith("Ollama is not reachable: no answer ")) == (502, True)
        await refused_in_all_dialects(proxy)
        await at_rest(proxy)
        mortal.thaw()
        await is_served(proxy)


async def test_frozen_for_a_moment(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    """Nobody notices."""
    async with before(session, mortal.url, HASTY) as proxy, proxy.stream("alpha", 2000) as stream:
        await stream.content.readline()
        mortal.freeze()
        asking = [asyncio.create_task(proxy.generate(model)) for model in ("alpha", "beta")]
        await in_flight(proxy, 2)  # beta is not known yet, and is still asked about
        mortal.thaw()
        assert json.loads((await stream.read()).splitlines()[-1])["done"] is True
        assert [status for status, _ in await asyncio.gather(*asking)] == [200, 200]
        await is_served(proxy)


async def test_frozen_in_mid_stream(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    """Its stream is not cut, and goes on to its end; who waits meanwhile is told."""
    async with before(session, mortal.url, HASTY) as proxy, proxy.stream("alpha", 2000) as stream:
        await stream.content.readline()
        mortal.freeze()
        status, answer = await proxy.generate("beta")
        assert (status, "Ollama is not reachable" in answer["error"]) == (502, True)
        await degraded(proxy)
        mortal.thaw()
        assert json.loads((await stream.read()).splitlines()[-1])["done"] is True
        await is_served(proxy)


async def test_frozen_in_mid_stream_for_longer_than_idle_timeout(session, mortal: OllamaServer) -> None:
    limits = HASTY | {"idle_timeout": 1.0}
    async with before(session, mortal.url, limits) as proxy, proxy.stream("alpha", 20000) as stream:
        await stream.content.readline()
        mortal.freeze()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
        await at_rest(proxy)
        mortal.thaw()
        await is_served(proxy)


async def test_frozen_in_mid_unload(session: aiohttp.ClientSession, mortal: OllamaServer) -> None:
    async with before(session, mortal.url, PATIENT) as proxy:
        assert (await proxy.generate("alpha"))[0] == 200
        mortal.freeze()
        asking = asyncio.create_task(proxy.generate("beta"))
        await is_in(proxy, "first", "unloading", "unloaded")
        await degraded(proxy)
        mortal.thaw()
        assert (await asking)[0] == 200
        await is_served(proxy)


# Only the process that holds the model


async def test_a_runner_frozen_in_mid_load(
    session, mortal: OllamaServer, monkeypatch: pytest.MonkeyPatch, passes: Callable[[float], None]
) -> None:
    """The watch over loads ends it, and Ollama is of use again."""
    monkeypatch.setattr(client, "ASK_TIMEOUT_S", 3600.0)
    async with before(session, mortal.url, {"grace": 3600.0}, load_stall_timeout=60.0) as proxy:
        asking = asyncio.create_task(proxy.generate("slow"))

        async def frozen() -> bool:
            return mortal.signal_runners(signal.SIGSTOP) > 0

        await until(frozen)
        behind = asyncio.create_task(proxy.generate("beta"))

        async def is_given_up() -> bool:
            passes(1.0)
            return asking.done()

        await until(is_given_up)
        assert await asking == (503, {"error": "the model could not be loaded"})
        assert (await behind)[0] == 200
        await is_served(proxy)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_runner_lost_in_mid_stream(session, mortal: OllamaServer, number: int) -> None:
    limits = HASTY | {"idle_timeout": 2.0}
    async with before(session, mortal.url, limits) as proxy, proxy.stream("alpha", 20000) as stream:
        await stream.content.readline()
        behind = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)
        assert mortal.signal_runners(number) > 0
        with contextlib.suppress(aiohttp.ClientPayloadError):  # Ollama itself may say that it was an error
            assert b'"done":true' not in await stream.read()
        assert (await behind)[0] == 200
        await is_served(proxy)
        recorded = [await proxy.metric("swapper_model_requests_total", status=status) for status in ("502", "504")]
        assert recorded == ([1, 0] if number == signal.SIGKILL else [0, 1])


@pytest.mark.parametrize("pinned", [False, True])
async def test_a_runner_that_does_not_answer_is_replaced(
    session, mortal: OllamaServer, monkeypatch: pytest.MonkeyPatch, passes: Callable[[float], None], pinned: bool
) -> None:
    """Once: the limits are long for the new one, and pass at once for the old one."""
    monkeypatch.setattr(client, "ASK_TIMEOUT_S", 3600.0)
    limits = {"grace": 3600.0, "first_byte_timeout": 60.0, "idle_timeout": 60.0}
    models = {"alpha": config.Model(path="ollama:alpha", pinned=pinned)}
    async with before(session, mortal.url, limits, models) as proxy, proxy.stream("alpha", 20000) as stream:
        await stream.content.readline()
        assert mortal.signal_runners(signal.SIGSTOP) > 0
        asking = [asyncio.create_task(proxy.generate("alpha")) for _ in range(2)]
        reading = asyncio.create_task(stream.read())

        async def all_are_given_up() -> bool:
            passes(1.0)
            return all(task.done() for task in (reading, *asking))

        await in_flight(proxy, 3)
        await until(all_are_given_up)
        with contextlib.suppress(aiohttp.ClientPayloadError):
            assert b'"done":true' not in await reading
        await asyncio.gather(*asking)
        await is_served(proxy, "alpha")
        assert await proxy.metric("swapper_unload_seconds_count") == 1


# Another one, or something else


async def test_back_with_other_models(session: aiohttp.ClientSession, mortal: OllamaServer, tmp_path) -> None:
    async with before(session, mortal.url, HASTY) as proxy:
        assert (await proxy.generate("alpha"))[0] == 200
        mortal.kill()
        await degraded(proxy)
        mortal.models = tmp_path / "others"
        await start(mortal)
        await asyncio.to_thread(mortal.create, ["gamma"])
        await is_served(proxy, "gamma")
        assert await proxy.generate("alpha") == (404, {"error": "model 'alpha' not found"})
        assert [m["name"] for m in (await proxy.get("/api/tags"))[1]["models"]] == ["gamma:latest"]
        await at_rest(proxy)


async def test_back_without_what_is_waited_for(session: aiohttp.ClientSession, mortal: OllamaServer, tmp_path) -> None:
    async with before(session, mortal.url, PATIENT) as proxy, proxy.stream("alpha", 20000) as stream:
        await stream.content.readline()
        behind = [asyncio.create_task(proxy.generate("beta")) for _ in range(2)]
        await waits(proxy, 2)
        mortal.kill()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
        mortal.models = tmp_path / "others"
        await start(mortal)
        for answer in await asyncio.gather(*behind):
            assert answer == (404, {"error": "model 'beta' not found"})
        await asyncio.to_thread(mortal.create, ["beta"])  # its return is noticed, too
        await is_served(proxy, "beta")


def alien(kind: str) -> Any:
    """Something on Ollama's port that is none: a handler of connections."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(65536)
            if kind == "silent":
                await reader.read()
            elif kind == "closing":
                pass
            elif kind == "no HTTP":
                writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            else:
                status, content_type, body = ALIENS[kind]
                head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        writer.close()

    return serve


ALIENS = {
    "a web page": (200, "text/html", b"<html>hello</html>"),
    "another service": (200, "application/json", b'{"status": "ok"}'),
    "nothing there": (404, "text/plain", b"not found"),
    "behind a login": (401, "application/json", b'{"error": "who are you?"}'),
}
KINDS = ["silent", "closing", "no HTTP", *ALIENS]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_port_is_taken(session: aiohttp.ClientSession, mortal: OllamaServer, kind: str) -> None:
    async with before(session, mortal.url, HASTY) as proxy:
        assert (await proxy.generate("alpha"))[0] == 200
        mortal.kill()
        server = await asyncio.start_server(alien(kind), "127.0.0.1", mortal.port)
        await degraded(proxy)
        await refused_in_all_dialects(proxy)
        assert (await proxy.get("/ready"))[0] == 503
        await at_rest(proxy)
        server.close()
        await start(mortal)
        await is_served(proxy)


@pytest.mark.parametrize("kind", ["silent", "another service"])
async def test_the_port_was_taken_before_the_start(session: aiohttp.ClientSession, tmp_path, kind: str) -> None:
    ollama = OllamaServer(find(), tmp_path, OLLAMA_MAX_LOADED_MODELS="1")
    server = await asyncio.start_server(alien(kind), "127.0.0.1", ollama.port)
    async with before(session, ollama.url, HASTY) as proxy:
        assert not await healthy(proxy)
        await refused_in_all_dialects(proxy)
        server.close()
        try:
            await start(ollama)
            await asyncio.to_thread(ollama.create, ["beta"])
            await is_served(proxy, "beta")
        finally:
            ollama.stop()
