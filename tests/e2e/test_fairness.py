"""Nobody waits for ever, nobody is cut, and nothing is swapped without need: on the real Ollama."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.config import MaxWait, Model
from swapper_proxy.core import policy
from swapper_proxy.ollama.simulator import SimulatedModel
from tests.e2e.conftest import Client, at_rest, busy, configured, is_in, simulated, until, waits

IMPATIENT = MaxWait(high=0.1, medium=0.1)
TWO_AT_ONCE = {name: Model(path=f"ollama:{name}", parallel=2) for name in ("alpha", "beta", "gamma")}
# Swaps of tiny models are short, and patience is never longer than ten of them: these differ all the same.
APART = MaxWait(high=0.1, medium=1)
ALONE = {"a": Model(path="ollama:alpha", parallel=1)}
TOKENS = 8


async def acquainted(proxy: Client) -> None:
    """Let the proxy measure what swaps take; until then it takes them for long, and patience goes by that."""
    for name in ("alpha", "beta") * 2:
        assert (await proxy.generate(name))[0] == 200


@asynccontextmanager
async def crowd(proxy: Client, model: str, clients: int) -> AsyncIterator[list[int]]:
    """So many clients that ask again at once, streaming; the list is of the tokens of every stream that ended well."""
    ended: list[int] = []
    more = True

    async def client() -> None:
        while more:
            async with proxy.stream(model, TOKENS) as stream:
                last = json.loads((await stream.read()).splitlines()[-1])
            assert last["done"]
            ended.append(last["eval_count"])

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    try:
        yield ended
    finally:
        more = False
        await asyncio.gather(*tasks)


async def test_a_model_that_is_always_wanted_keeps_nobody_out_for_ever(ollama: Client) -> None:
    async with configured(ollama, TWO_AT_ONCE, max_wait=IMPATIENT) as proxy:
        await acquainted(proxy)
        async with crowd(proxy, "alpha", 6) as ended:
            await is_in(proxy, "alpha", "loaded")
            status, answer = await proxy.generate("beta", TOKENS)
            assert (status, answer["eval_count"]) == (200, TOKENS)
            before = len(ended)

            async def alpha_goes_on() -> bool:
                return len(ended) > before + 6

            await until(alpha_goes_on)
        assert set(ended) == {TOKENS}  # nothing was cut
        assert await proxy.metric("swapper_swaps_total", to_model="beta", reason="deadline") == 1
        await at_rest(proxy)


@pytest.mark.parametrize(("header", "first"), [("any", "gamma"), ("lower", "beta")])
async def test_whose_priority_is_higher_comes_first(ollama: Client, header: str, first: str) -> None:
    models = {n: Model(path=f"ollama:{n}", priority="low", parallel=1) for n in ("alpha", "beta", "gamma")}
    served: list[str] = []

    async with configured(ollama, models, priority_header=header, max_wait=APART) as proxy:

        async def ask(model: str, **headers: str) -> None:
            body = {"model": model, "prompt": "x", "stream": False, "options": {"num_predict": 2}}
            assert (await proxy.post("/api/generate", body, **headers))[0] == 200
            served.append(model)

        async with asyncio.TaskGroup() as group, busy(proxy, "alpha"):
            group.create_task(ask("beta"))
            await waits(proxy, 1)
            group.create_task(ask("gamma", **{"X-Swapper-Priority": "high"}))
            await waits(proxy, 2)
            priorities = {w["model"]: w["priority"] for w in await proxy.waiting()}
            assert priorities == {"beta": "low", "gamma": "high" if header == "any" else "low"}
    assert served[0] == first
    assert len(served) == 2


async def test_among_equals_the_urgent_one_of_a_queue_is_served_first(ollama: Client) -> None:
    served: list[str] = []
    async with configured(ollama, ALONE, priority_header="any", max_wait=APART) as proxy:

        async def ask(priority: str) -> None:
            body = {"model": "a", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
            assert (await proxy.post("/api/generate", body, **{"X-Swapper-Priority": priority}))[0] == 200
            served.append(priority)

        async with asyncio.TaskGroup() as group, busy(proxy, "a"):
            for number, priority in enumerate(("low", "medium", "high"), 1):
                group.create_task(ask(priority))
                await waits(proxy, number)
    assert served == ["high", "medium", "low"]


async def test_an_agent_keeps_its_model_between_its_calls(ollama: Client) -> None:
    calls = 12
    async with configured(ollama, TWO_AT_ONCE) as proxy:
        for name in ("beta", "alpha"):
            for _ in range(6):  # they are known to call again at once
                await proxy.generate(name, 2)
        known = await proxy.metric("swapper_load_seconds_count")

        async def agent(model: str) -> None:
            for _ in range(calls):
                assert (await proxy.generate(model, 2))[0] == 200

        await asyncio.gather(agent("alpha"), agent("beta"))
        assert await proxy.metric("swapper_load_seconds_count") - known <= calls  # one for each call without holds: 24
        assert await proxy.metric("swapper_holds_total", outcome="paid") > 0


async def test_a_hold_without_end_ends_at_the_deadline(ollama: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with configured(ollama, TWO_AT_ONCE, max_wait=IMPATIENT) as proxy:
        await acquainted(proxy)
        await proxy.generate("alpha")
        monkeypatch.setattr(policy, "hold_s", lambda *_: 3600.0)
        assert (await proxy.generate("beta"))[0] == 200
        assert await proxy.metric("swapper_swaps_total", to_model="beta", reason="deadline") > 0
        assert await proxy.metric("swapper_holds_total", outcome="lost") > 0


async def test_drain_timeout_turns_away_and_cuts_nothing(ollama: Client) -> None:
    async with configured(ollama, TWO_AT_ONCE, max_wait=IMPATIENT, drain_timeout=0.2) as proxy:
        await acquainted(proxy)
        await proxy.generate("alpha")
        async with proxy.stream("alpha", 20000) as stream:
            await stream.content.readline()
            chat = {"model": "beta", "messages": [{"role": "user", "content": "x"}]}
            status, answer = await proxy.post("/v1/chat/completions", chat)
            assert (status, answer["error"]["code"]) == (504, "drain_timeout")
            assert "drain_timeout" in answer["error"]["message"]
            assert await proxy.state("alpha") == "loaded"
            assert (await proxy.generate("alpha", 2))[0] == 200  # it grants again
            assert json.loads(await stream.content.readline())["done"] is False
            stream.close()
        await at_rest(proxy)
        assert await proxy.metric("swapper_swaps_total", to_model="beta", reason="deadline") == 0
        assert (await proxy.generate("beta"))[0] == 200


async def test_a_stream_outlives_drain_timeout_to_its_end(session) -> None:
    models = [
        SimulatedModel("alpha", size=1, load_s=0.05, tokens_per_second=50),
        SimulatedModel("beta", size=1, load_s=0.05),
    ]
    async with simulated(session, *models, max_wait=IMPATIENT, drain_timeout=0.05, unload_settle=0) as proxy:
        await acquainted(proxy)
        await proxy.generate("alpha")
        async with proxy.stream("alpha", 250) as stream:
            await stream.content.readline()
            assert (await proxy.generate("beta"))[0] == 504
            last = json.loads((await stream.read()).splitlines()[-1])
        assert (last["done"], last["eval_count"]) == (True, 250)


async def test_metrics_after_all_this_are_well_formed(ollama: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hold_s", lambda *_: 0.3)
    async with configured(ollama, TWO_AT_ONCE) as proxy:
        await proxy.generate("alpha")
        await asyncio.gather(proxy.generate("beta"), proxy.generate("alpha"))
        await proxy.post("/models/gamma/load")
        families = list(text_string_to_metric_families((await proxy.get("/metrics"))[1]))
        assert {
            "swapper_swaps",
            "swapper_holds",
            "swapper_held_seconds",
            "swapper_gate_requests",
            "swapper_load_estimate_error_seconds",
            "swapper_drain_seconds",
            "swapper_upstream_reloads",
            "swapper_queue_depth",
            "swapper_queue_wait_seconds",
        } <= {family.name for family in families}
        assert all(family.documentation for family in families)
        reasons = {s.labels["reason"] for f in families for s in f.samples if s.name == "swapper_swaps_total"}
        assert reasons == {"idle", "manual"}
        loads = await proxy.metric("swapper_load_seconds_count")
        assert await proxy.metric("swapper_load_estimate_error_seconds_count") == loads
        assert await proxy.metric("swapper_swaps_total") == loads
