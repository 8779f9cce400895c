"""What can be read of a history.  Each call has a connection of its own, so any thread may make it."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from swapper_proxy.runtime.ledger import Past, Totals
from swapper_proxy.storage.schema import (
    BUSY_READING_S,
    MOST_TOKENS,
    PROBLEMS,
    STEPS,
    WITH_PROBLEMS,
    NewerFile,
    version,
)

Wanted = Mapping[str, str | int | float]
Row = dict[str, object]

LAST_S = 253_402_300_799.0  # the end of the year 9999

COLUMNS = {
    "requests": "id, time, model, endpoint, status, wait_s, first_byte_s, duration_s, prompt_tokens, generated_tokens,"
    " load_s, generation_s",
    "swaps": "id, time, from_model, to_model, reason, drain_s, unload_s, load_s, failed",
    "states": "id, time, model, state, cause",
    "problems": "id, time, until, model, code, status, sent, count, message",
}
CONDITIONS = {
    "model": "model = :model",
    "endpoint": "endpoint = :endpoint",
    "status": "status = :status",
    "code": "code = :code",
    "since": "time >= :since",
    "until": "time < :until",
    "before": "id < :before",
}
OF_SWAPS = CONDITIONS | {"model": "(from_model = :model OR to_model = :model)"}


def connected(path: Path) -> sqlite3.Connection:
    """For reading.  Raises sqlite3.Error if there is no such file, NewerFile if it cannot be understood.

    A folder that cannot be written to has no room for what SQLite puts beside a file that others may write, too: then
    it is taken for one that nobody writes.
    """
    try:
        return _connected(path, "mode=rw")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        return _connected(path, "mode=ro&immutable=1")


def _connected(path: Path, how: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_READING_S, isolation_level=None)
    try:
        if (found := version(db)) > len(STEPS):
            raise NewerFile(f"{path} was written by a newer version (its schema is {found}, known is {len(STEPS)})")
        if found < WITH_PROBLEMS:  # an older file that cannot be written to now: nothing was kept of them
            db.execute(f"CREATE TEMP TABLE {PROBLEMS}")
        db.execute("PRAGMA query_only = ON")
    except BaseException:
        db.close()
        raise
    db.row_factory = sqlite3.Row
    return db


def page(path: Path, table: str, wanted: Wanted, limit: int) -> tuple[list[Row], int | None]:
    """The newest rows first, and the id before which the next page begins, None if there is none."""
    conditions = OF_SWAPS if table == "swaps" else CONDITIONS
    query = f"SELECT {COLUMNS[table]} FROM {table}{_where(conditions, wanted)} ORDER BY id DESC LIMIT :limit"
    with closing(connected(path)) as db:
        rows = db.execute(query, {**wanted, "limit": limit + 1}).fetchall()
    shown = [_shown(row) for row in rows[:limit]]
    return shown, rows[limit - 1]["id"] if len(rows) > limit else None


def usage(path: Path, seconds: int, wanted: Wanted) -> list[Row]:
    """Requests by model and by stretch of so many seconds (of UTC), the oldest first, with those that were refused."""
    start = "CAST(time / :seconds AS INTEGER) * :seconds AS start"
    query = f"""
        WITH answered AS (
            SELECT {start}, model, count(*) AS requests,
                sum(status >= 400) AS errors, {_sum("prompt_tokens")}, {_sum("generated_tokens")},
                avg(wait_s) AS wait_s_mean, max(wait_s) AS wait_s_max,
                sum(generation_s) AS generation_s, 0 AS refused
            FROM requests{_where(CONDITIONS, wanted)} GROUP BY start, model
        ), refused AS (
            SELECT {start}, model, 0, 0, 0, 0, 0.0, 0.0, 0.0, sum(count)
            FROM problems{_where(CONDITIONS, wanted, "status > 0", "NOT sent")} GROUP BY start, model
        )
        SELECT start, model, sum(requests) AS requests, sum(errors) AS errors, sum(prompt_tokens) AS prompt_tokens,
            sum(generated_tokens) AS generated_tokens, sum(wait_s_mean) AS wait_s_mean, sum(wait_s_max) AS wait_s_max,
            sum(generation_s) AS generation_s, sum(refused) AS refused
        FROM (SELECT * FROM answered UNION ALL SELECT * FROM refused) GROUP BY start, model ORDER BY start, model
    """
    with closing(connected(path)) as db:
        rows = db.execute(query, {**wanted, "seconds": seconds}).fetchall()
    return [_rounded(row) | {"start": _stamp(row["start"], "seconds")} for row in rows]


def _sum(tokens: str) -> str:
    """An older proxy wrote what Ollama said, whatever that was: sums must not overflow."""
    return f"sum(max(0, min({tokens}, {MOST_TOKENS}))) AS {tokens}"


def past(path: Path) -> Past:
    """What the totals were.  Raises sqlite3.Error and NewerFile."""
    with closing(connected(path)) as db:
        db.row_factory = None
        return sums(db)


def sums(db: sqlite3.Connection) -> Past:
    """What the totals are, on a connection that is there."""
    totals = "model, requests, prompt_tokens, generated_tokens, generated_timed, generation_s"
    rows = db.execute(f"SELECT {totals} FROM totals")
    uptimes = db.execute("SELECT runner, total_s FROM uptimes")
    return Past({model: Totals(*of) for model, *of in rows.fetchall()}, dict(uptimes.fetchall()))


def _where(conditions: Mapping[str, str], wanted: Wanted, *more: str) -> str:
    told = " AND ".join((*(conditions[name] for name in wanted), *more))
    return f" WHERE {told}" if told else ""


def _shown(row: sqlite3.Row) -> Row:
    shown = _rounded(row)
    times = {name: _stamp(row[name], "milliseconds") for name in ("time", "until") if name in shown}
    return shown | times | {name: bool(row[name]) for name in ("failed", "sent") if name in shown}


def _rounded(row: sqlite3.Row) -> Row:
    """Seconds to the microsecond."""
    return dict(_round(key, row[key]) for key in row.keys())  # noqa: SIM118 - a Row iterates over its values


def _round(key: str, value: object) -> tuple[str, object]:
    return key, round(value, 6) if isinstance(value, float) else value


def _stamp(moment: float, to: str) -> str:
    """A moment that no calendar has, which a wrong clock may have written, is the last or the first one that it has."""
    return datetime.fromtimestamp(max(0.0, min(moment, LAST_S)), UTC).isoformat(timespec=to)
