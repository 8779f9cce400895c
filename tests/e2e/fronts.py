"""What stands before an Ollama: a server that speaks TLS and asks for a user or a key, and what is none at all."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@dataclass
class Front:
    """It lets in what carries one of `takes` as Authorization; `asked` is the headers of all that came."""

    url: str = ""
    takes: set[str] = field(default_factory=set)
    asked: list[dict[str, str]] = field(default_factory=list)

    def paths(self) -> list[str]:
        return [asked[""] for asked in self.asked]


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and of a server on 127.0.0.1 that it has signed."""

    ca: Path
    served: Path
    key: Path

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.served, self.key)
        return context


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def self_signed(folder: Path, host: str = "127.0.0.1") -> Certificates:
    """Make a certificate that is its own authority."""
    served, key = folder / f"{host}.pem", folder / f"{host}.key"
    name = "subjectAltName=" + ("IP:" if host[0].isdigit() else "DNS:") + host
    _openssl("req", "-x509", *CURVE, "-keyout", key, "-out", served, "-subj", "/CN=own", "-addext", name)
    return Certificates(served, served, key)


def signed(folder: Path) -> Certificates:
    """Make a private authority, and a certificate of it."""
    ca, ca_key, served, key, asked = (folder / name for name in ("ca.pem", "ca.key", "srv.pem", "srv.key", "srv.csr"))
    _openssl("req", "-x509", *CURVE, "-keyout", ca_key, "-out", ca, "-subj", "/CN=Private CA")
    _openssl("req", *CURVE[:5], "-keyout", key, "-out", asked, "-subj", "/CN=srv")
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    sign = ("-req", "-in", asked, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
    _openssl("x509", *sign, "-out", served)
    return Certificates(ca, served, key)


@asynccontextmanager
async def listening(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fronted(
    session: aiohttp.ClientSession, upstream: str, tls: ssl.SSLContext | None = None, takes: str = ""
) -> AsyncIterator[Front]:
    """A front of the Ollama at `upstream`; with `takes` it asks for that, and gives each who has it a cookie."""
    front = Front(takes={takes} if takes else set())

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        front.asked.append({"": request.path, **{name.lower(): value for name, value in request.headers.items()}})
        if front.takes and request.headers.get("Authorization") not in front.takes:
            challenge = {"WWW-Authenticate": 'Basic realm="ollama"'}
            return web.Response(status=401, headers=challenge, text="<h1>401</h1>", content_type="text/html")
        url = upstream + request.raw_path
        async with session.request(request.method, url, data=await request.read()) as found:
            headers = {"Content-Type": found.headers.get("Content-Type", "")}
            if front.takes:
                headers["Set-Cookie"] = "front=let-in"
            response = web.StreamResponse(status=found.status, headers=headers)
            await response.prepare(request)
            async for piece in found.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    async with listening(answer, tls) as front.url:
        yield front


@asynccontextmanager
async def raw(answer: bytes) -> AsyncIterator[str]:
    """What sends these bytes, whatever comes, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(10_000)
            writer.write(answer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
