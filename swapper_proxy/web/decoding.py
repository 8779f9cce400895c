"""Encoded bodies of requests, decoded as they come, so that they are never in memory in both forms."""

import io
from collections.abc import Callable

from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime import decoding
from swapper_proxy.runtime.decoding import Decoder, Undecodable


class Decoding:
    """All members or frames; never more than `limit` bytes, whatever a small body unfolds to."""

    def __init__(self, decoder: Callable[[], Decoder], limit: int) -> None:
        self._steps = decoding.Decoding(decoder, "request body")
        self._limit = limit
        self._decoded = io.BytesIO()

    def write(self, data: bytes) -> int:
        """More of the encoded body has come; how many bytes it is decoded.  Raises ProxyError: 400, 413."""
        before = self._decoded.tell()
        try:
            piece = self._steps.more(data)
            while piece:
                self._keep(piece)
                piece = self._steps.more()
        except Undecodable as error:
            raise ProxyError(400, "malformed", str(error)) from None
        return self._decoded.tell() - before

    def getvalue(self) -> bytes:
        """All of it, which has come.  Raises ProxyError (400) if there should be more."""
        try:
            self._steps.end()
        except Undecodable as error:
            raise ProxyError(400, "malformed", str(error)) from None
        return self._decoded.getvalue()

    def _keep(self, piece: bytes) -> None:
        if self._decoded.tell() + len(piece) > self._limit:
            raise too_large(self._limit)
        self._decoded.write(piece)


def too_large(limit: int) -> ProxyError:
    """A body of more than so many bytes."""
    return ProxyError(413, "body_too_large", f"the request body is larger than {limit} bytes")
