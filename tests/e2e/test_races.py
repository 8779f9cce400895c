"""What has gone wrong in programs of this kind, once each on the real Ollama; in every order on the core: tests/core.

A new configuration against a swap is tested with reloading.
"""

import asyncio
import json

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import MaxWait, Model, Server
from swapper_proxy.core.policy import Policy
from tests.e2e.conftest import LIMIT_S, Client, at_rest, busy, configured, is_in, settings, waits
from tests.e2e.test_fairness import acquainted
from tests.e2e.test_faults import mortal  # noqa: F401 - a fixture
from tests.real.server import OllamaServer

IMPATIENT = MaxWait(high=0.1, medium=0.1)
NAMES = ("alpha", "beta", "gamma")
ONE_AT_A_TIME = {name: Model(path=f"ollama:{name}", parallel=1) for name in NAMES}
TOKENS = 2000  # long enough to be asked for other things meanwhile


async def loads(proxy: Client) -> float:
    return await proxy.metric("swapper_load_seconds_count")


async def whole(stream: aiohttp.ClientResponse) -> int:
    """How many tokens the end of the answer tells, once it has come."""
    last = json.loads((await stream.read()).splitlines()[-1])
    assert last["done"]
    return int(last["eval_count"])


async def test_a_model_is_not_evicted_before_the_request_it_was_loaded_for(
    ollama: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the other two is overdue all the time."""
    monkeypatch.setattr(Policy, "_contention_s", lambda _: 0.0)  # however many models are wanted
    async with configured(ollama, ONE_AT_A_TIME, max_wait=IMPATIENT) as proxy:
        await acquainted(proxy)
        before = await loads(proxy)
        rounds = 2

        async def client(name: str) -> None:
            for _ in range(rounds):
                assert (await proxy.generate(name))[0] == 200

        await asyncio.gather(*map(client, NAMES))
        assert await loads(proxy) - before <= rounds * len(NAMES)
        await at_rest(proxy)


async def test_nobody_is_lost_when_the_first_who_wanted_it_leaves_during_the_load(ollama: Client) -> None:
    async with configured(ollama, ONE_AT_A_TIME, model_swap_timeout=LIMIT_S) as proxy:
        first = asyncio.create_task(proxy.generate("slow"))
        await is_in(proxy, "slow", "loading")
        second = asyncio.create_task(proxy.generate("slow"))
        await waits(proxy, 2)
        first.cancel()
        await waits(proxy, 1)
        third = asyncio.create_task(proxy.generate("slow"))
        assert [status for status, _ in await asyncio.gather(second, third)] == [200, 200]
        assert await loads(proxy) == 1
        await at_rest(proxy)


async def test_nobody_is_lost_when_others_leave_the_queue_as_a_place_becomes_free(ollama: Client) -> None:
    async with configured(ollama, ONE_AT_A_TIME) as proxy:
        async with busy(proxy, "alpha"):
            asking = [asyncio.create_task(proxy.generate("alpha")) for _ in range(6)]
            await waits(proxy, 6)
            for task in asking[::2]:
                task.cancel()
        assert [status for status, _ in await asyncio.gather(*asking[1::2])] == [200] * 3
        await at_rest(proxy)


async def test_a_model_that_answers_is_not_killed_whoever_wants_it_gone(
    ollama: Client, ollama_server: OllamaServer
) -> None:
    """The operator, `ollama stop`, and one who has waited too long for another model."""
    async with configured(ollama, ONE_AT_A_TIME, max_wait=IMPATIENT) as proxy:
        await acquainted(proxy)
        async with proxy.stream("alpha", TOKENS) as stream:
            await stream.content.readline()
            with ollama_server.held():
                gone = [
                    asyncio.create_task(proxy.post("/models/alpha/unload")),
                    asyncio.create_task(proxy.post("/api/generate", {"model": "alpha", "keep_alive": 0})),
                    asyncio.create_task(proxy.generate("beta")),
                ]
                await is_in(proxy, "alpha", "draining")
            assert await whole(stream) == TOKENS
        assert [status for status, _ in await asyncio.gather(*gone)] == [200, 200, 200]
        assert await ollama.resident() == ["beta:latest"]


async def test_the_result_of_a_load_that_ollama_took_with_it_is_not_taken_for_a_later_one(
    session: aiohttp.ClientSession,
    mortal: OllamaServer,  # noqa: F811 - the fixture
) -> None:
    """It is killed in mid-load and comes back empty: who waits is served by a load of its own."""
    mortal.create(["slow"])
    async with running(settings(mortal.url, model_swap_timeout=LIMIT_S)) as up:
        proxy = Client(session, up.url)
        asking = asyncio.create_task(proxy.generate("slow"))
        await is_in(proxy, "slow", "loading")
        mortal.kill()
        await is_in(proxy, "slow", "unloaded")
        assert not asking.done()
        mortal.start()
        assert (await asking)[0] == 200
        assert await Client(session, mortal.url).resident() == ["slow:latest"]
        assert await proxy.state("slow") == "loaded"
        await at_rest(proxy)


async def test_who_comes_during_an_unload_is_served(proxy: Client, ollama: Client) -> None:
    """Before, at and after its end, however the two fall together."""
    for pause in range(6):
        assert (await proxy.generate("alpha"))[0] == 200
        unloading = asyncio.create_task(proxy.post("/models/alpha/unload"))
        for _ in range(pause):
            await asyncio.sleep(0)
        status, answer = await proxy.generate("alpha")
        assert (status, answer["done"]) == (200, True)
        assert (await unloading)[0] == 200
    await at_rest(proxy)


async def test_who_comes_as_the_time_to_live_ends_is_served(proxy: Client) -> None:
    """Each lets its model go at once; the next comes at whatever moment of that."""
    for _ in range(4):
        status, answer = await proxy.generate("alpha", keep_alive=0)
        assert (status, answer["done"]) == (200, True)
    answers = await asyncio.gather(*(proxy.generate("alpha", keep_alive=0) for _ in range(4)))
    assert [status for status, _ in answers] == [200] * 4
    await is_in(proxy, "alpha", "unloaded")
    await at_rest(proxy)


@pytest.mark.parametrize("before", [None, "alpha"])
async def test_a_shutdown_during_a_load_answers_who_waits_and_cuts_nobody(
    session: aiohttp.ClientSession, ollama: Client, ollama_server: OllamaServer, before: str | None
) -> None:
    """With nothing else in memory, and while another model answers."""
    patient = msgspec.structs.replace(settings(ollama.url), server=Server(port=0, shutdown_grace=LIMIT_S))
    async with running(patient) as up:
        proxy = Client(session, up.url)
        asking = session.post(f"{proxy.url}/api/generate", json={"model": "slow", "prompt": "x", "stream": False})
        if before:
            stream = await proxy.stream(before, TOKENS).__aenter__()
            await stream.content.readline()
            with ollama_server.held():
                waiting = asyncio.create_task(asking.__aenter__())
                await waits(proxy, 1)
        else:
            waiting = asyncio.create_task(asking.__aenter__())
            await is_in(proxy, "slow", "loading")
    answer = await waiting
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "shutting down" in (await answer.json())["error"]
    if before:
        assert await whole(stream) == TOKENS
