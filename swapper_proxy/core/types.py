"""What the scheduler speaks of: keys, profiles, limits, states."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

RunnerOption = int | bool

# The options that Ollama compares to decide whether a loaded runner may serve a request; all others are sampling.
RUNNER_OPTIONS = frozenset(
    ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
)


# What Ollama takes for those left out (api.DefaultOptions): said or not, it is the same to it.  `num_ctx` has none that
# can be known from outside.
OLLAMA_DEFAULTS: Mapping[str, RunnerOption] = {"num_gpu": -1, "num_batch": 512, "main_gpu": 0, "num_thread": 0}


@dataclass(frozen=True, slots=True)
class Key:
    """What is resident or not: a runner together with the effective options it runs with.

    `runner` names weights, adapters and projectors; several model names may share it.  Two keys of one runner
    exclude each other: Ollama would reload it.
    """

    runner: str
    options: tuple[tuple[str, RunnerOption], ...] = ()

    @classmethod
    def of(cls, runner: str, modelfile: Mapping[str, RunnerOption], request: Mapping[str, RunnerOption]) -> "Key":
        """The key of a request: the Modelfile's options overlaid by the request's own."""
        effective = {**modelfile, **request}.items()
        return cls(runner, tuple(sorted(option for option in effective if option not in OLLAMA_DEFAULTS.items())))

    def served_by(self, resident: "Key") -> bool:
        """Whether Ollama would serve this key on that runner without a reload.

        Left open, `num_gpu` means "as it is"; every other option left open means Ollama's default.
        """
        if self == resident:
            return True
        leaves_gpu_open = all(name != "num_gpu" for name, _ in self.options)
        return (
            leaves_gpu_open
            and self.runner == resident.runner
            and self.options == tuple(option for option in resident.options if option[0] != "num_gpu")
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """How a key's model is to be treated.

    `parallel`: requests in flight at once.  `swap_timeout_s`: how long one who waits bears unload and load together.
    """

    parallel: int = 1
    swap_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The host's limits.  `max_queue` counts all who wait; times are seconds, None is "no limit"."""

    max_resident: int = 1
    max_queue: int = 1000
    queue_timeout_s: float | None = None
    upstream_grace_s: float = 10.0


class State(StrEnum):
    """The states of a key: absent -> loading -> resident -> draining -> unloading -> absent."""

    ABSENT = "absent"
    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"
    UNLOADING = "unloading"


class Cause(StrEnum):
    """Why a key changed its state."""

    DEMAND = "demand"  # somebody waits for a model
    MANUAL = "manual"  # the operator, or `ollama stop`
    TTL = "ttl"  # the time to live that a client gave ran out
    OBSERVED = "observed"  # it happened behind the proxy's back
    FAILED = "failed"
    UPSTREAM = "upstream"  # Ollama went down
