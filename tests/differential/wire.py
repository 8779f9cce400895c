"""One HTTP/1.1 exchange on a connection of its own, written and read byte by byte: nothing is normalized on the way."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tests.waiting import LIMIT_S

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Request:
    """What a client sends.  A `body` of None sends no Content-Length either; `chunked` sends it in two chunks."""

    method: str
    path: str
    body: bytes | None = None
    headers: Headers = ()
    host: str | None = None
    chunked: bool = False

    def encode(self, netloc: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {self.host or netloc}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self._payload()

    def _payload(self) -> bytes:
        body = self.body or b""
        if not self.chunked:
            return body
        halves = body[: len(body) // 2], body[len(body) // 2 :]
        return b"".join(b"%x\r\n%b\r\n" % (len(half), half) for half in halves) + b"0\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """What came back; header names in lower case, the body without its framing."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for given, value in self.headers if given == name), None)


async def exchange(url: str, request: Request) -> Reply:
    """The connection is left open until the whole answer is there: else what was not read yet could reset it."""
    address = urlsplit(url)
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**26)
        try:
            with contextlib.suppress(ConnectionError):  # it may have answered before it read everything
                writer.write(request.encode(address.netloc))
                await writer.drain()
            return await _read(reader, bodiless=request.method == "HEAD")
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, *, bodiless: bool) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    reply = Reply(int(status_line.split()[1]), tuple((name.lower(), value.strip()) for name, _, value in pairs), b"")
    return reply if bodiless else replace(reply, body=await _body(reader, reply))


async def _body(reader: asyncio.StreamReader, reply: Reply) -> bytes:
    if reply.header("transfer-encoding") != "chunked":
        return await reader.readexactly(int(reply.header("content-length") or 0))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return body
