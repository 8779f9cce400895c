"""Everything that goes to Ollama: swapping routes wait for their model, all others go straight through."""

import logging
import time
from collections.abc import Coroutine
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError, Rejected
from swapper_proxy.core.names import is_plausible
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.lease import Lease
from swapper_proxy.runtime.ledger import OTHER
from swapper_proxy.runtime.model import Demand, Model
from swapper_proxy.runtime.ports import (
    ANY_SILENCE,
    CREDENTIALS,
    Body,
    Header,
    Pieces,
    Recorder,
    Relay,
    Silence,
    UpstreamUnreachable,
)
from swapper_proxy.web import endpoints, keys, offered, terms
from swapper_proxy.web.body import Ambiguous, Fields, Malformed, WrongType, named
from swapper_proxy.web.changes import CHANGES, Changes
from swapper_proxy.web.counting import Counted, CountedRemote, RequestMetrics, RequestTotals
from swapper_proxy.web.dialects import dialect_of, message, rendered
from swapper_proxy.web.endpoints import ENDPOINTS, Asked, Endpoint, Intent, Unacceptable
from swapper_proxy.web.exchange import Exchange
from swapper_proxy.web.form import Form
from swapper_proxy.web.forwarded import Forwarding
from swapper_proxy.web.headers import towards_ollama
from swapper_proxy.web.intake import Intake, RequestBody
from swapper_proxy.web.offered import Edit
from swapper_proxy.web.relay import LEFT, QUESTION, Outcome, relay, relay_edited
from swapper_proxy.web.routing import Router
from swapper_proxy.web.shapes import how_to_pull

log = logging.getLogger("swapper_proxy.requests")

_NOTHING: frozenset[bytes] = frozenset()
MOST_SAID = 1000  # characters of an error that are recorded


