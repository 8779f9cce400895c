"""What the kernel knows of a connection, and the event loop has not heard yet."""

import select
import socket
import struct
import sys
from asyncio import Transport
from collections.abc import Callable

# Of `struct tcp_info` in linux/tcp.h: bytes_acked, and, from Linux 4.19 on, bytes_sent and bytes_retrans.
_TOLD = struct.Struct("=120xQ72xQQ")


def reader(transport: Transport) -> Callable[[int], object]:
    """Return what tells, given a time of 0 ms, whether the other side has closed the connection or sent something.

    It works on the transports of asyncio and of uvloop, and costs a microsecond.
    """
    if sys.platform == "win32":
        return lambda _: False
    readable = select.poll()
    readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return readable.poll


def untaken_bytes(transport: Transport) -> int:
    """Return how many of the bytes that were sent the other side did not take before it closed the connection.

    Its FIN acknowledges all that it took, and one for the SYN; a reset acknowledges nothing.  0 if that is not known.
    """
    if sys.platform != "linux" or transport.get_extra_info("sslcontext") is not None:
        return 0
    told = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOLD.size)
    if len(told) < _TOLD.size:
        return 0
    acked, sent, sent_again = _TOLD.unpack(told)
    return sent - sent_again - (acked - 1) if acked else 0
