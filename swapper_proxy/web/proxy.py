"""Everything that goes to Ollama: swapping routes wait for their model, all others go straight through."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import unquote

import msgspec
from aiohttp import web

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.names import is_cloud
from swapper_proxy.runtime.catalog import Catalog, Model
from swapper_proxy.runtime.engine import Demand, Engine, Lease
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.ports import Relay, UpstreamUnreachable, Usage
from swapper_proxy.web import endpoints, terms, usage
from swapper_proxy.web.body import Ambiguous, Fields, Form, Malformed, WrongType
from swapper_proxy.web.dialects import dialect_of, respond
from swapper_proxy.web.endpoints import ENDPOINTS, Asked, Endpoint, Intent, Unacceptable
from swapper_proxy.web.headers import Header, queued, towards_ollama
from swapper_proxy.web.relay import Outcome, relay

log = logging.getLogger("swapper_proxy.requests")

# What changes the set of models: the catalog asks again afterwards.
CHANGES_MODELS = ("/api/pull", "/api/create", "/api/copy", "/api/delete")


MODEL = web.RequestKey("model", str)  # as the client named it, for the log
WAITED_S = web.RequestKey("waited_s", float)  # in the queue; absent if it never was there
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class RequestMetrics(Protocol):
    """What single requests tell the metrics; times are seconds."""

    def first_byte(self, model: str, seconds: float) -> None: ...
    def answered(self, model: str, seconds: float, usage: Usage) -> None: ...
    def rejected(self, reason: str) -> None: ...


@dataclass
class Counted(Outcome):
    """Counts a request that was handed to Ollama, once, and what came of it."""

    ledger: Ledger
    metrics: RequestMetrics
    model: str
    endpoint: str
    handed_over: float = field(default_factory=time.monotonic)
    status: int = 0
    sent: bool = False
    tail: list[bytes] = field(default_factory=lambda: [b"", b""])
    began: bool = False

    def sending(self) -> None:
        self.sent = True

    def unreachable(self) -> None:
        self.sent = False

    def head(self, status: int) -> None:
        self.status = status

    def chunk(self, data: bytes) -> None:
        if not self.began:
            self.began = True
            self.metrics.first_byte(self.model, time.monotonic() - self.handed_over)
        self.tail[0] = self.tail[1]
        self.tail[1] = data

    @property
    def usage(self) -> Usage:
        """What the answer says at its end."""
        return usage.read(self.tail)

    def count(self, arrived: float) -> None:
        """Once it is over; 499 is a client that left before Ollama answered."""
        self.ledger.count(self.model, self.endpoint, self.status or 499)
        self.metrics.answered(self.model, time.monotonic() - arrived, self.usage)


def request_id_of(request: web.Request) -> str:
    """The client's own X-Request-Id if it is a plain one, else a new one."""
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


