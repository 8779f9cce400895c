"""Request bodies read as Go's encoding/json reads them, refused with Go's texts.

Keys are case-insensitive, the last duplicate wins, null leaves a string as it was and unsets the rest, bytes after the
first value and the Content-Type are not looked at.  A bad `keep_alive` is reported before any wrong type, wherever
it stands.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class RefusalError(Exception):
    """What is answered in place of a result: an HTTP status and a text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Kind:
    """A Go type that a field is decoded into: its name in errors, and the JSON types it takes."""

    go: str
    takes: tuple[str, ...]
    items: Mapping[str, "Kind"] | None = None  # of an array of structs: the fields that are checked


STRING = Kind("string", ("string",))
BOOL = Kind("bool", ("bool",))
INT = Kind("int", ("number",))
FLOAT = Kind("float64", ("number",))
MAP = Kind("map[string]interface {}", ("object",))
INTS = Kind("[]int", ("array",))
ANY = Kind("interface {}", ("string", "bool", "number", "array", "object"))
DURATION = Kind("api.Duration", ANY.takes)  # checked by `duration`


@dataclass(frozen=True)
class Shape:
    """A request struct: its Go name, its package, its fields, and how an empty body is reported."""

    package: str
    name: str
    fields: Mapping[str, Kind]
    empty: str = "missing request body"


class _Object(dict[str, Any]):
    """A JSON object that remembers duplicates and their order."""

    pairs: list[tuple[str, Any]]


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    found.pairs = pairs
    return found


def _no_constant(name: str) -> None:
    raise RefusalError(400, f"invalid character '{name[0]}' looking for beginning of value")  # NaN is not JSON


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
_SPACE = re.compile(r"[ \t\r\n]*")


def read(body: bytes, shape: Shape) -> dict[str, Any]:
    """The fields of `shape` that the body sets, under their own names.  Raises RefusalError (400)."""
    text = body.decode("utf-8", "replace")
    start = _end_of_space(text, 0)
    if start == len(text):
        raise RefusalError(400, shape.empty)
    try:
        value = _DECODER.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        raise RefusalError(400, _syntax_error(text, error)) from None
    except RecursionError:
        raise RefusalError(400, "exceeded max depth") from None
    return _fields(value, shape)


def _fields(value: object, shape: Shape) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, _Object):
        raise RefusalError(400, f"json: cannot unmarshal {_json_type(value)} into Go value of type {_go_name(shape)}")
    found: dict[str, Any] = {}
    mistakes: list[str] = []
    for key, item in value.pairs:
        name = key.casefold()
        kind = shape.fields.get(name)
        if kind is None:
            continue
        if item is None:
            _unset(found, name, kind)
        else:
            found[name] = duration(item) if kind is DURATION else item
            mistakes += _type_errors(item, kind, shape, name)
    if mistakes:
        raise RefusalError(400, mistakes[0])
    return found


def _unset(found: dict[str, Any], name: str, kind: Kind) -> None:
    """Null makes a pointer, a list or a map nil again; a string stays as it is."""
    if kind is not STRING:
        found.pop(name, None)


def _type_errors(item: object, kind: Kind, shape: Shape, path: str) -> Iterable[str]:
    if _json_type(item) not in kind.takes:
        owner = path if "." in path else f"{shape.name}.{path}"
        yield f"json: cannot unmarshal {_json_type(item)} into Go struct field {owner} of type {kind.go}"
    elif kind.items is not None and isinstance(item, list):
        yield from _item_errors(item, kind.items, shape, path)


def _item_errors(items: list[object], fields: Mapping[str, Kind], shape: Shape, path: str) -> Iterable[str]:
    whole = Kind(f"{shape.package}.{'Alias' if shape.package == 'api' else 'Message'}", ("object",))
    owner = shape.name if shape.package == "api" else "Message"
    for item in items:
        if not isinstance(item, dict):
            yield from _type_errors(item, whole, shape, f"{shape.name}.{path}")
            continue
        for key, value in item.items():
            if value is not None and (kind := fields.get(key.casefold())):
                yield from _type_errors(value, kind, shape, f"{owner}.{path}.{key}")


def _go_name(shape: Shape) -> str:
    return f"{shape.package}.{shape.name}"


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    for types, name in ((str, "string"), ((int, float), "number"), (list, "array"), (dict, "object")):
        if isinstance(value, types):
            return name
    return "null"


# What Python reports where, and what Go says of the character found there.
_PLACES = {
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
    "Expecting value": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Invalid control character at": "in string literal",
}
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')


def _syntax_error(text: str, error: json.JSONDecodeError) -> str:
    position = error.pos + 1 if error.msg.startswith("Illegal") else error.pos
    position = _end_of_space(text, position)
    if position >= len(text) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    if literal := next((word for word in ("true", "false", "null") if word[0] == text[position]), None):
        return _broken_literal(text[position:], literal)
    place = _PLACES.get(error.msg) or (
        "after array element" if _in_array(text[:position]) else "after object key:value pair"
    )
    return f"invalid character {_quoted(text[position])} {place}"


def _broken_literal(text: str, literal: str) -> str:
    same = next((i for i, c in enumerate(literal) if text[i : i + 1] != c), len(literal))
    if same >= len(text):
        return "unexpected EOF"
    return f"invalid character {_quoted(text[same])} in literal {literal} (expecting '{literal[same]}')"


def _quoted(character: str) -> str:
    return {"'": r"'\''", '"': "'\"'", "\n": r"'\n'"}.get(character, f"'{character}'")


