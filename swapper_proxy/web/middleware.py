"""What holds on every route: foreign web pages are kept out, errors of the management API have its shape."""

import ipaddress
import logging
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.web.dialects import Dialect, dialect_of, respond

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MANAGEMENT = ("/health", "/ready", "/status", "/queue", "/models", "/metrics")
ALLOWED = web.RequestKey("allowed", bool)  # the origin, if there is one, may use the proxy
LOCAL_SUFFIXES = (".local", ".internal", ".localhost")


def is_management(path: str) -> bool:
    """Whether the path is the proxy's own."""
    return path in MANAGEMENT or path.startswith(("/models/", "/metrics/"))


def origins(server: config.Server) -> Middleware:
    """403 for pages of foreign origins, on every route; CORS answers for those that may.

    Management calls that change something also insist on a Host that no foreign name server can point here
    (DNS rebinding).
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin and not _allowed_origin(request, origin, server):
            return _refused(request, "origin_not_allowed", "pages of this origin are not allowed; see cors_origins")
        request[ALLOWED] = True
        changes = is_management(request.path) and request.method not in ("GET", "HEAD", "OPTIONS")
        if changes and not _allowed_host(request.host, server):
            return _refused(request, "host_not_allowed", "this Host is not allowed; see allowed_hosts")
        if origin and request.method == "OPTIONS":
            return web.Response(status=204)  # to Ollama each such request is a preflight
        return await handler(request)

    return check


def cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """For the browser of an allowed page (the foreign ones got their 403 and are told nothing)."""
    origin = request.headers.get("Origin")
    if not origin or ALLOWED not in request:
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers.add("Vary", "Origin")
    if request.method == "OPTIONS":
        response.headers.update(_PREFLIGHT)
        response.headers["Access-Control-Allow-Headers"] = request.headers.get("Access-Control-Request-Headers", "*")
        response.headers.extend([("Vary", "Access-Control-Request-Method"), ("Vary", "Access-Control-Request-Headers")])


# Methods and time as Ollama has them; of headers it allows a list, the proxy all: its own ones count, too.
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "Access-Control-Max-Age": "43200",
}


@web.middleware
async def management_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The management API's own errors, wrong methods and bugs, in its dialect."""
    if not is_management(request.path):
        return await handler(request)
    try:
        return await handler(request)
    except ProxyError as error:
        return respond(error, Dialect.MANAGEMENT)
    except web.HTTPException:
        raise
    except Exception:
        log.exception("a management call failed")
        return respond(ProxyError(500, "internal_error", "internal error; see the log"), Dialect.MANAGEMENT)


def _refused(request: web.Request, code: str, message: str) -> web.Response:
    dialect = Dialect.MANAGEMENT if is_management(request.path) else dialect_of(request.path)
    return respond(ProxyError(403, code, message), dialect)


def _allowed_origin(request: web.Request, origin: str, server: config.Server) -> bool:
    """The proxy's own pages, under a name that no foreign name server can point here, and the listed ones."""
    try:
        own = urlsplit(origin).netloc == request.host
    except ValueError:
        return False
    if own and _allowed_host(request.host, server):
        return True
    return any(origin == pattern or fnmatchcase(origin, pattern) for pattern in server.cors_origins)


def _allowed_host(host: str, server: config.Server) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name in {allowed.lower() for allowed in server.allowed_hosts} or name.endswith(LOCAL_SUFFIXES):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and "." not in name
    return True
