"""The Prometheus endpoint's figures: some filled by hooks, the rest read from the engine at scrape time."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain

from swapper_proxy import __version__
from swapper_proxy.observe.exposition import Histogram, Histograms, head, labelled, samples
from swapper_proxy.observe.gone import Gone
from swapper_proxy.observe.rare import Counter
from swapper_proxy.runtime.board import Board, Snapshot
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.ports import Usage

# Queues and loads take from milliseconds (small models, warm caches) to minutes (70B from a slow disk).
LONG_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
# From a large model on a CPU to a small one on a GPU.
TOKENS_PER_S = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640)
HOLDS, RELOADS = ("paid", "lost"), ("gone", "options")  # what can come of a hold, and cause a reload
# After so many models that are new to the metrics those that are gone are dropped, whether or not anybody scrapes.
NEW_MODELS = 100


@dataclass(frozen=True, slots=True)
class _OfModel:
    queue_wait: Histogram
    first_byte: Histogram
    first_token: Histogram
    speed: Histogram
    duration: Histogram


class Metrics:
    """All metrics.  Labels come only from models that are known, or were a moment ago, and from fixed words."""

    def __init__(self) -> None:
        self._board: Board | None = None
        self._ledger = Ledger()
        self._models: dict[str, _OfModel] = {}
        self._histograms: list[Histograms] = []
        self._counters: list[Counter] = []
        self._begun: Set[str] = frozenset()  # the models whose rare events are counted from 0
        self._gone = Gone()
        self._new = 0

        def histogram(name: str, text: str, bounds: Sequence[float] = LONG_S) -> Histograms:
            self._histograms.append(Histograms(f"swapper_{name}", text, bounds))
            return self._histograms[-1]

        def counter(name: str, text: str, *labels: str) -> Counter:
            self._counters.append(Counter(f"swapper_{name}", text, *labels))
            return self._counters[-1]

        self._queue_wait = histogram("queue_wait_seconds", "Time from arrival to grant.")
        self._load = histogram("load_seconds", "Time to load a model.")
        self._drain = histogram(
            "drain_seconds", "Time from the last grant before an unload until nothing was in flight."
        )
        self._unload = histogram("unload_seconds", "Time to unload a model.")
        self._first_byte = histogram(
            "time_to_first_byte_seconds", "Time from the hand-over to Ollama to its first byte."
        )
        self._first_token = histogram(
            "time_to_first_token_seconds", "Time from arrival to the first piece of a streamed answer."
        )
        self._speed = histogram(
            "tokens_per_second", "Generated tokens of an answer by the time it took to generate them.", TOKENS_PER_S
        )
        self._duration = histogram("request_duration_seconds", "Time from arrival to the end of the answer.")
        self._swaps = counter("swaps", "Loads by what went, what came and why.", "from_model", "to_model", "reason")
        self._load_error = histogram(
            "load_estimate_error_seconds", "By how much the expected time of a load was wrong."
        )
        self._holds = counter(
            "holds", "Idle models kept although others waited, by what came of it.", "model", "outcome"
        )
        self._held = counter("held_seconds", "Time that idle models were kept while others waited.", "model")
        self._reloads = counter("upstream_reloads", "Loads by Ollama behind the proxy's back.", "model", "cause")
        self._load_failures = counter("load_failures", "Loads that failed.", "model")
        self._rejected = counter("rejected_requests", "Requests the proxy answered with an error.", "reason")
        self._faults = counter("scheduler_faults", "Errors of the scheduler, after each of which it was started anew.")
        self._faults.add(amount=0)
        self._configured = True
        self._keyed = counter("key_requests", "Requests for Ollama by the name of their key.", "key", "status")

    # Hooks (see runtime.ports.Observer)

    def waited(self, model: str, seconds: float) -> None:
        self._of(model).queue_wait.observe(seconds)

    def rejected(self, reason: str) -> None:
        self._rejected.add(reason)

    def loaded(self, model: str, seconds: float, expected_s: float, replaced: str, cause: str) -> None:
        self._load.of(model).observe(seconds)
        self._load_error.of(model).observe(abs(seconds - expected_s))
        self._swaps.add(replaced, model, cause)

    def load_failed(self, model: str, seconds: float, status: int) -> None:
        self._load_failures.add(model)

    def drained(self, model: str, seconds: float) -> None:
        self._drain.of(model).observe(seconds)

    def unloaded(self, model: str, seconds: float, cause: str) -> None:
        self._unload.of(model).observe(seconds)

    def held(self, model: str, seconds: float, paid: bool) -> None:
        self._holds.add(model, "paid" if paid else "lost")
        self._held.add(model, amount=seconds)

    def reloaded(self, model: str, seconds: float, cause: str) -> None:
        self._reloads.add(model, cause)

    def scheduler_fault(self) -> None:
        self._faults.add()

    def configured(self, successfully: bool) -> None:
        """The configuration was read again."""
        self._configured = successfully

    # Of single requests

    def first_byte(self, model: str, after_hand_over_s: float) -> None:
        self._of(model).first_byte.observe(after_hand_over_s)

    def first_token(self, model: str, seconds: float) -> None:
        self._of(model).first_token.observe(seconds)

    def answered(self, model: str, seconds: float, usage: Usage) -> None:
        of = self._of(model)
        of.duration.observe(seconds)
        if usage.generated_tokens and usage.generation_s > 0:
            of.speed.observe(usage.generated_tokens / usage.generation_s)

    def keyed(self, key: str, status: int) -> None:
        self._keyed.add(key, str(status))

    def _of(self, model: str) -> "_OfModel":
        """What every request of a model is told to, looked up once."""
        found = self._models.get(model)
        if found is None:
            self._new += 1
            if self._new > NEW_MODELS and self._board:
                self._follow(self._board.snapshot())
            found = self._models[model] = _OfModel(
                queue_wait=self._queue_wait.of(model),
                first_byte=self._first_byte.of(model),
                first_token=self._first_token.of(model),
                speed=self._speed.of(model),
                duration=self._duration.of(model),
            )
        return found

    # Reading

    def watch(self, board: Board, ledger: Ledger) -> None:
        """Add what is read at scrape time.  What the ledger holds of models that are gone is dropped with the rest."""
        self._board, self._ledger = board, ledger

    def exposition(self) -> bytes:
        """The text format."""
        read: Iterable[bytes] = ()
        if self._board:
            snapshot = self._board.snapshot()
            self._follow(snapshot)
            read = _read(snapshot)
        text = "Whether the configuration in force is the one that was read last."
        configured = _gauge("config_last_reload_successful", text, [labelled((), ())], [self._configured])
        counted = (counter.exposition() for counter in self._counters)
        told = chain.from_iterable(histograms.exposition() for histograms in self._histograms)
        return b"".join(chain(counted, (configured,), told, read))

    def _follow(self, snapshot: Snapshot) -> None:
        """Begin the series of models that are new, and drop those of models that are gone."""
        self._new = 0
        self._begin({model.name for model in snapshot.models if not model.facts.remote})
        if not snapshot.reachable:
            return  # what there is may not be known yet
        known = {model.name for model in snapshot.models}
        told: tuple[Counter | Histograms, ...] = (*self._counters, *self._histograms)
        shown = self._ledger.models.union(*(metric.models for metric in told))
        if gone := self._gone.look(shown - known, time.monotonic()):
            self._ledger.forget(gone)
            for metric in told:
                metric.forget(gone)
            for model in self._models.keys() & gone:
                del self._models[model]

    def _begin(self, models: Set[str]) -> None:
        """Count rare events of these models from 0: an increase from nothing to 1 is none to Prometheus."""
        for model in models - self._begun:
            for counter in (self._load_failures, self._held):
                counter.add(model, amount=0)
            for outcome in HOLDS:
                self._holds.add(model, outcome, amount=0)
            for cause in RELOADS:
                self._reloads.add(model, cause, amount=0)
        self._begun = models


def _read(snapshot: Snapshot) -> Iterator[bytes]:
    """What is known without being told."""
    yield _gauge("build_info", "The running version.", [labelled(("version",), (__version__,))], [1])
    yield _gauge("upstream_up", "Whether Ollama is reachable.", [labelled((), ())], [snapshot.reachable])
    models = snapshot.models
    labels = [labelled(("model",), (model.name,)) for model in models]
    for name, text, value in (
        ("active_model", "Whether the model is the active one.", lambda m: m.name == snapshot.active),
        ("model_loaded", "Whether the model is in memory.", lambda m: m.loaded),
        ("model_uptime_seconds", "Length of the present residency.", lambda m: m.residence.uptime_s),
        ("queue_depth", "Requests that wait for the model.", lambda m: m.waiting),
        ("gate_requests", "Of these: served before the model may be forced out.", lambda m: m.gate),
        ("in_flight_requests", "Requests that Ollama is answering.", lambda m: m.in_flight),
    ):
        yield _gauge(name, text, labels, map(value, models))
    totals = snapshot.totals
    labels = [labelled(("model",), (model,)) for model in totals]
    tokens = [total.prompt_tokens for total in totals.values()]
    yield _counter("prompt_tokens", "Prompt tokens, as Ollama counts them.", labels, tokens)
    tokens = [total.generated_tokens for total in totals.values()]
    yield _counter("generated_tokens", "Generated tokens, as Ollama counts them.", labels, tokens)
    yield _requests("model_requests", "Inference requests handed to Ollama.", snapshot.requests)
    yield _requests("remote_requests", "Inference requests for models that run elsewhere.", snapshot.remote_requests)


def _gauge(name: str, text: str, labels: Iterable[bytes], values: Iterable[float]) -> bytes:
    name = f"swapper_{name}"
    return head(name, "gauge", text) + samples(name, zip(labels, values, strict=True))


def _counter(name: str, text: str, labels: Iterable[bytes], values: Iterable[float]) -> bytes:
    name = f"swapper_{name}_total"
    return head(name, "counter", text) + samples(name, zip(labels, values, strict=True))


def _requests(name: str, text: str, counts: Mapping[tuple[str, str, int], int]) -> bytes:
    names = ("model", "endpoint", "status")
    labels = [labelled(names, (model, endpoint, str(status))) for model, endpoint, status in counts]
    return _counter(name, text, labels, counts.values())
