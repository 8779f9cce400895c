"""HTTP/1.1 to Ollama, straight on the transport: no task, no queue and no copy per piece of an answer.

A `Connection` carries one request at a time; httptools (llhttp) reads what comes back.
"""

import asyncio
import math
from collections.abc import AsyncIterable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import httptools

from swapper_proxy.core.errors import ProxyError
from swapper_proxy.ollama import reasons
from swapper_proxy.ollama.encoded import EncodedBody, as_decoded
from swapper_proxy.runtime import sockets
from swapper_proxy.runtime.decoding import Undecodable
from swapper_proxy.runtime.ports import (
    ANY_SILENCE,
    MOST_WHOLE_BYTES,
    Body,
    Header,
    Silence,
    UpstreamBroken,
    UpstreamSilent,
    UpstreamUnreachable,
)

if TYPE_CHECKING:
    from swapper_proxy.ollama.pool import Pool

# Ollama is not read on while so many bytes of an answer wait for the client to take them.
HIGH_BYTES = 256 * 1024
MOST_HEAD_BYTES = 1024 * 1024
# An answer that is encoded, though none was asked for, unfolds to so much at most from one read of the socket.
MOST_UNFOLDED_BYTES = 16 * 1024 * 1024
# A request that is only a question: Ollama may be asked again even if it had it.
SAFE = ("GET", "HEAD")
NO_CONTENT, NOT_MODIFIED = 204, 304
# A host that acknowledges nothing of what it was sent for so long has vanished: as long as keepalive gives it.
VANISHED_S = float(sockets.IDLE_S + sockets.PROBES * sockets.INTERVAL_S)
# A request is given up if nothing came for so long and its process is gone, as Ollama's own list tells.
GONE_S = 60.0


class Stale(Exception):
    """A kept connection was closed before a byte of an answer came, and the request may be sent once more.

    Either it only asks, or nothing of it reached Ollama.
    """


