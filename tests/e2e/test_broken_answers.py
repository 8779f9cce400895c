"""Answers that break, stop or come oddly: what the client sees, that its place is given back, and that all goes on."""

import asyncio
import json
import random
from typing import Any

import aiohttp
import pytest

from swapper_proxy.ollama import pool
from swapper_proxy.ollama.simulator import Answers
from tests.e2e.conftest import Client, busy, until, waits
from tests.e2e.faulty import MESSAGES, faulty, healthy, is_served, text_of

BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 8}},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 8},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 8},
}
ENDS = (b"[DONE]", b"message_stop", b'"done":true')
LIMITS = {"first_byte_timeout": 0.5, "idle_timeout": 0.5}

pytestmark = pytest.mark.usefixtures("own_time")
paths = pytest.mark.parametrize("path", BODIES)
streams = pytest.mark.parametrize("stream", [True, False])


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is looked for often."""
    monkeypatch.setattr(pool, "LOOK_S", 0.05)


def asking(proxy: Client, path: str, stream: bool) -> Any:
    return proxy.session.post(proxy.url + path, json={"model": "alpha", "stream": stream, **BODIES[path]})


async def broken_off(answer: aiohttp.ClientResponse) -> bytes:
    """What came of an answer that has begun, and does not end."""
    assert answer.status == 200
    content = b""
    try:
        async for piece in answer.content.iter_any():
            content += piece
    except aiohttp.ClientPayloadError:
        return content
    raise AssertionError("it ended")


@paths
@streams
@pytest.mark.parametrize(
    ("answers", "status", "says"),
    [
        (Answers.RESET, 502, "Ollama is not reachable: "),
        (Answers.GARBAGE, 502, "Ollama is not reachable: what answers is no HTTP/1.1"),
        (Answers.SILENT, 504, "Ollama does not answer: nothing came for 0.5 s"),
    ],
)
async def test_before_the_first_byte(session, path: str, stream: bool, answers: Answers, status: int, says: str):
    async with faulty(session, limits=LIMITS) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.answers = answers
        async with asking(proxy, path, stream) as answer:
            assert (answer.status, answer.content_type) == (status, "application/json")
            assert text_of(path, await answer.json()).startswith(says)
        assert (await proxy.status())["in_flight"] == 0
        assert await healthy(proxy)  # it tells its version: it is there
        code = "upstream_timeout" if status == 504 else "upstream_unreachable"
        assert await proxy.metric("swapper_rejected_requests_total", reason=code) == 1
        faults.answers = Answers.WHOLE
        await is_served(proxy)


class Dice(random.Random):
    """How often answers were about to break."""

    thrown = 0

    def random(self) -> float:
        self.thrown += 1
        return 0.0


@paths
@streams
async def test_before_the_first_byte_it_has_run_and_is_not_sent_again(session, path: str, stream: bool):
    async with faulty(session) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200  # on a connection that is kept
        faults.dice, faults.answers = Dice(), Answers.RESET
        async with asking(proxy, path, stream) as answer:
            assert answer.status == 502
        assert faults.dice.thrown == 1
        faults.answers = Answers.WHOLE
        await is_served(proxy)


@paths
@streams
@pytest.mark.parametrize("answers", [Answers.RESET_INSIDE, Answers.CLOSED_INSIDE, Answers.SILENT_INSIDE])
async def test_in_the_middle(session, path: str, stream: bool, answers: Answers):
    async with faulty(session, limits=LIMITS) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.answers = answers
        async with asking(proxy, path, stream) as answer:
            content = await broken_off(answer)
        assert not stream or not any(end in content for end in ENDS)
        faults.answers = Answers.WHOLE
        await is_served(proxy)


@pytest.mark.parametrize("answers", [Answers.SILENT, Answers.SILENT_INSIDE])
async def test_a_model_that_falls_silent_is_loaded_anew(session: aiohttp.ClientSession, answers: Answers) -> None:
    """Once, and after the answers that others get from it."""
    async with faulty(session, limits=LIMITS) as (proxy, _, faults), busy(proxy, "alpha") as stream:
        faults.answers = answers
        await asyncio.gather(*(proxy.generate("alpha") for _ in range(3)), return_exceptions=True)
        faults.answers = Answers.WHOLE
        behind = asyncio.create_task(proxy.generate("alpha"))
        await waits(proxy, 1)
        assert json.loads(await stream.content.readline())["done"] is False
        stream.close()
        assert (await behind)[0] == 200
        counts = [await proxy.metric(f"swapper_{what}_seconds_count") for what in ("unload", "load")]
        assert counts == [1, 2]


async def test_a_model_that_answers_others_meanwhile_stays(session: aiohttp.ClientSession) -> None:
    thrown = asyncio.Event()

    class Dice(random.Random):
        def random(self) -> float:
            thrown.set()
            return super().random()

    async with faulty(session, limits=LIMITS) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.dice, faults.answers = Dice(), Answers.SILENT
        silent = asyncio.create_task(proxy.generate("alpha"))
        await thrown.wait()
        faults.answers = Answers.WHOLE
        assert (await proxy.generate("alpha"))[0] == 200
        assert (await silent)[0] == 504
        await is_served(proxy, "alpha")
        assert await proxy.metric("swapper_load_seconds_count") == 1


async def test_a_load_is_no_answer(session: aiohttp.ClientSession) -> None:
    """Ollama gives it without asking the model."""
    async with faulty(session, limits=LIMITS) as (proxy, _, faults), busy(proxy, "alpha") as stream:
        faults.answers = Answers.SILENT
        silent = asyncio.create_task(proxy.generate("alpha"))

        async def both() -> bool:
            return (await proxy.status())["in_flight"] == 2

        await until(both)
        assert (await proxy.post("/api/generate", {"model": "alpha"}))[0] == 200
        assert (await silent)[0] == 504
        faults.answers = Answers.WHOLE
        stream.close()
        await is_served(proxy, "alpha")
        assert await proxy.metric("swapper_load_seconds_count") == 2


async def test_what_a_silent_stream_says_at_its_end(session: aiohttp.ClientSession) -> None:
    async with faulty(session, limits=LIMITS) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.answers = Answers.SILENT_INSIDE
        async with asking(proxy, "/api/chat", True) as answer:
            content = await broken_off(answer)
        assert content.endswith(b'{"error":"Ollama broke off: nothing came for 0.5 s"}\n')


@paths
async def test_less_than_was_promised(session, path: str) -> None:
    async with faulty(session) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.answers = Answers.TOO_SHORT
        async with asking(proxy, path, False) as answer:
            await broken_off(answer)
        faults.answers = Answers.WHOLE
        await is_served(proxy)


@paths
async def test_more_than_was_promised(session, path: str) -> None:
    """The client gets what was promised, and nobody the rest."""
    async with faulty(session) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.answers = Answers.TOO_LONG
        async with asking(proxy, path, False) as answer:
            assert len(await answer.read()) == answer.content_length
        faults.answers = Answers.WHOLE
        async with asking(proxy, path, False) as answer:
            assert (answer.status, "usage" in await answer.json() or path == "/api/chat") == (200, True)
        await is_served(proxy)


@paths
@streams
async def test_byte_by_byte(session, path: str, stream: bool) -> None:
    async with faulty(session) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.answers = Answers.BYTEWISE
        async with asking(proxy, path, stream) as answer:
            content = await answer.read()
        if stream:
            assert any(end in content for end in ENDS)
        else:
            assert json.loads(content)
        await is_served(proxy)


async def test_the_others_go_on_beside_one_that_is_silent(session: aiohttp.ClientSession) -> None:
    async with faulty(session, limits={"idle_timeout": 0.5}) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.answers = Answers.SILENT_INSIDE
        async with asking(proxy, "/api/chat", True) as stuck:
            await stuck.content.readany()
            faults.answers = Answers.WHOLE
            for status, _answer in await asyncio.gather(*(proxy.generate("alpha") for _ in range(8))):
                assert status == 200
            other = asyncio.create_task(proxy.generate("beta"))  # once the silent one has been given up
            await broken_off(stuck)
            assert (await other)[0] == 200
        await is_served(proxy)


async def test_a_burst_of_503(session: aiohttp.ClientSession) -> None:
    async with faulty(session) as (proxy, _, faults):
        assert (await proxy.generate("alpha"))[0] == 200
        faults.busy = 20
        answers = await asyncio.gather(*(proxy.generate("alpha") for _ in range(30)))
        assert sorted(status for status, _ in answers) == [200] * 10 + [503] * 20
        assert {a["error"] for status, a in answers if status == 503} == {
            "server busy, please try again.  maximum pending requests exceeded"
        }
        await is_served(proxy)
