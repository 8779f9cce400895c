"""The console in a real browser, on the proxy in front of the simulator."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from swapper_proxy.app import running
from swapper_proxy.config import History, Model, Server, Settings, Swapper, Upstream
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from tests.e2e.conftest import Client, at_rest, busy, until
from tests.real.server import free_port
from tests.ui.conftest import console, opened

HOSTILE = """<script>alert("x")</script><img src=x onerror='alert(1)'>&amp;"""
LONG = f"a-namespace/a-model-of-a-long-name-{'x' * 90}:q4"
MODELS = {
    "first": Model(path="ollama:alpha", size_gb=1, priority="high"),
    "team/second:v1": Model(path="ollama:beta", size_gb=2),
    "kept": Model(path="ollama:gamma", type="embedding", size_gb=1, pinned=True),
    "gone": Model(path="ollama:never-pulled", size_gb=1),
    "faulty": Model(path="ollama:broken", size_gb=1),
    HOSTILE: Model(path="ollama:hostile", size_gb=1),
}
SIMULATED = [
    SimulatedModel("alpha", load_s=0.05, tokens_per_second=200),
    SimulatedModel("beta", load_s=0.05, tokens_per_second=200),
    SimulatedModel("gamma", load_s=0.05, embedding_only=True),
    SimulatedModel("broken", load_s=0.05, broken=True),
    SimulatedModel("hostile", load_s=0.05, tokens_per_second=0),
    SimulatedModel("talker", load_s=0.05, tokens_per_second=5, parameters={"num_predict": 5000}),
]


def settings(ollama: str, history: Path | None = None, port: int = 0) -> Settings:
    return Settings(
        server=Server(port=port),
        upstream=Upstream(url=ollama),
        models=MODELS,
        swapper=Swapper(slots={"embedding": 1}),
        history=History(path=str(history) if history else None),
    )


@pytest.fixture
async def ollama() -> AsyncIterator[str]:
    async with serving(Simulator(SIMULATED, max_loaded=2)) as url:
        yield url


@pytest.fixture
async def proxy(session: aiohttp.ClientSession, ollama: str, tmp_path: Path) -> AsyncIterator[Client]:
    async with running(settings(ollama, tmp_path / "history.db")) as proxy:
        yield Client(session, proxy.url)


def row(page: Page, model: str) -> Locator:
    """Of a model in the table."""
    name = page.locator(".name").get_by_text(model, exact=True)
    return page.locator("#models tbody tr").filter(has=name)


def button(page: Page, action: str, model: str) -> Locator:
    return page.get_by_role("button", name=f"{action} {model}", exact=True)


def lane(page: Page, model: str) -> Locator:
    """Of a model in the timeline."""
    return page.locator(".lane").filter(has=page.locator(".label").get_by_text(model, exact=True))


@asynccontextmanager
async def asking(proxy: Client, model: str, number: int) -> AsyncIterator[None]:
    """So many requests that are answered in the end."""
    requests = [asyncio.ensure_future(proxy.generate(model)) for _ in range(number)]
    yield
    assert [(await request)[0] for request in requests] == [200] * number


async def test_a_model_is_loaded_and_unloaded_by_click(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        room = page.locator(".room").first
        await button(page, "Load", "team/second:v1").click()
        await expect(row(page, "team/second:v1").locator(".state")).to_have_text("loaded")
        await expect(room).to_contain_text("team/second:v1")
        await expect(room).to_contain_text("1 of 1 slot taken")
        assert await proxy.state("team/second:v1") == "loaded"
        await button(page, "Unload", "team/second:v1").click()
        await expect(row(page, "team/second:v1").locator(".state")).to_have_text("unloaded")
        await expect(room).to_contain_text("0 of 1 slot taken")
        assert await proxy.state("team/second:v1") == "unloaded"


async def test_a_model_is_pinned_and_unpinned_by_click(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        await button(page, "Pin", "first").click()
        await expect(row(page, "first").locator(".pin")).to_have_text("pinned")
        await expect(row(page, "first").locator(".state")).to_have_text("loaded")
        await expect(button(page, "Unload", "first")).to_have_attribute("aria-disabled", "true")
        await button(page, "Unpin", "first").click()
        await expect(button(page, "Pin", "first")).to_be_visible()
        await expect(row(page, "first").locator(".pin")).to_have_text("")
        await button(page, "Unload", "first").click()
        await expect(row(page, "first").locator(".state")).to_have_text("unloaded")


async def test_a_model_is_loaded_by_keyboard_and_the_focus_stays(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the models")).to_be_focused()
        await button(page, "Load", "first").focus()
        await page.keyboard.press("Enter")
        await expect(row(page, "first").locator(".state")).to_have_text("loaded")
        await expect(button(page, "Load", "first")).to_be_focused()
        await expect(button(page, "Load", "first")).to_have_attribute("aria-disabled", "true")


@pytest.mark.parametrize(
    ("action", "model", "why"),
    [
        ("Load", "gone", "Ollama does not have it"),
        ("Unload", "kept", "it is pinned"),
        ("Unload", "first", "it is not in memory"),
    ],
)
async def test_a_click_that_cannot_be_done_says_why(
    browser: Browser, proxy: Client, action: str, model: str, why: str
) -> None:
    async with console(browser, proxy.url) as page:
        await expect(button(page, action, model)).to_have_attribute("aria-disabled", "true")
        await button(page, action, model).click(force=True)
        await expect(row(page, model).locator(".message")).to_have_text(f"Cannot {action.lower()}: {why}")


async def test_a_click_that_is_refused_says_why(browser: Browser, proxy: Client) -> None:
    """The page is not told in time that a model is gone."""
    async with console(browser, proxy.url, may_fail="409") as page:
        await page.route("**/models/first/load*", lambda route: route.continue_(url=f"{proxy.url}/models/gone/load"))
        await button(page, "Load", "first").click()
        await expect(row(page, "first").locator(".message")).to_contain_text("ollama pull never-pulled")


async def test_names_of_the_same_weights_are_one_in_memory(browser: Browser, ollama: str, tmp_path: Path) -> None:
    """The copies that the console shows are of one runner: one slot, one lane; each counts its own requests."""
    await copied(ollama, "alpha", "twin", "again")
    names = {name: Model(path=f"ollama:{name}", parallel=1, size_gb=1) for name in ("alpha", "twin", "again")}
    chosen = msgspec.structs.replace(settings(ollama, tmp_path / "history.db"), models=names)
    async with running(chosen) as up, aiohttp.ClientSession() as session:
        proxy = Client(session, up.url)
        for name in names:
            await proxy.generate(name)
        async with console(browser, up.url) as page, AsyncExitStack() as asked, busy(proxy, "again"):
            await asked.enter_async_context(asking(proxy, "twin", 1))
            room = page.locator(".room").filter(has_text="All other models")
            await expect(room).to_contain_text("1 of 1 slot taken")
            await expect(room.locator(".cell")).to_have_text(re.compile("alpha = twin = again"))
            await expect(page.locator(".lane")).to_have_count(1)
            await expect(lane(page, "alpha = twin = again")).to_be_visible()
            for name, work in (("alpha", ""), ("twin", "1 waiting"), ("again", "1 in flight")):
                await expect(row(page, name).locator(".state")).to_have_text("serving")
                await expect(row(page, name).locator(".state + small")).to_have_text(work)
            await expect(row(page, "twin")).to_contain_text("same weights as alpha")


async def copied(ollama: str, source: str, *names: str) -> None:
    async with aiohttp.ClientSession() as session:
        for name in names:
            body = {"source": source, "destination": name}
            async with session.post(f"{ollama}/api/copy", json=body) as answer:
                assert answer.status == 200


async def test_while_ollama_is_away_nothing_can_be_clicked(browser: Browser, session: aiohttp.ClientSession) -> None:
    """What waits is counted although nobody knows what it waits for."""
    async with AsyncExitStack() as before:
        url = await before.enter_async_context(serving(Simulator(SIMULATED, max_loaded=2)))
        patient = msgspec.structs.replace(settings(url), upstream=Upstream(url=url, grace=3600))
        async with running(patient) as up, console(browser, up.url) as page:
            await before.aclose()
            asked = asyncio.create_task(Client(session, up.url).generate("nobody-knows"))
            await expect(page.locator("#queue .note")).to_have_text(
                "1 request waits; 1 until Ollama tells which model is meant"
            )
            await expect(page.locator("#facts")).to_contain_text("Waiting1")
            asked.cancel()
            await expect(page.locator("#banner")).to_contain_text("Ollama is not reachable")
            await expect(page.locator("#facts")).to_contain_text("Ollamano answer")
            await expect(row(page, "gone").locator(".state")).to_have_text("missing")
            for name in ("first", "gone", "kept"):
                for action in ("Load", "Unload"):
                    await expect(button(page, action, name)).to_have_attribute("aria-disabled", "true")


async def test_a_failed_load_is_a_problem(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        await button(page, "Load", "faulty").click()
        await expect(row(page, "faulty").locator(".state")).to_have_text("error")
        await expect(page.locator("#problems li").first).to_contain_text("faulty")


async def test_an_outage_is_told_after_a_reload_of_the_page(
    browser: Browser, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    away = msgspec.structs.replace(settings(url, tmp_path / "h"), upstream=Upstream(url=url, grace=0.0))
    async with running(away) as up:
        proxy = Client(session, up.url)
        for _ in range(5):
            assert (await proxy.generate("first"))[0] == 502

        async def kept() -> bool:
            problems = (await proxy.get("/history/problems?status=502"))[1]["problems"]
            return sum(problem["count"] for problem in problems) == 5

        await until(kept)
        async with opened(browser, up.url) as page:
            refused = page.locator("#problems li", has_text="502 upstream_unreachable")
            marks = page.locator("#timeline .troubles").get_by_role("img")
            for _ in range(2):
                await expect(refused.first).to_contain_text("first")
                await expect(page.locator("#problems li", has_not_text="502").first).to_contain_text("not reachable")
                await expect(marks).to_have_accessible_name(
                    re.compile("Ollama was not reachable for .*, 5 requests were")
                )
                await page.reload()
            assert (await proxy.generate("first"))[0] == 502  # and one more, which the page hears of
            await expect(marks).to_have_accessible_name(re.compile("6 requests were refused"))
            await expect(page.locator("#timeline .refused").first).to_be_visible()
            await expect(page.locator("#timeline .away").first).to_be_visible()
            await expect(page.locator("#usage figure").first).to_contain_text("failed or refused")


async def test_a_queue_builds_and_drains(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        await expect(page.locator("#queue")).to_contain_text("Nobody waits.")
        async with AsyncExitStack() as asked, busy(proxy, "first"):
            await asked.enter_async_context(asking(proxy, "team/second:v1", 3))
            await expect(page.locator("#queue .queue li")).to_have_count(3)
            first = page.locator("#queue .queue li").first
            await expect(first).to_contain_text("team/second:v1")
            await expect(first).to_contain_text("first has work; it may be forced out at the deadline")
            await expect(first).to_contain_text("expected to start in")
            await expect(page.locator("#facts")).to_contain_text("Waiting3")
            await expect(row(page, "team/second:v1")).to_contain_text("3 waiting")
            await expect(row(page, "first").locator(".state")).to_have_text("serving")
        await expect(page.locator("#queue")).to_contain_text("Nobody waits.")


async def test_a_lost_connection_is_shown_and_mended(browser: Browser, ollama: str) -> None:
    """The proxy starts again at the same address."""
    async with AsyncExitStack() as before:
        url = (await before.enter_async_context(running(settings(ollama)))).url
        async with console(browser, url, may_fail="net::ERR_") as page:
            banner = page.locator("#banner")
            await expect(banner).not_to_be_visible()
            await before.aclose()
            await expect(banner).to_contain_text("Connection lost, trying again")
            async with running(settings(ollama, port=int(url.rpartition(":")[2]))):
                await expect(banner).not_to_be_visible()
                await button(page, "Load", "first").click()
                await expect(row(page, "first").locator(".state")).to_have_text("loaded")
                await expect(page.locator("#facts")).to_contain_text("live")
                await page.close()


async def test_without_events_the_page_looks_itself(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url, may_fail="404") as page:
        await page.route("**/events", lambda route: route.fulfill(status=404))
        await page.reload()
        await expect(page.locator("#facts")).to_contain_text("every 2 s")
        await button(page, "Load", "first").click()
        await expect(row(page, "first").locator(".state")).to_have_text("loaded")
        await button(page, "Load", "faulty").click()
        await expect(page.locator("#problems li").first).to_contain_text("faulty")


async def test_a_name_is_shown_as_the_text_it_is(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        await button(page, "Load", HOSTILE).click()
        await expect(row(page, HOSTILE).locator(".state")).to_have_text("loaded")
        await expect(lane(page, HOSTILE)).to_be_visible()
        await expect(page.locator("#memory .cell").first).to_contain_text(HOSTILE)
        async with AsyncExitStack() as asked, busy(proxy, "first"):
            await asked.enter_async_context(asking(proxy, HOSTILE, 1))
            await expect(page.locator("#queue .queue b")).to_have_text(HOSTILE)
        await expect(row(page, HOSTILE).locator(".state")).to_have_text("loaded")
        assert await page.locator("main script, main img").count() == 0
        assert dialogs == []


async def test_a_prompt_is_answered_as_it_comes_and_can_be_stopped(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        await page.get_by_label("Model", exact=True).select_option("talker:latest")
        await page.get_by_label("Prompt", exact=True).fill("Why is the sky blue?")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#prompt .note")).to_contain_text("talker:latest answers")
        await expect(page.locator(".answer")).not_to_be_empty()
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#prompt .note")).to_have_text("Stopped.")
        await at_rest(proxy)


async def test_an_answer_comes_to_its_end(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        await page.get_by_label("Model", exact=True).select_option(HOSTILE)
        await page.get_by_label("Prompt", exact=True).fill("x")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#prompt .note")).to_contain_text("Done: ")


async def test_an_answer_is_drawn_once_a_frame(browser: Browser, proxy: Client) -> None:
    """Whoever reads the size of the answer at each token has the browser lay all of it out each time."""
    pieces = [f"word{number} " + "\n" * (number % 20 == 19) for number in range(2000)]
    lines = [{"response": piece, "done": False} for piece in pieces] + [{"done": True, "eval_count": len(pieces)}]
    body = "".join(f"{json.dumps(line)}\n" for line in lines)
    async with console(browser, proxy.url) as page:
        await page.route("**/api/generate", lambda route: route.fulfill(status=200, body=body))
        await page.evaluate("""() => {
            window.read = window.frames = 0;
            const height = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight").get;
            Object.defineProperty(document.querySelector(".answer"), "scrollHeight",
                { get() { window.read += 1; return height.call(this); } });
            const count = () => { window.frames += 1; requestAnimationFrame(count); };
            count();
        }""")
        await page.get_by_label("Model", exact=True).select_option("first")
        await page.get_by_label("Prompt", exact=True).fill("x")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#prompt .note")).to_contain_text("Done: 2,000 tokens")
        assert await page.locator(".answer").text_content() == "".join(pieces)
        read, frames = await page.evaluate("() => [window.read, window.frames]")
        assert read <= 2 * (frames + 1)  # before and after the piece; the last one is drawn at once
        shown = "answer => answer.scrollHeight - answer.scrollTop - answer.clientHeight < 20"
        assert await page.locator(".answer").evaluate(shown)


async def test_a_failed_prompt_says_why(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url, may_fail="500") as page:
        await page.get_by_label("Model", exact=True).select_option("faulty")
        await page.get_by_label("Prompt", exact=True).fill("x")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#prompt .note")).to_contain_text("Failed: ")


async def test_the_timeline_shows_what_is_seen(browser: Browser, ollama: str, session: aiohttp.ClientSession) -> None:
    """Without a history: loading, serving and what else is told while the page is open."""
    async with running(settings(ollama)) as running_proxy, console(browser, running_proxy.url) as page:
        await Client(session, running_proxy.url).generate("first", tokens=100)
        picture = lane(page, "first").get_by_role("img")
        for phase in ("loading", "serving", "holding"):
            await expect(picture.locator(f".{phase}")).not_to_have_count(0)
        await expect(lane(page, "team/second:v1").get_by_role("img")).to_have_accessible_name(
            "team/second:v1: not in memory"
        )
        await expect(page.locator("#timeline .cost")).to_contain_text(re.compile(r"1 swap took .* of the .* s seen\."))
        await expect(page.locator("#timeline")).to_contain_text("No history is kept")
        await expect(page.locator("#usage")).to_contain_text("No history is kept")


async def test_the_timeline_and_the_charts_show_what_was(browser: Browser, proxy: Client) -> None:
    """From the history: a page that is opened later."""
    await proxy.generate("first", tokens=100)
    await proxy.generate("team/second:v1")
    await until_kept(proxy, 2)
    async with console(browser, proxy.url) as page:
        picture = lane(page, "first").get_by_role("img")
        for phase in ("loading", "serving", "draining"):
            await expect(picture.locator(f".{phase}")).not_to_have_count(0)
        await page.get_by_label("The last").first.select_option("24 hours")
        await page.get_by_text("Swaps as a table").click()
        swap = page.locator(".swaps tbody tr").filter(has_text="team/second:v1")
        await expect(swap).to_contain_text("first")
        await expect(page.locator("#usage").get_by_role("img").first).to_have_accessible_name(
            "Requests: 2 answered, 0 failed or refused"
        )


async def test_a_history_that_cannot_be_read_is_none(browser: Browser, proxy: Client) -> None:
    """The configuration names a file, but the proxy goes without it."""
    off = {"status": "error", "error": {"code": "history_off", "message": "no history is kept"}}
    async with console(browser, proxy.url, may_fail="404") as page:
        await page.route("**/history/**", lambda route: route.fulfill(status=404, json=off))
        await page.reload()
        await expect(page.locator("#timeline")).to_contain_text("No history is kept")
        await expect(page.locator("#usage")).to_contain_text("No history is kept")


async def test_of_many_models_the_reader_chooses(browser: Browser, tmp_path: Path) -> None:
    """With a name that is longer than the page is wide."""
    names = [*(f"m{number}" for number in range(30)), LONG]
    simulated = [SimulatedModel(f"s{number}", load_s=0.05) for number in range(len(names))]
    async with (
        serving(Simulator(simulated)) as ollama,
        running(
            Settings(
                server=Server(port=0),
                upstream=Upstream(url=ollama),
                models={name: Model(path=f"ollama:s{number}") for number, name in enumerate(names)},
                history=History(path=str(tmp_path / "history.db")),
            )
        ) as proxy,
        console(browser, proxy.url, viewport={"width": 1440, "height": 900}) as page,
    ):
        await button(page, "Load", LONG).click()
        await expect(row(page, LONG).locator(".state")).to_have_text("loaded")
        await expect(page.locator(".lane .label")).to_have_text([LONG])
        await expect(page.locator("#timeline")).to_contain_text("Not in memory in this time: 30 other models.")
        await page.get_by_role("searchbox", name="Show").fill("llm LOADED")
        await expect(page.locator("#models tbody .name")).to_have_text([LONG])
        await page.get_by_role("searchbox", name="Show").fill("nothing")
        await expect(page.locator("#models")).to_contain_text("No model is like that.")
        controls, usage = [await page.locator(place).bounding_box() for place in ("#usage .controls", "#usage")]
        assert controls is not None
        assert usage is not None
        assert usage["x"] < controls["x"]
        assert controls["x"] + controls["width"] < usage["x"] + usage["width"]


async def test_the_time_is_that_of_the_proxy(browser: Browser, proxy: Client) -> None:
    """The reader's clock is two minutes slow: what happens is in the past nevertheless, and so in the timeline."""
    async with console(browser, proxy.url) as page:
        await page.add_init_script("const real = Date.now; Date.now = () => real() - 120_000")
        await page.reload()
        await button(page, "Load", "first").click()
        await expect(lane(page, "first").locator(".holding")).not_to_have_count(0)


