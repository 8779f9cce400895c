"""Bodies of requests that have to be read before they are handed on: in memory, within limits, decoded."""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _gzip() -> Decoder:
    return zlib.decompressobj(wbits=31)


DECODERS: dict[str, Callable[[], Decoder]] = {"gzip": _gzip, "x-gzip": _gzip, "zstd": zstd.ZstdDecompressor}


class Intake:
    """Counts what is in memory of all requests together."""

    def __init__(self, server: config.Server) -> None:
        self._server = server
        self._buffered = 0

    @asynccontextmanager
    async def reading(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body, as long as it is needed.  Raises ProxyError: 400, 408, 413, 415, 503."""
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity" and encoding not in DECODERS:
            known = "zstd or gzip"
            raise ProxyError(415, "content_encoding", f"a request body may be encoded with {known}, nothing else")
        held = _Held(self)
        try:
            body = await self._read(request, held)
            if encoding != "identity":
                body = await asyncio.to_thread(self._decoded, body, DECODERS[encoding])
                held.add(len(body))
            yield body
        finally:
            self._buffered -= held.size

    async def _read(self, request: web.Request, held: "_Held") -> bytes:
        limit = self._server.max_body_bytes
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
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

    def _decoded(self, body: bytes, decoder: Callable[[], Decoder]) -> bytes:
        """All members or frames; never more than the limit, whatever a small body unfolds to."""
        limit, pieces, size = self._server.max_body_bytes, [], 0
        while body:
            one = decoder()
            try:
                piece = one.decompress(body, limit + 1 - size)
            except (zlib.error, zstd.ZstdError) as error:
                raise ProxyError(400, "malformed", f"the request body cannot be decoded: {error}") from None
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            if not one.eof:
                raise ProxyError(400, "malformed", "the encoded request body ends too soon")
            body = one.unused_data
        return b"".join(pieces)


class _Held:
    """What one request holds in memory."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.size = 0

    def add(self, size: int) -> None:
        """Raises ProxyError (503) if all together hold too much."""
        self.size += size
        self._intake._buffered += size
        if self._intake._buffered > self._intake._server.max_buffered_bytes:
            raise ProxyError(503, "buffers_full", "too many large requests at once, please try again later", 1.0)


def _too_large(limit: int) -> ProxyError:
    return ProxyError(413, "body_too_large", f"the request body is larger than {limit} bytes")
