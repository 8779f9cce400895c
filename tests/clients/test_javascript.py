"""The package `ollama` for JavaScript, on Node."""

import asyncio
import json
from pathlib import Path

from tests.clients import node
from tests.clients.conftest import counts
from tests.e2e.conftest import Client, at_rest

ANSWERS = {name: [name, "length", 16] for name in ("alpha", "beta")}


async def test_the_ollama_package(proxy: Client, ollama: Client, tmp_path: Path) -> None:
    found = json.loads(await asyncio.to_thread(node.run, "work.mjs", tmp_path, proxy.url))
    assert found["chat"] == [ANSWERS[name] for name in ("alpha", "beta", "alpha")]
    assert found["streams"] == [[True, 1, ANSWERS[name]] for name in ("beta", "alpha")]
    assert found["aborted"][0] == "AbortError"
    assert 3 <= found["partsBeforeTheAbort"] < 1000  # what had come already is still read
    assert found["together"] == [ANSWERS[name] for name in ("alpha", "beta") * 2]
    assert (found["embedded"], found["running"]) == ([64, 64], ["embedder:latest"])
    assert found["listed"] == sorted(model["name"] for model in (await ollama.get("/api/tags"))[1]["models"])
    assert found["shown"] == "be kind"
    await at_rest(proxy)
    assert await counts(proxy) == {"first": 6, "team/second:v1": 4, "embedder:latest": 1}
    assert await proxy.metric("swapper_load_seconds_count") >= 6


async def test_errors_are_those_of_ollama(proxy: Client, ollama: Client, tmp_path: Path) -> None:
    through, direct = [
        json.loads(await asyncio.to_thread(node.run, "errors.mjs", folder(tmp_path / name), url))
        for name, url in (("through", proxy.url), ("direct", ollama.url))
    ]
    assert through == direct
    assert {name: error[:2] for name, error in through.items()} == {
        "unknown": ["ResponseError", 404],
        "unknownStream": ["ResponseError", 404],
        "unsupported": ["ResponseError", 400],
        "unshown": ["ResponseError", 404],
    }
    assert await proxy.metric("swapper_load_seconds_count") == 0


def folder(path: Path) -> Path:
    path.mkdir()
    return path
