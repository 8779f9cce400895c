"""The file of the history: its version, and what is dropped from it."""

import math
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from swapper_proxy.runtime.ports import ProblemRecord, RequestRecord, StateRecord, SwapRecord, Usage
from swapper_proxy.storage import schema
from swapper_proxy.storage.excerpt import Excerpt
from swapper_proxy.storage.reading import page, past, usage
from swapper_proxy.storage.schema import (
    DAY_S,
    DROPPED,
    MOST_TOKENS,
    PIECE,
    STEPS,
    NewerFile,
    end_states,
    opened,
    transaction,
    trim,
    version,
)
from swapper_proxy.storage.writing import Record, Uptime, write
from swapper_proxy.web.usage import MOST_NANOSECONDS

NOW = 1_764_000_000.0


def request(time: float = NOW, model: str = "a", status: int = 200, wait_s: float = 0.5) -> RequestRecord:
    return RequestRecord(time, model, "chat", status, wait_s, None, 2.0, Usage(3, 4, 0.0, 2.0))


def swap(time: float = NOW) -> SwapRecord:
    return SwapRecord(time, "b", "a", "idle", 0.1, 0.2, 3.0, False)


def state(time: float = NOW) -> StateRecord:
    return StateRecord(time, "a", "loaded", "idle")


def problem(time: float = NOW, status: int = 502, count: int = 1, **more: Any) -> ProblemRecord:
    until = more.pop("until", time)
    model, code = more.pop("model", "a"), more.pop("code", "upstream_unreachable")
    return ProblemRecord(time, model, code, "Ollama is away", status, count=count, until=until, **more)


def recorded(file: Path) -> tuple[list[RequestRecord], list[SwapRecord]]:
    """All requests, in order of arrival, and all swaps."""
    with Excerpt(file) as all_of_it:
        return list(all_of_it.requests), list(all_of_it.swaps)


def numbers(db: sqlite3.Connection) -> list[int]:
    return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in DROPPED]


def test_a_new_file_has_the_present_version(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "new" / "h.sqlite")) as db:
        assert version(db) == len(STEPS)
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA auto_vacuum").fetchone()[0] == 2


def test_an_older_file_is_brought_up_to_date(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [request()])
    steps = (*STEPS, "ALTER TABLE requests ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'; CREATE TABLE more (x);")
    for _ in range(2):
        with closing(opened(file, steps)) as db:
            assert version(db) == len(STEPS) + 1
            assert db.execute("SELECT model, colour FROM requests").fetchall() == [("a", "red")]
    with pytest.raises(NewerFile, match=r"h.sqlite was written by a newer version"):
        opened(file)
    with pytest.raises(NewerFile):
        page(file, "requests", {}, 1)


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    opened(file).close()
    with pytest.raises(sqlite3.OperationalError):
        opened(file, (*STEPS, "CREATE TABLE more (x); DROP TABLE never"))
    with closing(opened(file)) as db:
        assert version(db) == len(STEPS)
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall() == []


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "h.sqlite")) as db:
        with pytest.raises(sqlite3.IntegrityError), transaction(db):
            db.executemany("INSERT INTO uptimes VALUES (?, ?, 0)", [("a", 1), ("a", 2)])
        assert past(tmp_path / "h.sqlite").uptime_s == {}


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [request()])
        db.execute("PRAGMA max_page_count = 1")  # not less than there are
        with pytest.raises(sqlite3.OperationalError, match="full"):
            write(db, [request()] * 1000)
    assert len(recorded(file)[0]) == 1


def test_what_is_old_is_dropped(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "h.sqlite")) as db:
        write(db, [make(NOW - days * DAY_S) for make in (request, swap, state, problem) for days in (40, 8, 6, 0)])
        while trim(db, (NOW, NOW), days=7, max_bytes=10**9):
            pass
        assert numbers(db) == [2, 2, 2, 2]
        assert past(tmp_path / "h.sqlite").totals["a"].requests == 4


def test_much_is_dropped_a_little_at_a_time(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "h.sqlite")) as db:
        write(db, [request(NOW - 8 * DAY_S)] * (2 * PIECE + 1))
        left = []
        while trim(db, (NOW, NOW), days=7, max_bytes=10**9):
            left.append(numbers(db)[0])
    assert left[:3] == [PIECE + 1, 1, 0]