async def test_a_simulated_ollama_is_told_as_such(browser: Browser) -> None:
    chosen = msgspec.structs.replace(settings(""), upstream=Upstream(url="http://127.0.0.1:1"))
    async with running(chosen, simulate_if_unreachable=True) as proxy, console(browser, proxy.url) as page:
        await expect(page.locator("#facts")).to_contain_text("Ollamasimulated")


async def until_kept(proxy: Client, number: int) -> None:
    async def kept() -> bool:
        return len((await proxy.get("/history/requests"))[1]["requests"]) == number

    await until(kept)


async def test_the_configuration_is_shown(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url) as page:
        await page.locator("#config summary").get_by_text("swapper", exact=True).click()
        mode = page.locator("#config dl div").filter(has=page.get_by_text("max_wait.high", exact=True))
        await expect(mode.locator("dd")).to_have_text("15")


async def test_it_says_why_ollama_is_away(browser: Browser) -> None:
    port = free_port()
    async with AsyncExitStack() as stack, AsyncExitStack() as ollama:
        await ollama.enter_async_context(serving(Simulator(SIMULATED), port=port))
        proxy = await stack.enter_async_context(running(settings(f"http://127.0.0.1:{port}")))
        page = await stack.enter_async_context(console(browser, proxy.url))
        banner = page.locator("#banner")
        await expect(banner).not_to_be_visible()
        await ollama.aclose()
        await expect(banner).to_contain_text(f"Ollama is not reachable: nothing listens at 127.0.0.1:{port}")
        await ollama.enter_async_context(serving(Simulator(SIMULATED), port=port))
        await expect(banner).not_to_be_visible()
