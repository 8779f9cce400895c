"""Keeps what happened: one thread writes, whoever asks reads on a connection of its own.

Records go into a bounded queue and from there to the file in batches, so that the event loop never waits for a disk and
a process that is killed loses at most the last second.  History never fails a request: whatever goes wrong with the
file is said once in the log, and from then on nothing is kept.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

from msgspec.structs import astuple

from swapper_proxy.config import ConfigError
from swapper_proxy.config import History as Kept
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.ledger import Past
from swapper_proxy.runtime.ports import ProblemRecord, RequestRecord, StateRecord, SwapRecord
from swapper_proxy.storage import reading
from swapper_proxy.storage.schema import NewerFile, end_states, opened, transaction, trim

log = logging.getLogger(__name__)

MOST_WAITING = 20_000  # records
MOST_READING = 2  # at once: a long period takes seconds, also when its client has left
# Together less than the second that may be lost.
BATCH_S = 0.5
UPTIMES_S = 0.4
TRIM_S = 60.0
CLOSE_S = 10.0
MB = 1_000_000

REQUEST = "INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SWAP = "INSERT INTO swaps VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
STATE = "INSERT INTO states VALUES (NULL, ?, ?, ?, ?)"
TOTAL = """
    INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (model) DO UPDATE SET
    requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    generated_tokens = generated_tokens + excluded.generated_tokens,
    generated_timed = generated_timed + excluded.generated_timed, generation_s = generation_s + excluded.generation_s
"""
UPTIME = """
    INSERT INTO uptimes VALUES (?, ?, ?) ON CONFLICT (runner) DO UPDATE SET
    total_s = total_s + excluded.total_s, until = excluded.until
"""


class Uptime(NamedTuple):
    """So many seconds more in memory, until then."""

    runner: str
    seconds: float
    until: float


Answer = TypeVar("Answer")
Record = RequestRecord | SwapRecord | StateRecord | Uptime


class History:
    """A Recorder (see runtime.ports), on between entering and leaving; `past` is what was there before."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._path = Path(kept.path or "")
        self._db: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None
        self._queue = SimpleQueue[Record]()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_all, name="history", daemon=True)
        self._readers = ThreadPoolExecutor(MOST_READING, thread_name_prefix="history-reader")
        self._lost = False
        self._counted: dict[str, float] = {}  # the uptimes that are in the queue or the file
        self._watching: asyncio.Task[None] | None = None
        self.off = "history is off: see history.path"
        self.past = Past()

    async def __aenter__(self) -> "History":
        """Raises ConfigError if a newer proxy wrote the file."""
        if self._kept.path is not None:
            await asyncio.to_thread(self._open)
        if not self.off:
            self._counted = dict(self.past.uptime_s)
            self._writer.start()
        return self

    def _open(self) -> None:
        try:
            self._db = opened(self._path)
            self._file = self._path.stat()
            self.past = reading.past(self._db)  # also if nothing more can be written
            end_states(self._db)
            self.off = ""
        except NewerFile as error:
            raise ConfigError(f"history.path: {error}; update, move it away or say history: off") from None
        except (sqlite3.Error, OSError) as error:
            if self._db is not None:
                self._db.close()
            self._give_up(error)

    async def __aexit__(self, *_: object) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        if self._writer.is_alive():
            self._closing.set()
            self._queue.put(Uptime("", 0.0, 0.0))  # wakes it
            await asyncio.to_thread(self._writer.join, CLOSE_S)
            if self._writer.is_alive():
                log.warning("history: the file is locked or the disk too slow; what happened last is not kept")

    def keep(self, kept: Kept) -> None:
        """So long and so much from now on; the file stays the one it is."""
        self._kept = kept

    def watch(self, uptimes_s: Callable[[], dict[str, float]]) -> None:
        """Keep the uptimes, too (see runtime.ledger); read on the event loop, also at the end."""
        self._watching = asyncio.create_task(self._watch(uptimes_s))

    async def _watch(self, uptimes_s: Callable[[], dict[str, float]]) -> None:
        try:
            while not self.off:
                self._grown(uptimes_s())
                await asyncio.sleep(UPTIMES_S)
        finally:
            self._grown(uptimes_s())

    def _grown(self, uptimes_s: dict[str, float]) -> None:
        for runner, seconds in uptimes_s.items():
            more = seconds - self._counted.get(runner, 0.0)
            if more > 0 and self._put(Uptime(runner, more, time.time())):
                self._counted[runner] = seconds

    # Recorder

    def request(self, record: RequestRecord) -> None:
        self._put(record)

    def swap(self, record: SwapRecord) -> None:
        self._put(record)

    def state(self, record: StateRecord) -> None:
        self._put(record)

    def problem(self, record: ProblemRecord) -> None:
        """Not kept: the log has it."""

    def _put(self, record: Record) -> bool:
        """Whether it will be kept."""
        if self.off:
            return False
        if self._queue.qsize() >= MOST_WAITING:
            if not self._lost:
                log.warning("history: the disk is too slow for what happens; some of it is not kept")
            self._lost = True
            return False
        self._queue.put(record)
        return True

    # Reading

    async def page(self, table: str, wanted: reading.Wanted, limit: int) -> tuple[list[reading.Row], int | None]:
        """See reading.page.  Raises ProxyError, as `usage`."""
        return await self._read(lambda: reading.page(self._path, table, wanted, limit))

    async def usage(self, seconds: int, wanted: reading.Wanted) -> list[reading.Row]:
        return await self._read(lambda: reading.usage(self._path, seconds, wanted))

    async def _read(self, read: Callable[[], Answer]) -> Answer:
        if self.off:
            raise ProxyError(404, "history_off", self.off)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except (sqlite3.Error, OSError, NewerFile) as error:
            raise ProxyError(503, "history_unavailable", f"the history cannot be read: {error}") from error

    # The thread

    def _write_all(self) -> None:
        assert self._db is not None
        assert self._file is not None
        try:
            trimmed_at = -TRIM_S
            while not self._closing.is_set() or not self._queue.empty():
                if time.monotonic() - trimmed_at >= TRIM_S:
                    if not trim(self._db, time.time(), self._kept.days, self._kept.max_mb * MB):
                        trimmed_at = time.monotonic()
                    elif self._queue.empty():
                        continue  # else what waits comes first
                batch = [self._queue.get()]
                self._closing.wait(BATCH_S)
                batch += self._at_hand()
                if not os.path.samestat(self._path.stat(), self._file):
                    raise OSError("there is another file now")
                write(self._db, batch)
        except (sqlite3.Error, OSError, ArithmeticError, ValueError) as error:
            self._give_up(error)
        finally:
            with suppress(sqlite3.Error):
                self._db.close()

    def _at_hand(self) -> Iterable[Record]:
        with suppress(Empty):
            while True:
                yield self._queue.get_nowait()

    def _give_up(self, error: Exception) -> None:
        self.off = f"history is off since {self._path} could not be used: {error}"
        log.warning("history: %s cannot be used (%s); nothing is kept from now on", self._path, error)


