"""Clients of the relay benchmark: `python -m benchmarks.clients JOB`, where JOB is JSON; prints what they saw as JSON.

`{"port", "model", "connections", "requests"}`: closed-loop clients that ask for one JSON object after the other.
`{"port", "model", "connections", "chunks", "interval_ms", "hold"}`: streams that begin at once, each asked for once.
With `hold` a line says when all have begun, and they are left when standard input ends.

Every answer is checked, and `failures` counts what was wrong; what takes too long ends it.  Times are seconds.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, quantiles
from typing import Any

import uvloop

from benchmarks.upstream import ANSWER

OPENING = 100  # connections opened at a time
LIMIT_S = 120.0  # for all answers; the longest job takes a tenth of that


@dataclass
class Job:
    """What all clients do together."""

    port: int
    model: str | list[str]
    connections: int
    requests: int = 0
    chunks: int = 0
    interval_ms: int = 0
    hold: bool = False

    def request(self, number: int) -> bytes:
        model = self.model if isinstance(self.model, str) else self.model[number % len(self.model)]
        body = {"model": model, "prompt": "Why is the sky blue?", "stream": bool(self.chunks)}
        content = json.dumps(body, separators=(",", ":"))
        lines = ["POST /api/generate HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
        lines += [f"X-Chunks: {self.chunks}", f"X-Interval-Ms: {self.interval_ms}", f"Content-Length: {len(content)}"]
        return "\r\n".join([*lines, "", content]).encode()


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, ask: bytes) -> None:
        self.ask = ask
        self.received = bytearray()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        for future in (self.began, self.over):
            if not future.done():
                future.set_exception(ConnectionError("the connection was closed"))

    def send(self) -> None:
        self.received.clear()
        self.asked_at = time.perf_counter()
        if not self.over.done():  # else it was closed as soon as it was opened, which is told at the end
            self.transport.write(self.ask)


class Asker(Client):
    """Asks for one JSON object after the other, `requests` times."""

    def __init__(self, ask: bytes, requests: int) -> None:
        super().__init__(ask)
        self.left = requests
        self.latencies: list[float] = []

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.received.startswith(b"HTTP/1.1 200"):
            self.transport.abort()
            return
        if not self.received.endswith(ANSWER):
            return
        self.latencies.append(time.perf_counter() - self.asked_at)
        self.left -= 1
        if self.left:
            self.send()
        else:
            self.over.set_result(None)


class Stream(Client):
    """Asks for one stream of so many lines, and notes when its pieces come."""

    def __init__(self, ask: bytes, lines: int) -> None:
        super().__init__(ask)
        self.lines_left = lines
        self.times: list[float] = []

    def data_received(self, data: bytes) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) <= 2 and not self.began.done():
            self.received += data
            if b'"done"' in self.received and self.received.startswith(b"HTTP/1.1 200"):
                self.began.set_result(None)
        self.lines_left -= data.count(b"}")
        if data.endswith(b"0\r\n\r\n"):
            if self.lines_left:
                self.transport.abort()
            else:
                self.over.set_result(None)


async def connected(job: Job, clients: list[Any]) -> None:
    """All connected, not too many at a time."""
    loop = asyncio.get_running_loop()
    for start in range(0, len(clients), OPENING):
        some = clients[start : start + OPENING]
        await asyncio.gather(*(loop.create_connection(lambda c=c: c, "127.0.0.1", job.port) for c in some))


async def ended(waited_for: Iterable[asyncio.Future[None]]) -> list[BaseException | None]:
    """How each went.  TimeoutError."""
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*waited_for, return_exceptions=True)


async def ask(job: Job) -> dict[str, Any]:
    clients = [Asker(job.request(n), job.requests // job.connections) for n in range(job.connections)]
    await connected(job, clients)
    began = time.perf_counter()
    for client in clients:
        client.send()
    ends = await ended(client.over for client in clients)
    latencies = [latency for client in clients for latency in client.latencies]
    return {
        "failures": sum(end is not None for end in ends),
        "answers": len(latencies),
        "seconds": time.perf_counter() - began,
        "latency": summary(latencies),
    }


def summary(times: list[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds; nothing of one time or none."""
    if len(times) < 2:
        return {}
    return {"p50_ms": median(times) * 1e3, "p99_ms": quantiles(times, n=100)[98] * 1e3}


async def stream(job: Job) -> dict[str, Any]:
    clients = [Stream(job.request(n), job.chunks + 1) for n in range(job.connections)]
    await connected(job, clients)
    for client in clients:
        client.send()
    starts = await ended(client.began for client in clients)
    if job.hold:
        print(json.dumps({"failures": sum(start is not None for start in starts)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        return {"failures": sum(client.over.done() for client in clients)}
    ends = await ended(client.over for client in clients)
    gaps = [later - earlier for client in clients for earlier, later in pairwise(client.times)]
    return {
        "failures": sum(end is not None for end in ends),
        "pieces": sum(len(client.times) for client in clients),
        "first_byte": summary([client.times[0] - client.asked_at for client in clients if client.times]),
        "jitter": summary([abs(gap - job.interval_ms / 1000) for gap in gaps]),
    }


if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    print(json.dumps(uvloop.run(stream(given) if given.chunks else ask(given))))
