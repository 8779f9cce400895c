"""An upstream that answers anything and keeps what it is asked, and connections on which all is written by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec

from swapper_proxy.app import running
from swapper_proxy.config import Keys, Server, Settings, Upstream
from tests.waiting import LIMIT_S

# What the proxy itself asks for, sooner or later.
OWN = (b"GET /api/ps ", b"GET /api/version ", b"GET /api/tags ")
ANSWER = b'{"models":[],"version":"0.9.3"}'


@dataclass
class Recording:
    """Heads and bodies of the requests, those of the proxy's own left out; `broken` are those that did not end.

    `raw` is what all others are answered with, if it is given; `own` are the heads of the proxy's own.
    """

    url: str = ""
    raw: bytes = b""
    own: list[bytes] = field(default_factory=list)
    asked: list[tuple[bytes, bytes]] = field(default_factory=list)
    broken: list[bytes] = field(default_factory=list)

    @property
    def lines(self) -> list[bytes]:
        """The request lines."""
        return [head.partition(b"\r\n")[0] for head, _ in self.asked]


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    assert not {b"content-length", b"transfer-encoding"} <= fields.keys()
    if b"transfer-encoding" in fields:
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        return b"".join(pieces)
    return await reader.readexactly(int(fields.get(b"content-length", 0)))


@contextlib.asynccontextmanager
async def recording() -> AsyncIterator[Recording]:
    kept, tasks = Recording(), set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        head = b""
        try:
            while True:
                head = b""
                head = await reader.readuntil(b"\r\n\r\n")
                body = await _body(reader, head)
                own = head.startswith(OWN)
                (kept.own if own else kept.asked).append(head if own else (head, body))
                if kept.raw and not own:
                    writer.write(kept.raw)
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n" % len(ANSWER))
                if not head.startswith(b"HEAD"):
                    writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            if head:
                kept.broken.append(head)
        finally:
            tasks.discard(asyncio.current_task())
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    kept.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield kept
    server.close()
    while tasks:
        await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """For so long as a test may take."""
    host, _, port = url.removeprefix("http://").partition(":")
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@dataclass
class Wire:
    """A connection to the proxy on which everything is written by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one answer that tells its length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        size = 0 if method == "HEAD" else int(headers["content-length"])
        return int(head[0].split()[1]), headers, await self.reader.readexactly(size)

    async def is_closed(self) -> bool:
        """Once it is, by the proxy, with nothing more said."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


@dataclass
class Target:
    """A proxy in front of a recording upstream."""

    url: str
    upstream: Recording

    @contextlib.asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        async with connected(self.url) as streams:
            yield Wire(*streams)

    async def serves_others(self, key: str = "") -> None:
        """Somebody else is answered meanwhile, by the proxy and through it."""
        keyed = f"Authorization: Bearer {key}\r\n".encode() if key else b""
        async with self.wire() as wire:
            for path in ("/health", "/api/beside"):
                await wire.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path.encode(), keyed))
                assert (await wire.answer())[0] == 200


@contextlib.asynccontextmanager
async def recorded(keys: Keys | None = None, **server: object) -> AsyncIterator[Target]:
    async with recording() as upstream:
        chosen = msgspec.structs.replace(Server(port=0), **server)
        settings = Settings(server=chosen, upstream=Upstream(url=upstream.url), keys=keys or Keys())
        async with running(settings) as proxy:
            yield Target(proxy.url, upstream)
