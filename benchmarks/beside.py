"""One real Ollama that several use beside each other: proxies that know nothing of each other, and direct clients.

    python -m benchmarks.beside [--loaded 1 2 3] [--mode multi-active single-active] [--each 10] [--json FILE]

The same closed-loop clients, each of which wants models chosen at random (from a seed), ask in each arrangement.
`loaded` is OLLAMA_MAX_LOADED_MODELS; in `multi-active` each proxy holds two models.  Every answer is checked.  What has
no answer after LIMIT_S hangs.  When all is over, each proxy has to have nothing in flight or waited for, to show in
memory what Ollama shows, and to answer for each model.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from benchmarks import processes
from benchmarks.real_ollama import MODELS, emptied, loads_logged
from tests.real.install import find
from tests.real.server import OllamaServer

CLIENTS = 12
TOKENS = 16
LIMIT_S = 90.0  # for one answer, or for what is to be so at the end
MEDDLE_S = 0.4
OTHER = "another"  # of the same weights as the first: they have one runner, which /api/ps shows by either name
BUSY_TOKENS = 200  # of an answer of those who never pause


@dataclass(frozen=True)
class Arrangement:
    """So many proxies; are a part of the clients direct ones, and what happens beside them?"""

    proxies: int
    direct: bool = False
    beside: str = ""


ARRANGEMENTS = {
    "Ollama alone": Arrangement(0, direct=True),
    "one proxy": Arrangement(1),
    "two proxies": Arrangement(2),
    "two proxies, and direct users": Arrangement(2, direct=True),
    "the same, and one who meddles": Arrangement(2, direct=True, beside="meddles"),
    "one proxy, beside who never pauses": Arrangement(1, beside="never pauses"),
    "two proxies, beside who never pauses": Arrangement(2, beside="never pauses"),
}


@dataclass
class Outcome:
    """What came of the clients of one arrangement, by `ends`, and of the proxies at its end."""

    ends: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    loads: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Scene:
    """The Ollama, the proxies before it, and how to talk to them."""

    ollama: OllamaServer
    proxies: Sequence[str]
    session: aiohttp.ClientSession


async def ask(scene: Scene, url: str, model: str, stream: bool, outcome: Outcome) -> None:
    body = {"model": model, "prompt": "x", "stream": stream, "options": {"num_predict": TOKENS}}
    began = time.monotonic()
    try:
        async with scene.session.post(f"{url}/api/generate", json=body) as answer:
            last = (await answer.read()).strip().rpartition(b"\n")[2]
        said = json.loads(last)
    except TimeoutError:
        end = "hangs"
    except (aiohttp.ClientError, ValueError) as error:
        end = f"broken off: {type(error).__name__}"
    else:
        whole = answer.status == 200 and said.get("done") and said.get("eval_count") == TOKENS
        end = "served" if whole else f"{answer.status}: {said.get('error', said)}"
        if not whole and "error" not in said:
            outcome.wrong.append(end)
    outcome.ends[end] += 1
    outcome.latencies_s.append(time.monotonic() - began)


async def client(scene: Scene, url: str, seed: str, each: int, outcome: Outcome) -> None:
    dice = Random(seed)
    for _ in range(each):
        await ask(scene, url, dice.choice(MODELS), dice.random() < 0.5, outcome)


async def meddle(scene: Scene) -> None:
    """Unload now this, now that, directly; create and delete a model in between."""
    dice, url = Random("meddle"), scene.ollama.url
    while True:
        with suppress(aiohttp.ClientError):
            await scene.session.post(f"{url}/api/generate", json={"model": dice.choice(MODELS), "keep_alive": 0})
            await asyncio.sleep(MEDDLE_S)
            await scene.session.post(f"{url}/api/create", json={"model": OTHER, "from": MODELS[0], "system": "x"})
            await scene.session.post(f"{url}/api/generate", json={"model": OTHER})
            await scene.session.delete(f"{url}/api/delete", json={"model": OTHER})


async def never_pause(scene: Scene) -> None:
    """Three direct clients of one model; one of them is always being answered."""
    body = {"model": MODELS[0], "prompt": "x", "stream": False, "options": {"num_predict": BUSY_TOKENS}}

    async def again_and_again() -> None:
        while True:
            async with scene.session.post(f"{scene.ollama.url}/api/generate", json=body) as answer:
                await answer.read()

    await asyncio.gather(*(again_and_again() for _ in range(3)))


BESIDE = {"meddles": meddle, "never pauses": never_pause}


async def settled(scene: Scene, outcome: Outcome) -> None:
    """Note what each proxy has wrong once nobody asks any more."""
    for url in scene.proxies:
        until = time.monotonic() + LIMIT_S
        while (seen := await differs(scene, url)) is not None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.25)
        if seen is not None:
            outcome.wrong.append(f"a proxy never settles: {seen}")
        after = Outcome()
        for model in MODELS:
            await ask(scene, url, model, False, after)
        if set(after.ends) != {"served"}:
            outcome.wrong.append(f"afterwards: {dict(after.ends)}")


async def differs(scene: Scene, url: str) -> Any:
    """What is not yet at rest at this proxy; None if it is, and agrees with Ollama."""
    status = await told(scene, f"{url}/status")
    models = (await told(scene, f"{url}/models"))["models"]
    running = (await told(scene, f"{scene.ollama.url}/api/ps"))["models"]
    shown = {model["name"].partition(":")[0]: model["status"] for model in models if model["status"] != "unloaded"}
    names = {entry["name"].partition(":")[0] for entry in running}
    there = {MODELS[0] if name == OTHER else name for name in names}
    busy = status["waiting"] or status["in_flight"]
    fine = not busy and dict.fromkeys(there, "loaded") == {n: s for n, s in shown.items() if n in MODELS}
    return None if fine else {"status": status, "proxy": shown, "ollama": sorted(there)}


async def told(scene: Scene, url: str) -> Any:
    async with scene.session.get(url) as answer:
        return await answer.json() if answer.status == 200 else {"models": [], "waiting": True, "in_flight": True}


async def measured(ollama: OllamaServer, proxies: Sequence[str], arranged: Arrangement, each: int) -> Outcome:
    outcome, timeout = Outcome(), aiohttp.ClientTimeout(total=LIMIT_S)
    doors = [*proxies, *([ollama.url] if arranged.direct else [])]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        scene = Scene(ollama, proxies, session)
        before, began = loads_logged(ollama.log), time.monotonic()
        beside = asyncio.create_task(BESIDE[arranged.beside](scene)) if arranged.beside else None
        clients = [client(scene, doors[n % len(doors)], f"{n}", each, outcome) for n in range(CLIENTS)]
        await asyncio.gather(*clients)
        outcome.seconds, outcome.loads = time.monotonic() - began, loads_logged(ollama.log) - before
        if beside is not None:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
        await settled(scene, outcome)
    return outcome


@contextmanager
def standing(ollama: OllamaServer, count: int, mode: str, folder: Path) -> Iterator[list[str]]:
    """So many proxies, each with its own configuration and history."""
    swapper = {"mode": mode} | ({"max_concurrent_models": 2} if mode == "multi-active" else {})
    with ExitStack() as stack:
        urls = []
        for number in range(count):
            home = folder / str(number)
            home.mkdir(exist_ok=True)
            started = processes.proxy(ollama.port, {"swapper": swapper}, home, log=home / "log")
            urls.append(f"http://127.0.0.1:{stack.enter_context(started).port}")
        yield urls


def report(mode: str, arrangement: str, outcome: Outcome) -> dict[str, Any]:
    ordered = sorted(outcome.latencies_s)
    found = {
        "mode": mode,
        "arrangement": arrangement,
        "requests": len(ordered),
        "ends": dict(outcome.ends),
        "wrong": outcome.wrong,
        "loads": outcome.loads,
        "seconds": round(outcome.seconds, 1),
        "p50_s": round(ordered[len(ordered) // 2], 2),
        "p95_s": round(ordered[len(ordered) * 95 // 100], 2),
        "max_s": round(ordered[-1], 2),
    }
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loaded", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--mode", nargs="+", default=["multi-active", "single-active"])
    parser.add_argument("--each", type=int, default=10, help="requests of each client")
    parser.add_argument("--only", nargs="+", default=list(ARRANGEMENTS), choices=ARRANGEMENTS, metavar="ARRANGEMENT")
    parser.add_argument("--json", type=Path, help="write what was found there")
    given = parser.parse_args()
    found = []
    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}")
    for loaded in given.loaded:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            server = OllamaServer(find(), folder, OLLAMA_MAX_LOADED_MODELS=str(loaded))
            with server.holding(MODELS):
                print(f"OLLAMA_MAX_LOADED_MODELS={loaded}")
                for mode in given.mode:
                    for name in given.only:
                        arranged = ARRANGEMENTS[name]
                        asyncio.run(emptied(server.url))
                        with standing(server, arranged.proxies, mode, folder) as proxies:
                            outcome = asyncio.run(measured(server, proxies, arranged, given.each))
                        found.append({"loaded": loaded} | report(mode, name, outcome))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    if any(row["wrong"] or row["ends"].get("hangs") for row in found):
        sys.exit("NOT WELL")


if __name__ == "__main__":
    main()
