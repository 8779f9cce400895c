"""GET /events: how it is, then what happens, as server-sent events.

Events of the ring have ids, and one who comes back with the last of them gets what was missed.  `models`, `queue` and
`status` have none: they say how it is now, so who resumes is told them anew.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property

from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.board import Board
from swapper_proxy.runtime.configuration import Configuration
from swapper_proxy.web import schemas, shapes
from swapper_proxy.web.broadcast import Broadcast, event
from swapper_proxy.web.exchange import Exchange

PATH = "/events"
FIGURES_S = 0.5
# Nor is more than this part of the time spent on looking, which takes tens of milliseconds where a thousand wait.
MOST_LOOKING = 0.05
HEARTBEAT_S = 15.0
HEARTBEAT = b":\n\n"
MOST_CONSUMERS = 100
Shape = Mapping[str, object]
# What changes by itself as time passes, and is no news.
_PASSING = ("uptime_s", "waited_seconds", "estimated_wait_seconds")


@dataclass(frozen=True)
class Figures:
    """GET /status, the items of GET /models and GET /queue at one instant."""

    status: schemas.StatusAnswer
    models: list[schemas.ListedModel]
    queue: schemas.QueueAnswer

    @property
    def snapshot(self) -> schemas.SnapshotEvent:
        return {"status": self.status, "models": self.models, "queue": self.queue}

    @cached_property
    def lasting(self) -> dict[str, Shape]:
        """What is compared: each by its name, without what is no news."""
        queue: Shape = {**self.queue, "requests": [_lasting(waiting) for waiting in self.queue["requests"]]}
        return {"status": self.status, "queue": queue, **{_of(model): _lasting(model) for model in self.models}}

    def news(self, told: Mapping[str, Shape]) -> Iterator[bytes]:
        """The events for one who was told that."""
        changed = {name for name, shape in self.lasting.items() if told.get(name) != shape}
        if models := [model for model in self.models if _of(model) in changed]:
            yield event("models", models)
        if "queue" in changed:
            yield event("queue", self.queue)
        if "status" in changed:
            yield event("status", self.status)


def _of(model: schemas.ListedModel) -> str:
    return f"models/{model['name']}"


def _lasting(shape: Shape) -> Shape:
    return {key: value for key, value in shape.items() if key not in _PASSING}


class Events:
    """The handler of /events; looks for changed figures while anybody listens."""

    def __init__(self, broadcast: Broadcast, board: Board, configuration: Configuration) -> None:
        self._broadcast = broadcast
        self._board = board
        self._configuration = configuration
        self._told: dict[str, Shape] = {}  # of the figures: what every consumer knows
        self._timer: asyncio.TimerHandle | None = None  # of the next look
        self._over = asyncio.Event()

    async def handle(self, exchange: Exchange) -> None:
        """One consumer, until it leaves or is dropped, or the proxy stops.  Raises ProxyError."""
        if exchange.request.method == "HEAD":
            return _begin(exchange, b"")
        if self._over.is_set():
            raise ProxyError(503, "shutting_down", "the proxy is shutting down")
        if len(self._broadcast.consumers) >= MOST_CONSUMERS:
            raise ProxyError(503, "too_many_consumers", f"{MOST_CONSUMERS} clients read the events already")
        over = self._over
        _begin(exchange, self._first(exchange))
        self._broadcast.join(exchange)
        if self._timer is None:
            self._look_after(FIGURES_S)
        try:
            while not await _ended(over):
                self._broadcast.write(exchange, HEARTBEAT)
            return exchange.end()
        finally:
            self._broadcast.leave(exchange)

    def close(self) -> None:
        """All that is known is told, then the streams end."""
        self._broadcast.flush()
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()

    def dismiss(self) -> None:
        """The streams end, because who reads them may have lost the leave to; who has not comes back."""
        self._broadcast.flush()
        self._over.set()
        self._over = asyncio.Event()

    def _first(self, exchange: Exchange) -> bytes:
        """What was missed since the event that the client names, and the figures of now; or how it is."""
        figures, ring, alone = self._figures(), self._broadcast.ring, not self._broadcast.consumers
        lasting = figures.lasting
        # What this one knows and the others do not yet is to be told to all at the next look.
        self._told = lasting if alone else {k: v for k, v in self._told.items() if lasting.get(k) == v}
        request = exchange.request
        known = ring.resumable(request.headers.get("Last-Event-ID") or request.query.get("last_event_id", ""))
        if known is None:
            return event("snapshot", figures.snapshot, ring.latest_id)
        return ring.after(known) + b"".join(figures.news({}))

    def _look_after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._broadcast.consumers:
            return
        began = time.monotonic()
        try:
            self._tell_news()
        finally:
            self._look_after(max(FIGURES_S, (time.monotonic() - began) / MOST_LOOKING))

    def _tell_news(self) -> None:
        """What happened, then the figures that changed."""
        self._broadcast.flush()
        figures = self._figures()
        if news := b"".join(figures.news(self._told)):
            self._broadcast.tell(news)
            self._told = figures.lasting

    def _figures(self) -> Figures:
        snapshot = self._board.snapshot()
        models = [shapes.described(model) for model in snapshot.models]
        return Figures(shapes.status(snapshot, self._configuration), models, shapes.queue(self._board))


async def _ended(over: asyncio.Event) -> bool:
    """Whether it is over, within the time of a heartbeat."""
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            return await over.wait()
    except TimeoutError:
        return False


def _begin(exchange: Exchange, first: bytes) -> None:
    headers = [
        (b"Content-Type", b"text/event-stream"),
        (b"Cache-Control", b"no-store"),
        (b"X-Accel-Buffering", b"no"),  # nginx would keep it
        (b"Date", formatdate(usegmt=True).encode()),
    ]
    exchange.begin(200, b"OK", headers, first, sized=False)
