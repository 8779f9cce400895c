from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.contract.asking import Ask
from tests.contract.targets import TARGETS, Target


@pytest.fixture(params=TARGETS)
async def target(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    async with TARGETS[request.param](request) as url:
        yield Target(url, request.param)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


@pytest.fixture
async def ask(target: Target, session: aiohttp.ClientSession) -> Ask:
    """The target with nothing resident."""
    ask = Ask(session, target.url)
    await ask.unload_all()
    return ask
