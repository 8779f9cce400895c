"""A bug of the proxy's own: told in the dialect, logged, and never mixed into an answer; nothing hangs, all goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import Mock

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import Running, running
from swapper_proxy.core import events
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.observe.logs import SwapLog
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.observe.recording import Recording
from swapper_proxy.observe.refusals import Refusals
from swapper_proxy.ollama.simulator import Faults, Simulator, serving
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.swaps import Swaps
from swapper_proxy.storage.history import History
from swapper_proxy.web.broadcast import Broadcast
from swapper_proxy.web.counting import Counted
from swapper_proxy.web.proxy import Proxy
from tests.e2e.conftest import LIMIT_S, Client, at_rest, is_in, settings, until, waits
from tests.e2e.faulty import TWO, faulty, healthy, is_served

MESSAGE = "internal error; see the proxy's log"


async def bug(*_: object) -> None:
    raise RuntimeError("a bug")


def a_bug(*_: object) -> None:
    raise RuntimeError("a bug")


async def test_before_the_answer(
    proxy: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Proxy, "_pass", bug)
    assert await proxy.get("/api/tags") == (500, {"error": MESSAGE})
    status, answer = await proxy.get("/v1/models")
    assert (status, answer["error"]["code"], answer["error"]["message"]) == (500, "internal_error", MESSAGE)
    assert "a bug" in caplog.text
    assert await proxy.metric("swapper_rejected_requests_total", reason="internal_error") == 2


async def test_in_the_middle(proxy: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with proxy.stream("alpha", 40_000) as stream:
        await stream.content.readany()
        monkeypatch.setattr(Counted, "chunk", Mock(side_effect=RuntimeError("a bug")))
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
    assert "a bug" in caplog.text
    await at_rest(proxy)
    monkeypatch.undo()
    assert (await proxy.generate("alpha"))[0] == 200


# Whoever is told what happens

LISTENERS: list[tuple[type, str]] = [
    *((SwapLog, hook) for hook in ("loaded", "load_failed", "unloaded", "upstream")),
    *((Recording, hook) for hook in ("drained", "unloaded", "loaded", "load_failed", "changed", "upstream")),
    *((Metrics, hook) for hook in ("waited", "rejected", "loaded", "load_failed", "drained", "unloaded")),
    *((Metrics, hook) for hook in ("held", "first_byte", "first_token", "answered")),
    *((Broadcast, hook) for hook in ("request", "swap", "state", "problem")),
    *((History, hook) for hook in ("request", "swap", "state", "problem")),
    (Refusals, "refused"),
    (Ledger, "changed"),
    (Ledger, "count"),
]


@pytest.mark.parametrize(
    "kind", [Ledger, Metrics, SwapLog, Recording, Refusals, Broadcast, History], ids=lambda kind: kind.__name__
)
async def test_a_listener_that_always_fails(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type
) -> None:
    """Models are swapped, a load fails, answers come, whole, and nothing is said to be what it is not."""
    hooks = [hook for listener, hook in LISTENERS if listener is kind]
    assert hooks
    for hook in hooks:
        monkeypatch.setattr(kind, hook, a_bug)
    async with faulty(session) as (proxy, _, faults):
        for model in ("alpha", "beta", "alpha"):
            async with proxy.stream(model, 4) as stream:
                lines = (await stream.read()).splitlines()
                assert msgspec.json.decode(lines[-1])["done"] is True
        assert await proxy.state("alpha") == "loaded"
        faults.failing = 1
        assert (await proxy.generate("beta"))[0] == 500
        await is_served(proxy)
    assert "a bug" in caplog.text


# The scheduler


class Planted:
    """An error that one handler of the scheduler raises once, the next time an event of its kind comes."""

    def __init__(self, event: type, monkeypatch: pytest.MonkeyPatch) -> None:
        self._kind, self._handle = event, Scheduler._HANDLERS[event]
        self._monkeypatch = monkeypatch

    def plant(self) -> None:
        self._monkeypatch.setitem(Scheduler._HANDLERS, self._kind, self._fail)

    def _fail(self, *_: object) -> None:
        self._monkeypatch.setitem(Scheduler._HANDLERS, self._kind, self._handle)
        raise RuntimeError("a bug in the scheduler")


@asynccontextmanager
async def before_a_simulator(session: aiohttp.ClientSession) -> AsyncIterator[tuple[Client, Running, Faults]]:
    """Room for two models; what is not wanted by anybody leaves after a moment."""
    faults = Faults()
    async with serving(Simulator(TWO, max_loaded=2, faults=faults)) as url:
        chosen = settings(url, mode="multi-active", max_concurrent_models=2, unload_settle=0.0, unload_timeout=1.0)
        async with running(chosen) as served:
            yield Client(session, served.url), served, faults


async def answered(proxy: Client, *models: str) -> None:
    for model in models:
        assert (await proxy.generate(model))[0] in (200, 500)


async def is_answered(proxy: Client, model: str) -> None:
    """In the end."""

    async def answered() -> bool:
        return (await proxy.generate(model))[0] == 200

    await until(answered)


async def leaving(proxy: Client, faults: Faults) -> None:
    """A client waits for a load, and leaves."""
    faults.stalled = True
    asking = asyncio.create_task(proxy.generate("beta"))
    await is_in(proxy, "beta", "loading")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    faults.stalled = False


async def failing(proxy: Client, faults: Faults) -> None:
    faults.failing = 1
    assert (await proxy.generate("beta"))[0] == 500


async def unloading(proxy: Client, _: Faults) -> None:
    await answered(proxy, "beta")
    assert (await proxy.post("/models/beta/unload"))[0] in (200, 500)


async def not_unloading(proxy: Client, faults: Faults) -> None:
    await answered(proxy, "beta")
    faults.kept = True
    assert (await proxy.post("/models/beta/unload"))[0] in (500, 504)
    faults.kept = False


async def asking(proxy: Client, _: Faults) -> None:
    await answered(proxy, "beta", "beta")


async def loading(proxy: Client, _: Faults) -> None:
    assert (await proxy.post("/models/beta/load"))[0] in (200, 500)


async def nothing(*_: object) -> None:
    """It happens by itself."""


ACTIONS: dict[type, Callable[[Client, Faults], Awaitable[None]]] = {
    events.Arrived: asking,
    events.Cancelled: leaving,
    events.Finished: asking,
    events.Loaded: asking,
    events.LoadFailed: failing,
    events.Unloaded: unloading,
    events.UnloadFailed: not_unloading,
    events.Observed: nothing,
    events.LoadRequested: loading,
    events.UnloadRequested: unloading,
    events.UpstreamDown: nothing,
    events.UpstreamUp: nothing,
    events.ConfigChanged: nothing,
    events.Tick: nothing,
}
# What the proxy ends with, and what begins after a fault, have tests of their own.
assert set(ACTIONS) | {events.Shutdown, events.TakenOver} == set(Scheduler._HANDLERS)


def told(event: type, served: Running) -> None:
    """What nobody asks for by a request."""
    match event:
        case events.UpstreamDown:
            served.engine.upstream(False)
        case events.UpstreamUp:
            served.engine.upstream(False)
            served.engine.upstream(True)
        case events.ConfigChanged:
            served.engine.treat_afresh()
        case events.Tick:
            served.engine.submit(events.Tick())


@pytest.mark.parametrize("event", ACTIONS, ids=lambda event: event.__name__)
async def test_a_scheduler_that_fails(
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    event: type,
) -> None:
    """Nobody hangs, what is being answered is not unloaded, and the next requests are served."""
    planted = Planted(event, monkeypatch)
    async with before_a_simulator(session) as (proxy, served, faults), proxy.stream("alpha", 100_000) as stream:
        await stream.content.readline()
        planted.plant()
        told(event, served)
        await ACTIONS[event](proxy, faults)

        async def noticed() -> bool:
            return await proxy.metric("swapper_scheduler_faults_total") == 1

        await until(noticed)
        await is_in(proxy, "alpha", "loaded")  # at once, unless Ollama counts as away, too
        assert (await proxy.status())["in_flight"] >= 1
        await is_answered(proxy, "beta")
        assert await stream.content.readline()
        stream.close()
        await is_served(proxy)
    assert "the scheduler failed" in caplog.text
    assert "a bug in the scheduler" in caplog.text


async def test_who_waits_is_told_in_the_dialect(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(events.Tick, monkeypatch)
    async with before_a_simulator(session) as (proxy, served, faults):
        faults.stalled = True
        body: dict[str, Any] = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
        asking = [asyncio.create_task(proxy.post(p, body)) for p in ("/api/chat", "/v1/chat/completions")]
        loading = asyncio.create_task(proxy.post("/models/beta/load"))
        await waits(proxy, 3)
        planted.plant()
        told(events.Tick, served)
        (native, openai), manual = await asyncio.gather(*asking), await loading
        faults.stalled = False
        assert native == (500, {"error": MESSAGE})
        assert (openai[0], openai[1]["error"]["code"]) == (500, "scheduler_fault")
        assert (manual[0], manual[1]["error"]["code"]) == (500, "scheduler_fault")
        assert await proxy.metric("swapper_rejected_requests_total", reason="scheduler_fault") == 3
        await is_served(proxy)


async def test_what_could_not_be_loaded_for_a_fault_is_not_pinned(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(events.LoadRequested, monkeypatch)
    async with before_a_simulator(session) as (proxy, _, _):
        planted.plant()
        assert (await proxy.post("/models/beta/pin"))[0] == 500
        assert (await proxy.get("/models/beta"))[1]["pinned"] is False
        await is_served(proxy)


async def test_a_fault_where_a_request_is_let_in_at_once(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with before_a_simulator(session) as (proxy, _, _):
        await is_served(proxy)
        monkeypatch.setattr(Scheduler, "admit", a_bug)
        assert (await proxy.generate("alpha"))[0] == 200
        monkeypatch.undo()
        assert await proxy.metric("swapper_scheduler_faults_total") == 1
        await is_served(proxy)


async def test_a_fault_at_every_event_ends_the_proxy_all_the_same(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(LIMIT_S), before_a_simulator(session) as (proxy, _, _):
        await is_served(proxy)
        monkeypatch.setattr(Scheduler, "handle", a_bug)
        with suppress(aiohttp.ClientError):
            assert (await proxy.post("/models/alpha/unload"))[0] == 500


async def test_a_fault_at_the_end(session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy ends as soon as what is being answered is, and loads nothing any more."""
    planted = Planted(events.Shutdown, monkeypatch)
    async with asyncio.timeout(LIMIT_S), before_a_simulator(session) as (proxy, served, _):
        await is_served(proxy)
        planted.plant()
        served.engine.shutdown(0.5)

        async def refused() -> bool:
            return (await proxy.generate("beta"))[0] == 503

        await proxy.post("/models/beta/unload")
        await until(refused)


