"""Everything that goes to Ollama: swapping routes wait for their model, all others go straight through."""

import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.names import is_plausible
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Demand, Engine, Lease
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import Relay, UpstreamUnreachable
from swapper_proxy.web import endpoints, offered, terms
from swapper_proxy.web.body import Ambiguous, Fields, Malformed, WrongType, named
from swapper_proxy.web.changes import CHANGES, Changes
from swapper_proxy.web.counting import Counted, CountedRemote, RequestMetrics
from swapper_proxy.web.dialects import dialect_of, respond
from swapper_proxy.web.endpoints import ENDPOINTS, Asked, Endpoint, Intent, Unacceptable
from swapper_proxy.web.form import Form
from swapper_proxy.web.headers import CHOSEN_MODEL, CREDENTIALS, Header, queued, towards_ollama
from swapper_proxy.web.intake import Intake
from swapper_proxy.web.offered import Edit
from swapper_proxy.web.relay import Outcome, relay, relay_edited
from swapper_proxy.web.routing import Router

log = logging.getLogger("swapper_proxy.requests")
T = TypeVar("T")

MODEL = web.RequestKey("model", str)  # as the client named it, for the log
REQUEST_ID = web.RequestKey("request_id", str)
CHOSEN = web.RequestKey("chosen", str)  # the model, where a route or `use_llm` chose it
WAITED_S = web.RequestKey("waited_s", float)  # in the queue; absent if it never was there
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


def request_id_of(request: web.Request) -> str:
    """The client's own X-Request-Id if it is a plain one, else one of the proxy's."""
    if REQUEST_ID not in request:
        given = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    return request[REQUEST_ID]


