"""What is shown together while Ollama is away, on the real one: nothing contradicts anything else."""

import asyncio
from typing import Any

import aiohttp
import msgspec
from click.testing import CliRunner

from swapper_proxy.app import running
from swapper_proxy.cli import main
from swapper_proxy.config import Upstream
from tests.e2e.conftest import Client, settings, until
from tests.e2e.test_faults import mortal  # noqa: F401 - a fixture
from tests.e2e.test_queue import asking, why

AWAY = "Ollama is not reachable"
MISSING = "Ollama does not have it"


async def models(proxy: Client) -> dict[str, Any]:
    return {model["name"]: model for model in (await proxy.get("/models"))[1]["models"]}


async def is_away(proxy: Client) -> None:
    async def degraded() -> bool:
        return bool((await proxy.status())["status"] == "degraded")

    await until(degraded)


async def test_while_ollama_is_away(session: aiohttp.ClientSession, mortal: Any) -> None:  # noqa: F811 - the fixture
    patient = msgspec.structs.replace(settings(mortal.url), upstream=Upstream(url=mortal.url, grace=3600))
    async with running(patient) as up:
        proxy = Client(session, up.url)
        for name in ("alpha", "beta"):
            await proxy.generate(name)
        assert (await models(proxy))["gone"]["status"] == "missing"
        mortal.kill()
        await is_away(proxy)
        status = await proxy.status()
        assert (status["ollama"], status["memory"], status["loaded_models"]) == ("unreachable", [], [])
        assert status["reason"] == (await proxy.get("/health"))[1]["reason"]
        shown = await models(proxy)
        assert {name: (m["status"], m["refusals"].get("load")) for name, m in shown.items() if m["configured"]} == {
            "first": ("unloaded", AWAY),
            "team/second:v1": ("unloaded", AWAY),
            "gone": ("missing", MISSING),
        }
        async with asking(proxy, "alpha") as (waiting,):
            await why(proxy, "first", "down", None)
            (told,) = await proxy.waiting()
            assert (told["estimated_start"], told["estimated_wait_seconds"], told["may_force_at"]) == (None,) * 3
            said = await asyncio.to_thread(CliRunner().invoke, main, ["queue", "--url", proxy.url])
            assert (said.exit_code, said.output.splitlines()[1].split()[3]) == (0, "?")
            mortal.start()
            assert (await waiting)[0] == 200
        assert (await proxy.status())["reason"] is None


async def test_at_the_start_nobody_knows_what_is_missing(session: aiohttp.ClientSession, mortal: Any) -> None:  # noqa: F811
    mortal.kill()
    async with running(settings(mortal.url)) as up:
        proxy = Client(session, up.url)
        assert {m["status"] for m in (await models(proxy)).values()} == {"unloaded"}
        assert {m["refusals"]["load"] for m in (await models(proxy)).values()} == {AWAY}
    mortal.start()
