"""Which paths make a model resident, and what a request to one of them asks for: read as Ollama reads it."""

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from swapper_proxy.config.keep_alive import InvalidKeepAlive, KeepAlive, seconds_of
from swapper_proxy.core.types import FLOATS, INTEGERS, RUNNER_OPTIONS, RunnerOption
from swapper_proxy.web.body import Ambiguous, Fields, Name
from swapper_proxy.web.form import Form


class Intent(Enum):
    """What a request wants: an answer, only the model in memory, or the model gone."""

    INFERENCE = "inference"
    LOAD = "load"
    UNLOAD = "unload"


# An integer as Go takes it.
_Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Object = dict[str, msgspec.Raw]
_Image = str | list[_Int | None] | None
_List = list[msgspec.Raw]


class _NativeMessage(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    thinking: str | None = None
    images: list[_Image] | None = None
    tool_calls: list[_Object | None] | None = None


class _OpenAIMessage(msgspec.Struct):
    role: str | None = None
    content: str | _List | None = None


class _ResponseFormat(msgspec.Struct):
    type: str | None = None
    json_schema: _Object | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


# The types that Ollama insists on before it looks at the model; null is nothing in nearly all places.
_THINK = bool | str
_CHAT = {"stream": bool, "tools": _List, "think": _THINK}
_GENERATE = dict.fromkeys(["prompt", "suffix", "system", "template"], str) | {
    "context": list[_Int | None],
    "images": list[_Image],
    "raw": bool,
    "stream": bool,
    "think": _THINK,
}
_OPENAI = dict.fromkeys(["temperature", "top_p", "frequency_penalty", "presence_penalty"], float) | {
    "max_tokens": _Int,
    "seed": _Int,
    "stream": bool,
    "stream_options": _StreamOptions,
}
_CHAT_COMPLETION = _OPENAI | {"response_format": _ResponseFormat, "tools": _List}
_COMPLETION = _OPENAI | {"prompt": str, "suffix": str, "stop": str | float | bool | list[str] | _Object}


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A swapping route.

    `content` is the field whose emptiness makes a native request a load, or an unload where it `stops`.  `text` and
    `images` are the fields that have the text and, outside of messages, the images; `takes`: those of tools, think and
    suffix that it knows.  `needs` are the capabilities without any of which Ollama refuses.  `recent`: not all versions
    of Ollama have it.
    """

    path: str
    label: str
    content: str = ""
    types: Mapping[str, Any] = field(default_factory=dict)
    native: bool = False
    stops: bool = False
    text: tuple[str, ...] = ()
    images: str = ""
    takes: tuple[str, ...] = ()
    embeds: bool = False
    needs: tuple[str, ...] = ()
    recent: bool = False
    multipart: bool = False


_LLM = ("completion",)
_LLM_OR_PAINTER = ("completion", "image")
_ENDPOINTS = (
    Endpoint(
        "/api/generate",
        "generate",
        "prompt",
        _GENERATE,
        native=True,
        stops=True,
        text=("system", "prompt", "suffix"),
        images="images",
        takes=("think", "suffix"),
        needs=_LLM_OR_PAINTER,
    ),
    Endpoint(
        "/api/chat",
        "chat",
        "messages",
        _CHAT,
        native=True,
        stops=True,
        text=("messages",),
        takes=("tools", "think"),
        needs=_LLM,
    ),
    Endpoint("/api/embed", "embed", "input", {"truncate": bool}, native=True, text=("input",), embeds=True),
    Endpoint("/api/embeddings", "embeddings", "prompt", native=True, text=("prompt",), embeds=True),
    Endpoint(
        "/v1/chat/completions",
        "v1_chat_completions",
        types=_CHAT_COMPLETION,
        text=("messages",),
        takes=("tools",),
        needs=_LLM,
    ),
    Endpoint(
        "/v1/completions", "v1_completions", types=_COMPLETION, text=("prompt", "suffix"), takes=("suffix",), needs=_LLM
    ),
    Endpoint("/v1/embeddings", "v1_embeddings", text=("input",), embeds=True),
    Endpoint(
        "/v1/responses",
        "v1_responses",
        types={"tools": _List},
        text=("instructions", "input"),
        takes=("tools",),
        needs=_LLM,
        recent=True,
    ),
    Endpoint(
        "/v1/messages",
        "v1_messages",
        types={"tools": _List},
        text=("system", "messages"),
        takes=("tools",),
        needs=_LLM,
        recent=True,
    ),
    Endpoint("/v1/audio/transcriptions", "v1_audio_transcriptions", needs=_LLM, multipart=True, recent=True),
    Endpoint("/v1/images/generations", "v1_images_generations", text=("prompt",), needs=_LLM_OR_PAINTER, recent=True),
    Endpoint(
        "/v1/images/edits", "v1_images_edits", text=("prompt",), images="image", needs=_LLM_OR_PAINTER, recent=True
    ),
)
ENDPOINTS = {endpoint.path: endpoint for endpoint in _ENDPOINTS}


MOST_KEEP_ALIVE_BYTES = 1000  # Go adds up as many parts as there are


class Unacceptable(Exception):
    """Ollama will refuse this request whatever is in memory: it is handed on at once, for Ollama to say so."""


class Asked(msgspec.Struct, frozen=True):
    """A request as it was understood.

    `keep_alive` is the client's own; `wants` are the capabilities that not all models have.
    """

    model: str
    intent: Intent = Intent.INFERENCE
    options: Mapping[str, RunnerOption] = msgspec.field(default_factory=dict)
    keep_alive: KeepAlive | None = None
    wants: frozenset[str] = frozenset()


def read(endpoint: Endpoint, fields: Fields | Form) -> Asked:
    """What a request asks for.  Raises Unacceptable, WrongType, Ambiguous."""
    model = fields.get("model", Name, "")
    if not model:
        raise Unacceptable("no model")
    if fields.light:
        fields.check(endpoint.types)
    if not endpoint.native:
        _check(endpoint, fields)
        return Asked(model, wants=_wants(endpoint, fields))
    if fields.size("keep_alive") > MOST_KEEP_ALIVE_BYTES:
        raise Ambiguous("keep_alive is too long")
    keep_alive = fields.get("keep_alive", KeepAlive | None, None)
    leaves_at_once, options = _leaves_at_once(keep_alive), fields.get("options", _Options, None)
    empty = fields.is_empty(endpoint.content)
    if empty and leaves_at_once and endpoint.stops:
        if endpoint.content == "messages":
            fields.get("messages", _List, None)
        return Asked(model, Intent.UNLOAD)
    _check(endpoint, fields)
    intent = Intent.LOAD if empty else Intent.INFERENCE
    return Asked(model, intent, _runner_options(options) if options else {}, keep_alive, _wants(endpoint, fields))


_CAPABILITIES = {"tools": "tools", "think": "thinking", "suffix": "insert"}


def _wants(endpoint: Endpoint, fields: Fields | Form) -> frozenset[str]:
    return frozenset([_CAPABILITIES[name] for name in endpoint.takes if _has(fields, name)])


def _has(fields: Fields | Form, name: str) -> bool:
    if name == "think":
        return fields.get(name, _THINK, False) is not False
    return not fields.is_empty(name)


def is_able(endpoint: Endpoint, asked: Asked, capabilities: frozenset[str] | None) -> bool:
    """Return False if a model with these capabilities cannot do this; True also where Ollama does not tell them."""
    if capabilities is None or asked.intent is Intent.UNLOAD:
        return True
    if endpoint.needs and capabilities.isdisjoint(endpoint.needs):
        return False
    return asked.wants <= capabilities


def unloaded(endpoint: Endpoint, name: str) -> bytes:
    """What Ollama answers when it unloads a model because it was asked to: JSON."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    done: dict[str, object] = {"model": name, "created_at": now}
    if endpoint.content == "messages":  # its members come in another order
        done |= {"message": {"role": "assistant", "content": ""}, "done_reason": "unload", "done": True}
    else:
        done |= {"response": "", "done": True, "done_reason": "unload"}
    return msgspec.json.encode(done)


def _check(endpoint: Endpoint, fields: Fields | Form) -> None:
    """What else Ollama refuses before it looks at the model.  Raises WrongType, Unacceptable."""
    if not fields.light:
        return
    if endpoint.label == "generate":
        if fields.get("raw", bool, False) and any(
            fields.get(name, str | list, "") for name in ("template", "system", "context")
        ):
            raise Unacceptable("raw mode takes no template, system or context")
        _check_images(fields.get("images", list[_Image], []))
    elif endpoint.label == "chat":
        for message in fields.get("messages", list[_NativeMessage | None], []):
            _check_images(message.images or [] if message else [])
    elif endpoint.label == "v1_chat_completions" and not fields.get("messages", list[_OpenAIMessage], []):
        raise Unacceptable("no messages")
    elif endpoint.label == "v1_embeddings" and fields.get("input", str | list[str], []) == []:
        raise Unacceptable("no input")
    elif endpoint.label == "embed":
        fields.get("input", str | list[str] | None, None)
    elif endpoint.label == "embeddings":
        fields.get("prompt", str | None, None)


def _check_images(images: Sequence[_Image]) -> None:
    """Base64 as Go reads it, which may be broken into lines.  Raises Unacceptable."""
    for image in images:
        if isinstance(image, str):
            try:
                binascii.a2b_base64(image.encode().translate(None, b"\r\n"), strict_mode=True)
            except ValueError as error:
                raise Unacceptable(f"an image: {error}") from None


def _leaves_at_once(keep_alive: KeepAlive | None) -> bool:
    try:
        return keep_alive is not None and seconds_of(keep_alive) < 1
    except InvalidKeepAlive as error:
        raise Unacceptable(f"keep_alive: {error}") from None


_NUMBERS = INTEGERS | FLOATS
_NAMES = sorted(_NUMBERS | {"use_mmap", "stop"})
_Options = msgspec.defstruct("_Options", [(name, Any, None) for name in _NAMES], omit_defaults=True)


def _runner_options(options: Any) -> dict[str, RunnerOption]:
    found: dict[str, RunnerOption] = {}
    for name, value in msgspec.to_builtins(options).items():
        if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise Unacceptable(f"option {name} is no number")
        if name == "use_mmap" and not isinstance(value, bool):
            raise Unacceptable("option use_mmap is no boolean")
        if name == "stop" and not (isinstance(value, list) and all(isinstance(word, str) for word in value)):
            raise Unacceptable("option stop is no list of strings")
        if name in RUNNER_OPTIONS and isinstance(value, int | float):
            found[name] = value if isinstance(value, bool) else int(value)
    return found