def _in_array(before: str) -> bool:
    depth: list[str] = []
    for character in _STRINGS.sub("", before):
        if character in "[{":
            depth.append(character)
        elif character in "]}" and depth:
            depth.pop()
    return bool(depth) and depth[-1] == "["


def _end_of_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_TYPES = {"bool": "bool", "array": "[]interface {}", "object": "map[string]interface {}"}
_NUMBER_AND_UNIT = re.compile(r"(\d*(?:\.\d*)?)([^\d.]*)")


def duration(value: object) -> float:
    """A `keep_alive` in seconds; negative ones are for ever (`math.inf`).  Raises RefusalError (400)."""
    kind = _json_type(value)
    if kind in _GO_TYPES:
        raise RefusalError(400, f"Unsupported type: '{_GO_TYPES[kind]}'")
    if isinstance(value, str):
        seconds = _parse_duration(value)
        return seconds if seconds >= 0 else math.inf
    number = float(value)  # type: ignore[arg-type]
    return math.inf if number < 0 else float(int(number))  # whole seconds, as Ollama cuts them


def _parse_duration(text: str) -> float:
    """Go's time.ParseDuration."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0.0
    total = 0.0
    while rest or not text:
        match = _NUMBER_AND_UNIT.match(rest)
        number, unit = match.groups() if match else ("", "")
        if not any(c.isdigit() for c in number):
            break
        total += float(number) * _unit(unit, text)
        rest = rest[len(number) + len(unit) :]
        if not rest:
            return sign * total
    raise RefusalError(400, f'time: invalid duration "{text}"')


def _unit(unit: str, text: str) -> float:
    if not unit:
        raise RefusalError(400, f'time: missing unit in duration "{text}"')
    if unit not in _UNITS:
        raise RefusalError(400, f'time: unknown unit "{unit}" in duration "{text}"')
    return _UNITS[unit]


def _api(struct: str, /, **fields: Kind) -> Shape:
    return Shape("api", struct, {"model": STRING, **fields})


def _openai(struct: str, /, **fields: Kind) -> Shape:
    return Shape("openai", struct, {"model": STRING, **fields}, empty="EOF")


_RUN: Mapping[str, Kind] = {"stream": BOOL, "keep_alive": DURATION, "options": MAP}
_THINK_AND_FORMAT: Mapping[str, Kind] = {"think": BOOL, "format": ANY}
_SAMPLING: Mapping[str, Kind] = {"max_tokens": INT, "seed": INT, "temperature": FLOAT, "stream": BOOL}
_NATIVE_MESSAGES = Kind("[]api.Message", ("array",), {"role": STRING, "content": STRING})
_OPENAI_MESSAGES = Kind("[]openai.Message", ("array",), {"role": STRING})
_EMBED_RUN: Mapping[str, Kind] = {"keep_alive": DURATION, "options": MAP}

GENERATE = _api(
    "GenerateRequest",
    **_RUN,
    **_THINK_AND_FORMAT,
    **dict.fromkeys(("prompt", "suffix", "system", "template"), STRING),
    context=INTS,
    raw=BOOL,
    images=Kind("[]api.ImageData", ("array",)),
)
CHAT = _api("ChatRequest", **_RUN, **_THINK_AND_FORMAT, messages=_NATIVE_MESSAGES, tools=Kind("api.Tools", ("array",)))
EMBED = _api("EmbedRequest", **_EMBED_RUN, input=ANY, truncate=BOOL)
EMBEDDINGS = _api("EmbeddingRequest", **_EMBED_RUN, prompt=STRING)
SHOW = _api("ShowRequest", name=STRING, system=STRING, template=STRING, verbose=BOOL, options=MAP)
DELETE = _api("DeleteRequest", name=STRING)
CREATE = _api(
    "CreateRequest",
    **dict.fromkeys(("name", "from", "system", "template"), STRING),
    parameters=MAP,
    files=Kind("map[string]string", ("object",)),
    stream=BOOL,
)
PULL = _api("PullRequest", name=STRING, stream=BOOL)
PUSH = _api("PushRequest", name=STRING, stream=BOOL)
COPY = Shape("api", "CopyRequest", {"source": STRING, "destination": STRING})

_STREAM_OPTIONS = Kind("openai.StreamOptions", ("object",))
OPENAI_CHAT = _openai(
    "ChatCompletionRequest",
    **_SAMPLING,
    messages=_OPENAI_MESSAGES,
    stream_options=_STREAM_OPTIONS,
    tools=Kind("[]api.Tool", ("array",)),
)
OPENAI_COMPLETION = _openai(
    "CompletionRequest", **_SAMPLING, prompt=STRING, suffix=STRING, stream_options=_STREAM_OPTIONS
)
OPENAI_EMBED = _openai("EmbedRequest", input=ANY, dimensions=INT)
RESPONSES = _openai(
    "ResponsesRequest",
    input=ANY,
    **dict.fromkeys(("instructions", "truncation"), STRING),
    **dict.fromkeys(("temperature", "top_p"), FLOAT),
    **dict.fromkeys(("stream", "background"), BOOL),
    max_output_tokens=INT,
    tools=Kind("[]openai.ResponsesTool", ("array",)),
)
MESSAGES = Shape(
    "anthropic",
    "MessagesRequest",
    {"model": STRING, **_SAMPLING, "messages": Kind("[]anthropic.MessageParam", ("array",)), "system": ANY},
    empty="EOF",
)
_PICTURE: Mapping[str, Kind] = {"prompt": STRING, "size": STRING, "n": INT, "seed": INT, "response_format": STRING}
PICTURE = _openai("ImageGenerationRequest", **_PICTURE)
PICTURE_EDIT = _openai("ImageEditRequest", **_PICTURE, image=STRING)