def test_of_too_much_the_oldest_is_dropped_and_the_file_shrinks(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [request(NOW - 5000 + number) for number in range(5000)])
        while trim(db, (NOW, NOW), days=7, max_bytes=200_000):
            pass
        kept = numbers(db)[0]
        assert 500 < kept < 4000
        newest, following = page(file, "requests", {}, kept)
        assert (newest[0]["id"], newest[-1]["id"], following) == (5000, 5001 - kept, None)
        assert past(file).totals["a"].requests == 5000
    assert file.stat().st_size <= 200_000


def test_one_moment_is_the_limit_for_all_tables(tmp_path: Path) -> None:
    """Of a table with few rows no more goes than of one with many."""
    with closing(opened(tmp_path / "h.sqlite")) as db:
        write(db, [make(NOW - 5000 + number) for number in range(0, 5000, 500) for make in (swap, state, problem)])
        write(db, [request(NOW - 5000 + number) for number in range(5000)])
        while trim(db, (NOW, NOW), days=7, max_bytes=200_000):
            oldest = db.execute("SELECT min(time) FROM requests").fetchone()[0]
            for table in ("swaps", "states", "problems"):
                times = [time for (time,) in db.execute(f"SELECT time FROM {table} ORDER BY time")]
                assert times == [at for at in range(int(NOW) - 5000, int(NOW), 500) if at >= oldest]
        assert numbers(db)[1] >= 2


@pytest.mark.parametrize("many", [swap, state, problem])
def test_the_limit_is_found_whatever_there_is_most_of(tmp_path: Path, many: Callable[[float], Record]) -> None:
    with closing(opened(tmp_path / "h.sqlite")) as db:
        write(db, [many(NOW - 5000 + number) for number in range(5000)] + [request(NOW - 1), request(NOW - 5001)])
        while trim(db, (NOW, NOW), days=7, max_bytes=200_000):
            pass
        assert 500 < sum(numbers(db)) < 4000
        assert [time for (time,) in db.execute("SELECT time FROM requests")] == [NOW - 1]


def test_what_a_wrong_clock_has_dated_goes_before_the_rest(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "h.sqlite")) as db:
        write(db, [make(NOW + 400 * DAY_S) for make in (request, swap, state) for _ in range(2000)])
        write(db, [request(NOW)])
        while trim(db, (NOW - 1, NOW), days=7, max_bytes=100_000):
            pass
        assert numbers(db) == [1, 0, 0, 0]


def test_names_without_end_leave_room_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "h.sqlite"
    monkeypatch.setattr(schema, "MOST_TOTALS", 3)
    with closing(opened(file)) as db:
        for number, name in enumerate("abcde"):
            write(db, [request(model=name)] * (5 - number) + [Uptime(name, 1.0, NOW + number)])
        trim(db, (NOW, NOW), days=7, max_bytes=10**9)
    assert (sorted(past(file).totals), sorted(past(file).uptime_s)) == (["a", "b", "c"], ["c", "d", "e"])


def test_what_is_old_by_one_clock_only_stays(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "h.sqlite")) as db:
        write(db, [make(NOW - 1) for make in (request, swap, state, problem)])
        assert not trim(db, (NOW, NOW + 40 * DAY_S), days=30, max_bytes=10**9)
        assert not trim(db, (0.0, NOW), days=30, max_bytes=10**9)
        assert numbers(db) == [1, 1, 1, 1]


def test_the_limits_are_found_by_the_indexes(tmp_path: Path) -> None:
    """So that five million rows take no longer than five thousand."""
    with closing(opened(tmp_path / "h.sqlite")) as db:
        for query in (schema.ROWS, schema.NEWEST, f"SELECT max(time) FROM ({schema.OLDEST} ORDER BY time LIMIT :rows)"):
            for *_, step in db.execute(f"EXPLAIN QUERY PLAN {query}", {"rows": 5}):
                assert not re.search(r"SCAN (requests|swaps|states|problems)(?! USING COVERING INDEX)", step), step


def test_a_size_that_nothing_fits_ends(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [request(), request(), swap(), problem()])
        while trim(db, (NOW, NOW), days=7, max_bytes=1):
            pass
        assert numbers(db) == [0, 0, 0, 0]
        write(db, [request()])
        assert page(file, "requests", {}, 10)[0][0]["id"] == 3  # none is given twice


def test_totals_and_uptimes_add_up(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "h.sqlite")) as db:
        write(db, [request(), request(), request(model="b"), Uptime("w", 1.5, NOW)])
        write(db, [request(), Uptime("w", 2.0, NOW + 2), Uptime("v", 0.0, NOW)])
        was = past(tmp_path / "h.sqlite")
    totals = was.totals["a"]
    assert (totals.requests, totals.prompt_tokens, totals.generated_tokens) == (3, 9, 12)
    assert totals.tokens_per_second == 2.0
    assert was.totals["b"].requests == 1
    assert was.uptime_s == {"w": 3.5}


