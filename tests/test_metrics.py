"""What /metrics shows, and that its text is read by Prometheus' own parser."""

from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.core.types import Priority, State
from swapper_proxy.observe import metrics as metrics_module
from swapper_proxy.observe.gone import GONE_S, MOST_GONE
from swapper_proxy.observe.metrics import NEW_MODELS, Metrics
from swapper_proxy.runtime.board import Board, ModelState, Snapshot
from swapper_proxy.runtime.ledger import Ledger, Residence, Totals
from swapper_proxy.runtime.ports import Usage
from swapper_proxy.runtime.shown import Facts


def test_the_hooks_fill_the_histograms() -> None:
    metrics = Metrics()
    metrics.waited("a", 0.5)
    metrics.loaded("a", 2.0, 1.5, "b", "deadline")
    metrics.held("b", 0.75, True)
    metrics.held("b", 0.25, False)
    metrics.reloaded("a", 1.0, "gone")
    metrics.drained("b", 1.0)
    metrics.unloaded("b", 0.1, "deadline")
    metrics.load_failed("c", 1.0, 500)
    metrics.rejected("queue_full")
    metrics.first_byte("a", 0.1)
    metrics.first_token("a", 0.3)
    metrics.answered("a", 3.0, Usage(7, 11, generation_s=0.5))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }
    for name, model in (("queue_wait", "a"), ("load", "a"), ("drain", "b"), ("unload", "b"), ("request_duration", "a")):
        assert samples[f"swapper_{name}_seconds_count", ("model", model)] == 1
    assert samples["swapper_swaps_total", ("from_model", "b"), ("reason", "deadline"), ("to_model", "a")] == 1
    assert samples["swapper_load_estimate_error_seconds_sum", ("model", "a")] == 0.5
    assert samples["swapper_holds_total", ("model", "b"), ("outcome", "paid")] == 1
    assert samples["swapper_holds_total", ("model", "b"), ("outcome", "lost")] == 1
    assert samples["swapper_held_seconds_total", ("model", "b")] == 1
    assert samples["swapper_upstream_reloads_total", ("cause", "gone"), ("model", "a")] == 1
    assert samples["swapper_load_failures_total", ("model", "c")] == 1
    assert samples["swapper_rejected_requests_total", ("reason", "queue_full")] == 1
    assert samples["swapper_time_to_first_token_seconds_sum", ("model", "a")] == 0.3
    assert samples["swapper_tokens_per_second_sum", ("model", "a")] == 22


def test_each_scrape_shows_what_happened_since_the_last() -> None:
    metrics = Metrics()
    for times in (1, 2):
        metrics.rejected("queue_full")
        metrics.waited("a", 0.5)
        text = metrics.exposition().decode()
        assert f'swapper_rejected_requests_total{{reason="queue_full"}} {times}.0\n' in text
        assert f'swapper_queue_wait_seconds_count{{model="a"}} {times}.0\n' in text


class Shown:
    """A board whose models can be changed."""

    def __init__(self, *models: str) -> None:
        self.models, self.reachable, self.ledger = models, True, Ledger()

    def snapshot(self) -> Snapshot:
        models, ledger = tuple(map(state, self.models)), self.ledger
        return Snapshot(None, models, ledger.requests, ledger.remote_requests, ledger.by_model, self.reachable)

    def metrics(self) -> Metrics:
        """That are filled by what this board shows."""
        metrics = Metrics()
        metrics.watch(cast("Board", self), self.ledger)
        return metrics

    def use(self, metrics: Metrics, model: str) -> None:
        """Do all that one request brings."""
        metrics.loaded(model, 2.0, 1.5, "stays", "deadline")
        metrics.loaded("stays", 2.0, 1.5, model, "deadline")
        metrics.waited(model, 0.5)
        metrics.load_failed(model, 1.0, 500)
        metrics.answered(model, 3.0, Usage(7, 11, generation_s=0.5))
        self.ledger.count(model, "chat", 200, Usage(7, 11))


def state(name: str) -> ModelState:
    facts = Facts(state=State.RESIDENT)
    return ModelState(name, name, name, "llm", 1.0, Priority.MEDIUM, True, facts, 0, 0, 0, "", Totals(), Residence())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(metrics_module.time, "monotonic", lambda: now[0])
    return now


def series(metrics: Metrics) -> list[str]:
    return [line for line in metrics.exposition().decode().splitlines() if not line.startswith("#")]


def test_the_series_of_models_that_are_gone_go_too(clock: list[float]) -> None:
    board = Shown("stays")
    metrics = board.metrics()
    board.use(metrics, "stays")
    before = series(metrics)
    board.models = "stays", "copy"
    board.use(metrics, "copy")
    assert len(series(metrics)) > len(before) + 50
    board.models = ("stays",)
    lines = series(metrics)
    assert any('model="copy"' in line for line in lines)  # for whoever has not scraped its last figures yet
    clock[0] += GONE_S - 1
    board.reachable = False  # says nothing of what there is
    assert len(series(metrics)) == len(lines)
    board.reachable = True
    clock[0] += 2
    after = series(metrics)
    assert [line.partition(" ")[0] for line in after] == [line.partition(" ")[0] for line in before]
    assert board.ledger.totals("copy").generated_tokens == 11  # what the API tells of it goes on if it comes back
    assert "copy" not in board.ledger.models


def test_a_model_that_comes_back_keeps_its_series(clock: list[float]) -> None:
    """One that is made anew, or a list that could not be read: a rate must not start from 0."""
    board = Shown("a")
    metrics = board.metrics()
    board.use(metrics, "a")
    for models in ((), ("a",), ()):
        board.models = models
        assert 'swapper_load_failures_total{model="a"} 1.0' in series(metrics)
        clock[0] += GONE_S - 1


def test_names_without_end_bring_no_series_without_end(clock: list[float]) -> None:
    """Models that are copied, used and deleted, or never were, faster than anything is dropped, and nobody scrapes."""
    board = Shown("stays")
    metrics = board.metrics()
    board.use(metrics, "stays")
    base = len(series(metrics))
    board.use(metrics, "one")
    of_one = len(series(metrics)) - base
    for number in range(5 * NEW_MODELS):
        board.use(metrics, f"copy-{number}")
    assert len(metrics._models) <= NEW_MODELS + MOST_GONE + 2
    assert len(series(metrics)) <= base + MOST_GONE * of_one
    clock[0] += GONE_S
    assert len(series(metrics)) == base


def test_rare_events_of_known_models_are_counted_from_zero(clock: list[float]) -> None:
    """Else the first one would be no increase to Prometheus."""
    board = Shown("a")
    metrics = board.metrics()
    board.reachable = False  # configured models are known before Ollama answers
    expected = {
        'swapper_load_failures_total{model="%s"} 0.0',
        'swapper_held_seconds_total{model="%s"} 0.0',
        'swapper_holds_total{model="%s",outcome="paid"} 0.0',
        'swapper_holds_total{model="%s",outcome="lost"} 0.0',
        'swapper_upstream_reloads_total{cause="gone",model="%s"} 0.0',
        'swapper_upstream_reloads_total{cause="options",model="%s"} 0.0',
    }
    assert {line % "a" for line in expected} <= set(series(metrics))
    metrics.load_failed("a", 1.0, 500)
    board.models = "a", "pulled"
    assert {line % "pulled" for line in expected} <= set(series(metrics))
    assert 'swapper_load_failures_total{model="a"} 1.0' in series(metrics)
