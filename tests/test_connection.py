"""HTTP to Ollama on the wire: how answers end, what is kept, what is broken off, who waits for whom."""

import asyncio
import gc
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from swapper_proxy.ollama import pool
from swapper_proxy.ollama.client import OllamaClient
from swapper_proxy.ollama.connection import HIGH_BYTES, MOST_HEAD_BYTES, MOST_UNFOLDED_BYTES
from swapper_proxy.ollama.pool import MOST_KEPT
from swapper_proxy.runtime.decoding import STEP_BYTES, zstd
from swapper_proxy.runtime.ports import Silence, UpstreamBroken, UpstreamSilent, UpstreamUnreachable
from tests.waiting import LIMIT_S

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[tuple[OllamaClient, list[int]]]:
    """A client, and the numbers of the connections that it made."""
    made: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(len(made))
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass  # the client was done with it
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(LIMIT_S), OllamaClient(f"http://127.0.0.1:{port}") as client:
        yield client, made
    server.close()


def answering(*answers: bytes, close: bool = False) -> Serve:
    """One of these for each request without a body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()

    return serve


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\nhello"


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (SIZED, True),
        (CHUNKED, True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SIZED, True),
        (SIZED.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), False),
        (SIZED.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (ENDLESS, False),
    ],
)
async def test_answers_end_and_connections_are_kept(answer: bytes, kept: bool) -> None:
    serve = answering(answer, answer) if kept else answering(answer, close=True)
    async with served(serve) as (client, made):
        for _ in range(2):
            assert await (await client.send("GET", "/x", (), ())).rest() == b"hello"
        assert len(made) == (1 if kept else 2)


async def test_after_the_end_no_connection_is_left() -> None:
    """Neither one that was being made at the end, nor one that is asked for afterwards."""
    async with served(answering(SIZED, SIZED)) as (client, _):
        asking = asyncio.create_task(client.send("GET", "/x", (), ()))
        await asyncio.sleep(0)
        await client.__aexit__()
        for late in (asking, client.send("GET", "/x", (), ())):
            with pytest.raises(UpstreamUnreachable, match="the proxy is shutting down"):
                await late
        gc.collect()  # an open one would be complained of


async def test_what_nobody_uses_any_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LOOK_S", 0.01)
    closed = asyncio.Queue[int]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            if await reader.read(1000):
                writer.write(SIZED)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.put_nowait(1)

    async with served(serve) as (client, made):
        for fresh in (True, True, False, True):  # the load of a model comes on a connection of its own
            assert await (await client.send("GET", "/x", (), (), fresh=fresh)).rest() == b"hello"
        assert len(made) == 3
        assert closed.empty()
        monkeypatch.setattr(pool, "KEPT_S", 0.0)
        for _ in made:
            await closed.get()


async def test_only_so_many_idle_ones_are_kept_the_latest() -> None:
    closed: list[int] = []
    all_but_the_kept = asyncio.Event()
    number = MOST_KEPT + 10

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED)
        await reader.read()
        closed.append(int(asked.split()[1].removeprefix(b"/")))
        if len(closed) == number - MOST_KEPT:
            all_but_the_kept.set()

    async with served(serve) as (client, made):
        for one in range(number):  # as loads do, which come on connections of their own
            assert await (await client.send("GET", f"/{one}", (), (), fresh=True)).rest() == b"hello"
        await all_but_the_kept.wait()
        assert sorted(closed) == list(range(number - MOST_KEPT))
        assert len(made) == number


async def test_an_answer_in_single_bytes() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in CHUNKED:
            writer.write(bytes([byte]))
            await writer.drain()

    async with served(serve) as (client, _):
        answer = await client.send("GET", "/x", (), ())
        assert (answer.status, answer.reason, answer.headers[0]) == (200, b"OK", (b"Transfer-Encoding", b"chunked"))
        assert await answer.rest() == b"hello"


async def test_head_has_no_body_and_its_connection_is_not_trusted() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED[:-5] if asked.startswith(b"HEAD") else SIZED)
        await reader.read()

    async with served(serve) as (client, made):
        answer = await client.send("HEAD", "/x", (), ())
        assert (answer.headers, await answer.rest()) == ([(b"Content-Length", b"5")], b"")
        assert await (await client.send("GET", "/x", (), ())).rest() == b"hello"
        assert len(made) == 2


@pytest.mark.parametrize(
    "answer",
    [SIZED[:-1], CHUNKED[:-5], CHUNKED.replace(b"3;", b"9;"), CHUNKED.replace(b"3;", b"z;"), SIZED[:-5]],
)
async def test_what_is_cut_off_is_told(answer: bytes) -> None:
    async with served(answering(answer, close=True)) as (client, _):
        with pytest.raises(UpstreamBroken):
            await (await client.send("GET", "/x", (), ())).rest()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n"]
)
async def test_what_is_no_answer(answer: bytes) -> None:
    async with served(answering(answer, close=True)) as (client, _):
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.send("GET", "/x", (), ())
        assert caught.value.sent


async def test_nobody_listens(unused_tcp_port: int) -> None:
    async with OllamaClient(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.send("GET", "/x", (), ())
        assert not caught.value.sent


@pytest.mark.parametrize("stray", [SIZED, b"garbage"])
async def test_what_nobody_asked_for_is_never_taken_for_an_answer(stray: bytes) -> None:
    async with served(answering(SIZED + stray)) as (client, made):
        for _ in range(2):
            assert await (await client.send("GET", "/x", (), ())).rest() == b"hello"
        assert len(made) == 2


async def test_an_answer_that_is_left_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED[:60])
        assert await reader.read() == b""
        gone.set()

    async with served(serve) as (client, _):
        answer = await client.send("GET", "/x", (), ())
        answer.close()
        await gone.wait()


@pytest.mark.usefixtures("own_time")
async def test_a_client_that_does_not_read_holds_ollama_up() -> None:
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            written += 100_000

    async with served(serve) as (client, _):
        answer = await client.send("GET", "/x", (), ())
        before = -1
        while written != before:  # until it is held up
            before = written
            await asyncio.sleep(0.2)
        assert written < 30_000_000  # what the kernel takes, and what is held here
        assert len(answer.at_hand()) <= 2 * HIGH_BYTES
        assert len(await answer.rest(100_000_000)) > 90_000_000


async def test_a_body_that_comes_is_sent_as_fast_as_it_is_taken_and_in_chunks() -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"y" * 100_000
        yield b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked\r\n" in head
        total = 0
        while size := int(await reader.readline(), 16):
            total += len(await reader.readexactly(size + 2)) - 2
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%d" % total)

    async with served(serve) as (client, _):
        assert await (await client.send("POST", "/x", (), body())).rest() == b"30000000"


async def test_an_answer_may_come_before_the_body_is_sent() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()  # the rest never comes

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"first")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    async with served(serve) as (client, made):
        answer = await client.send("POST", "/x", [(b"Content-Length", b"100")], body())
        assert (answer.status, await answer.rest()) == (400, b"no")
        assert len(made) == 1


async def test_a_body_that_breaks_off_breaks_the_request_off() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        raise ConnectionResetError("the client left")

    async with served(answering()) as (client, _):
        with pytest.raises(UpstreamUnreachable, match="the client left"):
            await client.send("POST", "/x", [(b"Content-Length", b"100")], body())


async def test_who_takes_no_more_is_not_given_more_until_asked() -> None:
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for piece in (b"ab", b"cd", b"ef"):
            await go_on.wait()
            go_on.clear()
            writer.write(piece)
        await reader.read()

    async with served(serve) as (client, _):
        answer = await client.send("GET", "/x", (), ())
        assert answer.at_hand() == b""
        seen: list[bytes] = []

        def take(piece: bytes) -> bool:
            seen.append(piece)
            go_on.set()
            return len(piece) > 2

        go_on.set()
        assert not await answer.into(take)
        assert seen == [b"ab"]
        assert not await answer.into(take)
        assert seen == [b"ab", b"cd"]
        assert await answer.into(take)
        assert b"".join(seen) == b"abcdef"
        answer.close()


async def test_a_fault_of_whoever_takes_the_body_is_told_to_whoever_waits_for_its_end() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED[:-5])
        await reader.read()

    def take(piece: bytes) -> bool:
        raise ValueError("a bug")

    async with served(serve) as (client, _):
        answer = await client.send("GET", "/x", (), ())
        with pytest.raises(ValueError, match="a bug"):
            await answer.into(take)
        answer.close()


async def test_what_ollama_has_begun_to_answer_is_not_sent_again() -> None:
    serve = answering(SIZED, b"HTTP/1.1 102 Processing\r\n\r\n", close=True)
    async with served(serve) as (client, made):
        assert await (await client.send("GET", "/x", (), ())).rest() == b"hello"
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.send("GET", "/x", (), ())
        assert caught.value.sent
        assert len(made) == 1


@pytest.mark.parametrize("kilobytes", [600, 1500])
async def test_a_long_head_is_read_up_to_a_limit(kilobytes: int) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 1000) for n in range(kilobytes))
    async with served(answering(head + b"Content-Length: 5\r\n\r\nhello")) as (client, _):
        if kilobytes * 1000 < MOST_HEAD_BYTES:
            assert await (await client.send("GET", "/x", (), ())).rest() == b"hello"
        else:
            with pytest.raises(UpstreamUnreachable, match="too long"):
                await client.send("GET", "/x", (), ())


async def test_another_protocol_is_no_answer() -> None:
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nrest"
    async with served(answering(upgrade)) as (client, _):
        with pytest.raises(UpstreamUnreachable, match="no HTTP"):
            await client.send("GET", "/x", (), ())


async def test_nothing_of_an_empty_body_is_left_to_send() -> None:
    async with served(answering(SIZED)) as (client, _):
        answer = await client.send("POST", "/x", [(b"Content-Length", b"0")], (b"",))
        assert not getattr(answer._transport, "_buffer", b"")  # where asyncio keeps what is still to be sent
        assert await answer.rest() == b"hello"


async def test_the_body_of_an_answer_that_has_none_goes_nowhere() -> None:
    async with served(answering(SIZED, SIZED)) as (client, made):
        answer = await client.send("HEAD", "/x", (), ())
        assert await answer.rest() == b""
        assert await (await client.send("GET", "/x", (), ())).rest() == b"hello"
        assert len(made) == 2


# Answers that are encoded, although that was not asked for


def gzipped(*pieces: bytes) -> list[bytes]:
    """One member, of which each piece can be decoded as soon as it is there."""
    deflate = zlib.compressobj(wbits=31)
    return [deflate.compress(piece) + deflate.flush(zlib.Z_SYNC_FLUSH) for piece in pieces] + [deflate.flush()]


def in_gzip(text: bytes) -> bytes:
    """The same at any time of day, since it names a test."""
    return gzip.compress(text, mtime=0)


def headed(body: bytes, encoding: bytes = b"gzip", framing: bytes = b"") -> bytes:
    framing = framing or b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\n%bX: y\r\n\r\n%b" % (encoding, framing, body)


TO_THE_END = b"Connection: close\r\n"


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (headed(in_gzip(b"hello")), True),
        (headed(in_gzip(b"hello"), b"X-GZip"), True),
        (headed(zstd.compress(b"hello"), b"zstd"), True),
        (headed(zstd.compress(b"he") + zstd.compress(b"llo"), b" zstd "), True),
        (headed(in_gzip(b"he") + in_gzip(b"") + in_gzip(b"llo")), True),
        (headed(b"hello", b"identity"), True),
        (headed(in_gzip(b"hello"), framing=TO_THE_END), False),
    ],
)
async def test_an_encoded_answer_is_decoded(answer: bytes, kept: bool) -> None:
    async with served(answering(answer, answer) if kept else answering(answer, close=True)) as (client, made):
        for _ in range(2):
            came = await client.send("GET", "/x", (), ())
            assert (b"X", b"y") in came.headers
            encoded = [value for name, value in came.headers if name in (b"Content-Encoding", b"Content-Length")]
            assert encoded == ([b"identity", b"5"] if came.sized else [])
            assert await came.rest() == b"hello"
        assert len(made) == (1 if kept else 2)


async def test_each_piece_of_an_encoded_answer_is_there_when_it_has_come() -> None:
    go_on = asyncio.Event()
    taken: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(headed(b"", framing=b"Transfer-Encoding: chunked\r\n"))
        *pieces, last = gzipped(b"one", b"two", b"three")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await go_on.wait()
            go_on.clear()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
        await reader.read()

    def take(piece: bytes) -> bool:
        taken.append(piece)
        go_on.set()
        return True

    async with served(serve) as (client, _):
        answer = await client.send("GET", "/x", (), ())
        assert await answer.into(take)
        assert taken == [b"one", b"two", b"three"]
        answer.close()


BOMB = gzip.compress(bytes(1 << 28), 9)  # a quarter of a MB


@pytest.mark.parametrize(
    "answer",
    [
        headed(in_gzip(b"hello")[:-1]),
        headed(zstd.compress(b"hello")[:-1], b"zstd"),
        headed(in_gzip(b"hello")[:-1], framing=TO_THE_END),
        headed(b"hello"),
        headed(in_gzip(b"hello") + b"junk"),
        headed(in_gzip(b"") * 2000),
        headed(BOMB),
    ],
    ids=["short", "short zstd", "short to the end", "plain", "junk", "members", "bomb"],
)
async def test_what_cannot_be_decoded_is_broken_off(answer: bytes) -> None:
    sizes = [0]

    def take(piece: bytes) -> bool:
        sizes.append(len(piece))
        return True

    async with served(answering(answer, close=True)) as (client, _):
        came = await client.send("GET", "/x", (), ())
        with pytest.raises(UpstreamBroken):
            await came.into(take)
        came.close()
    assert max(sizes) <= MOST_UNFOLDED_BYTES + STEP_BYTES


async def test_a_client_that_does_not_read_holds_an_encoded_answer_up_too() -> None:
    text = b"".join(b"%d" % n for n in range(100_000))
    encoded, number = gzip.compress(text), 200  # together 100 MB, decoded

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(headed(b"", framing=b"Content-Length: %d\r\n" % (number * len(encoded))))
        for _ in range(number):
            writer.write(encoded)
            await writer.drain()
        await reader.read()

    async with served(serve) as (client, _):
        answer = await client.send("GET", "/x", (), ())
        while not answer._paused:
            await asyncio.sleep(0)
        sizes = [len(answer.at_hand())]

        def take(piece: bytes) -> bool:
            sizes.append(len(piece))
            return False

        while not await answer.into(take):
            pass
        assert sum(sizes) == number * len(text)
        assert max(sizes) <= MOST_UNFOLDED_BYTES + STEP_BYTES
        answer.close()


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"gzip, gzip", b"\xff", b"utf-8"])
async def test_an_encoding_that_nobody_asked_for_and_nobody_knows_is_no_answer(encoding: bytes) -> None:
    async with served(answering(headed(b"hello", encoding))) as (client, _):
        with pytest.raises(UpstreamUnreachable, match=r"Content-Encoding .* was not asked for") as caught:
            await client.send("GET", "/x", (), ())
        assert caught.value.sent


BODILESS = {"HEAD": b"200 OK", "GET": b"304 Not Modified", "POST": b"204 No Content"}


@pytest.mark.parametrize("method", BODILESS)
async def test_where_no_body_comes_there_is_nothing_to_decode(method: str) -> None:
    for encoding in (b"br", b"gzip"):
        head = b"HTTP/1.1 %b\r\nContent-Encoding: %b\r\nETag: x\r\n\r\n" % (BODILESS[method], encoding)
        async with served(answering(head)) as (client, _):
            answer = await client.send(method, "/x", (), ())
            assert answer.headers == [(b"Content-Encoding", encoding), (b"ETag", b"x")]
            assert await answer.rest() == b""


async def test_what_comes_before_an_answer_is_not_decoded_either() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: br\r\n\r\n"
    async with served(answering(early + SIZED)) as (client, _):
        assert await (await client.send("GET", "/x", (), ())).rest() == b"hello"


# Silence


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def silent_after_the_first_piece(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    await reader.read()


@pytest.fixture
def impatient(own_time: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connections are looked at often, and no time passes while something is to be done."""
    monkeypatch.setattr(pool, "LOOK_S", 0.01)


