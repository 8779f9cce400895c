"""Which runner options make Ollama load a resident model again.

A model is loaded with a long keep_alive first.  That sticks to the runner, and a new runner starts with the default:
so the expiry tells, without a look at any clock, whether there was a second load.
"""

from datetime import timedelta
from typing import Any

import pytest

from tests.contract.asking import Ask

Options = dict[str, Any]
CTX_512 = {"num_ctx": 512}
MESSAGE = [{"role": "user", "content": "x"}]


async def load(ask: Ask, options: Options, model: str = "alpha") -> None:
    assert (await ask.generate(model, options=options, keep_alive="2h")).status == 200


async def reloaded(ask: Ask) -> bool:
    return await ask.expiry() < timedelta(minutes=100)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        (CTX_512, CTX_512),
        (CTX_512, {"num_ctx": 512.9}),
        ({}, {"temperature": 0, "seed": 1, "top_k": 3, "num_keep": 5, "stop": ["x"], "num_predict": 1}),
        ({"num_gpu": 0}, {}),
        ({}, {"num_gpu": -1, "num_batch": 512, "main_gpu": 0, "num_thread": 1, "use_mmap": None, "nonsense": 1}),
    ],
)
async def test_no_reload(ask: Ask, first: Options, second: Options) -> None:
    await load(ask, first)
    assert (await ask.generate("alpha", options=second)).status == 200
    assert not await reloaded(ask)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"num_ctx": 1024}, {}),
        ({}, {"num_ctx": 1024}),
        (CTX_512, {"num_ctx": 1024}),
        ({"num_gpu": 0}, {"num_gpu": 1}),
        ({"num_thread": 2}, {}),
        ({"num_batch": 64}, {}),
        ({"main_gpu": 1}, {}),
        ({"use_mmap": True}, {}),
        ({}, {"use_mmap": False}),
    ],
)
async def test_reload(ask: Ask, first: Options, second: Options) -> None:
    await load(ask, first)
    assert (await ask.generate("alpha", options=second)).status == 200
    assert await reloaded(ask)


async def test_the_modelfile_counts_as_the_request_does(ask: Ask) -> None:
    await load(ask, CTX_512, "alpha")
    await ask.generate("alpha-512")
    assert not await reloaded(ask)
    await ask.generate("alpha")
    assert await reloaded(ask)


async def test_a_load_and_then_a_question(ask: Ask) -> None:
    await load(ask, {})
    await ask.post("/api/chat", {"model": "alpha", "messages": MESSAGE})
    await ask.post("/api/embed", {"model": "alpha", "input": "x"})
    await ask.post("/api/embeddings", {"model": "alpha", "prompt": "x"})
    assert not await reloaded(ask)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGE, "max_tokens": 1}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1}),
        ("/v1/embeddings", {"input": "x"}),
    ],
)
async def test_openai_paths_ignore_options(ask: Ask, path: str, body: dict[str, Any]) -> None:
    await load(ask, {})
    assert (await ask.post(path, {"model": "alpha", "options": {"num_ctx": 1024}, **body})).status == 200
    assert not await reloaded(ask)


@pytest.mark.parametrize("path", ["/api/chat", "/api/embed", "/api/embeddings"])
async def test_every_native_path_takes_options(ask: Ask, path: str) -> None:
    await load(ask, {})
    assert (await ask.post(path, {"model": "alpha", "options": CTX_512})).status == 200
    assert await reloaded(ask)


async def test_a_reload_waits_for_the_answer_in_flight(ask: Ask) -> None:
    await load(ask, {})
    async with ask.streaming("alpha", 200) as stream:
        await ask.generate("alpha", options=CTX_512)
        rest = await stream.read()
    assert rest.rstrip().endswith(b"}")
    assert b'"eval_count":200' in rest
