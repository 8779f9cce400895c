"""Counters of what happens rarely: prometheus-client keeps and writes them."""

from collections.abc import Set

import prometheus_client
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest

OF_MODELS = ("model", "from_model", "to_model")  # the labels whose values are names of models

disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each, which nobody asks for


class Counter:
    """Numbers that only grow, each with its labels.

    `models` are all that the labels name.  `text` is how all were last shown, empty if one has changed.
    """

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._registry = CollectorRegistry()
        self._counter = prometheus_client.Counter(name, text, labels, registry=self._registry)
        self._places = [place for place, label in enumerate(labels) if label in OF_MODELS]
        self._seen: set[tuple[str, ...]] = set()
        self.models: set[str] = set()
        self.text = b""

    def add(self, *values: str, amount: float = 1.0) -> None:
        """Count for these values of the labels."""
        self.text = b""
        if values not in self._seen:
            self._seen.add(values)
            self.models |= self._named(values)
        (self._counter.labels(*values) if values else self._counter).inc(amount)

    def _named(self, values: tuple[str, ...]) -> set[str]:
        """Return the models among the values of the labels; `from_model` may be none."""
        return {values[place] for place in self._places} - {""}

    def forget(self, models: Set[str]) -> None:
        """Show nothing of these models any more."""
        if self.models.isdisjoint(models):
            return
        self.text = b""
        for values in [values for values in self._seen if self._named(values) & models]:
            self._counter.remove(*values)
            self._seen.remove(values)
        self.models = set().union(*map(self._named, self._seen))

    def exposition(self) -> bytes:
        """Return the text."""
        self.text = self.text or generate_latest(self._registry)
        return self.text
