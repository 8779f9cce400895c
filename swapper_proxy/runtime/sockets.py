"""What the kernel knows of a socket: which end has vanished, what has come, what was not taken.

A vanished end says nothing: no power, no network, a NAT that forgot.  Two cases, since the kernel probes only a
connection on which nothing is outstanding:

1. All that was sent has been acknowledged.  The kernel's keepalive probes the other end, and closes the connection
   when no probe is answered: after 15 s without traffic and 4 probes, 5 s apart.
2. Something sent has not been acknowledged.  The kernel sends it again for about a quarter of an hour.
   TCP_USER_TIMEOUT would shorten that, but Linux applies it to closed windows, too (tcp_probe_timer in tcp_timer.c):
   it would cut off an Ollama that is frozen and a client that does not read, though their kernels answer each probe.
   So the owner of the connection looks at TCP_INFO from time to time: see `PeerWatch`.

What a platform does not have is left out.
"""

import math
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

IDLE_S = 15
INTERVAL_S = 5
PROBES = 4
# After so many probes of a closed window without an answer, one of them was not just lost.
WINDOW_PROBES = 3

# Of struct tcp_info (linux/tcp.h), which only grows at its end: tcpi_retransmits, tcpi_probes, tcpi_last_ack_recv (ms).
_INFO = struct.Struct("=2xBB52xI")
# Of the same: bytes_acked, and, from Linux 4.19 on, bytes_sent and bytes_retrans.
_BYTES = struct.Struct("=120xQ72xQQ")
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)


class Unanswered(NamedTuple):
    """What the kernel has sent again and again, and when it last heard an acknowledgement."""

    retransmits: int
    window_probes: int
    last_heard_s: float


def keep_alive(connection: Any) -> None:
    """Have the kernel probe the other end of this socket while nothing is outstanding.

    What a listening socket accepts inherits it.
    """
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # the name of macOS
        for name, value in ((idle, IDLE_S), ("TCP_KEEPINTVL", INTERVAL_S), ("TCP_KEEPCNT", PROBES)):
            if (option := getattr(socket, name, None)) is not None:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        pass  # it is closed already, or the platform knows the name and not the option


def unanswered(transport: Any) -> Unanswered | None:
    """Return what the other end leaves unanswered; None if it answers, or if this platform does not tell."""
    connection = transport.get_extra_info("socket")
    if _TCP_INFO is None or connection is None:
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size)
        found = _INFO.unpack(info)
    except (OSError, struct.error):
        return None  # it is closed already, or it is no TCP
    retransmits, window_probes, last_heard_ms = found
    if retransmits == 0 and window_probes < WINDOW_PROBES:
        return None
    return Unanswered(retransmits, window_probes, last_heard_ms / 1000)


class PeerWatch:
    """Finds out whether the other end of one connection has vanished while something was outstanding."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = math.inf

    def has_vanished(self, transport: Any, limit_s: float, now: float) -> bool:
        """Look, every few seconds.  Return True if nothing was acknowledged for `limit_s` although it should be."""
        found = unanswered(transport)
        if found is None:
            self._since = math.inf
            return False
        self._since = min(self._since, now)
        return min(now - self._since, found.last_heard_s) >= limit_s


def reader(transport: Any) -> Callable[[int], object]:
    """Return what tells, given a time of 0 ms, whether the other side has closed the connection or sent something.

    It works on the transports of asyncio and of uvloop, and costs a microsecond.
    """
    if sys.platform == "win32":
        return lambda _: False
    readable = select.poll()
    readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return readable.poll


def untaken_bytes(transport: Any) -> int:
    """Return how many of the bytes that were sent the other side did not take before it closed the connection.

    Its FIN acknowledges all that it took, and one for the SYN; a reset acknowledges nothing.  0 if that is not known.
    """
    if sys.platform != "linux" or transport.get_extra_info("sslcontext") is not None:
        return 0
    told = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES.size)
    if len(told) < _BYTES.size:
        return 0
    acked, sent, sent_again = _BYTES.unpack(told)
    return sent - sent_again - (acked - 1) if acked else 0