def test_what_was_in_memory_at_the_end_of_a_proxy_is_so_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    stays = [
        ("gone", 0, "loaded"),
        ("a", 1, "loading"),
        ("a", 2, "loaded"),
        ("gone", 3, "unloaded"),
        ("b", 9, "loading"),
    ]
    with closing(opened(file)) as db:
        write(db, [StateRecord(NOW + later, model, state, "idle") for model, later, state in stays])
        write(db, [Uptime("w", 5.0, NOW + 7), Uptime("v", 1.0, NOW + 3)])
        for _ in range(2):  # the second time there is nothing to be done
            end_states(db)
    ends = [row for row in page(file, "states", {}, 100)[0] if row["cause"] == "stopped"]
    assert sorted((row["model"], row["state"], row["time"]) for row in ends) == [
        ("a", "unloaded", "2025-11-24T16:00:07.000+00:00"),
        ("b", "unloaded", "2025-11-24T16:00:09.001+00:00"),
    ]


def test_absurd_texts_and_the_largest_figures_cost_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    figures = Usage(MOST_TOKENS, MOST_TOKENS, MOST_NANOSECONDS / 1e9, MOST_NANOSECONDS / 1e9)
    absurd = RequestRecord(NOW, "a\udc80", "chat", 200, 1e9, None, 1e9, figures)
    with closing(opened(file)) as db:
        write(db, [absurd] * 3)
        write(db, [SwapRecord(NOW, "a", "b\udc80", "idle", 1e9, 1e9, 1e9, False)])
    assert past(file).totals["a?"].requests == 3
    assert usage(file, 3600, {})[0]["prompt_tokens"] == 3 * MOST_TOKENS
    assert len(page(file, "requests", {}, 10)[0]) == 3


def test_absurd_rows_of_an_older_proxy_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        for time in (NOW, -1e300, 1e300, math.inf):
            tokens = 2**63 - 1
            db.execute(
                "INSERT INTO requests VALUES (NULL, ?, 'a', 'chat', 200, 0, NULL, -1, ?, ?, 0, 0)",
                (time, tokens, -tokens),
            )
    assert [row["time"][:4] for row in page(file, "requests", {}, 10)[0]] == ["9999", "9999", "1970", "2025"]
    rows = usage(file, 3600, {})
    assert sum(row["requests"] for row in rows) == 4
    assert (rows[0]["prompt_tokens"], rows[0]["generated_tokens"]) == (MOST_TOKENS, 0)


