"""What is kept of requests, swaps, states and problems, through the proxy on the simulated Ollama."""

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest

from swapper_proxy.app import running
from swapper_proxy.config import ConfigError, History, Upstream
from swapper_proxy.ollama.simulator import Answers, Faults, SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, settings, until
from tests.e2e.process import served
from tests.real.server import free_port

TWO = [SimulatedModel(name, 10**9, load_s=0.01, tokens_per_second=1000) for name in ("alpha", "beta")]


@pytest.fixture
async def simulator() -> AsyncIterator[str]:
    async with serving(Simulator(TWO)) as url:
        yield url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "history.sqlite"


@asynccontextmanager
async def keeping(session: aiohttp.ClientSession, upstream: str, file: Path | None) -> AsyncIterator[Client]:
    """The proxy with its history there; with none, it is off."""
    chosen = msgspec.structs.replace(settings(upstream), history=History(path=file and str(file)))
    async with running(chosen) as proxy:
        yield Client(session, proxy.url)


async def kept(proxy: Client, table: str, number: int, query: str = "") -> list[Any]:
    """Those that match, once there are so many."""
    rows: list[Any] = []

    async def there() -> bool:
        status, answer = await proxy.get(f"/history/{table}{query}")
        assert status == 200, answer
        rows[:] = answer[table]
        return len(rows) >= number

    await until(there)
    assert len(rows) == number
    return rows


async def test_rows_of_requests_swaps_and_states(session: aiohttp.ClientSession, simulator: str, file: Path) -> None:
    async with keeping(session, simulator, file) as proxy:
        await proxy.generate("alpha", 5)
        await proxy.generate("beta", 6)
        newest, oldest = await kept(proxy, "requests", 2)
        assert (newest["model"], newest["generated_tokens"], newest["status"]) == ("team/second:v1", 6, 200)
        assert (oldest["model"], oldest["generated_tokens"], oldest["endpoint"]) == ("first", 5, "generate")
        assert set(newest) == {
            *("id", "time", "model", "endpoint", "status", "wait_s", "first_byte_s", "duration_s"),
            *("prompt_tokens", "generated_tokens", "load_s", "generation_s"),
        }
        assert 0 < newest["wait_s"] <= newest["duration_s"]
        assert newest["time"][-10:-6].startswith(".")
        assert newest["time"].endswith("+00:00")
        swap, first = await kept(proxy, "swaps", 2)
        assert (first["from_model"], first["to_model"], first["failed"]) == ("", "first", False)
        assert (swap["from_model"], swap["to_model"]) == ("first", "team/second:v1")
        assert set(swap) == {
            *("id", "time", "from_model", "to_model", "reason", "drain_s", "unload_s", "load_s", "failed")
        }
        states = (await proxy.get("/history/states?model=first"))[1]["states"]
        assert [s["state"] for s in reversed(states)][:2] == ["loading", "loaded"]
        assert set(states[0]) == {"id", "time", "model", "state", "cause"}


async def test_filters(session: aiohttp.ClientSession, simulator: str, file: Path) -> None:
    async with keeping(session, simulator, file) as proxy:
        for model in ("alpha", "beta", "alpha"):
            await proxy.generate(model)
        all_of_them = await kept(proxy, "requests", 3)
        moment = quote(all_of_them[1]["time"])
        for query, ids in (
            ("model=first", (3, 1)),
            ("endpoint=chat", ()),
            ("endpoint=generate&status=200&limit=1000", (3, 2, 1)),
            ("status=404", ()),
            (f"since={moment}&model=first", (3,)),
            (f"since={all_of_them[0]['time']}", (3,)),  # its + is not encoded
            (f"until={moment}", (1,)),
            ("until=1000.5", ()),
            ("since=2001-01-01", (3, 2, 1)),
            ("before=3", (2, 1)),
        ):
            assert tuple(r["id"] for r in await kept(proxy, "requests", len(ids), f"?{query}")) == ids
        assert [s["to_model"] for s in await kept(proxy, "swaps", 3, "?model=first")] == [
            *("first", "team/second:v1", "first")
        ]


