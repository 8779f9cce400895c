"""Every shape of the management API on the real Ollama, and counts that are true."""

import json
import re

import aiohttp
import msgspec

from swapper_proxy.app import running
from swapper_proxy.config import Server
from tests.e2e.conftest import Client, settings

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


async def test_health_and_ready(proxy: Client) -> None:
    assert await proxy.get("/health") == (
        200,
        {"status": "healthy", "service": "swapper-service", "active_model": None, "mode": "single-active"},
    )
    assert (await proxy.get("/ready"))[0] == 200
    await proxy.generate("alpha")
    assert (await proxy.get("/health"))[1]["active_model"] == "first"


async def test_status(proxy: Client) -> None:
    await proxy.generate("alpha")
    status = await proxy.status()
    assert status["status"] == "healthy"
    assert status["active_model"] == "first"
    assert "first" in status["loaded_models"]
    assert status["available_models"][:3] == ["first", "team/second:v1", "gone"]
    assert status["total_models"] == len(status["available_models"])
    assert status["mode"] == "single-active"


async def test_models(proxy: Client) -> None:
    models = {m["name"]: m for m in (await proxy.get("/models"))[1]["models"]}
    assert models["first"] == {
        "name": "first",
        "ollama_name": "alpha",
        "type": "llm",
        "size_gb": 1,
        "priority": "high",
        "status": "unloaded",
        "configured": True,
        "pinned": False,
        "remote": False,
        "waiting": 0,
        "in_flight": 0,
        "holding": False,
        "uptime_s": 0,
        "request_count": 0,
        "tokens_per_second": None,
        "known_as": "first",
        "activity": "unloaded",
        "work": "",
        "refusals": {"unload": "it is not in memory"},
    }
    assert models["gone"]["status"] == "missing"
    assert "ollama pull never-pulled" in models["gone"]["reason"]
    assert models["gamma:latest"]["configured"] is False


async def test_one_model_over_its_life(proxy: Client) -> None:
    status, model = await proxy.get("/models/first")
    assert (status, model["loaded_at"], model["unloaded_at"], model["total_uptime_seconds"]) == (200, None, None, 0)
    answer = {"status": "success", "model": "first", "message": "Model first loaded"}
    assert await proxy.post("/models/first/load") == (200, answer)
    model = (await proxy.get("/models/first"))[1]
    assert model["status"] == "loaded"
    assert TIME.fullmatch(model["loaded_at"])
    answer = {"status": "success", "model": "first", "message": "Model first unloaded"}
    assert await proxy.post("/models/first/unload") == (200, answer)
    model = (await proxy.get("/models/first"))[1]
    assert model["status"] == "unloaded"
    assert TIME.fullmatch(model["unloaded_at"])
    assert model["total_uptime_seconds"] > 0


async def test_names_with_slash_and_colon(proxy: Client, ollama: Client) -> None:
    for path in ("/models/team/second:v1", "/models/team%2Fsecond%3Av1"):
        assert (await proxy.post(f"{path}/load"))[1]["model"] == "team/second:v1"
        assert (await proxy.get(path))[1]["status"] == "loaded"
    assert await ollama.resident() == ["beta:latest"]


async def test_not_waiting(proxy: Client) -> None:
    status, answer = await proxy.post("/models/first/load?wait=false")
    assert (status, answer["status"], answer["model"]) == (202, "accepted", "first")


async def test_unknown_names_are_refused_and_leave_no_trace(proxy: Client, ollama: Client) -> None:
    for method, path in ((proxy.get, "/models/nope"), (proxy.post, "/models/nope/load"), (proxy.get, "/metrics/nope")):
        status, answer = await method(path)
        assert (status, answer["status"], answer["error"]["code"]) == (404, "error", "model_not_found")
    assert (await proxy.post("/models/gone/load"))[0] == 409
    for path, body in (
        ("/api/generate", {"model": "nope", "prompt": "x"}),
        ("/api/chat", {"model": "nope", "messages": []}),
        ("/v1/chat/completions", {"model": "nope", "messages": [{"role": "user", "content": "x"}]}),
    ):
        direct, through = await ollama.post(path, body), await proxy.post(path, body)
        assert direct == through
        assert direct[0] == 404
    assert "nope" not in (await proxy.get("/metrics"))[1]
    assert all(m["name"] != "nope" for m in (await proxy.get("/models"))[1]["models"])


