"""Models that somebody made with parameters that Ollama takes and cannot use: nobody else is to notice."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from swapper_proxy.runtime import watcher
from tests.e2e.conftest import Client, configured, until
from tests.e2e.test_changed_models import create, delete

WRONG: list[dict[str, Any]] = [
    {"num_ctx": "abc"},
    {"num_ctx": "inf"},
    {"num_ctx": {"a": 1}},
    {"num_gpu": "1e999"},
    {"use_mmap": "maybe"},
    {"temperature": "hot"},
]
ODD: list[dict[str, Any]] = [{"num_ctx": None}, {"num_ctx": 1e300}, {"num_ctx": 512.7}]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("BUSY_S", "QUIET_S", "CATALOG_S"):
        monkeypatch.setattr(watcher, pause, 0.1)


@pytest.fixture
async def proxy(ollama: Client) -> AsyncIterator[Client]:
    async with configured(ollama, {}) as proxy:
        yield proxy
        await ollama.generate("gamma")  # what no name leads to any more goes only for another model
        await ollama.session.delete(f"{ollama.url}/api/delete", json={"model": "mine/x"})


@pytest.fixture(params=["through the proxy", "behind its back"])
def via(request: pytest.FixtureRequest, proxy: Client, ollama: Client) -> Client:
    return proxy if request.param == "through the proxy" else ollama


async def shows(proxy: Client, loaded: str) -> None:
    """Until the proxy knows that of all weights only those of this model are in memory."""

    async def so() -> bool:
        states = {name: await proxy.state(name) for name in ("alpha", "beta", "gamma")}
        return states == dict.fromkeys(states, "unloaded") | {loaded: "loaded"}

    await until(so)


@pytest.mark.parametrize("parameters", [*WRONG, *ODD], ids=str)
async def test_made_while_it_is_in_memory(proxy: Client, ollama: Client, via: Client, parameters: dict[str, Any]):
    await create(via, "mine/x", "beta")
    assert (await proxy.generate("mine/x"))[0] == 200
    await create(via, "mine/x", "alpha", parameters=parameters)
    assert (await proxy.generate("alpha"))[0] == 200
    await shows(proxy, "alpha")
    assert (await ollama.generate("gamma"))[0] == 200  # behind the proxy's back
    await shows(proxy, "gamma")
    assert await delete(proxy, "mine/x") == (200, "")
    await create(proxy, "mine/x", "gamma")
    assert (await proxy.generate("mine/x"))[0] == 200


@pytest.mark.parametrize("parameters", WRONG, ids=str)
async def test_it_gets_ollamas_own_error_and_others_are_served(proxy: Client, ollama: Client, parameters, caplog):
    """Also those that are made of the same weights, which have not failed."""
    await create(ollama, "mine/x", "alpha", parameters=parameters)
    refused = await ollama.generate("mine/x")
    assert refused[0] == 500
    assert await proxy.generate("mine/x") == refused
    assert (await proxy.generate("alpha"))[0] == 200
    assert (await proxy.generate("beta"))[0] == 200
    assert [r.levelname for r in caplog.records if r.name.startswith("swapper_proxy.runtime")] == []
    said = [r.getMessage() for r in caplog.records if "will not run this model" in r.getMessage()]
    assert len(said) == 1  # however often it is asked for
    assert next(iter(parameters)) in said[0]


@pytest.mark.parametrize("parameters", ODD, ids=str)
async def test_what_ollama_can_use_is_served(proxy: Client, ollama: Client, parameters: dict[str, Any]) -> None:
    await create(ollama, "mine/x", "alpha", parameters=parameters)
    for _ in range(2):
        assert (await proxy.generate("mine/x"))[0] == 200
    assert await proxy.state("mine/x") == "loaded"
    assert await proxy.metric("swapper_load_seconds_count") == 1
    assert await proxy.metric("swapper_upstream_reloads_total") == 0


async def test_a_system_text_does_not_say_what_a_model_is_made_of(proxy: Client, ollama: Client) -> None:
    """Else a request for one would be taken to be served by the other."""
    other = (await ollama.post("/api/show", {"model": "beta"}))[1]["modelfile"].partition("\nFROM ")[2].split()[0]
    await create(ollama, "mine/x", "alpha", system=f"x\nADAPTER {other}\nFROM y")
    assert (await proxy.generate("alpha"))[0] == 200
    assert (await proxy.generate("mine/x"))[0] == 200  # they share a runner
    assert await proxy.metric("swapper_load_seconds_count") == 1
