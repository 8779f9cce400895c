"""The proxy before a simulated Ollama that says odd things."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from swapper_proxy.app import running
from swapper_proxy.config import Settings
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, settings

TWO = [SimulatedModel(name, size=1, load_s=0.01, tokens_per_second=0) for name in ("alpha", "beta")]
# From what was asked and what is true, what is said: JSON, a response, or None for the truth.
Lie = Callable[[Any, Any], Any]


class Liar(Simulator):
    """`lies` by path; they may change while it runs."""

    def __init__(self, lies: dict[str, Lie]) -> None:
        super().__init__(TWO)
        self.lies = lies

    def application(self) -> web.Application:
        app = super().application()
        app.middlewares.append(self._lying)
        return app

    @web.middleware
    async def _lying(self, request: web.Request, handler: Any) -> web.StreamResponse:
        lie = self.lies.get(request.path)
        if lie is None:
            return await handler(request)
        asked = json.loads(await request.read() or b"{}")
        if request.method == "POST" and request.path != "/api/show":
            said = lie(asked, None)  # before anything is done
            return await handler(request) if said is None else _response(said)
        truth = await handler(request)
        said = lie(asked, json.loads(truth.body))
        return truth if said is None else _response(said)


def _response(said: Any) -> web.Response:
    return said if isinstance(said, web.Response) else web.json_response(said)


@asynccontextmanager
async def lying(
    session: aiohttp.ClientSession, lies: dict[str, Lie] | None = None, **changed: Any
) -> AsyncIterator[tuple[Client, Client, dict[str, Lie]]]:
    """The proxy, the simulator directly, and its lies, told from the start; `changed` are sections of the settings."""
    liar = Liar(lies or {})
    async with serving(liar) as url:
        chosen: Settings = msgspec.structs.replace(settings(url, unload_settle=0.0), **changed)
        async with running(chosen) as proxy:
            yield Client(session, proxy.url), Client(session, url), liar.lies
