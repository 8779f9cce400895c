"""A bug of the proxy's own: told in the dialect, logged, and never mixed into an answer that has begun."""

from unittest.mock import Mock

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
    async with proxy.stream("alpha", 40_000) as stream:
        await stream.content.readany()
        monkeypatch.setattr(Counted, "chunk", Mock(side_effect=RuntimeError("a bug")))
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
    assert "a bug" in caplog.text
    await at_rest(proxy)
    monkeypatch.undo()
    assert (await proxy.generate("alpha"))[0] == 200
