"""Waiting in tests: for what happens, never for a time; only what hangs reaches the limit."""

import asyncio
from collections.abc import Awaitable, Callable

LIMIT_S = 120
POLL_S = 0.01


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll until the condition holds.  Raises TimeoutError if it never does."""
    async with asyncio.timeout(LIMIT_S):
        while not await condition():
            await asyncio.sleep(POLL_S)
