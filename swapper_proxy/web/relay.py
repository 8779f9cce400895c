"""Hands one request to Ollama and its answer to the client, as it comes."""

import contextlib
from collections.abc import AsyncIterable, Callable, Iterable

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.ports import Answer, Relay, UpstreamBroken, UpstreamUnreachable
from swapper_proxy.web.headers import Header, towards_client

LEFT = 499  # the client did, before Ollama answered


class Outcome:
    """What is known of an answer while and after it is relayed.

    `sent`: Ollama had the request; `status` is that of its answer.
    """

    sent = False
    status = LEFT

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

    def count(self) -> None:
        """It is over, one way or the other."""


class RelayedResponse(web.StreamResponse):
    """An answer of Ollama; `untyped`: without a Content-Type, and none must be made up."""

    untyped = False
    broken_off = False


async def relay(
    upstream: Relay,
    request: web.Request,
    target: str,
    headers: list[Header],
    body: bytes | AsyncIterable[bytes] | None,
    outcome: Outcome,
    added: Iterable[Header] = (),
) -> RelayedResponse:
    """Send, then stream back with the headers `added`.  Raises ProxyError while nothing has been sent to the client.

    Ends abruptly where Ollama does.  Closing the answer before its end closes the connection to Ollama, so a client
    that leaves stops the work done for it.
    """
    answer = await _sent(upstream, request, target, headers, body, outcome)
    try:
        return await _stream(request, answer, outcome, added)
    finally:
        answer.close()


async def relay_edited(
    upstream: Relay,
    request: web.Request,
    target: str,
    headers: list[Header],
    body: bytes | None,
    edit: Callable[[bytes], bytes],
) -> web.Response:
    """The same for a question whose short answer is read as a whole, and edited if it is a 200."""
    answer = await _sent(upstream, request, target, headers, body, Outcome())
    try:
        content = b"".join([chunk async for chunk in answer.chunks()])
    except UpstreamBroken as error:
        raise ProxyError(502, "upstream_unreachable", f"Ollama broke off: {error}") from error
    finally:
        answer.close()
    response = web.Response(status=answer.status, body=edit(content) if answer.status == 200 else content)
    response.headers.clear()
    response.headers.extend((n, v) for n, v in towards_client(answer.headers) if n.lower() != "content-length")
    return response


async def _sent(
    upstream: Relay,
    request: web.Request,
    target: str,
    headers: list[Header],
    body: bytes | AsyncIterable[bytes] | None,
    outcome: Outcome,
) -> Answer:
    outcome.sending()
    try:
        return await upstream.send(request.method, target, headers, body)
    except UpstreamUnreachable as error:
        if error.sent:
            outcome.head(502, "")
        else:
            outcome.unreachable()
        raise ProxyError(502, "upstream_unreachable", f"Ollama is not reachable: {error}") from error


async def _stream(request: web.Request, answer: Answer, outcome: Outcome, added: Iterable[Header]) -> RelayedResponse:
    response = RelayedResponse(status=answer.status, reason=answer.reason)
    for name, value in (*towards_client(answer.headers), *added):
        response.headers.add(name, value)
    outcome.head(answer.status, response.headers.get(hdrs.CONTENT_TYPE, ""))
    response.untyped = hdrs.CONTENT_TYPE not in response.headers
    if request.version < HttpVersion11 and hdrs.CONTENT_LENGTH not in response.headers:
        response.force_close()  # the end of the connection is the end of the answer
    with contextlib.suppress(ConnectionResetError):  # the client left: nobody is there to be told
        await response.prepare(request)
        try:
            async for chunk in answer.chunks():
                await response.write(chunk)
                outcome.chunk(chunk)
        except UpstreamBroken as error:
            response.broken_off = True
            await _break_off(request, response, str(error))
        else:
            await response.write_eof()
    return response


async def _break_off(request: web.Request, response: web.StreamResponse, why: str) -> None:
    """Never a clean end: the connection is closed in mid-body, in NDJSON after a last line that says so."""
    if response.headers.get(hdrs.CONTENT_TYPE, "").startswith("application/x-ndjson"):
        await response.write(msgspec.json.encode({"error": f"Ollama broke off: {why}"}) + b"\n")
    if request.transport is not None:
        request.transport.close()  # what is written is sent; what would end the body properly no longer can be