class Proxy:
    """The handler for all that is not the proxy's own API."""

    def __init__(
        self,
        upstream: Relay,
        engine: Engine,
        catalog: Catalog,
        ledger: Ledger,
        metrics: RequestMetrics,
        server: config.Server,
    ) -> None:
        self._upstream = upstream
        self._engine = engine
        self._catalog = catalog
        self._ledger = ledger
        self._metrics = metrics
        self._server = server
        self._buffered = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request for Ollama.  The path decides as Ollama's router does: decoded, but not normalized."""
        target = request.rel_url.raw_path_qs if "://" in request.path_qs else request.raw_path
        path = unquote(target.partition("?")[0])
        endpoint = ENDPOINTS.get(path) if request.method == "POST" else None
        arrived = time.monotonic()
        try:
            if endpoint is None:
                return await self._pass(request, target, path)
            return await self._swap(request, target, endpoint, arrived)
        except UpstreamUnreachable as unreachable:
            self._metrics.rejected("upstream_unreachable")
            error = ProxyError(502, "upstream_unreachable", f"Ollama is not reachable: {unreachable}")
        except ProxyError as refused:
            error = refused
        return self._refuse(request, path, error, time.monotonic() - arrived)

    def _refuse(self, request: web.Request, path: str, error: ProxyError, after_s: float) -> web.Response:
        """The proxy's own answer, with a line in the log under the same request id."""
        request_id = request_id_of(request)
        fields = {"request_id": request_id, "endpoint": path[:64], "model": request.get(MODEL, "")[:200]}
        log.warning("refused", extra=fields | {"status": error.status, "code": error.code, "wait_s": round(after_s, 3)})
        response = respond(error, dialect_of(path))
        response.headers["X-Request-Id"] = request_id
        response.headers.extend(_queue_headers(request))
        return response

    # Straight through

    async def _pass(self, request: web.Request, target: str, path: str) -> web.StreamResponse:
        body = request.content.iter_any() if request.can_read_body else None
        headers = towards_ollama(request.raw_headers, None)
        try:
            return await self._relay(request, target, headers, body, Outcome())
        finally:
            if path in CHANGES_MODELS:
                self._catalog.forget()

    # Through a swap

    async def _swap(self, request: web.Request, target: str, endpoint: Endpoint, arrived: float) -> web.StreamResponse:
        wished = terms.wished_priority(request.headers, self._catalog)
        async with self._reading(request) as body:
            try:
                fields = self._fields(request, endpoint, body)
            except Malformed:
                return await self._send(request, target, body, Outcome())
            try:
                asked = endpoints.read(endpoint, fields)
            except (Unacceptable, WrongType):
                return await self._send(request, target, fields.encode(), Outcome())
            request[MODEL] = asked.model
            model = await self._resolve(asked.model)
            if model is None:
                return await self._unknown(request, target, endpoint, asked, fields)
            if alias := self._catalog.alias(asked.model):
                fields.set("model", alias)
            if model.remote:
                return await self._send(request, target, fields.encode(), Outcome())
            if asked.intent is Intent.UNLOAD:
                return await self._unload(endpoint, asked, model)
            demand = terms.demand(self._catalog, endpoint, asked, model, wished)
            return await self._serve(request, target, endpoint, asked, fields, demand, arrived)

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
        model = demand.model
        counts = asked.intent is Intent.INFERENCE
        outcome = Counted(self._ledger, self._metrics, model.name, endpoint.label) if counts else Outcome()
        try:
            try:
                endpoints.check(endpoint, asked, model.shown.capabilities if model.shown else None)
            except Unacceptable:
                return await self._send(request, target, fields.encode(), outcome)
            terms.rewrite(fields, endpoint, asked, demand)
            async with self._queued(request, demand) as lease:
                if isinstance(outcome, Counted):
                    outcome.handed_over = time.monotonic()
                response = await self._send(request, target, fields.encode(), outcome)
                if isinstance(outcome, Counted):
                    lease.load_s = outcome.usage.load_s
                return response
        finally:
            if isinstance(outcome, Counted) and outcome.sent:
                outcome.count(arrived)

    @asynccontextmanager
    async def _queued(self, request: web.Request, demand: Demand) -> AsyncIterator[Lease]:
        """The lease; how long it took is kept for the answer, also where there is none."""
        began = time.monotonic()
        try:
            async with self._engine.lease(demand) as lease:
                request[WAITED_S] = lease.waited_s
                yield lease
        finally:
            request.setdefault(WAITED_S, time.monotonic() - began)

    async def _unload(self, endpoint: Endpoint, asked: Asked, model: Model) -> web.Response:
        """`ollama stop`: done by the scheduler, answered as Ollama answers."""
        if self._catalog.keep_alive_fixed:
            raise ProxyError(403, "keep_alive_fixed", "clients may not unload models here (ignore_client_keep_alive)")
        await self._engine.unload(model)
        content = (
            {"message": {"role": "assistant", "content": ""}} if endpoint.content == "messages" else {"response": ""}
        )
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        done = {"model": asked.model, "created_at": now, **content, "done": True, "done_reason": "unload"}
        return web.Response(body=msgspec.json.encode(done), headers={"Content-Type": "application/json; charset=utf-8"})

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

    async def _resolve(self, name: str) -> Model | None:
        ollama_name = self._catalog.alias(name) or name
        if is_cloud(ollama_name) and not self._catalog.denied(name):
            return Model(name, ollama_name)
        return await self._catalog.resolve(name)

    @staticmethod
    def _fields(request: web.Request, endpoint: Endpoint, body: bytes) -> Fields | Form:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ProxyError(415, "content_encoding", "request bodies must not be compressed")
        try:
            return Form(body) if endpoint.multipart else Fields.read(body)
        except Ambiguous as error:
            raise ProxyError(400, "malformed", f"the request body cannot be read: {error}") from None

    # To Ollama

    async def _send(self, request: web.Request, target: str, body: bytes, outcome: Outcome) -> web.StreamResponse:
        return await self._relay(request, target, towards_ollama(request.raw_headers, len(body)), body, outcome)

    async def _relay(
        self,
        request: web.Request,
        target: str,
        headers: list[Header],
        body: bytes | AsyncIterator[bytes] | None,
        outcome: Outcome,
    ) -> web.StreamResponse:
        try:
            response = await relay(self._upstream, request, target, headers, body, outcome, _queue_headers(request))
        except ProxyError:
            self._metrics.rejected("upstream_unreachable")
            await self._engine.probe()
            raise
        if response.broken_off:
            fields = {"request_id": request_id_of(request), "model": request.get(MODEL, "")[:200]}
            log.warning("Ollama broke off in mid-answer", extra=fields | {"status": response.status})
        return response

    # Reading the body

    def _reading(self, request: web.Request) -> "_Body":
        return _Body(self, request)


def _queue_headers(request: web.Request) -> list[Header]:
    return queued(request[WAITED_S]) if WAITED_S in request else []


class _Body:
    """A request's body in memory, within the limits, as long as it is needed: `async with`."""

    def __init__(self, proxy: Proxy, request: web.Request) -> None:
        self._proxy = proxy
        self._request = request
        self._size = 0

    async def __aenter__(self) -> bytes:
        try:
            return await self._read()
        except BaseException:
            self._proxy._buffered -= self._size
            raise

    async def __aexit__(self, *_: object) -> None:
        self._proxy._buffered -= self._size

    async def _read(self) -> bytes:
        server = self._proxy._server
        if (self._request.content_length or 0) > server.max_body_bytes:
            raise self._too_large(server.max_body_bytes)
        chunks: list[bytes] = []
        while True:
            try:
                async with asyncio.timeout(server.body_idle_timeout):
                    chunk = await self._request.content.readany()
            except TimeoutError:
                raise ProxyError(408, "body_timeout", "the request body did not come") from None
            if not chunk:
                return b"".join(chunks)
            self._size += len(chunk)
            self._proxy._buffered += len(chunk)
            chunks.append(chunk)
            if self._size > server.max_body_bytes:
                raise self._too_large(server.max_body_bytes)
            if self._proxy._buffered > server.max_buffered_bytes:
                raise ProxyError(503, "buffers_full", "too many large requests at once, please try again later", 1.0)

    @staticmethod
    def _too_large(limit: int) -> ProxyError:
        return ProxyError(413, "body_too_large", f"the request body is larger than {limit} bytes")
