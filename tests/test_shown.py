"""The table of what can be shown together: of a model, of its work, and to one who waits."""

import itertools
from typing import Any

import pytest

from swapper_proxy.core.forecast import Why
from swapper_proxy.core.types import State
from swapper_proxy.runtime.shown import STATUS, TOLD, Facts, Ollama, counts

AWAY, CLOSING = "Ollama is not reachable", "the proxy is shutting down"
ELSEWHERE, MISSING = "it runs elsewhere", "Ollama does not have it"
IN, OUT = "it is loaded", "it is not in memory"

# What is known, then: status, activity, why it cannot be loaded, unloaded, pinned ("": it can).
TABLE: list[tuple[dict[str, Any], tuple[str, str, str, str, str]]] = [
    # Ollama is there
    ({}, ("unloaded", "unloaded", "", OUT, "")),
    ({"failed": True}, ("error", "error", "", OUT, "")),
    ({"pinned": True}, ("unloaded", "unloaded", "", "it is pinned", "")),
    ({"installed": False}, ("missing", "missing", MISSING, MISSING, MISSING)),
    ({"installed": False, "failed": True}, ("missing", "missing", MISSING, MISSING, MISSING)),
    ({"installed": None}, ("unloaded", "unloaded", "", OUT, "")),
    ({"remote": True}, ("unloaded", "unloaded", ELSEWHERE, ELSEWHERE, ELSEWHERE)),
    ({"state": State.LOADING}, ("loading", "loading", "it is loading", "", "")),
    ({"state": State.LOADING, "as_wanted": False}, ("loading", "loading", "", "", "")),
    ({"state": State.RESIDENT}, ("loaded", "loaded", IN, "", "")),
    ({"state": State.RESIDENT, "as_wanted": False}, ("loaded", "loaded", "", "", "")),
    ({"state": State.RESIDENT, "busy": True}, ("loaded", "serving", IN, "", "")),
    ({"state": State.RESIDENT, "held": True}, ("loaded", "holding", IN, "", "")),
    ({"state": State.RESIDENT, "held": True, "busy": True}, ("loaded", "serving", IN, "", "")),
    ({"state": State.RESIDENT, "pinned": True}, ("loaded", "loaded", IN, "it is pinned", "")),
    # its name was deleted, or never was asked for: it is in memory all the same
    ({"state": State.RESIDENT, "installed": False}, ("loaded", "loaded", IN, "", "")),
    ({"state": State.RESIDENT, "failed": True}, ("loaded", "loaded", IN, "", "")),
    ({"state": State.DRAINING}, ("draining", "draining", "", "", "")),
    ({"state": State.DRAINING, "busy": True, "held": True}, ("draining", "draining", "", "", "")),
    ({"state": State.UNLOADING}, ("unloading", "unloading", "", "it is unloading", "")),
    # what it answered before it left, and left over
    ({"busy": True}, ("unloaded", "unloaded", "", OUT, "")),
    ({"state": State.LOADING, "busy": True}, ("loading", "loading", "it is loading", "", "")),
    ({"state": State.UNLOADING, "busy": True}, ("unloading", "unloading", "", "it is unloading", "")),
    # Ollama is away: what is missing stays so, and nothing can be done
    ({"ollama": Ollama.DOWN}, ("unloaded", "unloaded", AWAY, AWAY, AWAY)),
    ({"ollama": Ollama.DOWN, "failed": True}, ("error", "error", AWAY, AWAY, AWAY)),
    ({"ollama": Ollama.DOWN, "installed": False}, ("missing", "missing", MISSING, MISSING, MISSING)),
    ({"ollama": Ollama.DOWN, "installed": None}, ("unloaded", "unloaded", AWAY, AWAY, AWAY)),
    ({"ollama": Ollama.DOWN, "pinned": True}, ("unloaded", "unloaded", AWAY, AWAY, AWAY)),
    ({"ollama": Ollama.DOWN, "remote": True}, ("unloaded", "unloaded", ELSEWHERE, ELSEWHERE, ELSEWHERE)),
    # nobody knows what is in memory, but for what is answering
    ({"ollama": Ollama.BLIND}, ("unloaded", "not known", "", "", "")),
    ({"ollama": Ollama.BLIND, "failed": True}, ("error", "error", "", "", "")),
    ({"ollama": Ollama.BLIND, "installed": False}, ("missing", "missing", MISSING, MISSING, MISSING)),
    ({"ollama": Ollama.BLIND, "state": State.RESIDENT, "busy": True}, ("loaded", "serving", IN, "", "")),
    # the proxy is shutting down
    ({"ollama": Ollama.CLOSING}, ("unloaded", "unloaded", CLOSING, CLOSING, CLOSING)),
    ({"ollama": Ollama.CLOSING, "state": State.RESIDENT}, ("loaded", "loaded", CLOSING, CLOSING, CLOSING)),
    ({"ollama": Ollama.CLOSING, "state": State.UNLOADING}, ("unloading", "unloading", CLOSING, CLOSING, CLOSING)),
    ({"ollama": Ollama.CLOSING, "installed": False}, ("missing", "missing", MISSING, MISSING, MISSING)),
]


