"""Whether Ollama is there: asked once at a time for all who want to know, and waited for."""

import asyncio
import logging

from swapper_proxy.runtime.ports import Control, UpstreamLoops, UpstreamRefused, UpstreamSilent, UpstreamUnreachable

log = logging.getLogger(__name__)

AWAY = "Ollama is not reachable"
MAX_TOLD = 20  # reasons in one absence that are written to the log
LOOP = "upstream.url (OLLAMA_BASE_URL) leads back to this proxy; it must be the address of Ollama"


class Reachability:
    """One of `up` and `down` is set; `closing` when the proxy is about to end.  Close it at the end.

    `waiting` is how many wait for Ollama whose model cannot be known before.  `why` it does not count as there is what
    the latest question told; empty while it does, or if nothing is known.
    """

    def __init__(self, control: Control) -> None:
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.up.set()
        self.closing = asyncio.Event()
        self.waiting = 0
        self.falls = 0  # how often it was lost
        self.why = ""
        self._told: set[str] = set()  # reasons that this absence had
        self._control = control
        self._asking: asyncio.Task[bool] | None = None

    def turned(self, reachable: bool, why: str = "") -> bool:
        """Take note that it is there, or not, and `why` if that is known.  Return True if that is new."""
        now, before = (self.up, self.down) if reachable else (self.down, self.up)
        is_new = not now.is_set()
        self.falls += is_new and not reachable
        if reachable:
            self.why = ""
            self._told.clear()
        elif why:
            self._learn(why)
        now.set()
        before.clear()
        return is_new

    @property
    def trouble(self) -> str:
        """Say that it is away, and why as far as is known."""
        return f"{AWAY}: {self.why}" if self.why else AWAY

    def _learn(self, why: str) -> None:
        """Keep the reason.  Write another one than before to the log, as its absence itself is written there."""
        self.why = why
        if self.down.is_set() and why not in self._told and len(self._told) < MAX_TOLD:
            log.error("Ollama is still not reachable: %s", why)
        self._told.add(why)

    async def is_back(self, within_s: float) -> bool:
        """Waits until Ollama is there, so long at most, or until the proxy is about to end."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.up, self.closing)]
        self.waiting += 1
        try:
            await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.waiting -= 1
            for wait in waits:
                wait.cancel()
        return self.up.is_set()

    async def ask(self) -> bool:
        """Whether it tells its version.  If it was there, and only is silent, it is asked twice: it may be slow."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(2 if self.up.is_set() else 1))
        return await asyncio.shield(self._asking)

    async def _ask(self, times: int) -> bool:
        why = ""
        try:
            for _ in range(times):
                try:
                    await self._control.version()
                except UpstreamSilent as error:
                    why = str(error)
                else:
                    return True
        except UpstreamLoops:
            why = LOOP
        except (UpstreamUnreachable, UpstreamRefused) as error:
            why = str(error)
        finally:
            self._asking = None
        self._learn(why)
        return False

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
