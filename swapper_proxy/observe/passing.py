"""An observer of the engine that passes on what it is told; those that do something besides are made from it."""

from swapper_proxy.core.types import Cause, State
from swapper_proxy.runtime.ports import Observer


class Passing:
    """See runtime.ports.Observer."""

    def __init__(self, following: Observer) -> None:
        self._next = following
        self.waited = following.waited  # of each request: without a step in between

    def rejected(self, reason: str) -> None:
        self._next.rejected(reason)

    def loaded(self, model: str, seconds: float, expected_s: float, replaced: str, cause: str) -> None:
        self._next.loaded(model, seconds, expected_s, replaced, cause)

    def load_failed(self, model: str, seconds: float, status: int) -> None:
        self._next.load_failed(model, seconds, status)

    def drained(self, model: str, seconds: float) -> None:
        self._next.drained(model, seconds)

    def changed(self, model: str, state: State, cause: Cause) -> None:
        self._next.changed(model, state, cause)

    def unloaded(self, model: str, seconds: float, cause: str) -> None:
        self._next.unloaded(model, seconds, cause)

    def held(self, model: str, seconds: float, paid: bool) -> None:
        self._next.held(model, seconds, paid)

    def reloaded(self, model: str, seconds: float, cause: str) -> None:
        self._next.reloaded(model, seconds, cause)

    def upstream(self, reachable: bool) -> None:
        self._next.upstream(reachable)
