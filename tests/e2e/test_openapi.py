"""What /openapi.json says is true: generated calls, real answers in many states, and every route that is served."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import msgspec
import openapi_spec_validator
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from swapper_proxy.app import running
from swapper_proxy.config import History, Upstream
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.web.history import PARAMETERS
from swapper_proxy.web.openapi import OPERATIONS, document
from tests.e2e.conftest import LIMIT_S, Client, busy, is_in, settings, simulated, until, waits

SERVED = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/status"),
    ("GET", "/queue"),
    ("GET", "/models"),
    ("GET", "/models/{name}"),
    ("POST", "/models/{name}/load"),
    ("POST", "/models/{name}/unload"),
    ("POST", "/models/{name}/pin"),
    ("POST", "/models/{name}/unpin"),
    ("POST", "/reload"),
    ("GET", "/metrics"),
    ("GET", "/metrics/{name}"),
    ("GET", "/config"),
    ("GET", "/openapi.json"),
    ("GET", "/history/requests"),
    ("GET", "/history/swaps"),
    ("GET", "/history/states"),
    ("GET", "/history/problems"),
    ("GET", "/history/usage"),
    ("GET", "/events"),
}
ENDLESS = "/events"
QUICK = {"unload_settle": 0.0}
SHORT = "seed = 1", "deterministic = true\nmax-examples = 100"
LONG = "", "max-examples = 1000"  # by `make fuzz`, each time other ones
SEED, GENERATION = SHORT if hypothesis.settings.default.max_examples == 100 else LONG
CHECKS = f"""
{SEED}
phases.stateful.enabled = false

[generation]
{GENERATION}
no-shrink = true

