"""Bodies of requests that have to be read before they are handed on: in memory once, within limits, decoded."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Container
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from aiohttp import StreamReader, web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.decoding import DECODERS, WINDOW_BYTES, Decoding, Undecodable
from swapper_proxy.runtime.ports import Body, Pieces
from swapper_proxy.web import expecting
from swapper_proxy.web.body import Ambiguous, Fields, Malformed
from swapper_proxy.web.form import Form

T = TypeVar("T")

MOST_LENGTH = (1 << 63) - 1  # what Go takes
QUICK_BYTES = 256 * 1024  # are read in a millisecond, and in a tenth of a second at worst


class Intake:
    """Count the bytes that all request bodies together keep in memory, and lend them one thread.

    One thread only: what it works on is in memory until it is done, also if the client has left meanwhile.
    """

    def __init__(self) -> None:
        self._buffered = 0
        self._thread = ThreadPoolExecutor(1, "bodies")

    def configure(self, server: config.Server) -> None:
        """Use other limits from now on; what is in memory stays counted."""
        self.server = server

    def reading(self, request: web.BaseRequest) -> "RequestBody":
        """Return the body to enter with `async with`.  Entering raises ProxyError: 400, 408, 413, 415, 503."""
        return RequestBody(self, request)

    def streamed(self, request: web.BaseRequest) -> Body:
        """Return the body as it comes, of any size, never in memory as a whole.

        Raises ProxyError (400); its pieces raise ProxyError: 400, 408.
        """
        _checked_length(request)
        return self._pieces(request) if request.can_read_body else []

    async def _pieces(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        expecting.tell(request)
        while piece := await self.piece(request):
            yield piece

    async def piece(self, request: web.BaseRequest) -> bytes:
        """Return what has come since the last piece, empty at the end.  Raises ProxyError: 400, 408."""
        try:
            async with asyncio.timeout(self.server.body_idle_timeout):
                return await request.content.readany()
        except TimeoutError:
            raise ProxyError(408, "body_timeout", "the request body did not come") from None
        except web.RequestPayloadError as error:
            raise ProxyError(400, "malformed", str(error)) from None

    async def in_thread(self, function: Callable[..., T], *arguments: bytes) -> T:
        """Run what takes long beside the loop.

        The executor keeps a call that was cancelled in its queue.  So that it keeps no body with it, the queue has only
        a box, which is emptied here when nobody waits for the call any more.
        """
        box: list[Callable[[], T]] = [partial(function, *arguments)]
        del arguments  # an exception may keep this frame
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, _run, box)
        finally:
            box.clear()

    def hold(self, size: int) -> None:
        """Count so many bytes more in memory, or less.  Raises ProxyError (503) if all together are too many."""
        self._buffered += size
        if size > 0 and self._buffered > self.server.max_buffered_bytes:
            raise ProxyError(503, "buffers_full", "too many large requests at once, please try again later", 1.0)


def _run(box: list[Callable[[], T]]) -> T:
    """Take the call out of its box: what it works on is nobody else's, and goes with it."""
    return box.pop()()


