"""The JSON of the management API as types: what answers are written by, and what /openapi.json tells of them.

They are a contract: keys may be added, none removed or renamed.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from swapper_proxy.core.forecast import Why
from swapper_proxy.core.types import Priority
from swapper_proxy.runtime.board import ParallelSource
from swapper_proxy.runtime.shown import Activity, Refusals, Status

Time = Annotated[str, Meta(description="UTC, to the second", extra_json_schema={"format": "date-time"})]
FineTime = Annotated[str, Meta(description="UTC, with milliseconds", extra_json_schema={"format": "date-time"})]
Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(description="as configured, else as Ollama has it")]
Mode = Literal["single-active", "multi-active"]
Health = Literal["healthy", "degraded"]
_STATES = ["loading", "loaded", "draining", "unloading", "unloaded"]
State = Annotated[str, Meta(extra_json_schema={"enum": _STATES})]


class Fault(TypedDict):
    """What went wrong: `code` for programs, `message` for people."""

    code: str
    message: str


class ErrorAnswer(TypedDict):
    """An error of the management API."""

    status: Literal["error"]
    error: Fault


class HealthAnswer(TypedDict):
    """`degraded`, with a `reason`, if Ollama is not reachable or a load takes too long; `note` if Ollama is simulated.

    Without a key for the management, where keys are set, there is `status` only.
    """

    status: Health
    service: NotRequired[Literal["swapper-service"]]
    active_model: NotRequired[Name | None]
    mode: NotRequired[Mode]
    reason: NotRequired[str]
    note: NotRequired[str]


class ReadyAnswer(TypedDict):
    """Whether Ollama is reachable."""

    status: Literal["ready", "unavailable"]


class ConfigState(TypedDict):
    """The configuration in force; `error` says why what was read last is not, null if it is.

    `needs_restart` are the keys whose change takes effect at the next start.
    """

    source: str
    loaded_at: Time | None
    error: str | None
    needs_restart: list[str]


class ReloadAnswer(TypedDict):
    """The configuration was read again."""

    status: Literal["success"]
    message: str
    config: ConfigState


class Resident(TypedDict):
    """What takes up room in memory once: `names` are all the models that it serves, `model` is the one it goes by."""

    model: Name
    names: list[Name]
    type: str
    size_gb: Annotated[float, Meta(ge=0)] | None
    status: Status


class StatusAnswer(TypedDict):
    """The active model is the one used last of those that are loaded; `reason` says why it is `degraded`, else null."""

    status: Health
    reason: str | None
    ollama: Literal["reachable", "unreachable"]
    started_at: Time
    active_model: Name | None
    available_models: list[Name]
    loaded_models: list[Name]
    mode: Mode
    total_models: Count
    waiting: Count
    in_flight: Count
    memory: list[Resident]
    config: ConfigState


class WaitingRequest(TypedDict):
    """One who waits.  The estimates are null while there is no telling.

    From `may_force_at` on, the request may force a swap; null if it needs none, or none is possible.
    """

    model: Name
    priority: Priority
    since: Time
    waited_seconds: Seconds
    deadline: Time
    estimated_start: Time | None
    estimated_wait_seconds: Seconds | None
    may_force_at: Time | None
    why: Why
    reason: Annotated[str, Meta(description="`why` in words")]
    blocked_by: Name | None


class Lane(TypedDict):
    """A model that is wanted or in memory; `parallel` is how many requests it is sent at once."""

    model: Name
    waiting: Count
    in_flight: Count
    parallel: Annotated[int, Meta(ge=1)]
    parallel_source: ParallelSource


class QueueAnswer(TypedDict):
    """Who waits, the likely next first.

    `waiting` also counts those whose model is not known because Ollama is away; nothing else can be told of them.
    """

    waiting: Count
    requests: list[WaitingRequest]
    models: list[Lane]
    warnings: list[str]


class ListedModel(TypedDict):
    """A configured model, or another one that Ollama has; `reason` says how to get one that is missing.

    `holding`: it is idle and stays although others wait, since its client is likely to ask again; `uptime_s` is that of
    the present residency; `tokens_per_second` is a mean, null if not known.

    Several models may be names of the same weights: they have one state, and `known_as` is the name that events, the
    queue and the history tell of it under.  `waiting` and `in_flight` count the requests for this name.  `activity` is
    `status`, or what it does while it is loaded; `work` says what it has to do; `refusals` say which actions would do
    nothing, and why.
    """

    name: Name
    ollama_name: str
    type: str
    size_gb: Annotated[float, Meta(ge=0)] | None
    priority: Priority
    status: Status
    configured: bool
    pinned: bool
    remote: bool
    waiting: Count
    in_flight: Count
    holding: bool
    uptime_s: Seconds
    request_count: Count
    tokens_per_second: Annotated[float, Meta(ge=0)] | None
    known_as: Name
    activity: Activity
    work: str
    refusals: Refusals
    reason: NotRequired[str]


class ModelAnswer(ListedModel):
    """A model, and the times of its latest residency; the total is since the proxy counts."""

    loaded_at: Time | None
    unloaded_at: Time | None
    total_uptime_seconds: Seconds


class ModelsAnswer(TypedDict):
    """The configured models in their order, then the others that Ollama has."""

    models: list[ListedModel]


class DoneAnswer(TypedDict):
    """`accepted`: it is being done."""

    status: Literal["success", "accepted"]
    model: Name
    message: str


class ModelMetrics(TypedDict):
    """The figures of one model; the last two are means, null if not known."""

    model_name: Name
    status: Status
    loaded_at: Time | None
    uptime_hours: Annotated[float, Meta(ge=0)]
    request_count: Count
    total_uptime_seconds: Seconds
    prompt_tokens: Count
    generated_tokens: Count
    tokens_per_second: Annotated[float, Meta(ge=0)] | None
    time_to_first_token_seconds: Seconds | None


class MetricsAnswer(TypedDict):
    """The figures of all models."""

    metrics: list[ModelMetrics]


class Document(TypedDict):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, str]
    paths: dict[str, dict[str, Any]]
    components: dict[str, Any]


# What was: /history and /events


class RequestEvent(TypedDict):
    """An inference request that is over: seconds in the queue, to the first byte from the hand-over, in all."""

    time: FineTime
    model: Name
    endpoint: str
    status: int
    wait_s: Seconds
    first_byte_s: Seconds | None
    duration_s: Seconds
    prompt_tokens: Count
    generated_tokens: Count
    load_s: Seconds
    generation_s: Seconds


class SwapEvent(TypedDict):
    """A load at its end, with the drain and unload of the model that went for it (empty if none did)."""

    time: FineTime
    from_model: str
    to_model: Name
    reason: str
    drain_s: Seconds
    unload_s: Seconds
    load_s: Seconds
    failed: bool


class StateEvent(TypedDict):
    """A model came into a state."""

    time: FineTime
    model: Name
    state: State
    cause: str


class ProblemEvent(TypedDict):
    """A load that failed, Ollama gone or back, or requests that the proxy answered with an error.

    For these `status` is that of the answer, else 0; `count` is how many there were from `time` to `until`, a minute at
    most, `sent` tells whether Ollama had them.  One that has grown is told again.
    """

    time: FineTime
    until: FineTime
    model: str
    code: str
    status: int
    sent: bool
    count: Count
    message: str


class KeptRequest(RequestEvent):
    """As it was kept."""

    id: int


class KeptSwap(SwapEvent):
    """As it was kept."""

    id: int


class KeptState(StateEvent):
    """As it was kept."""

    id: int


class KeptProblem(ProblemEvent):
    """As it was kept."""

    id: int


class RequestsAnswer(TypedDict):
    """Newest first; `next` is `before` of the next page, null on the last."""

    requests: list[KeptRequest]
    next: int | None


class SwapsAnswer(TypedDict):
    """Newest first; `next` is `before` of the next page, null on the last."""

    swaps: list[KeptSwap]
    next: int | None


class StatesAnswer(TypedDict):
    """Newest first; `next` is `before` of the next page, null on the last."""

    states: list[KeptState]
    next: int | None


class ProblemsAnswer(TypedDict):
    """Newest first; `next` is `before` of the next page, null on the last."""

    problems: list[KeptProblem]
    next: int | None


class Usage(TypedDict):
    """What a model did in the hour or day from `start` on; `refused` are requests that Ollama never had.

    `model` is empty for those that were refused before it was known.
    """

    start: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    model: str
    requests: Count
    errors: Count
    prompt_tokens: Count
    generated_tokens: Count
    wait_s_mean: Seconds
    wait_s_max: Seconds
    generation_s: Seconds
    refused: Count


class UsageAnswer(TypedDict):
    """By hour or day, and by model."""

    usage: list[Usage]


class SnapshotEvent(TypedDict):
    """Everything, at the beginning."""

    status: StatusAnswer
    models: list[ListedModel]
    queue: QueueAnswer
