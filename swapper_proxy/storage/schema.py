"""The history's file: its tables, its version, what is dropped from it.

`PRAGMA user_version` is the number of steps that were taken.  A file with fewer is brought up to date, one with more is
refused: a newer proxy wrote it.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BUSY_S = 20.0  # another program may hold the file for so long
BUSY_READING_S = 2.0  # the same for what a client waits for
BUSY_AT_START_S = 2.0  # the same at the start, which waits for it
LOG_BYTES = 4 * 1024 * 1024  # what the write-ahead log is cut down to
DAY_S = 86_400.0
PIECE = 5000  # rows of a table, or pages, that are dropped at once: it takes well below the second that may be lost
MOST_TOTALS = 10_000  # models, and runners: names can be made up without end, and would leave no room for the rest
MOST_TOKENS = 10**9  # of a request: sums of more SQLite may not be able to hold
PART = 100  # of what is too much, such a part of all rows is dropped at once, if that is not even more

PROBLEMS = """
    problems (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, until REAL NOT NULL, model TEXT NOT NULL,
        code TEXT NOT NULL, status INTEGER NOT NULL, sent INTEGER NOT NULL, count INTEGER NOT NULL,
        message TEXT NOT NULL
    )
"""
WITH_PROBLEMS = 3  # steps
# AUTOINCREMENT: the ids of what was dropped are never given again, so that paging stays true.
STEPS: Sequence[str] = (
    """
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL,
        status INTEGER NOT NULL, wait_s REAL NOT NULL, first_byte_s REAL, duration_s REAL NOT NULL,
        prompt_tokens INTEGER NOT NULL, generated_tokens INTEGER NOT NULL, load_s REAL NOT NULL,
        generation_s REAL NOT NULL
    );
    CREATE TABLE swaps (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, from_model TEXT NOT NULL, to_model TEXT NOT NULL,
        reason TEXT NOT NULL, drain_s REAL NOT NULL, unload_s REAL NOT NULL, load_s REAL NOT NULL,
        failed INTEGER NOT NULL
    );
    CREATE TABLE states (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL,
        cause TEXT NOT NULL
    );
    CREATE INDEX requests_time ON requests (time);
    CREATE INDEX swaps_time ON swaps (time);
    CREATE INDEX states_time ON states (time);
    CREATE TABLE totals (
        model TEXT PRIMARY KEY, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
        generated_tokens INTEGER NOT NULL, generated_timed INTEGER NOT NULL, generation_s REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE uptimes (runner TEXT PRIMARY KEY, total_s REAL NOT NULL) WITHOUT ROWID;
    """,
    "ALTER TABLE uptimes ADD COLUMN until REAL NOT NULL DEFAULT 0",  # when it was seen in memory last
    f"CREATE TABLE {PROBLEMS}; CREATE INDEX problems_time ON problems (time);",
)
# A millisecond, the least that is shown, after what began in the last moment.
STOPPED = """
    INSERT INTO states
    SELECT NULL, round(max(time + 0.001, (SELECT coalesce(max(until), 0) FROM uptimes)), 3), model,
        'unloaded', 'stopped'
    FROM states WHERE id IN (SELECT max(id) FROM states GROUP BY model) AND state != 'unloaded'
"""
# The same of an outage that was not over.
LEFT_DOWN = """
    INSERT INTO problems
    SELECT NULL, end, end, '', 'proxy_stopped', 0, 0, 1, 'the proxy stopped while Ollama was not reachable'
    FROM (SELECT code, round(max(time + 0.001, (SELECT max(until) FROM problems)), 3) AS end FROM problems
        WHERE model = '' AND status = 0 AND code IN ('upstream_unreachable', 'upstream_back', 'proxy_stopped')
        ORDER BY id DESC LIMIT 1)
    WHERE code = 'upstream_unreachable'
"""
DROPPED = ("requests", "swaps", "states", "problems")  # with time; the totals stay
ROWS = "SELECT " + " + ".join(f"(SELECT coalesce(max(id) - min(id) + 1, 0) FROM {table})" for table in DROPPED)
LEAST_USED = {  # table -> what goes first
    "totals": "DELETE FROM totals WHERE model IN (SELECT model FROM totals ORDER BY requests DESC LIMIT -1 OFFSET ?)",
    "uptimes": "DELETE FROM uptimes WHERE runner IN (SELECT runner FROM uptimes ORDER BY until DESC LIMIT -1 OFFSET ?)",
}
NEWEST = " UNION ALL ".join(f"SELECT time FROM {table} WHERE id = (SELECT max(id) FROM {table})" for table in DROPPED)
# The indexes give the oldest of each table without a look at the others.
OLDEST = " UNION ALL ".join(
    f"SELECT time FROM (SELECT time FROM {table} ORDER BY time LIMIT :rows)" for table in DROPPED
)


class NewerFile(Exception):
    """A newer proxy wrote the file; the message says so."""


def opened(path: Path, steps: Sequence[str] = STEPS) -> sqlite3.Connection:
    """The file, made or brought up to date where needed.  Raises NewerFile, OSError and sqlite3.Error."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=BUSY_AT_START_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded by a new file only, so before all else
        _refuse_newer(db, path, len(steps))
        _refuse_foreign(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        _bring_up_to_date(db, path, steps)
        db.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000:.0f}")
    except BaseException:
        db.close()
        raise
    return db


def version(db: sqlite3.Connection) -> int:
    """How many steps the file has behind it."""
    return _figure(db, "user_version")


def _refuse_newer(db: sqlite3.Connection, path: Path, known: int) -> None:
    if (found := version(db)) > known:
        raise NewerFile(f"{path} was written by a newer version (its schema is {found}, known is {known})")


def _refuse_foreign(db: sqlite3.Connection) -> None:
    """Nothing is added to the tables of another program."""
    if db.execute("SELECT 1 FROM sqlite_master, pragma_user_version WHERE user_version = 0").fetchone():
        raise sqlite3.DatabaseError("it is the database of another program")


def _bring_up_to_date(db: sqlite3.Connection, path: Path, steps: Sequence[str]) -> None:
    """All of it or nothing, also if two proxies start at once."""
    with transaction(db):
        _refuse_newer(db, path, len(steps))
        for number in range(version(db), len(steps)):
            for statement in filter(str.strip, steps[number].split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number + 1}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Written as a whole at the end, or not at all."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def end_states(db: sqlite3.Connection) -> None:
    """What was in memory when the last proxy ended has no end yet: it gets the last moment that is known of that proxy.
    So does an outage of Ollama.

    Who loads it again, or finds it still there, begins anew.  A proxy that shares the file and goes on is not known
    here: of its models the present states end, too.
    """
    with transaction(db):
        db.execute(STOPPED)
        db.execute(LEFT_DOWN)


def cut_log(db: sqlite3.Connection, path: Path, most_bytes: int) -> int:
    """Cut the write-ahead log down if it takes more than that; how many bytes it takes then."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > most_bytes:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return log.stat().st_size if log.exists() else 0


def newest(db: sqlite3.Connection) -> float | None:
    """When the last rows were written, by the clock of then; None if there are none."""
    return max((time for (time,) in db.execute(NEWEST)), default=None)


def trim(db: sqlite3.Connection, present: tuple[float, float], days: int, max_bytes: int) -> bool:
    """Drop a little of what is older than so many days; else, if the file takes more, of what is oldest.

    The present lies between two times.  What is older than the days is so by both; what is later than both, a wrong
    clock has dated, and goes first if the file takes too much.  One moment is the limit for all tables, so that what is
    left of each tells of the same time.  Returns whether there may be more to be dropped.  Meanwhile nobody writes, so
    it is a little at a time.
    """
    _drop_totals(db)
    earliest, latest = present
    dropped = _drop(db, "time < ?", earliest - days * DAY_S)
    if not dropped and _bytes(db) > max_bytes:
        dropped = _drop(db, "time > ?", latest + DAY_S) or _drop(db, "time <= ?", _oldest(db))
    db.executescript(f"PRAGMA incremental_vacuum({PIECE})")  # `execute` would free one page
    return dropped or _figure(db, "freelist_count") > 0


def _drop_totals(db: sqlite3.Connection) -> None:
    """Of the models that were asked for least, and of the runners that are gone for longest, if there are too many."""
    for table, delete in LEAST_USED.items():
        if db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > MOST_TOTALS:
            with transaction(db):
                db.execute(delete, (MOST_TOTALS,))


def _oldest(db: sqlite3.Connection) -> float | None:
    """Until when the oldest rows go, whatever tables they are in."""
    rows = min(PIECE, db.execute(ROWS).fetchone()[0] // PART + 1)
    found = db.execute(f"SELECT max(time) FROM ({OLDEST} ORDER BY time LIMIT :rows)", {"rows": rows}).fetchone()
    return found[0] if found else None


def _drop(db: sqlite3.Connection, condition: str, moment: float | None) -> bool:
    """Whether there was anything to drop."""
    with transaction(db):
        deletes = (
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {condition} ORDER BY time LIMIT {PIECE})"
            for table in DROPPED
        )
        return sum(db.execute(delete, (moment,)).rowcount for delete in deletes) > 0


def _bytes(db: sqlite3.Connection) -> int:
    """What the pages in use take."""
    return (_figure(db, "page_count") - _figure(db, "freelist_count")) * _figure(db, "page_size")


def _figure(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
