"""Ollama's answers, cut into any pieces, damaged or not: read alike, or broken off alike."""

import asyncio
import atexit
import itertools
import json
import socket
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.core.names import is_plausible
from swapper_proxy.observe.fanout import Fanout
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.ollama import wire
from swapper_proxy.ollama.connection import Connection
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.ports import UpstreamBroken, UpstreamUnreachable, Usage
from swapper_proxy.web.counting import Counted
from swapper_proxy.web.usage import MOST_NANOSECONDS, MOST_TOKENS
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
    more: Any = {"totals": Ledger(), "metrics": metrics, "recorder": Fanout(), "endpoint": "chat"}
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


# Any number in any place that one is read from, in all that is made of it
FIELDS = ("prompt_eval_count", "prompt_tokens", "input_tokens", "eval_count", "completion_tokens", "output_tokens")
FIGURES = st.dictionaries(
    st.sampled_from([*FIELDS, "load_duration", "eval_duration"]),
    st.from_regex(r"-?[0-9]{1,30}(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?|[0-9]{300,900}|null|true|\"x\"", fullmatch=True),
)


@given(FIGURES, st.sampled_from(["application/json", "text/event-stream"]))
@example({"eval_count": "9" * 900}, "application/json")
@example({"load_duration": "9" * 900}, "application/json")
@example({"eval_duration": "9" * 900, "eval_count": "1"}, "application/json")
def test_whatever_an_answer_counts_can_be_shown_and_kept(figures: dict[str, str], content_type: str) -> None:
    metrics, ledger = Metrics(), Ledger()
    more: Any = {"totals": ledger, "metrics": metrics, "recorder": Fanout(), "endpoint": "chat"}
    outcome = Counted(model="a", arrived=0.0, **more)
    outcome.sending()
    outcome.head(200, content_type)
    for piece in (LINE, b"{%b}\n" % b",".join(b'"%b":%b' % (n.encode(), v.encode()) for n, v in figures.items())):
        outcome.chunk(piece)
    outcome.count()
    assert list(text_string_to_metric_families(metrics.exposition().decode()))
    said = outcome.usage
    assert all(0 <= count <= MOST_TOKENS for count in (said.prompt_tokens, said.generated_tokens))
    assert all(0 <= seconds <= MOST_NANOSECONDS * 1e-9 for seconds in (said.load_s, said.generation_s))


# Lists of models, and what is shown of one

JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
TEXTS = st.sampled_from(["FROM /x/w", 'num_ctx "a"', "num_ctx 1e999", "use_mmap 7", "num_gpu nan", "a:latest"])


def told(*names: str) -> Any:
    return st.dictionaries(st.sampled_from(names), JSON | TEXTS | st.lists(TEXTS))


ENTRIES = st.lists(JSON | told("name", "size", "size_vram", "digest", "modified_at", "remote_host"))
SHOWN = JSON | told("modelfile", "parameters", "modified_at", "capabilities", "remote_host")


@given(JSON | st.builds(lambda models: {"models": models}, ENTRIES))
def test_whatever_is_listed_is_read_or_no_list(answer: Any) -> None:
    for read in (wire.tags, wire.ps):
        try:
            entries, left_out = read(json.dumps(answer).encode())
        except wire.UNREADABLE:
            assert not isinstance(answer, dict) or not isinstance(answer.get("models", 5), list | None)
            continue
        assert len(entries) + left_out == len(answer["models"] or [])
        assert all(is_plausible(entry.name) and 0 <= entry.size <= 2**50 for entry in entries)


@given(SHOWN)
def test_whatever_is_shown_is_read_or_no_object(answer: Any) -> None:
    try:
        show = wire.show(json.dumps(answer).encode())
    except wire.UNREADABLE:
        assert not isinstance(answer, dict)
        return
    assert all(-(2**63) < value < 2**63 for value in show.runner_options.values())
    assert isinstance(show.runner, str)


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
        self.url, self.has_answered = "http://127.0.0.1:1", True
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
