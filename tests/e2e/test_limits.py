"""max_queue, memory_budget_gb, slots and pins: who is turned away, and how; on the real Ollama."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from swapper_proxy.config import Model, RunnerOptions
from swapper_proxy.core import policy
from swapper_proxy.runtime import standby
from tests.e2e.conftest import Client, at_rest, busy, configured, is_in, until, waits
from tests.e2e.test_keep_alive import is_kept

EMBED = {"model": "embedder", "input": "x"}
MESSAGES = [{"role": "user", "content": "x"}]


def models(**more: Any) -> dict[str, Model]:
    """alpha, beta and gamma of one GB each, unless it is said otherwise."""
    return {name: Model(path=f"ollama:{name}", **{"size_gb": 1, **more}) for name in ("alpha", "beta", "gamma")}


async def refusals(proxy: Client, model: str, status: int, code: str, kind: str) -> list[str]:
    """How one refusal looks in every dialect; the Retry-After headers."""
    texts, retries = set(), []
    for path in ("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/messages"):
        body = {"model": model, "prompt": "x", "messages": MESSAGES, "max_tokens": 2, "stream": False}
        async with proxy.session.post(proxy.url + path, json=body) as answer:
            content = await answer.json()
            assert answer.status == status
            retries.append(answer.headers.get("Retry-After"))
        if path == "/v1/messages":
            assert (content["type"], content["error"]["type"]) == ("error", kind)
        elif path.startswith("/v1"):
            assert (content["error"]["type"], content["error"]["code"]) == ("api_error", code)
        error = content["error"]
        texts.add(error if path.startswith("/api") else error["message"])
    assert len(texts) == 1
    return retries


async def resident(ollama: Client) -> set[str]:
    return {name.removesuffix(":latest") for name in await ollama.resident()}


# The queue


@pytest.mark.parametrize(
    ("limits", "refused", "taken"),
    [({"max_queue": 1}, "gamma", None), ({}, "beta", "gamma")],
)
async def test_a_queue_that_is_full(ollama: Client, limits: Any, refused: str, taken: str | None) -> None:
    chosen = models() | {"beta": Model(path="ollama:beta", max_queue=1)}
    async with configured(ollama, chosen, **limits) as proxy:
        async with asyncio.TaskGroup() as group, busy(proxy, "alpha"):
            first = group.create_task(proxy.generate("beta"))
            await waits(proxy, 1)
            for retry in await refusals(proxy, refused, 503, "queue_full", "overloaded_error"):
                assert int(retry) >= 1
            other = group.create_task(proxy.generate(taken)) if taken else None
            await waits(proxy, 2 if taken else 1)
        assert (await first)[0] == 200
        assert other is None or (await other)[0] == 200
        assert await proxy.metric("swapper_rejected_requests_total", reason="queue_full") == 4


# Memory


async def test_the_least_recently_used_goes(roomy: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hold_s", lambda *_: 0.0)  # none is kept for a client that may call again at once
    async with configured(roomy, models(), mode="multi-active", memory_budget_gb=2) as proxy:
        for name, there in (("alpha", {"alpha"}), ("beta", {"alpha", "beta"}), ("alpha", {"alpha", "beta"})):
            assert (await proxy.generate(name))[0] == 200
            assert await resident(roomy) == there
        assert (await proxy.generate("gamma"))[0] == 200
        assert await resident(roomy) == {"alpha", "gamma"}
        assert await proxy.metric("swapper_swaps_total", from_model="beta", to_model="gamma") == 1


async def test_the_fewest_go_not_the_oldest(roomy: Client) -> None:
    sizes = models() | {"beta": Model(path="ollama:beta", size_gb=3)}
    async with configured(roomy, sizes, mode="multi-active", memory_budget_gb=4) as proxy:
        for name in ("alpha", "gamma"):
            await proxy.generate(name)
        await proxy.generate("beta")
        assert await resident(roomy) == {"gamma", "beta"}
        await proxy.generate("alpha")  # in gamma's place, or in beta's: one has to go, gamma was used longer ago
        assert await resident(roomy) == {"alpha", "beta"}


async def test_sizes_as_measured(roomy: Client) -> None:
    """On disk three fit easily; in memory one takes a hundred times as much."""
    await roomy.generate("alpha")
    size = (await roomy.get("/api/ps"))[1]["models"][0]["size"]
    await roomy.post("/api/generate", {"model": "alpha", "keep_alive": 0})

    async def gone() -> bool:
        return not await roomy.resident()

    await until(gone)  # the size of what others loaded says nothing of the model's own options
    chosen = {name: Model(path=f"ollama:{name}") for name in ("alpha", "beta", "gamma")}
    async with configured(roomy, chosen, mode="multi-active", memory_budget_gb=2.5 * size / 1e9) as proxy:
        for name in ("alpha", "beta", "gamma"):
            assert (await proxy.generate(name))[0] == 200

        async def two_stay() -> bool:
            return (await resident(roomy)) == {"beta", "gamma"}

        await until(two_stay)  # once it is seen how much the third takes
        for name, there in (("alpha", {"gamma", "alpha"}), ("beta", {"alpha", "beta"})):
            assert (await proxy.generate(name))[0] == 200
            assert await resident(roomy) == there  # known by now


async def test_a_model_larger_than_the_budget(roomy: Client) -> None:
    sizes = models() | {"beta": Model(path="ollama:beta", size_gb=3)}
    async with configured(roomy, sizes, mode="multi-active", memory_budget_gb=2) as proxy:
        async with busy(proxy, "alpha"):
            retries = await refusals(proxy, "beta", 507, "model_too_large", "api_error")
            assert retries == [None] * 4
            status, answer = await proxy.post("/models/beta/load")
            assert (status, answer["error"]["code"]) == (507, "model_too_large")
            assert "memory_budget_gb" in answer["error"]["message"]
            assert (await proxy.generate("gamma"))[0] == 200
            assert (await proxy.generate("alpha", 2))[0] == 200
        assert await resident(roomy) == {"alpha", "gamma"}


# Slots


@pytest.mark.parametrize("mode", ["single-active", "multi-active"])
async def test_an_embedder_has_its_own_room(roomy: Client, mode: str) -> None:
    async with configured(roomy, models(), mode=mode, slots={"embedding": 1}) as proxy:
        for _ in range(2):
            assert (await proxy.generate("alpha"))[0] == 200
            assert (await proxy.post("/api/embed", EMBED))[0] == 200
        assert await resident(roomy) == {"alpha", "embedder"}
        assert (await proxy.generate("beta"))[0] == 200
        assert await resident(roomy) == {"beta", "embedder"}
        assert await proxy.metric("swapper_load_seconds_count") == 3


async def test_an_embedder_waits_for_nobody(roomy: Client) -> None:
    async with configured(roomy, models(), slots={"embedding": 1}) as proxy, busy(proxy, "alpha") as stream:
        assert (await proxy.post("/api/embed", EMBED))[0] == 200
        assert json.loads(await stream.content.readline())["done"] is False


# Pins


def pinned() -> dict[str, Model]:
    return models() | {"alpha": Model(path="ollama:alpha", size_gb=1, pinned=True)}


async def test_a_pinned_model_is_loaded_at_start_and_stays(ollama: Client) -> None:
    async with configured(ollama, pinned()) as proxy:
        await is_in(proxy, "alpha", "loaded")
        assert await ollama.resident() == ["alpha:latest"]
        await is_kept(ollama)
        assert await refusals(proxy, "beta", 507, "pinned_out", "api_error") == [None] * 4
        status, answer = await proxy.post("/models/beta/load")
        assert (status, answer["error"]["code"]) == (507, "pinned_out")
        status, answer = await proxy.post("/models/alpha/unload")
        assert (status, answer["error"]["code"]) == (409, "pinned")
        for path, empty in (("/api/generate", {}), ("/api/chat", {"messages": []})):
            status, answer = await proxy.post(path, {"model": "alpha", "keep_alive": 0, **empty})
            assert (status, answer) == (409, {"error": "the model is pinned, it stays in memory"})
        assert (await proxy.generate("alpha", keep_alive=0))[0] == 200
        await at_rest(proxy)
        assert await ollama.resident() == ["alpha:latest"]
        assert await proxy.metric("swapper_swaps_total", to_model="alpha", reason="preload") == 1
        assert await proxy.metric("swapper_load_seconds_count") == 1


async def test_the_others_share_what_a_pin_leaves(roomy: Client) -> None:
    async with configured(roomy, pinned(), mode="multi-active", max_concurrent_models=2) as proxy:
        await is_in(proxy, "alpha", "loaded")
        for name in ("beta", "gamma", "beta"):
            assert (await proxy.generate(name))[0] == 200
            assert await resident(roomy) == {"alpha", name}


async def test_what_waits_when_a_pinned_model_comes_is_told(session: aiohttp.ClientSession, ollama: Client) -> None:
    await ollama.generate("beta")
    async with ollama.stream("beta", 40_000) as direct:
        await direct.content.readline()
        async with configured(ollama, pinned()) as proxy:
            await waits(proxy, 1)  # alpha, at start: beta is in memory and used directly
            body = {"model": "gamma", "prompt": "x", "stream": False}
            asking = asyncio.create_task(proxy.post("/api/generate", body, **{"X-Swapper-Priority": "low"}))
            await waits(proxy, 2)
            direct.close()
            assert await asking == (
                507,
                {
                    "error": "there is no room for gamma: alpha is pinned, and at most 1 model (mode, "
                    "max_concurrent_models) may be in memory at a time; lift a pin or allow more"
                },
            )
            await is_in(proxy, "alpha", "loaded")


async def test_a_pinned_model_with_options_of_its_own_outlives_the_proxy(ollama: Client) -> None:
    """The next proxy cannot see with which options it runs, and takes those of its config for granted."""
    chosen = {"a": Model(path="ollama:alpha", pinned=True, runner_options=RunnerOptions(policy="pin", num_ctx=512))}
    for _ in range(2):
        async with configured(ollama, chosen) as proxy:
            await is_in(proxy, "a", "loaded")
            assert (await proxy.generate("a"))[0] == 200
            await at_rest(proxy)
            assert await proxy.metric("swapper_upstream_reloads_total") == 0
    assert await ollama.resident() == ["alpha:latest"]


async def test_a_pinned_model_that_is_unloaded_at_ollama_comes_back(ollama: Client, monkeypatch) -> None:
    monkeypatch.setattr(standby, "KEEP_FIRST_S", 0.05)
    async with configured(ollama, pinned()) as proxy:
        await is_in(proxy, "alpha", "loaded")
        await ollama.post("/api/generate", {"model": "alpha", "keep_alive": 0})

        async def again() -> bool:
            return await proxy.metric("swapper_load_seconds_count") == 2

        await until(again)
        assert await ollama.resident() == ["alpha:latest"]
