"""Large bodies: at no time are they in the proxy's memory more than twice."""

import gzip
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime.decoding import zstd
from tests.e2e.process import forget_peak, memory_mib, served
from tests.e2e.test_uploads import MIB, pieces

SIZE = 32 * MIB
MOST_TIMES = 1.5
CONFIG = {
    "models": {
        "model": {"path": "ollama:m", "type": "llm"},
        "pinned": {"path": "ollama:p", "type": "llm", "runner_options": {"policy": "pin", "num_ctx": 512}},
    },
    "routes": {"auto": [{"longer_than": SIZE // 2, "model": "model"}, {"model": "pinned"}]},
}
IMAGE = "A" * SIZE
TEXT = ("text," * 80 + "\n") * (SIZE // 402)
UMLAUTS = "ä" * (SIZE // 2)
ONE_OF_FOUR_BYTES = "\U0001f600" + TEXT
ESCAPED = '"\\' * (SIZE // 4)
Encode = Callable[[bytes], bytes]


def said(content: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content, **more}]}


def plain(body: object, *, ascii_only: bool = False) -> bytes:
    return json.dumps(body, ensure_ascii=ascii_only).encode()


def named(model: str, body: dict[str, object]) -> dict[str, object]:
    return {"model": model, "stream": False, "options": {"num_predict": 1}, **body}


BODIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "an image": ("/api/generate", lambda: plain(named("m", {"prompt": "x", "images": [IMAGE]}))),
    "images of messages": ("/api/chat", lambda: plain(named("m", said("x", images=[IMAGE[: SIZE // 2]] * 2)))),
    "a prompt": ("/api/generate", lambda: plain(named("m", {"prompt": TEXT}))),
    "a message": ("/api/chat", lambda: plain(named("m", said(TEXT)))),
    "a message to /v1": ("/v1/chat/completions", lambda: plain(named("m", said(TEXT)))),
    "escapes": ("/api/chat", lambda: plain(named("m", said(ESCAPED)))),
    "umlauts": ("/api/generate", lambda: plain(named("m", {"prompt": UMLAUTS}))),
    "a character of four bytes": ("/api/generate", lambda: plain(named("m", {"prompt": ONE_OF_FOUR_BYTES}))),
    "its halves": ("/api/chat", lambda: plain(named("m", said(ONE_OF_FOUR_BYTES)), ascii_only=True)),
    "other keys": ("/api/generate", lambda: plain(named("m", {"PROMPT": TEXT}))),
    "something behind it": ("/api/generate", lambda: plain(named("m", {"prompt": TEXT})) + b"\n{}"),
    "another name": ("/api/generate", lambda: plain(named("model", {"prompt": TEXT}))),
    "other options": ("/api/chat", lambda: plain(named("pinned", said(TEXT)))),
    "a route": ("/api/chat", lambda: plain(named("auto", said(TEXT)))),
    "use_llm": (
        "/api/chat",
        lambda: plain(named("x", said(TEXT, images=[IMAGE[:9]])) | {"metadata": {"use_llm": "m"}}),
    ),
}
ENCODINGS: dict[str, Encode] = {"gzip": lambda body: gzip.compress(body, 1), "zstd": zstd.compress}


@pytest.fixture
async def times(session: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Callable]:
    """How often a body was in memory, by the size that it has for Ollama."""
    models = [SimulatedModel(name, load_s=0, tokens_per_second=0) for name in ("m", "p")]
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(CONFIG))
    serve = ("--config", str(config))
    async with serving(Simulator(models)) as url, served(session, url, tmp_path, *serve) as (proxy, process):

        async def times(path: str, body: io.BytesIO | AsyncIterator[bytes], size: int, **headers: str) -> float:
            for name in ("m", "p"):
                assert (await proxy.generate(name))[0] == 200  # it is loaded, and all is imported
            forget_peak(process)
            before = memory_mib(process)
            async with session.post(proxy.url + path, data=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
            return (memory_mib(process, "VmHWM") - before) * MIB / size

        yield times


@pytest.mark.parametrize("kind", BODIES)
async def test_of_every_kind(times: Callable, kind: str) -> None:
    path, made = BODIES[kind]
    body = made()
    assert await times(path, io.BytesIO(body), len(body)) < MOST_TIMES


async def test_in_chunks(times: Callable) -> None:
    path, made = BODIES["a message"]
    body = made()
    assert await times(path, pieces(body, MIB), len(body)) < MOST_TIMES


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", ["an image", "a message"])
async def test_encoded(times: Callable, kind: str, encoding: str) -> None:
    path, made = BODIES[kind]
    body = made()
    headers = {"Content-Encoding": encoding}
    assert await times(path, io.BytesIO(ENCODINGS[encoding](body)), len(body), **headers) < MOST_TIMES
