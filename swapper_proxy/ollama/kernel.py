"""What the kernel knows of a connection, and the event loop has not heard yet."""

import select
import socket
import sys
from asyncio import Transport

# Where Linux tells how many bytes the other side has acknowledged: `tcpi_bytes_acked` of linux/tcp.h.
_ACKED = slice(120, 128)


class Socket:
    """The socket of a transport; it works on asyncio's and on uvloop's."""

    def __init__(self, transport: Transport) -> None:
        self._socket = transport.get_extra_info("socket")
        if sys.platform != "win32":
            self._readable = select.poll()
            self._readable.register(self._socket.fileno(), select.POLLIN)

    @property
    def is_quiet(self) -> bool:
        """Return False if the other side has closed the connection, or has sent something."""
        return sys.platform == "win32" or not self._readable.poll(0)

    def took_no_more(self, than_bytes: int) -> bool:
        """Return True if it is certain that the other side had taken just so many bytes when it closed the connection.

        Its FIN acknowledges all that it took, and one for the SYN.  A reset acknowledges nothing.
        """
        if sys.platform != "linux":
            return False
        acked = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.stop)[_ACKED]
        return int.from_bytes(acked, sys.byteorder) == 1 + than_bytes
