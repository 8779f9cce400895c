"""Mixed clients for a long time, in front of a simulated Ollama with which things go wrong.

    python -m benchmarks.soak [--requests 100000] [--minutes M] [--real] [--without PART ...] [--clients 48] [--seed 1]

Every request has an id, which the simulated Ollama puts into the head of its answer and writes down: an answer must
carry the id of its own request, be whole or visibly broken, and no id may be answered whole more often than once.
Clients ask for one of several models, for JSON or a stream, by several routes; some leave in mid-answer, some send what
nobody can read.  Meanwhile loads are slow or fail, answers break, lists lie.  Beside them, unless `--without` names it:

- large: bodies of 20 MB and bombs come, most of which are refused (`benchmarks.large`)
- lost: clients and Ollama's host vanish without a word (`benchmarks.lost`); on Linux, with network namespaces
- planted: parts of the proxy raise now and then (`benchmarks.planted`)

At the end nothing may be in flight or waited for and no connection left, memory and open files have to be where they
were in the middle, the log must hold no traceback but of what was planted, and the proxy must end by itself when it is
told to.
"""

import argparse
import asyncio
import json
import math
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import aiohttp
import uvloop

from benchmarks import large, lost, processes
from benchmarks.planted import SAID
from benchmarks.processes import Apart, Process
from benchmarks.troubled import EMBEDDER, ID, MODELS, MOMENT_S
from swapper_proxy.app import open_more_files
from tests.real.install import find
from tests.real.server import OllamaServer

REAL_MODELS = ["alpha", "beta", "gamma"]
CONFIG: dict[str, Any] = {
    "swapper": {
        "mode": "multi-active",
        "max_concurrent_models": 2,
        "slots": {"embedding": 1, lost.SLOW: 1},
        "max_wait": {"high": 0.5, "medium": 1, "low": 2},
        "unload_settle": 0,
        "parallel": 32,
    },
    "models": {name: {"path": f"ollama:{name}", "size_gb": 1} for name in MODELS}
    | {EMBEDDER: {"path": f"ollama:{EMBEDDER}", "type": "embedding"}}
    | {lost.SLOW: {"path": f"ollama:{lost.SLOW}", "type": lost.SLOW}},
    "history": {"days": 1, "max_mb": 20},
    "logging": {"level": "warning"},
}
# A real Ollama forgets a place of a runner when a client leaves in a bad moment (ollama/ollama#17131), most readily one
# of models as quick as these; what it does not answer then is to be noticed soon.
REAL_LIMITS = {"first_byte_timeout": 5}
# States of a connection in /proc/net/tcp: established, and left by the client only.
ALIVE = ("01", "08")
# What clients do, and how often.
KINDS = {"whole": 40, "stream": 30, "embed": 12, "look": 10, "leave": 5, "junk": 3}
STAYING = KINDS | {"leave": 0}
STEADY = 0.97  # of the requests are for the client's own model
TOKENS = 8
ROUTES = ("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions", "/v1/messages")
LOOKS = ("/status", "/models", "/queue", "/metrics?format=json", "/health", "/api/tags", "/api/ps", "/history/swaps")
JUNK = (b"{", b"[]", b'{"model": 7, "prompt": "x"}', b"\xff\xfe", b'{"model": "nobody-has-it", "prompt": "x"}', b"null")
END_OF = {"api": b'"done":true', "/v1/messages": b"message_stop", "v1": b"[DONE]"}
TROUBLE = {500, 502, 503, 504}
REFUSALS = dict.fromkeys(KINDS, TROUBLE) | {"junk": TROUBLE | {400, 404}}
LIMIT_S = 120.0  # for one answer, and for all to be at rest
PARTS = ("large", "lost", "planted")  # of what happens beside the clients and the faults of Ollama
KEY = {"Authorization": f"Bearer {large.KEYS['soak']}"}
MANAGEMENT_KEY = {"Authorization": f"Bearer {large.MANAGEMENT_KEY}"}
OF_OLLAMA = ("/api/", "/v1/")
RECORD = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)  # the beginning of a record of the log
AFTER = 10  # requests of each client when all is well again
SAMPLE_S = 1.0
SETTLES = 10  # samples, in which memory comes down at least once, however large the bodies are that come
GROWTH = 0.05  # of memory over the last half: what is still called flat
FEW = 10  # samples in a quarter
FEW_FILES = 8  # more open files, which say nothing
SUSPICIOUS = re.compile(r"Traceback.*|never retrieved.*|was destroyed.*|never awaited.*|.*ERROR.*")


