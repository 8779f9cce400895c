"""GET /events, as a program or a page reads it."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock
from urllib.parse import urlsplit

import aiohttp
import pytest
from msgspec.structs import replace

from swapper_proxy.app import running
from swapper_proxy.config import Model, Server, Settings
from swapper_proxy.core import policy
from swapper_proxy.observe import refusals
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime.board import Board, Snapshot
from swapper_proxy.runtime.configuration import Configuration
from swapper_proxy.web import broadcast, events
from swapper_proxy.web.broadcast import Broadcast
from swapper_proxy.web.events import MOST_CONSUMERS, Events
from swapper_proxy.web.exchange import Exchange
from tests.e2e.conftest import LIMIT_S, Client, at_rest, busy, settings, simulated, until, waits

ALPHA, BETA = (SimulatedModel(name, load_s=0.02, tokens_per_second=0) for name in ("alpha", "beta"))
BROKEN = SimulatedModel("broken", load_s=0, broken=True)


@dataclass(frozen=True)
class Told:
    """One event; `id` is empty if it has none."""

    kind: str
    data: Any
    id: str

    @property
    def number(self) -> int:
        return int(self.id.rpartition("-")[2])


@dataclass
class Stream:
    """Reads events off an answer."""

    answer: aiohttp.ClientResponse

    async def next(self) -> Told:
        """The next one that is no comment."""
        fields = {"event": "", "data": "", "id": ""}
        async with asyncio.timeout(LIMIT_S):
            while (line := (await self.answer.content.readline()).decode()) != "\n" or not fields["event"]:
                assert line.endswith("\n"), "the stream has ended"
                name, _, value = line.rstrip("\n").partition(": ")
                if name in fields:
                    fields[name] = value
        return Told(fields["event"], json.loads(fields["data"]), fields["id"])

    async def until(self, kind: str, **data: Any) -> list[Told]:
        """All up to the first of this kind that says at least this."""
        told = [await self.next()]
        while told[-1].kind != kind or not data.items() <= told[-1].data.items():
            told.append(await self.next())
        return told

    async def model(self, name: str, **data: Any) -> None:
        """Until the figures of a model are so."""
        while True:
            told = await self.next()
            if told.kind == "models" and any({"name": name, **data}.items() <= item.items() for item in told.data):
                return


@asynccontextmanager
async def listening(proxy: Client, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    async with proxy.session.get(f"{proxy.url}/events{query}", headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        yield Stream(answer)


@pytest.fixture
async def proxy(session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    """In front of the simulator."""
    async with simulated(session, ALPHA, BETA, BROKEN) as proxy:
        yield proxy


async def served(proxy: Client, *models: str) -> None:
    for model in models:
        assert (await proxy.generate(model))[0] == 200


def of(told: list[Told], kind: str, *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(t.data[key] for key in keys) for t in told if t.kind == kind]


async def test_first_how_it_is(proxy: Client) -> None:
    async with listening(proxy) as stream:
        assert stream.answer.headers["Cache-Control"] == "no-store"
        first = await stream.next()
    assert (first.kind, first.number) == ("snapshot", 0)
    assert first.data == {
        "status": await proxy.status(),
        "models": (await proxy.get("/models"))[1]["models"],
        "queue": (await proxy.get("/queue"))[1],
    }


async def test_then_what_happens(proxy: Client) -> None:
    async with listening(proxy) as stream:
        await served(proxy, "alpha", "beta")
        told = await stream.until("request", model="team/second:v1")
    assert of(told, "state", "model", "state") == [
        ("first", "loading"),
        ("first", "loaded"),
        ("first", "unloading"),
        ("first", "unloaded"),
        ("team/second:v1", "loading"),
        ("team/second:v1", "loaded"),
    ]
    swaps = [("", "first", "idle", False), ("first", "team/second:v1", "idle", False)]
    assert of(told, "swap", "from_model", "to_model", "reason", "failed") == swaps
    answers = [("first", "generate", 200, 4), ("team/second:v1", "generate", 200, 4)]
    assert of(told, "request", "model", "endpoint", "status", "generated_tokens") == answers
    numbers = [t.number for t in told if t.id]
    assert numbers == list(range(len(numbers)))


async def test_figures_that_changed(session: aiohttp.ClientSession) -> None:
    slow = SimulatedModel("alpha", load_s=0, tokens_per_second=100)
    async with simulated(session, slow, BETA) as proxy, listening(proxy) as stream:
        async with busy(proxy, "alpha"):
            await stream.model("first", in_flight=1, status="loaded")
            asking = asyncio.create_task(proxy.generate("beta"))
            await waits(proxy, 1)
            told = await stream.until("status", waiting=1)
            assert of(told, "queue", "waiting")[-1] == (1,)
            changed = {m["name"]: m for t in told if t.kind == "models" for m in t.data}
            assert changed["team/second:v1"]["waiting"] == 1
            assert "gone" not in changed
        await asking
        await stream.model("team/second:v1", in_flight=0, status="loaded", request_count=1)


async def test_no_news_while_time_only_passes(proxy: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "FIGURES_S", 0.001)
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    await served(proxy, "alpha")
    await at_rest(proxy)
    async with listening(proxy) as stream:
        assert (await stream.next()).data["models"][0]["uptime_s"] > 0
        lines = [await stream.answer.content.readline() for _ in range(6)]
    assert lines == [b":\n", b"\n"] * 3


async def test_idle_and_kept_although_others_wait(proxy: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hold_s", lambda *_: 3600.0)
    async with listening(proxy) as stream:
        await served(proxy, "alpha")  # its client may call again
        asking = asyncio.create_task(proxy.generate("beta"))
        await stream.model("first", holding=True, in_flight=0, status="loaded")
        monkeypatch.setattr(policy, "hold_s", lambda *_: 0.0)
        await served(proxy, "alpha")
        assert (await asking)[0] == 200
        await stream.model("first", holding=False, status="unloaded")


async def test_who_comes_back_misses_nothing_and_hears_nothing_twice(proxy: Client) -> None:
    async with listening(proxy) as stream:
        await served(proxy, "alpha")
        seen = await stream.until("request")
    for way in ("header", "query"):
        last = next(t.id for t in reversed(seen) if t.id)
        await served(proxy, "beta", "alpha")
        query, headers = ("", {"Last-Event-ID": last}) if way == "header" else (f"?last_event_id={last}", {})
        async with listening(proxy, query, **headers) as stream:
            seen += await stream.until("status")
            await served(proxy, "beta")
            seen += await stream.until("request", model="team/second:v1")
    numbers = [t.number for t in seen if t.id]
    assert numbers == list(range(len(numbers)))
    assert [t.kind for t in seen].count("snapshot") == 1
    assert len(of(seen, "request")) == 1 + 2 * 3
    assert len(of(seen, "swap")) == 1 + 3 + 2  # the second time the first one is there


async def test_who_resumes_is_told_the_figures_of_now(proxy: Client) -> None:
    async with listening(proxy) as stream:
        last = (await stream.next()).id
    await served(proxy, "alpha")
    await at_rest(proxy)
    async with listening(proxy, **{"Last-Event-ID": last}) as stream:
        *_, models, queue, status = await stream.until("status")
    assert (models.data[0]["name"], models.data[0]["request_count"]) == ("first", 1)
    assert (queue.kind, queue.data["waiting"]) == ("queue", 0)
    assert status.data["active_model"] == "first"


@pytest.mark.parametrize("last", ["0123abcd-0", "nonsense", "-", "%0A%00-1", "9" * 5000])
async def test_the_id_of_another_run_begins_anew(proxy: Client, last: str) -> None:
    await served(proxy, "alpha")
    async with listening(proxy, f"?last_event_id={last}") as stream:
        assert (await stream.next()).kind == "snapshot"


async def test_what_went_wrong(session: aiohttp.ClientSession) -> None:
    simulator, models = Simulator([ALPHA, BROKEN]), {"<b>": Model(path="ollama:broken", type="llm")}
    async with AsyncExitStack() as ollama:
        url = await ollama.enter_async_context(serving(simulator))
        async with running(replace(settings(url, unlisted_models="deny"), models=models)) as up:
            proxy = Client(session, up.url)
            async with listening(proxy) as stream:
                assert (await proxy.generate("<i>nope"))[0] == 404
                assert (await proxy.generate("broken"))[0] == 500
                told = await stream.until("problem", model="<b>", code="load_failed")
                told += await stream.until("problem", model="<b>", code="load_failed")
                await ollama.aclose()
                assert (await proxy.get("/api/tags"))[0] == 502
                told += await stream.until("problem", model="", code="upstream_unreachable")
                async with serving(simulator, port=urlsplit(url).port or 0):
                    await stream.until("problem", model="", code="upstream_back")
    problems = of(told, "problem", "model", "code", "message")
    assert problems[0] == ("<i>nope", "model_not_found", "model '<i>nope' not found")
    assert problems[1] == ("<b>", "load_failed", "the load failed: Ollama answered 500")
    assert "llama runner" in problems[2][2]  # what Ollama said of it
    assert of(told, "swap", "to_model", "failed") == [("<b>", True)]


async def test_who_does_not_read_is_dropped(session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 64 * 1024
    monkeypatch.setattr(broadcast, "MOST_UNSENT_BYTES", most)
    monkeypatch.setattr(refusals, "MOST_NAMES", 10**9)
    names = (f"{number}{'x' * 300}" for number in itertools.count())  # refusals that are alike are told as one
    dropped, pieces = list[int](), list[int]()
    abort, write = Exchange.abort, Exchange.write

    def aborted(exchange: Exchange) -> None:
        dropped.append(exchange.unsent)
        abort(exchange)

    def written(exchange: Exchange, piece: bytes) -> bool:
        pieces.append(len(piece) + len(b"00000000\r\n\r\n"))
        return write(exchange, piece)

    monkeypatch.setattr(Exchange, "abort", aborted)
    monkeypatch.setattr(Exchange, "write", written)
    with socket.socket() as sleeper:
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with simulated(session, ALPHA, unlisted_models="deny") as proxy:
            url = urlsplit(proxy.url)
            sleeper.connect((url.hostname, url.port))
            sleeper.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with listening(proxy) as stream:
                reading = asyncio.create_task(stream.until("request", model="first"))

                async def gone() -> bool:
                    await asyncio.gather(*(proxy.generate(next(names)) for _ in range(50)))
                    return bool(dropped)

                await until(gone)
                await served(proxy, "alpha")
                await reading
    (unsent,) = dropped
    assert most < unsent <= most + max(pieces)


async def test_no_more_than_a_hundred(proxy: Client) -> None:
    streams = [await proxy.session.get(f"{proxy.url}/events") for _ in range(MOST_CONSUMERS)]
    status, answer = await proxy.get("/events")
    assert (status, answer["status"], answer["error"]["code"]) == (503, "error", "too_many_consumers")
    async with proxy.session.head(f"{proxy.url}/events") as head:
        assert head.status == 200
    streams.pop().close()

    async def free() -> bool:
        async with proxy.session.get(f"{proxy.url}/events") as answer:
            return answer.status == 200

    await until(free)
    for stream in streams:
        stream.close()


async def test_the_end_of_the_proxy_is_the_end_of_the_stream(session: aiohttp.ClientSession) -> None:
    async with serving(Simulator([ALPHA])) as url, asyncio.timeout(LIMIT_S):
        patient = replace(settings(url), server=Server(port=0, shutdown_grace=3600))
        async with running(patient) as up:
            answer = await session.get(f"{up.url}/events")
            await Stream(answer).next()
            assert (await Client(session, up.url).generate("alpha"))[0] == 200
        rest = (await answer.content.read()).decode()  # to its end: an aborted one would raise
        assert "event: request" in rest
        assert rest.endswith("\n\n")


async def test_foreign_pages_and_wrong_methods(proxy: Client) -> None:
    status, answer = await proxy.get("/events", Origin="https://evil.example")
    assert (status, answer["error"]["code"]) == (403, "origin_not_allowed")
    assert (await proxy.post("/events"))[0] == 405
    async with listening(proxy, Origin=proxy.url) as stream:
        assert stream.answer.headers["Access-Control-Allow-Origin"] == proxy.url
        assert (await stream.next()).kind == "snapshot"


async def test_head(proxy: Client) -> None:
    async with proxy.session.head(f"{proxy.url}/events") as head:
        assert (head.status, head.content_type, await head.read()) == (200, "text/event-stream", b"")


async def test_a_client_of_old(proxy: Client) -> None:
    """HTTP/1.0: no chunks."""
    url = urlsplit(proxy.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"GET /events HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(LIMIT_S):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert (await reader.readline()).startswith(b"id: ")
    writer.close()
    await writer.wait_closed()


class Page:
    """An exchange, as far as a stream of events needs one."""

    def __init__(self) -> None:
        self.request = SimpleNamespace(method="GET", headers={}, query={})
        self.got = b""
        self.unsent = 0

    def begin(self, _: int, __: bytes, ___: object, first: bytes, **____: object) -> None:
        self.got += first

    def write(self, data: bytes) -> None:
        self.got += data

    def end(self) -> None:
        self.got += b"END"


async def test_a_change_that_only_one_saw_is_taken_back_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "FIGURES_S", 0.01)
    now = Snapshot("a", (), {}, {}, {}, True)
    board = Mock(Board, snapshot=lambda: now, waiting=0, queue=lambda: (), lanes=lambda: ())
    stream, pages = Events(Broadcast(), board, Configuration(Settings(), Settings)), [Page(), Page()]
    tasks = []
    for page, active in zip(pages, "ab", strict=True):
        now = Snapshot(active, (), {}, {}, {}, True)
        tasks.append(asyncio.ensure_future(stream.handle(cast(Exchange, page))))
        await asyncio.sleep(0)
    now = Snapshot("a", (), {}, {}, {}, True)

    async def told() -> bool:
        return b'"active_model":"a"' in pages[1].got

    await until(told)
    stream.close()
    await asyncio.gather(*tasks)
    assert all(page.got.endswith(b"END") for page in pages)
