"""What is counted and timed of a request that was handed to Ollama."""

import time
from typing import Protocol

from swapper_proxy.runtime.ports import Recorder, RequestRecord, Usage
from swapper_proxy.web import usage
from swapper_proxy.web.relay import Outcome
from swapper_proxy.web.usage import HEAD_BYTES, TAIL_BYTES

WITHOUT_KNOWN_END = ("v1_audio", "v1_images")  # what the names of endpoints begin with
# An answer of one of these types comes token by token: what stands behind each.
STREAMS = {"application/x-ndjson": b"\n", "text/event-stream": b"\n\n"}


class RequestMetrics(Protocol):
    """What single requests tell the metrics; times are seconds, from the arrival where not said otherwise."""

    def first_byte(self, model: str, after_hand_over_s: float) -> None: ...
    def first_token(self, model: str, seconds: float) -> None: ...
    def answered(self, model: str, seconds: float, usage: Usage) -> None: ...
    def rejected(self, reason: str) -> None: ...
    def keyed(self, key: str, status: int) -> None: ...


class RequestTotals(Protocol):
    """What requests come to in the end (see runtime.ledger.Ledger)."""

    def count(self, model: str, endpoint: str, status: int, usage: Usage) -> None: ...
    def count_remote(self, model: str, endpoint: str, status: int) -> None: ...
    def first_token(self, model: str, seconds: float) -> None: ...


class Counted(Outcome, kw_only=True):
    """Of one inference request; `arrived` and `handed_over` are on the monotonic clock."""

    totals: RequestTotals
    metrics: RequestMetrics
    recorder: Recorder
    model: str
    endpoint: str
    arrived: float
    handed_over: float = 0.0
    streams: bool = False
    began: float = 0.0
    pieces: int = 0
    tokens: int = 0  # streamed so far, as far as it can be seen without reading them
    _behind: bytes = b""
    head_bytes: bytes = b""
    tail: bytes = b""
    _usage: Usage | None = None

    def sending(self) -> None:
        self.sent = True
        self.handed_over = time.monotonic()

    def head(self, status: int, content_type: str) -> None:
        self.status = status
        self._behind = STREAMS.get(content_type.partition(";")[0], b"")
        self.streams = bool(self._behind)

    def chunk(self, data: bytes) -> None:
        self.pieces += 1
        if self.pieces == 1:
            self._begin()
        if len(self.head_bytes) < HEAD_BYTES:
            self.head_bytes += data[: HEAD_BYTES - len(self.head_bytes)]
        if self.streams:
            self.tokens += data.count(self._behind)
        self.tail = data if len(data) >= TAIL_BYTES else self.tail[len(data) - TAIL_BYTES :] + data

    def cut(self, status: int) -> None:
        """An answer that its client has had to the end is whole, though the client left before the proxy knew."""
        if not self._is_whole():
            self.status = status
            self._usage = usage.of_part(self.usage, self.tokens, self._streamed_s())

    def ended_short(self) -> bool:
        """Ollama ends a stream in order after an error, too: then its last word is missing."""
        known = self.streams and self.status == 200 and not self.endpoint.startswith(WITHOUT_KNOWN_END)
        return known and not self._is_whole()

    def _is_whole(self) -> bool:
        return usage.is_whole(self.tail, events=self._behind != b"\n")

    def _begin(self) -> None:
        self.began = time.monotonic()
        self.metrics.first_byte(self.model, self.began - self.handed_over)
        if self.streams and self.status == 200:
            self.totals.first_token(self.model, self.began - self.arrived)
            self.metrics.first_token(self.model, self.began - self.arrived)

    @property
    def usage(self) -> Usage:
        """What the answer says; read it at its end.  The time to generate is measured where Ollama does not tell it."""
        if self._usage is None:
            self._usage = usage.read(self.head_bytes, self.tail, self._streamed_s())
        return self._usage

    def _streamed_s(self) -> float:
        return time.monotonic() - self.began if self.streams and self.pieces > 1 else 0.0

    @property
    def load_s(self) -> float:
        return self.usage.load_s

    def count(self, waited_s: float = 0.0) -> None:
        if not self.sent:
            return
        model, endpoint, status, said = self.model, self.endpoint, self.status, self.usage
        duration_s = time.monotonic() - self.arrived
        first_byte_s = self.began - self.handed_over if self.pieces else None
        self.totals.count(model, endpoint, status, said)
        self.metrics.answered(model, duration_s, said)
        record = RequestRecord(time.time(), model, endpoint, status, waited_s, first_byte_s, duration_s, said)
        self.recorder.request(record)


class CountedRemote(Outcome, kw_only=True):
    """Of one request for a model that runs elsewhere: apart from the others, and not timed."""

    totals: RequestTotals
    model: str
    endpoint: str

    def count(self, waited_s: float = 0.0) -> None:
        if self.sent:
            self.totals.count_remote(self.model, self.endpoint, self.status)
