"""Ollama behind a server that speaks TLS and asks for a user or a key: the proxy shows its own, and tells nobody."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from swapper_proxy import config
from swapper_proxy.app import Running, running
from swapper_proxy.ollama.simulator import Simulator, serving
from tests.e2e.conftest import Client, until
from tests.e2e.faulty import MESSAGES, TWO
from tests.e2e.fronts import Front, fronted, signed
from tests.e2e.process import started
from tests.real.server import OllamaServer

PASSWORD, TOKEN = "pass:w@rd/1", "sk-front-1"
BASIC = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
ESCAPED = "pass%3Aw%40rd%2F1"
BEARER = f"Bearer {TOKEN}"
SECRETS = (PASSWORD, ESCAPED, TOKEN, BASIC.split()[1])


@asynccontextmanager
async def configured(
    session: aiohttp.ClientSession, folder: Path, text: str, **environ: str
) -> AsyncIterator[tuple[Client, Running]]:
    """The proxy with this file, which may be written anew."""
    file = folder / "c.yaml"
    file.write_text(text)

    def read() -> config.Settings:
        return config.load(str(file), environ, {("server", "port"): 0})

    async with running(read(), read=read) as up:
        yield Client(session, up.url), up


async def never_told(proxy: Client, up: Running, caplog: pytest.LogCaptureFixture) -> None:
    pages = [str((await proxy.get(path))[1]) for path in ("/config", "/status", "/health", "/models", "/metrics")]
    for secret in SECRETS:
        assert [page for page in (*pages, caplog.text, up.upstream, up.note) if secret in page] == []


@pytest.mark.parametrize("way", ["url", "env", "file", "text"])
async def test_each_way_to_tell_the_credentials(
    session: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    caplog.set_level("DEBUG")
    (tmp_path / "secret").write_text(f"{BEARER}\n")
    async with serving(Simulator(TWO)) as url, fronted(session, url, takes=BASIC if way == "url" else BEARER) as front:
        text = {
            "url": f"upstream: {{url: '{front.url.replace('//', f'//ann:{ESCAPED}@')}'}}",
            "env": f"upstream: {{url: '{front.url}', headers: {{authorization: {{env: FRONT}}}}}}",
            "file": f"upstream: {{url: '{front.url}', headers: {{Authorization: {{file: '{tmp_path}/secret'}}}}}}",
            "text": f"upstream: {{url: '{front.url}', headers: {{Authorization: {BEARER}}}}}",
        }[way]
        async with configured(session, tmp_path, text, FRONT=BEARER) as (proxy, up):
            assert up.engine.reachable
            assert (await proxy.generate("alpha"))[0] == 200
            assert (await proxy.get("/api/tags"))[0] == 200
            assert (await proxy.post("/v1/chat/completions", {"model": "beta", "messages": MESSAGES}))[0] == 200
            assert {"/api/tags", "/api/ps", "/api/show", "/api/generate", "/v1/chat/completions"} <= {*front.paths()}
            shown = (await proxy.get("/config"))[1]["upstream"]
            assert (shown["url"], [*shown["headers"].values()]) == (front.url, ["hidden"])
            await never_told(proxy, up, caplog)


async def test_the_client_s_own_credentials_stay_here(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """They do not replace those of the proxy, nor go to the front.  The cookie of the front goes to no client."""
    async with serving(Simulator(TWO)) as url, fronted(session, url, takes=BEARER) as front:
        text = f"upstream: {{url: '{front.url}', headers: {{Authorization: {BEARER}, X-Team: a}}}}"
        async with configured(session, tmp_path, text) as (proxy, _):
            own = {"Authorization": "Bearer mine", "X-Api-Key": "mine", "Cookie": "a=mine", "x-team": "mine"}
            front.asked.clear()
            for method, path in (("GET", "/api/tags"), ("POST", "/api/generate"), ("POST", "/api/pull")):
                body = {"model": "alpha", "prompt": "x", "stream": False}
                async with session.request(method, proxy.url + path, json=body, headers=own) as answer:
                    assert answer.status == 200
                    assert "Set-Cookie" not in answer.headers
            assert front.asked
            assert {(asked["authorization"], asked["x-team"]) for asked in front.asked} == {(BEARER, "a")}
            assert "mine" not in str(front.asked)


async def test_without_credentials_of_the_proxy_those_of_the_client_go_through(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with (
        serving(Simulator(TWO)) as url,
        fronted(session, url) as front,
        configured(session, tmp_path, f"upstream: {{url: '{front.url}'}}") as (proxy, _),
    ):
        assert (await proxy.post("/api/pull", {"model": "alpha"}, Authorization="Bearer mine"))[0] == 200
        (pulled,) = [asked for asked in front.asked if asked[""] == "/api/pull"]
        assert pulled["authorization"] == "Bearer mine"


@pytest.mark.parametrize("known", [True, False])
async def test_credentials_that_are_missing_or_wrong(
    session: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    """No client is told 401: it could not help.  The message names what the operator has to set."""
    headers = f", headers: {{Authorization: Bearer {SECRETS[0][:3]}-old}}" if known else ""
    async with serving(Simulator(TWO)) as url, fronted(session, url, takes=BEARER) as front:
        text = f"upstream: {{url: '{front.url}', grace: 0.05{headers}}}"
        async with configured(session, tmp_path, text) as (proxy, up):
            why = (
                "it does not accept the credentials of upstream.headers" if known else "it asks for authentication (Ba"
            )
            assert (await proxy.status())["reason"].startswith(f"Ollama is not reachable: {why}")
            for path in ("/api/tags", "/api/version", "/api/ps"):
                status, answer = await proxy.get(path)
                assert (status, answer["error"].startswith(f"Ollama is not reachable: {why}")) == (502, True)
            status, answer = await proxy.generate("alpha")
            assert (status, answer["error"].startswith(f"Ollama is not reachable: {why}")) == (502, True)
            assert "pas-old" not in caplog.text
            await never_told(proxy, up, caplog)


@pytest.mark.parametrize("change", ["the file", "the URL"])
async def test_a_reload_takes_new_credentials(session: aiohttp.ClientSession, tmp_path: Path, change: str) -> None:
    def text(front: Front, password: str) -> str:
        if change == "the URL":
            return f"upstream: {{url: '{front.url.replace('//', f'//ann:{password}@')}'}}"
        (tmp_path / "secret").write_text("Basic " + base64.b64encode(f"ann:{password}".encode()).decode())
        return f"upstream: {{url: '{front.url}', headers: {{Authorization: {{file: '{tmp_path}/secret'}}}}}}"

    async with (
        serving(Simulator(TWO)) as url,
        fronted(session, url, takes="Basic YW5uOm9uZQ==") as front,
        configured(session, tmp_path, text(front, "one")) as (proxy, up),
    ):
        assert (await proxy.generate("alpha"))[0] == 200
        front.takes = {"Basic YW5uOnR3bw=="}

        async def away() -> bool:
            await proxy.get("/api/tags")
            return not up.engine.reachable

        await until(away)
        (tmp_path / "c.yaml").write_text(text(front, "two"))
        status, answer = await proxy.post("/reload")
        assert (status, answer["config"]["needs_restart"]) == (200, [])

        async def back() -> bool:
            return (await proxy.generate("alpha"))[0] == 200

        await until(back)
        assert up.upstream == front.url


async def test_a_reload_without_the_file_changes_nothing(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(BEARER)
    async with serving(Simulator(TWO)) as url, fronted(session, url, takes=BEARER) as front:
        text = f"upstream: {{url: '{front.url}', headers: {{Authorization: {{file: '{tmp_path}/secret'}}}}}}"
        async with configured(session, tmp_path, text) as (proxy, _):
            (tmp_path / "secret").unlink()
            status, answer = await proxy.post("/reload")
            where = f"upstream.headers.Authorization.file: {tmp_path}/secret: No such file or directory"
            assert (status, where in answer["error"]["message"]) == (400, True)
            assert (await proxy.generate("alpha"))[0] == 200


@pytest.mark.parametrize("trust", ["ca_file", "verify: false"])
async def test_a_real_ollama_behind_tls_and_a_password(
    session: aiohttp.ClientSession, tmp_path: Path, ollama_server: OllamaServer, trust: str
) -> None:
    """As a process, on the loop that it uses; streams, loads, and the proxy's own questions."""
    made = signed(tmp_path)
    told = f"ca_file: '{made.ca}'" if trust == "ca_file" else trust
    (tmp_path / "c.yaml").write_text(f"upstream: {{{told}}}")
    async with fronted(session, ollama_server.url, made.server, takes=BASIC) as front:
        url = front.url.replace("//", f"//ann:{ESCAPED}@")
        options = ("--config", str(tmp_path / "c.yaml"))
        async with started(session, url, tmp_path, *options) as (proxy, process):
            async with proxy.stream("alpha", 50) as stream:
                assert b'"done":true' in (await stream.read()).splitlines()[-1]
            assert (await proxy.generate("beta"))[0] == 200
            assert (await proxy.status())["loaded_models"] == ["beta:latest"]
            process.terminate()
            await process.wait()
        said = (tmp_path / "serve.log").read_text()
        assert f"-> {front.url} " in said
        assert [secret for secret in SECRETS if secret in said] == []
        assert ("upstream.verify: false: " in said) is (trust != "ca_file")


def test_what_is_printed_of_the_settings_holds_no_value() -> None:
    upstream = config.Upstream(url=f"http://ann:{PASSWORD}@box", headers={"Authorization": BEARER})
    for printed in (repr(upstream), repr(config.Settings(upstream=upstream)), str(upstream)):
        assert [secret for secret in SECRETS if secret in printed] == []
    shown = msgspec.json.encode(config.shown(config.Settings(upstream=upstream))).decode()
    assert [secret for secret in SECRETS if secret in shown] == []
