"""What the engine is told of a look at Ollama, and whether that is all there is."""

import asyncio
from typing import Any

import pytest

from swapper_proxy.config import Settings
from swapper_proxy.core.types import Sighting
from swapper_proxy.runtime import watcher
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.ports import Running
from swapper_proxy.runtime.watcher import Watcher
from tests.test_catalog import Ollama
from tests.waiting import LIMIT_S


class Loaded(Ollama):
    """Lists these as loaded, and some more that could not be read."""

    def __init__(self, *names: str, unread: int = 0) -> None:
        self.entries = [Running(name, 1, 0) for name in names]
        self.unread = unread

    async def running(self) -> tuple[list[Running], int]:
        return self.entries, self.unread


class Engine:
    """Keeps what it was told last."""

    busy = reachable = True
    look_wanted: asyncio.Event

    def __init__(self) -> None:
        self.told: tuple[list[str], bool] | None = None

    def upstream(self, reachable: bool) -> None: ...
    def occupant(self, runner: str) -> None: ...

    def observed(self, asked_at: float, present: tuple[Sighting, ...], *, complete: bool) -> None:
        self.told = [sighting.key.runner for sighting in present], complete


async def looked(ollama: Loaded, catalog: Catalog | None = None) -> Any:
    engine = Engine()
    watching = Watcher(ollama, catalog or Catalog(ollama, Settings()), engine)  # type: ignore[arg-type]
    watching._loop = asyncio.get_running_loop()
    for _ in range(2):
        await watching.look()
    return engine.told


async def test_all_that_is_known() -> None:
    assert await looked(Loaded("a:latest", "b:latest")) == (["w1", "w2"], True)


async def test_an_entry_that_could_not_be_read_may_be_any_runner() -> None:
    assert await looked(Loaded("a:latest", unread=1)) == (["w1"], False)


async def test_so_may_one_that_no_name_leads_to() -> None:
    assert await looked(Loaded("a:latest", "gone:latest")) == (["w1"], False)


async def test_what_is_left_to_others_is_known() -> None:
    ollama = Loaded("a:latest", "b:latest")
    catalog = Catalog(ollama, Settings())
    catalog.leave_to_others("w2", ollama.entries[1])
    assert await looked(ollama, catalog) == (["w1"], True)


async def test_a_fault_over_one_entry_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ollama = Loaded("b:latest", "a:latest")
    catalog = Catalog(ollama, Settings())
    profile = catalog.profile
    monkeypatch.setattr(catalog, "profile", lambda model, key: 1 / 0 if key.runner == "w2" else profile(model, key))
    assert await looked(ollama, catalog) == (["w1"], False)
    told = [(r.getMessage(), r.model) for r in caplog.records]
    assert told == [("what is loaded cannot be looked at", "b:latest")]


async def test_a_look_that_is_wanted_during_another_one_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a wait in between, which would be endless here."""
    monkeypatch.setattr(watcher, "BUSY_S", 1e6)
    ollama, engine, twice = Loaded("a:latest"), Engine(), asyncio.Event()
    engine.look_wanted = asyncio.Event()
    looks = 0

    async def running() -> tuple[list[Running], int]:
        nonlocal looks
        looks += 1
        if looks == 1:
            engine.look_wanted.set()
        else:
            twice.set()
        return ollama.entries, 0

    monkeypatch.setattr(ollama, "running", running)
    async with asyncio.timeout(LIMIT_S), Watcher(ollama, Catalog(ollama, Settings()), engine):  # type: ignore[arg-type]
        await twice.wait()
