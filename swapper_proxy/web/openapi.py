"""The management API as an OpenAPI document.  The same table says which query parameters a call takes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from swapper_proxy import __version__, config
from swapper_proxy.core.errors import Rejection
from swapper_proxy.web import schemas
from swapper_proxy.web.history import DEFAULT_LIMIT, LAST_ID, MOST

# Method and path, as the description writes them.
Route = tuple[str, str]
# Error codes by status.
Codes = Mapping[int, tuple[str, ...]]

REF = "#/components/schemas/{name}"
JSON, TEXT, EVENTS = "application/json", "text/plain", "text/event-stream"

Id = Annotated[int, Meta(ge=1, le=LAST_ID)]
Limit = Annotated[int, Meta(ge=1, le=MOST, description=f"{DEFAULT_LIMIT} if not given")]
_MOMENT = r"^(\d+(\.\d+)?|\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)$"
Moment = Annotated[str, Meta(pattern=_MOMENT, description="ISO time, UTC if it does not say, or epoch seconds")]
_MODEL = {"model": Annotated[str, Meta(min_length=1)]}
_SPAN = {"since": Moment, "until": Moment}
_PAGE = {**_MODEL, **_SPAN, "limit": Limit, "before": Id}
_WAIT = {"wait": Annotated[Literal["true", "false"], Meta(description="false: answer 202 at once")]}

_UNKNOWN: Codes = {404: ("model_not_found",)}
_NO_HISTORY: Codes = {404: ("history_off",), 503: ("history_unavailable",)}
_ACTING: Codes = {
    403: ("origin_not_allowed", "host_not_allowed", "read_only"),
    **_UNKNOWN,
    409: ("model_missing", "model_remote"),
    500: ("internal_error", "scheduler_fault"),
    502: ("upstream_unreachable",),
}
_ANYWHERE: Codes = {400: ("invalid_parameter",), 403: ("origin_not_allowed",), 500: ("internal_error",)}
_KEYED: Codes = {401: ("missing_api_key", "invalid_api_key", "several_api_keys")}
# Needed where the settings have keys for the management, so it is one of these or nothing.
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_SECURITY: tuple[dict[str, list[str]], ...] = ({}, {"bearer": []}, {"api_key": []})


def _with(codes: Codes, *reasons: Rejection) -> Codes:
    """These, and those of the scheduler's."""
    found = dict(codes)
    for reason in reasons:
        found[reason.status] = (*dict.fromkeys((*found.get(reason.status, ()), reason.code)),)
    return found


_LOADING = _with(
    _ACTING,
    Rejection.UPSTREAM_DOWN,
    Rejection.LOAD_FAILED,
    Rejection.SHUTTING_DOWN,
    Rejection.SWAP_TIMEOUT,
    Rejection.DRAIN_TIMEOUT,
    Rejection.QUEUE_TIMEOUT,
    Rejection.TOO_LARGE,
    Rejection.PINNED_OUT,
)


@dataclass(frozen=True, slots=True)
class Operation:
    """A call: what it answers, by status and media type, its errors, its query parameters.

    `passes_on` is the code of what Ollama answered, with the status that Ollama gave it; `keyed`: a key is needed where
    there are any; `also` are types that only texts name.
    """

    summary: str
    answers: Mapping[int, Mapping[str, Any]]
    errors: Codes = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    passes_on: str = ""
    keyed: bool = True
    description: str = ""
    also: tuple[type, ...] = ()


def _answers(kind: Any, *statuses: int) -> dict[int, dict[str, Any]]:
    return {status: {JSON: kind} for status in statuses or (200,)}