async def test_pages(session: aiohttp.ClientSession, simulator: str, file: Path) -> None:
    async with keeping(session, simulator, file) as proxy:
        for _ in range(5):
            await proxy.generate("alpha")
        await kept(proxy, "requests", 5)
        ids, path = [], "/history/requests?limit=2"
        for size in (2, 2, 1):
            answer = (await proxy.get(path))[1]
            assert len(answer["requests"]) == size
            ids += [row["id"] for row in answer["requests"]]
            path = f"/history/requests?limit=2&before={answer['next']}"
        assert (ids, answer["next"]) == ([5, 4, 3, 2, 1], None)


async def test_usage(session: aiohttp.ClientSession, simulator: str, file: Path) -> None:
    async with keeping(session, simulator, file) as proxy:
        await proxy.generate("alpha", 3)
        await proxy.generate("alpha", 4)
        await proxy.generate("beta", 5)
        await kept(proxy, "requests", 3)
        rows = (await proxy.get("/history/usage?by=day"))[1]["usage"]
        assert {(r["model"], r["generated_tokens"]) for r in rows} == {("first", 7), ("team/second:v1", 5)}
        assert set(rows[0]) == {
            *("start", "model", "requests", "errors", "prompt_tokens", "generated_tokens"),
            *("wait_s_mean", "wait_s_max", "generation_s", "refused"),
        }
        assert rows[0]["start"].endswith("T00:00:00+00:00")
        hourly = (await proxy.get("/history/usage?model=first"))[1]["usage"]
        assert sum(r["requests"] for r in hourly) == 2
        assert all(r["start"].endswith(":00:00+00:00") for r in hourly)
        assert (await proxy.get("/history/usage?until=5"))[1] == {"usage": []}


@pytest.mark.parametrize(
    "query",
    [
        "requests?limit=0",
        "requests?limit=1001",
        "requests?limit=-1",
        "requests?limit=",
        "requests?limit=%D9%A3",
        "requests?limit=1&limit=2",
        "requests?before=0",
        "requests?before=9223372036854775808",
        "requests?before=99999999999999999999999",
        "requests?status=ok",
        "requests?status=99",
        "requests?model=",
        "requests?model=%00",
        "requests?model=a%0Ab",
        "requests?since=yesterday",
        "requests?since=-1",
        "requests?since=nan",
        "requests?since=1e400",
        "requests?since=99999999999999999999",
        "requests?until=2025-13-01T00:00:00Z",
        "requests?until=0001-01-01T00:00:00%2B14:00",
        "requests?by=day",
        "requests?id=1",
        "swaps?status=200",
        "swaps?endpoint=chat",
        "states?status=200",
        "usage?by=week",
        "usage?limit=5",
        "usage?before=5",
        "usage?since=1%20OR%201",
    ],
)
async def test_parameters_are_refused(session: aiohttp.ClientSession, simulator: str, file: Path, query: str) -> None:
    async with keeping(session, simulator, file) as proxy:
        status, answer = await proxy.get(f"/history/{query}")
    assert (status, answer["status"], answer["error"]["code"]) == (400, "error", "invalid_parameter")


async def test_a_name_in_bytes_that_are_no_text_means_nothing(
    session: aiohttp.ClientSession, simulator: str, file: Path
) -> None:
    async with keeping(session, simulator, file) as proxy:
        status, answer = await proxy.get("/history/requests?model=%FF%C3")
    assert status in (200, 400)
    assert answer.get("requests", []) == []


@pytest.mark.parametrize("path", ["/history", "/history/", "/history/prompts", "/history/requests/1"])
async def test_other_pages_are_not_there(session: aiohttp.ClientSession, simulator: str, file: Path, path: str) -> None:
    async with keeping(session, simulator, file) as proxy:
        assert (await proxy.get(path))[0] == 404
        assert (await proxy.post(path.rstrip("/")))[0] == 405


async def test_off(session: aiohttp.ClientSession, simulator: str, tmp_path: Path) -> None:
    async with keeping(session, simulator, None) as proxy:
        assert (await proxy.generate("alpha"))[0] == 200
        for page in ("requests", "swaps", "states", "usage"):
            status, answer = await proxy.get(f"/history/{page}")
            assert (status, answer["error"]["code"]) == (404, "history_off")
    assert list(tmp_path.iterdir()) == []


