"""The examples of docs/http-api.md, carried out."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import History, Model, Server, Settings, Upstream
from swapper_proxy.core.forecast import Why
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, at_rest, busy, until, waits

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
CALL = re.compile(r"```\ncurl (?:-X (\w+) )?('?)http://127\.0\.0\.1:8890(\S+?)\2\n```\n```json\n(.*?)```", re.DOTALL)
EXAMPLES = [(method, path, answer) for method, _, path, answer in CALL.findall(PAGE)]
MODELS = {
    "mistral-7b": Model(path="ollama:mistral:7b", size_gb=4.1),
    "deepseek-r1-70b": Model(path="ollama:deepseek-r1:70b", size_gb=42, priority="high"),
}


@pytest.fixture
async def example(session: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Client]:
    """A proxy whose first model answers somebody, while somebody else waits for the second."""
    simulator = Simulator([SimulatedModel(model.ollama_name, 1000, 0.01, 500.0) for model in MODELS.values()])
    async with serving(simulator) as url:
        kept = History(path=str(tmp_path / "history.sqlite"))
        chosen = Settings(server=Server(port=0), upstream=Upstream(url=url), models=MODELS, history=kept)
        async with running(chosen) as running_proxy:
            proxy = Client(session, running_proxy.url)
            assert (await proxy.generate("mistral-7b"))[0] == 200
            assert (await proxy.post("/api/generate", {"model": "x"}, **{"X-Swapper-Priority": "?"}))[0] == 400
            async with busy(proxy, "mistral-7b"):
                waiting = asyncio.create_task(proxy.generate("deepseek-r1-70b"))
                await waits(proxy, 1)
                await until(lambda: all_is_kept(proxy))
                yield proxy
            assert (await waiting)[0] == 200
            await at_rest(proxy)


async def all_is_kept(proxy: Client) -> bool:
    """Of what has happened by now, so that pages with one item have a next one."""
    expected = {"requests": 1, "swaps": 1, "states": 2, "problems": 1}
    return expected == {name: len((await proxy.get(f"/history/{name}"))[1][name]) for name in expected}


def shape(value: Any) -> Any:
    """Keys and types; of a list the first item stands for all."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if type(value) in (int, float) else type(value).__name__


@pytest.mark.parametrize(("method", "path", "answer"), EXAMPLES)
async def test_an_example_answers_as_shown(method: str, path: str, answer: str, example: Client) -> None:
    ask = example.post if method == "POST" else example.get
    status, content = await ask(path)
    shown = json.loads(answer)
    assert shape(content) == shape(shown)
    assert status == {"error": 404, "accepted": 202}.get(shown.get("status"), 200)


def test_all_that_is_shown_is_carried_out() -> None:
    assert len(EXAMPLES) == PAGE.count("```json") == PAGE.count("\ncurl ")


def test_what_a_shell_would_read_is_quoted() -> None:
    """zsh takes a bare ? for a pattern, every shell a bare & for an end."""
    assert all(quote for _, quote, path, _ in CALL.findall(PAGE) if re.search(r"[?&]", path))


def test_every_reason_to_wait_is_explained() -> None:
    table = PAGE.split("| `why` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [why.value for why in Why]
