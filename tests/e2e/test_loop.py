"""The proxy as its own upstream, under a name that does not show it, and rings of proxies."""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import ClientKey, ConfigError, Keys, Server, Settings, digest
from swapper_proxy.config.addresses import is_served
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime import watcher
from swapper_proxy.web.front import MOST_PROXIES
from tests.e2e.conftest import Client, settings, until
from tests.e2e.network import network
from tests.e2e.recording import recording
from tests.real.server import free_port

LEADS_BACK = r"leads back to this proxy; it must be the address of Ollama"
MOST_SOCKETS = 10
PROMPT = {"model": "alpha", "prompt": "x", "stream": False}


def on(port: int, url: str) -> Settings:
    return msgspec.structs.replace(settings(url), server=Server(port=port, shutdown_grace=1.0))


@dataclass
class Forwarder:
    """Another name for whatever listens on `target`."""

    url: str = ""
    target: int = 0
    taken: int = 0
    asked: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        self.open.add(writer)
        with contextlib.suppress(OSError):
            inside, out = await asyncio.open_connection("127.0.0.1", self.target)
            back = asyncio.create_task(self._copy(inside, writer))
            await self._copy(reader, out)
            await back
        self.open.discard(writer)
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                self.asked += piece.count(b"HTTP/1.1\r\n")
                writer.write(piece)
        writer.close()

    def hang_up(self) -> None:
        for writer in self.open:
            writer.close()


@pytest.fixture
async def forwarder() -> AsyncIterator[Forwarder]:
    made = Forwarder()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
    made.hang_up()


async def test_the_start_is_refused(forwarder: Forwarder) -> None:
    forwarder.target = free_port()
    with pytest.raises(ConfigError, match=LEADS_BACK):
        async with running(on(forwarder.target, forwarder.url)):
            pass
    assert forwarder.taken <= MOST_SOCKETS


async def test_the_command_ends_with_one_clear_line(forwarder: Forwarder) -> None:
    port = forwarder.target = free_port()
    command = [sys.executable, "-m", "swapper_proxy", "serve", "--port", str(port), "--upstream", forwarder.url]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 2
    assert re.search(f"swapper-proxy: {re.escape(forwarder.url)}: .*{LEADS_BACK}", said.decode())
    assert said.count(b"leads back") == 1
    assert forwarder.taken <= MOST_SOCKETS


async def test_the_last_of_a_ring_does_not_start() -> None:
    first, second = free_port(), free_port()
    async with running(on(first, f"http://127.0.0.1:{second}")):
        with pytest.raises(ConfigError, match=LEADS_BACK):
            async with running(on(second, f"http://127.0.0.1:{first}")):
                pass


async def test_a_loop_that_comes_about_later(
    session: aiohttp.ClientSession,
    forwarder: Forwarder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told once in the log, in /health and to clients; the proxy's own questions make no avalanche of it."""
    monkeypatch.setattr(watcher, "BUSY_S", 0.02)
    monkeypatch.setattr(watcher, "QUIET_S", 0.02)
    async with serving(Simulator([SimulatedModel("alpha", load_s=0)])) as url:
        forwarder.target = ollama = int(url.rpartition(":")[2])
        async with running(settings(forwarder.url)) as up:
            proxy = Client(session, up.url)
            assert (await proxy.post("/api/generate", PROMPT))[0] == 200
            forwarder.target = int(up.url.rpartition(":")[2])
            forwarder.hang_up()

            async def noticed() -> bool:
                return "leads back" in (await proxy.get("/health"))[1].get("reason", "")

            await until(noticed)
            forwarder.taken = forwarder.asked = 0

            async def asked_often() -> bool:
                return forwarder.asked >= 100

            await until(asked_often)
            assert forwarder.taken <= MOST_SOCKETS
            assert len(forwarder.open) <= MOST_SOCKETS
            assert [record.message for record in caplog.records if "leads back" in record.message] != []
            assert caplog.text.count("leads back") == 1
            status, answer = await proxy.get("/api/tags")
            assert (status, "must be the address of Ollama" in answer["error"]) == (508, True)
            status, answer = await proxy.post("/v1/chat/completions", {"model": "new", "messages": []})
            assert (status, answer["error"]["code"]) in ((508, "loop"), (502, "upstream_unreachable"))
            assert "address of Ollama" in answer["error"]["message"]
            forwarder.target = ollama
            forwarder.hang_up()

            async def over() -> bool:
                health = (await proxy.get("/health"))[1]
                return health["status"] == "healthy" and "reason" not in health

            await until(over)
            assert (await proxy.post("/api/generate", PROMPT))[0] == 200


async def test_proxies_one_behind_the_other(session: aiohttp.ClientSession) -> None:
    async with (
        serving(Simulator([SimulatedModel("alpha", load_s=0)])) as url,
        running(settings(url)) as behind,
        running(settings(behind.url)) as before,
    ):
        assert (await Client(session, before.url).post("/api/generate", PROMPT))[0] == 200


def passed(head: bytes) -> list[str]:
    return re.findall(r"X-Swapper-Via: (\w+)", head.decode())


async def test_each_request_tells_which_proxies_it_has_passed(session: aiohttp.ClientSession) -> None:
    async with recording() as upstream, running(settings(upstream.url)) as up:
        proxy = Client(session, up.url)
        for headers in ({}, {"X-Swapper-Via": "another"}):
            async with session.get(f"{up.url}/nope", headers=headers) as answer:
                assert answer.status == 200
        (own,), (another, again) = (passed(head) for head, _ in upstream.asked)
        assert (another, again) == ("another", own)
        for path in ("/api/generate", "/v1/messages", "/health"):
            for via in (own, f"another, {own}", ", ".join(["x"] * (MOST_PROXIES + 1))):
                status, answer = await proxy.post(path, PROMPT, **{"X-Swapper-Via": via})
                assert (status, "address of Ollama" in str(answer)) == (508, True)
        assert len(upstream.asked) == 2


async def test_a_loop_is_told_before_a_key_is_asked_for(session: aiohttp.ClientSession) -> None:
    async with recording() as upstream:
        chosen = msgspec.structs.replace(
            settings(upstream.url), keys=Keys(clients={"ann": ClientKey(key_sha256=digest("a" * 20))})
        )
        async with running(chosen) as up:
            assert up.url
            async with session.get(f"{up.url}/api/tags") as answer:
                assert answer.status == 401
            via = ", ".join(["x"] * (MOST_PROXIES + 1))
            async with session.get(f"{up.url}/api/tags", headers={"X-Swapper-Via": via}) as answer:
                assert answer.status == 508


def test_an_address_of_this_machine_is_known_before_the_start() -> None:
    with network() as net:
        host = net.host()
        assert is_served("0.0.0.0", host.gateway)
        assert is_served(host.gateway, host.gateway)
        assert not is_served("127.0.0.1", host.gateway)
        assert not is_served("0.0.0.0", host.address)
