"""Hands one request to Ollama and its answer to the client, as it comes."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import msgspec

from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.ports import (
    Answer,
    Body,
    Header,
    Relay,
    Silence,
    UpstreamBroken,
    UpstreamSilent,
    UpstreamUnreachable,
)
from swapper_proxy.web.exchange import WITHOUT_BODY, Exchange
from swapper_proxy.web.headers import towards_client

NDJSON = "application/x-ndjson"


LEFT = 499  # the client did, before its answer was whole
STOPPED = 503  # the proxy did
# Of a question about models, which Ollama answers from what is on its disk.
QUESTION = Silence(60.0, 60.0)


class Outcome(msgspec.Struct):
    """What is known of an answer while and after it is relayed.

    `sent`: Ollama had the request; `status` is that of its answer, or tells why that has no end.  `silent`: it said
    nothing for too long.
    """

    sent: bool = False
    silent: bool = False
    status: int = LEFT

    @property
    def load_s(self) -> float:
        """Seconds that Ollama says it took to load the model for it; known at its end."""
        return 0.0

    def sending(self) -> None:
        """It is being handed to Ollama."""
        self.sent = True

    def unreachable(self) -> None:
        """It could not be."""
        self.sent = False

    def head(self, status: int, content_type: str) -> None:
        """Ollama's status line and headers are there."""
        self.status = status

    def chunk(self, data: bytes) -> None:
        """A piece of the body went through."""

    def cut(self, status: int) -> None:
        """The answer ends here and is not whole; `status` tells why."""
        self.status = status

    def ended_short(self) -> bool:
        """Return True if Ollama ended the answer in order, and it is not whole all the same."""
        return False

    def count(self, waited_s: float = 0.0) -> None:
        """It is over, one way or the other; `waited_s` is the time in the queue."""


async def relay(
    upstream: Relay, exchange: Exchange, headers: list[Header], body: Body, outcome: Outcome, silence: Silence
) -> str:
    """Send, then stream back; why Ollama broke off in the middle, if it did.

    Raises ProxyError while nothing has been sent to the client.  Ends abruptly where Ollama does.  Closing the answer
    before its end closes the connection to Ollama, so a client that leaves stops the work done for it.
    """
    outcome.sending()
    try:
        return await _relay(upstream, exchange, headers, body, outcome, silence)
    except (asyncio.CancelledError, ConnectionError):
        _cut(exchange, outcome, STOPPED if exchange.is_connected else LEFT)
        raise


async def _relay(
    upstream: Relay, exchange: Exchange, headers: list[Header], body: Body, outcome: Outcome, silence: Silence
) -> str:
    try:
        answer = await upstream.send(exchange.request.method, exchange.target, headers, body, silence=silence)
    except UpstreamUnreachable as error:
        told = _unreachable(error, exchange)
        outcome.silent = isinstance(error, UpstreamSilent)
        if error.sent:
            outcome.head(told.status, "")
        else:
            outcome.unreachable()
        raise told from error
    try:
        await _stream(exchange, answer, outcome)
    except UpstreamBroken as broken:
        outcome.silent = broken.silent
        _cut(exchange, outcome, 504 if broken.silent else 502)
        why = f"Ollama broke off: {broken}"
        ndjson = exchange.content_type.startswith(NDJSON)
        exchange.break_off(msgspec.json.encode({"error": why}) + b"\n" if ndjson else b"")
        return why
    finally:
        answer.close()
    if outcome.ended_short():
        _cut(exchange, outcome, 502)
        return "Ollama ended the stream before the answer was whole"
    return ""


def _cut(exchange: Exchange, outcome: Outcome, status: int) -> None:
    """The answer has no end: this status is recorded instead of the one that the client was told."""
    outcome.cut(status)
    exchange.outcome, exchange.sent = outcome.status, outcome.sent


async def _stream(exchange: Exchange, answer: Answer, outcome: Outcome) -> None:
    """Head and body; the first piece with the head if it is there."""
    piece = answer.at_hand()
    headers = towards_client(answer.headers) + exchange.own_headers
    exchange.content_type = answer.content_type
    exchange.begin(answer.status, answer.reason, headers, piece, sized=answer.sized)
    outcome.head(answer.status, answer.content_type)
    if piece:
        outcome.chunk(piece)

    def take(piece: bytes) -> bool:
        has_room = exchange.write(piece)
        outcome.chunk(piece)
        return has_room

    while not await answer.into(take):
        await exchange.room()
    exchange.end()


async def relay_edited(
    upstream: Relay,
    exchange: Exchange,
    target: str,
    headers: list[Header],
    body: Body,
    edit: Callable[[bytes], bytes],
) -> None:
    """The same for a question whose short answer is read as a whole, and edited unless it is an error.

    Raises ProxyError, also if the answer is not short.
    """
    try:
        answer = await upstream.send(exchange.request.method, target, headers, body, silence=QUESTION)
        content = await answer.rest()
    except UpstreamUnreachable as error:
        raise _unreachable(error, exchange) from error
    except UpstreamBroken as error:
        raise ProxyError(502, "upstream_unreachable", f"Ollama's answer cannot be read: {error}") from error
    headers = towards_client(answer.headers)
    if answer.status not in WITHOUT_BODY:
        if answer.status < HTTPStatus.MULTIPLE_CHOICES:
            content = edit(content)
        kept = [header for header in headers if header[0].lower() != b"content-length"]
        headers = [*kept, (b"Content-Length", b"%d" % len(content))]
    exchange.begin(answer.status, answer.reason, headers, content, sized=True)


def _unreachable(error: UpstreamUnreachable, exchange: Exchange) -> ProxyError:
    exchange.sent = error.sent
    if isinstance(error, UpstreamSilent):
        return ProxyError(504, "upstream_timeout", f"Ollama does not answer: {error}")
    return ProxyError(502, "upstream_unreachable", f"Ollama is not reachable: {error}")
