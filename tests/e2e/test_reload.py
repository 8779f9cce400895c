"""Another configuration while requests are under way, on the real Ollama."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from swapper_proxy import config
from swapper_proxy.app import running
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.types import Limits
from swapper_proxy.runtime import standby
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.loader import Loader
from swapper_proxy.web.intake import Intake
from tests.e2e.conftest import LIMIT_S, Client, at_rest, busy, is_in, until, waits
from tests.e2e.process import served
from tests.e2e.test_faults import mortal  # noqa: F401 - a fixture
from tests.e2e.test_keep_alive import is_about, is_kept
from tests.real.server import OllamaServer, free_port

TWO = {"alpha": {"path": "ollama:alpha", "size_gb": 1}, "beta": {"path": "ollama:beta", "size_gb": 1}}


@dataclass
class File:
    """A configuration file in front of this Ollama."""

    path: Path
    upstream: str

    def write(self, text: str = "", **sections: Any) -> None:
        given = {"server": {"port": 0}, "upstream": {"url": self.upstream}, "history": "off", "models": TWO}
        for section, values in sections.items():
            given[section] = {**given.get(section, {}), **values} if section in ("server", "upstream") else values
        self.path.write_text(text or yaml.safe_dump(given))

    def read(self) -> config.Settings:
        return config.load(str(self.path), environ={})


@pytest.fixture
def file(tmp_path: Path, ollama: Client) -> File:
    file = File(tmp_path / "swapper.yaml", ollama.url)
    file.write()
    return file


@asynccontextmanager
async def reloadable(session: aiohttp.ClientSession, file: File) -> AsyncIterator[Client]:
    async with running(file.read(), read=file.read) as proxy:
        yield Client(session, proxy.url)


@pytest.fixture
async def proxy(session: aiohttp.ClientSession, file: File) -> AsyncIterator[Client]:
    async with reloadable(session, file) as proxy:
        yield proxy


async def reload(proxy: Client, *needs_restart: str) -> None:
    status, answer = await proxy.post("/reload")
    assert (status, answer["status"]) == (200, "success"), answer
    assert answer["config"] == (await proxy.status())["config"]
    assert (answer["config"]["error"], answer["config"]["needs_restart"]) == (None, [*needs_restart])


async def loads(proxy: Client) -> float:
    return await proxy.metric("swapper_load_seconds_count")


async def test_another_name_for_what_is_in_memory(proxy: Client, file: File) -> None:
    async with busy(proxy, "alpha"):
        file.write(models={"first": {"path": "ollama:alpha", "priority": "high", "size_gb": 2}})
        await reload(proxy)
        _, model = await proxy.get("/models/first")
        assert (model["status"], model["in_flight"], model["priority"], model["size_gb"]) == ("loaded", 1, "high", 2)
        assert (await proxy.status())["active_model"] == "first"
    assert (await proxy.generate("first"))[0] == 200
    assert (await proxy.get("/models/beta"))[1]["configured"] is False
    assert await loads(proxy) == 1


async def test_the_stream_goes_on_and_nothing_is_unloaded(
    proxy: Client, ollama: Client, ollama_server: OllamaServer, file: File
) -> None:
    async with proxy.stream("alpha", 2000) as stream:
        await stream.content.readany()
        file.write(swapper={"mode": "multi-active", "max_concurrent_models": 2, "max_queue": 7})
        with ollama_server.held():
            await reload(proxy)
        rest = await stream.read()
    assert b'"done":true' in rest
    assert await ollama.resident() == ["alpha:latest"]
    assert await loads(proxy) == 1
    assert ((await proxy.status())["mode"], (await proxy.get("/health"))[1]["mode"]) == ("multi-active", "multi-active")


async def test_from_two_models_to_one(session: aiohttp.ClientSession, roomy: Client, tmp_path: Path) -> None:
    file = File(tmp_path / "swapper.yaml", roomy.url)
    file.write(swapper={"mode": "multi-active", "max_concurrent_models": 2})
    async with reloadable(session, file) as proxy:
        await proxy.generate("alpha")
        async with busy(proxy, "beta"):
            file.write()
            await reload(proxy)
            await is_in(proxy, "alpha", "unloaded")
            assert await proxy.state("beta") == "loaded"
        assert await roomy.resident() == ["beta:latest"]


async def test_those_who_wait_are_served_by_the_new_limits(
    session: aiohttp.ClientSession, roomy: Client, tmp_path: Path
) -> None:
    file = File(tmp_path / "swapper.yaml", roomy.url)
    file.write()
    async with reloadable(session, file) as proxy, busy(proxy, "alpha"):
        asking = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)
        file.write(swapper={"mode": "multi-active", "max_concurrent_models": 2})
        await reload(proxy)
        assert (await asking)[0] == 200
        assert await proxy.state("alpha") == "loaded"


async def test_those_who_wait_for_what_fits_no_more(proxy: Client, file: File) -> None:
    async with busy(proxy, "alpha"):
        asking = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)
        file.write(models={**TWO, "alpha": {**TWO["alpha"], "pinned": True}})
        await reload(proxy)
        assert (await asking)[0] == 507
    await at_rest(proxy)


async def test_during_a_load(proxy: Client, file: File) -> None:
    asking = asyncio.create_task(proxy.generate("slow"))
    await is_in(proxy, "slow:latest", "loading")
    file.write(models={"lazy": {"path": "ollama:slow", "size_gb": 1}})
    await reload(proxy)
    assert (await asking)[0] == 200
    assert (await proxy.state("lazy"), await loads(proxy)) == ("loaded", 1)


async def test_a_pin_by_hand_that_fails_leaves_that_of_the_file(
    proxy: Client, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = asyncio.Event()

    async def failing(*_: object) -> None:
        await go_on.wait()
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "load", failing)
        pinning = asyncio.create_task(proxy.post("/models/beta/pin"))
        await is_in(proxy, "beta", "loading")
        file.write(models={**TWO, "beta": {**TWO["beta"], "pinned": True}})
        await reload(proxy)
        go_on.set()
        assert (await pinning)[0] == 503
    assert (await proxy.get("/models/beta"))[1]["pinned"]


async def test_pins_come_and_go(proxy: Client, ollama: Client, file: File) -> None:
    file.write(models={**TWO, "beta": {**TWO["beta"], "pinned": True}})
    await reload(proxy)
    await is_in(proxy, "beta", "loaded")
    assert (await proxy.generate("alpha"))[0] == 507
    await is_kept(ollama)
    file.write()
    await reload(proxy)
    await is_about(ollama, 5)
    assert (await proxy.generate("alpha"))[0] == 200


async def test_a_pin_that_goes_in_mid_load(
    session: aiohttp.ClientSession, ollama: Client, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama was told to keep it longer than it would by itself."""
    monkeypatch.setattr(standby, "KEEP_FIRST_S", 0.1)
    lazy = {"path": "ollama:slow", "size_gb": 1}
    file.write(models={"lazy": {**lazy, "pinned": True}})
    async with reloadable(session, file) as proxy:
        await is_in(proxy, "lazy", "loading")
        file.write(models={"lazy": lazy})
        await reload(proxy)
        await is_in(proxy, "lazy", "loaded")
        await is_about(ollama, 5)


