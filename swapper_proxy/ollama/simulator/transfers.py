"""How models come: /api/create, /api/pull, /api/push and the blobs.  Nothing is fetched, sent or kept but the names."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from aiohttp import web

from swapper_proxy.ollama.simulator import requests
from swapper_proxy.ollama.simulator.catalogue import Catalogue, SimulatedModel, is_valid
from swapper_proxy.ollama.simulator.dialects import NDJSON, PLAIN_JSON, encode
from swapper_proxy.ollama.simulator.native import Asked, Handler, asking, json_answer
from swapper_proxy.ollama.simulator.requests import RefusalError, Shape

PULL_STEPS = 5  # progress lines of a pull, which takes as long as a load
GGUF = b"GGUF"
_DIGEST = re.compile("sha256[:-]([0-9a-f]{64})")

Step = dict[str, Any]
Steps = AsyncIterator[Step]


def add_routes(router: web.UrlDispatcher, catalogue: Catalogue, registry: Iterable[SimulatedModel]) -> None:
    """`registry`: what can be pulled."""
    transfers = _Transfers(catalogue, Catalogue(registry))
    router.add_post("/api/create", _reporting(requests.CREATE, transfers.create))
    router.add_post("/api/pull", _reporting(requests.PULL, transfers.pull))
    router.add_post("/api/push", _reporting(requests.PUSH, transfers.push))
    router.add_post("/api/blobs/{digest}", transfers.receive)
    router.add_head("/api/blobs/{digest}", transfers.find)


def _reporting(shape: Shape, act: Callable[[Asked], Steps]) -> Handler:
    """A handler that tells of each step; what goes wrong on the way is the last line of a stream that is 200."""

    async def handler(request: web.Request, asked: Asked) -> web.StreamResponse:
        steps = act(asked)
        first = await anext(steps)
        if asked.get("stream", True):
            return await _stream(request, first, steps)
        return await _last(first, steps)

    return asking(shape, handler)


async def _stream(request: web.Request, first: Step, steps: Steps) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": NDJSON})
    await response.prepare(request)
    await response.write(encode(first) + b"\n")
    async for step in steps:
        await response.write(encode(step) + b"\n")
    await response.write_eof()
    return response


async def _last(step: Step, steps: Steps) -> web.Response:
    async for step in steps:  # noqa: B007, PLR1704 - only the last one counts
        pass
    status = step.pop("status", 500) if "error" in step else 200
    return web.Response(body=encode(step), status=status, headers={"Content-Type": PLAIN_JSON})


class _Transfers:
    def __init__(self, catalogue: Catalogue, registry: Catalogue) -> None:
        self._catalogue = catalogue
        self._registry = registry
        self._blobs: dict[str, tuple[int, bool]] = {}  # by digest: bytes, and whether they are a GGUF file

    async def create(self, asked: Asked) -> Steps:
        name = _valid_name(asked)
        if not asked.get("from") and not asked.get("files"):
            yield {"error": "neither 'from' or 'files' was specified", "status": 400}
            return
        if asked.get("from") and not is_valid(asked["from"]):
            yield {"error": "invalid model name", "status": 400}
            return
        if not asked.get("from"):
            yield _status("parsing GGUF")
        try:
            base = self._inherited(asked["from"]) if asked.get("from") else self._imported(asked["files"])
        except RefusalError as refused:
            yield _failure(refused)
            return
        model = replace(base.named(name), **_own(base, asked))
        yield _status(f"using existing layer {_colon(model.blob)}")
        for layer in (model.system, repr(sorted(model.parameters.items())) if model.parameters else ""):
            if layer:
                yield _status(f"creating new layer sha256:{sha256(layer.encode()).hexdigest()}")
        yield _status("writing manifest")
        self._catalogue.add(model)
        yield _status("success")

    async def pull(self, asked: Asked) -> Steps:
        name = _valid_name(asked)
        yield _status("pulling manifest")
        model = self._registry.find(name) or self._catalogue.find(name)
        if model is None:
            yield {"error": "pull model manifest: file does not exist"}
            return
        digest = _colon(model.blob)
        for step in range(PULL_STEPS + 1):
            done = model.size * step // PULL_STEPS
            yield _status(f"pulling {digest[7:19]}") | {"digest": digest, "total": model.size, "completed": done}
            await asyncio.sleep(model.load_s / PULL_STEPS)
        for text in ("verifying sha256 digest", "writing manifest"):
            yield _status(text)
        self._catalogue.add(model)
        yield _status("success")

    async def push(self, asked: Asked) -> Steps:
        name = asked.get("model") or asked.get("name") or ""
        if not name:
            raise RefusalError(400, "model is required")
        yield _status("retrieving manifest")
        if self._catalogue.find(name) is None:
            yield _status("couldn't retrieve manifest")
            yield {"error": "file does not exist"}
            return
        for text in ("pushing manifest", "success"):
            yield _status(text)

    async def receive(self, request: web.Request) -> web.Response:
        digest, size, hasher, head = _digest(request), 0, sha256(), b""
        if not digest:
            return json_answer({"error": "invalid digest format"}, 400)
        if digest in self._blobs:
            return web.Response()
        async for chunk in request.content.iter_any():
            size, head = size + len(chunk), (head + chunk)[: len(GGUF)]
            hasher.update(chunk)
        if (got := hasher.hexdigest()) != digest:
            text = f'digest mismatch, expected "sha256:{digest}", got "sha256:{got}"'
            return json_answer({"error": text}, 400)
        self._blobs[digest] = (size, head == GGUF)
        return web.Response(status=201)

    async def find(self, request: web.Request) -> web.Response:
        digest = _digest(request)
        if not digest:
            return json_answer({"error": "invalid digest format"}, 400)
        if digest not in self._blobs:
            return json_answer({"error": f'blob "sha256:{digest}" not found'}, 404)
        return web.Response()

    def _inherited(self, name: str) -> SimulatedModel:
        found = self._catalogue.find(name)
        if found is None:
            raise RefusalError(500, "pull model manifest: file does not exist")
        return found

    def _imported(self, files: Asked) -> SimulatedModel:
        digest = str(next(iter(files.values()))).removeprefix("sha256:")
        if digest not in self._blobs:
            raise RefusalError(500, f"open models/blobs/sha256-{digest}: no such file or directory")
        size, is_model = self._blobs[digest]
        if not is_model:
            raise RefusalError(400, "supplied file was not in GGUF format")
        return SimulatedModel(digest, size=size, weights=digest)


def _own(base: SimulatedModel, asked: Asked) -> dict[str, Any]:
    """What a new model says differently from that which it is made of."""
    parameters = {**base.parameters, **asked.get("parameters", {})}
    parent = base.full_name if asked.get("from") else ""
    return {"parameters": parameters, "system": asked.get("system") or base.system, "parent": parent}


def _valid_name(asked: Asked) -> str:
    name: str = asked.get("model") or asked.get("name") or ""
    if not is_valid(name):
        raise RefusalError(400, "invalid model name")
    return name


def _status(text: str) -> Step:
    return {"status": text}


def _failure(refused: RefusalError) -> Step:
    return {"error": refused.message, **({"status": refused.status} if refused.status != 500 else {})}


def _digest(request: web.Request) -> str:
    match = _DIGEST.fullmatch(request.match_info["digest"])
    return match[1] if match else ""


def _colon(blob: str) -> str:
    return blob.replace("-", ":", 1)
