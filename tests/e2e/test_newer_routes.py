"""What newer versions of Ollama have, on the simulator: each route swaps, counts, and fails in its dialect."""

import asyncio
import io
from typing import Any

import aiohttp
import pytest

from swapper_proxy.ollama.simulator import SimulatedModel
from tests.e2e.conftest import Client, busy, simulated, waits

ABLE = ("audio",)
MODELS = [
    SimulatedModel("one", size=1, load_s=0.02, tokens_per_second=1000, capabilities=ABLE),
    SimulatedModel("two", size=1, load_s=0.02, tokens_per_second=1000, capabilities=ABLE),
    SimulatedModel("brush", size=1, load_s=0.02, tokens_per_second=1000, capabilities=("image",)),
    SimulatedModel("pencil", size=1, load_s=0.02, tokens_per_second=1000, capabilities=("image",)),
    SimulatedModel("broken", size=1, load_s=0.02, capabilities=ABLE, broken=True),
]
MESSAGES = [{"role": "user", "content": "x"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"max_tokens": 5, "messages": MESSAGES},
    "/v1/images/generations": {"prompt": "x"},
    "/v1/images/edits": {"prompt": "x", "image": "iVBORw0KGgo="},
    "/v1/audio/transcriptions": {"file": b"RIFF"},
}
LABELS = {path: path.removeprefix("/").replace("/", "_") for path in BODIES}


async def ask(proxy: Client, path: str, model: str) -> tuple[int, Any]:
    """A request as the clients of this route write it."""
    body: Any = {"model": model, **BODIES[path]}
    async with proxy.session.post(proxy.url + path, **written(body)) as answer:
        return answer.status, await answer.json()


def written(body: dict[str, Any]) -> dict[str, Any]:
    if "file" not in body:
        return {"json": body}
    form = aiohttp.FormData()
    for name, value in body.items():
        form.add_field(name, value, filename="a.wav" if name == "file" else None)
    return {"data": form}


def told(path: str, answer: Any) -> tuple[str, str]:
    """Type and text of an error, which has the shape of the route."""
    if path == "/v1/messages":
        assert answer.keys() == {"type", "error", "request_id"}
        assert answer["error"].keys() == {"type", "message"}
    else:
        assert answer.keys() == {"error"}
        assert answer["error"].keys() == {"message", "type", "param", "code"}
    return answer["error"]["type"], answer["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_two_models_in_turn(session: aiohttp.ClientSession, path: str) -> None:
    names = ("brush", "pencil") if "images" in path else ("one", "two")
    async with simulated(session, *MODELS, unload_settle=0) as proxy:
        for name in (*names, names[0]):
            status, answer = await ask(proxy, path, name)
            assert (status, answer.get("error")) == (200, None)
            assert await proxy.resident() == [f"{name}:latest"]
        labels = {"endpoint": LABELS[path], "status": "200"}
        counted = [await proxy.metric("swapper_model_requests_total", model=f"{n}:latest", **labels) for n in names]
        assert counted == [2, 1]
        assert await proxy.metric("swapper_load_seconds_count") == 3


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "limit"), [("/v1/responses", "max_output_tokens"), ("/v1/messages", "max_tokens")])
async def test_tokens(session: aiohttp.ClientSession, path: str, limit: str, stream: bool) -> None:
    async with simulated(session, *MODELS) as proxy:
        await proxy.post(path, {"model": "one", **BODIES[path], limit: 7, "stream": stream})
        assert await proxy.metric("swapper_generated_tokens_total", model="one:latest") == 7
        assert await proxy.metric("swapper_prompt_tokens_total", model="one:latest") == 2


@pytest.mark.parametrize("path", BODIES)
async def test_an_unknown_model(session: aiohttp.ClientSession, path: str) -> None:
    async with simulated(session, *MODELS) as proxy:
        assert (await proxy.generate("one"))[0] == 200
        status, answer = await ask(proxy, path, "nope")
        assert (status, told(path, answer)[0]) == (404, "not_found_error")
        assert await proxy.resident() == ["one:latest"]
        assert await proxy.metric("swapper_model_requests_total", endpoint=LABELS[path]) == 0


@pytest.mark.parametrize("path", BODIES)
async def test_a_full_queue(session: aiohttp.ClientSession, path: str) -> None:
    async with simulated(session, *MODELS, max_queue=1) as proxy, busy(proxy, "one"):
        waiting = asyncio.create_task(proxy.generate("two"))
        await waits(proxy, 1)
        status, answer = await ask(proxy, path, "two")
        kind = "overloaded_error" if path == "/v1/messages" else "api_error"
        assert (status, told(path, answer)) == (503, (kind, "the queue is full, please try again later"))
        waiting.cancel()