async def test_totals_outlive_a_restart(session: aiohttp.ClientSession, simulator: str, file: Path) -> None:
    async with keeping(session, simulator, file) as proxy:
        await proxy.generate("alpha", 5)
        await proxy.generate("alpha", 5)
        before = (await proxy.get("/metrics/first"))[1]
    async with keeping(session, simulator, file) as proxy:
        after = (await proxy.get("/metrics/first"))[1]
        assert after["request_count"] == 2
        assert after["generated_tokens"] == 10
        assert after["tokens_per_second"] == pytest.approx(before["tokens_per_second"])
        assert after["total_uptime_seconds"] >= before["total_uptime_seconds"] > 0
        assert (await proxy.get("/models/first"))[1]["total_uptime_seconds"] >= after["total_uptime_seconds"]
        assert await proxy.metric("swapper_generated_tokens_total") == 0
        await proxy.generate("alpha", 5)
        assert (await proxy.get("/metrics/first"))[1]["request_count"] == 3
        assert await proxy.metric("swapper_model_requests_total", model="first") == 1
    async with keeping(session, simulator, file) as proxy:
        assert (await proxy.get("/metrics/first"))[1]["request_count"] == 3


async def test_two_proxies_may_share_a_file(session: aiohttp.ClientSession, simulator: str, file: Path) -> None:
    async with keeping(session, simulator, file) as one, keeping(session, simulator, file) as other:
        await asyncio.gather(*(proxy.generate("alpha") for proxy in (one, other, one)))
        assert len(await kept(one, "requests", 3)) == len(await kept(other, "requests", 3))
    async with keeping(session, simulator, file) as proxy:
        assert (await proxy.get("/metrics/first"))[1]["request_count"] == 3


async def test_a_file_of_a_newer_version_stops_the_start(
    session: aiohttp.ClientSession, simulator: str, tmp_path: Path
) -> None:
    file = tmp_path / "h.sqlite"
    newer(file)
    with pytest.raises(ConfigError, match=r"^history.path: .*h.sqlite was written by a newer version"):
        async with keeping(session, simulator, file):
            pass


async def test_a_broken_file_costs_only_the_history(
    session: aiohttp.ClientSession, simulator: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "h.sqlite"
    file.write_bytes(b"this is no database" * 1000)
    async with keeping(session, simulator, file) as proxy:
        assert (await proxy.generate("alpha"))[0] == 200
        status, answer = await proxy.get("/history/requests")
        assert (status, answer["error"]["code"]) == (503, "history_unavailable")
        assert "not a database" in answer["error"]["message"]
    begins, ends = [r.message for r in caplog.records if r.message.startswith("history: ")]
    assert "h.sqlite cannot be used" in begins
    assert "not kept" in ends
    assert file.read_bytes().startswith(b"this is no database")


async def test_a_process_that_is_killed_leaves_what_was_shown(
    session: aiohttp.ClientSession, simulator: str, file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"history: {{path: {file}}}\nmodels: {{first: {{path: 'ollama:alpha'}}}}")
    arguments = ("--config", str(config))
    async with served(session, simulator, tmp_path, *arguments) as (proxy, process):
        await proxy.generate("alpha", 5)
        await kept(proxy, "requests", 1)

        async def uptime_is_kept() -> bool:
            return bool(uptime(file))

        await until(uptime_is_kept)
        os.kill(process, signal.SIGKILL)
    async with served(session, simulator, tmp_path, *arguments) as (proxy, _):
        assert (await kept(proxy, "requests", 1))[0]["generated_tokens"] == 5
        figures = (await proxy.get("/metrics/first"))[1]
        assert figures["request_count"] == 1
        assert figures["total_uptime_seconds"] > 0
        states = await kept(proxy, "states", 4, "?model=first")
        assert [(s["state"], s["cause"]) for s in reversed(states)] == [
            *(("loading", "idle"), ("loaded", "idle"), ("unloaded", "stopped"), ("loaded", "observed"))
        ]


async def test_a_full_disk_costs_nothing_if_there_is_room_again(
    session: aiohttp.ClientSession, simulator: str, file: Path, tmp_path: Path
) -> None:
    config, said = tmp_path / "c.yaml", tmp_path / "serve.log"
    config.write_text(f"history: {{path: {file}}}")
    full = ("prlimit", "--fsize=150000:")  # no file may take more
    asked = 0
    async with served(session, simulator, tmp_path, "--config", str(config), before=full) as (proxy, process):

        async def is_full() -> bool:
            nonlocal asked
            assert (await proxy.generate("alpha"))[0] == 200
            asked += 1
            return "cannot be used" in said.read_text()

        await until(is_full)
        assert (await proxy.generate("beta"))[0] == 200
        assert (await proxy.get("/health"))[1]["status"] == "healthy"
        assert (await proxy.get("/history/requests"))[0] == 200  # what was written before can be read
        _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (hard, hard))

        async def is_written() -> bool:
            rows = (await proxy.get("/history/usage"))[1]["usage"]
            return sum(row["requests"] for row in rows) == asked + 1

        await until(is_written)
    log = said.read_text()
    assert log.count("WARNING") == log.count("cannot be used") == log.count("is used again") == 1