async def test_what_is_only_for_the_start_is_not_loaded_again(proxy: Client, file: File) -> None:
    await proxy.generate("alpha")
    file.write(models={**TWO, "beta": {**TWO["beta"], "preload": True}})
    await reload(proxy)
    assert (await proxy.generate("alpha"))[0] == 200
    assert await loads(proxy) == 1


async def test_what_is_for_the_start_is_still_loaded_during_the_start(
    session: aiohttp.ClientSession, file: File
) -> None:
    lazy = {"path": "ollama:slow", "size_gb": 1, "preload": True}
    file.write(models={**TWO, "lazy": lazy}, swapper={"default_model": "beta"})
    async with reloadable(session, file) as proxy:
        await is_in(proxy, "lazy", "loading")
        await reload(proxy)
        await is_in(proxy, "beta", "loaded")


async def test_what_is_for_the_start_is_still_loaded_when_ollama_is_back(
    session: aiohttp.ClientSession,
    mortal: OllamaServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    file = File(tmp_path / "swapper.yaml", mortal.url)
    file.write(models={**TWO, "beta": {**TWO["beta"], "preload": True}})
    async with reloadable(session, file) as proxy:
        await is_in(proxy, "beta", "loaded")
        mortal.stop()

        async def is_away() -> bool:
            return (await proxy.get("/ready"))[0] == 503

        await until(is_away)
        await reload(proxy)
        mortal.start()
        await is_in(proxy, "beta", "loaded")


async def test_routes_and_limits_of_the_door(proxy: Client, file: File) -> None:
    file.write(routes={"auto": [{"model": "beta"}]}, server={"max_body_bytes": 1000})
    await reload(proxy)
    assert (await proxy.generate("auto"))[1]["model"] == "beta"
    assert (await proxy.post("/api/generate", {"model": "beta", "prompt": "x" * 2000}))[0] == 413


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("models: [", "not valid YAML"),
        ("models: {a: {path: nonsense}}", 'models.a.path: expected "ollama:"'),
        ("nonsense: 1", "nonsense: unknown key"),
        ("swapper: {default_model: nobody}", "swapper.default_model"),
        (None, "no such file"),
    ],
)
async def test_what_is_broken_changes_nothing(proxy: Client, file: File, broken: str | None, why: str) -> None:
    before = (await proxy.get("/config"))[1]
    if broken is None:
        file.path.unlink()
    else:
        file.write(broken)
    status, answer = await proxy.post("/reload")
    assert (status, answer["error"]["code"]) == (400, "invalid_config")
    assert why in answer["error"]["message"]
    told = (await proxy.status())["config"]
    assert why in told["error"]
    assert (await proxy.get("/config"))[1] == before
    assert await proxy.metric("swapper_config_last_reload_successful") == 0
    assert (await proxy.generate("alpha"))[0] == 200
    file.write()
    await reload(proxy)
    assert await proxy.metric("swapper_config_last_reload_successful") == 1