class Proxy:
    """The handler for all that is not the proxy's own API."""

    def __init__(
        self,
        upstream: Relay,
        engine: Engine,
        catalog: Catalog,
        totals: RequestTotals,
        metrics: RequestMetrics,
        recorder: Recorder,
        router: Router,
        changes: Changes,
        intake: Intake,
        server: config.Server,
        limits: config.Upstream,
        keys: keys.Keys,
    ) -> None:
        self._upstream = upstream
        self._engine = engine
        self._catalog = catalog
        self._totals = totals
        self._metrics = metrics
        self._recorder = recorder
        self._router = router
        self._intake = intake
        self._grace_s = limits.grace
        self._limits = limits.first_byte_timeout, limits.idle_timeout
        self._missing: set[Endpoint] = set()  # that this version of Ollama does not have
        self._changes = changes
        self._forwarding = Forwarding(server.trusted_proxies)
        self._read_only = server.read_only
        self.keys = keys  # another reading of the settings brings others

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Any request for Ollama."""
        return self._keyed(exchange) if self.keys.clients else self._answer(exchange)

    async def _keyed(self, exchange: Exchange) -> None:
        """A request that needs a key."""
        try:
            client = exchange.client = self.keys.client(exchange.request.headers)
        except ProxyError as refused:
            self.refuse(exchange, refused)
            return
        try:
            with client.admitted(exchange.arrived):
                await self._answer(exchange)
        except ProxyError as refused:
            self.refuse(exchange, refused)
        finally:
            self._metrics.keyed(client.name, exchange.outcome or exchange.status or LEFT)

    async def _answer(self, exchange: Exchange) -> None:
        endpoint = ENDPOINTS.get(exchange.path) if exchange.request.method == "POST" else None
        try:
            if endpoint is None:
                return await self._pass(exchange)
            await self._swap(exchange, endpoint)
            if exchange.status == 404 and exchange.content_type.startswith("text/plain") and endpoint.recent:
                self._missing.add(endpoint)  # says a version of Ollama without it; the next one is worth no swap
        except UpstreamUnreachable as unreachable:
            why = f"Ollama is not reachable: {unreachable}"
            self.refuse(exchange, ProxyError(502, "upstream_unreachable", why))
        except ProxyError as refused:
            self.refuse(exchange, refused)

    def refuse(self, exchange: Exchange, error: ProxyError) -> None:
        """The proxy's own answer, with a line in the log under the same request id; counted and recorded."""
        request_id, path = exchange.request_id, exchange.path
        status, headers, body = rendered(keys.told_to(exchange.client, error), dialect_of(path), request_id)
        after_s = round(time.monotonic() - exchange.arrived, 3)
        what = {"endpoint": path[:64], "status": status, "code": error.code, "wait_s": after_s}
        log.warning("refused", extra=self._who(exchange) | what)
        known = self._catalog.meaning(exchange.model).model
        name = known.name if known else exchange.model[:200]
        if status != 401:  # strangers do not push out of sight what went wrong for others
            self._recorder.refused(name, error.code, message(error)[:MOST_SAID], status, exchange.sent)
        if not isinstance(error, Rejected):  # the scheduler counts its own
            self._metrics.rejected(error.code)
        exchange.answer(status, [*headers, (b"X-Request-Id", request_id.encode()), *exchange.own_headers], body)

    def _who(self, exchange: Exchange) -> dict[str, object]:
        """For a line in the log: which request this is, from whom, for which model."""
        return {
            "request_id": exchange.request_id,
            "address": self._forwarding.address(exchange.request),
            "key": exchange.client.name if exchange.client else "",
            "model": exchange.model[:200],
        }

    # Straight through

    async def _pass(self, exchange: Exchange) -> None:
        request, path, client = exchange.request, exchange.path, exchange.client
        if self._read_only:
            keys.check_read_only(path)
        if client is not None:
            client.check_route(request.method, path)
            if name := offered.asked_for(path):
                keys.check_model(self._catalog, client, name)
        if request.method == "GET" and (edited := self._edited(exchange)) is not None:
            target, edit = edited
            return await self._edit(exchange, target, [], edit)
        if request.method == "POST" and path == "/api/show":
            return await self._show(exchange)
        changes = (request.method, path) in CHANGES
        judged = client is not None and client.restricted and path in keys.NAMED_IN_BODY
        if changes or judged:
            async with self._intake.reading(request) as body:
                try:
                    fields = await body.json()
                except Malformed:
                    fields = Fields({}, light=True)  # Ollama says so itself, where nothing is to be judged
                if judged and body.fields is None:
                    raise ProxyError(400, "malformed", "the request body cannot be read")
                if client is not None:
                    keys.check_named(self._catalog, client, fields)
                body.leave_as_it_came()
                async with self._changes.around(path, fields) if changes else nullcontext():
                    return await self._send(exchange, body, Outcome())
        without = self._withheld(offered.asked_for(path) or "") or _consumed(exchange)
        headers = towards_ollama(request.raw_headers, None, without)
        return await self._relay(exchange, headers, self._intake.streamed(request), Outcome())

    # Where names are told

    def _edited(self, exchange: Exchange) -> tuple[str, Edit] | None:
        """What is asked of Ollama, and how its answer is edited."""
        client = exchange.client
        may = partial(keys.may_use, self._catalog, client) if client is not None and client.restricted else None
        if edit := offered.listing(exchange.path, self._catalog.offered, may):
            return exchange.target, edit
        name = offered.asked_for(exchange.path)
        meant = self._catalog.stands_for(name) if name else ()
        return offered.one(name, meant[0]) if name and meant else None

    async def _show(self, exchange: Exchange) -> None:
        """A name that only the config knows is replaced by Ollama's; whatever else is asked stays as it is."""
        async with self._intake.reading(exchange.request) as body:
            fields, name = None, ""
            with suppress(Malformed, Ambiguous, WrongType):  # Ollama says so itself
                fields = await body.json()
                name = named(fields)
            keys.check_model(self._catalog, exchange.client, name)
            meant, without = self._catalog.stands_for(name), self._withheld(name)
            if fields is None or not meant:
                body.leave_as_it_came()
                return await self._send(exchange, body, Outcome(), without)
            fields.set("model", meant[0])
            several = meant if len(meant) > 1 else ()
            models = [model for other in several if (model := await self._catalog.resolve(other))]
            able = {capability for m in models if m.shown for capability in m.shown.capabilities or ()}
            if not able:
                return await self._send(exchange, body, Outcome(), without)
            return await self._edit(exchange, exchange.target, body.pieces(), offered.able(able))

    def _withheld(self, name: str) -> frozenset[bytes]:
        """The headers that do not go with a request for this model."""
        return CREDENTIALS if self._catalog.meaning(name).elsewhere else frozenset()

    async def _edit(self, exchange: Exchange, target: str, body: Pieces, edit: Edit) -> None:
        length = sum(map(len, body)) if body else None
        headers = towards_ollama(exchange.request.raw_headers, length, _consumed(exchange))
        try:
            await relay_edited(self._upstream, exchange, target, headers, body, edit)
        except ProxyError as error:
            await self._lost(error)
            raise

    # Through a swap

    async def _swap(self, exchange: Exchange, endpoint: Endpoint) -> None:
        wished = terms.wished_priority(exchange.request.headers, self._catalog)
        async with self._intake.reading(exchange.request) as body:
            name, asked = "", None
            with suppress(Malformed):
                name = self._direct(exchange, endpoint, await self._fields(exchange, endpoint, body))
            keys.check_model(self._catalog, exchange.client, name)
            if (fields := body.fields) is not None:
                with suppress(Unacceptable, WrongType):
                    asked = endpoints.read(endpoint, fields)
            if fields is None or asked is None:  # Ollama says so itself, and needs no swap for it
                return await self._send(exchange, body, Outcome(), self._withheld(name))
            model = await self._resolved(exchange, asked.model)
            if model is None:
                return await self._unknown(exchange, endpoint, asked, body)
            if alias := self._catalog.meaning(asked.model).alias:
                fields.set("model", alias)
            if model.remote:
                return await self._elsewhere(exchange, endpoint, asked, body)
            if asked.intent is Intent.UNLOAD:
                return await self._unload(exchange, endpoint, asked, model)
            demand = terms.demand(self._catalog, endpoint, asked, model, wished, exchange.client)
            return await self._serve(exchange, endpoint, asked, body, demand)

    async def _resolved(self, exchange: Exchange, name: str) -> Model | None:
        """Return the model of this name, None if Ollama has none.

        A name that cannot be looked up while Ollama is away waits as long as other requests.  Raises Rejected, and
        UpstreamUnreachable if Ollama stays away.
        """
        try:
            if (model := await self._catalog.resolve(name)) or self._engine.reachable:
                return model
        except UpstreamUnreachable:
            pass  # it may be back in a moment
        with exchange.client.queued() if exchange.client is not None else nullcontext():
            if not await self._engine.back(self._grace_s):
                raise UpstreamUnreachable(self._engine.ollama.why)
        return await self._catalog.resolve(name)

    def _direct(self, exchange: Exchange, endpoint: Endpoint, fields: Fields | Form) -> str:
        """Let `use_llm` and the routes say which model is meant: its name.  The answer will tell."""
        direction = self._router.direction(endpoint, fields)
        name = direction.model
        if is_plausible(direction.asked):
            exchange.model = direction.asked
        if direction.routed:
            meaning = self._catalog.meaning(name)
            known = None if meaning.denied else meaning.model
            if is_plausible(name):
                exchange.chosen = known.name if known else name
            fields.set("model", known.ollama_name if known else name)
        return name

    async def _serve(
        self, exchange: Exchange, endpoint: Endpoint, asked: Asked, body: RequestBody, demand: Demand
    ) -> None:
        if endpoint in self._missing:
            return await self._send(exchange, body, _Found(missing=self._missing, endpoint=endpoint))
        model = demand.model
        outcome = Outcome()
        if asked.intent is Intent.INFERENCE:
            outcome = Counted(
                totals=self._totals,
                metrics=self._metrics,
                recorder=self._recorder,
                model=model.name,
                endpoint=endpoint.label,
                arrived=exchange.arrived,
            )
        try:
            if not endpoints.is_able(endpoint, asked, model.shown.capabilities if model.shown else None):
                return await self._send(exchange, body, outcome)
            terms.rewrite(body.fields, endpoint, asked, demand)
            client = exchange.client
            lease = Lease(self._engine, demand) if client is None else Lease(self._engine, demand, client.queued())
            try:
                async with lease:
                    exchange.waited_s, exchange.is_lost = lease.waited_s, lease.is_lost
                    try:
                        await self._send(exchange, body, outcome)
                        lease.load_s = outcome.load_s
                    finally:
                        generated = exchange.status == 200 and asked.intent is Intent.INFERENCE
                        lease.heard = False if outcome.silent else generated or None
            finally:
                exchange.waited_s = lease.waited_s  # a refusal tells it too
        finally:
            outcome.count(exchange.waited_s or 0.0)

    async def _elsewhere(self, exchange: Exchange, endpoint: Endpoint, asked: Asked, body: RequestBody) -> None:
        """A model that runs on somebody else's machine: no swap, counted apart, and no credentials of the client's."""
        known = self._catalog.meaning(asked.model).model
        outcome = Outcome()
        if asked.intent is Intent.INFERENCE:
            name = known.name if known else OTHER
            outcome = CountedRemote(totals=self._totals, model=name, endpoint=endpoint.label)
        try:
            return await self._send(exchange, body, outcome, CREDENTIALS)
        finally:
            outcome.count()

    async def _unload(self, exchange: Exchange, endpoint: Endpoint, asked: Asked, model: Model) -> None:
        """`ollama stop`: done by the scheduler, answered as Ollama answers."""
        if self._catalog.treatment.keep_alive_fixed:
            raise ProxyError(403, "keep_alive_fixed", "clients may not unload models here (ignore_client_keep_alive)")
        await self._engine.unload(model)
        done = endpoints.unloaded(endpoint, self._catalog.meaning(asked.model).alias or asked.model)
        headers = [(b"Content-Type", b"application/json; charset=utf-8"), *exchange.own_headers]
        exchange.answer(200, headers, done)

    async def _unknown(self, exchange: Exchange, endpoint: Endpoint, asked: Asked, body: RequestBody) -> None:
        """Ollama says so itself, unless only the config knows the name, or does not let the model be used."""
        meaning = self._catalog.meaning(asked.model)
        if not (meaning.denied or meaning.alias):
            return await self._send(exchange, body, Outcome())
        quoted, hint = (
            (f"'{asked.model}'", "") if endpoint.content == "prompt" else (f'"{asked.model}"', ", try pulling it first")
        )
        if meaning.alias and not meaning.denied:
            hint = f": {how_to_pull(meaning.alias)}"
        raise ProxyError(404, "model_not_found", f"model {quoted} not found{hint}")

    async def _fields(self, exchange: Exchange, endpoint: Endpoint, body: RequestBody) -> Fields | Form:
        request = exchange.request
        try:
            if endpoint.multipart:
                return body.form(request.headers.get("Content-Type", ""), request.query)
            return await body.json()
        except Ambiguous as error:
            raise ProxyError(400, "malformed", f"the request body cannot be read: {error}") from None

    # To Ollama

    def _send(
        self, exchange: Exchange, body: RequestBody, outcome: Outcome, without: frozenset[bytes] = frozenset()
    ) -> Coroutine[Any, Any, None]:
        pieces = body.pieces()
        headers = towards_ollama(exchange.request.raw_headers, sum(map(len, pieces)), without or _consumed(exchange))
        return self._relay(exchange, headers, pieces, outcome)

    async def _relay(self, exchange: Exchange, headers: list[Header], body: Body, outcome: Outcome) -> None:
        try:
            broken = await relay(self._upstream, exchange, headers, body, outcome, self._silence(exchange))
        except ProxyError as error:
            await self._lost(error)
            raise
        if broken:
            log.warning("Ollama broke off in mid-answer", extra=self._who(exchange) | {"status": exchange.status})

    def _silence(self, exchange: Exchange) -> Silence:
        """How long Ollama may say nothing: pulls, pushes, creations and uploads may do so for hours."""
        if exchange.request.method == "POST":
            return Silence(*self._limits, exchange.is_lost) if exchange.path in ENDPOINTS else ANY_SILENCE
        return QUESTION if exchange.request.method in ("GET", "HEAD") else ANY_SILENCE

    async def _lost(self, error: ProxyError) -> None:
        """Ollama did not answer, unless the client is to blame: the scheduler is to know."""
        if error.status in (502, 504):
            self._missing.clear()  # it may come back as a newer version
            if self._engine.reachable:  # else it is asked again and again
                await self._engine.probe()


def _consumed(exchange: Exchange) -> frozenset[bytes]:
    """The headers that were for the proxy."""
    return keys.CONSUMED if exchange.client is not None else _NOTHING


class _Found(Outcome, kw_only=True):
    """Of a request to a route that Ollama did not have: it may have got it meanwhile."""

    missing: set[Endpoint]
    endpoint: Endpoint

    def head(self, status: int, content_type: str) -> None:
        self.status = status
        if status != 404:
            self.missing.discard(self.endpoint)
