"""Lost packets for `benchmarks.soak`: the proxy stands in a network of its own, and its cables are cut.

Nobody is told: an address is taken away, so that what is sent to it or from it is dropped without a word.
- A client vanishes in the middle of an answer, while it waits, or idle: for good, without FIN or RST.
- Ollama's host loses its power, and is back after a while: its connections are not.
- All clients are cut off for a moment, and go on.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp

CLIENTS, PROXY = "10.77.1.1", "10.77.1.2"  # the two ends of one cable
UPSTREAM, TO_UPSTREAM = "10.77.2.1", "10.77.2.2"  # and of the other
MACS = {"c": "02:00:00:00:77:01", "u": "02:00:00:00:77:02"}
MARK = "SOAK_IN_ITS_OWN_NETWORK"
SLOW = "slow"  # a model whose answers take minutes
ROUND_S = 20.0
ROUNDS = 3  # Ollama's host loses its power in each third one
MOMENT_S = 1.5  # all clients are cut off
AWAY_S = 4.0  # Ollama's host
HIT = 3  # requests that it is answering when it loses its power, and a second to be there
HIT_TOKENS = 50  # at five a second
FILES = 40  # of connections that are lost and not yet given up
LIMIT_S = 120.0  # until these have ended, one way or the other
BEGUN_S = 20.0  # a vanishing client waits so long for the beginning of its answer
WAITS_S = 0.5  # or so long, if it is to vanish before


def enter() -> str:
    """Run this very command again in a network of its own; why that cannot be, if it cannot."""
    if os.environ.get(MARK):
        _lay()
        return ""
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    try:
        subprocess.run([*alone, "ip", "link", "add", "c0", "type", "veth"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return str(getattr(error, "stderr", b"").decode() or error).strip()
    os.environ[MARK] = "1"
    return os.execvp(alone[0], [*alone, sys.executable, "-m", "benchmarks.soak", *sys.argv[1:]])


def _lay() -> None:
    _ip("link set lo up")
    for name, address in (("c", CLIENTS), ("u", UPSTREAM)):
        _ip(f"link add {name}0 address {MACS[name]} type veth peer name {name}1")
        _ip(f"addr add {address}/24 dev {name}0")
        _ip(f"link set {name}0 up")


def _ip(words: str, pid: int = 0) -> None:
    """Raises CalledProcessError.  With a pid: in the network of that process."""
    within = [f"nsenter --net=/proc/{pid}/ns/net"] if pid else []
    subprocess.run(" ".join((*within, "ip", words)).split(), check=True, capture_output=True)


def plug(pid: int) -> None:
    """Lay the cables to the proxy, once it is in its network."""
    until = time.monotonic() + 10
    own = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{pid}/ns/net").readlink() == own and time.monotonic() < until:
        time.sleep(0.002)
    for name, address, other in (("c", PROXY, CLIENTS), ("u", TO_UPSTREAM, UPSTREAM)):
        _ip(f"link set {name}1 netns {pid}")
        _ip(f"addr add {address}/24 dev {name}1", pid)
        _ip(f"link set {name}1 up", pid)
        _ip(
            f"neigh replace {other} lladdr {MACS[name]} dev {name}1 nud permanent", pid
        )  # else it is noticed as missing
    _ip("link set lo up", pid)


class Cutter:
    """Cuts now this, now that; `cuts` counts."""

    def __init__(self, url: str, headers: dict[str, str], upstream_pid: int, proxy_pid: int) -> None:
        self._url, self._headers = url, headers
        self._upstream_pid, self._proxy_pid = upstream_pid, proxy_pid
        self._numbers = itertools.cycle(range(10, 250))
        self.cuts: dict[str, int] = {"vanished clients": 0, "power cuts": 0, "moments": 0}
        self.ends: Counter[str] = Counter()  # of the requests that a loss of power hit
        self._hit: set[asyncio.Task[None]] = set()

    async def over(self) -> None:
        """Wait until all requests that were hit have ended."""
        await asyncio.gather(*self._hit)

    async def run(self) -> None:
        """Until it is cancelled; then all is as it was."""
        for number in itertools.count(1):
            await asyncio.gather(self._vanish("stream"), self._vanish("wait"), self._vanish("idle"))
            await asyncio.sleep(ROUND_S / 2)
            if number % ROUNDS == 0:
                await self._power_cut()
            else:
                await self._moment()
            await asyncio.sleep(ROUND_S / 2)

    async def _vanish(self, phase: str) -> None:
        address, begun = f"10.77.1.{next(self._numbers)}", asyncio.Event()
        _ip(f"addr add {address}/32 dev c0")
        _ip(f"neigh replace {address} lladdr {MACS['c']} dev c1 nud permanent", self._proxy_pid)
        client = asyncio.create_task(self._client(address, phase, begun))
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(begun.wait(), BEGUN_S if phase == "stream" else WAITS_S)
        finally:
            _ip(f"addr del {address}/32 dev c0")  # its connection is closed after that: nobody hears of it
            client.cancel()
            await asyncio.gather(client, return_exceptions=True)
        self.cuts["vanished clients"] += 1

    async def _client(self, address: str, phase: str, begun: asyncio.Event) -> None:
        """Ask, and do nothing more for ever."""
        wanted = {"model": SLOW, "num_predict": 100_000} if phase == "stream" else {"model": "m5", "num_predict": 8}
        body = {"model": wanted["model"], "prompt": "x", "options": {"num_predict": wanted["num_predict"]}}
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as session:
            if phase == "idle":
                async with session.get(f"{self._url}/health") as answer:
                    await answer.read()
                begun.set()
                await asyncio.Event().wait()
            async with session.post(f"{self._url}/api/generate", json=body) as answer:
                await answer.content.readany()
                begun.set()
                await asyncio.Event().wait()

    async def _be_hit(self) -> None:
        body = {"model": SLOW, "prompt": "x", "stream": False, "options": {"num_predict": HIT_TOKENS}}
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(f"{self._url}/api/generate", json=body) as answer,
            ):
                await answer.read()
                self.ends[f"got {answer.status}"] += 1
        except TimeoutError:
            self.ends["WRONG: no answer in time"] += 1
        except aiohttp.ClientError:
            self.ends["broken off"] += 1

    async def _power_cut(self) -> None:
        self._hit |= {asyncio.create_task(self._be_hit()) for _ in range(HIT)}
        await asyncio.sleep(1.0)
        with self._without(f"{UPSTREAM}/24 dev u0", 0):
            os.kill(self._upstream_pid, signal.SIGUSR2)
            await asyncio.sleep(AWAY_S)
        self.cuts["power cuts"] += 1

    async def _moment(self) -> None:
        with self._without(f"{PROXY}/24 dev c1", self._proxy_pid):
            await asyncio.sleep(MOMENT_S)
        self.cuts["moments"] += 1

    @contextlib.contextmanager
    def _without(self, address: str, pid: int) -> Iterator[None]:
        _ip(f"addr del {address}", pid)
        try:
            yield
        finally:
            _ip(f"addr add {address}", pid)
