"""How vanished hosts and clients are found: the kernel's own probes, and what it tells of what it sends in vain."""

import math
import socket
import struct
from typing import Any

import pytest

from swapper_proxy.config import Server
from swapper_proxy.ollama import connection
from swapper_proxy.ollama.client import OllamaClient
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime import sockets
from swapper_proxy.runtime.sockets import PeerWatch, keep_alive
from swapper_proxy.web import server

OPTIONS = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


def options(sock: Any) -> dict[str, int]:
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    return {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in OPTIONS}


async def test_every_connection_to_ollama_is_probed() -> None:
    async with serving(Simulator([SimulatedModel("alpha")])) as url, OllamaClient(url) as client:
        await client.version()
        (made,) = client._pool._all
        assert options(made._transport.get_extra_info("socket")) == OPTIONS


def test_what_a_listening_socket_accepts_is_probed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        keep_alive(listening)
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert options(accepted) == OPTIONS


def test_how_long_it_takes() -> None:
    assert connection.VANISHED_S == 35.0
    assert server.VANISHED_S + server.PEER_LOOK_S <= 60.0
    assert Server().write_timeout > server.VANISHED_S


def test_a_socket_that_cannot_be_probed_is_left_as_it_is() -> None:
    sock = socket.socket()
    sock.close()
    keep_alive(sock)


def test_a_platform_with_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS has them, and one with none."""
    idle = socket.TCP_KEEPIDLE
    for name in OPTIONS:
        monkeypatch.delattr(socket, name)
    with socket.socket() as sock:
        keep_alive(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        monkeypatch.setattr(socket, "TCP_KEEPALIVE", idle, raising=False)
        keep_alive(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, idle) == sockets.IDLE_S


class Told:
    """A transport, and its socket, of which the kernel tells this."""

    def __init__(self, retransmits: int = 0, window_probes: int = 0, heard_s: float = 0.0) -> None:
        self.retransmits, self.window_probes, self.heard_s = retransmits, window_probes, heard_s

    def get_extra_info(self, _: str) -> "Told":
        return self

    def getsockopt(self, _level: int, _name: int, size: int) -> bytes:
        return struct.pack("=2xBB52xI", self.retransmits, self.window_probes, int(self.heard_s * 1000))[:size]


def found(told: Any, *times: float) -> list[bool]:
    watch = PeerWatch()
    return [watch.has_vanished(told, 10.0, time) for time in times]


@pytest.mark.parametrize("told", [Told(retransmits=4, heard_s=math.floor(1e6)), Told(window_probes=3, heard_s=10.0)])
def test_what_is_sent_in_vain_for_long(told: Told) -> None:
    assert found(told, 0, 9, 10, 15) == [False, False, True, True]


@pytest.mark.parametrize(
    "told",
    [
        Told(heard_s=1e6),  # nothing is outstanding: the kernel probes
        Told(window_probes=2, heard_s=100.0),  # it does not read, and one answer may be lost
        Told(retransmits=9, heard_s=2.0),  # it acknowledges something
    ],
)
def test_what_is_answered_after_all(told: Told) -> None:
    assert found(told, 0, 9, 10, 100) == [False] * 4


def test_an_answer_ends_the_wait() -> None:
    watch, told = PeerWatch(), Told(retransmits=1, heard_s=100.0)
    assert not watch.has_vanished(told, 10.0, 0)
    told.retransmits = 0
    assert not watch.has_vanished(told, 10.0, 9)
    told.retransmits = 1
    assert not watch.has_vanished(told, 10.0, 11)
    assert watch.has_vanished(told, 10.0, 21)


def test_the_layout_is_that_of_this_kernel() -> None:
    """A connection on which something has just come was heard a moment ago, and nothing was sent in vain."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as sock,
        listening.accept()[0] as accepted,
    ):
        accepted.sendall(b"x")
        assert sock.recv(1) == b"x"
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
    retransmits, probes, heard_ms = struct.unpack("=2xBB52xI", info)
    assert (retransmits, probes) == (0, 0)
    assert heard_ms < 60_000


def test_a_platform_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_TCP_INFO", None)
    assert found(Told(retransmits=9, heard_s=100.0), 0, 100) == [False, False]
    assert sockets.unanswered(Told()) is None


def test_a_connection_that_is_closed_already(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> bytes:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(Told, "getsockopt", closed)
    assert found(Told(), 0, 100) == [False, False]
    assert found(type("Gone", (), {"get_extra_info": lambda *_: None})(), 0, 100) == [False, False]
