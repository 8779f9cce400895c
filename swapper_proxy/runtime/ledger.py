"""What happened, for the management API and /metrics: residency times per runner, requests per model."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields

from swapper_proxy.core.commands import Changed
from swapper_proxy.core.types import Cause, State
from swapper_proxy.runtime.ports import Usage

MOST_EARLIER = 10_000  # models whose totals are kept although they are gone
OTHER = "other"  # stands for models elsewhere that Ollama does not list
HELD = (State.RESIDENT, State.DRAINING, State.UNLOADING)


@dataclass(slots=True)
class Residence:
    """When a runner was in memory.  Times are seconds since the epoch; `total_s` is of residencies that are over.

    `since` is when the present residency began, None if there is none: on the monotonic clock, since the other one may
    be set right meanwhile, and what is added up is kept for ever.
    """

    loaded_at: float | None = None
    unloaded_at: float | None = None
    total_s: float = 0.0
    since: float | None = None
    failed_as: str | None = None  # the variant that the last load was for, if it failed; "" if it failed for all

    def has_failed(self, variant: str) -> bool:
        """Return True if the last load failed, and what was wrong concerns this model."""
        return self.failed_as in ("", variant)

    @property
    def uptime_s(self) -> float:
        """How long the present residency has lasted; 0 if there is none."""
        return 0.0 if self.since is None else time.monotonic() - self.since

    @property
    def uptime_total_s(self) -> float:
        """All residencies together, the present one included."""
        return self.total_s + self.uptime_s


@dataclass(slots=True)
class Totals:
    """What the inference requests for a model came to; the means are None while there is nothing to go by."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    generated_timed: int = 0  # of these: in answers whose time to generate is known
    generation_s: float = 0.0
    first_tokens: int = 0
    first_token_s: float = 0.0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def add(self, usage: Usage) -> None:
        self.requests += 1
        self.prompt_tokens += usage.prompt_tokens
        self.generated_tokens += usage.generated_tokens
        if usage.generation_s > 0:
            self.generated_timed += usage.generated_tokens
            self.generation_s += usage.generation_s

    @property
    def tokens_per_second(self) -> float | None:
        """While generating: neither the queue nor the prompt counts."""
        return self.generated_timed / self.generation_s if self.generation_s else None

    @property
    def mean_first_token_s(self) -> float | None:
        """From the arrival to the first token of a streamed answer, the queue included."""
        return self.first_token_s / self.first_tokens if self.first_tokens else None


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier runs of the proxy came to: requests by model, seconds in memory by runner."""

    totals: Mapping[str, Totals] = field(default_factory=dict)
    uptime_s: Mapping[str, float] = field(default_factory=dict)


class Ledger:
    """Written by the engine (residency) and the proxy (requests), read by whoever shows it.

    What is counted by (model, endpoint, status) or stands in `by_model` is of this run; `totals` and residences go on
    from the past.
    """

    def __init__(self) -> None:
        self._earlier = defaultdict[str, Totals](Totals)  # what is not of this run, or of models that were gone
        self._residences = defaultdict[str, Residence](Residence)
        self.requests: Counter[tuple[str, str, int]] = Counter()  # (model, endpoint, HTTP status)
        self.remote_requests: Counter[tuple[str, str, int]] = Counter()  # the same of models that run elsewhere
        self.by_model = defaultdict[str, Totals](Totals)

    def recall(self, past: Past) -> None:
        """Once, as soon as it is known what earlier runs came to."""
        for model, totals in past.totals.items():
            self._earlier[model] += totals
        for runner, seconds in past.uptime_s.items():
            self._residences[runner].total_s += seconds

    def changed(self, change: Changed) -> None:
        """A runner changed its state."""
        residence = self._residences[change.key.runner]
        holds = change.state in HELD
        if holds and residence.since is None:
            residence.loaded_at, residence.unloaded_at, residence.since = time.time(), None, time.monotonic()
        elif residence.since is not None and not holds:
            residence.total_s = residence.uptime_total_s
            residence.unloaded_at, residence.since = time.time(), None
        failed = change.state is State.ABSENT and change.cause is Cause.FAILED
        residence.failed_as = change.variant if failed else None

    def count(self, model: str, endpoint: str, status: int, usage: Usage) -> None:
        """An inference request was handed to Ollama, which answered with this status (502: it broke off before)."""
        self.requests[model, endpoint, status] += 1
        self.by_model[model].add(usage)

    def count_remote(self, model: str, endpoint: str, status: int) -> None:
        """The same of a model that runs elsewhere."""
        self.remote_requests[model, endpoint, status] += 1

    def first_token(self, model: str, seconds: float) -> None:
        """A streamed answer began so long after its request had arrived."""
        totals = self.by_model[model]
        totals.first_tokens += 1
        totals.first_token_s += seconds

    def totals(self, model: str) -> Totals:
        return self._earlier.get(model, Totals()) + self.by_model.get(model, Totals())

    @property
    def models(self) -> set[str]:
        """All models that requests of this run are counted for."""
        return {model for model, _, _ in self.remote_requests}.union(self.by_model) - {OTHER}

    def forget(self, models: Set[str]) -> None:
        """These models are gone: only their totals are kept, in case that they come back."""
        for counts in (self.requests, self.remote_requests):
            for counted in [counted for counted in counts if counted[0] in models]:
                del counts[counted]
        for model in self.by_model.keys() & models:
            self._earlier[model] += self.by_model.pop(model)
        while len(self._earlier) > MOST_EARLIER:
            del self._earlier[min(self._earlier, key=lambda model: self._earlier[model].requests)]

    def residence(self, runner: str) -> Residence:
        return self._residences.get(runner) or Residence()

    def uptimes_s(self) -> dict[str, float]:
        """By runner: all its residencies, the present and the past ones included."""
        return {runner: residence.uptime_total_s for runner, residence in self._residences.items()}
