"""What can be made to go wrong, given to `Simulator(..., faults=Faults(...))` and changed while it runs.

Loads, unloads and /api/ps go wrong where they are made.  Answers do on the wire: `Breaking` stands in for the transport
of their connection.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from aiohttp import web

_LENGTH = re.compile(rb"(?i)(\r\ncontent-length: )(\d+)")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
POLL_S = 0.003
SURPLUS = 10  # bytes that are promised and do not come, or come and were not promised
ANSWERING = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/v1/")
TOO_BUSY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'


class Answers(Enum):
    """How answers come."""

    WHOLE = "as they should"
    RESET = "the connection is reset before the first byte"
    RESET_INSIDE = "it is reset in the middle of the first piece: of a chunk, in a stream"
    CLOSED_INSIDE = "it is closed there"
    SILENT = "nothing comes, and the connection stays open"
    SILENT_INSIDE = "nothing more comes from there on"
    TOO_SHORT = "the connection is closed with 10 bytes of the promised Content-Length still to come"
    TOO_LONG = "10 bytes more come than the Content-Length promises"
    BYTEWISE = "one byte at a time"
    GARBAGE = "something that is no HTTP"


INSIDE = (Answers.RESET_INSIDE, Answers.CLOSED_INSIDE, Answers.SILENT_INSIDE)
LAST = 3  # bytes of the first piece that do not come: in a stream, the ends of its line and of its chunk


@dataclass
class Faults:
    """Everything is well by default, and again as soon as it is said here.

    - `load_s`: seconds that each load takes longer
    - `stalled`: no load ends
    - `failing`: so many of the next loads fail, all of them with `math.inf`
    - `kept`: what is to be unloaded stays
    - `listing`: /api/ps tells the truth, or nothing, or what it told before, or answers 500
    - `silent`: requests are taken and not answered, whatever they ask
    - `busy`: so many of the next requests to models, loads included, are answered 503
    - `answers`: how answers of models come, loads excluded; it befalls `share` of them, chosen by `dice`
    """

    load_s: float = 0.0
    stalled: bool = False
    failing: float = 0
    kept: bool = False
    listing: Literal["true", "empty", "old", "error"] = "true"
    silent: bool = False
    busy: float = 0
    answers: Answers = Answers.WHOLE
    share: float = 1.0
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def fails(self) -> bool:
        """Whether the load that ends now has failed."""
        self.failing -= (failing := self.failing > 0)
        return failing

    async def passing(self, fault: Literal["stalled", "silent"]) -> None:
        """Returns when it is over."""
        while getattr(self, fault):  # noqa: ASYNC110 - whoever runs it sets plain attributes
            await asyncio.sleep(POLL_S)

    def middleware(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        """What befalls requests and answers as a whole."""

        @web.middleware
        async def befall(request: web.Request, handler: Handler) -> web.StreamResponse:
            await self.passing("silent")
            asks = request.method == "POST" and request.path.startswith(ANSWERING)
            if asks and self.busy > 0:
                self.busy -= 1
                return web.Response(status=503, body=TOO_BUSY, content_type="application/json")
            answers = self.answers
            if not asks or answers is Answers.WHOLE or _is_load(await request.read()):
                return await handler(request)
            if self.dice.random() >= self.share:
                return await handler(request)
            return await _broken(request, handler, answers)

        return befall


def _is_load(body: bytes) -> bool:
    """The proxy's own loads and unloads ask nothing."""
    return not any(word in body for word in (b'"prompt"', b'"messages"', b'"input":"', b'"input": "'))


async def _broken(request: web.Request, handler: Handler, answers: Answers) -> web.StreamResponse:
    protocol = request.protocol
    transport = protocol.transport
    assert transport is not None
    protocol.transport = breaking = Breaking(transport, answers)  # type: ignore[assignment]
    try:
        response = await handler(request)
        if not response.prepared:  # one that aiohttp would write after this
            await response.prepare(request)
            await response.write_eof()
        await breaking.over()
        return response
    finally:
        if protocol.transport is breaking:  # type: ignore[comparison-overlap]
            protocol.transport = transport


class Breaking:
    """A transport on which an answer breaks."""

    def __init__(self, transport: asyncio.Transport, answers: Answers) -> None:
        self._transport = transport
        self._answers = answers
        self._begun = False
        self._bytes = asyncio.Queue[bytes]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        only_head = not self._begun and data.endswith(b"\r\n\r\n")
        begun, self._begun = self._begun, not only_head
        match self._answers:
            case Answers.SILENT:
                pass
            case Answers.BYTEWISE:
                self._bytes.put_nowait(data)
            case Answers.RESET:
                self._transport.abort()
            case _ if begun and self._answers in INSIDE:
                self._break()
            case _ if self._answers in INSIDE:
                self._transport.write(data if only_head else data[:-LAST])
            case Answers.GARBAGE:
                self._transport.write(b"\x00\x01 this is no HTTP\r\n\r\n")
                self._transport.close()
            case _:
                more = -SURPLUS if self._answers is Answers.TOO_LONG else SURPLUS
                self._transport.write(_LENGTH.sub(lambda m: m[1] + b"%d" % (int(m[2]) + more), data))

    def _break(self) -> None:
        if self._answers is Answers.RESET_INSIDE:
            self._transport.abort()
        elif self._answers is not Answers.SILENT_INSIDE:
            self._transport.close()

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    async def over(self) -> None:
        """The answer has been written."""
        while not self._bytes.empty():
            for byte in self._bytes.get_nowait():
                self._transport.write(bytes([byte]))
                await asyncio.sleep(0)  # let whoever reads have it by itself
        if self._answers in INSIDE or self._answers is Answers.TOO_SHORT:
            self._break()
        if self._answers in (Answers.SILENT, Answers.SILENT_INSIDE):
            await asyncio.Event().wait()  # until the other side leaves
