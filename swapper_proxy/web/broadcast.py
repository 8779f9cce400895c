"""What happened: kept for a while, and told to whoever listens as server-sent events."""

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec

from swapper_proxy.runtime.ports import ProblemRecord, RequestRecord, StateRecord, SwapRecord
from swapper_proxy.web import shapes
from swapper_proxy.web.exchange import Exchange

Record = RequestRecord | SwapRecord | StateRecord | ProblemRecord

KEPT = 1000
# Events of so many seconds go out together: thousands of requests a second are no reason for as many packets.
GATHER_S = 0.05
# Of what was written to one who does not read.
MOST_UNSENT_BYTES = 1024 * 1024

_KINDS: dict[type[Record], tuple[str, Callable[[Any], object]]] = {
    RequestRecord: ("request", shapes.requested),
    SwapRecord: ("swap", shapes.swapped),
    StateRecord: ("state", shapes.changed),
    ProblemRecord: ("problem", shapes.went_wrong),
}
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def event(kind: str, data: object, id_: str = "") -> bytes:
    """As it stands on the wire.  One without an id leaves the client's last one as it is."""
    head = f"id: {id_}\nevent: {kind}\ndata: " if id_ else f"event: {kind}\ndata: "
    return b"%b%b\n\n" % (head.encode(), msgspec.json.encode(data))


class Kept(msgspec.Struct, gc=False):
    """One record; `wire` is made when somebody wants it."""

    number: int
    record: Record
    wire: bytes = b""


class Ring:
    """The latest records, numbered from 1.  Ids are RUN-NUMBER, so that those of an earlier run are known as such."""

    def __init__(self, run: str, size: int = KEPT) -> None:
        self._run = run
        self._kept = deque[Kept](maxlen=size)
        self.latest = 0

    def add(self, record: Record) -> None:
        self.latest += 1
        self._kept.append(Kept(self.latest, record))

    @property
    def latest_id(self) -> str:
        return self._id(self.latest)

    def resumable(self, id_: str) -> int | None:
        """The number in an id, if nothing that came after it is lost."""
        run, _, number = id_.rpartition("-")
        if run != self._run or not _NUMBER.fullmatch(number):
            return None
        return int(number) if self.latest - len(self._kept) <= int(number) <= self.latest else None

    def after(self, number: int) -> bytes:
        """All events after this one that are kept."""
        known = max(0, len(self._kept) - (self.latest - number))
        return b"".join(map(self._wire, islice(self._kept, known, None)))

    def _wire(self, kept: Kept) -> bytes:
        if not kept.wire:
            kind, shape = _KINDS[type(kept.record)]
            kept.wire = event(kind, shape(kept.record), self._id(kept.number))
        return kept.wire

    def _id(self, number: int) -> str:
        return f"{self._run}-{number}"


class Broadcast:
    """See runtime.ports.Recorder.  While nobody listens a record is only kept."""

    def __init__(self) -> None:
        self.ring = Ring(secrets.token_hex(4))
        self.consumers: set[Exchange] = set()
        self._told = 0  # the number of the last event that the consumers got
        self._flush: asyncio.TimerHandle | None = None

    def request(self, record: RequestRecord) -> None:
        self._add(record)

    def swap(self, record: SwapRecord) -> None:
        self._add(record)

    def state(self, record: StateRecord) -> None:
        self._add(record)

    def problem(self, record: ProblemRecord) -> None:
        self._add(record)

    def _add(self, record: Record) -> None:
        self.ring.add(record)
        if self.consumers and self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(GATHER_S, self.flush)

    # Consumers: what one gets on joining tells all up to the latest event

    def join(self, consumer: Exchange) -> None:
        self.flush()
        self.consumers.add(consumer)

    def leave(self, consumer: Exchange) -> None:
        self.consumers.discard(consumer)

    def flush(self) -> None:
        """Tell what was gathered."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        told, self._told = self._told, self.ring.latest
        if self.consumers and told < self._told:
            self.tell(self.ring.after(told))

    def tell(self, data: bytes) -> None:
        """Write to all."""
        for consumer in tuple(self.consumers):
            self.write(consumer, data)

    def write(self, consumer: Exchange, data: bytes) -> None:
        """To one of them; who has not taken what was written before is dropped."""
        if consumer.unsent > MOST_UNSENT_BYTES:
            self.leave(consumer)
            consumer.abort()
        else:
            consumer.write(data)
