"""What no honest client sends: refused or closed, with nothing of it at Ollama, no traceback and no harm to others."""

import asyncio
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from tests.e2e.conftest import until
from tests.e2e.recording import Target, Wire, recorded
from tests.waiting import LIMIT_S

HOST = b"Host: localhost\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHOW = b"POST /api/show HTTP/1.1\r\n" + HOST
TAGS = b"GET /api/asked HTTP/1.1\r\n" + HOST
CHUNKED = SHOW + b"Transfer-Encoding: chunked\r\n\r\n"

NO_HTTP = {
    # two readers of these would see two different bodies
    "both lengths": SHOW + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "both the other way": SHOW + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": SHOW + b"Content-Length: 2\r\nContent-Length: 48\r\n\r\n{}" + SMUGGLED,
    "the same length twice": SHOW + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "a list of lengths": SHOW + b"Content-Length: 2, 2\r\n\r\n{}" + SMUGGLED,
    "a length with a sign": SHOW + b"Content-Length: +2\r\n\r\n{}" + SMUGGLED,
    "a negative length": SHOW + b"Content-Length: -2\r\n\r\n{}" + SMUGGLED,
    "a length in hexadecimal": SHOW + b"Content-Length: 0x2\r\n\r\n{}" + SMUGGLED,
    "an empty length": SHOW + b"Content-Length: \r\n\r\n" + SMUGGLED,
    "too long a length": SHOW + b"Content-Length: 99999999999999999999999\r\n\r\n{}" + SMUGGLED,
    "a space before the colon of the length": SHOW + b"Content-Length : 2\r\n\r\n{}" + SMUGGLED,
    "an unknown coding": SHOW + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": SHOW + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked, then something else": SHOW + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size that is none": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size with 0x": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a negative chunk size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size that overflows": CHUNKED + b"10000000000000002\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "an empty chunk size": CHUNKED + b"\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "more than the chunk": CHUNKED + b"2\r\n{}0\r\n\r\n" + SMUGGLED,
    "chunks by line feeds": CHUNKED + b"2\n{}\n0\n\n" + SMUGGLED,
    "a line feed in a chunk extension": CHUNKED + b"2;\nxx\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a length in the trailer": CHUNKED + b"2\r\n{}\r\n0\r\nContent-Length: 7\r\n\r\n" + SMUGGLED,
    # two readers would see other headers
    "a folded line": TAGS + b"X: a\r\n b\r\n\r\n",
    "lines by line feeds": b"GET /api/asked HTTP/1.1\nHost: localhost\n\n",
    "a line feed in a value": TAGS + b"X: a\nY: b\r\n\r\n",
    "a carriage return in a value": TAGS + b"X: a\rY: b\r\n\r\n",
    "a zero byte in a value": TAGS + b"X: a\0b\r\n\r\n",
    "a zero byte in a name": TAGS + b"X\0: a\r\n\r\n",
    "a control character": TAGS + b"X: a\x01b\r\n\r\n",
    "a space before a colon": TAGS + b"X : a\r\n\r\n",
    "no colon": TAGS + b"nothing\r\n\r\n",
    "no name": TAGS + b": a\r\n\r\n",
    "a name that is no UTF-8": TAGS + b"X\xff: a\r\n\r\n",
    "a space before the first header": b"GET /api/asked HTTP/1.1\r\n " + HOST + b"\r\n",
    "no host": b"GET /api/asked HTTP/1.1\r\n\r\n",
    "two hosts": TAGS + b"Host: other\r\n\r\n",
    # no request line
    "an unknown method": b"FROB /api/asked HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get /api/asked HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the path": b"GET /api/ asked HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tab in the path": b"GET /api/\tasked HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path that is no UTF-8": b"GET /api/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "a query that is no UTF-8": b"GET /api/asked?\xff=\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "an asterisk": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "no path": b"GET localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "half an address": b"GET http://[localhost HTTP/1.1\r\n" + HOST + b"\r\n",
    "a version that is none": b"GET /api/asked HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c6010000c20303") + bytes(190),
    "garbage": b"\0\1\2\3garbage\r\n\r\n",
    # too much
    "too many headers": TAGS + b"".join(b"X%d: a\r\n" % number for number in range(1200)) + b"\r\n",
    "too long a path": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "too long a header": TAGS + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "too long a head": TAGS + b"".join(b"X%d: %b\r\n" % (n, b"a" * 30_000) for n in range(20)),
}


