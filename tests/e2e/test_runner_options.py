"""runner_options on the real Ollama: who may make it reload a model."""

import pytest

from swapper_proxy.config import Model, RunnerOptions
from tests.e2e.conftest import Client, configured
from tests.e2e.test_swapping import loads
from tests.real.server import OllamaServer

PIN = RunnerOptions(policy="pin", num_ctx=512)
STRIP = RunnerOptions(policy="strip")
CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


def alpha(options: RunnerOptions) -> dict[str, Model]:
    return {"first": Model(path="ollama:alpha", runner_options=options)}


async def disagree(proxy: Client) -> None:
    """Requests of clients that want other options each."""
    for more in ({"num_ctx": 512}, {"num_ctx": 1024}, {}, {"num_ctx": 1536}):
        status, answer = await proxy.generate("alpha", options={"num_predict": 3, **more})
        assert (status, answer["eval_count"]) == (200, 3)


@pytest.mark.parametrize("options", [PIN, STRIP])
async def test_clients_that_disagree_cause_no_reload(
    ollama: Client, ollama_server: OllamaServer, options: RunnerOptions
) -> None:
    async with configured(ollama, alpha(options)) as proxy:
        before = ollama_server.loads()
        await disagree(proxy)
        assert (await loads(proxy), ollama_server.loads() - before) == (1, 1)


async def test_without_a_policy_each_gets_a_reload(ollama: Client, ollama_server: OllamaServer) -> None:
    async with configured(ollama, alpha(RunnerOptions())) as proxy:
        before = ollama_server.loads()
        await disagree(proxy)
        assert (await loads(proxy), ollama_server.loads() - before) == (4, 4)


async def test_an_openai_client_means_the_modelfile_s_options(ollama: Client) -> None:
    async with configured(ollama, alpha(PIN)) as proxy:
        await proxy.generate("alpha")
        assert (await proxy.post("/v1/chat/completions", CHAT))[0] == 200
        assert await loads(proxy) == 2


async def test_the_modelfile_s_parameter_serves_both(ollama: Client) -> None:
    models = {"a": Model(path="ollama:alpha-512", runner_options=PIN)}
    async with configured(ollama, models) as proxy:
        await proxy.generate("alpha-512", options={"num_ctx": 2048, "num_predict": 2})
        assert (await proxy.post("/v1/chat/completions", CHAT | {"model": "a"}))[0] == 200
        assert await loads(proxy) == 1