async def test_what_needs_a_restart_says_so(proxy: Client, file: File) -> None:
    before = (await proxy.get("/config"))[1]
    file.write(
        server={"port": 1, "host": "localhost"},
        upstream={"url": "http://127.0.0.1:2", "connect_timeout": 3},
        history={"path": str(file.path.parent / "elsewhere")},
    )
    await reload(proxy, "server.host", "server.port", "upstream.url", "upstream.connect_timeout", "history.path")
    assert (await proxy.get("/config"))[1] == before
    assert (await proxy.generate("alpha"))[0] == 200
    file.write()
    await reload(proxy)


async def test_a_bug_leaves_all_as_it_was(proxy: Client, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    before, configure = (await proxy.get("/config"))[1], Engine.configure

    def fail(self: Engine, swapper: config.Swapper, limits: Limits) -> None:
        configure(self, swapper, limits)
        if swapper.mode != "single-active":
            raise RuntimeError("a bug")

    monkeypatch.setattr(Engine, "configure", fail)
    file.write(swapper={"mode": "multi-active", "max_concurrent_models": 2}, models={"third": TWO["beta"]})
    assert (await proxy.post("/reload"))[0] == 500
    status = await proxy.status()
    assert (status["config"]["error"], status["mode"]) == ("internal error; see the proxy's log", "single-active")
    assert "third" not in status["available_models"]
    assert (await proxy.get("/config"))[1] == before
    assert await proxy.metric("swapper_config_last_reload_successful") == 0
    file.write()
    await reload(proxy)


async def test_what_is_in_memory_stays_counted(proxy: Client, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(server={"max_buffered_bytes": 300_000})
    await reload(proxy)
    held, go_on = 0, asyncio.Event()
    hold = Intake.hold

    def counted(self: Intake, size: int) -> None:
        nonlocal held
        held += size
        hold(self, size)

    async def is_held() -> bool:
        return held > 200_000

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"model": "alpha", "stream": false, "options": {"num_predict": 1}, "prompt": "x", "more": "'
        yield b"x" * 200_000
        await go_on.wait()
        yield b'"}'

    async def too_much() -> bool:
        return (await proxy.generate("alpha", more="x" * 200_000))[0] == 503

    monkeypatch.setattr(Intake, "hold", counted)
    asking = asyncio.create_task(proxy.session.post(f"{proxy.url}/api/generate", data=slowly()))
    await until(is_held)
    assert await too_much()
    await reload(proxy)
    assert await too_much()
    go_on.set()
    async with await asking as answer:
        assert answer.status == 200
    assert not await too_much()
    assert held == 0


async def test_many_at_once(proxy: Client, file: File) -> None:
    async with busy(proxy, "alpha"):
        answers = await asyncio.gather(*(proxy.post("/reload") for _ in range(20)))
        assert {status for status, _ in answers} == {200}
    assert await loads(proxy) == 1


async def test_by_a_signal_and_by_the_command(session: aiohttp.ClientSession, file: File, tmp_path: Path) -> None:
    async with served(session, file.upstream, tmp_path, "--config", str(file.path)) as (proxy, process):
        file.write(swapper={"mode": "multi-active", "max_concurrent_models": 2})
        os.kill(process, signal.SIGHUP)

        async def is_read() -> bool:
            return (await proxy.status())["mode"] == "multi-active"

        await until(is_read)
        file.write("nonsense: 1")
        os.kill(process, signal.SIGHUP)

        async def is_refused() -> bool:
            return "nonsense" in ((await proxy.status())["config"]["error"] or "")

        await until(is_refused)
        assert (await proxy.status())["mode"] == "multi-active"


async def test_whoever_asked_may_leave(proxy: Client, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(models={**TWO, "beta": {**TWO["beta"], "pinned": True}})
    await reload(proxy)
    await is_in(proxy, "beta", "loaded")
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def keep(*_: object) -> None:
        under_way.set()
        await go_on.wait()

    monkeypatch.setattr(Engine, "keep", keep)
    file.write(swapper={"default_model": "alpha", "default_after": 0.2})
    asking = asyncio.create_task(proxy.post("/reload"))
    await under_way.wait()
    asking.cancel()
    for _ in range(10):  # so that the proxy sees that nobody is there
        await proxy.status()
    go_on.set()
    await is_in(proxy, "alpha", "loaded")  # by the watch that the new configuration wants


async def test_not_at_the_end(session: aiohttp.ClientSession, file: File) -> None:
    async with running(file.read(), read=file.read) as proxy:
        await proxy.reload()
    with pytest.raises(ProxyError, match="shutting down"):
        await proxy.reload()


async def test_by_a_signal_while_it_starts(session: aiohttp.ClientSession, file: File, tmp_path: Path) -> None:
    """Ollama is frozen, so the start takes long."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as ollama:
        port, upstream = free_port(), f"http://127.0.0.1:{ollama.sockets[0].getsockname()[1]}"
        command = ["-m", "swapper_proxy", "serve", "--config", str(file.path), "--port", str(port)]
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, "--upstream", upstream, stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(LIMIT_S):
                await asked.wait()
            file.write(swapper={"mode": "multi-active", "max_concurrent_models": 2})
            process.send_signal(signal.SIGHUP)
            go_on.set()

            async def is_read() -> bool:
                assert process.returncode is None
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    return (await Client(session, f"http://127.0.0.1:{port}").status())["mode"] == "multi-active"
                return False

            await until(is_read)
        finally:
            go_on.set()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def test_a_key_that_is_no_more_reads_no_events(proxy: Client, file: File) -> None:
    old, new = {"Authorization": "Bearer sk-the-old"}, {"Authorization": "Bearer sk-the-new"}
    file.write(keys={"management": {"ops": {"key": "sk-the-old"}}})
    assert (await proxy.post("/reload"))[0] == 200
    async with proxy.session.get(f"{proxy.url}/events", headers=old) as events:
        assert (await proxy.post("/reload", **old))[0] == 200
        file.write(keys={"management": {"ops": {"key": "sk-the-new"}}}, swapper={"max_queue": 7})
        assert (await proxy.post("/reload", **old))[0] == 200
        async with asyncio.timeout(LIMIT_S):
            await events.read()
    assert (await proxy.get("/events", **old))[0] == 401
    async with proxy.session.get(f"{proxy.url}/events", headers=new) as events:
        assert events.status == 200
        file.write(keys={"management": {"ops": {"key": "sk-the-new"}}})
        assert (await proxy.post("/reload", **new))[0] == 200  # the same keys: the stream goes on
        assert await events.content.readline()
        assert not events.content.at_eof()


@pytest.mark.parametrize("kind", ["clients", "management"])
@pytest.mark.parametrize("text", ["", "swapper: {max_queue: 7}"])
async def test_the_last_key_does_not_go(proxy: Client, file: File, kind: str, text: str) -> None:
    key = {"Authorization": "Bearer sk-number-one"}
    file.write(keys={kind: {"one": {"key": "sk-number-one"}}})
    assert (await proxy.post("/reload"))[0] == 200
    path = "/api/tags" if kind == "clients" else "/status"
    assert [(await proxy.get(path))[0], (await proxy.get(path, **key))[0]] == [401, 200]
    file.path.write_text(text)
    status, answer = await proxy.post("/reload", **key)
    assert (status, answer["error"]["code"]) == (400, "invalid_config")
    assert f"keys.{kind}: there are none any more" in answer["error"]["message"]
    assert (await proxy.get(path))[0] == 401
    file.write(keys={kind: {"two": {"key": "sk-number-two"}}})
    assert (await proxy.post("/reload", **key))[0] == 200
    assert (await proxy.get(path, **key))[0] == 401


async def test_the_grace_at_the_end(session: aiohttp.ClientSession, file: File) -> None:
    file.write(server={"shutdown_grace": 3600})
    async with contextlib.AsyncExitStack() as streams:
        async with reloadable(session, file) as proxy:
            file.write(server={"shutdown_grace": 0.5})
            await reload(proxy)
            stream = await streams.enter_async_context(proxy.stream("alpha", 20_000))
            await stream.content.readany()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
