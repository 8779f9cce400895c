"""A real Prometheus scrapes a proxy that has traffic: each query of the dashboard and of the alerts finds something."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.app import running
from swapper_proxy.core import estimates, policy
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime import watcher
from tests.e2e.conftest import Client, at_rest, busy, is_in, session, settings, until, waits
from tests.e2e.test_fairness import IMPATIENT
from tests.e2e.test_leaving import leaves
from tests.observability.binaries import promtool
from tests.observability.server import Prometheus, scraping
from tests.observability.shipped import alerts, metrics, queries

__all__ = ["session"]

LOAD_S = 2 * estimates.RELOAD_LEAST_S  # long enough to be told from looking up
MODELS = (
    SimulatedModel("alpha", load_s=LOAD_S, tokens_per_second=500),
    SimulatedModel("beta", load_s=LOAD_S, tokens_per_second=500),
    SimulatedModel("broken", load_s=0.01, broken=True),
    SimulatedModel("far:cloud", remote_host="https://elsewhere.example"),
)
CHOSEN = {"$model": ".*", "$__rate_interval": "1m", "$__range": "1h"}


@pytest.fixture
def short_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy looks at Ollama only at start, so that reloads go past it, and holds every idle model for a moment."""
    for pause in ("BUSY_S", "QUIET_S"):
        monkeypatch.setattr(watcher, pause, 3600.0)
    monkeypatch.setattr(policy, "hold_s", lambda *_: 0.05)


@pytest.fixture
async def ollama(session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    async with serving(Simulator(MODELS)) as url:
        yield Client(session, url)


@pytest.fixture
async def proxy(short_sight: None, ollama: Client) -> AsyncIterator[Client]:
    async with running(settings(ollama.url, unload_settle=0.0, max_wait=IMPATIENT)) as up:
        yield Client(ollama.session, up.url)


async def work(proxy: Client, ollama: Client) -> None:
    """Something of everything: swaps, holds and a drain, a reload, a stream, a client that leaves, a failed load
    and a refusal, a model elsewhere."""
    for model in ("alpha", "beta"):
        for _ in range(2):
            assert (await proxy.generate(model))[0] == 200
    await ollama.post("/api/generate", {"model": "beta", "keep_alive": 0})

    async def gone() -> bool:
        return not await ollama.resident()

    await until(gone)
    assert (await proxy.generate("beta"))[0] == 200
    async with proxy.stream("alpha", 4) as stream:
        assert b'"done":true' in await stream.read()
    async with busy(proxy, "alpha"):
        forcing = asyncio.create_task(proxy.generate("beta"))
        await is_in(proxy, "alpha", "draining")
    assert (await forcing)[0] == 200
    leaving = asyncio.create_task(proxy.generate("beta", 20_000))

    async def answering() -> bool:
        return (await proxy.status())["in_flight"] == 1

    await until(answering)
    await leaves(leaving)
    assert (await proxy.generate("broken"))[0] in (500, 503)
    assert (await proxy.generate("far:cloud"))[0] == 200
    assert (await proxy.generate("alpha"))[0] == 200  # and stays
    await at_rest(proxy)


def asked(query: str) -> str:
    """With what Grafana puts into it."""
    for variable, value in CHOSEN.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query


async def is_scraped(prometheus: Prometheus) -> None:
    """Until Prometheus knows that the load of a model has not failed yet."""

    async def known() -> bool:
        return await prometheus.values('swapper_load_failures_total{model="broken:latest"}') == [0.0]

    await until(known)


async def scraped_anew(prometheus: Prometheus, proxy: Client) -> None:
    """Until Prometheus knows as many requests as the proxy has had."""

    async def as_many() -> bool:
        had = await proxy.metric("swapper_queue_wait_seconds_count")
        return await prometheus.values("sum(swapper_queue_wait_seconds_count)") == [had]

    await until(as_many)


async def test_metrics_are_as_promtool_wants_them(proxy: Client, ollama: Client) -> None:
    await work(proxy, ollama)
    status, said = promtool("check", "metrics", text=(await proxy.get("/metrics"))[1])
    assert (status, said) == (0, "")


async def test_all_that_is_asked_for_is_there(proxy: Client, ollama: Client) -> None:
    """And the other way round: the dashboard leaves out nothing but the version, and what an alert tells."""
    await work(proxy, ollama)
    families = text_string_to_metric_families((await proxy.get("/metrics"))[1])
    shown = {sample.name for family in families for sample in family.samples}
    wanted = {name for _, query in queries() for name in metrics(query)} - {"ALERTS"}
    of_alerts = {name for rule in alerts() for name in metrics(rule["expr"])} - {"up"}
    assert wanted | of_alerts <= shown
    bases = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in shown}
    assert [base for base in sorted(bases) if not any(name.startswith(base) for name in wanted)] == [
        "swapper_build_info",
        "swapper_config_last_reload_successful",
        "swapper_scheduler_faults_total",
    ]


