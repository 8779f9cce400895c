"""The way to Ollama: the proxy's own calls, and client requests handed on."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from swapper_proxy.core.errors import Failure
from swapper_proxy.ollama import reasons, wire
from swapper_proxy.ollama.access import Access
from swapper_proxy.ollama.connection import Connection, Stale
from swapper_proxy.ollama.pool import Pool
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
    UpstreamLoops,
    UpstreamRefused,
    UpstreamSilent,
    UpstreamUnreachable,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

# Short questions; a load has no limit here, the engine watches over it.
ASK_TIMEOUT_S = 10.0
# Of an answer to the proxy itself: /api/tags takes 350 bytes for a model.
MOST_OWN_BYTES = 16 * 1024 * 1024
MOST_ERROR_BYTES = 64 * 1024  # all who wait for a load that fails get what Ollama says
ERRORS = range(400, 600)
# Complaints that are remembered: models with wrong PARAMETERs, how many of each, and how many characters of one.
MOST_COMPLAINTS, MOST_WRONG, MOST_TEXT = 1000, 10, 200


class OllamaClient:
    """One Ollama host.  `async with` it; connections are kept and not limited in number.

    Every request carries `via`: one that comes back to this proxy is recognized by it.
    """

    def __init__(self, url: str, connect_timeout_s: float = 10.0, access: Access | None = None) -> None:
        self.url = url.rstrip("/")
        self.via = secrets.token_hex(8)
        self._connect_timeout_s = connect_timeout_s
        self._access = access or Access()
        self._left_out: dict[str, int] = {}  # entries of a list that could not be read, by path
        self._wrong: dict[str, tuple[str, ...]] = {}  # PARAMETERs that were complained of, by model
        self._pool: Pool

    async def __aenter__(self) -> "OllamaClient":
        self._pool = Pool(self.url, self._connect_timeout_s, self.via, self._access)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    def use(self, access: Access) -> None:
        """Show this to the host from the next request on."""
        self._access = access
        self._pool.use(access)

    # The proxy's own calls

    async def version(self) -> str:
        return await self._ask("GET", "/api/version", wire.version)

    async def installed(self) -> list[Installed]:
        entries, left_out = await self._ask("GET", "/api/tags", wire.tags)
        self._complain("/api/tags", left_out)
        return [Installed(m.name, m.size, m.digest, bool(m.remote_host), m.modified_at) for m in entries]

    async def running(self) -> tuple[list[Running], int]:
        entries, left_out = await self._ask("GET", "/api/ps", wire.ps)
        self._complain("/api/ps", left_out)
        return [Running(m.name, m.size, m.size_vram, m.digest, m.expires_at) for m in entries], left_out

    def _complain(self, path: str, left_out: int) -> None:
        """Say it once, not at each look."""
        if left_out and left_out != self._left_out.get(path):
            log.warning("%s: %d entries cannot be read; these models are ignored", path, left_out)
        self._left_out[path] = left_out

    async def show(self, name: str) -> Shown:
        shown, wrong = await self._ask("POST", "/api/show", _shown, {"model": name}, only_asks=True)
        self._complain_of(name, wrong)
        return shown

    def _complain_of(self, name: str, wrong: tuple[str, ...]) -> None:
        """Say which PARAMETERs of a model are wrong, once and not each time that it is shown."""
        if wrong == self._wrong.get(name, ()):
            return
        if len(self._wrong) >= MOST_COMPLAINTS:
            self._wrong.clear()
        self._wrong[name] = wrong
        for parameter in wrong:
            log.warning("Ollama will not run this model: PARAMETER %r", parameter, extra={"model": name})

    async def load(self, spec: LoadSpec) -> None:
        """Make Ollama load, on a connection of its own; returns when it is loaded."""
        body: dict[str, Any] = {"model": spec.name}
        if spec.options:
            body["options"] = dict(spec.options)
        if spec.keep_alive is not None:
            body["keep_alive"] = spec.keep_alive
        if spec.embedding_only:
            await self._ask("POST", "/api/embed", wire.anything, body | {"input": []}, a_load=True)
        else:
            await self._ask("POST", "/api/generate", wire.anything, body | {"stream": False}, a_load=True)

    async def unload(self, name: str) -> None:
        """Ask Ollama to unload; it answers at once and unloads when idle."""
        await self._ask("POST", "/api/generate", wire.anything, {"model": name, "keep_alive": 0, "stream": False})

    async def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        body: object = None,
        *,
        a_load: bool = False,
        only_asks: bool = False,
    ) -> T:
        content = () if body is None else (msgspec.json.encode(body),)
        try:
            async with asyncio.timeout(None if a_load else ASK_TIMEOUT_S):
                answer = await self._ask_for(method, path, content, fresh=a_load, only_asks=only_asks)
                body = await answer.rest(MOST_OWN_BYTES if answer.status == 200 else MOST_ERROR_BYTES)
        except TimeoutError:
            raise UpstreamSilent(f"no answer to {path} within {ASK_TIMEOUT_S:g} s") from None
        except UpstreamBroken as error:
            raise UpstreamUnreachable(str(error), sent=True) from error
        if answer.status != 200:
            raise self._failed(path, answer, body)
        try:
            return read(body)
        except wire.UNREADABLE as error:
            why = f"its answer to {path} cannot be read ({error})"
            raise UpstreamUnreachable(reasons.not_ollama(self.url, why)) from error

    async def _ask_for(
        self, method: str, path: str, content: tuple[bytes, ...], *, fresh: bool, only_asks: bool
    ) -> Connection:
        headers = [(b"Content-Length", b"%d" % sum(map(len, content)))] if content else []
        return await self.send(method, path, headers, content, fresh=fresh, only_asks=only_asks)

    def _failed(self, path: str, answer: Connection, body: bytes) -> UpstreamUnreachable | UpstreamRefused:
        """Return what to raise for an answer that is none, with the reason."""
        status = answer.status
        failure = Failure(status, body, answer.content_type or "application/json")
        if status == HTTPStatus.LOOP_DETECTED:
            return UpstreamLoops(failure)
        if status in ERRORS:
            return UpstreamRefused(failure, self._refused(path, status, body))
        if status in reasons.REDIRECTS:
            return UpstreamUnreachable(reasons.redirected(self.url, path, status, _first(answer, b"location")))
        return UpstreamUnreachable(reasons.not_ollama(self.url, f"the status of {path} is {status}"))

    def _refused(self, path: str, status: int, body: bytes) -> str:
        return reasons.refused(self.url, path, status, body, has_credentials=bool(self._access.headers))

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
        only_asks: bool = False,
    ) -> Connection:
        """Hand a request on; returns when the head of the answer is there.

        A kept connection may be closed by Ollama while the request is on its way.  It is sent once more, on a fresh
        connection, if nothing of it was taken or it only asks, and its body is still at hand; nothing else is.  A GET
        and a HEAD only ask; of a POST the caller has to know it (`only_asks`).
        """
        access = self._access
        lines = [b"%b: %b\r\n" % header for header in (access.towards_ollama(headers) if access.headers else headers)]
        if not isinstance(body, Sequence) and not any(line.lower().startswith(b"content-length:") for line in lines):
            lines.append(b"Transfer-Encoding: chunked\r\n")
            body = _chunked(body)
        start = f"{method} {self._pool.prefix}{target} HTTP/1.1\r\n"
        head = b"".join((start.encode("utf-8", "surrogateescape"), *lines, self._pool.last_lines))
        connection = (None if fresh else self._pool.kept()) or await self._pool.connect()
        try:
            await connection.ask(method, head, body, silence, only_asks=only_asks)
        except Stale:
            return await self.send(method, target, headers, body, silence=silence, fresh=True)
        except BaseException:
            connection.close()
            raise
        if connection.status == HTTPStatus.UNAUTHORIZED:
            self._check_challenge(connection)
        if access.headers:
            connection.headers = access.towards_client(connection.headers)
        return connection

    def _check_challenge(self, answer: Connection) -> None:
        """Raise UpstreamUnreachable if what stands in front of Ollama does not let the proxy in.

        Ollama itself names no method when it answers 401, as for a model that runs elsewhere.
        """
        if challenge := _first(answer, b"www-authenticate"):
            answer.close()
            known = bool(self._access.headers)
            why = reasons.refused_credentials(answer.status, challenge, has_credentials=known)
            raise UpstreamUnreachable(why, sent=True)


def _first(answer: Connection, name: bytes) -> str:
    """Return the value of the first header of this name; empty if there is none."""
    return next((value.decode("latin-1") for header, value in answer.headers if header.lower() == name), "")


def _shown(answer: bytes) -> tuple[Shown, tuple[str, ...]]:
    """Return what /api/show tells, and the PARAMETERs that Ollama will refuse.  Raises what is UNREADABLE."""
    show = wire.show(answer)
    wrong = tuple(parameter[:MOST_TEXT] for parameter in show.wrong_parameters[:MOST_WRONG])
    capabilities = None if show.capabilities is None else frozenset(show.capabilities)
    remote = bool(show.remote_host)
    return Shown(show.runner, show.runner_options, capabilities, remote, show.modified_at, *show.context), wrong


async def _chunked(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    async for piece in body:
        if piece:
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"
