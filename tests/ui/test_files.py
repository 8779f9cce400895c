"""The console's files as they are served, and the configuration it shows."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import Upstream
from swapper_proxy.ollama.simulator import SimulatedModel
from swapper_proxy.web import console
from tests.e2e.conftest import Client, settings, simulated

FOREIGN = re.compile(rb"""(?:https?:)?//[\w.-]+\.\w+""")
NAMESPACE = b"http://www.w3.org"
HARMLESS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": console.POLICY.decode(),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@pytest.fixture
async def proxy(session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    async with simulated(session, SimulatedModel("alpha")) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/ui/", "text/html; charset=utf-8"),
        ("/ui/index.html", "text/html; charset=utf-8"),
        ("/ui/app.js?v=1", "text/javascript; charset=utf-8"),
        ("/ui/style.css", "text/css; charset=utf-8"),
        ("/ui/icon.svg", "image/svg+xml"),
    ],
)
async def test_a_file_is_served(proxy: Client, path: str, content_type: str) -> None:
    async with proxy.session.get(proxy.url + path) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
        assert HARMLESS.items() <= answer.headers.items()
        assert await answer.read()


@pytest.mark.parametrize("name", console.files())
def test_a_file_names_no_other_place(name: str) -> None:
    assert set(FOREIGN.findall(console.files()[name].body)) <= {NAMESPACE}


@pytest.mark.parametrize("known", ["{etag}", "W/{etag}", '"other", {etag}', "*"])
async def test_a_file_that_is_known_is_not_sent_again(proxy: Client, known: str) -> None:
    etag = console.files()["app.js"].etag
    async with proxy.session.get(
        proxy.url + "/ui/app.js", headers={"If-None-Match": known.format(etag=etag)}
    ) as answer:
        assert (answer.status, answer.headers["ETag"], await answer.read()) == (304, etag, b"")


async def test_a_file_that_has_changed_is_sent(proxy: Client) -> None:
    async with proxy.session.get(proxy.url + "/ui/app.js", headers={"If-None-Match": '"other"'}) as answer:
        assert answer.status == 200


async def test_the_folder_without_its_slash_leads_to_it(proxy: Client) -> None:
    async with proxy.session.get(proxy.url + "/ui", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (308, "ui/")


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../console.py",
        "/ui/%2e%2e/console.py",
        "/ui/..%2fconsole.py",
        "/ui//etc/passwd",
        f"/ui/{Path(console.__file__)}",
        "/ui/app.js/",
        "/ui/static/app.js",
        "/ui/nothing.js",
    ],
)
async def test_nothing_else_is_served(proxy: Client, path: str) -> None:
    """On a bare connection: clients tidy such paths up."""
    status, body = await _raw(proxy.url, path)
    assert status == 404
    assert msgspec.json.decode(body)["error"]["code"] == "not_found"


async def _raw(url: str, path: str) -> tuple[int, bytes]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def test_the_console_is_only_read(proxy: Client) -> None:
    assert (await proxy.post("/ui/"))[0] == 405


async def test_the_configuration_tells_no_password(session: aiohttp.ClientSession) -> None:
    chosen = settings("")
    chosen = msgspec.structs.replace(chosen, upstream=Upstream(url="http://someone:secret@127.0.0.1:9/"))
    async with running(chosen) as proxy, session.get(f"{proxy.url}/config") as answer:
        text = await answer.text()
    told = msgspec.json.decode(text)
    assert "secret" not in text
    assert told["upstream"]["url"] == "http://127.0.0.1:9/"
    assert told["models"]["first"]["path"] == "ollama:alpha"
    assert told["swapper"]["max_wait"]["medium"] == 60
