"""Leave to send one request to Ollama, taken from the engine and given back."""

from contextlib import AbstractContextManager, nullcontext
from typing import Self

from swapper_proxy.core.events import Finished
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.model import Demand

_ANYBODY = nullcontext()


class Lease:
    """Leave to use a model: `async with Lease(engine, demand)` waits for it and gives it back, whatever happens.

    Raises Rejected on entering.  `queued` is entered by those that have to wait, as long as they do; what it raises
    keeps them from it.  `waited_s` is the time spent in the queue, granted or not.  `load_s` may be set to
    what Ollama says it took to load the model for this request.  `heard` may be set: True if it was answered, False
    if Ollama fell silent.
    """

    def __init__(self, engine: Engine, demand: Demand, queued: AbstractContextManager[None] = _ANYBODY) -> None:
        self._engine = engine
        self._demand = demand
        self._queued = queued
        self._id = 0
        self.waited_s = 0.0
        self.load_s = 0.0
        self.heard: bool | None = None

    async def __aenter__(self) -> Self:
        self._id = self._engine.admit(self._demand)
        if not self._id:
            began = self._engine.now
            try:
                with self._queued:
                    self._id = await self._engine.acquire(self._demand)
            finally:
                self.waited_s = self._engine.now - began
        self._granted_at = self._engine.now
        return self

    def is_lost(self) -> bool:
        """Return True if the process that the request was sent to is gone, as Ollama's list of runners tells."""
        return self._engine.is_lost(self._id)

    async def __aexit__(self, *_: object) -> None:
        if self.heard is not None:
            self._engine.heard(self._demand.model, self.heard, self._granted_at)
        self._engine.finish(Finished(self._id, self.load_s))
