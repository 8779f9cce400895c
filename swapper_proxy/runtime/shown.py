"""What is shown of one instant: the state of a model, what can be done with it, and what one who waits is told.

All that shows it takes it from here: the API, the metrics, the console and the command line.  So no two of them
contradict each other.  Pure; tests/test_shown.py is the table of what can be shown together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, TypedDict

from swapper_proxy.core.forecast import Why
from swapper_proxy.core.types import State

Status = Literal["loading", "loaded", "draining", "unloading", "unloaded", "error", "missing"]
Activity = Literal[
    "loading", "loaded", "serving", "holding", "draining", "unloading", "unloaded", "error", "missing", "not known"
]
STATUS: Mapping[State, Status] = {
    State.ABSENT: "unloaded",
    State.LOADING: "loading",
    State.RESIDENT: "loaded",
    State.DRAINING: "draining",
    State.UNLOADING: "unloading",
}


class Refusals(TypedDict, total=False):
    """Why an action would do nothing; what is left out can be done."""

    load: str
    unload: str
    pin: str


class Ollama(StrEnum):
    """How the Ollama behind the proxy is, as far as it decides what can be done."""

    UP = "up"
    DOWN = "down"
    BLIND = "blind"  # the scheduler failed, and nobody knows what is in memory
    CLOSING = "closing"  # the proxy is shutting down


_NOTHING_GOES = {Ollama.DOWN: "Ollama is not reachable", Ollama.CLOSING: "the proxy is shutting down"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model.  `state`, `busy` and `held` are those of its runner, which may have other names.

    `installed` is None as long as Ollama could not be asked.  `as_wanted`: the runner is loaded with the options that
    this model has by itself.  `failed`: its last load did.
    """

    state: State = State.ABSENT
    ollama: Ollama = Ollama.UP
    busy: bool = False
    held: bool = False
    as_wanted: bool = True
    installed: bool | None = True
    failed: bool = False
    remote: bool = False
    pinned: bool = False

    @property
    def status(self) -> Status:
        """Return its state in the words of the API."""
        if self.state is not State.ABSENT:
            return STATUS[self.state]
        if self.installed is False:
            return "missing"
        return "error" if self.failed else "unloaded"

    @property
    def activity(self) -> Activity:
        """Return its status, or what it does while it is loaded, for people."""
        status = self.status
        if status == "loaded":
            return "serving" if self.busy else "holding" if self.held else "loaded"
        if status == "unloaded" and self.ollama is Ollama.BLIND:
            return "not known"
        return status

    @property
    def refusals(self) -> Refusals:
        """Return the actions that would do nothing, with the reasons; unpinning can always be done."""
        found: Refusals = {}
        if reason := self._why_no_load():
            found["load"] = reason
        if reason := self._why_no_unload():
            found["unload"] = reason
        if reason := self._why_nothing():
            found["pin"] = reason
        return found

    def _why_nothing(self) -> str:
        if self.remote:
            return "it runs elsewhere"
        if self.status == "missing":
            return "Ollama does not have it"
        return _NOTHING_GOES.get(self.ollama, "")

    def _why_no_load(self) -> str:
        if reason := self._why_nothing():
            return reason
        there = self.status in ("loaded", "loading") and self.as_wanted
        return f"it is {self.status}" if there else ""

    def _why_no_unload(self) -> str:
        if reason := self._why_nothing():
            return reason
        if self.pinned:
            return "it is pinned"
        if self.state is State.UNLOADING:
            return "it is unloading"
        return "it is not in memory" if self.state is State.ABSENT and self.ollama is not Ollama.BLIND else ""


def counts(state: State, in_flight: int, waiting: int) -> str:
    """Return how much work a model has, for people; what is not in memory answers nothing any more."""
    answers = state in (State.RESIDENT, State.DRAINING)
    flying = f"{in_flight} in flight" if answers else f"{in_flight} left over from before"
    return ", ".join([flying] * bool(in_flight) + [f"{waiting} waiting"] * bool(waiting))


class Told(NamedTuple):
    """What one who waits is told: `blocker` has its place in the text, or `nobody` is the text if there is none.

    `forces`: from the deadline on, it may force a swap.
    """

    text: str
    forces: bool
    nobody: str = ""

    def reason(self, blocker: str) -> str:
        return self.text.format(blocker=blocker or "another model") if blocker or not self.nobody else self.nobody


TOLD: Mapping[Why, Told] = {
    Why.BUSY: Told("the model answers as many requests as it may at once", forces=False),
    Why.LOADING: Told("the model is being loaded", forces=False),
    Why.LEAVING: Told("the model is making room for another one and will come back", forces=True),
    Why.UNLOADING: Told("the model is being unloaded and will come back", forces=True),
    Why.SWAPPING: Told("{blocker} is being loaded or unloaded", forces=True),
    Why.DRAINING: Told("{blocker} finishes its answers, then it goes", forces=False),
    Why.GATE: Told("{blocker} first serves those who waited when it was loaded", forces=True),
    Why.HOLD: Told("{blocker} is idle, but its client is likely to call again at once", forces=True),
    Why.TURN: Told(
        "{blocker} has work; it may be forced out at the deadline", forces=True, nobody="its turn has not come yet"
    ),
    Why.STUCK: Told("Ollama did not unload {blocker}; it is asked again in a moment", forces=True),
    Why.BACKOFF: Told("the model could not be loaded a moment ago", forces=False),
    Why.DOWN: Told("Ollama is not reachable", forces=False),
    Why.BLIND: Told("the scheduler failed, and what is in memory is not known yet", forces=False),
}
