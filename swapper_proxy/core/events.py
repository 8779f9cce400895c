"""What the scheduler is told.  Times are seconds on the clock of `now`.

What is made for every request is not frozen: that would take three times as long to make.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from swapper_proxy.core.errors import Failure
from swapper_proxy.core.types import Cause, Key, Limits, Priority, Profile, Sighting


@dataclass(slots=True)
class Arrived:
    """A request wants `key`.

    `ttl_s` is the idle time to live that its client set and the scheduler has to keep: None leaves it as it is,
    infinity ends it (Ollama's own timer stands).  `client` is who takes turns with others: the name of a key; all
    without one are one client.  `variant` tells the models over the same weights apart: a load of one may fail where
    that of another succeeds.
    """

    id: int
    key: Key
    profile: Profile = Profile()
    ttl_s: float | None = None
    priority: Priority = Priority.MEDIUM
    client: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Whoever asked under this id went away: waiting, in flight or waiting for an unload."""

    id: int


@dataclass(slots=True)
class Finished:
    """A granted request is over; `load_s` is how long Ollama says it loaded the model for it."""

    id: int
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Loaded:
    key: Key
    generation: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """`made_anew`: nothing was tried, since what is asked for is not what it was.

    With neither that nor a `failure` Ollama did not say what is wrong: then no other variant is tried either.
    """

    key: Key
    generation: int
    failure: Failure | None = None
    made_anew: bool = False


@dataclass(frozen=True, slots=True)
class Unloaded:
    key: Key
    generation: int


@dataclass(frozen=True, slots=True)
class UnloadFailed:
    key: Key
    generation: int


@dataclass(frozen=True, slots=True)
class Observed:
    """What Ollama listed as loaded, and when it was asked; `complete` unless it is unknown what some of it is."""

    asked_at: float
    present: tuple[Sighting, ...]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class LoadRequested:
    """The operator (or the config: `cause`) wants `key` resident; answered when it is."""

    id: int
    key: Key
    profile: Profile = Profile()
    priority: Priority = Priority.HIGH
    cause: Cause = Cause.MANUAL
    ttl_s: float | None = None
    variant: str = ""


@dataclass(frozen=True, slots=True)
class UnloadRequested:
    """The operator, or `ollama stop`, wants this runner gone; answered when it is.

    `silent`: it is the one that does not answer any more, which is to go even if the model is pinned.
    """

    id: int
    runner: str
    silent: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamDown:
    """Ollama is not reachable: whatever it held is gone."""


@dataclass(frozen=True, slots=True)
class UpstreamUp:
    """Ollama is reachable again."""


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """New limits; `profiles` are those of keys that have changed."""

    limits: Limits
    profiles: tuple[Sighting, ...] = ()


@dataclass(frozen=True, slots=True)
class Shutdown:
    """No new loads from now on; residents grant until `until`, then everybody is turned away."""

    until: float


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A scheduler before this one granted requests for `key` that are in flight: when, by id.

    `is_resident`: the key is in memory; else Ollama has let it go meanwhile.  `guessed` as in Residency.
    """

    key: Key
    granted_at: Mapping[int, float]
    profile: Profile = Profile()
    is_resident: bool = True
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time."""


Event = (
    Arrived
    | Cancelled
    | Finished
    | Loaded
    | LoadFailed
    | Unloaded
    | UnloadFailed
    | Observed
    | LoadRequested
    | UnloadRequested
    | UpstreamDown
    | UpstreamUp
    | ConfigChanged
    | Shutdown
    | TakenOver
    | Tick
)
