"""The way to Ollama: the proxy's own calls, and client requests handed on."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, TypeVar

import msgspec

from swapper_proxy.core.errors import Failure
from swapper_proxy.ollama import wire
from swapper_proxy.ollama.connection import Connection, Pool, Stale
from swapper_proxy.runtime.ports import (
    ANY_SILENCE,
    Body,
    Header,
    Installed,
    LoadSpec,
    Running,
    Shown,
    Silence,
    UpstreamBroken,
    UpstreamRefused,
    UpstreamSilent,
    UpstreamUnreachable,
)

T = TypeVar("T")

# Short questions; a load has no limit here, the engine watches over it.
ASK_TIMEOUT_S = 10.0


class OllamaClient:
    """One Ollama host.  `async with` it; connections are kept and not limited in number."""

    def __init__(self, url: str, connect_timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._connect_timeout_s = connect_timeout_s
        self._pool: Pool

    async def __aenter__(self) -> "OllamaClient":
        self._pool = Pool(self.url, self._connect_timeout_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    # The proxy's own calls

    async def version(self) -> str:
        return (await self._ask("GET", "/api/version", wire.Version)).version

    async def installed(self) -> list[Installed]:
        tags = await self._ask("GET", "/api/tags", wire.Tags)
        return [Installed(m.name, m.size, m.digest, bool(m.remote_host), m.modified_at) for m in tags.models or ()]

    async def running(self) -> list[Running]:
        ps = await self._ask("GET", "/api/ps", wire.Ps)
        return [Running(m.name, m.size, m.size_vram, m.digest, bytes(m.expires_at)) for m in ps.models or ()]

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
            await self._ask("POST", "/api/embed", msgspec.Raw, body | {"input": []}, a_load=True)
        else:
            await self._ask("POST", "/api/generate", msgspec.Raw, body | {"stream": False}, a_load=True)

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
        a_load: bool = False,
    ) -> T:
        content = () if body is None else (msgspec.json.encode(body),)
        try:
            async with asyncio.timeout(None if a_load else ASK_TIMEOUT_S):
                status, kind, answer = await self._whole(method, path, content, fresh=a_load)
        except TimeoutError:
            raise UpstreamSilent(f"no answer to {path} within {ASK_TIMEOUT_S:g} s") from None
        except UpstreamBroken as error:
            raise UpstreamUnreachable(str(error), sent=True) from error
        if status != 200:
            raise UpstreamRefused(Failure(status, answer, kind))
        try:
            return msgspec.json.decode(answer, type=expected)
        except msgspec.MsgspecError as error:
            raise UpstreamUnreachable(f"what answers at {self.url} is no Ollama: {error}") from error

    async def _whole(
        self, method: str, path: str, content: tuple[bytes, ...], *, fresh: bool
    ) -> tuple[int, str, bytes]:
        """Status, Content-Type and body."""
        headers = [(b"Content-Length", b"%d" % sum(map(len, content)))] if content else []
        answer = await self.send(method, path, headers, content, fresh=fresh)
        return answer.status, answer.content_type or "application/json", await answer.rest()

    # Client requests

    async def send(
        self,
        method: str,
        target: str,
        headers: Iterable[Header],
        body: Body,
        *,
        silence: Silence = ANY_SILENCE,
        fresh: bool = False,
    ) -> Connection:
        """Hand a request on; returns when the head of the answer is there.

        A kept connection may have been closed by Ollama meanwhile: then nothing of the request was acted upon, and a
        body that is still at hand is sent once more, on a fresh connection.  Nothing else is retried.
        """
        lines = [b"%b: %b\r\n" % header for header in headers]
        if not isinstance(body, tuple) and not any(line.lower().startswith(b"content-length:") for line in lines):
            lines.append(b"Transfer-Encoding: chunked\r\n")
            body = _chunked(body)
        start = f"{method} {self._pool.prefix}{target} HTTP/1.1\r\nHost: {self._pool.host}\r\n"
        head = b"".join((start.encode("utf-8", "surrogateescape"), *lines, b"\r\n"))
        connection = (None if fresh else self._pool.kept()) or await self._pool.connect()
        try:
            await connection.ask(method, head, body, silence)
        except Stale:
            return await self.send(method, target, headers, body, silence=silence, fresh=True)
        except BaseException:
            connection.close()
            raise
        return connection


async def _chunked(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    async for piece in body:
        if piece:
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"
