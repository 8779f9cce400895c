"""The management API and /metrics.  The shapes are a contract: keys may be added, none removed or renamed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from typing import Literal, Protocol

import msgspec
from aiohttp import web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.board import Board, ModelState
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.configuration import Configuration
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import Header, Recorder, UpstreamUnreachable
from swapper_proxy.runtime.reachability import AWAY
from swapper_proxy.runtime.standby import Standby
from swapper_proxy.web import console, history, openapi, parameters, schemas, shapes
from swapper_proxy.web.dialects import Dialect, message, rendered
from swapper_proxy.web.events import PATH as EVENTS
from swapper_proxy.web.events import Events
from swapper_proxy.web.exchange import Exchange
from swapper_proxy.web.forwarded import Forwarding
from swapper_proxy.web.keys import Keys

PROMETHEUS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
WORDS = (
    "health",
    "ready",
    "status",
    "queue",
    "models",
    "metrics",
    "config",
    "events",
    "history",
    "openapi.json",
    "reload",
)
WITH_NAMES = ("models", "metrics", "history")
READING = ("GET", "HEAD")
RELOAD = "/reload"
# What tells nothing worth a key: for those who watch over the process.
OPEN = ("/health", "/ready")

log = logging.getLogger("swapper_proxy.requests")

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
        past: history.History,
        configuration: Configuration,
        standby: Standby,
        reload: Callable[[], Awaitable[None]],
        recorder: Recorder,
        note: str,
    ) -> None:
        self._board = board
        self._engine = engine
        self._catalog = catalog
        self._metrics = metrics
        self._events = events
        self._history = past
        self._configuration = configuration
        self._reload = reload
        self._recorder = recorder
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
            "openapi.json": self.described,
        }
        self._named = {"models": self.model, "metrics": self.model_metrics}
        self._actions: dict[str, tuple[Callable[[Model], Awaitable[None]], str]] = {  # what is done, and then said
            "load": (engine.load, "loaded"),
            "unload": (engine.unload, "unloaded"),
            "pin": (standby.pin, "pinned"),
            "unpin": (standby.unpin, "unpinned"),
        }

    def configure(self, server: config.Server, keys: Keys) -> None:
        """Calls that come from now on are judged by these."""
        self._forwarding = Forwarding(server.trusted_proxies)
        self._keys = keys

    @property
    def routes(self) -> list[openapi.Route]:
        """What is served, as the description writes it; the console at /ui/ is for people, and not in it."""
        return [
            *(("GET", f"/{word}") for word in self._pages),
            *(("GET", f"/{word}/{{name}}") for word in self._named),
            *(("POST", f"/models/{{name}}/{action}") for action in self._actions),
            ("POST", RELOAD),
            *(("GET", f"/history/{page}") for page in history.PARAMETERS),
            ("GET", EVENTS),
        ]

    async def handle(self, exchange: Exchange) -> None:
        """Any call of the proxy's own API."""
        try:
            if self._keys.management:
                self._check_key(exchange)
            if exchange.path == EVENTS and exchange.request.method in READING:
                _check(exchange, "GET", EVENTS)
                return await self._events.handle(exchange)
            response = await (self.reload if exchange.path == RELOAD else self._called)(exchange)
        except ProxyError as error:
            response = rendered(error, Dialect.MANAGEMENT)
        return exchange.answer(*response)

    def _check_key(self, exchange: Exchange) -> None:
        """Raises ProxyError (401, 403)."""
        request, path = exchange.request, exchange.path
        if path in OPEN or console.is_console(path):
            return
        try:
            self._keys.check_management(request.headers, reads=request.method in READING)
        except ProxyError as refused:
            fields = {"address": self._forwarding.address(request), "endpoint": path[:64]}
            log.warning("refused", extra=fields | {"status": refused.status, "code": refused.code})
            raise

    async def _called(self, exchange: Exchange) -> Response:
        """The paths are `/WORD`, `/WORD/NAME` and `/models/NAME/ACTION`; a name may hold slashes, and be `X/ACTION`."""
        method, (_, word, *rest) = exchange.request.method, exchange.path.split("/")
        reads, acts = method in READING, word == "models" and len(rest) > 1 and rest[-1] in self._actions
        if reads and console.is_console(exchange.path):
            return await console.page(exchange.request, exchange.path)
        if reads and word == "history":
            return await self.history(exchange.request, "/".join(rest))
        if reads and not rest:
            _check(exchange, "GET", f"/{word}")
            return await self._pages[word](exchange.request)
        if acts and method == "POST":
            _check(exchange, "POST", f"/models/{{name}}/{rest[-1]}")
            return await self.act(rest[-1], exchange.request, "/".join(rest[:-1]))
        if reads and not (acts and self._board.model("/".join(rest)) is None):
            _check(exchange, "GET", f"/{word}/{{name}}")
            return self._named[word]("/".join(rest))
        return _not_allowed(b"POST" if acts else b"GET, HEAD")

    # Reading

    async def health(self, request: web.BaseRequest) -> Response:
        """The status only for strangers: those without a key for the management, where keys are set."""
        reason = self._board.trouble
        answer: schemas.HealthAnswer = {"status": "degraded" if reason else "healthy"}
        if self._keys.manages(request.headers):
            answer["service"] = "swapper-service"
            answer["active_model"] = self._board.snapshot().active
            answer["mode"] = self._configuration.settings.swapper.mode
            if reason:
                answer["reason"] = reason
            if self._note:
                answer["note"] = self._note
        return _json(answer)

    async def ready(self, _: web.BaseRequest) -> Response:
        reachable = self._engine.reachable
        answer: schemas.ReadyAnswer = {"status": "ready" if reachable else "unavailable"}
        return _json(answer, status=200 if reachable else 503)

    async def status(self, _: web.BaseRequest) -> Response:
        return _json(shapes.status(self._board.snapshot(), self._configuration))

    async def queue(self, _: web.BaseRequest) -> Response:
        return _json(shapes.queue(self._board))

    async def models(self, _: web.BaseRequest) -> Response:
        answer: schemas.ModelsAnswer = {"models": [shapes.described(m) for m in self._board.snapshot().models]}
        return _json(answer)

    def model(self, name: str) -> Response:
        return _json(shapes.with_times(self._state(name)))

    async def described(self, _: web.BaseRequest) -> Response:
        return self._description

    @cached_property
    def _description(self) -> Response:
        return _json(openapi.document(self.routes))

    async def metrics(self, request: web.BaseRequest) -> Response:
        if wants_json(request, self._configuration.settings.metrics.default_format):
            answer: schemas.MetricsAnswer = {"metrics": [shapes.measured(m) for m in self._board.snapshot().models]}
            status, headers, body = _json(answer)
        else:
            status, headers, body = 200, [(b"Content-Type", PROMETHEUS_TYPE)], self._metrics.exposition()
        return status, [*headers, (b"Vary", b"Accept")], body

    async def config(self, _: web.BaseRequest) -> Response:
        """The settings as they took effect, without what tells a key, and without the credentials for Ollama."""
        return _json(config.shown(self._configuration.settings))

    def model_metrics(self, name: str) -> Response:
        return _json(shapes.measured(self._state(name)))

    async def history(self, request: web.BaseRequest, name: str) -> Response:
        return _json(await self._history.page(name, request.query.items()))

    def _state(self, name: str) -> ModelState:
        state = self._board.model(name)
        if state is None:
            raise _unknown(name)
        return state

    # Changing

    async def reload(self, exchange: Exchange) -> Response:
        if exchange.request.method != "POST":
            return _not_allowed(b"POST")
        _check(exchange, "POST", RELOAD)
        try:
            await self._reload()
        except config.ConfigError as error:
            raise ProxyError(400, "invalid_config", f"the configuration stays as it was: {error}") from error
        answer: schemas.ReloadAnswer = {
            "status": "success",
            "message": "Configuration read again",
            "config": shapes.configured(self._configuration),
        }
        return _json(answer)

    async def act(self, action: str, request: web.BaseRequest, name: str) -> Response:
        """Load, unload, pin or unpin."""
        do, done = self._actions[action]
        model = await self._model(name)
        return await self._done(request, model, do(model), done)

    async def _model(self, name: str) -> Model:
        try:
            model = await self._catalog.resolve(name)
        except UpstreamUnreachable as error:
            told = f"{AWAY}: {error}" if self._engine.reachable else self._engine.ollama.trouble
            raise ProxyError(502, "upstream_unreachable", told) from error
        if model is None and not self._engine.reachable:
            raise ProxyError(502, "upstream_unreachable", self._engine.ollama.trouble)
        meaning = self._catalog.meaning(name)
        if meaning.denied or (model is None and meaning.model is None):
            raise _unknown(name)
        if model is None:
            raise ProxyError(
                409, "model_missing", shapes.how_to_pull(meaning.model.ollama_name if meaning.model else name)
            )
        if model.remote:
            raise ProxyError(409, "model_remote", "the model runs elsewhere: there is nothing to load or unload here")
        return model

    async def _done(self, request: web.BaseRequest, model: Model, work: Awaitable[None], what: str) -> Response:
        if request.query.get("wait") == "false":
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(partial(self._over, model))
            return _json(_said("accepted", model, f"is being {what}"), 202)
        await work
        return _json(_said("success", model, what))

    def _over(self, model: Model, task: "asyncio.Future[None]") -> None:
        """Nobody waits to be told why it failed: it is recorded."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ProxyError):
            log.warning("refused", extra={"model": model.name, "status": error.status, "code": error.code})
            self._recorder.refused(model.name, error.code, message(error), error.status, False)


def _check(exchange: Exchange, method: str, path: str) -> None:
    parameters.read(exchange.target, openapi.OPERATIONS[method, path].query)


def _not_allowed(methods: bytes) -> Response:
    error = ProxyError(405, "method_not_allowed", "method not allowed")
    status, headers, body = rendered(error, Dialect.MANAGEMENT)
    return status, [*headers, (b"Allow", methods)], body


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


def _said(status: Literal["success", "accepted"], model: Model, what: str) -> schemas.DoneAnswer:
    return {"status": status, "model": model.name, "message": f"Model {model.name} {what}"}


def _unknown(name: str) -> ProxyError:
    return ProxyError(404, "model_not_found", f"no model is called {name!r}")


def _json(value: object, status: int = 200) -> Response:
    return status, [(b"Content-Type", b"application/json")], msgspec.json.encode(value)
