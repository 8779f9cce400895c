"""Methods, paths, headers; pages of other origins and foreign names; the proxy's own paths."""

import gzip
from typing import Any

from tests.differential.rows import CHAT, GENERATE, USER, V1_CHAT, Row, Says, encoded
from tests.differential.wire import Headers, Request

VERSION = "/api/version"


def ask(method: str, path: str, note: str = "", headers: Headers = (), host: str | None = None, **more: Any) -> Row:
    return Row(note, Request(method, path, None, headers, host), **more)


METHODS = [
    ask(method, path)
    for method, paths in {
        "GET": (
            "/api/chat",
            "/api/generate",
            "/api/show",
            "/api/delete",
            "/v1/chat/completions",
            "/nope",
            "/v1",
            "/api",
        ),
        "HEAD": ("/api/ps", "/api/chat", "/v1/models", "/nope"),
        "POST": ("/", VERSION, "/api/tags", "/api/ps", "/v1/models", "/api/delete", "/api/nope"),
        "PUT": ("/api/chat", "/api/blobs/x", "/nope"),
        "PATCH": ("/api/show", "/v1/models/alpha"),
        "DELETE": ("/", "/api/tags", "/v1/models/alpha"),
        "OPTIONS": ("/api/chat", "/api/tags", "/nope"),
        "TRACE": ("/", "/nope"),
    }.items()
    for path in paths
] + [
    ask(
        "BREW",
        VERSION,
        "no method at all",
        why="what the proxy's HTTP parser does not know it refuses",
        ollama=Says(405, "405 method not allowed"),
        proxy=Says(400, "Invalid method"),
    )
]

PATHS = [
    ask("GET", path)
    for path in (
        "//",
        "//api/version",
        "/api//version",
        "/api/version/",
        "/v1/models/",
        "/API/version",
        "/api/Version",
        "/api/version?x=1",
        "/?x",
        "/api/version?a=%zz",
        "/api%2Fversion",
        "/%61pi/version",
        "/api/version%20",
        "/api/./version",
        "/api/../api/version",
        "/api/version;x",
        "/v1/models/library/alpha",
        "http://localhost/api/version?x",
    )
] + [
    Row("", Request("POST", path, encoded(GENERATE.base)), warm=warm)
    for path, warm in (
        ("/api/generate/", ""),
        ("//api/generate", ""),
        ("/api//generate", ""),
        ("/API/GENERATE", ""),
        ("/api/generate?model=beta", "alpha"),
        ("/api%2Fgenerate", "alpha"),
        ("/api/g%65nerate", "alpha"),
    )
]

ENCODED = "this Ollama does not look at it; the proxy has to see the model"
HEADERS = [
    GENERATE.body(f"Content-Type {kind}", GENERATE.base, (("Content-Type", kind),), warm="alpha")
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x")
] + [
    V1_CHAT.body("Content-Type text/plain", V1_CHAT.base, (("Content-Type", "text/plain"),), warm="alpha"),
    GENERATE.body("Accept-Encoding", GENERATE.base, (("Accept-Encoding", "gzip, br"),), warm="alpha"),
    ask("GET", "/api/tags", "Accept-Encoding", (("Accept-Encoding", "gzip"),), unordered=True),
    ask("GET", VERSION, "Accept", (("Accept", "text/html"),)),
    ask("GET", VERSION, "If-None-Match", (("If-None-Match", "*"),)),
    ask("GET", VERSION, "Range", (("Range", "bytes=0-1"),)),
    ask("GET", VERSION, "Authorization", (("Authorization", "Bearer x"),)),
    ask("GET", VERSION, "a User-Agent", (("User-Agent", "ollama/0.9.3"),)),
    *(
        GENERATE.body(
            f"Content-Encoding {encoding}, {note}",
            gzip.compress(encoded(GENERATE.base) or b"", mtime=0)[:cut],
            (("Content-Encoding", encoding),),
            warm="alpha",
            why=ENCODED,
            ollama=Says(400, "invalid character"),
            proxy=proxy,
        )
        for encoding, note, cut, proxy in (
            ("gzip", "as it says", None, Says(200, '"done_reason"')),
            ("gzip", "cut off", -1, Says(400, "ends too soon")),
            ("br", "that is none", None, Says(415, "zstd or gzip, nothing else")),
        )
    ),
    GENERATE.body("Content-Encoding identity", GENERATE.base, (("Content-Encoding", "identity"),), warm="alpha"),
    GENERATE.body(
        "a priority that is none",
        GENERATE.base,
        (("X-Swapper-Priority", "urgent"),),
        warm="alpha",
        why="the proxy's own header",
        ollama=Says(200, '"done_reason"'),
        proxy=Says(400, "X-Swapper-Priority: expected high, medium or low"),
    ),
]

