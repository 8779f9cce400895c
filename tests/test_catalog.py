"""What the catalog makes of Ollama's models and the config together."""

import itertools
from typing import Any

import pytest

from swapper_proxy.config import Model, RunnerOptions, Settings, Swapper
from swapper_proxy.config.keep_alive import STAY_S
from swapper_proxy.core.errors import Failure
from swapper_proxy.core.types import Priority, Profile
from swapper_proxy.runtime import catalog
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.model import GB
from swapper_proxy.runtime.ports import (
    Installed,
    LoadSpec,
    Running,
    Shown,
    UpstreamRefused,
    UpstreamSilent,
    UpstreamUnreachable,
)

CHAT, EMBED = frozenset(["completion"]), frozenset(["embedding"])


class Ollama:
    """Two names over the weights w1, one over w2, an embedder."""

    SHOWN = {  # noqa: RUF012 - never changed
        "a:latest": Shown("w1", {"num_ctx": 2048}, CHAT, False),
        "a-kind:latest": Shown("w1", {}, CHAT, False),
        "b:latest": Shown("w2", {}, CHAT, False),
        "e:latest": Shown("w3", {}, EMBED, False),
    }

    async def installed(self) -> list[Installed]:
        return [Installed(name, 2 * GB, "digest", False) for name in self.SHOWN]

    async def show(self, name: str) -> Shown:
        if shown := self.SHOWN.get(name if ":" in name else f"{name}:latest"):
            return shown
        raise UpstreamRefused(Failure(404, b"{}", "application/json"))

    async def version(self) -> str:
        return "0"

    async def running(self) -> tuple[list[Running], int]:
        return [], 0

    async def load(self, spec: LoadSpec) -> None: ...

    async def unload(self, name: str) -> None: ...


def catalog_of(models: dict[str, dict[str, Any]] | None = None, num_parallel: int | None = None, **swapper: Any):
    given = {name: Model(**{"path": f"ollama:{name}", **fields}) for name, fields in (models or {}).items()}
    return Catalog(Ollama(), Settings(models=given, swapper=Swapper(**swapper), ollama_num_parallel=num_parallel))


async def test_a_size_without_sense_keeps_nobody_waiting_without_end() -> None:
    of = catalog_of(load_stall_timeout=100.0)
    model = Model(path="ollama:a", size_gb=2**20)
    assert of.treatment.swap_timeout_s(catalog.Model("a", "a", model)) == 130
    assert of.treatment.swap_timeout_s(catalog.Model("a", "a", size=2**50)) == 130
    assert of.treatment.swap_timeout_s(catalog.Model("a", "a", size=20 * GB)) == 70


async def found(of: Catalog, name: str) -> catalog.Model:
    model = await of.resolve(name)
    assert model is not None
    return model


async def test_models_that_nobody_has_asked_for_are_got_to_know_a_few_at_a_time() -> None:
    asked = []

    class Watched(Ollama):
        async def show(self, name: str) -> Shown:
            asked.append(name)
            return await super().show(name)

    of = Catalog(Watched(), Settings())
    await of.refresh()
    assert [len(of.serving("w1")), asked] == [0, []]
    await of.learn(3)
    assert [model.name for model in of.serving("w1")] == ["a:latest", "a-kind:latest"]
    for _ in range(2):
        await of.learn(3)
    assert asked == list(Ollama.SHOWN)


async def test_the_profile_of_a_configured_model() -> None:
    fields = {"size_gb": 3, "type": "code", "parallel": 2, "pinned": True, "max_queue": 5}
    of = catalog_of({"a": fields}, model_swap_timeout=9)
    profile = Profile(parallel=2, swap_timeout_s=9, size_gb=3, slot="code", pinned=True, max_queue=5)
    a = await found(of, "a")
    assert of.profile(a, of.own_key(a)) == profile
    assert not of.profile(a, a.key({"num_ctx": 4096})).pinned  # that is another key
    assert of.profile(a, a.key({"num_gpu": 1})).pinned  # that one serves the pinned key


async def test_the_profile_of_any_other() -> None:
    of = catalog_of()
    b, e = await found(of, "b"), await found(of, "e")
    assert of.profile(b, b.key({})) == Profile(parallel=4, swap_timeout_s=34, size_gb=2, slot="llm")
    assert of.profile(e, e.key({})).slot == "embedding"


