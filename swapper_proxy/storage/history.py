"""Keeps what happened: one thread writes (`writer`), whoever asks reads on a connection of its own.

The event loop never waits for a disk, a process that is killed loses at most the last second, and history never fails a
request.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from swapper_proxy.config import History as Kept
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.ledger import Ledger, Past
from swapper_proxy.runtime.ports import ProblemRecord, RequestRecord, StateRecord, SwapRecord
from swapper_proxy.storage import reading
from swapper_proxy.storage.schema import NewerFile
from swapper_proxy.storage.writer import Writer
from swapper_proxy.storage.writing import Record, Uptime

MOST_READING = 2  # at once: a long period takes seconds, also when its client has left
UPTIMES_S = 0.4

Answer = TypeVar("Answer")


class History:
    """A Recorder (see runtime.ports), on between entering and leaving."""

    def __init__(self, kept: Kept) -> None:
        self._on = kept.path is not None
        self._path = Path(kept.path or "")
        self._writer = Writer(kept)
        self._readers = ThreadPoolExecutor(MOST_READING, thread_name_prefix="history-reader")
        self._counted: dict[str, float] = {}  # the uptimes that are in the queue or the file
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "History":
        """Raises ConfigError if a newer proxy wrote the file."""
        if self._on:
            await asyncio.to_thread(self._writer.open)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await asyncio.to_thread(self._writer.close)

    @property
    def past(self) -> Past | None:
        """What was there before, None until it could be read."""
        return self._writer.past

    def keep(self, kept: Kept) -> None:
        """So long and so much from now on; the file stays the one it is."""
        self._writer.kept = kept

    def watch(self, ledger: Ledger) -> None:
        """Tell the ledger of the past, and keep its uptimes; all on the event loop, also at the end."""
        if self._on:
            known = self._recalled(ledger)
            self._watching = asyncio.create_task(self._watch(ledger, known))

    def _recalled(self, ledger: Ledger) -> bool:
        """Whether the ledger knows the past by now."""
        if self.past is None:
            return False
        self._counted = dict(self.past.uptime_s)
        ledger.recall(self.past)
        return True

    async def _watch(self, ledger: Ledger, known: bool) -> None:
        try:
            while True:
                known = known or self._recalled(ledger)
                if known:
                    self._grown(ledger.uptimes_s())
                await asyncio.sleep(UPTIMES_S)
        finally:
            self._grown(ledger.uptimes_s())

    def _grown(self, uptimes_s: dict[str, float]) -> None:
        """What does not go into the file now is part of what grows until later."""
        if self._writer.trouble and self._writer.waiting:
            return
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
        self._put(record)

    def _put(self, record: Record) -> bool:
        """Whether it will be kept."""
        return self._on and self._writer.put(record)

    # Reading

    async def page(self, table: str, wanted: reading.Wanted, limit: int) -> tuple[list[reading.Row], int | None]:
        """See reading.page.  Raises ProxyError, as `usage`."""
        return await self._read(lambda: reading.page(self._path, table, wanted, limit))

    async def usage(self, seconds: int, wanted: reading.Wanted) -> list[reading.Row]:
        return await self._read(lambda: reading.usage(self._path, seconds, wanted))

    async def _read(self, read: Callable[[], Answer]) -> Answer:
        """What is in the file can be read although nothing can be written."""
        if not self._on:
            raise ProxyError(404, "history_off", "history is off: see history.path")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except (sqlite3.Error, OSError, NewerFile) as error:
            raise ProxyError(503, "history_unavailable", f"the history cannot be read: {error}") from error