class Proxy:
    """The handler for all that is not the proxy's own API."""

    def __init__(
        self,
        upstream: Relay,
        engine: Engine,
        catalog: Catalog,
        ledger: Ledger,
        metrics: RequestMetrics,
        router: Router,
        changes: Changes,
        server: config.Server,
    ) -> None:
        self._upstream = upstream
        self._engine = engine
        self._catalog = catalog
        self._ledger = ledger
        self._metrics = metrics
        self._router = router
        self._intake = Intake(server)
        self._missing: set[Endpoint] = set()  # that this version of Ollama does not have
        self._changes = changes

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request for Ollama.  The path decides as Ollama's router does: decoded, but not normalized."""
        target = request.raw_path if request.raw_path.startswith("/") else request.rel_url.raw_path_qs
        target = target.replace("#", "%23")  # to Ollama a part of the path, to a client's library none of the target
        path = unquote(target.partition("?")[0])
        endpoint = ENDPOINTS.get(path) if request.method == "POST" else None
        arrived = time.monotonic()
        try:
            if endpoint is None:
                return await self._pass(request, target, path)
            response = await self._swap(request, target, endpoint, arrived)
            if response.status == 404 and response.content_type == "text/plain" and endpoint.recent:
                self._missing.add(endpoint)  # says a version of Ollama without it; the next one is worth no swap
            return response
        except UpstreamUnreachable as unreachable:
            self._metrics.rejected("upstream_unreachable")
            error = ProxyError(502, "upstream_unreachable", f"Ollama is not reachable: {unreachable}")
        except ProxyError as refused:
            error = refused
        return self._refuse(request, path, error, time.monotonic() - arrived)

    def _refuse(self, request: web.Request, path: str, error: ProxyError, after_s: float) -> web.Response:
        """The proxy's own answer, with a line in the log under the same request id."""
        request_id = request_id_of(request)
        response = respond(error, dialect_of(path), request_id)
        fields = {"request_id": request_id, "endpoint": path[:64], "model": request.get(MODEL, "")[:200]}
        extra = {"status": response.status, "code": error.code, "wait_s": round(after_s, 3)}
        log.warning("refused", extra=fields | extra)
        response.headers["X-Request-Id"] = request_id
        response.headers.extend(_own_headers(request))
        return response

    # Straight through

    async def _pass(self, request: web.Request, target: str, path: str) -> web.StreamResponse:
        if request.method == "GET" and (edited := self._edited(path)) is not None:
            return await self._edit(request, edited[0] or target, None, edited[1])
        name = offered.asked_for(path)
        without = self._withheld(name) if name else frozenset()
        if request.method == "POST" and path == "/api/show":
            return await self._show(request, target)
        if (request.method, path) in CHANGES:
            async with self._intake.reading(request) as body, self._changes.around(path, body):
                return await self._send(request, target, body, Outcome())
        headers = towards_ollama(request.raw_headers, None, without)
        streamed = request.content.iter_any() if request.can_read_body else None
        return await self._relay(request, target, headers, streamed, Outcome())

    # Where names are told

    def _edited(self, path: str) -> tuple[str, Edit] | None:
        """What is asked of Ollama instead ("": the same), and how its answer is edited."""
        if edit := offered.listing(path, self._catalog.offered):
            return "", edit
        name = offered.asked_for(path)
        meant = self._catalog.stands_for(name) if name else ()
        return offered.one(name, meant[0]) if name and meant else None

    async def _show(self, request: web.Request, target: str) -> web.StreamResponse:
        """A name that only the config knows is replaced by Ollama's; whatever else is asked stays as it is."""
        async with self._intake.reading(request) as body:
            try:
                fields = Fields.read(body)
                name = named(fields)
            except (Malformed, Ambiguous, WrongType):
                return await self._send(request, target, body, Outcome())
            meant, without = self._catalog.stands_for(name), self._withheld(name)
            if not meant:
                return await self._send(request, target, body, Outcome(), without)
            fields.set("model", meant[0])
            models = [model for other in meant[1:] and meant if (model := await self._catalog.resolve(other))]
            able = {capability for m in models if m.shown for capability in m.shown.capabilities or ()}
            if not able:
                return await self._send(request, target, fields.encode(), Outcome(), without)
            return await self._edit(request, target, fields.encode(), offered.able(able))

    def _withheld(self, name: str) -> frozenset[str]:
        """The headers that do not go with a request for this model."""
        return CREDENTIALS if self._catalog.is_elsewhere(name) else frozenset()

    async def _edit(self, request: web.Request, target: str, body: bytes | None, edit: Edit) -> web.Response:
        headers = towards_ollama(request.raw_headers, None if body is None else len(body))
        return await self._answered(relay_edited(self._upstream, request, target, headers, body, edit))

    # Through a swap

    async def _swap(self, request: web.Request, target: str, endpoint: Endpoint, arrived: float) -> web.StreamResponse:
        wished = terms.wished_priority(request.headers, self._catalog)
        async with self._intake.reading(request) as body:
            try:
                fields = self._fields(request, endpoint, body)
            except Malformed:
                return await self._send(request, target, body, Outcome())
            without = self._withheld(self._direct(request, endpoint, fields))
            try:
                asked = endpoints.read(endpoint, fields)
            except (Unacceptable, WrongType):
                return await self._send(request, target, fields.encode(), Outcome(), without)
            model = await self._catalog.resolve(asked.model)
            if model is None:
                return await self._unknown(request, target, endpoint, asked, fields)
            if alias := self._catalog.alias(asked.model):
                fields.set("model", alias)
            if model.remote:
                return await self._elsewhere(request, target, endpoint, asked, fields)
            if asked.intent is Intent.UNLOAD:
                return await self._unload(request, endpoint, asked, model)
            demand = terms.demand(self._catalog, endpoint, asked, model, wished)
            return await self._serve(request, target, endpoint, asked, fields, demand, arrived)

    def _direct(self, request: web.Request, endpoint: Endpoint, fields: Fields | Form) -> str:
        """Let `use_llm` and the routes say which model is meant: its name.  The answer will tell."""
        direction = self._router.direction(endpoint, fields)
        name = direction.model
        if is_plausible(direction.asked):
            request[MODEL] = direction.asked
        if direction.routed:
            known = None if self._catalog.denied(name) else self._catalog.by_name(name)
            if is_plausible(name):
                request[CHOSEN] = known.name if known else name
            fields.set("model", known.ollama_name if known else name)
        return name

    async def _serve(
        self,
        request: web.Request,
        target: str,
        endpoint: Endpoint,
        asked: Asked,
        fields: Fields | Form,
        demand: Demand,
        arrived: float,
    ) -> web.StreamResponse:
        if endpoint in self._missing:
            return await self._send(request, target, fields.encode(), _Found(self._missing, endpoint))
        model = demand.model
        counts = asked.intent is Intent.INFERENCE
        ledger, metrics = self._ledger, self._metrics
        outcome = Counted(ledger, metrics, model.name, endpoint.label, arrived) if counts else Outcome()
        try:
            try:
                endpoints.check(endpoint, asked, model.shown.capabilities if model.shown else None)
            except Unacceptable:
                return await self._send(request, target, fields.encode(), outcome)
            terms.rewrite(fields, endpoint, asked, demand)
            async with self._queued(request, demand) as lease:
                response = await self._send(request, target, fields.encode(), outcome)
                lease.load_s = outcome.load_s
                return response
        finally:
            outcome.count()

    @contextlib.asynccontextmanager
    async def _queued(self, request: web.Request, demand: Demand) -> AsyncIterator[Lease]:
        """The lease; how long it took is kept for the answer, also where there is none."""
        began = time.monotonic()
        try:
            async with self._engine.lease(demand) as lease:
                request[WAITED_S] = lease.waited_s
                yield lease
        finally:
            request.setdefault(WAITED_S, time.monotonic() - began)

    async def _elsewhere(
        self, request: web.Request, target: str, endpoint: Endpoint, asked: Asked, fields: Fields | Form
    ) -> web.StreamResponse:
        """A model that runs on somebody else's machine: no swap, counted apart, and no credentials of the client's."""
        known = self._catalog.by_name(asked.model)
        counts = asked.intent is Intent.INFERENCE
        outcome = CountedRemote(self._ledger, known.name if known else "other", endpoint.label) if counts else Outcome()
        try:
            return await self._send(request, target, fields.encode(), outcome, CREDENTIALS)
        finally:
            outcome.count()

    async def _unload(self, request: web.Request, endpoint: Endpoint, asked: Asked, model: Model) -> web.Response:
        """`ollama stop`: done by the scheduler, answered as Ollama answers."""
        if self._catalog.keep_alive_fixed:
            raise ProxyError(403, "keep_alive_fixed", "clients may not unload models here (ignore_client_keep_alive)")
        await self._engine.unload(model)
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        done: dict[str, object] = {"model": self._catalog.alias(asked.model) or asked.model, "created_at": now}
        if endpoint.content == "messages":  # its members come in another order
            done |= {"message": {"role": "assistant", "content": ""}, "done_reason": "unload", "done": True}
        else:
            done |= {"response": "", "done": True, "done_reason": "unload"}
        headers = {"Content-Type": "application/json; charset=utf-8", **dict(_own_headers(request))}
        return web.Response(body=msgspec.json.encode(done), headers=headers)

    async def _unknown(
        self, request: web.Request, target: str, endpoint: Endpoint, asked: Asked, fields: Fields | Form
    ) -> web.StreamResponse:
        """Ollama says so itself, unless it knows the model and the config does not let it be used."""
        if not self._catalog.denied(asked.model):
            return await self._send(request, target, fields.encode(), Outcome())
        quoted, hint = (
            (f"'{asked.model}'", "") if endpoint.content == "prompt" else (f'"{asked.model}"', ", try pulling it first")
        )
        raise ProxyError(404, "model_not_found", f"model {quoted} not found{hint}")

    @staticmethod
    def _fields(request: web.Request, endpoint: Endpoint, body: bytes) -> Fields | Form:
        try:
            content_type = request.headers.get("Content-Type", "")
            return Form(body, content_type, request.query) if endpoint.multipart else Fields.read(body)
        except Ambiguous as error:
            raise ProxyError(400, "malformed", f"the request body cannot be read: {error}") from None

    # To Ollama

    async def _send(
        self, request: web.Request, target: str, body: bytes, outcome: Outcome, without: frozenset[str] = frozenset()
    ) -> web.StreamResponse:
        headers = towards_ollama(request.raw_headers, len(body), without)
        return await self._relay(request, target, headers, body, outcome)

    async def _relay(
        self,
        request: web.Request,
        target: str,
        headers: list[Header],
        body: bytes | AsyncIterator[bytes] | None,
        outcome: Outcome,
    ) -> web.StreamResponse:
        added = _own_headers(request)
        response = await self._answered(relay(self._upstream, request, target, headers, body, outcome, added))
        if response.broken_off:
            fields = {"request_id": request_id_of(request), "model": request.get(MODEL, "")[:200]}
            log.warning("Ollama broke off in mid-answer", extra=fields | {"status": response.status})
        return response

    async def _answered(self, answer: Awaitable[T]) -> T:
        """An answer of Ollama's; if it cannot be reached, the scheduler is to know."""
        try:
            return await answer
        except ProxyError:
            self._metrics.rejected("upstream_unreachable")
            self._missing.clear()  # it may come back as a newer version
            await self._engine.probe()
            raise


class _Found(Outcome):
    """Of a request to a route that Ollama did not have: it may have got it meanwhile."""

    def __init__(self, missing: set[Endpoint], endpoint: Endpoint) -> None:
        self._missing = missing
        self._endpoint = endpoint

    def head(self, status: int, content_type: str) -> None:
        super().head(status, content_type)
        if status != 404:
            self._missing.discard(self._endpoint)


def _own_headers(request: web.Request) -> list[Header]:
    chosen = [(CHOSEN_MODEL, request[CHOSEN])] if CHOSEN in request else []
    return [*chosen, *(queued(request[WAITED_S]) if WAITED_S in request else [])]
