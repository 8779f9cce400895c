"""What the scheduler speaks of: keys, profiles, limits, states."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

RunnerOption = int | bool

# The options that Ollama compares to decide whether a loaded runner may serve a request; all others are sampling.
RUNNER_OPTIONS = frozenset(
    ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
)
# Ollama's options by the type that it insists on; null and unknown names pass.
INTEGERS = frozenset(["num_keep", "seed", "num_predict", "top_k", "repeat_last_n"]) | RUNNER_OPTIONS - {"use_mmap"}
FLOATS = frozenset(
    ["top_p", "min_p", "typical_p", "repeat_penalty", "temperature", "presence_penalty", "frequency_penalty"]
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
        """The key of a request: the Modelfile's options overlaid by the request's own.

        A default said aloud is left out, unless the Modelfile says otherwise: a load has to say it then.
        """
        if not modelfile and not request:
            return cls(runner)
        defaults = OLLAMA_DEFAULTS.items() - {item for item in OLLAMA_DEFAULTS.items() if _overrides(modelfile, *item)}
        effective = {**modelfile, **request}.items()
        return cls(runner, tuple(sorted(option for option in effective if option not in defaults)))

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


def _overrides(modelfile: Mapping[str, RunnerOption], name: str, default: RunnerOption) -> bool:
    return modelfile.get(name, default) != default


class Priority(StrEnum):
    """How long a request is patient: see `Rules.max_wait_s`."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Profile:
    """How a key's model is to be treated.

    `parallel`: requests in flight at once.  `swap_timeout_s`: how long one who waits bears unload and load together.
    `size_gb`: room that it is likely to take in memory, None if unknown: so much is made.  `least_gb`: room that it
    takes for sure: only by this is it refused or unloaded again; None: `size_gb` is sure.  `slot`: the type of model; a
    slot of `Limits.slots` gives it room beside the others.  `pinned`: once resident it is never evicted.  `max_queue`:
    who may wait for it, None is "no limit of its own".
    """

    parallel: int = 1
    swap_timeout_s: float = 30.0
    size_gb: float | None = None
    slot: str = ""
    pinned: bool = False
    max_queue: int | None = None
    least_gb: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The constants of the policy (ARCHITECTURE.md explains them).

    `max_wait_s`: how long a request of each priority is patient before a swap is forced, in seconds.
    `patience_swaps`: but not longer than so many times the unload and load of its own key.
    `kappa`: nor is a swap forced before so many times the unloads and loads of all contending keys: a third of the time
    at most if every key forces its way as soon as it may.  (In simulation 2 made a hot and a rare model swap so often
    that the hot one's queue grew; 4 let the rare one wait longer than 3.)
    `fair_waits`: but not later than so many times the `max_wait_s` of its priority, however many contend.
    `theta`: the longest hold of an idle resident, in unloads and loads of its key.
    `gate_s`, `gate_swaps`: how long those present at the end of a load may keep it from being forced out: the longer
    of seconds and unloads and loads.
    """

    max_wait_s: Mapping[Priority, float] = field(default_factory=lambda: MAX_WAIT_S)
    patience_swaps: float = 10.0
    kappa: float = 3.0
    fair_waits: float = 10.0
    theta: float = 1.0
    gate_s: float = 60.0
    gate_swaps: float = 4.0


MAX_WAIT_S: Mapping[Priority, float] = {Priority.HIGH: 15.0, Priority.MEDIUM: 60.0, Priority.LOW: 240.0}

# For comparison: serve what is resident while it has anything to do, then the oldest waiter.
EXHAUSTIVE = Rules(max_wait_s=dict.fromkeys(Priority, math.inf), patience_swaps=math.inf, theta=0.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """The host's limits.  `max_queue` counts all who wait; times are seconds, None is "no limit".

    `max_resident` counts the runners that have no slot, `slots` the runners of a type that has one; `memory_gb` is for
    all of them together.
    """

    max_resident: int = 1
    max_queue: int = 1000
    queue_timeout_s: float | None = None
    upstream_grace_s: float = 10.0
    memory_gb: float | None = None
    slots: Mapping[str, int] = field(default_factory=dict)
    drain_timeout_s: float | None = None
    rules: Rules = Rules()


class State(StrEnum):
    """The states of a key: absent -> loading -> resident -> draining -> unloading -> absent."""

    ABSENT = "absent"
    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"
    UNLOADING = "unloading"


class Cause(StrEnum):
    """Why a key changed its state."""

    IDLE = "idle"  # somebody waits for a model, and what is in memory had nothing to do
    DEADLINE = "deadline"  # somebody waited for a model longer than is fair
    MANUAL = "manual"  # the operator, or `ollama stop`
    PRELOAD = "preload"  # the config wants it in memory from the start
    DEFAULT = "default"  # the default model, after nobody wanted anything for a while
    TTL = "ttl"  # the time to live that a client or the config gave ran out
    LIMITS = "limits"  # more is in memory than the limits allow
    OBSERVED = "observed"  # it happened behind the proxy's back
    FAILED = "failed"
    UPSTREAM = "upstream"  # Ollama went down
    RENAMED = "renamed"  # nothing changed but the name: the old one means something else by now


@dataclass(frozen=True, slots=True)
class Sighting:
    """A runner that Ollama lists as loaded: its key as far as can be known, and how to treat it.

    `size_gb` is the room that Ollama says it takes now, whatever it was loaded with; None: as the profile says.
    """

    key: Key
    profile: Profile = Profile()
    size_gb: float | None = None
