"""Loads, unloads and /api/ps that go wrong: who waits is told, the others go on, and nobody has to do anything."""

import asyncio
import contextlib
import json
import math
import socket
from collections.abc import Iterator

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Upstream
from swapper_proxy.ollama import client
from swapper_proxy.ollama.simulator import Faults, Simulator, serving
from swapper_proxy.ollama.simulator.memory import BROKEN
from swapper_proxy.runtime import watcher
from tests.e2e.conftest import Client, at_rest, busy, is_in, settings, until, waits
from tests.e2e.faulty import MESSAGES, TWO, faulty, healthy, is_served, text_of
from tests.e2e.test_events import listening

pytestmark = pytest.mark.usefixtures("own_time")

PATHS = ("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/messages")
ASKED = {"model": "alpha", "prompt": "x", "messages": MESSAGES, "max_tokens": 4, "stream": False}


async def ask_in_all_dialects(proxy: Client) -> dict[str, tuple[int, str]]:
    """Status and text of each, all asked at once."""
    answers = await asyncio.gather(*(proxy.post(path, ASKED) for path in PATHS))
    return {path: (status, text_of(path, answer)) for path, (status, answer) in zip(PATHS, answers, strict=True)}


async def until_loading(ollama: Client) -> None:
    async def there() -> bool:
        return bool(await ollama.resident())

    await until(there)


# Loads


async def test_a_load_that_fails_once(session: aiohttp.ClientSession) -> None:
    async with faulty(session) as (proxy, _, faults):
        faults.failing = 1
        assert await ask_in_all_dialects(proxy) == dict.fromkeys(PATHS, (500, BROKEN))
        async with proxy.session.post(f"{proxy.url}/api/chat", json=ASKED) as refused:
            assert (refused.status, int(refused.headers["Retry-After"]) >= 1) == (503, True)
        assert (await proxy.generate("beta"))[0] == 200
        await is_served(proxy, "alpha", "beta")
        assert await proxy.metric("swapper_load_failures_total") == 1


async def test_loads_that_always_fail(session: aiohttp.ClientSession) -> None:
    async with faulty(session) as (proxy, _, faults):
        assert (await proxy.generate("beta"))[0] == 200
        faults.failing = math.inf

        async def twice() -> bool:
            status, _ = await proxy.generate("alpha")
            assert status in (500, 503)
            return await proxy.metric("swapper_load_failures_total") >= 2

        await until(twice)
        await at_rest(proxy)
        assert await proxy.state("alpha") == "error"
        assert await healthy(proxy)
        faults.failing = 0
        await is_served(proxy, "beta", "alpha")


async def test_a_slow_load_goes_on_without_those_who_did_not_wait(session: aiohttp.ClientSession) -> None:
    async with faulty(session, model_swap_timeout=0.2) as (proxy, _, faults):
        faults.load_s = 1.0
        told = (504, "the model was not loaded within model_swap_timeout; loading goes on")
        assert await ask_in_all_dialects(proxy) == dict.fromkeys(PATHS, told)
        faults.load_s = 0.0
        await is_in(proxy, "first", "loaded")
        await is_served(proxy)
        assert await proxy.metric("swapper_load_failures_total") == 0


async def test_a_stalled_load_is_given_up(session: aiohttp.ClientSession) -> None:
    async with faulty(session, load_stall_timeout=0.5) as (proxy, ollama, faults):
        faults.stalled = True
        asking = asyncio.create_task(ask_in_all_dialects(proxy))
        await waits(proxy, len(PATHS))
        assert await asking == dict.fromkeys(PATHS, (503, "the model could not be loaded"))
        assert await ollama.resident() == []  # Ollama was made to give it up, too
        faults.stalled = False
        await is_served(proxy, "beta", "alpha")


async def test_who_waits_behind_a_stalled_load(session: aiohttp.ClientSession) -> None:
    async with faulty(session, load_stall_timeout=0.5) as (proxy, _, faults):
        faults.stalled = True
        stuck = asyncio.create_task(proxy.generate("alpha"))
        await is_in(proxy, "first", "loading")
        behind = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 2)
        assert (await stuck)[0] == 503
        faults.stalled = False
        await behind  # its own load may have been begun and be given up as well
        await is_served(proxy)


