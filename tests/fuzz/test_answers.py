"""Ollama's answers, cut into any pieces, damaged or not: read alike, or broken off alike."""

import asyncio
import atexit
import itertools
import socket
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from swapper_proxy.observe.recording import Recorders
from swapper_proxy.ollama.connection import Connection
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.ports import UpstreamBroken, UpstreamUnreachable, Usage
from swapper_proxy.web.counting import Counted
from tests.web.test_usage import LINE, MESSAGE_END, MESSAGE_START, NATIVE_END, OPENAI_END, Noted


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Without empty pieces, which no connection gives."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds) if a < b]


PLACES = st.lists(st.integers(0, 1 << 16) | st.integers(-300, -1), max_size=8)  # the latter from the end

# Tokens and times

ANSWERS = st.sampled_from(
    [
        LINE * 3 + NATIVE_END,
        LINE * 30 + OPENAI_END,
        MESSAGE_START + b"data: {}\n\n" * 200 + MESSAGE_END,
        NATIVE_END,
        b"",
    ]
)


def usage(pieces: list[bytes]) -> tuple[int, int, float]:
    metrics = Noted()
    more: Any = {"ledger": Ledger(), "metrics": metrics, "recorder": Recorders(()), "endpoint": "chat"}
    outcome = Counted(model="a", arrived=0.0, **more)
    outcome.sending()
    outcome.head(200, "text/event-stream")
    for piece in pieces:
        outcome.chunk(piece)
    outcome.count()
    (said,) = metrics.usages
    assert isinstance(said, Usage)
    return said.prompt_tokens, said.generated_tokens, said.load_s  # to generate took as long as the pieces came


@given(ANSWERS | st.binary(max_size=200), PLACES)
@example(MESSAGE_START + b"data: {}\n\n" * 200 + MESSAGE_END, [1])
@example(b'"eval_count":' + b"9" * 1500, [3])
def test_what_is_counted_does_not_depend_on_how_an_answer_is_cut(answer: bytes, places: list[int]) -> None:
    assert usage(cut(answer, places)) == usage([answer] if answer else [])


# HTTP


SOCKET = socket.socket()
atexit.register(SOCKET.close)


class Transport:
    """Takes everything and says nothing."""

    closed = False

    def get_extra_info(self, name: str) -> socket.socket | None:
        return SOCKET if name == "socket" else None

    def write(self, data: bytes) -> None: ...
    def writelines(self, data: list[bytes]) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None:
        self.closed = True


class Pool:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.kept = 0

    def forget(self, connection: Connection) -> None: ...
    def keep(self, connection: Connection) -> None:
        self.kept += 1


async def answered(method: str, pieces: list[bytes]) -> tuple[Any, ...]:
    """What a client of the connection sees of an answer, at the end of which Ollama closes."""
    pool, transport = Pool(), Transport()
    connection = Connection(pool)  # type: ignore[arg-type]
    connection.connection_made(transport)
    asking = asyncio.create_task(_ask(connection, method))
    await asyncio.sleep(0)
    for piece in pieces:
        if not transport.closed:
            connection.data_received(piece)
        await asyncio.sleep(0)
    connection.connection_lost(None)
    return await asking


async def _ask(connection: Connection, method: str) -> tuple[Any, ...]:
    try:
        await connection.ask(method, b"x", ())
    except UpstreamUnreachable as error:
        return ("unreachable", error.sent)
    head = connection.status, connection.reason, tuple(connection.headers), connection.content_type, connection.sized
    try:
        return (*head, await connection.rest())
    except UpstreamBroken:
        return (*head, "broken")


HEADS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 404 Not Found\r\n",
        b"HTTP/1.1 204 \r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 304 x\r\n",
        b"HTTP/1.1 103 y\r\nA: b\r\n\r\nHTTP/1.1 500 z\r\n",
        b"HTTP/2 200\r\n",
        b"HTTP/1.1 101 u\r\n",
        b"",
    ]
)
LINES = st.sampled_from(
    [
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Content-Type: application/json\r\n",
        b"Content-Length: 4\r\n",
        b"Content-Length: -1\r\n",
        b"X: \xff\r\n",
        b"X:\r\n y\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b": \r\n",
    ]
)
CONTENTS = st.sampled_from(
    [
        b"hello",
        b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nT: 1\r\n\r\n",
        b"z\r\n",
        b"",
        b"hell",
        b"hello more",
        b"10000000000000001\r\nx",
        b"5\r\nhelloX",
        b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"-1\r\n\r\n",
    ]
)
WIRE = st.builds(
    lambda head, lines, body: head + b"".join(lines) + b"\r\n" + body, HEADS, st.lists(LINES, max_size=3), CONTENTS
)


@given(st.sampled_from(["GET", "HEAD", "POST"]), WIRE | st.binary(max_size=60), PLACES)
@example(
    "GET",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: 1\r\n\r\n",
    [*range(90)],
)
@example("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", [*range(60)])
@example("GET", b"HTTP/1.1 200 OK\r\n\r\nhello", [18])
def test_an_answer_is_the_same_however_it_is_cut(method: str, data: bytes, places: list[int]) -> None:
    async def both() -> None:
        assert await answered(method, cut(data, places)) == await answered(method, [data] if data else [])

    asyncio.run(both())
