"""What is loaded without a request: at start, after a while, by hand, and by Ollama itself; on the real one."""

import asyncio
import logging
from contextlib import AsyncExitStack

import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Model, Upstream
from swapper_proxy.core import estimates
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime import watcher
from tests.e2e.conftest import Client, at_rest, busy, configured, is_in, settings, until, waits
from tests.e2e.test_faults import mortal  # noqa: F401 - a fixture
from tests.real.server import OllamaServer, free_port

BOTH = {name: Model(path=f"ollama:{name}") for name in ("alpha", "beta")}


async def test_preload(ollama: Client) -> None:
    models = BOTH | {"beta": Model(path="ollama:beta", preload=True)}
    async with configured(ollama, models) as proxy:
        await is_in(proxy, "beta", "loaded")
        assert await ollama.resident() == ["beta:latest"]
        assert await proxy.metric("swapper_swaps_total", to_model="beta", reason="preload") == 1
        assert (await proxy.generate("alpha"))[0] == 200  # it goes like any other


async def test_a_preload_that_ollama_does_not_have(ollama: Client, caplog: pytest.LogCaptureFixture) -> None:
    models = {"gone": Model(path="ollama:never-pulled", preload=True), "beta": Model(path="ollama:beta", preload=True)}
    async with configured(ollama, models) as proxy:
        await is_in(proxy, "beta", "loaded")
    (warning,) = [r for r in caplog.records if r.name == "swapper_proxy.runtime.standby"]
    assert (warning.getMessage(), warning.model) == ("cannot be loaded: Ollama does not have it", "gone")


async def test_a_preload_waits_for_an_ollama_that_starts_later(session, mortal: OllamaServer) -> None:  # noqa: F811
    mortal.stop()
    models = {"beta": Model(path="ollama:beta", preload=True)}
    async with configured(Client(session, mortal.url), models) as proxy:
        assert (await proxy.get("/ready"))[0] == 503
        mortal.start()
        await is_in(proxy, "beta", "loaded")


async def test_the_default_model_comes_back(ollama: Client) -> None:
    async with configured(ollama, BOTH, default_model="alpha", default_after=0.3) as proxy:
        await is_in(proxy, "alpha", "loaded")
        assert await proxy.metric("swapper_swaps_total", to_model="alpha", reason="preload") == 1
        assert (await proxy.generate("beta"))[0] == 200

        async def back() -> bool:
            return await ollama.resident() == ["alpha:latest"]

        await until(back)
        await is_in(proxy, "alpha", "loaded")
        assert await proxy.metric("swapper_swaps_total", from_model="beta", to_model="alpha", reason="default") == 1


async def test_the_default_model_waits_for_whoever_is_served(ollama: Client) -> None:
    async with configured(ollama, BOTH, default_model="alpha", default_after=0.05) as proxy:
        await is_in(proxy, "alpha", "loaded")
        async with busy(proxy, "beta") as stream:
            for _ in range(50):  # much longer than default_after
                await stream.content.readline()
            assert (await proxy.status())["waiting"] == 0
            assert await proxy.state("beta") == "loaded"
        await is_in(proxy, "alpha", "loaded")


async def test_a_load_by_hand_waits_its_turn(ollama: Client) -> None:
    async with configured(ollama, BOTH) as proxy:
        async with asyncio.TaskGroup() as group, busy(proxy, "alpha"):
            loading = group.create_task(proxy.post("/models/beta/load"))
            await waits(proxy, 1)
            (waiting,) = await proxy.waiting()
            assert (waiting["model"], waiting["priority"]) == ("beta", "high")
        assert await loading == (200, {"status": "success", "model": "beta", "message": "Model beta loaded"})
        assert await ollama.resident() == ["beta:latest"]
        assert await proxy.metric("swapper_swaps_total", to_model="beta", reason="manual") == 1
        assert await proxy.metric("swapper_model_requests_total", model="beta") == 0


async def test_what_was_unloaded_by_hand_is_not_replaced(ollama: Client) -> None:
    async with configured(ollama, BOTH) as proxy:
        await proxy.generate("alpha")
        await proxy.post("/models/alpha/unload")
        await proxy.generate("beta")
        assert await proxy.metric("swapper_swaps_total", from_model="", to_model="beta") == 1
        await proxy.generate("alpha")
        assert await proxy.metric("swapper_swaps_total", from_model="beta", to_model="alpha") == 1


async def test_an_unload_by_hand_waits_for_the_answers(ollama: Client) -> None:
    async with configured(ollama, BOTH) as proxy:
        async with asyncio.TaskGroup() as group, busy(proxy, "alpha"):
            unloading = group.create_task(proxy.post("/models/alpha/unload"))
            await is_in(proxy, "alpha", "draining")
        assert (await unloading)[0] == 200
        assert await ollama.resident() == []


