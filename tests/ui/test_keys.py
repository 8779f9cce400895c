"""The console of a proxy that asks for keys, in a real browser."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, Request, expect

from swapper_proxy.app import running
from swapper_proxy.config import ClientKey, Keys, ManagementKey, digest
from tests.e2e.conftest import Client
from tests.ui import test_console
from tests.ui.conftest import console, opened
from tests.ui.test_console import button, row, settings

ollama = test_console.ollama  # a fixture

OPERATOR, WATCHER, CLIENT = "sk-operator", "sk-watcher", "sk-client"
KEYS = Keys(
    clients={"console": ClientKey(key_sha256=digest(CLIENT))},
    management={
        "operator": ManagementKey(key_sha256=digest(OPERATOR)),
        "watcher": ManagementKey(key_sha256=digest(WATCHER), read_only=True),
    },
)


@pytest.fixture
async def proxy(session: aiohttp.ClientSession, ollama: str, tmp_path: Path) -> AsyncIterator[Client]:
    """With keys for everything."""
    async with running(msgspec.structs.replace(settings(ollama, tmp_path / "history.db"), keys=KEYS)) as proxy:
        yield Client(session, proxy.url)


async def give(page: Page, key: str) -> None:
    dialog = page.get_by_role("dialog", name="A key is needed")
    await dialog.get_by_label("Key", exact=True).fill(key)
    await page.keyboard.press("Enter")


async def is_asked(page: Page, text: str) -> None:
    await expect(page.get_by_role("dialog", name="A key is needed")).to_contain_text(text)


async def test_a_key_is_asked_for_kept_in_the_tab_and_forgotten(browser: Browser, proxy: Client) -> None:
    async with opened(browser, proxy.url, may_fail="401") as page:
        sent: list[Request] = []

        def note(request: Request) -> None:
            sent.append(request)

        page.on("request", note)
        await is_asked(page, "to show and to change what the proxy does")
        await give(page, "sk-wrong")
        await is_asked(page, "The key was not accepted.")
        sent.clear()
        await give(page, OPERATOR)
        await expect(page.locator("#facts")).to_contain_text("live")
        await button(page, "Load", "first").click()
        await expect(row(page, "first").locator(".state")).to_have_text("loaded")
        asked = {request.url.removeprefix(proxy.url).partition("?")[0]: request for request in sent}
        assert {"/events", "/config", "/models/first/load"} <= asked.keys()
        for request in sent:
            assert (await request.all_headers())["authorization"] == f"Bearer {OPERATOR}"
            assert OPERATOR not in request.url
        await page.reload()
        await expect(page.locator("#facts")).to_contain_text("live")
        assert await page.evaluate("localStorage.length") == 0
        assert await page.evaluate("document.cookie") == ""
        await page.get_by_role("button", name="Forget key").click()
        await is_asked(page, "to show and to change what the proxy does")
        assert await page.evaluate("sessionStorage.length") == 0


async def test_who_has_no_key_is_not_asked_again_until_they_want(browser: Browser, proxy: Client) -> None:
    async with opened(browser, proxy.url, may_fail="401") as page:
        await is_asked(page, "A key is needed")
        await page.keyboard.press("Escape")
        await expect(page.locator("#banner")).to_contain_text("The proxy asks for a key")
        await expect(page.locator("#facts")).to_contain_text("locked")
        async with page.expect_response("**/status") as answer:
            pass  # the next look
        assert (await answer.value).status == 401
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await page.get_by_role("button", name="Enter key").click()
        await give(page, OPERATOR)
        await expect(page.locator("#facts")).to_contain_text("live")


async def test_prompts_have_a_key_of_their_own(browser: Browser, proxy: Client) -> None:
    async with opened(browser, proxy.url, may_fail="401") as page:
        await give(page, OPERATOR)
        await page.get_by_label("Model", exact=True).select_option("talker:latest")
        await page.get_by_label("Prompt", exact=True).fill("x")
        await page.get_by_role("button", name="Send").click()
        await is_asked(page, "to send prompts to models")
        await give(page, CLIENT)
        await expect(page.locator(".answer")).not_to_be_empty()
        await page.get_by_role("button", name="Stop").click()
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#prompt .note")).to_contain_text("talker:latest answers")


async def test_a_key_that_only_reads_says_so(browser: Browser, proxy: Client) -> None:
    async with opened(browser, proxy.url, may_fail="40") as page:
        await give(page, WATCHER)
        await button(page, "Load", "first").click()
        await expect(row(page, "first").locator(".message")).to_have_text("Cannot load: this key changes nothing")


async def test_without_keys_nothing_of_them_is_seen(browser: Browser, ollama: str) -> None:
    async with running(settings(ollama)) as up, console(browser, up.url) as page:
        await expect(page.locator("#facts")).to_contain_text("live")
        await expect(page.get_by_role("button", name="key")).to_have_count(0)
        await expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, proxy: Client, scheme: str, width: int) -> None:
    viewport = {"width": width, "height": 900}
    async with opened(browser, proxy.url, may_fail="401", color_scheme=scheme, viewport=viewport) as page:
        await is_asked(page, "A key is needed")
        for key in ("sk-wrong", OPERATOR):
            results = await Axe().run(page)
            assert results.violations_count == 0, results.generate_report()
            await give(page, key)
        await expect(page.get_by_role("button", name="Forget key")).to_be_visible()
        await expect(page.locator("#facts")).to_contain_text("live")
        results = await Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