@pytest.fixture
async def target(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Target]:
    """At the end the log must be without a traceback."""
    caplog.set_level(logging.INFO)
    async with recorded() as target:
        yield target
    records = [*caplog.get_records("call"), *caplog.records]  # the latter are of the teardown only
    assert [record.getMessage() for record in records if record.exc_info] == []
    assert [record.getMessage() for record in records if record.name.startswith("aiohttp")] == []


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP)
async def test_what_is_no_http_is_refused_and_goes_nowhere(target: Target, sent: bytes) -> None:
    async with target.wire() as wire:
        await wire.send(sent)
        status, headers, body = await wire.answer()
        assert status == (431 if len(sent) > 60_000 else 400)
        assert headers["content-type"].startswith("application/json")
        assert headers.get("server", "swapper-proxy") == "swapper-proxy"  # no versions of what it is made of
        assert json.loads(body).keys() == {"error"}
        assert await wire.is_closed()
    await target.serves_others()
    assert target.upstream.lines == [b"GET /api/beside HTTP/1.1"]


BROKEN_LATER = {
    "/api/chat": '{"error":"the request body is not framed as HTTP/1.1 has it"}',
    "/api/show": '{"error":"the request body is not framed as HTTP/1.1 has it"}',
    "/v1/chat/completions": '"type":"invalid_request_error","param":null,"code":"malformed"}',
    "/v1/messages": '{"type":"error","error":{"type":"invalid_request_error","message":"the request body is not framed',
    "/api/blobs/x": '{"error":"the request body is not framed as HTTP/1.1 has it"}',
}


@pytest.mark.parametrize(("path", "text"), BROKEN_LATER.items())
async def test_a_body_whose_framing_breaks_later_is_refused_in_the_dialect(
    target: Target, path: str, text: str
) -> None:
    async with target.wire() as wire:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        await wire.send(head.encode())
        await wire.reader.readuntil(b"100 Continue\r\n\r\n")  # it is being served
        await wire.send(b"2\r\n{}\r\n", b"zz\r\n{}\r\n0\r\n\r\n" + SMUGGLED)
        status, _, body = await wire.answer()
        assert (status, text in body.decode()) == (400, True)
        assert await wire.is_closed()
    await target.serves_others()
    assert target.upstream.lines == [b"GET /api/beside HTTP/1.1"]

    async def told() -> bool:
        return [head.split()[1].decode() for head in target.upstream.broken] == ["/api/blobs/x"]

    if "blobs" in path:
        await until(told)


