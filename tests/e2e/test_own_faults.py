"""A bug of the proxy's own: told in the dialect, logged, and never mixed into an answer that has begun."""

import aiohttp
import pytest

from swapper_proxy.web.counting import Counted
from swapper_proxy.web.proxy import Proxy
from tests.e2e.conftest import Client, at_rest

MESSAGE = "internal error; see the proxy's log"


async def bug(*_: object) -> None:
    raise RuntimeError("a bug")


async def test_before_the_answer(
    proxy: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Proxy, "_pass", bug)
    assert await proxy.get("/api/tags") == (500, {"error": MESSAGE})
    status, answer = await proxy.get("/v1/models")
    assert (status, answer["error"]["code"], answer["error"]["message"]) == (500, "internal_error", MESSAGE)
    assert "a bug" in caplog.text


async def test_in_the_middle(proxy: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    seen = 0

    def chunk(self: Counted, data: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise RuntimeError("a bug")

    monkeypatch.setattr(Counted, "chunk", chunk)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with proxy.stream("alpha", 50) as stream:
            assert b"500" not in await stream.read()
    assert "a bug" in caplog.text
    await at_rest(proxy)
    monkeypatch.undo()
    assert (await proxy.generate("alpha"))[0] == 200
