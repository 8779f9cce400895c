"""The management API and /metrics.  The shapes are a contract: keys may be added, none removed or renamed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.board import Board, ModelState, uptime_total_s
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import Header, UpstreamUnreachable
from swapper_proxy.web import console
from swapper_proxy.web.dialects import Dialect, rendered
from swapper_proxy.web.events import PATH as EVENTS
from swapper_proxy.web.events import Events
from swapper_proxy.web.exchange import Exchange
from swapper_proxy.web.history import History
from swapper_proxy.web.shapes import described, how_to_pull, measured, queue, stamp, status

PROMETHEUS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
WORDS = ("health", "ready", "status", "queue", "models", "metrics", "config", "events", "history")
WITH_NAMES = ("models", "metrics", "history")
READING = ("GET", "HEAD")

# Status, headers and body.
Response = tuple[int, list[Header], bytes]


def is_management(path: str) -> bool:
    """Whether the path is the proxy's own."""
    word, slash, name = path[1:].partition("/")
    return console.is_console(path) or (word in (WITH_NAMES if slash else WORDS) and bool(name) == bool(slash))


class Exposition(Protocol):
    """What /metrics shows."""

    def exposition(self) -> bytes: ...


class Management:
    """Handlers; `routes` says for which paths."""

    def __init__(
        self,
        board: Board,
        engine: Engine,
        catalog: Catalog,
        metrics: Exposition,
        events: Events,
        history: History,
        settings: config.Settings,
        note: str,
    ) -> None:
        self._board = board
        self._engine = engine
        self._catalog = catalog
        self._metrics = metrics
        self._events = events
        self._history = history
        self._settings = settings
        self._note = note  # what runs behind the proxy, if it is no real Ollama
        self._tasks: set[asyncio.Future[None]] = set()
        self._pages: dict[str, Callable[[web.BaseRequest], Awaitable[Response]]] = {
            "health": self.health,
            "ready": self.ready,
            "status": self.status,
            "queue": self.queue,
            "models": self.models,
            "metrics": self.metrics,
            "config": self.config,
        }
        self._actions = {"load": self.load, "unload": self.unload}

    async def handle(self, exchange: Exchange) -> None:
        """Any call of the proxy's own API."""
        try:
            if exchange.path == EVENTS and exchange.request.method in READING:
                return await self._events.handle(exchange)
            response = await self._called(exchange)
        except ProxyError as error:
            response = rendered(error, Dialect.MANAGEMENT)
        return exchange.answer(*response)

    async def _called(self, exchange: Exchange) -> Response:
        """The paths are `/WORD`, `/WORD/NAME` and `/models/NAME/ACTION`; a name may hold slashes."""
        method, (_, word, *rest) = exchange.request.method, exchange.path.split("/")
        if console.is_console(exchange.path) and method in READING:
            return await console.page(exchange.request, exchange.path)
        reads = method in READING
        if word == "history" and reads:
            return await self.history(exchange.request, "/".join(rest))
        if not rest and reads:
            return await self._pages[word](exchange.request)
        if word == "models" and len(rest) > 1 and method == "POST" and rest[-1] in self._actions:
            return await self._actions[rest[-1]](exchange.request, "/".join(rest[:-1]))
        if rest and reads:
            return {"models": self.model, "metrics": self.model_metrics}[word]("/".join(rest))
        raise ProxyError(405, "method_not_allowed", "method not allowed")

    # Reading

    async def health(self, _: web.BaseRequest) -> Response:
        snapshot = self._board.snapshot()
        answer = {
            "status": "healthy" if snapshot.reachable else "degraded",
            "service": "swapper-service",
            "active_model": snapshot.active,
            "mode": self._settings.swapper.mode,
        }
        return _json(answer | ({"note": self._note} if self._note else {}))

    async def ready(self, _: web.BaseRequest) -> Response:
        reachable = self._engine.reachable
        return _json({"status": "ready" if reachable else "unavailable"}, status=200 if reachable else 503)

    async def status(self, _: web.BaseRequest) -> Response:
        return _json(status(self._board.snapshot(), self._settings.swapper.mode))

    async def queue(self, _: web.BaseRequest) -> Response:
        return _json(queue(self._board))

    async def models(self, _: web.BaseRequest) -> Response:
        return _json({"models": [described(m) for m in self._board.snapshot().models]})

    def model(self, name: str) -> Response:
        state = self._state(name)
        residence = state.residence
        return _json(
            described(state)
            | {
                "loaded_at": stamp(residence.loaded_at),
                "unloaded_at": stamp(residence.unloaded_at),
                "total_uptime_seconds": round(uptime_total_s(residence), 3),
            }
        )

    async def metrics(self, request: web.BaseRequest) -> Response:
        if wants_json(request, self._settings.metrics.default_format):
            status, headers, body = _json({"metrics": [measured(m) for m in self._board.snapshot().models]})
        else:
            status, headers, body = 200, [(b"Content-Type", PROMETHEUS_TYPE)], self._metrics.exposition()
        return status, [*headers, (b"Vary", b"Accept")], body

    async def config(self, _: web.BaseRequest) -> Response:
        """The settings as they took effect; a password in Ollama's URL is left out."""
        upstream = msgspec.structs.replace(self._settings.upstream, url=_without_password(self._settings.upstream.url))
        return _json(msgspec.structs.replace(self._settings, upstream=upstream))

    def model_metrics(self, name: str) -> Response:
        return _json(measured(self._state(name)))

    async def history(self, request: web.BaseRequest, name: str) -> Response:
        return _json(await self._history.page(name, request.query.items()))

    def _state(self, name: str) -> ModelState:
        state = self._board.model(name)
        if state is None:
            raise _unknown(name)
        return state

    # Changing

    async def load(self, request: web.BaseRequest, name: str) -> Response:
        model = await self._model(name)
        return await self._done(request, model, self._engine.load(model), "loaded")

    async def unload(self, request: web.BaseRequest, name: str) -> Response:
        model = await self._model(name)
        return await self._done(request, model, self._engine.unload(model), "unloaded")

    async def _model(self, name: str) -> Model:
        try:
            model = await self._catalog.resolve(name)
        except UpstreamUnreachable as error:
            raise ProxyError(502, "upstream_unreachable", f"Ollama is not reachable: {error}") from error
        meaning = self._catalog.meaning(name)
        if meaning.denied or (model is None and meaning.model is None):
            raise _unknown(name)
        if model is None:
            raise ProxyError(409, "model_missing", how_to_pull(meaning.model or Model(name, name)))
        if model.remote:
            raise ProxyError(409, "model_remote", "the model runs elsewhere: there is nothing to load or unload here")
        return model

    async def _done(self, request: web.BaseRequest, model: Model, work: Awaitable[None], what: str) -> Response:
        if request.query.get("wait") == "false":
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._over)
            return _json(
                {"status": "accepted", "model": model.name, "message": f"Model {model.name} is being {what}"}, 202
            )
        await work
        return _json({"status": "success", "model": model.name, "message": f"Model {model.name} {what}"})

    def _over(self, task: "asyncio.Future[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # logged where it was decided


def wants_json(request: web.BaseRequest, default: str) -> bool:
    """`?format=` decides, else whether Accept names JSON at least as gladly as plain text; ties go by order."""
    if form := request.query.get("format"):
        return form == "json"
    accepted = []
    for place, part in enumerate(request.headers.get("Accept", "*/*").lower().split(",")):
        kind, *parameters = (word.strip() for word in part.split(";"))
        quality = next((q[2:] for q in parameters if q.startswith("q=")), "1")
        accepted.append((-_quality(quality), place, kind))
    named = [kind for quality, _, kind in sorted(accepted) if kind in _NAMED and quality < 0]
    if not named:
        return default == "json"
    return named[0] == "application/json"


_NAMED = ("application/json", "text/plain", "application/openmetrics-text")


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _unknown(name: str) -> ProxyError:
    return ProxyError(404, "model_not_found", f"no model is called {name!r}")


def _json(value: object, status: int = 200) -> Response:
    return status, [(b"Content-Type", b"application/json")], msgspec.json.encode(value)