OPERATIONS: dict[Route, Operation] = {
    ("GET", "/health"): Operation(
        "Whether Ollama is reachable; with a key also what is in memory; always 200",
        _answers(schemas.HealthAnswer),
        keyed=False,
    ),
    ("GET", "/ready"): Operation(
        "Whether requests can be served", _answers(schemas.ReadyAnswer, 200, 503), keyed=False
    ),
    ("GET", "/status"): Operation("The proxy at a glance", _answers(schemas.StatusAnswer)),
    ("GET", "/queue"): Operation("Who waits for which model, and why", _answers(schemas.QueueAnswer)),
    ("GET", "/models"): Operation("All models", _answers(schemas.ModelsAnswer)),
    ("GET", "/models/{name}"): Operation("One model", _answers(schemas.ModelAnswer), _UNKNOWN),
    ("POST", "/models/{name}/load"): Operation(
        "Load a model once it is its turn",
        _answers(schemas.DoneAnswer, 200, 202),
        _LOADING,
        _WAIT,
        passes_on=Rejection.LOAD_FAILED.code,
    ),
    ("POST", "/models/{name}/pin"): Operation(
        "Load a model, and keep it in memory until it is unpinned or the proxy starts again",
        _answers(schemas.DoneAnswer, 200, 202),
        _LOADING,
        _WAIT,
        passes_on=Rejection.LOAD_FAILED.code,
    ),
    ("POST", "/models/{name}/unpin"): Operation(
        "Let a pinned model go when another needs its room", _answers(schemas.DoneAnswer, 200, 202), _ACTING, _WAIT
    ),
    ("POST", "/models/{name}/unload"): Operation(
        "Unload a model once it has finished what it is answering",
        _answers(schemas.DoneAnswer, 200, 202),
        _with(_ACTING, Rejection.PINNED, Rejection.SUPERSEDED, Rejection.UNLOAD_FAILED),
        _WAIT,
    ),
    ("POST", "/reload"): Operation(
        "Read the configuration again",
        _answers(schemas.ReloadAnswer),
        {400: ("invalid_parameter", "invalid_config"), 403: ("origin_not_allowed", "host_not_allowed", "read_only")},
        description="What cannot be used changes nothing; what needs a restart is told in `needs_restart`.",
    ),
    ("GET", "/metrics"): Operation(
        "Figures for Prometheus, or as JSON",
        {200: {JSON: schemas.MetricsAnswer, TEXT: str}},
        query={"format": Literal["json", "prometheus"]},
        description="Without `format`, the header Accept decides, else the configured default.",
    ),
    ("GET", "/metrics/{name}"): Operation("Figures of one model", _answers(schemas.ModelMetrics), _UNKNOWN),
    ("GET", "/config"): Operation("The settings as they took effect", _answers(config.Settings)),
    ("GET", "/openapi.json"): Operation("This description", _answers(schemas.Document)),
    ("GET", "/history/requests"): Operation(
        "Requests that were answered",
        _answers(schemas.RequestsAnswer),
        _NO_HISTORY,
        {**_PAGE, "endpoint": Annotated[str, Meta(min_length=1)], "status": Annotated[int, Meta(ge=100, le=599)]},
    ),
    ("GET", "/history/swaps"): Operation("Swaps that were made", _answers(schemas.SwapsAnswer), _NO_HISTORY, _PAGE),
    ("GET", "/history/states"): Operation("States of the models", _answers(schemas.StatesAnswer), _NO_HISTORY, _PAGE),
    ("GET", "/history/problems"): Operation(
        "Outages, failed loads and refused requests",
        _answers(schemas.ProblemsAnswer),
        _NO_HISTORY,
        {**_PAGE, "code": Annotated[str, Meta(pattern="^[a-z_]{1,64}$")], "status": Annotated[int, Meta(ge=0, le=599)]},
    ),
    ("GET", "/history/usage"): Operation(
        "Sums by hour or day and model",
        _answers(schemas.UsageAnswer),
        _NO_HISTORY,
        {"by": Annotated[Literal["hour", "day"], Meta(description="hour if not given")], **_MODEL, **_SPAN},
    ),
    ("GET", "/events"): Operation(
        "What happens, as server-sent events",
        {200: {EVENTS: str}},
        {503: ("too_many_consumers", "shutting_down")},
        {"last_event_id": Annotated[str, Meta(description="as the header Last-Event-ID, where one cannot be sent")]},
        description=(
            "First `snapshot` (SnapshotEvent), then `state` (StateEvent), `swap` (SwapEvent), `request` "
            "(RequestEvent), `models` (a list of ListedModel: those that changed), `queue` (QueueAnswer), `status` "
            "(StatusAnswer) and `problem` (ProblemEvent). Last-Event-ID resumes."
        ),
        also=(
            schemas.SnapshotEvent,
            schemas.StateEvent,
            schemas.SwapEvent,
            schemas.RequestEvent,
            schemas.ProblemEvent,
        ),
    ),
}

