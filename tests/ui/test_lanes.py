"""What the console's modules make of what they are told, in a real browser; without a proxy's doings."""

import json
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.e2e.conftest import Client
from tests.ui import test_console
from tests.ui.conftest import console

ollama, proxy = test_console.ollama, test_console.proxy  # fixtures
STAMP = "(moment) => new Date(1000 * moment).toISOString()"


async def told(browser: Browser, proxy: Client, script: str) -> Any:
    async with console(browser, proxy.url) as page:
        return await page.evaluate(f"async () => {{ const stamp = {STAMP}; {script} }}")


async def lanes(browser: Browser, proxy: Client, script: str) -> Any:
    head = 'const { Lanes } = await import("/ui/lanes.js"); const lanes = new Lanes();'
    return await told(browser, proxy, head + script)


async def test_a_model_that_was_found_in_memory_was_not_being_loaded_before(browser: Browser, proxy: Client) -> None:
    script = 'lanes.state("a", 500, "loaded"); return lanes.phases(["a"], 0, 1000, 1)'
    assert await lanes(browser, proxy, script) == [{"phase": "holding", "from": 500, "to": 1000}]


async def test_a_model_that_leaves_was_in_memory_as_far_back_as_all_is_known(browser: Browser, proxy: Client) -> None:
    script = """
        lanes.state("a", 500, "unloading");
        lanes.state("a", 510, "unloaded");
        return [lanes.phases(["a"], 0, 1000, 200), lanes.phases(["a"], 0, 1000)]
    """
    leaves = {"phase": "draining", "from": 500, "to": 510}
    assert await lanes(browser, proxy, script) == [[{"phase": "holding", "from": 200, "to": 500}, leaves], [leaves]]


async def test_what_is_seen_while_the_history_is_read_is_kept(browser: Browser, proxy: Client) -> None:
    script = """
        lanes.state("a", 10, "loading");
        lanes.swap({ time: stamp(20), to_model: "a" });
        const seen = new Lanes();
        for (const [moment, state] of [[10, "loading"], [20, "loaded"]]) seen.state("a", moment, state);
        for (const moment of [20, 30]) seen.swap({ time: stamp(moment), to_model: "a" });
        seen.request({ model: "a", time: stamp(25), duration_s: 4, wait_s: 1 });
        seen.observe([{ name: "a", known_as: "a", status: "loaded", in_flight: 1 }], 28);
        lanes.merge(seen);
        return [lanes.phases(["a"], 0, 30), lanes.serving(["a"], 0, 30, 0), lanes.swapsWithin(0, 100).length]
    """
    phases = [{"phase": "loading", "from": 10, "to": 20}, {"phase": "holding", "from": 20, "to": 30}]
    serving = [{"from": 22, "to": 25}, {"from": 28, "to": 30}]
    assert await lanes(browser, proxy, script) == [phases, serving, 2]


async def test_serving_ends_with_the_last_answer_not_when_it_is_noticed(browser: Browser, proxy: Client) -> None:
    script = """
        lanes.serves("a", true, 10.4);
        lanes.request({ model: "a", time: stamp(12), duration_s: 2, wait_s: 0 });
        lanes.serves("a", false, 12.5);
        return lanes.serving(["a"], 0, 100, 0)
    """
    assert await lanes(browser, proxy, script) == [{"from": 10, "to": 12}]


async def test_names_of_the_same_weights_have_one_lane(browser: Browser, proxy: Client) -> None:
    """What is told of them is told under any of their names."""
    script = """
        for (const [moment, name, state] of [[10, "a", "loading"], [20, "b", "loaded"], [30, "a", "unloaded"]])
            lanes.state(name, moment, state);
        lanes.request({ model: "a", time: stamp(22), duration_s: 1, wait_s: 0 });
        lanes.request({ model: "b", time: stamp(25), duration_s: 1, wait_s: 0 });
        const now = (name, in_flight) => ({ name, known_as: "b", status: "unloaded", in_flight });
        lanes.observe([now("a", 0), now("b", 0)], 40);
        return [lanes.phases(["a", "b"], 0, 50), lanes.serving(["a", "b"], 0, 50, 0)]
    """
    phases = [{"phase": "loading", "from": 10, "to": 20}, {"phase": "holding", "from": 20, "to": 30}]
    assert await lanes(browser, proxy, script) == [phases, [{"from": 21, "to": 22}, {"from": 24, "to": 25}]]


@pytest.mark.parametrize(
    ("seen_from", "said"),
    [
        (550, "14 swaps took 36 s, 72.0 % of the 50 s seen."),
        (0, "14 swaps took 36 s, 6.0 % of the 10 min seen."),
        (595, "14 swaps took 5 s, 100.0 % of the 5 s seen."),
        (600, "14 swaps took 0 s, 0.0 % of the 0 s seen."),
    ],
)
async def test_swaps_are_a_part_of_the_time_that_was_seen(
    browser: Browser, proxy: Client, seen_from: int, said: str
) -> None:
    script = f"""
        const {{ cost }} = await import("/ui/timeline.js");
        const swap = {{ time: stamp(600), drain_s: 0, unload_s: 0, load_s: 0 }};
        const swaps = [{{ ...swap, drain_s: 10, unload_s: 6, load_s: 20 }}, ...Array(13).fill(swap)];
        return cost(swaps, {seen_from}, 600)
    """
    assert await told(browser, proxy, script) == said


