"""What of a request the config changes, to the byte."""

import pytest

from swapper_proxy.config import RunnerOptions
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.types import Priority
from swapper_proxy.web import terms
from swapper_proxy.web.body import Fields
from swapper_proxy.web.endpoints import ENDPOINTS, read
from tests.test_catalog import catalog_of, found

PIN = RunnerOptions(policy="pin", num_ctx=512)
STRIP = RunnerOptions(policy="strip")


async def sent(body: str, path: str = "/api/generate", model: dict | None = None, **swapper) -> str:
    """The body that goes to Ollama."""
    of = catalog_of({"a": model or {}}, **swapper)
    fields, endpoint = Fields.read(body.encode()), ENDPOINTS[path]
    asked = read(endpoint, fields)
    terms.rewrite(fields, endpoint, asked, terms.demand(of, endpoint, asked, await found(of, "a"), None))
    return b"".join(fields.pieces()).decode()


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        (PIN, '{"model":"a"}', '{"model":"a","options":{"num_ctx":512}}'),
        (PIN, '{"model":"a","options":null}', '{"model":"a","options":{"num_ctx":512}}'),
        (
            PIN,
            '{"model":"a","options":{"top_p": 0.90,"num_ctx":1,"x":[ 1 ]}}',
            '{"model":"a","options":{"top_p":0.90,"x":[ 1 ],"num_ctx":512}}',
        ),
        (PIN, '{"model":"a","options":{ "num_ctx": 512 }}', '{"model":"a","options":{ "num_ctx": 512 }}'),
        (STRIP, '{"model":"a","options":{"num_ctx":1,"seed": 7}}', '{"model":"a","options":{"seed":7}}'),
        (STRIP, '{"model":"a","options":{ "seed": 7 }}', '{"model":"a","options":{ "seed": 7 }}'),
        (RunnerOptions(), '{"model":"a","options":{ "num_ctx": 1 }}', '{"model":"a","options":{ "num_ctx": 1 }}'),
    ],
)
async def test_options(options: RunnerOptions, before: str, after: str) -> None:
    assert await sent(before, model={"runner_options": options}) == after


@pytest.mark.parametrize(
    ("swapper", "before", "after"),
    [
        ({}, '{"model":"a"}', '{"model":"a"}'),
        ({}, '{"model":"a","prompt":"x","keep_alive":"5m"}', '{"model":"a","prompt":"x","keep_alive":"5m"}'),
        ({}, '{"model":"a","prompt":"x","keep_alive":5}', '{"model":"a","prompt":"x","keep_alive":60}'),
        ({"keep_alive": "1h"}, '{"model":"a"}', '{"model":"a","keep_alive":"1h"}'),
        ({"keep_alive": 5}, '{"model":"a"}', '{"model":"a","keep_alive":60}'),
        ({"ignore_client_keep_alive": True}, '{"model":"a","keep_alive":-1}', '{"model":"a"}'),
        (
            {"ignore_client_keep_alive": True, "keep_alive": "1h"},
            '{"model":"a","keep_alive":-1}',
            '{"model":"a","keep_alive":"1h"}',
        ),
    ],
)
async def test_keep_alive(swapper: dict, before: str, after: str) -> None:
    assert await sent(before, **swapper) == after


async def test_what_openai_clients_send_is_left_alone() -> None:
    body = '{"model":"a","messages":[{"role":"user"}],"keep_alive":1,"options":{"num_ctx":1}}'
    assert await sent(body, "/v1/chat/completions", {"runner_options": PIN, "pinned": True}, keep_alive=5) == body


async def test_but_the_configured_keep_alive_holds_for_them() -> None:
    of = catalog_of({"a": {"runner_options": PIN}}, keep_alive=5)
    endpoint = ENDPOINTS["/v1/embeddings"]
    asked = read(endpoint, Fields.read(b'{"model":"a","input":"x"}'))
    demand = terms.demand(of, endpoint, asked, await found(of, "a"), None)
    assert (demand.options, demand.keep_alive, demand.ttl_s) == ({}, 60, 5)


@pytest.mark.parametrize(
    ("header", "own", "asked", "granted"),
    [
        ("lower", "medium", None, "medium"),
        ("lower", "medium", "high", "medium"),
        ("lower", "medium", "low", "low"),
        ("lower", "high", "Medium ", "medium"),
        ("any", "low", "HIGH", "high"),
        ("any", "high", "low", "low"),
        ("ignore", "medium", "low", "medium"),
        ("ignore", "medium", "nonsense", "medium"),
    ],
)
async def test_priority(header: str, own: str, asked: str | None, granted: str) -> None:
    of = catalog_of({"a": {"priority": own}}, priority_header=header)
    wished = terms.wished_priority({} if asked is None else {"X-Swapper-Priority": asked}, of)
    endpoint = ENDPOINTS["/api/generate"]
    understood = read(endpoint, Fields.read(b'{"model":"a"}'))
    assert terms.demand(of, endpoint, understood, await found(of, "a"), wished).priority is Priority(granted)


@pytest.mark.parametrize("asked", ["", "urgent", "high, low"])
def test_a_priority_that_is_none(asked: str) -> None:
    with pytest.raises(ProxyError) as caught:
        terms.wished_priority({"X-Swapper-Priority": asked}, catalog_of())
    assert (caught.value.status, caught.value.code) == (400, "invalid_priority")