# The clients


@dataclass
class Tally:
    """What became of the requests, so many or until then; `wrong` must stay empty."""

    wanted: float
    until: float = math.inf
    begun: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.begun >= self.wanted or time.monotonic() >= self.until

    def next(self) -> bool:
        if self.over:
            return False
        self.begun += 1
        return True


def key_for(path: str) -> dict[str, str]:
    return KEY if path.startswith(OF_OLLAMA) else MANAGEMENT_KEY


class Client:
    """Asks again as soon as it has its answer."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, name: str, tally: Tally, real: bool, kinds: dict[str, int]
    ) -> None:
        self._session = session
        self._real = real
        self._url = url
        self._name = name
        self._tally = tally
        self._kinds = kinds
        self._dice = random.Random(name)
        self._models = REAL_MODELS if real else MODELS
        self._routes = ROUTES[: -1 if real else None]  # Ollama 0.9.3 has no /v1/messages
        self._own = self._dice.choice(self._models)

    async def run(self) -> None:
        number = 0
        while self._tally.next():
            number += 1
            kind = self._dice.choices(tuple(self._kinds), tuple(self._kinds.values()))[0]
            await self._ask(kind, f"{self._name}-{number}")

    async def _ask(self, kind: str, number: str) -> None:
        path, body = self._request(kind)
        method = "GET" if body is None else "POST"
        headers = {ID: number, "Content-Type": "application/json", **key_for(path)}
        try:
            async with self._session.request(method, self._url + path, data=body, headers=headers) as answer:
                end = await self._end(kind, path, number, answer)
        except TimeoutError:
            end = "WRONG: no answer in time"
        except aiohttp.ClientPayloadError:
            end = "broken off"
        except aiohttp.ClientError as error:
            end = f"WRONG: no answer: {error!r}"
        self._tally.ends[f"{kind}: {end}"] += 1
        if end.startswith("WRONG"):
            self._tally.wrong.append(f"{number} {method} {path}: {end}")

    def _request(self, kind: str) -> tuple[str, bytes | None]:
        if kind == "look":
            return self._dice.choice(LOOKS), None
        if kind == "junk":
            return self._dice.choice(self._routes), self._dice.choice(JUNK)
        if kind == "embed":
            return "/api/embed", json.dumps({"model": EMBEDDER, "input": "x"}).encode()
        model = self._own if self._dice.random() < STEADY else self._dice.choice(self._models)
        body = {"model": model, "prompt": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": TOKENS}
        body |= {"stream": kind != "whole", "options": {"num_predict": TOKENS}}
        return self._dice.choice(self._routes), json.dumps(body).encode()

    async def _end(self, kind: str, path: str, number: str, answer: aiohttp.ClientResponse) -> str:
        """What came of it, in a few words."""
        if answer.status != 200:
            return await self._refusal(kind, answer)
        if kind != "look" and not self._real and answer.headers.get(ID) != number:
            return f"WRONG: the answer of {answer.headers.get(ID)}"
        if kind == "leave":
            await answer.content.readany()
            answer.close()
            return "left"
        body = await answer.read()
        if kind == "stream" and END_OF[path.split("/")[1] if path != "/v1/messages" else path] not in body:
            return f"WRONG: an end without its end: {body[-80:]!r}"
        if kind in ("whole", "embed", "look"):
            json.loads(body)
        return "whole"

    async def _refusal(self, kind: str, answer: aiohttp.ClientResponse) -> str:
        body = await answer.read()
        if answer.status not in REFUSALS[kind]:
            return f"WRONG: status {answer.status}: {body[:200]!r}"
        if b'"error"' not in body:
            return f"WRONG: {answer.status} that says no error: {body[:200]!r}"
        return f"refused with {answer.status}"


# The watch


@dataclass(frozen=True)
class Sample:
    """The proxy at one moment."""

    kb: int
    files: int


def flat(values: list[int], slack: float) -> bool:
    """Whether the last quarter is where the one before it was, but for GROWTH and `slack`; too few say nothing."""
    quarter = len(values) // 4
    before, after = values[2 * quarter : 3 * quarter], values[3 * quarter :]
    return quarter < FEW or mean(after) <= mean(before) * (1 + GROWTH) + slack


async def watched(process: Process, samples: list[Sample]) -> None:
    while True:
        samples.append(Sample(process.memory_kb(), process.files))
        await asyncio.sleep(SAMPLE_S)


async def rest(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """How the proxy is once nothing is under way, or after LIMIT_S."""
    until = time.monotonic() + LIMIT_S
    while True:
        async with session.get(f"{url}/status", headers=MANAGEMENT_KEY) as answer:
            status: dict[str, Any] = await answer.json()
        if not (status["waiting"] or status["in_flight"]) or time.monotonic() >= until:
            return status
        await asyncio.sleep(0.2)


async def connected(process: Process, limit_s: float) -> int:
    """How many connections it has from clients, once these have had a while to end."""
    until = time.monotonic() + limit_s
    while alive(process) and time.monotonic() < until:  # noqa: ASYNC110 - what tells is no event
        await asyncio.sleep(0.2)
    return alive(process)


def alive(process: Process) -> int:
    lines = [line.split() for line in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(int(fields[1].partition(":")[2], 16) == process.port and fields[3] in ALIVE for fields in lines)


async def mended(
    session: aiohttp.ClientSession, proxy: Process, upstream: Process | None, given: argparse.Namespace
) -> None:
    """No more trouble, nothing under way, and no runner that has forgotten a place."""
    if "planted" in given.parts:
        os.kill(proxy.pid, signal.SIGUSR1)
    if upstream is not None:
        os.kill(upstream.pid, signal.SIGUSR1)
        await asyncio.sleep(3 * MOMENT_S)  # the last one may have just begun
    await rest(session, proxy.url)
    for model in REAL_MODELS if upstream is None else ():
        async with session.post(f"{proxy.url}/models/{model}/unload", headers=MANAGEMENT_KEY) as answer:
            answer.raise_for_status()


async def soaked(proxy: Process, upstream: Process | None, given: argparse.Namespace) -> dict[str, Any]:
    large_ones = large.kinds(REAL_MODELS if given.real else MODELS) if "large" in given.parts else {}
    url, began, start_kb = proxy.url, time.monotonic(), proxy.memory_kb()
    timeout, samples = aiohttp.ClientTimeout(total=LIMIT_S), list[Sample]()
    tally = Tally(given.requests, began + 60 * given.minutes)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        cutter = lost.Cutter(url, KEY, upstream.pid, proxy.pid) if upstream and "lost" in given.parts else None
        beside = [asyncio.create_task(watched(proxy, samples))]
        beside += [asyncio.create_task(cutter.run())] if cutter else []
        names = [f"{given.seed}/{number}" for number in range(given.clients)]
        clients = [Client(session, url, name, tally, given.real, KINDS).run() for name in names]
        if large_ones:
            clients += [large.asking(session, url, large_ones, f"large/{n}", tally) for n in range(large.CLIENTS)]
        await asyncio.gather(*clients)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await mended(session, proxy, upstream, given)
        if cutter:
            await cutter.over()
            tally.ends.update({f"hit by a loss of power: {end}": count for end, count in cutter.ends.items()})
            tally.wrong += [end for end in cutter.ends if end.startswith("WRONG")]
        after = Tally(AFTER * len(names), time.monotonic() + LIMIT_S)
        await asyncio.gather(
            *(Client(session, url, f"after/{name}", after, given.real, STAYING).run() for name in names)
        )
        status = await rest(session, url)
    refused = {end: count for end, count in after.ends.items() if "refused" in end and "junk" not in end}
    floor = [min(sample.kb for sample in samples[at : at + SETTLES]) for at in range(len(samples))]
    return {
        "requests": tally.begun,
        "seconds": round(time.monotonic() - began, 1),
        "ends": dict(sorted(tally.ends.items())),
        "cuts": cutter.cuts if cutter else {},
        "wrong": tally.wrong + after.wrong,
        "refused_when_all_was_well_again": refused,
        "in_flight": status["in_flight"],
        "waiting": status["waiting"],
        "connections": await connected(proxy, LIMIT_S if cutter else 10.0),
        "memory_kb": [sample.kb for sample in samples[:: max(1, len(samples) // 20)]],
        "memory_start_kb": start_kb,
        "memory_peak_kb": proxy.memory_kb("VmHWM"),
        "memory_end_kb": proxy.memory_kb(),
        "files": [sample.files for sample in samples[:: max(1, len(samples) // 20)]],
        "memory_flat": flat(floor, large.MOST_KEPT / 1024 if "large" in given.parts else 0),
        "files_flat": flat([sample.files for sample in samples], FEW_FILES + (lost.FILES if cutter else 0)),
    }


def run(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, log, blown = folder / "upstream.json", folder / "proxy.log", folder / "planted.json"
        apart = Apart(lost.PROXY, lost.UPSTREAM, lost.plug) if "lost" in given.parts else None
        module = ("benchmarks.planted", str(given.seed), str(blown)) if "planted" in given.parts else ("swapper_proxy",)
        with ExitStack() as stack:
            if not given.real:
                host = apart.upstream if apart else "127.0.0.1"
                upstream = stack.enter_context(processes.troubled(given.seed, report, host))
                port, config = upstream.port, CONFIG
            else:
                upstream, port = None, stack.enter_context(real_ollama(folder))
                config = CONFIG | {"models": {EMBEDDER: CONFIG["models"][EMBEDDER]}, "upstream": REAL_LIMITS}
                config |= {"swapper": CONFIG["swapper"] | {"slots": {"embedding": 1}}}
            started = processes.proxy(port, config | large.config(EMBEDDER), folder, None, log, module, apart)
            proxy = stack.enter_context(started)
            found = uvloop.run(soaked(proxy, upstream, given))
        found |= {"exit_code": proxy.exit_code, "in_the_log": suspicious(log.read_text(errors="replace"))}
        found |= {"planted": json.loads(blown.read_text()) if blown.exists() else {}}
        return found | {"upstream": json.loads(report.read_text()) if report.exists() else {"twice": []}}


def suspicious(log: str) -> list[str]:
    """What the log should not say; what was planted it may."""
    records = [record for record in RECORD.split(log) if SAID not in record]
    return [found for record in records for found in SUSPICIOUS.findall(record)][:10]


@contextmanager
def real_ollama(folder: Path) -> Iterator[int]:
    """The port of one that holds three of the tests' tiny models at a time."""
    (folder / "ollama").mkdir()
    server = OllamaServer(find(), folder / "ollama", OLLAMA_MAX_LOADED_MODELS="3")
    with server.holding((*REAL_MODELS, EMBEDDER)):
        yield server.port


