"""Models that are deleted, re-created and copied while they are in memory: through the proxy, and behind its back."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from swapper_proxy.config import Model as Configured
from swapper_proxy.observe import gone
from swapper_proxy.runtime import watcher
from tests.e2e.conftest import Client, at_rest, busy, configured, is_in, until, waits
from tests.real.models import Model, Weights
from tests.real.server import OllamaServer

MODELS = {"mine": Configured(path="ollama:made"), "gamma": Configured(path="ollama:gamma")}
ROOMY = {**MODELS, "beta": Configured(path="ollama:beta")}
PLAIN = {"seed": 1, "temperature": 0, "num_predict": 8}


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody waits for what is noticed within five seconds."""
    for pause in ("BUSY_S", "QUIET_S", "CATALOG_S"):
        monkeypatch.setattr(watcher, pause, 0.1)


def make(server: OllamaServer) -> None:
    """A model whose weights no other name leads to."""
    server.create_model("made", Model(Weights(seed=21)))


@pytest.fixture
async def made(ollama: Client, ollama_server: OllamaServer) -> AsyncIterator[None]:
    """The model is there, and gone again afterwards."""
    make(ollama_server)
    yield
    await ollama.generate("gamma")  # what no name leads to any more goes only for another model
    for name in ("made", "copied"):
        await delete(ollama, name)


@pytest.fixture
async def proxy(ollama: Client, made: None) -> AsyncIterator[Client]:
    """In front of the Ollama that holds one model at a time."""
    async with configured(ollama, MODELS) as proxy:
        yield proxy


@pytest.fixture(params=["through the proxy", "behind its back"])
def via(request: pytest.FixtureRequest, proxy: Client, ollama: Client) -> Client:
    """Who is told to change something."""
    return proxy if request.param == "through the proxy" else ollama


async def delete(via: Client, name: str) -> tuple[int, str]:
    async with via.session.delete(f"{via.url}/api/delete", json={"model": name}) as answer:
        return answer.status, await answer.text()


async def create(via: Client, name: str, source: str, **more: Any) -> None:
    """Under a name that may be taken."""
    status, answer = await via.post("/api/create", {"model": name, "from": source, "stream": False, **more})
    assert (status, answer) == (200, {"status": "success"})


async def copy(via: Client, source: str, destination: str) -> None:
    assert (await via.post("/api/copy", {"source": source, "destination": destination}))[0] == 200


async def text_of(client: Client, model: str) -> str:
    """What these weights say; tells one from another."""
    status, answer = await client.generate(model, options=PLAIN)
    assert status == 200
    return answer["response"]


async def loaded(proxy: Client) -> list[str]:
    return (await proxy.status())["loaded_models"]


async def are_loaded(proxy: Client, *names: str) -> None:
    """Until the proxy believes so."""

    async def so() -> bool:
        return set(await loaded(proxy)) == set(names)

    await until(so)


async def loads(proxy: Client) -> float:
    return await proxy.metric("swapper_load_seconds_count")


async def reloads(proxy: Client) -> float:
    return await proxy.metric("swapper_upstream_reloads_total")


# Deleted


async def test_deleted_in_memory(proxy: Client, ollama: Client, via: Client) -> None:
    await proxy.generate("mine")
    assert await delete(via, "made") == (200, "")
    assert await ollama.resident() == ([] if via is proxy else ["made:latest"])  # Ollama itself keeps it
    await are_loaded(proxy)
    await is_in(proxy, "mine", "missing")
    assert (await proxy.generate("mine"))[0] == 404
    assert (await proxy.generate("gamma"))[0] == 200
    assert await ollama.resident() == ["gamma:latest"]
    assert await loaded(proxy) == ["gamma"]
    await at_rest(proxy)


async def test_deleted_and_made_again(proxy: Client, ollama: Client, ollama_server: OllamaServer, via: Client) -> None:
    await proxy.generate("mine")
    await delete(via, "made")
    await is_in(proxy, "mine", "missing")
    await create(via, "made", "beta")
    assert await text_of(proxy, "mine") == await text_of(proxy, "beta")
    await are_loaded(proxy, "beta:latest", "mine")  # two names of the same weights
    await delete(via, "made")
    make(ollama_server)
    await is_in(proxy, "mine", "unloaded")
    assert (await proxy.generate("mine"))[0] == 200
    assert await ollama.resident() == ["made:latest"]