@pytest.mark.parametrize("path", [path for path in BODIES if "images" not in path])
async def test_a_load_that_fails(session: aiohttp.ClientSession, path: str) -> None:
    async with simulated(session, *MODELS) as proxy:
        status, answer = await ask(proxy, path, "broken")
        assert status == 500
        assert told(path, answer) == ("api_error", "llama runner process has terminated: exit status 2")
        status, answer = await ask(proxy, path, "broken")
        assert status == 503
        assert told(path, answer)[0] == ("overloaded_error" if path == "/v1/messages" else "api_error")
        assert (await ask(proxy, path, "one"))[0] == 200


async def test_a_recording_under_a_configured_name(session: aiohttp.ClientSession) -> None:
    model = SimulatedModel("alpha", size=1, load_s=0.0, tokens_per_second=0, capabilities=ABLE)
    async with simulated(session, model) as proxy:
        assert (await ask(proxy, "/v1/audio/transcriptions", "first"))[0] == 200
        labels = {"model": "first", "endpoint": "v1_audio_transcriptions", "status": "200"}
        assert await proxy.metric("swapper_model_requests_total", **labels) == 1


async def test_a_large_recording(session: aiohttp.ClientSession) -> None:
    async with simulated(session, *MODELS) as proxy:
        body = {"file": io.BytesIO(bytes(3_000_000)), "model": "one"}
        async with session.post(f"{proxy.url}/v1/audio/transcriptions", **written(body)) as answer:
            assert answer.status == 200


async def test_a_form_that_could_be_read_in_two_ways(session: aiohttp.ClientSession) -> None:
    async with simulated(session, *MODELS) as proxy:
        form = written({"file": b"RIFF", "model": "one"})
        async with session.post(f"{proxy.url}/v1/audio/transcriptions?model=two", **form) as answer:
            assert answer.status == 400
            kind, text = told("/v1/audio/transcriptions", await answer.json())
        assert (kind, "model" in text) == ("invalid_request_error", True)
        assert await proxy.resident() == []


async def test_no_form_at_all_is_for_ollama_to_refuse(session: aiohttp.ClientSession) -> None:
    async with simulated(session, *MODELS) as proxy:
        status, answer = await proxy.post("/v1/audio/transcriptions", {"model": "one"})
        text = "failed to parse multipart form: request Content-Type isn't multipart/form-data"
        assert (status, told("/v1/audio/transcriptions", answer)) == (400, ("invalid_request_error", text))
        assert await proxy.resident() == []


async def test_a_model_that_runs_elsewhere_waits_for_nobody(session: aiohttp.ClientSession) -> None:
    far = SimulatedModel("far", size=400, tokens_per_second=0, remote_host="https://ollama.com", remote_model="far:1b")
    async with simulated(session, *MODELS, far) as proxy, busy(proxy, "one"):
        assert (await proxy.generate("far"))[1]["remote_model"] == "far:1b"
        for path in ("/v1/responses", "/v1/messages"):
            assert (await ask(proxy, path, "far"))[0] == 200
        assert await proxy.resident() == ["one:latest"]
        assert await proxy.metric("swapper_remote_requests_total", model="far:latest", status="200") == 3


async def test_models_that_come_while_the_proxy_runs(session: aiohttp.ClientSession) -> None:
    async with simulated(session, *MODELS) as proxy:
        assert (await proxy.generate("made"))[0] == 404
        status, _ = await proxy.post("/api/create", {"model": "made", "from": "one", "stream": False})
        assert status == 200
        assert (await proxy.generate("made"))[0] == 200
        assert (await proxy.state("made")) == "loaded"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/images/generations"])
async def test_a_route_that_this_ollama_does_not_have_costs_one_swap_at_most(
    proxy: Client, ollama: Client, path: str
) -> None:
    body = {"model": "alpha", "input": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    for model in ("alpha", "beta", "alpha", "beta"):
        assert (
            await proxy.post(path, body | {"model": model})
            == await ollama.post(path, body)
            == (404, "404 page not found")
        )
    assert await proxy.metric("swapper_swaps_total") == 1
    assert (await proxy.generate("beta"))[0] == 200  # other routes are as they were
