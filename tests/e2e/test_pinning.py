"""Pins set and lifted by hand, on the real Ollama."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import MaxWait, Model, Server
from swapper_proxy.config.keep_alive import STAY_S
from swapper_proxy.ollama.client import OllamaClient
from swapper_proxy.runtime import standby
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.loader import Loader
from swapper_proxy.runtime.ports import LoadSpec
from tests.e2e.conftest import LIMIT_S, Client, at_rest, busy, configured, is_in, settings, waits
from tests.e2e.process import served
from tests.e2e.test_keep_alive import is_about, is_kept

MODELS = {name: Model(path=f"ollama:{name}", size_gb=1) for name in ("alpha", "beta")}
PINNED_OUT = (
    "there is no room for beta: alpha is pinned, and at most 1 model (mode, max_concurrent_models) may be in memory at "
    "a time; lift a pin or allow more"
)


async def pinned(proxy: Client, model: str) -> bool:
    return (await proxy.get(f"/models/{model}"))[1]["pinned"]


async def test_a_model_is_loaded_and_stays(ollama: Client) -> None:
    async with configured(ollama, MODELS) as proxy:
        done = {"status": "success", "model": "alpha", "message": "Model alpha pinned"}
        assert await proxy.post("/models/alpha/pin") == (200, done)
        assert (await proxy.state("alpha"), await pinned(proxy, "alpha")) == ("loaded", True)
        await is_kept(ollama)
        assert await proxy.generate("beta") == (507, {"error": PINNED_OUT})
        assert (await proxy.post("/models/alpha/unload"))[0] == 409


async def test_one_that_is_there_stays_from_then_on(ollama: Client) -> None:
    async with configured(ollama, MODELS) as proxy:
        await proxy.generate("alpha", keep_alive="2m")
        await is_about(ollama, 2)
        assert (await proxy.post("/models/alpha/pin"))[0] == 200
        await is_kept(ollama)
        assert await proxy.metric("swapper_load_seconds_count") == 1
        assert await proxy.post("/models/alpha/unpin") == (
            200,
            {"status": "success", "model": "alpha", "message": "Model alpha unpinned"},
        )
        await is_about(ollama, 5)
        assert (await proxy.generate("beta"))[0] == 200
        assert (await proxy.state("alpha"), await pinned(proxy, "alpha")) == ("unloaded", False)


async def test_one_that_is_on_its_way_in_stays(ollama: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the watch over the pinned models looks before it is there."""
    looked, go_on, load, keep = asyncio.Event(), asyncio.Event(), Loader.load, Engine.keep

    async def held(*arguments: Any) -> None:
        await go_on.wait()
        await load(*arguments)

    async def noticed(*arguments: Any) -> bool:
        done = await keep(*arguments)
        if not done:
            looked.set()
        return done

    monkeypatch.setattr(standby, "KEEP_FIRST_S", 0.05)
    monkeypatch.setattr(Loader, "load", held)
    monkeypatch.setattr(Engine, "keep", noticed)
    async with configured(ollama, MODELS) as proxy:
        asking = [asyncio.create_task(proxy.post("/models/alpha/load"))]
        await is_in(proxy, "alpha", "loading")
        asking.append(asyncio.create_task(proxy.post("/models/alpha/pin")))
        await looked.wait()
        go_on.set()
        assert [status for status, _ in await asyncio.gather(*asking)] == [200, 200]
        await is_kept(ollama)


async def test_one_that_drains_need_not_go(ollama: Client) -> None:
    async with configured(ollama, MODELS, max_wait=MaxWait(0.01, 0.01, 0.01)) as proxy:
        async with busy(proxy, "alpha"):
            asking = asyncio.create_task(proxy.generate("beta"))
            await is_in(proxy, "alpha", "draining")
            assert (await proxy.post("/models/alpha/pin"))[0] == 200
            assert await proxy.state("alpha") == "loaded"
            assert await asking == (507, {"error": PINNED_OUT})
        await at_rest(proxy)
        assert await proxy.state("alpha") == "loaded"


async def test_those_who_wait_hear_that_they_wait_in_vain(ollama: Client) -> None:
    async with configured(ollama, MODELS) as proxy, busy(proxy, "alpha"):
        asking = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)
        assert (await proxy.post("/models/alpha/pin"))[0] == 200
        assert await asking == (507, {"error": PINNED_OUT})


async def test_what_cannot_be_loaded_is_not_pinned(ollama: Client) -> None:
    async with configured(ollama, MODELS) as proxy:
        await proxy.post("/models/alpha/pin")
        status, answer = await proxy.post("/models/beta/pin")
        assert (status, answer["error"]["code"]) == (507, "pinned_out")
        assert (await pinned(proxy, "alpha"), await pinned(proxy, "beta")) == (True, False)
        assert (await proxy.generate("alpha"))[0] == 200


@pytest.mark.parametrize("action", ["pin", "unpin"])
async def test_what_is_not_there(ollama: Client, action: str) -> None:
    async with configured(ollama, MODELS) as proxy:
        status, answer = await proxy.post(f"/models/never-heard-of/{action}")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_whoever_stops_the_proxy_gets_the_memory_back_in_time(ollama: Client) -> None:
    always = {"alpha": Model(path="ollama:alpha", size_gb=1, pinned=True)}
    async with configured(ollama, always) as proxy:
        await is_in(proxy, "alpha", "loaded")
        await is_kept(ollama)
    await is_about(ollama, 5)
    async with configured(ollama, always) as proxy:  # the next one finds it there, and has it stay
        await is_kept(ollama)
        assert await proxy.metric("swapper_load_seconds_count") == 0


