"""The two sides of the comparison, and what is in memory before and after a request to one of them."""

import asyncio
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tests.differential.rows import Row, encoded
from tests.differential.wire import Reply, Request, exchange

LIMIT_S = 10.0
POLL_S = 0.01
KEEP_ALIVE_S = 300


@dataclass(frozen=True)
class Side:
    """Where requests go (`url`), and the Ollama behind it (`ollama`), which is the same on both sides."""

    url: str
    ollama: str

    async def answer(self, row: Row) -> Reply:
        """The row's answer, from the state that it starts with."""
        await self._start_with(row.warm)
        for request in row.before:
            await exchange(self.ollama, request)
        return await exchange(self.url, row.request)

    async def residents(self) -> dict[str, float]:
        """What is in memory, and for how many seconds more."""
        while (reply := await exchange(self.ollama, Request("GET", "/api/ps"))).status != 200:
            pass  # it sometimes answers 500 without a body while a model is being unloaded
        now = datetime.now(UTC)
        return {
            entry["name"]: (datetime.fromisoformat(entry["expires_at"]) - now).total_seconds()
            for entry in json.loads(reply.body)["models"]
        }

    async def empty(self) -> None:
        """Unload whatever is in memory; returns when it is gone."""
        async with asyncio.timeout(LIMIT_S):
            while found := await self.residents():
                for name in found:
                    await self._generate({"model": name, "keep_alive": 0})
                await asyncio.sleep(POLL_S)

    async def _start_with(self, warm: str) -> None:
        if not warm or set(await self.residents()) - {f"{warm}:latest"}:
            await self.empty()
        if warm:
            await self._generate({"model": warm, "keep_alive": KEEP_ALIVE_S})

    async def _generate(self, body: dict[str, object]) -> None:
        await exchange(self.url, Request("POST", "/api/generate", encoded(body | {"stream": False})))


def direct(ollama: str) -> Side:
    return Side(ollama, ollama)


def proxied(proxy: str, ollama: str) -> Side:
    return replace(direct(ollama), url=proxy)
