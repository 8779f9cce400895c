"""What the standby tells Ollama to keep, with an engine that only notes it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from swapper_proxy.config import Settings
from swapper_proxy.config.keep_alive import STAY_S
from swapper_proxy.runtime import standby
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import UpstreamUnreachable
from swapper_proxy.runtime.standby import Standby
from tests.test_catalog import Ollama, found
from tests.waiting import LIMIT_S

PINNED = {"models": {name: {"path": f"ollama:{name}", "pinned": True} for name in ("a", "b")}}


class Engine:
    """Models are in memory if they are `here`; `told` are those that Ollama was told to keep, in order."""

    def __init__(self) -> None:
        self.ollama = SimpleNamespace(up=asyncio.Event(), down=asyncio.Event(), falls=0)
        self.ollama.up.set()
        self.reachable, self.idle_since = True, None
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.here = [SimpleNamespace(occupies=True, guessed=False, key=SimpleNamespace(runner=r)) for r in ("w1", "w2")]
        self.failing = ""

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def residencies(self) -> list[Any]:
        return self.here

    def occupant(self, runner: str) -> Any:
        return next((r for r in self.here if r.key.runner == runner), None)

    def holds(self, runner: str) -> bool:
        return self.occupant(runner) is not None

    def is_resident(self, model: Model) -> bool:
        return self.holds(model.runner)

    def treat_afresh(self) -> None: ...

    async def load(self, *_: Any) -> None:
        """It has to wait for room, for ever."""
        await asyncio.Event().wait()

    async def keep(self, model: Model, keep_alive: Any) -> bool:
        if model.name == self.failing:
            raise RuntimeError("a bug")
        assert keep_alive == STAY_S
        self.told.put_nowait(model.name)
        return True


def read(given: Any) -> Settings:
    return msgspec.convert(given, Settings)


async def before(given: Any, engine: Engine) -> Standby:
    settings = read(given)
    catalog = Catalog(Ollama(), settings)  # type: ignore[arg-type]
    for name in ("a:latest", "b:latest"):
        await catalog.find(name)
    return Standby(settings, catalog, engine)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "RENEW_S", 0.01)
    monkeypatch.setattr(standby, "KEEP_FIRST_S", 0.01)


async def test_the_default_model_with_a_time_of_its_own_is_not_renewed() -> None:
    engine = Engine()
    given = {
        "swapper": {"default_model": "a", "default_after": 900},
        "models": {"a": {"path": "ollama:a", "keep_alive": 120}, "b": {"path": "ollama:b", "pinned": True}},
    }
    async with asyncio.timeout(LIMIT_S), await before(given, engine):
        assert {await engine.told.get() for _ in range(5)} == {"b"}


async def test_a_bug_with_one_model_does_not_end_the_renewal_of_others() -> None:
    engine = Engine()
    engine.failing = "a"
    async with asyncio.timeout(LIMIT_S), await before(PINNED, engine):
        assert [await engine.told.get() for _ in range(5)] == ["b"] * 5


async def test_the_watch_goes_on_after_a_bug(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    failures = iter(range(3))

    def residencies() -> list[Any]:
        if next(failures, None) is not None:
            raise RuntimeError("a bug")
        return engine.here

    monkeypatch.setattr(engine, "residencies", residencies)
    async with asyncio.timeout(LIMIT_S), await before(PINNED, engine):
        told = [await engine.told.get() for _ in range(8)]
    assert {*told} == {"a", "b"}
    assert caplog.text.count("a bug") >= 1


async def test_reading_the_configuration_again_and_again_does_not_put_the_renewal_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standby, "KEEP_FIRST_S", 3600.0)
    monkeypatch.setattr(standby, "RENEW_S", 0.5)
    engine = Engine()
    async with asyncio.timeout(LIMIT_S), await before(PINNED, engine) as watch:
        while engine.told.qsize() < 6:  # two by the look at what is missing, after that by renewals alone
            await asyncio.sleep(0.02)
            await watch.configure(read(PINNED))


async def test_what_somebody_else_loaded_is_not_renewed() -> None:
    """Told with other options than it was loaded with, Ollama would load it again each time."""
    engine = Engine()
    of_others, *engine.here = engine.here
    of_others.guessed = True
    models = PINNED["models"] | {"a": {"path": "ollama:a"}}
    given = {"swapper": {"default_model": "a", "default_after": 900}, "models": models}
    async with asyncio.timeout(LIMIT_S), await before(given, engine):
        told = [await engine.told.get() for _ in range(3)]
        engine.here.append(of_others)  # while its load by the proxy has to wait
        told += [await engine.told.get() for _ in range(3)]
    assert told == ["b"] * 6


async def test_a_pin_that_ends_in_any_error_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: Any) -> None:
        raise UpstreamUnreachable("it went in this moment")

    engine = Engine()
    monkeypatch.setattr(engine, "load", failing)
    given = read({})
    of = Catalog(Ollama(), given)  # type: ignore[arg-type]
    model = await found(of, "a")
    with pytest.raises(UpstreamUnreachable):
        await Standby(given, of, engine).pin(model)  # type: ignore[arg-type]
    assert not of.is_pinned(model)