async def test_type_and_priority() -> None:
    of = catalog_of({"a": {"type": "code", "priority": "high"}, "never": {}})
    described = [(m.type, m.priority) for m in (await found(of, "a"), await found(of, "b"), await found(of, "e"))]
    assert described == [("code", Priority.HIGH), ("llm", Priority.MEDIUM), ("embedding", Priority.MEDIUM)]


async def test_what_was_measured_goes_before_the_disk_and_behind_the_config() -> None:
    of = catalog_of({"b": {"size_gb": 7}})
    a, a_kind, b = [await found(of, name) for name in ("a", "a-kind", "b")]
    for model in (a, b):
        of.measured(of.own_key(model), 5 * GB)
    of.measured(of.own_key(a), 0)  # an Ollama that does not tell
    assert [of.size_gb(model) for model in (a, b)] == [5, 7]
    assert of.profile(a_kind, a_kind.key({"num_ctx": 2048})).size_gb == 5


async def test_a_size_is_of_a_runner_with_its_options() -> None:
    """One request with a large context must not speak for the others."""
    of = catalog_of()
    b = await found(of, "b")
    large = b.key({"num_ctx": 200_000})
    of.measured(large, 40 * GB)
    small = of.profile(b, b.key({}))
    assert (small.size_gb or 0) < 3
    assert small.least_gb == 2
    assert (of.profile(b, large).size_gb, of.profile(b, large).least_gb) == (40, None)
    of.measure_again(large)
    assert of.profile(b, large).least_gb == 2


async def test_a_pinned_model_pins_its_runner() -> None:
    of = catalog_of({"a": {"pinned": True}})
    await of.refresh()
    assert [of.is_pinned(await found(of, name)) for name in ("a-kind", "a", "b")] == [True, True, False]
    of.forget()
    assert of.is_pinned(await found(of, "a-kind"))


async def test_a_pinned_model_that_is_not_there_does_no_harm() -> None:
    of = catalog_of({"gone": {"pinned": True}})
    await of.refresh()
    assert not of.is_pinned(await found(of, "a"))


@pytest.mark.parametrize(
    ("models", "num_parallel", "swapper", "expected"),
    [
        ({}, None, {}, (4, "assumed")),
        ({}, 2, {}, (2, "OLLAMA_NUM_PARALLEL")),
        ({}, 2, {"parallel": 3}, (3, "config")),
        ({"a": {"parallel": 5}}, 2, {"parallel": 3}, (5, "config")),
    ],
)
async def test_where_parallel_comes_from(models, num_parallel, swapper, expected) -> None:
    of = catalog_of(models, num_parallel, **swapper)
    model = await found(of, "a")
    assert (of.profile(model, model.key({})).parallel, of.treatment.parallel(model))[1] == expected


@pytest.mark.parametrize(
    ("options", "asked", "expected"),
    [
        (RunnerOptions(), {"num_ctx": 1}, {"num_ctx": 1}),
        (RunnerOptions(policy="strip"), {"num_ctx": 1}, {}),
        (RunnerOptions(policy="pin", num_ctx=9, use_mmap=False), {}, {"num_ctx": 9, "use_mmap": False}),
        (RunnerOptions(policy="pin", num_ctx=9), {"num_ctx": 1, "num_gpu": 2}, {"num_ctx": 9, "num_gpu": 2}),
    ],
)
async def test_runner_options(options, asked, expected) -> None:
    of = catalog_of({"a": {"runner_options": options}})
    assert of.treatment.options(await found(of, "a"), asked) == expected
    assert of.treatment.options(await found(of, "b"), asked) == asked


@pytest.mark.parametrize(
    ("model", "swapper", "asked", "expected"),
    [
        ({}, {}, None, None),
        ({}, {}, "5m", "5m"),
        ({}, {"keep_alive": 1}, None, 1),
        ({}, {"keep_alive": 1}, "5m", "5m"),
        ({"keep_alive": 2}, {"keep_alive": 1}, None, 2),
        ({"keep_alive": 2}, {"keep_alive": 1}, 0, 0),
        ({"keep_alive": 2}, {"ignore_client_keep_alive": True}, 0, 2),
        ({}, {"ignore_client_keep_alive": True}, 0, None),
        ({"pinned": True}, {"keep_alive": 1}, 0, STAY_S),
        ({}, {"keep_alive": 1, "default_model": "a"}, None, 1),
        ({}, {"keep_alive": 1, "default_model": "a", "default_after": 5}, None, STAY_S),
        ({"keep_alive": 2}, {"default_model": "a", "default_after": 5}, None, 2),
        ({}, {"default_model": "a", "default_after": 5}, "5m", "5m"),
    ],
)
async def test_the_keep_alive_that_holds(model, swapper, asked, expected) -> None:
    of = catalog_of({"a": model}, **swapper)
    assert of.keep_alive(await found(of, "a"), asked) == expected


