"""What /metrics shows, and that its text is read by Prometheus' own parser."""

from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.runtime.ports import Usage


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
