"""What might reach Ollama without its turn: nothing that Ollama serves or unloads for goes past the scheduler."""

import asyncio
from typing import Any

import pytest

from swapper_proxy.config import Model
from tests.e2e.conftest import LIMIT_S, Client, configured, is_in

USER = [{"role": "user", "content": "x"}]
FEW = {"num_predict": 2}
BODIES: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "x", "stream": False, "options": FEW},
    "/api/chat": {"messages": USER, "stream": False, "options": FEW},
    "/api/embed": {"input": "x"},
    "/api/embeddings": {"prompt": "x"},
    "/v1/chat/completions": {"messages": USER, "max_tokens": 2},
    "/v1/completions": {"prompt": "x", "max_tokens": 2},
    "/v1/embeddings": {"input": "x"},
}
ODD: list[Any] = [None, True, 5, -1.5, "x", "", [], [{}], [None], [[1, 2]], {}, {"a": 1}]
FIELDS = ("suffix", "tools", "think", "images", "context", "format", "system", "template", "raw", "truncate", "user")
OPTIONS = ("mirostat", "seed", "stop", "num_ctx", "use_mmap", "low_vram", "unheard_of")


def bodies(path: str) -> list[dict[str, Any]]:
    """The ordinary body with every odd value in every field and option."""
    base = {"model": "alpha", **BODIES[path]}
    found = [base | {name: value} for name in FIELDS for value in ODD]
    if path.startswith("/api/"):
        found += [base | {"options": {**FEW, name: value}} for name in OPTIONS for value in ODD]
    return found


@pytest.mark.parametrize("path", BODIES)
async def test_what_is_served_was_granted(proxy: Client, path: str) -> None:
    await proxy.generate("alpha")
    limit = asyncio.Semaphore(8)

    async def ask(body: dict[str, Any]) -> tuple[int, bool, dict[str, Any]]:
        async with limit, proxy.session.post(proxy.url + path, json=body) as answer:
            await answer.read()
            return answer.status, "X-Swapper-Queue-Seconds" in answer.headers, body

    answers = await asyncio.gather(*map(ask, bodies(path)))
    assert [body for status, granted, body in answers if status == 200 and not granted] == []
    assert any(status == 200 for status, _, _ in answers)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/api/generate", {"options": {"num_ctx": "x"}}),
        ("/api/generate", {"raw": True, "system": "x"}),
        ("/api/generate", {"images": ["no base64"]}),
        ("/api/chat", {"options": {"num_ctx": "x"}}),
    ],
)
async def test_an_unload_with_something_wrong_is_an_unload(ollama: Client, path: str, more: dict[str, Any]) -> None:
    pinned = {"first": Model(path="ollama:alpha", pinned=True)}
    async with configured(ollama, pinned) as proxy:
        await is_in(proxy, "first", "loaded")
        assert (await proxy.post(path, {"model": "alpha", "keep_alive": 0, **more}))[0] == 409
        assert await ollama.resident() == ["alpha:latest"]


async def raw(client: Client, start: str, body: bytes) -> bytes:
    """What comes on the wire, until the server closes the connection."""
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(LIMIT_S):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("target", ["/api/generate#x", "/api/generate#", "/api/generate?a#b"])
async def test_a_fragment_hides_no_path(proxy: Client, ollama: Client, target: str) -> None:
    body = b'{"model":"alpha","prompt":"x","stream":false}'
    start = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    through, direct = [(await raw(c, start, body)).partition(b"\r\n")[0] for c in (proxy, ollama)]
    assert through == direct
    if b"404" in direct:
        assert await ollama.resident() == []


async def test_an_answer_to_an_old_client_ends(proxy: Client) -> None:
    body = b'{"model":"alpha","prompt":"x","options":{"num_predict":2}}'
    answer = await raw(proxy, "POST /api/generate HTTP/1.0\r\nConnection: keep-alive\r\n", body)
    assert answer.rstrip().endswith(b"}")


@pytest.mark.parametrize("header", [("Cookie", "x" * 30_000), ("X-Long", "y" * 60_000)])
async def test_long_headers(proxy: Client, header: tuple[str, str]) -> None:
    assert (await proxy.get("/api/version", **dict([header])))[0] == 200
