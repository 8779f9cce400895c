"""No byte of a large body stays in memory once its request was refused, or its client has left."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from swapper_proxy.ollama.simulator import Faults, SimulatedModel, Simulator, serving
from swapper_proxy.ollama.simulator.faults import Answers
from swapper_proxy.runtime.decoding import zstd
from tests.e2e.conftest import LIMIT_S, Client, at_rest, until, waits
from tests.e2e.process import forget_peak, memory_mib, served
from tests.real.server import free_port

MIB = 1 << 20
SIZE = 50 * MIB
MOST_BODY = 64 * MIB
MOST_BUFFERED_MIB = 256
TIMES = 20
AT_ONCE = 4  # their bodies fit into what may be buffered
MOST_GROWTH_MIB = 100
MOST_BEYOND_MIB = 200  # of what may be buffered, at any time

MODELS = {
    "resident": {"path": "ollama:resident", "size_gb": 0.3},
    "pinned": {"path": "ollama:pinned", "size_gb": 0.9, "pinned": True},
    "other": {"path": "ollama:other", "size_gb": 0.3},
    "short": {"path": "ollama:short", "size_gb": 0.3, "max_queue": 1},
    "wide": {"path": "ollama:wide", "size_gb": 1.5},
    "huge": {"path": "ollama:huge", "size_gb": 100},
}
CONFIG: dict[str, dict[str, object]] = {
    "server": {"max_body_bytes": MOST_BODY, "max_buffered_bytes": MOST_BUFFERED_MIB * MIB},
    "upstream": {"grace": 0.2},
    "swapper": {
        "mode": "multi-active",
        "memory_budget_gb": 2,
        "ignore_client_keep_alive": True,
        "unlisted_models": "deny",
        "unload_settle": 0,
    },
    "models": MODELS,
    "routes": {"pictures": [{"has_images": True, "model": "resident"}]},
    "keys": {
        "clients": {
            "all": {"key": "sk-for-all"},
            "some": {"key": "sk-for-some", "models": ["resident"]},
            "hasty": {"key": "sk-hasty-one", "queued": 0},
        }
    },
}


@dataclass
class Case:
    """A request with a body of 50 MiB that is refused with `status`, while `befalls` has been done to Ollama."""

    status: int
    start: str  # of the body, before what fills it up
    says: str = ""
    path: str = "/api/chat"
    key: str = "sk-for-all"
    befalls: Callable[[Faults], None] = field(default=lambda _: None)

    @property
    def request(self) -> bytes:
        start = self.start.encode()
        body = start + b"x" * (SIZE - len(start) - 2) + b'"}'
        return head(self, len(body)) + body


def head(case: Case, length: int, **more: str) -> bytes:
    lines = [f"POST {case.path} HTTP/1.1", "Host: localhost", "Connection: close", f"Authorization: Bearer {case.key}"]
    lines += [f"Content-Length: {length}", *(f"{name.replace('_', '-')}: {value}" for name, value in more.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def asking(model: str, more: str = '"messages":[{"role":"user","content":"x"}]') -> str:
    return f'{{"model":"{model}",{more},"more":"'


def stalled(faults: Faults) -> None:
    faults.stalled = True


def failing(faults: Faults) -> None:
    faults.failing = 1e9


def resetting(faults: Faults) -> None:
    faults.answers = Answers.RESET


def silent(faults: Faults) -> None:
    faults.answers = Answers.SILENT


CASES = {
    "two meanings": Case(400, asking("resident", '"a":[],"a":{}'), "cannot be read"),
    "no name in use_llm": Case(400, asking("resident", '"metadata":{"use_llm":5}'), "use_llm"),
    "a route that takes it not": Case(400, asking("pictures"), "no rule"),
    "a name without end": Case(403, '{"model":"', "may not use the model", key="sk-for-some"),
    "a model of other keys": Case(403, asking("other"), "may not use the model", key="sk-for-some"),
    "an unload that is not allowed": Case(403, asking("resident", '"messages":[],"keep_alive":0'), "may not unload"),
    "an unknown model": Case(404, asking("nobody"), "not found"),
    "a key that may not wait": Case(429, asking("other"), "wait", key="sk-hasty-one"),
    "Ollama resets": Case(502, asking("resident"), "not reachable", befalls=resetting),
    "a load that fails": Case(503, asking("other"), "", befalls=failing),
    "larger than the budget": Case(507, asking("huge"), "memory_budget_gb"),
    "no room beside what is pinned": Case(507, asking("wide"), "pinned"),
}


class Watched:
    """A proxy as a process of its own, whose memory is looked at."""

    def __init__(self, proxy: Client, process: int, faults: Faults) -> None:
        self.proxy = proxy
        self.faults = faults
        self._process = process
        self._before = memory_mib(process)
        forget_peak(process)

    async def check(self, what: str) -> None:
        """Nothing stays, and never was too much in memory."""
        most = self._before + MOST_BUFFERED_MIB + MOST_BEYOND_MIB
        assert memory_mib(self._process, "VmHWM") <= most, what

        async def is_free() -> bool:
            return memory_mib(self._process) - self._before <= MOST_GROWTH_MIB

        await until(is_free)

    @contextlib.contextmanager
    def wire(self) -> Iterator[socket.socket]:
        address = urlsplit(self.proxy.url)
        with socket.create_connection((address.hostname, address.port or 80), LIMIT_S) as wire:
            yield wire

    def answer(self, request: bytes) -> tuple[int, str]:
        """Send these bytes and read one answer."""
        with self.wire() as wire:
            with contextlib.suppress(ConnectionError):  # it may be refused before all was sent
                wire.sendall(request)
            return read_answer(wire)

    async def many(self, ask: Callable[[], object], at_once: int = AT_ONCE) -> list[object]:
        """What TIMES calls return, so many at a time."""
        found: list[object] = []
        with ThreadPoolExecutor(at_once) as threads:
            for _ in range(TIMES // at_once):
                calls = (asyncio.get_running_loop().run_in_executor(threads, ask) for _ in range(at_once))
                found += await asyncio.gather(*calls)
        return found

    @contextlib.asynccontextmanager
    async def befallen(self, befalls: Callable[[Faults], None]) -> AsyncIterator[None]:
        befalls(self.faults)
        try:
            yield
        finally:
            vars(self.faults).update(vars(Faults()))
            await at_rest(self.proxy)


def read_answer(wire: socket.socket) -> tuple[int, str]:
    """To its last byte: the proxy may keep the connection a little longer, for the rest of the body."""
    with contextlib.suppress(ConnectionError), wire.makefile("rb") as answer:
        head = b"".join(iter(answer.readline, b"\r\n"))
        length = re.search(rb"(?i)content-length: (\d+)", head)
        return int(head.split(b" ", 2)[1]), answer.read(int(length[1]) if length else -1).decode()
    return 0, ""


@contextlib.asynccontextmanager
async def watching(session: aiohttp.ClientSession, folder: Path, **more: dict[str, object]) -> AsyncIterator[Watched]:
    """The proxy before a simulated Ollama, with `more` settings by section."""
    faults = Faults()
    models = [SimulatedModel(name, size=1, load_s=0, tokens_per_second=0) for name in MODELS]
    async with serving(Simulator(models, max_loaded=9, faults=faults)) as url:
        command = configured(folder, **more)
        async with served(session, url, folder, *command) as (proxy, process):
            session.headers["Authorization"] = "Bearer sk-for-all"

            async def ready() -> bool:
                return await proxy.state("pinned") == "loaded"

            await until(ready)
            assert (await proxy.generate("resident"))[0] == 200  # all that is needed is imported
            yield Watched(proxy, process, faults)
    assert "Traceback" not in (folder / "serve.log").read_text()


def configured(folder: Path, **more: dict[str, object]) -> tuple[str, str]:
    config = {name: section | more.get(name, {}) for name, section in CONFIG.items()}
    (folder / "config.yaml").write_text(json.dumps(config))
    return "--config", str(folder / "config.yaml")


@pytest.fixture
async def watched(session: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Watched]:
    async with watching(session, tmp_path) as watched:
        yield watched


async def test_of_every_refusal(watched: Watched) -> None:
    for name, case in CASES.items():
        request = case.request
        async with watched.befallen(case.befalls):
            answers = await watched.many(lambda request=request: watched.answer(request))
        backs_off = {503} if case.befalls is failing else set()
        assert {status for status, _ in answers} - backs_off <= {case.status, 500}, name
        assert all(case.says in text for _, text in answers), (name, answers[0])
        await watched.check(name)


async def test_of_those_who_leave(watched: Watched) -> None:
    waiting = Case(0, asking("other"), befalls=stalled)
    in_flight = Case(0, asking("resident"), befalls=silent)
    half = Case(0, asking("resident"))

    async def all_wait() -> None:
        await waits(watched.proxy, AT_ONCE)

    async def all_in_flight() -> None:
        async def so_many() -> bool:
            return (await watched.proxy.status())["in_flight"] == AT_ONCE

        await until(so_many)

    async def at_once() -> None:
        """In mid-body."""

    moments: list[tuple[Case, float, Callable[[], Awaitable[None]]]] = [
        (half, 0.9, at_once),
        (waiting, 1.0, all_wait),
        (in_flight, 1.0, all_in_flight),
    ]
    for case, part, there in moments:
        request = case.request
        request = request[: int(len(request) * part)]
        async with watched.befallen(case.befalls):
            for _ in range(TIMES // AT_ONCE):
                with contextlib.ExitStack() as wires:
                    open_ones = [wires.enter_context(watched.wire()) for _ in range(AT_ONCE)]
                    await asyncio.gather(*(asyncio.to_thread(wire.sendall, request) for wire in open_ones))
                    await there()
                await at_rest(watched.proxy)
        await watched.check(f"{case.start} {part}")


TIMEOUTS = {
    "body_idle_timeout": ("server", Case(408, asking("resident"), "did not come")),
    "first_byte_timeout": ("upstream", Case(504, asking("resident"), "does not answer", befalls=silent)),
    "model_swap_timeout": ("swapper", Case(504, asking("other"), "model_swap_timeout", befalls=stalled)),
    "queue_timeout": ("swapper", Case(504, asking("other"), "queue_timeout", befalls=stalled)),
}


@pytest.mark.parametrize("limit", TIMEOUTS)
async def test_of_those_who_waited_too_long(session: aiohttp.ClientSession, tmp_path: Path, limit: str) -> None:
    section, case = TIMEOUTS[limit]
    request = case.request[:-100] if case.status == 408 else case.request
    async with watching(session, tmp_path, **{section: {limit: 1}}) as watched:
        async with watched.befallen(case.befalls):
            answers = await watched.many(lambda: watched.answer(request))
        assert {status for status, _ in answers} == {case.status}
        assert all(case.says in text for _, text in answers)
        await watched.check(limit)


async def test_of_too_many_at_once(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """More than may be buffered: those that are too many are refused, and the limit is kept."""
    request = Case(503, asking("other")).request
    async with watching(session, tmp_path, swapper={"queue_timeout": 1}) as watched:
        async with watched.befallen(stalled):
            answers = await asyncio.gather(*(asyncio.to_thread(watched.answer, request) for _ in range(TIMES)))
        assert {status for status, _ in answers} <= {503, 504}
        assert any("too many large requests" in text for _, text in answers)
        await watched.check("503")


async def test_of_a_queue_that_is_full(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    request = Case(503, asking("short")).request
    async with watching(session, tmp_path) as watched:
        async with watched.befallen(stalled):
            first = asyncio.create_task(watched.proxy.generate("short"))
            await waits(watched.proxy, 1)
            answers = await watched.many(lambda: watched.answer(request))
            assert {status for status, _ in answers} == {503}
            await watched.check("503")
        assert (await first)[0] == 200


@pytest.mark.parametrize("at_once", [1, 40])
async def test_of_bombs(watched: Watched, at_once: int) -> None:
    """140 MB of zeros in 4.5 KB: refused as soon as they are too large, never all in memory."""
    bomb = zstd.compress(b'{"model":"resident","prompt":"' + bytes(140_000_000))
    case = Case(413, "", path="/api/generate")
    request = head(case, len(bomb), Content_Encoding="zstd") + bomb
    answers: list[tuple[int, str]] = []
    for _ in range(40 // at_once):
        answers += await asyncio.gather(*(asyncio.to_thread(watched.answer, request) for _ in range(at_once)))
    assert {status for status, _ in answers} <= {413, 503}
    await watched.check("413")


def with_window(log: int) -> bytes:
    """140 MB of zeros in 4.5 KB, to be decoded with a window of 2 to the power of `log` bytes."""
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
    return packer.compress(b'{"model":"resident","prompt":"' + bytes(140_000_000)) + packer.flush()


@pytest.mark.parametrize(("log", "at_once", "statuses"), [(27, 8, {400}), (23, 8, {413, 503}), (23, 40, {413, 503})])
async def test_of_bombs_with_a_large_window(watched: Watched, log: int, at_once: int, statuses: set[int]) -> None:
    """What the decoder keeps in memory is bounded, too, and counts: 2 to the power of 23 bytes at most."""
    bomb = with_window(log)
    request = head(Case(0, "", path="/api/generate"), len(bomb), Content_Encoding="zstd") + bomb
    for _ in range(40 // at_once):
        answers = await asyncio.gather(*(asyncio.to_thread(watched.answer, request) for _ in range(at_once)))
        assert {status for status, _ in answers} <= statuses
        assert log <= 23 or all("the window of zstd may be 8 MiB at most" in text for _, text in answers)
    await watched.check(f"window {log}")


async def test_of_an_ollama_that_is_away(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with served(session, nobody, tmp_path, *configured(tmp_path), ready=False) as (proxy, process):
        watched = Watched(proxy, process, Faults())
        request = Case(502, asking("resident")).request
        answers = await watched.many(lambda: watched.answer(request))
        assert {status for status, _ in answers} == {502}
        await watched.check("502")
        for _ in range(3):  # all at once, which are too many
            answers = await watched.many(lambda: watched.answer(request), TIMES)
            assert {status for status, _ in answers} <= {502, 503}
            await watched.check("502, 503")
