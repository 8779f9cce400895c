"""The text of metrics is read by Prometheus' own parser, and says what the client library would have said."""

import prometheus_client
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy.observe.exposition import Histograms, head, labelled, samples
from swapper_proxy.observe.rare import Counter

disable_created_metrics()  # as the proxy does, whether or not its metrics were imported before
BOUNDS = (0.005, 0.25, 1, 2.5, 600)
TEXT = "What it is."
names = st.text(st.characters(codec="utf-8"))
numbers = st.one_of(st.sampled_from([0, *BOUNDS]), st.floats(0, 1e18))
# Of what model, and how much.
told = st.lists(st.tuples(names, numbers))
AWKWARD = [('a"b', 0.25), ("a\\n", 1), ("a\nb", 2.0), ("\\", 1e9), ('\\"\n', 600.5), ("%d", 1), ("\0é{}", 0.1)]


def read(text: bytes) -> list[object]:
    """What is said."""
    families = text_string_to_metric_families(text.decode())
    return [(f.name, f.type, f.documentation, [(s.name, s.labels, s.value) for s in f.samples]) for f in families]


@given(told)
@example(AWKWARD)
def test_histograms(told: list[tuple[str, float]]) -> None:
    ours, registry = Histograms("wait_seconds", TEXT, BOUNDS), CollectorRegistry()
    theirs = prometheus_client.Histogram("wait_seconds", TEXT, ["model"], buckets=BOUNDS, registry=registry)
    for model, number in told:
        ours.of(model).observe(number)
        theirs.labels(model).observe(number)
        assert b"".join(ours.exposition())  # what is shown once is shown anew when it has changed
    assert read(b"".join(ours.exposition())) == read(generate_latest(registry))


@given(st.dictionaries(names, numbers))
@example(dict(AWKWARD))
def test_gauges(values: dict[str, float]) -> None:
    ours = samples("depth", [(labelled(("model",), (model,)), value) for model, value in values.items()])
    registry = CollectorRegistry()
    theirs = prometheus_client.Gauge("depth", TEXT, ["model"], registry=registry)
    for model, value in values.items():
        theirs.labels(model).set(value)
    assert read(head("depth", "gauge", TEXT) + ours) == read(generate_latest(registry))


def test_of_models_that_are_forgotten_nothing_is_shown() -> None:
    swaps, reasons = Counter("swaps", TEXT, "from_model", "to_model", "reason"), Counter("refused", TEXT, "reason")
    loads = Histograms("load_seconds", TEXT, BOUNDS)
    for pair in (("", "a"), ("a", "b"), ("b", "c"), ("c", "b")):
        swaps.add(*pair, "a")
    reasons.add("a")
    for model in ("a", "b"):
        loads.of(model).observe(1)
    before = swaps.exposition(), b"".join(loads.exposition())
    for metric in (swaps, reasons, loads):
        metric.forget({"never told of"})
    assert (swaps.exposition(), b"".join(loads.exposition())) == before
    for metric in (swaps, reasons, loads):
        metric.forget({"a"})
    assert swaps.models == {"b", "c"}
    assert swaps.exposition().count(b"\nswaps_total{") == 2
    assert reasons.exposition().count(b"\nrefused_total{") == 1  # no model is meant
    assert set(loads.models) == {"b"}
    assert b'model="a"' not in b"".join(loads.exposition())


@pytest.mark.parametrize(
    ("pairs", "text"),
    [((), b""), ((("b", "2"), ("a", "1")), b'{a="1",b="2"}'), ((("a", '\\"\n'),), b'{a="\\\\\\"\\n"}')],
)
def test_labels_stand_in_their_order(pairs: tuple[tuple[str, str], ...], text: bytes) -> None:
    assert labelled(tuple(name for name, _ in pairs), tuple(value for _, value in pairs)) == text
