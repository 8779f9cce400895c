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
from swapper_proxy.config import Model, Server, Settings, Upstream
from swapper_proxy.core.forecast import Why
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, at_rest, busy, waits

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```\ncurl (?:-X (\w+) )?http://127\.0\.0\.1:8890(\S+)\n```\n```json\n(.*?)```", PAGE, re.DOTALL)
MODELS = {
    "mistral-7b": Model(path="ollama:mistral:7b", size_gb=4.1),
    "deepseek-r1-70b": Model(path="ollama:deepseek-r1:70b", size_gb=42, priority="high"),
}


@pytest.fixture
async def example(session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    """A proxy whose first model answers somebody, while somebody else waits for the second."""
    simulator = Simulator([SimulatedModel(model.ollama_name, 1000, 0.01, 500.0) for model in MODELS.values()])
    async with serving(simulator) as url:
        chosen = Settings(server=Server(port=0), upstream=Upstream(url=url), models=MODELS)
        async with running(chosen) as running_proxy:
            proxy = Client(session, running_proxy.url)
            assert (await proxy.generate("mistral-7b"))[0] == 200
            async with busy(proxy, "mistral-7b"):
                waiting = asyncio.create_task(proxy.generate("deepseek-r1-70b"))
                await waits(proxy, 1)
                yield proxy
            assert (await waiting)[0] == 200
            await at_rest(proxy)


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
    assert len(EXAMPLES) == PAGE.count("```json") == PAGE.count("curl http") + PAGE.count("curl -X")


def test_every_reason_to_wait_is_explained() -> None:
    table = PAGE.split("| `why` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [why.value for why in Why]