async def test_an_ollama_that_is_too_busy_to_load(session: aiohttp.ClientSession) -> None:
    async with faulty(session) as (proxy, _, faults):
        faults.busy = 1
        status, answer = await proxy.generate("alpha")
        assert (status, "server busy" in answer["error"]) == (503, True)
        await is_served(proxy)


# Unloads


async def test_an_unload_that_does_not_happen(session: aiohttp.ClientSession) -> None:
    async with faulty(session, unload_timeout=0.3) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.kept = True
        status, answer = await proxy.post("/models/alpha/unload")
        assert (status, answer["error"]["code"]) == (504, "unload_failed")
        asking = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)
        faults.kept = False
        assert (await asking)[0] == 200
        await is_served(proxy)


async def test_who_waits_for_the_room_of_what_does_not_go(session: aiohttp.ClientSession) -> None:
    async with faulty(session, unload_timeout=0.2, model_swap_timeout=0.5) as (proxy, _, faults):
        assert (await proxy.generate("beta"))[0] == 200
        faults.kept = True
        answers = await ask_in_all_dialects(proxy)
        assert {status for status, _ in answers.values()} == {504}
        assert (await proxy.status())["waiting"] == 0
        faults.kept = False
        await is_served(proxy)


# What /api/ps says


async def test_a_list_that_shows_nothing(session: aiohttp.ClientSession) -> None:
    async with faulty(session) as (proxy, _, faults):
        async with busy(proxy, "alpha") as stream:
            faults.listing = "empty"
            waiting = asyncio.create_task(proxy.generate("beta"))
            await waits(proxy, 1)
            assert json.loads(await stream.content.readline())["done"] is False  # what answers is there
        assert (await waiting)[0] == 200
        for model in ("alpha", "beta", "alpha"):
            assert (await proxy.generate(model))[0] == 200
        faults.listing = "true"
        await is_served(proxy)


