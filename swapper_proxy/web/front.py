"""The door: foreign web pages are kept out, the proxy's own API and what is meant for Ollama are told apart."""

import asyncio
import contextlib
import ipaddress
import logging
from fnmatch import fnmatchcase
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError, Rejected, Rejection
from swapper_proxy.runtime.engine import RETRY_S
from swapper_proxy.runtime.ports import VIA, Header
from swapper_proxy.web.dialects import Dialect, dialect_of, rendered
from swapper_proxy.web.exchange import Exchange
from swapper_proxy.web.forwarded import Forwarding
from swapper_proxy.web.management import Management, is_management
from swapper_proxy.web.proxy import Proxy

log = logging.getLogger(__name__)

# So many proxies may stand one behind the other.
MOST_PROXIES = 16
LOOP = (
    "the request has come back to a proxy that had sent it: upstream.url (OLLAMA_BASE_URL) must be the address of "
    "Ollama, not that of a proxy which leads back here"
)
LOCAL_SUFFIXES = (".local", ".internal", ".localhost")
# Methods and time as Ollama has them; of headers it allows a list, the proxy all: its own ones count, too.
_PREFLIGHT = (
    (b"Access-Control-Allow-Methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"Access-Control-Max-Age", b"43200"),
    (b"Vary", b"Access-Control-Request-Method"),
    (b"Vary", b"Access-Control-Request-Headers"),
)


class Front:
    """The handler of the HTTP server.  `via` is what the proxy's own requests to Ollama carry."""

    def __init__(self, management: Management, via: str) -> None:
        self._management = management
        self._via = via

    def configure(self, proxy: Proxy, server: config.Server) -> None:
        """Requests that come from now on are treated like this."""
        self._proxy = proxy
        self._server = server
        self._forwarding = Forwarding(server.trusted_proxies)

    async def handle(self, request: web.BaseRequest) -> Exchange:
        """403 for pages of foreign origins, on every route; CORS answers for those that may.

        Management calls that change something also insist on a Host that no foreign name server can point here
        (DNS rebinding).
        """
        origin = request.headers.get("Origin", "")
        allowed = not origin or self._is_allowed(request, origin)
        exchange = Exchange(request, _cors(request, origin) if origin and allowed else [], self._server.write_timeout)
        managed = is_management(exchange.path)
        if self._lets_in(exchange, origin, allowed, managed):
            try:
                await (self._management if managed else self._proxy).handle(exchange)
            except asyncio.CancelledError:
                if exchange.is_connected and not exchange.status:  # the proxy ends, and waits no longer
                    self._tell(exchange, Rejected(Rejection.SHUTTING_DOWN, RETRY_S), managed)
                raise
            except ConnectionError:
                exchange.break_off()  # the client left: nobody is there to be told
            except Exception:
                log.exception("a request failed")
                if exchange.status:
                    exchange.break_off()
                else:
                    error = ProxyError(500, "internal_error", "internal error; see the proxy's log")
                    self._tell(exchange, error, managed)
        if exchange.is_full:
            with contextlib.suppress(ConnectionError):  # it left
                await exchange.room()  # before the next request of a client that sends them without reading
        return exchange

    def _tell(self, exchange: Exchange, error: ProxyError, managed: bool) -> None:
        """Answer with an error.  The proxy records what it refuses of the requests that were for Ollama."""
        if managed:
            exchange.answer(*rendered(error, Dialect.MANAGEMENT))
        else:
            self._proxy.refuse(exchange, error)

    def _lets_in(self, exchange: Exchange, origin: str, allowed: bool, managed: bool) -> bool:
        """What is not let in is answered."""
        request = exchange.request
        passed = request.headers.getall(VIA, None)
        if passed is not None and self._has_come_back(passed):
            _refuse(exchange, HTTPStatus.LOOP_DETECTED, "loop", LOOP)
        elif not allowed:
            _refuse(exchange, 403, "origin_not_allowed", "pages of this origin are not allowed; see cors_origins")
        elif request.method == "CONNECT" or not exchange.target.startswith("/"):
            _refuse(exchange, 400, "malformed", "this is no tunnel: ask for a path")
            exchange.break_off()  # what a client sends into a tunnel is no request
        elif origin and request.method == "OPTIONS":
            exchange.begin(204, b"No Content", [], sized=True)  # to Ollama each such request is a preflight
        elif (
            managed
            and request.method not in ("GET", "HEAD", "OPTIONS")
            and not self._is_local(self._forwarding.host(request))
        ):
            _refuse(exchange, 403, "host_not_allowed", "this Host is not allowed; see allowed_hosts")
        else:
            return True
        return False

    def _has_come_back(self, passed: list[str]) -> bool:
        """Return True if this proxy has sent the request, or so many others that they must stand in a ring."""
        ids = [id_.strip() for line in passed for id_ in line.split(",")]
        return self._via in ids or len(ids) > MOST_PROXIES

    def _is_allowed(self, request: web.BaseRequest, origin: str) -> bool:
        """The proxy's own pages, under a name that no foreign name server can point here, and the listed ones."""
        try:
            host = self._forwarding.host(request)
            own = urlsplit(origin).netloc == host
        except ValueError:
            return False
        if own and self._is_local(host):
            return True
        return any(origin == pattern or fnmatchcase(origin, pattern) for pattern in self._server.cors_origins)

    def _is_local(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in {allowed.lower() for allowed in self._server.allowed_hosts} or name.endswith(LOCAL_SUFFIXES):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return bool(name) and "." not in name
        return True


def _refuse(exchange: Exchange, status: int, code: str, message: str) -> None:
    dialect = Dialect.MANAGEMENT if is_management(exchange.path) else dialect_of(exchange.path)
    exchange.answer(*rendered(ProxyError(status, code, message), dialect))


def _cors(request: web.BaseRequest, origin: str) -> list[Header]:
    """For the browser of an allowed page (the foreign ones get their 403 and are told nothing)."""
    told = [(b"Access-Control-Allow-Origin", _plain(origin)), (b"Vary", b"Origin")]
    if request.method == "OPTIONS":
        asked = request.headers.get("Access-Control-Request-Headers", "*")
        told += [*_PREFLIGHT, (b"Access-Control-Allow-Headers", _plain(asked))]
    return told


def _plain(value: str) -> bytes:
    """As it came: a header's value holds no line ends."""
    return value.encode("utf-8", "surrogateescape")