REFUSED = {
    "a tunnel": (b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED, 400),
    "all of it": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a coding before chunked": (SHOW + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "no coding at all": (SHOW + b"Transfer-Encoding: \r\n\r\n", 400),
    "a length that fills 64 bits": (
        b"POST /api/blobs/x HTTP/1.1\r\n" + HOST + b"Content-Length: 18446744073709551615\r\n\r\n",
        400,
    ),
    "a body that is too large": (SHOW + b"Content-Length: 99999999999\r\n\r\n", 413),
    "an encoding that is no UTF-8": (
        b"POST /api/chat HTTP/1.1\r\n" + HOST + b"Content-Encoding: \xff\r\nContent-Length: 2\r\n\r\n{}",
        415,
    ),
    "an origin that is no UTF-8": (TAGS + b"Origin: \xff\r\n\r\n", 403),
    "a foreign address": (b"POST http://evil.example/models/x/load HTTP/1.1\r\n" + HOST + b"\r\n", 403),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_is_http_and_still_refused(target: Target, sent: bytes, status: int) -> None:
    async with target.wire() as wire:
        await wire.send(sent)
        assert (await wire.answer())[0] == status
    await target.serves_others()
    assert target.upstream.lines == [b"GET /api/beside HTTP/1.1"]


INNER = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
HANDED_ON = {
    "a chunk extension": (CHUNKED + b"2;a=b\r\n{}\r\n0\r\n\r\n", b"POST /api/show HTTP/1.1", b"{}"),
    "a trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n", b"POST /api/show HTTP/1.1", b"{}"),
    "chunks of HTTP/1.0": (
        CHUNKED.replace(b"1.1", b"1.0") + b"2\r\n{}\r\n0\r\n\r\n",
        b"POST /api/show HTTP/1.1",
        b"{}",
    ),
    "a request as a body": (
        b"GET /api/asked HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
        b"GET /api/asked HTTP/1.1",
        INNER,
    ),
    "a length that is of the connection": (
        b"POST /api/blobs/x HTTP/1.1\r\n"
        + HOST
        + b"Connection: content-length\r\nContent-Length: %d\r\n\r\n" % len(INNER)
        + INNER,
        b"POST /api/blobs/x HTTP/1.1",
        INNER,
    ),
    "chunks that are of the connection": (
        b"POST /api/blobs/x HTTP/1.1\r\n"
        + HOST
        + b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /api/blobs/x HTTP/1.1",
        b"{}",
    ),
    "another protocol": (
        TAGS + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
        b"GET /api/asked HTTP/1.1",
        b"",
    ),
    "line ends in the path": (
        b"GET /api/asked%0d%0aX:y HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /api/asked%0d%0aX:y HTTP/1.1",
        b"",
    ),
    "an address": (b"GET http://evil.example/api/asked HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /api/asked HTTP/1.1", b""),
    "an address alone": (b"GET http://evil.example HTTP/1.1\r\n" + HOST + b"\r\n", b"GET / HTTP/1.1", b""),
    "two slashes": (
        b"GET //evil.example/api HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET //evil.example/api HTTP/1.1",
        b"",
    ),
    "no UTF-8, escaped": (b"GET /api/%ff%00 HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /api/%ff%00 HTTP/1.1", b""),
    "a header that is no UTF-8": (TAGS + b"X: \xff\xfe\r\n\r\n", b"GET /api/asked HTTP/1.1", b""),
    "another method": (b"PROPFIND /api/asked HTTP/1.1\r\n" + HOST + b"\r\n", b"PROPFIND /api/asked HTTP/1.1", b""),
}


@pytest.mark.parametrize(("sent", "line", "body"), HANDED_ON.values(), ids=HANDED_ON)
async def test_what_is_handed_on_is_framed_anew_and_nothing_is_behind_it(
    target: Target, sent: bytes, line: bytes, body: bytes
) -> None:
    async with target.wire() as wire:
        await wire.send(sent)
        assert (await wire.answer())[0] == 200
    await target.serves_others()
    ((head, came), _) = target.upstream.asked
    assert (head.partition(b"\r\n")[0], came) == (line, body)
    assert b"evil.example\r\n" not in head
    assert b"upgrade" not in head.lower()
    assert target.upstream.broken == []


async def test_requests_one_behind_the_other_are_answered_in_their_order(target: Target) -> None:
    async with target.wire() as wire:
        asked = [b"POST /api/show HTTP/1.1\r\n%bContent-Length: 2\r\nX: %d\r\n\r\n{}" % (HOST, n) for n in range(100)]
        wire.writer.write(b"".join(asked))
        for _ in asked:
            assert (await wire.answer())[0] == 200
    assert [int(head.partition(b"X: ")[2].split()[0]) for head, _ in target.upstream.asked] == list(range(100))


# Time

LIMIT = 30.0  # of the proxy's, in seconds; nobody waits for it: `passes` moves the clock


@pytest.mark.parametrize("begun", [b"", b"GET /api/asked\r\n", TAGS, b"\r\n"])  # the second is all that HTTP/0.9 sends
async def test_a_head_that_does_not_end_is_not_waited_for(passes: Callable[[float], None], begun: bytes) -> None:
    async with recorded(header_timeout=LIMIT) as target, target.wire() as wire:
        if begun == TAGS:
            await wire.send(TAGS + b"\r\n")  # also on a connection that was of use
            assert (await wire.answer())[0] == 200
        await wire.send(begun)
        await target.serves_others()
        passes(LIMIT)
        async with asyncio.timeout(LIMIT_S):
            assert await wire.is_closed()
        await target.serves_others()


async def test_bytes_that_drip_do_not_put_it_off(passes: Callable[[float], None]) -> None:
    async with recorded(header_timeout=LIMIT) as target, target.wire() as wire:
        await wire.send(b"GET /api/asked HTTP/1.1\r\nX: ")
        for _ in range(4):
            await wire.send(b"a")
            await target.serves_others()  # by then it has come
            passes(LIMIT / 4)
        async with asyncio.timeout(LIMIT_S):
            assert await wire.is_closed()
        await target.serves_others()
        assert set(target.upstream.lines) == {b"GET /api/beside HTTP/1.1"}


