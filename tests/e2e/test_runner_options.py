"""runner_options on the real Ollama: who may make it reload a model."""

import pytest

from swapper_proxy.config import Model, RunnerOptions
from tests.e2e.conftest import Client, configured
from tests.e2e.test_swapping import loads

PIN = RunnerOptions(policy="pin", num_ctx=512)
STRIP = RunnerOptions(policy="strip")
CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


def alpha(options: RunnerOptions) -> dict[str, Model]:
    return {"first": Model(path="ollama:alpha", runner_options=options)}


async def load_durations(proxy: Client) -> list[int]:
    """What Ollama itself says it spent on loading, for requests of clients that disagree."""
    answers = [
        await proxy.generate("alpha", options={"num_predict": 3, **more})
        for more in ({"num_ctx": 512}, {"num_ctx": 1024}, {}, {"num_ctx": 1536})
    ]
    assert [(status, answer["eval_count"]) for status, answer in answers] == [(200, 3)] * 4
    return [answer["load_duration"] for _, answer in answers]


async def by_itself(ollama: Client) -> int:
    """What a reload takes, in Ollama's own words."""
    await ollama.generate("alpha", options={"num_ctx": 256})
    return int((await ollama.generate("alpha", options={"num_ctx": 768}))[1]["load_duration"])


@pytest.mark.parametrize("options", [PIN, STRIP])
async def test_clients_that_disagree_cause_no_reload(ollama: Client, options: RunnerOptions) -> None:
    reload = await by_itself(ollama)
    async with configured(ollama, alpha(options)) as proxy:
        await proxy.post("/api/generate", {"model": "alpha", "keep_alive": 0})
        assert max(await load_durations(proxy)) < reload / 2
        assert await loads(proxy) == 1


async def test_without_a_policy_each_gets_a_reload(ollama: Client) -> None:
    async with configured(ollama, alpha(RunnerOptions())) as proxy:
        await load_durations(proxy)
        assert await loads(proxy) == 4


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
