"""The writer of the history, and what becomes of the rest if it cannot write."""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.ledger import Ledger, Past
from swapper_proxy.storage import clock, reading, schema, writer
from swapper_proxy.storage.history import MOST_READING, History
from swapper_proxy.storage.schema import DAY_S, STEPS, opened
from swapper_proxy.storage.writer import MB
from swapper_proxy.storage.writing import Uptime, write
from tests.e2e.conftest import until
from tests.storage.test_schema import recorded, request, state, swap


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


class Remembering(Ledger):
    """A ledger whose uptimes are what the test says, beside those of the past."""

    def __init__(self, uptimes_s: dict[str, float]) -> None:
        super().__init__()
        self._own, self.past = uptimes_s, Past()

    def recall(self, past: Past) -> None:
        super().recall(past)
        self.past = past

    def uptimes_s(self) -> dict[str, float]:
        return {runner: own + self.past.uptime_s.get(runner, 0.0) for runner, own in self._own.items()}


async def test_uptimes_grow_by_what_is_new(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    for before, more in ((0.0, 1.0), (1.0, 4.0), (5.0, 0.0)):
        own = {"w": 0.0}
        async with History(kept(file)) as keeping:
            ledger = Remembering(own)
            keeping.watch(ledger)
            assert ledger.past.uptime_s.get("w", 0.0) == before
            await asyncio.sleep(0)
            own["w"] = more


async def there(file: Path, number: int) -> None:
    """Until so many requests are in the file."""

    async def so_many() -> bool:
        return len(recorded(file)[0]) == number

    await until(so_many)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of trouble, in short."""
    ends = {"cannot be used": "begins", "is used again": "ends"}
    return [ends[end] for r in caplog.records for end in ends if end in r.getMessage()]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_AT_START_S", 0.01)  # not those of a program that writes
    monkeypatch.setattr(writer, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(writer, "RETRY_MOST_S", 0.02)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", ["file/h.sqlite", "folder", "broken.sqlite", "other.sqlite", "foreign.sqlite"])
async def test_what_cannot_be_used_is_said_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.sqlite").write_text("nonsense" * 1000)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute(f"PRAGMA user_version = {len(STEPS)}")  # but none of the tables
    other.close()
    with closing(sqlite3.connect(tmp_path / "foreign.sqlite")) as foreign:
        foreign.execute("CREATE TABLE users (name TEXT)")
    async with History(kept(tmp_path / path)) as keeping:
        keeping.request(request())
        with pytest.raises(ProxyError) as caught:
            await keeping.page("requests", {}, 1)
        assert (caught.value.status, caught.value.code) == (503, "history_unavailable")
    begins, ends = warnings(caplog)
    assert path in begins
    assert "not kept" in ends
    with closing(sqlite3.connect(tmp_path / "foreign.sqlite")) as foreign:
        assert foreign.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["locked", "read-only", "full"])
async def test_what_cannot_be_written_at_the_start_is_read_and_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [request(), state(), Uptime("w", 5.0, 1.0)])
    ledger = Remembering({"w": 2.0})
    async with held(file, how) as release, History(kept(file)) as keeping:
        keeping.watch(ledger)
        keeping.request(request())
        assert ledger.totals("a").requests == 1
        assert ledger.past.uptime_s == {"w": 5.0}
        assert len((await keeping.page("requests", {}, 9))[0]) == 1
        release()
        await there(file, 2)
        keeping.request(request())
    assert told(caplog) == ["begins", "ends"]
    assert reading.past(file).totals["a"].requests == 3
    assert reading.past(file).uptime_s == {"w": 7.0}


@asynccontextmanager
async def held(file: Path, how: str) -> AsyncIterator[Callable[[], None]]:
    """The file cannot be written to, until released."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        in_the_way = file.with_name("h.sqlite-shm")
        if how == "locked":
            db.execute("BEGIN IMMEDIATE")
            yield lambda: db.execute("ROLLBACK") and None
        elif how == "full":
            db.execute("CREATE TRIGGER full BEFORE INSERT ON states BEGIN SELECT RAISE(ABORT, 'full'); END")
            yield lambda: db.execute("DROP TRIGGER full") and None
        else:
            in_the_way.mkdir()  # as if nothing could be written beside it
            yield in_the_way.rmdir


@pytest.mark.usefixtures("impatient")
async def test_the_past_is_known_as_soon_as_it_can_be_read(tmp_path: Path) -> None:
    """Nobody else may even read a file that is locked so."""
    file, ledger = tmp_path / "h.sqlite", Remembering({"w": 2.0})
    with closing(opened(file)) as db:
        write(db, [request(), Uptime("w", 5.0, 1.0)])
    other = sqlite3.connect(file, isolation_level=None)
    other.executescript(
        "PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; INSERT INTO uptimes VALUES ('v', 1, 1); COMMIT"
    )
    async with History(kept(file)) as keeping:
        keeping.watch(ledger)
        assert ledger.past == Past()
        other.close()

        async def is_known() -> bool:
            return ledger.past != Past()

        await until(is_known)
    assert ledger.totals("a").requests == 1
    assert reading.past(file).uptime_s == {"v": 1.0, "w": 7.0}


@pytest.mark.usefixtures("impatient")
async def test_what_breaks_under_way_loses_nothing_if_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        for round_ in range(2):
            with closing(sqlite3.connect(file)) as db:
                db.execute("ALTER TABLE swaps RENAME TO elsewhere")
                keeping.swap(swap())
                keeping.request(request())

                async def is_said(round_: int = round_) -> bool:
                    return told(caplog).count("begins") == round_ + 1

                await until(is_said)
                keeping.request(request())
                db.execute("ALTER TABLE elsewhere RENAME TO swaps")
            await there(file, 2 * round_ + 2)
    assert told(caplog) == ["begins", "ends"] * 2
    assert len(recorded(file)[1]) == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_gone_is_not_written_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, replaced: bool
) -> None:
    """What is there instead is, or a new one."""
    caplog.set_level(logging.INFO)
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        keeping.request(request())
        await there(file, 1)
        file.rename(tmp_path / "elsewhere.sqlite")
        if replaced:
            with closing(opened(file)) as db:
                write(db, [state()])
        keeping.request(request(model="b"))

        async def is_over() -> bool:
            return told(caplog) == ["begins", "ends"]

        await until(is_over)
        assert [r.model for r in recorded(file)[0]] == ["b"]
    states = reading.page(file, "states", {}, 9)[0]
    assert [s["cause"] for s in states] == (["stopped", "idle"] if replaced else [])


