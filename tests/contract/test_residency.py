"""Loading, unloading, keep_alive, and names that share a runner."""

import asyncio
import json
from datetime import timedelta

import pytest

from tests.contract.asking import Answer, Ask
from tests.waiting import until

NOT_LOADED = "unexpected server status: llm server loading model"
MESSAGE = [{"role": "user", "content": "x"}]


class TestLoading:
    async def test_generate_without_a_prompt_loads(self, ask: Ask) -> None:
        answer = await ask.generate("alpha")
        assert (answer.status, answer.content_type) == (200, "application/json; charset=utf-8")
        assert list(answer.json) == ["model", "created_at", "response", "done", "done_reason"]
        assert (answer.json["response"], answer.json["done"], answer.json["done_reason"]) == ("", True, "load")
        assert await ask.names() == ["alpha:latest"]

    async def test_chat_without_messages_loads(self, ask: Ask) -> None:
        answer = await ask.post("/api/chat", {"model": "alpha", "messages": []})
        assert answer.status == 200
        assert list(answer.json) == ["model", "created_at", "message", "done_reason", "done"]
        assert answer.json["message"] == {"role": "assistant", "content": ""}
        assert answer.json["done_reason"] == "load"
        assert await ask.names() == ["alpha:latest"]

    @pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": []}])
    async def test_an_embedder_is_loaded_by_embed_with_nothing_to_embed(self, ask: Ask, given: dict) -> None:
        answer = await ask.post("/api/embed", {"model": "embedder", **given})
        assert (answer.status, answer.text) == (200, '{"model":"embedder","embeddings":[]}')
        assert await ask.names() == ["embedder:latest"]

    async def test_embeddings_without_a_prompt_loads(self, ask: Ask) -> None:
        answer = await ask.post("/api/embeddings", {"model": "embedder"})
        assert (answer.status, answer.text) == (200, '{"embedding":[]}')
        assert await ask.names() == ["embedder:latest"]

    async def test_completions_without_a_prompt_loads(self, ask: Ask) -> None:
        answer = await ask.post("/v1/completions", {"model": "alpha"})
        assert answer.json["choices"] == [{"text": "", "index": 0, "finish_reason": "load"}]
        assert await ask.names() == ["alpha:latest"]

    async def test_a_loading_model_is_listed(self, ask: Ask) -> None:
        load = asyncio.create_task(ask.generate("slow"))
        await ask.until_listed("slow:latest")
        assert not load.done()
        assert (await load).json["done_reason"] == "load"

    async def test_another_model_takes_the_place(self, ask: Ask) -> None:
        await ask.generate("alpha")
        assert (await ask.generate("beta")).json["done_reason"] == "load"
        assert await ask.names() == ["beta:latest"]


class TestUnloading:
    @pytest.mark.parametrize("keep_alive", ["0", "0.5", '"0s"', '".5s"'])
    async def test_generate_with_no_time_to_stay_unloads(self, ask: Ask, keep_alive: str) -> None:
        await ask.generate("alpha")
        answer = await ask.post("/api/generate", f'{{"model":"alpha","keep_alive":{keep_alive}}}')
        assert (answer.status, answer.json["done_reason"]) == (200, "unload")
        await ask.until_empty()

    async def test_chat_with_no_time_to_stay_unloads(self, ask: Ask) -> None:
        await ask.generate("alpha")
        answer = await ask.post("/api/chat", {"model": "alpha", "keep_alive": 0})
        assert (answer.status, answer.json["done_reason"]) == (200, "unload")
        await ask.until_empty()

    async def test_what_is_not_loaded_is_not_loaded_for_it(self, ask: Ask) -> None:
        answer = await ask.generate("alpha", keep_alive=0)
        assert (answer.status, answer.json["done_reason"]) == (200, "unload")
        assert await ask.names() == []

    async def test_an_embedder_is_unloaded_by_generate(self, ask: Ask) -> None:
        await ask.post("/api/embed", {"model": "embedder"})
        assert (await ask.generate("embedder", keep_alive=0)).status == 200
        await ask.until_empty()

    async def test_embed_without_input_loads_first(self, ask: Ask) -> None:
        answer = await ask.post("/api/embed", {"model": "embedder", "keep_alive": 0})
        assert (answer.status, answer.text) == (200, '{"model":"embedder","embeddings":[]}')
        await ask.until_empty()

    async def test_a_prompt_is_answered_first(self, ask: Ask) -> None:
        answer = await ask.generate("alpha", prompt="x", stream=False, keep_alive=0)
        assert answer.json["done_reason"] == "length"
        await ask.until_empty()

    async def test_capabilities_and_options_are_not_looked_at(self, ask: Ask) -> None:
        answer = await ask.generate("alpha", keep_alive=0, think=True, options={"num_ctx": "x"})
        assert (answer.status, answer.json["done_reason"]) == (200, "unload")

    async def test_during_a_load_it_waits_for_the_end_of_it(self, ask: Ask) -> None:
        load = asyncio.create_task(ask.generate("slow"))
        await ask.until_listed("slow:latest")
        unload = asyncio.create_task(ask.generate("slow", keep_alive=0))
        await ask.round_trips()
        assert load.done() or not unload.done()
        assert (await unload).json["done_reason"] == "unload"
        assert (await load).json["done_reason"] == "load"
        await ask.until_empty()

    async def test_an_answer_in_flight_is_finished(self, ask: Ask) -> None:
        await ask.generate("alpha")
        async with ask.streaming("alpha", 200) as stream:
            assert (await ask.generate("alpha", keep_alive=0)).json["done_reason"] == "unload"
            last = (await stream.read()).splitlines()[-1]
        assert json.loads(last)["eval_count"] == 200
        await ask.until_empty()


