"""A client that leaves at any moment leaves nothing behind, and what was begun for it alone is taken back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import ClientKey, Keys, MaxWait, Model, digest
from swapper_proxy.core import policy
from swapper_proxy.ollama.simulator import SimulatedModel
from tests.e2e.conftest import Client, at_rest, busy, configured, is_in, settings, simulated, until, waits
from tests.e2e.test_fairness import acquainted

IMPATIENT = MaxWait(high=0.1, medium=0.1)
MODELS = {name: Model(path=f"ollama:{name}", parallel=1) for name in ("alpha", "beta", "gamma")}
# The simulated one says that its models are in GPU memory, which takes `unload_settle` to come back.
TWO = [SimulatedModel(name, size=1, load_s=0.02, tokens_per_second=100) for name in ("alpha", "beta")]


async def leaves(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def nothing_is_left(proxy: Client) -> None:
    """And both models can be had again."""
    await at_rest(proxy)
    for name in ("beta", "alpha"):
        assert (await proxy.generate(name, 2))[0] == 200
    await at_rest(proxy)
    assert (await proxy.get("/queue"))[1]["requests"] == []


async def test_while_others_drain_for_it(ollama: Client) -> None:
    async with configured(ollama, MODELS, max_wait=IMPATIENT) as proxy:
        await acquainted(proxy)
        await proxy.generate("alpha")
        async with busy(proxy, "alpha"):
            more = asyncio.create_task(proxy.generate("alpha", 2))
            asking = asyncio.create_task(proxy.generate("beta"))
            await is_in(proxy, "alpha", "draining")
            await leaves(asking)
            await is_in(proxy, "alpha", "loaded")  # the draining is lifted
        assert (await more)[0] == 200
        assert await ollama.resident() == ["alpha:latest"]
        assert await proxy.metric("swapper_swaps_total", reason="deadline") == 0
        await nothing_is_left(proxy)


async def test_one_of_several_while_others_drain_for_them(ollama: Client) -> None:
    async with configured(ollama, MODELS, max_wait=IMPATIENT) as proxy:
        await acquainted(proxy)
        await proxy.generate("alpha")
        async with busy(proxy, "alpha"):
            first, second = (asyncio.create_task(proxy.generate("beta")) for _ in range(2))
            await is_in(proxy, "alpha", "draining")
            await leaves(first)
            await waits(proxy, 1)
            assert await proxy.state("alpha") in ("draining", "loaded")  # the second's own deadline is near
        assert (await second)[0] == 200
        await nothing_is_left(proxy)


async def test_during_the_hold(ollama: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hold_s", lambda *_: 3600.0)
    async with configured(ollama, MODELS) as proxy:
        await proxy.generate("alpha")
        asking = asyncio.create_task(proxy.generate("beta"))

        async def held() -> bool:
            return [w["why"] for w in await proxy.waiting()] == ["hold"]

        await until(held)
        await leaves(asking)
        await at_rest(proxy)
        assert await ollama.resident() == ["alpha:latest"]
        monkeypatch.undo()
        assert (await proxy.generate("alpha"))[0] == 200  # ends the idleness for which the hold was worked out
        await nothing_is_left(proxy)


async def test_whoever_it_is_held_for_leaves(ollama: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold that paid, by a request that is then not wanted any more: the other one gets its model."""
    async with configured(ollama, MODELS, max_wait=IMPATIENT) as proxy:
        await acquainted(proxy)
        await proxy.generate("alpha")
        monkeypatch.setattr(policy, "hold_s", lambda *_: 3600.0)
        other = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)
        async with busy(proxy, "alpha"):
            assert await proxy.metric("swapper_holds_total", model="alpha", outcome="paid") == 1
        assert (await other)[0] == 200
        monkeypatch.undo()
        await nothing_is_left(proxy)


async def test_during_the_unload_for_it(session: aiohttp.ClientSession) -> None:
    async with simulated(session, *TWO, max_wait=IMPATIENT, unload_settle=0.5) as proxy:
        await acquainted(proxy)
        await proxy.generate("alpha")
        asking = asyncio.create_task(proxy.generate("beta"))
        await is_in(proxy, "first", "unloading")
        await leaves(asking)
        await is_in(proxy, "first", "unloaded")  # it is carried through
        assert (await proxy.status())["loaded_models"] == []
        await nothing_is_left(proxy)


async def test_during_a_forced_unload_that_others_wait_behind(session: aiohttp.ClientSession) -> None:
    async with simulated(session, *TWO, max_wait=IMPATIENT, unload_settle=0.5, parallel=1) as proxy:
        await acquainted(proxy)
        await proxy.generate("alpha")
        async with busy(proxy, "alpha"):
            asking = asyncio.create_task(proxy.generate("beta"))
            await is_in(proxy, "first", "draining")
            back = asyncio.create_task(proxy.generate("alpha"))
            await waits(proxy, 2)
        await is_in(proxy, "first", "unloading")
        await leaves(asking)
        assert (await back)[0] == 200  # comes back at once
        assert await proxy.metric("swapper_swaps_total", from_model="first", to_model="first") == 1
        await nothing_is_left(proxy)


async def test_before_the_body_has_come(proxy: Client) -> None:
    async def endless() -> Any:
        yield b'{"model": "alpha", "prompt": "'
        await asyncio.Event().wait()

    asking = asyncio.create_task(proxy.session.post(f"{proxy.url}/api/generate", data=endless()).__aenter__())
    await asyncio.sleep(0.05)  # whether it has begun or not: nothing must be left
    await leaves(asking)
    await nothing_is_left(proxy)


