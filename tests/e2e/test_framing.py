"""What an upstream says of its body and what the client gets agree: nothing of one answer runs into the next."""

import gzip

import pytest

from tests.e2e.conftest import until
from tests.e2e.recording import Target, Wire, recorded

ASKED = b"GET /api/asked HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"

WHOLE = {
    "the length is of the connection": OK + b"Connection: content-length\r\nContent-Length: 5\r\n\r\nhello",
    "among others": OK + b"Connection: x, Content-Length , close\r\nX: 1\r\nContent-Length: 5\r\n\r\nhello",
    "in a header of its own": OK + b"Content-Length: 5\r\nConnection: x\r\nConnection: CONTENT-LENGTH\r\n\r\nhello",
    "chunks are of the connection": OK
    + b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKED,
    "an interim answer with a length": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n"
    + OK
    + b"Content-Length: 5\r\n\r\nhello",
    "an old one in chunks": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "a length in the trailer": OK
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + CHUNKED.removesuffix(b"\r\n")
    + b"X-Length: 9\r\n\r\n",
    "encoded": OK + b"Content-Encoding: gzip\r\nContent-Length: 25\r\n\r\n" + gzip.compress(b"hello", mtime=0),
    "encoded, in chunks that are of the connection": OK
    + b"Connection: content-encoding, content-length\r\nContent-Encoding: gzip\r\nContent-Length: 25\r\n\r\n"
    + gzip.compress(b"hello", mtime=0),
}
NO_BODY = {
    "204": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "204 in chunks": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
}
REFUSED = {
    "both lengths": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "both the other way": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + CHUNKED,
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": OK + b"Content-Length: +5\r\n\r\nhello",
    "an empty length": OK + b"Content-Length: \r\n\r\nhello",
    "compressed for the connection": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "compressed for the connection, to its end": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "an unknown coding": OK + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "chunks within chunks": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "an encoding that cannot be decoded": OK + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello",
    "two encodings": OK + b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
}


async def answer(wire: Wire) -> tuple[int, bytes]:
    """Status and body of the next answer, whichever way it is framed."""
    head = await wire.reader.readuntil(b"\r\n\r\n")
    lines = [line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line]
    fields = dict(lines)
    assert len(fields) == len(lines)
    status = int(head.split()[1])
    assert b"content-encoding" not in fields
    if status in (204, 304):
        assert b"transfer-encoding" not in fields
        assert status == 304 or b"content-length" not in fields
        return status, b""
    assert (b"transfer-encoding" in fields) is not (b"content-length" in fields)
    if b"content-length" in fields:
        return status, await wire.reader.readexactly(int(fields[b"content-length"]))
    body = b""
    while size := int(await wire.reader.readuntil(b"\r\n"), 16):
        body += (await wire.reader.readexactly(size + 2))[:-2]
    await wire.reader.readexactly(2)
    return status, body


async def asked(target: Target, raw: bytes) -> tuple[int, bytes]:
    """What a client gets, which sends another request at once; that one has its own answer."""
    target.upstream.raw = raw
    async with target.wire() as wire:
        await wire.send(ASKED + HEALTH)
        first, second = await answer(wire), await answer(wire)
    assert second[0] == 200
    assert second[1].startswith(b'{"status":')
    return first


@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE)
async def test_the_body_ends_where_the_next_answer_begins(raw: bytes) -> None:
    async with recorded() as target:
        assert await asked(target, raw) == (200, b"hello")


@pytest.mark.parametrize("raw", NO_BODY.values(), ids=NO_BODY)
async def test_answers_without_a_body_have_none(raw: bytes) -> None:
    async with recorded() as target:
        assert await asked(target, raw) == (int(raw.split()[1]), b"")


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
async def test_what_two_readers_would_read_differently_is_refused(raw: bytes) -> None:
    async with recorded() as target:
        status, body = await asked(target, raw)
        assert status == 502
        assert body.startswith(b'{"error":"Ollama is not reachable: ')


NAMED = b"content-length, transfer-encoding, host, content-encoding, content-type, accept-encoding, x-of-the-connection"


@pytest.mark.parametrize("path", [b"/api/show", b"/api/blobs/x", b"/api/chat"])
async def test_what_a_client_says_of_its_body_is_never_dropped_by_name(path: bytes) -> None:
    async with recorded() as target, target.wire() as wire:
        fields = b"Connection: " + NAMED + b"\r\nContent-Type: text/x\r\nX-Of-The-Connection: 1\r\nX-Other: 1\r\n"
        await wire.send(b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: 2\r\n\r\n{}" % (path, fields))
        assert (await answer(wire))[0] == 200
        ((head, body),) = target.upstream.asked
        lines = head.lower().split(b"\r\n")
        assert body == b"{}"
        for line in (b"content-length: 2", b"content-type: text/x", b"accept-encoding: identity", b"x-other: 1"):
            assert lines.count(line) == 1
        assert b"x-of-the-connection: 1" not in lines


@pytest.mark.parametrize("encoding", [b"gzip, br", b"identity;q=0, *", b"zstd"])
async def test_identity_is_asked_for_whatever_the_client_takes(encoding: bytes) -> None:
    async with recorded() as target, target.wire() as wire:
        for start in (
            b"GET /api/asked",
            b"HEAD /api/asked",
            b"POST /api/show",
            b"POST /api/chat",
            b"POST /api/blobs/x",
        ):
            await wire.send(
                b"%b HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: %b\r\nContent-Length: 0\r\n\r\n"
                % (start, encoding)
            )
            assert (await wire.answer(start.split()[0].decode()))[0] == 200

        async def has_asked() -> bool:
            return any(b"/api/ps" in head for head in target.upstream.own)

        await until(has_asked)
        heads = [*target.upstream.own, *(head for head, _ in target.upstream.asked)]
        asked = [line for head in heads for line in head.split(b"\r\n") if line.lower().startswith(b"accept-encoding")]
        assert asked == [b"Accept-Encoding: identity"] * len(heads)
