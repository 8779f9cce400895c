from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.contract.asking import Ask
from tests.contract.targets import TARGETS, Target
from tests.waiting import LIMIT_S


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `direct` is how Ollama behaves when nobody is in front of it, and how the proxy must not."""
    items[:] = [i for i in items if not (i.get_closest_marker("direct") and "[proxied" in i.name)]


@pytest.fixture(params=TARGETS)
async def target(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    async with TARGETS[request.param](request) as url:
        yield Target(url, request.param)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
        yield session


@pytest.fixture
async def ask(target: Target, session: aiohttp.ClientSession) -> Ask:
    """The target with nothing resident."""
    ask = Ask(session, target.url)
    await ask.unload_all()
    return ask
