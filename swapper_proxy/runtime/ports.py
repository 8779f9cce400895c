"""What the runtime needs of the outside, and what the outside may be told: protocols, wired in `app`."""

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec

from swapper_proxy.core.errors import Failure
from swapper_proxy.core.types import Cause, RunnerOption, State

# A header as it stands on the wire.
Header = tuple[bytes, bytes]
# Each proxy adds one with an id of its own to what it sends: a request that comes back carries it.
VIA = "X-Swapper-Via"
# Headers by which a client shows who it is.
CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"cookie"))
# A request body that is in memory, to be sent piece by piece.  Whoever owns it empties the list when it is over.
Pieces = list[bytes | memoryview]
# A request body, in memory or still to come.
Body = Sequence[bytes | memoryview] | AsyncIterable[bytes]


class UpstreamUnreachable(Exception):
    """Ollama could not be reached, or went away before an answer began: then it had the request (`sent`)."""

    def __init__(self, why: str, *, sent: bool = False) -> None:
        super().__init__(why)
        self.sent = sent


class UpstreamSilent(UpstreamUnreachable):
    """Ollama has the request and does not answer within the time that it is given."""

    def __init__(self, why: str) -> None:
        super().__init__(why, sent=True)


class UpstreamBroken(Exception):
    """Ollama broke an answer off in the middle; `silent` if by saying nothing for too long."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class UpstreamRefused(Exception):
    """Ollama answered a control call with an error; `why` says more than its status where more is known."""

    def __init__(self, failure: Failure, why: str = "") -> None:
        super().__init__(why or f"Ollama answered {failure.status}")
        self.failure = failure


class UpstreamLoops(UpstreamRefused):
    """What the proxy sends to Ollama comes back to a proxy that has sent it."""


class Silence(NamedTuple):
    """How many seconds may pass without a byte from Ollama, before its answer and in it; None: any time.

    `is_lost` tells whether the process that had the request is gone, as far as Ollama's list of runners tells.
    """

    first_byte_s: float | None = None
    idle_s: float | None = None
    is_lost: Callable[[], bool] | None = None


ANY_SILENCE = Silence()
# Of an answer that is read as a whole.  The longest are those of /api/show with `verbose`: some 10 MB.
MOST_WHOLE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """How to load: Ollama name, explicit runner options, the client's keep_alive if it is passed on."""

    name: str
    options: Mapping[str, RunnerOption] = field(default_factory=dict)
    keep_alive: int | float | str | None = None
    embedding_only: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    """A model that Ollama has; `size` is bytes on disk, `modified` when it was made."""

    name: str
    size: int
    digest: str
    remote: bool
    modified: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a model is made of.  `capabilities` is None where Ollama is too old to tell.

    `context_bytes` is the memory that a token of context takes, for each request at once; `longest_context` the one
    that it was trained for.  0: unknown.
    """

    runner: str
    runner_options: Mapping[str, RunnerOption]
    capabilities: frozenset[str] | None
    remote: bool
    modified: str = ""
    context_bytes: int = 0
    longest_context: int = 0


@dataclass(frozen=True, slots=True)
class Running:
    """A runner that Ollama holds; sizes are bytes.

    `name` is the one it was first loaded by, which may mean something else by now; `digest` tells what it meant then.
    `expires_at` is as Ollama writes it.  It changes when the runner becomes idle, and at once when it is to go.
    """

    name: str
    size: int
    size_vram: int
    digest: str = ""
    expires_at: str = ""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What an answer says at its end: tokens, and seconds that Ollama took to load the model for it and to generate."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    load_s: float = 0.0
    generation_s: float = 0.0


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """One inference request that was handed to Ollama and is over.

    `time` is that of its end, in seconds since the epoch; `endpoint` as in swapper_model_requests_total; all else that
    ends in `_s` is seconds.  `first_byte_s` is from the hand-over, None if none came; `duration_s` from the arrival.
    """

    time: float
    model: str
    endpoint: str
    status: int
    wait_s: float
    first_byte_s: float | None
    duration_s: float
    usage: Usage


class SwapRecord(msgspec.Struct, frozen=True):
    """One load, at its end; `from_model` is what went for it, empty if nothing did, with its drain and unload."""

    time: float
    from_model: str
    to_model: str
    reason: str
    drain_s: float
    unload_s: float
    load_s: float
    failed: bool


class StateRecord(msgspec.Struct, frozen=True):
    """A model came into a state: loading, loaded, draining, unloading, unloaded."""

    time: float
    model: str
    state: str
    cause: str


class ProblemRecord(msgspec.Struct, frozen=True):
    """Something went wrong, or Ollama is back; `model` is empty where it is about none.  The texts are for people.

    Of refused requests `status` is that of the proxy's answer, else it is 0; `sent`: Ollama had them, so they are also
    among the requests.  Those of one minute that are alike make one record, told again when it has grown: `count` is
    how many there were from `time` to `until`.  `time`, `model`, `code`, `status` and `sent` tell one from the others.
    """

    time: float
    model: str
    code: str
    message: str
    status: int = 0
    sent: bool = False
    count: int = 1
    until: float = 0.0


class Recorder(Protocol):
    """Keeps or shows what happened; must not block."""

    def request(self, record: RequestRecord) -> None: ...
    def swap(self, record: SwapRecord) -> None: ...
    def state(self, record: StateRecord) -> None: ...
    def problem(self, record: ProblemRecord) -> None: ...
    def refused(self, model: str, code: str, message: str, status: int, sent: bool) -> None: ...


class Answer(Protocol):
    """An answer of Ollama under way.  Close it in any case; closing before its end closes the connection.

    `content_type` is empty if the headers do not tell one; `sized` whether they tell the length of the body.
    """

    status: int
    reason: bytes
    headers: list[Header]
    content_type: str
    sized: bool

    def at_hand(self) -> bytes:
        """What has come of the body already; empty if nothing has."""

    async def into(self, take: Callable[[bytes], bool]) -> bool:
        """Give each further piece of the body to `take`, as it comes; True at the end of the body.

        False as soon as `take` says that it wants no more for now.  Raises UpstreamBroken when the body is cut off.
        """

    async def rest(self, most_bytes: int = MOST_WHOLE_BYTES) -> bytes:
        """All that is still to come, and close.  Raises UpstreamBroken, also if it is more than that."""

    def close(self) -> None: ...


class Control(Protocol):
    """The calls that the proxy makes for itself.  All raise UpstreamUnreachable or UpstreamRefused.

    `running` returns the runners, and how many more there are that could not be read.
    """

    async def version(self) -> str: ...
    async def installed(self) -> list[Installed]: ...
    async def running(self) -> tuple[list[Running], int]: ...
    async def show(self, name: str) -> Shown: ...
    async def load(self, spec: LoadSpec) -> None: ...
    async def unload(self, name: str) -> None: ...


class Relay(Protocol):
    """Client requests handed on.  Raises UpstreamUnreachable, UpstreamSilent."""

    async def send(
        self, method: str, target: str, headers: Iterable[Header], body: Body, *, silence: Silence = ANY_SILENCE
    ) -> Answer: ...


class Observer(Protocol):
    """Hooks for metrics and logs; they must not block.  Times are seconds."""

    def waited(self, model: str, seconds: float) -> None: ...
    def rejected(self, reason: str) -> None: ...
    def loaded(self, model: str, seconds: float, expected_s: float, replaced: str, cause: str) -> None: ...
    def load_failed(self, model: str, seconds: float, status: int) -> None: ...
    def drained(self, model: str, seconds: float) -> None: ...
    def changed(self, model: str, state: State, cause: Cause) -> None: ...
    def unloaded(self, model: str, seconds: float, cause: str) -> None: ...
    def held(self, model: str, seconds: float, paid: bool) -> None: ...
    def reloaded(self, model: str, seconds: float, cause: str) -> None: ...
    def upstream(self, reachable: bool, why: str = "") -> None: ...
    def scheduler_fault(self) -> None: ...