async def test_who_asked_for_a_load_by_hand(ollama: Client) -> None:
    async with configured(ollama, MODELS) as proxy:
        async with busy(proxy, "alpha"):
            asking = asyncio.create_task(proxy.post("/models/beta/load"))
            await waits(proxy, 1)
            await leaves(asking)
            await waits(proxy, 0)
        await at_rest(proxy)
        assert await ollama.resident() == ["alpha:latest"]
        await nothing_is_left(proxy)


async def test_who_asked_for_an_unload_by_hand(ollama: Client) -> None:
    async with configured(ollama, MODELS) as proxy:
        async with busy(proxy, "alpha"):
            asking = asyncio.create_task(proxy.post("/models/alpha/unload"))
            await is_in(proxy, "alpha", "draining")
            await leaves(asking)
        await is_in(proxy, "alpha", "unloaded")  # it was said, and is done
        await nothing_is_left(proxy)


async def test_all_who_wait_for_a_budget(roomy: Client) -> None:
    sizes = {n: Model(path=f"ollama:{n}", size_gb=gb) for n, gb in (("alpha", 1), ("beta", 3), ("gamma", 1))}
    limits = {"mode": "multi-active", "memory_budget_gb": 3, "max_wait": IMPATIENT}
    async with configured(roomy, sizes, **limits) as proxy:
        for name in ("alpha", "beta", "alpha", "gamma"):
            await proxy.generate(name)
        async with busy(proxy, "alpha"), busy(proxy, "gamma"):
            asking = asyncio.create_task(proxy.generate("beta"))
            await is_in(proxy, "alpha", "draining")
            await is_in(proxy, "gamma", "draining")  # both have to go
            await leaves(asking)
            await is_in(proxy, "alpha", "loaded")
            await is_in(proxy, "gamma", "loaded")
        await nothing_is_left(proxy)


async def test_many_in_mid_stream_leave_no_error_in_the_log(session, caplog: pytest.LogCaptureFixture) -> None:
    model = SimulatedModel("alpha", size=1, load_s=0.02, tokens_per_second=500)
    async with simulated(session, model, parallel=100) as proxy:

        async def leave() -> None:
            async with proxy.stream("alpha", 1000) as stream:
                await stream.content.readline()
                stream.close()

        await asyncio.gather(*(leave() for _ in range(100)))
        await at_rest(proxy)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def recorded(proxy: Client, events: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next request that /events tells of."""
    async for line in events.content:
        if line == b"event: request\n":
            return msgspec.json.decode((await events.content.readline()).removeprefix(b"data: "))
    raise AssertionError("the events have ended")


STREAMS = [
    ("/api/generate", {"prompt": "x", "options": {"num_predict": 40_000}}),
    ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 40_000}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 40_000}),
]


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_in_mid_stream_is_recorded_with_what_was_streamed(proxy: Client, path: str, body: Any) -> None:
    async with proxy.session.get(f"{proxy.url}/events") as events:
        async with proxy.session.post(proxy.url + path, json={"model": "alpha", **body}) as stream:
            assert stream.status == 200
            had = [line async for line in aiter_lines(stream, 20)]
            stream.close()
        told = await recorded(proxy, events)
    assert told["status"] == 499
    assert told["generated_tokens"] >= len(had)  # and what was under way to the client
    assert await proxy.metric("swapper_model_requests_total", model="first", status="499") == 1
    assert await proxy.metric("swapper_model_requests_total", model="first") == 1
    assert await proxy.metric("swapper_generated_tokens_total", model="first") == told["generated_tokens"]


async def aiter_lines(stream: aiohttp.ClientResponse, number: int) -> AsyncIterator[bytes]:
    """So many lines that are not empty."""
    while number:
        if (line := await stream.content.readline()).strip():
            number -= 1
            yield line


async def test_after_the_last_word_the_answer_is_whole(ollama: Client) -> None:
    """A client may close its connection at `done`, before the end of the chunks has come."""
    async with configured(ollama, MODELS) as proxy, proxy.session.get(f"{proxy.url}/events") as events:
        async with proxy.stream("alpha", 4) as stream:
            while b'"done":true' not in await stream.content.readline():
                pass
            stream.close()
        told = await recorded(proxy, events)
    assert (told["status"], told["generated_tokens"]) == (200, 4)


async def test_a_key_counts_the_same_status(ollama: Client) -> None:
    keys = Keys(clients={"agent": ClientKey(key_sha256=digest("sk-agent-1"))})
    chosen = msgspec.structs.replace(settings(ollama.url), keys=keys)
    async with running(chosen) as up:
        proxy = Client(ollama.session, up.url)
        bearer = {"Authorization": "Bearer sk-agent-1"}
        body = {"model": "alpha", "prompt": "x", "options": {"num_predict": 40_000}}
        async with proxy.session.post(f"{proxy.url}/api/generate", json=body, headers=bearer) as stream:
            await stream.content.readline()
            stream.close()

        async def counted() -> bool:
            return await proxy.metric("swapper_key_requests_total", key="agent") == 1

        await until(counted)
        assert await proxy.metric("swapper_key_requests_total", key="agent", status="499") == 1


async def test_who_leaves_was_not_refused(proxy: Client) -> None:
    async with proxy.session.get(f"{proxy.url}/events") as events:
        async with busy(proxy, "alpha"):
            asking = asyncio.create_task(proxy.generate("beta"))
            await waits(proxy, 1)
            await leaves(asking)
            await waits(proxy, 0)
        assert (await proxy.generate("alpha", 2))[0] == 200
        told = b""
        while b'"generated_tokens":2,' not in told:
            told += await events.content.readline()
    assert b"event: problem" not in told
    assert await proxy.metric("swapper_rejected_requests_total") == 0
