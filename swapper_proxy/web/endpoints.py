"""Which paths make a model resident, and what a request to one of them asks for: read as Ollama reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from swapper_proxy.config.keep_alive import InvalidKeepAlive, KeepAlive, seconds_of
from swapper_proxy.core.types import RUNNER_OPTIONS, RunnerOption
from swapper_proxy.web.body import Fields
from swapper_proxy.web.form import Form


class Intent(Enum):
    """What a request wants: an answer, only the model in memory, or the model gone."""

    INFERENCE = "inference"
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A swapping route.  `content` is the field whose emptiness makes a native request a load (or an unload)."""

    path: str
    label: str
    content: str = ""
    native: bool = False
    needs: str = ""  # the capability without which Ollama refuses
    multipart: bool = False
    case_sensitive: bool = False


_ENDPOINTS = (
    Endpoint("/api/generate", "generate", "prompt", native=True, needs="completion"),
    Endpoint("/api/chat", "chat", "messages", native=True, needs="completion"),
    Endpoint("/api/embed", "embed", "input", native=True),
    Endpoint("/api/embeddings", "embeddings", "prompt", native=True, case_sensitive=True),
    Endpoint("/v1/chat/completions", "v1_chat_completions", needs="completion"),
    Endpoint("/v1/completions", "v1_completions", needs="completion"),
    Endpoint("/v1/embeddings", "v1_embeddings"),
    Endpoint("/v1/responses", "v1_responses"),
    Endpoint("/v1/messages", "v1_messages"),
    Endpoint("/v1/audio/transcriptions", "v1_audio_transcriptions", multipart=True),
    Endpoint("/v1/images/generations", "v1_images_generations"),
    Endpoint("/v1/images/edits", "v1_images_edits", multipart=True),
)
ENDPOINTS = {endpoint.path: endpoint for endpoint in _ENDPOINTS}


class Unacceptable(Exception):
    """Ollama will refuse this request whatever is in memory: it is handed on at once, for Ollama to say so."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was understood; `keep_alive` is the client's own."""

    model: str
    intent: Intent = Intent.INFERENCE
    options: Mapping[str, RunnerOption] = field(default_factory=dict)
    keep_alive: KeepAlive | None = None
    tools: bool = False
    think: bool = False
    suffix: bool = False


def read(endpoint: Endpoint, fields: Fields | Form) -> Asked:
    """What a request asks for.  Raises Unacceptable."""
    model = fields.get("model", str, "")
    if not model:
        raise Unacceptable("no model")
    _check_types(endpoint, fields)
    if not endpoint.native:
        return Asked(model, tools=bool(fields.get("tools", list[msgspec.Raw], [])))
    keep_alive = fields.get("keep_alive", KeepAlive | None, None)
    leaves_at_once = _leaves_at_once(keep_alive)
    options = _runner_options(fields.get("options", dict[str, object], {}))
    empty = _is_empty(endpoint, fields)
    if empty and leaves_at_once and endpoint.content != "input" and not endpoint.case_sensitive:
        return Asked(model, Intent.UNLOAD)
    return Asked(
        model,
        Intent.LOAD if empty else Intent.INFERENCE,
        options,
        keep_alive,
        tools=bool(fields.get("tools", list[msgspec.Raw], [])),
        think=fields.get("think", bool | str | None, None) not in (None, False),
        suffix=bool(fields.get("suffix", str, "")),
    )


def check(endpoint: Endpoint, asked: Asked, capabilities: frozenset[str] | None) -> None:
    """Whether the model can do this at all; no opinion where Ollama does not tell.  Raises Unacceptable."""
    if capabilities is None or asked.intent is Intent.UNLOAD:
        return
    needed = {endpoint.needs: True, "tools": asked.tools, "thinking": asked.think, "insert": asked.suffix}
    for capability, wanted in needed.items():
        if capability and wanted and capability not in capabilities:
            raise Unacceptable(f"no capability {capability}")


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | list[msgspec.Raw] | None = None


def _check_types(endpoint: Endpoint, fields: Fields | Form) -> None:
    """The fields whose types Ollama insists on before it looks at the model.  Raises WrongType, Unacceptable."""
    fields.get("stream", bool, False)
    if endpoint.label == "generate":
        fields.get("context", list[int], [])
        if fields.get("raw", bool, False) and any(
            fields.get(n, str | list, "") for n in ("template", "system", "context")
        ):
            raise Unacceptable("raw mode takes no template, system or context")
    elif endpoint.label == "chat":
        fields.get("messages", list[_Message], [])
    elif endpoint.label == "v1_chat_completions":
        fields.get("max_tokens", int, 0)
        if not fields.get("messages", list[_Message], []):
            raise Unacceptable("no messages")
    elif endpoint.label == "v1_embeddings" and not fields.get("input", str | list[str], ""):
        raise Unacceptable("no input")


def _is_empty(endpoint: Endpoint, fields: Fields | Form) -> bool:
    if endpoint.content == "messages":
        return not fields.get("messages", list[dict[str, msgspec.Raw]] | None, None)
    if endpoint.content == "input":
        given = fields.get("input", str | list[msgspec.Raw] | None, None)
        return not given
    return not fields.get("prompt", str | None, None)


def _leaves_at_once(keep_alive: KeepAlive | None) -> bool:
    try:
        return keep_alive is not None and seconds_of(keep_alive) < 1
    except InvalidKeepAlive as error:
        raise Unacceptable(f"keep_alive: {error}") from None


# Ollama's options that are no runner options, by the type it insists on; null and unknown names pass.
_INTEGERS = frozenset(["num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "mirostat"]) | (
    RUNNER_OPTIONS - {"use_mmap"}
)
_FLOATS = frozenset(
    ["top_p", "min_p", "typical_p", "repeat_penalty", "temperature", "presence_penalty", "frequency_penalty"]
)


def _runner_options(options: Mapping[str, object]) -> dict[str, RunnerOption]:
    found: dict[str, RunnerOption] = {}
    for name, value in options.items():
        if value is None:
            continue
        if name in _INTEGERS | _FLOATS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise Unacceptable(f"option {name} is no number")
        if name == "use_mmap" and not isinstance(value, bool):
            raise Unacceptable("option use_mmap is no boolean")
        if name == "stop" and not (isinstance(value, list) and all(isinstance(word, str) for word in value)):
            raise Unacceptable("option stop is no list of strings")
        if name in RUNNER_OPTIONS and isinstance(value, int | float):
            found[name] = value if isinstance(value, bool) else int(value)
    return found
