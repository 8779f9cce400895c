"""The proxy before a simulated Ollama that things go wrong with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from swapper_proxy.app import running
from swapper_proxy.config import Server, Upstream
from swapper_proxy.ollama.simulator import Faults, SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, at_rest, settings, until

TWO = [SimulatedModel(name, size=1, load_s=0.01, tokens_per_second=200) for name in ("alpha", "beta")]
MESSAGES = [{"role": "user", "content": "x"}]


@asynccontextmanager
async def faulty(
    session: aiohttp.ClientSession,
    *,
    limits: Any = None,
    server: Any = None,
    faults: Faults | None = None,
    room: int = 1,
    **swapper: Any,
) -> AsyncIterator[tuple[Client, Client, Faults]]:
    """The proxy, the simulator directly, and what goes wrong with that; `limits` are those of `upstream`.

    The simulator has `room` for so many models.
    """
    faults = faults or Faults()
    async with serving(Simulator(TWO, max_loaded=room, faults=faults)) as url:
        upstream = Upstream(url=url, **({"grace": 0.5} | (limits or {})))
        chosen = settings(url, **({"unload_settle": 0.0} | swapper))
        chosen = msgspec.structs.replace(chosen, upstream=upstream, server=Server(port=0, **(server or {})))
        async with running(chosen) as proxy:
            yield Client(session, proxy.url), Client(session, url), faults


async def healthy(proxy: Client) -> bool:
    return bool((await proxy.get("/health"))[1]["status"] == "healthy")


async def is_served(proxy: Client, *models: str) -> None:
    """Without anybody's doing each of them is, in the end; then nothing is left."""
    for model in models or ("alpha", "beta"):

        async def answered(model: str = model) -> bool:
            return (await proxy.generate(model))[0] == 200

        await until(answered)
    await at_rest(proxy)
    status = await proxy.status()
    assert (status["waiting"], status["in_flight"]) == (0, 0)
    assert await healthy(proxy)


def text_of(path: str, answer: Any) -> str:
    """What an error says, in the shape of the path's dialect."""
    if path.startswith("/api/"):
        assert answer.keys() == {"error"}
        return str(answer["error"])
    if path == "/v1/messages":
        assert answer.keys() == {"type", "error", "request_id"}
    return str(answer["error"]["message"])
