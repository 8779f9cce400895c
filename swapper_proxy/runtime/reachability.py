"""Whether Ollama is there: asked once at a time for all who want to know, and waited for."""

import asyncio
import contextlib
import logging

from swapper_proxy.runtime.ports import Control, UpstreamLoops, UpstreamRefused, UpstreamSilent, UpstreamUnreachable

log = logging.getLogger(__name__)

LOOP = "upstream.url (OLLAMA_BASE_URL) leads back to this proxy; it must be the address of Ollama"


class Reachability:
    """One of `up` and `down` is set; `closing` when the proxy is about to end.  Close it at the end.

    `waiting` is how many wait for Ollama whose model cannot be known before.  `loops`: what is sent to Ollama comes
    back to the proxy.
    """

    def __init__(self, control: Control) -> None:
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.up.set()
        self.closing = asyncio.Event()
        self.waiting = 0
        self.falls = 0  # how often it was lost
        self.loops = False
        self._control = control
        self._asking: asyncio.Task[bool] | None = None

    def turned(self, reachable: bool) -> bool:
        """It was found to be there, or not; whether that is new."""
        now, before = (self.up, self.down) if reachable else (self.down, self.up)
        is_new = not now.is_set()
        self.falls += is_new and not reachable
        self.loops &= not reachable
        now.set()
        before.clear()
        return is_new

    @property
    def what_answers(self) -> str:
        """What is wrong with an Ollama that answers and still counts as away."""
        return LOOP if self.loops else "the upstream is not an Ollama server"

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
        try:
            for _ in range(times):
                with contextlib.suppress(UpstreamSilent):
                    await self._control.version()
                    return True
        except UpstreamLoops:
            if not self.loops:
                log.error(LOOP)  # noqa: TRY400 - it is no bug
            self.loops = True
        except (UpstreamUnreachable, UpstreamRefused):
            pass
        finally:
            self._asking = None
        return False

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
