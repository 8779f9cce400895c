"""The proxy as a process of its own, so that its memory can be looked at."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.e2e.conftest import Client, until
from tests.real.server import free_port


@contextlib.asynccontextmanager
async def served(
    session: aiohttp.ClientSession,
    upstream: str,
    folder: Path,
    *more: str,
    before: tuple[str, ...] = (),
    ready: bool = True,
) -> AsyncIterator[tuple[Client, int]]:
    """The proxy as a process of its own, with `more` arguments, and its number; `before` stands before its command.

    `ready` is false where Ollama is not there.
    """
    async with started(session, upstream, folder, *more, before=before, ready=ready) as (proxy, process):
        yield proxy, process.pid


@contextlib.asynccontextmanager
async def started(
    session: aiohttp.ClientSession,
    upstream: str,
    folder: Path,
    *more: str,
    before: tuple[str, ...] = (),
    ready: bool = True,
) -> AsyncIterator[tuple[Client, asyncio.subprocess.Process]]:
    """The same with the process itself, which the test may end."""
    port = free_port()
    command = [*before, sys.executable, "-m", "swapper_proxy", "serve", "--port", str(port), "--upstream", upstream]
    command += more
    with (folder / "serve.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    proxy = Client(session, f"http://127.0.0.1:{port}")

    async def answers() -> bool:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            return (await proxy.get("/ready"))[0] == (200 if ready else 503)
        return False

    try:
        await until(answers)
        yield proxy, process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def memory_mib(process: int, figure: str = "VmRSS") -> float:
    """What the process takes now; `VmHWM`: took at most since it was forgotten, which only Linux tells."""
    status = Path(f"/proc/{process}/status")  # Linux
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(figure))
    else:
        kib = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, check=True).stdout
    return int(kib) / 1024


def cpu_s(process: int) -> float:
    """CPU time that the process has used so far; where the system does not tell it, a clock has to do."""
    told = Path(f"/proc/{process}/stat")  # Linux
    if not told.exists():
        return time.monotonic()
    used = told.read_text().rpartition(")")[2].split()[11:13]  # by the program, and by the kernel for it
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def forget_peak(process: int) -> None:
    """What it took at most so far."""
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/{process}/clear_refs").write_text("5")