class TestLeaving:
    @pytest.mark.direct
    async def test_the_client_that_leaves_aborts_its_load(self, ask: Ask) -> None:
        load = asyncio.create_task(ask.generate("slow"))
        await ask.until_listed("slow:latest")
        load.cancel()
        await ask.until_empty()

    @pytest.mark.parametrize(
        ("path", "more", "status", "text"),
        [
            ("/api/chat", {"stream": False}, 500, f'{{"error":"{NOT_LOADED}"}}'),
            ("/api/chat", {}, 200, f'{{"error":"{NOT_LOADED}"}}\n'),
            (
                "/v1/chat/completions",
                {},
                500,
                f'{{"error":{{"message":"{NOT_LOADED}","type":"api_error","param":null,"code":null}}}}\n',
            ),
        ],
    )
    async def test_who_waited_for_that_load_gets_an_error(
        self, ask: Ask, path: str, more: dict, status: int, text: str
    ) -> None:
        answer = await self._wait_for_an_aborted_load(ask, path, {"messages": MESSAGE, **more})
        # Seldom the real one has cleared up before it looks again: it loads for the one who waited, or says nothing.
        assert (answer.status, answer.text) in ((status, text), (500, "")) or '"length"' in answer.text

    async def test_who_waited_for_that_load_to_load_is_told_it_did(self, ask: Ask) -> None:
        answer = await self._wait_for_an_aborted_load(ask, "/api/generate", {})
        assert (answer.status, answer.json["done_reason"]) == (200, "load")

    @staticmethod
    async def _wait_for_an_aborted_load(ask: Ask, path: str, more: dict) -> Answer:
        load = asyncio.create_task(ask.generate("slow"))
        await ask.until_listed("slow:latest")
        waiting = asyncio.create_task(ask.post(path, {"model": "slow", **more}))
        await ask.round_trips()
        load.cancel()
        return await waiting

    async def test_a_client_that_only_waited_aborts_nothing(self, ask: Ask) -> None:
        load = asyncio.create_task(ask.generate("slow"))
        await ask.until_listed("slow:latest")
        waiting = asyncio.create_task(ask.generate("slow"))
        await ask.round_trips()
        waiting.cancel()
        assert (await load).json["done_reason"] == "load"
        assert await ask.names() == ["slow:latest"]

    async def test_the_client_that_leaves_ends_its_answer(self, ask: Ask) -> None:
        await ask.generate("alpha")
        async with ask.streaming("alpha", 20_000):
            pass
        await ask.generate("alpha", keep_alive=0)
        await ask.until_empty()


class TestKeepAlive:
    @pytest.mark.parametrize(
        ("keep_alive", "minutes"),
        [("600", 10), ("1.5e3", 25), ('"90m"', 90), ('"1h30m"', 90), ('"+5m"', 5), ("null", 5)],
    )
    async def test_sets_the_expiry(self, ask: Ask, keep_alive: str, minutes: int) -> None:
        answer = await ask.post("/api/generate", f'{{"model":"alpha","keep_alive":{keep_alive}}}')
        assert answer.status == 200
        assert timedelta(0) <= timedelta(minutes=minutes) - await ask.expiry() < timedelta(minutes=1)

    @pytest.mark.parametrize("keep_alive", [-1, -0.5, "-1m"])
    async def test_negative_is_for_ever(self, ask: Ask, keep_alive: object) -> None:
        await ask.generate("alpha", keep_alive=keep_alive)
        assert await ask.expiry() > timedelta(days=365 * 100)

    async def test_sticks(self, ask: Ask) -> None:
        await ask.generate("alpha", keep_alive="2h")
        await ask.generate("alpha")
        await ask.post("/v1/completions", {"model": "alpha", "prompt": "x", "max_tokens": 1, "keep_alive": 0})
        assert await ask.expiry() > timedelta(minutes=100)

    async def test_is_replaced_by_the_next(self, ask: Ask) -> None:
        await ask.generate("alpha", keep_alive="2h")
        await ask.generate("alpha", keep_alive="10m")

        async def is_replaced() -> bool:  # the time is set anew when the model goes idle, a moment after the answer
            return await ask.expiry() < timedelta(minutes=11)

        await until(is_replaced)

    async def test_unloads_when_it_is_over(self, ask: Ask) -> None:
        await ask.generate("alpha", keep_alive=1)
        assert await ask.names() == ["alpha:latest"]
        await ask.until_empty()


class TestSharing:
    async def test_names_over_one_blob_share_its_runner(self, ask: Ask) -> None:
        await ask.generate("alpha", keep_alive="2h")
        answer = await ask.generate("alpha-kind", prompt="x", stream=False)
        assert answer.json["model"] == "alpha-kind"
        assert await ask.names() == ["alpha:latest"]
        assert await ask.expiry() > timedelta(minutes=100)  # so it was not loaded again

    @pytest.mark.parametrize("unloaded", ["alpha", "alpha-kind"])
    async def test_unloading_either_unloads_both(self, ask: Ask, unloaded: str) -> None:
        await ask.generate("alpha")
        await ask.generate("alpha-kind")
        assert (await ask.generate(unloaded, keep_alive=0)).json["done_reason"] == "unload"
        await ask.until_empty()

    async def test_the_digests_differ(self, ask: Ask) -> None:
        tags = {entry["name"]: entry["digest"] for entry in (await ask.get("/api/tags")).json["models"]}
        assert tags["alpha:latest"] != tags["alpha-kind:latest"]
        await ask.generate("alpha-kind")
        (entry,) = await ask.residents()
        assert entry["digest"] == tags["alpha-kind:latest"]
