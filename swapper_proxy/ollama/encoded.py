"""Answers that are encoded although `identity` was asked for: from here on they are as if they were not.

So lists can be edited, tokens counted, and an error can follow what breaks off.
"""

from swapper_proxy.runtime.decoding import DECODERS, Decoding, Undecodable
from swapper_proxy.runtime.ports import Header

# Headers that are untrue of the decoded answer.
_UNTRUE = (b"content-encoding", b"content-length")


class EncodedBody:
    """Decodes one answer.  Raises Undecodable if its encoding is unknown, or there was one `before`."""

    def __init__(self, encoding: bytes, before: "EncodedBody | None" = None) -> None:
        decoder = DECODERS.get(encoding.decode("latin-1"))
        if decoder is None or before is not None:
            told = encoding[:64].decode("latin-1")
            why = f"the answer has the Content-Encoding {told!r}, which was not asked for and is not known"
            raise Undecodable(f"{why}; turn compression off in what stands in front of Ollama")
        self._decoding = Decoding(decoder, "answer")
        self.end = self._decoding.end

    def unfold(self, encoded: bytes, pieces: list[bytes], most_bytes: int) -> int:
        """Append what this is decoded; return its size.  Raises Undecodable, also if that is more than `most_bytes`."""
        size = 0
        while piece := self._decoding.more(b"" if size else encoded):
            pieces.append(piece)
            size += len(piece)
            if size > most_bytes:
                raise Undecodable("the encoded answer unfolds to too much at once")
        return size


def as_decoded(headers: list[Header]) -> list[Header]:
    """Return the headers of the decoded answer."""
    return [header for header in headers if header[0].lower() not in _UNTRUE]
