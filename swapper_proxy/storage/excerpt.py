"""A part of the history for whoever goes through all of it, perhaps more than once, and takes minutes."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from swapper_proxy.runtime.ports import RequestRecord, SwapRecord, Usage
from swapper_proxy.storage.reading import LAST_S, connected

Record = TypeVar("Record")

LONGEST_S = 1e8  # three years: what says that it took longer, something out of its mind has written
REQUESTS = """
    CREATE TEMP TABLE chosen_requests AS
    SELECT time, model, endpoint, status, wait_s, first_byte_s, duration_s, prompt_tokens, generated_tokens, load_s,
        generation_s
    FROM requests WHERE time >= :since AND time <= :last AND duration_s BETWEEN 0 AND :longest
    ORDER BY time - duration_s, model, duration_s - wait_s
"""
SWAPS = """
    CREATE TEMP TABLE chosen_swaps AS
    SELECT time, from_model, to_model, reason, drain_s, unload_s, load_s, failed
    FROM swaps WHERE time >= :since AND time <= :last AND load_s BETWEEN 0 AND :longest ORDER BY id
"""


class Rows(Generic[Record]):
    """Records that are made while one goes through them, as often as one likes."""

    def __init__(self, db: sqlite3.Connection, table: str, record: Callable[..., Record]) -> None:
        self._db, self._table, self._record = db, table, record

    def __len__(self) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM {self._table}").fetchone()[0])

    def __iter__(self) -> Iterator[Record]:
        for row in self._db.execute(f"SELECT * FROM {self._table} ORDER BY rowid"):
            yield self._record(*row)


class Excerpt:
    """The requests that ended since a moment, in order of arrival, and the swaps.  Leave it as a context manager.

    It is a copy that SQLite keeps in a temporary file.  So it takes no memory, and the history is not read for so long
    that its log would grow meanwhile.
    """

    def __init__(self, path: Path, since: float = 0.0) -> None:
        """Raises sqlite3.Error and NewerFile."""
        self._db = connected(path)
        try:
            self._copy({"since": since, "last": LAST_S, "longest": LONGEST_S})
        except BaseException:
            self._db.close()
            raise
        self.requests = Rows(self._db, "chosen_requests", _request)
        self.swaps = Rows(self._db, "chosen_swaps", _swap)

    def _copy(self, bounds: dict[str, float]) -> None:
        self._db.row_factory = None
        self._db.execute("PRAGMA query_only = OFF")  # it would not let temporary tables be made, either
        self._db.execute("BEGIN")
        self._db.execute(REQUESTS, bounds)
        self._db.execute(SWAPS, bounds)
        self._db.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()


def _request(*row: Any) -> RequestRecord:
    time, model, endpoint, status, wait_s, first_byte_s, duration_s, *usage = row
    return RequestRecord(time, model, endpoint, status, wait_s, first_byte_s, duration_s, Usage(*usage))


def _swap(*row: Any) -> SwapRecord:
    time, from_model, to_model, reason, drain_s, unload_s, load_s, failed = row
    return SwapRecord(time, from_model, to_model, reason, drain_s, unload_s, load_s, bool(failed))
