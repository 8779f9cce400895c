"""The console at /ui/: static files that come with the package.

1. Only what was in the folder at the start of the process is served: a path is looked up, never opened.
2. A browser asks each time whether its copy is still right (`no-cache`, ETag), so that an update is seen at once.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from aiohttp import web

from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.ports import Header

ROOT = "/ui"
INDEX = "index.html"
TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Whatever a model's name or an error text holds: nothing runs but these files, and they talk to the proxy only.
POLICY = b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
EVERYWHERE: tuple[Header, ...] = (
    (b"Cache-Control", b"no-cache"),
    (b"Content-Security-Policy", POLICY),
    (b"Referrer-Policy", b"no-referrer"),
    (b"X-Content-Type-Options", b"nosniff"),
)


@dataclass(frozen=True, slots=True)
class File:
    """One file of the console."""

    body: bytes
    content_type: bytes
    etag: str

    @property
    def headers(self) -> list[Header]:
        return [(b"Content-Type", self.content_type), (b"ETag", self.etag.encode()), *EVERYWHERE]


def is_console(path: str) -> bool:
    """Whether the path is the console's."""
    return path == ROOT or path.startswith(f"{ROOT}/")


async def page(request: web.BaseRequest, path: str) -> tuple[int, list[Header], bytes]:
    """The file; 304 if the browser has it; a redirect from /ui, relative for the sake of proxies that add a prefix."""
    if path == ROOT:
        return 308, [(b"Location", b"ui/"), *EVERYWHERE], b""
    file = files().get(path.removeprefix(f"{ROOT}/") or INDEX)
    if file is None:
        raise ProxyError(404, "not_found", "the console has no such file")
    if _is_known(request.headers.get("If-None-Match", ""), file.etag):
        return 304, file.headers, b""
    return 200, file.headers, file.body


@cache
def files() -> dict[str, File]:
    """All by name."""
    folder = resources.files("swapper_proxy.web").joinpath("static")
    return {entry.name: _file(entry.name, entry.read_bytes()) for entry in folder.iterdir() if entry.is_file()}


def _file(name: str, body: bytes) -> File:
    digest = hashlib.sha256(body).hexdigest()[:20]
    return File(body, TYPES[name[name.rindex(".") :]], f'"{digest}"')


def _is_known(tags: str, etag: str) -> bool:
    """Weakly compared, as RFC 9110 has it for If-None-Match."""
    known = (tag.strip().removeprefix("W/") for tag in tags.split(","))
    return tags.strip() == "*" or etag in known
