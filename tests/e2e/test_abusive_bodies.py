"""What takes much memory or time to take in: bounded for the proxy as a process of its own, and others go on."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from swapper_proxy.web.server import MOST_HEAD_BYTES
from tests.e2e.conftest import LIMIT_S, Client
from tests.e2e.process import cpu_s, forget_peak, memory_mib, served
from tests.e2e.recording import Target, recording
from tests.e2e.test_abuse import HOST

MIB = 1 << 20
SIZE = 16 * MIB
# Read on the loop, and with all that is in them, these bodies took up to ten seconds, and fifty times their size.
LONGEST_S = 2.0
MOST_TIMES = 4.0


def filled(before: bytes, piece: bytes, after: bytes) -> bytes:
    return before + piece * ((SIZE - len(before) - len(after)) // len(piece)) + after


def keys(size: int) -> bytes:
    return b"{" + b",".join(b'"%x":0' % number for number in range(size // 10)) + b',"model":"m"}'


BODIES: dict[str, tuple[Callable[[], bytes], int]] = {
    "a million keys": (lambda: keys(SIZE), 400),
    "the same key a million times": (lambda: filled(b'{"model":"m"', b',"a":0', b"}"), 400),
    "a million keys with spaces": (lambda: keys(SIZE // 2).replace(b",", b", "), 400),
    "a long key": (lambda: filled(b'{"model":"m","', b"A", b'":1}'), 400),
    "a million options": (lambda: b'{"model":"m","options":' + keys(SIZE) + b"}", 400),
    "a million options, twice": (lambda: b'{"options":%b,"model":"m","options":%b}' % ((keys(SIZE // 2),) * 2), 400),
    "a million stop words": (lambda: filled(b'{"model":"m","options":{"stop":["a"', b',"a"', b"]}}"), 400),
    "a keep_alive of a million parts": (lambda: filled(b'{"model":"m","keep_alive":"', b"1m", b'"}'), 400),
    "a million arrays in each other": (lambda: filled(b'{"model":"m","n":', b"[", b""), 400),
    "a million bytes that are no UTF-8": (lambda: filled(b'{"model":"m","prompt":"', b"\xff", b'"}'), 400),
    "a million halves of surrogate pairs": (lambda: filled(b'{"model":"m","prompt":"', rb"\ud83d", b'"}'), 400),
    "one among a million escapes": (lambda: filled(b'{"model":"m","prompt":"\\ud800', rb"\n", b'"}'), 400),
    "a million elements": (lambda: filled(b'{"model":"m","messages":[0', b",0", b"]}"), 200),
    "a million surrogate pairs": (lambda: filled(b'{"model":"m","prompt":"', rb"\ud83d\ude00", b'"}'), 200),
    "a million spaces": (lambda: filled(b'{"model":"m","messages":[', b" ", b"]}"), 200),
    "a million digits": (lambda: filled(b'{"model":"m","n":', b"1", b"}"), 200),
    "a model with a long name": (lambda: filled(b'{"model":"', b"a", b'"}'), 200),
}
# Elsewhere these are nothing that is read.
NATIVE = ("a million options", "a million stop words", "a keep_alive of a million parts")
ROUTES = {"auto": [{"has_images": True, "model": "m"}, {"model": "m"}]}
MODELS = {"models": {"m": {"path": "ollama:m"}}, "routes": ROUTES}


@pytest.fixture
async def apart(session: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[tuple[Client, Target, int]]:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(MODELS))
    more = "--config", str(config)
    async with recording() as upstream, served(session, upstream.url, tmp_path, *more) as (proxy, process):
        yield proxy, Target(proxy.url, upstream), process
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


class Beside:
    """Asks the proxy something else all the time; `longest_s` is the most CPU time that it used until an answer."""

    def __init__(self, proxy: Client, process: int) -> None:
        self._proxy = proxy
        self._process = process
        self.longest_s = 0.0

    async def __aenter__(self) -> "Beside":
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            began = cpu_s(self._process)
            try:
                assert (await self._proxy.get("/health"))[0] == 200
            finally:
                self.longest_s = max(self.longest_s, cpu_s(self._process) - began)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/show"])
async def test_others_go_on(apart: tuple[Client, Target, int], path: str) -> None:
    """While bodies of every kind are read; refused is what would take too much."""
    proxy, _, process = apart
    assert (await proxy.post(path, {"model": "m"}))[0] == 200  # all that is needed is imported
    for kind, (made, status) in BODIES.items():
        body = made()
        forget_peak(process)
        before = memory_mib(process)
        async with (
            Beside(proxy, process) as beside,
            proxy.session.post(proxy.url + path, data=io.BytesIO(body)) as answer,
        ):
            is_read = path == "/api/chat" or (path != "/api/show" and kind not in NATIVE)
            expected = status if is_read else 200  # what show cannot read, Ollama may
            assert (kind, answer.status) == (kind, expected)
            await answer.read()
        assert beside.longest_s < LONGEST_S, kind
        assert (memory_mib(process, "VmHWM") - before) * MIB < MOST_TIMES * len(body), kind


async def test_traits_of_a_million_elements(apart: tuple[Client, Target, int]) -> None:
    proxy, _, process = apart
    for name in ("messages", "tools", "metadata"):
        body = filled(b'{"model":"auto","%b":[0' % name.encode(), b",0", b"]}")
        forget_peak(process)
        before = memory_mib(process)
        async with (
            Beside(proxy, process) as beside,
            proxy.session.post(f"{proxy.url}/api/chat", data=io.BytesIO(body)) as answer,
        ):
            assert answer.status == 200
        assert beside.longest_s < LONGEST_S
        assert (memory_mib(process, "VmHWM") - before) * MIB < MOST_TIMES * len(body)


# Heads and connections


async def test_heads_that_do_not_end_take_little_memory(apart: tuple[Client, Target, int]) -> None:
    _, target, process = apart
    before = memory_mib(process)
    line = b"X: " + b"a" * 30_000 + b"\r\n"
    for _ in range(20):
        async with target.wire() as wire:
            await wire.send(b"GET /api/asked HTTP/1.1\r\n" + HOST)
            with contextlib.suppress(ConnectionError):  # what it has not read breaks the connection
                for _ in range(2 * MOST_HEAD_BYTES // len(line)):
                    await wire.send(line)
                assert (await wire.answer())[0] == 431
            assert await wire.is_closed()
    assert memory_mib(process, "VmHWM") - before < 8
    assert target.upstream.lines == []


async def test_requests_sent_ahead_take_little_memory(apart: tuple[Client, Target, int]) -> None:
    """The proxy stops reading until it has answered those it has."""
    _, target, process = apart
    asked = b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n"  # whose answer does not end
    ahead = b"GET /api/asked HTTP/1.1\r\n" + HOST + (b"X: " + b"a" * 60_000 + b"\r\n") * 4 + b"\r\n"
    async with target.wire() as wire:
        forget_peak(process)
        before = memory_mib(process)
        await wire.send(asked)
        await wire.reader.readuntil(b"\r\n\r\n")
        with pytest.raises(TimeoutError):  # noqa: PT012
            async with asyncio.timeout(2):
                for _ in range(1000):
                    await wire.send(ahead)
        assert memory_mib(process, "VmHWM") - before < 6
        wire.writer.transport.abort()
    await target.serves_others()


async def test_thousands_of_idle_connections(apart: tuple[Client, Target, int]) -> None:
    _, target, process = apart
    host, _, port = target.url.removeprefix("http://").partition(":")
    opened = []
    before = memory_mib(process)
    async with asyncio.timeout(LIMIT_S):
        for _ in range(3000):
            try:
                opened.append(await asyncio.open_connection(host, int(port)))
            except OSError:
                break  # as many as this process may have
            opened[-1][1].write(b"GET /api/asked HTTP/1.1\r\n" + HOST)  # a head that is not complete
        assert len(opened) > 400
        for _, writer in opened[-10:]:  # of which the tests may need some
            writer.close()
        await target.serves_others()
        assert (memory_mib(process, "VmHWM") - before) * 1024 / len(opened) < 64
    for _, writer in opened:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in opened), return_exceptions=True)
