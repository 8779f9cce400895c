"""Swaps on the real Ollama: what is resident, how often it changes, and what happens when clients leave."""

import asyncio
import json

import aiohttp
import pytest

from swapper_proxy.ollama.simulator import SimulatedModel
from tests.e2e.conftest import Client, simulated, until, waits
from tests.real.server import OllamaServer


def histogram_count(text: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name}_count"))


async def loads(proxy: Client) -> float:
    return histogram_count((await proxy.get("/metrics"))[1], "swapper_load_seconds")


@pytest.mark.parametrize("names", [("alpha", "beta", "gamma", "alpha")])
async def test_exactly_the_wanted_model_is_resident_after_every_swap(proxy: Client, ollama: Client, names) -> None:
    for name in names:
        assert (await proxy.generate(name))[0] == 200
        assert await ollama.resident() == [f"{name}:latest"]


async def test_a_burst_over_three_models_is_collated(proxy: Client, ollama: Client) -> None:
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(len(await ollama.resident()))
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(proxy.generate(("alpha", "beta", "gamma")[i % 3]) for i in range(24)))
    watching.cancel()
    assert [status for status, _ in answers] == [200] * 24
    assert max(seen) == 1
    assert await loads(proxy) <= 4


async def test_an_alias_is_sent_under_the_name_that_ollama_knows(proxy: Client, ollama: Client) -> None:
    status, answer = await proxy.generate("FIRST")
    assert (status, answer["model"]) == (200, "alpha")
    assert (await proxy.generate("team/second:v1"))[1]["model"] == "beta"
    assert await ollama.resident() == ["beta:latest"]


async def test_two_names_of_one_runner_need_no_swap(proxy: Client, ollama: Client) -> None:
    assert (await proxy.generate("alpha"))[0] == 200
    assert (await proxy.generate("alpha-kind"))[0] == 200
    assert await loads(proxy) == 1
    assert (await proxy.post("/models/alpha-kind/unload"))[0] == 200
    assert await ollama.resident() == []


async def test_an_embedder_is_swapped_in(proxy: Client, ollama: Client) -> None:
    await proxy.generate("alpha")
    status, answer = await proxy.post("/api/embed", {"model": "embedder", "input": "x"})
    assert (status, len(answer["embeddings"])) == (200, 1)
    assert await ollama.resident() == ["embedder:latest"]


async def test_other_runner_options_are_another_key(proxy: Client) -> None:
    for context in (512, 1024, 1024):
        status, _ = await proxy.generate("alpha", options={"num_ctx": context, "num_predict": 2})
        assert status == 200
    assert await loads(proxy) == 2


async def test_a_stream_is_never_cut_by_a_swap(proxy: Client, ollama: Client, ollama_server: OllamaServer) -> None:
    async with proxy.stream("alpha", 2000) as stream:
        await stream.content.readline()
        with ollama_server.held():
            other = asyncio.create_task(proxy.generate("beta"))
            await waits(proxy, 1)
        last = json.loads((await stream.read()).splitlines()[-1])
    assert (last["done"], last["eval_count"]) == (True, 2000)
    assert (await other)[0] == 200
    assert await ollama.resident() == ["beta:latest"]


