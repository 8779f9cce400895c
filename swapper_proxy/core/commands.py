"""What the scheduler wants done."""

from dataclasses import dataclass, field

from swapper_proxy.core.errors import Failure, Rejection
from swapper_proxy.core.shortage import Shortage
from swapper_proxy.core.types import Cause, Key, State


@dataclass(frozen=True, slots=True)
class Grant:
    """The request may be sent to Ollama."""

    id: int


@dataclass(frozen=True, slots=True)
class Reject:
    """The request gets an error; `failure` is what Ollama said, `shortage` why there never is room."""

    id: int
    reason: Rejection
    retry_after_s: float | None = None
    failure: Failure | None = None
    shortage: Shortage | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A manual load or unload is done."""

    id: int


@dataclass(frozen=True, slots=True)
class StartLoad:
    """Load `key` as the request `for_id` asks for it; report under `generation`.  It should take `expected_s`."""

    key: Key
    generation: int
    for_id: int
    expected_s: float = field(default=0.0, compare=False)
    cause: Cause = field(default=Cause.IDLE, compare=False)


@dataclass(frozen=True, slots=True)
class StartUnload:
    """Unload `key`; report under `generation`."""

    key: Key
    generation: int
    cause: Cause = field(default=Cause.IDLE, compare=False)


@dataclass(frozen=True, slots=True)
class Changed:
    """The key is now in `state`: for logs, metrics and whoever watches; nothing is to be done.

    `variant` is the model whose load failed, if it did; "" if that concerns all over the same weights.
    """

    key: Key
    state: State
    cause: Cause
    variant: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Held:
    """The idle resident `key` was kept for `seconds` while others waited; `paid`: its client came back in time."""

    key: Key
    seconds: float
    paid: bool


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Ollama loaded the resident `key` again behind the scheduler's back, in `seconds`.

    `guessed`: somebody else had loaded it, so its options could only be guessed; else Ollama had let it go.
    """

    key: Key
    seconds: float
    guessed: bool


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a Tick at this time, at the latest.  Replaces the wake-up asked for before."""

    time: float


Command = Grant | Reject | Answer | StartLoad | StartUnload | Changed | Held | Reloaded | WakeAt