@pytest.mark.parametrize(("facts", "shown"), TABLE)
def test_a_model(facts: dict[str, Any], shown: tuple[str, ...]) -> None:
    model = Facts(**facts)
    refusals = [str(model.refusals.get(action, "")) for action in ("load", "unload", "pin")]
    assert (model.status, model.activity, *refusals) == shown


def every_model() -> list[Facts]:
    both = (True, False)
    return [Facts(*values) for values in itertools.product(State, Ollama, both, both, both, (*both, None), *[both] * 3)]


def test_no_two_things_that_are_shown_of_a_model_contradict_each_other() -> None:
    """Whatever is known: nothing is done where nothing can be, and what a button is refused for is what is shown."""
    for model in every_model():
        status, activity, refusals = model.status, model.activity, model.refusals
        absent = model.state is State.ABSENT
        assert (status in ("unloaded", "error", "missing")) is absent
        assert activity in (status, "serving", "holding", "not known")
        assert activity not in ("serving", "holding") or status == "loaded"
        assert activity != "serving" or model.busy
        assert activity != "holding" or not model.busy
        if model.ollama in (Ollama.DOWN, Ollama.CLOSING) or status == "missing" or model.remote:
            assert refusals.keys() == {"load", "unload", "pin"}
        for reason in map(str, refusals.values()):
            assert not reason.startswith("it is ") or reason in (f"it is {status}", "it is pinned", OUT)
        assert refusals.get("unload") != OUT or absent


# State of the runner, requests for this name in flight and waiting, what is shown of these.
WORK = [
    (State.ABSENT, 0, 0, ""),
    (State.ABSENT, 0, 2, "2 waiting"),
    (State.ABSENT, 1, 0, "1 left over from before"),
    (State.ABSENT, 1, 2, "1 left over from before, 2 waiting"),
    (State.LOADING, 0, 1, "1 waiting"),
    (State.LOADING, 1, 1, "1 left over from before, 1 waiting"),
    (State.RESIDENT, 0, 0, ""),
    (State.RESIDENT, 1, 0, "1 in flight"),
    (State.RESIDENT, 4, 2, "4 in flight, 2 waiting"),
    (State.DRAINING, 1, 2, "1 in flight, 2 waiting"),
    (State.UNLOADING, 0, 2, "2 waiting"),
    (State.UNLOADING, 1, 0, "1 left over from before"),
]


@pytest.mark.parametrize(("state", "in_flight", "waiting", "shown"), WORK)
def test_its_work(state: State, in_flight: int, waiting: int, shown: str) -> None:
    assert counts(state, in_flight, waiting) == shown


# Why one waits: what it is told with and without a model in the way, and whether it may force a swap at its deadline.
WAITS = [
    ("busy", "the model answers as many requests as it may at once", "", False),
    ("loading", "the model is being loaded", "", False),
    ("leaving", "the model is making room for another one and will come back", "", True),
    ("unloading", "the model is being unloaded and will come back", "", True),
    ("swapping", "m is being loaded or unloaded", "", True),
    ("draining", "m finishes its answers, then it goes", "", False),
    ("gate", "m first serves those who waited when it was loaded", "", True),
    ("hold", "m is idle, but its client is likely to call again at once", "", True),
    ("turn", "m has work; it may be forced out at the deadline", "its turn has not come yet", True),
    ("stuck", "Ollama did not unload m; it is asked again in a moment", "", True),
    ("backoff", "the model could not be loaded a moment ago", "", False),
    ("down", "Ollama is not reachable", "", False),
    ("blind", "the scheduler failed, and what is in memory is not known yet", "", False),
]


@pytest.mark.parametrize(("why", "reason", "alone", "forces"), WAITS)
def test_one_who_waits(why: str, reason: str, alone: str, forces: bool) -> None:
    told = TOLD[Why(why)]
    assert (told.reason("m"), told.forces) == (reason, forces)
    assert not alone or told.reason("") == alone


def test_the_table_is_complete() -> None:
    assert [why for why, *_ in WAITS] == [why.value for why in Why] == [why.value for why in TOLD]
    assert set(STATUS) == set(State) == {state for state, *_ in WORK}
    told = [Facts(**facts) for facts, _ in TABLE]
    assert {model.ollama for model in told} == set(Ollama)
    assert {model.state for model in told} == set(State)