@pytest.mark.parametrize(
    ("model", "swapper", "asked", "expected"),
    [
        ({}, {}, None, None),
        ({}, {"keep_alive": "5m"}, None, "5m"),
        ({}, {"keep_alive": "5s"}, None, 60),
        ({}, {"keep_alive": "5m"}, 60, 60),
        ({"pinned": True}, {}, 60, STAY_S),
        ({}, {"default_model": "a", "default_after": 5}, 60, STAY_S),
        ({"keep_alive": "1h"}, {"default_model": "a", "default_after": 5}, None, "1h"),
    ],
)
async def test_a_load_says_how_long(model, swapper, asked, expected) -> None:
    of = catalog_of({"a": model}, **swapper)
    assert of.load_spec(await found(of, "a"), {}, asked) == LoadSpec("a", {}, expected)


async def test_a_load_without_the_gpu() -> None:
    of = catalog_of(metal_acceleration=False)
    assert of.load_spec(await found(of, "e"), {"num_ctx": 1}).options == {"num_gpu": 0, "num_ctx": 1}
    assert of.load_spec(await found(of, "e"), {}).embedding_only


@pytest.mark.parametrize("most", [catalog.MOST_MEANINGS, 1])
@pytest.mark.parametrize("unlisted", ["allow", "deny"])
async def test_what_a_name_means(unlisted: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MOST_MEANINGS", most)
    of = catalog_of({"mine": {"path": "ollama:A"}, "far": {"path": "ollama:b:1-cloud"}}, unlisted_models=unlisted)
    await of.refresh()
    for name, alias, model, elsewhere in (
        ("mine", "A", "mine", False),
        ("Library/A:latest", None, "mine", False),
        ("e", None, "e:latest", False),
        ("FAR", "b:1-cloud", "far", True),
        ("x:cloud", None, None, True),
        ("x", None, None, False),
        ("line\nbreak", None, None, False),
    ):
        meaning = of.meaning(name)
        known = meaning.model and meaning.model.name
        assert (meaning.alias, known, meaning.elsewhere) == (alias, model, elsewhere)
        assert meaning.denied == (unlisted == "deny" and model not in ("mine", "far"))
        assert of.meaning(name) == meaning


async def test_what_a_name_means_follows_ollama(ollama: "Changing") -> None:
    of = Catalog(ollama, Settings())
    assert of.meaning("a").model is None
    await of.refresh()
    first = of.meaning("a").model
    assert first is not None
    assert first.shown is None
    assert await of.resolve("a") is of.meaning("a").model  # now that it was asked for
    del ollama.weights["a:latest"]
    await of.refresh()
    assert of.meaning("a").model is None


class Changing(Ollama):
    """Models that are made anew: `weights` and `digests` may be changed, `meanwhile` is done before the next show."""

    def __init__(self) -> None:
        self.weights = {"a:latest": "w1", "b:latest": "w2"}
        self.meanwhile = lambda: None
        self.asked = 0

    async def installed(self) -> list[Installed]:
        return [Installed(name, GB, f"digest of {weights}", False) for name, weights in self.weights.items()]

    async def show(self, name: str) -> Shown:
        self.asked += 1
        self.meanwhile()
        if weights := self.weights.get(name if ":" in name else f"{name}:latest"):
            return Shown(weights, {}, CHAT, False)
        raise UpstreamRefused(Failure(404, b"{}", "application/json"))


def loaded(name: str, weights: str) -> Running:
    return Running(f"{name}:latest", GB, 0, f"digest of {weights}")


@pytest.fixture
def ollama() -> Changing:
    return Changing()


async def runner_of(of: Catalog, entry: Running) -> str | None:
    model = await of.find_running(entry)
    return model.runner if model else None


async def test_what_is_loaded_is_told_by_its_digest(ollama: Changing) -> None:
    of = Catalog(ollama, Settings())
    assert await runner_of(of, loaded("a", "w1")) == "w1"
    ollama.weights["a:latest"] = "w3"
    assert await runner_of(of, loaded("a", "w3")) == "w3"  # the look that it needs is taken
    assert await runner_of(of, loaded("a", "w1")) is None  # the old one, which nothing leads to
    ollama.weights["c:latest"] = "w1"
    of.forget()
    assert await runner_of(of, loaded("a", "w1")) == "w1"  # now another name does
    assert await of.name_for("w1") == "c:latest"
    assert await of.name_for("w1", besides="c:latest") is None


async def test_what_was_loaded_under_a_name_before_it_was_made_anew_is_unknown(ollama: Changing) -> None:
    ollama.weights["a:latest"] = "w3"
    assert await runner_of(Catalog(ollama, Settings()), loaded("a", "w1")) is None


async def test_a_model_made_anew_while_it_is_asked_for_is_asked_for_again(ollama: Changing) -> None:
    of = Catalog(ollama, Settings())
    await of.refresh()

    def once() -> None:
        ollama.meanwhile = lambda: None
        ollama.weights["a:latest"] = "w3"

    ollama.meanwhile = once
    assert (await found(of, "a")).runner == "w3"
    assert ollama.asked == 2
    assert await runner_of(of, loaded("a", "w1")) is None
    assert await runner_of(of, loaded("a", "w3")) == "w3"


async def test_what_did_not_change_is_not_asked_for_again(ollama: Changing) -> None:
    of = Catalog(ollama, Settings())
    await found(of, "a")
    await found(of, "b")
    asked = ollama.asked
    of.forget()
    assert not of.current
    ollama.weights["b:latest"] = "w3"
    assert [(await found(of, name)).runner for name in "ab"] == ["w1", "w3"]
    assert of.current
    assert ollama.asked == asked + 1


async def test_a_change_during_a_look_makes_another_look_necessary(ollama: Changing) -> None:
    of = Catalog(ollama, Settings())
    looking = ollama.installed

    async def installed() -> list[Installed]:
        seen = await looking()
        of.forget()
        return seen

    ollama.installed = installed
    await of.refresh()
    assert not of.current


async def test_a_configured_model_that_is_gone_and_comes_back(ollama: Changing) -> None:
    of = Catalog(ollama, Settings(models={"mine": Model(path="ollama:a")}))
    assert (await found(of, "mine")).runner == "w1"
    del ollama.weights["a:latest"]
    await of.refresh()
    gone = of.meaning("mine").model
    assert gone is not None
    assert (gone.runner, of.is_installed(gone)) == ("w1", False)
    ollama.weights["a:latest"] = "w3"
    await of.refresh()
    back = of.meaning("mine").model
    assert back is not None
    assert (back.runner, of.is_installed(back)) == ("w3", True)


# What Ollama does not show


class Mute(Changing):
    """Says of some models no more than that they are there: `errors`, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, Exception] = {}
        self.away = False

    async def installed(self) -> list[Installed]:
        if self.away:
            raise UpstreamUnreachable("it is away")
        return await super().installed()

    async def show(self, name: str) -> Shown:
        if error := self.errors.get(name):
            self.asked += 1
            raise error
        return await super().show(name)


FAILURES = [UpstreamRefused(Failure(500, b"{}", "application/json")), UpstreamUnreachable("no JSON", sent=True)]


@pytest.mark.parametrize("error", FAILURES, ids=str)
async def test_a_model_that_is_not_shown_is_known_by_its_name(error: Exception, caplog, monkeypatch) -> None:
    ollama = Mute()
    ollama.errors["a:latest"] = error
    of = Catalog(ollama, Settings())
    for _ in range(3):
        assert (await found(of, "a")).runner == "a:latest"
        assert await runner_of(of, loaded("a", "w1")) == "a:latest"
        assert await runner_of(of, loaded("b", "w2")) == "w2"
        of.forget()  # as at every load
    assert ollama.asked == catalog.SHOW_TRIES + 1  # not at each look, and once for b
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    monkeypatch.setattr(catalog, "UNKNOWN_FOR_S", 0.0)
    monkeypatch.setattr(catalog, "UNSHOWN_FOR_S", 0.0)
    of = Catalog(ollama, Settings())
    for _ in range(3):
        assert (await found(of, "a")).runner == "a:latest"
    ollama.errors.clear()
    assert (await found(of, "a")).runner == "w1"
    assert await runner_of(of, loaded("a", "w1")) == "w1"


class Hiccup(Ollama):
    """Fails to show what it is asked for, so often in all."""

    def __init__(self, error: Exception, failures: int) -> None:
        self.error = error
        self.failures = failures
        self.asked = 0

    async def show(self, name: str) -> Shown:
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error
        return await super().show(name)


HICCUPS = [*FAILURES, UpstreamSilent("no answer to /api/show within 10 s")]


@pytest.mark.parametrize("error", HICCUPS, ids=str)
async def test_what_is_not_shown_once_is_asked_for_again_at_once(error: Exception) -> None:
    """Else its names would be two runners, and an embedder would be loaded in another way."""
    of = Catalog(Hiccup(error, 1), Settings())
    assert (await found(of, "a")).runner == (await found(of, "a-kind")).runner == "w1"
    of = Catalog(Hiccup(error, 1), Settings())
    assert of.load_spec(await found(of, "e"), {}).embedding_only


async def test_what_is_not_shown_is_asked_for_soon_and_then_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(catalog.time, "monotonic", lambda: now)
    ollama = Hiccup(FAILURES[0], 2 * catalog.SHOW_TRIES)
    of = Catalog(ollama, Settings())

    async def after(seconds: float) -> tuple[str, int]:
        nonlocal now
        now += seconds
        return (await found(of, "a")).runner, ollama.asked

    assert await after(0.0) == ("a:latest", 2)
    assert await after(catalog.UNKNOWN_FOR_S - 0.5) == ("a:latest", 2)
    assert await after(1.0) == ("a:latest", 4)
    assert await after(catalog.UNSHOWN_FOR_S - 0.5) == ("a:latest", 4)
    assert await after(1.0) == ("w1", 5)


async def test_one_that_is_made_anew_is_asked_for_at_once() -> None:
    ollama = Mute()
    ollama.errors["a:latest"] = FAILURES[0]
    of = Catalog(ollama, Settings())
    assert (await found(of, "a")).runner == "a:latest"
    ollama.errors.clear()
    ollama.weights["a:latest"] = "w3"
    await of.refresh()
    assert (await found(of, "a")).runner == "w3"


@pytest.mark.parametrize("error", FAILURES, ids=str)
async def test_what_is_neither_listed_nor_shown_is_unknown(error: Exception) -> None:
    ollama = Mute()
    ollama.errors["c"] = ollama.errors["c:latest"] = error
    of = Catalog(ollama, Settings())
    assert await of.resolve("c") is None
    assert await runner_of(of, loaded("c", "w9")) is None
    assert await runner_of(of, loaded("a", "w1")) == "w1"


async def test_an_ollama_that_is_away_is_no_model_that_is_not_shown() -> None:
    ollama = Mute()
    of = Catalog(ollama, Settings())
    await of.refresh()
    ollama.errors["a:latest"], ollama.away = UpstreamUnreachable("it is away"), True
    with pytest.raises(UpstreamUnreachable):
        await of.resolve("a")
    ollama.errors.clear()
    ollama.away = False
    assert (await found(of, "a")).runner == "w1"


async def test_a_model_that_is_another_one_at_each_look_is_taken_as_it_is(ollama: Changing) -> None:
    numbers = itertools.count()

    def change() -> None:
        ollama.weights["a:latest"] = f"w{next(numbers)}"

    ollama.meanwhile = change
    of = Catalog(ollama, Settings())
    await of.refresh()
    assert (await found(of, "a")).runner.startswith("w")
    assert ollama.asked == catalog.MOST_TRIES


async def test_without_a_digest_the_name_has_to_do(ollama: Changing) -> None:
    of = Catalog(ollama, Settings())
    assert await runner_of(of, Running("a:latest", GB, 0)) == "w1"
    assert await runner_of(of, Running("b:latest", GB, 0)) == "w2"
    listed = ollama.installed

    async def installed() -> list[Installed]:
        return [Installed(entry.name, GB, "", False) for entry in await listed()]

    ollama.installed = installed
    of = Catalog(ollama, Settings())
    await of.refresh()
    assert await runner_of(of, loaded("a", "w1")) == "w1"
    assert await runner_of(of, loaded("b", "w2")) == "w2"
    assert of.current
