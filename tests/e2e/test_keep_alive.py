"""keep_alive on the real Ollama: what /api/ps says is what was configured."""

import datetime as dt
from math import inf
from typing import Any

import pytest

from swapper_proxy.config import Model
from swapper_proxy.config.keep_alive import STAY_S
from tests.e2e.conftest import Client, configured, until

CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
MINUTE = 60


def alpha(**more: Any) -> dict[str, Model]:
    return {"first": Model(path="ollama:alpha", **more)}


async def stays_for(ollama: Client) -> float:
    """Seconds until Ollama's timer ends, once it runs."""
    entries: list[Any] = []

    async def idle() -> bool:
        status, answer = await ollama.get("/api/ps")
        entries[:] = answer["models"] if status == 200 else []
        return bool(entries)

    await until(idle)
    return (dt.datetime.fromisoformat(entries[0]["expires_at"]) - dt.datetime.now(dt.UTC)).total_seconds()


async def stays_between(ollama: Client, least_s: float, most_s: float) -> None:
    """Until it does: Ollama sets the time anew when the model goes idle, a moment after the answer."""

    async def does() -> bool:
        return least_s < await stays_for(ollama) <= most_s

    await until(does)


async def is_about(ollama: Client, minutes: float) -> None:
    """A minute may have passed meanwhile, and no more."""
    await stays_between(ollama, (minutes - 1) * MINUTE, minutes * MINUTE)


async def is_for_ever(ollama: Client) -> None:
    await stays_between(ollama, 10 * 365 * 86_400, inf)


async def is_kept(ollama: Client) -> None:
    """As long as the proxy goes on saying so: longer than by default, not for ever, since the proxy may be killed."""
    await stays_between(ollama, 300, STAY_S)


@pytest.mark.parametrize(
    ("model", "swapper", "client", "minutes"),
    [
        ({}, {}, {}, 5),  # Ollama's own
        ({}, {"keep_alive": "20m"}, {}, 20),
        ({"keep_alive": 1800}, {"keep_alive": "20m"}, {}, 30),
        ({"keep_alive": 1800}, {}, {"keep_alive": "10m"}, 10),
        ({"keep_alive": 1800}, {"ignore_client_keep_alive": True}, {"keep_alive": "10m"}, 30),
        ({}, {"ignore_client_keep_alive": True}, {"keep_alive": "10m"}, 5),
    ],
)
async def test_the_value_that_holds(ollama: Client, model: Any, swapper: Any, client: Any, minutes: float) -> None:
    async with configured(ollama, alpha(**model), **swapper) as proxy:
        assert (await proxy.generate("alpha", **client))[0] == 200
        await is_about(ollama, minutes)


async def test_an_openai_client_gets_the_configured_one_by_the_load(ollama: Client) -> None:
    async with configured(ollama, alpha(keep_alive="30m")) as proxy:
        assert (await proxy.post("/v1/chat/completions", CHAT))[0] == 200
        await is_about(ollama, 30)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_short_one_is_kept_by_the_scheduler(ollama: Client, path: str) -> None:
    async with configured(ollama, alpha(), keep_alive="1s") as proxy:
        assert (await proxy.post(path, CHAT))[0] == 200
        assert await ollama.resident() == ["alpha:latest"]

        async def gone() -> bool:
            return not await ollama.resident()

        await until(gone)


async def test_a_pinned_model_stays_whatever_clients_say(ollama: Client) -> None:
    async with configured(ollama, alpha(pinned=True), keep_alive="20m") as proxy:
        for more in ({}, {"keep_alive": "10m"}, {"keep_alive": 0}):
            assert (await proxy.generate("alpha-kind", **more))[0] == 200  # another name of the pinned runner
        await is_kept(ollama)


async def test_clients_cannot_unload_what_is_fixed(ollama: Client) -> None:
    async with configured(ollama, alpha(), ignore_client_keep_alive=True) as proxy:
        await proxy.generate("alpha")
        for path, body in (("/api/generate", {}), ("/api/chat", {"messages": []})):
            status, answer = await proxy.post(path, {"model": "alpha", "keep_alive": 0, **body})
            assert status == 403
            assert "ignore_client_keep_alive" in answer["error"]
        assert (await proxy.generate("alpha", keep_alive=0))[0] == 200
        await is_about(ollama, 5)


async def test_a_value_that_ollama_refuses_is_refused_all_the_same(ollama: Client) -> None:
    async with configured(ollama, alpha(), ignore_client_keep_alive=True) as proxy:
        assert (await proxy.generate("alpha", keep_alive="300"))[0] == 400
        assert await ollama.resident() == []


async def test_a_model_loaded_by_hand_goes_on_time(ollama: Client) -> None:
    async with configured(ollama, alpha(keep_alive=1)) as proxy:
        assert (await proxy.post("/models/first/load"))[0] == 200

        async def gone() -> bool:
            return not await ollama.resident()

        await until(gone)
        assert await proxy.metric("swapper_load_seconds_count") == 1
