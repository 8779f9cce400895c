"""A real Ollama and the proxy in front of it, asked one after the other from the same state."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.differential.rows import Row, encoded
from tests.differential.wire import Reply, Request, exchange
from tests.waiting import until

KEEP_ALIVE_S = 300
MARGIN_S = 15  # rows tell 20 seconds from 60


@dataclass(frozen=True)
class Sides:
    """The base URLs of both."""

    ollama: str
    proxy: str

    async def answer(self, url: str, row: Row) -> Reply:
        """What `url` says to the row's request, from the state that the row starts with."""
        if not row.warm or set(await self.residents()) - {f"{row.warm}:latest"}:
            await self.empty()
        if row.warm:
            await _generate(url, {"model": row.warm, "keep_alive": KEEP_ALIVE_S})
        for request in row.before:
            await exchange(self.ollama, request)
        return await exchange(url, row.request)

    async def residents(self) -> dict[str, float]:
        """What is in memory, and for how many seconds more."""
        while (reply := await exchange(self.ollama, Request("GET", "/api/ps"))).status != 200:
            pass  # it sometimes answers 500 without a body while a model is being unloaded
        now = datetime.now(UTC)
        return {
            entry["name"]: (datetime.fromisoformat(entry["expires_at"]) - now).total_seconds()
            for entry in json.loads(reply.body)["models"]
        }

    async def until_stays(self, name: str, seconds: float) -> None:
        """Until the model is there for about so long; 0: until it is gone, infinity: for ever."""

        async def does() -> bool:
            return _about((await self.residents()).get(f"{name}:latest", 0), seconds)

        await until(does)

    async def empty(self) -> None:
        """Unload what is in memory; the proxy is asked first, so that it knows."""

        async def done() -> bool:
            found = await self.residents()
            for name in found:
                await _generate(self.proxy, {"model": name, "keep_alive": 0})
                await _generate(self.ollama, {"model": name, "keep_alive": 0})
            return not found

        await until(done)


def _about(left: float, seconds: float) -> bool:
    if seconds == float("inf"):
        return left > 1e9
    return abs(left - seconds) < MARGIN_S if seconds else left == 0


async def _generate(url: str, body: dict[str, object]) -> None:
    await exchange(url, Request("POST", "/api/generate", encoded(body | {"stream": False})))
