"""Clocks that tests own, for the proxy, the simulated Ollama and the test where they share its loop."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

QUIET_S = 0.002  # on the wall: nothing has come for so long, so nothing is on its way
STEP_S = 0.05  # what passes then, at most: threads, of which the loop knows nothing, get their time too


@pytest.fixture
async def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass at once, besides those that pass anyway."""
    loop, ahead = asyncio.get_running_loop(), 0.0
    now = loop.time

    def passes(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(loop, "time", lambda: now() + ahead)
    return passes


@pytest.fixture
async def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only while nothing is left to do, and then faster than on the wall.

    So a busy machine misses no moment: none passes while somebody has something to do, or waits to get to do it.
    """
    loop: Any = asyncio.get_running_loop()
    now, select = loop.time(), loop._selector.select

    def waited(timeout_s: float | None) -> list[Any]:
        nonlocal now
        found: list[Any] = select(timeout_s and min(timeout_s, QUIET_S))
        if timeout_s and not found:
            now += min(timeout_s, STEP_S)
        return found

    monkeypatch.setattr(loop, "time", lambda: now)
    monkeypatch.setattr(loop._selector, "select", waited)
