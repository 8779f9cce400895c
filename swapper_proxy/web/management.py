"""The management API and /metrics.  The shapes are a contract: keys may be added, none removed or renamed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, Protocol

import msgspec
from aiohttp import web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.forecast import Why
from swapper_proxy.runtime.board import Board, Lane, ModelState, Waiting, uptime_total_s
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import Header, UpstreamUnreachable
from swapper_proxy.web import openapi, parameters, schemas
from swapper_proxy.web.dialects import Dialect, rendered
from swapper_proxy.web.exchange import Exchange

PROMETHEUS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
WORDS = ("health", "ready", "status", "queue", "models", "metrics", "openapi.json")
WITH_NAMES = ("models", "metrics")

# Status, headers and body.
Response = tuple[int, list[Header], bytes]


def is_management(path: str) -> bool:
    """Whether the path is the proxy's own."""
    word, slash, name = path[1:].partition("/")
    return word in (WITH_NAMES if slash else WORDS) and bool(name) == bool(slash)


class Exposition(Protocol):
    """What /metrics shows."""

    def exposition(self) -> bytes: ...


class Management:
    """Handlers; `routes` says for which paths."""

    def __init__(
        self, board: Board, engine: Engine, catalog: Catalog, metrics: Exposition, settings: config.Settings, note: str
    ) -> None:
        self._board = board
        self._engine = engine
        self._catalog = catalog
        self._metrics = metrics
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
            "openapi.json": self.described,
        }
        self._named = {"models": self.model, "metrics": self.model_metrics}
        self._actions = {"load": self.load, "unload": self.unload}

    @property
    def routes(self) -> list[openapi.Route]:
        """What is served, as the description writes it."""
        return [
            *(("GET", f"/{word}") for word in self._pages),
            *(("GET", f"/{word}/{{name}}") for word in self._named),
            *(("POST", f"/models/{{name}}/{action}") for action in self._actions),
        ]

    async def handle(self, exchange: Exchange) -> None:
        """Any call of the proxy's own API."""
        try:
            response = await self._called(exchange)
        except ProxyError as error:
            response = rendered(error, Dialect.MANAGEMENT)
        exchange.answer(*response)

    async def _called(self, exchange: Exchange) -> Response:
        """The paths are `/WORD`, `/WORD/NAME` and `/models/NAME/ACTION`; a name may hold slashes, and be `X/ACTION`."""
        method, (_, word, *rest) = exchange.request.method, exchange.path.split("/")
        reads, acts = method in ("GET", "HEAD"), word == "models" and len(rest) > 1 and rest[-1] in self._actions
        if not rest and reads:
            _check(exchange, "GET", f"/{word}")
            return await self._pages[word](exchange.request)
        if acts and method == "POST":
            _check(exchange, "POST", f"/models/{{name}}/{rest[-1]}")
            return await self._actions[rest[-1]](exchange.request, "/".join(rest[:-1]))
        if rest and reads and not (acts and self._board.model("/".join(rest)) is None):
            _check(exchange, "GET", f"/{word}/{{name}}")
            return self._named[word]("/".join(rest))
        return _not_allowed(b"POST" if acts else b"GET, HEAD")

    # Reading

    async def health(self, _: web.BaseRequest) -> Response:
        snapshot = self._board.snapshot()
        answer: schemas.HealthAnswer = {
            "status": "healthy" if snapshot.reachable else "degraded",
            "service": "swapper-service",
            "active_model": snapshot.active,
            "mode": self._settings.swapper.mode,
        }
        if self._note:
            answer["note"] = self._note
        return _json(answer)

    async def ready(self, _: web.BaseRequest) -> Response:
        reachable = self._engine.reachable
        answer: schemas.ReadyAnswer = {"status": "ready" if reachable else "unavailable"}
        return _json(answer, status=200 if reachable else 503)

    async def status(self, _: web.BaseRequest) -> Response:
        snapshot = self._board.snapshot()
        answer: schemas.StatusAnswer = {
            "status": "healthy" if snapshot.reachable else "degraded",
            "active_model": snapshot.active,
            "available_models": [m.name for m in snapshot.models],
            "loaded_models": [m.name for m in snapshot.models if m.loaded],
            "mode": self._settings.swapper.mode,
            "total_models": len(snapshot.models),
            "waiting": self._engine.waiting,
            "in_flight": sum(len(r.in_flight) for r in self._engine.residencies()),
        }
        return _json(answer)

    async def queue(self, _: web.BaseRequest) -> Response:
        """Who waits for which model, since when, until when at most, and why; how many a model serves at once."""
        waiting, lanes = self._board.queue(), self._board.lanes()
        answer: schemas.QueueAnswer = {
            "waiting": len(waiting),
            "requests": [_waiting(w, time.time()) for w in waiting],
            "models": [_lane(lane) for lane in lanes],
            "warnings": [_doubt(lane) for lane in lanes if lane.doubtful],
        }
        return _json(answer)

    async def models(self, _: web.BaseRequest) -> Response:
        answer: schemas.ModelsAnswer = {"models": [_described(m) for m in self._board.snapshot().models]}
        return _json(answer)

    def model(self, name: str) -> Response:
        state = self._state(name)
        residence = state.residence
        answer: schemas.ModelAnswer = {
            **_described(state),
            "loaded_at": stamp(residence.loaded_at),
            "unloaded_at": stamp(residence.unloaded_at),
            "total_uptime_seconds": round(uptime_total_s(residence), 3),
        }
        return _json(answer)

    async def described(self, _: web.BaseRequest) -> Response:
        return self._description

    @cached_property
    def _description(self) -> Response:
        return _json(openapi.document(self.routes))

    async def metrics(self, request: web.BaseRequest) -> Response:
        if wants_json(request, self._settings.metrics.default_format):
            answer: schemas.MetricsAnswer = {"metrics": [_measured(m) for m in self._board.snapshot().models]}
            status, headers, body = _json(answer)
        else:
            status, headers, body = 200, [(b"Content-Type", PROMETHEUS_TYPE)], self._metrics.exposition()
        return status, [*headers, (b"Vary", b"Accept")], body

    def model_metrics(self, name: str) -> Response:
        return _json(_measured(self._state(name)))

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
            raise ProxyError(409, "model_missing", _how_to_pull(meaning.model or Model(name, name)))
        if model.remote:
            raise ProxyError(409, "model_remote", "the model runs elsewhere: there is nothing to load or unload here")
        return model

    async def _done(self, request: web.BaseRequest, model: Model, work: Awaitable[None], what: str) -> Response:
        if request.query.get("wait") == "false":
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._over)
            return _json(_said("accepted", model, f"is being {what}"), 202)
        await work
        return _json(_said("success", model, what))

    def _over(self, task: "asyncio.Future[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # logged where it was decided


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


def stamp(moment: float | None) -> str | None:
    """UTC to the second, as the old service wrote it."""
    return None if moment is None else _stamp(moment)


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _said(status: Literal["success", "accepted"], model: Model, what: str) -> schemas.DoneAnswer:
    return {"status": status, "model": model.name, "message": f"Model {model.name} {what}"}


def _described(state: ModelState) -> schemas.ListedModel:
    described: schemas.ListedModel = {
        "name": state.name,
        "ollama_name": state.ollama_name,
        "type": state.type,
        "size_gb": state.size_gb,
        "priority": state.priority,
        "status": state.status,
        "configured": state.configured,
        "pinned": state.pinned,
        "remote": state.remote,
    }
    if state.status == "missing":
        described["reason"] = _how_to_pull(Model(state.name, state.ollama_name))
    return described


def _measured(state: ModelState) -> schemas.ModelMetrics:
    residence = state.residence
    total = uptime_total_s(residence)
    return {
        "model_name": state.name,
        "status": state.status,
        "loaded_at": stamp(residence.loaded_at),
        "uptime_hours": round(total / 3600, 4),
        "request_count": state.totals.requests,
        "total_uptime_seconds": round(total, 3),
        "prompt_tokens": state.totals.prompt_tokens,
        "generated_tokens": state.totals.generated_tokens,
        "tokens_per_second": _rounded(state.totals.tokens_per_second),
        "time_to_first_token_seconds": _rounded(state.totals.mean_first_token_s),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _waiting(waiting: Waiting, now: float) -> schemas.WaitingRequest:
    return {
        "model": waiting.model,
        "priority": waiting.priority,
        "since": _stamp(waiting.since),
        "waited_seconds": round(now - waiting.since, 3),
        "deadline": _stamp(waiting.deadline),
        "estimated_start": _stamp(waiting.start),
        "estimated_wait_seconds": round(max(0.0, waiting.start - now), 3),
        "why": waiting.why,
        "reason": _REASONS[waiting.why].format(blocker=waiting.blocker or "another model"),
        "blocked_by": waiting.blocker or None,
    }


_REASONS = {
    Why.BUSY: "the model answers as many requests as it may at once",
    Why.LOADING: "the model is being loaded",
    Why.LEAVING: "the model is making room for another one and will come back",
    Why.SWAPPING: "{blocker} is being loaded or unloaded",
    Why.DRAINING: "{blocker} finishes its answers, then it goes",
    Why.GATE: "{blocker} first serves those who waited when it was loaded",
    Why.HOLD: "{blocker} is idle, but its client is likely to call again at once",
    Why.TURN: "{blocker} has work; it may be forced out at the deadline",
    Why.BACKOFF: "the model could not be loaded a moment ago",
    Why.DOWN: "Ollama is not reachable",
}


def _lane(lane: Lane) -> schemas.Lane:
    return {
        "model": lane.model,
        "waiting": lane.waiting,
        "in_flight": lane.in_flight,
        "parallel": lane.parallel,
        "parallel_source": lane.parallel_source,
    }


def _doubt(lane: Lane) -> str:
    return (
        f"{lane.model}: {lane.waiting} requests wait because {lane.parallel} at once are assumed to be Ollama's limit; "
        "set `parallel`, or OLLAMA_NUM_PARALLEL as Ollama has it"
    )


def _how_to_pull(model: Model) -> str:
    return f"Ollama does not have it; get it with: ollama pull {model.ollama_name}"


def _unknown(name: str) -> ProxyError:
    return ProxyError(404, "model_not_found", f"no model is called {name!r}")


def _json(value: object, status: int = 200) -> Response:
    return status, [(b"Content-Type", b"application/json")], msgspec.json.encode(value)