def write(db: sqlite3.Connection, batch: list[Record]) -> None:
    """All of it or nothing; on the disk when it returns, unless it is only uptimes: these come twice a second."""
    uptimes = [record for record in batch if isinstance(record, Uptime) and record.seconds]
    requests = [record for record in batch if isinstance(record, RequestRecord)]
    db.execute(f"PRAGMA synchronous = {'NORMAL' if len(uptimes) == len(batch) else 'FULL'}")
    with transaction(db):
        db.executemany(REQUEST, map(_request, requests))
        db.executemany(TOTAL, _totals(requests))
        db.executemany(SWAP, (_fields(record) for record in batch if isinstance(record, SwapRecord)))
        db.executemany(STATE, (_fields(record) for record in batch if isinstance(record, StateRecord)))
        db.executemany(UPTIME, uptimes)


def _fields(record: SwapRecord | StateRecord) -> tuple[object, ...]:
    return _time(record), *(getattr(record, name) for name in record.__struct_fields__ if name != "time")


def _time(record: RequestRecord | SwapRecord | StateRecord) -> float:
    """To the millisecond, as it is shown: who asks for what was since then finds it."""
    return round(record.time, 3)


def _request(r: RequestRecord) -> tuple[object, ...]:
    return _time(r), r.model, r.endpoint, r.status, r.wait_s, r.first_byte_s, r.duration_s, *astuple(r.usage)


def _totals(requests: list[RequestRecord]) -> list[tuple[object, ...]]:
    """What a batch adds, once for each model."""
    of: dict[str, list[float]] = {}
    for r in requests:
        usage = r.usage
        sums = of.setdefault(r.model, [0, 0, 0, 0, 0.0])
        sums[0] += 1
        sums[1] += usage.prompt_tokens
        sums[2] += usage.generated_tokens
        if usage.generation_s > 0:
            sums[3] += usage.generated_tokens
            sums[4] += usage.generation_s
    return [(model, *sums) for model, sums in of.items()]
