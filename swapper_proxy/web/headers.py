"""Which headers go through.  Hop-by-hop ones belong to a connection (RFC 9110 §7.6.1) and never do."""

from collections.abc import Iterable

Header = tuple[str, str]

PRIORITY = "X-Swapper-Priority"
QUEUE_SECONDS = "X-Swapper-Queue-Seconds"
CHOSEN_MODEL = "X-Swapper-Model"

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
# Host is Ollama's own; cross-origin rules and priorities are the proxy's business; Expect was answered here.
NOT_UPSTREAM = HOP_BY_HOP | {
    "host",
    "origin",
    "expect",
    "access-control-request-method",
    "access-control-request-headers",
    PRIORITY.lower(),
}
# What a client shows to the proxy is no business of whoever runs a remote model.
CREDENTIALS = frozenset(("authorization", "x-api-key", "api-key", "cookie"))
NOT_DOWNSTREAM = HOP_BY_HOP | {QUEUE_SECONDS.lower(), CHOSEN_MODEL.lower()}


def towards_ollama(
    raw: Iterable[tuple[bytes, bytes]], length: int | None, without: frozenset[str] = frozenset()
) -> list[Header]:
    """A client's headers for Ollama, but `without` those.

    `length` is that of a body which was read and decoded here, else the client's own stands.
    """
    headers = [(name.decode("latin-1"), text(value)) for name, value in raw]
    dropped = NOT_UPSTREAM | _named_by_connection(headers) | without
    if length is not None:
        dropped |= {"content-length", "content-encoding"}
    kept = [header for header in headers if header[0].lower() not in dropped]
    return kept if length is None else [*kept, ("Content-Length", str(length))]


def towards_client(headers: Iterable[Header]) -> list[Header]:
    """Ollama's headers for the client."""
    headers = list(headers)
    dropped = NOT_DOWNSTREAM | _named_by_connection(headers)
    return [h for h in headers if (low := h[0].lower()) not in dropped and not low.startswith("access-control-")]


def queued(seconds: float) -> list[Header]:
    """What tells a client how long its request was in the queue; a Server-Timing of Ollama's stays beside."""
    return [(QUEUE_SECONDS, f"{seconds:.3f}"), ("Server-Timing", f"queue;dur={seconds * 1000:.1f}")]


def text(value: bytes) -> str:
    """A header's value so that it is sent with the bytes it came with, where those are UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _named_by_connection(headers: Iterable[Header]) -> frozenset[str]:
    values = (value for name, value in headers if name.lower() == "connection")
    return frozenset(word.strip().lower() for value in values for word in value.split(","))