_ABOUT = (
    "What GET answers, HEAD answers without a body. Names of models may hold slashes, percent-encoded or not. "
    "Another method is 405 (method_not_allowed), with Allow. Answers may get further members. "
    "Where the settings have keys for the management, all but /health and /ready need one, and "
    "/health tells no more than its status without; a key that only reads gets "
    "403 (read_only) for the rest. "
    "Not described here are the console at /ui/, which is for people, and what goes to Ollama."
)
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "as configured, or as Ollama has it, in any spelling that Ollama treats as equal",
    "schema": {"type": "string", "minLength": 1},
    "example": "mistral-7b",
}


def document(routes: Iterable[Route]) -> schemas.Document:
    """The description of these routes."""
    served = {route: OPERATIONS[route] for route in routes}
    kinds = [schemas.ErrorAnswer, *(kind for operation in served.values() for kind in _kinds(operation))]
    _, components = msgspec.json.schema_components(kinds, ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in served.items():
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation)
    info = {"title": "Swapper Proxy", "version": __version__, "description": _ABOUT}
    described = {"schemas": components, "securitySchemes": _SCHEMES}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": described}


def _kinds(operation: Operation) -> list[Any]:
    answers = [kind for content in operation.answers.values() for kind in content.values()]
    return [*answers, *operation.query.values(), *operation.also]


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components((kind,), ref_template=REF)
    return schema


def _operation(method: str, path: str, operation: Operation) -> dict[str, object]:
    query = [{"name": name, "in": "query", "schema": _schema(kind)} for name, kind in operation.query.items()]
    return {
        "operationId": "_".join([method.lower(), *path.translate(_PLAIN).split()]),
        "summary": operation.summary,
        **({"description": operation.description} if operation.description else {}),
        "parameters": [*([_NAME] if "{name}" in path else []), *query],
        **({"security": _SECURITY} if operation.keyed else {}),
        "responses": _responses(operation),
    }


_PLAIN = str.maketrans("/{}.", "    ")


def _responses(operation: Operation) -> dict[str, object]:
    told: dict[str, object] = {
        str(status): {
            "description": "Done" if status == 200 else "Accepted" if status == 202 else "Not now",
            "content": {media: {"schema": _schema(kind)} for media, kind in content.items()},
        }
        for status, content in operation.answers.items()
    }
    passed_on = (operation.passes_on,) if operation.passes_on else ()
    errors = {**_ANYWHERE, **(_KEYED if operation.keyed else {}), **operation.errors}
    for status, codes in sorted(errors.items()):
        told[str(status)] = _error((*dict.fromkeys((*codes, *passed_on)),)) | (_CHALLENGE if status == 401 else {})
    if passed_on:
        told["default"] = _error(passed_on, "What Ollama answered, with its status")
    return told


_CHALLENGE: dict[str, object] = {"headers": {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}}


def _error(codes: tuple[str, ...], description: str = "") -> dict[str, object]:
    schema = {
        "$ref": REF.format(name=schemas.ErrorAnswer.__name__),
        "properties": {"error": {"properties": {"code": {"enum": list(codes)}}}},
    }
    return {"description": description or ", ".join(codes), "content": {JSON: {"schema": schema}}}
