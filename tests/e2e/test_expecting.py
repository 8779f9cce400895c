"""`Expect: 100-continue`: a client is told to send its body when that is about to be read, once, in HTTP/1.1 only."""

import pytest

from swapper_proxy.config import ClientKey, Keys, ManagementKey, digest
from tests.e2e.recording import Wire, recorded

KEY = "sk-ann-1"
KEYS = Keys(
    clients={"ann": ClientKey(key_sha256=digest(KEY)), "few": ClientKey(key_sha256=digest("sk-few"), models=("x",))},
    management={"operator": ManagementKey(key_sha256=digest("sk-operator"))},
)
LEAVE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODY = b'{"model": "x"}'
READ = pytest.mark.parametrize("path", ["/api/chat", "/api/show", "/api/blobs/x", "/api/asked"])


def head(path: str, *fields: str, version: str = "1.1", length: int = len(BODY), key: str = KEY) -> bytes:
    fields = (f"Authorization: Bearer {key}", "Expect: 100-Continue", f"Content-Length: {length}", *fields)
    return "\r\n".join((f"POST {path} HTTP/{version}", "Host: localhost", *fields, "", "")).encode()


async def first(wire: Wire) -> bytes:
    """The first status line and headers that come."""
    return await wire.reader.readuntil(b"\r\n\r\n")


@READ
async def test_the_client_is_told_once_and_its_connection_is_kept(path: str) -> None:
    async with recorded(keys=KEYS) as target, target.wire() as wire:
        for _ in range(2):
            await wire.send(head(path))
            assert await first(wire) == LEAVE
            await wire.send(*(BODY[at : at + 1] for at in range(len(BODY))))
            assert (await wire.answer())[0] == 200
        assert all(b"expect" not in asked.lower() for asked, _ in target.upstream.asked)


@READ
async def test_a_client_that_does_not_wait_is_not_told(path: str) -> None:
    async with recorded(keys=KEYS) as target, target.wire() as wire:
        await wire.send(head(path) + BODY)
        assert (await wire.answer())[0] == 200


@READ
async def test_a_client_of_http_1_0_is_not_told(path: str) -> None:
    async with recorded(keys=KEYS) as target, target.wire() as wire:
        await wire.send(head(path, version="1.0"))
        await target.serves_others(KEY)  # by then it would have been told
        await wire.send(BODY)
        assert (await wire.answer())[0] == 200


REFUSED = {
    "no key": (head("/api/chat", key="nobody's"), 401),
    "no key, for an upload": (head("/api/blobs/x", key="nobody's"), 401),
    "no key, for the management": (head("/models/x/load", key=KEY), 401),
    "a foreign page": (head("/api/chat", "Origin: http://evil.example"), 403),
    "a route that the key may not use": (head("/api/embeddings/x", key="sk-few"), 403),
    "too large": (head("/api/chat", length=10**12), 413),
    "too large to be shown": (head("/api/show", length=10**12), 413),
    "no length": (head("/api/blobs/x", length=1 << 63), 400),
    "an unknown encoding": (head("/api/chat", "Content-Encoding: br"), 415),
    "a bad priority": (head("/api/chat", "X-Swapper-Priority: urgent"), 400),
    "nothing to read it for": (head("/health", key="sk-operator"), 405),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_is_not_asked_for(sent: bytes, status: int) -> None:
    async with recorded(keys=KEYS) as target, target.wire() as wire:
        await wire.send(sent)
        came, headers, _ = await wire.answer()
        assert came == status
        assert headers["connection"] == "close"  # the client may leave its body out
        assert all(b"/api/show" in line for line in target.upstream.lines)  # the proxy's own question
