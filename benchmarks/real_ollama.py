"""The same requests to a real Ollama that holds one model at a time: directly, then through the proxy.

    python -m benchmarks.real_ollama [--requests 90] [--runs N] [--tokens 16]

Two workloads of closed-loop clients, each of which asks again as soon as it has its answer, over three tiny models
that load in a quarter of a second and answer 16 tokens in 0.02 to 0.1 s (as 5 s would be to 0.4 to 2 s):

- fixed: six clients, two per model, 15 requests each, 90 in all;
- random: eight clients, 20 requests each for models chosen at random (from a seed), 160 in all.

Loads are counted in Ollama's log, in both runs alike: what an answer says in `load_duration` is also the time it waited
for the loads of others.  The proxy runs in a process of its own, with its defaults.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from random import Random

import aiohttp

from tests.real.install import find
from tests.real.server import OllamaServer, free_port

MODELS = ("alpha", "beta", "gamma")
LOADED = "llama runner started in"  # a line of Ollama's log
START_LIMIT_S = 30

Chooser = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Workload:
    """Each client asks `each` times.  `choosers` makes one per client: it names the model of its next request."""

    name: str
    each: int
    choosers: Callable[[int], list[Chooser]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run; seconds."""

    loads: int
    makespan_s: float
    latencies_s: Sequence[float]

    def percentile_s(self, percent: int) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]

    def cells(self) -> list[str]:
        seconds = (self.makespan_s, self.percentile_s(50), self.percentile_s(99), max(self.latencies_s))
        return [str(self.loads), *(f"{s:.2f}" for s in seconds), f"{len(self.latencies_s) / self.makespan_s:.1f}"]


def fixed(_: int) -> list[Chooser]:
    """Two clients per model."""
    return [partial(str, model) for model in MODELS * 2]


def at_random(seed: int) -> list[Chooser]:
    """Eight clients that want any model."""
    return [partial(Random(f"{seed}/{client}").choice, MODELS) for client in range(8)]


def workloads(requests: int) -> list[Workload]:
    return [Workload("fixed", ceil(requests / 6), fixed), Workload("random", ceil(requests / 4.5), at_random)]


# Measuring


async def measured(url: str, workload: Workload, seed: int, tokens: int, log: Path) -> Outcome:
    """Run it against a base URL; the log is that of the Ollama behind it."""
    latencies: list[float] = []
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def client(choose: Chooser) -> None:
            for _ in range(workload.each):
                body = {"model": choose(), "prompt": "x", "stream": False, "options": {"num_predict": tokens}}
                began = time.perf_counter()
                async with session.post(f"{url}/api/generate", json=body) as response:
                    answer = await response.json()
                latencies.append(time.perf_counter() - began)
                if response.status != 200 or answer["eval_count"] != tokens:
                    raise RuntimeError(f"{response.status}: {answer}")

        before = loads_logged(log)
        began = time.perf_counter()
        await asyncio.gather(*(client(choose) for choose in workload.choosers(seed)))
        makespan = time.perf_counter() - began
    return Outcome(loads_logged(log) - before, makespan, latencies)


def loads_logged(log: Path) -> int:
    return log.read_text().count(LOADED)


async def emptied(url: str) -> None:
    """Until nothing is loaded: every run begins alike."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/api/ps") as answer:
                models = (await answer.json())["models"] if answer.status == 200 else None
            if models == []:
                return
            for model in models or ():
                await session.post(f"{url}/api/generate", json={"model": model["name"], "keep_alive": 0})


@contextmanager
def proxy(upstream: str, folder: Path) -> Iterator[str]:
    """`swapper-proxy serve` with nothing configured."""
    config = folder / "config.yaml"
    config.write_text("{}\n")
    port = free_port()
    command = ["env", f"XDG_STATE_HOME={folder}"]  # its history is none of the user's
    command += [sys.executable, "-m", "swapper_proxy", "serve", "--config", str(config), "--port", str(port)]
    log = folder / "proxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--upstream", upstream], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while "swapper-proxy" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the proxy did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def both(
    ollama: OllamaServer, workload: Workload, seed: int, tokens: int, folder: Path
) -> tuple[Outcome, Outcome]:
    """Direct, then proxied, each from an empty memory."""
    await emptied(ollama.url)
    direct = await measured(ollama.url, workload, seed, tokens, ollama.log)
    await emptied(ollama.url)
    with proxy(ollama.url, folder) as url:
        return direct, await measured(url, workload, seed, tokens, ollama.log)


# Reporting

COLUMNS = ("workload", "", "loads", "makespan s", "p50 s", "p99 s", "max s", "requests/s")
# At most so much of what Ollama needs alone.
TARGETS = {"fixed": {"loads": 0.30, "makespan": 0.45}}


def report(workload: Workload, direct: Outcome, proxied: Outcome) -> None:
    row = "{:10}{:10}" + "{:>12}" * 6
    print(row.format(*COLUMNS))
    print(row.format(workload.name, "direct", *direct.cells()))
    print(row.format(workload.name, "proxied", *proxied.cells()))
    ratios = {"loads": proxied.loads / max(1, direct.loads), "makespan": proxied.makespan_s / direct.makespan_s}
    for what, ratio in ratios.items():
        goal = TARGETS.get(workload.name, {}).get(what)
        verdict = f", target {goal:.2f}: {'met' if ratio <= goal else 'MISSED'}" if goal else ""
        print(f"  {what} proxied / direct: {ratio:.2f}{verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.real_ollama", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=90, help="of the fixed workload; the random one has 16 per 9")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=16, help="length of every answer")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = OllamaServer(find(), folder, threads=0, OLLAMA_MAX_LOADED_MODELS="1")
        server.start()
        try:
            server.create(MODELS)
            for model in MODELS:  # weights into the page cache
                server.command("run", model, "x")
            print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}")
            for run in range(arguments.runs):
                for workload in workloads(arguments.requests):
                    outcomes = asyncio.run(both(server, workload, run, arguments.tokens, folder))
                    report(workload, *outcomes)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
