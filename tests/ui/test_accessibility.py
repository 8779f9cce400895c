"""Nothing that axe-core would complain of: roles, names, contrast, landmarks."""

import asyncio

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from tests.e2e.conftest import Client, busy, waits
from tests.ui import test_console
from tests.ui.conftest import console
from tests.ui.test_console import button

ollama, proxy = test_console.ollama, test_console.proxy  # fixtures


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, proxy: Client, scheme: str, width: int) -> None:
    viewport = {"width": width, "height": 900}
    async with console(browser, proxy.url, color_scheme=scheme, viewport=viewport) as page:
        await button(page, "Load", "faulty").click()
        await expect(page.locator("#problems li")).not_to_have_count(0)
        async with busy(proxy, "first"):
            waiting = asyncio.ensure_future(proxy.generate("team/second:v1"))
            await waits(proxy, 1)
            await expect(page.locator("#queue .queue li")).to_have_count(1)
            for details in await page.locator("details").all():
                await details.evaluate("(element) => { element.open = true }")
            results = await Axe().run(page)
            assert results.violations_count == 0, results.generate_report()
        await waiting


async def test_the_page_is_no_wider_than_a_phone(browser: Browser, proxy: Client) -> None:
    async with console(browser, proxy.url, viewport={"width": 360, "height": 800}) as page:
        await expect(page.locator("#models tbody tr")).not_to_have_count(0)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
