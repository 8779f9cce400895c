"""Routes that list, show, make, copy and delete models, and those that talk to a registry."""

from typing import Any

from tests.differential.rows import SHOW, Route, Row, encoded
from tests.differential.wire import Request

CREATE, COPY, DELETE = Route("/api/create"), Route("/api/copy"), Route("/api/delete", method="DELETE")
PULL, PUSH = Route("/api/pull"), Route("/api/push")
NO_BLOB = "sha256:" + "0" * 64
HELLO, HELLO_DIGEST = b"hello", "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
NOWHERE = "http://127.0.0.1:1/library/x"  # nothing listens there

GONE = Request("DELETE", "/api/delete", encoded({"model": "made"}))
COPIED = Request("POST", "/api/copy", encoded({"source": "alpha", "destination": "doomed"}))


def blob(method: str, digest: str, note: str, body: bytes | None = None) -> Row:
    return Row(note, Request(method, f"/api/blobs/{digest}", body))


def get(path: str, note: str = "", *, warm: str = "", unordered: bool = False) -> Row:
    return Row(note, Request("GET", path), warm=warm, unordered=unordered)


def unread(route: Route) -> list[Row]:
    """Bodies that say nothing."""
    bodies: tuple[tuple[str, Any], ...] = (
        ("no body", None),
        ("an empty body", ""),
        ("an empty object", {}),
        ("an array", []),
        ("cut off", "{"),
        ("a number for a name", {"model": 1, "source": 1}),
    )
    return [route.body(note, body) for note, body in bodies]


LISTS = [
    get("/"),
    get("/api/version"),
    get("/api/tags", unordered=True),
    get("/api/ps", "empty"),
    get("/api/ps", "alpha", warm="alpha"),
    get("/v1/models", unordered=True),
    *(Row("", Request("HEAD", path)) for path in ("/", "/api/version", "/api/tags")),
]

SHOWN = [
    *unread(SHOW),
    *SHOW.fields("model", "alpha-512", "alpha-kind", "embedder"),
    *SHOW.fields("verbose", True, "x"),
    *SHOW.fields("options", {"num_ctx": 1}, []),
    SHOW.body("the old key", {"name": "alpha"}),
    SHOW.body("both keys", {"model": "alpha", "name": "nope"}),
]

CHANGED = [
    *(row for route in (CREATE, COPY, DELETE, PULL, PUSH) for row in unread(route)),
    CREATE.body("a new one", {"model": "made", "from": "alpha", "system": "x"}, before=(GONE,)),
    CREATE.body("a new one, in one answer", {"model": "made", "from": "alpha", "stream": False}, before=(GONE,)),
    CREATE.body("from the unknown", {"model": "made", "from": "x y"}),
    CREATE.body("from files that are not there", {"model": "made", "files": {"x.gguf": NO_BLOB}}),
    CREATE.body("an unknown template", {"model": "made", "from": "alpha", "template": "{{ .Prompt", "stream": False}),
    CREATE.body("an impossible name", {"model": "a b", "from": "alpha"}),
    COPY.body("to a new name", {"source": "alpha", "destination": "made"}, before=(GONE,)),
    COPY.body("to the same name", {"source": "alpha", "destination": "alpha"}),
    COPY.body("in other case", {"Source": "ALPHA", "DESTINATION": "made"}, before=(GONE,)),
    COPY.body("to nowhere", {"source": "alpha"}),
    COPY.body("to an impossible name", {"source": "alpha", "destination": "a b"}),
    COPY.body("of the unknown", {"source": "nope", "destination": "made"}),
    DELETE.body("a copy", {"model": "doomed"}, before=(COPIED,)),
    DELETE.body("a copy by the old key", {"name": "doomed"}, before=(COPIED,)),
    DELETE.body("the unknown", {"model": "nope"}),
    DELETE.body("an impossible name", {"model": "a b"}),
    PULL.body("from where nothing listens", {"model": NOWHERE, "insecure": True}),
    PULL.body("the same in one answer", {"model": NOWHERE, "insecure": True, "stream": False}),
    PULL.body("without insecure", {"model": NOWHERE, "stream": False}),
    PULL.body("an impossible name", {"model": "a b", "stream": False}),
    PUSH.body("to where nothing listens", {"model": NOWHERE, "insecure": True, "stream": False}),
    PUSH.body("an impossible name", {"model": "a b", "stream": False}),
    PUSH.body("the unknown", {"model": "nope", "stream": False}),
]

BLOBS = [
    blob("HEAD", NO_BLOB, "unknown"),
    blob("HEAD", "nonsense", "no digest"),
    blob("POST", "nonsense", "no digest", HELLO),
    blob("POST", NO_BLOB, "another digest", HELLO),
    blob("POST", HELLO_DIGEST, "the first time on one side, known on the other", HELLO),
    blob("POST", HELLO_DIGEST, "known", HELLO),
    blob("HEAD", HELLO_DIGEST, "known"),
    blob("POST", HELLO_DIGEST.replace(":", "-"), "with a dash", HELLO),
    blob("POST", HELLO_DIGEST.upper(), "in capitals", HELLO),
    blob("GET", NO_BLOB, "a method that it has not"),
]

NEWER = "newer versions of Ollama have this route; that this one has not is learnt from the first request"


def later(path: str, note: str, **more: Any) -> Row:
    return Row(note, Request("POST", path, encoded({"model": "alpha", "input": "x"})), **more)


LATER = [
    row
    for path in ("/v1/responses", "/v1/messages")
    for row in (
        later(path, "of a later version", why=NEWER, in_vain="alpha"),
        later(path, "of a later version, once more"),
    )
] + [Row("of a later version, unknown", Request("POST", "/v1/responses", encoded({"model": "nope"})))]

ROWS = [*LISTS, *SHOWN, *CHANGED, *BLOBS, *LATER]
