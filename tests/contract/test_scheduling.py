"""Who waits for whom when there is room for one model."""

import asyncio

import pytest

from tests.contract.asking import Ask


async def test_another_model_waits_for_the_answer_in_flight(ask: Ask) -> None:
    await ask.generate("alpha")
    async with ask.streaming("alpha", 4000) as stream:
        load = asyncio.create_task(ask.generate("beta"))
        await ask.round_trips()
        assert not load.done()
        assert b'"eval_count":4000' in await stream.read()
    assert (await load).json["done_reason"] == "load"
    assert await ask.names() == ["beta:latest"]


async def test_a_request_for_the_resident_model_shares_it_when_nobody_else_waits(ask: Ask) -> None:
    await ask.generate("alpha")
    async with ask.streaming("alpha", 20_000):
        assert (await ask.generate("alpha")).json["done_reason"] == "load"
        assert await ask.names() == ["alpha:latest"]


@pytest.mark.direct  # the proxy's order is its own: whoever is due first
async def test_the_queue_is_first_in_first_out(ask: Ask) -> None:
    order: list[str] = []

    async def load(name: str) -> None:
        await ask.generate(name)
        order.append(name)

    await ask.generate("alpha")
    async with asyncio.TaskGroup() as tasks, ask.streaming("alpha", 20_000):
        for name in ("beta", "gamma", "slow"):
            tasks.create_task(load(name))
            await ask.round_trips()
        assert order == []
    assert order == ["beta", "gamma", "slow"]


async def test_the_same_load_serves_all_who_wait_for_it(ask: Ask) -> None:
    answers = await asyncio.gather(*(ask.generate("slow") for _ in range(5)))
    assert {answer.json["done_reason"] for answer in answers} == {"load"}
    assert await ask.names() == ["slow:latest"]
