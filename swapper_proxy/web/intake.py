"""Bodies of requests that have to be read before they are handed on: in memory once, within limits, decoded."""

import asyncio
import io
from collections.abc import AsyncIterator

from aiohttp import StreamReader, web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.decoding import DECODERS
from swapper_proxy.runtime.ports import Body
from swapper_proxy.web import expecting
from swapper_proxy.web.body import Fields
from swapper_proxy.web.decoding import Decoding, too_large

MOST_LENGTH = (1 << 63) - 1  # what Go takes
QUICK_BYTES = 256 * 1024  # are read in a millisecond, and in a tenth of a second at worst


class Intake:
    """Counts what is in memory of all requests together; decodes a piece of one body at a time."""

    def __init__(self) -> None:
        self._buffered = 0
        self._beside = asyncio.Semaphore(1)  # of a thread's work: more of them at once would hold the loop up

    def configure(self, server: config.Server) -> None:
        """Other limits hold from now on; what is in memory stays counted."""
        self._server = server

    def reading(self, request: web.BaseRequest) -> "_Reading":
        """`async with` it: the body, as long as it is needed.  Raises ProxyError: 400, 408, 413, 415, 503."""
        return _Reading(self, request)

    async def read(self, request: web.BaseRequest, held: "_Reading") -> bytes:
        """The body, decoded."""
        length = _checked_length(request)
        limit = self._server.max_body_bytes
        encoding = request.headers.get("Content-Encoding", "").strip().lower() or "identity"
        if encoding != "identity" and encoding not in DECODERS:
            raise ProxyError(415, "content_encoding", "a request body may be encoded with zstd or gzip, nothing else")
        if length > limit:
            raise too_large(limit)
        expecting.tell(request)
        if encoding == "identity" and _is_at_hand(request.content):
            body = request.content.read_nowait()
            if len(body) > limit:
                raise too_large(limit)
            held.add(len(body))
            return body
        decoding = Decoding(DECODERS[encoding], limit) if encoding != "identity" else None
        whole = decoding or io.BytesIO()  # which gives its bytes away without a copy
        came = 0
        while piece := await self._piece(request):
            came += len(piece)
            if came > limit:
                raise too_large(limit)
            held.add(await self._decoded(decoding, piece) if decoding else whole.write(piece))
        return whole.getvalue()

    def streamed(self, request: web.BaseRequest) -> Body:
        """The body as it comes, of any size, never in memory as a whole.  Raises ProxyError: 400; later 400, 408."""
        _checked_length(request)
        return self._pieces(request) if request.can_read_body else ()

    async def _pieces(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        expecting.tell(request)
        while piece := await self._piece(request):
            yield piece

    async def _piece(self, request: web.BaseRequest) -> bytes:
        """What has come since, empty at the end.  Raises ProxyError: 400, 408."""
        try:
            async with asyncio.timeout(self._server.body_idle_timeout):
                return await request.content.readany()
        except TimeoutError:
            raise ProxyError(408, "body_timeout", "the request body did not come") from None
        except web.RequestPayloadError as error:
            raise ProxyError(400, "malformed", str(error)) from None

    async def _decoded(self, decoding: Decoding, piece: bytes) -> int:
        async with self._beside:
            return await asyncio.to_thread(decoding.write, piece)

    async def fields(self, body: bytes) -> Fields:
        """The body read, beside the loop if that may take long.  Raises Malformed, Ambiguous."""
        if len(body) <= QUICK_BYTES:
            return Fields.read(body)
        async with self._beside:
            return await asyncio.to_thread(Fields.read, body)

    def hold(self, size: int) -> None:
        """So many bytes more are in memory, or less.  Raises ProxyError (503) if all together are too many."""
        self._buffered += size
        if size > 0 and self._buffered > self._server.max_buffered_bytes:
            raise ProxyError(503, "buffers_full", "too many large requests at once, please try again later", 1.0)


def _checked_length(request: web.BaseRequest) -> int:
    """The Content-Length, 0 if there is none.

    Raises ProxyError (400) where the HTTP parser is more lenient than Ollama.
    """
    coding = request.headers.get("Transfer-Encoding")
    if coding is not None and coding.strip().lower() != "chunked":
        raise ProxyError(400, "malformed", "a request body may be sent in chunks, under no other Transfer-Encoding")
    length = request.content_length or 0
    if length > MOST_LENGTH:
        raise ProxyError(400, "malformed", "the Content-Length is no length")
    return length


def _is_at_hand(content: StreamReader) -> bool:
    """Whether all of it has come already, as small bodies do."""
    return content.is_eof() and content.exception() is None


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
