"""Makes records of what happens, for whoever keeps or shows them."""

import time
from collections.abc import Sequence

from swapper_proxy.core.types import Cause, State
from swapper_proxy.observe.passing import Passing
from swapper_proxy.runtime.board import STATUS
from swapper_proxy.runtime.ports import Observer, ProblemRecord, Recorder, RequestRecord, StateRecord, SwapRecord

GATEWAY_TIMEOUT = 504  # of a load: it took too long


class Recorders:
    """All of them, as one."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = recorders

    def request(self, record: RequestRecord) -> None:
        for recorder in self._recorders:
            recorder.request(record)

    def swap(self, record: SwapRecord) -> None:
        for recorder in self._recorders:
            recorder.swap(record)

    def state(self, record: StateRecord) -> None:
        for recorder in self._recorders:
            recorder.state(record)

    def problem(self, record: ProblemRecord) -> None:
        for recorder in self._recorders:
            recorder.problem(record)


class Recording(Passing):
    """Of swaps, states, failed loads and Ollama's absence.

    Those of requests are made where these are counted, those of refused requests where these are refused.
    """

    def __init__(self, following: Observer, recorder: Recorder) -> None:
        super().__init__(following)
        self._recorder = recorder
        self._drained: dict[str, float] = {}  # seconds, until the model is gone
        self._gone = ("", 0.0, 0.0)  # what was unloaded last: its drain and its unload

    def drained(self, model: str, seconds: float) -> None:
        self._drained[model] = seconds
        super().drained(model, seconds)

    def unloaded(self, model: str, seconds: float, cause: str) -> None:
        self._gone = model, self._drained.pop(model, 0.0), seconds
        super().unloaded(model, seconds, cause)

    def loaded(self, model: str, seconds: float, expected_s: float, replaced: str, cause: str) -> None:
        gone, drain_s, unload_s = self._gone
        if not replaced or replaced != gone:
            drain_s = unload_s = 0.0
        self._recorder.swap(SwapRecord(time.time(), replaced, model, cause, drain_s, unload_s, seconds, False))
        super().loaded(model, seconds, expected_s, replaced, cause)

    def load_failed(self, model: str, seconds: float, status: int) -> None:
        self._recorder.swap(SwapRecord(time.time(), "", model, "failed", 0.0, 0.0, seconds, True))
        why = "it was not loaded in time" if status == GATEWAY_TIMEOUT else f"Ollama answered {status}"
        self._recorder.problem(ProblemRecord(time.time(), model, "load_failed", f"the load failed: {why}"))
        super().load_failed(model, seconds, status)

    def changed(self, model: str, state: State, cause: Cause) -> None:
        if state is State.RESIDENT:
            self._drained.pop(model, None)  # of an unload that failed, or that nobody saw end
        self._recorder.state(StateRecord(time.time(), model, STATUS[state], cause))
        super().changed(model, state, cause)

    def upstream(self, reachable: bool) -> None:
        code, state = ("upstream_back", "reachable again") if reachable else ("upstream_unreachable", "not reachable")
        self._recorder.problem(ProblemRecord(time.time(), "", code, f"Ollama is {state}"))
        super().upstream(reachable)