async def test_a_fault_in_starting_over(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Planted(events.Tick, monkeypatch), Planted(events.TakenOver, monkeypatch)
    async with before_a_simulator(session) as (proxy, served, _), proxy.stream("alpha", 100_000) as stream:
        await stream.content.readline()
        second.plant()
        first.plant()
        told(events.Tick, served)
        await is_answered(proxy, "beta")
        assert await stream.content.readline()
        stream.close()
        await is_served(proxy)
    assert "the scheduler failed again" in caplog.text


async def test_a_command_that_cannot_be_carried_out(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with before_a_simulator(session) as (proxy, _, _):
        await is_served(proxy, "alpha")
        with monkeypatch.context() as broken:
            broken.setattr(Swaps, "load", a_bug)
            assert (await proxy.generate("beta"))[0] == 500
        await is_served(proxy)
    assert "StartLoad" in caplog.text


async def test_what_is_in_memory_is_looked_at_before_it_is_unloaded(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(events.Tick, monkeypatch)
    async with before_a_simulator(session) as (proxy, served, faults):
        await is_served(proxy, "alpha")
        faults.listing = "error"
        planted.plant()
        told(events.Tick, served)

        async def noticed() -> bool:
            return "not known yet" in (await proxy.get("/health"))[1].get("reason", "")

        await until(noticed)
        stopping = asyncio.create_task(proxy.post("/models/alpha/unload"))
        await asyncio.sleep(0)
        faults.listing = "true"
        assert (await stopping)[0] == 200
        assert await proxy.state("alpha") == "unloaded"
        await is_served(proxy)


async def test_a_load_that_is_overdue_is_no_health(session: aiohttp.ClientSession) -> None:
    async with faulty(session, model_swap_timeout=0.1) as (proxy, _, faults):
        assert await healthy(proxy)
        faults.stalled = True
        assert (await proxy.generate("alpha"))[0] == 504

        async def degraded() -> bool:
            return (await proxy.get("/health"))[1]["status"] == "degraded"

        await until(degraded)
        reason = (await proxy.get("/health"))[1]["reason"]
        assert reason == "a load takes longer than model_swap_timeout: first"
        faults.stalled = False
        await is_served(proxy)
        assert "reason" not in (await proxy.get("/health"))[1]
