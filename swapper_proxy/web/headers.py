"""Which headers go through.  Hop-by-hop ones belong to a connection (RFC 9110 §7.6.1) and never do."""

from collections.abc import Iterable

from swapper_proxy.runtime.ports import Header

PRIORITY = "X-Swapper-Priority"
QUEUE_SECONDS = b"X-Swapper-Queue-Seconds"
CHOSEN_MODEL = b"X-Swapper-Model"

# What proxies in front say of the client: for this proxy, and true only if they are trusted (see web/forwarded).
FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# What says how a message is framed and how its body is to be read is never dropped because Connection names it.
_OF_THE_BODY = b"content-"
# Host is Ollama's own; cross-origin rules, priorities and encodings are the proxy's business; Expect was answered here.
NOT_UPSTREAM = HOP_BY_HOP | {
    b"host",
    b"accept-encoding",
    b"origin",
    b"expect",
    b"access-control-request-method",
    b"access-control-request-headers",
    *FORWARDED,
    PRIORITY.lower().encode(),
}
# The same of a request whose body was read and decoded here.
NOT_OF_A_READ_BODY = NOT_UPSTREAM | {b"content-length", b"content-encoding"}
# Cross-origin rules are the proxy's business: all that a response may say of them (Fetch standard, §3.3.3).
CORS = frozenset(
    b"access-control-" + name
    for name in (
        b"allow-origin",
        b"allow-credentials",
        b"allow-methods",
        b"allow-headers",
        b"allow-private-network",
        b"expose-headers",
        b"max-age",
    )
)
NOT_DOWNSTREAM = HOP_BY_HOP | CORS | {QUEUE_SECONDS.lower(), CHOSEN_MODEL.lower()}
ORDINARY = frozenset((b"close", b"keep-alive"))  # in Connection: these name no headers


def towards_ollama(raw: Iterable[Header], length: int | None, without: frozenset[bytes] = frozenset()) -> list[Header]:
    """A client's headers for Ollama, but `without` those.

    `length` is that of a body which was read and decoded here, else the client's own stands.
    """
    if length is None:
        return _kept(raw, NOT_UPSTREAM | without)
    kept = _kept(raw, NOT_OF_A_READ_BODY | without if without else NOT_OF_A_READ_BODY)
    kept.append((b"Content-Length", b"%d" % length))
    return kept


def towards_client(headers: Iterable[Header]) -> list[Header]:
    """Ollama's headers for the client."""
    return _kept(headers, NOT_DOWNSTREAM)


def queued(seconds: float) -> list[Header]:
    """What tells a client how long its request was in the queue; a Server-Timing of Ollama's stays beside."""
    return [(QUEUE_SECONDS, b"%.3f" % seconds), (b"Server-Timing", b"queue;dur=%.1f" % (seconds * 1000))]


def _kept(headers: Iterable[Header], dropped: frozenset[bytes]) -> list[Header]:
    """Those that are not `dropped` (as Connection is), nor named by Connection."""
    kept: list[Header] = []
    named: frozenset[bytes] = frozenset()
    for header in headers:
        if (low := header[0].lower()) not in dropped:
            kept.append(header)
        elif low == b"connection":
            named |= frozenset(word.strip() for word in header[1].lower().split(b",")) - ORDINARY
    if not named:
        return kept
    return [header for header in kept if (low := header[0].lower()) not in named or low.startswith(_OF_THE_BODY)]