async def test_a_single_event_does_not_change_the_figures(browser: Browser, proxy: Client) -> None:
    """Else a model would be unloading, with the request in flight that it had when the figures were told."""
    script = """
        const { Live } = await import("/ui/live.js");
        const { Store } = await import("/ui/store.js");
        const model = { name: "a", known_as: "a", status: "loaded", in_flight: 1, uptime_s: 1 };
        const status = { status: "healthy", available_models: ["a"], memory: [] };
        const queue = { waiting: 0, requests: [], models: [], warnings: [] };
        const happened = { time: stamp(1), model: "a", state: "unloading", cause: "idle" };
        const events = [["snapshot", { status, models: [model], queue }], ["state", happened], ["swap", {}]];
        const wire = events.map(([kind, data]) => `event: ${kind}\ndata: ${JSON.stringify(data)}\n\n`).join("");
        const headers = { "Content-Type": "text/event-stream", "Date": new Date().toUTCString() };
        const fetched = window.fetch;
        window.fetch = async () => new Response(wire, { headers });
        const live = new Live(new Store()), states = [];
        live.on("state", (data) => states.push(data.state));
        await new Promise((resolve) => { live.on("swap", resolve); live.listen(); });
        live.source.close();
        window.fetch = fetched;
        const { status: shown, in_flight: answered } = live.store.models.get("a");
        return [shown, answered, states]
    """
    assert await told(browser, proxy, script) == ["loaded", 1, ["unloading"]]


async def test_a_day_of_requests_does_not_fill_the_memory(browser: Browser, proxy: Client) -> None:
    script = """
        for (let moment = 0; moment < 86_400; moment += 0.5)
            lanes.request({ model: "a", time: stamp(moment), duration_s: 0.4, wait_s: 0 });
        lanes.forget(0);
        return lanes.spans.get("a").length
    """
    assert await lanes(browser, proxy, script) == 1


@pytest.mark.parametrize(
    ("swapper", "rooms"),
    [
        ({"mode": "single-active", "budget": None, "slots": {}}, [["Resident models", 1, None, 2]]),
        ({"mode": "single-active", "budget": 8, "slots": {}}, [["Resident models", 1, 8, 2]]),
        ({"mode": "multi-active", "budget": 8, "slots": {}}, [["Resident models", None, 8, 2]]),
        (
            {"mode": "multi-active", "budget": 8, "slots": {"embedding": 1}},
            [["All models", None, 8, 2], ["Slots for embedding", 1, None, 1]],
        ),
        (
            {"mode": "single-active", "budget": None, "slots": {"embedding": 1}},
            [["All other models", 1, None, 1], ["Slots for embedding", 1, None, 1]],
        ),
    ],
)
async def test_the_budget_is_for_all_models_in_both_modes(
    browser: Browser, proxy: Client, swapper: dict[str, object], rooms: list[list[object]]
) -> None:
    script = f"""
        const {{ rooms }} = await import("/ui/memory.js");
        const {{ mode, budget, slots }} = {json.dumps(swapper)};
        const resident = (model, type) =>
            ({{ model, names: [model, `${{model}} too`], type, status: "loaded", size_gb: 1 }});
        const models = [resident("a", "llm"), resident("b", "embedding")];
        const config = {{ swapper: {{ mode, max_concurrent_models: null, memory_budget_gb: budget, slots }} }};
        return rooms(config, models).map((room) => [room.name, room.count, room.budget, room.models.length])
    """
    assert await told(browser, proxy, script) == rooms


async def troubles(browser: Browser, proxy: Client, script: str) -> Any:
    head = """
        const { Troubles } = await import("/ui/troubles.js"); const troubles = new Troubles();
        const plain = { model: "", status: 0, sent: false, count: 1 };
        const add = (moment, code, more = {}) =>
            troubles.add({ ...plain, time: stamp(moment), until: stamp(moment), code, ...more });
    """
    return await told(browser, proxy, head + script)


async def test_outages_begin_and_end_where_they_are_known_to(browser: Browser, proxy: Client) -> None:
    """One began before all that is known, one ended with the proxy, one goes on."""
    script = """
        for (const [moment, code] of [[50, "upstream_back"], [100, "upstream_unreachable"], [110, "proxy_stopped"],
            [300, "upstream_unreachable"], [105, "load_failed"]]) add(moment, code);
        add(120, "upstream_unreachable", { status: 502, model: "a" });
        return [troubles.outages(20, 400), troubles.outages(60, 90)]
    """
    spans = [{"from": 20, "to": 50}, {"from": 100, "to": 110}, {"from": 300, "to": 400}]
    assert await troubles(browser, proxy, script) == [spans, []]


async def test_a_refusal_that_grows_is_one_mark(browser: Browser, proxy: Client) -> None:
    script = """
        const refusal = { status: 502, model: "a" };
        add(100, "x", { ...refusal, count: 5, until: stamp(110) });
        add(100, "x", { ...refusal, count: 7, until: stamp(120) });
        add(100, "x", { ...refusal, count: 6, until: stamp(115) });
        add(100, "x", { ...refusal, model: "b" });
        const seen = (from, to) => troubles.refusals(from, to).map((one) => [one.model, one.count]);
        const before = [seen(0, 200), seen(118, 200), seen(121, 200)];
        troubles.forget(110);
        return [...before, seen(0, 200)]
    """
    assert await troubles(browser, proxy, script) == [[["a", 7], ["b", 1]], [["a", 7]], [], [["a", 7]]]