async def test_a_load_by_hand_wins_over_an_unload(ollama: Client) -> None:
    async with configured(ollama, BOTH) as proxy:
        async with asyncio.TaskGroup() as group, busy(proxy, "alpha"):
            unloading = group.create_task(proxy.post("/models/alpha/unload"))
            await is_in(proxy, "alpha", "draining")
            assert (await proxy.post("/models/alpha/load"))[0] == 200
            status, answer = await unloading
            assert (status, answer["error"]["code"]) == (409, "superseded")
        assert await proxy.state("alpha") == "loaded"
        assert await ollama.resident() == ["alpha:latest"]


async def test_whoever_waits_for_what_is_unloaded_gets_it_again(ollama: Client) -> None:
    async with configured(ollama, BOTH) as proxy:
        async with asyncio.TaskGroup() as group, busy(proxy, "alpha"):
            unloading = group.create_task(proxy.post("/models/alpha/unload"))
            await is_in(proxy, "alpha", "draining")
            asking = group.create_task(proxy.generate("alpha"))
            await waits(proxy, 1)
        assert (await unloading)[0] == 200
        assert (await asking)[0] == 200
        assert await proxy.metric("swapper_load_seconds_count") == 2


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy looks at Ollama once, at start.  Any load is long enough to be told: here they are so
    short that half of an average would not do."""
    for pause in ("BUSY_S", "QUIET_S"):
        monkeypatch.setattr(watcher, pause, 3600.0)
    monkeypatch.setattr(estimates, "RELOAD_PART", 0.0)


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_reload_behind_the_back_is_told(ollama: Client, caplog, stream: bool) -> None:
    caplog.set_level(logging.WARNING)
    async with configured(ollama, BOTH) as proxy:
        for _ in range(2):
            await proxy.generate("alpha", 1)
        assert await proxy.metric("swapper_upstream_reloads_total") == 0
        await ollama.post("/api/generate", {"model": "alpha", "keep_alive": 0})

        async def gone() -> bool:
            return not await ollama.resident()

        await until(gone)
        assert [r["model"] for r in (await proxy.status())["memory"]] == ["alpha"]
        assert (await proxy.generate("alpha", 1, stream=stream))[0] == 200
        await at_rest(proxy)
        assert await proxy.metric("swapper_upstream_reloads_total", model="alpha", cause="gone") == 1
        assert await proxy.metric("swapper_upstream_reloads_total") == 1
        assert await proxy.metric("swapper_load_seconds_count") == 1
    (line,) = [r for r in caplog.records if r.name == "swapper_proxy.swaps"]
    assert (line.getMessage(), line.model) == ("Ollama loaded it behind the proxy's back", "alpha")


@pytest.mark.usefixtures("blind")
async def test_other_options_than_thought_are_told_as_such(ollama: Client) -> None:
    await ollama.generate("alpha", options={"num_ctx": 256, "num_predict": 1})
    async with configured(ollama, BOTH) as proxy:
        assert [r["model"] for r in (await proxy.status())["memory"]] == ["alpha"]  # with which options nobody can see
        assert (await proxy.generate("alpha", 1))[0] == 200
        await at_rest(proxy)
        assert await proxy.metric("swapper_upstream_reloads_total", model="alpha", cause="options") == 1


async def test_a_preload_that_ollama_lost_while_it_loaded_the_next_is_loaded_again(session) -> None:
    """It was away for so short a time that who loaded the next one only waited."""
    simulated = [SimulatedModel("alpha", size=1, load_s=0.01), SimulatedModel("beta", size=1, load_s=3600)]
    models = {name: Model(path=f"ollama:{name}", preload=True) for name in ("alpha", "beta")}
    port = free_port()
    limits = Upstream(url=f"http://127.0.0.1:{port}", grace=3600)
    chosen = settings(limits.url, mode="multi-active", max_concurrent_models=2)
    chosen = msgspec.structs.replace(chosen, models=models, upstream=limits)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        await first.enter_async_context(serving(Simulator(simulated, max_loaded=2), port=port))
        proxy = Client(session, (await stack.enter_async_context(running(chosen))).url)
        await is_in(proxy, "beta", "loading")
        assert await proxy.state("alpha") == "loaded"
        await first.aclose()

        async def away() -> bool:
            return (await proxy.get("/health"))[1]["status"] == "degraded"

        await until(away)
        simulated[1] = SimulatedModel("beta", size=1, load_s=0.01)
        await stack.enter_async_context(serving(Simulator(simulated, max_loaded=2), port=port))
        for name in models:
            await is_in(proxy, name, "loaded")