async def test_a_request_that_must_fail_swaps_nothing(proxy: Client, ollama: Client) -> None:
    await proxy.generate("alpha")
    status, answer = await proxy.post(
        "/api/chat", {"model": "embedder", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (status, answer) == (400, {"error": '"embedder" does not support chat'})
    assert (await proxy.generate("beta", keep_alive="300"))[0] == 400
    assert (await proxy.generate("beta", options={"num_ctx": "512"}))[0] == 500
    assert await ollama.resident() == ["alpha:latest"]


async def test_ollama_stop_is_an_unload(proxy: Client, ollama: Client) -> None:
    await proxy.generate("alpha")
    status, answer = await proxy.post("/api/generate", {"model": "alpha", "keep_alive": "0s"})
    assert (status, answer["done_reason"]) == (200, "unload")
    assert await ollama.resident() == []
    assert (await proxy.post("/api/generate", {"model": "beta", "keep_alive": 0}))[1]["done_reason"] == "unload"
    assert await loads(proxy) == 1


async def test_a_short_keep_alive_is_kept_by_the_scheduler(proxy: Client, ollama: Client) -> None:
    assert (await proxy.generate("alpha", keep_alive=0))[0] == 200

    async def gone() -> bool:
        return not await ollama.resident()

    await until(gone)
    assert (await proxy.status())["loaded_models"] == []


async def test_what_happens_behind_the_back_is_followed(proxy: Client, ollama: Client) -> None:
    await ollama.generate("beta")

    async def seen() -> bool:
        return (await proxy.status())["loaded_models"] == ["team/second:v1"]

    await until(seen)
    await ollama.post("/api/generate", {"model": "beta", "keep_alive": 0})

    async def gone() -> bool:
        return (await proxy.status())["loaded_models"] == []

    await until(gone)


async def test_the_client_that_leaves_while_streaming_frees_both_sides(proxy: Client) -> None:
    async with proxy.stream("alpha", 20000) as stream:
        await stream.content.readline()
        assert (await proxy.status())["in_flight"] == 1
        stream.close()

    async def free() -> bool:
        return (await proxy.status())["in_flight"] == 0

    await until(free)
    # Ollama lets a model go only when it answers nobody: an unload that ends shows that it stopped too.
    assert (await proxy.post("/models/alpha/unload"))[0] == 200


async def test_the_client_that_leaves_during_the_load_leaves_the_load(proxy: Client, ollama: Client) -> None:
    asking = asyncio.create_task(proxy.generate("slow"))

    async def loading() -> bool:
        return (await proxy.get("/models/slow"))[1]["status"] == "loading"

    await until(loading)
    asking.cancel()

    async def loaded() -> bool:
        return (await proxy.get("/models/slow"))[1]["status"] == "loaded"

    await until(loaded)
    assert await ollama.resident() == ["slow:latest"]
    assert (await proxy.status())["in_flight"] == (await proxy.status())["waiting"] == 0


async def test_the_client_that_leaves_the_queue_swaps_nothing(proxy: Client, ollama: Client) -> None:
    async with proxy.stream("alpha", 20000) as stream:
        await stream.content.readline()
        asking = asyncio.create_task(proxy.generate("beta"))

        async def waits() -> bool:
            return (await proxy.status())["waiting"] == 1

        async def left() -> bool:
            return (await proxy.status())["waiting"] == 0

        await until(waits)
        asking.cancel()
        await until(left)
        stream.close()
    assert await ollama.resident() == ["alpha:latest"]


async def test_two_hundred_streams_at_once(session: aiohttp.ClientSession) -> None:
    model = SimulatedModel("alpha", size=1, load_s=0.05, tokens_per_second=50)
    async with simulated(session, model, parallel=200) as proxy:

        async def stream() -> int:
            async with proxy.stream("alpha", 20) as answer:
                return json.loads((await answer.read()).splitlines()[-1])["eval_count"]

        assert await asyncio.gather(*(stream() for _ in range(200))) == [20] * 200
        assert (await proxy.get("/models/first"))[1]["status"] == "loaded"
        assert (await proxy.get("/metrics/first"))[1]["request_count"] == 200


async def test_several_models_within_the_count(session: aiohttp.ClientSession) -> None:
    models = [SimulatedModel(name, size=1, load_s=0.02, tokens_per_second=0) for name in ("a", "b", "c")]
    async with simulated(session, *models, mode="multi-active", max_concurrent_models=2) as proxy:
        for name in ("a", "b", "a", "c"):
            assert (await proxy.generate(name))[0] == 200
        assert sorted((await proxy.status())["loaded_models"]) == ["a:latest", "c:latest"]


async def test_a_swap_that_takes_too_long_is_answered_and_kept(session: aiohttp.ClientSession) -> None:
    model = SimulatedModel("alpha", size=1, load_s=0.6, tokens_per_second=0)
    async with simulated(session, model, model_swap_timeout=0.1) as proxy:
        async with session.post(f"{proxy.url}/api/generate", json={"model": "alpha", "prompt": "x"}) as answer:
            assert answer.status == 504
            assert int(answer.headers["Retry-After"]) >= 1
            assert "model_swap_timeout" in (await answer.json())["error"]

        async def loaded() -> bool:
            return (await proxy.get("/models/first"))[1]["status"] == "loaded"

        await until(loaded)
