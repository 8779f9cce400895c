"""The connections to one host: made when they are wanted, kept for the next request, watched for silence."""

import asyncio
import ssl
from urllib.parse import urlsplit

from swapper_proxy.ollama import reasons
from swapper_proxy.ollama.access import Access
from swapper_proxy.ollama.connection import Connection
from swapper_proxy.runtime import sockets
from swapper_proxy.runtime.ports import VIA, UpstreamUnreachable

# How often all connections are looked at for silence: instead of a timer for each, which would cost every request.
LOOK_S = 1.0
# A connection that nobody has used for so long is closed: each load has one of its own, and Ollama closes none.
KEPT_S = 60.0
# More idle connections are not kept: each load leaves one, and a burst of requests leaves as many as it had.
MOST_KEPT = 64
CLOSED = "the proxy is shutting down"


class Pool:
    """The connections to one host, as many as are wanted at once."""

    def __init__(self, url: str, connect_timeout_s: float, via: str, access: Access) -> None:
        parts = urlsplit(url)
        host = reasons.address_as_given(parts)
        own_lines = f"Host: {host}", "Accept-Encoding: identity", f"{VIA}: {via}"
        self._own_lines = ("\r\n".join(own_lines) + "\r\n").encode()
        self.prefix = parts.path.rstrip("/")
        self.url = url
        self._address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        self._is_https = parts.scheme == "https"
        self._connect_timeout_s = connect_timeout_s
        self._kept: dict[Connection, float] = {}  # since when, the longest first
        self._all: set[Connection] = set()
        self._is_closed = False
        self.has_answered = False  # ever, to the end
        self.use(access)
        self.loop = asyncio.get_running_loop()
        self._timer = self.loop.call_later(LOOK_S, self._look)

    def use(self, access: Access) -> None:
        """Show this to the host from now on.  Connections that were made before serve no further request."""
        self.last_lines = b"".join((self._own_lines, *(b"%b: %b\r\n" % header for header in access.headers), b"\r\n"))
        self._ssl = (access.tls or ssl.create_default_context()) if self._is_https else None
        self._made_before = set(self._all)
        for connection in list(self._kept):
            connection.lose("the settings have changed")

    def _look(self) -> None:
        now = self.loop.time()
        self._timer = self.loop.call_at(now + LOOK_S, self._look)
        for connection in list(self._all):
            connection.look(now)
        for connection in [kept for kept, since in self._kept.items() if now - since >= KEPT_S]:
            connection.lose("nobody used it")

    def kept(self) -> Connection | None:
        """The latest that was kept and is still open."""
        while self._kept:
            connection = self._kept.popitem()[0]
            if connection.is_open():
                return connection
            connection.lose("it was closed meanwhile")
        return None

    async def connect(self) -> Connection:
        """A new one.  Raises UpstreamUnreachable."""
        host, port = self._address
        try:
            async with asyncio.timeout(self._connect_timeout_s or None):
                transport, connection = await self.loop.create_connection(
                    lambda: Connection(self), host, port, ssl=self._ssl
                )
        except TimeoutError:
            raise UpstreamUnreachable(reasons.no_connection_in_time(self.url, self._connect_timeout_s)) from None
        except (OSError, UnicodeError) as error:
            raise UpstreamUnreachable(reasons.no_connection(self.url, error)) from error
        sockets.keep_alive(transport.get_extra_info("socket"))
        self._all.add(connection)
        if self._is_closed:  # some questions outlive what asked them: they leave no connection behind
            connection.lose(CLOSED)
            raise UpstreamUnreachable(CLOSED)
        return connection

    def keep(self, connection: Connection) -> None:
        if connection in self._made_before:
            connection.lose("the settings have changed")
            return
        self.has_answered = True
        self._kept[connection] = self.loop.time()
        if len(self._kept) > MOST_KEPT:
            next(iter(self._kept)).lose("enough others are kept")

    def forget(self, connection: Connection) -> None:
        self._kept.pop(connection, None)
        self._all.discard(connection)
        self._made_before.discard(connection)

    async def close(self) -> None:
        """Close all of them, and those that are still being made; return when their sockets are closed."""
        self._is_closed = True
        self._timer.cancel()
        for connection in list(self._all):
            connection.lose(CLOSED)
        await asyncio.sleep(0)  # a transport closes its socket in the next turn of the loop
