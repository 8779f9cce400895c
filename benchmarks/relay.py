"""What the proxy costs on the wire, beside nginx and beside nothing at all, in front of the same fast upstream.

    python -m benchmarks.relay [--rounds N] [--only NAME ...] [--json FILE] [--check FILE] [--keep FILE]

CPU time is that of the proxy's process alone (of nginx: of its one worker), from /proc.  Each round starts all targets
anew and measures them one after the other.  Printed are the medians over the rounds; a ratio is the median of the
ratios to nginx in the same round.  Nothing is printed unless every request was answered rightly.  The proxy runs as it
ships, with everything on: scheduler, metrics, usage, logs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import contract, processes
from benchmarks.processes import Process
from benchmarks.upstream import MODELS
from swapper_proxy.app import open_more_files

CONFIG = {
    "swapper": {"mode": "multi-active", "max_concurrent_models": len(MODELS), "parallel": 1024, "max_queue": 10000}
}
ABSOLUTE = ("times_in_memory", "start_s")  # nginx keeps bodies in files, and has nothing to ask at its start
Figures = dict[str, float]


class Failed(Exception):
    """A request was not answered rightly, so there is no figure."""


def clients(process: Process, **job: Any) -> dict[str, Any]:
    """Run clients in a process of their own.  Raises Failed."""
    given = json.dumps({"port": process.port, "model": MODELS[0], **job})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.clients", given], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(done.stderr[-500:])
    seen: dict[str, Any] = json.loads(done.stdout)
    if seen["failures"]:
        raise Failed(f"{seen['failures']} requests failed: {job}")
    return seen


# What is measured of one target


def whole(process: Process, connections: int, requests: int) -> Figures:
    """One JSON answer per request."""
    before = process.cpu_s
    seen = clients(process, connections=connections, requests=requests)
    return {
        "cpu_us": (process.cpu_s - before) / seen["answers"] * 1e6,
        "per_s": seen["answers"] / seen["seconds"],
        **seen["latency"],
    }


def streams(process: Process) -> Figures:
    """200 streams with a chunk each 20 ms."""
    before = process.cpu_s
    seen = clients(process, connections=200, chunks=250, interval_ms=20)
    return {
        "cpu_us": (process.cpu_s - before) / (200 * 251) * 1e6,
        **{f"first_byte_{name}": value for name, value in seen["first_byte"].items()},
        **{f"jitter_{name}": value for name, value in seen["jitter"].items()},
    }


def opened(process: Process, number: int = 5000) -> Figures:
    """Streams open at once, with a chunk a second."""
    before = process.memory_kb()
    job = {"port": process.port, "model": MODELS, "connections": number, "chunks": 3600, "interval_ms": 1000}
    command = [sys.executable, "-m", "benchmarks.clients", json.dumps(job | {"hold": True})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        failures = json.loads(holder.stdout.readline() or '{"failures": -1}')["failures"]
        time.sleep(2)  # chunks go through, as in use
        memory = process.memory_kb()
        ended, _ = holder.communicate("")
    if failures or json.loads(ended)["failures"]:
        raise Failed(f"{failures} of {number} streams did not open, or broke")
    return {"kb_per_stream": (memory - before) / number}


def large(process: Process, size: int = 100_000_000) -> Figures:
    """One body of 100 MB: how often is it in memory?"""
    body = json.dumps({"model": MODELS[0], "prompt": "x", "stream": False, "images": ["A" * size]}).encode()
    before = process.memory_kb()
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # forget the highest so far
    request = urllib.request.Request(f"http://127.0.0.1:{process.port}/api/generate", body)
    try:
        urllib.request.urlopen(request).close()
    except OSError as error:  # a status that is none of success is one, too
        raise Failed(str(error)) from None
    return {"times_in_memory": (process.memory_kb("VmHWM") - before) * 1024 / size}


@dataclass(frozen=True)
class Scenario:
    """What is measured of each target, and how often: the shorter and the noisier, the more often."""

    measure: Callable[[Process], Figures]
    rounds: int


SCENARIOS = {
    "JSON answer, 32 connections": Scenario(lambda process: whole(process, 32, 32 * 300), 9),
    "JSON answer, 1 connection": Scenario(lambda process: whole(process, 1, 2000), 9),
    "200 streams, a chunk each 20 ms": Scenario(streams, 5),
    "5,000 streams at once": Scenario(opened, 3),
    "a body of 100 MB": Scenario(large, 3),
    "start": Scenario(lambda process: {"start_s": process.start_s}, 5),
}


@contextmanager
def targets() -> Iterator[dict[str, Process]]:
    """Started anew, so that nothing is left in memory of what was measured before."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(processes.upstream())
        started = {
            "direct": upstream,
            "nginx": stack.enter_context(processes.nginx(upstream.port, folder)),
            "proxy": stack.enter_context(processes.proxy(upstream.port, CONFIG, folder)),
        }
        for process in started.values():
            clients(process, connections=8, requests=800)  # models are loaded, caches are warm
        yield started


def measured(scenario: Scenario, rounds: int) -> dict[str, list[Figures]]:
    """Target -> the figures of each round."""
    found: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        with targets() as started:
            for target, process in started.items():
                found.setdefault(target, []).append(scenario.measure(process))
    return found


def summary(found: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Medians; of the proxy also the time that it adds, and the ratios to nginx."""
    result = {
        target: {figure: round(median(f[figure] for f in rounds), 3) for figure in rounds[0]}
        for target, rounds in found.items()
    }
    for name in ("p50_ms", "first_byte_p50_ms"):
        if name in result["proxy"]:
            both = zip(found["proxy"], found["direct"], strict=True)
            result["proxy"][f"added_{name}"] = round(median(p[name] - d[name] for p, d in both), 3)
    result["ratio"] = ratios(found["proxy"], found["nginx"])
    return result


def ratios(proxy: list[Figures], nginx: list[Figures]) -> Figures:
    """Of what is comparable."""
    return {
        figure: round(median(p[figure] / n[figure] for p, n in zip(proxy, nginx, strict=True)), 3)
        for figure in proxy[0]
        if figure not in ABSOLUTE
    }


def table(result: dict[str, dict[str, Figures]]) -> str:
    lines = []
    for scenario, by_target in result.items():
        lines.append(f"{scenario:34}" + "".join(f"{target:>11}" for target in by_target))
        for figure in by_target["proxy"]:
            values = (by_target[target].get(figure) for target in by_target)
            lines.append(f"  {figure:32}" + "".join(f"{'' if v is None else f'{v:g}':>11}" for v in values))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="for every scenario, instead of 3 to 9")
    parser.add_argument("--only", nargs="*", help="scenarios that hold one of these words")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--check", type=Path, help="compare with the ratios and limits in this file; exit code 1 if worse"
    )
    parser.add_argument("--keep", type=Path, help="put the ratios into this file")
    given = parser.parse_args()
    open_more_files()  # for this process and what it starts
    names = [name for name in SCENARIOS if not given.only or any(word in name for word in given.only)]
    try:
        result = {name: summary(measured(SCENARIOS[name], given.rounds or SCENARIOS[name].rounds)) for name in names}
    except (Failed, processes.NotStarted) as error:
        sys.exit(f"no figures: {error}")
    report = json.dumps({"machine": processes.machine(), "figures": result})
    print(table(result), report, sep="\n")
    if given.json:
        given.json.write_text(report + "\n")
    if given.keep:
        contract.keep(result, processes.machine(), given.keep)
    if given.check and (found := contract.worse(result, json.loads(given.check.read_text()))):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