SHORT = 0.05


@pytest.mark.usefixtures("impatient")
async def test_no_answer_begins() -> None:
    async with served(silent) as (client, made):
        with pytest.raises(UpstreamSilent, match=r"nothing came for 0\.05 s") as caught:
            await client.send("GET", "/x", (), (), silence=Silence(first_byte_s=SHORT))
        assert caught.value.sent
        assert len(made) == 1


@pytest.mark.usefixtures("impatient")
async def test_no_answer_begins_on_a_kept_connection_and_it_is_not_asked_twice() -> None:
    async with served(answering(SIZED)) as (client, made):
        assert await (await client.send("GET", "/x", (), ())).rest() == b"hello"
        with pytest.raises(UpstreamSilent):
            await client.send("GET", "/x", (), (), silence=Silence(first_byte_s=SHORT))
        assert len(made) == 1


@pytest.mark.usefixtures("impatient")
async def test_an_answer_stops_in_the_middle() -> None:
    async with served(silent_after_the_first_piece) as (client, _):
        answer = await client.send("GET", "/x", (), (), silence=Silence(idle_s=SHORT))
        with pytest.raises(UpstreamBroken, match=r"nothing came for 0\.05 s"):
            await answer.rest()


@pytest.mark.usefixtures("impatient")
async def test_who_set_no_limit_waits_on() -> None:
    async with served(silent_after_the_first_piece) as (client, _):
        answer = await client.send("GET", "/x", (), (), silence=Silence(first_byte_s=SHORT))
        waiting = asyncio.create_task(answer.rest())
        with pytest.raises(UpstreamBroken):  # one that has the same silence behind it, and a limit
            await (await client.send("GET", "/x", (), (), silence=Silence(idle_s=4 * SHORT))).rest()
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.usefixtures("impatient")
async def test_slow_pieces_are_no_silence() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")
        for _ in range(60):  # together twice the limit
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async with served(serve) as (client, _):
        answer = await client.send("GET", "/x", (), (), silence=Silence(idle_s=1.5))
        assert await answer.rest() == 60 * b"x"


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_takes_nothing_and_one_that_still_sends_are_no_silence_of_ollama() -> None:
    sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await sent.wait()
        yield b"y"

    async def longer_than_the_limit() -> None:
        """Another one, that begins at the same time, is given up."""
        with pytest.raises(UpstreamSilent):
            await client.send("GET", "/x", (), (), silence=Silence(first_byte_s=4 * SHORT))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"POST" in head:
            await reader.readuntil(b"0\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        await reader.read()

    async with served(serve) as (client, _):
        sending = asyncio.create_task(client.send("POST", "/x", (), body(), silence=Silence(SHORT, SHORT)))
        await longer_than_the_limit()
        sent.set()
        answer = await sending
        assert not await answer.into(lambda _: False)
        await longer_than_the_limit()
        with pytest.raises(UpstreamBroken):  # now that somebody waits for more
            await answer.rest()
