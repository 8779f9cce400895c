"""Nobody should be able to tell the proxy from Ollama: the same request has the same answer, and loads the same.

Where a row has a `why`, both answers are asserted: a difference that is gone fails as much as a new one.
"""

from collections import Counter
from fnmatch import fnmatchcase
from urllib.parse import unquote

import pytest

from swapper_proxy.web.endpoints import ENDPOINTS
from tests.differential.likeness import comparable
from tests.differential.rows import Row, Says
from tests.differential.sides import Sides
from tests.differential.table import ROUTES, ROWS
from tests.differential.wire import Reply

LEAST_ROWS = 150


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_row(sides: Sides, row: Row) -> None:
    direct = await sides.answer(sides.ollama, row)
    loaded = await after(sides, row, 0)
    proxied = await sides.answer(sides.proxy, row)
    loaded_through_the_proxy = await after(sides, row, 1)
    compare(row, direct, proxied)
    if row.in_vain:
        assert (loaded, loaded_through_the_proxy) == (set(), {f"{row.in_vain}:latest"})
    elif row.proxy and row.proxy.status >= 400:
        assert loaded_through_the_proxy == ({f"{row.warm}:latest"} if row.warm else set())
    else:
        assert loaded_through_the_proxy == loaded
    served_here_only = row.request.path in ENDPOINTS and direct.status >= 400 and proxied.status == 200
    assert was_queued(proxied) == (served_here_only or row.in_vain != "" or needed_its_model(row, direct, loaded))


async def after(sides: Sides, row: Row, side: int) -> set[str]:
    """What is in memory after the answer, once it stays for as long as the row says."""
    if row.stays is not None:
        await sides.until_stays(row.warm, row.stays[side])
    return set(await sides.residents())


def compare(row: Row, direct: Reply, proxied: Reply) -> None:
    unordered = row.unordered or row.request.path == "/api/show"  # whose parameters come in any order
    same = comparable(direct, unordered=unordered), comparable(proxied, unordered=unordered)
    if row.ollama is None or row.proxy is None:
        assert same[1] == same[0]
        return
    assert says(direct, row.ollama)
    assert says(proxied, row.proxy)
    assert same[1] != same[0], "they no longer differ"


def says(reply: Reply, expected: Says) -> bool:
    head = "".join(f"{name}: {value}\n" for name, value in reply.headers)
    return reply.status == expected.status and expected.text in head + reply.body.decode(errors="replace")


def was_queued(reply: Reply) -> bool:
    return reply.header("x-swapper-queue-seconds") is not None


def needed_its_model(row: Row, direct: Reply, loaded: set[str]) -> bool:
    """Whether Ollama used a model for it: what it refuses before must not wait for one, all else must."""
    path = unquote(row.request.path.partition("?")[0])
    if row.request.method != "POST" or path not in ENDPOINTS or row.proxy:
        return False
    unloads = b'"done_reason":"unload"' in direct.body
    return not unloads and (direct.status == 200 or (direct.status == 500 and loaded != set()))


def test_the_table_covers_every_route() -> None:
    asked = [(row.request.method, row.request.path) for row in ROWS]
    missing = [route for route in ROUTES if not any(route[0] == m and fnmatchcase(path, route[1]) for m, path in asked)]
    assert missing == []


def test_the_table_is_large_and_each_row_is_another() -> None:
    assert len(ROWS) >= LEAST_ROWS
    assert [name for name, times in Counter(row.id for row in ROWS).items() if times > 1] == []


def test_what_differs_says_why_and_how() -> None:
    for row in ROWS:
        differs = row.ollama is not None or row.proxy is not None
        unlike = row.stays is not None and row.stays[0] != row.stays[1]
        assert bool(row.why) == (differs or unlike or row.in_vain != ""), row.id
        assert (row.ollama is None) == (row.proxy is None), row.id