PREFLIGHT = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type,x-own"))
LOCAL = (
    "http://localhost",
    "http://localhost:3000",
    "https://127.0.0.1:8443",
    "http://0.0.0.0:1",
    "app://obsidian.md",
    "file://",
    "tauri://localhost",
    "vscode-webview://abc",
    "vscode-file://x",
)
FOREIGN = (
    "http://evil.example",
    "http://localhost.evil.example",
    "HTTP://LOCALHOST",
    "null",
    "http://[::1]:3000",
    "chrome-extension://abcdef",
    "moz-extension://abcdef",
    "safari-web-extension://abcdef",
)
ANY_HEADER = "Ollama allows a list of headers; the proxy any, so that pages can send X-Swapper-Priority"
SAYS_WHY = "Ollama refuses without a word; the proxy names the setting"


def refused(method: str, path: str, origin: str, more: Headers = ()) -> Row:
    headers = (("Origin", origin), *more)
    says = {"ollama": Says(403), "proxy": Says(403, "pages of this origin are not allowed; see cors_origins")}
    return ask(method, path, f"a page of {origin}", headers, why=SAYS_WHY, **says)


def allowed(path: str, origin: str, more: Headers) -> Row:
    says = {
        "ollama": Says(204, "access-control-allow-headers: Authorization,Content-Type,"),
        "proxy": Says(204, f"access-control-allow-headers: {dict(more).get('Access-Control-Request-Headers', '*')}\n"),
    }
    return ask(
        "OPTIONS", path, f"a page of {origin} ({len(more)})", (("Origin", origin), *more), why=ANY_HEADER, **says
    )


PAGES = [
    *(ask("GET", VERSION, f"a page of {origin}", (("Origin", origin),)) for origin in LOCAL),
    *(refused("GET", VERSION, origin) for origin in FOREIGN),
    *(
        refused(method, path, FOREIGN[0])
        for method, path in (("GET", "/v1/models"), ("POST", "/api/generate"), ("GET", "/"))
    ),
    *(allowed("/api/chat", origin, PREFLIGHT) for origin in LOCAL),
    allowed("/api/chat", "http://localhost", PREFLIGHT[:1]),
    allowed("/api/chat", "http://localhost", ()),
    allowed("/nope", "http://localhost", PREFLIGHT),
    *(refused("OPTIONS", "/api/chat", origin, PREFLIGHT) for origin in FOREIGN),
    ask("OPTIONS", "/api/chat", "a preflight of nobody", PREFLIGHT),
    ask("GET", VERSION, "an empty Origin", (("Origin", ""),)),
    ask("GET", "/nope", "a page, not found", (("Origin", "http://localhost"),)),
    ask("GET", "/api/chat", "a page, wrong method", (("Origin", "http://localhost"),)),
    CHAT.body("a page, unknown model", {"model": "nope", "messages": USER}, (("Origin", "http://localhost"),)),
    CHAT.body("a page, a stream", {**CHAT.base, "stream": True}, (("Origin", "http://localhost"),), warm="alpha"),
]

ANY_NAME = "clients reach the proxy under any name; it speaks to Ollama under Ollama's own"
HOSTS = [
    *(ask("GET", VERSION, f"Host {host}", host=host) for host in ("localhost", "LOCALHOST:1", "x.local", "x.internal")),
    *(
        ask("GET", VERSION, f"Host {host}", host=host, why=ANY_NAME, ollama=Says(403), proxy=Says(200, '{"version"'))
        for host in ("evil.example", "8.8.8.8", "ollama:11434")
    ),
    ask(
        "POST",
        "/models/alpha/load",
        "Host evil.example",
        host="evil.example",
        why="what loads by hand insists on a name that no foreign name server can point here",
        ollama=Says(403),
        proxy=Says(403, "this Host is not allowed; see allowed_hosts"),
    ),
]

OWN = [
    ask(method, path, why="the proxy's own path", ollama=Says(404, "404 page not found"), proxy=says)
    for method, path, says in (
        ("GET", "/health", Says(200, '"service":"swapper-service"')),
        ("GET", "/ready", Says(200, "ready")),
        ("GET", "/status", Says(200, '"available_models"')),
        ("GET", "/queue", Says(200, '"waiting":0')),
        ("GET", "/models", Says(200, '"ollama_name":"alpha')),
        ("GET", "/models/alpha", Says(200, '"total_uptime_seconds"')),
        ("GET", "/metrics", Says(200, "swapper_upstream_up 1.0")),
        ("DELETE", "/health", Says(405, "method_not_allowed")),
        ("POST", "/models/nope/load", Says(404, "no model is called")),
    )
]

ROWS = [*METHODS, *PATHS, *HEADERS, *PAGES, *HOSTS, *OWN]