# Patterns cannot tell the days of a month, nor which characters can be printed.
[parameters]
"query.since" = "2025-11-22"
"query.until" = "1763807400.5"
"query.model" = "first"
"query.endpoint" = "generate"
"""


async def schemathesis(proxy: Client, where: Path, more: str) -> tuple[int, str]:
    """Exit code and report of calls made from the description, with all checks on the answers."""
    (where / "schemathesis.toml").write_text(CHECKS + more)
    (where / "openapi.json").write_text(json.dumps((await proxy.get("/openapi.json"))[1]))
    calls = "openapi.json", "--url", proxy.url, "--warnings", "off", "--exclude-path", ENDLESS
    command = (sys.executable, "-m", "schemathesis.cli", "run", *calls)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=where, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        report, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, report.decode()


@asynccontextmanager
async def keeping(session: aiohttp.ClientSession, folder: Path, *models: SimulatedModel) -> AsyncIterator[Client]:
    """The proxy with a history, in front of a simulated Ollama."""
    async with serving(Simulator(models)) as url:
        chosen = msgspec.structs.replace(settings(url, **QUICK), history=History(path=str(folder / "history.sqlite")))
        async with running(chosen) as up:
            yield Client(session, up.url)


@pytest.mark.parametrize("more", ["", '"path.name" = "first"\n'], ids=["any name", "a known name"])
async def test_generated_calls_are_answered_as_described(
    session: aiohttp.ClientSession, tmp_path: Path, more: str
) -> None:
    models = SimulatedModel("alpha", load_s=0.0), SimulatedModel("beta", load_s=0.0)
    async with keeping(session, tmp_path, *models) as proxy:
        code, report = await schemathesis(proxy, tmp_path, more)
    assert code == 0, report
    assert f"Tested: {len(SERVED) - 1}" in report, report


FORMATS = FormatChecker()


@FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


class Description:
    """The document that a proxy serves.  What it does not name is taken for wrong, although it may be added."""

    def __init__(self, described: Any) -> None:
        self.paths = described["paths"]
        self.components = described["components"]
        for schema in self.components["schemas"].values():
            if "properties" in schema:
                schema["additionalProperties"] = False

    def check(self, route: tuple[str, str], status: int, media: str, body: Any) -> None:
        responses = self.paths[route[1]][route[0].lower()]["responses"]
        response = responses.get(str(status)) or responses["default"]
        self._validate(response["content"][media]["schema"], body)

    def check_as(self, name: str, body: Any) -> None:
        """Against one of the components."""
        self._validate({"$ref": f"#/components/schemas/{name}"}, body)

    def _validate(self, schema: Any, body: Any) -> None:
        described = {**schema, "components": self.components}
        Draft202012Validator(described, format_checker=FORMATS).validate(body)


async def described(proxy: Client) -> Description:
    return Description((await proxy.get("/openapi.json"))[1])


async def conforms(proxy: Client, route: tuple[str, str], name: str = "first", query: str = "") -> tuple[int, Any]:
    """The answer to a call, which has to be as described."""
    method, path = route
    async with proxy.session.request(method, proxy.url + path.format(name=name) + query) as answer:
        body = await answer.json() if answer.content_type == "application/json" else await answer.text()
        (await described(proxy)).check(route, answer.status, answer.content_type, body)
        return answer.status, body


async def all_conform(proxy: Client) -> dict[str, Any]:
    """All that can be read, with the name of each model that there is; by path."""
    answers = {}
    names = [model["name"] for model in (await proxy.get("/models"))[1]["models"]]
    for method, path in SERVED - {("GET", ENDLESS)}:
        for name in [*names, "nobody"] if "{name}" in path else [""]:
            if method == "GET":
                answers[path.format(name=name)] = (await conforms(proxy, (method, path), name))[1]
    answers["json"] = (await conforms(proxy, ("GET", "/metrics"), query="?format=json"))[1]
    return answers


@pytest.fixture
async def fast(session: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Client]:
    """The proxy with a history, in front of a simulated Ollama that loads at once."""
    async with keeping(session, tmp_path, SimulatedModel("alpha", load_s=0.0)) as proxy:
        yield proxy


# The document


async def test_what_is_served_is_described_and_what_is_described_is_served(fast: Client) -> None:
    served = (await fast.get("/openapi.json"))[1]
    openapi_spec_validator.validate(served)
    assert {(method.upper(), path) for path, methods in served["paths"].items() for method in methods} == SERVED
    for method, path in sorted(SERVED, reverse=True):  # an unload comes before the pin
        async with fast.session.request(method, fast.url + path.format(name="first")) as answer:
            assert answer.status == 200


def test_every_name_in_the_document_is_explained() -> None:
    text = msgspec.json.encode(document(OPERATIONS)).decode()
    named = {name.rpartition("/")[2] for name in re.findall(r'"\$ref":"([^"]+)"', text)}
    assert named <= document(OPERATIONS)["components"]["schemas"].keys()
    assert OPERATIONS.keys() == SERVED


@pytest.mark.parametrize("page", PARAMETERS)
def test_the_parameters_of_the_history_are_those_it_reads(page: str) -> None:
    assert OPERATIONS["GET", f"/history/{page}"].query.keys() == PARAMETERS[page].keys()


# States of the proxy


async def test_on_the_real_ollama_loaded_missing_and_waiting(proxy: Client) -> None:
    async with busy(proxy, "alpha"):
        waiter = asyncio.ensure_future(proxy.generate("beta"))
        await waits(proxy, 1)
        answers = await all_conform(proxy)
        assert answers["/models/first"]["status"] == "loaded"
        assert answers["/models/gone"]["status"] == "missing"
        assert [request["model"] for request in answers["/queue"]["requests"]] == ["team/second:v1"]
    assert (await waiter)[0] == 200
    answers = await all_conform(proxy)
    assert answers["/metrics/team/second:v1"]["tokens_per_second"] > 0
    assert answers["/models/first"]["unloaded_at"]


async def test_while_a_model_is_loading_and_after_its_load_failed(session: aiohttp.ClientSession) -> None:
    models = SimulatedModel("alpha", load_s=1e6), SimulatedModel("beta", load_s=0.0, broken=True)
    async with simulated(session, *models, max_concurrent_models=2, mode="multi-active", **QUICK) as proxy:
        status, answer = await conforms(proxy, ("POST", "/models/{name}/load"), "team/second:v1")
        assert (status, answer["error"]["code"]) == (500, "load_failed")
        status, answer = await conforms(proxy, ("POST", "/models/{name}/load"), query="?wait=false")
        assert (status, answer["status"]) == (202, "accepted")
        await is_in(proxy, "first", "loading")
        answers = await all_conform(proxy)
        assert answers["/models/team/second:v1"]["status"] == "error"
        assert answers["/queue"]["requests"][0]["why"] == "loading"


async def test_without_ollama(session: aiohttp.ClientSession) -> None:
    async with AsyncExitStack() as upstream:
        url = await upstream.enter_async_context(serving(Simulator([SimulatedModel("alpha", load_s=0.0)])))
        chosen = msgspec.structs.replace(settings(url, **QUICK), upstream=Upstream(url=url, grace=0))
        async with running(chosen) as up:
            proxy = Client(session, up.url)
            await proxy.generate("alpha")
            await upstream.aclose()
            status, answer = await conforms(proxy, ("POST", "/models/{name}/load"), "team/second:v1")
            assert (status, answer["error"]["code"]) == (502, "upstream_unreachable")
            await proxy.generate("alpha")  # which is how it is noticed at once
            await until(lambda: is_unavailable(proxy))
            assert (await all_conform(proxy))["/health"]["status"] == "degraded"


async def is_unavailable(proxy: Client) -> bool:
    return (await proxy.get("/ready")) == (503, {"status": "unavailable"})


# What was, and what happens

EVENTS = {
    "snapshot": "SnapshotEvent",
    "state": "StateEvent",
    "swap": "SwapEvent",
    "request": "RequestEvent",
    "problem": "ProblemEvent",
    "queue": "QueueAnswer",
    "status": "StatusAnswer",
    "models": "ListedModel",
}


async def test_what_was_kept(fast: Client) -> None:
    await fast.generate("alpha")
    await until(lambda: has_kept(fast, "requests", 1))
    await fast.post("/models/first/unload")
    await until(lambda: has_kept(fast, "states", 4))
    assert (await fast.post("/api/generate", {"model": "alpha"}, **{"X-Swapper-Priority": "x"}))[0] == 400
    await until(lambda: has_kept(fast, "problems", 1))
    answers = await all_conform(fast)
    nameless, alpha = answers["/history/usage"]["usage"]
    assert (nameless["refused"], nameless["requests"], alpha["refused"], alpha["requests"]) == (1, 0, 0, 1)
    assert answers["/history/swaps"]["swaps"][0]["to_model"] == "first"
    assert (await conforms(fast, ("GET", "/history/requests"), query="?limit=1&status=200"))[1]["next"] is None


async def has_kept(proxy: Client, page: str, number: int) -> bool:
    return len((await proxy.get(f"/history/{page}"))[1][page]) >= number


async def test_every_kind_of_event(session: aiohttp.ClientSession) -> None:
    """All that is told when one model cannot be loaded, and another one is loaded and answers."""
    models = SimulatedModel("alpha", load_s=0.0), SimulatedModel("beta", load_s=0.0, broken=True)
    async with simulated(session, *models, **QUICK) as proxy, session.get(proxy.url + ENDLESS) as stream:
        description = await described(proxy)
        await proxy.generate("beta")
        await proxy.generate("alpha")
        seen = set[str]()
        async with asyncio.timeout(LIMIT_S):
            while seen != EVENTS.keys():
                kind, data = await one_event(stream)
                for item in data if kind == "models" else [data]:
                    description.check_as(EVENTS[kind], item)
                seen.add(kind)


async def one_event(stream: aiohttp.ClientResponse) -> tuple[str, Any]:
    """Its kind and data."""
    lines = (await stream.content.readuntil(b"\n\n")).decode().splitlines()
    fields = dict(line.partition(": ")[::2] for line in lines)
    return fields["event"], json.loads(fields["data"])


@pytest.mark.parametrize(
    ("action", "name", "status", "code"),
    [
        ("load", "nobody", 404, "model_not_found"),
        ("load", "gone", 409, "model_missing"),
        ("unload", "x:cloud", 409, "model_remote"),
        ("unload", "nobody", 404, "model_not_found"),
        ("pin", "nobody", 404, "model_not_found"),
        ("unpin", "x:cloud", 409, "model_remote"),
    ],
)
async def test_refused_actions(fast: Client, action: str, name: str, status: int, code: str) -> None:
    told, answer = await conforms(fast, ("POST", f"/models/{{name}}/{action}"), name)
    assert (told, answer["error"]["code"]) == (status, code)


# Bad input


@pytest.mark.parametrize("route", sorted(SERVED))
@pytest.mark.parametrize("query", ["?x=1", "?x", "?=", "?%", "?%ff=%00", f"?{'x' * 5000}=1", "?limit=1&limit=1"])
async def test_unknown_parameters(fast: Client, route: tuple[str, str], query: str) -> None:
    status, answer = await conforms(fast, route, query=query)
    assert (status, answer["error"]["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    ("route", "query"),
    [
        (("GET", "/metrics"), "?format=xml"),
        (("GET", "/metrics"), "?format="),
        (("GET", "/metrics"), "?format=JSON"),
        (("GET", "/metrics"), "?format=json&format=json"),
        (("GET", "/history/requests"), "?limit=1001"),
        (("GET", "/history/swaps"), "?since=yesterday"),
        (("GET", "/history/problems"), "?status=-1"),
        (("GET", "/history/problems"), "?endpoint=chat"),
        (("GET", "/history/usage"), "?by=year"),
        (("GET", "/events"), "?last_event_id=x&last_event_id=x"),
        (("POST", "/models/{name}/load"), "?wait=no"),
        (("POST", "/models/{name}/load"), "?wait"),
        (("POST", "/models/{name}/load"), "?wait=false%00"),
        (("POST", "/models/{name}/unload"), "?wait=False"),
        (("POST", "/models/{name}/unload"), "?wait=true&wait=false"),
    ],
)
async def test_wrong_parameters(fast: Client, route: tuple[str, str], query: str) -> None:
    status, answer = await conforms(fast, route, query=query)
    assert (status, answer["error"]["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    "name", ["%00", "%zz", "%", "%ff%fe", "%0a", "%F0%9F%A6%99", "a%2F..%2Fb", "%3Cb%3E", "x" * 601, "x" * 60_000]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/models/{name}"), ("GET", "/metrics/{name}"), ("POST", "/models/{name}/load")],
)
async def test_names_that_nothing_can_have(fast: Client, method: str, path: str, name: str) -> None:
    line, body = await raw(fast, method, path.format(name=name))
    assert line == b"HTTP/1.1 404 Not Found"
    assert body["error"]["code"] == "model_not_found"


async def raw(proxy: Client, method: str, target: str) -> tuple[bytes, Any]:
    """Status line and body of the answer to a target as it stands, which a client library would mend."""
    host, port = proxy.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head.partition(b"\r\n")[0], json.loads(body)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/openapi.json", "GET, HEAD"),
        ("POST", "/events", "GET, HEAD"),
        ("DELETE", "/history/requests", "GET, HEAD"),
        ("POST", "/ui/", "GET, HEAD"),
        ("TRACE", "/metrics", "GET, HEAD"),
        ("DELETE", "/models/first", "GET, HEAD"),
        ("GET", "/models/first/load", "POST"),
        ("DELETE", "/models/first/unload", "POST"),
    ],
)
async def test_wrong_methods_are_told_the_right_ones(fast: Client, method: str, path: str, allowed: str) -> None:
    async with fast.session.request(method, fast.url + path) as answer:
        assert (answer.status, answer.headers.get("Allow")) == (405, allowed)
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_a_model_may_be_called_like_an_action(session: aiohttp.ClientSession) -> None:
    async with simulated(session, SimulatedModel("team/load", load_s=0.0)) as proxy:
        status, model = await conforms(proxy, ("GET", "/models/{name}"), "team/load")
        assert (status, model["name"]) == (200, "team/load:latest")
        assert (await conforms(proxy, ("POST", "/models/{name}/load"), "team/load"))[0] == 200