async def test_nothing_is_cut_when_it_is_deleted_through_the_proxy(
    proxy: Client, ollama: Client, ollama_server: OllamaServer
) -> None:
    async with proxy.stream("mine", 2000) as stream:
        await stream.content.readline()
        with ollama_server.held():
            deleting = asyncio.create_task(delete(proxy, "made"))
            await is_in(proxy, "mine", "draining")
        lines = (await stream.text()).splitlines()
    assert json.loads(lines[-1])["eval_count"] == 2000
    assert await deleting == (200, "")
    assert await ollama.resident() == []


async def test_what_answers_stays_when_it_is_deleted_behind_the_back(
    proxy: Client, ollama: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = 0, watcher.Watcher.look

    async def counted(self: watcher.Watcher) -> None:
        nonlocal looks
        await look(self)
        looks += 1

    monkeypatch.setattr(watcher.Watcher, "look", counted)
    async with busy(proxy, "mine") as stream:
        behind = asyncio.create_task(proxy.generate("gamma"))
        await waits(proxy, 1)
        await delete(ollama, "made")
        before = looks

        async def is_noticed() -> bool:
            return looks >= before + 3

        await until(is_noticed)
        assert await proxy.state("gamma") == "unloaded"  # it waits for the end of the answer
        assert json.loads(await stream.content.readline())["done"] is False
    assert (await behind)[0] == 200
    await is_in(proxy, "mine", "missing")
    await at_rest(proxy)


async def test_who_waits_for_what_is_deleted_is_told_so(proxy: Client, via: Client) -> None:
    async with busy(proxy, "gamma"):
        waiting = asyncio.create_task(proxy.generate("mine"))
        await waits(proxy, 1)
        await delete(via, "made")
    assert (await waiting)[0] == 404
    await at_rest(proxy)


async def test_what_other_names_lead_to_stays(proxy: Client, ollama: Client, via: Client) -> None:
    """Also if it was loaded by the name that is gone."""
    await copy(via, "made", "copied")
    await proxy.generate("mine")
    before = await loads(proxy)
    assert await delete(via, "made") == (200, "")
    assert await ollama.resident() == ["made:latest"]
    assert (await proxy.generate("copied"))[0] == 200
    assert await ollama.resident() == ["made:latest"]
    assert await loads(proxy) == before
    assert (await proxy.post("/models/copied/unload"))[0] == 200
    assert await ollama.resident() == []


async def test_a_pinned_model_is_not_deleted(ollama: Client, made: None) -> None:
    async with configured(ollama, {"mine": Configured(path="ollama:made", pinned=True)}) as proxy:
        await is_in(proxy, "mine", "loaded")
        refused = (409, '{"error":"the model is pinned, it stays in memory"}')
        assert await delete(proxy, "made") == refused
        await copy(proxy, "made", "copied")
        assert await delete(proxy, "made") == refused  # its weights would stay: the name is what is pinned
        assert await ollama.resident() == ["made:latest"]
        await create(proxy, "made", "beta")  # the pin is that of the name

        async def is_new() -> bool:
            return (await proxy.generate("mine"))[0] == 200

        await until(is_new)
        assert await text_of(proxy, "mine") == await text_of(ollama, "beta")


# Re-created


async def test_other_weights_under_the_same_name(proxy: Client, ollama: Client, via: Client) -> None:
    old = await text_of(proxy, "mine")
    await create(via, "made", "beta")
    new = await text_of(proxy, "mine")
    assert new == await text_of(proxy, "beta") != old
    await are_loaded(proxy, "beta:latest", "mine")
    assert (await proxy.generate("gamma"))[0] == 200
    assert await ollama.resident() == ["gamma:latest"]
    assert await loaded(proxy) == ["gamma"]
    if via is proxy:
        assert await reloads(proxy) == 0
    await at_rest(proxy)


async def test_other_weights_that_are_noticed_before_they_are_asked_for(proxy: Client, ollama: Client) -> None:
    await proxy.generate("mine")
    await create(ollama, "made", "beta")
    await is_in(proxy, "mine", "unloaded")
    assert await ollama.resident() == ["made:latest"]  # the old one
    assert (await proxy.generate("mine"))[0] == 200
    assert await reloads(proxy) == 0
    assert (await proxy.get("/models/mine"))[1]["status"] == "loaded"
    assert (await proxy.post("/models/mine/unload"))[0] == 200
    assert await ollama.resident() == []


async def test_what_lost_its_name_keeps_nobody_out(session, roomy: Client, roomy_server: OllamaServer) -> None:
    """Where Ollama has room for it, it stays there; for the proxy it is no more."""
    make(roomy_server)
    async with configured(roomy, ROOMY) as proxy:
        await proxy.generate("mine", keep_alive=-1)
        await create(roomy, "made", "beta")
        await is_in(proxy, "mine", "unloaded")
        for name in ("mine", "gamma", "mine"):
            assert (await proxy.generate(name))[0] == 200
            assert sorted(await loaded(proxy)) == (["gamma"] if name == "gamma" else ["beta", "mine"])
        assert (await proxy.post("/models/mine/unload"))[0] == 200
        assert await roomy.resident() == ["made:latest"]  # with the old digest
    roomy_server.stop()
    roomy_server.start()
    await delete(roomy, "made")


async def test_a_proxy_that_starts_later_does_not_take_the_old_for_the_new(ollama: Client, made: None) -> None:
    await ollama.generate("made")
    await create(ollama, "made", "beta")
    async with configured(ollama, MODELS) as proxy:
        assert await loaded(proxy) == []
        assert await text_of(proxy, "mine") == await text_of(ollama, "beta")
        await are_loaded(proxy, "beta:latest", "mine")  # two names of the same weights
        assert await reloads(proxy) == 0


async def test_who_waits_gets_the_new_one(proxy: Client, ollama: Client, via: Client) -> None:
    async with busy(proxy, "gamma"):
        waiting = asyncio.create_task(text_of(proxy, "mine"))
        await waits(proxy, 1)
        await create(via, "made", "beta")
    assert await waiting == await text_of(ollama, "beta")
    assert await reloads(proxy) == 0
    assert await proxy.metric("swapper_load_failures_total") == 0
    await at_rest(proxy)


async def test_who_waits_does_not_bring_the_old_one_back(ollama: Client, made: None) -> None:
    async with configured(ollama, {"mine": Configured(path="ollama:made", parallel=1)}) as proxy:
        async with busy(proxy, "mine"):
            asking = [asyncio.create_task(text_of(proxy, "mine")) for _ in range(3)]
            await waits(proxy, 3)
            creating = asyncio.create_task(create(proxy, "made", "beta"))
            await is_in(proxy, "mine", "draining")
            asking.append(asyncio.create_task(text_of(proxy, "mine")))  # is held back until the new one is there
            assert (await proxy.status())["waiting"] == 3
        await creating
        assert await asyncio.gather(*asking) == [await text_of(ollama, "beta")] * 4
        assert await loads(proxy) == 2
        assert await reloads(proxy) == await proxy.metric("swapper_rejected_requests_total") == 0
        await at_rest(proxy)


async def test_a_load_by_hand_is_of_the_new_one(proxy: Client, ollama: Client, via: Client) -> None:
    async with busy(proxy, "gamma"):
        loading = asyncio.create_task(proxy.post("/models/mine/load"))
        await waits(proxy, 1)
        await create(via, "made", "beta")
    assert (await loading)[0] == 200
    assert await proxy.metric("swapper_rejected_requests_total") == 0
    assert await text_of(proxy, "mine") == await text_of(ollama, "beta")


async def test_what_ollama_will_refuse_unloads_nothing(proxy: Client, ollama: Client) -> None:
    await proxy.generate("mine")
    for path, body in (
        ("/api/create", {"model": "made", "stream": False}),
        ("/api/create", {"model": "made", "from": 7, "stream": False}),
        ("/api/copy", {"source": "nope", "destination": "made"}),
        ("/api/copy", {"source": "no\nname", "destination": "made"}),
    ):
        assert (await proxy.post(path, body))[0] in (400, 404)
        assert await ollama.resident() == ["made:latest"]


async def test_a_change_that_can_be_read_in_two_ways_is_refused(ollama: Client, made: None) -> None:
    async with configured(ollama, {"mine": Configured(path="ollama:made", pinned=True)}) as proxy:
        await is_in(proxy, "mine", "loaded")
        twice = '{"model": "made", "z": [], "z": []}'
        async with proxy.session.delete(f"{proxy.url}/api/delete", data=twice) as answer:
            assert (answer.status, await answer.json()) == (400, {"error": '"z" is given more than once'})
        assert await ollama.resident() == ["made:latest"]


async def test_the_same_weights_need_no_unload(proxy: Client, ollama: Client, via: Client) -> None:
    await proxy.generate("mine")
    before = await loads(proxy)
    await create(via, "made", "made", system="be kind")
    assert await ollama.resident() == ["made:latest"]
    assert (await proxy.generate("mine"))[0] == 200
    assert (await loads(proxy), await reloads(proxy)) == (before, 0)


async def test_the_same_file_needs_no_unload(proxy: Client, ollama: Client) -> None:
    """As `ollama create` sends it."""
    blob = re.search(r"sha256-[0-9a-f]{64}", (await ollama.post("/api/show", {"model": "made"}))[1]["modelfile"])
    assert blob
    await proxy.generate("mine")
    body = {"model": "made", "files": {"any.gguf": blob[0].replace("-", ":")}, "stream": False}
    assert (await proxy.post("/api/create", body))[0] == 200
    assert await ollama.resident() == ["made:latest"]


async def test_other_runner_options(proxy: Client, via: Client) -> None:
    """Behind the proxy's back it may be a moment before that is known: then Ollama reloads first, later the proxy."""
    await proxy.generate("mine")
    before = await loads(proxy)
    await create(via, "made", "made", parameters={"num_ctx": 512})
    for _ in range(20):
        assert (await proxy.generate("mine"))[0] == 200
    anew, behind = await loads(proxy) - before, await reloads(proxy)
    assert (anew, behind) == (1, 0) if via is proxy else 1 <= anew + behind <= 2


async def test_an_embedder_under_the_name_of_a_chat_model(proxy: Client, ollama: Client, via: Client) -> None:
    await proxy.generate("mine")
    await create(via, "made", "embedder")
    direct, through = await ollama.generate("made"), await proxy.generate("made")
    assert direct == through
    assert direct[0] == 400
    for client in (proxy, ollama):
        assert (await client.post("/api/embed", {"model": "made", "input": "x"}))[0] == 200
    assert await ollama.resident() == ["made:latest"]
    await is_in(proxy, "mine", "loaded")
    assert (await proxy.generate("gamma"))[0] == 200
    await at_rest(proxy)


# Copied


async def test_a_copy_can_be_used_at_once(proxy: Client, ollama: Client, via: Client) -> None:
    assert (await proxy.generate("copied"))[0] == 404
    await proxy.generate("mine")
    before = await loads(proxy)
    await copy(via, "made", "copied")
    assert (await proxy.generate("copied"))[0] == 200
    assert (await loads(proxy), await reloads(proxy)) == (before, 0)
    assert await ollama.resident() == ["made:latest"]


async def test_a_copy_over_what_is_in_memory(proxy: Client, ollama: Client) -> None:
    await proxy.generate("mine")
    await copy(proxy, "beta", "made")
    assert await ollama.resident() == []
    assert await text_of(proxy, "mine") == await text_of(ollama, "beta")


async def test_a_client_that_leaves_while_what_it_deletes_drains(proxy: Client, ollama: Client) -> None:
    async with busy(proxy, "mine"):
        deleting = asyncio.create_task(delete(proxy, "made"))
        await is_in(proxy, "mine", "draining")
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
    await at_rest(proxy)
    assert (await proxy.generate("mine"))[0] == 200


async def test_deleted_by_its_old_field_and_not_at_all(proxy: Client) -> None:
    for body in ({"name": "made"}, {"model": "nope"}, {"model": 1}, [], {}):
        async with proxy.session.delete(f"{proxy.url}/api/delete", json=body) as answer:
            assert answer.status == (200 if body == {"name": "made"} else 404 if body == {"model": "nope"} else 400)


async def series(proxy: Client) -> set[str]:
    """All that /metrics shows, without the values."""
    text = (await proxy.get("/metrics"))[1]
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


async def test_the_metrics_of_copies_that_are_deleted_go_with_them(
    proxy: Client, via: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gone, "GONE_S", 0.0)
    assert (await proxy.generate("gamma"))[0] == 200
    await text_of(proxy, "mine")
    before = await series(proxy)
    for number in range(3):
        await copy(via, "made", f"copied-{number}")
        await text_of(proxy, f"copied-{number}")
        assert any(f'model="copied-{number}:latest"' in line for line in await series(proxy))
        assert (await delete(via, f"copied-{number}"))[0] == 200
    await text_of(proxy, "mine")

    async def none_is_left() -> bool:
        return not any("copied" in line for line in await series(proxy))

    await until(none_is_left)
    assert before <= await series(proxy)  # what is still there goes on
    assert await proxy.metric("swapper_model_requests_total", model="mine") == 2
