"""What /metrics shows, and that its text is read by Prometheus' own parser."""

from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.observe.usage import tokens


def test_the_hooks_fill_the_histograms() -> None:
    metrics = Metrics()
    metrics.waited("a", 0.5)
    metrics.loaded("a", 2.0, "b", "demand")
    metrics.drained("b", 1.0)
    metrics.unloaded("b", 0.1, "demand")
    metrics.load_failed("c", 1.0, 500)
    metrics.rejected("queue_full")
    metrics.first_byte("a", 0.1)
    metrics.answered("a", 3.0, [b'{"x":1}', b'{"prompt_eval_count":7,"prompt_eval_duration":1,"eval_count":11}'])
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }
    for name, model in (("queue_wait", "a"), ("load", "a"), ("drain", "b"), ("unload", "b"), ("request_duration", "a")):
        assert samples[f"swapper_{name}_seconds_count", ("model", model)] == 1
    assert samples["swapper_swaps_total", ("from_model", "b"), ("reason", "demand"), ("to_model", "a")] == 1
    assert samples["swapper_load_failures_total", ("model", "c")] == 1
    assert samples["swapper_rejected_requests_total", ("reason", "queue_full")] == 1
    assert samples["swapper_prompt_tokens_total", ("model", "a")] == 7
    assert samples["swapper_generated_tokens_total", ("model", "a")] == 11


def test_tokens_of_every_dialect() -> None:
    assert tokens([b"", b'"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}']) == (3, 4)
    assert tokens([b'data: {"usage":{"input_tokens":3,"output_tokens":4}}\n\n', b"data: [DONE]\n\n"]) == (3, 4)
    assert tokens([b"", b"no figures"]) == (0, 0)
