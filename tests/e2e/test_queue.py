"""GET /queue: who waits for what, and why; on the real Ollama."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from swapper_proxy.app import running
from swapper_proxy.cli import main
from swapper_proxy.config import MaxWait, Model, Upstream
from swapper_proxy.core import policy
from tests.e2e.conftest import Client, at_rest, busy, configured, is_in, settings, until, waits
from tests.e2e.test_faults import mortal  # noqa: F401 - a fixture

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
ONE_AT_A_TIME = {name: Model(path=f"ollama:{name}", parallel=1) for name in ("alpha", "beta", "gamma", "slow")}


@asynccontextmanager
async def asking(proxy: Client, *models: str) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """One request for each, which all wait; they leave at the end."""
    before = (await proxy.status())["waiting"]
    tasks = []
    for number, model in enumerate(models, 1):
        tasks.append(asyncio.create_task(proxy.generate(model)))
        await waits(proxy, before + number)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def why(proxy: Client, model: str, expected: str, blocker: str | None) -> None:
    """Until whoever waits for the model waits for this reason, because of that model."""

    async def so() -> bool:
        return (expected, blocker) in [
            (w["why"], w["blocked_by"]) for w in await proxy.waiting() if w["model"] == model
        ]

    await until(so)


async def test_nobody_waits(proxy: Client) -> None:
    empty = {"waiting": 0, "requests": [], "models": [], "warnings": []}
    assert await proxy.get("/queue") == (200, empty)
    await proxy.generate("alpha")
    lane = {"model": "first", "waiting": 0, "in_flight": 0, "parallel": 4, "parallel_source": "assumed"}
    assert (await proxy.get("/queue"))[1] == empty | {"models": [lane]}


async def test_wrong_methods(proxy: Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        async with proxy.session.request(method, f"{proxy.url}/queue") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (405, "method_not_allowed")


async def test_one_who_waits_for_another_model(proxy: Client) -> None:
    async with busy(proxy, "alpha"), asking(proxy, "beta"):
        answer = (await proxy.get("/queue"))[1]
        (waiting,) = answer["requests"]
        assert answer["waiting"] == 1
        assert list(waiting) == [
            "model",
            "priority",
            "since",
            "waited_seconds",
            "deadline",
            "estimated_start",
            "estimated_wait_seconds",
            "may_force_at",
            "why",
            "reason",
            "blocked_by",
        ]
        assert (waiting["model"], waiting["priority"]) == ("team/second:v1", "medium")
        assert all(TIME.fullmatch(waiting[key]) for key in ("since", "deadline", "estimated_start"))
        assert waiting["since"] <= waiting["deadline"]
        assert waiting["since"] <= waiting["estimated_start"]
        assert waiting["waited_seconds"] >= 0
        assert waiting["estimated_wait_seconds"] > 0
        assert (waiting["why"], waiting["blocked_by"]) == ("turn", "first")
        assert waiting["reason"] == "first has work; it may be forced out at the deadline"
        lanes = {lane["model"]: lane for lane in answer["models"]}
        assert (lanes["first"]["in_flight"], lanes["first"]["waiting"]) == (1, 0)
        assert (lanes["team/second:v1"]["in_flight"], lanes["team/second:v1"]["waiting"]) == (0, 1)
        assert answer["warnings"] == []
    await at_rest(proxy)


async def test_the_order_is_that_of_service(ollama: Client) -> None:
    wanted = ("beta", "gamma", "beta")
    async with configured(ollama, ONE_AT_A_TIME) as proxy, busy(proxy, "alpha"), asking(proxy, *wanted):
        requests = await proxy.waiting()
        assert [w["model"] for w in requests] == ["beta", "beta", "gamma"]
        starts = [w["estimated_wait_seconds"] for w in requests]
        assert starts == sorted(starts)


async def test_where_parallel_comes_from(ollama: Client) -> None:
    both = {"a": Model(path="ollama:alpha", parallel=3), "b": Model(path="ollama:beta")}
    configuration = msgspec.structs.replace(settings(ollama.url), models=both, ollama_num_parallel=2)
    async with running(configuration) as up:
        proxy = Client(ollama.session, up.url)
        for name, parallel, source in (("a", 3, "config"), ("b", 2, "OLLAMA_NUM_PARALLEL")):
            await proxy.generate(name)
            (lane,) = (await proxy.get("/queue"))[1]["models"]
            assert (lane["model"], lane["parallel"], lane["parallel_source"]) == (name, parallel, source)


@pytest.mark.parametrize("parallel", [None, 4])
async def test_an_assumed_limit_that_makes_requests_wait_is_doubted(ollama: Client, parallel: int | None) -> None:
    async with configured(ollama, {"a": Model(path="ollama:alpha", parallel=parallel)}) as proxy:
        await proxy.generate("a")
        streams = [asyncio.create_task(_read(proxy)) for _ in range(5)]
        await why(proxy, "a", "busy", "a")
        warnings = (await proxy.get("/queue"))[1]["warnings"]
        if parallel is None:
            assert warnings == [
                "a: 1 requests wait because 4 at once are assumed to be Ollama's limit; "
                "set `parallel`, or OLLAMA_NUM_PARALLEL as Ollama has it"
            ]
        else:
            assert warnings == []
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await at_rest(proxy)


async def _read(proxy: Client) -> None:
    async with proxy.stream("a", 20000) as stream:
        await stream.read()


async def test_why_busy_leaving_turn_and_draining(ollama: Client) -> None:
    async with configured(ollama, ONE_AT_A_TIME, max_wait=MaxWait(high=0.1, medium=0.1)) as proxy:
        for name in ("alpha", "beta") * 2:
            await proxy.generate(name)  # so that it is known that loads are short
        await proxy.generate("alpha")
        async with busy(proxy, "alpha"):
            async with asking(proxy, "alpha"):
                await why(proxy, "alpha", "busy", "alpha")
                async with asking(proxy, "beta"):
                    await why(proxy, "beta", "draining", "alpha")
                    await why(proxy, "alpha", "leaving", "alpha")
                await why(proxy, "alpha", "busy", "alpha")
            assert await proxy.state("alpha") == "loaded"
        await at_rest(proxy)


async def test_why_loading_and_swapping(ollama: Client) -> None:
    async with configured(ollama, ONE_AT_A_TIME) as proxy, asking(proxy, "slow"):
        await is_in(proxy, "slow", "loading")
        other = asyncio.create_task(proxy.generate("beta"))
        await why(proxy, "beta", "swapping", "slow")
        assert [(w["why"], w["blocked_by"]) for w in await proxy.waiting() if w["model"] == "slow"] == [
            ("loading", "slow")
        ]
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


async def test_why_gate(ollama: Client) -> None:
    async with configured(ollama, ONE_AT_A_TIME) as proxy:
        await proxy.generate("beta")
        async with busy(proxy, "beta"):
            both = [asyncio.create_task(proxy.generate("alpha", 20000)) for _ in range(2)]
            await waits(proxy, 2)
        await why(proxy, "alpha", "busy", "alpha")  # both were there when it was loaded, one is being answered
        async with asking(proxy, "beta"):
            await why(proxy, "beta", "gate", "alpha")
            assert await proxy.metric("swapper_gate_requests", model="alpha") == 1
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        await at_rest(proxy)


async def test_why_hold(ollama: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hold_s", lambda *_: 3600.0)
    async with configured(ollama, ONE_AT_A_TIME) as proxy:
        await proxy.generate("alpha")
        async with asking(proxy, "beta"):
            await why(proxy, "beta", "hold", "alpha")


async def test_why_down(session, mortal) -> None:  # noqa: F811 - the fixture
    patient = msgspec.structs.replace(settings(mortal.url), upstream=Upstream(url=mortal.url, grace=3600))
    async with running(patient) as up:
        proxy = Client(session, up.url)
        for name in ("beta", "alpha"):
            await proxy.generate(name)
        mortal.kill()
        async with asking(proxy, "beta") as (waiting,):
            await why(proxy, "team/second:v1", "down", None)
            mortal.start()
            assert (await waiting)[0] == 200


async def test_the_command(proxy: Client) -> None:
    async def run(*arguments: str) -> str:
        command = [*arguments, "--url", proxy.url]
        result = await asyncio.to_thread(CliRunner().invoke, main, ["queue", *command])
        assert result.exit_code == 0
        return result.output

    assert await run() == "nobody waits\n"
    async with busy(proxy, "alpha"), asking(proxy, "beta"):
        head, line = (await run()).splitlines()
        assert head.split("  ")[0] == "MODEL"
        assert re.fullmatch(r"team/second:v1 +medium +\d+\.\d +\d+\.\d +first has work; .*deadline", line)
        answer = json.loads(await run("--json"))
        assert answer.keys() == {"waiting", "requests", "models", "warnings"}
        assert answer["waiting"] == 1
