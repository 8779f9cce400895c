"""The HTTP server towards clients: aiohttp's, with a bound on all that a client can make it hold.

What is no HTTP is refused with a line in the log, and no traceback.  aiohttp's timer from one answer to the head of the
next request bounds slow heads as well as idle connections.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.sockets import PeerWatch
from swapper_proxy.web.dialects import Dialect, rendered

log = logging.getLogger("swapper_proxy.requests")

# Of a request: its first line, each header (cookies and tokens can be long), their number, and all of its head.
MOST_LINE_BYTES = 64 * 1024
MOST_HEADERS = 1000
MOST_HEAD_BYTES = 256 * 1024
# Requests that a client may send ahead of the answer before the one that it waits for: they are in memory.
MOST_AHEAD = 2
# At the end of the grace a request is cancelled; so long it may take to notice.
LAST_S = 1.0
# When there are too many connections, this part of the bound is closed at once: the idle ones are looked for seldom.
SHED = 64
# How often clients are looked for that have vanished, and how long they may acknowledge nothing of what they are sent.
PEER_LOOK_S = 5.0
VANISHED_S = 50.0


class Server(web.Server):
    """Gives each connection its protocol, and closes idle ones when there are more than `server.max_connections`."""

    def __init__(self, handler: Any, server: config.Server) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,  # a client that leaves ends its request here and at Ollama
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=server.header_timeout,
            max_line_size=MOST_LINE_BYTES,
            max_field_size=MOST_LINE_BYTES,
            max_headers=MOST_HEADERS,
        )
        self._most = server.max_connections
        self._looking = False

    def __call__(self) -> "Connection":
        return Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if not self._looking:
            self._looking = True
            self._loop.call_later(PEER_LOOK_S, self._look)
        if len(self._connections) > self._most and not self._shed():
            self._connections.pop(handler)
            log.warning("refused", extra={"status": 503, "code": "connections_full"})
            _last_words(transport, ProxyError(503, "connections_full", "too many connections, please try later", 1.0))
            handler.force_close()

    def _look(self) -> None:
        """Close the connections of clients that have vanished.  Goes on as long as there are connections."""
        now = self._loop.time()
        self._looking = bool(self._connections)
        if self._looking:
            self._loop.call_later(PEER_LOOK_S, self._look)
        for made in list(self._connections):
            if isinstance(made, Connection):
                made.look(now)

    def _shed(self) -> bool:
        """Close those that have been idle for longest; False if none is."""
        idle = [made for made in self._connections if isinstance(made, Connection) and made.is_idle]
        idle.sort(key=Connection.idle_until)
        for connection in idle[: max(1, self._most // SHED)]:
            self._connections.pop(connection)
            connection.force_close()
        return bool(idle)

    def pre_shutdown(self) -> None:
        """No request is taken any more."""
        for made in list(self._connections):
            if isinstance(made, Connection):
                made.take_no_more()


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ("_head_bytes", "_is_last", "_peer")

    def __init__(self, manager: Server, *, loop: asyncio.AbstractEventLoop, **more: Any) -> None:
        super().__init__(manager, loop=loop, **more)
        self._max_msg_queue_size, self._msg_queue_resume_size = MOST_AHEAD, 0
        self._head_bytes = 0  # of a head that is not complete
        self._is_last = False  # the request that is under way
        self._peer = PeerWatch()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self._waiter is not None and not self._waiter.done()

    def idle_until(self) -> float:
        """When it will be closed if no request comes, in the loop's time."""
        return self._next_keepalive_close_time

    def look(self, now: float) -> None:
        """Close it if its client has vanished.  One that waits for a request is closed soon in any case."""
        transport = self.transport
        if transport is None or (self.is_idle and not transport.get_write_buffer_size()):
            return
        if self._peer.has_vanished(transport, VANISHED_S, now):
            log.info("closed: the client has vanished")
            transport.abort()

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count > requests:
            self._head_bytes = 0
            if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
                self._broken()
        elif data and (self.is_idle or self._is_ahead()):  # aiohttp also calls it with nothing, when it reads on
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse_head()
        if self._is_last:
            self.take_no_more()

    def take_no_more(self) -> None:
        """No request after those that are known; the rest of a body may still come, which aiohttp would not read."""
        body = self._latest_body()
        self._is_last = body is not None and not body.is_eof()
        if not self._is_last:
            self.close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's own
        """What is under way may end so long.  aiohttp would wait for it twice, and for ever where it is 0."""
        if (task := self._task_handler) is not None:
            await asyncio.wait([task], timeout=timeout)
            task.cancel()
        await super().shutdown(LAST_S)

    def _is_ahead(self) -> bool:
        """Whether what comes now belongs to the request after those that are known."""
        body = self._latest_body()
        return body is not None and body.is_eof()

    def _latest_body(self) -> Any:
        """Of the latest request that is not answered; None if all are, but for the rest of a body that nobody reads."""
        if self._messages:
            return self._messages[-1][1]
        return self._current_request.content if self._current_request is not None else None

    def _broken(self) -> None:
        """What came is no HTTP.  If it should have been more of a body, whoever reads that is told, and answers."""
        refusal = self._messages.pop()
        body = self._latest_body()
        if body is None or body.is_eof():
            self._messages.append(refusal)  # aiohttp calls handle_error for it
            return
        body.set_exception(web.RequestPayloadError("the request body is not framed as HTTP/1.1 has it"))
        body.feed_eof()
        self.close()

    def _refuse_head(self) -> None:
        log.warning("refused", extra={"status": 431, "code": "head_too_large"})
        if self.is_idle and self.transport is not None:
            most = f"the head of the request is larger than {MOST_HEAD_BYTES} bytes"
            _last_words(self.transport, ProxyError(431, "head_too_large", most))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP.  Nobody knows its path, so the answer is in Ollama's dialect; the connection ends."""
        if status != HTTPStatus.BAD_REQUEST:
            return _anonymous(super().handle_error(request, status, exc, message))
        why = (message or "").partition("\n")[0].rstrip(":")
        error = ProxyError(status, "malformed", f"this is no HTTP/1.1: {why}")
        if isinstance(exc, LineTooLong):
            error = ProxyError(431, "head_too_large", f"a line of the head is longer than {MOST_LINE_BYTES} bytes")
        log.warning("refused", extra={"status": error.status, "code": error.code})
        _, headers, body = rendered(error, Dialect.OLLAMA)
        response = web.Response(status=error.status, body=body, headers={k.decode(): v.decode() for k, v in headers})
        response.force_close()
        return _anonymous(response)


def _anonymous(response: web.StreamResponse) -> web.StreamResponse:
    """Let it not tell the versions of aiohttp and Python: it goes to strangers, too."""
    response.headers["Server"] = "swapper-proxy"
    return response


def _last_words(transport: asyncio.Transport, error: ProxyError) -> None:
    """A whole answer where aiohttp is not asked for one; the connection is to be closed."""
    status, headers, body = rendered(error, Dialect.OLLAMA)
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b\r\n" % header for header in headers]
    transport.write(b"%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (b"".join(lines), len(body), body))
