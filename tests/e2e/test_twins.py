"""Two names of the same weights, on the real Ollama: one state, one place in memory, what waits counted once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from swapper_proxy.app import running
from swapper_proxy.config import History, Model
from tests.e2e.conftest import Client, at_rest, busy, is_in, settings, until, waits

NAMES = ("beta", "twin", "guide")


@asynccontextmanager
async def twins(ollama: Client, history: Path | None = None, **swapper: Any) -> AsyncIterator[Client]:
    """The proxy in front of an Ollama that has `beta` under three names: a copy, and one with a system prompt."""
    await ollama.post("/api/copy", {"source": "beta", "destination": "twin"})
    await ollama.post("/api/create", {"model": "guide", "from": "beta", "system": "You are a guide."})
    models = {name: Model(path=f"ollama:{name}", parallel=1) for name in (*NAMES, "alpha")}
    chosen = msgspec.structs.replace(settings(ollama.url, **swapper), models=models)
    chosen = msgspec.structs.replace(chosen, history=History(path=str(history) if history else None))
    async with running(chosen) as up:
        proxy = Client(ollama.session, up.url)
        yield proxy
        await at_rest(proxy)
        await proxy.post("/models/beta/unload")  # a runner whose names are all deleted can be unloaded no more
    for name in NAMES[1:]:
        assert (await deleted(ollama, name)) == 200


async def told(proxy: Client, number: int) -> list[tuple[str, str]]:
    """The model and state of each record of the history, the oldest first, once there are so many."""
    rows: list[Any] = []

    async def so_many() -> bool:
        rows[:] = (await proxy.get("/history/states"))[1]["states"]
        return len(rows) >= number

    await until(so_many)
    return [(row["model"], row["state"]) for row in reversed(rows)]


async def test_the_history_tells_one_story_of_one_runner(ollama: Client, tmp_path: Path) -> None:
    async with twins(ollama, tmp_path / "history.db") as proxy:
        for name in NAMES:
            await proxy.generate(name)
        await proxy.post("/models/beta/unload")
        await proxy.post("/models/guide/load")
        states = await told(proxy, 7)
        assert states == [
            *(("beta", state) for state in ("loading", "loaded", "draining", "unloading", "unloaded")),
            *(("guide", state) for state in ("loading", "loaded")),
        ]


async def test_a_name_that_nobody_has_asked_for_is_as_the_others(ollama: Client) -> None:
    async with twins(ollama) as proxy:
        await proxy.generate("beta")
        for name in NAMES[1:]:
            await is_in(proxy, name, "loaded")
        (resident,) = (await proxy.status())["memory"]
        assert (resident["model"], set(resident["names"])) == ("beta", set(NAMES))
        assert {m["known_as"] for m in (await proxy.get("/models"))[1]["models"] if m["name"] in NAMES} == {"beta"}


async def test_a_name_that_is_deleted_is_no_name_any_more(ollama: Client, tmp_path: Path) -> None:
    """What is in memory has another one left: its state is told under that from now on."""
    async with twins(ollama, tmp_path / "history.db") as proxy:
        for name in ("beta", "twin"):
            await proxy.generate(name)
        await proxy.post("/models/beta/unload")
        await proxy.generate("twin")
        assert (await proxy.status())["active_model"] == "twin"
        assert (await deleted(proxy, "twin")) == 200
        await until(lambda: is_active(proxy, "beta"))
        assert [r["names"] for r in (await proxy.status())["memory"]] == [["beta", "guide"]]
        assert [lane["model"] for lane in (await proxy.get("/queue"))[1]["models"]] == ["beta"]
        assert (await proxy.state("twin"), await proxy.state("beta")) == ("missing", "loaded")
        states = await told(proxy, 9)
        assert states[5:] == [
            *(("twin", state) for state in ("loading", "loaded", "unloaded")),
            ("beta", "loaded"),
        ]
        await ollama.post("/api/copy", {"source": "beta", "destination": "twin"})


async def deleted(via: Client, name: str) -> int:
    async with via.session.delete(f"{via.url}/api/delete", json={"model": name}) as answer:
        return answer.status


async def is_active(proxy: Client, name: str) -> bool:
    return bool((await proxy.status())["active_model"] == name)


async def test_what_waits_and_what_is_answered_is_counted_once(ollama: Client) -> None:
    async with twins(ollama) as proxy:
        for name in NAMES:
            await proxy.generate(name)
        async with busy(proxy, "twin"):
            waiting = asyncio.create_task(proxy.generate("guide"))
            await waits(proxy, 1)
            models = {m["name"]: m for m in (await proxy.get("/models"))[1]["models"]}
            assert {name: models[name]["status"] for name in NAMES} == dict.fromkeys(NAMES, "loaded")
            assert [models[name]["waiting"] for name in NAMES] == [0, 0, 1]
            assert [models[name]["in_flight"] for name in NAMES] == [0, 1, 0]
            for metric in ("swapper_queue_depth", "swapper_in_flight_requests"):
                assert await proxy.metric(metric) == 1
        assert (await waiting)[0] == 200