@pytest.mark.parametrize("path", ["/api/chat", "/api/show", "/v1/chat/completions", "/v1/messages", "/api/blobs/x"])
async def test_a_body_that_does_not_come_is_not_waited_for(passes: Callable[[float], None], path: str) -> None:
    async with recorded(body_idle_timeout=LIMIT) as target:
        async with target.wire() as wire:
            await wire.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{".encode())
            await target.serves_others()
            passes(LIMIT)
            status, _, body = await wire.answer()
            assert status == 408
            said = json.loads(body)["error"]
            text = said if path.startswith("/api") else said["message"]
            assert text == "the request body did not come"
        assert target.upstream.lines == [b"GET /api/beside HTTP/1.1"]


@pytest.mark.parametrize("path", ["/api/show", "/api/blobs/x"])
async def test_a_slow_body_may_take_longer_than_that(passes: Callable[[float], None], path: str) -> None:
    async with recorded(body_idle_timeout=LIMIT) as target, target.wire() as wire:
        await wire.send(b"POST %b HTTP/1.1\r\n" % path.encode() + HOST + b"Content-Length: 4\r\n\r\n")
        for piece in (b"{", b"}", b" ", b" "):
            await target.serves_others()  # by then what was sent before has come
            passes(LIMIT / 3)
            await wire.send(piece)
        assert (await wire.answer())[0] == 200
        assert target.upstream.asked[-1][1] == b"{}  "


# Numbers


async def idle(target: Target, number: int) -> list[Wire]:
    """So many connections that were of use once, the oldest first."""
    wires = []
    host, _, port = target.url.removeprefix("http://").partition(":")
    for _ in range(number):
        wire = Wire(*await asyncio.open_connection(host, int(port)))
        await wire.send(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await wire.answer())[0] == 200
        wires.append(wire)
    return wires


async def close(*wires: Wire) -> None:
    for wire in wires:
        wire.writer.close()
    await asyncio.gather(*(wire.writer.wait_closed() for wire in wires), return_exceptions=True)


async def test_idle_connections_make_room_for_new_ones() -> None:
    async with recorded(max_connections=20) as target:
        wires = await idle(target, 20)
        again = wires.pop(0)
        await again.send(TAGS + b"\r\n")
        assert (await again.answer())[0] == 200  # now the one after it has been idle for longest
        more = await idle(target, 5)
        for wire in wires[:5]:
            assert await wire.is_closed()
        for wire in (again, *wires[5:], *more):
            await wire.send(TAGS + b"\r\n")
            assert (await wire.answer())[0] == 200
        await close(again, *wires, *more)


async def test_connections_that_are_of_use_are_not_closed_for_new_ones() -> None:
    async with recorded(max_connections=2) as target:
        wires = await idle(target, 2)
        for wire in wires:
            await wire.send(b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n")
            await wire.reader.readuntil(b"\r\n\r\n")
        async with target.wire() as wire:
            status, headers, body = await wire.answer()
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(body) == {"error": "too many connections, please try later"}
            assert await wire.is_closed()
        for wire in wires:
            await wire.reader.readuntil(b"data: ")  # the stream goes on
        await close(wires[0])

        async def has_room() -> bool:
            async with target.wire() as wire:
                await wire.send(TAGS + b"\r\n")
                return (await wire.answer())[0] == 200

        await until(has_room)
        await close(*wires)


# Leaving


@pytest.mark.parametrize("path", ["/api/chat", "/api/show", "/api/blobs/x", "/models/x/load", "/api/asked"])
@pytest.mark.parametrize("resets", [False, True])
async def test_who_leaves_while_leave_to_send_is_given_leaves_nothing_in_the_log(
    target: Target, path: str, resets: bool
) -> None:
    for body in (b"", b"{"):
        async with target.wire() as wire:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
            wire.writer.write(head.encode() + body)
            if resets:
                _reset(wire)
    await target.serves_others()


async def test_who_leaves_without_having_read(target: Target) -> None:
    async with target.wire() as wire:
        asked = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
        wire.writer.write(asked * 2000)
        await wire.reader.readexactly(1)
        _reset(wire)
    await target.serves_others()


def _reset(wire: Wire) -> None:
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.writer.transport.abort()
