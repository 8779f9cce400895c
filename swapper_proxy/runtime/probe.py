"""Is Ollama there?  Asked once at a time, for all who want to know."""

import asyncio
import contextlib

from swapper_proxy.runtime.ports import Control, UpstreamRefused, UpstreamSilent, UpstreamUnreachable


class Probe:
    """Close it at the end."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._asking: asyncio.Task[bool] | None = None

    async def ask(self, times: int) -> bool:
        """Whether it tells its version.  One that only is silent is asked so many times, as it may be slow for once."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(times))
        return await asyncio.shield(self._asking)

    async def _ask(self, times: int) -> bool:
        try:
            for _ in range(times):
                with contextlib.suppress(UpstreamSilent):
                    await self._control.version()
                    return True
        except (UpstreamUnreachable, UpstreamRefused):
            pass
        finally:
            self._asking = None
        return False

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
