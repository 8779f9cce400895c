"""The way to Ollama: the proxy's own calls, and client requests handed on.  aiohttp's exceptions end here."""

import io
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from swapper_proxy.core.errors import Failure
from swapper_proxy.ollama import wire
from swapper_proxy.runtime.ports import (
    Headers,
    Installed,
    LoadSpec,
    Running,
    Shown,
    UpstreamBroken,
    UpstreamRefused,
    UpstreamUnreachable,
)

T = TypeVar("T")

# Short questions; a load has no limit here, the engine watches over it.
ASK_TIMEOUT_S = 10.0


class OllamaClient:
    """One Ollama host.  `async with` it; connections are kept and not limited in number."""

    def __init__(self, url: str, connect_timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self._kept: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession

    async def __aenter__(self) -> "OllamaClient":
        self._kept = self._session(force_close=False)
        self._fresh = self._session(force_close=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._kept.close()
        await self._fresh.close()

    def _session(self, *, force_close: bool) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            trace_configs=[trace],
            connector=aiohttp.TCPConnector(limit=0, force_close=force_close),
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    # The proxy's own calls

    async def version(self) -> str:
        answer: dict[str, str] = await self._ask("GET", "/api/version", dict[str, str])
        return answer.get("version", "")

    async def installed(self) -> list[Installed]:
        tags = await self._ask("GET", "/api/tags", wire.Tags)
        return [Installed(m.name, m.size, m.digest, bool(m.remote_host), m.modified_at) for m in tags.models or ()]

    async def running(self) -> list[Running]:
        ps = await self._ask("GET", "/api/ps", wire.Ps)
        return [Running(m.name, m.size, m.size_vram, m.digest) for m in ps.models or ()]

    async def show(self, name: str) -> Shown:
        show = await self._ask("POST", "/api/show", wire.Show, {"model": name})
        capabilities = None if show.capabilities is None else frozenset(show.capabilities)
        return Shown(show.runner, show.runner_options, capabilities, bool(show.remote_host), show.modified_at)

    async def load(self, spec: LoadSpec) -> None:
        """Make Ollama load, on a connection of its own; returns when it is loaded."""
        body: dict[str, Any] = {"model": spec.name}
        if spec.options:
            body["options"] = dict(spec.options)
        if spec.keep_alive is not None:
            body["keep_alive"] = spec.keep_alive
        if spec.embedding_only:
            await self._ask("POST", "/api/embed", msgspec.Raw, body | {"input": []}, limit_s=None, fresh=True)
        else:
            await self._ask("POST", "/api/generate", msgspec.Raw, body | {"stream": False}, limit_s=None, fresh=True)

    async def unload(self, name: str) -> None:
        """Ask Ollama to unload; it answers at once and unloads when idle."""
        await self._ask("POST", "/api/generate", msgspec.Raw, {"model": name, "keep_alive": 0, "stream": False})

    async def _ask(
        self,
        method: str,
        path: str,
        expected: type[T],
        body: object = None,
        *,
        limit_s: float | None = ASK_TIMEOUT_S,
        fresh: bool = False,
    ) -> T:
        session = self._fresh if fresh else self._kept
        data = None if body is None else msgspec.json.encode(body)
        timeout = aiohttp.ClientTimeout(total=limit_s, sock_connect=self._timeout.sock_connect)
        try:
            async with session.request(method, self.url + path, data=data, timeout=timeout) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamUnreachable(_why(error)) from error
        if response.status != 200:
            kind = response.headers.get("Content-Type", "application/json")
            raise UpstreamRefused(Failure(response.status, answer, kind))
        try:
            return msgspec.json.decode(answer, type=expected)
        except msgspec.MsgspecError as error:
            raise UpstreamUnreachable(f"what answers at {self.url} is no Ollama: {error}") from error

    # Client requests

    async def send(
        self, method: str, target: str, headers: Headers, body: bytes | AsyncIterable[bytes] | None
    ) -> "RelayedAnswer":
        """Hand a request on; returns when the head of the answer is there.

        A kept connection may have been closed by Ollama meanwhile: then nothing of the request was acted upon, and a
        body that is still at hand is sent once more, on a fresh connection.  Nothing else is retried.
        """
        url, connection = URL(self.url + target, encoded=True), Connection()
        for session in (self._kept, self._fresh):
            try:
                response = await session.request(
                    method,
                    url,
                    headers=list(headers),
                    data=_payload(body),
                    allow_redirects=False,
                    trace_request_ctx=connection,
                )
                return RelayedAnswer(response)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                stale = connection.reused and isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
                if session is self._fresh or not stale or not isinstance(body, bytes | None):
                    connected = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError)
                    raise UpstreamUnreachable(_why(error), sent=connected) from error
        raise AssertionError("unreachable")


@dataclass
class Connection:
    """Whether a request went out on a connection that had been used before."""

    reused: bool = False


async def _note_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    if isinstance(context.trace_request_ctx, Connection):
        context.trace_request_ctx.reused = True


class RelayedAnswer:
    """An answer of Ollama under way (see `runtime.ports.Answer`)."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamBroken(_why(error)) from error

    def close(self) -> None:
        """At its end the connection is already back in the pool; before, this closes it, and Ollama stops."""
        self._response.close()


def _payload(body: bytes | AsyncIterable[bytes] | None) -> io.BytesIO | AsyncIterable[bytes] | None:
    """A large body is written piece by piece, so that it does not hold up the event loop."""
    return io.BytesIO(body) if isinstance(body, bytes) else body


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
