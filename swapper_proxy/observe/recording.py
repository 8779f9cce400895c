"""Makes records of what happens, for whoever keeps or shows them."""

import time

from swapper_proxy.core.types import Cause, State
from swapper_proxy.runtime.ports import ProblemRecord, Recorder, StateRecord, SwapRecord
from swapper_proxy.runtime.shown import STATUS

GATEWAY_TIMEOUT = 504  # of a load: it took too long


class Recording:
    """Record swaps, states, failed loads, Ollama's absence and faults of the scheduler.

    Those of requests are made where these are counted, those of refused requests where these are refused.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._drained: dict[str, float] = {}  # seconds, until the model is gone
        self._gone = ("", 0.0, 0.0)  # what was unloaded last: its drain and its unload

    def drained(self, model: str, seconds: float) -> None:
        self._drained[model] = seconds

    def unloaded(self, model: str, seconds: float, cause: str) -> None:
        self._gone = model, self._drained.pop(model, 0.0), seconds

    def loaded(self, model: str, seconds: float, expected_s: float, replaced: str, cause: str) -> None:
        gone, drain_s, unload_s = self._gone
        if not replaced or replaced != gone:
            drain_s = unload_s = 0.0
        self._recorder.swap(SwapRecord(time.time(), replaced, model, cause, drain_s, unload_s, seconds, False))

    def load_failed(self, model: str, seconds: float, status: int) -> None:
        self._recorder.swap(SwapRecord(time.time(), "", model, "failed", 0.0, 0.0, seconds, True))
        why = "it was not loaded in time" if status == GATEWAY_TIMEOUT else f"Ollama answered {status}"
        self._recorder.problem(ProblemRecord(time.time(), model, "load_failed", f"the load failed: {why}"))

    def changed(self, model: str, state: State, cause: Cause) -> None:
        if state is State.RESIDENT:
            self._drained.pop(model, None)  # of an unload that failed, or that nobody saw end
        self._recorder.state(StateRecord(time.time(), model, STATUS[state], cause))

    def upstream(self, reachable: bool, why: str = "") -> None:
        code, state = ("upstream_back", "reachable again") if reachable else ("upstream_unreachable", "not reachable")
        because = f": {why}" if why else ""
        self._recorder.problem(ProblemRecord(time.time(), "", code, f"Ollama is {state}{because}"))

    def scheduler_fault(self) -> None:
        what = "the scheduler failed and was started anew; see the proxy's log"
        self._recorder.problem(ProblemRecord(time.time(), "", "scheduler_fault", what))