async def test_counts_agree_and_loads_are_no_requests(proxy: Client) -> None:
    for _ in range(3):
        await proxy.generate("alpha")
    await proxy.post("/v1/chat/completions", {"model": "first", "messages": [{"role": "user", "content": "x"}]})
    await proxy.post("/api/generate", {"model": "alpha"})
    await proxy.post("/api/generate", {"model": "alpha", "keep_alive": 0})
    await proxy.post("/models/first/load")
    assert (await proxy.get("/metrics/first"))[1]["request_count"] == 4
    text = (await proxy.get("/metrics"))[1]
    assert 'swapper_model_requests_total{endpoint="generate",model="first",status="200"} 3.0' in text
    assert 'swapper_model_requests_total{endpoint="v1_chat_completions",model="first",status="200"} 1.0' in text
    assert 'swapper_generated_tokens_total{model="first"} 28.0' in text  # 3 * 4, and the Modelfile's 16


async def test_usage_per_model(proxy: Client) -> None:
    async with proxy.stream("alpha", 30) as stream:
        native = [json.loads(line) async for line in stream.content][-1]
    chat = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "stream": True}
    asked = chat | {"stream_options": {"include_usage": True}}
    async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=asked) as stream:
        openai = json.loads(
            [event async for event in stream.content if b'"usage"' in event][-1].removeprefix(b"data: ")
        )
    whole = (await proxy.generate("alpha", 7))[1]
    measured = (await proxy.get("/metrics/first"))[1]
    assert measured["generated_tokens"] == 30 + 20 + 7
    prompts = native["prompt_eval_count"], openai["usage"]["prompt_tokens"], whole["prompt_eval_count"]
    assert measured["prompt_tokens"] == sum(prompts)
    assert measured["tokens_per_second"] > 0
    assert measured["time_to_first_token_seconds"] > 0
    assert await proxy.metric("swapper_time_to_first_token_seconds_count", model="first") == 2
    assert await proxy.metric("swapper_prompt_tokens_total", model="first") == sum(prompts)
    speed = native["eval_count"] / native["eval_duration"] * 1e9
    assert await proxy.metric("swapper_tokens_per_second_sum", model="first") >= speed


async def test_metrics_in_both_formats(proxy: Client) -> None:
    assert (await proxy.get("/metrics"))[1].startswith("# HELP")
    assert (await proxy.get("/metrics", Accept="text/plain;q=0.5, application/json;q=0.4"))[1].startswith("# HELP")
    for answer in (
        await proxy.get("/metrics?format=json"),
        await proxy.get("/metrics", Accept="application/json"),
        await proxy.get("/metrics", Accept="application/json, text/plain"),
    ):
        assert {
            "model_name": "first",
            "status": "unloaded",
            "loaded_at": None,
            "uptime_hours": 0,
            "request_count": 0,
            "total_uptime_seconds": 0,
            "prompt_tokens": 0,
            "generated_tokens": 0,
            "tokens_per_second": None,
            "time_to_first_token_seconds": None,
        } in answer[1]["metrics"]


async def test_foreign_pages_and_hosts_are_kept_out(proxy: Client) -> None:
    foreign = {"Origin": "https://evil.example"}
    assert (await proxy.post("/models/first/load", **foreign))[1]["error"]["code"] == "origin_not_allowed"
    assert (await proxy.post("/api/generate", {"model": "alpha"}, **foreign))[0] == 403
    assert (await proxy.post("/models/first/load", Host="evil.example"))[1]["error"]["code"] == "host_not_allowed"
    async with proxy.session.get(f"{proxy.url}/api/tags", headers={"Origin": "http://localhost:3000"}) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


async def test_hosts_are_allowed_in_any_case(session: aiohttp.ClientSession, ollama: Client) -> None:
    server = Server(port=0, allowed_hosts=("Box.Example",))
    async with running(msgspec.structs.replace(settings(ollama.url), server=server)) as up:
        assert (await Client(session, up.url).post("/models/first/load", Host="bOX.example:8890"))[0] == 200


async def test_wrong_methods_in_the_management_dialect(proxy: Client) -> None:
    status, answer = await proxy.post("/status")
    assert (status, answer["error"]["code"]) == (405, "method_not_allowed")


async def test_a_name_that_a_foreign_name_server_points_here_is_no_own_page(proxy: Client) -> None:
    rebound = {"Host": "evil.example:8890", "Origin": "http://evil.example:8890"}
    assert (await proxy.post("/api/generate", {"model": "alpha", "keep_alive": 0}, **rebound))[0] == 403
    assert (await proxy.post("/api/generate", {"model": "alpha"}, Origin="http://["))[0] == 403