class Connection(asyncio.Protocol):
    """One connection, with the answer that is under way on it (see `runtime.ports.Answer`)."""

    # Without these, each attribute would cost twice as much: there are more than the 30 that Python keeps in place.
    __slots__ = (
        *("_pool", "_loop", "_parser", "_transport", "_has_come", "_waiter", "_take", "_writable", "_writing"),
        *("_refused", "_lost", "_used", "_untaken_bytes", "_silence", "_silent", "_quiet_since", "_peer"),
        *("status", "reason", "headers", "content_type", "sized"),
        *("_method", "_headed", "_ended", "_keeps", "_touched", "_framed", "_paused", "_encoded", "_pieces", "_held"),
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._loop = pool.loop
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None  # for the head, or the end of the body
        self._take: Callable[[bytes], bool] | None = None  # where the body goes as it comes
        self._writable: asyncio.Future[None] | None = None  # while the transport takes no more of the request
        self._writing: asyncio.Task[None] | None = None
        self._refused: ProxyError | None = None  # why the client is to blame that it did not get all of the request
        self._lost = ""  # why there is no connection any more
        self._used = False
        self._untaken_bytes = 0  # that Ollama certainly did not get, when it closed the connection
        self._silence = ANY_SILENCE
        self._silent = False  # given up for it
        self._quiet_since = math.inf  # as far as was seen
        self._peer = sockets.PeerWatch()
        self._begin("")

    def _begin(self, method: str) -> None:
        self.status = 0
        self.reason = b""
        self.headers: list[Header] = []
        self.content_type = ""
        self.sized = False
        self._method = method
        self._headed = self._ended = self._keeps = self._touched = self._framed = self._paused = False
        self._encoded: EncodedBody | None = None
        self._pieces: list[bytes] = []
        self._held = 0

    # From the transport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._has_come = sockets.reader(transport)

    def is_open(self) -> bool:
        """Return False if a kept connection was closed, or sent something, though the loop has not read that yet."""
        return not self._has_come(0)

    def data_received(self, data: bytes) -> None:
        self._touched = True
        if self._ended:
            self.lose("it sent what nobody asked for")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.lose(reasons.no_http(self._pool.url, data, error))
        if self._take is None:
            self._hold(len(data))
        elif self._pieces:
            self._hand_on(self._take)
        if self._take is None or self._ended or self._lost:
            self._wake()

    def _hold(self, size: int) -> None:
        """Nobody takes what has come yet.  Paused is only what `at_hand` resumes: there are pieces."""
        self._held += size
        if self._lost:
            return
        if not self._headed and self._held > MOST_HEAD_BYTES:
            self.lose("the head of its answer is too long")
        elif self._pieces and self._held > HIGH_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _hand_on(self, take: Callable[[bytes], bool]) -> None:
        try:
            if take(self.at_hand()):
                return
        except Exception as error:  # the taker's own
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)
        self._take = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._headed and not self._framed and error is None and not self._lost:
            self._ended = self._is_whole()  # the end of an answer that tells no length is the end of its connection
        if not (self._lost or self._touched) and (error is None or isinstance(error, BrokenPipeError)):
            self._untaken_bytes = sockets.untaken_bytes(self._transport)
        self.lose(str(error or "") or "the connection was closed")
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def lose(self, why: str) -> None:
        """It is of no more use, and is closed at once."""
        self._lost = self._lost or why
        self._transport.abort()
        self._pool.forget(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # From the parser

    def on_message_begin(self) -> None:
        if self._headed:
            raise ValueError("a second answer")

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:
            return  # a trailer: it came too late for the client, whose head may have been sent
        self.headers.append((name, value))
        low = name.lower()
        if low == b"content-type":
            self.content_type = value.decode("latin-1")
        elif low == b"content-length":
            self.sized = self._framed = True
        elif low == b"transfer-encoding":
            if self._framed or value.strip().lower() != b"chunked":
                self.lose("its answer is sent under another Transfer-Encoding than chunked")
            self._framed = True
        elif low == b"content-encoding" and self._may_have_body():
            self._decode(value.strip().lower())

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 100:
            raise ValueError("a status below 100")
        if self._encoded is not None:
            self.headers, self.sized = as_decoded(self.headers), False
        if self.status == NO_CONTENT:  # such an answer may tell no length, and a client might wait for it
            self.headers = [header for header in self.headers if header[0].lower() != b"content-length"]
        self._headed = self.status >= 200 and not self._lost
        if self._headed and self._method == "HEAD":
            self._ended = True  # the body that the headers tell of does not come, which the parser cannot know

    def _may_have_body(self) -> bool:
        """Return False if the headers tell of a body that does not come."""
        status = self._parser.get_status_code()
        return status >= 200 and status not in (NO_CONTENT, NOT_MODIFIED) and self._method != "HEAD"

    def _decode(self, encoding: bytes) -> None:
        if encoding in (b"", b"identity"):
            return
        try:
            self._encoded = EncodedBody(encoding, self._encoded)
        except Undecodable as error:
            self.lose(str(error))

    def on_body(self, data: bytes) -> None:
        if self._ended:
            return
        if self._encoded is None:
            self._pieces.append(data)
        elif not self._lost:
            try:
                self._held += self._encoded.unfold(data, self._pieces, MOST_UNFOLDED_BYTES - self._held)
            except Undecodable as error:
                self.lose(str(error))

    def _is_whole(self) -> bool:
        """Return True if the body, which is over, should not have more of an encoded one."""
        try:
            if self._encoded is not None:
                self._encoded.end()
        except Undecodable as error:
            self.lose(str(error))
        return not self._lost

    def on_message_complete(self) -> None:
        if self._headed:
            self._ended = self._encoded is None or self._is_whole()
            self._keeps = self._method != "HEAD" and bool(self._parser.should_keep_alive())
        else:
            self._begin(self._method)  # 100 Continue and the like: the answer is still to come
            self._touched = True

    # For those who use it

    async def ask(
        self, method: str, head: bytes, body: Body, silence: Silence = ANY_SILENCE, *, only_asks: bool = False
    ) -> None:
        """Send a request; returns when the head of the answer is there.

        A request that `only_asks` is Stale where a GET would be, whatever its method.  Raises Stale,
        UpstreamUnreachable, UpstreamSilent, and the ProxyError of a body that its client does not send as it should.
        """
        kept, self._used = self._used, True
        self._silence, self._quiet_since = silence, math.inf
        self._begin(method)
        if isinstance(body, Sequence):
            self._transport.writelines([piece for piece in (head, *body) if piece])  # from 3.12 on an empty one spins
        else:
            self._transport.write(head)
            self._writing = self._loop.create_task(self._write(body))
        try:
            while not self._headed:
                await self._more()
        except UpstreamBroken as error:
            if self._refused is not None:
                raise self._refused from None
            if self._silent:
                raise UpstreamSilent(str(error)) from None
            if kept and not self._touched and isinstance(body, Sequence):
                sent_bytes = len(head) + sum(map(len, body))
                if only_asks or method in SAFE or self._untaken_bytes == sent_bytes:
                    raise Stale(str(error)) from None
            is_strange = not (self._touched or self._pool.has_answered)
            why = reasons.no_answer(self._pool.url, str(error)) if is_strange else str(error)
            raise UpstreamUnreachable(why, sent=True) from None

    async def _write(self, body: AsyncIterable[bytes]) -> None:
        """Piece by piece, as fast as Ollama takes it.  A client that breaks off breaks the connection off."""
        try:
            async for piece in body:
                self._transport.write(piece)
                if self._writable is not None:
                    await self._writable
        except Exception as error:
            self._refused = error if isinstance(error, ProxyError) else None
            self.lose(f"the request was broken off: {error}")
            self._wake()

    def at_hand(self) -> bytes:
        """What has come of the body and was not taken yet."""
        pieces, self._pieces, self._held = self._pieces, [], 0
        if self._paused and not self._lost:
            self._paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def into(self, take: Callable[[bytes], bool]) -> bool:
        """Give each further piece of the body to `take`, as it comes; True at the end of the body.

        False as soon as `take` says that it wants no more for now.  Raises UpstreamBroken, and whatever `take` does.
        """
        if self._pieces and not take(self.at_hand()):
            return False
        self._take = take
        try:
            while self._take is not None and not self._ended:
                await self._more()
        finally:
            self._take = None
        return self._ended

    async def rest(self, most_bytes: int = MOST_WHOLE_BYTES) -> bytes:
        pieces: list[bytes] = []
        room = most_bytes

        def take(piece: bytes) -> bool:
            nonlocal room
            room -= len(piece)
            pieces.append(piece)
            return room >= 0

        try:
            await self.into(take)
        finally:
            self.close()
        if room < 0:
            raise UpstreamBroken(f"its answer is longer than {most_bytes} bytes")
        return b"".join(pieces)

    def look(self, now: float) -> None:
        """Give it up if nothing has come for too long.

        Silence is only what somebody waits for: neither a request that is still being sent, nor a client that takes
        nothing for now.
        """
        heard = self._headed and self._touched
        if not heard and self._peer.has_vanished(self._transport, VANISHED_S, now):
            self._give_up("its host does not answer any more")
            return
        waited_for = self._waiter is not None and not self._waiter.done()
        sending = self._writing is not None and not self._writing.done()
        if not waited_for or sending or heard:
            self._touched = self._touched and not self._headed  # before the head it says that the request was seen
            self._quiet_since = math.inf
            return
        self._quiet_since = min(self._quiet_since, now)
        limit_s = self._silence.idle_s if self._headed else self._silence.first_byte_s
        quiet_s = now - self._quiet_since
        if limit_s is not None and quiet_s >= limit_s:
            self._silent = True
            self._give_up(f"nothing came for {limit_s:g} s")
        elif quiet_s >= GONE_S and self._silence.is_lost is not None and self._silence.is_lost():
            self._give_up("the process that had the request is gone")

    def _give_up(self, why: str) -> None:
        self._touched = True  # Ollama may have worked on it: it is not sent again
        self.lose(why)
        self._wake()

    def close(self) -> None:
        """At the end of the answer the connection is kept; before, it is closed, and Ollama stops."""
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
        elif self._ended and not self._pieces and not self._lost and self._keeps:
            self._writing = None
            self._pool.keep(self)
            return
        self.lose("it was left")

    def _more(self) -> asyncio.Future[None]:
        """Until something has come.  Raises UpstreamBroken if nothing can."""
        if self._lost:
            raise UpstreamBroken(self._lost, silent=self._silent)
        self._waiter = self._loop.create_future()
        return self._waiter
