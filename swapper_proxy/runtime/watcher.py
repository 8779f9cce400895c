"""Follows what happens behind the proxy's back: /api/ps every second while anything is going on, else every five."""

import asyncio
import contextlib
import logging
from typing import Self

from swapper_proxy.core.types import Sighting
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import Control, Running, UpstreamRefused, UpstreamUnreachable

log = logging.getLogger(__name__)

BUSY_S = 1.0
QUIET_S = 5.0
FIRST_LOOK_S = 2.0  # that the start waits for
CATALOG_S = 5.0
MOST_ODD = 1000  # names of models that were complained of
LEARNING_S = 0.5
LEARNT_AT_ONCE = 10  # Ollama takes some milliseconds to show a model
FAILURES = 3  # one after the other, which are worth a line in the log


class Watcher:
    """A background task; `async with` it."""

    def __init__(self, control: Control, catalog: Catalog, engine: Engine) -> None:
        self._control = control
        self._catalog = catalog
        self._engine = engine
        self._catalog_due = 0.0
        self._failures = 0  # looks that failed, one after the other
        self._bug = ""  # in which the last look ended
        self._odd: set[str] = set()  # what is loaded and could not be looked at, as far as it was told
        self._looked = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()
        except TimeoutError:  # it is silent: clients are to hear that from the proxy
            self._engine.upstream(False, f"no answer within {FIRST_LOOK_S:g} s")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._engine.look_wanted.clear()  # before the look: one that is wanted during it has to be another one
            await self.look()
            self._looked.set()
            await self._learn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BUSY_S if self._engine.busy or not self._engine.reachable else QUIET_S):
                    await self._engine.look_wanted.wait()

    async def _learn(self) -> None:
        """Get to know the models that nobody has asked for, a few at a time: the next look must not wait for long."""
        with contextlib.suppress(UpstreamUnreachable, UpstreamRefused, TimeoutError):
            async with asyncio.timeout(LEARNING_S):
                if self._engine.reachable:
                    await self._catalog.learn(LEARNT_AT_ONCE)

    async def look(self) -> None:
        """One look at Ollama; the engine is told.  Never raises: requests that change models wait for it, too."""
        asked_at = self._loop.time()
        try:
            running, unread = await self._control.running()
            refused = await self._look_at_catalog(asked_at)
            seen, unknown = await self._sightings(running, asked_at)
        except (UpstreamUnreachable, UpstreamRefused) as error:
            await self._engine.probe()
            self._tell(error)
        except Exception as error:  # a bug here must not blind the proxy for the rest of its life
            self._tell_of_bug(error)
        else:
            self._engine.upstream(True)
            self._engine.observed(asked_at, tuple(seen), complete=unread + unknown == 0)
            self._tell(refused)

    async def _look_at_catalog(self, asked_at: float) -> UpstreamRefused | None:
        """If it is time.  A list of models that Ollama refuses does not hide what is in memory."""
        if asked_at < self._catalog_due and self._catalog.current and self._engine.reachable:
            return None
        try:
            await self._catalog.refresh()
        except UpstreamRefused as error:
            return error
        self._catalog_due = asked_at + CATALOG_S
        return None

    def _tell(self, error: Exception | None) -> None:
        """Say once that Ollama is there and cannot be looked at.  It fails now and then, as when it unloads."""
        self._failures = 0 if error is None or not self._engine.reachable else self._failures + 1
        self._bug = ""
        if self._failures == FAILURES:
            log.warning("Ollama is there, but its models cannot be seen: %s", error)

    def _tell_of_bug(self, error: Exception) -> None:
        """Say it once, not at each look."""
        if self._bug != (bug := repr(error)):
            self._bug = bug
            log.error("looking at Ollama failed", exc_info=error)

    async def _sightings(self, running: list[Running], asked_at: float) -> tuple[list[Sighting], int]:
        """Return what the scheduler is told, and how many runners are left out because nobody knows what they are.

        A runner that was left to others is known, and the scheduler is not told of it.  One that cannot be looked at
        for a bug in this proxy hides no other.
        """
        seen: list[Sighting] = []
        unknown = 0
        for entry in running:
            try:
                model = await self._catalog.find_running(entry)
                if model is None:
                    unknown += 1
                elif not self._is_left(model, entry):
                    seen.append(self._sighting(model, entry, asked_at))
            except (UpstreamUnreachable, UpstreamRefused):
                raise
            except Exception as error:
                unknown += 1
                self._tell_of_entry(entry, error)
        return seen, unknown

    def _tell_of_entry(self, entry: Running, error: Exception) -> None:
        """Say it once for each model, not at each look."""
        if entry.name not in self._odd and len(self._odd) < MOST_ODD:
            self._odd.add(entry.name)
            log.error("what is loaded cannot be looked at", exc_info=error, extra={"model": entry.name})

    def _is_left(self, model: Model, entry: Running) -> bool:
        """Return True if the runner was left to others: as soon as it answers nobody, it is as good as gone."""
        is_ours = self._engine.occupant(model.runner) is not None
        return not is_ours and self._catalog.is_left_to_others(model.runner, entry)

    def _sighting(self, model: Model, entry: Running, asked_at: float) -> Sighting:
        """Return what the scheduler is told of a runner that /api/ps shows: its key as far as can be known.

        The size is remembered for the key that was loaded through the proxy; what somebody else loaded may have any
        options.
        """
        occupant = self._engine.occupant(model.runner)
        key = occupant.key if occupant else self._catalog.own_key(model)
        if occupant is not None and occupant.has_settled(asked_at) and not occupant.guessed:
            self._catalog.measured(key, entry.size)
        size_gb = self._catalog.in_memory_gb(model, key, entry.size)
        return Sighting(key, self._catalog.profile(model, key), size_gb)
