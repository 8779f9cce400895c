"""Requests on the wire, damaged in any way: nothing that is no request reaches Ollama, nothing ends in a traceback."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.e2e.recording import Target, recorded
from tests.e2e.test_abuse import HANDED_ON, NO_HTTP, REFUSED

SENT = [*NO_HTTP.values(), *(sent for sent, *_ in (*HANDED_ON.values(), *REFUSED.values()))]
SEEDS = st.sampled_from([sent for sent in SENT if len(sent) < 2000])
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b",",
    b";",
    b"0",
    b"\xff",
    b"Content-Length: 1\r\n",
    b"chunked",
    b"HTTP/1.0",
]
FAULTS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.sampled_from([b"", *PIECES])), max_size=3)


@pytest.fixture
def served(caplog: pytest.LogCaptureFixture) -> Iterator[tuple[asyncio.Runner, Target]]:
    caplog.set_level(logging.INFO)
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        target = runner.run(stack.enter_async_context(recorded(header_timeout=0.2, body_idle_timeout=0.2)))
        yield runner, target
        runner.run(target.serves_others())
        runner.run(stack.aclose())
    records = [*caplog.get_records("call"), *caplog.records]  # the latter are of the teardown only
    assert [record.getMessage() for record in records if record.exc_info] == []


def damaged(sent: bytes, faults: list[tuple[int, int, bytes]]) -> bytes:
    whole = bytearray(sent)
    for place, size, piece in faults:
        at = place % (len(whole) + 1)
        whole[at : at + size] = piece
    return bytes(whole)


async def said(target: Target, sent: bytes, cuts: list[int]) -> bytes:
    """All that is answered, until the proxy closes: the last request that is complete asks for it."""
    async with target.wire() as wire:
        bounds = [0, *sorted(cut % (len(sent) + 1) for cut in cuts), len(sent)]
        with contextlib.suppress(ConnectionError):
            for before, after in itertools.pairwise(bounds):
                await wire.send(sent[before:after])
                await asyncio.sleep(0)
            return await wire.reader.read()
    return b""


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=max(20, settings.default.max_examples // 40),
)
@given(SEEDS, FAULTS, st.lists(st.integers(0, 2000), max_size=3))
@example(NO_HTTP["both lengths"], [], [60, 61, 62])
def test_whatever_is_sent_is_answered_or_closed(
    served: tuple[asyncio.Runner, Target], sent: bytes, faults: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    runner, target = served
    target.upstream.asked.clear()
    answer = runner.run(said(target, damaged(sent, faults), cuts))
    assert not answer or answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 4"))
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    for line in target.upstream.lines:
        assert len(line.split(b" ")) == 3, line
        assert line.endswith(b" HTTP/1.1"), line
