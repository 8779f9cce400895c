"""Decode bodies that are encoded with gzip or zstd as they come, of requests and of answers."""

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_PARTS = 1000  # members or frames; each costs a decoder
STEP_BYTES = 1024 * 1024  # decoded at a time
# A zstd decoder keeps so much of what it has decoded.  RFC 8878 asks for no more, but a frame may ask for gigabytes.
WINDOW_LOG = 23
WINDOW_BYTES = 1 << WINDOW_LOG


class Undecodable(Exception):
    """A body is not what its Content-Encoding says; the text says which body."""


class Decoder(Protocol):
    """Decodes one gzip member or zstd frame, as the standard library's do from Python 3.14 on."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Member:
    """Decodes one gzip member."""

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


def _frame() -> Decoder:
    """Return what decodes one zstd frame."""
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})


DECODERS: dict[str, Callable[[], Decoder]] = {"gzip": _Member, "x-gzip": _Member, "zstd": _frame}


class Decoding:
    """Decodes all members or frames of one body, step by step: a small body may unfold to any size.

    `what` is the name of the body in errors.
    """

    def __init__(self, decoder: Callable[[], Decoder], what: str) -> None:
        self._decoder = decoder
        self._what = what
        self._part = decoder()
        self._parts = 0  # that were begun
        self._left = b""  # of the encoded body, behind the end of a part

    def more(self, encoded: bytes = b"") -> bytes:
        """Return the next STEP_BYTES at most of what has come so far, `encoded` included; empty if all was returned.

        Raises Undecodable.
        """
        encoded = self._left + encoded if self._left else encoded
        self._left = b""
        try:
            while encoded or not self._waits:
                if self._part.eof or not self._parts:
                    self._begin()
                decoded = self._part.decompress(encoded, STEP_BYTES)
                encoded = self._left = self._part.unused_data if self._part.eof else b""
                if decoded:
                    return decoded
        except zlib.error as error:
            raise Undecodable(f"the {self._what} cannot be decoded: {error}") from None
        except zstd.ZstdError as error:
            why = f"{error} (the window of zstd may be {WINDOW_BYTES >> 20} MiB at most)"
            raise Undecodable(f"the {self._what} cannot be decoded: {why}") from None
        return b""

    def end(self) -> None:
        """The encoded body is over.  Raises Undecodable if there should be more."""
        if self._parts and not self._part.eof:
            raise Undecodable(f"the encoded {self._what} ends too soon")

    @property
    def _waits(self) -> bool:
        """Return True if nothing comes without more of the encoded body."""
        return not self._parts or self._part.eof or self._part.needs_input

    def _begin(self) -> None:
        if self._parts == MOST_PARTS:
            raise Undecodable(f"the encoded {self._what} has more than {MOST_PARTS} parts")
        self._parts += 1
        self._part = self._decoder()
