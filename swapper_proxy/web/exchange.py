"""One request of a client and the answer to it, written straight to the client's transport."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus
from urllib.parse import unquote

from aiohttp import HttpVersion11, web

from swapper_proxy.runtime.ports import Header
from swapper_proxy.web.expecting import is_awaited
from swapper_proxy.web.headers import CHOSEN_MODEL, queued
from swapper_proxy.web.keys import Client

log = logging.getLogger("swapper_proxy.requests")

WITHOUT_BODY = (204, 304)
_KNOWN = frozenset(HTTPStatus)
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Exchange:
    """A request, what is known of it, and its answer.

    `target` is what stands in the request line, `path` the part of it that decides, as Ollama's router reads it:
    decoded, but not normalized.  `arrived` is on the monotonic clock.  `model` is the name that the client gave, for
    the log; `chosen` the model where a route or `use_llm` chose it; `waited_s` the time in the queue, None if it never
    was there.  `client` is whose key it came with, None where it needed none.  `is_lost` tells whether the process that
    Ollama had for it is gone, None where no model is used.  `status` is that of the answer, 0 while
    there is none; `outcome` the status that is recorded instead where the answer has no end; `content_type` that of
    Ollama's answer.  `sent`: Ollama has had the request, though it did not answer.
    """

    def __init__(self, request: web.BaseRequest, allowed: list[Header], write_timeout_s: float) -> None:
        raw = request.raw_path
        self.request = request
        self._protocol = request.protocol
        target = raw if raw.startswith("/") else request.rel_url.raw_path_qs or "/"
        self.target = target.replace("#", "%23")  # to Ollama a part of the path
        self.path = unquote(self.target.partition("?")[0])
        self.arrived = time.monotonic()
        self.model = ""
        self.chosen = ""
        self.waited_s: float | None = None
        self.is_lost: Callable[[], bool] | None = None
        self.client: Client | None = None
        self.status = 0
        self.outcome = 0
        self.sent = False
        self.content_type = ""
        self._allowed = allowed  # what a browser is told of the origin
        self._write_timeout_s = write_timeout_s
        self._chunked = False

    @cached_property
    def request_id(self) -> str:
        """The client's own X-Request-Id if it is a plain one, else one of the proxy's."""
        given = self.request.headers.get("X-Request-Id", "")
        return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

    @property
    def own_headers(self) -> list[Header]:
        """What the proxy says of its part."""
        chosen = [(CHOSEN_MODEL, self.chosen.encode())] if self.chosen else []
        return [*chosen, *(queued(self.waited_s) if self.waited_s is not None else [])]

    @property
    def is_connected(self) -> bool:
        """Return True unless the client has left."""
        return (transport := self._protocol.transport) is not None and not transport.is_closing()

    # The answer

    def begin(self, status: int, reason: bytes, headers: list[Header], first: bytes = b"", *, sized: bool) -> None:
        """Status line and headers, with the first piece of the body if it is there already.

        A body whose length the headers do not tell goes in chunks, or to the end of the connection where the client
        knows none.  A client that waits to be told to send its body may leave it out after an answer: the connection is
        closed, since nobody could tell the body from the next request.
        """
        self.status = status
        request = self.request
        sized = sized or status in WITHOUT_BODY or request.method == "HEAD"
        latest = request.version >= HttpVersion11
        self._chunked = latest and not sized
        self.keep_alive = request.keep_alive and (latest or sized) and not is_awaited(request)
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        lines += [b"%b: %b\r\n" % header for header in self._allowed]
        if self._chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        if self.keep_alive is not latest:
            lines.append(b"Connection: keep-alive\r\n" if self.keep_alive else b"Connection: close\r\n")
        lines.append(b"\r\n")
        if first:
            lines.append(self._framed(first))
        self._send(b"".join(lines))

    def write(self, piece: bytes) -> bool:
        """A piece of the body; False if the client takes no more for now, see `room`."""
        if (transport := self._protocol.transport) is not None:
            transport.write(self._framed(piece))
        return not self._protocol.writing_paused

    @property
    def is_full(self) -> bool:
        """Whether the client takes no more for now."""
        return self._protocol.writing_paused

    async def room(self) -> None:
        """Returns when the client has taken enough of what was written.

        Raises ConnectionError if it left, or has taken nothing for so long that its connection is closed.
        """
        unsent = self.unsent + 1
        while self.unsent < unsent:
            unsent = self.unsent
            try:
                async with asyncio.timeout(self._write_timeout_s):
                    return await self.request.writer.drain()
            except TimeoutError:
                pass  # unless it took something meanwhile
        self.abort()
        log.warning(
            "closed: the client does not read", extra={"request_id": self.request_id, "endpoint": self.path[:64]}
        )
        raise ConnectionResetError("the client does not read")

    @property
    def unsent(self) -> int:
        """Bytes that were written and wait for the client to take them."""
        return 0 if (transport := self._protocol.transport) is None else transport.get_write_buffer_size()

    def end(self) -> None:
        """The body is complete."""
        if self._chunked:
            self._send(b"0\r\n\r\n")

    def break_off(self, last: bytes = b"") -> None:
        """The body never will be: the connection is closed in the middle of it, after these last words."""
        if last:
            self._send(self._framed(last))
        self.keep_alive = False
        if self._protocol.transport is not None:
            self._protocol.transport.close()  # what is written is sent

    def abort(self) -> None:
        """Close the connection at once; what was not sent is lost."""
        self.keep_alive = False
        if self._protocol.transport is not None:
            self._protocol.transport.abort()

    def answer(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """All of it at once, by the proxy itself."""
        date = formatdate(usegmt=True).encode()
        headers = [*headers, (b"Content-Length", b"%d" % len(body)), (b"Date", date)]
        reason = HTTPStatus(status).phrase.encode() if status in _KNOWN else b""  # Ollama's failure may be any
        self.begin(status, reason, headers, b"" if self.request.method == "HEAD" else body, sized=True)

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece

    def _send(self, data: bytes) -> None:
        if (transport := self._protocol.transport) is not None:  # else the client left; who serves it is about to hear
            transport.write(data)

    # For aiohttp's server, which would write a response that it is given

    async def prepare(self, _: web.BaseRequest) -> None:
        """It was written."""

    async def write_eof(self) -> None:
        """To its end."""
