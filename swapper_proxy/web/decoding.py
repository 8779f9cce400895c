"""Encoded bodies of requests, decoded as they come, so that they are never in memory in both forms."""

import io
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from swapper_proxy.core.errors import ProxyError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_PARTS = 1000  # members or frames; each costs a decoder
PIECE_BYTES = 256 * 1024


class Decoder(Protocol):
    """Of one gzip member or zstd frame, as the standard library's are from Python 3.14 on."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Member:
    """Of gzip."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


DECODERS: dict[str, Callable[[], Decoder]] = {"gzip": _Member, "x-gzip": _Member, "zstd": zstd.ZstdDecompressor}


class Decoding:
    """All members or frames; never more than `limit` bytes, whatever a small body unfolds to."""

    def __init__(self, decoder: Callable[[], Decoder], limit: int) -> None:
        self._decoder = decoder
        self._limit = limit
        self._part = decoder()
        self._parts = 0  # that were begun
        self._decoded = io.BytesIO()

    def write(self, data: bytes) -> int:
        """More of the encoded body has come; how many bytes it is decoded.  Raises ProxyError: 400, 413."""
        before = self._decoded.tell()
        try:
            while data:
                if self._part.eof or not self._parts:
                    self._begin()
                data = self._unfold(data)
        except (zlib.error, zstd.ZstdError) as error:
            raise ProxyError(400, "malformed", f"the request body cannot be decoded: {error}") from None
        return self._decoded.tell() - before

    def getvalue(self) -> bytes:
        """All of it, which has come.  Raises ProxyError (400) if there should be more."""
        if self._parts and not self._part.eof:
            raise ProxyError(400, "malformed", "the encoded request body ends too soon")
        return self._decoded.getvalue()

    def _begin(self) -> None:
        if self._parts == MOST_PARTS:
            raise ProxyError(400, "malformed", f"the encoded request body has more than {MOST_PARTS} parts")
        self._parts += 1
        self._part = self._decoder()

    def _unfold(self, data: bytes) -> bytes:
        """What comes after this part."""
        part = self._part
        self._keep(part.decompress(data, PIECE_BYTES))
        while not (part.eof or part.needs_input):
            self._keep(part.decompress(b"", PIECE_BYTES))
        return part.unused_data

    def _keep(self, piece: bytes) -> None:
        if self._decoded.tell() + len(piece) > self._limit:
            raise too_large(self._limit)
        self._decoded.write(piece)


def too_large(limit: int) -> ProxyError:
    """A body of more than so many bytes."""
    return ProxyError(413, "body_too_large", f"the request body is larger than {limit} bytes")
