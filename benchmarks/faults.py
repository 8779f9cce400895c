"""Faults of Ollama and of the proxy: how each is made to happen while clients ask."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp

from benchmarks.processes import Process
from swapper_proxy.ollama.simulator import Faults
from tests.real.server import OllamaServer

WAITING = 4
LASTS_S = 5.0  # a fault that somebody or a limit ends
LIMIT_S = 120.0
PAUSE_S = 0.005  # of the client after an answer, and between two looks whether something is so

Step = Callable[["Scene"], Awaitable[float | None]]


class Scene:
    """The proxy, what is behind it, and those who ask.

    A fault is made of its last methods, one after the other: it ends with the last one, or when that says.
    """

    def __init__(
        self, ollama: OllamaServer, session: aiohttp.ClientSession, start: Callable[[], Awaitable[Process]]
    ) -> None:
        self.ollama, self.faults = ollama, Faults()
        self.session, self.start = session, start
        self.kept: list[asyncio.Task[bool]] = []  # who is not to suffer
        self.served: list[float] = []  # when each whole answer was there

    async def run(self, *steps: Step) -> dict[str, float]:
        """Seconds from the end of a fault to the first answer, and how many of those who waited got theirs."""
        self.proxy, over = await self.start(), None
        for step in steps:
            over = await step(self)
        over = over or time.monotonic()
        await self.until(lambda: bool(self.served) and self.served[-1] > over)
        kept = [await task for task in self.kept]
        self.asking.cancel()
        after_s = next(at for at in self.served if at > over) - over
        return {"seconds": after_s, "kept": sum(kept), "of": len(kept)}

    async def ask(self, model: str, tokens: int = 4, begun: asyncio.Event | None = None) -> bool:
        """Whether it got a whole answer.  It is a stream if somebody wants to know when it has begun."""
        wanted = {"model": model, "prompt": "x", "stream": begun is not None, "options": {"num_predict": tokens}}
        url = f"http://127.0.0.1:{self.proxy.port}/api/generate"
        with suppress(aiohttp.ClientError):
            async with self.session.post(url, json=wanted) as answer:
                if begun is not None:
                    await answer.content.readline()
                    begun.set()
                whole = b'"done":true' in await answer.read()
                if whole and begun is None:
                    self.served.append(time.monotonic())
                return whole
        return False

    def client(self, model: str = "alpha") -> None:
        async def again_and_again() -> None:
            while True:
                await self.ask(model)
                await asyncio.sleep(PAUSE_S)

        self.asking = asyncio.create_task(again_and_again())

    def wait(self, model: str) -> None:
        self.kept += [asyncio.create_task(self.ask(model)) for _ in range(WAITING)]

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not holds():  # noqa: ASYNC110 - what tells is no event
                await asyncio.sleep(PAUSE_S)

    async def shown(self, path: str, status: str) -> None:
        async with asyncio.timeout(LIMIT_S):
            while True:
                async with self.session.get(f"http://127.0.0.1:{self.proxy.port}{path}") as answer:
                    if (await answer.json())["status"] == status:
                        return
                await asyncio.sleep(PAUSE_S)

    # When

    async def at_rest(self) -> None:
        self.client()

    async def resident(self) -> None:
        for model in ("beta", "alpha"):
            await self.ask(model)
        await self.session.get(f"http://127.0.0.1:{self.proxy.port}/api/ps")  # an old list is one of now

    async def mid_load(self) -> None:
        self.wait("slow")
        await self.shown("/models/slow", "loading")

    async def mid_stream(self) -> None:
        begun = asyncio.Event()
        self.kept.append(asyncio.create_task(self.ask("alpha", 1000, begun)))
        await begun.wait()
        self.wait("beta")

    async def mid_unload(self) -> None:
        await self.resident()
        self.ollama.freeze()  # so that it takes long enough
        self.wait("beta")
        await self.shown("/models/alpha", "unloading")

    # What

    async def killed(self) -> None:
        self.ollama.kill()
        self.client()
        await asyncio.sleep(LASTS_S)
        await asyncio.to_thread(self.ollama.start)

    async def stopped(self) -> None:
        """Until the proxy has noticed."""
        self.ollama.freeze()
        self.client()
        await self.shown("/status", "degraded")
        self.ollama.thaw()

    async def runner_killed(self) -> None:
        await self.until(lambda: self.ollama.signal_runners(signal.SIGKILL))
        self.client()

    async def runner_stopped(self) -> float:
        over = time.monotonic() + LASTS_S
        await self.until(lambda: self.ollama.signal_runners(signal.SIGSTOP))
        await asyncio.wait(self.kept)
        self.client()
        return over

    async def other_models(self) -> None:
        self.ollama.kill()
        self.ollama.models = self.ollama.models.with_name("others")
        self.client("gamma")
        await asyncio.sleep(LASTS_S)
        await asyncio.to_thread(self.ollama.start)
        await asyncio.to_thread(self.ollama.create, ["gamma"])

    async def port_taken(self) -> None:
        def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            writer.close()

        self.ollama.kill()
        async with await asyncio.start_server(hello, "127.0.0.1", self.ollama.port):
            self.wait("beta")
            self.client()
            await asyncio.sleep(LASTS_S)
        await asyncio.to_thread(self.ollama.start)

    async def silent(self) -> None:
        self.faults.silent = True
        self.wait("beta")
        self.client()
        await self.shown("/status", "degraded")
        self.faults.silent = False

    async def one_load_fails(self) -> None:
        self.faults.failing = 1
        await self.ask("alpha")
        self.client()

    async def load_never_ends(self) -> float:
        self.faults.stalled = True
        over = time.monotonic() + LASTS_S
        await self.ask("alpha")
        self.faults.stalled = False
        self.client()
        return over

    async def proxy_killed(self) -> float:
        os.kill(self.proxy.pid, signal.SIGKILL)
        self.proxy = await self.start()
        self.client()
        return time.monotonic() - self.proxy.start_s


def wrong(name: str, value: Any, model: str = "alpha") -> Step:
    """One of the simulator's faults, for a while; the client asks for this model."""

    async def befall(scene: Scene) -> None:
        well = getattr(scene.faults, name)
        setattr(scene.faults, name, value)
        scene.client(model)
        await asyncio.sleep(LASTS_S)
        setattr(scene.faults, name, well)

    return befall