def problems(found: dict[str, Any]) -> list[str]:
    """What is not as it should be; none if all is well."""
    zero = ("wrong", "refused_when_all_was_well_again", "in_flight", "waiting", "connections", "in_the_log")
    wrong = [f"{name}: {found[name]}" for name in zero if found[name]]
    wrong += [f"{name}: {found[name]}" for name in ("memory_flat", "files_flat") if not found[name]]
    most = found["memory_start_kb"] + (large.MOST_BUFFERED + large.MOST_BESIDE) // 1024
    if found["memory_peak_kb"] > most:
        wrong.append(f"memory_peak_kb: {found['memory_peak_kb']}, more than {most}")
    most = found["memory_start_kb"] + large.MOST_KEPT // 1024
    if found["memory_end_kb"] > most:
        wrong.append(f"memory_end_kb: {found['memory_end_kb']}, more than {most}")
    if found["exit_code"] != 0:
        wrong.append(f"exit_code: {found['exit_code']}")
    if twice := found["upstream"]["twice"]:
        wrong.append(f"sent to Ollama more than once: {twice[:10]}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="end after so many [100000]")
    parser.add_argument("--minutes", type=float, default=math.inf, help="or after so long")
    parser.add_argument("--real", action="store_true", help="in front of a real Ollama, with which nothing goes wrong")
    parser.add_argument("--without", nargs="+", choices=PARTS, default=[], metavar="PART", help=f"of {PARTS}")
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what was found there")
    given = parser.parse_args()
    given.parts = [part for part in PARTS if part not in given.without and not (given.real and part == "lost")]
    if "lost" in given.parts and (why := lost.enter()):
        given.parts.remove("lost")
        print(f"no packets are lost: {why}")
    open_more_files()
    found = run(given)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    for name, value in found.items():
        print(f"{name}: {json.dumps(value, indent=1) if name == 'ends' else value}")
    if wrong := problems(found):
        sys.exit("\n".join(["NOT WELL:", *wrong]))
    print("all is well")


if __name__ == "__main__":
    main()
