"""What is recorded of swaps and states."""

from swapper_proxy.core.types import Cause, State
from swapper_proxy.observe.fanout import Fanout
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.observe.recording import Recording
from swapper_proxy.runtime.ports import ProblemRecord, RequestRecord, StateRecord, SwapRecord


class Kept:
    """Keeps all of it; times are left out."""

    def __init__(self) -> None:
        self.swaps: list[tuple[object, ...]] = []
        self.states: list[tuple[str, str, str]] = []
        self.problems: list[tuple[str, str, str]] = []

    def request(self, record: RequestRecord) -> None:
        raise AssertionError("there was none")

    def swap(self, r: SwapRecord) -> None:
        assert r.time > 1e9
        self.swaps.append((r.from_model, r.to_model, r.reason, r.drain_s, r.unload_s, r.load_s, r.failed))

    def state(self, r: StateRecord) -> None:
        assert r.time > 1e9
        self.states.append((r.model, r.state, r.cause))

    def problem(self, r: ProblemRecord) -> None:
        assert r.time > 1e9
        self.problems.append((r.model, r.code, r.message))


def test_a_swap_has_the_drain_and_the_unload_of_what_went_for_it() -> None:
    kept, metrics = Kept(), Metrics()
    recording = Fanout(Recording(kept), metrics)
    recording.loaded("a", 2.0, 1.5, "", "idle")
    recording.drained("a", 1.0)
    recording.unloaded("a", 0.5, "deadline")
    recording.loaded("b", 3.0, 1.5, "a", "deadline")
    recording.unloaded("b", 0.25, "idle")
    recording.load_failed("c", 4.0, 500)
    recording.loaded("a", 2.0, 1.5, "", "manual")
    assert kept.swaps == [
        ("", "a", "idle", 0.0, 0.0, 2.0, False),
        ("a", "b", "deadline", 1.0, 0.5, 3.0, False),
        ("", "c", "failed", 0.0, 0.0, 4.0, True),
        ("", "a", "manual", 0.0, 0.0, 2.0, False),
    ]
    assert b'swapper_load_seconds_count{model="a"} 2.0\n' in metrics.exposition()


def test_the_drain_of_an_unload_that_failed_is_not_that_of_a_later_one() -> None:
    kept = Kept()
    recording = Fanout(Recording(kept))
    recording.drained("a", 9.0)
    recording.changed("a", State.RESIDENT, Cause.FAILED)
    recording.unloaded("a", 0.5, "idle")
    recording.loaded("b", 3.0, 1.5, "a", "idle")
    assert kept.swaps == [("a", "b", "idle", 0.0, 0.5, 3.0, False)]


def test_states() -> None:
    kept = Kept()
    recording = Fanout(Recording(kept))
    recording.changed("a", State.LOADING, Cause.IDLE)
    recording.changed("a", State.RESIDENT, Cause.IDLE)
    assert kept.states == [("a", "loading", "idle"), ("a", "loaded", "idle")]


def test_problems() -> None:
    kept = Kept()
    recording = Fanout(Recording(kept))
    recording.load_failed("a", 1.0, 500)
    recording.load_failed("b", 60.0, 504)
    recording.upstream(False)
    recording.upstream(True)
    recording.scheduler_fault()
    assert kept.problems == [
        ("a", "load_failed", "the load failed: Ollama answered 500"),
        ("b", "load_failed", "the load failed: it was not loaded in time"),
        ("", "upstream_unreachable", "Ollama is not reachable"),
        ("", "upstream_back", "Ollama is reachable again"),
        ("", "scheduler_fault", "the scheduler failed and was started anew; see the proxy's log"),
    ]
