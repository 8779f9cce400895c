"""Bodies of requests that have to be read before they are handed on: in memory, within limits, decoded."""

import asyncio
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Decoder(Protocol):
    """Of one gzip member or zstd frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


def _gzip() -> Decoder:
    return zlib.decompressobj(wbits=31)


DECODERS: dict[str, Callable[[], Decoder]] = {"gzip": _gzip, "x-gzip": _gzip, "zstd": zstd.ZstdDecompressor}


MOST_PARTS = 1000  # members or frames; each costs a decoder
PIECE_BYTES = 64 * 1024


class Intake:
    """Counts what is in memory of all requests together; decodes one body at a time."""

    def __init__(self, server: config.Server) -> None:
        self._server = server
        self._buffered = 0
        self._decoding = asyncio.Semaphore(1)

    def reading(self, request: web.BaseRequest) -> "_Reading":
        """`async with` it: the body, as long as it is needed.  Raises ProxyError: 400, 408, 413, 415, 503."""
        return _Reading(self, request)

    async def read(self, request: web.BaseRequest, held: "_Reading") -> bytes:
        """The body, decoded."""
        encoding = request.headers.get("Content-Encoding", "").strip().lower() or "identity"
        if encoding != "identity" and encoding not in DECODERS:
            raise ProxyError(415, "content_encoding", "a request body may be encoded with zstd or gzip, nothing else")
        body = await self._read(request, held)
        if encoding != "identity" and body:
            body = await self._decoded(body, DECODERS[encoding], held)
        return body

    async def _read(self, request: web.BaseRequest, held: "_Reading") -> bytes:
        limit = self._server.max_body_bytes
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        if request.content.is_eof():  # all of it has come already, as small bodies do
            body = request.content.read_nowait()
            held.add(len(body))
            return body
        chunks: list[bytes] = []
        while True:
            try:
                async with asyncio.timeout(self._server.body_idle_timeout):
                    chunk = await request.content.readany()
            except TimeoutError:
                raise ProxyError(408, "body_timeout", "the request body did not come") from None
            if not chunk:
                return b"".join(chunks)
            held.add(len(chunk))
            chunks.append(chunk)
            if held.size > limit:
                raise _too_large(limit)

    async def _decoded(self, body: bytes, decoder: Callable[[], Decoder], held: "_Reading") -> bytes:
        async with self._decoding:
            decoded = await asyncio.to_thread(decode, body, decoder, self._server.max_body_bytes)
            held.release()
            held.add(len(decoded))
            return decoded

    def hold(self, size: int) -> None:
        """So many bytes more are in memory, or less.  Raises ProxyError (503) if all together are too many."""
        self._buffered += size
        if size > 0 and self._buffered > self._server.max_buffered_bytes:
            raise ProxyError(503, "buffers_full", "too many large requests at once, please try again later", 1.0)


class _Reading:
    """What one request holds in memory, in bytes."""

    __slots__ = ("_intake", "_request", "size")

    def __init__(self, intake: Intake, request: web.BaseRequest) -> None:
        self._intake = intake
        self._request = request
        self.size = 0

    async def __aenter__(self) -> bytes:
        try:
            return await self._intake.read(self._request, self)
        except BaseException:
            self.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def add(self, size: int) -> None:
        """Raises ProxyError (503)."""
        self.size += size
        self._intake.hold(size)

    def release(self) -> None:
        self._intake.hold(-self.size)
        self.size = 0


def decode(body: bytes, decoder: Callable[[], Decoder], limit: int) -> bytes:
    """All members or frames; never more than `limit` bytes, whatever a small body unfolds to.

    Raises ProxyError: 400, 413.
    """
    whole, at, size, pieces = memoryview(body), 0, 0, list[bytes]()
    for _ in range(MOST_PARTS):
        one = decoder()
        while not one.eof:
            given = whole[at : at + PIECE_BYTES]
            if not given:
                raise ProxyError(400, "malformed", "the encoded request body ends too soon")
            try:
                pieces.append(one.decompress(given, limit + 1 - size))
            except (zlib.error, zstd.ZstdError) as error:
                raise ProxyError(400, "malformed", f"the request body cannot be decoded: {error}") from None
            size += len(pieces[-1])
            if size > limit:
                raise _too_large(limit)
            at += len(given) - len(one.unused_data)
        if at == len(whole):
            return b"".join(pieces)
    raise ProxyError(400, "malformed", f"the encoded request body has more than {MOST_PARTS} parts")


def _too_large(limit: int) -> ProxyError:
    return ProxyError(413, "body_too_large", f"the request body is larger than {limit} bytes")
