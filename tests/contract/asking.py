"""Requests to a target, and what comes back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from tests.waiting import LIMIT_S, until

Body = dict[str, Any] | aiohttp.FormData | str | bytes | None


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str | None
    body: bytes
    headers: Any

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Of an NDJSON stream."""
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def events(self) -> list[str]:
        """The data of server-sent events."""
        return [event.removeprefix("data: ") for event in self.text.split("\n\n") if event]


class Ask:
    """One target as a client sees it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def send(self, method: str, path: str, body: Body = None, **headers: str) -> Answer:
        data = json.dumps(body) if isinstance(body, dict) else body
        async with self._session.request(method, self._url + path, data=data, headers=headers) as response:
            content = await response.read()
            return Answer(response.status, response.headers.get("Content-Type"), content, response.headers)

    async def get(self, path: str) -> Answer:
        return await self.send("GET", path)

    async def post(self, path: str, body: Body = None, **headers: str) -> Answer:
        return await self.send("POST", path, body, **headers)

    async def generate(self, model: str, **more: Any) -> Answer:
        return await self.post("/api/generate", {"model": model, **more})

    @asynccontextmanager
    async def streaming(self, model: str, num_predict: int) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer in flight: its first line has come; leaving the block early closes the connection."""
        body = {"model": model, "prompt": "x", "options": {"num_predict": num_predict}}
        async with self._session.post(f"{self._url}/api/generate", json=body) as response:
            assert response.status == 200
            await response.content.readline()
            yield response

    async def residents(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(LIMIT_S):
            while (answer := await self.get("/api/ps")).status != 200:
                pass  # the real one sometimes answers 500 without a body while a model is being unloaded
        found: list[dict[str, Any]] = answer.json["models"]
        return found

    async def names(self) -> list[str]:
        return [entry["name"] for entry in await self.residents()]

    async def expiry(self) -> timedelta:
        """How long the one resident model will stay."""
        (entry,) = await self.residents()
        return datetime.fromisoformat(entry["expires_at"]) - datetime.now(UTC)

    async def until_listed(self, name: str) -> None:
        await until(lambda: self._is_listed(name))

    async def until_empty(self) -> None:
        await until(self._is_empty)

    async def unload_all(self) -> None:
        for entry in await self.residents():
            await self.generate(entry["model"], keep_alive=0)
        await self.until_empty()

    async def round_trips(self, count: int = 20) -> None:
        """Time enough for what was sent before to have arrived."""
        for _ in range(count):
            await self.get("/api/version")

    async def _is_listed(self, name: str) -> bool:
        return name in await self.names()

    async def _is_empty(self) -> bool:
        return not await self.names()
