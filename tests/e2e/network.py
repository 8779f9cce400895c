"""Hosts with cables between them and the proxy's, as namespaces of Linux: cut, they lose packets and nobody is told.

The thread that runs the tests is in the namespace of the proxy's host as long as there is a `Network`.  The sockets
that it makes belong to that host, and so do the processes that it starts, unless they are made inside of another one.
"""

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
NEEDED = "these tests make network namespaces: run them as root, with the command `ip` (Debian: iproute2)"
NOBODY = "02:00:00:00:00:01"  # an address on the cable that nobody has


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    with suppress(OSError):
        ip("netns", "del", name)  # one that a run which was killed has left
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "del", name)


@contextmanager
def _inside(path: str) -> Iterator[None]:
    """This thread makes its sockets in that namespace; do not await anything inside that takes its time."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before, Path(path).open() as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)


@dataclass
class Host:
    """One that has a cable to the proxy's host; `address` is its own, `gateway` that of the proxy's host."""

    name: str
    near: str
    cable: str
    address: str
    gateway: str

    @contextmanager
    def inside(self) -> Iterator[None]:
        with _inside(f"/run/netns/{self.name}"):
            yield

    def cut(self) -> None:
        """What either side sends from now on is lost."""
        for name, other in ((self.near, self.address), (self.name, self.gateway)):
            ip("-n", name, "neigh", "replace", other, "lladdr", NOBODY, "dev", self.cable, "nud", "permanent")

    def mend(self) -> None:
        for name, other in ((self.near, self.address), (self.name, self.gateway)):
            ip("-n", name, "neigh", "del", other, "dev", self.cable)


class Network:
    """The proxy's host, and others that are cabled to it."""

    def __init__(self, near: str, stack: ExitStack) -> None:
        self._near = near
        self._stack = stack
        self._numbers = itertools.count(1)

    def host(self) -> Host:
        number = next(self._numbers)
        name = self._stack.enter_context(_namespace(f"{self._near}-{number}"))
        host = Host(name, self._near, f"cable{number}", f"10.99.{number}.2", f"10.99.{number}.1")
        self._connect(host)
        return host

    def restart(self, host: Host) -> None:
        """It lost its power: nothing was sent any more, and it knows of no connection."""
        ip("-n", self._near, "link", "del", host.cable)
        host.name = self._stack.enter_context(_namespace(f"{self._near}-{next(self._numbers)}"))
        self._connect(host)

    def _connect(self, host: Host) -> None:
        ip("-n", self._near, "link", "add", host.cable, "type", "veth", "peer", "name", host.cable, "netns", host.name)
        for namespace, address in ((self._near, host.gateway), (host.name, host.address)):
            ip("-n", namespace, "addr", "add", f"{address}/30", "dev", host.cable)
            ip("-n", namespace, "link", "set", host.cable, "up")


@contextmanager
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        try:
            near = stack.enter_context(_namespace(f"swapper-{os.getpid()}"))
            stack.enter_context(_inside(f"/run/netns/{near}"))
        except OSError as error:
            pytest.fail(f"{NEEDED}: {error}")
        yield Network(near, stack)