async def test_the_command_line_refuses_a_newer_file(simulator: str, tmp_path: Path) -> None:
    newer(tmp_path / "h.sqlite")
    (tmp_path / "c.yaml").write_text(f"history: {{path: {tmp_path}/h.sqlite}}\nserver: {{port: 0}}")
    command = (sys.executable, "-m", "swapper_proxy", "serve", "--config", str(tmp_path / "c.yaml"))
    process = await asyncio.create_subprocess_exec(*command, "--upstream", simulator, stderr=subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().startswith("swapper-proxy: history.path: ")
    assert said.count(b"\n") == 1


def newer(file: Path) -> None:
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version = 99")
    db.close()


def uptime(file: Path) -> float:
    db = sqlite3.connect(file)
    try:
        return float(db.execute("SELECT coalesce(sum(total_s), 0) FROM uptimes").fetchone()[0])
    finally:
        db.close()


# Outages and refusals


@asynccontextmanager
async def before_one_that_is_away(session: aiohttp.ClientSession, file: Path) -> AsyncIterator[Client]:
    """The proxy with its history there, and nothing where Ollama should be."""
    url = f"http://127.0.0.1:{free_port()}"
    chosen = msgspec.structs.replace(
        settings(url), history=History(path=str(file)), upstream=Upstream(url=url, grace=0.0)
    )
    async with running(chosen) as proxy:
        yield Client(session, proxy.url)


async def problems(proxy: Client, query: str = "") -> list[Any]:
    return list((await proxy.get(f"/history/problems{query}"))[1]["problems"])


async def test_an_outage_leaves_its_trace_and_does_not_fill_the_file(
    session: aiohttp.ClientSession, file: Path
) -> None:
    """Thousands of refused requests are a few rows; what they come to is exact."""
    number = 1000
    async with before_one_that_is_away(session, file) as proxy:
        for _ in range(number // 50):
            answers = await asyncio.gather(*(proxy.generate("alpha") for _ in range(50)))
            assert {status for status, _ in answers} == {502}

        async def all_there() -> bool:
            return sum(row["count"] for row in await problems(proxy, "?status=502")) == number

        await until(all_there)
        rows = await problems(proxy)
        (outage,) = [row for row in rows if row["status"] == 0]
        refusals = [row for row in rows if row["status"]]
        assert len(refusals) <= 5  # one for each minute
        assert (outage["model"], outage["code"], outage["count"]) == ("", "upstream_unreachable", 1)
        for row in refusals:
            assert (row["model"], row["code"], row["sent"]) == ("first", "upstream_unreachable", False)
            assert "Ollama is not reachable" in row["message"]
            assert row["time"] <= row["until"]
        usage = (await proxy.get("/history/usage"))[1]["usage"]
        assert {row["model"] for row in usage} == {"first"}
        assert (sum(row["refused"] for row in usage), sum(row["requests"] for row in usage)) == (number, 0)
        assert await problems(proxy, "?model=first&code=queue_full") == []
        assert await proxy.metric("swapper_rejected_requests_total", reason="upstream_unreachable") == number
    async with before_one_that_is_away(session, file) as proxy:  # and after the next start

        async def still_away() -> bool:
            return len([row for row in await problems(proxy) if row["code"] == "upstream_unreachable"]) > len(rows)

        await until(still_away)
        assert [row["code"] for row in reversed(await problems(proxy)) if not row["status"]] == [
            *("upstream_unreachable", "proxy_stopped", "upstream_unreachable")
        ]
        kept = [row for row in await problems(proxy) if row["status"]]
        assert kept == refusals


async def test_what_was_refused_in_the_last_moment_is_kept(session: aiohttp.ClientSession, file: Path) -> None:
    async with before_one_that_is_away(session, file) as proxy:
        for _ in range(3):
            assert (await proxy.generate("alpha"))[0] == 502
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT sum(count) FROM problems WHERE status = 502").fetchone() == (3,)


async def test_a_refusal_of_any_kind_is_kept(session: aiohttp.ClientSession, simulator: str, file: Path) -> None:
    chosen = settings(simulator, memory_budget_gb=0.5, mode="multi-active")
    server = msgspec.structs.replace(chosen.server, max_body_bytes=1000)
    chosen = msgspec.structs.replace(chosen, history=History(path=str(file)), server=server)
    async with running(chosen) as up:
        proxy = Client(session, up.url)
        assert (await proxy.generate("alpha"))[0] == 507
        assert (await proxy.post("/api/generate", {"model": "beta"}, **{"X-Swapper-Priority": "x"}))[0] == 400
        assert (await proxy.generate("alpha", prompt="x" * 2000))[0] == 413

        async def there() -> bool:
            return len(await problems(proxy)) == 3

        await until(there)
        told = {(row["status"], row["model"], row["code"]) for row in await problems(proxy)}
        assert {(status, model) for status, model, _ in told} == {(507, "first"), (400, ""), (413, "")}
        for _, _, code in told:
            assert await proxy.metric("swapper_rejected_requests_total", reason=code) == 1
        usage = (await proxy.get("/history/usage"))[1]["usage"]
        assert {(row["model"], row["refused"], row["requests"]) for row in usage} == {("", 2, 0), ("first", 1, 0)}


async def test_what_ollama_had_is_no_refusal_in_the_usage(session: aiohttp.ClientSession, file: Path) -> None:
    """It is among the requests already, with its status."""
    faults = Faults()
    async with serving(Simulator(TWO, faults=faults)) as url, keeping(session, url, file) as proxy:
        await proxy.generate("alpha")
        faults.answers = Answers.RESET
        assert (await proxy.generate("alpha"))[0] == 502

        async def there() -> bool:
            return len(await problems(proxy, "?status=502")) == 1

        await until(there)
        assert (await problems(proxy, "?status=502"))[0]["sent"] is True
        (usage,) = (await proxy.get("/history/usage"))[1]["usage"]
        assert (usage["requests"], usage["errors"], usage["refused"]) == (2, 1, 0)


async def test_a_load_that_nobody_waits_for_leaves_its_trace(session: aiohttp.ClientSession, file: Path) -> None:
    async with AsyncExitStack() as ollama, AsyncExitStack() as stack:
        url = await ollama.enter_async_context(serving(Simulator([SimulatedModel("alpha", size=1)])))
        upstream = Upstream(url=url, grace=0.0)
        chosen = msgspec.structs.replace(settings(url), history=History(path=str(file)), upstream=upstream)
        proxy = Client(session, (await stack.enter_async_context(running(chosen))).url)
        assert (await proxy.generate("alpha"))[0] == 200
        await ollama.aclose()

        async def away() -> bool:
            return bool((await proxy.status())["reason"])

        await until(away)
        assert (await proxy.post("/models/first/load?wait=false"))[0] == 202

        async def told() -> bool:
            return [(row["model"], row["code"]) for row in await problems(proxy, "?status=502")] == [
                ("first", "upstream_unreachable")
            ]

        await until(told)
