"""A real Chromium in front of the console."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.e2e import conftest as e2e
from tests.waiting import LIMIT_S

session = e2e.session  # a fixture

LIMIT_MS = 1000 * LIMIT_S
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        raise FileNotFoundError("these tests drive a real browser; on Debian: apt-get install chromium")
    return found


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """With an empty profile of its own."""
    expect.set_options(timeout=LIMIT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS, timeout=LIMIT_MS)
        yield browser
        await browser.close()


@asynccontextmanager
async def console(browser: Browser, url: str, *, may_fail: str = "", **options: Any) -> AsyncIterator[Page]:
    """The console, as soon as it shows the proxy."""
    async with opened(browser, url, may_fail=may_fail, **options) as page:
        await expect(page.locator("#facts")).to_contain_text("healthy")
        yield page


@asynccontextmanager
async def opened(browser: Browser, url: str, *, may_fail: str = "", **options: Any) -> AsyncIterator[Page]:
    """The console at once.

    In the end nothing was complained of but what holds `may_fail`, and nobody but the proxy was asked for anything.
    """
    context = await browser.new_context(**options)
    context.set_default_timeout(LIMIT_MS)
    page = await context.new_page()
    complaints, asked = [], set()
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.add(_origin(request.url)))
    await page.goto(f"{url}/ui/")
    yield page
    await context.close()
    assert [text for text in complaints if not may_fail or may_fail not in text] == []
    assert asked == {url}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