def test_usage_by_hour_and_day(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    hour = NOW // 3600 * 3600
    with closing(opened(file)) as db:
        write(db, [request(hour), request(hour + 3599.9, status=500, wait_s=1.5), request(hour + 3600, "b")])
    first, second = usage(file, 3600, {})
    assert first == {
        **{"start": "2025-11-24T16:00:00+00:00", "model": "a", "requests": 2, "errors": 1, "prompt_tokens": 6},
        **{"generated_tokens": 8, "wait_s_mean": 1.0, "wait_s_max": 1.5, "generation_s": 4.0},
        "refused": 0,
    }
    assert (second["start"], second["model"]) == ("2025-11-24T17:00:00+00:00", "b")
    assert [row["start"] for row in usage(file, 86_400, {"model": "b"})] == ["2025-11-24T00:00:00+00:00"]


def test_refused_requests_are_in_the_usage(tmp_path: Path) -> None:
    """Those that Ollama had are not: they are among the requests already."""
    file = tmp_path / "h.sqlite"
    hour = NOW // 3600 * 3600
    with closing(opened(file)) as db:
        write(db, [request(hour), problem(hour, count=5), problem(hour + 60, count=7), problem(hour + 3600, count=2)])
        write(db, [problem(hour, sent=True, count=100), problem(hour, status=0), problem(hour, model="", status=413)])
    rows = [(row["start"], row["model"], row["requests"], row["refused"]) for row in usage(file, 3600, {})]
    assert rows == [
        ("2025-11-24T16:00:00+00:00", "", 0, 1),
        ("2025-11-24T16:00:00+00:00", "a", 1, 12),
        ("2025-11-24T17:00:00+00:00", "a", 0, 2),
    ]
    assert [(row["requests"], row["refused"]) for row in usage(file, 86_400, {"model": "a"})] == [(1, 14)]
    assert usage(file, 3600, {"until": hour}) == []
    assert usage(file, 3600, {"since": hour + 3600})[0]["wait_s_max"] == 0


def test_a_problem_that_grows_is_one_row(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [problem(count=1), problem(count=20, until=NOW + 5), problem(status=503), problem(sent=True)])
        write(db, [problem(count=400, until=NOW + 30), problem(NOW + 60), problem(model="\udc80")])
    rows, following = page(file, "problems", {}, 10)
    assert [(row["model"], row["status"], row["sent"], row["count"]) for row in rows] == [
        ("?", 502, False, 1),
        ("a", 502, False, 1),
        ("a", 502, True, 1),
        ("a", 503, False, 1),
        ("a", 502, False, 400),
    ]
    assert (rows[-1]["time"], rows[-1]["until"]) == (
        *("2025-11-24T16:00:00.000+00:00", "2025-11-24T16:00:30.000+00:00"),
    )
    assert following is None
    assert len(page(file, "problems", {"code": "upstream_unreachable", "status": 503, "model": "a"}, 10)[0]) == 1


def test_an_outage_that_was_not_over_ends_with_what_is_known_last(tmp_path: Path) -> None:
    """The picture of it would go on for ever; what came after is not known."""
    away, back = {"model": "", "status": 0}, {"model": "", "status": 0, "code": "upstream_back"}
    with closing(opened(tmp_path / "h.sqlite")) as db:
        end_states(db)
        write(db, [problem(**away), problem(NOW + 1, **back)])
        end_states(db)
        assert numbers(db)[-1] == 2
        write(db, [problem(NOW + 2, **away), problem(NOW + 60, until=NOW + 70)])
        for _ in range(2):
            end_states(db)
        assert db.execute("SELECT time, until, code FROM problems ORDER BY id DESC LIMIT 1").fetchone() == (
            *(NOW + 70, NOW + 70, "proxy_stopped"),
        )
        assert numbers(db)[-1] == 5


def test_an_older_file_that_cannot_be_written_to_is_read(tmp_path: Path) -> None:
    """It holds nothing of problems, and all the rest."""
    file = tmp_path / "h.sqlite"
    with closing(opened(file, STEPS[:2])) as db:
        db.execute("INSERT INTO requests VALUES (NULL, ?, 'a', 'chat', 200, 1, 1, 1, 1, 1, 1, 1)", (NOW,))
    assert page(file, "problems", {}, 10) == ([], None)
    assert usage(file, 3600, {})[0]["requests"] == 1
    with closing(opened(file)) as db:  # and is brought up to date when it can be
        assert version(db) == len(STEPS)
        write(db, [problem()])
    assert len(page(file, "problems", {}, 10)[0]) == 1
    assert usage(file, 3600, {})[0]["refused"] == 1


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [request(), swap(), state(), request(NOW + 1, "b")])
    assert recorded(file) == ([request(), request(NOW + 1, "b")], [swap()])


def test_reading_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        recorded(tmp_path / "none.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_an_excerpt_begins_at_a_moment_and_is_in_order_of_arrival(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    long = RequestRecord(NOW + 3, "long", "chat", 200, 0.0, None, 50.0, Usage())
    with closing(opened(file)) as db:
        write(db, [request(NOW), request(NOW + 1, "b"), long, request(NOW + 2, "c"), swap(NOW), swap(NOW + 1)])
    with Excerpt(file, NOW + 1) as chosen:
        for _ in range(2):
            assert [r.model for r in chosen.requests] == ["long", "b", "c"]
        assert (len(chosen.requests), len(chosen.swaps), list(chosen.swaps)) == (3, 1, [swap(NOW + 1)])


def test_an_excerpt_does_not_hold_the_history_up(tmp_path: Path) -> None:
    """Its log can be cut while somebody goes through the excerpt."""
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        write(db, [request()] * 2000)
        with Excerpt(file) as chosen:
            reading = iter(chosen.requests)
            next(reading)
            write(db, [request()] * 2000)
            assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            assert len(list(reading)) == 1999


def test_rows_out_of_their_mind_are_no_part_of_an_excerpt(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        for time, duration_s in ((NOW, 1e300), (math.inf, 1), (-5, 1), (NOW, -1)):
            write(db, [RequestRecord(time, "a", "chat", 200, 0.0, None, duration_s, Usage())])
        write(db, [request()])
    assert recorded(file)[0] == [request()]
