"""The Prometheus endpoint's figures: histograms filled by hooks, the rest read from the engine at scrape time."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from swapper_proxy import __version__
from swapper_proxy.runtime.board import Board
from swapper_proxy.runtime.ports import Usage

# Queues and loads take from milliseconds (small models, warm caches) to minutes (70B from a slow disk).
LONG_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
# From a large model on a CPU to a small one on a GPU.
TOKENS_PER_S = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640)


@dataclass(frozen=True, slots=True)
class _OfModel:
    queue_wait: Histogram
    first_byte: Histogram
    first_token: Histogram
    speed: Histogram
    duration: Histogram
    tokens_in: Counter
    tokens_out: Counter


class Metrics:
    """All metrics, in a registry of their own.  Labels come only from known models and fixed words."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: dict[str, _OfModel] = {}

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"swapper_{name}_seconds", text, ["model"], buckets=LONG_S, registry=self.registry)

        def speed(name: str, text: str) -> Histogram:
            return Histogram(f"swapper_{name}", text, ["model"], buckets=TOKENS_PER_S, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"swapper_{name}", text, labels, registry=self.registry)

        self._queue_wait = histogram("queue_wait", "Time from arrival to grant.")
        self._load = histogram("load", "Time to load a model.")
        self._drain = histogram("drain", "Time from the last grant before an unload until nothing was in flight.")
        self._unload = histogram("unload", "Time to unload a model.")
        self._first_byte = histogram("time_to_first_byte", "Time from the hand-over to Ollama to its first byte.")
        self._first_token = histogram(
            "time_to_first_token", "Time from arrival to the first piece of a streamed answer."
        )
        self._speed = speed("tokens_per_second", "Generated tokens of an answer by the time it took to generate them.")
        self._duration = histogram("request_duration", "Time from arrival to the end of the answer.")
        self._swaps = counter("swaps", "Loads by what went, what came and why.", "from_model", "to_model", "reason")
        self._load_error = histogram("load_estimate_error", "By how much the expected time of a load was wrong.")
        self._holds = counter(
            "holds", "Idle models kept although others waited, by what came of it.", "model", "outcome"
        )
        self._held = counter("held_seconds", "Time that idle models were kept while others waited.", "model")
        self._reloads = counter("upstream_reloads", "Loads by Ollama behind the proxy's back.", "model", "cause")
        self._load_failures = counter("load_failures", "Loads that failed.", "model")
        self._tokens_in = counter("prompt_tokens", "Prompt tokens, as Ollama counts them.", "model")
        self._tokens_out = counter("generated_tokens", "Generated tokens, as Ollama counts them.", "model")
        self._rejected = counter("rejected_requests", "Requests the proxy answered with an error.", "reason")

    # Hooks (see runtime.ports.Observer)

    def waited(self, model: str, seconds: float) -> None:
        self._of(model).queue_wait.observe(seconds)

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def loaded(self, model: str, seconds: float, expected_s: float, replaced: str, cause: str) -> None:
        self._load.labels(model).observe(seconds)
        self._load_error.labels(model).observe(abs(seconds - expected_s))
        self._swaps.labels(replaced, model, cause).inc()

    def load_failed(self, model: str, seconds: float, status: int) -> None:
        self._load_failures.labels(model).inc()

    def drained(self, model: str, seconds: float) -> None:
        self._drain.labels(model).observe(seconds)

    def unloaded(self, model: str, seconds: float, cause: str) -> None:
        self._unload.labels(model).observe(seconds)

    def held(self, model: str, seconds: float, paid: bool) -> None:
        self._holds.labels(model, "paid" if paid else "lost").inc()
        self._held.labels(model).inc(seconds)

    def reloaded(self, model: str, seconds: float, cause: str) -> None:
        self._reloads.labels(model, cause).inc()

    def upstream(self, reachable: bool) -> None:
        """Read from the snapshot."""

    # Of single requests

    def first_byte(self, model: str, after_hand_over_s: float) -> None:
        self._of(model).first_byte.observe(after_hand_over_s)

    def first_token(self, model: str, seconds: float) -> None:
        self._of(model).first_token.observe(seconds)

    def answered(self, model: str, seconds: float, usage: Usage) -> None:
        of = self._of(model)
        of.duration.observe(seconds)
        of.tokens_in.inc(usage.prompt_tokens)
        of.tokens_out.inc(usage.generated_tokens)
        if usage.generated_tokens and usage.generation_s > 0:
            of.speed.observe(usage.generated_tokens / usage.generation_s)

    def _of(self, model: str) -> "_OfModel":
        """What every request of a model is told to, looked up once."""
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = _OfModel(
                queue_wait=self._queue_wait.labels(model),
                first_byte=self._first_byte.labels(model),
                first_token=self._first_token.labels(model),
                speed=self._speed.labels(model),
                duration=self._duration.labels(model),
                tokens_in=self._tokens_in.labels(model),
                tokens_out=self._tokens_out.labels(model),
            )
        return found

    # Reading

    def watch(self, board: Board) -> None:
        """Add what is read at scrape time."""
        self.registry.register(_Reading(board))

    def exposition(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)


class _Reading(Collector):
    def __init__(self, board: Board) -> None:
        self._board = board

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshot = self._board.snapshot()
        yield _gauge("build_info", "The running version.", ["version"], [([__version__], 1)])
        yield _gauge("upstream_up", "Whether Ollama is reachable.", [], [([], float(snapshot.reachable))])
        models, now = snapshot.models, time.time()
        for name, text, value in (
            ("active_model", "Whether the model is the active one.", lambda m: float(m.name == snapshot.active)),
            ("model_loaded", "Whether the model is in memory.", lambda m: float(m.loaded)),
            ("model_uptime_seconds", "Length of the present residency.", lambda m: m.uptime_s(now)),
            ("queue_depth", "Requests that wait for the model.", lambda m: m.waiting),
            ("gate_requests", "Of these: served before the model may be forced out.", lambda m: m.gate),
            ("in_flight_requests", "Requests that Ollama is answering.", lambda m: m.in_flight),
        ):
            yield _gauge(name, text, ["model"], [([m.name], value(m)) for m in models])
        yield _requests("model_requests", "Inference requests handed to Ollama.", snapshot.requests)
        text = "Inference requests for models that run elsewhere."
        yield _requests("remote_requests", text, snapshot.remote_requests)


def _requests(name: str, text: str, counts: Mapping[tuple[str, str, int], int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"swapper_{name}", text, labels=["model", "endpoint", "status"])
    for (model, endpoint, status), count in counts.items():
        family.add_metric([model, endpoint, str(status)], count)
    return family


def _gauge(name: str, text: str, labels: list[str], values: list[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"swapper_{name}", text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family
