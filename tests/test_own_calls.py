"""The proxy's own calls: answers that are none, have no end, or hold odd entries."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swapper_proxy.ollama import client as client_module
from swapper_proxy.ollama.client import MOST_OWN_BYTES, OllamaClient
from swapper_proxy.runtime.ports import LoadSpec, UpstreamRefused, UpstreamUnreachable


@asynccontextmanager
async def upstream(answers: list[bytes]) -> AsyncIterator[OllamaClient]:
    """A server that gives these answers one after the other; an empty one closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n") and (answer := answers.pop(0)):
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with OllamaClient(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.close()
        await server.wait_closed()


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def listed(*answers: bytes) -> list[str]:
    async with upstream(list(answers)) as client:
        return [entry.name for entry in (await client.running())[0]]


async def test_what_is_no_answer_to_a_question_comes_from_no_ollama() -> None:
    for status in (99, 204, 206, 302, 600, 999):
        with pytest.raises(UpstreamUnreachable):
            await listed(answer(status, b""))
    for body in (b"{}", b"[" * 100_000, b"\xff"):
        with pytest.raises(UpstreamUnreachable, match="is not an Ollama server"):
            await listed(answer(200, body))
    for status in (400, 404, 500, 520):
        with pytest.raises(UpstreamRefused):
            await listed(answer(status, b""))


async def test_what_is_read_as_a_whole_has_an_end() -> None:
    entry = b'{"name":"a","more":"%b"}' % (b"x" * MOST_OWN_BYTES)
    with pytest.raises(UpstreamUnreachable, match="its answer is longer than 16777216 bytes"):
        await listed(answer(200, b'{"models":[%b]}' % entry))
    assert await listed(answer(200, b'{"models":[%b]}' % entry.replace(b"x" * 1024, b""))) == ["a"]


async def test_entries_that_are_left_out_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    odd = answer(200, b'{"models":[{"name":"a"},{"size":5}]}')
    async with upstream([odd, odd, answer(200, b'{"models":[]}'), odd]) as client:
        assert [(await client.running())[1] for _ in range(4)] == [1, 1, 0, 1]
    assert [r.getMessage() for r in caplog.records] == 2 * [
        "/api/ps: 1 entries cannot be read; these models are ignored"
    ]


# What is shown of a model


VERSION = answer(200, b'{"version":"0"}')


def shown(**fields: object) -> bytes:
    return answer(200, json.dumps(fields).encode())


async def test_a_model_is_asked_for_again_if_a_kept_connection_closes() -> None:
    answers = [VERSION, b"", shown(modelfile="FROM /x/w")]
    async with upstream(answers) as client:
        await client.version()
        assert (await client.show("a")).runner == "w"
        assert answers == []


async def test_what_does_more_than_ask_is_not_sent_again() -> None:
    for act in (lambda client: client.unload("a"), lambda client: client.load(LoadSpec("a"))):
        answers = [VERSION, b"", VERSION]
        async with upstream(answers) as client:
            await client.version()
            with pytest.raises(UpstreamUnreachable):
                await act(client)
            assert answers == [VERSION]


async def test_metadata_nested_without_sense_is_a_model_of_unknown_size() -> None:
    depth = 600
    deep = "[" * depth + "]" * depth
    info = f'{{"general.architecture":"x","x.attention.head_count":{deep},"x.attention.head_count_kv":[{deep}]}}'
    async with upstream([answer(200, f'{{"modelfile":"FROM /x/w","model_info":{info}}}'.encode())]) as client:
        found = await client.show("a")
    assert (found.runner, found.context_bytes) == ("w", 0)


async def test_wrong_parameters_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    odd, odder = shown(parameters='num_ctx "abc"'), shown(parameters='num_ctx "abd"')
    async with upstream([odd, odd, odder, odder, shown(), odder, odd, shown(parameters='seed "x"\n' * 99)]) as client:
        for name in ("a", "a", "a", "a", "a", "a", "b", "c"):
            await client.show(name)
    told = [(r.model, r.getMessage().partition(": ")[2]) for r in caplog.records]
    abc, abd = "PARAMETER 'num_ctx \"abc\"'", "PARAMETER 'num_ctx \"abd\"'"
    assert told[:4] == [("a", abc), ("a", abd), ("a", abd), ("b", abc)]
    assert {model for model, _ in told[4:]} == {"c"}
    assert len(told[4:]) == client_module.MOST_WRONG