class RequestBody:
    """The body of one request: the owner of all that is in memory of it.

    It is empty once it was left, and so is what `pieces` returned: an exception may keep the frames of a refused
    request alive for long, and these frames must keep no body.  `fields` is what was read of it, None if nothing was.
    """

    __slots__ = ("_as_it_came", "_came", "_held", "_intake", "_pieces", "_request", "_whole", "_window", "fields")

    def __init__(self, intake: Intake, request: web.BaseRequest) -> None:
        self._intake = intake
        self._request = request
        self._held = 0  # bytes that are counted
        self._window = 0  # bytes that are counted for a decoder besides
        self._whole: io.BytesIO | None = None  # while it comes in pieces
        self._came = b""
        self._pieces: Pieces = []
        self._as_it_came = False
        self.fields: Fields | Form | None = None

    async def __aenter__(self) -> "RequestBody":
        try:
            await self._take_in()
        except BaseException:
            self.release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go of every byte."""
        self._intake.hold(-self._held)
        self._held = 0
        self._came = b""
        self._pieces.clear()
        if self._whole is not None:
            self._whole.close()
        if self.fields is not None:
            self.fields.clear()

    async def json(self) -> Fields:
        """Read it as a JSON object, beside the loop if that may take long.  Raises Malformed, Ambiguous."""
        try:
            quick = len(self._came) <= QUICK_BYTES
            fields = Fields.read(self._came) if quick else await self._intake.in_thread(Fields.read, self._came)
        except (Malformed, Ambiguous) as error:
            raise _without_frames(error) from None
        self.fields = fields
        return fields

    def form(self, content_type: str, query: Container[str]) -> Form:
        """Read it as a form.  Raises Malformed, Ambiguous."""
        try:
            form = Form(self._came, content_type, query)
        except (Malformed, Ambiguous) as error:
            raise _without_frames(error) from None
        self.fields = form
        return form

    def pieces(self) -> Pieces:
        """Return what is to be sent: what `fields` say, or the body as it came."""
        self._pieces = [self._came] if self.fields is None or self._as_it_came else self.fields.pieces()
        return self._pieces

    def leave_as_it_came(self) -> None:
        """Send what came, byte for byte, whatever was read of it."""
        self._as_it_came = True

    async def _take_in(self) -> None:
        request, limit = self._request, self._intake.server.max_body_bytes
        length = _checked_length(request)
        encoding = request.headers.get("Content-Encoding", "").strip().lower() or "identity"
        if encoding != "identity" and encoding not in DECODERS:
            raise ProxyError(415, "content_encoding", "a request body may be encoded with zstd or gzip, nothing else")
        if length > limit:
            raise _too_large(limit)
        expecting.tell(request)
        if encoding == "identity" and _has_come(request.content):
            self._came = request.content.read_nowait()
            self._add(len(self._came), limit)
            return
        self._whole = io.BytesIO()
        if encoding == "identity":
            await self._copy(limit)
        else:
            try:
                await self._decode(Decoding(DECODERS[encoding], "request body"), limit)
            except Undecodable as error:
                raise ProxyError(400, "malformed", str(error)) from None
        self._came = self._whole.getvalue()  # without a copy
        self._whole.close()

    async def _copy(self, limit: int) -> None:
        while piece := await self._intake.piece(self._request):
            self._keep(piece, limit)

    async def _decode(self, decoding: Decoding, limit: int) -> None:
        """Decode a little at a time: how much comes of a few bytes is known only afterwards.

        Until the end the decoder has a copy of the last of it in memory, which counts, too.
        """
        encoded = 0
        try:
            while piece := await self._intake.piece(self._request):
                encoded += len(piece)
                if encoded > limit:
                    raise _too_large(limit)
                decoded = await self._intake.in_thread(decoding.more, piece)
                while decoded:
                    self._keep(decoded, limit)
                    self._count_window()
                    decoded = await self._intake.in_thread(decoding.more)
            decoding.end()
        finally:
            self._intake.hold(-self._window)
            self._window = 0

    def _count_window(self) -> None:
        """Raises ProxyError: 503."""
        more = min(self._held, WINDOW_BYTES) - self._window
        self._window += more
        self._intake.hold(more)

    def _keep(self, piece: bytes, limit: int) -> None:
        self._add(len(piece), limit)
        if self._whole is not None:
            self._whole.write(piece)

    def _add(self, size: int, limit: int) -> None:
        """Raises ProxyError: 413, 503."""
        if self._held + size > limit:
            raise _too_large(limit)
        self._held += size
        self._intake.hold(size)


def _checked_length(request: web.BaseRequest) -> int:
    """Return the Content-Length, 0 if there is none.

    Raises ProxyError (400) where the HTTP parser is more lenient than Ollama.
    """
    coding = request.headers.get("Transfer-Encoding")
    if coding is not None and coding.strip().lower() != "chunked":
        raise ProxyError(400, "malformed", "a request body may be sent in chunks, under no other Transfer-Encoding")
    length = request.content_length or 0
    if length > MOST_LENGTH:
        raise ProxyError(400, "malformed", "the Content-Length is no length")
    return length


def _has_come(content: StreamReader) -> bool:
    """Return True if all of it is here already, as with small bodies."""
    return content.is_eof() and content.exception() is None


def _too_large(limit: int) -> ProxyError:
    return ProxyError(413, "body_too_large", f"the request body is larger than {limit} bytes")


E = TypeVar("E", bound=Exception)


def _without_frames(error: E) -> E:
    """Make the error forget the frames that it came from, which hold the body."""
    error.__context__ = None
    return error.with_traceback(None)
