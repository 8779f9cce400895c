"""The thread that writes the history: records go into a bounded queue, and from there to the file in batches.

What the file does not take now it may take later: another program may let go of it, the disk may have room again, or it
can be written to again.  So what cannot be written waits, as much as the queue holds, and the thread tries again, less
and less often.  The log says when that begins and when it is over.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from swapper_proxy.config import ConfigError
from swapper_proxy.config import History as Kept
from swapper_proxy.runtime.ledger import Past
from swapper_proxy.storage import reading
from swapper_proxy.storage.clock import Clock
from swapper_proxy.storage.schema import LOG_BYTES, NewerFile, cut_log, end_states, newest, opened, trim
from swapper_proxy.storage.writing import Record, Uptime, write

log = logging.getLogger(__name__)

MOST_WAITING = 20_000  # records
# Together with the pause between two uptimes less than the second that may be lost.
BATCH_S = 0.5
TRIM_S = 60.0
CLOSE_S = 10.0
# After what could not be written, the pause before the next try: at first, and after many.
RETRY_FIRST_S = 1.0
RETRY_MOST_S = 60.0
MB = 1_000_000

# For these the records are to blame, not the file: they would never be written.
UNWRITABLE = (
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    ArithmeticError,
    TypeError,
    ValueError,
)


class Writer:
    """`past` is what there was before, None until it could be read; `trouble` says why nothing can be written now."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.past: Past | None = None
        self.trouble = ""
        self._path = Path(kept.path or "")
        self._db: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None
        self._clock: Clock | None = None
        self._queue = SimpleQueue[Record]()
        self._batch: list[Record] = []  # taken from the queue and not written yet
        self._lost = 0
        self._pause_s = RETRY_FIRST_S
        self._trimmed_at = -TRIM_S
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def open(self) -> None:
        """Start.  Raises ConfigError if a newer proxy wrote the file."""
        try:
            with suppress(sqlite3.Error, OSError):
                self.past = reading.past(self._path)  # what can be read counts, also if nothing can be written
            self._open()
        except NewerFile as error:
            raise ConfigError(f"history.path: {error}; update, move it away or say history: off") from None
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, if that is possible and does not take too long."""
        if not self._thread.is_alive():
            return
        self._closing.set()
        self._queue.put(Uptime("", 0.0, 0.0))  # wakes it
        self._thread.join(CLOSE_S)
        if self._thread.is_alive() or (self.trouble and self.waiting > 1):
            log.warning("history: the file is locked or the disk too slow; what happened last is not kept")

    @property
    def waiting(self) -> int:
        """How many records are not written yet."""
        return self._queue.qsize() + len(self._batch)

    def put(self, record: Record) -> bool:
        """Whether it will be kept, as far as can be known now."""
        if self.waiting >= MOST_WAITING:
            if not self._lost:
                log.warning("history: the file takes too little of what happens; some of it is not kept")
            self._lost += 1
            return False
        self._queue.put(record)
        return True

    # The thread

    def _run(self) -> None:
        while True:
            try:
                self._write_all()
                break
            except Exception as error:  # whatever it is, it may be over later
                self._give_up(error)
            if self._closing.is_set():
                break
            self._closing.wait(self._pause_s)
            self._pause_s = min(2 * self._pause_s, RETRY_MOST_S)
        self._let_go()

    def _write_all(self) -> None:
        """Until the end.  What was not written when it raises still waits."""
        db = self._db or self._open()
        while not self._closing.is_set() or self.waiting:
            if not self._batch and self._trimmed(db) and self._queue.empty():
                continue  # else what waits comes first
            self._gather()
            self._check(db)
            try:
                write(db, self._batch)
            except UNWRITABLE:
                log.exception("history: %d records cannot be written", len(self._batch))
            self._batch = []
            self._recovered()

    def _gather(self) -> None:
        if not self._batch:
            self._batch.append(self._queue.get())
            self._closing.wait(BATCH_S)
        self._batch += self._at_hand()

    def _at_hand(self) -> Iterable[Record]:
        with suppress(Empty):
            while True:
                yield self._queue.get_nowait()

    def _trimmed(self, db: sqlite3.Connection) -> bool:
        """Now and then; whether there is more to be dropped."""
        assert self._clock is not None
        if time.monotonic() - self._trimmed_at < TRIM_S:
            return False
        if trim(db, self._clock.bounds(), self.kept.days, self.kept.max_mb * MB):
            return True
        self._trimmed_at = time.monotonic()
        return False

    # The file

    def _open(self) -> sqlite3.Connection:
        """Raises NewerFile, OSError, sqlite3.Error.  In a file that is new to this run states may have no end yet."""
        db = opened(self._path)
        try:
            if self.past is None:
                self.past = reading.sums(db)
            self._clock = self._clock or Clock(newest(db))
            file = self._path.stat()
            if self._file is None or not os.path.samestat(file, self._file):
                end_states(db)
        except BaseException:
            db.close()
            raise
        self._db, self._file = db, file
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        """Raises OSError if the file is another one now, or its log takes as much as the file itself may.

        SQLite cannot cut the log while a program goes on reading what stood in the file when it began.
        """
        assert self._file is not None
        if not os.path.samestat(self._path.stat(), self._file):
            raise OSError("there is another file now")
        most = max(LOG_BYTES * 2, self.kept.max_mb * MB)
        if cut_log(db, self._path, most) > most:
            raise OSError("another program reads it for so long that the log beside it grows and grows")

    def _give_up(self, error: Exception) -> None:
        """For now."""
        self._let_go()
        if not self.trouble:
            log.warning("history: %s cannot be used (%s); what happens waits until it can", self._path, error)
        self.trouble = str(error)

    def _let_go(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _recovered(self) -> None:
        self._pause_s = RETRY_FIRST_S
        if self.trouble:
            log.info("history: %s is used again", self._path)
            self.trouble = ""
        if self._lost:
            log.warning("history: %d records are not kept; from now on all are", self._lost)
            self._lost = 0
