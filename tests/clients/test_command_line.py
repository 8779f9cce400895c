"""The command `ollama` itself, with OLLAMA_HOST pointing at the proxy."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from subprocess import CompletedProcess

import pytest

from tests.clients.conftest import counts, loading
from tests.e2e.conftest import Client, at_rest
from tests.real.models import Weights
from tests.real.server import OllamaServer

Run = Callable[..., Awaitable[CompletedProcess[str]]]
NOWHERE = "127.0.0.1:9/library/never-pulled"  # a registry that refuses at once, also on a machine without a network


@pytest.fixture
def run(ollama_server: OllamaServer, proxy: Client) -> Run:
    """The command through the proxy."""

    async def through_the_proxy(*arguments: str) -> CompletedProcess[str]:
        return await asyncio.to_thread(ollama_server.run, *arguments, url=proxy.url)

    return through_the_proxy


async def succeeds(run: Run, *arguments: str) -> str:
    """What it printed."""
    done = await run(*arguments)
    assert (done.returncode, error(done)) == (0, "")
    return done.stdout


def error(done: CompletedProcess[str]) -> str:
    """What stderr says apart from the spinner, which draws more or less of itself."""
    return "".join(line for line in done.stderr.splitlines(keepends=True) if "Error:" in line).partition("Error:")[2]


def names(table: str) -> list[str]:
    """The first column."""
    return [line.split()[0] for line in table.splitlines()[1:]]


async def test_two_models_in_turn(run: Run, proxy: Client) -> None:
    async with loading(proxy, 3):
        for model in ("alpha", "beta", "alpha"):
            await succeeds(run, "run", model, "Why is the sky blue?")
            assert names(await succeeds(run, "ps")) == [f"{model}:latest"]
    assert await counts(proxy) == {"first": 2, "team/second:v1": 1}  # its empty requests only load
    assert await proxy.metric("swapper_generated_tokens_total") == 3 * 16
    status = await proxy.status()
    assert (status["active_model"], [r["model"] for r in status["memory"]]) == ("first", ["first"])


async def test_three_at_once(run: Run, proxy: Client) -> None:
    await asyncio.gather(*(succeeds(run, "run", model, "x") for model in ("alpha", "beta", "gamma")))
    assert await proxy.metric("swapper_generated_tokens_total") == 3 * 16
    assert await counts(proxy) == {"first": 1, "team/second:v1": 1, "gamma:latest": 1}


async def test_an_answer_and_its_numbers(run: Run) -> None:
    assert (await succeeds(run, "run", "alpha", "x", "--format", "json")).startswith("{")
    done = await run("run", "alpha", "x", "--verbose")
    assert done.returncode == 0
    assert re.search(r"eval count: +16 token", done.stderr)
    assert re.search(r"load duration: +\d", done.stderr)


async def test_stop(run: Run, proxy: Client) -> None:
    await succeeds(run, "run", "alpha", "x", "--keepalive", "1h")
    assert "59 minutes from now" in await succeeds(run, "ps")
    await succeeds(run, "stop", "alpha")
    assert names(await succeeds(run, "ps")) == []
    assert (await proxy.status())["loaded_models"] == []
    async with loading(proxy, 1):
        await succeeds(run, "run", "alpha", "x")
        await at_rest(proxy)


PARTS = ("--modelfile", "--parameters", "--template", "--system", "--license", "--verbose")


@pytest.mark.parametrize("arguments", [("show", "alpha-kind"), *(("show", part, "alpha-kind") for part in PARTS)])
async def test_show_prints_what_it_prints_directly(run: Run, ollama_server: OllamaServer, arguments) -> None:
    direct = await asyncio.to_thread(ollama_server.run, *arguments)
    through = await run(*arguments)
    assert (through.returncode, through.stderr) == (0, direct.stderr)
    assert sorted(through.stdout.splitlines()) == sorted(direct.stdout.splitlines())  # parameters come in any order


async def test_list(run: Run, ollama_server: OllamaServer) -> None:
    def known(table: str) -> list[list[str]]:
        """Without how long ago, and in an order that does not depend on it."""
        return sorted(line.split()[:4] for line in table.splitlines())

    assert known(await succeeds(run, "list")) == known(await asyncio.to_thread(ollama_server.command, "list"))


async def test_create_copy_and_remove(run: Run, proxy: Client, ollama_server: OllamaServer, tmp_path, made) -> None:
    """The weights are new to Ollama, so they are uploaded through the proxy."""
    modelfile = tmp_path / "Modelfile"
    weights = ollama_server.weights(Weights(seed=21))
    modelfile.write_text(f"FROM {weights}\nPARAMETER num_predict 5\nSYSTEM be brief\n")
    await succeeds(run, "create", made[0], "-f", str(modelfile))
    await succeeds(run, "cp", *made)
    async with loading(proxy, 2):
        for model in ("alpha", made[1]):
            await succeeds(run, "run", model, "x")
    assert await succeeds(run, "show", "--system", made[1]) == "be brief"
    assert (await counts(proxy))[f"{made[1]}:latest"] == 1
    assert await succeeds(run, "rm", *made) == "".join(f"deleted '{name}'\n" for name in made)
    assert not {f"{name}:latest" for name in made} & set(names(await succeeds(run, "list")))
    assert (await run("show", made[0])).returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", NOWHERE, "x"),
        ("run", "embedder", "x"),
        ("run", "alpha", "x", "--keepalive", "nonsense"),
        ("show", "nope"),
        ("stop", "nope"),
        ("rm", "nope"),
        ("cp", "nope", "other"),
        ("create", "other", "-f", "/nowhere/Modelfile"),
        ("pull", NOWHERE),
        ("push", "nope"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
async def test_errors_are_those_of_ollama(run: Run, proxy: Client, ollama_server: OllamaServer, arguments) -> None:
    direct = await asyncio.to_thread(ollama_server.run, *arguments)
    through = await run(*arguments)
    assert (through.returncode, through.stdout, error(through)) == (1, direct.stdout, error(direct))
    assert error(through)
    assert await proxy.metric("swapper_load_seconds_count") == 0
