"""Where the proxy's CPU time goes, as it ships, under two of the loads of the relay benchmark.

    python -m benchmarks.profile [--seconds N] [--code FOLDER] [--json FILE]

py-spy (`pip install '.[bench]'`) looks at the process 100 times a second, also into what is written in C.  It has to be
allowed to: as root, or with `kernel.yama.ptrace_scope` 0.  Each sample counts once: for the part that the innermost
frame belongs to which belongs to any.

py-spy also sees a process that waits for a CPU, and that is mostly after a system call that woke another.  So the share
of the kernel is taken from /proc, of a run that nobody looks into, and the samples in system calls do not count.  Nor
do those of threads that wait for a lock.
`--code` is another checkout to run.  The tables are Markdown.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks import processes, relay
from benchmarks.processes import Process
from swapper_proxy.app import open_more_files

LOADS = ("JSON answer, 32 connections", "200 streams, a chunk each 20 ms")
KERNEL = "system calls"
REST = "the rest of the proxy"
PARTS = {  # the first that matches a frame, such as `relay (swapper_proxy/web/relay.py:57)`, has it
    KERNEL: r"^_*(libc_|GI_+)?(read|recv|write|send|epoll_|accept|close|shutdown)\w* \(libc",
    "garbage collection": r"^gc_collect",
    "reading the request": r"\(swapper_proxy/(web/(intake|decoding|body|endpoints|form|routing|terms)|core/names)\.py",
    "scheduler: decisions": r"\(swapper_proxy/core/",
    "scheduler: engine": r"\(swapper_proxy/runtime/(engine|lease)\.py",
    "metrics and counting": r"\(swapper_proxy/(observe/|(web/(counting|usage|broadcast)|runtime/ledger)\.py)",
    "history": r"\(swapper_proxy/storage/",
    "relaying": r"\(swapper_proxy/web/(relay|exchange|headers|proxy|front)\.py",
    "connection to Ollama": r"\((swapper_proxy/ollama/|aiohttp/(client|connector))",
    REST: r"\(swapper_proxy/",
    "aiohttp's server": r"\(aiohttp/web",
    "event loop": r"\((uvloop/|loop\.c|asyncio/runners|_asynciomodule\.c)",
}
WAITING = ("PyThread_acquire_lock", "take_gil")
FIRST = 15  # functions
REPEATED = 3  # runs, for a share that is exact to about 2 %
Shares = dict[str, float]


def parts(raw: Iterable[str], kernel: float) -> Shares:
    """Part -> its share.  `raw` is lines of frames, outermost first, and how often they were seen."""
    counted: Counter[str] = Counter()
    for frames, times in _stacks(raw):
        counted[next((part for frame in frames if (part := _part(frame))), REST)] += times
    return dict.fromkeys(PARTS, 0.0) | _shares(counted, kernel) | {KERNEL: kernel}


def functions(raw: Iterable[str], kernel: float) -> Shares:
    """Python function -> the share of it and of what is written in C and called by it."""
    counted: Counter[str] = Counter()
    for frames, times in _stacks(raw):
        counted[next((re.sub(r":\d+\)$", ")", frame) for frame in frames if ".py" in frame), REST)] += times
    return _shares(counted, kernel)


def _stacks(raw: Iterable[str]) -> Iterable[tuple[list[str], int]]:
    """Innermost first, without those in system calls and of threads that wait."""
    for line in raw:
        stack, _, times = line.rpartition(" ")
        frames = stack.split(";")[::-1]
        if _part(frames[0]) != KERNEL and not any(frame.startswith(WAITING) for frame in frames):
            yield frames, int(times)


def _part(frame: str) -> str | None:
    return next((part for part, pattern in PARTS.items() if re.search(pattern, frame)), None)


def _shares(counted: Counter[str], kernel: float) -> Shares:
    """Of what is not the kernel's, the largest first."""
    return {name: (1 - kernel) * times / counted.total() for name, times in counted.most_common()}


def profiled(load: relay.Scenario, seconds: int, code: Path | None) -> dict[str, Shares]:
    """Where the time goes under this load.  Failed or NotStarted."""
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.upstream() as upstream,
        processes.proxy(upstream.port, relay.CONFIG, Path(folder), code) as process,
    ):
        load.measure(process)  # models are loaded, caches are warm
        kernel = kernel_share(process, load)
        raw = recorded(process, load, seconds, Path(folder) / "raw")
    return {"parts": parts(raw, kernel), "functions": dict(list(functions(raw, kernel).items())[:FIRST])}


def kernel_share(process: Process, load: relay.Scenario) -> float:
    """The share of the kernel in the CPU time."""
    before = process.ticks
    for _ in range(REPEATED):
        load.measure(process)
    user, kernel = (now - then for now, then in zip(process.ticks, before, strict=True))
    return kernel / (user + kernel)


def recorded(process: Process, load: relay.Scenario, seconds: int, out: Path) -> list[str]:
    """What py-spy saw while the load went on.  NotStarted if it could not look."""
    command = [str(Path(sys.executable).with_name("py-spy")), "record", "--native", "--format", "raw"]
    command += ["--output", str(out), "--duration", str(seconds), "--pid", str(process.pid)]
    try:
        spy = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        raise processes.NotStarted("py-spy is missing: pip install '.[bench]'") from None
    while spy.poll() is None:
        load.measure(process)
    said = spy.communicate()[0]
    if not out.exists():
        raise processes.NotStarted(f"py-spy: {said}")
    return out.read_text().splitlines()


def tables(found: dict[str, dict[str, Shares]]) -> str:
    """One of parts, a column for each load, and one of functions for each load."""
    totals = {part: sum(seen["parts"][part] for seen in found.values()) for part in PARTS}
    lines = [f"| Part | {' | '.join(found)} |", "|---|" + "--:|" * len(found)]
    lines += [
        f"| {part} | " + " | ".join(f"{seen['parts'][part]:.1%}" for seen in found.values()) + " |"
        for part in sorted(totals, key=totals.__getitem__, reverse=True)
    ]
    for load, seen in found.items():
        lines += ["", f"| {load}: function | Share |", "|---|--:|"]
        lines += [f"| `{name}` | {share:.1%} |" for name, share in seen["functions"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30, help="for each load")
    parser.add_argument("--code", type=Path, help="the checkout whose proxy is run, instead of this one")
    parser.add_argument("--json", type=Path, help="write the shares there")
    given = parser.parse_args()
    open_more_files()  # for this process and what it starts
    try:
        found = {load: profiled(relay.SCENARIOS[load], given.seconds, given.code) for load in LOADS}
    except (relay.Failed, processes.NotStarted) as error:
        sys.exit(f"no profile: {error}")
    print(tables(found), "", processes.described(), sep="\n")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
