"""A registry on loopback from which a real Ollama pulls, and to which it pushes."""

import asyncio
import hashlib
import re
from pathlib import Path

from aiohttp import web

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """Keeps manifests and blobs in memory; `async with` it.

    While `released` is not set, the second half of what is larger than `held_from` bytes is held back.  `sending`
    counts the blobs that are being sent.
    """

    def __init__(self, held_from: int = 10_000) -> None:
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.released = asyncio.Event()
        self.released.set()
        self.sending = 0
        self._held_from = held_from
        self._uploads: dict[str, bytes] = {}

    def take(self, models: Path, name: str) -> None:
        """What the Ollama with this folder has under the name is published under the same."""
        manifest = (models / "manifests" / "registry.ollama.ai" / "library" / name / "latest").read_bytes()
        self.manifests[name] = manifest
        for digest in re.findall(r"sha256:[0-9a-f]{64}", manifest.decode()):
            self.blobs[digest] = (models / "blobs" / digest.replace(":", "-")).read_bytes()

    def name_of(self, model: str) -> str:
        """How Ollama is told to find it here; also what it calls it then, without the scheme."""
        return f"http://127.0.0.1:{self._port}/library/{model}:latest"

    async def __aenter__(self) -> "Registry":
        app = web.Application(client_max_size=1 << 30)
        repository = "/v2/library/{model}"
        app.add_routes(
            [
                web.get(f"{repository}/manifests/latest", self._manifest),
                web.put(f"{repository}/manifests/latest", self._keep_manifest),
                web.get(f"{repository}/blobs/{{digest}}", self._blob),
                web.post(f"{repository}/blobs/uploads/", self._begin),
                web.patch("/uploads/{number}", self._upload),
                web.put("/uploads/{number}", self._end),
                web.get("/data/{digest}", self._data),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.released.set()
        await self._runner.cleanup()

    # Pull

    async def _manifest(self, request: web.Request) -> web.Response:
        return web.Response(body=_found(self.manifests, request.match_info["model"]), content_type=MANIFEST_TYPE)

    async def _blob(self, request: web.Request) -> web.Response:
        """Ollama insists on being sent to another host for the data."""
        digest = request.match_info["digest"]
        blob = _found(self.blobs, digest)
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(blob))})
        return web.Response(status=307, headers={"Location": f"http://localhost:{self._port}/data/{digest}"})

    async def _data(self, request: web.Request) -> web.StreamResponse:
        blob = _found(self.blobs, request.match_info["digest"])
        wanted = request.http_range
        data = blob[wanted]
        headers = {"Content-Length": str(len(data))}
        if wanted.start is not None:
            headers["Content-Range"] = f"bytes {wanted.start}-{wanted.start + len(data) - 1}/{len(blob)}"
        response = web.StreamResponse(status=206 if wanted.start is not None else 200, headers=headers)
        self.sending += 1
        try:
            await response.prepare(request)
            half = max(0, len(blob) // 2 - (wanted.start or 0)) if len(blob) > self._held_from else len(data)
            await response.write(data[:half])
            await self.released.wait()
            await response.write(data[half:])
        finally:
            self.sending -= 1
        return response

    # Push

    async def _keep_manifest(self, request: web.Request) -> web.Response:
        self.manifests[request.match_info["model"]] = await request.read()
        return web.Response(status=201)

    async def _begin(self, _: web.Request) -> web.Response:
        number = str(len(self._uploads))
        self._uploads[number] = b""
        return self._goes_on(number)

    async def _upload(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        self._uploads[number] += await request.read()
        return self._goes_on(number)

    async def _end(self, request: web.Request) -> web.Response:
        blob = self._uploads[request.match_info["number"]]
        if request.query["digest"] != f"sha256:{hashlib.sha256(blob).hexdigest()}":
            return web.Response(status=400)
        self.blobs[request.query["digest"]] = blob
        return web.Response(status=201)

    def _goes_on(self, number: str) -> web.Response:
        location = f"http://127.0.0.1:{self._port}/uploads/{number}"
        return web.Response(status=202, headers={"Location": location})


def _found(kept: dict[str, bytes], key: str) -> bytes:
    if key not in kept:
        raise web.HTTPNotFound
    return kept[key]
