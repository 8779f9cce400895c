"""Answering: the checks in Ollama's order, then memory, then tokens at the model's speed."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from aiohttp import web

from swapper_proxy.ollama.simulator.catalogue import Catalogue, SimulatedModel, is_valid
from swapper_proxy.ollama.simulator.memory import Memory, Runner
from swapper_proxy.ollama.simulator.options import Options, effective
from swapper_proxy.ollama.simulator.requests import RefusalError

WORDS = ("Once", " upon", " a", " time", " a", " model", " was", " loaded", ",", " and", " it", " stayed", ".", "\n")
NATURAL_LENGTH = 42  # tokens of an answer that nobody limits
DIMENSIONS = 8
NOT_LOADED = "unexpected server status: llm server loading model"
NO_AUDIO = "this model is missing data required for image input"  # recordings are handed over as images are
PICTURE = (  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


class Generation:
    """One answer in the making, and what it has cost so far."""

    def __init__(self, speed: float, prompt: str, num_predict: int, began_ns: int) -> None:
        self.speed = speed
        self.prompt_tokens = 1 + len(prompt.split())
        self.tokens = num_predict if num_predict > 0 else NATURAL_LENGTH
        self.reason = "length" if num_predict > 0 else "stop"
        self.began_ns = began_ns
        self.loaded_ns = time.perf_counter_ns()

    async def words(self) -> AsyncIterator[str]:
        """Each word when it is due, whatever the receiver's pace has been."""
        clock = asyncio.get_running_loop().time
        start, step = clock(), 1 / self.speed if self.speed > 0 else 0.0
        for index in range(self.tokens):
            await asyncio.sleep(max(0.0, start + (index + 1) * step - clock()))
            yield WORDS[index % len(WORDS)]

    def costs(self) -> dict[str, int]:
        """The counts and durations (ns) of the last line, in Ollama's order."""
        now = time.perf_counter_ns()
        prompt_ns = min(1_000_000, (now - self.loaded_ns) // 10)
        return {
            "total_duration": now - self.began_ns,
            "load_duration": self.loaded_ns - self.began_ns,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": prompt_ns,
            "eval_count": self.tokens,
            "eval_duration": now - self.loaded_ns - prompt_ns,
        }


class Dialect(Protocol):
    """How one endpoint writes an answer."""

    json_type: str
    stream_headers: Mapping[str, str]

    def opening(self, generation: Generation, /) -> bytes:
        """What comes before the first token of a stream."""

    def token(self, text: str, /) -> bytes:
        """One token of a stream."""

    def closing(self, generation: Generation, /) -> bytes:
        """The end of a stream."""

    def whole(self, generation: Generation, text: str, /) -> bytes:
        """An answer in one piece."""

    def nothing(self, reason: str, streamed: bool, /) -> tuple[str, bytes]:
        """Content type and body where nothing was generated: reason is `load` or `unload`."""

    def broken(self) -> bytes | None:
        """The stream of a runner that went away while it was loading; None is a plain error."""


class Inference:
    """What both native and OpenAI endpoints come down to."""

    def __init__(self, catalogue: Catalogue, memory: Memory) -> None:
        self._catalogue = catalogue
        self._memory = memory

    async def generate(self, request: web.Request, asked: Mapping[str, Any], dialect: Dialect) -> web.StreamResponse:
        prompt = str(asked.get("prompt", ""))
        model = self._known(str(asked.get("model", "")))
        if not prompt and unloads(asked):
            return await self._unload(model, dialect)
        if asked.get("raw") and any(asked.get(key) for key in ("template", "system", "context")):
            raise RefusalError(400, "raw mode does not support template, system, or context")
        _require(model, "generate", asked, insert=bool(asked.get("suffix")), thinking=bool(asked.get("think")))
        return await self._run(request, model, {**asked, "prompt": prompt}, dialect)

    async def chat(self, request: web.Request, asked: Mapping[str, Any], dialect: Dialect) -> web.StreamResponse:
        messages = asked.get("messages", [])
        name = str(asked.get("model", ""))
        if not messages and unloads(asked):
            return await self._unload(self._known(name), dialect)
        model = self._named(name)
        _require(model, "chat", asked, tools=bool(asked.get("tools")), thinking=bool(asked.get("think")))
        prompt = " ".join(str(message.get("content", "")) for message in messages) or " " * len(messages)
        return await self._run(request, model, {**asked, "prompt": prompt}, dialect)

    async def embed(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of /api/embed."""
        began = time.perf_counter_ns()
        texts = _texts(asked.get("input", []))
        name = str(asked.get("model", ""))
        model = self._catalogue.find(name) or _unknown(name)
        async with self._resident(model, asked) as runner:
            answer: dict[str, Any] = {"model": name, "embeddings": []}
            if not texts:
                return answer
            loaded = time.perf_counter_ns()
            answer["embeddings"] = [await _embedding(runner, text) for text in texts]
            now = time.perf_counter_ns()
            durations = {"total_duration": now - began, "load_duration": loaded - began}
            return {**answer, **durations, "prompt_eval_count": sum(1 + text.count(" ") for text in texts)}

    async def embeddings(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the legacy /api/embeddings."""
        name, prompt = str(asked.get("model", "")), str(asked.get("prompt", ""))
        if not is_valid(name):
            raise RefusalError(400, "model is required")
        async with self._resident(self._catalogue.find_exact(name) or _unknown(name), asked) as runner:
            return {"embedding": await _embedding(runner, prompt) if prompt else []}

    async def transcribe(self, name: str) -> str:
        """What is said in a recording.  That a model has no ears shows once it is loaded."""
        model = self._named(name)
        _require(model, "chat", {"model": name})
        async with self._resident(model, {}) as runner:
            if runner.aborted or "audio" not in model.capabilities:
                raise RefusalError(500, NOT_LOADED if runner.aborted else NO_AUDIO)
            return (await _text(Generation(model.tokens_per_second, "", 0, time.perf_counter_ns()))).strip()

    async def illustrate(self, asked: Mapping[str, Any]) -> str | None:
        """A picture in base64; None of a model that writes text."""
        model = self._known(str(asked["model"]))
        async with self._resident(model, asked) as runner:
            if runner.aborted:
                raise RefusalError(500, NOT_LOADED)
            await _text(Generation(model.tokens_per_second, "", 0, time.perf_counter_ns()))
            return PICTURE if model.paints else None

    def _resident(self, model: SimulatedModel, asked: Mapping[str, Any]) -> AbstractAsyncContextManager[Runner]:
        options = _options(model, asked).runner
        if model.remote_host:
            return nullcontext(Runner(model, options, 0))
        return self._memory.use(model, options, asked.get("keep_alive"))

    def _known(self, name: str) -> SimulatedModel:
        model = self._catalogue.find(name)
        if model is None:
            raise RefusalError(404, f"model '{name}' not found")
        return model

    def _named(self, name: str) -> SimulatedModel:
        if not is_valid(name):
            raise RefusalError(400, "model is required")
        return self._catalogue.find(name) or _unknown(name)

    async def _unload(self, model: SimulatedModel, dialect: Dialect) -> web.Response:
        await self._memory.expire(model)
        return _nothing(dialect, "unload", False)

    async def _run(
        self, request: web.Request, model: SimulatedModel, asked: Mapping[str, Any], dialect: Dialect
    ) -> web.StreamResponse:
        began = time.perf_counter_ns()
        options, streamed = _options(model, asked), bool(asked.get("stream", True))
        async with self._resident(model, asked) as runner:
            if not asked["prompt"]:
                return _nothing(dialect, "load", streamed)
            if runner.aborted:
                return _broken(dialect, streamed)
            generation = Generation(model.tokens_per_second, asked["prompt"], options.num_predict, began)
            return await (_stream(request, generation, dialect) if streamed else _whole(generation, dialect))


def unloads(asked: Mapping[str, Any]) -> bool:
    """A keep_alive of less than a second, together with nothing to answer, is an unload."""
    keep_alive = asked.get("keep_alive")
    return keep_alive is not None and not math.isinf(keep_alive) and int(keep_alive) == 0


def _options(model: SimulatedModel, asked: Mapping[str, Any]) -> Options:
    return effective(model.parameters, asked.get("options") or {})


def _unknown(name: str) -> SimulatedModel:
    raise RefusalError(404, f'model "{name}" not found, try pulling it first')


def _require(model: SimulatedModel, task: str, asked: Mapping[str, Any], **wanted: bool) -> None:
    if model.embedding_only or (model.paints and task == "chat"):
        raise RefusalError(400, f'"{asked["model"]}" does not support {task}')
    missing = [name for name, needed in wanted.items() if needed and name not in model.capabilities]
    if missing:
        path = model.full_name if "/" in model.full_name else f"library/{model.full_name}"
        raise RefusalError(400, f"registry.ollama.ai/{path} does not support " + "\n".join(missing))


def _texts(given: object) -> list[str]:
    if isinstance(given, str):
        return [given] if given else []
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        return given
    raise RefusalError(400, "invalid input type")


async def _embedding(runner: Runner, text: str) -> list[float]:
    if runner.aborted:
        raise RefusalError(500, NOT_LOADED)
    speed = runner.model.tokens_per_second
    await asyncio.sleep(1 / speed if speed > 0 else 0)
    seed = sum(text.encode()) + len(text)
    vector = [math.sin(seed + index) for index in range(DIMENSIONS)]
    length = math.hypot(*vector)
    return [round(value / length, 7) for value in vector]


def _nothing(dialect: Dialect, reason: str, streamed: bool) -> web.Response:
    content_type, body = dialect.nothing(reason, streamed)
    return web.Response(body=body, headers={"Content-Type": content_type})


def _broken(dialect: Dialect, streamed: bool) -> web.Response:
    body = dialect.broken() if streamed else None
    if body is None:
        raise RefusalError(500, NOT_LOADED)
    return web.Response(body=body, headers=dialect.stream_headers)


async def _stream(request: web.Request, generation: Generation, dialect: Dialect) -> web.StreamResponse:
    response = web.StreamResponse(headers=dialect.stream_headers)
    pending = dialect.opening(generation)  # the head goes out with the first token, as in the real one
    async for word in generation.words():
        if not response.prepared:
            await response.prepare(request)
        await response.write(pending + dialect.token(word))
        pending = b""
    await response.write(dialect.closing(generation))
    await response.write_eof()
    return response


async def _whole(generation: Generation, dialect: Dialect) -> web.Response:
    text = await _text(generation)
    return web.Response(body=dialect.whole(generation, text), headers={"Content-Type": dialect.json_type})


async def _text(generation: Generation) -> str:
    return "".join([word async for word in generation.words()])
