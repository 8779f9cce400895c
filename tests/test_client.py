"""Second tries: only of what Ollama cannot have begun, and only one."""

import asyncio
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from swapper_proxy.ollama.client import OllamaClient
from swapper_proxy.ollama.connection import Connection
from swapper_proxy.runtime.ports import Body, UpstreamUnreachable

if sys.platform != "win32":
    import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LIMIT_S = 60  # only a hang takes so long
TOLD_EARLY = sys.platform == "linux"  # that nothing of a request came
RESETS = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s

# What a server does once a request is there: answer it, and how it leaves.
KEEP, LEAVE, CLOSE, RESET = "answers", "answers and closes", "closes", "resets"


@dataclass
class Upstream(threading.Thread):
    """A server in a thread, so that the loop of the client can stand still while a connection is closed."""

    acts: list[str]
    asked: list[bytes] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._address = self._listening.getsockname()
        self.url = f"http://127.0.0.1:{self._address[1]}"

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while self.acts:
            connection = self._listening.accept()[0]
            connection.settimeout(LIMIT_S)
            self._serve(connection)
        self._listening.close()

    def _serve(self, connection: socket.socket) -> None:
        while self.acts and (asked := self._read(connection)):
            self.asked.append(asked)
            act = self.acts.pop(0)
            if act in (KEEP, LEAVE):
                connection.sendall(ANSWER.removesuffix(b"ok") if asked.startswith(b"HEAD") else ANSWER)
            if act == RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
            if act != KEEP:
                break
        connection.close()
        self.left.set()

    def _read(self, connection: socket.socket) -> bytes:
        asked = b""
        while not asked.endswith(b"\r\n\r\n" if asked.startswith((b"GET", b"HEAD")) else b"body"):
            if not (piece := connection.recv(1000)):
                return b""
            asked += piece
        return asked

    def has_left(self) -> None:
        """Return when the connection is closed; the loop, which waits here, hears of it later."""
        assert self.left.wait(LIMIT_S)

    def end(self) -> None:
        self.acts.clear()
        with suppress(ConnectionRefusedError):  # unless it waits for a connection, which is to be the last one
            socket.create_connection(self._address).close()
        self.join(LIMIT_S)
        assert not self.is_alive()


@contextmanager
def upstream(*acts: str) -> Iterator[Upstream]:
    server = Upstream(list(acts))
    server.start()
    yield server
    server.end()


async def ask(client: OllamaClient, method: str = "POST", body: Body = (b"body",)) -> bytes:
    headers = [(b"Content-Length", b"4")] if body else []
    answer = await client.send(method, "/api/generate", headers, body)
    return await answer.rest()


async def streamed() -> AsyncIterator[bytes]:
    yield b"body"


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
if sys.platform != "win32":
    LOOPS.append(uvloop.new_event_loop)


@pytest.fixture(params=LOOPS, ids=lambda make: make.__module__.partition(".")[0])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """A loop of each kind on which the proxy may run."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@pytest.mark.parametrize("comes", ["at hand", "streamed"])
def test_what_was_closed_meanwhile_is_not_used(runner: asyncio.Runner, method: str, comes: str) -> None:
    body: Body = () if method == "GET" else (b"body",) if comes == "at hand" else streamed()

    async def twice() -> None:
        async with asyncio.timeout(LIMIT_S), OllamaClient(server.url) as client:
            assert await ask(client) == b"ok"
            server.has_left()
            assert await ask(client, method, body) == b"ok"

    with upstream(LEAVE, KEEP) as server:
        runner.run(twice())
        assert len(server.asked) == 2


@pytest.mark.parametrize("act", [CLOSE, RESET])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_what_ollama_may_have_begun_is_not_sent_again(runner: asyncio.Runner, method: str, act: str) -> None:
    async def twice() -> None:
        async with asyncio.timeout(LIMIT_S), OllamaClient(server.url) as client:
            assert await ask(client) == b"ok"
            with pytest.raises(UpstreamUnreachable) as caught:
                await ask(client, method)
            assert caught.value.sent

    with upstream(KEEP, act, KEEP) as server:
        runner.run(twice())
        assert len(server.asked) == 2


@pytest.mark.parametrize("act", [CLOSE, RESET])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_only_asks_is_sent_once_more(runner: asyncio.Runner, method: str, act: str) -> None:
    async def twice() -> None:
        async with asyncio.timeout(LIMIT_S), OllamaClient(server.url) as client:
            assert await ask(client) == b"ok"
            assert await ask(client, method, ()) == (b"ok" if method == "GET" else b"")

    with upstream(KEEP, act, KEEP) as server:
        runner.run(twice())
        assert len(server.asked) == 3


def test_nothing_is_tried_a_third_time(runner: asyncio.Runner) -> None:
    async def twice() -> None:
        async with asyncio.timeout(LIMIT_S), OllamaClient(server.url) as client:
            assert await ask(client) == b"ok"
            with pytest.raises(UpstreamUnreachable):
                await ask(client, "GET", ())

    with upstream(KEEP, CLOSE, CLOSE, KEEP) as server:
        runner.run(twice())
        assert len(server.asked) == 3


def test_a_fresh_connection_that_breaks_is_not_tried_again(runner: asyncio.Runner) -> None:
    async def once() -> None:
        async with asyncio.timeout(LIMIT_S), OllamaClient(server.url) as client:
            with pytest.raises(UpstreamUnreachable):
                await ask(client, "GET", ())

    with upstream(CLOSE, KEEP) as server:
        runner.run(once())
        assert len(server.asked) == 1


@pytest.mark.parametrize("comes", ["at hand", "streamed"])
def test_what_is_closed_in_the_moment_of_sending(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """The kernel tells that Ollama got nothing of it; a body that came in pieces is not there any more."""
    monkeypatch.setattr(Connection, "is_open", lambda _: True)  # as it was when it was looked at
    again = comes == "at hand" and TOLD_EARLY

    async def thrice() -> None:
        async with asyncio.timeout(LIMIT_S), OllamaClient(server.url) as client:
            assert await ask(client) == b"ok"
            assert await ask(client) == b"ok"
            server.has_left()
            if again:
                assert await ask(client) == b"ok"
            else:
                with pytest.raises(UpstreamUnreachable):
                    await ask(client, "POST", (b"body",) if comes == "at hand" else streamed())

    with upstream(KEEP, LEAVE, KEEP) as server:
        runner.run(thrice())
        assert len(server.asked) == 2 + again