@pytest.mark.parametrize("listing", ["old", "error"])
async def test_a_list_that_lags_or_cannot_be_had(session: aiohttp.ClientSession, listing) -> None:
    async with faulty(session, unload_timeout=0.3) as (proxy, ollama, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        assert await ollama.resident() == ["alpha:latest"]
        faults.listing = listing
        assert (await proxy.generate("alpha"))[0] == 200
        async with listening(proxy) as events:
            other = asyncio.create_task(proxy.generate("beta"))
            await events.until("state", model="first", cause="failed")  # nobody can see that it is unloaded
        assert not other.done()  # nothing is loaded beside what may still be there
        faults.listing = "true"
        assert (await other)[0] == 200
        await is_served(proxy)


# The other model

TWO_AT_A_TIME = {"mode": "multi-active", "max_concurrent_models": 2}


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (("stalled", True), {200}),
        (("failing", math.inf), {500, 503}),
        (("listing", "empty"), {200}),
        (("listing", "old"), {200}),
        (("listing", "error"), {200}),
    ],
)
async def test_a_model_goes_on_beside_a_load_that_goes_wrong(session, fault: tuple[str, object], statuses) -> None:
    async with faulty(session, room=2, **TWO_AT_A_TIME) as (proxy, ollama, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        assert await ollama.resident() == ["alpha:latest"]
        well = getattr(faults, fault[0])
        setattr(faults, *fault)
        other = asyncio.create_task(proxy.generate("beta"))
        await is_in(proxy, "team/second:v1", "loading", "loaded", "error")
        for _ in range(5):
            assert (await proxy.generate("alpha"))[0] == 200
        setattr(faults, fault[0], well)
        assert (await other)[0] in statuses
        assert await proxy.state("first") == "loaded"
        await is_served(proxy)


async def test_a_model_goes_on_beside_an_unload_that_does_not_happen(session: aiohttp.ClientSession) -> None:
    async with faulty(session, room=2, unload_timeout=0.3, **TWO_AT_A_TIME) as (proxy, _, faults):
        for model in ("alpha", "beta"):
            assert (await proxy.generate(model))[0] == 200
        faults.kept = True
        unloading = asyncio.create_task(proxy.post("/models/beta/unload"))
        await is_in(proxy, "team/second:v1", "unloading")
        assert (await proxy.generate("alpha"))[0] == 200
        assert (await unloading)[0] == 504
        assert (await proxy.generate("alpha"))[0] == 200
        faults.kept = False
        await is_served(proxy)


# An Ollama that takes requests and answers none


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ASK_TIMEOUT_S", 0.5)


@contextlib.asynccontextmanager
async def silence(proxy: Client, faults: Faults):
    """Until the proxy has noticed; then the block; then Ollama talks again."""
    faults.silent = True

    async def noticed() -> bool:
        return not await healthy(proxy)

    await until(noticed)
    yield
    faults.silent = False


@pytest.mark.usefixtures("brief")
async def test_an_ollama_that_does_not_answer_any_more(session: aiohttp.ClientSession) -> None:
    async with faulty(session) as (proxy, _, faults), busy(proxy, "alpha") as stream:
        async with silence(proxy, faults):
            for status, text in (await ask_in_all_dialects(proxy)).values():
                assert (status, text.startswith("Ollama is not reachable")) == (502, True)
            assert json.loads(await stream.content.readline())["done"] is False  # what flows is not cut
        stream.close()
        await is_served(proxy)


async def test_a_start_before_an_ollama_that_does_not_answer(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ASK_TIMEOUT_S", 3600)
    monkeypatch.setattr(watcher, "FIRST_LOOK_S", 0.1)
    async with faulty(session, faults=Faults(silent=True)) as (proxy, _, faults):
        assert not await healthy(proxy)
        faults.silent = False
        await is_served(proxy)


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """A port that takes no more connections: whoever wants one waits."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listening.getsockname())
        yield listening.getsockname()[1]


async def test_an_ollama_to_which_nobody_can_connect(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):  # of which the reason would tell
        monkeypatch.delenv(name, raising=False)
    async with contextlib.AsyncExitStack() as stack:
        with full_port() as port:
            url = f"http://127.0.0.1:{port}"
            upstream = Upstream(url=url, connect_timeout=0.2, grace=0.5)
            up = await stack.enter_async_context(running(msgspec.structs.replace(settings(url), upstream=upstream)))
            proxy = Client(session, up.url)
            assert not await healthy(proxy)
            why = f"no connection to 127.0.0.1:{port} within 0.2 s; check upstream.url"
            told = (502, f"Ollama is not reachable: {why} (OLLAMA_BASE_URL), the network and the firewall")
            assert await ask_in_all_dialects(proxy) == dict.fromkeys(PATHS, told)
            await at_rest(proxy)
        await stack.enter_async_context(serving(Simulator(TWO), port=port))
        await is_served(proxy)


@pytest.mark.usefixtures("brief")
async def test_a_load_is_left_with_the_ollama_that_fell_silent(session: aiohttp.ClientSession) -> None:
    """Else it would go on beside the next load when Ollama is back."""
    async with faulty(session) as (proxy, ollama, faults):
        faults.stalled = True
        asking = asyncio.create_task(proxy.generate("alpha"))
        await until_loading(ollama)
        async with silence(proxy, faults):
            assert (await asking)[0] == 502
        assert await ollama.resident() == []
        faults.stalled = False
        await is_served(proxy)


@pytest.mark.usefixtures("brief")
async def test_an_unload_in_which_ollama_falls_silent(session: aiohttp.ClientSession) -> None:
    async with faulty(session) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.kept = True
        asking = asyncio.create_task(proxy.generate("beta"))
        await is_in(proxy, "first", "unloading")
        async with silence(proxy, faults):
            assert (await asking)[0] == 502
        faults.kept = False
        await is_served(proxy)