COUNTED = [query for _, query in queries() if "increase(" in query]
PROXY = {"job": "swapper-proxy", "instance": "p"}
# The proxy shows 0 for each model that it knows; the others begin with the first event, and have not increased by then.
FROM_ZERO = {"swapper_load_failures_total", "swapper_holds_total", "swapper_upstream_reloads_total"}


def of_a_panel(folder: Path, query: str, counted: str, scraped: str, expected: dict[str, float | None]) -> None:
    """What the sum of a query is at some times; None if there is nothing, or nothing above 0."""
    labels = dict.fromkeys(("model", "to_model", "from_model", "reason", "outcome", "cause"), "a") | {"status": "500"}
    series = [
        {"series": name + labelled(PROXY if name == "swapper_upstream_up" else PROXY | labels), "values": values}
        for name in metrics(query)
        for values in (scraped if name == "swapper_upstream_up" else counted,)
    ]
    cases = [
        {
            "expr": f"sum({asked(query)}) > 0",
            "eval_time": moment,
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for moment, value in expected.items()
    ]
    test = {
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": cases}],
    }
    (folder / "test.json").write_text(json.dumps(test))
    status, said = promtool("test", "rules", "test.json", cwd=folder)
    assert status == 0, said


def labelled(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


def test_what_is_counted_is_known() -> None:
    assert len(COUNTED) == 7
    assert {name for query in COUNTED for name in metrics(query)} >= FROM_ZERO


@pytest.mark.parametrize("query", COUNTED)
def test_what_happens_for_the_first_time_is_shown(tmp_path: Path, query: str) -> None:
    if FROM_ZERO & metrics(query):
        query = f"ceil({asked(query)}) / ceil({asked(query)})"  # how much of it depends on when it is scraped
        of_a_panel(tmp_path, query, "0x40 1x4", "1x44", {"9m45s": None, "10m30s": 1})
    else:
        of_a_panel(tmp_path, query, "_x40 1x4", "1x44", {"9m45s": None, "10m30s": 1})


@pytest.mark.parametrize("query", COUNTED)
@pytest.mark.parametrize("gap", ["stale", "stale _x5", "stale _x30"])
def test_a_gap_in_the_scrapes_shows_nothing(tmp_path: Path, query: str, gap: str) -> None:
    """What was counted long before is not shown as if it were new: neither in the gap nor after it."""
    times = [f"{seconds}s" for seconds in (*range(3900, 4600, 15), *range(7440, 8300, 15))]
    of_a_panel(tmp_path, query, f"7x260 {gap} 7x300", f"1x260 {gap} 1x300", dict.fromkeys(times))


async def test_every_query_finds_something(proxy: Client, ollama: Client, tmp_path: Path) -> None:
    async with scraping(ollama.session, proxy, tmp_path) as prometheus:
        await work(proxy, ollama)
        await scraped_anew(prometheus, proxy)
        await work(proxy, ollama)  # what is there since the last scrape can increase
        unanswered = [(title, asked(query)) for title, query in queries()]
        assert len(unanswered) > 30

        async def all_answered() -> bool:
            for entry in tuple(unanswered):
                if any(map(math.isfinite, await prometheus.values(entry[1]))):
                    unanswered.remove(entry)
            return not unanswered

        try:
            await until(all_answered)
        except TimeoutError:
            pytest.fail(f"without an answer: {unanswered}")


async def test_every_alert_can_be_worked_out(proxy: Client, ollama: Client, tmp_path: Path) -> None:
    async with scraping(ollama.session, proxy, tmp_path) as prometheus:
        await is_scraped(prometheus)
        await work(proxy, ollama)
        await scraped_anew(prometheus, proxy)
        for rule in alerts():
            for metric in metrics(rule["expr"]):
                assert await prometheus.values(metric), (rule["alert"], metric)

        async def states() -> dict[str, tuple[str, str]]:
            groups = (await prometheus.api("rules"))["groups"]
            return {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}

        expected = {rule["alert"]: ("ok", "inactive") for rule in alerts()} | {"SwapperLoadFailing": ("ok", "pending")}

        async def as_expected() -> bool:
            return await states() == expected

        await until(as_expected)


async def test_who_waits_is_seen(proxy: Client, ollama: Client, tmp_path: Path) -> None:
    async with scraping(ollama.session, proxy, tmp_path) as prometheus, proxy.stream("alpha", 20_000) as stream:
        await stream.content.readline()
        waiting = asyncio.create_task(proxy.generate("beta"))
        await waits(proxy, 1)

        async def seen() -> bool:
            near = "swapper_queue_depth > 0 and swapper_model_loaded == 0"
            return await prometheus.values(near) == [1.0]

        await until(seen)
        stream.close()
        assert (await waiting)[0] == 200