@pytest.mark.usefixtures("impatient")
async def test_a_reader_that_stays_does_not_fill_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(writer, "BATCH_S", 0.0)
    monkeypatch.setattr(writer, "LOG_BYTES", 50_000)
    monkeypatch.setattr(writer, "MB", 50_000)
    monkeypatch.setattr(schema, "BUSY_S", 0.01)
    file = tmp_path / "h.sqlite"
    async with History(kept(file, max_mb=1)) as keeping:
        keeping.request(request())
        await there(file, 1)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM requests").fetchone()

            async def is_said() -> bool:
                keeping.request(request())
                return told(caplog) == ["begins"]

            await until(is_said)
            log = file.with_name("h.sqlite-wal")
            assert 100_000 < log.stat().st_size < 400_000

        async def is_over() -> bool:
            return told(caplog) == ["begins", "ends"]

        await until(is_over)
        assert log.stat().st_size < 400_000


@pytest.mark.parametrize("ahead_s", [40 * DAY_S, -40 * DAY_S, -time.time()], ids=["ahead", "behind", "1970"])
@pytest.mark.parametrize("at_start", [False, True])
async def test_a_wall_clock_that_is_wrong_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float, *, at_start: bool
) -> None:
    file, now = tmp_path / "h.sqlite", time.time()
    with closing(opened(file)) as db:
        write(db, [make(now - days * DAY_S) for make in (request, swap, state) for days in (29, 1, 0)])
    monkeypatch.setattr(writer, "TRIM_S", 0.0)
    wall = Wall(ahead_s if at_start else 0.0)
    monkeypatch.setattr(clock, "time", wall)
    async with History(kept(file)) as keeping:
        keeping.request(request(now))
        await there(file, 4)
        wall.ahead_s = ahead_s  # or the clock is wrong only now
        keeping.request(request(now))
        await there(file, 5)  # it was trimmed before
        keeping.request(request(now))
        await there(file, 6)


class Wall:
    """A wall clock that is set wrong; the steady one goes on."""

    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s

    def time(self) -> float:
        return time.time() + self.ahead_s

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


async def test_what_was_old_before_a_pause_of_the_proxy_is_dropped_at_last(tmp_path: Path) -> None:
    """At the start after the next: its newest row is then of the present."""
    file, now = tmp_path / "h.sqlite", time.time()
    with closing(opened(file)) as db:
        write(db, [request(now - 60 * DAY_S)])
    for left in (2, 2):
        async with History(kept(file)) as keeping:
            keeping.request(request(now))
        assert len(recorded(file)[0]) == left


async def test_a_record_that_cannot_be_written_costs_only_its_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        keeping.request(request(model=object()))  # type: ignore[arg-type]

        async def is_said() -> bool:
            return bool(warnings(caplog))

        await until(is_said)
        keeping.request(request())
        await there(file, 1)
    assert warnings(caplog) == ["history: 1 records cannot be written"]


async def test_what_a_locked_file_did_not_get_is_said_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_S", 0.01)
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
    monkeypatch.setattr(writer, "MOST_WAITING", 3)
    file = tmp_path / "h.sqlite"
    async with History(kept(file)) as keeping:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # nobody else may write now
        for _ in range(20):
            keeping.request(request())
        other.close()
    written = len(recorded(file)[0])
    assert 3 <= written < 20
    assert warnings(caplog) == [
        "history: the file takes too little of what happens; some of it is not kept",
        f"history: {20 - written} records are not kept; from now on all are",
    ]