async def test_one_pinned_by_hand_is_handed_back_with_its_own_time(ollama: Client) -> None:
    async with configured(ollama, {"alpha": Model(path="ollama:alpha", size_gb=1, keep_alive="2m")}) as proxy:
        assert (await proxy.post("/models/alpha/pin"))[0] == 200
        await is_kept(ollama)
    await is_about(ollama, 2)


async def test_one_that_is_being_loaded_is_handed_back_too(ollama: Client) -> None:
    models = {"slow": Model(path="ollama:slow", size_gb=1, pinned=True)}
    chosen = msgspec.structs.replace(settings(ollama.url), models=models, server=Server(port=0, shutdown_grace=LIMIT_S))
    async with running(chosen) as proxy:
        await is_in(Client(ollama.session, proxy.url), "slow", "loading")
    await is_about(ollama, 5)


async def test_all_are_handed_back_at_once(roomy: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an Ollama that is frozen holds the end up only once."""
    both, handed = asyncio.Barrier(2), []

    async def keep(_: Engine, model: object, keep_alive: object) -> None:
        if keep_alive != STAY_S:
            await both.wait()
            handed.append(keep_alive)

    monkeypatch.setattr(Engine, "keep", keep)
    models = {name: Model(path=f"ollama:{name}", size_gb=1, pinned=True) for name in ("alpha", "beta")}
    async with configured(roomy, models, mode="multi-active", max_concurrent_models=2) as proxy:
        await is_in(proxy, "alpha", "loaded")
        await is_in(proxy, "beta", "loaded")
    assert handed == ["5m", "5m"]


async def test_at_once(ollama: Client) -> None:
    async with configured(ollama, MODELS) as proxy:
        assert (await proxy.post("/models/alpha/pin?wait=false"))[0] == 202
        await is_in(proxy, "alpha", "loaded")
        assert await pinned(proxy, "alpha")


async def test_ollama_is_told_again_and_again_to_keep_it(ollama: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "RENEW_S", 0.05)
    async with configured(ollama, MODELS) as proxy:
        assert (await proxy.post("/models/alpha/pin"))[0] == 200
        await ollama.generate("alpha", keep_alive="1m")  # somebody who knows nothing of the proxy
        await is_kept(ollama)


@pytest.mark.parametrize("by_hand", [True, False])
async def test_ollama_lets_go_of_it_when_the_proxy_was_killed(ollama: Client, tmp_path: Path, *, by_hand: bool) -> None:
    """Also if no proxy is ever started again, or its configuration does not name the model any more."""
    config = tmp_path / "c.yaml"
    pinned = "" if by_hand else ", pinned: true"
    config.write_text(f"history: off\nmodels: {{alpha: {{path: 'ollama:alpha', size_gb: 1{pinned}}}}}")
    async with served(ollama.session, ollama.url, tmp_path, "--config", str(config)) as (proxy, process):
        if by_hand:
            assert (await proxy.post("/models/alpha/pin"))[0] == 200
        await is_in(proxy, "alpha", "loaded")
        assert (await proxy.generate("alpha", keep_alive=-1))[0] == 200
        os.kill(process, signal.SIGKILL)
    await is_kept(ollama)


async def test_one_that_is_there_with_another_num_gpu_stays_too(ollama: Client) -> None:
    """It serves the pinned model as it is, so it is not loaded again for the pin."""
    async with configured(ollama, MODELS) as proxy:
        assert (await proxy.generate("alpha", options={"num_gpu": 0, "num_predict": 1}))[0] == 200
        assert (await proxy.post("/models/alpha/pin"))[0] == 200
        assert await proxy.generate("beta") == (507, {"error": PINNED_OUT})
        assert await proxy.metric("swapper_load_seconds_count") == 1


async def test_an_unload_waits_until_ollama_was_told_to_keep_the_model(
    ollama: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the unload it would be a load."""
    told, go_on, order = asyncio.Event(), asyncio.Event(), []
    load, unload = OllamaClient.load, OllamaClient.unload

    async def held(client: OllamaClient, spec: LoadSpec) -> None:
        if renewing:
            told.set()
            await go_on.wait()
        await load(client, spec)
        order.append(f"kept {spec.name}")

    async def noted(client: OllamaClient, name: str) -> None:
        order.append(f"unload {name}")
        await unload(client, name)

    renewing: list[bool] = []
    monkeypatch.setattr(standby, "RENEW_S", 0.05)
    monkeypatch.setattr(standby, "KEEP_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(OllamaClient, "load", held)
    monkeypatch.setattr(OllamaClient, "unload", noted)
    async with configured(ollama, MODELS, default_model="alpha", default_after=3600) as proxy:
        await is_in(proxy, "alpha", "loaded")
        renewing.append(True)
        order.clear()
        await told.wait()
        asking = asyncio.create_task(proxy.generate("beta"))
        await is_in(proxy, "alpha", "unloading", "unloaded")
        renewing.clear()
        go_on.set()
        assert (await asking)[0] == 200
        unloads = [place for place, done in enumerate(order) if done.startswith("unload ")]  # by any of its names
        assert unloads
        assert unloads[0] > order.index("kept alpha")
        assert await ollama.resident() == ["beta:latest"]
