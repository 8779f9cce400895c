"""The writer of the history, and what becomes of the rest if it cannot write."""

import asyncio
import logging
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.storage import history, reading, schema
from swapper_proxy.storage.history import MB, MOST_READING, History, write
from swapper_proxy.storage.reading import recorded
from swapper_proxy.storage.schema import STEPS, opened
from tests.e2e.conftest import until
from tests.storage.test_schema import request, state, swap


def kept(path: Path, **more: int) -> config.History:
    return config.History(path=str(path), **more)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_all_is_written_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        for _ in range(3):
            keeping.request(request())
        keeping.swap(swap())
        keeping.state(state())
    assert recorded(file) == ([request()] * 3, [swap()])
    assert warnings(caplog) == []


async def test_what_is_old_or_too_much_is_dropped_at_the_start(tmp_path: Path) -> None:
    file, now = tmp_path / "h.sqlite", time.time()
    with closing(opened(file)) as db:
        write(db, [request(now - 90_000)] + [request(now - number % 7) for number in range(30_000)])
    assert file.stat().st_size > 1.5 * MB
    async with History(kept(file, days=1)):

        async def is_dropped() -> bool:
            return len(recorded(file)[0]) == 30_000

        await until(is_dropped)
    async with History(kept(file, days=1, max_mb=1)) as keeping:
        keeping.request(request(now))

        async def is_small() -> bool:
            with closing(sqlite3.connect(file)) as db:
                return int(db.execute("PRAGMA page_count").fetchone()[0]) * 4096 < MB

        await until(is_small)
    assert 1000 < len(recorded(file)[0]) < 30_000
    assert file.stat().st_size < 1.1 * MB


async def test_uptimes_grow_by_what_is_new(tmp_path: Path) -> None:
    file, uptimes_s = tmp_path / "h.sqlite", {"w": 1.0}
    for total in (1.0, 5.0):
        async with History(kept(file)) as keeping:
            before = keeping.past.uptime_s.get("w", 0.0)
            keeping.watch(lambda: dict(uptimes_s))
            await asyncio.sleep(0)
            uptimes_s["w"] = total
        uptimes_s["w"] += 0.5  # after the end: of the next run
        assert before in (0.0, 1.0)
    async with History(kept(file)) as keeping:
        assert keeping.past.uptime_s == {"w": 5.0}


@pytest.mark.parametrize(
    "path", ["file/h.sqlite", "folder", "broken.sqlite", "other.sqlite", "foreign.sqlite", "locked.sqlite"]
)
async def test_what_cannot_be_opened_is_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.sqlite").write_text("nonsense" * 1000)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute(f"PRAGMA user_version = {len(STEPS)}")  # but none of the tables
    other.close()
    with closing(sqlite3.connect(tmp_path / "foreign.sqlite")) as foreign:
        foreign.execute("CREATE TABLE users (name TEXT)")
    opened(tmp_path / "locked.sqlite").close()
    locking = sqlite3.connect(tmp_path / "locked.sqlite", isolation_level=None)
    locking.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(schema, "BUSY_AT_START_S", 0.01)  # not those of a program that writes
    async with History(kept(tmp_path / path)) as keeping:
        keeping.request(request())
        with pytest.raises(ProxyError) as caught:
            await keeping.page("requests", {}, 1)
        assert (caught.value.status, caught.value.code) == (404, "history_off")
    locking.close()
    assert len(warnings(caplog)) == 1
    assert path in warnings(caplog)[0]
    with closing(sqlite3.connect(tmp_path / "foreign.sqlite")) as foreign:
        assert foreign.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]


async def test_totals_are_known_although_nothing_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [request(), state()])
        db.execute("CREATE TRIGGER full BEFORE INSERT ON states BEGIN SELECT RAISE(ABORT, 'full'); END")
    async with History(kept(file)) as keeping:
        assert "full" in keeping.off
        assert keeping.past.totals["a"].requests == 1


async def test_a_file_that_breaks_under_way_is_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        with sqlite3.connect(file) as db:
            db.execute("DROP TABLE swaps")
        db.close()
        keeping.swap(swap())

        async def is_off() -> bool:
            keeping.request(request())
            return bool(keeping.off)

        await until(is_off)
        keeping.request(request())
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_gone_is_not_written_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, replaced: bool
) -> None:
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        file.rename(tmp_path / "elsewhere.sqlite")
        if replaced:
            opened(file).close()

        async def is_off() -> bool:
            keeping.request(request())
            return bool(keeping.off)

        await until(is_off)
    assert len(warnings(caplog)) == 1
    assert "h.sqlite cannot be used" in warnings(caplog)[0]


async def test_what_a_locked_file_did_not_get_is_said_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CLOSE_S", 0.01)
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        keeping.request(request())
    assert len(warnings(caplog)) == 1
    assert "not kept" in warnings(caplog)[0]
    other.close()


async def test_a_file_that_is_gone_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        file.unlink()
        with pytest.raises(ProxyError) as caught:
            await keeping.usage(3600, {})
        assert (caught.value.status, caught.value.code) == (503, "history_unavailable")


async def test_readings_of_clients_that_left_count_among_those_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, on = list[str](), threading.Event()

    def slow(*_: object) -> tuple[list[reading.Row], None]:
        begun.append("")
        on.wait()
        return [], None

    monkeypatch.setattr(reading, "page", slow)
    async with History(kept(tmp_path / "h.sqlite")) as keeping:
        for number in range(MOST_READING):
            impatient = asyncio.create_task(keeping.page("requests", {}, 1))

            async def has_begun(number: int = number) -> bool:
                return len(begun) > number

            await until(has_begun)
            impatient.cancel()
            await asyncio.gather(impatient, return_exceptions=True)
        last = asyncio.create_task(keeping.page("requests", {}, 1))
        for _ in range(3):
            await asyncio.to_thread(len, begun)  # as the others' threads do: by now it would have begun
        at_once = len(begun)
        on.set()
        assert await last == ([], None)
        assert at_once == MOST_READING


async def test_a_slow_disk_loses_records_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_WAITING", 3)
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # nobody else may write now
        for _ in range(20):
            keeping.request(request())
        other.close()
    assert 3 <= len(recorded(file)[0]) < 20
    assert len(warnings(caplog)) == 1
    assert "too slow" in warnings(caplog)[0]
