"""What the proxy costs on the wire, beside nginx and beside nothing at all, in front of the same fast upstream.

    python -m benchmarks.relay [--rounds N] [--only NAME ...] [--json FILE] [--check FILE]

CPU time is that of the proxy's process alone (of nginx: of its one worker), from /proc.  Each round measures all
targets one after the other; what is printed is the median over the rounds, and its ratio to nginx in the same round.
A figure is printed only if every request was answered rightly.  Both proxies run with everything on.
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
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import processes
from benchmarks.processes import Process
from benchmarks.upstream import MODELS

WORSE = 1.25  # what --check does not bear
CONFIG = {
    "swapper": {"mode": "multi-active", "max_concurrent_models": len(MODELS), "parallel": 1024, "max_queue": 10000}
}
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
        "jitter_p99_ms": seen["jitter"]["p99_ms"],
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
    with urllib.request.urlopen(request) as answer:
        if answer.status != 200:
            raise Failed(f"status {answer.status}")
    return {"times_in_memory": (process.memory_kb("VmHWM") - before) * 1024 / size}


SCENARIOS: dict[str, Callable[[Process], Figures]] = {
    "JSON answer, 32 connections": lambda process: whole(process, 32, 32 * 600),
    "JSON answer, 1 connection": lambda process: whole(process, 1, 3000),
    "200 streams, a chunk each 20 ms": streams,
    "5,000 streams at once": opened,
    "a body of 100 MB": large,
}


@contextmanager
def targets() -> Iterator[dict[str, Process]]:
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


def measured(names: list[str], rounds: int) -> dict[str, dict[str, list[Figures]]]:
    """Scenario -> target -> the figures of each round."""
    found: dict[str, dict[str, list[Figures]]] = {name: {} for name in names}
    with targets() as started:
        for _ in range(rounds):
            for name in names:
                for target, process in started.items():
                    found[name].setdefault(target, []).append(SCENARIOS[name](process))
    return found


def summary(found: dict[str, dict[str, list[Figures]]]) -> dict[str, Any]:
    """Medians, and the medians of the ratios to nginx."""
    result: dict[str, Any] = {}
    for scenario, by_target in found.items():
        result[scenario] = {
            target: {figure: round(median(f[figure] for f in rounds), 3) for figure in rounds[0]}
            for target, rounds in by_target.items()
        }
        pairs = list(zip(by_target["proxy"], by_target["nginx"], by_target["direct"], strict=True))
        result[scenario]["ratio"] = {
            figure: round(median(p[figure] / n[figure] for p, n, _ in pairs if n[figure]), 3)
            for figure in pairs[0][0]
            if all(n[figure] for _, n, _ in pairs)
        }
        for name in ("p50_ms", "first_byte_p50_ms"):
            if name in pairs[0][0]:
                added = median(p[name] - d[name] for p, _, d in pairs)
                result[scenario]["added"] = {name: round(added, 3)}
    return result


def start_s() -> float:
    """From the start of the process to its first answer."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(processes.upstream())
        began = time.perf_counter()
        stack.enter_context(processes.proxy(upstream.port, CONFIG, folder))
        return time.perf_counter() - began


def table(result: dict[str, Any]) -> str:
    lines = []
    for scenario, by_target in result.items():
        lines.append(scenario)
        for target, figures in by_target.items():
            lines.append(f"  {target:8}" + "".join(f"{name:>20} {value:>9g}" for name, value in figures.items()))
    return "\n".join(lines)


def worse(result: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The CPU and memory ratios that got worse by more than a quarter."""
    return [
        f"{scenario}: {figure} {result[scenario]['ratio'][figure]:g}, was {ratio:g}"
        for scenario, ratios in before.items()
        if scenario in result
        for figure, ratio in ratios.items()
        if result[scenario]["ratio"][figure] > WORSE * ratio
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="scenarios that hold one of these words")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--check", type=Path, help="compare with the ratios in this file; exit code 1 if worse")
    given = parser.parse_args()
    processes.more_files()
    names = [name for name in SCENARIOS if not given.only or any(word in name for word in given.only)]
    result = summary(measured(names, given.rounds))
    print(table(result))
    print(f"start to first answer: {median(start_s() for _ in range(given.rounds)):.3f} s")
    print(json.dumps(processes.machine()))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.check and (found := worse(result, json.loads(given.check.read_text()))):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
