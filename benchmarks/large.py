"""Large bodies, most of which are refused, for `benchmarks.soak`: none may stay in memory."""

import asyncio
import gzip
import io
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from swapper_proxy.runtime.decoding import zstd

MIB = 1024 * 1024
BODY = 20 * MIB
MOST_BODY = 32 * MIB  # server.max_body_bytes
MOST_BUFFERED = 256 * MIB  # server.max_buffered_bytes
MOST_BESIDE = 200 * MIB  # of memory at any time beside the buffers and what the proxy has at its start
MOST_KEPT = 100 * MIB  # of memory at the end, more than at its start
CLIENTS = 3
PAUSE_S = 1.0
LEAVES_S = 0.3  # after so long
TROUBLE = {500, 502, 503, 504}
BROKEN = "broken"  # the model whose loads always fail
# Keys: any model; one only; none may wait.
KEYS = {"soak": "sk-of-the-soak", "narrow": "sk-narrow", "impatient": "sk-impatient"}
MANAGEMENT_KEY = "sk-soak-operator"


@dataclass(frozen=True)
class Kind:
    """A request, and the statuses that it may get.  `early`: the proxy may close before all of it has been sent."""

    body: bytes
    statuses: frozenset[int]
    key: str = KEYS["soak"]
    encoding: str = ""
    early: bool = False
    chunked: bool = False
    leaves: bool = False


def config(embedder: str) -> dict[str, Any]:
    """What the configuration needs for them."""
    more: dict[str, dict[str, Any]] = {"narrow": {"models": [embedder]}, "impatient": {"queued": 0}}
    clients = {name: {"key": key, **more.get(name, {})} for name, key in KEYS.items()}
    return {
        "server": {"max_body_bytes": MOST_BODY, "max_buffered_bytes": MOST_BUFFERED},
        "keys": {"clients": clients, "management": {"soak": {"key": MANAGEMENT_KEY}}},
    }


def body(model: str, size: int = BODY) -> bytes:
    head = b'{"model":"%s","stream":false,"options":{"num_predict":1},"prompt":"' % model.encode()
    return head + b"x" * size + b'"}'


def kinds(models: list[str]) -> dict[str, Kind]:
    """By what is wrong with them."""
    some = [body(model) for model in models[:3]]
    trouble, bomb = frozenset(TROUBLE), bytes(7 * BODY)
    return {
        "too large": Kind(body(models[0], MOST_BODY), frozenset({413}), early=True),
        "too large, in chunks": Kind(body(models[0], MOST_BODY), frozenset({413}), early=True, chunked=True),
        "zstd bomb": Kind(zstd.compress(bomb), frozenset({413}), encoding="zstd"),
        "gzip bomb": Kind(gzip.compress(bomb, compresslevel=1), frozenset({413}), encoding="gzip"),
        "unknown model": Kind(body("nobody-has-it"), trouble | {404}),
        "no key": Kind(some[0], frozenset({401}), key="", early=True),
        "a model of others": Kind(some[0], frozenset({403}), key=KEYS["narrow"], early=True),
        "queue full": Kind(some[1], trouble | {200, 429}, key=KEYS["impatient"]),
        "failing load": Kind(body(BROKEN), trouble | {404}),
        "leaves": Kind(some[2], trouble | {200}, leaves=True),
        "answered": Kind(some[0], trouble | {200}),
    }


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), MIB):
        yield content[at : at + MIB]


async def ask(session: aiohttp.ClientSession, url: str, kind: Kind) -> str:
    """What became of it, in a few words; WRONG if it should not have."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {kind.key}"} if kind.key else {})
    headers |= {"Content-Encoding": kind.encoding} if kind.encoding else {}
    content = _pieces(kind.body) if kind.chunked else io.BytesIO(kind.body)
    try:
        async with (
            asyncio.timeout(LEAVES_S if kind.leaves else None),
            session.post(f"{url}/api/generate", data=content, headers=headers) as answer,
        ):
            said = await answer.read()
    except TimeoutError:
        return "left" if kind.leaves else "WRONG: no answer in time"
    except aiohttp.ClientPayloadError:
        return "broken off"
    except aiohttp.ClientError as error:
        return "cut off" if kind.early else f"WRONG: no answer: {error!r}"
    if answer.status not in kind.statuses:
        return f"WRONG: status {answer.status}: {said[:200]!r}"
    return f"got {answer.status}"


async def asking(session: aiohttp.ClientSession, url: str, each: dict[str, Kind], seed: str, tally: Any) -> None:
    """Send one after the other until the others are done, and count in their tally."""
    dice = random.Random(seed)
    while not tally.over:
        name = dice.choice(list(each))
        end = await ask(session, url, each[name])
        tally.ends[f"large, {name}: {end}"] += 1
        if end.startswith("WRONG"):
            tally.wrong.append(f"large, {name}: {end}")
        await asyncio.sleep(PAUSE_S)
